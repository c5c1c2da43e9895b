//! What `GET …/screen` shows of a screen: its connection, its size, its viewers and its driver.

use std::net::IpAddr;

use jiff::Timestamp;

use crate::domain::ids::{LeaseId, ViewerId};
use crate::domain::screen::ScreenSize;

/// The state of one screen, from memory.
#[derive(Clone, Debug)]
pub struct ScreenState {
    /// Why the machine has no screen now. `None` if it has one.
    pub unavailable_reason: Option<String>,
    /// The size of the screen as it was last seen. `None` if otter has not seen it.
    pub size: Option<ScreenSize>,
    /// When the pixels last changed. `None` if otter has not seen the screen.
    pub changed_at: Option<Timestamp>,
    pub connection: ConnectionState,
    pub viewers: Vec<ViewerInfo>,
    pub driver: Option<DriverInfo>,
}

/// The state of the connection to the host for one screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// No one looks, or the machine is not on.
    Closed,
    Opening,
    Open,
    /// The last try failed, or the connection was lost. otter tries again.
    Retrying,
    /// The host refuses a console. otter reads single pictures.
    Fallback,
}

impl ConnectionState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Closed, Self::Opening, Self::Open, Self::Retrying, Self::Fallback];

    /// The word in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Retrying => "retrying",
            Self::Fallback => "fallback",
        }
    }
}

/// One WebSocket that shows the screen.
#[derive(Clone, Debug)]
pub struct ViewerInfo {
    pub id: ViewerId,
    /// The name of its caller.
    pub caller: String,
    pub mode: ViewerMode,
    pub since: Timestamp,
    /// `None` if the caller came over a Unix socket.
    pub address: Option<IpAddr>,
}

/// What a viewer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ViewerMode {
    View,
    Drive,
}

impl ViewerMode {
    /// The word in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Drive => "drive",
        }
    }
}

/// The viewer that drives.
#[derive(Clone, Debug)]
pub struct DriverInfo {
    pub caller: String,
    /// The lease by which it drives.
    pub lease: Option<LeaseId>,
    pub since: Timestamp,
}
