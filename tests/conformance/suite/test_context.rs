//! The context of one case: a running, connected backend, its host, and the helpers of the cases.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::domain::datastore::Datastore;
use otter::domain::ids::{JobId, MachineId, SnapshotId, TaskId};
use otter::domain::machine::Machine;
use otter::hypervisor::{
    Accepted, CallError, HostError, HostErrorKind, Hypervisor, SessionState, TaskStatus,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::host_control::{Ability, HostContents, HostControl, TestHost, TestMachines};
use super::recording_observer::{Recording, RecordingObserver};

/// The argument of every case.
pub struct TestContext {
    pub backend: Arc<dyn Hypervisor>,
    pub control: Box<dyn HostControl>,
    pub observer: Arc<RecordingObserver>,
    pub machines: TestMachines,
    stop: CancellationToken,
    run: Mutex<Option<JoinHandle<Result<(), HostError>>>>,
    timeout: Duration,
    jobs: AtomicU64,
}

impl TestContext {
    /// Runs the backend and waits until it is connected.
    pub(super) async fn start(host: TestHost, timeout: Duration) -> Result<Self> {
        let TestHost { backend, control } = host;
        let (observer, stop) = (Arc::new(RecordingObserver::default()), CancellationToken::new());
        let run = tokio::spawn({
            let (backend, observer, stop) =
                (Arc::clone(&backend), Arc::clone(&observer), stop.clone());
            async move { backend.run(observer, stop).await }
        });
        let machines = control.machines();
        let (run, jobs) = (Mutex::new(Some(run)), AtomicU64::new(1));
        let test = Self { backend, control, observer, machines, stop, run, timeout, jobs };
        test.wait_connected(1).await?;
        Ok(test)
    }

    /// Stops the backend, and fails if a report broke a rule.
    pub(super) async fn finish(&self) -> Result<()> {
        let stopped = self.stop().await;
        let violations = self.observer.read(|recording| recording.violations.clone());
        ensure!(violations.is_empty(), "{}", violations.join("; "));
        stopped
    }

    /// Awaits `future` within the timeout of the suite. `what` names it in the error.
    pub async fn in_time<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(self.timeout, future)
            .await
            .map_err(|_| anyhow::anyhow!("timed out: {what}"))
    }

    /// Waits until `holds` returns a value for the recording. `what` names it in the error.
    pub async fn wait_until<T>(
        &self,
        what: &str,
        holds: impl FnMut(&Recording) -> Option<T>,
    ) -> Result<T> {
        let waited = self.in_time(what, self.observer.wait_until(holds)).await;
        waited.with_context(|| {
            format!("status: {:?}", self.observer.read(|recording| recording.status().cloned()))
        })
    }

    /// Waits until the backend is connected and has logged in at least this many times.
    pub async fn wait_connected(&self, logins: u64) -> Result<()> {
        let connected = |recording: &Recording| {
            let status = recording.status()?;
            (status.state == SessionState::Connected && status.logins >= logins).then_some(())
        };
        self.wait_until("a connection", connected).await
    }

    /// Waits until the backend is connected and has reported more than `sets` complete sets.
    pub async fn wait_resynced(&self, sets: usize) -> Result<()> {
        let connected = |recording: &Recording| {
            let status = recording.status()?;
            (status.state == SessionState::Connected && recording.complete_sets() > sets)
                .then_some(())
        };
        self.wait_until("a connection with complete facts", connected).await
    }

    /// The number of complete sets until now.
    pub fn complete_sets(&self) -> usize {
        self.observer.read(Recording::complete_sets)
    }

    /// A machine as the observer knows it.
    pub fn machine(&self, id: &MachineId) -> Result<Machine> {
        self.observer
            .read(|recording| recording.contents.machines.get(id).cloned())
            .with_context(|| format!("the observer does not know machine {id}"))
    }

    /// Calls a barrier, which must succeed.
    pub async fn barrier(&self) -> Result<()> {
        self.in_time("a barrier", self.backend.barrier()).await?.context("a barrier")
    }

    /// Calls a barrier until it succeeds, for a case in which the backend may not have noticed a
    /// lost session yet.
    pub async fn barrier_once_connected(&self) -> Result<()> {
        let passed = async {
            while let Err(error) = self.backend.barrier().await {
                if error.kind != HostErrorKind::Unreachable {
                    return Err(error);
                }
                let connected = |recording: &Recording| {
                    (recording.status()?.state == SessionState::Connected).then_some(())
                };
                self.observer.wait_until(connected).await;
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        self.in_time("a barrier", passed).await?.context("a barrier")
    }

    /// Calls a barrier and fails if the observer's contents differ from the host's contents. If the
    /// host changed meanwhile, it compares again. Returns the contents.
    pub async fn check_matches_host(&self) -> Result<HostContents> {
        let mut before = None;
        loop {
            self.barrier_once_connected().await?;
            let known = self.observer.read(|recording| recording.contents.clone());
            let actual = self.control.contents().await?;
            match self.compare(&known, &actual) {
                Ok(()) => return Ok(actual),
                Err(error) if before.as_ref() == Some(&actual) => return Err(error),
                Err(_) => before = Some(actual),
            }
        }
    }

    /// Fails if the observer's contents differ from the host's. It ignores properties of datastores
    /// that the host does not report.
    pub fn compare(&self, known: &HostContents, actual: &HostContents) -> Result<()> {
        for (id, machine) in &actual.machines {
            match known.machines.get(id) {
                Some(known) => {
                    ensure!(
                        known == machine,
                        "the observer has {known:?}, the host has {machine:?}"
                    );
                }
                None => bail!("the observer does not know {machine:?}"),
            }
        }
        let invented = known.machines.keys().find(|id| !actual.machines.contains_key(id));
        ensure!(invented.is_none(), "the observer has machine {invented:?}, the host has not");
        let reports_datastores = self.control.unsupported(Ability::DatastoreUpdates).is_none();
        let datastores = |contents: &HostContents| {
            let as_reported = |datastore: &Datastore| {
                // The time of a measurement is the host's own.
                let datastore = Datastore { free_bytes_at: None, ..datastore.clone() };
                if reports_datastores {
                    datastore
                } else {
                    Datastore { machine_count: 0, free_bytes: None, ..datastore }
                }
            };
            contents.datastores.values().map(as_reported).collect::<Vec<_>>()
        };
        let (known, actual) = (datastores(known), datastores(actual));
        ensure!(known == actual, "the observer has {known:?}, the host has {actual:?}");
        Ok(())
    }

    /// The id of the next job. Each call has its own.
    pub fn next_job(&self) -> JobId {
        JobId::new(Uuid::from_u128(u128::from(self.jobs.fetch_add(1, Ordering::Relaxed))))
    }

    /// Makes a call.
    pub async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
    ) -> Result<Result<Accepted, CallError>> {
        self.in_time("an answer to a call", self.backend.call(machine, call, self.next_job())).await
    }

    /// Makes a call that must start a task, and returns the task.
    pub async fn start_task(&self, machine: &MachineId, call: &HostCall) -> Result<TaskId> {
        match self
            .call(machine, call)
            .await?
            .map_err(call_error)
            .with_context(|| format!("{call:?}"))?
        {
            Accepted::Task(task) => Ok(task),
            Accepted::Done => bail!("{call:?} has no task"),
        }
    }

    /// Makes a call that must be done without a task.
    pub async fn call_without_task(&self, machine: &MachineId, call: &HostCall) -> Result<()> {
        match self
            .call(machine, call)
            .await?
            .map_err(call_error)
            .with_context(|| format!("{call:?}"))?
        {
            Accepted::Done => Ok(()),
            Accepted::Task(task) => bail!("{call:?} has the task {task}"),
        }
    }

    /// Follows a task to its end.
    pub async fn wait_task_end(&self, task: &TaskId) -> Result<TaskStatus> {
        let status = self.in_time("a follower", self.backend.follow(task)).await?;
        self.wait_end(status).await
    }

    /// Waits for the end of a followed task. Fails if its progress decreases.
    pub async fn wait_end(&self, mut status: watch::Receiver<TaskStatus>) -> Result<TaskStatus> {
        let end = async {
            let mut highest = None;
            loop {
                let now = status.borrow_and_update().clone();
                let TaskStatus::Running { progress } = now else { return Ok(now) };
                ensure!(progress.is_none_or(|percent| percent <= 100), "progress of {progress:?}");
                ensure!(progress >= highest, "progress decreases: {highest:?} to {progress:?}");
                highest = progress;
                status.changed().await.context("the follower was closed before the end")?;
            }
        };
        self.in_time("the end of a task", end).await?
    }

    /// Makes a call whose task must succeed, then a barrier. Returns the created snapshot, if any.
    pub async fn run_task(
        &self,
        machine: &MachineId,
        call: &HostCall,
    ) -> Result<Option<SnapshotId>> {
        let task = self.start_task(machine, call).await?;
        let TaskStatus::Succeeded { snapshot } = expect_success(self.wait_task_end(&task).await?)?
        else {
            bail!("{call:?} did not succeed")
        };
        self.barrier().await?;
        Ok(snapshot)
    }

    /// Makes a call that must be refused or whose task must fail, and returns the error.
    pub async fn call_failure(
        &self,
        machine: &MachineId,
        call: &HostCall,
    ) -> Result<Arc<HostError>> {
        match self.call(machine, call).await? {
            Err(CallError::Refused(error)) => Ok(Arc::new(error)),
            Err(CallError::Lost(error)) => bail!("{call:?} is lost: {error:?}"),
            Ok(Accepted::Done) => bail!("{call:?} is done"),
            Ok(Accepted::Task(task)) => match self.wait_task_end(&task).await? {
                TaskStatus::Failed(error) => Ok(error),
                end => bail!("{call:?} ends as {end:?}"),
            },
        }
    }

    /// Stops the backend and waits until `run` returns.
    pub async fn stop(&self) -> Result<()> {
        self.stop.cancel();
        let run = self.run.lock().unwrap_or_else(PoisonError::into_inner).take();
        match run {
            Some(run) => self.in_time("the end of run", run).await??.context("run"),
            None => Ok(()),
        }
    }
}

/// Fails if a task did not succeed.
pub fn expect_success(end: TaskStatus) -> Result<TaskStatus> {
    match end {
        TaskStatus::Succeeded { .. } => Ok(end),
        TaskStatus::Failed(error) => bail!("a task failed: {error:?}"),
        end => bail!("a task ends as {end:?}"),
    }
}

/// Describes a failed call.
pub fn call_error(error: CallError) -> anyhow::Error {
    match error {
        CallError::Refused(error) => anyhow::anyhow!("refused: {error:?}"),
        CallError::Lost(error) => anyhow::anyhow!("lost: {error:?}"),
    }
}

impl Drop for TestContext {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
