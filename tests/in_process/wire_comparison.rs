//! Compares the translation with the vim25 backend, which reads the same world over the wire: both
//! give the same machines, datastores, evidence and guests.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::translation;
use otter::clock::Clock;
use otter::domain::call::Evidence;
use otter::domain::ids::MachineId;
use otter::domain::verify::Verify;
use otter::esx::{EsxHypervisor, EsxOptions};
use otter::hypervisor::{Hypervisor, Observer};
use otter::service::event_stream::EventStream;
use otter::service::inventory::Inventory;
use otter::simulator::world::{CardNetwork, Network, Operation, World};
use otter::simulator::{Pace, Scenario, Simulator, SimulatorOptions};

#[tokio::test]
async fn the_vim25_backend_reads_what_the_translation_reports() {
    let clock = Clock::system();
    let mut scenario = Scenario::lab().unwrap();
    put_on_distributed_switches(&mut scenario);
    let mut options = SimulatorOptions::new(scenario, clock.clone());
    options.pace = Pace::Stepped;
    let simulator = Simulator::start(options).await.unwrap();
    let control = simulator.control();
    control.mutate(start_tasks);

    let mut options = EsxOptions::new(simulator.url(), "root", SecretString::from("otter"));
    options.verify = Verify::Off;
    let esx = Arc::new(EsxHypervisor::new(&options, clock.clone()).unwrap());
    let inventory =
        Arc::new(Inventory::new(clock.clone(), EventStream::new(&clock), Duration::from_secs(30)));
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (esx, observer, stop) = (Arc::clone(&esx), Arc::clone(&inventory), stop.clone());
        async move { esx.run(observer as Arc<dyn Observer>, stop).await }
    });
    inventory.connected().await;
    esx.barrier().await.unwrap();

    let contents = inventory.contents();
    let (machines, datastores, evidence) = control.look(|world| {
        let machines: Vec<_> =
            world.machines().map(|machine| translation::machine(world, machine)).collect();
        let datastores: Vec<_> =
            world.datastores().map(|datastore| translation::datastore(world, datastore)).collect();
        let evidence: Vec<_> =
            world.machines().map(|machine| complete_evidence(world, &machine.id)).collect();
        (machines, datastores, evidence)
    });
    assert_eq!(contents.machines.len(), machines.len());
    for (machine, evidence) in machines.into_iter().zip(evidence) {
        assert_eq!(**contents.machine(&machine.id).unwrap(), machine);
        assert_eq!(esx.read_evidence(&machine.id).await.unwrap(), evidence);
    }
    for datastore in datastores {
        assert_eq!(**contents.datastore(&datastore.id).unwrap(), datastore);
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Puts some cards on port groups, of which the host shows one, and on an opaque network.
fn put_on_distributed_switches(scenario: &mut Scenario) {
    let references = [
        CardNetwork::PortGroup("dvportgroup-12".to_owned()),
        CardNetwork::PortGroup("dvportgroup-99".to_owned()),
        CardNetwork::Opaque("6c1f".to_owned()),
    ];
    for (reference, name) in [(&references[0], "lab/blue"), (&references[2], "segment")] {
        scenario.networks.push(Network { name: name.to_owned(), reference: reference.clone() });
    }
    let cards = scenario.machines.iter_mut().flat_map(|machine| &mut machine.network_cards);
    for (card, reference) in cards.zip(references) {
        card.network = reference;
    }
}

/// Starts tasks of two accounts, so that some run, some have failed and some have succeeded.
fn start_tasks(world: &mut World) {
    let ids: Vec<String> = world.machines().map(|machine| machine.id.clone()).collect();
    for (at, id) in ids.iter().enumerate() {
        let user = if at % 2 == 0 { translation::OTTER_ACCOUNT } else { "somebody" };
        let (name, description) = (format!("snapshot {at}"), "made".to_owned());
        let create =
            Operation::CreateSnapshot { name, description, memory: at % 3 == 0, quiesce: true };
        for operation in [create, Operation::PowerOn, Operation::Reset] {
            if let Ok(task) = world.start_task(id, operation, user) {
                world.finish_task(&task.id);
            }
        }
        world.step_guests();
        let _ = world.start_task(id, Operation::Suspend, user);
    }
}

fn complete_evidence(world: &World, id: &str) -> Evidence {
    let (evidence, tasks) = translation::evidence(world, &MachineId::from_backend(id)).unwrap();
    Evidence { recent_tasks: translation::recent_tasks(world, &tasks), ..evidence }
}
