//! The property of every storage: the same calls have the same results as with SQLite.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio_util::sync::CancellationToken;

use otter::clock::Clock;
use otter::storage::Storage;
use otter::store::Store;

use super::in_memory::Disk;
use super::operations::{Operation, any_operation, contents};

#[test]
fn the_storage_in_memory_behaves_as_sqlite() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&proptest::collection::vec(any_operation(), 1..60), |operations| {
            runtime.block_on(async {
                let (sqlite, clock) = (Store::in_memory().await.unwrap(), Clock::system());
                let disk = Disk::new(|_| Duration::ZERO);
                let in_memory = disk.open(clock.clone());
                let stop = CancellationToken::new();
                let (writer, stopped) = (sqlite.clone(), stop.clone());
                let sqlite_writer = tokio::spawn(async move { writer.run(stopped).await });
                let (writer, stopped) = (in_memory.clone(), stop.clone());
                let in_memory_writer = tokio::spawn(async move { writer.run(stopped).await });
                let compared = compare(&sqlite, &in_memory, &operations).await;
                stop.cancel();
                sqlite_writer.await.unwrap().unwrap();
                in_memory_writer.await.unwrap();
                compared?;
                // A crash loses nothing that was committed.
                let again = disk.open(clock);
                prop_assert_eq!(contents(&again).await, contents(&sqlite).await);
                Ok(())
            })
        })
        .unwrap();
}

/// Compares the results of each call of two storages, and their contents after each call.
async fn compare(
    reference: &dyn Storage,
    subject: &dyn Storage,
    operations: &[Operation],
) -> Result<(), TestCaseError> {
    for operation in operations {
        let (expected, found) =
            (operation.perform(reference).await, operation.perform(subject).await);
        prop_assert_eq!(found, expected, "{:?}", operation);
        let (expected, found) = (contents(reference).await, contents(subject).await);
        prop_assert_eq!(found, expected, "after {:?}", operation);
    }
    Ok(())
}
