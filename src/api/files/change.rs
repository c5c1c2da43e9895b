//! `DELETE /v1/datastores/{datastore}/file` and `POST /v1/datastores/{datastore}/folders`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::content::FileQuery;
use super::{CHANGES, DatastorePathSegment, STARTS, file_path, named_datastore};
use crate::api::ApiState;
use crate::api::extract::{NoFields, Segment, failure_in_body};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{Problems, StartHeaders};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::file_path::FilePath;
use crate::domain::job::JobRequest;
use crate::service::files::rules::Change;
use crate::service::machines::shorten;

/// The folder to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FolderRequest {
    /// The path of the new folder below the top folder of the datastore. Its parent must exist.
    #[schema(example = "iso/linux")]
    path: String,
}

/// Delete a file
///
/// Starts a job that deletes a file or an empty folder below `files.roots`. The files of machines
/// (`.vmdk`, `.vmx`, `.vmsd`, `.vmsn` and `.nvram`), and all in the folder of a machine, are never
/// deleted.
#[utoipa::path(delete, path = "/v1/datastores/{datastore}/file", operation_id = "delete_file",
    tag = "files",
    params(DatastorePathSegment, FileQuery, StartHeaders, StartQuery),
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        CHANGES, STARTS, &["file-in-use", "folder-not-empty"][..]
    ].concat()))))]
pub async fn delete_file(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, query, .. }: StartRequest<NoFields, FileQuery>,
) -> Result<Response, ApiError> {
    let path = file_path("path", query.path.as_deref())?;
    let started = start.run_on_file(&api, |_| {
        let datastore = named_datastore(&api, &reference)?;
        let target = api.services().files.check_change(&datastore, &path, Change::Delete)?;
        Ok((target, JobRequest::DeleteFile))
    });
    Ok(started.await?)
}

/// Create a folder
///
/// Starts a job that creates a folder below `files.roots`. If the folder exists, the job succeeds
/// with `result.changed` false.
#[utoipa::path(post, path = "/v1/datastores/{datastore}/folders", operation_id = "create_folder",
    tag = "files",
    params(DatastorePathSegment, StartHeaders, StartQuery),
    request_body = FolderRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([CHANGES, STARTS, &["file-exists"][..]].concat()))))]
pub async fn create_folder(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, body, .. }: StartRequest<FolderRequest>,
) -> Result<Response, ApiError> {
    let path = FilePath::parse(&body.path).map_err(|error| {
        let detail = format!("The path {} {error}.", shorten(&body.path));
        failure_in_body("/path", "not-a-path", detail)
    })?;
    let started = start.run_on_file(&api, |_| {
        let datastore = named_datastore(&api, &reference)?;
        let files = &api.services().files;
        let target = files.check_change(&datastore, &path, Change::CreateFolder)?;
        Ok((target, JobRequest::CreateFolder))
    });
    Ok(started.await?)
}
