//! Events on the wire: server-sent events (WHATWG HTML, section 9.2) or one JSON object per line.

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
/// The media type of one JSON object per line.
pub const NDJSON: &str = "application/x-ndjson";

/// A change of an object.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Event {
    /// The version of otter's state after this event. To resume the stream after this event, send
    /// this value as `since`.
    #[schema(example = "1b2c3d4e5f60-42")]
    pub version: String,
    /// The time of the change.
    pub at: Timestamp,
    #[serde(rename = "type")]
    #[schema(example = "machine.changed", extensions(("x-extensible-enum" = json!(types()))))]
    pub kind: String,
    /// The id of the object that changed. Null for `session.changed`, `synced`, `reset` and `bye`.
    #[schema(required)]
    pub id: Option<String>,
    /// The object that changed. Null if the object was removed, and for `synced`, `reset` and
    /// `bye`.
    #[schema(required, value_type = Option<EventObject>)]
    pub object: Option<Box<RawValue>>,
}

/// The complete object in its state at the time of sending, in the same form as GET returns it. The
/// type of the event determines the type of the object: a Machine, Snapshot, Datastore, Job, Lease,
/// or the session of `/v1/about`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the object; a union of the types would break generators")]
pub struct EventObject(BTreeMap<String, Value>);

/// The format of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    Sse,
    Ndjson,
}

impl Event {
    /// An event without an object.
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
    /// Writes an event.
    ///
    /// # Parameters
    /// - `resumable`: whether a client may resume at the version of this event.
    pub fn event(self, out: &mut String, event: &Event, resumable: bool) {
        // Serialising plain structs with text keys cannot fail. The JSON has no line breaks, so it
        // fits into one line of the stream.
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

    /// Writes a bookmark, which has only the version. Clients of server-sent events store it and
    /// report no event.
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
