//! The session with the host. Its task is the only one that reports facts to the observer.
//!
//! ```text
//! log in ──► all machines and datastores ──► changes ──► session or host lost ──► log in …
//!    └─ refused: the next try is after 15 minutes, or when there is a new password
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use otter::hypervisor::{
    Fact, Facts, HostError, HostErrorKind, Observer, SessionState, SessionStatus,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::backend::{BackendShared, stopped};
use super::hooks::{Interruption, Request};
use super::host::Connection;
use super::translation;
use super::update_stream::UpdateStream;

/// The time between a refused login and the next try.
const REFUSED_LOGIN_DELAY: Duration = Duration::from_mins(15);
/// The time between a failed login and the next try, if nothing changes on the host.
const RETRY_DELAY: Duration = Duration::from_secs(5);

/// A request to report a fact that was read directly. It is reported in order with all other facts.
pub struct ReportRequest {
    pub fact: Fact,
    pub reported: oneshot::Sender<()>,
}

/// The state of the session, for callers.
#[derive(Clone, Debug)]
pub enum SessionLink {
    /// There is a session. The observer knows the world up to the revision `reported`.
    Up { connection: Connection, reported: u64 },
    Down {
        kind: HostErrorKind,
        reason: String,
        /// Whether the backend is logging in again.
        is_reconnecting: bool,
    },
}

impl SessionLink {
    pub fn down(kind: HostErrorKind, reason: impl Into<String>) -> Self {
        Self::Down { kind, reason: reason.into(), is_reconnecting: false }
    }

    pub const fn is_reconnecting(&self) -> bool {
        matches!(self, Self::Down { is_reconnecting: true, .. })
    }

    pub fn connection(&self) -> Result<Connection, HostError> {
        match self {
            Self::Up { connection, .. } => Ok(*connection),
            Self::Down { kind, reason, .. } => Err(HostError::new(*kind, reason.clone())),
        }
    }

    pub fn is_on(&self, expected: Connection) -> bool {
        matches!(self, Self::Up { connection, .. } if *connection == expected)
    }

    pub const fn has_reported(&self, revision: u64) -> bool {
        matches!(self, Self::Up { reported, .. } if *reported >= revision)
    }
}

/// Keeps the session and reports to the observer.
pub struct Session<'b> {
    shared: &'b BackendShared,
    observer: Arc<dyn Observer>,
    reports: mpsc::Receiver<ReportRequest>,
    status: SessionStatus,
    /// The session on the host. It can outlive a connection.
    id: Option<u64>,
}

impl<'b> Session<'b> {
    pub fn new(
        shared: &'b BackendShared,
        observer: Arc<dyn Observer>,
        reports: mpsc::Receiver<ReportRequest>,
    ) -> Self {
        let since = shared.host.clock().now();
        let status =
            SessionStatus { state: SessionState::Connecting, since, logins: 0, product: None };
        Self { shared, observer, reports, status, id: None }
    }

    /// Keeps the session until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        self.report_status(SessionState::Connecting);
        let _: Option<()> = stop
            .run_until_cancelled(async {
                loop {
                    self.run_session().await;
                }
            })
            .await;
        if let Some(id) = self.id {
            self.shared.host.log_out(id);
        }
        let down = SessionLink::down(HostErrorKind::Unreachable, stopped().message);
        self.shared.link.set(down);
        self.shared.followers.close();
    }

    async fn run_session(&mut self) {
        let (passwords, changes) = (&self.shared.password, self.shared.host.changes());
        let (password, version) = (passwords.version(), changes.version());
        let error = match self.connect().await {
            Ok(connection) => {
                let Err(lost) = self.follow(connection).await;
                self.report_disconnected(
                    lost.kind == HostErrorKind::NotAuthenticated,
                    lost.message,
                );
                return;
            }
            Err(error) => error,
        };
        let clock = self.shared.host.clock();
        if error.kind == HostErrorKind::LoginRefused {
            self.shared.link.set(SessionLink::down(error.kind, error.message.clone()));
            self.report_status(SessionState::LoginRefused { reason: error.message });
            let next_try = async {
                tokio::select! {
                    biased;
                    () = passwords.changed_since(password) => {}
                    () = clock.sleep(REFUSED_LOGIN_DELAY) => {}
                }
            };
            discard_reports_until(&mut self.reports, next_try).await;
        } else {
            self.report_disconnected(false, error.message);
            let next_try = async {
                tokio::select! {
                    biased;
                    () = changes.changed_since(version) => {}
                    () = clock.sleep(RETRY_DELAY) => {}
                }
            };
            discard_reports_until(&mut self.reports, next_try).await;
        }
    }

    /// Continues the open session, or logs in.
    async fn connect(&mut self) -> Result<Connection, HostError> {
        let BackendShared { host, hooks, password, .. } = self.shared;
        if let Some(connection) = self.id.map(|id| host.reconnect(id)).transpose()?.flatten() {
            return Ok(connection);
        }
        hooks.before_request(Request::LogIn).await.map_err(login_failed)?;
        let connection = host.log_in(&password.get())?;
        hooks.after_request(Request::LogIn).await.map_err(login_failed)?;
        self.id = Some(connection.session_id);
        self.status.logins += 1;
        Ok(connection)
    }

    /// Reports everything and then the changes, until the connection or the session is lost.
    async fn follow(&mut self, connection: Connection) -> Result<Infallible, HostError> {
        let BackendShared { host, hooks, followers, link, barrier_revision, .. } = self.shared;
        let changes = host.changes();
        let mut stream = UpdateStream::default();
        followers.mark_all_unread();
        loop {
            let version = changes.version();
            let reported =
                host.read_through(connection, |world| stream.collect_changes(world, followers))?;
            if let Some(reported) = reported {
                link.set(SessionLink::Up { connection, reported });
                tokio::select! {
                    biased;
                    Some(request) = self.reports.recv() => self.report_fact(request),
                    () = followers.task_added() => {}
                    () = changes.changed_since(version) => {}
                }
                continue;
            }
            let is_behind = |revision: u64| !link.get().has_reported(revision);
            let (is_initial, is_awaited) =
                (stream.is_initial(), |revision: &u64, _| is_behind(*revision).then_some(()));
            tokio::select! {
                biased;
                () = barrier_revision.wait_for(is_awaited), if !is_initial => {}
                () = hooks.before_update() => {}
            }
            let is_barrier_waiting = is_behind(barrier_revision.get());
            let set = host.read_through(connection, |world| {
                stream.collect_changes(world, followers);
                stream
                    .next_set(world, |object| is_barrier_waiting || hooks.is_in_next_update(object))
            })?;
            if set.facts.complete || !set.facts.changes.is_empty() {
                self.observer.observe(set.facts);
            }
            for (task, status) in set.tasks {
                followers.publish(&task, status);
            }
            if is_initial {
                link.set(SessionLink::Up { connection, reported: 0 });
                self.status.product = Some(host.product());
                self.report_status(SessionState::Connected);
            }
            while let Ok(request) = self.reports.try_recv() {
                self.report_fact(request);
            }
        }
    }

    fn report_fact(&self, ReportRequest { fact, reported }: ReportRequest) {
        self.observer.observe(Facts { complete: false, changes: vec![fact] });
        // The caller may have been dropped.
        let _ = reported.send(());
    }

    fn report_disconnected(&mut self, is_reconnecting: bool, reason: String) {
        let kind = HostErrorKind::Unreachable;
        self.shared.link.set(SessionLink::Down { kind, reason: reason.clone(), is_reconnecting });
        self.report_status(SessionState::Away { reason });
    }

    fn report_status(&mut self, state: SessionState) {
        if std::mem::discriminant(&self.status.state) != std::mem::discriminant(&state) {
            self.status.since = self.shared.host.clock().now();
        }
        self.status.state = state;
        self.observer.session(self.status.clone());
    }
}

/// Waits for the future while there is no connection, and drops the requests that arrive.
async fn discard_reports_until(
    reports: &mut mpsc::Receiver<ReportRequest>,
    future: impl Future<Output = ()>,
) {
    tokio::pin!(future);
    loop {
        tokio::select! {
            biased;
            () = &mut future => return,
            Some(request) = reports.recv() => drop(request),
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
