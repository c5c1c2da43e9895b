//! How fast the host is: by itself, like a real one scaled down, or only when told.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::world::Operation;

/// How time goes for tasks and guests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// By the clock. 1.0 is the pace of [`duration_of`]; 0.0 is at once.
    Auto { scale: f64 },
    /// Only by [`Control::step_tasks`](super::Control::step_tasks) and its kin.
    Stepped,
}

/// How long an operation takes at scale 1.0: a tenth of what real hosts take, more or less.
#[must_use]
pub const fn duration_of(operation: &Operation) -> Duration {
    Duration::from_millis(match operation {
        Operation::PowerOn => 1_200,
        Operation::PowerOff => 400,
        Operation::Reset => 600,
        Operation::CreateSnapshot { .. } => 1_000,
        Operation::Suspend
        | Operation::RemoveSnapshot { .. }
        | Operation::RevertToSnapshot { .. }
        | Operation::RevertToCurrentSnapshot { .. } => 1_500,
        Operation::RemoveAllSnapshots => 2_000,
    })
}

/// Lets the world do what is due, until told to stop.
pub async fn drive(shared: Arc<Shared>, stop: CancellationToken) {
    let mut changed = shared.changes();
    loop {
        changed.borrow_and_update();
        let due = shared.advance();
        let sleep = async {
            match due {
                Some(due) => shared.clock.sleep(due.saturating_sub(shared.clock.elapsed())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep => {}
            moved = changed.changed() => if moved.is_err() { return },
        }
    }
}
