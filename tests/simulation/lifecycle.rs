//! The lifecycle of the simulated daemon: it starts like the application, recovers its jobs and
//! leases, serves clients, and publishes events to a reader.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use otter::domain::access::Role;
use otter::domain::event::{EventFilter, Subject};
use otter::domain::pool::{Pool, Pools};
use otter::hypervisor::Observer;
use otter::service::callers::{Caller, Callers};
use otter::service::event_stream::{EventStream, NextEvent};
use otter::service::hosts::Hosts;
use otter::service::inventory::Inventory;
use otter::service::jobs::{Deadlines, JobSettings, Jobs, JobsParts};
use otter::service::leases::lease_table::LeaseRules;
use otter::service::leases::published::PublishedLeases;
use otter::service::leases::secret::LeaseSecrets;
use otter::service::leases::{Leases, LeasesParts};
use otter::service::live_settings::{LiveSettings, ReloadableSettings};
use otter::service::machines::Machines;
use otter::service::recordings::status::RecordingStatuses;
use otter::service::snapshots::SnapshotProtection;
use otter::service::storage_watch::StorageWatch;
use otter::storage::{Storage, StorageError};
use otter::supervisor::{Signals, Supervisor};
use otter::telemetry::metrics::Metrics;
use secrecy::SecretBox;
use tokio::sync::oneshot;

use super::Run;
use super::checked_storage::CheckedStorage;
use super::executor::Owner;
use super::unreliable_host::UnreliableHost;
use crate::in_process::{MemoryFiles, NoScreens};

const SETTINGS: JobSettings = JobSettings {
    settle: Duration::from_secs(30),
    outage_grace: Duration::from_mins(1),
    question_grace: Duration::from_mins(1),
    queue_per_machine: 16,
    queue_in_all: 40,
    deadlines: Deadlines {
        prepare: Duration::from_mins(30),
        power: Duration::from_mins(10),
        guest: Duration::from_mins(15),
        create: Duration::from_hours(1),
        revert: Duration::from_hours(1),
        remove: Duration::from_hours(24),
    },
};
const GUEST_SETTLE: Duration = Duration::from_secs(30);
const MAX_TOTAL: Duration = Duration::from_mins(20);
const QUARANTINE_RETRY: Duration = Duration::from_mins(2);
/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// The services that clients call.
#[derive(Clone)]
pub struct Services {
    pub jobs: Jobs,
    pub leases: Leases,
    pub machines: Arc<Machines>,
    pub inventory: Arc<Inventory>,
    pub supervisor: Supervisor,
    incarnation: u32,
}

/// Starts the daemon. It serves once it has recovered.
pub fn start(run: &Arc<Run>) {
    let incarnation = run.incarnation.fetch_add(1, Ordering::Relaxed) + 1;
    run.is_alive.store(true, Ordering::Relaxed);
    run.handle.forget_ids();
    run.checker.trace(|| format!("otter starts as process {incarnation}"));
    run.checker.state().lease_invariants.started(run.handle.true_time());
    let run = Arc::clone(run);
    run.handle.clone().spawn(Owner::Daemon(incarnation), async move {
        match serve(&run, incarnation).await {
            Ok(services) => *run.services.lock().unwrap() = Some(services),
            Err(error) => {
                run.checker.trace(|| format!("otter cannot start: {error:?}"));
                run.crash();
            }
        }
    });
}

async fn serve(run: &Arc<Run>, incarnation: u32) -> Result<Services, StorageError> {
    let clock = run.clock_of_services();
    let handle = run.handle.clone();
    let spawn = move |task| handle.spawn(Owner::Daemon(incarnation), task);
    let supervisor = Supervisor::with_spawn(clock.clone(), Duration::from_secs(30), spawn);
    let disk = run.disk.open(run.clock.clone());
    let checked_storage = Arc::new(CheckedStorage::new(run, disk.clone()));
    let store = Arc::clone(&checked_storage) as Arc<dyn Storage>;
    supervisor.spawn_stopping_last("store", |stop| async move { disk.run(stop).await });
    run.forget_keys(&*store).await?;
    let event_stream = EventStream::new(&clock);
    let inventory = Arc::new(Inventory::new(clock.clone(), event_stream.clone(), GUEST_SETTLE));
    let hypervisor =
        run.host_of_services(Arc::new(UnreliableHost::new(run, incarnation, &inventory)));
    let hosts = Hosts::from_host(Arc::clone(&hypervisor));
    let callers = Arc::new(Callers::load(Arc::clone(&store), clock.clone()).await?);
    let (published_leases, metrics) = (Arc::new(PublishedLeases::default()), Metrics::default());
    let settings =
        LiveSettings::new(ReloadableSettings { pools: pools(), ..ReloadableSettings::default() });
    let snapshots = SnapshotProtection::new(settings.clone(), Arc::clone(&store));
    let jobs = Jobs::new(JobsParts {
        store: Arc::clone(&store),
        hosts: hosts.clone(),
        inventory: Arc::clone(&inventory),
        clock: clock.clone(),
        event_stream: event_stream.clone(),
        supervisor: supervisor.clone(),
        settings: SETTINGS,
        metrics: metrics.clone(),
        authorizer: Arc::clone(&published_leases) as _,
        snapshots: Arc::new(snapshots),
        screens: Arc::new(NoScreens),
        serial: Arc::new(NoScreens),
        files: Arc::new(MemoryFiles::default()),
    });
    let machines = Machines::new(
        Arc::clone(&inventory),
        jobs.clone(),
        Arc::clone(&published_leases),
        settings.clone(),
    );
    let machines = Arc::new(machines);
    checked_storage.set_machines(&machines);
    let leases = Leases::load(LeasesParts {
        store: Arc::clone(&store),
        clock: clock.clone(),
        callers,
        event_stream: event_stream.clone(),
        inventory: Arc::clone(&inventory),
        jobs: jobs.clone(),
        machines: Arc::clone(&machines),
        published: published_leases,
        settings,
        rules: LeaseRules {
            max_total: MAX_TOTAL,
            quarantine_retry: QUARANTINE_RETRY,
            ..LeaseRules::default()
        },
        secrets: LeaseSecrets::new(SecretBox::new(Box::new([0; 32]))),
        supervisor: supervisor.clone(),
        metrics,
        recordings: RecordingStatuses::default(),
        before_release: Arc::new(NoScreens),
    })
    .await?;
    let services = Services { jobs, leases, machines, inventory, supervisor, incarnation };
    let reader = read(Arc::clone(run), services.clone(), event_stream);
    run.handle.spawn(Owner::Daemon(incarnation), reader);
    // From here on, the code is the same as in the application.
    services.jobs.recover().await?;
    let Services { jobs, leases, inventory, supervisor, .. } = services.clone();
    let (host, observer) = (hypervisor, Arc::clone(&inventory) as Arc<dyn Observer>);
    supervisor.spawn("host", |stop| async move { host.run(observer, stop).await });
    supervisor.spawn("guest addresses", |stop| async move {
        inventory.confirm_guests(hosts, stop).await;
    });
    supervisor.spawn("leases", |stop| leases.run(stop));
    supervisor.spawn("deadlines", |stop| jobs.clone().expire(stop));
    let jobs = services.jobs.clone();
    supervisor.spawn("wall clock", |stop| jobs.follow_wall_clock(stop));
    supervisor.spawn("storage", |stop| StorageWatch::new(store, clock).watch(stop));
    // If the daemon ends by itself, it is started again, as after a kill.
    let (_, signals) = Signals::from_sender();
    let (run_at_end, process) = (Arc::clone(run), services.supervisor.clone());
    run.handle.spawn(Owner::Daemon(incarnation), async move {
        let ending = process.run(signals).await;
        run_at_end.checker.trace(|| format!("otter ends: {ending:?}"));
        run_at_end.crash();
    });
    Ok(services)
}

/// A pool of the machines that were not renamed.
fn pools() -> Pools {
    let pool = Pool { machines: vec!["machine-*".parse().unwrap()], ..Pool::default() };
    Pools([("ci".to_owned(), pool)].into())
}

/// Reads all events, and the jobs and leases that they are about.
async fn read(run: Arc<Run>, services: Services, event_stream: EventStream) {
    let mut reader = event_stream.subscribe(EventFilter::default());
    let reader_caller = Caller::new("reader", Role::Admin);
    loop {
        reader.wait_for_more().await;
        while let NextEvent::Event(event) = reader.read() {
            run.checker.trace(|| format!("event {:?}", event.subject).chars().take(120).collect());
            match event.subject {
                Subject::Job { ended: Some(job), .. } => {
                    let read_started = run.checker.read_started();
                    run.checker.job_reported(&job, read_started, &services.inventory.contents());
                }
                Subject::Job { id, .. } => {
                    let (run, services) = (Arc::clone(&run), services.clone());
                    let read_started = run.checker.read_started();
                    run.handle.clone().spawn(Owner::Daemon(services.incarnation), async move {
                        if let Ok(Some(view)) = services.jobs.get(id).await {
                            run.checker.job_reported(
                                &view.job,
                                read_started,
                                &services.inventory.contents(),
                            );
                        }
                    });
                }
                Subject::Lease { .. } => {
                    for view in services.leases.open_leases(&reader_caller) {
                        let mut state = run.checker.state();
                        let super::invariant_checker::CheckerState {
                            lease_invariants, disk, ..
                        } = &mut *state;
                        lease_invariants.shown(&view.lease, disk);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Run {
    /// Calls otter like a client: over a network, and with an answer that may be lost. `None` if
    /// the client gets no answer.
    pub async fn ask<T, F>(self: &Arc<Self>, call: impl FnOnce(Services) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.pause().await;
        let services = self.services()?;
        let incarnation = services.incarnation;
        let (mut reply, answered) = oneshot::channel();
        let call = call(services);
        self.handle.spawn(Owner::Daemon(incarnation), async move {
            tokio::select! {
                biased;
                answer = call => drop(reply.send(answer)),
                // The client no longer waits.
                () = reply.closed() => {}
            }
        });
        let answer = tokio::select! {
            biased;
            answer = answered => answer.ok()?,
            () = self.handle.pause(ANSWER_TIMEOUT) => return None,
        };
        self.pause().await;
        let lost = self.profile().lost_answer;
        (!self.random().percent(lost)).then_some(answer)
    }
}
