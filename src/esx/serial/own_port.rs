//! A serial device of the machine that otter runs in, which is the other end of a pipe.

use std::fs::File;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

use crate::hypervisor::{HostError, HostErrorKind};

/// The speed that both ends of a pipe expect.
const BAUD: u32 = 115_200;

/// An open serial device. Its two halves read and write it as they would a pipe.
pub struct OwnPort {
    output: pipe::Receiver,
    input: pipe::Sender,
}

/// Opens a serial device: raw, 115,200 baud, with hardware flow control.
///
/// # Errors
/// `Forbidden` if the process may not, `Unreachable` if there is no such device.
pub fn open(path: &str) -> Result<OwnPort, HostError> {
    let failed = |error: io::Error| {
        let (kind, message) = match error.kind() {
            io::ErrorKind::PermissionDenied => (
                HostErrorKind::Forbidden,
                format!("otter may not open {path}: add its account to the group of the device."),
            ),
            io::ErrorKind::NotFound => (
                HostErrorKind::Unreachable,
                format!(
                    "This machine has no {path}. Linux makes four such devices unless the kernel \
                     parameter 8250.nr_uarts says otherwise."
                ),
            ),
            _ => (HostErrorKind::Unreachable, format!("{path} cannot be opened: {error}.")),
        };
        HostError::new(kind, message).caused_by(error)
    };
    open_device(path).map_err(failed)
}

fn open_device(path: &str) -> io::Result<OwnPort> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut mode = tcgetattr(&device)?;
    mode.make_raw();
    mode.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD | ControlModes::CRTSCTS;
    mode.set_speed(BAUD)?;
    tcsetattr(&device, OptionalActions::Now, &mode)?;
    let output = pipe::Receiver::from_file_unchecked(device.try_clone()?)?;
    Ok(OwnPort { output, input: pipe::Sender::from_file_unchecked(device)? })
}

impl AsyncRead for OwnPort {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.output).poll_read(context, buffer) {
            // The other end of a pseudoterminal was closed.
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for OwnPort {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
