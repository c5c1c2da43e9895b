//! The way to each serial port now, which depends on the machine that otter runs in, on the
//! settings and on the power of the machine.

use std::sync::Arc;

use crate::domain::machine::{Machine, SerialPort};
use crate::domain::power::PowerState;
use crate::domain::serial::{PortAccess, RouteTerms, SerialRoute, route};
use crate::service::inventory::Inventory;
use crate::service::live_settings::LiveSettings;

/// Finds the ways to serial ports. Clones share the inventory and the settings.
#[derive(Clone)]
pub struct Ways {
    pub inventory: Arc<Inventory>,
    pub live: LiveSettings,
    /// Whether otter listens for machines that dial it.
    pub listens: bool,
    /// The port of the host's API.
    pub api_port: u16,
}

/// Why otter cannot connect to a port now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoWay {
    pub access: PortAccess,
    /// A sentence for people.
    pub reason: String,
}

impl Ways {
    /// The way to a port now.
    ///
    /// # Errors
    /// [`NoWay`] says whether a change of the power of the machine gives one.
    pub fn to(&self, machine: &Machine, port: &SerialPort) -> Result<SerialRoute, NoWay> {
        let contents = self.inventory.contents();
        let protection = &self.live.load().protection;
        let own_machine = contents.machines.iter().find(|machine| protection.is_self(machine));
        let terms = RouteTerms {
            own_machine: own_machine.map(|machine| &**machine),
            listens: self.listens,
            api_port: self.api_port,
        };
        let route = route(port, &terms)
            .map_err(|reason| NoWay { access: PortAccess::Unavailable, reason })?;
        // While the machine is off, another one may use the same port of the host.
        let needs_power = matches!(route, SerialRoute::Dial { .. });
        if needs_power && machine.power_state != Some(PowerState::On) {
            let reason = format!("{} is not on, so the host does not listen.", machine.name);
            return Err(NoWay { access: PortAccess::Closed, reason });
        }
        Ok(route)
    }
}
