//! How fast the tasks and guests of the simulated host advance: by the clock, or only when a test
//! steps them.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Shared;

/// What advances the tasks and guests of the simulated host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// The clock advances the tasks and guests. A task takes its
    /// [`Operation::duration`](super::world::Operation::duration) times `scale`; with a scale of
    /// 0.0 every event happens at once.
    Auto { scale: f64 },
    /// A test advances the tasks and guests, with
    /// [`Control::step_tasks`](super::Control::step_tasks) and similar functions of `Control`.
    Stepped,
}

/// Runs each scheduled event of the world when the event is due, until `stop` is cancelled.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;
    use crate::simulator::Scenario;
    use crate::simulator::world::{self, Moment, World};

    #[test]
    fn tasks_and_guests_go_on_by_the_clock() {
        use world::PowerState::{Off, On};
        let start = Timestamp::constant(1_780_000_000, 0);
        let moment = |milliseconds: u64| {
            let elapsed = Duration::from_millis(milliseconds);
            Moment { wall: start + elapsed, elapsed }
        };
        let mut world = Scenario::lab().unwrap().build(Pace::Auto { scale: 1.0 }, moment(0));
        let task = world.start_task("32", world::Operation::PowerOn, "root").unwrap();
        let progress_at = |world: &mut World, milliseconds| {
            world.advance(moment(milliseconds));
            let task_now = world.task(&task.id).unwrap();
            (task_now.state.as_str(), task_now.progress, world.machine("32").unwrap().power.clone())
        };
        assert_eq!(progress_at(&mut world, 0), ("running", None, Off));
        assert_eq!(progress_at(&mut world, 700), ("running", Some(50), Off));
        assert_eq!(progress_at(&mut world, 1_200), ("success", Some(100), On));
        let address = |world: &World| world.machine("32").unwrap().guest.reported_address.clone();
        world.advance(moment(4_100));
        assert_eq!(address(&world).as_deref(), Some("169.254.7.9"));
        world.advance(moment(4_300));
        assert_eq!(address(&world).as_deref(), Some("10.0.0.32"));
        world.advance(moment(1_200 + 600_000));
        assert!(world.task(&task.id).is_none());
    }
}
