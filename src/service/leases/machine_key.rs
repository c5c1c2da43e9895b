//! The key under which otter stores data about a machine in addition to the leases.

use crate::domain::machine::MachineIdentity;

/// A text that identifies a machine: its instance UUID, else its path. The machine id does not
/// suffice, because the host reuses ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineKey(pub String);

impl MachineKey {
    /// The key of the machine with this identity.
    #[must_use]
    pub fn from_identity(machine: &MachineIdentity) -> Self {
        Self(machine.key())
    }
}
