//! The CD drives, disks and controllers of a machine, and from what it boots.
//!
//! ```text
//! power-on ──► drives that start connected read their media ──► the first of the boot order starts
//!                                                                  └─ a guest from a CD locks it
//! ```

use super::{Choice, Machine, PowerState, Question, World};
use crate::simulator::value::date_time;
use crate::simulator::vim_fault::Fault;

/// The id of the question whether a medium that the guest uses is taken away.
const LOCK_QUESTION: &str = "msg.cdromdisconnect.locked";
/// The key of the first disk of each machine.
pub const FIRST_DISK: i32 = 2_000;
/// The key of the controller of the first disk.
pub const DISK_CONTROLLER: i32 = 1_000;
/// The keys of the controllers of drives that each machine has.
pub const DRIVE_CONTROLLERS: [i32; 2] = [200, 201];

/// A CD drive.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct CdDrive {
    pub key: i32,
    /// The key of its controller.
    pub controller: i32,
    /// Its place at the controller.
    pub unit: i32,
    pub backing: CdBacking,
    /// Whether the drive is connected now. Only a machine that is on has connected drives.
    pub connected: bool,
    /// Whether a power-on connects the drive.
    pub start_connected: bool,
    pub allows_guest_control: bool,
    /// Whether the guest has locked the medium, because it uses it.
    pub is_locked: bool,
    /// Whether every guest locks the medium, by order of a test.
    pub is_always_locked: bool,
    /// Whether the host could not read the medium.
    pub is_broken: bool,
}

/// What is in a CD drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CdBacking {
    /// The datastore path of an image.
    Iso(String),
    /// A drive of the host or of a client.
    Device {
        /// The vim25 type of the backing.
        kind: &'static str,
        name: String,
        /// Set for the types that declare it.
        exclusive: Option<bool>,
    },
}

/// A disk that a client has added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedDisk {
    pub key: i32,
    pub controller: i32,
    pub unit: i32,
    pub bytes: i64,
    /// The datastore path of its descriptor.
    pub path: String,
}

/// A controller that a client has added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// The vim25 type, for example `VirtualAHCIController`.
    pub kind: &'static str,
    pub key: i32,
    pub bus: i32,
}

/// How a machine boots (`VirtualMachineBootOptions`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootSettings {
    /// The devices in their order. Empty: the firmware's own order, in which disks come first.
    pub order: Vec<BootDevice>,
    pub delay_ms: i64,
    pub enters_setup: bool,
    pub retries: bool,
    pub retry_delay_ms: i64,
}

/// An entry of the boot order. Disks and network cards are named by their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootDevice {
    Cdrom,
    Floppy,
    Disk(i32),
    Network(i32),
}

impl CdDrive {
    /// The drive number `number` of a machine, from 0 to 3, without a medium.
    #[must_use]
    pub fn at(number: i32) -> Self {
        let controller = DRIVE_CONTROLLERS[0] + number / 2;
        Self::new(3_000 + number, controller, number % 2)
    }

    /// A drive without a medium.
    #[must_use]
    pub fn new(key: i32, controller: i32, unit: i32) -> Self {
        let backing = CdBacking::Device {
            kind: "VirtualCdromRemotePassthroughBackingInfo",
            name: String::new(),
            exclusive: Some(false),
        };
        Self {
            key,
            controller,
            unit,
            backing,
            connected: false,
            start_connected: false,
            allows_guest_control: true,
            is_locked: false,
            is_always_locked: false,
            is_broken: false,
        }
    }

    /// The drive with this image, which a power-on connects.
    #[must_use]
    pub fn with_iso(self, path: &str) -> Self {
        Self { backing: CdBacking::Iso(path.to_owned()), start_connected: true, ..self }
    }

    /// The image in the drive.
    #[must_use]
    pub fn iso(&self) -> Option<&str> {
        match &self.backing {
            CdBacking::Iso(path) => Some(path),
            CdBacking::Device { .. } => None,
        }
    }

    /// Whether the drive reads this image now.
    #[must_use]
    pub fn is_reading(&self, path: &str) -> bool {
        self.connected && self.iso() == Some(path)
    }

    /// The place as the configuration file names it, such as `ide0:1`.
    #[must_use]
    pub fn place(&self) -> String {
        let (bus, number) = match self.controller {
            key @ 15_000.. => ("sata", key - 15_000),
            key @ 1_000.. => ("scsi", key - 1_000),
            key => ("ide", key - DRIVE_CONTROLLERS[0]),
        };
        format!("{bus}{number}:{}", self.unit)
    }
}

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
