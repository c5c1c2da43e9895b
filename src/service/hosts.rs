//! The hosts that otter manages, and the host of each machine. There is one host at present.

use std::sync::Arc;

use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::MachineId;
use crate::domain::machine::Machine;
use crate::hypervisor::{Capability, Hypervisor};

/// All hosts. Clones share them.
#[derive(Clone)]
pub struct Hosts(Arc<dyn Hypervisor>);

impl Hosts {
    /// The hosts of an otter with only one host, which has all machines.
    #[must_use]
    pub fn from_host(host: Arc<dyn Hypervisor>) -> Self {
        Self(host)
    }

    /// The only host.
    #[must_use]
    pub const fn only(&self) -> &Arc<dyn Hypervisor> {
        &self.0
    }

    /// The host that a machine is on.
    #[must_use]
    pub const fn for_machine(&self, _machine: &MachineId) -> &Arc<dyn Hypervisor> {
        &self.0
    }

    /// The host that a machine is on, if the host has the capability.
    ///
    /// # Errors
    /// `not-supported`
    pub fn with_capability(
        &self,
        capability: Capability,
        machine: &Machine,
    ) -> Result<&Arc<dyn Hypervisor>, Failure> {
        let host = self.for_machine(&machine.id);
        if host.capabilities().contains(&capability) {
            return Ok(host);
        }
        let cannot = match capability {
            Capability::Properties => "gives no raw properties",
            Capability::Screens => "gives no access to screens",
            Capability::ScreenPictures => "gives no pictures of screens",
            Capability::Serial => "gives no access to serial ports",
        };
        let detail = format!("The host of {} {cannot}.", machine.name);
        Err(Failure::new(FailureKind::NotSupported, detail)
            .with_machine(&machine.id, &machine.name))
    }
}
