//! The reverse proxies that otter trusts to say in their headers who their clients are.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::network::Network;

/// A reverse proxy that otter trusts, named by the way in which it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// Every proxy with an address in this network.
    Network(Network),
    /// Every proxy that connects over a Unix socket.
    Unix,
}

/// The error for a text that is neither a network nor `unix`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write an IP network, such as 10.0.0.0/8 or fd00::/8, a single address, or unix for a proxy on \
     otter's Unix socket"
)]
pub struct InvalidTrustedProxy;

impl TrustedProxy {
    /// Whether a proxy with this address is trusted.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        matches!(self, Self::Network(network) if network.contains(address))
    }
}

impl FromStr for TrustedProxy {
    type Err = InvalidTrustedProxy;

    fn from_str(text: &str) -> Result<Self, InvalidTrustedProxy> {
        match text {
            "unix" => Ok(Self::Unix),
            network => network.parse().map(Self::Network).map_err(|_| InvalidTrustedProxy),
        }
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(formatter),
            Self::Unix => formatter.write_str("unix"),
        }
    }
}
