//! Ten thousand waits, a thousand streams of which half are never read, and very slow clients, all
//! from another process (`crowd.py`). The memory is bounded, otter serves other clients meanwhile,
//! and at the end no connection remains.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use serde_json::json;

use super::program::Program;
use super::{python, repository};
use crate::harness::{Daemon, eventually};

const WAITS: usize = 10_000;
const STREAMS: usize = 1_000;
/// The number of slow clients, of three kinds: slow headers, incomplete bodies, and unread answers.
const SLOW: usize = 90;
/// The most memory in bytes for one connected client, in an unoptimised build.
const MEMORY_PER_CLIENT: u64 = 64 * 1024;
/// The longest time for a request of another client during the test, on a busy computer.
const READ_LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_use_bounded_memory_and_do_not_delay_others() {
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let needed = u64::try_from(WAITS + STREAMS + SLOW + 500).unwrap();
    assert!(
        files >= needed,
        "{needed} open files are needed, the hard limit is {files}: raise it (ulimit -Hn)"
    );
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("otter.toml");
    std::fs::write(&config, "[http]\nheader_timeout = \"5s\"\nbody_timeout = \"5s\"\n").unwrap();
    let arguments = ["--simulate", "--machines", "40", "--config", config.to_str().unwrap()];
    let daemon = Daemon::start(&arguments, &[]).await;
    eventually("the inventory to be loaded", async || daemon.get("/readyz").await.status == 200)
        .await;
    let (memory, open) = (daemon.resident_memory(), daemon.open_files());

    let all_connected = AtomicBool::new(false);
    let connecting = async {
        let mut crowd = python();
        let (host, port) = daemon.address().split_once(':').unwrap();
        crowd.arg("-B").arg(repository().join("tests/interop/crowd.py")).args([host, port]);
        let mut crowd = Program::start({
            crowd.args([WAITS, STREAMS, SLOW].map(|number| number.to_string()));
            crowd
        });
        let ready = crowd
            .wait_for_line_within(Duration::from_mins(2), "ready", |line| line.starts_with("ready"))
            .await;
        all_connected.store(true, Ordering::Relaxed);
        assert_eq!(
            ready,
            format!("ready {{\"streams\": {STREAMS}, \"waits\": {WAITS}, \"slow\": {SLOW}}}")
        );
        crowd
    };
    let others = async {
        let mut slowest = Duration::ZERO;
        while !all_connected.load(Ordering::Relaxed) {
            slowest = slowest.max(timed_read(&daemon, 3).await);
        }
        slowest
    };
    let (crowd, slowest) = tokio::join!(connecting, others);

    let blocked = u64::try_from(WAITS + STREAMS).unwrap();
    eventually("all waits to be open", async || daemon.metric("otter_waits_open").await == blocked)
        .await;
    let mut slowest_job = Duration::ZERO;
    for machine in 1..=10 {
        for action in ["on", "off"] {
            let started = now();
            let path = format!("/v1/machines/{machine}/power?wait=14s");
            daemon.post(&path, json!({"action": action})).await.expect(200);
            slowest_job = slowest_job.max(started.elapsed());
            timed_read(&daemon, machine).await;
        }
    }
    let crowded = daemon.resident_memory();
    // otter closes the connections of clients that send too slowly. Waits, and clients that do not
    // read, stay connected.
    let remaining = WAITS + STREAMS + SLOW / 3;
    eventually("the slow clients to be disconnected", async || {
        daemon.open_files() < open + remaining + 10
    })
    .await;
    assert_eq!(daemon.metric("otter_waits_open").await, blocked);

    drop(crowd);
    eventually("all connections to be closed", async || daemon.open_files() < open + 10).await;
    eventually("all waits and streams to be closed", async || {
        let held = [
            daemon.metric("otter_waits_open").await,
            daemon.metric("otter_event_streams_open").await,
        ];
        held == [0, 0]
    })
    .await;
    timed_read(&daemon, 3).await;
    let grown = crowded.saturating_sub(memory);
    let clients = u64::try_from(WAITS + STREAMS + SLOW).unwrap();
    println!(
        "{clients} clients: {} MiB before, {} MiB with them ({} KiB each), {} MiB after; slowest \
         read while they came {slowest:?}, slowest job meanwhile {slowest_job:?}",
        memory >> 20,
        crowded >> 20,
        (grown / clients) >> 10,
        daemon.resident_memory() >> 20,
    );
    assert!(grown < clients * MEMORY_PER_CLIENT, "{} MiB for {clients} clients", grown >> 20);
}

/// Reads a machine and returns the duration. Panics if it takes longer than `READ_LIMIT`.
async fn timed_read(daemon: &Daemon, machine: usize) -> Duration {
    let started = now();
    daemon.get(&format!("/v1/machines/{machine}")).await.expect(200);
    let took = started.elapsed();
    assert!(took < READ_LIMIT, "a read took {took:?}");
    took
}

#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn now() -> Instant {
    Instant::now()
}
