//! Classes of queued leases. The leases of a class accept the same machines. So one attempt to
//! grant a machine decides for all leases of a class, until the free machines or the limits change.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::LeaseBlocker;
use crate::domain::ids::LeaseId;
use crate::domain::lease::{Lease, Select};
use crate::domain::scope::Scope;
use crate::service::leases::matching::{needs_drive, required_snapshots};

/// The class of a queued lease: the properties of the lease that decide which machines may be
/// granted to it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantClass {
    select: Select,
    scope: Scope,
    snapshots: Vec<String>,
    needs_drive: bool,
    has_preparation: bool,
    may_wait: bool,
    /// The id of the lease if the lease met a fault of the host. Such a lease is alone in its
    /// class, because it has its own retry time and its own list of machines on which it failed.
    with_setback: Option<LeaseId>,
}

/// Why the leases of each class got no machine at the last attempt to grant machines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Blockers(BTreeMap<Arc<GrantClass>, ClassBlockers>);

/// Why the leases of one class got no machine. Each reason has a place in the order of arrival, and
/// applies to the leases from this place on, up to the place of the next reason. The leases before
/// the place of the first reason have [`LeaseBlocker::NoFreeMachine`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClassBlockers(Vec<(u64, LeaseBlocker)>);

impl GrantClass {
    #[must_use]
    pub fn of_lease(lease: &Lease) -> Self {
        let Lease { id, select, scope, prepare, queue_for, setback, .. } = lease;
        Self {
            select: select.clone(),
            scope: scope.clone(),
            snapshots: required_snapshots(lease).cloned().collect(),
            needs_drive: needs_drive(lease),
            has_preparation: prepare.is_some(),
            may_wait: queue_for.is_some(),
            with_setback: setback.as_ref().map(|_| *id),
        }
    }

    /// Whether a lease that was in this class is still in it. Compares only whether the lease met a
    /// fault of the host, because nothing else in the class of a lease ever changes.
    #[must_use]
    pub fn has(&self, lease: &Lease) -> bool {
        self.with_setback == lease.setback.as_ref().map(|_| lease.id)
    }
}

impl Blockers {
    /// Why the lease of this class that has the place `arrival` in the order of arrival gets no
    /// machine.
    #[must_use]
    pub fn get(&self, class: &Arc<GrantClass>, arrival: u64) -> LeaseBlocker {
        let blocker = self.0.get(class).and_then(|blockers| blockers.at(arrival));
        blocker.cloned().unwrap_or(LeaseBlocker::NoFreeMachine)
    }

    /// The classes in which a lease has a reason other than [`LeaseBlocker::NoFreeMachine`].
    pub fn classes(&self) -> impl Iterator<Item = &Arc<GrantClass>> {
        self.0.keys()
    }

    /// Sets the reasons of one class.
    pub fn insert(&mut self, class: Arc<GrantClass>, blockers: ClassBlockers) {
        if !blockers.0.is_empty() {
            self.0.insert(class, blockers);
        }
    }
}

impl ClassBlockers {
    /// Adds a reason. It applies to the leases from the place `arrival` in the order of arrival on.
    pub fn push(&mut self, arrival: u64, blocker: LeaseBlocker) {
        if *self.0.last().map_or(&LeaseBlocker::NoFreeMachine, |(_, last)| last) != blocker {
            self.0.push((arrival, blocker));
        }
    }

    fn at(&self, arrival: u64) -> Option<&LeaseBlocker> {
        let after = self.0.partition_point(|(from, _)| *from <= arrival);
        self.0[..after].last().map(|(_, blocker)| blocker)
    }
}
