//! The JSON documents of jobs on files: an upload, the call that a job is about to make, and the
//! result.

use serde::{Deserialize, Serialize};

use super::failure::FailureDocument;
use super::{DocumentError, time, word};
use crate::domain::artifact::Sha256Sum;
use crate::domain::file_job::{
    FileCall, FileEvidence, FileFact, FileIntent, FileResult, Received, UploadRequest,
};

#[derive(Serialize, Deserialize)]
pub struct UploadDocument {
    bytes: u64,
    replace: bool,
    sha256: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct FileIntentDocument {
    call: FileCallDocument,
    target_before: Option<FactDocument>,
    part_before: Option<FactDocument>,
    received: Option<ReceivedDocument>,
    asked: u32,
    end: Option<FailureDocument>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
enum FileCallDocument {
    MovePart { replace: bool },
    Delete,
    CreateFolder,
}

#[derive(Serialize, Deserialize)]
struct FactDocument {
    bytes: u64,
    modified_at: Option<String>,
    is_folder: bool,
    is_empty: bool,
}

#[derive(Serialize, Deserialize)]
struct ReceivedDocument {
    bytes: u64,
    sha256: String,
    unchanged: bool,
}

#[derive(Serialize, Deserialize)]
pub struct FileResultDocument {
    path: String,
    bytes: Option<u64>,
    sha256: Option<String>,
}

impl From<&UploadRequest> for UploadDocument {
    fn from(upload: &UploadRequest) -> Self {
        let UploadRequest { bytes, replace, sha256 } = upload;
        Self { bytes: *bytes, replace: *replace, sha256: sha256.as_ref().map(ToString::to_string) }
    }
}

impl TryFrom<UploadDocument> for UploadRequest {
    type Error = DocumentError;

    fn try_from(document: UploadDocument) -> Result<Self, DocumentError> {
        let UploadDocument { bytes, replace, sha256 } = document;
        Ok(Self { bytes, replace, sha256: sha256.map(sum).transpose()? })
    }
}

impl From<&FileIntent> for FileIntentDocument {
    fn from(intent: &FileIntent) -> Self {
        let FileIntent { call, before: FileEvidence { target, part }, received, asked, end } =
            intent;
        Self {
            call: match call {
                FileCall::MovePart { replace } => FileCallDocument::MovePart { replace: *replace },
                FileCall::Delete => FileCallDocument::Delete,
                FileCall::CreateFolder => FileCallDocument::CreateFolder,
            },
            target_before: target.as_ref().map(Into::into),
            part_before: part.as_ref().map(Into::into),
            received: received.as_ref().map(Into::into),
            asked: *asked,
            end: end.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<FileIntentDocument> for FileIntent {
    type Error = DocumentError;

    fn try_from(document: FileIntentDocument) -> Result<Self, DocumentError> {
        let FileIntentDocument { call, target_before, part_before, received, asked, end } =
            document;
        Ok(Self {
            call: match call {
                FileCallDocument::MovePart { replace } => FileCall::MovePart { replace },
                FileCallDocument::Delete => FileCall::Delete,
                FileCallDocument::CreateFolder => FileCall::CreateFolder,
            },
            before: FileEvidence {
                target: target_before.map(TryInto::try_into).transpose()?,
                part: part_before.map(TryInto::try_into).transpose()?,
            },
            received: received.map(TryInto::try_into).transpose()?,
            asked,
            end: end.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&FileFact> for FactDocument {
    fn from(fact: &FileFact) -> Self {
        let FileFact { bytes, modified_at, is_folder, is_empty } = fact;
        Self {
            bytes: *bytes,
            modified_at: modified_at.as_ref().map(ToString::to_string),
            is_folder: *is_folder,
            is_empty: *is_empty,
        }
    }
}

impl TryFrom<FactDocument> for FileFact {
    type Error = DocumentError;

    fn try_from(document: FactDocument) -> Result<Self, DocumentError> {
        let FactDocument { bytes, modified_at, is_folder, is_empty } = document;
        Ok(Self { bytes, modified_at: modified_at.map(time).transpose()?, is_folder, is_empty })
    }
}

impl From<&Received> for ReceivedDocument {
    fn from(received: &Received) -> Self {
        let Received { bytes, sha256, unchanged } = received;
        Self { bytes: *bytes, sha256: sha256.to_string(), unchanged: *unchanged }
    }
}

impl TryFrom<ReceivedDocument> for Received {
    type Error = DocumentError;

    fn try_from(document: ReceivedDocument) -> Result<Self, DocumentError> {
        let ReceivedDocument { bytes, sha256, unchanged } = document;
        Ok(Self { bytes, sha256: sum(sha256)?, unchanged })
    }
}

impl From<&FileResult> for FileResultDocument {
    fn from(result: &FileResult) -> Self {
        let FileResult { path, sent } = result;
        Self {
            path: path.clone(),
            bytes: sent.map(|(bytes, _)| bytes),
            sha256: sent.map(|(_, sha256)| sha256.to_string()),
        }
    }
}

impl TryFrom<FileResultDocument> for FileResult {
    type Error = DocumentError;

    fn try_from(document: FileResultDocument) -> Result<Self, DocumentError> {
        let FileResultDocument { path, bytes, sha256 } = document;
        Ok(Self { path, sent: bytes.zip(sha256.map(sum).transpose()?) })
    }
}

fn sum(text: String) -> Result<Sha256Sum, DocumentError> {
    word("SHA-256", text, Sha256Sum::parse)
}
