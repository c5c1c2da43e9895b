//! The guests: VMware Tools start some time after a power-on and report addresses later. After the
//! guest has stopped, the host still reports its address for a while.

use std::time::Duration;

use super::{PowerState, ScheduledEvent, World};
use crate::simulator::vim_fault::Fault;

/// How long the host still reports the address of a guest after the guest stops.
const STALE_ADDRESS_FOR: Duration = Duration::from_secs(1);
/// How long a guest takes to shut down.
const SHUTDOWN_TIME: Duration = Duration::from_secs(2);

/// Something that a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    ToolsStart,
    AddressArrives,
    StaleAddressGoes,
    /// The guest begins to restart, and its VMware Tools stop.
    Restarts,
    PowersOff,
}

impl World {
    /// `ShutdownGuest`. If the guest is about to restart, it shuts down and does not start again.
    pub fn shut_down_guest(&mut self, id: &str) -> Result<(), Fault> {
        self.check_guest(id)?;
        if let Some(machine) = self.machine_mut(id) {
            machine.guest.is_shutting_down = true;
        }
        self.schedule_guest_event(id, SHUTDOWN_TIME, GuestEvent::PowersOff);
        Ok(())
    }

    /// `RebootGuest`. A guest that is shutting down ignores the request.
    pub fn reboot_guest(&mut self, id: &str) -> Result<(), Fault> {
        self.check_guest(id)?;
        self.schedule_guest_event(id, SHUTDOWN_TIME / 4, GuestEvent::Restarts);
        Ok(())
    }

    /// Runs the next scheduled events of every guest. Only the pace `Stepped` keeps events for this
    /// function. Returns the number of events.
    pub fn step_guests(&mut self) -> usize {
        let waiting = std::mem::take(&mut self.stepped_events);
        let (guests, others): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|event| matches!(event, ScheduledEvent::Guest { .. }));
        self.stepped_events = others;
        let count = guests.len();
        for event in guests {
            self.run_event(event);
        }
        count
    }

    /// Starts the guest of a machine and schedules its events. Events of an earlier run of the
    /// guest no longer count.
    pub(super) fn guest_starts(&mut self, id: &str) {
        let Some(machine) = self.machine_mut(id) else { return };
        machine.run += 1;
        machine.guest.tools_running = false;
        machine.guest.is_shutting_down = false;
        let guest = machine.guest.clone();
        if guest.tools_installed {
            if guest.reported_address.is_some() {
                self.schedule_guest_event(id, STALE_ADDRESS_FOR, GuestEvent::StaleAddressGoes);
            }
            self.schedule_guest_event(id, guest.tools_after, GuestEvent::ToolsStart);
            if guest.address.is_some() {
                self.schedule_guest_event(id, guest.address_after, GuestEvent::AddressArrives);
            }
        }
    }

    /// Stops the guest of a machine. The host still reports the address of the guest for a while.
    pub(super) fn guest_stops(&mut self, id: &str) {
        let Some(machine) = self.machine_mut(id) else { return };
        machine.run += 1;
        machine.guest.tools_running = false;
        machine.guest.is_shutting_down = false;
        if machine.guest.reported_address.is_some() {
            self.schedule_guest_event(id, STALE_ADDRESS_FOR, GuestEvent::StaleAddressGoes);
        }
    }

    /// Runs an event of a guest, unless the machine has started or stopped since the event was
    /// scheduled.
    pub(super) fn guest_event(&mut self, id: &str, run: u64, event: GuestEvent) {
        if self.machine(id).is_none_or(|machine| machine.run != run) {
            return;
        }
        match event {
            GuestEvent::PowersOff => self.power_off_now(id),
            GuestEvent::Restarts => {
                if self.machine(id).is_some_and(|machine| !machine.guest.is_shutting_down) {
                    self.choose_medium(id);
                    self.guest_starts(id);
                    self.screen_restarts(id);
                }
            }
            GuestEvent::ToolsStart | GuestEvent::AddressArrives | GuestEvent::StaleAddressGoes => {
                let Some(machine) = self.machine_mut(id) else { return };
                let guest = &mut machine.guest;
                match event {
                    GuestEvent::ToolsStart => {
                        guest.tools_running = true;
                        if guest.first_address.is_some() {
                            guest.reported_address.clone_from(&guest.first_address);
                        }
                    }
                    GuestEvent::AddressArrives => guest.reported_address.clone_from(&guest.address),
                    _ => guest.reported_address = None,
                }
            }
        }
    }

    fn check_guest(&self, id: &str) -> Result<(), Fault> {
        self.check_may_change()?;
        let machine = self.require_machine(id)?;
        if machine.power != PowerState::On {
            return Err(Fault::invalid_power_state(Some("poweredOn"), machine.power.as_str()));
        }
        if !machine.guest.tools_running {
            return Err(Fault::tools_unavailable());
        }
        Ok(())
    }

    fn schedule_guest_event(&mut self, id: &str, after: Duration, event: GuestEvent) {
        let Some(machine) = self.machine(id) else { return };
        let run = machine.run;
        self.schedule(after, ScheduledEvent::Guest { machine: id.to_owned(), run, event });
    }
}
