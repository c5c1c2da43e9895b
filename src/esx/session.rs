//! The session with the host, which all callers share.
//!
//! ```text
//! Connecting ──login──► Connected ──lost──► Away ──login──► Connected (next generation)
//!      └──────────────────┬──────────────────┘
//!                      refused ──► LoginRefused ──(login_backoff)──► one more login
//! ```
//! The names in the diagram are the states of [`SessionState`](crate::hypervisor::SessionState). A
//! session counts as lost if the host has ended it, if the stream of updates broke, or if the host
//! is unreachable.
//!
//! Only the task of [`EsxHypervisor::run`](super::EsxHypervisor) logs in. If a call of another task
//! looks as if the session was lost, its caller requests a recheck of the session and waits for the
//! result. Therefore a hundred such callers cause one check and at most one login.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::connections::{Lane, Turn};
use super::options::{EsxOptions, OptionsError};
use super::service_content::{FALLBACK_VERSION, ServiceContent, choose_version, is_version_list};
use super::soap::fault::{AccountRefusal, VimFault};
use super::soap::property::object_contents;
use super::soap::request::{self, PropertySpec, Request, Selection};
use super::soap::response::{AnswerError, Reply, parse_answer};
use super::transport::{HttpAnswer, Transport, TransportError};
use crate::clock::Clock;
use crate::hypervisor::{HostError, HostErrorKind};
use crate::telemetry::metrics::Metrics;

/// How long a caller waits for the end of an outage before its call fails. A lost session is
/// usually back within a second.
const OUTAGE_GRACE: Duration = Duration::from_secs(10);

/// The session with one host.
#[derive(Debug)]
pub struct Session {
    transport: Transport,
    username: String,
    password: watch::Sender<SecretString>,
    connect_requests: watch::Sender<()>,
    recheck_timeout: Duration,
    clock: Clock,
    metrics: Metrics,
    state: watch::Sender<LinkState>,
    /// The highest generation of a login for which a caller has requested a recheck. 0 if no
    /// recheck is requested.
    recheck_generation: watch::Sender<u64>,
    calls_in_flight: TaskTracker,
}

/// A login that the host accepted.
#[derive(Debug)]
pub struct Login {
    pub content: ServiceContent,
    /// The number of this login. It is higher by one than that of the login before.
    generation: u64,
    /// The API version that all calls on this login use.
    version: &'static str,
    cookie: SecretString,
    /// The names of the account: the configured user name, and the name that the host answered to
    /// the login.
    account_names: Vec<String>,
}

/// The terms of sending one request: the lane, which says which connections to the host the request
/// may use, and the time until which it may be sent.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub lane: Lane,
    /// The time after which the request must not be sent any more, by the clock's `elapsed`. `None`
    /// sets no limit.
    pub not_after: Option<Duration>,
}

impl From<Lane> for Terms {
    fn from(lane: Lane) -> Self {
        Self { lane, not_after: None }
    }
}

/// Why a call has no result.
#[derive(Debug)]
pub enum ExchangeError {
    /// The host answered with a fault.
    Fault(VimFault),
    /// The request was not sent, so the call did not run.
    NotSent(HostError),
    /// The connection broke before the answer came: the call may have run.
    Disconnected(HostError),
    /// No answer came in time, or the answer is not vim25: the call may have run.
    NoAnswer(HostError),
}

/// Why a login failed.
#[derive(Debug)]
pub enum ConnectError {
    /// The host refused the account. Trying again soon could lock the account.
    Refused { error: HostError, refusal: AccountRefusal },
    /// The host could not be reached, did not answer as a vim25 host does, or accepts no login now.
    Failed(HostError),
}

/// The result of a recheck of the session.
#[derive(Debug)]
pub enum Recheck {
    /// The session was lost, and otter has logged in again. The caller repeats its call on this
    /// login.
    NewLogin(Arc<Login>),
    /// The session is valid, so the answer that made the caller doubt the session counts.
    StillValid,
}

#[derive(Clone, Debug)]
struct LinkState {
    link: Link,
    /// The number of rechecks so far that found the session valid.
    confirmations: u64,
}

#[derive(Clone, Debug)]
enum Link {
    Up(Arc<Login>),
    /// There is no session now. `since` is the time at which the outage began, by the clock's
    /// `elapsed`.
    Down {
        kind: HostErrorKind,
        reason: String,
        since: Duration,
    },
    /// `Hypervisor::run` has ended, so there will be no session any more.
    Closed {
        reason: String,
    },
}

impl Session {
    /// Makes a session that is not connected yet.
    ///
    /// # Errors
    /// Fails for the reasons that [`EsxOptions::check`] gives.
    pub fn new(options: &EsxOptions, clock: Clock, metrics: Metrics) -> Result<Self, OptionsError> {
        let link = Link::Down {
            kind: HostErrorKind::Unreachable,
            reason: "The host has not been reached yet.".to_owned(),
            since: clock.elapsed(),
        };
        Ok(Self {
            transport: Transport::new(options)?,
            username: options.username.clone(),
            password: watch::Sender::new(options.password.clone()),
            connect_requests: watch::Sender::new(()),
            recheck_timeout: options.read_timeout,
            clock,
            metrics,
            state: watch::Sender::new(LinkState { link, confirmations: 0 }),
            recheck_generation: watch::Sender::new(0),
            calls_in_flight: TaskTracker::new(),
        })
    }

    /// The current login. During an outage that is younger than [`OUTAGE_GRACE`], this function
    /// waits for the next login.
    ///
    /// # Errors
    /// `Unreachable` or `LoginRefused`, with the reason of the outage.
    pub async fn current_login(&self) -> Result<Arc<Login>, HostError> {
        let mut states = self.state.subscribe();
        loop {
            let left = match &states.borrow_and_update().link {
                Link::Up(login) => return Ok(Arc::clone(login)),
                Link::Closed { reason } => return Err(session_closed(reason)),
                Link::Down { kind, reason, since } => {
                    let age = self.clock.elapsed().saturating_sub(*since);
                    match OUTAGE_GRACE.checked_sub(age) {
                        Some(left) if !left.is_zero() && *kind != HostErrorKind::LoginRefused => {
                            left
                        }
                        _ => return Err(HostError::new(*kind, reason.clone())),
                    }
                }
            };
            tokio::select! {
                _ = states.changed() => {}
                () = self.clock.sleep(left) => {}
            }
        }
    }

    /// Makes one call over `login`, after it has waited for a free connection.
    ///
    /// # Errors
    /// [`ExchangeError`] says how far the call came.
    pub async fn send(
        &self,
        login: &Login,
        request: Request,
        terms: impl Into<Terms> + Send,
    ) -> Result<Reply, ExchangeError> {
        let _in_flight = self.calls_in_flight.token();
        let (reply, _) =
            self.exchange(login.version, Some(&login.cookie), request, terms.into()).await?;
        Ok(reply)
    }

    /// Makes one call that may run twice without harm. If the connection breaks, the call is sent
    /// once more.
    ///
    /// # Errors
    /// The errors of [`Session::send`].
    pub async fn send_repeatable(
        &self,
        login: &Login,
        request: Request,
        lane: Lane,
    ) -> Result<Reply, ExchangeError> {
        match self.send(login, request.clone(), lane).await {
            Err(ExchangeError::Disconnected(_)) => self.send(login, request, lane).await,
            answer => answer,
        }
    }

    /// Requests a recheck of `login`, whose session looks lost, and waits for the result.
    ///
    /// # Errors
    /// `LoginRefused` if the host refuses the next login, `Unreachable` after [`Session::close`],
    /// or `NotAuthenticated` if no session came back in time.
    pub async fn recheck(&self, login: &Login) -> Result<Recheck, HostError> {
        let mut states = self.state.subscribe();
        let confirmations = states.borrow().confirmations;
        self.recheck_generation.send_if_modified(|recheck_generation| {
            let newer = login.generation > *recheck_generation;
            *recheck_generation = login.generation.max(*recheck_generation);
            newer
        });
        let verdict = async {
            loop {
                {
                    let state = states.borrow_and_update();
                    match &state.link {
                        Link::Up(now) if now.generation > login.generation => {
                            return Ok(Recheck::NewLogin(Arc::clone(now)));
                        }
                        Link::Up(_) if state.confirmations > confirmations => {
                            return Ok(Recheck::StillValid);
                        }
                        Link::Down { kind: kind @ HostErrorKind::LoginRefused, reason, .. } => {
                            return Err(HostError::new(*kind, reason.clone()));
                        }
                        Link::Closed { reason } => return Err(session_closed(reason)),
                        Link::Up(_) | Link::Down { .. } => {}
                    }
                }
                // `changed` fails only without a sender, but the sender lives as long as `self`.
                let _ = states.changed().await;
            }
        };
        tokio::select! {
            verdict = verdict => verdict,
            () = self.clock.sleep(self.recheck_timeout) => Err(HostError::new(
                HostErrorKind::NotAuthenticated,
                format!(
                    "The session with the host {} was lost and did not come back in time.",
                    self.address()
                ),
            )),
        }
    }

    /// Waits until a caller requests a recheck of `login`.
    pub async fn recheck_requested(&self, login: &Login) {
        let mut recheck_generation = self.recheck_generation.subscribe();
        // `wait_for` fails only without a sender, but the sender lives as long as `self`.
        let _ = recheck_generation.wait_for(|generation| *generation >= login.generation).await;
    }

    /// Asks the host whether it still has the session of `login`, by reading the property
    /// `SessionManager.currentSession`.
    ///
    /// # Errors
    /// Fails if the host did not answer the question.
    pub async fn is_valid(&self, login: &Login) -> Result<bool, HostError> {
        let manager = login.content.session_manager.clone();
        let properties =
            [PropertySpec { object_type: "SessionManager", paths: vec!["currentSession"] }];
        let request = request::retrieve_properties(
            &login.content.property_collector,
            &properties,
            Selection::Objects(std::slice::from_ref(&manager)),
        );
        match self.send_repeatable(login, request, Lane::Reserved).await {
            Ok(reply) => Ok(reply.return_value().is_some_and(|result| {
                object_contents(result).any(|object| {
                    object.properties.iter().any(|(path, value)| {
                        *path == "currentSession"
                            && value.child_text("key").is_some_and(|key| !key.is_empty())
                    })
                })
            })),
            Err(ExchangeError::Fault(fault)) if fault.may_mean_lost_session() => Ok(false),
            Err(error) => {
                Err(error.into_error("The host refused to report whether the session is valid"))
            }
        }
    }

    /// Answers all pending rechecks with [`Recheck::StillValid`].
    pub fn confirm_valid(&self) {
        self.recheck_generation.send_replace(0);
        self.state.send_modify(|state| state.confirmations += 1);
    }

    /// Records a new login, on which all further calls run. This ends the outage.
    pub fn set_login(&self, login: &Arc<Login>) {
        self.state.send_modify(|state| state.link = Link::Up(Arc::clone(login)));
    }

    /// Records that an outage has begun, or that its reason has changed.
    pub fn set_down(&self, error: &HostError) {
        let kind = match error.kind {
            HostErrorKind::LoginRefused => HostErrorKind::LoginRefused,
            _ => HostErrorKind::Unreachable,
        };
        let now = self.clock.elapsed();
        self.state.send_modify(|state| {
            let since = match &state.link {
                Link::Down { since, .. } => *since,
                Link::Up(_) | Link::Closed { .. } => now,
            };
            state.link = Link::Down { kind, reason: error.message.clone(), since };
        });
    }

    /// Reads what the host says about itself without a login, and then logs in once. A login that
    /// fails is not repeated. The new login gets the number `generation`, which the caller makes
    /// higher by one than that of the last login.
    ///
    /// # Errors
    /// [`ConnectError`] says whether the host refused the account.
    pub async fn connect(&self, generation: u64) -> Result<Login, ConnectError> {
        let (version, content) = self.identify().await.map_err(ConnectError::Failed)?;
        self.log_in(version, content, generation).await
    }

    /// Ends the session for good: every further call fails with the message of `error`.
    pub fn close(&self, error: &HostError) {
        self.state.send_modify(|state| state.link = Link::Closed { reason: error.message.clone() });
        self.calls_in_flight.close();
    }

    /// Waits until no call is under way. The caller must call [`Session::close`] first.
    pub async fn wait_idle(&self) {
        self.calls_in_flight.wait().await;
    }

    /// Chooses the API version and reads the `ServiceContent` of the host. The host needs no login
    /// for either.
    ///
    /// # Errors
    /// `Protocol` if the server does not speak vim25, `Unreachable` if it does not answer.
    pub async fn identify(&self) -> Result<(&'static str, ServiceContent), HostError> {
        let version = self.negotiate_version().await?;
        let (reply, _) = self
            .exchange(version, None, request::retrieve_service_content(), Lane::Reserved.into())
            .await
            .map_err(|error| error.into_error("The host refused to identify itself"))?;
        let content =
            reply.return_value().and_then(ServiceContent::from_element).ok_or_else(|| {
                let message = format!(
                    "The server at {} does not identify itself as a vim25 host.",
                    self.address()
                );
                HostError::new(HostErrorKind::Protocol, message)
            })?;
        Ok((version, content))
    }

    /// Logs in once.
    ///
    /// # Errors
    /// [`ConnectError`] says whether the host refused the account.
    pub async fn log_in(
        &self,
        version: &'static str,
        content: ServiceContent,
        generation: u64,
    ) -> Result<Login, ConnectError> {
        let login = request::login(
            &content.session_manager,
            &self.username,
            self.password.borrow().expose_secret(),
        );
        let (reply, cookie) = self
            .exchange(version, None, login, Lane::Reserved.into())
            .await
            .map_err(|error| self.login_error(error))?;
        let cookie = cookie.ok_or_else(|| {
            let message = format!(
                "The host {} accepted the login and set no session cookie.",
                self.address()
            );
            ConnectError::Failed(HostError::new(HostErrorKind::Protocol, message))
        })?;
        let answered_name = reply.return_value().and_then(|session| session.child_text("userName"));
        let account_names = std::iter::once(self.username.as_str())
            .chain(answered_name)
            .map(str::to_owned)
            .collect();
        Ok(Login { content, generation, version, cookie, account_names })
    }

    /// Sets the password that the next login uses. The current session goes on.
    pub fn set_password(&self, password: SecretString) {
        self.password.send_replace(password);
    }

    /// A receiver that changes whenever a password is set, even if it equals the password before.
    pub fn password_changes(&self) -> watch::Receiver<SecretString> {
        self.password.subscribe()
    }

    /// Requests that otter connects without a pause. The request has no effect while there is a
    /// session.
    pub fn connect_now(&self) {
        self.connect_requests.send_replace(());
    }

    /// A receiver that changes with each call of [`Session::connect_now`].
    pub fn connect_requests(&self) -> watch::Receiver<()> {
        self.connect_requests.subscribe()
    }

    /// Ends the session of `login` on the host. A host accepts only some hundred sessions, so an
    /// unused one should not remain.
    pub async fn logout(&self, login: &Login) {
        let request = request::logout(&login.content.session_manager);
        if let Err(error) = self.send(login, request, Lane::Reserved).await {
            let error = error.into_error("The host refused the logout");
            tracing::debug!(%error, "the logout failed; the session times out on the host");
        }
    }

    /// The metrics that count calls and sessions.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Gets a path of the host over `login`, with its cookie. `name` is the name of the read in the
    /// metrics.
    ///
    /// # Errors
    /// As [`Session::send`], without faults: the answer can have any status.
    pub async fn get(
        &self,
        login: &Login,
        name: &'static str,
        path: &str,
    ) -> Result<HttpAnswer, ExchangeError> {
        self.get_with(name, |turn| self.transport.get(turn, path, &login.cookie)).await
    }

    /// As [`Session::get`], a part of a file.
    ///
    /// # Parameters
    /// - `range`: the positions of the first and the last byte.
    ///
    /// # Errors
    /// As [`Session::get`].
    pub async fn get_part(
        &self,
        login: &Login,
        name: &'static str,
        path: &str,
        range: RangeInclusive<u64>,
    ) -> Result<HttpAnswer, ExchangeError> {
        let cookie = &login.cookie;
        self.get_with(name, |turn| self.transport.get_part(turn, path, cookie, range)).await
    }

    async fn get_with<'s, F>(
        &'s self,
        name: &'static str,
        get: impl FnOnce(Turn<'s>) -> F,
    ) -> Result<HttpAnswer, ExchangeError>
    where
        F: Future<Output = Result<HttpAnswer, TransportError>>,
    {
        let _in_flight = self.calls_in_flight.token();
        let turn = self.turn(Lane::Ordinary.into()).await?;
        let began = self.clock.elapsed();
        let answer = get(turn).await;
        let result = match &answer {
            Ok(answer) if matches!(answer.status, 200 | 206) => "ok",
            Ok(_) => "fault",
            Err(error) if error.never_sent => "not_sent",
            Err(_) => "lost",
        };
        self.metrics.record_host_call(name, result, self.clock.elapsed().saturating_sub(began));
        Ok(answer?)
    }

    /// A request with the cookie of `login`, for a connection that is not one of the calls'.
    pub fn request<B>(
        &self,
        login: &Login,
        method: Method,
        path: &str,
        body: B,
    ) -> http::Request<B> {
        self.transport.authorized(method, path, &login.cookie, body)
    }

    /// The HTTP to the host, for streams that are no calls.
    #[must_use]
    pub const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The name and port of the host, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.transport.address()
    }

    /// Whether the server lists API versions in the way that hosts do. A host can do so even while
    /// its API is down.
    pub async fn lists_api_versions(&self) -> bool {
        let listed = self.transport.versions(self.transport.turn(Lane::Reserved).await).await;
        listed.is_ok_and(|answer| answer.status == 200 && is_version_list(&answer.body))
    }

    async fn negotiate_version(&self) -> Result<&'static str, HostError> {
        let answer = self.transport.versions(self.transport.turn(Lane::Reserved).await).await?;
        match answer.status {
            200 => Ok(choose_version(&answer.body)),
            500.. => Err(invalid_answer(&self.address(), AnswerError::from_status(answer.status))),
            _ => Ok(FALLBACK_VERSION),
        }
    }

    async fn exchange(
        &self,
        version: &str,
        cookie: Option<&SecretString>,
        request: Request,
        terms: Terms,
    ) -> Result<(Reply, Option<SecretString>), ExchangeError> {
        let method = request.method;
        let turn = self.turn(terms).await;
        // The metrics measure the time of a call without its wait for a connection, because the
        // host does not cause that wait.
        let began = self.clock.elapsed();
        let answer = match turn {
            Ok(turn) => self.exchange_uncounted(turn, version, cookie, request).await,
            Err(error) => Err(error.into()),
        };
        let result = match &answer {
            Ok(_) => "ok",
            Err(ExchangeError::Fault(_)) => "fault",
            Err(ExchangeError::NotSent(_)) => "not_sent",
            Err(ExchangeError::Disconnected(_) | ExchangeError::NoAnswer(_)) => "lost",
        };
        self.metrics.record_host_call(method, result, self.clock.elapsed().saturating_sub(began));
        answer
    }

    async fn turn(&self, terms: Terms) -> Result<Turn<'_>, TransportError> {
        let Terms { lane, not_after } = terms;
        let limit = async {
            match not_after {
                Some(not_after) => {
                    let left = not_after.saturating_sub(self.clock.elapsed());
                    self.clock.sleep(left).await;
                }
                None => self.clock.sleep(self.transport.patience()).await,
            }
        };
        tokio::select! {
            biased;
            turn = self.transport.turn(lane) => Ok(turn),
            () = limit => Err(self.transport.no_turn()),
        }
    }

    async fn exchange_uncounted(
        &self,
        turn: Turn<'_>,
        version: &str,
        cookie: Option<&SecretString>,
        request: Request,
    ) -> Result<(Reply, Option<SecretString>), ExchangeError> {
        let Request { method, envelope } = request;
        let HttpAnswer { status, body, cookie, whole_size: _ } =
            self.transport.post(turn, envelope, version, cookie).await?;
        let judged = if body.len() > LARGE_ANSWER {
            tokio::task::spawn_blocking(move || parse_answer(status, &body, method)).await.map_err(
                |error| {
                    let message =
                        format!("The answer of the host {} could not be parsed.", self.address());
                    ExchangeError::NoAnswer(
                        HostError::new(HostErrorKind::Protocol, message).caused_by(error),
                    )
                },
            )?
        } else {
            parse_answer(status, &body, method)
        };
        match judged {
            Ok(Ok(reply)) => Ok((reply, cookie)),
            Ok(Err(fault)) => Err(ExchangeError::Fault(fault)),
            Err(error) => Err(ExchangeError::NoAnswer(invalid_answer(&self.address(), error))),
        }
    }

    /// Turns the error of a login into a [`ConnectError`]. [`VimFault::account_refusal`] decides
    /// whether the host refused the account or only accepts no login now.
    fn login_error(&self, error: ExchangeError) -> ConnectError {
        let fault = match error {
            ExchangeError::Fault(fault) => fault,
            error => return ConnectError::Failed(error.into_error("The login failed")),
        };
        let (refusal, address) = (fault.account_refusal(), self.address());
        if let Some(refusal) = refusal {
            let prefix = format!("The host {address} refused the account {}", self.username);
            let mut error = fault.into_error(&prefix);
            error.kind = HostErrorKind::LoginRefused;
            ConnectError::Refused { error, refusal }
        } else {
            let mut error = fault.into_error(&format!("The host {address} accepts no login now"));
            error.kind = HostErrorKind::Unreachable;
            ConnectError::Failed(error)
        }
    }
}

/// Answers that are longer than this, in bytes, are parsed on a blocking thread, so that they delay
/// no other task.
const LARGE_ANSWER: usize = 256 << 10;

impl Login {
    /// Whether `user` is a name of the account that made this login.
    #[must_use]
    pub fn is_own_account(&self, user: &str) -> bool {
        self.account_names.iter().any(|us| us.eq_ignore_ascii_case(user))
    }

    /// The number of this login. Each login has a higher number than the login before.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

impl ExchangeError {
    /// Converts the error to a [`HostError`]. If the error is a fault, its message begins with
    /// `prefix`.
    #[must_use]
    pub fn into_error(self, prefix: &str) -> HostError {
        match self {
            Self::Fault(fault) => fault.into_error(prefix),
            Self::NotSent(error) | Self::Disconnected(error) | Self::NoAnswer(error) => error,
        }
    }

    /// Whether a lost session can be the reason for this error.
    #[must_use]
    pub fn may_mean_lost_session(&self) -> bool {
        matches!(self, Self::Fault(fault) if fault.may_mean_lost_session())
    }

    /// Whether the error is the vim25 fault `name`.
    #[must_use]
    pub fn is_fault(&self, name: &str) -> bool {
        matches!(self, Self::Fault(fault) if fault.name == name)
    }
}

impl From<TransportError> for ExchangeError {
    fn from(error: TransportError) -> Self {
        match error {
            error if error.never_sent => Self::NotSent(error.into()),
            error if error.disconnected => Self::Disconnected(error.into()),
            error => Self::NoAnswer(error.into()),
        }
    }
}

fn session_closed(reason: &str) -> HostError {
    HostError::new(HostErrorKind::Unreachable, reason)
}

/// The error for a session that the host has ended.
#[must_use]
pub fn session_lost() -> HostError {
    HostError::new(
        HostErrorKind::NotAuthenticated,
        "The host ended the session; otter logs in again.",
    )
}

fn invalid_answer(address: &str, error: AnswerError) -> HostError {
    let kind =
        if error.may_be_temporary() { HostErrorKind::Unreachable } else { HostErrorKind::Protocol };
    HostError::new(kind, format!("No vim25 answer from {address}: {error}.")).caused_by(error)
}
