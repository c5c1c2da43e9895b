//! The keys of a keyboard: their names, the strokes that press several of them, and the strokes
//! that type a character on a given keyboard layout.
//!
//! A console takes keysyms of the X Window System and presses the key that a **US** keyboard has
//! for them. A keysym therefore stands for a physical key. The layout of the guest decides which
//! character the key gives.

mod layouts;
mod names;

use std::fmt;
use std::str::FromStr;

pub use self::layouts::{InvalidLayout, Layout, UntypableCharacter, type_text};
pub use self::names::{UnknownKey, key, key_names};

/// The code of a key in the X Window System, and in RFB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keysym(pub u32);

/// One press of a key while other keys are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stroke {
    /// The keys that are held, in the order in which they go down.
    pub modifiers: Vec<Keysym>,
    pub key: Keysym,
}

/// The text does not name the keys of a stroke.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStroke {
    #[error(transparent)]
    UnknownKey(#[from] UnknownKey),
    /// Such as `ctrl-`, `ctrl--c` and `ctrl+c`.
    #[error(
        "write the keys of a stroke with a hyphen between them, such as ctrl-alt-delete; the key \
         of the hyphen itself is minus"
    )]
    MissingKey,
    #[error("{0} is twice in one stroke: name each key once")]
    SameKeyTwice(String),
    #[error("a stroke has at most {MAX_KEYS} keys")]
    TooManyKeys,
}

/// The maximum number of keys in a stroke.
pub const MAX_KEYS: usize = 8;

/// The left Shift key.
pub const SHIFT: Keysym = Keysym(0xffe1);
/// The right Alt key, which is `AltGr` on other layouts than `us`.
pub const ALT_GR: Keysym = Keysym(0xffea);

impl Stroke {
    /// The press of one key alone.
    #[must_use]
    pub const fn alone(key: Keysym) -> Self {
        Self { modifiers: Vec::new(), key }
    }

    /// What happens to the keys: all of them go down in order, and come up in the reverse order.
    /// `true` is down.
    #[must_use]
    pub fn events(&self) -> Vec<(Keysym, bool)> {
        let downs = self.modifiers.iter().chain([&self.key]).map(|key| (*key, true));
        let ups = [&self.key].into_iter().chain(self.modifiers.iter().rev());
        downs.chain(ups.map(|key| (*key, false))).collect()
    }
}

impl FromStr for Stroke {
    type Err = InvalidStroke;

    /// Parses names of keys with hyphens between them, such as `ctrl-alt-delete`. All but the last
    /// key are held. See [`key`] for the names.
    fn from_str(text: &str) -> Result<Self, InvalidStroke> {
        if text.split('-').count() > MAX_KEYS {
            return Err(InvalidStroke::TooManyKeys);
        }
        // No name of a key has it.
        if text.contains('+') {
            return Err(InvalidStroke::MissingKey);
        }
        let mut modifiers = Vec::new();
        for name in text.split('-') {
            if name.is_empty() {
                return Err(InvalidStroke::MissingKey);
            }
            let key = key(name)?;
            if modifiers.contains(&key) {
                return Err(InvalidStroke::SameKeyTwice(name.to_owned()));
            }
            modifiers.push(key);
        }
        let key = modifiers.pop().ok_or(InvalidStroke::MissingKey)?;
        // A console expects the keysym that the key gives while Shift is held.
        let is_shifted = modifiers.iter().any(|key| names::is_shift(*key));
        let key = if is_shifted { layouts::shifted(key) } else { key };
        Ok(Self { modifiers, key })
    }
}

impl fmt::Display for Keysym {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#06x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stroke(modifiers: &[u32], key: u32) -> Stroke {
        Stroke { modifiers: modifiers.iter().copied().map(Keysym).collect(), key: Keysym(key) }
    }

    #[test]
    fn a_stroke_names_its_keys() {
        for (text, expected) in [
            ("enter", stroke(&[], 0xff0d)),
            ("ctrl-alt-delete", stroke(&[0xffe3, 0xffe9], 0xffff)),
            ("Ctrl-Alt-F2", stroke(&[0xffe3, 0xffe9], 0xffbf)),
            ("super", stroke(&[], 0xffeb)),
            ("ctrl-c", stroke(&[0xffe3], 0x63)),
            ("alt-sysrq-b", stroke(&[0xffe9, 0xff15], 0x62)),
            ("ctrl-minus", stroke(&[0xffe3], 0x2d)),
            // While Shift is held, the keysym is that of the character.
            ("shift-a", stroke(&[0xffe1], 0x41)),
            ("shift-1", stroke(&[0xffe1], 0x21)),
            ("shift-tab", stroke(&[0xffe1], 0xff09)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_hint() {
        let message = |text: &str| text.parse::<Stroke>().unwrap_err().to_string();
        assert!(message("ctrl-alt-delte").contains("delete"), "{}", message("ctrl-alt-delte"));
        assert!(message("").contains("ctrl-alt-delete"), "{}", message(""));
        assert!(message("ctrl-").contains("minus"));
        assert!(message("ctrl--").contains("minus"));
        assert!(message("ctrl+alt+delete").contains("a hyphen between them"));
        assert!(message("ctrl-a-ctrl").contains("twice"));
        assert!(message(&"a-".repeat(1 << 20)).contains("at most 8"));
        assert!(message(&"x".repeat(1 << 20)).len() < 200);
    }

    #[test]
    fn keys_come_up_in_the_reverse_order() {
        let events = stroke(&[1, 2], 3).events();
        let expected = [(1, true), (2, true), (3, true), (3, false), (2, false), (1, false)];
        assert_eq!(events, expected.map(|(key, down)| (Keysym(key), down)));
    }
}
