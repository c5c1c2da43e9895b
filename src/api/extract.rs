//! Strict parsing of requests: path, query parameters, headers and bodies. If a request has a
//! misspelt name, the problem suggests the most similar valid name.

mod json;
mod parameter;
mod query;
mod strict_value;

use std::borrow::Cow;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::{PartialSchema, ToSchema};

pub use self::json::{bounded_list, duration_text, some_bounded_list, some_duration_text};
use self::json::{parse_json, required_fields};
pub use self::parameter::{InvalidValue, Limit, Parameter, Parsed, values};
pub use self::query::{NoParameters, Parameters, Query, QueryValues};
use super::ApiState;
use super::problem::ApiError;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::terminal::first_unprintable;

/// The JSON body of a request to an operation whose body has no fields: empty, or `{}`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

/// One decoded parameter of the path.
pub struct Segment(pub String);

impl FromRequestParts<ApiState> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, ApiError> {
        let Path(segment) =
            Path::<String>::from_request_parts(parts, api).await.map_err(|_| undecodable_path())?;
        Ok(Self(segment))
    }
}

/// Two decoded parameters of the path.
pub struct Segments(pub String, pub String);

impl FromRequestParts<ApiState> for Segments {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &ApiState) -> Result<Self, ApiError> {
        let Path((first, second)) = Path::<(String, String)>::from_request_parts(parts, api)
            .await
            .map_err(|_| undecodable_path())?;
        Ok(Self(first, second))
    }
}

/// A JSON body, parsed and as the received bytes. It may have `http.body_limit` bytes, or `LIMIT`
/// if that is more.
pub struct JsonBody<T, const LIMIT: usize = 0> {
    pub value: T,
    pub bytes: Bytes,
}

impl<T, const LIMIT: usize> FromRequest<ApiState> for JsonBody<T, LIMIT>
where
    T: DeserializeOwned + PartialSchema + Default,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &ApiState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let settings = api.settings();
        let read = read_limited(body, settings.body_limit.max(LIMIT));
        let bytes = tokio::select! {
            bytes = read => bytes?,
            () = api.clock().sleep(settings.body_timeout) => {
                let detail = format!("The body did not arrive within {:?}.", settings.body_timeout);
                return Err(Failure::new(FailureKind::RequestTimeout, detail).into());
            }
        };
        if bytes.is_empty() {
            let required = required_fields(&T::schema());
            if required.is_empty() {
                return Ok(Self { value: T::default(), bytes });
            }
            let detail =
                format!("The body is missing; send a JSON object with {}.", required.join(", "));
            return Err(failure_in_body("", "missing", detail).into());
        }
        // Only a missing content type is refused here, because the request checks have already
        // refused every content type other than JSON.
        if !parts.headers.contains_key(CONTENT_TYPE) {
            let detail = "The Content-Type is missing; send Content-Type: application/json.";
            return Err(Failure::new(FailureKind::UnsupportedMediaType, detail).into());
        }
        Ok(Self { value: parse_json(&bytes)?, bytes })
    }
}

async fn read_limited(mut body: axum::body::Body, limit: usize) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Failure::new(
                FailureKind::InvalidRequest,
                "The connection broke before the whole body arrived.",
            )
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            let detail = format!("The body is larger than {limit} bytes.");
            return Err(Failure::new(FailureKind::PayloadTooLarge, detail));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// The number of bytes that the body of a request announces.
///
/// # Errors
/// `length-required` if it announces none.
pub fn content_length(headers: &HeaderMap) -> Result<u64, Failure> {
    let length = header(headers, "content-length")?;
    length.and_then(|length| length.parse().ok()).ok_or_else(|| {
        let detail = "The request does not say how many bytes it has; send Content-Length, and no \
                      chunked body.";
        Failure::new(FailureKind::LengthRequired, detail)
    })
}

/// The value of a header. `None` if the request does not have it.
///
/// # Errors
/// `invalid-request` if the header is repeated, is not UTF-8, or has control characters.
pub fn header<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, Failure> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |code, detail: String| failure_at(FailureKind::InvalidRequest, name, code, detail);
    if values.next().is_some() {
        return Err(wrong("repeated", format!("The header {name} is repeated; send it once.")));
    }
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| wrong("not-utf-8", format!("The header {name} is not UTF-8.")))?;
    if let Some(character) = first_unprintable(text) {
        let detail = control_character(&format!("The header {name}"), character);
        return Err(wrong("control-character", detail));
    }
    Ok(Some(text))
}

/// Refuses a text of the body that has control characters.
///
/// # Errors
/// `invalid-request` with a pointer to the field.
pub fn check_printable_field(pointer: &str, text: &str) -> Result<(), Failure> {
    let Some(character) = first_unprintable(text) else { return Ok(()) };
    let name = pointer.trim_start_matches('/').replace('/', ".");
    Err(failure_in_body(pointer, "control-character", control_character(&name, character)))
}

/// Refuses a query parameter that has control characters.
///
/// # Errors
/// `invalid-request` with the name of the parameter.
pub fn check_printable_parameter(parameter: &str, text: &str) -> Result<(), Failure> {
    let Some(character) = first_unprintable(text) else { return Ok(()) };
    let detail = control_character(parameter, character);
    Err(failure_at(FailureKind::InvalidRequest, parameter, "control-character", detail))
}

/// The detail of a problem about a control character.
#[must_use]
pub fn control_character(what: &str, character: char) -> String {
    format!(
        "{what} has the character {}; remove it. Control characters, line separators and marks \
         that change the direction of a text are not allowed.",
        code_point(character)
    )
}

/// The code point of a character, such as `U+200B`, because the character may be invisible.
#[must_use]
pub fn code_point(character: char) -> String {
    format!("U+{:04X}", u32::from(character))
}

/// A failure with an error about a query parameter, path parameter or header.
#[must_use]
pub fn failure_at(
    kind: FailureKind,
    parameter: &str,
    code: impl Into<Cow<'static, str>>,
    detail: String,
) -> Failure {
    Failure::new(kind, detail.clone()).with_error(InputError {
        pointer: None,
        parameter: Some(parameter.to_owned()),
        code: code.into(),
        detail,
    })
}

/// A failure with an error about a field of the body.
#[must_use]
pub fn failure_in_body(pointer: &str, code: &'static str, detail: String) -> Failure {
    Failure::new(FailureKind::InvalidRequest, detail.clone()).with_error(InputError {
        pointer: Some(pointer.to_owned()),
        parameter: None,
        code: code.into(),
        detail,
    })
}

/// The end of a sentence about an unknown name: " Did you mean …?", or a list of the known names if
/// none is similar.
fn suggestion(given: &str, known: &[String]) -> String {
    if known.is_empty() {
        return " This operation has none.".to_owned();
    }
    match nearest(given, known) {
        Some(word) => format!(" Did you mean {word}?"),
        None => format!(" Known: {}.", known.join(", ")),
    }
}

fn nearest<'k>(given: &str, known: &'k [String]) -> Option<&'k String> {
    // Suggest nothing for a very long text: its edit distance is expensive to compute, and the
    // suggestion would be useless.
    if given.len() > 64 {
        return None;
    }
    let (distance, word) =
        known.iter().map(|word| (strsim::damerau_levenshtein(given, word), word)).min()?;
    // One mistake in a short word, and one more for each three letters. With more, the two words
    // have little in common, and the list of the known words helps better.
    let letters = word.chars().count().min(given.chars().count());
    (distance <= (letters + 1) / 3).then_some(word)
}

fn pointer(field: &str) -> String {
    let shown: String = field.chars().take(80).collect();
    format!("/{}", shown.replace('~', "~0").replace('/', "~1"))
}

fn undecodable_path() -> Failure {
    failure_at(
        FailureKind::InvalidRequest,
        "path",
        "not-utf-8",
        "The path is not UTF-8 after its percent-escapes are decoded.".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_word_with_few_mistakes_is_suggested() {
        for (given, known, suggested) in [
            ("nmae", "name", true),
            ("wiat", "wait", true),
            ("Limit", "limit", true),
            ("acton", "action", true),
            ("status", "state", true),
            ("snapshto_nam", "snapshot_name", true),
            ("port", "force", false),
            ("wait", "wake", false),
            ("mac", "any", false),
            ("x", "ip", false),
        ] {
            let known = [known.to_owned()];
            assert_eq!(nearest(given, &known).is_some(), suggested, "{given} {known:?}");
        }
    }
}
