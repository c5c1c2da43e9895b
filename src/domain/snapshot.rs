//! A machine's snapshots: the whole tree as a flat list, parents before children, however deep.

use std::collections::HashMap;

use jiff::Timestamp;

use super::ids::SnapshotId;
use super::machine::PowerState;

/// One snapshot of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    /// Unescaped.
    pub name: String,
    pub description: String,
    pub created_at: Option<Timestamp>,
    /// What the machine will be after a revert; a snapshot without memory of a running machine says off.
    pub power_state: Option<PowerState>,
    pub quiesced: bool,
    pub parent: Option<SnapshotId>,
    pub children: Vec<SnapshotId>,
}

/// The whole tree of a machine: `items` has every parent before its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    pub current: Option<SnapshotId>,
    pub items: Vec<Snapshot>,
}

/// Why a name of a snapshot leads to no single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotLookupError {
    NotFound,
    Ambiguous(Vec<SnapshotId>),
}

impl Snapshots {
    /// The snapshot of this id.
    #[must_use]
    pub fn get(&self, id: &SnapshotId) -> Option<&Snapshot> {
        self.items.iter().find(|snapshot| snapshot.id == *id)
    }

    /// The path of each snapshot in the order of `items`: the names from the root on, joined by `/`, where a
    /// `/` of a name is `%2F` and a `%` is `%25`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut by_id: HashMap<&SnapshotId, usize> = HashMap::with_capacity(self.items.len());
        let mut paths: Vec<String> = Vec::with_capacity(self.items.len());
        for (index, snapshot) in self.items.iter().enumerate() {
            let segment = path_segment(&snapshot.name);
            let parent = snapshot.parent.as_ref().and_then(|parent| by_id.get(parent));
            paths.push(match parent {
                Some(parent) => format!("{}/{segment}", paths[*parent]),
                None => segment,
            });
            by_id.insert(&snapshot.id, index);
        }
        paths
    }

    /// The path of one snapshot of this tree.
    #[must_use]
    pub fn path(&self, of: &Snapshot) -> String {
        let mut segments = vec![path_segment(&of.name)];
        let mut parent = of.parent.as_ref();
        // A tree has no more ancestors than snapshots; a host that says otherwise must not hang us.
        for _ in 0..self.items.len() {
            let Some(ancestor) = parent.and_then(|parent| self.get(parent)) else { break };
            segments.push(path_segment(&ancestor.name));
            parent = ancestor.parent.as_ref();
        }
        segments.reverse();
        segments.join("/")
    }

    /// Finds a snapshot by its id, else its exact name, else its path.
    ///
    /// # Errors
    /// `Ambiguous` with all that match where several do, `NotFound` where none does.
    pub fn find(&self, wanted: &str) -> Result<&Snapshot, SnapshotLookupError> {
        if let Some(snapshot) = self.items.iter().find(|snapshot| snapshot.id.as_str() == wanted) {
            return Ok(snapshot);
        }
        let named: Vec<&Snapshot> = self.items.iter().filter(|snapshot| snapshot.name == wanted).collect();
        match named.as_slice() {
            [one] => return Ok(one),
            [] => {}
            several => {
                return Err(SnapshotLookupError::Ambiguous(
                    several.iter().map(|snapshot| snapshot.id.clone()).collect(),
                ));
            }
        }
        let at_path: Vec<&Snapshot> = self
            .paths()
            .iter()
            .zip(&self.items)
            .filter(|(path, _)| path_matches(path, wanted))
            .map(|(_, snapshot)| snapshot)
            .collect();
        match at_path.as_slice() {
            [one] => Ok(one),
            [] => Err(SnapshotLookupError::NotFound),
            several => Err(SnapshotLookupError::Ambiguous(
                several.iter().map(|snapshot| snapshot.id.clone()).collect(),
            )),
        }
    }

    /// Every snapshot below `id`, not itself.
    #[must_use]
    pub fn descendants(&self, id: &SnapshotId) -> Vec<SnapshotId> {
        let mut below: Vec<SnapshotId> = Vec::new();
        for snapshot in &self.items {
            if let Some(parent) = &snapshot.parent
                && (parent == id || below.contains(parent))
            {
                below.push(snapshot.id.clone());
            }
        }
        below
    }
}

fn path_segment(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

/// `%2f` and `%2F` are the same escape.
fn path_matches(path: &str, wanted: &str) -> bool {
    path == wanted || path == wanted.replace("%2f", "%2F")
}
