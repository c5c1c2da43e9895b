//! `GET /v1/machines/find`

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::HeaderName;
use utoipa::IntoParams;

use super::filter;
use super::wire::Machine;
use crate::api::documented::{Problems, READ_MACHINE};
use crate::api::extract::Query;
use crate::api::problem::ApiError;
use crate::api::{Api, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::Caller;
use crate::service::machines::ambiguous;

const OTTER_MATCHES: HeaderName = HeaderName::from_static("otter-matches");

/// Which machine is wanted; all that is said must fit.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters and names them for the strict reader")]
pub struct FindQuery {
    /// Contained in the name, whatever the case.
    #[param(value_type = String, required = false)]
    name: Option<String>,
    /// The address of one of its network cards, in any usual spelling.
    #[param(value_type = String, required = false)]
    mac: Option<String>,
    /// `on`, `off` or `suspended`.
    #[param(value_type = String, required = false)]
    power_state: Option<String>,
    /// Only those that are free, or only those that are not.
    #[param(value_type = bool, required = false)]
    free: Option<bool>,
    /// Only templates, or only others.
    #[param(value_type = bool, required = false)]
    template: Option<bool>,
    /// Only those in this pool.
    #[param(value_type = String, required = false)]
    pool: Option<String>,
    /// Several that fit are a 409. True where nothing is said and `mac` is given: copied machines share addresses.
    #[param(value_type = bool, required = false)]
    unique: Option<bool>,
}

/// Find a machine
///
/// The first in the order of lists; `Otter-Matches` says how many fit. It only looks: to take a free machine that
/// nobody else gets, use a lease.
#[utoipa::path(get, path = "/v1/machines/find", operation_id = "find_machine", tag = "machines", params(FindQuery),
    responses(
        (status = 200, description = "The first machine that fits", body = Machine,
            headers(("Otter-Matches" = u32, description = "How many fit"))),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(READ_MACHINE))))]
pub async fn find_machine(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    query: Query<FindQuery>,
) -> Result<Response, ApiError> {
    let params = query.params;
    let filter = filter(&api, &caller, &params)?;
    let unique = params.boolean("unique")?.unwrap_or(filter.mac.is_some());
    let version = api.services().feed.version();
    let machines = api.services().machines.list(&caller.scope, &filter)?;
    let Some(first) = machines.first() else {
        return Err(
            Failure::new(FailureKind::NotFound, "No machine fits. List them: GET /v1/machines").into()
        );
    };
    if unique && machines.len() > 1 {
        let several: Vec<_> = machines.iter().map(|view| Arc::clone(&view.record)).collect();
        let wanted = params.text("mac").or(params.text("name")).unwrap_or("the same");
        return Err(ambiguous(wanted, &several).into());
    }
    let mut response = respond::object(&api, &version, &Machine::of(first));
    respond::set(&mut response, OTTER_MATCHES, &machines.len().to_string());
    Ok(response)
}
