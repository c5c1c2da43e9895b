//! The live picture: what the host pushed, kept in memory, read by everybody, changed by the
//! collector alone.

mod address_trust;
mod contents;
#[cfg(test)]
pub mod samples;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use self::contents::{Change, InventoryContents, MachineRecord};
use super::feed::Feed;
use super::hosts::Hosts;
use crate::clock::Clock;
use crate::domain::event::{Placement, PlacementChange, Subject};
use crate::domain::ids::MachineId;
use crate::domain::pool::annotated_pools;
use crate::hypervisor::{Facts, Observer, SessionState, SessionStatus};

/// The picture and the session's state. Reading takes no lock.
pub struct Inventory {
    clock: Clock,
    feed: Feed,
    guest_settle: Duration,
    contents: ArcSwap<Published>,
    /// Serialises the writers; the collector is one task, so this is never waited for.
    writer: Mutex<()>,
    session: watch::Sender<Observed>,
    watchers: Mutex<HashMap<MachineId, watch::Sender<()>>>,
    confirmations: Notify,
}

struct Published {
    contents: InventoryContents,
    at: Option<Timestamp>,
}

/// The session as last told, and when by the clock that does not jump.
#[derive(Clone, Debug)]
struct Observed {
    status: SessionStatus,
    at: Duration,
}

impl Inventory {
    /// An empty picture of a host that was never reached. `guest_settle` is `esx.guest_settle`.
    #[must_use]
    pub fn new(clock: Clock, feed: Feed, guest_settle: Duration) -> Self {
        let status = SessionStatus {
            state: SessionState::Connecting,
            since: clock.now(),
            logins: 0,
            product: None,
        };
        let session = watch::Sender::new(Observed { status, at: clock.elapsed() });
        Self {
            clock,
            feed,
            guest_settle,
            contents: ArcSwap::from_pointee(Published {
                contents: InventoryContents::default(),
                at: None,
            }),
            writer: Mutex::new(()),
            session,
            watchers: Mutex::new(HashMap::new()),
            confirmations: Notify::new(),
        }
    }

    /// The picture as it is now; it does not change under the reader.
    #[must_use]
    pub fn contents(&self) -> ContentsGuard {
        ContentsGuard(self.contents.load_full())
    }

    /// When the picture last changed or was confirmed whole; none before it was first loaded.
    #[must_use]
    pub fn updated_at(&self) -> Option<Timestamp> {
        self.contents.load().at
    }

    /// The session as last told.
    #[must_use]
    pub fn session(&self) -> SessionStatus {
        self.session.borrow().status.clone()
    }

    /// For how long the host has been away; none while it is connected.
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
        // The sender lives as long as `self`, so this cannot fail.
        let _ = session.wait_for(|observed| observed.status.state == SessionState::Connected).await;
    }

    /// Wakes at each change of this machine, its removal included. Subscribe first, then look.
    pub fn watch(&self, machine: &MachineId) -> watch::Receiver<()> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = watchers.get(machine) {
            return watcher.subscribe();
        }
        // Machines that never change again would leave theirs behind.
        watchers.retain(|_, watcher| watcher.receiver_count() > 0);
        watchers.entry(machine.clone()).or_insert_with(|| watch::Sender::new(())).subscribe()
    }

    /// Tells, and wakes those who watch a machine, that something beside the host's word on it
    /// changed.
    pub fn wake_watchers(&self, machine: &MachineId) {
        if self.contents.load().contents.machine(machine).is_some() {
            self.feed.publish([Subject::Machine(machine.clone())]);
        }
        self.wake(&[Change::Machine(machine.clone())]);
    }

    /// Reads guests directly whose address is doubted and for whom nothing came by itself. Runs
    /// until told to stop.
    pub async fn confirm_guests(&self, hosts: Hosts, stop: CancellationToken) {
        let confirm = async {
            loop {
                self.connected().await;
                // Each once: one that cannot be read must not keep the others waiting.
                let due = self.due_for_confirmation();
                for machine in &due {
                    if let Err(error) = hosts.of(machine).confirm_guest(machine).await {
                        tracing::debug!(%machine, %error, "the guest could not be read");
                    }
                }
                let still_due = self.due_for_confirmation();
                if due.iter().any(|machine| still_due.contains(machine)) {
                    // The host went away, or the machine is about to vanish from the contents.
                    self.clock.sleep(Duration::from_secs(5)).await;
                    continue;
                }
                let soonest =
                    self.contents().machines.iter().filter_map(|record| record.confirm_at()).min();
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
        let due = |record: &&Arc<MachineRecord>| record.confirm_at().is_some_and(|at| at <= now);
        contents.machines.iter().filter(due).map(|record| record.machine.id.clone()).collect()
    }

    fn publish(&self, facts: Facts) {
        let _one_writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.contents.load();
        let (now, settle) = (self.clock.elapsed(), self.guest_settle);
        let (contents, changes) = before.contents.apply(facts, now, settle);
        let subjects: Vec<Subject> = changes
            .iter()
            .flat_map(|change| {
                let moved = placement_change(&before.contents, &contents, change);
                std::iter::once(Subject::from(change.clone())).chain(moved)
            })
            .collect();
        self.contents.store(Arc::new(Published { contents, at: Some(self.clock.now()) }));
        self.feed.publish(subjects);
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

/// The placement change of a machine, if there is one.
fn placement_change(
    before: &InventoryContents,
    after: &InventoryContents,
    change: &Change,
) -> Option<Subject> {
    let (Change::Machine(id) | Change::MachineRemoved(id)) = change else { return None };
    if !before.loaded {
        // Each datastore has an event of its own then.
        return None;
    }
    let known = before.machine(id);
    let placement = |record: &Arc<MachineRecord>| Placement {
        name: record.machine.name.clone(),
        annotated_pools: annotated_pools(record.machine.annotation.as_deref()),
        datastores: record.machine.datastores.clone(),
    };
    let (before, after) = (known.map(placement), after.machine(id).map(placement));
    if after == before {
        return None;
    }
    let snapshots = known.into_iter().flat_map(|known| &known.machine.snapshots.items);
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
            // An outage is as old as its beginning, whatever reasons it goes through.
            let was_away = observed.status.state != SessionState::Connected;
            let is_away = status.state != SessionState::Connected;
            if !(was_away && is_away) {
                observed.at = at;
            }
            observed.status = status;
        });
        self.feed.publish([Subject::Session]);
    }
}

/// A picture that is being read.
pub struct ContentsGuard(Arc<Published>);

impl std::ops::Deref for ContentsGuard {
    type Target = InventoryContents;

    fn deref(&self) -> &InventoryContents {
        &self.0.contents
    }
}
