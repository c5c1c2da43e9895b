//! Codes of serial ports. Each pair has a lab of its own.

use futures_util::future::join_all;
use otter::app::Settings;
use otter::simulator::PortChange;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Pair, Verdict};
use crate::harness::{Answer, Lab, eventually};
use crate::serial::stream_client::StreamClient;

/// A machine that is on, and whose second port listens.
const RUNNING: &str = "17";
const PORT: &str = "ttyS1";
/// A machine that is off.
const OFF: &str = "16";

/// An offset that no port has.
const BEYOND: u64 = 1 << 40;

pub async fn of_ports(pairs: Vec<Pair>) -> Vec<Verdict> {
    join_all(pairs.iter().map(async |pair| pair.judge(provoke(pair).await))).await
}

async fn provoke(pair: &Pair) -> Answer {
    let settings: fn(&mut Settings) = match pair.code.as_str() {
        "too-many-consoles" => |settings| settings.serial.max_open = 0,
        "too-many-waits" => |settings| settings.http.max_waits = 0,
        "wait-timeout" if pair.is_of("send_serial_input") => {
            |settings| settings.http.max_wait = std::time::Duration::from_secs(1)
        }
        _ => |_| {},
    };
    if pair.code == "storage-unavailable" {
        return without_keys().await;
    }
    let lab = Lab::with_settings(settings).await;
    match pair.operation.id.as_str() {
        "read_serial_log" => read(lab, &pair.code).await,
        "wait_for_serial" => wait(lab, &pair.code).await,
        "send_serial_input" => send(lab, &pair.code).await,
        "open_serial_stream" => open(lab, &pair.code).await,
        "create_console_token" => {
            let _writer = writer(&lab).await;
            let body = json!({"kind": "serial", "port": PORT, "mode": "drive"});
            lab.post(&format!("/v1/machines/{RUNNING}/console-tokens"), body).await
        }
        other => panic!("no way to call {other}"),
    }
}

async fn read(lab: Lab, code: &str) -> Answer {
    let log = path(OFF, "ttyS0", "log");
    match code {
        "offset-out-of-range" => lab.get(&format!("{log}?since={BEYOND}")).await,
        "too-many-consoles" => lab.get(&log).await,
        "too-many-waits" => lab.get(&format!("{log}?wait=1s")).await,
        "machine-gone" | "shutting-down" => {
            let reading = lab.request(Method::GET, &format!("{log}?wait=1m"));
            let reading = tokio::spawn(Answer::from_request(reading));
            let _lab = end_while_waiting(lab, code, OFF).await;
            reading.await.unwrap()
        }
        other => panic!("no way to provoke {other}"),
    }
}

async fn wait(lab: Lab, code: &str) -> Answer {
    let never = json!({"any": [{"text": "never"}]});
    let wait = path(RUNNING, PORT, "wait");
    match code {
        "invalid-power-state" => {
            lab.post(&format!("{}?wait=1m", path(OFF, "ttyS0", "wait")), never).await
        }
        "offset-out-of-range" => {
            lab.post(&wait, json!({"any": [{"text": "a"}], "since": BEYOND})).await
        }
        "too-many-consoles" | "too-many-waits" | "wait-timeout" => lab.post(&wait, never).await,
        "machine-gone" | "shutting-down" => {
            let waiting = lab.request(Method::POST, &format!("{wait}?wait=1m")).json(&never);
            let waiting = tokio::spawn(Answer::from_request(waiting));
            let _lab = end_while_waiting(lab, code, RUNNING).await;
            waiting.await.unwrap()
        }
        other => panic!("no way to provoke {other}"),
    }
}

async fn send(lab: Lab, code: &str) -> Answer {
    let text = json!({"text": "a"});
    let slow = json!({"text": "a", "wait_for": {"any": [{"text": "never"}], "wait": "1m"}});
    match code {
        "idempotency-mismatch" => {
            with_key(&lab, text).await.expect(200);
            with_key(&lab, json!({"text": "b"})).await
        }
        "invalid-power-state" => lab.post(&path(OFF, "ttyS0", "input"), text).await,
        "too-many-consoles" | "too-many-waits" => lab.post(&input(), text).await,
        "console-unavailable" | "wait-timeout" => {
            lab.control().change_serial_port(RUNNING, PORT, PortChange::Refuse(true));
            lab.post(&input(), text).await
        }
        "serial-busy" => {
            let _writer = writer(&lab).await;
            lab.post(&input(), text).await
        }
        "queue-full" => {
            let calls: Vec<_> = (0..9).map(|_| begin(&lab, &slow)).collect();
            super::until_waiting(&lab, calls.len()).await;
            let answer = lab.post(&input(), text).await;
            calls.iter().for_each(JoinHandle::abort);
            answer
        }
        "machine-gone" => {
            let first = begin(&lab, &slow);
            got(&lab, 1).await;
            let second = begin(&lab, &text);
            super::until_waiting(&lab, 2).await;
            lab.control().mutate(|world| world.remove_machine(RUNNING));
            lab.wait_until_gone(RUNNING).await;
            first.abort();
            second.await.unwrap()
        }
        "shutting-down" => {
            lab.control().change_serial_port(RUNNING, PORT, PortChange::Refuse(true));
            let call = begin(&lab, &text);
            super::until_waiting(&lab, 1).await;
            lab.stop().await;
            call.await.unwrap()
        }
        "input-interrupted" => {
            let call = begin(&lab, &json!({"text": "a".repeat(100), "pace": "100ms"}));
            got(&lab, 3).await;
            lab.control().change_serial_port(RUNNING, PORT, PortChange::Cut { reset: false });
            call.await.unwrap()
        }
        other => panic!("no way to provoke {other}"),
    }
}

async fn open(lab: Lab, code: &str) -> Answer {
    let stream = path(RUNNING, PORT, "stream");
    let upgrade = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    match code {
        "serial-busy" => {
            let _writer = writer(&lab).await;
            lab.get(&format!("{stream}?mode=drive")).await
        }
        "offset-out-of-range" => lab.get_with(&format!("{stream}?since={BEYOND}"), &upgrade).await,
        "too-many-consoles" => lab.get_with(&stream, &upgrade).await,
        other => panic!("no way to provoke {other}"),
    }
}

/// A call whose key cannot be stored.
async fn without_keys() -> Answer {
    let state = tempfile::tempdir().unwrap();
    let lab = Lab::with_state_dir(state.path()).await;
    lab.wait_until_ready().await;
    let file = format!("sqlite://{}", state.path().join("otter.db").display());
    let database = sqlx::SqlitePool::connect(&file).await.unwrap();
    // The key is still found, and cannot be stored.
    let rename = "ALTER TABLE input_keys RENAME COLUMN created_at TO gone";
    sqlx::query(rename).execute(&database).await.unwrap();
    with_key(&lab, json!({"text": "a"})).await
}

/// Removes the machine of a call that waits, or stops otter.
///
/// # Returns
/// The lab, unless it was stopped.
async fn end_while_waiting(lab: Lab, code: &str, machine: &str) -> Option<Lab> {
    super::until_waiting(&lab, 1).await;
    if code == "shutting-down" {
        lab.stop().await;
        return None;
    }
    lab.control().mutate(|world| world.remove_machine(machine));
    lab.wait_until_gone(machine).await;
    Some(lab)
}

fn path(machine: &str, port: &str, rest: &str) -> String {
    format!("/v1/machines/{machine}/serial/{port}/{rest}")
}

fn input() -> String {
    path(RUNNING, PORT, "input")
}

async fn with_key(lab: &Lab, body: Value) -> Answer {
    lab.post_with(&input(), body, &[("idempotency-key", "k")]).await
}

fn begin(lab: &Lab, body: &Value) -> JoinHandle<Answer> {
    tokio::spawn(Answer::from_request(lab.request(Method::POST, &input()).json(body)))
}

/// Waits until the guest got this number of bytes.
async fn got(lab: &Lab, bytes: u64) {
    eventually("the guest to get the input", async || {
        lab.control().serial_port(RUNNING, PORT).unwrap().received >= bytes
    })
    .await;
}

async fn writer(lab: &Lab) -> StreamClient {
    let stream = format!("{}?mode=drive", path(RUNNING, PORT, "stream"));
    StreamClient::open(lab, &stream, &[]).await.unwrap()
}
