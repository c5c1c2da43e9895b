//! A port whose machine listens: one client at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::SecondClient;
use super::line::{EarlierOutput, Line, Wire};
use super::reserved_port::ReservedPort;
use super::uri::Protocol;

/// How long the port waits if it cannot listen or accept.
const PAUSE: Duration = Duration::from_millis(50);

/// A listener, until this is dropped.
struct Listening {
    listener: TcpListener,
    /// Dropped after the listener.
    _announced: Announced,
}

/// The port counts as listening until this is dropped.
struct Announced(Line);

/// Listens until the task is cancelled.
pub async fn run(line: Line, reserved: Arc<ReservedPort>, protocol: Protocol) {
    let mut listener = None;
    loop {
        let stream = accept(&line, &reserved, &mut listener).await;
        tokio::select! {
            () = line.serve(stream, Wire::listening(protocol), EarlierOutput::Lost) => {}
            () = turn_away(&line, &reserved, &mut listener) => {}
        }
    }
}

/// Waits for a client.
async fn accept(
    line: &Line,
    reserved: &ReservedPort,
    listener: &mut Option<Listening>,
) -> TcpStream {
    let mut changed = line.changed.clone();
    loop {
        changed.borrow_and_update();
        let accepted = tokio::select! {
            accepted = accept_one(line, reserved, listener) => accepted,
            _ = changed.changed() => None,
        };
        if let Some(stream) = accepted {
            return stream;
        }
    }
}

/// What becomes of other clients while one is connected. This does not end.
async fn turn_away(line: &Line, reserved: &ReservedPort, listener: &mut Option<Listening>) {
    let mut changed = line.changed.clone();
    loop {
        changed.borrow_and_update();
        let second_client = line.shared.lock().serial.second_client;
        tokio::select! {
            // The stream is dropped at once.
            _ = accept_one(line, reserved, listener),
                if second_client == SecondClient::Closed || line.is_refusing() => {}
            _ = changed.changed() => {}
        }
    }
}

/// The next client. `None` if the port cannot accept one now. While the port refuses clients, this
/// does not end, and the port does not listen.
async fn accept_one(
    line: &Line,
    reserved: &ReservedPort,
    listener: &mut Option<Listening>,
) -> Option<TcpStream> {
    if line.is_refusing() {
        *listener = None;
        return std::future::pending().await;
    }
    if listener.is_none() {
        *listener = Listening::begin(line, reserved);
    }
    let accepted = match listener {
        Some(Listening { listener, .. }) => listener.accept().await.ok(),
        None => None,
    };
    if accepted.is_none() {
        line.shared.clock.sleep(PAUSE).await;
    }
    accepted.map(|(stream, _)| stream)
}

impl Listening {
    /// Listens. `None` if another program listens on the port.
    fn begin(line: &Line, reserved: &ReservedPort) -> Option<Self> {
        let listener = reserved.listen().ok()?;
        line.set_listening(true);
        Some(Self { listener, _announced: Announced(line.clone()) })
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.set_listening(false);
    }
}
