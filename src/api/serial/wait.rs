//! `POST /v1/machines/{machine}/serial/{port}/wait`

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::since::{in_body, pointed_at};
use super::wait_request::{SerialConditionRequest, SerialWaitRequest, serial_conditions};
use super::{PortPath, check_may_look};
use crate::api::condition_fields::in_words;
use crate::api::extract::{JsonBody, Parsed, Query, Segments};
use crate::api::lease_authorization::read_authorization;
use crate::api::long_poll::{WaitEnd, WaitMode, WaitPermit};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::screens::{LookHeaders, checked};
use crate::api::{ApiState, links, respond};
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::MachineId;
use crate::domain::machine::{Machine, SerialPort};
use crate::service::callers::Caller;
use crate::service::jobs::authorization::Requester;
use crate::service::machines::shorten;
use crate::service::serial::conditions::{SerialCondition, SerialConditions, SerialMatch, Subject};
use crate::service::serial::wait::SerialWaitTerms;
use crate::service::serial::{ReadFrom, find_port};

/// The longest time for the search in what is kept.
const SEARCH_LIMIT: Duration = Duration::from_secs(40);

/// The time limit.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SerialWaitQuery {
    /// The longest time that this call waits: `30s`, `10m`. At most `http.max_wait`. Without it,
    /// what otter keeps from `since` on is searched once.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
}

/// The end of a wait whose condition holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SerialWaitResult {
    pub matched: SerialMatched,
    /// The offset of the first byte that matches.
    #[schema(example = 4096)]
    pub offset: u64,
    /// The offset after the last byte that matches: the `since` of the next wait.
    #[schema(example = 4103)]
    pub next_offset: u64,
    /// `machine`, and `log`: the output from the match on.
    pub links: BTreeMap<String, String>,
}

/// The condition that holds, and what it found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SerialMatched {
    /// The position of the condition in `any`, from 0.
    #[schema(example = 0)]
    pub index: u32,
    /// The name that the request gave the condition.
    #[schema(required, example = "login")]
    pub name: Option<String>,
    /// The bytes that match, as UTF-8.
    #[schema(example = "login: ")]
    pub text: String,
    /// What each group of the regular expression matched; null for a group that took no part.
    /// Empty for a text.
    pub captures: Vec<Option<String>>,
}

/// Wait for the output of a serial port
///
/// Waits until the port has output a text or a match of a regular expression, and returns it with
/// its offsets. The match that ends first counts. Changes nothing, and may be repeated with
/// `since`: the `next_offset` of one wait is the `since` of the next, so that nothing is missed in
/// between.
///
/// 504 `wait-timeout` if the time is up first: `seen` has the last output. 409 at once if the
/// machine is not on and no job works on it.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/serial/{port}/wait",
    operation_id = "wait_for_serial",
    tag = "serial",
    params(MachinePath, PortPath, SerialWaitQuery, LookHeaders),
    request_body = SerialWaitRequest,
    responses(
        (status = 200, description = "The condition that holds", body = SerialWaitResult),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "request-timeout",
        "payload-too-large", "unsupported-media-type", "machine-leased", "invalid-power-state",
        "machine-gone", "inventory-loading", "too-many-consoles", "not-supported",
        "offset-out-of-range", "too-many-waits", "wait-timeout", "shutting-down"
    ]))))]
pub async fn wait_for_serial(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Segments(reference, port): Segments,
    Query(query, _): Query<SerialWaitQuery>,
    JsonBody { value, .. }: JsonBody<SerialWaitRequest>,
) -> Result<Response, ApiError> {
    let version = api.services().event_stream.version();
    let requester = read_authorization(&api, &caller, &headers)?;
    let SerialWaitRequest { any, since } = value;
    let memory = api.services().screen_waits.memory().clone();
    let is_costly = any.iter().any(SerialConditionRequest::is_costly);
    let conditions = checked(is_costly, move || serial_conditions("/any", any, &memory)).await?;
    let longest = api.settings().max_wait;
    let time = query.wait.map(|Parsed(wait)| wait.min(longest));
    let view = api.services().machines.resolve(&caller.scope, &reference)?;
    let machine = &view.machine;
    let port = find_port(machine, &port)?;
    let call = SerialCall { api: &api, requester: &requester, machine, port };
    let found = call.run(&conditions, in_body(since), time).await;
    let answered = found.map(|found| {
        let result = SerialWaitResult::from_match(found, &machine.id, port.key);
        respond::object(&api, &version, &result)
    });
    let mut response =
        answered.unwrap_or_else(|failure| ApiError(pointed_at(failure)).into_response());
    if let Some(time) = time {
        WaitMode::Outcome(time).set_headers(&mut response);
    }
    Ok(response)
}

/// A call that waits for a serial port.
pub struct SerialCall<'a> {
    pub api: &'a ApiState,
    pub requester: &'a Requester,
    pub machine: &'a Machine,
    pub port: &'a SerialPort,
}

impl SerialCall<'_> {
    /// Checks the right, and waits until one of the conditions holds.
    ///
    /// # Parameters
    /// - `time`: the longest wait. `None` to search what is kept once.
    ///
    /// # Errors
    /// As for the operation.
    pub async fn run(
        &self,
        conditions: &SerialConditions,
        since: ReadFrom,
        time: Option<Duration>,
    ) -> Result<SerialMatch, Failure> {
        let Self { api, requester, machine, port } = *self;
        let services = api.services();
        let may_look = |machine: &Machine| check_may_look(api, requester, machine);
        let has_job = |machine: &Machine| {
            let view = services.machines.get(&machine.id);
            view.is_some_and(|view| view.active_job.is_some())
        };
        may_look(machine)?;
        let terms = SerialWaitTerms {
            conditions,
            since,
            limit: time,
            may_look: &may_look,
            has_job: &has_job,
        };
        let work = services.serial.wait(machine, port, &terms);
        let limit = SEARCH_LIMIT.saturating_add(time.unwrap_or_default());
        let is_time_up = match WaitPermit::acquire(api)?.wait(api, limit, work).await {
            WaitEnd::Done(Err(failure)) if failure.kind == FailureKind::WaitTimeout => true,
            WaitEnd::TimeUp => true,
            WaitEnd::Done(done) => return done,
            WaitEnd::ShuttingDown => false,
        };
        if !is_time_up {
            let detail = "otter is shutting down; wait again when it is back.";
            return Err(Failure::new(FailureKind::ShuttingDown, detail)
                .with_machine(&machine.id, &machine.name));
        }
        let shown: Vec<String> = conditions.any.iter().map(shown).collect();
        let named = in_words(&shown);
        let what = match shown.len() {
            1 => format!("did not output {named}"),
            count => format!("output none of the {count} ({named})"),
        };
        let when = match time {
            Some(time) => format!("within {}; wait again", duration::format(time)),
            None => "in what otter keeps; set wait to wait for it".to_owned(),
        };
        let name = port.linux_device.as_deref().unwrap_or(&port.label);
        let detail = format!("{name} of {} {what} {when}.", machine.name);
        Err(services.serial.timed_out(machine, port, &detail).await)
    }
}

/// A condition in words: its name, or what it looks for.
fn shown(condition: &SerialCondition) -> String {
    match (&condition.name, &condition.subject) {
        (Some(name), _) => shorten(name),
        (None, Subject::Text(text)) => shorten(&String::from_utf8_lossy(text)),
        (None, Subject::Regex { regex, .. }) => format!("regex {}", shorten(regex.as_str())),
    }
}

impl SerialWaitResult {
    /// The wire form of a match.
    ///
    /// # Parameters
    /// - `port`: the key of the port.
    pub fn from_match(found: SerialMatch, machine: &MachineId, port: i32) -> Self {
        let SerialMatch { index, name, text, captures, offset, next_offset } = found;
        let path = links::machine(machine);
        let log = format!("{path}/serial/{port}/log?since={offset}");
        Self {
            matched: SerialMatched {
                // A wait has at most 16 conditions.
                index: u32::try_from(index).unwrap_or(u32::MAX),
                name,
                text,
                captures,
            },
            offset,
            next_offset,
            links: BTreeMap::from([("machine".to_owned(), path), ("log".to_owned(), log)]),
        }
    }
}
