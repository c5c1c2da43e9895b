//! Leases as rows, and what is kept of machines beside them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::audit;
use super::fence_floor::RaiseFenceFloor;
use super::keys::IdempotencyKey;
use super::writer::{Transaction, Write};
use super::{Reader, StoreError, document, microseconds};
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{Lease, LeaseState, Quarantine};

/// What is kept of a machine, by the key of who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptMachine {
    pub fence: u64,
    pub last_lease_end: Option<Timestamp>,
    pub quarantine: Option<Quarantine>,
    /// Since when the machine is absent from the host; `None` while it is there.
    pub absent_since: Option<Timestamp>,
}

/// A lease to be committed, and whom it keeps from others: the key of its machine while it holds one.
#[derive(Clone, Debug)]
pub struct LeaseRow {
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

/// Which leases to list; what is empty or `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseFilter {
    pub states: Vec<LeaseState>,
    pub machine: Option<MachineId>,
    pub pool: Option<String>,
    pub holder: Option<String>,
    pub reference: Option<String>,
}

/// A key that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptLeaseKey {
    pub lease: LeaseId,
    pub fingerprint_matches: bool,
}

impl LeaseRow {
    /// The row of a lease that keeps this machine from others, where it holds one.
    pub fn of(lease: &Lease, machine: Option<&str>) -> Result<Self, StoreError> {
        let document = document::encode_lease(lease)
            .map_err(|source| StoreError::Unreadable { job: lease.id.to_string(), source })?;
        Ok(Self {
            id: lease.id.to_string(),
            state: lease.state.as_str(),
            machine: lease.machine.as_ref().map(|machine| machine.id.to_string()),
            pool: lease.pool.clone(),
            holder: lease.holder.clone(),
            reference: lease.reference.clone(),
            created_at: microseconds(lease.created_at),
            ended_at: lease.state.is_end().then(|| microseconds(lease.ended_at.unwrap_or(lease.noted_at))),
            held: machine.filter(|_| lease.state.holds()).map(str::to_owned),
            document,
        })
    }
}

/// Everything that one step of the book changed.
#[derive(Clone, Debug, Default)]
pub struct SaveLeases {
    pub leases: Vec<LeaseRow>,
    pub machines: BTreeMap<String, KeptMachine>,
    /// The keys of the machines of which nothing is kept any more.
    pub forgotten: Vec<String>,
    /// Every later grant gets a higher fence than this.
    pub fence_floor: u64,
    /// The key of the call that asked for this lease.
    pub key: Option<(IdempotencyKey, LeaseId)>,
    /// The audit facts of the step.
    pub audit: Vec<AuditRecord>,
}

#[async_trait]
impl Write for SaveLeases {
    type Output = Result<(), StoreError>;

    async fn apply(&self, transaction: &mut Transaction<'_>) -> Result<Self::Output, sqlx::Error> {
        // Those that let go of a machine before those that take it.
        let (holding, free): (Vec<_>, Vec<_>) = self.leases.iter().partition(|row| row.held.is_some());
        for row in free.into_iter().chain(holding) {
            save(transaction, row).await?;
        }
        for (machine, kept) in &self.machines {
            let KeptMachine { fence, last_lease_end, quarantine, absent_since } = kept;
            let quarantine = match quarantine.as_ref().map(document::encode_quarantine).transpose() {
                Ok(quarantine) => quarantine,
                Err(source) => return Ok(Err(StoreError::Unreadable { job: machine.clone(), source })),
            };
            sqlx::query(
                "INSERT INTO kept_machines (machine, fence, last_lease_end, quarantine, absent_since) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (machine) DO UPDATE \
                 SET fence = $2, last_lease_end = $3, quarantine = $4, absent_since = $5",
            )
            .bind(machine)
            .bind(i64::try_from(*fence).unwrap_or(i64::MAX))
            .bind(last_lease_end.map(microseconds))
            .bind(quarantine)
            .bind(absent_since.map(microseconds))
            .execute(transaction.statement())
            .await?;
        }
        for machine in &self.forgotten {
            sqlx::query("DELETE FROM kept_machines WHERE machine = $1")
                .bind(machine)
                .execute(transaction.statement())
                .await?;
        }
        if self.fence_floor > 0 {
            RaiseFenceFloor(self.fence_floor).apply(transaction).await?;
        }
        if let Some((key, lease)) = &self.key {
            let IdempotencyKey { caller, method, path, key, fingerprint, created_at } = key;
            sqlx::query(
                "INSERT INTO lease_keys (caller, method, path, key, fingerprint, lease, created_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(caller)
            .bind(method)
            .bind(path)
            .bind(key)
            .bind(hex::encode(fingerprint))
            .bind(lease.to_string())
            .bind(microseconds(*created_at))
            .execute(transaction.statement())
            .await?;
        }
        audit::append(transaction, &self.audit).await?;
        Ok(Ok(()))
    }
}

async fn save(transaction: &mut Transaction<'_>, row: &LeaseRow) -> Result<(), sqlx::Error> {
    let LeaseRow { id, state, machine, pool, holder, reference, created_at, ended_at, held, document } = row;
    sqlx::query(
        "INSERT INTO leases (id, arrival, state, machine, pool, holder, reference, created_at, ended_at, held, \
         document_version, document) \
         VALUES ($1, (SELECT COALESCE(MAX(arrival), 0) + 1 FROM leases), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (id) DO UPDATE SET state = $2, machine = $3, pool = $4, holder = $5, reference = $6, \
         ended_at = $8, held = $9, document_version = $10, document = $11 WHERE leases.ended_at IS NULL",
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

/// Every lease that has not ended, in order of arrival. Times and ids do not give that order: the clock may have jumped.
pub async fn open(reader: &mut Reader<'_>) -> Result<Vec<Lease>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, document_version, document FROM leases WHERE ended_at IS NULL ORDER BY arrival",
    )
    .fetch_all(reader.statement())
    .await?;
    rows.iter().map(read).collect()
}

pub async fn lease(reader: &mut Reader<'_>, id: LeaseId) -> Result<Option<Lease>, StoreError> {
    let row = sqlx::query("SELECT id, document_version, document FROM leases WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(reader.statement())
        .await?;
    row.as_ref().map(read).transpose()
}

/// The leases that pass the filter, the newest first, from `after` on.
pub async fn list(
    reader: &mut Reader<'_>,
    filter: &LeaseFilter,
    after: Option<&Lease>,
    limit: u32,
) -> Result<Vec<Lease>, StoreError> {
    let mut query =
        QueryBuilder::<Sqlite>::new("SELECT id, document_version, document FROM leases WHERE 1 = 1");
    let LeaseFilter { states, machine, pool, holder, reference } = filter;
    if !states.is_empty() {
        query.push(" AND state IN (");
        let mut list = query.separated(", ");
        for state in states {
            list.push_bind(state.as_str());
        }
        query.push(")");
    }
    let machine = machine.as_ref().map(MachineId::as_str);
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
    query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit));
    let rows = query.build().fetch_all(reader.statement()).await?;
    rows.iter().map(read).collect()
}

/// Everything that is kept of machines.
pub async fn machines(reader: &mut Reader<'_>) -> Result<BTreeMap<String, KeptMachine>, StoreError> {
    let rows =
        sqlx::query("SELECT machine, fence, last_lease_end, quarantine, absent_since FROM kept_machines")
            .fetch_all(reader.statement())
            .await?;
    rows.iter().map(read_machine).collect()
}

/// Reads a row of `kept_machines`: the key of the machine, and what is kept of it.
pub fn read_machine(row: &SqliteRow) -> Result<(String, KeptMachine), StoreError> {
    let machine: String = row.try_get("machine")?;
    let fence: i64 = row.try_get("fence")?;
    let last: Option<i64> = row.try_get("last_lease_end")?;
    let quarantine: Option<&str> = row.try_get("quarantine")?;
    let absent: Option<i64> = row.try_get("absent_since")?;
    let quarantine = quarantine
        .map(document::decode_quarantine)
        .transpose()
        .map_err(|source| StoreError::Unreadable { job: machine.clone(), source })?;
    let kept = KeptMachine {
        fence: u64::try_from(fence).unwrap_or_default(),
        last_lease_end: last.and_then(|last| Timestamp::from_microsecond(last).ok()),
        quarantine,
        absent_since: absent.and_then(|absent| Timestamp::from_microsecond(absent).ok()),
    };
    Ok((machine, kept))
}

/// The lease that a key asked for.
pub async fn find_key(
    reader: &mut Reader<'_>,
    key: &IdempotencyKey,
) -> Result<Option<KeptLeaseKey>, StoreError> {
    let row = sqlx::query(
        "SELECT lease, fingerprint FROM lease_keys \
         WHERE caller = $1 AND method = $2 AND path = $3 AND key = $4",
    )
    .bind(&key.caller)
    .bind(&key.method)
    .bind(&key.path)
    .bind(&key.key)
    .fetch_optional(reader.statement())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let lease: &str = row.try_get("lease")?;
    let fingerprint: &str = row.try_get("fingerprint")?;
    let damaged = || sqlx::Error::Decode("a key's lease is no id".into());
    Ok(Some(KeptLeaseKey {
        lease: lease.parse().map_err(|_| damaged())?,
        fingerprint_matches: fingerprint == hex::encode(key.fingerprint),
    }))
}

/// Reads the columns `id`, `document_version` and `document`.
pub fn read(row: &SqliteRow) -> Result<Lease, StoreError> {
    let id: String = row.try_get("id")?;
    let version: i64 = row.try_get("document_version")?;
    let text: &str = row.try_get("document")?;
    document::decode_lease(version, text).map_err(|source| StoreError::Unreadable { job: id, source })
}
