//! Viewers: otter's own RFB server, its rights, its one driver, and console tokens.

use std::time::Duration;

use otter::app::Settings;
use otter::clock::Clock;
use otter::domain::access::Role;
use otter::domain::pool::{Pool, Pools, ScreenAccess};
use otter::domain::scope::Scope;
use otter::domain::screen::ScreenSize;
use otter::simulator::{ConsoleEnd, Pace, ScreenStage};
use reqwest::Method;
use serde_json::{Value, json};

use super::viewer_client::{ViewerClient, viewer_path};
use crate::api::tokens::Guarded;
use crate::harness::{Answer, Daemon, Lab, LabOptions, eventually, pause};

/// The machine of the tests, which is on.
const MACHINE: &str = "16";

/// The longest time from the end of a right to the close of its sockets.
const CLOSED_WITHIN: Duration = Duration::from_millis(100);

/// The keys that the tests hold: as a keysym, and as a USB usage.
const SHIFT: (u32, u8) = (0xffe1, 0xe1);
const CONTROL: (u32, u8) = (0xffe3, 0xe0);

async fn lab() -> Lab {
    let lab = Lab::start().await;
    power_on(&lab).await;
    lab
}

async fn power_on(lab: &Lab) {
    let path = format!("/v1/machines/{MACHINE}/power?wait=30s");
    lab.post(&path, json!({"action": "on"})).await.expect(200);
}

/// An otter with tokens. Its machine is off, and stays on after a lease that powered it on.
async fn guarded() -> Guarded {
    guarded_with(|settings| {
        let machines = vec!["qubes-*".parse().unwrap()];
        let lab = Pool { machines, may_keep_power: true, ..Pool::default() };
        settings.pools = Pools([("lab".to_owned(), lab)].into());
    })
    .await
}

async fn guarded_with(settings: fn(&mut Settings)) -> Guarded {
    Guarded::with(LabOptions { settings, ..LabOptions::default() }).await
}

/// Leases the machine and powers it on. Returns the id of the lease, and the lease as a header.
async fn take_lease(guarded: &Guarded, role: &str) -> (String, String) {
    let ask = json!({
        "select": {"machine": MACHINE, "pool": "lab"},
        "ttl": "30m",
        "prepare": {"power": "on"},
        "release": {"power": "keep"},
    });
    let taken = guarded.request(role, Method::POST, "/v1/leases").json(&ask);
    let lease = Answer::from_request(taken).await.expect(201).json;
    let id = lease["id"].as_str().unwrap().to_owned();
    let wait = format!("/v1/leases/{id}/wait?wait=30s");
    Answer::from_request(guarded.request(role, Method::GET, &wait)).await.expect(200);
    let shown = format!("{id}.{}", lease["secret"].as_str().unwrap());
    (id, shown)
}

async fn end_lease(guarded: &Guarded, id: &str) {
    let ended = guarded.request("operator", Method::DELETE, &format!("/v1/leases/{id}"));
    assert!(Answer::from_request(ended).await.status < 300);
}

fn bearer(guarded: &Guarded, role: &str) -> String {
    format!("Bearer {}", guarded.token(role))
}

/// The number of keys that the guest of the machine sees as held.
fn held_keys(lab: &Lab) -> Vec<u8> {
    lab.control().screen(MACHINE).unwrap().held_keys
}

async fn screen_state(lab: &Lab) -> Value {
    lab.get(&format!("/v1/machines/{MACHINE}/screen")).await.expect(200).json
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_sees_the_screen_and_its_changes() {
    let lab = lab().await;
    let mut viewer = ViewerClient::open(&lab, &viewer_path(MACHINE, ""), &[]).await.unwrap();
    assert_eq!(viewer.protocol.as_deref(), Some("binary"));
    assert_eq!(viewer.name, "qubes-4.2-sdw-staging");
    let painted = viewer.update(false).await.unwrap();
    let pixels = |size: ScreenSize| usize::from(size.width) * usize::from(size.height);
    let of = |region: &otter::domain::screen::Region| {
        usize::from(region.width) * usize::from(region.height)
    };
    assert!(painted.iter().map(of).sum::<usize>() >= pixels(viewer.size), "{painted:?}");
    // The guest starts by itself: its screen changes its size and its pixels.
    let first = viewer.colours();
    eventually("the login of the guest", async || {
        viewer.update(true).await.unwrap();
        viewer.size == ScreenSize { width: 800, height: 600 }
    })
    .await;
    viewer.update(false).await.unwrap();
    assert_ne!(viewer.colours(), first);
    let picture = lab.get(&format!("/v1/machines/{MACHINE}/screen.png")).await.expect(200);
    assert_eq!(picture.header("content-type"), Some("image/png"));
    viewer.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_viewers_share_one_connection_to_the_host() {
    let lab = lab().await;
    let mut viewers = Vec::new();
    for _ in 0..20 {
        let path = viewer_path(MACHINE, "");
        viewers.push(ViewerClient::open(&lab, &path, &[]).await.unwrap());
    }
    for viewer in &mut viewers {
        viewer.update(false).await.unwrap();
    }
    assert_eq!(lab.control().calls("AcquireTicket"), 1);
    let state = screen_state(&lab).await;
    assert_eq!(state["viewers"].as_array().unwrap().len(), 20);
    assert_eq!(state["driver"], Value::Null);
    let metrics = lab.get("/metrics").await.expect(200).text;
    assert!(metrics.contains("otter_screen_viewers{mode=\"view\"} 20"), "{metrics}");
    drop(viewers);
    eventually("the viewers to leave", async || {
        screen_state(&lab).await["viewers"].as_array().unwrap().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_no_websocket_is_refused() {
    let lab = lab().await;
    let path = viewer_path(MACHINE, "");
    let plain = lab.get(&path).await.problem(426, "upgrade-required");
    assert_eq!(plain.header("upgrade"), Some("websocket"));
    let open = async |path: &str, headers: &[(&str, &str)]| {
        ViewerClient::open_silent(&lab, path, headers).await.err().unwrap()
    };
    open(&path, &[("sec-websocket-version", "8")]).await.expect(426, "upgrade-required");
    open(&path, &[("sec-websocket-protocol", "chat")]).await.expect(400, "invalid-request");
    open(&path, &[("origin", "http://evil.example")]).await.expect(403, "forbidden");
    open(&path, &[("sec-fetch-site", "cross-site")]).await.expect(403, "forbidden");
    open(&viewer_path("none", ""), &[]).await.expect(404, "not-found");
    open(&viewer_path(MACHINE, "?mode=type"), &[]).await.expect(400, "invalid-request");
    open(&viewer_path(MACHINE, "?force=true"), &[]).await.expect(400, "invalid-request");
    let own = format!("http://{}", lab.address);
    ViewerClient::open(&lab, &path, &[("origin", &own)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_cannot_type_and_a_driver_can() {
    let lab = lab().await;
    let mut viewer = ViewerClient::open(&lab, &viewer_path(MACHINE, ""), &[]).await.unwrap();
    let path = viewer_path(MACHINE, "?mode=drive");
    let mut driver = ViewerClient::open(&lab, &path, &[]).await.unwrap();
    viewer.key(CONTROL.0, true).await;
    viewer.pointer(1, 10, 10).await;
    viewer.update(false).await.unwrap();
    driver.update(false).await.unwrap();
    driver.key(SHIFT.0, true).await;
    eventually("the key of the driver", async || held_keys(&lab) == [SHIFT.1]).await;
    let state = screen_state(&lab).await;
    assert_eq!(state["driver"]["caller"], "anonymous");
    // A driver that leaves, in whatever way, holds nothing.
    drop(driver);
    eventually("the key to be released", async || held_keys(&lab).is_empty()).await;
    eventually("the seat to be free", async || screen_state(&lab).await["driver"].is_null()).await;
    // The audit gets its record a moment later.
    let path = "/v1/audit?action=screen.driver_ended";
    lab.wait_until(path, |audit| audit["items"][0].is_object()).await;
    let audit = lab.get(path).await.expect(200).json;
    let ended = &audit["items"][0];
    assert_eq!(ended["machine"], MACHINE);
    assert_eq!(ended["detail"], "left; 1 key events, 0 pointer events");
}

/// A driver that closed its WebSocket does not keep the next one out, whether or not it held keys.
#[tokio::test(flavor = "multi_thread")]
async fn the_seat_is_free_when_its_driver_has_left() {
    let lab = lab().await;
    let path = viewer_path(MACHINE, "?mode=drive");
    for turn in 0..20 {
        let mut driver = ViewerClient::open(&lab, &path, &[]).await.unwrap();
        if turn % 2 == 0 {
            driver.key(SHIFT.0, true).await;
            eventually("the key", async || held_keys(&lab) == [SHIFT.1]).await;
        }
        driver.leave().await;
    }
    eventually("the key to be released", async || held_keys(&lab).is_empty()).await;
}

/// A guest keeps the keys of a console that was cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_leaves_after_a_lost_connection_holds_nothing() {
    let lab = lab().await;
    let path = viewer_path(MACHINE, "?mode=drive");
    let mut driver = ViewerClient::open(&lab, &path, &[]).await.unwrap();
    driver.key(SHIFT.0, true).await;
    eventually("the key", async || held_keys(&lab) == [SHIFT.1]).await;
    let tickets = lab.control().calls("AcquireTicket");
    lab.control().end_consoles(MACHINE, ConsoleEnd::Cut);
    // What otter sends before it sees the end of the console is lost.
    eventually("the end of the console", async || {
        let is_open = screen_state(&lab).await["connection"] == "open";
        !is_open || lab.control().calls("AcquireTicket") > tickets
    })
    .await;
    driver.leave().await;
    eventually("the key to be released", async || held_keys(&lab).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_driver_is_refused_or_takes_over() {
    let lab = lab().await;
    let drive = viewer_path(MACHINE, "?mode=drive");
    let mut first = ViewerClient::open(&lab, &drive, &[]).await.unwrap();
    first.update(false).await.unwrap();
    first.key(SHIFT.0, true).await;
    eventually("the key of the first", async || held_keys(&lab) == [SHIFT.1]).await;
    let refused = ViewerClient::open(&lab, &drive, &[]).await.err().unwrap();
    refused.expect(409, "console-busy");
    let force = viewer_path(MACHINE, "?mode=drive&force=true");
    let mut second = ViewerClient::open(&lab, &force, &[]).await.unwrap();
    assert_eq!(first.closed().await.code, Some(4409));
    second.key(CONTROL.0, true).await;
    eventually("only the key of the second", async || held_keys(&lab) == [CONTROL.1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_lease_ends_its_viewers_close_at_once_and_keys_are_released() {
    let guarded = guarded().await;
    let lab = &guarded.lab;
    let (id, lease) = take_lease(&guarded, "runner").await;
    let token = bearer(&guarded, "runner");
    let headers = [("authorization", token.as_str()), ("otter-lease", &lease)];
    let mut viewer = ViewerClient::open(lab, &viewer_path(MACHINE, ""), &headers).await.unwrap();
    let path = viewer_path(MACHINE, "?mode=drive");
    let mut driver = ViewerClient::open(lab, &path, &headers).await.unwrap();
    let operator = bearer(&guarded, "operator");
    let mut watching =
        ViewerClient::open(lab, &viewer_path(MACHINE, ""), &[("authorization", operator.as_str())])
            .await
            .unwrap();
    driver.key(SHIFT.0, true).await;
    eventually("the key of the driver", async || held_keys(lab) == [SHIFT.1]).await;
    let clock = otter::clock::Clock::system();
    let ending = async {
        end_lease(&guarded, &id).await;
        clock.elapsed()
    };
    let closing = async {
        let closed = driver.closed().await;
        (closed, clock.elapsed())
    };
    let (answered_at, (closed, closed_at)) = tokio::join!(ending, closing);
    assert_eq!(closed.code, Some(4423), "{closed:?}");
    assert!(closed_at <= answered_at + CLOSED_WITHIN, "{closed_at:?} after {answered_at:?}");
    assert_eq!(viewer.closed().await.code, Some(4423));
    eventually("the key to be released", async || held_keys(lab).is_empty()).await;
    watching.update(false).await.unwrap();
    let refused = ViewerClient::open(lab, &path, &headers).await.err().unwrap();
    assert!([403, 423].contains(&refused.status), "{refused:?}");
}

/// A lease ends before its machine is released, which takes as long as the host likes.
#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_look_ends_with_the_lease_and_not_with_its_release() {
    let options = LabOptions { pace: Pace::Stepped, ..LabOptions::default() };
    let guarded = Guarded::with(options).await;
    let lab = &guarded.lab;
    let release = json!({"snapshot": "installed"});
    let ask = json!({"select": {"machine": MACHINE}, "ttl": "30m", "release": release});
    let taken = guarded.request("runner", Method::POST, "/v1/leases").json(&ask);
    let lease = Answer::from_request(taken).await.expect(201).json;
    let id = lease["id"].as_str().unwrap();
    let shown = format!("{id}.{}", lease["secret"].as_str().unwrap());
    let runner = bearer(&guarded, "runner");
    let path = viewer_path(MACHINE, "");
    let own = [("authorization", runner.as_str())];
    let shows_lease = [own[0], ("otter-lease", &shown)];
    let mut by_token = ViewerClient::open_silent(lab, &path, &own).await.unwrap();
    let mut by_lease = ViewerClient::open_silent(lab, &path, &shows_lease).await.unwrap();
    let operator = bearer(&guarded, "operator");
    let operator = [("authorization", operator.as_str())];
    let mut watching = ViewerClient::open(lab, &path, &operator).await.unwrap();
    end_lease(&guarded, id).await;
    assert_eq!(by_token.closed().await.code, Some(4423));
    assert_eq!(by_lease.closed().await.code, Some(4423));
    watching.update(false).await.unwrap();
    // The task of the host that reverts the machine has not ended yet.
    let lease = guarded.request("runner", Method::GET, &format!("/v1/leases/{id}"));
    assert_eq!(Answer::from_request(lease).await.expect(200).json["state"], "releasing");
    let state = format!("/v1/machines/{MACHINE}/screen");
    let look = guarded.request("runner", Method::GET, &state).header("otter-lease", &shown);
    let refused = Answer::from_request(look).await.problem(403, "forbidden");
    assert!(refused.str("detail").contains("is being released"), "{}", refused.text);
}

/// The token of the holder is revoked, and somebody else gets a token with its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_token_with_the_name_of_the_holder_is_another_caller() {
    let guarded = guarded().await;
    take_lease(&guarded, "runner").await;
    let path = format!("/v1/machines/{MACHINE}/screen.png");
    Answer::from_request(guarded.request("runner", Method::GET, &path)).await.expect(200);
    let later = guarded.made_again("runner", Role::Runner, Scope::default()).await;
    let look = async || {
        let request = guarded.lab.request(Method::GET, &path).bearer_auth(&later);
        Answer::from_request(request).await
    };
    eventually("the token to be known", async || look().await.status != 401).await;
    look().await.problem(403, "forbidden");
}

/// An override of a driver is recorded as that of a job, also if the lease is granted later.
#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_overrides_a_lease_is_recorded() {
    let guarded = guarded().await;
    let lab = &guarded.lab;
    let read = async |path: &str| {
        let answer = Answer::from_request(guarded.request("admin", Method::GET, path)).await;
        answer.expect(200).json
    };
    let records = async || {
        let audit = read("/v1/audit?action=machine.overridden").await;
        audit["items"].as_array().unwrap().clone()
    };
    let operator = bearer(&guarded, "operator");
    let headers = [("authorization", operator.as_str()), ("otter-override", "to repair the guest")];
    let path = viewer_path(MACHINE, "?mode=drive");
    let mut early = ViewerClient::open(lab, &path, &headers).await.unwrap();
    early.update(false).await.unwrap();
    assert!(records().await.is_empty(), "no lease is overridden");
    let (id, _) = take_lease(&guarded, "runner").await;
    eventually("the first record", async || records().await.len() == 1).await;
    early.leave().await;
    let mut late = ViewerClient::open(lab, &path, &headers).await.unwrap();
    late.update(false).await.unwrap();
    eventually("the second record", async || records().await.len() == 2).await;
    for record in records().await {
        assert_eq!(record["detail"], "screen.driver_started: to repair the guest");
        assert_eq!((&record["actor"], &record["machine"]), (&json!("operator"), &json!(MACHINE)));
        assert_eq!(record["lease"], id, "the lease that is overridden");
    }
    eventually("the warnings of the lease", async || {
        let lease = read(&format!("/v1/leases/{id}")).await;
        let warning = "operator acted on the machine: to repair the guest";
        lease["warnings"] == json!([warning, warning])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_closes_the_driver_that_is_not_the_holders() {
    let guarded = guarded().await;
    let lab = &guarded.lab;
    let operator = bearer(&guarded, "operator");
    let path = viewer_path(MACHINE, "?mode=drive");
    let own = [("authorization", operator.as_str())];
    let mut plain = ViewerClient::open(lab, &path, &own).await.unwrap();
    let (_, lease) = take_lease(&guarded, "runner").await;
    assert_eq!(plain.closed().await.code, Some(4403));
    // An override stays, until the holder takes over.
    let overriding = [own[0], ("otter-override", "to repair the guest")];
    let mut over = ViewerClient::open(lab, &path, &overriding).await.unwrap();
    over.update(false).await.unwrap();
    let runner = bearer(&guarded, "runner");
    let holder = [("authorization", runner.as_str()), ("otter-lease", &lease)];
    ViewerClient::open(lab, &path, &holder).await.err().unwrap().expect(409, "console-busy");
    let force = viewer_path(MACHINE, "?mode=drive&force=true");
    let mut driver = ViewerClient::open(lab, &force, &holder).await.unwrap();
    assert_eq!(over.closed().await.code, Some(4409));
    driver.update(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_look_and_who_may_drive() {
    let guarded = guarded_with(|settings| {
        let public = Pool {
            machines: vec!["ci-runner-*".parse().unwrap()],
            screens: ScreenAccess::Public,
            ..Pool::default()
        };
        settings.pools = Pools([("public".to_owned(), public)].into());
    })
    .await;
    let lab = &guarded.lab;
    let open = async |role: &str, path: &str| {
        let token = bearer(&guarded, role);
        let opened =
            ViewerClient::open_silent(lab, path, &[("authorization", token.as_str())]).await;
        opened.map_err(|refused| refused.status).err()
    };
    let (view, drive) = (viewer_path(MACHINE, ""), viewer_path(MACHINE, "?mode=drive"));
    for (role, looks, drives) in [
        ("viewer", Some(403), Some(403)),
        ("runner", Some(403), Some(403)),
        ("operator", None, None),
        ("admin", None, None),
    ] {
        assert_eq!(open(role, &view).await, looks, "{role} looks");
        assert_eq!(open(role, &drive).await, drives, "{role} drives");
        eventually("the seat to be free", async || {
            let path = format!("/v1/machines/{MACHINE}/screen");
            let state = Answer::from_request(guarded.request("admin", Method::GET, &path)).await;
            state.expect(200).json["driver"].is_null()
        })
        .await;
    }
    let public = viewer_path("name:ci-runner-2", "");
    assert_eq!(open("viewer", &public).await, None);
    assert_eq!(ViewerClient::open_silent(lab, &view, &[]).await.err().unwrap().status, 401);
    let golden = viewer_path("name:golden-debian-12", "?mode=drive");
    assert_eq!(open("admin", &golden).await, Some(409), "protected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_closes_its_viewers() {
    let guarded = guarded().await;
    let lab = &guarded.lab;
    let token = bearer(&guarded, "operator");
    let headers = [("authorization", token.as_str())];
    let path = viewer_path(MACHINE, "?mode=drive");
    let mut driver = ViewerClient::open(lab, &path, &headers).await.unwrap();
    guarded.rotated("operator", None).await;
    assert_eq!(driver.closed().await.code, Some(4401));
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_see_no_signal_while_the_machine_is_off() {
    let lab = lab().await;
    let mut viewer = ViewerClient::open(&lab, &viewer_path(MACHINE, ""), &[]).await.unwrap();
    viewer.update(false).await.unwrap();
    let path = format!("/v1/machines/{MACHINE}/power?wait=30s");
    lab.post(&path, json!({"action": "off"})).await.expect(200);
    eventually("the picture of no signal", async || {
        viewer.update(true).await.unwrap();
        no_signal(&viewer)
    })
    .await;
    // A machine that is off can be watched until it is on.
    let mut late = ViewerClient::open(&lab, &viewer_path(MACHINE, ""), &[]).await.unwrap();
    late.update(false).await.unwrap();
    assert!(no_signal(&late));
    power_on(&lab).await;
    for viewer in [&mut viewer, &mut late] {
        eventually("the screen to come back", async || {
            viewer.update(true).await.unwrap();
            !no_signal(viewer)
        })
        .await;
    }
}

/// Whether a viewer shows “no signal”.
fn no_signal(viewer: &ViewerClient) -> bool {
    let colours = viewer.colours();
    colours.iter().all(|colour| [[0x28; 3], [0xa0; 3]].contains(colour))
        && colours.contains(&[0xa0; 3])
}

/// The WebSocket stays open whatever becomes of the connection to the host and of the guest.
#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_goes_on_after_a_lost_connection_a_reset_and_a_revert() {
    const RUNNING: &str = "17";
    let lab = Lab::start().await;
    let mut viewer = ViewerClient::open(&lab, &viewer_path(RUNNING, ""), &[]).await.unwrap();
    viewer.update(false).await.unwrap();
    for (change, (width, height)) in
        [("cut", (1280, 1024)), ("reset", (800, 600)), ("revert", (1280, 1024))]
    {
        let path = |below: &str| format!("/v1/machines/{RUNNING}/{below}?wait=30s");
        match change {
            "cut" => {
                lab.control().end_consoles(RUNNING, ConsoleEnd::Cut);
                lab.control().show_screen(RUNNING, ScreenStage::Desktop);
            }
            "reset" => {
                lab.post(&path("power"), json!({"action": "reset"})).await.expect(200);
            }
            _ => {
                lab.post(&path("snapshots/logged%20in/revert"), json!({})).await.expect(200);
            }
        }
        eventually(&format!("the screen after a {change}"), async || {
            viewer.update(true).await.unwrap();
            let is_blank = viewer.colours().iter().all(|colour| *colour == [0; 3]);
            viewer.size == ScreenSize { width, height } && !is_blank && !no_signal(&viewer)
        })
        .await;
    }
}

/// A viewer that answers no ping is dropped a minute after its last sign, and the others stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_is_pinged_and_dropped_if_it_is_silent() {
    const RUNNING: &str = "17";
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let lab = Lab::with_options(LabOptions { clock: clock.clone(), ..LabOptions::default() }).await;
    let path = viewer_path(RUNNING, "");
    let mut answering = ViewerClient::open(&lab, &path, &[]).await.unwrap();
    let mut silent = ViewerClient::open(&lab, &path, &[]).await.unwrap();
    let open = async || {
        let state = lab.get(&format!("/v1/machines/{RUNNING}/screen")).await.expect(200).json;
        state["viewers"].as_array().unwrap().len()
    };
    for round in 1..=3 {
        assert_eq!(open().await, 2, "before round {round}");
        clock.advance(Duration::from_secs(20));
        answering.pinged().await;
        // otter reads the answer to the ping before this request.
        answering.update(false).await.unwrap();
    }
    eventually("the end of the silent viewer", async || open().await == 1).await;
    answering.update(false).await.unwrap();
    // otter waits for a moment for the close of the viewer.
    let closed = tokio::spawn(async move { silent.closed().await });
    eventually("the end of its connection", async || {
        clock.advance(Duration::from_secs(1));
        closed.is_finished()
    })
    .await;
    assert_eq!(closed.await.unwrap().code, None, "no close message for a viewer that reads none");
}

/// The memory in bytes that 100 viewers may cost that read nothing. One screen has 1.9 MB.
const SILENT_VIEWERS: u64 = 48 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn viewers_that_read_nothing_cost_little_and_others_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("otter.toml");
    std::fs::write(&config, "[screens]\nmax_viewers = 200\n").unwrap();
    let daemon = Daemon::start(&["--simulate", "--config", config.to_str().unwrap()], &[]).await;
    eventually("the inventory to be loaded", async || daemon.get("/readyz").await.status == 200)
        .await;
    let power = format!("/v1/machines/{MACHINE}/power?wait=30s");
    daemon.post(&power, json!({"action": "on"})).await.expect(200);
    let (address, path) = (daemon.address().parse().unwrap(), viewer_path(MACHINE, ""));
    let mut reader = ViewerClient::open_at(address, &path, &[]).await.unwrap();
    eventually("the login of the guest", async || {
        reader.update(true).await.unwrap();
        reader.size == ScreenSize { width: 800, height: 600 }
    })
    .await;
    let before = daemon.resident_memory();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(ViewerClient::open_at(address, &path, &[]).await.unwrap());
    }
    assert_eq!(daemon.metric("otter_screens_open").await, 1, "one connection for all viewers");
    // They ask for more than the buffers of the kernel hold, and read nothing.
    for _ in 0..10 {
        for viewer in &mut silent {
            viewer.request(false).await;
        }
        reader.update(false).await.unwrap();
        pause().await;
    }
    let after = daemon.resident_memory();
    assert!(after <= before + SILENT_VIEWERS, "{after} bytes, and {before} before");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_viewers_of_a_machine_is_limited() {
    let lab = Lab::with_settings(|settings| settings.screens.max_viewers = 2).await;
    power_on(&lab).await;
    let path = viewer_path(MACHINE, "");
    let first = ViewerClient::open(&lab, &path, &[]).await.unwrap();
    let _second = ViewerClient::open(&lab, &path, &[]).await.unwrap();
    let refused = ViewerClient::open(&lab, &path, &[]).await.err().unwrap();
    refused.expect(503, "too-many-consoles");
    first.leave().await;
    eventually("a place to be free", async || {
        ViewerClient::open_silent(&lab, &path, &[]).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_ends_only_its_viewer() {
    let lab = lab().await;
    let path = viewer_path(MACHINE, "?mode=drive");
    for rubbish in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], b"RFB 003.008\n\x02"] {
        let mut viewer = ViewerClient::open_silent(&lab, &path, &[]).await.unwrap();
        viewer.send(rubbish).await;
        let closed = viewer.closed().await;
        assert_eq!(closed.code, Some(1002), "{closed:?}");
        eventually("the seat to be free", async || screen_state(&lab).await["driver"].is_null())
            .await;
    }
    let mut viewer = ViewerClient::open(&lab, &path, &[]).await.unwrap();
    viewer.send_text("hello").await;
    assert_eq!(viewer.closed().await.code, Some(1002));
    assert!(held_keys(&lab).is_empty());
    let mut other = ViewerClient::open(&lab, &viewer_path(MACHINE, ""), &[]).await.unwrap();
    other.update(false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_token_opens_one_websocket() {
    let guarded = guarded().await;
    let lab = &guarded.lab;
    let tokens = format!("/v1/machines/{MACHINE}/console-tokens");
    let ask = async |role: &str, body: Value| {
        Answer::from_request(guarded.request(role, Method::POST, &tokens).json(&body)).await
    };
    let drive = json!({"kind": "screen", "mode": "drive"});
    let issued = ask("operator", drive.clone()).await.expect(201);
    assert_eq!(issued.header("cache-control"), Some("no-store"));
    let (url, token) = (issued.str("url").to_owned(), issued.str("token").to_owned());
    assert!(issued.str("page").contains(&format!("#console=screen&machine={MACHINE}")));
    assert!(!url.contains(&token));
    let offered = format!("binary, otter.token.{token}");
    let headers = [("sec-websocket-protocol", offered.as_str())];
    let mut driver = ViewerClient::open(lab, &url, &headers).await.unwrap();
    assert_eq!(driver.protocol.as_deref(), Some("binary"));
    driver.update(false).await.unwrap();
    let again = ViewerClient::open(lab, &url, &headers).await.err().unwrap();
    again.expect(401, "unauthenticated");
    assert!(!again.problem.to_string().contains(&token));
    // The refusal of the WebSocket is already that of the token.
    ask("operator", drive.clone()).await.problem(409, "console-busy");
    ask("viewer", json!({"kind": "screen", "mode": "view"})).await.problem(403, "forbidden");
    ask("runner", drive).await.problem(403, "forbidden");
    for (body, pointer) in [
        (json!({"kind": "sound", "mode": "view"}), "/kind"),
        (json!({"kind": "serial", "mode": "view"}), "/port"),
        (json!({"kind": "screen", "mode": "type"}), "/mode"),
        (json!({"kind": "screen", "mode": "view", "force": true}), "/force"),
    ] {
        let refused = ask("operator", body).await.problem(400, "invalid-request");
        assert_eq!(refused.json["errors"][0]["pointer"], pointer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_token_is_bound_to_its_machine_its_mode_and_its_grant() {
    let guarded = guarded().await;
    let lab = &guarded.lab;
    let tokens = format!("/v1/machines/{MACHINE}/console-tokens");
    let offered = async || {
        let body = json!({"kind": "screen", "mode": "view"});
        let ask = guarded.request("operator", Method::POST, &tokens).json(&body);
        let issued = Answer::from_request(ask).await.expect(201);
        format!("binary, otter.token.{}", issued.str("token"))
    };
    let open = async |path: &str, offered: &str| {
        let headers = [("sec-websocket-protocol", offered)];
        ViewerClient::open_silent(lab, path, &headers).await.map_err(|refused| refused.status).err()
    };
    let (view, drive) = (viewer_path(MACHINE, ""), viewer_path(MACHINE, "?mode=drive"));
    for wrong in [drive, viewer_path("22", "")] {
        let token = offered().await;
        assert_eq!(open(&wrong, &token).await, Some(403), "{wrong}");
        assert_eq!(open(&view, &token).await, Some(401), "burned before it was checked");
    }
    let before = offered().await;
    let (id, _) = take_lease(&guarded, "runner").await;
    assert_eq!(open(&view, &before).await, Some(423), "another grant");
    end_lease(&guarded, &id).await;
    let revoked = offered().await;
    guarded.rotated("operator", None).await;
    eventually("the rotation to count", async || {
        let request = guarded.request("operator", Method::GET, "/v1/about");
        Answer::from_request(request).await.status == 401
    })
    .await;
    assert_eq!(open(&view, &revoked).await, Some(401), "the token of the caller");
}

#[tokio::test(flavor = "multi_thread")]
async fn viewers_end_when_otter_stops() {
    let lab = lab().await;
    let path = viewer_path(MACHINE, "?mode=drive");
    let mut driver = ViewerClient::open(&lab, &path, &[]).await.unwrap();
    driver.update(false).await.unwrap();
    let closed = tokio::spawn(async move { driver.closed().await });
    lab.stop().await;
    assert_eq!(closed.await.unwrap().code, Some(4503));
}
