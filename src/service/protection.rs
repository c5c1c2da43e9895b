//! Which machines otter refuses to change.

use uuid::Uuid;

use crate::domain::mac::MacAddress;
use crate::domain::machine::Machine;
use crate::domain::machine_pattern::MachinePattern;
use crate::domain::machine_reference::ReferencedMachine;
use crate::domain::machine_uuid::parse_uuid;
use crate::domain::names::is_name;

/// Which machines otter refuses to change: protected ones, and the one that otter runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// The setting `machines.protected`.
    pub protected: Vec<MachinePattern>,
    /// Patterns that otter adds. No warning is logged if one of them matches no machine.
    pub built_in: Vec<MachinePattern>,
    /// The setting `esx.machine_name`. It is not the only way to recognise otter's own machine,
    /// because the machine can be renamed.
    pub own_name: Option<String>,
    /// The hardware addresses of the machine that otter runs in.
    pub own_addresses: Vec<MacAddress>,
    /// The BIOS UUID of the machine that otter runs in, once in each possible byte order.
    pub own_uuids: Vec<Uuid>,
    /// Whether otter runs in a VMware machine. This machine may be one of the host's machines.
    pub runs_in_vmware: bool,
}

impl Protection {
    /// Whether the configuration protects a machine.
    #[must_use]
    pub fn covers(&self, machine: &Machine) -> bool {
        self.protected.iter().chain(&self.built_in).any(|pattern| pattern.matches(machine))
    }

    /// Whether otter itself runs in the machine: the machine has the configured name, an address or
    /// the BIOS UUID of otter's own machine. A copy of otter's machine with the same BIOS UUID
    /// counts too.
    #[must_use]
    pub fn is_self(&self, machine: &Machine) -> bool {
        self.own_name.as_ref().is_some_and(|name| is_name(name, &machine.name))
            || self.has_own_address(machine)
            || self.has_own_uuid(machine)
    }

    /// Whether a machine has an address of otter's own machine.
    #[must_use]
    pub fn has_own_address(&self, machine: &Machine) -> bool {
        self.own_addresses.iter().any(|address| machine.has_mac(*address))
    }

    fn has_own_uuid(&self, machine: &Machine) -> bool {
        let uuid = machine.bios_uuid.as_deref().filter(|_| !self.own_uuids.is_empty());
        uuid.and_then(parse_uuid).is_some_and(|uuid| self.own_uuids.contains(&uuid))
    }
}
