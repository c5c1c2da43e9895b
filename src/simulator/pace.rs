//! How fast the host is: by itself, like a real one scaled down, or only when told.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Shared;

/// How time goes for tasks and guests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// By the clock. 1.0 is the pace of [`Operation::duration`](super::world::Operation::duration);
    /// 0.0 is at once.
    Auto { scale: f64 },
    /// Only by [`Control::step_tasks`](super::Control::step_tasks) and its kin.
    Stepped,
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
