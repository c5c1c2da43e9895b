//! The keyboard of a guest: which key an event means, and which character a key types.
//!
//! ```text
//! keysym (RFB) ─┐
//! scan code ────┼──► Key, a place on the keyboard ──► Keyboard (layout, modifiers, dead keys)
//! USB usage ────┘                                         └──► Stroke with its character
//! ```
//! A host maps a keysym to the place that it has on a US keyboard, and drops its case: a client
//! that types a capital letter has to hold Shift itself. The guest decides what the place means.

/// A key, by its usage on the page of keyboards in the USB tables (0x07). It names a place on the
/// keyboard, not a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub u8);

/// What the keyboard of the guest is set to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    #[default]
    Us,
    De,
}

/// The state of a keyboard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyboard {
    layout: Layout,
    /// The keys that are down, in the order in which they went down.
    held: Vec<Key>,
    has_caps_lock: bool,
    /// The dead key that waits for its letter.
    accent: Option<char>,
}

/// A key that went down, and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stroke {
    pub key: Key,
    /// `None` for a key that types nothing, and while Control or Alt is held.
    pub character: Option<char>,
    pub has_control: bool,
    pub has_alt: bool,
}

impl Key {
    pub const ENTER: Self = Self(0x28);
    pub const ESCAPE: Self = Self(0x29);
    pub const BACKSPACE: Self = Self(0x2a);
    pub const TAB: Self = Self(0x2b);
    pub const SPACE: Self = Self(0x2c);
    pub const CAPS_LOCK: Self = Self(0x39);
    pub const F2: Self = Self(0x3b);
    pub const F4: Self = Self(0x3d);
    pub const F10: Self = Self(0x43);
    pub const DELETE: Self = Self(0x4c);
    pub const DOWN: Self = Self(0x51);
    pub const UP: Self = Self(0x52);
    pub const KEYPAD_ENTER: Self = Self(0x58);
    pub const CONTROL: Self = Self(0xe0);
    pub const SHIFT: Self = Self(0xe1);
    pub const ALT: Self = Self(0xe2);
    pub const RIGHT_CONTROL: Self = Self(0xe4);
    pub const RIGHT_SHIFT: Self = Self(0xe5);
    pub const RIGHT_ALT: Self = Self(0xe6);

    /// The place of a lower-case letter on a US keyboard.
    pub const fn letter(letter: u8) -> Self {
        Self(letter.saturating_sub(b'a').saturating_add(0x04))
    }

    /// The place of a keysym of X11 on a US keyboard. `None` if it has none there, for example `ß`.
    pub fn of_keysym(keysym: u32) -> Option<Self> {
        if let Some(character) = u8::try_from(keysym).ok().filter(u8::is_ascii).map(char::from) {
            let found =
                US.iter().find(|(_, plain, shifted)| [*plain, *shifted].contains(&character));
            return found.map(|(usage, ..)| Self(*usage));
        }
        let function = |first: u32| u8::try_from(keysym - first).ok();
        match keysym {
            0xffbe..=0xffc9 => function(0xffbe).map(|at| Self(0x3a + at)),
            // The digits of the keypad: 1 to 9, then 0.
            0xffb1..=0xffb9 => function(0xffb1).map(|at| Self(0x59 + at)),
            _ => KEYSYMS.iter().find(|(known, _)| *known == keysym).map(|(_, usage)| Self(*usage)),
        }
    }

    /// The key of a scan code of set 1. Codes with the prefix `e0` have bit 8 set.
    pub fn of_scan_code(code: u16) -> Option<Self> {
        let known = |usage: &u8| (*usage != 0).then_some(Self(*usage));
        match code.checked_sub(0x100) {
            None => SCAN_CODES.get(usize::from(code)).and_then(known),
            Some(extended) => {
                let found = EXTENDED.iter().find(|(code, _)| u16::from(*code) == extended);
                found.map(|(_, usage)| Self(*usage))
            }
        }
    }

    /// Whether the key types nothing itself and changes what others type.
    pub const fn is_modifier(self) -> bool {
        matches!(self.0, 0xe0..=0xe7) || self.0 == Self::CAPS_LOCK.0
    }
}

impl Keyboard {
    pub fn new(layout: Layout) -> Self {
        Self { layout, ..Self::default() }
    }

    pub const fn layout(&self) -> Layout {
        self.layout
    }

    /// The keys that are down, in the order in which they went down.
    pub fn held(&self) -> &[Key] {
        &self.held
    }

    /// A key goes down. `None` for a modifier. A key that is already down is a repeat.
    pub fn press(&mut self, key: Key) -> Option<Stroke> {
        if !self.held.contains(&key) {
            self.held.push(key);
        }
        if key == Key::CAPS_LOCK {
            self.has_caps_lock = !self.has_caps_lock;
        }
        (!key.is_modifier()).then(|| self.stroke(key))
    }

    /// A key goes up.
    pub fn release(&mut self, key: Key) {
        self.held.retain(|held| *held != key);
    }

    /// All keys go up.
    pub fn release_all(&mut self) {
        self.held.clear();
    }

    /// What a key means now.
    pub fn stroke(&mut self, key: Key) -> Stroke {
        let is_held = |key: &Key| self.held.contains(key);
        let has_shift = [Key::SHIFT, Key::RIGHT_SHIFT].iter().any(is_held);
        let has_control = [Key::CONTROL, Key::RIGHT_CONTROL].iter().any(is_held);
        let is_german = self.layout == Layout::De;
        let has_third_level = is_german && is_held(&Key::RIGHT_ALT);
        let has_alt = is_held(&Key::ALT) || (!is_german && is_held(&Key::RIGHT_ALT));
        let typed = self.layout.character(key, has_shift, has_third_level);
        let typed = typed.map(|character| {
            if !self.has_caps_lock || !character.is_alphabetic() {
                character
            } else if has_shift {
                lower(character)
            } else {
                upper(character)
            }
        });
        let character = match typed {
            Some(typed) if !has_control && !has_alt => self.compose(key, typed, has_third_level),
            _ => None,
        };
        Stroke { key, character, has_control, has_alt }
    }

    /// Combines a dead key with the letter after it.
    fn compose(&mut self, key: Key, typed: char, has_third_level: bool) -> Option<char> {
        let is_dead = self.layout == Layout::De
            && matches!(key, Key(0x35 | 0x2e))
            && matches!(typed, '^' | '´' | '`')
            && !has_third_level;
        match self.accent.take() {
            None if is_dead => {
                self.accent = Some(typed);
                None
            }
            None => Some(typed),
            // An accent alone: followed by the space bar or by itself.
            Some(accent) if typed == ' ' || typed == accent => Some(accent),
            Some(accent) => ACCENTED
                .iter()
                .find(|(of, plain, _)| (*of, *plain) == (accent, typed))
                .map(|(_, _, composed)| *composed),
        }
    }
}

impl Layout {
    fn character(self, key: Key, has_shift: bool, has_third_level: bool) -> Option<char> {
        if has_third_level {
            return DE_THIRD_LEVEL
                .iter()
                .find(|(usage, _)| *usage == key.0)
                .map(|(_, third)| *third);
        }
        let find = |table: &[(u8, char, char)]| {
            let found = table.iter().find(|(usage, ..)| *usage == key.0);
            found.map(|(_, plain, shifted)| if has_shift { *shifted } else { *plain })
        };
        match self {
            Self::Us => find(US),
            Self::De => find(DE).or_else(|| find(US)),
        }
    }
}

fn lower(character: char) -> char {
    character.to_lowercase().next().unwrap_or(character)
}

fn upper(character: char) -> char {
    // The capital of ß would be two letters.
    let mut upper = character.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) => upper,
        _ => character,
    }
}

/// The keys of a US keyboard that type something: usage, character, character with Shift.
const US: &[(u8, char, char)] = &[
    (0x04, 'a', 'A'),
    (0x05, 'b', 'B'),
    (0x06, 'c', 'C'),
    (0x07, 'd', 'D'),
    (0x08, 'e', 'E'),
    (0x09, 'f', 'F'),
    (0x0a, 'g', 'G'),
    (0x0b, 'h', 'H'),
    (0x0c, 'i', 'I'),
    (0x0d, 'j', 'J'),
    (0x0e, 'k', 'K'),
    (0x0f, 'l', 'L'),
    (0x10, 'm', 'M'),
    (0x11, 'n', 'N'),
    (0x12, 'o', 'O'),
    (0x13, 'p', 'P'),
    (0x14, 'q', 'Q'),
    (0x15, 'r', 'R'),
    (0x16, 's', 'S'),
    (0x17, 't', 'T'),
    (0x18, 'u', 'U'),
    (0x19, 'v', 'V'),
    (0x1a, 'w', 'W'),
    (0x1b, 'x', 'X'),
    (0x1c, 'y', 'Y'),
    (0x1d, 'z', 'Z'),
    (0x1e, '1', '!'),
    (0x1f, '2', '@'),
    (0x20, '3', '#'),
    (0x21, '4', '$'),
    (0x22, '5', '%'),
    (0x23, '6', '^'),
    (0x24, '7', '&'),
    (0x25, '8', '*'),
    (0x26, '9', '('),
    (0x27, '0', ')'),
    (0x2c, ' ', ' '),
    (0x2d, '-', '_'),
    (0x2e, '=', '+'),
    (0x2f, '[', '{'),
    (0x30, ']', '}'),
    (0x31, '\\', '|'),
    (0x33, ';', ':'),
    (0x34, '\'', '"'),
    (0x35, '`', '~'),
    (0x36, ',', '<'),
    (0x37, '.', '>'),
    (0x38, '/', '?'),
    (0x59, '1', '1'),
    (0x5a, '2', '2'),
    (0x5b, '3', '3'),
    (0x5c, '4', '4'),
    (0x5d, '5', '5'),
    (0x5e, '6', '6'),
    (0x5f, '7', '7'),
    (0x60, '8', '8'),
    (0x61, '9', '9'),
    (0x62, '0', '0'),
];

/// The keys that type something else on a German keyboard.
const DE: &[(u8, char, char)] = &[
    (0x1c, 'z', 'Z'),
    (0x1d, 'y', 'Y'),
    (0x1f, '2', '"'),
    (0x20, '3', '§'),
    (0x23, '6', '&'),
    (0x24, '7', '/'),
    (0x25, '8', '('),
    (0x26, '9', ')'),
    (0x27, '0', '='),
    (0x2d, 'ß', '?'),
    (0x2e, '´', '`'),
    (0x2f, 'ü', 'Ü'),
    (0x30, '+', '*'),
    (0x31, '#', '\''),
    (0x32, '#', '\''),
    (0x33, 'ö', 'Ö'),
    (0x34, 'ä', 'Ä'),
    (0x35, '^', '°'),
    (0x36, ',', ';'),
    (0x37, '.', ':'),
    (0x38, '-', '_'),
    (0x64, '<', '>'),
];

/// What the keys of a German keyboard type with the right Alt key.
const DE_THIRD_LEVEL: &[(u8, char)] = &[
    (0x08, '€'),
    (0x10, 'µ'),
    (0x14, '@'),
    (0x1f, '²'),
    (0x20, '³'),
    (0x24, '{'),
    (0x25, '['),
    (0x26, ']'),
    (0x27, '}'),
    (0x2d, '\\'),
    (0x30, '~'),
    (0x64, '|'),
];

/// A dead key, a letter, and what both type.
const ACCENTED: &[(char, char, char)] = &[
    ('^', 'a', 'â'),
    ('^', 'e', 'ê'),
    ('^', 'i', 'î'),
    ('^', 'o', 'ô'),
    ('^', 'u', 'û'),
    ('´', 'a', 'á'),
    ('´', 'e', 'é'),
    ('´', 'i', 'í'),
    ('´', 'o', 'ó'),
    ('´', 'u', 'ú'),
    ('`', 'a', 'à'),
    ('`', 'e', 'è'),
    ('`', 'i', 'ì'),
    ('`', 'o', 'ò'),
    ('`', 'u', 'ù'),
];

/// The keysyms of keys that type nothing, and of the keypad.
const KEYSYMS: &[(u32, u8)] = &[
    (0xff08, 0x2a), // BackSpace
    (0xff09, 0x2b), // Tab
    (0xff0d, 0x28), // Return
    (0xff13, 0x48), // Pause
    (0xff14, 0x47), // Scroll_Lock
    (0xff1b, 0x29), // Escape
    (0xff50, 0x4a), // Home
    (0xff51, 0x50), // Left
    (0xff52, 0x52), // Up
    (0xff53, 0x4f), // Right
    (0xff54, 0x51), // Down
    (0xff55, 0x4b), // Page_Up
    (0xff56, 0x4e), // Page_Down
    (0xff57, 0x4d), // End
    (0xff61, 0x46), // Print
    (0xff63, 0x49), // Insert
    (0xff67, 0x65), // Menu
    (0xff7f, 0x53), // Num_Lock
    (0xff8d, 0x58), // KP_Enter
    (0xffb0, 0x62), // KP_0
    (0xffe1, 0xe1), // Shift_L
    (0xffe2, 0xe5), // Shift_R
    (0xffe3, 0xe0), // Control_L
    (0xffe4, 0xe4), // Control_R
    (0xffe5, 0x39), // Caps_Lock
    (0xffe7, 0xe2), // Meta_L
    (0xffe8, 0xe6), // Meta_R
    (0xffe9, 0xe2), // Alt_L
    (0xffea, 0xe6), // Alt_R
    (0xffeb, 0xe3), // Super_L
    (0xffec, 0xe7), // Super_R
    (0xffff, 0x4c), // Delete
    (0xfe03, 0xe6), // ISO_Level3_Shift
    (0xfe20, 0x2b), // ISO_Left_Tab
];

/// The usages of the scan codes 0x00 to 0x58 of set 1; 0 for none.
const SCAN_CODES: [u8; 0x59] = [
    0x00, 0x29, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x2d, 0x2e, 0x2a, 0x2b,
    0x14, 0x1a, 0x08, 0x15, 0x17, 0x1c, 0x18, 0x0c, 0x12, 0x13, 0x2f, 0x30, 0x28, 0xe0, 0x04, 0x16,
    0x07, 0x09, 0x0a, 0x0b, 0x0d, 0x0e, 0x0f, 0x33, 0x34, 0x35, 0xe1, 0x31, 0x1d, 0x1b, 0x06, 0x19,
    0x05, 0x11, 0x10, 0x36, 0x37, 0x38, 0xe5, 0x55, 0xe2, 0x2c, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e,
    0x3f, 0x40, 0x41, 0x42, 0x43, 0x53, 0x47, 0x5f, 0x60, 0x61, 0x56, 0x5c, 0x5d, 0x5e, 0x57, 0x59,
    0x5a, 0x5b, 0x62, 0x63, 0x46, 0x00, 0x64, 0x44, 0x45,
];

/// The usages of the scan codes with the prefix `e0`.
const EXTENDED: &[(u8, u8)] = &[
    (0x1c, 0x58),
    (0x1d, 0xe4),
    (0x38, 0xe6),
    (0x47, 0x4a),
    (0x48, 0x52),
    (0x49, 0x4b),
    (0x4b, 0x50),
    (0x4d, 0x4f),
    (0x4f, 0x4d),
    (0x50, 0x51),
    (0x51, 0x4e),
    (0x52, 0x49),
    (0x53, 0x4c),
    (0x5b, 0xe3),
    (0x5c, 0xe7),
    (0x5d, 0x65),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Types keysyms one after the other. A text in braces is a keysym that is held until the end.
    fn typed(layout: Layout, held: &[Key], keys: &[Key]) -> String {
        let mut keyboard = Keyboard::new(layout);
        for key in held {
            keyboard.press(*key);
        }
        keys.iter().filter_map(|key| keyboard.press(*key)?.character).collect()
    }

    fn keys(text: &str) -> Vec<Key> {
        text.chars().map(|character| Key::of_keysym(u32::from(character)).unwrap()).collect()
    }

    #[test]
    fn a_keysym_means_a_place_and_only_shift_makes_a_capital() {
        assert_eq!(typed(Layout::Us, &[], &keys("Hello_1!")), "hello-11");
        assert_eq!(typed(Layout::Us, &[Key::SHIFT], &keys("Hello_1!")), "HELLO_!!");
        assert_eq!(typed(Layout::Us, &[Key::CAPS_LOCK], &keys("a1")), "A1");
        assert_eq!(typed(Layout::Us, &[Key::CAPS_LOCK, Key::RIGHT_SHIFT], &keys("a1")), "a!");
        assert_eq!(Key::of_keysym(0xdf), None);
        assert_eq!(Key::of_keysym(0xffc7), Some(Key::F10));
        assert_eq!(Key::of_keysym(0xffb1), Some(Key(0x59)));
    }

    #[test]
    fn a_german_guest_types_other_characters_from_the_same_places() {
        assert_eq!(typed(Layout::De, &[], &keys("yz;-[")), "zyöß\u{fc}");
        assert_eq!(typed(Layout::De, &[Key::RIGHT_ALT], &keys("q7e")), "@{€");
        assert_eq!(typed(Layout::De, &[], &keys("`a` `x")), "â^");
        assert_eq!(typed(Layout::De, &[Key::SHIFT], &keys("27")), "\"/");
    }

    #[test]
    fn control_and_alt_type_nothing() {
        let mut keyboard = Keyboard::default();
        assert_eq!(keyboard.press(Key::CONTROL), None);
        let stroke = keyboard.press(Key::letter(b'c')).unwrap();
        assert_eq!((stroke.character, stroke.has_control), (None, true));
        keyboard.release(Key::CONTROL);
        assert_eq!(keyboard.press(Key::letter(b'c')).unwrap().character, Some('c'));
        assert_eq!(keyboard.held(), [Key::letter(b'c')]);
    }

    #[test]
    fn scan_codes_and_keysyms_mean_the_same_places() {
        for (code, keysym) in
            [(0x1e, 'a'), (0x2c, 'z'), (0x02, '1'), (0x0b, '0'), (0x39, ' '), (0x35, '/')]
        {
            assert_eq!(Key::of_scan_code(code), Key::of_keysym(u32::from(keysym)), "{keysym}");
        }
        assert_eq!(Key::of_scan_code(0x57), Key::of_keysym(0xffc8), "F11");
        assert_eq!(Key::of_scan_code(0x148), Some(Key::UP));
        assert_eq!(Key::of_scan_code(0), None);
        assert_eq!(Key::of_scan_code(0x17f), None);
    }
}
