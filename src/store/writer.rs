//! The only writer of the database. It takes writes from a bounded channel and commits all waiting
//! writes in one transaction, so that one sync of the disk serves several writes.
//!
//! ```text
//! wait for a write ─► begin ─► apply all waiting writes ─► commit ─► reply to each caller
//!                                  │ a statement fails: roll back, then commit each write
//!                                  ▼ separately, so that only the faulty write is refused
//! ```
//! Writes of jobs that follow each other become one statement (`job_writes`). If no other write
//! waits, that statement is the whole transaction and needs no `BEGIN` and `COMMIT`.
//!
//! While the disk is full or fails, commits are refused. otter logs the first refused commit, and
//! the first commit that succeeds after it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use sqlx::SqliteConnection;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::error::{ended_before_commit, is_conflict, may_be_committed, statement_error};
use super::job_writes::{self, JobWrite, JobWritten, OpenJobs};
use super::transaction::{Transaction, Write};
use super::{Store, StoreError};
use crate::domain::ids::JobId;
use crate::storage::StorageError;

/// The number of writes that can wait in the channel. A caller with a further write waits until the
/// channel has room.
const QUEUE_CAPACITY: usize = 1_024;

/// The maximum number of writes in one commit. It limits how long each write waits for its commit.
const MAX_WRITES_PER_COMMIT: usize = 256;

/// The connection and the channel of the writer.
pub struct Writer {
    connection: Arc<Mutex<SqliteConnection>>,
    sender: mpsc::Sender<Request>,
    receiver: std::sync::Mutex<Option<mpsc::Receiver<Request>>>,
}

impl Writer {
    pub fn new(connection: Arc<Mutex<SqliteConnection>>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_CAPACITY);
        Self { connection, sender, receiver: std::sync::Mutex::new(Some(receiver)) }
    }

    /// Hands a write to the writer. After the commit, the writer sends the result to `reply`.
    pub async fn send<W: Write>(
        &self,
        write: W,
        reply: Reply<W::Output>,
    ) -> Result<(), StorageError> {
        let request = WriteRequest { write, output: None, reply };
        let request = Request::Other(Box::new(request));
        self.sender.send(request).await.map_err(|_| StorageError::Closed)
    }

    /// Hands the write of a job to the writer. After the commit, the writer sends the result to
    /// `reply`.
    pub async fn send_job(
        &self,
        write: JobWrite,
        reply: Reply<JobWritten>,
    ) -> Result<(), StorageError> {
        let request = Request::Job(Box::new(JobRequest { write, output: None, reply }));
        self.sender.send(request).await.map_err(|_| StorageError::Closed)
    }

    /// The connection on which the writer writes.
    #[cfg(test)]
    pub fn connection(&self) -> Arc<Mutex<SqliteConnection>> {
        Arc::clone(&self.connection)
    }

    /// The number of writes that wait in the channel.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.sender.max_capacity() - self.sender.capacity()
    }
}

type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

struct WriteRequest<W: Write> {
    write: W,
    /// The output of the write's `apply`. The caller gets it after the commit.
    output: Option<W::Output>,
    reply: Reply<W::Output>,
}

/// A request in the channel to the writer.
enum Request {
    Job(Box<JobRequest>),
    Other(Box<dyn PendingWrite>),
}

struct JobRequest {
    write: JobWrite,
    /// The result of the write. The caller gets it after the commit.
    output: Option<JobWritten>,
    reply: Reply<JobWritten>,
}

/// A request with a write of any type.
#[async_trait]
trait PendingWrite: Send {
    async fn apply(&mut self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error>;
    fn finish(self: Box<Self>, committed: Result<(), Refusal>);
    fn is_one_statement(&self) -> bool;
}

#[async_trait]
impl<W: Write> PendingWrite for WriteRequest<W> {
    async fn apply(&mut self, transaction: &mut Transaction<'_>) -> Result<(), sqlx::Error> {
        self.output = Some(self.write.apply(transaction).await?);
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), Refusal>) {
        reply(self.reply, self.output, committed);
    }

    fn is_one_statement(&self) -> bool {
        self.write.is_one_statement()
    }
}

impl Request {
    fn finish(self, committed: Result<(), Refusal>) {
        match self {
            Self::Job(request) => reply(request.reply, request.output, committed),
            Self::Other(request) => request.finish(committed),
        }
    }

    const fn is_job(&self) -> bool {
        matches!(self, Self::Job(_))
    }

    fn job(&self) -> Option<JobId> {
        match self {
            Self::Job(request) => Some(request.write.id()),
            Self::Other(_) => None,
        }
    }
}

/// Sends the result of a write to the caller of the write.
fn reply<T>(reply: Reply<T>, output: Option<T>, committed: Result<(), Refusal>) {
    let result = match (committed, output) {
        (Ok(()), Some(output)) => Ok(output),
        (Ok(()), None) => Err(StorageError::Closed),
        (Err(Refusal { cause, may_be_committed }), _) => {
            Err(statement_error(cause, may_be_committed))
        }
    };
    // If the caller no longer waits, the result is dropped, and the write stays committed.
    drop(reply.send(result));
}

/// The loop that runs as [`Store::run`]: it commits writes until `stop` is cancelled.
pub async fn run(store: &Store, stop: CancellationToken) -> Result<(), StoreError> {
    let requests = store.0.writer.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut requests = requests.ok_or(StoreError::WriterTaken)?;
    let mut group = Vec::with_capacity(MAX_WRITES_PER_COMMIT);
    let mut open_jobs = OpenJobs::default();
    job_writes::install(&mut *store.0.writer.connection.lock().await).await?;
    loop {
        let count = tokio::select! {
            biased;
            () = stop.cancelled(), if !requests.is_closed() => {
                requests.close();
                continue;
            }
            count = requests.recv_many(&mut group, MAX_WRITES_PER_COMMIT) => count,
        };
        if count == 0 {
            checkpoint_log(store).await;
            return Ok(());
        }
        commit(store, &mut open_jobs, &mut group).await;
    }
}

/// Moves the write-ahead log into the database file, so that otter.db is complete while no daemon
/// runs.
async fn checkpoint_log(store: &Store) {
    let mut connection = store.0.writer.connection.lock().await;
    if store.0.lock.is_none() {
        // The store may have been opened while a daemon runs. The mode PASSIVE does not wait for
        // other processes. If another process prevents a part of the checkpoint, the daemon moves
        // the rest later.
        let folded = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *connection).await;
        if let Err(error) = folded {
            tracing::warn!(%error, "the last commits stay in otter.db-wal: copy it with otter.db");
        }
        return;
    }
    let folded =
        sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await;
    match folded {
        Ok((0_i64, _, _)) => {}
        Ok((_, in_log, folded)) => {
            let (in_log, folded): (i64, i64) = (in_log, folded);
            tracing::warn!(
                in_log,
                folded,
                "another process reads the database, so the last commits stay in otter.db-wal: \
                 copy that file with otter.db"
            );
        }
        Err(error) => {
            tracing::warn!(%error, "the last commits stay in otter.db-wal: copy it with otter.db");
        }
    }
}

async fn commit(store: &Store, open_jobs: &mut OpenJobs, group: &mut Vec<Request>) {
    match transaction(store, open_jobs, group).await {
        Ok(()) => {
            for request in group.drain(..) {
                request.finish(Ok(()));
            }
        }
        Err(TransactionError::Statement(_)) if group.len() > 1 => {
            for mut request in group.drain(..) {
                let alone = transaction(store, open_jobs, std::slice::from_mut(&mut request))
                    .await
                    .map_err(TransactionError::refusal);
                record_outcome(store, 1, alone.as_ref().err());
                request.finish(alone);
            }
            return;
        }
        Err(error) => {
            let refusal = error.refusal();
            record_outcome(store, group.len(), Some(&refusal));
            for request in group.drain(..) {
                request.finish(Err(refusal.clone()));
            }
            return;
        }
    }
    record_outcome(store, 0, None);
}

/// Records whether a commit succeeded. Logs when commits begin to be refused, and when they succeed
/// again.
///
/// # Parameters
/// - `writes`: the number of writes that were refused.
/// - `refusal`: why the commit was refused, or `None` if it succeeded.
fn record_outcome(store: &Store, writes: usize, refusal: Option<&Refusal>) {
    let inner = &store.0;
    let refusal = refusal.map(|refusal| &refusal.cause);
    let failed_before = {
        let mut last = inner.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        // If a write conflicts with stored data, its refusal is not a failure of the store.
        let failing = refusal.filter(|cause| !is_conflict(cause)).cloned();
        std::mem::replace(&mut *last, failing).is_some()
    };
    if refusal.is_some() {
        inner.refused.fetch_add(writes as u64, Ordering::Relaxed);
    }
    match (refusal, failed_before) {
        (Some(cause), false) => {
            tracing::error!(
                error = %cause,
                "the database refuses commits: check whether the disk is full or read-only"
            );
        }
        (None, true) => tracing::info!("the database accepts commits again"),
        _ => {}
    }
}

/// Why a transaction failed. A transaction whose `COMMIT` failed may still be committed.
enum TransactionError {
    /// A statement of one write failed. The other writes of the transaction may succeed separately.
    Statement(sqlx::Error),
    /// The statement `BEGIN` failed.
    Begin(sqlx::Error),
    /// The statement `COMMIT` failed. The writes are not tried again, because they may be
    /// committed.
    Commit(sqlx::Error),
}

/// Why writes were refused. All writes of a transaction share the reason.
#[derive(Clone)]
struct Refusal {
    cause: Arc<sqlx::Error>,
    /// Whether a restart of otter may find the write committed.
    may_be_committed: bool,
}

impl TransactionError {
    /// The error for a transaction that consists of one statement, which also commits. If the
    /// statement certainly committed nothing, the error counts as that of the statement, so that
    /// the writer tries each write separately. Otherwise it counts as an error of the commit.
    fn from_only_statement(source: sqlx::Error) -> Self {
        if may_be_committed(&source) && !ended_before_commit(&source) {
            Self::Commit(source)
        } else {
            Self::Statement(source)
        }
    }

    fn refusal(self) -> Refusal {
        match self {
            Self::Statement(source) | Self::Begin(source) => {
                Refusal { cause: Arc::new(source), may_be_committed: false }
            }
            Self::Commit(source) => {
                Refusal { may_be_committed: may_be_committed(&source), cause: Arc::new(source) }
            }
        }
    }
}

/// Commits these writes in one transaction, and rolls the transaction back after a failure.
///
/// The function runs `BEGIN`, `COMMIT` and `ROLLBACK` as plain statements. If the disk is full or
/// fails, SQLite ends the transaction by itself. sqlx does not notice that, and its count of open
/// transactions would prevent every further transaction.
async fn transaction(
    store: &Store,
    open_jobs: &mut OpenJobs,
    group: &mut [Request],
) -> Result<(), TransactionError> {
    let inner = &store.0;
    let mut connection = inner.writer.connection.lock().await;
    let is_one_statement = match &*group {
        [Request::Other(request)] => request.is_one_statement(),
        requests => requests.iter().all(|request| match request {
            Request::Job(request) => request.write.is_one_statement(),
            Request::Other(_) => false,
        }),
    };
    let outcome = if is_one_statement {
        let mut transaction = Transaction::new(&mut connection, &inner.statements);
        let applied = apply_alike(&mut transaction, open_jobs, group).await;
        applied.map_err(TransactionError::from_only_statement)
    } else {
        inner.statements.fetch_add(2, Ordering::Relaxed);
        try_transaction(store, &mut connection, open_jobs, group).await
    };
    let jobs = group.iter().filter_map(Request::job);
    if outcome.is_ok() {
        inner.transactions.fetch_add(1, Ordering::Relaxed);
        open_jobs.committed(jobs);
    } else {
        open_jobs.forget(jobs);
        // The result is ignored, because the rollback fails if SQLite has already ended the
        // transaction.
        drop(run_statement(&mut connection, "ROLLBACK").await);
    }
    outcome
}

async fn try_transaction(
    store: &Store,
    connection: &mut SqliteConnection,
    open_jobs: &mut OpenJobs,
    group: &mut [Request],
) -> Result<(), TransactionError> {
    run_statement(connection, "BEGIN IMMEDIATE").await.map_err(TransactionError::Begin)?;
    for neighbours in group.chunk_by_mut(|one, other| one.is_job() && other.is_job()) {
        let mut counted = Transaction::new(connection, &store.0.statements);
        let applied = apply_alike(&mut counted, open_jobs, neighbours).await;
        applied.map_err(TransactionError::Statement)?;
    }
    run_statement(connection, "COMMIT").await.map_err(TransactionError::Commit)
}

/// Applies one write, or the writes of jobs.
async fn apply_alike(
    transaction: &mut Transaction<'_>,
    open_jobs: &mut OpenJobs,
    alike: &mut [Request],
) -> Result<(), sqlx::Error> {
    match alike {
        [Request::Other(request)] => request.apply(transaction).await,
        jobs => apply_jobs(transaction, open_jobs, jobs).await,
    }
}

/// Applies the writes of jobs that are among these requests.
async fn apply_jobs(
    transaction: &mut Transaction<'_>,
    open_jobs: &mut OpenJobs,
    group: &mut [Request],
) -> Result<(), sqlx::Error> {
    let mut requests: Vec<&mut JobRequest> = group
        .iter_mut()
        .filter_map(|request| match request {
            Request::Job(request) => Some(&mut **request),
            Request::Other(_) => None,
        })
        .collect();
    let writes: Vec<&JobWrite> = requests.iter().map(|request| &request.write).collect();
    let results = job_writes::apply(transaction, open_jobs, &writes).await?;
    for (request, result) in requests.iter_mut().zip(results) {
        request.output = Some(result);
    }
    Ok(())
}

async fn run_statement(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(drop)
}
