//! Input on its way to the screen of a machine.

use crate::domain::keyboard::Keysym;

/// One message of input to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScreenInput {
    Key {
        keysym: Keysym,
        down: bool,
    },
    /// `buttons`: bit 0 is the left button, 1 the middle, 2 the right, 3 and 4 the wheel.
    Pointer {
        buttons: u8,
        x: u16,
        y: u16,
    },
}

/// Input that the host's socket did not take for certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLost {
    /// Whether the machine may have got a part of it. If false, it got nothing.
    pub maybe_sent: bool,
}
