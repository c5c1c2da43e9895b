//! The host: the simulator's world, who is logged in, and whether it can be reached. Everything is
//! under one lock.
//!
//! Time moves on whenever somebody looks. [`SimulatedHost::drive`] looks whenever something is due.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use otter::clock::Clock;
use otter::hypervisor::{HostError, HostErrorKind, HostProduct};
use otter::simulator::world::{Moment, World};
use otter::simulator::{Pace, Scenario};
use secrecy::{ExposeSecret, SecretString};

use super::watched::Watched;

/// The host. Clones are the same one.
#[derive(Clone)]
pub struct SimulatedHost(Arc<Shared>);

struct Shared {
    clock: Clock,
    password: SecretString,
    state: Mutex<State>,
    /// Moves on with every change.
    changed: Watched<()>,
}

struct State {
    world: World,
    /// The tickets of those who are logged in.
    sessions: BTreeSet<u64>,
    login_attempts: u64,
    refuses_logins: bool,
    unreachable: bool,
    /// How often all connections were cut.
    cuts: u64,
}

/// A connection to the host with a session on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub ticket: u64,
    cuts: u64,
}

/// For a test: what happens on the host, and to the way there.
impl SimulatedHost {
    /// The host of this scenario, whose account has the password `otter`.
    pub fn new(scenario: &Scenario, pace: Pace, clock: Clock) -> Self {
        let now = Moment { wall: clock.now(), elapsed: clock.elapsed() };
        let state = State {
            world: scenario.build(pace, now),
            sessions: BTreeSet::new(),
            login_attempts: 0,
            refuses_logins: false,
            unreachable: false,
            cuts: 0,
        };
        let (password, state) = (Self::password(), Mutex::new(state));
        Self(Arc::new(Shared { clock, password, state, changed: Watched::new(()) }))
    }

    /// The password of the account.
    pub fn password() -> SecretString {
        SecretString::from("otter")
    }

    /// Lets the world do what is due, as long as this is polled.
    pub async fn drive(&self) -> std::convert::Infallible {
        let changes = self.changes();
        loop {
            let version = changes.version();
            let (clock, due) = (self.clock(), self.look(World::next_due));
            let next = async {
                match due {
                    Some(due) => clock.sleep(due.saturating_sub(clock.elapsed())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = changes.changed_since(version) => {}
                () = next => {}
            }
        }
    }

    /// Looks at the world.
    pub fn look<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.lock().world)
    }

    /// Changes the world, as other people and the guests do.
    pub fn mutate<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.change(|state| change(&mut state.world))
    }

    /// Every session ends.
    pub fn drop_sessions(&self) {
        self.change(|state| state.sessions.clear());
    }

    /// Every connection breaks, and sessions go on.
    pub fn cut_connections(&self) {
        self.change(|state| state.cuts += 1);
    }

    /// Whether the host can be reached from now on. Sessions outlive an outage.
    pub fn set_reachable(&self, reachable: bool) {
        self.change(|state| {
            state.unreachable = !reachable;
            state.cuts += 1;
        });
    }

    /// Whether every login is refused.
    pub fn refuse_logins(&self, refuse: bool) {
        self.change(|state| state.refuses_logins = refuse);
    }

    /// How often somebody tried to log in.
    pub fn login_attempts(&self) -> u64 {
        self.lock().login_attempts
    }

    /// The host restarts: every machine is off, and no task and no session is left.
    pub fn reboot(&self) {
        self.change(|state| {
            state.world.reboot_host();
            state.sessions.clear();
            state.cuts += 1;
        });
    }
}

/// For the backend.
impl SimulatedHost {
    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Moves on with every change.
    pub(super) fn changes(&self) -> &Watched<()> {
        &self.0.changed
    }

    pub(super) fn product(&self) -> HostProduct {
        self.look(|world| HostProduct {
            full_name: format!("a simulated ESXi {} in this process", world.host.version),
            version: world.host.version.clone(),
            build: world.host.build.clone(),
            api_type: "HostAgent".to_owned(),
            api_version: world.host.api_version.clone(),
        })
    }

    pub(super) fn log_in(&self, password: &SecretString) -> Result<Connection, HostError> {
        let mut state = self.lock();
        state.reachable()?;
        state.login_attempts += 1;
        if state.refuses_logins || password.expose_secret() != self.0.password.expose_secret() {
            return Err(HostError::new(
                HostErrorKind::LoginRefused,
                "The host refused the account: give otter the right password.",
            ));
        }
        let ticket = state.login_attempts;
        state.sessions.insert(ticket);
        Ok(Connection { ticket, cuts: state.cuts })
    }

    /// A connection for a session that there is. `None` if there is no such session.
    pub(super) fn reconnect(&self, ticket: u64) -> Result<Option<Connection>, HostError> {
        let state = self.lock();
        state.reachable()?;
        Ok(state.sessions.contains(&ticket).then_some(Connection { ticket, cuts: state.cuts }))
    }

    pub(super) fn log_out(&self, ticket: u64) {
        self.lock().sessions.remove(&ticket);
    }

    /// Looks at the world through a connection.
    ///
    /// # Errors
    /// `Unreachable` if the connection broke, `NotAuthenticated` if the session ended.
    pub(super) fn on<T>(
        &self,
        connection: Connection,
        look: impl FnOnce(&World) -> T,
    ) -> Result<T, HostError> {
        let state = self.lock();
        state.admit(connection)?;
        Ok(look(&state.world))
    }

    /// The same, to change the world.
    pub(super) fn act<T>(
        &self,
        connection: Connection,
        act: impl FnOnce(&mut World) -> T,
    ) -> Result<T, HostError> {
        self.change(|state| {
            state.admit(connection)?;
            Ok(act(&mut state.world))
        })
    }

    /// Whether the connection still stands.
    pub(super) fn is_connected(&self, connection: Connection) -> bool {
        self.lock().cuts == connection.cuts
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.notify();
        result
    }

    fn notify(&self) {
        self.0.changed.set(());
    }

    /// The state, with time moved on to now. Never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.world.revision();
        let Shared { clock, .. } = &*self.0;
        state.world.advance(Moment { wall: clock.now(), elapsed: clock.elapsed() });
        if state.world.revision() != before {
            self.notify();
        }
        state
    }
}

impl State {
    fn reachable(&self) -> Result<(), HostError> {
        if self.unreachable {
            return Err(HostError::new(HostErrorKind::Unreachable, "The host does not answer."));
        }
        Ok(())
    }

    fn admit(&self, connection: Connection) -> Result<(), HostError> {
        if self.cuts != connection.cuts {
            return Err(cut());
        }
        if !self.sessions.contains(&connection.ticket) {
            return Err(HostError::new(
                HostErrorKind::NotAuthenticated,
                "The host ended the session.",
            ));
        }
        Ok(())
    }
}

/// The connection broke while the answer was awaited.
pub(super) fn cut() -> HostError {
    HostError::new(HostErrorKind::Unreachable, "The connection to the host broke.")
}

/// The host answered, and nobody can read the answer.
pub(super) fn unreadable() -> HostError {
    HostError::new(HostErrorKind::Protocol, "The answer of the host cannot be read.")
}
