//! A pseudoterminal as the device of a port in a guest: a program of this computer that opens it is
//! as if it ran in that guest. Its other end is the other end of the port's pipe.
//!
//! The simulator keeps the device open, so that bytes which no program reads stay in the buffer of
//! the kernel, about 20 KiB, and further ones are lost.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::net::unix::pipe::{Receiver, Sender};

/// A pseudoterminal, until this is dropped.
#[derive(Debug)]
pub struct Pty {
    own_end: File,
    _device: OwnedFd,
    path: PathBuf,
    link: PathBuf,
}

impl Pty {
    /// Makes a pseudoterminal that changes no byte, and a link to it. An earlier link is replaced.
    ///
    /// # Errors
    /// Fails if the system has no pseudoterminal left, or the link cannot be made.
    pub fn open(link: &Path) -> io::Result<Self> {
        let own_end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&own_end)?;
        unlockpt(&own_end)?;
        let path = ptsname(&own_end, Vec::<u8>::new())?;
        let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let device = rustix::fs::open(path.as_path(), flags, Mode::empty())?;
        let mut mode = tcgetattr(&device)?;
        mode.make_raw();
        tcsetattr(&device, OptionalActions::Now, &mode)?;
        rustix::io::ioctl_fionbio(&own_end, true)?;
        if link.is_symlink() {
            std::fs::remove_file(link)?;
        }
        std::os::unix::fs::symlink(&path, link)?;
        Ok(Self { own_end: own_end.into(), _device: device, path, link: link.to_owned() })
    }

    /// The path of the device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The own end, for reading and for writing.
    ///
    /// # Errors
    /// Fails if the process has no file descriptor left.
    pub fn streams(&self) -> io::Result<(Receiver, Sender)> {
        // To tokio, a pseudoterminal is like a pipe that does not block.
        let receiver = Receiver::from_file_unchecked(self.own_end.try_clone()?)?;
        Ok((receiver, Sender::from_file_unchecked(self.own_end.try_clone()?)?))
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // A later simulator may have replaced the link.
        if std::fs::read_link(&self.link).is_ok_and(|target| target == self.path) {
            let _ = std::fs::remove_file(&self.link);
        }
    }
}
