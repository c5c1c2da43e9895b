//! Which machines a lease may get: pure.

use std::collections::BTreeSet;

use crate::domain::lease::{Lease, Select};
use crate::domain::mac::MacAddress;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::names::contains_loosely;

/// A machine that may be granted, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub identity: MachineIdentity,
    pub name: String,
    pub bios_uuid: Option<String>,
    pub macs: Vec<MacAddress>,
    pub pools: Vec<String>,
    /// Nothing but a lease or a quarantine stands against it: the book knows of those itself.
    pub free: bool,
    /// Protected ones and templates are never granted.
    pub never: bool,
    /// Those of the snapshots that leases ask for which it does not have.
    pub lacks: BTreeSet<String>,
}

impl Candidate {
    /// A machine that may be granted, held against the snapshots that are asked for.
    #[must_use]
    pub fn of(
        machine: &Machine,
        pools: Vec<String>,
        free: bool,
        never: bool,
        wanted: &BTreeSet<&String>,
    ) -> Self {
        let lacks = wanted.iter().filter(|wanted| machine.snapshots.find(wanted).is_err());
        Self {
            identity: machine.identity(),
            name: machine.name.clone(),
            bios_uuid: machine.bios_uuid.clone(),
            macs: machine.network_cards.iter().filter_map(|card| card.mac_address).collect(),
            pools,
            free,
            never,
            lacks: lacks.map(|wanted| (*wanted).clone()).collect(),
        }
    }
}

/// The snapshots that a machine has to have for a lease.
pub fn wants(lease: &Lease) -> impl Iterator<Item = &String> {
    let Lease { prepare, release, .. } = lease;
    prepare.iter().filter_map(|prepare| prepare.snapshot.as_ref()).chain(&release.snapshot)
}

/// Whether a machine has all of them.
#[must_use]
pub fn has_snapshots(lease: &Lease, machine: &Candidate) -> bool {
    wants(lease).all(|wanted| !machine.lacks.contains(wanted))
}

/// Whether a lease can ever get a machine: the machine is in the caller's scope, and the lease
/// selects it.
#[must_use]
pub fn may_get(lease: &Lease, machine: &Candidate) -> bool {
    lease.scope.contains(&machine.name, &machine.pools) && fits(&lease.select, machine)
}

/// Whether a machine is one of those that are wanted, and may be granted at all.
#[must_use]
pub fn fits(select: &Select, machine: &Candidate) -> bool {
    let Select { machine: reference, name, mac, pool } = select;
    !machine.never
        && reference.as_deref().is_none_or(|reference| goes_by(reference, machine))
        && name.as_deref().is_none_or(|name| contains_loosely(&machine.name, name))
        && mac.is_none_or(|mac| machine.macs.contains(&mac))
        && pool.as_ref().is_none_or(|pool| machine.pools.contains(pool))
}

fn goes_by(reference: &str, machine: &Candidate) -> bool {
    let same = |uuid: &Option<String>, wanted: &str| {
        uuid.as_ref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(wanted))
    };
    match reference.split_once(':') {
        Some(("name", name)) => machine.name == name,
        Some(("uuid", uuid)) => same(&machine.identity.instance_uuid, uuid) || same(&machine.bios_uuid, uuid),
        Some(("mac", mac)) => mac.parse().is_ok_and(|mac| machine.macs.contains(&mac)),
        _ => machine.identity.id.as_str() == reference,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lease::{Prepare, Release};
    use crate::domain::scope::Scope;
    use crate::service::inventory::samples;
    use crate::service::leases::tests::lease;

    fn candidate() -> Candidate {
        let mut machine = samples::machine("16", "Qubes-4.2 staging");
        machine.network_cards.push(samples::card("00:50:56:aa:bb:cc"));
        machine.snapshots.items.push(samples::snapshot("s-1", "kickstart", None));
        let wanted = ["kickstart".to_owned(), "none".to_owned()];
        Candidate::of(&machine, vec!["ci".to_owned()], true, false, &wanted.iter().collect())
    }

    fn taken(select: &Select) -> bool {
        fits(select, &candidate())
    }

    #[test]
    fn a_candidate_is_the_machine_and_lacks_what_it_does_not_have() {
        let machine = samples::machine("16", "Qubes-4.2 staging");
        let expected = Candidate {
            identity: machine.identity(),
            name: machine.name,
            bios_uuid: machine.bios_uuid,
            macs: vec!["00:50:56:aa:bb:cc".parse().unwrap()],
            pools: vec!["ci".to_owned()],
            free: true,
            never: false,
            lacks: ["none".to_owned()].into(),
        };
        assert_eq!(candidate(), expected);
    }

    #[test]
    fn all_that_was_said_has_to_fit() {
        let whole = Select {
            machine: Some("name:Qubes-4.2 staging".to_owned()),
            name: Some("QUBES".to_owned()),
            mac: Some("00:50:56:aa:bb:cc".parse().unwrap()),
            pool: Some("ci".to_owned()),
        };
        assert!(taken(&whole) && taken(&Select::default()));
        for other in [
            Select { machine: Some("name:Qubes-4.2".to_owned()), ..whole.clone() },
            Select { name: Some("windows".to_owned()), ..whole.clone() },
            Select { mac: Some("00:50:56:aa:bb:cd".parse().unwrap()), ..whole.clone() },
            Select { pool: Some("nightly".to_owned()), ..whole.clone() },
        ] {
            assert!(!taken(&other), "{other:?}");
        }
        assert!(!fits(&whole, &Candidate { never: true, ..candidate() }));
        assert!(fits(&whole, &Candidate { free: false, ..candidate() }), "it may be free some day");
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
            assert_eq!(may_get(&scope, &candidate()), is_got, "{:?}", scope.scope);
        }
    }

    #[test]
    fn a_machine_goes_by_its_id_name_uuids_and_macs() {
        for (reference, fits) in [
            ("16", true),
            ("17", false),
            ("name:Qubes-4.2 staging", true),
            ("name:qubes-4.2 staging", false),
            ("name:16", false),
            ("uuid:52000000-0000-0000-0000-000000000016", true),
            ("uuid:42000000-0000-0000-0000-000000000016", true),
            ("uuid:42000000-0000-0000-0000-000000000017", false),
            ("uuid:16", false),
            ("mac:00-50-56-AA-BB-CC", true),
            ("mac:00:50:56:aa:bb:cd", false),
            ("mac:none", false),
        ] {
            let select = Select { machine: Some(reference.to_owned()), ..Select::default() };
            assert_eq!(taken(&select), fits, "{reference}");
        }
        let upper = candidate().identity.instance_uuid.map(|uuid| uuid.to_ascii_uppercase());
        let identity = MachineIdentity { instance_uuid: upper, ..candidate().identity };
        assert!(goes_by("uuid:52000000-0000-0000-0000-000000000016", &Candidate { identity, ..candidate() }));
    }

    #[test]
    fn the_snapshots_of_the_preparation_and_of_the_release_are_wanted() {
        let plain = lease(1, false, None, crate::service::leases::tests::at(0));
        let with = |prepare: Option<&str>, release: Option<&str>| Lease {
            prepare: prepare.map(|name| Prepare { snapshot: Some(name.to_owned()), ..Prepare::default() }),
            release: Release { snapshot: release.map(str::to_owned), ..Release::default() },
            ..plain.clone()
        };
        assert_eq!(wants(&with(Some("a"), Some("b"))).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(wants(&plain).count(), 0);
        assert!(has_snapshots(&plain, &candidate()));
        assert!(has_snapshots(&with(Some("kickstart"), None), &candidate()));
        assert!(has_snapshots(&with(Some("kickstart"), Some("kickstart")), &candidate()));
        assert!(!has_snapshots(&with(Some("none"), None), &candidate()));
        assert!(!has_snapshots(&with(Some("kickstart"), Some("none")), &candidate()));
    }
}
