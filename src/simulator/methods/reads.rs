//! `PropertyCollector` and `PropertyFilter`, all but the waits.

use super::{Call, number, read_specs, smaller, with_collector};
use crate::simulator::collector::{Collector, FilterSpec};
use crate::simulator::fault::Fault;
use crate::simulator::soap;
use crate::simulator::value::{Moref, Value};

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let (cookie, target, id) = (call.cookie, request.target.id.as_str(), call.id.clone());
    let answer = match method {
        "RetrieveProperties" => {
            let specs = read_specs(request)?;
            soap::answer(method, |writer| Collector::retrieve_all(&specs, call.look(), writer))
        }
        "RetrievePropertiesEx" => {
            let specs = read_specs(request)?;
            let page =
                smaller(number(request, &["options", "maxObjects"])?, call.state.faults.page_limit);
            with_collector(call.state, cookie, target, |collector, look| {
                soap::answer(method, |writer| collector.retrieve(&specs, look, page, id, writer))
            })
        }
        "ContinueRetrievePropertiesEx" => {
            let token = request.required("token")?;
            with_collector(call.state, cookie, target, |collector, _| {
                soap::answer(method, |writer| collector.continue_retrieve(token, id, writer))
            })
        }
        "CancelRetrievePropertiesEx" => {
            let token = request.required("token")?;
            with_collector(call.state, cookie, target, |collector, _| {
                collector.cancel_retrieve(token)
            })?;
            soap::void(method)
        }
        "CreateFilter" => {
            let spec =
                request.call().child("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
            let spec = FilterSpec::read(spec)?;
            let partial = request.is_set("partialUpdates");
            with_collector(call.state, cookie, target, |collector, look| {
                collector.create_filter(id.clone(), spec, partial, look)
            })?;
            soap::returns(
                method,
                &Value::Reference(Moref::new("PropertyFilter", id)),
                "PropertyFilter",
            )
        }
        "DestroyPropertyFilter" => {
            call.session()?.remove_filter(target);
            soap::void(method)
        }
        "CreatePropertyCollector" => {
            call.session()?.put_collector(&id, Collector::default());
            soap::returns(
                method,
                &Value::Reference(Moref::new("PropertyCollector", id)),
                "PropertyCollector",
            )
        }
        "DestroyPropertyCollector" => {
            call.session()?.remove_collector(target);
            soap::void(method)
        }
        "CancelWaitForUpdates" => {
            with_collector(call.state, cookie, target, |collector, _| {
                collector.cancelled += 1;
                Ok(())
            })?;
            soap::void(method)
        }
        "CheckForUpdates" => {
            let known = request.text("version").unwrap_or_default();
            with_collector(call.state, cookie, target, |collector, look| {
                soap::answer(method, |writer| {
                    collector.updates(look, known, None, writer).map(|_| ())
                })
            })
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}
