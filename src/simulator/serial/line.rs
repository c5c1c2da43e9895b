//! A serial port while something is connected to it: bytes go from the guest to the peer and back.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::super::{Shared, SimulatorState};
use super::telnet::{Identity, Telnet};
use super::uri::Protocol;
use super::{Cut, PortId, WireOrder};

/// How many bytes of a flood wait for a slow peer. Then the flood waits.
const MAX_FLOOD_BACKLOG: usize = 64 << 10;
/// How many bytes of the guest wait for a slow peer. What it writes beyond them is lost.
const MAX_BACKLOG: usize = 1 << 20;
/// The same for a pseudoterminal, which perhaps no program reads.
const MAX_TTY_BACKLOG: usize = 4 << 10;
/// How many bytes of a peer are read at once.
const MAX_READ: usize = 16 << 10;

/// A port, for the task that connects it.
#[derive(Clone)]
pub struct Line {
    pub shared: Arc<Shared>,
    pub port: PortId,
    /// Tells that the port was changed.
    pub changed: watch::Receiver<u64>,
}

/// How the bytes of the guest are written on the wire.
pub enum Wire {
    Raw,
    Telnet(Box<Telnet>),
}

/// What becomes of the output that the guest has written before the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlierOutput {
    /// The connection began with the machine, so that it gets everything.
    Sent,
    Lost,
}

/// How a connection ends.
enum ConnectionEnd {
    /// The peer has left, or was refused by the concentrator.
    Left,
    Cut(Cut),
}

impl Wire {
    /// The wire of a machine that listens.
    pub fn listening(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Raw => Self::Raw,
            Protocol::Telnet => Self::Telnet(Box::new(Telnet::listening())),
        }
    }

    /// The wire of a machine that dials: a concentrator, to which it has an identity, or another
    /// program.
    pub fn dialling(protocol: Protocol, identity: Option<&Identity>) -> Self {
        match (protocol, identity) {
            (_, Some(identity)) => Self::Telnet(Box::new(Telnet::for_proxy(identity.clone()))),
            (Protocol::Raw, None) => Self::Raw,
            (Protocol::Telnet, None) => Self::Telnet(Box::new(Telnet::dialling())),
        }
    }

    fn begin(&mut self, output: &mut BytesMut) {
        if let Self::Telnet(telnet) = self {
            telnet.begin(output);
        }
    }

    fn encode(&mut self, bytes: &[u8], output: &mut BytesMut) {
        match self {
            Self::Raw => output.extend_from_slice(bytes),
            Self::Telnet(telnet) => telnet.encode(bytes, output),
        }
    }

    /// Takes bytes of the peer. Returns the input for the guest.
    fn receive(&mut self, bytes: &[u8], output: &mut BytesMut) -> Vec<u8> {
        match self {
            Self::Raw => bytes.to_vec(),
            Self::Telnet(telnet) => {
                let mut input = Vec::new();
                telnet.receive(bytes, &mut input, output);
                input
            }
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Raw => true,
            Self::Telnet(telnet) => telnet.is_open(),
        }
    }

    fn is_refused(&self) -> bool {
        match self {
            Self::Raw => false,
            Self::Telnet(telnet) => telnet.is_refused(),
        }
    }
}

impl Line {
    /// Whether the port refuses connections.
    pub fn is_refusing(&self) -> bool {
        self.shared.lock().serial.ports.get(&self.port).is_some_and(|port| port.is_refusing)
    }

    /// Records whether the port listens.
    pub fn set_listening(&self, is_listening: bool) {
        if let Some(port) = self.shared.lock().serial.ports.get_mut(&self.port) {
            port.is_listening = is_listening;
        }
        self.shared.notify();
    }

    /// Serves a TCP connection until it ends.
    pub async fn serve(&self, mut stream: TcpStream, wire: Wire, earlier: EarlierOutput) {
        // Without `TCP_NODELAY`, an echo waits for an acknowledgement of the peer.
        let _ = stream.set_nodelay(true);
        let end = {
            let (mut reader, mut writer) = stream.split();
            self.carry(&mut reader, &mut writer, wire, earlier, MAX_BACKLOG).await
        };
        if let ConnectionEnd::Cut(Cut { reset: true }) = end {
            // A stream that does not linger is reset when it is dropped.
            let _ = stream.set_zero_linger();
        }
    }

    /// Carries bytes between the guest and a pseudoterminal until the simulator ends.
    pub async fn serve_tty<R, W>(&self, mut reader: R, mut writer: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            let wire = Wire::Raw;
            self.carry(&mut reader, &mut writer, wire, EarlierOutput::Sent, MAX_TTY_BACKLOG).await;
            let mut changed = self.changed.clone();
            changed.borrow_and_update();
            // The pseudoterminal is there as long as the simulator: only a test cuts it.
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn carry<R, W>(
        &self,
        reader: &mut R,
        writer: &mut W,
        mut wire: Wire,
        earlier: EarlierOutput,
        max_backlog: usize,
    ) -> ConnectionEnd
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let _connected = Connected::new(self, earlier);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        wire.begin(&mut output);
        let mut changes = self.shared.changes();
        let mut inputs = self.shared.screen_changes();
        let mut own = self.changed.clone();
        loop {
            changes.borrow_and_update();
            inputs.borrow_and_update();
            own.borrow_and_update();
            input.reserve(MAX_READ);
            let next = match self.collect(&mut wire, &mut output, max_backlog) {
                Ok(next) => next,
                Err(end) => return end,
            };
            if wire.is_refused() && output.is_empty() {
                return ConnectionEnd::Left;
            }
            tokio::select! {
                written = writer.write_buf(&mut output), if !output.is_empty() => {
                    if !written.is_ok_and(|length| length > 0) {
                        return ConnectionEnd::Left;
                    }
                }
                read = reader.read_buf(&mut input) => {
                    if !read.is_ok_and(|length| length > 0) {
                        return ConnectionEnd::Left;
                    }
                    self.receive(&input.split(), &mut wire, &mut output);
                }
                // The simulator stops if one of these fails, and then this task is cancelled.
                _ = changes.changed() => {}
                _ = inputs.changed() => {}
                _ = own.changed() => {}
                () = self.at(next) => {}
            }
        }
    }

    /// Prepares what goes to the peer. Returns when there is more.
    fn collect(
        &self,
        wire: &mut Wire,
        output: &mut BytesMut,
        max_backlog: usize,
    ) -> Result<Option<Duration>, ConnectionEnd> {
        let mut state = self.shared.lock();
        let SimulatorState { world, serial, .. } = &mut *state;
        let Some(port) = serial.ports.get_mut(&self.port) else { return Err(ConnectionEnd::Left) };
        if let Some(cut) = port.cut.take() {
            return Err(ConnectionEnd::Cut(cut));
        }
        for order in port.on_wire.drain(..) {
            match order {
                WireOrder::Suboption { code, payload } => Telnet::suboption(code, &payload, output),
                WireOrder::Bytes(bytes) => output.extend_from_slice(&bytes),
            }
        }
        if !wire.is_open() {
            return Ok(None);
        }
        let limit = MAX_FLOOD_BACKLOG.min(max_backlog).saturating_sub(output.len());
        let (bytes, next) = serial.take_output(world, &self.port, limit);
        if output.len() < max_backlog {
            wire.encode(&bytes, output);
        }
        Ok(next)
    }

    /// Takes bytes of the peer.
    fn receive(&self, bytes: &[u8], wire: &mut Wire, output: &mut BytesMut) {
        let input = wire.receive(bytes, output);
        if input.is_empty() {
            return;
        }
        let answer = {
            let mut state = self.shared.lock();
            let answer = state.world.serial_input(&self.port.machine, self.port.key, &input);
            if let Some(port) = state.serial.ports.get_mut(&self.port) {
                port.received += u64::try_from(input.len()).unwrap_or_default();
                port.written += u64::try_from(answer.len()).unwrap_or_default();
            }
            answer
        };
        wire.encode(&answer, output);
        self.shared.notify_screens();
    }

    /// Waits until the host's time is `due`, or forever.
    pub async fn at(&self, due: Option<Duration>) {
        match due {
            Some(due) => {
                let now = self.shared.clock.elapsed();
                self.shared.clock.sleep(due.saturating_sub(now)).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// A port that is connected until this is dropped.
pub struct Connected<'a>(&'a Line);

impl<'a> Connected<'a> {
    pub fn new(line: &'a Line, earlier: EarlierOutput) -> Self {
        {
            let mut state = line.shared.lock();
            let SimulatorState { world, serial, .. } = &mut *state;
            if earlier == EarlierOutput::Lost {
                serial.lose_output(world, &line.port);
            }
            if let Some(port) = serial.ports.get_mut(&line.port) {
                port.connect();
            }
        }
        line.shared.notify();
        Self(line)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        if let Some(port) = self.0.shared.lock().serial.ports.get_mut(&self.0.port) {
            port.disconnect();
        }
        self.0.shared.notify();
    }
}
