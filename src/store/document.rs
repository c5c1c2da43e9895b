//! The JSON document of a stored job: the store's own types, so that the domain may change freely.
//!
//! [`VERSION`] is written beside each document. A field added with `#[serde(default)]` keeps it; anything else
//! makes a new version, and the old one goes on being readable. Fields that are not known are passed over.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::call::{CallKind, Evidence, HostCall, RecentTask, SeenSnapshot};
use crate::domain::failure::{Failure, FailureKind, Fault, InputError};
use crate::domain::ids::{JobId, MachineId, QuestionId, SnapshotId, TaskId};
use crate::domain::job::{Intent, Job, JobRequest, JobResult, JobState, Step, StepState};
use crate::domain::machine::{MachineIdentity, PowerState};

/// The version that this otter writes.
pub const VERSION: i64 = 1;

/// Why a document is not readable.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("its document has version {0}, and this otter reads up to {VERSION}")]
    Version(i64),
    #[error("its document is not the JSON that is expected")]
    Json(#[source] serde_json::Error),
    #[error("{word:?} is no {what}")]
    Word { what: &'static str, word: String },
    #[error("{text:?} is no time")]
    Time { text: String, source: jiff::Error },
    #[error("{0:?} is no job id")]
    JobId(String),
}

/// Writes a job's document.
pub fn encode(job: &Job) -> Result<String, DocumentError> {
    serde_json::to_string(&JobDocument::from(job)).map_err(DocumentError::Json)
}

/// Reads a job's document.
pub fn decode(version: i64, text: &str) -> Result<Job, DocumentError> {
    if version != VERSION {
        return Err(DocumentError::Version(version));
    }
    serde_json::from_str::<JobDocument>(text).map_err(DocumentError::Json)?.try_into()
}

#[derive(Serialize, Deserialize)]
struct JobDocument {
    id: String,
    state: String,
    machine: IdentityDocument,
    machine_name: String,
    request: RequestDocument,
    phase: String,
    steps: Vec<StepDocument>,
    cancel_requested_at: Option<String>,
    created_at: String,
    updated_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    deadline_at: String,
    requested_by: String,
    reference: Option<String>,
    result: Option<ResultDocument>,
    warnings: Vec<String>,
    error: Option<FailureDocument>,
    host_task: Option<String>,
    intent: Option<IntentDocument>,
}

#[derive(Serialize, Deserialize)]
struct IdentityDocument {
    id: String,
    instance_uuid: Option<String>,
    path: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum RequestDocument {
    PowerOn,
    PowerOff,
    Reset,
    Kill,
    Suspend,
    Shutdown { force_after_ms: Option<u64> },
    Reboot,
    Answer { question: String, choice: String },
    CreateSnapshot { name: String, description: String, memory: bool, quiesce: bool },
    Revert { snapshot: String, path: String, power_on: Option<bool> },
    RemoveSnapshot { snapshot: String, path: String, children: bool },
    RemoveAllSnapshots,
    RenameSnapshot { snapshot: String, path: String, name: Option<String>, description: Option<String> },
}

#[derive(Serialize, Deserialize)]
struct StepDocument {
    name: String,
    state: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    detail: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ResultDocument {
    changed: bool,
    snapshot: Option<String>,
    power_state: Option<String>,
    ip_address: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct FailureDocument {
    kind: String,
    detail: String,
    fault: Option<FaultDocument>,
    machine: Option<(String, String)>,
    job: Option<String>,
    candidates: Vec<(String, String)>,
    errors: Vec<InputErrorDocument>,
}

#[derive(Serialize, Deserialize)]
struct FaultDocument {
    name: String,
    message: String,
    details: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
struct InputErrorDocument {
    pointer: Option<String>,
    parameter: Option<String>,
    code: String,
    detail: String,
}

#[derive(Serialize, Deserialize)]
struct IntentDocument {
    call: CallDocument,
    before: EvidenceDocument,
    asked: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
enum CallDocument {
    PowerOn,
    PowerOff,
    Reset,
    Suspend,
    ShutdownGuest,
    RebootGuest,
    Answer { question: String, choice: String },
    CreateSnapshot { name: String, description: String, memory: bool, quiesce: bool },
    RevertToSnapshot { snapshot: String, suppress_power_on: bool },
    RemoveSnapshot { snapshot: String, children: bool },
    RemoveAllSnapshots,
    RenameSnapshot { snapshot: String, name: Option<String>, description: Option<String> },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CallKindDocument {
    PowerOn,
    PowerOff,
    Reset,
    Suspend,
    ShutdownGuest,
    RebootGuest,
    Answer,
    CreateSnapshot,
    RevertToSnapshot,
    RemoveSnapshot,
    RemoveAllSnapshots,
    RenameSnapshot,
}

#[derive(Serialize, Deserialize)]
struct EvidenceDocument {
    identity: IdentityDocument,
    power_state: Option<String>,
    current_snapshot: Option<String>,
    snapshots: Vec<String>,
    /// Of each snapshot in turn; missing where an older otter wrote it.
    #[serde(default)]
    parents: Vec<Option<String>>,
    #[serde(default)]
    tools_running: bool,
    question: Option<String>,
    host_boot_time: Option<String>,
    recent_tasks: Vec<RecentTaskDocument>,
}

#[derive(Serialize, Deserialize)]
struct RecentTaskDocument {
    id: String,
    call: Option<CallKindDocument>,
    by_us: bool,
    running: bool,
}

impl From<&Job> for JobDocument {
    fn from(job: &Job) -> Self {
        let Job {
            id,
            state,
            machine,
            machine_name,
            request,
            phase,
            steps,
            cancel_requested_at,
            created_at,
            updated_at,
            started_at,
            finished_at,
            deadline_at,
            requested_by,
            reference,
            result,
            warnings,
            error,
            host_task,
            intent,
        } = job;
        Self {
            id: id.to_string(),
            state: state.as_str().to_owned(),
            machine: machine.into(),
            machine_name: machine_name.clone(),
            request: request.into(),
            phase: phase.clone(),
            steps: steps.iter().map(Into::into).collect(),
            cancel_requested_at: cancel_requested_at.as_ref().map(ToString::to_string),
            created_at: created_at.to_string(),
            updated_at: updated_at.to_string(),
            started_at: started_at.as_ref().map(ToString::to_string),
            finished_at: finished_at.as_ref().map(ToString::to_string),
            deadline_at: deadline_at.to_string(),
            requested_by: requested_by.clone(),
            reference: reference.clone(),
            result: result.as_ref().map(Into::into),
            warnings: warnings.clone(),
            error: error.as_ref().map(Into::into),
            host_task: host_task.as_ref().map(ToString::to_string),
            intent: intent.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<JobDocument> for Job {
    type Error = DocumentError;

    fn try_from(document: JobDocument) -> Result<Self, DocumentError> {
        let JobDocument {
            id,
            state,
            machine,
            machine_name,
            request,
            phase,
            steps,
            cancel_requested_at,
            created_at,
            updated_at,
            started_at,
            finished_at,
            deadline_at,
            requested_by,
            reference,
            result,
            warnings,
            error,
            host_task,
            intent,
        } = document;
        Ok(Self {
            id: job_id(id)?,
            state: word("state of a job", state, JobState::parse)?,
            machine: machine.into(),
            machine_name,
            request: request.into(),
            phase,
            steps: steps.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            cancel_requested_at: cancel_requested_at.map(time).transpose()?,
            created_at: time(created_at)?,
            updated_at: time(updated_at)?,
            started_at: started_at.map(time).transpose()?,
            finished_at: finished_at.map(time).transpose()?,
            deadline_at: time(deadline_at)?,
            requested_by,
            reference,
            result: result.map(TryInto::try_into).transpose()?,
            warnings,
            error: error.map(TryInto::try_into).transpose()?,
            host_task: host_task.map(TaskId::new),
            intent: intent.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&MachineIdentity> for IdentityDocument {
    fn from(identity: &MachineIdentity) -> Self {
        let MachineIdentity { id, instance_uuid, path } = identity;
        Self { id: id.to_string(), instance_uuid: instance_uuid.clone(), path: path.clone() }
    }
}

impl From<IdentityDocument> for MachineIdentity {
    fn from(IdentityDocument { id, instance_uuid, path }: IdentityDocument) -> Self {
        Self { id: MachineId::new(id), instance_uuid, path }
    }
}

impl From<&JobRequest> for RequestDocument {
    fn from(request: &JobRequest) -> Self {
        match request {
            JobRequest::PowerOn => Self::PowerOn,
            JobRequest::PowerOff => Self::PowerOff,
            JobRequest::Reset => Self::Reset,
            JobRequest::Kill => Self::Kill,
            JobRequest::Suspend => Self::Suspend,
            JobRequest::Shutdown { force_after } => {
                // The longest duration is a hundred years, far below what fits.
                let milliseconds = |after: &Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                Self::Shutdown { force_after_ms: force_after.as_ref().map(milliseconds) }
            }
            JobRequest::Reboot => Self::Reboot,
            JobRequest::Answer { question, choice } => {
                Self::Answer { question: question.to_string(), choice: choice.clone() }
            }
            JobRequest::CreateSnapshot { name, description, memory, quiesce } => Self::CreateSnapshot {
                name: name.clone(),
                description: description.clone(),
                memory: *memory,
                quiesce: *quiesce,
            },
            JobRequest::Revert { snapshot, path, power_on } => {
                Self::Revert { snapshot: snapshot.to_string(), path: path.clone(), power_on: *power_on }
            }
            JobRequest::RemoveSnapshot { snapshot, path, children } => Self::RemoveSnapshot {
                snapshot: snapshot.to_string(),
                path: path.clone(),
                children: *children,
            },
            JobRequest::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            JobRequest::RenameSnapshot { snapshot, path, name, description } => Self::RenameSnapshot {
                snapshot: snapshot.to_string(),
                path: path.clone(),
                name: name.clone(),
                description: description.clone(),
            },
        }
    }
}

impl From<RequestDocument> for JobRequest {
    fn from(request: RequestDocument) -> Self {
        match request {
            RequestDocument::PowerOn => Self::PowerOn,
            RequestDocument::PowerOff => Self::PowerOff,
            RequestDocument::Reset => Self::Reset,
            RequestDocument::Kill => Self::Kill,
            RequestDocument::Suspend => Self::Suspend,
            RequestDocument::Shutdown { force_after_ms } => {
                Self::Shutdown { force_after: force_after_ms.map(Duration::from_millis) }
            }
            RequestDocument::Reboot => Self::Reboot,
            RequestDocument::Answer { question, choice } => {
                Self::Answer { question: QuestionId::new(question), choice }
            }
            RequestDocument::CreateSnapshot { name, description, memory, quiesce } => {
                Self::CreateSnapshot { name, description, memory, quiesce }
            }
            RequestDocument::Revert { snapshot, path, power_on } => {
                Self::Revert { snapshot: SnapshotId::new(snapshot), path, power_on }
            }
            RequestDocument::RemoveSnapshot { snapshot, path, children } => {
                Self::RemoveSnapshot { snapshot: SnapshotId::new(snapshot), path, children }
            }
            RequestDocument::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            RequestDocument::RenameSnapshot { snapshot, path, name, description } => {
                Self::RenameSnapshot { snapshot: SnapshotId::new(snapshot), path, name, description }
            }
        }
    }
}

impl From<&Step> for StepDocument {
    fn from(step: &Step) -> Self {
        let Step { name, state, started_at, finished_at, detail } = step;
        Self {
            name: name.clone(),
            state: state.as_str().to_owned(),
            started_at: started_at.as_ref().map(ToString::to_string),
            finished_at: finished_at.as_ref().map(ToString::to_string),
            detail: detail.clone(),
        }
    }
}

impl TryFrom<StepDocument> for Step {
    type Error = DocumentError;

    fn try_from(step: StepDocument) -> Result<Self, DocumentError> {
        let StepDocument { name, state, started_at, finished_at, detail } = step;
        Ok(Self {
            name,
            state: word("state of a step", state, StepState::parse)?,
            started_at: started_at.map(time).transpose()?,
            finished_at: finished_at.map(time).transpose()?,
            detail,
        })
    }
}

impl From<&JobResult> for ResultDocument {
    fn from(result: &JobResult) -> Self {
        let JobResult { changed, snapshot, power_state, ip_address } = result;
        Self {
            changed: *changed,
            snapshot: snapshot.as_ref().map(ToString::to_string),
            power_state: power_state.map(|state| state.as_str().to_owned()),
            ip_address: ip_address.clone(),
        }
    }
}

impl TryFrom<ResultDocument> for JobResult {
    type Error = DocumentError;

    fn try_from(result: ResultDocument) -> Result<Self, DocumentError> {
        let ResultDocument { changed, snapshot, power_state, ip_address } = result;
        Ok(Self {
            changed,
            snapshot: snapshot.map(SnapshotId::new),
            power_state: power_state.map(power).transpose()?,
            ip_address,
        })
    }
}

impl From<&Failure> for FailureDocument {
    fn from(failure: &Failure) -> Self {
        let Failure { kind, detail, fault, machine, job, candidates, errors } = failure;
        Self {
            kind: kind.code().to_owned(),
            detail: detail.clone(),
            fault: fault.as_ref().map(|Fault { name, message, details }| FaultDocument {
                name: name.clone(),
                message: message.clone(),
                details: details.clone(),
            }),
            machine: machine.as_ref().map(|(id, name)| (id.to_string(), name.clone())),
            job: job.as_ref().map(ToString::to_string),
            candidates: candidates.clone(),
            errors: errors
                .iter()
                .map(|InputError { pointer, parameter, code, detail }| InputErrorDocument {
                    pointer: pointer.clone(),
                    parameter: parameter.clone(),
                    code: (*code).to_owned(),
                    detail: detail.clone(),
                })
                .collect(),
        }
    }
}

impl TryFrom<FailureDocument> for Failure {
    type Error = DocumentError;

    fn try_from(failure: FailureDocument) -> Result<Self, DocumentError> {
        let FailureDocument { kind, detail, fault, machine, job, candidates, errors } = failure;
        Ok(Self {
            kind: word("kind of failure", kind, FailureKind::parse)?,
            detail,
            fault: fault.map(|FaultDocument { name, message, details }| Fault { name, message, details }),
            machine: machine.map(|(id, name)| (MachineId::new(id), name)),
            job: job.map(job_id).transpose()?,
            candidates,
            errors: errors
                .into_iter()
                .map(|InputErrorDocument { pointer, parameter, code, detail }| {
                    Ok(InputError { pointer, parameter, code: literal(code)?, detail })
                })
                .collect::<Result<_, DocumentError>>()?,
        })
    }
}

impl From<&Intent> for IntentDocument {
    fn from(intent: &Intent) -> Self {
        let Intent { call, before, asked } = intent;
        Self { call: call.into(), before: before.into(), asked: *asked }
    }
}

impl TryFrom<IntentDocument> for Intent {
    type Error = DocumentError;

    fn try_from(IntentDocument { call, before, asked }: IntentDocument) -> Result<Self, DocumentError> {
        Ok(Self { call: call.into(), before: before.try_into()?, asked })
    }
}

impl From<&HostCall> for CallDocument {
    fn from(call: &HostCall) -> Self {
        match call {
            HostCall::PowerOn => Self::PowerOn,
            HostCall::PowerOff => Self::PowerOff,
            HostCall::Reset => Self::Reset,
            HostCall::Suspend => Self::Suspend,
            HostCall::ShutdownGuest => Self::ShutdownGuest,
            HostCall::RebootGuest => Self::RebootGuest,
            HostCall::Answer { question, choice } => {
                Self::Answer { question: question.to_string(), choice: choice.clone() }
            }
            HostCall::CreateSnapshot { name, description, memory, quiesce } => Self::CreateSnapshot {
                name: name.clone(),
                description: description.clone(),
                memory: *memory,
                quiesce: *quiesce,
            },
            HostCall::RevertToSnapshot { snapshot, suppress_power_on } => Self::RevertToSnapshot {
                snapshot: snapshot.to_string(),
                suppress_power_on: *suppress_power_on,
            },
            HostCall::RemoveSnapshot { snapshot, children } => {
                Self::RemoveSnapshot { snapshot: snapshot.to_string(), children: *children }
            }
            HostCall::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            HostCall::RenameSnapshot { snapshot, name, description } => Self::RenameSnapshot {
                snapshot: snapshot.to_string(),
                name: name.clone(),
                description: description.clone(),
            },
        }
    }
}

impl From<CallDocument> for HostCall {
    fn from(call: CallDocument) -> Self {
        match call {
            CallDocument::PowerOn => Self::PowerOn,
            CallDocument::PowerOff => Self::PowerOff,
            CallDocument::Reset => Self::Reset,
            CallDocument::Suspend => Self::Suspend,
            CallDocument::ShutdownGuest => Self::ShutdownGuest,
            CallDocument::RebootGuest => Self::RebootGuest,
            CallDocument::Answer { question, choice } => {
                Self::Answer { question: QuestionId::new(question), choice }
            }
            CallDocument::CreateSnapshot { name, description, memory, quiesce } => {
                Self::CreateSnapshot { name, description, memory, quiesce }
            }
            CallDocument::RevertToSnapshot { snapshot, suppress_power_on } => {
                Self::RevertToSnapshot { snapshot: SnapshotId::new(snapshot), suppress_power_on }
            }
            CallDocument::RemoveSnapshot { snapshot, children } => {
                Self::RemoveSnapshot { snapshot: SnapshotId::new(snapshot), children }
            }
            CallDocument::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            CallDocument::RenameSnapshot { snapshot, name, description } => {
                Self::RenameSnapshot { snapshot: SnapshotId::new(snapshot), name, description }
            }
        }
    }
}

impl From<CallKind> for CallKindDocument {
    fn from(kind: CallKind) -> Self {
        match kind {
            CallKind::PowerOn => Self::PowerOn,
            CallKind::PowerOff => Self::PowerOff,
            CallKind::Reset => Self::Reset,
            CallKind::Suspend => Self::Suspend,
            CallKind::ShutdownGuest => Self::ShutdownGuest,
            CallKind::RebootGuest => Self::RebootGuest,
            CallKind::Answer => Self::Answer,
            CallKind::CreateSnapshot => Self::CreateSnapshot,
            CallKind::RevertToSnapshot => Self::RevertToSnapshot,
            CallKind::RemoveSnapshot => Self::RemoveSnapshot,
            CallKind::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            CallKind::RenameSnapshot => Self::RenameSnapshot,
        }
    }
}

impl From<CallKindDocument> for CallKind {
    fn from(kind: CallKindDocument) -> Self {
        match kind {
            CallKindDocument::PowerOn => Self::PowerOn,
            CallKindDocument::PowerOff => Self::PowerOff,
            CallKindDocument::Reset => Self::Reset,
            CallKindDocument::Suspend => Self::Suspend,
            CallKindDocument::ShutdownGuest => Self::ShutdownGuest,
            CallKindDocument::RebootGuest => Self::RebootGuest,
            CallKindDocument::Answer => Self::Answer,
            CallKindDocument::CreateSnapshot => Self::CreateSnapshot,
            CallKindDocument::RevertToSnapshot => Self::RevertToSnapshot,
            CallKindDocument::RemoveSnapshot => Self::RemoveSnapshot,
            CallKindDocument::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            CallKindDocument::RenameSnapshot => Self::RenameSnapshot,
        }
    }
}

impl From<&Evidence> for EvidenceDocument {
    fn from(evidence: &Evidence) -> Self {
        let Evidence {
            identity,
            power_state,
            current_snapshot,
            snapshots,
            tools_running,
            question,
            host_boot_time,
            recent_tasks,
        } = evidence;
        // Of a snapshot's words nothing is recorded: see `Evidence::to_record`.
        let parent = |SeenSnapshot { id: _, parent, name: _, description: _ }: &SeenSnapshot| {
            parent.as_ref().map(ToString::to_string)
        };
        Self {
            identity: identity.into(),
            power_state: power_state.map(|state| state.as_str().to_owned()),
            current_snapshot: current_snapshot.as_ref().map(ToString::to_string),
            snapshots: snapshots.iter().map(|snapshot| snapshot.id.to_string()).collect(),
            parents: snapshots.iter().map(parent).collect(),
            tools_running: *tools_running,
            question: question.as_ref().map(ToString::to_string),
            host_boot_time: host_boot_time.clone(),
            recent_tasks: recent_tasks
                .iter()
                .map(|RecentTask { id, call, by_us, running }| RecentTaskDocument {
                    id: id.to_string(),
                    call: call.map(Into::into),
                    by_us: *by_us,
                    running: *running,
                })
                .collect(),
        }
    }
}

impl TryFrom<EvidenceDocument> for Evidence {
    type Error = DocumentError;

    fn try_from(evidence: EvidenceDocument) -> Result<Self, DocumentError> {
        let EvidenceDocument {
            identity,
            power_state,
            current_snapshot,
            snapshots,
            parents,
            tools_running,
            question,
            host_boot_time,
            recent_tasks,
        } = evidence;
        let parents = parents.into_iter().chain(std::iter::repeat(None));
        let snapshot = |(id, parent): (String, Option<String>)| SeenSnapshot {
            id: SnapshotId::new(id),
            parent: parent.map(SnapshotId::new),
            name: String::new(),
            description: String::new(),
        };
        Ok(Self {
            identity: identity.into(),
            power_state: power_state.map(power).transpose()?,
            current_snapshot: current_snapshot.map(SnapshotId::new),
            snapshots: snapshots.into_iter().zip(parents).map(snapshot).collect(),
            tools_running,
            question: question.map(QuestionId::new),
            host_boot_time,
            recent_tasks: recent_tasks
                .into_iter()
                .map(|RecentTaskDocument { id, call, by_us, running }| RecentTask {
                    id: TaskId::new(id),
                    call: call.map(Into::into),
                    by_us,
                    running,
                })
                .collect(),
        })
    }
}

fn word<T>(
    what: &'static str,
    word: String,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, DocumentError> {
    parse(&word).ok_or(DocumentError::Word { what, word })
}

fn power(text: String) -> Result<PowerState, DocumentError> {
    word("power state", text, PowerState::parse)
}

fn job_id(text: String) -> Result<JobId, DocumentError> {
    text.parse().map_err(|_| DocumentError::JobId(text))
}

fn time(text: String) -> Result<Timestamp, DocumentError> {
    text.parse().map_err(|source| DocumentError::Time { text, source })
}

/// The code of an input error is a literal of the program; a code read back becomes one, once for each
/// different text. There are few, and a damaged database must not turn that into a leak.
fn literal(code: String) -> Result<&'static str, DocumentError> {
    const MOST: usize = 1_000;
    static KNOWN: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(literal) = known.get(code.as_str()) {
        return Ok(literal);
    }
    if known.len() >= MOST {
        return Err(DocumentError::Word { what: "code of an input error", word: code });
    }
    let literal: &'static str = Box::leak(code.into_boxed_str());
    known.insert(literal);
    Ok(literal)
}
