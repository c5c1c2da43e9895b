//! Which answers are refusals, and what the audit records of them.

use http::{HeaderMap, StatusCode};

use crate::api::problem::status;
use crate::api::start_job::read_reference;
use crate::domain::failure::Failure;
use crate::domain::origin::RequestOrigin;
use crate::service::audit::{Audit, Refusal};
use crate::service::callers::Caller;

/// The parts of a request that a refusal is audited with, kept while the request is answered.
pub struct AuditedRequest {
    origin: RequestOrigin,
    reference: Option<String>,
}

impl AuditedRequest {
    /// Reads them. A malformed `Otter-Reference` counts as none.
    #[must_use]
    pub fn new(origin: RequestOrigin, headers: &HeaderMap) -> Self {
        Self { origin, reference: read_reference(headers).ok().flatten() }
    }

    /// Audits the answer if it refuses the call because a token, a right, a lease or a place is
    /// missing.
    pub fn audit(
        &self,
        audit: &Audit,
        operation: &str,
        caller: Option<&Caller>,
        failure: &Failure,
    ) {
        // This problem comes from a job that ended, and the job's end is audited already.
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
