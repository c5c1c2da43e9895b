//! One case on one host: a backend that runs and is connected, and what cases do with it again and
//! again.

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

use super::stage::{Ability, Cast, Set, Stage, Truth};
use super::watching::{Picture, Watching};

/// What a case has to work with.
pub struct Trial {
    pub backend: Arc<dyn Hypervisor>,
    pub stage: Box<dyn Stage>,
    pub watching: Arc<Watching>,
    pub cast: Cast,
    stop: CancellationToken,
    run: Mutex<Option<JoinHandle<Result<(), HostError>>>>,
    patience: Duration,
    jobs: AtomicU64,
}

impl Trial {
    /// Runs the backend and waits until it is connected.
    pub(super) async fn begin(set: Set, patience: Duration) -> Result<Self> {
        let Set { backend, stage } = set;
        let (watching, stop) = (Arc::new(Watching::default()), CancellationToken::new());
        let run = tokio::spawn({
            let (backend, watching, stop) =
                (Arc::clone(&backend), Arc::clone(&watching), stop.clone());
            async move { backend.run(watching, stop).await }
        });
        let cast = stage.cast();
        let (run, jobs) = (Mutex::new(Some(run)), AtomicU64::new(1));
        let trial = Self { backend, stage, watching, cast, stop, run, patience, jobs };
        trial.connected_with(1).await?;
        Ok(trial)
    }

    /// Stops the backend where the case did not, and judges all that was told.
    pub(super) async fn end(&self) -> Result<()> {
        let stopped = self.stop().await;
        let broken = self.watching.look(|picture| picture.broken.clone());
        ensure!(broken.is_empty(), "{}", broken.join("; "));
        stopped
    }

    /// Waits for what must come, within the patience of the suite.
    pub async fn soon<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(self.patience, future)
            .await
            .map_err(|_| anyhow::anyhow!("never came: {what}"))
    }

    /// Waits until the picture gives something.
    pub async fn seen<T>(&self, what: &str, holds: impl FnMut(&Picture) -> Option<T>) -> Result<T> {
        let waited = self.soon(what, self.watching.until(holds)).await;
        waited.with_context(|| {
            format!("last told: {:?}", self.watching.look(|picture| picture.status().cloned()))
        })
    }

    /// Waits until it is connected, after at least this many logins.
    pub async fn connected_with(&self, logins: u64) -> Result<()> {
        let connected = |picture: &Picture| {
            let status = picture.status()?;
            (status.state == SessionState::Connected && status.logins >= logins).then_some(())
        };
        self.seen("a connection", connected).await
    }

    /// Waits until it is connected by a whole picture that is not among the first `sets`.
    pub async fn connected_after(&self, sets: usize) -> Result<()> {
        let connected = |picture: &Picture| {
            let status = picture.status()?;
            (status.state == SessionState::Connected && picture.whole_sets() > sets).then_some(())
        };
        self.seen("a connection with a whole picture", connected).await
    }

    /// How often the whole picture was told until now.
    pub fn whole_sets(&self) -> usize {
        self.watching.look(Picture::whole_sets)
    }

    /// The machine as the observer knows it.
    pub fn machine(&self, id: &MachineId) -> Result<Machine> {
        self.watching
            .look(|picture| picture.all.machines.get(id).cloned())
            .with_context(|| format!("the observer does not know machine {id}"))
    }

    /// A barrier that has to hold.
    pub async fn barrier(&self) -> Result<()> {
        self.soon("a barrier", self.backend.barrier()).await?.context("a barrier")
    }

    /// A barrier for when a loss may not have been noticed yet: called again once the session is
    /// back.
    pub async fn barrier_at_last(&self) -> Result<()> {
        let passed = async {
            while let Err(error) = self.backend.barrier().await {
                if error.kind != HostErrorKind::Unreachable {
                    return Err(error);
                }
                let connected = |picture: &Picture| {
                    (picture.status()?.state == SessionState::Connected).then_some(())
                };
                self.watching.until(connected).await;
                tokio::task::yield_now().await;
            }
            Ok(())
        };
        self.soon("a barrier", passed).await?.context("a barrier")
    }

    /// After a barrier, the whole picture is the truth, no more and no less. Where they differ, the
    /// host must have stood still meanwhile for that to be wrong.
    pub async fn agrees(&self) -> Result<Truth> {
        let mut before = None;
        loop {
            self.barrier_at_last().await?;
            let known = self.watching.look(|picture| picture.all.clone());
            let truth = self.stage.truth().await?;
            match self.compare(&known, &truth) {
                Ok(()) => return Ok(truth),
                Err(error) if before.as_ref() == Some(&truth) => return Err(error),
                Err(_) => before = Some(truth),
            }
        }
    }

    /// Makes sure that what is known is the truth. What a host does not tell of datastores is left
    /// out.
    pub fn compare(&self, known: &Truth, truth: &Truth) -> Result<()> {
        for (id, machine) in &truth.machines {
            match known.machines.get(id) {
                Some(known) => {
                    ensure!(
                        known == machine,
                        "the observer knows {known:?}, the truth is {machine:?}"
                    );
                }
                None => bail!("the observer does not know {machine:?}"),
            }
        }
        let invented = known.machines.keys().find(|id| !truth.machines.contains_key(id));
        ensure!(invented.is_none(), "the observer knows machine {invented:?}, which there is not");
        let told = self.stage.lacks(Ability::DatastoreNews).is_none();
        let datastores = |of: &Truth| {
            let as_told = |datastore: &Datastore| {
                let datastore = datastore.clone();
                if told {
                    datastore
                } else {
                    Datastore { machine_count: 0, free_bytes: None, ..datastore }
                }
            };
            of.datastores.values().map(as_told).collect::<Vec<_>>()
        };
        let (known, truth) = (datastores(known), datastores(truth));
        ensure!(known == truth, "the observer knows {known:?}, the truth is {truth:?}");
        Ok(())
    }

    /// A job of its own for each call.
    pub fn job(&self) -> JobId {
        JobId::new(Uuid::from_u128(u128::from(self.jobs.fetch_add(1, Ordering::Relaxed))))
    }

    /// Makes a call.
    pub async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
    ) -> Result<Result<Accepted, CallError>> {
        self.soon("an answer to a call", self.backend.call(machine, call, self.job())).await
    }

    /// Makes a call that starts a task.
    pub async fn task(&self, machine: &MachineId, call: &HostCall) -> Result<TaskId> {
        match self.call(machine, call).await?.map_err(told).with_context(|| format!("{call:?}"))? {
            Accepted::Task(task) => Ok(task),
            Accepted::Done => bail!("{call:?} has no task"),
        }
    }

    /// Makes a call that is done without a task.
    pub async fn at_once(&self, machine: &MachineId, call: &HostCall) -> Result<()> {
        match self.call(machine, call).await?.map_err(told).with_context(|| format!("{call:?}"))? {
            Accepted::Done => Ok(()),
            Accepted::Task(task) => bail!("{call:?} has the task {task}"),
        }
    }

    /// Follows a task to its end, and makes sure that its percentage never falls.
    pub async fn end_of(&self, task: &TaskId) -> Result<TaskStatus> {
        let status = self.soon("a follower", self.backend.follow(task)).await?;
        self.end_at(status).await
    }

    /// Waits for the end that a follower is told.
    pub async fn end_at(&self, mut status: watch::Receiver<TaskStatus>) -> Result<TaskStatus> {
        let end = async {
            let mut highest = None;
            loop {
                let now = status.borrow_and_update().clone();
                let TaskStatus::Running { progress } = now else { return Ok(now) };
                ensure!(progress.is_none_or(|percent| percent <= 100), "progress of {progress:?}");
                ensure!(progress >= highest, "progress falls from {highest:?} to {progress:?}");
                highest = progress;
                status.changed().await.context("a follower is let go before the end")?;
            }
        };
        self.soon("the end of a task", end).await?
    }

    /// Makes a call whose task has to end well; then a barrier, so that the picture shows it.
    pub async fn done(&self, machine: &MachineId, call: &HostCall) -> Result<Option<SnapshotId>> {
        let task = self.task(machine, call).await?;
        let TaskStatus::Succeeded { snapshot } = succeeded(self.end_of(&task).await?)? else {
            bail!("{call:?} did not end well")
        };
        self.barrier().await?;
        Ok(snapshot)
    }

    /// Makes a call that has to fail, by a refusal or by its task.
    pub async fn failure(&self, machine: &MachineId, call: &HostCall) -> Result<Arc<HostError>> {
        match self.call(machine, call).await? {
            Err(CallError::Refused(error)) => Ok(Arc::new(error)),
            Err(CallError::Lost(error)) => bail!("{call:?} is lost: {error:?}"),
            Ok(Accepted::Done) => bail!("{call:?} is done"),
            Ok(Accepted::Task(task)) => match self.end_of(&task).await? {
                TaskStatus::Failed(error) => Ok(error),
                end => bail!("{call:?} ends as {end:?}"),
            },
        }
    }

    /// Tells the backend to stop, and waits until it has.
    pub async fn stop(&self) -> Result<()> {
        self.stop.cancel();
        let run = self.run.lock().unwrap_or_else(PoisonError::into_inner).take();
        match run {
            Some(run) => self.soon("the end of run", run).await??.context("run"),
            None => Ok(()),
        }
    }
}

/// A task's end that has to be a good one.
pub fn succeeded(end: TaskStatus) -> Result<TaskStatus> {
    match end {
        TaskStatus::Succeeded { .. } => Ok(end),
        TaskStatus::Failed(error) => bail!("a task failed: {error:?}"),
        end => bail!("a task ends as {end:?}"),
    }
}

/// A failed call, with all that is known of it.
pub fn told(error: CallError) -> anyhow::Error {
    match error {
        CallError::Refused(error) => anyhow::anyhow!("refused: {error:?}"),
        CallError::Lost(error) => anyhow::anyhow!("lost: {error:?}"),
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
