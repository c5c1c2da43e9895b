//! The observer of a case. It applies facts as any observer does, records every report, and checks
//! the rules that hold at any time:
//!
//! - Calls come one at a time. The first report is `Connecting`, without a login.
//! - The first facts, and the first facts after each outage, are complete. Only then comes
//!   `Connected`.
//! - The number of logins never decreases. `Connected` has a login and a product. `Away` and
//!   `LoginRefused` have a reason.
//! - A set of changes is not empty. A removed object existed. The snapshots of a machine are a
//!   tree, parents first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use otter::domain::ids::{MachineId, SnapshotId};
use otter::domain::machine::Machine;
use otter::hypervisor::{Fact, Facts, GuestRestart, Observer, SessionState, SessionStatus};
use tokio::sync::watch;

use super::host_control::HostContents;

/// One report of the backend.
#[derive(Clone, Debug)]
pub enum Reported {
    Session(SessionStatus),
    /// A set of facts.
    Facts {
        complete: bool,
    },
    GuestRestarted {
        machine: MachineId,
        by: GuestRestart,
    },
    GuestConfirmed(Fact),
}

/// What the observer has received.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub contents: HostContents,
    pub reports: Vec<Reported>,
    /// Machines that were reported as removed, even if they came back.
    pub removed: BTreeSet<MachineId>,
    /// The broken rules.
    pub violations: Vec<String>,
    /// Whether complete facts came since the last outage.
    is_complete: bool,
}

/// An observer that records.
#[derive(Debug)]
pub struct RecordingObserver {
    recording: Mutex<Recording>,
    in_call: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Default for RecordingObserver {
    fn default() -> Self {
        Self {
            recording: Mutex::default(),
            in_call: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl RecordingObserver {
    /// A copy of the recording.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.lock().clone()
    }

    /// Reads the recording without a copy.
    pub fn read<T>(&self, read: impl FnOnce(&Recording) -> T) -> T {
        read(&self.lock())
    }

    /// Waits until `holds` returns a value. The caller sets the timeout.
    pub async fn wait_until<T>(&self, mut holds: impl FnMut(&Recording) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(value) = self.read(&mut holds) {
                return value;
            }
            if changed.changed().await.is_err() {
                // The sender lives as long as `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.recording.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records one call of the backend, and a violation if another call is in progress.
    fn record(&self, apply: impl FnOnce(&mut Recording)) {
        let guard = self.in_call.try_lock();
        {
            let mut recording = self.lock();
            if matches!(guard, Err(TryLockError::WouldBlock)) {
                recording.violations.push("two calls of the observer at the same time".to_owned());
            }
            apply(&mut recording);
        }
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Observer for RecordingObserver {
    fn observe(&self, facts: Facts) {
        self.record(|recording| recording.apply(facts));
    }

    fn session(&self, status: SessionStatus) {
        self.record(|recording| recording.session(status));
    }
}

impl Recording {
    /// The last status of the session.
    #[must_use]
    pub fn status(&self) -> Option<&SessionStatus> {
        self.statuses().last()
    }

    /// All statuses of the session.
    #[must_use]
    pub fn statuses(&self) -> impl DoubleEndedIterator<Item = &SessionStatus> {
        self.reports.iter().filter_map(|reported| match reported {
            Reported::Session(status) => Some(status),
            _ => None,
        })
    }

    /// The number of complete sets.
    #[must_use]
    pub fn complete_sets(&self) -> usize {
        self.reports
            .iter()
            .filter(|reported| matches!(reported, Reported::Facts { complete: true }))
            .count()
    }

    /// The number of reported guest restarts of a machine.
    #[must_use]
    pub fn restarts(&self, machine: &MachineId) -> usize {
        self.reports
            .iter()
            .filter(|reported| {
                matches!(reported, Reported::GuestRestarted { machine: id, .. } if id == machine)
            })
            .count()
    }

    /// What restarted the guest of a machine, in the order of the reports.
    #[must_use]
    pub fn restart_causes(&self, machine: &MachineId) -> Vec<GuestRestart> {
        let cause = |reported: &Reported| match reported {
            Reported::GuestRestarted { machine: id, by } if id == machine => Some(*by),
            _ => None,
        };
        self.reports.iter().filter_map(cause).collect()
    }

    fn apply(&mut self, facts: Facts) {
        let Facts { complete, changes } = facts;
        if self.reports.is_empty() {
            self.violations.push("facts before the first status of the session".to_owned());
        }
        let is_from_stream = |fact: &Fact| !matches!(fact, Fact::GuestConfirmed { .. });
        if !complete && changes.is_empty() {
            self.violations.push("an empty set of changes".to_owned());
        }
        if !complete && !self.is_complete && changes.iter().any(is_from_stream) {
            self.violations.push(format!("changes before complete facts: {changes:?}"));
        }
        self.reports.push(Reported::Facts { complete });
        let before: BTreeSet<MachineId> = self.contents.machines.keys().cloned().collect();
        if complete {
            self.is_complete = true;
            self.contents = HostContents::default();
        }
        for fact in changes {
            self.apply_one(fact);
        }
        self.removed
            .extend(before.into_iter().filter(|id| !self.contents.machines.contains_key(id)));
    }

    fn apply_one(&mut self, fact: Fact) {
        match fact {
            Fact::Machine(machine) => {
                self.violations.extend(snapshot_tree_error(&machine));
                self.contents.machines.insert(machine.id.clone(), Arc::unwrap_or_clone(machine));
            }
            Fact::MachineRemoved(id) => {
                if self.contents.machines.remove(&id).is_none() {
                    self.violations
                        .push(format!("the removal of machine {id}, which was not reported"));
                }
            }
            Fact::Datastore(datastore) => {
                self.contents
                    .datastores
                    .insert(datastore.id.clone(), Arc::unwrap_or_clone(datastore));
            }
            Fact::DatastoreRemoved(id) => {
                if self.contents.datastores.remove(&id).is_none() {
                    self.violations
                        .push(format!("the removal of datastore {id}, which was not reported"));
                }
            }
            Fact::GuestRestarted { machine, by } => {
                self.reports.push(Reported::GuestRestarted { machine, by });
            }
            fact @ Fact::GuestConfirmed { .. } => self.reports.push(Reported::GuestConfirmed(fact)),
        }
    }

    fn session(&mut self, status: SessionStatus) {
        let before = self.statuses().last().map_or(0, |status| status.logins);
        let mut violations = Vec::new();
        if self.reports.is_empty() != (status.state == SessionState::Connecting) {
            violations.push("the first status is not `Connecting`, or a later one is");
        }
        if self.reports.is_empty() && status.logins != 0 {
            violations.push("a login before the first status");
        }
        if status.logins < before {
            violations.push("fewer logins than before");
        }
        match &status.state {
            SessionState::Connecting => {}
            SessionState::Connected => {
                if !self.is_complete {
                    violations.push("connected before complete facts");
                }
                if status.logins == 0 || status.product.is_none() {
                    violations.push("connected without a login or a product");
                }
            }
            SessionState::Away { reason } | SessionState::LoginRefused { reason } => {
                self.is_complete = false;
                if reason.trim().is_empty() {
                    violations.push("an outage without a reason");
                }
            }
        }
        self.violations.extend(violations.into_iter().map(|rule| format!("{rule}: {status:?}")));
        self.reports.push(Reported::Session(status));
    }
}

/// The first defect of the snapshots of a machine. `None` if they are a tree.
fn snapshot_tree_error(machine: &Machine) -> Option<String> {
    let mut children: BTreeMap<&SnapshotId, Vec<&SnapshotId>> = BTreeMap::new();
    for snapshot in &machine.snapshots.items {
        if let Some(parent) = &snapshot.parent {
            match children.get_mut(parent) {
                Some(children) => children.push(&snapshot.id),
                None => {
                    return Some(format!(
                        "{}: snapshot {} before its parent",
                        machine.name, snapshot.id
                    ));
                }
            }
        }
        if children.insert(&snapshot.id, Vec::new()).is_some() {
            return Some(format!("{}: snapshot {} twice", machine.name, snapshot.id));
        }
    }
    let children_field =
        |id: &SnapshotId| machine.snapshots.get(id).map(|snapshot| &snapshot.children);
    if children.iter().any(|(id, children)| {
        !children_field(id).is_some_and(|reported| reported.iter().eq(children.iter().copied()))
    }) {
        return Some(format!("{}: parents and children of snapshots differ", machine.name));
    }
    let current = machine.snapshots.current.as_ref();
    current
        .filter(|current| machine.snapshots.get(current).is_none())
        .map(|current| format!("{}: the current snapshot {current} is missing", machine.name))
}
