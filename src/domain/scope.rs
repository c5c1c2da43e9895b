//! The scope of a caller: the machines that the caller can see and act on. Other machines do not
//! exist for the caller.

use super::names::matches_pattern;

/// A set of machines: all of them, or selected ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    #[default]
    All,
    /// The machines whose name matches one of the patterns in `machines`, and the machines in one
    /// of the `pools`.
    Selected { machines: Vec<String>, pools: Vec<String> },
}

impl Scope {
    /// Makes a scope from patterns of names and from pools. If both lists are empty, the scope
    /// contains all machines.
    #[must_use]
    pub fn new(machines: Vec<String>, pools: Vec<String>) -> Self {
        if machines.is_empty() && pools.is_empty() {
            return Self::All;
        }
        Self::Selected { machines, pools }
    }

    /// Whether the scope is limited to selected machines.
    #[must_use]
    pub const fn is_restricted(&self) -> bool {
        matches!(self, Self::Selected { .. })
    }

    /// Whether the scope contains a machine that has this name and is in these pools.
    #[must_use]
    pub fn contains(&self, name: &str, pools: &[String]) -> bool {
        match self {
            Self::All => true,
            Self::Selected { machines, pools: selected } => {
                machines.iter().any(|pattern| matches_pattern(pattern, name))
                    || pools.iter().any(|pool| selected.contains(pool))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_the_union_of_its_patterns_and_its_pools() {
        let texts =
            |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(Scope::new(vec![], vec![]), Scope::All);
        assert!(Scope::All.contains("anything", &[]) && !Scope::All.is_restricted());
        let scope = Scope::new(texts(&["qubes-*"]), texts(&["nightly"]));
        assert!(scope.is_restricted());
        assert!(scope.contains("qubes-4.2", &[]));
        assert!(scope.contains("windows", &texts(&["ci", "nightly"])));
        assert!(!scope.contains("windows", &texts(&["ci"])));
        assert!(!scope.contains("my qubes-4.2", &[]));
        assert!(!Scope::new(vec![], texts(&["nightly"])).contains("nightly", &[]));
    }
}
