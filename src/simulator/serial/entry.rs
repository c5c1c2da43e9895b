//! How scenarios and the admin endpoint write a change of serial ports. Bytes are written in hex.

use std::net::SocketAddr;

use serde::Deserialize;

use super::{PortChange, SecondClient, SerialChange};

/// A change of serial ports.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SerialEntry {
    Cut {
        machine: String,
        #[serde(default = "first_port")]
        port: String,
        #[serde(default)]
        reset: bool,
    },
    Refuse {
        machine: String,
        #[serde(default = "first_port")]
        port: String,
        #[serde(default = "default_true")]
        refuse: bool,
    },
    Flood {
        machine: String,
        #[serde(default = "first_port")]
        port: String,
        bytes_per_second: u64,
        total: Option<u64>,
    },
    Write {
        machine: String,
        #[serde(default = "first_port")]
        port: String,
        #[serde(default)]
        text: String,
        /// Further bytes, behind the text.
        #[serde(default)]
        hex: String,
    },
    Suboption {
        machine: String,
        #[serde(default = "first_port")]
        port: String,
        code: u8,
        #[serde(default)]
        hex: String,
    },
    Wire {
        machine: String,
        #[serde(default = "first_port")]
        port: String,
        hex: String,
    },
    SecondClient {
        waits: bool,
    },
    /// Where concentrators are that scenarios name by a host that is not on loopback.
    Concentrator {
        address: Option<SocketAddr>,
    },
}

impl SerialEntry {
    /// Checks the entry.
    ///
    /// # Errors
    /// A text for people that names what is wrong with the entry.
    pub fn check(self) -> Result<SerialChange, String> {
        let (machine, port, change) = match self {
            Self::Cut { machine, port, reset } => (machine, port, PortChange::Cut { reset }),
            Self::Refuse { machine, port, refuse } => (machine, port, PortChange::Refuse(refuse)),
            Self::Flood { machine, port, bytes_per_second, total } => {
                (machine, port, PortChange::Flood { bytes_per_second, total })
            }
            Self::Write { machine, port, text, hex } => {
                let mut bytes = text.into_bytes();
                bytes.extend(from_hex(&hex)?);
                (machine, port, PortChange::Write(bytes))
            }
            Self::Suboption { machine, port, code, hex } => {
                (machine, port, PortChange::Suboption { code, payload: from_hex(&hex)? })
            }
            Self::Wire { machine, port, hex } => (machine, port, PortChange::Wire(from_hex(&hex)?)),
            Self::SecondClient { waits } => {
                let becomes = if waits { SecondClient::Waits } else { SecondClient::Closed };
                return Ok(SerialChange::SecondClient(becomes));
            }
            Self::Concentrator { address } => {
                return match address.filter(|address| !address.ip().is_loopback()) {
                    Some(elsewhere) => Err(format!("{elsewhere} is not on loopback")),
                    None => Ok(SerialChange::Concentrator(address)),
                };
            }
        };
        if port.strip_prefix("ttyS").unwrap_or(&port).parse::<u16>().is_err() {
            return Err(format!("{port:?} is neither a port such as ttyS0 nor a device key"));
        }
        Ok(SerialChange::Port { machine, port, change })
    }
}

fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    hex::decode(text).map_err(|error| format!("{text:?} is not hex: {error}"))
}

fn first_port() -> String {
    "ttyS0".to_owned()
}
const fn default_true() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SerialChange, String> {
        serde_json::from_str::<SerialEntry>(text).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn each_change_can_be_written() {
        let port = |change| {
            let (machine, port) = ("16".to_owned(), "ttyS0".to_owned());
            Ok(SerialChange::Port { machine, port, change })
        };
        for (text, expected) in [
            (r#"{"cut": {"machine": "16"}}"#, port(PortChange::Cut { reset: false })),
            (r#"{"refuse": {"machine": "16"}}"#, port(PortChange::Refuse(true))),
            (
                r#"{"flood": {"machine": "16", "bytes_per_second": 5, "total": 9}}"#,
                port(PortChange::Flood { bytes_per_second: 5, total: Some(9) }),
            ),
            (
                r#"{"write": {"machine": "16", "text": "a", "hex": "ff00"}}"#,
                port(PortChange::Write(b"a\xff\0".to_vec())),
            ),
            (
                r#"{"suboption": {"machine": "16", "code": 40, "hex": "ff"}}"#,
                port(PortChange::Suboption { code: 40, payload: vec![255] }),
            ),
            (
                r#"{"wire": {"machine": "16", "port": "ttyS0", "hex": "fff0"}}"#,
                port(PortChange::Wire(vec![255, 240])),
            ),
            (
                r#"{"second-client": {"waits": true}}"#,
                Ok(SerialChange::SecondClient(SecondClient::Waits)),
            ),
            (
                r#"{"concentrator": {"address": "127.0.0.1:13370"}}"#,
                Ok(SerialChange::Concentrator(Some(SocketAddr::from(([127, 0, 0, 1], 13_370))))),
            ),
            (r#"{"concentrator": {}}"#, Ok(SerialChange::Concentrator(None))),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn an_invalid_change_is_an_error() {
        for (text, expected) in [
            (r#"{"cut": {}}"#, "machine"),
            (r#"{"cut": {"machine": "16", "port": "COM1"}}"#, "COM1"),
            (r#"{"wire": {"machine": "16", "hex": "f"}}"#, "hex"),
            (r#"{"flood": {"machine": "16", "rate": 5}}"#, "rate"),
            (r#"{"concentrator": {"address": "10.0.0.5:13370"}}"#, "loopback"),
            (r#"{"explode": {}}"#, "explode"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
