//! A terminal for tests: a client of the WebSocket of a serial port.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Lab, TIMEOUT};
use crate::screens::viewer_client::{Closed, Refused, open_socket};

/// An open stream.
#[derive(Debug)]
pub struct StreamClient {
    socket: WebSocketStream<TcpStream>,
    /// The subprotocol that otter chose.
    pub protocol: Option<String>,
    /// The offset of the next byte.
    pub offset: u64,
    /// The bytes that came and were not taken yet.
    received: Vec<u8>,
    /// The reasons of the gaps that came.
    pub gaps: Vec<String>,
}

impl StreamClient {
    /// Opens a WebSocket, and reads its first message.
    pub async fn open(lab: &Lab, path: &str, headers: &[(&str, &str)]) -> Result<Self, Refused> {
        Self::open_at(lab.address, path, headers).await
    }

    /// As [`StreamClient::open`], at the address of an otter.
    pub async fn open_at(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refused> {
        let (socket, protocol) = open_socket(address, path, headers).await?;
        let (received, gaps) = (Vec::new(), Vec::new());
        let mut client = Self { socket, protocol, offset: 0, received, gaps };
        let Ok(Message::Text(first)) = client.next().await else { panic!("no first message") };
        let first: Value = serde_json::from_str(&first).unwrap();
        client.offset = first["offset"].as_u64().expect("the offset of the next byte");
        Ok(client)
    }

    /// Reads until this text came. Returns everything up to its end.
    pub async fn until(&mut self, text: &str) -> String {
        let text = text.as_bytes();
        loop {
            let found = self.received.windows(text.len()).position(|part| part == text);
            if let Some(at) = found {
                let taken: Vec<u8> = self.received.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&taken).into_owned();
            }
            self.read().await.unwrap();
        }
    }

    /// The bytes that came and were not taken yet.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.received)
    }

    /// Reads one message.
    pub async fn read(&mut self) -> Result<(), Closed> {
        match self.next().await? {
            Message::Binary(bytes) => {
                self.offset += bytes.len() as u64;
                self.received.extend_from_slice(&bytes);
            }
            Message::Text(text) => {
                let gap = serde_json::from_str::<Value>(&text).unwrap()["gap"].clone();
                let offset = gap["offset"].as_u64().expect("a gap");
                assert!(offset >= self.offset, "{offset} after {}", self.offset);
                self.offset = offset;
                self.gaps.push(gap["reason"].as_str().unwrap().to_owned());
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    /// Reads until otter closes the WebSocket.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.read().await {
                return closed;
            }
        }
    }

    /// Sends bytes. A closed connection is no error.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = Bytes::copy_from_slice(bytes.as_ref());
        let _ = self.socket.send(Message::Binary(bytes)).await;
    }

    /// Sends a text message.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next message that is no ping, or how otter closed the WebSocket.
    async fn next(&mut self) -> Result<Message, Closed> {
        let next = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => {
                        let (code, reason) = (frame.code.into(), frame.reason.to_string());
                        return Err(Closed { code: Some(code), reason });
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(message)) => return Ok(message),
                    None | Some(Err(_)) => {
                        return Err(Closed { code: None, reason: String::new() });
                    }
                }
            }
        };
        tokio::time::timeout(TIMEOUT, next).await.expect("a message or a close")
    }
}
