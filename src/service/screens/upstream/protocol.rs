//! What happens to the connection of a screen, and what its task has to do.

use std::time::Duration;

use jiff::Timestamp;

use crate::domain::screen::Picture;
use crate::hypervisor::HostErrorKind;

/// A time on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The elapsed time of the clock.
    pub elapsed: Duration,
    /// The wall clock, for the frames.
    pub wall: Timestamp,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// The host reports whether the machine is on.
    Power { on: bool },
    /// The guest was started, reverted or reset, so that its old picture is not its screen any
    /// more.
    Restarted,
    /// Whether somebody uses the screen.
    InUse(bool),
    /// [`Effect::Connect`] succeeded.
    Connected,
    /// [`Effect::Connect`] failed.
    ConnectFailed(&'a Refusal),
    /// The host sent bytes.
    Bytes(&'a [u8]),
    /// The connection ended. The text is a sentence for people.
    Lost(String),
    /// Somebody asks for a frame that is confirmed after now. Numbers grow.
    Ask(u64),
    /// [`Effect::ReadPicture`] succeeded.
    PictureRead(&'a Picture),
    /// [`Effect::ReadPicture`] failed.
    PictureFailed(&'a Refusal),
    /// [`Upstream::due`](super::Upstream::due) has come.
    TimePassed,
}

/// Why a try failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error of the host. `None` if only the console failed: it did not open in time, did not
    /// answer, or ended.
    pub kind: Option<HostErrorKind>,
    /// A sentence for people.
    pub message: String,
}

/// What the task has to do, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Open a connection.
    Connect,
    /// Send these bytes on the connection.
    Send(Vec<u8>),
    /// End the connection, or the try to open one.
    Disconnect,
    /// Read a picture of the screen. A read that goes on is dropped.
    ReadPicture,
}

/// What everybody may know of the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The highest number that [`Event::Ask`] gave and that is answered.
    pub confirmed: u64,
    /// How many tries and connections failed so far, without those right after a power-on.
    pub failures: u64,
    /// The last failure since a console was last ready.
    pub refusal: Option<Refusal>,
    /// Grows whenever a console becomes ready and whenever it ends.
    pub epoch: u64,
}
