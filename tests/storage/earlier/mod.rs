//! A database that an earlier version of otter wrote: the store reads every job and every lease
//! unchanged, and the engine brings every unfinished job to its end.
//!
//! `database.sql` is a dump of the database. Its header says how it was made.

mod jobs;
mod leases;
mod resume;

use otter::storage::{JobFilter, LeaseFilter, Storage};
use otter::store::Store;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

/// A state directory with the database.
async fn state_directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("otter.db");
    // The dump fills a table before the tables that its rows refer to.
    let options =
        SqliteConnectOptions::new().filename(file).create_if_missing(true).foreign_keys(false);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql(include_str!("database.sql")).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    directory
}

#[tokio::test]
async fn every_job_of_an_earlier_version_is_read_unchanged() {
    let directory = state_directory().await;
    let store = Store::open(directory.path()).await.unwrap();
    let mut stored = store.jobs(&JobFilter::default(), None, 1_000).await.unwrap().items;
    stored.sort_by_key(|job| job.id);
    let expected: Vec<_> = jobs::all().collect();
    assert_eq!(stored.len(), expected.len());
    for (stored, expected) in stored.iter().zip(&expected) {
        assert_eq!(stored, expected);
    }
    let unfinished = expected.iter().filter(|job| !job.state.is_end()).cloned();
    assert_eq!(store.unfinished_jobs().await.unwrap(), unfinished.collect::<Vec<_>>());
}

#[tokio::test]
async fn every_lease_of_an_earlier_version_is_read_unchanged() {
    let directory = state_directory().await;
    let store = Store::open(directory.path()).await.unwrap();
    let mut stored = store.leases(&LeaseFilter::default(), None, 1_000).await.unwrap();
    stored.sort_by_key(|lease| lease.id);
    assert_eq!(stored, leases::all());
    assert_eq!(store.stored_machines().await.unwrap(), leases::machines());
    assert_eq!(store.fence_floor().await.unwrap(), 40);
    for lease in leases::all() {
        let found = store.find_key(&leases::key(&lease)).await.unwrap().unwrap();
        assert_eq!((found.owner.lease(), found.fingerprint_matches), (Some(lease.id), true));
    }
}
