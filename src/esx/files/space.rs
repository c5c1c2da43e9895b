//! Measures the free space of a datastore. Hosts measure it rarely by themselves.

use crate::domain::ids::DatastoreId;
use crate::esx::calls::send_authenticated;
use crate::esx::connections::Lane;
use crate::esx::property_reader::{first_value, read_object};
use crate::esx::session::Session;
use crate::esx::soap::property::{boolean, number};
use crate::esx::soap::{Reference, request};
use crate::hypervisor::{CallError, DatastoreSpace, HostError};

/// Calls `RefreshDatastore` and reads the result.
///
/// # Errors
/// As [`DatastoreFiles::measure`](crate::hypervisor::DatastoreFiles::measure).
pub async fn measure(
    session: &Session,
    datastore: &DatastoreId,
) -> Result<DatastoreSpace, HostError> {
    let object = Reference::new("Datastore", datastore.backend_text());
    let build = || request::without_parameters("RefreshDatastore", &object, None);
    let prefix = format!("The host refused to measure the datastore {datastore}");
    match send_authenticated(session, build, &prefix, Lane::Ordinary.into()).await {
        Ok(_) => {}
        Err(CallError::Refused(error) | CallError::Lost(error)) => return Err(error),
    }
    let name = format!("datastore {datastore}");
    let contents = read_object(session, &object, &["summary"], &name).await?;
    let summary = first_value(&contents, "summary");
    let child = |name| summary.and_then(|summary| summary.child(name));
    Ok(DatastoreSpace {
        accessible: child("accessible").and_then(boolean) == Some(true),
        free_bytes: child("freeSpace").and_then(number),
    })
}
