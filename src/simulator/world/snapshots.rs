//! The operations on the snapshots of a simulated machine: create, revert and rename.

use super::{Machine, PowerState, World};
use crate::simulator::value::{Moref, Value};
use crate::simulator::vim_fault::Fault;

impl World {
    /// `RenameSnapshot`, with names that are not escaped.
    ///
    /// # Errors
    /// `ManagedObjectNotFound` if there is no such snapshot, `InvalidArgument` if the call has
    /// neither a name nor a description.
    pub fn rename_snapshot(
        &mut self,
        snapshot: &str,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<(), Fault> {
        self.check_may_change()?;
        let moref = Moref::new("VirtualMachineSnapshot", snapshot);
        let machine = self.machine_of_snapshot(snapshot).ok_or_else(|| Fault::not_found(&moref))?;
        if name.is_none() && description.is_none() {
            return Err(Fault::invalid_argument("name"));
        }
        let id = machine.id.clone();
        let Some(machine) = self.machine_mut(&id) else { return Err(Fault::not_found(&moref)) };
        if let Some(renamed) = machine.snapshots.iter_mut().find(|known| known.id == snapshot) {
            if let Some(name) = name {
                renamed.name = name;
            }
            if let Some(description) = description {
                renamed.description = description;
            }
        }
        Ok(())
    }

    /// Creates a snapshot of a machine. It holds the memory only if `memory` is set and the machine
    /// runs. A revert to a snapshot without memory leaves the machine powered off.
    pub(super) fn create_snapshot_now(
        &mut self,
        id: &str,
        name: &str,
        description: &str,
        memory: bool,
        quiesce: bool,
    ) -> Result<Option<Value>, Fault> {
        let (at, now) = (self.now.wall, self.now.elapsed);
        self.require_machine(id)?;
        let Some(machine) = self.machine_mut(id) else { return Ok(None) };
        let state = match machine.power {
            PowerState::On if !memory => PowerState::Off,
            ref state => state.clone(),
        };
        let parent = machine.current_snapshot.clone();
        let saved = machine.saved_screen(now);
        let snapshot = machine.add_snapshot(parent.as_deref(), name, state, at);
        if let Some(made) = machine.snapshots.last_mut() {
            description.clone_into(&mut made.description);
            made.screen = made.screen.take().map(|_| saved);
            made.quiesced = quiesce && !memory && machine.power == PowerState::On;
        }
        machine.current_snapshot = Some(snapshot.clone());
        Ok(Some(Value::Reference(Moref::new("VirtualMachineSnapshot", snapshot))))
    }

    /// Reverts a machine to a snapshot. The machine gets the power state that the snapshot
    /// recorded.
    pub(super) fn revert_now(
        &mut self,
        id: &str,
        snapshot: &str,
        suppress_power_on: bool,
    ) -> Result<(), Fault> {
        let missing = || Fault::not_found(&Moref::new("VirtualMachineSnapshot", snapshot));
        let machine = self.require_machine(id)?;
        let found = machine.snapshot(snapshot).ok_or_else(missing)?;
        let (state, screen) = (found.state.clone(), found.screen.clone());
        let (cd_drives, boot) = (found.cd_drives.clone(), found.boot.clone());
        let goes_on = machine.power == PowerState::On && state == PowerState::On;
        if !(goes_on && !suppress_power_on && self.rules.consoles_outlive_reverts) {
            self.end_consoles(id);
        }
        if let Some(machine) = self.machine_mut(id) {
            machine.current_snapshot = Some(snapshot.to_owned());
            machine.cd_drives = cd_drives;
            machine.boot = boot;
        }
        match state {
            PowerState::On if !suppress_power_on => self.power_on_now(id),
            // The snapshot holds the memory of a running machine, but the caller suppressed the
            // power-on. As on a real host, the machine is then suspended.
            PowerState::On | PowerState::Suspended => self.suspend_now(id),
            PowerState::Off | PowerState::Other(_) => self.power_off_now(id),
        }
        if let Some(saved) = screen {
            self.restore_screen(id, &saved);
        }
        Ok(())
    }

    /// The number of snapshots on the path from `snapshot` up to the root of its tree, both
    /// counted.
    #[must_use]
    pub fn snapshot_depth(machine: &Machine, snapshot: &str) -> usize {
        let mut depth = 0;
        let mut at = Some(snapshot.to_owned());
        while let Some(id) = at {
            depth += 1;
            at = machine.snapshot(&id).and_then(|snapshot| snapshot.parent.clone());
        }
        depth
    }
}
