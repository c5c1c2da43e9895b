//! A serial port of the guest: the messages of its start, then a getty with a login, then a shell.
//!
//! ```text
//! firmware ─► boot loader ─► kernel ─► "dom0 login: " ─► "Password: " ─► "[user@dom0 ~]$ "
//!    └─ only written              └─◄── wrong, exit, Ctrl-D ──┴──────────────┘
//! ```
//! A port writes when it has something to write. Whether somebody reads is a matter of the host.

use super::login::PASSWORD;
use super::shell::{self, PROMPT, ShellOutcome};
use super::text_mode;

/// The only user of the guest.
const USER: &str = "user";
const LOGIN: &str = "dom0 login: ";
const FIRMWARE: &str = "\r\nPhoenixBIOS 4.0 Release 6.0\r\nVMware BIOS build 314, simulated\r\n";
const INSTALLER: &str = "\r\nBooting from the CD-ROM\r\n";
const BOOT_LOADER: &str = "\r\nGNU GRUB  version 2.06\r\n";
/// The maximum length of a line in bytes.
const MAX_LINE: usize = 4_096;

/// How far the start of the guest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootProgress {
    Off,
    Firmware,
    BootLoader,
    /// The installer of a CD waits, and writes nothing more.
    Installer,
    /// The kernel has written this many lines.
    Kernel(usize),
    Up,
}

/// A serial port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tty {
    /// The start of the guest whose messages the port writes.
    start: u64,
    /// How many bytes of these messages it has written.
    written: usize,
    session: Session,
    /// What is typed since the last line.
    line: Vec<u8>,
    escape: Escape,
    /// Whether the last byte was a carriage return. A line feed behind it is no line of its own.
    follows_return: bool,
}

/// Something that a line does outside of its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TtyRequest {
    OpenTerminal,
    Resize(u16, u16),
    Restart,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Session {
    /// The guest starts, and reads nothing.
    #[default]
    Starting,
    Name,
    Password {
        user: String,
    },
    Shell,
}

/// Where the port is in an escape sequence, such as that of an arrow key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Begun,
    Parameters,
}

impl Tty {
    /// Writes the messages that are due.
    ///
    /// # Parameters
    /// - `start`: the number of the guest's present start.
    /// - `number`: the number of the port, which is `ttyS<number>` in the guest.
    pub fn write_messages(
        &mut self,
        start: u64,
        progress: BootProgress,
        number: usize,
        output: &mut Vec<u8>,
    ) {
        if self.start != start {
            *self = Self { start, ..Self::default() };
        }
        let messages = messages(progress, number);
        if let Some(due) = messages.as_bytes().get(self.written..) {
            output.extend(due);
            self.written = messages.len();
        }
        if progress == BootProgress::Up && self.session == Session::Starting {
            self.session = Session::Name;
        }
    }

    /// Takes a byte that somebody has sent. The caller does what the byte asks for, and then calls
    /// [`answer`](Self::answer).
    pub fn receive(&mut self, byte: u8, number: usize, output: &mut Vec<u8>) -> Option<TtyRequest> {
        if self.session == Session::Starting {
            return None;
        }
        let follows_return = std::mem::replace(&mut self.follows_return, byte == b'\r');
        if self.is_in_escape(byte) {
            return None;
        }
        match byte {
            b'\n' if follows_return => {}
            b'\r' | b'\n' => return self.enter(number, output),
            0x08 | 0x7f => self.erase(output),
            // Ctrl-U
            0x15 => {
                while !self.line.is_empty() {
                    self.erase(output);
                }
            }
            // Ctrl-C
            0x03 => {
                self.line.clear();
                output.extend(b"^C\r\n");
                match self.session {
                    Session::Shell => output.extend(PROMPT.as_bytes()),
                    _ => self.log_out(number, output),
                }
            }
            // Ctrl-D
            0x04 if self.line.is_empty() => {
                output.extend(b"\r\n");
                self.log_out(number, output);
            }
            0x20.. if self.line.len() < MAX_LINE => {
                self.line.push(byte);
                if self.echoes() {
                    output.push(byte);
                }
            }
            _ => {}
        }
        None
    }

    /// What a request of a line has come to: a line of text if something is wrong. Then the next
    /// line can come.
    pub fn answer(wrong: Option<&str>, output: &mut Vec<u8>) {
        if let Some(wrong) = wrong {
            output.extend(wrong.as_bytes());
            output.extend(b"\r\n");
        }
        output.extend(PROMPT.as_bytes());
    }

    fn enter(&mut self, number: usize, output: &mut Vec<u8>) -> Option<TtyRequest> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        output.extend(b"\r\n");
        match &self.session {
            Session::Starting => {}
            Session::Name if line.trim().is_empty() => output.extend(LOGIN.as_bytes()),
            Session::Name => {
                self.session = Session::Password { user: line.trim().to_owned() };
                output.extend(b"Password: ");
            }
            Session::Password { user } if user == USER && line == PASSWORD => {
                self.session = Session::Shell;
                output.extend(PROMPT.as_bytes());
            }
            Session::Password { .. } => {
                self.session = Session::Name;
                output.extend(b"\r\nLogin incorrect\r\n");
                output.extend(LOGIN.as_bytes());
            }
            Session::Shell => return self.run(&line, number, output),
        }
        None
    }

    fn run(&mut self, line: &str, number: usize, output: &mut Vec<u8>) -> Option<TtyRequest> {
        match shell::run(line) {
            ShellOutcome::Printed(lines) => {
                for line in lines {
                    output.extend(line.as_bytes());
                    output.extend(b"\r\n");
                }
                output.extend(PROMPT.as_bytes());
                None
            }
            ShellOutcome::Clear => {
                output.extend(b"\x1b[H\x1b[2J");
                output.extend(PROMPT.as_bytes());
                None
            }
            ShellOutcome::Exit => {
                self.log_out(number, output);
                None
            }
            ShellOutcome::Resize(width, height) => Some(TtyRequest::Resize(width, height)),
            ShellOutcome::OpenTerminal => Some(TtyRequest::OpenTerminal),
            ShellOutcome::Restart => {
                output.extend(b"reboot: Restarting system\r\n");
                Some(TtyRequest::Restart)
            }
        }
    }

    fn log_out(&mut self, number: usize, output: &mut Vec<u8>) {
        self.session = Session::Name;
        output.extend(issue(number).as_bytes());
    }

    /// Takes back the last character of the line.
    fn erase(&mut self, output: &mut Vec<u8>) {
        let Some(mut erased) = self.line.pop() else { return };
        // The first byte of a character in UTF-8 does not begin with the bits 10.
        while erased & 0xc0 == 0x80 {
            match self.line.pop() {
                Some(earlier) => erased = earlier,
                None => break,
            }
        }
        if self.echoes() {
            output.extend(b"\x08 \x08");
        }
    }

    /// Whether the port shows what is typed. It does not show a password.
    const fn echoes(&self) -> bool {
        matches!(self.session, Session::Name | Session::Shell)
    }

    /// Whether a byte belongs to an escape sequence. The shell ignores all of them.
    const fn is_in_escape(&mut self, byte: u8) -> bool {
        let before = self.escape;
        self.escape = match (before, byte) {
            (Escape::None, 0x1b) => Escape::Begun,
            (Escape::Begun, b'[' | b'O') | (Escape::Parameters, 0x20..=0x3f) => Escape::Parameters,
            _ => Escape::None,
        };
        !matches!((before, self.escape), (Escape::None, Escape::None))
    }
}

/// Everything that a port writes from the start of the guest until this progress.
fn messages(progress: BootProgress, number: usize) -> String {
    let lines = match progress {
        BootProgress::Off => return String::new(),
        BootProgress::Firmware => return FIRMWARE.to_owned(),
        BootProgress::BootLoader => return format!("{FIRMWARE}{BOOT_LOADER}"),
        BootProgress::Installer => return format!("{FIRMWARE}{INSTALLER}"),
        BootProgress::Kernel(lines) => lines,
        BootProgress::Up => usize::MAX,
    };
    let mut text = format!("{FIRMWARE}{BOOT_LOADER}\r\n");
    for line in text_mode::kernel_text(lines) {
        text.push_str(line);
        text.push_str("\r\n");
    }
    if progress == BootProgress::Up {
        text.push_str(&issue(number));
    }
    text
}

/// What a getty writes before a login.
fn issue(number: usize) -> String {
    format!(
        "\r\nQubes release 4.2.3 (R4.2)\r\n\
         Kernel 6.6.48-1.qubes.fc37.x86_64 on an x86_64 (ttyS{number})\r\n\r\n{LOGIN}"
    )
}
