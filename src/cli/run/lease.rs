//! The lease of `otter run`: the requests that create the lease, wait for it and release it. A
//! request whose answer is lost is sent again.
//!
//! ```text
//! create ─► queued ─► preparing ─► active ─► the command ─► release
//!  │           └──────────┴── ended: queue timeout, failure, operator
//!  └── the same idempotency key each time, so that a lost answer leaks no machine
//! ```

use std::cell::{Cell, OnceCell};
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use reqwest::RequestBuilder;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::Failure;
use super::arguments::RunCommand;
use super::client::{ANSWER_TIMEOUT, Answer, NoAnswer, OtterClient};
use super::exit::Exit;
use super::progress::Progress;
use crate::clock::Clock;
use crate::domain::lease::{EndReason, LeaseState};

/// The pause after the first try of a request. Each further pause is twice as long as the one
/// before, up to `LONGEST_RETRY_PAUSE`.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(3);

/// The minimum timeout of one try of a request.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

/// The problem code that otter sends if all matching machines are in use. Below it is the message
/// for this case if the lease may not wait in the queue.
const NO_FREE_MACHINE: &str = "no-free-machine";
const NO_FREE_MACHINE_NOW: &str = "no-free-machine: No matching machine is free now. Wait for one \
    with --queue-for 30m, or look: GET /v1/machines";

/// The maximum time that `otter run` waits for the release. If the release takes longer, otter goes
/// on with it alone.
const RELEASE_TIMEOUT: Duration = Duration::from_mins(5);

/// How long one request waits for the lease on a terminal, before `otter run` prints the progress
/// and sends the next request. `POLL_IN_LOG` is the time if there is no terminal.
const POLL_ON_TERMINAL: Duration = Duration::from_secs(1);
const POLL_IN_LOG: Duration = Duration::from_secs(3);

/// A lease in an answer of otter, with the fields that `otter run` uses.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteLease {
    pub id: String,
    state: String,
    pub machine: Option<String>,
    pub machine_name: Option<String>,
    pub position: Option<u32>,
    pub expires_at: Option<Timestamp>,
    pub max_expires_at: Option<Timestamp>,
    pub job: Option<String>,
    pub secret: Option<SecretString>,
    pub end: Option<RemoteLeaseEnd>,
    /// The recording whose artifacts are not made yet. Absent in answers of an earlier otter.
    #[serde(default)]
    recording: Option<RemoteRecording>,
}

/// A recording. Only its presence counts.
#[derive(Clone, Debug, Deserialize)]
struct RemoteRecording {}

/// How a lease has ended. While the machine is being released, how the lease will end.
#[derive(Clone, Debug, Deserialize)]
pub struct RemoteLeaseEnd {
    reason: String,
    by: String,
    detail: Option<String>,
}

/// The job that prepares the machine of a lease.
#[derive(Deserialize)]
struct RemoteJob {
    phase: String,
    progress: Option<u8>,
}

#[derive(Deserialize)]
struct RemoteMachine {
    ip_address: Option<String>,
    quarantine: Option<RemoteQuarantine>,
}

#[derive(Deserialize)]
struct RemoteQuarantine {
    reason: String,
}

/// What became of a lease and its machine when `otter run` released the lease.
#[derive(Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The machine is free, or another lease already holds it.
    Free,
    /// otter has quarantined the machine for this reason. No lease gets the machine until an
    /// operator ends the quarantine.
    Quarantined(String),
    /// otter has stored the end of the lease, but it is still releasing the machine.
    InProgress,
    /// The lease was released while it was queued and had no machine.
    LeftQueue,
    /// The lease had already ended by itself, and it holds no machine.
    EndedByItself,
    /// otter keeps the lease active until this time, because the command failed.
    Kept(Option<Timestamp>),
}

/// The lease that this run of `otter run` holds.
pub struct Lease {
    pub id: String,
    /// The value for the header `Otter-Lease`: `<id>.<secret>`. `None` if `otter run` does not know
    /// the secret.
    pub credential: Option<SecretString>,
    /// Whether the lease was queued when otter last answered.
    queued: Cell<bool>,
}

impl Lease {
    /// Makes the value for a lease with this id that is not queued.
    pub const fn new(id: String, credential: Option<SecretString>) -> Self {
        Self { id, credential, queued: Cell::new(false) }
    }

    /// Whether the lease was queued, and so had no machine, when otter last answered.
    pub const fn is_queued(&self) -> bool {
        self.queued.get()
    }

    /// Remembers whether the lease is queued, as an answer of otter says.
    fn update(&self, remote: &RemoteLease) {
        self.queued.set(remote.state() == Some(LeaseState::Queued));
    }
}

/// Makes the requests for one lease. A request that failed but may succeed later is sent again.
pub struct LeaseClient {
    pub http: OtterClient,
    pub clock: Clock,
    /// The maximum time for repeating a request if otter does not answer.
    pub retry_for: Duration,
    /// The maximum time for repeating a request if otter answers with `Retry-After`. It counts only
    /// if it is longer than `retry_for`.
    pub queue_for: Duration,
}

impl LeaseClient {
    /// Creates the lease and stores it in `held`, where the caller finds it even after a panic.
    ///
    /// # Errors
    /// Fails if otter refuses the lease or does not answer.
    pub async fn create(
        &self,
        command: &RunCommand,
        held: &OnceCell<Lease>,
        progress: &mut Progress,
    ) -> Result<RemoteLease, Failure> {
        let key = format!("otter-run/{}", self.clock.uuid());
        let body = command.lease_request();
        let request = || {
            let request = self
                .http
                .request(Method::POST, "/leases")
                .json(&body)
                .header("idempotency-key", &key);
            match &command.reference {
                Some(reference) => request.header("otter-reference", reference),
                None => request,
            }
        };
        let answer = self
            .send_with_retry(request, Duration::ZERO, |answer| may_retry(answer, progress))
            .await?;
        if !answer.status.is_success() {
            let failure = answer.failure();
            let may_queue = failure.exit == Exit::Temporary && answer.code() == NO_FREE_MACHINE;
            if may_queue && command.queue_for.is_none() {
                return Err(Failure::new(failure.exit, NO_FREE_MACHINE_NOW));
            }
            return Err(failure);
        }
        let remote: RemoteLease = answer.read()?;
        let Some(secret) = &remote.secret else {
            return Err(Failure::new(Exit::Unavailable, "otter gave a lease without its secret"));
        };
        let credential = SecretString::from(format!("{}.{}", remote.id, secret.expose_secret()));
        let queued = Cell::new(remote.state() == Some(LeaseState::Queued));
        // The result is ignored: `create` is called once, so the cell is empty.
        let _ = held.set(Lease { id: remote.id.clone(), credential: Some(credential), queued });
        Ok(remote)
    }

    /// Waits until the lease is active, and prints the progress meanwhile. Returns the active lease
    /// and the HTTP answer that contained it.
    ///
    /// # Errors
    /// Fails if the lease ends, or if otter does not answer.
    pub async fn wait_until_active(
        &self,
        lease: &Lease,
        progress: &mut Progress,
    ) -> Result<(RemoteLease, Answer), Failure> {
        let poll = if progress.is_redrawn() { POLL_ON_TERMINAL } else { POLL_IN_LOG };
        let path = format!("/leases/{}/wait?wait={}s", lease.id, poll.as_secs());
        loop {
            // A wait timeout means that the lease is not active yet. It is a normal answer, so the
            // request is not repeated as after a failure.
            let wait = || self.http.request(Method::GET, &path);
            let answer = self
                .send_with_retry(wait, poll, |answer| {
                    answer.code() != "wait-timeout" && answer.is_temporary()
                })
                .await?;
            match answer.status.as_u16() {
                200 => {
                    let remote: RemoteLease = answer.read()?;
                    lease.update(&remote);
                    return Ok((remote, answer));
                }
                504 => self.show_progress(lease, progress).await?,
                404 => return Err(unknown_lease()),
                409 => {
                    let remote = self.get(lease).await?.ok_or_else(unknown_lease)?;
                    return Err(Failure::new(remote.exit(), remote.failure_text()));
                }
                401 if lease.is_queued() => {
                    let reason = "unauthenticated: the token was revoked, rotated or has expired";
                    return Err(Failure::new(Exit::NotAllowed, reason));
                }
                _ => return Err(answer.failure()),
            }
        }
    }

    /// Reads the lease. `None` if otter does not know the lease.
    ///
    /// # Errors
    /// Fails if otter refuses the request or does not answer.
    pub async fn get(&self, lease: &Lease) -> Result<Option<RemoteLease>, Failure> {
        let request = || self.http.request(Method::GET, &format!("/leases/{}", lease.id));
        let answer = self.send_with_retry(request, Duration::ZERO, Answer::is_temporary).await?;
        match answer.status.as_u16() {
            200 => {
                let remote = answer.read()?;
                lease.update(&remote);
                Ok(Some(remote))
            }
            404 => Ok(None),
            _ => Err(answer.failure()),
        }
    }

    /// The IP address of a machine. `None` if otter knows no address.
    ///
    /// # Errors
    /// Fails if otter refuses the request or does not answer.
    pub async fn machine_address(&self, machine: &str) -> Result<Option<String>, Failure> {
        Ok(self.machine(machine).await?.ip_address)
    }

    async fn machine(&self, machine: &str) -> Result<RemoteMachine, Failure> {
        let mut path = reqwest::Url::parse("http://localhost/machines")
            .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        // The id of a machine may contain characters that must be escaped in a path.
        if let Ok(mut segments) = path.path_segments_mut() {
            segments.push(machine);
        }
        let answer =
            self.send_expecting_success(|| self.http.request(Method::GET, path.path())).await?;
        answer.read()
    }

    /// Releases the lease, and waits at most `RELEASE_TIMEOUT` until its machine is released.
    ///
    /// # Parameters
    /// - `failed`: whether the command failed. If so, and if the lease was requested with
    ///   `keep_on_failure`, otter keeps the lease.
    ///
    /// # Errors
    /// Fails if otter refuses the release or does not answer.
    pub async fn release(
        &self,
        lease: &Lease,
        failed: bool,
        progress: &mut Progress,
    ) -> Result<ReleaseOutcome, Failure> {
        let delete = async |path: &str, server_wait: Duration, progress: &mut Progress| {
            let credential = lease.credential.as_ref();
            let request = || self.http.with_lease(Method::DELETE, path, credential);
            let may_retry_release =
                |answer: &Answer| answer.code() != "wait-timeout" && may_retry(answer, progress);
            self.send_with_retry(request, server_wait, may_retry_release).await
        };
        let (mut path, mut separator) = (format!("/leases/{}", lease.id), '?');
        if failed {
            path.push_str("?outcome=failed");
            separator = '&';
        }
        // The first request does not wait for the release of the machine. So otter stores the end
        // of the lease even if later requests fail.
        let mut answer = delete(&path, Duration::ZERO, progress).await?;
        let end = self.clock.elapsed() + RELEASE_TIMEOUT;
        loop {
            match answer.status.as_u16() {
                // otter does not know the lease any more, so the lease holds no machine.
                404 => return Ok(ReleaseOutcome::Free),
                504 => {}
                _ if !answer.status.is_success() => return Err(answer.failure()),
                _ => {
                    let remote: RemoteLease = answer.read()?;
                    if failed && remote.is_active() {
                        return Ok(ReleaseOutcome::Kept(remote.expires_at));
                    }
                    if remote.state() != Some(LeaseState::Releasing) {
                        return Ok(self.release_outcome(&remote).await);
                    }
                }
            }
            if self.clock.elapsed() >= end {
                return Ok(ReleaseOutcome::InProgress);
            }
            let waiting = format!("{path}{separator}wait={}s", POLL_IN_LOG.as_secs());
            answer = delete(&waiting, POLL_IN_LOG, progress).await?;
            if answer.status == 504 {
                progress.show("the machine is being given back", None);
            }
        }
    }

    /// What became of the machine of a lease that has ended.
    async fn release_outcome(&self, remote: &RemoteLease) -> ReleaseOutcome {
        let Some(machine) = &remote.machine else {
            let released = remote.state() == Some(LeaseState::Released);
            return if released {
                ReleaseOutcome::LeftQueue
            } else {
                ReleaseOutcome::EndedByItself
            };
        };
        match self.machine(machine).await {
            Ok(RemoteMachine { quarantine: Some(RemoteQuarantine { reason }), .. }) => {
                ReleaseOutcome::Quarantined(reason)
            }
            // The lease has ended, so it counts as released even if its machine cannot be read.
            _ => ReleaseOutcome::Free,
        }
    }

    /// Prints the progress of a lease that is not active yet.
    async fn show_progress(&self, lease: &Lease, progress: &mut Progress) -> Result<(), Failure> {
        let remote = self.get(lease).await?.ok_or_else(unknown_lease)?;
        let job: Option<RemoteJob> = match &remote.job {
            Some(job) if remote.state() == Some(LeaseState::Preparing) => {
                let request = || self.http.request(Method::GET, &format!("/jobs/{job}"));
                self.send_expecting_success(request).await?.read().ok()
            }
            _ => None,
        };
        let phase = job.as_ref().map(|job| job.phase.as_str()).filter(|phase| !phase.is_empty());
        let text = phase.map_or_else(
            || remote.progress_text(),
            |phase| format!("{}: {phase}", remote.progress_text()),
        );
        progress.show(&text, job.and_then(|job| job.progress));
        Ok(())
    }

    /// Sends a request, and sends it again after a failure that may pass. Fails if the last answer
    /// is not a success.
    pub async fn send_expecting_success(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Answer, Failure> {
        let answer = self.send_with_retry(request, Duration::ZERO, Answer::is_temporary).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.failure()) }
    }

    /// Sends a request. Sends it again while no answer comes, and while `may_retry` holds for the
    /// answer. This ends after `retry_for`, or after `queue_for` if otter sends `Retry-After`.
    /// Returns the last answer.
    ///
    /// # Parameters
    /// - `server_wait`: how long the request asks otter to wait before it answers.
    async fn send_with_retry(
        &self,
        request: impl Fn() -> RequestBuilder,
        server_wait: Duration,
        mut may_retry: impl FnMut(&Answer) -> bool,
    ) -> Result<Answer, Failure> {
        let begin = self.clock.elapsed();
        let (mut end, mut backoff) = (begin + self.retry_for, FIRST_RETRY_PAUSE);
        loop {
            let left =
                end.saturating_sub(self.clock.elapsed()).clamp(SHORTEST_TIMEOUT, ANSWER_TIMEOUT);
            let answer = OtterClient::answer(request(), server_wait + left).await;
            let retry_after = answer.as_ref().ok().and_then(|answer| answer.retry_after);
            if retry_after.is_some() {
                end = end.max(begin + self.queue_for);
            }
            let pause = retry_after.map_or(backoff, |pause| pause.max(FIRST_RETRY_PAUSE));
            let is_last = self.clock.elapsed() + pause >= end;
            match answer {
                Ok(answer) if is_last || !may_retry(&answer) => return Ok(answer),
                Err(NoAnswer { reason, is_temporary, .. }) if is_last || !is_temporary => {
                    let reason = format!("no answer of {}: {reason}", self.http.url());
                    return Err(Failure::new(Exit::Unavailable, reason));
                }
                _ => {}
            }
            self.clock.sleep(pause).await;
            backoff = (backoff * 2).min(LONGEST_RETRY_PAUSE);
        }
    }
}

/// Whether the same request may succeed later. If otter has sent `Retry-After`, prints the reason.
fn may_retry(answer: &Answer, progress: &mut Progress) -> bool {
    let may_retry = answer.is_temporary();
    if may_retry && answer.retry_after.is_some() {
        progress
            .show(&format!("otter asks to try again later: {}", answer.failure().message), None);
    }
    may_retry
}

impl RemoteLease {
    /// The state of the lease. `None` if this version of otter does not know the state.
    fn state(&self) -> Option<LeaseState> {
        LeaseState::parse(&self.state)
    }

    /// Why the lease ended. `None` if it has not ended, or if this version of otter does not know
    /// the reason.
    fn reason(&self) -> Option<EndReason> {
        self.end.as_ref().and_then(|end| EndReason::parse(&end.reason))
    }

    /// A text that says what the lease is waiting for before it becomes active.
    pub fn progress_text(&self) -> String {
        let name = self.machine_name.as_deref().unwrap_or("a machine");
        match (self.state(), self.position) {
            (Some(LeaseState::Queued), Some(position @ 1..)) => {
                format!("waiting for a machine, {position} before this one in the queue")
            }
            (Some(LeaseState::Queued), _) => "waiting for a machine, next in the queue".to_owned(),
            (Some(LeaseState::Preparing), _) => format!("{name} is being prepared"),
            _ => format!("{name} is {}", self.state),
        }
    }

    /// Whether the lease is active, so that its holder may use the machine.
    pub fn is_active(&self) -> bool {
        self.state() == Some(LeaseState::Active)
    }

    /// Whether otter has not made all artifacts of the lease yet.
    pub const fn has_recording(&self) -> bool {
        self.recording.is_some()
    }

    /// A sentence that says how the lease ended.
    pub fn end_text(&self) -> String {
        let Some(RemoteLeaseEnd { reason, by, detail }) = &self.end else {
            return format!("the lease is {}", self.state);
        };
        let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        format!("the lease ended: {reason}, by {by}{detail}")
    }

    /// A sentence that says how the lease ended before it became active.
    fn failure_text(&self) -> String {
        let text = match self.reason() {
            Some(EndReason::QueueTimeout) => "The lease failed: no machine became free in time.",
            Some(EndReason::Abandoned) => {
                "The lease failed: no request asked about it while it was queued."
            }
            Some(EndReason::MachineGone) => "The lease failed: its machine vanished from the host.",
            Some(EndReason::PrepareFailed) if self.state() == Some(LeaseState::Releasing) => {
                "The preparation failed; the machine is being taken back."
            }
            Some(EndReason::PrepareFailed) => "The preparation failed.",
            _ => return self.end_text(),
        };
        let detail = self.end.as_ref().and_then(|end| end.detail.as_ref());
        detail.map_or_else(|| text.to_owned(), |detail| format!("{text} {detail}"))
    }

    /// The exit code of `otter run` if the lease ended before it became active.
    fn exit(&self) -> Exit {
        match self.reason() {
            Some(EndReason::PrepareFailed | EndReason::MachineGone) => Exit::NotReady,
            Some(EndReason::QueueTimeout | EndReason::Abandoned) => Exit::Temporary,
            _ => Exit::LeaseLost,
        }
    }
}

fn unknown_lease() -> Failure {
    Failure::new(
        Exit::LeaseLost,
        "otter does not know the lease any more: was it started without its state?",
    )
}
