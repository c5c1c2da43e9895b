//! Writes audit records to the log, with the target `otter::audit`. Each part of a record is a
//! field of the log line.

use crate::domain::audit::AuditRecord;
use crate::domain::failure::FailureKind;

/// Logs an audit record at the level `info`. Fields that the record lacks are left out.
pub fn log(record: &AuditRecord) {
    let AuditRecord {
        at: _,
        action,
        actor,
        address,
        request_id,
        machine,
        lease,
        job,
        reference,
        outcome,
        code,
        duration,
        detail,
        count,
    } = record;
    let (machine, machine_name) =
        machine.as_ref().map(|(id, name)| (id.to_string(), name.as_str())).unzip();
    tracing::info!(
        target: "otter::audit",
        action = action.as_str(),
        actor = actor.as_deref(),
        address = address.as_deref(),
        request_id = request_id.map(|id| id.to_string()),
        machine,
        machine_name,
        lease = lease.map(|id| id.to_string()),
        job = job.map(|id| id.to_string()),
        reference = reference.as_deref(),
        outcome = outcome.as_str(),
        code = code.map(FailureKind::code),
        duration_ms = duration.map(milliseconds),
        detail = detail.as_deref(),
        count,
    );
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
