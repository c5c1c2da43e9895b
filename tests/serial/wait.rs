//! `POST …/serial/{port}/wait`, and `until=serial:` of `GET …/wait`.

use reqwest::Method;
use serde_json::{Value, json};

use super::*;

fn wait_path(time: &str) -> String {
    format!("{}{time}", path(RUNNING, PORT, "wait"))
}

/// Begins a wait. Returns when otter has begun it.
async fn begun(lab: &Lab, body: Value) -> tokio::task::JoinHandle<Answer> {
    let wait = lab.request(Method::POST, &wait_path("?wait=30s")).json(&body);
    let wait = tokio::spawn(Answer::from_request(wait));
    let line = "otter_waits_open 1\n";
    eventually("the wait", async || lab.get("/metrics").await.text.contains(line)).await;
    wait
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_finds_a_text_that_comes_in_pieces() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"login: ");
    until_read(&lab, b"login: ").await;
    let body = json!({"any": [{"text": "panic"}, {"text": "login: ", "name": "ready"}]});
    let wait = begun(&lab, body).await;
    output(&lab, b"dom0 lo");
    until_read(&lab, b"dom0 lo").await;
    output(&lab, b"gin: ");
    let found = wait.await.unwrap().expect(200).json;
    assert_eq!(
        found["matched"],
        json!({"index": 1, "name": "ready", "text": "login: ", "captures": []})
    );
    assert_eq!((&found["offset"], &found["next_offset"]), (&json!(12), &json!(19)));
    // Only what comes from now on counts, unless `since` says otherwise.
    let again = json!({"any": [{"text": "login: "}]});
    lab.post(&wait_path("?wait=0s"), again).await.problem(504, "wait-timeout");
    for (since, offset) in [(0, 0), (1, 12), (-7, 12)] {
        let again = json!({"any": [{"text": "login: "}], "since": since});
        let found = lab.post(&wait_path(""), again).await.expect(200).json;
        assert_eq!(found["offset"], offset, "{since}");
    }
    let log = found["links"]["log"].as_str().unwrap();
    assert_eq!(lab.get(log).await.expect(200).bytes, b"login: ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regular_expression_has_captures() {
    let lab = Lab::start().await;
    open(&lab).await;
    let regex = r"version (\d+)\.(\d+)(rc)?\r\n";
    let wait = begun(&lab, json!({"any": [{"regex": regex}]})).await;
    output(&lab, b"Qubes version 4.");
    until_read(&lab, b"4.").await;
    output(&lab, b"3\r\n");
    let found = wait.await.unwrap().expect(200).json;
    assert_eq!(found["matched"]["captures"], json!(["4", "3", null]));
    assert_eq!(found["matched"]["text"], "version 4.3\r\n");
    for (body, place, code) in [
        (json!({"any": []}), "/any", "empty"),
        (json!({"any": [{"regex": "("}]}), "/any/0/regex", "not-a-regex"),
        (json!({"any": [{"text": "a", "regex": "b"}]}), "/any/0", "not-one-of"),
    ] {
        let wrong = lab.post(&wait_path(""), body).await.problem(400, "invalid-request");
        wrong.points_at(place, code);
    }
    let beyond = json!({"any": [{"text": "a"}], "since": 4096});
    let beyond = lab.post(&wait_path(""), beyond).await.problem(416, "offset-out-of-range");
    beyond.points_at("/since", "out-of-range");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_ends_too_early_shows_the_last_output() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"\x1b[1mKernel panic\x1b[0m\r\n");
    until_read(&lab, b"\r\n").await;
    let never = json!({"any": [{"text": "login: "}]});
    let late = lab.post(&wait_path("?wait=0s"), never).await.problem(504, "wait-timeout");
    assert_eq!(late.json["seen"], "Kernel panic\n");
    assert_eq!(late.json["retry"], "same-key");
    let detail = late.str("detail");
    assert!(detail.starts_with("ttyS1 of qubes") && detail.contains("\"login: \""), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_off_ends_a_wait_at_once_unless_its_output_matches() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"System halted");
    until_read(&lab, b"halted").await;
    let off = json!({"action": "off"});
    lab.post(&format!("/v1/machines/{RUNNING}/power?wait=30s"), off).await.expect(200);
    let never = json!({"any": [{"text": "never"}], "since": 0});
    lab.post(&wait_path("?wait=30s"), never).await.problem(409, "invalid-power-state");
    let known = json!({"any": [{"text": "halted"}], "since": 0});
    lab.post(&wait_path("?wait=30s"), known).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_can_be_waited_for_by_its_output() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"a: b, c");
    until_read(&lab, b"a: b, c").await;
    let wait = |until: &str| format!("/v1/machines/{RUNNING}/wait?until={until}");
    let url = wait("serial@ttyS1:a:%20b,%20c&wait=30s");
    let waiting = tokio::spawn(Answer::from_request(lab.request(Method::GET, &url)));
    let line = "otter_waits_open 1\n";
    eventually("the wait", async || lab.get("/metrics").await.text.contains(line)).await;
    output(&lab, b"a: b, c");
    let machine = waiting.await.unwrap().expect(200);
    assert_eq!((machine.str("id"), machine.str("name")), (RUNNING, NAME));
    let late = lab.get(&wait("serial@9001:never&wait=0s")).await.problem(504, "wait-timeout");
    assert_eq!(late.json["seen"], "a: b, ca: b, c");
    assert!(late.str("detail").contains("\"never\""), "{}", late.text);
    for (until, status, code) in [
        ("serial:", 400, "invalid-request"),
        ("serial@COM1:a", 400, "invalid-request"),
        ("serial@ttyS7:a", 404, "not-found"),
        // The other end of its first port is a machine in which otter does not run.
        ("serial:a", 501, "not-supported"),
    ] {
        lab.get(&wait(until)).await.problem(status, code);
    }
}
