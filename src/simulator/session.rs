//! The sessions of the host, by their cookies, and the login to its one account.
//!
//! ```text
//! Login ──► session ──► Logout | TerminateSession | idle too long | hostd restart
//! five wrong passwords ──► locked for 15 minutes: the right password is refused too
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::event_collector::EventCollector;
use super::properties;
use super::property_collector::PropertyCollector;
use super::read_scope::{CallerSession, SessionList};
use super::value::{Moref, Object, Value, references};
use super::view::View;
use super::vim_fault::Fault;
use super::world::{EventDetail, Moment, World};

/// The moid of the property collector that every session has from its start.
pub const DEFAULT_COLLECTOR: &str = "ha-property-collector";

const MAX_WRONG_TRIES: u32 = 5;
const LOCKED_FOR: Duration = Duration::from_mins(15);

/// All sessions of the host.
pub struct Sessions {
    username: String,
    password: SecretString,
    by_cookie: HashMap<String, Session>,
    /// The cookies that refused logins returned. A login with such a cookie is refused.
    rejected_cookies: HashSet<String>,
    wrong_tries: u32,
    locked_until: Duration,
    idle_after: Option<Duration>,
    limit: usize,
    /// Whether the host refuses every login, as if the password of the account had changed.
    pub refuse_logins: bool,
}

/// A session with its collectors and views.
pub struct Session {
    key: String,
    user: String,
    login_at: Timestamp,
    active_at: Timestamp,
    active: Duration,
    address: String,
    agent: String,
    calls: i64,
    /// The number of pending waits. A session with a pending wait is not idle.
    pub waits: usize,
    collectors: BTreeMap<String, PropertyCollector>,
    views: BTreeMap<String, View>,
    /// The `view_revision` at which each view last changed, by the id of the view.
    view_changes: BTreeMap<String, u64>,
    event_collectors: BTreeMap<String, EventCollector>,
    /// A number that increases with each change of the views.
    pub view_revision: u64,
}

/// The client that logs in.
pub struct Caller<'a> {
    pub cookie: Option<&'a str>,
    pub address: &'a str,
    pub agent: &'a str,
}

/// The result of a login, and the cookie that the answer sets. A refused login sets a cookie too.
pub struct LoginOutcome {
    pub cookie: String,
    pub result: Result<(), Fault>,
}

impl Sessions {
    /// Makes an empty set of sessions. A session ends if it is idle for longer than `idle_after`;
    /// `None` means that no session ends. `limit` is the maximum number of sessions.
    pub fn new(
        username: &str,
        password: SecretString,
        idle_after: Option<Duration>,
        limit: usize,
    ) -> Self {
        Self {
            username: username.to_owned(),
            password,
            by_cookie: HashMap::new(),
            rejected_cookies: HashSet::new(),
            wrong_tries: 0,
            locked_until: Duration::ZERO,
            idle_after,
            limit,
            refuse_logins: false,
        }
    }

    /// `Login`. A new session gets the UUID `cookie` as its cookie and the UUID `key` as its key.
    pub fn login(
        &mut self,
        caller: &Caller<'_>,
        (user, password): (&str, &str),
        (cookie, key): (Uuid, Uuid),
        now: Moment,
    ) -> LoginOutcome {
        let cookie = cookie.simple().to_string();
        let refused = |sessions: &mut Self| {
            if sessions.rejected_cookies.len() > 10_000 {
                sessions.rejected_cookies.clear();
            }
            sessions.rejected_cookies.insert(cookie.clone());
            LoginOutcome { cookie: cookie.clone(), result: Err(Fault::invalid_login()) }
        };
        let on_a_used_cookie = caller.cookie.is_some_and(|old| {
            self.rejected_cookies.contains(old) || self.by_cookie.contains_key(old)
        });
        if on_a_used_cookie || self.refuse_logins || now.elapsed < self.locked_until {
            return refused(self);
        }
        if user != self.username || password != self.password.expose_secret() {
            self.wrong_tries += 1;
            if self.wrong_tries >= MAX_WRONG_TRIES {
                self.wrong_tries = 0;
                self.locked_until = now.elapsed + LOCKED_FOR;
            }
            return refused(self);
        }
        self.wrong_tries = 0;
        let session = Session {
            key: key.to_string(),
            user: user.to_owned(),
            login_at: now.wall,
            active_at: now.wall,
            active: now.elapsed,
            address: caller.address.to_owned(),
            agent: caller.agent.to_owned(),
            calls: 0,
            waits: 0,
            collectors: BTreeMap::from([(
                DEFAULT_COLLECTOR.to_owned(),
                PropertyCollector::default(),
            )]),
            views: BTreeMap::new(),
            view_changes: BTreeMap::new(),
            event_collectors: BTreeMap::new(),
            view_revision: 0,
        };
        self.by_cookie.insert(cookie.clone(), session);
        LoginOutcome { cookie, result: Ok(()) }
    }

    /// Whether the host serves a request that is no call: it has the cookie of a session, or the
    /// account by basic authentication. The session counts as active.
    pub fn admits(&mut self, cookie: Option<&str>, headers: &HeaderMap, now: Moment) -> bool {
        let is_admitted = self.get(cookie).is_some()
            || basic_login(headers).is_some_and(|(user, password)| self.accepts(&user, &password));
        self.mark_active(cookie, now);
        is_admitted
    }

    /// Whether these are the user and the password of the account.
    fn accepts(&self, user: &str, password: &str) -> bool {
        !self.refuse_logins && user == self.username && password == self.password.expose_secret()
    }

    /// Whether the host has its maximum number of sessions.
    pub fn is_full(&self) -> bool {
        self.by_cookie.len() >= self.limit
    }

    /// Removes the sessions that were idle for too long and returns them.
    pub fn expire(&mut self, now: Moment) -> Vec<Session> {
        let Some(idle_after) = self.idle_after else { return Vec::new() };
        let is_idle =
            |session: &Session| session.waits == 0 && now.elapsed >= session.active + idle_after;
        self.by_cookie
            .extract_if(|_, session| is_idle(session))
            .map(|(_, session)| session)
            .collect()
    }

    /// Removes every session.
    pub fn clear(&mut self) {
        self.by_cookie.clear();
    }

    /// The number of sessions.
    pub fn count(&self) -> usize {
        self.by_cookie.len()
    }

    /// The number of pending waits in all sessions.
    pub fn waits(&self) -> usize {
        self.by_cookie.values().map(|session| session.waits).sum()
    }

    /// The number of views in all sessions.
    pub fn view_count(&self) -> usize {
        self.by_cookie.values().map(|session| session.views.len()).sum()
    }

    /// The number of property filters in all sessions.
    pub fn filter_count(&self) -> usize {
        let collectors = self.by_cookie.values().flat_map(|session| session.collectors.values());
        collectors.map(|collector| collector.filters().count()).sum()
    }

    pub fn get(&self, cookie: Option<&str>) -> Option<&Session> {
        self.by_cookie.get(cookie?)
    }

    pub fn get_mut(&mut self, cookie: Option<&str>) -> Option<&mut Session> {
        self.by_cookie.get_mut(cookie?)
    }

    /// Records that a session made a call, which also counts as activity.
    pub fn record_call(&mut self, cookie: Option<&str>, now: Moment) {
        if let Some(session) = self.get_mut(cookie) {
            session.calls += 1;
        }
        self.mark_active(cookie, now);
    }

    /// `Logout`. Ends and returns the session with this cookie, if there is one.
    pub fn logout(&mut self, cookie: Option<&str>) -> Option<Session> {
        self.by_cookie.remove(cookie?)
    }

    /// `TerminateSession`. Ends and returns the sessions with these keys.
    ///
    /// # Errors
    /// `NotFound` if no session has one of the keys, `InvalidArgument` if a key is that of the
    /// caller's own session.
    pub fn terminate(&mut self, own: Option<&str>, keys: &[String]) -> Result<Vec<Session>, Fault> {
        let mut ended = Vec::new();
        for key in keys {
            let found = self.by_cookie.iter().find(|(_, session)| session.key == *key);
            match found.map(|(cookie, _)| cookie.clone()) {
                None => {
                    return Err(Fault::new(
                        "NotFound",
                        "The object or item referred to could not be found.",
                    ));
                }
                Some(cookie) if own == Some(&cookie) => {
                    return Err(Fault::invalid_argument("sessionId"));
                }
                Some(cookie) => ended.extend(self.by_cookie.remove(&cookie)),
            }
        }
        Ok(ended)
    }

    /// Records that a session is active now, so that its idle time starts again.
    pub fn mark_active(&mut self, cookie: Option<&str>, now: Moment) {
        if let Some(session) = self.get_mut(cookie) {
            session.active = now.elapsed;
            session.active_at = now.wall;
        }
    }
}

/// The user and the password of basic authentication.
fn basic_login(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

impl Session {
    /// The user of the session.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The event for the event history that this session logged in.
    pub fn login_event(&self) -> EventDetail {
        EventDetail::LoggedIn {
            session: self.key.clone(),
            address: self.address.clone(),
            agent: self.agent.clone(),
        }
    }

    /// The event for the event history that this session logged out.
    pub fn logout_event(&self) -> EventDetail {
        EventDetail::LoggedOut {
            session: self.key.clone(),
            address: self.address.clone(),
            agent: self.agent.clone(),
            calls: self.calls,
            login_at: self.login_at,
        }
    }

    pub fn event_collector(&self, id: &str) -> Option<&EventCollector> {
        self.event_collectors.get(id)
    }

    pub fn event_collector_mut(&mut self, id: &str) -> Option<&mut EventCollector> {
        self.event_collectors.get_mut(id)
    }

    /// Adds an event collector.
    ///
    /// # Errors
    /// `InvalidState` if the session has too many event collectors.
    pub fn add_event_collector(
        &mut self,
        id: &str,
        collector: EventCollector,
    ) -> Result<(), Fault> {
        if self.event_collectors.len() >= EventCollector::MAX_PER_SESSION {
            return Err(Fault::new("InvalidState", "There are too many event collectors."));
        }
        self.event_collectors.insert(id.to_owned(), collector);
        Ok(())
    }

    pub fn remove_event_collector(&mut self, id: &str) -> bool {
        self.event_collectors.remove(id).is_some()
    }

    pub fn collector(&self, id: &str) -> Option<&PropertyCollector> {
        self.collectors.get(id)
    }

    /// Takes a property collector out of the session, so that the collector can read the session
    /// while it works.
    pub fn take_collector(&mut self, id: &str) -> Option<PropertyCollector> {
        self.collectors.get_mut(id).map(std::mem::take)
    }

    /// Adds a property collector, or puts it back after [`take_collector`](Self::take_collector).
    pub fn put_collector(&mut self, id: &str, collector: PropertyCollector) {
        self.collectors.insert(id.to_owned(), collector);
    }

    pub fn remove_collector(&mut self, id: &str) -> bool {
        id != DEFAULT_COLLECTOR && self.collectors.remove(id).is_some()
    }

    pub fn has_filter(&self, id: &str) -> bool {
        self.collectors.values().any(|collector| collector.filters().any(|known| known == id))
    }

    pub fn remove_filter(&mut self, id: &str) -> bool {
        self.collectors.values_mut().any(|collector| collector.remove_filter(id))
    }

    pub fn view(&self, id: &str) -> Option<&View> {
        self.views.get(id)
    }

    pub fn view_mut(&mut self, id: &str) -> Option<&mut View> {
        self.view_revision += 1;
        self.view_changes.insert(id.to_owned(), self.view_revision);
        self.views.get_mut(id)
    }

    pub fn add_view(&mut self, id: &str, view: View) {
        self.view_revision += 1;
        self.view_changes.insert(id.to_owned(), self.view_revision);
        self.views.insert(id.to_owned(), view);
    }

    pub fn remove_view(&mut self, id: &str) -> bool {
        self.view_revision += 1;
        self.view_changes.remove(id);
        self.views.remove(id).is_some()
    }

    /// Makes an object id from a UUID, in the form that hosts give to views, filters and
    /// collectors.
    pub fn object_id(&self, id: Uuid) -> String {
        format!("session[{}]{id}", self.key)
    }
}

impl SessionList for Sessions {
    fn user_sessions(&self) -> Vec<Object> {
        let mut sessions: Vec<&Session> = self.by_cookie.values().collect();
        sessions.sort_by(|a, b| (a.login_at, &a.key).cmp(&(b.login_at, &b.key)));
        sessions.into_iter().map(Session::user_session).collect()
    }
}

impl CallerSession for Session {
    fn user_session(&self) -> Object {
        Object::new("UserSession")
            .with("key", &self.key)
            .with("userName", &self.user)
            .with("fullName", "Administrator")
            .with("loginTime", self.login_at)
            .with("lastActiveTime", self.active_at)
            .with("locale", "en")
            .with("messageLocale", "en")
            .with("extensionSession", false)
            .with("ipAddress", &self.address)
            .with("userAgent", &self.agent)
            .with("callCount", self.calls)
    }

    fn has(&self, object: &Moref) -> bool {
        let id = object.id.as_str();
        match object.kind {
            "ContainerView" | "ListView" => self.view(id).is_some(),
            "EventHistoryCollector" => self.event_collector(id).is_some(),
            "PropertyFilter" => self.has_filter(id),
            "PropertyCollector" => self.collector(id).is_some(),
            _ => false,
        }
    }

    fn property(&self, world: &World, object: &Moref, name: &str) -> Option<Value> {
        let id = object.id.as_str();
        match (object.kind, name) {
            ("ContainerView" | "ListView", "view") => {
                Some(references(self.view(id)?.objects(world)))
            }
            ("ContainerView" | "ListView", other) => self.view(id)?.property(other),
            ("EventHistoryCollector", "filter") => {
                Some(Value::Object(self.event_collector(id)?.filter.object()))
            }
            ("EventHistoryCollector", "latestPage") => {
                Some(properties::events(world, self.event_collector(id)?.latest(world)))
            }
            ("PropertyCollector", "filter") => {
                let filters = self.collector(id)?.filters();
                Some(references(filters.map(|id| Moref::new("PropertyFilter", id))))
            }
            _ => None,
        }
    }

    fn views(&self) -> Vec<Moref> {
        self.views.iter().map(|(id, view)| Moref::new(view.kind(), id.clone())).collect()
    }

    fn view_revision(&self) -> u64 {
        self.view_revision
    }

    fn view_changed_at(&self, view: &Moref) -> Option<u64> {
        self.view_changes.get(&view.id).copied()
    }
}
