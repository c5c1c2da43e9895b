//! The JSON types of files.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::file_entry::{FileEntry, FileKind};

/// A file or a folder of a datastore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct DatastoreFile {
    /// The name in its folder.
    #[schema(example = "qubes.iso")]
    pub name: String,
    /// `folder`, `iso`, `disk` (the host lists the descriptor and the data of a disk as one file)
    /// or `file`.
    #[serde(rename = "type")]
    #[schema(extensions(("x-extensible-enum" = json!(kinds()))))]
    pub kind: String,
    /// The size. Null for a folder, and if the host does not say it.
    #[schema(required)]
    pub bytes: Option<u64>,
    /// When it was last changed, by the clock of the host.
    #[schema(required)]
    pub modified_at: Option<Timestamp>,
}

/// A page of the files in a folder, sorted by name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FileList {
    /// The path of the folder below the top folder of the datastore. Empty for the top folder.
    #[schema(example = "iso")]
    pub path: String,
    pub items: Vec<DatastoreFile>,
    /// The cursor of the next page. Null if this is the last.
    #[schema(required)]
    pub next: Option<String>,
    /// The version of the inventory, for `since` of `/v1/events`. Changes of files are no events.
    pub version: String,
}

/// The bytes of a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "documents the body")]
pub struct FileBytes(Vec<u8>);

impl DatastoreFile {
    /// The JSON of an entry of a listing.
    #[must_use]
    pub fn from_domain(entry: &FileEntry) -> Self {
        let FileEntry { name, kind, bytes, modified_at } = entry;
        let kind = kind.as_str().to_owned();
        Self { name: name.clone(), kind, bytes: *bytes, modified_at: *modified_at }
    }
}

fn kinds() -> Vec<&'static str> {
    FileKind::ALL.iter().map(|kind| kind.as_str()).collect()
}
