//! The audit on the wire.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::audit::AuditRecord;
use crate::storage::AuditEntry as StoredEntry;

/// An audit entry: who did what to which object, with which outcome.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// The id of the entry. Later entries have greater ids.
    #[schema(example = "4711")]
    pub id: String,
    pub at: Timestamp,
    /// The action that the entry records.
    #[schema(example = "job.ended", extensions(("x-extensible-enum" = json!([
        "job.accepted", "job.started", "job.cancel_requested", "job.ended", "lease.queued",
        "lease.granted", "lease.active", "lease.renewed", "lease.kept", "lease.releasing",
        "lease.ended", "machine.quarantined", "machine.quarantine_cleared", "machine.overridden",
        "screen.input", "screen.driver_started", "screen.driver_ended", "serial.input",
        "serial.writer_started", "serial.writer_ended", "artifact.stored", "artifact.deleted",
        "recording.started", "recording.ended", "request.refused", "token.created",
        "token.revoked", "token.rotated", "tokens.reloaded", "certificate.reloaded",
        "password.reloaded", "configuration.reloaded", "store.restored"
    ]))))]
    pub action: String,
    /// The name of the caller's token; `anonymous` if no token exists, `otter` for otter's own
    /// actions, `otter token` and `otter store` for these commands. Null for a call that otter
    /// refused because its token was not valid, or before it read the token.
    #[schema(required, example = "ci")]
    pub actor: Option<String>,
    /// The IP address of the caller. `other` for refused calls, if there are more addresses than
    /// otter counts separately. Null for a call on a Unix socket, and for an action without a
    /// request.
    #[schema(required, example = "192.0.2.7")]
    pub address: Option<String>,
    /// The `X-Request-Id` of the request that caused the action.
    #[schema(required)]
    pub request_id: Option<String>,
    /// The id of the machine that the action concerns. Null if there is none.
    #[schema(required)]
    pub machine: Option<String>,
    #[schema(required)]
    pub machine_name: Option<String>,
    /// The id of the lease that the action concerns. Null if there is none.
    #[schema(required)]
    pub lease: Option<String>,
    /// The id of the job that the action concerns. Null if there is none.
    #[schema(required)]
    pub job: Option<String>,
    /// The `Otter-Reference` of the request that started the job or requested the lease, or of the
    /// refused request.
    #[schema(required)]
    pub reference: Option<String>,
    /// The new state of the job or lease; `done`, `failed` or `refused` for other actions.
    #[schema(example = "succeeded", extensions(("x-extensible-enum" = json!([
        "queued", "running", "succeeded", "failed", "cancelled", "unknown", "preparing", "active",
        "releasing", "released", "expired", "revoked", "done", "refused"]))))]
    pub outcome: String,
    /// The code of the problem because of which the action failed or was refused. Null if there is
    /// none.
    #[schema(required, example = "forbidden")]
    pub code: Option<String>,
    /// For a job that started or ended: the time since its acceptance. For a lease that was granted
    /// or became active: the time since the request. For a lease that is being released or ended:
    /// the time since it became active.
    #[schema(required)]
    pub duration_ms: Option<u64>,
    /// For people: the kind of the job, the reason why the lease ended, or the reason of the
    /// quarantine.
    #[schema(required, example = "snapshot.revert")]
    pub detail: Option<String>,
    /// The number of events in this entry. otter combines refused calls with the same caller,
    /// address and code for a minute; the other fields are those of the first call.
    pub count: u64,
}

/// A page of the audit, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditList {
    pub items: Vec<AuditEntry>,
    /// The cursor of the next page. Null if this is the last.
    #[schema(required)]
    pub next: Option<String>,
    /// The version at which the list is valid, for `since` of `/v1/events`.
    pub version: String,
}

impl AuditEntry {
    /// The audit entry on the wire.
    #[must_use]
    pub fn from_stored(entry: &StoredEntry) -> Self {
        let StoredEntry { id, record } = entry;
        let AuditRecord {
            at,
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
            machine.as_ref().map(|(id, name)| (id.to_string(), name.clone())).unzip();
        Self {
            id: id.to_string(),
            at: *at,
            action: action.as_str().to_owned(),
            actor: actor.clone(),
            address: address.clone(),
            request_id: request_id.map(|id| id.to_string()),
            machine,
            machine_name,
            lease: lease.map(|id| id.to_string()),
            job: job.map(|id| id.to_string()),
            reference: reference.clone(),
            outcome: outcome.as_str().to_owned(),
            code: code.map(|kind| kind.code().to_owned()),
            duration_ms: duration.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            detail: detail.clone(),
            count: *count,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::audit::{AuditAction, AuditOutcome};

    #[test]
    fn the_document_lists_every_action_and_outcome() {
        let document = crate::api::openapi();
        let listed = |field: &str| {
            let schemas = &document["components"]["schemas"];
            schemas["AuditEntry"]["properties"][field]["x-extensible-enum"].clone()
        };
        let actions: Vec<&str> = AuditAction::ALL.iter().map(|action| action.as_str()).collect();
        let outcomes: Vec<&str> =
            AuditOutcome::ALL.iter().map(|outcome| outcome.as_str()).collect();
        assert_eq!(listed("action"), serde_json::json!(actions));
        assert_eq!(listed("outcome"), serde_json::json!(outcomes));
    }
}
