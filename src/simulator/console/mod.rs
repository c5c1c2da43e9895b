//! The consoles of the simulated host: tickets, the WebSocket behind a ticket, the host's own RFB
//! server, pictures of screens, and scan codes.
//!
//! ```text
//! AcquireTicket ──► ticket ──► GET /ticket/<ticket> ──► connection ──┬─► rfb_server ──► guest
//!                     └─ used once, dies after 30 s                  └─► bridge ──► a real server
//! connection ends: power-off, suspend, revert · the client closes · a mishap
//!                  a client that leaves without a close stays counted
//! ```
//! The RFB server shares no code with otter's own codec, because an error in it would pass every
//! test.

mod bridge;
mod client_message;
mod connection;
mod conversation;
mod damage;
mod encodings;
mod endpoint;
mod pixel_format;
mod rfb_server;
mod scan_codes;
mod screen_picture;
mod slices;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::watch;

pub use endpoint::{TicketAnswer, open_ticket};
pub use scan_codes::put_scan_codes;
pub use screen_picture::{encode_bitmap, screen_picture};

use super::value::{Object, Value};
use super::vim_fault::Fault;
use super::world::{Machine, PowerState, World};

/// How long a ticket can be used.
const TICKET_LIFETIME: Duration = Duration::from_secs(30);
/// The maximum number of tickets that wait for their use.
const MAX_TICKETS: usize = 10_000;
/// The privilege that consoles and pictures need.
const CONSOLE_PRIVILEGE: &str = "VirtualMachine.Interact.ConsoleInteract";

/// The tickets and the open consoles of the host.
#[derive(Debug)]
pub struct Consoles {
    /// The SHA-1 thumbprint of the host's certificate, which tickets name.
    thumbprint: String,
    /// How consoles that are opened from now on behave.
    pub quirks: ConsoleQuirks,
    tickets: BTreeMap<String, Ticket>,
    open: BTreeMap<u64, OpenConsole>,
    next_console: u64,
}

/// How consoles behave. The names of the fields are those of scenarios and of the admin endpoint.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleQuirks {
    /// What the first update of a connection contains.
    pub first_update: FirstUpdate,
    /// The maximum number of rectangles in one update, even if the client asks for everything.
    pub rectangles: usize,
    /// The maximum number of bytes in one WebSocket message.
    pub message_bytes: usize,
    /// Whether the host chooses the subprotocol `vmware-vvc` where it is offered.
    pub prefers_vvc: bool,
    /// Whether consoles answer no request for an update, although they stay open.
    pub silent: bool,
    /// How long after a power-on `AcquireTicket` fails.
    pub tickets_after_ms: u64,
    /// Whether consoles stay open when a running machine is reverted to a state in which it runs.
    pub outlive_reverts: bool,
}

/// What the first update of a connection contains.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum FirstUpdate {
    /// A part of the screen, like any other update.
    #[default]
    Part,
    /// A single pixel.
    OnePixel,
    /// The size of the screen and no pixel, for clients that understand it.
    SizeAlone,
    /// A rectangle with an encoding that no client knows.
    UnknownEncoding,
}

/// How a mishap ends a console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleEnd {
    /// The connection ends without a close of the WebSocket.
    Cut,
    /// The host closes the WebSocket.
    Close,
}

/// A ticket for one connection.
#[derive(Debug)]
struct Ticket {
    machine: String,
    /// The count of the machine's consoles that the ticket is for.
    epoch: u64,
    taken_at: Duration,
}

/// A connection that is open now.
#[derive(Debug)]
struct OpenConsole {
    machine: String,
    end: watch::Sender<Option<ConsoleEnd>>,
}

impl Default for ConsoleQuirks {
    fn default() -> Self {
        Self {
            first_update: FirstUpdate::Part,
            rectangles: 4,
            message_bytes: 8_192,
            prefers_vvc: false,
            silent: false,
            tickets_after_ms: 0,
            outlive_reverts: false,
        }
    }
}

impl Consoles {
    /// No tickets and no consoles, on a host whose certificate has this SHA-1 thumbprint.
    pub fn new(thumbprint: String) -> Self {
        Self {
            thumbprint,
            quirks: ConsoleQuirks::default(),
            tickets: BTreeMap::new(),
            open: BTreeMap::new(),
            next_console: 0,
        }
    }

    /// `AcquireTicket`. `text` is the ticket.
    ///
    /// # Errors
    /// `NoPermission` for a role that may only read, `NotSupported` for another type than
    /// `webmks`, `InvalidPowerState` if the machine is not on, `InvalidState` shortly after a
    /// power-on, `MksConnectionLimitReached` if the machine has no connection left.
    pub fn acquire_ticket(
        &mut self,
        world: &World,
        machine: &Machine,
        kind: &str,
        text: String,
    ) -> Result<Value, Fault> {
        check_may_look(world)?;
        if kind != "webmks" {
            return Err(Fault::not_supported());
        }
        check_is_on(machine)?;
        let now = world.now();
        let since_start = machine.booted_at.map_or(Duration::MAX, |booted| {
            now.wall.duration_since(booted).try_into().unwrap_or_default()
        });
        if since_start < Duration::from_millis(self.quirks.tickets_after_ms) {
            return Err(Fault::new(
                "InvalidState",
                "The operation is not allowed in the current state.",
            ));
        }
        if machine.mks_connections >= machine.max_mks_connections {
            let message = "The maximum number of console connections has been reached.";
            return Err(Fault::new("MksConnectionLimitReached", message)
                .with("connectionLimit", machine.max_mks_connections));
        }
        self.tickets.retain(|_, ticket| ticket.is_valid(now.elapsed));
        if self.tickets.len() >= MAX_TICKETS {
            return Err(Fault::new("InvalidState", "There are too many tickets."));
        }
        let answer = Object::new("VirtualMachineTicket")
            .with("ticket", &text)
            .with("cfgFile", &machine.path)
            // A host sets no `host`, and clients often cannot resolve its own name in `url`.
            .with("port", 443)
            .with("sslThumbprint", &self.thumbprint)
            .with("url", format!("wss://{}:443/ticket/{text}", world.host.name));
        let (machine, epoch) = (machine.id.clone(), machine.console_epoch);
        self.tickets.insert(text, Ticket { machine, epoch, taken_at: now.elapsed });
        Ok(Value::Object(answer))
    }

    /// Ends the open consoles of a machine, or all of them.
    pub fn end(&mut self, machine: Option<&str>, how: ConsoleEnd) {
        for console in self.open.values() {
            if machine.is_none_or(|machine| machine == console.machine) {
                console.end.send_replace(Some(how));
            }
        }
    }

    /// The number of consoles of a machine that are open now. Those that clients left without a
    /// close do not count here.
    pub fn open_consoles(&self, machine: &str) -> usize {
        self.open.values().filter(|console| console.machine == machine).count()
    }

    /// Takes a ticket, which is then used up. `None` if there is no such ticket, or it is too old.
    fn use_ticket(&mut self, text: &str, now: Duration) -> Option<Ticket> {
        self.tickets.remove(text).filter(|ticket| ticket.is_valid(now))
    }

    /// Adds an open console. Returns its number, and how it learns of its end.
    fn open(&mut self, machine: &str) -> (u64, watch::Receiver<Option<ConsoleEnd>>) {
        let (end, ended) = watch::channel(None);
        let number = self.next_console;
        self.next_console += 1;
        self.open.insert(number, OpenConsole { machine: machine.to_owned(), end });
        (number, ended)
    }
}

impl Ticket {
    fn is_valid(&self, now: Duration) -> bool {
        now < self.taken_at + TICKET_LIFETIME
    }
}

/// Fails if the role of the account does not allow consoles and pictures.
fn check_may_look(world: &World) -> Result<(), Fault> {
    check_privilege(world, CONSOLE_PRIVILEGE)
}

fn check_privilege(world: &World, privilege: &str) -> Result<(), Fault> {
    if world.rules.read_only_account {
        return Err(Fault::new("NoPermission", "Permission to perform this operation was denied.")
            .with("object", super::value::Moref::new("Folder", "ha-folder-vm"))
            .with("privilegeId", privilege));
    }
    Ok(())
}

fn check_is_on(machine: &Machine) -> Result<(), Fault> {
    match machine.power {
        PowerState::On => Ok(()),
        _ => Err(Fault::invalid_power_state(Some("poweredOn"), machine.power.as_str())),
    }
}
