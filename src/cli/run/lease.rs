//! The lease of a run: asked for, waited for, given back, each tried again where an answer was
//! lost.
//!
//! ```text
//! ask ─► queued ─► preparing ─► active ─► the command ─► give back
//!  │        └──────────┴── ended: by its queue time, a failure, an operator
//!  └── the same key each time, so that a lost answer leaks no machine
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
use super::client::{ANSWER, Answer, Client, Unanswered};
use super::exit::Exit;
use super::progress::Progress;
use crate::clock::Clock;

/// The first pause between two tries, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The least time that a try has.
const SHORTEST_TRY: Duration = Duration::from_secs(1);

/// What otter answers if all machines that match are in use, and what that means without a queue.
const NO_FREE_MACHINE: &str = "no-free-machine";
const NONE_NOW: &str = "no-free-machine: No machine that fits is free now. Wait for one with --queue-for 30m, \
                        or look: GET /v1/machines";

/// The state of a lease that has no machine yet.
const QUEUED: &str = "queued";

/// How long `otter run` waits for a release. The release continues in otter after that.
const LONGEST_RELEASE: Duration = Duration::from_mins(5);

/// How long one call waits for the lease before what goes on is looked at.
const SLICE_FOR_EYES: Duration = Duration::from_secs(1);
const SLICE_FOR_LOGS: Duration = Duration::from_secs(3);

/// A lease as otter shows it; what is not used here is left out.
#[derive(Clone, Debug, Deserialize)]
pub struct LeaseView {
    pub id: String,
    pub state: String,
    pub machine: Option<String>,
    pub machine_name: Option<String>,
    pub position: Option<u32>,
    pub expires_at: Option<Timestamp>,
    pub max_expires_at: Option<Timestamp>,
    pub job: Option<String>,
    pub secret: Option<SecretString>,
    pub end: Option<LeaseEnd>,
}

/// How a lease ended, or is ending.
#[derive(Clone, Debug, Deserialize)]
pub struct LeaseEnd {
    reason: String,
    by: String,
    detail: Option<String>,
}

/// A job that makes a machine ready, as far as it is shown.
#[derive(Deserialize)]
struct JobView {
    phase: String,
    progress: Option<u8>,
}

#[derive(Deserialize)]
struct MachineView {
    ip_address: Option<String>,
    quarantine: Option<QuarantineView>,
}

#[derive(Deserialize)]
struct QuarantineView {
    reason: String,
}

/// How far giving a machine back has come.
#[derive(Debug, PartialEq, Eq)]
pub enum GivenBack {
    /// The machine is free for the next, or its next holder has it.
    Free,
    /// otter quarantined the machine, for this reason. No lease gets it until an operator clears
    /// it.
    SetAside(String),
    /// otter has stored the end of the lease and still releases the machine.
    UnderWay,
    /// The lease was released before it got a machine.
    LeftQueue,
    /// The lease ended by itself before it got a machine.
    Nothing,
}

/// A lease that was taken.
pub struct Lease {
    pub id: String,
    /// What shows that it is ours: `<id>.<secret>`.
    pub shown: SecretString,
    /// Whether it was in the queue when otter last showed it.
    queued: Cell<bool>,
}

impl Lease {
    /// Whether it had no machine when otter last showed it.
    pub const fn is_queued(&self) -> bool {
        self.queued.get()
    }

    /// Keeps what otter shows of it.
    fn follow(&self, view: &LeaseView) {
        self.queued.set(view.state == QUEUED);
    }
}

/// Calls otter, again and again where that may help.
pub struct Desk {
    pub client: Client,
    pub clock: Clock,
    /// How long otter is tried if it does not answer.
    pub retry_for: Duration,
    /// How long otter is tried if it says `Retry-After`, and that is longer.
    pub queue_for: Duration,
}

impl Desk {
    /// Asks for a machine, and puts the lease where it is found whatever happens then.
    ///
    /// # Errors
    /// What otter says against it, or that it does not answer.
    pub async fn ask(
        &self,
        command: &RunCommand,
        held: &OnceCell<Lease>,
        progress: &mut Progress,
    ) -> Result<LeaseView, Failure> {
        let key = format!("otter-run/{}", self.clock.uuid());
        let body = command.request();
        let request = || {
            let request = self
                .client
                .request(Method::POST, "/leases")
                .json(&body)
                .header("idempotency-key", &key);
            match &command.reference {
                Some(reference) => request.header("otter-reference", reference),
                None => request,
            }
        };
        let answer = self.heard(request, Duration::ZERO, |answer| passes(answer, progress)).await?;
        if !answer.status.is_success() {
            let failure = answer.failure();
            let may_queue = failure.exit == Exit::Temporary && answer.code() == NO_FREE_MACHINE;
            if may_queue && command.queue_for.is_none() {
                return Err(Failure::new(failure.exit, NONE_NOW));
            }
            return Err(failure);
        }
        let view: LeaseView = answer.read()?;
        let Some(secret) = &view.secret else {
            return Err(Failure::new(Exit::Unavailable, "otter gave a lease without its secret"));
        };
        let shown = SecretString::from(format!("{}.{}", view.id, secret.expose_secret()));
        let queued = Cell::new(view.state == QUEUED);
        // One lease is asked for.
        let _ = held.set(Lease { id: view.id.clone(), shown, queued });
        Ok(view)
    }

    /// Waits until the lease is active, and shows what goes on meanwhile. Gives it as it is then,
    /// and otter's own time.
    ///
    /// # Errors
    /// How it ended instead, or that otter does not answer.
    pub async fn until_active(
        &self,
        lease: &Lease,
        progress: &mut Progress,
    ) -> Result<(LeaseView, Answer), Failure> {
        let slice = if progress.has_eyes() { SLICE_FOR_EYES } else { SLICE_FOR_LOGS };
        let path = format!("/leases/{}/wait?wait={}s", lease.id, slice.as_secs());
        loop {
            // A time-out says that otter is there, and that it goes on.
            let wait = || self.client.request(Method::GET, &path);
            let answer = self
                .heard(wait, slice, |answer| answer.code() != "wait-timeout" && answer.may_pass())
                .await?;
            match answer.status.as_u16() {
                200 => {
                    let view: LeaseView = answer.read()?;
                    lease.follow(&view);
                    return Ok((view, answer));
                }
                504 => self.show(lease, progress).await?,
                404 => return Err(gone()),
                409 => {
                    let view = self.look(lease).await?.ok_or_else(gone)?;
                    return Err(Failure::new(view.exit(), view.why_not_active()));
                }
                401 if lease.is_queued() => {
                    let why = "unauthenticated: the token was revoked, rotated or has expired";
                    return Err(Failure::new(Exit::NotAllowed, why));
                }
                _ => return Err(answer.failure()),
            }
        }
    }

    /// A lease as it is now; none where there is none.
    ///
    /// # Errors
    /// That otter does not answer.
    pub async fn look(&self, lease: &Lease) -> Result<Option<LeaseView>, Failure> {
        let request = || self.client.request(Method::GET, &format!("/leases/{}", lease.id));
        let answer = self.heard(request, Duration::ZERO, Answer::may_pass).await?;
        match answer.status.as_u16() {
            200 => {
                let view = answer.read()?;
                lease.follow(&view);
                Ok(Some(view))
            }
            404 => Ok(None),
            _ => Err(answer.failure()),
        }
    }

    /// The address of a machine, where one is known.
    ///
    /// # Errors
    /// That otter does not answer, or not for this caller.
    pub async fn address(&self, machine: &str) -> Result<Option<String>, Failure> {
        Ok(self.machine(machine).await?.ip_address)
    }

    async fn machine(&self, machine: &str) -> Result<MachineView, Failure> {
        let mut path = reqwest::Url::parse("http://localhost/machines")
            .map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        // An id may hold what a path may not.
        if let Ok(mut segments) = path.path_segments_mut() {
            segments.push(machine);
        }
        let answer = self.answered(|| self.client.request(Method::GET, path.path())).await?;
        answer.read()
    }

    /// Gives the machine back, and waits for its release, but at most `LONGEST_RELEASE`.
    ///
    /// # Errors
    /// What otter says against it, or that it does not answer.
    pub async fn give_back(
        &self,
        lease: &Lease,
        progress: &mut Progress,
    ) -> Result<GivenBack, Failure> {
        let ask = async |path: &str, blocks: Duration, progress: &mut Progress| {
            let request = || self.client.with_lease(Method::DELETE, path, &lease.shown);
            let passes =
                |answer: &Answer| answer.code() != "wait-timeout" && passes(answer, progress);
            self.heard(request, blocks, passes).await
        };
        let path = format!("/leases/{}", lease.id);
        // The first request does not wait: otter stores the end of the lease even if later requests
        // fail.
        let mut answer = ask(&path, Duration::ZERO, progress).await?;
        let end = self.clock.elapsed() + LONGEST_RELEASE;
        loop {
            match answer.status.as_u16() {
                // otter does not know the lease any more, so the lease holds nothing.
                404 => return Ok(GivenBack::Free),
                504 => {}
                _ if !answer.status.is_success() => return Err(answer.failure()),
                _ => {
                    let view: LeaseView = answer.read()?;
                    if view.state != "releasing" {
                        return Ok(self.standing(&view).await);
                    }
                }
            }
            if self.clock.elapsed() >= end {
                return Ok(GivenBack::UnderWay);
            }
            let waiting = format!("{path}?wait={}s", SLICE_FOR_LOGS.as_secs());
            answer = ask(&waiting, SLICE_FOR_LOGS, progress).await?;
            if answer.status == 504 {
                progress.show("the machine is being given back", None);
            }
        }
    }

    /// How the machine of a lease that has ended stands.
    async fn standing(&self, view: &LeaseView) -> GivenBack {
        let Some(machine) = &view.machine else {
            let released = view.state == "released";
            return if released { GivenBack::LeftQueue } else { GivenBack::Nothing };
        };
        match self.machine(machine).await {
            Ok(MachineView { quarantine: Some(QuarantineView { reason }), .. }) => {
                GivenBack::SetAside(reason)
            }
            // A released lease counts as released even if the machine's state cannot be read.
            _ => GivenBack::Free,
        }
    }

    /// Shows what goes on with a lease that is not active yet.
    async fn show(&self, lease: &Lease, progress: &mut Progress) -> Result<(), Failure> {
        let view = self.look(lease).await?.ok_or_else(gone)?;
        let job: Option<JobView> = match &view.job {
            Some(job) if view.state == "preparing" => {
                let request = || self.client.request(Method::GET, &format!("/jobs/{job}"));
                self.answered(request).await?.read().ok()
            }
            _ => None,
        };
        let phase = job.as_ref().map(|job| job.phase.as_str()).filter(|phase| !phase.is_empty());
        let text =
            phase.map_or_else(|| view.going_on(), |phase| format!("{}: {phase}", view.going_on()));
        progress.show(&text, job.and_then(|job| job.progress));
        Ok(())
    }

    /// The answer that is a success; else what it says is a failure.
    async fn answered(&self, request: impl Fn() -> RequestBuilder) -> Result<Answer, Failure> {
        let answer = self.heard(request, Duration::ZERO, Answer::may_pass).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(answer.failure()) }
    }

    /// The answer. It is tried again while none comes or one that passes, for as long as otter is
    /// tried, at the times that otter says.
    async fn heard(
        &self,
        request: impl Fn() -> RequestBuilder,
        blocks: Duration,
        mut passes: impl FnMut(&Answer) -> bool,
    ) -> Result<Answer, Failure> {
        let begin = self.clock.elapsed();
        let (mut end, mut backoff) = (begin + self.retry_for, FIRST_PAUSE);
        loop {
            let left = end.saturating_sub(self.clock.elapsed()).clamp(SHORTEST_TRY, ANSWER);
            let answer = Client::answer(request(), blocks + left).await;
            let told = answer.as_ref().ok().and_then(|answer| answer.retry_after);
            if told.is_some() {
                end = end.max(begin + self.queue_for);
            }
            let pause = told.map_or(backoff, |told| told.max(FIRST_PAUSE));
            let over = self.clock.elapsed() + pause >= end;
            match answer {
                Ok(answer) if over || !passes(&answer) => return Ok(answer),
                Err(Unanswered { why, may_pass, .. }) if over || !may_pass => {
                    let why = format!("no answer of {}: {why}", self.client.url());
                    return Err(Failure::new(Exit::Unavailable, why));
                }
                _ => {}
            }
            self.clock.sleep(pause).await;
            backoff = (backoff * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether the same call may succeed later. Shows why it has to wait if otter says so.
fn passes(answer: &Answer, progress: &mut Progress) -> bool {
    let passes = answer.may_pass();
    if passes && answer.retry_after.is_some() {
        progress
            .show(&format!("otter says to try again later, {}", answer.failure().message), None);
    }
    passes
}

impl LeaseView {
    /// What goes on with it before it is active.
    pub fn going_on(&self) -> String {
        let name = self.machine_name.as_deref().unwrap_or("a machine");
        match (self.state.as_str(), self.position) {
            ("queued", Some(position @ 1..)) => {
                format!("waits for a machine, {position} before it")
            }
            ("queued", _) => "waits for a machine, the next in line".to_owned(),
            ("preparing", _) => format!("{name} is made ready"),
            (state, _) => format!("{name} is {state}"),
        }
    }

    /// Whether its machine may be worked with.
    pub fn is_active(&self) -> bool {
        self.state == "active"
    }

    /// How it ended.
    pub fn why_ended(&self) -> String {
        let Some(LeaseEnd { reason, by, detail }) = &self.end else {
            return format!("the lease is {}", self.state);
        };
        let detail = detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        format!("the lease ended: {reason}, by {by}{detail}")
    }

    /// How it ended, or is ending, without having been active.
    fn why_not_active(&self) -> String {
        let said = match self.end.as_ref().map(|end| end.reason.as_str()) {
            Some("queue-timeout") => "The lease failed: no machine became free in time.",
            Some("abandoned") => "The lease failed: otter was not asked about it while it waited.",
            Some("machine-gone") => "The lease failed: its machine vanished from the host.",
            Some("prepare-failed") if self.state == "releasing" => {
                "The preparation failed; the machine is being taken back."
            }
            Some("prepare-failed") => "The preparation failed.",
            _ => return self.why_ended(),
        };
        let detail = self.end.as_ref().and_then(|end| end.detail.as_ref());
        detail.map_or_else(|| said.to_owned(), |detail| format!("{said} {detail}"))
    }

    /// What its end means where it never was active.
    fn exit(&self) -> Exit {
        match self.end.as_ref().map(|end| end.reason.as_str()) {
            Some("prepare-failed" | "machine-gone") => Exit::NotReady,
            Some("queue-timeout" | "abandoned") => Exit::Temporary,
            _ => Exit::LeaseLost,
        }
    }
}

fn gone() -> Failure {
    Failure::new(
        Exit::LeaseLost,
        "otter does not know the lease any more: was it started without its state?",
    )
}
