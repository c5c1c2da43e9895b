//! Requests for leases, and grants of machines to the queued leases.
//!
//! An attempt to grant machines looks at the queued leases in order of arrival, by class: once no
//! machine can be granted to one lease of a class, none can be granted to the other leases of this
//! class. The attempt looks at the later leases of the class again only after a grant or a
//! reservation, because that can change why they get no machine and which limits they reserve.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;

use super::super::grant_class::{Blockers, ClassBlockers, GrantClass};
use super::super::{FollowUp, LeaseBlocker, MachineKey, MachineLedger};
use super::Transition;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{Lease, LeaseState};
use crate::service::leases::capacity::Capacity;
use crate::service::leases::matching::{
    CandidateMachine, Selection, has_needed_drive, is_in_scope, missing_snapshot,
};

/// The machines and the limits that are left during an attempt to grant machines.
struct Attempt<'m> {
    candidates: &'m [CandidateMachine],
    /// The free machines that the attempt has not granted yet. The machine whose last lease ended
    /// longest ago is the first.
    free: Vec<&'m CandidateMachine>,
    capacity: Capacity,
    waiting_pools: BTreeSet<String>,
}

/// What an attempt to grant machines decides for one lease.
enum Decision<'m> {
    /// The lease gets the free machine at this index.
    Grant(usize),
    /// No free machine matches the lease. Other grants cannot change this.
    NoMatch,
    /// The lease gets no machine. The machines in the list match, but the grant of each would
    /// exceed a limit. If the list is empty, the lease waits for the end of a fault of the host.
    Blocked(LeaseBlocker, Vec<&'m CandidateMachine>),
}

/// A class of queued leases that an attempt to grant machines looks at.
struct ClassInTurn {
    class: Arc<GrantClass>,
    blockers: ClassBlockers,
}

impl Transition<'_> {
    pub(super) fn request(
        &mut self,
        lease: Lease,
        candidates: &[CandidateMachine],
    ) -> Result<(), Failure> {
        let selection = Selection::new(&lease, candidates);
        if !candidates.iter().any(|candidate| selection.includes(candidate)) {
            let detail = "No machine matches the request, free or not. List them: \
                          GET /v1/machines, GET /v1/pools";
            return Err(Failure::new(FailureKind::NoFreeMachine, detail));
        }
        let (id, may_wait) = (lease.id, lease.queue_for.is_some());
        if may_wait && self.table.index.queued_count() >= self.table.rules.max_queued {
            let detail = "Too many leases are queued; try again once some are granted.";
            return Err(Failure::new(FailureKind::QueueFull, detail));
        }
        let others_are_evaluated = self.table.is_evaluated();
        self.table.append(lease, self.now);
        self.change_lease(id, |lease, now| lease.note(now.wall, "requested"));
        let new = Some(id).filter(|_| others_are_evaluated);
        self.attempt_grants(candidates, new);
        let open = self.table.get(id);
        if !may_wait && open.is_some_and(|open| open.lease.state == LeaseState::Queued) {
            let detail = match self.table.blocked_by(id) {
                Some(LeaseBlocker::Limit(limit)) => format!(
                    "A matching machine is free, but {}. Set queue_for to wait, or look: GET \
                     /v1/pools, GET /v1/about",
                    limit.rule()
                ),
                _ => "No matching machine is free now. Set queue_for to wait, or list the \
                      machines: GET /v1/machines"
                    .to_owned(),
            };
            self.table.take(id);
            self.changes.leases.remove(&id);
            return Err(Failure::new(FailureKind::NoFreeMachine, detail));
        }
        Ok(())
    }

    /// Grants machines to the queued leases in order of arrival. Of the matching machines that the
    /// limits allow, a lease gets the one whose last lease ended longest ago.
    pub(super) fn grant_queued(&mut self, candidates: &[CandidateMachine]) {
        self.attempt_grants(candidates, None);
    }

    /// Grants machines like [`Self::grant_queued`]. If `new` is set, only the lease `new` may get a
    /// machine. The attempt then looks only at the class of this lease, and at the classes that
    /// reserve limits or whose reasons can change.
    fn attempt_grants(&mut self, candidates: &[CandidateMachine], new: Option<LeaseId>) {
        self.table.host_faults.set_pools(candidates);
        let mut attempt = self.new_attempt(candidates);
        let mut classes = self.classes_in_turn(new);
        // Of each class, the next lease to look at. The heap gives the lease that arrived first.
        let mut turns = BinaryHeap::new();
        for (index, turn) in classes.iter().enumerate() {
            let first = self.table.index.next_of_class(&turn.class, 0);
            turns.extend(first.map(|(arrival, _)| Reverse((arrival, index))));
        }
        // The classes that need no further look for now: the last decision applies to all their
        // later leases, until a grant or a new reservation changes that.
        let mut sleeping = Vec::new();
        while let Some(Reverse((arrival, index))) = turns.pop() {
            let class = Arc::clone(&classes[index].class);
            let Some((_, id)) = self.table.index.next_of_class(&class, arrival) else { continue };
            let is_changed = match self.decide(id, &attempt) {
                Decision::Grant(free) => {
                    let candidate = attempt.free.remove(free);
                    // Two machines of the host that have the same identity share one ledger, so
                    // only one of them is granted.
                    attempt.free.retain(|other| other.key != candidate.key);
                    attempt.capacity.take(candidate);
                    self.grant(id, candidate);
                    true
                }
                Decision::NoMatch => {
                    classes[index].blockers.push(arrival, LeaseBlocker::NoFreeMachine);
                    continue;
                }
                Decision::Blocked(blocker, fitting) => {
                    classes[index].blockers.push(arrival, blocker);
                    let reserve = |machine| attempt.capacity.reserve(machine);
                    fitting.into_iter().map(reserve).fold(false, |any, is_new| any | is_new)
                }
            };
            sleeping.push(index);
            if is_changed {
                for index in sleeping.drain(..) {
                    let next = self.table.index.next_of_class(&classes[index].class, arrival + 1);
                    turns.extend(next.map(|(arrival, _)| Reverse((arrival, index))));
                }
            }
        }
        let mut blockers = Blockers::default();
        for ClassInTurn { class, blockers: of_class } in classes {
            blockers.insert(class, of_class);
        }
        if blockers != *self.table.blockers {
            self.table.blockers = Arc::new(blockers);
        }
    }

    fn new_attempt<'m>(&self, candidates: &'m [CandidateMachine]) -> Attempt<'m> {
        let held: BTreeSet<&MachineKey> =
            self.table.index.holders().map(|(_, machine)| machine).collect();
        let is_available = |candidate: &&CandidateMachine| {
            let CandidateMachine { key, free, excluded, .. } = candidate;
            let is_set_aside = || self.table.ledger(key).is_some_and(MachineLedger::is_set_aside);
            *free && !*excluded && !held.contains(key) && !is_set_aside()
        };
        let mut free: Vec<&CandidateMachine> = candidates.iter().filter(is_available).collect();
        let last_lease_end = |candidate: &&CandidateMachine| {
            self.table.ledger(&candidate.key).and_then(|ledger| ledger.last_lease_end)
        };
        free.sort_by_cached_key(last_lease_end);
        Attempt {
            candidates,
            free,
            capacity: Capacity::new(candidates, |machine| held.contains(&machine.key)),
            waiting_pools: self.table.host_faults.waiting_pools(self.now.elapsed),
        }
    }

    /// The classes that the attempt looks at: those of which a lease may get a machine or reserve a
    /// limit.
    fn classes_in_turn(&self, new: Option<LeaseId>) -> Vec<ClassInTurn> {
        let in_turn = |class: &Arc<GrantClass>| ClassInTurn {
            class: Arc::clone(class),
            blockers: ClassBlockers::default(),
        };
        let index = &self.table.index;
        let new = new.and_then(|id| self.table.get(id)?.class.as_ref());
        let Some(new) = new else { return index.classes().map(in_turn).collect() };
        let mut classes: Vec<ClassInTurn> = self.table.blockers.classes().map(in_turn).collect();
        if !classes.iter().any(|turn| turn.class == *new) {
            classes.push(in_turn(new));
        }
        classes
    }

    /// Decides whether a lease gets a machine.
    ///
    /// # Parameters
    /// - `attempt`: what is left after the grants that were made before in the same attempt.
    fn decide<'m>(&self, id: LeaseId, attempt: &Attempt<'m>) -> Decision<'m> {
        let Some(open) = self.table.get(id) else { return Decision::NoMatch };
        let (lease, free) = (&*open.lease, &attempt.free);
        // Compare the reference only with the free machines first. To resolve a reference, all
        // machines of the host must be compared, which is only necessary if a free machine matches.
        if let Some(reference) = &lease.select.machine {
            let in_scope = free.iter().copied().filter(|machine| is_in_scope(lease, machine));
            if reference.matching(in_scope).is_empty() {
                return Decision::NoMatch;
            }
        }
        if free.is_empty() {
            return Decision::NoMatch;
        }
        let selection = Selection::new(lease, attempt.candidates);
        let matches = |machine: &CandidateMachine| {
            selection.includes(machine)
                && missing_snapshot(lease, machine).is_none()
                && has_needed_drive(lease, machine)
        };
        let matching: Vec<(usize, &CandidateMachine)> =
            free.iter().copied().enumerate().filter(|(_, machine)| matches(machine)).collect();
        if matching.is_empty() {
            return Decision::NoMatch;
        }
        let may_try = |(_, machine): &(usize, &CandidateMachine)| {
            open.may_try(machine, &attempt.waiting_pools, self.now.elapsed)
        };
        let mut fitting: Vec<(usize, &CandidateMachine)> =
            matching.into_iter().filter(may_try).collect();
        // Machines on which the lease has not failed come first. They are followed by the machines
        // on which it failed, the longest ago first.
        fitting.sort_by_key(|(_, machine)| lease.failed_on(&machine.key.0));
        let obstacle =
            |(_, machine): &(usize, &CandidateMachine)| attempt.capacity.obstacle(machine);
        if let Some((index, _)) = fitting.iter().find(|machine| obstacle(machine).is_none()) {
            return Decision::Grant(*index);
        }
        let blocker = match fitting.iter().find_map(obstacle) {
            Some(limit) => LeaseBlocker::Limit(limit),
            None => LeaseBlocker::HostFault,
        };
        Decision::Blocked(blocker, fitting.into_iter().map(|(_, machine)| machine).collect())
    }

    fn grant(&mut self, id: LeaseId, candidate: &CandidateMachine) {
        let mut fence = 0;
        let floor = self.table.fence_floor;
        self.change_ledger(&candidate.key, |ledger| {
            ledger.fence = ledger.fence.max(floor) + 1;
            fence = ledger.fence;
            ledger.absent_since = None;
        });
        self.set_retry(id, None);
        self.change_lease(id, |lease, now| {
            lease.machine = Some(candidate.identity.clone());
            lease.machine_name = Some(candidate.name.clone());
            let selected = lease.select.pool_names().find(|name| candidate.pools.contains(name));
            lease.pool = selected.or(candidate.pools.first()).cloned();
            lease.fence = Some(fence);
            lease.grants += 1;
            lease.media = Some(candidate.media.clone());
            lease.job = None;
            lease.note(now.wall, format!("granted {} (fence {fence})", candidate.name));
            lease.state = LeaseState::Preparing;
        });
        let nothing_to_prepare =
            self.table.get(id).is_some_and(|open| open.lease.prepare.is_none());
        if nothing_to_prepare {
            self.activate(id);
        } else {
            self.changes.follow_ups.push(FollowUp::Prepare(id));
        }
    }
}
