//! Waits for what a screen shows: conditions of calls, of `until`, and of preparations.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use otter::app::Settings;
use otter::domain::access::{Role, TokenLimits};
use otter::domain::scope::Scope;
use otter::simulator::{ConsoleEnd, Disruption, ScreenStage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::tokens::Guarded;
use crate::harness::{Answer, Lab, eventually};

/// A machine that is on and shows the login.
const ON: &str = "17";
/// A machine that is off.
const OFF: &str = "16";

fn wait_path(machine: &str, query: &str) -> String {
    format!("/v1/machines/{machine}/screen/wait{query}")
}

async fn wait_for(lab: &Lab, query: &str, body: Value) -> Answer {
    lab.post(&wait_path(ON, query), body).await
}

/// A part of the screen, as a PNG in base64.
async fn picture_of(lab: &Lab, region: &str) -> String {
    let path = format!("/v1/machines/{ON}/screen.png?region={region}");
    BASE64_STANDARD.encode(lab.get(&path).await.expect(200).bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_condition_that_holds_is_returned_with_its_place() {
    let lab = Lab::start().await;
    let any = json!([{"text": "Kernel panic"}, {"name": "login", "text": "log  in"}]);
    let found = wait_for(&lab, "?wait=12s", json!({"any": any})).await.expect(200);
    assert_eq!(found.header("otter-wait"), Some("12s"));
    let matched = &found.json["matched"];
    assert_eq!((&matched["index"], &matched["name"]), (&json!(1), &json!("login")));
    // The button of the login.
    let number = |field: &str| matched[field].as_u64().unwrap();
    assert!((340..460).contains(&number("x")) && (320..370).contains(&number("y")), "{matched}");
    assert!(number("width") < 120 && number("height") < 40 && matched["similarity"].is_null());
    assert_eq!(found.json["links"]["screen"], format!("/v1/machines/{ON}/screen.png"));
    let regex = json!({"any": [{"regex": "(?i)qubes\\s+os"}]});
    assert_eq!(wait_for(&lab, "?wait=12s", regex).await.expect(200).json["matched"]["index"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_times_out_shows_the_last_text_and_picture() {
    let lab = Lab::start().await;
    for query in ["", "?wait=0s", "?wait=1s"] {
        let body = json!({"any": [{"text": "Kernel panic"}]});
        let problem = wait_for(&lab, query, body).await.problem(504, "wait-timeout");
        let seen = problem.str("seen");
        assert!(seen.contains("user"), "{query}: {seen}");
        let detail = problem.str("detail");
        assert!(!detail.contains("user"), "only seen has the text");
        assert!(detail.contains("the condition \"Kernel panic\" "), "{detail}");
        let link = problem.json["links"]["screen"].as_str().unwrap();
        let picture = lab.get(link).await.expect(200);
        assert_eq!(picture.header("content-type"), Some("image/png"));
        assert!(picture.bytes.starts_with(b"\x89PNG"));
    }
    lab.get("/v1/screen-pictures/0198c0de-0000-7000-8000-000000000000")
        .await
        .problem(404, "not-found");
    lab.get("/v1/screen-pictures/none").await.problem(400, "invalid-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_ends_with_its_time_although_the_screen_was_not_still_for_long_enough() {
    let lab = Lab::start().await;
    for body in [
        json!({"still": "1m"}),
        json!({"still": "1m", "any": [{"text": "Log In"}, {"text": "user", "absent": true}]}),
    ] {
        // The client of the lab does not wait for a minute.
        let problem = wait_for(&lab, "?wait=1s", body).await.problem(504, "wait-timeout");
        assert!(problem.json["links"]["screen"].is_string(), "{}", problem.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_found_in_its_region() {
    let lab = Lab::start().await;
    let button = picture_of(&lab, "340,330,120,40").await;
    let body = json!({"any": [{"image": button, "region": "330,325,120,40", "margin": 20}]});
    let matched = &wait_for(&lab, "?wait=10s", body).await.expect(200).json["matched"];
    assert_eq!((&matched["x"], &matched["y"]), (&json!(340), &json!(330)));
    assert!(matched["similarity"].as_f64().unwrap() > 0.99, "{matched}");
    let elsewhere = json!({"any": [
        {"image": button, "region": "0,0,300,300"},
        {"name": "crash", "regex": "panic"},
        {"regex": "Oops|BUG"},
    ]});
    let late = wait_for(&lab, "", elsewhere).await.problem(504, "wait-timeout");
    let named = "(image 0, \"crash\", regex \"Oops|BUG\")";
    assert!(late.str("detail").contains(named), "{}", late.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_sees_what_comes_later() {
    let lab = Lab::start().await;
    let body = json!({"any": [{"text": "Applications", "region": "0,0,300,30"}]});
    let path = wait_path(ON, "?wait=12s");
    let show = async {
        eventually("the screen to open", async || lab.control().open_consoles(ON) > 0).await;
        lab.control().show_screen(ON, ScreenStage::Desktop);
    };
    let (found, ()) = tokio::join!(lab.post(&path, body), show);
    assert_eq!(found.expect(200).json["matched"]["index"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_with_a_clock_and_a_cursor_is_still() {
    let lab = Lab::start().await;
    lab.control().show_screen(ON, ScreenStage::Terminal);
    let still = wait_for(&lab, "?wait=12s", json!({"still": "1500ms"})).await.expect(200);
    assert!(still.json["matched"].is_null());
    let with_text = json!({"still": "1s", "any": [{"text": "Terminal", "region": "0,30,640,80"}]});
    assert_eq!(
        wait_for(&lab, "?wait=12s", with_text).await.expect(200).json["matched"]["index"],
        0
    );
    // Without tolerance, the cursor counts.
    let strict = json!({"still": "1500ms", "tolerance": 0});
    wait_for(&lab, "?wait=4s", strict).await.problem(504, "wait-timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_text_holds_only_on_a_still_screen() {
    let lab = Lab::start().await;
    let absent = |text: &str| json!({"any": [{"text": text, "absent": true}]});
    let found = wait_for(&lab, "?wait=12s", absent("Wrong password")).await.expect(200);
    assert!(found.json["matched"]["x"].is_null() && found.json["matched"]["text"].is_null());
    wait_for(&lab, "?wait=3s", absent("Log In")).await.problem(504, "wait-timeout");
    lab.control().show_screen(ON, ScreenStage::Blank);
    wait_for(&lab, "?wait=3s", absent("Log In")).await.problem(504, "wait-timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blank_screen_is_woken() {
    let lab = Lab::start().await;
    lab.control().show_screen(ON, ScreenStage::Blank);
    let condition = json!({"text": "Applications", "region": "0,0,300,30"});
    let body = |wake| json!({"any": [condition], "wake": wake});
    wait_for(&lab, "?wait=6s", body(false)).await.problem(504, "wait-timeout");
    wait_for(&lab, "?wait=12s", body(true)).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_screen_the_answer_comes_at_once() {
    let lab = Lab::start().await;
    let body = json!({"any": [{"text": "Log In"}]});
    let refused = lab.post(&wait_path(OFF, "?wait=1m"), body.clone()).await;
    refused.problem(409, "invalid-power-state");
    // The screen goes while it is waited for.
    let path = wait_path(ON, "?wait=1m");
    let never = json!({"any": [{"text": "Kernel panic"}]});
    let (ended, _) =
        tokio::join!(lab.post(&path, never), lab.start_power("qubes-4.2-sdw-prod", "off"));
    ended.problem(409, "invalid-power-state");
    // A job is about to power the machine on.
    let power = format!("/v1/machines/{OFF}/power");
    lab.post(&power, json!({"action": "on"})).await.expect(202);
    lab.post(&wait_path(OFF, "?wait=13s"), body).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_refused_with_their_place() {
    let lab = Lab::start().await;
    for (body, place, code) in [
        (json!({}), "/any", "missing"),
        (json!({"any": [{"text": "a", "textt": "b"}]}), "/any/0/textt", "unknown-field"),
        (json!({"any": [{"text": 5}]}), "/any/0/text", "wrong-type"),
        (json!({"any": [{"text": null}]}), "/any/0/text", "wrong-type"),
        (json!({"any": [{"regex": "("}]}), "/any/0/regex", "not-a-regex"),
        (json!({"any": [{"regex": "a{999}{999}"}]}), "/any/0/regex", "not-a-regex"),
        (json!({"any": [{"image": "aGVsbG8="}]}), "/any/0/image", "not-a-png"),
        (json!({"any": [{"text": "a", "region": "0,0,9000,1"}]}), "/any/0/region", "out-of-range"),
    ] {
        let problem = wait_for(&lab, "?wait=5s", body).await;
        problem.problem(400, "invalid-request").points_at(place, code);
    }
    wait_for(&lab, "?wait=soon", json!({"still": "1s"})).await.problem(400, "invalid-request");
    for (outside, place) in [
        (json!({"any": [{"text": "a", "region": "700,0,200,50"}]}), "/any/0/region"),
        (json!({"still": "1s", "region": "0,0,8192,8192"}), "/region"),
    ] {
        let problem = wait_for(&lab, "", outside).await.problem(400, "invalid-request");
        problem.points_at(place, "out-of-range");
    }
    let large = json!({"any": [{"image": "A".repeat(10 * 1024 * 1024)}]});
    wait_for(&lab, "?wait=5s", large).await.problem(413, "payload-too-large");
    // Each would take a hundred times its text.
    let small = json!({"any": vec![json!({}); 1_000_000]});
    let problem = wait_for(&lab, "?wait=5s", small).await.problem(400, "invalid-request");
    problem.points_at("", "out-of-range");
    // Larger than the usual limit of bodies, but not than that of waits.
    let image = json!({"any": [{"image": "A".repeat(3 * 1024 * 1024)}]});
    let problem = wait_for(&lab, "?wait=5s", image).await.problem(400, "invalid-request");
    problem.points_at("/any/0/image", "not-a-png");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wait_for_a_machine_takes_a_text() {
    let lab = Lab::start().await;
    let until =
        |text: &str, wait: &str| format!("/v1/machines/{ON}/wait?until=screen:{text}&wait={wait}");
    let machine = lab.get(&until("Log%20In", "12s")).await.expect(200);
    assert_eq!(machine.str("id"), ON);
    let problem = lab.get(&until("Log%20In,%20please:%20now", "2s")).await;
    let problem = problem.problem(504, "wait-timeout");
    assert!(problem.str("seen").contains("user") && problem.header("otter-wait") == Some("2s"));
    for text in ["", "%20", &"a".repeat(257)] {
        let refused = lab.get(&until(text, "2s")).await.problem(400, "invalid-request");
        refused.points_at("until", "invalid-text");
    }
    let off = format!("/v1/machines/{OFF}/wait?until=screen:Login&wait=1m");
    lab.get(&off).await.problem(409, "invalid-power-state");
}

/// Waits until a text was read, then ends the console of a machine. The host refuses another one.
async fn lose_console_after_a_read(lab: &Lab, machine: &str) {
    eventually("a text", async || {
        let metrics = lab.get("/metrics").await.text;
        !metrics.contains("otter_screen_read_seconds_count 0\n")
    })
    .await;
    let refused =
        Disruption::Answer { status: 404, content_type: "text/html", body: String::new() };
    lab.control().disrupt("/ticket", 0, None, refused);
    lab.control().end_consoles(machine, ConsoleEnd::Close);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_screen_is_lost_says_why() {
    let lab = Lab::start().await;
    let body = json!({"any": [{"text": "Kernel panic", "region": "300,100,220,60"}]});
    let path = wait_path(ON, "?wait=8s");
    let (ended, ()) = tokio::join!(lab.post(&path, body), lose_console_after_a_read(&lab, ON));
    let problem = ended.problem(504, "wait-timeout");
    assert!(problem.str("detail").contains("cannot be reached"), "{}", problem.text);
    assert!(problem.str("seen").contains("Qubes"), "the last text: {}", problem.text);
}

async fn lease(lab: &Lab, until: &str) -> String {
    let body = json!({
        "select": {"machine": OFF},
        "ttl": "10m",
        "prepare": {"power": "on", "until": until},
    });
    lab.post("/v1/leases", body).await.expect(201).str("id").to_owned()
}

/// The step of the preparation that waits for the screen.
async fn screen_step(lab: &Lab, lease: &str) -> (String, String) {
    let jobs =
        lab.get(&format!("/v1/jobs?lease={lease}&kind=lease.prepare")).await.expect(200).json;
    let steps = jobs["items"].as_array().unwrap().iter().flat_map(|job| {
        job["steps"].as_array().unwrap().iter().filter(|step| step["name"] == "wait_screen")
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps: Vec<_> = steps.map(|step| (text(&step["state"]), text(&step["detail"]))).collect();
    steps.into_iter().next_back().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_becomes_active_when_the_screen_shows_the_text() {
    let lab = Lab::start().await;
    let id = lease(&lab, "screen:Log In").await;
    let active = lab.get(&format!("/v1/leases/{id}/wait?wait=13s")).await.expect(200);
    assert_eq!((active.str("state"), active.str("machine")), ("active", OFF));
    assert_eq!(active.json["prepare"]["until"], "screen:Log In");
    let (state, detail) = screen_step(&lab, &id).await;
    assert!(state == "succeeded" && detail.contains("\"Log In\""), "{state} {detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_of_a_failed_preparation_has_the_last_text() {
    fn impatient(settings: &mut Settings) {
        settings.jobs.deadlines.prepare = Duration::from_secs(7);
    }
    let lab = Lab::with_settings(impatient).await;
    let id = lease(&lab, "screen:Kernel panic").await;
    let failed = lab.get(&format!("/v1/leases/{id}/wait?wait=13s")).await;
    assert_eq!(failed.status, 409, "{}", failed.text);
    let (state, detail) = screen_step(&lab, &id).await;
    assert_eq!(state, "failed");
    assert!(detail.contains("\"Kernel panic\"") && detail.contains("user"), "{detail}");
    let jobs = lab.get(&format!("/v1/jobs?lease={id}&kind=lease.prepare")).await.expect(200).json;
    let error = jobs["items"][0]["error"]["detail"].as_str().unwrap();
    assert!(error.contains("Kernel panic") && !error.contains("user"), "{error}");
    let machine = lab.get(&format!("/v1/machines/{OFF}")).await.expect(200).json;
    assert!(machine["quarantine"].is_object(), "a guest without the text is at fault: {machine}");
}

/// The host takes the console away while a lease waits for a text: the machine is not at fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_loses_its_screen_does_not_quarantine_the_machine() {
    fn impatient(settings: &mut Settings) {
        settings.jobs.deadlines.prepare = Duration::from_secs(9);
    }
    let lab = Lab::with_settings(impatient).await;
    let id = lease(&lab, "screen:Kernel panic").await;
    lose_console_after_a_read(&lab, OFF).await;
    let failed = lab.get(&format!("/v1/leases/{id}/wait?wait=14s")).await;
    assert_eq!(failed.status, 409, "{}", failed.text);
    let jobs = lab.get(&format!("/v1/jobs?lease={id}&kind=lease.prepare")).await.expect(200).json;
    let error = jobs["items"][0]["error"]["detail"].as_str().unwrap();
    assert!(error.contains("cannot be reached"), "{error}");
    let machine = lab.get(&format!("/v1/machines/{OFF}")).await.expect(200).json;
    assert!(machine["quarantine"].is_null(), "{machine}");
}

/// All callers see the job of a preparation, but not what the screen of its machine showed.
#[tokio::test(flavor = "multi_thread")]
async fn only_callers_that_may_look_read_the_last_text_in_a_job() {
    let guarded = Guarded::start().await;
    let limits = TokenLimits::default();
    let other = guarded.restricted("other", Role::Runner, Scope::default(), limits).await;
    let ask = json!({
        "select": {"machine": OFF},
        "ttl": "10m",
        "prepare": {"power": "on", "until": "screen:Kernel panic"},
    });
    let taken = guarded.request("runner", Method::POST, "/v1/leases").json(&ask);
    let lease = Answer::from_request(taken).await.expect(201);
    let id = lease.str("id");
    let secret = format!("{id}.{}", lease.str("secret"));
    let read = async |token: &str, lease: &str, path: &str| {
        let mut request = guarded.lab.request(Method::GET, path).bearer_auth(token);
        if !lease.is_empty() {
            request = request.header("otter-lease", lease);
        }
        // Not checked against the document, because the response can be a stream.
        request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    };
    let list = format!("/v1/jobs?lease={id}&kind=lease.prepare");
    let shows = |text: &str| text.contains("the last text on it");
    let (holder, viewer) = (guarded.token("runner"), guarded.token("viewer"));
    eventually("a text on the screen", async || shows(&read(holder, "", &list).await)).await;
    let jobs: Value = serde_json::from_str(&read(holder, "", &list).await).unwrap();
    let job = jobs["items"][0]["id"].as_str().unwrap();
    let events = format!("/v1/events?initial=true&job={job}&wait=0s");
    let paths = [list.clone(), format!("/v1/jobs/{job}"), events];
    for is_over in [false, true] {
        if is_over {
            let end = guarded.request("operator", Method::DELETE, &format!("/v1/leases/{id}"));
            Answer::from_request(end).await.expect(200);
            eventually("the end of the lease", async || {
                let lease = read(holder, "", &format!("/v1/leases/{id}")).await;
                serde_json::from_str::<Value>(&lease).unwrap()["state"] == "revoked"
            })
            .await;
        }
        for path in &paths {
            for (token, lease, sees) in [
                (guarded.token("operator"), "", true),
                (viewer, "", false),
                (holder, "", true),
                (&*other, "", false),
                (&*other, &*secret, true),
                (viewer, &*secret, true),
            ] {
                let text = read(token, lease, path).await;
                assert!(text.contains("Kernel panic"), "{path}: {text}");
                assert_eq!(shows(&text), sees, "{path}, over: {is_over}: {text}");
            }
        }
    }
}

/// A step that ended shows the text that ended it, and not the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_preparation_that_is_over_shows_the_text_that_it_waited_for() {
    let lab = Lab::start().await;
    let ask = json!({
        "select": {"machine": OFF},
        "ttl": "10m",
        "prepare": {"power": "on", "until": "screen:Log In"},
    });
    let lease = lab.post("/v1/leases", ask).await.expect(201);
    let path = format!("/v1/leases/{}", lease.str("id"));
    lab.wait_until(&path, |lease| lease["state"] == "active").await;
    let jobs = lab.get(&format!("/v1/jobs?lease={}", lease.str("id"))).await.expect(200);
    let steps = jobs.json["items"][0]["steps"].as_array().unwrap();
    let text = steps.iter().find_map(|step| step["detail"].as_str()?.split_once("last text on it"));
    let (_, text) = text.unwrap_or_else(|| panic!("no text: {}", jobs.text));
    assert!(text.contains("Log In"), "{}", jobs.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tesseract_only_texts_are_refused() {
    fn without_tesseract(settings: &mut Settings) {
        settings.screens.ocr_command = vec!["/no/such/tesseract".to_owned()];
    }
    let lab = Lab::with_settings(without_tesseract).await;
    let body = json!({"any": [{"text": "Log In"}]});
    let problem = wait_for(&lab, "?wait=5s", body).await.problem(501, "not-supported");
    assert!(problem.str("detail").contains("tesseract-ocr-eng"), "{}", problem.text);
    let lease = json!({
        "select": {"machine": OFF},
        "ttl": "10m",
        "prepare": {"power": "on", "until": "screen:Log In"},
    });
    lab.post("/v1/leases", lease).await.problem(501, "not-supported");
    let button = picture_of(&lab, "340,330,120,40").await;
    wait_for(&lab, "?wait=10s", json!({"any": [{"image": button}]})).await.expect(200);
    wait_for(&lab, "?wait=10s", json!({"still": "500ms"})).await.expect(200);
}
