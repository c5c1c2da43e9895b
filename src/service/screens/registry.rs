//! The open screens: at most one upstream for each machine, opened on demand, and ended when no one
//! has used it for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::ScreenSettings;
use super::frame::Frame;
use super::screen_user::ScreenUser;
use super::shared_screen::{InputMessage, SharedScreen, UseCount};
use super::state::{ConnectionState, ScreenState};
use super::upstream_task::{TaskParts, UpstreamTask};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::MachineId;
use crate::domain::machine::Machine;
use crate::service::hosts::Hosts;
use crate::service::inventory::Inventory;
use crate::supervisor::Supervisor;
use crate::telemetry::screens::ScreenMetrics;

/// The number of machines whose last use is remembered.
const MAX_LAST_USES: usize = 10_000;

/// The screens that are open. Clones share them.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    hosts: Hosts,
    inventory: Arc<Inventory>,
    supervisor: Supervisor,
    clock: Clock,
    metrics: ScreenMetrics,
    idle: Duration,
    max_open: usize,
    screens: Mutex<HashMap<MachineId, Arc<SharedScreen>>>,
    /// When a user last joined each screen, whether it is open or not.
    last_uses: Mutex<HashMap<MachineId, Timestamp>>,
}

impl Registry {
    /// No screen is open.
    #[must_use]
    pub fn new(
        hosts: Hosts,
        inventory: Arc<Inventory>,
        supervisor: Supervisor,
        clock: Clock,
        metrics: ScreenMetrics,
        settings: &ScreenSettings,
    ) -> Self {
        let ScreenSettings { idle, max_open, .. } = *settings;
        let screens = Mutex::default();
        Self(Arc::new(Inner {
            hosts,
            inventory,
            supervisor,
            clock,
            metrics,
            idle,
            max_open,
            screens,
            last_uses: Mutex::default(),
        }))
    }

    /// Joins the users of a screen. Opens it if it is not open.
    ///
    /// # Errors
    /// `too-many-consoles` if `screens.max_open` screens are in use, `shutting-down`.
    pub fn join(&self, machine: &Machine) -> Result<ScreenUser, Failure> {
        let Inner { supervisor, clock, max_open, .. } = &*self.0;
        let stop = supervisor.shutdown_token();
        if stop.is_cancelled() {
            return Err(Failure::new(FailureKind::ShuttingDown, "otter is shutting down."));
        }
        self.remember_use(&machine.id);
        let mut screens = self.screens();
        let known = screens.get(&machine.id).filter(|known| {
            !known.stop.is_cancelled() && known.machine.identity().agrees_with(&machine.identity())
        });
        if let Some(known) = known {
            return Ok(ScreenUser::new(UseCount::of(known), clock.clone()));
        }
        // An entry of another machine that had the same id, or that is about to end.
        if let Some(outdated) = screens.remove(&machine.id) {
            outdated.stop.cancel();
        }
        if screens.len() >= *max_open && !remove_unused(&mut screens) {
            let detail = format!(
                "The screens of {max_open} machines are open, which is the limit \
                 (screens.max_open). Try again when one of them is closed."
            );
            return Err(Failure::new(FailureKind::TooManyConsoles, detail)
                .with_machine(&machine.id, &machine.name));
        }
        let frame = Arc::new(Frame::empty(clock.now()));
        let (shared, inputs) =
            SharedScreen::new(Arc::new(machine.clone()), frame, stop.child_token());
        let shared = Arc::new(shared);
        screens.insert(machine.id.clone(), Arc::clone(&shared));
        let user = ScreenUser::new(UseCount::of(&shared), clock.clone());
        drop(screens);
        self.start(&shared, inputs);
        Ok(user)
    }

    /// Whether a user joined the screen of a machine at or after this time, or uses it now.
    pub fn was_used_since(&self, machine: &MachineId, since: Timestamp) -> bool {
        let is_used = self.screens().get(machine).is_some_and(|shared| *shared.users.borrow() > 0);
        is_used || self.last_uses().get(machine).is_some_and(|used_at| *used_at >= since)
    }

    fn remember_use(&self, machine: &MachineId) {
        let mut last_uses = self.last_uses();
        if last_uses.len() >= MAX_LAST_USES && !last_uses.contains_key(machine) {
            let oldest = last_uses.iter().min_by_key(|(_, used_at)| **used_at);
            if let Some(oldest) = oldest.map(|(machine, _)| machine.clone()) {
                last_uses.remove(&oldest);
            }
        }
        last_uses.insert(machine.clone(), self.0.clock.now());
    }

    fn last_uses(&self) -> MutexGuard<'_, HashMap<MachineId, Timestamp>> {
        self.0.last_uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of a screen, from memory.
    pub fn state(&self, machine: &MachineId, unavailable_reason: Option<String>) -> ScreenState {
        let screens = self.screens();
        let shared = screens.get(machine).filter(|shared| !shared.stop.is_cancelled());
        let published = shared.map(|shared| shared.published.borrow());
        let frame = published.as_ref().map(|published| &published.frame);
        let seen = frame.filter(|frame| frame.version > 0 && frame.size.pixels() > 0);
        ScreenState {
            unavailable_reason,
            size: seen.map(|frame| frame.size),
            changed_at: seen.map(|frame| frame.changed_at),
            connection: published
                .as_ref()
                .map_or(ConnectionState::Closed, |published| published.connection),
            viewers: Vec::new(),
            driver: None,
        }
    }

    fn start(&self, shared: &Arc<SharedScreen>, inputs: mpsc::Receiver<InputMessage>) {
        let Inner { hosts, inventory, supervisor, clock, metrics, idle, .. } = &*self.0;
        let task = UpstreamTask::new(TaskParts {
            host: Arc::clone(hosts.for_machine(&shared.machine.id)),
            inventory: Arc::clone(inventory),
            clock: clock.clone(),
            metrics: metrics.clone(),
            idle: *idle,
            shared: Arc::clone(shared),
            inputs,
        });
        let registry = self.clone();
        let ended = Arc::clone(shared);
        // The task ends by itself, and the shutdown waits for it, so that the host sees a proper
        // end of each connection.
        drop(supervisor.spawn_isolated("screen", async move {
            let _removal = Removal { registry: registry.clone(), shared: ended };
            task.run(|shared| registry.remove_if_unused(shared)).await;
        }));
    }

    /// Removes a screen if it has no user, so that it gets none any more.
    ///
    /// # Returns
    /// Whether the screen was removed.
    fn remove_if_unused(&self, shared: &Arc<SharedScreen>) -> bool {
        let mut screens = self.screens();
        let is_unused = *shared.users.borrow() == 0;
        if is_unused {
            remove(&mut screens, shared);
            shared.stop.cancel();
        }
        is_unused
    }

    fn screens(&self) -> MutexGuard<'_, HashMap<MachineId, Arc<SharedScreen>>> {
        self.0.screens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a screen from the registry when its task has ended, whatever the reason.
struct Removal {
    registry: Registry,
    shared: Arc<SharedScreen>,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        remove(&mut self.registry.screens(), &self.shared);
        let machine = &self.shared.machine;
        let failure = Failure::new(FailureKind::Internal, "The task of the screen ended.");
        self.shared.publish_end(failure.with_machine(&machine.id, &machine.name));
    }
}

fn remove(screens: &mut HashMap<MachineId, Arc<SharedScreen>>, shared: &Arc<SharedScreen>) {
    let machine = &shared.machine.id;
    if screens.get(machine).is_some_and(|known| Arc::ptr_eq(known, shared)) {
        screens.remove(machine);
    }
}

/// Removes and ends one screen that has no user. Returns whether there was one.
fn remove_unused(screens: &mut HashMap<MachineId, Arc<SharedScreen>>) -> bool {
    let unused = screens.values().find(|shared| *shared.users.borrow() == 0).cloned();
    if let Some(unused) = &unused {
        screens.remove(&unused.machine.id);
        unused.stop.cancel();
    }
    unused.is_some()
}
