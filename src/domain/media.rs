//! What a machine boots from: the discs in its CD drives, and its boot options.

use std::time::Duration;

/// A virtual CD drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdDrive {
    pub key: i32,
    pub label: String,
    /// The key of the controller that the drive is attached to, and its number there.
    pub controller: Option<i32>,
    pub unit: Option<i32>,
    /// The ISO in the drive, with the name of its datastore: `[isos] qubes.iso`. `None` if there is
    /// none, for example because the drive is connected to a drive of a client.
    pub iso: Option<String>,
    pub connected: bool,
    /// Whether the host connects the drive when the machine is powered on.
    pub connects_at_power_on: bool,
}

/// A kind of device that a machine can boot from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootDevice {
    Cdrom,
    Disk,
    Network,
    Floppy,
}

/// An entry of the boot order of a machine. Disks and network cards are named by their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootEntry {
    pub device: BootDevice,
    pub key: Option<i32>,
}

/// The boot options of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootOptions {
    /// Empty if the firmware decides.
    pub order: Vec<BootEntry>,
    /// How long the firmware waits before it boots.
    pub delay: Duration,
}

/// What a caller asks a machine to boot from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRequest {
    /// The kinds of devices, each at most once. Empty lets the firmware decide.
    pub order: Vec<BootDevice>,
    /// `None` leaves the delay as it is.
    pub delay: Option<Duration>,
}

/// The drives, the boot options, and the devices that a boot order can name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootMedia {
    pub drives: Vec<CdDrive>,
    pub boot: BootOptions,
    /// The keys of the disks and of the network cards.
    pub disks: Vec<i32>,
    pub cards: Vec<i32>,
}

/// The first CD drive and the boot options of a machine at one moment, to restore them later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaRecord {
    /// `None` if the machine has no drive.
    pub drive: Option<CdDrive>,
    pub boot: BootOptions,
}

impl CdDrive {
    /// This drive with an ISO, or with nothing in it.
    #[must_use]
    pub fn with(&self, iso: Option<&str>) -> Self {
        let has_disc = iso.is_some();
        Self {
            iso: iso.map(str::to_owned),
            connected: has_disc,
            connects_at_power_on: has_disc,
            ..self.clone()
        }
    }

    /// Whether the drive is as `other` says. Only a machine that is on has connected drives.
    ///
    /// # Parameters
    /// - `on`: whether the machine is on.
    #[must_use]
    pub fn is_like(&self, other: &Self, on: bool) -> bool {
        self.key == other.key
            && self.iso == other.iso
            && self.connects_at_power_on == other.connects_at_power_on
            && (!on || self.connected == other.connected)
    }
}

impl BootDevice {
    /// Every kind of device.
    pub const ALL: &'static [Self] = &[Self::Cdrom, Self::Disk, Self::Network, Self::Floppy];

    /// The kinds that a caller can ask for.
    pub const REQUESTED: &'static [Self] = &[Self::Cdrom, Self::Disk, Self::Network];

    /// The word for the kind in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cdrom => "cdrom",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Floppy => "floppy",
        }
    }

    /// Parses the word of a kind. `None` if the word names no kind.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|device| device.as_str() == word)
    }
}

impl BootOptions {
    /// The kinds of devices in the boot order, without neighbours of the same kind.
    #[must_use]
    pub fn devices(&self) -> Vec<BootDevice> {
        let mut devices: Vec<BootDevice> = self.order.iter().map(|entry| entry.device).collect();
        devices.dedup();
        devices
    }
}

impl BootMedia {
    /// The boot options that a request asks for. Devices that the machine does not have are left
    /// out.
    #[must_use]
    pub fn requested(&self, request: &BootRequest) -> BootOptions {
        let keyed = |device, keys: &[i32]| -> Vec<BootEntry> {
            keys.iter().map(|key| BootEntry { device, key: Some(*key) }).collect()
        };
        let entries = |device: &BootDevice| match device {
            BootDevice::Disk => keyed(*device, &self.disks),
            BootDevice::Network => keyed(*device, &self.cards),
            BootDevice::Cdrom if self.drives.is_empty() => Vec::new(),
            BootDevice::Cdrom | BootDevice::Floppy => {
                vec![BootEntry { device: *device, key: None }]
            }
        };
        BootOptions {
            order: request.order.iter().flat_map(entries).collect(),
            delay: request.delay.unwrap_or(self.boot.delay),
        }
    }

    /// These boot options without the disks and network cards that the machine does not have.
    #[must_use]
    pub fn existing(&self, boot: &BootOptions) -> BootOptions {
        let exists = |entry: &&BootEntry| {
            entry.key.is_none_or(|key| self.disks.contains(&key) || self.cards.contains(&key))
        };
        let order = boot.order.iter().filter(exists).copied().collect();
        BootOptions { order, delay: boot.delay }
    }

    /// The first drive and the boot options.
    #[must_use]
    pub fn record(&self) -> MediaRecord {
        MediaRecord { drive: self.drives.first().cloned(), boot: self.boot.clone() }
    }
}

impl MediaRecord {
    /// Whether the drive and the boot options are as in `other`. Whether the drive is connected
    /// does not count, because that depends on the power state.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let is_same_drive = match (&self.drive, &other.drive) {
            (Some(own), Some(other)) => own.is_like(other, false),
            (own, other) => own.is_none() && other.is_none(),
        };
        is_same_drive && self.boot == other.boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive() -> CdDrive {
        CdDrive {
            key: 3000,
            label: "CD/DVD drive 1".to_owned(),
            controller: Some(200),
            unit: Some(0),
            iso: None,
            connected: false,
            connects_at_power_on: false,
        }
    }

    #[test]
    fn a_request_names_the_devices_that_the_machine_has() {
        let media =
            BootMedia { drives: vec![drive()], disks: vec![2000, 2001], ..BootMedia::default() };
        let order = vec![BootDevice::Cdrom, BootDevice::Disk, BootDevice::Network];
        let boot = media.requested(&BootRequest { order, delay: None });
        assert_eq!(boot.devices(), [BootDevice::Cdrom, BootDevice::Disk]);
        assert_eq!(boot.order[2], BootEntry { device: BootDevice::Disk, key: Some(2001) });
        let empty = BootMedia::default();
        let order = vec![BootDevice::Cdrom];
        let delay = Some(Duration::from_secs(5));
        let boot = empty.requested(&BootRequest { order, delay });
        assert_eq!(boot, BootOptions { order: Vec::new(), delay: Duration::from_secs(5) });
    }

    #[test]
    fn only_a_machine_that_is_on_has_connected_drives() {
        let inserted = drive().with(Some("[isos] qubes.iso"));
        let seen = CdDrive { connected: false, ..inserted.clone() };
        assert!(seen.is_like(&inserted, false));
        assert!(!seen.is_like(&inserted, true));
        assert!(!seen.is_like(&drive(), false));
        assert!(inserted.with(None).is_like(&drive(), true));
    }
}
