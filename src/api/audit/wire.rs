//! The audit on the wire.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::audit::AuditRecord;
use crate::storage::AuditEntry as StoredEntry;

/// One fact: who did what, to which object, and how it came out.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Later facts have greater ids.
    #[schema(example = "4711")]
    pub id: String,
    pub at: Timestamp,
    /// What happened.
    #[schema(example = "job.ended", extensions(("x-extensible-enum" = json!([
        "job.accepted", "job.started", "job.cancel_requested", "job.ended", "lease.queued", "lease.granted",
        "lease.active", "lease.renewed", "lease.releasing", "lease.ended", "machine.quarantined",
        "machine.quarantine_cleared", "machine.overridden", "request.refused", "token.created",
        "token.revoked", "token.rotated", "tokens.reloaded", "certificate.reloaded", "password.reloaded",
        "store.restored"]))))]
    pub action: String,
    /// The name of the caller's token; `anonymous` if otter has no tokens, `otter` for what it does
    /// by itself, `otter token` and `otter store` for the commands. Null if a call was refused that
    /// showed no valid token, or before its token was read.
    #[schema(required, example = "ci")]
    pub actor: Option<String>,
    /// The caller's address; `other` for refused calls from more addresses than are counted apart.
    /// Null on a Unix socket and where no request was made.
    #[schema(required, example = "192.0.2.7")]
    pub address: Option<String>,
    /// The `X-Request-Id` of the call.
    #[schema(required)]
    pub request_id: Option<String>,
    /// The machine's id.
    #[schema(required)]
    pub machine: Option<String>,
    #[schema(required)]
    pub machine_name: Option<String>,
    /// The lease's id.
    #[schema(required)]
    pub lease: Option<String>,
    /// The job's id.
    #[schema(required)]
    pub job: Option<String>,
    /// What the caller sent as `Otter-Reference`.
    #[schema(required)]
    pub reference: Option<String>,
    /// The state that the job or lease came to; `done`, `failed` or `refused` for everything else.
    #[schema(example = "succeeded", extensions(("x-extensible-enum" = json!([
        "queued", "running", "succeeded", "failed", "cancelled", "unknown", "preparing", "active",
        "releasing", "released", "expired", "revoked", "done", "refused"]))))]
    pub outcome: String,
    /// The code of the problem, if it is one.
    #[schema(required, example = "forbidden")]
    pub code: Option<String>,
    /// For a job that started or ended, the time since its acceptance; for a lease that was granted
    /// or became active, since it was asked for; for one that is released or ended, since it became
    /// active.
    #[schema(required)]
    pub duration_ms: Option<u64>,
    /// For people: the kind of a job, why a lease ended, the reason of a quarantine.
    #[schema(required, example = "snapshot.revert")]
    pub detail: Option<String>,
    /// How many facts this one stands for. Refused calls of one caller, address and code are
    /// counted for a minute; the other fields are those of the first.
    pub count: u64,
}

/// A page of the audit, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditList {
    pub items: Vec<AuditEntry>,
    /// The cursor of the next page.
    #[schema(required)]
    pub next: Option<String>,
    /// The point in the stream of changes that the list is true at.
    pub version: String,
}

impl AuditEntry {
    /// A fact as callers see it.
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
