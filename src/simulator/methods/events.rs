//! `EventManager` and its collectors.

use super::Call;
use crate::simulator::events::{EventCollector, EventFilter, page_size};
use crate::simulator::fault::Fault;
use crate::simulator::properties;
use crate::simulator::soap;
use crate::simulator::value::{Moref, Value};

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let target = request.target.id.as_str();
    let answer = match method {
        "QueryEvents" => {
            let mut collector = collector(call)?;
            let world = &call.state.world;
            let most = request.call().descend(&["filter", "maxCount"]);
            let most =
                most.map_or(Ok(usize::MAX), |most| page_size(most.text(), "filter.maxCount"))?;
            let found = collector.read_next(world, most);
            soap::returns(method, &properties::events(world, found), "Event")
        }
        "CreateCollectorForEvents" => {
            let collector = collector(call)?;
            let id = call.id.clone();
            call.session()?.add_history(&id, collector)?;
            let made = Moref::new("EventHistoryCollector", id);
            soap::returns(method, &Value::Reference(made), "EventHistoryCollector")
        }
        "SetCollectorPageSize" => {
            let size = page_size(request.required("maxCount")?, "maxCount")?;
            own(call)?.set_page(size);
            // Its latest page is another now.
            call.session()?.view_revision += 1;
            soap::void(method)
        }
        "RewindCollector" => {
            own(call)?.rewind();
            soap::void(method)
        }
        "ResetCollector" => {
            let state = &mut *call.state;
            let session =
                state.sessions.get_mut(call.cookie).ok_or_else(Fault::not_authenticated)?;
            if let Some(collector) = session.history_mut(target) {
                collector.reset(&state.world);
            }
            soap::void(method)
        }
        "ReadNextEvents" | "ReadPreviousEvents" => {
            let most = page_size(request.required("maxCount")?, "maxCount")?;
            let state = &mut *call.state;
            let session =
                state.sessions.get_mut(call.cookie).ok_or_else(Fault::not_authenticated)?;
            let collector =
                session.history_mut(target).ok_or_else(|| Fault::not_found(&request.target))?;
            let read = match method {
                "ReadNextEvents" => collector.read_next(&state.world, most),
                _ => collector.read_previous(&state.world, most),
            };
            soap::returns(method, &properties::events(&state.world, read), "Event")
        }
        "DestroyCollector" => {
            call.session()?.remove_history(target);
            soap::void(method)
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}

/// A collector of what the call filters for.
fn collector(call: &Call<'_>) -> Result<EventCollector, Fault> {
    let filter =
        call.request.call().child("filter").ok_or_else(|| Fault::invalid_argument("filter"))?;
    Ok(EventCollector::new(EventFilter::read(filter)?))
}

/// The collector that the call is on.
fn own<'c>(call: &'c mut Call<'_>) -> Result<&'c mut EventCollector, Fault> {
    let target = call.request.target.clone();
    call.session()?.history_mut(&target.id).ok_or_else(|| Fault::not_found(&target))
}
