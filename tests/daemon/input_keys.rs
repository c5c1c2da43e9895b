//! Input with an `Idempotency-Key` when the daemon ends in between: a repeat gets the stored
//! answer, and nothing is typed twice.

use std::os::unix::process::ExitStatusExt;

use otter::clock::Clock;
use otter::simulator::{ConsoleEnd, Pace, Scenario, ScreenStage, Simulator, SimulatorOptions};
use reqwest::{Method, RequestBuilder};
use rustix::process::Signal;
use serde_json::json;

use super::crash::fail_points::{INPUT, kill_at};
use crate::harness::{Answer, Daemon, eventually};
use crate::screens::{typed_in_terminal, without_request_id};

/// A machine that is on.
const MACHINE: &str = "17";

const TEXT: &str = "typed at most once";

/// A host whose guest shows a terminal.
async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let options = SimulatorOptions { pace: Pace::Auto { scale: 0.05 }, ..options };
    let host = Simulator::start(options).await.unwrap();
    host.control().show_screen(MACHINE, ScreenStage::Terminal);
    host
}

fn typed(host: &Simulator) -> String {
    typed_in_terminal(host.control(), MACHINE)
}

/// A call that types the text.
fn call(daemon: &Daemon, key: &str, interval: &str) -> RequestBuilder {
    let path = format!("/v1/machines/{MACHINE}/screen/input");
    let request = daemon.request(Method::POST, &path).header("idempotency-key", key);
    request.json(&json!({"events": [{"text": TEXT}], "interval": interval}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_types_nothing_twice() {
    // What a repeat gets, and whether it is the stored answer.
    let repeats = [(200, None), (409, None), (409, None), (200, Some("true"))];
    for (step, (status, replayed)) in INPUT.into_iter().zip(repeats) {
        let host = host().await;
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join("state");
        let (variable, armed) = kill_at(step, 1);
        let variables = [(variable, armed.as_str())];
        let daemon = Daemon::start_with_variables(&host, &directory, "", &variables).await;
        eventually("the inventory", async || daemon.get("/readyz").await.status == 200).await;
        assert!(call(&daemon, "k", "5ms").send().await.is_err(), "{step}");
        let status_of_exit = daemon.wait_for_exit().await;
        assert_eq!(status_of_exit.signal(), Some(Signal::KILL.as_raw()), "{step}");

        let daemon = Daemon::start_for_host(&host, &directory).await;
        for _ in 0..2 {
            let again = Answer::from_request(call(&daemon, "k", "5ms")).await;
            assert_eq!(again.status, status, "{step}: {}", again.text);
            if status == 200 {
                let sent = json!({"events": 1, "characters": TEXT.len()});
                assert_eq!(again.json["sent"], sent, "{step}");
            } else {
                assert_eq!(again.json["code"], "input-interrupted", "{step}");
                assert!(again.json["sent"].is_null(), "{step}: {}", again.text);
            }
            if replayed.is_some() {
                assert_eq!(again.header("idempotent-replayed"), replayed, "{step}");
            }
        }
        // The key belongs to the first body.
        let changed = Answer::from_request(call(&daemon, "k", "6ms")).await;
        changed.problem(422, "idempotency-mismatch");
        match step {
            "input-key" => eventually("the text", async || typed(&host) == TEXT).await,
            "input-key-committed" => assert_eq!(typed(&host), ""),
            // What was on its way when the daemon died may not have arrived.
            _ => assert!(TEXT.starts_with(&typed(&host)), "{step}: {}", typed(&host)),
        }
        // The guest gets nothing of it later.
        let path = format!("/v1/machines/{MACHINE}/screen/input");
        let next = json!({"events": [{"keys": ["ctrl-u"]}, {"text": "next"}]});
        daemon.post(&path, next).await.expect(200);
        eventually("the next text", async || typed(&host) == "next").await;
        drop(daemon);
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_after_a_restart_gets_the_stored_answer() {
    let host = host().await;
    let state = tempfile::tempdir().unwrap();
    let directory = state.path().join("state");
    let daemon = Daemon::start_for_host(&host, &directory).await;
    let done = Answer::from_request(call(&daemon, "done", "5ms")).await.expect(200);
    eventually("the text", async || typed(&host) == TEXT).await;
    let cut = tokio::spawn(Answer::from_request(call(&daemon, "cut", "200ms")));
    eventually("the second text", async || typed(&host).len() > TEXT.len() + 2).await;
    host.control().end_consoles(MACHINE, ConsoleEnd::Cut);
    let cut = cut.await.unwrap().problem(409, "input-interrupted");
    assert!(daemon.terminate().await.success());
    let before = typed(&host);

    let daemon = Daemon::start_for_host(&host, &directory).await;
    let done_again = Answer::from_request(call(&daemon, "done", "5ms")).await.expect(200);
    assert_eq!(done_again.json, done.json);
    let cut_again = Answer::from_request(call(&daemon, "cut", "200ms")).await;
    let cut_again = cut_again.problem(409, "input-interrupted");
    assert_eq!(without_request_id(&cut_again), without_request_id(&cut));
    assert!(!cut.json["errors"].as_array().unwrap().is_empty());
    for replayed in [&done_again, &cut_again] {
        assert_eq!(replayed.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!(typed(&host), before);
    drop(daemon);
    host.stop().await;
}
