//! `/v1/artifacts`, and `/v1/leases/{lease}/artifacts/{name}`.

mod content;
mod delete;
mod put;
mod read;
pub mod wire;

use utoipa::IntoParams;
use utoipa_axum::routes;

use super::ApiState;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::artifact::Artifact;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::callers::Caller;
use crate::service::machines::{empty_name, shorten};

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default()
        .upload(Role::Runner, routes!(put::put_artifact))
        .role(Role::Viewer, routes!(read::list_artifacts))
        .role(Role::Viewer, routes!(read::get_artifact))
        .role(Role::Viewer, routes!(content::get_artifact_content))
        .role(Role::Runner, routes!(delete::delete_artifact))
}

/// The path parameter that names an artifact.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "documents the segment")]
pub struct ArtifactPath {
    /// The id of the artifact.
    artifact: String,
}

/// The artifact that a path names.
///
/// # Errors
/// `not-found` if it does not exist for the caller; `invalid-request` if the text is empty. Fails
/// if the store cannot be read.
async fn named_artifact(api: &ApiState, caller: &Caller, text: &str) -> Result<Artifact, Failure> {
    if text.is_empty() {
        return Err(empty_name("artifact"));
    }
    let Ok(id) = text.parse() else { return Err(unknown_artifact(text)) };
    let found = api.services().artifacts.get(caller, id).await?;
    found.ok_or_else(|| unknown_artifact(text))
}

fn unknown_artifact(text: &str) -> Failure {
    let detail = format!("There is no artifact {}. List them: GET /v1/artifacts", shorten(text));
    Failure::new(FailureKind::NotFound, detail)
}
