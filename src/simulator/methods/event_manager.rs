//! The simulator's implementation of the methods of `EventManager` and `EventHistoryCollector`.

use super::Call;
use crate::simulator::event_collector::{EventCollector, EventFilter, page_size};
use crate::simulator::properties;
use crate::simulator::soap;
use crate::simulator::value::{Moref, Value};
use crate::simulator::vim_fault::Fault;

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let target = request.target.id.as_str();
    let answer = match method {
        "QueryEvents" => {
            let mut collector = collector(call)?;
            let world = &call.state.world;
            let limit = request.call().descend(&["filter", "maxCount"]);
            let limit =
                limit.map_or(Ok(usize::MAX), |limit| page_size(limit.text(), "filter.maxCount"))?;
            let found = collector.read_next(world, limit);
            soap::answer_value(method, &properties::events(world, found), "Event")
        }
        "CreateCollectorForEvents" => {
            let collector = collector(call)?;
            let id = call.id.clone();
            call.session()?.add_event_collector(&id, collector)?;
            let made = Moref::new("EventHistoryCollector", id);
            soap::answer_value(method, &Value::Reference(made), "EventHistoryCollector")
        }
        "SetCollectorPageSize" => {
            let size = page_size(request.required("maxCount")?, "maxCount")?;
            target_collector(call)?.set_page_size(size);
            // A client may watch the latest page of the collector, which has changed. The new
            // revision lets the client's property filters read the page again.
            call.session()?.view_revision += 1;
            soap::empty_answer(method)
        }
        "RewindCollector" => {
            target_collector(call)?.rewind();
            soap::empty_answer(method)
        }
        "ResetCollector" => {
            let state = &mut *call.state;
            let session =
                state.sessions.get_mut(call.cookie).ok_or_else(Fault::not_authenticated)?;
            if let Some(collector) = session.event_collector_mut(target) {
                collector.reset(&state.world);
            }
            soap::empty_answer(method)
        }
        "ReadNextEvents" | "ReadPreviousEvents" => {
            let limit = page_size(request.required("maxCount")?, "maxCount")?;
            let state = &mut *call.state;
            let session =
                state.sessions.get_mut(call.cookie).ok_or_else(Fault::not_authenticated)?;
            let collector = session
                .event_collector_mut(target)
                .ok_or_else(|| Fault::not_found(&request.target))?;
            let read = match method {
                "ReadNextEvents" => collector.read_next(&state.world, limit),
                _ => collector.read_previous(&state.world, limit),
            };
            soap::answer_value(method, &properties::events(&state.world, read), "Event")
        }
        "DestroyCollector" => {
            call.session()?.remove_event_collector(target);
            soap::empty_answer(method)
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}

/// Makes an event collector with the filter that the call carries.
fn collector(call: &Call<'_>) -> Result<EventCollector, Fault> {
    let filter =
        call.request.call().child("filter").ok_or_else(|| Fault::invalid_argument("filter"))?;
    Ok(EventCollector::new(EventFilter::read(filter)?))
}

/// The event collector on which the client calls the method.
fn target_collector<'c>(call: &'c mut Call<'_>) -> Result<&'c mut EventCollector, Fault> {
    let target = call.request.target.clone();
    call.session()?.event_collector_mut(&target.id).ok_or_else(|| Fault::not_found(&target))
}
