//! What a machine does with its CD drives and disks, and from what it boots.
//!
//! ```text
//! power-on ──► drives that start connected read their media ──► the first of the boot order starts
//!                                                                  └─ a guest from a CD locks it
//! ```

use super::World;
use super::drives::{BootDevice, CdBacking, CdDrive, FIRST_DISK};
use super::machine::{Choice, Machine, PowerState, Question};
use crate::simulator::value::date_time;
use crate::simulator::vim_fault::Fault;

/// The id of the question whether a medium that the guest uses is taken away.
const LOCK_QUESTION: &str = "msg.cdromdisconnect.locked";

impl Machine {
    /// The version of the configuration, which changes with each change.
    #[must_use]
    pub fn change_version(&self) -> String {
        date_time(self.reconfigured_at.unwrap_or(self.created_at))
    }

    /// The keys of the disks.
    #[must_use]
    pub fn disk_keys(&self) -> Vec<i32> {
        let first = (self.disk_bytes > 0).then_some(FIRST_DISK);
        first.into_iter().chain(self.added_disks.iter().map(|disk| disk.key)).collect()
    }

    /// The size of all disks.
    #[must_use]
    pub fn all_disk_bytes(&self) -> i64 {
        self.disk_bytes + self.added_disks.iter().map(|disk| disk.bytes).sum::<i64>()
    }

    /// The drive from which the machine boots, and its image. `None` if it boots from a disk. A
    /// network card has nothing to boot from, and a drive without a medium is passed over.
    #[must_use]
    pub fn boot_drive(&self) -> Option<(i32, &str)> {
        let has_medium = |drive: &&CdDrive| drive.connected && drive.iso().is_some();
        let drive = self.cd_drives.iter().find(has_medium)?;
        let disks = self.disk_keys();
        let comes_first = self.boot.order.iter().find_map(|device| match device {
            BootDevice::Cdrom => Some(true),
            BootDevice::Disk(key) if disks.contains(key) => Some(false),
            BootDevice::Disk(_) | BootDevice::Network(_) | BootDevice::Floppy => None,
        });
        let comes_first = comes_first.unwrap_or(disks.is_empty());
        drive.iso().filter(|_| comes_first).map(|iso| (drive.key, iso))
    }
}

impl World {
    /// A power-on connects the drives that start connected. A drive whose image is missing stays
    /// unconnected.
    pub(super) fn connect_drives(&mut self, id: &str) {
        let Some(machine) = self.machine(id) else { return };
        let mut drives = machine.cd_drives.clone();
        for drive in &mut drives {
            drive.is_broken = drive.start_connected && !self.has_medium(&drive.backing);
            drive.connected = drive.start_connected && !drive.is_broken;
        }
        if let Some(machine) = self.machines.get_mut(id) {
            machine.cd_drives = drives;
        }
    }

    /// The machine was on before the simulation: its drives are connected, and its guest does not
    /// boot from them.
    pub(in crate::simulator) fn connect_earlier_drives(&mut self, id: &str) {
        self.connect_drives(id);
        let Some(machine) = self.machines.get_mut(id) else { return };
        let medium = machine.boot_drive().map(|(_, iso)| iso.to_owned());
        for drive in &mut machine.cd_drives {
            drive.is_locked = drive.connected && drive.is_always_locked;
        }
        machine.screen.insert(medium);
    }

    /// A power-off disconnects all drives.
    pub(super) fn disconnect_drives(&mut self, id: &str) {
        let Some(machine) = self.machines.get_mut(id) else { return };
        for drive in &mut machine.cd_drives {
            drive.connected = false;
            drive.is_locked = false;
            drive.is_broken = false;
        }
    }

    /// Whether the medium of a drive can be read.
    pub(super) fn has_medium(&self, backing: &CdBacking) -> bool {
        match backing {
            CdBacking::Iso(path) => self.file_length(path).is_some(),
            CdBacking::Device { .. } => true,
        }
    }

    /// The guest of a machine is about to start: the screen gets the medium from which it boots,
    /// and the guest locks what it uses.
    pub(super) fn choose_medium(&mut self, id: &str) {
        let Some(machine) = self.machines.get_mut(id) else { return };
        let boot = machine.boot_drive().map(|(key, iso)| (key, iso.to_owned()));
        for drive in &mut machine.cd_drives {
            let is_used = boot.as_ref().is_some_and(|(key, _)| *key == drive.key);
            drive.is_locked = drive.connected && (is_used || drive.is_always_locked);
        }
        machine.screen.insert(boot.map(|(_, iso)| iso));
    }

    /// Sets whether the guests of a machine lock the media in its drives.
    pub fn lock_drives(&mut self, id: &str, locked: bool) {
        let Some(machine) = self.machine_mut(id) else { return };
        let is_on = machine.power == PowerState::On;
        for drive in &mut machine.cd_drives {
            drive.is_always_locked = locked;
            drive.is_locked = locked && is_on && drive.connected;
        }
    }

    /// The question that a change of a machine asks if it takes a locked medium away from the
    /// guest.
    pub(super) fn lock_question(&self, id: &str, locked: i32, number: i32) -> Option<Question> {
        let machine = self.machine(id)?;
        let place = machine.cd_drives.iter().find(|drive| drive.key == locked)?.place();
        let refused = Fault::new(
            "GenericVmConfigFault",
            format!("Connection control operation failed for disk '{place}'."),
        )
        .with("reason", format!("Connection control operation failed for disk '{place}'."));
        Some(Question {
            id: number.to_string(),
            message_id: LOCK_QUESTION.to_owned(),
            text: "The guest operating system has locked the CD-ROM door and is probably using \
                   the CD-ROM. Disconnect anyway and override the lock?"
                .to_owned(),
            choices: vec![
                Choice {
                    key: "0".to_owned(),
                    label: "button.yes".to_owned(),
                    summary: "Yes".to_owned(),
                    fails_with: None,
                },
                Choice {
                    key: "1".to_owned(),
                    label: "button.no".to_owned(),
                    summary: "No".to_owned(),
                    fails_with: Some(refused),
                },
            ],
            default_choice: Some(1),
        })
    }
}
