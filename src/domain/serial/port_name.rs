//! The names by which callers name a serial port of a machine.

use std::fmt;
use std::str::FromStr;

use crate::domain::machine::{Machine, SerialPort};

/// A name of a serial port: the key of the device, or the name of the port in a Linux guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortName {
    Key(i32),
    /// `ttyS` and this number.
    Linux(u32),
}

/// A text that is no [`PortName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write the key of a serial port, such as 9000, or its name in Linux, such as ttyS0")]
pub struct InvalidPortName;

impl PortName {
    /// The first port in a Linux guest.
    pub const FIRST: Self = Self::Linux(0);

    const LINUX: &str = "ttyS";

    /// The port of a machine that has this name.
    #[must_use]
    pub fn find(self, machine: &Machine) -> Option<&SerialPort> {
        machine.serial_ports.iter().find(|port| match self {
            Self::Key(key) => port.key == key,
            Self::Linux(_) => port.linux_device.as_deref() == Some(&self.to_string()),
        })
    }

    /// The names of all ports of a machine, for messages. A port with a Linux name shows both.
    #[must_use]
    pub fn all_of(machine: &Machine) -> Vec<String> {
        let name = |port: &SerialPort| match &port.linux_device {
            Some(device) => format!("{device} ({})", port.key),
            None => port.key.to_string(),
        };
        machine.serial_ports.iter().map(name).collect()
    }
}

impl FromStr for PortName {
    type Err = InvalidPortName;

    fn from_str(text: &str) -> Result<Self, InvalidPortName> {
        let is_number =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(number) = text.strip_prefix(Self::LINUX).filter(|number| is_number(number)) {
            return number.parse().map(Self::Linux).map_err(|_| InvalidPortName);
        }
        let key = Some(text).filter(|text| is_number(text)).ok_or(InvalidPortName)?;
        key.parse().map(Self::Key).map_err(|_| InvalidPortName)
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(formatter, "{key}"),
            Self::Linux(number) => write!(formatter, "{}{number}", Self::LINUX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::MachineId;
    use crate::domain::machine::SerialBacking;

    #[test]
    fn a_port_is_found_by_its_key_and_by_its_name_in_linux() {
        let port = |key, device: Option<&str>| SerialPort {
            key,
            label: String::new(),
            backing: SerialBacking::Device { name: None },
            linux_device: device.map(str::to_owned),
        };
        let mut machine = Machine::new(MachineId::from_backend("16"));
        machine.serial_ports = vec![port(9001, Some("ttyS1")), port(9000, Some("ttyS0"))];
        machine.serial_ports.push(port(9002, None));
        let find =
            |name: &str| name.parse::<PortName>().unwrap().find(&machine).map(|port| port.key);
        assert_eq!(
            (find("ttyS0"), find("9001"), find("9002")),
            (Some(9000), Some(9001), Some(9002))
        );
        assert_eq!((find("ttyS2"), find("9003")), (None, None));
        assert_eq!(PortName::all_of(&machine), ["ttyS1 (9001)", "ttyS0 (9000)", "9002"]);
        assert_eq!(PortName::FIRST.to_string(), "ttyS0");
    }

    #[test]
    fn other_texts_name_no_port() {
        for text in ["", "ttyS", "ttyS-1", "ttys0", "COM1", "+9000", "-1", "99999999999", "9000 "] {
            assert_eq!(text.parse::<PortName>(), Err(InvalidPortName), "{text}");
        }
    }
}
