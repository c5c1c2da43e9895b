//! A text that a wait looks for in the output of a serial port: `serial:<text>`, or
//! `serial@<port>:<text>`.

use std::fmt;

use super::PortName;
use crate::domain::condition_text::{ConditionText, InvalidConditionText};

/// A text in the output of a serial port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SerialText {
    /// `None` for the first port, `ttyS0`.
    port: Option<PortName>,
    text: ConditionText,
}

impl SerialText {
    /// Checks a text, which is used literally, commas and colons included.
    ///
    /// # Errors
    /// [`InvalidConditionText`]
    pub fn new(port: Option<PortName>, text: &str) -> Result<Self, InvalidConditionText> {
        Ok(Self { port, text: ConditionText::new(text)? })
    }

    /// Parses a condition `serial:<text>` or `serial@<port>:<text>`. `None` if the condition does
    /// not begin so.
    #[must_use]
    pub fn from_condition(condition: &str) -> Option<Result<Self, InvalidConditionText>> {
        let rest = condition.strip_prefix("serial")?;
        if let Some(text) = rest.strip_prefix(':') {
            return Some(Self::new(None, text));
        }
        let rest = rest.strip_prefix('@')?;
        let Some((port, text)) = rest.split_once(':') else {
            return Some(Err(InvalidConditionText::NoPort));
        };
        let port = port.parse().map_err(|_| InvalidConditionText::NoPort);
        Some(port.and_then(|port| Self::new(Some(port), text)))
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> PortName {
        self.port.unwrap_or(PortName::FIRST)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }
}

/// The condition.
impl fmt::Display for SerialText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => write!(formatter, "serial:{}", self.text),
            Some(port) => write!(formatter, "serial@{port}:{}", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_stands_before_the_first_colon_and_the_text_after_it() {
        for (condition, port, text) in [
            ("serial:dom0 login: ", PortName::Linux(0), "dom0 login: "),
            ("serial@ttyS1:a, b", PortName::Linux(1), "a, b"),
            ("serial@9002:@:", PortName::Key(9002), "@:"),
        ] {
            let parsed = SerialText::from_condition(condition).unwrap().unwrap();
            assert_eq!((parsed.port(), parsed.as_str()), (port, text));
            assert_eq!(parsed.to_string(), condition);
        }
    }

    #[test]
    fn mistakes_have_their_reason() {
        let error = |condition: &str| SerialText::from_condition(condition).unwrap().unwrap_err();
        assert_eq!(error("serial:"), InvalidConditionText::Empty);
        assert_eq!(error("serial@COM1:a"), InvalidConditionText::NoPort);
        assert_eq!(error("serial@ttyS0"), InvalidConditionText::NoPort);
        for other in ["serials:a", "Serial:a", "serial", "screen:a"] {
            assert_eq!(SerialText::from_condition(other), None, "{other}");
        }
    }
}
