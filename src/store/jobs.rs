//! Reads of the table of jobs: one job, all jobs that have not ended, and pages of jobs.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection};

use super::{Reader, document};
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobKind, JobState, TargetId};
use crate::storage::{JobCursor, JobFilter, JobPage, StorageError};

pub async fn job(reader: &mut Reader<'_>, id: JobId) -> Result<Option<Job>, StorageError> {
    select(reader.statement(), id).await?
}

/// Reads one job on any connection. The inner error means that the job cannot be decoded.
pub async fn select(
    connection: &mut SqliteConnection,
    id: JobId,
) -> Result<Result<Option<Job>, StorageError>, sqlx::Error> {
    let row = sqlx::query("SELECT id, document_version, document FROM jobs WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(row.as_ref().map(read).transpose())
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
    let mut query = page_query(filter, after.as_ref(), limit);
    let mut rows = query.build().fetch_all(reader.statement()).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let items = rows.iter().map(read).collect::<Result<Vec<Job>, _>>()?;
    let next = if more { items.last().map(JobCursor::after) } else { None };
    Ok(JobPage { items, next })
}

/// The query for one page of the jobs that match the filter.
fn page_query(filter: &JobFilter, after: Option<&JobCursor>, limit: u32) -> QueryBuilder<Sqlite> {
    // The query reads one row more than the limit. If this row exists, there is a next page.
    let most = i64::from(limit) + 1;
    let mut query = QueryBuilder::<Sqlite>::new("SELECT id, document_version, document FROM jobs");
    if is_read_by_state(filter) {
        query.push(" WHERE id IN (SELECT id FROM (");
        for (number, part) in parts_by_state(filter).into_iter().enumerate() {
            query.push(if number == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
            query.push("SELECT created_at, id FROM jobs ");
            part.push(&mut query);
            push_conditions(&mut query, filter, after);
            query.push(NEWEST_FIRST).push_bind(most).push(") AS part");
        }
        query.push(") AS newest").push(NEWEST_FIRST).push_bind(most).push(")");
    } else {
        query.push(" WHERE 1 = 1");
        push_in_condition(&mut query, "state", filter.states.iter().map(|state| state.as_str()));
        push_in_condition(&mut query, "kind", filter.kinds.iter().map(|kind| kind.as_str()));
        push_conditions(&mut query, filter, after);
    }
    query.push(NEWEST_FIRST).push_bind(most);
    query
}

const NEWEST_FIRST: &str = " ORDER BY created_at DESC, id DESC LIMIT ";

/// A part of all jobs. The query of a page reads the newest jobs of each part separately.
enum PartByState {
    /// The jobs of this kind that ended in this state. The index `jobs_by_end` has them in the
    /// order of the page.
    Ended(JobState, JobKind),
    /// The jobs that have not ended and have one of these states and kinds. There are few such
    /// jobs.
    Unfinished(Vec<JobState>, Vec<JobKind>),
}

/// Whether the query reads the jobs of each state and kind separately. Otherwise SQLite would
/// search all jobs for a page of a rare state or kind. This is not needed if another condition of
/// the filter leaves few jobs.
fn is_read_by_state(filter: &JobFilter) -> bool {
    let JobFilter { states, machine, kinds, requested_by, reference, lease } = filter;
    let has_states = !states.is_empty() || !kinds.is_empty();
    let is_common = states.is_empty() || states.contains(&JobState::Succeeded);
    let has_few = machine.is_some() || reference.is_some() || lease.is_some();
    has_states && !has_few && (requested_by.is_none() || !is_common)
}

fn parts_by_state(filter: &JobFilter) -> Vec<PartByState> {
    let is_listed = |state: &JobState| filter.states.is_empty() || filter.states.contains(state);
    let (ends, unfinished): (Vec<JobState>, Vec<JobState>) =
        JobState::ALL.iter().copied().filter(is_listed).partition(|state| state.is_end());
    let kinds = if filter.kinds.is_empty() { JobKind::ALL } else { &filter.kinds };
    let ended = |end: JobState| kinds.iter().map(move |kind| PartByState::Ended(end, *kind));
    let mut parts: Vec<PartByState> = ends.into_iter().flat_map(ended).collect();
    if !unfinished.is_empty() {
        parts.push(PartByState::Unfinished(unfinished, filter.kinds.clone()));
    }
    parts
}

impl PartByState {
    fn push(&self, query: &mut QueryBuilder<Sqlite>) {
        match self {
            Self::Ended(state, kind) => {
                query.push("WHERE ended_at IS NOT NULL AND state = ").push_bind(state.as_str());
                query.push(" AND kind = ").push_bind(kind.as_str());
            }
            Self::Unfinished(states, kinds) => {
                // The index is named, because with a cursor SQLite would prefer the index of all
                // jobs by their time.
                query.push("INDEXED BY jobs_unfinished WHERE ended_at IS NULL");
                push_in_condition(query, "state", states.iter().map(|state| state.as_str()));
                push_in_condition(query, "kind", kinds.iter().map(|kind| kind.as_str()));
            }
        }
    }
}

/// Adds the conditions of the filter to the query, except those on the state and the kind.
fn push_conditions(
    query: &mut QueryBuilder<Sqlite>,
    filter: &JobFilter,
    after: Option<&JobCursor>,
) {
    let JobFilter { states: _, machine, kinds: _, requested_by, reference, lease } = filter;
    if let Some(machine) = machine {
        let target = TargetId::Machine(machine.clone());
        query.push(" AND target_kind = ").push_bind(target.kind());
        query.push(" AND target = ").push_bind(target.to_string());
    }
    let texts = [
        (" AND requested_by = ", requested_by.clone()),
        (" AND reference = ", reference.clone()),
        (" AND lease = ", lease.map(|lease| lease.to_string())),
    ];
    for (condition, text) in texts {
        if let Some(text) = text {
            query.push(condition).push_bind(text);
        }
    }
    if let Some(JobCursor { created_at, id }) = after {
        query.push(" AND (created_at, id) < (").push_bind(*created_at);
        query.push(", ").push_bind(id.to_string()).push(")");
    }
}

/// Adds the condition that the column has one of these words to the query. Adds nothing if there
/// are no words.
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

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::domain::ids::{LeaseId, MachineId};
    use crate::store::Store;
    use crate::store::samples::queued;

    /// The steps in which SQLite runs the query of a page (`EXPLAIN QUERY PLAN`).
    async fn plan(store: &Store, filter: &JobFilter) -> Vec<String> {
        let after = JobCursor::after(&queued(1));
        let query = page_query(filter, Some(&after), 100);
        let explain = format!("EXPLAIN QUERY PLAN {}", query.sql().as_str());
        let mut connection = store.0.writer_connection().await;
        let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(&mut *connection).await.unwrap();
        rows.iter().map(|row| row.get("detail")).collect()
    }

    #[tokio::test]
    async fn no_page_is_searched_among_all_jobs() {
        let store = Store::in_memory().await.unwrap();
        let text = || Some("x".to_owned());
        let none = JobFilter::default;
        for (filter, index) in [
            (none(), "jobs_newest"),
            (JobFilter { machine: Some(MachineId::from_backend("1")), ..none() }, "jobs_of_target"),
            (JobFilter { requested_by: text(), ..none() }, "jobs_of_caller"),
            (JobFilter { reference: text(), ..none() }, "jobs_of_reference"),
            (JobFilter { lease: Some(LeaseId::new(uuid::Uuid::nil())), ..none() }, "jobs_of_lease"),
            (JobFilter { kinds: vec![JobKind::MachineReset], ..none() }, "jobs_by_end"),
            (JobFilter { states: vec![JobState::Failed], ..none() }, "jobs_by_end"),
            (JobFilter { states: vec![JobState::Running], ..none() }, "jobs_unfinished"),
        ] {
            let plan = plan(&store, &filter).await;
            let reads: Vec<&String> = plan.iter().filter(|step| step.contains(" jobs ")).collect();
            let is_search = |step: &str| {
                let by_id = "sqlite_autoindex_jobs_1";
                // A scan of the index of unfinished jobs is accepted, because this index is short.
                step == "SCAN jobs USING INDEX jobs_unfinished"
                    || step.starts_with("SEARCH jobs USING")
                        && [index, "jobs_unfinished", by_id].iter().any(|one| step.contains(one))
            };
            assert!(!reads.is_empty(), "{plan:?}");
            assert!(reads.iter().all(|step| is_search(step)), "{filter:?}: {plan:#?}");
            assert!(plan.iter().any(|step| step.contains(index)), "{filter:?}: {plan:#?}");
        }
    }
}
