//! The datastore that a caller's reference names, and the failure if it names none or several.

use std::sync::Arc;

use super::inventory::InventoryContents;
use super::machines::{empty_name, shorten};
use crate::domain::datastore::Datastore;
use crate::domain::datastore_reference::DatastoreReference;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::EmptyId;
use crate::domain::names::is_name;

/// The datastore that a path names: an id, `name:<exact>` or `url:<…>`.
///
/// # Errors
/// - `not-found`
/// - `ambiguous-name`, with the candidates
/// - `invalid-request` if the reference is empty
pub fn resolve<'c>(
    contents: &'c InventoryContents,
    reference: &str,
) -> Result<&'c Arc<Datastore>, Failure> {
    let parsed: DatastoreReference =
        reference.parse().map_err(|EmptyId| empty_name("datastore"))?;
    match parsed.matching(contents.datastores.iter()).as_slice() {
        [datastore] => Ok(*datastore),
        [] => Err(Failure::new(FailureKind::NotFound, no_match(contents, &parsed, reference))),
        several => {
            let detail = format!(
                "{} datastores go by {}; name one by its id.",
                several.len(),
                shorten(reference)
            );
            let mut failure = Failure::new(FailureKind::AmbiguousName, detail);
            let candidate =
                |datastore: &&Arc<Datastore>| (datastore.id.to_string(), datastore.name.clone());
            failure.candidates = several.iter().map(candidate).collect();
            Err(failure)
        }
    }
}

/// The text of the failure if a reference names no datastore. A reference without a prefix is an
/// id. If such a reference is the name of a datastore, the text recommends `name:`.
fn no_match(contents: &InventoryContents, parsed: &DatastoreReference, reference: &str) -> String {
    let is_id = matches!(parsed, DatastoreReference::Id(_));
    if is_id && contents.datastores.iter().any(|datastore| is_name(reference, &datastore.name)) {
        let (id, named) = (shorten(reference), shorten(&format!("name:{reference}")));
        return format!("No datastore has the id {id}, but one is called so: write {named}.");
    }
    format!(
        "The datastore {} does not exist. List datastores: GET /v1/datastores",
        shorten(reference)
    )
}
