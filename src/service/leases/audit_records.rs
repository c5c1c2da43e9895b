//! The audit records of a transition of the lease table: one for each new state of a lease, and one
//! for each change of a quarantine. They are made from the table before the transition and from the
//! changes. Pure.

use jiff::Timestamp;

use super::lease_table::{LeaseTable, MachineKey, TableChanges};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord, between};
use crate::domain::duration;
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{Lease, LeaseEnd, LeaseState, Quarantine};
use crate::domain::origin::{Actor, RequestOrigin};

/// Who or what caused a transition.
#[derive(Clone, Copy, Debug)]
pub struct Cause<'a> {
    /// Who submitted the command that caused the transition. If time or the host caused it, the
    /// actor is otter.
    pub actor: &'a Actor,
    /// The lease that the command renews. `None` if the command renews no lease.
    pub renews: Option<LeaseId>,
}

/// The audit records of a transition that is committed now, in their order in the audit.
///
/// # Parameters
/// - `machine_of`: returns the id and the name of a machine of the host.
pub fn for_transition(
    before: &LeaseTable,
    changes: &TableChanges,
    cause: Cause<'_>,
    now: Timestamp,
    machine_of: impl Fn(&MachineKey) -> Option<(MachineId, String)>,
) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    for (id, lease) in &changes.leases {
        let was = before.get(*id).map(|open| &*open.lease);
        transitions(was, lease, cause, now, &mut records);
    }
    for (key, ledger) in &changes.ledgers {
        let was = before.ledger(key).and_then(|ledger| ledger.quarantine.as_ref());
        if was == ledger.quarantine.as_ref() {
            continue;
        }
        // For a machine that is absent from the host, take the id and the name from the lease that
        // holds the machine.
        let lease = changes.leases.values().find(|lease| machine_key(lease).as_ref() == Some(key));
        let record = match &ledger.quarantine {
            Some(quarantine) => quarantined(quarantine, cause, now),
            None => AuditRecord::new(now, AuditAction::QuarantineCleared, AuditOutcome::Done)
                .with_actor(cause.actor),
        };
        let record = match lease {
            Some(lease) => record.with_lease(lease),
            None => record,
        };
        let machine = machine_of(key).or_else(|| {
            // A lease that is queued again no longer has its machine, so look at the lease as it
            // was before the transition.
            let held = changes.leases.keys().filter_map(|id| before.get(*id));
            let held = held
                .map(|open| &*open.lease)
                .find(|lease| machine_key(lease).as_ref() == Some(key));
            held.and_then(|lease| {
                Some((lease.machine.as_ref()?.id.clone(), lease.machine_name.clone()?))
            })
        });
        records.push(AuditRecord { machine: machine.or(record.machine.clone()), ..record });
    }
    records
}

fn transitions(
    was: Option<&Lease>,
    lease: &Lease,
    cause: Cause<'_>,
    now: Timestamp,
    records: &mut Vec<AuditRecord>,
) {
    let state_before = was.map(|was| was.state);
    let requester = Actor { name: lease.requested_by.clone(), origin: lease.origin };
    let record_of = |action, outcome: AuditOutcome, actor: &Actor| {
        AuditRecord::new(now, action, outcome).with_actor(actor).with_lease(lease)
    };
    let since_request = Some(between(lease.created_at, now));
    if was.is_none() {
        let record = record_of(AuditAction::LeaseQueued, AuditOutcome::Queued, &requester);
        // This record must not name a machine. The lease has one already if the same transition
        // granted it.
        let record = AuditRecord { machine: None, ..record };
        records.push(record.with_detail(format!("for {}", lease.holder)));
    }
    if lease.grants > was.map_or(0, |was| was.grants) {
        let record = record_of(AuditAction::LeaseGranted, AuditOutcome::Preparing, &requester);
        let fence = lease.fence.unwrap_or_default();
        records.push(
            AuditRecord { duration: since_request, ..record }.with_detail(format!("fence {fence}")),
        );
    }
    if lease.state == LeaseState::Active && state_before != Some(LeaseState::Active) {
        let record = record_of(AuditAction::LeaseActive, AuditOutcome::Active, &requester);
        let detail = format!("for {}", duration::format(lease.ttl));
        records.push(AuditRecord { duration: since_request, ..record }.with_detail(detail));
    }
    if state_before == Some(LeaseState::Preparing) && lease.state == LeaseState::Queued {
        let record = record_of(AuditAction::LeaseQueued, AuditOutcome::Queued, &Actor::otter());
        records.push(
            record.with_detail("its machine could not be prepared; it is queued for another one"),
        );
    }
    if cause.renews == Some(lease.id) && lease.state == LeaseState::Active {
        let record = record_of(AuditAction::LeaseRenewed, AuditOutcome::Active, cause.actor);
        records
            .push(record.with_detail(format!("{} left", duration::format(lease.time_left.lease))));
    }
    if lease.kept_at.is_some() && was.is_some_and(|was| was.kept_at.is_none()) {
        let record = record_of(AuditAction::LeaseKept, AuditOutcome::Active, cause.actor);
        records
            .push(record.with_detail(format!("{} left", duration::format(lease.time_left.lease))));
    }
    let ends_now = was.is_none_or(|was| was.end.is_none());
    let Some(end) = &lease.end else { return };
    let ended_by = Actor { name: end.by.clone(), origin: origin_of(&end.by, cause) };
    let held = lease.active_at.map(|active_at| between(active_at, now));
    let with_end = |record: AuditRecord| {
        let record = AuditRecord { duration: held, ..record.with_detail(end_detail(end)) };
        record.with_failure(lease.error.as_ref())
    };
    if ends_now && state_before.is_some_and(LeaseState::holds_machine) {
        records.push(with_end(record_of(
            AuditAction::LeaseReleasing,
            AuditOutcome::Releasing,
            &ended_by,
        )));
    }
    if lease.state.is_end() {
        records.push(with_end(record_of(AuditAction::LeaseEnded, lease.state.into(), &ended_by)));
    }
}

fn quarantined(quarantine: &Quarantine, cause: Cause<'_>, now: Timestamp) -> AuditRecord {
    let Quarantine { reason, by, since: _, automatic: _, job } = quarantine;
    let actor = Actor { name: by.clone(), origin: origin_of(by, cause) };
    let record = AuditRecord::new(now, AuditAction::MachineQuarantined, AuditOutcome::Done);
    AuditRecord { job: *job, ..record }.with_actor(&actor).with_detail(reason.clone())
}

/// The origin of the request if the actor with this name caused the transition. Otherwise the
/// default origin.
fn origin_of(name: &str, cause: Cause<'_>) -> RequestOrigin {
    if cause.actor.name == name { cause.actor.origin } else { RequestOrigin::default() }
}

fn end_detail(end: &LeaseEnd) -> String {
    match &end.detail {
        Some(detail) => format!("{}: {detail}", end.reason.as_str()),
        None => end.reason.as_str().to_owned(),
    }
}

fn machine_key(lease: &Lease) -> Option<MachineKey> {
    lease.machine.as_ref().map(MachineKey::from_identity)
}
