//! A host in memory: machines that obey at once, or as a test says, and a lab to run the engine against it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::domain::access::Role;
use crate::domain::call::{Evidence, HostCall, RecentTask, SeenSnapshot};
use crate::domain::ids::{JobId, MachineId, QuestionId, TaskId};
use crate::domain::job::JobRequest;
use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::domain::snapshot::Snapshot;
use crate::hypervisor::{
    Accepted, CallError, Fact, Facts, HostError, HostErrorKind, HostProduct, Hypervisor, Observer,
    SessionState, SessionStatus, TaskStatus,
};
use crate::sabotage::Sabotage;
use crate::service::callers::Caller;
use crate::service::feed::Feed;
use crate::service::hosts::Hosts;
use crate::service::inventory::{Inventory, samples};
use crate::service::jobs::gate::{Pass, Right};
use crate::service::jobs::{Deadlines, JobSettings, JobView, Jobs, JobsParts, NewJob, Started};
use crate::service::leases::holds::Holds;
use crate::service::snapshots::{SnapshotProtection, SnapshotSettings};
use crate::storage::Storage as _;
use crate::store::Store;
use crate::supervisor::{Signals, Supervisor};
use crate::telemetry::metrics::Metrics;

/// What becomes of a call, where it is not done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its task runs until [`FakeHost::release`].
    Hold,
    /// The host answers after [`FakeHost::release`] only.
    Late,
    /// The call comes to the host after [`FakeHost::release`] only.
    OnItsWay,
    /// The backend itself fails.
    Panic,
    Lost,
    /// Its task fails, and the host may have done the work all the same.
    UncertainFailure,
}

pub struct FakeHost {
    inventory: Arc<Inventory>,
    state: Mutex<State>,
    released: Notify,
    called: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    machines: HashMap<MachineId, Machine>,
    answers: VecDeque<Answer>,
    calls: Vec<(MachineId, HostCall)>,
    tasks: Vec<Task>,
    cancelled: Vec<TaskId>,
    /// Whose guests cannot be read.
    unreadable: Vec<MachineId>,
    guest_reads: usize,
    /// Whether a direct read shows a question.
    asks: bool,
    /// Whether tasks go on that are to be cancelled.
    stubborn: bool,
    examinations: usize,
    panics_if_examined: bool,
}

struct Task {
    id: TaskId,
    machine: MachineId,
    call: HostCall,
    status: watch::Sender<TaskStatus>,
}

impl FakeHost {
    pub fn new(inventory: Arc<Inventory>, machines: u32, clock: &Clock) -> Arc<Self> {
        let machines: HashMap<_, _> = (1..=machines)
            .map(|n| samples::machine(&n.to_string(), &format!("qubes-{n}")))
            .map(|machine| (machine.id.clone(), machine))
            .collect();
        let changes = machines.values().map(|machine| Fact::Machine(Box::new(machine.clone()))).collect();
        Observer::session(
            &*inventory,
            SessionStatus { state: SessionState::Connected, since: clock.now(), logins: 1, product: None },
        );
        inventory.observe(Facts { complete: true, changes });
        let state = Mutex::new(State { machines, ..State::default() });
        Arc::new(Self { inventory, state, released: Notify::new(), called: watch::Sender::new(0) })
    }

    /// The next calls are answered like this.
    pub fn answer(&self, answers: &[Answer]) {
        self.lock().answers.extend(answers);
    }

    /// Whether the backend fails each time that a machine is examined.
    pub fn panic_if_examined(&self, panics: bool) {
        self.lock().panics_if_examined = panics;
    }

    pub fn calls(&self) -> Vec<(MachineId, HostCall)> {
        self.lock().calls.clone()
    }

    pub fn hide_guest(&self, machine: &MachineId) {
        self.lock().unreadable.push(machine.clone());
    }

    pub fn ask(&self, asks: bool) {
        self.lock().asks = asks;
    }

    pub fn ignore_cancels(&self) {
        self.lock().stubborn = true;
    }

    pub fn examinations(&self) -> usize {
        self.lock().examinations
    }

    pub fn guest_reads(&self) -> usize {
        self.lock().guest_reads
    }

    pub fn cancelled(&self) -> usize {
        self.lock().cancelled.len()
    }

    /// Waits until the host was called this often.
    pub async fn called(&self, times: usize) {
        self.called.subscribe().wait_for(|called| *called >= times).await.unwrap();
    }

    /// Ends what is held.
    pub fn release(&self) {
        self.released.notify_waiters();
        let running = |task: &&Task| matches!(*task.status.borrow(), TaskStatus::Running { .. });
        let ids: Vec<TaskId> = self.lock().tasks.iter().filter(running).map(|task| task.id.clone()).collect();
        for id in ids {
            self.finish(&id);
        }
    }

    /// The session is with a vCenter from now on.
    pub fn is_vcenter(&self, clock: &Clock) {
        let product = HostProduct {
            full_name: "VMware vCenter Server 7.0.3".to_owned(),
            version: "7.0.3".to_owned(),
            build: "1".to_owned(),
            api_type: "VirtualCenter".to_owned(),
            api_version: "7.0.3.0".to_owned(),
        };
        let since = clock.now();
        let state = SessionState::Connected;
        Observer::session(
            &*self.inventory,
            SessionStatus { state, since, logins: 1, product: Some(product) },
        );
    }

    fn fail(&self, id: &TaskId, error: HostError) {
        if let Some(task) = self.lock().tasks.iter().find(|task| task.id == *id) {
            task.status.send_replace(TaskStatus::Failed(Arc::new(error)));
        }
    }

    fn finish(&self, id: &TaskId) {
        let fact = {
            let mut state = self.lock();
            let State { machines, tasks, .. } = &mut *state;
            let Some(task) = tasks.iter().find(|task| task.id == *id) else { return };
            let Some(machine) = machines.get_mut(&task.machine) else { return };
            match task.call {
                HostCall::PowerOn => machine.power_state = Some(PowerState::On),
                HostCall::PowerOff => machine.power_state = Some(PowerState::Off),
                _ => {}
            }
            Fact::Machine(Box::new(machine.clone()))
        };
        self.inventory.observe(Facts { complete: false, changes: vec![fact] });
        if let Some(task) = self.lock().tasks.iter().find(|task| task.id == *id) {
            task.status.send_replace(TaskStatus::Succeeded { snapshot: None });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Hypervisor for FakeHost {
    async fn run(&self, _: Arc<dyn Observer>, stop: CancellationToken) -> Result<(), HostError> {
        stop.cancelled().await;
        Ok(())
    }

    async fn call(&self, machine: &MachineId, call: &HostCall, _: JobId) -> Result<Accepted, CallError> {
        let released = self.released.notified();
        tokio::pin!(released);
        released.as_mut().enable();
        let answer = self.lock().answers.pop_front();
        if answer == Some(Answer::OnItsWay) {
            self.called.send_modify(|called| *called += 1);
            released.as_mut().await;
        }
        let id = {
            let mut state = self.lock();
            state.calls.push((machine.clone(), call.clone()));
            let id = TaskId::from_backend(format!("task-{}", state.calls.len()));
            if !matches!(answer, Some(Answer::Panic | Answer::Lost)) {
                state.tasks.push(Task {
                    id: id.clone(),
                    machine: machine.clone(),
                    call: call.clone(),
                    status: watch::Sender::new(TaskStatus::Running { progress: None }),
                });
            }
            id
        };
        if answer == Some(Answer::OnItsWay) {
            return Ok(Accepted::Task(id));
        }
        self.called.send_modify(|called| *called += 1);
        match answer {
            None => self.finish(&id),
            Some(Answer::UncertainFailure) => {
                let error = HostError::new(HostErrorKind::Rejected, "lost touch");
                self.fail(&id, error.with_uncertain_outcome(true));
            }
            Some(Answer::Hold | Answer::OnItsWay) => {}
            Some(Answer::Late) => released.await,
            Some(Answer::Panic) => panic!("as a test wanted"),
            Some(Answer::Lost) => {
                return Err(CallError::Lost(HostError::new(HostErrorKind::Unreachable, "cut")));
            }
        }
        Ok(Accepted::Task(id))
    }

    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let state = self.lock();
        match state.tasks.iter().find(|known| known.id == *task) {
            Some(known) => known.status.subscribe(),
            None => watch::channel(TaskStatus::Vanished).1,
        }
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        let mut state = self.lock();
        state.cancelled.push(task.clone());
        if let Some(task) = state.tasks.iter().find(|known| known.id == *task && !state.stubborn) {
            let error = HostError::new(HostErrorKind::Cancelled, "cancelled");
            task.status.send_if_modified(|status| {
                let runs = matches!(status, TaskStatus::Running { .. });
                if runs {
                    *status = TaskStatus::Failed(Arc::new(error));
                }
                runs
            });
        }
        Ok(())
    }

    async fn barrier(&self) -> Result<(), HostError> {
        Ok(())
    }

    async fn examine(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        let mut state = self.lock();
        state.examinations += 1;
        assert!(!state.panics_if_examined, "as a test wanted");
        let machine = state
            .machines
            .get(machine)
            .ok_or_else(|| HostError::new(HostErrorKind::NotFound, "no such machine"))?;
        let tasks = state.tasks.iter().filter(|task| task.machine == machine.id);
        Ok(Evidence {
            identity: machine.identity(),
            power_state: machine.power_state,
            current_snapshot: machine.snapshots.current.clone(),
            snapshots: machine.snapshots.items.iter().map(seen).collect(),
            tools_running: machine.guest.tools_running,
            question: state.asks.then(|| QuestionId::from_backend("q")),
            host_boot_time: None,
            recent_tasks: tasks
                .map(|task| RecentTask {
                    id: task.id.clone(),
                    call: Some(task.call.kind()),
                    by_us: true,
                    running: matches!(*task.status.borrow(), TaskStatus::Running { .. }),
                })
                .collect(),
        })
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        let fact = {
            let mut state = self.lock();
            state.guest_reads += 1;
            if state.unreadable.contains(machine) {
                return Err(HostError::new(HostErrorKind::Forbidden, "not this one"));
            }
            let picture = self.inventory.picture();
            let guest =
                picture.machine(machine).map(|record| record.machine.guest.clone()).unwrap_or_default();
            Fact::GuestConfirmed {
                machine: machine.clone(),
                tools_running: guest.tools_running,
                ip_address: guest.ip_address,
                ip_addresses: guest.ip_addresses,
            }
        };
        self.inventory.observe(Facts { complete: false, changes: vec![fact] });
        Ok(())
    }
}

fn seen(snapshot: &Snapshot) -> SeenSnapshot {
    let Snapshot { id, name, description, parent, .. } = snapshot.clone();
    SeenSnapshot { id, parent, name, description }
}

/// An engine, its host and its store. Time stands still until it is moved.
pub struct Lab {
    pub clock: Clock,
    pub store: Store,
    pub host: Arc<FakeHost>,
    pub inventory: Arc<Inventory>,
    pub jobs: Jobs,
    supervisor: Supervisor,
}

impl Lab {
    pub async fn new(machines: u32) -> Self {
        let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        let inventory = Arc::new(Inventory::new(clock.clone(), Feed::new(&clock), Duration::from_secs(30)));
        let host = FakeHost::new(Arc::clone(&inventory), machines, &clock);
        let (supervisor, jobs) = engine(&clock, &store, &host, &inventory);
        Self { clock, store, host, inventory, jobs, supervisor }
    }

    /// Stops the daemon softly; what is begun comes to its commit.
    pub async fn stop(&self) {
        self.supervisor.stop();
        let (_signals, from) = Signals::from_sender();
        let ending = self.supervisor.run(from).await;
        assert_eq!(ending.failures, []);
    }

    pub fn begin_to_stop(&self) {
        self.supervisor.stop();
    }

    /// A new engine over the same store and host, which has taken up what was left.
    pub async fn restart(&mut self) -> usize {
        let (supervisor, jobs) = engine(&self.clock, &self.store, &self.host, &self.inventory);
        (self.supervisor, self.jobs) = (supervisor, jobs);
        self.jobs.recover().await.unwrap()
    }

    /// Lets the deadlines of queued jobs pass.
    pub fn expire(&self) {
        self.supervisor.spawn("deadlines", |stop| self.jobs.clone().expire(stop));
    }

    /// Lets deadlines follow the wall clock.
    pub fn follow_wall_clock(&self) {
        self.supervisor.spawn("wall clock", |stop| self.jobs.clone().follow_wall_clock(stop));
    }

    pub fn new_job(&self, machine: u32, request: JobRequest) -> NewJob {
        let picture = self.inventory.picture();
        let record = picture.machine(&MachineId::from_backend(machine.to_string())).unwrap();
        NewJob {
            machine: Arc::clone(record),
            request,
            right: Right {
                caller: Caller::new("anonymous", Role::Admin),
                pass: Pass::Nothing,
                override_reason: None,
            },
            reference: None,
            deadline: None,
            key: None,
        }
    }

    pub async fn start(&self, machine: u32, request: JobRequest) -> JobId {
        match self.jobs.start(self.new_job(machine, request)).await.unwrap() {
            Started::New(id) | Started::Replayed(id) => id,
        }
    }

    pub async fn end(&self, id: JobId) -> JobView {
        self.jobs.ended(id).await.unwrap().unwrap()
    }

    /// The same, while time passes a second at a time.
    pub async fn end_in_time(&self, id: JobId) -> JobView {
        let time_passes = async {
            loop {
                self.clock.advance(Duration::from_secs(1));
                // Whatever the step woke comes to its next commit before the next one.
                for _ in 0..10 {
                    self.store.job(id).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::select! {
            view = self.end(id) => view,
            () = time_passes => unreachable!(),
        }
    }
}

fn engine(
    clock: &Clock,
    store: &Store,
    host: &Arc<FakeHost>,
    inventory: &Arc<Inventory>,
) -> (Supervisor, Jobs) {
    let supervisor = Supervisor::new(clock.clone(), Duration::from_secs(30));
    let jobs = Jobs::new(JobsParts {
        store: Arc::new(store.clone()),
        hosts: Hosts::one(Arc::clone(host) as _),
        inventory: Arc::clone(inventory),
        clock: clock.clone(),
        feed: Feed::new(clock),
        supervisor: supervisor.clone(),
        settings: JobSettings {
            settle: Duration::from_secs(30),
            outage_grace: Duration::from_mins(1),
            queue_per_machine: 16,
            queue_in_all: 40,
            deadlines: Deadlines {
                power: Duration::from_mins(10),
                guest: Duration::from_mins(15),
                create: Duration::from_hours(1),
                revert: Duration::from_hours(1),
                remove: Duration::from_hours(24),
                prepare: Duration::from_mins(30),
            },
        },
        metrics: Metrics::default(),
        gate: Arc::new(Holds::default()),
        snapshots: Arc::new(SnapshotProtection::new(
            SnapshotSettings::default(),
            Arc::default(),
            Arc::new(store.clone()),
        )),
        sabotage: Sabotage::new(),
    });
    (supervisor, jobs)
}
