//! `POST /v1/machines/{machine}/screen/input`

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::input_check::input_list;
use super::input_request::InputRequest;
use super::wait_request::{MAX_BODY, checked};
use crate::api::extract::{NoParameters, Query, Segment};
use crate::api::lease_authorization::read_authorization;
use crate::api::long_poll::WaitPermit;
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::{ApiError, InputSent};
use crate::api::roles::read_credential;
use crate::api::secret_body::SecretBody;
use crate::api::start_job::{IDEMPOTENT_REPLAYED, read_idempotency_key, read_reference};
use crate::api::{ApiState, respond};
use crate::service::callers::Caller;
use crate::service::screens::input_call::{BegunInput, InputDone, InputTerms};
use crate::storage::IdempotencyKey;

/// The headers of the request.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the headers")]
pub struct InputHeaders {
    /// At most 255 characters. A repeat with the same key and body sends nothing: it waits for the
    /// first request and returns its answer (of a problem, all but `seen`), or `input-interrupted`
    /// if otter died in between.
    #[param(rename = "Idempotency-Key", value_type = String, required = false)]
    idempotency_key: Option<String>,
    /// A text of the client, at most 512 characters, for example the URL of a CI run. The audit
    /// record has it.
    #[param(rename = "Otter-Reference", value_type = String, required = false)]
    otter_reference: Option<String>,
    /// `<id>.<secret>` of the lease on the machine.
    #[param(rename = "Otter-Lease", value_type = String, required = false)]
    otter_lease: Option<String>,
    /// The reason why an operator acts on a machine that another caller leases, 1 to 512
    /// characters. otter records it in the audit.
    #[param(rename = "Otter-Override", value_type = String, required = false)]
    otter_override: Option<String>,
}

/// The answer of a call that sent all its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InputResult {
    /// What the machine got.
    pub sent: InputSent,
    /// When the last event was done.
    pub finished_at: Timestamp,
}

/// Type and click
///
/// Sends keys, texts and movements of the pointer to a machine, in the order of `events`, and waits
/// for conditions in between. Everything is checked before the first key. Returns when the last
/// event was sent: at most after `http.max_wait`. Needs the right to change the machine; no
/// caller types on a protected machine.
///
/// A key that may have been typed is never typed again. After the first key every failure is 409
/// `input-interrupted`, whose `sent` says what the machine got. Power-off, suspend, revert, reset,
/// the end of the lease or of the token, and a client that hangs up interrupt the input; keys that
/// are held then are released. Calls for one machine run in the order of their arrival.
///
/// At the end of a call, keys that `hold` still holds are released.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/screen/input",
    operation_id = "send_screen_input",
    tag = "screens",
    params(MachinePath, InputHeaders),
    request_body = InputRequest,
    responses(
        (status = 200, description = "The machine got all of it", body = InputResult),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "request-timeout",
        "payload-too-large", "unsupported-media-type", "idempotency-mismatch", "machine-leased",
        "lease-ended", "lease-not-active", "self-protection", "invalid-power-state",
        "machine-gone", "inventory-loading", "host-unreachable", "host-login-refused",
        "console-unavailable", "too-many-consoles", "not-supported", "queue-full",
        "too-many-waits", "wait-timeout", "shutting-down", "storage-unavailable",
        "input-interrupted"
    ]))))]
#[expect(clippy::too_many_arguments, reason = "each is an extractor")]
pub async fn send_screen_input(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Segment(reference): Segment,
    _: Query<NoParameters>,
    SecretBody { value, bytes }: SecretBody<InputRequest, MAX_BODY>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let inputs = &api.services().inputs;
    let key = read_idempotency_key(&api, &caller, &method, &uri, &headers, &bytes)?;
    // The fingerprint of other calls is a plain hash.
    let key = key.map(|key| IdempotencyKey { fingerprint: inputs.fingerprint(&bytes), ..key });
    let limit = api.settings().max_wait;
    let terms = InputTerms {
        requester,
        credential: read_credential(&api, &headers)?,
        reference: read_reference(&headers)?,
        key,
        limit,
    };
    let _permit = WaitPermit::acquire(&api)?;
    // The answer of a repeat does not depend on what would be right now.
    let (result, is_repeat) = match inputs.begin(terms).await? {
        BegunInput::Repeat(result) => (result, true),
        BegunInput::New(new) => {
            let is_costly = value.is_costly();
            let memory = api.services().screen_waits.memory().clone();
            let list = checked(is_costly, move || input_list(value, limit, memory)).await?;
            let view = api.services().machines.resolve(&caller.scope, &reference)?;
            (inputs.run(new, Arc::clone(&view.machine), list).await, false)
        }
    };
    let answer = result.map(|InputDone { sent, finished_at }| {
        let result = InputResult { sent: InputSent::from_sent(sent), finished_at };
        respond::object(&api, &version, &result)
    });
    // A problem is a response already here, so that it has the header too.
    let mut response = answer.unwrap_or_else(|failure| ApiError(failure).into_response());
    if is_repeat {
        respond::set(&mut response, IDEMPOTENT_REPLAYED, "true");
    }
    Ok(response)
}
