//! The callers: they start jobs with and without a key, repeat what got no answer, cancel, kill, answer, wait and read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::disk::{Write, scope};
use super::holders::Asking;
use super::{Event, Simulation, Waits};
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, LeaseId, MachineId, SnapshotId};
use crate::domain::job::{Job, JobRequest, TargetId};
use crate::domain::origin::Actor;
use crate::hypervisor::SessionState;
use crate::service::callers::Caller;
use crate::service::inventory::MachineRecord;
use crate::service::jobs::admission::{admit, bear_outage, queue_full};
use crate::service::jobs::driver::{Driver, Effect, Interrupt};
use crate::service::jobs::gate::{Gate, Pass, Right};
use crate::service::jobs::queue::lane;
use crate::service::jobs::{Deadlines, NewJob, Started};
use crate::storage::IdempotencyKey;

/// For how long jobs are accepted while the host is away.
const OUTAGE_GRACE: Duration = Duration::from_mins(1);

const DEADLINES: Deadlines = Deadlines {
    prepare: Duration::from_mins(30),
    power: Duration::from_mins(10),
    guest: Duration::from_mins(15),
    create: Duration::from_hours(1),
    revert: Duration::from_hours(1),
    remove: Duration::from_hours(24),
};

/// A call that starts a job, as a client makes it.
#[derive(Clone, Debug)]
pub struct Post {
    pub client: usize,
    pub machine: MachineId,
    pub request: JobRequest,
    pub deadline: Option<Duration>,
    pub key: Option<IdempotencyKey>,
    /// By what right; a lease's own job comes back to the lease.
    pub pass: Pass,
    pub override_reason: Option<String>,
    /// The machine as it was when the call was made.
    pub record: Option<Arc<MachineRecord>>,
}

#[derive(Debug, Default)]
pub struct Client {
    /// What it got no answer to, and repeats.
    unanswered: Option<Post>,
    /// Its last keyed call, which it may make once more.
    answered: Option<Post>,
    pub leases: Vec<LeaseId>,
    pub asking: Option<Asking>,
}

impl Simulation {
    /// A client does something, and will again.
    pub fn client_acts(&mut self, client: usize) {
        if self.quiet {
            return;
        }
        let pause = self.random.between(Duration::from_millis(50), self.temper.client_pause);
        self.agenda.plan(self.now + pause, Event::Client(client));
        let repeat = self.clients[client].unanswered.take().or_else(|| {
            let again = self.random.percent(15);
            self.clients[client].answered.clone().filter(|_| again)
        });
        if let Some(post) = repeat {
            return self.post(post);
        }
        if self.temper.leases && self.random.percent(85) {
            return self.lease_acts(client);
        }
        match self.random.below(10) {
            0 => self.cancel_some_job(),
            1 => self.read_everything(),
            2 => self.answer_some_question(client),
            _ => {
                if let Some(post) = self.some_post(client) {
                    self.post(post);
                }
            }
        }
    }

    /// The call reaches otter, or does not.
    pub fn post(&mut self, post: Post) {
        self.trace.note(self.now, || {
            let key = post.key.as_ref().map_or("no key", |key| key.key.as_str());
            format!("client {} asks for {:?} of {} ({key})", post.client, post.request.kind(), post.machine)
        });
        if self.otter.is_none() {
            return self.unanswered(post);
        }
        if let (Some(key), Some(otter)) = (&post.key, &mut self.otter) {
            let scope = scope(key);
            if let Some(waiting) = otter.claims.get_mut(&scope) {
                waiting.push_back(post);
                return;
            }
            if let Some((fingerprint, job)) = self.disk.keys.get(&scope).copied() {
                let known = if fingerprint == key.fingerprint {
                    Ok(Started::Replayed(job))
                } else {
                    Err(FailureKind::IdempotencyMismatch)
                };
                return self.answer(post, known);
            }
        }
        match self.reserve(&post) {
            Err(failure) => self.answer(post, Err(failure.kind)),
            Ok(job) => {
                if let (Some(key), Some(otter)) = (&post.key, &mut self.otter) {
                    otter.claims.insert(scope(key), VecDeque::new());
                }
                let key = post.key.clone();
                let waits = Waits::Accept(Box::new(post));
                self.write(Write::Insert { job: Box::new(job), key, waits });
            }
        }
    }

    fn reserve(&mut self, post: &Post) -> Result<Job, Failure> {
        let id = JobId::new(uuid::Uuid::from_u128(self.next_job));
        let gone = || Failure::new(FailureKind::NotFound, "no such machine");
        let wall = self.wall();
        let otter = self.otter.as_mut().ok_or_else(gone)?;
        let record = post.record.clone().or_else(|| otter.picture.machine(&post.machine).cloned());
        let record = record.ok_or_else(gone)?;
        let right = match post.pass {
            Pass::Own(lease, state) => Right::own(lease, state),
            _ => Right {
                caller: Caller::new("anonymous", Role::Admin),
                pass: post.pass.clone(),
                override_reason: post.override_reason.clone(),
            },
        };
        if !otter.connected && !right.is_own() {
            let state = SessionState::Away { reason: "cut".to_owned() };
            bear_outage(state, self.now.saturating_sub(otter.away_since), OUTAGE_GRACE)?;
        }
        let new = NewJob {
            machine: record.clone(),
            request: post.request.clone(),
            right: right.clone(),
            reference: None,
            deadline: post.deadline,
            key: post.key.clone(),
        };
        let mut job = admit(new, id, wall, &DEADLINES)?;
        let full = otter.queues.reserve(&TargetId::Machine(post.machine.clone()), id, lane(job.kind()));
        full.map_err(|full| queue_full(full, &record.machine))?;
        match otter.desk.holds.admit(&record.machine, &right) {
            Ok(admission) => job.lease = admission.lease(),
            Err(failure) => {
                otter.queues.withdraw(&TargetId::Machine(post.machine.clone()), id);
                return Err(failure);
            }
        }
        self.next_job += 1;
        otter.add(Driver::queued(job.clone(), self.rules));
        self.promises.made(&job);
        if post.pass == Pass::Nothing && post.override_reason.is_some() {
            self.tenancy.overrides.insert(id);
        }
        Ok(job)
    }

    /// The job is on disk: it may start, and its client is told.
    pub fn accepted(&mut self, job: &Job, post: Post) {
        let Some(otter) = &mut self.otter else { return };
        let machine = job.machine_id().unwrap().clone();
        otter.queues.ready(&job.target.id(), job.id);
        let left = job.deadline_at.duration_since(self.wall());
        let at = self.now + Duration::try_from(left).unwrap_or_default();
        self.agenda.plan(at, Event::Expire { life: self.lives, job: job.id, machine: machine.clone() });
        self.dispatch(&machine);
        self.released(post, Ok(Started::New(job.id)));
    }

    /// Takes back the place of a job that was not committed, and answers its call with something else.
    pub fn refused(&mut self, job: JobId, post: Post, instead: Result<Started, FailureKind>) {
        if let Some(otter) = &mut self.otter {
            otter.entries.remove(&job);
            otter.queues.withdraw(&TargetId::Machine(post.machine.clone()), job);
        }
        self.dispatch(&post.machine.clone());
        self.released(post, instead);
    }

    /// Answers a call, and lets in those that waited for it.
    fn released(&mut self, post: Post, started: Result<Started, FailureKind>) {
        let waiting = post.key.as_ref().and_then(|key| self.otter.as_mut()?.claims.remove(&scope(key)));
        self.answer(post, started);
        for next in waiting.into_iter().flatten() {
            self.post(next);
        }
    }

    fn answer(&mut self, post: Post, started: Result<Started, FailureKind>) {
        if let Pass::Own(lease, state) = post.pass {
            return self.lease_job_started(lease, state, started.ok());
        }
        if self.random.percent(self.temper.lost_answer) {
            return self.unanswered(post);
        }
        self.trace.note(self.now, || format!("client {} hears {started:?}", post.client));
        let client = post.client;
        if let Ok(started) = started {
            let (job, _) = started.parts();
            self.promises.answered(post.key.as_ref().map(scope), job, &self.disk);
        }
        self.clients[client].answered = Some(post).filter(|post| post.key.is_some());
    }

    /// No answer came. With a key the client asks again, the same or, by mistake, something else.
    pub fn unanswered(&mut self, post: Post) {
        let client = post.client;
        if post.key.is_some() && !matches!(post.pass, Pass::Own(..)) {
            self.clients[client].unanswered = Some(post);
        }
    }

    fn some_post(&mut self, client: usize) -> Option<Post> {
        let picture = &self.otter.as_ref()?.picture;
        let record = self.random.pick(&picture.machines)?.clone();
        let snapshots = &record.machine.snapshots;
        let paths = snapshots.paths();
        let of: Vec<(SnapshotId, String)> =
            snapshots.items.iter().map(|snapshot| snapshot.id.clone()).zip(paths).collect();
        let snapshot = self.random.pick(&of).cloned();
        let random = &mut self.random;
        let flag = |random: &mut super::random::Random| match random.below(3) {
            0 => None,
            1 => Some(true),
            _ => Some(false),
        };
        let request = match (random.below(16), snapshot) {
            (0..=2, _) => JobRequest::PowerOn,
            (3 | 4, _) => JobRequest::PowerOff,
            (5, _) => JobRequest::Reset,
            (6, _) => JobRequest::Suspend,
            (7, _) => JobRequest::Shutdown {
                force_after: random.percent(50).then(|| Duration::from_secs(1 + random.below(5))),
            },
            (8, _) => JobRequest::Reboot,
            (9, _) => JobRequest::Kill,
            (10 | 11, Some((snapshot, path))) => {
                JobRequest::Revert { snapshot, path, power_on: flag(random) }
            }
            (12, Some((snapshot, path))) => {
                JobRequest::RemoveSnapshot { snapshot, path, children: random.percent(50) }
            }
            (13, Some((snapshot, path))) => {
                let name = Some(format!("name-{}", random.below(3)));
                JobRequest::RenameSnapshot { snapshot, path, name, description: None }
            }
            (14, _) if random.percent(40) => JobRequest::RemoveAllSnapshots,
            _ => JobRequest::CreateSnapshot {
                name: (*random.pick(&["new", "other"])?).to_owned(),
                description: String::new(),
                memory: random.percent(50),
                quiesce: false,
            },
        };
        let deadline = random.percent(self.temper.hasty).then(|| Duration::from_secs(6 + random.below(60)));
        Some(self.keyed(client, record.machine.id.clone(), request, deadline))
    }

    fn keyed(
        &mut self,
        client: usize,
        machine: MachineId,
        request: JobRequest,
        deadline: Option<Duration>,
    ) -> Post {
        let key = self.random.percent(60).then(|| {
            // Now and then two clients have the same key.
            let number = if self.random.percent(10) {
                self.random.below(3)
            } else {
                100 + self.random.next() % 1_000_000
            };
            let mut fingerprint = [0; 32];
            let kind = request.kind().as_str().as_bytes();
            let length = kind.len().min(32);
            fingerprint[..length].copy_from_slice(&kind[..length]);
            IdempotencyKey {
                caller: "anonymous".to_owned(),
                method: "POST".to_owned(),
                path: format!("/v1/machines/{machine}"),
                key: format!("key-{number}"),
                fingerprint,
                created_at: self.wall(),
            }
        });
        let (pass, override_reason, machine) = self.some_pass(client, machine);
        Post { client, machine, request, deadline, key, pass, override_reason, record: None }
    }

    fn answer_some_question(&mut self, client: usize) {
        let asking: Vec<(MachineId, JobRequest)> = self
            .otter
            .iter()
            .flat_map(|otter| &otter.picture.machines)
            .filter_map(|record| {
                let question = record.machine.question.as_ref()?;
                let choice = question.choices.first()?.key.clone();
                let request = JobRequest::Answer { question: question.id.clone(), choice };
                Some((record.machine.id.clone(), request))
            })
            .collect();
        if let Some((machine, request)) = self.random.pick(&asking).cloned() {
            let post = self.keyed(client, machine, request, None);
            self.post(post);
        }
    }

    fn cancel_some_job(&mut self) {
        let Some(otter) = &self.otter else { return };
        let ids: Vec<JobId> = otter.entries.keys().copied().collect();
        let Some(id) = self.random.pick(&ids).copied() else { return };
        self.cancel(id);
    }

    pub fn cancel(&mut self, id: JobId) {
        let Some(otter) = &mut self.otter else { return };
        let live = otter.entries.get(&id).map(|entry| entry.live.job.clone());
        let Some(job) = live.filter(|job| !job.state.is_end() && self.disk.job(id).is_some()) else { return };
        self.trace.note(self.now, || format!("somebody cancels {id}"));
        self.promises.cancel_asked(id);
        if otter.queues.withdraw(&job.target.id(), id) {
            self.end_queued(id, |driver, now| driver.cancel_queued(Actor::otter(), now));
        } else {
            self.interrupt(id, Interrupt::Cancel(Actor::otter()));
        }
    }

    /// Ends a job that was withdrawn from its queue.
    pub fn end_queued(&mut self, id: JobId, end: impl FnOnce(&mut Driver, jiff::Timestamp) -> Effect) {
        self.promises.withdrawn(id);
        let now = self.wall();
        let waiting = self.otter.as_mut().and_then(|otter| otter.entries.get_mut(&id)?.waiting.as_mut());
        let Some(first) = waiting.map(|driver| end(driver, now)) else { return };
        self.take_up(id, first, false);
    }

    /// Reads every job, as a list does.
    fn read_everything(&mut self) {
        let ids: Vec<JobId> = self.disk.jobs.values().map(|job| job.id).collect();
        for id in ids {
            let live = self.otter.as_ref().and_then(|otter| otter.shown(id).cloned());
            if let Some(job) = live.or_else(|| self.disk.job(id).cloned()) {
                self.show(&job);
            }
        }
    }
}
