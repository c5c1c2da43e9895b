//! The clients: they start jobs with and without a key, repeat calls that got no answer, cancel and
//! kill jobs, answer questions, wait and read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use otter::domain::failure::{Failure, FailureKind};
use otter::domain::ids::{JobId, LeaseId, MachineId, SnapshotId};
use otter::domain::job::{Job, JobRequest};
use otter::domain::machine::Machine;
use otter::domain::media::{BootDevice, BootRequest};
use otter::service::callers::Caller;
use otter::service::idempotency::Claimed;
use otter::service::jobs::NewJob;
use otter::service::jobs::authorization::{LeaseCredential, Requester};
use otter::storage::{IdempotencyKey, JobFilter};

use super::Run;
use super::committed::scope;
use super::host::isos;
use super::lifecycle::Services;
use super::random::Random;

/// The page size of lists.
const PAGE: u32 = 500;

/// A call that starts a job.
#[derive(Clone, Debug)]
pub struct JobCall {
    machine: MachineId,
    request: JobRequest,
    deadline: Option<Duration>,
    key: Option<IdempotencyKey>,
    /// The lease that the client presents.
    lease: Option<LeaseId>,
    override_reason: Option<String>,
}

/// A client.
pub struct Client {
    pub run: Arc<Run>,
    pub caller: Caller,
    /// The last call of the client with a key. The client may repeat it.
    repeatable: Option<JobCall>,
    /// Whether the call in `repeatable` got no answer.
    is_unanswered: bool,
    pub leases: Vec<LeaseId>,
    pub pending_request: Option<super::lease_clients::PendingRequest>,
}

/// Runs a client until the active phase of the run ends.
pub async fn run_client(run: Arc<Run>, number: u64) {
    let caller = super::lease_clients::caller(&format!("client-{number}"));
    let mut client = Client {
        run: Arc::clone(&run),
        caller,
        repeatable: None,
        is_unanswered: false,
        leases: Vec::new(),
        pending_request: None,
    };
    loop {
        let pause = run.profile().client_pause;
        run.pause_between(Duration::from_millis(50), pause).await;
        if run.is_quiet() {
            return;
        }
        client.act().await;
    }
}

impl Client {
    async fn act(&mut self) {
        let again = self.is_unanswered || self.random(|random| random.percent(15));
        if let Some(post) = self.repeatable.take().filter(|_| again) {
            return self.post(post, true).await;
        }
        if self.run.profile().leases && self.random(|random| random.percent(85)) {
            return self.use_leases().await;
        }
        match self.random(|random| random.below(10)) {
            0 => self.cancel_some_job().await,
            1 => self.read_everything().await,
            2 => self.wait_for_some_job().await,
            3 => self.answer_some_question().await,
            _ => {
                if let Some(post) = self.some_post() {
                    self.post(post, false).await;
                }
            }
        }
    }

    pub fn random<T>(&self, choose: impl FnOnce(&mut Random) -> T) -> T {
        choose(&mut self.run.random())
    }

    async fn post(&mut self, post: JobCall, is_repeat: bool) {
        let mut post = post;
        // Sometimes the client uses the key for a different request.
        if is_repeat && self.random(|random| random.percent(10)) {
            post.key = post.key.map(|key| IdempotencyKey { fingerprint: [1; 32], ..key });
        }
        self.run.checker.trace(|| {
            let key = post.key.as_ref().map_or("no key", |key| key.key.as_str());
            let (name, kind) = (&self.caller.name, post.request.kind().as_str());
            format!("{name} requests {kind} of {} ({key}, lease {:?})", post.machine, post.lease)
        });
        let credential = post.lease.map_or(LeaseCredential::Absent, LeaseCredential::Lease);
        let override_reason = post.override_reason.clone();
        let requester = Requester { caller: self.caller.clone(), credential, override_reason };
        let call = post.clone();
        let started = self
            .run
            .ask(move |services| async move { start(&services, call, requester).await })
            .await;
        self.run.checker.trace(|| format!("{} gets {started:?}", self.caller.name));
        self.is_unanswered = started.is_none() && post.key.is_some();
        if let Some(Ok((job, is_repeated))) = started {
            self.run.repeated.fetch_add(usize::from(is_repeated), Ordering::Relaxed);
            let mut state = self.run.checker.state();
            let super::invariant_checker::CheckerState { job_invariants, disk, .. } = &mut *state;
            job_invariants.answered(post.key.as_ref().map(scope), job, disk);
        }
        self.repeatable = Some(post).filter(|post| post.key.is_some());
    }

    fn some_machine(&self) -> Option<Machine> {
        let contents = self.run.services()?.inventory.contents();
        let machines = contents.machines.to_vec();
        self.random(|random| random.pick(&machines).map(|machine| Machine::clone(machine)))
    }

    fn some_post(&self) -> Option<JobCall> {
        let machine = self.some_machine()?;
        let short_deadline = self.run.profile().short_deadline;
        let request = self.random(|random| some_request(random, &machine));
        let deadline = self.random(|random| {
            random.percent(short_deadline).then(|| Duration::from_secs(6 + random.below(60)))
        });
        Some(self.with_right(machine.id, request, deadline))
    }

    /// A call with this request, with a random key and a random authorization.
    fn with_right(
        &self,
        machine: MachineId,
        request: JobRequest,
        deadline: Option<Duration>,
    ) -> JobCall {
        let key = self.random(|random| {
            // Sometimes several calls use the same key.
            random.percent(60).then(|| {
                let is_shared = random.percent(10);
                random.below(if is_shared { 3 } else { 1_000_000_000 })
            })
        });
        let mut fingerprint = [0; 32];
        let kind = request.kind().as_str().as_bytes();
        fingerprint.iter_mut().zip(kind).for_each(|(byte, kind_byte)| *byte = *kind_byte);
        let key = key.map(|number| IdempotencyKey {
            caller: self.caller.name.to_string(),
            method: "POST".to_owned(),
            path: format!("/v1/machines/{machine}"),
            key: format!("key-{number}"),
            fingerprint,
            created_at: self.run.clock.now(),
        });
        let lease =
            self.random(|random| random.pick(&self.leases).copied().filter(|_| random.percent(60)));
        let is_override = lease.is_none() && self.random(|random| random.percent(5));
        let override_reason = is_override.then(|| "must be".to_owned());
        let held = lease.and_then(|lease| {
            let state = self.run.checker.state();
            Some(state.disk.leases.get(&lease)?.machine.as_ref()?.id.clone())
        });
        JobCall { machine: held.unwrap_or(machine), request, deadline, key, lease, override_reason }
    }

    async fn answer_some_question(&mut self) {
        let Some(services) = self.run.services() else { return };
        let answer_request = |machine: &Machine| {
            let question = machine.question.as_ref()?;
            let choice = question.choices.first()?.key.clone();
            Some((machine.id.clone(), JobRequest::Answer { question: question.id.clone(), choice }))
        };
        let contents = services.inventory.contents();
        let answers: Vec<_> =
            contents.machines.iter().filter_map(|machine| answer_request(machine)).collect();
        if let Some((machine, request)) = self.random(|random| random.pick(&answers).cloned()) {
            let post = self.with_right(machine, request, None);
            self.post(post, false).await;
        }
    }

    fn some_job(&self) -> Option<JobId> {
        let state = self.run.checker.state();
        let jobs: Vec<JobId> = state.disk.jobs.values().rev().take(8).map(|job| job.id).collect();
        drop(state);
        self.random(|random| random.pick(&jobs).copied())
    }

    async fn cancel_some_job(&self) {
        let Some(id) = self.some_job() else { return };
        self.run.checker.trace(|| format!("{} cancels {id}", self.caller.name));
        self.run.checker.state().job_invariants.cancel_asked(id);
        let (by, read_started) = (self.caller.actor(), self.run.checker.read_started());
        let found = self.run.ask(move |services| async move {
            let found = services.jobs.cancel(id, by).await.ok().flatten().map(|view| view.job);
            found.map(|job| (job, services))
        });
        let found = found.await.flatten();
        self.check_jobs(found.into_iter(), read_started);
    }

    async fn wait_for_some_job(&self) {
        let Some(id) = self.some_job() else { return };
        let read_started = self.run.checker.read_started();
        let found = self.run.ask(move |services| async move {
            let found = services.jobs.ended(id).await.ok().flatten().map(|view| view.job);
            found.map(|job| (job, services))
        });
        let found = found.await.flatten();
        self.check_jobs(found.into_iter(), read_started);
    }

    async fn read_everything(&self) {
        let read_started = self.run.checker.read_started();
        let found = self.run.ask(move |services| async move {
            let page = services.jobs.list(&JobFilter::default(), None, PAGE, None).await.ok()?;
            Some(page.items.into_iter().map(move |view| (view.job, services.clone())))
        });
        self.check_jobs(found.await.flatten().into_iter().flatten(), read_started);
    }

    fn check_jobs(&self, jobs: impl Iterator<Item = (Arc<Job>, Services)>, read_started: u64) {
        for (job, services) in jobs {
            self.run.checker.job_reported(&job, read_started, &services.inventory.contents());
        }
    }
}

/// Starts a job. Returns its id, and whether an earlier call with the key started it.
async fn start(
    services: &Services,
    post: JobCall,
    requester: Requester,
) -> Result<(JobId, bool), Failure> {
    let JobCall { machine, request, deadline, key, .. } = post;
    let key = match key {
        None => None,
        Some(key) => match services.jobs.claim(key).await? {
            Claimed::New(claim) => Some(claim),
            Claimed::Used(job) => return Ok((job, true)),
        },
    };
    let contents = services.inventory.contents();
    let gone = || Failure::new(FailureKind::NotFound, "no such machine");
    let machine = contents.machine(&machine).cloned().ok_or_else(gone)?;
    let new = NewJob { machine, request, requester, reference: None, deadline, key };
    Ok((services.jobs.start(new).await?, false))
}

fn some_request(random: &mut Random, machine: &Machine) -> JobRequest {
    let snapshots = &machine.snapshots;
    let paths: Vec<(SnapshotId, String)> =
        snapshots.items.iter().map(|snapshot| snapshot.id.clone()).zip(snapshots.paths()).collect();
    let snapshot = random.pick(&paths).cloned();
    match (random.below(19), snapshot) {
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
            let power_on = *random.pick(&[None, Some(true), Some(false)]).unwrap();
            JobRequest::Revert { snapshot, path, power_on }
        }
        (12, Some((snapshot, path))) => {
            JobRequest::RemoveSnapshot { snapshot, path, children: random.percent(50) }
        }
        (13, Some((snapshot, path))) => {
            let name = Some(format!("name-{}", random.below(3)));
            JobRequest::RenameSnapshot { snapshot, path, name, description: None }
        }
        (14, _) if random.percent(40) => JobRequest::RemoveAllSnapshots,
        (15, _) => JobRequest::Consolidate,
        (17, _) => JobRequest::SetMedia {
            iso: random.percent(70).then(|| isos()[usize::from(random.percent(50))].clone()),
        },
        (18, _) => {
            // No machine boots from its drive, so no guest locks it.
            let orders = [vec![BootDevice::Disk, BootDevice::Cdrom], vec![BootDevice::Network]];
            let order = random.pick(&orders).unwrap().clone();
            let delay = random.percent(50).then(|| Duration::from_secs(random.below(3)));
            JobRequest::SetBoot(BootRequest { order, delay })
        }
        _ => JobRequest::CreateSnapshot {
            name: (*random.pick(&["new", "other"]).unwrap()).to_owned(),
            description: String::new(),
            memory: random.percent(50),
            quiesce: false,
        },
    }
}
