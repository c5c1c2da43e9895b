//! The JSON types of artifacts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::links;
use crate::domain::artifact::{self, ArtifactSource, ContentType};

/// A file that belongs to a lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Artifact {
    /// The id of the artifact: a UUID of version 7. An artifact that is stored later has a greater
    /// id.
    #[schema(example = "01936f5e-8c00-7000-8000-000000000003")]
    pub id: String,
    /// The name of the file, which is unique in its lease.
    #[schema(example = "junit.xml")]
    pub name: String,
    /// The id of the lease.
    pub lease: String,
    /// The id of the machine of the lease. Null if the lease never had one.
    #[schema(required)]
    pub machine: Option<String>,
    #[schema(required)]
    pub machine_name: Option<String>,
    /// The header `Otter-Reference` of the request for the lease.
    #[schema(required)]
    pub reference: Option<String>,
    /// The media type with which otter serves the bytes. It is a type that browsers do not run.
    #[schema(extensions(("x-extensible-enum" = json!(content_types()))))]
    pub content_type: String,
    /// The number of bytes.
    pub bytes: u64,
    /// The SHA-256 of the bytes, in hexadecimal.
    pub sha256: String,
    pub created_at: Timestamp,
    /// Who stored it: `otter` itself, or the holder of the lease (`caller`).
    #[schema(extensions(("x-extensible-enum" = json!(sources()))))]
    pub source: String,
    /// The paths of related objects: `self`, `content`, `lease` and `machine`.
    pub links: BTreeMap<String, String>,
}

/// A page of artifacts, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ArtifactList {
    pub items: Vec<Artifact>,
    /// The cursor of the next page. Null if this is the last.
    #[schema(required)]
    pub next: Option<String>,
    /// The version at which the list is valid, for `since` of `/v1/events`.
    pub version: String,
}

/// The bytes of an artifact.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "documents the body")]
pub struct ArtifactBytes(Vec<u8>);

impl Artifact {
    /// The JSON of an artifact.
    #[must_use]
    pub fn from_domain(artifact: &artifact::Artifact) -> Self {
        let artifact::Artifact {
            id,
            name,
            lease,
            machine,
            machine_name,
            // Not shown: the lease shows its pool and its caller.
            pool: _,
            reference,
            requested_by: _,
            content_type,
            bytes,
            sha256,
            created_at,
            source,
        } = artifact;
        let machine = machine.as_ref().map(|machine| &machine.id);
        Self {
            id: id.to_string(),
            name: name.to_string(),
            lease: lease.to_string(),
            machine: machine.map(ToString::to_string),
            machine_name: machine_name.clone(),
            reference: reference.clone(),
            content_type: content_type.as_str().to_owned(),
            bytes: *bytes,
            sha256: sha256.to_string(),
            created_at: *created_at,
            source: source.as_str().to_owned(),
            links: links::for_artifact(*id, *lease, machine),
        }
    }
}

fn content_types() -> Vec<&'static str> {
    ContentType::ALL.iter().map(|known| known.as_str()).collect()
}

fn sources() -> Vec<&'static str> {
    ArtifactSource::ALL.iter().map(|source| source.as_str()).collect()
}
