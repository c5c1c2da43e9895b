//! Events on the wire: server-sent events (WHATWG HTML, section 9.2) or one JSON object a line.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::event::EventType;
use crate::service::event_stream::Version;

/// The media type of server-sent events.
pub const SSE: &str = "text/event-stream";
/// The media type of one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

/// One change.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Event {
    /// The point in the stream after it: resume from here.
    #[schema(example = "1b2c3d4e5f60-42")]
    pub version: String,
    /// When it changed.
    pub at: Timestamp,
    #[serde(rename = "type")]
    #[schema(example = "machine.changed", extensions(("x-extensible-enum" = json!(types()))))]
    pub kind: String,
    /// The id of the object; null where the type alone says it.
    #[schema(required)]
    pub id: Option<String>,
    /// Null where it is gone, and of `synced`, `reset` and `bye`.
    #[schema(required, value_type = Option<EventObject>)]
    pub object: Option<Box<RawValue>>,
}

/// The object as GET shows it, whole, as it was when this was sent: a Machine, Snapshot, Datastore,
/// Job, Lease, or the session of `/v1/about`, as the event's type says.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "documents the object; a union of what it may be would break generators"
)]
pub struct EventObject(BTreeMap<String, Value>);

/// How a stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    Sse,
    Ndjson,
}

impl Event {
    /// An event without an object: it is gone, or there is none.
    #[must_use]
    pub fn without_object(version: &Version, at: Timestamp, event_type: EventType) -> Self {
        Self {
            version: version.to_string(),
            at,
            kind: event_type.as_str().to_owned(),
            id: None,
            object: None,
        }
    }
}

impl StreamFormat {
    /// Writes an event. `resumable` says that a reader who saw this may go on from its version
    /// alone.
    pub fn event(self, out: &mut String, event: &Event, resumable: bool) {
        // Plain structs with text keys always serialise, and to one line.
        let json = serde_json::to_string(event).unwrap_or_default();
        match self {
            Self::Sse => {
                if resumable {
                    out.extend(["id: ", &event.version, "\n"]);
                }
                out.extend(["event: ", &event.kind, "\ndata: ", &json, "\n\n"]);
            }
            Self::Ndjson => out.extend([json.as_str(), "\n"]),
        }
    }

    /// Writes where the stream is. Clients of server-sent events take note and tell nobody.
    pub fn bookmark(self, out: &mut String, version: &Version) {
        let version = version.to_string();
        match self {
            Self::Sse => out.extend(["id: ", &version, "\n\n"]),
            Self::Ndjson => out.extend([r#"{"type":"bookmark","version":""#, &version, "\"}\n"]),
        }
    }
}

fn types() -> Vec<&'static str> {
    EventType::ALL.iter().map(|known| known.as_str()).collect()
}
