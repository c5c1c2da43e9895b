//! The bytes that go to a client of a console, and how the conversation with it ends.

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::slices::Slices;

/// How the conversation with a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConversationEnd {
    /// The client closes the WebSocket, or the host closes it after an error.
    Closed,
    /// The client is gone without a close.
    Abandoned,
}

/// Sends bytes in messages of odd sizes.
pub async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    slices: &mut Slices,
    bytes: Bytes,
) -> tungstenite::Result<()> {
    for message in slices.cut(bytes) {
        socket.feed(Message::Binary(message)).await?;
    }
    socket.flush().await
}
