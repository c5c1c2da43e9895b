//! The ways on which otter reaches a serial port: it dials the host, the machine dials otter, a
//! device of its own machine, and a file.

use std::path::PathBuf;
use std::sync::LazyLock;

use otter::simulator::world::{SerialBacking, SerialPort};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stream_client::StreamClient;
use super::*;
use crate::harness::{LabOptions, TIMEOUT};

async fn power_on(lab: &Lab, machine: &str) {
    let power = format!("/v1/machines/{machine}/power?wait=30s");
    lab.post(&power, json!({"action": "on"})).await.expect(200);
}

/// Waits until the log of a port contains a text. Returns the log.
async fn until_logged(lab: &Lab, machine: &str, port: &str, text: &str) -> String {
    let mut log = String::new();
    eventually(&format!("{text:?} in the log"), async || {
        log = lab.get(&path(machine, port, "log")).await.expect(200).text;
        log.contains(text)
    })
    .await;
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_with_telnet_passes_every_byte_and_no_command() {
    let lab = Lab::start().await;
    power_on(&lab, OFF).await;
    let stream = path(OFF, "ttyS0", "stream?mode=drive");
    let mut terminal = StreamClient::open(&lab, &stream, &[]).await.unwrap();
    until_access(&lab, OFF, "ttyS0", "open").await;
    // The guest has started once it asks for a login again and again.
    eventually("the login", async || {
        terminal.send("\r").await;
        let log = lab.get(&path(OFF, "ttyS0", "log")).await.expect(200).text;
        log.ends_with(&format!("{LOGIN}\r\n{LOGIN}"))
    })
    .await;
    let change = |change| lab.control().change_serial_port(OFF, "ttyS0", change);
    let next = state(&lab, OFF, "ttyS0").await["next_offset"].as_u64().unwrap();
    change(PortChange::Suboption { code: 40, payload: vec![1, 255, 240, 255] });
    // A command without a meaning, a refused option, and the end of nothing.
    change(PortChange::Wire(vec![255, 241, 255, 253, 31, 255, 240]));
    change(PortChange::Write(b"panic\xff\0\r\0\r\n\xff\xf0.".to_vec()));
    eventually("the bytes", async || {
        let url = format!("{}?since={next}", path(OFF, "ttyS0", "log"));
        let log = lab.get(&url).await.expect(200);
        log.bytes.ends_with(b"panic\xff\0\r\0\r\n\xff\xf0.")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_dials_otter_is_caught_from_its_first_byte() {
    let dials = SerialBacking::Uri {
        service: "staging".to_owned(),
        direction: "server".to_owned(),
        proxy: Some("telnet://vspc.example.org:13370".to_owned()),
    };
    let ports = vec![SerialPort::new(9000, dials)];
    let lab = Lab::with_options(LabOptions {
        scenario: scenario(OFF, |machine| machine.serial_ports = ports),
        settings: |settings| {
            settings.serial_listener.listen = Some("127.0.0.1:0".parse().unwrap());
        },
        ..LabOptions::default()
    })
    .await;
    lab.control().set_concentrator(lab.serial_address);
    let ask = json!({
        "select": {"machine": OFF}, "ttl": "1h",
        "prepare": {"power": "on", "until": "serial:dom0 login: "},
    });
    let lease = lab.post("/v1/leases", ask).await;
    assert!(matches!(lease.status, 201 | 202), "{}", lease.text);
    let wait = format!("/v1/leases/{}/wait?wait=30s", lease.str("id"));
    lab.get(&wait).await.expect(200);
    let log = until_logged(&lab, OFF, "ttyS0", LOGIN).await;
    assert!(log.starts_with("\r\nPhoenixBIOS"), "{log}");
    until_access(&lab, OFF, "ttyS0", "open").await;
    let typed = json!({"text": "\r", "wait_for": {"any": [{"text": LOGIN}], "wait": "10s"}});
    let shown = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let input = path(OFF, "ttyS0", "input");
    lab.post_with(&input, typed, &[("otter-lease", &shown)]).await.expect(200);
    // A second connection for the port, and a machine that the host does not have.
    let uuid = lab.control().look(|world| world.machine(OFF).unwrap().instance_uuid.clone());
    for uuid in [uuid, "50 2a ff ff ff ff ff ff-ff ff ff ff ff ff ff ff".to_owned()] {
        let mut foreign = TcpStream::connect(lab.serial_address.unwrap()).await.unwrap();
        let named = [&[255, 251, 232, 255, 250, 232, 80][..], uuid.as_bytes(), &[255, 240]];
        foreign.write_all(&named.concat()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(TIMEOUT, foreign.read_to_end(&mut answer)).await;
        read.expect("the end of the connection").unwrap();
        let refusal = [255, 250, 232, 73, 255, 240];
        assert!(answer.windows(6).any(|part| part == refusal), "{answer:?}");
    }
    assert_eq!(state(&lab, OFF, "ttyS0").await["access"], "open", "the first one goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_would_dial_otter_says_what_is_missing() {
    let lab = Lab::start().await;
    // The third machine of the lab dials a concentrator, and otter does not listen.
    let machine = lab.control().look(|world| {
        let dials = |machine: &&Machine| machine.name == "qubes-4.3-nightly";
        world.machines().find(dials).unwrap().id.clone()
    });
    let shown = state(&lab, &machine, "ttyS0").await;
    assert_eq!(shown["access"], "unavailable");
    assert!(shown["access_reason"].as_str().unwrap().contains("serial.listen"), "{shown}");
    let input = lab.post(&path(&machine, "ttyS0", "input"), json!({"text": "a"})).await;
    input.problem(501, "not-supported");
}

/// The folder of the devices of the machine in which otter runs.
static DEVICES: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

fn device(name: &str) -> PathBuf {
    DEVICES.path().join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_leads_to_a_device_of_the_machine_in_which_otter_runs() {
    let lab = Lab::with_options(LabOptions {
        scenario: scenario("31", |machine| {
            machine.serial_ports[0].tty = Some(device("ttyS0"));
        }),
        settings: |settings| {
            settings.protection.own_name = Some("ci-runner-1".to_owned());
            settings.esx.tty = device("ttyS").to_str().unwrap().to_owned();
        },
        ..LabOptions::default()
    })
    .await;
    let stream = path(RUNNING, "ttyS0", "stream?mode=drive");
    let mut terminal = StreamClient::open(&lab, &stream, &[]).await.unwrap();
    until_access(&lab, RUNNING, "ttyS0", "open").await;
    terminal.send("\r").await;
    assert_eq!(terminal.until(LOGIN).await, format!("\r\n{LOGIN}"));
    let found = lab.get(&path(RUNNING, "ttyS0", "log")).await.expect(200);
    assert_eq!(found.text, format!("\r\n{LOGIN}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_writes_to_a_file_outputs_and_takes_no_input() {
    const FILE: &str = "[scratch] logs/a b.txt";
    let file = SerialBacking::File { path: FILE.to_owned() };
    let ports = vec![SerialPort::new(9000, file)];
    let lab = Lab::with_options(LabOptions {
        scenario: scenario(RUNNING, |machine| machine.serial_ports = ports),
        ..LabOptions::default()
    })
    .await;
    let stream = path(RUNNING, "ttyS0", "stream");
    let mut terminal = StreamClient::open(&lab, &stream, &[]).await.unwrap();
    until_access(&lab, RUNNING, "ttyS0", "open").await;
    // Output begins with the connection, which is there once a byte comes.
    let mut first = String::new();
    eventually("output", async || {
        lab.control().mutate(|world| world.append_to_file(FILE, b"."));
        first = lab.get(&path(RUNNING, "ttyS0", "log")).await.expect(200).text;
        !first.is_empty()
    })
    .await;
    assert!(first.starts_with('.'), "{first}: what the file had before does not count");
    lab.control().mutate(|world| world.append_to_file(FILE, b"kernel panic\r\n"));
    assert!(terminal.until("panic\r\n").await.ends_with(".kernel panic\r\n"));
    let input = lab.post(&path(RUNNING, "ttyS0", "input"), json!({"text": "a"})).await;
    let input = input.problem(501, "not-supported");
    assert!(input.json["detail"].as_str().unwrap().contains("takes no input"), "{}", input.text);
    let drive = path(RUNNING, "ttyS0", "stream?mode=drive");
    StreamClient::open(&lab, &drive, &[]).await.unwrap_err().expect(501, "not-supported");
}
