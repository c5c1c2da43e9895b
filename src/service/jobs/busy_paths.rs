//! The paths on which jobs on files run. Deleting excludes every job on the path, above it and
//! below it, because a host deletes a folder with all that is in it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::file_job::FileTarget;
use crate::domain::file_path::FilePath;
use crate::domain::ids::DatastoreId;

/// The paths on which jobs run. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct BusyPaths(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Vec<Entry>>,
    /// Notifies all that wait when an entry is removed.
    removed: Notify,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    datastore: DatastoreId,
    path: FilePath,
    deletes: bool,
}

/// The right to work on a path, until it is dropped.
#[derive(Debug)]
pub struct BusyPath {
    paths: BusyPaths,
    number: u64,
}

impl BusyPaths {
    /// Waits until no job that runs excludes a job on this target.
    ///
    /// # Parameters
    /// - `deletes`: whether the job deletes the target.
    pub async fn enter(&self, target: &FileTarget, deletes: bool) -> BusyPath {
        loop {
            let mut removed = std::pin::pin!(self.0.removed.notified());
            // Register before the check, so that no removal after the check is missed.
            removed.as_mut().enable();
            if let Some(entered) = self.try_enter(target, deletes) {
                return entered;
            }
            removed.await;
        }
    }

    fn try_enter(&self, target: &FileTarget, deletes: bool) -> Option<BusyPath> {
        let FileTarget { datastore, datastore_name: _, path } = target;
        let mut entries = self.lock();
        let excludes = |entry: &Entry| {
            let is_nested = entry.path.is_within(Some(path)) || path.is_within(Some(&entry.path));
            entry.datastore == *datastore && is_nested && (entry.deletes || deletes)
        };
        if entries.iter().any(excludes) {
            return None;
        }
        let number = entries.last().map_or(0, |last| last.number + 1);
        let entry = Entry { number, datastore: datastore.clone(), path: path.clone(), deletes };
        entries.push(entry);
        drop(entries);
        Some(BusyPath { paths: self.clone(), number })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BusyPath {
    fn drop(&mut self) {
        self.paths.lock().retain(|entry| entry.number != self.number);
        self.paths.0.removed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(datastore: &str, path: &str) -> FileTarget {
        FileTarget {
            datastore: DatastoreId::from_backend(datastore),
            datastore_name: datastore.to_owned(),
            path: FilePath::parse(path).unwrap(),
        }
    }

    #[test]
    fn deleting_excludes_jobs_on_the_path_above_it_and_below_it() {
        let paths = BusyPaths::default();
        let upload = paths.try_enter(&target("a", "iso/x"), false).unwrap();
        for (datastore, path, deletes, may_enter) in [
            ("a", "iso", true, false),
            ("a", "iso/x", true, false),
            ("a", "iso/x/y", true, false),
            ("a", "iso-private", true, true),
            ("a", "iso/x2", true, true),
            ("b", "iso", true, true),
            ("a", "iso", false, true),
        ] {
            let entered = paths.try_enter(&target(datastore, path), deletes);
            assert_eq!(entered.is_some(), may_enter, "{datastore} {path} {deletes}");
        }
        drop(upload);
        let deletion = paths.try_enter(&target("a", "iso"), true).unwrap();
        assert!(paths.try_enter(&target("a", "iso/x"), false).is_none());
        drop(deletion);
        assert!(paths.try_enter(&target("a", "iso/x"), false).is_some());
    }

    #[tokio::test]
    async fn a_job_enters_when_the_one_that_excludes_it_ends() {
        let paths = BusyPaths::default();
        let upload = paths.enter(&target("a", "iso/x"), false).await;
        let waiting = paths.clone();
        let deletion = tokio::spawn(async move { waiting.enter(&target("a", "iso"), true).await });
        tokio::task::yield_now().await;
        assert!(!deletion.is_finished());
        drop(upload);
        deletion.await.unwrap();
    }
}
