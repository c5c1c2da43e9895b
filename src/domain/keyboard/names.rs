//! The names of physical keys. They name positions on a US keyboard, whatever the layout is.

use super::{ALT_GR, Keysym, SHIFT};

/// There is no key with this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no key {given:?}; did you mean {nearest:?}?")]
pub struct UnknownKey {
    /// The beginning of the name that was given.
    pub given: String,
    /// The known name that is nearest to it.
    pub nearest: &'static str,
}

/// The number of characters of an unknown name that its error repeats.
const SHOWN_CHARACTERS: usize = 32;

/// The keys, by the first of their names. The other names are accepted, too.
const NAMES: &[(&[&str], u32)] = &[
    (&["enter", "return", "ret"], 0xff0d),
    (&["esc", "escape"], 0xff1b),
    (&["tab"], 0xff09),
    (&["backspace"], 0xff08),
    (&["space", "spc"], 0x20),
    (&["delete", "del"], 0xffff),
    (&["insert", "ins"], 0xff63),
    (&["home"], 0xff50),
    (&["end"], 0xff57),
    (&["pageup", "pgup"], 0xff55),
    (&["pagedown", "pgdn"], 0xff56),
    (&["left", "arrowleft"], 0xff51),
    (&["up", "arrowup"], 0xff52),
    (&["right", "arrowright"], 0xff53),
    (&["down", "arrowdown"], 0xff54),
    (&["shift", "leftshift"], SHIFT.0),
    (&["rightshift"], 0xffe2),
    (&["ctrl", "control", "leftctrl"], 0xffe3),
    (&["rightctrl"], 0xffe4),
    (&["alt", "leftalt"], 0xffe9),
    (&["altgr", "rightalt"], ALT_GR.0),
    (&["super", "win", "windows", "meta", "leftsuper"], 0xffeb),
    (&["rightsuper"], 0xffec),
    (&["menu"], 0xff67),
    (&["capslock"], 0xffe5),
    (&["numlock"], 0xff7f),
    (&["scrolllock"], 0xff14),
    (&["print", "printscreen"], 0xff61),
    (&["sysrq"], 0xff15),
    (&["pause", "break"], 0xff13),
    (&["minus", "hyphen"], 0x2d),
    (&["equal", "="], 0x3d),
    (&["leftbracket", "["], 0x5b),
    (&["rightbracket", "]"], 0x5d),
    (&["backslash", "\\"], 0x5c),
    (&["semicolon", ";"], 0x3b),
    (&["apostrophe", "quote", "'"], 0x27),
    (&["grave", "backquote", "`"], 0x60),
    (&["comma", ","], 0x2c),
    (&["dot", "period", "."], 0x2e),
    (&["slash", "/"], 0x2f),
    (&["f1"], 0xffbe),
    (&["f2"], 0xffbf),
    (&["f3"], 0xffc0),
    (&["f4"], 0xffc1),
    (&["f5"], 0xffc2),
    (&["f6"], 0xffc3),
    (&["f7"], 0xffc4),
    (&["f8"], 0xffc5),
    (&["f9"], 0xffc6),
    (&["f10"], 0xffc7),
    (&["f11"], 0xffc8),
    (&["f12"], 0xffc9),
    (&["kpenter"], 0xff8d),
    (&["kpadd", "kpplus"], 0xffab),
    (&["kpsubtract", "kpminus"], 0xffad),
    (&["kpmultiply"], 0xffaa),
    (&["kpdivide"], 0xffaf),
    (&["kpdot", "kpdecimal"], 0xffae),
    (&["kp0"], 0xffb0),
    (&["kp1"], 0xffb1),
    (&["kp2"], 0xffb2),
    (&["kp3"], 0xffb3),
    (&["kp4"], 0xffb4),
    (&["kp5"], 0xffb5),
    (&["kp6"], 0xffb6),
    (&["kp7"], 0xffb7),
    (&["kp8"], 0xffb8),
    (&["kp9"], 0xffb9),
    (&["0"], 0x30),
    (&["1"], 0x31),
    (&["2"], 0x32),
    (&["3"], 0x33),
    (&["4"], 0x34),
    (&["5"], 0x35),
    (&["6"], 0x36),
    (&["7"], 0x37),
    (&["8"], 0x38),
    (&["9"], 0x39),
    (&["a"], 0x61),
    (&["b"], 0x62),
    (&["c"], 0x63),
    (&["d"], 0x64),
    (&["e"], 0x65),
    (&["f"], 0x66),
    (&["g"], 0x67),
    (&["h"], 0x68),
    (&["i"], 0x69),
    (&["j"], 0x6a),
    (&["k"], 0x6b),
    (&["l"], 0x6c),
    (&["m"], 0x6d),
    (&["n"], 0x6e),
    (&["o"], 0x6f),
    (&["p"], 0x70),
    (&["q"], 0x71),
    (&["r"], 0x72),
    (&["s"], 0x73),
    (&["t"], 0x74),
    (&["u"], 0x75),
    (&["v"], 0x76),
    (&["w"], 0x77),
    (&["x"], 0x78),
    (&["y"], 0x79),
    (&["z"], 0x7a),
];

/// The key with this name, such as `enter`, `f1`, `super`, `a` or `minus`. The case does not
/// matter, and neither do `_` and spaces: `Page_Up` is `pageup`.
pub fn key(name: &str) -> Result<Keysym, UnknownKey> {
    let shown: String = name.chars().take(SHOWN_CHARACTERS).collect();
    let plain: String = name
        .chars()
        .filter(|character| !matches!(character, '_' | ' '))
        .take(SHOWN_CHARACTERS + 1)
        .flat_map(char::to_lowercase)
        .collect();
    let known = NAMES.iter().find(|(names, _)| names.contains(&plain.as_str()));
    if let Some((_, code)) = known {
        return Ok(Keysym(*code));
    }
    let distance = |known: &&str| strsim::damerau_levenshtein(known, &plain);
    let all = NAMES.iter().flat_map(|(names, _)| names.iter().copied());
    // A single letter is near to every short name, which helps no reader.
    let nearest = all.filter(|known| known.len() > 1).min_by_key(distance).unwrap_or("enter");
    Err(UnknownKey { given: shown, nearest })
}

/// The first name of each key.
pub fn key_names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().filter_map(|(names, _)| names.first().copied())
}

/// Whether the key is one of the two Shift keys.
pub fn is_shift(key: Keysym) -> bool {
    matches!(key.0, 0xffe1 | 0xffe2)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_and_keys_are_unique() {
        let names: Vec<&str> = NAMES.iter().flat_map(|(names, _)| names.iter().copied()).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert_eq!(NAMES.iter().map(|(_, code)| code).collect::<HashSet<_>>().len(), NAMES.len());
        for name in names {
            assert_eq!(name, name.to_lowercase());
            assert!(!name.contains(['-', '_', ' ']), "{name}");
            assert!(key(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_spelling_of_a_name_is_free() {
        for (name, expected) in
            [("Page_Up", "pageup"), ("PGUP", "pageup"), ("Caps Lock", "capslock"), ("A", "a")]
        {
            assert_eq!(key(name), key(expected), "{name}");
        }
    }

    #[test]
    fn the_guide_lists_the_names() {
        let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("GUIDE.md");
        let guide = std::fs::read_to_string(guide).unwrap();
        let is_in_a_range = |name: &&str| {
            let number = name.trim_start_matches("kp").trim_start_matches('f');
            name.len() == 1 || number.parse::<u8>().is_ok()
        };
        for name in key_names().filter(|name| !is_in_a_range(name)) {
            assert!(guide.contains(&format!("`{name}`")), "GUIDE.md lacks {name}");
        }
    }

    #[test]
    fn an_unknown_name_has_a_near_one() {
        for (given, nearest) in
            [("entr", "enter"), ("deltee", "delete"), ("cntrl", "ctrl"), ("f13", "f1")]
        {
            let error = key(given).unwrap_err();
            assert_eq!((error.given.as_str(), error.nearest), (given, nearest));
        }
        assert_eq!(key(&"é".repeat(1000)).unwrap_err().given.chars().count(), 32);
    }
}
