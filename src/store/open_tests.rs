//! Tests of opening a state directory: which process may use it, and which files otter refuses and
//! leaves unchanged.

use std::path::Path;

use sqlx::Connection;
use tempfile::TempDir;

use super::samples::queued;
use super::tests::{second_connection, started};
use super::{Store, StoreError};
use crate::storage::Storage;

/// The error of opening a state directory that otter must refuse.
async fn refused(directory: &Path) -> StoreError {
    match Store::open(directory).await {
        Ok(_) => panic!("{} was opened", directory.display()),
        Err(error) => error,
    }
}

/// Creates a database in a state directory and closes it.
async fn create_database(directory: &Path) {
    drop(Store::open(directory).await.unwrap());
}

#[tokio::test]
async fn the_new_directory_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("state");
    create_database(&directory).await;
    let mode = directory.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_missing_parent_is_refused() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("missing").join("state");
    let error = refused(&directory).await;
    assert!(matches!(error, StoreError::CreateDirectory { .. }), "{error}");
    assert!(error.to_string().contains(&directory.display().to_string()), "{error}");
}

#[tokio::test]
async fn a_file_in_the_place_of_the_directory_is_refused() {
    let parent = TempDir::new().unwrap();
    let file = parent.path().join("state");
    std::fs::write(&file, "").unwrap();
    let error = refused(&file).await;
    assert!(matches!(error, StoreError::NotADirectory { .. }), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_refused() {
    // `/proc/self` is a directory in which not even root can create files.
    let error = refused(Path::new("/proc/self")).await;
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
    // A directory has the name that the database should have.
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("otter.db")).unwrap();
    let error = refused(directory.path()).await;
    assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
}

#[tokio::test]
async fn a_directory_in_use_is_refused_by_the_process_that_uses_it() {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path()).await.unwrap();
    let error = refused(directory.path()).await;
    let ours = std::process::id();
    assert!(matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == ours), "{error}");
    assert!(error.to_string().contains(&format!("(process {ours})")), "{error}");
    std::fs::write(directory.path().join("lock"), "?").unwrap();
    let error = refused(directory.path()).await;
    assert!(matches!(error, StoreError::Locked { pid: None, .. }), "{error}");
    drop(store);
    create_database(directory.path()).await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let directory = TempDir::new().unwrap();
    create_database(directory.path()).await;
    let mut connection = second_connection(directory.path()).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'to come', TRUE, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let error = refused(directory.path()).await;
    assert!(matches!(error, StoreError::NewerDatabase { migration: 9_999, .. }), "{error}");
}

#[tokio::test]
async fn a_file_that_is_not_a_database_is_refused_unchanged() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("otter.db");
    let text = "this is no database, but long enough to have a header of a hundred bytes, which \
                SQLite reads before it says so";
    std::fs::write(&file, text).unwrap();
    let error = refused(directory.path()).await;
    assert!(matches!(error, StoreError::NotADatabase { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

/// Creates a database with some jobs, closes it, and returns the bytes of its file.
async fn filled(directory: &Path) -> Vec<u8> {
    let store = Store::open(directory).await.unwrap();
    let (stop, writer) = started(&store);
    for n in 1..=50 {
        store.insert_job(&queued(n), None, None).await.unwrap();
    }
    stop.cancel();
    writer.await.unwrap().unwrap();
    drop(store);
    let mut connection = second_connection(directory).await;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    std::fs::read(directory.join("otter.db")).unwrap()
}

#[tokio::test]
async fn a_damaged_database_is_refused_unchanged() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("otter.db");
    let whole = filled(directory.path()).await;
    let pages = whole.len() / 4_096;
    assert!(pages > 10, "{pages} pages");
    let overwritten = |from: usize, to: usize| {
        let mut bytes = whole.clone();
        bytes[from..to].fill(0xff);
        bytes
    };
    let cases = [
        ("the schema after an intact header", overwritten(100, 4_096)),
        ("a page in the middle", overwritten(pages / 2 * 4_096, (pages / 2 + 1) * 4_096)),
        ("the last page", overwritten((pages - 1) * 4_096, pages * 4_096)),
        ("cut in half", whole[..pages / 2 * 4_096].to_vec()),
        ("cut within a page", whole[..whole.len() - 1_000].to_vec()),
        ("cut to nothing", Vec::new()),
    ];
    for (damage, bytes) in cases {
        std::fs::write(&file, &bytes).unwrap();
        let error = refused(directory.path()).await;
        assert!(
            matches!(error, StoreError::NotADatabase { .. } | StoreError::Damaged { .. }),
            "{damage}: {error}"
        );
        assert!(error.to_string().contains("otter.db"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "{damage}");
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(
        Store::open(directory.path()).await.unwrap().unfinished_jobs().await.unwrap().len(),
        50
    );
}

#[tokio::test]
async fn a_start_repairs_an_interrupted_start() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("otter.db.new"), "half of it").unwrap();
    create_database(directory.path()).await;
    assert!(!directory.path().join("otter.db.new").exists());
}

/// If a log without its database were accepted, SQLite would apply it to the new database or delete
/// it.
#[tokio::test]
async fn a_log_without_its_database_is_refused() {
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("otter.db-wal");
    std::fs::write(&log, "the last commits").unwrap();
    let error = refused(directory.path()).await;
    assert!(matches!(error, StoreError::LogAlone { .. }), "{error}");
    assert!(log.exists() && !directory.path().join("otter.db").exists());
}
