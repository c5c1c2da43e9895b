//! The messages of `otter run` on the standard error. On a terminal, one line is redrawn. Otherwise
//! each change is a new line.

use std::io::{IsTerminal, Write};

use crate::domain::terminal::printable;

/// Prints messages to the standard error. If the standard error is closed, the messages are lost
/// without a failure.
pub struct Progress {
    quiet: bool,
    /// Whether the progress line is redrawn. This needs a terminal that understands escape
    /// sequences.
    terminal: bool,
    /// The last text that [`show`](Self::show) printed.
    last_text: String,
    /// Whether the cursor is at the end of a progress line that a later message must redraw.
    has_open_line: bool,
}

/// The number of columns that is assumed if the width of the terminal is not known.
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

    /// Whether the user wants to see only errors and warnings.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the progress line is redrawn on a terminal, so that frequent changes are useful.
    pub fn is_redrawn(&self) -> bool {
        self.terminal && !self.quiet
    }

    /// Prints what `otter run` is doing now, if it is something else than before. On a terminal the
    /// line also shows the percentage.
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

    /// Prints a line that stays on the screen, unless the user wants to see only errors and
    /// warnings.
    pub fn info(&mut self, text: &str) {
        if !self.quiet {
            self.warn(text);
        }
    }

    /// Prints a line that stays on the screen.
    pub fn warn(&mut self, text: &str) {
        let begin = if std::mem::take(&mut self.has_open_line) { "\r\u{1b}[K" } else { "" };
        write(&format!("{begin}otter: {}\n", printable(text)));
    }
}

fn write(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
