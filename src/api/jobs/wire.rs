//! Jobs on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::links;
use crate::api::problem::Problem;
use crate::domain::duration;
use crate::domain::file_job::{FileTarget, UploadRequest};
use crate::domain::job::{self, JobKind, JobRequest, JobState, JobStepState};
use crate::domain::media::BootRequest;
use crate::service::jobs::JobView;

/// An operation on a machine or on a file, from its acceptance to its end.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Job {
    /// The id of the job: a UUID of version 7. A job that is accepted later has a greater id.
    #[schema(example = "01936f5e-8c00-7000-8000-000000000001")]
    pub id: String,
    /// The kind of the job, which names the operation.
    #[schema(example = "snapshot.revert", extensions(("x-extensible-enum" = json!(kinds()))))]
    pub kind: String,
    /// The state of the job. `succeeded`, `failed`, `cancelled` and `unknown` are final.
    pub state: JobStateName,
    /// The id of the machine that the job changes. Null if it changes a file.
    #[schema(required)]
    pub machine: Option<String>,
    /// The name of the machine when otter accepted the job. Null if the job changes a file.
    #[schema(required)]
    pub machine_name: Option<String>,
    /// The file or folder that the job changes. Null if it changes a machine.
    #[schema(required)]
    pub target: Option<JobFileTarget>,
    /// The parameters of the operation.
    pub request: JobRequestView,
    /// The progress of the host's task for this job, or of an upload, in percent. Null if it is not
    /// known.
    #[schema(required, minimum = 0, maximum = 100)]
    pub progress: Option<u8>,
    /// What the job does at the moment, as a text for people.
    pub phase: String,
    /// The steps of the job: its calls to the host and its waits.
    pub steps: Vec<JobStep>,
    /// The number of jobs before this one in the queue of the machine or file. Null if the job is
    /// not queued.
    #[schema(required)]
    pub position: Option<u32>,
    /// The obstacle that blocks the job. Null if there is none.
    #[schema(required)]
    pub blocked_by: Option<JobBlocker>,
    /// Whether a request to cancel the job can still have an effect.
    pub cancelable: bool,
    #[schema(required)]
    pub cancel_requested_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
    /// When otter gives the job up. The time that the job is queued counts too.
    pub deadline_at: Timestamp,
    /// The name of the caller who started the job.
    pub requested_by: String,
    /// The `Otter-Reference` of the request that started the job.
    #[schema(required)]
    pub reference: Option<String>,
    /// The id of the lease to which the job belongs. Null if it belongs to none.
    #[schema(required)]
    pub lease: Option<String>,
    /// The result of the job. Null unless the job has succeeded.
    #[schema(required)]
    pub result: Option<JobResult>,
    /// Warnings about the job, for people.
    pub warnings: Vec<String>,
    /// The problem because of which the job did not succeed. Null if there is none.
    #[schema(required)]
    pub error: Option<Problem>,
    /// The id of the host's current or last task for this job.
    #[schema(required)]
    pub host_task: Option<String>,
    /// Related paths: `self`, `wait`, `machine`.
    pub links: BTreeMap<String, String>,
}

/// A file or folder of a datastore that a job changes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobFileTarget {
    /// The id of the datastore.
    pub datastore: String,
    /// The name of the datastore when otter accepted the job.
    #[schema(example = "isos")]
    pub datastore_name: String,
    /// The path below the top folder of the datastore.
    #[schema(example = "iso/qubes.iso")]
    pub path: String,
}

/// The state of a job. This list will never grow.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobState)]
pub enum JobStateName {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Unknown,
}

/// The parameters of a job. A parameter that the kind of the job does not have is null.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct JobRequestView {
    /// The id of the snapshot, which otter found when it accepted the job.
    #[schema(required)]
    pub snapshot: Option<String>,
    /// The path that the snapshot had when otter accepted the job.
    #[schema(required)]
    pub snapshot_path: Option<String>,
    /// Whether the machine is on after the revert. If null, the power state of the snapshot
    /// decides.
    #[schema(required)]
    pub power_on: Option<bool>,
    /// The new name of the snapshot.
    #[schema(required)]
    pub name: Option<String>,
    /// The new description of the snapshot.
    #[schema(required)]
    pub description: Option<String>,
    /// Whether the snapshot includes the memory.
    #[schema(required)]
    pub memory: Option<bool>,
    /// Whether VMware Tools quiesce the guest's file systems for the snapshot.
    #[schema(required)]
    pub quiesce: Option<bool>,
    /// Whether the job also removes all snapshots below the snapshot.
    #[schema(required)]
    pub children: Option<bool>,
    /// The time in which the guest must shut down before otter powers the machine off.
    #[schema(required, example = "1m30s")]
    pub force_after: Option<String>,
    /// The id of the question that the job answers.
    #[schema(required)]
    pub question: Option<String>,
    /// The key of the answer that the job gives.
    #[schema(required)]
    pub choice: Option<String>,
    /// The power state into which the job puts the machine before or after a lease. Null if the job
    /// does not change it.
    #[schema(required)]
    pub power: Option<crate::api::machines::wire::PowerStateName>,
    /// The condition for which a preparation waits: `power_state:on`, `ip`, `tools`,
    /// `screen:<text>`, `serial:<text>` or `serial@<port>:<text>`.
    #[schema(required)]
    pub until: Option<String>,
    /// The network in which the address of the machine must be if a preparation waits for an
    /// address.
    #[schema(required, example = "10.0.0.0/8")]
    pub cidr: Option<String>,
    /// How long a preparation waits after its other steps.
    #[schema(required, example = "1m30s")]
    pub settle: Option<String>,
    /// The ISO that the job puts into the CD drive. Null if it puts none there.
    #[schema(required, example = "[isos] iso/qubes.iso")]
    pub iso: Option<String>,
    /// What the machine boots from after the job. Null if the job does not change it.
    #[schema(required)]
    pub boot: Option<JobBootRequest>,
    /// The length of the file that the job uploads.
    #[schema(required)]
    pub bytes: Option<u64>,
    /// The SHA-256 that the uploaded file must have, in hexadecimal. Null if the caller named none.
    #[schema(required)]
    pub sha256: Option<String>,
    /// Whether the upload may replace a file.
    #[schema(required)]
    pub replace: Option<bool>,
}

/// What a machine boots from after a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobBootRequest {
    /// The kinds of devices: `cdrom`, `disk`, `network`. Empty lets the firmware decide.
    pub order: Vec<String>,
    /// How long the firmware waits before it boots. Null: as before.
    #[schema(required, example = "5s")]
    pub delay: Option<String>,
}

/// A step of a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobStep {
    #[schema(example = "revert")]
    pub name: String,
    #[schema(extensions(("x-extensible-enum" = json!(step_states()))))]
    pub state: String,
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
    /// More about the step, for people. Only the holder of the lease, the token that requested it,
    /// and operators see the last text on the screen or serial port that a preparation watches.
    #[schema(required)]
    pub detail: Option<String>,
}

/// The obstacle that blocks a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobBlocker {
    #[schema(extensions(("x-extensible-enum" = json!([
        "job", "host_task", "question", "host_away"
    ]))))]
    pub kind: String,
    #[schema(required)]
    pub id: Option<String>,
    pub since: Timestamp,
    pub detail: String,
}

/// The result of a job that succeeded.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobResult {
    /// Whether the job changed the machine or the file. False if it already had the requested
    /// state.
    pub changed: bool,
    /// The id of the snapshot that the job created, reverted to or renamed.
    #[schema(required)]
    pub snapshot: Option<String>,
    /// The power state of the machine at the end of the job.
    #[schema(required)]
    pub power_state: Option<crate::api::machines::wire::PowerStateName>,
    /// The `ip_address` of the machine at the end of the job.
    #[schema(required)]
    pub ip_address: Option<String>,
    /// The path of the file or folder, with the name of its datastore. Null for jobs on machines.
    #[schema(required, example = "[isos] iso/qubes.iso")]
    pub path: Option<String>,
    /// The length of the uploaded file. Null for other jobs.
    #[schema(required)]
    pub bytes: Option<u64>,
    /// The SHA-256 of the uploaded file, in hexadecimal. Null for other jobs.
    #[schema(required)]
    pub sha256: Option<String>,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobList {
    pub items: Vec<Job>,
    /// The cursor of the next page. Null if this is the last.
    #[schema(required)]
    pub next: Option<String>,
    /// The version at which the list is valid, for `since` of `/v1/events`.
    pub version: String,
}

impl Job {
    /// The job on the wire.
    ///
    /// # Parameters
    /// - `sees_screen`: whether the reader may see what the screen showed during the job.
    #[must_use]
    pub fn from_view(view: &JobView, sees_screen: bool) -> Self {
        let JobView { job, progress, position, blocked_by, cancelable, ended: _ } = view;
        let job::Job {
            id,
            state,
            target,
            target_name,
            request,
            phase,
            steps,
            cancel_requested_at,
            // Only the audit shows who requested the cancellation, and the origin of the request.
            cancel_requested_by: _,
            created_at,
            updated_at,
            started_at,
            finished_at,
            deadline_at,
            requested_by,
            origin: _,
            reference,
            lease,
            // Not shown, because it is internal: what the job may do to snapshots.
            authority: _,
            result,
            warnings,
            error,
            host_task,
            // Not shown, because it is internal: the evidence by which otter resolves a lost call.
            intent: _,
            file_intent: _,
        } = &**job;
        let machine = target.machine();
        Self {
            id: id.to_string(),
            kind: job.kind().as_str().to_owned(),
            state: JobStateName::from_domain(*state),
            machine: machine.map(|machine| machine.id.to_string()),
            machine_name: machine.map(|_| target_name.clone()),
            target: target.file().map(JobFileTarget::from_domain),
            request: JobRequestView::from_domain(request),
            progress: *progress,
            phase: phase.clone(),
            steps: steps.iter().map(|step| JobStep::from_domain(step, sees_screen)).collect(),
            position: position.map(|position| u32::try_from(position).unwrap_or(u32::MAX)),
            blocked_by: blocked_by.as_ref().map(JobBlocker::from_domain),
            cancelable: *cancelable,
            cancel_requested_at: *cancel_requested_at,
            created_at: *created_at,
            updated_at: *updated_at,
            started_at: *started_at,
            finished_at: *finished_at,
            deadline_at: *deadline_at,
            requested_by: requested_by.clone(),
            reference: reference.clone(),
            lease: lease.map(|lease| lease.to_string()),
            result: result.as_ref().map(JobResult::from_domain),
            warnings: warnings.clone(),
            error: error.as_ref().map(|failure| Problem::from_failure(failure, None)),
            host_task: host_task.as_ref().map(ToString::to_string),
            links: links::for_job(*id, machine.map(|machine| &machine.id)),
        }
    }
}

impl JobStateName {
    const fn from_domain(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Running => Self::Running,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
            JobState::Unknown => Self::Unknown,
        }
    }
}

impl JobRequestView {
    fn from_domain(request: &JobRequest) -> Self {
        let empty = Self::default();
        match request {
            JobRequest::PowerOn
            | JobRequest::PowerOff
            | JobRequest::Reset
            | JobRequest::Suspend
            | JobRequest::Reboot
            | JobRequest::Kill
            | JobRequest::RemoveAllSnapshots
            | JobRequest::Consolidate
            | JobRequest::DeleteFile
            | JobRequest::CreateFolder => empty,
            JobRequest::SetMedia { iso } => Self { iso: iso.clone(), ..empty },
            JobRequest::SetBoot(boot) => {
                Self { boot: Some(JobBootRequest::from_domain(boot)), ..empty }
            }
            JobRequest::UploadFile(UploadRequest { bytes, replace, sha256 }) => Self {
                bytes: Some(*bytes),
                replace: Some(*replace),
                sha256: sha256.map(|sum| sum.to_string()),
                ..empty
            },
            JobRequest::Shutdown { force_after } => {
                Self { force_after: force_after.map(duration::format), ..empty }
            }
            JobRequest::Answer { question, choice } => {
                Self { question: Some(question.to_string()), choice: Some(choice.clone()), ..empty }
            }
            JobRequest::CreateSnapshot { name, description, memory, quiesce } => Self {
                name: Some(name.clone()),
                description: Some(description.clone()),
                memory: Some(*memory),
                quiesce: Some(*quiesce),
                ..empty
            },
            JobRequest::Revert { snapshot, path, power_on } => Self {
                snapshot: Some(snapshot.to_string()),
                snapshot_path: Some(path.clone()),
                power_on: *power_on,
                ..empty
            },
            JobRequest::RemoveSnapshot { snapshot, path, children } => Self {
                snapshot: Some(snapshot.to_string()),
                snapshot_path: Some(path.clone()),
                children: Some(*children),
                ..empty
            },
            JobRequest::RenameSnapshot { snapshot, path, name, description } => Self {
                snapshot: Some(snapshot.to_string()),
                snapshot_path: Some(path.clone()),
                name: name.clone(),
                description: description.clone(),
                ..empty
            },
            JobRequest::Prepare { snapshot, iso, boot, power, until, cidr, settle } => Self {
                snapshot: snapshot.as_ref().map(|(id, _)| id.to_string()),
                snapshot_path: snapshot.as_ref().map(|(_, path)| path.clone()),
                iso: iso.clone(),
                boot: boot.as_ref().map(JobBootRequest::from_domain),
                power: power.map(Into::into),
                until: until.as_ref().map(ToString::to_string),
                cidr: cidr.map(|cidr| cidr.to_string()),
                settle: settle.map(duration::format),
                ..empty
            },
            // The drive and the boot options that a release restores are not shown, like the other
            // state from before the lease.
            JobRequest::Release { keep_power, snapshot, media: _ } => Self {
                snapshot: snapshot.as_ref().map(|(id, _)| id.to_string()),
                snapshot_path: snapshot.as_ref().map(|(_, path)| path.clone()),
                power: (!keep_power).then_some(crate::api::machines::wire::PowerStateName::Off),
                ..empty
            },
        }
    }
}

impl JobFileTarget {
    fn from_domain(target: &FileTarget) -> Self {
        let FileTarget { datastore, datastore_name, path } = target;
        Self {
            datastore: datastore.to_string(),
            datastore_name: datastore_name.clone(),
            path: path.to_string(),
        }
    }
}

impl JobBootRequest {
    /// The request on the wire.
    #[must_use]
    pub fn from_domain(request: &BootRequest) -> Self {
        let BootRequest { order, delay } = request;
        Self {
            order: order.iter().map(|device| device.as_str().to_owned()).collect(),
            delay: delay.map(duration::format),
        }
    }
}

impl JobStep {
    fn from_domain(step: &job::JobStep, sees_screen: bool) -> Self {
        let job::JobStep { name, state, started_at, finished_at, detail, seen } = step;
        let seen = seen.as_ref().filter(|_| sees_screen);
        let seen = seen.map(|seen| format!("the last text on it: {seen:?}"));
        let parts: Vec<String> = detail.clone().into_iter().chain(seen).collect();
        Self {
            name: name.as_str().to_owned(),
            state: state.as_str().to_owned(),
            started_at: *started_at,
            finished_at: *finished_at,
            detail: (!parts.is_empty()).then(|| parts.join("; ")),
        }
    }
}

impl JobBlocker {
    fn from_domain(blocker: &crate::service::jobs::BlockedBy) -> Self {
        let crate::service::jobs::BlockedBy { kind, id, since, detail } = blocker;
        Self {
            kind: kind.as_str().to_owned(),
            id: id.clone(),
            since: *since,
            detail: detail.clone(),
        }
    }
}

impl JobResult {
    fn from_domain(result: &job::JobResult) -> Self {
        let job::JobResult { changed, snapshot, power_state, ip_address, file } = result;
        let sent = file.as_ref().and_then(|file| file.sent);
        Self {
            changed: *changed,
            snapshot: snapshot.as_ref().map(ToString::to_string),
            power_state: power_state.map(Into::into),
            ip_address: ip_address.clone(),
            path: file.as_ref().map(|file| file.path.clone()),
            bytes: sent.map(|(bytes, _)| bytes),
            sha256: sent.map(|(_, sha256)| sha256.to_string()),
        }
    }
}

fn kinds() -> Vec<&'static str> {
    JobKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

fn step_states() -> Vec<&'static str> {
    JobStepState::ALL.iter().map(|state| state.as_str()).collect()
}
