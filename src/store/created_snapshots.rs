//! The table that says under which lease each snapshot was created. The write that ends the job
//! which creates or removes a snapshot also changes this table.

use std::collections::BTreeSet;

use async_trait::async_trait;
use sqlx::Row as _;

use super::Reader;
use super::transaction::{Transaction, Write};
use crate::domain::ids::{LeaseId, SnapshotId};
use crate::domain::job::{Job, JobRequest, JobState};
use crate::domain::machine::MachineIdentity;
use crate::storage::StorageError;

/// The maximum number of rows that one commit deletes. Other commits run between two such commits.
const BATCH_ROWS: i64 = 500;

/// How the table `created_snapshots` changes when a job ends.
pub enum SnapshotOriginChange {
    /// The job has created a snapshot, under this lease or without a lease.
    Made { machine: String, snapshot: String, lease: Option<String> },
    /// The job has removed a snapshot.
    Removed { machine: String, snapshot: String },
    /// The job has removed every snapshot of the machine.
    RemovedAll { machine: String },
}

impl SnapshotOriginChange {
    /// The change of the table `created_snapshots` that the end of a job causes. `None` if the job
    /// did not succeed, or if it neither creates nor removes snapshots.
    pub fn from_job(job: &Job) -> Option<Self> {
        if job.state != JobState::Succeeded {
            return None;
        }
        let machine = job.target.machine()?.key();
        match &job.request {
            JobRequest::CreateSnapshot { .. } => {
                let snapshot = job.result.as_ref()?.snapshot.as_ref()?.to_string();
                Some(Self::Made {
                    machine,
                    snapshot,
                    lease: job.lease.map(|lease| lease.to_string()),
                })
            }
            JobRequest::RemoveSnapshot { snapshot, .. } => {
                Some(Self::Removed { machine, snapshot: snapshot.to_string() })
            }
            JobRequest::RemoveAllSnapshots => Some(Self::RemovedAll { machine }),
            _ => None,
        }
    }

    /// Writes the change within the transaction that stores the end of the job.
    pub async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        match self {
            Self::Made { machine, snapshot, lease } => {
                // A host can use the id of a removed snapshot again, so a row that exists for this
                // id is out of date.
                delete_row(transaction, machine, snapshot).await?;
                let Some(lease) = lease else { return Ok(()) };
                let insert =
                    "INSERT INTO created_snapshots (machine, snapshot, lease) VALUES ($1, $2, $3)";
                sqlx::query(insert)
                    .bind(machine)
                    .bind(snapshot)
                    .bind(lease)
                    .execute(transaction.statement())
                    .await?;
            }
            Self::Removed { machine, snapshot } => {
                delete_row(transaction, machine, snapshot).await?;
            }
            Self::RemovedAll { machine } => {
                sqlx::query("DELETE FROM created_snapshots WHERE machine = $1")
                    .bind(machine)
                    .execute(transaction.statement())
                    .await?;
            }
        }
        Ok(())
    }
}

async fn delete_row(
    transaction: &mut Transaction<'_>,
    machine: &str,
    snapshot: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM created_snapshots WHERE machine = $1 AND snapshot = $2")
        .bind(machine)
        .bind(snapshot)
        .execute(transaction.statement())
        .await?;
    Ok(())
}

/// The ids of those snapshots of a machine that were created under a lease.
pub async fn made_under(
    reader: &mut Reader<'_>,
    machine: &MachineIdentity,
    lease: LeaseId,
) -> Result<BTreeSet<SnapshotId>, StorageError> {
    let rows =
        sqlx::query("SELECT snapshot FROM created_snapshots WHERE machine = $1 AND lease = $2")
            .bind(machine.key())
            .bind(lease.to_string())
            .fetch_all(reader.statement())
            .await?;
    rows.iter()
        .map(|row| Ok(SnapshotId::from_backend(row.try_get::<String, _>("snapshot")?)))
        .collect()
}

/// A write that deletes the rows of leases which a purge has deleted.
pub struct DeleteRowsOfPurgedLeases;

impl DeleteRowsOfPurgedLeases {
    /// The maximum number of rows that one write deletes.
    pub const BATCH_ROWS: u64 = BATCH_ROWS.unsigned_abs();
}

#[async_trait]
impl Write for DeleteRowsOfPurgedLeases {
    type Output = u64;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<u64, sqlx::Error> {
        let done = sqlx::query(
            "DELETE FROM created_snapshots WHERE (machine, snapshot) IN (SELECT c.machine, \
             c.snapshot FROM created_snapshots AS c WHERE NOT EXISTS (SELECT 1 FROM leases AS l \
             WHERE l.id = c.lease) LIMIT $1)",
        )
        .bind(BATCH_ROWS)
        .execute(transaction.statement())
        .await?;
        Ok(done.rows_affected())
    }
}
