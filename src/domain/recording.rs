//! What otter records while a lease is active: the screen of its machine, and its serial ports.

use std::fmt;

use super::machine::SerialPort;
use super::serial::PortName;

/// The word for every serial port of the machine.
const EVERY_PORT: &str = "*";

/// What otter records from the moment a lease is active until its release begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub screen: bool,
    pub serial: Vec<PortChoice>,
}

/// The serial ports that a recording names with one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortChoice {
    Every,
    Named(PortName),
}

/// The error for a word that names no serial port. The text of the error is the rest of a sentence
/// whose subject is the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not *, ttyS with a number, or the key of a port")]
pub struct InvalidPortChoice;

impl PortChoice {
    /// Parses a word: `*`, a name such as `ttyS0`, or the key of a port.
    ///
    /// # Errors
    /// [`InvalidPortChoice`]
    pub fn parse(word: &str) -> Result<Self, InvalidPortChoice> {
        match word {
            EVERY_PORT => Ok(Self::Every),
            word => word.parse().map(Self::Named).map_err(|_| InvalidPortChoice),
        }
    }

    /// Whether this choice names a port of a machine.
    #[must_use]
    pub fn includes(self, port: &SerialPort) -> bool {
        match self {
            Self::Every => true,
            Self::Named(PortName::Key(key)) => port.key == key,
            Self::Named(name) => port.linux_device.as_deref() == Some(&name.to_string()),
        }
    }
}

/// The word of the choice.
impl fmt::Display for PortChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => formatter.write_str(EVERY_PORT),
            Self::Named(name) => name.fmt(formatter),
        }
    }
}

impl Record {
    /// Whether nothing is recorded.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.screen && self.serial.is_empty()
    }

    /// Whether a port of the machine is recorded.
    #[must_use]
    pub fn includes(&self, port: &SerialPort) -> bool {
        self.serial.iter().any(|choice| choice.includes(port))
    }
}

/// The name that the files of a recorded port begin with: its name in a Linux guest, or `serial-`
/// and its key.
#[must_use]
pub fn port_file_stem(port: &SerialPort) -> String {
    port.linux_device.clone().unwrap_or_else(|| format!("serial-{}", port.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::machine::SerialBacking;

    fn port(key: i32, device: Option<&str>) -> SerialPort {
        SerialPort {
            key,
            label: "Serial port".to_owned(),
            backing: SerialBacking::Device { name: None },
            linux_device: device.map(str::to_owned),
        }
    }

    #[test]
    fn a_choice_is_a_star_a_name_or_a_key() {
        for word in ["*", "ttyS0", "ttyS12", "9000"] {
            assert_eq!(PortChoice::parse(word).unwrap().to_string(), word);
        }
        for word in ["", "ttyS", "ttyS-1", "ttyUSB0", "../ttyS0", "ttyS0 ", "99999999999", "**"] {
            assert_eq!(PortChoice::parse(word), Err(InvalidPortChoice), "{word}");
        }
    }

    #[test]
    fn a_recording_includes_the_ports_that_it_names() {
        let record = |words: &[&str]| Record {
            screen: false,
            serial: words.iter().map(|word| PortChoice::parse(word).unwrap()).collect(),
        };
        let (first, odd) = (port(9000, Some("ttyS0")), port(9001, None));
        assert!(record(&["*"]).includes(&first) && record(&["*"]).includes(&odd));
        assert!(record(&["ttyS0"]).includes(&first) && !record(&["ttyS0"]).includes(&odd));
        assert!(record(&["ttyS1", "9001"]).includes(&odd));
        assert!(!record(&[]).includes(&first) && record(&[]).is_empty());
        assert_eq!(
            (port_file_stem(&first), port_file_stem(&odd)),
            ("ttyS0".into(), "serial-9001".into())
        );
    }
}
