//! A machine of the inventory, together with what otter has concluded from several reports about
//! its guest.

use std::sync::Arc;
use std::time::Duration;

use super::address_trust::{AddressTrust, reverted};
use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::hypervisor::GuestRestart;

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
    /// How often the guest was started, reverted, reset, suspended or powered off since otter first
    /// saw the machine.
    pub restarts: u64,
    /// When the last of these happened, as the elapsed time of the clock. `None` if none did.
    pub restarted_at: Option<Duration>,
    /// How often the machine was reverted to a snapshot since otter first saw it. One revert can
    /// count twice.
    pub reverts: u64,
    /// How often a job of otter reset the machine.
    pub resets: u64,
}

impl GuestHistory {
    /// The history when otter first sees the machine.
    #[must_use]
    pub fn at_first(machine: &Machine, now: Duration, settle: Duration) -> Self {
        let address_trust = AddressTrust::at_first(machine, now, settle);
        Self {
            address_trust,
            tools_stops: 0,
            restarts: 0,
            restarted_at: None,
            reverts: 0,
            resets: 0,
        }
    }

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
        let reverted = reverted(&before.snapshots, &machine.snapshots);
        let restarted = before.power_state != machine.power_state || reverted;
        Self {
            address_trust,
            tools_stops: self.tools_stops + u64::from(stopped),
            restarts: self.restarts + u64::from(restarted),
            restarted_at: if restarted { Some(now) } else { self.restarted_at },
            reverts: self.reverts + u64::from(reverted),
            resets: self.resets,
        }
    }

    /// The history after a task that restarts the guest, even if no property changed.
    ///
    /// # Parameters
    /// - `by`: what the task did.
    #[must_use]
    pub fn after_restart(
        self,
        machine: &Machine,
        by: GuestRestart,
        now: Duration,
        settle: Duration,
    ) -> Self {
        let is_on = machine.power_state == Some(PowerState::On);
        Self {
            address_trust: AddressTrust::after_restart(machine, now, settle),
            restarts: self.restarts + u64::from(is_on),
            restarted_at: if is_on { Some(now) } else { self.restarted_at },
            reverts: self.reverts + u64::from(by == GuestRestart::Revert),
            resets: self.resets + u64::from(by == GuestRestart::Reset),
            ..self
        }
    }
}

#[cfg(test)]
impl Entry {
    /// A machine whose guest has no history.
    pub fn sample(machine: Arc<Machine>) -> Self {
        let guest = GuestHistory::at_first(&machine, Duration::ZERO, Duration::ZERO);
        Self { machine, guest }
    }
}
