//! `POST /v1/datastores/{datastore}/refresh`

use axum::Extension;
use axum::extract::State;
use axum::response::Response;

use super::{DatastorePathSegment, READS, named_datastore};
use crate::api::datastores::Datastore;
use crate::api::extract::{JsonBody, NoFields, NoParameters, Query, Segment};
use crate::api::openapi_parts::Problems;
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::service::callers::Caller;

/// Measure the free space of a datastore
///
/// Makes the host measure the free space, which it does rarely by itself, and returns the datastore
/// with the result. The request may be repeated.
#[utoipa::path(post, path = "/v1/datastores/{datastore}/refresh",
    operation_id = "refresh_datastore", tag = "datastores",
    params(DatastorePathSegment),
    responses(
        (status = 200, description = "The datastore", body = Datastore),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        READS, &["request-timeout", "payload-too-large"][..]
    ].concat()))))]
pub async fn refresh_datastore(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    _: Query<NoParameters>,
    _: JsonBody<NoFields>,
) -> Result<Response, ApiError> {
    let datastore = named_datastore(&api, &reference)?;
    api.services().files.measure(&datastore).await?;
    let version = api.services().event_stream.version();
    let measured = named_datastore(&api, &reference)?;
    let shown = Datastore::from_domain(&api, &caller.scope, &measured);
    Ok(respond::object(&api, &version, &shown))
}
