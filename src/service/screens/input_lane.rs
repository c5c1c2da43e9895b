//! The lanes of input: the calls that send input to one machine take turns, in the order of their
//! arrival, and keep the pace of its keys also between two calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::MachineId;
use crate::domain::input::INTERVALS;
use crate::domain::machine::Machine;

/// The most calls that wait for their turn on one machine.
const MAX_WAITING: usize = 8;

/// The lanes of all machines that got input lately.
#[derive(Default)]
pub struct InputLanes(Mutex<HashMap<MachineId, Arc<Lane>>>);

/// The lane of one machine.
struct Lane {
    /// The place in the lane of each call that runs or waits.
    places: Arc<Semaphore>,
    /// The turn of the call that runs. It serves waiting calls in the order of their arrival.
    turn: Arc<Semaphore>,
    /// When the last stroke was sent, by the monotonic clock.
    last_stroke: Mutex<Option<Duration>>,
}

/// The place of a call in a lane. Dropping it gives the place back.
pub struct LanePlace {
    lane: Arc<Lane>,
    place: OwnedSemaphorePermit,
}

/// The turn of a call. Dropping it begins the turn of the next call.
pub struct Turn {
    lane: Arc<Lane>,
    _place: OwnedSemaphorePermit,
    /// `None` never occurs, because the semaphore of a lane is never closed.
    _permit: Option<OwnedSemaphorePermit>,
}

impl InputLanes {
    /// Takes a place in the lane of a machine.
    ///
    /// # Parameters
    /// - `now`: the monotonic clock.
    ///
    /// # Errors
    /// `queue-full` if eight calls wait already.
    pub fn enter(&self, machine: &Machine, now: Duration) -> Result<LanePlace, Failure> {
        let lane = self.lane(&machine.id, now);
        let Ok(place) = Arc::clone(&lane.places).try_acquire_owned() else {
            let detail = format!(
                "{MAX_WAITING} calls wait already to send input to {}; try again in a moment.",
                machine.name
            );
            return Err(Failure::new(FailureKind::QueueFull, detail)
                .with_machine(&machine.id, &machine.name));
        };
        Ok(LanePlace { lane, place })
    }

    fn lane(&self, machine: &MachineId, now: Duration) -> Arc<Lane> {
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get(machine) {
            return Arc::clone(lane);
        }
        lanes.retain(|_, lane| lane.is_needed(now));
        let lane = Arc::new(Lane::default());
        lanes.insert(machine.clone(), Arc::clone(&lane));
        lane
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MachineId, Arc<Lane>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(1 + MAX_WAITING)),
            turn: Arc::new(Semaphore::new(1)),
            last_stroke: Mutex::new(None),
        }
    }
}

impl Lane {
    /// Whether a call is in the lane, or the last stroke sets the time of the next one.
    fn is_needed(self: &Arc<Self>, now: Duration) -> bool {
        // The map has one reference.
        Arc::strong_count(self) > 1
            || self.last_stroke().is_some_and(|last| now < last + *INTERVALS.end())
    }

    fn last_stroke(&self) -> MutexGuard<'_, Option<Duration>> {
        self.last_stroke.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LanePlace {
    /// Waits for the turn of the call.
    pub async fn turn(self) -> Turn {
        let Self { lane, place } = self;
        let turn = Arc::clone(&lane.turn).acquire_owned().await.ok();
        Turn { lane, _place: place, _permit: turn }
    }
}

impl Turn {
    /// The time until the next stroke may be sent.
    ///
    /// # Parameters
    /// - `interval`: the time between two strokes.
    /// - `now`: the monotonic clock.
    #[must_use]
    pub fn time_to_next(&self, interval: Duration, now: Duration) -> Duration {
        let last = *self.lane.last_stroke();
        last.map_or(Duration::ZERO, |last| (last + interval).saturating_sub(now))
    }

    /// Records that a stroke was sent now.
    pub fn stroke_sent(&self, now: Duration) {
        *self.lane.last_stroke() = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn calls_take_turns_in_order_and_the_ninth_that_waits_is_refused() {
        let (lanes, now) = (InputLanes::default(), Duration::ZERO);
        let (machine, other) = (machine("1"), machine("2"));
        let first = lanes.enter(&machine, now).unwrap().turn().await;
        let mut waiting: Vec<_> = (0..MAX_WAITING)
            .map(|_| Box::pin(lanes.enter(&machine, now).unwrap().turn()))
            .collect();
        for turn in &mut waiting {
            assert!(turn.as_mut().now_or_never().is_none());
        }
        let refused = lanes.enter(&machine, now).err().unwrap();
        assert_eq!(refused.kind, FailureKind::QueueFull);
        assert!(lanes.enter(&other, now).is_ok(), "another machine has its own");
        // A call that hangs up leaves the lane.
        drop(waiting.remove(3));
        drop(first);
        for mut turn in waiting {
            let turn = turn.as_mut().now_or_never().expect("the turn of the next call");
            drop(turn);
        }
        let mut again = pin!(lanes.enter(&machine, now).unwrap().turn());
        assert!(again.as_mut().now_or_never().is_some());
    }

    fn machine(id: &str) -> Machine {
        Machine::new(MachineId::from_backend(id))
    }

    #[tokio::test]
    async fn the_pace_also_holds_between_two_calls() {
        let (lanes, ms) = (InputLanes::default(), Duration::from_millis);
        let (machine, other) = (machine("1"), machine("2"));
        let first = lanes.enter(&machine, ms(0)).unwrap().turn().await;
        assert_eq!(first.time_to_next(ms(40), ms(0)), ms(0), "the first key waits for nothing");
        first.stroke_sent(ms(1_000));
        assert_eq!(first.time_to_next(ms(40), ms(1_010)), ms(30));
        drop(first);
        // The lane of another machine does not remove this one, which is still young.
        drop(lanes.enter(&other, ms(1_015)).unwrap());
        let second = lanes.enter(&machine, ms(1_020)).unwrap().turn().await;
        assert_eq!(second.time_to_next(ms(100), ms(1_020)), ms(80));
    }

    #[test]
    fn lanes_without_calls_are_removed() {
        let (lanes, now) = (InputLanes::default(), Duration::from_secs(9));
        for id in 0..100 {
            drop(lanes.enter(&machine(&id.to_string()), now).unwrap());
        }
        assert_eq!(lanes.lock().len(), 1);
    }
}
