//! Serial ports whose other end otter's authors did not write: QEMU and ser2net serve a port that
//! otter dials, QEMU dials otter, and pexpect and telnet log in through `otter serial`.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use otter::simulator::Scenario;
use otter::simulator::world::{SerialBacking, SerialPort};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::pages::isolate;
use super::program::Program;
use super::{PYVMOMI_9, free_port, script, succeeds};
use crate::harness::{Lab, LabOptions, TIMEOUT, eventually};
use crate::serial::stream_client::StreamClient;

/// A machine that is on.
const RUNNING: &str = "17";

/// A machine that is off.
const OFF: &str = "16";

/// The bytes that the guest of [`boot_disk`] outputs first. QEMU does not double 255 in what it
/// sends, so the guest does not output it.
const GREETING: std::ops::Range<u8> = 0..u8::MAX;

/// QEMU negotiates telnet as a server. The guest outputs each byte that it gets in hex.
#[tokio::test(flavor = "multi_thread")]
async fn qemu_and_otter_pass_each_byte_as_it_is() {
    for scheme in ["telnet", "tcp"] {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let serial = format!("{scheme}:127.0.0.1:{port},server=on");
        let _qemu = Program::start(qemu(directory.path(), &serial));
        let lab = foreign_lab(&format!("{scheme}://:{port}")).await;
        // QEMU starts the guest once otter is connected.
        let greeting: Vec<u8> = GREETING.collect();
        logs(&lab, &greeting).await;
        send(&lab, &every_byte()).await;
        let answer = hex::encode_upper(every_byte()).into_bytes();
        logs(&lab, &[greeting, answer].concat()).await;
    }
}

/// QEMU is a plain client, which does not even negotiate.
#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_dials_otter_gets_no_port_and_is_closed() {
    let dials = SerialBacking::Uri {
        service: "staging".to_owned(),
        direction: "server".to_owned(),
        proxy: Some("telnet://vspc.example.org:13370".to_owned()),
    };
    let lab = Lab::with_options(LabOptions {
        scenario: with_port(OFF, SerialPort::new(9_000, dials)),
        settings: |settings| {
            settings.serial_listener.listen = Some("127.0.0.1:0".parse().unwrap());
        },
        ..LabOptions::default()
    })
    .await;
    lab.control().set_concentrator(lab.serial_address);
    let directory = tempfile::tempdir().unwrap();
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    let serial = format!("telnet:{address},server=off,reconnect=1");
    let _qemu = Program::start(qemu(directory.path(), &serial));

    let (mut from_qemu, to_qemu) = accept(&front).await.into_split();
    let otter = TcpStream::connect(lab.serial_address.unwrap()).await.unwrap();
    let (mut from_otter, mut to_otter) = otter.into_split();
    let passing = tokio::spawn(async move {
        let mut greeting = vec![0; GREETING.len()];
        from_qemu.read_exact(&mut greeting).await.unwrap();
        to_otter.write_all(&greeting).await.unwrap();
        // Both directions stay open until otter ends the connection.
        (greeting, from_qemu, to_otter)
    });
    let mut said = Vec::new();
    // A client may take ten seconds to name itself.
    let ended = timeout(TIMEOUT * 2, from_otter.read_to_end(&mut said)).await;
    ended.expect("the end of the connection").unwrap();
    let (greeting, ..) = passing.await.unwrap();
    assert_eq!(greeting, GREETING.collect::<Vec<u8>>());
    let is_offer = |offer: &[u8]| matches!(offer, [255, 251 | 253, _]);
    assert!(said.len() >= 3 && said.chunks(3).all(is_offer), "{said:?}: no byte of a port");
    drop(to_qemu);
    accept(&front).await;

    let power = format!("/v1/machines/{OFF}/power?wait=30s");
    lab.post(&power, json!({"action": "on"})).await.expect(200);
    let wait_for = json!({"any": [{"text": "dom0 login: "}], "wait": "10s"});
    let typed = json!({"text": "\r", "wait_for": wait_for});
    lab.post(&path(OFF, "input"), typed).await.expect(200);
    let log = lab.get(&path(OFF, "log")).await.expect(200).text;
    assert!(!log.contains("\"#$%&'()*+,-./"), "{log}: the machine's port has bytes of QEMU");
}

/// The guest is this test, at the other end of a pseudoterminal that ser2net serves.
#[tokio::test(flavor = "multi_thread")]
async fn ser2net_and_otter_pass_each_byte_as_it_is() {
    // With RFC 2217 the server asks for an option by which a client controls the line.
    for accepter in ["telnet", "telnet(rfc2217)"] {
        let directory = tempfile::tempdir().unwrap();
        let tty = directory.path().join("tty");
        let guest = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let terminal = format!("PTY,link={},rawer,wait-slave", tty.display());
        let end = format!("TCP:{}", guest.local_addr().unwrap());
        let _socat = Program::start(socat(&[&terminal, &end]));
        eventually("the pseudoterminal", async || tty.exists()).await;
        let port = free_port();
        let config = directory.path().join("ser2net.yaml");
        let connection = format!(
            "connection: &port\n  accepter: {accepter},127.0.0.1,{port}\n  \
             connector: serialdev,{},115200n81,local\n",
            tty.display()
        );
        std::fs::write(&config, connection).unwrap();
        let mut ser2net = Command::new("ser2net");
        // It stays in the foreground, and makes no lock file.
        ser2net.args(["-n", "-u", "-c"]).arg(&config);
        let _ser2net = Program::start(ser2net);

        let lab = foreign_lab(&format!("telnet://:{port}")).await;
        let stream = path(RUNNING, "stream");
        let _reader = StreamClient::open(&lab, &stream, &[]).await.unwrap();
        let mut guest = accept(&guest).await;
        send(&lab, &every_byte()).await;
        let mut got = vec![0; every_byte().len()];
        let read = timeout(TIMEOUT, guest.read_exact(&mut got)).await;
        read.expect("the input").unwrap();
        assert_eq!(got, every_byte(), "{accepter}");
        guest.write_all(&every_byte()).await.unwrap();
        logs(&lab, &every_byte()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pexpect_logs_in_through_otter_serial() {
    let lab = Lab::start().await;
    let terminal = ["serial", RUNNING, "ttyS1"];
    let otter = [&[env!("CARGO_BIN_EXE_otter")][..], &terminal].concat();
    succeeds(login(&lab, "~.", &otter)).await;
}

/// telnet sends lines that end with a carriage return and a line feed.
#[tokio::test(flavor = "multi_thread")]
async fn telnet_logs_in_through_otter_serial() {
    let lab = Lab::start().await;
    let port = free_port().to_string();
    let listener = format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr");
    let otter = env!("CARGO_BIN_EXE_otter");
    let terminal = format!("EXEC:{otter} serial {RUNNING} ttyS1,pty,rawer");
    let mut socat = socat(&["-d", "-d", &listener, &terminal]);
    isolate(&mut socat);
    socat.env("OTTER_URL", lab.url(""));
    let mut socat = Program::start(socat);
    socat.wait_for_line("that it listens", |line| line.contains("listening on")).await;
    succeeds(login(&lab, "~.\r", &["telnet", "127.0.0.1", &port])).await;
}

/// A command that logs in by pexpect, through this program.
fn login(lab: &Lab, end: &str, program: &[&str]) -> Command {
    let mut login = script(PYVMOMI_9, "serial_login.py", &[&[end][..], program].concat());
    isolate(&mut login);
    login.env("OTTER_URL", lab.url(""));
    login
}

/// A command that runs socat. Its messages are lines of its output.
fn socat(arguments: &[&str]) -> Command {
    let mut socat = Command::new("sh");
    socat.args(["-c", "exec socat \"$@\" 2>&1", "socat"]).args(arguments);
    socat
}

/// A command that runs QEMU with [`boot_disk`] and this serial port, as `-serial` has it.
fn qemu(directory: &Path, serial: &str) -> Command {
    let disk = directory.join("disk.img");
    std::fs::write(&disk, boot_disk()).unwrap();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-machine", "pc,accel=tcg", "-m", "16", "-nodefaults", "-display", "none"]);
    qemu.args(["-drive", &format!("file={},format=raw,if=floppy", disk.display())]);
    qemu.args(["-serial", serial]);
    qemu
}

/// A floppy disk whose first sector is a guest: it outputs the bytes of [`GREETING`] on its first
/// serial port, and then each byte that it gets, as two digits in hex.
fn boot_disk() -> Vec<u8> {
    const SIZE: usize = 1_440 << 10;
    /// What the firmware finds at the end of a sector that can be started.
    const MARK: [u8; 2] = [0x55, 0xaa];
    // In assembly; 3FD is the state of the line, and 3F8 its data:
    //       xor bx, bx
    // each: mov al, bl; call put; inc bl; cmp bl, 255; jne each
    // next: mov dx, 3FD; in al, dx; test al, 1; jz next; mov dl, F8; in al, dx
    //       mov bl, al; shr al, 4; call digit; mov al, bl; and al, 15; call digit
    //       jmp next
    // digit: cmp al, 10; sbb al, 69; das
    // put:  mov ah, al; mov dx, 3FD
    // full: in al, dx; test al, 20; jz full; mov al, ah; mov dl, F8; out dx, al; ret
    let code = hex::decode(
        "31db88d8e82800fec380fbff75f4bafd03eca80174f8b2f8ec88c3c0e804e8090088d8240fe80200ebe43c0a\
         1c692f88c4bafd03eca82074fb88e0b2f8eec3",
    );
    let mut disk = code.unwrap();
    disk.resize(510, 0);
    disk.extend(MARK);
    disk.resize(SIZE, 0);
    disk
}

/// Each byte once, and then what means something to telnet: ends of lines, and commands.
fn every_byte() -> Vec<u8> {
    (0..=u8::MAX).chain(*b"\r\0\r\n\n\xff\xff\xf0").collect()
}

/// The lab with this only serial port of a machine.
fn with_port(machine: &str, port: SerialPort) -> Scenario {
    let mut scenario = Scenario::lab().unwrap();
    let machine = scenario.machines.iter_mut().find(|known| known.id == machine);
    machine.unwrap().serial_ports = vec![port];
    scenario
}

/// A lab in which another program listens for the only port of [`RUNNING`], at this URI.
async fn foreign_lab(uri: &str) -> Lab {
    let (service, direction) = (uri.to_owned(), "server".to_owned());
    let backing = SerialBacking::Uri { service, direction, proxy: None };
    let port = SerialPort { is_foreign: true, ..SerialPort::new(9_000, backing) };
    let scenario = with_port(RUNNING, port);
    Lab::with_options(LabOptions { scenario, ..LabOptions::default() }).await
}

/// The path of what is below the first port of a machine.
fn path(machine: &str, rest: &str) -> String {
    format!("/v1/machines/{machine}/serial/ttyS0/{rest}")
}

async fn accept(listener: &TcpListener) -> TcpStream {
    timeout(TIMEOUT, listener.accept()).await.expect("a connection").unwrap().0
}

/// Sends bytes to the port of [`RUNNING`].
async fn send(lab: &Lab, bytes: &[u8]) {
    let body = json!({"base64": BASE64_STANDARD.encode(bytes)});
    lab.post(&path(RUNNING, "input"), body).await.expect(200);
}

/// Waits until the port of [`RUNNING`] has output so many bytes, and asserts that it is these.
async fn logs(lab: &Lab, expected: &[u8]) {
    let mut log = Vec::new();
    eventually("all bytes in the log", async || {
        log = lab.get(&path(RUNNING, "log")).await.expect(200).bytes;
        log.len() >= expected.len()
    })
    .await;
    assert!(log == expected, "{}\nnot {}", log.escape_ascii(), expected.escape_ascii());
}
