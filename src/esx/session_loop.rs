//! Keeps the session with the host: connects, runs the collector on the login, and connects again
//! after each failure. If the logins do not last, the pauses between them grow. If the host refuses
//! the account, the loop waits for `login_backoff` or for a new password. Any other failed login
//! counts as an outage. When the loop is stopped, it logs out.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::retry_pauses::RetryPauses;
use super::session::{ConnectError, Login, Session};
use crate::clock::Clock;
use crate::hypervisor::{HostError, HostErrorKind, Observer, SessionState, SessionStatus};
use crate::telemetry::metrics::Metrics;

/// The maximum time that the shutdown waits for calls under way. The shutdown waits as long again
/// for the logout.
const SHUTDOWN_STEP: Duration = Duration::from_secs(5);

/// The loop that keeps the session with one host.
pub struct SessionLoop {
    session: Arc<Session>,
    clock: Clock,
    login_backoff: Duration,
    collector: Collector,
    reporter: StatusReporter,
    generation: u64,
    /// The last login. Its session may still be valid after a failure.
    login: Option<Arc<Login>>,
    pauses: RetryPauses,
    /// Changes when a caller asks otter to connect at once.
    connect_requests: watch::Receiver<()>,
}

/// Reports the status of the session to the observer.
struct StatusReporter {
    observer: Arc<dyn Observer>,
    clock: Clock,
    metrics: Metrics,
    status: SessionStatus,
}

impl SessionLoop {
    pub fn new(
        session: Arc<Session>,
        observer: Arc<dyn Observer>,
        clock: Clock,
        login_backoff: Duration,
        collector: Collector,
    ) -> Self {
        let status = SessionStatus {
            state: SessionState::Connecting,
            since: clock.now(),
            logins: 0,
            product: None,
        };
        let reporter = StatusReporter {
            observer,
            clock: clock.clone(),
            metrics: session.metrics().clone(),
            status,
        };
        let connect_requests = session.connect_requests();
        Self {
            session,
            clock,
            login_backoff,
            collector,
            reporter,
            generation: 0,
            login: None,
            pauses: RetryPauses::default(),
            connect_requests,
        }
    }

    /// Keeps the session until `stop` is cancelled, and then logs out.
    pub async fn run(mut self, stop: CancellationToken) {
        self.reporter.report(SessionState::Connecting);
        let _: Option<()> = stop
            .run_until_cancelled(Box::pin(async {
                loop {
                    self.connect_once().await;
                }
            }))
            .await;
        self.session.close(&HostError::new(
            HostErrorKind::Unreachable,
            "otter no longer talks to the host: it is shutting down.",
        ));
        if let Some(login) = &self.login {
            // The logout waits for the calls that are under way, because a call that the host has
            // not yet processed needs the session.
            tokio::select! {
                () = self.session.wait_idle() => {}
                () = self.clock.sleep(SHUTDOWN_STEP) => {}
            }
            tokio::select! {
                () = self.session.logout(login) => {}
                () = self.clock.sleep(SHUTDOWN_STEP) => {}
            }
        }
    }

    /// Connects once and serves the login until it fails.
    async fn connect_once(&mut self) {
        self.pause().await;
        self.connect_requests.mark_unchanged();
        let reason = self.outage_reason();
        let (session, previous, next) =
            (Arc::clone(&self.session), self.login.clone(), self.generation + 1);
        // The receiver subscribes before the login reads the password, so that it misses no change
        // of the password.
        let passwords = self.session.password_changes();
        let connecting = async move {
            if let Some(login) = previous
                && session.is_valid(&login).await.map_err(ConnectError::Failed)?
            {
                return Ok(login);
            }
            session.connect(next).await.map(Arc::new)
        };
        match self.collector.while_disconnected(&reason, connecting).await {
            Ok(login) => self.serve(login).await,
            Err(ConnectError::Failed(error)) => {
                self.pauses.connect_failed();
                self.report_loss(&error);
            }
            Err(ConnectError::Refused { mut error, refusal }) => {
                let minutes = self.login_backoff.as_secs().div_ceil(60);
                error.message = format!(
                    "{} {} otter tries again in {minutes} minutes, or on SIGHUP, because every \
                     refused login counts towards the lock of the account.",
                    error.message,
                    refusal.advice()
                );
                self.wait_after_refusal(error, passwords).await;
            }
        }
    }

    /// Waits until the next connect is due, or until a caller asks for one.
    async fn pause(&mut self) {
        let pause = self.pauses.next();
        if pause.is_zero() {
            return;
        }
        let reason = self.outage_reason();
        let Self { collector, clock, connect_requests, .. } = self;
        let is_requested = async {
            tokio::select! {
                () = clock.sleep(pause) => false,
                // The sender of the requests lives as long as the session, which `self` holds, so
                // `changed` does not fail.
                Ok(()) = connect_requests.changed() => true,
            }
        };
        if collector.while_disconnected(&reason, is_requested).await {
            self.pauses = RetryPauses::default();
        }
    }

    fn outage_reason(&self) -> String {
        match &self.reporter.status.state {
            SessionState::Away { reason } | SessionState::LoginRefused { reason } => reason.clone(),
            SessionState::Connecting | SessionState::Connected => {
                "The host is not connected yet.".to_owned()
            }
        }
    }

    async fn serve(&mut self, login: Arc<Login>) {
        if login.generation() > self.generation {
            self.generation = login.generation();
            self.reporter.status.logins += 1;
            self.session.metrics().record_login();
        }
        self.login = Some(Arc::clone(&login));
        self.reporter.status.product = Some(login.content.product.clone());
        self.session.set_login(&login);
        let mut since = None;
        let Self { collector, reporter, clock, .. } = self;
        let error = collector
            .serve(&login, &mut || {
                since = Some(clock.elapsed());
                let product =
                    reporter.status.product.as_ref().map(|product| product.full_name.as_str());
                tracing::info!(product, logins = reporter.status.logins, "the host is connected");
                reporter.report(SessionState::Connected);
            })
            .await;
        match since {
            Some(since) => {
                self.pauses.session_ended(self.clock.elapsed().saturating_sub(since));
            }
            None => self.pauses.connect_failed(),
        }
        self.report_loss(&error);
    }

    /// Logs an outage when it begins, and again only if its reason changes.
    fn report_loss(&mut self, error: &HostError) {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        match &self.reporter.status.state {
            SessionState::Away { reason } if *reason == error.message => {}
            SessionState::Away { .. } => {
                tracing::info!(reason = %error, cause, "the outage has another reason now");
            }
            _ => tracing::warn!(reason = %error, cause, "the host is not connected"),
        }
        self.session.set_down(error);
        self.reporter.report(SessionState::Away { reason: error.message.clone() });
    }

    async fn wait_after_refusal(
        &mut self,
        error: HostError,
        mut passwords: watch::Receiver<SecretString>,
    ) {
        tracing::error!(reason = %error, "the host refused the login");
        self.login = None;
        self.session.set_down(&error);
        self.reporter.report(SessionState::LoginRefused { reason: error.message.clone() });
        let clock = self.clock.clone();
        let backoff = self.login_backoff;
        let until_next_try = async move {
            tokio::select! {
                () = clock.sleep(backoff) => {}
                // The sender of the passwords lives as long as the session, which `self` holds, so
                // `changed` does not fail.
                Ok(()) = passwords.changed() => {}
            }
        };
        self.collector.while_disconnected(&error.message, until_next_try).await;
    }
}

impl StatusReporter {
    fn report(&mut self, state: SessionState) {
        // If only the reason of the outage changes, the outage keeps its beginning.
        let same = std::mem::discriminant(&self.status.state) == std::mem::discriminant(&state);
        if !same || state == SessionState::Connecting {
            self.status.since = self.clock.now();
        }
        self.metrics.record_session(state == SessionState::Connected, self.clock.elapsed());
        self.status.state = state;
        self.observer.session(self.status.clone());
    }
}
