//! One record of the audit: the actor, the action, its machine, lease or job, and the outcome.
//!
//! The constructors and builders of this file make every record. Both the row of the audit table
//! and the log line are made from the record. A record never holds a secret.

use std::time::Duration;

use jiff::Timestamp;

use super::artifact::Artifact;
use super::failure::{Failure, FailureKind};
use super::ids::{JobId, LeaseId, MachineId};
use super::job::{Job, JobState};
use super::lease::{Lease, LeaseState};
use super::origin::{Actor, RequestId, RequestOrigin};

/// The maximum length of the text `detail` of a record, in characters.
const MAX_DETAIL: usize = 1_024;

/// Declares an enum together with the stable words that the HTTP API and the store use.
macro_rules! stable_words {
    ($(#[$doc:meta])* $enum:ident {
        $($(#[$variant_doc:meta])* $name:ident = $word:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $enum {
            $($(#[$variant_doc])* $name,)*
        }

        impl $enum {
            /// Every variant, for filters of the HTTP API and for the OpenAPI document.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word for this variant in the HTTP API and in the store.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// Parses a word of the HTTP API or of the store. `None` if the word names no variant.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.as_str() == word)
            }
        }
    };
}

stable_words! {
    /// The actions that otter audits.
    AuditAction {
        JobAccepted = "job.accepted",
        JobStarted = "job.started",
        /// A caller requested the cancellation of a job. Only the first such request for each job
        /// is audited.
        JobCancelRequested = "job.cancel_requested",
        JobEnded = "job.ended",
        LeaseQueued = "lease.queued",
        LeaseGranted = "lease.granted",
        LeaseActive = "lease.active",
        LeaseRenewed = "lease.renewed",
        /// The use of a machine failed, and its lease was kept so that people can examine the
        /// machine.
        LeaseKept = "lease.kept",
        LeaseReleasing = "lease.releasing",
        LeaseEnded = "lease.ended",
        MachineQuarantined = "machine.quarantined",
        QuarantineCleared = "machine.quarantine_cleared",
        /// otter accepted a job only because an operator sent `Otter-Override`.
        MachineOverridden = "machine.overridden",
        /// A call sent input to a machine. The detail has the numbers of events and characters.
        ScreenInput = "screen.input",
        /// A viewer began to drive the screen of a machine: it may type and click.
        DriverStarted = "screen.driver_started",
        /// The detail says why, and counts the keys and the pointer events.
        DriverEnded = "screen.driver_ended",
        /// A call sent input to a serial port. The detail has the port and the number of bytes.
        SerialInput = "serial.input",
        /// A stream began to write to a serial port.
        SerialWriterStarted = "serial.writer_started",
        /// The detail says why, and counts the bytes.
        SerialWriterEnded = "serial.writer_ended",
        /// The detail has the name and the size of the artifact.
        ArtifactStored = "artifact.stored",
        ArtifactDeleted = "artifact.deleted",
        RecordingStarted = "recording.started",
        /// The detail says why the recording ended.
        RecordingEnded = "recording.ended",
        RequestRefused = "request.refused",
        TokenCreated = "token.created",
        TokenRevoked = "token.revoked",
        TokenRotated = "token.rotated",
        /// The running daemon took over a change that another process had made to the tokens. otter
        /// only logs this action and does not store it.
        TokensReloaded = "tokens.reloaded",
        CertificateReloaded = "certificate.reloaded",
        PasswordReloaded = "password.reloaded",
        /// The running daemon read its configuration again. The record's detail names the settings
        /// that changed.
        ConfigurationReloaded = "configuration.reloaded",
        /// The state was restored from a backup. Records that were made after the backup are
        /// missing.
        StoreRestored = "store.restored",
    }
}

stable_words! {
    /// The outcome of an action: the new state of a job or lease, or whether otter did or refused
    /// the action.
    AuditOutcome {
        Queued = "queued",
        Running = "running",
        Succeeded = "succeeded",
        Failed = "failed",
        Cancelled = "cancelled",
        Unknown = "unknown",
        Preparing = "preparing",
        Active = "active",
        Releasing = "releasing",
        Released = "released",
        Expired = "expired",
        Revoked = "revoked",
        Done = "done",
        Refused = "refused",
    }
}

impl From<JobState> for AuditOutcome {
    fn from(state: JobState) -> Self {
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

impl From<LeaseState> for AuditOutcome {
    fn from(state: LeaseState) -> Self {
        match state {
            LeaseState::Queued => Self::Queued,
            LeaseState::Preparing => Self::Preparing,
            LeaseState::Active => Self::Active,
            LeaseState::Releasing => Self::Releasing,
            LeaseState::Released => Self::Released,
            LeaseState::Expired => Self::Expired,
            LeaseState::Revoked => Self::Revoked,
            LeaseState::Failed => Self::Failed,
        }
    }
}

/// One record of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    pub at: Timestamp,
    pub action: AuditAction,
    /// Who acted: the name of a token, `anonymous`, `otter`, `otter token` or `otter store`. `None`
    /// if a refused call had no valid token, or if otter refused the call before it read the token.
    pub actor: Option<String>,
    /// The client's address. It is `other` if otter refused a call from one of so many addresses
    /// that it no longer counts them separately.
    pub address: Option<String>,
    pub request_id: Option<RequestId>,
    /// The id and the name of the machine.
    pub machine: Option<(MachineId, String)>,
    pub lease: Option<LeaseId>,
    pub job: Option<JobId>,
    /// The value of the request header `Otter-Reference`.
    pub reference: Option<String>,
    pub outcome: AuditOutcome,
    /// The kind of failure, if the action failed or was refused.
    pub code: Option<FailureKind>,
    pub duration: Option<Duration>,
    /// A text for people: the kind of a job, why a lease ended, or why a machine was quarantined.
    pub detail: Option<String>,
    /// The number of equal actions that this record stands for.
    pub count: u64,
}

impl AuditRecord {
    /// Makes a record without an actor, machine, lease, job or detail.
    #[must_use]
    pub fn new(at: Timestamp, action: AuditAction, outcome: AuditOutcome) -> Self {
        Self {
            at,
            action,
            actor: None,
            address: None,
            request_id: None,
            machine: None,
            lease: None,
            job: None,
            reference: None,
            outcome,
            code: None,
            duration: None,
            detail: None,
            count: 1,
        }
    }

    /// The record that a job was accepted.
    #[must_use]
    pub fn job_accepted(job: &Job) -> Self {
        Self::new(job.created_at, AuditAction::JobAccepted, job.state.into()).with_job(job)
    }

    /// The record that a job started. Its duration is the time that the job waited in its queue.
    /// `None` if the job has not started. The job may have ended since its start.
    #[must_use]
    pub fn job_started(job: &Job) -> Option<Self> {
        if job.state == JobState::Queued {
            return None;
        }
        let at = job.started_at?;
        let duration = Some(between(job.created_at, at));
        let record = Self::new(at, AuditAction::JobStarted, JobState::Running.into());
        Some(Self { duration, ..record.with_job(job) })
    }

    /// The record that a caller requested the cancellation of a job. `None` if no caller has
    /// requested it.
    #[must_use]
    pub fn job_cancel_requested(job: &Job) -> Option<Self> {
        let (at, by) = (job.cancel_requested_at?, job.cancel_requested_by.as_ref()?);
        Some(
            Self::new(at, AuditAction::JobCancelRequested, AuditOutcome::Done)
                .with_job(job)
                .with_actor(by),
        )
    }

    /// The record that a job ended. Its duration counts from the acceptance of the job.
    #[must_use]
    pub fn job_ended(job: &Job) -> Self {
        let at = job.finished_at.unwrap_or(job.updated_at);
        let duration = Some(between(job.created_at, at));
        let record = Self::new(at, AuditAction::JobEnded, job.state.into()).with_job(job);
        Self { duration, ..record }.with_failure(job.error.as_ref())
    }

    /// The record that otter accepted a job only because an operator sent `Otter-Override`.
    ///
    /// # Parameters
    /// - `holder`: the lease that holds the machine.
    /// - `reason`: the value of `Otter-Override`.
    #[must_use]
    pub fn machine_overridden(job: &Job, holder: Option<LeaseId>, reason: &str) -> Self {
        let record = Self::new(job.created_at, AuditAction::MachineOverridden, AuditOutcome::Done);
        let detail = format!("{}: {reason}", job.kind().as_str());
        Self { lease: holder, ..record.with_job(job) }.with_detail(detail)
    }

    /// Adds the actor (a token, `anonymous`, otter or one of its commands), and the address and the
    /// id of the request.
    #[must_use]
    pub fn with_actor(self, actor: &Actor) -> Self {
        Self { actor: Some(actor.name.clone()), ..self }.with_origin(actor.origin)
    }

    /// Adds the client's address and the id of the request.
    #[must_use]
    pub fn with_origin(self, origin: RequestOrigin) -> Self {
        let RequestOrigin { address, request_id } = origin;
        Self { address: address.map(|address| address.to_string()), request_id, ..self }
    }

    /// Adds a lease, the machine of the lease, and its `Otter-Reference`.
    #[must_use]
    pub fn with_lease(self, lease: &Lease) -> Self {
        let name = || lease.machine_name.clone().unwrap_or_default();
        Self {
            machine: lease.machine.as_ref().map(|machine| (machine.id.clone(), name())),
            lease: Some(lease.id),
            reference: lease.reference.clone(),
            ..self
        }
    }

    /// Adds an artifact with its name and its size, its lease, and the machine of the lease.
    #[must_use]
    pub fn with_artifact(self, artifact: &Artifact) -> Self {
        let Artifact { name, lease, machine, machine_name, reference, bytes, .. } = artifact;
        let machine_name = || machine_name.clone().unwrap_or_default();
        Self {
            machine: machine.as_ref().map(|machine| (machine.id.clone(), machine_name())),
            lease: Some(*lease),
            reference: reference.clone(),
            ..self
        }
        .with_detail(format!("{name}, {bytes} bytes"))
    }

    /// Adds the code and the detail of a failure, if the action failed.
    #[must_use]
    pub fn with_failure(self, failure: Option<&Failure>) -> Self {
        let Some(failure) = failure else { return self };
        let detail = match &self.detail {
            Some(detail) => format!("{detail}: {}", failure.detail),
            None => failure.detail.clone(),
        };
        Self { code: Some(failure.kind), ..self }.with_detail(detail)
    }

    /// Sets the text `detail`. A very long text is truncated.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if let Some((end, _)) = detail.char_indices().nth(MAX_DETAIL) {
            detail.truncate(end);
            detail.push('…');
        }
        Self { detail: Some(detail), ..self }
    }

    fn with_job(self, job: &Job) -> Self {
        Self {
            machine: job.machine_id().map(|machine| (machine.clone(), job.target_name.clone())),
            lease: job.lease,
            job: Some(job.id),
            reference: job.reference.clone(),
            ..self
        }
        .with_actor(&job.requester())
        .with_detail(job.kind().as_str())
    }
}

/// The time between two points of the wall clock. Zero if the clock was set back between the two
/// points.
#[must_use]
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_parsed() {
        for action in AuditAction::ALL {
            assert_eq!(AuditAction::parse(action.as_str()), Some(*action));
        }
        for outcome in AuditOutcome::ALL {
            assert_eq!(AuditOutcome::parse(outcome.as_str()), Some(*outcome));
        }
        for state in JobState::ALL {
            assert_eq!(AuditOutcome::from(*state).as_str(), state.as_str());
        }
        for state in LeaseState::ALL {
            assert_eq!(AuditOutcome::from(*state).as_str(), state.as_str());
        }
        assert_eq!(AuditAction::parse("job.deleted"), None);
    }

    #[test]
    fn a_long_detail_is_truncated_between_characters() {
        let record =
            AuditRecord::new(Timestamp::UNIX_EPOCH, AuditAction::JobEnded, AuditOutcome::Failed);
        let detail = record.with_detail("ß".repeat(5_000)).detail.unwrap();
        assert_eq!(detail.chars().count(), MAX_DETAIL + 1);
    }
}
