//! The connection to the host: one for each machine, ended properly, opened again, and replaced by
//! single pictures where the host refuses it.

use std::time::Duration;

use futures_util::future::join_all;
use otter::clock::Clock;
use otter::simulator::{
    ConsoleEnd, ConsoleQuirks, Disruption, FirstUpdate, HostChange, ScreenStage,
};
use reqwest::Method;
use serde_json::json;

use super::viewer_client::{ViewerClient, viewer_path};
use super::{RUNNING, decode, screen_state};
use crate::harness::{Answer, Lab, LabOptions, eventually, pause};

const PICTURE: &str = "/v1/machines/17/screen.png";

/// The consoles that the host counts for a machine, with those that were left without a close.
fn counted(lab: &Lab, machine: &str) -> i32 {
    lab.control().look(|world| world.machine(machine).unwrap().mks_connections)
}

async fn powered_on(lab: &Lab, machine: &str) {
    let path = format!("/v1/machines/{machine}/power?wait=30s");
    lab.post(&path, json!({"action": "on"})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_users_of_a_screen_share_one_connection() {
    let lab = Lab::start().await;
    let logins = lab.control().calls("Login");
    let answers = join_all((0..40).map(|_| lab.get(PICTURE))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let mut viewers = Vec::new();
    for _ in 0..10 {
        viewers.push(ViewerClient::open(&lab, &viewer_path(RUNNING, ""), &[]).await.unwrap());
    }
    lab.get(PICTURE).await.expect(200);
    assert_eq!(lab.control().open_consoles(RUNNING), 1);
    assert_eq!(lab.control().calls("AcquireTicket"), 1);
    assert_eq!(lab.control().calls("Login"), logins);
    let state = screen_state(&lab, RUNNING).await;
    assert_eq!(state["connection"], "open");
    assert_eq!(state["viewers"].as_array().unwrap().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_screen_opens_nothing() {
    let lab = Lab::start().await;
    let state = screen_state(&lab, RUNNING).await;
    assert_eq!(state["connection"], "closed");
    assert_eq!((&state["width"], &state["driver"]), (&json!(null), &json!(null)));
    assert_eq!(state["available"], true);
    assert_eq!(state["links"]["picture"], PICTURE);
    let off = screen_state(&lab, "16").await;
    assert_eq!(off["available"], false);
    assert!(off["unavailable_reason"].as_str().unwrap().contains("is off"), "{off}");
    assert_eq!(lab.control().calls("AcquireTicket"), 0);
    lab.get(PICTURE).await.expect(200);
    let state = screen_state(&lab, RUNNING).await;
    assert!(state["width"].as_u64().unwrap() > 0 && state["changed_at"].is_string(), "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed_properly() {
    let lab =
        Lab::with_settings(|settings| settings.screens.idle = Duration::from_millis(100)).await;
    lab.get(PICTURE).await.expect(200);
    eventually("the end of the connection", async || lab.control().open_consoles(RUNNING) == 0)
        .await;
    assert_eq!(counted(&lab, RUNNING), 0, "the host counts the connection as open");
    eventually("the closed state", async || {
        screen_state(&lab, RUNNING).await["connection"] == "closed"
    })
    .await;
    lab.get(PICTURE).await.expect(200);
    assert_eq!(lab.control().calls("AcquireTicket"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_otter_closes_the_connections() {
    let lab = Lab::start().await;
    lab.get(PICTURE).await.expect(200);
    assert_eq!(counted(&lab, RUNNING), 1);
    let control = lab.control().clone();
    lab.stop().await;
    assert_eq!(control.look(|world| world.machine(RUNNING).unwrap().mks_connections), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_opened_again_with_a_new_ticket() {
    let lab = Lab::start().await;
    for (number, how) in [(2, ConsoleEnd::Cut), (3, ConsoleEnd::Close)] {
        lab.get(PICTURE).await.expect(200);
        lab.control().end_consoles(RUNNING, how);
        eventually("another ticket", async || {
            lab.get(PICTURE).await.expect(200);
            lab.control().calls("AcquireTicket") == number
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_machine_shows_its_new_screen() {
    let lab = Lab::start().await;
    lab.control().show_screen(RUNNING, ScreenStage::Desktop);
    lab.get(PICTURE).await.expect(200);
    let path = format!("/v1/machines/{RUNNING}/power?wait=30s");
    lab.post(&path, json!({"action": "off"})).await.expect(200);
    lab.get(PICTURE).await.problem(409, "invalid-power-state");
    eventually("the closed state", async || {
        screen_state(&lab, RUNNING).await["connection"] == "closed"
    })
    .await;
    lab.post(&path, json!({"action": "on"})).await.expect(200);
    let picture = lab.get(PICTURE).await.expect(200);
    assert!(decode(&picture.bytes).0 > 0);
    lab.post("/v1/machines/17/snapshots/logged%20in/revert?wait=30s", json!({})).await.expect(200);
    lab.get(PICTURE).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_consoles_gives_pictures_and_texts_and_takes_no_input() {
    let lab = Lab::start().await;
    lab.control().show_screen(RUNNING, ScreenStage::Login);
    lab.control().mutate(|world| {
        world.machine_mut(RUNNING).unwrap().max_mks_connections = 0;
    });
    let picture = lab.get(PICTURE).await.expect(200);
    assert!(decode(&picture.bytes).0 > 0);
    assert_eq!(screen_state(&lab, RUNNING).await["connection"], "fallback");
    let text = lab.get(&format!("/v1/machines/{RUNNING}/screen/text")).await.expect(200);
    assert!(text.str("text").contains("Qubes"), "{}", text.text);
    let login = json!({"any": [{"text": "Log In", "region": "300,300,200,100"}]});
    let path = format!("/v1/machines/{RUNNING}/screen/wait?wait=10s");
    assert_eq!(lab.post(&path, login).await.expect(200).json["matched"]["index"], 0);
    let input = json!({"events": [{"text": "a"}]});
    let path = format!("/v1/machines/{RUNNING}/screen/input");
    lab.post(&path, input).await.problem(503, "console-unavailable");
    assert_eq!(lab.control().open_consoles(RUNNING), 0);
    let machine = lab.get("/v1/machines/17").await.expect(200).json;
    assert_eq!(machine["quarantine"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_gives_no_console_and_no_picture_is_not_unreachable() {
    let lab = Lab::start().await;
    lab.control().mutate(|world| {
        world.machine_mut(RUNNING).unwrap().max_mks_connections = 0;
    });
    let answer = Disruption::Answer { status: 500, content_type: "text/html", body: String::new() };
    lab.control().disrupt("/screen", 0, None, answer);
    let problem = lab.get(PICTURE).await.problem(503, "console-unavailable");
    assert!(problem.str("detail").contains("HTTP status 500"), "{}", problem.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_that_otter_cannot_read_is_unavailable() {
    let lab = Lab::start().await;
    let first_update = FirstUpdate::UnknownEncoding;
    let quirks = ConsoleQuirks { first_update, ..ConsoleQuirks::default() };
    lab.control().apply(HostChange::ConsoleQuirks(quirks));
    let problem = lab.get(PICTURE).await.problem(503, "console-unavailable");
    assert!(problem.header("retry-after").is_some());
}

/// The host answers, so that only its consoles are out of reach.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_its_tickets_is_not_unreachable() {
    let lab = Lab::start().await;
    let answer = Disruption::Answer { status: 404, content_type: "text/html", body: String::new() };
    lab.control().disrupt("/ticket", 0, None, answer);
    let problem = lab.get(PICTURE).await.problem(503, "console-unavailable");
    assert!(problem.str("detail").contains("HTTP status 404"), "{}", problem.text);
}

/// A console that does not answer is replaced once, whatever the caller wants of the screen.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_gets_one_new_connection() {
    for below in ["screen.png", "screen/text", "screen/wait"] {
        let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
        let options = LabOptions { clock: clock.clone(), ..LabOptions::default() };
        let lab = Lab::with_options(options).await;
        let control = lab.control();
        lab.get(PICTURE).await.expect(200);
        // A console that ends sooner is opened again after a pause.
        clock.advance(Duration::from_secs(5));
        let silent = ConsoleQuirks { silent: true, ..ConsoleQuirks::default() };
        control.apply(HostChange::ConsoleQuirks(silent));
        let path = format!("/v1/machines/{RUNNING}/{below}");
        let request = if below == "screen/wait" {
            lab.request(Method::POST, &path).json(&json!({"any": [{"text": "Log In"}]}))
        } else {
            lab.request(Method::GET, &path)
        };
        let call = tokio::spawn(Answer::from_request(request));
        eventually("the call to wait", async || {
            lab.get("/metrics").await.text.contains("otter_waits_open 1\n")
        })
        .await;
        // Nothing shows from outside when the host got the question, so the time passes in steps.
        let is_replaced = async || {
            control.calls("AcquireTicket") > 1
                || screen_state(&lab, RUNNING).await["connection"] != "open"
        };
        eventually("the end of the connection", async || {
            clock.advance(Duration::from_secs(1));
            for _ in 0..5 {
                pause().await;
            }
            is_replaced().await
        })
        .await;
        eventually("another ticket", async || control.calls("AcquireTicket") > 1).await;
        control.apply(HostChange::ConsoleQuirks(ConsoleQuirks::default()));
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert_eq!(control.calls("AcquireTicket"), 2);
    }
}

/// Neither the open console nor the new one answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stays_silent_has_no_picture() {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let lab = Lab::with_options(LabOptions { clock: clock.clone(), ..LabOptions::default() }).await;
    lab.get(PICTURE).await.expect(200);
    clock.advance(Duration::from_secs(5));
    let silent = ConsoleQuirks { silent: true, ..ConsoleQuirks::default() };
    lab.control().apply(HostChange::ConsoleQuirks(silent));
    let call = tokio::spawn(Answer::from_request(lab.request(Method::GET, PICTURE)));
    eventually("the call to wait", async || {
        lab.get("/metrics").await.text.contains("otter_waits_open 1\n")
    })
    .await;
    eventually("the answer", async || {
        clock.advance(Duration::from_secs(1));
        for _ in 0..5 {
            pause().await;
        }
        call.is_finished()
    })
    .await;
    let problem = call.await.unwrap().problem(503, "console-unavailable");
    assert!(problem.str("detail").contains("does not answer"), "{}", problem.text);
    assert!(lab.control().calls("AcquireTicket") >= 2, "a new console was tried");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_screens_are_open() {
    let lab = Lab::with_settings(|settings| settings.screens.max_open = 1).await;
    powered_on(&lab, "16").await;
    lab.get(PICTURE).await.expect(200);
    // No one uses the first one any more, so it makes room.
    lab.get("/v1/machines/16/screen.png").await.expect(200);
    eventually("the end of the first", async || lab.control().open_consoles(RUNNING) == 0).await;
    let _viewer = ViewerClient::open(&lab, &viewer_path("16", ""), &[]).await.unwrap();
    let problem = lab.get(PICTURE).await.problem(503, "too-many-consoles");
    assert!(problem.str("detail").contains("screens.max_open"));
}
