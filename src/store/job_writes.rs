//! The writes of jobs. One statement commits any number of new and changed jobs with their keys and
//! audit records, so that a job needs no more statements than commits.
//!
//! ```text
//! rows ──► INSERT INTO job_writes VALUES (…), (…) ──► jobs, idempotency_keys, audit
//! ```
//! `job_writes` is a temporary view on the connection of the writer. Its triggers are temporary
//! too, and they change the tables row by row. The database file contains neither the view nor the
//! triggers.
//!
//! The stored job decides which audit records belong to an update. Only the writer changes jobs, so
//! [`OpenJobs`] remembers what the writer needs to know of the jobs that have not ended. The stored
//! job itself is read only for the first update after a start or after a failed commit.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::query_builder::Separated;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::audit::{self, insert_statement};
use super::created_snapshots::SnapshotOriginChange;
use super::transaction::Transaction;
use super::{document, jobs, microseconds};
use crate::domain::audit::AuditRecord;
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobState};
use crate::storage::{IdempotencyKey, StorageError};

/// The statements that create the view and its triggers on a connection.
const INSTALL: [&str; 6] = [
    "CREATE TEMP VIEW job_writes (is_new, id, state, kind, target_kind, target, requested_by, \
     reference, lease, created_at, ended_at, document_version, document, key, audit) AS \
     SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL",
    "CREATE TEMP TRIGGER job_inserted INSTEAD OF INSERT ON job_writes WHEN NEW.is_new BEGIN \
     INSERT INTO jobs (id, arrival, state, kind, target_kind, target, requested_by, reference, \
     lease, created_at, ended_at, document_version, document) \
     VALUES (NEW.id, (SELECT COALESCE(MAX(arrival), 0) + 1 FROM jobs), NEW.state, NEW.kind, \
     NEW.target_kind, NEW.target, NEW.requested_by, NEW.reference, NEW.lease, NEW.created_at, \
     NEW.ended_at, NEW.document_version, NEW.document); \
     INSERT INTO idempotency_keys (caller, method, path, key, fingerprint, job, created_at) \
     SELECT NEW.key ->> 0, NEW.key ->> 1, NEW.key ->> 2, NEW.key ->> 3, NEW.key ->> 4, NEW.id, \
     NEW.key ->> 5 WHERE NEW.key IS NOT NULL; \
     END",
    // The trigger assigns only the columns that an update changes, because SQLite rewrites every
    // index of an assigned column.
    "CREATE TEMP TRIGGER job_updated INSTEAD OF INSERT ON job_writes \
     WHEN NOT NEW.is_new AND NEW.ended_at IS NULL BEGIN \
     UPDATE jobs SET state = NEW.state, document_version = NEW.document_version, \
     document = NEW.document WHERE id = NEW.id; \
     END",
    "CREATE TEMP TRIGGER job_ended INSTEAD OF INSERT ON job_writes \
     WHEN NOT NEW.is_new AND NEW.ended_at IS NOT NULL BEGIN \
     UPDATE jobs SET state = NEW.state, ended_at = NEW.ended_at, \
     document_version = NEW.document_version, document = NEW.document WHERE id = NEW.id; \
     END",
    "CREATE TEMP TRIGGER job_described INSTEAD OF INSERT ON job_writes WHEN NOT NEW.is_new BEGIN \
     UPDATE jobs SET kind = NEW.kind, target_kind = NEW.target_kind, target = NEW.target, \
     requested_by = NEW.requested_by, reference = NEW.reference, created_at = NEW.created_at \
     WHERE id = NEW.id AND (kind <> NEW.kind OR target_kind <> NEW.target_kind \
     OR target <> NEW.target OR requested_by <> NEW.requested_by \
     OR created_at <> NEW.created_at OR reference IS DISTINCT FROM NEW.reference); \
     END",
    concat!(
        "CREATE TEMP TRIGGER job_audited INSTEAD OF INSERT ON job_writes \
         WHEN NEW.audit IS NOT NULL BEGIN ",
        insert_statement!("NEW.audit"),
        "; END"
    ),
];

/// The maximum number of rows of one statement. SQLite allows 32,766 values.
const MAX_ROWS: usize = 1_000;

/// Creates the view and its triggers on the connection of the writer.
pub async fn install(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for statement in INSTALL {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// A write of a new job, or of the new state of a job.
pub struct JobWrite {
    id: JobId,
    is_new: bool,
    row: Row,
    /// The audit records that this write may add, in order, each with its condition.
    records: Vec<(AuditRecord, RecordCondition)>,
    /// The change of the table `created_snapshots`, if the job ends with this write and causes one.
    origin: Option<SnapshotOriginChange>,
    written: JobProgress,
}

/// The result of a write of a job: the audit records that were committed with the job.
pub type JobWritten = Result<Vec<AuditRecord>, StorageError>;

/// The values of a row of `job_writes`, except the audit records.
struct Row {
    state: &'static str,
    kind: &'static str,
    target_kind: &'static str,
    target: String,
    requested_by: String,
    reference: Option<String>,
    lease: Option<String>,
    created_at: i64,
    ended_at: Option<i64>,
    document: String,
    key: Option<KeyValues>,
}

/// The values of an idempotency key: caller, method, path, key, fingerprint, and the time of the
/// call.
#[derive(Clone, Serialize)]
struct KeyValues(String, String, String, String, String, i64);

/// The condition under which a write adds an audit record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RecordCondition {
    /// The record is added if the stored job is still queued.
    Start,
    /// The record is added if the stored job has no cancellation request.
    CancelRequest,
    Always,
}

/// How far a stored job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct JobProgress {
    has_started: bool,
    has_cancel_request: bool,
    has_ended: bool,
}

/// How far those jobs have come that have not ended, as the last commits stored them. A job that is
/// missing in this map is read from the database.
#[derive(Default)]
pub struct OpenJobs(HashMap<JobId, JobProgress>);

impl JobWrite {
    /// The write of a new job.
    ///
    /// # Parameters
    /// - `audit`: the audit records of the acceptance of the job.
    pub fn insert(
        job: &Job,
        key: Option<&IdempotencyKey>,
        audit: Vec<AuditRecord>,
    ) -> Result<Self, StorageError> {
        let always = |record| (record, RecordCondition::Always);
        Ok(Self {
            id: job.id,
            is_new: true,
            row: Row::from_job(job, key)?,
            records: audit.into_iter().map(always).collect(),
            origin: None,
            written: JobProgress::from_job(job),
        })
    }

    /// The write of the new state of a job.
    pub fn update(job: &Job) -> Result<Self, StorageError> {
        let start = AuditRecord::job_started(job).map(|record| (record, RecordCondition::Start));
        let cancel = AuditRecord::job_cancel_requested(job)
            .map(|record| (record, RecordCondition::CancelRequest));
        let end =
            job.state.is_end().then(|| (AuditRecord::job_ended(job), RecordCondition::Always));
        Ok(Self {
            id: job.id,
            is_new: false,
            row: Row::from_job(job, None)?,
            records: start.into_iter().chain(cancel).chain(end).collect(),
            origin: SnapshotOriginChange::from_job(job),
            written: JobProgress::from_job(job),
        })
    }

    /// The id of the job that is written.
    pub const fn id(&self) -> JobId {
        self.id
    }

    /// Whether the write needs only one statement, and no change of the table `created_snapshots`.
    pub const fn is_one_statement(&self) -> bool {
        self.origin.is_none()
    }

    /// The audit records of this write whose condition holds for the stored job.
    fn records_after(&self, stored: JobProgress) -> Vec<AuditRecord> {
        let is_new = |condition: RecordCondition| match condition {
            RecordCondition::Start => !stored.has_started,
            RecordCondition::CancelRequest => !stored.has_cancel_request,
            RecordCondition::Always => true,
        };
        let new = self.records.iter().filter(|(_, condition)| is_new(*condition));
        new.map(|(record, _)| record.clone()).collect()
    }

    /// Adds the values of `job_writes`, in the order of its columns.
    fn push_values(
        &self,
        mut values: Separated<'_, Sqlite, &'static str>,
        audit: &[AuditRecord],
    ) -> Result<(), sqlx::Error> {
        let Row {
            state,
            kind,
            target_kind,
            target,
            requested_by,
            reference,
            lease,
            created_at,
            ended_at,
            document,
            key,
        } = &self.row;
        let audit = (!audit.is_empty()).then(|| to_json(&audit::row_values(audit))).transpose()?;
        values.push_bind(self.is_new);
        values.push_bind(self.id.to_string());
        values.push_bind(*state);
        values.push_bind(*kind);
        values.push_bind(*target_kind);
        values.push_bind(target.clone());
        values.push_bind(requested_by.clone());
        values.push_bind(reference.clone());
        values.push_bind(lease.clone());
        values.push_bind(*created_at);
        values.push_bind(*ended_at);
        values.push_bind(document::VERSION);
        values.push_bind(document.clone());
        values.push_bind(key.as_ref().map(to_json).transpose()?);
        values.push_bind(audit);
        Ok(())
    }
}

/// Applies writes of jobs in their order, with one statement for each [`MAX_ROWS`] of them, and one
/// more statement for each change of the table `created_snapshots`. Returns the result of each
/// write.
///
/// # Errors
/// If the function fails, nothing is changed. The caller must then call [`OpenJobs::forget`] with
/// all these jobs.
pub async fn apply(
    transaction: &mut Transaction<'_>,
    open_jobs: &mut OpenJobs,
    writes: &[&JobWrite],
) -> Result<Vec<JobWritten>, sqlx::Error> {
    let mut results = Vec::with_capacity(writes.len());
    for write in writes {
        let stored = match open_jobs.stored(transaction, write).await? {
            Ok(stored) => stored,
            Err(refusal) => {
                results.push(Err(refusal));
                continue;
            }
        };
        let audit = write.records_after(stored);
        results.push(Ok(audit));
        open_jobs.0.insert(write.id, write.written);
    }
    let rows: Vec<(&JobWrite, &[AuditRecord])> = writes
        .iter()
        .zip(&results)
        .filter_map(|(write, result)| Some((*write, result.as_ref().ok()?.as_slice())))
        .collect();
    for rows in rows.chunks(MAX_ROWS) {
        insert(transaction, rows).await?;
    }
    for (write, result) in writes.iter().zip(&results) {
        if let (Some(origin), Ok(_)) = (&write.origin, result) {
            origin.apply(transaction).await?;
        }
    }
    Ok(results)
}

/// Writes at most [`MAX_ROWS`] rows with one statement.
async fn insert(
    transaction: &mut Transaction<'_>,
    rows: &[(&JobWrite, &[AuditRecord])],
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new("INSERT INTO job_writes VALUES ");
    for (number, (write, audit)) in rows.iter().enumerate() {
        query.push(if number == 0 { "(" } else { ", (" });
        write.push_values(query.separated(", "), audit)?;
        query.push(")");
    }
    // The connection keeps only the statement for a single row. It keeps few statements, and there
    // is one for each number of rows.
    let statement = query.build().persistent(rows.len() == 1);
    statement.execute(transaction.statement()).await?;
    Ok(())
}

fn to_json(value: &impl Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

impl OpenJobs {
    /// Records that the writes of these jobs are committed. Forgets those jobs that have ended.
    pub fn committed(&mut self, jobs: impl Iterator<Item = JobId>) {
        for id in jobs {
            if self.0.get(&id).is_some_and(|progress| progress.has_ended) {
                self.0.remove(&id);
            }
        }
    }

    /// Forgets these jobs. Their commit failed, so it is not known how far the stored jobs have
    /// come.
    pub fn forget(&mut self, jobs: impl Iterator<Item = JobId>) {
        for id in jobs {
            self.0.remove(&id);
        }
    }

    /// How far the stored job of a write has come. The inner error says why the write is refused.
    async fn stored(
        &self,
        transaction: &mut Transaction<'_>,
        write: &JobWrite,
    ) -> Result<Result<JobProgress, StorageError>, sqlx::Error> {
        if write.is_new {
            // The job is new. If a job with its id exists, the database itself refuses the write.
            return Ok(Ok(write.written));
        }
        let stored = match self.0.get(&write.id) {
            Some(known) => *known,
            None => match jobs::select(transaction.statement(), write.id).await? {
                Ok(Some(job)) => JobProgress::from_job(&job),
                Ok(None) => return Ok(Err(StorageError::NoSuchJob(write.id))),
                Err(error) => return Ok(Err(error)),
            },
        };
        let is_open = !stored.has_ended;
        Ok(if is_open { Ok(stored) } else { Err(StorageError::AlreadyEnded(write.id)) })
    }
}

impl JobProgress {
    fn from_job(job: &Job) -> Self {
        Self {
            has_started: job.state != JobState::Queued,
            has_cancel_request: job.cancel_requested_at.is_some(),
            has_ended: job.state.is_end(),
        }
    }
}

impl Row {
    fn from_job(job: &Job, key: Option<&IdempotencyKey>) -> Result<Self, StorageError> {
        let document = document::encode(job)
            .map_err(|source| StorageError::unreadable(format!("job {}", job.id), source))?;
        let ended_at = job.state.is_end().then(|| job.finished_at.unwrap_or(job.updated_at));
        let target = job.target.id();
        Ok(Self {
            state: job.state.as_str(),
            kind: job.kind().as_str(),
            target_kind: target.kind(),
            target: target.to_string(),
            requested_by: job.requested_by.clone(),
            reference: job.reference.clone(),
            lease: job.lease.map(|lease| lease.to_string()),
            created_at: microseconds(job.created_at),
            ended_at: ended_at.map(microseconds),
            document,
            key: key.map(KeyValues::from_key),
        })
    }
}

impl KeyValues {
    fn from_key(key: &IdempotencyKey) -> Self {
        let IdempotencyKey { caller, method, path, key, fingerprint, created_at } = key.clone();
        let fingerprint = hex::encode(fingerprint);
        Self(caller, method, path, key, fingerprint, microseconds(created_at))
    }
}
