//! Rules for names: comparison, order, vim25 escapes, patterns, and the characters that a new name
//! must not contain.
//!
//! vim25 escapes some characters of names. Some clients also escape a name before they send it, and
//! the host then escapes it once more: `11/13/2019` becomes `11%252f13%252f2019`. otter shows a
//! name unescaped once. A caller's text finds an object if it is one of three forms of the object's
//! name: as the host sends it, unescaped once, or unescaped twice.

use std::cmp::Ordering;

use super::terminal::first_unprintable;

/// A character that makes a name look like another name, or that controls a terminal. The variant
/// says which of these it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenCharacter {
    /// The character controls a terminal.
    Control(char),
    /// The character is invisible on a screen.
    Invisible(char),
    /// The character is white space at the beginning or at the end of the name.
    Surrounding(char),
}

/// The first character of a new name that a new name must not contain. `None` if the name has no
/// such character. Names that the host reports may contain all characters.
#[must_use]
pub fn hidden_character(name: &str) -> Option<HiddenCharacter> {
    let control = first_unprintable(name).map(HiddenCharacter::Control);
    let invisible = || name.chars().find(|character| is_invisible(*character));
    let surrounding = || [name.chars().next(), name.chars().next_back()].into_iter().flatten();
    control
        .or_else(|| invisible().map(HiddenCharacter::Invisible))
        .or_else(|| surrounding().find(|end| end.is_whitespace()).map(HiddenCharacter::Surrounding))
}

/// Whether a character is invisible: it has the Unicode property `Default_Ignorable_Code_Point`.
const fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Whether a caller's text is one of the three forms of a name: as the host sends it, unescaped
/// once, or unescaped twice. Upper and lower case differ.
///
/// # Parameters
/// - `name`: the name as otter shows it.
#[must_use]
pub fn is_name(given: &str, name: &str) -> bool {
    fits_a_form(given, name, |given, form| given == form)
}

/// Whether one of the three forms of a name (see [`is_name`]) contains the text `fragment`. Both
/// texts are compared in Unicode lower case.
///
/// # Parameters
/// - `name`: the name as otter shows it.
#[must_use]
pub fn contains_loosely(name: &str, fragment: &str) -> bool {
    fits_a_form(fragment, name, |fragment, form| contains_in_lower_case(form, fragment))
}

/// Whether the comparison `fits` holds for a caller's text and one of the three forms of a name
/// (see [`is_name`]). To compare the form with one more escape, the caller's text is unescaped, so
/// that `%2f` and `%2F` are equal.
fn fits_a_form(given: &str, name: &str, fits: impl Fn(&str, &str) -> bool) -> bool {
    if fits(given, name) {
        return true;
    }
    // Lists of objects compare every name, so the usual case (no escapes) must not allocate memory.
    if !given.contains('%') && !name.contains('%') {
        return false;
    }
    let (unescaped_given, unescaped_name) = (unescape_vim(given), unescape_vim(name));
    fits(given, &unescaped_name)
        || fits(&unescaped_given, name)
        || fits(&unescaped_given, &unescaped_name)
}

fn contains_in_lower_case(name: &str, fragment: &str) -> bool {
    if name.is_ascii() && fragment.is_ascii() {
        // Lists of objects compare every name, so the usual case (ASCII) must not allocate memory.
        let (name, fragment) = (name.as_bytes(), fragment.as_bytes());
        return fragment.is_empty()
            || name.windows(fragment.len()).any(|part| part.eq_ignore_ascii_case(fragment));
    }
    name.to_lowercase().contains(&fragment.to_lowercase())
}

/// The order of objects in lists and in the results of searches: by the name in lower case, then by
/// the id.
#[must_use]
pub fn list_order(a: (&str, &str), b: (&str, &str)) -> Ordering {
    a.0.to_lowercase().cmp(&b.0.to_lowercase()).then_with(|| a.1.cmp(b.1))
}

/// Decodes the escapes in vim25 names: `%2f`, `%5c` and `%25`, with letters in either case. Any
/// other `%` stays.
#[must_use]
pub fn unescape_vim(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3).unwrap_or("%");
        let (character, taken) = match escape.to_ascii_lowercase().as_str() {
            "%2f" => ('/', 3),
            "%5c" => ('\\', 3),
            "%25" => ('%', 3),
            _ => ('%', 1),
        };
        out.push(character);
        rest = &rest[at + taken..];
    }
    out.push_str(rest);
    out
}

/// Encodes the characters that vim25 requires to be escaped in names that a client sends.
#[must_use]
pub fn escape_vim(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

/// Whether a pattern matches one of the three forms of a name (see [`is_name`]). `*` matches any
/// text, `?` matches any one character, and every other character matches itself.
///
/// # Parameters
/// - `name`: the name as otter shows it.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    fits_a_form(pattern, name, matches_wildcards)
}

/// Whether a pattern matches a path of snapshot names. In a path, a `/` in a name is written `%2F`
/// in either case, and a `%` is written `%25`. If the host escapes a name twice, the pattern also
/// matches the path in which the name's `%25` is written `%`.
#[must_use]
pub fn matches_path_pattern(pattern: &str, path: &str) -> bool {
    let upper = |text: &str| text.replace("%2f", "%2F");
    let pattern = upper(pattern);
    matches_wildcards(&pattern, &upper(path))
        || (path.contains("%25") && matches_wildcards(&pattern, &upper(&path.replace("%25", "%"))))
}

fn matches_wildcards(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // `star` holds two positions: the one after the last `*` in the pattern, and the one in the
    // name up to which that `*` has matched. If the rest of the pattern does not match, the loop
    // goes back to these positions and lets the `*` match one character more.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                star = Some((p, n));
            }
            Some(&expected) if expected == '?' || expected == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((behind, swallowed)) => {
                    (p, n) = (behind, swallowed + 1);
                    star = Some((p, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a pattern matches a name, by the plain definition of patterns. This function may be
    /// slow, because only a test uses it for comparison.
    fn fits(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|swallowed| fits(rest, &name[swallowed..])),
            ['?', rest @ ..] => !name.is_empty() && fits(rest, &name[1..]),
            [letter, rest @ ..] => name.first() == Some(letter) && fits(rest, &name[1..]),
        }
    }

    #[test]
    fn escapes_are_decoded_in_either_case() {
        for (escaped, name) in [
            ("a%2fb%2Fc", "a/b/c"),
            ("a%5cb%5C", "a\\b\\"),
            ("100%25", "100%"),
            ("%252f", "%2f"),
            ("100%", "100%"),
            ("%2", "%2"),
            ("%41 %zz", "%41 %zz"),
            ("%2é%2f", "%2é/"),
        ] {
            assert_eq!(unescape_vim(escaped), name, "{escaped}");
        }
        assert_eq!(escape_vim("a/b\\c 100%"), "a%2fb%5cc 100%25");
    }

    #[test]
    fn a_name_is_found_as_the_host_sends_it_unescaped_once_and_unescaped_twice() {
        // Each row has a name as otter shows it, texts that find the name, and texts that do not
        // find it.
        for (name, found, not_found) in [
            (
                "11%2f13%2f2019",
                vec!["11/13/2019", "11%2f13%2f2019", "11%2F13%2F2019", "11%252f13%252f2019"],
                vec!["11%25252f13%25252f2019", "11/13"],
            ),
            ("11/13/2019", vec!["11/13/2019", "11%2f13%2F2019"], vec!["11%252f13%252f2019"]),
            ("a\\b", vec!["a\\b", "a%5cb"], vec!["a/b"]),
            ("100%", vec!["100%", "100%25"], vec!["100"]),
            ("100%25", vec!["100%25", "100%", "100%2525"], vec!["100"]),
            ("Kick", vec!["Kick"], vec!["kick"]),
        ] {
            for given in found {
                assert!(is_name(given, name), "{given} finds {name}");
                assert!(contains_loosely(name, &given.to_uppercase()), "{given} is in {name}");
                assert!(matches_pattern(given, name), "{given} as a pattern finds {name}");
                assert!(matches_pattern(&format!("{given}*"), &format!("{name} 2")), "{given}");
            }
            for given in not_found {
                assert!(!is_name(given, name), "{given} does not find {name}");
                assert!(!matches_pattern(given, name), "{given} does not match {name}");
            }
        }
    }

    #[test]
    fn patterns_match_paths_with_their_escapes() {
        for (pattern, path, matches) in [
            ("base/*", "base/a", true),
            ("a%2fb", "a%2Fb", true),
            ("a%2Fb", "a%2fb", true),
            ("a/b", "a%2Fb", false),
            ("a%2Fb", "a/b", false),
            ("base/11%252f13", "base/11%252f13", true),
            ("base/11%2F13", "base/11%252f13", true),
            ("base/11/13", "base/11%252f13", false),
        ] {
            assert_eq!(matches_path_pattern(pattern, path), matches, "{pattern} {path}");
        }
    }

    #[test]
    fn characters_that_hide_in_a_name_are_found() {
        use HiddenCharacter::{Control, Invisible, Surrounding};
        for (name, found) in [
            ("kickstart", None),
            ("nächtlich 7 🦦", None),
            ("kick\u{a0}start", None),
            ("", None),
            ("a\u{7}", Some(Control('\u{7}'))),
            ("\u{2029}a", Some(Control('\u{2029}'))),
            ("a\u{2066}b", Some(Control('\u{2066}'))),
            ("a\u{200d}b", Some(Invisible('\u{200d}'))),
            ("\u{feff}a", Some(Invisible('\u{feff}'))),
            ("a\u{e0061}", Some(Invisible('\u{e0061}'))),
            (" a", Some(Surrounding(' '))),
            ("a\u{3000}", Some(Surrounding('\u{3000}'))),
            ("\u{2002}", Some(Surrounding('\u{2002}'))),
        ] {
            assert_eq!(hidden_character(name), found, "{name:?}");
        }
    }

    #[test]
    fn loose_comparison_ignores_case() {
        for (name, fragment) in [
            ("sd-Whonix", "WHONIX"),
            ("ÄÖÜ", "äö"),
            ("a", ""),
            ("qubes-4.2", "4.2"),
            ("ΟΔΟΣ", "οδος"),
        ] {
            assert!(contains_loosely(name, fragment), "{fragment} in {name}");
        }
        assert!(!contains_loosely("qubes", "qubes-4"));
        assert!(!contains_loosely("", "a"));
    }

    #[test]
    fn many_stars_are_matched_in_short_time() {
        let name = "a".repeat(255);
        assert!(!matches_pattern(&("a*".repeat(100) + "b"), &name));
        assert!(matches_pattern(&"*a".repeat(100), &name));
    }

    proptest! {
        #[test]
        fn an_escaped_name_is_decoded(name in "(\\PC|[%/\\\\2f5c]){0,24}") {
            let escaped = escape_vim(&name);
            prop_assert!(!escaped.contains(['/', '\\']));
            prop_assert_eq!(unescape_vim(&escaped), name);
        }

        #[test]
        fn every_form_of_a_name_finds_it(name in "(\\PC|[%/\\\\2f5c]){0,16}") {
            // otter may show the name unescaped or escaped, and each of the name's three forms must
            // find it.
            for shown in [name.clone(), escape_vim(&name)] {
                for given in [unescape_vim(&shown), shown.clone(), escape_vim(&shown)] {
                    prop_assert!(is_name(&given, &shown), "{} {}", given, shown);
                    prop_assert!(contains_loosely(&shown, &given), "{} {}", given, shown);
                }
            }
        }

        #[test]
        fn unescaping_takes_any_text(name in "(\\PC|%){0,24}") {
            prop_assert!(unescape_vim(&name).len() <= name.len());
        }

        #[test]
        fn a_part_of_a_name_is_found_in_it(parts: [String; 3], upper: bool) {
            // The test uses only letters whose upper and lower case are pairs. ß, ligatures and the
            // final Σ are not.
            let is_used = |letter: &char| letter.is_ascii() || ('А'..='я').contains(letter);
            let [before, fragment, behind] =
                parts.map(|part| part.chars().filter(is_used).collect::<String>());
            let name = format!("{before}{fragment}{behind}");
            let fragment = if upper { fragment.to_uppercase() } else { fragment.to_lowercase() };
            prop_assert!(contains_loosely(&name, &fragment));
        }

        #[test]
        fn the_order_of_lists_is_total(items: [(String, u8); 3]) {
            let ids = items.each_ref().map(|(_, id)| id.to_string());
            let item = |place: usize| (items[place].0.as_str(), ids[place].as_str());
            let (a, b, c) = (item(0), item(1), item(2));
            prop_assert_eq!(list_order(a, b), list_order(b, a).reverse());
            prop_assert_eq!(list_order(a, a), Ordering::Equal);
            if list_order(a, b).is_le() && list_order(b, c).is_le() {
                prop_assert!(list_order(a, c).is_le());
            }
            // The ids are unique, so no two items may count as equal.
            let are_equal = a.1 == b.1 && a.0.to_lowercase() == b.0.to_lowercase();
            prop_assert_eq!(list_order(a, b).is_eq(), are_equal);
        }

        #[test]
        fn patterns_match_as_defined(pattern in "[abé*?]{0,8}", name in "[abé*?]{0,8}") {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            let expected = fits(&letters(&pattern), &letters(&name));
            prop_assert_eq!(matches_pattern(&pattern, &name), expected);
        }

        #[test]
        fn a_name_matches_itself_and_a_star(name in "[^*?]{0,16}", at: prop::sample::Index) {
            prop_assert!(matches_pattern(&name, &name));
            let letters: Vec<char> = name.chars().collect();
            let (before, behind) = letters.split_at(at.index(letters.len() + 1));
            let pattern = String::from_iter(before) + "*" + &String::from_iter(behind);
            prop_assert!(matches_pattern(&pattern, &name));
        }
    }
}
