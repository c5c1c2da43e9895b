//! The desk of leases on stepped time: steps of the real book, one after the other, each committed before it is shown;
//! and the prepare and release jobs, as `service::leases::work` starts them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;

use super::disk::{Disk, LeaseStep, Write, scope};
use super::{Event, Simulation, Waits};
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::job::{JobRequest, TargetId};
use crate::domain::lease::{Lease, LeaseState};
use crate::domain::machine::MachineIdentity;
use crate::domain::pool::{Pool, Pools};
use crate::sabotage::{Mistake, Sabotage};
use crate::service::inventory::MachineRecord;
use crate::service::jobs::Started;
use crate::service::jobs::gate::Pass;
use crate::service::leases::book::{Book, Changes, Input, LeaseRules, MachineKey, Now, Then};
use crate::service::leases::desk::{AGAIN, granted};
use crate::service::leases::fit::{Candidate, wants};
use crate::service::leases::holds::{Holds, Taking};
use crate::service::leases::stepped::Stepped;
use crate::service::leases::work;
use crate::service::machines::own_reasons;
use crate::storage::IdempotencyKey;

const CHECKPOINT: Duration = Duration::from_secs(10);

/// The desk in one life of the daemon.
#[derive(Default)]
pub struct Desk {
    pub holds: Arc<Holds>,
    pub book: Book,
    todo: VecDeque<Todo>,
    /// What is being committed; nothing else happens meanwhile.
    pending: Option<Pending>,
    checkpoint_at: Duration,
    /// The skew of the wall clock by which the leases show their ends.
    skew: SignedDuration,
    /// Until when nothing that is due is tried, after the store refused it.
    rests_until: Duration,
}

/// A step that is to be taken.
enum Todo {
    /// And which client asked.
    Order(Box<Stepped>, Option<usize>),
    Machines,
    Look,
    Tick,
    ClockJumped,
}

impl Todo {
    /// The lease that is asked for with a key, and by whom.
    fn keyed(&self) -> Option<(LeaseId, &IdempotencyKey, usize)> {
        let Self::Order(step, Some(client)) = self else { return None };
        let Stepped::Ask { lease, key: Some(key), .. } = &**step else { return None };
        Some((lease.id, key, *client))
    }
}

struct Pending {
    next: Book,
    changes: Changes,
    todo: Todo,
    _taking: Option<Taking>,
}

/// How far the job of a lease is.
#[derive(Debug)]
pub enum Stage {
    EndJobs,
    Begin,
    /// Its key was looked up.
    Start(Arc<Lease>, Arc<MachineRecord>, Box<JobRequest>),
    Await(JobId),
    /// A step that must not be lost.
    Insist(Box<Stepped>),
}

impl Desk {
    pub fn restored<W: Clone>(disk: &Disk<W>, sabotage: Sabotage, skew: SignedDuration, now: Now) -> Self {
        let rules = LeaseRules { sabotage, ..LeaseRules::default() };
        let book = Book::restored(rules, disk.open_leases(), disk.machines.clone(), disk.last_seen, now);
        let holds = Arc::new(Holds::default());
        holds.show(book.clone());
        let mut todo = VecDeque::new();
        if disk.last_seen.is_some_and(|seen| now.wall < seen) {
            todo.push_back(Todo::ClockJumped);
        }
        Self { holds, book, todo, checkpoint_at: now.elapsed + CHECKPOINT, skew, ..Self::default() }
    }

    pub fn is_idle(&self) -> bool {
        self.book.open().next().is_none() && self.pending.is_none() && self.todo.is_empty()
    }

    /// When time has something to do.
    pub fn next_at(&self) -> Option<Duration> {
        self.book.open().next().filter(|_| self.pending.is_none())?;
        let due = self.book.due().map_or(self.checkpoint_at, |due| due.min(self.checkpoint_at));
        Some(due.max(self.rests_until))
    }
}

impl Simulation {
    pub fn lease_now(&self) -> Now {
        Now { wall: self.wall(), elapsed: self.now }
    }

    /// The wall clock jumps to some time within hours of the right one, and those who sleep by it find out.
    pub fn jump(&mut self) {
        let seconds = i64::try_from(self.random.below(7_200)).unwrap_or_default();
        let sign = if self.random.percent(50) { 1 } else { -1 };
        self.skew = SignedDuration::from_secs(sign * seconds);
        let Some(otter) = &self.otter else { return };
        for (job, entry) in &otter.entries {
            let (life, job, at) = (otter.life, *job, self.now + Duration::from_secs(30));
            let machine = entry.live.job.machine_id().unwrap().clone();
            let event = match entry.run {
                Some(_) => Event::Alarm { life, job, grace: false },
                None => Event::Expire { life, job, machine },
            };
            self.agenda.plan(at, event);
        }
    }

    /// What may be granted has perhaps changed.
    pub fn changed(&mut self) {
        if let Some(otter) = &mut self.otter
            && !otter.desk.todo.iter().any(|todo| matches!(todo, Todo::Look))
        {
            otter.desk.todo.extend([Todo::Machines, Todo::Look]);
        }
    }

    pub fn time_passed(&mut self) {
        let (now, wall) = (self.now, self.wall());
        let Some(otter) = &mut self.otter else { return };
        otter.planned.desk = false;
        if now >= otter.desk.checkpoint_at {
            otter.desk.checkpoint_at = now + CHECKPOINT;
            if otter.desk.skew != self.skew {
                otter.desk.skew = self.skew;
                otter.desk.todo.push_back(Todo::ClockJumped);
            }
            self.disk.seen(wall);
        }
        otter.desk.todo.extend([Todo::Tick, Todo::Machines, Todo::Look]);
    }

    /// Takes whatever steps may be taken.
    pub fn desk_turns(&mut self) {
        while let Some(otter) = self.otter.as_mut().filter(|otter| otter.desk.pending.is_none()) {
            let Some(todo) = otter.desk.todo.pop_front() else { return };
            self.take_step(todo);
        }
    }

    /// As the desk's step: tried on a copy, committed, shown.
    fn take_step(&mut self, todo: Todo) {
        let now = self.lease_now();
        let mut candidates = self.candidates(&todo);
        let Some(otter) = &mut self.otter else { return };
        if let Todo::Order(step, _) = &todo
            && let Stepped::Asked(id) = **step
        {
            return otter.desk.book.asked(id, now);
        }
        if let Some((lease, key, client)) = todo.keyed()
            && let Some((fingerprint, first)) = self.disk.lease_keys.get(&scope(key)).copied()
        {
            let first = (fingerprint == key.fingerprint).then_some(first);
            self.tenancy.repeated += usize::from(first.is_some());
            return self.hears(client, lease, Some(key), first);
        }
        let reading = otter.connected && otter.picture.loaded;
        if matches!(todo, Todo::Machines | Todo::Look) && !reading {
            return;
        }
        let there: Vec<MachineIdentity> =
            otter.picture.machines.iter().map(|record| record.machine.identity()).collect();
        let (next, changes, taking) = loop {
            let mut next = otter.desk.book.clone();
            let input = match &todo {
                Todo::Order(step, _) => match &**step {
                    Stepped::Ask { lease, .. } => Input::Ask(lease.clone(), &candidates),
                    step => step.input(),
                },
                Todo::Machines => Input::Machines(&there),
                Todo::Look => Input::Look(&candidates),
                Todo::Tick => Input::Tick,
                Todo::ClockJumped => Input::ClockJumped,
            };
            let Ok(changes) = next.step(input, now) else {
                return self.not_taken(&todo);
            };
            let grants = granted(&otter.desk.book, &changes);
            let taking = otter.desk.holds.take(&grants);
            let busy: Vec<MachineId> = grants
                .into_iter()
                .filter(|machine| otter.queues.has_any(&TargetId::Machine((*machine).clone())))
                .collect();
            if busy.is_empty() {
                break (next, changes, taking);
            }
            for candidate in &mut candidates {
                candidate.free &= !busy.contains(&candidate.identity.id);
            }
        };
        let grants = !granted(&otter.desk.book, &changes).is_empty();
        let pending = Pending { next, changes: changes.clone(), todo, _taking: Some(taking) };
        if changes.leases.is_empty() && changes.machines.is_empty() {
            return self.shown(pending);
        }
        let at = self.now;
        let key = pending.todo.keyed().map(|(lease, key, _)| (key.clone(), lease));
        let step = Box::new(LeaseStep { changes, at, candidates, key });
        if grants && self.sabotage.makes(Mistake::GrantOutsideTransaction) {
            self.write(Write::Leases { step, waits: Waits::Nobody });
            return self.shown(pending);
        }
        otter.desk.pending = Some(pending);
        self.write(Write::Leases { step, waits: Waits::Desk });
    }

    pub fn step_committed(&mut self) {
        if let Some(pending) = self.otter.as_mut().and_then(|otter| otter.desk.pending.take()) {
            self.shown(pending);
        }
    }

    /// The store refused the step: nothing of it has happened.
    pub fn step_refused(&mut self) {
        let now = self.now;
        let Some(otter) = &mut self.otter else { return };
        let Some(Pending { todo, .. }) = otter.desk.pending.take() else { return };
        match todo {
            Todo::Tick => otter.desk.rests_until = now + AGAIN,
            Todo::Machines => {
                // What became of a job is not told either where it is not known which machines are gone.
                let ended = |next: &Todo| {
                    matches!(next, Todo::Order(step, _)
                        if matches!(**step, Stepped::Prepared(..) | Stepped::Freed(..)))
                };
                if otter.desk.todo.front().is_some_and(ended)
                    && let Some(order) = otter.desk.todo.pop_front()
                {
                    self.not_taken(&order);
                }
            }
            order => self.not_taken(&order),
        }
    }

    /// Whoever gave the order hears that nothing came of it. What must not be lost is tried again.
    fn not_taken(&mut self, todo: &Todo) {
        let Todo::Order(step, client) = todo else { return };
        match (&**step, client) {
            (Stepped::Ask { lease, key, .. }, Some(client)) => {
                self.hears(*client, lease.id, key.as_ref(), None);
            }
            (Stepped::Working(id, state, _), _) => self.insist(*id, *state, step),
            (Stepped::Prepared(id, _), _) => self.insist(*id, LeaseState::Preparing, step),
            (Stepped::Freed(id, _), _) => self.insist(*id, LeaseState::Releasing, step),
            _ => {}
        }
    }

    fn insist(&mut self, id: LeaseId, state: LeaseState, step: &Stepped) {
        self.plan_lease(id, state, Stage::Insist(Box::new(step.clone())), AGAIN);
    }

    fn shown(&mut self, pending: Pending) {
        let Pending { next, changes, todo, _taking: taking } = pending;
        let Some(otter) = &mut self.otter else { return };
        otter.desk.book = next;
        otter.desk.holds.show(otter.desk.book.clone());
        drop(taking);
        self.tenancy.shown(&changes);
        if let Todo::Order(step, client) = &todo {
            if step.may_free_a_machine() {
                otter.desk.todo.push_front(Todo::Look);
                otter.desk.todo.push_front(Todo::Machines);
            }
            if let (Stepped::Ask { lease, key, .. }, Some(client)) = (&**step, client) {
                self.hears(*client, lease.id, key.as_ref(), Some(lease.id));
            }
        }
        self.set_to_work(changes.then);
    }

    pub fn order(&mut self, step: Stepped, client: Option<usize>) {
        if let Some(otter) = &mut self.otter {
            otter.desk.todo.push_back(Todo::Order(Box::new(step), client));
        }
    }

    pub fn set_to_work(&mut self, then: Vec<Then>) {
        for then in then {
            match then {
                Then::Prepare(id) => self.plan_lease(id, LeaseState::Preparing, Stage::Begin, Duration::ZERO),
                Then::Release(id) => {
                    self.plan_lease(id, LeaseState::Releasing, Stage::EndJobs, Duration::ZERO);
                }
                Then::Warn(_) => {}
            }
        }
    }

    fn plan_lease(&mut self, id: LeaseId, state: LeaseState, next: Stage, after: Duration) {
        self.agenda.plan(self.now + after, Event::Lease(self.lives, id, state, next));
    }

    /// The next thing that a lease's preparation or release does.
    pub fn lease_goes_on(&mut self, id: LeaseId, state: LeaseState, next: Stage) {
        let soon = self.random.latency();
        let Some(otter) = &self.otter else { return };
        match next {
            Stage::EndJobs => {
                let of_it = otter.entries.iter().filter(|(_, entry)| entry.live.job.lease == Some(id));
                let jobs: Vec<JobId> = of_it.map(|(job, _)| *job).collect();
                if jobs.is_empty() {
                    return self.lease_goes_on(id, state, Stage::Begin);
                }
                for job in jobs {
                    self.cancel(job);
                }
                self.plan_lease(id, state, Stage::EndJobs, Duration::from_millis(500));
            }
            Stage::Begin => {
                let Some(open) = otter.desk.holds.shown().book.get(id).cloned() else { return };
                let lease = open.lease;
                if lease.state != state {
                    return;
                }
                let record = lease.machine.as_ref().and_then(|held| otter.picture.machine(&held.id)).cloned();
                let Some(record) = record else { return self.plan_lease(id, state, Stage::Begin, AGAIN) };
                match work::request(&lease, &record.machine, state) {
                    Ok(request) => {
                        self.plan_lease(id, state, Stage::Start(lease, record, Box::new(request)), soon);
                    }
                    Err(failure) => self.lease_job_ended(id, state, Err(failure)),
                }
            }
            Stage::Start(lease, record, request) => {
                let key = Some(work::key(&lease, state, self.wall()));
                let machine = record.machine.id.clone();
                let pass = Pass::Own(id, state);
                let (request, record) = (*request, Some(record));
                self.post(super::clients::Post {
                    client: 0,
                    machine,
                    request,
                    deadline: None,
                    key,
                    pass,
                    override_reason: None,
                    record,
                });
            }
            Stage::Insist(step) => {
                if matches!(*step, Stepped::Prepared(..) | Stepped::Freed(..)) {
                    return self.job_ended(*step);
                }
                self.order(*step, None);
            }
            Stage::Await(job) => {
                let open = otter.desk.holds.shown().book.get(id).cloned();
                if open.is_some_and(|open| open.lease.state == state && open.lease.job != Some(job)) {
                    // It does not know its job yet.
                    return self.plan_lease(id, state, Stage::Await(job), Duration::from_millis(500));
                }
                let shown = otter.shown(job).is_some_and(|job| !job.state.is_end());
                let outcome = self.disk.job(job).and_then(work::outcome).filter(|_| !shown);
                match outcome {
                    Some(outcome) => self.lease_job_ended(id, state, outcome),
                    None => self.plan_lease(id, state, Stage::Await(job), Duration::from_millis(500)),
                }
            }
        }
    }

    pub fn lease_job_started(&mut self, id: LeaseId, state: LeaseState, started: Option<Started>) {
        match started {
            Some(started) => {
                let (job, _) = started.parts();
                self.order(Stepped::Working(id, state, job), None);
                self.plan_lease(id, state, Stage::Await(job), Duration::ZERO);
            }
            None => self.plan_lease(id, state, Stage::Begin, AGAIN),
        }
    }

    fn lease_job_ended(
        &mut self,
        id: LeaseId,
        state: LeaseState,
        outcome: Result<(), crate::domain::failure::Failure>,
    ) {
        let step = match state {
            LeaseState::Preparing => Stepped::Prepared(id, outcome),
            _ => Stepped::Freed(id, outcome),
        };
        self.job_ended(step);
    }

    fn job_ended(&mut self, step: Stepped) {
        // A machine that is gone by then fails no preparation.
        if let Some(otter) = &mut self.otter {
            otter.desk.todo.push_back(Todo::Machines);
        }
        self.order(step, None);
    }

    fn candidates(&self, todo: &Todo) -> Vec<Candidate> {
        let Some(otter) = &self.otter else { return Vec::new() };
        let asks = match todo {
            Todo::Order(step, _) => match &**step {
                Stepped::Ask { lease, .. } => Some(&**lease),
                _ => None,
            },
            _ => None,
        };
        let wanted = otter.desk.book.open().map(|open| &*open.lease).chain(asks).flat_map(wants).collect();
        let candidates = otter.picture.machines.iter().map(|record| {
            let machine = &record.machine;
            let busy = otter.queues.active(&TargetId::Machine(machine.id.clone())).is_some();
            let free = otter.connected && !busy && own_reasons(machine).iter().all(|(_, holds)| !holds);
            Candidate::of(machine, pools().of(machine), free, machine.template, &wanted)
        });
        candidates.collect()
    }

    /// In the end every machine is free, or says itself why not, or is set aside.
    pub fn check_machines(&mut self) {
        let Some(otter) = &self.otter else { return };
        for record in &otter.picture.machines {
            let key = MachineKey::of(&record.machine.identity());
            let lost = otter.desk.holds.shown().holder_of(&record.machine.identity()).is_some()
                || otter.queues.has_any(&TargetId::Machine(record.machine.id.clone()));
            if lost {
                self.promises.break_promise(format!("{key:?} is neither free nor held nor set aside"));
            }
        }
    }
}

/// Machines that were renamed are in none.
fn pools() -> Pools {
    let pool = Pool { machines: vec!["machine-*".to_owned()], ..Pool::default() };
    Pools([("ci".to_owned(), pool)].into())
}

pub fn brief(changes: &Changes) -> String {
    let leases = changes.leases.values().map(|lease| {
        format!(
            "lease {} is {} ({:?}, fence {:?})",
            lease.id,
            lease.state.as_str(),
            lease.machine.as_ref().map(|machine| machine.id.backend_text()),
            lease.fence
        )
    });
    leases.chain(changes.machines.iter().map(|kept| format!("{kept:?}"))).collect::<Vec<_>>().join(", ")
}
