//! One console connection: the WebSocket, with the host's RFB server or a bridge behind it, and its
//! end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Error};

use super::super::Shared;
use super::super::guest_screen::Picture;
use super::bridge;
use super::conversation::{ConversationEnd, send};
use super::rfb_server::{GuestInput, RfbServer};
use super::slices::Slices;
use super::{ConsoleEnd, ConsoleQuirks};

/// How long the host waits until the client has answered a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum size of a message of a client. Clients send input and requests only.
const MAX_MESSAGE: usize = 4 << 20;

/// What is behind the WebSocket.
pub enum Endpoint {
    /// The host's RFB server.
    Screen,
    /// A real RFB server at this address.
    Bridge(String),
    /// The channels of VMware, which no RFB client understands.
    Channels,
}

/// A connection that the machine counts, until this is dropped.
pub struct Connection {
    pub shared: Arc<Shared>,
    /// The moid of the machine.
    pub machine: String,
    /// The name of the machine.
    pub name: String,
    /// The count of the machine's consoles when the connection began.
    pub epoch: u64,
    /// The number of the open console.
    pub number: u64,
    pub ended: watch::Receiver<Option<ConsoleEnd>>,
    pub quirks: ConsoleQuirks,
    pub endpoint: Endpoint,
    /// Whether the client has left without a close, so that the machine goes on counting the
    /// connection.
    pub is_abandoned: bool,
}

impl Connection {
    /// Serves the client until the connection ends.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(mut self, stream: S) {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        let (shared, ended) = (Arc::clone(&self.shared), self.ended.clone());
        let end = tokio::select! {
            biased;
            end = until_end(&shared, ended, &self.machine, self.epoch) => Err(end),
            end = self.converse(&mut socket) => Ok(end),
        };
        match end {
            Err(ConsoleEnd::Cut) => {}
            Ok(ConversationEnd::Abandoned) => self.is_abandoned = true,
            Ok(ConversationEnd::Closed) | Err(ConsoleEnd::Close) => {
                let closed = async {
                    // The client may be gone.
                    let _ = socket.close(None).await;
                    while let Some(Ok(_)) = socket.next().await {}
                };
                tokio::select! {
                    () = closed => {}
                    () = self.shared.clock.sleep(CLOSE_TIMEOUT) => {}
                }
                let _ = socket.get_mut().shutdown().await;
            }
        }
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        socket: &mut WebSocketStream<S>,
    ) -> ConversationEnd {
        let slices = Slices::new(self.quirks.message_bytes);
        let end = match &self.endpoint {
            Endpoint::Screen => self.show_screen(socket, slices).await,
            Endpoint::Bridge(address) => bridge::run(socket, slices, address).await,
            Endpoint::Channels => answer_with_channels(socket, slices).await,
        };
        match end {
            Ok(end) => end,
            // The simulator itself has ended the connection.
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionAborted => {
                ConversationEnd::Closed
            }
            Err(_) => ConversationEnd::Abandoned,
        }
    }

    /// Answers as the host's RFB server.
    async fn show_screen<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        socket: &mut WebSocketStream<S>,
        mut slices: Slices,
    ) -> tungstenite::Result<ConversationEnd> {
        let size =
            self.picture().map_or((720, 400), |(picture, _)| (picture.width, picture.height));
        let mut server = RfbServer::new(&self.name, size, self.quirks.clone());
        let mut shown: Option<Picture> = None;
        let mut changes = self.shared.changes();
        let mut inputs = self.shared.screen_changes();
        loop {
            changes.borrow_and_update();
            inputs.borrow_and_update();
            let next_change = self.answer(&mut server, &mut shown);
            let bytes = server.take_output();
            if !bytes.is_empty() {
                send(socket, &mut slices, bytes.into()).await?;
                continue;
            }
            let is_asked = server.is_asked();
            let at_next_change = async {
                match next_change {
                    Some(due) => {
                        let now = self.shared.clock.elapsed();
                        self.shared.clock.sleep(due.saturating_sub(now)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => match server.receive(&bytes) {
                        Ok(inputs) => self.apply(&inputs),
                        Err(_) => return Ok(ConversationEnd::Closed),
                    },
                    Some(Ok(Message::Close(_))) => return Ok(ConversationEnd::Closed),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                    None => return Ok(ConversationEnd::Abandoned),
                },
                // The simulator stops if one of these fails, and then the stream fails too.
                _ = changes.changed() => {}
                _ = inputs.changed(), if is_asked => {}
                () = at_next_change, if is_asked => {}
            }
        }
    }

    /// Prepares an update if the client asks for one. Returns when the picture changes next.
    fn answer(&self, server: &mut RfbServer, shown: &mut Option<Picture>) -> Option<Duration> {
        let is_silent = self.shared.lock().consoles.quirks.silent;
        server.set_silent(is_silent);
        if !server.is_asked() {
            return None;
        }
        let (picture, next_change) = self.picture()?;
        if shown.as_ref() != Some(&picture) {
            server.show(picture.draw());
            *shown = Some(picture);
        }
        server.answer();
        next_change
    }

    /// What the guest shows, and when it changes next. `None` if the machine is off.
    fn picture(&self) -> Option<(Picture, Option<Duration>)> {
        let state = self.shared.lock();
        let now = state.world.now();
        let machine = state.world.machine(&self.machine)?;
        let picture = machine.screen.picture(now, &machine.name)?;
        Some((picture, machine.screen.next_change(now)))
    }

    fn apply(&self, inputs: &[GuestInput]) {
        if inputs.is_empty() {
            return;
        }
        {
            let mut state = self.shared.lock();
            let now = state.world.now().elapsed;
            let Some(screen) = state.world.screen_mut(&self.machine) else { return };
            for input in inputs {
                match *input {
                    GuestInput::Key { key, is_down } => screen.key(now, key, is_down),
                    GuestInput::Pointer { x, y, buttons } => screen.point(now, (x, y), buttons),
                }
            }
        }
        self.shared.notify_screens();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.consoles.open.remove(&self.number);
        if !self.is_abandoned {
            state.world.close_console(&self.machine, self.epoch);
        }
        drop(state);
        self.shared.notify();
    }
}

/// Waits until the machine stops or a mishap ends the connection.
async fn until_end(
    shared: &Shared,
    mut ended: watch::Receiver<Option<ConsoleEnd>>,
    machine: &str,
    epoch: u64,
) -> ConsoleEnd {
    let mut changes = shared.changes();
    loop {
        changes.borrow_and_update();
        if let Some(end) = *ended.borrow_and_update() {
            return end;
        }
        let is_current = shared
            .lock()
            .world
            .machine(machine)
            .is_some_and(|machine| machine.console_epoch == epoch);
        if !is_current {
            return ConsoleEnd::Close;
        }
        let is_gone = tokio::select! {
            next = changes.changed() => next.is_err(),
            next = ended.changed() => next.is_err(),
        };
        if is_gone {
            return ConsoleEnd::Cut;
        }
    }
}

/// Speaks another protocol than RFB, as a host does that has chosen `vmware-vvc`.
async fn answer_with_channels<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    mut slices: Slices,
) -> tungstenite::Result<ConversationEnd> {
    let hello = b"\x00\x01\x00\x20VVC\x00\x00\x02\x00\x00channels of another protocol";
    send(socket, &mut slices, Bytes::from_static(hello)).await?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(_))) => return Ok(ConversationEnd::Closed),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => return Ok(ConversationEnd::Abandoned),
        }
    }
}
