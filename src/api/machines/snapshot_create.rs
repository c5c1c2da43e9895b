//! `POST /v1/machines/{machine}/snapshots`, and what names and descriptions of snapshots may be.

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

/// ESX takes names up to here.
const LONGEST_NAME: usize = 80;
/// A description is kept in memory and goes out with every list.
const LONGEST_DESCRIPTION: usize = 8_192;

/// A snapshot to be made of what is current.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSnapshotRequest {
    /// At most 80 characters, none of them invisible, and no white space around. Others may have
    /// the same name.
    #[schema(example = "kickstart", min_length = 1, max_length = 80)]
    name: String,
    /// At most 8,192 characters.
    #[serde(default)]
    #[schema(nullable = false, max_length = 8192)]
    description: Option<String>,
    /// Whether to keep the memory of a machine that runs: a revert leaves it running then. Without,
    /// it is off.
    #[serde(default)]
    memory: bool,
    /// Whether the guest tools are to bring the disks to rest first.
    #[serde(default)]
    quiesce: bool,
}

/// Make a snapshot
///
/// Starts a job; `result.snapshot` is the id of what it made. It is never made twice.
#[utoipa::path(post, path = "/v1/machines/{machine}/snapshots", operation_id = "create_snapshot", tag = "snapshots",
    params(
        MachinePath,
        StartHeaders,
        StartQuery
    ),
    request_body = CreateSnapshotRequest,
    responses(
        (status = 200, description = "With `wait`: the job, which succeeded", body = Job),
        (status = 202, description = "The job was accepted and goes on", body = Job),
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

/// Refuses a name that ESX would not take, or that looks like another one.
///
/// # Errors
/// `invalid-request`
pub fn check_name(name: &str) -> Result<(), Failure> {
    let wrong = |code, detail: String| Err(failure_in_body("/name", code, detail));
    let length = name.chars().count();
    if name.is_empty() {
        return wrong("empty", "The name is empty; give the snapshot one.".to_owned());
    }
    if length > LONGEST_NAME {
        return wrong(
            "too-long",
            format!("The name has {length} characters; ESX takes {LONGEST_NAME} at most."),
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
                "The name holds the character {character}, which nobody sees: the name would look like \
                 another one. Leave it out."
            );
            wrong("invisible-character", detail)
        }
        Some(HiddenCharacter::Surrounding(character)) => {
            let character = code_point(character);
            let detail = format!(
                "The name begins or ends with white space ({character}): it would look like another one. \
                 Leave it out."
            );
            wrong("surrounding-space", detail)
        }
    }
}

/// Refuses a description that is too long, or could not be sent.
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
                "The description has {length} characters; {LONGEST_DESCRIPTION} are taken at most."
            ),
        );
    }
    // XML has no way to say the others.
    let unsayable =
        |character: char| character.is_control() && !matches!(character, '\n' | '\r' | '\t');
    if description.chars().any(unsayable) {
        return wrong("control-character", "The description holds control characters.".to_owned());
    }
    Ok(())
}
