//! The access log: one line at `info` for each request, if `log.access` asks for it.
//!
//! A line has the name of the token and the path of the request. A line has no query, header or
//! body, because these can hold secrets.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::domain::origin::RequestOrigin;
use crate::service::callers::Caller;

/// Writes the line of one request.
///
/// # Parameters
/// - `took`: the time from the arrival of the request until its response began. The body of a
///   stream is sent after this time.
pub fn write(
    origin: &RequestOrigin,
    caller: Option<&Caller>,
    method: &Method,
    path: &str,
    status: StatusCode,
    took: Duration,
) {
    tracing::info!(
        caller = caller.map(|caller| &*caller.name),
        address = origin.address.map(tracing::field::display),
        %method,
        path,
        status = status.as_u16(),
        milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        request_id = origin.request_id.map(tracing::field::display),
        "access"
    );
}
