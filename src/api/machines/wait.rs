//! `GET /v1/machines/{machine}/wait`

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::wire::Machine;
use crate::api::extract::{InvalidValue, Parameter, Parsed, Query, Segment, failure_at};
use crate::api::long_poll::{WaitEnd, WaitMode, WaitQuery, wait};
use crate::api::openapi_parts::{MachinePath, Problems};
use crate::api::problem::ApiError;
use crate::api::{ApiState, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::network::Network;
use crate::domain::power::PowerState;
use crate::service::callers::Caller;
use crate::service::machines::WaitCondition;

/// The query parameters with the condition to wait for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UntilQuery {
    /// The condition: `power_state:on`, `power_state:off`, `power_state:suspended`, `ip`, `tools`,
    /// `question`, `no_question`, `free` or `no_job`.
    #[param(value_type = String)]
    until: Option<Parsed<Condition>>,
    /// The network in which the address must be, such as `10.0.0.0/8`. Only with `until=ip`.
    #[param(value_type = Option<String>)]
    cidr: Option<Parsed<Network>>,
}

/// A condition, and the word by which a request names it.
struct Condition(&'static str, WaitCondition);

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
/// Waits until the condition in `until` is true for the machine, and returns the machine. 504
/// `wait-timeout` if the time is up first. 409 at once if the condition cannot become true.
#[utoipa::path(
    get,
    path = "/v1/machines/{machine}/wait",
    operation_id = "wait_for_machine",
    tag = "machines",
    params(MachinePath, UntilQuery, WaitQuery),
    responses(
        (status = 200, description = "The machine, for which the condition is \
                                      true", body = Machine),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "machine-gone",
        "invalid-power-state", "inventory-loading", "wait-timeout", "shutting-down",
        "too-many-waits"
    ]))))]
pub async fn wait_for_machine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    Query(query, wait_query): Query<UntilQuery, WaitQuery>,
) -> Result<Response, ApiError> {
    let (Condition(word, until), time) = (query.condition()?, wait_query.time(&api));
    let machine = api.services().machines.resolve(&caller.scope, &reference)?;
    let (id, name) = (machine.machine.id.clone(), machine.machine.name.clone());
    // Read the version before the machine, so that the version does not include changes that the
    // response does not show.
    let version = api.services().event_stream.version();
    let ended =
        wait(&api, time, api.services().machines.wait_until(&caller.scope, &id, &until)).await?;
    let answered = match ended {
        WaitEnd::Done(Ok(view)) => Ok(respond::object(&api, &version, &Machine::from_view(&view))),
        WaitEnd::Done(Err(failure)) => Err(failure),
        WaitEnd::TimeUp => {
            let seconds = time.as_secs();
            let detail = format!("{name} did not reach {word} within {seconds} s; wait again.");
            Err(Failure::new(FailureKind::WaitTimeout, detail).with_machine(&id, &name))
        }
        WaitEnd::ShuttingDown => {
            let detail = "otter is shutting down; wait again when it is back.";
            Err(Failure::new(FailureKind::ShuttingDown, detail).with_machine(&id, &name))
        }
    };
    let mut response = answered.unwrap_or_else(|failure| ApiError(failure).into_response());
    WaitMode::Outcome(time).set_headers(&mut response);
    Ok(response)
}

impl Parameter for Condition {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        let known = CONDITIONS.into_iter().find(|(word, _)| *word == text);
        known
            .map(|(word, until)| Self(word, until))
            .ok_or_else(|| InvalidValue::not_one_of(text, &CONDITIONS.map(|(word, _)| word)))
    }
}

impl UntilQuery {
    fn condition(self) -> Result<Condition, Failure> {
        let invalid =
            |name, code, detail| Err(failure_at(FailureKind::InvalidRequest, name, code, detail));
        let Some(Parsed(Condition(word, until))) = self.until else {
            let words = CONDITIONS.map(|(word, _)| word).join(", ");
            return invalid(
                "until",
                "missing",
                format!("until is missing; set it to one of {words}."),
            );
        };
        match (until, self.cidr) {
            (until, None) => Ok(Condition(word, until)),
            (WaitCondition::Address(_), Some(Parsed(network))) => {
                Ok(Condition(word, WaitCondition::Address(Some(network))))
            }
            _ => invalid("cidr", "not-with-this", "cidr is only for until=ip.".to_owned()),
        }
    }
}
