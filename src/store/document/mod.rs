//! The JSON documents of stored jobs and leases. The documents have types of their own, so that a
//! change of the domain types does not change the stored data.
//!
//! The column `document_version` of each row contains [`VERSION`]. A new field with
//! `#[serde(default)]` does not change the version. Any other change needs a new version, and otter
//! must still read documents of the old version. A new word, for example the name of a step, is
//! such a change, because an earlier version of otter refuses unknown words. Unknown fields are
//! ignored.

mod failure;
mod file;
mod identity;
mod intent;
mod job;
mod lease;
mod media;
mod origin;

use jiff::Timestamp;

pub use self::failure::{decode as decode_failure, encode as encode_failure};
use self::job::JobDocument;
pub use self::lease::{
    decode as decode_lease, decode_quarantine, decode_recovery, encode as encode_lease,
    encode_quarantine, encode_recovery,
};
use crate::domain::ids::{JobId, LeaseId, TokenId};
use crate::domain::job::Job;
use crate::domain::power::PowerState;

/// The version of the documents that otter writes.
pub const VERSION: i64 = 2;

/// Why a document cannot be decoded or encoded.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("its document has version {0}, and this otter reads up to {VERSION}")]
    Version(i64),
    #[error("its document is not the expected JSON")]
    Json(#[source] serde_json::Error),
    #[error("{word:?} is not a valid {what}")]
    Word { what: &'static str, word: String },
    #[error("{text:?} is not a time")]
    Time { text: String, source: jiff::Error },
    #[error("{0:?} is not a job id")]
    JobId(String),
}

/// Encodes a job.
pub fn encode(job: &Job) -> Result<String, DocumentError> {
    serde_json::to_string(&JobDocument::from(job)).map_err(DocumentError::Json)
}

/// Decodes a job.
///
/// # Parameters
/// - `version`: the version of the document, which the row has in a column of its own.
pub fn decode(version: i64, text: &str) -> Result<Job, DocumentError> {
    let document = match version {
        1 => JobDocument::from_version_1(text),
        VERSION => serde_json::from_str(text),
        _ => return Err(DocumentError::Version(version)),
    };
    document.map_err(DocumentError::Json)?.try_into()
}

fn word<T>(
    what: &'static str,
    word: String,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, DocumentError> {
    parse(&word).ok_or(DocumentError::Word { what, word })
}

fn power(text: String) -> Result<PowerState, DocumentError> {
    word("power state", text, PowerState::parse)
}

fn lease_id(text: String) -> Result<LeaseId, DocumentError> {
    text.parse().map_err(|_| DocumentError::Word { what: "lease id", word: text })
}

fn token_id(text: String) -> Result<TokenId, DocumentError> {
    text.parse().map_err(|_| DocumentError::Word { what: "token id", word: text })
}

fn job_id(text: String) -> Result<JobId, DocumentError> {
    text.parse().map_err(|_| DocumentError::JobId(text))
}

fn time(text: String) -> Result<Timestamp, DocumentError> {
    text.parse().map_err(|source| DocumentError::Time { text, source })
}
