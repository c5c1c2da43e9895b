//! A datastore of the host.

use super::ids::DatastoreId;

/// One datastore as of the host's last word; hosts refresh the free space seldom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datastore {
    pub id: DatastoreId,
    pub name: String,
    /// The host's own word: `VMFS`, `NFS`, `vsan`, …
    pub kind: String,
    pub capacity_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    pub uncommitted_bytes: Option<u64>,
    pub accessible: bool,
    pub url: Option<String>,
    /// How many machines have files on it.
    pub machine_count: u32,
}

impl Datastore {
    /// Whether nothing differs, except perhaps the number of machines.
    #[must_use]
    pub fn is_same_except_count(&self, other: &Self) -> bool {
        *self == Self { machine_count: self.machine_count, ..other.clone() }
    }
}
