//! `GET /v1/machines/{machine}/properties`: the only read that calls the host.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::api::extract::{Parsed, Query, Segment, failure_at};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::hypervisor::{Capability, HostErrorKind};
use crate::service::callers::Caller;
use crate::service::host_failure::HostFailure;
use crate::service::machines::empty_name;

/// The query parameter with the properties to read.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PropertiesQuery {
    /// A vim25 property path, such as `summary.runtime`. May be repeated.
    #[serde(default)]
    #[param(value_type = Vec<String>, required = true)]
    path: Vec<Parsed<String>>,
}

/// vim25 properties as JSON: an object that maps each path to its value.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the answer")]
pub struct MachineProperties(BTreeMap<String, Value>);

/// Get raw properties of a machine
///
/// Reads vim25 properties from the host. Returns an object that maps each requested path to its
/// value, or to null if the machine does not have the property. Only for operators, because
/// properties can have secrets of the guest.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/properties",
    operation_id = "get_machine_properties",
    tag = "machines",
    params(MachinePath, PropertiesQuery),
    responses(
        (status = 200, description = "The value of each path", body = MachineProperties),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "machine-gone", "forbidden-by-host", "host-unreachable", "host-login-refused",
        "host-protocol", "host-rejected", "not-supported", "too-many-waits"
    ]))))]
pub async fn get_properties(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    Query(PropertiesQuery { path }, _): Query<PropertiesQuery>,
) -> Result<Response, ApiError> {
    let paths: Vec<String> = path.into_iter().map(Parsed::value).collect();
    if paths.is_empty() {
        return Err(empty_name("path").into());
    }
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    let machine = &view.machine;
    let host = api.services().hosts.with_capability(Capability::Properties, machine)?;
    let _place = api.direct_reads().enter().await?;
    let version = api.services().event_stream.version();
    let read = host.properties(&machine.id, &paths).await;
    let properties = read.map_err(|error| match error.kind {
        HostErrorKind::InvalidProperty => {
            let detail =
                format!("The host does not know one of these properties: {}.", paths.join(", "));
            failure_at(FailureKind::InvalidRequest, "path", "unknown-property", detail)
        }
        HostErrorKind::NotFound => {
            Failure::new(FailureKind::MachineGone, "The machine was removed from the host.")
        }
        _ => HostFailure::from(&error).to_failure(),
    });
    let properties =
        properties.map_err(|failure| failure.with_machine(&machine.id, &machine.name))?;
    Ok(respond::object(&api, &version, &properties))
}
