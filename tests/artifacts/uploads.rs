//! Storing artifacts: whole or not at all, once for each name, with harmless names and types.

use std::path::Path;

use axum::body::Body;
use reqwest::Method;
use serde_json::json;
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use super::Held;
use crate::harness::{Answer, Lab, LabOptions, RawConnection, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_stored_once_and_read_back() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, json!({})).await;
    let stored = lease.put_as(&lab, "junit.xml", "text/plain", "<suite/>").await.expect(201);
    let id = stored.str("id").to_owned();
    let path = format!("/v1/artifacts/{id}");
    assert_eq!(stored.header("location"), Some(path.as_str()));
    assert_eq!(
        (stored.str("name"), stored.str("lease"), stored.str("machine"), stored.str("source")),
        ("junit.xml", lease.id.as_str(), "16", "caller")
    );
    assert_eq!(stored.str("content_type"), "text/plain");
    assert_eq!(stored.json["bytes"], 8);
    assert_eq!(stored.str("sha256"), hex::encode(Sha256::digest("<suite/>")));
    assert_eq!(lab.get(&path).await.expect(200).json, stored.json);
    assert_eq!(lease.bytes(&lab, "junit.xml").await, b"<suite/>");
    let of_lease = lab.get(&lease.path()).await.expect(200);
    let link = of_lease.json["links"]["artifacts"].as_str().unwrap();
    assert_eq!(lab.get(link).await.expect(200).items("id"), [id.as_str()]);

    // A repeat is true, and other bytes are no repeat.
    let again = lease.put(&lab, "junit.xml", "<suite/>").await.expect(200);
    assert_eq!(again.json, stored.json);
    for other in ["<SUITE/>", "<suite></suite>"] {
        lease.put(&lab, "junit.xml", other).await.problem(409, "artifact-exists");
    }
    assert_eq!(lease.names(&lab).await, ["junit.xml"]);

    let deleted = Answer::from_request(lab.request(Method::DELETE, &path)).await.expect(200);
    assert_eq!(deleted.json, stored.json);
    lab.get(&path).await.problem(404, "not-found");
    lab.get(&format!("{path}/content")).await.problem(404, "not-found");
    Answer::from_request(lab.request(Method::DELETE, &path)).await.problem(404, "not-found");
    let new = lease.put(&lab, "junit.xml", "<SUITE/>").await.expect(201);
    assert_ne!(new.str("id"), id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_not_a_body_of_json() {
    let lab = Lab::with_settings(|settings| settings.http.body_limit = 1_024).await;
    let lease = Held::take(&lab, json!({})).await;
    let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let stored = lease.put(&lab, "core", bytes.clone()).await.expect(201);
    assert_eq!(stored.str("sha256"), hex::encode(Sha256::digest(&bytes)));
    assert!(lease.bytes(&lab, "core").await == bytes);
    // An empty file is a file.
    let path = format!("{}/artifacts/empty", lease.path());
    let request = lab.request(Method::PUT, &path).header("otter-lease", &lease.secret);
    Answer::from_request(request.header("content-length", "0")).await.expect(201);
    assert_eq!(lease.bytes(&lab, "empty").await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_unsafe_or_otters_is_refused() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, json!({})).await;
    let long = "a".repeat(300);
    for name in [
        "a%2Fb",
        "..%2F..%2Fetc%2Fpasswd",
        ".bashrc",
        "%00",
        "a%0Ab",
        "a%20b",
        "%C3%BC",
        &long,
        "screen.apng",
        "Screen-last.png",
        "ttyS0.log",
        "run.cast",
    ] {
        let refused = lease.put(&lab, name, "x").await;
        refused.problem(400, "invalid-request").points_at("name", "not-a-name");
    }
    assert_eq!(lease.names(&lab).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_a_browser_runs_is_not_kept() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, json!({})).await;
    for (name, given, kept) in [
        ("a.html", "text/html", "application/octet-stream"),
        ("b.svg", "image/svg+xml", "application/octet-stream"),
        ("c.json", "application/json; charset=utf-8", "application/json"),
        ("d.png", "image/png", "image/png"),
    ] {
        let stored = lease.put_as(&lab, name, given, "<script>").await.expect(201);
        assert_eq!(stored.str("content_type"), kept);
    }
}

/// Sends a body whose length differs from the announced one to the router itself, because an HTTP
/// server never passes on more than was announced.
async fn put_announced(lab: &Lab, lease: &Held, announced: &str, body: &'static str) -> Answer {
    let request = http::Request::put(format!("{}/artifacts/result.txt", lease.path()))
        .header("host", "localhost")
        .header("otter-lease", &lease.secret)
        .header("content-length", announced)
        .body(Body::from(body))
        .unwrap();
    let (head, body) = lab.service.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Answer::from_parts(head.status.as_u16(), head.headers, bytes)
}

fn files_in(state: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(state.join("artifacts")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_more_or_fewer_bytes_than_announced_is_not_kept() {
    let state = tempfile::tempdir().unwrap();
    let lab = Lab::with_state_dir_and_options(state.path(), LabOptions::default()).await;
    lab.wait_until_ready().await;
    let lease = Held::take(&lab, json!({})).await;
    for announced in ["4", "6", "0"] {
        let refused = put_announced(&lab, &lease, announced, "12345").await;
        let detail = refused.problem(400, "invalid-request").str("detail").to_owned();
        assert!(detail.contains(&format!("announced {announced} bytes")), "{detail}");
    }
    put_announced(&lab, &lease, "no number", "12345").await.problem(411, "length-required");
    assert_eq!(files_in(state.path()), [""; 0]);
    assert_eq!(lease.names(&lab).await, [""; 0]);

    // A connection that breaks off in the middle.
    let mut connection = RawConnection::open(lab.address).await;
    let head = format!(
        "PUT {}/artifacts/result.txt HTTP/1.1\r\nhost: localhost\r\notter-lease: {}\r\n\
         content-length: 5\r\n\r\n123",
        lease.path(),
        lease.secret
    );
    connection.send(head.as_bytes()).await;
    eventually("the upload to begin", async || files_in(state.path()).len() == 1).await;
    drop(connection);
    eventually("the part to be removed", async || files_in(state.path()).is_empty()).await;
    assert_eq!(lease.names(&lab).await, [""; 0]);
    put_announced(&lab, &lease, "5", "12345").await.expect(201);
    assert_eq!(files_in(state.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_takes_artifacts_after_its_end_too() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, json!({})).await;
    lease.end(&lab).await;
    lease.put(&lab, "report.txt", "passed").await.expect(201);
    assert_eq!(lease.bytes(&lab, "report.txt").await, b"passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_and_deleted_is_audited_and_counted() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, json!({})).await;
    let stored = lease.put(&lab, "result.txt", "passed").await.expect(201);
    let path = format!("/v1/artifacts/{}", stored.str("id"));
    let metrics = lab.get("/metrics").await.text;
    for line in [
        "otter_artifacts 1\n",
        "otter_artifacts_bytes 6\n",
        "otter_artifacts_stored_total{source=\"caller\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    Answer::from_request(lab.request(Method::DELETE, &path)).await.expect(200);
    let metrics = lab.get("/metrics").await.text;
    for line in ["otter_artifacts 0\n", "otter_artifacts_deleted_total{reason=\"call\"} 1\n"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let audit = lab.get("/v1/audit?action=artifact.stored,artifact.deleted").await.expect(200);
    assert_eq!(audit.items("action"), ["artifact.deleted", "artifact.stored"]);
    assert_eq!(audit.items("detail"), ["result.txt, 6 bytes (call)", "result.txt, 6 bytes"]);
    assert_eq!(audit.items("lease"), [lease.id.as_str(), &lease.id]);
    assert_eq!(audit.items("actor"), ["anonymous", "anonymous"]);
}
