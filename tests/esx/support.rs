//! Helpers of these tests: a recording observer, and a running backend.

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

use crate::harness::record_answer;

/// The longest wait for an event.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What the observer has received.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub machines: BTreeMap<MachineId, Machine>,
    pub datastores: BTreeMap<DatastoreId, Datastore>,
    pub restarts: Vec<MachineId>,
    pub confirmed: Vec<Fact>,
    pub syncs: usize,
    /// The smallest number of machines after any set of facts.
    pub smallest: Option<usize>,
    pub statuses: Vec<SessionStatus>,
}

pub struct RecordingObserver {
    recording: Mutex<Recording>,
    changed: watch::Sender<u64>,
}

impl RecordingObserver {
    /// A copy of the recording.
    pub fn recording(&self) -> Recording {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap()
    }

    /// Waits until `holds` returns a value for the recording. `what` names it in the panic.
    pub async fn wait_until<T>(
        &self,
        what: &str,
        mut holds: impl FnMut(&Recording) -> Option<T>,
    ) -> T {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(value) = holds(&self.lock()) {
                    return value;
                }
                changed.changed().await.unwrap();
            }
        };
        let waited = tokio::time::timeout(TIMEOUT, waiting).await;
        waited.unwrap_or_else(|_| panic!("timed out: {what}; {:?}", self.recording()))
    }

    pub async fn wait_connected(&self, logins: u64) {
        self.wait_until("connected", |recording| {
            let status = recording.statuses.last()?;
            (status.state == SessionState::Connected && status.logins >= logins).then_some(())
        })
        .await;
    }
}

impl Observer for RecordingObserver {
    fn observe(&self, facts: Facts) {
        {
            let mut recording = self.lock();
            if facts.complete {
                recording.machines.clear();
                recording.datastores.clear();
                recording.syncs += 1;
            }
            for fact in facts.changes {
                match fact {
                    Fact::Machine(machine) => {
                        recording
                            .machines
                            .insert(machine.id.clone(), Arc::unwrap_or_clone(machine));
                    }
                    Fact::MachineRemoved(id) => {
                        recording.machines.remove(&id);
                    }
                    Fact::Datastore(datastore) => {
                        recording
                            .datastores
                            .insert(datastore.id.clone(), Arc::unwrap_or_clone(datastore));
                    }
                    Fact::DatastoreRemoved(id) => {
                        recording.datastores.remove(&id);
                    }
                    Fact::GuestRestarted { machine, .. } => recording.restarts.push(machine),
                    fact @ Fact::GuestConfirmed { .. } => recording.confirmed.push(fact),
                }
            }
            let count = recording.machines.len();
            recording.smallest =
                Some(recording.smallest.map_or(count, |smallest| smallest.min(count)));
        }
        self.changed.send_modify(|count| *count += 1);
    }

    fn session(&self, status: SessionStatus) {
        self.lock().statuses.push(status);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// A backend and the task of its `run`.
pub struct RunningBackend {
    pub esx: Arc<EsxHypervisor>,
    pub observer: Arc<RecordingObserver>,
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

impl RunningBackend {
    pub fn start(options: &EsxOptions) -> Self {
        Self::start_at(options, Clock::system())
    }

    pub fn start_at(options: &EsxOptions, clock: Clock) -> Self {
        let esx = Arc::new(EsxHypervisor::new(options, clock.clone()).unwrap());
        let observer = Arc::new(RecordingObserver {
            recording: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (esx, observer, stop) = (Arc::clone(&esx), Arc::clone(&observer), stop.clone());
            async move { esx.run(observer, stop).await }
        });
        Self { esx, observer, clock, stop, task }
    }

    pub fn job(&self) -> JobId {
        JobId::new(self.clock.uuid())
    }

    pub async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(TIMEOUT, self.task).await.unwrap().unwrap().unwrap();
    }
}

/// A simulator with this scenario, whose tasks end at once, and a connected backend.
pub async fn connected_lab(scenario: Scenario) -> (Simulator, RunningBackend) {
    connected_lab_at_pace(scenario, Pace::Auto { scale: 0.0 }).await
}

/// Like [`connected_lab`], at this pace.
pub async fn connected_lab_at_pace(scenario: Scenario, pace: Pace) -> (Simulator, RunningBackend) {
    let simulator = start_simulator(scenario, pace).await;
    let running = RunningBackend::start(&options(&simulator.url()));
    running.observer.wait_connected(1).await;
    (simulator, running)
}

pub async fn start_simulator(scenario: Scenario, pace: Pace) -> Simulator {
    let mut options = SimulatorOptions::new(scenario, Clock::system());
    options.pace = pace;
    options.on_answer = Some(record_answer);
    Simulator::start(options).await.unwrap()
}

/// Awaits `future`, and panics if it does not complete in time. `what` names it in the panic.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
}

/// The id of a machine of the scenario by its index.
pub fn machine_id(scenario: &Scenario, index: usize) -> MachineId {
    MachineId::from_backend(&scenario.machines[index].id)
}
