//! `/v1/datastores/{datastore}/files`, `…/file`, `…/folders` and `…/refresh`.

mod change;
mod content;
mod list;
mod put;
mod refresh;
mod wire;

use std::sync::Arc;

use utoipa::IntoParams;
use utoipa_axum::routes;

use super::ApiState;
use super::extract::failure_at;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::datastore::Datastore;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::file_path::{FilePath, InvalidFilePath};
use crate::service::datastores;
use crate::service::machines::shorten;

/// The codes that all jobs on files, and the calls that start them, have in common.
const CHANGES: &[&str] = &[
    "invalid-request",
    "unknown-parameter",
    "not-found",
    "ambiguous-name",
    "request-timeout",
    "queue-full",
    "inventory-loading",
    "host-unreachable",
    "host-login-refused",
    "host-rejected",
    "forbidden-by-host",
    "license-restricted",
    "not-supported",
    "insufficient-resources",
    "storage-unavailable",
    "shutting-down",
    "too-many-waits",
    "job-cancelled",
    "outcome-unknown",
];

/// The further codes of calls that start a job and may wait for it.
const STARTS: &[&str] = &[
    "payload-too-large",
    "idempotency-mismatch",
    "machine-leased",
    "wait-timeout",
    "job-still-running",
    "deadline-exceeded",
];

/// The codes of operations that read files.
const READS: &[&str] = &[
    "invalid-request",
    "unknown-parameter",
    "not-found",
    "ambiguous-name",
    "inventory-loading",
    "host-unreachable",
    "host-login-refused",
    "host-protocol",
    "host-rejected",
    "forbidden-by-host",
    "not-supported",
];

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Runner, routes!(list::list_files))
        .role(Role::Runner, routes!(content::get_file))
        .upload(Role::Runner, routes!(put::put_file))
        .role(Role::Runner, routes!(change::delete_file))
        .role(Role::Runner, routes!(change::create_folder))
        .role(Role::Runner, routes!(refresh::refresh_datastore))
}

/// The path parameter that names a datastore.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct DatastorePathSegment {
    /// A datastore: its id, `name:<exact>` or `url:<…>`.
    datastore: String,
}

/// The datastore that a path names.
///
/// # Errors
/// As [`datastores::resolve`], and `inventory-loading`.
fn named_datastore(api: &ApiState, reference: &str) -> Result<Arc<Datastore>, Failure> {
    let contents = api.services().machines.contents()?;
    datastores::resolve(&contents, reference).cloned()
}

/// The path of a file in a query or a body, which was decoded once.
///
/// # Parameters
/// - `name`: the name of the parameter.
///
/// # Errors
/// `invalid-request`
fn file_path(name: &'static str, text: Option<&str>) -> Result<FilePath, Failure> {
    FilePath::parse(text.unwrap_or_default()).map_err(|error| no_path(name, text, error))
}

/// The path of a folder. `None` means the top folder.
///
/// # Errors
/// `invalid-request`
fn folder_path(name: &'static str, text: Option<&str>) -> Result<Option<FilePath>, Failure> {
    let folder = FilePath::parse_folder(text.unwrap_or_default());
    folder.map_err(|error| no_path(name, text, error))
}

fn no_path(name: &'static str, text: Option<&str>, error: InvalidFilePath) -> Failure {
    let code = if error == InvalidFilePath::Empty { "empty" } else { "not-a-path" };
    let detail = format!(
        "The path {} {error}. Write it below the top folder of the datastore, such as \
         iso/qubes.iso.",
        shorten(text.unwrap_or_default())
    );
    failure_at(FailureKind::InvalidRequest, name, code, detail)
}
