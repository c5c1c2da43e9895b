//! `GET /v1/machines/{machine}/wait`

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::Machine;
use crate::api::extract::{InvalidValue, Parameter, Parsed, Query, Segment, failure_at};
use crate::api::lease_authorization::read_authorization;
use crate::api::long_poll::{WaitEnd, WaitMode, WaitQuery, wait};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::screens::LookHeaders;
use crate::api::screens::wait::ScreenCall;
use crate::api::serial::wait::SerialCall;
use crate::api::{ApiState, respond};
use crate::domain::condition_text::InvalidConditionText;
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::network::Network;
use crate::domain::power::PowerState;
use crate::domain::screen_text::ScreenText;
use crate::domain::serial::SerialText;
use crate::service::callers::Caller;
use crate::service::jobs::authorization::Requester;
use crate::service::machines::{MachineView, WaitCondition, shorten};
use crate::service::screens::conditions::ScreenConditions;
use crate::service::serial::conditions::SerialConditions;
use crate::service::serial::{ReadFrom, find_port};

/// The query parameters with the condition to wait for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UntilQuery {
    /// The condition: `power_state:on`, `power_state:off`, `power_state:suspended`, `ip`, `tools`,
    /// `question`, `no_question`, `free`, `no_job`, `screen:<text>`: the screen shows the text, or
    /// `serial:<text>`: the first serial port outputs the text after this call;
    /// `serial@<port>:<text>` for another port. All after the first colon is the text, commas
    /// included, at most 256 characters.
    #[param(value_type = String)]
    until: Option<Parsed<Condition>>,
    /// The network in which the address must be, such as `10.0.0.0/8`. Only with `until=ip`.
    #[param(value_type = Option<String>)]
    cidr: Option<Parsed<Network>>,
}

/// A condition.
enum Condition {
    /// A condition on the machine, and its name.
    Machine(&'static str, WaitCondition),
    /// The screen shows a text.
    Screen(ScreenText),
    /// A serial port outputs a text.
    Serial(SerialText),
}

const CONDITIONS: [(&str, WaitCondition); 9] = [
    ("power_state:on", WaitCondition::PowerState(PowerState::On)),
    ("power_state:off", WaitCondition::PowerState(PowerState::Off)),
    ("power_state:suspended", WaitCondition::PowerState(PowerState::Suspended)),
    ("ip", WaitCondition::Address(None)),
    ("tools", WaitCondition::Tools),
    ("question", WaitCondition::Question),
    ("no_question", WaitCondition::NoQuestion),
    ("free", WaitCondition::Free),
    ("no_job", WaitCondition::NoJob),
];

/// Wait for a machine
///
/// Waits until the condition is true and returns the machine. 504 `wait-timeout` if the time is up
/// first. 409 at once if the condition cannot become true. `screen:` and `serial:` need the right
/// to look at the screen.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/wait",
    operation_id = "wait_for_machine",
    tag = "machines",
    params(MachinePath, UntilQuery, WaitQuery, LookHeaders),
    responses(
        (status = 200, description = "The machine, for which the condition is \
                                      true", body = Machine),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "machine-gone",
        "invalid-power-state", "inventory-loading", "wait-timeout", "shutting-down",
        "too-many-waits", "forbidden", "machine-leased", "too-many-consoles", "not-supported"
    ]))))]
pub async fn wait_for_machine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Segment(reference): Segment,
    Query(query, wait_query): Query<UntilQuery, WaitQuery>,
) -> Result<Response, ApiError> {
    let (condition, time) = (query.condition()?, wait_query.time(&api));
    let machine = api.services().machines.resolve(&caller.scope, &reference)?;
    // Read the version before the machine, so that the version does not include changes that the
    // response does not show.
    let version = api.services().event_stream.version();
    // A wait for a state is the most common one. So the large futures of the others are boxed, and
    // the headers are dropped, which keep the buffer of the request's head.
    let answered = match condition {
        Condition::Machine(word, until) => {
            drop(headers);
            wait_for_state(&api, &caller, &machine, (word, &until), time).await?
        }
        Condition::Screen(text) => {
            let requester = read_authorization(&api, &caller, &headers)?;
            Box::pin(wait_for_text(&api, &requester, machine, &text, time)).await
        }
        Condition::Serial(text) => {
            let requester = read_authorization(&api, &caller, &headers)?;
            Box::pin(wait_for_output(&api, &requester, machine, &text, time)).await
        }
    };
    let answered = answered.map(|view| respond::object(&api, &version, &Machine::from_view(&view)));
    let mut response = answered.unwrap_or_else(|failure| ApiError(failure).into_response());
    WaitMode::Outcome(time).set_headers(&mut response);
    Ok(response)
}

/// Waits for a condition on the machine.
///
/// # Parameters
/// - `condition`: the condition, after its name.
async fn wait_for_state(
    api: &ApiState,
    caller: &Caller,
    machine: &MachineView,
    condition: (&str, &WaitCondition),
    time: Duration,
) -> Result<Result<MachineView, Failure>, Failure> {
    let (word, until) = condition;
    let (id, name) = (&machine.machine.id, &machine.machine.name);
    let reached = api.services().machines.wait_until(&caller.scope, id, until);
    Ok(match wait(api, time, reached).await? {
        WaitEnd::Done(done) => done,
        WaitEnd::TimeUp => {
            let within = match until {
                WaitCondition::Address(Some(network)) => format!(" in {network}"),
                _ => String::new(),
            };
            let time = duration::format(time);
            let detail = format!("{name} did not reach {word}{within} within {time}; wait again.");
            Err(Failure::new(FailureKind::WaitTimeout, detail).with_machine(id, name))
        }
        WaitEnd::ShuttingDown => {
            let detail = "otter is shutting down; wait again when it is back.";
            Err(Failure::new(FailureKind::ShuttingDown, detail).with_machine(id, name))
        }
    })
}

/// Waits until the screen shows a text. Returns the machine as it is then.
async fn wait_for_text(
    api: &ApiState,
    requester: &Requester,
    view: MachineView,
    text: &ScreenText,
    time: Duration,
) -> Result<MachineView, Failure> {
    let conditions = ScreenConditions::of_text(text).ok_or_else(|| {
        let detail =
            format!("Nothing of {} can be compared with a screen.", shorten(text.as_str()));
        failure_at(FailureKind::InvalidRequest, "until", "empty", detail)
    })?;
    let call = ScreenCall { api, requester, machine: &view.machine, wake: false };
    call.run(Arc::new(conditions), Some(time)).await?;
    let scope = &requester.caller.scope;
    Ok(api.services().machines.get_in(scope, &view.machine.id).unwrap_or(view))
}

/// Waits until a serial port outputs a text. Returns the machine as it is then.
async fn wait_for_output(
    api: &ApiState,
    requester: &Requester,
    view: MachineView,
    text: &SerialText,
    time: Duration,
) -> Result<MachineView, Failure> {
    let port = find_port(&view.machine, &text.port().to_string())?;
    let call = SerialCall { api, requester, machine: &view.machine, port };
    let conditions = SerialConditions::of_text(text);
    call.run(&conditions, ReadFrom::BeforeEnd(0), Some(time)).await?;
    let scope = &requester.caller.scope;
    Ok(api.services().machines.get_in(scope, &view.machine.id).unwrap_or(view))
}

impl Parameter for Condition {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        let invalid = |error: InvalidConditionText| {
            InvalidValue::new("invalid-text", text, format!("it {error}"))
        };
        if let Some(on_screen) = ScreenText::from_condition(text) {
            return on_screen.map(Self::Screen).map_err(invalid);
        }
        if let Some(output) = SerialText::from_condition(text) {
            return output.map(Self::Serial).map_err(invalid);
        }
        let known = CONDITIONS.into_iter().find(|(word, _)| *word == text);
        let words = || {
            let words = CONDITIONS.iter().map(|(word, _)| *word);
            words.chain(["screen:<text>", "serial:<text>"]).collect::<Vec<_>>()
        };
        known
            .map(|(word, until)| Self::Machine(word, until))
            .ok_or_else(|| InvalidValue::not_one_of(text, &words()))
    }
}

impl UntilQuery {
    fn condition(self) -> Result<Condition, Failure> {
        let invalid =
            |name, code, detail| Err(failure_at(FailureKind::InvalidRequest, name, code, detail));
        let Some(Parsed(condition)) = self.until else {
            let words = CONDITIONS.map(|(word, _)| word).join(", ");
            return invalid(
                "until",
                "missing",
                format!(
                    "until is missing; set it to one of {words}, screen:<text>, serial:<text>."
                ),
            );
        };
        match (condition, self.cidr) {
            (condition, None) => Ok(condition),
            (Condition::Machine(word, WaitCondition::Address(_)), Some(Parsed(network))) => {
                Ok(Condition::Machine(word, WaitCondition::Address(Some(network))))
            }
            _ => invalid("cidr", "not-with-this", "cidr is only for until=ip.".to_owned()),
        }
    }
}
