//! The writer of each port: the one call or stream that may send input to it.

use std::sync::Arc;

use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{MachineId, ViewerId};
use crate::domain::machine::{Machine, SerialPort};
use crate::service::screens::DriverInfo;
use crate::service::seats::{Seat, Seats};

/// The key of a port, and its machine.
type PortOfMachine = (MachineId, i32);

/// The right to send input to a port, until this value is dropped or another writer takes over.
pub type WriterSeat = Seat<PortOfMachine, WriterInfo>;

/// The one that may send input to a port.
#[derive(Clone, Debug)]
pub struct WriterInfo {
    pub driver: DriverInfo,
    /// Whether it is a call, which ends by itself. Further calls wait for it.
    pub is_call: bool,
}

/// The writers of all ports.
#[derive(Default)]
pub struct Writers(Arc<Seats<PortOfMachine, WriterInfo>>);

impl Writers {
    /// The writer of a port.
    #[must_use]
    pub fn of(&self, machine: &MachineId, port: i32) -> Option<WriterInfo> {
        self.0.of(&(machine.clone(), port))
    }

    /// Checks that a stream could write now.
    ///
    /// # Errors
    /// `serial-busy` if there is another writer and `force` is not set.
    pub fn check(&self, machine: &Machine, port: &SerialPort, force: bool) -> Result<(), Failure> {
        match self.of(&machine.id, port.key) {
            Some(writer) if !force => Err(busy(machine, port, &writer)),
            _ => Ok(()),
        }
    }

    /// Makes a call or a stream the writer of a port.
    ///
    /// # Parameters
    /// - `force`: whether it takes over from another writer, whose seat then ends.
    ///
    /// # Errors
    /// `serial-busy` if there is another writer and `force` is not set.
    pub fn take(
        &self,
        machine: &Machine,
        port: &SerialPort,
        holder: ViewerId,
        info: WriterInfo,
        force: bool,
    ) -> Result<WriterSeat, Failure> {
        let taken = self.0.take(&(machine.id.clone(), port.key), holder, info, force);
        taken.map_err(|writer| busy(machine, port, &writer))
    }
}

/// The failure of a writer, because there is another one.
pub fn busy(machine: &Machine, port: &SerialPort, writer: &WriterInfo) -> Failure {
    let WriterInfo { driver: DriverInfo { caller, since, .. }, is_call } = writer;
    let advice = if *is_call {
        "It is a call, which ends by itself."
    } else {
        "Read without writing, or take over by a stream with mode=drive and force=true."
    };
    let (port, name) = (label(port), &machine.name);
    let detail = format!("{caller} writes to {port} of {name} since {since:.0}. {advice}");
    Failure::new(FailureKind::SerialBusy, detail).with_machine(&machine.id, &machine.name)
}

/// The name of a port for people.
pub fn label(port: &SerialPort) -> String {
    port.linux_device.clone().unwrap_or_else(|| port.key.to_string())
}
