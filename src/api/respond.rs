//! Builds responses: JSON with an entity tag and the version of the inventory, and lists with a
//! cursor.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::ApiState;
use crate::service::event_stream::Version;

/// The version of the inventory at which a response is valid.
pub const OTTER_VERSION: HeaderName = HeaderName::from_static("otter-version");
/// The number of seconds since otter lost the host.
pub const OTTER_STALE: HeaderName = HeaderName::from_static("otter-stale");

/// A response with one object and a strong entity tag.
pub fn object<T: Serialize>(api: &ApiState, version: &Version, object: &T) -> Response {
    let body = to_json(object);
    let tag = format!("\"{}\"", digest(&body));
    json_response(api, version, body, &tag)
}

/// A response with a page of a list. Its entity tag is weak, because it does not depend on the
/// version.
pub fn list<T: Serialize>(
    api: &ApiState,
    version: &Version,
    items: &[T],
    next: Option<String>,
) -> Response {
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
    json_response(api, version, body, &tag)
}

/// A response with a body of another type than JSON.
pub fn text(content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = body.into().into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Sets a header. The value must be visible ASCII; otherwise nothing is set.
pub fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Adds the headers of responses that show the inventory or a job: `Otter-Version`, and
/// `Otter-Stale` if the host is away.
pub fn set_state_headers(api: &ApiState, version: &Version, response: &mut Response) {
    set(response, OTTER_VERSION, &version.to_string());
    if let Some(away) = api.services().inventory.away_for() {
        set(response, OTTER_STALE, &away.as_secs().to_string());
    }
}

fn json_response(api: &ApiState, version: &Version, body: String, tag: &str) -> Response {
    let mut response = (StatusCode::OK, body).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    set(&mut response, ETAG, tag);
    set_state_headers(api, version, &mut response);
    response
}

fn to_json<T: Serialize>(value: &T) -> String {
    // Serialising plain structs with text keys cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

fn digest(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..12])
}
