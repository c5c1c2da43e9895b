//! The notation of CD drives and of the boot order in scenarios.

use serde::Deserialize;

use crate::simulator::world::{BootDevice, BootSettings, CdDrive, FilePath, Machine};

/// The maximum number of drives: two at each of the two IDE controllers.
const MAX_DRIVES: usize = 4;

/// A CD drive. Without an image, it is empty.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CdromEntry {
    /// The datastore path of the image in the drive.
    iso: Option<String>,
    /// Whether a power-on connects the drive. By default it does if there is an image.
    start_connected: Option<bool>,
    /// Whether each guest locks the medium, so that the host asks before it takes it away.
    #[serde(default)]
    locked: bool,
}

/// How a machine boots.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootEntry {
    /// Empty: the firmware's own order, in which disks come first.
    #[serde(default)]
    order: Vec<BootWord>,
    #[serde(default)]
    delay_ms: i64,
}

/// A kind of device. It stands for all devices of the machine of this kind, in their order.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BootWord {
    Cdrom,
    Disk,
    Network,
    Floppy,
}

/// The drives of a machine.
///
/// # Errors
/// A message for people.
pub fn cd_drives(entries: Vec<CdromEntry>) -> Result<Vec<CdDrive>, String> {
    if entries.len() > MAX_DRIVES {
        return Err(format!("a machine has at most {MAX_DRIVES} drives"));
    }
    let drive = |(entry, number): (CdromEntry, i32)| {
        let CdromEntry { iso, start_connected, locked } = entry;
        let mut drive = CdDrive::at(number);
        if let Some(path) = &iso {
            FilePath::parse(path).map_err(|_| format!("{path:?} is no datastore path"))?;
            drive = drive.with_iso(path);
        }
        drive.start_connected = start_connected.unwrap_or(drive.start_connected);
        drive.is_always_locked = locked;
        Ok(drive)
    };
    entries.into_iter().zip(0..).map(drive).collect()
}

impl BootEntry {
    /// The settings of a machine that has its devices.
    ///
    /// # Errors
    /// A message for people.
    pub fn convert(self, machine: &Machine) -> Result<BootSettings, String> {
        let Self { order, delay_ms } = self;
        let devices = order.into_iter().map(|word| {
            let devices: Vec<BootDevice> = match word {
                BootWord::Cdrom => vec![BootDevice::Cdrom],
                BootWord::Floppy => vec![BootDevice::Floppy],
                BootWord::Disk => machine.disk_keys().into_iter().map(BootDevice::Disk).collect(),
                BootWord::Network => {
                    let cards = machine.network_cards.iter();
                    cards.map(|card| BootDevice::Network(card.key)).collect()
                }
            };
            if devices.is_empty() {
                Err("the machine has no such device".to_owned())
            } else {
                Ok(devices)
            }
        });
        let order: Result<Vec<Vec<BootDevice>>, String> = devices.collect();
        Ok(BootSettings { order: order?.concat(), delay_ms, ..BootSettings::default() })
    }
}
