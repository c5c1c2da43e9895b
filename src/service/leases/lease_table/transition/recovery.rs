//! What faults of the host, quarantines and recoveries do to the leases and the ledgers. The table
//! of events and states in `lease_table` says the same in short.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::{
    FollowUp, LeaseStep, MAX_QUARANTINE_RETRY, MachineKey, MachineLedger, OpenLease,
    RecoveryAttempt, pause_after,
};
use super::Transition;
use crate::domain::failure::Failure;
use crate::domain::fault_origin::FaultOrigin;
use crate::domain::ids::LeaseId;
use crate::domain::lease::{Lease, LeaseState, Quarantine, Recovery, Setback};
use crate::service::leases::matching::CandidateMachine;

impl Transition<'_> {
    /// Plans another attempt of a release that met a fault of the host. If a person quarantined the
    /// machine, ends the lease instead.
    pub(super) fn release_again(&mut self, id: LeaseId, failure: &Failure) {
        let machine = self.table.leases.get(&id).and_then(|open| open.lease.machine.as_ref());
        let key = machine.map(MachineKey::from_identity);
        if key.is_some_and(|key| self.is_quarantined_by_person(&key)) {
            return self.end_without_release(id, &failure.detail);
        }
        let pause = self.meet_host_fault(id, LeaseStep::Release, failure);
        self.change_lease(id, |lease, now| {
            lease.job = None;
            let code = failure.kind.code();
            let note = format!("the release met a fault of the host ({code}); it is tried again");
            // Add the same note only once in a row. Otherwise a release that is tried for days
            // would push all other entries out of the history.
            if lease.history.last().is_none_or(|last| last.what != note) {
                lease.note(now.wall, note);
            }
        });
        self.changes.follow_ups.push(FollowUp::ReleaseAgain(id, pause));
    }

    /// Records that a lease met a fault that its machine did not cause. Returns the pause before
    /// the step is tried again.
    pub(super) fn meet_host_fault(
        &mut self,
        id: LeaseId,
        step: LeaseStep,
        failure: &Failure,
    ) -> Duration {
        let Some(open) = self.table.leases.get(&id) else { return Duration::ZERO };
        let Some(machine) = &open.lease.machine else { return Duration::ZERO };
        let (key, before) = (MachineKey::from_identity(machine), open.lease.setback.as_ref());
        let setback = Setback::after(before, failure.clone(), &key.0, self.now.wall);
        let pause = self.fault_pause(setback.attempts);
        let longest = self.table.rules.max_fault_pause;
        let pause = self.table.host_faults.pool_pause(&key, failure, pause, longest);
        self.change_lease(id, |lease, _| lease.setback = Some(setback));
        self.table.host_faults.record(key, step, failure, (self.now.wall, pause), self.now);
        pause
    }

    fn fault_pause(&self, failures: u32) -> Duration {
        let rules = &self.table.rules;
        pause_after(failures, rules.fault_pause, rules.max_fault_pause)
    }

    /// Records that a step of a lease succeeded. This shows that the host works for the pools of
    /// the lease's machine.
    pub(super) fn step_succeeded(&mut self, id: LeaseId, step: LeaseStep) {
        let machine = self.table.leases.get(&id).and_then(|open| open.lease.machine.as_ref());
        let Some(key) = machine.map(MachineKey::from_identity) else { return };
        self.table.host_faults.succeeded(&key, step);
        self.table.evaluated = None;
    }

    /// Plans the release of a machine that its lease is about to leave. The machine is granted to
    /// no lease until this release has succeeded.
    pub(super) fn give_back(&mut self, id: LeaseId) {
        let Some((key, recovery)) = self.new_recovery(id, Duration::ZERO) else { return };
        if !self.is_quarantined_by_person(&key) {
            self.change_ledger(&key, |ledger| ledger.recovery = Some(recovery));
        }
    }

    /// The recovery of a lease's machine: its release, which begins after a pause once the lease
    /// has left the machine.
    fn new_recovery(&self, id: LeaseId, pause: Duration) -> Option<(MachineKey, Recovery)> {
        let lease = &self.table.leases.get(&id)?.lease;
        let machine = lease.machine.clone()?;
        let recovery = Recovery {
            lease: id,
            snapshot: lease.release.snapshot.clone(),
            media: lease.recorded_media().cloned(),
            attempts: 0,
            pause,
            retry_at: self.now.wall.saturating_add(pause).unwrap_or(Timestamp::MAX),
            machine: Some(machine),
        };
        Some((MachineKey::from_identity(recovery.machine.as_ref()?), recovery))
    }

    /// Records that a lease no longer holds its machine. If the machine must still be released
    /// after this lease, starts its recovery.
    pub(super) fn machine_left(&mut self, id: LeaseId, machine: &MachineKey) {
        let now = self.now.wall;
        let mut is_due = false;
        self.change_ledger(machine, |ledger| {
            ledger.last_lease_end = Some(now);
            if let Some(recovery) = ledger.recovery.as_mut().filter(|due| due.lease == id) {
                recovery.retry_at = now.saturating_add(recovery.pause).unwrap_or(Timestamp::MAX);
                is_due = true;
            }
        });
        if is_due {
            self.start_recovery(machine);
        }
    }

    /// Whether a person quarantined the machine. Then otter does nothing with the machine by
    /// itself.
    fn is_quarantined_by_person(&self, machine: &MachineKey) -> bool {
        let quarantine = self.table.ledger(machine).and_then(|ledger| ledger.quarantine.as_ref());
        quarantine.is_some_and(|quarantine| !quarantine.automatic)
    }

    /// Starts the next attempt of a machine's recovery, which begins after its pause.
    fn start_recovery(&mut self, machine: &MachineKey) {
        let Some(ledger) = self.table.ledger(machine) else { return };
        let pause = ledger.recovery.as_ref().map_or(Duration::ZERO, |recovery| recovery.pause);
        let follow_up = self.table.recover(machine, ledger, pause);
        self.changes.follow_ups.extend(follow_up);
    }

    pub(super) fn recovery_finished(
        &mut self,
        attempt: &RecoveryAttempt,
        outcome: Result<(), Failure>,
    ) {
        if !self.table.is_next(attempt) {
            return;
        }
        let machine = &attempt.machine;
        let Err(failure) = outcome else {
            self.table.host_faults.succeeded(machine, LeaseStep::Release);
            self.change_ledger(machine, |ledger| {
                ledger.recovery = None;
                ledger.quarantine.take_if(|quarantine| quarantine.automatic);
            });
            return;
        };
        let Some(ledger) = self.table.ledger(machine).cloned() else { return };
        let attempts = attempt.number.saturating_add(1);
        let origin = failure.origin();
        let is_of_machine = origin == FaultOrigin::Machine;
        let retry = self.table.rules.quarantine_retry;
        let pause = match (&ledger.quarantine, &ledger.recovery) {
            (None, _) if is_of_machine => retry,
            (None, _) => self.fault_pause(attempts),
            (Some(_), Some(recovery)) => {
                recovery.pause.saturating_mul(2).clamp(retry, MAX_QUARANTINE_RETRY.max(retry))
            }
            (Some(_), None) => retry,
        };
        let now = self.now;
        if ledger.quarantine.is_none() && is_of_machine {
            let quarantine = Quarantine {
                reason: format!("its release failed: {}", failure.detail),
                by: "otter".to_owned(),
                since: now.wall,
                automatic: true,
                job: failure.job,
            };
            self.change_ledger(machine, |ledger| ledger.quarantine = Some(quarantine));
        }
        if !is_of_machine && origin != FaultOrigin::Person {
            // Record the fault with the pause for faults of the host. The pause of the quarantined
            // machine itself would be too long for the other machines of its pools.
            let (key, pause) = (machine.clone(), self.fault_pause(attempts));
            let times = (now.wall, pause);
            self.table.host_faults.record(key, LeaseStep::Release, &failure, times, now);
        }
        self.change_ledger(machine, |ledger| {
            if let Some(recovery) = &mut ledger.recovery {
                recovery.attempts = attempts;
                recovery.pause = pause;
                recovery.retry_at = now.wall.saturating_add(pause).unwrap_or(Timestamp::MAX);
            }
        });
        self.start_recovery(machine);
    }

    /// Quarantines a machine for an operator. This ends what otter tries by itself with the
    /// machine: its recovery, and the release of its lease if this release met a fault of the host.
    pub(super) fn quarantine_by_operator(&mut self, machine: &MachineKey, quarantine: Quarantine) {
        self.change_ledger(machine, |ledger| {
            ledger.quarantine = Some(quarantine);
            ledger.recovery = None;
        });
        let holders = self.table.index.holders().filter(|(_, held)| *held == machine);
        let stuck = holders
            .filter_map(|(id, _)| self.table.get(id))
            .find(|open| open.lease.state == LeaseState::Releasing && open.lease.setback.is_some());
        let Some(lease) = stuck.map(|open| Arc::clone(&open.lease)) else { return };
        let detail = lease.setback.as_ref().map_or("", |setback| setback.failure.detail.as_str());
        self.end_without_release(lease.id, detail);
    }

    /// Ends a lease whose machine an operator quarantined before the release of the machine
    /// succeeded.
    fn end_without_release(&mut self, id: LeaseId, detail: &str) {
        self.change_lease(id, |lease, now| {
            let warning =
                format!("An operator quarantined the machine before it was released: {detail}");
            lease.warn(warning);
            lease.note(now.wall, "not released; an operator quarantined the machine");
        });
        self.finish(id);
    }

    pub(super) fn clear_quarantine(&mut self, machine: &MachineKey) {
        self.change_ledger(machine, |ledger| {
            // Only a quarantined machine loses its recovery here: a machine that was given back
            // without a quarantine must still be released.
            if ledger.quarantine.take().is_some() {
                ledger.recovery = None;
            }
        });
    }

    pub(super) fn clear_automatic_quarantine(&mut self, machine: &MachineKey) {
        let quarantine = self.table.ledger(machine).and_then(|ledger| ledger.quarantine.as_ref());
        if quarantine.is_some_and(|quarantine| quarantine.automatic) {
            self.clear_quarantine(machine);
        }
    }

    /// Quarantines the machine of a lease. The recovery of the machine (its release without a
    /// lease) begins once the lease has left the machine.
    pub(super) fn quarantine_machine(&mut self, id: LeaseId, reason: &str) {
        let job = self.table.leases.get(&id).and_then(|open| open.lease.job);
        let pause = self.table.rules.quarantine_retry;
        let Some((key, recovery)) = self.new_recovery(id, pause) else { return };
        let quarantine = Quarantine {
            reason: reason.to_owned(),
            by: "otter".to_owned(),
            since: self.now.wall,
            automatic: true,
            job,
        };
        // Do not replace a quarantine that an operator set.
        self.change_ledger(&key, |ledger| {
            if ledger.quarantine.as_ref().is_none_or(|quarantine| quarantine.automatic) {
                ledger.quarantine = Some(quarantine);
                ledger.recovery.get_or_insert(recovery);
            }
        });
    }
}

impl MachineLedger {
    /// Whether the machine may not be granted, because it is quarantined or has not been released
    /// yet.
    #[must_use]
    pub const fn is_set_aside(&self) -> bool {
        self.quarantine.is_some() || self.recovery.is_some()
    }
}

impl OpenLease {
    /// Whether the faults of the host that the lease and the machine's pools met allow a grant of
    /// this machine to the lease now.
    pub(super) fn may_try(
        &self,
        machine: &CandidateMachine,
        waiting_pools: &BTreeSet<String>,
        elapsed: Duration,
    ) -> bool {
        let waits = machine.pools.iter().any(|pool| waiting_pools.contains(pool));
        let Lease { setback, prepare, queue_for, .. } = &*self.lease;
        match (setback, self.retry_at) {
            // The pause of the lease still runs. After its first failure, the lease is tried at
            // once on another machine, which may do better.
            (Some(setback), Some(retry_at)) if retry_at > elapsed => {
                setback.attempts == 1 && !setback.machines.contains(&machine.key.0) && !waits
            }
            // The lease's own pause is over, but the pause of a pool of the machine may be longer.
            (Some(_), _) => !waits,
            // A lease that needs no preparation, or cannot wait in the queue, is tried during the
            // pause of the pool. If the fault is not over, the preparation fails with it.
            (None, _) => !waits || prepare.is_none() || queue_for.is_none(),
        }
    }
}
