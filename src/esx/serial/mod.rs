//! Serial ports of machines on an ESX host: the host is dialled, the machine dials otter, the other
//! end of a pipe is a port of the machine that otter runs in, or the port writes to a file.
//!
//! `dial` connects to a port on which the host listens, `concentrator` takes the connections of
//! machines that dial, `own_port` opens a device of this machine, and `datastore_file` reads a file
//! while it grows. `telnet_stream` speaks telnet on a connection.

mod concentrator;
mod datastore_file;
mod dial;
mod hub;
mod own_port;
mod telnet_stream;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::session::Session;
use crate::clock::Clock;
use crate::domain::ids::MachineId;
use crate::domain::network::Network;
use crate::domain::serial::SerialRoute;
use crate::hypervisor::{HostError, SerialConnection, SerialDirectory};

use self::hub::Hub;

/// The serial ports of a host.
#[derive(Debug)]
pub struct SerialPorts {
    session: Arc<Session>,
    clock: Clock,
    /// The connections of machines that dialled.
    hub: Arc<Hub>,
    /// The beginning of the names of the serial devices of this machine.
    tty: String,
}

impl SerialPorts {
    /// # Parameters
    /// - `tty`: the beginning of the names of the serial devices of this machine, `/dev/ttyS`.
    #[must_use]
    pub fn new(session: Arc<Session>, clock: Clock, tty: String) -> Self {
        Self { session, clock, hub: Arc::default(), tty }
    }

    /// Opens a connection to a port.
    ///
    /// # Errors
    /// As [`Hypervisor::open_serial`](crate::hypervisor::Hypervisor::open_serial).
    pub async fn open(
        &self,
        machine: &MachineId,
        port: i32,
        route: &SerialRoute,
    ) -> Result<SerialConnection, HostError> {
        match route {
            SerialRoute::Dial { port, protocol } => {
                let stream = dial::open(self.session.transport(), *port, *protocol).await?;
                Ok(SerialConnection { stream, takes_input: true })
            }
            SerialRoute::Concentrator { .. } => {
                let stream = self.hub.take(machine, port).await;
                Ok(SerialConnection { stream: Box::new(stream), takes_input: true })
            }
            SerialRoute::OwnPort(number) => {
                let stream = own_port::open(&format!("{}{number}", self.tty))?;
                Ok(SerialConnection { stream: Box::new(stream), takes_input: true })
            }
            SerialRoute::File { datastore, path } => {
                let session = Arc::clone(&self.session);
                let file = datastore_file::open(session, self.clock.clone(), datastore, path);
                Ok(SerialConnection { stream: Box::new(file), takes_input: false })
            }
        }
    }

    /// Accepts the connections of machines that dial.
    pub async fn accept(
        &self,
        listener: TcpListener,
        allowed: Vec<Network>,
        directory: Arc<dyn SerialDirectory>,
        stop: CancellationToken,
    ) {
        let host = self.session.transport().host();
        concentrator::run(
            &listener,
            &concentrator::Admission { allowed, host: host.to_owned() },
            &self.hub,
            &*directory,
            &self.clock,
            stop,
        )
        .await;
    }
}
