//! The driver of each machine: the one viewer whose keys and pointer reach the machine.
//!
//! ```text
//! free ──take──► driven ──take with force──► driven by another
//!  ▲               │ leaves                     ▲
//!  │ released      ▼                            │
//!  └───────────── left ───────take──────────────┘
//! ```
//! A driver sends nothing before the keys and buttons of the earlier one are released.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::screen_user::ScreenUser;
use super::shared_screen::InputLost;
use super::state::DriverInfo;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{MachineId, ViewerId};
use crate::domain::input::{Point, ScreenInput};
use crate::domain::keyboard::Keysym;
use crate::domain::machine::Machine;
use crate::service::seats::{Seat, Seats};
use crate::supervisor::Supervisor;

/// The most keys that a driver can hold at the same time. Further ones are ignored: no keyboard has
/// so many fingers on it.
const MAX_HELD: usize = 32;

/// The drivers of all machines.
#[derive(Default)]
pub struct Drivers(Arc<Seats<MachineId, DriverInfo>>);

/// The right of one viewer to send input, until this value is dropped or another viewer takes over.
pub type DriverSeat = Seat<MachineId, DriverInfo>;

impl Drivers {
    /// The driver of a machine.
    #[must_use]
    pub fn of(&self, machine: &MachineId) -> Option<DriverInfo> {
        self.0.of(machine)
    }

    /// Checks that a viewer could drive now.
    ///
    /// # Errors
    /// `console-busy` if another viewer drives and `force` is not set.
    pub fn check(&self, machine: &Machine, force: bool) -> Result<(), Failure> {
        match self.0.of(&machine.id) {
            Some(driver) if !force => Err(busy(machine, &driver)),
            _ => Ok(()),
        }
    }

    /// Makes a viewer the driver of a machine.
    ///
    /// # Parameters
    /// - `force`: whether it takes over from another driver, whose seat then ends.
    ///
    /// # Errors
    /// `console-busy` if another viewer drives and `force` is not set.
    pub fn take(
        &self,
        machine: &Machine,
        viewer: ViewerId,
        info: DriverInfo,
        force: bool,
    ) -> Result<DriverSeat, Failure> {
        let taken = self.0.take(&machine.id, viewer, info, force);
        taken.map_err(|driver| busy(machine, &driver))
    }
}

fn busy(machine: &Machine, driver: &DriverInfo) -> Failure {
    let detail = format!(
        "{} drives {} since {:.0}. Look without driving (mode=view), or take over with force=true.",
        driver.caller, machine.name, driver.since
    );
    Failure::new(FailureKind::ConsoleBusy, detail).with_machine(&machine.id, &machine.name)
}

/// The keys and buttons that a driver holds down.
#[derive(Debug, Default)]
pub struct HeldInput {
    /// In the order in which they were pressed.
    keys: Vec<Keysym>,
    buttons: u8,
    at: Point,
}

impl HeldInput {
    /// Notes input that is about to be sent. Returns whether to send it: not if too many keys are
    /// held already.
    pub fn note(&mut self, input: ScreenInput) -> bool {
        match input {
            ScreenInput::Key { keysym, down: true } => {
                if self.keys.contains(&keysym) {
                    return true;
                }
                let fits = self.keys.len() < MAX_HELD;
                if fits {
                    self.keys.push(keysym);
                }
                fits
            }
            ScreenInput::Key { keysym, down: false } => {
                self.keys.retain(|held| *held != keysym);
                true
            }
            ScreenInput::Pointer { buttons, at } => {
                (self.buttons, self.at) = (buttons, at);
                true
            }
        }
    }

    /// The input that releases everything that is held, the last key first. Nothing is held after
    /// it.
    pub fn release(&mut self) -> Vec<ScreenInput> {
        let keys = self.keys.drain(..).rev();
        let mut releases: Vec<ScreenInput> =
            keys.map(|keysym| ScreenInput::Key { keysym, down: false }).collect();
        if std::mem::take(&mut self.buttons) != 0 {
            releases.push(ScreenInput::Pointer { buttons: 0, at: self.at });
        }
        releases
    }
}

/// The number of messages that a driver sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputCounts {
    pub keys: u64,
    pub pointer_events: u64,
    /// Messages that did not reach the host for certain.
    pub lost: u64,
}

/// Sends the input of the driver of a machine. When it is dropped, whatever the reason, another
/// viewer can take the seat, and the keys and buttons that are held are released.
pub struct DriverInput {
    /// `None` only while it is dropped.
    parts: Option<(DriverSeat, ScreenUser)>,
    held: HeldInput,
    counts: InputCounts,
    supervisor: Supervisor,
}

impl DriverInput {
    /// # Parameters
    /// - `user`: a use of the screen for input alone.
    /// - `supervisor`: runs the task that releases the keys.
    #[must_use]
    pub fn new(seat: DriverSeat, user: ScreenUser, supervisor: Supervisor) -> Self {
        Self {
            parts: Some((seat, user)),
            held: HeldInput::default(),
            counts: InputCounts::default(),
            supervisor,
        }
    }

    /// Sends input in one message. Input that is lost with the connection to the host is dropped:
    /// it would reach a screen that its sender has not seen.
    pub async fn send(&mut self, mut input: Vec<ScreenInput>) {
        let Some((seat, user)) = &mut self.parts else { return };
        seat.ready().await;
        // Noted before it is sent: a key that may be down has to be released.
        input.retain(|one| self.held.note(*one));
        if input.is_empty() {
            return;
        }
        let keys = input.iter().filter(|one| matches!(one, ScreenInput::Key { .. })).count();
        let (keys, all) = (number(keys), number(input.len()));
        self.counts.keys += keys;
        self.counts.pointer_events += all - keys;
        if let Err(InputLost { maybe_sent }) = user.send(&input).await {
            self.counts.lost += all;
            if maybe_sent {
                // Perhaps only a part arrived, without what releases its keys.
                for pressed in input.into_iter().filter(|one| one.presses()) {
                    self.held.note(pressed);
                }
            }
        }
    }

    /// Ends when another viewer takes over.
    #[must_use]
    pub fn taken_over(&self) -> CancellationToken {
        self.parts.as_ref().map_or_else(CancellationToken::new, |(seat, _)| seat.taken_over())
    }

    /// What was sent until now.
    #[must_use]
    pub const fn counts(&self) -> InputCounts {
        self.counts
    }
}

impl Drop for DriverInput {
    fn drop(&mut self) {
        let Some((mut seat, user)) = self.parts.take() else { return };
        let releases = self.held.release();
        if releases.is_empty() && seat.is_ready() {
            return;
        }
        seat.leave();
        let sending = async move {
            // The next driver waits for this one alone, so this one waits for the one before.
            seat.ready().await;
            if !releases.is_empty() && !user.release(&releases).await {
                tracing::debug!("the keys of a driver were not released");
            }
            drop(seat);
        };
        drop(self.supervisor.spawn_isolated("release of keys", sending));
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn info(caller: &str) -> DriverInfo {
        DriverInfo { caller: caller.to_owned(), lease: None, since: Timestamp::UNIX_EPOCH }
    }

    fn id(number: u128) -> ViewerId {
        ViewerId::new(Uuid::from_u128(number))
    }

    fn machine(id: &str) -> Machine {
        Machine::new(MachineId::from_backend(id))
    }

    #[tokio::test]
    async fn a_second_driver_is_refused_or_takes_over() {
        let (drivers, qubes) = (Arc::new(Drivers::default()), machine("16"));
        let mut first = drivers.take(&qubes, id(1), info("ci"), false).unwrap();
        first.ready().await;
        let refused = drivers.take(&qubes, id(2), info("ann"), false).err().unwrap();
        assert_eq!(refused.kind, FailureKind::ConsoleBusy);
        assert!(refused.detail.starts_with("ci drives 16 since 1970-01-01"), "{refused}");
        assert!(drivers.check(&qubes, false).is_err() && drivers.check(&qubes, true).is_ok());
        drivers.take(&machine("17"), id(3), info("ann"), false).unwrap();
        let mut second = drivers.take(&qubes, id(2), info("ann"), true).unwrap();
        assert!(first.taken_over().is_cancelled() && !second.taken_over().is_cancelled());
        assert_eq!(drivers.of(&qubes.id).unwrap().caller, "ann");
        tokio::select! {
            biased;
            () = second.ready() => panic!("the first driver may still hold keys"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        second.ready().await;
        assert_eq!(drivers.of(&qubes.id).unwrap().caller, "ann", "the first had lost the seat");
        drop(second);
        assert!(drivers.of(&qubes.id).is_none() && drivers.check(&qubes, false).is_ok());
    }

    #[tokio::test]
    async fn a_driver_that_has_left_is_followed_without_force() {
        let (drivers, qubes) = (Arc::new(Drivers::default()), machine("16"));
        let first = drivers.take(&qubes, id(1), info("ci"), false).unwrap();
        first.leave();
        assert!(drivers.of(&qubes.id).is_none() && drivers.check(&qubes, false).is_ok());
        let mut second = drivers.take(&qubes, id(2), info("ann"), false).unwrap();
        assert!(!second.is_ready(), "the first driver may still hold keys");
        // The first driver has lost the seat, so its end changes nothing for the second.
        first.leave();
        assert!(drivers.check(&qubes, false).is_err());
        drop(first);
        second.ready().await;
        assert_eq!(drivers.of(&qubes.id).unwrap().caller, "ann");
    }

    #[test]
    fn what_is_held_is_released_once_in_reverse_order() {
        let key = |keysym, down| ScreenInput::Key { keysym: Keysym(keysym), down };
        let mut held = HeldInput::default();
        assert!(held.note(key(0xffe3, true)) && held.note(key(0xffe9, true)));
        assert!(
            held.note(key(0x61, true)) && held.note(key(0x61, true)) && held.note(key(0x61, false))
        );
        let at = Point { x: 7, y: 9 };
        assert!(held.note(ScreenInput::Pointer { buttons: 1, at }));
        let released =
            [key(0xffe9, false), key(0xffe3, false), ScreenInput::Pointer { buttons: 0, at }];
        assert_eq!(held.release(), released);
        assert_eq!(held.release(), []);
        held.note(ScreenInput::Pointer { buttons: 0, at: Point { x: 1, y: 1 } });
        assert_eq!(held.release(), []);
    }

    #[test]
    fn a_driver_cannot_hold_more_keys_than_a_person() {
        let mut held = HeldInput::default();
        let down = |keysym| ScreenInput::Key { keysym: Keysym(keysym), down: true };
        let sent = (0..1_000).filter(|keysym| held.note(down(*keysym))).count();
        assert_eq!((sent, held.release().len()), (MAX_HELD, MAX_HELD));
    }
}
