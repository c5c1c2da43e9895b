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

/// What to wait for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UntilQuery {
    /// `power_state:on`, `power_state:off`, `power_state:suspended`, `ip`, `tools`, `question`,
    /// `no_question`, `free` or `no_job`.
    #[param(value_type = String)]
    until: Option<Parsed<Condition>>,
    /// With `until=ip`: only an address within this network counts, such as `10.0.0.0/8`.
    #[param(value_type = Option<String>)]
    cidr: Option<Parsed<Network>>,
}

/// What to wait for, and the word for it.
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
/// Blocks until what is asked for holds, and answers with the machine. 504 `wait-timeout` where the
/// time is up first. 409 at once where it cannot come true.
#[utoipa::path(get, path = "/v1/machines/{machine}/wait", operation_id = "wait_for_machine", tag = "machines",
    params(MachinePath, UntilQuery, WaitQuery),
    responses(
        (status = 200, description = "The machine, as it was waited for", body = Machine),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "machine-gone", "invalid-power-state",
        "inventory-loading", "wait-timeout", "shutting-down", "too-many-waits"]))))]
pub async fn wait_for_machine(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    Query(wanted, wait_for): Query<UntilQuery, WaitQuery>,
) -> Result<Response, ApiError> {
    let (Condition(word, until), time) = (wanted.condition()?, wait_for.time(&api));
    let machine = api.services().machines.resolve(&caller.scope, &reference)?;
    let (id, name) = (machine.machine.id.clone(), machine.machine.name.clone());
    // Before the machine is looked at: changes that the answer does not show must not count as
    // seen.
    let version = api.services().event_stream.version();
    let ended =
        wait(&api, time, api.services().machines.wait_until(&caller.scope, &id, &until)).await?;
    let answered = match ended {
        WaitEnd::Done(Ok(view)) => Ok(respond::object(&api, &version, &Machine::from_view(&view))),
        WaitEnd::Done(Err(failure)) => Err(failure),
        WaitEnd::TimeUp => {
            let seconds = time.as_secs();
            let detail = format!("{name} did not come to {word} within {seconds} s; wait again.");
            Err(Failure::new(FailureKind::WaitTimeout, detail).with_machine(&id, &name))
        }
        WaitEnd::ShuttingDown => {
            let detail = "otter is shutting down; wait again once it is back.";
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
                format!("until is missing; one of {words} is wanted."),
            );
        };
        match (until, self.cidr) {
            (until, None) => Ok(Condition(word, until)),
            (WaitCondition::Address(_), Some(Parsed(network))) => {
                Ok(Condition(word, WaitCondition::Address(Some(network))))
            }
            _ => invalid("cidr", "not-with-this", "cidr goes with until=ip alone.".to_owned()),
        }
    }
}
