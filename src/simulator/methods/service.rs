//! `ServiceInstance`, `SessionManager` and `SearchIndex`.

use super::{Call, fetch, search};
use crate::simulator::State;
use crate::simulator::fault::Fault;
use crate::simulator::properties;
use crate::simulator::session::Session;
use crate::simulator::soap;
use crate::simulator::value::{Value, references};

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let answer = match method {
        "RetrieveServiceContent" => {
            soap::returns(method, &properties::content(&call.state.world), "ServiceContent")
        }
        "CurrentTime" => {
            soap::returns(method, &Value::Time(call.state.world.now().wall), "dateTime")
        }
        "Fetch" => fetch(call.look(), request),
        "Logout" => {
            let ended = call.state.sessions.logout(call.cookie);
            note_ends(call.state, ended);
            soap::void(method)
        }
        "TerminateSession" => {
            let ended = call.state.sessions.terminate(call.cookie, &request.texts("sessionId"))?;
            note_ends(call.state, ended);
            soap::void(method)
        }
        "AcquireCloneTicket" | "CloneSession" | "SessionIsActive" => Err(Fault::not_implemented()),
        "FindByUuid"
        | "FindByInventoryPath"
        | "FindByDatastorePath"
        | "FindByIp"
        | "FindByDnsName" => match search::find(&call.state.world, request)?.into_iter().next() {
            Some(found) => soap::returns(method, &Value::Reference(found), "ManagedEntity"),
            None => soap::void(method),
        },
        "FindAllByUuid" | "FindAllByIp" | "FindAllByDnsName" => {
            let found = search::find(&call.state.world, request)?;
            soap::returns(method, &references(found), "ManagedEntity")
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}

fn note_ends(state: &mut State, ended: impl IntoIterator<Item = Session>) {
    for session in ended {
        state.world.note_session(session.user(), session.ending());
    }
}
