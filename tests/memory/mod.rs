//! A small hypervisor in memory. It shows that another backend is one folder and one line of the composition root.
//!
//! `host` is the host itself, with machines, tasks and guests that go on by the clock; `world`, with `task` and `tree`,
//! holds its rules; `session` is the one connection to it and what is told of it; here the seam is put on top.

mod followers;
mod host;
mod session;
mod task;
mod tree;
mod world;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use otter::domain::call::{Evidence, HostCall};
use otter::domain::ids::{JobId, MachineId, TaskId};
use otter::hypervisor::{
    Accepted, CallError, Fact, HostError, HostErrorKind, Hypervisor, Observer, TaskStatus,
};
use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use host::{Cut, MemoryHost, Pace};
pub use world::Asset;

use followers::Followers;
use session::{Link, Session, Tell};

/// How long a caller waits for a session that was just lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// Facts that wait to be told; senders wait where there are more.
const TELLS: usize = 64;

/// The backend: one session with one [`MemoryHost`].
pub struct MemoryHypervisor {
    host: MemoryHost,
    password: watch::Sender<SecretString>,
    link: watch::Sender<Link>,
    followers: Arc<Followers>,
    tells: mpsc::Sender<Tell>,
    /// Taken by `run`.
    inbox: Mutex<Option<mpsc::Receiver<Tell>>>,
}

impl MemoryHypervisor {
    /// A backend for this host, which it knows the password of.
    #[must_use]
    pub fn new(host: MemoryHost, password: SecretString) -> Self {
        let (tells, inbox) = mpsc::channel(TELLS);
        Self {
            host,
            password: watch::Sender::new(password),
            link: watch::Sender::new(Link::down(HostErrorKind::Unreachable, "The host was not reached yet.")),
            followers: Arc::default(),
            tells,
            inbox: Mutex::new(Some(inbox)),
        }
    }

    /// The session as it is, or one that comes within a moment.
    async fn ticket(&self) -> Result<u64, HostError> {
        let mut link = self.link.subscribe();
        let settled = link.wait_for(|link| !link.may_be_back_soon());
        tokio::select! {
            // The sender lives as long as `self`.
            Ok(link) = settled => link.ticket(),
            () = self.host.clock().sleep(PATIENCE) => self.link.borrow().ticket(),
        }
    }

    /// Does something on the session, once more where the host dropped that, for then it was not done.
    async fn on_session<T>(&self, act: impl Fn(u64) -> Result<T, HostError> + Send) -> Result<T, HostError> {
        let ticket = self.ticket().await?;
        match act(ticket) {
            Err(error) if error.kind == HostErrorKind::NotAuthenticated => {
                let mut link = self.link.subscribe();
                let renewed = link.wait_for(|link| !link.may_be_back_soon() && !link.is(ticket));
                let renewed = tokio::select! {
                    Ok(link) = renewed => link.ticket(),
                    () = self.host.clock().sleep(PATIENCE) => Err(error),
                };
                act(renewed?)
            }
            result => result,
        }
    }
}

#[async_trait]
impl Hypervisor for MemoryHypervisor {
    async fn run(&self, observer: Arc<dyn Observer>, stop: CancellationToken) -> Result<(), HostError> {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(|| {
            HostError::new(HostErrorKind::Rejected, "The host is followed already; run is called once.")
        })?;
        let (host, followers) = (self.host.clone(), Arc::clone(&self.followers));
        Session::new(host, observer, followers, &self.link, &self.password, inbox).keep(stop).await;
        Ok(())
    }

    async fn call(&self, machine: &MachineId, call: &HostCall, _: JobId) -> Result<Accepted, CallError> {
        let called = self.on_session(|ticket| self.host.call(ticket, machine, call)).await;
        match called {
            Ok(Ok(accepted)) => Ok(accepted),
            // The connection broke while the answer was awaited.
            Ok(Err(cut)) => Err(CallError::Lost(cut)),
            Err(refused) => Err(CallError::Refused(refused)),
        }
    }

    async fn follow(&self, task: &TaskId) -> watch::Receiver<TaskStatus> {
        self.followers.follow(task)
    }

    async fn cancel(&self, task: &TaskId) -> Result<(), HostError> {
        self.on_session(|ticket| self.host.cancel(ticket, task)).await
    }

    async fn barrier(&self) -> Result<(), HostError> {
        let ticket = self.link.borrow().ticket()?;
        let wanted = self.host.revision();
        let mut link = self.link.subscribe();
        let passed = link.wait_for(|link| !link.is(ticket) || link.has_told(wanted)).await;
        match passed {
            Ok(link) if link.is(ticket) => Ok(()),
            Ok(link) => Err(HostError::new(HostErrorKind::Unreachable, link.reason())),
            Err(_) => Err(stopped()),
        }
    }

    async fn examine(&self, machine: &MachineId) -> Result<Evidence, HostError> {
        self.on_session(|ticket| self.host.examine(ticket, machine)).await
    }

    async fn confirm_guest(&self, machine: &MachineId) -> Result<(), HostError> {
        let guest = self.on_session(|ticket| self.host.guest(ticket, machine)).await?;
        let fact = Fact::GuestConfirmed {
            machine: machine.clone(),
            tools_running: guest.tools_running,
            ip_address: guest.ip_address,
            ip_addresses: guest.ip_addresses,
        };
        let (told, was_told) = oneshot::channel();
        self.tells.send(Tell { fact, told }).await.map_err(|_| stopped())?;
        was_told.await.map_err(|_| stopped())
    }

    async fn properties(
        &self,
        machine: &MachineId,
        paths: &[String],
    ) -> Result<serde_json::Map<String, serde_json::Value>, HostError> {
        self.on_session(|ticket| self.host.properties(ticket, machine, paths)).await
    }

    fn renew_password(&self, password: SecretString) {
        self.password.send_replace(password);
    }
}

fn stopped() -> HostError {
    HostError::new(HostErrorKind::Unreachable, "otter no longer talks to the host: it is shutting down.")
}
