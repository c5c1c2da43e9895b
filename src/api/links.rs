//! Paths of otter's objects, with their ids percent-encoded.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::names::escape_vim;

/// The path of a machine. It has no `%2F`, because some proxies refuse it: a slash of an id has the
/// escape of names, which is `%252f` in a path.
#[must_use]
pub fn machine(id: &MachineId) -> String {
    let id = id.to_string();
    let id = if id.contains('/') { escape_vim(&id) } else { id };
    format!("/v1/machines/{}", encode(&id))
}

/// The path of a job.
#[must_use]
pub fn job(id: JobId) -> String {
    format!("/v1/jobs/{id}")
}

/// The path of a lease.
#[must_use]
pub fn lease(id: LeaseId) -> String {
    format!("/v1/leases/{id}")
}

/// The links of a lease: `self`, `wait`, `renew`, and `machine` and `job` if it has them.
#[must_use]
pub fn for_lease(
    id: LeaseId,
    machine_id: Option<&MachineId>,
    work: Option<JobId>,
) -> BTreeMap<String, String> {
    let lease = lease(id);
    let mut links = BTreeMap::from([
        ("wait".to_owned(), format!("{lease}/wait")),
        ("renew".to_owned(), format!("{lease}/renew")),
        ("self".to_owned(), lease),
    ]);
    links.extend(machine_id.map(|machine_id| ("machine".to_owned(), machine(machine_id))));
    links.extend(work.map(|work| ("job".to_owned(), job(work))));
    links
}

/// The links of a job: `self`, `wait`, and `machine` if it has one.
#[must_use]
pub fn for_job(id: JobId, machine_id: Option<&MachineId>) -> BTreeMap<String, String> {
    let job = job(id);
    let mut links =
        BTreeMap::from([("wait".to_owned(), format!("{job}/wait")), ("self".to_owned(), job)]);
    links.extend(machine_id.map(|machine_id| ("machine".to_owned(), machine(machine_id))));
    links
}

/// All characters but the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes one segment of a path (RFC 3986).
#[must_use]
pub fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, RESERVED).to_string()
}
