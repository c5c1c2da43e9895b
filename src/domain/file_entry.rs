//! The entries of a folder of a datastore.

use jiff::Timestamp;

/// A file or a folder in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    pub name: String,
    pub kind: FileKind,
    pub bytes: Option<u64>,
    pub modified_at: Option<Timestamp>,
}

/// What a file is, as far as the host says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Folder,
    /// An image of a CD or a DVD.
    Iso,
    /// A virtual disk. The host lists its descriptor and its data as one file.
    Disk,
    /// Any other file.
    File,
}

impl FileKind {
    /// Every kind, for the OpenAPI document.
    pub const ALL: &'static [Self] = &[Self::Folder, Self::Iso, Self::Disk, Self::File];

    /// The word for this kind in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::Iso => "iso",
            Self::Disk => "disk",
            Self::File => "file",
        }
    }
}
