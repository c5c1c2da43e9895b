//! Warnings about how the configuration names machines: patterns that match no machine, ids that
//! the host can give to another machine, and otter's own machine if otter does not find it. Without
//! a warning, a misspelt pattern would silently leave machines unprotected or a pool empty.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::event_stream::EventStream;
use super::inventory::Inventory;
use super::live_settings::{LiveSettings, ReloadableSettings};
use super::protection::Protection;
use crate::domain::event::{EventFilter, EventType};
use crate::domain::machine::Machine;
use crate::domain::machine_pattern::{MachinePattern, PatternMatch};
use crate::domain::names::is_name;
use crate::domain::pool::Pools;

const PROTECTED: &str = "machines.protected";

/// A fault in how the configuration names machines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PatternWarning {
    /// An entry of a setting matches no machine. The setting is a list of patterns, such as
    /// `machines.protected`.
    Unmatched { setting: Arc<str>, pattern: String },
    /// An entry of `machines.protected` names a machine only by its id. If the machine is
    /// unregistered from the host, it loses the protection, and another machine may get its id.
    ById {
        pattern: String,
        machine: String,
        /// The instance UUID of the machine, else its BIOS UUID.
        uuid: Option<String>,
    },
    /// otter runs in a VMware machine, and finds this machine on the host neither by an address nor
    /// by a UUID.
    OwnMachineNotFound,
}

/// How the configuration names machines: the patterns of its settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct MachinePatterns {
    /// The entries of each setting that is a list of patterns.
    entries: BTreeMap<Arc<str>, Vec<MachinePattern>>,
    protection: Protection,
}

/// Logs the warnings about patterns: at the start of otter, and when they change.
pub struct PatternWatch {
    settings: LiveSettings,
    inventory: Arc<Inventory>,
    event_stream: EventStream,
}

impl MachinePatterns {
    /// The patterns of `machines.protected`, of every configured pool, and of otter's own machine.
    fn new(protection: &Protection, pools: &Pools) -> Self {
        let mut entries = BTreeMap::from([(Arc::from(PROTECTED), protection.protected.clone())]);
        for (name, pool) in &pools.0 {
            entries.insert(Arc::from(format!("pools.{name}.machines")), pool.machines.clone());
        }
        Self { entries, protection: protection.clone() }
    }

    /// For each setting, the number of its entries that match no machine.
    fn counts(&self, warnings: &BTreeSet<PatternWarning>) -> BTreeMap<Arc<str>, usize> {
        let count = |setting: &Arc<str>| {
            warnings.iter().filter(|warning| warning.is_unmatched_in(setting)).count()
        };
        self.entries.keys().map(|setting| (Arc::clone(setting), count(setting))).collect()
    }

    /// Whether the configuration still has the entry that a warning is about.
    fn has_entry_of(&self, warning: &PatternWarning) -> bool {
        let (setting, pattern) = match warning {
            PatternWarning::Unmatched { setting, pattern } => (&**setting, pattern),
            PatternWarning::ById { pattern, .. } => (PROTECTED, pattern),
            PatternWarning::OwnMachineNotFound => return true,
        };
        match self.entries.get(setting) {
            Some(entries) => entries.iter().any(|entry| entry.to_string() == *pattern),
            // A setting of a pool that was removed has no entries. Any other setting without
            // entries is not a list of patterns, so its entry is still there.
            None => !setting.starts_with("pools."),
        }
    }

    fn warnings(&self, machines: &[Arc<Machine>]) -> BTreeSet<PatternWarning> {
        let mut warnings = BTreeSet::new();
        for (setting, patterns) in &self.entries {
            for pattern in patterns {
                warnings.extend(entry_warning(setting, pattern, machines));
            }
        }
        let is_own_named =
            |name: &String| machines.iter().any(|machine| is_name(name, &machine.name));
        let is_self = |machine: &Arc<Machine>| self.protection.is_self(machine);
        match &self.protection.own_name {
            Some(name) if !is_own_named(name) => {
                let (setting, pattern) = (Arc::from("esx.machine_name"), name.clone());
                warnings.insert(PatternWarning::Unmatched { setting, pattern });
            }
            None if self.protection.runs_in_vmware && !machines.iter().any(is_self) => {
                warnings.insert(PatternWarning::OwnMachineNotFound);
            }
            _ => {}
        }
        warnings
    }
}

/// The warning about an entry of a setting. `None` if the entry matches a machine, and does not
/// name it only by its id.
fn entry_warning(
    setting: &Arc<str>,
    pattern: &MachinePattern,
    machines: &[Arc<Machine>],
) -> Option<PatternWarning> {
    let named = machines
        .iter()
        .filter_map(|machine| pattern.match_with(machine.as_ref()).map(|by| (machine, by)));
    let mut by_id = None;
    for (machine, by) in named {
        match by {
            PatternMatch::Property => return None,
            PatternMatch::Id => by_id = Some(machine),
        }
    }
    match by_id {
        Some(_) if **setting != *PROTECTED => None,
        Some(machine) => Some(PatternWarning::ById {
            pattern: pattern.to_string(),
            machine: machine.name.clone(),
            uuid: machine.instance_uuid.clone().or_else(|| machine.bios_uuid.clone()),
        }),
        None => Some(PatternWarning::Unmatched {
            setting: Arc::clone(setting),
            pattern: pattern.to_string(),
        }),
    }
}

impl PatternWarning {
    /// The text of the warning for the operator.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Unmatched { setting, pattern } => {
                format!("{setting}: {pattern:?} matches no machine. Check how it is spelt.")
            }
            Self::ById { pattern, machine, uuid } => {
                let remedy = uuid.as_ref().map_or_else(
                    || "Write its name".to_owned(),
                    |uuid| format!("Write \"uuid:{uuid}\""),
                );
                format!(
                    "{PROTECTED}: {pattern:?} is the id of {machine}. If {machine} is \
                     unregistered, the host can give the id to another machine. {remedy}."
                )
            }
            Self::OwnMachineNotFound => {
                "otter runs in a VMware machine and does not find it among the machines of the \
                 host, so it does not protect it. If it is one of them, set esx.machine_name to \
                 its name."
                    .to_owned()
            }
        }
    }

    fn is_unmatched_in(&self, of: &Arc<str>) -> bool {
        let Self::Unmatched { setting, .. } = self else { return false };
        setting == of
    }

    fn log(&self) {
        match self {
            Self::Unmatched { setting, pattern } => tracing::warn!(
                %setting,
                %pattern,
                "a pattern of the configuration matches no machine"
            ),
            Self::ById { .. } | Self::OwnMachineNotFound => tracing::warn!("{}", self.text()),
        }
    }

    fn log_end(&self) {
        match self {
            Self::Unmatched { setting, pattern } => tracing::info!(
                %setting,
                %pattern,
                "a pattern of the configuration matches a machine again"
            ),
            Self::ById { pattern, .. } => tracing::info!(
                %pattern,
                "an entry of machines.protected does not name its machine by the id alone any more"
            ),
            Self::OwnMachineNotFound => tracing::info!("otter has found its own machine"),
        }
    }
}

impl PatternWatch {
    #[must_use]
    pub const fn new(
        settings: LiveSettings,
        inventory: Arc<Inventory>,
        event_stream: EventStream,
    ) -> Self {
        Self { settings, inventory, event_stream }
    }

    /// The warnings that apply at present. Empty before the inventory is loaded.
    #[must_use]
    pub fn warnings(&self) -> BTreeSet<PatternWarning> {
        let contents = self.inventory.contents();
        if contents.loaded {
            self.patterns().warnings(&contents.machines.to_vec())
        } else {
            BTreeSet::new()
        }
    }

    /// The number of patterns of each setting that match no machine now.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Arc<str>, usize> {
        self.patterns().counts(&self.warnings())
    }

    /// Logs each change of the warnings, until `stop` is cancelled. Waits for events of the
    /// inventory and for reloads of the configuration. Compares the patterns with the machines only
    /// if the patterns changed, or the properties by which they name machines.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let types = vec![
            EventType::MachineChanged,
            EventType::MachineRemoved,
            EventType::DatastoreChanged,
            EventType::SessionChanged,
        ];
        let mut changes =
            self.event_stream.subscribe(EventFilter { types, ..EventFilter::default() });
        let (mut last, mut logged) = (None, BTreeSet::new());
        loop {
            // Skip the events first, and read the inventory after that. So a change of the
            // inventory in between wakes the loop again.
            changes.skip_unread();
            let contents = self.inventory.contents();
            let compared = contents.loaded.then(|| (contents.keys(), self.patterns()));
            if let Some((_, patterns)) = compared.as_ref().filter(|_| compared != last) {
                let now = patterns.warnings(&contents.machines.to_vec());
                // Forget the warnings about entries that a reload removed.
                logged.retain(|warning| patterns.has_entry_of(warning));
                now.difference(&logged).for_each(PatternWarning::log);
                logged.difference(&now).for_each(PatternWarning::log_end);
                (last, logged) = (compared, now);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = changes.wait_for_more() => {}
            }
        }
    }

    fn patterns(&self) -> MachinePatterns {
        let ReloadableSettings { protection, pools, .. } = &*self.settings.load();
        MachinePatterns::new(protection, pools)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::MachineId;
    use crate::domain::machine_uuid::parse_uuid;
    use crate::domain::pool::Pool;

    fn patterns(texts: &[&str]) -> Vec<MachinePattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn machine(id: &str, name: &str) -> Machine {
        let mut machine = Machine::new(MachineId::from_backend(id));
        name.clone_into(&mut machine.name);
        machine.bios_uuid = Some(format!("564d4f5c-1f3a-4b60-8a65-{id:0>12}"));
        machine
    }

    fn found(patterns: &MachinePatterns, machines: &[Machine]) -> Vec<String> {
        let machines: Vec<Arc<Machine>> = machines.iter().cloned().map(Arc::new).collect();
        patterns.warnings(&machines).iter().map(PatternWarning::text).collect()
    }

    #[test]
    fn entries_that_match_no_machine_and_ids_of_protected_machines_are_found() {
        let pool = Pool { machines: patterns(&["qubes-*", "40", "8"]), ..Pool::default() };
        let pools = Pools([("qubes".to_owned(), pool)].into());
        let uuid = "uuid:564d4f5c-1f3a-4b60-8a65-000000000008";
        let protected = patterns(&["golden-*", "7", "golden-debain-*", uuid, "mac:1:2:3:4:5:6"]);
        let protection = Protection { protected, ..Protection::default() };
        let patterns = MachinePatterns::new(&protection, &pools);
        let machines = [machine("7", "runner"), machine("8", "golden-debian-12")];
        let unmatched = |setting: &str, pattern: &str| {
            format!("{setting}: {pattern:?} matches no machine. Check how it is spelt.")
        };
        let by_id = "machines.protected: \"7\" is the id of runner. If runner is unregistered, \
            the host can give the id to another machine. Write \
            \"uuid:564d4f5c-1f3a-4b60-8a65-000000000007\".";
        assert_eq!(
            found(&patterns, &machines),
            [
                unmatched("machines.protected", "golden-debain-*"),
                unmatched("machines.protected", "mac:1:2:3:4:5:6"),
                unmatched("pools.qubes.machines", "40"),
                unmatched("pools.qubes.machines", "qubes-*"),
                by_id.to_owned(),
            ]
        );
        let warnings = patterns.warnings(&machines.map(Arc::new));
        let counts = patterns.counts(&warnings);
        let pool = "pools.qubes.machines";
        assert_eq!(counts, BTreeMap::from([(PROTECTED.into(), 2), (pool.into(), 2)]));
        assert_eq!(patterns.counts(&BTreeSet::new()).values().sum::<usize>(), 0);
    }

    #[test]
    fn a_vmware_machine_that_is_not_found_is_a_warning() {
        let machines = [machine("7", "runner"), machine("8", "otter")];
        let own = |change: &dyn Fn(&mut Protection)| {
            let mut protection = Protection { runs_in_vmware: true, ..Protection::default() };
            change(&mut protection);
            found(&MachinePatterns::new(&protection, &Pools::default()), &machines)
        };
        assert_eq!(own(&|_| {}), [PatternWarning::OwnMachineNotFound.text()]);
        assert!(own(&|own| own.runs_in_vmware = false).is_empty());
        assert!(own(&|own| own.own_name = Some("otter".to_owned())).is_empty());
        let uuid = parse_uuid(machines[1].bios_uuid.as_deref().unwrap()).unwrap();
        assert!(own(&|own| own.own_uuids = vec![uuid]).is_empty());
        let misspelt = own(&|own| own.own_name = Some("oter".to_owned()));
        assert_eq!(
            misspelt,
            ["esx.machine_name: \"oter\" matches no machine. Check how it is spelt."]
        );
    }
}
