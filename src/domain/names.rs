//! How names are compared, ordered, escaped on the wire, and matched by patterns; and which
//! characters a new name may not have.

use std::cmp::Ordering;

use super::terminal::first_unprintable;

/// A character by which a name looks like another one, or does something to a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenCharacter {
    /// A terminal obeys it.
    Control(char),
    /// It takes no place, or an empty one.
    Invisible(char),
    /// White space at the beginning or the end.
    Surrounding(char),
}

/// The first character that a new name may not have. Names of the host may have all of them.
#[must_use]
pub fn hidden_character(name: &str) -> Option<HiddenCharacter> {
    let obeyed = first_unprintable(name).map(HiddenCharacter::Control);
    let invisible = || name.chars().find(|character| is_invisible(*character));
    let surrounding = || [name.chars().next(), name.chars().next_back()].into_iter().flatten();
    obeyed
        .or_else(|| invisible().map(HiddenCharacter::Invisible))
        .or_else(|| surrounding().find(|end| end.is_whitespace()).map(HiddenCharacter::Surrounding))
}

/// Whether nothing is drawn for this character: the Unicode property
/// `Default_Ignorable_Code_Point`.
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

/// Loose matching: Unicode lower-case, contained in.
#[must_use]
pub fn contains_loosely(name: &str, wanted: &str) -> bool {
    if name.is_ascii() && wanted.is_ascii() {
        // Lists compare every name, so the usual case allocates nothing.
        let (name, wanted) = (name.as_bytes(), wanted.as_bytes());
        return wanted.is_empty()
            || name.windows(wanted.len()).any(|part| part.eq_ignore_ascii_case(wanted));
    }
    name.to_lowercase().contains(&wanted.to_lowercase())
}

/// The order of every list and find: by lower-cased name, then by id.
#[must_use]
pub fn list_order(a: (&str, &str), b: (&str, &str)) -> Ordering {
    a.0.to_lowercase().cmp(&b.0.to_lowercase()).then_with(|| a.1.cmp(b.1))
}

/// Undoes the escapes of vim25 names: `%2f`, `%5c` and `%25` in either case. Any other `%` stays.
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

/// Escapes a name as vim25 wants it from callers.
#[must_use]
pub fn escape_vim(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2f").replace('\\', "%5c")
}

/// Whether `name` fits a pattern of `*` (any text) and `?` (any one character), the rest to the
/// letter.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // `star` remembers what follows the last `*`, and how much of the name is behind or in it, to
    // go back to.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                star = Some((p, n));
            }
            Some(&wanted) if wanted == '?' || wanted == name[n] => {
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

    /// What the pattern means, said as plainly as can be.
    fn fits(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['*', rest @ ..] => (0..=name.len()).any(|swallowed| fits(rest, &name[swallowed..])),
            ['?', rest @ ..] => !name.is_empty() && fits(rest, &name[1..]),
            [wanted, rest @ ..] => name.first() == Some(wanted) && fits(rest, &name[1..]),
        }
    }

    #[test]
    fn escapes_are_undone_in_either_case_and_all_else_stays() {
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
    fn loosely_means_contained_in_whatever_the_case() {
        for (name, wanted) in [
            ("sd-Whonix", "WHONIX"),
            ("ÄÖÜ", "äö"),
            ("a", ""),
            ("qubes-4.2", "4.2"),
            ("ΟΔΟΣ", "οδος"),
        ] {
            assert!(contains_loosely(name, wanted), "{wanted} in {name}");
        }
        assert!(!contains_loosely("qubes", "qubes-4"));
        assert!(!contains_loosely("", "a"));
    }

    #[test]
    fn many_stars_do_not_take_for_ever() {
        let name = "a".repeat(255);
        assert!(!matches_pattern(&("a*".repeat(100) + "b"), &name));
        assert!(matches_pattern(&"*a".repeat(100), &name));
    }

    proptest! {
        #[test]
        fn an_escaped_name_is_read_back(name in "(\\PC|[%/\\\\2f5c]){0,24}") {
            let escaped = escape_vim(&name);
            prop_assert!(!escaped.contains(['/', '\\']));
            prop_assert_eq!(unescape_vim(&escaped), name);
        }

        #[test]
        fn unescaping_takes_any_text(name in "(\\PC|%){0,24}") {
            prop_assert!(unescape_vim(&name).len() <= name.len());
        }

        #[test]
        fn what_is_cut_out_of_a_name_is_found_in_it(parts: [String; 3], upper: bool) {
            // Of ß, the ligatures and the last Σ of a word the upper and the lower case are no
            // pairs.
            let [before, wanted, behind] = parts.map(|part| {
                part.chars().filter(|letter| letter.is_ascii() || ('А'..='я').contains(letter)).collect::<String>()
            });
            let name = format!("{before}{wanted}{behind}");
            let wanted = if upper { wanted.to_uppercase() } else { wanted.to_lowercase() };
            prop_assert!(contains_loosely(&name, &wanted));
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
            // Ids are unique, so that no two items are equal.
            prop_assert_eq!(list_order(a, b).is_eq(), a.1 == b.1 && a.0.to_lowercase() == b.0.to_lowercase());
        }

        #[test]
        fn patterns_fit_as_they_are_meant(pattern in "[abé*?]{0,8}", name in "[abé*?]{0,8}") {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches_pattern(&pattern, &name), fits(&letters(&pattern), &letters(&name)));
        }

        #[test]
        fn a_name_fits_itself_and_a_star(name in "[^*?]{0,16}", at: prop::sample::Index) {
            prop_assert!(matches_pattern(&name, &name));
            let letters: Vec<char> = name.chars().collect();
            let (before, behind) = letters.split_at(at.index(letters.len() + 1));
            let pattern = String::from_iter(before) + "*" + &String::from_iter(behind);
            prop_assert!(matches_pattern(&pattern, &name));
        }
    }
}
