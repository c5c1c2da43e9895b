//! The one session with the host, and the one task that tells the observer.
//!
//! ```text
//! log in ──► the whole picture ──► changes ──► lost or unreachable ──► log in …
//!    └─ refused: not tried again for long, or until there is a new password
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use otter::hypervisor::{
    Fact, Facts, HostError, HostErrorKind, Observer, SessionState, SessionStatus,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::backend::{Shared, stopped};
use super::hooks::{Interruption, Request};
use super::host::Connection;
use super::stream::Stream;
use super::translation;

/// How long a refused account is left alone.
const REFUSED: Duration = Duration::from_mins(15);
/// How long after a failed login the next is tried, if nothing happens on the host.
const RETRY: Duration = Duration::from_secs(5);

/// A fact that was read directly, for the observer, in order with all others.
pub struct Tell {
    pub fact: Fact,
    pub told: oneshot::Sender<()>,
}

/// How the session is, for those who call.
#[derive(Clone, Debug)]
pub enum Link {
    /// Logged in; everything up to this revision of the world was told.
    Up { connection: Connection, told: u64 },
    Down {
        kind: HostErrorKind,
        reason: String,
        /// Whether a login is under way already.
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

    pub fn connection(&self) -> Result<Connection, HostError> {
        match self {
            Self::Up { connection, .. } => Ok(*connection),
            Self::Down { kind, reason, .. } => Err(HostError::new(*kind, reason.clone())),
        }
    }

    pub fn is_on(&self, wanted: Connection) -> bool {
        matches!(self, Self::Up { connection, .. } if *connection == wanted)
    }

    pub const fn has_told(&self, wanted: u64) -> bool {
        matches!(self, Self::Up { told, .. } if *told >= wanted)
    }
}

/// Keeps the session and tells the observer.
pub struct Session<'b> {
    shared: &'b Shared,
    observer: Arc<dyn Observer>,
    inbox: mpsc::Receiver<Tell>,
    status: SessionStatus,
    /// The session on the host, which can outlive a connection.
    ticket: Option<u64>,
}

impl<'b> Session<'b> {
    pub fn new(
        shared: &'b Shared,
        observer: Arc<dyn Observer>,
        inbox: mpsc::Receiver<Tell>,
    ) -> Self {
        let since = shared.host.clock().now();
        let status =
            SessionStatus { state: SessionState::Connecting, since, logins: 0, product: None };
        Self { shared, observer, inbox, status, ticket: None }
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
        if let Some(ticket) = self.ticket {
            self.shared.host.log_out(ticket);
        }
        let down = Link::down(HostErrorKind::Unreachable, stopped().message);
        self.shared.link.set(down);
        self.shared.followers.close();
    }

    async fn once(&mut self) {
        let (passwords, changes) = (&self.shared.password, self.shared.host.changes());
        let (password, version) = (passwords.version(), changes.version());
        let error = match self.connect().await {
            Ok(connection) => {
                let Err(lost) = self.follow(connection).await;
                self.away(lost.kind == HostErrorKind::NotAuthenticated, lost.message);
                return;
            }
            Err(error) => error,
        };
        let clock = self.shared.host.clock();
        if error.kind == HostErrorKind::LoginRefused {
            self.shared.link.set(Link::down(error.kind, error.message.clone()));
            self.tell(SessionState::LoginRefused { reason: error.message });
            let worth_a_try = async {
                tokio::select! {
                    biased;
                    () = passwords.changed_since(password) => {}
                    () = clock.sleep(REFUSED) => {}
                }
            };
            drop_tells(&mut self.inbox, worth_a_try).await;
        } else {
            self.away(false, error.message);
            let worth_a_try = async {
                tokio::select! {
                    biased;
                    () = changes.changed_since(version) => {}
                    () = clock.sleep(RETRY) => {}
                }
            };
            drop_tells(&mut self.inbox, worth_a_try).await;
        }
    }

    /// Goes on with the session that there is, or logs in.
    async fn connect(&mut self) -> Result<Connection, HostError> {
        let Shared { host, hooks, password, .. } = self.shared;
        if let Some(connection) =
            self.ticket.map(|ticket| host.reconnect(ticket)).transpose()?.flatten()
        {
            return Ok(connection);
        }
        hooks.before_request(Request::LogIn).await.map_err(login_failed)?;
        let connection = host.log_in(&password.get())?;
        hooks.after_request(Request::LogIn).await.map_err(login_failed)?;
        self.ticket = Some(connection.ticket);
        self.status.logins += 1;
        Ok(connection)
    }

    /// Tells everything, and then what changes, until the connection or the session is lost.
    async fn follow(&mut self, connection: Connection) -> Result<Infallible, HostError> {
        let Shared { host, hooks, followers, link, wanted, .. } = self.shared;
        let changes = host.changes();
        let mut stream = Stream::default();
        followers.forget_reads();
        loop {
            let version = changes.version();
            let told = host.on(connection, |world| stream.notice(world, followers))?;
            if let Some(told) = told {
                link.set(Link::Up { connection, told });
                tokio::select! {
                    biased;
                    Some(tell) = self.inbox.recv() => self.tell_now(tell),
                    () = followers.added() => {}
                    () = changes.changed_since(version) => {}
                }
                continue;
            }
            let is_behind = |wanted: u64| !link.get().has_told(wanted);
            let (begins, is_awaited) =
                (stream.begins(), |wanted: &u64, _| is_behind(*wanted).then_some(()));
            tokio::select! {
                biased;
                () = wanted.until(is_awaited), if !begins => {}
                () = hooks.before_update() => {}
            }
            let hurry = is_behind(wanted.get());
            let set = host.on(connection, |world| {
                stream.notice(world, followers);
                stream.next(world, |object| hurry || hooks.tells_now(object))
            })?;
            if set.facts.complete || !set.facts.changes.is_empty() {
                self.observer.observe(set.facts);
            }
            for (task, status) in set.tasks {
                followers.tell(&task, status);
            }
            if begins {
                link.set(Link::Up { connection, told: 0 });
                self.status.product = Some(host.product());
                self.tell(SessionState::Connected);
            }
            while let Ok(tell) = self.inbox.try_recv() {
                self.tell_now(tell);
            }
        }
    }

    fn tell_now(&self, Tell { fact, told }: Tell) {
        self.observer.observe(Facts { complete: false, changes: vec![fact] });
        // The caller may have gone.
        let _ = told.send(());
    }

    fn away(&mut self, soon: bool, reason: String) {
        let kind = HostErrorKind::Unreachable;
        self.shared.link.set(Link::Down { kind, reason: reason.clone(), soon });
        self.tell(SessionState::Away { reason });
    }

    fn tell(&mut self, state: SessionState) {
        if std::mem::discriminant(&self.status.state) != std::mem::discriminant(&state) {
            self.status.since = self.shared.host.clock().now();
        }
        self.status.state = state;
        self.observer.session(self.status.clone());
    }
}

/// Waits while there is no connection. Senders of facts are let go.
async fn drop_tells(inbox: &mut mpsc::Receiver<Tell>, future: impl Future<Output = ()>) {
    tokio::pin!(future);
    loop {
        tokio::select! {
            biased;
            () = &mut future => return,
            Some(tell) = inbox.recv() => drop(tell),
        }
    }
}

fn login_failed(interruption: Interruption) -> HostError {
    match interruption {
        Interruption::Cut => super::host::cut(),
        Interruption::Unreadable => super::host::unreadable(),
        Interruption::Fault(fault) => translation::error(&fault, "The host refused the login"),
    }
}
