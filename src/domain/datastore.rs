//! A datastore of the host.

use jiff::Timestamp;

use super::ids::DatastoreId;

/// One datastore, as the host last reported it. The free space can be old, because hosts refresh it
/// rarely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datastore {
    pub id: DatastoreId,
    pub name: String,
    /// The type of the datastore (`summary.type`), for example `VMFS`, `NFS` or `vsan`.
    pub kind: String,
    pub capacity_bytes: Option<u64>,
    pub free_bytes: Option<u64>,
    /// When the host measured the free space, by its own clock. `None` if the host does not say it.
    pub free_bytes_at: Option<Timestamp>,
    pub uncommitted_bytes: Option<u64>,
    pub accessible: bool,
    pub url: Option<String>,
    /// The number of machines that have files on the datastore.
    pub machine_count: u32,
}

impl Datastore {
    /// Whether the two datastores are equal except, perhaps, for the number of machines.
    #[must_use]
    pub fn is_same_except_count(&self, other: &Self) -> bool {
        *self == Self { machine_count: self.machine_count, ..other.clone() }
    }
}
