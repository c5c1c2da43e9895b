//! `ServiceInstance`, `SessionManager` and `SearchIndex`.

use super::{Call, fetch, search};
use crate::simulator::fault::Fault;
use crate::simulator::properties;
use crate::simulator::soap;
use crate::simulator::value::{Value, references};

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let answer = match method {
        "RetrieveServiceContent" => {
            soap::returns(method, &properties::content(&call.state.world), "ServiceContent")
        }
        "CurrentTime" => soap::returns(method, &Value::Time(call.state.world.now().wall), "dateTime"),
        "Fetch" => fetch(call.look(), request),
        "Logout" => {
            call.state.sessions.logout(call.cookie);
            soap::void(method)
        }
        "TerminateSession" => {
            call.state.sessions.terminate(call.cookie, &request.texts("sessionId"))?;
            soap::void(method)
        }
        "AcquireCloneTicket" | "CloneSession" | "SessionIsActive" => Err(Fault::not_implemented()),
        "FindByUuid" | "FindByInventoryPath" | "FindByDatastorePath" | "FindByIp" | "FindByDnsName" => {
            match search::find(&call.state.world, request)?.into_iter().next() {
                Some(found) => soap::returns(method, &Value::Reference(found), "ManagedEntity"),
                None => soap::void(method),
            }
        }
        "FindAllByUuid" | "FindAllByIp" | "FindAllByDnsName" => {
            let found = search::find(&call.state.world, request)?;
            soap::returns(method, &references(found), "ManagedEntity")
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}
