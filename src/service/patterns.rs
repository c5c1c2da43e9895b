//! Warnings about patterns and ids of the configuration that match no machine. A misspelt pattern
//! would otherwise silently leave machines unprotected or a pool empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::event_stream::EventStream;
use super::inventory::Inventory;
use crate::domain::event::{EventFilter, EventType};
use crate::domain::ids::MachineId;
use crate::domain::machine::Machine;
use crate::domain::names::matches_pattern;
use crate::domain::pool::Pools;

/// A setting, such as `machines.protected`, and one of its patterns or ids that matches no machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnmatchedPattern {
    pub setting: Arc<str>,
    pub pattern: String,
}

/// The patterns and ids of machines in the configuration, by setting.
#[derive(Clone, Debug, Default)]
pub struct MachinePatterns(BTreeMap<Arc<str>, Vec<String>>);

/// Logs the patterns that match no machine: at the start, and when they change.
pub struct PatternWatch {
    patterns: MachinePatterns,
    inventory: Arc<Inventory>,
    event_stream: EventStream,
}

impl MachinePatterns {
    /// The patterns of `machines.protected` and of every configured pool.
    #[must_use]
    pub fn new(protected: &[String], pools: &Pools) -> Self {
        let mut settings = BTreeMap::from([(Arc::from("machines.protected"), protected.to_vec())]);
        for (name, pool) in &pools.0 {
            settings.insert(Arc::from(format!("pools.{name}.machines")), pool.machines.clone());
        }
        Self(settings)
    }

    /// The number of patterns of each setting that match no machine.
    #[must_use]
    pub fn counts(&self, unmatched: &BTreeSet<UnmatchedPattern>) -> BTreeMap<Arc<str>, usize> {
        let count =
            |setting: &Arc<str>| unmatched.iter().filter(|found| found.setting == *setting).count();
        self.0.keys().map(|setting| (Arc::clone(setting), count(setting))).collect()
    }

    fn unmatched(&self, machines: &[(MachineId, String)]) -> BTreeSet<UnmatchedPattern> {
        let matches = |pattern: &str| {
            machines.iter().any(|(id, name)| *id == *pattern || matches_pattern(pattern, name))
        };
        let mut unmatched = BTreeSet::new();
        for (setting, patterns) in &self.0 {
            for pattern in patterns.iter().filter(|pattern| !matches(pattern)) {
                unmatched.insert(UnmatchedPattern {
                    setting: Arc::clone(setting),
                    pattern: pattern.clone(),
                });
            }
        }
        unmatched
    }
}

impl UnmatchedPattern {
    /// The warning for the operator.
    #[must_use]
    pub fn warning(&self) -> String {
        let Self { setting, pattern } = self;
        format!("{setting}: {pattern:?} matches no machine. Check how it is spelt.")
    }
}

impl PatternWatch {
    #[must_use]
    pub const fn new(
        patterns: MachinePatterns,
        inventory: Arc<Inventory>,
        event_stream: EventStream,
    ) -> Self {
        Self { patterns, inventory, event_stream }
    }

    /// The patterns that match no machine now. Empty before the inventory is loaded.
    #[must_use]
    pub fn unmatched(&self) -> BTreeSet<UnmatchedPattern> {
        self.machines().map_or_else(BTreeSet::new, |machines| self.patterns.unmatched(&machines))
    }

    /// The number of patterns of each setting that match no machine now.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        self.patterns.counts(&self.unmatched())
    }

    /// Logs each change of the unmatched patterns, until `stop`. It waits for events of the
    /// inventory and compares the patterns only if the ids or names of machines changed.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let types = vec![
            EventType::MachineChanged,
            EventType::MachineRemoved,
            EventType::DatastoreChanged,
            EventType::SessionChanged,
        ];
        let mut changes =
            self.event_stream.subscribe(EventFilter { types, ..EventFilter::default() });
        let (mut last_machines, mut logged) = (None, BTreeSet::new());
        loop {
            // First skip the events, then read the inventory: a change in between wakes the loop
            // again.
            changes.skip_unread();
            let machines = self.machines();
            if machines.is_some() && machines != last_machines {
                let now = machines
                    .as_ref()
                    .map_or_else(BTreeSet::new, |all| self.patterns.unmatched(all));
                log_changes(&logged, &now);
                (last_machines, logged) = (machines, now);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = changes.wait_for_more() => {}
            }
        }
    }

    fn machines(&self) -> Option<Vec<(MachineId, String)>> {
        let contents = self.inventory.contents();
        let machine = |machine: &Arc<Machine>| (machine.id.clone(), machine.name.clone());
        contents.loaded.then(|| contents.machines.iter().map(machine).collect())
    }
}

fn log_changes(before: &BTreeSet<UnmatchedPattern>, now: &BTreeSet<UnmatchedPattern>) {
    for UnmatchedPattern { setting, pattern } in now.difference(before) {
        tracing::warn!(%setting, %pattern, "a pattern of the configuration matches no machine");
    }
    for UnmatchedPattern { setting, pattern } in before.difference(now) {
        tracing::info!(
            %setting,
            %pattern,
            "a pattern of the configuration matches a machine again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pool::Pool;

    #[test]
    fn patterns_and_ids_that_match_no_machine_are_found_by_setting() {
        let texts =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let pool = Pool { machines: texts(&["qubes-*", "40"]), ..Pool::default() };
        let pools = Pools([("qubes".to_owned(), pool)].into());
        let patterns = MachinePatterns::new(&texts(&["golden-*", "7", "golden-debain-*"]), &pools);
        let machines = [("7", "runner"), ("8", "golden-debian-12")];
        let machines = machines.map(|(id, name)| (MachineId::from_backend(id), name.to_owned()));
        let unmatched = patterns.unmatched(&machines);
        let found: Vec<(&str, &str)> =
            unmatched.iter().map(|found| (&*found.setting, found.pattern.as_str())).collect();
        let pool = "pools.qubes.machines";
        assert_eq!(
            found,
            [("machines.protected", "golden-debain-*"), (pool, "40"), (pool, "qubes-*")]
        );
        let counts = patterns.counts(&unmatched);
        assert_eq!(counts, BTreeMap::from([("machines.protected".into(), 1), (pool.into(), 2)]));
        assert_eq!(patterns.counts(&BTreeSet::new()).values().sum::<usize>(), 0);
    }
}
