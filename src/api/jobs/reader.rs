//! The callers that read jobs, and the texts of screens that not all of them may see.

use axum::extract::FromRequestParts;
use http::request::Parts;

use super::wire;
use crate::api::ApiState;
use crate::api::lease_authorization::valid_lease;
use crate::api::problem::ApiError;
use crate::api::roles::read_caller;
use crate::domain::failure::Failure;
use crate::domain::ids::LeaseId;
use crate::domain::job::Job;
use crate::service::callers::Caller;
use crate::service::jobs::JobView;
use crate::service::jobs::authorization::{LeaseCredential, Requester};

/// A caller that reads jobs, with the lease that it shows.
#[derive(Clone, Debug)]
pub struct JobReader {
    pub caller: Caller,
    /// `None` also if `Otter-Lease` is malformed: to read jobs needs no lease.
    lease: Option<LeaseId>,
}

impl FromRequestParts<ApiState> for JobReader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, ApiError> {
        let caller = read_caller(&parts.extensions)?;
        Ok(Self { caller, lease: valid_lease(api, &parts.headers) })
    }
}

impl JobReader {
    /// The caller that starts a job, as a reader of jobs.
    #[must_use]
    pub fn from_requester(requester: &Requester) -> Self {
        let lease = match requester.credential {
            LeaseCredential::Lease(lease) => Some(lease),
            _ => None,
        };
        Self { caller: requester.caller.clone(), lease }
    }

    /// A job on the wire, as this reader may see it.
    ///
    /// # Errors
    /// The errors of the store.
    pub async fn show(&self, api: &ApiState, view: &JobView) -> Result<wire::Job, Failure> {
        Ok(wire::Job::from_view(view, self.sees_screen(api, &view.job).await?))
    }

    /// Whether the reader may see what the screen showed during a job: who may look at all screens,
    /// the holder of the lease of the job, and the token that created this lease. The machine was
    /// held then, so that it has a public screen now changes nothing.
    async fn sees_screen(&self, api: &ApiState, job: &Job) -> Result<bool, Failure> {
        let Some(lease) = job.lease.filter(|_| job.has_seen_screen()) else { return Ok(false) };
        let services = api.services();
        Ok(services.screens.may_look_at_all(&self.caller)
            || self.lease == Some(lease)
            || services.leases.is_created_by(&self.caller, lease).await?)
    }
}
