//! The committed state of the disk, as the checker follows it commit by commit.

use std::collections::BTreeMap;

use otter::domain::ids::{JobId, LeaseId};
use otter::domain::job::Job;
use otter::domain::lease::Lease;
use otter::storage::{IdempotencyKey, LeaseTransaction, StoredMachine};

/// An idempotency key within its scope: caller, method, path, key.
pub type Scope = (String, String, String, String);

/// The scope and the key, without the fingerprint.
pub fn scope(key: &IdempotencyKey) -> Scope {
    let IdempotencyKey { caller, method, path, key, fingerprint: _, created_at: _ } = key.clone();
    (caller, method, path, key)
}

/// The committed jobs, leases and machines.
#[derive(Debug, Default)]
pub struct Committed {
    /// The jobs by their order of arrival.
    pub jobs: BTreeMap<usize, Job>,
    places: BTreeMap<JobId, usize>,
    pub leases: BTreeMap<LeaseId, Lease>,
    /// The leases in their order of arrival.
    pub arrivals: Vec<LeaseId>,
    /// The stored machines, by machine key.
    pub machines: BTreeMap<String, StoredMachine>,
}

impl Committed {
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(self.places.get(&id)?)
    }

    pub fn insert(&mut self, job: &Job) {
        let place = self.jobs.len();
        self.places.insert(job.id, place);
        self.jobs.insert(place, job.clone());
    }

    /// Stores a job. Returns its former state; `None` if the job is unknown.
    pub fn update(&mut self, job: &Job) -> Option<Job> {
        self.jobs.insert(*self.places.get(&job.id)?, job.clone())
    }

    /// Stores leases and machines. Returns the former states of the leases that existed.
    pub fn save_leases(&mut self, step: &LeaseTransaction) -> BTreeMap<LeaseId, Lease> {
        let mut before = BTreeMap::new();
        for change in &step.leases {
            let id = change.lease.id;
            match self.leases.insert(id, Lease::clone(&change.lease)) {
                Some(was) => drop(before.insert(id, was)),
                None => self.arrivals.push(id),
            }
        }
        self.machines.extend(step.machines.clone());
        step.deleted_machines.iter().for_each(|machine| drop(self.machines.remove(machine)));
        before
    }
}
