//! Tests of the store through its public functions: it stores every field, it refuses invalid
//! writes, and its commits survive a crash.

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::samples::{any_job, ended, queued, start};
use super::{Readers, Store, StoreError, document};
use crate::domain::ids::{DatastoreId, MachineId};
use crate::domain::job::{Job, JobKind, JobRequest, JobState, JobTarget};
use crate::storage::{
    AuditFilter, IdempotencyKey, JobCursor, JobFilter, KeyOwner, Purged, RecordRetention,
    Retention, Storage, StorageError, StoredKey,
};

/// Runs the writer of a store in a task. Returns the token that stops the writer, and the task.
pub(super) fn started(store: &Store) -> (CancellationToken, JoinHandle<Result<(), StoreError>>) {
    let stop = CancellationToken::new();
    let (store, stopped) = (store.clone(), stop.clone());
    (stop, tokio::spawn(async move { store.run(stopped).await }))
}

async fn in_memory() -> Store {
    let store = Store::in_memory().await.unwrap();
    started(&store);
    store
}

fn key(name: &str, fingerprint: u8) -> IdempotencyKey {
    IdempotencyKey {
        caller: "ci".to_owned(),
        method: "POST".to_owned(),
        path: "/v1/machines/1/power".to_owned(),
        key: name.to_owned(),
        fingerprint: [fingerprint; 32],
        created_at: start(),
    }
}

fn after(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

async fn all(store: &Store, filter: &JobFilter) -> Vec<Job> {
    store.jobs(filter, None, 1_000).await.unwrap().items
}

/// Opens a second connection to the database of a store.
pub(super) async fn second_connection(directory: &Path) -> SqliteConnection {
    let options =
        SqliteConnectOptions::new().filename(directory.join("otter.db")).foreign_keys(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

#[test]
fn any_job_is_read_unchanged() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = runtime.block_on(in_memory());
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&(any_job(), any_job()), |(inserted, mut updated)| {
            updated.id = inserted.id;
            runtime.block_on(async {
                store.insert_job(&inserted, None, None).await.unwrap();
                prop_assert_eq!(store.job(inserted.id).await.unwrap(), Some(inserted.clone()));
                let stored = match store.update_job(&updated).await {
                    Ok(()) => &updated,
                    Err(StorageError::AlreadyEnded(_)) if inserted.state.is_end() => &inserted,
                    Err(error) => panic!("{error}"),
                };
                prop_assert_eq!(store.job(inserted.id).await.unwrap(), Some(stored.clone()));
                Ok(())
            })
        })
        .unwrap();
}

#[test]
fn unknown_fields_are_ignored_and_unknown_versions_are_refused() {
    let job = queued(1);
    let text = document::encode(&job).unwrap();
    let more = text.replacen('{', r#"{"fence": 7, "#, 1);
    assert_eq!(document::decode(document::VERSION, &more).unwrap(), job);
    let error = document::decode(3, &text).unwrap_err();
    assert_eq!(error.to_string(), "its document has version 3, and this otter reads up to 2");
    let odd = text.replace("queued", "paused");
    let error = document::decode(document::VERSION, &odd).unwrap_err();
    assert_eq!(error.to_string(), "\"paused\" is not a valid state of a job");
}

/// A stored document of a job in version 1. In that version, every job works on a machine.
const VERSION_1: &str = r#"{
    "id": "01900000-0000-7000-8000-000000000001", "state": "queued",
    "machine": {"id": "1", "instance_uuid": "52f3b4d2-0000-0000-0000-000000000001", "path": null},
    "machine_name": "sd-staging", "request": {"kind": "power_on"},
    "phase": "waiting for its turn", "steps": [], "cancel_requested_at": null,
    "created_at": "2026-03-01T12:00:01Z", "updated_at": "2026-03-01T12:00:01Z",
    "started_at": null, "finished_at": null, "deadline_at": "2026-03-01T12:10:01Z",
    "requested_by": "anonymous", "reference": null, "result": null, "warnings": [],
    "error": null, "host_task": null, "intent": null
}"#;

#[test]
fn a_job_of_the_first_version_works_on_a_machine() {
    assert_eq!(document::decode(1, VERSION_1).unwrap(), queued(1));
    let error = document::decode(document::VERSION, VERSION_1).unwrap_err();
    assert_eq!(error.to_string(), "its document is not the expected JSON");
}

#[tokio::test]
async fn jobs_on_datastores_and_on_the_host_are_stored() {
    let store = in_memory().await;
    // The second job works on a datastore that has the same id as the machine of the first job.
    let datastore = JobTarget::Datastore(DatastoreId::from_backend("1"));
    let jobs = [
        queued(1),
        Job { target: datastore, ..queued(2) },
        Job { target: JobTarget::Host, target_name: "esx".to_owned(), ..queued(3) },
    ];
    for job in &jobs {
        store.insert_job(job, None, None).await.unwrap();
        store.update_job(job).await.unwrap();
    }
    assert_eq!(store.unfinished_jobs().await.unwrap(), jobs);
    let of_machine = JobFilter { machine: jobs[0].machine_id().cloned(), ..JobFilter::default() };
    assert_eq!(store.jobs(&of_machine, None, 10).await.unwrap().items, [jobs[0].clone()]);
    let audited = store.audit(&AuditFilter::default(), None, 10).await.unwrap().items;
    let machines: Vec<bool> = audited.iter().map(|entry| entry.record.machine.is_some()).collect();
    assert_eq!(machines, [false, false, true], "the last record comes first");
}

#[tokio::test]
async fn an_unreadable_job_is_named() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).await.unwrap();
    started(&store);
    let job = queued(1);
    store.insert_job(&job, None, None).await.unwrap();
    let mut connection = second_connection(directory.path()).await;
    sqlx::query("UPDATE jobs SET document = 'x'").execute(&mut connection).await.unwrap();
    for error in [
        store.job(job.id).await.unwrap_err(),
        store.unfinished_jobs().await.unwrap_err(),
        store.jobs(&JobFilter::default(), None, 10).await.unwrap_err(),
    ] {
        assert_eq!(error.to_string(), format!("the stored job {} cannot be read", job.id));
    }
}

#[tokio::test]
async fn an_ended_job_never_changes() {
    let store = in_memory().await;
    let job = queued(1);
    store.insert_job(&job, None, None).await.unwrap();
    let succeeded = ended(job.clone(), JobState::Succeeded, after(5));
    store.update_job(&succeeded).await.unwrap();
    for state in JobState::ALL {
        let error =
            store.update_job(&Job { state: *state, ..succeeded.clone() }).await.unwrap_err();
        assert!(matches!(error, StorageError::AlreadyEnded(id) if id == job.id), "{error}");
    }
    assert_eq!(store.job(job.id).await.unwrap(), Some(succeeded));
    let error = store.update_job(&queued(2)).await.unwrap_err();
    assert!(matches!(error, StorageError::NoSuchJob(id) if id == queued(2).id), "{error}");
}

#[tokio::test]
async fn a_key_starts_one_job_only() {
    let store = in_memory().await;
    assert_eq!(store.find_key(&key("a", 1)).await.unwrap(), None);
    store.insert_job(&queued(1), Some(&key("a", 1)), None).await.unwrap();
    for (fingerprint, fingerprint_matches) in [(1, true), (2, false)] {
        let owner = KeyOwner::Job(queued(1).id);
        let again = store.insert_job(&queued(2), Some(&key("a", fingerprint)), None).await;
        assert!(matches!(again, Err(StorageError::Conflict(_))), "{again:?}");
        let stored = store.find_key(&key("a", fingerprint)).await.unwrap();
        assert_eq!(stored, Some(StoredKey { owner, fingerprint_matches }));
    }
    assert_eq!(store.job(queued(2).id).await.unwrap(), None);
    let elsewhere = IdempotencyKey { path: "/v1/machines/2/power".to_owned(), ..key("a", 1) };
    store.insert_job(&queued(2), Some(&elsewhere), None).await.unwrap();
}

#[tokio::test]
async fn concurrent_calls_with_one_key_start_one_job_only() {
    let store = in_memory().await;
    let mut calls = JoinSet::new();
    for n in 0..50 {
        let store = store.clone();
        calls.spawn(
            async move { (n, store.insert_job(&queued(n), Some(&key("a", 1)), None).await) },
        );
    }
    let answers = calls.join_all().await;
    let unfinished = store.unfinished_jobs().await.unwrap();
    let [only] = unfinished.as_slice() else { panic!("{} jobs", unfinished.len()) };
    for (n, answer) in answers {
        match answer {
            Ok(()) => assert_eq!(queued(n).id, only.id),
            Err(error) => assert!(matches!(error, StorageError::Conflict(_)), "{error}"),
        }
    }
}

#[tokio::test]
async fn many_writes_share_a_commit() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).await.unwrap();
    let mut calls = JoinSet::new();
    for n in 0..512 {
        let store = store.clone();
        calls.spawn(async move { store.insert_job(&queued(n), None, None).await.unwrap() });
    }
    // The writer starts only after all writes wait in its channel.
    while store.0.writer.waiting() < 512 {
        tokio::task::yield_now().await;
    }
    started(&store);
    calls.join_all().await;
    assert_eq!((store.transactions(), store.statements()), (2, 2));
    assert_eq!(store.unfinished_jobs().await.unwrap().len(), 512);
}

#[tokio::test]
async fn a_faulty_write_does_not_affect_other_writes() {
    let store = Store::in_memory().await.unwrap();
    let mut calls = JoinSet::new();
    for n in [1, 2, 2, 3] {
        let store = store.clone();
        calls.spawn(async move { store.insert_job(&queued(n), None, None).await });
    }
    while store.0.writer.waiting() < 4 {
        tokio::task::yield_now().await;
    }
    started(&store);
    let refused = calls.join_all().await.into_iter().filter(Result::is_err).count();
    assert_eq!(refused, 1);
    assert_eq!(store.unfinished_jobs().await.unwrap().len(), 3);
}

/// If the disk is full, SQLite rolls a transaction back by itself. The writer must go on working
/// after that.
#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    let store = in_memory().await;
    let Readers::Writer(connection) = &store.0.readers else { unreachable!("in memory") };
    let limit = async |pragma: &'static str| {
        sqlx::query(pragma).fetch_one(&mut *connection.lock().await).await.unwrap();
    };
    // The limit of 1 page becomes the number of pages in use, because SQLite raises the limit to
    // it.
    limit("PRAGMA max_page_count = 1").await;
    let mut count = 0;
    while store.insert_job(&queued(count + 1), None, None).await.is_ok() {
        count += 1;
        assert!(count < 1_000, "the limit does not hold");
    }
    let mut later = queued(2_000);
    later.phase = "x".repeat(100_000);
    let refused = store.insert_job(&later, None, None).await;
    assert!(matches!(refused, Err(StorageError::Refused { .. })), "{refused:?}");
    assert_eq!((store.is_failing(), store.refused_writes()), (true, 2));
    assert_eq!(store.unfinished_jobs().await.unwrap().len(), count as usize);

    limit("PRAGMA max_page_count = 1000000").await;
    store.insert_job(&later, Some(&key("a", 1)), None).await.unwrap();
    assert_eq!((store.is_failing(), store.refused_writes()), (false, 2));
    assert_eq!(store.unfinished_jobs().await.unwrap().len(), count as usize + 1);
}

#[tokio::test]
async fn accepted_writes_are_committed_before_the_writer_returns() {
    let store = Store::in_memory().await.unwrap();
    let mut calls = JoinSet::new();
    for n in 0..300 {
        let store = store.clone();
        calls.spawn(async move { store.insert_job(&queued(n), None, None).await.unwrap() });
    }
    while store.0.writer.waiting() < 300 {
        tokio::task::yield_now().await;
    }
    let stop = CancellationToken::new();
    stop.cancel();
    store.run(stop).await.unwrap();
    assert_eq!(calls.join_all().await.len(), 300);
    assert_eq!(store.unfinished_jobs().await.unwrap().len(), 300);
    let late = store.insert_job(&queued(300), None, None).await.unwrap_err();
    assert!(matches!(late, StorageError::Closed), "{late}");
    let again = store.run(CancellationToken::new()).await.unwrap_err();
    assert!(matches!(again, StoreError::WriterTaken), "{again}");
}

#[tokio::test]
async fn statements_are_counted() {
    let store = in_memory().await;
    store.insert_job(&queued(1), None, None).await.unwrap();
    let before = store.statements();
    assert!(before > 0);
    tokio::task::yield_now().await;
    assert_eq!(store.statements(), before);
    store.job(queued(1).id).await.unwrap();
    assert_eq!(store.statements(), before + 1);
}

#[tokio::test]
async fn unfinished_jobs_are_in_order_of_arrival() {
    let store = in_memory().await;
    for n in [5, 1, 4, 2] {
        store.insert_job(&queued(n), None, None).await.unwrap();
    }
    store.update_job(&ended(queued(4), JobState::Cancelled, after(9))).await.unwrap();
    let running = Job { state: JobState::Running, ..queued(1) };
    store.update_job(&running).await.unwrap();
    assert_eq!(store.unfinished_jobs().await.unwrap(), [queued(5), running, queued(2)]);
}

#[tokio::test]
async fn pages_are_stable_while_jobs_arrive() {
    let store = in_memory().await;
    for n in 0..10 {
        store.insert_job(&queued(n), None, None).await.unwrap();
    }
    let mut seen = Vec::new();
    let mut cursor: Option<JobCursor> = None;
    let mut later = 100;
    loop {
        let page = store.jobs(&JobFilter::default(), cursor, 3).await.unwrap();
        seen.extend(page.items);
        later += 1;
        store.insert_job(&queued(later), None, None).await.unwrap();
        // The cursor is written as text and parsed again, because a client sends it as text.
        let Some(next) = page.next else { break };
        cursor = Some(next.to_string().parse().unwrap());
    }
    assert_eq!(seen, (0..10).rev().map(queued).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_last_page_has_no_cursor() {
    let store = in_memory().await;
    for n in 0..4 {
        // All jobs have the same creation time, so their ids decide the order.
        store.insert_job(&Job { created_at: start(), ..queued(n) }, None, None).await.unwrap();
    }
    let first = store.jobs(&JobFilter::default(), None, 2).await.unwrap();
    let second = store.jobs(&JobFilter::default(), first.next, 2).await.unwrap();
    assert!(first.next.is_some());
    assert_eq!(second.next, None);
    let order: Vec<_> = first.items.iter().chain(&second.items).map(|job| job.id).collect();
    assert_eq!(order, [3, 2, 1, 0].map(|n| queued(n).id));
}

#[test]
fn other_texts_are_not_cursors() {
    let cursor = JobCursor::after(&queued(1)).to_string();
    assert!(cursor.parse::<JobCursor>().is_ok());
    for text in
        ["", "_", "1", "1_2", &format!("+{cursor}"), &cursor.to_uppercase().replace('0', "O")]
    {
        assert!(text.parse::<JobCursor>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn each_filter_selects_matching_jobs() {
    let store = in_memory().await;
    let revert = JobRequest::Revert {
        snapshot: crate::domain::ids::SnapshotId::from_backend("7-snapshot-2"),
        path: "kickstart".to_owned(),
        power_on: None,
    };
    for job in [
        Job { requested_by: "ci".to_owned(), ..queued(1) },
        Job { reference: Some("https://ci/42".to_owned()), ..queued(2) },
        Job { request: revert, ..ended(queued(3), JobState::Failed, after(4)) },
    ] {
        store.insert_job(&job, None, None).await.unwrap();
    }
    let states = vec![JobState::Failed, JobState::Queued];
    let failed = vec![JobState::Failed];
    let (reverts, starts) = (vec![JobKind::SnapshotRevert], vec![JobKind::MachinePowerOn]);
    let none = JobFilter::default();
    let cases: [(JobFilter, &[u32]); 7] = [
        (none.clone(), &[3, 2, 1]),
        (JobFilter { requested_by: Some("ci".to_owned()), ..none.clone() }, &[1]),
        (JobFilter { reference: Some("https://ci/42".to_owned()), ..none.clone() }, &[2]),
        (JobFilter { machine: Some(MachineId::from_backend("2")), ..none.clone() }, &[2]),
        (JobFilter { kinds: reverts, ..none.clone() }, &[3]),
        (JobFilter { states, ..none.clone() }, &[3, 2, 1]),
        (JobFilter { states: failed, kinds: starts, ..none }, &[]),
    ];
    for (filter, expected) in cases {
        let found: Vec<_> = all(&store, &filter).await.iter().map(|job| job.id).collect();
        let expected: Vec<_> = expected.iter().map(|n| queued(*n).id).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn old_jobs_are_deleted_except_the_newest() {
    let store = in_memory().await;
    for n in 0..10 {
        store
            .insert_job(&ended(queued(n), JobState::Succeeded, after(n.into())), None, None)
            .await
            .unwrap();
    }
    store.insert_job(&queued(10), None, None).await.unwrap();
    let month = Retention {
        jobs: RecordRetention { at_least: 3, ..RecordRetention::default() },
        ..Retention::default()
    };
    let now = after(5) + month.jobs.time;
    // The jobs 0 to 4 ended more than a month ago.
    assert_eq!(store.purge(now, &month).await.unwrap(), Purged { jobs: 5, keys: 0, leases: 0 });
    // A year later all ended jobs are older than a month. The three newest ended jobs and the
    // unfinished job stay.
    let later = now + Duration::from_hours(24 * 365);
    assert_eq!(store.purge(later, &month).await.unwrap(), Purged { jobs: 2, keys: 0, leases: 0 });
    let left: Vec<_> = all(&store, &JobFilter::default()).await.iter().map(|job| job.id).collect();
    assert_eq!(left, [10, 9, 8, 7].map(|n| queued(n).id));
}

#[tokio::test]
async fn surplus_jobs_are_deleted() {
    let store = in_memory().await;
    for n in 0..1_200 {
        store
            .insert_job(&ended(queued(n), JobState::Succeeded, after(n.into())), None, None)
            .await
            .unwrap();
    }
    let retention = Retention {
        jobs: RecordRetention { at_least: 10, at_most: 100, ..RecordRetention::default() },
        ..Retention::default()
    };
    assert_eq!(
        store.purge(after(1_200), &retention).await.unwrap(),
        Purged { jobs: 1_100, keys: 0, leases: 0 }
    );
    assert_eq!(all(&store, &JobFilter::default()).await.len(), 100);
}

#[tokio::test]
async fn a_key_is_kept_for_a_day_and_while_its_job_is_unfinished() {
    let store = in_memory().await;
    store.insert_job(&queued(1), Some(&key("running", 1)), None).await.unwrap();
    let done = ended(queued(2), JobState::Succeeded, after(2));
    store.insert_job(&done, Some(&key("done", 1)), None).await.unwrap();
    let at_once =
        RecordRetention { time: Duration::ZERO, at_least: 0, ..RecordRetention::default() };
    let retention = Retention { jobs: at_once, ..Retention::default() };
    let early = start() + Duration::from_hours(23);
    // The retention of the job is over, but the job stays because its key is still kept.
    assert_eq!(
        store.purge(early, &retention).await.unwrap(),
        Purged { jobs: 0, keys: 0, leases: 0 }
    );
    let late = start() + Duration::from_hours(25);
    assert_eq!(
        store.purge(late, &retention).await.unwrap(),
        Purged { jobs: 1, keys: 1, leases: 0 }
    );
    assert!(store.find_key(&key("running", 1)).await.unwrap().is_some());
    assert!(store.find_key(&key("done", 1)).await.unwrap().is_none());
}

#[tokio::test]
async fn committed_writes_survive_a_drop_without_a_close() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).await.unwrap();
    let (_stop, writer) = started(&store);
    store.insert_job(&queued(1), Some(&key("a", 1)), None).await.unwrap();
    writer.abort();
    assert!(writer.await.unwrap_err().is_cancelled());
    drop(store);
    let store = Store::open(directory.path()).await.unwrap();
    assert_eq!(store.unfinished_jobs().await.unwrap(), [queued(1)]);
    assert!(store.find_key(&key("a", 1)).await.unwrap().is_some());
}

#[tokio::test]
async fn committed_writes_are_in_the_files_at_once() {
    let (directory, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let store = Store::open(directory.path()).await.unwrap();
    started(&store);
    store.insert_job(&queued(1), None, None).await.unwrap();
    // The test copies the database and its log while the store is open, because a crash would leave
    // them in this state.
    for file in ["otter.db", "otter.db-wal"] {
        std::fs::copy(directory.path().join(file), copy.path().join(file)).unwrap();
    }
    let found = Store::open(copy.path()).await.unwrap();
    assert_eq!(found.unfinished_jobs().await.unwrap(), [queued(1)]);
}
