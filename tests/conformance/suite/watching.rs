//! The observer of a trial: keeps a picture as any observer would, notes all that it is told, and
//! holds that to the rules which are true at every moment:
//!
//! - one call at a time; the first thing told is `Connecting`, with no login;
//! - the first facts after it, and after each absence, are the whole picture, and only then comes
//!   `Connected`;
//! - logins never fall; who is connected has logged in and says what the host is; who is away says
//!   why;
//! - a set of changes is not empty; what is removed was there; a machine's snapshots are a tree,
//!   parents first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use otter::domain::ids::{MachineId, SnapshotId};
use otter::domain::machine::Machine;
use otter::hypervisor::{Fact, Facts, Observer, SessionState, SessionStatus};
use tokio::sync::watch;

use super::stage::Truth;

/// What was told, in the order in which it was.
#[derive(Clone, Debug)]
pub enum Told {
    Session(SessionStatus),
    /// A set of facts, and whether it was the whole picture.
    Set {
        complete: bool,
    },
    Restarted(MachineId),
    Confirmed(Fact),
}

/// What an observer knows.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    pub all: Truth,
    pub told: Vec<Told>,
    /// Machines that were known and then were not, for a moment or for good.
    pub missed: BTreeSet<MachineId>,
    /// The rules that were broken.
    pub broken: Vec<String>,
    /// Whether the whole picture was told since the host was last away.
    whole: bool,
}

/// The observer.
#[derive(Debug)]
pub struct Watching {
    picture: Mutex<Picture>,
    telling: Mutex<()>,
    changed: watch::Sender<u64>,
}

impl Default for Watching {
    fn default() -> Self {
        Self {
            picture: Mutex::default(),
            telling: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }
}

impl Watching {
    /// What is known now.
    #[must_use]
    pub fn picture(&self) -> Picture {
        self.lock().clone()
    }

    /// Looks without a copy.
    pub fn look<T>(&self, look: impl FnOnce(&Picture) -> T) -> T {
        look(&self.lock())
    }

    /// Waits until this gives something. The caller bounds it.
    pub async fn until<T>(&self, mut holds: impl FnMut(&Picture) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(value) = self.look(&mut holds) {
                return value;
            }
            if changed.changed().await.is_err() {
                // The sender is ours.
                std::future::pending::<()>().await;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Picture> {
        self.picture.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies one call of the backend, and notes where two come at a time.
    fn told(&self, apply: impl FnOnce(&mut Picture)) {
        let alone = self.telling.try_lock();
        {
            let mut picture = self.lock();
            if matches!(alone, Err(TryLockError::WouldBlock)) {
                picture.broken.push("two calls of the observer at a time".to_owned());
            }
            apply(&mut picture);
        }
        self.changed.send_modify(|count| *count += 1);
    }
}

impl Observer for Watching {
    fn observe(&self, facts: Facts) {
        self.told(|picture| picture.apply(facts));
    }

    fn session(&self, status: SessionStatus) {
        self.told(|picture| picture.session(status));
    }
}

impl Picture {
    /// The last word on the session.
    #[must_use]
    pub fn status(&self) -> Option<&SessionStatus> {
        self.statuses().last()
    }

    /// All that was told of the session.
    #[must_use]
    pub fn statuses(&self) -> impl DoubleEndedIterator<Item = &SessionStatus> {
        self.told.iter().filter_map(|told| match told {
            Told::Session(status) => Some(status),
            _ => None,
        })
    }

    /// How often the whole picture was told.
    #[must_use]
    pub fn whole_sets(&self) -> usize {
        self.told.iter().filter(|told| matches!(told, Told::Set { complete: true })).count()
    }

    /// How often the guest of a machine was told to have begun anew.
    #[must_use]
    pub fn restarts(&self, machine: &MachineId) -> usize {
        self.told.iter().filter(|told| matches!(told, Told::Restarted(id) if id == machine)).count()
    }

    fn apply(&mut self, facts: Facts) {
        let Facts { complete, changes } = facts;
        if self.told.is_empty() {
            self.broken.push("facts before any word on the session".to_owned());
        }
        let of_stream = |fact: &Fact| !matches!(fact, Fact::GuestConfirmed { .. });
        if !complete && changes.is_empty() {
            self.broken.push("a set of changes without any".to_owned());
        }
        if !complete && !self.whole && changes.iter().any(of_stream) {
            self.broken.push(format!("changes before the whole picture: {changes:?}"));
        }
        self.told.push(Told::Set { complete });
        let before: BTreeSet<MachineId> = self.all.machines.keys().cloned().collect();
        if complete {
            self.whole = true;
            self.all = Truth::default();
        }
        for fact in changes {
            self.apply_one(fact);
        }
        self.missed.extend(before.into_iter().filter(|id| !self.all.machines.contains_key(id)));
    }

    fn apply_one(&mut self, fact: Fact) {
        match fact {
            Fact::Machine(machine) => {
                self.broken.extend(crooked(&machine));
                self.all.machines.insert(machine.id.clone(), Arc::unwrap_or_clone(machine));
            }
            Fact::MachineRemoved(id) => {
                if self.all.machines.remove(&id).is_none() {
                    self.broken
                        .push(format!("the removal of machine {id}, which was never told of"));
                }
            }
            Fact::Datastore(datastore) => {
                self.all.datastores.insert(datastore.id.clone(), Arc::unwrap_or_clone(datastore));
            }
            Fact::DatastoreRemoved(id) => {
                if self.all.datastores.remove(&id).is_none() {
                    self.broken
                        .push(format!("the removal of datastore {id}, which was never told of"));
                }
            }
            Fact::GuestRestarted(id) => self.told.push(Told::Restarted(id)),
            fact @ Fact::GuestConfirmed { .. } => self.told.push(Told::Confirmed(fact)),
        }
    }

    fn session(&mut self, status: SessionStatus) {
        let before = self.statuses().last().map_or(0, |status| status.logins);
        let mut broken = Vec::new();
        if self.told.is_empty() != (status.state == SessionState::Connecting) {
            broken.push("`Connecting` is the first word, and no other");
        }
        if self.told.is_empty() && status.logins != 0 {
            broken.push("a login before the first");
        }
        if status.logins < before {
            broken.push("fewer logins than before");
        }
        match &status.state {
            SessionState::Connecting => {}
            SessionState::Connected => {
                if !self.whole {
                    broken.push("connected before the whole picture was told");
                }
                if status.logins == 0 || status.product.is_none() {
                    broken.push("connected without a login, or to nobody");
                }
            }
            SessionState::Away { reason } | SessionState::LoginRefused { reason } => {
                self.whole = false;
                if reason.trim().is_empty() {
                    broken.push("away without a reason");
                }
            }
        }
        self.broken.extend(broken.into_iter().map(|rule| format!("{rule}: {status:?}")));
        self.told.push(Told::Session(status));
    }
}

/// What is wrong with a machine's tree of snapshots.
fn crooked(machine: &Machine) -> Option<String> {
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
    let as_told = |id: &SnapshotId| machine.snapshots.get(id).map(|snapshot| &snapshot.children);
    if children.iter().any(|(id, children)| {
        !as_told(id).is_some_and(|told| told.iter().eq(children.iter().copied()))
    }) {
        return Some(format!("{}: children and parents of snapshots do not agree", machine.name));
    }
    let current = machine.snapshots.current.as_ref();
    current
        .filter(|current| machine.snapshots.get(current).is_none())
        .map(|current| format!("{}: the current snapshot {current} is none of it", machine.name))
}
