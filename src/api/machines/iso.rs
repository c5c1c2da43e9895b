//! The field of a body that names an ISO on a datastore.

use crate::api::ApiState;
use crate::api::extract::failure_in_body;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::file_path::DatastorePath;
use crate::service::callers::Caller;
use crate::service::machines::shorten;

/// The ISO that a field names, as otter writes it.
///
/// # Errors
/// `invalid-request` if the text is no path of a file; `not-found` if the host has no such
/// datastore; `forbidden` if the caller may not put the file into a drive; `inventory-loading`.
pub fn checked_iso(
    api: &ApiState,
    caller: &Caller,
    pointer: &str,
    text: &str,
) -> Result<String, Failure> {
    let field = pointer.trim_start_matches('/').replace('/', ".");
    let place: DatastorePath = text.parse().map_err(|error| {
        let detail = format!("{field} is {}, which {error}.", shorten(text));
        failure_in_body(pointer, "invalid-path", detail)
    })?;
    let Some(path) = &place.path else {
        let detail = format!("{field} is {}, which names no file.", shorten(text));
        return Err(failure_in_body(pointer, "invalid-path", detail));
    };
    let services = api.services();
    let contents = services.machines.contents()?;
    if !contents.datastores.iter().any(|datastore| datastore.name == place.datastore) {
        let detail = format!(
            "{field} is {}; the host has no datastore of this name. List datastores: GET \
             /v1/datastores",
            shorten(text)
        );
        let kind = FailureKind::NotFound;
        return Err(Failure { kind, ..failure_in_body(pointer, "not-found", detail) });
    }
    services.files.may_insert(caller, &place.datastore, path)?;
    Ok(place.to_string())
}
