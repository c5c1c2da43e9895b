//! Malformed headers: `Prefer`, `Idempotency-Key`, `Last-Event-ID`.

use serde_json::json;

use crate::harness::{Answer, EventStream, Lab, send_raw};

const POWER: &str = "/v1/machines/31/power";

/// A call with one header, whose value can be any bytes that HTTP allows.
async fn power_with(lab: &Lab, name: &str, value: &[u8]) -> Answer {
    let value = reqwest::header::HeaderValue::from_bytes(value).unwrap();
    let request = lab.request(reqwest::Method::POST, POWER).json(&json!({"action": "on"}));
    Answer::from_request(request.header(name, value)).await
}

/// RFC 7240: unknown preferences are ignored, and several header lines are one list.
#[tokio::test]
async fn a_malformed_preference_is_ignored() {
    let lab = Lab::start().await;
    for malformed in [
        "",
        "wait",
        "wait=",
        "wait=-1",
        "wait=1.5",
        "wait=30s",
        "wait=99999999999999999999",
        "return=minimal",
        "=;,=",
        "wait\t=\tsoon",
    ] {
        let accepted = power_with(&lab, "prefer", malformed.as_bytes()).await.expect(202);
        assert_eq!(accepted.header("preference-applied"), None, "{malformed}");
    }
    power_with(&lab, "prefer", b"wait=\xff").await.expect(202);
    let several = [("prefer", "respond-async"), ("prefer", "wait=10"), ("prefer", "wait=0")];
    let done = lab.post_with(POWER, json!({"action": "on"}), &several).await.expect(200);
    assert_eq!(done.header("preference-applied"), Some("wait=10"));
}

#[tokio::test]
async fn a_key_is_text_of_one_to_255_characters() {
    let lab = Lab::start().await;
    let key = "idempotency-key";
    for (wrong, code) in [
        (b"".to_vec(), "out-of-range"),
        ("k".repeat(256).into_bytes(), "out-of-range"),
        ("ü".repeat(256).into_bytes(), "out-of-range"),
        (b"a\tb".to_vec(), "control-character"),
        ("a\u{85}b".as_bytes().to_vec(), "control-character"),
        (b"a\xffb".to_vec(), "not-utf-8"),
    ] {
        power_with(&lab, key, &wrong).await.problem(400, "invalid-request").points_at(key, code);
    }
    // HTTP does not allow these characters in a header.
    for control in ["\x01", "\x7f", "\0"] {
        let head = format!(
            "POST {POWER} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{key}: a{control}b\r\n\r\n"
        );
        send_raw(lab.address, head).await.problem(400, "invalid-request");
    }
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
    for right in ["k".to_owned(), "k".repeat(255), "ü".repeat(255), "🦦 %00 \"'".to_owned()] {
        let first = power_with(&lab, key, right.as_bytes()).await.expect(202);
        let again = power_with(&lab, key, right.as_bytes()).await.expect(202);
        assert_eq!(
            (again.str("id"), again.header("idempotent-replayed")),
            (first.str("id"), Some("true"))
        );
    }
}

#[tokio::test]
async fn a_foreign_last_event_id_is_a_gap_and_a_malformed_one_is_refused() {
    let lab = Lab::start().await;
    let place = "last-event-id";
    let epoch = lab.get("/v1/machines").await.str("version").split_once('-').unwrap().0.to_owned();
    for garbage in [
        "-7",
        &epoch,
        &format!("{epoch}-"),
        &format!("{epoch}-7 "),
        &format!("{epoch}-7,{epoch}-8"),
    ] {
        let answer = lab.get_with("/v1/events?wait=0s", &[(place, &format!("x{garbage}"))]).await;
        answer.problem(400, "invalid-request").points_at(place, "not-a-version");
    }
    let twice = [(place, "0123456789ab-7"), (place, "0123456789ab-8")];
    lab.get_with("/v1/events", &twice)
        .await
        .problem(400, "invalid-request")
        .points_at(place, "repeated");
    let mixed = [(place, "0123456789ab-7")];
    lab.get_with("/v1/events?since=x", &mixed)
        .await
        .problem(400, "invalid-request")
        .points_at("since", "not-a-version");
    for foreign in ["0123456789ab-7", &format!("{epoch}-999999999")] {
        let mut events =
            EventStream::open_with(&lab, "?machine=22&wait=0s", &[(place, foreign)]).await;
        let received = events.rest().await;
        assert_eq!(
            received.iter().map(crate::harness::StreamedEvent::kind).collect::<Vec<_>>(),
            ["reset", "bye"],
            "{foreign}"
        );
    }
}
