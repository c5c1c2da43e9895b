//! `GET /ticket/<ticket>`: whether a request becomes a console connection.
//!
//! ```text
//! no WebSocket ──► 400                    ticket unknown, used or too old ──► 404
//! (the ticket is used up from here on)
//! machine stopped since then ──► 404      no connection left ──► 503
//! `binary` offered ──► 101 with RFB       only `vmware-vvc` offered ──► 101 with channels
//! neither offered ──► the connection is closed without an answer
//! ```

use std::sync::Arc;

use http::header::{
    CONNECTION, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::super::Shared;
use super::super::world::ScreenSource;
use super::connection::{Connection, Endpoint};

const BINARY: &str = "binary";
const CHANNELS: &str = "vmware-vvc";

/// The answer to the use of a ticket.
pub enum TicketAnswer {
    Refused(StatusCode),
    /// The connection is closed without an answer.
    Dropped,
    /// The connection is upgraded and then served.
    Accepted {
        protocol: &'static str,
        accept_key: String,
        connection: Box<Connection>,
    },
}

/// Uses a ticket. `text` is the ticket in the path, `headers` are those of the request.
pub fn open_ticket(shared: &Arc<Shared>, text: &str, headers: &HeaderMap) -> TicketAnswer {
    let is_upgrade = has_word(headers, &UPGRADE, "websocket")
        && has_word(headers, &CONNECTION, "upgrade")
        && has_word(headers, &SEC_WEBSOCKET_VERSION, "13");
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_upgrade) else {
        return TicketAnswer::Refused(StatusCode::BAD_REQUEST);
    };
    let offered: Vec<String> = words(headers, &SEC_WEBSOCKET_PROTOCOL).collect();
    let mut state = shared.lock();
    let now = state.world.now().elapsed;
    let Some(ticket) = state.consoles.use_ticket(text, now) else {
        return TicketAnswer::Refused(StatusCode::NOT_FOUND);
    };
    let machine = state.world.machine(&ticket.machine);
    let Some(machine) = machine.filter(|machine| machine.console_epoch == ticket.epoch) else {
        return TicketAnswer::Refused(StatusCode::NOT_FOUND);
    };
    if machine.mks_connections >= machine.max_mks_connections {
        return TicketAnswer::Refused(StatusCode::SERVICE_UNAVAILABLE);
    }
    let is_offered = |protocol: &str| offered.iter().any(|offered| offered == protocol);
    let prefers_channels = state.consoles.quirks.prefers_vvc && is_offered(CHANNELS);
    let (protocol, endpoint) = match &machine.screen_source {
        _ if prefers_channels || (is_offered(CHANNELS) && !is_offered(BINARY)) => {
            (CHANNELS, Endpoint::Channels)
        }
        _ if !is_offered(BINARY) => return TicketAnswer::Dropped,
        ScreenSource::Guest => (BINARY, Endpoint::Screen),
        ScreenSource::Bridge(address) => (BINARY, Endpoint::Bridge(address.clone())),
    };
    let name = machine.name.clone();
    state.world.open_console(&ticket.machine);
    let (number, ended) = state.consoles.open(&ticket.machine);
    let quirks = state.consoles.quirks.clone();
    drop(state);
    shared.notify();
    let connection = Connection {
        shared: Arc::clone(shared),
        machine: ticket.machine,
        name,
        epoch: ticket.epoch,
        number,
        ended,
        quirks,
        endpoint,
        is_abandoned: false,
    };
    TicketAnswer::Accepted {
        protocol,
        accept_key: derive_accept_key(key.as_bytes()),
        connection: Box::new(connection),
    }
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    words(headers, name).any(|found| found == word)
}

/// The words of a header that is a list, in lower case.
fn words(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|word| word.trim().to_ascii_lowercase())
}
