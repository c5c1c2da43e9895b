//! The last listings of folders, kept for a few seconds. Callers that ask for the same folder at
//! the same time share one listing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::file_entry::FileEntry;
use crate::hypervisor::{DatastoreFiles, FolderPlace, HostError};

/// How long a listing is kept.
const KEPT: Duration = Duration::from_secs(5);

/// The number of folders whose listings are kept.
const FOLDERS: usize = 32;

/// The listings of folders.
#[derive(Debug)]
pub struct Listings {
    clock: Clock,
    /// The folder that was asked for last is at the end.
    folders: Mutex<Vec<(FolderPlace, Arc<Folder>)>>,
}

/// One folder. The lock is held while the host lists it.
#[derive(Debug, Default)]
struct Folder(tokio::sync::Mutex<Option<Listing>>);

#[derive(Debug)]
struct Listing {
    at: Duration,
    entries: Arc<Vec<FileEntry>>,
}

impl Listings {
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, folders: Mutex::default() }
    }

    /// Lists a folder, sorted by name.
    ///
    /// # Errors
    /// The errors of [`DatastoreFiles::list`].
    pub async fn list(
        &self,
        host: &dyn DatastoreFiles,
        place: &FolderPlace,
    ) -> Result<Arc<Vec<FileEntry>>, HostError> {
        let folder = self.folder(place);
        let mut listing = folder.0.lock().await;
        let now = self.clock.elapsed();
        if let Some(Listing { at, entries }) = &*listing
            && now.saturating_sub(*at) < KEPT
        {
            return Ok(Arc::clone(entries));
        }
        let mut entries = host.list(place).await?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        let entries = Arc::new(entries);
        // A listing is as old as the question.
        *listing = Some(Listing { at: now, entries: Arc::clone(&entries) });
        Ok(entries)
    }

    /// Forgets all listings, because a file was changed. A listing that is under way is not used
    /// again either.
    pub fn forget(&self) {
        self.folders().clear();
    }

    fn folder(&self, place: &FolderPlace) -> Arc<Folder> {
        let mut folders = self.folders();
        let known = folders.iter().position(|(known, _)| known == place);
        let (place, folder) = match known {
            Some(known) => folders.remove(known),
            None => (place.clone(), Arc::default()),
        };
        if folders.len() >= FOLDERS {
            folders.remove(0);
        }
        folders.push((place, Arc::clone(&folder)));
        folder
    }

    fn folders(&self) -> MutexGuard<'_, Vec<(FolderPlace, Arc<Folder>)>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
