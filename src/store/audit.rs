//! The table of the audit. A record is added in the same transaction as the change that it records.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::transaction::{Transaction, Write};
use super::{Reader, microseconds};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::failure::FailureKind;
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::origin::RequestId;
use crate::storage::{AuditCursor, AuditEntry, AuditFilter, AuditPage, StorageError};

/// The approximate number of bytes that a row takes in the database file in addition to its texts.
/// The indexes are included.
const ROW_OVERHEAD: usize = 400;

/// A write that adds audit records without another change.
pub struct AppendAudit(pub Vec<AuditRecord>);

#[async_trait]
impl Write for AppendAudit {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        append(transaction, &self.0).await
    }
}

/// The values of an audit record, in the order of the columns in the statement that inserts them.
/// The statement reads them from JSON.
#[derive(Serialize)]
pub struct RowValues(
    i64,
    &'static str,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    &'static str,
    Option<&'static str>,
    Option<i64>,
    Option<String>,
    i64,
    /// The number of bytes of this row and of all rows before it in the same statement.
    i64,
);

/// The SQL statement that adds audit records. `$array` is the SQL expression for the JSON array of
/// their [`RowValues`].
macro_rules! insert_statement {
    ($array:literal) => {
        concat!(
            "INSERT INTO audit (id, happened_at, action, actor, address, request_id, machine, \
             machine_name, lease, job, reference, outcome, code, duration_ms, detail, \
             occurrences, total_bytes) \
             SELECT (SELECT COALESCE(MAX(id), 0) + 1 FROM audit) + r.key, r.value ->> 0, \
             r.value ->> 1, r.value ->> 2, r.value ->> 3, r.value ->> 4, r.value ->> 5, \
             r.value ->> 6, r.value ->> 7, r.value ->> 8, r.value ->> 9, r.value ->> 10, \
             r.value ->> 11, r.value ->> 12, r.value ->> 13, r.value ->> 14, \
             COALESCE((SELECT total_bytes FROM audit ORDER BY id DESC LIMIT 1), 0) \
             + (r.value ->> 15) FROM json_each(",
            $array,
            ") AS r"
        )
    };
}

pub(super) use insert_statement;

/// Adds audit records within the transaction of the change that they record, with one statement.
pub async fn append(
    transaction: &mut Transaction<'_>,
    records: &[AuditRecord],
) -> Result<(), sqlx::Error> {
    if records.is_empty() {
        return Ok(());
    }
    let rows = serde_json::to_string(&row_values(records))
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(insert_statement!("$1")).bind(rows).execute(transaction.statement()).await?;
    Ok(())
}

/// The values of the rows that one statement adds for these audit records.
pub fn row_values(records: &[AuditRecord]) -> Vec<RowValues> {
    let mut total = 0_i64;
    let row = |record: &AuditRecord| {
        let AuditRecord {
            at,
            action,
            actor,
            address,
            request_id,
            machine,
            lease,
            job,
            reference,
            outcome,
            code,
            duration,
            detail,
            count,
        } = record.clone();
        let (machine, machine_name) =
            machine.map(|(id, name)| (id.backend_text().to_owned(), name)).unzip();
        let request_id = request_id.map(|id| id.to_string());
        let (lease, job) = (lease.map(|id| id.to_string()), job.map(|id| id.to_string()));
        let texts = [
            &actor,
            &address,
            &request_id,
            &machine,
            &machine_name,
            &lease,
            &job,
            &reference,
            &detail,
        ];
        let bytes = ROW_OVERHEAD + texts.into_iter().flatten().map(String::len).sum::<usize>();
        total = total.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        RowValues(
            microseconds(at),
            action.as_str(),
            actor,
            address,
            request_id,
            machine,
            machine_name,
            lease,
            job,
            reference,
            outcome.as_str(),
            code.map(FailureKind::code),
            duration.map(|duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
            detail,
            i64::try_from(count).unwrap_or(i64::MAX),
            total,
        )
    };
    records.iter().map(row).collect()
}

/// Reads one page of the audit records that match the filter, newest first.
pub async fn list(
    reader: &mut Reader<'_>,
    filter: &AuditFilter,
    after: Option<AuditCursor>,
    limit: u32,
) -> Result<AuditPage, StorageError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT * FROM audit WHERE 1 = 1");
    let AuditFilter { actions, outcomes, actor, machine, lease, job, reference, since, until } =
        filter;
    push_in_condition(&mut query, " AND action IN (", actions.iter().map(|action| action.as_str()));
    push_in_condition(
        &mut query,
        " AND outcome IN (",
        outcomes.iter().map(|outcome| outcome.as_str()),
    );
    let columns = [
        (" AND actor = ", actor.clone()),
        (" AND machine = ", machine.as_ref().map(ToString::to_string)),
        (" AND lease = ", lease.map(|lease| lease.to_string())),
        (" AND job = ", job.map(|job| job.to_string())),
        (" AND reference = ", reference.clone()),
    ];
    for (column, value) in columns {
        if let Some(value) = value {
            query.push(column).push_bind(value);
        }
    }
    if let Some(since) = since {
        query.push(" AND happened_at >= ").push_bind(microseconds(*since));
    }
    if let Some(until) = until {
        query.push(" AND happened_at < ").push_bind(microseconds(*until));
    }
    if let Some(AuditCursor(id)) = after {
        query.push(" AND id < ").push_bind(id);
    }
    // The query reads one row more than the limit. If this row exists, there is a next page.
    query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit) + 1);
    let mut rows = query.build().fetch_all(reader.statement()).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let items = rows.iter().map(read).collect::<Result<Vec<_>, sqlx::Error>>()?;
    let next = items.last().filter(|_| more).map(|entry| AuditCursor(entry.id));
    Ok(AuditPage { items, next })
}

/// Adds a condition to the query: first the text `condition`, which ends with `IN (`, and then the
/// list of words. Adds nothing if there are no words.
fn push_in_condition(
    query: &mut QueryBuilder<Sqlite>,
    condition: &'static str,
    words: impl ExactSizeIterator<Item = &'static str>,
) {
    if words.len() == 0 {
        return;
    }
    query.push(condition);
    let mut list = query.separated(", ");
    for word in words {
        list.push_bind(word);
    }
    query.push(")");
}

fn read(row: &SqliteRow) -> Result<AuditEntry, sqlx::Error> {
    let machine: Option<&str> = row.try_get("machine")?;
    let machine_name: Option<String> = row.try_get("machine_name")?;
    let duration: Option<i64> = row.try_get("duration_ms")?;
    let count: i64 = row.try_get("occurrences")?;
    Ok(AuditEntry {
        id: row.try_get("id")?,
        record: AuditRecord {
            at: Timestamp::from_microsecond(row.try_get("happened_at")?)
                .map_err(|_| damaged("happened_at"))?,
            action: AuditAction::parse(row.try_get("action")?).ok_or_else(|| damaged("action"))?,
            actor: row.try_get("actor")?,
            address: row.try_get("address")?,
            request_id: id(row, "request_id", RequestId::new)?,
            machine: machine
                .map(|id| (MachineId::from_backend(id), machine_name.unwrap_or_default())),
            lease: id(row, "lease", LeaseId::new)?,
            job: id(row, "job", JobId::new)?,
            reference: row.try_get("reference")?,
            outcome: AuditOutcome::parse(row.try_get("outcome")?)
                .ok_or_else(|| damaged("outcome"))?,
            code: row
                .try_get::<Option<&str>, _>("code")?
                .map(|code| FailureKind::parse(code).ok_or_else(|| damaged("code")))
                .transpose()?,
            duration: duration
                .map(|duration| Duration::from_millis(u64::try_from(duration).unwrap_or(0))),
            detail: row.try_get("detail")?,
            count: u64::try_from(count).unwrap_or_default(),
        },
    })
}

fn id<T>(
    row: &SqliteRow,
    column: &str,
    make: impl Fn(uuid::Uuid) -> T,
) -> Result<Option<T>, sqlx::Error> {
    let text: Option<&str> = row.try_get(column)?;
    text.map(|text| text.parse().map(&make).map_err(|_| damaged(column))).transpose()
}

fn damaged(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(
        format!("the column {column} of an audit record has a value that otter does not write")
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::domain::access::{Role, TokenDigest};
    use crate::domain::failure::Failure;
    use crate::domain::job::{Job, JobState};
    use crate::domain::lease::LeaseState;
    use crate::domain::origin::{Actor, RequestOrigin};
    use crate::storage::{
        AuditRetention, ChangedLease, IdempotencyKey, InvalidAuditCursor, LeaseTransaction,
        PurgedAudit, Storage, StoredToken,
    };
    use crate::store::Store;
    use crate::store::samples::{ended, lease, queued, start};

    async fn started() -> Store {
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        store
    }

    async fn all(store: &Store) -> Vec<AuditRecord> {
        let page = store.audit(&AuditFilter::default(), None, 10_000).await.unwrap();
        page.items.into_iter().rev().map(|entry| entry.record).collect()
    }

    async fn actions(store: &Store) -> Vec<AuditAction> {
        all(store).await.into_iter().map(|record| record.action).collect()
    }

    fn running(job: &Job) -> Job {
        Job { state: JobState::Running, started_at: Some(job.created_at), ..job.clone() }
    }

    /// An audit record in which every field is set.
    fn full() -> AuditRecord {
        let origin = RequestOrigin {
            address: Some("192.0.2.7".parse().unwrap()),
            request_id: Some(RequestId::new(uuid::Uuid::from_u128(7))),
        };
        let failure = Failure::new(FailureKind::MachineLeased, "It is leased.");
        AuditRecord {
            machine: Some((MachineId::from_backend("16"), "sd-staging".to_owned())),
            job: Some(queued(1).id),
            reference: Some("run 7".to_owned()),
            duration: Some(Duration::from_millis(1_500)),
            count: 3,
            ..AuditRecord::new(start(), AuditAction::RequestRefused, AuditOutcome::Refused)
                .with_actor(&Actor { name: "ci".to_owned(), origin })
                .with_lease(&lease(1, LeaseState::Active, None))
                .with_failure(Some(&failure))
        }
    }

    #[tokio::test]
    async fn a_record_is_read_unchanged() {
        let store = started().await;
        let bare = AuditRecord::new(start(), AuditAction::PasswordReloaded, AuditOutcome::Failed);
        store.append_audit(vec![full(), bare.clone()]).await.unwrap();
        assert_eq!(all(&store).await, [full(), bare]);
    }

    #[tokio::test]
    async fn a_job_is_audited_once_for_each_change_of_its_state() {
        use AuditAction::{JobAccepted, JobEnded, JobStarted};
        let store = started().await;
        let job = queued(1);
        store.insert_job(&job, None, None).await.unwrap();
        for _ in 0..3 {
            store.update_job(&running(&job)).await.unwrap();
        }
        let done = ended(running(&job), JobState::Succeeded, start());
        store.update_job(&done).await.unwrap();
        store.update_job(&done).await.unwrap_err();
        assert_eq!(actions(&store).await, [JobAccepted, JobStarted, JobEnded]);
    }

    #[tokio::test]
    async fn a_cancellation_is_audited_once_with_its_first_requester() {
        use AuditAction::{JobAccepted, JobCancelRequested, JobEnded, JobStarted};
        let store = started().await;
        let mut waiting = queued(1);
        let mut running = running(&queued(2));
        let actor = |name: &str, number| {
            let request_id = Some(RequestId::new(uuid::Uuid::from_u128(number)));
            let address = Some("192.0.2.7".parse().unwrap());
            Actor { name: name.to_owned(), origin: RequestOrigin { address, request_id } }
        };
        for job in [&waiting, &running] {
            store
                .insert_job(&Job { state: JobState::Queued, ..job.clone() }, None, None)
                .await
                .unwrap();
        }
        store.update_job(&running).await.unwrap();
        running.request_cancel(actor("boss", 7), start());
        running.request_cancel(actor("late", 8), start());
        for _ in 0..3 {
            store.update_job(&running).await.unwrap();
        }
        store.update_job(&ended(running, JobState::Cancelled, start())).await.unwrap();
        // The job is cancelled while it is queued, so one update contains both the cancellation
        // request and the end.
        waiting.request_cancel(actor("boss", 9), start());
        store.update_job(&ended(waiting, JobState::Cancelled, start())).await.unwrap();
        assert_eq!(
            actions(&store).await,
            [
                JobAccepted,
                JobAccepted,
                JobStarted,
                JobCancelRequested,
                JobEnded,
                JobCancelRequested,
                JobEnded
            ]
        );
        let cancelled =
            all(&store).await.into_iter().filter(|record| record.action == JobCancelRequested);
        let requests: Vec<_> =
            cancelled.map(|record| (record.actor, record.request_id, record.job)).collect();
        let expected = [(7, queued(2).id), (9, queued(1).id)].map(|(number, job)| {
            let Actor { name, origin } = actor("boss", number);
            (Some(name), origin.request_id, Some(job))
        });
        assert_eq!(requests, expected);
    }

    #[tokio::test]
    async fn a_change_and_its_record_are_committed_together_or_not_at_all() {
        let store = started().await;
        let held = |number| {
            let lease = lease(number, LeaseState::Active, None);
            vec![ChangedLease::new(lease, Some("uuid:one".to_owned()))]
        };
        let save = async |number| {
            let step = LeaseTransaction {
                leases: held(number),
                audit: vec![full()],
                ..LeaseTransaction::default()
            };
            store.save_leases(step).await
        };
        save(1).await.unwrap();
        // Two leases would hold one machine, so the database refuses the change together with its
        // record.
        save(2).await.unwrap_err();
        assert_eq!(all(&store).await.len(), 1);
        let mut connection = store.0.writer_connection().await;
        let refuse =
            "CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END";
        sqlx::query(refuse).execute(&mut *connection).await.unwrap();
        drop(connection);
        store.insert_job(&queued(1), None, None).await.unwrap_err();
        assert!(
            store.job(queued(1).id).await.unwrap().is_none(),
            "a job was stored without its audit record"
        );
        let id = crate::domain::ids::TokenId::new(uuid::Uuid::from_u128(1));
        let token = StoredToken::new(id, "ci", Role::Runner, TokenDigest([7; 32]), start());
        store.insert_token(&token).await.unwrap_err();
        assert!(
            store.tokens().await.unwrap().is_empty(),
            "a token was stored without its audit record"
        );
    }

    #[tokio::test]
    async fn a_stored_key_and_an_unknown_token_name_are_not_audited() {
        let store = started().await;
        let key = IdempotencyKey {
            caller: "ci".to_owned(),
            method: "POST".to_owned(),
            path: "/v1/machines/1/power".to_owned(),
            key: "one".to_owned(),
            fingerprint: [7; 32],
            created_at: start(),
        };
        store.insert_job(&queued(1), Some(&key), None).await.unwrap();
        store.insert_job(&queued(2), Some(&key), None).await.unwrap_err();
        assert_eq!(actions(&store).await, [AuditAction::JobAccepted]);
        assert!(!store.revoke_token("unknown", start()).await.unwrap());
        assert_eq!(all(&store).await.len(), 1);
    }

    #[tokio::test]
    async fn what_is_old_goes_and_the_newest_stays() {
        let store = started().await;
        let record =
            |second: i64| AuditRecord { at: start() + SignedDuration::from_secs(second), ..full() };
        store.append_audit((0..1_200).map(record).collect()).await.unwrap();
        let hour = AuditRetention { time: Duration::from_hours(1), ..AuditRetention::default() };
        let now = start() + Duration::from_hours(1) + Duration::from_secs(1_100);
        let purged = store.purge_audit(now, &hour).await.unwrap();
        assert_eq!(purged, PurgedAudit { by_age: 1_100, by_bytes: 0 });
        let purged = store.purge_audit(now + Duration::from_hours(9), &hour).await.unwrap();
        assert_eq!(purged, PurgedAudit { by_age: 99, by_bytes: 0 });
        let page = store.audit(&AuditFilter::default(), None, 10).await.unwrap();
        assert_eq!(page.items.iter().map(|entry| entry.id).collect::<Vec<_>>(), [1_200]);
        store.append_audit(vec![record(2)]).await.unwrap();
        let page = store.audit(&AuditFilter::default(), None, 1).await.unwrap();
        assert_eq!(page.items[0].id, 1_201, "an id is never given again");
    }

    #[tokio::test]
    async fn more_bytes_than_allowed_push_out_the_oldest() {
        let store = started().await;
        let sized = |detail: usize| full().with_detail("x".repeat(detail));
        store.append_audit(vec![sized(1_000); 1_100]).await.unwrap();
        store.append_audit(vec![sized(10); 10]).await.unwrap();
        let small = AuditRetention { max_bytes: 20_000, ..AuditRetention::default() };
        let purged = store.purge_audit(start(), &small).await.unwrap();
        assert_eq!(purged.by_age, 0);
        let left = all(&store).await;
        assert_eq!(u64::try_from(left.len()).unwrap(), 1_110 - purged.by_bytes);
        let long =
            left.iter().filter(|record| record.detail.as_ref().unwrap().len() == 1_000).count();
        assert!((7..=10).contains(&long) && left.len() == long + 10, "{long} of {}", left.len());
        assert_eq!(
            store.purge_audit(start(), &small).await.unwrap(),
            PurgedAudit::default(),
            "enough"
        );
    }

    #[test]
    fn a_cursor_has_one_spelling() {
        assert_eq!("audit_7".parse(), Ok(AuditCursor(7)));
        for wrong in ["", "7", "audit_", "audit_+7", "audit_07", "audit_7 ", "audit_x"] {
            assert_eq!(wrong.parse::<AuditCursor>(), Err(InvalidAuditCursor), "{wrong}");
        }
    }
}
