//! Answers: JSON with an entity tag and the version it is true at; lists with a cursor.

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Api;
use super::extract::failure_at;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::feed::Version;

/// The point in the stream of changes that an answer is true at.
pub const OTTER_VERSION: HeaderName = HeaderName::from_static("otter-version");
/// For how many seconds the host has been away.
pub const OTTER_STALE: HeaderName = HeaderName::from_static("otter-stale");

/// One object, with a strong entity tag.
pub fn object<T: Serialize>(api: &Api, version: &Version, object: &T) -> Response {
    let body = to_json(object);
    let tag = format!("\"{}\"", digest(&body));
    answer(api, version, body, &tag)
}

/// A list, with a weak entity tag that does not count the version.
pub fn list<T: Serialize>(api: &Api, version: &Version, items: &[T], next: Option<String>) -> Response {
    #[derive(Serialize)]
    struct List<'a> {
        items: &'a serde_json::value::RawValue,
        next: Option<String>,
        version: String,
    }
    let items = to_json(&items);
    let tag = format!("W/\"{}\"", digest(format!("{items}{next:?}").as_str()));
    let body = match serde_json::value::RawValue::from_string(items) {
        Ok(items) => to_json(&List { items: &items, next, version: version.to_string() }),
        Err(_) => String::new(),
    };
    answer(api, version, body, &tag)
}

/// What `limit` and `cursor` leave of items that are in order of their keys. The cursor is the key of the last
/// item shown, so that items which come and go meanwhile neither repeat nor hide others.
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

/// The key of an item of a list: the lower-cased name, then the id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key(pub String, pub String);

/// Cuts a page out of a whole list. `list` is the list's own word: cursors of one list are refused by another.
pub fn page<T>(
    list: &str,
    items: Vec<T>,
    key: impl Fn(&T) -> Key,
    limit: Option<u32>,
    cursor: Option<&str>,
) -> Result<Page<T>, Failure> {
    let after = cursor.map(|cursor| read_cursor(list, cursor)).transpose()?;
    let mut rest = items.into_iter().filter(|item| after.as_ref().is_none_or(|after| key(item) > *after));
    let Some(limit) = limit else {
        return Ok(Page { items: rest.collect(), next: None });
    };
    let shown: Vec<T> = rest.by_ref().take(limit as usize).collect();
    let more = rest.next().is_some();
    let next = shown.last().filter(|_| more).map(|last| write_cursor(list, &key(last)));
    Ok(Page { items: shown, next })
}

/// The failure of a cursor that is not the list's.
#[must_use]
pub fn invalid_cursor() -> Failure {
    let detail = "The cursor is not one that this list gave; start again without one.".to_owned();
    failure_at(FailureKind::InvalidCursor, "cursor", "invalid-cursor", detail)
}

/// A page or file that is no JSON.
pub fn text(content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = body.into().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Adds a header whose value is made of visible ASCII.
pub fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Adds what every answer has that shows inventory or a job.
pub fn mark(api: &Api, version: &Version, response: &mut Response) {
    set(response, OTTER_VERSION, &version.to_string());
    if let Some(away) = api.services().inventory.away_for() {
        set(response, OTTER_STALE, &away.as_secs().to_string());
    }
}

fn answer(api: &Api, version: &Version, body: String, tag: &str) -> Response {
    let mut response = (StatusCode::OK, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    set(&mut response, ETAG, tag);
    mark(api, version, &mut response);
    response
}

fn to_json<T: Serialize>(value: &T) -> String {
    // Wire types are plain structs with text keys, which always serialise.
    serde_json::to_string(value).unwrap_or_default()
}

fn digest(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..12])
}

fn write_cursor(list: &str, key: &Key) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(to_json(&(list, key)))
}

fn read_cursor(list: &str, cursor: &str) -> Result<Key, Failure> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid_cursor())?;
    let (of, key): (String, Key) = serde_json::from_slice(&bytes).map_err(|_| invalid_cursor())?;
    if of == list { Ok(key) } else { Err(invalid_cursor()) }
}
