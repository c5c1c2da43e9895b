//! A machine of the inventory, together with what otter has concluded from several reports about
//! its guest.

use std::sync::Arc;
use std::time::Duration;

use super::address_trust::AddressTrust;
use crate::domain::machine::Machine;

/// A machine and the history of its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub machine: Arc<Machine>,
    pub guest: GuestHistory,
}

/// Data about a guest that otter concludes from several reports of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestHistory {
    pub address_trust: AddressTrust,
    /// How often the guest tools stopped since otter first saw the machine.
    pub tools_stops: u64,
}

impl GuestHistory {
    /// The history after a complete read or an update changed the machine from `before` to
    /// `machine`.
    #[must_use]
    pub fn after(
        self,
        before: &Machine,
        machine: &Machine,
        complete: bool,
        now: Duration,
        settle: Duration,
    ) -> Self {
        let stopped = before.guest.tools_running && !machine.guest.tools_running;
        let address_trust = if complete {
            self.address_trust.after_gap(before, machine, now, settle)
        } else {
            self.address_trust.after_update(before, machine, now, settle)
        };
        Self { address_trust, tools_stops: self.tools_stops + u64::from(stopped) }
    }
}

#[cfg(test)]
impl Entry {
    /// A machine whose guest has no history.
    pub fn sample(machine: Arc<Machine>) -> Self {
        let address_trust = AddressTrust::at_first(&machine, Duration::ZERO, Duration::ZERO);
        Self { machine, guest: GuestHistory { address_trust, tools_stops: 0 } }
    }
}
