//! Which machines a lease may get: pure.

use std::collections::BTreeSet;

use crate::domain::ids::MachineId;
use crate::domain::lease::{Lease, Select};
use crate::domain::mac::MacAddress;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::machine_reference::ReferencedMachine;
use crate::domain::names::contains_loosely;

/// A machine that may be granted, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateMachine {
    pub identity: MachineIdentity,
    pub name: String,
    pub bios_uuid: Option<String>,
    pub macs: Vec<MacAddress>,
    pub pools: Vec<String>,
    /// Nothing but a lease or a quarantine stands against it: the table knows of those itself.
    pub free: bool,
    /// Protected ones and templates are never granted.
    pub excluded: bool,
    /// Those of the snapshots that leases ask for which it does not have.
    pub missing_snapshots: BTreeSet<String>,
}

impl CandidateMachine {
    /// A machine that may be granted, held against the snapshots that are asked for.
    #[must_use]
    pub fn new(
        machine: &Machine,
        pools: Vec<String>,
        free: bool,
        excluded: bool,
        wanted: &BTreeSet<&String>,
    ) -> Self {
        let missing_snapshots =
            wanted.iter().filter(|wanted| machine.snapshots.find(wanted).is_err());
        Self {
            identity: machine.identity(),
            name: machine.name.clone(),
            bios_uuid: machine.bios_uuid.clone(),
            macs: machine.network_cards.iter().filter_map(|card| card.mac_address).collect(),
            pools,
            free,
            excluded,
            missing_snapshots: missing_snapshots.map(|wanted| (*wanted).clone()).collect(),
        }
    }
}

/// The snapshots that a machine has to have for a lease.
pub fn required_snapshots(lease: &Lease) -> impl Iterator<Item = &String> {
    let Lease { prepare, release, .. } = lease;
    prepare.iter().filter_map(|prepare| prepare.snapshot.as_ref()).chain(&release.snapshot)
}

/// Whether a machine has all of them.
#[must_use]
pub fn has_snapshots(lease: &Lease, machine: &CandidateMachine) -> bool {
    required_snapshots(lease).all(|wanted| !machine.missing_snapshots.contains(wanted))
}

/// The machines that a lease can get, now or later.
#[derive(Clone, Debug)]
pub struct Selection<'l> {
    lease: &'l Lease,
    machine: SelectedMachine,
}

/// What `select.machine` of a lease leaves to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SelectedMachine {
    Any,
    One(MachineId),
    /// No machine goes by the reference now, or several do.
    None,
}

impl<'l> Selection<'l> {
    /// # Parameters
    /// - `machines`: every machine of the host: another machine of the same name makes the name
    ///   ambiguous even if it is never granted.
    #[must_use]
    pub fn new(lease: &'l Lease, machines: &[CandidateMachine]) -> Self {
        let machine = lease.select.machine.as_ref().map_or(SelectedMachine::Any, |reference| {
            let in_scope = machines.iter().filter(|machine| is_in_scope(lease, machine));
            match reference.matching(in_scope).as_slice() {
                [one] => SelectedMachine::One(one.identity.id.clone()),
                _ => SelectedMachine::None,
            }
        });
        Self { lease, machine }
    }

    /// Whether a machine is in the caller's scope and selected, and may be granted at all.
    #[must_use]
    pub fn includes(&self, machine: &CandidateMachine) -> bool {
        let Select { machine: _, name, mac, pool } = &self.lease.select;
        let is_selected = match &self.machine {
            SelectedMachine::Any => true,
            SelectedMachine::One(id) => *id == machine.identity.id,
            SelectedMachine::None => false,
        };
        is_selected
            && !machine.excluded
            && is_in_scope(self.lease, machine)
            && name.as_deref().is_none_or(|name| contains_loosely(&machine.name, name))
            && mac.is_none_or(|mac| machine.macs.contains(&mac))
            && pool.as_ref().is_none_or(|pool| machine.pools.contains(pool))
    }
}

fn is_in_scope(lease: &Lease, machine: &CandidateMachine) -> bool {
    lease.scope.contains(&machine.name, &machine.pools)
}

impl ReferencedMachine for CandidateMachine {
    fn id(&self) -> &MachineId {
        &self.identity.id
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn instance_uuid(&self) -> Option<&str> {
        self.identity.instance_uuid.as_deref()
    }

    fn bios_uuid(&self) -> Option<&str> {
        self.bios_uuid.as_deref()
    }

    fn has_mac(&self, address: MacAddress) -> bool {
        self.macs.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lease::{Prepare, Release};
    use crate::domain::machine_reference::MachineReference;
    use crate::domain::scope::Scope;
    use crate::service::inventory::samples;
    use crate::service::leases::tests::lease;

    fn candidate() -> CandidateMachine {
        let mut machine = samples::machine("16", "Qubes-4.2 staging");
        machine.network_cards.push(samples::card("00:50:56:aa:bb:cc"));
        machine.snapshots.items.push(samples::snapshot("s-1", "kickstart", None));
        let wanted = ["kickstart".to_owned(), "none".to_owned()];
        CandidateMachine::new(
            &machine,
            vec!["ci".to_owned()],
            true,
            false,
            &wanted.iter().collect(),
        )
    }

    fn selects(select: &Select, machines: &[CandidateMachine]) -> Vec<bool> {
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let lease = Lease { select: select.clone(), ..plain };
        let selection = Selection::new(&lease, machines);
        machines.iter().map(|machine| selection.includes(machine)).collect()
    }

    fn taken(select: &Select) -> bool {
        selects(select, &[candidate()]) == [true]
    }

    fn reference(text: &str) -> MachineReference {
        text.parse().unwrap()
    }

    #[test]
    fn a_candidate_is_the_machine_and_lacks_what_it_does_not_have() {
        let machine = samples::machine("16", "Qubes-4.2 staging");
        let expected = CandidateMachine {
            identity: machine.identity(),
            name: machine.name,
            bios_uuid: machine.bios_uuid,
            macs: vec!["00:50:56:aa:bb:cc".parse().unwrap()],
            pools: vec!["ci".to_owned()],
            free: true,
            excluded: false,
            missing_snapshots: ["none".to_owned()].into(),
        };
        assert_eq!(candidate(), expected);
    }

    #[test]
    fn all_that_was_said_has_to_fit() {
        let whole = Select {
            machine: Some(reference("name:Qubes-4.2 staging")),
            name: Some("QUBES".to_owned()),
            mac: Some("00:50:56:aa:bb:cc".parse().unwrap()),
            pool: Some("ci".to_owned()),
        };
        assert!(taken(&whole) && taken(&Select::default()));
        for other in [
            Select { machine: Some(reference("name:Qubes-4.2")), ..whole.clone() },
            Select { name: Some("windows".to_owned()), ..whole.clone() },
            Select { mac: Some("00:50:56:aa:bb:cd".parse().unwrap()), ..whole.clone() },
            Select { pool: Some("nightly".to_owned()), ..whole.clone() },
        ] {
            assert!(!taken(&other), "{other:?}");
        }
        assert_eq!(selects(&whole, &[CandidateMachine { excluded: true, ..candidate() }]), [false]);
        let busy = CandidateMachine { free: false, ..candidate() };
        assert_eq!(selects(&whole, &[busy]), [true], "it may be free some day");
    }

    #[test]
    fn a_machine_outside_of_the_scope_is_never_got() {
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let with = |machines: &[&str], pools: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Lease {
                select: Select::default(),
                scope: Scope::new(texts(machines), texts(pools)),
                ..plain.clone()
            }
        };
        for (scope, is_got) in [
            (with(&[], &[]), true),
            (with(&["Qubes-*"], &[]), true),
            (with(&[], &["ci"]), true),
            (with(&["windows-*"], &["ci"]), true),
            (with(&["windows-*"], &["nightly"]), false),
        ] {
            let machine = candidate();
            let included =
                Selection::new(&scope, std::slice::from_ref(&machine)).includes(&machine);
            assert_eq!(included, is_got, "{:?}", scope.scope);
        }
    }

    #[test]
    fn a_reference_selects_a_machine_only_if_it_is_the_one_in_the_scope() {
        let other =
            |id: &str| MachineIdentity { id: MachineId::from_backend(id), ..candidate().identity };
        let same_name =
            CandidateMachine { identity: other("17"), pools: Vec::new(), ..candidate() };
        let named =
            Select { machine: Some(reference("name:Qubes-4.2 staging")), ..Select::default() };
        assert_eq!(selects(&named, &[candidate()]), [true]);
        let both = [candidate(), same_name.clone()];
        assert_eq!(selects(&named, &both), [false, false], "the name is ambiguous");
        let never = [candidate(), CandidateMachine { excluded: true, ..same_name }];
        assert_eq!(selects(&named, &never), [false, false], "also if the other is never granted");
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let scope = Scope::new(Vec::new(), vec!["ci".to_owned()]);
        let restricted = Lease { select: named, scope, ..plain };
        assert!(Selection::new(&restricted, &both).includes(&both[0]), "the other is out of scope");
    }

    #[test]
    fn the_snapshots_of_the_preparation_and_of_the_release_are_wanted() {
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let with = |prepare: Option<&str>, release: Option<&str>| Lease {
            prepare: prepare
                .map(|name| Prepare { snapshot: Some(name.to_owned()), ..Prepare::default() }),
            release: Release { snapshot: release.map(str::to_owned), ..Release::default() },
            ..plain.clone()
        };
        assert_eq!(required_snapshots(&with(Some("a"), Some("b"))).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(required_snapshots(&plain).count(), 0);
        assert!(has_snapshots(&plain, &candidate()));
        assert!(has_snapshots(&with(Some("kickstart"), None), &candidate()));
        assert!(has_snapshots(&with(Some("kickstart"), Some("kickstart")), &candidate()));
        assert!(!has_snapshots(&with(Some("none"), None), &candidate()));
        assert!(!has_snapshots(&with(Some("kickstart"), Some("none")), &candidate()));
    }
}
