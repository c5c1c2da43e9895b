//! The searches of the simulated host: the methods of `SearchIndex`.

use crate::simulator::properties;
use crate::simulator::soap::Request;
use crate::simulator::value::Moref;
use crate::simulator::vim_fault::Fault;
use crate::simulator::world::{Machine, World};

/// The objects that a method of `SearchIndex` finds, in the order of their ids.
pub fn find(world: &World, request: &Request) -> Result<Vec<Moref>, Fault> {
    let machines = |is_match: &dyn Fn(&Machine) -> bool| -> Vec<Moref> {
        let found = world.machines().filter(|machine| is_match(machine));
        found.map(|machine| Moref::new("VirtualMachine", machine.id.clone())).collect()
    };
    let host = Moref::new("HostSystem", "ha-host");
    Ok(match request.method.as_str() {
        "FindByUuid" | "FindAllByUuid" => {
            let uuid = request.required("uuid")?.to_lowercase();
            if !request.is_set("vmSearch") {
                return Ok(if world.host.uuid == uuid { vec![host] } else { Vec::new() });
            }
            let instance = request.is_set("instanceUuid");
            machines(&|machine| {
                machine.is_readable()
                    && uuid == if instance { &*machine.instance_uuid } else { &*machine.bios_uuid }
            })
        }
        "FindByDatastorePath" => {
            let path = request.required("path")?;
            machines(&|machine| machine.path == path)
        }
        "FindByIp" | "FindAllByIp" => {
            let ip = request.required("ip")?;
            machines(&|machine| machine.guest.reported_address.as_deref() == Some(ip))
        }
        "FindByDnsName" | "FindAllByDnsName" => {
            let name = request.required("dnsName")?;
            if !request.is_set("vmSearch") {
                return Ok(if world.host.name == name { vec![host] } else { Vec::new() });
            }
            machines(&|machine| machine.guest.tools_running && machine.name == name)
        }
        _ => by_inventory_path(world, request.required("inventoryPath")?).into_iter().collect(),
    })
}

/// The object at an inventory path, for example `ha-datacenter/vm/name`. The path contains the
/// names of objects as the host writes them, with `%`, `/` and `\` escaped.
fn by_inventory_path(world: &World, path: &str) -> Option<Moref> {
    let mut at = Moref::new("Folder", "ha-folder-root");
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        at = properties::children(world, &at).into_iter().find(|child| {
            properties::entity_name(world, child).is_some_and(|name| same_name(&name, segment))
        })?;
    }
    Some(at)
}

/// Whether two escaped names are the same name. The hex digits of an escape may be upper or lower
/// case: `%2f` is the same as `%2F`.
fn same_name(name: &str, segment: &str) -> bool {
    use crate::domain::names::unescape_vim;
    name == segment || unescape_vim(name) == unescape_vim(segment)
}
