//! Pauses of recordings: while a secret is typed into a machine, and for a moment after it, nothing
//! of the machine is recorded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::Clock;
use crate::domain::ids::MachineId;

/// How long a pause lasts after the last event of the secret, so that a screen that shows the
/// characters late is not recorded.
pub const AFTER_SECRET: Duration = Duration::from_secs(2);

/// The pauses of all machines. Clones share them.
#[derive(Clone, Debug)]
pub struct RecordingPauses(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    machines: Mutex<HashMap<MachineId, Pause>>,
    /// Notifies of each begin and of each end of a secret.
    changed: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pause {
    /// The number of secrets that are being typed.
    secrets: usize,
    /// The end of the pause after the last secret.
    until: Duration,
}

/// How long a pause still lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PauseLeft {
    /// A secret is being typed.
    Typing,
    Time(Duration),
}

/// A secret that is being typed. While this value exists, and for a moment after it, recordings of
/// the machine pause.
#[must_use]
#[derive(Debug)]
pub struct SecretInput {
    pauses: RecordingPauses,
    machine: MachineId,
}

impl RecordingPauses {
    /// Nothing pauses.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner { clock, machines: Mutex::default(), changed: Notify::new() }))
    }

    /// Pauses the recordings of a machine. Call it before the first event of a secret.
    pub fn begin(&self, machine: &MachineId) -> SecretInput {
        self.machines().entry(machine.clone()).or_default().secrets += 1;
        self.0.changed.notify_waiters();
        SecretInput { pauses: self.clone(), machine: machine.clone() }
    }

    /// Whether the recordings of a machine pause.
    #[must_use]
    pub fn is_paused(&self, machine: &MachineId) -> bool {
        self.left(machine).is_some()
    }

    /// Waits until the recordings of a machine pause, or until they no longer do.
    ///
    /// # Parameters
    /// - `paused`: what to wait for.
    pub async fn wait(&self, machine: &MachineId, paused: bool) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let left = self.left(machine);
            if left.is_some() == paused {
                return;
            }
            match left {
                // The pause ends by itself.
                Some(PauseLeft::Time(left)) => tokio::select! {
                    () = changed => {}
                    () = self.0.clock.sleep(left) => {}
                },
                Some(PauseLeft::Typing) | None => changed.await,
            }
        }
    }

    /// How long the pause of a machine still lasts. `None` if there is no pause.
    fn left(&self, machine: &MachineId) -> Option<PauseLeft> {
        let mut machines = self.machines();
        let pause = *machines.get(machine)?;
        if pause.secrets > 0 {
            return Some(PauseLeft::Typing);
        }
        let left = pause.until.saturating_sub(self.0.clock.elapsed());
        if left.is_zero() {
            machines.remove(machine);
            return None;
        }
        Some(PauseLeft::Time(left))
    }

    fn machines(&self) -> MutexGuard<'_, HashMap<MachineId, Pause>> {
        self.0.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SecretInput {
    fn drop(&mut self) {
        let until = self.pauses.0.clock.elapsed() + AFTER_SECRET;
        if let Some(pause) = self.pauses.machines().get_mut(&self.machine) {
            *pause = Pause { secrets: pause.secrets.saturating_sub(1), until };
        }
        self.pauses.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_pause_lasts_until_two_seconds_after_the_last_secret() {
        let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
        let pauses = RecordingPauses::new(clock.clone());
        let [machine, other] = ["16", "17"].map(MachineId::from_backend);
        let mut begins = Box::pin(pauses.wait(&machine, true));
        assert!(begins.as_mut().now_or_never().is_none());
        let first = pauses.begin(&machine);
        assert!(begins.now_or_never().is_some());
        let second = pauses.begin(&machine);
        assert!(pauses.is_paused(&machine) && !pauses.is_paused(&other));
        drop(first);
        clock.advance(AFTER_SECRET * 2);
        assert!(pauses.is_paused(&machine), "the second secret is not typed yet");
        drop(second);
        let mut ends = Box::pin(pauses.wait(&machine, false));
        clock.advance(AFTER_SECRET.saturating_sub(Duration::from_millis(1)));
        assert!(pauses.is_paused(&machine) && ends.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_millis(1));
        assert!(ends.now_or_never().is_some() && !pauses.is_paused(&machine));
        assert!(pauses.machines().is_empty());
    }
}
