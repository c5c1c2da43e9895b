//! IP networks, and the rule that says which addresses other machines can reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// An IP network, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// The error for a text that is not an IP network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an IP network, such as 10.0.0.0/8 or fd00::/8, or a single address")]
pub struct InvalidNetwork;

impl Network {
    /// Whether the network contains the address. An IPv4-mapped IPv6 address (`::ffff:10.0.0.1`)
    /// counts as the IPv4 address.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// Whether an address is global or private, so that other machines of the lab may be able to reach
/// it. An IPv4-mapped IPv6 address counts as the IPv4 address.
///
/// The following addresses are neither: unspecified, loopback, link-local and multicast addresses,
/// 6to4 and Teredo addresses, and the addresses that the registries of special-purpose addresses
/// (RFC 6890) reserve for documentation, for protocols and for future use. The shared addresses of
/// providers (100.64.0.0/10) and the addresses for benchmarks (198.18.0.0/15) count as private,
/// because labs use them internally.
#[must_use]
pub fn is_global_or_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_global_or_private_v4(address),
        IpAddr::V6(address) => is_global_or_private_v6(address),
    }
}

const fn is_global_or_private_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        // 0.0.0.0/8 ("this network"), loopback, multicast, and reserved addresses.
        [0 | 127 | 224.., ..]
            // Link-local addresses.
            | [169, 254, ..]
            // The anycast addresses of 6to4 relays.
            | [192, 88, 99, _]
            // Addresses for protocols (192.0.0.0/24) and for documentation.
            | [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _]
    )
}

const fn is_global_or_private_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // In this order: 6to4 addresses, then Teredo and other protocols (2001::/23), then
        // addresses for documentation.
        [0x2002, ..] | [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        // Global addresses, and unique local addresses, which are private.
        [0x2000..=0x3fff | 0xfc00..=0xfdff, ..] => true,
        _ => false,
    }
}

impl FromStr for Network {
    type Err = InvalidNetwork;

    /// Parses a network in the form `address/prefix`. An address without a prefix is a network that
    /// contains only this address.
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| InvalidNetwork)?,
        };
        Ok(Self(canonical(network)))
    }
}

/// Turns an IPv4-mapped IPv6 network (`::ffff:10.0.0.0/104`) into the IPv4 network. Other networks
/// stay as they are.
fn canonical(network: IpNet) -> IpNet {
    let IpAddr::V4(address) = network.addr().to_canonical() else { return network };
    let bits = if network.addr().is_ipv6() { 96 } else { 0 };
    let prefix = network.prefix_len().checked_sub(bits);
    prefix.and_then(|prefix| IpNet::new(address.into(), prefix).ok()).unwrap_or(network)
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_global_and_private_addresses_count() {
        let reachable = [
            "10.0.0.32",
            "172.17.0.1",
            "172.31.9.9",
            "192.168.1.4",
            "100.64.0.9",
            "198.18.0.1",
            "8.8.8.8",
            "169.253.1.1",
            "223.255.255.1",
            "::ffff:10.0.0.1",
            "fd12::1",
            "2001:4860::1",
            "2a00:1450::2",
            "3ffe::1",
        ];
        let others = [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.7.9",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:169.254.7.9",
            "64:ff9b::a00:1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:0:53aa::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:a00:20::1",
            "3fff::1",
            "::a00:20",
        ];
        for (addresses, expected) in [(&reachable[..], true), (&others[..], false)] {
            for address in addresses {
                assert_eq!(is_global_or_private(address.parse().unwrap()), expected, "{address}");
            }
        }
    }

    #[test]
    fn a_network_contains_only_addresses_in_its_range() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.200.3.4"));
        assert!(contains("10.0.0.0/8", "::ffff:10.200.3.4"));
        assert!(contains("::ffff:10.0.0.0/104", "10.200.3.4"));
        assert!(contains("::ffff:10.0.0.1", "10.0.0.1"));
        assert!(!contains("::ffff:10.0.0.0/104", "11.0.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(contains("fd00::/8", "fd12::1"));
        assert!(contains("192.168.0.7", "192.168.0.7"));
        assert!(!contains("192.168.0.7", "192.168.0.8"));
        assert!(!contains("::/0", "1.2.3.4"));
        for broken in
            ["", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/", "ten/8", "::/129"]
        {
            assert_eq!(broken.parse::<Network>(), Err(InvalidNetwork), "{broken}");
        }
    }
}
