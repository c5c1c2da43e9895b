//! Pools of machines. Both the configuration and a line in a machine's annotation can put a machine
//! into a pool.

use std::collections::BTreeMap;
use std::time::Duration;

use super::answers::{AnswerRule, AnswerRules};
use super::lease::{Prepare, Release};
use super::machine::{Machine, Question};
use super::machine_pattern::MachinePattern;
use super::machine_reference::ReferencedMachine;
use super::recording::Record;

/// The beginning of a line in an annotation that names a pool of the machine.
const ANNOTATION_PREFIX: &str = "otter.pool:";

/// The pools of the configuration, by name. Annotations may name other pools, which have no
/// settings.
#[derive(Clone, Debug, Default)]
pub struct Pools(pub BTreeMap<String, Pool>);

/// The limits for machines that run at the same time, on the whole host or in a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningLimits {
    /// The maximum number of running machines.
    pub max_running: Option<u32>,
    /// The maximum memory of all running machines together, in bytes.
    pub max_memory_bytes: Option<u64>,
}

/// The group of machines to which limits apply together: the whole host or a pool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitScope {
    Host,
    /// The machines of the pool with this name.
    Pool(String),
}

/// The limits for a group of machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopedLimits {
    pub scope: LimitScope,
    pub limits: RunningLimits,
}

/// The settings of a pool in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// The entries that name the machines in the pool.
    pub machines: Vec<MachinePattern>,
    /// The preparation of a machine for a lease that does not ask for one.
    pub prepare: Option<Prepare>,
    /// The release of a machine after a lease that does not ask for one.
    pub release: Option<Release>,
    /// What otter records during a lease that does not ask for a recording.
    pub record: Option<Record>,
    /// The maximum duration that a lease of a machine in this pool may ask for.
    pub max_ttl: Option<Duration>,
    /// Whether a runner may take a lease whose release does not power the machine off.
    pub may_keep_power: bool,
    /// Who may look at the screens of its machines while no lease holds them.
    pub screens: ScreenAccess,
    /// When otter is connected to the serial ports of its machines.
    pub serial: SerialAccess,
    /// Patterns that protect snapshots by their names or paths. Only an operator with an override
    /// may change a protected snapshot.
    pub protected_snapshots: Vec<String>,
    /// The rules that answer the questions of the machines in the pool.
    pub answers: AnswerRules,
    /// The limits for machines of the pool that run at the same time. A lease waits until the
    /// limits allow its machine to run.
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

/// When otter is connected to the serial ports of a machine. It also is while a caller reads one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SerialAccess {
    /// While a lease holds the machine.
    #[default]
    Lease,
    Always,
}

impl RunningLimits {
    /// Whether there are no limits.
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

    /// The rule of the machine's pools that answers a question. If several pools have a rule, the
    /// pool whose name sorts first decides. `None` if no pool has a rule.
    #[must_use]
    pub fn answer_rule(&self, machine: &Machine, question: &Question) -> Option<AnswerRule<'_>> {
        let pools = self.for_machine(machine);
        let mut configured = pools.iter().filter_map(|name| self.get(name));
        configured.find_map(|pool| pool.answers.for_question(question))
    }

    /// The settings of a pool. `None` if the configuration does not contain the pool.
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
