//! The seam to what outlives a restart, as a trait with a written contract, and the values that it
//! speaks of.

mod audit;
mod error;
mod jobs;
mod keys;
mod leases;
mod retention;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::Timestamp;

use crate::domain::access::TokenDigest;
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{JobId, LeaseId, SnapshotId};
use crate::domain::job::Job;
use crate::domain::lease::Lease;
use crate::domain::machine::MachineIdentity;
use crate::telemetry::audit as audit_log;

pub use audit::{AuditCursor, AuditEntry, AuditFilter, AuditPage, InvalidAuditCursor};
pub use error::StorageError;
pub use jobs::{InvalidJobCursor, JobCursor, JobFilter, JobPage};
pub use keys::{IdempotencyKey, KeyOwner, StoredKey};
pub use leases::{ChangedLease, LeaseFilter, LeaseTransaction, StoredMachine};
pub use retention::{AuditRetention, Purged, PurgedAudit, RecordRetention, Retention};
pub use tokens::{StoredToken, TokenUse};

/// Jobs, leases, idempotency keys, tokens and the audit.
///
/// **Writes.** Each method that changes something is one write: all of it is committed, or nothing,
/// unless it says otherwise. It returns once the write is on disk, so that a crash after that loses
/// nothing. Writes are committed in the order in which they were handed over. If the caller goes
/// away before it has the answer, the write may be committed all the same. While the disk is full
/// or fails, writes fail as [`StorageError::Refused`], and reads go on; see [`StorageError`] for
/// what a failure says about the write.
///
/// **Reads.** A read sees what is committed at one moment between its call and its answer. What is
/// read is what was written, except for what is only of use while a call runs; times are kept to
/// the microsecond at least.
///
/// **Conformance.** `tests/storage` tries an implementation against SQLite, call by call.
///
/// **Audit.** The facts of a change are committed with the change. The provided methods log them
/// after that; a caller uses these, not the `commit_` methods that they call.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Commits a new job, the fact that it was accepted, the fact of the override that it needed,
    /// if any, and the idempotency key that it was asked for with, if any.
    ///
    /// # Errors
    /// `Conflict` if there is a job of this id, or the key is known.
    async fn insert_job(
        &self,
        job: &Job,
        key: Option<&IdempotencyKey>,
        overridden: Option<AuditRecord>,
    ) -> Result<(), StorageError> {
        let audit: Vec<AuditRecord> =
            [AuditRecord::job_accepted(job)].into_iter().chain(overridden).collect();
        self.commit_new_job(job, key, audit.clone()).await?;
        audit.iter().for_each(audit_log::log);
        Ok(())
    }

    /// Commits what a job has become, the facts that it started, was asked to cancel or ended, if
    /// they are new, and with its end the lease that a snapshot was made under. A job's id and
    /// lease never change. Its start is new if the stored job is queued, and this one runs and has
    /// neither a step nor an intent.
    ///
    /// # Errors
    /// `AlreadyEnded` if the stored job has an end: that is kept. `NoSuchJob` if it was never
    /// inserted.
    async fn update_job(&self, job: &Job) -> Result<(), StorageError> {
        self.commit_job(job).await?.iter().for_each(audit_log::log);
        Ok(())
    }

    /// Commits together what one step changed of leases and machines, the facts to be audited of
    /// it, and the key of the call that asked for a lease. A lease that has ended stays as it is.
    ///
    /// # Errors
    /// `Conflict` if two leases would hold one machine, or the key is known.
    async fn save_leases(&self, transaction: LeaseTransaction) -> Result<(), StorageError> {
        let audit = transaction.audit.clone();
        self.commit_leases(transaction).await?;
        audit.iter().for_each(audit_log::log);
        Ok(())
    }

    /// [`Storage::insert_job`] with these facts, without a log.
    async fn commit_new_job(
        &self,
        job: &Job,
        key: Option<&IdempotencyKey>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError>;

    /// [`Storage::update_job`] without a log. Returns the facts that were committed with the job.
    async fn commit_job(&self, job: &Job) -> Result<Vec<AuditRecord>, StorageError>;

    /// [`Storage::save_leases`] without a log.
    async fn commit_leases(&self, transaction: LeaseTransaction) -> Result<(), StorageError>;

    /// Reads one job.
    async fn job(&self, id: JobId) -> Result<Option<Job>, StorageError>;

    /// Reads the jobs that pass the filter, the newest first, at most `limit` from `after` on. Of
    /// jobs made in the same microsecond, the one with the greater id is the newer.
    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage, StorageError>;

    /// Reads every job without an end, in the order in which they were committed.
    async fn unfinished_jobs(&self) -> Result<Vec<Job>, StorageError>;

    /// Looks an idempotency key up: what the call with it started, and whether for the same
    /// request. A key's method and path belong to calls that start jobs or to calls that ask for
    /// leases, never to both.
    async fn find_key(&self, key: &IdempotencyKey) -> Result<Option<StoredKey>, StorageError>;

    /// Reads which snapshots of a machine were made under a lease.
    async fn snapshots_made_under(
        &self,
        machine: &MachineIdentity,
        lease: LeaseId,
    ) -> Result<BTreeSet<SnapshotId>, StorageError>;

    /// Reads one lease.
    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StorageError>;

    /// Reads the leases that pass the filter, the newest first, at most `limit` of those that are
    /// older than `after`. Of leases made in the same microsecond, the one with the greater id is
    /// the newer.
    async fn leases(
        &self,
        filter: &LeaseFilter,
        after: Option<&Lease>,
        limit: u32,
    ) -> Result<Vec<Lease>, StorageError>;

    /// Reads every lease that has not ended, in the order in which they were first committed.
    async fn open_leases(&self) -> Result<Vec<Lease>, StorageError>;

    /// Whether there are any leases, including ended ones.
    async fn has_leases(&self) -> Result<bool, StorageError>;

    /// Reads what is kept of machines, by the key of who each is.
    async fn stored_machines(&self) -> Result<BTreeMap<String, StoredMachine>, StorageError>;

    /// Reads the floor that every new fence is above. It never falls.
    async fn fence_floor(&self) -> Result<u64, StorageError>;

    /// Commits facts that belong to no other change. The caller logs them.
    async fn append_audit(&self, records: Vec<AuditRecord>) -> Result<(), StorageError>;

    /// Reads the facts that pass the filter, the last committed first, at most `limit` from `after`
    /// on.
    async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, StorageError>;

    /// Commits a new token and the fact of it. Returns false, and nothing is written, if one of
    /// that name is not revoked.
    async fn insert_token(&self, token: &StoredToken) -> Result<bool, StorageError>;

    /// Revokes the token of this name, and commits the fact. Returns false if every token of that
    /// name is revoked, or there is none.
    async fn revoke_token(&self, name: &str, now: Timestamp) -> Result<bool, StorageError>;

    /// Gives the token of this name another secret, and another expiry if one is given, and commits
    /// the fact. The old secret becomes unknown. Returns false if every token of that name is
    /// revoked, or there is none.
    async fn rotate_token(
        &self,
        name: &str,
        digest: TokenDigest,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, StorageError>;

    /// Commits when the secrets of tokens were last used. A use of a secret that the token no
    /// longer has does not count.
    async fn mark_tokens_used(&self, uses: Vec<TokenUse>) -> Result<(), StorageError>;

    /// Reads every token, including revoked ones, the oldest first.
    async fn tokens(&self) -> Result<Vec<StoredToken>, StorageError>;

    /// Deletes ended jobs and leases, and keys, that were kept long enough. What has a key that is
    /// kept is kept too, and so is the key of what has no end. A series of writes: if one fails,
    /// those before it stand.
    async fn purge(&self, now: Timestamp, retention: &Retention) -> Result<Purged, StorageError>;

    /// Deletes the part of the audit that exceeds its age or its size, the oldest facts first, but
    /// never the last fact. A series of writes, as [`Storage::purge`].
    async fn purge_audit(
        &self,
        now: Timestamp,
        retention: &AuditRetention,
    ) -> Result<PurgedAudit, StorageError>;

    /// Commits that otter runs at this time.
    async fn record_last_seen(&self, now: Timestamp) -> Result<(), StorageError>;

    /// Reads when otter last ran, as it was noted.
    async fn last_seen(&self) -> Result<Option<Timestamp>, StorageError>;

    /// Why the last commit was refused; `None` if it succeeded. Until a commit succeeds, otter
    /// accepts no new work.
    fn refusal(&self) -> Option<String>;
}
