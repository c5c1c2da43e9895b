//! An event stream that a test reads. Each event is checked against the OpenAPI document.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Lab, TIMEOUT, document};

/// The header that asks for one JSON object per line.
pub const ACCEPT_NDJSON: (&str, &str) = ("accept", "application/x-ndjson");

/// An open stream.
pub struct EventStream {
    response: reqwest::Response,
    buffer: Vec<u8>,
    /// The number of bytes at the start of the buffer that are known to hold no end of an event.
    searched: usize,
    ndjson: bool,
    /// The version in the head of the answer, at which the stream begins.
    pub version: String,
}

/// One event or bookmark.
#[derive(Clone, Debug)]
pub struct StreamedEvent {
    /// The id that a client of server-sent events would send as `Last-Event-ID`. `None` in NDJSON.
    pub id: Option<String>,
    pub json: Value,
}

impl StreamedEvent {
    pub fn kind(&self) -> &str {
        self.json["type"].as_str().unwrap()
    }

    pub fn version(&self) -> &str {
        self.json["version"].as_str().unwrap()
    }

    /// Whether the event has this type and is about the object with this id.
    pub fn is_about(&self, kind: &str, id: &str) -> bool {
        self.kind() == kind && self.json["id"] == id
    }

    pub fn is_bookmark(&self) -> bool {
        self.kind() == "bookmark"
    }
}

impl EventStream {
    /// Opens a stream of server-sent events. A query begins with `?`.
    pub async fn open(lab: &Lab, query: &str) -> Self {
        Self::open_with(lab, query, &[]).await
    }

    /// Opens a stream with headers. `Accept` chooses server-sent events or NDJSON.
    pub async fn open_with(lab: &Lab, query: &str, headers: &[(&str, &str)]) -> Self {
        let request = lab.request(Method::GET, &format!("/v1/events{query}"));
        let request =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = request.timeout(Duration::from_mins(5)).send().await.unwrap();
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(header("x-accel-buffering").as_deref(), Some("no"));
        assert_eq!(header("content-encoding"), None);
        let ndjson = header("content-type").as_deref() == Some("application/x-ndjson");
        assert!(ndjson || header("content-type").as_deref() == Some("text/event-stream"));
        let version = header("otter-version").unwrap();
        Self { response, buffer: Vec::new(), searched: 0, ndjson, version }
    }

    /// The next event or bookmark. `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<StreamedEvent> {
        let end: &[u8] = if self.ndjson { b"\n" } else { b"\n\n" };
        loop {
            let from = self.searched.saturating_sub(end.len());
            if let Some(at) = self.buffer[from..].windows(end.len()).position(|bytes| bytes == end)
            {
                let block: Vec<u8> = self.buffer.drain(..from + at + end.len()).collect();
                self.searched = 0;
                return Some(read(&String::from_utf8(block).unwrap(), self.ndjson));
            }
            self.searched = self.buffer.len();
            let piece = timeout(TIMEOUT, self.response.chunk()).await.expect("an event in time");
            let Some(piece) = piece.expect("a stream without an error") else {
                assert!(self.buffer.is_empty(), "the stream ends within an event");
                return None;
            };
            self.buffer.extend_from_slice(&piece);
        }
    }

    /// The next event. Skips bookmarks.
    pub async fn event(&mut self) -> StreamedEvent {
        loop {
            let event = self.next().await.expect("an event");
            if !event.is_bookmark() {
                return event;
            }
        }
    }

    /// Reads up to the first event for which `is_last` holds. Returns all events read.
    pub async fn until(&mut self, is_last: impl Fn(&StreamedEvent) -> bool) -> Vec<StreamedEvent> {
        let mut all = Vec::new();
        let read = async {
            loop {
                let event = self.next().await.expect("more of the stream");
                let found = is_last(&event);
                all.push(event);
                if found {
                    break;
                }
            }
        };
        let found = timeout(TIMEOUT, read).await;
        assert!(found.is_ok(), "not among {all:#?}");
        all
    }

    /// All events to the end of the stream.
    pub async fn rest(&mut self) -> Vec<StreamedEvent> {
        let mut all = Vec::new();
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

/// Parses and checks one event.
fn read(block: &str, ndjson: bool) -> StreamedEvent {
    let event = if ndjson {
        StreamedEvent { id: None, json: serde_json::from_str(block).unwrap() }
    } else {
        let field = |name: &str| {
            block
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
        };
        let id = field("id");
        match field("data") {
            Some(data) => {
                let json: Value = serde_json::from_str(&data).unwrap();
                assert_eq!(field("event").as_deref(), json["type"].as_str());
                assert!(id.is_none() || id.as_deref() == json["version"].as_str());
                StreamedEvent { id, json }
            }
            None => StreamedEvent {
                json: json!({"type": "bookmark", "version": id.clone().unwrap()}),
                id,
            },
        }
    };
    document::check_event(&event.json);
    event
}
