//! Names of a server on the web: the value of the header `Host`, called authority
//! (`otter.lab:8080`), and the value of the header `Origin` (`https://otter.lab`, RFC 6454).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The scheme of a URL at which clients reach otter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// The host in an authority or an origin. Names are compared without regard to upper and lower
/// case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostName {
    /// A DNS name in lower case.
    Name(String),
    Address(IpAddr),
}

/// An authority: a host and an optional port, as in the header `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    pub host: HostName,
    pub port: Option<u16>,
}

/// A web origin: a scheme, a host and a port. A browser grants permissions to pages by their
/// origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOrigin {
    scheme: Scheme,
    host: HostName,
    port: u16,
}

/// The error for a text that is not a host with an optional port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write a host name or an IP address, and optionally a port, such as otter.lab:8080")]
pub struct InvalidAuthority;

/// The error for a text that is not a web origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an origin without a path, such as https://lab.example or http://127.0.0.1:3000")]
pub struct InvalidOrigin;

impl Scheme {
    /// The port that this scheme uses if the authority contains no port.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl HostName {
    /// Whether the host is the local machine: `localhost` or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Name(name) => name == "localhost",
            Self::Address(address) => address.is_loopback(),
        }
    }
}

impl WebOrigin {
    /// Whether pages of this origin come from the server at `authority`.
    ///
    /// # Parameters
    /// - `scheme`: the scheme that the server uses. It decides the port if `authority` contains
    ///   none.
    #[must_use]
    pub fn is_served_by(&self, authority: &Authority, scheme: Scheme) -> bool {
        self.host == authority.host && self.port == authority.port.unwrap_or(scheme.default_port())
    }
}

impl FromStr for HostName {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        if let Some(bracketed) = text.strip_prefix('[') {
            let address = bracketed.strip_suffix(']').ok_or(InvalidAuthority)?;
            let address: Ipv6Addr = address.parse().map_err(|_| InvalidAuthority)?;
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(IpAddr::V4(address)));
        }
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if !text.is_empty() && text.bytes().all(is_name_byte) {
            Ok(Self::Name(text.to_ascii_lowercase()))
        } else {
            Err(InvalidAuthority)
        }
    }
}

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        // An IPv6 address has colons within its brackets, so the colon before the port is searched
        // after them.
        let after_address = text.find(']').map_or(0, |end| end + 1);
        let colon = text[after_address..].find(':').map(|at| after_address + at);
        let (host, port) = match colon {
            None => (text, None),
            Some(at) => {
                let digits = &text[at + 1..];
                let is_number =
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
                let port = digits.parse().ok().filter(|_| is_number).ok_or(InvalidAuthority)?;
                (&text[..at], Some(port))
            }
        };
        Ok(Self { host: host.parse()?, port })
    }
}

impl FromStr for WebOrigin {
    type Err = InvalidOrigin;

    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        let (scheme, authority) = text.split_once("://").ok_or(InvalidOrigin)?;
        let known = [Scheme::Http, Scheme::Https];
        let scheme = known.into_iter().find(|known| scheme.eq_ignore_ascii_case(known.as_str()));
        let scheme = scheme.ok_or(InvalidOrigin)?;
        let Authority { host, port } = authority.parse().map_err(|_| InvalidOrigin)?;
        Ok(Self { scheme, host, port: port.unwrap_or(scheme.default_port()) })
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(formatter),
            Self::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]"),
        }
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() {
            Ok(())
        } else {
            write!(formatter, ":{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_with_an_optional_port_are_authorities() {
        for text in
            ["otter", "otter.lab:8080", "10.0.0.1:80", "[::1]", "[fe80::1]:8080", "my_host-1"]
        {
            assert!(text.parse::<Authority>().is_ok(), "{text}");
        }
        for text in [
            "",
            ":80",
            "[::1]evil.com",
            "[::1]:80evil",
            "[::1",
            "::1",
            "[127.0.0.1]",
            "evil[::1]",
            "[::1]]",
            "user@otter",
            "otter:",
            "otter:+80",
            "otter:65536",
            "otter:80:80",
            "otter/path",
            "otter lab",
            "ótter",
            "a,b",
        ] {
            assert_eq!(text.parse::<Authority>(), Err(InvalidAuthority), "{text}");
        }
    }

    #[test]
    fn loopback_hosts_are_recognised() {
        let is_loopback = |text: &str| text.parse::<Authority>().unwrap().host.is_loopback();
        for ours in
            ["localhost", "LOCALHOST:8080", "127.0.0.1", "127.8.9.1:80", "[::1]:8080", "[::1]"]
        {
            assert!(is_loopback(ours), "{ours}");
        }
        for other in [
            "otter.lab",
            "localhost.evil.example:80",
            "10.0.0.1",
            "[fe80::1]:80",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn an_origin_is_served_by_the_server_with_its_host_and_port() {
        for (origin, authority, scheme, is_served) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080", Scheme::Http, true),
            ("HTTP://LocalHost:8080", "localhost:8080", Scheme::Http, true),
            ("http://localhost", "localhost:80", Scheme::Http, true),
            ("http://localhost:80", "localhost", Scheme::Http, true),
            ("https://otter.lab", "otter.lab", Scheme::Https, true),
            ("https://otter.lab", "otter.lab:443", Scheme::Https, true),
            ("http://[::1]:8080", "[0:0::1]:8080", Scheme::Http, true),
            ("http://otter.lab", "otter.lab", Scheme::Https, false),
            ("http://127.0.0.1:8081", "127.0.0.1:8080", Scheme::Http, false),
            ("http://localhost:8080", "127.0.0.1:8080", Scheme::Http, false),
            ("http://evil.example:8080", "127.0.0.1:8080", Scheme::Http, false),
        ] {
            let (from, to): (WebOrigin, Authority) =
                (origin.parse().unwrap(), authority.parse().unwrap());
            assert_eq!(from.is_served_by(&to, scheme), is_served, "{origin} {authority}");
        }
    }

    #[test]
    fn origins_are_exact() {
        for text in [
            "",
            "null",
            "otter.lab",
            "https://",
            "https://otter.lab/",
            "https://otter.lab/page",
            "https://user@otter.lab",
            "https://*.lab",
            "chrome-extension://abc",
            "file://otter.lab",
        ] {
            assert_eq!(text.parse::<WebOrigin>(), Err(InvalidOrigin), "{text}");
        }
        for text in ["https://otter.lab", "http://otter.lab:8080", "https://[::1]:8443"] {
            assert_eq!(text.parse::<WebOrigin>().unwrap().to_string(), text);
        }
    }
}
