//! A console that is bridged to a real RFB server: its bytes pass through the WebSocket unchanged.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::conversation::{ConversationEnd, send};
use super::slices::Slices;

/// The maximum number of bytes that are read at once.
const MAX_READ: usize = 64 << 10;

/// Copies the bytes between the WebSocket and the server at `address` until one of them ends.
///
/// # Errors
/// Fails if the WebSocket fails. If the server cannot be reached, the host closes the WebSocket.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    mut slices: Slices,
    address: &str,
) -> tungstenite::Result<ConversationEnd> {
    let Ok(server) = TcpStream::connect(address).await else {
        return Ok(ConversationEnd::Closed);
    };
    // Without `TCP_NODELAY`, keys wait for an acknowledgement of the server.
    let _ = server.set_nodelay(true);
    let (mut reader, mut writer) = server.into_split();
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if writer.write_all(&bytes).await.is_err() {
                        return Ok(ConversationEnd::Closed);
                    }
                }
                Some(Ok(Message::Close(_))) => return Ok(ConversationEnd::Closed),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(ConversationEnd::Abandoned),
            },
            read = read_some(&mut reader) => match read {
                Ok(bytes) if !bytes.is_empty() => send(socket, &mut slices, bytes).await?,
                Ok(_) | Err(_) => return Ok(ConversationEnd::Closed),
            },
        }
    }
}

/// The next bytes. Empty at the end. Nothing is lost if the caller stops waiting.
async fn read_some(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(MAX_READ);
    reader.read_buf(&mut bytes).await?;
    Ok(bytes.freeze())
}
