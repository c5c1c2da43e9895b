//! The snapshots of a machine. Their tree is stored as a flat list, in which parents come before
//! their children.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use super::ids::SnapshotId;
use super::names::{is_name, unescape_vim};
use super::power::PowerState;

/// One snapshot of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub id: SnapshotId,
    /// The name of the snapshot without escapes.
    pub name: String,
    pub description: String,
    pub created_at: Option<Timestamp>,
    /// The power state that the machine has after a revert to this snapshot. It is `Off` for a
    /// snapshot of a running machine that does not include the memory.
    pub power_state: Option<PowerState>,
    pub quiesced: bool,
    pub parent: Option<SnapshotId>,
    pub children: Vec<SnapshotId>,
}

/// The snapshot tree of a machine. In `items`, every parent comes before its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    pub current: Option<SnapshotId>,
    pub items: Vec<Snapshot>,
}

/// Why a caller's reference does not select exactly one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotLookupError {
    NotFound,
    Ambiguous(Vec<SnapshotId>),
}

impl Snapshots {
    /// The snapshot with this id. `None` if the machine has no such snapshot.
    #[must_use]
    pub fn get(&self, id: &SnapshotId) -> Option<&Snapshot> {
        self.items.iter().find(|snapshot| snapshot.id == *id)
    }

    /// The path of each snapshot, in the order of `items`. A path consists of the names from the
    /// root to the snapshot, joined by `/`. In a name, `/` is written `%2F` and `%` is written
    /// `%25`.
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

    /// The path of one snapshot of this tree, which consists of the names from the root to the
    /// snapshot.
    #[must_use]
    pub fn path(&self, snapshot: &Snapshot) -> String {
        let by_id: HashMap<&SnapshotId, &Snapshot> =
            self.items.iter().map(|snapshot| (&snapshot.id, snapshot)).collect();
        let mut segments = vec![path_segment(&snapshot.name)];
        let mut parent = snapshot.parent.as_ref();
        // The number of repetitions is limited, so that the loop ends even if the host reports a
        // cycle. It suffices, because a snapshot has fewer ancestors than the tree has snapshots.
        for _ in 0..self.items.len() {
            let Some(ancestor) = parent.and_then(|parent| by_id.get(parent)) else { break };
            segments.push(path_segment(&ancestor.name));
            parent = ancestor.parent.as_ref();
        }
        segments.reverse();
        segments.join("/")
    }

    /// Finds a snapshot by a caller's reference. The following are tried in this order: its id, its
    /// name as otter shows it, its path as otter shows it, another form of its name (see
    /// [`is_name`]), and a path of other forms of names.
    ///
    /// # Errors
    /// `NotFound` if no snapshot matches. `Ambiguous`, with the ids, if several match.
    pub fn find(&self, reference: &str) -> Result<&Snapshot, SnapshotLookupError> {
        if let Some(snapshot) = self.items.iter().find(|snapshot| snapshot.id == *reference) {
            return Ok(snapshot);
        }
        let is_shown = self.items.iter().any(|snapshot| snapshot.name == reference);
        let at_path = if is_shown { HashSet::new() } else { self.at_path(reference) };
        let mut matching: Vec<&Snapshot> =
            self.items.iter().filter(|found| at_path.contains(&found.id)).collect();
        if matching.is_empty() {
            let is_named = |snapshot: &&Snapshot| is_name(reference, &snapshot.name);
            matching = self.items.iter().filter(is_named).collect();
        }
        if matching.is_empty() {
            let at_path = self.at_path_of_forms(reference);
            matching = self.items.iter().filter(|found| at_path.contains(&found.id)).collect();
        }
        match matching.as_slice() {
            [one] => Ok(one),
            [] => Err(SnapshotLookupError::NotFound),
            several => Err(SnapshotLookupError::Ambiguous(
                several.iter().map(|snapshot| snapshot.id.clone()).collect(),
            )),
        }
    }

    /// The ids of all snapshots below the snapshot `id`, without `id` itself.
    #[must_use]
    pub fn descendants(&self, id: &SnapshotId) -> Vec<SnapshotId> {
        let mut family = HashSet::from([id]);
        let mut below = Vec::new();
        for snapshot in &self.items {
            if snapshot.parent.as_ref().is_some_and(|parent| family.contains(parent))
                && family.insert(&snapshot.id)
            {
                below.push(snapshot.id.clone());
            }
        }
        below
    }

    /// The snapshots whose path, as otter shows it, is this text.
    fn at_path(&self, path: &str) -> HashSet<&SnapshotId> {
        // `%2f` and `%2F` are the same escape, so the text may use either.
        let shown = path.replace("%2f", "%2F");
        self.with_names(&shown, |segment, name| path_segment(name) == segment)
    }

    /// The snapshots for which each segment of this text is a form of the name at its place in the
    /// path.
    fn at_path_of_forms(&self, path: &str) -> HashSet<&SnapshotId> {
        self.with_names(path, |segment, name| is_name(&unescape_vim(segment), name))
    }

    /// The snapshots for which every name on the way from the root fits its segment of the path.
    /// They are found in one pass over the tree. The paths themselves are not built, because all
    /// paths of a deep tree together are long.
    fn with_names(&self, path: &str, fits: impl Fn(&str, &str) -> bool) -> HashSet<&SnapshotId> {
        let segments: Vec<&str> = path.split('/').collect();
        // For each snapshot, how many segments its path has, if all its names fit. `None` if a name
        // does not fit its segment.
        let mut matched: HashMap<&SnapshotId, Option<usize>> =
            HashMap::with_capacity(self.items.len());
        let mut found = HashSet::new();
        for snapshot in &self.items {
            let above = snapshot.parent.as_ref().and_then(|parent| matched.get(parent)).copied();
            let here = above
                .unwrap_or(Some(0))
                .and_then(|above| fits(segments.get(above)?, &snapshot.name).then_some(above + 1));
            if here == Some(segments.len()) {
                found.insert(&snapshot.id);
            }
            matched.insert(&snapshot.id, here);
        }
        found
    }
}

/// One segment of a path: the name of a snapshot, with `%` written as `%25` and `/` as `%2F`.
pub(super) fn path_segment(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(id: usize, name: &str, parent: Option<usize>) -> Snapshot {
        let reference = |id: usize| SnapshotId::from_backend(format!("id-{id}"));
        Snapshot {
            id: reference(id),
            name: name.to_owned(),
            description: String::new(),
            created_at: None,
            power_state: None,
            quiesced: false,
            parent: parent.map(reference),
            children: Vec::new(),
        }
    }

    fn tree(of: &[(&str, Option<usize>)]) -> Snapshots {
        let items =
            of.iter().enumerate().map(|(id, (name, parent))| snapshot(id, name, *parent)).collect();
        Snapshots { current: None, items }
    }

    fn chain(depth: usize) -> Snapshots {
        let items = (0..depth).map(|id| snapshot(id, "again", id.checked_sub(1))).collect();
        Snapshots { current: None, items }
    }

    /// Makes trees with few different names. Some names are hostile: they equal an id, contain
    /// slashes, or look like an escape.
    fn any_tree() -> impl Strategy<Value = Snapshots> {
        let names = vec!["a", "b", "a/b", "%", "%2F", "a%2fb", "a%252Fb", "id-1", ""];
        let name = prop::sample::select(names);
        let item = (name, prop::option::weighted(0.9, any::<prop::sample::Index>()));
        prop::collection::vec(item, 0..24).prop_map(|items| {
            let items = items.into_iter().enumerate().map(|(id, (name, parent))| {
                snapshot(id, name, parent.filter(|_| id > 0).map(|parent| parent.index(id)))
            });
            Snapshots { current: None, items: items.collect() }
        })
    }

    /// Whether `ancestor` is above the snapshot `of`. It goes from parent to parent.
    fn is_below(tree: &Snapshots, of: &Snapshot, ancestor: &SnapshotId) -> bool {
        let Some(parent) = &of.parent else { return false };
        parent == ancestor || is_below(tree, tree.get(parent).unwrap(), ancestor)
    }

    #[test]
    fn it_is_found_by_id_then_name_then_path() {
        let tree = tree(&[
            ("base", None),
            ("updated", Some(0)),
            ("kickstart", Some(1)),
            ("kickstart", Some(0)),
            ("a/b 100%", Some(0)),
            ("id-0", Some(1)),
            ("base/updated", Some(1)),
        ]);
        let found = |reference: &str| tree.find(reference).map(|snapshot| snapshot.id.to_string());
        for (reference, id) in [
            ("id-1", "id-1"),
            ("updated", "id-1"),
            ("base/updated/kickstart", "id-2"),
            ("base/kickstart", "id-3"),
            ("a/b 100%", "id-4"),
            ("base/a%2Fb 100%25", "id-4"),
            ("base/a%2fb 100%25", "id-4"),
            // An id counts before a name, and a name before a path.
            ("id-0", "id-0"),
            ("base/updated", "id-6"),
        ] {
            assert_eq!(found(reference).as_deref(), Ok(id), "{reference}");
        }
        let ids = ["id-2", "id-3"].map(SnapshotId::from_backend).to_vec();
        assert_eq!(found("kickstart"), Err(SnapshotLookupError::Ambiguous(ids)));
        for reference in
            ["Updated", "kick", "updated/kickstart", "/base", "base/", "base/a/b 100%", "id-7", ""]
        {
            assert_eq!(found(reference), Err(SnapshotLookupError::NotFound), "{reference}");
        }
    }

    #[test]
    fn a_name_that_the_host_escapes_twice_is_found_by_each_form() {
        let tree = tree(&[("base", None), ("11%2f13%2f2019", Some(0)), ("top", Some(1))]);
        let found = |reference: &str| tree.find(reference).map(|snapshot| snapshot.id.to_string());
        for (reference, id) in [
            ("11/13/2019", "id-1"),
            ("11%2f13%2f2019", "id-1"),
            ("11%2F13%2F2019", "id-1"),
            ("11%252f13%252f2019", "id-1"),
            ("base/11%2F13%2F2019", "id-1"),
            ("base/11%252f13%252f2019", "id-1"),
            ("base/11%2f13%2f2019/top", "id-2"),
            ("base/11%252f13%252f2019/top", "id-2"),
        ] {
            assert_eq!(found(reference).as_deref(), Ok(id), "{reference}");
        }
        for path in [tree.path(&tree.items[1]), tree.path(&tree.items[2])] {
            assert!(tree.find(&path).is_ok(), "{path}");
        }
        for reference in ["base/11/13/2019", "11/13", "11/13/2019/top"] {
            assert_eq!(found(reference), Err(SnapshotLookupError::NotFound), "{reference}");
        }
    }

    #[test]
    fn forms_of_several_names_are_ambiguous() {
        let both = tree(&[("a/b", None), ("a%2fb", None), ("c", None)]);
        let below_both =
            tree(&[("a", None), ("b", None), ("c", None), ("a/b", Some(2)), ("a%2fb", Some(2))]);
        let found = |tree: &Snapshots, reference: &str| {
            tree.find(reference).map(|snapshot| snapshot.id.to_string())
        };
        let ids = |ids: [&str; 2]| {
            Err(SnapshotLookupError::Ambiguous(ids.map(SnapshotId::from_backend).to_vec()))
        };
        for reference in ["a/b", "a%2fb"] {
            assert_eq!(found(&both, reference), ids(["id-0", "id-1"]), "{reference}");
        }
        assert_eq!(found(&both, "a%2Fb").as_deref(), Ok("id-0"), "its shown path");
        assert_eq!(found(&both, "a%252fb").as_deref(), Ok("id-1"), "only one has this form");
        for snapshot in &below_both.items[3..] {
            let path = below_both.path(snapshot);
            assert_eq!(found(&below_both, &path), Ok(snapshot.id.to_string()), "the shown {path}");
        }
        assert_eq!(found(&below_both, "c/a%252Fb"), ids(["id-3", "id-4"]), "no shown path");
        let beside_a_path = tree(&[("a", None), ("b", Some(0)), ("a%2fb", None)]);
        assert_eq!(found(&beside_a_path, "a/b").as_deref(), Ok("id-1"), "a path before a form");
        let shown = tree(&[("a", None), ("b", Some(0)), ("a/b", None)]);
        assert_eq!(found(&shown, "a/b").as_deref(), Ok("id-2"), "a shown name goes before a path");
    }

    #[test]
    fn a_parent_that_is_not_there_or_loops_does_no_harm() {
        let lost = tree(&[("a", Some(9)), ("b", Some(0))]);
        assert_eq!(lost.paths(), ["a", "a/b"]);
        assert_eq!(lost.find("a/b").unwrap().id.backend_text(), "id-1");
        let looping = tree(&[("a", Some(1)), ("b", Some(0))]);
        assert_eq!(looping.path(&looping.items[1]).matches('/').count(), 2);
        assert_eq!(
            looping.descendants(&SnapshotId::from_backend("id-0")),
            [SnapshotId::from_backend("id-1")]
        );
    }

    #[test]
    fn a_deep_tree_is_no_trouble() {
        let deep = chain(2_000);
        let last = deep.items.last().unwrap();
        let path = deep.path(last);
        for _ in 0..20 {
            assert_eq!(deep.find(&path), Ok(last));
            assert_eq!(deep.find("again/never"), Err(SnapshotLookupError::NotFound));
            assert_eq!(deep.descendants(&deep.items[0].id).len(), 1_999);
        }
        assert_eq!(deep.paths().last(), Some(&path));
    }

    proptest! {
        #[test]
        fn the_paths_are_those_of_each(tree in any_tree()) {
            let each: Vec<String> = tree.items.iter().map(|snapshot| tree.path(snapshot)).collect();
            prop_assert_eq!(tree.paths(), each);
        }

        #[test]
        fn a_path_leads_back_to_whatever_has_it(tree in any_tree()) {
            let paths = tree.paths();
            for path in &paths {
                let ids = |matching: &dyn Fn(usize) -> bool| {
                    let places = (0..tree.items.len()).filter(|place| matching(*place));
                    places.map(|place| tree.items[place].id.clone()).collect::<Vec<_>>()
                };
                let by_id = ids(&|place| tree.items[place].id.backend_text() == path);
                let is_shown = tree.items.iter().any(|snapshot| snapshot.name == *path);
                let by_path = ids(&|place| !is_shown && paths[place] == *path);
                let by_name = ids(&|place| is_name(path, &tree.items[place].name));
                let first = [by_id, by_path, by_name].into_iter().find(|ids| !ids.is_empty());
                let matching = first.unwrap_or_default();
                match tree.find(path) {
                    Ok(snapshot) => prop_assert_eq!(vec![snapshot.id.clone()], matching),
                    Err(SnapshotLookupError::Ambiguous(ids)) => {
                        prop_assert!(ids.len() > 1);
                        prop_assert_eq!(ids, matching);
                    }
                    Err(SnapshotLookupError::NotFound) => prop_assert!(false, "no {path}"),
                }
            }
        }

        #[test]
        fn an_id_goes_before_all_else(tree in any_tree()) {
            for snapshot in &tree.items {
                prop_assert_eq!(tree.find(snapshot.id.backend_text()), Ok(snapshot));
            }
        }

        #[test]
        fn descendants_are_all_that_have_it_above(tree in any_tree()) {
            for snapshot in &tree.items {
                let below = tree.items.iter().filter(|other| is_below(&tree, other, &snapshot.id));
                let below: Vec<SnapshotId> = below.map(|other| other.id.clone()).collect();
                prop_assert_eq!(tree.descendants(&snapshot.id), below);
            }
        }

        #[test]
        fn no_text_is_too_much(tree in any_tree(), reference in "\\PC{0,8}|(a|b|/|%|2F|2f){0,6}") {
            let _ = tree.find(&reference);
        }
    }
}
