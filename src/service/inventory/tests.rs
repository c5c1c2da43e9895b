//! The picture against a model: random streams of facts, and what a naive map says of them.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::samples;
use super::{Change, Picture};
use crate::domain::ids::MachineId;
use crate::domain::machine::{Machine, PowerState};
use crate::hypervisor::{Fact, Facts};

const SETTLE: Duration = Duration::from_secs(30);

/// Four machines that come, go, change their power and their names: few enough to collide often.
fn any_fact() -> impl Strategy<Value = Fact> {
    let id = prop::sample::select(vec!["1", "2", "3", "4"]);
    let name = prop::sample::select(vec!["Alpha", "alpha", "beta", "Gamma"]);
    let power = prop::sample::select(vec![PowerState::On, PowerState::Off, PowerState::Suspended]);
    prop_oneof![
        4 => (id.clone(), name, power, 0..3usize).prop_map(|(id, name, power, snapshots)| {
            let mut machine = samples::machine(id, name);
            machine.power_state = Some(power);
            machine.snapshots.items =
                (0..snapshots).map(|n| samples::snapshot(&format!("{id}-{n}"), "kickstart", None)).collect();
            Fact::Machine(Box::new(machine))
        }),
        1 => id.clone().prop_map(|id| Fact::MachineRemoved(MachineId::new(id))),
        1 => id.prop_map(|id| Fact::GuestRestarted(MachineId::new(id))),
    ]
}

fn any_facts() -> impl Strategy<Value = Facts> {
    (any::<bool>(), prop::collection::vec(any_fact(), 0..6)).prop_map(|(complete, changes)| Facts {
        complete,
        changes: if complete { last_of_each(changes) } else { changes },
    })
}

/// A whole read names each machine once.
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
    fn the_picture_is_what_a_naive_map_says(stream in prop::collection::vec(any_facts(), 1..12)) {
        let mut picture = Picture::default();
        let mut model: BTreeMap<MachineId, Machine> = BTreeMap::new();
        for facts in stream {
            let before = model.clone();
            apply_to_model(&mut model, &facts);
            let (next, changes) = picture.apply(facts, Duration::ZERO, SETTLE);
            picture = next;

            let mut expected: Vec<&Machine> = model.values().collect();
            expected.sort_by_key(|machine| (machine.name.to_lowercase(), machine.id.clone()));
            let shown: Vec<&Machine> = picture.machines.iter().map(|record| &record.machine).collect();
            prop_assert_eq!(shown, expected);
            for id in model.keys() {
                prop_assert_eq!(&picture.machine(id).unwrap().machine.id, id);
            }

            // The changes name every difference, and no removal that was none.
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
                    let stays = model.get(id).is_some_and(|machine| machine.snapshots.get(&snapshot.id).is_some());
                    let gone = changes.contains(&Change::SnapshotRemoved(id.clone(), snapshot.id.clone()));
                    prop_assert_eq!(gone, !stays);
                }
            }
        }
    }
}

#[test]
fn a_picture_is_loaded_by_a_whole_read_only() {
    let (changed, _) = Picture::default().apply(Facts::default(), Duration::ZERO, SETTLE);
    assert!(!changed.loaded);
    let (whole, _) = changed.apply(Facts { complete: true, changes: Vec::new() }, Duration::ZERO, SETTLE);
    assert!(whole.loaded);
}
