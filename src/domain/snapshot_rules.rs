//! The rules for changes of a machine's snapshots: which caller may make which change. The rules
//! are pure functions of one snapshot tree.
//!
//! | caller | protected snapshot | other snapshot |
//! | --- | --- | --- |
//! | runner | no change, no creation | those of its own lease; all if so configured |
//! | operator without an override | creation only | any change |
//! | operator with an override, otter itself | any change | any change |
//!
//! The rules apply to every snapshot that a change removes, and to every snapshot whose path it
//! changes.

use std::collections::{BTreeSet, HashMap};

use super::access::Authority;
use super::call::Evidence;
use super::ids::{LeaseId, SnapshotId};
use super::job::JobRequest;
use super::names::{matches_path_pattern, matches_pattern};
use super::snapshot::{Snapshots, path_segment};

/// The rules for the snapshots of one machine, and which of the snapshots were made under the job's
/// lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotRules {
    /// Patterns of names and of paths that protect snapshots. They come from the configuration of
    /// otter and of the machine's pools.
    pub protected: Vec<String>,
    /// The setting `snapshots.runners_may_remove`: whether a runner may also change snapshots that
    /// were not made under its lease.
    pub runners_may_remove: bool,
    /// The snapshots that were created under the lease of the job that wants the change.
    pub made_under_lease: BTreeSet<SnapshotId>,
}

/// A change of the snapshot tree of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotChange<'a> {
    /// Creates a snapshot below the machine's current snapshot.
    Create {
        name: &'a str,
    },
    /// Changes the name or the description of a snapshot, or both.
    Rename {
        snapshot: &'a SnapshotId,
        name: Option<&'a str>,
    },
    /// Removes a snapshot. If `children` is set, all snapshots below it are removed too. Otherwise
    /// its children move up to its parent.
    Remove {
        snapshot: &'a SnapshotId,
        children: bool,
    },
    RemoveAll,
}

/// The snapshots of a machine at one moment. Every parent comes before its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTree {
    nodes: Vec<Node>,
    current: Option<SnapshotId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    id: SnapshotId,
    parent: Option<SnapshotId>,
    name: String,
}

/// Why a change is refused, and the snapshot that prevents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The path of the snapshot that prevents the change. For a new snapshot, the path that it
    /// would get.
    pub path: String,
    pub reason: RefusalReason,
}

/// Why a snapshot prevents a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The pattern protects the snapshot.
    Protected { pattern: String },
    /// The pattern protects the snapshot now, but the change would give it a path that the pattern
    /// does not protect.
    LosesProtection { pattern: String },
    /// The pattern would protect the name or the path that the snapshot would get, and only
    /// operators may make protected snapshots.
    BecomesProtected { pattern: String },
    /// The caller is a runner, and the snapshot was not created under the caller's lease.
    NotOwn,
}

impl<'a> SnapshotChange<'a> {
    /// The change that a job makes. `None` if the job changes no snapshot tree.
    #[must_use]
    pub fn from_request(request: &'a JobRequest) -> Option<Self> {
        match request {
            JobRequest::CreateSnapshot { name, .. } => Some(Self::Create { name }),
            JobRequest::RenameSnapshot { snapshot, name, .. } => {
                Some(Self::Rename { snapshot, name: name.as_deref() })
            }
            JobRequest::RemoveSnapshot { snapshot, children, .. } => {
                Some(Self::Remove { snapshot, children: *children })
            }
            JobRequest::RemoveAllSnapshots => Some(Self::RemoveAll),
            _ => None,
        }
    }

    /// The verb for this change, for use in a sentence.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Rename { .. } => "rename or describe",
            Self::Remove { .. } | Self::RemoveAll => "remove",
        }
    }
}

impl SnapshotTree {
    /// The snapshot tree that the inventory has.
    #[must_use]
    pub fn from_inventory(snapshots: &Snapshots) -> Self {
        let nodes = snapshots.items.iter().map(|snapshot| Node {
            id: snapshot.id.clone(),
            parent: snapshot.parent.clone(),
            name: snapshot.name.clone(),
        });
        Self { nodes: nodes.collect(), current: snapshots.current.clone() }
    }

    /// The snapshot tree that evidence has, which was read directly from the host.
    #[must_use]
    pub fn from_evidence(evidence: &Evidence) -> Self {
        let nodes = evidence.snapshots.iter().map(|snapshot| Node {
            id: snapshot.id.clone(),
            parent: snapshot.parent.clone(),
            name: snapshot.name.clone(),
        });
        Self { nodes: nodes.collect(), current: evidence.current_snapshot.clone() }
    }

    fn position(&self, id: &SnapshotId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == *id)
    }

    /// For each snapshot of the tree, whether it is below `root`. The snapshot `root` itself is
    /// not.
    fn below(&self, root: &SnapshotId) -> Vec<bool> {
        let mut family = BTreeSet::from([root]);
        let mut below = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let is_below = node.parent.as_ref().is_some_and(|parent| family.contains(parent));
            if is_below {
                family.insert(&node.id);
            }
            below.push(is_below && node.id != *root);
        }
        below
    }

    fn paths(&self) -> Vec<String> {
        let mut positions: HashMap<&SnapshotId, usize> = HashMap::with_capacity(self.nodes.len());
        let mut paths: Vec<String> = Vec::with_capacity(self.nodes.len());
        for (position, node) in self.nodes.iter().enumerate() {
            let parent = node.parent.as_ref().and_then(|parent| positions.get(parent));
            let segment = path_segment(&node.name);
            paths.push(match parent {
                Some(parent) => format!("{}/{segment}", paths[*parent]),
                None => segment,
            });
            positions.insert(&node.id, position);
        }
        paths
    }

    /// The tree as it would be after the snapshot at this position was renamed.
    fn renamed(&self, position: usize, name: &str) -> Self {
        let mut renamed = self.clone();
        name.clone_into(&mut renamed.nodes[position].name);
        renamed
    }

    /// The tree as it would be after one snapshot was removed and its children moved up. The
    /// removed snapshot stays in the list as a leaf, so that the positions of the others do not
    /// change.
    fn without(&self, position: usize) -> Self {
        let mut left = self.clone();
        let Node { id, parent, .. } = self.nodes[position].clone();
        for node in left.nodes.iter_mut().filter(|node| node.parent.as_ref() == Some(&id)) {
            node.parent.clone_from(&parent);
        }
        left
    }
}

impl SnapshotRules {
    /// Checks whether a change is allowed.
    ///
    /// # Errors
    /// The first snapshot that the change must not affect, and why it must not.
    pub fn check(
        &self,
        authority: Authority,
        change: SnapshotChange<'_>,
        tree: &SnapshotTree,
    ) -> Result<(), Refusal> {
        match authority {
            Authority::System | Authority::Override => return Ok(()),
            Authority::Runner | Authority::Operator => {}
        }
        let paths = tree.paths();
        match change {
            SnapshotChange::Create { name } => self.check_create(authority, name, tree, &paths),
            SnapshotChange::RemoveAll => (0..tree.nodes.len())
                .try_for_each(|at| self.check_covered(authority, tree, &paths, at)),
            SnapshotChange::Remove { snapshot, children } => {
                let Some(target) = tree.position(snapshot) else { return Ok(()) };
                self.check_covered(authority, tree, &paths, target)?;
                if !children {
                    return self.check_moved(authority, tree, &tree.without(target), target);
                }
                let below = tree.below(snapshot);
                let covered = (0..tree.nodes.len()).filter(|at| below[*at]);
                covered
                    .into_iter()
                    .try_for_each(|at| self.check_covered(authority, tree, &paths, at))
            }
            SnapshotChange::Rename { snapshot, name } => {
                let Some(target) = tree.position(snapshot) else { return Ok(()) };
                self.check_covered(authority, tree, &paths, target)?;
                let Some(name) = name else { return Ok(()) };
                let renamed = tree.renamed(target, name);
                if authority == Authority::Runner {
                    let path = renamed.paths().swap_remove(target);
                    self.check_new(name, path)?;
                }
                self.check_moved(authority, tree, &renamed, target)
            }
        }
    }

    fn check_create(
        &self,
        authority: Authority,
        name: &str,
        tree: &SnapshotTree,
        paths: &[String],
    ) -> Result<(), Refusal> {
        if authority != Authority::Runner {
            return Ok(());
        }
        let parent = tree.current.as_ref().and_then(|current| tree.position(current));
        let segment = path_segment(name);
        let path =
            parent.map_or_else(|| segment.clone(), |parent| format!("{}/{segment}", paths[parent]));
        self.check_new(name, path)
    }

    /// Refuses a new name or path that a pattern protects. Only operators may use such names.
    fn check_new(&self, name: &str, path: String) -> Result<(), Refusal> {
        match self.protecting(name, &path) {
            Some(pattern) => Err(Refusal {
                path,
                reason: RefusalReason::BecomesProtected { pattern: pattern.to_owned() },
            }),
            None => Ok(()),
        }
    }

    /// Checks one snapshot that a change removes, renames or describes. The change is refused if
    /// the snapshot is protected, or if the caller is a runner and the snapshot is not of its
    /// lease.
    fn check_covered(
        &self,
        authority: Authority,
        tree: &SnapshotTree,
        paths: &[String],
        at: usize,
    ) -> Result<(), Refusal> {
        let (node, path) = (&tree.nodes[at], &paths[at]);
        let refused = |reason| Err(Refusal { path: path.clone(), reason });
        if let Some(pattern) = self.protecting(&node.name, path) {
            return refused(RefusalReason::Protected { pattern: pattern.to_owned() });
        }
        if authority == Authority::Runner
            && !self.runners_may_remove
            && !self.made_under_lease.contains(&node.id)
        {
            return refused(RefusalReason::NotOwn);
        }
        Ok(())
    }

    /// Checks the snapshots below the target, whose paths change. Refuses the change if one of them
    /// loses its protection, and refuses a runner's change also if one of them becomes protected.
    fn check_moved(
        &self,
        authority: Authority,
        before: &SnapshotTree,
        after: &SnapshotTree,
        target: usize,
    ) -> Result<(), Refusal> {
        let (old_paths, new_paths) = (before.paths(), after.paths());
        let below = before.below(&before.nodes[target].id);
        for at in (0..before.nodes.len()).filter(|at| below[*at]) {
            let name = &before.nodes[at].name;
            let (old, new) =
                (self.protecting(name, &old_paths[at]), self.protecting(name, &new_paths[at]));
            let reason = match (old, new) {
                (Some(pattern), None) => {
                    RefusalReason::LosesProtection { pattern: pattern.to_owned() }
                }
                (None, Some(pattern)) if authority == Authority::Runner => {
                    RefusalReason::BecomesProtected { pattern: pattern.to_owned() }
                }
                _ => continue,
            };
            return Err(Refusal { path: old_paths[at].clone(), reason });
        }
        Ok(())
    }

    /// The pattern that protects a snapshot by its name or by its path. Every form of the name
    /// counts. `None` if no pattern matches.
    fn protecting(&self, name: &str, path: &str) -> Option<&str> {
        let protects = |pattern: &&String| {
            matches_pattern(pattern, name) || matches_path_pattern(pattern, path)
        };
        self.protected.iter().find(protects).map(String::as_str)
    }
}

impl Refusal {
    /// The text that tells the caller why the change is refused.
    ///
    /// # Parameters
    /// - `machine`: the name of the machine.
    /// - `lease`: the lease that the caller named in the header `Otter-Lease`, if any.
    #[must_use]
    pub fn detail(
        &self,
        change: SnapshotChange<'_>,
        authority: Authority,
        machine: &str,
        lease: Option<LeaseId>,
    ) -> String {
        let Self { path, reason } = self;
        let verb = change.verb();
        let way_out = match authority {
            Authority::Runner => "Only an operator may do this",
            _ => "To do it anyway, send a reason: Otter-Override: <reason>",
        };
        match reason {
            RefusalReason::Protected { pattern } => format!(
                "The pattern {pattern:?} protects the snapshot {path} of {machine}, so this call \
                 may not {verb} it. Nothing was done. {way_out}."
            ),
            RefusalReason::LosesProtection { pattern } => format!(
                "The pattern {pattern:?} protects the snapshot {path} of {machine}, and this call \
                 would move it to a path that the pattern does not protect. Nothing was done. \
                 {way_out}."
            ),
            RefusalReason::BecomesProtected { pattern } => format!(
                "The pattern {pattern:?} would protect the snapshot {path} of {machine}, and a \
                 runner may not create a protected snapshot. Nothing was done. Choose another name."
            ),
            RefusalReason::NotOwn => {
                let lease = lease
                    .map_or_else(|| "your lease".to_owned(), |lease| format!("the lease {lease}"));
                format!(
                    "The snapshot {path} of {machine} was not created under {lease}, so a runner \
                     may not {verb} it. Nothing was done. An operator may do this, or set \
                     snapshots.runners_may_remove."
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(nodes: &[(&str, Option<usize>)]) -> SnapshotTree {
        let id = |number: usize| SnapshotId::from_backend(format!("id-{number}"));
        let node = |(number, (name, parent)): (usize, &(&str, Option<usize>))| Node {
            id: id(number),
            parent: parent.map(id),
            name: (*name).to_owned(),
        };
        SnapshotTree { nodes: nodes.iter().enumerate().map(node).collect(), current: None }
    }

    fn lab() -> SnapshotTree {
        let mut tree = tree(&[
            ("installed", None),
            ("updated", Some(0)),
            ("kickstart", Some(1)),
            ("work", Some(2)),
            ("more/work", Some(3)),
            ("elsewhere", None),
        ]);
        tree.current = Some(SnapshotId::from_backend("id-4"));
        tree
    }

    fn rules(protected: &[&str], made: &[usize]) -> SnapshotRules {
        SnapshotRules {
            protected: protected.iter().map(|pattern| (*pattern).to_owned()).collect(),
            runners_may_remove: false,
            made_under_lease: made
                .iter()
                .map(|number| SnapshotId::from_backend(format!("id-{number}")))
                .collect(),
        }
    }

    fn named(result: Result<(), Refusal>) -> Option<String> {
        result.err().map(|refusal| refusal.path)
    }

    #[test]
    fn patterns_match_names_and_escaped_paths() {
        let rules = rules(&["kick*", "installed/*/w?rk", "a%2fb"], &[]);
        for (name, path, protected) in [
            ("kickstart", "x/kickstart", true),
            ("work", "installed/updated/work", true),
            ("work", "work", false),
            ("a/b", "a%2Fb", true),
            ("b", "a/b", false),
            ("a%2fb", "a%252fb", true),
            ("w%2frk", "installed/updated/w%252frk", false),
            ("w%2frk", "w%252frk", false),
        ] {
            assert_eq!(rules.protecting(name, path).is_some(), protected, "{path}");
        }
    }

    #[test]
    fn an_override_and_otter_itself_are_never_refused() {
        let id = SnapshotId::from_backend("id-2");
        for authority in [Authority::Override, Authority::System] {
            for change in [
                SnapshotChange::RemoveAll,
                SnapshotChange::Remove { snapshot: &id, children: true },
                SnapshotChange::Rename { snapshot: &id, name: Some("x") },
                SnapshotChange::Create { name: "kickstart" },
            ] {
                assert_eq!(rules(&["*"], &[]).check(authority, change, &lab()), Ok(()));
            }
        }
    }

    #[test]
    fn a_runner_changes_unprotected_snapshots_of_its_lease() {
        let lab = lab();
        let remove = |number: usize, children, rules: &SnapshotRules| {
            let id = SnapshotId::from_backend(format!("id-{number}"));
            let change = SnapshotChange::Remove { snapshot: &id, children };
            named(rules.check(Authority::Runner, change, &lab))
        };
        let own = rules(&["kickstart"], &[3, 4]);
        assert_eq!(remove(3, true, &own), None);
        assert_eq!(remove(3, false, &own), None);
        assert_eq!(remove(2, false, &own).as_deref(), Some("installed/updated/kickstart"));
        assert_eq!(remove(5, false, &own).as_deref(), Some("elsewhere"));
        let partly = rules(&[], &[3]);
        let below = "installed/updated/kickstart/work/more%2Fwork";
        assert_eq!(remove(3, true, &partly).as_deref(), Some(below));
        let liberal = SnapshotRules { runners_may_remove: true, ..rules(&["kickstart"], &[]) };
        assert_eq!(remove(5, false, &liberal), None);
        assert_eq!(remove(0, true, &liberal).as_deref(), Some("installed/updated/kickstart"));
        let all = |rules: &SnapshotRules| {
            named(rules.check(Authority::Runner, SnapshotChange::RemoveAll, &lab))
        };
        assert_eq!(all(&own).as_deref(), Some("installed"));
        assert_eq!(all(&liberal).as_deref(), Some("installed/updated/kickstart"));
        assert_eq!(all(&rules(&[], &[0, 1, 2, 3, 4, 5])), None);
    }

    #[test]
    fn a_snapshot_does_not_lose_its_protection_by_a_change_above_it() {
        let (lab, top) = (lab(), SnapshotId::from_backend("id-0"));
        let rules = rules(&["installed/*/kickstart"], &[0]);
        let kickstart = Some("installed/updated/kickstart".to_owned());
        for authority in [Authority::Runner, Authority::Operator] {
            let removed = SnapshotChange::Remove { snapshot: &top, children: false };
            assert_eq!(named(rules.check(authority, removed, &lab)), kickstart);
            let renamed = SnapshotChange::Rename { snapshot: &top, name: Some("x") };
            assert_eq!(named(rules.check(authority, renamed, &lab)), kickstart);
            let described = SnapshotChange::Rename { snapshot: &top, name: None };
            assert_eq!(named(rules.check(authority, described, &lab)), None);
        }
    }

    #[test]
    fn only_operators_create_protected_names_and_paths() {
        let (lab, work) = (lab(), SnapshotId::from_backend("id-3"));
        let rules = rules(&["base", "*/work/more%2Fwork/sub", "*/free/more*"], &[3]);
        let create =
            |authority, name| named(rules.check(authority, SnapshotChange::Create { name }, &lab));
        let below = "installed/updated/kickstart/work/more%2Fwork";
        assert_eq!(create(Authority::Runner, "base"), Some(format!("{below}/base")));
        assert_eq!(create(Authority::Runner, "sub"), Some(format!("{below}/sub")));
        assert_eq!(create(Authority::Runner, "mine"), None);
        assert_eq!(create(Authority::Operator, "base"), None);
        let rename = |authority, name| {
            let change = SnapshotChange::Rename { snapshot: &work, name: Some(name) };
            named(rules.check(authority, change, &lab))
        };
        assert_eq!(
            rename(Authority::Runner, "base").as_deref(),
            Some("installed/updated/kickstart/base")
        );
        assert_eq!(rename(Authority::Runner, "free"), Some(below.to_owned()), "a path below it");
        assert_eq!(rename(Authority::Runner, "mine"), None);
        assert_eq!(rename(Authority::Operator, "base"), None);
    }
}
