//! `POST /v1/machines/{machine}/serial/{port}/input`

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Method, Uri};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PortPath;
use super::wait::SerialWaitResult;
use super::wait_request::{SerialConditionRequest, serial_conditions};
use crate::api::extract::{
    NoParameters, Query, Segments, bounded_list, duration_text, failure_in_body, some_duration_text,
};
use crate::api::lease_authorization::read_authorization;
use crate::api::long_poll::WaitPermit;
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::{ApiError, InputSent};
use crate::api::roles::read_credential;
use crate::api::screens::{InputHeaders, checked};
use crate::api::secret_body::SecretBody;
use crate::api::start_job::{IDEMPOTENT_REPLAYED, read_idempotency_key, read_reference};
use crate::api::{ApiState, links, respond};
use crate::domain::duration;
use crate::domain::failure::Failure;
use crate::domain::input::MAX_TEXT_BYTES;
use crate::service::callers::Caller;
use crate::service::machines::shorten;
use crate::service::screens::input_call::InputTerms;
use crate::service::screens::wait_memory::WaitMemory;
use crate::service::serial::find_port;
use crate::service::serial::input_call::{
    BegunSerialInput, InputOutcome, SerialInput, SerialInputDone, WaitFor,
};
use crate::service::wait_conditions::MAX_CONDITIONS;
use crate::storage::IdempotencyKey;

/// The shortest and the longest time between two bytes that a caller may choose.
const PACES: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(2);

/// Bytes for a serial port. Exactly one of `text` and `base64` is set.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SerialInputRequest {
    /// A text, which is sent as UTF-8. A line of a terminal ends with `\r`. At most 16 KiB.
    #[schema(nullable = false, value_type = Option<String>, example = "user\r")]
    text: Option<SecretString>,
    /// Bytes, in base64. At most 16 KiB.
    #[schema(nullable = false, value_type = Option<String>, example = "Aw==")]
    base64: Option<SecretString>,
    /// The time between two bytes, for guests that lose fast input: `1ms` to `2s`. Default: the
    /// bytes are sent at once.
    #[schema(nullable = false, example = "5ms")]
    #[serde(default, deserialize_with = "some_duration_text")]
    pace: Option<String>,
    /// Waits, after the last byte, for what the port outputs from before the first byte on.
    #[schema(nullable = false)]
    wait_for: Option<WaitForRequest>,
    /// Whether the bytes are secret: recordings of the machine leave out what happens from before
    /// the first byte until 2 s after the last one. No error shows a part of the bytes, and otter
    /// never writes one to its log, its store, its metrics or the audit, in any case. What the port
    /// then outputs is not masked: its log, and `seen` of a problem show it.
    #[serde(default)]
    secret: bool,
}

/// What the call waits for after its last byte.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SerialWaitFor)]
pub struct WaitForRequest {
    /// Waits until the port has output one of these, as `POST …/serial/{port}/wait` does. Note that
    /// a terminal echoes what it gets.
    #[schema(min_items = 1, max_items = 16)]
    #[serde(deserialize_with = "bounded_list::<_, _, MAX_CONDITIONS>")]
    any: Vec<SerialConditionRequest>,
    /// The longest wait.
    #[schema(example = "30s")]
    #[serde(deserialize_with = "duration_text")]
    wait: String,
}

/// The answer of a call that sent all its input.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SerialInputResult {
    /// What the port got.
    pub sent: InputSent,
    /// When the call ended.
    pub finished_at: Timestamp,
    /// The offset of the next byte of the output when the first byte of the input was sent.
    #[schema(example = 4096)]
    pub since: u64,
    /// What `wait_for` found. Null without it.
    #[schema(required)]
    pub found: Option<SerialWaitResult>,
    /// `machine`, and `log`: the output from `since` on.
    pub links: BTreeMap<String, String>,
}

/// Send input to a serial port
///
/// Writes bytes to a serial port, and can wait for the output that follows, in one call. Everything
/// is checked before the first byte.
///
/// A byte that may have been sent is never sent again. After the first byte every failure is 409
/// `input-interrupted`, whose `sent` says what the port got. Power-off, a lost connection, the end
/// of the lease, another writer that takes over, and a client that hangs up interrupt the input.
/// Calls for one port run in the order of their arrival; while a stream writes, they are refused
/// with 409 `serial-busy`.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/serial/{port}/input",
    operation_id = "send_serial_input",
    tag = "serial",
    params(MachinePath, PortPath, InputHeaders),
    request_body = SerialInputRequest,
    responses(
        (status = 200, description = "The port got all of it", body = SerialInputResult),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "request-timeout",
        "payload-too-large", "unsupported-media-type", "idempotency-mismatch", "machine-leased",
        "lease-ended", "lease-not-active", "self-protection", "invalid-power-state",
        "machine-gone", "inventory-loading", "serial-busy", "console-unavailable",
        "too-many-consoles", "not-supported", "queue-full", "too-many-waits", "wait-timeout",
        "shutting-down", "storage-unavailable", "input-interrupted"
    ]))))]
#[expect(clippy::too_many_arguments, reason = "each is an extractor")]
pub async fn send_serial_input(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Segments(reference, port): Segments,
    _: Query<NoParameters>,
    SecretBody { value, bytes }: SecretBody<SerialInputRequest>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let inputs = &api.services().serial_inputs;
    let key = read_idempotency_key(&api, &caller, &method, &uri, &headers, &bytes)?;
    // The fingerprint of other calls is a plain hash.
    let key = key.map(|key| IdempotencyKey { fingerprint: inputs.fingerprint(&bytes), ..key });
    let call_reference = read_reference(&headers)?;
    let limit = api.settings().max_wait;
    let terms = InputTerms {
        requester,
        credential: read_credential(&api, &headers)?,
        reference: call_reference,
        key,
        limit,
    };
    let _permit = WaitPermit::acquire(&api)?;
    let is_costly = value.is_costly();
    // The answer of a repeat does not depend on what would be right now.
    let (result, is_repeat) = match inputs.begin(terms).await? {
        BegunSerialInput::Repeat(result) => (result, true),
        BegunSerialInput::New(new) => {
            let memory = api.services().screen_waits.memory().clone();
            let check = move || value.check(limit, &memory);
            let CheckedInput { bytes, pace, wait_for, is_secret } =
                checked(is_costly, check).await?;
            let machine =
                api.services().machines.resolve(&caller.scope, &reference)?.machine.clone();
            let port = find_port(&machine, &port)?.clone();
            let input = SerialInput { machine, port, bytes, pace, wait_for, is_secret };
            (inputs.run(new, input).await, false)
        }
    };
    let answer =
        result.map(|done| respond::object(&api, &version, &SerialInputResult::from_done(done)));
    // A problem is a response already here, so that it has the header too.
    let mut response = answer.unwrap_or_else(|failure| ApiError(failure).into_response());
    if is_repeat {
        respond::set(&mut response, IDEMPOTENT_REPLAYED, "true");
    }
    Ok(response)
}

impl SerialInputResult {
    fn from_done(done: SerialInputDone) -> Self {
        let SerialInputDone { sent, finished_at, outcome } = done;
        let InputOutcome { machine, port, since, matched } = outcome;
        let path = links::machine(&machine);
        let log = format!("{path}/serial/{port}/log?since={since}");
        Self {
            sent: InputSent::from_sent(sent),
            finished_at,
            since,
            found: matched.map(|found| SerialWaitResult::from_match(found, &machine, port)),
            links: BTreeMap::from([("machine".to_owned(), path), ("log".to_owned(), log)]),
        }
    }
}

/// A request that was checked.
struct CheckedInput {
    bytes: SecretSlice<u8>,
    pace: Option<Duration>,
    wait_for: Option<WaitFor>,
    is_secret: bool,
}

impl SerialInputRequest {
    /// Whether its check takes much time and memory.
    fn is_costly(&self) -> bool {
        let mut conditions = self.wait_for.iter().flat_map(|wait_for| &wait_for.any);
        conditions.any(SerialConditionRequest::is_costly)
    }

    /// Checks a request. No error has a part of the input.
    ///
    /// # Parameters
    /// - `max_wait`: the longest time of a call.
    /// - `memory`: where the regular expressions reserve their memory.
    ///
    /// # Errors
    /// `invalid-request` with the JSON Pointer of the mistake.
    fn check(self, max_wait: Duration, memory: &WaitMemory) -> Result<CheckedInput, Failure> {
        let Self { text, base64, pace, wait_for, secret: is_secret } = self;
        let (at, bytes) = match (text, base64) {
            (Some(text), None) => ("/text", text.expose_secret().as_bytes().to_vec()),
            (None, Some(base64)) => {
                let decoded = BASE64_STANDARD.decode(base64.expose_secret()).map_err(|_| {
                    let detail = "base64 is not base64 with its padding.".to_owned();
                    failure_in_body("/base64", "not-base64", detail)
                })?;
                ("/base64", decoded)
            }
            _ => {
                let detail = "Set exactly one of text and base64.".to_owned();
                return Err(failure_in_body("", "not-one-of", detail));
            }
        };
        let bytes = SecretSlice::from(bytes);
        let length = bytes.expose_secret().len();
        let name = at.trim_start_matches('/');
        if length == 0 {
            return Err(failure_in_body(at, "empty", format!("{name} is empty.")));
        }
        if length > MAX_TEXT_BYTES {
            let detail = format!("{name} has {length} bytes; at most {MAX_TEXT_BYTES}.");
            return Err(failure_in_body(at, "out-of-range", detail));
        }
        let pace = pace.map(|text| parse_pace(&text)).transpose()?;
        let count = u32::try_from(length).unwrap_or(u32::MAX);
        let time = pace.unwrap_or_default().saturating_mul(count);
        let wait_for = wait_for.map(|wait_for| parse_wait_for(wait_for, max_wait, memory));
        let wait_for = wait_for.transpose()?;
        let wait = wait_for.as_ref().map_or(Duration::ZERO, |wait_for| wait_for.wait);
        if time.saturating_add(wait) > max_wait {
            let detail = format!(
                "The call would take longer than http.max_wait, {}: send less, or faster.",
                duration::format(max_wait)
            );
            return Err(failure_in_body(at, "out-of-range", detail));
        }
        Ok(CheckedInput { bytes, pace, wait_for, is_secret })
    }
}

fn parse_pace(text: &str) -> Result<Duration, Failure> {
    let pace = duration::parse_short(text).map_err(|error| {
        failure_in_body("/pace", "not-a-duration", format!("pace is {}: {error}.", shorten(text)))
    })?;
    if !PACES.contains(&pace) {
        let detail = format!("pace is {}; write 1ms to 2s.", shorten(text));
        return Err(failure_in_body("/pace", "out-of-range", detail));
    }
    Ok(pace)
}

fn parse_wait_for(
    request: WaitForRequest,
    max_wait: Duration,
    memory: &WaitMemory,
) -> Result<WaitFor, Failure> {
    let WaitForRequest { any, wait } = request;
    let conditions = serial_conditions("/wait_for/any", any, memory)?;
    let at = "/wait_for/wait";
    let longest = duration::parse_short(&wait).map_err(|error| {
        failure_in_body(at, "not-a-duration", format!("wait is {}: {error}.", shorten(&wait)))
    })?;
    if longest.is_zero() || longest > max_wait {
        let detail = format!(
            "wait is {}; write more than 0, and at most http.max_wait, {}.",
            shorten(&wait),
            duration::format(max_wait)
        );
        return Err(failure_in_body(at, "out-of-range", detail));
    }
    Ok(WaitFor { conditions, wait: longest })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(body: serde_json::Value) -> Result<CheckedInput, (String, String)> {
        let request: SerialInputRequest = serde_json::from_value(body).unwrap();
        request.check(Duration::from_mins(1), &WaitMemory::default()).map_err(|failure| {
            let error = failure.errors.into_iter().next().unwrap();
            (error.pointer.unwrap(), error.code.into_owned())
        })
    }

    #[test]
    fn each_mistake_has_its_pointer() {
        let any = json!([{"text": "# "}]);
        for (body, pointer, code) in [
            (json!({}), "", "not-one-of"),
            (json!({"text": "a", "base64": "YQ=="}), "", "not-one-of"),
            (json!({"text": ""}), "/text", "empty"),
            (json!({"base64": ""}), "/base64", "empty"),
            (json!({"base64": "hunter2"}), "/base64", "not-base64"),
            (json!({"text": "a".repeat(16 * 1024 + 1)}), "/text", "out-of-range"),
            (json!({"text": "a", "pace": "soon"}), "/pace", "not-a-duration"),
            (json!({"text": "a", "pace": "3s"}), "/pace", "out-of-range"),
            (json!({"text": "a".repeat(100), "pace": "1s"}), "/text", "out-of-range"),
            (json!({"text": "a", "wait_for": {"any": [], "wait": "1s"}}), "/wait_for/any", "empty"),
            (
                json!({"text": "a", "wait_for": {"any": any, "wait": "2m"}}),
                "/wait_for/wait",
                "out-of-range",
            ),
            (
                json!({"text": "a", "wait_for": {"any": any, "wait": "0s"}}),
                "/wait_for/wait",
                "out-of-range",
            ),
        ] {
            let shown = body.to_string();
            let error = check(body).err();
            assert_eq!(error, Some((pointer.to_owned(), code.to_owned())), "{shown}");
        }
    }

    #[test]
    fn bytes_are_what_the_caller_wrote() {
        let bytes = |body| check(body).ok().unwrap().bytes.expose_secret().to_vec();
        assert_eq!(bytes(json!({"text": "ä\r"})), "ä\r".as_bytes());
        assert_eq!(bytes(json!({"base64": "AwD/"})), [3, 0, 255]);
    }
}
