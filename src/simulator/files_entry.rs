//! The notation of files, datastores and transfers in scenarios and faults.

use http::StatusCode;
use serde::Deserialize;

use super::fault_injection::{FilesChange, TransferEnd, TransferMishap};
use super::world::{FileContent, FilePath};

/// A change of files and datastores. Places are datastore paths.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum FilesEntry {
    Put(FileEntry),
    MakeFolder {
        path: String,
    },
    Remove {
        path: String,
    },
    Lock {
        path: String,
        #[serde(default = "default_true")]
        locked: bool,
    },
    LockDrives {
        machine: String,
        #[serde(default = "default_true")]
        locked: bool,
    },
    Datastore {
        name: String,
        free_bytes: Option<i64>,
        accessible: Option<bool>,
    },
}

/// A file: its text, and zeros behind it up to its length.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    path: String,
    #[serde(default)]
    text: String,
    /// The length. Without it, the file is as long as its text.
    #[serde(default)]
    bytes: u64,
}

/// A disturbed transfer of a file.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferEntry {
    /// After how many bytes the transfer ends.
    after_bytes: Option<u64>,
    /// How it ends: `cut`, `stall`, or the status of an answer. The default is a cut.
    #[serde(rename = "then")]
    end: Option<EndEntry>,
    bytes_per_second: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum EndEntry {
    Status(u16),
    Word(EndWord),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EndWord {
    Cut,
    Stall,
}

impl FilesEntry {
    /// Checks the entry.
    ///
    /// # Errors
    /// A text for people that names what is wrong.
    pub fn check(self) -> Result<FilesChange, String> {
        Ok(match self {
            Self::Put(entry) => {
                let (path, content) = entry.check()?;
                FilesChange::Put { path, content }
            }
            Self::MakeFolder { path } => FilesChange::MakeFolder { path: checked(path)? },
            Self::Remove { path } => FilesChange::Remove { path: checked(path)? },
            Self::Lock { path, locked } => FilesChange::Lock { path: checked(path)?, locked },
            Self::LockDrives { machine, locked } => FilesChange::LockDrives { machine, locked },
            Self::Datastore { name, free_bytes, accessible } => {
                FilesChange::Datastore { name, free_bytes, accessible }
            }
        })
    }
}

impl FileEntry {
    /// The entry with a datastore path. Its own path is one on this datastore.
    #[must_use]
    pub fn on(self, datastore: &str) -> Self {
        Self { path: format!("[{datastore}] {}", self.path), ..self }
    }

    /// The datastore path and the content.
    ///
    /// # Errors
    /// A text for people that names what is wrong.
    pub fn check(self) -> Result<(String, FileContent), String> {
        let Self { path, text, bytes } = self;
        let mut content = FileContent::of(text.as_bytes());
        content.extend_to(bytes);
        Ok((checked(path)?, content))
    }
}

impl TransferEntry {
    /// Checks the entry.
    ///
    /// # Errors
    /// A text for people that names what is wrong.
    pub fn check(self) -> Result<TransferMishap, String> {
        let Self { after_bytes, end, bytes_per_second } = self;
        let kind = match end {
            None | Some(EndEntry::Word(EndWord::Cut)) => TransferEnd::Cut,
            Some(EndEntry::Word(EndWord::Stall)) => TransferEnd::Stall,
            Some(EndEntry::Status(status)) => match StatusCode::from_u16(status) {
                Ok(status) if status.as_u16() >= 200 => TransferEnd::Answer(status),
                _ => return Err(format!("{status} is not a status from 200 on")),
            },
        };
        let after = match (after_bytes, end) {
            (None, None) => None,
            (after, _) => Some(after.unwrap_or(0)),
        };
        Ok(TransferMishap { end: after.map(|after| (after, kind)), bytes_per_second })
    }
}

fn checked(path: String) -> Result<String, String> {
    match FilePath::parse(&path) {
        Ok(place) if !place.path.is_empty() => Ok(path),
        _ => Err(format!("{path:?} is no datastore path, such as \"[isos] iso/a.iso\"")),
    }
}

const fn default_true() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_ends_after_so_many_bytes_as_the_entry_says() {
        let read = |text: &str| {
            let entry: TransferEntry = serde_json::from_str(text).map_err(|e| e.to_string())?;
            entry.check()
        };
        let mishap = |end, bytes_per_second| Ok(TransferMishap { end, bytes_per_second });
        assert_eq!(read("{}"), mishap(None, None));
        assert_eq!(read(r#"{"bytes_per_second": 5}"#), mishap(None, Some(5)));
        assert_eq!(read(r#"{"after_bytes": 7}"#), mishap(Some((7, TransferEnd::Cut)), None));
        assert_eq!(read(r#"{"then": "stall"}"#), mishap(Some((0, TransferEnd::Stall)), None));
        let early = TransferEnd::Answer(StatusCode::UNAUTHORIZED);
        assert_eq!(read(r#"{"after_bytes": 7, "then": 401}"#), mishap(Some((7, early)), None));
        for wrong in [r#"{"then": "explode"}"#, r#"{"then": 99}"#, r#"{"after": 7}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_is_its_text_and_zeros_up_to_its_length() {
        let put = |text: &str| {
            let entry: FilesEntry = serde_json::from_str(text).unwrap();
            match entry.check() {
                Ok(FilesChange::Put { path, content }) => Ok((path, content.length())),
                Ok(_) => panic!("another change"),
                Err(error) => Err(error),
            }
        };
        let long = put(r#"{"put": {"path": "[isos] a.iso", "text": "CD001", "bytes": 4096}}"#);
        assert_eq!(long, Ok(("[isos] a.iso".to_owned(), 4_096)));
        let short = put(r#"{"put": {"path": "[isos] a.txt", "text": "CD001"}}"#);
        assert_eq!(short, Ok(("[isos] a.txt".to_owned(), 5)));
        assert!(put(r#"{"put": {"path": "a.txt"}}"#).is_err());
    }
}
