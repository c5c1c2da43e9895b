//! What `otter run` says, on the standard error: on a terminal one line that is drawn again, else a
//! line for each change.

use std::io::{IsTerminal, Write};

use crate::domain::terminal::printable;

/// Says things. Nobody reading them is no reason to end.
pub struct Progress {
    quiet: bool,
    /// Whether a line may be drawn again, which takes escape sequences.
    terminal: bool,
    /// What was last_text last.
    last_text: String,
    /// Whether the cursor stands behind a line that is to be drawn again.
    has_open_line: bool,
}

/// How wide a terminal is that does not say.
const DEFAULT_WIDTH: usize = 80;

impl Progress {
    pub fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stderr().is_terminal() && crate::cli::allows_colour(),
            last_text: String::new(),
            has_open_line: false,
        }
    }

    /// Whether only errors are printed.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether somebody may look on.
    pub fn is_redrawn(&self) -> bool {
        self.terminal && !self.quiet
    }

    /// Shows what goes on, if that is new, and on a terminal how far it is.
    pub fn show(&mut self, text: &str, percent: Option<u8>) {
        if self.quiet {
            return;
        }
        let text = match percent.filter(|_| self.terminal) {
            Some(percent) => format!("otter: {} ({percent} %)", printable(text)),
            None => format!("otter: {}", printable(text)),
        };
        if text == self.last_text {
            return;
        }
        if self.terminal {
            let width = rustix::termios::tcgetwinsize(std::io::stderr())
                .map_or(0, |size| usize::from(size.ws_col));
            let width = if width == 0 { DEFAULT_WIDTH } else { width };
            write(&format!("\r\u{1b}[K{}", text.chars().take(width - 1).collect::<String>()));
            self.has_open_line = true;
        } else {
            write(&format!("{text}\n"));
        }
        self.last_text = text;
    }

    /// Says what stays.
    pub fn info(&mut self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// The same, however quiet it is to be.
    pub fn warn(&mut self, text: &str) {
        let begin = if std::mem::take(&mut self.has_open_line) { "\r\u{1b}[K" } else { "" };
        write(&format!("{begin}otter: {}\n", printable(text)));
    }
}

fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
