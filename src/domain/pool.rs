//! Pools of machines. The configuration and a line of a machine's annotation put machines into
//! pools.

use std::collections::BTreeMap;
use std::time::Duration;

use super::answers::{AnswerRule, AnswerRules};
use super::lease::{Prepare, Release};
use super::machine::{Machine, Question};
use super::machine_pattern::MachinePattern;
use super::machine_reference::ReferencedMachine;

/// The beginning of an annotation's line that names a pool of the machine.
const ANNOTATION_PREFIX: &str = "otter.pool:";

/// The pools of the configuration, by name. Annotations may name other pools.
#[derive(Clone, Debug, Default)]
pub struct Pools(pub BTreeMap<String, Pool>);

/// The limits of the machines that run at the same time, on a host or in a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningLimits {
    /// The largest number of machines.
    pub max_running: Option<u32>,
    /// The largest memory of all machines together, in bytes.
    pub max_memory_bytes: Option<u64>,
}

/// The machines to which limits apply together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitScope {
    Host,
    /// The pool of this name.
    Pool(String),
}

/// The limits of a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedLimits {
    pub scope: LimitScope,
    pub limits: RunningLimits,
}

/// The settings of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// The machines in the pool.
    pub machines: Vec<MachinePattern>,
    /// The preparation for a lease that does not request one.
    pub prepare: Option<Prepare>,
    /// The release for a lease that does not request one.
    pub release: Option<Release>,
    /// The maximum TTL of a lease.
    pub max_ttl: Option<Duration>,
    /// Whether a lease of a runner may end without a power-off.
    pub may_keep_power: bool,
    /// Who may look at the screens of its machines while no lease holds them.
    pub screens: ScreenAccess,
    /// Patterns of names and paths of snapshots that only an operator with an override may change.
    pub protected_snapshots: Vec<String>,
    /// The answers to questions of the machines in the pool.
    pub answers: AnswerRules,
    /// The limits of its machines that run at the same time. A lease waits for them.
    pub limits: RunningLimits,
}

/// Who may look at the screen of a machine that no lease holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScreenAccess {
    /// Operators. Others need a lease.
    #[default]
    Lease,
    /// Every caller who sees the machine.
    Public,
}

impl RunningLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub const fn is_unlimited(self) -> bool {
        let Self { max_running, max_memory_bytes } = self;
        max_running.is_none() && max_memory_bytes.is_none()
    }
}

impl Pools {
    /// The names of the pools that contain a machine, sorted.
    #[must_use]
    pub fn for_machine(&self, machine: &Machine) -> Vec<String> {
        self.for_keys(machine, annotated_pools(machine.annotation.as_deref()))
    }

    /// The names of the pools that contain a machine with these properties, sorted.
    ///
    /// # Parameters
    /// - `annotated`: the pools that the machine's annotation names.
    #[must_use]
    pub fn for_keys(
        &self,
        machine: &impl ReferencedMachine,
        annotated: Vec<String>,
    ) -> Vec<String> {
        let configured =
            self.0.iter().filter(|(_, pool)| pool.includes(machine)).map(|(pool, _)| pool.clone());
        let mut pools: Vec<String> = configured.chain(annotated).collect();
        pools.sort();
        pools.dedup();
        pools
    }

    /// The rule of the machine's pools for a question. If several pools have a rule, the first pool
    /// by name decides. `None` if no pool has a rule.
    #[must_use]
    pub fn answer_rule(&self, machine: &Machine, question: &Question) -> Option<AnswerRule<'_>> {
        let pools = self.for_machine(machine);
        let mut configured = pools.iter().filter_map(|name| self.get(name));
        configured.find_map(|pool| pool.answers.for_question(question))
    }

    /// The settings of a pool. `None` if the configuration does not contain it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Pool> {
        self.0.get(name)
    }
}

impl Pool {
    fn includes(&self, machine: &impl ReferencedMachine) -> bool {
        self.machines.iter().any(|pattern| pattern.matches(machine))
    }
}

/// The names of the pools in a machine's annotation.
#[must_use]
pub fn annotated_pools(annotation: Option<&str>) -> Vec<String> {
    let lines = annotation.unwrap_or_default().lines();
    lines
        .filter_map(|line| line.trim().strip_prefix(ANNOTATION_PREFIX))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}
