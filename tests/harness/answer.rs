//! The answer to an HTTP request, with assertions on it.

use reqwest::header::HeaderMap;
use serde_json::Value;

use super::document;

/// Status, headers and body of an answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// The body as it was received. It may be compressed.
    pub bytes: Vec<u8>,
    /// The body as text, with U+FFFD for bytes that are not UTF-8.
    pub text: String,
    /// The body as JSON. Null if it is not JSON.
    pub json: Value,
}

impl Answer {
    /// Sends a request, reads the whole answer, and checks it against the OpenAPI document.
    pub async fn from_request(request: reqwest::RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let (method, path) = (request.method().to_string(), request.url().path().to_owned());
        let response = client.execute(request).await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.expect("a whole body").to_vec();
        let answer = Self::from_parts(status, headers, bytes);
        document::check(&method, &path, &answer);
        answer
    }

    /// Creates an answer that did not come through [`Answer::from_request`]. It is not checked.
    pub fn from_parts(status: u16, headers: HeaderMap, bytes: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Self { status, headers, bytes, text, json }
    }

    /// Asserts the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text);
        self
    }

    /// Asserts that the answer is a complete problem document with this status and code.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Self {
        assert_eq!(
            (self.status, self.json["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text
        );
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.json["type"], format!("/problems/{code}"));
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["request_id"].as_str(), self.header("x-request-id"));
        for field in [
            "title",
            "detail",
            "retry",
            "errors",
            "candidates",
            "machine",
            "job",
            "lease",
            "links",
            "fault",
            "seen",
        ] {
            assert!(self.json.get(field).is_some(), "{field} is missing: {}", self.text);
        }
        self
    }

    /// Asserts that an error of the problem names this parameter or JSON pointer and this code.
    #[track_caller]
    pub fn points_at(self, place: &str, code: &str) -> Self {
        let errors = self.json["errors"].as_array().unwrap();
        let hit = errors.iter().any(|error| {
            (error["pointer"] == place || error["parameter"] == place) && error["code"] == code
        });
        assert!(hit, "{place} {code}: {}", self.text);
        self
    }

    /// The text of a field. Panics if the field is not a text.
    #[track_caller]
    pub fn str(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_else(|| panic!("{field} is not a text: {}", self.text))
    }

    /// A field of each item of a list.
    #[track_caller]
    pub fn items(&self, field: &str) -> Vec<&str> {
        let items =
            self.json["items"].as_array().unwrap_or_else(|| panic!("no list: {}", self.text));
        items.iter().map(|item| item[field].as_str().unwrap()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}
