//! `PUT` and `DELETE /v1/machines/{machine}/cdrom`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::iso::checked_iso;
use crate::api::ApiState;
use crate::api::extract::{NoFields, Segment};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{
    BLOCKED_BY_QUESTION, MachinePath, NEEDS_DRIVE, Problems, START, StartHeaders,
};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::job::JobRequest;
use crate::domain::machine::Machine;

/// The ISO for the CD drive of a machine.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CdromRequest {
    /// The file, with the name of its datastore. Runners name only files below `files.roots`.
    #[schema(example = "[isos] iso/qubes.iso")]
    iso: String,
}

/// Put an ISO into the CD drive of a machine
///
/// Starts a job. The ISO is in the first drive of the machine from now on, and at each power-on. An
/// ISO that was in the drive is taken out, even if the guest has locked the drive: otter answers
/// the host's question about that with yes. If the drive has the ISO already, the job succeeds with
/// `result.changed` false.
#[utoipa::path(
    put,
    path = "/v1/machines/{machine}/cdrom",
    operation_id = "insert_iso",
    tag = "machines",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    request_body = CdromRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION, NEEDS_DRIVE].concat()))))]
pub async fn insert_iso(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, body, .. }: StartRequest<CdromRequest>,
) -> Result<Response, ApiError> {
    let started = start.run(&api, |start| {
        let machine = start.resolve(&api, &reference)?;
        let iso = checked_iso(&api, start.caller(), "/iso", &body.iso)?;
        require_drive(&machine.machine)?;
        Ok((machine, JobRequest::SetMedia { iso: Some(iso) }))
    });
    Ok(started.await?)
}

/// Take out what is in the CD drive of a machine
///
/// Starts a job. The first drive of the machine is empty from now on. If it is empty already, the
/// job succeeds with `result.changed` false.
#[utoipa::path(
    delete,
    path = "/v1/machines/{machine}/cdrom",
    operation_id = "eject_iso",
    tag = "machines",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION, NEEDS_DRIVE].concat()))))]
pub async fn eject_iso(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, .. }: StartRequest<NoFields>,
) -> Result<Response, ApiError> {
    let started = start.run(&api, |start| {
        let machine = start.resolve(&api, &reference)?;
        require_drive(&machine.machine)?;
        Ok((machine, JobRequest::SetMedia { iso: None }))
    });
    Ok(started.await?)
}

/// Refuses a machine without a CD drive.
///
/// # Errors
/// `no-drive`
fn require_drive(machine: &Machine) -> Result<(), Failure> {
    if machine.cdroms.is_empty() {
        let detail = format!("{} has no CD drive.", machine.name);
        return Err(
            Failure::new(FailureKind::NoDrive, detail).with_machine(&machine.id, &machine.name)
        );
    }
    Ok(())
}
