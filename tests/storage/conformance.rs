//! The property that every storage has: the same calls give the same answers as SQLite gives.

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
fn the_storage_in_memory_answers_as_sqlite_does() {
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
                let of_sqlite = tokio::spawn(async move { writer.run(stopped).await });
                let (writer, stopped) = (in_memory.clone(), stop.clone());
                let of_memory = tokio::spawn(async move { writer.run(stopped).await });
                let compared = compare(&sqlite, &in_memory, &operations).await;
                stop.cancel();
                of_sqlite.await.unwrap().unwrap();
                of_memory.await.unwrap();
                compared?;
                // A crash loses nothing that was committed.
                let again = disk.open(clock);
                prop_assert_eq!(contents(&again).await, contents(&sqlite).await);
                Ok(())
            })
        })
        .unwrap();
}

/// Compares each answer of two storages, and what they show after each call.
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
