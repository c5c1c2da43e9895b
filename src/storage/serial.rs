//! The storage of the numbers of the bytes of serial ports. The bytes themselves are in files of
//! their own, which `service::serial` keeps.

use async_trait::async_trait;
use jiff::Timestamp;

use super::StorageError;
use crate::domain::ids::JobId;
use crate::domain::serial::Gap;

/// What the storage keeps of a serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSerialPort {
    /// The [`MachineIdentity::key`](crate::domain::machine::MachineIdentity::key) of the machine.
    pub machine: String,
    /// The key of the port.
    pub port: i32,
    /// Bytes may have the offsets below this one.
    pub reserved: u64,
    /// The offset of the next byte. `None` while otter may give out offsets up to `reserved`.
    pub next: Option<u64>,
    /// The last gaps, the oldest first.
    pub gaps: Vec<Gap>,
    /// The end of the output when the last host call of a preparation began, and that preparation.
    pub mark: Option<(JobId, u64)>,
    pub updated_at: Timestamp,
}

/// The rows of the serial ports. The rules of [`Storage`](super::Storage) for reads and writes
/// apply here too.
#[async_trait]
pub trait SerialStorage: Send + Sync {
    /// Commits the state of a port. The stored `reserved` never decreases.
    async fn save_serial_port(&self, port: StoredSerialPort) -> Result<(), StorageError>;

    /// Reads the state of a port. `None` if otter never kept a byte of it.
    ///
    /// # Parameters
    /// - `machine`, `port`: as the fields of [`StoredSerialPort`].
    async fn serial_port(
        &self,
        machine: &str,
        port: i32,
    ) -> Result<Option<StoredSerialPort>, StorageError>;

    /// Forgets the ports that were not changed since this time. Returns their number.
    async fn forget_serial_ports(&self, before: Timestamp) -> Result<u64, StorageError>;
}
