//! A machine's tree of snapshots: what a removal leaves, and that children agree with their parents.

use std::collections::BTreeMap;

use otter::domain::ids::SnapshotId;
use otter::domain::machine::Machine;

/// Takes a snapshot away. Its children go too, or move up to its parent, as does what was current.
pub fn remove_snapshot(machine: &mut Machine, id: &SnapshotId, with_children: bool) {
    let snapshots = &mut machine.snapshots;
    let Some(parent) = snapshots.get(id).map(|snapshot| snapshot.parent.clone()) else { return };
    let mut gone = vec![id.clone()];
    if with_children {
        gone.extend(snapshots.descendants(id));
    }
    snapshots.items.retain(|snapshot| !gone.contains(&snapshot.id));
    for snapshot in &mut snapshots.items {
        if snapshot.parent.as_ref() == Some(id) {
            snapshot.parent.clone_from(&parent);
        }
    }
    if snapshots.current.as_ref().is_some_and(|current| gone.contains(current)) {
        snapshots.current = parent;
    }
}

/// Makes the children of snapshots agree with their parents.
pub fn relink(machine: &mut Machine) {
    let mut children: BTreeMap<SnapshotId, Vec<SnapshotId>> = BTreeMap::new();
    for snapshot in &machine.snapshots.items {
        if let Some(parent) = &snapshot.parent {
            children.entry(parent.clone()).or_default().push(snapshot.id.clone());
        }
    }
    for snapshot in &mut machine.snapshots.items {
        snapshot.children = children.remove(&snapshot.id).unwrap_or_default();
    }
}
