//! The desktop, 1280 × 1024: a panel with a menu, a clock and the name of the user, and windows.
//! The places and colours are such that tesseract reads the texts.
//!
//! ```text
//! Ctrl-Alt-T · Applications → Terminal Emulator · two clicks on Home · Alt-F2 xfce4-terminal
//!     └──► the terminal opens
//! Alt-F4 · the cross of the window · exit ──► the terminal closes
//! Applications → Log Out ──► the login
//! ```

use std::time::Duration;

use jiff::Timestamp;

use super::bitmap::{Area, Colour};
use super::font::Font;
use super::keyboard::{Key, Stroke};
use super::picture::Picture;
use super::terminal::{Grab, Terminal, TerminalRequest};

/// The size of the screen after the login.
const SIZE: (u16, u16) = (1280, 1024);
const PANEL_HEIGHT: i32 = 30;
const MENU_BUTTON: Area = Area::new(0, 0, 192, PANEL_HEIGHT);
const MENU: [&str; 2] = ["Terminal Emulator", "Log Out"];
const MENU_ROW: i32 = 30;
const FONT: Font = Font::Medium;
/// The maximum time between two clicks that count as a double click.
const DOUBLE_CLICK: Duration = Duration::from_millis(400);
/// The maximum distance between them.
const DOUBLE_CLICK_DISTANCE: i32 = 8;

const BACKDROP: Colour = Colour::rgb(0x3a, 0x5f, 0x8a);
const PANEL: Colour = Colour::rgb(0xe6, 0xe6, 0xe6);

/// The buttons of the pointer, as in the protocol RFB.
const FIRST: u8 = 1;
const THIRD: u8 = 4;
const WHEEL_UP: u8 = 8;
const WHEEL_DOWN: u8 = 16;

/// A desktop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desktop {
    size: (u16, u16),
    /// The left upper corner of the open menu.
    menu: Option<(i32, i32)>,
    /// The text in the field of the application finder, if it is open.
    finder: Option<String>,
    terminal: Option<Terminal>,
    /// The last press of the first button.
    last_click: Option<(Duration, i32, i32)>,
}

/// What an input does outside of the desktop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DesktopOutcome {
    Stay,
    LogOut,
    Restart,
}

impl Desktop {
    pub const fn new() -> Self {
        Self { size: SIZE, menu: None, finder: None, terminal: None, last_click: None }
    }

    pub const fn size(&self) -> (u16, u16) {
        self.size
    }

    pub const fn resize(&mut self, size: (u16, u16)) {
        self.size = size;
    }

    pub const fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Opens the terminal, unless it is open.
    pub fn open_terminal(&mut self) {
        self.terminal.get_or_insert_with(Terminal::new);
    }

    pub fn press(&mut self, stroke: Stroke) -> DesktopOutcome {
        if stroke.has_control && stroke.has_alt && stroke.key == Key::letter(b't') {
            self.open_terminal();
        } else if stroke.has_alt && stroke.key == Key::F2 {
            self.finder = Some(String::new());
        } else if let Some(text) = &mut self.finder {
            match (stroke.key, stroke.character) {
                (Key::ENTER | Key::KEYPAD_ENTER, _) => {
                    if text == "xfce4-terminal" {
                        self.open_terminal();
                    }
                    self.finder = None;
                }
                (Key::ESCAPE, _) => self.finder = None,
                (Key::BACKSPACE, _) => drop(text.pop()),
                (_, Some(character)) if text.len() < 40 => text.push(character),
                _ => {}
            }
        } else if self.menu.is_some() {
            if stroke.key == Key::ESCAPE {
                self.menu = None;
            }
        } else if stroke.has_alt {
            if stroke.key == Key::F4 {
                self.terminal = None;
            }
        } else if let Some(terminal) = &mut self.terminal {
            match terminal.press(stroke) {
                TerminalRequest::None => {}
                TerminalRequest::Close => self.terminal = None,
                TerminalRequest::Resize(width, height) => self.size = (width, height),
                TerminalRequest::Restart => return DesktopOutcome::Restart,
            }
        }
        DesktopOutcome::Stay
    }

    /// The pointer is at this place with these buttons down, and had the buttons `before` down.
    pub fn point(
        &mut self,
        (x, y): (i32, i32),
        buttons: u8,
        before: u8,
        age: Duration,
    ) -> DesktopOutcome {
        let went_down = buttons & !before;
        if let Some(terminal) = &mut self.terminal {
            if buttons & FIRST == 0 {
                terminal.release();
            } else if before & FIRST != 0 {
                terminal.drag(x, y);
            }
            for (wheel, is_up) in [(WHEEL_UP, true), (WHEEL_DOWN, false)] {
                if went_down & wheel != 0 {
                    terminal.scroll(x, y, is_up);
                }
            }
        }
        if went_down & FIRST != 0 {
            return self.click(x, y, age);
        }
        if went_down & THIRD != 0 && y >= PANEL_HEIGHT {
            self.menu = Some((x, y));
        }
        DesktopOutcome::Stay
    }

    fn click(&mut self, x: i32, y: i32, age: Duration) -> DesktopOutcome {
        let before = self.last_click.replace((age, x, y));
        if let Some((left, top)) = self.menu.take() {
            let chosen = (0..).zip(MENU).find(|(row, _)| {
                Area::new(left, top + row * MENU_ROW, 228, MENU_ROW).contains(x, y)
            });
            match chosen.map(|(row, _)| row) {
                Some(0) => self.open_terminal(),
                Some(_) => return DesktopOutcome::LogOut,
                None => {}
            }
            return DesktopOutcome::Stay;
        }
        if MENU_BUTTON.contains(x, y) {
            self.menu = Some((0, PANEL_HEIGHT));
            return DesktopOutcome::Stay;
        }
        match self.terminal.as_mut().map_or(Grab::Outside, |terminal| terminal.grab(x, y)) {
            Grab::Taken => {}
            Grab::Close => self.terminal = None,
            Grab::Outside => {
                let is_double = before.is_some_and(|(at, old_x, old_y)| {
                    age.saturating_sub(at) <= DOUBLE_CLICK
                        && (x - old_x).abs().max((y - old_y).abs()) <= DOUBLE_CLICK_DISTANCE
                });
                if is_double && self.home().contains(x, y) {
                    self.last_click = None;
                    self.open_terminal();
                }
            }
        }
        DesktopOutcome::Stay
    }

    /// The desktop at this time of day. The cursor of the terminal blinks.
    pub fn picture(&self, wall: Timestamp, shows_cursor: bool) -> Picture {
        let mut picture = Picture::new(self.size, BACKDROP);
        let width = i32::from(self.size.0);
        let home = self.home();
        picture.frame(Area::new(home.x + 12, home.y, 40, 32), Colour::BLACK, Colour::WHITE);
        picture.text((home.x + 8, home.y + 36), FONT, Colour::WHITE, "Home");
        if let Some(terminal) = &self.terminal {
            terminal.draw(&mut picture, shows_cursor);
        }
        picture.fill(Area::new(0, 0, width, PANEL_HEIGHT), PANEL);
        picture.text((24, 3), FONT, Colour::BLACK, "Applications");
        let clock = wall.strftime("%H:%M:%S").to_string();
        picture.text((width - 200, 3), FONT, Colour::BLACK, clock);
        picture.text((width - 64, 3), FONT, Colour::BLACK, "user");
        if let Some((left, top)) = self.menu {
            let rows = i32::try_from(MENU.len()).unwrap_or_default();
            let area = Area::new(left, top, 228, rows * MENU_ROW + 2);
            picture.frame(area, Colour::BLACK, Colour::WHITE);
            for (row, entry) in (0..).zip(MENU) {
                let at = (left + 12, top + row * MENU_ROW + 3);
                picture.text(at, FONT, Colour::BLACK, entry);
            }
        }
        if let Some(text) = &self.finder {
            let area = Area::new(width / 2 - 280, 400, 560, 110);
            picture.frame(area, Colour::BLACK, PANEL);
            picture.text((area.x + 20, area.y + 10), FONT, Colour::BLACK, "Application Finder");
            let field = Area::new(area.x + 20, area.y + 50, 520, 36);
            picture.frame(field, Colour::BLACK, Colour::WHITE);
            picture.text((field.x + 8, field.y + 6), FONT, Colour::BLACK, text.as_str());
        }
        picture
    }

    /// The icon in the left lower corner.
    fn home(&self) -> Area {
        Area::new(24, i32::from(self.size.1) - 100, 64, 64)
    }
}
