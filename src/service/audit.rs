//! Audit records that are not committed together with a job or a lease: refused calls and reloaded
//! settings. Refused calls are counted for a minute before they are written, because a flood of
//! them would fill the log and the disk. This file also lists the audit.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::failure::Failure;
use crate::domain::origin::{Actor, RequestOrigin};
use crate::storage::{AuditCursor, AuditFilter, AuditPage, Storage, StorageError};
use crate::telemetry;

/// How long refused calls are counted before their number is written to the audit.
const MINUTE: Duration = Duration::from_mins(1);

/// The largest number of sources of refusals that are counted separately. The limit applies
/// separately to callers with a token and to callers without one, so that a flood of calls without
/// a token does not hide refusals of tokens. Once the limit is reached, all further addresses of a
/// caller are counted together.
const MAX_SOURCES: usize = 256;

/// The largest number of records that are kept while the storage refuses writes. Further records
/// are only logged.
const MAX_PENDING: usize = 1_024;

/// The address in the record of refusals that come from several addresses and are counted together.
const OTHERS: &str = "other";

/// A call that was refused.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// The name of the token; `None` if the caller sent no valid token.
    pub actor: Option<&'a str>,
    pub origin: RequestOrigin,
    /// The method, and the pattern of the path, such as `/v1/jobs/{job}`.
    pub operation: &'a str,
    /// The value of the header `Otter-Reference`.
    pub reference: Option<&'a str>,
    pub failure: &'a Failure,
}

/// Collects the audit records that are not committed with a job or lease, and lists the audit.
pub struct Audit {
    store: Arc<dyn Storage>,
    clock: Clock,
    pending: Mutex<Pending>,
    wake_writer: Notify,
}

#[derive(Default)]
struct Pending {
    refused: BTreeMap<Source, AuditRecord>,
    /// Records that can be written: refusals whose minute is over, all other records, and records
    /// that the storage has refused before.
    records: Vec<AuditRecord>,
}

/// The source of a refusal. Refusals with the same source are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    address: SourceAddress,
    actor: Option<String>,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SourceAddress {
    /// The IP address of the caller. `None` for a Unix socket.
    Address(Option<IpAddr>),
    Others,
}

impl Audit {
    #[must_use]
    pub fn new(store: Arc<dyn Storage>, clock: Clock) -> Self {
        Self { store, clock, pending: Mutex::default(), wake_writer: Notify::new() }
    }

    /// Counts a refused call. The first refusal of a source in a minute is logged in full.
    pub fn refused(&self, refusal: &Refusal<'_>) {
        let Refusal { actor, origin, operation, reference, failure } = refusal;
        let mut source = Source {
            address: SourceAddress::Address(origin.address),
            actor: actor.map(str::to_owned),
            code: failure.kind.code(),
        };
        let first = {
            let mut pending = self.pending();
            if !pending.refused.contains_key(&source)
                && pending.source_count_like(&source) >= MAX_SOURCES
            {
                source.address = SourceAddress::Others;
            }
            if let Some(counted) = pending.refused.get_mut(&source) {
                counted.count += 1;
                return;
            }
            let mut record = AuditRecord::new(
                self.clock.now(),
                AuditAction::RequestRefused,
                AuditOutcome::Refused,
            )
            .with_origin(*origin)
            .with_detail(*operation)
            .with_failure(Some(failure));
            record.actor.clone_from(&source.actor);
            record.machine.clone_from(&failure.machine);
            record.lease = failure.lease;
            record.reference = reference.map(str::to_owned);
            if source.address == SourceAddress::Others {
                record.address = Some(OTHERS.to_owned());
            }
            pending.refused.insert(source, record.clone());
            record
        };
        telemetry::audit::log(&first);
    }

    /// Logs a record now, and writes it to the storage soon.
    pub fn record(&self, record: AuditRecord) {
        telemetry::audit::log(&record);
        self.pending().keep(vec![record]);
        self.wake_writer.notify_one();
    }

    /// Records that the running daemon reloaded a setting, or failed to.
    pub fn reloaded(&self, action: AuditAction, done: bool) {
        let outcome = if done { AuditOutcome::Done } else { AuditOutcome::Failed };
        self.record(
            AuditRecord::new(self.clock.now(), action, outcome).with_actor(&Actor::otter()),
        );
    }

    /// Records that the running daemon read its configuration again, or failed to.
    ///
    /// # Parameters
    /// - `detail`: the settings that changed, or the problems.
    pub fn configuration_reloaded(&self, outcome: AuditOutcome, detail: String) {
        let record =
            AuditRecord::new(self.clock.now(), AuditAction::ConfigurationReloaded, outcome);
        self.record(record.with_actor(&Actor::otter()).with_detail(detail));
    }

    /// A page of the audit, newest records first.
    ///
    /// # Errors
    /// Fails if the storage cannot be read.
    pub async fn list(
        &self,
        filter: &AuditFilter,
        after: Option<AuditCursor>,
        limit: u32,
    ) -> Result<AuditPage, Failure> {
        let page = self.store.audit(filter, after, limit).await;
        page.map_err(|error| super::storage_watch::store_failure(&error))
    }

    /// Writes pending records to the storage: every minute, after each call of [`Audit::record`],
    /// and when `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut minute_end = self.clock.elapsed() + MINUTE;
        loop {
            let left = minute_end.saturating_sub(self.clock.elapsed());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.wake_writer.notified() => self.write(false).await,
                () = self.clock.sleep(left) => {
                    minute_end = self.clock.elapsed() + MINUTE;
                    self.write(true).await;
                }
            }
        }
        self.write(true).await;
    }

    /// Writes the records that are complete to the storage.
    ///
    /// # Parameters
    /// - `is_minute_over`: whether the minute is over. Then the counted refusals are complete, and
    ///   are written too.
    async fn write(&self, is_minute_over: bool) {
        let records = {
            let mut pending = self.pending();
            if is_minute_over {
                let counted = std::mem::take(&mut pending.refused).into_values();
                let counted: Vec<AuditRecord> =
                    counted.map(|record| self.counted(record)).collect();
                pending.keep(counted);
            }
            std::mem::take(&mut pending.records)
        };
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.store.append_audit(records.clone()).await {
            self.keep_for_later(records, &error);
        }
    }

    /// The record of refusals that were counted for a minute. The time of the record is the end of
    /// the minute, and its detail names the time of the first refusal.
    fn counted(&self, record: AuditRecord) -> AuditRecord {
        let first_at = record.at;
        let detail = record.detail.clone().unwrap_or_default();
        let record = AuditRecord { at: self.clock.now(), ..record };
        if record.count == 1 {
            return AuditRecord { at: first_at, ..record };
        }
        let record =
            record.with_detail(format!("{detail} (first at {first_at}, and more like it)"));
        telemetry::audit::log(&record);
        record
    }

    fn keep_for_later(&self, records: Vec<AuditRecord>, error: &StorageError) {
        let dropped = self.pending().keep(records);
        let error = error as &dyn std::error::Error;
        tracing::warn!(
            error,
            dropped,
            "the audit of refused calls and settings cannot be written now"
        );
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    /// The number of sources that count against the same limit as this source: those with a token,
    /// or those without one.
    fn source_count_like(&self, source: &Source) -> usize {
        let has_token = source.actor.is_some();
        self.refused.keys().filter(|other| other.actor.is_some() == has_token).count()
    }

    /// Keeps records for a later write, up to the limit [`MAX_PENDING`]. Returns the number of
    /// records that were dropped.
    fn keep(&mut self, records: Vec<AuditRecord>) -> usize {
        let room = MAX_PENDING.saturating_sub(self.records.len());
        let dropped = records.len().saturating_sub(room);
        self.records.extend(records.into_iter().take(room));
        dropped
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::failure::FailureKind;
    use crate::store::Store;

    fn refuse(audit: &Audit, address: u32, actor: Option<&str>, kind: FailureKind) {
        let address = Some(IpAddr::from(std::net::Ipv4Addr::from(address)));
        let failure = Failure::new(kind, "No.");
        let origin = RequestOrigin { address, request_id: None };
        let operation = "GET /v1/jobs";
        audit.refused(&Refusal { actor, origin, operation, reference: None, failure: &failure });
    }

    async fn audit() -> (Arc<Audit>, Store) {
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        (
            Arc::new(Audit::new(Arc::new(store.clone()), Clock::stepped(Timestamp::UNIX_EPOCH))),
            store,
        )
    }

    async fn rows(store: &Store) -> Vec<(String, Option<String>, u64)> {
        let page = store.audit(&AuditFilter::default(), None, 1_000).await.unwrap();
        let row = |record: AuditRecord| (record.address.unwrap(), record.actor, record.count);
        page.items.into_iter().rev().map(|entry| row(entry.record)).collect()
    }

    #[tokio::test]
    async fn refusals_are_counted_by_address_caller_and_code() {
        let (audit, store) = audit().await;
        for _ in 0..3 {
            refuse(&audit, 1, None, FailureKind::Unauthenticated);
        }
        refuse(&audit, 1, Some("ci"), FailureKind::Forbidden);
        refuse(&audit, 2, None, FailureKind::Unauthenticated);
        audit.write(true).await;
        assert_eq!(
            rows(&store).await,
            [
                ("0.0.0.1".to_owned(), None, 3),
                ("0.0.0.1".to_owned(), Some("ci".to_owned()), 1),
                ("0.0.0.2".to_owned(), None, 1),
            ]
        );
        audit.write(true).await;
        assert_eq!(rows(&store).await.len(), 3, "the counts start again after a write");
    }

    #[tokio::test]
    async fn a_flood_from_many_addresses_takes_a_bounded_number_of_rows() {
        let (audit, store) = audit().await;
        let addresses = u32::try_from(MAX_SOURCES).unwrap() + 100;
        for address in 1..=addresses {
            refuse(&audit, address, None, FailureKind::Unauthenticated);
        }
        audit.write(true).await;
        let rows = rows(&store).await;
        assert_eq!(rows.len(), MAX_SOURCES + 1);
        assert_eq!(rows.last(), Some(&(OTHERS.to_owned(), None, 100)));
    }

    #[tokio::test]
    async fn a_flood_from_one_caller_does_not_hide_refusals_of_others() {
        let (audit, store) = audit().await;
        let addresses = u32::try_from(MAX_SOURCES).unwrap() + 100;
        for caller in [None, Some("stolen")] {
            for address in 1..=addresses {
                refuse(&audit, address, caller, FailureKind::TooManyRequests);
            }
            refuse(&audit, 1_000, Some("ci"), FailureKind::Forbidden);
        }
        refuse(&audit, 1_000, Some("boss"), FailureKind::Forbidden);
        audit.write(true).await;
        let rows = rows(&store).await;
        assert_eq!(rows.len(), 2 * MAX_SOURCES + 3);
        let row =
            |address: &str, actor: &str, count| (address.to_owned(), Some(actor.to_owned()), count);
        assert!(rows.contains(&row("0.0.3.232", "ci", 2)), "counted before the flood");
        assert!(
            rows.contains(&row(OTHERS, "boss", 1)) && rows.contains(&row(OTHERS, "stolen", 101))
        );
        assert!(rows.contains(&(OTHERS.to_owned(), None, 100)));
    }

    #[tokio::test]
    async fn pending_records_are_written_at_shutdown() {
        let (audit, store) = audit().await;
        refuse(&audit, 1, None, FailureKind::Unauthenticated);
        let stop = CancellationToken::new();
        stop.cancel();
        Arc::clone(&audit).run(stop).await;
        assert_eq!(rows(&store).await.len(), 1);
    }

    #[tokio::test]
    async fn records_that_the_store_refuses_wait_in_a_bounded_buffer() {
        let store = Store::in_memory().await.unwrap();
        let stopped = CancellationToken::new();
        stopped.cancel();
        store.run(stopped).await.unwrap();
        let audit = Audit::new(Arc::new(store), Clock::system());
        for _ in 0..3 {
            audit.reloaded(AuditAction::PasswordReloaded, true);
            audit.write(false).await;
        }
        assert_eq!(audit.pending().records.len(), 3);
        let record = audit.pending().records[0].clone();
        let dropped = audit.pending().keep(vec![record; MAX_PENDING]);
        assert_eq!((dropped, audit.pending().records.len()), (3, MAX_PENDING));
    }
}
