//! What all `WebSocket` operations share: the check of the request before the upgrade, the console
//! token that a browser offers as a subprotocol, and the end with a close code.

use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::{HeaderMap, HeaderValue};
use tokio_tungstenite::tungstenite;

use super::extract::failure_at;
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::service::screens::viewer_end::ViewerEnd;

/// The subprotocol of every `WebSocket` of otter.
const BINARY: &str = "binary";

/// What stands before a console token in the subprotocol that carries it.
pub const TOKEN_PREFIX: &str = "otter.token.";

/// The largest message that a client may send, in bytes.
const MAX_MESSAGE: usize = 256 * 1_024;

/// The buffers of a connection, in bytes. Messages to the client are small, or are copied once.
const BUFFER: usize = 16 * 1_024;

/// How long the close message may take. A client that reads nothing does not get it.
const CLOSE_SENT: Duration = Duration::from_millis(50);

/// How long otter waits for the client's close message after its own.
const CLOSE_ANSWERED: Duration = Duration::from_secs(1);

/// The longest reason of a close message, in bytes (RFC 6455, section 5.5).
const MAX_REASON: usize = 123;

/// The code of the close message after a message that is too large (RFC 6455, section 7.4.1).
const TOO_LARGE: u16 = 1009;

/// Whether a WebSocket cannot be read because the client sent a message that is too large.
#[must_use]
pub fn is_too_large(error: axum::Error) -> bool {
    let error = error.into_inner();
    let error = error.downcast_ref::<tungstenite::Error>();
    matches!(error, Some(tungstenite::Error::Capacity(_)))
}

/// The console token among the subprotocols that a request offers. `None` if it offers none.
///
/// # Errors
/// `invalid-request` if it offers more than one.
pub fn console_token(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut tokens = offered(headers).filter_map(|name| name.strip_prefix(TOKEN_PREFIX));
    let token = tokens.next();
    if tokens.next().is_some() {
        let detail = "The request offers more than one console token; offer one.".to_owned();
        return Err(protocol_failure("repeated", detail));
    }
    Ok(token)
}

/// Checks that a request opens a WebSocket with the subprotocol `binary`. A client that offers no
/// subprotocol gets none.
///
/// # Parameters
/// - `instead`: a sentence that says what a plain GET may want.
///
/// # Errors
/// `upgrade-required`, `invalid-request` if `Sec-WebSocket-Key` is missing or if only other
/// subprotocols are offered.
pub fn check(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    headers: &HeaderMap,
    instead: &str,
) -> Result<WebSocketUpgrade, Failure> {
    let mut upgrade = upgrade.map_err(|rejection| {
        if let WebSocketUpgradeRejection::WebSocketKeyHeaderMissing(_) = rejection {
            failure_at(
                FailureKind::InvalidRequest,
                "sec-websocket-key",
                "missing",
                "The header Sec-WebSocket-Key is missing.".to_owned(),
            )
        } else {
            let detail = format!(
                "This path is a WebSocket (RFC 6455, version 13): open it with a WebSocket client \
                 and the subprotocol binary. {instead}"
            );
            Failure::new(FailureKind::UpgradeRequired, detail)
        }
    })?;
    if offered(headers).any(|name| name == BINARY) {
        upgrade.set_selected_protocol(HeaderValue::from_static(BINARY));
    } else if offered(headers).next().is_some() {
        let detail = "The request offers no subprotocol that otter speaks; offer binary.";
        return Err(protocol_failure("not-one-of", detail.to_owned()));
    }
    Ok(upgrade
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE))
}

/// Ends a WebSocket: sends a close message if there is one, waits a moment for the client's, and
/// closes the connection.
///
/// # Parameters
/// - `close`: the code and the reason. `None` if the client closed the connection, or is not there.
pub async fn close(
    mut sink: SplitSink<WebSocket, Message>,
    mut stream: SplitStream<WebSocket>,
    close: Option<(u16, &str)>,
    clock: &Clock,
) {
    if let Some((code, reason)) = close {
        let frame = CloseFrame { code, reason: shortened(reason).into() };
        tokio::select! {
            biased;
            sent = sink.send(Message::Close(Some(frame))) => if sent.is_err() { return },
            () = clock.sleep(CLOSE_SENT) => return,
        }
    }
    if close.is_some_and(|(code, _)| code == TOO_LARGE) {
        // The rest of the message is not read. A connection that is closed over unread bytes is
        // reset, and the reset must not overtake the close message.
        clock.sleep(CLOSE_ANSWERED).await;
        return;
    }
    let answered = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::select! {
        biased;
        () = answered => {}
        () = clock.sleep(CLOSE_ANSWERED) => {}
    }
}

/// The code of the close message. `None` if there is no one to send it to.
#[must_use]
pub const fn close_code(end: &ViewerEnd) -> Option<u16> {
    match end {
        ViewerEnd::Left | ViewerEnd::Silent => None,
        // RFC 6455, section 7.4.1: a protocol error, a message that is too large, and an error of
        // the server.
        ViewerEnd::Protocol(_) => Some(1002),
        ViewerEnd::TooLarge => Some(TOO_LARGE),
        ViewerEnd::Failed(_) => Some(1011),
        ViewerEnd::TokenRefused => Some(4401),
        ViewerEnd::RightEnded(_) | ViewerEnd::MachineGone => Some(4403),
        ViewerEnd::TakenOver => Some(4409),
        ViewerEnd::LeaseEnded(_) => Some(4423),
        ViewerEnd::ShuttingDown => Some(4503),
    }
}

/// The subprotocols that a request offers. A text that is not ASCII is none.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let names = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    names.map(str::trim).filter(|name| !name.is_empty())
}

fn protocol_failure(code: &'static str, detail: String) -> Failure {
    failure_at(FailureKind::InvalidRequest, "sec-websocket-protocol", code, detail)
}

/// The beginning of a text that fits into a close message.
fn shortened(reason: &str) -> &str {
    let end = reason.floor_char_boundary(MAX_REASON);
    reason.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn the_console_token_is_found_among_the_subprotocols() {
        let token = |values: &[&str]| {
            console_token(&headers(values)).map(|token| token.map(str::to_owned)).ok()
        };
        assert_eq!(token(&[]), Some(None));
        assert_eq!(token(&["binary, chat"]), Some(None));
        assert_eq!(token(&["binary, otter.token.ab"]), Some(Some("ab".to_owned())));
        assert_eq!(token(&["binary", " otter.token.ab"]), Some(Some("ab".to_owned())));
        assert_eq!(token(&["otter.token.a, otter.token.b"]), None);
        assert_eq!(token(&["otter.token."]), Some(Some(String::new())));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(shortened("why"), "why");
        let cut = shortened(&"ß".repeat(100)).to_owned();
        assert_eq!(cut, "ß".repeat(MAX_REASON / 2));
    }
}
