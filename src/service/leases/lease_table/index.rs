//! The indexes of the lease table: the queue in order of arrival, the queued leases of each
//! [`GrantClass`] and of each token, the leases of each requester, the leases that hold machines,
//! and the times at which leases are due.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::grant_class::GrantClass;
use super::{MachineKey, OpenLease};
use crate::domain::ids::{LeaseId, MachineId, TokenId};
use crate::domain::lease::LeaseState;
use crate::service::leases::persistent_map::PersistentMap;

/// The indexes of a lease table. In all of them, a number of type `u64` is the place of a lease in
/// the order of arrival.
#[derive(Clone, Debug, Default)]
pub struct LeaseIndex {
    queue: PersistentMap<u64, LeaseId>,
    classes: PersistentMap<(Arc<GrantClass>, u64), LeaseId>,
    tokens: PersistentMap<(TokenId, u64), LeaseId>,
    /// The leases of each requester. A key is the name of the requester, whether the lease is
    /// queued, and the place of the lease in the order of arrival.
    requesters: PersistentMap<(Arc<str>, bool, u64), LeaseId>,
    /// The leases that hold a machine, by the id that the machine had at the grant. Several leases
    /// can have one id, if the host gave the id of a leased machine to another machine.
    holders: PersistentMap<(MachineId, LeaseId), MachineKey>,
    due: PersistentMap<(Duration, LeaseId), ()>,
}

/// The smallest id that a lease or a token can have. A range that begins with it contains all ids.
const FIRST: Uuid = Uuid::nil();

impl LeaseIndex {
    /// Updates the indexes after a change of a lease.
    ///
    /// # Parameters
    /// - `before`: the lease before the change. `None` if the lease is new.
    /// - `after`: the lease after the change. `None` if the lease leaves the table.
    pub fn update(&mut self, before: Option<&OpenLease>, after: Option<&OpenLease>) {
        let Some(id) = after.or(before).map(|open| open.lease.id) else { return };
        let queued = |open: &&OpenLease| open.lease.state == LeaseState::Queued;
        let place = |open: &OpenLease| open.arrival;
        move_key(
            &mut self.queue,
            before.filter(queued).map(place),
            after.filter(queued).map(place),
            id,
        );
        let class = |open: &OpenLease| Some((Arc::clone(open.class.as_ref()?), open.arrival));
        move_key(&mut self.classes, before.and_then(class), after.and_then(class), id);
        let token = |open: &OpenLease| Some((open.lease.token?, open.arrival));
        let (old, new) = (before.filter(queued), after.filter(queued));
        move_key(&mut self.tokens, old.and_then(token), new.and_then(token), id);
        let requester =
            |open: &OpenLease| (Arc::clone(&open.requester), queued(&open), open.arrival);
        move_key(&mut self.requesters, before.map(requester), after.map(requester), id);
        let holder = |open: &OpenLease| {
            let machine = open.lease.machine.as_ref();
            let machine = machine.filter(|_| open.lease.state.holds_machine())?;
            Some((machine.id.clone(), id))
        };
        let held = after.and_then(|open| open.lease.machine.as_ref());
        let key = held.map_or_else(|| MachineKey(String::new()), MachineKey::from_identity);
        move_key(&mut self.holders, before.and_then(holder), after.and_then(holder), key);
        let due = |open: &OpenLease| Some((open.due?, id));
        move_key(&mut self.due, before.and_then(due), after.and_then(due), ());
    }

    /// The number of queued leases.
    #[must_use]
    pub const fn queued_count(&self) -> usize {
        self.queue.len()
    }

    /// The queued leases in order of arrival.
    pub fn queued(&self) -> impl Iterator<Item = LeaseId> {
        self.queue.values().copied()
    }

    /// The number of leases that are queued before this place in the order of arrival.
    #[must_use]
    pub fn rank(&self, arrival: u64) -> usize {
        self.queue.rank(&arrival)
    }

    /// The number of leases of a requester that are queued before this place in the order of
    /// arrival.
    #[must_use]
    pub fn rank_of_requester(&self, requester: &Arc<str>, arrival: u64) -> usize {
        let key = |arrival| (Arc::clone(requester), true, arrival);
        self.requesters.rank(&key(arrival)) - self.requesters.rank(&key(0))
    }

    /// The number of all leases of a requester, and the number of its queued leases.
    #[must_use]
    pub fn counts_of_requester(&self, requester: &str) -> (usize, usize) {
        let requester: Arc<str> = Arc::from(requester);
        let rank = |is_queued, arrival| {
            self.requesters.rank(&(Arc::clone(&requester), is_queued, arrival))
        };
        let end = rank(true, u64::MAX);
        (end - rank(false, 0), end - rank(true, 0))
    }

    /// The shared value of a class. If a queued lease already has an equal class, returns the value
    /// of that lease.
    #[must_use]
    pub fn shared_class(&self, class: GrantClass) -> Arc<GrantClass> {
        let class = Arc::new(class);
        let known = self.classes.range_from(&(Arc::clone(&class), 0)).next();
        let known = known.map(|((known, _), _)| known).filter(|known| **known == class);
        known.map_or(class, Arc::clone)
    }

    /// The classes of the queued leases, each once.
    pub fn classes(&self) -> impl Iterator<Item = &Arc<GrantClass>> {
        let first = self.classes.keys().next();
        let next = |(class, _): &&(Arc<GrantClass>, u64)| {
            let end = (Arc::clone(class), u64::MAX);
            self.classes.range_from(&end).next().map(|(key, _)| key)
        };
        std::iter::successors(first, next).map(|(class, _)| class)
    }

    /// The first queued lease of a class from the place `from` in the order of arrival on, and the
    /// place of that lease.
    #[must_use]
    pub fn next_of_class(&self, class: &Arc<GrantClass>, from: u64) -> Option<(u64, LeaseId)> {
        let ((found, arrival), id) = self.classes.range_from(&(Arc::clone(class), from)).next()?;
        (found == class).then_some((*arrival, *id))
    }

    /// The tokens that requested the queued leases, each token once.
    #[must_use]
    pub fn tokens(&self) -> Vec<TokenId> {
        let from = |key| self.tokens.range_from(&key).next().map(|((token, _), _)| *token);
        let first = from((TokenId::new(FIRST), 0));
        std::iter::successors(first, |token| from((*token, u64::MAX))).collect()
    }

    /// The queued leases that a token requested.
    #[must_use]
    pub fn of_token(&self, token: TokenId) -> Vec<LeaseId> {
        let leases = self.tokens.range_from(&(token, 0));
        leases.take_while(|((of, _), _)| *of == token).map(|(_, id)| *id).collect()
    }

    /// The leases that hold a machine, each with the key of its machine.
    pub fn holders(&self) -> impl Iterator<Item = (LeaseId, &MachineKey)> {
        self.holders.iter().map(|((_, id), key)| (*id, key))
    }

    /// The leases that hold a machine that had this id at the grant.
    pub fn holders_of(&self, machine: &MachineId) -> impl Iterator<Item = LeaseId> {
        let from = self.holders.range_from(&(machine.clone(), LeaseId::new(FIRST)));
        from.take_while(move |((id, _), _)| id == machine).map(|((_, lease), _)| *lease)
    }

    /// The earliest time at which a lease is due, by the clock that never jumps. `None` if no lease
    /// will be due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.due.keys().next().map(|(due, _)| *due)
    }

    /// The leases that are due at this time, in the order of their ids.
    #[must_use]
    pub fn due_at(&self, elapsed: Duration) -> Vec<LeaseId> {
        let due = self.due.keys().take_while(|(due, _)| *due <= elapsed);
        let mut due: Vec<LeaseId> = due.map(|(_, id)| *id).collect();
        due.sort_unstable();
        due
    }

    /// Whether the time of any lease runs: the queue time of a queued lease, or the lease time of
    /// an active one.
    #[must_use]
    pub const fn has_running_time(&self) -> bool {
        !self.due.is_empty()
    }
}

#[cfg(test)]
impl LeaseIndex {
    /// The number of entries of all indexes that were copied since the version `before`, and are
    /// thus not shared with it.
    pub fn copied_since(&self, before: &Self) -> usize {
        let Self { queue, classes, tokens, requesters, holders, due } = self;
        queue.copied_since(&before.queue)
            + classes.copied_since(&before.classes)
            + tokens.copied_since(&before.tokens)
            + requesters.copied_since(&before.requesters)
            + holders.copied_since(&before.holders)
            + due.copied_since(&before.due)
    }
}

/// Replaces the key of a lease in one index, if the new key differs from the old one.
fn move_key<K: Ord + Clone, V: Clone>(
    map: &mut PersistentMap<K, V>,
    before: Option<K>,
    after: Option<K>,
    value: V,
) {
    if before == after {
        return;
    }
    if let Some(key) = before {
        map.remove(&key);
    }
    if let Some(key) = after {
        map.insert(key, value);
    }
}
