//! The methods of vim25 that the simulator has, by name.

mod search;
mod wait;

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::collector::{Collector, FilterSpec};
use super::fault::Fault;
use super::faults::SessionLoss;
use super::properties::{self, Look};
use super::session::Caller;
use super::soap::{self, Request};
use super::value::{Moref, Value, references};
use super::view::View;
use super::world::Operation;
use super::{Shared, State};
use crate::domain::names::unescape_vim;

/// Who calls.
pub struct CallContext {
    pub cookie: Option<String>,
    pub address: String,
    pub agent: String,
}

/// What is answered.
pub struct Outcome {
    pub result: Result<String, Fault>,
    /// A new session's cookie, or a refused login's.
    pub cookie: Option<String>,
}

/// Runs a method to its end. Only waits take time.
pub async fn run(shared: &Arc<Shared>, request: &Request, context: &CallContext) -> Outcome {
    let result = match request.method.as_str() {
        "WaitForUpdatesEx" | "WaitForUpdates" => wait::run(shared, request, context).await,
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
    Outcome { result, cookie: None }
}

fn login(shared: &Shared, request: &Request, context: &CallContext) -> Outcome {
    let ids = (shared.clock.uuid(), shared.clock.uuid());
    let mut state = shared.lock();
    let now = state.world.now();
    let (Ok(user), Ok(password)) = (request.required("userName"), request.required("password")) else {
        return Outcome { result: Err(Fault::invalid_argument("userName")), cookie: None };
    };
    let password = SecretString::from(password);
    let caller =
        Caller { cookie: context.cookie.as_deref(), address: &context.address, agent: &context.agent };
    let login = state.sessions.login(&caller, (user, password.expose_secret()), ids, now);
    let result = login.result.and_then(|()| {
        let session = state.sessions.get(Some(&login.cookie)).map(super::session::Session::user_session);
        let session = session.ok_or_else(Fault::not_authenticated)?;
        soap::returns("Login", &Value::Object(session), "UserSession")
    });
    Outcome { result, cookie: Some(login.cookie) }
}

/// Everything but waits and logins, under one look at the state.
fn run_at_once(shared: &Shared, request: &Request, context: &CallContext) -> Result<String, Fault> {
    let method = request.method.as_str();
    let cookie = context.cookie.as_deref();
    let ids = (shared.clock.uuid(), shared.clock.uuid());
    let mut guard = shared.lock();
    let state = &mut *guard;
    let now = state.world.now();
    state.sessions.note_call(cookie, now);
    let Some(session) = state.sessions.get(cookie) else {
        return without_session(state, request);
    };
    let user = session.user().to_owned();
    let id = session.object_id(ids.0);
    let target = &request.target;
    let machine = target.id.as_str();
    if !properties::exists(look(state, cookie), target) {
        return Err(Fault::not_found(target));
    }
    match method {
        "RetrieveServiceContent" => {
            soap::returns(method, &properties::content(&state.world), "ServiceContent")
        }
        "CurrentTime" => soap::returns(method, &Value::Time(now.wall), "dateTime"),
        "Fetch" => fetch(look(state, cookie), request),
        "Logout" => {
            state.sessions.logout(cookie);
            soap::void(method)
        }
        "TerminateSession" => {
            state.sessions.terminate(cookie, &request.texts("sessionId"))?;
            soap::void(method)
        }
        "AcquireCloneTicket" | "CloneSession" | "SessionIsActive" => Err(Fault::not_implemented()),

        "RetrieveProperties" => {
            let specs = read_specs(request)?;
            soap::answer(method, |writer| Collector::retrieve_all(&specs, look(state, cookie), writer))
        }
        "RetrievePropertiesEx" => {
            let specs = read_specs(request)?;
            let asked = number(request, &["options", "maxObjects"])?;
            let page = smaller(asked, state.faults.page_limit);
            with_collector(state, cookie, &target.id, |collector, look| {
                soap::answer(method, |writer| collector.retrieve(&specs, look, page, id, writer))
            })
        }
        "ContinueRetrievePropertiesEx" => {
            let token = request.required("token")?;
            with_collector(state, cookie, &target.id, |collector, _| {
                soap::answer(method, |writer| collector.continue_retrieve(token, id, writer))
            })
        }
        "CancelRetrievePropertiesEx" => {
            let token = request.required("token")?;
            with_collector(state, cookie, &target.id, |collector, _| collector.cancel_retrieve(token))?;
            soap::void(method)
        }
        "CreateFilter" => {
            let spec = request.call().child("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
            let spec = FilterSpec::read(spec)?;
            let partial = request.is_set("partialUpdates");
            with_collector(state, cookie, &target.id, |collector, look| {
                collector.create_filter(id.clone(), spec, partial, look)
            })?;
            soap::returns(method, &Value::Reference(Moref::new("PropertyFilter", id)), "PropertyFilter")
        }
        "DestroyPropertyFilter" => {
            session_mut(state, cookie)?.remove_filter(&target.id);
            soap::void(method)
        }
        "CreatePropertyCollector" => {
            session_mut(state, cookie)?.put_collector(&id, Collector::default());
            soap::returns(method, &Value::Reference(Moref::new("PropertyCollector", id)), "PropertyCollector")
        }
        "DestroyPropertyCollector" => {
            session_mut(state, cookie)?.remove_collector(&target.id);
            soap::void(method)
        }
        "CancelWaitForUpdates" => {
            with_collector(state, cookie, &target.id, |collector, _| {
                collector.cancelled += 1;
                Ok(())
            })?;
            soap::void(method)
        }
        "CheckForUpdates" => {
            let known = request.text("version").unwrap_or_default();
            with_collector(state, cookie, &target.id, |collector, look| {
                soap::answer(method, |writer| collector.updates(look, known, None, writer).map(|_| ()))
            })
        }

        "CreateContainerView" => {
            let container = request.morefs("container")?.into_iter().next();
            let container = container.ok_or_else(|| Fault::invalid_argument("container"))?;
            if !properties::exists(look(state, cookie), &container) {
                return Err(Fault::not_found(&container));
            }
            let view = View::Container {
                container,
                types: request.texts("type"),
                recursive: request.is_set("recursive"),
            };
            session_mut(state, cookie)?.add_view(&id, view);
            soap::returns(method, &Value::Reference(Moref::new("ContainerView", id)), "ContainerView")
        }
        "CreateListView" => {
            let objects = request.morefs("obj")?;
            if let Some(missing) =
                objects.iter().find(|object| !properties::exists(look(state, cookie), object))
            {
                return Err(Fault::not_found(missing));
            }
            session_mut(state, cookie)?.add_view(&id, View::List(objects));
            soap::returns(method, &Value::Reference(Moref::new("ListView", id)), "ListView")
        }
        "ModifyListView" | "ResetListView" => {
            let (add, remove) = match method {
                "ModifyListView" => (request.morefs("add")?, request.morefs("remove")?),
                _ => (request.morefs("obj")?, Vec::new()),
            };
            let (add, unresolved): (Vec<Moref>, Vec<Moref>) =
                add.into_iter().partition(|object| properties::exists(look(state, cookie), object));
            if let Some(View::List(objects)) = session_mut(state, cookie)?.view_mut(&target.id) {
                if method == "ResetListView" {
                    objects.clear();
                }
                objects.retain(|object| !remove.contains(object));
                for object in add {
                    if !objects.contains(&object) {
                        objects.push(object);
                    }
                }
            }
            soap::returns(method, &references(unresolved), "ManagedObject")
        }
        "DestroyView" => {
            session_mut(state, cookie)?.remove_view(&target.id);
            soap::void(method)
        }

        "ShutdownGuest" => state.world.shut_down_guest(machine).and_then(|()| soap::void(method)),
        "RebootGuest" => state.world.reboot_guest(machine).and_then(|()| soap::void(method)),
        "AnswerVM" => {
            let (question, choice) = (request.required("questionId")?, request.required("answerChoice")?);
            state.world.answer(machine, question, choice)?;
            soap::void(method)
        }
        "RenameSnapshot" => {
            let name = request.text("name").map(unescape_vim);
            let description = request.text("description").map(str::to_owned);
            state.world.rename_snapshot(&target.id, name, description)?;
            soap::void(method)
        }
        "CancelTask" => state.world.cancel_task(&target.id).and_then(|()| soap::void(method)),

        "FindByUuid" | "FindByInventoryPath" | "FindByDatastorePath" | "FindByIp" | "FindByDnsName" => {
            let found = search::find(&state.world, request)?;
            match found.into_iter().next() {
                Some(found) => soap::returns(method, &Value::Reference(found), "ManagedEntity"),
                None => soap::void(method),
            }
        }
        "FindAllByUuid" | "FindAllByIp" | "FindAllByDnsName" => {
            let found = search::find(&state.world, request)?;
            soap::returns(method, &references(found), "ManagedEntity")
        }

        _ => match operation(request)? {
            Some(operation) => {
                let machine = match target.kind {
                    "VirtualMachineSnapshot" => {
                        let owner = state.world.machine_of_snapshot(&target.id);
                        owner.ok_or_else(|| Fault::not_found(target))?.id.clone()
                    }
                    _ => machine.to_owned(),
                };
                let task = state.world.start_task(&machine, operation, &user)?;
                soap::returns(method, &Value::Reference(task), "Task")
            }
            // Known, and not of a host without vCenter, or not built.
            None if super::schema::method(method).is_some() => Err(Fault::not_supported()),
            None => Err(Fault::method_not_found(target, method)),
        },
    }
}

/// What may be had without a session: what the service is, and whether there is a session.
fn without_session(state: &mut State, request: &Request) -> Result<String, Fault> {
    let method = request.method.as_str();
    let anonymous = |object: &Moref| matches!(object.kind, "ServiceInstance" | "SessionManager");
    match method {
        "RetrieveServiceContent" => {
            return soap::returns(method, &properties::content(&state.world), "ServiceContent");
        }
        "Fetch" if anonymous(&request.target) => return fetch(look(state, None), request),
        "RetrieveProperties" | "RetrievePropertiesEx" => {
            let specs = read_specs(request)?;
            if specs.iter().all(|spec| spec.objects().all(anonymous)) {
                return soap::answer(method, |writer| match method {
                    "RetrieveProperties" => Collector::retrieve_all(&specs, look(state, None), writer),
                    _ => {
                        Collector::default().retrieve(&specs, look(state, None), None, String::new(), writer)
                    }
                });
            }
            match state.faults.session_loss {
                SessionLoss::MissingSet => {
                    return soap::answer(method, |writer| {
                        Collector::write_unauthenticated(&specs, look(state, None), writer)
                    });
                }
                SessionLoss::EmptyAnswer => return soap::void(method),
                SessionLoss::Fault | SessionLoss::NoCollector => {}
            }
        }
        _ => {}
    }
    Err(lost_session(state, request))
}

/// How a call is refused whose session is gone.
fn lost_session(state: &State, request: &Request) -> Fault {
    let waiting = matches!(request.method.as_str(), "WaitForUpdatesEx" | "WaitForUpdates");
    match state.faults.session_loss {
        SessionLoss::NoCollector => Fault::not_found(&request.target),
        SessionLoss::MissingSet | SessionLoss::EmptyAnswer if waiting => {
            Fault::new("RequestCanceled", "The request was canceled.")
        }
        _ => Fault::not_authenticated(),
    }
}

/// `Fetch`, by which pyvmomi reads every property.
fn fetch(look: Look<'_>, request: &Request) -> Result<String, Fault> {
    let name = request.required("prop")?;
    let target = &request.target;
    if super::schema::field(target.kind, name).is_none() {
        return Err(Fault::invalid_property(name));
    }
    soap::answer("Fetch", |writer| {
        if let Some(value) = properties::property(look, target, name) {
            value.write_any(writer, "returnval");
        }
        Ok(())
    })
}

/// The operation that a `_Task` method asks for.
fn operation(request: &Request) -> Result<Option<Operation>, Fault> {
    let target = request.target.id.clone();
    let suppress_power_on = request.is_set("suppressPowerOn");
    Ok(Some(match request.method.as_str() {
        "PowerOnVM_Task" => Operation::PowerOn,
        "PowerOffVM_Task" => Operation::PowerOff,
        "ResetVM_Task" => Operation::Reset,
        "SuspendVM_Task" => Operation::Suspend,
        "CreateSnapshot_Task" => Operation::CreateSnapshot {
            name: unescape_vim(request.required("name")?),
            description: request.text("description").unwrap_or_default().to_owned(),
            memory: request.is_set("memory"),
            quiesce: request.is_set("quiesce"),
        },
        "RevertToSnapshot_Task" => Operation::RevertToSnapshot { snapshot: target, suppress_power_on },
        "RevertToCurrentSnapshot_Task" => Operation::RevertToCurrentSnapshot { suppress_power_on },
        "RemoveSnapshot_Task" => {
            Operation::RemoveSnapshot { snapshot: target, children: request.is_set("removeChildren") }
        }
        "RemoveAllSnapshots_Task" => Operation::RemoveAllSnapshots,
        _ => return Ok(None),
    }))
}

fn read_specs(request: &Request) -> Result<Vec<FilterSpec>, Fault> {
    request.call().children_named("specSet").map(FilterSpec::read).collect()
}

fn number(request: &Request, path: &[&str]) -> Result<Option<usize>, Fault> {
    match request.call().descend(path).map(|element| element.text().trim()) {
        None | Some("") => Ok(None),
        Some(text) => match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Fault::invalid_argument(path.last().unwrap_or(&"options"))),
        },
    }
}

fn smaller(asked: Option<usize>, limit: Option<usize>) -> Option<usize> {
    match (asked.filter(|asked| *asked > 0), limit) {
        (Some(asked), Some(limit)) => Some(asked.min(limit)),
        (asked, limit) => asked.or(limit),
    }
}

fn look<'a>(state: &'a State, cookie: Option<&str>) -> Look<'a> {
    Look { world: &state.world, sessions: &state.sessions, session: state.sessions.get(cookie) }
}

fn session_mut<'a>(
    state: &'a mut State,
    cookie: Option<&str>,
) -> Result<&'a mut super::session::Session, Fault> {
    state.sessions.get_mut(cookie).ok_or_else(Fault::not_authenticated)
}

/// Works on a collector that looks at the session that it belongs to.
fn with_collector<T>(
    state: &mut State,
    cookie: Option<&str>,
    id: &str,
    work: impl FnOnce(&mut Collector, Look<'_>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let missing = || Fault::not_found(&Moref::new("PropertyCollector", id));
    let mut collector = session_mut(state, cookie)?.take_collector(id).ok_or_else(missing)?;
    let result = work(&mut collector, look(state, cookie));
    session_mut(state, cookie)?.put_collector(id, collector);
    result
}
