//! Who holds which machine, to be asked by anybody without waiting; and the gate that every job
//! passes.
//!
//! A grant takes its machine here before it looks whether a job is there, and a job takes its place
//! in the queue before it looks whether the machine is taken: of two that come at one moment one
//! sees the other, and none is overlooked.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::book::{Book, Kept, MachineKey, Open};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{Lease, LeaseState};
use crate::domain::machine::{Machine, MachineIdentity};
use crate::service::jobs::gate::{Admission, Gate, Pass, Right};
use arc_swap::ArcSwap;

/// The book as it is committed, for readers.
#[derive(Default)]
pub struct Holds {
    shown: ArcSwap<Shown>,
    taking: Mutex<HashSet<MachineId>>,
}

/// One state of the book.
#[derive(Debug, Default)]
pub struct Shown {
    pub book: Book,
    /// More than one where a machine came to the id of another, whose lease has not been ended yet.
    held: HashMap<MachineId, Vec<LeaseId>>,
}

impl Holds {
    /// Shows a state of the book, once it is committed.
    pub fn show(&self, book: Book) {
        let mut held: HashMap<MachineId, Vec<LeaseId>> = HashMap::new();
        for open in book.open().filter(|open| open.lease.state.holds()) {
            if let Some(machine) = &open.lease.machine {
                held.entry(machine.id.clone()).or_default().push(open.lease.id);
            }
        }
        self.shown.store(Arc::new(Shown { book, held }));
    }

    /// The book as it is committed.
    #[must_use]
    pub fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }

    /// Keeps jobs from a machine until its grant is committed, or dropped.
    pub fn take(self: &Arc<Self>, machines: &[MachineId]) -> Taking {
        self.taking().extend(machines.iter().cloned());
        Taking { holds: Arc::clone(self), machines: machines.to_vec() }
    }

    fn taking(&self) -> std::sync::MutexGuard<'_, HashSet<MachineId>> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn leased(machine: &Machine, open: &Open) -> Failure {
    let until = match (open.lease.state, open.ends()) {
        (_, Some((at, _))) => format!(" until {at:.0}"),
        (LeaseState::Releasing, None) => ", and is being released".to_owned(),
        (_, None) => ", and is being prepared".to_owned(),
    };
    let detail = format!(
        "{} is leased by {}{until}. Changing it needs that lease: Otter-Lease: <id>.<secret>.",
        machine.name, open.lease.holder
    );
    about(FailureKind::MachineLeased, detail, machine, open.lease.id)
}

impl Gate for Holds {
    fn admit(&self, machine: &Machine, right: &Right) -> Result<Admission, Failure> {
        let shown = self.shown();
        // Whoever holds the machine now: a late call is told that its own lease is over.
        if let Pass::Lease(given) = &right.pass
            && shown.book.get(*given).is_none()
        {
            let detail = format!("The lease {given} has ended; nothing was done.");
            return Err(about(FailureKind::LeaseEnded, detail, machine, *given));
        }
        let Some(open) = shown.holder_of(&machine.identity()) else {
            return self.admit_to_free(machine, right);
        };
        let lease = open.lease.id;
        match &right.pass {
            Pass::Own(own, state) if *own == lease && open.lease.state == *state => {
                Ok(Admission::Lease(lease))
            }
            // A prepare that was on its way when its lease ended must not follow the release.
            Pass::Own(own, _) if *own == lease => Err(ended(machine, &open.lease)),
            Pass::Lease(given) if *given == lease && open.lease.state == LeaseState::Active => {
                Ok(Admission::Lease(lease))
            }
            Pass::Lease(given) if *given == lease => Err(ended(machine, &open.lease)),
            Pass::Nothing if right.is_override() => Ok(Admission::Overriding(lease)),
            _ => Err(leased(machine, open)),
        }
    }
}

impl Holds {
    fn admit_to_free(&self, machine: &Machine, right: &Right) -> Result<Admission, Failure> {
        match &right.pass {
            Pass::Own(lease, _) => {
                let detail = format!("The lease {lease} does not hold {} any more.", machine.name);
                return Err(about(FailureKind::LeaseEnded, detail, machine, *lease));
            }
            Pass::Lease(lease) => {
                let detail = format!("The lease {lease} is not of {}.", machine.name);
                return Err(about(FailureKind::MachineLeased, detail, machine, *lease));
            }
            Pass::Nothing => {}
        }
        if self.taking().contains(&machine.id) {
            let detail = format!("{} is being leased at this moment.", machine.name);
            return Err(Failure::new(FailureKind::MachineLeased, detail)
                .of_machine(&machine.id, &machine.name));
        }
        right.caller.may_change(machine)?;
        Ok(Admission::Free)
    }
}

/// Keeps jobs from machines until it is dropped.
#[must_use]
pub struct Taking {
    holds: Arc<Holds>,
    machines: Vec<MachineId>,
}

impl Drop for Taking {
    fn drop(&mut self) {
        let mut taking = self.holds.taking();
        for machine in &self.machines {
            taking.remove(machine);
        }
    }
}

impl Shown {
    /// The lease that holds a machine: that very one, and not another which has come to its id.
    #[must_use]
    pub fn holder_of(&self, machine: &MachineIdentity) -> Option<&Open> {
        let mut holders =
            self.held.get(&machine.id)?.iter().filter_map(|lease| self.book.get(*lease));
        holders
            .find(|open| open.lease.machine.as_ref().is_some_and(|held| held.agrees_with(machine)))
    }

    /// What is kept of a machine.
    #[must_use]
    pub fn kept(&self, machine: &Machine) -> Option<&Kept> {
        self.book.kept(&MachineKey::of(&machine.identity()))
    }
}

/// A call with a lease that does not give the right any more, or not yet.
fn ended(machine: &Machine, lease: &Lease) -> Failure {
    let detail = match &lease.end {
        Some(end) => format!(
            "The lease {} ended ({}, by {}) and its machine is being released; nothing was done.",
            lease.id,
            end.reason.as_str(),
            end.by
        ),
        None => format!("The lease {} is {} and not active yet.", lease.id, lease.state.as_str()),
    };
    about(FailureKind::LeaseEnded, detail, machine, lease.id)
}

fn about(kind: FailureKind, detail: String, machine: &Machine, lease: LeaseId) -> Failure {
    Failure::new(kind, detail).of_machine(&machine.id, &machine.name).of_lease(lease)
}
