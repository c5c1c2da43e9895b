//! The simulated host of a run: its random machines, and the operations of other clients on them.

use std::time::Duration;

use otter::clock::Clock;
use otter::simulator::world::{
    CardNetwork, CdDrive, Choice, FileContent, Guest, Machine, NetworkCard, Operation, PowerState,
    Question, World,
};
use otter::simulator::{Fault, Pace, Scenario};

use super::random::Random;
use crate::in_process::SimulatedHost;

/// A host with some random machines. If `all_off` is set, no machine is on.
pub fn new(random: &mut Random, clock: Clock, all_off: bool) -> SimulatedHost {
    let scale = *random.pick(&[0.1, 1.0, 1.0, 10.0, 40.0]).unwrap();
    let host = SimulatedHost::new(&Scenario::generated(0), Pace::Auto { scale }, clock);
    host.mutate(|world| {
        world.rules.refuse_in_call = random.percent(50);
        world.rules.removals_leave_disks = random.percent(50);
        let [here, _] = isos();
        world.put_file(&here, FileContent::of(b"an image"));
        for number in 0..=random.below(3) {
            add_machine(world, random, &(16 + number).to_string(), 1 + number);
        }
        let ids: Vec<String> = world.machines().map(|machine| machine.id.clone()).collect();
        for id in ids.iter().filter(|_| all_off) {
            let machine = world.machine_mut(id).unwrap();
            machine.power = PowerState::Off;
            machine.guest.tools_running = false;
            machine.guest.reported_address = None;
        }
    });
    host
}

/// The ISOs that clients insert. Only the first one is on the host.
pub fn isos() -> [String; 2] {
    ["here", "missing"].map(|name| format!("[datastore1] iso/{name}.iso"))
}

/// Adds a random machine. No other machine may have had this number.
pub fn add_machine(world: &mut World, random: &mut Random, id: &str, number: u64) {
    let datastore = world.datastores().next().unwrap().clone();
    let mut machine = Machine::bare(id, &format!("machine-{number}"), &datastore);
    machine.instance_uuid = format!("52000000-0000-0000-0000-{number:012}");
    if random.percent(80) {
        machine.cd_drives.push(CdDrive::at(0));
    }
    machine.network_cards.push(NetworkCard {
        key: 4000,
        kind: "VirtualVmxnet3",
        mac_address: format!("00:0c:29:00:{:02x}:{:02x}", number / 256 % 256, number % 256),
        network: CardNetwork::Standard("VM Network".to_owned()),
        connected: true,
    });
    if random.percent(60) {
        machine.guest = Guest {
            tools_installed: true,
            address: Some(address(random)),
            tools_after: Duration::from_secs(2),
            address_after: Duration::from_secs(3),
            ..Guest::without_tools()
        };
    }
    machine.power = match random.below(4) {
        0 | 1 => PowerState::Off,
        2 => PowerState::On,
        _ => PowerState::Suspended,
    };
    if machine.power == PowerState::On && machine.guest.tools_installed {
        machine.guest.tools_running = true;
        machine.guest.reported_address.clone_from(&machine.guest.address);
    }
    let at = machine.created_at;
    let mut last = None;
    for name in ["base", "kickstart", "leaf"] {
        if random.percent(80) {
            let state = if random.below(3) == 0 { PowerState::On } else { PowerState::Off };
            last = Some(machine.add_snapshot(last.as_deref(), name, state, at));
        }
    }
    machine.current_snapshot = last;
    if random.percent(15) {
        machine.question_at_power_on = Some(question(random));
    }
    world.add_machine(machine);
}

/// Registers a machine again, with a new moid and new moids of its snapshots.
pub fn register_again(world: &mut World, mut machine: Machine) {
    let ids = world.machines().filter_map(|machine| machine.id.parse::<u64>().ok());
    let id = (ids.max().unwrap_or(15).max(machine.id.parse().unwrap()) + 1).to_string();
    let renamed = |snapshot: &str| {
        let number = snapshot.rsplit('-').next().unwrap();
        format!("{id}-snapshot-{number}")
    };
    for snapshot in &mut machine.snapshots {
        snapshot.id = renamed(&snapshot.id);
        snapshot.parent = snapshot.parent.as_deref().map(renamed);
    }
    machine.current_snapshot = machine.current_snapshot.as_deref().map(renamed);
    machine.id = id;
    world.add_machine(machine);
}

/// Makes a machine ask a question, now or at its next power-on.
pub fn ask(world: &mut World, random: &mut Random, id: &str) {
    let question = question(random);
    if random.percent(50) {
        world.ask(id, question);
    } else {
        world.machine_mut(id).unwrap().question_at_power_on = Some(question);
    }
}

/// Starts an operation of another client on a machine. Returns false if the host refuses it.
pub fn start_foreign_operation(world: &mut World, random: &mut Random, id: &str) -> bool {
    let snapshots = &world.machine(id).unwrap().snapshots;
    let snapshots: Vec<String> = snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
    let operation = match (random.below(8), random.pick(&snapshots).cloned()) {
        (0 | 1, _) => Operation::PowerOn,
        (2, _) => Operation::PowerOff,
        (3, _) => Operation::Reset,
        (4, Some(snapshot)) => Operation::RevertToSnapshot { snapshot, suppress_power_on: false },
        (5, Some(snapshot)) => Operation::RemoveSnapshot { snapshot, children: false },
        (6, _) => return world.shut_down_guest(id).is_ok(),
        _ => Operation::CreateSnapshot {
            name: (*random.pick(&["new", "other"]).unwrap()).to_owned(),
            description: String::new(),
            memory: false,
            quiesce: false,
        },
    };
    world.start_task(id, operation, "somebody").is_ok()
}

/// Usually gives a guest a new address, as DHCP may do.
pub fn give_address(world: &mut World, random: &mut Random, id: &str) {
    if random.percent(75)
        && let Some(machine) = world.machine_mut(id)
    {
        machine.guest.address = Some(address(random));
    }
}

fn question(random: &mut Random) -> Question {
    let choice = |key: &str, fails_with| Choice {
        key: key.to_owned(),
        label: format!("button.{key}"),
        summary: key.to_owned(),
        fails_with,
    };
    let refusal = Fault::new("VmConfigFault", "The machine was not started.");
    Question {
        id: format!("q-{}", random.below(1_000_000)),
        message_id: "msg.uuid.altered".to_owned(),
        text: "Moved or copied?".to_owned(),
        choices: vec![choice("1", None), choice("2", Some(refusal))],
        default_choice: Some(0),
    }
}

fn address(random: &mut Random) -> String {
    format!("10.{}.{}.{}", random.below(250), random.below(250), 1 + random.below(250))
}
