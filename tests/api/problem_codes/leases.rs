//! Codes of leases and tokens.

use std::collections::BTreeMap;

use axum::body::Body;
use otter::clock::Clock;
use otter::domain::access::{Role, Token, TokenLimits};
use otter::domain::ids::TokenId;
use otter::storage::{Storage, StoredToken};
use otter::store::Store;
use reqwest::Method;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Call, Pair, Verdict, plan, side_by_side};
use crate::harness::{Answer, Daemon, HttpApi, Lab, LabOptions, eventually, machine_path};

/// An id that no lease has.
const NONE: &str = "01936f5e-8c00-7000-8000-000000000002";

/// Provokes codes by calls without a token, although otter requires one.
pub async fn without_a_token(pairs: Vec<Pair>) -> Vec<Verdict> {
    let state = tempfile::tempdir().unwrap();
    token_in(state.path(), TokenLimits::default()).await;
    let lab = Lab::with_state_dir(state.path()).await;
    side_by_side(pairs, async |pair| pair.call().send(&lab).await).await
}

/// Provokes codes with a token that may make one request in a second.
pub async fn over_a_limit(pairs: Vec<Pair>) -> Vec<Verdict> {
    let state = tempfile::tempdir().unwrap();
    let limits = TokenLimits { requests_per_second: Some(1), ..TokenLimits::default() };
    let bearer = format!("Bearer {}", token_in(state.path(), limits).await.text());
    // The clock does not advance, so no second request is allowed.
    let clock = Clock::stepped(Clock::system().now());
    let lab = Lab::with_state_dir_and_options(
        state.path(),
        LabOptions { clock, ..LabOptions::default() },
    )
    .await;
    let about = || {
        Answer::from_request(lab.request(Method::GET, "/v1/about").header("authorization", &bearer))
    };
    about().await.expect(200);
    side_by_side(pairs, async |pair| {
        pair.call().header("authorization", bearer.clone()).send(&lab).await
    })
    .await
}

async fn token_in(state: &std::path::Path, limits: TokenLimits) -> Token {
    let store = Store::open_or_create_shared(state).await.unwrap();
    let writer = store.clone();
    tokio::spawn(async move { writer.run(tokio_util::sync::CancellationToken::new()).await });
    let clock = Clock::system();
    let token = Token::new(&clock.random().unwrap());
    let stored = StoredToken::new(
        TokenId::new(clock.uuid()),
        "ci",
        Role::Admin,
        token.digest(),
        clock.now(),
    );
    assert!(store.insert_token(&StoredToken { limits, ..stored }).await.unwrap());
    token
}

/// Provokes codes while the machine of each pair is leased, or with a lease that has ended.
pub async fn by_a_lease(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    let off = json!({"action": "off"});
    if pairs.iter().any(|pair| pair.is_of("kill_machine")) {
        lab.post(&machine_path("kill_machine", "/power?wait=12s"), off).await.expect(200);
    }
    let mut verdicts = Vec::new();
    for pair in pairs {
        let name = pair.operation.id.clone();
        let more = if pair.code == "lease-not-active" {
            json!({"prepare": {"settle": "10m"}})
        } else {
            json!({})
        };
        let lease = take(&lab, &name, more).await.expect(201).json;
        let shown = lease_header(&lease);
        let answer = match pair.code.as_str() {
            "machine-leased" if lease_path(&pair) => {
                let other = take(&lab, "twin", json!({})).await.expect(201).json;
                let answer = call_on(&pair, &lease)
                    .header("otter-lease", self::lease_header(&other))
                    .send(&lab)
                    .await;
                end(&lab, &other).await;
                answer
            }
            "machine-leased" => pair.call().send(&lab).await,
            "lease-ended" | "lease-not-active" => {
                if pair.code == "lease-ended" {
                    end(&lab, &lease).await;
                }
                let call = if lease_path(&pair) { call_on(&pair, &lease) } else { pair.call() };
                call.header("otter-lease", shown).send(&lab).await
            }
            "lease-failed" => {
                end(&lab, &lease).await;
                call_on(&pair, &lease).send(&lab).await
            }
            "wait-timeout" if pair.is_of("end_lease") => {
                call_on(&pair, &lease).parameter("wait=0s").send(&lab).await
            }
            other => panic!("no way to provoke {other}"),
        };
        end(&lab, &lease).await;
        verdicts.push(pair.judge(answer));
    }
    verdicts
}

/// Provokes codes where the program that recognizes text is not installed.
pub async fn without_text_recognition(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |settings| {
        settings.screens.ocr_command = vec!["/no/tesseract".to_owned()];
    }))
    .await;
    side_by_side(pairs, async |pair| {
        let prepare = json!({"power": "on", "until": "screen:Log In"});
        let body = json!({"select": {"name": "create_lease"}, "ttl": "1m", "prepare": prepare});
        pair.call().body(body).send(&lab).await
    })
    .await
}

/// Provokes codes with a queued lease for a machine that another lease holds.
pub async fn in_the_queue(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    let mut verdicts = Vec::new();
    for pair in pairs {
        let name = pair.operation.id.clone();
        let held = take(&lab, &name, json!({})).await.expect(201).json;
        let queue_for = if pair.code == "no-free-machine" { "1s" } else { "10m" };
        let answer = if pair.is_of("create_lease") {
            pair.call().send(&lab).await
        } else {
            let queued = take(&lab, &name, json!({"queue_for": queue_for})).await.expect(202).json;
            let wait = if pair.code == "wait-timeout" { "wait=0s" } else { "wait=12s" };
            let answer = call_on(&pair, &queued).parameter(wait).send(&lab).await;
            end(&lab, &queued).await;
            answer
        };
        end(&lab, &held).await;
        verdicts.push(pair.judge(answer));
    }
    verdicts
}

/// Provokes codes while no lease may be queued.
pub async fn no_queue(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |settings| settings.leases.max_queued = 0)).await;
    side_by_side(pairs, async |pair| {
        take(&lab, &pair.operation.id, json!({"queue_for": "1m"})).await
    })
    .await
}

/// Provokes codes while no call may wait.
pub async fn no_waits(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |settings| settings.http.max_waits = 0)).await;
    side_by_side(pairs, async |pair| {
        let lease = take(&lab, &pair.operation.id, json!({})).await.expect(201).json;
        call_on(pair, &lease).parameter("wait=1s").send(&lab).await
    })
    .await
}

/// Provokes codes by the request alone.
pub async fn plain(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    let mut verdicts = Vec::new();
    for pair in pairs {
        let name = pair.operation.id.clone();
        let answer = match pair.code.as_str() {
            "not-found" if pair.is_of("create_lease") => {
                take(&lab, &name, json!({"prepare": {"snapshot": "no such"}})).await
            }
            "not-found" => pair.operation.call(NONE).send(&lab).await,
            "ambiguous-name" => {
                let again = json!({"name": "base"});
                for _ in 0..2 {
                    lab.post(&machine_path(&name, "/snapshots?wait=12s"), again.clone())
                        .await
                        .expect(200);
                }
                take(&lab, &name, json!({"prepare": {"snapshot": "base"}})).await
            }
            "idempotency-mismatch" => {
                let call = pair.call().header("idempotency-key", "k");
                call.clone().send(&lab).await;
                call.body(json!({"select": {"name": "twin"}, "ttl": "2m"})).send(&lab).await
            }
            other => panic!("no way to provoke {other}"),
        };
        verdicts.push(pair.judge(answer));
    }
    verdicts
}

/// Provokes codes after otter has stopped, by a direct call of the router, because the socket is
/// closed.
pub async fn after_the_stop(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    let mut calls = Vec::new();
    for pair in &pairs {
        let call = if lease_path(pair) {
            let lease = take(&lab, &pair.operation.id, json!({})).await.expect(201).json;
            let waits = pair.is_of("wait_for_lease");
            if waits {
                // A wait for an active lease would return at once, so the call waits for a queued
                // lease.
                let queued = take(&lab, &pair.operation.id, json!({"queue_for": "1m"}))
                    .await
                    .expect(202)
                    .json;
                call_on(pair, &queued)
            } else {
                call_on(pair, &lease)
            }
        } else {
            pair.call()
        };
        calls.push(call);
    }
    let service = lab.service.clone();
    lab.stop().await;
    let mut verdicts = Vec::new();
    for (pair, call) in pairs.iter().zip(calls) {
        verdicts.push(pair.judge(send_to_service(&service, &call).await));
    }
    verdicts
}

/// Sends a call to the router itself.
pub async fn send_to_service(service: &HttpApi, call: &Call) -> Answer {
    let body = call.given().map(|body| Body::from(body.to_string())).unwrap_or_default();
    let request = http::Request::builder()
        .method(call.method.clone())
        .uri(call.target())
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(body)
        .unwrap();
    let (head, body) = service.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Answer::from_parts(head.status.as_u16(), head.headers, bytes)
}

/// Provokes codes with a database that refuses every write.
pub async fn without_storage(pairs: Vec<Pair>) -> Vec<Verdict> {
    let state = tempfile::tempdir().unwrap();
    let lab = Lab::with_state_dir_and_options(state.path(), plan(&pairs, |_| {})).await;
    lab.wait_until_ready().await;
    let mut calls = BTreeMap::new();
    for pair in &pairs {
        let call = if lease_path(pair) {
            let lease = take(&lab, &pair.operation.id, json!({})).await.expect(201).json;
            call_on(pair, &lease).header("otter-lease", lease_header(&lease))
        } else {
            if pair.is_of("clear_quarantine") {
                // Without a quarantine, otter stores nothing.
                let path = machine_path(&pair.operation.id, "/quarantine");
                let body = json!({"reason": "to be cleared"});
                Answer::from_request(lab.request(Method::PUT, &path).json(&body)).await.expect(200);
            }
            if pair.is_of("clear_pool_quarantine") {
                quarantine_by_otter(&lab, &pair.operation.id).await;
            }
            pair.call()
        };
        calls.insert(pair.operation.id.clone(), call);
    }
    let file = format!("sqlite://{}", state.path().join("otter.db").display());
    let database = sqlx::SqlitePool::connect(&file).await.unwrap();
    for table in ["jobs", "leases", "kept_machines", "last_seen"] {
        let rename = sqlx::AssertSqlSafe(format!("ALTER TABLE {table} RENAME TO gone_{table}"));
        sqlx::query(rename).execute(&database).await.unwrap();
    }
    // The first refused write shows otter that the database refuses writes.
    let started = lab.post(&machine_path("get_readiness", "/power"), json!({"action": "on"})).await;
    started.problem(503, "storage-unavailable");
    side_by_side(pairs, async |pair| calls[&pair.operation.id].clone().send(&lab).await).await
}

/// Provokes codes by a failure of otter between the commit of a lease and its answer.
pub async fn without_an_answer_of_the_store(pairs: Vec<Pair>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for pair in pairs {
        let daemon =
            Daemon::start(&["--simulate"], &[("FAILPOINTS", "lease-committed=panic")]).await;
        let ready = async || daemon.get("/readyz").await.status == 200;
        eventually("the inventory to be loaded", ready).await;
        verdicts.push(pair.judge(pair.operation.call("qubes-scratch").send_to(&daemon).await));
    }
    verdicts
}

/// Lets a preparation of the machine fail, so that otter quarantines the machine.
async fn quarantine_by_otter(lab: &Lab, name: &str) {
    let locked = otter::simulator::Fault::new("FileLocked", "Locked.");
    lab.control().fail_next_task("PowerOnVM_Task", locked);
    let lease = take(lab, name, json!({"prepare": {"power": "on"}})).await.expect(201).json;
    let path = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
    lab.wait_until(&path, |lease| lease["state"] == "failed").await;
}

/// Whether the operation is on a lease.
fn lease_path(pair: &Pair) -> bool {
    ["get_lease", "wait_for_lease", "renew_lease", "end_lease"]
        .iter()
        .any(|operation| pair.is_of(operation))
}

/// A call of the pair's operation on this lease.
fn call_on(pair: &Pair, lease: &Value) -> Call {
    pair.operation.call(lease["id"].as_str().unwrap())
}

async fn take(lab: &Lab, name: &str, more: Value) -> Answer {
    let mut body = json!({"select": {"name": name}, "ttl": "1m"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lab.post("/v1/leases", body).await
}

fn lease_header(lease: &Value) -> String {
    format!("{}.{}", lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap())
}

/// Ends a lease and waits for its end.
async fn end(lab: &Lab, lease: &Value) {
    let path = format!("/v1/leases/{}?wait=12s", lease["id"].as_str().unwrap());
    Answer::from_request(lab.request(Method::DELETE, &path)).await.expect(200);
}
