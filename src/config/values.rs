//! How single values of the configuration are parsed, with the messages for invalid values.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use crate::domain::host_url;

/// The error for an invalid value. Its message says what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(&'static str);

/// The address on which otter listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `Human` if stderr is a terminal, otherwise `Json`.
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
            Some(_) => Err(InvalidValue(
                "the path of a Unix socket must be absolute, as in unix:/run/otter.sock",
            )),
            // `localhost` means the same address on every machine. Another name could mean several
            // addresses, so it is not accepted.
            None => match text.strip_prefix("localhost:").map(str::parse) {
                Some(Ok(port)) => Ok(Self::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
                _ => text.parse().map(Self::Tcp).map_err(|_| {
                    InvalidValue(
                        "write an IP address and a port, such as 127.0.0.1:8080, 0.0.0.0:8080 or \
                         [::1]:8080, or unix:/path; the only accepted name is localhost",
                    )
                }),
            },
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

impl FromStr for LogFormat {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "auto" => Ok(Self::Auto),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(InvalidValue("expected auto, human or json")),
        }
    }
}

/// Parses a value whose type has error messages that say what to write.
pub fn parsed<T: FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

pub fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("it must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Completes the address of a host's API to a URL.
pub fn host_url(text: &str) -> Result<String, String> {
    host_url::normalize(text).map_err(|error| error.to_string())
}

/// Checks a log level: one level, or directives of `tracing_subscriber`. A single word that is not
/// a level is refused. `tracing_subscriber` would take it as the name of a module, and disable the
/// log of all other modules.
pub fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_single_word = !text.contains(['=', ',', '[']);
    let is_valid = if is_single_word {
        LEVELS.contains(&text.to_ascii_lowercase().as_str())
    } else {
        EnvFilter::builder().parse(text).is_ok()
    };
    if is_valid {
        Ok(text.to_owned())
    } else {
        Err("expected off, error, warn, info, debug, trace or directives such as \
             info,otter::esx=debug"
            .to_owned())
    }
}
