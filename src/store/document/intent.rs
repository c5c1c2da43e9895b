//! The JSON document of a host call that a job is about to make, and of the evidence from before
//! the call.

use serde::{Deserialize, Serialize};

use super::identity::IdentityDocument;
use super::media::{BootDocument, DriveDocument};
use super::{DocumentError, power};
use crate::domain::call::{CallKind, Evidence, HostCall, RecentTask, SnapshotEvidence};
use crate::domain::ids::{QuestionId, SnapshotId, TaskId};
use crate::domain::job::Intent;
use crate::domain::media::BootMedia;

#[derive(Serialize, Deserialize)]
pub struct IntentDocument {
    call: CallDocument,
    before: EvidenceDocument,
    asked: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum CallDocument {
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
    ConsolidateDisks,
    RenameSnapshot { snapshot: String, name: Option<String>, description: Option<String> },
    SetMedia { drive: DriveDocument },
    SetBoot { boot: BootDocument },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKindDocument {
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
    ConsolidateDisks,
    RenameSnapshot,
    SetMedia,
    SetBoot,
}

#[derive(Serialize, Deserialize)]
pub struct EvidenceDocument {
    identity: IdentityDocument,
    power_state: Option<String>,
    current_snapshot: Option<String>,
    snapshots: Vec<String>,
    /// The parent of each snapshot, in the order of `snapshots`. Empty in documents that an earlier
    /// version of otter wrote.
    #[serde(default)]
    parents: Vec<Option<String>>,
    #[serde(default)]
    tools_running: bool,
    question: Option<String>,
    /// Whether the disks of the machine need a consolidation. Absent in documents that an earlier
    /// version of otter wrote.
    #[serde(default)]
    consolidation_needed: Option<bool>,
    host_boot_time: Option<String>,
    recent_tasks: Vec<RecentTaskDocument>,
}

#[derive(Serialize, Deserialize)]
pub struct RecentTaskDocument {
    id: String,
    call: Option<CallKindDocument>,
    by_us: bool,
    running: bool,
}

impl From<&Intent> for IntentDocument {
    fn from(intent: &Intent) -> Self {
        let Intent { call, before, asked } = intent;
        Self { call: call.into(), before: before.into(), asked: *asked }
    }
}

impl TryFrom<IntentDocument> for Intent {
    type Error = DocumentError;

    fn try_from(
        IntentDocument { call, before, asked }: IntentDocument,
    ) -> Result<Self, DocumentError> {
        Ok(Self { call: call.try_into()?, before: before.try_into()?, asked })
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
            HostCall::CreateSnapshot { name, description, memory, quiesce } => {
                Self::CreateSnapshot {
                    name: name.clone(),
                    description: description.clone(),
                    memory: *memory,
                    quiesce: *quiesce,
                }
            }
            HostCall::RevertToSnapshot { snapshot, suppress_power_on } => Self::RevertToSnapshot {
                snapshot: snapshot.to_string(),
                suppress_power_on: *suppress_power_on,
            },
            HostCall::RemoveSnapshot { snapshot, children } => {
                Self::RemoveSnapshot { snapshot: snapshot.to_string(), children: *children }
            }
            HostCall::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            HostCall::ConsolidateDisks => Self::ConsolidateDisks,
            HostCall::RenameSnapshot { snapshot, name, description } => Self::RenameSnapshot {
                snapshot: snapshot.to_string(),
                name: name.clone(),
                description: description.clone(),
            },
            HostCall::SetMedia { drive } => Self::SetMedia { drive: drive.into() },
            HostCall::SetBoot { boot } => Self::SetBoot { boot: boot.into() },
        }
    }
}

impl TryFrom<CallDocument> for HostCall {
    type Error = DocumentError;

    fn try_from(call: CallDocument) -> Result<Self, DocumentError> {
        Ok(match call {
            CallDocument::PowerOn => Self::PowerOn,
            CallDocument::PowerOff => Self::PowerOff,
            CallDocument::Reset => Self::Reset,
            CallDocument::Suspend => Self::Suspend,
            CallDocument::ShutdownGuest => Self::ShutdownGuest,
            CallDocument::RebootGuest => Self::RebootGuest,
            CallDocument::Answer { question, choice } => {
                Self::Answer { question: QuestionId::from_backend(question), choice }
            }
            CallDocument::CreateSnapshot { name, description, memory, quiesce } => {
                Self::CreateSnapshot { name, description, memory, quiesce }
            }
            CallDocument::RevertToSnapshot { snapshot, suppress_power_on } => {
                Self::RevertToSnapshot {
                    snapshot: SnapshotId::from_backend(snapshot),
                    suppress_power_on,
                }
            }
            CallDocument::RemoveSnapshot { snapshot, children } => {
                Self::RemoveSnapshot { snapshot: SnapshotId::from_backend(snapshot), children }
            }
            CallDocument::RemoveAllSnapshots => Self::RemoveAllSnapshots,
            CallDocument::ConsolidateDisks => Self::ConsolidateDisks,
            CallDocument::RenameSnapshot { snapshot, name, description } => Self::RenameSnapshot {
                snapshot: SnapshotId::from_backend(snapshot),
                name,
                description,
            },
            CallDocument::SetMedia { drive } => Self::SetMedia { drive: drive.into() },
            CallDocument::SetBoot { boot } => Self::SetBoot { boot: boot.try_into()? },
        })
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
            CallKind::ConsolidateDisks => Self::ConsolidateDisks,
            CallKind::RenameSnapshot => Self::RenameSnapshot,
            CallKind::SetMedia => Self::SetMedia,
            CallKind::SetBoot => Self::SetBoot,
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
            CallKindDocument::ConsolidateDisks => Self::ConsolidateDisks,
            CallKindDocument::RenameSnapshot => Self::RenameSnapshot,
            CallKindDocument::SetMedia => Self::SetMedia,
            CallKindDocument::SetBoot => Self::SetBoot,
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
            consolidation_needed,
            host_boot_time,
            recent_tasks,
            // Not stored, because the state before the call proves nothing about it.
            media: _,
        } = evidence;
        // Names and descriptions of snapshots are not stored, because they prove nothing about a
        // lost call and can be long (see `Evidence::without_texts`).
        let parent =
            |SnapshotEvidence { id: _, parent, name: _, description: _ }: &SnapshotEvidence| {
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
            consolidation_needed: *consolidation_needed,
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
            consolidation_needed,
            host_boot_time,
            recent_tasks,
        } = evidence;
        let parents = parents.into_iter().chain(std::iter::repeat(None));
        let snapshot = |(id, parent): (String, Option<String>)| SnapshotEvidence {
            id: SnapshotId::from_backend(id),
            parent: parent.map(SnapshotId::from_backend),
            name: String::new(),
            description: String::new(),
        };
        Ok(Self {
            identity: identity.into(),
            power_state: power_state.map(power).transpose()?,
            current_snapshot: current_snapshot.map(SnapshotId::from_backend),
            snapshots: snapshots.into_iter().zip(parents).map(snapshot).collect(),
            tools_running,
            question: question.map(QuestionId::from_backend),
            consolidation_needed,
            host_boot_time,
            recent_tasks: recent_tasks
                .into_iter()
                .map(|RecentTaskDocument { id, call, by_us, running }| RecentTask {
                    id: TaskId::from_backend(id),
                    call: call.map(Into::into),
                    by_us,
                    running,
                })
                .collect(),
            media: BootMedia::default(),
        })
    }
}
