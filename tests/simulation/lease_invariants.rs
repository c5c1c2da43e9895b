//! The invariants of leases. The simulation reports each commit, each call to the host and each
//! lease that a reader sees. The first broken invariant ends the run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use otter::domain::access::Authority;
use otter::domain::ids::{JobId, LeaseId, MachineId};
use otter::domain::job::{Job, JobKind, JobRequest, JobState};
use otter::domain::lease::{EndReason, Lease, LeaseState};
use otter::service::leases::lease_table::MachineKey;
use otter::service::leases::matching::{CandidateMachine, Selection, missing_snapshot};
use otter::simulator::world::{PowerState, World};
use otter::storage::LeaseTransaction;

use super::committed::{Committed, Scope, scope};
use super::lease_clients::{LIMITED_CALLER, MAX_LEASES};

/// The faults of the whole host, of the account and of the licence that the simulation injects.
const HOST_WIDE_FAULTS: [&str; 6] = [
    "InsufficientResourcesFault",
    "InsufficientHostCapacityFault",
    "NoDiskSpace",
    "InvalidState",
    "RestrictedVersion",
    "NoPermission",
];

/// How much later than its expiry a lease may end, because each transition waits for a commit.
const LATE: Duration = Duration::from_mins(2);
const ROUNDING: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
pub struct LeaseInvariants {
    pub broken: Option<String>,
    pub grants: usize,
    fences: BTreeMap<MachineKey, u64>,
    /// The lease that holds each machine, by the committed leases.
    holders: BTreeMap<MachineKey, LeaseId>,
    /// The lease of each idempotency key.
    keys: BTreeMap<Scope, LeaseId>,
    /// The earliest and the latest expiry of each lease.
    times: BTreeMap<LeaseId, Time>,
    /// The machines that are unchanged since their release: the key, whether the machine must be
    /// off, and its snapshot.
    released: BTreeMap<String, (MachineKey, bool, Option<String>)>,
    /// The machines that are unchanged since a job read their state.
    unchanged: BTreeSet<String>,
    /// Whether a lease has met a fault that does not come from its machine. This lease and all
    /// others with a preparation then wait for a retry, so a later lease may be granted before
    /// them.
    has_met_host_fault: bool,
    /// The job of the last stored quarantine of each machine, by the stored key of the machine.
    quarantine_jobs: BTreeMap<String, Option<JobId>>,
    pub host_faults: usize,
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

    /// Called when a reader sees a lease that has not ended. The last grant of the lease must be
    /// committed.
    pub fn shown(&mut self, lease: &Lease, disk: &Committed) {
        let stored = disk.leases.get(&lease.id).map(|lease| lease.grants);
        self.require(stored.is_some_and(|grants| grants >= lease.grants), || {
            format!("a reader saw the lease {} with a grant that is not on disk", lease.id)
        });
    }

    fn check_holder(&mut self, lease: &Lease) {
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

    /// Called when a transition is committed.
    ///
    /// # Parameters
    /// - the transition, its time, and the machines from which it granted.
    /// - `before`: the leases before the commit.
    pub fn committed(
        &mut self,
        (transition, at, candidates): (&LeaseTransaction, Duration, &[CandidateMachine]),
        before: &BTreeMap<LeaseId, Lease>,
        disk: &Committed,
    ) {
        if let Some((key, lease)) = &transition.key {
            self.check_key(&scope(key), *lease);
        }
        let leases: BTreeMap<LeaseId, &Lease> =
            transition.leases.iter().map(|change| (change.lease.id, &*change.lease)).collect();
        // A lease that is queued again or has ended does not hold its machine.
        for (id, was) in before {
            let key = was
                .machine
                .as_ref()
                .map(MachineKey::from_identity)
                .filter(|_| was.state.holds_machine());
            let still_holds = leases.get(id).is_some_and(|lease| lease.state.holds_machine());
            if let Some(key) = key.filter(|key| !still_holds && self.holders.get(key) == Some(id)) {
                self.holders.remove(&key);
            }
        }
        self.has_met_host_fault |= leases.values().any(|lease| lease.setback.is_some());
        self.host_faults += leases.values().filter(|lease| lease.setback.is_some()).count();
        for (key, stored) in &transition.machines {
            // A quarantine is judged once: its job may still run, and end in any way later.
            let job = stored.quarantine.as_ref().and_then(|quarantine| quarantine.job);
            let judged = self.quarantine_jobs.insert(key.clone(), job).flatten();
            let aside = stored.quarantine.as_ref().filter(|quarantine| quarantine.automatic);
            let aside = aside.filter(|_| judged != job);
            let job = aside.and_then(|quarantine| disk.job(quarantine.job?));
            let error = job.filter(|job| job.state == JobState::Failed).and_then(|job| {
                let fault = job.error.as_ref()?.fault.as_ref()?;
                HOST_WIDE_FAULTS.contains(&fault.name.as_str()).then(|| fault.name.clone())
            });
            self.require(error.is_none(), || {
                format!("{key} is set aside for a fault of the whole host: {error:?}")
            });
        }
        for lease in leases.values() {
            let was = before.get(&lease.id);
            self.require(was.is_none_or(|was| !was.state.is_end()), || {
                format!("the ended lease {} changed", lease.id)
            });
            self.check_holder(lease);
            if lease.state.holds_machine() && was.is_none_or(|was| was.grants < lease.grants) {
                self.check_grant(lease, candidates, disk);
            }
            if was.is_none() {
                self.check_limit(lease, disk);
            }
            self.check_time(lease, at, was);
            if lease.state.is_end() && was.is_some_and(|was| was.state.holds_machine()) {
                self.check_end(lease, disk);
            }
        }
    }

    /// Called when a caller gets this lease in the response to its request.
    pub fn answered(&mut self, key: Option<Scope>, lease: LeaseId, disk: &Committed) {
        self.require(disk.leases.contains_key(&lease), || {
            format!("the lease {lease} is not on disk")
        });
        if let Some(key) = key {
            self.check_key(&key, lease);
        }
    }

    fn check_key(&mut self, key: &Scope, lease: LeaseId) {
        let first = *self.keys.entry(key.clone()).or_insert(lease);
        self.require(first == lease, || {
            format!("the key {} gave the lease {first} and then {lease}", key.3)
        });
    }

    fn check_grant(&mut self, lease: &Lease, candidates: &[CandidateMachine], disk: &Committed) {
        self.grants += 1;
        let Some(machine) = &lease.machine else { return };
        let key = MachineKey::from_identity(machine);
        let fence = lease.fence.unwrap_or_default();
        let last = self.fences.insert(key.clone(), fence).unwrap_or_default();
        self.require(fence > last, || format!("the fence of {key:?} went from {last} to {fence}"));
        let stored = disk.machines.get(&key.0);
        let is_set_aside =
            stored.is_some_and(|stored| stored.quarantine.is_some() || stored.recovery.is_some());
        self.require(!is_set_aside, || format!("{key:?} is granted, and it is not proven free"));
        let candidate = candidates.iter().find(|candidate| candidate.identity == *machine);
        let earlier = disk.arrivals.iter().take_while(|id| **id != lease.id);
        let may_wait = |other: &&Lease| self.has_met_host_fault && other.prepare.is_some();
        let waiting = earlier
            .filter_map(|id| disk.leases.get(id))
            .filter(|other| other.state == LeaseState::Queued && !may_wait(other));
        let matches = |other: &&Lease, machine| {
            Selection::new(other, candidates).includes(machine)
                && missing_snapshot(other, machine).is_none()
        };
        let passed = waiting
            .filter(|other| candidate.is_some_and(|candidate| matches(other, candidate)))
            .map(|other| other.id)
            .next();
        self.require(passed.is_none(), || {
            format!("the earlier lease {passed:?} matches the machine of {}", lease.id)
        });
    }

    /// Checks that a caller has no more open leases than its token allows.
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

    fn check_end(&mut self, lease: &Lease, disk: &Committed) {
        let Some(key) = lease.machine.as_ref().map(MachineKey::from_identity) else { return };
        // otter does not grant a machine before its pending release.
        let is_set_aside = disk
            .machines
            .get(&key.0)
            .is_some_and(|stored| stored.quarantine.is_some() || stored.recovery.is_some());
        let gone = lease.end.as_ref().is_some_and(|end| end.reason == EndReason::MachineGone);
        let proven = disk.jobs.values().any(|job| {
            job.lease == Some(lease.id)
                && job.kind() == JobKind::LeaseRelease
                && job.state == JobState::Succeeded
                && MachineKey::from_identity(job.target.machine().unwrap()) == key
        });
        self.require(is_set_aside || proven && !gone, || {
            format!("{key:?} is free, and the release of {} did not succeed", lease.id)
        });
    }

    fn check_time(&mut self, lease: &Lease, at: Duration, was: Option<&Lease>) {
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
                format!("the lease {} lost time: it expires too early", lease.id)
            });
        }
        let expired = lease.end.as_ref().is_some_and(|end| end.reason == EndReason::Expired);
        if expired && was.is_some_and(|was| was.state == LeaseState::Active) {
            let Some(Time { earliest, latest }) = self.times.get(&lease.id).copied() else {
                return;
            };
            self.require(at + ROUNDING >= earliest, || {
                format!("the lease {} expired too early", lease.id)
            });
            self.require(at <= latest + LATE, || {
                format!("the lease {} expired at {at:?} instead of {latest:?}", lease.id)
            });
        }
    }

    /// Called when the storage failed for this long. Transitions may be late by the same time.
    pub fn storage_failed_for(&mut self, away: Duration) {
        for time in self.times.values_mut() {
            time.latest += away;
        }
    }

    pub const fn crashed(&mut self, now: Duration) {
        self.down_at = now;
    }

    /// Called when the daemon starts. It computes the remaining times by the wall clock, and no
    /// lease expires before the end of the grace period.
    pub fn started(&mut self, now: Duration) {
        let grace = Duration::from_mins(1);
        for time in self.times.values_mut() {
            time.earliest = now + grace;
            // The stored time may be as old as the last checkpoint, and the wall clock may have
            // gone back.
            let left = time.latest.saturating_sub(self.down_at) + Duration::from_secs(30);
            time.latest = now + left.max(grace);
        }
    }

    /// Called when otter sends a call that changes a machine. The job must belong to the lease that
    /// holds the machine.
    pub fn sent(&mut self, id: JobId, disk: &Committed) {
        let Some(job) = disk.job(id) else { return };
        let key = MachineKey::from_identity(job.target.machine().unwrap());
        // If the machine has another id, it is absent for its lease. The lease ends once otter can
        // store its end.
        let holds_machine = |lease: &&Lease| {
            lease.state.holds_machine()
                && lease
                    .machine
                    .as_ref()
                    .is_some_and(|held| held.agrees_with(job.target.machine().unwrap()))
        };
        let holder = disk.leases.values().find(holds_machine).map(|lease| lease.id);
        let gone = job.lease.and_then(|lease| disk.leases.get(&lease)?.end.as_ref());
        let gone = gone.is_some_and(|end| end.reason == EndReason::MachineGone);
        // A release may continue after the end of its lease if the machine was absent for a while,
        // and otter releases the machines that it quarantined or that a preparation gave back.
        let outlives = holder.is_none() && job.kind() == JobKind::LeaseRelease;
        let may = job.lease == holder || job.authority == Authority::Override || gone || outlives;
        self.require(may, || {
            format!(
                "{id} ({}) of {:?} changes {key:?}, which {holder:?} holds",
                job.kind().as_str(),
                job.lease
            )
        });
    }

    /// Called when a job has read the state of this machine.
    pub fn looked(&mut self, machine: &MachineId) {
        self.unchanged.insert(machine.backend_text().to_owned());
    }

    /// Called when a change of a job is committed. If the job is a successful release whose machine
    /// is unchanged since the release read it, the machine must have the state of the release.
    pub fn job_written(&mut self, before: &Job, job: &Job, world: &World, disk: &Committed) {
        if before.state == JobState::Queued
            && job.kind() == JobKind::LeaseRelease
            && job.state == JobState::Running
        {
            let other = disk.jobs.values().find(|other| {
                other.lease == job.lease
                    && other.id != job.id
                    && other.machine_id() == job.machine_id()
                    && !other.state.is_end()
            });
            let other = other.map(|job| job.id);
            self.require(other.is_none(), || {
                format!("{other:?} of the same lease runs during its release {}", job.id)
            });
        }
        if let JobRequest::Release { keep_power, snapshot, media: _ } = &job.request
            && job.state == JobState::Succeeded
            && world.machine(job.machine_id().unwrap().backend_text()).is_some()
            && self.unchanged.contains(job.machine_id().unwrap().backend_text())
        {
            let snapshot = snapshot.as_ref().map(|(id, _)| id.backend_text().to_owned());
            let released =
                (MachineKey::from_identity(job.target.machine().unwrap()), !keep_power, snapshot);
            self.released.insert(job.machine_id().unwrap().backend_text().to_owned(), released);
        }
    }

    /// Called when something changed these machines.
    pub fn touched(&mut self, machines: Vec<String>) {
        for machine in machines {
            self.released.remove(&machine);
            self.unchanged.remove(&machine);
        }
    }

    /// Checks that each granted machine has the state of its last release, if it is unchanged
    /// since.
    pub fn check_released(&mut self, world: &World) {
        let mut wrong = None;
        for (id, (key, off, snapshot)) in &self.released {
            let Some(machine) = world.machine(id).filter(|_| self.holders.contains_key(key)) else {
                continue;
            };
            let is_as_released = (!off || machine.power == PowerState::Off)
                && snapshot
                    .as_ref()
                    .is_none_or(|snapshot| machine.current_snapshot.as_ref() == Some(snapshot));
            if !is_as_released {
                wrong = Some(format!(
                    "{key:?} was granted and does not have the state of its last release"
                ));
            }
        }
        self.require(wrong.is_none(), || wrong.unwrap_or_default());
    }
}
