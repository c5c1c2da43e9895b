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

/// Whether a machine might be granted some day.
#[must_use]
pub fn could_ever(select: &Select, machine: &Candidate) -> bool {
    fits(select, machine)
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
