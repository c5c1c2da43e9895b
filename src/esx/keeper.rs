//! Keeps the session: connects, has the collector serve on it, and after each end connects again,
//! ever more slowly while that does not hold. A refused account is left alone for long. Logs out at
//! the end.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::collector::Collector;
use super::session::{ConnectError, Live, Session};
use crate::clock::Clock;
use crate::hypervisor::{HostError, HostErrorKind, Observer, SessionState, SessionStatus};
use crate::telemetry::metrics::Metrics;

/// A login that held this long was good; what ends it later is a new trouble.
const HELD: Duration = Duration::from_mins(1);

/// The longest pause between tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the calls under way, and then the logout, may hold up the shutdown.
const LOGOUT: Duration = Duration::from_secs(5);

/// The life of the one session.
pub struct Keeper {
    session: Arc<Session>,
    clock: Clock,
    login_backoff: Duration,
    collector: Collector,
    teller: Teller,
    generation: u64,
    /// The last login, which may still be good.
    live: Option<Arc<Live>>,
    /// How often in a row it did not hold.
    failures: u32,
}

/// Tells the observer of the session.
struct Teller {
    observer: Arc<dyn Observer>,
    clock: Clock,
    metrics: Metrics,
    status: SessionStatus,
}

impl Keeper {
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
        let teller =
            Teller { observer, clock: clock.clone(), metrics: session.metrics().clone(), status };
        Self {
            session,
            clock,
            login_backoff,
            collector,
            teller,
            generation: 0,
            live: None,
            failures: 0,
        }
    }

    /// Goes on until it is stopped.
    pub async fn keep(mut self, stop: CancellationToken) {
        self.teller.tell(SessionState::Connecting);
        let _: Option<()> = stop
            .run_until_cancelled(async {
                loop {
                    self.once().await;
                }
            })
            .await;
        self.session.close(&HostError::new(
            HostErrorKind::Unreachable,
            "otter no longer talks to the host: it is shutting down.",
        ));
        if let Some(live) = &self.live {
            // A call that the host is about to take must not find its session gone.
            tokio::select! {
                () = self.session.quiet() => {}
                () = self.clock.sleep(LOGOUT) => {}
            }
            tokio::select! {
                () = self.session.logout(live) => {}
                () = self.clock.sleep(LOGOUT) => {}
            }
        }
    }

    /// From one try to connect to the end of what came of it.
    async fn once(&mut self) {
        let pause = pause_after(self.failures);
        let reason = match &self.teller.status.state {
            SessionState::Away { reason } | SessionState::LoginRefused { reason } => reason.clone(),
            SessionState::Connecting | SessionState::Connected => {
                "The host is not connected yet.".to_owned()
            }
        };
        if !pause.is_zero() {
            self.collector.meanwhile(&reason, self.clock.sleep(pause)).await;
        }
        let (session, known, next) =
            (Arc::clone(&self.session), self.live.clone(), self.generation + 1);
        // Before the login reads it, so that none which comes meanwhile is missed.
        let passwords = self.session.passwords();
        let connecting = async move {
            if let Some(live) = known
                && session.is_alive(&live).await.map_err(ConnectError::Failed)?
            {
                return Ok(live);
            }
            session.connect(next).await.map(Arc::new)
        };
        match self.collector.meanwhile(&reason, connecting).await {
            Ok(live) => self.serve(live).await,
            Err(ConnectError::Failed(error)) => {
                self.failures = self.failures.saturating_add(1);
                self.away(&error);
            }
            Err(ConnectError::Refused(error)) => self.refused(error, passwords).await,
        }
    }

    async fn serve(&mut self, live: Arc<Live>) {
        if live.generation() > self.generation {
            self.generation = live.generation();
            self.teller.status.logins += 1;
            self.session.metrics().logged_in();
        }
        self.live = Some(Arc::clone(&live));
        self.teller.status.product = Some(live.content.product.clone());
        self.session.up(&live);
        let mut since = None;
        let Self { collector, teller, clock, .. } = self;
        let error = collector
            .serve(&live, &mut || {
                since = Some(clock.elapsed());
                let product =
                    teller.status.product.as_ref().map(|product| product.full_name.as_str());
                tracing::info!(product, logins = teller.status.logins, "the host is connected");
                teller.tell(SessionState::Connected);
            })
            .await;
        let held = since.is_some_and(|since| self.clock.elapsed().saturating_sub(since) >= HELD);
        self.failures = if held { 1 } else { self.failures.saturating_add(1) };
        self.away(&error);
    }

    fn away(&mut self, error: &HostError) {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(reason = %error, cause, "the host is away");
        self.session.down(error);
        self.teller.tell(SessionState::Away { reason: error.message.clone() });
    }

    async fn refused(
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
        self.live = None;
        self.session.down(&error);
        self.teller.tell(SessionState::LoginRefused { reason: error.message.clone() });
        let clock = self.clock.clone();
        let backoff = self.login_backoff;
        let until_worth_a_try = async move {
            tokio::select! {
                () = clock.sleep(backoff) => {}
                // The sender lives as long as the session, which is ours.
                Ok(()) = passwords.changed() => {}
            }
        };
        self.collector.meanwhile(&error.message, until_worth_a_try).await;
    }
}

impl Teller {
    fn tell(&mut self, state: SessionState) {
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
fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(2) {
        None => Duration::ZERO,
        Some(power) => Duration::from_millis(100 << power.min(10)).min(LONGEST_PAUSE),
    }
}
