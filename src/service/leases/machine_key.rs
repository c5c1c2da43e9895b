//! The key of the data that otter stores about a machine.

use crate::domain::machine::MachineIdentity;

/// The identity of a machine: its instance UUID, else its path. The host reuses machine ids.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineKey(pub String);

impl MachineKey {
    /// The key of the machine with this identity.
    #[must_use]
    pub fn from_identity(machine: &MachineIdentity) -> Self {
        Self(machine.key())
    }
}
