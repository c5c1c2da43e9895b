//! Who may read a serial port, and who may write to it.

use otter::domain::access::Role;
use otter::domain::pool::{Pool, Pools};
use otter::domain::scope::Scope;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::stream_client::StreamClient;
use super::*;
use crate::api::tokens::Guarded;
use crate::harness::LabOptions;

/// An otter with tokens, whose machines stay on after a lease.
async fn guarded() -> Guarded {
    let options = LabOptions {
        settings: |settings| {
            let machines = vec!["qubes-*".parse().unwrap()];
            let pool = Pool { machines, may_keep_power: true, ..Pool::default() };
            settings.pools = Pools([("lab".to_owned(), pool)].into());
        },
        ..LabOptions::default()
    };
    Guarded::with(options).await
}

/// Leases the machine, which then is on. Returns the id of the lease, and the lease as a header.
async fn take(guarded: &Guarded, role: &str) -> (String, String) {
    // A machine that is on is not free.
    let power = format!("/v1/machines/{RUNNING}/power?wait=30s");
    let off = guarded.request("operator", Method::POST, &power).json(&json!({"action": "off"}));
    Answer::from_request(off).await.expect(200);
    let ask = json!({
        "select": {"machine": RUNNING, "pool": "lab"}, "ttl": "30m",
        "prepare": {"power": "on"}, "release": {"power": "keep"},
    });
    let taken = guarded.request(role, Method::POST, "/v1/leases").json(&ask);
    let lease = Answer::from_request(taken).await.expect(201);
    let id = lease.str("id").to_owned();
    let wait = format!("/v1/leases/{id}/wait?wait=30s");
    Answer::from_request(guarded.request(role, Method::GET, &wait)).await.expect(200);
    let shown = format!("{id}.{}", lease.str("secret"));
    (id, shown)
}

async fn end(guarded: &Guarded, id: &str) {
    let ended = guarded.request("operator", Method::DELETE, &format!("/v1/leases/{id}"));
    assert!(Answer::from_request(ended).await.status < 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_hold_a_machine_reads_none_of_its_ports() {
    let guarded = guarded().await;
    let reads = [
        (Method::GET, format!("/v1/machines/{RUNNING}/serial"), json!({})),
        (Method::GET, path(RUNNING, PORT, "log"), json!({})),
        (Method::POST, path(RUNNING, PORT, "wait"), json!({"any": [{"text": "a"}]})),
    ];
    let read = async |role: &str, lease: Option<&str>| {
        let mut statuses = Vec::new();
        for (method, path, body) in &reads {
            let mut request = guarded.request(role, method.clone(), path);
            if *method == Method::POST {
                request = request.json(body);
            }
            if let Some(lease) = lease {
                request = request.header("otter-lease", lease);
            }
            statuses.push(Answer::from_request(request).await.status);
        }
        statuses
    };
    assert_eq!(read("operator", None).await, [200, 200, 504]);
    assert_eq!(read("runner", None).await, [403, 403, 403]);
    let (id, lease) = take(&guarded, "runner").await;
    assert_eq!(read("runner", None).await, [200, 200, 504], "its token created the lease");
    assert_eq!(read("viewer", None).await, [403, 403, 403]);
    assert_eq!(read("viewer", Some(&lease)).await, [200, 200, 504]);
    let input = guarded.request("viewer", Method::POST, &path(RUNNING, PORT, "input"));
    let input = input.header("otter-lease", &lease).json(&json!({"text": "a"}));
    Answer::from_request(input).await.problem(403, "forbidden");
    end(&guarded, &id).await;
    assert_eq!(read("runner", None).await, [403, 403, 403]);
    assert_eq!(on_host(&guarded.lab).received, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_ends_its_terminals_calls_and_readers() {
    let guarded = guarded().await;
    let (id, lease) = take(&guarded, "runner").await;
    let bearer = format!("Bearer {}", guarded.token("runner"));
    let headers = [("authorization", &*bearer), ("otter-lease", &*lease)];
    let stream = path(RUNNING, PORT, "stream?mode=drive");
    let mut terminal = StreamClient::open(&guarded.lab, &stream, &headers).await.unwrap();
    let operator = format!("Bearer {}", guarded.token("operator"));
    let watching = path(RUNNING, PORT, "stream");
    let watcher = [("authorization", &*operator)];
    let mut watcher = StreamClient::open(&guarded.lab, &watching, &watcher).await.unwrap();
    let follow = guarded.request("runner", Method::GET, &path(RUNNING, PORT, "log?follow=true"));
    let follow = tokio::spawn(async move { follow.send().await.unwrap().bytes().await });
    let wait = guarded.request("runner", Method::POST, &path(RUNNING, PORT, "wait?wait=1m"));
    let wait = wait.json(&json!({"any": [{"text": "never"}]}));
    let wait = tokio::spawn(Answer::from_request(wait));
    let line = "otter_waits_open 2\n";
    let metrics = guarded.request("operator", Method::GET, "/metrics");
    let metrics = async || metrics.try_clone().unwrap().send().await.unwrap().text().await.unwrap();
    eventually("both to wait", async || metrics().await.contains(line)).await;
    end(&guarded, &id).await;
    let closed = terminal.closed().await;
    assert_eq!(closed.code, Some(4423), "{}", closed.reason);
    wait.await.unwrap().problem(403, "forbidden");
    follow.await.unwrap().expect("a proper end of the body");
    // An operator needs no lease.
    until_connected(&guarded).await;
    output(&guarded.lab, b"still there");
    watcher.until("still there").await;
}

/// Begins an input of an operator that takes twenty seconds, and waits until the guest got a part.
async fn begin_input(guarded: &Guarded, headers: &[(&str, &str)]) -> JoinHandle<Answer> {
    let mut request = guarded.request("operator", Method::POST, &path(RUNNING, PORT, "input"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.json(&json!({"text": "a".repeat(1000), "pace": "20ms"}));
    let call = tokio::spawn(Answer::from_request(request));
    eventually("the first bytes", async || on_host(&guarded.lab).received >= 2).await;
    call
}

/// The token is revoked while one call sends and another one waits for its turn.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_token_ends_its_inputs() {
    let guarded = guarded().await;
    let call = begin_input(&guarded, &[]).await;
    let second = guarded.request("operator", Method::POST, &path(RUNNING, PORT, "input"));
    let second = tokio::spawn(Answer::from_request(second.json(&json!({"text": "b"}))));
    guarded.made_again("operator", Role::Operator, Scope::default()).await;
    let ended = call.await.unwrap().problem(409, "input-interrupted");
    assert_eq!(ended.json["errors"][0]["code"], "unauthenticated", "{}", ended.text);
    assert_eq!(ended.str("retry"), "no");
    let sent = ended.json["sent"]["characters"].as_u64().unwrap();
    assert!((2..1000).contains(&sent), "{}", ended.text);
    second.await.unwrap().problem(401, "unauthenticated");
    eventually("all that was sent", async || on_host(&guarded.lab).received == sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_overrides_a_lease_is_recorded_once() {
    let guarded = guarded().await;
    let records = async || -> Vec<Value> {
        let audit = "/v1/audit?action=machine.overridden";
        let audit = Answer::from_request(guarded.request("admin", Method::GET, audit)).await;
        audit.expect(200).json["items"].as_array().unwrap().clone()
    };
    let (id, _) = take(&guarded, "runner").await;
    let plain = guarded.request("operator", Method::POST, &path(RUNNING, PORT, "input"));
    let plain = Answer::from_request(plain.json(&json!({"text": "a"}))).await;
    plain.problem(423, "machine-leased");
    assert_eq!(records().await, Vec::<Value>::new(), "nothing was overridden");
    // Each byte is a piece of its own, and the call goes on.
    let call = begin_input(&guarded, &[("otter-override", "to repair the guest")]).await;
    eventually("the record", async || !records().await.is_empty()).await;
    let so_far = on_host(&guarded.lab).received;
    eventually("more input", async || on_host(&guarded.lab).received > so_far + 2).await;
    call.abort();
    let records = records().await;
    assert_eq!(records.len(), 1, "{records:?}");
    let record = &records[0];
    assert_eq!(record["detail"], "serial.input: to repair the guest");
    assert_eq!((&record["actor"], &record["machine"]), (&json!("operator"), &json!(RUNNING)));
    assert_eq!(record["lease"], id, "the lease that is overridden");
}

async fn until_connected(guarded: &Guarded) {
    eventually("the connection", async || on_host(&guarded.lab).is_connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_one_writes_to_the_port_of_a_protected_machine() {
    let lab = Lab::with_settings(|settings| {
        settings.protection.protected = vec![RUNNING.parse().unwrap()];
    })
    .await;
    let input = lab.post(&path(RUNNING, PORT, "input"), json!({"text": "a"})).await;
    input.problem(409, "self-protection");
    let stream = path(RUNNING, PORT, "stream?mode=drive");
    let refused = StreamClient::open(&lab, &stream, &[]).await.unwrap_err();
    refused.expect(409, "self-protection");
    let mut reader = StreamClient::open(&lab, &path(RUNNING, PORT, "stream"), &[]).await.unwrap();
    until_access(&lab, RUNNING, PORT, "open").await;
    eventually("the host to see otter", async || on_host(&lab).is_connected).await;
    output(&lab, b"read");
    reader.until("read").await;
}
