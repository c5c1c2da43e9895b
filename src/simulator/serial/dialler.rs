//! A port whose machine dials: a concentrator (vSPC), or another program. It dials at the power-on,
//! and again some time after its connection has ended.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;

use super::line::{EarlierOutput, Line, Wire};
use super::telnet::Identity;
use super::uri::PortUri;

/// How long the machine waits until it dials again.
const PAUSE: Duration = Duration::from_secs(5);

/// What a machine dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub uri: PortUri,
    /// What the machine says about itself, if the destination is a concentrator.
    pub identity: Option<Identity>,
}

/// Dials until the task is cancelled.
pub async fn run(line: Line, destination: Destination) {
    let mut earlier = EarlierOutput::Sent;
    let mut changed = line.changed.clone();
    loop {
        if let Some(stream) = connect(&line, &destination).await {
            let wire = Wire::dialling(destination.uri.protocol, destination.identity.as_ref());
            line.serve(stream, wire, earlier).await;
        }
        earlier = EarlierOutput::Lost;
        changed.borrow_and_update();
        tokio::select! {
            () = line.shared.clock.sleep(PAUSE) => {}
            _ = changed.changed() => {}
        }
    }
}

/// A connection to the destination. `None` if there is none now.
async fn connect(line: &Line, destination: &Destination) -> Option<TcpStream> {
    if line.is_refusing() {
        return None;
    }
    TcpStream::connect(address(line, destination)?).await.ok()
}

/// The address of the destination. The machine never dials another computer.
fn address(line: &Line, destination: &Destination) -> Option<SocketAddr> {
    let own = destination.uri.on_loopback();
    let is_proxy = destination.identity.is_some();
    own.or_else(|| line.shared.lock().serial.concentrator.filter(|_| is_proxy))
}
