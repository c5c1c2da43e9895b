//! Parses the header `Content-Type` to check that a body is JSON in UTF-8 (RFC 9110, section 8.3).

/// Whether a content type is `application/json`. The parameter `charset` must be `utf-8` if it is
/// present; other parameters are ignored.
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let (media_type, parameters) =
        content_type.split_at(content_type.find(';').unwrap_or(content_type.len()));
    if !media_type.trim_matches(SPACE).eq_ignore_ascii_case("application/json") {
        return false;
    }
    let Some(parameters) = read(parameters) else { return false };
    let mut charsets = parameters.iter().filter(|(name, _)| name.eq_ignore_ascii_case("charset"));
    charsets.all(|(_, value)| value.eq_ignore_ascii_case("utf-8"))
}

const SPACE: [char; 2] = [' ', '\t'];

/// Parses the parameters of a content type, each after a `;`, into names and values. `None` if they
/// are malformed.
fn read(mut rest: &str) -> Option<Vec<(&str, String)>> {
    let mut parameters = Vec::new();
    loop {
        rest = rest.trim_start_matches(SPACE);
        if rest.is_empty() {
            return Some(parameters);
        }
        rest = rest.strip_prefix(';')?.trim_start_matches(SPACE);
        // Skip an empty parameter, which RFC 9110 allows: `; ;`.
        if rest.is_empty() || rest.starts_with(';') {
            continue;
        }
        let name;
        (name, rest) = token(rest)?;
        rest = rest.strip_prefix('=')?;
        let value;
        (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => token(rest).map(|(value, rest)| (value.to_owned(), rest))?,
        };
        parameters.push((name, value));
    }
}

/// Splits a token off the beginning of a text. Returns the token and the rest of the text.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let length = text.bytes().take_while(|byte| is_of_token(*byte)).count();
    (length > 0).then(|| text.split_at(length))
}

/// Splits a quoted string off the beginning of a text whose opening quote was removed before.
/// Returns the unquoted string and the rest of the text.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(characters.next()?),
            plain => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_charset_is_refused() {
        for json in [
            "application/json",
            " application/json ",
            "Application/JSON;",
            "application/json;;",
            "application/json;charset=utf-8",
            "application/json ; CharSet=\"UTF\\-8\"",
            "application/json;\tcharset=utf-8; foo=bar",
            "application/json; foo=\"a;charset=latin1\"; charset=utf-8",
            "application/json; profile=\"\"",
        ] {
            assert!(is_json(json), "{json}");
        }
        for other in [
            "",
            "json",
            "application/jsonp",
            "application/json/x",
            "application/json, text/plain",
            "application/problem+json",
            "application/json; charset=latin1",
            "application/json; charset=utf8",
            "application/json; charset=utf-8; charset=latin1",
            "application/json; charset=\"latin1\"; x=y",
            "application/json; charset=\"utf-8",
            "application/json; charset=\"utf-8\"x",
            "application/json; charset=",
            "application/json; charset",
            "application/json; =utf-8",
            "application/json; charset = utf-8",
            "application/json; charset=utf-8\"",
        ] {
            assert!(!is_json(other), "{other}");
        }
    }
}
