//! `GET /v1/machines/{machine}/wait`

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use utoipa::IntoParams;

use super::wire::Machine;
use crate::api::documented::{MachinePath, Problems};
use crate::api::extract::{Params, Query, Segment, failure_at, not_one_of};
use crate::api::problem::ApiError;
use crate::api::waiting::{Wait, Waited, wait};
use crate::api::{Api, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::power::PowerState;
use crate::service::callers::Caller;
use crate::service::machines::{Until, shorten};

/// What to wait for, and how long.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documents the parameters and names them for the strict reader")]
pub struct MachineWaitQuery {
    /// `power_state:on`, `power_state:off`, `power_state:suspended`, `ip`, `tools`, `question`, `no_question`, `free`
    /// or `no_job`.
    #[param(value_type = String, required = true)]
    until: String,
    /// With `until=ip`: only an address within this network counts, such as `10.0.0.0/8`.
    #[param(value_type = String, required = false)]
    cidr: Option<String>,
    /// How long this call may block: `30s`, `10m`. The longest there is where nothing is said.
    #[param(value_type = String, required = false)]
    wait: Option<String>,
}

/// Wait for a machine
///
/// Blocks until what is asked for holds, and answers with the machine. 504 `wait-timeout` where the time is up first.
/// 409 at once where it cannot come true.
#[utoipa::path(get, path = "/v1/machines/{machine}/wait", operation_id = "wait_for_machine", tag = "machines",
    params(MachinePath, MachineWaitQuery),
    responses(
        (status = 200, description = "The machine, as it was waited for", body = Machine),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(["invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "machine-gone", "invalid-power-state",
        "inventory-loading", "wait-timeout", "shutting-down", "too-many-waits"]))))]
pub async fn wait_for_machine(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Segment(reference): Segment,
    query: Query<MachineWaitQuery>,
) -> Result<Response, ApiError> {
    let params = query.params;
    let until = until(&params)?;
    let longest = api.settings().max_wait;
    let time = params.duration("wait")?.unwrap_or(longest).min(longest);
    let machine = api.services().machines.resolve(&caller.scope, &reference)?;
    let (id, name) = (machine.record.machine.id.clone(), machine.record.machine.name.clone());
    // Before the machine is looked at: changes that the answer does not show must not count as seen.
    let version = api.services().feed.version();
    let ended = wait(&api, time, api.services().machines.until(&caller.scope, &id, &until)).await?;
    let answered = match ended {
        Waited::Done(Ok(view)) => Ok(respond::object(&api, &version, &Machine::of(&view))),
        Waited::Done(Err(failure)) => Err(failure),
        Waited::TimeUp => {
            let condition = shorten(params.text("until").unwrap_or_default());
            let detail =
                format!("{name} did not come to {condition} within {} s; wait again.", time.as_secs());
            Err(Failure::new(FailureKind::WaitTimeout, detail).of_machine(&id, &name))
        }
        Waited::ShuttingDown => {
            let detail = "otter is shutting down; wait again once it is back.";
            Err(Failure::new(FailureKind::ShuttingDown, detail).of_machine(&id, &name))
        }
    };
    let mut response = answered.unwrap_or_else(|failure| ApiError(failure).into_response());
    Wait::Outcome(time).mark(&mut response);
    Ok(response)
}

fn until(params: &Params) -> Result<Until, Failure> {
    const WORDS: [&str; 9] = [
        "power_state:on",
        "power_state:off",
        "power_state:suspended",
        "ip",
        "tools",
        "question",
        "no_question",
        "free",
        "no_job",
    ];
    let invalid = |parameter: &str, code: &'static str, detail: String| {
        failure_at(FailureKind::InvalidRequest, parameter, code, detail)
    };
    let Some(given) = params.text("until") else {
        let detail = format!("until is missing; one of {} is wanted.", WORDS.join(", "));
        return Err(invalid("until", "missing", detail));
    };
    let network = match params.text("cidr") {
        Some(cidr) if given == "ip" => Some(cidr.parse().map_err(|_| {
            let detail = format!("cidr is {}; a network such as 10.0.0.0/8 is wanted.", shorten(cidr));
            invalid("cidr", "not-a-network", detail)
        })?),
        Some(_) => return Err(invalid("cidr", "not-with-this", "cidr goes with until=ip alone.".to_owned())),
        None => None,
    };
    Ok(match given {
        "power_state:on" => Until::PowerState(PowerState::On),
        "power_state:off" => Until::PowerState(PowerState::Off),
        "power_state:suspended" => Until::PowerState(PowerState::Suspended),
        "ip" => Until::Address(network),
        "tools" => Until::Tools,
        "question" => Until::Question,
        "no_question" => Until::NoQuestion,
        "free" => Until::Free,
        "no_job" => Until::NoJob,
        other => return Err(not_one_of("until", other, &WORDS)),
    })
}
