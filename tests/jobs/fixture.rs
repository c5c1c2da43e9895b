//! Jobs with a simulated host in this process, a store in memory, and a clock that the test
//! advances.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use otter::clock::Clock;
use otter::domain::access::Role;
use otter::domain::failure::{Failure, FailureKind};
use otter::domain::file_job::FileTarget;
use otter::domain::file_path::FilePath;
use otter::domain::ids::{DatastoreId, JobId, LeaseId, MachineId};
use otter::domain::job::{Job, JobRequest};
use otter::domain::machine::Machine;
use otter::hypervisor::{HostProduct, Hypervisor, Observer, SessionState, SessionStatus};
use otter::service::callers::Caller;
use otter::service::event_stream::EventStream;
use otter::service::hosts::Hosts;
use otter::service::inventory::Inventory;
use otter::service::jobs::authorization::{
    Authorization, JobAuthorizer, LeaseCredential, Requester,
};
use otter::service::jobs::{Deadlines, JobSettings, JobView, Jobs, JobsParts, NewFileJob, NewJob};
use otter::service::live_settings::LiveSettings;
use otter::service::snapshots::SnapshotProtection;
use otter::simulator::{Pace, Scenario};
use otter::storage::Storage as _;
use otter::store::Store;
use otter::supervisor::{Signals, Supervisor};
use otter::telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;

use super::scripted_host::ScriptedHost;
use crate::in_process::{InProcess, MemoryFiles, NoScreens, SimulatedHost};

/// The jobs, their host and their store. Time stands still until the test advances it.
pub struct JobsFixture {
    pub clock: Clock,
    pub store: Store,
    pub host: Arc<ScriptedHost>,
    pub inventory: Arc<Inventory>,
    pub jobs: Jobs,
    pub authorizer: Arc<EndingLease>,
    pub files: MemoryFiles,
    backend: Arc<InProcess>,
    supervisor: Supervisor,
    stop: CancellationToken,
}

/// Authorizes every job, by `lease` if it is set. A job of the lease may start until `has_ended` is
/// set.
#[derive(Default)]
pub struct EndingLease {
    pub lease: Mutex<Option<LeaseId>>,
    pub has_ended: AtomicBool,
}

impl JobAuthorizer for EndingLease {
    fn authorize(&self, _: &Machine, _: &Requester) -> Result<Authorization, Failure> {
        let lease = *self.lease.lock().unwrap();
        Ok(lease.map_or(Authorization::Unleased, Authorization::Lease))
    }

    fn may_start(&self, job: &Job) -> Result<(), Failure> {
        if job.lease.is_some() && self.has_ended.load(Ordering::SeqCst) {
            return Err(Failure::new(FailureKind::JobCancelled, "Its lease has ended."));
        }
        Ok(())
    }
}

impl JobsFixture {
    pub async fn new(machines: usize) -> Self {
        let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
        let store = Store::in_memory().await.unwrap();
        let writer = store.clone();
        tokio::spawn(async move { writer.run(CancellationToken::new()).await });
        let inventory = Arc::new(Inventory::new(
            clock.clone(),
            EventStream::new(&clock),
            Duration::from_secs(30),
        ));
        let host = SimulatedHost::new(&Scenario::generated(machines), Pace::Stepped, clock.clone());
        let script = Arc::new(ScriptedHost::new(host.clone()));
        let backend = Arc::new(InProcess::new(host).with_hooks(Arc::clone(&script) as _));
        let stop = CancellationToken::new();
        let (running, observer, stopped) =
            (Arc::clone(&backend), Arc::clone(&inventory), stop.clone());
        tokio::spawn(async move { running.run(observer, stopped).await });
        inventory.connected().await;
        let authorizer = Arc::new(EndingLease::default());
        let files = MemoryFiles::default();
        let (supervisor, jobs) =
            new_jobs(&clock, &store, &backend, &inventory, &authorizer, &files);
        Self {
            clock,
            store,
            host: script,
            inventory,
            jobs,
            authorizer,
            files,
            backend,
            supervisor,
            stop,
        }
    }

    /// Makes the session report a vCenter.
    pub fn set_vcenter_product(&self) {
        let product = HostProduct {
            full_name: "VMware vCenter Server 7.0.3".to_owned(),
            version: "7.0.3".to_owned(),
            build: "1".to_owned(),
            api_type: "VirtualCenter".to_owned(),
            api_version: "7.0.3.0".to_owned(),
        };
        let (state, since) = (SessionState::Connected, self.clock.now());
        let status = SessionStatus { state, since, logins: 1, product: Some(product) };
        Observer::session(&*self.inventory, status);
    }

    /// Stops otter gracefully: work in progress reaches its next commit.
    pub async fn stop(&self) {
        self.supervisor.stop();
        let (_signals, from) = Signals::from_sender();
        let ending = self.supervisor.run(from).await;
        assert_eq!(ending.failures, []);
    }

    pub fn start_to_stop(&self) {
        self.supervisor.stop();
    }

    /// Starts the jobs again with the same store and host. Returns the number of resumed jobs.
    pub async fn restart(&mut self) -> usize {
        let Self { clock, store, backend, inventory, authorizer, files, .. } = &*self;
        let (supervisor, jobs) = new_jobs(clock, store, backend, inventory, authorizer, files);
        (self.supervisor, self.jobs) = (supervisor, jobs);
        self.jobs.recover().await.unwrap()
    }

    /// Starts the task that ends queued jobs at their deadlines.
    pub fn expire(&self) {
        self.supervisor.spawn("deadlines", |stop| self.jobs.clone().expire(stop));
    }

    /// Starts the task that moves deadlines after jumps of the wall clock.
    pub fn follow_wall_clock(&self) {
        self.supervisor.spawn("wall clock", |stop| self.jobs.clone().follow_wall_clock(stop));
    }

    pub fn new_job(&self, machine: u32, request: JobRequest) -> NewJob {
        let contents = self.inventory.contents();
        let machine = contents.machine(&MachineId::from_backend(machine.to_string())).unwrap();
        NewJob {
            machine: Arc::clone(machine),
            request,
            requester: Requester {
                caller: Caller::new("anonymous", Role::Admin),
                credential: LeaseCredential::Absent,
                override_reason: None,
            },
            reference: None,
            deadline: None,
            key: None,
        }
    }

    /// Starts a job on a file of the datastore `isos`.
    pub async fn start_on_file(&self, path: &str, request: JobRequest) -> JobId {
        let id = self.jobs.new_id();
        let new = NewFileJob {
            id,
            target: FileTarget {
                datastore: DatastoreId::from_backend("ds-1"),
                datastore_name: "isos".to_owned(),
                path: FilePath::parse(path).unwrap(),
            },
            request,
            requester: Requester {
                caller: Caller::new("anonymous", Role::Admin),
                credential: LeaseCredential::Absent,
                override_reason: None,
            },
            reference: None,
            deadline: None,
            key: None,
        };
        assert_eq!(self.jobs.start_file(new).await.unwrap(), id);
        id
    }

    pub async fn start(&self, machine: u32, request: JobRequest) -> JobId {
        self.jobs.start(self.new_job(machine, request)).await.unwrap()
    }

    pub async fn end(&self, id: JobId) -> JobView {
        self.jobs.ended(id).await.unwrap().unwrap()
    }

    /// Waits for the end of a job, while time passes one second at a time.
    pub async fn end_as_time_passes(&self, id: JobId) -> JobView {
        let time_passes = async {
            loop {
                self.clock.advance(Duration::from_secs(1));
                // Each task that the new time wakes reaches its next commit before the next second.
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

impl Drop for JobsFixture {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn new_jobs(
    clock: &Clock,
    store: &Store,
    backend: &Arc<InProcess>,
    inventory: &Arc<Inventory>,
    authorizer: &Arc<EndingLease>,
    files: &MemoryFiles,
) -> (Supervisor, Jobs) {
    let supervisor = Supervisor::new(clock.clone(), Duration::from_secs(30));
    let jobs = Jobs::new(JobsParts {
        store: Arc::new(store.clone()),
        hosts: Hosts::from_host(Arc::clone(backend) as _),
        inventory: Arc::clone(inventory),
        clock: clock.clone(),
        event_stream: EventStream::new(clock),
        supervisor: supervisor.clone(),
        settings: JobSettings {
            settle: Duration::from_secs(30),
            outage_grace: Duration::from_mins(1),
            question_grace: Duration::from_mins(1),
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
        authorizer: Arc::clone(authorizer) as _,
        snapshots: Arc::new(SnapshotProtection::new(
            LiveSettings::default(),
            Arc::new(store.clone()),
        )),
        screens: Arc::new(NoScreens),
        serial: Arc::new(NoScreens),
        files: Arc::new(files.clone()),
    });
    (supervisor, jobs)
}
