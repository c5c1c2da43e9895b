//! An ordered map whose clones share their entries. Cloning a map copies one pointer. Changing an
//! entry copies only the chunk of the entry and the list of chunks, which is about the square root
//! of the number of entries. So every version of the lease table can be published as a map of its
//! own.

use std::sync::Arc;

/// The largest number of entries in a chunk.
const MAX_CHUNK: usize = 128;

/// An ordered map that is cheap to clone.
#[derive(Clone, Debug)]
pub struct PersistentMap<K, V> {
    /// The chunks, which contain the entries in the order of their keys. No chunk is empty.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

/// A part of the entries, in the order of their keys.
type Chunk<K, V> = Arc<Vec<(K, V)>>;

impl<K, V> Default for PersistentMap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> PersistentMap<K, V> {
    /// The number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the map has no entries.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        let index = chunk.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        Some(&chunk[index].1)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        // If the key is greater than all keys of the map, it belongs to the last chunk.
        let at = self.chunk_of(&key).min(self.chunks.len().saturating_sub(1));
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(at) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return;
        };
        let entries = Arc::make_mut(chunk);
        match entries.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(index) => entries[index].1 = value,
            Err(index) => {
                entries.insert(index, (key, value));
                self.len += 1;
                if entries.len() > MAX_CHUNK {
                    // If the new key is the last one, only this key goes into the new chunk. So all
                    // chunks but the last stay full if keys are added in ascending order.
                    let is_last = index + 1 == entries.len();
                    let middle = if is_last { index } else { entries.len() / 2 };
                    let rest = entries.split_off(middle);
                    chunks.insert(at + 1, Arc::new(rest));
                }
            }
        }
    }

    /// Removes a key. Returns its value, or `None` if the map does not have the key.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.chunk_of(key);
        let found = self.chunks.get(at)?;
        let index = found.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let (_, value) = Arc::make_mut(&mut chunks[at]).remove(index);
        self.len -= 1;
        let (left, next) = (chunks[at].len(), chunks.get(at + 1).map(|next| next.len()));
        if left == 0 {
            chunks.remove(at);
        } else if next.is_some_and(|next| left + next <= MAX_CHUNK / 2) {
            // Join two small chunks, because removals would otherwise leave many chunks with few
            // entries.
            let next = chunks.remove(at + 1);
            Arc::make_mut(&mut chunks[at]).extend(next.iter().cloned());
        }
        Some(value)
    }

    /// The number of keys in the map that are less than this one.
    #[must_use]
    pub fn rank(&self, key: &K) -> usize {
        let at = self.chunk_of(key);
        let before: usize = self.chunks[..at].iter().map(|chunk| chunk.len()).sum();
        let inside =
            self.chunks.get(at).map(|chunk| chunk.partition_point(|(other, _)| other < key));
        before + inside.unwrap_or_default()
    }

    /// The entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// The entries whose keys are this key or greater, in the order of their keys.
    pub fn range_from<'m>(
        &'m self,
        key: &K,
    ) -> impl Iterator<Item = (&'m K, &'m V)> + use<'m, K, V> {
        let at = self.chunk_of(key);
        let skipped =
            self.chunks.get(at).map(|chunk| chunk.partition_point(|(other, _)| other < key));
        let chunks = self.chunks[at..].iter().flat_map(|chunk| chunk.iter());
        chunks.skip(skipped.unwrap_or_default()).map(|(key, value)| (key, value))
    }

    /// The keys in ascending order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The index of the first chunk whose last key is this key or greater.
    fn chunk_of(&self, key: &K) -> usize {
        self.chunks.partition_point(|chunk| chunk.last().is_some_and(|(last, _)| last < key))
    }
}

#[cfg(test)]
impl<K: Ord + Clone, V: Clone> PersistentMap<K, V> {
    /// The number of entries that were copied since the version `before` of the map, and are thus
    /// not shared with it.
    pub fn copied_since(&self, before: &Self) -> usize {
        let is_shared =
            |chunk: &&Arc<Vec<(K, V)>>| before.chunks.iter().any(|other| Arc::ptr_eq(chunk, other));
        self.chunks.iter().filter(|chunk| !is_shared(chunk)).map(|chunk| chunk.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn it_has_the_entries_of_an_ordinary_map_and_its_clones_keep_theirs(
            changes in proptest::collection::vec((any::<bool>(), 0..700_u32), 1..2_000)
        ) {
            let (mut map, mut model) = (PersistentMap::default(), BTreeMap::new());
            let mut earlier = Vec::new();
            for (step, (adds, key)) in changes.into_iter().enumerate() {
                if step % 97 == 0 {
                    earlier.push((map.clone(), model.clone()));
                }
                // The test adds more keys than it removes, so that chunks are both divided and
                // joined.
                if adds || step % 3 == 0 {
                    map.insert(key, step);
                    model.insert(key, step);
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert_eq!(map.rank(&key), model.range(..key).count());
            }
            earlier.push((map, model));
            for (map, model) in earlier {
                prop_assert!(map.iter().eq(model.iter()));
                prop_assert_eq!(map.len(), model.len());
                for from in [0, 100, 350, 699, 1_000] {
                    prop_assert!(map.range_from(&from).eq(model.range(from..)));
                }
                prop_assert!(map.chunks.iter().all(|chunk| !chunk.is_empty()));
            }
        }
    }

    #[test]
    fn a_change_copies_one_chunk() {
        let mut map = PersistentMap::default();
        for key in 0..10_000 {
            map.insert(key, ());
        }
        assert_eq!(map.chunks.len(), 10_000_usize.div_ceil(MAX_CHUNK));
        for key in [0, 5_000, 9_999] {
            let mut changed = map.clone();
            assert_eq!(changed.copied_since(&map), 0);
            changed.remove(&key);
            assert!(changed.copied_since(&map) < MAX_CHUNK, "{key}");
        }
    }
}
