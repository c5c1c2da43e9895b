//! The callers that wait for a barrier (`Hypervisor::barrier`). The collector numbers its waits for
//! updates (`WaitForUpdatesEx`) in the order in which it sends them. The answer to a wait contains
//! every change that the host made before the wait reached it. A caller may therefore continue when
//! the first wait that was sent after the call is answered.

use tokio::sync::oneshot;

use crate::hypervisor::{HostError, HostErrorKind};

/// The channel that tells one caller of a barrier that the barrier is reached.
pub type Waiter = oneshot::Sender<Result<(), HostError>>;

/// Which changes the observer must have received before a caller of a barrier may continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Every change that the host made before the call of `Hypervisor::barrier`.
    Everything,
    /// Every change that the host made before the ends of those tasks whose ends the followers have
    /// received.
    EndedTasks,
}

/// The waiting callers, each with the number of the first wait for updates whose answer lets the
/// caller continue.
#[derive(Debug, Default)]
pub struct Barriers {
    waiters: Vec<(u64, Waiter)>,
    /// The number of the last wait for updates that was sent.
    sent: u64,
    /// The number of the last wait for updates whose complete answer the observer has received.
    completed: u64,
    /// The number of the wait for updates that was sent last before the followers received the end
    /// of a task. `None` if no task has ended.
    at_last_end: Option<u64>,
}

impl Barriers {
    /// Adds a caller, or lets the caller continue at once if the observer already has the changes.
    pub fn join(&mut self, waiter: Waiter, covered: Covered) {
        let sufficient = match (covered, self.at_last_end) {
            (Covered::EndedTasks, Some(at_last_end)) => at_last_end + 1,
            _ => self.sent + 1,
        };
        if sufficient <= self.completed {
            // `send` fails if the caller has stopped waiting, which is no error.
            let _ = waiter.send(Ok(()));
        } else {
            self.waiters.retain(|(_, waiter)| !waiter.is_closed());
            self.waiters.push((sufficient, waiter));
        }
    }

    /// Records that the followers of a task received the end of the task. From now on, the next
    /// wait for updates acts as a barrier.
    pub const fn task_ended(&mut self) {
        self.at_last_end = Some(self.sent);
    }

    /// Whether the host must answer the next wait for updates at once. This is so if a caller waits
    /// for a barrier, or if a task has just ended, because its followers will soon call the
    /// barrier.
    #[must_use]
    pub fn need_round(&self) -> bool {
        !self.waiters.is_empty()
            || self.at_last_end.is_some_and(|at_last_end| self.completed <= at_last_end)
    }

    /// Whether a caller needs a later wait for updates than the one that is pending now.
    #[must_use]
    pub fn outlast_pending_wait(&self) -> bool {
        self.waiters.iter().any(|(sufficient, _)| *sufficient > self.sent)
    }

    /// Records that the collector is about to send a wait for updates. All waits for the parts of
    /// one truncated update set count as one wait.
    pub const fn wait_sent(&mut self) {
        self.sent += 1;
    }

    /// Records that the observer has received the complete answer to the last wait, and lets the
    /// callers of this wait continue.
    pub fn wait_completed(&mut self) {
        self.completed = self.sent;
        for (_, waiter) in self.waiters.extract_if(.., |(sufficient, _)| *sufficient <= self.sent) {
            let _ = waiter.send(Ok(()));
        }
    }

    /// Fails all callers with `Unreachable`, because there is no session with the host.
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
        // The wait that the second caller needs fails. The collector sends another wait, whose
        // answer lets both callers continue.
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
