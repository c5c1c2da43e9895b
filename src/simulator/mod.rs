//! An ESX on loopback: a simulated host that speaks vim25 over TLS, for people and for tests.
//!
//! ```text
//! server ──► soap ──► methods ──► world (pure)        pace: advances the world by the clock
//!                        └──────► session ─ property_collector ─ properties ─► world
//!                                        └─ event_collector ───────────────► world
//!  ├► console ──► guest_screen (pure, in the world)
//!  └► datastore_files ─ file_body    serial ──► guest_screen
//!
//! control: test hooks; admin: the test hooks over HTTP; fault_injection: planned disruptions;
//! fault_config: how scenarios and the admin endpoint write faults
//! ```
//! The simulator shares only the XML primitives with otter's own vim25 client. `README.md` in this
//! folder lists what the simulator reproduces of an ESX.

mod admin;
mod call_log;
mod connection_count;
mod console;
mod control;
mod datastore_files;
mod event_collector;
mod fault_config;
mod fault_injection;
mod file_body;
mod files_entry;
mod guest_screen;
mod http_answer;
mod methods;
mod pace;
mod properties;
mod property_collector;
mod property_path;
mod read_scope;
mod scenario;
mod schema;
#[cfg(test)]
mod schema_conformity;
mod serial;
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

pub use console::{ConsoleEnd, ConsoleQuirks, FirstUpdate};
pub use control::{Control, ScreenContents};
pub use fault_config::ConfiguredFault;
pub use fault_injection::{
    Disruption, DownMode, FilesChange, HostChange, HostChangeKind, HostdRestart, PlannedDisruption,
    SessionLoss, TestHook, TransferEnd, TransferMishap,
};
pub use guest_screen::{PASSWORD as GUEST_PASSWORD, ScreenStage};
pub use pace::Pace;
pub use scenario::{HostSettings, Scenario, ScenarioError};
pub use serial::{PortChange, SecondClient, SerialChange, SerialStatus};
pub use value::{Moref, Value};
pub use vim_fault::Fault;

use crate::clock::Clock;
use call_log::CallLog;
use connection_count::ConnectionCount;
use console::Consoles;
use fault_injection::FaultPlan;
use serial::{SerialPorts, Switchboard};
use session::Sessions;
use world::{Moment, World};

/// What to simulate, and where to listen.
pub struct SimulatorOptions {
    /// Where the SOAP endpoint listens. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// Where the admin endpoint listens. `None`: there is no admin endpoint. Only loopback is
    /// allowed, because the endpoint asks for no password.
    pub admin: Option<SocketAddr>,
    pub scenario: Scenario,
    pub pace: Pace,
    pub clock: Clock,
    pub username: String,
    pub password: SecretString,
    /// A function that is called with the method and the body of each answer, before the simulator
    /// sends the answer. The method is empty if the request was unreadable.
    pub on_answer: Option<fn(&str, &str)>,
}

impl SimulatorOptions {
    /// Options for a simulator of this scenario: it listens on a free port of loopback, works about
    /// ten times as fast as a real host, and has the account `root` with the password `otter`.
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
        "the admin endpoint asks for no password, so it listens on loopback only; {0} is elsewhere"
    )]
    AdminNotOnLoopback(SocketAddr),
    #[error("the simulator's certificate could not be made")]
    Certificate(#[source] rcgen::Error),
    #[error("the simulator's TLS could not be set up")]
    Tls(#[source] rustls::Error),
}

/// A running simulator. Dropping this value stops the simulator; [`stop`](Self::stop) also waits
/// until the simulator has stopped.
pub struct Simulator {
    control: Control,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    identity: server::TlsIdentity,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Simulator {
    /// Starts to listen and to serve.
    ///
    /// # Errors
    /// Fails if an address cannot be bound, if the admin address is not on loopback, or if no
    /// certificate can be made.
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
        let identity = server::TlsIdentity::generate(
            &scenario.host.certificate_names,
            scenario.host.certificate_of_authority,
        )?;
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
            consoles: Consoles::new(identity.thumbprint.clone()),
            serial: SerialPorts::default(),
            occurrences: BTreeMap::new(),
            down: None,
            hostd_lifetime: CancellationToken::new(),
        };
        let (changed, _) = watch::channel(0);
        let (screens_changed, _) = watch::channel(0);
        let connections = ConnectionCount::default();
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed,
            screens_changed,
            clock,
            on_answer,
            connections,
        });
        // The ports listen before anybody can ask for their numbers.
        let mut switchboard = Switchboard::new(Arc::clone(&shared));
        switchboard.reconcile();
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
            tokio::spawn(switchboard.run(stop.clone())),
        ];
        let admin = admin.map(|(listener, address)| {
            tasks.push(tokio::spawn(admin::serve(listener, control.clone(), stop.clone())));
            address
        });
        Ok(Self { control, address, admin, identity, stop, tasks })
    }

    /// The address of the SOAP endpoint.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the admin endpoint. `None` if the simulator has no admin endpoint.
    #[must_use]
    pub const fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The URL of the SOAP endpoint, for example `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The SHA-256 fingerprint of the certificate, in hex with colons.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.identity.fingerprint.clone()
    }

    /// The certificate in PEM, for `verify = "ca:…"` and for other clients.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.identity.pem.clone()
    }

    /// The test hooks of this simulator.
    #[must_use]
    pub const fn control(&self) -> &Control {
        &self.control
    }

    /// Closes every connection, also connections with a call that has no answer yet, and waits
    /// until all tasks of the simulator have ended.
    pub async fn stop(mut self) {
        self.stop.cancel();
        for task in self.tasks.drain(..) {
            // `stop` ignores a panic of the task, because the task has ended either way.
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

/// The state that all connections of the simulator share.
struct Shared {
    state: Mutex<SimulatorState>,
    /// A counter that grows with each call and each change. A pending `WaitForUpdatesEx` subscribes
    /// to the counter and looks for updates after each increment.
    changed: watch::Sender<u64>,
    /// Counts inputs to guests. Consoles and serial ports watch it, and waits for updates do not.
    screens_changed: watch::Sender<u64>,
    clock: Clock,
    on_answer: Option<fn(&str, &str)>,
    connections: ConnectionCount,
}

struct SimulatorState {
    world: World,
    sessions: Sessions,
    fault_plan: FaultPlan,
    calls: CallLog,
    consoles: Consoles,
    serial: SerialPorts,
    /// For each kind of [`HostChange`]: how often a change of this kind was applied.
    occurrences: BTreeMap<HostChangeKind, u64>,
    /// How hostd answers while it is down. `None` while hostd runs.
    down: Option<DownMode>,
    /// Cancelled when hostd restarts, which ends every connection that was made before the restart.
    hostd_lifetime: CancellationToken,
}

impl SimulatorState {
    /// Ends the sessions that were idle for too long.
    fn end_idle_sessions(&mut self, now: Moment) {
        for session in self.sessions.expire(now) {
            self.world.record_session_event(session.user(), session.logout_event());
        }
    }
}

impl Shared {
    /// Locks the state, after it has advanced the world to the present time. Never hold the guard
    /// across an await.
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

    /// Advances the world to the present time. Returns when the next scheduled event of the world
    /// is due; `None` if no event is scheduled.
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

    /// Wakes all pending waits, so that they look for updates.
    fn notify(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Wakes the consoles and the serial ports, so that they look at their guests.
    fn notify_screens(&self) {
        self.screens_changed.send_modify(|count| *count += 1);
    }

    fn screen_changes(&self) -> watch::Receiver<u64> {
        self.screens_changed.subscribe()
    }
}
