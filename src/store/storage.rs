//! The implementation of [`Storage`] for [`Store`]. It hands writes to the writer, and runs reads
//! on the connections for reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use async_trait::async_trait;
use jiff::Timestamp;

use super::job_writes::JobWrite;
use super::{
    Store, audit, created_snapshots, fence_floor, inputs, jobs, keys, last_seen, leases,
    maintenance, purge, tokens,
};
use crate::domain::access::TokenDigest;
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{JobId, LeaseId, SnapshotId};
use crate::domain::job::Job;
use crate::domain::lease::Lease;
use crate::domain::machine::MachineIdentity;
use crate::storage::{
    AuditCursor, AuditFilter, AuditPage, AuditRetention, IdempotencyKey, InputAnswer, JobCursor,
    JobFilter, JobPage, LeaseFilter, LeaseTransaction, Purged, PurgedAudit, Retention, Storage,
    StorageError, StoredInput, StoredKey, StoredMachine, StoredToken, TokenUse,
};

#[async_trait]
impl Storage for Store {
    async fn commit_new_job(
        &self,
        job: &Job,
        key: Option<&IdempotencyKey>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        self.write_job(JobWrite::insert(job, key, audit)?).await.map(drop)
    }

    async fn commit_job(&self, job: &Job) -> Result<Vec<AuditRecord>, StorageError> {
        self.write_job(JobWrite::update(job)?).await
    }

    async fn commit_leases(&self, transaction: LeaseTransaction) -> Result<(), StorageError> {
        self.write(leases::SaveLeases::from_transaction(transaction)?).await
    }

    async fn commit_input_answer(
        &self,
        answer: Option<(IdempotencyKey, InputAnswer)>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        self.write(inputs::SaveInputAnswer::new(answer, audit)?).await
    }

    async fn insert_input(&self, key: &IdempotencyKey) -> Result<(), StorageError> {
        self.write(inputs::InsertInput(key.clone())).await
    }

    async fn find_input(&self, key: &IdempotencyKey) -> Result<Option<StoredInput>, StorageError> {
        inputs::find(&mut self.read().await?, key).await
    }

    async fn job(&self, id: JobId) -> Result<Option<Job>, StorageError> {
        jobs::job(&mut self.read().await?, id).await
    }

    async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage, StorageError> {
        jobs::jobs(&mut self.read().await?, filter, after, limit).await
    }

    async fn unfinished_jobs(&self) -> Result<Vec<Job>, StorageError> {
        jobs::unfinished(&mut self.read().await?).await
    }

    async fn find_key(&self, key: &IdempotencyKey) -> Result<Option<StoredKey>, StorageError> {
        Ok(keys::find(&mut self.read().await?, key).await?)
    }

    async fn snapshots_made_under(
        &self,
        machine: &MachineIdentity,
        lease: LeaseId,
    ) -> Result<BTreeSet<SnapshotId>, StorageError> {
        created_snapshots::made_under(&mut self.read().await?, machine, lease).await
    }

    async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StorageError> {
        leases::lease(&mut self.read().await?, id).await
    }

    async fn leases(
        &self,
        filter: &LeaseFilter,
        after: Option<&Lease>,
        limit: u32,
    ) -> Result<Vec<Lease>, StorageError> {
        leases::list(&mut self.read().await?, filter, after, limit).await
    }

    async fn open_leases(&self) -> Result<Vec<Lease>, StorageError> {
        leases::open(&mut self.read().await?).await
    }

    async fn has_leases(&self) -> Result<bool, StorageError> {
        Ok(maintenance::has_leases(self.read().await?.statement()).await?)
    }

    async fn stored_machines(&self) -> Result<BTreeMap<String, StoredMachine>, StorageError> {
        leases::machines(&mut self.read().await?).await
    }

    async fn fence_floor(&self) -> Result<u64, StorageError> {
        fence_floor::fence_floor(&mut self.read().await?).await
    }

    async fn append_audit(&self, records: Vec<AuditRecord>) -> Result<(), StorageError> {
        self.write(audit::AppendAudit(records)).await
    }

    async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, StorageError> {
        audit::list(&mut self.read().await?, filter, after, limit).await
    }

    async fn insert_token(&self, token: &StoredToken) -> Result<bool, StorageError> {
        self.write(tokens::InsertToken(token.clone())).await
    }

    async fn revoke_token(&self, name: &str, now: Timestamp) -> Result<bool, StorageError> {
        self.write(tokens::RevokeToken { name: name.to_owned(), now }).await
    }

    async fn rotate_token(
        &self,
        name: &str,
        digest: TokenDigest,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, StorageError> {
        self.write(tokens::RotateToken { name: name.to_owned(), digest, now, expires_at }).await
    }

    async fn mark_tokens_used(&self, uses: Vec<TokenUse>) -> Result<(), StorageError> {
        self.write(tokens::MarkTokensUsed(uses)).await
    }

    async fn tokens(&self) -> Result<Vec<StoredToken>, StorageError> {
        tokens::all(&mut self.read().await?).await
    }

    async fn purge(&self, now: Timestamp, retention: &Retention) -> Result<Purged, StorageError> {
        purge::purge(self, now, retention).await
    }

    async fn purge_audit(
        &self,
        now: Timestamp,
        retention: &AuditRetention,
    ) -> Result<PurgedAudit, StorageError> {
        purge::purge_audit(self, now, retention).await
    }

    async fn record_last_seen(&self, now: Timestamp) -> Result<(), StorageError> {
        self.write(last_seen::RecordLastSeen(now)).await
    }

    async fn last_seen(&self) -> Result<Option<Timestamp>, StorageError> {
        last_seen::last_seen(&mut self.read().await?).await
    }

    fn refusal(&self) -> Option<String> {
        let refusal = self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().map(|cause| super::database_message(cause))
    }
}
