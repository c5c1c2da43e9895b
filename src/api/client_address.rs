//! Determines the client address of a request: the peer of the connection, or the address that a
//! trusted proxy reports in `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::domain::network::Network;

pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(IpAddr),
    /// A process on this machine, over a Unix socket.
    Unix,
}

/// The client's address. While the current address belongs to a trusted proxy, the next address of
/// `X-Forwarded-For`, from the right, replaces it. An entry that is not an address ends the search.
///
/// `None` if the peer has no address.
#[must_use]
pub fn client_address(
    peer: Option<Peer>,
    headers: &HeaderMap,
    trusted_proxies: &[Network],
) -> Option<IpAddr> {
    let Some(Peer::Tcp(peer)) = peer else { return None };
    let is_trusted =
        |address: IpAddr| trusted_proxies.iter().any(|network| network.contains(address));
    let mut address = peer.to_canonical();
    let lines =
        headers.get_all(X_FORWARDED_FOR).into_iter().map(|line| line.to_str().unwrap_or(""));
    let reported: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
    for report in reported.into_iter().rev() {
        if !is_trusted(address) {
            break;
        }
        let Some(next) = reported_address(report.trim()) else { break };
        address = next;
    }
    Some(address)
}

/// Parses an address as proxies write it, with or without a port.
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
            // The entries to the left are the client's own.
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
        assert_eq!(client_address(Some(Peer::Unix), &HeaderMap::new(), &trusted), None);
    }
}
