//! The methods of vim25 that the simulator implements.

mod console;
mod event_manager;
mod files;
mod machines;
mod property_collector;
mod reconfigure;
mod search_index;
mod service;
mod view_manager;
mod wait_for_updates;

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::fault_injection::SessionLoss;
use super::properties;
use super::property_collector::{FilterSpec, PropertyCollector};
use super::read_scope::{CallerSession, ReadScope};
use super::schema;
use super::session::{Caller, Session};
use super::soap::{self, Request};
use super::value::{Moref, Value};
use super::vim_fault::Fault;
use super::world::EventDetail;
use super::{Shared, SimulatorState};

/// Who makes a call: the cookie, the address and the `User-Agent` of the client.
pub struct CallContext {
    pub cookie: Option<String>,
    pub address: String,
    pub agent: String,
}

/// The answer to a call.
pub struct CallOutcome {
    pub result: Result<String, Fault>,
    /// The cookie that the answer sets. Every login sets a cookie, also a refused login. `None` for
    /// other methods.
    pub cookie: Option<String>,
}

/// Runs the called method. All methods answer at once, except waits for updates.
pub async fn run(shared: &Arc<Shared>, request: &Request, context: &CallContext) -> CallOutcome {
    let result = match request.method.as_str() {
        "WaitForUpdatesEx" | "WaitForUpdates" => {
            wait_for_updates::run(shared, request, context).await
        }
        "Login" => {
            let outcome = login(shared, request, context);
            shared.notify();
            return outcome;
        }
        _ => {
            let result = run_at_once(shared, request, context);
            shared.notify();
            result
        }
    };
    CallOutcome { result, cookie: None }
}

fn login(shared: &Shared, request: &Request, context: &CallContext) -> CallOutcome {
    let ids = (shared.clock.uuid(), shared.clock.uuid());
    let mut state = shared.lock();
    let now = state.world.now();
    let (Ok(user), Ok(password)) = (request.required("userName"), request.required("password"))
    else {
        return CallOutcome { result: Err(Fault::invalid_argument("userName")), cookie: None };
    };
    let password = SecretString::from(password);
    let caller = Caller {
        cookie: context.cookie.as_deref(),
        address: &context.address,
        agent: &context.agent,
    };
    let login = state.sessions.login(&caller, (user, password.expose_secret()), ids, now);
    let refused = EventDetail::LoginRefused { address: context.address.clone() };
    let begun = state
        .sessions
        .get(Some(&login.cookie))
        .map(|session| (session.user_session(), session.login_event()));
    let (result, event) = match (login.result, begun) {
        (Ok(()), Some((session, event))) => {
            (soap::answer_value("Login", &Value::Object(session), "UserSession"), event)
        }
        (Ok(()), None) => (Err(Fault::not_authenticated()), refused),
        (Err(fault), _) => (Err(fault), refused),
    };
    state.world.record_session_event(user, event);
    CallOutcome { result, cookie: Some(login.cookie) }
}

/// Runs a method that is not a wait for updates or a login. The method holds the lock of the state
/// from its start to its end.
fn run_at_once(shared: &Shared, request: &Request, context: &CallContext) -> Result<String, Fault> {
    let cookie = context.cookie.as_deref();
    let fresh = shared.clock.uuid();
    let mut guard = shared.lock();
    let state = &mut *guard;
    let now = state.world.now();
    state.sessions.record_call(cookie, now);
    let Some(session) = state.sessions.get(cookie) else {
        return without_session(state, request);
    };
    let id = session.object_id(fresh);
    if !properties::exists(read_scope(state, cookie), &request.target) {
        return Err(Fault::not_found(&request.target));
    }
    let mut call = Call { state, request, cookie, id, fresh };
    for group in [
        service::run,
        property_collector::run,
        view_manager::run,
        machines::run,
        console::run,
        event_manager::run,
        files::run,
    ] {
        if let Some(answer) = group(&mut call)? {
            return Ok(answer);
        }
    }
    let method = request.method.as_str();
    match schema::method(method) {
        // The schema declares the method, but only vCenter has it, or the simulator does not
        // implement it.
        Some(_) => Err(Fault::not_supported()),
        None => Err(Fault::method_not_found(&request.target, method)),
    }
}

/// A call by a session on an object that exists. The methods are implemented in groups, one in each
/// file; a group returns `None` if the called method belongs to another group.
struct Call<'a> {
    state: &'a mut SimulatorState,
    request: &'a Request,
    cookie: Option<&'a str>,
    /// The id that an object gets if the call creates one.
    id: String,
    /// A new UUID, from which `id` is made.
    fresh: Uuid,
}

impl Call<'_> {
    fn scope(&self) -> ReadScope<'_> {
        read_scope(self.state, self.cookie)
    }

    fn session(&mut self) -> Result<&mut Session, Fault> {
        session_mut(self.state, self.cookie)
    }

    fn target(&self) -> &Moref {
        &self.request.target
    }
}

/// Answers a call from a client without a session. Such a client may read only the service content
/// and the current session.
fn without_session(state: &mut SimulatorState, request: &Request) -> Result<String, Fault> {
    let method = request.method.as_str();
    let anonymous = |object: &Moref| matches!(object.kind, "ServiceInstance" | "SessionManager");
    match method {
        "RetrieveServiceContent" => {
            return soap::answer_value(
                method,
                &properties::content(&state.world),
                "ServiceContent",
            );
        }
        "Fetch" if anonymous(&request.target) => return fetch(read_scope(state, None), request),
        "RetrieveProperties" | "RetrievePropertiesEx" => {
            let specs = read_specs(request)?;
            if specs.iter().all(|spec| spec.objects().all(anonymous)) {
                return soap::answer(method, |writer| match method {
                    "RetrieveProperties" => {
                        PropertyCollector::retrieve_all(&specs, read_scope(state, None), writer)
                    }
                    _ => PropertyCollector::default().retrieve(
                        &specs,
                        read_scope(state, None),
                        None,
                        String::new(),
                        writer,
                    ),
                });
            }
            match state.fault_plan.session_loss {
                SessionLoss::MissingSet => {
                    return soap::answer(method, |writer| {
                        PropertyCollector::write_unauthenticated(
                            &specs,
                            read_scope(state, None),
                            writer,
                        )
                    });
                }
                SessionLoss::EmptyAnswer => return soap::empty_answer(method),
                SessionLoss::Fault | SessionLoss::NoCollector => {}
            }
        }
        _ => {}
    }
    Err(lost_session(state, request))
}

/// The fault for a call whose session has ended, as tests have set it.
fn lost_session(state: &SimulatorState, request: &Request) -> Fault {
    let waiting = matches!(request.method.as_str(), "WaitForUpdatesEx" | "WaitForUpdates");
    match state.fault_plan.session_loss {
        SessionLoss::NoCollector => Fault::not_found(&request.target),
        SessionLoss::MissingSet | SessionLoss::EmptyAnswer if waiting => {
            Fault::new("RequestCanceled", "The request was canceled.")
        }
        _ => Fault::not_authenticated(),
    }
}

/// `Fetch`, with which pyvmomi reads every property.
fn fetch(scope: ReadScope<'_>, request: &Request) -> Result<String, Fault> {
    let name = request.required("prop")?;
    let target = &request.target;
    if schema::field(target.kind, name).is_none() {
        return Err(Fault::invalid_property(name));
    }
    soap::answer("Fetch", |writer| {
        if let Some(value) = properties::property(scope, target, name) {
            value.write_any(writer, "returnval");
        }
        Ok(())
    })
}

/// Reads the parameter `specSet` of a read of properties.
fn read_specs(request: &Request) -> Result<Vec<FilterSpec>, Fault> {
    request.call().children_named("specSet").map(FilterSpec::read).collect()
}

/// The number in the element at this path below the parameters. `None` if the element is absent.
fn number_option(request: &Request, path: &[&str]) -> Result<Option<usize>, Fault> {
    match request.call().descend(path).map(|element| element.text().trim()) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Fault::invalid_argument(path.last().unwrap_or(&"options"))),
        },
    }
}

/// The smaller of two limits: `asked` is the limit that the caller sets, `limit` the limit that a
/// test has set. As on a real host, an `asked` of 0 means no limit.
fn smaller_limit(asked: Option<usize>, limit: Option<usize>) -> Option<usize> {
    match (asked.filter(|asked| *asked > 0), limit) {
        (Some(asked), Some(limit)) => Some(asked.min(limit)),
        (asked, limit) => asked.or(limit),
    }
}

fn read_scope<'a>(state: &'a SimulatorState, cookie: Option<&str>) -> ReadScope<'a> {
    let session = state.sessions.get(cookie).map(|session| session as &dyn CallerSession);
    ReadScope { world: &state.world, sessions: &state.sessions, session }
}

fn session_mut<'a>(
    state: &'a mut SimulatorState,
    cookie: Option<&str>,
) -> Result<&'a mut Session, Fault> {
    state.sessions.get_mut(cookie).ok_or_else(Fault::not_authenticated)
}

/// Runs `work` with a property collector of the session. The collector is taken out of the session
/// until `work` ends, so that it can read the session.
fn with_collector<T>(
    state: &mut SimulatorState,
    cookie: Option<&str>,
    id: &str,
    work: impl FnOnce(&mut PropertyCollector, ReadScope<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let missing = || Fault::not_found(&Moref::new("PropertyCollector", id));
    let mut collector = session_mut(state, cookie)?.take_collector(id).ok_or_else(missing)?;
    let result = work(&mut collector, read_scope(state, cookie));
    session_mut(state, cookie)?.put_collector(id, collector);
    result
}
