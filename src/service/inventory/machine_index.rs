//! Indexes of the machines by the values with which callers search: hardware addresses, UUIDs and
//! parts of names. An index is built when it is first used. It is kept until one of the values
//! changes.

use uuid::Uuid;

use super::machine_list::MachineList;
use crate::domain::mac::MacAddress;
use crate::domain::machine::Machine;
use crate::domain::machine_reference::MachineReference;
use crate::domain::machine_uuid::parse_uuid;

/// Three bytes that follow each other in a name in lower case.
type Trigram = [u8; 3];

/// The positions of machines in a [`MachineList`], in ascending order and without repetitions.
pub type Positions = Vec<u32>;

/// The indexes of one list of machines.
#[derive(Debug)]
pub struct MachineIndex {
    by_mac: SortedIndex<MacAddress>,
    by_uuid: SortedIndex<UuidKey>,
    by_trigram: SortedIndex<Trigram>,
    /// The machines whose names have a `%`. Such a name can also match in an unescaped form, and
    /// the trigrams do not contain that form.
    escaped: Positions,
}

/// Pairs of a value and the position of a machine that has this value. The pairs are sorted.
#[derive(Debug)]
struct SortedIndex<K>(Vec<(K, u32)>);

/// The key of a text in the index of UUIDs: a UUID in any spelling, or another text in lower case.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum UuidKey {
    Uuid(Uuid),
    Text(String),
}

impl MachineIndex {
    /// Builds the indexes of a list.
    #[must_use]
    pub fn new(machines: &MachineList) -> Self {
        let (mut macs, mut uuids, mut trigrams) = (Vec::new(), Vec::new(), Vec::new());
        let mut escaped = Vec::new();
        for (machine, position) in machines.iter().zip(0_u32..) {
            let addresses = machine.network_cards.iter().filter_map(|card| card.mac_address);
            macs.extend(addresses.map(|address| (address, position)));
            let own = [&machine.instance_uuid, &machine.bios_uuid].into_iter().flatten();
            uuids.extend(own.map(|uuid| (UuidKey::new(uuid), position)));
            trigrams.extend(trigrams_of(&machine.name).map(|trigram| (trigram, position)));
            if machine.name.contains('%') {
                escaped.push(position);
            }
        }
        Self {
            by_mac: SortedIndex::new(macs),
            by_uuid: SortedIndex::new(uuids),
            by_trigram: SortedIndex::new(trigrams),
            escaped,
        }
    }

    /// The machines that have a network card with this address.
    #[must_use]
    pub fn with_mac(&self, address: MacAddress) -> Positions {
        self.by_mac.positions(&address).collect()
    }

    /// All machines whose name contains the fragment by
    /// [`contains_loosely`](crate::domain::names::contains_loosely), and possibly others. `None` if
    /// the index cannot exclude any machine.
    #[must_use]
    pub fn near_name(&self, fragment: &str) -> Option<Positions> {
        if fragment.contains('%') {
            return None;
        }
        let rarest = trigrams_of(fragment)
            .map(|trigram| self.by_trigram.range(&trigram))
            .min_by_key(|range| range.len())?;
        let mut positions: Positions = rarest.iter().map(|(_, position)| *position).collect();
        if !self.escaped.is_empty() {
            positions.extend(&self.escaped);
            positions.sort_unstable();
            positions.dedup();
        }
        Some(positions)
    }

    /// All machines that a reference matches, and possibly others. `None` if the index cannot
    /// exclude any machine, for example if the reference is an id.
    #[must_use]
    pub fn near_reference(&self, reference: &MachineReference) -> Option<Positions> {
        match reference {
            MachineReference::Id(_) => None,
            MachineReference::Name(name) => self.near_name(name),
            MachineReference::Uuid(uuid) => {
                Some(self.by_uuid.positions(&UuidKey::new(uuid)).collect())
            }
            MachineReference::Mac(address) => Some(self.with_mac(*address)),
        }
    }
}

impl<K: Ord> SortedIndex<K> {
    fn new(mut pairs: Vec<(K, u32)>) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        pairs.shrink_to_fit();
        Self(pairs)
    }

    fn range(&self, key: &K) -> &[(K, u32)] {
        let Self(pairs) = self;
        let start = pairs.partition_point(|(known, _)| known < key);
        let len = pairs[start..].partition_point(|(known, _)| known == key);
        &pairs[start..start + len]
    }

    fn positions(&self, key: &K) -> impl Iterator<Item = u32> {
        self.range(key).iter().map(|(_, position)| *position)
    }
}

impl UuidKey {
    /// The key of a text. Two texts have the same key if they are equal without regard to case, or
    /// if they are the same UUID.
    fn new(text: &str) -> Self {
        parse_uuid(text).map_or_else(|| Self::Text(text.to_ascii_lowercase()), Self::Uuid)
    }
}

/// Whether a list of machines keeps its indexes when `after` replaces `before` in the list: the
/// values by which callers search are equal.
#[must_use]
pub fn has_same_keys(before: &Machine, after: &Machine) -> bool {
    let macs = |machine: &Machine| -> Vec<Option<MacAddress>> {
        machine.network_cards.iter().map(|card| card.mac_address).collect()
    };
    before.id == after.id
        && before.name == after.name
        && before.instance_uuid == after.instance_uuid
        && before.bios_uuid == after.bios_uuid
        && (before.network_cards == after.network_cards || macs(before) == macs(after))
}

/// The trigrams of a text: each run of three bytes of the text in Unicode lower case. A text of
/// fewer than three bytes has none.
fn trigrams_of(text: &str) -> impl Iterator<Item = Trigram> {
    let lower_case = text.to_lowercase().into_bytes();
    let trigrams = 2..lower_case.len();
    trigrams.map(move |last| [lower_case[last - 2], lower_case[last - 1], lower_case[last]])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::names::{contains_loosely, is_name};
    use crate::service::inventory::entry::Entry;
    use crate::service::inventory::samples;

    fn list(machines: impl IntoIterator<Item = Machine>) -> MachineList {
        let entries: Vec<Entry> =
            machines.into_iter().map(|machine| Entry::sample(Arc::new(machine))).collect();
        MachineList::from_entries(&entries)
    }

    fn has_all(found: Option<&Positions>, expected: &[u32]) -> bool {
        found.is_none_or(|found| {
            found.is_sorted() && expected.iter().all(|position| found.contains(position))
        })
    }

    fn matching(machines: &MachineList, is_match: impl Fn(&Machine) -> bool) -> Positions {
        let found = machines.iter().zip(0_u32..).filter(|(machine, _)| is_match(machine));
        found.map(|(_, position)| position).collect()
    }

    proptest! {
        /// The random names and fragments have few letters, so that they match often. They also
        /// have escapes, letters of other scripts, and letters that change their length in lower
        /// case.
        #[test]
        fn an_index_misses_no_machine_that_a_comparison_finds(
            names in prop::collection::vec("(a|b|B|-|%2f|%25|/|Ü|ü|İ|ß|Σ|1){0,7}", 0..30),
            fragment in "(a|b|B|-|%2f|%252f|/|Ü|ü|i|İ|ß|Σ|σ|1){0,5}",
        ) {
            let numbered = names.iter().zip(1..);
            let machines =
                list(numbered.map(|(name, n): (_, u32)| samples::machine(&n.to_string(), name)));
            let index = MachineIndex::new(&machines);
            let containing =
                matching(&machines, |machine| contains_loosely(&machine.name, &fragment));
            prop_assert!(has_all(index.near_name(&fragment).as_ref(), &containing));
            let named = matching(&machines, |machine| is_name(&fragment, &machine.name));
            let reference = MachineReference::Name(fragment.clone());
            prop_assert!(has_all(index.near_reference(&reference).as_ref(), &named));
        }
    }

    #[test]
    fn an_address_and_a_uuid_find_every_machine_that_has_them() {
        let mut machines: Vec<Machine> =
            (1..=5).map(|n| samples::machine(&n.to_string(), "same")).collect();
        let (shared, single) = ("00:50:56:00:00:01", "00:50:56:00:00:02");
        machines[1].network_cards = vec![samples::card(single), samples::card(shared)];
        machines[4].network_cards = vec![samples::card(shared), samples::card(shared)];
        machines[2].instance_uuid = Some("52 00 00 00-0000-0000-0000-0000000000AB".to_owned());
        machines[3].bios_uuid = Some("520000000000000000000000000000ab".to_owned());
        machines[0].bios_uuid = Some("Odd".to_owned());
        let index = MachineIndex::new(&list(machines));
        let mac = |text: &str| index.with_mac(text.parse().unwrap());
        assert_eq!((mac(shared), mac(single)), (vec![1, 4], vec![1]));
        assert!(mac("00:50:56:00:00:03").is_empty());
        let uuid = |text: &str| {
            index.near_reference(&MachineReference::Uuid(text.to_owned())).unwrap_or_default()
        };
        assert_eq!(uuid("52000000-0000-0000-0000-0000000000AB"), [2, 3]);
        assert_eq!(uuid("oDD"), [0]);
        assert!(uuid("odd ").is_empty());
    }

    #[test]
    fn a_name_is_near_few_machines_of_many() {
        let numbered = |n: u32| samples::machine(&n.to_string(), &format!("qubes-{n:05}"));
        let index = MachineIndex::new(&list((0..10_000).map(numbered)));
        let near = index.near_name("QUBES-05123").unwrap();
        assert!(near.contains(&5_123) && near.len() < 100, "{} machines", near.len());
    }
}
