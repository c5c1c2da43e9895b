//! Tests of the inventory. A property test applies random facts to the contents and to a map, and
//! compares both. The other tests cover watchers and the duration of an outage.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::samples;
use super::{Change, Inventory, InventoryContents};
use crate::clock::Clock;
use crate::domain::ids::{MachineId, SnapshotId};
use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::hypervisor::{Fact, Facts, GuestRestart, Observer, SessionState, SessionStatus};
use crate::service::event_stream::EventStream;

const SETTLE: Duration = Duration::from_secs(30);

/// A fact about one of four machines. There are few ids and names, so that facts often concern the
/// same machine.
fn any_fact() -> impl Strategy<Value = Fact> {
    let id = prop::sample::select(vec!["1", "2", "3", "4"]);
    let name = prop::sample::select(vec!["Alpha", "alpha", "beta", "Gamma"]);
    let power = prop::sample::select(vec![PowerState::On, PowerState::Off, PowerState::Suspended]);
    let restart = prop::sample::select(vec![
        GuestRestart::PowerOn,
        GuestRestart::Reset,
        GuestRestart::Revert,
    ]);
    prop_oneof![
        4 => (id.clone(), name, power, 0..3usize).prop_map(|(id, name, power, snapshots)| {
            let mut machine = samples::machine(id, name);
            machine.power_state = Some(power);
            machine.snapshots.items = (0..snapshots)
                .map(|n| samples::snapshot(&format!("{id}-{n}"), "kickstart", None))
                .collect();
            Fact::Machine(Arc::new(machine))
        }),
        1 => id.clone().prop_map(|id| Fact::MachineRemoved(MachineId::from_backend(id))),
        1 => (id, restart).prop_map(|(id, by)| Fact::GuestRestarted {
            machine: MachineId::from_backend(id),
            by,
        }),
    ]
}

fn any_facts() -> impl Strategy<Value = Facts> {
    (any::<bool>(), prop::collection::vec(any_fact(), 0..6)).prop_map(|(complete, changes)| Facts {
        complete,
        changes: if complete { last_of_each(changes) } else { changes },
    })
}

/// The last fact about each machine. A complete read is made of these, because it contains each
/// machine only once.
fn last_of_each(changes: Vec<Fact>) -> Vec<Fact> {
    let mut machines = BTreeMap::new();
    for fact in changes {
        if let Fact::Machine(machine) = fact {
            machines.insert(machine.id.clone(), machine);
        }
    }
    machines.into_values().map(Fact::Machine).collect()
}

fn apply_to_model(model: &mut BTreeMap<MachineId, Machine>, facts: &Facts) {
    if facts.complete {
        model.clear();
    }
    for fact in &facts.changes {
        match fact {
            Fact::Machine(machine) => {
                model.insert(machine.id.clone(), (**machine).clone());
            }
            Fact::MachineRemoved(id) => {
                model.remove(id);
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn the_contents_equal_a_map_with_the_same_facts(
        stream in prop::collection::vec(any_facts(), 1..12),
    ) {
        let mut contents = InventoryContents::default();
        let mut model: BTreeMap<MachineId, Machine> = BTreeMap::new();
        for facts in stream {
            let before = model.clone();
            apply_to_model(&mut model, &facts);
            let (next, changes) = contents.apply(facts, Duration::ZERO, SETTLE);
            contents = next;

            let mut expected: Vec<&Machine> = model.values().collect();
            expected.sort_by_key(|machine| (machine.name.to_lowercase(), machine.id.clone()));
            let actual: Vec<&Machine> = contents.machines.iter().map(Arc::as_ref).collect();
            prop_assert_eq!(actual, expected);
            for id in model.keys() {
                prop_assert_eq!(&contents.machine(id).unwrap().id, id);
            }

            // The reported changes must contain every difference, and no removal of a machine that
            // is still there.
            for (id, machine) in &model {
                if before.get(id) != Some(machine) {
                    prop_assert!(changes.contains(&Change::Machine(id.clone())));
                }
            }
            for id in before.keys() {
                let gone = changes.contains(&Change::MachineRemoved(id.clone()));
                prop_assert_eq!(gone, !model.contains_key(id));
            }
            for (id, machine) in &before {
                for snapshot in &machine.snapshots.items {
                    let stays = model
                        .get(id)
                        .is_some_and(|machine| machine.snapshots.get(&snapshot.id).is_some());
                    let removed = Change::SnapshotRemoved(id.clone(), snapshot.id.clone());
                    let gone = changes.contains(&removed);
                    prop_assert_eq!(gone, !stays);
                }
            }
        }
    }
}

#[test]
fn a_machine_that_the_host_cannot_read_keeps_its_identity_until_its_moid_leaves() {
    let mut known = samples::machine("1", "golden");
    known.network_cards = vec![samples::card("00:50:56:00:00:01")];
    known.annotation = Some("otter.pool=lab".to_owned());
    let unreadable = || {
        let mut machine = Machine::new(MachineId::from_backend("1"));
        machine.name = "/vmfs/volumes/datastore1/golden/golden.vmx".to_owned();
        machine.connection_state = "inaccessible".to_owned();
        Fact::Machine(Arc::new(machine))
    };
    let apply = |contents: &InventoryContents, complete: bool, changes: Vec<Fact>| {
        contents.apply(Facts { complete, changes }, Duration::ZERO, SETTLE).0
    };
    let shown = |contents: &InventoryContents| {
        contents.machine(&MachineId::from_backend("1")).unwrap().clone()
    };
    let first = [Fact::Machine(Arc::new(known.clone()))].to_vec();
    let mut contents = apply(&InventoryContents::default(), true, first);
    for complete in [false, true, false] {
        contents = apply(&contents, complete, vec![unreadable()]);
        let now = shown(&contents);
        assert_eq!((now.identity(), &now.name), (known.identity(), &known.name));
        assert_eq!(
            (&now.network_cards, &now.bios_uuid, &now.annotation),
            (&known.network_cards, &known.bios_uuid, &known.annotation)
        );
        assert_eq!((now.connection_state.as_str(), now.cpu_count), ("inaccessible", None));
    }
    let left = Fact::MachineRemoved(known.id.clone());
    contents = apply(&contents, false, vec![left, unreadable()]);
    assert!(!shown(&contents).has_known_identity(), "the moid can be of another machine");
}

#[test]
fn reverts_and_resets_are_counted_and_other_restarts_are_not() {
    let id = MachineId::from_backend("1");
    let mut machine = samples::machine("1", "runner");
    machine.power_state = Some(PowerState::On);
    machine.snapshots.items =
        ["a", "b"].map(|snapshot| samples::snapshot(snapshot, snapshot, None)).to_vec();
    let shows = |machine: &Machine, current: &str| {
        let mut machine = machine.clone();
        machine.snapshots.current = Some(SnapshotId::from_backend(current));
        Fact::Machine(Arc::new(machine))
    };
    let restarted = |by| Fact::GuestRestarted { machine: id.clone(), by };
    let mut grown = machine.clone();
    grown.snapshots.items.push(samples::snapshot("c", "c", Some("b")));
    let mut contents = InventoryContents::default();
    for (what, fact, reverts, resets) in [
        ("the first report", shows(&machine, "a"), 0, 0),
        ("a power on", restarted(GuestRestart::PowerOn), 0, 0),
        ("a reset", restarted(GuestRestart::Reset), 0, 1),
        ("a revert to the current snapshot", restarted(GuestRestart::Revert), 1, 1),
        ("another current snapshot", shows(&machine, "b"), 2, 1),
        ("a new snapshot", shows(&grown, "c"), 2, 1),
    ] {
        let facts = Facts { complete: false, changes: vec![fact] };
        contents = contents.apply(facts, Duration::ZERO, SETTLE).0;
        assert_eq!((contents.reverts(&id), contents.resets(&id)), (reverts, resets), "{what}");
    }
}

#[test]
fn contents_are_loaded_by_a_complete_read_only() {
    let (changed, _) = InventoryContents::default().apply(Facts::default(), Duration::ZERO, SETTLE);
    assert!(!changed.loaded);
    let (complete, _) =
        changed.apply(Facts { complete: true, changes: Vec::new() }, Duration::ZERO, SETTLE);
    assert!(complete.loaded);
}

fn inventory() -> (Clock, Arc<Inventory>) {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let inventory = Arc::new(Inventory::new(clock.clone(), EventStream::new(&clock), SETTLE));
    (clock, inventory)
}

fn running(id: &str) -> Fact {
    let mut machine = samples::machine(id, id);
    machine.power_state = Some(PowerState::On);
    machine.guest.tools_running = true;
    machine.guest.ip_address = Some("10.0.0.5".to_owned());
    Fact::Machine(Arc::new(machine))
}

#[tokio::test]
async fn a_watcher_is_notified_of_each_change_and_is_removed_after_its_use() {
    let (_, inventory) = inventory();
    let id = MachineId::from_backend("1");
    let mut changes = inventory.watch(&id);
    assert!(!changes.has_changed().unwrap());
    inventory.observe(Facts { complete: true, changes: vec![running("1")] });
    changes.changed().await.unwrap();
    inventory.observe(Facts { complete: false, changes: vec![running("1")] });
    assert!(!changes.has_changed().unwrap(), "the fact changes nothing");
    inventory.observe(Facts { complete: true, changes: Vec::new() });
    changes.changed().await.unwrap();
    drop(changes);
    for n in 0..100 {
        drop(inventory.watch(&MachineId::from_backend(n.to_string())));
    }
    assert_eq!(inventory.watchers.lock().unwrap().len(), 1);
}

#[test]
fn an_outage_lasts_from_the_disconnection_even_if_its_reason_changes() {
    let (clock, inventory) = inventory();
    let report = |state| {
        let status = SessionStatus { state, since: clock.now(), logins: 0, product: None };
        Observer::session(&*inventory, status);
    };
    let second = Duration::from_secs(1);
    clock.advance(second);
    assert_eq!(inventory.away_for(), Some(second), "never connected");
    report(SessionState::Connected);
    clock.advance(second);
    assert_eq!(inventory.away_for(), None);
    report(SessionState::Away { reason: "cut".to_owned() });
    clock.advance(second);
    report(SessionState::LoginRefused { reason: "no".to_owned() });
    clock.advance(second);
    assert_eq!(inventory.away_for(), Some(2 * second));
    report(SessionState::Connected);
    report(SessionState::Away { reason: "cut".to_owned() });
    assert_eq!(inventory.away_for(), Some(Duration::ZERO));
}
