//! Codes of artifacts. Each pair has a lab and a lease of its own.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use otter::app::Settings;
use reqwest::Method;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Pair, Verdict, side_by_side};
use crate::harness::{Answer, Lab, LabOptions, send_raw};

/// Provokes codes of calls that store, read or delete the bytes of an artifact.
pub async fn of_files(pairs: Vec<Pair>) -> Vec<Verdict> {
    side_by_side(pairs, provoke).await
}

async fn provoke(pair: &Pair) -> Answer {
    let settings: fn(&mut Settings) = match pair.code.as_str() {
        "request-timeout" => |all| all.http.body_timeout = Duration::from_millis(100),
        "payload-too-large" => |all| all.artifacts.max_bytes = 3,
        // Room for one file.
        "insufficient-resources" => |all| all.artifacts.max_total = 4096,
        _ => |_| {},
    };
    let state = tempfile::tempdir().unwrap();
    let options = LabOptions { settings, ..LabOptions::default() };
    let lab = Lab::with_state_dir_and_options(state.path(), options).await;
    lab.wait_until_ready().await;
    let mut ask = json!({"select": {"machine": "16"}, "ttl": "1m"});
    if pair.code == "lease-not-active" {
        ask["prepare"] = json!({"settle": "10m"});
    }
    let lease = lab.post("/v1/leases", ask).await.expect(201).json;
    match pair.code.as_str() {
        "artifact-exists" => {
            put(&lab, &lease, "one").await.expect(201);
            put(&lab, &lease, "other").await
        }
        "insufficient-resources" => {
            put(&lab, &lease, "one").await.expect(201);
            let path = path_of(&lease).replace("result", "second");
            put_at(&lab, &path, &lease, "two").await
        }
        "lease-ended" => {
            let path = format!("/v1/leases/{}?wait=12s", lease["id"].as_str().unwrap());
            Answer::from_request(lab.request(Method::DELETE, &path)).await.expect(200);
            let age = "UPDATE leases SET document = \
                       json_set(document, '$.ended_at', '2026-01-01T00:00:00Z')";
            change_database(state.path(), age).await;
            put(&lab, &lease, "one").await
        }
        "length-required" => {
            let head = format!("{}\r\ntransfer-encoding: chunked", head(&lease));
            send_raw(lab.address, format!("{head}\r\n\r\n3\r\none\r\n0\r\n\r\n")).await
        }
        "request-timeout" => {
            let head = format!("{}\r\ncontent-length: 100", head(&lease));
            send_raw(lab.address, format!("{head}\r\n\r\none")).await
        }
        "machine-leased" => {
            let wrong = json!({"id": lease["id"], "secret": "0".repeat(64)});
            put_at(&lab, &path_of(&lease), &wrong, "one").await
        }
        "offset-out-of-range" => {
            let path = stored(&lab, &lease).await + "/content";
            lab.get_with(&path, &[("range", "bytes=3-")]).await
        }
        "storage-unavailable" if pair.is_of("delete_artifact") => {
            let path = stored(&lab, &lease).await;
            let refuse = "CREATE TRIGGER refuse BEFORE DELETE ON artifacts BEGIN \
                          SELECT RAISE(FAIL, 'no'); END";
            change_database(state.path(), refuse).await;
            Answer::from_request(lab.request(Method::DELETE, &path)).await
        }
        "storage-unavailable" => {
            std::fs::write(state.path().join("artifacts"), "no folder").unwrap();
            put(&lab, &lease, "one").await
        }
        "shutting-down" => after_the_stop(lab, pair, &lease).await,
        // A lease that is not active yet, and a file that is too large.
        _ => put(&lab, &lease, "four").await,
    }
}

fn path_of(lease: &Value) -> String {
    format!("/v1/leases/{}/artifacts/result.txt", lease["id"].as_str().unwrap())
}

fn secret_of(lease: &Value) -> String {
    format!("{}.{}", lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap())
}

/// The head of a request that stores an artifact, without its end.
fn head(lease: &Value) -> String {
    let (path, secret) = (path_of(lease), secret_of(lease));
    format!("PUT {path} HTTP/1.1\r\nhost: localhost\r\notter-lease: {secret}\r\nconnection: close")
}

async fn put(lab: &Lab, lease: &Value, bytes: &'static str) -> Answer {
    put_at(lab, &path_of(lease), lease, bytes).await
}

async fn put_at(lab: &Lab, path: &str, lease: &Value, bytes: &'static str) -> Answer {
    let request = lab.request(Method::PUT, path).header("otter-lease", secret_of(lease));
    Answer::from_request(request.body(bytes)).await
}

/// Stores an artifact and returns its path.
async fn stored(lab: &Lab, lease: &Value) -> String {
    let stored = put(lab, lease, "one").await.expect(201);
    format!("/v1/artifacts/{}", stored.str("id"))
}

async fn change_database(state: &Path, statement: &'static str) {
    let file = format!("sqlite://{}", state.join("otter.db").display());
    let database = sqlx::SqlitePool::connect(&file).await.unwrap();
    sqlx::query(statement).execute(&database).await.unwrap();
}

/// Calls the router itself, because the socket is closed.
async fn after_the_stop(lab: Lab, pair: &Pair, lease: &Value) -> Answer {
    let stored = stored(&lab, lease).await;
    let (method, path) = if pair.is_of("delete_artifact") {
        (Method::DELETE, stored)
    } else {
        (Method::PUT, path_of(lease).replace("result", "second"))
    };
    let service = lab.service.clone();
    lab.stop().await;
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("otter-lease", secret_of(lease))
        .header("content-length", "3")
        .body(Body::from("two"))
        .unwrap();
    let (head, body) = service.oneshot(request).await.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Answer::from_parts(head.status.as_u16(), head.headers, bytes)
}
