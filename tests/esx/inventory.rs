//! The facts: first complete, then changes as the host pushes them, also of machines with unusual
//! values.

use otter::domain::ids::MachineId;
use otter::domain::machine::SerialBacking;
use otter::domain::power::PowerState;
use otter::hypervisor::Hypervisor;
use otter::simulator::{Scenario, world};

use super::support::{connected_lab, machine_id};

#[tokio::test]
async fn a_thousand_machines_arrive_in_parts_and_changes_are_pushed() {
    let scenario = Scenario::generated(1_000);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    assert_eq!(running.observer.recording().machines.len(), 1_000);
    assert_eq!(running.observer.recording().datastores.len(), 1);
    let [first, second] = [machine_id(&scenario, 0), machine_id(&scenario, 1)];
    simulator.control().mutate(|world| {
        world.machine_mut(first.backend_text()).unwrap().annotation = "changed".to_owned();
        world.remove_machine(second.backend_text());
    });
    running.esx.barrier().await.unwrap();
    let recording = running.observer.recording();
    assert_eq!(recording.machines[&first].annotation.as_deref(), Some("changed"));
    assert!(!recording.machines.contains_key(&second));
    assert_eq!((recording.machines.len(), recording.syncs), (999, 1));
    assert!(
        simulator.control().calls("WaitForUpdatesEx") > 4,
        "the first set arrived in one answer"
    );
    assert_eq!(simulator.control().calls("RetrievePropertiesEx"), 0);
    running.stop().await;
    assert_eq!(simulator.control().sessions(), 0, "the backend did not log out");
}

#[tokio::test]
async fn every_field_of_the_lab_is_read() {
    let scenario = Scenario::lab().unwrap();
    let (simulator, running) = connected_lab(scenario).await;
    let seen = running.observer.recording();
    simulator.control().look(|world| {
        assert_eq!(world.machines().count(), seen.machines.len());
        for machine in world.machines() {
            let shown = &seen.machines[&MachineId::from_backend(&machine.id)];
            assert_eq!(shown.name, machine.name);
            assert_eq!(shown.connection_state, machine.connection_state);
            assert_eq!(shown.snapshots.items.len(), machine.snapshots.len(), "{}", machine.name);
            if !machine.is_readable() {
                assert_eq!((shown.cpu_count, &shown.instance_uuid), (None, &None));
                continue;
            }
            assert_eq!(shown.instance_uuid.as_ref(), Some(&machine.instance_uuid));
            assert_eq!(shown.path.as_ref(), Some(&machine.path));
            assert_eq!(
                shown.memory_bytes,
                u64::try_from(machine.memory_mb).ok().map(|mb| mb << 20)
            );
            assert_eq!(shown.template, machine.template);
            let macs =
                |all: Vec<String>| all.iter().map(|mac| mac.to_lowercase()).collect::<Vec<_>>();
            assert_eq!(
                shown
                    .network_cards
                    .iter()
                    .map(|card| card.mac_address.unwrap().to_string())
                    .collect::<Vec<_>>(),
                macs(machine.network_cards.iter().map(|card| card.mac_address.clone()).collect())
            );
            assert_eq!(shown.serial_ports.len(), machine.serial_ports.len());
            for (shown, port) in shown.serial_ports.iter().zip(&machine.serial_ports) {
                match (&shown.backing, &port.backing) {
                    (
                        SerialBacking::Pipe { name, .. },
                        world::SerialBacking::Pipe { name: own, .. },
                    ) => {
                        assert_eq!(name, own);
                    }
                    (
                        SerialBacking::Network { service_uri, .. },
                        world::SerialBacking::Uri { service, .. },
                    ) => {
                        assert_eq!(service_uri, service);
                    }
                    (SerialBacking::File { path }, world::SerialBacking::File { path: own }) => {
                        assert_eq!(path, own);
                    }
                    (SerialBacking::Device { .. }, world::SerialBacking::Device { .. }) => {}
                    other => panic!("{other:?}"),
                }
                assert!(shown.linux_device.as_deref().unwrap().starts_with("ttyS"));
            }
            assert_eq!(shown.question.is_some(), machine.question.is_some());
        }
    });
    running.stop().await;
}

/// A machine with a card on a port group, one on an opaque network, one on a port group that the
/// host does not show, and one on a standard network.
const NETWORKS: &str = r#"
[[datastores]]
id = "d"
name = "datastore1"
capacity_gb = 1
free_gb = 1

[[networks]]
name = "lab/blue"
port_group = "dvportgroup-12"

[[networks]]
name = "segment"
opaque = "6c1f"

[[machines]]
id = "1"
name = "m"
datastore = "datastore1"
network_cards = [
    { mac = "00:50:56:00:00:01", network = "lab/blue" },
    { mac = "00:50:56:00:00:02", network = "segment" },
    { mac = "00:50:56:00:00:03", port_group = "dvportgroup-99" },
    { mac = "00:50:56:00:00:04" },
]

[[machines]]
id = "2"
name = "other"
datastore = "datastore1"
network_cards = [{ mac = "00:50:56:00:00:05" }]
"#;

#[tokio::test]
async fn a_card_shows_the_name_of_its_port_group_and_follows_its_changes() {
    let (simulator, running) = connected_lab(Scenario::from_toml(NETWORKS).unwrap()).await;
    let networks = async || -> Vec<String> {
        running.esx.barrier().await.unwrap();
        let recording = running.observer.recording();
        let cards = &recording.machines[&MachineId::from_backend("1")].network_cards;
        cards.iter().map(|card| card.network.clone().unwrap()).collect()
    };
    assert_eq!(networks().await, ["lab/blue", "segment", "dvportgroup-99", "VM Network"]);
    let blue = world::CardNetwork::PortGroup("dvportgroup-12".to_owned());
    let control = simulator.control();
    control.mutate(|world| world.rename_network(&blue, "green%"));
    assert_eq!(networks().await[0], "green%");
    // An ESX shows a port group only while it uses the port group.
    control.mutate(|world| world.remove_network(&blue));
    assert_eq!(networks().await[0], "dvportgroup-12");
    let late = world::CardNetwork::PortGroup("dvportgroup-99".to_owned());
    control.mutate(|world| {
        world.add_network(world::Network { name: "late".to_owned(), reference: late });
    });
    assert_eq!(networks().await, ["dvportgroup-12", "segment", "late", "VM Network"]);
    assert_eq!(control.calls("RetrievePropertiesEx"), 0, "names come with the updates");
    running.stop().await;
}

#[tokio::test]
async fn machines_with_unusual_values_are_listed() {
    let mut scenario = Scenario::generated(6);
    {
        let machines = &mut scenario.machines;
        machines[0].connection_state = "invalid".to_owned();
        machines[1].connection_state = "orphaned".to_owned();
        machines[2].power = world::PowerState::Other("melted".to_owned());
        machines[3].power = world::PowerState::Other(String::new());
        machines[4].power = world::PowerState::Suspended;
        machines[4].name = "50% a/b\\c %2f \u{1} <&>".to_owned();
        machines[5].name = machines[4].name.clone();
        machines[5].connection_state = "to-come".to_owned();
        machines[5].network_cards.first_mut().unwrap().mac_address = "nonsense".to_owned();
    }
    let names: Vec<String> = scenario.machines.iter().map(|machine| machine.name.clone()).collect();
    let (_simulator, running) = connected_lab(scenario.clone()).await;
    let recording = running.observer.recording();
    assert_eq!(recording.machines.len(), 6);
    let machine = |index| &recording.machines[&machine_id(&scenario, index)];
    for (index, name) in names.iter().enumerate() {
        assert_eq!(machine(index).name, name.replace('\u{1}', "\u{fffd}"));
    }
    assert_eq!((machine(0).connection_state.as_str(), machine(0).cpu_count), ("invalid", None));
    assert_eq!(machine(1).connection_state, "orphaned");
    assert_eq!((machine(2).power_state, machine(3).power_state), (None, None));
    assert_eq!(machine(4).power_state, Some(PowerState::Suspended));
    running.stop().await;
}

#[tokio::test]
async fn a_snapshot_tree_two_thousand_deep_is_read() {
    let mut scenario = Scenario::generated(1);
    let at = "2024-01-01T00:00:00Z".parse().unwrap();
    let mut parent: Option<String> = None;
    for depth in 0..2_000 {
        let name = format!("level {depth}");
        parent = Some(scenario.machines[0].add_snapshot(
            parent.as_deref(),
            &name,
            world::PowerState::Off,
            at,
        ));
    }
    scenario.machines[0].current_snapshot.clone_from(&parent);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let id = machine_id(&scenario, 0);
    {
        let recording = running.observer.recording();
        let snapshots = &recording.machines[&id].snapshots;
        let added: Vec<_> =
            snapshots.items.iter().filter(|snapshot| snapshot.name.starts_with("level ")).collect();
        assert_eq!(added.len(), 2_000);
        assert_eq!(snapshots.current.as_ref().map(ToString::to_string), parent);
        assert!(added.windows(2).all(|pair| pair[1].parent.as_ref() == Some(&pair[0].id)));
    }
    assert_eq!(
        running.esx.read_evidence(&id).await.unwrap().current_snapshot.map(|id| id.to_string()),
        parent
    );
    let json = running.esx.properties(&id, &["snapshot".to_owned()]).await.unwrap();
    assert!(json["snapshot"].to_string().contains("(cut: "));
    simulator.control().mutate(|world| {
        let machine = world.machine_mut(id.backend_text()).unwrap();
        machine.snapshots.clear();
        machine.current_snapshot = None;
    });
    running.esx.barrier().await.unwrap();
    assert!(running.observer.recording().machines[&id].snapshots.items.is_empty());
    running.stop().await;
}
