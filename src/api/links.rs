//! Paths to otter's own objects, with whatever an id may hold percent-encoded.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::domain::ids::{JobId, MachineId};

/// The path of a machine.
#[must_use]
pub fn machine(id: &MachineId) -> String {
    format!("/v1/machines/{}", encode(id.as_str()))
}

/// The path of a job.
#[must_use]
pub fn job(id: JobId) -> String {
    format!("/v1/jobs/{id}")
}

/// The links that a job carries.
#[must_use]
pub fn of_job(id: JobId, on: &MachineId) -> BTreeMap<String, String> {
    let job = job(id);
    BTreeMap::from([
        ("wait".to_owned(), format!("{job}/wait")),
        ("self".to_owned(), job),
        ("machine".to_owned(), machine(on)),
    ])
}

/// Percent-encodes one segment of a path (RFC 3986): all but the unreserved characters.
#[must_use]
pub fn encode(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
