//! What outlives a restart: jobs, leases, idempotency keys, tokens and the audit, in SQLite through sqlx.
//! All SQL of otter is in here.
//!
//! ```text
//! writes ──bounded channel──► writer (one connection, many writes a commit) ──► otter.db
//! reads  ──pool of read-only connections─────────────────────────────────────►    (WAL)
//! ```
//! A write returns once it is committed and on disk (`synchronous=FULL`). The SQL is kept to what PostgreSQL
//! understands too.

mod archive;
mod audit;
mod backup;
#[cfg(test)]
mod backup_tests;
mod created_snapshots;
mod document;
mod error;
mod examine;
mod fence_floor;
mod files;
mod jobs;
pub mod key;
mod keys;
mod last_seen;
mod leases;
mod migrate;
#[cfg(test)]
mod migration_tests;
mod open;
mod purge;
mod restore;
#[cfg(test)]
mod samples;
mod schema;
mod sqlite_errors;
mod state_directory;
#[cfg(test)]
mod tests;
mod tokens;
mod upkeep;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use jiff::Timestamp;
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection, SqlitePool};
use tokio::sync::{Mutex, OwnedMutexGuard, oneshot};
use tokio_util::sync::CancellationToken;

use crate::domain::access::TokenDigest;
use crate::domain::audit::AuditRecord;
use crate::domain::ids::{JobId, LeaseId, SnapshotId};
use crate::domain::job::Job;
use crate::domain::lease::Lease;
use crate::domain::machine::MachineIdentity;
use crate::telemetry::audit as audit_log;

pub use archive::{ArchiveError, Manifest};
pub use audit::{AuditCursor, AuditEntry, AuditFilter, AuditPage, InvalidAuditCursor};
pub use backup::backup;
pub use document::DocumentError;
pub use error::StoreError;
pub use examine::{Existing, FoundState};
pub use files::SECRET_KEY;
pub use jobs::{InvalidJobCursor, JobCursor, JobFilter, JobPage};
pub use keys::{IdempotencyKey, Inserted, KeptKey};
pub use leases::{KeptLeaseKey, KeptMachine, LeaseFilter, LeaseRow, SaveLeases};
pub use purge::{AuditRetention, Keep, Purged, PurgedAudit, Retention};
pub use restore::{Restored, restore};
pub use state_directory::open_to_others;
pub use tokens::{StoredToken, TokenUse};

pub use upkeep::{Checked, Compacted, check, compact};

/// A job as it is read back after it was written, without a database.
#[cfg(test)]
pub(crate) fn reread(job: &Job) -> Job {
    let written = document::encode(job).expect("every job can be written");
    document::decode(document::VERSION, &written).expect("what was written can be read")
}

/// A lease as it is read back after it was written, without a database.
#[cfg(test)]
pub(crate) fn reread_lease(lease: &Lease) -> Lease {
    let written = document::encode_lease(lease).expect("every lease can be written");
    document::decode_lease(document::VERSION, &written).expect("what was written can be read")
}

/// The database. Clones share it; the last one to go releases the lock on the state directory.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: writer::Writer,
    readers: Readers,
    statements: AtomicU64,
    transactions: AtomicU64,
    /// Writes whose commit was refused.
    refused: AtomicU64,
    /// The reason of the last refusal, if there was one.
    refusal: std::sync::Mutex<Option<Arc<sqlx::Error>>>,
    /// The daemon's lock on the state directory, held as long as the store lives.
    lock: Option<File>,
}

#[cfg(test)]
impl Inner {
    /// The connection that writes. A test uses it to break data without the store.
    async fn writer_connection(&self) -> OwnedMutexGuard<SqliteConnection> {
        self.writer.connection().lock_owned().await
    }
}

/// Where reads come from.
enum Readers {
    Pool(SqlitePool),
    /// The one connection that an in-memory database lives in. No pool: its time-outs would fire under a
    /// clock that tests step.
    Writer(Arc<Mutex<SqliteConnection>>),
}

impl Store {
    /// Opens the database `otter.db` in this directory, makes both where they are missing (the directory
    /// private to its owner), brings the database up to date, and locks the directory for as long as the
    /// store lives.
    pub async fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let open::Opened { writer, readers, lock } = open::open(state_dir).await?;
        Ok(Self::new(Arc::new(Mutex::new(writer)), Readers::Pool(readers), Some(lock)))
    }

    /// Opens the same database beside the daemon that holds the lock, which sees what is changed within a second.
    ///
    /// # Errors
    /// `NoDatabase` if there is none, since nothing is made; `OlderDatabase` or `NewerDatabase` if its schema is not
    /// this otter's, since a daemon may be using it.
    pub async fn beside(state_dir: &Path) -> Result<Self, StoreError> {
        let (writer, readers) = open::beside(state_dir).await?;
        Ok(Self::new(Arc::new(Mutex::new(writer)), Readers::Pool(readers), None))
    }

    /// The same, but makes the database if the directory exists and has none.
    pub async fn beside_or_new(state_dir: &Path) -> Result<Self, StoreError> {
        open::make_if_missing(state_dir).await?;
        Self::beside(state_dir).await
    }

    /// Looks at this directory without changing it.
    ///
    /// # Errors
    /// What would keep a start from using it.
    pub async fn examine(state_dir: &Path) -> Result<FoundState, StoreError> {
        examine::examine(state_dir).await
    }

    /// Reads the whole database of this directory without changing it, as [`Store::open`] does before
    /// it uses it. Returns the names of the tokens in force.
    ///
    /// # Errors
    /// `Damaged` or `NotADatabase` if it is damaged.
    pub async fn read_through(state_dir: &Path) -> Result<Vec<String>, StoreError> {
        examine::read_through(state_dir).await
    }

    /// A database that is gone with the store, for `--simulate` and tests.
    pub async fn in_memory() -> Result<Self, StoreError> {
        let connection = Arc::new(Mutex::new(open::in_memory().await?));
        Ok(Self::new(Arc::clone(&connection), Readers::Writer(connection), None))
    }

    fn new(connection: Arc<Mutex<SqliteConnection>>, readers: Readers, lock: Option<File>) -> Self {
        Self(Arc::new(Inner {
            writer: writer::Writer::new(connection),
            readers,
            statements: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            refusal: std::sync::Mutex::new(None),
            lock,
        }))
    }

    /// Commits writes until `stop` is cancelled, then those that were accepted before, and returns. Without it
    /// running, writes wait.
    ///
    /// # Errors
    /// `WriterTaken` where it was called before.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), StoreError> {
        writer::run(self, stop).await
    }

    /// Commits a new job, the fact that it was accepted, and the idempotency key that it was asked for
    /// with, if any. If that key is known already, nothing is written and the answer names its job.
    pub async fn insert_job(&self, job: &Job, key: Option<&IdempotencyKey>) -> Result<Inserted, StoreError> {
        self.insert_overriding_job(job, key, None).await
    }

    /// The same for a job that may have needed an override: commits the fact of the override as well.
    pub async fn insert_overriding_job(
        &self,
        job: &Job,
        key: Option<&IdempotencyKey>,
        overridden: Option<AuditRecord>,
    ) -> Result<Inserted, StoreError> {
        let audit: Vec<AuditRecord> =
            [AuditRecord::job_accepted(job)].into_iter().chain(overridden).collect();
        let write = jobs::InsertJob { row: jobs::Row::of(job)?, key: key.cloned(), audit: audit.clone() };
        let inserted = self.write(write).await?;
        if inserted == Inserted::New {
            audit.iter().for_each(audit_log::log);
        }
        Ok(inserted)
    }

    /// Commits what a job has become, the facts that it started, was asked to cancel or ended, if they are
    /// new, and with its end the lease that a snapshot was made under.
    ///
    /// # Errors
    /// `AlreadyEnded` where the stored job has an end: that is kept. `NoSuchJob` where it was never inserted.
    pub async fn update_job(&self, job: &Job) -> Result<(), StoreError> {
        let audited = self.write(jobs::UpdateJob::of(job)?).await??;
        audited.iter().for_each(audit_log::log);
        Ok(())
    }

    /// Reads which snapshots of a machine were made under a lease.
    pub async fn snapshots_made_under(
        &self,
        machine: &MachineIdentity,
        lease: LeaseId,
    ) -> Result<BTreeSet<SnapshotId>, StoreError> {
        created_snapshots::made_under(&mut self.read().await?, machine, lease).await
    }

    /// Reads one job.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        jobs::job(&mut self.read().await?, id).await
    }

    /// Reads the jobs that pass the filter, the newest first, at most `limit` from `after` on.
    pub async fn jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<JobPage, StoreError> {
        jobs::jobs(&mut self.read().await?, filter, after, limit).await
    }

    /// Reads every job without an end, in the order in which they were accepted.
    pub async fn unfinished_jobs(&self) -> Result<Vec<Job>, StoreError> {
        jobs::unfinished(&mut self.read().await?).await
    }

    /// Looks an idempotency key up: which job it started, and whether for the same request.
    pub async fn find_key(&self, key: &IdempotencyKey) -> Result<Option<KeptKey>, StoreError> {
        Ok(keys::find(&mut self.read().await?, key).await?)
    }

    /// Commits together what one step changed of leases and machines, the facts to be audited of it, and the
    /// key of the call that asked for a lease. The database itself refuses two leases that hold one machine.
    pub async fn save_leases(&self, step: SaveLeases) -> Result<(), StoreError> {
        let audit = step.audit.clone();
        self.write(step).await??;
        audit.iter().for_each(audit_log::log);
        Ok(())
    }

    /// Commits facts that belong to no other change. The caller logs them.
    pub async fn append_audit(&self, records: Vec<AuditRecord>) -> Result<(), StoreError> {
        self.write(audit::AppendAudit(records)).await
    }

    /// Reads the facts that pass the filter, the newest first, at most `limit` from `after` on.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, StoreError> {
        audit::list(&mut self.read().await?, filter, after, limit).await
    }

    /// Reads every lease that has not ended, in order of arrival.
    pub async fn open_leases(&self) -> Result<Vec<Lease>, StoreError> {
        leases::open(&mut self.read().await?).await
    }

    /// Reads one lease.
    pub async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, StoreError> {
        leases::lease(&mut self.read().await?, id).await
    }

    /// Reads the leases that pass the filter, the newest first, at most `limit` of those that are older than `after`.
    pub async fn leases(
        &self,
        filter: &LeaseFilter,
        after: Option<&Lease>,
        limit: u32,
    ) -> Result<Vec<Lease>, StoreError> {
        leases::list(&mut self.read().await?, filter, after, limit).await
    }

    /// Reads what is kept of machines, by the key of who each is.
    pub async fn kept_machines(&self) -> Result<BTreeMap<String, KeptMachine>, StoreError> {
        leases::machines(&mut self.read().await?).await
    }

    /// Reads the floor that every new fence is above.
    pub async fn fence_floor(&self) -> Result<u64, StoreError> {
        fence_floor::fence_floor(&mut self.read().await?).await
    }

    /// Looks up the key of a call that asked for a lease.
    pub async fn find_lease_key(&self, key: &IdempotencyKey) -> Result<Option<KeptLeaseKey>, StoreError> {
        leases::find_key(&mut self.read().await?, key).await
    }

    /// Whether there are any leases, ended ones included.
    pub async fn has_leases(&self) -> Result<bool, StoreError> {
        Ok(upkeep::has_leases(self.read().await?.statement()).await?)
    }

    /// Commits a new token. False, and nothing is written, where one of that name is in force.
    pub async fn insert_token(&self, token: &StoredToken) -> Result<bool, StoreError> {
        self.write(tokens::InsertToken(token.clone())).await
    }

    /// Revokes the token of this name that is in force. False where there is none.
    pub async fn revoke_token(&self, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.write(tokens::RevokeToken { name: name.to_owned(), now }).await
    }

    /// Gives the token of this name another secret, and another expiry if one is given. False if every
    /// token of that name is revoked, or there is none.
    pub async fn rotate_token(
        &self,
        name: &str,
        digest: TokenDigest,
        now: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Result<bool, StoreError> {
        self.write(tokens::RotateToken { name: name.to_owned(), digest, now, expires_at }).await
    }

    /// Notes when the secrets of tokens were last used.
    pub async fn mark_tokens_used(&self, uses: Vec<TokenUse>) -> Result<(), StoreError> {
        self.write(tokens::MarkTokensUsed(uses)).await
    }

    /// Reads every token, those that were revoked too, the oldest first.
    pub async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        tokens::all(&mut self.read().await?).await
    }

    /// Whether other processes may change what is stored: nobody shares a database in memory.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.0.readers, Readers::Pool(_))
    }

    /// Deletes what has been kept long enough, a little at a time, so that writes get in between.
    pub async fn purge(&self, now: Timestamp, retention: &Retention) -> Result<Purged, StoreError> {
        purge::purge(self, now, retention).await
    }

    /// Deletes the part of the audit that exceeds its age or its size, the oldest rows first.
    pub async fn purge_audit(
        &self,
        now: Timestamp,
        retention: &AuditRetention,
    ) -> Result<PurgedAudit, StoreError> {
        purge::purge_audit(self, now, retention).await
    }

    /// How many statements have run so far.
    #[must_use]
    pub fn queries(&self) -> u64 {
        self.0.statements.load(Ordering::Relaxed)
    }

    /// How many transactions were committed so far; each may have held many writes.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.0.transactions.load(Ordering::Relaxed)
    }

    /// How many writes were refused by the disk or the database so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Why the disk or the database refused the last commit; `None` if it succeeded. Until a commit
    /// succeeds, otter accepts no new work.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let refusal = self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.as_ref().map(|cause| told(cause))
    }

    /// Whether the last commit was refused.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.0.refusal.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Notes that otter runs at this time.
    pub async fn note_seen(&self, now: Timestamp) -> Result<(), StoreError> {
        self.write(last_seen::Seen(now)).await
    }

    /// When otter last ran, as it was noted.
    pub async fn last_seen(&self) -> Result<Option<Timestamp>, StoreError> {
        last_seen::last_seen(&mut self.read().await?).await
    }

    async fn write<W: writer::Write>(&self, write: W) -> Result<W::Output, StoreError> {
        let (reply, committed) = oneshot::channel();
        self.0.writer.send(write, reply).await?;
        committed.await.map_err(|_| StoreError::Closed)?
    }

    async fn read(&self) -> Result<Reader<'_>, StoreError> {
        let connection = match &self.0.readers {
            Readers::Pool(pool) => ReadConnection::Pooled(pool.acquire().await?),
            Readers::Writer(connection) => ReadConnection::Shared(Arc::clone(connection).lock_owned().await),
        };
        Ok(Reader { connection, statements: &self.0.statements })
    }
}

/// A connection to read by, which counts what it is used for.
struct Reader<'a> {
    connection: ReadConnection,
    statements: &'a AtomicU64,
}

enum ReadConnection {
    Pooled(PoolConnection<Sqlite>),
    Shared(OwnedMutexGuard<SqliteConnection>),
}

impl Reader<'_> {
    /// The connection, for one statement.
    fn statement(&mut self) -> &mut SqliteConnection {
        self.statements.fetch_add(1, Ordering::Relaxed);
        match &mut self.connection {
            ReadConnection::Pooled(connection) => connection,
            ReadConnection::Shared(connection) => connection,
        }
    }
}

/// An error of the database in SQLite's own words, without its number.
fn told(error: &sqlx::Error) -> String {
    error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// A time as its column: microseconds since 1970.
fn microseconds(time: Timestamp) -> i64 {
    time.as_microsecond()
}
