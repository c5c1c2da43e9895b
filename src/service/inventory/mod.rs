//! The inventory: the machines and datastores in memory, as the host last reported them. The
//! backend reports facts, which change the inventory.

mod address_trust;
mod contents;
mod entry;
mod machine_index;
mod machine_list;
#[cfg(test)]
pub mod samples;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use self::contents::{Change, InventoryContents};
pub use self::machine_list::MachineList;
use super::event_stream::EventStream;
use super::hosts::Hosts;
use crate::clock::Clock;
use crate::domain::event::{Placement, PlacementChange, Subject};
use crate::domain::ids::MachineId;
use crate::domain::machine::Machine;
use crate::domain::machine_reference::MachineKeys;
use crate::domain::pool::annotated_pools;
use crate::hypervisor::{Facts, Observer, SessionState, SessionStatus};

/// The inventory: its contents, and the state of the session with the host. Readers of the contents
/// take no lock.
pub struct Inventory {
    clock: Clock,
    event_stream: EventStream,
    guest_settle: Duration,
    contents: ArcSwap<InventoryContents>,
    /// Makes writers wait for each other. Only one task of the backend reports facts, so in
    /// practice no writer waits.
    writer: Mutex<()>,
    session: watch::Sender<ObservedSession>,
    watchers: Mutex<HashMap<MachineId, watch::Sender<()>>>,
    confirmations: Notify,
}

/// The session as the backend last reported it. `at` is the time of the last connect or disconnect,
/// as the elapsed time of the clock.
#[derive(Clone, Debug)]
struct ObservedSession {
    status: SessionStatus,
    at: Duration,
}

impl Inventory {
    /// The empty inventory of a host that otter has not read yet.
    ///
    /// # Parameters
    /// - `guest_settle`: the setting `esx.guest_settle`.
    #[must_use]
    pub fn new(clock: Clock, event_stream: EventStream, guest_settle: Duration) -> Self {
        let status = SessionStatus {
            state: SessionState::Connecting,
            since: clock.now(),
            logins: 0,
            product: None,
        };
        let session = watch::Sender::new(ObservedSession { status, at: clock.elapsed() });
        Self {
            clock,
            event_stream,
            guest_settle,
            contents: ArcSwap::default(),
            writer: Mutex::new(()),
            session,
            watchers: Mutex::new(HashMap::new()),
            confirmations: Notify::new(),
        }
    }

    /// The current contents. The value is immutable.
    #[must_use]
    pub fn contents(&self) -> Arc<InventoryContents> {
        self.contents.load_full()
    }

    /// The session as the backend last reported it.
    #[must_use]
    pub fn session(&self) -> SessionStatus {
        self.session.borrow().status.clone()
    }

    /// How long the session has been without a connection to the host. `None` while the session is
    /// connected.
    #[must_use]
    pub fn away_for(&self) -> Option<Duration> {
        let observed = self.session.borrow();
        match observed.status.state {
            SessionState::Connected => None,
            _ => Some(self.clock.elapsed().saturating_sub(observed.at)),
        }
    }

    /// Waits until the session is connected.
    pub async fn connected(&self) {
        let mut session = self.session.subscribe();
        // The wait cannot fail, because the sender lives as long as `self`.
        let _ = session.wait_for(|observed| observed.status.state == SessionState::Connected).await;
    }

    /// Notifies of each change of this machine, including its removal. A caller that reads the
    /// machine must subscribe before the read, so that it misses no change.
    pub fn watch(&self, machine: &MachineId) -> watch::Receiver<()> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = watchers.get(machine) {
            return watcher.subscribe();
        }
        // Remove the watchers that have no receivers. Without this, the watchers of machines that
        // never change again would accumulate.
        watchers.retain(|_, watcher| watcher.receiver_count() > 0);
        watchers.entry(machine.clone()).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Publishes that otter's own data about a machine changed (its lease, quarantine or jobs), and
    /// wakes the callers that watch the machine.
    pub fn wake_watchers(&self, machine: &MachineId) {
        if self.contents.load().machine(machine).is_some() {
            self.event_stream.publish([Subject::Machine(machine.clone())]);
        }
        self.wake(&[Change::Machine(machine.clone())]);
    }

    /// Makes every reader of events, and every caller that watches a machine, read again. This is
    /// necessary if otter's own data about any machine may have changed (its pools, its
    /// protection).
    pub fn start_over(&self) {
        self.event_stream.start_over();
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for watcher in watchers.values() {
            watcher.send_replace(());
        }
    }

    /// Confirms the addresses of guests that are not trusted: reads each such guest directly from
    /// the host, once the time for this read has come. Runs until `stop` is cancelled.
    pub async fn confirm_guests(&self, hosts: Hosts, stop: CancellationToken) {
        let confirm = async {
            loop {
                self.connected().await;
                // In each round, read every guest that is due only once, so that a guest that
                // cannot be read does not delay the others.
                let due = self.due_for_confirmation();
                for machine in &due {
                    if let Err(error) = hosts.for_machine(machine).confirm_guest(machine).await {
                        tracing::debug!(%machine, %error, "the guest could not be read");
                    }
                }
                let still_due = self.due_for_confirmation();
                if due.iter().any(|machine| still_due.contains(machine)) {
                    // A guest that was read is still due, because the read failed: the host is
                    // away, or the machine is being removed. Pause before the next round.
                    self.clock.sleep(Duration::from_secs(5)).await;
                    continue;
                }
                let soonest = self.contents().confirmations().map(|(_, at)| at).min();
                let wait = soonest
                    .map_or(Duration::from_hours(1), |at| at.saturating_sub(self.clock.elapsed()));
                tokio::select! {
                    biased;
                    () = self.confirmations.notified() => {}
                    () = self.clock.sleep(wait) => {}
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = confirm => {}
        }
    }

    fn due_for_confirmation(&self) -> Vec<MachineId> {
        let now = self.clock.elapsed();
        let contents = self.contents();
        let due = contents.confirmations().filter(|(_, at)| *at <= now);
        due.map(|(machine, _)| machine.clone()).collect()
    }

    fn publish(&self, facts: Facts) {
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.contents.load();
        let (now, settle) = (self.clock.elapsed(), self.guest_settle);
        let (mut contents, changes) = before.apply(facts, now, settle);
        contents.updated_at = Some(self.clock.now());
        let subjects: Vec<Subject> = changes
            .iter()
            .flat_map(|change| {
                let moved = placement_change(&before, &contents, change);
                std::iter::once(Subject::from(change.clone())).chain(moved)
            })
            .collect();
        self.contents.store(Arc::new(contents));
        self.event_stream.publish(subjects);
        self.wake(&changes);
        self.confirmations.notify_one();
    }

    fn wake(&self, changes: &[Change]) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            if let Change::Machine(id) | Change::MachineRemoved(id) = change
                && let Some(watcher) = watchers.get(id)
                && watcher.send(()).is_err()
            {
                watchers.remove(id);
            }
        }
    }
}

/// The change of the placement of a machine (its name, pools and datastores), if there is one.
fn placement_change(
    before: &InventoryContents,
    after: &InventoryContents,
    change: &Change,
) -> Option<Subject> {
    let (Change::Machine(id) | Change::MachineRemoved(id)) = change else { return None };
    if !before.loaded {
        // The first load of the inventory reports no changes of placements, because each datastore
        // then has an event of its own.
        return None;
    }
    let known = before.machine(id);
    let placement = |machine: &Arc<Machine>| Placement {
        keys: MachineKeys::new(machine),
        annotated_pools: annotated_pools(machine.annotation.as_deref()),
        datastores: machine.datastores.clone(),
    };
    let (before, after) = (known.map(placement), after.machine(id).map(placement));
    if after == before {
        return None;
    }
    let snapshots = known.into_iter().flat_map(|known| &known.snapshots.items);
    let snapshots = snapshots.map(|snapshot| snapshot.id.clone()).collect();
    Some(Subject::Placement(Arc::new(PlacementChange {
        machine: id.clone(),
        before,
        after,
        snapshots,
    })))
}

impl Observer for Inventory {
    fn observe(&self, facts: Facts) {
        self.publish(facts);
    }

    fn session(&self, status: SessionStatus) {
        let at = self.clock.elapsed();
        self.session.send_modify(|observed| {
            // The time `at` stays if the session was not connected and still is not: an outage
            // lasts until the session is connected, even if the reason of the outage changes.
            let was_away = observed.status.state != SessionState::Connected;
            let is_away = status.state != SessionState::Connected;
            if !(was_away && is_away) {
                observed.at = at;
            }
            observed.status = status;
        });
        self.event_stream.publish([Subject::Session]);
    }
}
