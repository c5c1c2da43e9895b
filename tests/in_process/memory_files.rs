//! Files of datastores in memory, for jobs on files without a host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use otter::domain::artifact::Sha256Sum;
use otter::domain::failure::{Failure, FailureKind};
use otter::domain::file_job::{
    FileCall, FileEvidence, FileFact, FileTarget, Received, UploadRequest,
};
use otter::domain::file_path::FilePath;
use otter::domain::ids::JobId;
use otter::hypervisor::{CallError, HostError, HostErrorKind};
use otter::service::jobs::file_work::FileWork;
use tokio::sync::{Notify, watch};

/// Files and folders by their paths. There is one datastore. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryFiles(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// The sizes of files. `None` is a folder.
    entries: BTreeMap<FilePath, Option<u64>>,
    /// The uploads whose bodies arrive.
    bodies: BTreeSet<JobId>,
    /// What becomes of the next calls. An empty list: they run.
    behaviors: Vec<FileCallBehavior>,
    calls: Vec<&'static str>,
    recorded: Vec<JobId>,
}

/// What becomes of a call on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileCallBehavior {
    /// It runs, and its answer is lost.
    RunAndLose,
    /// It does not run, and its answer is lost.
    Lose,
    /// It is refused for a reason that a repeat does not remove.
    Refuse,
    /// The call waits until it is dropped.
    Hang,
}

impl MemoryFiles {
    /// Adds an empty folder.
    pub fn add_folder(&self, path: &str) {
        self.state().entries.insert(FilePath::parse(path).unwrap(), None);
    }

    /// Lets the body of an upload arrive. Before this, the upload waits for it.
    pub fn send_body(&self, job: JobId) {
        self.state().bodies.insert(job);
        self.0.changed.notify_waiters();
    }

    /// Sets what becomes of the next calls.
    pub fn set_behavior(&self, behaviors: &[FileCallBehavior]) {
        self.state().behaviors = behaviors.to_vec();
    }

    /// The paths of all files and folders.
    pub fn paths(&self) -> Vec<String> {
        self.state().entries.keys().map(ToString::to_string).collect()
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<&'static str> {
        self.state().calls.clone()
    }

    /// The uploads that were recorded.
    pub fn recorded(&self) -> Vec<JobId> {
        self.state().recorded.clone()
    }

    /// Waits until so many calls were made or an upload waits for its body.
    pub async fn until(&self, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            tokio::task::yield_now().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}

impl State {
    fn run(&mut self, job: JobId, target: &FileTarget, call: FileCall) -> Result<(), HostError> {
        let refused = |kind| Err(HostError::new(kind, "the host refused"));
        let path = &target.path;
        match call {
            FileCall::MovePart { replace } => {
                if self.entries.contains_key(path) && !replace {
                    return refused(HostErrorKind::FileExists);
                }
                let Some(part) = self.entries.remove(&path.part(job)) else {
                    return refused(HostErrorKind::NotFound);
                };
                self.entries.insert(path.clone(), part);
            }
            FileCall::Delete if self.entries.remove(path).is_none() => {
                return refused(HostErrorKind::NotFound);
            }
            FileCall::Delete => self.entries.retain(|other, _| !other.is_within(Some(path))),
            FileCall::CreateFolder => {
                self.entries.insert(path.clone(), None);
            }
        }
        Ok(())
    }

    fn fact(&self, path: &FilePath) -> Option<FileFact> {
        let bytes = self.entries.get(path)?;
        let is_empty =
            bytes.is_none() && !self.entries.keys().any(|other| other.is_below(Some(path)));
        Some(FileFact {
            bytes: bytes.unwrap_or_default(),
            modified_at: None,
            is_folder: bytes.is_none(),
            is_empty,
        })
    }
}

#[async_trait]
impl FileWork for MemoryFiles {
    async fn receive(
        &self,
        job: JobId,
        target: &FileTarget,
        upload: &UploadRequest,
        progress: &watch::Sender<u64>,
    ) -> Result<Received, Failure> {
        self.state().entries.insert(target.path.part(job), Some(0));
        progress.send_replace(0);
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.state().bodies.remove(&job) {
                break;
            }
            changed.await;
        }
        self.state().entries.insert(target.path.part(job), Some(upload.bytes));
        progress.send_replace(upload.bytes);
        if upload.sha256.is_some() {
            self.state().entries.remove(&target.path.part(job));
            let detail = "The body has another SHA-256.";
            return Err(Failure::new(FailureKind::InvalidRequest, detail));
        }
        Ok(Received { bytes: upload.bytes, sha256: Sha256Sum([7; 32]), unchanged: false })
    }

    async fn discard(&self, job: JobId, target: &FileTarget) {
        self.state().entries.remove(&target.path.part(job));
    }

    async fn call(&self, job: JobId, target: &FileTarget, call: FileCall) -> Result<(), CallError> {
        let behavior = {
            let mut state = self.state();
            state.calls.push(call.as_str());
            (!state.behaviors.is_empty()).then(|| state.behaviors.remove(0))
        };
        let lost = || {
            let error = HostError::new(HostErrorKind::Unreachable, "the answer was lost");
            Err(CallError::Lost(error))
        };
        match behavior {
            None => self.state().run(job, target, call).map_err(CallError::Refused),
            Some(FileCallBehavior::RunAndLose) => {
                // A call that the host refuses has no effect either.
                let _ = self.state().run(job, target, call);
                lost()
            }
            Some(FileCallBehavior::Lose) => lost(),
            Some(FileCallBehavior::Refuse) => {
                let error = HostError::new(HostErrorKind::Rejected, "the host refused");
                Err(CallError::Refused(error))
            }
            Some(FileCallBehavior::Hang) => std::future::pending().await,
        }
    }

    async fn look(&self, job: JobId, target: &FileTarget) -> Result<FileEvidence, HostError> {
        let state = self.state();
        Ok(FileEvidence {
            target: state.fact(&target.path),
            part: state.fact(&target.path.part(job)),
        })
    }

    async fn uploaded(&self, job: JobId, _: &FileTarget, _: &Received) {
        self.state().recorded.push(job);
    }
}
