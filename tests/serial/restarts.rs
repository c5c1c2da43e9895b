//! What stays of the output of a port over restarts and crashes of otter.

use std::path::PathBuf;

use otter::clock::Clock;
use otter::simulator::{Scenario, Simulator, SimulatorOptions};
use serde_json::{Value, json};

use super::stream_client::StreamClient;
use super::*;
use crate::harness::Daemon;

/// otter keeps the port of [`RUNNING`] open.
const CONFIG: &str = "[pools.always]\nmachines = [\"17\"]\nserial = \"always\"\n";

/// A simulated host, and the state directory of the daemons.
struct Site {
    host: Simulator,
    state: PathBuf,
    _directory: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
        let host = Simulator::start(options).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { host, state: directory.path().join("state"), _directory: directory }
    }

    /// Starts otter, and waits until it is connected to the port.
    async fn start(&self) -> Daemon {
        let daemon = Daemon::start_with_config(&self.host, &self.state, CONFIG).await;
        eventually("otter to be connected", async || {
            let on_host = self.host.control().serial_port(RUNNING, PORT).unwrap();
            on_host.is_connected && shown(&daemon).await["access"] == "open"
        })
        .await;
        daemon
    }

    fn output(&self, bytes: &[u8]) {
        let change = PortChange::Write(bytes.to_vec());
        self.host.control().change_serial_port(RUNNING, PORT, change);
    }
}

async fn shown(daemon: &Daemon) -> Value {
    let shown = daemon.get(&format!("/v1/machines/{RUNNING}/serial")).await.expect(200).json;
    let ports = shown["ports"].as_array().unwrap();
    ports.iter().find(|port| port["linux_device"] == PORT).unwrap().clone()
}

async fn log(daemon: &Daemon, query: &str) -> Answer {
    daemon.get(&format!("{}{query}", path(RUNNING, PORT, "log"))).await.expect(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_the_output_is_there_and_the_offsets_go_on() {
    let site = Site::new().await;
    let daemon = site.start().await;
    site.output(b"before");
    eventually("the output", async || log(&daemon, "").await.bytes == b"before").await;
    assert!(daemon.terminate().await.success());
    let daemon = site.start().await;
    site.output(b"after");
    eventually("the output", async || log(&daemon, "").await.bytes == b"beforeafter").await;
    let port = shown(&daemon).await;
    let [gap] = port["gaps"].as_array().unwrap().as_slice() else { panic!("{port}") };
    assert_eq!(
        (&gap["offset"], &gap["skipped"], &gap["reason"]),
        (&json!(6), &json!(0), &json!("restart"))
    );
    drop(daemon);
    site.host.stop().await;
}

/// What a reader got: contiguous bytes, each with the offset of the first one.
#[derive(Default)]
struct Given(Vec<(u64, Vec<u8>)>);

impl Given {
    fn add(&mut self, reader: &mut StreamClient) {
        let bytes = reader.take();
        let first = reader.offset - bytes.len() as u64;
        match self.0.last_mut() {
            Some((start, last)) if *start + last.len() as u64 == first => last.extend(bytes),
            _ if bytes.is_empty() => {}
            _ => self.0.push((first, bytes)),
        }
    }

    fn length(&self) -> usize {
        self.0.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    fn end(&self) -> u64 {
        self.0.last().map_or(0, |(first, bytes)| first + bytes.len() as u64)
    }
}

/// No byte that otter gave to a reader is lost, doubled or renumbered when otter dies.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_every_byte_that_a_reader_got_has_its_offset() {
    let site = Site::new().await;
    let mut rounds: Vec<Given> = Vec::new();
    for _ in 0..3 {
        let daemon = site.start().await;
        let address = daemon.address().parse().unwrap();
        let stream = path(RUNNING, PORT, "stream");
        let mut reader = StreamClient::open_at(address, &stream, &[]).await.unwrap();
        // The daemon dies while the port outputs.
        let flood = PortChange::Flood { bytes_per_second: 2 << 20, total: None };
        site.host.control().change_serial_port(RUNNING, PORT, flood);
        let mut given = Given::default();
        while given.length() < (3 << 20) {
            reader.read().await.unwrap();
            given.add(&mut reader);
        }
        daemon.kill();
        let silence = PortChange::Flood { bytes_per_second: 0, total: None };
        site.host.control().change_serial_port(RUNNING, PORT, silence);
        // What was on its way to the reader counts too.
        while reader.read().await.is_ok() {
            given.add(&mut reader);
        }
        rounds.push(given);
    }
    let daemon = site.start().await;
    for (first, bytes) in rounds.iter().flat_map(|given| &given.0) {
        let kept = log(&daemon, &format!("?since={first}")).await;
        assert_eq!(offset(&kept, "otter-serial-first"), *first);
        assert!(kept.bytes.starts_with(bytes), "from {first} on");
    }
    let port = shown(&daemon).await;
    let gaps = port["gaps"].as_array().unwrap();
    let crashes: Vec<&Value> = gaps.iter().filter(|gap| gap["reason"] == "crash").collect();
    assert_eq!(crashes.len(), 3, "{port}");
    for (given, gap) in rounds.iter().zip(&crashes) {
        let (after, skipped) = (gap["offset"].as_u64().unwrap(), gap["skipped"].as_u64().unwrap());
        assert!(after - skipped >= given.end(), "{gap}");
        // The offsets that were reserved are never given out.
        assert!(skipped <= 2 << 20, "{gap}");
    }
    // A body ends where offsets are missing, and names where to read on.
    let (last, _) = rounds[0].0.last().unwrap();
    let one = log(&daemon, &format!("?since={last}")).await;
    let next = offset(&one, "otter-serial-next");
    let crash = crashes[0]["offset"].as_u64().unwrap();
    assert_eq!(next, crash - crashes[0]["skipped"].as_u64().unwrap());
    let two = log(&daemon, &format!("?since={next}")).await;
    assert_eq!(offset(&two, "otter-serial-first"), crash);
    drop(daemon);
    site.host.stop().await;
}
