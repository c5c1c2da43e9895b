//! What a bystander knows of one job, and what follows: when its success is true, and when it may
//! be unknown.

use std::time::Duration;

use otter::domain::call::CallKind;
use otter::domain::ids::{JobId, SnapshotId};
use otter::domain::job::{Job, JobKind, JobRequest};
use otter::domain::power::PowerState;
use otter::service::jobs::judgement::MAX_ASKS;

/// What a bystander knows of a job.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what has happened to it, each by itself")]
pub struct JobHistory {
    pub machine: String,
    pub kind: JobKind,
    pub committed: bool,
    pub started: bool,
    /// The jobs that ran on its machine when it started.
    pub concurrent_jobs: Vec<JobId>,
    /// When the storage was asked to insert it.
    pub asked_at: Duration,
    /// When it is over by the time that never jumps, as long as the daemon lives.
    pub deadline_at: Duration,
    /// The daemon died, and the wall clock may have jumped meanwhile: the deadline is where nobody
    /// knows.
    pub deadline_unknown: bool,
    /// When otter was told that it is on disk: at the latest then it waits in its queue.
    pub accepted_at: Option<Duration>,
    /// When the storage was asked to save its start.
    pub start_saved_at: Option<Duration>,
    pub ended_at: Option<Duration>,
    pub end: Option<Job>,
    /// When a reader first saw its end, by the count of what happened.
    pub end_seen_at: Option<u64>,
    /// Sendings that may have run, as far as the job can know.
    pub possible_sends: Vec<CallKind>,
    pub last_call: Option<CallKind>,
    /// What its calls really did, and the revision of the host that shows it.
    pub effects: Vec<(CallKind, u64)>,
    /// An answer, a task or the daemon's own memory of a call was lost.
    pub evidence_lost: bool,
    /// The answer to a call was lost, or the daemon died with one: its task was perhaps never
    /// known.
    pub task_unknown: bool,
    /// The host forgot its tasks meanwhile.
    pub tasks_forgotten_since: bool,
    /// Somebody or something else changed the machine meanwhile.
    pub changed_by_others: bool,
    /// None of otter's jobs did.
    pub changed_from_outside: bool,
    pub cancel_asked: bool,
    pub sends: u32,
    /// Every power state of the machine while it ran.
    pub powers: Vec<PowerState>,
    pub guest_stopped: bool,
}

/// What a machine is after such a job, if nobody else does anything to it.
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
    /// For a job that is inserted now.
    pub fn new(job: &Job, now: Duration) -> Self {
        let left = Duration::try_from(job.deadline_at.duration_since(job.created_at)).unwrap();
        Self {
            machine: job.machine_id().unwrap().backend_text().to_owned(),
            kind: job.kind(),
            committed: false,
            started: false,
            concurrent_jobs: Vec::new(),
            asked_at: now,
            deadline_at: now + left,
            deadline_unknown: false,
            accepted_at: None,
            start_saved_at: None,
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

    /// Whether its deadline may have passed.
    pub fn may_be_overdue(&self, now: Duration) -> bool {
        self.deadline_unknown || self.deadline_at <= now + Duration::from_millis(1)
    }

    fn had_effect(&self, call: CallKind) -> bool {
        self.effects.iter().any(|(kind, _)| *kind == call)
    }

    fn had_power(&self, power: PowerState) -> bool {
        self.powers.contains(&power)
    }

    /// Whether what its success says is true.
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
            JobRequest::Release { snapshot, keep_power } => {
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
            JobRequest::RenameSnapshot { .. } => {
                self.had_effect(CallKind::RenameSnapshot)
                    || self.changed_by_others
                    || job.steps.is_empty()
            }
        }
    }

    /// By the table of `judgement`, and what a guest that was asked may still do.
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
            // Not asked again, or asked again in vain: looking at the machine proves nothing of the
            // first time.
            JobKind::SnapshotRevert
            | JobKind::SnapshotRemove
            | JobKind::SnapshotRemoveAll
            | JobKind::LeasePrepare
            | JobKind::LeaseRelease
                if self.cancel_asked || self.sends > 1 =>
            {
                self.evidence_lost
            }
            // It was seen to run, and was not asked again.
            _ if self.cancel_asked && self.tasks_forgotten_since => self.evidence_lost,
            _ => self.evidence_lost && (self.changed_by_others || self.sends >= MAX_ASKS),
        }
    }
}
