//! Paths of otter's objects and pages, with percent-encoded ids. Every link of a response is made
//! here, and begins with the path under which the client of the request reaches otter.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::domain::base_path::BasePath;
use crate::domain::ids::{ArtifactId, JobId, LeaseId, MachineId, ScreenPictureId};
use crate::domain::names::escape_vim;

tokio::task_local! {
    /// The path under which the client of the present request reaches otter. All links begin with
    /// it.
    static BASE: BasePath;
}

/// Runs a future. The links that it makes begin with the path `base`.
pub async fn under<F: Future>(base: BasePath, future: F) -> F::Output {
    BASE.scope(base, future).await
}

/// Runs a function. The links that it makes begin with the path `base`.
pub fn under_sync<T>(base: &BasePath, function: impl FnOnce() -> T) -> T {
    BASE.sync_scope(base.clone(), function)
}

/// The path with which links begin at present.
#[must_use]
pub fn base() -> BasePath {
    BASE.try_with(Clone::clone).unwrap_or_default()
}

/// One of otter's own paths, as the client of the request reaches it.
#[must_use]
pub fn path(own: &str) -> String {
    format!("{}{own}", base().prefix())
}

/// The path of a machine. It never contains `%2F`, which some proxies refuse: a `/` in an id is
/// first escaped as in vim25 names, and then percent-encoded to `%252f`.
#[must_use]
pub fn machine(id: &MachineId) -> String {
    let id = id.to_string();
    let id = if id.contains('/') { escape_vim(&id) } else { id };
    path(&format!("/v1/machines/{}", encode(&id)))
}

/// The path of the page about a problem.
#[must_use]
pub fn problem(code: &str) -> String {
    path(&format!("/problems/{code}"))
}

/// The path of a job.
#[must_use]
pub fn job(id: JobId) -> String {
    path(&format!("/v1/jobs/{id}"))
}

/// The path of a lease.
#[must_use]
pub fn lease(id: LeaseId) -> String {
    path(&format!("/v1/leases/{id}"))
}

/// The path of a picture that a wait for a screen saw last.
#[must_use]
pub fn screen_picture(id: ScreenPictureId) -> String {
    path(&format!("/v1/screen-pictures/{id}"))
}

/// The path of the list of the artifacts of a lease.
#[must_use]
pub fn artifacts_of(lease: LeaseId) -> String {
    path(&format!("/v1/artifacts?lease={lease}"))
}

/// The links of an artifact: `self`, `content`, `lease`, and `machine` if its lease has one.
#[must_use]
pub fn for_artifact(
    id: ArtifactId,
    of: LeaseId,
    machine_id: Option<&MachineId>,
) -> BTreeMap<String, String> {
    let artifact = path(&format!("/v1/artifacts/{id}"));
    let mut links = BTreeMap::from([
        ("content".to_owned(), format!("{artifact}/content")),
        ("lease".to_owned(), lease(of)),
        ("self".to_owned(), artifact),
    ]);
    links.extend(machine_id.map(|machine_id| ("machine".to_owned(), machine(machine_id))));
    links
}

/// The links of a lease: `self`, `wait`, `renew`, `artifacts`, and `machine` and `job` if it has
/// them.
#[must_use]
pub fn for_lease(
    id: LeaseId,
    machine_id: Option<&MachineId>,
    work: Option<JobId>,
) -> BTreeMap<String, String> {
    let lease = lease(id);
    let mut links = BTreeMap::from([
        ("artifacts".to_owned(), artifacts_of(id)),
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

/// All characters except the unreserved ones of RFC 3986. They are percent-encoded in a path.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes one segment of a path (RFC 3986).
#[must_use]
pub fn encode(segment: &str) -> String {
    utf8_percent_encode(segment, RESERVED).to_string()
}

/// A body whose links begin with the path `base`. The body needs the path itself, because the body
/// of a stream makes its links while it is sent.
pub struct LinkedBody {
    body: Body,
    base: BasePath,
}

impl LinkedBody {
    #[must_use]
    pub const fn new(body: Body, base: BasePath) -> Self {
        Self { body, base }
    }
}

impl HttpBody for LinkedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Self { body, base } = &mut *self;
        under_sync(base, || Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
