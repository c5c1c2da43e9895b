//! The graphical login, 800 × 600. It knows one user, whose password is `otter`.

use super::bitmap::{Area, Colour};
use super::font::Font;
use super::keyboard::{Key, Stroke};
use super::picture::Picture;

/// The size of the screen.
pub const SIZE: (u16, u16) = (800, 600);
/// The password of the user.
pub const PASSWORD: &str = "otter";

const BACKDROP: Colour = Colour::rgb(0x2b, 0x45, 0x6b);
const BOX: Area = Area::new(200, 180, 400, 240);
const FIELD: Area = Area::new(280, 250, 240, 36);
const BUTTON: Area = Area::new(320, 310, 160, 48);
const GREY: Colour = Colour::rgb(0xe6, 0xe6, 0xe6);

/// The form of the login.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    password: String,
    was_wrong: bool,
}

impl Login {
    /// A key. Returns whether the user is logged in.
    pub fn press(&mut self, stroke: Stroke) -> bool {
        match (stroke.key, stroke.character) {
            (Key::ENTER | Key::KEYPAD_ENTER, _) => return self.submit(),
            (Key::BACKSPACE, _) => drop(self.password.pop()),
            (Key::ESCAPE, _) => self.password.clear(),
            (_, Some(character)) if self.password.len() < 128 => self.password.push(character),
            _ => {}
        }
        false
    }

    /// A click with the first button. Returns whether the user is logged in.
    pub fn click(&mut self, x: i32, y: i32) -> bool {
        BUTTON.contains(x, y) && self.submit()
    }

    fn submit(&mut self) -> bool {
        let is_right = self.password == PASSWORD;
        self.was_wrong = !is_right;
        self.password.clear();
        is_right
    }

    pub fn picture(&self, machine: &str) -> Picture {
        let mut picture = Picture::new(SIZE, BACKDROP);
        picture.text((336, 120), Font::Large, Colour::WHITE, "Qubes OS");
        picture.frame(BOX, Colour::BLACK, GREY);
        centred(&mut picture, 205, Font::Medium, Colour::BLACK, "user");
        picture.frame(FIELD, Colour::BLACK, Colour::WHITE);
        for (_, at) in self.password.chars().zip(0..18) {
            picture.fill(Area::new(FIELD.x + 12 + 12 * at, FIELD.y + 14, 8, 8), Colour::BLACK);
        }
        // Tesseract reads the text of a button only without a border.
        picture.fill(BUTTON, Colour::WHITE);
        centred(&mut picture, 322, Font::Medium, Colour::BLACK, "Log In");
        if self.was_wrong {
            centred(&mut picture, 376, Font::Medium, Colour::BLACK, "Wrong password, try again");
        }
        picture.text((16, 560), Font::Medium, Colour::WHITE, machine);
        picture
    }
}

/// A text in the middle of the line at `y`.
fn centred(picture: &mut Picture, y: i32, font: Font, ink: Colour, text: &str) {
    let length = i32::try_from(text.chars().count()).unwrap_or_default();
    let x = (i32::from(SIZE.0) - length * font.width()) / 2;
    picture.text((x, y), font, ink, text);
}
