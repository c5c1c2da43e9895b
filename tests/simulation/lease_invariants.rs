//! The promises about leases as invariants. It is told each commit and all that readers are shown,
//! and says what was broken.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use otter::domain::access::Authority;
use otter::domain::ids::{JobId, LeaseId, MachineId};
use otter::domain::job::{Job, JobKind, JobRequest, JobState};
use otter::domain::lease::{EndReason, Lease, LeaseState};
use otter::service::leases::lease_table::MachineKey;
use otter::service::leases::matching::{CandidateMachine, Selection, has_snapshots};
use otter::simulator::world::{PowerState, World};
use otter::storage::LeaseTransaction;

use super::committed::{Committed, Scope, scope};
use super::lease_clients::{LIMITED_CALLER, MAX_LEASES};

/// How much later than its time a lease may end: steps wait for commits.
const LATE: Duration = Duration::from_mins(2);
const ROUNDING: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub struct LeaseInvariants {
    pub broken: Option<String>,
    pub grants: usize,
    fences: BTreeMap<MachineKey, u64>,
    /// Who was told, or is on disk, to hold what.
    holders: BTreeMap<MachineKey, LeaseId>,
    /// Which lease each key asked for.
    keys: BTreeMap<Scope, LeaseId>,
    /// When a lease ends at the earliest and at the latest, and since when that counts.
    times: BTreeMap<LeaseId, Time>,
    /// The machines that a release has made what they were to be, and nobody touched since: the
    /// key, off, the snapshot.
    made: BTreeMap<String, (MachineKey, bool, Option<String>)>,
    /// The machines that nobody touched since a job looked at them.
    untouched: BTreeSet<String>,
    down_at: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Time {
    earliest: Duration,
    latest: Duration,
}

impl LeaseInvariants {
    fn require(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds && self.broken.is_none() {
            self.broken = Some(what());
        }
    }

    /// A reader was shown the lease as one that has not ended.
    pub fn shown(&mut self, lease: &Lease, disk: &Committed) {
        let stored = disk.leases.get(&lease.id).map(|lease| lease.grants);
        self.require(stored.is_some_and(|grants| grants >= lease.grants), || {
            format!("the lease {} was shown with a grant that is not on disk", lease.id)
        });
    }

    fn holds(&mut self, lease: &Lease) {
        let Some(key) = lease.machine.as_ref().map(MachineKey::from_identity) else { return };
        let holder = self.holders.get(&key).copied();
        if lease.state.holds_machine() {
            self.require(holder.is_none_or(|holder| holder == lease.id), || {
                format!("{key:?} has two holders: {holder:?} and {}", lease.id)
            });
            self.holders.insert(key, lease.id);
        } else if holder == Some(lease.id) {
            self.holders.remove(&key);
        }
    }

    /// A step is on disk, which was taken at this time among these machines.
    pub fn committed(
        &mut self,
        (step, at, candidates): (&LeaseTransaction, Duration, &[CandidateMachine]),
        before: &BTreeMap<LeaseId, Lease>,
        disk: &Committed,
    ) {
        if let Some((key, lease)) = &step.key {
            self.keyed(&scope(key), *lease);
        }
        let leases: BTreeMap<LeaseId, &Lease> =
            step.leases.iter().map(|change| (change.lease.id, &*change.lease)).collect();
        // Those that were queued anew let go of their machines.
        for (id, was) in before {
            let key = was
                .machine
                .as_ref()
                .map(MachineKey::from_identity)
                .filter(|_| was.state.holds_machine());
            let kept = leases.get(id).is_some_and(|lease| lease.state.holds_machine());
            if let Some(key) = key.filter(|key| !kept && self.holders.get(key) == Some(id)) {
                self.holders.remove(&key);
            }
        }
        for lease in leases.values() {
            let was = before.get(&lease.id);
            self.require(was.is_none_or(|was| !was.state.is_end()), || {
                format!("the end of the lease {} was taken back", lease.id)
            });
            self.holds(lease);
            if lease.state.holds_machine() && was.is_none_or(|was| was.grants < lease.grants) {
                self.granted(lease, candidates, disk);
            }
            if was.is_none() {
                self.check_limit(lease, disk);
            }
            self.time(lease, at, was);
            if lease.state.is_end() && was.is_some_and(|was| was.state.holds_machine()) {
                self.ended(lease, disk);
            }
        }
    }

    /// A caller was told that this is the lease it asked for.
    pub fn answered(&mut self, key: Option<Scope>, lease: LeaseId, disk: &Committed) {
        self.require(disk.leases.contains_key(&lease), || {
            format!("the lease {lease} is not on disk")
        });
        if let Some(key) = key {
            self.keyed(&key, lease);
        }
    }

    fn keyed(&mut self, key: &Scope, lease: LeaseId) {
        let first = *self.keys.entry(key.clone()).or_insert(lease);
        self.require(first == lease, || {
            format!("the key {} gave the lease {first} and then {lease}", key.3)
        });
    }

    fn granted(&mut self, lease: &Lease, candidates: &[CandidateMachine], disk: &Committed) {
        self.grants += 1;
        let Some(machine) = &lease.machine else { return };
        let key = MachineKey::from_identity(machine);
        let fence = lease.fence.unwrap_or_default();
        let last = self.fences.insert(key.clone(), fence).unwrap_or_default();
        self.require(fence > last, || format!("the fence of {key:?} went from {last} to {fence}"));
        let candidate = candidates.iter().find(|candidate| candidate.identity == *machine);
        let earlier = disk.arrivals.iter().take_while(|id| **id != lease.id);
        let waiting = earlier
            .filter_map(|id| disk.leases.get(id))
            .filter(|other| other.state == LeaseState::Queued);
        let fitting = |other: &&Lease, machine| {
            Selection::new(other, candidates).includes(machine) && has_snapshots(other, machine)
        };
        let passed = waiting
            .filter(|other| candidate.is_some_and(|candidate| fitting(other, candidate)))
            .map(|other| other.id)
            .next();
        self.require(passed.is_none(), || format!("{passed:?} was passed over by {}", lease.id));
    }

    /// A caller whose token limits its leases has no more of them.
    fn check_limit(&mut self, lease: &Lease, disk: &Committed) {
        let open = disk
            .leases
            .values()
            .filter(|other| other.requested_by == lease.requested_by && !other.state.is_end());
        let open = open.count();
        let is_limited = lease.requested_by == LIMITED_CALLER;
        self.require(!is_limited || open <= MAX_LEASES as usize, || {
            format!("{LIMITED_CALLER} has {open} leases and may have {MAX_LEASES}")
        });
    }

    fn ended(&mut self, lease: &Lease, disk: &Committed) {
        let Some(key) = lease.machine.as_ref().map(MachineKey::from_identity) else { return };
        let aside = disk.machines.get(&key.0).is_some_and(|kept| kept.quarantine.is_some());
        let gone = lease.end.as_ref().is_some_and(|end| end.reason == EndReason::MachineGone);
        let proven = disk.jobs.values().any(|job| {
            job.lease == Some(lease.id)
                && job.kind() == JobKind::LeaseRelease
                && job.state == JobState::Succeeded
                && MachineKey::from_identity(job.target.machine().unwrap()) == key
        });
        self.require(aside || proven && !gone, || {
            format!("{key:?} is free again, and the release of {} was not proven", lease.id)
        });
    }

    fn time(&mut self, lease: &Lease, at: Duration, was: Option<&Lease>) {
        let left = lease.time_left.lease;
        if lease.state == LeaseState::Active {
            let time = self
                .times
                .entry(lease.id)
                .or_insert(Time { earliest: at + left, latest: at + left });
            let (earliest, latest) = (time.earliest, time.latest);
            if was.is_none_or(|was| was.state != LeaseState::Active)
                || at + left > earliest + ROUNDING
            {
                *time = Time { earliest: at + left, latest: (at + left).max(latest) };
            }
            self.require(at + left + ROUNDING >= earliest, || {
                format!("the lease {} lost time: it will be over before its time", lease.id)
            });
        }
        let expired = lease.end.as_ref().is_some_and(|end| end.reason == EndReason::Expired);
        if expired && was.is_some_and(|was| was.state == LeaseState::Active) {
            let Some(Time { earliest, latest }) = self.times.get(&lease.id).copied() else {
                return;
            };
            self.require(at + ROUNDING >= earliest, || {
                format!("the lease {} expired before its time", lease.id)
            });
            self.require(at <= latest + LATE, || {
                format!("the lease {} expired at {at:?} instead of {latest:?}", lease.id)
            });
        }
    }

    /// No step is kept for so long, and then each takes effect so much later.
    pub fn nothing_is_kept_for(&mut self, away: Duration) {
        for time in self.times.values_mut() {
            time.latest += away;
        }
    }

    pub const fn crashed(&mut self, now: Duration) {
        self.down_at = now;
    }

    /// The daemon starts: what is left then is known by the wall clock alone, but for the grace.
    pub fn started(&mut self, now: Duration) {
        let grace = Duration::from_mins(1);
        for time in self.times.values_mut() {
            time.earliest = now + grace;
            // What was noted last may be as old as a checkpoint, and no time may have passed by the
            // wall clock.
            let left = time.latest.saturating_sub(self.down_at) + Duration::from_secs(30);
            time.latest = now + left.max(grace);
        }
    }

    /// A call leaves otter for a machine.
    pub fn sent(&mut self, id: JobId, disk: &Committed) {
        let Some(job) = disk.job(id) else { return };
        let key = MachineKey::from_identity(job.target.machine().unwrap());
        // Under another id the machine is gone for its holder, and the lease is over once that can
        // be stored.
        let of = |lease: &&Lease| {
            lease.state.holds_machine()
                && lease
                    .machine
                    .as_ref()
                    .is_some_and(|held| held.agrees_with(job.target.machine().unwrap()))
        };
        let holder = disk.leases.values().find(of).map(|lease| lease.id);
        let gone = job.lease.and_then(|lease| disk.leases.get(&lease)?.end.as_ref());
        let gone = gone.is_some_and(|end| end.reason == EndReason::MachineGone);
        // A release may outlive its lease if its machine vanished for a while: nobody gets the
        // machine then.
        let is_aside = disk.machines.get(&key.0).is_some_and(|kept| kept.quarantine.is_some());
        let outlives = holder.is_none() && job.kind() == JobKind::LeaseRelease && is_aside;
        let may = job.lease == holder || job.authority == Authority::Override || gone || outlives;
        self.require(may, || {
            format!(
                "{id} ({}) of {:?} changes {key:?}, which {holder:?} holds",
                job.kind().as_str(),
                job.lease
            )
        });
    }

    /// A job has read how this machine is.
    pub fn looked(&mut self, machine: &MachineId) {
        self.untouched.insert(machine.backend_text().to_owned());
    }

    /// A release is on disk as done: if nobody touched its machine since it looked, that is what
    /// the release was to make.
    pub fn job_written(&mut self, before: &Job, job: &Job, world: &World, disk: &Committed) {
        if before.state == JobState::Queued
            && job.kind() == JobKind::LeaseRelease
            && job.state == JobState::Running
        {
            let beside = disk.jobs.values().find(|other| {
                other.lease == job.lease && other.id != job.id && !other.state.is_end()
            });
            let beside = beside.map(|job| job.id);
            self.require(beside.is_none(), || {
                format!("{beside:?} of the same lease goes on beside its release {}", job.id)
            });
        }
        if let JobRequest::Release { keep_power, snapshot } = &job.request
            && job.state == JobState::Succeeded
            && world.machine(job.machine_id().unwrap().backend_text()).is_some()
            && self.untouched.contains(job.machine_id().unwrap().backend_text())
        {
            let snapshot = snapshot.as_ref().map(|(id, _)| id.backend_text().to_owned());
            let made =
                (MachineKey::from_identity(job.target.machine().unwrap()), !keep_power, snapshot);
            self.made.insert(job.machine_id().unwrap().backend_text().to_owned(), made);
        }
    }

    /// These machines were changed by anybody.
    pub fn touched(&mut self, machines: Vec<String>) {
        for machine in machines {
            self.made.remove(&machine);
            self.untouched.remove(&machine);
        }
    }

    /// That a machine which is to be handed out is what its last release was to make.
    pub fn check_made(&mut self, world: &World) {
        let mut wrong = None;
        for (id, (key, off, snapshot)) in &self.made {
            let Some(machine) = world.machine(id).filter(|_| self.holders.contains_key(key)) else {
                continue;
            };
            let as_made = (!off || machine.power == PowerState::Off)
                && snapshot
                    .as_ref()
                    .is_none_or(|wanted| machine.current_snapshot.as_ref() == Some(wanted));
            if !as_made {
                wrong = Some(format!(
                    "{key:?} was handed out, and is not what its release was to make"
                ));
            }
        }
        self.require(wrong.is_none(), || wrong.unwrap_or_default());
    }
}
