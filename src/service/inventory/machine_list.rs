//! The machines of the inventory in the order of their names. A list is divided into parts, and
//! lists share equal parts. So a new list in which one machine is replaced costs a few copies of
//! pointers, and not one copy for each machine.

use std::ops::Index;
use std::sync::Arc;

use super::entry::Entry;
use crate::domain::machine::Machine;

/// The number of machines in a part. The replacement of one machine copies one part, and the
/// pointers to all parts.
const PART: usize = 64;

/// All machines of the host, sorted by name. A clone shares the machines with the original.
#[derive(Clone, Default)]
pub struct MachineList {
    /// The parts of the list. Every part but the last has [`PART`] machines.
    parts: Arc<[Arc<[Entry]>]>,
    len: usize,
}

/// An iterator over the machines of a list, in the order of the list.
#[derive(Clone)]
pub struct Iter<'a> {
    list: &'a MachineList,
    next: usize,
}

impl MachineList {
    /// A list of these machines, in this order.
    pub(super) fn from_entries(entries: &[Entry]) -> Self {
        Self { parts: entries.chunks(PART).map(Arc::from).collect(), len: entries.len() }
    }

    /// A new list with other machines at some positions.
    ///
    /// # Parameters
    /// - `replacements`: positions in the list, each with its new machine.
    pub(super) fn with_replaced(
        &self,
        replacements: impl IntoIterator<Item = (usize, Entry)>,
    ) -> Self {
        let mut parts = Arc::clone(&self.parts);
        for (position, entry) in replacements {
            let part = &mut Arc::make_mut(&mut parts)[position / PART];
            Arc::make_mut(part)[position % PART] = entry;
        }
        Self { parts, len: self.len }
    }

    /// The number of machines.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the list has no machine.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The machines in the order of the list.
    #[must_use]
    pub const fn iter(&self) -> Iter<'_> {
        Iter { list: self, next: 0 }
    }

    /// The machines as a vector, in the order of the list.
    #[must_use]
    pub fn to_vec(&self) -> Vec<Arc<Machine>> {
        self.iter().cloned().collect()
    }

    pub(super) fn entry(&self, position: usize) -> &Entry {
        &self.parts[position / PART][position % PART]
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Arc<Machine>;

    fn next(&mut self) -> Option<&'a Arc<Machine>> {
        let machine = (self.next < self.list.len).then(|| &self.list[self.next])?;
        self.next += 1;
        Some(machine)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.list.len - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a MachineList {
    type Item = &'a Arc<Machine>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl Index<usize> for MachineList {
    type Output = Arc<Machine>;

    fn index(&self, position: usize) -> &Arc<Machine> {
        &self.entry(position).machine
    }
}

/// Two lists are equal if their machines are equal. The histories of the guests do not count.
impl PartialEq for MachineList {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl std::fmt::Debug for MachineList {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::inventory::samples;

    fn entries(names: impl IntoIterator<Item = String>) -> Vec<Entry> {
        let machine = |name: String| Arc::new(samples::machine(&name, &name));
        names.into_iter().map(|name| Entry::sample(machine(name))).collect()
    }

    #[test]
    fn a_replacement_shares_all_other_parts() {
        for count in [1, PART, PART + 1, 10 * PART] {
            let list = MachineList::from_entries(&entries((0..count).map(|n| n.to_string())));
            let at = count - 1;
            let [other] = &entries(["other".to_owned()])[..] else { panic!("one entry") };
            let next = list.with_replaced([(at, other.clone())]);
            assert_eq!((next.len(), next[at].name.as_str()), (count, "other"));
            assert_eq!(list[at].name, at.to_string(), "the earlier list is as it was");
            for (position, (old, new)) in list.iter().zip(next.iter()).enumerate().take(at) {
                assert!(Arc::ptr_eq(old, new), "{position} of {count}");
            }
            let shared = list.parts.iter().zip(next.parts.iter());
            let copied = shared.filter(|(old, new)| !Arc::ptr_eq(old, new)).count();
            assert_eq!(copied, 1, "{count} machines");
        }
    }

    #[test]
    fn a_list_has_its_machines_in_their_order() {
        let names: Vec<String> = (0..3 * PART + 5).map(|n| n.to_string()).collect();
        let list = MachineList::from_entries(&entries(names.clone()));
        assert_eq!(list.len(), names.len());
        assert!(list.iter().map(|machine| &machine.name).eq(&names));
        assert!(names.iter().enumerate().all(|(at, name)| list[at].name == *name));
        assert!(MachineList::default().is_empty());
    }
}
