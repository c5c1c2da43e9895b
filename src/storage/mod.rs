//! The storage of everything that outlives a restart: a trait with its contract, and the types of
//! the trait's parameters and results.

mod artifacts;
mod audit;
mod error;
mod files;
mod inputs;
mod jobs;
mod keys;
mod leases;
mod retention;
mod serial;
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

pub use artifacts::{ArtifactFilter, ArtifactOrder, ArtifactStorage};
pub use audit::{AuditCursor, AuditEntry, AuditFilter, AuditPage, InvalidAuditCursor};
pub use error::StorageError;
pub use files::FileStorage;
pub use inputs::{InputAnswer, StoredInput};
pub use jobs::{InvalidJobCursor, JobCursor, JobFilter, JobPage};
pub use keys::{IdempotencyKey, KeyOwner, StoredKey};
pub use leases::{ChangedLease, LeaseFilter, LeaseTransaction, StoredMachine};
pub use retention::{AuditRetention, Purged, PurgedAudit, RecordRetention, Retention};
pub use serial::{SerialStorage, StoredSerialPort};
pub use tokens::{StoredToken, TokenUse};

/// Jobs, leases, idempotency keys, answers of input, tokens and the audit.
///
/// **Writes.** Each method that changes something is one write, unless its documentation says
/// otherwise: the storage commits all of the write or nothing. The method returns once the write is
/// on disk, so a later crash does not lose it. The storage commits writes in the order of their
/// calls. If the caller drops the future before it completes, the write may still be committed.
/// While the disk is full or fails, writes fail as [`StorageError::Refused`], and reads succeed.
/// [`StorageError`] says what each failure means for the write.
///
/// **Reads.** A read returns the committed state at one moment between its call and its result. It
/// returns the values that were written, except values that matter only during a call. Times are
/// kept to the microsecond or better.
///
/// **Conformance.** `tests/storage` compares an implementation with SQLite, call by call.
///
/// **Audit.** The audit records of a change are committed with the change. The provided methods of
/// this trait log the records after the commit. Therefore callers use the provided methods, and not
/// the `commit_` methods.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Commits a new job and the audit record of its acceptance.
    ///
    /// # Parameters
    /// - `key`: the idempotency key of the call that created the job. `None` if the call had no
    ///   key.
    /// - `overridden`: the audit record of the override, if the job was accepted only because of
    ///   one.
    ///
    /// # Errors
    /// `Conflict` if a job with this id exists, or if the key is stored already.
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

    /// Commits the new state of a job. The id and the lease of a job never change.
    ///
    /// The write also commits an audit record if it starts the job, requests the job's cancellation
    /// for the first time, or ends the job. It starts the job if the stored job is queued and the
    /// new state has a start, even if the new state also has an end. If the job ends and has
    /// created or removed snapshots, the write also changes which lease each snapshot belongs to.
    ///
    /// # Errors
    /// `AlreadyEnded` if the stored job has ended; the job then stays unchanged. `NoSuchJob` if the
    /// job was never inserted.
    async fn update_job(&self, job: &Job) -> Result<(), StorageError> {
        self.commit_job(job).await?.iter().for_each(audit_log::log);
        Ok(())
    }

    /// Commits the changes of one transition of the lease table. A stored lease that has ended
    /// stays unchanged.
    ///
    /// # Errors
    /// `Conflict` if two leases would hold one machine, or if the key is stored already.
    async fn save_leases(&self, transaction: LeaseTransaction) -> Result<(), StorageError> {
        let audit = transaction.audit.clone();
        self.commit_leases(transaction).await?;
        audit.iter().for_each(audit_log::log);
        Ok(())
    }

    /// Commits the end of a call that sent input: its audit records, and its answer if the call has
    /// a key. A stored answer stays unchanged, and so does a key that is not stored.
    async fn save_input_answer(
        &self,
        answer: Option<(IdempotencyKey, InputAnswer)>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        self.commit_input_answer(answer, audit.clone()).await?;
        audit.iter().for_each(audit_log::log);
        Ok(())
    }

    /// Does the write of [`Storage::insert_job`] with these audit records, but logs nothing.
    async fn commit_new_job(
        &self,
        job: &Job,
        key: Option<&IdempotencyKey>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError>;

    /// Does the write of [`Storage::update_job`], but logs nothing. Returns the audit records that
    /// were committed with the job.
    async fn commit_job(&self, job: &Job) -> Result<Vec<AuditRecord>, StorageError>;

    /// Does the write of [`Storage::save_leases`], but logs nothing.
    async fn commit_leases(&self, transaction: LeaseTransaction) -> Result<(), StorageError>;

    /// [`Storage::save_input_answer`] without log lines.
    async fn commit_input_answer(
        &self,
        answer: Option<(IdempotencyKey, InputAnswer)>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError>;

    /// Commits the key of a call that sends input, before its first event.
    ///
    /// # Errors
    /// `Conflict` if the key is stored already.
    async fn insert_input(&self, key: &IdempotencyKey) -> Result<(), StorageError>;

    /// Looks up the key of a call that sends input. `None` if it is not stored.
    async fn find_input(&self, key: &IdempotencyKey) -> Result<Option<StoredInput>, StorageError>;

    /// Reads one job. `None` if there is no job with this id.
    async fn job(&self, id: JobId) -> Result<Option<Job>, StorageError>;

    /// Reads one page of the jobs that match the filter, newest first. If several jobs were created
    /// in the same microsecond, the one with the greatest id counts as the newest.
    ///
    /// # Parameters
    /// - `after`: the position at which the page begins. `None` for the first page.
    /// - `limit`: the maximum number of jobs in the page.
    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage, StorageError>;

    /// Reads every job that has not ended, in the order in which the jobs were inserted.
    async fn unfinished_jobs(&self) -> Result<Vec<Job>, StorageError>;

    /// Looks up an idempotency key. `None` if the key is not stored. The method and the path in the
    /// key show whether it belongs to a call that starts a job or to a call that requests a lease.
    async fn find_key(&self, key: &IdempotencyKey) -> Result<Option<StoredKey>, StorageError>;

    /// Reads the ids of those snapshots of a machine that were created under a lease.
    async fn snapshots_made_under(
        &self,
        machine: &MachineIdentity,
        lease: LeaseId,
    ) -> Result<BTreeSet<SnapshotId>, StorageError>;

    /// Reads one lease. `None` if there is no lease with this id.
    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StorageError>;

    /// Reads the leases that match the filter, newest first. If several leases were created in the
    /// same microsecond, the one with the greatest id counts as the newest.
    ///
    /// # Parameters
    /// - `after`: only leases that are older than this one are read. `None` begins with the newest
    ///   lease.
    /// - `limit`: the maximum number of leases.
    async fn leases(
        &self,
        filter: &LeaseFilter,
        after: Option<&Lease>,
        limit: u32,
    ) -> Result<Vec<Lease>, StorageError>;

    /// Reads every lease that has not ended, in the order in which the leases were first committed.
    async fn open_leases(&self) -> Result<Vec<Lease>, StorageError>;

    /// Whether the storage contains leases. Ended leases count too.
    async fn has_leases(&self) -> Result<bool, StorageError>;

    /// Reads the stored state of all machines, by their [`MachineIdentity::key`].
    async fn stored_machines(&self) -> Result<BTreeMap<String, StoredMachine>, StorageError>;

    /// Reads the fence floor. Every new grant gets a fence above the floor, and the floor never
    /// falls.
    async fn fence_floor(&self) -> Result<u64, StorageError>;

    /// Commits audit records without another change. The caller logs the records.
    async fn append_audit(&self, records: Vec<AuditRecord>) -> Result<(), StorageError>;

    /// Reads one page of the audit records that match the filter. The record that was committed
    /// last comes first.
    ///
    /// # Parameters
    /// - `after`: the position at which the page begins. `None` for the first page.
    /// - `limit`: the maximum number of records in the page.
    async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, StorageError>;

    /// Commits a new token and its audit record. If another token with the same name is not
    /// revoked, returns false and writes nothing.
    async fn insert_token(&self, token: &StoredToken) -> Result<bool, StorageError>;

    /// Revokes the token with this name, and commits the audit record. Returns false if no token
    /// with this name is in force.
    async fn revoke_token(&self, name: &str, now: Timestamp) -> Result<bool, StorageError>;

    /// Replaces the secret of the token with this name, and commits the audit record. The old
    /// secret is no longer valid. Returns false if every token with this name is revoked, or if
    /// there is none.
    ///
    /// # Parameters
    /// - `expires_at`: the new time of expiry. `None` leaves the time unchanged.
    async fn rotate_token(
        &self,
        name: &str,
        digest: TokenDigest,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, StorageError>;

    /// Commits the times at which the secrets of tokens were last used. If a token has got a new
    /// secret since a use, that use is ignored.
    async fn mark_tokens_used(&self, uses: Vec<TokenUse>) -> Result<(), StorageError>;

    /// Reads every token, oldest first. Revoked tokens are included.
    async fn tokens(&self) -> Result<Vec<StoredToken>, StorageError>;

    /// Deletes ended jobs and leases, and keys, whose retention is over. A job or lease is kept
    /// while its key is kept, and a key is kept while its job or lease has not ended. A key of
    /// input is kept for its time, whether or not it has an answer. This is a series of writes: if
    /// one fails, the earlier ones stay committed.
    async fn purge(&self, now: Timestamp, retention: &Retention) -> Result<Purged, StorageError>;

    /// Deletes the oldest audit records until the audit is within its maximum age and size. The
    /// newest record is never deleted. Like [`Storage::purge`], this method is a series of writes.
    async fn purge_audit(
        &self,
        now: Timestamp,
        retention: &AuditRetention,
    ) -> Result<PurgedAudit, StorageError>;

    /// Commits `now` as the time at which otter was last running.
    async fn record_last_seen(&self, now: Timestamp) -> Result<(), StorageError>;

    /// Reads the time at which otter was last running. `None` if it was never recorded.
    async fn last_seen(&self) -> Result<Option<Timestamp>, StorageError>;

    /// Why the last commit was refused. `None` if the last commit succeeded. otter accepts no new
    /// work until a commit succeeds.
    fn refusal(&self) -> Option<String>;
}
