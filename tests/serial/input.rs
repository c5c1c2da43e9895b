//! `POST …/serial/{port}/input`: what reaches the guest, at most once, in order, and what ends it.

use otter::simulator::GUEST_PASSWORD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::stream_client::StreamClient;
use super::*;

/// What a shell of a guest shows when it waits for a command.
const PROMPT: &str = "[user@dom0 ~]$ ";

fn input() -> String {
    path(RUNNING, PORT, "input")
}

async fn send(lab: &Lab, body: Value) -> Answer {
    lab.post(&input(), body).await
}

/// Sends a text, and waits for another one.
async fn dialogue(lab: &Lab, text: &str, answer: &str) -> Value {
    let wait_for = json!({"any": [{"text": answer}], "wait": "10s"});
    send(lab, json!({"text": text, "wait_for": wait_for})).await.expect(200).json
}

fn begin(lab: &Lab, body: &Value) -> JoinHandle<Answer> {
    tokio::spawn(Answer::from_request(lab.request(Method::POST, &input()).json(body)))
}

/// Waits until the guest got this number of bytes.
async fn got(lab: &Lab, bytes: u64) {
    eventually("the guest to get the input", async || on_host(lab).received >= bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dialogue_with_a_login_misses_nothing_in_between() {
    let lab = Lab::start().await;
    let found = dialogue(&lab, "\r", LOGIN).await;
    assert_eq!(found["sent"], json!({"events": 1, "characters": 1}));
    assert_eq!((&found["since"], &found["found"]["offset"]), (&json!(0), &json!(2)));
    dialogue(&lab, "user\r", "Password: ").await;
    let logged_in = dialogue(&lab, &format!("{GUEST_PASSWORD}\r"), PROMPT).await;
    let ran = dialogue(&lab, "hostname\r", "dom0\r\n").await;
    assert_eq!(ran["since"], logged_in["found"]["next_offset"]);
    let log = lab.get(ran["links"]["log"].as_str().unwrap()).await.expect(200).text;
    assert!(log.starts_with("hostname\r\ndom0\r\n"), "{log}");
    let audit = lab.get("/v1/audit?action=serial.input").await.expect(200).json;
    let newest = &audit["items"][0];
    assert_eq!((&newest["machine_name"], &newest["outcome"]), (&json!(NAME), &json!("done")));
    assert_eq!(newest["detail"], "port: ttyS1, bytes: 9");
    assert!(!audit.to_string().contains(GUEST_PASSWORD));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_sends_nothing_and_gets_the_same_answer() {
    let lab = Lab::start().await;
    let body = json!({
        "base64": "DQ==", "pace": "1ms",
        "wait_for": {"any": [{"regex": "(dom0) login: ", "name": "ready"}], "wait": "10s"},
    });
    let key = [("idempotency-key", "k")];
    let first = lab.post_with(&input(), body.clone(), &key).await.expect(200);
    let again = lab.post_with(&input(), body, &key).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json, first.json);
    assert_eq!(first.json["found"]["matched"]["captures"], json!(["dom0"]));
    assert_eq!(on_host(&lab).received, 1);
    let other = lab.post_with(&input(), json!({"text": "x"}), &key).await;
    other.problem(422, "idempotency-mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_its_answer_also_after_the_machine_is_gone() {
    let lab = Lab::start().await;
    let body = json!({"text": "\r", "wait_for": {"any": [{"text": LOGIN}], "wait": "10s"}});
    let key = [("idempotency-key", "k")];
    let first = lab.post_with(&input(), body.clone(), &key).await.expect(200);
    lab.control().mutate(|world| world.remove_machine(RUNNING));
    lab.wait_until_gone(RUNNING).await;
    let again = lab.post_with(&input(), body, &key).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json, first.json);
    send(&lab, json!({"text": "a"})).await.problem(404, "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_take_turns_and_a_call_that_hangs_up_stops() {
    let lab = Lab::start().await;
    let first = begin(&lab, &json!({"text": "a".repeat(1000), "pace": "20ms"}));
    got(&lab, 2).await;
    let second = begin(&lab, &json!({"text": "b"}));
    let line = "otter_waits_open 2\n";
    eventually("both calls", async || lab.get("/metrics").await.text.contains(line)).await;
    let shown = state(&lab, RUNNING, PORT).await;
    assert_eq!(shown["writer"]["caller"], "anonymous");
    first.abort();
    second.await.unwrap().expect(200);
    assert!(on_host(&lab).received < 1000);
    eventually("the seat to be free", async || {
        state(&lab, RUNNING, PORT).await["writer"].is_null()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_first_byte_every_failure_is_an_interruption() {
    let lab = Lab::start().await;
    open(&lab).await;
    let call = begin(&lab, &json!({"text": "a".repeat(100), "pace": "100ms"}));
    got(&lab, 3).await;
    lab.control().change_serial_port(RUNNING, PORT, PortChange::Cut { reset: false });
    let cut = call.await.unwrap().problem(409, "input-interrupted");
    let sent = cut.json["sent"]["characters"].as_u64().unwrap();
    assert!((3..100).contains(&sent), "{}", cut.text);
    assert_eq!(cut.json["sent"]["events"], 0);
    assert_eq!(
        (cut.str("retry"), &cut.json["errors"][0]["code"]),
        ("no", &"console-unavailable".into())
    );
    let never = json!({"text": "\r", "wait_for": {"any": [{"text": "never"}], "wait": "500ms"}});
    let late = send(&lab, never).await.problem(409, "input-interrupted");
    assert_eq!(late.json["sent"], json!({"events": 1, "characters": 1}));
    assert_eq!(late.json["errors"][0]["code"], "wait-timeout");
    // What was typed before the cut is the name of a user.
    assert!(late.str("seen").ends_with("Password: "), "{}", late.text);
    let power = format!("/v1/machines/{RUNNING}/power?wait=30s");
    lab.post(&power, json!({"action": "off"})).await.expect(200);
    send(&lab, json!({"text": "a"})).await.problem(409, "invalid-power-state");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_stream_writes_calls_are_refused_and_a_stream_can_take_over_from_a_call() {
    let lab = Lab::start().await;
    let stream = |query: &str| format!("{}{query}", path(RUNNING, PORT, "stream"));
    let mut writer = StreamClient::open(&lab, &stream("?mode=drive"), &[]).await.unwrap();
    let busy = send(&lab, json!({"text": "a"})).await.problem(409, "serial-busy");
    assert!(busy.str("detail").starts_with("anonymous writes to ttyS1 of"), "{}", busy.text);
    writer.send("\r").await;
    writer.until(LOGIN).await;
    drop(writer);
    eventually("the seat to be free", async || {
        state(&lab, RUNNING, PORT).await["writer"].is_null()
    })
    .await;
    let call = begin(&lab, &json!({"text": "a".repeat(100), "pace": "100ms"}));
    got(&lab, 3).await;
    StreamClient::open(&lab, &stream("?mode=drive"), &[])
        .await
        .unwrap_err()
        .expect(409, "serial-busy");
    let _writer = StreamClient::open(&lab, &stream("?mode=drive&force=true"), &[]).await.unwrap();
    let taken = call.await.unwrap().problem(409, "input-interrupted");
    assert_eq!(taken.json["errors"][0]["code"], "serial-busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_refusal_of_an_input_shows_a_part_of_it() {
    let lab = Lab::start().await;
    for (body, place, code) in [
        (json!({"text": ["hunter2"]}), "/text", "invalid"),
        (json!({"base64": "hunter2"}), "/base64", "not-base64"),
        (json!({"text": "hunter2", "base64": "hunter2"}), "", "not-one-of"),
        (json!({"text": "hunter2", "pace": "1h"}), "/pace", "out-of-range"),
        (json!({"text": "hunter2".repeat(3000)}), "/text", "out-of-range"),
    ] {
        let refused = send(&lab, body).await.problem(400, "invalid-request");
        assert!(!refused.text.contains("hunter2"), "{}", refused.text);
        if code != "invalid" {
            refused.points_at(place, code);
        }
    }
    assert_eq!(on_host(&lab).connections, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_refuses_otter_gets_no_input_and_the_call_may_be_repeated() {
    let lab = Lab::start().await;
    lab.control().change_serial_port(RUNNING, PORT, PortChange::Refuse(true));
    eventually("the port to refuse", async || !on_host(&lab).is_listening).await;
    let refused = send(&lab, json!({"text": "a"})).await.problem(503, "console-unavailable");
    assert!(refused.str("detail").contains("remoteSerialPort"), "{}", refused.text);
    lab.control().change_serial_port(RUNNING, PORT, PortChange::Refuse(false));
    send(&lab, json!({"text": "a"})).await.expect(200);
    got(&lab, 1).await;
}
