//! The storage of one process of the daemon: it reports requests and results to the checker, and
//! can make deliberate mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use futures_util::FutureExt;
use jiff::Timestamp;
use otter::domain::access::TokenDigest;
use otter::domain::audit::AuditRecord;
use otter::domain::ids::{JobId, LeaseId, SnapshotId};
use otter::domain::job::Job;
use otter::domain::lease::Lease;
use otter::domain::machine::MachineIdentity;
use otter::domain::scope::Scope;
use otter::service::leases::matching::CandidateMachine;
use otter::service::machines::{MachineFilter, Machines};
use otter::storage::{
    AuditCursor, AuditFilter, AuditPage, AuditRetention, IdempotencyKey, InputAnswer, JobCursor,
    JobFilter, JobPage, KeyOwner, LeaseFilter, LeaseTransaction, Purged, PurgedAudit, Retention,
    Storage, StorageError, StoredInput, StoredKey, StoredMachine, StoredToken, TokenUse,
};

use super::Run;
use super::mistakes::Mistake;
use crate::storage::in_memory::InMemory;

/// A storage that reports to the checker.
pub struct CheckedStorage {
    run: Arc<Run>,
    storage: InMemory,
    /// The machines from which leases choose, once they are loaded.
    machines: OnceLock<Arc<Machines>>,
}

impl CheckedStorage {
    pub fn new(run: &Arc<Run>, storage: InMemory) -> Self {
        Self { run: Arc::clone(run), storage, machines: OnceLock::new() }
    }

    /// Sets the machines from which leases choose.
    pub fn set_machines(&self, machines: &Arc<Machines>) {
        let _ = self.machines.set(Arc::clone(machines));
    }

    /// Counts a refused write.
    fn count_refusal<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.run.checker.trace(|| format!("a write fails: {error:?}"));
            self.run.checker.state().refused += usize::from(error.refusal().is_some());
        }
        result
    }

    /// The candidate machines of leases at this moment.
    fn candidates(&self) -> Vec<CandidateMachine> {
        let Some(machines) = self.machines.get() else { return Vec::new() };
        let views = machines.list(&Scope::All, &MachineFilter::default()).unwrap_or_default();
        let candidates = views.into_iter().map(|view| {
            let machine = &view.machine;
            let excluded = view.protected || machine.template;
            CandidateMachine::new(machine, view.pools.clone(), true, excluded)
        });
        candidates.collect()
    }
}

#[async_trait]
impl Storage for CheckedStorage {
    async fn commit_new_job(
        &self,
        job: &Job,
        key: Option<&IdempotencyKey>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        self.run.crash_with(1);
        self.run.checker.state().job_invariants.insert_requested(job, self.run.handle.true_time());
        self.count_refusal(self.storage.commit_new_job(job, key, audit).await)?;
        self.run.checker.state().job_invariants.accepted(job.id, self.run.handle.true_time());
        Ok(())
    }

    async fn commit_job(&self, job: &Job) -> Result<Vec<AuditRecord>, StorageError> {
        self.run.crash_with(1);
        if self.run.skips_commit(job) {
            return Ok(Vec::new());
        }
        self.count_refusal(self.storage.commit_job(job).await)
    }

    async fn commit_leases(&self, step: LeaseTransaction) -> Result<(), StorageError> {
        self.run.crash_with(8);
        let (at, candidates) = (self.run.handle.true_time(), self.candidates());
        self.run.checker.state().step = (at, candidates);
        let skips_commit_wait = self.run.skips_commit_wait(&step);
        let commit = self.storage.commit_leases(step);
        if skips_commit_wait {
            // The commit is handed over, but not awaited.
            let _ = commit.now_or_never();
            return Ok(());
        }
        self.count_refusal(commit.await)
    }

    async fn commit_input_answer(
        &self,
        answer: Option<(IdempotencyKey, InputAnswer)>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        self.storage.commit_input_answer(answer, audit).await
    }

    async fn insert_input(&self, key: &IdempotencyKey) -> Result<(), StorageError> {
        self.storage.insert_input(key).await
    }

    async fn find_input(&self, key: &IdempotencyKey) -> Result<Option<StoredInput>, StorageError> {
        self.storage.find_input(key).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StorageError> {
        self.storage.job(id).await
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage, StorageError> {
        let page = self.storage.jobs(filter, after, limit).await?;
        Ok(JobPage { items: self.run.jobs_with_mistake(page.items), ..page })
    }

    async fn unfinished_jobs(&self) -> Result<Vec<Job>, StorageError> {
        self.storage.unfinished_jobs().await
    }

    async fn find_key(&self, key: &IdempotencyKey) -> Result<Option<StoredKey>, StorageError> {
        let found = self.storage.find_key(key).await?;
        let wrong_job = self.run.wrong_job_for_key(key, &self.run.checker.state().disk);
        Ok(wrong_job
            .map(|job| StoredKey { owner: KeyOwner::Job(job), fingerprint_matches: true })
            .or(found))
    }

    async fn snapshots_made_under(
        &self,
        machine: &MachineIdentity,
        lease: LeaseId,
    ) -> Result<BTreeSet<SnapshotId>, StorageError> {
        self.storage.snapshots_made_under(machine, lease).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StorageError> {
        self.storage.lease(id).await
    }

    async fn leases(
        &self,
        filter: &LeaseFilter,
        after: Option<&Lease>,
        limit: u32,
    ) -> Result<Vec<Lease>, StorageError> {
        self.storage.leases(filter, after, limit).await
    }

    async fn open_leases(&self) -> Result<Vec<Lease>, StorageError> {
        self.storage.open_leases().await
    }

    async fn has_leases(&self) -> Result<bool, StorageError> {
        self.storage.has_leases().await
    }

    async fn stored_machines(&self) -> Result<BTreeMap<String, StoredMachine>, StorageError> {
        let mut machines = self.storage.stored_machines().await?;
        if self.run.has_mistake(Mistake::FenceForgotten) {
            for machine in machines.values_mut() {
                machine.fence = 0;
            }
        }
        Ok(machines)
    }

    async fn fence_floor(&self) -> Result<u64, StorageError> {
        self.storage.fence_floor().await
    }

    async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, StorageError> {
        self.storage.audit(filter, after, limit).await
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StorageError> {
        self.storage.tokens().await
    }

    async fn last_seen(&self) -> Result<Option<Timestamp>, StorageError> {
        self.storage.last_seen().await
    }

    async fn append_audit(&self, records: Vec<AuditRecord>) -> Result<(), StorageError> {
        self.storage.append_audit(records).await
    }

    async fn insert_token(&self, token: &StoredToken) -> Result<bool, StorageError> {
        self.storage.insert_token(token).await
    }

    async fn revoke_token(&self, name: &str, now: Timestamp) -> Result<bool, StorageError> {
        self.storage.revoke_token(name, now).await
    }

    async fn rotate_token(
        &self,
        name: &str,
        digest: TokenDigest,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, StorageError> {
        self.storage.rotate_token(name, digest, now, expires_at).await
    }

    async fn mark_tokens_used(&self, uses: Vec<TokenUse>) -> Result<(), StorageError> {
        self.storage.mark_tokens_used(uses).await
    }

    async fn purge(&self, now: Timestamp, retention: &Retention) -> Result<Purged, StorageError> {
        self.storage.purge(now, retention).await
    }

    async fn purge_audit(
        &self,
        now: Timestamp,
        retention: &AuditRetention,
    ) -> Result<PurgedAudit, StorageError> {
        self.storage.purge_audit(now, retention).await
    }

    async fn record_last_seen(&self, now: Timestamp) -> Result<(), StorageError> {
        self.storage.record_last_seen(now).await
    }

    fn refusal(&self) -> Option<String> {
        self.storage.refusal()
    }
}
