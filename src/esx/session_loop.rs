//! Keeps the session: connects, has the collector serve on it, and after each end connects again,
//! ever more slowly while that does not hold. A refused account is left alone for long. Logs out at
//! the end.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::session::{ConnectError, Login, Session};
use crate::clock::Clock;
use crate::hypervisor::{HostError, HostErrorKind, Observer, SessionState, SessionStatus};
use crate::telemetry::metrics::Metrics;

/// A login that held this long was good; what ends it later is a new trouble.
const STABLE_LOGIN: Duration = Duration::from_mins(1);

/// The longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the calls under way, and then the logout, may hold up the shutdown.
const SHUTDOWN_STEP: Duration = Duration::from_secs(5);

/// The life of the one session.
pub struct SessionLoop {
    session: Arc<Session>,
    clock: Clock,
    login_backoff: Duration,
    collector: Collector,
    reporter: StatusReporter,
    generation: u64,
    /// The last login, which may still be good.
    login: Option<Arc<Login>>,
    /// How often in a row it did not hold.
    failures: u32,
}

/// Tells the observer of the session.
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
        Self {
            session,
            clock,
            login_backoff,
            collector,
            reporter,
            generation: 0,
            login: None,
            failures: 0,
        }
    }

    /// Goes on until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        self.reporter.report(SessionState::Connecting);
        let _: Option<()> = stop
            .run_until_cancelled(async {
                loop {
                    self.connect_once().await;
                }
            })
            .await;
        self.session.close(&HostError::new(
            HostErrorKind::Unreachable,
            "otter no longer talks to the host: it is shutting down.",
        ));
        if let Some(login) = &self.login {
            // A call that the host is about to take must not find its session gone.
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

    /// From one try to connect to the end of what came of it.
    async fn connect_once(&mut self) {
        let pause = retry_delay(self.failures);
        let reason = match &self.reporter.status.state {
            SessionState::Away { reason } | SessionState::LoginRefused { reason } => reason.clone(),
            SessionState::Connecting | SessionState::Connected => {
                "The host is not connected yet.".to_owned()
            }
        };
        if !pause.is_zero() {
            self.collector.while_disconnected(&reason, self.clock.sleep(pause)).await;
        }
        let (session, previous, next) =
            (Arc::clone(&self.session), self.login.clone(), self.generation + 1);
        // Before the login reads it, so that none which comes meanwhile is missed.
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
                self.failures = self.failures.saturating_add(1);
                self.report_loss(&error);
            }
            Err(ConnectError::Refused(error)) => self.wait_after_refusal(error, passwords).await,
        }
    }

    async fn serve(&mut self, login: Arc<Login>) {
        if login.generation() > self.generation {
            self.generation = login.generation();
            self.reporter.status.logins += 1;
            self.session.metrics().logged_in();
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
        let was_stable =
            since.is_some_and(|since| self.clock.elapsed().saturating_sub(since) >= STABLE_LOGIN);
        self.failures = if was_stable { 1 } else { self.failures.saturating_add(1) };
        self.report_loss(&error);
    }

    fn report_loss(&mut self, error: &HostError) {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(reason = %error, cause, "the host is away");
        self.session.set_down(error);
        self.reporter.report(SessionState::Away { reason: error.message.clone() });
    }

    async fn wait_after_refusal(
        &mut self,
        mut error: HostError,
        mut passwords: watch::Receiver<SecretString>,
    ) {
        let minutes = self.login_backoff.as_secs().div_ceil(60);
        error.message = format!(
            "{} Correct the user name or password; otter tries again in {minutes} minutes only (or on SIGHUP), because \
             every wrong try counts towards the lock of the account.",
            error.message
        );
        tracing::error!(reason = %error, "the host refused the account");
        self.login = None;
        self.session.set_down(&error);
        self.reporter.report(SessionState::LoginRefused { reason: error.message.clone() });
        let clock = self.clock.clone();
        let backoff = self.login_backoff;
        let until_worth_a_try = async move {
            tokio::select! {
                () = clock.sleep(backoff) => {}
                // The sender lives as long as the session, which is ours.
                Ok(()) = passwords.changed() => {}
            }
        };
        self.collector.while_disconnected(&error.message, until_worth_a_try).await;
    }
}

impl StatusReporter {
    fn report(&mut self, state: SessionState) {
        // Another reason to be away is not another absence.
        let same = std::mem::discriminant(&self.status.state) == std::mem::discriminant(&state);
        if !same || state == SessionState::Connecting {
            self.status.since = self.clock.now();
        }
        self.metrics.session(state == SessionState::Connected, self.clock.elapsed());
        self.status.state = state;
        self.observer.session(self.status.clone());
    }
}

/// The first try after a loss is made at once, the next after a moment, and so on.
fn retry_delay(failures: u32) -> Duration {
    match failures.checked_sub(2) {
        None => Duration::ZERO,
        Some(power) => Duration::from_millis(100 << power.min(10)).min(LONGEST_PAUSE),
    }
}
