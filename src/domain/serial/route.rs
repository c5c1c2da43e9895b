//! The way on which otter reaches a serial port. It follows from the backing of the port, and from
//! the machine that otter runs in.

use std::ops::RangeInclusive;

use crate::domain::machine::{Machine, SerialBacking, SerialPort};

/// The ports of a host that otter never dials: those of its services, and all that only a
/// privileged program can listen on.
const RESERVED: [RangeInclusive<u16>; 6] =
    [0..=1023, 5988..=5989, 8000..=8000, 8080..=8080, 9080..=9080, 902..=902];

/// A way to a serial port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SerialRoute {
    /// The host listens on this port for one client.
    Dial { port: u16, protocol: WireProtocol },
    /// The machine dials otter, and names itself.
    Concentrator {
        /// The URI of the port, by which the ports of one machine differ.
        service: String,
    },
    /// The other end of a pipe is this port of the machine that otter runs in: `ttyS` and the
    /// number.
    OwnPort(u32),
    /// The port writes to a file on a datastore.
    File { datastore: String, path: String },
}

/// What a host speaks on a port that it listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireProtocol {
    Telnet,
    /// The bytes of the port as they are.
    Raw,
}

/// What decides, beyond the port itself, whether otter reaches it.
#[derive(Clone, Copy, Debug)]
pub struct RouteTerms<'m> {
    /// The machine that otter runs in. `None` if it is no machine of the host.
    pub own_machine: Option<&'m Machine>,
    /// Whether otter listens for machines that dial it (`serial.listen`).
    pub listens: bool,
    /// The port of the host's API.
    pub api_port: u16,
}

/// The way to a serial port.
///
/// # Errors
/// A sentence for people that says why otter cannot reach it, and what to change.
pub fn route(port: &SerialPort, terms: &RouteTerms<'_>) -> Result<SerialRoute, String> {
    match &port.backing {
        SerialBacking::Network { service_uri, proxy_uri: Some(_), .. } => {
            if terms.listens {
                return Ok(SerialRoute::Concentrator { service: service_uri.clone() });
            }
            Err("The machine dials a proxy for this port. Set serial.listen, and let the \
                 port's proxy URI name the address of otter."
                .to_owned())
        }
        SerialBacking::Network { service_uri, direction, proxy_uri: None } => {
            if direction.as_deref() == Some("client") {
                return Err(format!(
                    "The machine itself connects this port to {service_uri}. Make the host listen \
                     (direction server), or set a proxy URI that names otter."
                ));
            }
            dial(service_uri, terms)
        }
        SerialBacking::Pipe { name, endpoint } => pipe(name, endpoint.as_deref(), terms),
        SerialBacking::File { path } => file(path),
        SerialBacking::Device { .. } => {
            Err("The port is a device of the host, which only the machine uses. Use a network \
                 port (telnet://:20016, direction server) in its place."
                .to_owned())
        }
    }
}

/// The way to a port on which the host listens. The host in the URI does not matter: the address of
/// the host's API is dialled.
fn dial(uri: &str, terms: &RouteTerms<'_>) -> Result<SerialRoute, String> {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("tcp", uri));
    let protocol = match scheme.to_ascii_lowercase().as_str() {
        "telnet" => WireProtocol::Telnet,
        "tcp" | "tcp4" | "tcp6" => WireProtocol::Raw,
        "telnets" | "ssl" | "tcp+ssl" | "tcp4+ssl" | "tcp6+ssl" => {
            return Err(format!(
                "otter does not speak TLS on serial ports, and {uri} needs it. Use telnet:// or \
                 tcp://."
            ));
        }
        _ => return Err(format!("otter does not know the scheme of {uri}.")),
    };
    let address = rest.split(['/', '#', '?']).next().unwrap_or_default();
    let number = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let Some(port) = number.filter(|port| *port > 0) else {
        return Err(format!("The URI {uri} has no port. Write one, as in telnet://:20016."));
    };
    if port == terms.api_port || RESERVED.iter().any(|reserved| reserved.contains(&port)) {
        return Err(format!(
            "The port {port} of {uri} belongs to a service of the host. Use one from 1024 on, such \
             as telnet://:20016."
        ));
    }
    Ok(SerialRoute::Dial { port, protocol })
}

fn pipe(name: &str, endpoint: Option<&str>, terms: &RouteTerms<'_>) -> Result<SerialRoute, String> {
    let unreachable = |why: &str| {
        Err(format!(
            "The port is the pipe {name}, and {why}. Run otter in a machine with a serial port on \
             the other end of this pipe, or use a network port (telnet://:20016, direction server)."
        ))
    };
    let Some(own) = terms.own_machine else {
        return unreachable("otter does not run in a machine of this host");
    };
    let is_other_end = |port: &&SerialPort| match &port.backing {
        SerialBacking::Pipe { name: other, endpoint: of_other } => {
            other == name
                && (endpoint.is_none() || of_other.is_none() || endpoint != of_other.as_deref())
        }
        _ => false,
    };
    let Some(other) = own.serial_ports.iter().find(is_other_end) else {
        return unreachable(&format!(
            "no port of {}, in which otter runs, is its other end",
            own.name
        ));
    };
    let device = other.linux_device.as_deref();
    let number = device.and_then(|device| device.strip_prefix("ttyS")?.parse().ok());
    match number {
        Some(number) => Ok(SerialRoute::OwnPort(number)),
        None => unreachable(&format!("the number of the port {} is not known", other.label)),
    }
}

/// The file of a port, from its path `[datastore] folder/file`.
fn file(path: &str) -> Result<SerialRoute, String> {
    let parts = path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let parts = parts.map(|(datastore, path)| (datastore.trim(), path.trim()));
    match parts.filter(|(datastore, path)| !datastore.is_empty() && !path.is_empty()) {
        Some((datastore, path)) => {
            Ok(SerialRoute::File { datastore: datastore.to_owned(), path: path.to_owned() })
        }
        None => Err(format!("The path {path:?} of the port's file is on no datastore.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::MachineId;

    fn port(key: i32, backing: SerialBacking) -> SerialPort {
        let linux_device = Some(format!("ttyS{}", key - 9000));
        SerialPort { key, label: format!("Serial port {}", key - 8999), backing, linux_device }
    }

    fn network(uri: &str, direction: &str, proxy: Option<&str>) -> SerialPort {
        let backing = SerialBacking::Network {
            service_uri: uri.to_owned(),
            direction: Some(direction.to_owned()),
            proxy_uri: proxy.map(str::to_owned),
        };
        port(9000, backing)
    }

    fn pipe_end(name: &str, endpoint: &str) -> SerialBacking {
        SerialBacking::Pipe { name: name.to_owned(), endpoint: Some(endpoint.to_owned()) }
    }

    const ALONE: RouteTerms<'_> = RouteTerms { own_machine: None, listens: false, api_port: 443 };

    #[test]
    fn a_port_on_which_the_host_listens_is_dialled_whatever_host_its_uri_names() {
        for (uri, port, protocol) in [
            ("telnet://:20016", 20016, WireProtocol::Telnet),
            ("telnet://evil.example:20016/", 20016, WireProtocol::Telnet),
            ("tcp://[::1]:20017", 20017, WireProtocol::Raw),
            ("tcp4://10.0.0.1:20018", 20018, WireProtocol::Raw),
            ("10.0.0.1:20019", 20019, WireProtocol::Raw),
            ("TELNET://:20016#certificate=x", 20016, WireProtocol::Telnet),
        ] {
            let way = route(&network(uri, "server", None), &ALONE);
            assert_eq!(way, Ok(SerialRoute::Dial { port, protocol }), "{uri}");
        }
    }

    #[test]
    fn services_of_the_host_and_other_protocols_are_not_dialled() {
        let api = RouteTerms { api_port: 8443, ..ALONE };
        for uri in [
            "telnet://:23",
            "telnet://:443",
            "tcp://:902",
            "tcp://:5988",
            "tcp://:5989",
            "tcp://:8000",
            "tcp://:8080",
            "tcp://:9080",
            "tcp://:8443",
            "telnet://:0",
            "telnet://:70000",
            "telnet://host",
            "tcp://5000",
            "telnets://:20016",
            "tcp+ssl://:20016",
            "http://:20016",
            "",
        ] {
            assert!(route(&network(uri, "server", None), &api).is_err(), "{uri}");
        }
        assert!(route(&network("telnet://h:20016", "client", None), &api).is_err());
    }

    #[test]
    fn a_port_with_a_proxy_dials_otter_if_otter_listens() {
        let proxied = network("dom0", "server", Some("telnet://otter:13370"));
        assert!(route(&proxied, &ALONE).unwrap_err().contains("serial.listen"));
        let listens = RouteTerms { listens: true, ..ALONE };
        let expected = SerialRoute::Concentrator { service: "dom0".to_owned() };
        assert_eq!(route(&proxied, &listens), Ok(expected));
    }

    #[test]
    fn a_pipe_is_reached_through_the_machine_that_has_its_other_end() {
        let target = port(9000, pipe_end("/tmp/dom0", "server"));
        assert!(route(&target, &ALONE).unwrap_err().contains("does not run in a machine"));
        let mut own = Machine::new(MachineId::from_backend("9"));
        own.serial_ports =
            vec![port(9000, pipe_end("/tmp/dom0", "server")), port(9001, pipe_end("/x", "client"))];
        let terms = RouteTerms { own_machine: Some(&own), ..ALONE };
        assert!(route(&target, &terms).unwrap_err().contains("no port of 9"));
        own.serial_ports.push(port(9002, pipe_end("/tmp/dom0", "client")));
        let terms = RouteTerms { own_machine: Some(&own), ..ALONE };
        assert_eq!(route(&target, &terms), Ok(SerialRoute::OwnPort(2)));
    }

    #[test]
    fn the_file_of_a_port_is_on_its_datastore() {
        let of = |path: &str| route(&port(9000, SerialBacking::File { path: path.into() }), &ALONE);
        let expected =
            SerialRoute::File { datastore: "ds 1".to_owned(), path: "logs/a.txt".to_owned() };
        assert_eq!(of("[ds 1] logs/a.txt"), Ok(expected));
        for path in ["", "a.txt", "[] a", "[ds]", "[ds] "] {
            assert!(of(path).is_err(), "{path}");
        }
        assert!(route(&port(9000, SerialBacking::Device { name: None }), &ALONE).is_err());
    }
}
