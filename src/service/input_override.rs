//! The record that an operator sends input to a machine that another caller leases: in the audit,
//! and in the history of the lease.

use jiff::Timestamp;

use super::audit::Audit;
use super::jobs::authorization::{Authorization, Requester};
use super::leases::Leases;
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::machine::Machine;

/// Records the override, if the right of the caller is one.
///
/// # Parameters
/// - `action`: what the operator does.
/// - `authorization`: the right by which it does it.
pub async fn record_override(
    audit: &Audit,
    leases: &Leases,
    now: Timestamp,
    machine: &Machine,
    requester: &Requester,
    authorization: Authorization,
    action: AuditAction,
) {
    let (Authorization::Override(holder), Some(reason)) =
        (authorization, &requester.override_reason)
    else {
        return;
    };
    let record = AuditRecord::new(now, AuditAction::MachineOverridden, AuditOutcome::Done)
        .with_actor(&requester.caller.actor())
        .with_detail(format!("{}: {reason}", action.as_str()));
    audit.record(AuditRecord {
        machine: Some((machine.id.clone(), machine.name.clone())),
        lease: Some(holder),
        ..record
    });
    leases.record_override(machine, &requester.caller.name, reason).await;
}
