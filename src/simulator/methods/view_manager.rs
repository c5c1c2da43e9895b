//! The simulator's implementation of the methods of `ViewManager` and of views.

use super::Call;
use crate::simulator::properties;
use crate::simulator::soap;
use crate::simulator::value::{Moref, Value, references};
use crate::simulator::view::View;
use crate::simulator::vim_fault::Fault;

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let id = call.id.clone();
    let answer = match method {
        "CreateContainerView" => {
            let container = request.morefs("container")?.into_iter().next();
            let container = container.ok_or_else(|| Fault::invalid_argument("container"))?;
            if !properties::exists(call.scope(), &container) {
                return Err(Fault::not_found(&container));
            }
            let (types, recursive) = (request.texts("type"), request.is_set("recursive"));
            call.session()?.add_view(&id, View::Container { container, types, recursive });
            soap::answer_value(
                method,
                &Value::Reference(Moref::new("ContainerView", id)),
                "ContainerView",
            )
        }
        "CreateListView" => {
            let objects = request.morefs("obj")?;
            if let Some(missing) =
                objects.iter().find(|object| !properties::exists(call.scope(), object))
            {
                return Err(Fault::not_found(missing));
            }
            call.session()?.add_view(&id, View::List(objects));
            soap::answer_value(method, &Value::Reference(Moref::new("ListView", id)), "ListView")
        }
        "ModifyListView" => {
            change_list(call, &request.morefs("add")?, &request.morefs("remove")?, false)
        }
        "ResetListView" => change_list(call, &request.morefs("obj")?, &[], true),
        "DestroyView" => {
            call.session()?.remove_view(&request.target.id);
            soap::empty_answer(method)
        }
        _ => return Ok(None),
    };
    answer.map(Some)
}

/// Changes a `ListView` as the called method says. The answer lists the references to objects that
/// do not exist.
fn change_list(
    call: &mut Call<'_>,
    add: &[Moref],
    remove: &[Moref],
    reset: bool,
) -> Result<String, Fault> {
    let (add, unresolved): (Vec<&Moref>, Vec<&Moref>) =
        add.iter().partition(|object| properties::exists(call.scope(), object));
    let list = call.target().id.clone();
    if let Some(View::List(objects)) = call.session()?.view_mut(&list) {
        objects.retain(|object| !reset && !remove.contains(object));
        for object in add {
            if !objects.contains(object) {
                objects.push(object.clone());
            }
        }
    }
    soap::answer_value(
        &call.request.method,
        &references(unresolved.into_iter().cloned()),
        "ManagedObject",
    )
}
