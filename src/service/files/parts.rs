//! The part files of uploads that did not succeed: removed at once, or as soon as there is a
//! session with the host.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Files, part_of};
use crate::domain::file_job::{FileTarget, PartRecord};
use crate::domain::file_path::FilePath;
use crate::domain::ids::JobId;
use crate::hypervisor::{CallError, FileChange, HostErrorKind};
use crate::service::jobs::Jobs;

/// The pause before a part file that could not be removed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// The pauses before a part file is tried again that the host still uses.
const SHORT_PAUSES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
];

/// What became of a try to remove a part file.
enum Removal {
    Gone,
    /// The host still uses or shows it.
    InUse,
    Failed,
}

impl Files {
    /// Removes the part files of jobs that have ended, until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, jobs: Jobs, stop: CancellationToken) {
        let work = async {
            loop {
                let left = self.part_left.notified();
                self.inventory.connected().await;
                if self.remove_parts(&jobs).await {
                    left.await;
                } else {
                    self.clock.sleep(RETRY_PAUSE).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Removes the part files of jobs that have ended. Returns whether none of these is left.
    async fn remove_parts(&self, jobs: &Jobs) -> bool {
        let parts: Vec<PartRecord> = self.parts().values().cloned().collect();
        let mut are_gone = true;
        for part in parts {
            are_gone &= match jobs.get(part.job).await {
                // A job that has not ended needs its part file, or removes it itself.
                Ok(Some(view)) if !view.job.state.is_end() => true,
                Ok(_) => self.remove_part_soon(&part).await,
                Err(_) => false,
            };
        }
        are_gone
    }

    /// Removes a part file, and tries again for a moment while the host uses it: a host notices
    /// late that a client hung up. Returns whether it is gone.
    pub(super) async fn remove_part_soon(&self, part: &PartRecord) -> bool {
        for pause in SHORT_PAUSES {
            match self.remove_part(part).await {
                Removal::Gone => return true,
                Removal::Failed => return false,
                Removal::InUse => self.clock.sleep(pause).await,
            }
        }
        matches!(self.remove_part(part).await, Removal::Gone)
    }

    /// Removes a part file, and then the row that says that it may be there.
    async fn remove_part(&self, part: &PartRecord) -> Removal {
        let (job, path) = (part.job, &part.path);
        let Some(file) = self.part_file(part) else { return Removal::Failed };
        let Ok(host) = self.host() else { return Removal::Failed };
        match host.change(&FileChange::Delete(file.clone()), job).await {
            Ok(()) => {}
            Err(CallError::Refused(error) | CallError::Lost(error)) => {
                if error.kind == HostErrorKind::FileInUse {
                    return Removal::InUse;
                }
                if error.kind != HostErrorKind::NotFound {
                    tracing::warn!(%job, path, %error, "a part file cannot be removed yet");
                    return Removal::Failed;
                }
            }
        }
        // The host may still write what it received of a cut upload.
        match host.look(&file).await {
            Ok(None) => {}
            Ok(Some(_)) => return Removal::InUse,
            Err(error) => {
                tracing::warn!(%job, path, %error, "it is not known whether a part file is gone");
                return Removal::Failed;
            }
        }
        self.listings.forget();
        self.forget_part(job).await;
        Removal::Gone
    }

    /// Forgets the part file of a job, which is on no datastore any more.
    pub(super) async fn forget_part(&self, job: JobId) {
        if self.parts().contains_key(&job) {
            match self.store.remove_part(job).await {
                Ok(()) => {
                    self.parts().remove(&job);
                }
                Err(error) => {
                    tracing::warn!(%job, %error, "the row of a part file cannot be removed");
                }
            }
        }
    }

    /// The part file with the name that its datastore has now. `None` if the host has no such
    /// datastore.
    fn part_file(&self, part: &PartRecord) -> Option<FileTarget> {
        let contents = self.inventory.contents();
        let datastore = contents.datastore(&part.datastore)?;
        let target = FileTarget {
            datastore: part.datastore.clone(),
            datastore_name: datastore.name.clone(),
            path: FilePath::parse(&part.path).ok()?,
        };
        Some(part_of(part.job, &target))
    }
}
