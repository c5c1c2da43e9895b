//! The one session with the host.
//!
//! ```text
//! Connecting ──login──► Connected ──lost──► Away ──login──► Connected (next generation)
//!      └──────────────────┬──────────────────┘
//!                      refused ──► LoginRefused ──(login_backoff)──► tried once more
//! ```
//! Only the task of [`EsxHypervisor::run`](super::EsxHypervisor) logs in. Callers that meet a lost
//! session report it and wait for its verdict, so that a hundred of them cause one login.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::options::{EsxOptions, OptionsError};
use super::soap::Reference;
use super::soap::fault::VimFault;
use super::soap::property::object_contents;
use super::soap::request::{self, Properties, Request, Selection};
use super::soap::response::{AnswerError, Reply, judge};
use super::soap::xml::{Document, Element};
use super::transport::{HttpAnswer, Patience, Transport, TransportError};
use crate::clock::Clock;
use crate::hypervisor::{HostError, HostErrorKind, HostProduct};
use crate::telemetry::metrics::Metrics;

/// The API versions that otter speaks, the newest first.
const VERSIONS: [&str; 24] = [
    "8.0.3.0", "8.0.2.0", "8.0.1.0", "8.0.0.1", "8.0.0.0", "7.0.3.2", "7.0.3.1", "7.0.3.0",
    "7.0.2.1", "7.0.2.0", "7.0.1.1", "7.0.1.0", "7.0.0.2", "7.0.0.0", "6.7.3", "6.7.2", "6.7.1",
    "6.7", "6.5", "6.0", "5.5", "5.1", "5.0", "4.1",
];

/// Spoken by every host from 6.5 on, and asked of one that does not say what it speaks.
const USUAL_VERSION: &str = "6.5";

/// While an outage is this young, callers wait for its end: a lost session is usually back within a
/// second.
const SHORT_OUTAGE: Duration = Duration::from_secs(10);

/// The session, shared by all who call the host.
#[derive(Debug)]
pub struct Session {
    transport: Transport,
    username: String,
    password: watch::Sender<SecretString>,
    patience: Duration,
    clock: Clock,
    metrics: Metrics,
    state: watch::Sender<State>,
    /// The generation that somebody found lost; 0 for none.
    suspected: watch::Sender<u64>,
    under_way: TaskTracker,
}

/// A login that the host accepted.
#[derive(Debug)]
pub struct Live {
    pub content: ServiceContent,
    generation: u64,
    version: &'static str,
    cookie: SecretString,
    /// What the host calls our account: as we wrote it, and as it did.
    users: Vec<String>,
}

/// Where the host keeps its singletons, and what it is.
#[derive(Clone, Debug)]
pub struct ServiceContent {
    pub root_folder: Reference,
    pub property_collector: Reference,
    pub view_manager: Reference,
    pub session_manager: Reference,
    pub license_manager: Option<Reference>,
    pub authorization_manager: Option<Reference>,
    pub product: HostProduct,
}

/// Why a call gave no result.
#[derive(Debug)]
pub enum ExchangeError {
    Fault(VimFault),
    /// No connection: it was not sent.
    NotSent(HostError),
    /// The connection broke while the answer was awaited: it may have run.
    Cut(HostError),
    /// It was sent, or may have been, and no answer of vim25 came.
    Broken(HostError),
}

/// Why there is no session.
#[derive(Debug)]
pub enum ConnectError {
    /// The host refused the account: not to be tried again soon.
    Refused(HostError),
    Failed(HostError),
}

/// What a suspicion came to.
#[derive(Debug)]
pub enum Verdict {
    /// There was a new login; ask again on it.
    Renewed(Arc<Live>),
    /// The session is alive: the host means what it said.
    StillValid,
}

#[derive(Clone, Debug)]
struct State {
    link: Link,
    /// How often a suspicion was found to be wrong.
    confirmations: u64,
}

#[derive(Clone, Debug)]
enum Link {
    Up(Arc<Live>),
    Down {
        kind: HostErrorKind,
        reason: String,
        since: Duration,
    },
    /// There will be none any more: nobody need wait for one.
    Closed {
        reason: String,
    },
}

impl Session {
    /// A session that is not connected yet.
    ///
    /// # Errors
    /// What [`EsxOptions::check`] says.
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
            patience: options.read_timeout,
            clock,
            metrics,
            state: watch::Sender::new(State { link, confirmations: 0 }),
            suspected: watch::Sender::new(0),
            under_way: TaskTracker::new(),
        })
    }

    /// The session as it is, or why there is none. Waits a moment where it was lost a moment ago.
    ///
    /// # Errors
    /// `Unreachable` or `LoginRefused`.
    pub async fn ready(&self) -> Result<Arc<Live>, HostError> {
        let mut states = self.state.subscribe();
        loop {
            let left = match &states.borrow_and_update().link {
                Link::Up(live) => return Ok(Arc::clone(live)),
                Link::Closed { reason } => return Err(closed(reason)),
                Link::Down { kind, reason, since } => {
                    let age = self.clock.elapsed().saturating_sub(*since);
                    match SHORT_OUTAGE.checked_sub(age) {
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

    /// Makes one call on this login.
    ///
    /// # Errors
    /// As [`ExchangeError`] says.
    pub async fn send(
        &self,
        live: &Live,
        request: Request,
        patience: Patience,
    ) -> Result<Reply, ExchangeError> {
        let _under_way = self.under_way.token();
        let (reply, _) = self.exchange(live.version, Some(&live.cookie), request, patience).await?;
        Ok(reply)
    }

    /// Makes one call that may as well run twice: where its connection breaks, it is sent once
    /// more.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub async fn send_repeatable(
        &self,
        live: &Live,
        request: Request,
    ) -> Result<Reply, ExchangeError> {
        match self.send(live, request.clone(), Patience::Ordinary).await {
            Err(ExchangeError::Cut(_)) => self.send(live, request, Patience::Ordinary).await,
            answer => answer,
        }
    }

    /// Reports that this login looks lost, and waits for the verdict.
    ///
    /// # Errors
    /// `LoginRefused`, or `NotAuthenticated` where no session came back in time.
    pub async fn suspect(&self, live: &Live) -> Result<Verdict, HostError> {
        let mut states = self.state.subscribe();
        let confirmations = states.borrow().confirmations;
        self.suspected.send_if_modified(|suspected| {
            let newer = live.generation > *suspected;
            *suspected = live.generation.max(*suspected);
            newer
        });
        let verdict = async {
            loop {
                {
                    let state = states.borrow_and_update();
                    match &state.link {
                        Link::Up(now) if now.generation > live.generation => {
                            return Ok(Verdict::Renewed(Arc::clone(now)));
                        }
                        Link::Up(_) if state.confirmations > confirmations => {
                            return Ok(Verdict::StillValid);
                        }
                        Link::Down { kind: kind @ HostErrorKind::LoginRefused, reason, .. } => {
                            return Err(HostError::new(*kind, reason.clone()));
                        }
                        Link::Closed { reason } => return Err(closed(reason)),
                        Link::Up(_) | Link::Down { .. } => {}
                    }
                }
                // The sender lives as long as `self`.
                let _ = states.changed().await;
            }
        };
        tokio::select! {
            verdict = verdict => verdict,
            () = self.clock.sleep(self.patience) => Err(HostError::new(
                HostErrorKind::NotAuthenticated,
                format!("The session with the host {} was lost and did not come back in time.", self.address()),
            )),
        }
    }

    /// Returns once somebody suspects this login.
    pub async fn suspicion(&self, live: &Live) {
        let mut suspected = self.suspected.subscribe();
        // The sender lives as long as `self`.
        let _ = suspected.wait_for(|generation| *generation >= live.generation).await;
    }

    /// Whether the host knows this login: `SessionManager.currentSession`.
    ///
    /// # Errors
    /// Where it did not say.
    pub async fn is_alive(&self, live: &Live) -> Result<bool, HostError> {
        let manager = live.content.session_manager.clone();
        let properties = [Properties { of_type: "SessionManager", paths: vec!["currentSession"] }];
        let request = request::retrieve_properties(
            &live.content.property_collector,
            &properties,
            Selection::Objects(std::slice::from_ref(&manager)),
        );
        match self.send_repeatable(live, request).await {
            Ok(reply) => Ok(reply.returned().is_some_and(|result| {
                object_contents(result).any(|object| {
                    object.properties.iter().any(|(path, value)| {
                        *path == "currentSession"
                            && value.child_text("key").is_some_and(|key| !key.is_empty())
                    })
                })
            })),
            Err(ExchangeError::Fault(fault)) if fault.may_be_lost_session() => Ok(false),
            Err(error) => {
                Err(error.into_error("The host refused to say whether the session is alive"))
            }
        }
    }

    /// Tells all who suspect this login that they are wrong.
    pub fn confirmed(&self) {
        self.suspected.send_replace(0);
        self.state.send_modify(|state| state.confirmations += 1);
    }

    /// From now on calls go over this login.
    pub fn up(&self, live: &Arc<Live>) {
        self.state.send_modify(|state| state.link = Link::Up(Arc::clone(live)));
    }

    /// From now on there is no session.
    pub fn down(&self, error: &HostError) {
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

    /// Finds out what the host speaks and is, and logs in, once.
    ///
    /// # Errors
    /// As [`ConnectError`] says.
    pub async fn connect(&self, generation: u64) -> Result<Live, ConnectError> {
        let (version, content) = self.identify().await.map_err(ConnectError::Failed)?;
        self.log_in(version, content, generation).await
    }

    /// There is no session any more, and none will come.
    pub fn close(&self, error: &HostError) {
        self.state.send_modify(|state| state.link = Link::Closed { reason: error.message.clone() });
        self.under_way.close();
    }

    /// Returns once no call is under way any more, after [`Session::close`].
    pub async fn quiet(&self) {
        self.under_way.wait().await;
    }

    /// Finds out which version to speak with the host, and what it is. Needs no account.
    ///
    /// # Errors
    /// `Protocol` where it is no host of vim25; `Unreachable`.
    pub async fn identify(&self) -> Result<(&'static str, ServiceContent), HostError> {
        let version = self.negotiate().await?;
        let (reply, _) = self
            .exchange(version, None, request::retrieve_service_content(), Patience::Ordinary)
            .await
            .map_err(|error| error.into_error("The host refused to say what it is"))?;
        let content = reply.returned().and_then(ServiceContent::read).ok_or_else(|| {
            let message =
                format!("What answers at {} does not say that it is a vim25 host.", self.address());
            HostError::new(HostErrorKind::Protocol, message)
        })?;
        Ok((version, content))
    }

    /// Logs in, once.
    ///
    /// # Errors
    /// As [`ConnectError`] says.
    pub async fn log_in(
        &self,
        version: &'static str,
        content: ServiceContent,
        generation: u64,
    ) -> Result<Live, ConnectError> {
        let login = request::login(
            &content.session_manager,
            &self.username,
            self.password.borrow().expose_secret(),
        );
        let (reply, cookie) = self
            .exchange(version, None, login, Patience::Ordinary)
            .await
            .map_err(|error| self.refused(error))?;
        let cookie = cookie.ok_or_else(|| {
            let message =
                format!("The host {} accepted the login and gave no session.", self.address());
            ConnectError::Failed(HostError::new(HostErrorKind::Protocol, message))
        })?;
        let said = reply.returned().and_then(|session| session.child_text("userName"));
        let users =
            std::iter::once(self.username.as_str()).chain(said).map(str::to_owned).collect();
        Ok(Live { content, generation, version, cookie, users })
    }

    /// Logs in with this password from now on. The login that there is goes on.
    pub fn renew_password(&self, password: SecretString) {
        self.password.send_replace(password);
    }

    /// Changes with each new password, the same one again included.
    pub fn passwords(&self) -> watch::Receiver<SecretString> {
        self.password.subscribe()
    }

    /// Ends the session on the host, which has room for some hundreds of them only.
    pub async fn logout(&self, live: &Live) {
        let request = request::logout(&live.content.session_manager);
        if let Err(error) = self.send(live, request, Patience::Ordinary).await {
            let error = error.into_error("The host refused the logout");
            tracing::debug!(%error, "the session could not be ended and times out by itself");
        }
    }

    /// Where calls and sessions are counted.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The host's address, for messages.
    #[must_use]
    pub fn address(&self) -> String {
        self.transport.address()
    }

    async fn negotiate(&self) -> Result<&'static str, HostError> {
        let answer = self.transport.versions().await?;
        match answer.status {
            200 => Ok(choose_version(&answer.body)),
            500.. => Err(not_answered(&self.address(), AnswerError::Unavailable(answer.status))),
            _ => Ok(USUAL_VERSION),
        }
    }

    async fn exchange(
        &self,
        version: &str,
        cookie: Option<&SecretString>,
        request: Request,
        patience: Patience,
    ) -> Result<(Reply, Option<SecretString>), ExchangeError> {
        let (method, began) = (request.method, self.clock.elapsed());
        let answer = self.exchange_uncounted(version, cookie, request, patience).await;
        let result = match &answer {
            Ok(_) => "ok",
            Err(ExchangeError::Fault(_)) => "fault",
            Err(ExchangeError::NotSent(_)) => "not_sent",
            Err(ExchangeError::Cut(_) | ExchangeError::Broken(_)) => "lost",
        };
        self.metrics.called(method, result, self.clock.elapsed().saturating_sub(began));
        answer
    }

    async fn exchange_uncounted(
        &self,
        version: &str,
        cookie: Option<&SecretString>,
        request: Request,
        patience: Patience,
    ) -> Result<(Reply, Option<SecretString>), ExchangeError> {
        let Request { method, envelope } = request;
        let HttpAnswer { status, body, cookie } =
            self.transport.post(envelope, version, cookie, patience).await?;
        let judged = if body.len() > LARGE_ANSWER {
            tokio::task::spawn_blocking(move || judge(status, &body, method)).await.map_err(
                |error| {
                    let message =
                        format!("The answer of the host {} could not be read.", self.address());
                    ExchangeError::Broken(
                        HostError::new(HostErrorKind::Protocol, message).caused_by(error),
                    )
                },
            )?
        } else {
            judge(status, &body, method)
        };
        match judged {
            Ok(Ok(reply)) => Ok((reply, cookie)),
            Ok(Err(fault)) => Err(ExchangeError::Fault(fault)),
            Err(error) => Err(ExchangeError::Broken(not_answered(&self.address(), error))),
        }
    }

    /// What a failed login means. Any fault that names a reason counts as a refusal: five wrong
    /// tries lock an account of ESX.
    fn refused(&self, error: ExchangeError) -> ConnectError {
        match error {
            ExchangeError::Fault(fault) if !fault.name.is_empty() && !fault.may_have_run() => {
                let lead =
                    format!("The host {} refused the account {}", self.address(), self.username);
                let mut error = fault.into_error(&lead);
                error.kind = HostErrorKind::LoginRefused;
                ConnectError::Refused(error)
            }
            error => ConnectError::Failed(error.into_error("The host did not take the login")),
        }
    }
}

/// Larger answers are parsed beside the runtime, so that nobody else waits for it.
const LARGE_ANSWER: usize = 256 << 10;

impl Live {
    /// Whether the host means our account by this name.
    #[must_use]
    pub fn is_us(&self, user: &str) -> bool {
        self.users.iter().any(|us| us.eq_ignore_ascii_case(user))
    }

    /// Its number: each login has a higher one.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

impl ServiceContent {
    fn read(content: Element<'_>) -> Option<Self> {
        let about = content.child("about")?;
        let field = |name| about.child_text(name).unwrap_or_default().to_owned();
        Some(Self {
            root_folder: Reference::in_child(content, "rootFolder")?,
            property_collector: Reference::in_child(content, "propertyCollector")?,
            view_manager: Reference::in_child(content, "viewManager")?,
            session_manager: Reference::in_child(content, "sessionManager")?,
            license_manager: Reference::in_child(content, "licenseManager"),
            authorization_manager: Reference::in_child(content, "authorizationManager"),
            product: HostProduct {
                full_name: field("fullName"),
                version: field("version"),
                build: field("build"),
                api_type: field("apiType"),
                api_version: field("apiVersion"),
            },
        })
    }
}

impl ExchangeError {
    /// The failure; `lead` says what the host refused, where it did.
    #[must_use]
    pub fn into_error(self, lead: &str) -> HostError {
        match self {
            Self::Fault(fault) => fault.into_error(lead),
            Self::NotSent(error) | Self::Cut(error) | Self::Broken(error) => error,
        }
    }

    /// Whether this may be a lost session's doing.
    #[must_use]
    pub fn may_be_lost_session(&self) -> bool {
        matches!(self, Self::Fault(fault) if fault.may_be_lost_session())
    }

    /// Whether it is this fault.
    #[must_use]
    pub fn is_fault(&self, name: &str) -> bool {
        matches!(self, Self::Fault(fault) if fault.name == name)
    }
}

impl From<TransportError> for ExchangeError {
    fn from(error: TransportError) -> Self {
        match error {
            error if error.never_sent => Self::NotSent(error.into()),
            error if error.cut => Self::Cut(error.into()),
            error => Self::Broken(error.into()),
        }
    }
}

fn closed(reason: &str) -> HostError {
    HostError::new(HostErrorKind::Unreachable, reason)
}

/// What is said where the host no longer knows the session.
#[must_use]
pub fn lost() -> HostError {
    HostError::new(
        HostErrorKind::NotAuthenticated,
        "The host ended the session; otter logs in again.",
    )
}

fn not_answered(address: &str, error: AnswerError) -> HostError {
    let kind = match error {
        AnswerError::Unavailable(_) => HostErrorKind::Unreachable,
        AnswerError::NotSoap(_) | AnswerError::Unreadable(..) | AnswerError::OtherMethod(..) => {
            HostErrorKind::Protocol
        }
    };
    HostError::new(kind, format!("No answer of vim25 from {address}: {error}.")).caused_by(error)
}

/// The newest version that both know, by `vimServiceVersions.xml`.
fn choose_version(body: &[u8]) -> &'static str {
    let Ok(document) = Document::parse(body) else { return USUAL_VERSION };
    let mut offered: Vec<&str> = Vec::new();
    for namespace in document.root().children_named("namespace") {
        if namespace.child_text("name").map(str::trim) == Some("urn:vim25") {
            let prior = namespace.child("priorVersions").into_iter().flat_map(Element::children);
            offered.extend(
                namespace
                    .child("version")
                    .into_iter()
                    .chain(prior)
                    .map(|version| version.text().trim()),
            );
        }
    }
    VERSIONS.into_iter().find(|version| offered.contains(version)).unwrap_or(USUAL_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_both_know_is_spoken() {
        let list = |version: &str, prior: &str| {
            format!(
                "<namespaces version='1.0'><namespace><name>urn:vim25</name><version>{version}</version>\
                 <priorVersions>{prior}</priorVersions></namespace></namespaces>"
            )
        };
        let seven = list("7.0.3.0", "<version>6.7</version><version>6.5</version>");
        assert_eq!(choose_version(seven.as_bytes()), "7.0.3.0");
        let development = list("uA046D008", "<version>8.0.1.0</version><version>6.5</version>");
        assert_eq!(choose_version(development.as_bytes()), "8.0.1.0");
        assert_eq!(choose_version(list("99.0", "").as_bytes()), USUAL_VERSION);
        assert_eq!(choose_version(b"<html>"), USUAL_VERSION);
    }
}
