//! Which strokes type a character on a keyboard layout. The strokes name the keys of a US keyboard
//! at the same positions, because a console presses these.

use std::fmt;
use std::str::FromStr;

use super::{ALT_GR, Keysym, SHIFT, Stroke};

/// The keyboard layout of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// The US layout.
    #[default]
    Us,
    /// The German layout with dead keys for accents. It has the keys `<`, `>` and `|` at a position
    /// that a US keyboard lacks, so that no console can press them.
    De,
}

/// The text is not the name of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the keyboard layouts are us and de")]
pub struct InvalidLayout;

/// No key of the layout gives a character of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the character {character:?} (U+{code:04X}, number {} of the text) has no key of the layout \
     {layout} that a console can press",
    .index + 1,
    code = u32::from(*.character)
)]
pub struct UntypableCharacter {
    pub character: char,
    /// The number of characters before it.
    pub index: usize,
    pub layout: Layout,
}

/// A key with a character: the two characters that it has on a US keyboard, and its characters on
/// a German one: alone, with Shift, and with `AltGr`. `NONE` is no character.
type CharacterKey = (char, char, [char; 3]);

const NONE: char = '\0';

const KEYS: [CharacterKey; 47] = [
    ('`', '~', ['^', '°', NONE]),
    ('1', '!', ['1', '!', NONE]),
    ('2', '@', ['2', '"', '²']),
    ('3', '#', ['3', '§', '³']),
    ('4', '$', ['4', '$', NONE]),
    ('5', '%', ['5', '%', NONE]),
    ('6', '^', ['6', '&', NONE]),
    ('7', '&', ['7', '/', '{']),
    ('8', '*', ['8', '(', '[']),
    ('9', '(', ['9', ')', ']']),
    ('0', ')', ['0', '=', '}']),
    ('-', '_', ['ß', '?', '\\']),
    ('=', '+', ['´', '`', NONE]),
    ('q', 'Q', ['q', 'Q', '@']),
    ('w', 'W', ['w', 'W', NONE]),
    ('e', 'E', ['e', 'E', '€']),
    ('r', 'R', ['r', 'R', NONE]),
    ('t', 'T', ['t', 'T', NONE]),
    ('y', 'Y', ['z', 'Z', NONE]),
    ('u', 'U', ['u', 'U', NONE]),
    ('i', 'I', ['i', 'I', NONE]),
    ('o', 'O', ['o', 'O', NONE]),
    ('p', 'P', ['p', 'P', NONE]),
    ('[', '{', ['ü', 'Ü', NONE]),
    (']', '}', ['+', '*', '~']),
    ('\\', '|', ['#', '\'', NONE]),
    ('a', 'A', ['a', 'A', NONE]),
    ('s', 'S', ['s', 'S', NONE]),
    ('d', 'D', ['d', 'D', NONE]),
    ('f', 'F', ['f', 'F', NONE]),
    ('g', 'G', ['g', 'G', NONE]),
    ('h', 'H', ['h', 'H', NONE]),
    ('j', 'J', ['j', 'J', NONE]),
    ('k', 'K', ['k', 'K', NONE]),
    ('l', 'L', ['l', 'L', NONE]),
    (';', ':', ['ö', 'Ö', NONE]),
    ('\'', '"', ['ä', 'Ä', NONE]),
    ('z', 'Z', ['y', 'Y', NONE]),
    ('x', 'X', ['x', 'X', NONE]),
    ('c', 'C', ['c', 'C', NONE]),
    ('v', 'V', ['v', 'V', NONE]),
    ('b', 'B', ['b', 'B', NONE]),
    ('n', 'N', ['n', 'N', NONE]),
    ('m', 'M', ['m', 'M', 'µ']),
    (',', '<', [',', ';', NONE]),
    ('.', '>', ['.', ':', NONE]),
    ('/', '?', ['-', '_', NONE]),
];

/// The dead keys of the German layout: such a key alone gives nothing, and its accent goes to the
/// next letter. A space after it gives the accent itself.
const DEAD_KEYS: [char; 3] = ['^', '´', '`'];

/// The letters that have the accent of a dead key, in the order of [`DEAD_KEYS`].
const ACCENTED: [(&str, &str); 3] =
    [("aeiouAEIOU", "âêîôûÂÊÎÔÛ"), ("aeiouyAEIOUY", "áéíóúýÁÉÍÓÚÝ"), ("aeiouAEIOU", "àèìòùÀÈÌÒÙ")];

const SPACE: Keysym = Keysym(0x20);
const TAB: Keysym = Keysym(0xff09);
const ENTER: Keysym = Keysym(0xff0d);

/// The strokes of a text: one entry for each character, which has several strokes if the layout
/// needs a dead key for it. A line feed is Enter.
///
/// # Errors
/// The first character that the layout cannot type.
pub fn type_text(layout: Layout, text: &str) -> Result<Vec<Vec<Stroke>>, UntypableCharacter> {
    let strokes = |(index, character)| {
        layout.strokes(character).ok_or(UntypableCharacter { character, index, layout })
    };
    text.chars().enumerate().map(strokes).collect()
}

/// The keysym that a key has while Shift is held: that of the second character on a US keyboard.
pub fn shifted(key: Keysym) -> Keysym {
    let has_key = |(plain, _, _): &&CharacterKey| keysym(*plain) == key;
    KEYS.iter().find(has_key).map_or(key, |(_, shifted, _)| keysym(*shifted))
}

impl Layout {
    /// The strokes that type a character. `None` if the layout has no key for it that a console can
    /// press.
    #[must_use]
    pub fn strokes(self, character: char) -> Option<Vec<Stroke>> {
        match character {
            ' ' => return Some(vec![Stroke::alone(SPACE)]),
            '\n' => return Some(vec![Stroke::alone(ENTER)]),
            '\t' => return Some(vec![Stroke::alone(TAB)]),
            NONE => return None,
            _ => {}
        }
        match self {
            Self::Us => us_stroke(character).map(|stroke| vec![stroke]),
            Self::De => german_strokes(character),
        }
    }

    /// The name of the layout: `us` or `de`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::De => "de",
        }
    }
}

fn us_stroke(character: char) -> Option<Stroke> {
    KEYS.iter().find_map(|(plain, shifted, _)| {
        if character == *plain {
            Some(Stroke::alone(keysym(*plain)))
        } else if character == *shifted {
            Some(Stroke { modifiers: vec![SHIFT], key: keysym(*shifted) })
        } else {
            None
        }
    })
}

fn german_strokes(character: char) -> Option<Vec<Stroke>> {
    if let Some(stroke) = german_stroke(character) {
        let is_dead = DEAD_KEYS.contains(&character);
        let space = is_dead.then(|| Stroke::alone(SPACE));
        return Some([stroke].into_iter().chain(space).collect());
    }
    let (dead_key, letter) =
        DEAD_KEYS.into_iter().zip(ACCENTED).find_map(|(dead_key, (letters, accented))| {
            let mut pairs = letters.chars().zip(accented.chars());
            pairs.find(|(_, accented)| *accented == character).map(|(letter, _)| (dead_key, letter))
        })?;
    Some(vec![german_stroke(dead_key)?, german_stroke(letter)?])
}

fn german_stroke(character: char) -> Option<Stroke> {
    KEYS.iter().find_map(|(us, us_shifted, [plain, shifted, alternate])| {
        if character == *plain {
            Some(Stroke::alone(keysym(*us)))
        } else if character == *shifted {
            Some(Stroke { modifiers: vec![SHIFT], key: keysym(*us_shifted) })
        } else if character == *alternate {
            Some(Stroke { modifiers: vec![ALT_GR], key: keysym(*us) })
        } else {
            None
        }
    })
}

/// The keysym of a character of ASCII, which is its code.
fn keysym(character: char) -> Keysym {
    Keysym(character.into())
}

impl FromStr for Layout {
    type Err = InvalidLayout;

    fn from_str(text: &str) -> Result<Self, InvalidLayout> {
        [Self::Us, Self::De].into_iter().find(|layout| layout.as_str() == text).ok_or(InvalidLayout)
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// What a guest with this layout reads from the strokes: it knows positions of keys only.
    fn read(layout: Layout, strokes: &[Stroke]) -> String {
        let mut dead_key = None;
        let mut text = String::new();
        for Stroke { modifiers, key } in strokes {
            let shift = modifiers.contains(&SHIFT);
            let alternate = modifiers.contains(&ALT_GR);
            let character = match *key {
                SPACE => ' ',
                TAB => '\t',
                ENTER => '\n',
                key => {
                    let (plain, shifted, german) = KEYS
                        .into_iter()
                        .find(|(us, shifted, _)| keysym(if shift { *shifted } else { *us }) == key)
                        .unwrap();
                    match layout {
                        Layout::Us => [plain, shifted][usize::from(shift)],
                        Layout::De => german[if alternate { 2 } else { usize::from(shift) }],
                    }
                }
            };
            if layout == Layout::De && DEAD_KEYS.contains(&character) {
                dead_key = Some(character);
                continue;
            }
            match dead_key.take() {
                None => text.push(character),
                Some(accent) if character == ' ' => text.push(accent),
                Some(accent) => {
                    let (letters, accented) =
                        ACCENTED[DEAD_KEYS.iter().position(|dead| *dead == accent).unwrap()];
                    let at = letters.chars().position(|letter| letter == character).unwrap();
                    text.push(accented.chars().nth(at).unwrap());
                }
            }
        }
        text
    }

    #[test]
    fn each_key_has_a_position_of_its_own() {
        let us: HashSet<char> =
            KEYS.iter().flat_map(|(plain, shifted, _)| [*plain, *shifted]).collect();
        assert_eq!(us.len(), 2 * KEYS.len());
        let german = || KEYS.iter().flat_map(|(_, _, german)| *german).filter(|key| *key != NONE);
        assert_eq!(german().collect::<HashSet<_>>().len(), german().count());
        for (letters, accented) in ACCENTED {
            assert_eq!(letters.chars().count(), accented.chars().count());
        }
    }

    #[test]
    fn the_us_layout_types_all_of_ascii_and_nothing_else() {
        for character in (' '..='~').chain(['\n', '\t']) {
            let strokes = Layout::Us.strokes(character).unwrap();
            assert_eq!(read(Layout::Us, &strokes), character.to_string());
        }
        for character in ['ä', '€', '\0', '\r', '\u{1b}', '\u{7f}', '漢'] {
            assert_eq!(Layout::Us.strokes(character), None, "{character:?}");
        }
    }

    #[test]
    fn the_german_layout_types_what_its_keys_reach() {
        let missing = ['<', '>', '|'];
        let ascii = (' '..='~').filter(|character| !missing.contains(character));
        for character in ascii.chain("äöüÄÖÜß€§°²³µéÉàâýÝ´\n\t".chars()) {
            let strokes = Layout::De.strokes(character).unwrap();
            assert_eq!(read(Layout::De, &strokes), character.to_string());
        }
        for character in missing.into_iter().chain(['\0', 'ñ', '漢']) {
            assert_eq!(Layout::De.strokes(character), None, "{character:?}");
        }
    }

    #[test]
    fn a_capital_has_shift_around_it_and_its_own_keysym() {
        let strokes = Layout::Us.strokes('H').unwrap();
        assert_eq!(strokes, [Stroke { modifiers: vec![SHIFT], key: Keysym(0x48) }]);
        let strokes = Layout::De.strokes('@').unwrap();
        assert_eq!(strokes, [Stroke { modifiers: vec![ALT_GR], key: Keysym(0x71) }]);
        let strokes = Layout::De.strokes('"').unwrap();
        assert_eq!(strokes, [Stroke { modifiers: vec![SHIFT], key: Keysym(0x40) }]);
        assert_eq!(Layout::De.strokes('é').unwrap().len(), 2);
    }

    #[test]
    fn a_character_without_a_key_is_named() {
        let error = type_text(Layout::Us, "schön").unwrap_err();
        assert_eq!((error.character, error.index), ('ö', 3));
        assert_eq!(
            error.to_string(),
            "the character 'ö' (U+00F6, number 4 of the text) has no key of the layout us that a \
             console can press"
        );
        assert_eq!(type_text(Layout::De, "schön").unwrap().len(), 5);
        assert_eq!("de".parse(), Ok(Layout::De));
        assert_eq!("fr".parse::<Layout>(), Err(InvalidLayout));
    }
}
