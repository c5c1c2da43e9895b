//! The host behind an unreliable network: requests have latencies, and calls or their answers can
//! be lost. A call that was sent may arrive even if the daemon has been killed meanwhile.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use otter::domain::call::{Evidence, HostCall};
use otter::domain::ids::{JobId, MachineId, TaskId};
use otter::hypervisor::{
    Accepted, CallError, Facts, HostError, HostErrorKind, Hypervisor, Observer, SessionStatus,
    TaskStatus,
};
use otter::service::inventory::Inventory;
use otter::simulator::Moref;
use otter::simulator::world::World;
use serde_json::{Map, Value};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Run;
use super::executor::Owner;
use crate::in_process::{Hooks, InProcess, Interruption, Request};

/// The host as one process of the daemon reaches it.
pub struct UnreliableHost {
    run: Arc<Run>,
    incarnation: u32,
    backend: Arc<InProcess>,
    inventory: Arc<Inventory>,
}

impl UnreliableHost {
    pub fn new(run: &Arc<Run>, incarnation: u32, inventory: &Arc<Inventory>) -> Self {
        let latencies = Arc::new(LatencyHooks(Arc::clone(run)));
        let backend = Arc::new(InProcess::new(run.host.clone()).with_hooks(latencies));
        Self { run: Arc::clone(run), incarnation, backend, inventory: Arc::clone(inventory) }
    }
}

#[async_trait]
impl Hypervisor for UnreliableHost {
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError> {
        let run = Arc::clone(&self.run);
        let observer = CheckedObserver { run, observer, inventory: Arc::clone(&self.inventory) };
        self.backend.run(Arc::new(observer), stop).await
    }

    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
    ) -> Result<Accepted, CallError> {
        self.run.checker.sent(job, machine, call);
        let (reply, answered) = oneshot::channel();
        let (run, backend, incarnation) =
            (Arc::clone(&self.run), Arc::clone(&self.backend), self.incarnation);
        let (machine, call) = (machine.clone(), call.clone());
        self.run.spawn(async move {
            let answer = send_call(&run, &backend, incarnation, &machine, &call, job).await;
            run.checker.trace(|| format!("{job} is answered {answer:?}"));
            let mut seen = run.checker.state();
            match &answer {
                Ok(_) => {}
                Err(CallError::Refused(_)) => seen.job_invariants.call_refused(job),
                Err(CallError::Lost(_)) => seen.job_invariants.call_lost(job),
            }
            // The daemon may have been killed.
            let _ = reply.send(answer);
        });
        answered.await.unwrap_or_else(|_| Err(CallError::Lost(connection_lost())))
    }

    /// Passes the status of a task to its follower and to the checker.
    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        let mut status = self.backend.follow(task).await;
        let first = status.borrow().clone();
        let (sender, receiver) = watch::channel(first);
        let (run, task) = (Arc::clone(&self.run), task.clone());
        self.run.handle.spawn(Owner::Daemon(self.incarnation), async move {
            loop {
                let now = status.borrow_and_update().clone();
                run.checker.state().job_invariants.task_reported(&task, &now);
                let is_end = !matches!(now, TaskStatus::Running { .. });
                sender.send_replace(now);
                tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    changed = status.changed(), if !is_end => if changed.is_err() { return },
                    else => return,
                }
            }
        });
        receiver
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        self.backend.cancel(task).await
    }

    async fn barrier(&self) -> Result<(), HostError> {
        self.run.pause().await;
        self.backend.barrier().await
    }

    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        let evidence = self.backend.read_evidence(machine).await?;
        self.run.checker.state().lease_invariants.looked(machine);
        Ok(evidence)
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        self.backend.confirm_guest(machine).await
    }

    async fn properties(
        &self,
        machine: &MachineId,
        paths: &[String],
    ) -> Result<Map<String, Value>, HostError> {
        self.backend.properties(machine, paths).await
    }
}

/// Sends a call to the host and its answer back.
async fn send_call(
    run: &Arc<Run>,
    backend: &Arc<InProcess>,
    incarnation: u32,
    machine: &MachineId,
    call: &HostCall,
    job: JobId,
) -> Result<Accepted, CallError> {
    run.pause().await;
    let profile = run.profile();
    if run.random().percent(profile.lost_before) {
        // The call may arrive after otter learned that it is lost.
        if run.random().percent(30) {
            let (run, backend) = (Arc::clone(run), Arc::clone(backend));
            let (machine, call) = (machine.clone(), call.clone());
            let late = Arc::clone(&run);
            late.spawn(async move {
                run.pause_between(Duration::ZERO, Duration::from_secs(3)).await;
                let _ = deliver(&run, &backend, &machine, &call, job).await;
            });
        }
        return Err(CallError::Lost(connection_lost()));
    }
    if !run.is_running(incarnation) && run.random().percent(50) {
        return Err(CallError::Lost(connection_lost()));
    }
    let answer = deliver(run, backend, &machine.clone(), call, job).await;
    run.pause().await;
    if run.random().percent(profile.lost_after) {
        return Err(CallError::Lost(connection_lost()));
    }
    answer
}

/// Runs a call on the host.
async fn deliver(
    run: &Run,
    backend: &InProcess,
    machine: &MachineId,
    call: &HostCall,
    job: JobId,
) -> Result<Accepted, CallError> {
    let answer = backend.call(machine, call, job).await;
    if let Ok(accepted) = &answer {
        run.checker.call_accepted(job, call, accepted, run.host.look(World::revision));
    }
    answer
}

fn connection_lost() -> HostError {
    HostError::new(HostErrorKind::Unreachable, "The connection to the host broke.")
}

/// Hooks that delay all requests except calls, and make some reads unreadable.
struct LatencyHooks(Arc<Run>);

#[async_trait]
impl Hooks for LatencyHooks {
    async fn before_request(&self, request: Request<'_>) -> Result<(), Interruption> {
        let Self(run) = self;
        if matches!(request, Request::Call(..)) {
            return Ok(());
        }
        run.pause().await;
        let unreadable = run.profile().unreadable;
        let is_read = matches!(request, Request::Examine(_) | Request::ConfirmGuest(_));
        if is_read && run.random().percent(unreadable) {
            Err(Interruption::Unreadable)
        } else {
            Ok(())
        }
    }

    async fn before_update(&self) {
        self.0.pause_between(Duration::from_millis(1), Duration::from_millis(400)).await;
    }

    fn is_in_next_update(&self, _: &Moref) -> bool {
        self.0.random().percent(70)
    }
}

/// Passes facts to the inventory and checks the addresses in it.
struct CheckedObserver {
    run: Arc<Run>,
    observer: Arc<dyn Observer>,
    inventory: Arc<Inventory>,
}

impl Observer for CheckedObserver {
    fn observe(&self, facts: Facts) {
        self.run.checker.trace(|| {
            let reported =
                facts.changes.iter().map(|fact| format!("{fact:?}").chars().take(300).collect());
            let reported: Vec<String> = reported.collect();
            format!("facts, complete={}: {}", facts.complete, reported.join(", "))
        });
        self.observer.observe(facts);
        self.run.checker.check_addresses(&self.inventory.contents());
    }

    fn session(&self, status: SessionStatus) {
        self.run.checker.trace(|| format!("the session is {:?}", status.state));
        self.observer.session(status);
    }
}
