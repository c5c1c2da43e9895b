//! `GET /v1/datastores/{datastore}/files`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::{DatastoreFile, FileList};
use super::{DatastorePathSegment, READS, folder_path, named_datastore};
use crate::api::extract::Segment;
use crate::api::openapi_parts::Problems;
use crate::api::paging::{self, PageQuery, PagedQuery, SortKey};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::file_path::FilePath;
use crate::service::callers::Caller;

/// The query parameter that names a folder.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FolderQuery {
    /// The path of the folder below the top folder of the datastore, such as `iso/linux`. Default:
    /// the top folder.
    #[param(example = "iso")]
    path: Option<String>,
}

/// List the files of a folder
///
/// Sorted by name, in pages of `limit` (default: all files). otter reads the folder from the host,
/// and keeps the list for five seconds. Runners list only folders below `files.roots`. The host
/// lists the descriptor and the data of a disk as one file, and does not list hidden files.
#[utoipa::path(get, path = "/v1/datastores/{datastore}/files", operation_id = "list_files",
    tag = "files",
    params(DatastorePathSegment, FolderQuery, PageQuery),
    responses(
        (status = 200, description = "A page of files", body = FileList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([READS, &["invalid-cursor"][..]].concat()))))]
pub async fn list_files(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    PagedQuery { filter, limit, cursors }: PagedQuery<FolderQuery>,
) -> Result<Response, ApiError> {
    let folder = folder_path("path", filter.path.as_deref())?;
    let version = api.services().event_stream.version();
    let datastore = named_datastore(&api, &reference)?;
    let entries = api.services().files.list(&caller, &datastore, folder.as_ref()).await?;
    let items: Vec<DatastoreFile> = entries.iter().map(DatastoreFile::from_domain).collect();
    let key = |file: &DatastoreFile| SortKey(file.name.clone(), String::new());
    let page = paging::page(&cursors, items, key, limit)?;
    let list = FileList {
        path: folder.as_ref().map(FilePath::to_string).unwrap_or_default(),
        items: page.items,
        next: page.next,
        version: version.to_string(),
    };
    Ok(respond::object(&api, &version, &list))
}
