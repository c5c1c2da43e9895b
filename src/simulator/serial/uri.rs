//! The URIs of network ports: `telnet://:20016`, `tcp://host:port`, or `host:port` alone, which is
//! `tcp`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// How the bytes of a network port are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Raw,
    Telnet,
}

/// A URI of a network port, without its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortUri {
    pub protocol: Protocol,
    pub host: String,
    pub port: u16,
}

impl PortUri {
    /// Reads a URI. `None` if it is malformed, as `tcp://5000` is, or of a scheme that the
    /// simulator does not have: those with TLS or only for IPv6.
    pub fn read(text: &str) -> Option<Self> {
        let base = text.split_once('#').map_or(text, |(base, _)| base).trim();
        let (scheme, rest) = base.split_once("://").unwrap_or(("tcp", base));
        let protocol = match scheme {
            "tcp" | "tcp4" => Protocol::Raw,
            "telnet" => Protocol::Telnet,
            _ => return None,
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
        Some(Self { protocol, host: host.to_owned(), port: port.parse().ok()? })
    }

    /// The URI `text` with another port.
    pub fn with_port(text: &str, port: u16) -> String {
        let parameters = text.find('#').unwrap_or(text.len());
        let (base, parameters) = text.split_at(parameters);
        let host = base.rsplit_once(':').map_or(base, |(host, _)| host);
        format!("{host}:{port}{parameters}")
    }

    /// The address on loopback that the URI names. `None` if it names another computer, which the
    /// simulator never dials.
    pub fn on_loopback(&self) -> Option<SocketAddr> {
        let host = match self.host.as_str() {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.trim_matches(['[', ']']).parse().ok()?,
        };
        host.is_loopback().then(|| SocketAddr::new(host, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_has_a_scheme_a_host_and_a_port() {
        let read = |text: &str| PortUri::read(text).map(|uri| (uri.protocol, uri.host, uri.port));
        let uri = |protocol, host: &str, port| Some((protocol, host.to_owned(), port));
        assert_eq!(read("telnet://:20016"), uri(Protocol::Telnet, "", 20_016));
        assert_eq!(read("tcp4://10.0.0.5:7"), uri(Protocol::Raw, "10.0.0.5", 7));
        assert_eq!(read("ci.example.org:7018"), uri(Protocol::Raw, "ci.example.org", 7_018));
        assert_eq!(read("telnet://h:1/#verify&peerName=x:2"), uri(Protocol::Telnet, "h", 1));
        for wrong in ["", "tcp://5000", "tcp://h:x", "tcp://h:70000", "telnets://h:1", "vspc"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn another_port_changes_nothing_else() {
        assert_eq!(PortUri::with_port("telnet://:0", 5), "telnet://:5");
        assert_eq!(PortUri::with_port("10.0.0.0:0", 5), "10.0.0.0:5");
        assert_eq!(PortUri::with_port("telnet://h:0#peerName=x:0", 5), "telnet://h:5#peerName=x:0");
    }

    #[test]
    fn only_loopback_is_dialled() {
        let address = |text: &str| PortUri::read(text).unwrap().on_loopback();
        for (text, expected) in [
            ("tcp://127.0.0.1:7", "127.0.0.1:7"),
            ("telnet://localhost:8", "127.0.0.1:8"),
            ("tcp://[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(address(text), Some(expected.parse().unwrap()), "{text}");
        }
        for elsewhere in ["tcp://10.0.0.5:7", "telnet://vspc.example.org:13370", "tcp://:7"] {
            assert_eq!(address(elsewhere), None, "{elsewhere}");
        }
    }
}
