//! `POST /v1/machines/{machine}/snapshots`, and the checks of names and descriptions of snapshots.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::ApiState;
use crate::api::extract::{Segment, code_point, control_character, failure_in_body};
use crate::api::jobs::wire::Job;
use crate::api::openapi_parts::{BLOCKED_BY_QUESTION, MachinePath, Problems, START, StartHeaders};
use crate::api::problem::ApiError;
use crate::api::start_job::{StartQuery, StartRequest};
use crate::domain::failure::Failure;
use crate::domain::job::JobRequest;
use crate::domain::names::{HiddenCharacter, hidden_character};

/// The largest number of characters of a name that ESX accepts.
const LONGEST_NAME: usize = 80;
/// The largest number of characters of a description. It is limited because descriptions are in
/// memory and in every list.
const LONGEST_DESCRIPTION: usize = 8_192;

/// The snapshot to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshotRequest {
    /// The name of the snapshot, at most 80 characters, without invisible characters and
    /// surrounding white space. Several snapshots may have the same name.
    #[schema(example = "kickstart", min_length = 1, max_length = 80)]
    name: String,
    /// The description of the snapshot, at most 8,192 characters.
    #[serde(default)]
    #[schema(nullable = false, max_length = 8192)]
    description: Option<String>,
    /// Whether the snapshot includes the memory of a running machine. If so, the machine runs after
    /// a revert to the snapshot, else it is off.
    #[serde(default)]
    memory: bool,
    /// Whether VMware Tools quiesce the guest's file systems before the snapshot is created.
    #[serde(default)]
    quiesce: bool,
}

/// Create a snapshot
///
/// Starts a job. `result.snapshot` is the id of the new snapshot. A job never creates a second
/// snapshot, even if the host's answer is lost.
#[utoipa::path(
    post,
    path = "/v1/machines/{machine}/snapshots",
    operation_id = "create_snapshot",
    tag = "snapshots",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    request_body = CreateSnapshotRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The accepted job", body = Job),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([START, BLOCKED_BY_QUESTION].concat()))))]
pub async fn create_snapshot(
    State(api): State<ApiState>,
    Segment(reference): Segment,
    StartRequest { start, body, .. }: StartRequest<CreateSnapshotRequest>,
) -> Result<Response, ApiError> {
    let CreateSnapshotRequest { name, description, memory, quiesce } = body;
    let description = description.unwrap_or_default();
    check_name(&name)?;
    check_description(&description)?;
    let request = JobRequest::CreateSnapshot { name, description, memory, quiesce };
    Ok(start.run(&api, |start| Ok((start.resolve(&api, &reference)?, request))).await?)
}

/// Refuses a name that ESX does not accept, or that people can confuse with another name.
///
/// # Errors
/// `invalid-request`
pub fn check_name(name: &str) -> Result<(), Failure> {
    let wrong = |code, detail: String| Err(failure_in_body("/name", code, detail));
    let length = name.chars().count();
    if name.is_empty() {
        return wrong("empty", "The name is empty; set a name.".to_owned());
    }
    if length > LONGEST_NAME {
        return wrong(
            "too-long",
            format!("The name has {length} characters; ESX accepts at most {LONGEST_NAME}."),
        );
    }
    match hidden_character(name) {
        None => Ok(()),
        Some(HiddenCharacter::Control(character)) => {
            wrong("control-character", control_character("The name", character))
        }
        Some(HiddenCharacter::Invisible(character)) => {
            let character = code_point(character);
            let detail = format!(
                "The name has the invisible character {character}, so that it looks like another \
                 name: remove the character."
            );
            wrong("invisible-character", detail)
        }
        Some(HiddenCharacter::Surrounding(character)) => {
            let character = code_point(character);
            let detail = format!(
                "The name begins or ends with white space ({character}), so that it looks like \
                 another name: remove the white space."
            );
            wrong("surrounding-space", detail)
        }
    }
}

/// Refuses a description that is too long or has control characters.
///
/// # Errors
/// `invalid-request`
pub fn check_description(description: &str) -> Result<(), Failure> {
    let wrong = |code, detail: String| Err(failure_in_body("/description", code, detail));
    let length = description.chars().count();
    if length > LONGEST_DESCRIPTION {
        return wrong(
            "too-long",
            format!(
                "The description has {length} characters; it may have at most \
                 {LONGEST_DESCRIPTION}."
            ),
        );
    }
    // ESX receives the description as XML. Of the control characters, XML can represent line feed,
    // carriage return and tab, but no others.
    let unsayable =
        |character: char| character.is_control() && !matches!(character, '\n' | '\r' | '\t');
    if description.chars().any(unsayable) {
        return wrong(
            "control-character",
            "The description has control characters; remove \
                                           them."
                .to_owned(),
        );
    }
    Ok(())
}
