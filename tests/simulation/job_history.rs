//! The history of a job as the checker knows it, and the rules that depend on it: whether its
//! success is true, and whether it may end as unknown.

use std::time::Duration;

use otter::domain::call::CallKind;
use otter::domain::ids::{JobId, SnapshotId};
use otter::domain::job::{Job, JobKind, JobRequest};
use otter::domain::power::PowerState;
use otter::domain::snapshot::Snapshots;
use otter::service::jobs::lost_call::MAX_SENDS;

/// The history of a job.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about the job")]
pub struct JobHistory {
    pub machine: String,
    pub kind: JobKind,
    /// Whether the job is on disk.
    pub committed: bool,
    /// When the turn of the job came at the earliest: nothing in its queue was before it.
    pub turn_at: Option<Duration>,
    /// The jobs that ran on the machine when the turn of this job came.
    pub concurrent_jobs: Vec<JobId>,
    /// When otter asked the storage to insert the job.
    pub asked_at: Duration,
    /// The deadline by the time that never jumps. It is valid while the daemon runs.
    pub deadline_at: Duration,
    /// Whether the deadline is unknown, because the daemon crashed and the wall clock may have
    /// jumped meanwhile.
    pub deadline_unknown: bool,
    /// When otter learned that the job is on disk. The job is in its queue by then.
    pub accepted_at: Option<Duration>,
    pub ended_at: Option<Duration>,
    pub end: Option<Job>,
    /// When a reader first saw the end of the job, as a number of [`JobInvariants::count`].
    pub end_seen_at: Option<u64>,
    /// The calls that were sent and may have run, as far as the job can know.
    pub possible_sends: Vec<CallKind>,
    pub last_call: Option<CallKind>,
    /// The true effects of the calls of the job, each with the first revision of the host that has
    /// it.
    pub effects: Vec<(CallKind, u64)>,
    /// Whether an answer, a task, or the memory of the daemon about a call was lost.
    pub evidence_lost: bool,
    /// Whether the task of a call may be unknown to otter: its answer was lost, or the daemon
    /// crashed during the call.
    pub task_unknown: bool,
    /// Whether the host forgot its tasks since the turn of the job.
    pub tasks_forgotten_since: bool,
    /// Whether anything but this job changed the machine since the turn of the job.
    pub changed_by_others: bool,
    /// Whether anything but the jobs of otter changed the machine.
    pub changed_from_outside: bool,
    pub cancel_asked: bool,
    /// How often the current call of the job was sent.
    pub sends: u32,
    /// The power states of the machine from the turn of the job to its end.
    pub powers: Vec<PowerState>,
    pub guest_stopped: bool,
}

/// The power state of a machine after the job, if nothing else changes it. `None` if the job leaves
/// the power state open.
pub const fn expected_power(request: &JobRequest) -> Option<PowerState> {
    match request {
        JobRequest::PowerOn | JobRequest::Revert { power_on: Some(true), .. } => {
            Some(PowerState::On)
        }
        JobRequest::PowerOff
        | JobRequest::Kill
        | JobRequest::Shutdown { .. }
        | JobRequest::Revert { power_on: Some(false), .. } => Some(PowerState::Off),
        JobRequest::Suspend => Some(PowerState::Suspended),
        _ => None,
    }
}

impl JobHistory {
    /// Whether the job may be at work: its turn has come, and its end is not on disk.
    pub const fn has_turn(&self) -> bool {
        self.turn_at.is_some() && self.end.is_none()
    }

    /// The history of a job that is inserted now.
    pub fn new(job: &Job, now: Duration) -> Self {
        let left = Duration::try_from(job.deadline_at.duration_since(job.created_at)).unwrap();
        Self {
            machine: job.machine_id().unwrap().backend_text().to_owned(),
            kind: job.kind(),
            committed: false,
            turn_at: None,
            concurrent_jobs: Vec::new(),
            asked_at: now,
            deadline_at: now + left,
            deadline_unknown: false,
            accepted_at: None,
            ended_at: None,
            end: None,
            end_seen_at: None,
            possible_sends: Vec::new(),
            last_call: None,
            effects: Vec::new(),
            evidence_lost: false,
            task_unknown: false,
            tasks_forgotten_since: false,
            changed_by_others: false,
            changed_from_outside: false,
            cancel_asked: false,
            sends: 0,
            powers: Vec::new(),
            guest_stopped: false,
        }
    }

    /// Whether the deadline may have passed.
    pub fn may_be_overdue(&self, now: Duration) -> bool {
        self.deadline_unknown || self.deadline_at <= now + Duration::from_millis(1)
    }

    fn had_effect(&self, call: CallKind) -> bool {
        self.effects.iter().any(|(kind, _)| *kind == call)
    }

    fn had_power(&self, power: PowerState) -> bool {
        self.powers.contains(&power)
    }

    /// Whether the job may truthfully be `succeeded`.
    pub fn is_success_true(&self, job: &Job) -> bool {
        match &job.request {
            JobRequest::PowerOn => self.had_power(PowerState::On),
            JobRequest::PowerOff | JobRequest::Kill | JobRequest::Shutdown { .. } => {
                self.had_power(PowerState::Off)
            }
            JobRequest::Suspend => self.had_power(PowerState::Suspended),
            JobRequest::Reset => self.had_effect(CallKind::Reset),
            JobRequest::Reboot => self.guest_stopped,
            JobRequest::Answer { .. } => self.had_effect(CallKind::Answer),
            JobRequest::CreateSnapshot { .. } => {
                let made: Option<&SnapshotId> =
                    job.result.as_ref().and_then(|result| result.snapshot.as_ref());
                (self.had_effect(CallKind::CreateSnapshot)
                    || self.evidence_lost && self.changed_by_others)
                    && (made.is_some() || !job.warnings.is_empty())
            }
            JobRequest::Revert { power_on, .. } => {
                self.had_effect(CallKind::RevertToSnapshot)
                    && power_on.is_none_or(|on| {
                        self.had_power(if on { PowerState::On } else { PowerState::Off })
                    })
            }
            JobRequest::Prepare { snapshot, power, .. } => {
                (snapshot.is_none() || self.had_effect(CallKind::RevertToSnapshot))
                    && power.is_none_or(|power| self.had_power(power))
            }
            JobRequest::Release { snapshot, keep_power, media: _ } => {
                (snapshot.is_none() || self.had_effect(CallKind::RevertToSnapshot))
                    && (*keep_power || self.had_power(PowerState::Off))
            }
            JobRequest::RemoveSnapshot { .. } => {
                self.had_effect(CallKind::RemoveSnapshot) || self.changed_by_others
            }
            JobRequest::RemoveAllSnapshots => {
                self.had_effect(CallKind::RemoveAllSnapshots)
                    || self.changed_by_others
                    || job.steps.is_empty()
            }
            JobRequest::Consolidate => {
                self.had_effect(CallKind::ConsolidateDisks)
                    || self.changed_by_others
                    || job.steps.is_empty()
            }
            JobRequest::RenameSnapshot { .. } => {
                self.had_effect(CallKind::RenameSnapshot)
                    || self.changed_by_others
                    || job.steps.is_empty()
            }
            JobRequest::SetMedia { .. } => {
                self.had_effect(CallKind::SetMedia)
                    || self.changed_by_others
                    || job.steps.is_empty()
            }
            JobRequest::SetBoot(_) => {
                self.had_effect(CallKind::SetBoot) || self.changed_by_others || job.steps.is_empty()
            }
            // The clients of this simulation change no files.
            JobRequest::UploadFile(_) | JobRequest::DeleteFile | JobRequest::CreateFolder => false,
        }
    }

    /// Whether the machine has the snapshots that the success of a job names. A snapshot that was
    /// removed never comes back. The others may have changed if something else changed the machine.
    pub fn has_named_snapshots(&self, job: &Job, snapshots: &Snapshots) -> bool {
        let created = || job.result.as_ref().and_then(|result| result.snapshot.as_ref());
        match &job.request {
            JobRequest::RemoveSnapshot { snapshot, .. } => snapshots.get(snapshot).is_none(),
            _ if self.changed_by_others => true,
            JobRequest::RemoveAllSnapshots => snapshots.items.is_empty(),
            JobRequest::RenameSnapshot { snapshot, name: Some(name), .. } => {
                snapshots.get(snapshot).is_some_and(|snapshot| snapshot.name == *name)
            }
            JobRequest::Revert { snapshot, .. }
            | JobRequest::Prepare { snapshot: Some((snapshot, _)), .. }
            | JobRequest::Release { snapshot: Some((snapshot, _)), .. } => {
                snapshots.current.as_ref() == Some(snapshot)
            }
            JobRequest::CreateSnapshot { .. } => {
                created().is_none_or(|id| snapshots.get(id).is_some())
            }
            _ => true,
        }
    }

    /// Whether the job may end as `unknown`: by the rules for lost calls, and because a guest may
    /// react late.
    pub fn may_be_unknown(&self, job: &Job) -> bool {
        match job.kind() {
            JobKind::MachineShutdown => {
                self.evidence_lost
                    || self.changed_by_others
                    || self.cancel_asked
                    || job.cancel_requested_at.is_some()
                    || self.last_call.is_some()
            }
            JobKind::MachineReboot => self.evidence_lost || self.changed_by_others,
            JobKind::MachineReset | JobKind::SnapshotCreate | JobKind::MachineAnswer => {
                self.evidence_lost
            }
            // The call was not repeated, or repeated without success. The state of the machine
            // proves nothing about the first call.
            JobKind::SnapshotRevert
            | JobKind::SnapshotRemove
            | JobKind::SnapshotRemoveAll
            | JobKind::MachineConsolidate
            | JobKind::LeasePrepare
            | JobKind::LeaseRelease
                if self.cancel_asked || self.sends > 1 =>
            {
                self.evidence_lost
            }
            // The task was seen running, and the call was not repeated.
            _ if self.cancel_asked && self.tasks_forgotten_since => self.evidence_lost,
            _ => self.evidence_lost && (self.changed_by_others || self.sends >= MAX_SENDS),
        }
    }
}
