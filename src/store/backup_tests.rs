//! Tests of backups: what the archive contains, what a restore makes of it, and which errors occur.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::key::KeyError;
use super::samples::{ended, lease, queued, start};
use super::{
    CheckReport, RestoreReport, SECRET_KEY, Store, StoreError, backup, check, compact, restore,
};
use crate::domain::access::{Role, TokenDigest};
use crate::domain::audit::AuditAction;
use crate::domain::ids::{TaskId, TokenId};
use crate::domain::job::{Job, JobState};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::storage::{
    AuditFilter, ChangedLease, LeaseTransaction, Storage, StoredMachine, StoredToken,
};

const KEY: [u8; 32] = [9; 32];

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn by_operator() -> Quarantine {
    Quarantine {
        reason: "broken disk".to_owned(),
        by: "ann".to_owned(),
        since: start(),
        automatic: false,
        job: None,
    }
}

fn leases() -> [Lease; 4] {
    [
        lease(1, LeaseState::Queued, None),
        lease(2, LeaseState::Active, None),
        lease(3, LeaseState::Releasing, None),
        lease(4, LeaseState::Released, Some(start())),
    ]
}

/// Fills a state directory with jobs, leases and a token, and then closes the store cleanly.
async fn filled(directory: &Path) {
    std::fs::write(directory.join(SECRET_KEY), KEY).unwrap();
    let store = Store::open(directory).await.unwrap();
    let stop = CancellationToken::new();
    let writer = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move { store.run(stop).await }
    });
    let running = Job {
        state: JobState::Running,
        host_task: Some(TaskId::from_backend("haTask-16-vim.VirtualMachine.powerOn-77")),
        ..queued(2)
    };
    for job in [queued(1), running, ended(queued(3), JobState::Succeeded, start())] {
        store.insert_job(&job, None, None).await.unwrap();
    }
    for lease in leases() {
        let machine = format!("uuid:{}", lease.id);
        let row = ChangedLease::new(lease.clone(), Some(machine.clone()));
        let stored = StoredMachine {
            fence: 5,
            quarantine: (lease.state == LeaseState::Releasing).then(by_operator),
            ..StoredMachine::default()
        };
        let machines = [(machine, stored)].into();
        store
            .save_leases(LeaseTransaction {
                leases: vec![row],
                machines,
                ..LeaseTransaction::default()
            })
            .await
            .unwrap();
    }
    let token = StoredToken::new(
        TokenId::new(uuid::Uuid::from_u128(1)),
        "ci",
        Role::Runner,
        TokenDigest([3; 32]),
        start(),
    );
    store.insert_token(&token).await.unwrap();
    stop.cancel();
    writer.await.unwrap().unwrap();
}

async fn archive(state: &Path, directory: &TempDir) -> PathBuf {
    let archive = directory.path().join("otter.tar");
    backup(state, &archive, start()).await.unwrap();
    archive
}

async fn change(state: &Path, statement: &str) {
    let options = SqliteConnectOptions::new().filename(state.join("otter.db")).foreign_keys(false);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

/// SQLite allows 32,766 values in a statement, and a row of a job has 15.
#[tokio::test]
async fn a_restore_ends_more_jobs_than_one_statement_can_write() {
    const JOBS: u32 = 2_300;
    let (state, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    std::fs::write(state.path().join(SECRET_KEY), KEY).unwrap();
    let store = Store::open(state.path()).await.unwrap();
    let stop = CancellationToken::new();
    let insert_all = async {
        let jobs: Vec<Job> = (1..=JOBS).map(queued).collect();
        let inserts = jobs.iter().map(|job| store.insert_job(job, None, None));
        for inserted in futures_util::future::join_all(inserts).await {
            inserted.unwrap();
        }
        stop.cancel();
    };
    let (ran, ()) = tokio::join!(store.run(stop.clone()), insert_all);
    ran.unwrap();
    drop(store);
    let archive = archive(state.path(), &elsewhere).await;
    let restored = restore(&archive, &elsewhere.path().join("restored"), start()).await.unwrap();
    assert_eq!(u32::try_from(restored.cancelled_jobs).unwrap(), JOBS);
}

#[tokio::test]
async fn a_restored_store_has_no_unfinished_work() {
    let (state, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(state.path()).await;
    let archive = archive(state.path(), &elsewhere).await;
    assert_eq!(mode(&archive), 0o600);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1, "another file remains");

    let target = elsewhere.path().join("restored");
    let now = start() + SignedDuration::from_hours(5);
    let restored = restore(&archive, &target, now).await.unwrap();
    let RestoreReport {
        manifest: _,
        cancelled_jobs,
        unknown_jobs,
        revoked_leases,
        quarantined_machines,
    } = restored;
    assert_eq!((cancelled_jobs, unknown_jobs, revoked_leases, quarantined_machines), (1, 1, 3, 2));
    assert_eq!(std::fs::read(target.join(SECRET_KEY)).unwrap(), KEY);
    assert_eq!(mode(&target), 0o700);
    for file in ["otter.db", SECRET_KEY] {
        assert_eq!(mode(&target.join(file)), 0o600, "{file}");
    }

    let store = Store::open(&target).await.unwrap();
    assert!(
        store.unfinished_jobs().await.unwrap().is_empty()
            && store.open_leases().await.unwrap().is_empty()
    );
    let job = async |n| store.job(queued(n).id).await.unwrap().unwrap();
    let (cancelled, unknown, succeeded) = (job(1).await, job(2).await, job(3).await);
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert_eq!((unknown.state, unknown.host_task), (JobState::Unknown, None));
    assert!(unknown.warnings[0].contains("powerOn-77"), "{:?}", unknown.warnings);
    assert_eq!(unknown.error.unwrap().kind.code(), "outcome-unknown");
    assert_eq!(succeeded, ended(queued(3), JobState::Succeeded, start()));
    let machines = store.stored_machines().await.unwrap();
    for before in leases() {
        let after = store.lease(before.id).await.unwrap().unwrap();
        let stored = &machines[&format!("uuid:{}", before.id)];
        let reason = stored.quarantine.as_ref().map(|quarantine| quarantine.reason.as_str());
        if before.state == LeaseState::Released {
            assert_eq!((after, reason), (before, None));
            continue;
        }
        assert_eq!(after.state, LeaseState::Revoked);
        assert_eq!(after.end.map(|end| end.reason), Some(EndReason::Revoked));
        assert_eq!(after.ended_at, Some(now));
        let expected = match before.state {
            LeaseState::Active => Some("restored"),
            LeaseState::Releasing => Some("restored; before that, by ann: broken disk"),
            _ => None,
        };
        assert_eq!(reason, expected);
    }
    assert_eq!(store.tokens().await.unwrap().len(), 1);
    let newest =
        store.audit(&AuditFilter::default(), None, 1).await.unwrap().items.remove(0).record;
    assert_eq!((newest.action, newest.at), (AuditAction::StoreRestored, now));
    assert_eq!(newest.actor.as_deref(), Some("otter store"));
    assert_eq!(newest.detail.as_deref(), Some("from the backup of 2026-03-01T12:00:00Z"));
}

#[tokio::test]
async fn the_fence_floor_of_a_restored_store_is_above_all_earlier_fences() {
    let (state, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(state.path()).await;
    let first = archive(state.path(), &elsewhere).await;
    let mut number = 0;
    let mut floor_after = async |archive: &Path, now: Timestamp| {
        number += 1;
        let target = elsewhere.path().join(format!("restored-{number}"));
        restore(archive, &target, now).await.unwrap();
        let floor = Store::open(&target).await.unwrap().fence_floor().await.unwrap();
        (target, floor)
    };
    let later = |seconds| start() + SignedDuration::from_secs(seconds);
    let (_, once) = floor_after(&first, later(1)).await;
    let (restored, twice) = floor_after(&first, later(2)).await;
    assert!(once > 5 && twice == once + 1_000, "{once}, {twice}");

    // The fence floor rises with every restore, even if the wall clock is set back.
    let second = elsewhere.path().join("second.tar");
    backup(&restored, &second, start()).await.unwrap();
    let (_, behind) = floor_after(&second, start()).await;
    assert_eq!(behind, twice + 1_000_000);
    let (_, unset) = floor_after(&first, Timestamp::UNIX_EPOCH).await;
    assert_eq!(unset, 1_000_005);
}

#[tokio::test]
async fn a_backup_is_restored_into_an_empty_directory_only() {
    let (state, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(state.path()).await;
    let archive = archive(state.path(), &elsewhere).await;
    let target = TempDir::new().unwrap();
    std::fs::write(target.path().join("letter.txt"), "mine").unwrap();
    let error = restore(&archive, target.path(), start()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotEmpty { .. }), "{error}");
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 1);

    let used = TempDir::new().unwrap();
    let daemon = Store::open(used.path()).await.unwrap();
    let error = restore(&archive, used.path(), start()).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(daemon);

    // A lock file that no process has locked does not prevent the restore.
    let left = TempDir::new().unwrap();
    std::fs::write(left.path().join("lock"), "1").unwrap();
    restore(&archive, left.path(), start()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_or_newer_archive_is_refused_without_a_trace() {
    let (state, elsewhere, target) =
        (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(state.path()).await;
    let archive = archive(state.path(), &elsewhere).await;
    let whole = std::fs::read(&archive).unwrap();
    let place = |text: &[u8]| whole.windows(text.len()).position(|window| window == text).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let current = super::schema::current().to_string();
    let schema = format!("\"schema\": {current}");
    // The manifest has a space before the number. Without this space the number has room for one
    // more digit.
    let newest = format!("\"schema\":{}", "9".repeat(current.len() + 1));
    let newer = with(place(schema.as_bytes()), newest.as_bytes());
    let cases = [
        ("a page of the database", with(whole.len() / 2, &[0xa5; 64])),
        ("the key", with(place(&KEY), &[8])),
        ("cut in half", whole[..whole.len() / 2].to_vec()),
        ("not an archive", b"something else".to_vec()),
        ("an empty file", Vec::new()),
        ("another file in it", with(place(SECRET_KEY.as_bytes()), b"escape.key")),
        ("a newer schema", newer),
    ];
    for (damage, bytes) in cases {
        std::fs::write(&archive, bytes).unwrap();
        let directory = target.path().join("state");
        let error = restore(&archive, &directory, start()).await.expect_err(damage);
        match damage {
            "a newer schema" => {
                assert!(matches!(error, StoreError::NewerArchive { .. }), "{error}");
            }
            _ => assert!(matches!(error, StoreError::Archive { .. }), "{damage}: {error}"),
        }
        assert!(error.to_string().contains("otter.tar"), "{error}");
        assert!(is_empty(target.path()), "{damage}");
    }
}

#[tokio::test]
async fn a_backup_needs_a_database_its_key_and_a_new_file() {
    let (state, elsewhere) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let archive = elsewhere.path().join("otter.tar");
    let error = backup(state.path(), &archive, start()).await.unwrap_err();
    assert!(matches!(error, StoreError::NoDatabase { .. }), "{error}");
    filled(state.path()).await;
    std::fs::write(&archive, "older").unwrap();
    let error = backup(state.path(), &archive, start()).await.unwrap_err();
    assert!(matches!(error, StoreError::FileExists { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&archive).unwrap(), "older");
    std::fs::remove_file(&archive).unwrap();
    std::fs::remove_file(state.path().join(SECRET_KEY)).unwrap();
    let error = backup(state.path(), &archive, start()).await.unwrap_err();
    assert!(matches!(error, StoreError::Key(KeyError::Missing { .. })), "{error}");
    std::fs::write(state.path().join(SECRET_KEY), "short").unwrap();
    let error = backup(state.path(), &archive, start()).await.unwrap_err();
    assert!(matches!(error, StoreError::Key(KeyError::Damaged { .. })), "{error}");
    assert!(is_empty(elsewhere.path()));
}

#[tokio::test]
async fn a_check_reports_damage_and_changes_nothing() {
    let state = TempDir::new().unwrap();
    filled(state.path()).await;
    let CheckReport { jobs, leases, tokens, problems, key_problem } =
        check(state.path()).await.unwrap();
    assert_eq!((jobs, leases, tokens, problems, key_problem), (3, 4, 1, Vec::new(), None));
    change(state.path(), "UPDATE jobs SET document = '{' WHERE state = 'succeeded'").await;
    change(state.path(), "UPDATE leases SET document_version = 9 WHERE state = 'released'").await;
    change(state.path(), "UPDATE kept_machines SET quarantine = 'x' WHERE quarantine IS NOT NULL")
        .await;
    change(state.path(), "UPDATE tokens SET digest = 'short'").await;
    change(
        state.path(),
        "INSERT INTO lease_keys (caller, method, path, key, fingerprint, lease, created_at) \
         VALUES ('a', 'b', 'c', 'd', 'e', 'gone', 1)",
    )
    .await;
    std::fs::remove_file(state.path().join(SECRET_KEY)).unwrap();
    let before = std::fs::read(state.path().join("otter.db")).unwrap();
    let CheckReport { problems, key_problem, .. } = check(state.path()).await.unwrap();
    assert_eq!(std::fs::read(state.path().join("otter.db")).unwrap(), before);
    assert!(key_problem.is_some_and(|problem| problem.contains("secret.key is missing")));
    let expected = ["lease_keys", "cannot be read", "version 9", "cannot be read", "token ci"];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{expected}: {problem}");
    }
}

#[tokio::test]
async fn compacting_shrinks_the_file_and_needs_the_lock() {
    let state = TempDir::new().unwrap();
    filled(state.path()).await;
    change(
        state.path(),
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) \
         INSERT INTO kept_machines (machine, fence, quarantine) SELECT 'x' || i, 1, \
         hex(randomblob(2000)) FROM n",
    )
    .await;
    change(state.path(), "DELETE FROM kept_machines WHERE machine LIKE 'x%'").await;
    let compacted = compact(state.path()).await.unwrap();
    assert!(compacted.after * 2 < compacted.before, "{compacted:?}");
    assert!(check(state.path()).await.unwrap().problems.is_empty());
    let daemon = Store::open(state.path()).await.unwrap();
    let error = compact(state.path()).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    drop(daemon);
}

#[tokio::test]
async fn after_a_clean_stop_the_database_file_is_complete() {
    let (state, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    filled(state.path()).await;
    std::fs::copy(state.path().join("otter.db"), copy.path().join("otter.db")).unwrap();
    let store = Store::open(copy.path()).await.unwrap();
    assert_eq!(store.unfinished_jobs().await.unwrap().len(), 2);
    assert_eq!(store.open_leases().await.unwrap().len(), 3);
}

#[tokio::test]
async fn permissions_of_other_users_are_removed() {
    let parent = TempDir::new().unwrap();
    let state = parent.path().join("state");
    std::fs::create_dir(&state).unwrap();
    filled(&state).await;
    std::fs::write(state.join("otter.db.before-1"), "a copy").unwrap();
    std::fs::write(state.join("notes.txt"), "not otter's").unwrap();
    let files = ["otter.db", SECRET_KEY, "lock", "otter.db.before-1"];
    for file in files.iter().chain(&["notes.txt"]) {
        std::fs::set_permissions(state.join(file), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = Store::open(&state).await.unwrap();
    assert_eq!(mode(&state), 0o700);
    for file in files {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&state.join("notes.txt")), 0o644);
    for file in ["otter.db-wal", "otter.db-shm"] {
        assert!(!state.join(file).exists() || mode(&state.join(file)) == 0o600, "{file}");
    }
    drop(store);
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let error = Store::open(&state).await.err().expect("all users share the directory");
    assert!(matches!(error, StoreError::SharedDirectory { .. }), "{error}");
}

#[tokio::test]
async fn an_interrupted_restore_is_not_an_empty_store() {
    let state = TempDir::new().unwrap();
    std::fs::write(state.path().join("otter.db.restoring"), "half of it").unwrap();
    for opened in
        [Store::open(state.path()).await, Store::open_or_create_shared(state.path()).await]
    {
        let error = opened.err().expect("the restore is incomplete");
        assert!(matches!(error, StoreError::UnfinishedRestore { .. }), "{error}");
    }
    assert!(!state.path().join("otter.db").exists());
}
