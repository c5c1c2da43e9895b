//! The table of leases, and the table of the machines' stored state (`kept_machines`).

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::audit;
use super::fence_floor::RaiseFenceFloor;
use super::keys;
use super::transaction::{Transaction, Write};
use super::{Reader, document, microseconds};
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::Lease;
use crate::storage::{
    ChangedLease, IdempotencyKey, LeaseFilter, LeaseTransaction, StorageError, StoredMachine,
};

/// The values of the columns of a lease.
struct Row {
    id: String,
    state: &'static str,
    machine: Option<String>,
    pool: Option<String>,
    holder: String,
    reference: Option<String>,
    created_at: i64,
    ended_at: Option<i64>,
    held: Option<String>,
    document: String,
}

impl Row {
    fn from_change(change: ChangedLease) -> Result<Self, StorageError> {
        let ChangedLease { lease, held } = change;
        let document = document::encode_lease(&lease)
            .map_err(|source| StorageError::unreadable(format!("lease {}", lease.id), source))?;
        Ok(Self {
            id: lease.id.to_string(),
            state: lease.state.as_str(),
            machine: lease.machine.as_ref().map(|machine| machine.id.to_string()),
            pool: lease.pool.clone(),
            holder: lease.holder.clone(),
            reference: lease.reference.clone(),
            created_at: microseconds(lease.created_at),
            ended_at: lease
                .state
                .is_end()
                .then(|| microseconds(lease.ended_at.unwrap_or(lease.measured_at))),
            held,
            document,
        })
    }
}

/// The values of the columns of a machine's stored state.
struct MachineRow {
    machine: String,
    fence: i64,
    last_lease_end: Option<i64>,
    quarantine: Option<String>,
    absent_since: Option<i64>,
    recovery: Option<String>,
}

impl MachineRow {
    fn new(machine: String, stored: &StoredMachine) -> Result<Self, StorageError> {
        let StoredMachine { fence, last_lease_end, quarantine, absent_since, recovery } = stored;
        let unreadable = |source| StorageError::unreadable(format!("machine {machine}"), source);
        let quarantine = quarantine.as_ref().map(document::encode_quarantine).transpose();
        let quarantine = quarantine.map_err(unreadable)?;
        let recovery = recovery.as_ref().map(document::encode_recovery).transpose();
        let recovery = recovery.map_err(unreadable)?;
        Ok(Self {
            machine,
            fence: i64::try_from(*fence).unwrap_or(i64::MAX),
            last_lease_end: last_lease_end.map(microseconds),
            quarantine,
            absent_since: absent_since.map(microseconds),
            recovery,
        })
    }
}

/// A write of all rows that one [`LeaseTransaction`] changes.
pub struct SaveLeases {
    /// The changed leases. Leases without a machine come first, so that another lease of the same
    /// write can take a machine that one of them has given up.
    leases: Vec<Row>,
    machines: Vec<MachineRow>,
    deleted_machines: Vec<String>,
    fence_floor: u64,
    key: Option<(IdempotencyKey, LeaseId)>,
    audit: Vec<AuditRecord>,
}

impl SaveLeases {
    pub fn from_transaction(transaction: LeaseTransaction) -> Result<Self, StorageError> {
        let LeaseTransaction { mut leases, machines, deleted_machines, fence_floor, key, audit } =
            transaction;
        leases.sort_by_key(|change| change.held.is_some());
        Ok(Self {
            leases: leases.into_iter().map(Row::from_change).collect::<Result<_, _>>()?,
            machines: machines
                .into_iter()
                .map(|(machine, stored)| MachineRow::new(machine, &stored))
                .collect::<Result<_, _>>()?,
            deleted_machines,
            fence_floor,
            key,
            audit,
        })
    }
}

#[async_trait]
impl Write for SaveLeases {
    type Output = ();

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        for row in &self.leases {
            save(transaction, row).await?;
        }
        for row in &self.machines {
            let MachineRow { machine, fence, last_lease_end, quarantine, absent_since, recovery } =
                row;
            sqlx::query(
                "INSERT INTO kept_machines (machine, fence, last_lease_end, quarantine, \
                 absent_since, recovery) VALUES ($1, $2, $3, $4, $5, $6) \
                 ON CONFLICT (machine) DO UPDATE SET fence = $2, last_lease_end = $3, \
                 quarantine = $4, absent_since = $5, recovery = $6",
            )
            .bind(machine)
            .bind(fence)
            .bind(last_lease_end)
            .bind(quarantine)
            .bind(absent_since)
            .bind(recovery)
            .execute(transaction.statement())
            .await?;
        }
        for machine in &self.deleted_machines {
            sqlx::query("DELETE FROM kept_machines WHERE machine = $1")
                .bind(machine)
                .execute(transaction.statement())
                .await?;
        }
        if self.fence_floor > 0 {
            RaiseFenceFloor(self.fence_floor).apply(transaction).await?;
        }
        if let Some((key, lease)) = &self.key {
            keys::insert_for_lease(transaction, key, *lease).await?;
        }
        audit::append(transaction, &self.audit).await
    }
}

async fn save(transaction: &mut Transaction<'_>, row: &Row) -> Result<(), sqlx::Error> {
    let Row { id, state, machine, pool, holder, reference, created_at, ended_at, held, document } =
        row;
    sqlx::query(
        "INSERT INTO leases (id, arrival, state, machine, pool, holder, reference, created_at, \
         ended_at, held, document_version, document) \
         VALUES ($1, (SELECT COALESCE(MAX(arrival), 0) + 1 FROM leases), $2, $3, $4, $5, $6, $7, \
         $8, $9, $10, $11) ON CONFLICT (id) DO UPDATE SET state = $2, machine = $3, pool = $4, \
         holder = $5, reference = $6, ended_at = $8, held = $9, document_version = $10, document \
         = $11 WHERE leases.ended_at IS NULL",
    )
    .bind(id)
    .bind(*state)
    .bind(machine)
    .bind(pool)
    .bind(holder)
    .bind(reference)
    .bind(created_at)
    .bind(ended_at)
    .bind(held)
    .bind(document::VERSION)
    .bind(document)
    .execute(transaction.statement())
    .await?;
    Ok(())
}

/// Reads every lease that has not ended, in the order in which the leases were requested. The times
/// and ids of leases do not give that order, because the wall clock may have jumped.
pub async fn open(reader: &mut Reader<'_>) -> Result<Vec<Lease>, StorageError> {
    let rows = sqlx::query(
        "SELECT id, document_version, document FROM leases WHERE ended_at IS NULL ORDER BY arrival",
    )
    .fetch_all(reader.statement())
    .await?;
    rows.iter().map(read).collect()
}

pub async fn lease(reader: &mut Reader<'_>, id: LeaseId) -> Result<Option<Lease>, StorageError> {
    let row = sqlx::query("SELECT id, document_version, document FROM leases WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(reader.statement())
        .await?;
    row.as_ref().map(read).transpose()
}

/// Reads the leases that match the filter and are older than `after`, newest first.
pub async fn list(
    reader: &mut Reader<'_>,
    filter: &LeaseFilter,
    after: Option<&Lease>,
    limit: u32,
) -> Result<Vec<Lease>, StorageError> {
    let rows = list_query(filter, after, limit).build().fetch_all(reader.statement()).await?;
    rows.iter().map(read).collect()
}

const NEWEST_FIRST: &str = " ORDER BY created_at DESC, id DESC LIMIT ";

/// The query for the leases that match the filter and are older than `after`, newest first.
fn list_query(filter: &LeaseFilter, after: Option<&Lease>, limit: u32) -> QueryBuilder<Sqlite> {
    let most = i64::from(limit);
    let states: BTreeSet<&'static str> = filter.states.iter().map(|state| state.as_str()).collect();
    let mut query =
        QueryBuilder::<Sqlite>::new("SELECT id, document_version, document FROM leases WHERE ");
    if states.is_empty() {
        query.push("1 = 1");
        push_conditions(&mut query, filter, after);
    } else {
        // The newest leases of each state are read separately, because the index has them in this
        // order. Otherwise SQLite would search all leases for a page of a rare state.
        query.push("id IN (SELECT id FROM (");
        for (number, state) in states.into_iter().enumerate() {
            query.push(if number == 0 { "SELECT * FROM (" } else { " UNION ALL SELECT * FROM (" });
            query.push(
                "SELECT created_at, id FROM leases INDEXED BY leases_by_state WHERE state = ",
            );
            query.push_bind(state);
            push_conditions(&mut query, filter, after);
            query.push(NEWEST_FIRST).push_bind(most).push(") AS part");
        }
        query.push(") AS newest").push(NEWEST_FIRST).push_bind(most).push(")");
    }
    query.push(NEWEST_FIRST).push_bind(most);
    query
}

/// Adds the conditions of the filter to the query, except those on the state.
fn push_conditions(query: &mut QueryBuilder<Sqlite>, filter: &LeaseFilter, after: Option<&Lease>) {
    let LeaseFilter { states: _, machine, pool, holder, reference } = filter;
    let machine = machine.as_ref().map(MachineId::backend_text);
    let columns = [
        (" AND machine = ", machine),
        (" AND pool = ", pool.as_deref()),
        (" AND holder = ", holder.as_deref()),
        (" AND reference = ", reference.as_deref()),
    ];
    for (column, value) in columns {
        if let Some(value) = value {
            query.push(column).push_bind(value.to_owned());
        }
    }
    if let Some(after) = after {
        query.push(" AND (created_at, id) < (").push_bind(microseconds(after.created_at));
        query.push(", ").push_bind(after.id.to_string()).push(")");
    }
}

/// Reads the stored state of all machines.
pub async fn machines(
    reader: &mut Reader<'_>,
) -> Result<BTreeMap<String, StoredMachine>, StorageError> {
    let rows = sqlx::query(
        "SELECT machine, fence, last_lease_end, quarantine, absent_since, recovery \
         FROM kept_machines",
    )
    .fetch_all(reader.statement())
    .await?;
    rows.iter().map(read_machine).collect()
}

/// Decodes a row of the table `kept_machines`: the key of a machine, and the machine's stored
/// state.
pub fn read_machine(row: &SqliteRow) -> Result<(String, StoredMachine), StorageError> {
    let machine: String = row.try_get("machine")?;
    let fence: i64 = row.try_get("fence")?;
    let last: Option<i64> = row.try_get("last_lease_end")?;
    let quarantine: Option<&str> = row.try_get("quarantine")?;
    let absent: Option<i64> = row.try_get("absent_since")?;
    let recovery: Option<&str> = row.try_get("recovery")?;
    let unreadable = |source| StorageError::unreadable(format!("machine {machine}"), source);
    let quarantine = quarantine.map(document::decode_quarantine).transpose().map_err(unreadable)?;
    let recovery = recovery.map(document::decode_recovery).transpose().map_err(unreadable)?;
    let stored = StoredMachine {
        fence: u64::try_from(fence).unwrap_or_default(),
        last_lease_end: last.and_then(|last| Timestamp::from_microsecond(last).ok()),
        quarantine,
        absent_since: absent.and_then(|absent| Timestamp::from_microsecond(absent).ok()),
        recovery,
    };
    Ok((machine, stored))
}

/// Decodes a lease from the columns `id`, `document_version` and `document`.
pub fn read(row: &SqliteRow) -> Result<Lease, StorageError> {
    let id: String = row.try_get("id")?;
    let version: i64 = row.try_get("document_version")?;
    let text: &str = row.try_get("document")?;
    document::decode_lease(version, text)
        .map_err(|source| StorageError::unreadable(format!("lease {id}"), source))
}

#[cfg(test)]
mod tests {
    use sqlx::AssertSqlSafe;

    use super::*;
    use crate::domain::lease::LeaseState;
    use crate::store::Store;
    use crate::store::samples;

    #[tokio::test]
    async fn no_page_of_a_state_is_searched_among_all_leases() {
        let store = Store::in_memory().await.unwrap();
        let last = samples::lease(1, LeaseState::Queued, None);
        for after in [None, Some(&last)] {
            for states in [vec![LeaseState::Queued], vec![LeaseState::Queued, LeaseState::Failed]] {
                let filter = LeaseFilter { states, ..LeaseFilter::default() };
                let query = list_query(&filter, after, 100);
                let explain = format!("EXPLAIN QUERY PLAN {}", query.sql().as_str());
                let mut connection = store.0.writer_connection().await;
                let explain = sqlx::query(AssertSqlSafe(explain));
                let rows = explain.fetch_all(&mut *connection).await.unwrap();
                let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
                let reads = || plan.iter().filter(|step| step.contains(" leases"));
                let of_state = reads().filter(|step| step.contains("leases_by_state (state=?"));
                assert_eq!(of_state.count(), filter.states.len(), "{plan:#?}");
                assert!(reads().all(|step| step.starts_with("SEARCH leases USING")), "{plan:#?}");
            }
        }
    }
}
