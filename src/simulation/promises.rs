//! The promises as invariants. It is told whatever happens, knows what really happened, and says what was broken.
//!
//! ```text
//! commits, calls, answers, what is shown ──►  History of each job  ◄── deeds: what the host really did
//! ```
//! The first broken promise ends the run.

use std::collections::BTreeMap;

use super::disk::{Disk, Scope};
use super::history::{History, wanted_power};
use crate::domain::call::{CallKind, HostCall};
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobKind, JobState, StepState};
use crate::domain::power::PowerState;
use crate::hypervisor::HostErrorKind;
use crate::service::jobs::judgement::MAX_ASKS;
use crate::service::jobs::queue::{Lane, lane};

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

    /// A job was made; it is not on disk yet.
    pub fn made(&mut self, job: &Job) {
        self.histories.insert(job.id, History::of(job));
    }

    /// It is on disk.
    pub fn inserted(&mut self, job: &Job) {
        if let Some(history) = self.histories.get_mut(&job.id) {
            history.committed = true;
        }
    }

    /// A caller was told that this job was accepted.
    pub fn answered<W: Clone>(&mut self, key: Option<Scope>, job: JobId, disk: &Disk<W>) {
        self.require(disk.job(job).is_some(), || format!("job {job} was accepted and is not on disk"));
        if let Some(scope) = key {
            let first = *self.keys.entry(scope.clone()).or_insert(job);
            self.require(first == job, || format!("the key {} gave {first} and then {job}", scope.3));
        }
    }

    /// Its turn has come, and is to be committed.
    pub fn turn<W: Clone>(&mut self, job: JobId, disk: &Disk<W>) {
        if let Some(history) = self.histories.get_mut(&job) {
            history.arrived_at_turn = disk.jobs.len() as u64;
        }
    }

    pub fn withdrawn(&mut self, job: JobId) {
        if let Some(history) = self.histories.get_mut(&job) {
            history.withdrawn = true;
        }
    }

    /// Its deadline passed, whatever the wall clock says later.
    pub fn deadline_told(&mut self, job: JobId) {
        if let Some(history) = self.histories.get_mut(&job) {
            history.overdue = true;
        }
    }

    pub fn cancel_asked(&mut self, job: JobId) {
        if let Some(history) = self.histories.get_mut(&job) {
            history.cancel_asked = true;
        }
    }

    /// What is on disk has changed.
    pub fn updated<W: Clone>(&mut self, before: &Job, job: &Job, power: Option<PowerState>, disk: &Disk<W>) {
        self.require(!before.state.is_end(), || format!("the end of {} was written over", job.id));
        if before.state == JobState::Queued && job.state == JobState::Running {
            self.check_order(job, disk);
            let runs = |other: &&Job| {
                other.machine_id().unwrap() == job.machine_id().unwrap() && other.state == JobState::Running
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
            self.require(!alive || strangers, || format!("{} killed its machine, and it is on", job.id));
            self.check_end(job);
            if let Some(history) = self.histories.get_mut(&job.id) {
                history.end = Some(job.clone());
            }
        }
    }

    /// One job at a time on a machine, in order of arrival; a kill passes all, an answer those that are no answers.
    fn check_order<W: Clone>(&mut self, job: &Job, disk: &Disk<W>) {
        let own = lane(job.kind());
        let arrival = disk.arrival(job.id);
        let arrived_at_turn = self.histories.get(&job.id).map_or(0, |history| history.arrived_at_turn);
        let mut wrong = None;
        for (place, other) in &disk.jobs {
            if other.id == job.id
                || other.machine_id().unwrap() != job.machine_id().unwrap()
                || other.state.is_end()
            {
                continue;
            }
            let theirs = lane(other.kind());
            let withdrawn = self.histories.get(&other.id).is_some_and(|history| history.withdrawn);
            let runs = other.state == JobState::Running;
            let same =
                theirs == own && (runs || arrival.is_some_and(|arrival| *place < arrival) && !withdrawn);
            let in_time = *place < arrived_at_turn;
            let kill_first = own == Lane::Ordinary && theirs == Lane::Kill && !withdrawn && in_time;
            if same || kill_first {
                wrong = Some(format!(
                    "{} began although {} was {} before it",
                    job.id,
                    other.id,
                    other.state.as_str()
                ));
            }
        }
        if let Some(wrong) = wrong {
            self.break_promise(wrong);
        }
    }

    /// A call leaves otter.
    pub fn sent<W: Clone>(&mut self, id: JobId, call: &HostCall, disk: &Disk<W>) {
        let committed = disk.job(id);
        let intent = committed.and_then(|job| job.intent.as_ref()).map(|intent| &intent.call);
        let right = intent == Some(call) && committed.is_some_and(|job| job.state == JobState::Running);
        self.require(right, || format!("{id}: {:?} was called without a committed intent", call.kind()));
        let Some(history) = self.histories.get_mut(&id) else { return };
        let kind = call.kind();
        let before = history.unproven.iter().filter(|sent| **sent == kind).count();
        let once = matches!(
            kind,
            CallKind::Reset | CallKind::ShutdownGuest | CallKind::RebootGuest | CallKind::CreateSnapshot
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
            for history in self.histories.values_mut().filter(|history| history.machine == machine) {
                history.strangers = true;
            }
        }
        match task {
            Some(task) => {
                self.tasks.insert(task.to_owned(), (id, call.kind()));
            }
            None if call.kind().is_of_guest() => {}
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

    pub fn refused(&mut self, id: JobId, _: HostErrorKind) {
        self.proven(id);
    }

    /// The answer to its call was lost.
    pub fn lost(&mut self, id: JobId) {
        if let Some(history) = self.histories.get_mut(&id) {
            history.lost = true;
            history.unseen = true;
        }
    }

    /// Its task vanished.
    pub fn vanished(&mut self, id: JobId) {
        if let Some(history) = self.histories.get_mut(&id) {
            history.lost = true;
        }
    }

    /// The daemon died: what it knew of calls that were committed is lost.
    pub fn crashed<W: Clone>(&mut self, disk: &Disk<W>) {
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
        for history in self.histories.values_mut().filter(|history| history.started && history.end.is_none())
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
            if history.machine == machine && history.started && !history.seen_end && by != Some(*id) {
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

    /// A reader was shown the job. `told`: up to which revision of the host the picture shows its machine, and `power` as
    /// what.
    pub fn shown<W: Clone>(&mut self, job: &Job, told: u64, power: Option<PowerState>, disk: &Disk<W>) {
        let id = job.id;
        let Some(history) = self.histories.get_mut(&id) else { return };
        let seen_before = history.seen_end;
        let end = history.end.clone();
        history.seen_end |= job.state.is_end();
        let others = history.others;
        let unseen: Vec<CallKind> =
            history.deeds.iter().filter(|(_, revision)| *revision > told).map(|(call, _)| *call).collect();
        if !job.state.is_end() {
            self.require(!seen_before, || format!("the end of {id} was taken back"));
            let kept = job.cancel_requested_at.is_none()
                || disk.job(id).is_some_and(|job| job.cancel_requested_at.is_some());
            self.require(kept, || {
                format!("{id} was shown as asked to be cancelled, which a crash would forget")
            });
            return;
        }
        self.require(disk.job(id) == Some(job) && end.as_ref() == Some(job), || {
            format!("{id} was shown as {}, which is not what is on disk", job.state.as_str())
        });
        if !seen_before && job.state == JobState::Succeeded && job.warnings.is_empty() {
            self.require(unseen.is_empty(), || {
                format!("the end of {id} was seen before the picture showed what it did: {unseen:?}")
            });
            // None: there is no picture yet after a restart.
            let wanted = wanted_power(&job.request).filter(|_| !others && power.is_some());
            self.require(wanted.is_none_or(|wanted| Some(wanted) == power), || {
                format!("{id} ({}) succeeded, and its machine is shown as {power:?}", job.kind().as_str())
            });
        }
    }

    /// Every accepted job is there, and every end as it was.
    pub fn sweep<W: Clone>(&mut self, disk: &Disk<W>) {
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
        self.require(!killed, || format!("{id} powered its machine on after a kill beside it had succeeded"));
        self.require(!once || times <= 1, || format!("{id}: {call:?} was done {times} times"));
        if let Some(job) = end {
            self.check_untold(&job);
        }
    }

    /// Whether a kill of this machine succeeded while this job ran.
    fn killed_beside(&self, machine: &str, job: JobId) -> bool {
        let beside = |history: &History| {
            let succeeded = history.end.as_ref().is_some_and(|end| end.state == JobState::Succeeded);
            history.kind == JobKind::MachineKill && history.machine == machine && succeeded
        };
        self.histories
            .values()
            .any(|history| beside(history) && history.beside.contains(&job) && !history.strangers)
    }

    /// Success is true; failure and cancellation too; unknown only where the table allows it.
    fn check_end(&mut self, job: &Job) {
        let Some(history) = self.histories.get(&job.id) else { return };
        let id = job.id;
        let kind = history.kind;
        let overdue = history.overdue || job.finished_at.is_some_and(|finished| finished >= job.deadline_at);
        let tidy = job.intent.is_none()
            && job.finished_at.is_some()
            && job.steps.iter().all(|step| step.state != StepState::Running)
            && job.error.is_none() == (job.state == JobState::Succeeded);
        match job.state {
            JobState::Succeeded => {
                let truth = history.bears_out(job);
                self.require(truth, || format!("{id} ({}) succeeded, and that is not true", kind.as_str()));
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
            job.steps.iter().any(|step| step.name == kind.as_str() && step.state == StepState::Succeeded)
        };
        let untold: Vec<CallKind> =
            history.deeds.iter().map(|(kind, _)| *kind).filter(|kind| !told(*kind)).collect();
        // A host that forgot its tasks may be at it with nothing to see, long after the machine seemed settled.
        let blind = history.lost && (history.others || history.forgotten && history.unseen);
        self.require(untold.is_empty() || blind, || {
            let why = job.error.as_ref().map_or("", |error| error.detail.as_str());
            format!("{} is {} and did {untold:?} all the same: {why}", job.id, job.state.as_str())
        });
    }
}
