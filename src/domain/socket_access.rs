//! Who may connect to a Unix socket: the mode and the group of the socket's file. A process may
//! connect if it has the permission to write to the file.

use std::fmt;
use std::str::FromStr;

/// The mode and the group of a socket's file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketAccess {
    pub mode: SocketMode,
    /// The group of the file. `None` keeps the group that the system gives the file.
    pub group: Option<SocketGroup>,
}

/// The permissions of a socket's file. By default only the owner of the file may connect.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SocketMode(u32);

/// A group of the operating system, by its name or its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketGroup {
    Name(String),
    Id(u32),
}

/// The error for a text that is not a mode or not a group. Its message says what to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidSocketAccess(&'static str);

impl SocketMode {
    /// The permission bits, as the command `chmod` takes them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl Default for SocketMode {
    fn default() -> Self {
        Self(0o600)
    }
}

impl FromStr for SocketMode {
    type Err = InvalidSocketAccess;

    fn from_str(text: &str) -> Result<Self, InvalidSocketAccess> {
        const EXPECTED: InvalidSocketAccess =
            InvalidSocketAccess("write three octal digits after a 0, such as \"0660\" or \"0600\"");
        let digits = text.strip_prefix('0').filter(|digits| digits.len() == 3).unwrap_or(text);
        if digits.len() != 3 || !digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
            return Err(EXPECTED);
        }
        let mode = u32::from_str_radix(digits, 8).map_err(|_| EXPECTED)?;
        if mode & 0o600 != 0o600 {
            return Err(InvalidSocketAccess(
                "otter itself must be able to read and write: the first digit is 6 or 7, as in \
                 \"0660\"",
            ));
        }
        Ok(Self(mode))
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:04o}", self.0)
    }
}

impl fmt::Debug for SocketMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SocketMode({self})")
    }
}

impl FromStr for SocketGroup {
    type Err = InvalidSocketAccess;

    fn from_str(text: &str) -> Result<Self, InvalidSocketAccess> {
        const EXPECTED: InvalidSocketAccess =
            InvalidSocketAccess("write the name of a group, or its number, such as \"otter\"");
        if text.bytes().all(|digit| digit.is_ascii_digit()) {
            return text.parse().map(Self::Id).map_err(|_| EXPECTED);
        }
        let is_valid = !text.contains([':', ',', '/']) && !text.contains(char::is_whitespace);
        if is_valid { Ok(Self::Name(text.to_owned())) } else { Err(EXPECTED) }
    }
}

impl fmt::Display for SocketGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Id(id) => id.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_octal_and_lets_otter_itself_read_and_write() {
        for (text, bits) in [("0660", 0o660), ("660", 0o660), ("0600", 0o600), ("777", 0o777)] {
            assert_eq!(text.parse::<SocketMode>().unwrap().bits(), bits, "{text}");
        }
        assert_eq!("666".parse::<SocketMode>().unwrap().to_string(), "0666");
        for text in
            ["", "0", "60", "0o660", "u=rw", "0680", "1660", "00660", "+660", "0060", "0460"]
        {
            assert!(text.parse::<SocketMode>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_is_a_name_or_a_number() {
        for (text, group) in
            [("otter", SocketGroup::Name("otter".to_owned())), ("107", SocketGroup::Id(107))]
        {
            assert_eq!(text.parse::<SocketGroup>().unwrap(), group);
            assert_eq!(group.to_string(), text);
        }
        for text in ["", "otter:otter", "a b", "99999999999"] {
            assert!(text.parse::<SocketGroup>().is_err(), "{text}");
        }
    }
}
