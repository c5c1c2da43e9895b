//! Tests of the storage in memory: a crash and a full disk at each moment of a commit.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use otter::clock::Clock;
use otter::domain::ids::JobId;
use otter::domain::job::JobState;
use otter::storage::{Storage, StorageError};

use super::in_memory::{Disk, InMemory, Moment};
use super::samples::{ended, queued, start};

const COMMIT: Duration = Duration::from_millis(5);
const ANSWER: Duration = Duration::from_millis(2);

/// A disk whose commits take time, and a storage that uses it.
struct Lab {
    clock: Clock,
    disk: Disk,
    storage: InMemory,
    stop: CancellationToken,
    writer: JoinHandle<()>,
}

impl Lab {
    fn new() -> Self {
        let disk = Disk::new(|moment| match moment {
            Moment::Read => Duration::ZERO,
            Moment::Commit => COMMIT,
            Moment::Answer => ANSWER,
        });
        Self::over(disk, Clock::stepped(start()))
    }

    fn over(disk: Disk, clock: Clock) -> Self {
        let (storage, stop) = (disk.open(clock.clone()), CancellationToken::new());
        let (running, stopped) = (storage.clone(), stop.clone());
        let writer = tokio::spawn(async move { running.run(stopped).await });
        Self { clock, disk, storage, stop, writer }
    }

    /// Starts a write of the n-th job.
    async fn insert(&self, n: u32) -> JoinHandle<Result<(), StorageError>> {
        let storage = self.storage.clone();
        let write = async move { storage.insert_job(&queued(n), None, None).await.map(drop) };
        let write = tokio::spawn(write);
        settle().await;
        write
    }

    async fn pass(&self, duration: Duration) {
        self.clock.advance(duration);
        settle().await;
    }

    /// Crashes the daemon after `survivors` of its waiting writes are committed, and starts another
    /// one.
    async fn crash(self, survivors: usize) -> Self {
        self.disk.crash(survivors);
        settle().await;
        Self::over(self.disk, self.clock)
    }

    async fn jobs(&self) -> Vec<JobId> {
        self.storage.unfinished_jobs().await.unwrap().into_iter().map(|job| job.id).collect()
    }
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn ids(numbers: impl IntoIterator<Item = u32>) -> Vec<JobId> {
    numbers.into_iter().map(|n| queued(n).id).collect()
}

fn answered<T>(write: JoinHandle<T>) -> Option<T> {
    write.now_or_never().map(Result::unwrap)
}

fn is_closed(write: JoinHandle<Result<(), StorageError>>) -> bool {
    matches!(answered(write), Some(Err(StorageError::Closed)))
}

#[tokio::test]
async fn a_committed_write_is_visible_before_its_caller_returns() {
    let lab = Lab::new();
    let write = lab.insert(1).await;
    assert_eq!((lab.jobs().await, lab.disk.waiting()), (vec![], 1));
    lab.pass(COMMIT).await;
    assert_eq!((lab.jobs().await, lab.disk.waiting()), (ids([1]), 0));
    assert!(!write.is_finished());
    lab.pass(ANSWER).await;
    assert!(matches!(answered(write), Some(Ok(()))));
}

#[tokio::test]
async fn waiting_writes_are_committed_together_in_order() {
    let lab = Lab::new();
    let first = lab.insert(3).await;
    let later = [lab.insert(1).await, lab.insert(2).await];
    lab.pass(COMMIT).await;
    assert_eq!(lab.jobs().await, ids([3]), "writes during a commit wait for the next commit");
    lab.pass(ANSWER).await;
    assert!(first.is_finished());
    lab.pass(COMMIT).await;
    assert_eq!(lab.jobs().await, ids([3, 1, 2]));
    lab.pass(ANSWER).await;
    assert!(later.iter().all(JoinHandle::is_finished));
}

#[tokio::test]
async fn a_write_is_committed_although_its_caller_is_dropped() {
    let lab = Lab::new();
    lab.insert(1).await.abort();
    lab.pass(COMMIT).await;
    assert_eq!(lab.jobs().await, ids([1]));
}

#[tokio::test]
async fn a_full_disk_refuses_commits_until_there_is_room() {
    let lab = Lab::new();
    let before = lab.insert(1).await;
    lab.pass(COMMIT + ANSWER).await;
    lab.pass(ANSWER).await;
    assert!(matches!(answered(before), Some(Ok(()))));
    lab.disk.set_full(true);
    let refused = lab.insert(2).await;
    lab.pass(COMMIT).await;
    lab.pass(ANSWER).await;
    let error = answered(refused).unwrap().unwrap_err();
    assert_eq!(error.refusal(), Some("database or disk is full"));
    assert_eq!(lab.storage.refusal().as_deref(), Some("database or disk is full"));
    assert_eq!(lab.jobs().await, ids([1]), "committed jobs can be read");
    lab.disk.set_full(false);
    let again = lab.insert(2).await;
    lab.pass(COMMIT).await;
    lab.pass(ANSWER).await;
    assert!(matches!(answered(again), Some(Ok(()))));
    assert_eq!((lab.storage.refusal(), lab.jobs().await), (None, ids([1, 2])));
}

#[tokio::test]
async fn a_crash_loses_writes_that_are_not_committed() {
    let lab = Lab::new();
    let old = lab.storage.clone();
    let lost = lab.insert(1).await;
    let lab = lab.crash(0).await;
    assert!(is_closed(lost));
    assert_eq!(lab.jobs().await, vec![]);
    lab.pass(COMMIT + ANSWER).await;
    assert_eq!(lab.jobs().await, vec![], "the write of a crashed daemon was committed");
    assert!(matches!(old.unfinished_jobs().await, Err(StorageError::Closed)));
    assert!(matches!(old.update_job(&queued(1)).await, Err(StorageError::Closed)));
}

#[tokio::test]
async fn the_writer_of_a_crashed_daemon_ends() {
    let [idle, committing] = [Lab::new(), Lab::new()];
    settle().await;
    let write = committing.insert(1).await;
    for lab in [&idle, &committing] {
        lab.disk.crash(0);
        lab.pass(COMMIT).await;
        assert!(lab.writer.is_finished());
    }
    assert!(is_closed(write));
}

#[tokio::test]
async fn a_crash_can_commit_a_prefix_of_the_waiting_writes() {
    let lab = Lab::new();
    let writes = [lab.insert(1).await, lab.insert(2).await, lab.insert(3).await];
    let lab = lab.crash(2).await;
    assert!(writes.into_iter().all(is_closed));
    assert_eq!(lab.jobs().await, ids([1, 2]));
    assert_eq!(lab.disk.waiting(), 0);
}

#[tokio::test]
async fn a_crash_between_a_commit_and_its_answer_keeps_the_write() {
    let lab = Lab::new();
    let write = lab.insert(1).await;
    lab.pass(COMMIT).await;
    let lab = lab.crash(9).await;
    lab.pass(ANSWER).await;
    assert!(is_closed(write), "its caller must not get a result");
    assert_eq!(lab.jobs().await, ids([1]));
}

#[tokio::test]
async fn a_crash_on_a_full_disk_commits_no_waiting_write() {
    let lab = Lab::new();
    lab.disk.set_full(true);
    let write = lab.insert(1).await;
    let lab = lab.crash(1).await;
    assert!(is_closed(write));
    assert_eq!(lab.jobs().await, vec![]);
}

#[tokio::test]
async fn a_soft_stop_commits_accepted_writes() {
    let lab = Lab::new();
    let accepted = lab.insert(1).await;
    lab.stop.cancel();
    lab.pass(COMMIT).await;
    lab.pass(ANSWER).await;
    assert!(matches!(answered(accepted), Some(Ok(()))));
    let late = lab.insert(2).await;
    assert!(is_closed(late));
    assert!(lab.writer.is_finished());
    assert_eq!(lab.jobs().await, ids([1]), "reads must succeed after the stop");
}

#[tokio::test]
async fn an_ended_job_survives_a_crash() {
    let lab = Lab::new();
    let insert = lab.insert(1).await;
    let done = ended(queued(1), JobState::Succeeded, start());
    let update =
        |storage: InMemory, job| tokio::spawn(async move { storage.update_job(&job).await });
    let end = update(lab.storage.clone(), done.clone());
    settle().await;
    let lab = lab.crash(2).await;
    assert!(is_closed(insert) && is_closed(end));
    let again = update(lab.storage.clone(), queued(1));
    settle().await;
    lab.pass(COMMIT).await;
    lab.pass(ANSWER).await;
    assert!(matches!(answered(again), Some(Err(StorageError::AlreadyEnded(id))) if id == done.id));
    assert_eq!(lab.storage.job(done.id).await.unwrap(), Some(done));
}
