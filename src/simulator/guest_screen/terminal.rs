//! The window of a terminal: it echoes what is typed, and the shell runs the lines.

use super::bitmap::{Area, Colour};
use super::font::Font;
use super::keyboard::{Key, Stroke};
use super::picture::Picture;
use super::shell::{self, PROMPT, ShellOutcome};

const COLUMNS: usize = 80;
const ROWS: usize = 24;
const TITLE_HEIGHT: i32 = 40;
const FONT: Font = Font::Medium;
/// The number of lines that the terminal keeps.
const MAX_LINES: usize = 500;
const TITLE: &str = "Terminal - user@dom0:~";

const PAPER: Colour = Colour::rgb(0x12, 0x12, 0x12);
const INK: Colour = Colour::rgb(0xf0, 0xf0, 0xf0);
/// White on this colour, without a border, is what tesseract reads as a title.
const BAR: Colour = Colour::rgb(0x30, 0x30, 0x30);

/// A terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminal {
    /// The left upper corner of the window.
    x: i32,
    y: i32,
    /// The finished lines, oldest first, each at most as long as the window is wide.
    lines: Vec<String>,
    input: String,
    /// How many lines the view is above the end.
    scrolled: usize,
    /// The distance from the corner to the pointer while the window is dragged.
    grip: Option<(i32, i32)>,
}

/// What a line or a key does outside of the terminal.
pub enum TerminalRequest {
    None,
    Close,
    /// Sets the size of the desktop.
    Resize(u16, u16),
    /// Restarts the guest.
    Restart,
}

/// What a press of a button on the terminal does.
pub enum Grab {
    /// The pointer is outside of the window.
    Outside,
    Taken,
    Close,
}

impl Terminal {
    pub const fn new() -> Self {
        let (x, y) = (8, 48);
        Self { x, y, lines: Vec::new(), input: String::new(), scrolled: 0, grip: None }
    }

    pub fn press(&mut self, stroke: Stroke) -> TerminalRequest {
        self.scrolled = 0;
        if stroke.has_control {
            match stroke.key {
                key if key == Key::letter(b'c') => {
                    self.finish_line("^C");
                    self.input.clear();
                }
                key if key == Key::letter(b'd') && self.input.is_empty() => {
                    return TerminalRequest::Close;
                }
                key if key == Key::letter(b'l') => self.lines.clear(),
                key if key == Key::letter(b'u') => self.input.clear(),
                _ => {}
            }
            return TerminalRequest::None;
        }
        match (stroke.key, stroke.character) {
            (Key::ENTER | Key::KEYPAD_ENTER, _) => {
                self.finish_line("");
                let command = std::mem::take(&mut self.input);
                return self.run(&command);
            }
            (Key::BACKSPACE, _) => drop(self.input.pop()),
            (_, Some(character)) if self.input.len() < 4_096 => self.input.push(character),
            _ => {}
        }
        TerminalRequest::None
    }

    /// The first button goes down.
    pub const fn grab(&mut self, x: i32, y: i32) -> Grab {
        let window = self.window();
        if !window.contains(x, y) {
            return Grab::Outside;
        }
        if self.close_box().contains(x, y) {
            return Grab::Close;
        }
        if y < window.y + TITLE_HEIGHT {
            self.grip = Some((x - window.x, y - window.y));
        }
        Grab::Taken
    }

    /// The pointer moves while the first button is down.
    pub const fn drag(&mut self, x: i32, y: i32) {
        if let Some((dx, dy)) = self.grip {
            self.x = x - dx;
            self.y = y - dy;
        }
    }

    /// The first button goes up.
    pub const fn release(&mut self) {
        self.grip = None;
    }

    /// One step of the wheel. It does nothing outside of the window.
    pub fn scroll(&mut self, x: i32, y: i32, is_up: bool) {
        if !self.window().contains(x, y) {
            return;
        }
        let most = self.all_lines().len().saturating_sub(ROWS);
        self.scrolled =
            if is_up { (self.scrolled + 3).min(most) } else { self.scrolled.saturating_sub(3) };
    }

    pub fn draw(&self, picture: &mut Picture, shows_cursor: bool) {
        let window = self.window();
        picture.fill(window, PAPER);
        picture.fill(Area::new(window.x, window.y, window.width, TITLE_HEIGHT), BAR);
        picture.text((window.x + 12, window.y + 8), FONT, Colour::WHITE, TITLE);
        let close = self.close_box();
        picture.text((close.x + 9, close.y + 8), FONT, Colour::WHITE, "x");
        let lines = self.all_lines();
        let end = lines.len().saturating_sub(self.scrolled);
        let shown = lines.get(end.saturating_sub(ROWS)..end).unwrap_or_default();
        let mut top = window.y + TITLE_HEIGHT + 4;
        for line in shown {
            picture.text((window.x + 6, top), FONT, INK, line);
            top += FONT.height();
        }
        if let Some(last) = shown.last().filter(|_| shows_cursor && self.scrolled == 0) {
            let column = i32::try_from(last.chars().count()).unwrap_or_default();
            let left = window.x + 6 + column * FONT.width();
            picture.fill(Area::new(left, top - FONT.height() + 2, FONT.width(), 20), INK);
        }
    }

    const fn window(&self) -> Area {
        let (columns, rows) = (80, 24);
        let height = TITLE_HEIGHT + rows * FONT.height() + 8;
        Area::new(self.x, self.y, columns * FONT.width() + 24, height)
    }

    const fn close_box(&self) -> Area {
        let window = self.window();
        Area::new(window.x + window.width - 30, window.y, 30, TITLE_HEIGHT)
    }

    /// The finished lines and the line that is typed.
    fn all_lines(&self) -> Vec<String> {
        let mut lines = self.lines.clone();
        lines.extend(wrapped(&format!("{PROMPT}{}", self.input)));
        lines
    }

    /// Moves the line that is typed to the finished ones, with something behind it.
    fn finish_line(&mut self, behind: &str) {
        let line = format!("{PROMPT}{}{behind}", self.input);
        self.print(&line);
    }

    fn print(&mut self, text: &str) {
        self.lines.extend(wrapped(text));
        let surplus = self.lines.len().saturating_sub(MAX_LINES);
        self.lines.drain(..surplus);
    }

    fn run(&mut self, line: &str) -> TerminalRequest {
        match shell::run(line) {
            ShellOutcome::Printed(lines) => lines.iter().for_each(|line| self.print(line)),
            ShellOutcome::Clear => self.lines.clear(),
            ShellOutcome::Exit => return TerminalRequest::Close,
            ShellOutcome::Resize(width, height) => return TerminalRequest::Resize(width, height),
            // The terminal is open already.
            ShellOutcome::OpenTerminal => {}
            ShellOutcome::Restart => return TerminalRequest::Restart,
        }
        TerminalRequest::None
    }
}

/// The lines of a text in the width of the window. An empty text is one empty line.
fn wrapped(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    if characters.is_empty() {
        return vec![String::new()];
    }
    characters.chunks(COLUMNS).map(|line| line.iter().collect()).collect()
}
