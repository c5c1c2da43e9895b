//! The properties of networks: those of standard switches, port groups of distributed switches, and
//! opaque networks.

use super::super::value::{Moref, Object, Value, references, texts};
use super::super::world::{CardNetwork, Machine, Network, World};
use super::devices::OPAQUE_KIND;
use super::entity_property;
use crate::domain::names::escape_vim;

/// The network with this reference. `None` if there is none.
pub fn find<'w>(world: &'w World, object: &Moref) -> Option<&'w Network> {
    world.networks().find(|network| network.moref() == *object)
}

pub fn property(world: &World, network: &Network, name: &str) -> Option<Value> {
    let own = match (&network.reference, name) {
        (CardNetwork::PortGroup(key), "key") => Some(Value::Text(key.clone())),
        (CardNetwork::PortGroup(key), "config") => Some(port_group_config(network, key)),
        (CardNetwork::PortGroup(_), "portKeys") => Some(texts::<String>([])),
        _ => None,
    };
    own.or_else(|| match name {
        "summary" => Some(Value::Object(summary(network))),
        "host" => Some(references([Moref::new("HostSystem", "ha-host")])),
        "vm" => Some(references(machines(world, network))),
        other => {
            entity_property(other, &network.name, Some(Moref::new("Folder", "ha-folder-network")))
        }
    })
}

fn summary(network: &Network) -> Object {
    let type_name = match network.reference {
        CardNetwork::Standard(_) | CardNetwork::PortGroup(_) => "NetworkSummary",
        CardNetwork::Opaque(_) => "OpaqueNetworkSummary",
    };
    let summary = Object::new(type_name)
        .with("network", network.moref())
        .with("name", escape_vim(&network.name))
        .with("accessible", true)
        .with("ipPoolName", "");
    match &network.reference {
        CardNetwork::Opaque(id) => {
            summary.with("opaqueNetworkId", id).with("opaqueNetworkType", OPAQUE_KIND)
        }
        CardNetwork::Standard(_) | CardNetwork::PortGroup(_) => summary,
    }
}

fn port_group_config(network: &Network, key: &str) -> Value {
    let policy = Object::new("DVPortgroupPolicy")
        .with("blockOverrideAllowed", true)
        .with("shapingOverrideAllowed", false)
        .with("vendorConfigOverrideAllowed", false)
        .with("livePortMovingAllowed", false)
        .with("portConfigResetAtDisconnect", true);
    Value::Object(
        Object::new("DVPortgroupConfigInfo")
            .with("key", key)
            .with("name", escape_vim(&network.name))
            .with("numPorts", 8)
            .with("type", "earlyBinding")
            .with("policy", policy),
    )
}

/// The machines that have a network card on this network.
fn machines(world: &World, network: &Network) -> Vec<Moref> {
    let is_on = |machine: &Machine| {
        machine.network_cards.iter().any(|card| card.network == network.reference)
    };
    let machines = world.machines().filter(|machine| is_on(machine));
    machines.map(|machine| Moref::new("VirtualMachine", machine.id.clone())).collect()
}
