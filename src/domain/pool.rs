//! Pools: which machines belong together, by the configuration and by a line of a machine's
//! annotation.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ids::MachineId;
use super::lease::{Prepare, Release};
use super::machine::Machine;
use super::names::matches_pattern;

/// What a line of an annotation begins with that puts the machine into a pool.
const ANNOTATION_PREFIX: &str = "otter.pool:";

/// The pools of the configuration, by name. Annotations may name others.
#[derive(Clone, Debug, Default)]
pub struct Pools(pub BTreeMap<String, Pool>);

/// What the configuration says of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Ids, and patterns of names.
    pub machines: Vec<String>,
    /// How its machines are prepared where a lease does not say.
    pub prepare: Option<Prepare>,
    /// How they are released where a lease does not say.
    pub release: Option<Release>,
    /// The longest time of a lease.
    pub max_ttl: Option<Duration>,
    /// Whether a runner may leave a machine on.
    pub may_keep_power: bool,
    /// Patterns of names and paths of snapshots that only an operator with an override may change.
    pub protected_snapshots: Vec<String>,
}

impl Pools {
    /// The pools that a machine is in, in order of their names.
    #[must_use]
    pub fn for_machine(&self, machine: &Machine) -> Vec<String> {
        self.for_named_machine(
            &machine.id,
            &machine.name,
            annotated_pools(machine.annotation.as_deref()),
        )
    }

    /// The pools of a machine with this id, name and annotation, in order of their names.
    #[must_use]
    pub fn for_named_machine(
        &self,
        id: &MachineId,
        name: &str,
        annotated: Vec<String>,
    ) -> Vec<String> {
        let configured =
            self.0.iter().filter(|(_, pool)| pool.includes(id, name)).map(|(pool, _)| pool.clone());
        let mut pools: Vec<String> = configured.chain(annotated).collect();
        pools.sort();
        pools.dedup();
        pools
    }

    /// What the configuration says of a pool.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Pool> {
        self.0.get(name)
    }
}

impl Pool {
    fn includes(&self, id: &MachineId, name: &str) -> bool {
        let named = |pattern: &String| *id == **pattern || matches_pattern(pattern, name);
        self.machines.iter().any(named)
    }
}

/// The pools that a machine's annotation names.
#[must_use]
pub fn annotated_pools(annotation: Option<&str>) -> Vec<String> {
    let lines = annotation.unwrap_or_default().lines();
    lines
        .filter_map(|line| line.trim().strip_prefix(ANNOTATION_PREFIX))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}
