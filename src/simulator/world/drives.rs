//! The CD drives, disks, controllers and boot options of machines as plain data.

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
