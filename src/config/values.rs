//! The single values: how each is read from text, and what is said where it cannot be.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
use tracing_subscriber::EnvFilter;

/// A text that is not what was wanted: the sentence that says what is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(&'static str);

/// Where otter listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// How the host's certificate is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Against the system's authorities.
    #[default]
    System,
    /// Not at all.
    Off,
    /// Against the authorities, or the certificate, in this file.
    CaFile(PathBuf),
    /// It must have this SHA-256 fingerprint.
    Fingerprint([u8; 32]),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, else JSON.
    #[default]
    Auto,
    Human,
    Json,
}

impl Default for Listen {
    fn default() -> Self {
        Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))
    }
}

impl FromStr for Listen {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
            Some(_) => {
                Err(InvalidValue("the path of a Unix socket must be absolute, as in unix:/run/otter.sock"))
            }
            None => text.parse().map(Self::Tcp).map_err(|_| {
                InvalidValue(
                    "an address and a port are wanted, such as 127.0.0.1:8080 or [::1]:8080, or unix:/path",
                )
            }),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Verify {
    type Err = InvalidValue;

    /// `true`, `false`, `ca:<file>`, or `sha256:` and 64 hexadecimal digits, colons among them allowed.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match (text, text.split_once(':')) {
            ("true", _) => Ok(Self::System),
            ("false", _) => Ok(Self::Off),
            (_, Some(("ca", file))) if !file.is_empty() => Ok(Self::CaFile(PathBuf::from(file))),
            (_, Some(("ca", _))) => Err(InvalidValue("ca: wants the path of a file behind it")),
            (_, Some(("sha256", digits))) => {
                let mut fingerprint = [0; 32];
                hex::decode_to_slice(digits.replace(':', ""), &mut fingerprint).map_err(|_| {
                    InvalidValue(
                        "sha256: wants the certificate's fingerprint behind it, 64 hexadecimal digits",
                    )
                })?;
                Ok(Self::Fingerprint(fingerprint))
            }
            _ => Err(InvalidValue("true, false, ca:<file> or sha256:<fingerprint> is wanted")),
        }
    }
}

impl FromStr for LogFormat {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "auto" => Ok(Self::Auto),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(InvalidValue("auto, human or json is wanted")),
        }
    }
}

/// Reads a value of a type that says itself what it wants.
pub fn parsed<T: FromStr<Err = InvalidValue>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: InvalidValue| error.to_string())
}

pub fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// The address of a host's API: `https://host[:port]`, with `/sdk` put behind it where it has no path. Without
/// TLS the password would be readable on its way, so `http` is for this machine alone.
pub fn host_url(text: &str) -> Result<String, String> {
    let wanted = |why: &str| format!("{why}; https://<host> or https://<host>:<port> is wanted");
    let uri: Uri = text.parse().map_err(|_| wanted("it is no URL"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wanted("it does not begin with https://"));
    };
    if authority.as_str().contains('@') {
        return Err(wanted("the account belongs into esx.username and esx.password_file"));
    }
    if uri.query().is_some() {
        return Err(wanted("it has a query"));
    }
    let host = authority.host();
    let here = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match scheme {
        "https" => {}
        "http" if here => {}
        "http" => return Err(wanted("http would show the password to the network")),
        _ => return Err(wanted("it does not begin with https://")),
    }
    let path = match uri.path() {
        "" | "/" => "/sdk",
        path => path.trim_end_matches('/'),
    };
    Ok(format!("{scheme}://{authority}{path}"))
}

/// A level, or the directives of `tracing_subscriber`. A lone word that is no level would be taken for the name
/// of a module, and silence the rest.
pub fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let lone = !text.contains(['=', ',', '[']);
    let sound = if lone {
        LEVELS.contains(&text.to_ascii_lowercase().as_str())
    } else {
        EnvFilter::builder().parse(text).is_ok()
    };
    if sound {
        Ok(text.to_owned())
    } else {
        Err("off, error, warn, info, debug or trace is wanted, or directives such as info,otter::esx=debug"
            .to_owned())
    }
}
