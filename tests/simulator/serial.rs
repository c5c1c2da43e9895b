//! Tests of the serial ports: listeners, the login behind them, concentrators, pipes, files, and
//! the mishaps of connections. The telnet peers are written here and share nothing with otter's.

use std::io::ErrorKind;
use std::path::Path;

use otter::simulator::world::{SerialBacking, SerialPort};
use otter::simulator::{
    GUEST_PASSWORD, HostChange, PortChange, ScreenStage, SecondClient, SerialChange, SerialStatus,
};
use reqwest::header::{CONTENT_RANGE, RANGE};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A machine that is off, and whose first snapshot has no memory.
const OFF: &str = "16";
const PORT: &str = "ttyS0";
const PROMPT: &str = "[user@dom0 ~]$ ";
const LOGIN: &str = "dom0 login: ";
const FILE: &str = "[scratch] logs/a b.txt";
/// What a listening machine proposes: WILL ECHO, SUPPRESS-GO-AHEAD and BINARY, and DO BINARY.
const PROPOSALS: [u8; 12] = [255, 251, 1, 255, 251, 3, 255, 251, 0, 255, 253, 0];
/// DO ECHO, DO SUPPRESS-GO-AHEAD, DO BINARY, and WILL BINARY.
const AGREEMENT: [u8; 12] = [255, 253, 1, 255, 253, 3, 255, 253, 0, 255, 251, 0];
/// Longer than the start of a guest.
const START: Duration = Duration::from_secs(10);

/// What is at the other end of a port.
struct Peer<S> {
    stream: S,
    received: Vec<u8>,
}

/// How a connection ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

impl Lab {
    /// The lab in which the machine 16 has these serial ports.
    async fn with_ports(backings: impl IntoIterator<Item = SerialBacking>) -> Self {
        let ports = (9_000..).zip(backings).map(|(key, backing)| SerialPort::new(key, backing));
        let ports: Vec<SerialPort> = ports.collect();
        Self::with_machine(|machine| machine.serial_ports = ports).await
    }

    async fn with_machine(change: impl FnOnce(&mut world::Machine)) -> Self {
        let mut scenario = Scenario::lab().unwrap();
        let machine = scenario.machines.iter_mut().find(|machine| machine.id == OFF);
        change(machine.unwrap());
        let mut lab = Self::start(scenario).await;
        lab.log_in().await;
        lab
    }

    async fn run(&self, method: &str) {
        assert_eq!(self.run_task(method, OFF, "").await.0, "success", "{method}");
    }

    /// Powers the machine on, and lets its guest start.
    async fn boot(&self) {
        self.run("PowerOnVM_Task").await;
        self.clock.advance(START);
    }

    fn port(&self, port: &str) -> SerialStatus {
        self.control().serial_port(OFF, port).unwrap()
    }

    async fn until_port(&self, condition: impl Fn(&SerialStatus) -> bool) -> SerialStatus {
        let fits = |control: &Control| condition(&control.serial_port(OFF, PORT).unwrap());
        bounded(self.control().until(fits)).await;
        self.port(PORT)
    }

    /// Connects to the first port, once it listens.
    async fn connect(&self) -> Peer<TcpStream> {
        let status = self.until_port(|status| status.is_listening && !status.is_connected).await;
        let stream = TcpStream::connect(status.address.unwrap()).await.unwrap();
        self.until_port(|status| status.is_connected).await;
        Peer::new(stream)
    }

    /// How a new connection to the first port is refused.
    async fn refusal(&self) -> ErrorKind {
        let address = self.port(PORT).address.unwrap();
        TcpStream::connect(address).await.unwrap_err().kind()
    }

    fn change(&self, change: PortChange) {
        self.control().change_serial_port(OFF, PORT, change);
    }

    /// Asks for a file of a datastore. Returns the status, the range and the content.
    async fn file(&self, path: &str, range: Option<&str>) -> (u16, String, Vec<u8>) {
        let url = format!("{}/folder/{path}", self.simulator.url());
        let mut request = self.client.get(url).header("Cookie", self.cookie.as_ref().unwrap());
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        let answer = request.send().await.unwrap();
        let range = answer.headers().get(CONTENT_RANGE).map(|range| range.to_str().unwrap());
        let (status, range) = (answer.status().as_u16(), range.unwrap_or_default().to_owned());
        (status, range, answer.bytes().await.unwrap().to_vec())
    }

    /// Waits until the file of the datastore contains a text.
    async fn until_file(&self, text: &str) {
        let has = |control: &Control| {
            let content = control.look(|world| world.file_bytes(FILE));
            String::from_utf8_lossy(&content.unwrap_or_default()).contains(text)
        };
        bounded(self.control().until(has)).await;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    const fn new(stream: S) -> Self {
        Self { stream, received: Vec::new() }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn read(&mut self, length: usize) -> Vec<u8> {
        while self.received.len() < length {
            let read = bounded(self.stream.read_buf(&mut self.received)).await.unwrap();
            assert!(read > 0, "the end after {:?}", String::from_utf8_lossy(&self.received));
        }
        self.received.drain(..length).collect()
    }

    /// Reads until a text has come. Returns everything up to its end.
    async fn until(&mut self, text: &str) -> String {
        let mut end = 0;
        loop {
            if self.received[..end].ends_with(text.as_bytes()) {
                return String::from_utf8_lossy(&self.read(end).await).into_owned();
            }
            if end == self.received.len() {
                let read = bounded(self.stream.read_buf(&mut self.received)).await.unwrap();
                assert!(read > 0, "the end after {:?}", String::from_utf8_lossy(&self.received));
            }
            end += 1;
        }
    }

    /// Logs in. Returns what came before the prompt.
    async fn log_in(&mut self) {
        self.send("\r").await;
        self.until(LOGIN).await;
        self.send("user\r").await;
        assert_eq!(self.until("Password: ").await, "user\r\nPassword: ");
        self.send(format!("{GUEST_PASSWORD}\r")).await;
        assert_eq!(self.until(PROMPT).await, format!("\r\n{PROMPT}"), "no echo of a password");
    }

    /// Runs a command. Returns what it prints.
    async fn run(&mut self, command: &str) -> String {
        self.send(format!("{command}\r")).await;
        let printed = self.until(PROMPT).await;
        let printed = printed.strip_prefix(&format!("{command}\r\n")).expect("an echo");
        printed.strip_suffix(PROMPT).unwrap().to_owned()
    }

    /// Waits for the end of the connection.
    async fn end(mut self) -> End {
        loop {
            match bounded(self.stream.read_buf(&mut self.received)).await {
                Ok(0) => return End::Closed,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Reads a sub-option of VMware's extension. Returns its code and its payload, with no 255 in
    /// it doubled.
    async fn suboption(&mut self) -> (u8, Vec<u8>) {
        assert_eq!(self.read(3).await, [255, 250, 232]);
        let mut body = Vec::new();
        loop {
            match self.read(1).await[0] {
                255 => match self.read(1).await[0] {
                    240 => return (body[0], body[1..].to_vec()),
                    byte => {
                        assert_eq!(byte, 255);
                        body.push(byte);
                    }
                },
                byte => body.push(byte),
            }
        }
    }

    async fn send_suboption(&mut self, code: u8, payload: &[u8]) {
        self.send([&[255, 250, 232, code][..], payload, &[255, 240]].concat()).await;
    }

    /// Does what a concentrator does until the machine has asked for its service.
    async fn greet(&mut self) {
        assert_eq!(self.read(3).await, [255, 251, 232], "WILL");
        // WILL BINARY, SUPPRESS-GO-AHEAD and ECHO, DO BINARY and SUPPRESS-GO-AHEAD.
        self.send([255, 251, 0, 255, 251, 3, 255, 251, 1, 255, 253, 0, 255, 253, 3]).await;
        let answers = self.read(15).await;
        assert_eq!(answers, [255, 253, 0, 255, 253, 3, 255, 253, 1, 255, 251, 0, 255, 251, 3]);
        self.send([255, 253, 232]).await;
        let (code, known) = self.suboption().await;
        assert_eq!(code, 0);
        for needed in [1, 70, 71, 73, 80, 81, 82, 83] {
            assert!(known.contains(&needed), "{needed} in {known:?}");
        }
        self.send_suboption(1, &[0, 1, 2, 3, 70, 71, 73, 80, 81, 82, 83]).await;
        assert_eq!(self.suboption().await, (70, b"Sstaging".to_vec()));
    }
}

fn network(service: &str) -> SerialBacking {
    uri(service, "server", None)
}

fn uri(service: &str, direction: &str, proxy: Option<String>) -> SerialBacking {
    SerialBacking::Uri { service: service.to_owned(), direction: direction.to_owned(), proxy }
}

fn pipe(name: &str, endpoint: &str) -> SerialBacking {
    SerialBacking::Pipe { name: name.to_owned(), endpoint: endpoint.to_owned() }
}

fn file(path: &str) -> SerialBacking {
    SerialBacking::File { path: path.to_owned() }
}

/// A listener for a concentrator, and the backing of a port that dials it.
async fn concentrator() -> (TcpListener, SerialBacking) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("telnet://{}", listener.local_addr().unwrap());
    (listener, uri("staging", "server", Some(proxy)))
}

async fn accepted(listener: &TcpListener) -> Peer<TcpStream> {
    Peer::new(bounded(listener.accept()).await.unwrap().0)
}

#[tokio::test]
async fn a_port_listens_at_the_same_address_while_its_machine_is_on() {
    let lab = Lab::with_ports([network("tcp://:0")]).await;
    let address = lab.port(PORT).address.unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0, "{address}");
    let config = lab.fetch("VirtualMachine", OFF, "config").await;
    let devices = config.returned().child("hardware").unwrap();
    let port =
        devices.children_named("device").find(|device| device.child_text("key") == Some("9000"));
    let shown = port.unwrap().child("backing").unwrap().child_text("serviceURI").unwrap();
    assert_eq!(shown, format!("tcp://:{}", address.port()));

    assert_eq!(lab.refusal().await, ErrorKind::ConnectionRefused);
    for _ in 0..2 {
        lab.run("PowerOnVM_Task").await;
        let peer = lab.connect().await;
        lab.run("PowerOffVM_Task").await;
        assert_eq!(peer.end().await, End::Closed);
        lab.until_port(|status| !status.is_listening).await;
        assert_eq!(lab.refusal().await, ErrorKind::ConnectionRefused);
        assert_eq!(lab.port(PORT).address, Some(address));
    }
    assert_eq!(lab.port(PORT).connections, 2);
}

#[tokio::test]
async fn telnet_leads_to_a_login_and_a_shell_of_the_guest_on_the_screen() {
    let lab = Lab::with_ports([network("telnet://:0")]).await;
    lab.boot().await;
    let mut peer = lab.connect().await;
    assert_eq!(peer.read(12).await, PROPOSALS);
    peer.send(AGREEMENT).await;
    // The speed of the line (RFC 2217) is no option of the machine.
    peer.send([255, 253, 44]).await;
    assert_eq!(peer.read(3).await, [255, 252, 44]);
    peer.log_in().await;
    assert_eq!(peer.run("qvm-run --pass-io sd-app hostname").await, "sd-app\r\n");
    assert_eq!(peer.run("nonsense").await, "bash: nonsense: command not found\r\n");
    assert!(peer.run("xfce4-terminal").await.contains("cannot open display"));
    lab.control().show_screen(OFF, ScreenStage::Desktop);
    assert_eq!(peer.run("xfce4-terminal").await, "");
    assert_eq!(lab.control().screen(OFF).unwrap().stage, ScreenStage::Terminal);
    assert!(lab.control().shows(OFF, "Terminal - user@dom0"));
    // In binary mode only 255 is doubled.
    peer.send([b'e', b'c', b'h', b'o', b' ', 255, 255, b'\r']).await;
    peer.until("echo ").await;
    assert_eq!(peer.read(4).await, [255, 255, b'\r', b'\n']);
}

#[tokio::test]
async fn without_binary_mode_a_return_is_followed_by_a_nul_or_a_line_feed() {
    let lab = Lab::with_ports([network("telnet://:0")]).await;
    lab.boot().await;
    let mut peer = lab.connect().await;
    peer.read(12).await;
    peer.send(b"\r\0").await;
    assert_eq!(peer.until(LOGIN).await, format!("\r\n{LOGIN}"));
    peer.send(b"user\r\n").await;
    assert_eq!(peer.until("Password: ").await, "user\r\nPassword: ");
    lab.change(PortChange::Write(b"a\rb".to_vec()));
    assert_eq!(peer.read(4).await, b"a\r\0b");
}

#[tokio::test]
async fn what_a_guest_writes_while_no_client_is_connected_is_lost() {
    let lab = Lab::with_ports([network("tcp://:0")]).await;
    lab.run("PowerOnVM_Task").await;
    lab.clock.advance(Duration::from_millis(1_500));
    let mut peer = lab.connect().await;
    lab.clock.advance(START);
    let start = peer.until(LOGIN).await;
    assert!(!start.contains("BIOS") && !start.contains("GRUB"), "{start}");
    assert!(start.contains("Loading Xen") && start.contains("(ttyS0)"), "{start}");
    drop(peer);
    lab.until_port(|status| !status.is_connected).await;
    lab.run("ResetVM_Task").await;
    lab.clock.advance(START);
    let mut peer = lab.connect().await;
    peer.send("\r").await;
    assert_eq!(peer.until(LOGIN).await, format!("\r\n{LOGIN}"));
}

#[tokio::test]
async fn a_reset_leaves_the_connection_open_and_a_suspend_and_a_revert_end_it() {
    let lab = Lab::with_ports([network("tcp://:0")]).await;
    lab.boot().await;
    let mut peer = lab.connect().await;
    peer.log_in().await;
    lab.run("ResetVM_Task").await;
    lab.clock.advance(START);
    let start = peer.until(LOGIN).await;
    assert!(start.starts_with("\r\nPhoenixBIOS"), "{start}");
    peer.log_in().await;
    lab.run("SuspendVM_Task").await;
    assert_eq!(peer.end().await, End::Closed);
    lab.until_port(|status| !status.is_listening).await;
    assert_eq!(lab.refusal().await, ErrorKind::ConnectionRefused);

    lab.run("PowerOnVM_Task").await;
    let mut peer = lab.connect().await;
    assert_eq!(peer.run("whoami").await, "user\r\n", "the session goes on");
    let memory = "<name>n</name><memory>true</memory><quiesce>false</quiesce>";
    assert_eq!(lab.run_task("CreateSnapshot_Task", OFF, memory).await.0, "success");
    peer.send("exit\r").await;
    peer.until(LOGIN).await;
    lab.run("RevertToCurrentSnapshot_Task").await;
    assert_eq!(peer.end().await, End::Closed);
    let mut peer = lab.connect().await;
    assert_eq!(peer.run("hostname").await, "dom0\r\n", "the session of the snapshot");
    let parent = lab.control().look(|world| world.machine(OFF).unwrap().snapshots[0].id.clone());
    let reply = lab.call("RevertToSnapshot_Task", "VirtualMachineSnapshot", &parent, "").await;
    assert_eq!(lab.finish(reply.returned().text()).await.0, "success");
    assert_eq!(peer.end().await, End::Closed);
    assert_eq!(lab.power_state(OFF).await, "poweredOff");
}

#[tokio::test]
async fn a_port_has_one_client() {
    let lab = Lab::with_ports([network("tcp://:0")]).await;
    lab.boot().await;
    let address = lab.port(PORT).address.unwrap();
    let mut first = lab.connect().await;
    let second = Peer::new(TcpStream::connect(address).await.unwrap());
    assert_eq!(second.end().await, End::Closed);
    lab.control().apply(HostChange::Serial(SerialChange::SecondClient(SecondClient::Waits)));
    let mut second = Peer::new(TcpStream::connect(address).await.unwrap());
    second.send("\r").await;
    first.log_in().await;
    assert_eq!(lab.port(PORT).connections, 1, "the second is silent");
    drop(first);
    assert_eq!(second.until(PROMPT).await, format!("\r\n{PROMPT}"));
    assert_eq!(lab.port(PORT).connections, 2);
}

#[tokio::test]
async fn a_machine_dials_a_concentrator_at_its_power_on_and_sends_its_first_byte() {
    let (listener, backing) = concentrator().await;
    let lab = Lab::with_ports([backing]).await;
    lab.run("PowerOnVM_Task").await;
    let mut peer = accepted(&listener).await;
    lab.clock.advance(START);
    peer.greet().await;
    peer.send_suboption(81, b"").await;
    let (code, uuid) = peer.suboption().await;
    let uuid = String::from_utf8(uuid).unwrap();
    let instance = lab.control().look(|world| world.machine(OFF).unwrap().instance_uuid.clone());
    assert_eq!((code, uuid.len(), &uuid[23..24]), (80, 47, "-"), "{uuid}");
    assert_eq!(uuid.replace([' ', '-'], ""), instance.replace('-', ""));
    peer.send_suboption(83, b"").await;
    assert_eq!(peer.suboption().await, (82, b"qubes-4.2-sdw-staging".to_vec()));
    peer.send_suboption(200, b"?").await;
    assert_eq!(peer.suboption().await, (2, vec![200]), "an unknown code");
    peer.send_suboption(71, b"").await;
    assert!(peer.until(LOGIN).await.starts_with("\r\nPhoenixBIOS"));
    peer.log_in().await;
    lab.run("PowerOffVM_Task").await;
    assert_eq!(peer.end().await, End::Closed);
    lab.run("PowerOnVM_Task").await;
    accepted(&listener).await.greet().await;
}

#[tokio::test]
async fn a_machine_that_is_refused_dials_again_and_its_output_until_then_is_lost() {
    let (listener, backing) = concentrator().await;
    let lab = Lab::with_ports([backing]).await;
    lab.run("PowerOnVM_Task").await;
    let mut peer = accepted(&listener).await;
    peer.greet().await;
    peer.send_suboption(73, b"").await;
    assert_eq!(peer.end().await, End::Closed);
    lab.until_port(|status| !status.is_connected).await;
    // The guest has started when the machine dials again.
    let again = async {
        loop {
            lab.clock.advance(START);
            tokio::task::yield_now().await;
            if lab.port(PORT).is_connected {
                return accepted(&listener).await;
            }
        }
    };
    let mut peer = bounded(again).await;
    peer.greet().await;
    peer.send_suboption(71, b"").await;
    peer.send("\r").await;
    assert_eq!(peer.until(LOGIN).await, format!("\r\n{LOGIN}"));
}

#[tokio::test]
async fn a_peer_without_the_extension_and_a_direct_connection_get_the_output() {
    let (listener, backing) = concentrator().await;
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = uri(&format!("tcp://{}", plain.local_addr().unwrap()), "client", None);
    let lab = Lab::with_ports([backing, client]).await;
    lab.run("PowerOnVM_Task").await;
    let mut peer = accepted(&listener).await;
    assert_eq!(peer.read(3).await, [255, 251, 232]);
    peer.send([255, 254, 232]).await;
    let mut other = accepted(&plain).await;
    lab.clock.advance(START);
    assert!(peer.until(LOGIN).await.contains("(ttyS0)"));
    let start = other.until(LOGIN).await;
    assert!(start.starts_with("\r\nPhoenixBIOS") && start.contains("(ttyS1)"), "{start}");
}

#[tokio::test]
async fn other_computers_are_not_dialled_unless_a_test_says_where_the_concentrator_is() {
    let proxy = Some("telnet://vspc.example.org:13370".to_owned());
    let lab = Lab::with_ports([uri("staging", "server", proxy)]).await;
    lab.boot().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab.control().set_concentrator(Some(listener.local_addr().unwrap()));
    accepted(&listener).await.greet().await;
    assert!(!lab.port(PORT).is_dead);
}

#[tokio::test]
async fn a_test_can_cut_refuse_and_disturb_a_connection() {
    let lab = Lab::with_ports([network("telnet://:0")]).await;
    lab.boot().await;
    for (reset, end) in [(false, End::Closed), (true, End::Reset)] {
        let mut peer = lab.connect().await;
        peer.read(12).await;
        lab.change(PortChange::Cut { reset });
        assert_eq!(peer.end().await, end);
    }
    let mut peer = lab.connect().await;
    lab.change(PortChange::Refuse(true));
    lab.until_port(|status| !status.is_listening).await;
    assert_eq!(lab.refusal().await, ErrorKind::ConnectionRefused);
    peer.read(12).await;
    lab.change(PortChange::Suboption { code: 40, payload: vec![1, 255, 240, 255] });
    assert_eq!(peer.suboption().await, (40, vec![1, 255, 240, 255]));
    lab.change(PortChange::Wire(vec![255, 241, 255, 250, 232, 70]));
    assert_eq!(peer.read(6).await, [255, 241, 255, 250, 232, 70], "as it is, without an end");
    lab.change(PortChange::Write(b"panic\xff".to_vec()));
    assert_eq!(peer.read(7).await, b"panic\xff\xff");
    drop(peer);
    lab.until_port(|status| !status.is_connected).await;
    lab.change(PortChange::Refuse(false));
    lab.connect().await;
}

#[tokio::test]
async fn a_flood_is_complete_for_a_client_and_has_a_hole_for_the_time_without_one() {
    let lab = Lab::with_ports([network("tcp://:0")]).await;
    lab.boot().await;
    let mut peer = lab.connect().await;
    lab.change(PortChange::Flood { bytes_per_second: 64_000, total: Some(640_000) });
    lab.clock.advance(Duration::from_secs(4));
    for number in 0..4_000 {
        let line = peer.read(64).await;
        assert!(line.starts_with(format!("{number:016} ").as_bytes()), "{number}");
    }
    drop(peer);
    lab.until_port(|status| !status.is_connected).await;
    lab.clock.advance(Duration::from_secs(2));
    let mut peer = lab.connect().await;
    lab.clock.advance(START);
    for number in 6_000..10_000 {
        let line = peer.read(64).await;
        assert!(line.starts_with(format!("{number:016} ").as_bytes()), "{number}");
    }
    peer.send("\r").await;
    assert_eq!(peer.until(LOGIN).await, format!("\r\n{LOGIN}"), "the flood is over");
}

#[tokio::test]
async fn a_pipe_leads_to_a_pseudoterminal_of_the_machine_at_its_other_end() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("ttyS0");
    let mut scenario = Scenario::lab().unwrap();
    for machine in &mut scenario.machines {
        let port = |endpoint| SerialPort::new(9_000, pipe("/tmp/otter", endpoint));
        match machine.id.as_str() {
            OFF => machine.serial_ports = vec![port("server")],
            "31" => {
                let tty = Some(link.clone());
                machine.serial_ports = vec![SerialPort { tty, ..port("client") }];
            }
            _ => {}
        }
    }
    let mut lab = Lab::start(scenario).await;
    lab.log_in().await;
    let own = lab.control().serial_port("31", PORT).unwrap();
    assert_eq!(own.tty.as_deref(), Some(&*std::fs::read_link(&link).unwrap()));
    let mut device = Peer::new(open_tty(&link).await);
    device.send("lost, because the machine is off\r").await;
    lab.until_port(|status| status.received > 0).await;
    lab.run("PowerOnVM_Task").await;
    lab.clock.advance(START);
    assert!(device.until(LOGIN).await.starts_with("\r\nPhoenixBIOS"));
    device.log_in().await;
    assert_eq!(device.run("hostname").await, "dom0\r\n");
    lab.run("ResetVM_Task").await;
    lab.clock.advance(START);
    assert!(device.until(LOGIN).await.starts_with("\r\nPhoenixBIOS"));
    drop(device);
    lab.simulator.stop().await;
    assert!(!link.is_symlink(), "the link ends with the simulator");
}

/// Opens a terminal, which does not become that of the test.
async fn open_tty(path: &Path) -> tokio::fs::File {
    let flags = i32::try_from(rustix::fs::OFlags::NOCTTY.bits()).unwrap();
    let mut options = tokio::fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(flags).open(path).await.unwrap()
}

#[tokio::test]
async fn a_file_grows_and_the_next_power_on_asks_what_becomes_of_it() {
    let lab = Lab::with_ports([file(FILE)]).await;
    let path = "logs/a%20b.txt?dcPath=ha-datacenter&dsName=scratch";
    assert_eq!(lab.file(path, None).await.0, 404);
    lab.run("PowerOnVM_Task").await;
    lab.until_file("PhoenixBIOS").await;
    let (status, _, first) = lab.file(path, None).await;
    assert_eq!(status, 200);
    lab.clock.advance(START);
    lab.until_file(LOGIN).await;
    let range = format!("bytes={}-", first.len());
    let (status, range, more) = lab.file(path, Some(&range)).await;
    let length = first.len() + more.len();
    assert_eq!(status, 206);
    assert_eq!(range, format!("bytes {}-{}/{length}", first.len(), length - 1));
    assert!(String::from_utf8([first, more].concat()).unwrap().ends_with(LOGIN));
    let beyond = lab.file(path, Some(&format!("bytes={length}-"))).await;
    assert_eq!((beyond.0, beyond.1), (416, format!("bytes */{length}")));
    let anonymous = lab.client.get(format!("{}/folder/{path}", lab.simulator.url())).send();
    assert_eq!(anonymous.await.unwrap().status(), 401);

    for (choice, begins_again) in [("0", false), ("1", true)] {
        lab.run("PowerOffVM_Task").await;
        let task = lab.start_task("PowerOnVM_Task", OFF, "").await;
        lab.control().finish_task(&task);
        let runtime = lab.fetch("VirtualMachine", OFF, "runtime").await;
        let question = runtime.returned().child("question").expect("a question");
        assert!(question.child_text("text").unwrap().starts_with("msg.serial.file.open: "));
        let labels: Vec<_> = question
            .child("choice")
            .unwrap()
            .children_named("choiceInfo")
            .filter_map(|choice| choice.child_text("label").map(str::to_owned))
            .collect();
        assert_eq!(labels.len(), 3, "{labels:?}");
        assert_eq!(labels[1], "button.serial.file.overwrite");
        let answer = format!(
            "<questionId>{}</questionId><answerChoice>{choice}</answerChoice>",
            question.child_text("id").unwrap()
        );
        let answered = lab.call("AnswerVM", "VirtualMachine", OFF, &answer).await;
        assert!(answered.is_empty_answer(), "{:?}", answered.fault());
        assert_eq!(lab.finish(&task).await.0, "success");
        lab.clock.advance(START);
        let starts = if begins_again { 1 } else { 2 };
        let all_starts = |control: &Control| {
            let content = control.look(|world| world.file_bytes(FILE));
            let text = String::from_utf8(content.unwrap_or_default()).unwrap();
            text.matches("Phoenix").count() == starts && text.ends_with(LOGIN)
        };
        bounded(lab.control().until(all_starts)).await;
    }
}

#[tokio::test]
async fn devices_have_the_backings_of_the_ports_and_a_dead_one_says_so() {
    let (_listener, proxied) = concentrator().await;
    let lab = Lab::with_ports([
        network("tcp://5000"),
        network("telnets://:0"),
        proxied,
        pipe("/tmp/p", "server"),
        file(FILE),
        SerialBacking::Device { name: "/dev/char/serial/uart0".to_owned() },
    ])
    .await;
    lab.run("PowerOnVM_Task").await;
    let config = lab.fetch("VirtualMachine", OFF, "config").await;
    let hardware = config.returned().child("hardware").unwrap();
    let ports: Vec<_> = hardware
        .children_named("device")
        .filter(|device| device.type_name() == Some("VirtualSerialPort"))
        .map(|device| {
            let backing = device.child("backing").unwrap();
            let status = device.descend(&["connectable", "status"]).unwrap().text().to_owned();
            let kind = backing.type_name().unwrap().to_owned();
            (kind, status, backing.child_text("datastore").map(str::to_owned))
        })
        .collect();
    let kind = |name: &str| format!("VirtualSerialPort{name}BackingInfo");
    let scratch = "61aa04c2-98d1f3e0-2b14-0050569c0002".to_owned();
    let expected = [
        (kind("URI"), "unrecoverableError".to_owned(), None),
        (kind("URI"), "unrecoverableError".to_owned(), None),
        (kind("URI"), "ok".to_owned(), None),
        (kind("Pipe"), "ok".to_owned(), None),
        (kind("File"), "ok".to_owned(), Some(scratch)),
        (kind("Device"), "ok".to_owned(), None),
    ];
    assert_eq!(ports, expected);
    assert!(lab.port("ttyS1").is_dead && !lab.port("ttyS2").is_dead);
    // A port that is mended lives again.
    lab.control().mutate(|world| {
        world.machine_mut(OFF).unwrap().serial_ports[0].backing = network("tcp://:0");
    });
    lab.connect().await;
    assert!(!lab.port(PORT).is_dead);
}

#[tokio::test]
async fn a_machine_that_was_on_before_the_start_has_its_earlier_output_in_its_file() {
    let lab = Lab::with_machine(|machine| {
        machine.power = world::PowerState::On;
        machine.serial_ports =
            vec![SerialPort::new(9_000, file(FILE)), SerialPort::new(9_001, network("tcp://:0"))];
    })
    .await;
    let content = lab.control().look(|world| world.file_bytes(FILE).unwrap());
    let text = String::from_utf8(content).unwrap();
    assert!(text.starts_with("\r\nPhoenixBIOS") && text.ends_with(LOGIN), "{text}");
    let listens = |control: &Control| control.serial_port(OFF, "ttyS1").unwrap().is_listening;
    bounded(lab.control().until(listens)).await;
}

#[tokio::test]
async fn the_admin_endpoint_tells_where_ports_listen_and_changes_them() {
    let lab = Lab::with(Scenario::lab().unwrap(), |options| {
        options.admin = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    })
    .await;
    let admin = format!("http://{}", lab.simulator.admin().unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |machine: &str| -> serde_json::Value {
        let sent = client.get(format!("{admin}/serial/{machine}")).send().await;
        serde_json::from_str(&sent.unwrap().text().await.unwrap()).unwrap()
    };
    let post = async |body: serde_json::Value| {
        let sent = client.post(format!("{admin}/serial")).body(body.to_string()).send().await;
        sent.unwrap().status().as_u16()
    };
    // The machine 17 is on, and its second port listens.
    let ports = get("17").await["ports"].clone();
    assert_eq!((&ports[0]["port"], &ports[0]["address"]), (&json!("ttyS0"), &json!(null)));
    assert_eq!((&ports[1]["key"], &ports[1]["connections"]), (&json!(9_001), &json!(0)));
    let address = ports[1]["address"].as_str().unwrap().to_owned();
    let status = |control: &Control| control.serial_port("17", "ttyS1").unwrap();
    bounded(lab.control().until(|control| status(control).is_listening)).await;
    let mut peer = Peer::new(TcpStream::connect(&address).await.unwrap());
    bounded(lab.control().until(|control| status(control).is_connected)).await;
    let write = json!({"write": {"machine": "17", "port": "ttyS1", "text": "hello", "hex": "ff"}});
    assert_eq!(post(write).await, 200);
    assert_eq!(peer.read(6).await, b"hello\xff");
    let shown = get("17").await["ports"][1].clone();
    assert_eq!((&shown["connected"], &shown["written"]), (&json!(true), &json!(6)));
    assert_eq!(post(json!({"cut": {"machine": "17", "port": "9001"}})).await, 200);
    assert_eq!(peer.end().await, End::Closed);
    assert_eq!(post(json!({"cut": {"machine": "17", "port": "COM2"}})).await, 400);
    assert!(get("99").await["error"].is_string());
}
