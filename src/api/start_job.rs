//! Calls that start a job: reads their headers and parameters, finds repeats by the idempotency
//! key, starts the job, and answers with 202, or with the outcome if the caller waits.

use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
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
use super::jobs::{JobReader, job_response, require_visible};
use super::lease_authorization;
use super::long_poll::{WaitEnd, WaitMode, WaitPermit};
use super::problem::{self, ApiError};
use super::roles::read_caller;
use super::{links, respond};
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::file_job::FileTarget;
use crate::domain::ids::JobId;
use crate::domain::job::{JobRequest, JobState};
use crate::service::callers::Caller;
use crate::service::event_stream::Version;
use crate::service::idempotency::{Claimed, mismatch};
use crate::service::jobs::authorization::{LeaseCredential, Requester};
use crate::service::jobs::{JobView, NewFileJob, NewJob};
use crate::service::machines::MachineView;
use crate::storage::IdempotencyKey;

pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The largest numbers of characters of an `Idempotency-Key` and of an `Otter-Reference`.
const MAX_KEY: usize = 255;
const MAX_REFERENCE: usize = 512;

/// The query parameters of calls that start a job.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StartQuery {
    /// The longest time that the call waits for the end of the job: `30s`, `10m`. The response is
    /// 200 if the job succeeded, the problem of the job if it failed, and `wait-timeout` or
    /// `job-still-running` if the time is up. Without an `Idempotency-Key`, a problem of status
    /// 429, 500 or 502 to 504 of a job that called the host is `job-failed`, because clients repeat
    /// requests with those statuses.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
    /// The time limit of the job, including its time in the queue: `1s` to `168h`.
    #[param(value_type = Option<String>)]
    deadline: Option<Parsed<Deadline>>,
}

/// The time limit of a job.
struct Deadline(Duration);

/// The parameters and headers that all calls that start a job have in common.
pub struct JobStart {
    version: Version,
    wait: Option<WaitMode>,
    deadline: Option<Duration>,
    reference: Option<String>,
    key: Option<IdempotencyKey>,
    requester: Requester,
}

/// The result of a request to start a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartedJob {
    New(JobId),
    /// An earlier request with the same idempotency key started this job.
    Replayed(JobId),
}

impl StartedJob {
    /// The id of the job, and whether an earlier call started the job.
    const fn parts(self) -> (JobId, bool) {
        match self {
            Self::New(id) => (id, false),
            Self::Replayed(id) => (id, true),
        }
    }
}

/// The job that a call asks for.
enum Plan {
    OnMachine(MachineView, JobRequest),
    OnFile(FileTarget, JobRequest),
}

/// A call that was checked and has not started anything yet.
enum PreparedStart {
    /// The call repeats an earlier call, which started this job.
    Replay(JobId),
    New(Box<NewJob>),
    NewOnFile(Box<NewFileJob>),
}

/// The extractor for handlers that start a job. `T` is the type of the body, and `Q` has the
/// operation's own query parameters.
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
        let JsonBody::<T> { value, bytes } = JsonBody::from_request(request, api).await?;
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
            Err(InvalidValue::new("out-of-range", text, "write a duration from 1s to 7d"))
        }
    }
}

impl JobStart {
    /// Reads the parameters and headers that all calls that start a job have in common.
    ///
    /// # Parameters
    /// - `body`: the bytes of the body, which are part of the key's fingerprint.
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
            requester: lease_authorization::read_authorization(api, &caller, &parts.headers)?,
            wait: WaitMode::from_request(api, query.wait.map(Parsed::value), &parts.headers),
            deadline: query.deadline.map(|Parsed(Deadline(deadline))| deadline),
            reference,
            key,
        })
    }

    /// The caller of the request.
    #[must_use]
    pub const fn caller(&self) -> &Caller {
        &self.requester.caller
    }

    /// Resolves the machine of the request in the caller's scope.
    ///
    /// # Errors
    /// The errors of [`Machines::resolve`](crate::service::machines::Machines::resolve).
    pub fn resolve(&self, api: &ApiState, reference: &str) -> Result<MachineView, Failure> {
        api.services().machines.resolve(&self.requester.caller.scope, reference)
    }

    /// Starts the job that `plan` returns, and answers with the job or, if the caller waits, with
    /// its outcome. Does not call `plan` if the call repeats an earlier one.
    ///
    /// # Errors
    /// The errors of `plan` and of [`Jobs::start`](crate::service::jobs::Jobs::start);
    /// `idempotency-mismatch`; `too-many-waits`, in which case nothing was started.
    pub async fn run(
        self,
        api: &ApiState,
        plan: impl FnOnce(&Self) -> Result<(MachineView, JobRequest), Failure>,
    ) -> Result<Response, Failure> {
        let plan =
            |start: &Self| plan(start).map(|(machine, request)| Plan::OnMachine(machine, request));
        self.run_plan(api, plan).await
    }

    /// As [`JobStart::run`], for a job on a file of a datastore.
    ///
    /// # Errors
    /// The errors of `plan` and of [`Jobs::start_file`](crate::service::jobs::Jobs::start_file);
    /// `idempotency-mismatch`; `too-many-waits`, in which case nothing was started.
    pub async fn run_on_file(
        self,
        api: &ApiState,
        plan: impl FnOnce(&Self) -> Result<(FileTarget, JobRequest), Failure>,
    ) -> Result<Response, Failure> {
        let plan =
            |start: &Self| plan(start).map(|(target, request)| Plan::OnFile(target, request));
        self.run_plan(api, plan).await
    }

    async fn run_plan(
        self,
        api: &ApiState,
        plan: impl FnOnce(&Self) -> Result<Plan, Failure>,
    ) -> Result<Response, Failure> {
        let prepared = self.prepare(api, plan).await?;
        let permit = self.acquire_permit(api)?;
        let started = self.start_prepared(api, prepared).await?;
        let ((id, _), has_key) = (started.parts(), self.key.is_some());
        unless_panicked(id, has_key, self.answer(api, started, permit)).await
    }

    /// Starts the job that `plan` returns, unless this call repeats an earlier one. A caller that
    /// waits for the job acquires its [`WaitPermit`] first.
    ///
    /// # Errors
    /// The errors of [`JobStart::run`].
    pub async fn start_job(
        &self,
        api: &ApiState,
        plan: impl FnOnce(&Self) -> Result<(MachineView, JobRequest), Failure>,
    ) -> Result<StartedJob, Failure> {
        let plan =
            |start: &Self| plan(start).map(|(machine, request)| Plan::OnMachine(machine, request));
        let prepared = self.prepare(api, plan).await?;
        self.start_prepared(api, prepared).await
    }

    /// Finds out whether the call repeats an earlier call. If not, asks `plan` for the new job.
    ///
    /// If the machine of an earlier call's job has left the caller's scope, the job is invisible to
    /// the caller. The repeat of this call is checked like a new call, and then fails with
    /// `idempotency-mismatch`.
    async fn prepare(
        &self,
        api: &ApiState,
        plan: impl FnOnce(&Self) -> Result<Plan, Failure>,
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
        let plan = plan(self)?;
        if let Plan::OnMachine(machine, _) = &plan {
            api.services().machines.may_change(machine)?;
        }
        if let Some(key) = used_for_invisible {
            return Err(mismatch(&key.key));
        }
        let (requester, reference) = (self.requester.clone(), self.reference.clone());
        let (deadline, key) = (self.deadline, claim);
        Ok(match plan {
            Plan::OnMachine(machine, request) => {
                let machine = machine.machine;
                let new = NewJob { machine, request, requester, reference, deadline, key };
                PreparedStart::New(Box::new(new))
            }
            Plan::OnFile(target, request) => {
                let id = api.services().jobs.new_id();
                let new = NewFileJob { id, target, request, requester, reference, deadline, key };
                PreparedStart::NewOnFile(Box::new(new))
            }
        })
    }

    async fn start_prepared(
        &self,
        api: &ApiState,
        prepared: PreparedStart,
    ) -> Result<StartedJob, Failure> {
        let new = match prepared {
            PreparedStart::Replay(job) => return Ok(StartedJob::Replayed(job)),
            PreparedStart::NewOnFile(new) => {
                return Ok(StartedJob::New(api.services().jobs.start_file(*new).await?));
            }
            PreparedStart::New(new) => *new,
        };
        let machine = Arc::clone(&new.machine);
        let job = api.services().jobs.start(new).await?;
        // Record the override in the lease of the machine, unless the call sends the secret of that
        // lease: its holder needs no override.
        if let (LeaseCredential::Absent, Some(reason)) =
            (&self.requester.credential, &self.requester.override_reason)
        {
            api.services()
                .leases
                .record_override(&machine, &self.requester.caller.name, reason)
                .await;
        }
        Ok(StartedJob::New(job))
    }

    /// Waits for the job and answers with `respond`. If the call sets no time, it waits for
    /// `http.max_wait`.
    ///
    /// # Errors
    /// The errors of the store. Failures of `respond` and of the job become the response.
    pub async fn answer_with(
        &self,
        api: &ApiState,
        started: StartedJob,
        permit: WaitPermit,
        respond: impl FnOnce(&Version, &JobView) -> Result<Response, Failure>,
    ) -> Result<Response, Failure> {
        let (id, replayed) = started.parts();
        let mode = WaitMode::Outcome(self.wait.map_or(api.settings().max_wait, WaitMode::time));
        let outcome = async {
            match self.wait_for_end(api, id, mode.time(), permit).await? {
                (ended, None) => {
                    Ok(self.succeeded(&ended).and_then(|()| respond(&self.version, &ended)))
                }
                (view, Some(kind)) => Ok(Err(self.unfinished(id, &view, kind))),
            }
        };
        let result = unless_panicked(id, self.key.is_some(), outcome).await?;
        let mut response = result.unwrap_or_else(|failure| ApiError(failure).into_response());
        mode.set_headers(&mut response);
        if replayed {
            respond::set(&mut response, IDEMPOTENT_REPLAYED, "true");
        }
        Ok(response)
    }

    /// Acquires a permit if the call waits.
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
            None => self.accepted(api, id, &self.current(api, id).await?).await?,
            Some((mode, permit)) => {
                // Turn a failure into a response before the headers are added, so that a problem
                // has the same headers as a success: the wait time, and whether the call is a
                // replay.
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
            ((ended, None), _) => {
                self.succeeded(&ended)?;
                succeeded_response(api, &self.version, &self.reader(), &ended).await
            }
            ((view, Some(_)), WaitMode::Preferred(_)) => self.accepted(api, id, &view).await,
            ((view, Some(kind)), WaitMode::Outcome(_)) => Err(self.unfinished(id, &view, kind)),
        }
    }

    /// Waits for the end of the job. Returns the ended job and `None`, or the job that has not
    /// ended and the reason why the wait is over.
    async fn wait_for_end(
        &self,
        api: &ApiState,
        id: JobId,
        time: Duration,
        permit: WaitPermit,
    ) -> Result<(JobView, Option<FailureKind>), Failure> {
        let kind = match permit.wait(api, time, api.services().jobs.ended(id)).await {
            WaitEnd::Done(ended) => {
                let ended = self.read_started(api, id, ended)?;
                if ended.job.state.is_end() {
                    return Ok((ended, None));
                }
                FailureKind::ShuttingDown
            }
            WaitEnd::TimeUp => FailureKind::WaitTimeout,
            WaitEnd::ShuttingDown => FailureKind::ShuttingDown,
        };
        let view = self.current(api, id).await?;
        // The job can have ended after the wait was over and before its state was read. It then
        // counts as ended.
        let ended = view.job.state.is_end();
        Ok((view, (!ended).then_some(kind)))
    }

    /// The current state of the job.
    ///
    /// # Errors
    /// The errors of the store; `not-found` if the machine of the job has left the caller's scope.
    async fn current(&self, api: &ApiState, id: JobId) -> Result<JobView, Failure> {
        self.read_started(api, id, api.services().jobs.get(id).await)
    }

    /// Returns the job that this call started, as the store returned it. If the job cannot be read,
    /// a call without an idempotency key fails as `outcome-unknown`, because a repeat would start a
    /// second job.
    fn read_started(
        &self,
        api: &ApiState,
        id: JobId,
        read: Result<Option<JobView>, Failure>,
    ) -> Result<JobView, Failure> {
        let view =
            read.and_then(|view| view.ok_or_else(|| missing_job(id))).map_err(|failure| {
                if self.key.is_some() || !problem::invites_repetition(failure.kind) {
                    return failure;
                }
                unknown_state(id)
            })?;
        require_visible(api, self.caller(), Some(view), &id.to_string())
    }

    /// Whether the job is visible to the caller.
    async fn can_see(&self, api: &ApiState, id: JobId) -> Result<bool, Failure> {
        if !self.caller().scope.is_restricted() {
            return Ok(true);
        }
        let view = api.services().jobs.get(id).await?;
        let visibility = api.services().machines.visibility();
        Ok(view.is_some_and(|view| visibility.shows_job(self.caller(), &view.job)))
    }

    async fn accepted(
        &self,
        api: &ApiState,
        id: JobId,
        view: &JobView,
    ) -> Result<Response, Failure> {
        let job = self.reader().show(api, view).await?;
        let mut response = respond::object(api, &self.version, &job);
        *response.status_mut() = StatusCode::ACCEPTED;
        respond::set(&mut response, LOCATION, &links::job(id));
        respond::set(&mut response, RETRY_AFTER, "1");
        Ok(response)
    }

    /// The caller of the request as a reader of jobs.
    fn reader(&self) -> JobReader {
        JobReader::from_requester(&self.requester)
    }

    /// Checks that the ended job succeeded.
    ///
    /// # Errors
    /// The failure of the job. `job-failed` replaces it if the call has no idempotency key, the job
    /// may have called the host, and clients repeat a call with that failure: a repeat would start
    /// a second job.
    fn succeeded(&self, view: &JobView) -> Result<(), Failure> {
        succeeded(view).map_err(|failure| {
            let keeps_code = self.key.is_some()
                || !view.job.may_have_called_host()
                || !problem::invites_repetition(failure.kind);
            if keeps_code { failure } else { job_failed(&failure) }
        })
    }

    /// The failure of a call whose wait is over before its job has ended. Without an idempotency
    /// key, the code of the failure forbids a retry, because a repeated POST would start a second
    /// job.
    fn unfinished(&self, id: JobId, view: &JobView, with_key: FailureKind) -> Failure {
        let kind = if self.key.is_some() { with_key } else { FailureKind::JobStillRunning };
        unfinished_job(kind, id, view)
    }
}

/// The outcome of an ended job as a response.
///
/// # Errors
/// The failure of the job if it did not succeed.
pub async fn outcome(
    api: &ApiState,
    version: &Version,
    reader: &JobReader,
    view: &JobView,
) -> Result<Response, Failure> {
    succeeded(view)?;
    succeeded_response(api, version, reader, view).await
}

async fn succeeded_response(
    api: &ApiState,
    version: &Version,
    reader: &JobReader,
    view: &JobView,
) -> Result<Response, Failure> {
    let mut response = job_response(api, version, reader, view).await?;
    respond::set(&mut response, LOCATION, &links::job(view.job.id));
    Ok(response)
}

fn succeeded(view: &JobView) -> Result<(), Failure> {
    match (&view.job.state, &view.job.error) {
        (JobState::Succeeded, _) => Ok(()),
        (_, Some(failure)) => Err(failure.clone().with_job(view.job.id)),
        (_, None) => {
            tracing::error!(job = %view.job.id, "the job did not succeed and has no error");
            let detail = "a job that did not succeed has no error";
            Err(Failure::new(FailureKind::Internal, detail).with_job(view.job.id))
        }
    }
}

/// Runs the future that answers a call that started a job. If it panics, a call without an
/// idempotency key fails as `outcome-unknown`, because a repeat would start a second job.
async fn unless_panicked<T>(
    id: JobId,
    has_key: bool,
    answer: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    // The panic hook logs the message and the place of a panic, so they are not logged here.
    AssertUnwindSafe(answer).catch_unwind().await.unwrap_or_else(|_| {
        tracing::error!(job = %id, "the answer of a call that started a job panicked");
        Err(if has_key {
            Failure::new(FailureKind::Internal, "a handler panicked").with_job(id)
        } else {
            unknown_state(id)
        })
    })
}

/// The failure of a call without an idempotency key whose job cannot be read.
fn unknown_state(id: JobId) -> Failure {
    let detail = "The job was accepted, and its state cannot be read now. Do not repeat the call: \
                  read the job.";
    Failure::new(FailureKind::OutcomeUnknown, detail).with_job(id)
}

/// The failure `job-failed`, for a call whose job failed with a code that makes clients repeat the
/// call. It has the machine, the job and the fault of the job's own failure, whose code is in
/// `errors`.
fn job_failed(failure: &Failure) -> Failure {
    let code = failure.kind.code();
    let detail = match failure.kind {
        // The caller does not see the cause of an internal failure, which is only in the log.
        FailureKind::Internal => "otter failed; its log has the cause.",
        _ => failure.detail.as_str(),
    };
    let error =
        InputError { pointer: None, parameter: None, code: code.into(), detail: detail.to_owned() };
    Failure {
        kind: FailureKind::JobFailed,
        detail: format!(
            "The job may have called the host, and failed ({code}). Look at the machine before \
             you start another job. {detail}"
        ),
        errors: vec![error],
        retry_after: None,
        ..failure.clone()
    }
}

/// The failure of a wait that ended before the job has ended.
#[must_use]
pub fn unfinished_job(kind: FailureKind, id: JobId, view: &JobView) -> Failure {
    let job = &view.job;
    let detail = match kind {
        FailureKind::ShuttingDown => format!(
            "otter is shutting down; the job ({}, {}) continues after the restart: GET {}/wait",
            job.kind().as_str(),
            job.state.as_str(),
            links::job(id)
        ),
        _ => format!(
            "The job ({}, {}: {}) has not ended yet and continues: GET {}/wait",
            job.kind().as_str(),
            job.state.as_str(),
            job.phase,
            links::job(id)
        ),
    };
    job.add_machine_to(Failure::new(kind, detail)).with_job(id)
}

/// The internal failure for an accepted job that the store does not have.
fn missing_job(id: JobId) -> Failure {
    tracing::error!(job = %id, "an accepted job is not in the store");
    Failure::new(FailureKind::Internal, "an accepted job is not in the store")
}

/// Reads the header `Otter-Reference`.
///
/// # Errors
/// `invalid-request` if the header is malformed or too long.
pub fn read_reference(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    read_bounded_header(headers, "otter-reference", 0, MAX_REFERENCE)
}

/// Reads the header `Idempotency-Key`. A key is valid for one caller, method and path.
///
/// # Errors
/// `invalid-request` if the header is malformed, empty or too long.
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
    let detail =
        format!("The header {name} has {length} characters; it must have {minimum} to {maximum}.");
    Err(failure_at(FailureKind::InvalidRequest, name, "out-of-range", detail))
}

/// The digest of the body and of the query without `wait`, because the wait time does not change
/// what the request does.
fn fingerprint(uri: &Uri, body: &Bytes) -> [u8; 32] {
    let mut digest = Sha256::new();
    // Leave out empty parts, so that a query that has only `wait` and an absent query give the same
    // digest.
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

    #[tokio::test]
    async fn an_answer_that_panics_after_its_job_started_invites_no_repeat() {
        let id = JobId::new(uuid::Uuid::from_u128(7));
        for (has_key, kind) in [(false, FailureKind::OutcomeUnknown), (true, FailureKind::Internal)]
        {
            let panics = async { panic!("injected by the test") };
            let failure = unless_panicked::<()>(id, has_key, panics).await.unwrap_err();
            assert_eq!((failure.kind, failure.job), (kind, Some(id)));
        }
        assert!(!problem::invites_repetition(FailureKind::OutcomeUnknown));
        assert_eq!(unless_panicked(id, false, async { Ok(1) }).await, Ok(1));
    }

    #[test]
    fn the_wait_time_is_not_part_of_the_fingerprint() {
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
