//! A job on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::links;
use crate::api::problem::Problem;
use crate::domain::duration;
use crate::domain::job::{self, JobKind, JobRequest, JobState, JobStepState};
use crate::service::jobs::JobView;

/// One tracked operation on a machine, from its acceptance to its one end.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Job {
    /// A UUID of version 7: ids sort by the time they were made.
    #[schema(example = "01936f5e-8c00-7000-8000-000000000001")]
    pub id: String,
    /// What it does.
    #[schema(example = "snapshot.revert", extensions(("x-extensible-enum" = json!(kinds()))))]
    pub kind: String,
    /// Where it is. The last four are ends and never change.
    pub state: JobStateName,
    /// The id of its machine.
    #[schema(value_type = String)]
    pub machine: Option<String>,
    /// The machine's name when the job was accepted.
    #[schema(value_type = String)]
    pub machine_name: Option<String>,
    /// What was asked for.
    pub request: JobRequestView,
    /// Percent, while the host tells.
    #[schema(required, minimum = 0, maximum = 100)]
    pub progress: Option<u8>,
    /// What is going on, for people.
    pub phase: String,
    /// The calls that it made to the host.
    pub steps: Vec<JobStep>,
    /// How many jobs are before it on its machine, while it waits.
    #[schema(required)]
    pub position: Option<u32>,
    /// What it waits for that is not its own work.
    #[schema(required)]
    pub blocked_by: Option<JobBlocker>,
    /// Whether a request to cancel could still change something.
    pub cancelable: bool,
    #[schema(required)]
    pub cancel_requested_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[schema(required)]
    pub started_at: Option<Timestamp>,
    #[schema(required)]
    pub finished_at: Option<Timestamp>,
    /// When it is given up, its queueing included.
    pub deadline_at: Timestamp,
    /// Who asked.
    pub requested_by: String,
    /// What the caller sent as `Otter-Reference`.
    #[schema(required)]
    pub reference: Option<String>,
    /// The lease that it belongs to.
    #[schema(required)]
    pub lease: Option<String>,
    /// What it did, once it succeeded.
    #[schema(required)]
    pub result: Option<JobResult>,
    /// What a person should know beside the outcome.
    pub warnings: Vec<String>,
    /// Why it did not succeed.
    #[schema(required)]
    pub error: Option<Problem>,
    /// The host's task that works, or worked last, for it.
    #[schema(required)]
    pub host_task: Option<String>,
    /// Where to go on: `self`, `wait`, `machine`.
    pub links: BTreeMap<String, String>,
}

/// Where a job is. Closed for ever.
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

/// What was asked for; null where the kind has no such thing.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct JobRequestView {
    /// The id of the snapshot, bound when the job was accepted.
    #[schema(required)]
    pub snapshot: Option<String>,
    /// The path that the snapshot had then.
    #[schema(required)]
    pub snapshot_path: Option<String>,
    /// Whether the machine is to be on after a revert; null: as the host does.
    #[schema(required)]
    pub power_on: Option<bool>,
    /// What a snapshot is to be called.
    #[schema(required)]
    pub name: Option<String>,
    /// How a snapshot is to be described.
    #[schema(required)]
    pub description: Option<String>,
    /// Whether a snapshot is to keep the memory.
    #[schema(required)]
    pub memory: Option<bool>,
    /// Whether the guest is to be brought to rest for a snapshot.
    #[schema(required)]
    pub quiesce: Option<bool>,
    /// Whether what is below a snapshot is removed too.
    #[schema(required)]
    pub children: Option<bool>,
    /// How long a guest may take to shut down before the plug is pulled.
    #[schema(required, example = "1m30s")]
    pub force_after: Option<String>,
    /// The id of the question that is answered.
    #[schema(required)]
    pub question: Option<String>,
    /// The key of the choice that it is answered with.
    #[schema(required)]
    pub choice: Option<String>,
    /// What the power is to be before a lease is active; after a lease, null where it is left as it
    /// is.
    #[schema(required)]
    pub power: Option<crate::api::machines::wire::PowerStateName>,
    /// What is waited for before a lease is active: `power_state:on`, `ip` or `tools`.
    #[schema(required)]
    pub until: Option<String>,
    /// How long a machine is left to come to rest before a lease is active.
    #[schema(required, example = "1m30s")]
    pub settle: Option<String>,
}

/// One call to the host.
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
    #[schema(required)]
    pub detail: Option<String>,
}

/// What a job waits for that is not its own work.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobBlocker {
    #[schema(extensions(("x-extensible-enum" = json!(["job", "host_task", "question", "host_away"]))))]
    pub kind: String,
    #[schema(required)]
    pub id: Option<String>,
    pub since: Timestamp,
    pub detail: String,
}

/// What a job that succeeded did.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobResult {
    /// False: the machine was as wanted already.
    pub changed: bool,
    /// The id of the snapshot that was made, reverted to or renamed.
    #[schema(required)]
    pub snapshot: Option<String>,
    /// The machine's power state at the end.
    #[schema(required)]
    pub power_state: Option<crate::api::machines::wire::PowerStateName>,
    /// The machine's address at the end, where one counts.
    #[schema(required)]
    pub ip_address: Option<String>,
}

/// A page of jobs, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct JobList {
    pub items: Vec<Job>,
    /// The cursor of the next page.
    #[schema(required)]
    pub next: Option<String>,
    /// The point in the stream of changes that the list is true at.
    pub version: String,
}

impl Job {
    /// A job as callers see it.
    #[must_use]
    pub fn from_view(view: &JobView) -> Self {
        let JobView { job, progress, position, blocked_by, cancelable } = view;
        let job::Job {
            id,
            state,
            target,
            target_name,
            request,
            phase,
            steps,
            cancel_requested_at,
            // In the audit, for admins, as the origin is.
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
            // Callers see what came of it: the job, or a problem.
            authority: _,
            result,
            warnings,
            error,
            host_task,
            // What a judgement goes by is nobody's business.
            intent: _,
        } = job;
        let machine = target.machine();
        Self {
            id: id.to_string(),
            kind: job.kind().as_str().to_owned(),
            state: JobStateName::from_domain(*state),
            machine: machine.map(|machine| machine.id.to_string()),
            machine_name: machine.map(|_| target_name.clone()),
            request: JobRequestView::from_domain(request),
            progress: *progress,
            phase: phase.clone(),
            steps: steps.iter().map(JobStep::from_domain).collect(),
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
            | JobRequest::RemoveAllSnapshots => empty,
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
            JobRequest::Prepare { snapshot, power, until, settle } => Self {
                snapshot: snapshot.as_ref().map(|(id, _)| id.to_string()),
                snapshot_path: snapshot.as_ref().map(|(_, path)| path.clone()),
                power: power.map(Into::into),
                until: until.map(|until| until.as_str().to_owned()),
                settle: settle.map(duration::format),
                ..empty
            },
            JobRequest::Release { keep_power, snapshot } => Self {
                snapshot: snapshot.as_ref().map(|(id, _)| id.to_string()),
                snapshot_path: snapshot.as_ref().map(|(_, path)| path.clone()),
                power: (!keep_power).then_some(crate::api::machines::wire::PowerStateName::Off),
                ..empty
            },
        }
    }
}

impl JobStep {
    fn from_domain(step: &job::JobStep) -> Self {
        let job::JobStep { name, state, started_at, finished_at, detail } = step;
        Self {
            name: name.clone(),
            state: state.as_str().to_owned(),
            started_at: *started_at,
            finished_at: *finished_at,
            detail: detail.clone(),
        }
    }
}

impl JobBlocker {
    fn from_domain(blocker: &crate::service::jobs::BlockedBy) -> Self {
        let crate::service::jobs::BlockedBy { kind, id, since, detail } = blocker;
        Self { kind: (*kind).to_owned(), id: id.clone(), since: *since, detail: detail.clone() }
    }
}

impl JobResult {
    fn from_domain(result: &job::JobResult) -> Self {
        let job::JobResult { changed, snapshot, power_state, ip_address } = result;
        Self {
            changed: *changed,
            snapshot: snapshot.as_ref().map(ToString::to_string),
            power_state: power_state.map(Into::into),
            ip_address: ip_address.clone(),
        }
    }
}

fn kinds() -> Vec<&'static str> {
    JobKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

fn step_states() -> Vec<&'static str> {
    JobStepState::ALL.iter().map(|state| state.as_str()).collect()
}
