//! An ESX on loopback: a simulated host that speaks vim25 over TLS, for people and for tests.
//!
//! ```text
//! server ──► soap ──► methods ──► world (pure)          pace: lets the world do what is due
//!                        └──────► session ─ collector ─ properties ─► world
//! control: a test's hand on all of it; admin: the same from outside; mishap: what may go wrong, in words
//! events: collectors over the world's history
//! ```
//! It shares nothing with otter's own side of the wire but the XML primitives.

mod admin;
mod call_log;
mod control;
mod event_collector;
mod fault_config;
mod fault_injection;
mod methods;
mod pace;
mod properties;
mod property_collector;
mod read_scope;
mod scenario;
mod schema;
#[cfg(test)]
mod schema_conformity;
mod server;
mod session;
mod soap;
mod value;
mod view;
mod vim_fault;
pub mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use control::Control;
pub use fault_config::ConfiguredFault;
pub use fault_injection::{
    Disruption, DownMode, HostChange, HostdRestart, PlannedDisruption, SessionLoss, TestHook,
};
pub use pace::Pace;
pub use scenario::{HostSettings, Scenario, ScenarioError};
pub use value::{Moref, Value};
pub use vim_fault::Fault;

use crate::clock::Clock;
use call_log::CallLog;
use fault_injection::FaultPlan;
use session::Sessions;
use world::{Moment, World};

/// How the simulator is to be.
pub struct SimulatorOptions {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the admin endpoint listens, if it is to; on loopback alone, for it asks for no
    /// password.
    pub admin: Option<SocketAddr>,
    pub scenario: Scenario,
    pub pace: Pace,
    pub clock: Clock,
    pub username: String,
    pub password: SecretString,
    /// Is called with the method and the body of each answer. The method is empty if the request is
    /// not readable.
    pub on_answer: Option<fn(&str, &str)>,
}

impl SimulatorOptions {
    /// A scenario on a free port of loopback, some ten times as fast as a real host, with the
    /// account `root` / `otter`.
    #[must_use]
    pub fn new(scenario: Scenario, clock: Clock) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: None,
            scenario,
            pace: Pace::Auto { scale: 1.0 },
            clock,
            username: "root".to_owned(),
            password: SecretString::from("otter"),
            on_answer: None,
        }
    }
}

/// Why the simulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    #[error("the simulator cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(
        "the admin endpoint asks for no password, so it listens on loopback alone; {0} is not there"
    )]
    AdminNotOnLoopback(SocketAddr),
    #[error("the simulator's certificate could not be made")]
    Certificate(#[source] rcgen::Error),
    #[error("the simulator's TLS could not be set up")]
    Tls(#[source] rustls::Error),
}

/// A running simulator. Dropping it ends it at once; [`stop`](Self::stop) waits for the end.
pub struct Simulator {
    control: Control,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    identity: server::TlsIdentity,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Simulator {
    /// Listens, and serves from then on.
    pub async fn start(options: SimulatorOptions) -> Result<Self, SimulatorError> {
        let SimulatorOptions {
            listen,
            admin,
            scenario,
            pace,
            clock,
            username,
            password,
            on_answer,
        } = options;
        let identity = server::TlsIdentity::generate(&scenario.host.certificate_names)?;
        if let Some(elsewhere) = admin.filter(|address| !address.ip().is_loopback()) {
            return Err(SimulatorError::AdminNotOnLoopback(elsewhere));
        }
        let (listener, address) = bind(listen).await?;
        let admin = match admin {
            Some(admin) => Some(bind(admin).await?),
            None => None,
        };
        let now = Moment { wall: clock.now(), elapsed: clock.elapsed() };
        let minutes = scenario.host.session_timeout_minutes;
        let idle_after = (minutes > 0).then(|| Duration::from_secs(60 * minutes));
        let sessions = Sessions::new(&username, password, idle_after, scenario.host.session_limit);
        let state = SimulatorState {
            world: scenario.build(pace, now),
            sessions,
            fault_plan: FaultPlan::default(),
            calls: CallLog::default(),
            occurrences: BTreeMap::new(),
            down: None,
            hostd_lifetime: CancellationToken::new(),
        };
        let (changed, _) = watch::channel(0);
        let shared = Arc::new(Shared { state: Mutex::new(state), changed, clock, on_answer });
        let control = Control::new(Arc::clone(&shared));
        for fault in &scenario.faults {
            control.inject(fault);
        }
        let stop = CancellationToken::new();
        let mut tasks = vec![
            tokio::spawn(server::serve(
                listener,
                identity.acceptor.clone(),
                Arc::clone(&shared),
                stop.clone(),
            )),
            tokio::spawn(pace::drive(Arc::clone(&shared), stop.clone())),
        ];
        let admin = admin.map(|(listener, address)| {
            tasks.push(tokio::spawn(admin::serve(listener, control.clone(), stop.clone())));
            address
        });
        Ok(Self { control, address, admin, identity, stop, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin endpoint listens, if it does.
    #[must_use]
    pub const fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// `https://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// SHA-256 of the certificate, in hex with colons.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.identity.fingerprint.clone()
    }

    /// The certificate, for `ca:` and for clients that want a file.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.identity.pem.clone()
    }

    /// A test's hand on the host.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Ends it: connections are closed, whatever they wait for.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            // A task that panicked has ended as well.
            drop(task.await);
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SimulatorError> {
    let failed = |source| SimulatorError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// What all connections share.
struct Shared {
    state: Mutex<SimulatorState>,
    /// Moves on with every call and every change.
    changed: watch::Sender<u64>,
    clock: Clock,
    on_answer: Option<fn(&str, &str)>,
}

struct SimulatorState {
    world: World,
    sessions: Sessions,
    fault_plan: FaultPlan,
    calls: CallLog,
    /// How often each kind of event has happened.
    occurrences: BTreeMap<&'static str, u64>,
    /// How the host is away, while it is.
    down: Option<DownMode>,
    /// Cancelled when hostd restarts: every connection of before ends.
    hostd_lifetime: CancellationToken,
}

impl SimulatorState {
    /// Drops sessions that were idle too long.
    fn end_idle_sessions(&mut self, now: Moment) {
        for session in self.sessions.expire(now) {
            self.world.record_session_event(session.user(), session.logout_event());
        }
    }
}

impl Shared {
    /// The state, with time moved on to now. Never held across an await.
    fn lock(&self) -> MutexGuard<'_, SimulatorState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let before = state.world.revision();
        state.world.advance(now);
        state.end_idle_sessions(now);
        if state.world.revision() != before {
            self.notify();
        }
        state
    }

    fn now(&self) -> Moment {
        Moment { wall: self.clock.now(), elapsed: self.clock.elapsed() }
    }

    /// Moves time on, and gives when something is due next.
    fn advance(&self) -> Option<Duration> {
        let (before, after, due) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let before = state.world.revision();
            state.world.advance(self.now());
            (before, state.world.revision(), state.world.next_due())
        };
        if before != after {
            self.notify();
        }
        due
    }

    /// Tells whoever waits that there may be something new.
    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
