//! A storage in memory. Its disk can be full, and its daemon can crash at each moment of a commit.
//!
//! ```text
//! a write ─► waiting ──(time of a commit)──► committed ──(time of an answer)──► the caller returns
//!               │ crash: a prefix of these is committed,      │ crash: the write stays committed,
//!               ▼ the others are lost                         ▼ and the caller gets no result
//! ```
//! It is deterministic: it has no threads and no randomness, so the same calls at the same times
//! have the same results.

mod audit;
mod inputs;
mod jobs;
mod leases;
mod purge;
mod tables;
mod tokens;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use otter::clock::Clock;
use otter::domain::access::TokenDigest;
use otter::domain::audit::AuditRecord;
use otter::domain::ids::{JobId, LeaseId, SnapshotId};
use otter::domain::job::Job;
use otter::domain::lease::Lease;
use otter::domain::machine::MachineIdentity;
use otter::storage::{
    AuditCursor, AuditFilter, AuditPage, AuditRetention, IdempotencyKey, InputAnswer, JobCursor,
    JobFilter, JobPage, LeaseFilter, LeaseTransaction, Purged, PurgedAudit, Retention, Storage,
    StorageError, StoredInput, StoredKey, StoredMachine, StoredToken, TokenUse,
};

use self::tables::Tables;

/// The maximum number of writes in one commit.
const MAX_WRITES_PER_COMMIT: usize = 256;

/// The message of a full disk.
const FULL: &str = "database or disk is full";

/// The operations that take time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Read,
    /// From the first waiting write to the commit. Writes that start meanwhile wait for the next
    /// commit.
    Commit,
    /// From the commit to the return of its callers.
    Answer,
}

/// Chooses how long each operation takes.
pub type Latency = Box<dyn FnMut(Moment) -> Duration + Send>;

/// A write that was just committed.
#[derive(Clone, Copy, Debug)]
pub enum Committed<'a> {
    NewJob(&'a Job),
    Job(&'a Job),
    Leases(&'a LeaseTransaction),
}

/// Observes each commit of a job or of leases, even if its caller gets no result.
pub type Watcher = Box<dyn FnMut(Committed<'_>) + Send>;

/// The state that survives a crash. Clones share it.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Inner>>);

struct Inner {
    committed: Tables,
    /// The writes that are not committed, in the order of their calls. Each task of the daemon has
    /// at most one, so their number is bounded.
    waiting: VecDeque<Write>,
    latency: Latency,
    is_full: bool,
    refusal: Option<String>,
    /// The number of crashes. A handle from before a crash is closed.
    life: u64,
    /// Whether the storage accepts no more writes until the next crash.
    is_closed: bool,
    /// Wakes the writer.
    work: Arc<Notify>,
}

/// One write. It gets the tables, or the reason why it is refused, and returns its answer.
type Write = Box<dyn FnOnce(Result<&mut Tables, StorageError>) -> Answer + Send>;

/// Sends the result of a write to its caller.
type Answer = Box<dyn FnOnce() + Send>;

impl Disk {
    /// An empty disk.
    pub fn new(latency: impl FnMut(Moment) -> Duration + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            committed: Tables::default(),
            waiting: VecDeque::new(),
            latency: Box::new(latency),
            is_full: false,
            refusal: None,
            life: 0,
            is_closed: false,
            work: Arc::default(),
        })))
    }

    /// Calls the watcher for each commit from now on.
    pub fn watch(&self, watcher: impl FnMut(Committed<'_>) + Send + 'static) {
        self.lock().committed.watcher = Some(Box::new(watcher));
    }

    /// Opens the committed state for a daemon that starts. Earlier handles behave as after a crash.
    pub fn open(&self, clock: Clock) -> InMemory {
        self.crash(0);
        InMemory { disk: self.clone(), life: self.lock().life, clock }
    }

    /// Sets whether the disk is full. While it is full, commits are refused.
    pub fn set_full(&self, is_full: bool) {
        self.lock().is_full = is_full;
    }

    /// The number of writes that are not committed.
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Crashes the daemon. The first `survivors` of the waiting writes are committed, and the
    /// others are lost. No caller gets a result: every call of an open handle fails as `Closed` or
    /// never returns.
    pub fn crash(&self, survivors: usize) {
        let mut inner = self.lock();
        if !inner.is_full {
            inner.commit(survivors);
        }
        inner.waiting.clear();
        inner.life += 1;
        (inner.is_closed, inner.refusal) = (false, None);
        std::mem::take(&mut inner.work).notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Commits the first `count` writes, each of them completely or not at all.
    fn commit(&mut self, count: usize) -> Vec<Answer> {
        let count = count.min(self.waiting.len());
        let writes: Vec<Write> = self.waiting.drain(..count).collect();
        writes.into_iter().map(|write| write(Ok(&mut self.committed))).collect()
    }

    /// Refuses the first `count` writes.
    fn refuse(&mut self, count: usize) -> Vec<Answer> {
        let refused = || StorageError::Refused {
            message: FULL.to_owned(),
            may_be_committed: false,
            source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(FULL)),
        };
        self.waiting.drain(..count).map(|write| write(Err(refused()))).collect()
    }
}

/// A handle of a disk, for one run of the daemon. Clones share it.
#[derive(Clone)]
pub struct InMemory {
    disk: Disk,
    life: u64,
    clock: Clock,
}

impl InMemory {
    /// Commits writes until `stop` is cancelled, then commits the accepted writes, and returns.
    /// Also returns after a crash. While this method does not run, writes wait.
    pub async fn run(&self, stop: CancellationToken) {
        while let Ok((waiting, is_closed, work)) = self.state() {
            if waiting > 0 {
                self.commit(waiting.min(MAX_WRITES_PER_COMMIT)).await;
            } else if is_closed {
                return;
            } else {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        if let Ok(mut inner) = self.live() {
                            inner.is_closed = true;
                        }
                    }
                    () = work.notified() => {}
                }
            }
        }
    }

    /// The number of waiting writes, whether the storage is closed, and the writer's wake-up.
    fn state(&self) -> Result<(usize, bool, Arc<Notify>), StorageError> {
        let inner = self.live()?;
        Ok((inner.waiting.len(), inner.is_closed, Arc::clone(&inner.work)))
    }

    async fn commit(&self, count: usize) {
        self.spend(Moment::Commit).await;
        let answers = match self.live() {
            Ok(mut inner) if inner.is_full => {
                inner.refusal = Some(FULL.to_owned());
                inner.refuse(count)
            }
            Ok(mut inner) => {
                inner.refusal = None;
                inner.commit(count)
            }
            Err(_) => return,
        };
        self.spend(Moment::Answer).await;
        if self.live().is_ok() {
            for answer in answers {
                answer();
            }
        }
    }

    async fn spend(&self, moment: Moment) {
        let latency = (self.disk.lock().latency)(moment);
        if !latency.is_zero() {
            self.clock.sleep(latency).await;
        }
    }

    /// The disk, unless the daemon of this handle has crashed.
    fn live(&self) -> Result<MutexGuard<'_, Inner>, StorageError> {
        let inner = self.disk.lock();
        if inner.life == self.life { Ok(inner) } else { Err(StorageError::Closed) }
    }

    /// Adds a write to the queue, and waits for its answer. A write that fails must not change the
    /// tables.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&mut Tables) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (reply, answer) = oneshot::channel();
        {
            let mut inner = self.live()?;
            if inner.is_closed {
                return Err(StorageError::Closed);
            }
            inner.waiting.push_back(Box::new(move |tables| {
                let result = tables.and_then(write);
                // The caller may be dropped already.
                Box::new(move || drop(reply.send(result)))
            }));
            inner.work.notify_one();
        }
        answer.await.map_err(|_| StorageError::Closed)?
    }

    async fn read<T: Send>(
        &self,
        read: impl FnOnce(&Tables) -> T + Send,
    ) -> Result<T, StorageError> {
        self.spend(Moment::Read).await;
        Ok(read(&self.live()?.committed))
    }
}

#[async_trait]
impl Storage for InMemory {
    async fn commit_new_job(
        &self,
        job: &Job,
        key: Option<&IdempotencyKey>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        let (job, key) = (job.clone(), key.cloned());
        self.write(move |tables| {
            tables.insert_job(job.clone(), key.as_ref(), audit)?;
            tables.notify_watcher(Committed::NewJob(&job));
            Ok(())
        })
        .await
    }

    async fn commit_job(&self, job: &Job) -> Result<Vec<AuditRecord>, StorageError> {
        let job = job.clone();
        self.write(move |tables| {
            let records = tables.update_job(&job)?;
            tables.notify_watcher(Committed::Job(&job));
            Ok(records)
        })
        .await
    }

    async fn commit_leases(&self, step: LeaseTransaction) -> Result<(), StorageError> {
        self.write(move |tables| {
            tables.save_leases(step.clone())?;
            tables.notify_watcher(Committed::Leases(&step));
            Ok(())
        })
        .await
    }

    async fn commit_input_answer(
        &self,
        answer: Option<(IdempotencyKey, InputAnswer)>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        self.write(move |tables| {
            if let Some((key, answer)) = answer {
                tables.answer_input(&key, answer);
            }
            tables.append_audit(audit);
            Ok(())
        })
        .await
    }

    async fn insert_input(&self, key: &IdempotencyKey) -> Result<(), StorageError> {
        let key = key.clone();
        self.write(move |tables| tables.insert_input(&key)).await
    }

    async fn find_input(&self, key: &IdempotencyKey) -> Result<Option<StoredInput>, StorageError> {
        self.read(|tables| tables.find_input(key)).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StorageError> {
        self.read(|tables| tables.job(id)).await
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage, StorageError> {
        self.read(|tables| tables.list_jobs(filter, after, limit as usize)).await
    }

    async fn unfinished_jobs(&self) -> Result<Vec<Job>, StorageError> {
        self.read(Tables::unfinished_jobs).await
    }

    async fn find_key(&self, key: &IdempotencyKey) -> Result<Option<StoredKey>, StorageError> {
        self.read(|tables| tables.find_key(key)).await
    }

    async fn snapshots_made_under(
        &self,
        machine: &MachineIdentity,
        lease: LeaseId,
    ) -> Result<BTreeSet<SnapshotId>, StorageError> {
        self.read(|tables| tables.snapshots_made_under(machine, lease)).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StorageError> {
        self.read(|tables| tables.lease(id)).await
    }

    async fn leases(
        &self,
        filter: &LeaseFilter,
        after: Option<&Lease>,
        limit: u32,
    ) -> Result<Vec<Lease>, StorageError> {
        self.read(|tables| tables.list_leases(filter, after, limit as usize)).await
    }

    async fn open_leases(&self) -> Result<Vec<Lease>, StorageError> {
        self.read(Tables::open_leases).await
    }

    async fn has_leases(&self) -> Result<bool, StorageError> {
        self.read(Tables::has_leases).await
    }

    async fn stored_machines(&self) -> Result<BTreeMap<String, StoredMachine>, StorageError> {
        self.read(Tables::stored_machines).await
    }

    async fn fence_floor(&self) -> Result<u64, StorageError> {
        self.read(|tables| tables.fence_floor).await
    }

    async fn append_audit(&self, records: Vec<AuditRecord>) -> Result<(), StorageError> {
        self.write(move |tables| {
            tables.append_audit(records);
            Ok(())
        })
        .await
    }

    async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, StorageError> {
        self.read(|tables| tables.list_audit(filter, after, limit as usize)).await
    }

    async fn insert_token(&self, token: &StoredToken) -> Result<bool, StorageError> {
        let token = token.clone();
        self.write(move |tables| tables.insert_token(token)).await
    }

    async fn revoke_token(&self, name: &str, now: Timestamp) -> Result<bool, StorageError> {
        let name = name.to_owned();
        self.write(move |tables| Ok(tables.revoke_token(&name, now))).await
    }

    async fn rotate_token(
        &self,
        name: &str,
        digest: TokenDigest,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, StorageError> {
        let name = name.to_owned();
        self.write(move |tables| tables.rotate_token(&name, digest, now, expires_at)).await
    }

    async fn mark_tokens_used(&self, uses: Vec<TokenUse>) -> Result<(), StorageError> {
        self.write(move |tables| {
            tables.mark_tokens_used(&uses);
            Ok(())
        })
        .await
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StorageError> {
        self.read(Tables::all_tokens).await
    }

    async fn purge(&self, now: Timestamp, retention: &Retention) -> Result<Purged, StorageError> {
        let Retention { jobs, leases, keys, audit: _ } = retention.clone();
        let (jobs, keys_of_jobs) =
            self.write(move |tables| Ok(tables.purge_jobs(now, &jobs, keys))).await?;
        let (leases, keys_of_leases) =
            self.write(move |tables| Ok(tables.purge_leases(now, &leases, keys))).await?;
        let of_input = self.write(move |tables| Ok(tables.purge_inputs(now, keys))).await?;
        Ok(Purged { jobs, leases, keys: keys_of_jobs + keys_of_leases + of_input })
    }

    async fn purge_audit(
        &self,
        now: Timestamp,
        retention: &AuditRetention,
    ) -> Result<PurgedAudit, StorageError> {
        let AuditRetention { time, max_bytes } = *retention;
        let by_age = self.write(move |tables| Ok(tables.purge_audit_by_age(now, time))).await?;
        let by_bytes = self.write(move |tables| Ok(tables.purge_audit_by_bytes(max_bytes))).await?;
        Ok(PurgedAudit { by_age, by_bytes })
    }

    async fn record_last_seen(&self, now: Timestamp) -> Result<(), StorageError> {
        self.write(move |tables| {
            tables.last_seen = Some(tables::to_the_microsecond(now));
            Ok(())
        })
        .await
    }

    async fn last_seen(&self) -> Result<Option<Timestamp>, StorageError> {
        self.read(|tables| tables.last_seen).await
    }

    fn refusal(&self) -> Option<String> {
        self.live().ok()?.refusal.clone()
    }
}
