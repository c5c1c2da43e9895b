//! The invariants of jobs. The checker reports every event of a run to [`JobInvariants`], which
//! keeps a history of each job and checks the invariants.
//!
//! ```text
//! commits, calls, answers, reads ──► history of each job ◄── true effects on the host
//! ```
//! The first violation ends the run.

use std::collections::BTreeMap;
use std::time::Duration;

use otter::domain::call::{CallKind, HostCall};
use otter::domain::ids::{JobId, TaskId};
use otter::domain::job::{Job, JobKind, JobState, JobStepState, StepName};
use otter::domain::lease::LeaseState;
use otter::domain::power::PowerState;
use otter::domain::snapshot::Snapshots;
use otter::hypervisor::TaskStatus;
use otter::service::jobs::lost_call::MAX_SENDS;
use otter::service::jobs::queue::Lane;

use super::committed::{Committed, Scope};
use super::job_history::{JobHistory, expected_power};

/// The histories of all jobs, and the first violation.
#[derive(Debug, Default)]
pub struct JobInvariants {
    pub violation: Option<String>,
    histories: BTreeMap<JobId, JobHistory>,
    keys: BTreeMap<Scope, JobId>,
    /// The job and the call that started each task. Tasks of other clients have no entry.
    tasks: BTreeMap<String, (JobId, CallKind)>,
    /// The number of jobs that ended as unknown.
    pub unknowns: usize,
    /// The machines that changed since this list was last taken.
    pub changed_machines: Vec<String>,
    /// The number of events so far.
    count: u64,
}

impl JobInvariants {
    /// Reports a violation. Only the first one is kept.
    pub fn report_violation(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert(what.into());
    }

    /// Reports a violation unless the condition holds.
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    /// Counts an event. Returns its number; numbers increase.
    pub fn count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// Called when otter asks the storage to insert a job.
    pub fn insert_requested(&mut self, job: &Job, now: Duration) {
        self.histories.insert(job.id, JobHistory::new(job, now));
    }

    /// Called when the job is on disk. `power` is the power state of its machine.
    pub fn inserted(
        &mut self,
        job: &Job,
        power: Option<PowerState>,
        now: Duration,
        disk: &Committed,
    ) {
        if let Some(history) = self.histories.get_mut(&job.id) {
            history.committed = true;
            let machine = history.machine.clone();
            self.begin_turns(&machine, power, now, disk);
        }
    }

    /// Notes the jobs whose turn comes, because no job before them in the queue of the machine is
    /// left. A job commits its start only with its first call or wait, or with its end.
    fn begin_turns(
        &mut self,
        machine: &str,
        power: Option<PowerState>,
        now: Duration,
        disk: &Committed,
    ) {
        let here = |history: &JobHistory| history.machine == machine && history.end.is_none();
        let open: Vec<(JobId, Lane, Duration)> = self
            .histories
            .iter()
            .filter(|(_, history)| here(history) && history.committed)
            .map(|(id, history)| (*id, Lane::for_kind(history.kind), history.asked_at))
            .collect();
        let runs = |id: &JobId| disk.job(*id).is_some_and(|job| job.state == JobState::Running);
        let running: Vec<JobId> = self
            .histories
            .iter()
            .filter(|(id, history)| here(history) && runs(id))
            .map(|(id, _)| *id)
            .collect();
        for (id, lane, asked_at) in &open {
            let is_behind = |(other, other_lane, other_asked_at): &(JobId, Lane, Duration)| {
                let goes_first = other_lane == lane || *other_lane == Lane::Kill;
                other != id && goes_first && other_asked_at < asked_at
            };
            if let Some(history) = self.histories.get_mut(id)
                && history.turn_at.is_none()
                && !open.iter().any(is_behind)
            {
                history.turn_at = Some(now);
                history.concurrent_jobs.clone_from(&running);
                history.powers.extend(power);
            }
        }
    }

    /// Called when otter learns that the job is on disk.
    pub fn accepted(&mut self, job: JobId, now: Duration) {
        if let Some(history) = self.histories.get_mut(&job) {
            history.accepted_at.get_or_insert(now);
        }
    }

    /// Called when a client learns that this job was accepted.
    pub fn answered(&mut self, key: Option<Scope>, job: JobId, disk: &Committed) {
        self.require(disk.job(job).is_some(), || {
            format!("job {job} was accepted and is not on disk")
        });
        if let Some(scope) = key {
            let first = *self.keys.entry(scope.clone()).or_insert(job);
            self.require(first == job, || {
                format!("the key {} gave {first} and then {job}", scope.3)
            });
        }
    }

    /// Called when a client cancels a job.
    pub fn cancel_asked(&mut self, job: JobId) {
        if let Some(history) = self.histories.get_mut(&job) {
            history.cancel_asked = true;
        }
    }

    /// Whether a job may have been cancelled by a client, by a kill, or by the end of its lease.
    fn is_cancelled(&self, job: &Job, disk: &Committed) -> bool {
        let Some(history) = self.histories.get(&job.id) else { return false };
        let lease = job.lease.and_then(|lease| disk.leases.get(&lease)).map(|lease| lease.state);
        let goes_on = [LeaseState::Queued, LeaseState::Preparing, LeaseState::Active];
        let killed = self.histories.values().any(|kill| {
            kill.kind == JobKind::MachineKill
                && kill.machine == history.machine
                && kill.committed
                && kill.ended_at.is_none_or(|at| history.turn_at.is_some_and(|turn| at >= turn))
        });
        history.cancel_asked || killed || lease.is_some_and(|state| !goes_on.contains(&state))
    }

    /// Called when a new state of a job is on disk.
    pub fn updated(
        &mut self,
        before: &Job,
        job: &Job,
        power: Option<PowerState>,
        now: Duration,
        disk: &Committed,
    ) {
        self.require(!before.state.is_end(), || format!("the end of {} was overwritten", job.id));
        let is_queued_again = before.state == JobState::Running && job.state == JobState::Queued;
        self.require(!is_queued_again, || format!("the start of {} was overwritten", job.id));
        let is_forgotten =
            before.cancel_requested_at.is_some() && job.cancel_requested_at.is_none();
        self.require(!is_forgotten, || format!("the request to cancel {} was overwritten", job.id));
        if before.state == JobState::Queued && job.started_at.is_some() {
            self.check_order(job, now, disk);
        }
        if let (Some(history), Some(call), None) =
            (self.histories.get_mut(&job.id), &before.intent, &job.intent)
            && !is_sent_once(call.call.kind())
        {
            // The job knows what became of this call, and may repeat it for another reason: a
            // preparation powers on again if the host reboots.
            history.possible_sends.retain(|sent| *sent != call.call.kind());
        }
        if let (Some(history), Some(intent)) = (self.histories.get_mut(&job.id), &job.intent) {
            history.sends = history.sends.max(intent.asked);
        }
        if job.state.is_end() {
            let changed_from_outside =
                self.histories.get(&job.id).is_some_and(|history| history.changed_from_outside);
            let alive = job.kind() == JobKind::MachineKill
                && job.state == JobState::Succeeded
                && power == Some(PowerState::On);
            self.require(!alive || changed_from_outside, || {
                format!("{} killed its machine, and it is on", job.id)
            });
            let is_cancelled = self.is_cancelled(job, disk);
            if let Some(history) = self.histories.get_mut(&job.id) {
                history.cancel_asked |= is_cancelled;
            }
            self.check_end(job, now);
            if let Some(history) = self.histories.get_mut(&job.id) {
                history.ended_at = Some(now);
                history.end = Some(job.clone());
                let machine = history.machine.clone();
                self.begin_turns(&machine, power, now, disk);
            }
        }
    }

    /// Called when a successful end of a job is on disk. `snapshots` are the snapshots of its
    /// machine at that time.
    pub fn succeeded(&mut self, job: &Job, snapshots: &Snapshots) {
        let Some(history) = self.histories.get(&job.id) else { return };
        let is_true = history.has_named_snapshots(job, snapshots);
        self.require(is_true, || {
            let kind = job.kind().as_str();
            format!("{} ({kind}) succeeded, and the machine has other snapshots", job.id)
        });
    }

    /// Checks that the jobs of a machine run one at a time, in order of arrival. A kill overtakes
    /// all other jobs, and an answer overtakes all jobs that are not answers. Of two jobs that
    /// arrive at the same time, either may be the first.
    fn check_order(&mut self, job: &Job, now: Duration, disk: &Committed) {
        let Some(history) = self.histories.get(&job.id) else { return };
        let own = Lane::for_kind(job.kind());
        let (asked_at, turn_at) = (history.asked_at, history.turn_at.unwrap_or(now));
        let mut wrong = None;
        for other in disk.jobs.values() {
            if other.id == job.id || other.target.id() != job.target.id() || other.state.is_end() {
                continue;
            }
            let Some(other_history) = self.histories.get(&other.id) else { continue };
            let withdrawn = other_history.may_be_overdue(now) || self.is_cancelled(other, disk);
            let accepted_before =
                |time: Duration| other_history.accepted_at.is_some_and(|at| at < time);
            let runs = other.state == JobState::Running;
            let lane = Lane::for_kind(other.kind());
            let same = lane == own && (runs || accepted_before(asked_at) && !withdrawn);
            // A kill that arrives once the turn of the job has come stops the job, and may save its
            // own start first.
            let kill_first = own == Lane::Ordinary
                && lane == Lane::Kill
                && accepted_before(turn_at)
                && (runs || !withdrawn);
            if same || kill_first {
                let state = other.state.as_str();
                wrong =
                    Some(format!("{} began although {} was {state} before it", job.id, other.id));
            }
        }
        if let Some(wrong) = wrong {
            self.report_violation(wrong);
        }
    }

    /// Called when otter sends a call.
    pub fn sent(&mut self, id: JobId, call: &HostCall, disk: &Committed) {
        let committed = disk.job(id);
        let intent = committed.and_then(|job| job.intent.as_ref()).map(|intent| &intent.call);
        let right =
            intent == Some(call) && committed.is_some_and(|job| job.state == JobState::Running);
        self.require(right, || {
            format!("{id}: {:?} was called without a committed intent", call.kind())
        });
        let Some(history) = self.histories.get_mut(&id) else { return };
        let kind = call.kind();
        let before = history.possible_sends.iter().filter(|sent| **sent == kind).count();
        let max =
            if is_sent_once(kind) { 0 } else { usize::try_from(MAX_SENDS).unwrap_or_default() - 1 };
        history.possible_sends.push(kind);
        history.last_call = Some(kind);
        self.require(before <= max, || {
            format!(
                "{id}: {kind:?} was sent {before} times before, and nothing proves that those did not run"
            )
        });
    }

    /// Called when the host accepts a call, as this task if the call has one. otter may not learn
    /// of it.
    pub fn call_accepted(&mut self, id: JobId, call: &HostCall, task: Option<&str>, revision: u64) {
        let Some(history) = self.histories.get(&id) else { return };
        let machine = history.machine.clone();
        self.changed_by(&machine, Some(id));
        if call.kind() == CallKind::Answer {
            // Every operation that waited for the answer goes on, even without a visible task.
            for history in self.histories.values_mut().filter(|history| history.machine == machine)
            {
                history.changed_from_outside = true;
            }
        }
        match task {
            Some(task) => {
                self.tasks.insert(task.to_owned(), (id, call.kind()));
            }
            None if call.kind().is_guest_operation() => {}
            None => self.record_effect(id, call.kind(), revision),
        }
    }

    /// Called when the job learns that its last call did not run.
    pub fn call_refused(&mut self, id: JobId) {
        if let Some(history) = self.histories.get_mut(&id)
            && let Some(call) = history.last_call
            && let Some(at) = history.possible_sends.iter().rposition(|sent| *sent == call)
        {
            history.possible_sends.remove(at);
        }
    }

    /// Called when the answer to a call is lost.
    pub fn call_lost(&mut self, id: JobId) {
        if let Some(history) = self.histories.get_mut(&id) {
            history.evidence_lost = true;
            history.task_unknown = true;
        }
    }

    /// Called when the followers of a task get this status.
    pub fn task_reported(&mut self, task: &TaskId, status: &TaskStatus) {
        let Some((job, _)) = self.tasks.get(task.backend_text()).copied() else { return };
        match status {
            TaskStatus::Running { .. } | TaskStatus::Succeeded { .. } => {}
            TaskStatus::Failed(_) => self.call_refused(job),
            TaskStatus::Vanished => {
                if let Some(history) = self.histories.get_mut(&job) {
                    history.evidence_lost = true;
                }
            }
        }
    }

    /// Called when the daemon was killed. Its knowledge of committed calls is lost.
    pub fn crashed(&mut self, clock_jumps: bool, now: Duration, disk: &Committed) {
        for history in self.histories.values_mut().filter(|history| history.committed) {
            history.accepted_at.get_or_insert(now);
            history.deadline_unknown |= clock_jumps && history.end.is_none();
        }
        for job in disk.jobs.values().filter(|job| !job.state.is_end() && job.intent.is_some()) {
            if let Some(history) = self.histories.get_mut(&job.id) {
                history.evidence_lost = true;
                history.task_unknown = true;
            }
        }
        self.sweep(disk);
    }

    /// Called when the host forgot its tasks.
    pub fn tasks_forgotten(&mut self) {
        for history in self.histories.values_mut().filter(|history| history.has_turn()) {
            history.evidence_lost = true;
            history.tasks_forgotten_since = true;
        }
    }

    /// Called when a task has succeeded.
    pub fn task_done(&mut self, task: &str, machine: &str, revision: u64) {
        let ours = self.tasks.get(task).copied();
        self.changed_by(machine, ours.map(|(job, _)| job));
        if let Some((job, call)) = ours {
            self.record_effect(job, call, revision);
        }
    }

    /// Called when a machine has changed, by the job `by`, or by another client if `by` is `None`.
    pub fn changed_by(&mut self, machine: &str, by: Option<JobId>) {
        self.changed_machines.push(machine.to_owned());
        for (id, history) in &mut self.histories {
            if history.machine == machine
                && history.turn_at.is_some()
                && history.end_seen_at.is_none()
                && by != Some(*id)
            {
                history.changed_by_others = true;
                history.changed_from_outside |= by.is_none();
            }
        }
    }

    /// Called when a machine has a new power state.
    pub fn power(&mut self, machine: &str, power: Option<PowerState>) {
        for history in self.histories.values_mut() {
            if history.machine == machine && history.has_turn() {
                history.powers.extend(power);
            }
        }
    }

    /// Called when the guest of a machine has stopped.
    pub fn guest_stopped(&mut self, machine: &str) {
        for history in self.histories.values_mut() {
            if history.machine == machine && history.has_turn() {
                history.guest_stopped = true;
            }
        }
    }

    /// Called when a reader gets a job. The read started at `read_started`. `visible_revision` is
    /// the last revision of the host that the inventory can show of the machine, and `power` is the
    /// power state of the machine in the inventory.
    pub fn job_reported(
        &mut self,
        job: &Job,
        read_started: u64,
        visible_revision: u64,
        power: Option<PowerState>,
        disk: &Committed,
    ) {
        let id = job.id;
        let count = self.count();
        let Some(history) = self.histories.get_mut(&id) else { return };
        let seen_before = history.end_seen_at;
        let end = history.end.clone();
        let changed_by_others = history.changed_by_others;
        let invisible: Vec<CallKind> = history
            .effects
            .iter()
            .filter(|(_, revision)| *revision > visible_revision)
            .map(|(call, _)| *call)
            .collect();
        if !job.state.is_end() {
            let taken_back = seen_before.is_some_and(|seen| seen < read_started);
            self.require(!taken_back, || format!("the end of {id} was taken back"));
            let kept = job.cancel_requested_at.is_none()
                || disk.job(id).is_some_and(|job| job.cancel_requested_at.is_some());
            self.require(kept, || {
                format!("{id} was reported as being cancelled, which a crash would forget")
            });
            return;
        }
        history.end_seen_at.get_or_insert(count);
        self.require(disk.job(id) == Some(job) && end.as_ref() == Some(job), || {
            format!("{id} was reported as {}, but the disk has another state", job.state.as_str())
        });
        if seen_before.is_none() && job.state == JobState::Succeeded && job.warnings.is_empty() {
            self.require(invisible.is_empty(), || {
                format!(
                    "the end of {id} was reported before the inventory showed its effects: {invisible:?}"
                )
            });
            // Without an inventory, as after a restart, there is no power state.
            let expected =
                expected_power(&job.request).filter(|_| !changed_by_others && power.is_some());
            self.require(expected.is_none_or(|expected| Some(expected) == power), || {
                format!(
                    "{id} ({}) succeeded, and its machine is reported as {power:?}",
                    job.kind().as_str()
                )
            });
        }
    }

    /// Checks that every accepted job is on disk, and that no end has changed.
    pub fn sweep(&mut self, disk: &Committed) {
        let mut wrong = None;
        for (id, history) in &self.histories {
            let stored = disk.job(*id);
            if history.committed && stored.is_none() {
                wrong = Some(format!("job {id} is gone"));
            }
            if history.end.is_some() && history.end.as_ref() != stored {
                wrong = Some(format!("the end of {id} changed"));
            }
        }
        if let Some(wrong) = wrong {
            self.report_violation(wrong);
        }
    }

    fn record_effect(&mut self, id: JobId, call: CallKind, revision: u64) {
        let Some(history) = self.histories.get_mut(&id) else { return };
        history.effects.push((call, revision));
        let times = history.effects.iter().filter(|(kind, _)| *kind == call).count();
        let is_not_repeatable = matches!(call, CallKind::Reset | CallKind::CreateSnapshot);
        let end = history.end.clone();
        let machine = history.machine.clone();
        // An operation whose task the host has forgotten is invisible, so a kill cannot stop it.
        let visible = call == CallKind::PowerOn && !history.tasks_forgotten_since;
        let killed = visible && self.killed_concurrently(&machine, id);
        self.require(!killed, || {
            format!("{id} powered its machine on after a concurrent kill had succeeded")
        });
        self.require(!is_not_repeatable || times <= 1, || {
            format!("{id}: {call:?} took effect {times} times")
        });
        if let Some(job) = end {
            self.check_unreported_effects(&job);
        }
    }

    /// Whether a kill of this machine has succeeded while this job ran.
    fn killed_concurrently(&self, machine: &str, job: JobId) -> bool {
        let is_successful_kill = |history: &JobHistory| {
            let succeeded =
                history.end.as_ref().is_some_and(|end| end.state == JobState::Succeeded);
            history.kind == JobKind::MachineKill && history.machine == machine && succeeded
        };
        self.histories.values().any(|history| {
            is_successful_kill(history)
                && history.concurrent_jobs.contains(&job)
                && !history.changed_from_outside
        })
    }

    /// Checks the end of a job: a success must be true, a cancellation must have been requested,
    /// and `unknown` must be allowed.
    fn check_end(&mut self, job: &Job, now: Duration) {
        let Some(history) = self.histories.get(&job.id) else { return };
        let id = job.id;
        let kind = history.kind;
        let overdue = history.may_be_overdue(now)
            || job.finished_at.is_some_and(|finished| finished >= job.deadline_at);
        let is_consistent = job.intent.is_none()
            && job.finished_at.is_some()
            && job.steps.iter().all(|step| step.state != JobStepState::Running)
            && job.error.is_none() == (job.state == JobState::Succeeded);
        match job.state {
            JobState::Succeeded => {
                let truth = history.is_success_true(job);
                self.require(truth, || {
                    format!("{id} ({}) succeeded, which is false", kind.as_str())
                });
            }
            JobState::Cancelled => {
                let asked = history.cancel_asked;
                self.require(asked, || format!("{id} was cancelled without a request"));
            }
            JobState::Unknown => {
                let allowed = overdue || history.may_be_unknown(job);
                self.unknowns += 1;
                self.require(allowed, || {
                    let why = job.error.as_ref().map_or("", |error| error.detail.as_str());
                    format!("{id} ({}) is unknown without a reason: {why}", kind.as_str())
                });
            }
            _ => {}
        }
        self.require(is_consistent, || format!("the end of {id} is inconsistent"));
        self.check_unreported_effects(job);
    }

    /// Checks that a failed or cancelled job had no effect except those of its steps.
    fn check_unreported_effects(&mut self, job: &Job) {
        if !matches!(job.state, JobState::Failed | JobState::Cancelled) {
            return;
        }
        let Some(history) = self.histories.get(&job.id) else { return };
        let is_reported = |kind: CallKind| {
            job.steps.iter().any(|step| {
                step.name == StepName::Call(kind) && step.state == JobStepState::Succeeded
            })
        };
        let unreported: Vec<CallKind> = history
            .effects
            .iter()
            .map(|(kind, _)| *kind)
            .filter(|kind| !is_reported(*kind))
            .collect();
        // A host that forgot its tasks may still perform an operation, invisibly and long after the
        // machine seemed settled.
        let is_unobservable = history.evidence_lost
            && (history.changed_by_others || history.tasks_forgotten_since && history.task_unknown);
        self.require(unreported.is_empty() || is_unobservable, || {
            let why = job.error.as_ref().map_or("", |error| error.detail.as_str());
            format!(
                "{} is {} and did {unreported:?} all the same: {why}",
                job.id,
                job.state.as_str()
            )
        });
    }
}

/// Whether a call of this kind must not be sent again after a lost answer.
const fn is_sent_once(kind: CallKind) -> bool {
    matches!(
        kind,
        CallKind::Reset
            | CallKind::ShutdownGuest
            | CallKind::RebootGuest
            | CallKind::CreateSnapshot
    )
}
