//! Tests of the consoles: tickets, the WebSocket behind them, the host's RFB server, pictures and
//! scan codes. The RFB client is written here and shares nothing with otter's.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use otter::simulator::{ConsoleEnd, ConsoleQuirks, FirstUpdate, HostChange, ScreenStage};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::*;

/// A machine that is on and shows the login.
const ON: &str = "17";
/// A machine that is off.
const OFF: &str = "16";
const RAW: i32 = 0;
const SIZES: i32 = -223;
const VMWARE_CURSOR: i32 = 0x574d_5664;

/// A client of a console. It knows Raw and the pseudo-encoding of sizes.
struct Console {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    received: Vec<u8>,
    size: (usize, usize),
    /// Four bytes for each pixel.
    pixels: Vec<u8>,
    is_painted: Vec<bool>,
}

/// A rectangle of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rectangle {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    encoding: i32,
}

/// How a console ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    Cut,
}

impl Lab {
    async fn acquire_ticket(&self, machine: &str) -> Reply {
        let kind = "<ticketType>webmks</ticketType>";
        self.call("AcquireTicket", "VirtualMachine", machine, kind).await
    }

    async fn ticket(&self, machine: &str) -> String {
        let reply = self.acquire_ticket(machine).await;
        reply.returned().child_text("ticket").unwrap().to_owned()
    }

    /// Uses a ticket. Fails with the status of the answer; 0 if there is none.
    async fn open(
        &self,
        ticket: &str,
        protocols: &str,
    ) -> Result<(WebSocketStream<TlsStream<TcpStream>>, String), u16> {
        let mut roots = rustls::RootCertStore::empty();
        let pem = self.simulator.certificate_pem();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.simulator.address()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = tls.connect(name, stream).await.unwrap();
        let url = format!("wss://localhost/ticket/{ticket}");
        let mut request = url.into_client_request().unwrap();
        if !protocols.is_empty() {
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocols.parse().unwrap());
        }
        match bounded(Box::pin(tokio_tungstenite::client_async(request, stream))).await {
            Ok((socket, answer)) => {
                let chosen = answer.headers()["Sec-WebSocket-Protocol"].to_str().unwrap();
                Ok((socket, chosen.to_owned()))
            }
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(_) => Err(0),
        }
    }

    /// A console of a machine whose client has offered these encodings.
    async fn console(&self, machine: &str, encodings: &[i32]) -> Console {
        let (socket, protocol) = self.open(&self.ticket(machine).await, "binary").await.unwrap();
        assert_eq!(protocol, "binary");
        Console::shake_hands(socket, encodings).await
    }

    fn counted(&self, machine: &str) -> i32 {
        self.control().look(|world| world.machine(machine).unwrap().mks_connections)
    }

    async fn until_counted(&self, machine: &str, count: i32) {
        let control = self.control();
        let is_counted = |control: &Control| {
            control.look(|world| world.machine(machine).unwrap().mks_connections) == count
        };
        bounded(control.until(is_counted)).await;
    }

    fn quirks(&self, quirks: ConsoleQuirks) {
        self.control().apply(HostChange::ConsoleQuirks(quirks));
    }

    fn stage(&self, machine: &str) -> ScreenStage {
        self.control().screen(machine).map_or(ScreenStage::Off, |screen| screen.stage)
    }
}

impl Console {
    async fn shake_hands(socket: WebSocketStream<TlsStream<TcpStream>>, encodings: &[i32]) -> Self {
        let mut console = Self {
            socket,
            received: Vec::new(),
            size: (0, 0),
            pixels: Vec::new(),
            is_painted: Vec::new(),
        };
        assert_eq!(console.read(12).await, b"RFB 003.008\n");
        console.send(b"RFB 003.008\n").await;
        assert_eq!(console.read(2).await, [1, 1]);
        console.send(&[1]).await;
        assert_eq!(console.read(4).await, [0; 4]);
        console.send(&[1]).await;
        let size = (console.number(2).await, console.number(2).await);
        let format = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        assert_eq!(console.read(16).await, format);
        let length = console.number(4).await;
        assert!(!console.read(length).await.is_empty(), "the name");
        console.set_size(size);
        let mut message = vec![2, 0, 0, u8::try_from(encodings.len()).unwrap()];
        message.extend(encodings.iter().flat_map(|encoding| encoding.to_be_bytes()));
        console.send(&message).await;
        console
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.socket.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
    }

    async fn receive(&mut self) -> Option<Vec<u8>> {
        match bounded(self.socket.next()).await {
            Some(Ok(Message::Binary(bytes))) => Some(bytes.to_vec()),
            Some(Ok(Message::Close(_))) => None,
            other => panic!("{other:?}"),
        }
    }

    async fn read(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            let more = self.receive().await.expect("the console to be open");
            self.received.extend(more);
        }
        self.received.drain(..length).collect()
    }

    async fn number(&mut self, length: usize) -> usize {
        self.read(length).await.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    fn set_size(&mut self, size: (usize, usize)) {
        self.size = size;
        self.pixels = vec![0; size.0 * size.1 * 4];
        self.is_painted = vec![false; size.0 * size.1];
    }

    /// Asks for an update of the whole screen.
    async fn request(&mut self, is_incremental: bool) {
        let (width, height) = self.size;
        self.request_part(is_incremental, (width, height)).await;
    }

    async fn request_part(&mut self, is_incremental: bool, (width, height): (usize, usize)) {
        let mut message = vec![3, u8::from(is_incremental), 0, 0, 0, 0];
        for number in [width, height] {
            message.extend(u16::try_from(number).unwrap().to_be_bytes());
        }
        self.send(&message).await;
    }

    /// Reads an update. Returns its rectangles. Those beyond the screen are not painted.
    async fn update(&mut self) -> Vec<Rectangle> {
        assert_eq!(self.read(2).await[0], 0, "an update");
        let count = self.number(2).await;
        let mut rectangles = Vec::new();
        for _ in 0..count {
            let (x, y) = (self.number(2).await, self.number(2).await);
            let (width, height) = (self.number(2).await, self.number(2).await);
            let encoding = self.read(4).await.try_into().unwrap();
            let encoding = i32::from_be_bytes(encoding);
            match encoding {
                RAW => {
                    let pixels = self.read(width * height * 4).await;
                    for (row, line) in pixels.chunks(width * 4).enumerate() {
                        self.paint(x, y + row, line);
                    }
                }
                SIZES => self.set_size((width, height)),
                unknown => panic!("the encoding {unknown}"),
            }
            rectangles.push(Rectangle { x, y, width, height, encoding });
        }
        rectangles
    }

    fn paint(&mut self, x: usize, y: usize, line: &[u8]) {
        let (width, height) = self.size;
        for (column, pixel) in (x..width).zip(line.chunks(4)) {
            if y < height {
                let at = y * width + column;
                self.is_painted[at] = true;
                self.pixels[at * 4..at * 4 + 4].copy_from_slice(pixel);
            }
        }
    }

    /// Asks again until the whole screen is painted. Returns all rectangles.
    async fn paint_all(&mut self) -> Vec<Rectangle> {
        let mut rectangles = Vec::new();
        self.is_painted.fill(false);
        self.request(false).await;
        loop {
            rectangles.extend(self.update().await);
            if self.is_painted.iter().all(|painted| *painted) {
                return rectangles;
            }
            self.request(true).await;
        }
    }

    async fn key(&mut self, keysym: u32, is_down: bool) {
        let mut message = vec![4, u8::from(is_down), 0, 0];
        message.extend(keysym.to_be_bytes());
        self.send(&message).await;
    }

    async fn type_keys(&mut self, keysyms: impl IntoIterator<Item = u32>) {
        for keysym in keysyms {
            self.key(keysym, true).await;
            self.key(keysym, false).await;
        }
    }

    /// Waits for the end of the console.
    async fn end(mut self) -> End {
        loop {
            match bounded(self.socket.next()).await {
                Some(Ok(Message::Close(_))) => return End::Closed,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return End::Cut,
            }
        }
    }

    /// Closes the WebSocket, as a careful client does.
    async fn close(mut self) {
        self.socket.close(None).await.unwrap();
        while let Some(Ok(_)) = bounded(self.socket.next()).await {}
    }
}

fn keysyms(text: &str) -> Vec<u32> {
    text.chars().map(u32::from).collect()
}

const ENTER: u32 = 0xff0d;

#[tokio::test]
async fn a_ticket_names_a_host_that_clients_cannot_resolve() {
    let lab = Lab::stepped().await;
    let reply = lab.acquire_ticket(ON).await;
    let ticket = reply.returned();
    let text = |name| ticket.child_text(name);
    let hex = text("ticket").unwrap();
    assert!(hex.len() == 16 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()), "{hex}");
    assert_eq!(text("cfgFile"), Some("[datastore1] qubes-4.2-sdw-prod/qubes-4.2-sdw-prod.vmx"));
    assert_eq!((text("host"), text("port")), (None, Some("443")));
    assert_eq!(text("sslThumbprint").unwrap().split(':').count(), 20);
    assert_eq!(text("url").unwrap(), format!("wss://esx-lab.example.org:443/ticket/{hex}"));

    let refused = lab.acquire_ticket(OFF).await.fault();
    assert_eq!(refused.as_deref(), Some("InvalidPowerState"));
    let kind = "<ticketType>device</ticketType>";
    let refused = lab.call("AcquireTicket", "VirtualMachine", ON, kind).await.fault();
    assert_eq!(refused.as_deref(), Some("NotSupported"));
    lab.control().set_read_only_licence(true);
    assert_eq!(lab.acquire_ticket(ON).await.fault(), None, "consoles need no licence");
    lab.control().set_read_only_account(true);
    assert_eq!(lab.acquire_ticket(ON).await.fault().as_deref(), Some("NoPermission"));
}

#[tokio::test]
async fn a_ticket_opens_one_connection_within_30_seconds() {
    let lab = Lab::stepped().await;
    let (used, late, dropped) = (lab.ticket(ON).await, lab.ticket(ON).await, lab.ticket(ON).await);
    let first = lab.open(&used, "binary").await.unwrap();
    assert_eq!(lab.open(&used, "binary").await.err(), Some(404));
    assert_eq!(lab.open(&dropped, "").await.err(), Some(0), "no subprotocol");
    assert_eq!(lab.open(&dropped, "binary").await.err(), Some(404), "it was used up");
    assert_eq!(lab.open("0123456789abcdef", "binary").await.err(), Some(404));
    lab.clock.advance(Duration::from_secs(30));
    assert_eq!(lab.open(&late, "binary").await.err(), Some(404));
    assert_eq!(lab.control().calls("/ticket"), 6);
    let plain = lab.client.get(format!("{}/ticket/x", lab.simulator.url())).send().await.unwrap();
    assert_eq!(plain.status(), 400);
    drop(first);
}

#[tokio::test]
async fn a_ticket_of_an_earlier_power_state_is_refused() {
    let lab = Lab::stepped().await;
    let ticket = lab.ticket(ON).await;
    lab.run_task("SuspendVM_Task", ON, "").await;
    assert_eq!(lab.open(&ticket, "binary").await.err(), Some(404));
    lab.run_task("PowerOnVM_Task", ON, "").await;
    assert_eq!(lab.open(&ticket, "binary").await.err(), Some(404));
}

#[tokio::test]
async fn tickets_can_fail_after_a_power_on() {
    let lab = Lab::stepped().await;
    lab.quirks(ConsoleQuirks { tickets_after_ms: 5_000, ..ConsoleQuirks::default() });
    lab.run_task("PowerOnVM_Task", OFF, "").await;
    assert_eq!(lab.acquire_ticket(OFF).await.fault().as_deref(), Some("InvalidState"));
    lab.clock.advance(Duration::from_secs(5));
    assert_eq!(lab.acquire_ticket(OFF).await.fault(), None);
}

#[tokio::test]
async fn the_other_subprotocol_is_not_rfb() {
    let lab = Lab::stepped().await;
    let offers = ["vmware-vvc", "binary, vmware-vvc"];
    for (prefers_vvc, offer, expected) in [
        (false, offers[0], "vmware-vvc"),
        (false, offers[1], "binary"),
        (true, offers[1], "vmware-vvc"),
    ] {
        lab.quirks(ConsoleQuirks { prefers_vvc, ..ConsoleQuirks::default() });
        let (mut socket, protocol) = lab.open(&lab.ticket(ON).await, offer).await.unwrap();
        assert_eq!(protocol, expected, "{offer}");
        let first = bounded(socket.next()).await.unwrap().unwrap().into_data();
        assert_eq!(first.starts_with(b"R"), expected == "binary");
    }
}

#[tokio::test]
async fn a_login_by_keys_shows_the_desktop_after_a_resize_alone() {
    let lab = Lab::stepped().await;
    let mut console = lab.console(ON, &[RAW, SIZES]).await;
    assert_eq!(console.size, (800, 600));
    console.paint_all().await;
    assert_eq!(console.pixels, lab.control().screen(ON).unwrap().pixels);

    console.request(true).await;
    console.type_keys(keysyms("otter").into_iter().chain([ENTER])).await;
    let resize = loop {
        let rectangles = console.update().await;
        console.request(true).await;
        if rectangles.iter().any(|rectangle| rectangle.encoding == SIZES) {
            break rectangles;
        }
    };
    assert_eq!(resize.len(), 1, "the new size comes without pixels");
    assert_eq!(console.size, (1280, 1024));
    let mut tiles = Vec::new();
    let mut updates = 0;
    while console.is_painted.contains(&false) {
        tiles.extend(console.update().await);
        updates += 1;
        console.request(true).await;
    }
    assert!(updates > 1, "an update has a part of the screen only");
    assert!(tiles.iter().all(|tile| tile.width <= 512 && tile.height <= 512), "{tiles:?}");
    let screen = lab.control().screen(ON).unwrap();
    assert_eq!(console.pixels, screen.pixels);
    assert!(screen.lines[0].contains("Applications") && screen.lines[0].contains("user"));
}

#[tokio::test]
async fn nothing_comes_while_nothing_changes_and_a_probe_is_answered() {
    let lab = Lab::stepped().await;
    lab.control().show_screen(ON, ScreenStage::Desktop);
    let mut console = lab.console(ON, &[RAW, SIZES]).await;
    console.paint_all().await;
    console.request(true).await;
    let nothing = tokio::time::timeout(Duration::from_millis(300), console.socket.next()).await;
    assert!(nothing.is_err());
    console.request_part(false, (16, 16)).await;
    let probe = Rectangle { x: 0, y: 0, width: 16, height: 16, encoding: RAW };
    assert_eq!(console.update().await, [probe]);
    // The clock of the desktop shows the next second.
    console.request(true).await;
    lab.clock.advance(Duration::from_secs(1));
    let changed = console.update().await;
    assert_eq!(changed.len(), 1);
    let Rectangle { x, y, width, height, .. } = changed[0];
    assert!(x % 16 == 0 && y == 0 && width % 16 == 0 && height <= 32, "{changed:?}");
    assert_eq!(console.pixels, lab.control().screen(ON).unwrap().pixels);
}

#[tokio::test]
async fn the_first_update_can_be_a_pixel_a_size_or_rubbish() {
    let lab = Lab::stepped().await;
    for first_update in [FirstUpdate::OnePixel, FirstUpdate::SizeAlone] {
        lab.quirks(ConsoleQuirks { first_update, ..ConsoleQuirks::default() });
        let mut console = lab.console(ON, &[RAW, SIZES]).await;
        let all = console.paint_all().await;
        match first_update {
            FirstUpdate::OnePixel => assert_eq!((all[0].width, all[0].height), (1, 1)),
            _ => assert_eq!((all[0].encoding, all[0].width, all[0].height), (SIZES, 800, 600)),
        }
        assert_eq!(console.pixels, lab.control().screen(ON).unwrap().pixels);
    }
    let first_update = FirstUpdate::UnknownEncoding;
    lab.quirks(ConsoleQuirks { first_update, ..ConsoleQuirks::default() });
    let mut console = lab.console(ON, &[RAW, SIZES]).await;
    console.request(false).await;
    let update = console.read(16).await;
    assert_eq!(update[12..], 0x7a7a_7a7a_u32.to_be_bytes());
}

#[tokio::test]
async fn a_client_that_knows_no_sizes_gets_rectangles_beyond_its_screen() {
    let lab = Lab::stepped().await;
    let mut console = lab.console(ON, &[RAW]).await;
    lab.control().show_screen(ON, ScreenStage::Desktop);
    let mut beyond = false;
    for _ in 0..2 {
        console.request(false).await;
        beyond |= console.update().await.iter().any(|tile| tile.x + tile.width > 800);
    }
    assert!(beyond);
    assert_eq!(console.size, (800, 600));
}

#[tokio::test]
async fn messages_of_vmware_come_only_to_clients_that_offer_its_encodings() {
    let lab = Lab::stepped().await;
    lab.control().show_screen(ON, ScreenStage::Terminal);
    let mut console = lab.console(ON, &[RAW, SIZES, VMWARE_CURSOR]).await;
    assert_eq!(console.read(8).await, [127, 0, 0, 8, 0, 0, 0, 0]);
    // The scan code of `a`, down and up.
    console.send(&[127, 0, 0, 8, 0, 0x1e, 1, 0, 127, 0, 0, 8, 0, 0x1e, 0, 0]).await;
    bounded(lab.control().until(|control| control.shows(ON, "$ a"))).await;
    let mut console = lab.console(ON, &[RAW, SIZES]).await;
    console.send(&[127, 0, 0, 8, 0, 0x30, 1, 0]).await;
    console.request(false).await;
    assert_ne!(console.update().await, []);
    assert!(!lab.control().shows(ON, "$ ab"));
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_closed() {
    let lab = Lab::stepped().await;
    let mut console = lab.console(ON, &[RAW]).await;
    console.send(&[99, 1, 2, 3]).await;
    assert_eq!(console.end().await, End::Closed);
    lab.until_counted(ON, 0).await;
}

#[tokio::test]
async fn a_quirk_lets_a_console_outlive_a_revert() {
    let lab = Lab::stepped().await;
    lab.quirks(ConsoleQuirks { outlive_reverts: true, ..ConsoleQuirks::default() });
    let mut console = lab.console(ON, &[RAW, SIZES]).await;
    console.paint_all().await;
    let task =
        lab.call("RevertToSnapshot_Task", "VirtualMachineSnapshot", "17-snapshot-3", "").await;
    lab.finish(task.returned().text()).await;
    console.request(true).await;
    assert_eq!(console.update().await[0].encoding, SIZES);
    assert_eq!(console.size, (1280, 1024), "the desktop of the snapshot");
    assert_eq!(lab.counted(ON), 1);
}

#[tokio::test]
async fn power_off_suspend_and_revert_close_consoles_and_a_reset_does_not() {
    let lab = Lab::stepped().await;
    let mut console = lab.console(ON, &[RAW, SIZES]).await;
    lab.run_task("ResetVM_Task", ON, "").await;
    console.request(false).await;
    assert_eq!(console.update().await[0].encoding, SIZES);
    assert_eq!(console.size, (720, 400), "the guest starts again on the same console");
    assert_eq!(lab.stage(ON), ScreenStage::Firmware);
    lab.run_task("SuspendVM_Task", ON, "").await;
    assert_eq!(console.end().await, End::Closed);
    lab.run_task("PowerOnVM_Task", ON, "").await;
    assert_eq!(lab.stage(ON), ScreenStage::Firmware, "a resume goes on where it was");

    let console = lab.console(ON, &[RAW, SIZES]).await;
    assert_eq!(lab.counted(ON), 1);
    let task =
        lab.call("RevertToSnapshot_Task", "VirtualMachineSnapshot", "17-snapshot-3", "").await;
    lab.finish(task.returned().text()).await;
    assert_eq!(console.end().await, End::Closed);
    assert_eq!(lab.counted(ON), 0);
    assert_eq!(lab.stage(ON), ScreenStage::Desktop, "the snapshot was made of a desktop");

    let console = lab.console(ON, &[RAW, SIZES]).await;
    lab.run_task("PowerOffVM_Task", ON, "").await;
    assert_eq!(console.end().await, End::Closed);
    assert_eq!(lab.stage(ON), ScreenStage::Off);
}

#[tokio::test]
async fn a_snapshot_with_memory_keeps_the_screen_and_brings_it_back() {
    let lab = Lab::stepped().await;
    lab.control().show_screen(ON, ScreenStage::Terminal);
    let mut console = lab.console(ON, &[RAW, SIZES]).await;
    console.type_keys(keysyms("before")).await;
    bounded(lab.control().until(|control| control.shows(ON, "$ before"))).await;
    let parameters = "<name>typed</name><memory>true</memory><quiesce>false</quiesce>";
    lab.run_task("CreateSnapshot_Task", ON, parameters).await;
    console.type_keys(keysyms("-after")).await;
    bounded(lab.control().until(|control| control.shows(ON, "$ before-after"))).await;
    let picture = lab.picture("id=17-snapshot-4").await;
    let task =
        lab.call("RevertToSnapshot_Task", "VirtualMachineSnapshot", "17-snapshot-4", "").await;
    lab.finish(task.returned().text()).await;
    let lines = lab.control().screen(ON).unwrap().lines;
    assert!(lines.iter().any(|line| line == "[user@dom0 ~]$ before"), "{lines:?}");
    assert_eq!(picture, lab.picture("id=17").await);
    assert_eq!(console.end().await, End::Closed);
}

#[tokio::test]
async fn connections_are_counted_up_to_the_limit_and_cut_ones_stay_counted() {
    let lab = Lab::stepped().await;
    lab.control().mutate(|world| world.machine_mut(ON).unwrap().max_mks_connections = 2);
    let config = lab.fetch("VirtualMachine", ON, "config").await;
    assert_eq!(config.returned().child_text("maxMksConnections"), Some("2"));
    let (first, second) = (lab.console(ON, &[RAW]).await, lab.console(ON, &[RAW]).await);
    let runtime = lab.fetch("VirtualMachine", ON, "runtime").await;
    assert_eq!(runtime.returned().child_text("numMksConnections"), Some("2"));
    let refused = lab.acquire_ticket(ON).await;
    assert_eq!(refused.fault().as_deref(), Some("MksConnectionLimitReached"));

    first.close().await;
    lab.until_counted(ON, 1).await;
    drop(second);
    bounded(lab.control().until(|control| control.open_consoles(ON) == 0)).await;
    assert_eq!(lab.counted(ON), 1, "it was left without a close");
    lab.control().apply(HostChange::AbandonConsoles { machine: ON.to_owned(), count: 1 });
    let refused = lab.acquire_ticket(ON).await;
    assert_eq!(refused.fault().as_deref(), Some("MksConnectionLimitReached"));
    lab.control().apply(HostChange::ForgetAbandonedConsoles);
    assert_eq!(lab.counted(ON), 0);
    assert_eq!(lab.acquire_ticket(ON).await.fault(), None);
}

#[tokio::test]
async fn mishaps_end_or_silence_consoles() {
    let lab = Lab::stepped().await;
    for (how, end) in [(ConsoleEnd::Cut, End::Cut), (ConsoleEnd::Close, End::Closed)] {
        let console = lab.console(ON, &[RAW]).await;
        lab.control().end_consoles(ON, how);
        assert_eq!(console.end().await, end);
        lab.until_counted(ON, 0).await;
    }
    let mut console = lab.console(ON, &[RAW]).await;
    console.paint_all().await;
    lab.quirks(ConsoleQuirks { silent: true, ..ConsoleQuirks::default() });
    console.request_part(false, (16, 16)).await;
    let nothing = tokio::time::timeout(Duration::from_millis(300), console.socket.next()).await;
    assert!(nothing.is_err());
    lab.quirks(ConsoleQuirks::default());
    assert_eq!(console.update().await.len(), 1);
}

#[tokio::test]
async fn a_planned_fault_disrupts_the_use_of_a_ticket() {
    let lab = Lab::stepped().await;
    lab.control().disrupt_next("/ticket", Disruption::CloseBeforeRunning);
    let ticket = lab.ticket(ON).await;
    assert_eq!(lab.open(&ticket, "binary").await.err(), Some(0));
    assert!(lab.open(&ticket, "binary").await.is_ok(), "the ticket was not used");
}

#[tokio::test]
async fn a_pointer_clicks_and_held_keys_stay_held_after_the_end_of_a_console() {
    let lab = Lab::stepped().await;
    lab.control().show_screen(ON, ScreenStage::Desktop);
    let mut console = lab.console(ON, &[RAW, SIZES]).await;
    for buttons in [0, 1, 0] {
        console.send(&[5, buttons, 0, 50, 0, 10]).await;
    }
    bounded(lab.control().until(|control| control.shows(ON, "Log Out"))).await;
    console.key(0xffe1, true).await;
    bounded(lab.control().until(|control| !control.screen(ON).unwrap().held_keys.is_empty())).await;
    console.close().await;
    lab.until_counted(ON, 0).await;
    assert_eq!(lab.control().screen(ON).unwrap().held_keys, [0xe1], "Shift is stuck");
}

#[tokio::test]
async fn a_bridged_console_carries_the_bytes_of_a_real_server() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let text = include_str!("../../config/lab.toml").replace(
        "name = \"qubes-4.2-sdw-prod\"",
        &format!("name = \"qubes-4.2-sdw-prod\"\nscreen = \"tcp:{address}\""),
    );
    let mut lab = Lab::start(Scenario::from_toml(&text).unwrap()).await;
    lab.log_in().await;
    let (mut socket, _) = lab.open(&lab.ticket(ON).await, "binary").await.unwrap();
    let (mut peer, _) = bounded(server.accept()).await.unwrap();
    let sent: Vec<u8> = (0..40_000_u32).flat_map(u32::to_be_bytes).collect();
    peer.write_all(&sent).await.unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        received.extend(bounded(socket.next()).await.unwrap().unwrap().into_data());
    }
    assert_eq!(received, sent);
    socket.send(Message::Binary(b"RFB".to_vec().into())).await.unwrap();
    let mut back = [0; 3];
    bounded(peer.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"RFB");
    drop(peer);
    assert!(matches!(bounded(socket.next()).await, Some(Ok(Message::Close(_)))));
}

impl Lab {
    async fn get_screen(&self, query: &str) -> reqwest::Response {
        let mut request = self.client.get(format!("{}/screen?{query}", self.simulator.url()));
        if let Some(cookie) = &self.cookie {
            request = request.header("Cookie", cookie);
        }
        bounded(request.send()).await.unwrap()
    }

    /// The width, the height and the pixels of a picture.
    async fn picture(&self, query: &str) -> (u32, u32, Vec<u8>) {
        let answer = self.get_screen(query).await;
        assert_eq!(answer.status(), 200, "{query}");
        assert_eq!(answer.headers()["content-type"], "image/png");
        let png = answer.bytes().await.unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        (reader.info().width, reader.info().height, pixels)
    }
}

#[tokio::test]
async fn pictures_show_machines_and_snapshots_with_memory() {
    let mut lab = Lab::stepped().await;
    let (width, height, pixels) = lab.picture("id=17").await;
    assert_eq!((width, height), (800, 600));
    let screen = lab.control().screen(ON).unwrap();
    let is_same = pixels
        .chunks(3)
        .zip(screen.pixels.chunks(4))
        .all(|(rgb, bgr)| [rgb[2], rgb[1], rgb[0]] == bgr[..3]);
    assert!(is_same);
    let (width, height, _) = lab.picture("id=17&left=250&top=200&right=550&bottom=400").await;
    assert_eq!((width, height), (300, 200));
    let (width, height, _) = lab.picture("id=17-snapshot-3&width=640").await;
    assert_eq!((width, height), (640, 512));
    for (query, status) in [
        ("id=17-snapshot-1", 404),
        ("id=16", 500),
        ("id=99", 404),
        ("id=17&left=800", 400),
        ("id=17&left=x", 400),
        ("", 400),
    ] {
        assert_eq!(lab.get_screen(query).await.status(), status, "{query}");
    }
    lab.control().set_read_only_account(true);
    assert_eq!(lab.get_screen("id=17").await.status(), 403);
    lab.control().set_read_only_account(false);
    lab.cookie = None;
    let refused = lab.get_screen("id=17").await;
    assert_eq!(refused.status(), 401);
    assert!(refused.headers().contains_key("www-authenticate"));
    let url = format!("{}/screen?id=17", lab.simulator.url());
    let basic = lab.client.get(url).basic_auth("root", Some("otter")).send().await.unwrap();
    assert_eq!(basic.status(), 200);
    assert_eq!(lab.control().calls("/screen"), 12);
}

#[tokio::test]
async fn scan_codes_type_and_long_calls_lose_keys() {
    let lab = Lab::stepped().await;
    lab.control().show_screen(ON, ScreenStage::Terminal);
    let stroke = |usage: i32, modifiers: &str| {
        let code = usage << 16 | 7;
        format!("<keyEvents><usbHidCode>{code}</usbHidCode>{modifiers}</keyEvents>")
    };
    let put = async |events: String| {
        let parameters = format!("<spec>{events}</spec>");
        lab.call("PutUsbScanCodes", "VirtualMachine", ON, &parameters).await
    };
    let shift = "<modifiers><leftShift>true</leftShift></modifiers>";
    let reply = put(stroke(0x0b, shift) + &stroke(0x0c, "")).await;
    assert_eq!(reply.returned().text(), "2");
    assert!(lab.control().shows(ON, "$ Hi"));
    let reply = put(stroke(0x04, "").repeat(40)).await;
    assert_eq!(reply.returned().text(), "40");
    assert!(lab.control().shows(ON, &format!("$ Hi{}", "a".repeat(32))));
    assert!(!lab.control().shows(ON, &"a".repeat(33)));
    let wrong = put("<keyEvents><usbHidCode>4</usbHidCode></keyEvents>".to_owned()).await;
    assert_eq!(wrong.fault().as_deref(), Some("InvalidArgument"));
    lab.control().set_read_only_licence(true);
    let refused = put(stroke(0x04, "")).await;
    assert_eq!(refused.fault().as_deref(), Some("RestrictedVersion"));
}

#[tokio::test]
async fn a_screenshot_is_a_task_and_leaves_a_file() {
    let lab = Lab::stepped().await;
    let task = lab.start_task("CreateScreenshot_Task", ON, "").await;
    assert_eq!(
        lab.call("ResetVM_Task", "VirtualMachine", ON, "").await.fault().as_deref(),
        Some("TaskInProgress")
    );
    lab.control().finish_task(&task);
    let info = lab.fetch("Task", &task, "info").await;
    let path = "[datastore1] qubes-4.2-sdw-prod/qubes-4.2-sdw-prod-1.png";
    assert_eq!(info.returned().child_text("result"), Some(path));
    let layout = lab.fetch("VirtualMachine", ON, "layoutEx").await;
    let files = layout.returned();
    let mut names = files.children_named("file").filter_map(|file| file.child_text("name"));
    assert!(names.any(|name| name == path));
    let (state, fault) = lab.run_task("CreateScreenshot_Task", OFF, "").await;
    assert_eq!((&*state, fault.as_deref()), ("error", Some("InvalidPowerState")));
}

#[tokio::test]
async fn the_admin_endpoint_tells_what_a_guest_shows() {
    let mut lab = Lab::with(Scenario::lab().unwrap(), |options| {
        options.admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    lab.log_in().await;
    let admin = format!("http://{}", lab.simulator.admin().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let post = async |path: &str, body: serde_json::Value| {
        let sent = client.post(format!("{admin}{path}")).body(body.to_string()).send().await;
        assert_eq!(sent.unwrap().status(), 200, "{path}");
    };
    let get = async |machine: &str| -> serde_json::Value {
        let sent = client.get(format!("{admin}/screens/{machine}")).send().await;
        serde_json::from_str(&sent.unwrap().text().await.unwrap()).unwrap()
    };
    post("/show-screen", json!({"machine": ON, "stage": "terminal"})).await;
    post("/abandon-consoles", json!({"machine": ON, "count": 3})).await;
    let screen = get(ON).await;
    assert_eq!((&screen["stage"], &screen["width"]), (&json!("terminal"), &json!(1280)));
    assert_eq!(screen["consoles"], json!({"open": 0, "counted": 3}));
    assert!(screen["lines"].to_string().contains("Terminal - user@dom0"));
    assert_eq!(get(OFF).await["stage"], "off");
    assert!(get("99").await["error"].is_string());
    post("/console-quirks", json!({"rectangles": 1, "first_update": "one-pixel"})).await;
    let mut console = lab.console(ON, &[RAW]).await;
    console.request(false).await;
    assert_eq!(console.update().await.len(), 1);
    lab.clock.advance(Duration::from_secs(2));
    console.key(ENTER, true).await;
    bounded(lab.control().until(|control| !control.screen(ON).unwrap().held_keys.is_empty())).await;
    let pressed_at = lab.clock.now().to_string();
    lab.clock.advance(Duration::from_millis(100));
    assert_eq!(get(ON).await["last_input_at"], pressed_at);
}
