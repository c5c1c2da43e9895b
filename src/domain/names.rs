//! How names are compared, ordered, escaped on the wire, and matched by patterns.

use std::cmp::Ordering;

/// Loose matching: Unicode lower-case, contained in.
#[must_use]
pub fn contains_loosely(name: &str, wanted: &str) -> bool {
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

/// Whether `name` fits a pattern of `*` (any text) and `?` (any one character), the rest to the letter.
#[must_use]
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // `star` remembers what follows the last `*`, and how much of the name is behind or in it, to go back to.
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
    fn loosely_means_contained_in_whatever_the_case() {
        for (name, wanted) in
            [("sd-Whonix", "WHONIX"), ("ÄÖÜ", "äö"), ("a", ""), ("qubes-4.2", "4.2"), ("ΟΔΟΣ", "οδος")]
        {
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
            // Of ß, the ligatures and the last Σ of a word the upper and the lower case are no pairs.
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
