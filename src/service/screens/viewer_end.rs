//! Why a viewer of a screen, or the stream of a serial port, ended.

/// Why a viewer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewerEnd {
    /// It closed its connection, or the connection broke.
    Left,
    /// Its token was revoked or rotated, or has expired.
    TokenRefused,
    /// It may no longer look or drive; the text says why.
    RightEnded(String),
    /// The lease by which it looked or drove has ended.
    LeaseEnded(String),
    /// Another viewer drives.
    TakenOver,
    ShuttingDown,
    /// It was silent for too long.
    Silent,
    /// It sent what the protocol does not allow; the text says what.
    Protocol(String),
    /// It sent a message that is too large.
    TooLarge,
    /// otter failed; the text says why.
    Failed(String),
    /// The machine is gone.
    MachineGone,
}

impl ViewerEnd {
    /// The reason as a word, for metrics and the audit.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::TokenRefused => "token",
            Self::RightEnded(_) => "right",
            Self::LeaseEnded(_) => "lease-ended",
            Self::TakenOver => "taken-over",
            Self::ShuttingDown => "shutting-down",
            Self::Silent => "silent",
            Self::Protocol(_) => "protocol",
            Self::TooLarge => "too-large",
            Self::Failed(_) => "failed",
            Self::MachineGone => "machine-gone",
        }
    }

    /// The reason as a text for people. The close message of a WebSocket has it.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::RightEnded(detail)
            | Self::LeaseEnded(detail)
            | Self::Protocol(detail)
            | Self::Failed(detail) => detail,
            Self::Left => "the viewer left",
            Self::TokenRefused => "the token was revoked, rotated or has expired",
            Self::TakenOver => "another client took over",
            Self::ShuttingDown => "otter is shutting down",
            Self::Silent => "the viewer was silent for too long",
            Self::TooLarge => "the message is too large",
            Self::MachineGone => "the machine is gone",
        }
    }
}
