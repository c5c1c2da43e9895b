//! The host: the world of the simulator, its sessions and its reachability, under one lock.
//!
//! Each access advances the world to the present. [`SimulatedHost::drive`] does so whenever an
//! event is due.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use otter::clock::Clock;
use otter::hypervisor::{HostError, HostErrorKind, HostProduct};
use otter::simulator::world::{Moment, World};
use otter::simulator::{Pace, Scenario};
use secrecy::{ExposeSecret, SecretString};

use super::ordered_watch::OrderedWatch;

/// The host. Clones share its state.
#[derive(Clone)]
pub struct SimulatedHost(Arc<HostShared>);

struct HostShared {
    clock: Clock,
    password: SecretString,
    state: Mutex<HostState>,
    /// Changes with every change of the state.
    changed: OrderedWatch<()>,
}

struct HostState {
    world: World,
    /// The ids of the open sessions.
    sessions: BTreeSet<u64>,
    login_attempts: u64,
    refuse_logins: bool,
    unreachable: bool,
    /// How often all connections broke.
    connection_epoch: u64,
}

/// A connection to the host with a session on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    pub session_id: u64,
    connection_epoch: u64,
}

/// Functions for tests: they change the host and the connections to it.
impl SimulatedHost {
    /// The host of this scenario. The password of its account is `otter`.
    pub fn new(scenario: &Scenario, pace: Pace, clock: Clock) -> Self {
        let now = Moment { wall: clock.now(), elapsed: clock.elapsed() };
        let state = HostState {
            world: scenario.build(pace, now),
            sessions: BTreeSet::new(),
            login_attempts: 0,
            refuse_logins: false,
            unreachable: false,
            connection_epoch: 0,
        };
        let (password, state) = (Self::password(), Mutex::new(state));
        Self(Arc::new(HostShared { clock, password, state, changed: OrderedWatch::new(()) }))
    }

    /// The password of the account.
    pub fn password() -> SecretString {
        SecretString::from("otter")
    }

    /// Runs the events of the world when they are due, as long as this future is polled.
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

    /// Reads the world.
    pub fn look<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.lock().world)
    }

    /// Changes the world, as other clients and the guests do.
    pub fn mutate<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        self.change(|state| change(&mut state.world))
    }

    /// Ends every session.
    pub fn drop_sessions(&self) {
        self.change(|state| state.sessions.clear());
    }

    /// Breaks every connection. The sessions go on.
    pub fn cut_connections(&self) {
        self.change(|state| state.connection_epoch += 1);
    }

    /// Sets whether the host is reachable. Sessions outlive an outage.
    pub fn set_reachable(&self, reachable: bool) {
        self.change(|state| {
            state.unreachable = !reachable;
            state.connection_epoch += 1;
        });
    }

    /// Sets whether every login is refused.
    pub fn refuse_logins(&self, refuse: bool) {
        self.change(|state| state.refuse_logins = refuse);
    }

    /// The number of login attempts.
    pub fn login_attempts(&self) -> u64 {
        self.lock().login_attempts
    }

    /// Reboots the host: every machine is off, and all tasks and sessions are gone.
    pub fn reboot(&self) {
        self.change(|state| {
            state.world.reboot_host();
            state.sessions.clear();
            state.connection_epoch += 1;
        });
    }
}

/// Functions for the backend.
impl SimulatedHost {
    pub(super) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Changes with every change of the state.
    pub(super) fn changes(&self) -> &OrderedWatch<()> {
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
        state.check_reachable()?;
        state.login_attempts += 1;
        if state.refuse_logins || password.expose_secret() != self.0.password.expose_secret() {
            return Err(HostError::new(
                HostErrorKind::LoginRefused,
                "The host refused the account: give otter the right password.",
            ));
        }
        let session_id = state.login_attempts;
        state.sessions.insert(session_id);
        Ok(Connection { session_id, connection_epoch: state.connection_epoch })
    }

    /// A new connection for an open session. `None` if the session has ended.
    pub(super) fn reconnect(&self, session_id: u64) -> Result<Option<Connection>, HostError> {
        let state = self.lock();
        state.check_reachable()?;
        Ok(state
            .sessions
            .contains(&session_id)
            .then_some(Connection { session_id, connection_epoch: state.connection_epoch }))
    }

    pub(super) fn log_out(&self, session_id: u64) {
        self.lock().sessions.remove(&session_id);
    }

    /// Reads the world through a connection.
    ///
    /// # Errors
    /// `Unreachable` if the connection broke, `NotAuthenticated` if the session ended.
    pub(super) fn read_through<T>(
        &self,
        connection: Connection,
        look: impl FnOnce(&World) -> T,
    ) -> Result<T, HostError> {
        let state = self.lock();
        state.check_connection(connection)?;
        Ok(look(&state.world))
    }

    /// Changes the world through a connection. Fails like [`read_through`](Self::read_through).
    pub(super) fn change_through<T>(
        &self,
        connection: Connection,
        change: impl FnOnce(&mut World) -> T,
    ) -> Result<T, HostError> {
        self.change(|state| {
            state.check_connection(connection)?;
            Ok(change(&mut state.world))
        })
    }

    /// Whether the connection is not broken.
    pub(super) fn is_connected(&self, connection: Connection) -> bool {
        self.lock().connection_epoch == connection.connection_epoch
    }

    fn change<T>(&self, change: impl FnOnce(&mut HostState) -> T) -> T {
        let result = change(&mut self.lock());
        self.notify();
        result
    }

    fn notify(&self) {
        self.0.changed.set(());
    }

    /// Locks the state and advances it to the current time. Never hold the guard across an await.
    fn lock(&self) -> MutexGuard<'_, HostState> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.world.revision();
        let HostShared { clock, .. } = &*self.0;
        state.world.advance(Moment { wall: clock.now(), elapsed: clock.elapsed() });
        if state.world.revision() != before {
            self.notify();
        }
        state
    }
}

impl HostState {
    fn check_reachable(&self) -> Result<(), HostError> {
        if self.unreachable {
            return Err(HostError::new(HostErrorKind::Unreachable, "The host does not answer."));
        }
        Ok(())
    }

    fn check_connection(&self, connection: Connection) -> Result<(), HostError> {
        if self.connection_epoch != connection.connection_epoch {
            return Err(cut());
        }
        if !self.sessions.contains(&connection.session_id) {
            return Err(HostError::new(
                HostErrorKind::NotAuthenticated,
                "The host ended the session.",
            ));
        }
        Ok(())
    }
}

/// The error of a request whose connection broke before the answer.
pub(super) fn cut() -> HostError {
    HostError::new(HostErrorKind::Unreachable, "The connection to the host broke.")
}

/// The error of a request whose answer is unreadable.
pub(super) fn unreadable() -> HostError {
    HostError::new(HostErrorKind::Protocol, "The answer of the host cannot be read.")
}
