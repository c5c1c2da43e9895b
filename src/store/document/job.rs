//! The JSON document of a job, with its request, its steps and its result.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::FailureDocument;
use super::file::{FileIntentDocument, FileResultDocument, UploadDocument};
use super::identity::IdentityDocument;
use super::intent::IntentDocument;
use super::media::{BootRequestDocument, MediaRecordDocument};
use super::origin::{ActorDocument, OriginDocument};
use super::{DocumentError, job_id, lease_id, power, time, word};
use crate::domain::access::Authority;
use crate::domain::file_job::FileTarget;
use crate::domain::file_path::FilePath;
use crate::domain::ids::{DatastoreId, QuestionId, SnapshotId, TaskId};
use crate::domain::job::{
    Job, JobRequest, JobResult, JobState, JobStep, JobStepState, JobTarget, StepName,
};
use crate::domain::lease::Readiness;
use crate::domain::power::PowerState;
use crate::domain::screen_text::ScreenText;
use crate::domain::serial::SerialText;

#[derive(Serialize, Deserialize)]
pub struct JobDocument {
    id: String,
    state: String,
    target: TargetDocument,
    target_name: String,
    request: RequestDocument,
    phase: String,
    steps: Vec<StepDocument>,
    cancel_requested_at: Option<String>,
    /// `None` if no caller requested the cancellation. Also `None` in jobs that an earlier version
    /// of otter stored.
    #[serde(default)]
    cancel_requested_by: Option<ActorDocument>,
    created_at: String,
    updated_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    deadline_at: String,
    requested_by: String,
    #[serde(default)]
    origin: OriginDocument,
    reference: Option<String>,
    #[serde(default)]
    lease: Option<String>,
    /// On whose behalf the job changes snapshots. `None` in jobs that an earlier version of otter
    /// stored.
    #[serde(default)]
    authority: Option<AuthorityDocument>,
    result: Option<ResultDocument>,
    warnings: Vec<String>,
    error: Option<FailureDocument>,
    host_task: Option<String>,
    intent: Option<IntentDocument>,
    /// Absent in jobs on machines, and in jobs that an earlier version of otter stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file_intent: Option<FileIntentDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TargetDocument {
    Machine(IdentityDocument),
    Datastore { id: String },
    File { datastore: String, datastore_name: String, path: String },
    Host,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RequestDocument {
    PowerOn,
    PowerOff,
    Reset,
    Kill,
    Suspend,
    Shutdown {
        force_after_ms: Option<u64>,
    },
    Reboot,
    Answer {
        question: String,
        choice: String,
    },
    CreateSnapshot {
        name: String,
        description: String,
        memory: bool,
        quiesce: bool,
    },
    Revert {
        snapshot: String,
        path: String,
        power_on: Option<bool>,
    },
    RemoveSnapshot {
        snapshot: String,
        path: String,
        children: bool,
    },
    RemoveAllSnapshots,
    Consolidate,
    RenameSnapshot {
        snapshot: String,
        path: String,
        name: Option<String>,
        description: Option<String>,
    },
    SetMedia {
        iso: Option<String>,
    },
    SetBoot(BootRequestDocument),
    UploadFile(UploadDocument),
    DeleteFile,
    CreateFolder,
    Prepare {
        snapshot: Option<(String, String)>,
        /// Absent, like `boot`, in jobs that an earlier version of otter stored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        iso: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot: Option<BootRequestDocument>,
        power: Option<PowerDocument>,
        until: Option<ReadinessDocument>,
        /// `None` if every address counts. Also `None` in jobs that an earlier version of otter
        /// stored.
        #[serde(default)]
        cidr: Option<String>,
        settle_ms: Option<u64>,
    },
    Release {
        keep_power: bool,
        snapshot: Option<(String, String)>,
        /// Absent in jobs that an earlier version of otter stored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media: Option<MediaRecordDocument>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerDocument {
    On,
    Off,
    Suspended,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityDocument {
    Runner,
    Operator,
    Override,
    System,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadinessDocument {
    On,
    Address,
    Tools,
    /// The text on the screen.
    Screen(String),
    /// The condition, with the name of the port.
    Serial(String),
}

#[derive(Serialize, Deserialize)]
pub struct StepDocument {
    name: String,
    state: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    detail: Option<String>,
    /// Absent in steps that do not wait for a text on the screen, and in jobs that an earlier
    /// version of otter stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct ResultDocument {
    changed: bool,
    snapshot: Option<String>,
    power_state: Option<String>,
    ip_address: Option<String>,
    /// Absent in jobs on machines, and in jobs that an earlier version of otter stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<FileResultDocument>,
}

impl From<&Job> for JobDocument {
    fn from(job: &Job) -> Self {
        let Job {
            id,
            state,
            target,
            target_name,
            request,
            phase,
            steps,
            cancel_requested_at,
            cancel_requested_by,
            created_at,
            updated_at,
            started_at,
            finished_at,
            deadline_at,
            requested_by,
            origin,
            reference,
            lease,
            authority,
            result,
            warnings,
            error,
            host_task,
            intent,
            file_intent,
        } = job;
        Self {
            id: id.to_string(),
            state: state.as_str().to_owned(),
            target: target.into(),
            target_name: target_name.clone(),
            request: request.into(),
            phase: phase.clone(),
            steps: steps.iter().map(Into::into).collect(),
            cancel_requested_at: cancel_requested_at.as_ref().map(ToString::to_string),
            cancel_requested_by: cancel_requested_by.as_ref().map(Into::into),
            created_at: created_at.to_string(),
            updated_at: updated_at.to_string(),
            started_at: started_at.as_ref().map(ToString::to_string),
            finished_at: finished_at.as_ref().map(ToString::to_string),
            deadline_at: deadline_at.to_string(),
            requested_by: requested_by.clone(),
            origin: origin.into(),
            reference: reference.clone(),
            lease: lease.map(|lease| lease.to_string()),
            authority: Some((*authority).into()),
            result: result.as_ref().map(Into::into),
            warnings: warnings.clone(),
            error: error.as_ref().map(Into::into),
            host_task: host_task.as_ref().map(ToString::to_string),
            intent: intent.as_ref().map(Into::into),
            file_intent: file_intent.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<JobDocument> for Job {
    type Error = DocumentError;

    fn try_from(document: JobDocument) -> Result<Self, DocumentError> {
        let JobDocument {
            id,
            state,
            target,
            target_name,
            request,
            phase,
            steps,
            cancel_requested_at,
            cancel_requested_by,
            created_at,
            updated_at,
            started_at,
            finished_at,
            deadline_at,
            requested_by,
            origin,
            reference,
            lease,
            authority,
            result,
            warnings,
            error,
            host_task,
            intent,
            file_intent,
        } = document;
        let (request, lease) = (JobRequest::try_from(request)?, lease.map(lease_id).transpose()?);
        let authority =
            authority.map_or_else(|| assumed_authority(&request, lease.is_some()), Into::into);
        Ok(Self {
            id: job_id(id)?,
            state: word("state of a job", state, JobState::parse)?,
            target: target.try_into()?,
            target_name,
            request,
            phase,
            steps: steps.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            cancel_requested_at: cancel_requested_at.map(time).transpose()?,
            cancel_requested_by: cancel_requested_by.map(TryInto::try_into).transpose()?,
            created_at: time(created_at)?,
            updated_at: time(updated_at)?,
            started_at: started_at.map(time).transpose()?,
            finished_at: finished_at.map(time).transpose()?,
            deadline_at: time(deadline_at)?,
            requested_by,
            origin: origin.try_into()?,
            reference,
            lease,
            authority,
            result: result.map(TryInto::try_into).transpose()?,
            warnings,
            error: error.map(TryInto::try_into).transpose()?,
            host_task: host_task.map(TaskId::from_backend),
            intent: intent.map(TryInto::try_into).transpose()?,
            file_intent: file_intent.map(TryInto::try_into).transpose()?,
        })
    }
}

impl JobDocument {
    /// Decodes a job document of version 1. In that version every job works on a machine, and the
    /// fields `machine` and `machine_name` name the machine.
    pub fn from_version_1(text: &str) -> Result<Self, serde_json::Error> {
        let mut fields: Map<String, Value> = serde_json::from_str(text)?;
        if let Some(Value::Object(machine)) = fields.get_mut("machine") {
            machine.insert("kind".to_owned(), "machine".into());
        }
        for (old, new) in [("machine", "target"), ("machine_name", "target_name")] {
            if let Some(value) = fields.remove(old) {
                fields.insert(new.to_owned(), value);
            }
        }
        serde_json::from_value(Value::Object(fields))
    }
}

impl From<&JobTarget> for TargetDocument {
    fn from(target: &JobTarget) -> Self {
        match target {
            JobTarget::Machine(machine) => Self::Machine(machine.into()),
            JobTarget::Datastore(id) => Self::Datastore { id: id.to_string() },
            JobTarget::File(FileTarget { datastore, datastore_name, path }) => Self::File {
                datastore: datastore.to_string(),
                datastore_name: datastore_name.clone(),
                path: path.to_string(),
            },
            JobTarget::Host => Self::Host,
        }
    }
}

impl TryFrom<TargetDocument> for JobTarget {
    type Error = DocumentError;

    fn try_from(target: TargetDocument) -> Result<Self, DocumentError> {
        Ok(match target {
            TargetDocument::Machine(machine) => Self::Machine(machine.into()),
            TargetDocument::Datastore { id } => Self::Datastore(DatastoreId::from_backend(id)),
            TargetDocument::File { datastore, datastore_name, path } => Self::File(FileTarget {
                datastore: DatastoreId::from_backend(datastore),
                datastore_name,
                path: word("path of a file", path, |path| FilePath::parse(path).ok())?,
            }),
            TargetDocument::Host => Self::Host,
        })
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
                Self::Shutdown { force_after_ms: force_after.as_ref().map(milliseconds) }
            }
            JobRequest::Reboot => Self::Reboot,
            JobRequest::Answer { question, choice } => {
                Self::Answer { question: question.to_string(), choice: choice.clone() }
            }
            JobRequest::CreateSnapshot { name, description, memory, quiesce } => {
                Self::CreateSnapshot {
                    name: name.clone(),
                    description: description.clone(),
                    memory: *memory,
                    quiesce: *quiesce,
                }
            }
            JobRequest::Revert { snapshot, path, power_on } => Self::Revert {
                snapshot: snapshot.to_string(),
                path: path.clone(),
                power_on: *power_on,
            },
            JobRequest::RemoveSnapshot { snapshot, path, children } => Self::RemoveSnapshot {
                snapshot: snapshot.to_string(),
                path: path.clone(),
                children: *children,
            },
            JobRequest::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            JobRequest::Consolidate => Self::Consolidate,
            JobRequest::RenameSnapshot { snapshot, path, name, description } => {
                Self::RenameSnapshot {
                    snapshot: snapshot.to_string(),
                    path: path.clone(),
                    name: name.clone(),
                    description: description.clone(),
                }
            }
            JobRequest::SetMedia { iso } => Self::SetMedia { iso: iso.clone() },
            JobRequest::SetBoot(boot) => Self::SetBoot(boot.into()),
            JobRequest::UploadFile(upload) => Self::UploadFile(upload.into()),
            JobRequest::DeleteFile => Self::DeleteFile,
            JobRequest::CreateFolder => Self::CreateFolder,
            JobRequest::Prepare { snapshot, iso, boot, power, until, cidr, settle } => {
                Self::Prepare {
                    snapshot: snapshot.as_ref().map(|(id, path)| (id.to_string(), path.clone())),
                    iso: iso.clone(),
                    boot: boot.as_ref().map(Into::into),
                    power: power.map(PowerDocument::from),
                    until: until.as_ref().map(ReadinessDocument::from),
                    cidr: cidr.map(|cidr| cidr.to_string()),
                    settle_ms: settle.as_ref().map(milliseconds),
                }
            }
            JobRequest::Release { keep_power, snapshot, media } => Self::Release {
                keep_power: *keep_power,
                snapshot: snapshot.as_ref().map(|(id, path)| (id.to_string(), path.clone())),
                media: media.as_ref().map(Into::into),
            },
        }
    }
}

impl From<PowerState> for PowerDocument {
    fn from(power: PowerState) -> Self {
        match power {
            PowerState::On => Self::On,
            PowerState::Off => Self::Off,
            PowerState::Suspended => Self::Suspended,
        }
    }
}

impl From<PowerDocument> for PowerState {
    fn from(power: PowerDocument) -> Self {
        match power {
            PowerDocument::On => Self::On,
            PowerDocument::Off => Self::Off,
            PowerDocument::Suspended => Self::Suspended,
        }
    }
}

impl From<&Readiness> for ReadinessDocument {
    fn from(readiness: &Readiness) -> Self {
        match readiness {
            Readiness::On => Self::On,
            Readiness::Address => Self::Address,
            Readiness::Tools => Self::Tools,
            Readiness::Screen(text) => Self::Screen(text.as_str().to_owned()),
            Readiness::Serial(text) => Self::Serial(text.to_string()),
        }
    }
}

impl TryFrom<ReadinessDocument> for Readiness {
    type Error = DocumentError;

    fn try_from(document: ReadinessDocument) -> Result<Self, DocumentError> {
        Ok(match document {
            ReadinessDocument::On => Self::On,
            ReadinessDocument::Address => Self::Address,
            ReadinessDocument::Tools => Self::Tools,
            ReadinessDocument::Screen(text) => {
                Self::Screen(word("text on a screen", text, |text| ScreenText::new(text).ok())?)
            }
            ReadinessDocument::Serial(condition) => {
                let parse = |condition: &str| SerialText::from_condition(condition)?.ok();
                Self::Serial(word("text of a serial port", condition, parse)?)
            }
        })
    }
}

impl From<Authority> for AuthorityDocument {
    fn from(authority: Authority) -> Self {
        match authority {
            Authority::Runner => Self::Runner,
            Authority::Operator => Self::Operator,
            Authority::Override => Self::Override,
            Authority::System => Self::System,
        }
    }
}

impl From<AuthorityDocument> for Authority {
    fn from(authority: AuthorityDocument) -> Self {
        match authority {
            AuthorityDocument::Runner => Self::Runner,
            AuthorityDocument::Operator => Self::Operator,
            AuthorityDocument::Override => Self::Override,
            AuthorityDocument::System => Self::System,
        }
    }
}

/// The authority of a job that was stored without one. It is the lowest authority that the job's
/// caller can have had.
fn assumed_authority(request: &JobRequest, has_lease: bool) -> Authority {
    match request {
        JobRequest::Prepare { .. } | JobRequest::Release { .. } => Authority::System,
        _ if has_lease => Authority::Runner,
        _ => Authority::Operator,
    }
}

/// The conversion always succeeds: the maximum duration is a hundred years, which fits into a
/// `u64`.
fn milliseconds(duration: &Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl TryFrom<RequestDocument> for JobRequest {
    type Error = DocumentError;

    fn try_from(request: RequestDocument) -> Result<Self, DocumentError> {
        Ok(match request {
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
                Self::Answer { question: QuestionId::from_backend(question), choice }
            }
            RequestDocument::CreateSnapshot { name, description, memory, quiesce } => {
                Self::CreateSnapshot { name, description, memory, quiesce }
            }
            RequestDocument::Revert { snapshot, path, power_on } => {
                Self::Revert { snapshot: SnapshotId::from_backend(snapshot), path, power_on }
            }
            RequestDocument::RemoveSnapshot { snapshot, path, children } => Self::RemoveSnapshot {
                snapshot: SnapshotId::from_backend(snapshot),
                path,
                children,
            },
            RequestDocument::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            RequestDocument::Consolidate => Self::Consolidate,
            RequestDocument::RenameSnapshot { snapshot, path, name, description } => {
                Self::RenameSnapshot {
                    snapshot: SnapshotId::from_backend(snapshot),
                    path,
                    name,
                    description,
                }
            }
            RequestDocument::SetMedia { iso } => Self::SetMedia { iso },
            RequestDocument::SetBoot(boot) => Self::SetBoot(boot.try_into()?),
            RequestDocument::UploadFile(upload) => Self::UploadFile(upload.try_into()?),
            RequestDocument::DeleteFile => Self::DeleteFile,
            RequestDocument::CreateFolder => Self::CreateFolder,
            RequestDocument::Prepare { snapshot, iso, boot, power, until, cidr, settle_ms } => {
                let cidr = cidr.map(|cidr| word("network", cidr, |cidr| cidr.parse().ok()));
                Self::Prepare {
                    snapshot: snapshot.map(|(id, path)| (SnapshotId::from_backend(id), path)),
                    iso,
                    boot: boot.map(TryInto::try_into).transpose()?,
                    power: power.map(PowerState::from),
                    until: until.map(Readiness::try_from).transpose()?,
                    cidr: cidr.transpose()?,
                    settle: settle_ms.map(Duration::from_millis),
                }
            }
            RequestDocument::Release { keep_power, snapshot, media } => Self::Release {
                keep_power,
                snapshot: snapshot.map(|(id, path)| (SnapshotId::from_backend(id), path)),
                media: media.map(TryInto::try_into).transpose()?,
            },
        })
    }
}

impl From<&JobStep> for StepDocument {
    fn from(step: &JobStep) -> Self {
        let JobStep { name, state, started_at, finished_at, detail, seen } = step;
        Self {
            name: name.as_str().to_owned(),
            state: state.as_str().to_owned(),
            started_at: started_at.as_ref().map(ToString::to_string),
            finished_at: finished_at.as_ref().map(ToString::to_string),
            detail: detail.clone(),
            seen: seen.clone(),
        }
    }
}

impl TryFrom<StepDocument> for JobStep {
    type Error = DocumentError;

    fn try_from(step: StepDocument) -> Result<Self, DocumentError> {
        let StepDocument { name, state, started_at, finished_at, detail, seen } = step;
        Ok(Self {
            name: word("name of a step", name, StepName::parse)?,
            state: word("state of a step", state, JobStepState::parse)?,
            started_at: started_at.map(time).transpose()?,
            finished_at: finished_at.map(time).transpose()?,
            detail,
            seen,
        })
    }
}

impl From<&JobResult> for ResultDocument {
    fn from(result: &JobResult) -> Self {
        let JobResult { changed, snapshot, power_state, ip_address, file } = result;
        Self {
            changed: *changed,
            snapshot: snapshot.as_ref().map(ToString::to_string),
            power_state: power_state.map(|state| state.as_str().to_owned()),
            ip_address: ip_address.clone(),
            file: file.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<ResultDocument> for JobResult {
    type Error = DocumentError;

    fn try_from(result: ResultDocument) -> Result<Self, DocumentError> {
        let ResultDocument { changed, snapshot, power_state, ip_address, file } = result;
        Ok(Self {
            changed,
            snapshot: snapshot.map(SnapshotId::from_backend),
            power_state: power_state.map(power).transpose()?,
            ip_address,
            file: file.map(TryInto::try_into).transpose()?,
        })
    }
}
