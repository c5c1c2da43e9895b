//! The WebSocket of a console (RFC 6455) as a stream of bytes. The boundaries of its messages mean
//! nothing: RFB is cut into messages anyhow.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderName, HeaderValue, Request};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::esx::transport::Transport;
use crate::hypervisor::{ByteStream, HostError, HostErrorKind};

/// The subprotocol in which the messages are slices of RFB. A host that is offered another one too
/// may choose VMware's multiplexer.
const SUBPROTOCOL: &str = "binary";

/// The largest message of a host, in bytes. A rectangle has at most 512 × 512 pixels, and a message
/// may hold several.
const MAX_MESSAGE: usize = 64 << 20;

/// The handshake may take this long after the connection is there.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Connects to the API's address and makes the handshake with a ticket.
///
/// # Errors
/// `Unreachable` if there is no connection, `Rejected` if the host refuses the ticket, `Protocol`
/// if it does not speak the subprotocol.
pub async fn open(transport: &Transport, ticket: &SecretString) -> Result<ByteSocket, HostError> {
    let address = transport.address();
    let request = request(transport, ticket).map_err(|error| {
        let message = format!("The address {address} cannot be used for a console.");
        HostError::new(HostErrorKind::Protocol, message).caused_by(error)
    })?;
    let stream = transport.dial().await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .write_buffer_size(0);
    let handshake = client_async_with_config(request, stream, Some(config));
    match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
        Ok(Ok((socket, _))) => Ok(ByteSocket::new(socket)),
        Ok(Err(error)) => Err(refused(&address, error)),
        Err(_) => {
            let message = format!("The host {address} did not open the console in time.");
            Err(HostError::new(HostErrorKind::Unreachable, message))
        }
    }
}

/// The request of the handshake. The ticket is its only credential.
fn request(transport: &Transport, ticket: &SecretString) -> http::Result<Request<()>> {
    let scheme = if transport.is_tls() { "wss" } else { "ws" };
    let path = format!("/ticket/{}", ticket.expose_secret());
    let mut request = Request::get(format!("{scheme}://{}{path}", transport.address())).body(())?;
    let headers = request.headers_mut();
    headers.clone_from(transport.headers());
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    headers.insert(
        HeaderName::from_static("sec-websocket-key"),
        HeaderValue::from_str(&generate_key())?,
    );
    Ok(request)
}

/// The error of a handshake. Its text never contains the path, which has the ticket.
fn refused(address: &str, error: Error) -> HostError {
    let (kind, reason) = match &error {
        Error::Http(answer) => (
            HostErrorKind::Rejected,
            format!("it answered the ticket with HTTP status {}", answer.status().as_u16()),
        ),
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
            (HostErrorKind::Protocol, format!("it does not offer the subprotocol {SUBPROTOCOL}"))
        }
        Error::Io(_) | Error::ConnectionClosed | Error::AlreadyClosed => {
            (HostErrorKind::Unreachable, "the connection broke".to_owned())
        }
        _ => (HostErrorKind::Protocol, "its answer is not that of a WebSocket".to_owned()),
    };
    let message = format!("The host {address} did not open the console: {reason}.");
    HostError::new(kind, message).caused_by(error)
}

/// A WebSocket whose binary messages are one stream of bytes. `shutdown` sends the close, waits for
/// that of the host, and closes TLS and TCP.
pub struct ByteSocket {
    socket: WebSocketStream<Box<dyn ByteStream>>,
    /// The rest of the last message.
    unread: Bytes,
    closing: Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// The close is sent, and the host's is awaited.
    Sent,
    /// The stream below is being closed.
    Below,
}

impl ByteSocket {
    fn new(socket: WebSocketStream<Box<dyn ByteStream>>) -> Self {
        Self { socket, unread: Bytes::new(), closing: Closing::No }
    }

    /// The next message with bytes. `None` at the end of the stream.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            let message = ready!(Pin::new(&mut self.socket).poll_next(context));
            return Poll::Ready(match message.transpose().map_err(to_io)? {
                None | Some(Message::Close(_)) => Ok(None),
                Some(Message::Binary(bytes)) => Ok(Some(bytes)),
                Some(Message::Text(_)) => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the host sent text on the console",
                )),
                // The library answers pings.
                Some(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
            });
        }
    }
}

impl AsyncRead for ByteSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.poll_message(context))? {
                None => return Poll::Ready(Ok(())),
                Some(bytes) => self.unread = bytes,
            }
        }
        let length = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteSocket {
    /// Sends the bytes as one message.
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(to_io)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(&mut self.socket).start_send(message).map_err(to_io)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing == Closing::No {
            // If the close cannot be sent any more, the stream below is closed all the same.
            let is_sent = ready!(Pin::new(&mut self.socket).poll_close(context)).is_ok();
            self.closing = if is_sent { Closing::Sent } else { Closing::Below };
        }
        while self.closing == Closing::Sent {
            match ready!(self.poll_message(context)) {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.closing = Closing::Below,
            }
        }
        Pin::new(self.socket.get_mut()).poll_shutdown(context)
    }
}

fn to_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => {
            io::Error::from(io::ErrorKind::NotConnected)
        }
        error => io::Error::other(error),
    }
}
