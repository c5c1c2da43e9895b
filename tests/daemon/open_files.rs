//! If connections use up the limit of open files, otter closes idle connections and continues to
//! serve.

use std::process::Command;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Daemon, TIMEOUT, eventually, log_lines, otter_command};

const FILES: usize = 256;
const IDLE: usize = 300;

/// A command that starts otter with at most this number of open files.
fn with_open_files(limit: usize, log: &std::path::Path) -> Command {
    let serve = otter_command(&["serve", "--simulate", "--listen", "127.0.0.1:0"]);
    let mut command = otter_command(&[]);
    let kept = command.get_envs().map(|(name, value)| (name.to_owned(), value.map(Into::into)));
    let kept: Vec<(std::ffi::OsString, Option<std::ffi::OsString>)> = kept.collect();
    command = Command::new("bash");
    for (name, value) in kept {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.arg("-c").arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\""));
    command.arg(serve.get_program()).args(serve.get_args());
    command.stderr(std::fs::File::create(log).unwrap());
    command
}

/// Opens an idle connection of one of three kinds: unused, with an incomplete request, or after an
/// answer.
async fn idle(address: &str, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    match number % 3 {
        0 => {}
        1 => stream.write_all(b"GET /v1/mach").await.unwrap(),
        _ => {
            stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
        }
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_make_room_for_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let daemon = Daemon::try_start(with_open_files(FILES, &log)).await.expect("a daemon");
    eventually("the inventory to load", async || daemon.get("/readyz").await.status == 200).await;
    let until_on = "/v1/machines/16/wait?until=power_state:on&wait=5m";
    let waiting = tokio::spawn(daemon.request(reqwest::Method::GET, until_on).send());
    eventually("the call to wait", async || daemon.metric("otter_waits_open").await == 1).await;

    let mut open = Vec::new();
    for number in 0..IDLE {
        let one = tokio::time::timeout(TIMEOUT, idle(daemon.address(), number));
        open.push(one.await.expect("a connection to be served"));
        if number % 50 == 0 {
            daemon.get("/v1/machines").await.expect(200);
        }
    }
    assert!(daemon.open_files() < FILES, "{}", daemon.open_files());
    // The store and the host connection can still open files, and no busy connection was closed.
    daemon.post("/v1/machines/16/power?wait=30s", json!({"action": "on"})).await.expect(200);
    let waited = tokio::time::timeout(TIMEOUT, waiting).await.unwrap().unwrap();
    assert_eq!(waited.expect("an answer on the busy connection").status(), 200);

    // The oldest idle connection is closed, and the newest is open.
    let mut byte = [0];
    let first = tokio::time::timeout(TIMEOUT, open[0].read(&mut byte)).await.expect(
        "the oldest connection \
            to be closed",
    );
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    let last = open.last_mut().unwrap();
    last.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(TIMEOUT, last.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&rest).contains("HTTP/1.1 200"),
        "the newest connection is \
        served"
    );
    let warnings =
        log_lines(&log, "the limit of connections is reached: idle ones are closed for new ones")
            .len();
    assert!((1..=2).contains(&warnings), "{warnings} warnings within about a minute");
    assert_eq!(log_lines(&log, "a connection could not be accepted").len(), 0);
}
