//! The simulator's implementation of the methods of `ServiceInstance`, `SessionManager` and
//! `SearchIndex`.

use super::{Call, fetch, search_index};
use crate::simulator::SimulatorState;
use crate::simulator::properties;
use crate::simulator::session::Session;
use crate::simulator::soap;
use crate::simulator::value::{Value, references};
use crate::simulator::vim_fault::Fault;

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let answer = match method {
        "RetrieveServiceContent" => {
            soap::answer_value(method, &properties::content(&call.state.world), "ServiceContent")
        }
        "CurrentTime" => {
            soap::answer_value(method, &Value::Time(call.state.world.now().wall), "dateTime")
        }
        "Fetch" => fetch(call.scope(), request),
        "Logout" => {
            let ended = call.state.sessions.logout(call.cookie);
            record_logouts(call.state, ended);
            soap::empty_answer(method)
        }
        "TerminateSession" => {
            let ended = call.state.sessions.terminate(call.cookie, &request.texts("sessionId"))?;
            record_logouts(call.state, ended);
            soap::empty_answer(method)
        }
        "AcquireCloneTicket" | "CloneSession" | "SessionIsActive" => Err(Fault::not_implemented()),
        "FindByUuid"
        | "FindByInventoryPath"
        | "FindByDatastorePath"
        | "FindByIp"
        | "FindByDnsName" => match search_index::find(&call.state.world, request)?
            .into_iter()
            .next()
        {
            Some(found) => soap::answer_value(method, &Value::Reference(found), "ManagedEntity"),
            None => soap::empty_answer(method),
        },
        "FindAllByUuid" | "FindAllByIp" | "FindAllByDnsName" => {
            let found = search_index::find(&call.state.world, request)?;
            soap::answer_value(method, &references(found), "ManagedEntity")
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}

fn record_logouts(state: &mut SimulatorState, ended: impl IntoIterator<Item = Session>) {
    for session in ended {
        state.world.record_session_event(session.user(), session.logout_event());
    }
}
