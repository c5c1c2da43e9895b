//! The screens of machines, and the console connections that machines count.
//!
//! ```text
//! power-on ──► a new start     suspend ──► saved     resume, revert with memory ──► goes on
//! power-off, suspend, revert ──► every console ends, and the count is 0
//! reset ──► a new start, and consoles stay open
//! ```

use super::{FileContent, Machine, PowerState, World};
use crate::simulator::console::encode_bitmap;
use crate::simulator::guest_screen::GuestScreen;
use crate::simulator::pace::Pace;

impl World {
    /// The screen of a machine, for an input. An input is no change of the machine.
    pub fn screen_mut(&mut self, id: &str) -> Option<&mut GuestScreen> {
        Some(&mut self.machines.get_mut(id)?.screen)
    }

    /// Counts a console connection of a machine.
    pub fn open_console(&mut self, id: &str) {
        self.add_consoles(id, 1);
    }

    /// A console connection that was opened at this epoch has ended properly. A connection of an
    /// earlier epoch is not counted any more.
    pub fn close_console(&mut self, id: &str, epoch: u64) {
        if self.machine(id).is_some_and(|machine| machine.console_epoch == epoch) {
            self.add_consoles(id, -1);
        }
    }

    /// Changes the number of console connections that a machine counts.
    pub fn add_consoles(&mut self, id: &str, count: i32) {
        if let Some(machine) = self.machine_mut(id) {
            machine.mks_connections = machine.mks_connections.saturating_add(count).max(0);
        }
    }

    /// Ends every console of a machine.
    pub(super) fn end_consoles(&mut self, id: &str) {
        if let Some(machine) = self.machine_mut(id) {
            machine.console_epoch += 1;
            machine.mks_connections = 0;
        }
    }

    /// The guest of a machine starts, or goes on after a suspend.
    pub(super) fn screen_starts(&mut self, id: &str, resumes: bool) {
        let (now, scale) = (self.now.elapsed, self.screen_scale());
        let Some(screen) = self.screen_mut(id) else { return };
        if resumes && screen.is_frozen() {
            screen.thaw(now);
            self.skip_earlier_output(id);
        } else {
            screen.power_on(now, scale);
        }
    }

    /// The guest of a machine restarts while the machine stays on.
    pub(super) fn screen_restarts(&mut self, id: &str) {
        let now = self.now.elapsed;
        if let Some(screen) = self.screen_mut(id) {
            screen.restart(now);
        }
    }

    /// The screen of a machine is the one that a snapshot has saved.
    pub(super) fn restore_screen(&mut self, id: &str, saved: &GuestScreen) {
        let now = self.now.elapsed;
        let Some(machine) = self.machines.get_mut(id) else { return };
        if matches!(machine.power, PowerState::On | PowerState::Suspended) {
            machine.screen.restore(saved);
        }
        if machine.power == PowerState::On {
            machine.screen.thaw(now);
            self.skip_earlier_output(id);
        }
    }

    /// `CreateScreenshot_Task`: writes a file next to the machine and returns its path.
    pub(super) fn write_screenshot(&mut self, id: &str) -> String {
        let now = self.now;
        let Some(machine) = self.machine_mut(id) else { return String::new() };
        let path = format!("{}-{}.png", machine.base_path(), machine.screenshots.len() + 1);
        let picture = machine.screen.picture(now, &machine.name);
        let png = picture.map(|picture| encode_bitmap(&picture.draw())).unwrap_or_default();
        machine.screenshots.push(path.clone());
        machine.pictures.push(FileContent::of(&png));
        path
    }

    /// The factor for the durations of a guest's start.
    pub(in crate::simulator) const fn screen_scale(&self) -> f64 {
        match self.pace {
            Pace::Auto { scale } => scale,
            Pace::Stepped => 1.0,
        }
    }
}

impl Machine {
    /// The screen as a snapshot with memory saves it at this moment.
    pub(super) fn saved_screen(&self, now: std::time::Duration) -> Box<GuestScreen> {
        let mut saved = self.screen.clone();
        saved.freeze(now);
        Box::new(saved)
    }
}
