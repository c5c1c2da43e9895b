//! Streams of events as responses: their formats, limits and invalid parameters.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    ACCEPT_NDJSON, EventStream, Lab, LabOptions, RawConnection, StreamedEvent, eventually,
};

#[tokio::test]
async fn malformed_parameters_are_refused() {
    let lab = Lab::start().await;
    let long = "9".repeat(5_000);
    for garbage in [
        "",
        "7",
        "now",
        "0123456789ab-",
        "0123456789ab--1",
        "0123456789AB-1",
        "%00",
        "%F0%9F%A6%A6",
        &long,
    ] {
        let problem = lab.get(&format!("/v1/events?since={garbage}")).await;
        problem.problem(400, "invalid-request").points_at("since", "not-a-version");
    }
    for garbage in ["", "7", "0123456789ab-x", "🦦"] {
        let problem = lab.get_with("/v1/events", &[("last-event-id", garbage)]).await;
        problem.problem(400, "invalid-request").points_at("last-event-id", "not-a-version");
    }
    for (query, place, code) in [
        ("types=machine", "types", "not-one-of"),
        ("types=", "types", "not-one-of"),
        ("types=job.changed,", "types", "not-one-of"),
        ("initial=yes", "initial", "not-a-boolean"),
        ("wait=-1s", "wait", "not-a-duration"),
        ("machine=", "machine", "empty"),
        ("job=", "job", "empty"),
        ("job=7", "job", "not-an-id"),
        ("reference=", "reference", "empty"),
        ("lease=", "lease", "empty"),
    ] {
        lab.get(&format!("/v1/events?{query}"))
            .await
            .problem(400, "invalid-request")
            .points_at(place, code);
    }
    lab.get("/v1/events?state=on").await.problem(400, "unknown-parameter");
    lab.get("/v1/events?machine=name:none-such").await.problem(404, "not-found");
    lab.get("/v1/events?machine=name:qubes-scratch").await.problem(409, "ambiguous-name");
}

#[tokio::test]
async fn bookmarks_advance_a_quiet_stream() {
    let lab =
        Lab::with_settings(|settings| settings.http.bookmark_interval = Duration::from_millis(20))
            .await;
    for accept in [ACCEPT_NDJSON, ("accept", "*/*")] {
        let mut events = EventStream::open_with(&lab, "?types=job.changed", &[accept]).await;
        let first = events.next().await.unwrap();
        assert_eq!(first.json, json!({"type": "bookmark", "version": events.version}));
        lab.annotate("22", accept.1);
        lab.wait_for_field("22", "annotation", json!(accept.1)).await;
        let now = lab.get("/v1/machines").await.str("version").to_owned();
        let moved = events.until(|event| event.version() == now).await;
        assert!(moved.iter().all(StreamedEvent::is_bookmark));
    }
}

#[tokio::test]
async fn wait_limits_a_stream_which_ends_with_bye() {
    let lab = Lab::with_settings(|settings| settings.http.max_wait = Duration::from_secs(1)).await;
    let since = lab.get("/v1/machines").await.str("version").to_owned();
    lab.annotate("22", "before");
    lab.wait_for_field("22", "annotation", json!("before")).await;
    // Existing events are sent even if `wait` is 0.
    let mut events = EventStream::open(&lab, &format!("?machine=22&wait=0s&since={since}")).await;
    let all = events.rest().await;
    assert_eq!(all.iter().map(StreamedEvent::kind).collect::<Vec<_>>(), ["machine.changed", "bye"]);
    let bye = all.last().unwrap();
    assert_eq!(bye.id.as_deref(), Some(lab.get("/v1/machines").await.str("version")));
    // A longer wait is limited to the maximum, which `Otter-Wait` reports.
    let answer = lab
        .request(reqwest::Method::GET, "/v1/events?wait=1h&types=job.changed")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["otter-wait"], "1s");
    let body = answer.text().await.unwrap();
    assert!(body.contains("event: bye"), "{body}");
    // A stream from the version of `bye` continues without a gap.
    lab.annotate("22", "after");
    let mut again =
        EventStream::open_with(&lab, "?machine=22", &[("last-event-id", bye.version())]).await;
    assert_eq!(again.event().await.json["object"]["annotation"], "after");
}

#[tokio::test]
async fn a_shutdown_ends_streams_with_bye_and_does_not_wait_for_clients_that_do_not_read() {
    let lab = Lab::start().await;
    let mut stuck = RawConnection::open(lab.address).await;
    stuck.send(b"GET /v1/events?types=machine.changed HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let mut quick = EventStream::open(&lab, "?types=machine.changed").await;
    let large = "x".repeat(512 * 1024);
    for round in 0..24 {
        let text = format!("{round} {large}");
        lab.annotate("16", &text);
        quick.until(|event| event.json["object"]["annotation"] == text).await;
    }
    let mut events = EventStream::open_with(&lab, "", &[ACCEPT_NDJSON]).await;
    let ending = tokio::spawn(lab.stop());
    let all = events.rest().await;
    assert_eq!(all.last().unwrap().kind(), "bye");
    assert_eq!(quick.rest().await.last().unwrap().kind(), "bye");
    assert_eq!(ending.await.unwrap().exit_code(), 0);
}

#[tokio::test]
async fn streams_are_never_compressed_and_never_stored() {
    let lab = Lab::start().await;
    for accept in [ACCEPT_NDJSON.1, "text/event-stream"] {
        let headers = [("accept", accept), ("accept-encoding", "gzip, zstd")];
        let mut events = EventStream::open_with(&lab, "?initial=true&wait=0s", &headers).await;
        assert!(events.rest().await.len() > 20);
    }
    let answer = lab.request(reqwest::Method::GET, "/v1/events?wait=0s").send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-cache");
    // A HEAD response has no body, so the call does not wait.
    let head = lab.request(reqwest::Method::HEAD, "/v1/events").send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-type"]),
        (200, &answer.headers()["content-type"])
    );
}

#[tokio::test]
async fn a_stream_takes_a_wait_permit_and_returns_it() {
    let lab = Lab::with_settings(|settings| settings.http.max_waits = 1).await;
    let stream = EventStream::open(&lab, "").await;
    lab.get("/v1/events").await.problem(503, "too-many-waits");
    lab.get("/v1/machines/22/wait?until=no_job").await.problem(503, "too-many-waits");
    drop(stream);
    eventually("the place to be free again", async || {
        lab.get("/v1/machines/22/wait?until=no_job").await.status == 200
    })
    .await;
    lab.get("/v1/events?since=x").await.problem(400, "invalid-request");
}

#[tokio::test]
async fn a_stream_can_start_before_the_inventory_is_loaded() {
    let lab = Lab::start_without_waiting(LabOptions {
        settings: |settings| settings.esx.url = "https://127.0.0.1:9".to_owned(),
        ..LabOptions::default()
    })
    .await;
    lab.get("/v1/events?initial=true").await.problem(503, "inventory-loading");
    let mut events = EventStream::open(&lab, "?wait=0s").await;
    let all = events.rest().await;
    assert_eq!(all.last().unwrap().kind(), "bye");
}
