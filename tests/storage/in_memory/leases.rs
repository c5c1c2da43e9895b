//! The tables of leases, of the keys of the calls that request them, and of the machines' state.

use std::collections::BTreeMap;

use otter::domain::ids::LeaseId;
use otter::domain::lease::Lease;
use otter::storage::{ChangedLease, LeaseFilter, LeaseTransaction, StorageError, StoredMachine};
use otter::store::document;

use super::tables::{
    Key, Row, Tables, by_arrival, call, column, conflict, next_arrival, to_the_microsecond,
};

/// The end of a lease, in microseconds. `None` if it has not ended.
pub fn ended_at(lease: &Lease) -> Option<i64> {
    lease.state.is_end().then(|| lease.ended_at.unwrap_or(lease.measured_at).as_microsecond())
}

/// The lease that a read returns: the document of a lease does not contain every value.
fn read(lease: &Lease) -> Lease {
    document::decode_lease(document::VERSION, &document::encode_lease(lease).unwrap()).unwrap()
}

impl Tables {
    pub fn save_leases(&mut self, transaction: LeaseTransaction) -> Result<(), StorageError> {
        let LeaseTransaction { mut leases, machines, deleted_machines, fence_floor, key, audit } =
            transaction;
        // Leases that free a machine come before leases that take it.
        leases.sort_by_key(|change| change.held.is_some());
        let held = self.held_after(&leases)?;
        if let Some((key, lease)) = &key {
            if self.lease_keys.contains_key(&call(key)) {
                return Err(conflict("the key exists"));
            }
            if !self.leases.contains_key(lease)
                && leases.iter().all(|change| change.lease.id != *lease)
            {
                return Err(conflict("the lease of the key does not exist"));
            }
        }
        self.held = held;
        for ChangedLease { lease, held: _ } in leases {
            let arrival = next_arrival(&self.leases);
            let row = self
                .leases
                .entry(lease.id)
                .or_insert_with(|| Row { arrival, record: (*lease).clone() });
            if !row.record.state.is_end() {
                row.record = (*lease).clone();
            }
        }
        for (machine, stored) in machines {
            let StoredMachine { fence, last_lease_end, quarantine, absent_since, recovery } =
                stored;
            let stored = StoredMachine {
                fence: column(fence),
                last_lease_end: last_lease_end.map(to_the_microsecond),
                quarantine,
                absent_since: absent_since.map(to_the_microsecond),
                recovery,
            };
            self.machines.insert(machine, stored);
        }
        for machine in deleted_machines {
            self.machines.remove(&machine);
        }
        self.fence_floor = self.fence_floor.max(column(fence_floor));
        if let Some((key, lease)) = key {
            self.lease_keys.insert(call(&key), Key::new(&key, lease));
        }
        self.append_audit(audit);
        Ok(())
    }

    /// The lease that holds each machine after these changes, applied one after the other.
    fn held_after(
        &self,
        changes: &[ChangedLease],
    ) -> Result<BTreeMap<String, LeaseId>, StorageError> {
        let mut all = self.held.clone();
        for ChangedLease { lease, held } in changes {
            if held.is_some() != lease.state.holds_machine() {
                return Err(conflict("the state of the lease requires a machine or none"));
            }
            if self.leases.get(&lease.id).is_some_and(|row| row.record.state.is_end()) {
                continue;
            }
            all.retain(|_, holder| *holder != lease.id);
            if let Some(machine) = held
                && all.insert(machine.clone(), lease.id).is_some()
            {
                return Err(conflict("another lease holds the machine"));
            }
        }
        Ok(all)
    }

    pub fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.leases.get(&id).map(|row| read(&row.record))
    }

    pub fn list_leases(
        &self,
        filter: &LeaseFilter,
        after: Option<&Lease>,
        limit: usize,
    ) -> Vec<Lease> {
        let place = |lease: &Lease| (lease.created_at.as_microsecond(), lease.id);
        let mut leases: Vec<&Lease> = self.leases.values().map(|row| &row.record).collect();
        leases.retain(|lease| passes(filter, lease));
        leases.retain(|lease| after.is_none_or(|after| place(lease) < place(after)));
        leases.sort_by_key(|lease| std::cmp::Reverse(place(lease)));
        leases.into_iter().take(limit).map(read).collect()
    }

    pub fn open_leases(&self) -> Vec<Lease> {
        by_arrival(self.leases.values().filter(|row| !row.record.state.is_end()))
            .map(read)
            .collect()
    }

    pub fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    pub fn stored_machines(&self) -> BTreeMap<String, StoredMachine> {
        self.machines.clone()
    }
}

fn passes(filter: &LeaseFilter, lease: &Lease) -> bool {
    let LeaseFilter { states, machine, pool, holder, reference } = filter;
    let of_machine = lease.machine.as_ref().map(|machine| &machine.id);
    (states.is_empty() || states.contains(&lease.state))
        && machine.as_ref().is_none_or(|machine| Some(machine) == of_machine)
        && pool.as_ref().is_none_or(|pool| Some(pool) == lease.pool.as_ref())
        && holder.as_ref().is_none_or(|holder| *holder == lease.holder)
        && reference.as_ref().is_none_or(|reference| Some(reference) == lease.reference.as_ref())
}
