//! A viewer for tests: an RFB client on otter's WebSocket.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use otter::domain::keyboard::Keysym;
use otter::domain::screen::{Region, ScreenSize};
use otter::rfb::{ServerEvent, ServerStream, client_messages};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::{Lab, TIMEOUT, encode};

/// An open viewer.
pub struct ViewerClient {
    socket: WebSocketStream<TcpStream>,
    stream: ServerStream,
    /// The subprotocol that otter chose.
    pub protocol: Option<String>,
    pub size: ScreenSize,
    pub name: String,
    pixels: Vec<u8>,
}

/// How otter closed a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// `None` if the connection ended without a close message.
    pub code: Option<u16>,
    pub reason: String,
}

/// A refusal before the upgrade.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub problem: Value,
}

impl Refused {
    /// Checks the status and the code.
    pub fn expect(&self, status: u16, code: &str) {
        assert_eq!((self.status, &self.problem["code"]), (status, &code.into()), "{self:?}");
    }
}

/// The path of the viewers of a machine.
pub fn viewer_path(machine: &str, query: &str) -> String {
    format!("/v1/machines/{}/screen/rfb{query}", encode(machine))
}

/// Opens a WebSocket, with the subprotocol `binary` unless the headers name others.
///
/// # Returns
/// The WebSocket, and the subprotocol that otter chose.
pub async fn open_socket(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(WebSocketStream<TcpStream>, Option<String>), Refused> {
    let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
    if !headers.iter().any(|(name, _)| *name == "sec-websocket-protocol") {
        let binary = http::HeaderValue::from_static("binary");
        request.headers_mut().insert("sec-websocket-protocol", binary);
    }
    for (name, value) in headers {
        let name = http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().insert(name, http::HeaderValue::from_str(value).unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let opened = tokio::time::timeout(TIMEOUT, client_async(request, stream)).await;
    match opened.expect("an answer") {
        Ok((socket, response)) => {
            let protocol = response.headers().get("sec-websocket-protocol");
            Ok((socket, protocol.map(|name| name.to_str().unwrap().to_owned())))
        }
        Err(Error::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            let problem = serde_json::from_slice(&body).unwrap_or(Value::Null);
            Err(Refused { status: response.status().as_u16(), problem })
        }
        Err(error) => panic!("{error}"),
    }
}

impl ViewerClient {
    /// Opens a WebSocket and ends the handshake of RFB.
    pub async fn open(lab: &Lab, path: &str, headers: &[(&str, &str)]) -> Result<Self, Refused> {
        Self::open_at(lab.address, path, headers).await
    }

    /// As [`ViewerClient::open`], at the address of an otter.
    pub async fn open_at(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refused> {
        let mut viewer = Self::connect(address, path, headers).await?;
        match viewer.next().await.expect("the handshake") {
            ServerEvent::Ready { size, name } => {
                viewer.resize(size);
                viewer.name = name;
                Ok(viewer)
            }
            other => panic!("{other:?} before the end of the handshake"),
        }
    }

    /// Opens a WebSocket and sends nothing over it.
    pub async fn open_silent(
        lab: &Lab,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refused> {
        Self::connect(lab.address, path, headers).await
    }

    async fn connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Refused> {
        let (socket, protocol) = open_socket(address, path, headers).await?;
        Ok(Self {
            socket,
            stream: ServerStream::new(),
            protocol,
            size: ScreenSize { width: 0, height: 0 },
            name: String::new(),
            pixels: Vec::new(),
        })
    }

    /// The next event, or how otter closed the WebSocket.
    pub async fn next(&mut self) -> Result<ServerEvent, Closed> {
        let next = async {
            loop {
                if let Some(event) = self.stream.next_event().unwrap() {
                    return Ok(event);
                }
                let own = self.stream.to_send();
                if !own.is_empty() {
                    self.send(&own).await;
                }
                match self.socket.next().await {
                    Some(Ok(Message::Binary(bytes))) => self.stream.feed(&bytes),
                    Some(Ok(Message::Close(Some(frame)))) => {
                        let (code, reason) = (frame.code.into(), frame.reason.to_string());
                        return Err(Closed { code: Some(code), reason });
                    }
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => {
                        return Err(Closed { code: None, reason: String::new() });
                    }
                }
            }
        };
        tokio::time::timeout(TIMEOUT, next).await.expect("an event or a close")
    }

    /// Asks for an update of the whole screen and reads it. A resize is followed.
    ///
    /// # Parameters
    /// - `incremental`: whether only changes are asked for.
    pub async fn update(&mut self, incremental: bool) -> Result<Vec<Region>, Closed> {
        self.request(incremental).await;
        self.read_update().await
    }

    /// Asks for an update of the whole screen.
    pub async fn request(&mut self, incremental: bool) {
        let ScreenSize { width, height } = self.size;
        let whole = Region { x: 0, y: 0, width, height };
        self.send(&client_messages::update_request(incremental, whole)).await;
    }

    /// Reads one update and paints it. Returns its regions.
    pub async fn read_update(&mut self) -> Result<Vec<Region>, Closed> {
        let mut regions = Vec::new();
        loop {
            match self.next().await? {
                ServerEvent::Rectangle { region, pixels } => {
                    self.paint(region, &pixels);
                    regions.push(region);
                }
                ServerEvent::Resize(size) => self.resize(size),
                ServerEvent::UpdateEnd => return Ok(regions),
                other => panic!("{other:?} in an update"),
            }
        }
    }

    /// Waits for a ping, and answers it.
    pub async fn pinged(&mut self) {
        let ping = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Ping(_))) => break,
                    Some(Ok(Message::Binary(bytes))) => self.stream.feed(&bytes),
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => panic!("the end of the WebSocket before a ping"),
                }
            }
            self.socket.flush().await.unwrap();
        };
        tokio::time::timeout(TIMEOUT, ping).await.expect("a ping");
    }

    /// Reads until otter closes the WebSocket.
    pub async fn closed(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.next().await {
                return closed;
            }
        }
    }

    /// Sends a key event.
    pub async fn key(&mut self, keysym: u32, down: bool) {
        self.send(&client_messages::key(Keysym(keysym), down)).await;
    }

    /// Sends a pointer event.
    pub async fn pointer(&mut self, buttons: u8, x: u16, y: u16) {
        self.send(&client_messages::pointer(buttons, x, y)).await;
    }

    /// Sends bytes in one binary message. A closed connection is no error.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.socket.send(Message::Binary(Bytes::copy_from_slice(bytes))).await;
    }

    /// Sends a text message.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Closes the WebSocket as a viewer that leaves.
    pub async fn leave(mut self) {
        self.socket.close(None).await.unwrap();
        let ended = async { while let Some(Ok(_)) = self.socket.next().await {} };
        tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the end");
    }

    /// The painted pixels, without the byte that has no meaning.
    pub fn colours(&self) -> Vec<[u8; 3]> {
        self.pixels.chunks_exact(4).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
    }

    fn resize(&mut self, size: ScreenSize) {
        self.size = size;
        self.pixels = vec![0; usize::from(size.width) * usize::from(size.height) * 4];
    }

    fn paint(&mut self, region: Region, pixels: &[u8]) {
        let (row, width) = (usize::from(region.width) * 4, usize::from(self.size.width) * 4);
        for (index, source) in pixels.chunks_exact(row).enumerate() {
            let start = (usize::from(region.y) + index) * width + usize::from(region.x) * 4;
            self.pixels[start..start + row].copy_from_slice(source);
        }
    }
}
