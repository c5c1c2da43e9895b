//! Artifacts: files that belong to leases. otter knows them in its store, and keeps their bytes in
//! a folder of the state directory.
//!
//! ```text
//! upload ─► <id>.part ─► on the disk ─► renamed to <id> ─► row in the store: the artifact exists
//! delete ─► row away ─► file away
//! ```
//! A crash in between leaves a file without a row, which the next start removes. A row without a
//! file, for example after a restore, goes too. If all artifacts together reach their limit, the
//! oldest artifacts of leases that have ended make room.

mod files;
mod part_file;
mod space;
mod upload;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::access::Role;
use crate::domain::artifact::{Artifact, ArtifactName, ArtifactSource, ContentType};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord, between};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{ArtifactId, LeaseId};
use crate::domain::lease::Lease;
use crate::domain::origin::Actor;
use crate::fail_points::fail_point;
use crate::service::callers::Caller;
use crate::service::leases::published::PublishedLeases;
use crate::service::storage_watch::{store_failure, write_failure};
use crate::service::visibility::Visibility;
use crate::storage::{ArtifactFilter, ArtifactOrder, ArtifactStorage, StorageError};
use crate::telemetry::artifacts::ArtifactMetrics;

pub use files::private_folder;
pub use upload::Upload;

use files::{ArtifactFiles, FoundFile};
use part_file::PartFile;
use space::{Reservation, Space, size_on_disk};
use upload::Sink;

/// The number of artifacts that one read of the store returns.
const PAGE: u32 = 500;

/// How often old artifacts are deleted.
const PURGE_INTERVAL: Duration = Duration::from_hours(1);

/// The limits of artifacts and of recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactSettings {
    /// The largest number of bytes of one artifact.
    pub max_bytes: u64,
    /// The largest number of bytes of all artifacts together.
    pub max_total: u64,
    /// How long artifacts of ended leases are kept.
    pub retention: Duration,
    /// The largest number of bytes of one recording.
    pub recording_bytes: u64,
}

impl Default for ArtifactSettings {
    fn default() -> Self {
        Self {
            max_bytes: 1 << 30,
            max_total: 20 << 30,
            retention: Duration::from_hours(14 * 24),
            recording_bytes: 256 << 20,
        }
    }
}

impl ArtifactSettings {
    /// The limits without a state directory: the files are temporary, and all of them together are
    /// small.
    #[must_use]
    pub fn without_state_directory(self) -> Self {
        Self {
            max_total: self.max_total.min(64 << 20),
            recording_bytes: self.recording_bytes.min(16 << 20),
            ..self
        }
    }
}

/// The parts of otter that the artifacts use.
pub struct ArtifactsParts {
    pub store: Arc<dyn ArtifactStorage>,
    pub leases: Arc<PublishedLeases>,
    pub visibility: Visibility,
    pub clock: Clock,
    pub metrics: ArtifactMetrics,
    pub settings: ArtifactSettings,
    pub folder: ArtifactFolder,
}

/// The folder below which otter keeps artifacts and recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArtifactFolder {
    root: PathBuf,
    is_temporary: bool,
}

impl ArtifactFolder {
    /// The state directory, or a folder for temporary files.
    #[must_use]
    pub fn new(state_dir: Option<&Path>, clock: &Clock) -> Self {
        if let Some(directory) = state_dir {
            Self { root: directory.to_owned(), is_temporary: false }
        } else {
            let root = std::env::temp_dir().join(format!("otter-{}", clock.uuid()));
            Self { root, is_temporary: true }
        }
    }

    /// Whether the folder is removed when otter ends.
    #[must_use]
    pub const fn is_temporary(&self) -> bool {
        self.is_temporary
    }

    /// Removes the folder, with everything in it, if it is temporary. Nothing may use it any more.
    pub fn remove_if_temporary(&self) {
        if self.is_temporary
            && let Err(error) = std::fs::remove_dir_all(&self.root)
            && error.kind() != io::ErrorKind::NotFound
        {
            let folder = self.root.display();
            tracing::warn!(%error, %folder, "a temporary folder cannot be removed");
        }
    }

    /// The folder of the recordings that run.
    #[must_use]
    pub fn recordings(&self) -> PathBuf {
        self.root.join("recordings")
    }

    fn files(&self) -> ArtifactFiles {
        ArtifactFiles::new(self.root.join("artifacts"))
    }
}

/// What is known of an artifact before its bytes.
#[derive(Clone, Debug)]
pub struct NewArtifact {
    pub name: ArtifactName,
    pub lease: Arc<Lease>,
    pub content_type: ContentType,
    pub source: ArtifactSource,
    /// Who stores it, for the audit.
    pub actor: Actor,
}

impl NewArtifact {
    /// An artifact of otter itself.
    #[must_use]
    pub fn of_otter(name: ArtifactName, lease: Arc<Lease>, content_type: ContentType) -> Self {
        let (source, actor) = (ArtifactSource::Otter, Actor::otter());
        Self { name, lease, content_type, source, actor }
    }
}

/// The result of storing an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    New(Artifact),
    /// The lease had this artifact, with the same bytes.
    Existing(Artifact),
}

/// Why an artifact is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deletion {
    Call,
    Age,
    Total,
    FileMissing,
}

impl Deletion {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Age => "age",
            Self::Total => "total",
            Self::FileMissing => "file-missing",
        }
    }
}

/// The artifacts of all leases.
pub struct Artifacts {
    store: Arc<dyn ArtifactStorage>,
    leases: Arc<PublishedLeases>,
    visibility: Visibility,
    clock: Clock,
    metrics: ArtifactMetrics,
    settings: ArtifactSettings,
    files: Arc<ArtifactFiles>,
    space: Arc<Space>,
    /// The artifacts whose file was missing when otter started. [`Artifacts::run`] deletes them.
    missing: Mutex<Vec<Artifact>>,
}

impl Artifacts {
    /// Reads which artifacts there are, and removes files that belong to none.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn open(parts: ArtifactsParts) -> Result<Self, StorageError> {
        let ArtifactsParts { store, leases, visibility, clock, metrics, mut settings, folder } =
            parts;
        if folder.is_temporary() {
            settings = settings.without_state_directory();
            tracing::info!(
                bytes = settings.max_total,
                "no state directory: artifacts and recordings are temporary files, and end with \
                 this process"
            );
        }
        let this = Self {
            store,
            leases,
            visibility,
            clock,
            metrics,
            space: Arc::new(Space::new(settings.max_total)),
            settings,
            files: Arc::new(folder.files()),
            missing: Mutex::default(),
        };
        this.find_orphans().await?;
        Ok(this)
    }

    /// The limits.
    #[must_use]
    pub const fn settings(&self) -> &ArtifactSettings {
        &self.settings
    }

    /// Deletes old artifacts, until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let missing =
            std::mem::take(&mut *self.missing.lock().unwrap_or_else(PoisonError::into_inner));
        for artifact in missing {
            let (id, name) = (artifact.id, &artifact.name);
            tracing::warn!(%id, %name, "the file of an artifact is missing or cut");
            // A failure is logged, and the next start finds the row again.
            let _ = self.delete_row(&artifact, Deletion::FileMissing, &Actor::otter()).await;
        }
        loop {
            if let Err(failure) = self.purge().await {
                tracing::warn!(detail = failure.detail, "old artifacts cannot be deleted");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(PURGE_INTERVAL) => {}
            }
        }
    }

    /// Begins an upload.
    ///
    /// # Parameters
    /// - `announced`: the number of bytes that will come.
    ///
    /// # Errors
    /// `payload-too-large`; `artifact-exists` if the lease has an artifact with this name and
    /// another length; `insufficient-resources`; `storage-unavailable`.
    pub async fn begin(&self, new: NewArtifact, announced: u64) -> Result<Upload, Failure> {
        if announced > self.settings.max_bytes {
            return Err(self.too_large(announced));
        }
        if let Some(existing) = self.named(new.lease.id, &new.name).await? {
            if existing.bytes != announced {
                return Err(exists(&existing));
            }
            let sink = Sink::Repeat { existing: Box::new(existing), hash: Sha256::new() };
            return Ok(Upload::new(new, announced, sink));
        }
        let reservation = self.reserve(announced).await?;
        let id = ArtifactId::new(self.clock.uuid());
        let part = self.part(id, announced).await?;
        Ok(Upload::new(new, announced, Sink::New { id, part, reservation }))
    }

    /// Stores an artifact whose bytes are in memory.
    ///
    /// # Errors
    /// The errors of [`Artifacts::begin`] and of [`Upload::finish`].
    pub async fn store(&self, new: NewArtifact, bytes: &[u8]) -> Result<Stored, Failure> {
        let mut upload = self.begin(new, bytes.len() as u64).await?;
        upload.write(bytes).await?;
        upload.finish(self).await
    }

    /// Stores an artifact that a function writes on a blocking thread.
    ///
    /// # Parameters
    /// - `expected`: about how many bytes it will have.
    ///
    /// # Errors
    /// The error of the function; `artifact-exists`, `insufficient-resources` or
    /// `storage-unavailable` as [`WriteError::Store`].
    pub async fn store_written<E: Send + 'static>(
        &self,
        new: NewArtifact,
        expected: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
    ) -> Result<Stored, WriteError<E>> {
        let expected = expected.min(self.settings.max_bytes);
        let reservation = self.reserve(expected).await?;
        let id = ArtifactId::new(self.clock.uuid());
        let part = self.part(id, self.settings.max_bytes).await?;
        let writing = tokio::task::spawn_blocking(move || {
            let mut part = io::BufWriter::with_capacity(64 * 1024, part);
            write(&mut part).map(|()| part.into_inner())
        });
        let written = writing.await.map_err(|_| panicked())?;
        let part = written.map_err(WriteError::Write)?;
        let part = part.map_err(|error| {
            let error = error.into_error();
            let is_too_large = error.kind() == io::ErrorKind::FileTooLarge;
            let too_large = || self.too_large(self.settings.max_bytes.saturating_add(1));
            if is_too_large { too_large() } else { unwritable(&error) }
        })?;
        Ok(self.store_part(new, id, part, reservation).await?)
    }

    /// The artifact of a lease that has this name. `None` if there is none.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn named(
        &self,
        lease: LeaseId,
        name: &ArtifactName,
    ) -> Result<Option<Artifact>, Failure> {
        self.store.artifact_named(lease, name).await.map_err(|error| store_failure(&error))
    }

    /// An artifact that exists for a caller: for the one that requested its lease, and for
    /// operators who see its machine. `None` for other callers.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn get(&self, caller: &Caller, id: ArtifactId) -> Result<Option<Artifact>, Failure> {
        let found = self.store.artifact(id).await.map_err(|error| store_failure(&error))?;
        Ok(found.filter(|artifact| self.shows(caller, artifact)))
    }

    /// The artifacts that match the filter and exist for a caller, newest first.
    ///
    /// # Parameters
    /// - `after`: the last artifact of the previous page.
    /// - `limit`: the largest number of artifacts.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn list(
        &self,
        caller: &Caller,
        filter: &ArtifactFilter,
        mut after: Option<ArtifactId>,
        limit: u32,
    ) -> Result<Vec<Artifact>, Failure> {
        let own = (caller.role < Role::Operator).then(|| caller.name.to_string());
        let filter = ArtifactFilter { requested_by: own, ..filter.clone() };
        let mut shown = Vec::new();
        // One page may need several reads of the store, because the artifacts that the caller does
        // not see are left out.
        loop {
            let page = self.store.artifacts(&filter, ArtifactOrder::NewestFirst, after, limit);
            let page = page.await.map_err(|error| store_failure(&error))?;
            let is_last = page.len() < limit as usize;
            after = page.last().map(|artifact| artifact.id);
            shown.extend(page.into_iter().filter(|artifact| self.shows(caller, artifact)));
            if is_last || shown.len() >= limit as usize {
                shown.truncate(limit as usize);
                return Ok(shown);
            }
        }
    }

    /// Opens the bytes of an artifact. `None` if it was deleted.
    ///
    /// # Errors
    /// Fails if the disk fails.
    pub async fn open_bytes(&self, id: ArtifactId) -> Result<Option<File>, Failure> {
        let files = Arc::clone(&self.files);
        match blocking(move || files.open(id)).await {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                tracing::error!(%error, %id, "the file of an artifact cannot be read");
                let detail = "the file of an artifact cannot be read";
                Err(Failure::new(FailureKind::Internal, detail))
            }
        }
    }

    /// Deletes an artifact on the call of a caller. Returns false if it was deleted before.
    ///
    /// # Errors
    /// `storage-unavailable`.
    pub async fn delete(&self, caller: &Caller, artifact: &Artifact) -> Result<bool, Failure> {
        self.delete_row(artifact, Deletion::Call, &caller.actor()).await
    }

    /// Commits an artifact whose bytes are in a part file.
    async fn store_part(
        &self,
        new: NewArtifact,
        id: ArtifactId,
        part: PartFile,
        reservation: Reservation,
    ) -> Result<Stored, Failure> {
        let files = Arc::clone(&self.files);
        let written = blocking(move || files.keep(id, part)).await;
        let written = written.map_err(|error| unwritable(&error))?;
        fail_point!("artifact-file");
        let NewArtifact { name, lease, content_type, source, actor } = new;
        let artifact = Artifact {
            id,
            name,
            lease: lease.id,
            machine: lease.machine.clone(),
            machine_name: lease.machine_name.clone(),
            pool: lease.pool.clone(),
            reference: lease.reference.clone(),
            requested_by: lease.requested_by.clone(),
            content_type,
            bytes: written.bytes,
            sha256: written.sha256,
            created_at: self.clock.now(),
            source,
        };
        let record =
            AuditRecord::new(artifact.created_at, AuditAction::ArtifactStored, AuditOutcome::Done)
                .with_actor(&actor)
                .with_artifact(&artifact);
        match self.store.insert_artifact(&artifact, record).await {
            Ok(()) => {
                reservation.keep(artifact.bytes);
                self.metrics.stored(source.as_str(), artifact.bytes);
                // What a recording wrote may be more than it expected.
                self.make_room().await.unwrap_or_else(|failure| {
                    tracing::warn!(detail = failure.detail, "the artifacts exceed their total");
                });
                Ok(Stored::New(artifact))
            }
            Err(StorageError::Conflict(_)) => {
                self.remove_file(id).await;
                match self.named(artifact.lease, &artifact.name).await? {
                    Some(existing) if existing.sha256 == artifact.sha256 => {
                        Ok(Stored::Existing(existing))
                    }
                    Some(existing) => Err(exists(&existing)),
                    None => Err(Failure::new(
                        FailureKind::Internal,
                        "an artifact was deleted while another one was stored",
                    )),
                }
            }
            Err(error) => {
                // If the row may be committed, its file stays. The next start removes it if not.
                if !error.may_be_committed() {
                    self.remove_file(id).await;
                }
                Err(write_failure(&error))
            }
        }
    }

    async fn part(&self, id: ArtifactId, limit: u64) -> Result<PartFile, Failure> {
        let files = Arc::clone(&self.files);
        blocking(move || files.begin(id, limit)).await.map_err(|error| unwritable(&error))
    }

    /// Reserves space for an artifact. If there is too little, deletes old artifacts.
    ///
    /// # Errors
    /// `insufficient-resources` if the artifacts of open leases leave too little space.
    async fn reserve(&self, bytes: u64) -> Result<Reservation, Failure> {
        let reservation = self.space.reserve(bytes);
        self.make_room().await?;
        Ok(reservation)
    }

    /// Deletes the oldest artifacts of ended leases until the total is kept. If that cannot be
    /// reached, deletes nothing.
    ///
    /// # Errors
    /// `insufficient-resources`; `storage-unavailable`.
    async fn make_room(&self) -> Result<(), Failure> {
        let mut excess = self.space.excess();
        let (mut after, mut victims) = (None, Vec::new());
        while excess > 0 {
            let page = self.oldest(after).await?;
            let Some(last) = page.last() else { return Err(self.no_room()) };
            after = Some(last.id);
            let open = self.leases.load();
            for artifact in page {
                if excess > 0 && open.get(artifact.lease).is_none() {
                    excess = excess.saturating_sub(size_on_disk(artifact.bytes));
                    victims.push(artifact);
                }
            }
        }
        for artifact in victims {
            self.delete_row(&artifact, Deletion::Total, &Actor::otter()).await?;
        }
        Ok(())
    }

    /// Deletes the artifacts of ended leases that are too old.
    async fn purge(&self) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let page = self.oldest(after).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            let (open, now) = (self.leases.load(), self.clock.now());
            let is_old =
                |artifact: &Artifact| between(artifact.created_at, now) > self.settings.retention;
            if !page.iter().any(is_old) {
                // The artifacts that follow are younger.
                return Ok(());
            }
            for artifact in page {
                if is_old(&artifact) && open.get(artifact.lease).is_none() {
                    self.delete_row(&artifact, Deletion::Age, &Actor::otter()).await?;
                }
            }
        }
    }

    async fn oldest(&self, after: Option<ArtifactId>) -> Result<Vec<Artifact>, Failure> {
        let all = ArtifactFilter::default();
        let page = self.store.artifacts(&all, ArtifactOrder::OldestFirst, after, PAGE).await;
        page.map_err(|error| store_failure(&error))
    }

    /// Deletes the row of an artifact, then its file. Returns false if there was no row.
    async fn delete_row(
        &self,
        artifact: &Artifact,
        why: Deletion,
        actor: &Actor,
    ) -> Result<bool, Failure> {
        let now = self.clock.now();
        let record = AuditRecord::new(now, AuditAction::ArtifactDeleted, AuditOutcome::Done)
            .with_actor(actor)
            .with_artifact(artifact);
        let detail = format!("{} ({})", record.detail.as_deref().unwrap_or_default(), why.as_str());
        let deleted = self.store.delete_artifact(artifact.id, record.with_detail(detail)).await;
        let deleted = deleted.map_err(|error| write_failure(&error))?;
        if deleted {
            fail_point!("artifact-row");
            self.remove_file(artifact.id).await;
            self.metrics.deleted(why.as_str(), artifact.bytes);
            self.space.remove(artifact.bytes);
        }
        Ok(deleted)
    }

    async fn remove_file(&self, id: ArtifactId) {
        let files = Arc::clone(&self.files);
        if let Err(error) = blocking(move || files.remove(id)).await {
            tracing::warn!(%error, %id, "the file of a deleted artifact cannot be removed");
        }
    }

    /// Compares the rows with the files. Removes files without a row, and notes rows without a
    /// file.
    async fn find_orphans(&self) -> Result<(), StorageError> {
        let files = Arc::clone(&self.files);
        let listed = blocking(move || files.list()).await.inspect_err(|error| {
            // Without the list, no file and no row is an orphan for certain.
            let folder = self.files.directory().display();
            tracing::error!(%error, %folder, "the folder of the artifacts cannot be read");
        });
        let by_name = |files: Vec<FoundFile>| -> HashMap<OsString, FoundFile> {
            files.into_iter().map(|file| (file.name.clone(), file)).collect()
        };
        let mut found = listed.ok().map(by_name);
        let (mut after, mut missing) = (None, Vec::new());
        loop {
            let all = ArtifactFilter::default();
            let page = self.store.artifacts(&all, ArtifactOrder::OldestFirst, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for artifact in page {
                self.space.add(artifact.bytes);
                self.metrics.found(artifact.bytes);
                let is_whole = found.as_mut().is_none_or(|found| {
                    let file = found.remove(&OsString::from(artifact.id.to_string()));
                    file.is_some_and(|file| file.bytes == artifact.bytes)
                });
                if !is_whole {
                    missing.push(artifact);
                }
            }
        }
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = missing;
        let orphans: Vec<FoundFile> = found.unwrap_or_default().into_values().collect();
        if !orphans.is_empty() {
            tracing::info!(files = orphans.len(), "files without an artifact are removed");
            let files = Arc::clone(&self.files);
            let removed =
                blocking(move || orphans.iter().try_for_each(|orphan| files.remove_found(orphan)));
            if let Err(error) = removed.await {
                tracing::warn!(%error, "a file without an artifact cannot be removed");
            }
        }
        Ok(())
    }

    fn shows(&self, caller: &Caller, artifact: &Artifact) -> bool {
        if *artifact.requested_by == *caller.name {
            return true;
        }
        let name = artifact.machine_name.as_deref().unwrap_or_default();
        let pool = artifact.pool.as_deref();
        let sees_machine = match &artifact.machine {
            Some(machine) => self.visibility.has_known_machine(&caller.scope, machine, name, pool),
            None => !caller.scope.is_restricted(),
        };
        caller.role >= Role::Operator && sees_machine
    }

    fn too_large(&self, bytes: u64) -> Failure {
        let detail = format!(
            "The artifact has {bytes} bytes or more, and one artifact may have {} \
             (artifacts.max_bytes).",
            self.settings.max_bytes
        );
        Failure::new(FailureKind::PayloadTooLarge, detail)
    }

    fn no_room(&self) -> Failure {
        let detail = format!(
            "All artifacts together may take {} bytes (artifacts.max_total), and those of leases \
             that have not ended leave too little room. Delete some, or raise the limit.",
            self.space.most()
        );
        Failure::new(FailureKind::InsufficientResources, detail)
    }
}

/// Why an artifact that a function writes was not stored.
#[derive(Debug)]
pub enum WriteError<E> {
    /// The function failed.
    Write(E),
    Store(Box<Failure>),
}

impl<E> From<Failure> for WriteError<E> {
    fn from(failure: Failure) -> Self {
        Self::Store(Box::new(failure))
    }
}

/// Runs a function on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

fn panicked() -> Failure {
    Failure::new(FailureKind::Internal, "the function that writes an artifact panicked")
}

/// The failure of an artifact whose bytes cannot be written.
fn unwritable(error: &io::Error) -> Failure {
    tracing::error!(%error, "an artifact cannot be written");
    let detail = format!(
        "The disk of the state directory refuses the artifact ({error}). Nothing was stored. Make \
         room on the disk, and send the artifact again."
    );
    Failure::new(FailureKind::StorageUnavailable, detail)
}

/// The failure of an artifact whose name is taken.
fn exists(existing: &Artifact) -> Failure {
    let Artifact { id, name, lease, bytes, sha256, .. } = existing;
    let detail = format!(
        "The lease {lease} has an artifact {name} with other bytes: {id}, {bytes} bytes, SHA-256 \
         {sha256}. Choose another name, or delete it first: DELETE /v1/artifacts/{id}"
    );
    Failure::new(FailureKind::ArtifactExists, detail).with_lease(*lease)
}
