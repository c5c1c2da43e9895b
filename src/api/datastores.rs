//! `GET /v1/datastores` and `GET /v1/datastores/{datastore}`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::routes;

use super::ApiState;
use super::extract::{NoParameters, Query, Segment};
use super::openapi_parts::Problems;
use super::paging::{self, PageQuery, PagedQuery, SortKey};
use super::problem::ApiError;
use super::respond;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::datastore;
use crate::domain::scope::Scope;
use crate::service::callers::Caller;
use crate::service::datastores;

/// The routes of this file.
pub fn routes() -> Routes {
    Routes::default()
        .role(Role::Viewer, routes!(list_datastores))
        .role(Role::Viewer, routes!(get_datastore))
}

/// A datastore, which holds the files of machines.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Datastore {
    pub id: String,
    #[schema(example = "datastore1")]
    pub name: String,
    /// The type as the host reports it: VMFS, NFS, NFS41, vsan, VFFS, PMEM.
    #[serde(rename = "type")]
    #[schema(example = "VMFS")]
    pub kind: String,
    #[schema(required)]
    pub capacity_bytes: Option<u64>,
    /// The free space of the datastore. Hosts measure it rarely; POST
    /// `/v1/datastores/{datastore}/refresh` makes the host measure it.
    #[schema(required)]
    pub free_bytes: Option<u64>,
    /// When the host measured the free space, by the clock of the host. Null if the host does not
    /// say it.
    #[schema(required)]
    pub free_bytes_at: Option<Timestamp>,
    /// The space by which the thin-provisioned disks on the datastore can still grow.
    #[schema(required)]
    pub uncommitted_bytes: Option<u64>,
    pub accessible: bool,
    #[schema(required)]
    pub url: Option<String>,
    /// The number of machines that have files on the datastore and that the caller can see.
    pub machine_count: u32,
}

/// A page of datastores, sorted by name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DatastoreList {
    pub items: Vec<Datastore>,
    /// The cursor of the next page. Null if this is the last.
    #[schema(required)]
    pub next: Option<String>,
    /// The version at which the list is valid, for `since` of `/v1/events`.
    pub version: String,
}

/// List datastores
///
/// Sorted by name. otter reads the datastores from memory. Default of `limit`: all datastores.
#[utoipa::path(
    get,
    path = "/v1/datastores",
    operation_id = "list_datastores",
    tag = "datastores",
    params(PageQuery),
    responses(
        (status = 200, description = "A page of datastores, sorted by name", body = DatastoreList),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "invalid-cursor", "inventory-loading"
    ]))))]
pub async fn list_datastores(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    PagedQuery { limit, cursors, .. }: PagedQuery<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let contents = api.services().machines.contents()?;
    let page = paging::page(
        &cursors,
        contents.datastores.clone(),
        |datastore| SortKey(datastore.name.to_lowercase(), datastore.id.to_string()),
        limit,
    )?;
    let items: Vec<Datastore> = page
        .items
        .iter()
        .map(|datastore| Datastore::from_domain(&api, &caller.scope, datastore))
        .collect();
    Ok(respond::list(&api, &version, &items, page.next.as_deref()))
}

/// Get a datastore
///
/// otter reads the datastore from memory, without a call to the host.
#[utoipa::path(
    get,
    path = "/v1/datastores/{datastore}",
    operation_id = "get_datastore",
    tag = "datastores",
    params(("datastore" = String, Path, description = "An id, `name:<exact>` or `url:<…>`. The id \
                                                       of an NFS datastore has slashes, which \
                                                       some proxies refuse even as `%2F`: write \
                                                       `%252F`, or use the name. A URL may lack \
                                                       `ds:///vmfs/volumes/` and the last slash")),
    responses(
        (status = 200, description = "The datastore", body = Datastore),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading"
    ]))))]
pub async fn get_datastore(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    _: Query<NoParameters>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let contents = api.services().machines.contents()?;
    let datastore = datastores::resolve(&contents, &reference)?;
    Ok(respond::object(&api, &version, &Datastore::from_domain(&api, &caller.scope, datastore)))
}

impl Datastore {
    /// The datastore on the wire. Its `machine_count` counts only the machines of the scope.
    #[must_use]
    pub fn from_domain(api: &ApiState, scope: &Scope, datastore: &datastore::Datastore) -> Self {
        let visible_machines = api.services().machines.visibility().machine_count(scope, datastore);
        let datastore::Datastore {
            id,
            name,
            kind,
            capacity_bytes,
            free_bytes,
            free_bytes_at,
            uncommitted_bytes,
            accessible,
            url,
            machine_count: _,
        } = datastore;
        Self {
            id: id.to_string(),
            name: name.clone(),
            kind: kind.clone(),
            capacity_bytes: *capacity_bytes,
            free_bytes: *free_bytes,
            free_bytes_at: *free_bytes_at,
            uncommitted_bytes: *uncommitted_bytes,
            accessible: *accessible,
            url: url.clone(),
            machine_count: visible_machines,
        }
    }
}
