//! Reading requests strictly: query parameters, bodies and headers, each mistake told with the nearest right way.

mod json;

use std::collections::HashMap;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Uri};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::path::ParameterIn;
use utoipa::{IntoParams, PartialSchema, ToSchema};

pub use self::json::{duration_text, some_duration_text};
use self::json::{parse_json, required_fields};
use super::Api;
use super::problem::ApiError;
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::mac::MacAddress;
use crate::domain::terminal::first_unprintable;
use crate::service::machines::{empty, invalid_mac, shorten};

/// The query, held to the parameters that `Q` documents.
pub struct Query<Q> {
    pub params: Params,
    documented: PhantomData<Q>,
}

/// For operations that take no parameter.
#[derive(IntoParams)]
pub struct NoParameters {}

/// For operations whose body says nothing.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoFields {}

/// The decoded parameters of a query.
#[derive(Clone, Debug, Default)]
pub struct Params {
    values: HashMap<String, Vec<String>>,
}

impl<Q: IntoParams + 'static> FromRequestParts<Api> for Query<Q> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        let params = Params::read(&parts.uri, &names::<Q>())?;
        Ok(Self { params, documented: PhantomData })
    }
}

impl Params {
    /// Reads the query of an address; `path` alone may repeat.
    pub fn read(uri: &Uri, known: &[String]) -> Result<Self, Failure> {
        let mut values: HashMap<String, Vec<String>> = HashMap::new();
        for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name, name)?, decode(name, value)?);
            if !known.contains(&name) {
                return Err(unknown_parameter(&name, known));
            }
            let before = values.entry(name.clone()).or_default();
            if !before.is_empty() && name != "path" {
                let detail = format!("The parameter {name} stands there twice; give it once.");
                return Err(failure_at(FailureKind::UnknownParameter, &name, "repeated", detail));
            }
            before.push(value);
        }
        Ok(Self { values })
    }

    /// The text of a parameter.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.first().map(String::as_str)
    }

    /// Every value of a parameter that may repeat.
    #[must_use]
    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Every parameter with its values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.values.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// A text that must not be empty where it is given.
    pub fn filled(&self, name: &str) -> Result<Option<&str>, Failure> {
        match self.text(name) {
            Some("") => Err(empty(name)),
            other => Ok(other),
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, Failure> {
        match self.text(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => {
                let detail = format!("{name} is {}; true or false is wanted.", shorten(other));
                Err(failure_at(FailureKind::InvalidRequest, name, "not-a-boolean", detail))
            }
        }
    }

    /// One of some words.
    pub fn choice<T>(
        &self,
        name: &str,
        words: &[&str],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Failure> {
        let Some(given) = self.text(name) else { return Ok(None) };
        parse(given).map(Some).ok_or_else(|| not_one_of(name, given, words))
    }

    /// A comma-separated set of words.
    pub fn set<T>(
        &self,
        name: &str,
        words: &[&str],
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let Some(given) = self.text(name) else { return Ok(Vec::new()) };
        given.split(',').map(|word| parse(word).ok_or_else(|| not_one_of(name, word, words))).collect()
    }

    /// A hardware address in any usual spelling.
    pub fn mac(&self, name: &str) -> Result<Option<MacAddress>, Failure> {
        let Some(given) = self.filled(name)? else { return Ok(None) };
        given.parse().map(Some).map_err(|error| invalid_mac(name, given, &error))
    }

    /// The id of a job or a lease, by which the parameter is named.
    pub fn id<T: FromStr>(&self, name: &str) -> Result<Option<T>, Failure> {
        let Some(given) = self.filled(name)? else { return Ok(None) };
        given.parse().map(Some).map_err(|_| {
            let detail = format!("{name} is {}; the id of a {name} is a UUID.", shorten(given));
            failure_at(FailureKind::InvalidRequest, name, "not-an-id", detail)
        })
    }

    /// A whole number from 1 to 1,000.
    pub fn limit(&self) -> Result<Option<u32>, Failure> {
        let Some(given) = self.text("limit") else { return Ok(None) };
        // The standard parser would take a `+` too.
        let digits = given.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(limit @ 1..=1000) = given.parse().ok().filter(|_| digits) {
            return Ok(Some(limit));
        }
        let detail = format!("limit is {}; a whole number from 1 to 1000 is wanted.", shorten(given));
        Err(failure_at(FailureKind::InvalidRequest, "limit", "out-of-range", detail))
    }

    /// A duration, such as `30s`, `10m`, `1h30m`, or `45` for seconds.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, Failure> {
        let Some(given) = self.text(name) else { return Ok(None) };
        duration::parse(given).map(Some).map_err(|error| {
            let detail = format!("{name} is {}: {error}.", shorten(given));
            failure_at(FailureKind::InvalidRequest, name, "not-a-duration", detail)
        })
    }
}

/// A segment of the path, decoded.
pub struct Segment(pub String);

impl FromRequestParts<Api> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Path(segment) =
            Path::<String>::from_request_parts(parts, api).await.map_err(|_| undecodable_path())?;
        Ok(Self(segment))
    }
}

/// Two segments of the path, decoded.
pub struct Segments(pub String, pub String);

impl FromRequestParts<Api> for Segments {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        let Path((first, second)) =
            Path::<(String, String)>::from_request_parts(parts, api).await.map_err(|_| undecodable_path())?;
        Ok(Self(first, second))
    }
}

/// A JSON body, and its bytes as they came.
pub struct Body<T> {
    pub value: T,
    pub bytes: Bytes,
}

impl<T: DeserializeOwned + PartialSchema + Default> FromRequest<Api> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let settings = api.settings();
        let read = read_limited(body, settings.body_limit);
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
            let detail = format!("There is no body; a JSON object with {} is wanted.", required.join(", "));
            return Err(failure_in_body("", "missing", detail).into());
        }
        // The content type was checked together with the whole request.
        if !parts.headers.contains_key(CONTENT_TYPE) {
            let detail = "The body is not declared; send Content-Type: application/json.";
            return Err(Failure::new(FailureKind::UnsupportedMediaType, detail).into());
        }
        Ok(Self { value: parse_json(&bytes)?, bytes })
    }
}

async fn read_limited(mut body: axum::body::Body, limit: usize) -> Result<Bytes, Failure> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Failure::new(FailureKind::InvalidRequest, "The connection broke before the whole body had come.")
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

/// The names of the query parameters that `Q` documents.
#[must_use]
pub fn names<Q: IntoParams>() -> Vec<String> {
    Q::into_params(|| Some(ParameterIn::Query))
        .into_iter()
        .filter(|parameter| parameter.parameter_in == ParameterIn::Query)
        .map(|parameter| parameter.name)
        .collect()
}

/// A header's text.
///
/// # Errors
/// `invalid-request` if it is sent twice, is not UTF-8, or holds characters that a terminal obeys.
pub fn header<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, Failure> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let wrong = |code, detail: String| failure_at(FailureKind::InvalidRequest, name, code, detail);
    if values.next().is_some() {
        return Err(wrong("repeated", format!("The header {name} stands there twice; send it once.")));
    }
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| wrong("not-utf-8", format!("The header {name} is not UTF-8.")))?;
    if let Some(character) = first_unprintable(text) {
        let detail = control_character(&format!("The header {name}"), character);
        return Err(wrong("control-character", detail));
    }
    Ok(Some(text))
}

/// Refuses a text of the body that a terminal would not show as it is.
///
/// # Errors
/// `invalid-request`, which points at the field.
pub fn check_printable_field(pointer: &str, text: &str) -> Result<(), Failure> {
    let Some(character) = first_unprintable(text) else { return Ok(()) };
    let name = pointer.trim_start_matches('/').replace('/', ".");
    Err(failure_in_body(pointer, "control-character", control_character(&name, character)))
}

/// Refuses a query parameter that a terminal would not show as it is.
///
/// # Errors
/// `invalid-request`, which points at the parameter.
pub fn check_printable_parameter(parameter: &str, text: &str) -> Result<(), Failure> {
    let Some(character) = first_unprintable(text) else { return Ok(()) };
    let detail = control_character(parameter, character);
    Err(failure_at(FailureKind::InvalidRequest, parameter, "control-character", detail))
}

/// Says which character a text may not have.
#[must_use]
pub fn control_character(what: &str, character: char) -> String {
    format!(
        "{what} holds the character {}; leave it out. Control characters, line separators and marks that \
         change the direction of a text are refused.",
        code_point(character)
    )
}

/// A character that may be invisible, as `U+200B`.
#[must_use]
pub fn code_point(character: char) -> String {
    format!("U+{:04X}", u32::from(character))
}

/// A failure that points at a parameter, path segment or header.
#[must_use]
pub fn failure_at(kind: FailureKind, parameter: &str, code: &'static str, detail: String) -> Failure {
    Failure::new(kind, detail.clone()).with_error(InputError {
        pointer: None,
        parameter: Some(parameter.to_owned()),
        code,
        detail,
    })
}

/// A failure that points into the body.
#[must_use]
pub fn failure_in_body(pointer: &str, code: &'static str, detail: String) -> Failure {
    Failure::new(FailureKind::InvalidRequest, detail.clone()).with_error(InputError {
        pointer: Some(pointer.to_owned()),
        parameter: None,
        code,
        detail,
    })
}

/// The failure of a word that is none of those known.
#[must_use]
pub fn not_one_of(name: &str, given: &str, words: &[&str]) -> Failure {
    let known: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let detail = format!(
        "{name} is {}; one of {} is wanted.{}",
        shorten(given),
        words.join(", "),
        nearest(given, &known).map_or_else(String::new, |word| format!(" Did you mean {word}?"))
    );
    failure_at(FailureKind::InvalidRequest, name, "not-one-of", detail)
}

fn unknown_parameter(name: &str, known: &[String]) -> Failure {
    let detail = format!("The parameter {} is not known here.{}", shorten(name), suggestion(name, known));
    failure_at(FailureKind::UnknownParameter, &shorten(name).replace('"', ""), "unknown", detail)
}

/// " Did you mean …?", or all there are where nothing is near.
fn suggestion(given: &str, known: &[String]) -> String {
    if known.is_empty() {
        return " None is.".to_owned();
    }
    match nearest(given, known) {
        Some(word) => format!(" Did you mean {word}?"),
        None => format!(" Known: {}.", known.join(", ")),
    }
}

fn nearest<'k>(given: &str, known: &'k [String]) -> Option<&'k String> {
    // Distances of very long texts cost much and mean nothing.
    if given.len() > 64 {
        return None;
    }
    let (distance, word) = known.iter().map(|word| (strsim::damerau_levenshtein(given, word), word)).min()?;
    (distance <= word.len().div_ceil(2)).then_some(word)
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
        "The path is not UTF-8 once its percent-escapes are decoded.".to_owned(),
    )
}

/// Decodes one side of `name=value`: `+` is a space, `%xx` a byte.
fn decode(name: &str, text: &str) -> Result<String, Failure> {
    let broken = || {
        let detail = "The query is not UTF-8 once its percent-escapes are decoded, or an escape is broken.";
        failure_at(
            FailureKind::InvalidRequest,
            &shorten(name).replace('"', ""),
            "not-decodable",
            detail.to_owned(),
        )
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().ok_or_else(broken)?, rest.next().ok_or_else(broken)?];
                let mut decoded = [0];
                hex::decode_to_slice(digits, &mut decoded).map_err(|_| broken())?;
                decoded[0]
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| broken())
}
