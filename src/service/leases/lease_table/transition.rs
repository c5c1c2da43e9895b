//! What each event does to the leases and the ledgers. The table of events and states in
//! `lease_table` says the same in short.

mod grants;
mod recovery;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{
    FollowUp, LeaseInput, LeaseStep, LeaseTable, MachineKey, MachineLedger, Moment, OpenLease,
    TableChanges,
};
use crate::domain::access::TokenStatus;
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::fault_origin::FaultOrigin;
use crate::domain::ids::{JobId, LeaseId, MachineId, TokenId};
use crate::domain::lease::{EndReason, Lease, LeaseEnd, LeaseState, TimeLeft};
use crate::domain::machine::MachineIdentity;

/// One application of an event to the lease table.
pub struct Transition<'t> {
    table: &'t mut LeaseTable,
    now: Moment,
    changes: TableChanges,
}

impl<'t> Transition<'t> {
    pub fn new(table: &'t mut LeaseTable, now: Moment) -> Self {
        Self { table, now, changes: TableChanges::default() }
    }

    /// Applies the event to the table, and returns the changes.
    pub fn apply(mut self, input: LeaseInput<'_>) -> Result<TableChanges, Failure> {
        match input {
            LeaseInput::Request(lease, candidates) => self.request(*lease, candidates)?,
            LeaseInput::GrantQueued(candidates) => self.grant_queued(candidates),
            LeaseInput::MachinesPresent(machines) => self.end_leases_of_absent_machines(machines),
            LeaseInput::ForgetAbsentMachines(machines) => self.forget_absent_machines(machines),
            LeaseInput::Renew(id, ttl) => self.renew(id, ttl)?,
            LeaseInput::End { id, reason, by, detail } => self.end(id, reason, by, detail),
            LeaseInput::EndFailed { id, reason, by, detail } => {
                if !self.keep(id) {
                    self.end(id, reason, by, detail);
                }
            }
            LeaseInput::TokenStatuses(statuses) => self.end_leases_of_invalid_tokens(statuses),
            LeaseInput::JobStarted(id, state, job) => self.job_started(id, state, job),
            LeaseInput::PrepareFinished(id, outcome) => self.prepare_finished(id, outcome),
            LeaseInput::ReleaseFinished(id, outcome) => self.release_finished(id, outcome),
            LeaseInput::RecordOverride { id, by, reason } => self.change_lease(id, |lease, now| {
                lease.warn(format!("{by} acted on the machine: {reason}"));
                lease.note(now.wall, format!("overridden by {by}: {reason}"));
            }),
            LeaseInput::RecoveryFinished(attempt, outcome) => {
                self.recovery_finished(&attempt, outcome);
            }
            LeaseInput::RecordAnswer { id, what } => {
                self.change_lease(id, |lease, now| lease.note(now.wall, what));
            }
            LeaseInput::RecordRecording { id, what, is_warning } => {
                self.change_lease(id, |lease, now| {
                    if is_warning {
                        lease.warn(what.clone());
                    }
                    lease.note(now.wall, what);
                });
            }
            LeaseInput::QuarantineMachine(machine, quarantine) => {
                self.quarantine_by_operator(&machine, quarantine);
            }
            LeaseInput::ClearQuarantine(machine) => self.clear_quarantine(&machine),
            LeaseInput::ClearAutomaticQuarantines(machines) => {
                for machine in machines {
                    self.clear_automatic_quarantine(machine);
                }
            }
            LeaseInput::TimePassed => self.time_passed(),
            LeaseInput::ClockJumped => self.clock_jumped(),
        }
        Ok(self.changes)
    }

    fn activate(&mut self, id: LeaseId) {
        self.change_lease(id, |lease, now| {
            lease.state = LeaseState::Active;
            lease.active_at = Some(now.wall);
            lease.time_left.lease = lease.ttl;
            lease.time_left.total = lease.max_total;
            lease.warned = false;
            lease.setback = None;
            lease.note(now.wall, "active");
        });
    }

    fn prepare_finished(&mut self, id: LeaseId, outcome: Result<(), Failure>) {
        let Some(open) = self.table.leases.get(&id) else { return };
        if open.lease.state != LeaseState::Preparing {
            return;
        }
        let Err(failure) = outcome else {
            self.step_succeeded(id, LeaseStep::Preparation);
            return self.activate(id);
        };
        if failure.kind == FailureKind::MachineGone {
            return self.machine_gone(id);
        }
        let may_queue_again =
            open.lease.queue_for.is_some() && !open.lease.time_left.queue.is_zero();
        // A lease that is not queued again keeps its machine until its release is done. So only a
        // lease that is queued again leaves its machine here: a recovery must not compete with the
        // release.
        let left = open.lease.machine.as_ref().map(MachineKey::from_identity);
        let left = left.filter(|_| may_queue_again);
        let mut retry_at = None;
        match failure.origin() {
            FaultOrigin::Machine => {
                self.quarantine_machine(id, &format!("its preparation failed: {}", failure.detail));
            }
            FaultOrigin::Person if may_queue_again => self.give_back(id),
            FaultOrigin::Person => {}
            FaultOrigin::Host | FaultOrigin::Account | FaultOrigin::Licence => {
                let pause = self.meet_host_fault(id, LeaseStep::Preparation, &failure);
                if may_queue_again {
                    self.give_back(id);
                    retry_at = Some(self.now.elapsed.saturating_add(pause));
                }
            }
        }
        if let Some(machine) = left {
            self.machine_left(id, &machine);
        }
        if retry_at.is_some() {
            self.set_retry(id, retry_at);
        }
        if may_queue_again {
            return self.queue_again(id, &failure);
        }
        self.fail_preparation(id, failure);
    }

    /// Queues a lease again after its preparation failed. The lease keeps its old place in the
    /// order of arrival.
    fn queue_again(&mut self, id: LeaseId, failure: &Failure) {
        self.change_lease(id, |lease, now| {
            let machine = lease.machine_name.take().unwrap_or_default();
            let next = match failure.origin() {
                FaultOrigin::Machine => "waiting for another",
                _ => "to be tried again",
            };
            let code = failure.kind.code();
            lease.note(now.wall, format!("{machine} could not be prepared ({code}); {next}"));
            let warning = format!("{machine} could not be prepared: {}", failure.detail);
            // Add each warning only once, because the preparation may be tried again and again.
            if !lease.warnings.contains(&warning) {
                lease.warn(warning);
            }
            lease.state = LeaseState::Queued;
            (lease.machine, lease.fence, lease.job) = (None, None, None);
        });
        // Count this as a poll of the lease, because no client had to poll the lease during its
        // preparation.
        let now = self.now;
        self.table.record_poll(id, now);
    }

    fn fail_preparation(&mut self, id: LeaseId, failure: Failure) {
        self.change_lease(id, |lease, _| lease.error = Some(failure.clone()));
        self.end(id, EndReason::PrepareFailed, "otter".to_owned(), Some(failure.detail));
    }

    fn release_finished(&mut self, id: LeaseId, outcome: Result<(), Failure>) {
        let Some(open) = self.table.leases.get(&id) else { return };
        if open.lease.state != LeaseState::Releasing {
            return;
        }
        let outcome = outcome.map_err(|failure| (failure.origin(), failure));
        match outcome {
            Ok(()) => self.step_succeeded(id, LeaseStep::Release),
            Err((FaultOrigin::Host | FaultOrigin::Account | FaultOrigin::Licence, failure)) => {
                return self.release_again(id, &failure);
            }
            Err((FaultOrigin::Person, failure)) => {
                self.give_back(id);
                self.change_lease(id, |lease, now| {
                    lease.warn(format!("The release did not finish: {}", failure.detail));
                    lease.note(now.wall, "release cancelled; the machine is released without it");
                });
            }
            Err((FaultOrigin::Machine, failure)) => {
                self.quarantine_machine(id, &format!("its release failed: {}", failure.detail));
                self.change_lease(id, |lease, now| {
                    lease.warn(format!(
                        "The release failed, and the machine is quarantined: {}",
                        failure.detail
                    ));
                    lease.note(now.wall, "release failed; the machine is quarantined");
                });
            }
        }
        self.finish(id);
    }

    fn end(&mut self, id: LeaseId, reason: EndReason, by: String, detail: Option<String>) {
        let Some(open) = self.table.leases.get(&id) else { return };
        let state = open.lease.state;
        if matches!(state, LeaseState::Releasing) || state.is_end() {
            return;
        }
        self.change_lease(id, |lease, now| {
            lease.note(now.wall, format!("{} by {by}", reason.as_str()));
            lease.end = Some(LeaseEnd { reason, by, at: now.wall, detail });
            lease.state = LeaseState::Releasing;
            lease.setback = None;
        });
        if state == LeaseState::Queued || reason == EndReason::MachineGone {
            self.finish(id);
        } else {
            self.changes.follow_ups.push(FollowUp::Release(id));
        }
    }

    /// Keeps the machine of an active lease whose use failed, for the time `keep_on_failure` of its
    /// request. Returns false if the lease is not active, or if its request does not ask for this.
    fn keep(&mut self, id: LeaseId) -> bool {
        let active =
            self.table.leases.get(&id).filter(|open| open.lease.state == LeaseState::Active);
        let Some(time) = active.and_then(|open| open.lease.keep_on_failure) else { return false };
        self.change_lease(id, |lease, now| {
            if lease.kept_at.is_none() {
                lease.kept_at = Some(now.wall);
                lease.time_left.lease = time.min(lease.time_left.total);
                lease.warned = false;
                lease.note(now.wall, "kept");
            }
        });
        true
    }

    /// Ends the leases whose tokens are no longer in force, but only queued leases. A lease that
    /// holds a machine goes on, because its holder may use the machine without calls to otter.
    fn end_leases_of_invalid_tokens(&mut self, statuses: &BTreeMap<TokenId, TokenStatus>) {
        for (token, status) in statuses {
            let verb = match status {
                TokenStatus::Revoked => "was revoked",
                TokenStatus::Expired => "has expired",
                TokenStatus::Valid => continue,
            };
            for id in self.table.index.of_token(*token) {
                let Some(open) = self.table.get(id) else { continue };
                let detail = format!("The token {} {verb}.", open.lease.requested_by);
                self.end(id, EndReason::Revoked, "otter".to_owned(), Some(detail));
            }
        }
    }

    /// Moves the lease to its end state and removes it from the table.
    fn finish(&mut self, id: LeaseId) {
        let Some(open) = self.table.leases.get(&id) else { return };
        let machine = open.lease.machine.as_ref().map(MachineKey::from_identity);
        let reason = open.lease.end.as_ref().map_or(EndReason::Released, |end| end.reason);
        self.change_lease(id, |lease, now| {
            lease.state = reason.state();
            lease.ended_at = Some(now.wall);
            lease.note(now.wall, lease.state.as_str());
            if lease.error.is_none() && lease.state == LeaseState::Failed {
                lease.error = Some(failure_for(reason, lease));
            }
        });
        self.table.take(id);
        if let Some(machine) = machine {
            self.machine_left(id, &machine);
        }
    }

    fn end_leases_of_absent_machines(&mut self, machines: &[MachineIdentity]) {
        let by_id: HashMap<&MachineId, &MachineIdentity> =
            machines.iter().map(|machine| (&machine.id, machine)).collect();
        // A machine whose configuration the host cannot read at the moment does not count as
        // absent.
        let is_absent = |machine: &MachineIdentity| {
            !by_id.get(&machine.id).is_some_and(|present| machine.can_be(present))
        };
        let holders = self.table.holders().filter(|(_, machine)| is_absent(machine));
        let mut gone: Vec<LeaseId> = holders.map(|(id, _)| id).collect();
        gone.sort_unstable();
        for id in gone {
            self.machine_gone(id);
        }
    }

    /// Records which machines are absent. Deletes the ledgers of the machines that have been absent
    /// for the retention time, unless they are quarantined or leased. Raises the fence floor to the
    /// fences of the deleted ledgers, so that a machine that returns never gets the same fence
    /// twice.
    fn forget_absent_machines(&mut self, machines: &[MachineIdentity]) {
        let present: BTreeSet<MachineKey> =
            machines.iter().map(MachineKey::from_identity).collect();
        let held: BTreeSet<MachineKey> =
            self.table.index.holders().map(|(_, machine)| machine.clone()).collect();
        let (now, retention) = (self.now.wall, self.table.rules.ledger_retention);
        let is_over = |since: Timestamp| {
            Duration::try_from(now.duration_since(since)).is_ok_and(|absent| absent >= retention)
        };
        let keys: Vec<MachineKey> = self.table.ledgers.keys().cloned().collect();
        for key in keys {
            let Some(ledger) = self.table.ledger(&key) else { continue };
            if present.contains(&key) {
                self.change_ledger(&key, |ledger| ledger.absent_since = None);
            } else if !ledger.is_set_aside()
                && !held.contains(&key)
                && ledger.absent_since.is_some_and(is_over)
            {
                self.table.fence_floor = self.table.fence_floor.max(ledger.fence);
                self.changes.fence_floor = Some(self.table.fence_floor);
                self.table.ledgers.remove(&key);
                self.table.host_faults.forget(&key);
                self.table.evaluated = None;
                self.changes.forgotten.push(key);
            } else {
                self.change_ledger(&key, |ledger| {
                    ledger.absent_since = ledger.absent_since.or(Some(now));
                });
            }
        }
    }

    /// Ends a lease without a release, because its machine is no longer on the host.
    fn machine_gone(&mut self, id: LeaseId) {
        let reason =
            "the machine was removed from the host during its lease, so it was not released";
        self.quarantine_machine(id, reason);
        let releasing = self
            .table
            .leases
            .get(&id)
            .is_some_and(|open| open.lease.state == LeaseState::Releasing);
        if !releasing {
            return self.end(id, EndReason::MachineGone, "otter".to_owned(), None);
        }
        self.change_lease(id, |lease, _| {
            let machine = lease.machine_name.as_deref().unwrap_or("the machine");
            lease.warn(format!("{machine} is quarantined: {reason}."));
        });
        self.finish(id);
    }

    fn renew(&mut self, id: LeaseId, ttl: Option<Duration>) -> Result<(), Failure> {
        let open = self.table.leases.get(&id);
        let Some(open) = open.filter(|open| open.lease.state == LeaseState::Active) else {
            let waiting = open.filter(|open| open.lease.state != LeaseState::Releasing);
            return Err(waiting.map_or_else(
                || Failure::new(FailureKind::LeaseEnded, "The lease has ended.").with_lease(id),
                |open| open.lease.not_active_failure(),
            ));
        };
        let left = open.time_left_at(self.now.elapsed);
        // The new time is never shorter than the time that the lease already has.
        let time = ttl.unwrap_or(open.lease.ttl).min(left.total).max(left.lease);
        self.change_lease(id, |lease, now| {
            lease.time_left.lease = time;
            lease.warned = false;
            lease.note(now.wall, format!("renewed: {} left", duration::format(time)));
        });
        Ok(())
    }

    fn time_passed(&mut self) {
        let elapsed = self.now.elapsed;
        let due = self.table.index.due_at(elapsed);
        if self.table.host_faults.time_passed(elapsed) {
            self.table.evaluated = None;
        }
        for id in due {
            let Some(open) = self.table.leases.get(&id) else { continue };
            let is_retried = open.retry_at.is_some_and(|retry_at| retry_at <= elapsed);
            let (left, state) = (open.time_left_at(elapsed), open.lease.state);
            let last_polled = open.clients.last_polled(elapsed);
            let is_abandoned = last_polled + self.table.rules.abandon_after <= elapsed;
            let setback = open.lease.setback.clone();
            if is_retried {
                self.set_retry(id, None);
            }
            let otter = || "otter".to_owned();
            match state {
                LeaseState::Queued if left.queue.is_zero() => match setback {
                    Some(setback) => self.fail_preparation(id, setback.failure),
                    None => self.end(id, EndReason::QueueTimeout, otter(), None),
                },
                LeaseState::Queued if is_abandoned => {
                    self.end(id, EndReason::Abandoned, otter(), None);
                }
                LeaseState::Active if left.lease.is_zero() => {
                    self.end(id, EndReason::Expired, otter(), None);
                }
                LeaseState::Active => {
                    self.change_lease(id, |lease, now| {
                        lease.warned = true;
                        lease.note(now.wall, "ends soon: a fifth of its time is left");
                    });
                    self.changes.follow_ups.push(FollowUp::Warn(id));
                }
                _ => {}
            }
            // The lease goes on, because a client may have polled it since the time for this check
            // was computed. Compute that time again.
            self.table.reschedule(id, self.now);
        }
    }

    fn clock_jumped(&mut self) {
        let timed = self.table.leases.values().filter(|open| open.has_running_time());
        let ids: Vec<LeaseId> = timed.map(|open| open.lease.id).collect();
        for id in ids {
            let Some(lease) = self.with_current_time_left(id) else { continue };
            self.save_lease(id, lease);
        }
    }

    fn job_started(&mut self, id: LeaseId, state: LeaseState, job: JobId) {
        // Ignore a job of an earlier state of the lease: its release may have begun before the
        // start of its preparation could be stored.
        if self.table.leases.get(&id).is_none_or(|open| open.lease.state != state) {
            return;
        }
        self.change_lease(id, |lease, _| lease.job = Some(job));
    }

    /// The times that a lease has left now.
    fn time_left(&self, open: &OpenLease) -> TimeLeft {
        open.time_left_at(self.now.elapsed)
    }

    /// Changes a lease with the function `change`, and computes the times that it has left. If
    /// `change` changes nothing, nothing is saved.
    fn change_lease(&mut self, id: LeaseId, change: impl FnOnce(&mut Lease, Moment)) {
        let Some(before) = self.with_current_time_left(id) else { return };
        let mut lease = before.clone();
        change(&mut lease, self.now);
        if lease != before {
            self.save_lease(id, lease);
        }
    }

    /// A copy of a lease that shows the times that it has left now.
    fn with_current_time_left(&self, id: LeaseId) -> Option<Lease> {
        let open = self.table.leases.get(&id)?;
        let (time_left, measured_at) = (self.time_left(open), self.now.wall);
        Some(Lease { time_left, measured_at, ..Lease::clone(&open.lease) })
    }

    fn save_lease(&mut self, id: LeaseId, lease: Lease) {
        let Some(open) = self.table.get(id) else { return };
        let lease = Arc::new(lease);
        self.changes.leases.insert(id, Arc::clone(&lease));
        let open = OpenLease { lease, measured_elapsed: self.now.elapsed, ..open.clone() };
        self.table.put(open, self.now);
    }

    /// Sets the time before which a queued lease gets no machine.
    fn set_retry(&mut self, id: LeaseId, retry_at: Option<Duration>) {
        if let Some(open) = self.table.get(id).filter(|open| open.retry_at != retry_at) {
            self.table.put(OpenLease { retry_at, ..open.clone() }, self.now);
        }
    }

    /// Changes the ledger of a machine with the function `change`. If `change` changes nothing,
    /// nothing is saved.
    fn change_ledger(&mut self, machine: &MachineKey, change: impl FnOnce(&mut MachineLedger)) {
        let before = self.table.ledger(machine).cloned().unwrap_or_default();
        let mut ledger = before.clone();
        change(&mut ledger);
        if ledger != before {
            self.table.ledgers.insert(machine.clone(), Arc::new(ledger.clone()));
            self.table.evaluated = None;
            self.changes.ledgers.insert(machine.clone(), ledger);
        }
    }
}

fn failure_for(reason: EndReason, lease: &Lease) -> Failure {
    let machine = lease.machine_name.as_deref().unwrap_or("the machine");
    let (kind, detail) = match reason {
        EndReason::QueueTimeout => (
            FailureKind::NoFreeMachine,
            "No matching machine became free before the queue time was over.".to_owned(),
        ),
        EndReason::Abandoned => (
            FailureKind::LeaseFailed,
            "No client polled the queued lease, so it was abandoned.".to_owned(),
        ),
        EndReason::MachineGone => {
            (FailureKind::MachineGone, format!("{machine} was removed from the host."))
        }
        _ => (FailureKind::LeaseFailed, "The lease failed.".to_owned()),
    };
    Failure::new(kind, detail)
}
