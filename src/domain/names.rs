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
    // `star` remembers the last `*` and how much of the name it has swallowed, to go back to.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, swallowed)) => {
                    star = Some((at, swallowed + 1));
                    p = at + 1;
                    n = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|rest| *rest == '*')
}
