//! A datastore of the host.

use super::ids::DatastoreId;

/// One datastore, as the host last reported it. Hosts refresh the free space rarely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datastore {
    pub id: DatastoreId,
    pub name: String,
    /// `summary.type` of the datastore: `VMFS`, `NFS`, `vsan`, …
    pub kind: String,
    pub capacity_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    pub uncommitted_bytes: Option<u64>,
    pub accessible: bool,
    pub url: Option<String>,
    /// The number of machines that have files on the datastore.
    pub machine_count: u32,
}

impl Datastore {
    /// Whether both are equal, or differ only in the number of machines.
    #[must_use]
    pub fn is_same_except_count(&self, other: &Self) -> bool {
        *self == Self { machine_count: self.machine_count, ..other.clone() }
    }
}
