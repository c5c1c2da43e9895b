//! Files on datastores: listings, reads, and the work of the jobs that change files.
//!
//! ```text
//! upload: body ─► part file on the datastore, hashed on the way ─► moved to its name by the job
//! ```
//! The name of a part file has the id of its job. A row in the store says that it may be there, so
//! that it is removed after a crash or an outage, too. Nothing of a body is kept in memory but the
//! piece that is on its way.

mod body;
mod listings;
mod parts;
pub mod rules;
mod transfers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::StreamExt;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::domain::artifact::Sha256Sum;
use crate::domain::byte_range::ByteRange;
use crate::domain::datastore::Datastore;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::file_entry::FileEntry;
use crate::domain::file_job::{
    FileCall, FileEvidence, FileTarget, PartRecord, Received, UploadRecord, UploadRequest,
};
use crate::domain::file_path::FilePath;
use crate::domain::ids::{DatastoreId, JobId};
use crate::fail_points::fail_point;
use crate::hypervisor::{
    CallError, DatastoreFiles, FileChange, FolderPlace, HostError, HostErrorKind,
};
use crate::service::callers::Caller;
use crate::service::host_failure::HostFailure;
use crate::service::hosts::Hosts;
use crate::service::inventory::Inventory;
use crate::service::jobs::file_work::FileWork;
use crate::service::machines::shorten;
use crate::service::storage_watch::{store_failure, write_failure};
use crate::storage::{FileStorage, StorageError};

pub use crate::hypervisor::{FileBody, FileRead};

use body::Passed;
use listings::Listings;
use rules::{Change, FileRules};
use transfers::{Place, Transfers};

/// The parts of otter that the files use.
pub struct FilesParts {
    pub hosts: Hosts,
    pub inventory: Arc<Inventory>,
    pub store: Arc<dyn FileStorage>,
    pub clock: Clock,
    pub rules: FileRules,
}

/// The files on the datastores of the host.
pub struct Files {
    hosts: Hosts,
    inventory: Arc<Inventory>,
    store: Arc<dyn FileStorage>,
    clock: Clock,
    rules: FileRules,
    transfers: Transfers,
    listings: Listings,
    /// The bodies of uploads whose jobs have not begun to receive them.
    offers: Mutex<HashMap<JobId, Offer>>,
    /// The part files that may be on datastores.
    parts: Mutex<HashMap<JobId, PartRecord>>,
    /// Notifies when a part file could not be removed.
    part_left: Notify,
}

/// The body of an upload, before its job receives it.
struct Offer {
    body: FileBody,
    place: Place,
    stall_limit: Duration,
}

/// A body that waits for its job. If this is dropped before the job has begun to receive the body,
/// the job finds none.
pub struct OfferedBody {
    files: Arc<Files>,
    job: JobId,
}

impl Files {
    /// Reads which part files may be left.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn open(parts: FilesParts) -> Result<Self, StorageError> {
        let FilesParts { hosts, inventory, store, clock, rules } = parts;
        let left = store.parts().await?;
        Ok(Self {
            hosts,
            inventory,
            store,
            rules,
            transfers: Transfers::default(),
            listings: Listings::new(clock.clone()),
            clock,
            offers: Mutex::default(),
            parts: Mutex::new(left.into_iter().map(|part| (part.job, part)).collect()),
            part_left: Notify::new(),
        })
    }

    /// Lists a folder, sorted by name, at most a few seconds old.
    ///
    /// # Parameters
    /// - `path`: `None` means the top folder.
    ///
    /// # Errors
    /// `forbidden`, `not-found`, `host-rejected` if the datastore is not accessible, and the
    /// failures of the host.
    pub async fn list(
        &self,
        caller: &Caller,
        datastore: &Datastore,
        path: Option<&FilePath>,
    ) -> Result<Arc<Vec<FileEntry>>, Failure> {
        self.rules.check_read(caller, &datastore.name, path)?;
        require_accessible(datastore)?;
        let place = FolderPlace {
            datastore: datastore.id.clone(),
            datastore_name: datastore.name.clone(),
            path: path.cloned(),
        };
        let listed = self.listings.list(&*self.host()?, &place).await;
        listed.map_err(|error| match error.kind {
            HostErrorKind::NotFound => no_folder(&datastore.name, path),
            _ => failure_of(&error),
        })
    }

    /// Reads a file, or a part of it. The body holds a place among the transfers until it ends or
    /// is dropped.
    ///
    /// # Errors
    /// `forbidden`, `queue-full`, `not-found`, `file-in-use` if the host has locked it,
    /// `host-rejected` if the datastore is not accessible, and the failures of the host.
    pub async fn read(
        &self,
        caller: &Caller,
        datastore: &Datastore,
        path: &FilePath,
        range: Option<ByteRange>,
    ) -> Result<FileRead, Failure> {
        self.rules.check_read(caller, &datastore.name, Some(path))?;
        require_accessible(datastore)?;
        let host = self.host()?;
        let turn = self.transfers.enter()?.turn().await;
        let target = target(datastore, path);
        let read = host.read(&target, range).await.map_err(|error| match error.kind {
            HostErrorKind::NotFound => {
                let detail = format!(
                    "There is no file {}. List files: GET /v1/datastores/{{datastore}}/files",
                    shorten(&target.text())
                );
                Failure::new(FailureKind::NotFound, detail)
            }
            _ => failure_of(&error),
        })?;
        Ok(match read {
            FileRead::Bytes { length, part, body } => {
                let body = body.map(move |piece| {
                    // The body has the turn until it is dropped.
                    let _ = &turn;
                    piece
                });
                FileRead::Bytes { length, part, body: body.boxed() }
            }
            outside @ FileRead::Outside(_) => outside,
        })
    }

    /// The target of a change, if the change is allowed.
    ///
    /// # Errors
    /// The errors of [`FileRules::check_write`]; `host-rejected` if the datastore is not
    /// accessible, `not-supported` if the host gives no access to files.
    pub fn check_change(
        &self,
        datastore: &Datastore,
        path: &FilePath,
        change: Change,
    ) -> Result<FileTarget, Failure> {
        let target = target(datastore, path);
        let contents = self.inventory.contents();
        let machines = contents.machines.iter().map(|machine| &**machine);
        self.rules.check_write(&target, change, machines)?;
        require_accessible(datastore)?;
        self.host()?;
        Ok(target)
    }

    /// Checks that a caller may put a file into a drive.
    ///
    /// # Errors
    /// `forbidden`
    pub fn may_insert(
        &self,
        caller: &Caller,
        datastore: &str,
        path: &FilePath,
    ) -> Result<(), Failure> {
        self.rules.check_read(caller, datastore, Some(path))
    }

    /// Offers the body of an upload to the job that will receive it.
    ///
    /// # Parameters
    /// - `job`: the id that the job will have.
    /// - `stall_limit`: how long the client may send nothing.
    ///
    /// # Errors
    /// `queue-full` if too many transfers wait.
    pub fn offer(
        self: &Arc<Self>,
        job: JobId,
        body: FileBody,
        stall_limit: Duration,
    ) -> Result<OfferedBody, Failure> {
        let place = self.transfers.enter()?;
        self.offers().insert(job, Offer { body, place, stall_limit });
        Ok(OfferedBody { files: Arc::clone(self), job })
    }

    /// Makes the host measure the free space of a datastore. Returns after the inventory has the
    /// result.
    ///
    /// # Errors
    /// The failures of the host.
    pub async fn measure(&self, datastore: &Datastore) -> Result<(), Failure> {
        self.host()?.measure(&datastore.id).await.map_err(|error| failure_of(&error))?;
        self.hosts.only().barrier().await.map_err(|error| failure_of(&error))
    }

    /// Receives an upload: the whole of [`FileWork::receive`], without the removal of the part file
    /// after a failure.
    async fn receive_body(
        &self,
        job: JobId,
        target: &FileTarget,
        upload: &UploadRequest,
        progress: &watch::Sender<u64>,
    ) -> Result<Received, Failure> {
        let Some(Offer { body, place, stall_limit }) = self.offers().remove(&job) else {
            return Err(body::hung_up());
        };
        let host = self.host()?;
        let _turn = place.turn().await;
        let passed = Passed::default();
        let body = passed.count(body, self.clock.clone(), stall_limit, progress.clone());
        let known = self.check_target(&*host, target, upload).await?;
        if let Some(known) = known
            && (!upload.replace || upload.sha256 == Some(known))
        {
            return drain(&passed, body, target, upload, known).await;
        }
        self.require_space(&*host, &target.datastore, upload.bytes).await?;
        let (datastore, path) = (target.datastore.clone(), target.path.to_string());
        let part = PartRecord { job, datastore, path };
        self.store.insert_part(&part).await.map_err(|error| write_failure(&error))?;
        self.parts().insert(job, part);
        fail_point!("upload-part");
        let part = part_of(job, target);
        if let Err(error) = host.write(&part, upload.bytes, body).await {
            if let Some(failure) = passed.failure() {
                return Err(failure);
            }
            tracing::warn!(%job, %error, file = target.text(), "the host did not take an upload");
            // A full datastore answers in many ways. What was sent has its space already.
            let (sent, _) = passed.sum();
            let left = upload.bytes.saturating_sub(sent);
            self.require_space(&*host, &target.datastore, left).await?;
            return Err(failure_of(&error));
        }
        fail_point!("upload-written");
        let (bytes, sha256) = passed.sum();
        check_sum(upload, sha256)?;
        let written = host.look(&part).await.map_err(|error| failure_of(&error))?;
        if written.is_none_or(|file| file.is_folder || file.bytes != bytes) {
            let detail = format!(
                "The host took {bytes} bytes and does not show them in the part file. Nothing was \
                 stored."
            );
            return Err(Failure::new(FailureKind::HostProtocol, detail));
        }
        Ok(Received { bytes, sha256, unchanged: known == Some(sha256) })
    }

    /// Checks what is at the target of an upload. Returns the SHA-256 of the file that is there, if
    /// an earlier upload put it there and it has the length of this one.
    ///
    /// # Errors
    /// `file-exists`; `not-found` if the folder does not exist.
    async fn check_target(
        &self,
        host: &dyn DatastoreFiles,
        target: &FileTarget,
        upload: &UploadRequest,
    ) -> Result<Option<Sha256Sum>, Failure> {
        let found = host.look(target).await.map_err(|error| failure_of(&error))?;
        let Some(file) = found else {
            if let Some(folder) = target.path.parent() {
                let place = FileTarget { path: folder.clone(), ..target.clone() };
                let folder_found = host.look(&place).await.map_err(|error| failure_of(&error))?;
                if folder_found.is_none_or(|found| !found.is_folder) {
                    return Err(no_folder(&target.datastore_name, Some(&folder)));
                }
            }
            return Ok(None);
        };
        let place = shorten(&target.text());
        if file.is_folder {
            let detail = format!("{place} is a folder. Choose another name.");
            return Err(Failure::new(FailureKind::FileExists, detail));
        }
        let earlier = self.store.upload(&target.datastore, target.path.as_str()).await;
        let earlier = earlier.map_err(|error| store_failure(&error))?.filter(|earlier| {
            let UploadRecord { bytes, modified_at, .. } = earlier;
            *bytes == file.bytes && *modified_at == file.modified_at && upload.bytes == *bytes
        });
        let could_be_same = earlier.as_ref().is_some_and(|earlier| {
            upload.sha256.is_none_or(|announced| announced == earlier.sha256)
        });
        if !upload.replace && !could_be_same {
            return Err(exists(target));
        }
        Ok(earlier.map(|earlier| earlier.sha256))
    }

    /// Checks that a datastore has room for a file. Accepts the file if the answer of the host to
    /// the measurement makes no sense.
    ///
    /// # Errors
    /// `insufficient-resources`; `host-rejected` if the datastore is not accessible.
    async fn require_space(
        &self,
        host: &dyn DatastoreFiles,
        datastore: &DatastoreId,
        bytes: u64,
    ) -> Result<(), Failure> {
        let space = match host.measure(datastore).await {
            Ok(space) => space,
            // Without a number, the write shows whether there is room.
            Err(error) if error.kind == HostErrorKind::Protocol => {
                tracing::warn!(%datastore, %error, "the host did not measure a datastore");
                return Ok(());
            }
            Err(error) => return Err(failure_of(&error)),
        };
        if !space.accessible {
            return Err(inaccessible(&datastore.to_string()));
        }
        match space.free_bytes {
            Some(free) if free < bytes => {
                let detail = format!(
                    "The datastore has {free} bytes free, and the file needs {bytes}. Nothing was \
                     stored."
                );
                Err(Failure::new(FailureKind::InsufficientResources, detail))
            }
            _ => Ok(()),
        }
    }

    fn host(&self) -> Result<Arc<dyn DatastoreFiles>, Failure> {
        self.hosts.only().files().ok_or_else(|| {
            let detail = "The host gives no access to the files of its datastores.";
            Failure::new(FailureKind::NotSupported, detail)
        })
    }

    fn offers(&self) -> MutexGuard<'_, HashMap<JobId, Offer>> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parts(&self) -> MutexGuard<'_, HashMap<JobId, PartRecord>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl FileWork for Files {
    async fn receive(
        &self,
        job: JobId,
        target: &FileTarget,
        upload: &UploadRequest,
        progress: &watch::Sender<u64>,
    ) -> Result<Received, Failure> {
        let received = self.receive_body(job, target, upload, progress).await;
        let needs_part = matches!(&received, Ok(received) if !received.unchanged);
        if !needs_part {
            self.discard(job, target).await;
        }
        received
    }

    async fn discard(&self, job: JobId, _: &FileTarget) {
        self.offers().remove(&job);
        let part = self.parts().get(&job).cloned();
        if let Some(part) = part
            && !self.remove_part_soon(&part).await
        {
            self.part_left.notify_one();
        }
    }

    async fn call(&self, job: JobId, target: &FileTarget, call: FileCall) -> Result<(), CallError> {
        let change = match call {
            FileCall::MovePart { replace } => {
                FileChange::Move { from: part_of(job, target), to: target.path.clone(), replace }
            }
            FileCall::Delete => FileChange::Delete(target.clone()),
            FileCall::CreateFolder => FileChange::CreateFolder(target.clone()),
        };
        let host = self.host().map_err(|failure| {
            CallError::Refused(HostError::new(HostErrorKind::NotSupported, failure.detail))
        })?;
        let changed = host.change(&change, job).await;
        self.listings.forget();
        changed
    }

    async fn look(&self, job: JobId, target: &FileTarget) -> Result<FileEvidence, HostError> {
        let host = self
            .host()
            .map_err(|failure| HostError::new(HostErrorKind::NotSupported, failure.detail))?;
        let has_part = self.parts().contains_key(&job);
        let part = if has_part { host.look(&part_of(job, target)).await? } else { None };
        Ok(FileEvidence { target: host.look(target).await?, part })
    }

    async fn uploaded(&self, job: JobId, target: &FileTarget, received: &Received) {
        self.listings.forget();
        let recorded = async {
            let host = self.host().map_err(|failure| failure.detail)?;
            let found = host.look(target).await.map_err(|error| error.message)?;
            let Some(file) = found.filter(|file| file.bytes == received.bytes) else {
                return Err("the file was changed at once".to_owned());
            };
            let record = UploadRecord {
                datastore: target.datastore.clone(),
                path: target.path.to_string(),
                bytes: received.bytes,
                sha256: received.sha256,
                modified_at: file.modified_at,
            };
            self.store.record_upload(&record).await.map_err(|error| error.to_string())
        };
        // Without the record, a repeat of the upload finds a file that it does not know.
        if let Err(error) = recorded.await {
            tracing::warn!(%job, error, file = target.text(), "an upload was not recorded");
        }
        self.forget_part(job).await;
    }
}

/// Reads a body whose bytes the target may have already, and compares.
///
/// # Errors
/// `file-exists` if they differ; the failures of the client's side.
async fn drain(
    passed: &Passed,
    body: FileBody,
    target: &FileTarget,
    upload: &UploadRequest,
    known: Sha256Sum,
) -> Result<Received, Failure> {
    passed.drain(body, upload.bytes).await?;
    let (bytes, sha256) = passed.sum();
    check_sum(upload, sha256)?;
    if sha256 == known {
        return Ok(Received { bytes, sha256, unchanged: true });
    }
    Err(exists(target))
}

/// Checks that an upload has the hash that its caller announced.
///
/// # Errors
/// `invalid-request`
fn check_sum(upload: &UploadRequest, sha256: Sha256Sum) -> Result<(), Failure> {
    let Some(announced) = upload.sha256.filter(|announced| *announced != sha256) else {
        return Ok(());
    };
    let detail = format!(
        "The body has the SHA-256 {sha256}, and Otter-Content-SHA256 is {announced}. Nothing was \
         stored."
    );
    let error = InputError {
        pointer: None,
        parameter: Some("otter-content-sha256".to_owned()),
        code: "mismatch".into(),
        detail: detail.clone(),
    };
    Err(Failure::new(FailureKind::InvalidRequest, detail).with_error(error))
}

fn target(datastore: &Datastore, path: &FilePath) -> FileTarget {
    FileTarget {
        datastore: datastore.id.clone(),
        datastore_name: datastore.name.clone(),
        path: path.clone(),
    }
}

/// The part file of an upload.
fn part_of(job: JobId, target: &FileTarget) -> FileTarget {
    FileTarget { path: target.path.part(job), ..target.clone() }
}

fn failure_of(error: &HostError) -> Failure {
    HostFailure::from(error).to_failure()
}

fn exists(target: &FileTarget) -> Failure {
    let detail = format!(
        "{} exists. Choose another name, or replace it: replace=true",
        shorten(&target.text())
    );
    Failure::new(FailureKind::FileExists, detail)
}

fn no_folder(datastore: &str, path: Option<&FilePath>) -> Failure {
    let path = path.map(FilePath::as_str).unwrap_or_default();
    let detail = format!(
        "There is no folder {}. Create it: POST /v1/datastores/{{datastore}}/folders",
        shorten(&format!("[{datastore}] {path}"))
    );
    Failure::new(FailureKind::NotFound, detail)
}

/// # Errors
/// `host-rejected`
fn require_accessible(datastore: &Datastore) -> Result<(), Failure> {
    if datastore.accessible { Ok(()) } else { Err(inaccessible(&datastore.name)) }
}

fn inaccessible(datastore: &str) -> Failure {
    let detail =
        format!("The host has no access to the datastore {} at the moment.", shorten(datastore));
    Failure::new(FailureKind::HostRejected, detail)
}

impl Drop for OfferedBody {
    fn drop(&mut self) {
        self.files.offers().remove(&self.job);
    }
}
