//! Selects the responses that are refusals, and records them in the audit.

use http::{HeaderMap, StatusCode};

use crate::api::problem::status;
use crate::api::start_job::read_reference;
use crate::domain::failure::Failure;
use crate::domain::origin::RequestOrigin;
use crate::service::audit::{Audit, Refusal};
use crate::service::callers::Caller;

/// The parts of a request that the audit records if the request is refused.
pub struct AuditedRequest {
    origin: RequestOrigin,
    reference: Option<String>,
}

impl AuditedRequest {
    /// Reads the parts of a request that the audit records. Ignores a malformed `Otter-Reference`.
    #[must_use]
    pub fn new(origin: RequestOrigin, headers: &HeaderMap) -> Self {
        Self { origin, reference: read_reference(headers).ok().flatten() }
    }

    /// Records a failure in the audit if it is a refusal: the token, the role or the lease of the
    /// caller was insufficient, or the caller has reached a limit.
    pub fn audit(
        &self,
        audit: &Audit,
        operation: &str,
        caller: Option<&Caller>,
        failure: &Failure,
    ) {
        // Do not record the failure of a job, because the end of the job is already in the audit.
        if failure.job.is_some() || !is_refusal(status(failure.kind)) {
            return;
        }
        audit.refused(&Refusal {
            actor: caller.map(|caller| &*caller.name),
            origin: self.origin,
            operation,
            reference: self.reference.as_deref(),
            failure,
        });
    }
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::LOCKED
            | StatusCode::TOO_MANY_REQUESTS
    )
}
