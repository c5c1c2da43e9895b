//! The simulator's implementation of the methods of `PropertyCollector` and `PropertyFilter`,
//! except the waits for updates.

use super::{Call, number_option, read_specs, smaller_limit, with_collector};
use crate::simulator::property_collector::{FilterSpec, PropertyCollector};
use crate::simulator::soap;
use crate::simulator::value::{Moref, Value};
use crate::simulator::vim_fault::Fault;

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let (cookie, target, id) = (call.cookie, request.target.id.as_str(), call.id.clone());
    let answer = match method {
        "RetrieveProperties" => {
            let specs = read_specs(request)?;
            soap::answer(method, |writer| {
                PropertyCollector::retrieve_all(&specs, call.scope(), writer)
            })
        }
        "RetrievePropertiesEx" => {
            let specs = read_specs(request)?;
            let page = smaller_limit(
                number_option(request, &["options", "maxObjects"])?,
                call.state.fault_plan.page_limit,
            );
            with_collector(call.state, cookie, target, |collector, scope| {
                soap::answer(method, |writer| collector.retrieve(&specs, scope, page, id, writer))
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
            soap::empty_answer(method)
        }
        "CreateFilter" => {
            let spec =
                request.call().child("spec").ok_or_else(|| Fault::invalid_argument("spec"))?;
            let spec = FilterSpec::read(spec)?;
            let partial = request.is_set("partialUpdates");
            with_collector(call.state, cookie, target, |collector, scope| {
                collector.create_filter(id.clone(), spec, partial, scope)
            })?;
            soap::answer_value(
                method,
                &Value::Reference(Moref::new("PropertyFilter", id)),
                "PropertyFilter",
            )
        }
        "DestroyPropertyFilter" => {
            call.session()?.remove_filter(target);
            soap::empty_answer(method)
        }
        "CreatePropertyCollector" => {
            call.session()?.put_collector(&id, PropertyCollector::default());
            soap::answer_value(
                method,
                &Value::Reference(Moref::new("PropertyCollector", id)),
                "PropertyCollector",
            )
        }
        "DestroyPropertyCollector" => {
            call.session()?.remove_collector(target);
            soap::empty_answer(method)
        }
        "CancelWaitForUpdates" => {
            with_collector(call.state, cookie, target, |collector, _| {
                collector.cancelled += 1;
                Ok(())
            })?;
            soap::empty_answer(method)
        }
        "CheckForUpdates" => {
            let known = request.text("version").unwrap_or_default();
            with_collector(call.state, cookie, target, |collector, scope| {
                soap::answer(method, |writer| {
                    collector.updates(scope, known, None, writer).map(|_| ())
                })
            })
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}
