//! Decides which machines match a lease. Pure.

use std::collections::BTreeSet;

use super::machine_key::MachineKey;
use crate::domain::ids::MachineId;
use crate::domain::lease::{Lease, Select};
use crate::domain::mac::MacAddress;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::machine_reference::{MachineReference, ReferencedMachine};
use crate::domain::media::MediaRecord;
use crate::domain::names::contains_loosely;
use crate::domain::pool::ScopedLimits;
use crate::domain::power::PowerState;
use crate::domain::snapshot::Snapshots;

/// A machine of the host, as the grant of a lease sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateMachine {
    pub identity: MachineIdentity,
    /// The key under which otter stores data about the machine.
    pub key: MachineKey,
    pub name: String,
    pub bios_uuid: Option<String>,
    pub macs: Vec<MacAddress>,
    pub pools: Vec<String>,
    /// Whether the machine is free. Leases and quarantines do not count here, because the lease
    /// table has those.
    pub free: bool,
    /// Whether the machine is protected or a template. Such a machine is never granted.
    pub excluded: bool,
    /// Whether the machine is on.
    pub running: bool,
    /// The configured memory of the machine. 0 if it is not known.
    pub memory_bytes: u64,
    pub nested_virtualization: Option<bool>,
    /// The limits that apply to the machine: those of the host and of its pools.
    pub limits: Vec<ScopedLimits>,
    pub snapshots: Snapshots,
    /// The first CD drive and the boot options, which the release of a lease restores.
    pub media: MediaRecord,
}

impl CandidateMachine {
    /// A candidate to which no limits apply.
    ///
    /// # Parameters
    /// - `free`: whether the machine is free, apart from leases and quarantines.
    /// - `excluded`: whether the machine is protected or a template.
    #[must_use]
    pub fn new(machine: &Machine, pools: Vec<String>, free: bool, excluded: bool) -> Self {
        let identity = machine.identity();
        Self {
            key: MachineKey::from_identity(&identity),
            identity,
            name: machine.name.clone(),
            bios_uuid: machine.bios_uuid.clone(),
            macs: machine.network_cards.iter().filter_map(|card| card.mac_address).collect(),
            pools,
            free,
            excluded,
            running: machine.power_state == Some(PowerState::On),
            memory_bytes: machine.memory_bytes.unwrap_or_default(),
            nested_virtualization: machine.nested_virtualization,
            limits: Vec::new(),
            snapshots: machine.snapshots.clone(),
            media: machine.media().record(),
        }
    }
}

/// Whether a machine has the CD drive that the preparation of a lease needs.
#[must_use]
pub fn has_needed_drive(lease: &Lease, machine: &CandidateMachine) -> bool {
    !needs_drive(lease) || machine.media.drive.is_some()
}

/// Whether the preparation of a lease puts an ISO into a CD drive.
#[must_use]
pub fn needs_drive(lease: &Lease) -> bool {
    lease.prepare.as_ref().is_some_and(|prepare| prepare.iso.is_some())
}

/// The snapshots that the preparation and the release of a lease need. The machine of the lease
/// must have them.
pub fn required_snapshots(lease: &Lease) -> impl Iterator<Item = &String> {
    let Lease { prepare, release, .. } = lease;
    prepare.iter().filter_map(|prepare| prepare.snapshot.as_ref()).chain(&release.snapshot)
}

/// The first snapshot that a lease needs and a machine does not have. `None` if the machine has all
/// of them.
#[must_use]
pub fn missing_snapshot<'l>(lease: &'l Lease, machine: &CandidateMachine) -> Option<&'l String> {
    required_snapshots(lease).find(|name| machine.snapshots.find(name).is_err())
}

/// The machines that match the selection and the scope of a lease.
#[derive(Clone, Debug)]
pub struct Selection<'l> {
    lease: &'l Lease,
    machine: SelectedMachine,
    /// The machines that `select.exclude` names.
    excluded: BTreeSet<MachineId>,
}

/// What `select.machine` of a lease names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SelectedMachine {
    Any,
    One(MachineId),
    /// No machine in the scope of the lease matches the reference, or several machines match it.
    None,
}

impl<'l> Selection<'l> {
    /// Finds the machines that `select.machine` and `select.exclude` of a lease name.
    ///
    /// # Parameters
    /// - `machines`: every machine of the host, including the protected ones and the templates.
    ///   They all count: if several machines in the scope of the lease match the reference, it is
    ///   ambiguous.
    #[must_use]
    pub fn new(lease: &'l Lease, machines: &[CandidateMachine]) -> Self {
        let matching = |reference: &MachineReference| {
            reference.matching(machines.iter().filter(|machine| is_in_scope(lease, machine)))
        };
        let Select { machine, exclude, .. } = &lease.select;
        let machine = machine.as_ref().map_or(SelectedMachine::Any, |reference| {
            match matching(reference).as_slice() {
                [one] => SelectedMachine::One(one.identity.id.clone()),
                _ => SelectedMachine::None,
            }
        });
        let excluded = exclude.iter().flat_map(matching);
        Self { lease, machine, excluded: excluded.map(|one| one.identity.id.clone()).collect() }
    }

    /// Whether a machine matches the selection and the scope of the lease, and is not excluded.
    #[must_use]
    pub fn includes(&self, machine: &CandidateMachine) -> bool {
        let select = &self.lease.select;
        let Select {
            machine: _,
            name,
            mac,
            pool: _,
            pools: _,
            exclude: _,
            memory_bytes_at_least,
            nested_virtualization,
        } = select;
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
            && select.accepts_pools(&machine.pools)
            && !self.excluded.contains(&machine.identity.id)
            && memory_bytes_at_least.is_none_or(|least| machine.memory_bytes >= least)
            && nested_virtualization
                .is_none_or(|wanted| machine.nested_virtualization == Some(wanted))
    }
}

/// Whether a machine is in the scope of the caller that requested a lease.
#[must_use]
pub fn is_in_scope(lease: &Lease, machine: &CandidateMachine) -> bool {
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
    use crate::domain::scope::Scope;
    use crate::service::inventory::samples;
    use crate::service::leases::tests::lease;

    fn candidate() -> CandidateMachine {
        let mut machine = samples::machine("16", "Qubes-4.2 staging");
        machine.network_cards.push(samples::card("00:50:56:aa:bb:cc"));
        machine.snapshots.items.push(samples::snapshot("s-1", "kickstart", None));
        CandidateMachine::new(&machine, vec!["ci".to_owned()], true, false)
    }

    fn selects(select: &Select, machines: &[CandidateMachine]) -> Vec<bool> {
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let lease = Lease { select: select.clone(), ..plain };
        let selection = Selection::new(&lease, machines);
        machines.iter().map(|machine| selection.includes(machine)).collect()
    }

    fn is_selected(select: &Select) -> bool {
        selects(select, &[candidate()]) == [true]
    }

    fn reference(text: &str) -> MachineReference {
        text.parse().unwrap()
    }

    #[test]
    fn a_candidate_has_the_fields_of_its_machine() {
        let machine = samples::machine("16", "Qubes-4.2 staging");
        let expected = CandidateMachine {
            key: MachineKey::from_identity(&machine.identity()),
            identity: machine.identity(),
            name: machine.name,
            bios_uuid: machine.bios_uuid,
            macs: vec!["00:50:56:aa:bb:cc".parse().unwrap()],
            pools: vec!["ci".to_owned()],
            free: true,
            excluded: false,
            running: false,
            memory_bytes: 4 << 30,
            nested_virtualization: Some(true),
            limits: Vec::new(),
            snapshots: Snapshots {
                current: None,
                items: vec![samples::snapshot("s-1", "kickstart", None)],
            },
            media: MediaRecord::default(),
        };
        assert_eq!(candidate(), expected);
    }

    #[test]
    fn only_a_machine_with_a_drive_has_the_drive_that_a_preparation_needs() {
        let plain = lease(1, true, None, crate::service::leases::tests::at(0));
        let prepare = Prepare { iso: Some("[isos] qubes.iso".to_owned()), ..Prepare::default() };
        let with_iso = Lease { prepare: Some(prepare), ..plain.clone() };
        let drive = Some(crate::service::jobs::samples::drive(None));
        let media = MediaRecord { drive, ..MediaRecord::default() };
        let with_drive = CandidateMachine { media, ..candidate() };
        for (lease, machine, expected) in [
            (&plain, candidate(), true),
            (&with_iso, candidate(), false),
            (&with_iso, with_drive, true),
        ] {
            assert_eq!(has_needed_drive(lease, &machine), expected);
        }
    }

    #[test]
    fn a_machine_must_match_every_field_of_the_selection() {
        let all_fields = Select {
            machine: Some(reference("name:Qubes-4.2 staging")),
            name: Some("QUBES".to_owned()),
            mac: Some("00:50:56:aa:bb:cc".parse().unwrap()),
            pool: Some("ci".to_owned()),
            pools: Vec::new(),
            exclude: vec![reference("17"), reference("name:qubes-4.2 staging")],
            memory_bytes_at_least: Some(4 << 30),
            nested_virtualization: Some(true),
        };
        assert!(is_selected(&all_fields) && is_selected(&Select::default()));
        let pools = |names: &[&str]| Select {
            pool: None,
            pools: names.iter().map(|name| (*name).to_owned()).collect(),
            ..all_fields.clone()
        };
        assert!(is_selected(&pools(&["nightly", "ci"])));
        for other in [
            pools(&["nightly", "other"]),
            Select { exclude: vec![reference("17"), reference("16")], ..all_fields.clone() },
            Select { exclude: vec![reference("mac:0:50:56:aa:bb:cc")], ..all_fields.clone() },
            Select { memory_bytes_at_least: Some((4 << 30) + 1), ..all_fields.clone() },
            Select { nested_virtualization: Some(false), ..all_fields.clone() },
            Select { machine: Some(reference("name:Qubes-4.2")), ..all_fields.clone() },
            Select { name: Some("windows".to_owned()), ..all_fields.clone() },
            Select { mac: Some("00:50:56:aa:bb:cd".parse().unwrap()), ..all_fields.clone() },
            Select { pool: Some("nightly".to_owned()), ..all_fields.clone() },
        ] {
            assert!(!is_selected(&other), "{other:?}");
        }
        assert_eq!(
            selects(&all_fields, &[CandidateMachine { excluded: true, ..candidate() }]),
            [false]
        );
        let busy = CandidateMachine { free: false, ..candidate() };
        assert_eq!(selects(&all_fields, &[busy]), [true], "a machine that is not free now matches");
    }

    #[test]
    fn a_machine_of_unknown_memory_and_features_matches_no_demand_for_them() {
        let machine =
            CandidateMachine { memory_bytes: 0, nested_virtualization: None, ..candidate() };
        for demand in [
            Select { memory_bytes_at_least: Some(1), ..Select::default() },
            Select { nested_virtualization: Some(true), ..Select::default() },
            Select { nested_virtualization: Some(false), ..Select::default() },
        ] {
            assert_eq!(selects(&demand, std::slice::from_ref(&machine)), [false], "{demand:?}");
        }
    }

    #[test]
    fn a_machine_outside_the_scope_never_matches() {
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let with = |machines: &[&str], pools: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Lease {
                select: Select::default(),
                scope: Scope::new(texts(machines), texts(pools)),
                ..plain.clone()
            }
        };
        for (scope, is_included) in [
            (with(&[], &[]), true),
            (with(&["Qubes-*"], &[]), true),
            (with(&[], &["ci"]), true),
            (with(&["windows-*"], &["ci"]), true),
            (with(&["windows-*"], &["nightly"]), false),
        ] {
            let machine = candidate();
            let included =
                Selection::new(&scope, std::slice::from_ref(&machine)).includes(&machine);
            assert_eq!(included, is_included, "{:?}", scope.scope);
        }
    }

    #[test]
    fn a_reference_matches_only_if_it_names_one_machine_of_the_scope() {
        let other =
            |id: &str| MachineIdentity { id: MachineId::from_backend(id), ..candidate().identity };
        let same_name =
            CandidateMachine { identity: other("17"), pools: Vec::new(), ..candidate() };
        let named =
            Select { machine: Some(reference("name:Qubes-4.2 staging")), ..Select::default() };
        assert_eq!(selects(&named, &[candidate()]), [true]);
        let both = [candidate(), same_name.clone()];
        assert_eq!(selects(&named, &both), [false, false], "the name is ambiguous");
        let with_excluded = [candidate(), CandidateMachine { excluded: true, ..same_name }];
        assert_eq!(
            selects(&named, &with_excluded),
            [false, false],
            "an excluded machine makes it ambiguous, too"
        );
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let scope = Scope::new(Vec::new(), vec!["ci".to_owned()]);
        let restricted = Lease { select: named, scope, ..plain };
        assert!(
            Selection::new(&restricted, &both).includes(&both[0]),
            "the other machine is out of scope"
        );
    }

    #[test]
    fn the_snapshots_of_the_preparation_and_of_the_release_are_required() {
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let with = |prepare: Option<&str>, release: Option<&str>| Lease {
            prepare: prepare
                .map(|name| Prepare { snapshot: Some(name.to_owned()), ..Prepare::default() }),
            release: Release { snapshot: release.map(str::to_owned), ..Release::default() },
            ..plain.clone()
        };
        assert_eq!(required_snapshots(&with(Some("a"), Some("b"))).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(required_snapshots(&plain).count(), 0);
        let missing = |lease: &Lease| missing_snapshot(lease, &candidate()).cloned();
        assert_eq!(missing(&plain), None);
        assert_eq!(missing(&with(Some("kickstart"), None)), None);
        assert_eq!(missing(&with(Some("kickstart"), Some("kickstart"))), None);
        assert_eq!(missing(&with(Some("none"), None)).as_deref(), Some("none"));
        assert_eq!(missing(&with(Some("kickstart"), Some("none"))).as_deref(), Some("none"));
    }
}
