//! Calls that start a job: idempotency, the outcome form, the soft form, and the plain 202.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, PartialSchema};

use super::ApiState;
use super::extract::{
    InvalidValue, JsonBody, NoParameters, Parameter, Parameters, Parsed, Query, QueryValues,
    failure_at, header,
};
use super::jobs::require_visible;
use super::jobs::wire::Job;
use super::lease_authorization;
use super::long_poll::{WaitEnd, WaitMode, WaitPermit};
use super::problem::ApiError;
use super::roles::read_caller;
use super::{links, respond};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;
use crate::domain::job::{JobRequest, JobState};
use crate::service::callers::Caller;
use crate::service::event_stream::Version;
use crate::service::idempotency::{Claimed, mismatch};
use crate::service::jobs::gate::{Pass, Right};
use crate::service::jobs::{JobView, NewJob};
use crate::service::machines::MachineView;
use crate::storage::IdempotencyKey;

pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The longest key and the longest reference.
const MAX_KEY: usize = 255;
const MAX_REFERENCE: usize = 512;

/// How to start a job.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StartQuery {
    /// Asks for the outcome: 200 once it succeeded, its problem where it did not, and a problem
    /// when the time is up.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
    /// How long the job may take, its queueing included: `1s` to `168h`.
    #[param(value_type = Option<String>)]
    deadline: Option<Parsed<Deadline>>,
}

/// How long a job may take.
struct Deadline(Duration);

/// What every starting call may say beside its own body.
pub struct JobStart {
    version: Version,
    wait: Option<WaitMode>,
    deadline: Option<Duration>,
    reference: Option<String>,
    key: Option<IdempotencyKey>,
    right: Right,
}

/// What became of a request to start a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartedJob {
    New(JobId),
    /// The key was used before, for the same request: this is the job that it started.
    Replayed(JobId),
}

impl StartedJob {
    /// The job, and whether an earlier call started it.
    const fn parts(self) -> (JobId, bool) {
        match self {
            Self::New(id) => (id, false),
            Self::Replayed(id) => (id, true),
        }
    }
}

/// What a call comes to, before anything is started.
enum PreparedStart {
    /// It repeats the call that started this job.
    Replay(JobId),
    New(Box<NewJob>),
}

/// A starting call with its body: what a handler of one takes. `Q` are the parameters that it has
/// of its own.
pub struct StartRequest<T, Q = NoParameters> {
    pub start: JobStart,
    pub body: T,
    pub query: Q,
}

impl<T, Q> FromRequest<ApiState> for StartRequest<T, Q>
where
    T: DeserializeOwned + PartialSchema + Default,
    Q: Parameters,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let Query(query, start_query) =
            QueryValues::from_uri(&parts.uri)?.read::<Q, StartQuery>()?;
        let request = Request::from_parts(parts.clone(), body);
        let JsonBody { value, bytes } = JsonBody::from_request(request, api).await?;
        let start = JobStart::read(api, &parts, start_query, &bytes)?;
        Ok(Self { start, body: value, query })
    }
}

impl Parameter for Deadline {
    fn from_text(text: &str) -> Result<Self, InvalidValue> {
        const RANGE: RangeInclusive<Duration> =
            Duration::from_secs(1)..=Duration::from_hours(7 * 24);
        let deadline = Duration::from_text(text)?;
        if RANGE.contains(&deadline) {
            Ok(Self(deadline))
        } else {
            Err(InvalidValue::new("out-of-range", text, "from 1s to 7d is wanted"))
        }
    }
}

impl JobStart {
    /// # Parameters
    /// - `body`: as it was sent; the fingerprint of the key covers it.
    fn read(
        api: &ApiState,
        parts: &Parts,
        query: StartQuery,
        body: &Bytes,
    ) -> Result<Self, Failure> {
        let caller = read_caller(&parts.extensions)?;
        let reference = read_reference(&parts.headers)?;
        let key =
            read_idempotency_key(api, &caller, &parts.method, &parts.uri, &parts.headers, body)?;
        Ok(Self {
            version: api.services().event_stream.version(),
            right: lease_authorization::read_authorization(api, &caller, &parts.headers)?,
            wait: WaitMode::from_request(api, query.wait.map(Parsed::value), &parts.headers),
            deadline: query.deadline.map(|Parsed(Deadline(deadline))| deadline),
            reference,
            key,
        })
    }

    /// Who calls.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.right.caller
    }

    /// The machine that the call names, if it exists for the caller.
    ///
    /// # Errors
    /// As [`Machines::resolve`](crate::service::machines::Machines::resolve).
    pub fn resolve(&self, api: &ApiState, reference: &str) -> Result<MachineView, Failure> {
        api.services().machines.resolve(&self.right.caller.scope, reference)
    }

    /// Starts the job that `plan` asks for, on the machine that it names, and answers as the caller
    /// asked. A repeated call is answered without a plan.
    ///
    /// # Errors
    /// Those of `plan` and of [`Jobs::start`](crate::service::jobs::Jobs::start);
    /// `idempotency-mismatch`; `too-many-waits`, with nothing started.
    pub async fn run(
        self,
        api: &ApiState,
        plan: impl FnOnce(&Self) -> Result<(MachineView, JobRequest), Failure>,
    ) -> Result<Response, Failure> {
        let prepared = self.prepare(api, plan).await?;
        let permit = self.acquire_permit(api)?;
        let started = self.start_prepared(api, prepared).await?;
        self.answer(api, started, permit).await
    }

    /// Starts the job that `plan` asks for, if this call does not repeat an earlier one. A call
    /// that is to wait for it takes its [`WaitPermit`] before.
    ///
    /// # Errors
    /// As [`JobStart::start`].
    pub async fn start_job(
        &self,
        api: &ApiState,
        plan: impl FnOnce(&Self) -> Result<(MachineView, JobRequest), Failure>,
    ) -> Result<StartedJob, Failure> {
        let prepared = self.prepare(api, plan).await?;
        self.start_prepared(api, prepared).await
    }

    /// Looks up whether the call repeats an earlier one, and if not, what it starts.
    ///
    /// A job whose machine has left the caller's scope does not exist for the caller: a call that
    /// repeats its call is checked like a new one, and starts nothing.
    async fn prepare(
        &self,
        api: &ApiState,
        plan: impl FnOnce(&Self) -> Result<(MachineView, JobRequest), Failure>,
    ) -> Result<PreparedStart, Failure> {
        let (mut claim, mut used_for_invisible) = (None, None);
        if let Some(key) = &self.key {
            match api.services().jobs.claim(key.clone()).await? {
                Claimed::New(new) => claim = Some(new),
                Claimed::Used(job) if self.can_see(api, job).await? => {
                    return Ok(PreparedStart::Replay(job));
                }
                Claimed::Used(_) => used_for_invisible = Some(key),
            }
        }
        let (machine, request) = plan(self)?;
        api.services().machines.may_change(&machine)?;
        if let Some(key) = used_for_invisible {
            return Err(mismatch(&key.key));
        }
        Ok(PreparedStart::New(Box::new(NewJob {
            machine: machine.machine,
            request,
            right: self.right.clone(),
            reference: self.reference.clone(),
            deadline: self.deadline,
            key: claim,
        })))
    }

    async fn start_prepared(
        &self,
        api: &ApiState,
        prepared: PreparedStart,
    ) -> Result<StartedJob, Failure> {
        let new = match prepared {
            PreparedStart::Replay(job) => return Ok(StartedJob::Replayed(job)),
            PreparedStart::New(new) => *new,
        };
        let machine = Arc::clone(&new.machine);
        let job = api.services().jobs.start(new).await?;
        // A caller that shows the lease itself overrides nothing of it.
        if let (Pass::Nothing, Some(reason)) = (&self.right.pass, &self.right.override_reason) {
            api.services().leases.record_override(&machine, &self.right.caller.name, reason).await;
        }
        Ok(StartedJob::New(job))
    }

    /// Waits for the job and answers with what it brought about, by `show`. A call that does not
    /// say how long it may block does so for as long as any may.
    ///
    /// # Errors
    /// Those of `show`; the job's own are an answer.
    pub async fn answer_with(
        &self,
        api: &ApiState,
        started: StartedJob,
        permit: WaitPermit,
        respond: impl FnOnce(&Version, &JobView) -> Result<Response, Failure>,
    ) -> Result<Response, Failure> {
        let (id, replayed) = started.parts();
        let mode = WaitMode::Outcome(self.wait.map_or(api.settings().max_wait, WaitMode::time));
        let result = match self.wait_for_end(api, id, mode.time(), permit).await? {
            (ended, None) => succeeded(&ended).and_then(|()| respond(&self.version, &ended)),
            (view, Some(kind)) => Err(self.unfinished(id, &view, kind)),
        };
        let mut response = result.unwrap_or_else(|failure| ApiError(failure).into_response());
        mode.set_headers(&mut response);
        if replayed {
            respond::set(&mut response, IDEMPOTENT_REPLAYED, "true");
        }
        Ok(response)
    }

    /// The place in which the call waits, if it does.
    fn acquire_permit(&self, api: &ApiState) -> Result<Option<(WaitMode, WaitPermit)>, Failure> {
        self.wait.map(|mode| WaitPermit::acquire(api).map(|permit| (mode, permit))).transpose()
    }

    async fn answer(
        &self,
        api: &ApiState,
        started: StartedJob,
        permit: Option<(WaitMode, WaitPermit)>,
    ) -> Result<Response, Failure> {
        let (id, replayed) = started.parts();
        let mut response = match permit {
            None => self.accepted(api, id, &self.current(api, id).await?),
            Some((mode, permit)) => {
                // A problem is an answer like any other: it says how long was waited, and whether
                // it is a replay.
                let result = self.wait_and_answer(api, id, mode, permit).await;
                let mut response =
                    result.unwrap_or_else(|failure| ApiError(failure).into_response());
                mode.set_headers(&mut response);
                response
            }
        };
        if replayed {
            respond::set(&mut response, IDEMPOTENT_REPLAYED, "true");
        }
        Ok(response)
    }

    async fn wait_and_answer(
        &self,
        api: &ApiState,
        id: JobId,
        mode: WaitMode,
        permit: WaitPermit,
    ) -> Result<Response, Failure> {
        match (self.wait_for_end(api, id, mode.time(), permit).await?, mode) {
            ((ended, None), _) => outcome(api, &self.version, &ended),
            ((view, Some(_)), WaitMode::Preferred(_)) => Ok(self.accepted(api, id, &view)),
            ((view, Some(kind)), WaitMode::Outcome(_)) => Err(self.unfinished(id, &view, kind)),
        }
    }

    /// The job at its end; or as it is, and why the wait for its end is over.
    async fn wait_for_end(
        &self,
        api: &ApiState,
        id: JobId,
        time: Duration,
        permit: WaitPermit,
    ) -> Result<(JobView, Option<FailureKind>), Failure> {
        let kind = match permit.wait(api, time, api.services().jobs.ended(id)).await {
            WaitEnd::Done(ended) => {
                let ended =
                    self.require_visible_job(api, ended?.ok_or_else(|| missing_job(id))?)?;
                if ended.job.state.is_end() {
                    return Ok((ended, None));
                }
                FailureKind::ShuttingDown
            }
            WaitEnd::TimeUp => FailureKind::WaitTimeout,
            WaitEnd::ShuttingDown => FailureKind::ShuttingDown,
        };
        let view = self.current(api, id).await?;
        // It may have ended in the moment between.
        let ended = view.job.state.is_end();
        Ok((view, (!ended).then_some(kind)))
    }

    /// The job as it is now.
    ///
    /// # Errors
    /// The store's; `not-found` if its machine has left the caller's scope.
    async fn current(&self, api: &ApiState, id: JobId) -> Result<JobView, Failure> {
        self.require_visible_job(
            api,
            api.services().jobs.get(id).await?.ok_or_else(|| missing_job(id))?,
        )
    }

    fn require_visible_job(&self, api: &ApiState, view: JobView) -> Result<JobView, Failure> {
        let id = view.job.id.to_string();
        require_visible(api, self.caller(), Some(view), &id)
    }

    /// Whether the job exists for the caller.
    async fn can_see(&self, api: &ApiState, id: JobId) -> Result<bool, Failure> {
        if !self.caller().scope.is_restricted() {
            return Ok(true);
        }
        let view = api.services().jobs.get(id).await?;
        let visibility = api.services().machines.visibility();
        Ok(view.is_some_and(|view| visibility.shows_job(self.caller(), &view.job)))
    }

    fn accepted(&self, api: &ApiState, id: JobId, view: &JobView) -> Response {
        let mut response = respond::object(api, &self.version, &Job::from_view(view));
        *response.status_mut() = StatusCode::ACCEPTED;
        respond::set(&mut response, LOCATION, &links::job(id));
        respond::set(&mut response, RETRY_AFTER, "1");
        response
    }

    /// Without a key a client that repeats its POST would start a second job, so it is told not to.
    fn unfinished(&self, id: JobId, view: &JobView, with_key: FailureKind) -> Failure {
        let kind = if self.key.is_some() { with_key } else { FailureKind::JobStillRunning };
        unfinished_job(kind, id, view)
    }
}

/// The outcome of a job that ended: the job itself, or why it did not succeed.
///
/// # Errors
/// The job's own.
pub fn outcome(api: &ApiState, version: &Version, view: &JobView) -> Result<Response, Failure> {
    succeeded(view)?;
    let mut response = respond::object(api, version, &Job::from_view(view));
    respond::set(&mut response, LOCATION, &links::job(view.job.id));
    Ok(response)
}

fn succeeded(view: &JobView) -> Result<(), Failure> {
    match (&view.job.state, &view.job.error) {
        (JobState::Succeeded, _) => Ok(()),
        (_, Some(failure)) => Err(failure.clone().with_job(view.job.id)),
        (_, None) => {
            tracing::error!(job = %view.job.id, "the job ended without success and without a reason");
            Err(Failure::new(FailureKind::Internal, "a job without a reason"))
        }
    }
}

/// The failure of a wait that ended before its job.
#[must_use]
pub fn unfinished_job(kind: FailureKind, id: JobId, view: &JobView) -> Failure {
    let job = &view.job;
    let detail = match kind {
        FailureKind::ShuttingDown => format!(
            "otter is shutting down; the job ({}, {}) goes on when it is back: GET {}/wait",
            job.kind().as_str(),
            job.state.as_str(),
            links::job(id)
        ),
        _ => format!(
            "The job ({}, {}: {}) has not ended yet and goes on: GET {}/wait",
            job.kind().as_str(),
            job.state.as_str(),
            job.phase,
            links::job(id)
        ),
    };
    job.add_machine_to(Failure::new(kind, detail)).with_job(id)
}

/// A job that was accepted and is nowhere: never the caller's fault.
fn missing_job(id: JobId) -> Failure {
    tracing::error!(job = %id, "an accepted job is not in the store");
    Failure::new(FailureKind::Internal, "an accepted job is not in the store")
}

/// What a call sent as `Otter-Reference`.
pub fn read_reference(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    read_bounded_header(headers, "otter-reference", 0, MAX_REFERENCE)
}

/// The `Idempotency-Key` of a call: its scope is the caller, the method and the path as written.
pub fn read_idempotency_key(
    api: &ApiState,
    caller: &Caller,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Option<IdempotencyKey>, Failure> {
    let key = read_bounded_header(headers, "idempotency-key", 1, MAX_KEY)?;
    Ok(key.map(|key| IdempotencyKey {
        caller: caller.name.to_string(),
        method: method.to_string(),
        path: uri.path().to_owned(),
        key,
        fingerprint: fingerprint(uri, body),
        created_at: api.clock().now(),
    }))
}

fn read_bounded_header(
    headers: &HeaderMap,
    name: &'static str,
    minimum: usize,
    maximum: usize,
) -> Result<Option<String>, Failure> {
    let Some(text) = header(headers, name)? else { return Ok(None) };
    let length = text.chars().count();
    if (minimum..=maximum).contains(&length) {
        return Ok(Some(text.to_owned()));
    }
    let detail = format!(
        "The header {name} has {length} characters; from {minimum} to {maximum} are wanted."
    );
    Err(failure_at(FailureKind::InvalidRequest, name, "out-of-range", detail))
}

/// The body and the query without `wait`: how long a caller waits does not make it another request.
fn fingerprint(uri: &Uri, body: &Bytes) -> [u8; 32] {
    let mut digest = Sha256::new();
    // Empty pairs say nothing: no query at all and one of `wait` alone are the same request.
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        if pair != "wait" && !pair.starts_with("wait=") {
            digest.update(pair);
            digest.update(b"&");
        }
    }
    digest.update(b"\n");
    digest.update(body);
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_caller_waits_does_not_make_it_another_request() {
        let fingerprint_of = |uri: &'static str, body: &'static str| {
            fingerprint(&Uri::from_static(uri), &Bytes::from_static(body.as_bytes()))
        };
        let plain = fingerprint_of("/x", "{}");
        for same in ["/x?", "/x?wait=5s", "/x?wait", "/x?&wait=1m&"] {
            assert_eq!(fingerprint_of(same, "{}"), plain, "{same}");
        }
        assert_eq!(
            fingerprint_of("/x?deadline=5m&wait=1", "{}"),
            fingerprint_of("/x?deadline=5m", "{}")
        );
        assert_ne!(fingerprint_of("/x?deadline=5m", "{}"), plain);
        assert_ne!(fingerprint_of("/x", "{} "), plain);
    }
}
