//! The concentrator for machines that dial otter for their serial ports: one listener for all of
//! them. A machine names itself by its instance UUID, and gets no byte before.
//!
//! ```text
//! accepted ─► naming itself ─► known, and the port is free ─► in the hub ─► ended
//!     │             │ 10 s, unknown, taken
//!     └─► refused ◄─┘  (another host)
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::dial::watch;
use super::hub::{Hub, HubStream, Registered};
use super::telnet_stream::TelnetStream;
use crate::clock::Clock;
use crate::domain::ids::MachineId;
use crate::domain::machine_uuid::parse_uuid;
use crate::domain::network::Network;
use crate::hypervisor::{DiallingPort, SerialDirectory};
use crate::telnet::{Identification, Telnet, TelnetRole};

/// How long a machine may take to name itself.
const NAMING_LIMIT: Duration = Duration::from_secs(10);

/// The most connections whose machine has not named itself yet.
const MAX_UNNAMED: usize = 64;

/// The most connections.
const MAX_CONNECTIONS: usize = 4_096;

/// The data that is kept of a machine that has not named itself yet.
const MAX_EARLY_DATA: usize = 64 * 1024;

/// The bytes that are read at once.
const READ_SIZE: usize = 4 * 1024;

/// The pause after the system refused a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may dial.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Empty: the addresses of `host`.
    pub allowed: Vec<Network>,
    /// The name or the address of the host's API.
    pub host: String,
}

/// What a connection needs.
#[derive(Clone, Copy)]
struct Parts<'a> {
    admission: &'a Admission,
    hub: &'a Arc<Hub>,
    directory: &'a dyn SerialDirectory,
    clock: &'a Clock,
    unnamed: &'a Semaphore,
}

/// A machine that has named itself.
struct Named {
    place: Registered,
    stream: TelnetStream,
}

/// Why a connection is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the machine closed it before it named itself")]
    Ended,
    #[error("it did not name itself in time")]
    TooLate,
    #[error("too many machines name themselves at the same time")]
    TooMany,
    #[error("{0} is not an address of the host, nor in serial.allowed_peers")]
    NotAllowed(IpAddr),
    #[error("it says that it is {0:?}, and the host has no such machine with a port for otter")]
    Unknown(String),
    #[error("the port {1} of {0} has a connection already")]
    Taken(MachineId, i32),
    #[error("it names none of its ports that dial otter")]
    NoPort,
}

/// Accepts connections until `stop` is cancelled. All connections end then.
pub async fn run(
    listener: &TcpListener,
    admission: &Admission,
    hub: &Arc<Hub>,
    directory: &dyn SerialDirectory,
    clock: &Clock,
    stop: CancellationToken,
) {
    let unnamed = Semaphore::new(MAX_UNNAMED);
    let parts = Parts { admission, hub, directory, clock, unnamed: &unnamed };
    let mut connections: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(()) = connections.next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => connections.push(Box::pin(parts.serve(stream, peer))),
                Err(error) => {
                    tracing::warn!(%error, "a machine that dials for a serial port is refused");
                    clock.sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

impl Parts<'_> {
    /// Serves one connection until it ends.
    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        watch(&stream);
        match self.name(stream, peer).await {
            Ok(Named { place, stream }) => park(place, stream).await,
            Err(refusal) => {
                tracing::warn!(%peer, %refusal, "a connection for a serial port is refused");
            }
        }
    }

    /// Waits until the machine has named itself and one of its ports.
    async fn name(self, stream: TcpStream, peer: SocketAddr) -> Result<Named, Refusal> {
        let address = peer.ip().to_canonical();
        if !self.admission.allows(address).await {
            return Err(Refusal::NotAllowed(address));
        }
        let _permit = self.unnamed.try_acquire().map_err(|_| Refusal::TooMany)?;
        tokio::select! {
            biased;
            named = self.converse(stream) => named,
            () = self.clock.sleep(NAMING_LIMIT) => Err(Refusal::TooLate),
        }
    }

    async fn converse(self, mut stream: TcpStream) -> Result<Named, Refusal> {
        let mut telnet = Telnet::new(TelnetRole::Concentrator);
        let mut identification = Identification::default();
        let (mut data, mut buffer) = (Vec::new(), [0; READ_SIZE]);
        loop {
            identification.ask(&mut telnet);
            let to_send = telnet.to_send();
            stream.write_all(&to_send).await?;
            if let Some(decided) = self.find(&identification) {
                identification.decide(&mut telnet, decided.is_ok());
                stream.write_all(&telnet.to_send()).await?;
                let place = decided?;
                let said = Some(identification);
                let stream = TelnetStream::identified(stream, telnet, said, data);
                return Ok(Named { place, stream });
            }
            let length = stream.read(&mut buffer).await?;
            let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
                return Err(Refusal::Ended);
            };
            for subnegotiation in telnet.receive(bytes, &mut data) {
                identification.take(&mut telnet, &subnegotiation);
            }
            data.truncate(MAX_EARLY_DATA);
        }
    }

    /// Registers the port of a machine. `None` while the machine has not said enough.
    fn find(self, identification: &Identification) -> Option<Result<Registered, Refusal>> {
        let uuid = identification.uuid.as_ref()?;
        let known = parse_uuid(uuid).and_then(|uuid| self.directory.dialling_ports(uuid));
        let Some((machine, ports)) = known.filter(|(_, ports)| !ports.is_empty()) else {
            return Some(Err(Refusal::Unknown(uuid.clone())));
        };
        let service = identification.service.as_deref();
        let named = |port: &&DiallingPort| service == Some(port.service.as_str());
        let key = match (ports.as_slice(), service) {
            ([only], _) => only.key,
            (several, Some(_)) => match several.iter().find(named) {
                Some(port) => port.key,
                None => return Some(Err(Refusal::NoPort)),
            },
            (_, None) => return None,
        };
        let place = self.hub.register(machine.clone(), key);
        Some(place.ok_or(Refusal::Taken(machine, key)))
    }
}

impl Admission {
    async fn allows(&self, address: IpAddr) -> bool {
        if !self.allowed.is_empty() {
            return self.allowed.iter().any(|network| network.contains(address));
        }
        match tokio::net::lookup_host((self.host.as_str(), 0)).await {
            Ok(mut addresses) => addresses.any(|known| known.ip().to_canonical() == address),
            Err(error) => {
                tracing::debug!(host = self.host, %error, "the name of the host is not resolved");
                false
            }
        }
    }
}

/// Keeps a connection until it ends: hands it to its user, and drops its output while there is
/// none.
async fn park(mut place: Registered, mut stream: TelnetStream) {
    let mut buffer = [0; READ_SIZE];
    loop {
        // First who waits, so that no byte is dropped that someone waits for.
        let request = if let Some(request) = place.waiting() {
            request
        } else {
            tokio::select! {
                biased;
                request = place.request() => request,
                read = stream.read(&mut buffer) => match read {
                    Ok(1..) => continue,
                    Ok(0) | Err(_) => return,
                },
            }
        };
        match HubStream::lend(stream, request).await {
            Ok(returned) => stream = returned,
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::telnet::constants::{IAC, SB, SE, VMWARE, WILL};

    /// One machine with two ports.
    struct Directory;

    const UUID: u128 = 0x502a_0000_0000_0000_0000_0000_0000_0001;

    impl SerialDirectory for Directory {
        fn dialling_ports(&self, uuid: Uuid) -> Option<(MachineId, Vec<DiallingPort>)> {
            let port = |key, service: &str| DiallingPort { key, service: service.to_owned() };
            let ports = vec![port(9000, "dom0"), port(9001, "log")];
            (uuid.as_u128() == UUID).then(|| (MachineId::from_backend("16"), ports))
        }
    }

    struct Concentrator {
        address: SocketAddr,
        hub: Arc<Hub>,
        _stop: tokio_util::sync::DropGuard,
    }

    async fn start(allowed: &str) -> Concentrator {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hub, stop) = (Arc::<Hub>::default(), CancellationToken::new());
        let allowed = vec![allowed.parse().unwrap()];
        let admission = Admission { allowed, host: "host.invalid".to_owned() };
        let (own, ends) = (Arc::clone(&hub), stop.clone());
        tokio::spawn(async move {
            let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
            run(&listener, &admission, &own, &Directory, &clock, ends).await;
        });
        Concentrator { address, hub, _stop: stop.drop_guard() }
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        [&[IAC, SB, VMWARE], payload, &[IAC, SE]].concat()
    }

    /// A machine that dials, and names itself.
    async fn dial(concentrator: &Concentrator, uuid: &str, service: &str) -> TcpStream {
        let mut machine = TcpStream::connect(concentrator.address).await.unwrap();
        let said = [
            &[IAC, WILL, VMWARE][..],
            &frame(&[b"\x46S", service.as_bytes()].concat()),
            &frame(&[b"\x50", uuid.as_bytes()].concat()),
            b"first boot byte",
        ];
        machine.write_all(&said.concat()).await.unwrap();
        machine
    }

    const SPACED: &str = "50 2a 00 00 00 00 00 00-00 00 00 00 00 00 00 01";

    /// Reads until a subnegotiation with this command came, or the end.
    async fn answered(machine: &mut TcpStream, command: u8) -> bool {
        let mut all = Vec::new();
        let wanted = frame(&[command]);
        while !all.windows(wanted.len()).any(|part| part == wanted) {
            let mut bytes = [0; 64];
            match machine.read(&mut bytes).await {
                Ok(length @ 1..) => all.extend_from_slice(&bytes[..length]),
                _ => return false,
            }
        }
        true
    }

    #[tokio::test]
    async fn who_waits_for_a_port_gets_its_first_byte_and_gives_it_back() {
        let concentrator = start("127.0.0.1").await;
        let id = MachineId::from_backend("16");
        let (hub, waited) = (Arc::clone(&concentrator.hub), id.clone());
        let waiting = tokio::spawn(async move { hub.take(&waited, 9001).await });
        let mut machine = dial(&concentrator, SPACED, "log").await;
        assert!(answered(&mut machine, 71).await, "accepted");
        let mut taken = waiting.await.unwrap();
        let mut bytes = [0; 15];
        taken.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"first boot byte");
        taken.write_all(b"root\xff").await.unwrap();
        taken.flush().await.unwrap();
        let mut bytes = [0; 6];
        machine.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"root\xff\xff");
        drop(taken);
        let mut again = concentrator.hub.take(&id, 9001).await;
        machine.write_all(b"x").await.unwrap();
        assert_eq!(again.read_u8().await.unwrap(), b'x');
        drop(machine);
        assert_eq!(again.read(&mut bytes).await.unwrap(), 0, "the machine was turned off");
    }

    #[tokio::test]
    async fn a_foreign_host_a_foreign_machine_and_a_second_connection_are_refused() {
        let concentrator = start("127.0.0.1").await;
        let mut unknown = dial(&concentrator, &SPACED.replace("2a", "2b"), "log").await;
        assert!(answered(&mut unknown, 73).await, "refused");
        let mut no_port = dial(&concentrator, SPACED, "other").await;
        assert!(answered(&mut no_port, 73).await, "none of its ports");
        let mut first = dial(&concentrator, SPACED, "dom0").await;
        assert!(answered(&mut first, 71).await);
        let mut second = dial(&concentrator, SPACED, "dom0").await;
        assert!(answered(&mut second, 73).await, "it has a connection already");
        assert!(concentrator.hub.has(&MachineId::from_backend("16"), 9000));
        let foreign = start("10.0.0.0/8").await;
        let mut machine = dial(&foreign, SPACED, "dom0").await;
        assert!(!answered(&mut machine, 71).await, "closed without an answer");
    }
}
