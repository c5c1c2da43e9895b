//! What the tests of this room share: an observer that keeps a picture, and a backend that runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use otter::clock::Clock;
use otter::domain::datastore::Datastore;
use otter::domain::ids::{DatastoreId, JobId, MachineId};
use otter::domain::machine::Machine;
use otter::domain::verify::Verify;
use otter::esx::{EsxHypervisor, EsxOptions};
use otter::hypervisor::{
    Fact, Facts, HostError, Hypervisor, Observer, SessionState, SessionStatus,
};
use otter::simulator::{Pace, Scenario, Simulator, SimulatorOptions};

use crate::harness::record;

/// The longest that a test waits for an event.
const PATIENCE: Duration = Duration::from_secs(20);

/// Keeps what it is told.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub machines: BTreeMap<MachineId, Machine>,
    pub datastores: BTreeMap<DatastoreId, Datastore>,
    pub restarts: Vec<MachineId>,
    pub confirmed: Vec<Fact>,
    pub syncs: usize,
    /// The fewest machines that there were after any facts.
    pub smallest: Option<usize>,
    pub statuses: Vec<SessionStatus>,
}

pub struct Watching {
    picture: Mutex<Picture>,
    changed: watch::Sender<u64>,
}

impl Watching {
    /// What was told until now.
    pub fn picture(&self) -> Picture {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Picture> {
        self.picture.lock().unwrap()
    }

    /// Waits until this holds.
    pub async fn until<T>(&self, what: &str, mut holds: impl FnMut(&Picture) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(value) = holds(&self.lock()) {
                    return value;
                }
                changed.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("never came: {what}; {:?}", self.picture()))
    }

    pub async fn connected(&self, logins: u64) {
        self.until("connected", |picture| {
            let status = picture.statuses.last()?;
            (status.state == SessionState::Connected && status.logins >= logins).then_some(())
        })
        .await;
    }
}

impl Observer for Watching {
    fn observe(&self, facts: Facts) {
        {
            let mut picture = self.lock();
            if facts.complete {
                picture.machines.clear();
                picture.datastores.clear();
                picture.syncs += 1;
            }
            for fact in facts.changes {
                match fact {
                    Fact::Machine(machine) => {
                        picture.machines.insert(machine.id.clone(), Arc::unwrap_or_clone(machine));
                    }
                    Fact::MachineRemoved(id) => {
                        picture.machines.remove(&id);
                    }
                    Fact::Datastore(datastore) => {
                        picture
                            .datastores
                            .insert(datastore.id.clone(), Arc::unwrap_or_clone(datastore));
                    }
                    Fact::DatastoreRemoved(id) => {
                        picture.datastores.remove(&id);
                    }
                    Fact::GuestRestarted(id) => picture.restarts.push(id),
                    fact @ Fact::GuestConfirmed { .. } => picture.confirmed.push(fact),
                }
            }
            let count = picture.machines.len();
            picture.smallest = Some(picture.smallest.map_or(count, |smallest| smallest.min(count)));
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn session(&self, status: SessionStatus) {
        self.lock().statuses.push(status);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// A backend whose `run` runs.
pub struct Running {
    pub esx: Arc<EsxHypervisor>,
    pub watching: Arc<Watching>,
    pub clock: Clock,
    stop: CancellationToken,
    task: JoinHandle<Result<(), HostError>>,
}

pub fn options(url: &str) -> EsxOptions {
    let mut options = EsxOptions::new(url, "root", SecretString::from("otter"));
    options.verify = Verify::Off;
    options.connect_timeout = Duration::from_secs(5);
    options.read_timeout = Duration::from_secs(10);
    options
}

impl Running {
    pub fn start(options: &EsxOptions) -> Self {
        Self::start_at(options, Clock::system())
    }

    pub fn start_at(options: &EsxOptions, clock: Clock) -> Self {
        let esx = Arc::new(EsxHypervisor::new(options, clock.clone()).unwrap());
        let watching =
            Arc::new(Watching { picture: Mutex::default(), changed: watch::Sender::new(0) });
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (esx, watching, stop) = (Arc::clone(&esx), Arc::clone(&watching), stop.clone());
            async move { esx.run(watching, stop).await }
        });
        Self { esx, watching, clock, stop, task }
    }

    pub fn job(&self) -> JobId {
        JobId::new(self.clock.uuid())
    }

    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// A simulator with this scenario, without pauses, and a backend that is connected to it.
pub async fn lab(scenario: Scenario) -> (Simulator, Running) {
    paced(scenario, Pace::Auto { scale: 0.0 }).await
}

/// As [`lab`], at this pace.
pub async fn paced(scenario: Scenario, pace: Pace) -> (Simulator, Running) {
    let simulator = simulator(scenario, pace).await;
    let running = Running::start(&options(&simulator.url()));
    running.watching.connected(1).await;
    (simulator, running)
}

pub async fn simulator(scenario: Scenario, pace: Pace) -> Simulator {
    let mut options = SimulatorOptions::new(scenario, Clock::system());
    options.pace = pace;
    options.on_answer = Some(record);
    Simulator::start(options).await.unwrap()
}

/// Bounds a wait for what has to come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("never came: {what}"))
}

/// The moid of a generated machine by its place, from 0.
pub fn moid(scenario: &Scenario, place: usize) -> MachineId {
    MachineId::from_backend(&scenario.machines[place].id)
}
