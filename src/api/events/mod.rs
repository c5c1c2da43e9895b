//! `GET /v1/events`: a stream of all changes, which clients can resume without a gap.

mod objects;
mod stream;
mod wire;

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use self::stream::EventStream;
use self::wire::StreamFormat;
pub use self::wire::{Event, NDJSON, SSE};
use super::ApiState;
use super::extract::{Parsed, Query, failure_at, header, values};
use super::jobs::{JobReader, named_job};
use super::leases::named_lease;
use super::long_poll::{WaitMode, WaitPermit};
use super::machines::named_machine;
use super::openapi_parts::Problems;
use super::problem::ApiError;
use super::respond;
use super::roles::Routes;
use crate::domain::access::Role;
use crate::domain::event::{EventFilter, EventType};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, LeaseId};
use crate::service::event_stream::Version;
use crate::service::machines::shorten;

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The routes of this folder.
pub fn routes() -> Routes {
    Routes::default().role(Role::Viewer, routes!(stream_events))
}

/// The query parameters of a stream of events: its start, its end, and its filters.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// The version after which the stream begins: `version` of a list or an event, or the header
    /// `Otter-Version` of a response. Default: now.
    #[param(value_type = Option<String>)]
    since: Option<Parsed<Version>>,
    /// Whether the stream begins with an event for every object, followed by the event `synced`.
    /// Ended leases are left out. Ended jobs are left out too, unless `job` or `reference` is set.
    /// Has no effect if the stream resumes at `since` or `Last-Event-ID`. Default: false.
    #[param(value_type = Option<bool>)]
    initial: Option<Parsed<bool>>,
    /// How long the stream lasts: `30s`, `10m`. After this time it ends with `bye`. Default:
    /// unlimited.
    #[param(value_type = Option<String>)]
    wait: Option<Parsed<Duration>>,
    /// Types of events, comma-separated: `machine.changed,job.changed`. `synced`, `reset` and `bye`
    /// are always included.
    #[param(value_type = Option<String>)]
    types: Option<Parsed<Vec<EventType>>>,
    /// A machine: an id, `name:…`, `uuid:…` or `mac:…`. The stream then has only events of this
    /// machine, its snapshots, jobs and leases.
    #[param(value_type = Option<String>)]
    machine: Option<Parsed<String>>,
    /// The id of a job. The stream then has only events of this job.
    #[param(value_type = Option<String>)]
    job: Option<Parsed<JobId>>,
    /// The id of a lease. The stream then has only events of this lease.
    #[param(value_type = Option<String>)]
    lease: Option<Parsed<LeaseId>>,
    /// Only events of jobs that were started with this `Otter-Reference`.
    #[param(value_type = Option<String>)]
    reference: Option<Parsed<String>>,
}

/// The request headers of a stream of events.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents the header")]
pub struct EventsHeaders {
    /// The version after which the stream begins, like the query parameter `since`. If a request
    /// has both, the header counts. Clients of server-sent events send the header when they
    /// reconnect.
    #[param(rename = "Last-Event-ID", value_type = String, required = false)]
    last_event_id: Option<String>,
}

/// Stream events
///
/// Server-sent events, or with `Accept: application/x-ndjson` one JSON object per line. To miss no
/// change, read a list and start the stream with `since` at the `version` of its first page. Or
/// start with `initial=true`.
///
/// An event has the complete object in its state at the time of sending. Bookmarks between the
/// events have only a version (`id:` alone; in NDJSON `{"type":"bookmark","version":…}`). To
/// resume, send the last version that you received. `reset` reports a gap: read the lists again;
/// the stream continues from its version. If the client is too slow, the stream ends after `reset`.
/// The stream ends with `bye` when `wait` is over and when otter stops.
#[utoipa::path(get, path = "/v1/events", operation_id = "stream_events", tag = "events",
    params(EventsQuery, EventsHeaders),
    responses(
        (
            status = 200,
            description = "A stream of events: each `data:` of server-sent events, or each line of \
                           NDJSON, is an `Event`",
            content((String = "text/event-stream"), (String = "application/x-ndjson"))
        ),
        Problems,
    ),
    extensions(("x-otter-problems" = json!([
        "invalid-request", "unknown-parameter", "not-found", "ambiguous-name", "inventory-loading",
        "too-many-waits"
    ]))))]
pub async fn stream_events(
    State(api): State<ApiState>,
    reader: JobReader,
    headers: HeaderMap,
    Query(query, _): Query<EventsQuery>,
) -> Result<Response, ApiError> {
    let EventsQuery { since, initial, wait, types, machine, job, lease, reference } = query;
    let caller = &reader.caller;
    let format = if wants_ndjson(&headers) { StreamFormat::Ndjson } else { StreamFormat::Sse };
    let since = last_event_version(&headers)?.or(since.map(Parsed::value));
    let initial = initial.is_some_and(Parsed::value);
    let wait = wait.map(|Parsed(wait)| wait.min(api.settings().max_wait));
    let filter = EventFilter {
        types: values(types),
        machine: named_machine(&api, caller, machine).await?,
        job: named_job(&api, caller, job.map(Parsed::value)).await?,
        lease: named_lease(&api, caller, lease.map(Parsed::value)).await?,
        reference: reference.map(Parsed::value),
        placements: caller.scope.is_restricted(),
    };
    let permit = WaitPermit::acquire(&api)?;
    let mut events = api.services().event_stream.subscribe(filter);
    let resumed = since.as_ref().is_some_and(|since| events.resume(since));
    let version = events.version();
    let mut stream = EventStream::new(&api, reader, format, events, wait, permit)?;
    if since.is_some() && !resumed {
        stream.start_with_reset();
    }
    if initial && !resumed {
        stream.start_with_objects()?;
    }
    let content_type = match format {
        StreamFormat::Sse => SSE,
        StreamFormat::Ndjson => NDJSON,
    };
    let mut response = respond::text(content_type, stream.into_body());
    respond::set_state_headers(&api, &version, &mut response);
    respond::set(&mut response, X_ACCEL_BUFFERING, "no");
    respond::set(&mut response, CACHE_CONTROL, "no-cache");
    if let Some(wait) = wait {
        WaitMode::Outcome(wait).set_headers(&mut response);
    }
    Ok(response)
}

/// Whether the client accepts NDJSON, and lists it before SSE if it accepts both.
fn wants_ndjson(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut media_types = accepted
        .flat_map(|value| value.split(','))
        .filter_map(|range| range.split(';').next())
        .map(|media_type| media_type.trim().to_ascii_lowercase());
    media_types
        .find(|media_type| media_type == NDJSON || media_type == SSE)
        .is_some_and(|first| first == NDJSON)
}

/// Reads the header `Last-Event-ID`. `None` if the request does not have the header.
///
/// # Errors
/// `invalid-request` if the header is not a version.
fn last_event_version(headers: &HeaderMap) -> Result<Option<Version>, Failure> {
    let name = "last-event-id";
    let Some(given) = header(headers, name)? else { return Ok(None) };
    given.parse().map(Some).map_err(|error| {
        let detail = format!("{name} is {}: {error}.", shorten(given));
        failure_at(FailureKind::InvalidRequest, name, "not-a-version", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_accepted_format_is_sent() {
        let ndjson = |accept: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, http::HeaderValue::from_static(value));
            }
            wants_ndjson(&headers)
        };
        assert!(ndjson(&["application/x-ndjson"]));
        assert!(ndjson(&["text/html, Application/X-NDJSON;q=0.9"]));
        assert!(ndjson(&["text/html", "application/x-ndjson, text/event-stream"]));
        for other in [
            "",
            "*/*",
            "text/event-stream",
            "text/event-stream, application/x-ndjson",
            "application/json",
        ] {
            assert!(!ndjson(&[other]), "{other}");
        }
        assert!(!ndjson(&[]));
    }
}
