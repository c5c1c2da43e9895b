//! `POST /v1/machines/{machine}/answer`

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::extract::{Segment, failure_in_body};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{MachinePath, Problems, START, StartHeaders};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::failure::Failure;
use crate::domain::ids::{EmptyId, QuestionId};
use crate::domain::job::JobRequest;
use crate::domain::machine::Machine;
use crate::service::machines::shorten;

/// The answer to a question.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerRequest {
    /// The `id` of the machine's `question`.
    #[schema(example = "19")]
    question: String,
    /// The `key` of one of the question's `choices`.
    #[schema(example = "4")]
    choice: String,
}

/// Answer the question of a machine
///
/// Starts a job, which runs before the queue, because the question can block the running job.
/// `not-found` if this question is not pending. If the question disappears before the answer
/// arrives, the host refuses the answer.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/answer",
    operation_id = "answer_machine",
    tag = "machines",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    request_body = AnswerRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!(START))))]
pub async fn answer_machine(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, body, .. }: StartRequest<AnswerRequest>,
) -> Result<Response, ApiError> {
    let AnswerRequest { question, choice } = body;
    let empty = |pointer| {
        let detail = "Set question to the id of the question and choice to the key of a choice; \
                      neither may be empty.";
        failure_in_body(pointer, "empty", detail.to_owned())
    };
    let question: QuestionId = question.parse().map_err(|EmptyId| empty("/question"))?;
    if choice.is_empty() {
        return Err(empty("/choice").into());
    }
    let started = start.run(&api, |start| {
        let machine = start.resolve(&api, &reference)?;
        check_choice(&machine.machine, &question, &choice)?;
        Ok((machine, JobRequest::Answer { question, choice }))
    });
    Ok(started.await?)
}

/// Refuses a choice that the pending question does not have. Whether this question is pending is
/// not checked here: the job service checks that after it has authorised the caller.
fn check_choice(machine: &Machine, question: &QuestionId, choice: &str) -> Result<(), Failure> {
    let Some(asked) = machine.question.as_ref().filter(|asked| asked.id == *question) else {
        return Ok(());
    };
    if asked.choices.iter().any(|known| known.key == choice) {
        return Ok(());
    }
    let known: Vec<String> =
        asked.choices.iter().map(|known| format!("{} ({})", known.key, known.summary)).collect();
    let detail =
        format!("choice is {}; write the key of one of {}.", shorten(choice), known.join(", "));
    Err(failure_in_body("/choice", "not-one-of", detail).with_machine(&machine.id, &machine.name))
}
