//! The one session with the host, and the one task that tells of it.
//!
//! ```text
//! log in ──► the whole picture ──► changes ──► lost or away ──► log in …
//!    └─ refused: left alone for long, or until there is a new password
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use otter::hypervisor::{
    Fact, Facts, HostError, HostErrorKind, HostProduct, Observer, SessionState, SessionStatus,
};
use secrecy::SecretString;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::followers::Followers;
use super::host::MemoryHost;

/// How long a refused account is left alone.
const REFUSED: Duration = Duration::from_mins(15);

/// A fact that was read directly, to be told in order with all else.
pub struct Tell {
    pub fact: Fact,
    pub told: oneshot::Sender<()>,
}

/// How the session is, for those who call.
#[derive(Clone, Debug)]
pub enum Link {
    /// On this ticket; everything up to this revision of the host was told.
    Up { ticket: u64, told: u64 },
    Down {
        kind: HostErrorKind,
        reason: String,
        /// Whether somebody is logging in already.
        soon: bool,
    },
}

impl Link {
    pub fn down(kind: HostErrorKind, reason: impl Into<String>) -> Self {
        Self::Down { kind, reason: reason.into(), soon: false }
    }

    pub const fn may_be_back_soon(&self) -> bool {
        matches!(self, Self::Down { soon: true, .. })
    }

    pub fn ticket(&self) -> Result<u64, HostError> {
        match self {
            Self::Up { ticket, .. } => Ok(*ticket),
            Self::Down { kind, reason, .. } => Err(HostError::new(*kind, reason.clone())),
        }
    }

    pub const fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Up { ticket, .. } if *ticket == wanted)
    }

    pub const fn has_told(&self, wanted: u64) -> bool {
        matches!(self, Self::Up { told, .. } if *told >= wanted)
    }

    pub fn reason(&self) -> String {
        match self {
            Self::Up { .. } => "The session was lost, and there is a new one.".to_owned(),
            Self::Down { reason, .. } => reason.clone(),
        }
    }
}

/// Keeps the session and tells the observer.
pub struct Session<'b> {
    host: MemoryHost,
    observer: Arc<dyn Observer>,
    followers: Arc<Followers>,
    link: &'b watch::Sender<Link>,
    password: &'b watch::Sender<SecretString>,
    inbox: mpsc::Receiver<Tell>,
    status: SessionStatus,
}

impl<'b> Session<'b> {
    pub fn new(
        host: MemoryHost,
        observer: Arc<dyn Observer>,
        followers: Arc<Followers>,
        link: &'b watch::Sender<Link>,
        password: &'b watch::Sender<SecretString>,
        inbox: mpsc::Receiver<Tell>,
    ) -> Self {
        let since = host.clock().now();
        let status = SessionStatus { state: SessionState::Connecting, since, logins: 0, product: None };
        Self { host, observer, followers, link, password, inbox, status }
    }

    /// Goes on until it is stopped.
    pub async fn keep(mut self, stop: CancellationToken) {
        self.tell(SessionState::Connecting);
        let _: Option<()> = stop
            .run_until_cancelled(async {
                loop {
                    self.once().await;
                }
            })
            .await;
        if let Ok(ticket) = self.link.borrow().ticket() {
            self.host.log_out(ticket);
        }
        self.link.send_replace(Link::down(HostErrorKind::Unreachable, super::stopped().message));
        self.followers.close();
    }

    async fn once(&mut self) {
        let (mut passwords, mut changes) = (self.password.subscribe(), self.host.changes());
        let password = passwords.borrow_and_update().clone();
        changes.borrow_and_update();
        match self.host.log_in(&password) {
            Ok(ticket) => {
                self.status.logins += 1;
                let Err(lost) = self.follow(ticket).await;
                let soon = lost.kind == HostErrorKind::NotAuthenticated;
                self.link.send_replace(Link::Down {
                    kind: HostErrorKind::Unreachable,
                    reason: lost.message.clone(),
                    soon,
                });
                self.tell(SessionState::Away { reason: lost.message });
            }
            Err(error) if error.kind == HostErrorKind::LoginRefused => {
                self.link.send_replace(Link::down(error.kind, error.message.clone()));
                self.tell(SessionState::LoginRefused { reason: error.message });
                let clock = self.host.clock().clone();
                let worth_a_try = async {
                    tokio::select! {
                        () = clock.sleep(REFUSED) => {}
                        // The sender lives as long as the backend.
                        Ok(()) = passwords.changed() => {}
                    }
                };
                Self::meanwhile(&mut self.inbox, worth_a_try).await;
            }
            Err(error) => {
                self.link.send_replace(Link::down(error.kind, error.message.clone()));
                self.tell(SessionState::Away { reason: error.message });
                // Whatever lets it back moves something on the host.
                Self::meanwhile(&mut self.inbox, async { drop(changes.changed().await) }).await;
            }
        }
    }

    /// Waits while there is nothing to tell: who wants something told is let go.
    async fn meanwhile(inbox: &mut mpsc::Receiver<Tell>, future: impl Future<Output = ()>) {
        tokio::pin!(future);
        loop {
            tokio::select! {
                () = &mut future => return,
                Some(tell) = inbox.recv() => drop(tell),
            }
        }
    }

    /// Tells everything, and then what changes, until the session is lost.
    async fn follow(&mut self, ticket: u64) -> Result<std::convert::Infallible, HostError> {
        let mut changes = self.host.changes();
        let (mut known, mut machines) = (None, BTreeSet::new());
        loop {
            changes.borrow_and_update();
            let mut news = self.host.news(ticket, known)?;
            // What came and went between two looks was never there for the observer.
            news.facts.retain(|fact| match fact {
                Fact::Machine(machine) => {
                    machines.insert(machine.id.clone());
                    true
                }
                Fact::MachineRemoved(machine) => machines.remove(machine),
                _ => true,
            });
            if news.complete || !news.facts.is_empty() {
                self.observer.observe(Facts { complete: news.complete, changes: news.facts });
            }
            self.followers.tell(|task| news.tasks.get(task).cloned().unwrap_or_else(vanished));
            self.link.send_replace(Link::Up { ticket, told: news.revision });
            if known.is_none() {
                self.status.product = Some(product());
                self.tell(SessionState::Connected);
            }
            known = Some(news.revision);
            let (clock, due) = (self.host.clock(), news.next_due);
            let next = async {
                match due {
                    Some(due) => clock.sleep(due.saturating_sub(clock.elapsed())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.changed() => {}
                () = self.followers.added() => {}
                () = next => {}
                Some(Tell { fact, told }) = self.inbox.recv() => {
                    self.observer.observe(Facts { complete: false, changes: vec![fact] });
                    // Perhaps nobody waits for it any more.
                    let _ = told.send(());
                }
            }
        }
    }

    fn tell(&mut self, state: SessionState) {
        if std::mem::discriminant(&self.status.state) != std::mem::discriminant(&state) {
            self.status.since = self.host.clock().now();
        }
        self.status.state = state;
        self.observer.session(self.status.clone());
    }
}

const fn vanished() -> otter::hypervisor::TaskStatus {
    otter::hypervisor::TaskStatus::Vanished
}

fn product() -> HostProduct {
    HostProduct {
        full_name: "a host in memory".to_owned(),
        version: "1".to_owned(),
        build: "1".to_owned(),
        api_type: "HostAgent".to_owned(),
        api_version: "1".to_owned(),
    }
}
