//! Determines the client address of a request: the peer of the connection, or the address that a
//! trusted proxy reports in `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::domain::trusted_proxy::TrustedProxy;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(IpAddr),
    /// A process on this machine, over a Unix socket.
    Unix,
}

/// Whether the other end of a connection is a trusted proxy.
#[must_use]
pub fn is_trusted_peer(peer: Option<Peer>, trusted_proxies: &[TrustedProxy]) -> bool {
    match peer {
        Some(Peer::Tcp(address)) => is_trusted(address, trusted_proxies),
        Some(Peer::Unix) => trusted_proxies.contains(&TrustedProxy::Unix),
        None => false,
    }
}

/// The address of the client. The search begins at the peer of the connection. As long as the
/// address found so far belongs to a trusted proxy, the next entry of `X-Forwarded-For` replaces
/// that address, from the last entry to the first. An entry that is not an address ends the search.
///
/// `None` if the peer has no address, and is no trusted proxy that reports one.
#[must_use]
pub fn client_address(
    peer: Option<Peer>,
    headers: &HeaderMap,
    trusted_proxies: &[TrustedProxy],
) -> Option<IpAddr> {
    let mut address = match peer? {
        Peer::Tcp(address) => Some(address.to_canonical()),
        Peer::Unix => None,
    };
    if !is_trusted_peer(peer, trusted_proxies) {
        return address;
    }
    let lines =
        headers.get_all(X_FORWARDED_FOR).into_iter().map(|line| line.to_str().unwrap_or(""));
    let reported: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
    for report in reported.into_iter().rev() {
        if address.is_some_and(|address| !is_trusted(address, trusted_proxies)) {
            break;
        }
        let Some(next) = reported_address(report.trim()) else { break };
        address = Some(next);
    }
    address
}

fn is_trusted(address: IpAddr, trusted_proxies: &[TrustedProxy]) -> bool {
    trusted_proxies.iter().any(|proxy| proxy.contains(address))
}

/// Parses an address in the form in which proxies write it, with or without a port.
fn reported_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_trusted_proxies_determine_the_client_address() {
        let trusted = ["10.0.0.0/8", "fd00::1"].map(|network| network.parse().unwrap());
        let of = |peer: &str, lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
            }
            let peer = Peer::Tcp(peer.parse().unwrap());
            client_address(Some(peer), &headers, &trusted).unwrap().to_string()
        };
        for (peer, lines, client) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            // The last entry counts, which the trusted proxy wrote. The client itself may have
            // written the entries before the last one.
            ("10.0.0.1", &["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["127.0.0.1", "203.0.113.9,10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["203.0.113.9, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9, , 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("fd00::1", &["[2001:db8::1]:80"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
        ] {
            assert_eq!(of(peer, lines), client, "{peer} {lines:?}");
        }
        let mut headers = HeaderMap::new();
        let mut of_unix = |trusted: &[TrustedProxy], line: &'static str| {
            headers.insert(X_FORWARDED_FOR, HeaderValue::from_static(line));
            client_address(Some(Peer::Unix), &headers, trusted).map(|client| client.to_string())
        };
        let with_unix = [trusted[0], TrustedProxy::Unix];
        for (trusted, line, client) in [
            (&trusted[..], "203.0.113.9", None),
            (&with_unix, "", None),
            (&with_unix, "127.0.0.1, 203.0.113.9", Some("203.0.113.9")),
            (&with_unix, "203.0.113.9, 10.0.0.2", Some("203.0.113.9")),
        ] {
            assert_eq!(of_unix(trusted, line).as_deref(), client, "{trusted:?} {line}");
        }
    }
}
