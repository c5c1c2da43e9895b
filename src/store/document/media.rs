//! The JSON documents of CD drives and boot options: in calls, requests and leases.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DocumentError, word};
use crate::domain::media::{BootDevice, BootEntry, BootOptions, BootRequest, CdDrive, MediaRecord};

#[derive(Serialize, Deserialize)]
pub struct DriveDocument {
    key: i32,
    label: String,
    controller: Option<i32>,
    unit: Option<i32>,
    iso: Option<String>,
    connected: bool,
    connects_at_power_on: bool,
}

#[derive(Serialize, Deserialize)]
pub struct BootDocument {
    order: Vec<EntryDocument>,
    delay_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct EntryDocument {
    device: String,
    key: Option<i32>,
}

#[derive(Serialize, Deserialize)]
pub struct BootRequestDocument {
    order: Vec<String>,
    delay_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
pub struct MediaRecordDocument {
    drive: Option<DriveDocument>,
    boot: BootDocument,
}

impl From<&CdDrive> for DriveDocument {
    fn from(drive: &CdDrive) -> Self {
        let CdDrive { key, label, controller, unit, iso, connected, connects_at_power_on } = drive;
        Self {
            key: *key,
            label: label.clone(),
            controller: *controller,
            unit: *unit,
            iso: iso.clone(),
            connected: *connected,
            connects_at_power_on: *connects_at_power_on,
        }
    }
}

impl From<DriveDocument> for CdDrive {
    fn from(document: DriveDocument) -> Self {
        let DriveDocument { key, label, controller, unit, iso, connected, connects_at_power_on } =
            document;
        Self { key, label, controller, unit, iso, connected, connects_at_power_on }
    }
}

impl From<&BootOptions> for BootDocument {
    fn from(boot: &BootOptions) -> Self {
        let BootOptions { order, delay } = boot;
        let entry = |BootEntry { device, key }: &BootEntry| EntryDocument {
            device: device.as_str().to_owned(),
            key: *key,
        };
        Self { order: order.iter().map(entry).collect(), delay_ms: milliseconds(*delay) }
    }
}

impl TryFrom<BootDocument> for BootOptions {
    type Error = DocumentError;

    fn try_from(document: BootDocument) -> Result<Self, DocumentError> {
        let BootDocument { order, delay_ms } = document;
        let entry = |EntryDocument { device, key }| {
            Ok::<_, DocumentError>(BootEntry { device: boot_device(device)?, key })
        };
        Ok(Self {
            order: order.into_iter().map(entry).collect::<Result<_, _>>()?,
            delay: Duration::from_millis(delay_ms),
        })
    }
}

impl From<&BootRequest> for BootRequestDocument {
    fn from(request: &BootRequest) -> Self {
        let BootRequest { order, delay } = request;
        Self {
            order: order.iter().map(|device| device.as_str().to_owned()).collect(),
            delay_ms: delay.map(milliseconds),
        }
    }
}

impl TryFrom<BootRequestDocument> for BootRequest {
    type Error = DocumentError;

    fn try_from(document: BootRequestDocument) -> Result<Self, DocumentError> {
        let BootRequestDocument { order, delay_ms } = document;
        Ok(Self {
            order: order.into_iter().map(boot_device).collect::<Result<_, _>>()?,
            delay: delay_ms.map(Duration::from_millis),
        })
    }
}

impl From<&MediaRecord> for MediaRecordDocument {
    fn from(record: &MediaRecord) -> Self {
        let MediaRecord { drive, boot } = record;
        Self { drive: drive.as_ref().map(Into::into), boot: boot.into() }
    }
}

impl TryFrom<MediaRecordDocument> for MediaRecord {
    type Error = DocumentError;

    fn try_from(document: MediaRecordDocument) -> Result<Self, DocumentError> {
        let MediaRecordDocument { drive, boot } = document;
        Ok(Self { drive: drive.map(Into::into), boot: boot.try_into()? })
    }
}

fn boot_device(text: String) -> Result<BootDevice, DocumentError> {
    word("device to boot from", text, BootDevice::parse)
}

/// The conversion always succeeds for delays that a host can have.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
