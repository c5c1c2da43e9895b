//! The callers of the barriers of `Hypervisor`. Waits for updates are numbered in the order in
//! which they are sent. A wait returns every change that the host made before it received the wait,
//! so a caller passes with the result of the first wait that was sent after what it asks for.

use tokio::sync::oneshot;

use crate::hypervisor::{HostError, HostErrorKind};

/// Notifies one caller of a barrier.
pub type Waiter = oneshot::Sender<Result<(), HostError>>;

/// The changes that the observer must have received before a caller passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Every change before the call of `Hypervisor::barrier`.
    Everything,
    /// Every change before the ends of the tasks that the followers have received.
    EndedTasks,
}

/// The callers, each with the number of the first wait whose result lets it pass.
#[derive(Debug, Default)]
pub struct Barriers {
    waiters: Vec<(u64, Waiter)>,
    /// The number of the last wait that was sent.
    sent: u64,
    /// The number of the last wait whose whole result the observer has received.
    completed: u64,
    /// The number of the last wait that was sent before the followers received the end of a task.
    at_last_end: Option<u64>,
}

impl Barriers {
    /// Adds a caller, or lets it pass at once.
    pub fn join(&mut self, waiter: Waiter, covered: Covered) {
        let sufficient = match (covered, self.at_last_end) {
            (Covered::EndedTasks, Some(at_last_end)) => at_last_end + 1,
            _ => self.sent + 1,
        };
        if sufficient <= self.completed {
            // `send` fails if the caller no longer waits.
            let _ = waiter.send(Ok(()));
        } else {
            self.waiters.retain(|(_, waiter)| !waiter.is_closed());
            self.waiters.push((sufficient, waiter));
        }
    }

    /// Records that the followers of a task received its end. The next wait is then a barrier.
    pub const fn task_ended(&mut self) {
        self.at_last_end = Some(self.sent);
    }

    /// Whether the next wait must be answered at once: a caller waits for it, or the followers of a
    /// task that ended will soon wait for it.
    #[must_use]
    pub fn need_round(&self) -> bool {
        !self.waiters.is_empty()
            || self.at_last_end.is_some_and(|at_last_end| self.completed <= at_last_end)
    }

    /// Whether the result of the pending wait is too early for a caller.
    #[must_use]
    pub fn outlast_pending_wait(&self) -> bool {
        self.waiters.iter().any(|(sufficient, _)| *sufficient > self.sent)
    }

    /// Records that a wait is about to be sent. The parts of a truncated set count as one wait.
    pub const fn wait_sent(&mut self) {
        self.sent += 1;
    }

    /// Lets callers pass after the observer has received the whole result of the last wait.
    pub fn wait_completed(&mut self) {
        self.completed = self.sent;
        for (_, waiter) in self.waiters.extract_if(.., |(sufficient, _)| *sufficient <= self.sent) {
            let _ = waiter.send(Ok(()));
        }
    }

    /// Fails all callers as `Unreachable`, because there is no session.
    pub fn fail_all(&mut self, reason: &str) {
        for (_, waiter) in self.waiters.drain(..) {
            let _ = waiter.send(Err(HostError::new(HostErrorKind::Unreachable, reason)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(barriers: &mut Barriers, covered: Covered) -> oneshot::Receiver<Result<(), HostError>> {
        let (waiter, passed) = oneshot::channel();
        barriers.join(waiter, covered);
        passed
    }

    #[test]
    fn a_caller_passes_with_the_first_wait_that_was_sent_after_it() {
        let mut barriers = Barriers::default();
        barriers.wait_sent();
        let mut during_first = join(&mut barriers, Covered::Everything);
        assert!(barriers.outlast_pending_wait());
        barriers.wait_completed();
        assert!(during_first.try_recv().is_err() && barriers.need_round());
        barriers.wait_sent();
        assert!(!barriers.outlast_pending_wait());
        let mut during_second = join(&mut barriers, Covered::Everything);
        // A wait that failed is followed by another wait, which lets both callers pass.
        barriers.wait_sent();
        barriers.wait_completed();
        assert!(matches!(during_first.try_recv(), Ok(Ok(()))));
        assert!(matches!(during_second.try_recv(), Ok(Ok(()))));
        assert!(!barriers.need_round());
    }

    #[test]
    fn the_end_of_a_task_makes_the_next_wait_a_barrier_for_its_followers() {
        let mut barriers = Barriers::default();
        barriers.wait_sent();
        barriers.task_ended();
        barriers.wait_completed();
        assert!(barriers.need_round(), "the followers are about to ask");
        barriers.wait_sent();
        let mut early = join(&mut barriers, Covered::EndedTasks);
        assert!(early.try_recv().is_err() && !barriers.outlast_pending_wait());
        barriers.wait_completed();
        assert!(matches!(early.try_recv(), Ok(Ok(()))));
        assert!(!barriers.need_round());
        let mut late = join(&mut barriers, Covered::EndedTasks);
        assert!(matches!(late.try_recv(), Ok(Ok(()))), "no further wait is needed");
        let mut everything = join(&mut barriers, Covered::Everything);
        assert!(everything.try_recv().is_err());
        barriers.fail_all("away");
        assert!(matches!(everything.try_recv(), Ok(Err(_))));
    }

    #[test]
    fn a_caller_of_ended_tasks_waits_for_everything_if_no_task_ended() {
        let mut barriers = Barriers::default();
        barriers.wait_sent();
        barriers.wait_completed();
        assert!(join(&mut barriers, Covered::EndedTasks).try_recv().is_err());
    }
}
