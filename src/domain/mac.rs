//! Hardware addresses, read from every spelling that people and tools use.

use std::fmt;
use std::str::FromStr;

/// Six octets; shown lower-case with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress([u8; 6]);

/// The text is no hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a hardware address: six octets of hexadecimal digits, such as 00:50:56:ab:cd:ef, are wanted")]
pub struct InvalidMacAddress;

impl MacAddress {
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(formatter, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    /// Any case. With `:`, `-` or `.` between six octets each may lack its leading zero (`0:50:56:1:2:3`); the
    /// three groups of four of some switches (`0050.56ab.cdef`) pass too. Without separators the whole is
    /// left-padded with zeros to twelve digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let separator = text.chars().find(|character| matches!(character, ':' | '-' | '.'));
        let digits = match separator {
            Some(separator) => {
                let groups: Vec<&str> = text.split(separator).collect();
                let width = match groups.len() {
                    6 => 2,
                    3 => 4,
                    _ => return Err(InvalidMacAddress),
                };
                let mut digits = String::with_capacity(12);
                for group in groups {
                    if group.is_empty() || group.len() > width {
                        return Err(InvalidMacAddress);
                    }
                    digits.extend(std::iter::repeat_n('0', width - group.len()));
                    digits.push_str(group);
                }
                digits
            }
            None if (1..=12).contains(&text.len()) => format!("{text:0>12}"),
            None => return Err(InvalidMacAddress),
        };
        let mut octets = [0; 6];
        // `hex` refuses whatever is no digit, separators of another kind among it.
        hex::decode_to_slice(digits, &mut octets).map_err(|_| InvalidMacAddress)?;
        Ok(Self(octets))
    }
}
