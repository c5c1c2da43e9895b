//! `POST …/screen/input`: what reaches the guest, at most once, in order, and what ends it.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use otter::clock::Clock;
use otter::simulator::{ConsoleEnd, ConsoleQuirks, Control, HostChange, Pace, ScreenStage};
use reqwest::Method;
use serde_json::{Value, json};

use super::{RUNNING, terminal, typed_in_terminal, without_request_id};
use crate::api::tokens::Guarded;
use crate::harness::{Answer, Lab, LabOptions, eventually};

const INPUT: &str = "/v1/machines/17/screen/input";

/// What was typed into the terminal since the last Enter.
fn typed(lab: &Lab) -> String {
    typed_on(lab.control())
}

fn typed_on(control: &Control) -> String {
    typed_in_terminal(control, RUNNING)
}

/// Waits until the terminal shows this text after its prompt. The guest gets it shortly after the
/// answer.
async fn shows_typed(lab: &Lab, text: &str) {
    let what = format!("{text:?} in the terminal");
    eventually(&what, async || typed(lab) == text).await;
}

/// Waits until nothing is held down in the guest.
async fn is_released(lab: &Lab) {
    eventually("the release of all keys", async || holds_nothing(lab, RUNNING)).await;
}

fn holds_nothing(lab: &Lab, machine: &str) -> bool {
    let screen = lab.control().screen(machine).expect("a screen");
    screen.held_keys.is_empty() && screen.held_buttons == 0
}

async fn send(lab: &Lab, body: Value) -> Answer {
    lab.post(INPUT, body).await
}

async fn send_with_key(lab: &Lab, key: &str, body: Value) -> Answer {
    lab.post_with(INPUT, body, &[("idempotency-key", key)]).await
}

/// A text whose typing takes seconds.
fn slow(text: &str) -> Value {
    json!({"events": [{"text": text}], "interval": "100ms"})
}

/// Begins a call. Returns when its first characters were typed.
async fn begun(
    lab: &Lab,
    headers: &[(&str, &str)],
    body: Value,
) -> tokio::task::JoinHandle<Answer> {
    let mut request = lab.request(Method::POST, INPUT).json(&body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let call = tokio::spawn(Answer::from_request(request));
    eventually("the first characters", async || typed(lab).len() > 2).await;
    call
}

/// The number of characters that a call reports as sent.
#[track_caller]
fn characters(answer: &Answer) -> usize {
    usize::try_from(answer.json["sent"]["characters"].as_u64().expect("sent")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_and_keys_reach_the_guest_as_they_were_sent() {
    let lab = terminal().await;
    let text = "Hello-otter_42 {[(~|\"'`^%$#@!)]} QWERTY";
    let body = json!({"events": [{"text": text}], "interval": "5ms"});
    let answer = send(&lab, body).await.expect(200);
    assert_eq!(answer.json["sent"], json!({"events": 1, "characters": text.chars().count()}));
    assert!(answer.str("finished_at").ends_with('Z'));
    shows_typed(&lab, text).await;
    let keys = json!({"events": [{"keys": ["ctrl-u", "shift-a", "b", "left", "minus"]}]});
    let answer = send(&lab, keys).await.expect(200);
    assert_eq!(answer.json["sent"], json!({"events": 1, "characters": 0}));
    shows_typed(&lab, "Ab-").await;
    let held = json!([{"hold": "shift"}, {"keys": ["c"]}, {"release": "shift"}, {"text": "d"}]);
    send(&lab, json!({"events": held})).await.expect(200);
    shows_typed(&lab, "Ab-Cd").await;
    is_released(&lab).await;
    assert_eq!(lab.control().calls("AcquireTicket"), 1, "all calls share one connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_typed_and_its_window_waited_for() {
    let lab = Lab::start().await;
    lab.control().show_screen(RUNNING, ScreenStage::Login);
    let picture = async |region: &str| {
        let path = format!("/v1/machines/17/screen.png?region={region}");
        BASE64_STANDARD.encode(lab.get(&path).await.expect(200).bytes)
    };
    let button = picture("340,330,120,40").await;
    for (outside, by) in [("dx", -500), ("dx", 500), ("dy", -400), ("dy", 400)] {
        let body = json!({"events": [
            {"until": {"any": [{"image": button}], "wait": "10s"}},
            {"click": {"last_match": true, outside: by}},
        ]});
        let refused = send(&lab, body).await.problem(400, "invalid-request");
        assert_eq!(refused.json["errors"][0]["pointer"], "/events/1/click", "{}", refused.text);
    }
    let body = json!({"events": [
        {"until": {"any": [{"image": button}], "wait": "10s"}},
        {"text": "otter"},
        {"click": {"last_match": true, "dx": 5}},
        {"until": {"still": "300ms", "wait": "10s"}},
        {"keys": ["ctrl-alt-t"]},
    ]});
    let answer = send(&lab, body).await.expect(200);
    assert_eq!(answer.json["sent"], json!({"events": 5, "characters": 5}));
    eventually("the terminal", async || {
        lab.control().screen(RUNNING).unwrap().stage == ScreenStage::Terminal
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pointer_moves_clicks_drags_and_scrolls() {
    let lab = terminal().await;
    let many = json!({"events": [{"text": "seq 60\n"}], "interval": "5ms"});
    send(&lab, many).await.expect(200);
    eventually("the numbers", async || lab.control().shows(RUNNING, "60")).await;
    let up =
        json!({"events": [{"scroll": {"x": 300, "y": 300, "amount": -20}}], "interval": "5ms"});
    send(&lab, up).await.expect(200);
    let first = |lab: &Lab| lab.control().screen(RUNNING).unwrap().lines.contains(&"2".to_owned());
    eventually("the beginning", async || first(&lab)).await;
    // The window is dragged by its title, and closed by its box.
    let events = json!([
        {"scroll": {"x": 300, "y": 300, "amount": 100}},
        {"drag": {"x": 300, "y": 50, "to_x": 500, "to_y": 150}},
        {"move": {"x": 1, "y": 1}},
    ]);
    send(&lab, json!({"events": events, "interval": "5ms"})).await.expect(200);
    is_released(&lab).await;
    let open = |lab: &Lab| lab.control().screen(RUNNING).unwrap().stage;
    // Where the box was before.
    let old = json!({"events": [{"click": {"x": 977, "y": 53}}]});
    send(&lab, old).await.expect(200);
    assert_eq!(open(&lab), ScreenStage::Terminal, "the window has moved");
    let new = json!({"events": [{"click": {"x": 1177, "y": 153}}]});
    send(&lab, new).await.expect(200);
    eventually("the desktop", async || open(&lab) == ScreenStage::Desktop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_found_before_the_first_key() {
    let lab = terminal().await;
    for (event, place, code) in [
        (json!({}), "/events/1", "missing"),
        (json!({"text": "a", "keys": ["b"]}), "/events/1", "not-with-this"),
        (json!({"text": "日本"}), "/events/1/text", "no-key"),
        (json!({"keys": ["entr"]}), "/events/1/keys/0", "not-one-of"),
        (json!({"keys": "enter"}), "/events/1/keys", "wrong-type"),
        (json!({"text": null}), "/events/1/text", "wrong-type"),
        (json!({"txt": "a"}), "/events/1/txt", "unknown-field"),
        (json!({"click": {"x": 70_000, "y": 1}}), "/events/1/click/x", "wrong-type"),
        (json!({"move": {"x": 7}}), "/events/1/move/y", "missing"),
        (json!({"move": [1, 2]}), "/events/1/move", "wrong-type"),
        (json!(["a"]), "/events/1", "wrong-type"),
        (json!({"until": {"still": "1s"}}), "/events/1/until/wait", "missing"),
        (json!({"keys": ["ctrl+c"]}), "/events/1/keys/0", "not-one-of"),
        (json!({"hold": "ctrl-alt"}), "/events/1/hold", "not-one-of"),
        (json!({"click": {"x": 1_280, "y": 1}}), "/events/1/click", "out-of-range"),
        (
            json!({"drag": {"x": 1, "y": 1, "to_x": 1, "to_y": 1_024}}),
            "/events/1/drag",
            "out-of-range",
        ),
        (
            json!({"until": {"any": [{"regex": "("}], "wait": "1s"}}),
            "/events/1/until/any/0/regex",
            "not-a-regex",
        ),
        (json!({"until": {"wait": "1s"}}), "/events/1/until/any", "missing"),
    ] {
        let answer = send(&lab, json!({"events": [{"text": "never"}, event]})).await;
        answer.problem(400, "invalid-request").points_at(place, code);
    }
    let named = send(&lab, json!({"events": [{"keys": ["ctrl-alt-delte"]}]})).await;
    let named = named.problem(400, "invalid-request");
    assert!(named.str("detail").contains("delete"), "{}", named.text);
    let large = send(&lab, json!({"events": [{"text": "a".repeat(4 << 20)}]})).await;
    large.problem(413, "payload-too-large");
    let nothing = lab.post(&format!("{INPUT}?wait=1s"), json!({"events": [{"text": "a"}]})).await;
    nothing.problem(400, "unknown-parameter");
    assert_eq!(typed(&lab), "", "the machine is untouched");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_screen_gets_no_input() {
    let lab = Lab::start().await;
    let body = json!({"events": [{"text": "a"}]});
    let off = lab.post("/v1/machines/16/screen/input", body.clone()).await;
    off.problem(409, "invalid-power-state");
    let golden = lab.control().look(|world| {
        let golden = world.machines().find(|machine| machine.name.starts_with("golden-"));
        golden.map(|machine| machine.id.clone())
    });
    if let Some(golden) = golden {
        let refused = lab.post(&format!("/v1/machines/{golden}/screen/input"), body).await;
        refused.problem(409, "self-protection");
    }
    assert_eq!(lab.control().calls("AcquireTicket"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_types_nothing_twice() {
    let lab = terminal().await;
    let body = json!({"events": [{"text": "once"}], "interval": "5ms"});
    let first = send_with_key(&lab, "k", body.clone()).await.expect(200);
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = send_with_key(&lab, "k", body).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json, first.json);
    shows_typed(&lab, "once").await;
    let other = send_with_key(&lab, "k", json!({"events": [{"text": "other"}]})).await;
    other.problem(422, "idempotency-mismatch");
    // A call that typed nothing leaves its key free.
    let wrong = send_with_key(&lab, "free", json!({"events": [{"text": "日"}]})).await;
    wrong.problem(400, "invalid-request");
    send_with_key(&lab, "free", json!({"events": [{"text": "!"}]})).await.expect(200);
    shows_typed(&lab, "once!").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_wait_for_the_first_call() {
    let lab = terminal().await;
    let body = json!({"events": [{"text": "twenty characters..."}], "interval": "20ms"});
    let answers = join_all((0..5).map(|_| send_with_key(&lab, "k", body.clone()))).await;
    let results: BTreeSet<String> = answers.iter().map(|answer| answer.json.to_string()).collect();
    assert!(answers.iter().all(|answer| answer.status == 200) && results.len() == 1, "{results:?}");
    let first = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none());
    assert_eq!(first.count(), 1);
    shows_typed(&lab, "twenty characters...").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_for_one_machine_take_turns_and_the_ninth_that_waits_is_refused() {
    let lab = terminal().await;
    let letters = "a".repeat(40);
    // It lasts longer than the eight requests need on a busy machine.
    let body = json!({"events": [{"text": letters}], "interval": "250ms"});
    let first = begun(&lab, &[], body).await;
    // Each request is sent when the one before has its place.
    let mut waiting = Vec::new();
    for number in 0..8 {
        let body = json!({"events": [{"text": number.to_string().repeat(3)}], "interval": "5ms"});
        waiting
            .push(tokio::spawn(Answer::from_request(lab.request(Method::POST, INPUT).json(&body))));
        let waits = format!("otter_waits_open {}\n", number + 2);
        eventually("the call to wait", async || {
            lab.get("/metrics").await.expect(200).text.contains(&waits)
        })
        .await;
    }
    let ninth = send(&lab, json!({"events": [{"text": "9"}]})).await.problem(429, "queue-full");
    assert!(ninth.header("retry-after").is_some());
    first.await.unwrap().expect(200);
    for answer in join_all(waiting).await {
        answer.unwrap().expect(200);
    }
    // Requests that come at almost the same time have no order, but each types without a break.
    eventually("all letters", async || typed(&lab).len() == letters.len() + 8 * 3).await;
    let typed = typed(&lab);
    let (before, after) = typed.split_at(letters.len());
    let mut texts: Vec<&str> =
        after.as_bytes().chunks(3).map(|text| str::from_utf8(text).unwrap()).collect();
    texts.sort_unstable();
    let expected: Vec<String> = (0..8).map(|number| number.to_string().repeat(3)).collect();
    assert_eq!((before, texts), (&*letters, expected.iter().map(String::as_str).collect()));
}

/// A program that needs longer than an `until` lasts reads the screen once all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_until_looks_at_the_screen_before_it_gives_up() {
    let lab = Lab::with_settings(|settings| {
        let slow = ["sh", "-c", "sleep 1; exec tesseract \"$@\"", "tesseract"];
        settings.screens.ocr_command = slow.map(str::to_owned).to_vec();
    })
    .await;
    lab.control().show_screen(RUNNING, ScreenStage::Login);
    let until = json!({"any": [{"text": "Kernel panic"}], "wait": "100ms"});
    let body = json!({"events": [{"until": until}]});
    let problem = send(&lab, body).await.problem(504, "wait-timeout");
    assert!(problem.str("seen").contains("Log In"), "{}", problem.text);
}

/// Whatever ends a call after its first key: the machine has a beginning of the text, the answer
/// says how much, no status invites a repeat, and a repeat types nothing.
async fn is_interrupted(
    lab: &Lab,
    call: tokio::task::JoinHandle<Answer>,
    cause: &str,
    before: &str,
) {
    let answer = call.await.unwrap().problem(409, "input-interrupted");
    assert_eq!(answer.json["retry"], "no");
    let codes: Vec<&str> = answer.json["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["code"].as_str().unwrap())
        .collect();
    assert!(
        codes.iter().any(|code| cause.split('|').any(|one| one == *code)),
        "{codes:?}: {}",
        answer.text
    );
    assert_eq!(answer.json["sent"]["events"], 0);
    let sent = characters(&answer);
    assert!((1..before.len()).contains(&sent), "{sent} characters of {before}");
    let again = send_with_key(lab, "k", slow(before)).await.problem(409, "input-interrupted");
    assert_eq!(without_request_id(&again), without_request_id(&answer));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(answer.header("idempotent-replayed"), None);
}

/// A text that takes six seconds to type, at ten characters a second.
const LONG: &str = "a-text-that-takes-six-seconds-to-type-at-ten-letters-a-second";

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_connection_interrupts() {
    for how in [ConsoleEnd::Cut, ConsoleEnd::Close] {
        let lab = terminal().await;
        let call = begun(&lab, &[("idempotency-key", "k")], slow(LONG)).await;
        lab.control().end_consoles(RUNNING, how);
        is_interrupted(&lab, call, "console-unavailable", LONG).await;
        // otter connects again, and types nothing of it there.
        lab.get("/v1/machines/17/screen.png").await.expect(200);
        let shown = typed(&lab);
        assert!(LONG.starts_with(&shown) && shown.len() < LONG.len(), "{shown}");
        send(&lab, json!({"events": [{"keys": ["ctrl-u"]}, {"text": "new"}]})).await.expect(200);
        shows_typed(&lab, "new").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn power_off_suspend_and_revert_interrupt() {
    for (path, body) in [
        ("power", json!({"action": "off"})),
        ("power", json!({"action": "suspend"})),
        ("snapshots/logged%20in/revert", json!({})),
    ] {
        let lab = terminal().await;
        let call = begun(&lab, &[("idempotency-key", "k")], slow(LONG)).await;
        let path = format!("/v1/machines/{RUNNING}/{path}?wait=30s");
        lab.post(&path, body).await.expect(200);
        is_interrupted(&lab, call, "console-unavailable|invalid-power-state", LONG).await;
    }
}

/// A guest keeps the keys of a console that was cut.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_over_a_lost_connection_is_released_on_the_next_one() {
    for how in [ConsoleEnd::Cut, ConsoleEnd::Close] {
        let lab = terminal().await;
        let body = json!({"events": [{"hold": "shift"}, {"text": LONG}], "interval": "100ms"});
        let call = begun(&lab, &[], body).await;
        lab.control().end_consoles(RUNNING, how);
        call.await.unwrap().problem(409, "input-interrupted");
        is_released(&lab).await;
    }
}

/// The console of a machine stays open over a reset.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_interrupts() {
    let lab = terminal().await;
    let call = begun(&lab, &[("idempotency-key", "k")], slow(LONG)).await;
    let path = format!("/v1/machines/{RUNNING}/power?wait=30s");
    lab.post(&path, json!({"action": "reset"})).await.expect(200);
    let answer = call.await.unwrap().problem(409, "input-interrupted");
    assert_eq!(answer.json["errors"][0]["code"], "console-unavailable", "{}", answer.text);
    assert!(answer.str("detail").contains("was reset"), "{}", answer.text);
    assert!((1..LONG.len()).contains(&characters(&answer)), "{}", answer.text);
    assert_eq!(lab.control().calls("AcquireTicket"), 1, "the connection stands");
}

/// A host may keep a console open over a revert. The rest of the input is meant for another guest.
#[tokio::test(flavor = "multi_thread")]
async fn a_revert_that_the_connection_survives_interrupts() {
    let lab = terminal().await;
    let quirks = ConsoleQuirks { outlive_reverts: true, ..ConsoleQuirks::default() };
    lab.control().apply(HostChange::ConsoleQuirks(quirks));
    let path = "/v1/machines/17/snapshots/logged%20in/revert?wait=30s";
    // The second revert is to the current snapshot, so that no property of the machine changes.
    for round in 0..2 {
        lab.control().show_screen(RUNNING, ScreenStage::Terminal);
        let key = format!("round {round}");
        let body = json!({"events": [{"hold": "shift"}, {"text": LONG}], "interval": "100ms"});
        let call = begun(&lab, &[("idempotency-key", &key)], body).await;
        lab.post(path, json!({})).await.expect(200);
        let answer = call.await.unwrap().problem(409, "input-interrupted");
        assert_eq!(answer.json["errors"][0]["code"], "console-unavailable", "{}", answer.text);
        assert!(answer.str("detail").contains("was reverted"), "{}", answer.text);
        assert_eq!(answer.json["sent"]["events"], 1);
        assert!((1..LONG.len()).contains(&characters(&answer)), "{}", answer.text);
        is_released(&lab).await;
        // Input after the revert is for the guest that it brought back.
        send(&lab, json!({"events": [{"keys": ["left"]}]})).await.expect(200);
    }
    assert_eq!(lab.control().calls("AcquireTicket"), 1, "the connection stands");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_lease_interrupts_and_releases_what_is_held() {
    // A machine that is on is not free, so the lease powers one on.
    const LEASED: &str = "16";
    let lab = Lab::start().await;
    let ask = json!({
        "select": {"machine": LEASED},
        "ttl": "10m",
        "prepare": {"power": "on"},
        "release": {"power": "keep"},
    });
    let lease = lab.post("/v1/leases", ask).await.expect(201);
    let path = format!("/v1/leases/{}", lease.str("id"));
    lab.wait_until(&path, |lease| lease["state"] == "active").await;
    let secret = format!("{}.{}", lease.str("id"), lease.str("secret"));
    lab.control().show_screen(LEASED, ScreenStage::Terminal);
    let input = format!("/v1/machines/{LEASED}/screen/input");
    let refused = lab.post(&input, json!({"events": [{"text": "a"}]})).await;
    refused.problem(423, "machine-leased");
    let body = json!({
        "events": [{"hold": "alt"}, {"release": "alt"}, {"hold": "shift"}, {"text": LONG}],
        "interval": "200ms",
    });
    let request = lab.request(Method::POST, &input).header("otter-lease", &secret).json(&body);
    let call = tokio::spawn(Answer::from_request(request));
    eventually("the first characters", async || typed_in_terminal(lab.control(), LEASED).len() > 2)
        .await;
    assert!(!holds_nothing(&lab, LEASED));
    let end = lab.request(Method::DELETE, &path).header("otter-lease", &secret);
    Answer::from_request(end).await;
    let answer = call.await.unwrap().problem(409, "input-interrupted");
    assert!(
        ["lease-ended", "machine-leased"]
            .contains(&answer.json["errors"][0]["code"].as_str().unwrap()),
        "{}",
        answer.text
    );
    assert_eq!(answer.json["sent"]["events"], 3);
    assert!(!answer.text.contains("nothing was done"), "{}", answer.text);
    eventually("the release of all keys", async || holds_nothing(&lab, LEASED)).await;
}

/// The token of a caller is rotated while one of its calls types and another one waits.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_token_interrupts() {
    let guarded = Guarded::start().await;
    let lab = &guarded.lab;
    lab.control().show_screen(RUNNING, ScreenStage::Terminal);
    let token = format!("Bearer {}", guarded.token("operator"));
    let call = begun(lab, &[("authorization", &token)], slow(LONG)).await;
    let second = guarded.request("operator", Method::POST, INPUT);
    let second = second.json(&json!({"events": [{"text": "never"}]}));
    let second = tokio::spawn(Answer::from_request(second));
    guarded.rotated("operator", None).await;
    let answer = call.await.unwrap().problem(409, "input-interrupted");
    assert_eq!((&answer.json["retry"], &answer.json["sent"]["events"]), (&json!("no"), &json!(0)));
    assert_eq!(answer.json["errors"][0]["code"], "unauthenticated");
    let sent = characters(&answer);
    assert!((1..LONG.len()).contains(&sent), "{sent} characters");
    second.await.unwrap().problem(401, "unauthenticated");
    is_released(lab).await;
    assert!(LONG.starts_with(&typed(lab)), "{}", typed(lab));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_stops_its_input() {
    let lab = terminal().await;
    let body = json!({"events": [{"hold": "shift"}, {"text": LONG}], "interval": "100ms"});
    let call = begun(&lab, &[("idempotency-key", "k")], body.clone()).await;
    call.abort();
    is_released(&lab).await;
    let shown = typed(&lab);
    assert!(shown.len() < LONG.len());
    // The next call has its turn at once, and the guest gets nothing else.
    send(&lab, json!({"events": [{"text": "!"}]})).await.expect(200);
    shows_typed(&lab, &format!("{shown}!")).await;
    let again = send_with_key(&lab, "k", body).await.problem(409, "input-interrupted");
    assert_eq!(characters(&again), shown.len());
    assert_eq!(again.json["errors"][0]["code"], "hung-up", "{}", again.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_does_not_come_true_ends_the_call() {
    let lab = terminal().await;
    let until = json!({"until": {"any": [{"image": PINK}], "wait": "1s"}});
    // Before the first key, the call may be repeated.
    let body = json!({"events": [until, {"text": "never"}]});
    let early = send_with_key(&lab, "k", body.clone()).await.problem(504, "wait-timeout");
    assert_eq!(early.json["retry"], "same-key");
    assert!(early.json["sent"].is_null());
    send_with_key(&lab, "k", body).await.problem(504, "wait-timeout");
    // After it, it may not.
    let body = json!({"events": [{"text": "ab"}, until, {"text": "never"}]});
    let late = send(&lab, body).await.problem(409, "input-interrupted");
    assert_eq!(late.json["sent"], json!({"events": 1, "characters": 2}));
    assert_eq!(late.json["errors"][0]["code"], "wait-timeout");
    assert!(late.json["links"]["screen"].is_string(), "{}", late.text);
    shows_typed(&lab, "ab").await;
}

/// A PNG of 8 × 8 pink pixels, which no simulated guest shows.
const PINK: &str = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP4L9CAFTEMLQ\
                    kAGdFjwQC8PIwAAAAASUVORK5CYII=";

#[tokio::test(flavor = "multi_thread")]
async fn a_job_does_not_block_input() {
    let lab = Lab::with_options(LabOptions { pace: Pace::Stepped, ..LabOptions::default() }).await;
    lab.control().show_screen(RUNNING, ScreenStage::Terminal);
    let path = format!("/v1/machines/{RUNNING}/snapshots");
    let job = lab.post(&path, json!({"name": "meanwhile"})).await.expect(202).json;
    lab.wait_for_job_task(&job).await;
    send(&lab, json!({"events": [{"text": "typed"}]})).await.expect(200);
    shows_typed(&lab, "typed").await;
    assert_eq!(
        lab.get(&format!("/v1/jobs/{}", job["id"].as_str().unwrap())).await.json["state"],
        "running"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_screen_is_typed_on_slowly() {
    // At this pace the kernel shows its text long enough.
    let pace = Pace::Auto { scale: 1.0 };
    let lab = Lab::with_options(LabOptions { pace, ..LabOptions::default() }).await;
    let duration = async |stage, body: Value| {
        lab.control().show_screen(RUNNING, stage);
        // The screen is open, so that only the typing counts.
        lab.get("/v1/machines/17/screen.png").await.expect(200);
        let clock = Clock::system();
        let began = clock.elapsed();
        send(&lab, body).await.expect(200);
        clock.elapsed().saturating_sub(began)
    };
    let body = json!({"events": [{"text": "12345678"}]});
    let (text, graphics) = (
        duration(ScreenStage::Kernel, body.clone()).await,
        duration(ScreenStage::Login, body).await,
    );
    assert!(graphics >= Duration::from_millis(7 * 40), "{graphics:?}");
    assert!(text >= Duration::from_millis(3 * 100), "{text:?}");
    let chosen = json!({"events": [{"text": "1234"}], "interval": "300ms"});
    assert!(duration(ScreenStage::Login, chosen).await >= Duration::from_millis(900));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_each_call_and_nothing_has_its_text() {
    let state = tempfile::tempdir().unwrap();
    let lab = Lab::with_state_dir(state.path()).await;
    lab.wait_until_ready().await;
    lab.control().show_screen(RUNNING, ScreenStage::Terminal);
    let secret = "hunter2-Geheim";
    let body = json!({"events": [{"text": secret}], "secret": true, "interval": "5ms"});
    let headers = [("idempotency-key", "k"), ("otter-reference", "run 7")];
    lab.post_with(INPUT, body, &headers).await.expect(200);
    // The guest gets the text after the answer: its line is also empty before that.
    shows_typed(&lab, secret).await;
    send(&lab, json!({"events": [{"keys": ["ctrl-u"]}]})).await.expect(200);
    shows_typed(&lab, "").await;
    let long = json!({
        "events": [{"text": format!("{secret}{LONG}")}],
        "secret": true,
        "interval": "200ms",
    });
    let call = begun(&lab, &[], long).await;
    lab.control().end_consoles(RUNNING, ConsoleEnd::Cut);
    let interrupted = call.await.unwrap().problem(409, "input-interrupted");
    assert!(!interrupted.text.contains("hunter2"));
    let misplaced = json!({"events": [{"keys": secret}], "secret": true});
    let wrong = send(&lab, misplaced).await.problem(400, "invalid-request");
    assert!(!wrong.text.contains("hunter2"), "{}", wrong.text);
    let audit = lab.get("/v1/audit?action=screen.input").await.expect(200);
    let items = audit.json["items"].as_array().unwrap();
    let outcomes: Vec<&str> = items.iter().map(|item| item["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["failed", "done", "done"], "{}", audit.text);
    assert_eq!(items[2]["machine"], RUNNING);
    assert_eq!(items[2]["reference"], "run 7");
    assert_eq!(items[2]["detail"], format!("events: 1, characters: {}", secret.len()));
    assert_eq!(items[0]["code"], "input-interrupted");
    let metrics = lab.get("/metrics").await.expect(200);
    assert!(metrics.text.contains("otter_screen_input_seconds_count"), "{}", metrics.text);
    for text in [&audit.text, &metrics.text] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    lab.stop().await;
    for file in std::fs::read_dir(state.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let has = |text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!has("hunter2"));
        // A hash that is not keyed would let a reader guess the password.
        let plain = <sha2::Sha256 as sha2::Digest>::digest(secret.as_bytes());
        assert!(!has(&hex::encode(plain)));
    }
}
