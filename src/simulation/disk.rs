//! The store as far as promises go: what was committed stays, what was not is lost, writes are committed in order, and
//! a full disk refuses them.
//!
//! The rules are those of `store::jobs` and `store::keys`: an end is kept, a key belongs to one job or lease. What a
//! restart reads has gone through the words in which the real store keeps it.

use std::collections::{BTreeMap, VecDeque};

use std::time::Duration;

use jiff::Timestamp;

use super::random::Random;
use crate::domain::ids::{JobId, LeaseId};
use crate::domain::job::Job;
use crate::domain::lease::Lease;
use crate::service::leases::book::{Changes, Kept, MachineKey};
use crate::service::leases::fit::Candidate;
use crate::storage::IdempotencyKey;

/// A key within its scope: caller, method, path, key.
pub type Scope = (String, String, String, String);

pub fn scope(key: &IdempotencyKey) -> Scope {
    let IdempotencyKey { caller, method, path, key, fingerprint: _, created_at: _ } = key.clone();
    (caller, method, path, key)
}

/// One write, and who waits for it.
#[derive(Clone, Debug)]
pub enum Write<W> {
    Insert {
        job: Box<Job>,
        key: Option<IdempotencyKey>,
        waits: W,
    },
    Update {
        job: Box<Job>,
        waits: W,
    },
    /// What one step of the book of leases changed.
    Leases {
        step: Box<LeaseStep>,
        waits: W,
    },
}

/// A step of the book of leases: what it changed, when it was taken, and over which machines.
#[derive(Clone, Debug)]
pub struct LeaseStep {
    pub changes: Changes,
    pub at: Duration,
    pub candidates: Vec<Candidate>,
    /// With which key the lease was asked for that it brings in.
    pub key: Option<(IdempotencyKey, LeaseId)>,
}

/// What came of a write.
#[derive(Clone, Debug)]
pub enum Written<W> {
    Inserted {
        job: Box<Job>,
        waits: W,
    },
    /// The key is known.
    Existing {
        job: JobId,
        waits: W,
    },
    Updated {
        before: Box<Job>,
        job: Box<Job>,
        waits: W,
    },
    Leases {
        step: Box<LeaseStep>,
        before: BTreeMap<LeaseId, Lease>,
        waits: W,
    },
    /// The stored job has an end, which is kept.
    AlreadyEnded {
        waits: W,
    },
    /// The disk is full: nothing of it is kept.
    Refused(Write<W>),
}

#[derive(Debug)]
pub struct Disk<W> {
    /// In their order of arrival.
    pub jobs: BTreeMap<u64, Job>,
    places: BTreeMap<JobId, u64>,
    pub keys: BTreeMap<Scope, ([u8; 32], JobId)>,
    pub leases: BTreeMap<LeaseId, Lease>,
    pub lease_keys: BTreeMap<Scope, ([u8; 32], LeaseId)>,
    /// In their order of arrival.
    pub lease_arrivals: Vec<LeaseId>,
    pub machines: BTreeMap<MachineKey, Kept>,
    /// When otter last ran, by the wall clock.
    pub last_seen: Option<Timestamp>,
    pub full: bool,
    /// How many writes it refused.
    pub refused: usize,
    pending: VecDeque<Write<W>>,
}

impl<W: Clone> Disk<W> {
    pub const fn new() -> Self {
        Self {
            jobs: BTreeMap::new(),
            places: BTreeMap::new(),
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            lease_keys: BTreeMap::new(),
            lease_arrivals: Vec::new(),
            machines: BTreeMap::new(),
            last_seen: None,
            full: false,
            refused: 0,
            pending: VecDeque::new(),
        }
    }

    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(self.places.get(&id)?)
    }

    /// Notes that otter runs at this time, unless the disk is full.
    pub const fn seen(&mut self, wall: Timestamp) {
        if !self.full {
            self.last_seen = Some(wall);
        }
    }

    /// Its place in the order of arrival.
    pub fn arrival(&self, id: JobId) -> Option<u64> {
        self.places.get(&id).copied()
    }

    pub fn write(&mut self, write: Write<W>) {
        self.pending.push_back(write);
    }

    /// Commits the oldest write.
    pub fn commit(&mut self) -> Option<Written<W>> {
        Some(match self.pending.pop_front()? {
            write if self.full => {
                self.refused += 1;
                Written::Refused(write)
            }
            Write::Insert { job, key, waits } => {
                if let Some((_, known)) = key.as_ref().and_then(|key| self.keys.get(&scope(key))) {
                    return Some(Written::Existing { job: *known, waits });
                }
                if let Some(key) = key {
                    self.keys.insert(scope(&key), (key.fingerprint, job.id));
                }
                let arrival = self.jobs.len() as u64;
                self.places.insert(job.id, arrival);
                self.jobs.insert(arrival, Job::clone(&job));
                Written::Inserted { job, waits }
            }
            Write::Leases { step, waits } => {
                let mut before = BTreeMap::new();
                for (id, lease) in &step.changes.leases {
                    match self.leases.insert(*id, Lease::clone(lease)) {
                        Some(stored) => drop(before.insert(*id, stored)),
                        None => self.lease_arrivals.push(*id),
                    }
                }
                self.machines.extend(step.changes.machines.clone());
                if let Some((key, lease)) = &step.key {
                    self.lease_keys.insert(scope(key), (key.fingerprint, *lease));
                }
                Written::Leases { step, before, waits }
            }
            Write::Update { job, waits } => {
                let stored = self.places.get(&job.id).and_then(|place| self.jobs.get_mut(place))?;
                if stored.state.is_end() {
                    return Some(Written::AlreadyEnded { waits });
                }
                let before = Box::new(std::mem::replace(stored, Job::clone(&job)));
                Written::Updated { before, job, waits }
            }
        })
    }

    /// How many writes the daemon's death may still let through, and who waited for those and all others.
    pub fn crash(&mut self, random: &mut Random) -> (usize, Vec<W>) {
        let waits = self.pending.iter().map(|write| match write {
            Write::Insert { waits, .. } | Write::Update { waits, .. } | Write::Leases { waits, .. } => {
                waits.clone()
            }
        });
        let waits = waits.collect();
        let kept = random.below(self.pending.len() as u64 + 1);
        let kept = usize::try_from(kept).unwrap_or_default();
        self.pending.truncate(kept);
        (kept, waits)
    }

    /// The leases without an end, as the store reads them back.
    pub fn open_leases(&self) -> Vec<Lease> {
        let arrived = self.lease_arrivals.iter().filter_map(|id| self.leases.get(id));
        arrived.filter(|lease| !lease.state.is_end()).map(crate::store::reread_lease).collect()
    }

    /// The jobs without an end, in their order of arrival, as the store reads them back.
    pub fn unfinished(&self) -> Vec<Job> {
        self.jobs.values().filter(|job| !job.state.is_end()).map(crate::store::reread).collect()
    }
}
