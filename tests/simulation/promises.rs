//! The promises about jobs as invariants. It is told whatever happens, knows what really happened,
//! and says what was broken.
//!
//! ```text
//! commits, calls, answers, what is shown ──►  History of each job  ◄── deeds: what the host really did
//! ```
//! The first broken promise ends the run.

use std::collections::BTreeMap;
use std::time::Duration;

use otter::domain::call::{CallKind, HostCall};
use otter::domain::ids::{JobId, TaskId};
use otter::domain::job::{Job, JobKind, JobState, JobStepState};
use otter::domain::lease::LeaseState;
use otter::domain::power::PowerState;
use otter::hypervisor::TaskStatus;
use otter::service::jobs::judgement::MAX_ASKS;
use otter::service::jobs::queue::{Lane, lane};

use super::committed::{Committed, Scope};
use super::history::{History, wanted_power};

#[derive(Debug, Default)]
pub struct Promises {
    pub broken: Option<String>,
    histories: BTreeMap<JobId, History>,
    keys: BTreeMap<Scope, JobId>,
    /// Which job had each task begun; none: somebody else.
    tasks: BTreeMap<String, (JobId, CallKind)>,
    /// How many jobs ended as unknown.
    pub unknowns: usize,
    /// The machines that anything changed since this was last taken.
    pub touched: Vec<String>,
    /// How much has happened.
    count: u64,
}

impl Promises {
    pub fn break_promise(&mut self, what: impl Into<String>) {
        self.broken.get_or_insert(what.into());
    }

    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// Another thing happens. Gives its number, which grows.
    pub fn count(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// The storage was asked to insert a job.
    pub fn asked(&mut self, job: &Job, now: Duration) {
        self.histories.insert(job.id, History::new(job, now));
    }

    /// It is committed.
    pub fn inserted(&mut self, job: &Job) {
        if let Some(history) = self.histories.get_mut(&job.id) {
            history.committed = true;
        }
    }

    /// otter hears that it is committed.
    pub fn accepted(&mut self, job: JobId, now: Duration) {
        if let Some(history) = self.histories.get_mut(&job) {
            history.accepted_at.get_or_insert(now);
        }
    }

    /// A caller was told that this job was accepted.
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

    /// The storage was asked to save what a job has become.
    pub fn saving(&mut self, job: &Job, now: Duration) {
        if let Some(history) =
            self.histories.get_mut(&job.id).filter(|_| job.state == JobState::Running)
        {
            history.turn_at.get_or_insert(now);
        }
    }

    /// A caller asks to cancel a job.
    pub fn cancel_asked(&mut self, job: JobId) {
        if let Some(history) = self.histories.get_mut(&job) {
            history.cancel_asked = true;
        }
    }

    /// Whether somebody may have asked to cancel a job: a caller, a kill, or the end of its lease.
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

    /// What is on disk has changed.
    pub fn updated(
        &mut self,
        before: &Job,
        job: &Job,
        power: Option<PowerState>,
        now: Duration,
        disk: &Committed,
    ) {
        self.require(!before.state.is_end(), || format!("the end of {} was written over", job.id));
        if before.state == JobState::Queued && job.state == JobState::Running {
            self.check_order(job, now, disk);
            let runs = |other: &&Job| {
                other.target.id() == job.target.id() && other.state == JobState::Running
            };
            let beside = disk.jobs.values().filter(runs).map(|other| other.id).collect();
            if let Some(history) = self.histories.get_mut(&job.id) {
                history.beside = beside;
                history.started = true;
                history.powers.extend(power);
            }
        }
        if let (Some(history), Some(intent)) = (self.histories.get_mut(&job.id), &job.intent) {
            history.asked = history.asked.max(intent.asked);
        }
        if job.state.is_end() {
            let strangers = self.histories.get(&job.id).is_some_and(|history| history.strangers);
            let alive = job.kind() == JobKind::MachineKill
                && job.state == JobState::Succeeded
                && power == Some(PowerState::On);
            self.require(!alive || strangers, || {
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
            }
        }
    }

    /// One job at a time on a machine, in order of arrival; a kill passes all, an answer those that
    /// are no answers. Of two that come at the same time either may be the first.
    fn check_order(&mut self, job: &Job, now: Duration, disk: &Committed) {
        let Some(history) = self.histories.get(&job.id) else { return };
        let own = lane(job.kind());
        let (asked_at, turn_at) = (history.asked_at, history.turn_at.unwrap_or(now));
        let mut wrong = None;
        for other in disk.jobs.values() {
            if other.id == job.id || other.target.id() != job.target.id() || other.state.is_end() {
                continue;
            }
            let Some(theirs) = self.histories.get(&other.id) else { continue };
            let withdrawn = theirs.may_be_overdue(now) || self.is_cancelled(other, disk);
            let waits_since =
                |time: Duration| theirs.accepted_at.is_some_and(|at| at < time) && !withdrawn;
            let runs = other.state == JobState::Running;
            let lane = lane(other.kind());
            let same = lane == own && (runs || waits_since(asked_at));
            let kill_first =
                own == Lane::Ordinary && lane == Lane::Kill && (runs || waits_since(turn_at));
            if same || kill_first {
                let state = other.state.as_str();
                wrong =
                    Some(format!("{} began although {} was {state} before it", job.id, other.id));
            }
        }
        if let Some(wrong) = wrong {
            self.break_promise(wrong);
        }
    }

    /// A call leaves otter.
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
        let before = history.unproven.iter().filter(|sent| **sent == kind).count();
        let once = matches!(
            kind,
            CallKind::Reset
                | CallKind::ShutdownGuest
                | CallKind::RebootGuest
                | CallKind::CreateSnapshot
        );
        let most = if once { 0 } else { usize::try_from(MAX_ASKS).unwrap_or_default() - 1 };
        history.unproven.push(kind);
        history.last_call = Some(kind);
        self.require(before <= most, || {
            format!(
                "{id}: {kind:?} was sent {before} times before, and nothing proves that those did not run"
            )
        });
    }

    /// The host took the call as this task, whether otter is told or not.
    pub fn took(&mut self, id: JobId, call: &HostCall, task: Option<&str>, revision: u64) {
        let Some(history) = self.histories.get(&id) else { return };
        let machine = history.machine.clone();
        self.changed_by(&machine, Some(id));
        if call.kind() == CallKind::Answer {
            // Whatever hung on the question goes on, be it known to anybody or not.
            for history in self.histories.values_mut().filter(|history| history.machine == machine)
            {
                history.strangers = true;
            }
        }
        match task {
            Some(task) => {
                self.tasks.insert(task.to_owned(), (id, call.kind()));
            }
            None if call.kind().is_guest_operation() => {}
            None => self.did(id, call.kind(), revision),
        }
    }

    /// The job was told that its last call did not run.
    pub fn proven(&mut self, id: JobId) {
        if let Some(history) = self.histories.get_mut(&id)
            && let Some(call) = history.last_call
            && let Some(at) = history.unproven.iter().rposition(|sent| *sent == call)
        {
            history.unproven.remove(at);
        }
    }

    /// The answer to its call was lost.
    pub fn lost(&mut self, id: JobId) {
        if let Some(history) = self.histories.get_mut(&id) {
            history.lost = true;
            history.unseen = true;
        }
    }

    /// The followers of a task see this of it.
    pub fn task_told(&mut self, task: &TaskId, status: &TaskStatus) {
        let Some((job, _)) = self.tasks.get(task.backend_text()).copied() else { return };
        match status {
            TaskStatus::Running { .. } | TaskStatus::Succeeded { .. } => {}
            TaskStatus::Failed(_) => self.proven(job),
            TaskStatus::Vanished => {
                if let Some(history) = self.histories.get_mut(&job) {
                    history.lost = true;
                }
            }
        }
    }

    /// The daemon died: what it knew of calls that were committed is lost.
    pub fn crashed(&mut self, clock_jumps: bool, now: Duration, disk: &Committed) {
        for history in self.histories.values_mut().filter(|history| history.committed) {
            history.accepted_at.get_or_insert(now);
            history.due_unknown |= clock_jumps && history.end.is_none();
        }
        for job in disk.jobs.values().filter(|job| !job.state.is_end() && job.intent.is_some()) {
            if let Some(history) = self.histories.get_mut(&job.id) {
                history.lost = true;
                history.unseen = true;
            }
        }
        self.sweep(disk);
    }

    /// The host forgot its tasks.
    pub fn tasks_forgotten(&mut self) {
        for history in
            self.histories.values_mut().filter(|history| history.started && history.end.is_none())
        {
            history.lost = true;
            history.forgotten = true;
        }
    }

    /// A task did its work.
    pub fn task_done(&mut self, task: &str, machine: &str, revision: u64) {
        let ours = self.tasks.get(task).copied();
        self.changed_by(machine, ours.map(|(job, _)| job));
        if let Some((job, call)) = ours {
            self.did(job, call, revision);
        }
    }

    /// Something changed a machine: this job, another, or nobody that otter knows.
    pub fn changed_by(&mut self, machine: &str, by: Option<JobId>) {
        self.touched.push(machine.to_owned());
        for (id, history) in &mut self.histories {
            if history.machine == machine
                && history.started
                && history.end_seen_at.is_none()
                && by != Some(*id)
            {
                history.others = true;
                history.strangers |= by.is_none();
            }
        }
    }

    /// The power state of a machine is now this.
    pub fn power(&mut self, machine: &str, power: Option<PowerState>) {
        for history in self.histories.values_mut() {
            if history.machine == machine && history.started && history.end.is_none() {
                history.powers.extend(power);
            }
        }
    }

    pub fn guest_stopped(&mut self, machine: &str) {
        for history in self.histories.values_mut() {
            if history.machine == machine && history.started && history.end.is_none() {
                history.guest_stopped = true;
            }
        }
    }

    /// A reader who began to read at `begun` was shown the job. `told`: up to which revision of the
    /// host the picture shows its machine, and `power` as what.
    pub fn shown(
        &mut self,
        job: &Job,
        begun: u64,
        told: u64,
        power: Option<PowerState>,
        disk: &Committed,
    ) {
        let id = job.id;
        let count = self.count();
        let Some(history) = self.histories.get_mut(&id) else { return };
        let seen_before = history.end_seen_at;
        let end = history.end.clone();
        let others = history.others;
        let unseen: Vec<CallKind> = history
            .deeds
            .iter()
            .filter(|(_, revision)| *revision > told)
            .map(|(call, _)| *call)
            .collect();
        if !job.state.is_end() {
            let taken_back = seen_before.is_some_and(|seen| seen < begun);
            self.require(!taken_back, || format!("the end of {id} was taken back"));
            let kept = job.cancel_requested_at.is_none()
                || disk.job(id).is_some_and(|job| job.cancel_requested_at.is_some());
            self.require(kept, || {
                format!("{id} was shown as asked to be cancelled, which a crash would forget")
            });
            return;
        }
        history.end_seen_at.get_or_insert(count);
        self.require(disk.job(id) == Some(job) && end.as_ref() == Some(job), || {
            format!("{id} was shown as {}, which is not what is on disk", job.state.as_str())
        });
        if seen_before.is_none() && job.state == JobState::Succeeded && job.warnings.is_empty() {
            self.require(unseen.is_empty(), || {
                format!(
                    "the end of {id} was seen before the picture showed what it did: {unseen:?}"
                )
            });
            // None: there is no picture yet after a restart.
            let wanted = wanted_power(&job.request).filter(|_| !others && power.is_some());
            self.require(wanted.is_none_or(|wanted| Some(wanted) == power), || {
                format!(
                    "{id} ({}) succeeded, and its machine is shown as {power:?}",
                    job.kind().as_str()
                )
            });
        }
    }

    /// Every accepted job is there, and every end as it was.
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
            self.break_promise(wrong);
        }
    }

    fn did(&mut self, id: JobId, call: CallKind, revision: u64) {
        let Some(history) = self.histories.get_mut(&id) else { return };
        history.deeds.push((call, revision));
        let times = history.deeds.iter().filter(|(kind, _)| *kind == call).count();
        let once = matches!(call, CallKind::Reset | CallKind::CreateSnapshot);
        let end = history.end.clone();
        let machine = history.machine.clone();
        // What a host has forgotten and goes on with, nobody can see, kill or wait for.
        let visible = call == CallKind::PowerOn && !history.forgotten;
        let killed = visible && self.killed_beside(&machine, id);
        self.require(!killed, || {
            format!("{id} powered its machine on after a kill beside it had succeeded")
        });
        self.require(!once || times <= 1, || format!("{id}: {call:?} was done {times} times"));
        if let Some(job) = end {
            self.check_untold(&job);
        }
    }

    /// Whether a kill of this machine succeeded while this job ran.
    fn killed_beside(&self, machine: &str, job: JobId) -> bool {
        let beside = |history: &History| {
            let succeeded =
                history.end.as_ref().is_some_and(|end| end.state == JobState::Succeeded);
            history.kind == JobKind::MachineKill && history.machine == machine && succeeded
        };
        self.histories
            .values()
            .any(|history| beside(history) && history.beside.contains(&job) && !history.strangers)
    }

    /// Success is true; failure and cancellation too; unknown only where the table allows it.
    fn check_end(&mut self, job: &Job, now: Duration) {
        let Some(history) = self.histories.get(&job.id) else { return };
        let id = job.id;
        let kind = history.kind;
        let overdue = history.may_be_overdue(now)
            || job.finished_at.is_some_and(|finished| finished >= job.deadline_at);
        let tidy = job.intent.is_none()
            && job.finished_at.is_some()
            && job.steps.iter().all(|step| step.state != JobStepState::Running)
            && job.error.is_none() == (job.state == JobState::Succeeded);
        match job.state {
            JobState::Succeeded => {
                let truth = history.bears_out(job);
                self.require(truth, || {
                    format!("{id} ({}) succeeded, and that is not true", kind.as_str())
                });
            }
            JobState::Cancelled => {
                let asked = history.cancel_asked;
                self.require(asked, || format!("{id} was cancelled, and nobody asked for that"));
            }
            JobState::Unknown => {
                let allowed = overdue || history.may_be_unknown(job);
                self.unknowns += 1;
                self.require(allowed, || {
                    let why = job.error.as_ref().map_or("", |error| error.detail.as_str());
                    format!("{id} ({}) is unknown without need: {why}", kind.as_str())
                });
            }
            _ => {}
        }
        self.require(tidy, || format!("{id} ended untidily"));
        self.check_untold(job);
    }

    /// What failed or was cancelled did nothing but what its steps say.
    fn check_untold(&mut self, job: &Job) {
        if !matches!(job.state, JobState::Failed | JobState::Cancelled) {
            return;
        }
        let Some(history) = self.histories.get(&job.id) else { return };
        let told = |kind: CallKind| {
            job.steps
                .iter()
                .any(|step| step.name == kind.as_str() && step.state == JobStepState::Succeeded)
        };
        let untold: Vec<CallKind> =
            history.deeds.iter().map(|(kind, _)| *kind).filter(|kind| !told(*kind)).collect();
        // A host that forgot its tasks may be at it with nothing to see, long after the machine
        // seemed settled.
        let blind = history.lost && (history.others || history.forgotten && history.unseen);
        self.require(untold.is_empty() || blind, || {
            let why = job.error.as_ref().map_or("", |error| error.detail.as_str());
            format!("{} is {} and did {untold:?} all the same: {why}", job.id, job.state.as_str())
        });
    }
}
