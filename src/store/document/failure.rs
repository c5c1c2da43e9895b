//! The JSON document of the failure of a job or a lease.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DocumentError, job_id, lease_id, word};
use crate::domain::failure::{Failure, FailureKind, Fault, InputError};
use crate::domain::ids::MachineId;

#[derive(Serialize, Deserialize)]
pub struct FailureDocument {
    kind: String,
    detail: String,
    fault: Option<FaultDocument>,
    /// Absent in documents that an earlier version of otter wrote.
    #[serde(default)]
    cause: Option<String>,
    machine: Option<(String, String)>,
    job: Option<String>,
    #[serde(default)]
    lease: Option<String>,
    candidates: Vec<(String, String)>,
    errors: Vec<InputErrorDocument>,
}

#[derive(Serialize, Deserialize)]
pub struct FaultDocument {
    name: String,
    message: String,
    details: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
pub struct InputErrorDocument {
    pointer: Option<String>,
    parameter: Option<String>,
    code: String,
    detail: String,
}

/// Encodes a failure that is not part of another document.
pub fn encode(failure: &Failure) -> Result<String, DocumentError> {
    serde_json::to_string(&FailureDocument::from(failure)).map_err(DocumentError::Json)
}

/// Decodes a failure that is not part of another document.
pub fn decode(text: &str) -> Result<Failure, DocumentError> {
    let document: FailureDocument = serde_json::from_str(text).map_err(DocumentError::Json)?;
    document.try_into()
}

impl From<&Failure> for FailureDocument {
    fn from(failure: &Failure) -> Self {
        // `retry_after`, `sent` and `seen` are not stored: only failures of requests have them. The
        // storage never has what a guest showed, which can be a password.
        let Failure {
            kind,
            detail,
            fault,
            cause,
            machine,
            job,
            lease,
            candidates,
            errors,
            retry_after: _,
            sent: _,
            seen: _,
        } = failure;
        Self {
            kind: kind.code().to_owned(),
            detail: detail.clone(),
            fault: fault.as_ref().map(|Fault { name, message, details }| FaultDocument {
                name: name.clone(),
                message: message.clone(),
                details: details.clone(),
            }),
            cause: cause.map(|cause| cause.code().to_owned()),
            machine: machine.as_ref().map(|(id, name)| (id.to_string(), name.clone())),
            job: job.as_ref().map(ToString::to_string),
            lease: lease.as_ref().map(ToString::to_string),
            candidates: candidates.clone(),
            errors: errors
                .iter()
                .map(|InputError { pointer, parameter, code, detail }| InputErrorDocument {
                    pointer: pointer.clone(),
                    parameter: parameter.clone(),
                    code: code.clone().into_owned(),
                    detail: detail.clone(),
                })
                .collect(),
        }
    }
}

impl TryFrom<FailureDocument> for Failure {
    type Error = DocumentError;

    fn try_from(failure: FailureDocument) -> Result<Self, DocumentError> {
        let FailureDocument {
            kind,
            detail,
            fault,
            cause,
            machine,
            job,
            lease,
            candidates,
            errors: input_errors,
        } = failure;
        Ok(Self {
            kind: word("kind of failure", kind, FailureKind::parse)?,
            detail,
            fault: fault.map(|FaultDocument { name, message, details }| Fault {
                name,
                message,
                details,
            }),
            cause: cause
                .map(|cause| word("kind of failure", cause, FailureKind::parse))
                .transpose()?,
            machine: machine.map(|(id, name)| (MachineId::from_backend(id), name)),
            job: job.map(job_id).transpose()?,
            lease: lease.map(lease_id).transpose()?,
            candidates,
            errors: input_errors
                .into_iter()
                .map(|InputErrorDocument { pointer, parameter, code, detail }| InputError {
                    pointer,
                    parameter,
                    code: code.into(),
                    detail,
                })
                .collect(),
            retry_after: None,
            sent: None,
            seen: None,
        })
    }
}
