//! `otter store restore`: creates a state directory from an archive. The restore ends all
//! unfinished jobs and leases, so that the daemon does not call the host for them.
//!
//! ```text
//! lock the empty directory ─► extract the members and check their hashes ─► check the database
//!   ─► migrate it ─► end unfinished jobs and leases ─► rename it to otter.db
//! ```
//! If the restore fails, it leaves the directory as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use sqlx::{Connection, Row as _, SqliteConnection};

use super::archive::{self, ArchiveError, Manifest};
use super::audit;
use super::fence_floor::RaiseFenceFloor;
use super::files::{self, DATABASE, LOCK, SECRET_KEY, UNFINISHED_RESTORE as UNFINISHED};
use super::job_writes::{self, JobWrite, OpenJobs};
use super::jobs;
use super::leases::{self, SaveLeases};
use super::open;
use super::serial_ports::RaiseOffsets;
use super::sqlite_errors::refusal;
use super::transaction::{Transaction, Write};
use super::{StoreError, maintenance, migrate, schema, state_directory};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::job::JobState;
use crate::domain::origin::Actor;
use crate::domain::restore;
use crate::storage::{ChangedLease, LeaseTransaction, StoredMachine};

/// The text in the audit records of the leases that a restore ends and of the quarantines that it
/// makes.
const RESTORED: &str = "the state was restored from a backup";

/// The result of a restore: the manifest of the archive, and how many jobs and leases the restore
/// ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    pub manifest: Manifest,
    pub cancelled_jobs: usize,
    pub unknown_jobs: usize,
    pub revoked_leases: usize,
    pub quarantined_machines: usize,
}

/// Creates a state directory from an archive.
///
/// # Errors
/// `Locked` if a daemon uses the directory. `NotEmpty` if the directory contains a file other than
/// the lock file. `Archive` if the archive is damaged. `NewerArchive` if its schema is newer than
/// the current one.
pub async fn restore(
    archive: &Path,
    state_dir: &Path,
    now: Timestamp,
) -> Result<RestoreReport, StoreError> {
    let unusable = |source| StoreError::Archive { path: archive.to_owned(), source };
    let schema = archive::manifest(archive).map_err(unusable)?.schema;
    if schema > schema::current() {
        return Err(StoreError::NewerArchive { path: archive.to_owned(), schema });
    }
    let mut cleanup = RemoveOnDrop::default();
    let was_there = state_dir.exists();
    state_directory::create_directory(state_dir)?;
    if !was_there {
        cleanup.add(state_dir);
    }
    let _lock = lock_empty_directory(state_dir, &mut cleanup)?;
    state_directory::restrict_permissions(state_dir)?;
    for name in [UNFINISHED, "otter.db.restoring-journal", SECRET_KEY] {
        cleanup.add(&state_dir.join(name));
    }
    let name_of = |member: &str| match member {
        DATABASE => Some(UNFINISHED),
        SECRET_KEY => Some(SECRET_KEY),
        _ => None,
    };
    let manifest = archive::extract(archive, state_dir, name_of).map_err(|error| match error {
        ArchiveError::Write { source, .. } => StoreError::not_writable(state_dir, source),
        error => unusable(error),
    })?;
    let restored = end_unfinished_work(state_dir, manifest, now).await?;
    std::fs::rename(state_dir.join(UNFINISHED), state_dir.join(DATABASE))
        .and_then(|()| files::sync_directory(state_dir))
        .map_err(|source| StoreError::not_writable(state_dir, source))?;
    cleanup.disarm();
    Ok(restored)
}

/// Locks a directory that must be empty, except for a lock file.
fn lock_empty_directory(
    directory: &Path,
    cleanup: &mut RemoveOnDrop,
) -> Result<std::fs::File, StoreError> {
    let lock = directory.join(LOCK);
    let locked = if lock.exists() { Some(open::lock(directory)?) } else { None };
    let entries = std::fs::read_dir(directory)
        .map_err(|source| StoreError::not_writable(directory, source))?;
    if entries.flatten().any(|entry| entry.file_name() != LOCK) {
        return Err(StoreError::NotEmpty { path: directory.to_owned() });
    }
    if let Some(locked) = locked {
        return Ok(locked);
    }
    cleanup.add(&lock);
    open::lock(directory)
}

/// Checks the restored database, migrates it, and ends all unfinished jobs and leases in it.
async fn end_unfinished_work(
    state_dir: &Path,
    manifest: Manifest,
    now: Timestamp,
) -> Result<RestoreReport, StoreError> {
    let file = state_dir.join(UNFINISHED);
    let mut connection = open::open_exclusive(state_dir, &file).await?;
    let problems = maintenance::find_damage(&mut connection)
        .await
        .map_err(|source| refusal(state_dir, &file, source))?;
    if let Some(what) = problems.into_iter().next() {
        return Err(StoreError::Damaged { path: file, what });
    }
    migrate::migrate(&mut connection, state_dir, &file).await?;
    let mut transaction = connection.begin().await?;
    let mut restored = RestoreReport {
        manifest,
        cancelled_jobs: 0,
        unknown_jobs: 0,
        revoked_leases: 0,
        quarantined_machines: 0,
    };
    end_jobs(&mut transaction, now, &mut restored).await?;
    end_leases(&mut transaction, now, &mut restored).await?;
    raise_fences(&mut transaction, now).await?;
    RaiseOffsets.apply(&mut Transaction::new(&mut transaction, &AtomicU64::new(0))).await?;
    audit_restore(&mut transaction, now, &restored.manifest).await?;
    transaction.commit().await?;
    connection.close().await?;
    Ok(restored)
}

async fn end_jobs(
    connection: &mut SqliteConnection,
    now: Timestamp,
    restored: &mut RestoreReport,
) -> Result<(), StoreError> {
    let rows =
        sqlx::query("SELECT id, document_version, document FROM jobs WHERE ended_at IS NULL")
            .fetch_all(&mut *connection)
            .await?;
    let mut writes = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut job = jobs::read(row)?;
        restore::end_job(&mut job, now);
        match job.state {
            JobState::Cancelled => restored.cancelled_jobs += 1,
            _ => restored.unknown_jobs += 1,
        }
        writes.push(JobWrite::update(&job)?);
    }
    job_writes::install(connection).await?;
    let writes: Vec<&JobWrite> = writes.iter().collect();
    let statements = AtomicU64::new(0);
    let mut transaction = Transaction::new(connection, &statements);
    for result in job_writes::apply(&mut transaction, &mut OpenJobs::default(), &writes).await? {
        result?;
    }
    Ok(())
}

async fn end_leases(
    connection: &mut SqliteConnection,
    now: Timestamp,
    restored: &mut RestoreReport,
) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT machine, fence, last_lease_end, quarantine, absent_since, recovery \
         FROM kept_machines",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut machines: BTreeMap<String, StoredMachine> =
        rows.iter().map(leases::read_machine).collect::<Result<_, _>>()?;
    let rows = sqlx::query(
        "SELECT id, held, document_version, document FROM leases WHERE ended_at IS NULL",
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut ended = Vec::with_capacity(rows.len());
    let mut audit = Vec::new();
    // Others may have used these machines since the backup, so otter must not release them by
    // itself.
    for stored in machines.values_mut().filter(|stored| stored.recovery.is_some()) {
        stored.recovery = None;
        if stored.quarantine.is_none() {
            stored.quarantine = Some(restore::quarantine(None, now));
            restored.quarantined_machines += 1;
        }
    }
    for row in &rows {
        let mut lease = leases::read(row)?;
        restore::end_lease(&mut lease, now);
        let record = AuditRecord::new(now, AuditAction::LeaseEnded, lease.state.into());
        audit.push(record.with_actor(&Actor::otter()).with_lease(&lease).with_detail(RESTORED));
        if let Some(held) = row.try_get::<Option<String>, _>("held")? {
            let stored = machines.entry(held).or_default();
            stored.fence = stored.fence.max(lease.fence.unwrap_or_default());
            stored.last_lease_end = Some(now);
            stored.quarantine = Some(restore::quarantine(stored.quarantine.as_ref(), now));
            restored.quarantined_machines += 1;
            let record = AuditRecord::new(now, AuditAction::MachineQuarantined, AuditOutcome::Done);
            audit.push(record.with_actor(&Actor::otter()).with_lease(&lease).with_detail(RESTORED));
        }
        ended.push(ChangedLease::new(lease, None));
    }
    restored.revoked_leases = ended.len();
    let save = LeaseTransaction { leases: ended, machines, audit, ..LeaseTransaction::default() };
    Ok(SaveLeases::from_transaction(save)?
        .apply(&mut Transaction::new(connection, &AtomicU64::new(0)))
        .await?)
}

async fn raise_fences(connection: &mut SqliteConnection, now: Timestamp) -> Result<(), StoreError> {
    let highest: Option<i64> = sqlx::query_scalar(
        "SELECT MAX(fence) FROM (SELECT fence FROM kept_machines UNION ALL SELECT fence FROM \
         fence_floor) AS fences",
    )
    .fetch_one(&mut *connection)
    .await?;
    let highest = highest.and_then(|highest| u64::try_from(highest).ok()).unwrap_or_default();
    let raise = RaiseFenceFloor(restore::fence_floor(highest, now));
    Ok(raise.apply(&mut Transaction::new(connection, &AtomicU64::new(0))).await?)
}

/// Adds the audit record of the restore itself. It explains why the records between the backup and
/// the restore are missing.
async fn audit_restore(
    connection: &mut SqliteConnection,
    now: Timestamp,
    manifest: &Manifest,
) -> Result<(), StoreError> {
    let record = AuditRecord::new(now, AuditAction::StoreRestored, AuditOutcome::Done);
    let detail = format!("from the backup of {:.0}", manifest.created_at);
    let record = record.with_actor(&Actor::store_command()).with_detail(detail);
    Ok(audit::append(&mut Transaction::new(connection, &AtomicU64::new(0)), &[record]).await?)
}

/// Removes files when this value is dropped, and directories that are then empty.
/// [`RemoveOnDrop::disarm`] prevents the removal.
#[derive(Default)]
pub struct RemoveOnDrop(Vec<PathBuf>);

impl RemoveOnDrop {
    /// Makes a value that removes the file at this path when it is dropped.
    pub fn new(path: &Path) -> Self {
        Self(vec![path.to_owned()])
    }

    /// Adds a path that is removed before the paths that were added earlier.
    pub fn add(&mut self, path: &Path) {
        self.0.push(path.to_owned());
    }

    /// Prevents the removal of all paths.
    pub fn disarm(&mut self) {
        self.0.clear();
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // An error is ignored: a file that remains does no harm, and the failure that led here
            // was already reported.
            let _ =
                if path.is_dir() { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
        }
    }
}
