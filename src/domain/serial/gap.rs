//! Gaps in what otter received from a serial port.

use jiff::Timestamp;

/// A place in the output of a serial port where bytes may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The offset of the first byte after the gap.
    pub offset: u64,
    /// How many offsets before it no byte has. Zero unless otter died: the number of the bytes that
    /// the machine output meanwhile is not known.
    pub skipped: u64,
    /// When the gap ended.
    pub at: Timestamp,
    pub reason: GapReason,
}

impl Gap {
    /// The offset at which the gap begins.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.offset.saturating_sub(self.skipped)
    }
}

/// Why bytes may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The connection to the port was lost and made again, for example because the machine was
    /// turned off and on.
    Reconnect,
    /// No one used the port for a while, so that otter was not connected.
    Closed,
    /// otter was restarted.
    Restart,
    /// otter died. It goes on with an offset that it never gave to a byte.
    Crash,
    /// otter did not keep the bytes: they were too many for the reader, or for the disk.
    Overflow,
}

impl GapReason {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::Reconnect, Self::Closed, Self::Restart, Self::Crash, Self::Overflow];

    /// The word in the HTTP API and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reconnect => "reconnect",
            Self::Closed => "closed",
            Self::Restart => "restart",
            Self::Crash => "crash",
            Self::Overflow => "overflow",
        }
    }

    /// Parses the word of a reason. `None` if the word names no reason.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_parsed_back() {
        for reason in GapReason::ALL {
            assert_eq!(GapReason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(GapReason::parse("lost"), None);
    }
}
