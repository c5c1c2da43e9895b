//! Deliberate mistakes, to show that the tests notice them. A decorator of the host makes those
//! that can be made between otter and its host. Each other mistake is a patch in this folder, which
//! `run` applies to a copy of the sources.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use otter::domain::call::{Evidence, HostCall};
use otter::domain::ids::{JobId, MachineId, TaskId};
use otter::domain::machine::{Guest, Machine};
use otter::domain::power::PowerState;
use otter::hypervisor::{
    Accepted, CallError, Capability, Fact, Facts, HostError, Hypervisor, Observer,
    ScreenConnection, ScreenObject, SessionStatus, TaskStatus,
};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A deliberate mistake between otter and its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A reset whose answer was lost is sent again.
    ResetSentAgain,
    /// The barrier does not wait, so a job ends before the inventory has its effect.
    EndBeforeBarrier,
    /// A full read of the host leaves removed machines in the inventory.
    ResyncForgetsRemoval,
    /// The address of a guest is still reported after the guest has stopped.
    StaleAddress,
}

/// A host with a deliberate mistake.
pub struct HostWithMistake {
    inner: Arc<dyn Hypervisor>,
    mistake: Mistake,
}

impl HostWithMistake {
    pub fn new(inner: Arc<dyn Hypervisor>, mistake: Mistake) -> Self {
        Self { inner, mistake }
    }
}

#[async_trait]
impl Hypervisor for HostWithMistake {
    async fn run(
        &self,
        observer: Arc<dyn Observer>,
        stop: CancellationToken,
    ) -> Result<(), HostError> {
        let observer = Arc::new(ObserverWithMistake {
            inner: observer,
            mistake: self.mistake,
            loaded: AtomicBool::new(false),
            last_reported: Mutex::default(),
        });
        self.inner.run(observer, stop).await
    }

    async fn call(
        &self,
        machine: &MachineId,
        call: &HostCall,
        job: JobId,
    ) -> Result<Accepted, CallError> {
        let first = self.inner.call(machine, call, job).await;
        let is_sent_again = self.mistake == Mistake::ResetSentAgain
            && matches!((&first, call), (Err(CallError::Lost(_)), HostCall::Reset));
        if !is_sent_again {
            return first;
        }
        loop {
            match self.inner.call(machine, call, job).await {
                Err(CallError::Lost(_)) => {}
                Err(CallError::Refused(error)) if is_disconnected(&error) => {
                    tokio::task::yield_now().await;
                }
                answered => return answered,
            }
        }
    }

    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        self.inner.follow(task).await
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        self.inner.cancel(task).await
    }

    async fn barrier(&self) -> Result<(), HostError> {
        match self.mistake {
            Mistake::EndBeforeBarrier => Ok(()),
            _ => self.inner.barrier().await,
        }
    }

    async fn read_evidence(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        self.inner.read_evidence(machine).await
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        self.inner.confirm_guest(machine).await
    }

    fn capabilities(&self) -> &'static [Capability] {
        self.inner.capabilities()
    }

    async fn properties(
        &self,
        machine: &MachineId,
        paths: &[String],
    ) -> Result<serde_json::Map<String, serde_json::Value>, HostError> {
        self.inner.properties(machine, paths).await
    }

    async fn open_screen(&self, machine: &MachineId) -> Result<ScreenConnection, HostError> {
        self.inner.open_screen(machine).await
    }

    async fn screen_picture(&self, object: &ScreenObject) -> Result<Bytes, HostError> {
        self.inner.screen_picture(object).await
    }

    fn set_password(&self, password: SecretString) {
        self.inner.set_password(password);
    }

    fn connect_now(&self) {
        self.inner.connect_now();
    }
}

fn is_disconnected(error: &HostError) -> bool {
    use otter::hypervisor::HostErrorKind::{NotAuthenticated, Unreachable};
    matches!(error.kind, NotAuthenticated | Unreachable)
}

struct ObserverWithMistake {
    inner: Arc<dyn Observer>,
    mistake: Mistake,
    /// Whether a full set of facts was observed before.
    loaded: AtomicBool,
    /// The machines, each with the last guest that had an address.
    last_reported: Mutex<BTreeMap<MachineId, Machine>>,
}

impl Observer for ObserverWithMistake {
    fn observe(&self, mut facts: Facts) {
        let loaded = self.loaded.fetch_or(facts.complete, Ordering::Relaxed);
        if self.mistake == Mistake::ResyncForgetsRemoval && loaded {
            facts.complete = false;
        }
        if self.mistake == Mistake::StaleAddress {
            let stale_guests = self.stale_guests(&facts);
            facts.changes.extend(stale_guests);
        }
        self.inner.observe(facts);
    }

    fn session(&self, status: SessionStatus) {
        self.inner.session(status);
    }
}

impl ObserverWithMistake {
    /// Facts that the tools of each guest stopped and run again with its last address.
    fn stale_guests(&self, facts: &Facts) -> Vec<Fact> {
        let mut last_reported = self.last_reported.lock().unwrap();
        for fact in &facts.changes {
            if let Fact::Machine(machine) = fact {
                let known = last_reported.get(&machine.id).map(|known| known.guest.clone());
                let guest = if machine.guest.ip_address.is_some() { None } else { known };
                let guest = guest.unwrap_or_else(|| machine.guest.clone());
                last_reported
                    .insert(machine.id.clone(), Machine { guest, ..Machine::clone(machine) });
            }
        }
        let on =
            last_reported.values().filter(|machine| machine.power_state == Some(PowerState::On));
        on.flat_map(|machine| {
            let with_tools = |tools_running| {
                let guest = Guest { tools_running, ..machine.guest.clone() };
                Fact::Machine(Arc::new(Machine { guest, ..machine.clone() }))
            };
            [with_tools(false), with_tools(true)]
        })
        .collect()
    }
}
