//! The table of jobs. A job is inserted once and updated until it ends.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::audit;
use super::created_snapshots::SnapshotOriginChange;
use super::keys;
use super::writer::{Transaction, Write};
use super::{Reader, document, microseconds};
use crate::domain::audit::AuditRecord;
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobState, TargetId};
use crate::storage::{IdempotencyKey, JobCursor, JobFilter, JobPage, KeyOwner, StorageError};

/// The columns of a job.
pub struct Row {
    id: String,
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
}

impl Row {
    pub fn from_job(job: &Job) -> Result<Self, StorageError> {
        let document = document::encode(job)
            .map_err(|source| StorageError::unreadable(format!("job {}", job.id), source))?;
        let ended_at: Option<Timestamp> =
            job.state.is_end().then(|| job.finished_at.unwrap_or(job.updated_at));
        let target = job.target.id();
        Ok(Self {
            id: job.id.to_string(),
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
        })
    }
}

pub struct InsertJob {
    pub id: JobId,
    pub row: Row,
    pub key: Option<IdempotencyKey>,
    /// The audit records of the job's acceptance.
    pub audit: Vec<AuditRecord>,
}

#[async_trait]
impl Write for InsertJob {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        let row = &self.row;
        sqlx::query(
            "INSERT INTO jobs (id, arrival, state, kind, target_kind, target, requested_by, \
             reference, created_at, ended_at, document_version, document, lease) \
             VALUES ($1, (SELECT COALESCE(MAX(arrival), 0) + 1 FROM jobs), \
             $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(&row.id)
        .bind(row.state)
        .bind(row.kind)
        .bind(row.target_kind)
        .bind(&row.target)
        .bind(&row.requested_by)
        .bind(&row.reference)
        .bind(row.created_at)
        .bind(row.ended_at)
        .bind(document::VERSION)
        .bind(&row.document)
        .bind(&row.lease)
        .execute(transaction.statement())
        .await?;
        if let Some(key) = &self.key {
            keys::insert(transaction, key, KeyOwner::Job(self.id)).await?;
        }
        audit::append(transaction, &self.audit).await
    }
}

/// The new state of a job.
pub struct UpdateJob {
    id: JobId,
    row: Row,
    /// The audit records that this update may add, in order.
    records: Vec<(AuditRecord, RecordCondition)>,
    /// The change of the snapshots' origins, if the job ends with one.
    origin: Option<SnapshotOriginChange>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
/// The condition under which an update adds an audit record.
enum RecordCondition {
    /// The stored job is queued.
    Start,
    /// The stored job has no cancellation request.
    CancelRequest,
    /// Always, because an ended job is never updated.
    End,
}

impl UpdateJob {
    pub fn from_job(job: &Job) -> Result<Self, StorageError> {
        // Later updates of a running job have steps or an intent. For them the stored job need not
        // be read.
        let may_start =
            job.state == JobState::Running && job.steps.is_empty() && job.intent.is_none();
        let start = may_start.then(|| (AuditRecord::job_started(job), RecordCondition::Start));
        let cancel = AuditRecord::job_cancel_requested(job)
            .map(|record| (record, RecordCondition::CancelRequest));
        let end = job.state.is_end().then(|| (AuditRecord::job_ended(job), RecordCondition::End));
        let records = start.into_iter().chain(cancel).chain(end).collect();
        Ok(Self {
            id: job.id,
            row: Row::from_job(job)?,
            records,
            origin: SnapshotOriginChange::from_job(job),
        })
    }

    /// The audit records whose condition is true for the stored job.
    async fn records_to_add(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Result<Vec<AuditRecord>, StorageError>, sqlx::Error> {
        let stored = if self.records.iter().all(|(_, condition)| *condition == RecordCondition::End)
        {
            None
        } else {
            let row = sqlx::query("SELECT id, document_version, document FROM jobs WHERE id = $1")
                .bind(&self.row.id)
                .fetch_optional(transaction.statement())
                .await?;
            match row.as_ref().map(read).transpose() {
                Ok(stored) => stored,
                Err(error) => return Ok(Err(error)),
            }
        };
        let is_new = |condition: &RecordCondition| match condition {
            RecordCondition::Start => {
                stored.as_ref().is_some_and(|job| job.state == JobState::Queued)
            }
            RecordCondition::CancelRequest => {
                stored.as_ref().is_some_and(|job| job.cancel_requested_at.is_none())
            }
            RecordCondition::End => true,
        };
        let new = self.records.iter().filter(|(_, condition)| is_new(condition));
        Ok(Ok(new.map(|(record, _)| record.clone()).collect()))
    }
}

#[async_trait]
impl Write for UpdateJob {
    /// The audit records that were added.
    type Output = Result<Vec<AuditRecord>, StorageError>;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Self::Output, sqlx::Error> {
        let row = &self.row;
        let audited = match self.records_to_add(transaction).await? {
            Ok(audited) => audited,
            Err(error) => return Ok(Err(error)),
        };
        let updated = sqlx::query(
            "UPDATE jobs SET state = $2, kind = $3, target_kind = $4, target = $5, \
             requested_by = $6, reference = $7, created_at = $8, ended_at = $9, \
             document_version = $10, document = $11 \
             WHERE id = $1 AND state IN ('queued', 'running')",
        )
        .bind(&row.id)
        .bind(row.state)
        .bind(row.kind)
        .bind(row.target_kind)
        .bind(&row.target)
        .bind(&row.requested_by)
        .bind(&row.reference)
        .bind(row.created_at)
        .bind(row.ended_at)
        .bind(document::VERSION)
        .bind(&row.document)
        .execute(transaction.statement())
        .await?;
        if updated.rows_affected() > 0 {
            if let Some(origin) = &self.origin {
                origin.apply(transaction).await?;
            }
            audit::append(transaction, &audited).await?;
            return Ok(Ok(audited));
        }
        let known = sqlx::query("SELECT 1 FROM jobs WHERE id = $1")
            .bind(&row.id)
            .fetch_optional(transaction.statement())
            .await?;
        Ok(Err(match known {
            Some(_) => StorageError::AlreadyEnded(self.id),
            None => StorageError::NoSuchJob(self.id),
        }))
    }
}

pub async fn job(reader: &mut Reader<'_>, id: JobId) -> Result<Option<Job>, StorageError> {
    let row = sqlx::query("SELECT id, document_version, document FROM jobs WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(reader.statement())
        .await?;
    row.as_ref().map(read).transpose()
}

pub async fn unfinished(reader: &mut Reader<'_>) -> Result<Vec<Job>, StorageError> {
    let rows = sqlx::query(
        "SELECT id, document_version, document FROM jobs WHERE ended_at IS NULL ORDER BY arrival",
    )
    .fetch_all(reader.statement())
    .await?;
    rows.iter().map(read).collect()
}

pub async fn jobs(
    reader: &mut Reader<'_>,
    filter: &JobFilter,
    after: Option<JobCursor>,
    limit: u32,
) -> Result<JobPage, StorageError> {
    let mut query =
        QueryBuilder::<Sqlite>::new("SELECT id, document_version, document FROM jobs WHERE 1 = 1");
    let JobFilter { states, machine, kinds, requested_by, reference, lease } = filter;
    push_in_condition(&mut query, "state", states.iter().map(|state| state.as_str()));
    push_in_condition(&mut query, "kind", kinds.iter().map(|kind| kind.as_str()));
    if let Some(machine) = machine {
        let target = TargetId::Machine(machine.clone());
        query.push(" AND target_kind = ").push_bind(target.kind());
        query.push(" AND target = ").push_bind(target.to_string());
    }
    if let Some(requested_by) = requested_by {
        query.push(" AND requested_by = ").push_bind(requested_by);
    }
    if let Some(reference) = reference {
        query.push(" AND reference = ").push_bind(reference);
    }
    if let Some(lease) = lease {
        query.push(" AND lease = ").push_bind(lease.to_string());
    }
    if let Some(JobCursor { created_at, id }) = after {
        query.push(" AND (created_at, id) < (").push_bind(created_at);
        query.push(", ").push_bind(id.to_string()).push(")");
    }
    // Reads one row more than the limit, which shows whether there is a next page.
    query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let mut rows = query.build().fetch_all(reader.statement()).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let items = rows.iter().map(read).collect::<Result<Vec<Job>, _>>()?;
    let next = if more { items.last().map(JobCursor::after) } else { None };
    Ok(JobPage { items, next })
}

/// Adds the condition that the column has one of these words. Adds nothing if there are no words.
fn push_in_condition(
    query: &mut QueryBuilder<Sqlite>,
    column: &'static str,
    words: impl ExactSizeIterator<Item = &'static str>,
) {
    if words.len() == 0 {
        return;
    }
    query.push(" AND ").push(column).push(" IN (");
    let mut list = query.separated(", ");
    for word in words {
        list.push_bind(word);
    }
    query.push(")");
}

/// Decodes a job from the columns `id`, `document_version` and `document`.
pub fn read(row: &SqliteRow) -> Result<Job, StorageError> {
    let id: String = row.try_get("id")?;
    let version: i64 = row.try_get("document_version")?;
    let text: &str = row.try_get("document")?;
    document::decode(version, text)
        .map_err(|source| StorageError::unreadable(format!("job {id}"), source))
}
