//! `screen.png`: the right pixels, whole, for those who may look.

use otter::domain::pool::{Pool, ScreenAccess};
use otter::simulator::{ConsoleQuirks, FirstUpdate, HostChange, ScreenStage};
use reqwest::Method;
use serde_json::json;

use super::{RUNNING, decode, guest_picture};
use crate::api::tokens::Guarded;
use crate::harness::{Answer, Lab, LabOptions, eventually};

const PICTURE: &str = "/v1/machines/17/screen.png";

async fn picture(lab: &Lab, query: &str) -> Answer {
    lab.get(&format!("{PICTURE}{query}")).await.expect(200)
}

/// Waits until a picture is that of the guest, which may change between two looks.
async fn matches_guest(lab: &Lab) {
    eventually("the picture of the guest", async || {
        let before = guest_picture(lab, RUNNING);
        let shown = decode(&picture(lab, "").await.bytes);
        shown == before || shown == guest_picture(lab, RUNNING)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_has_the_pixels_of_the_guest() {
    let lab = Lab::start().await;
    for stage in [ScreenStage::Login, ScreenStage::Desktop, ScreenStage::Firmware] {
        lab.control().show_screen(RUNNING, stage);
        let answer = picture(&lab, "").await;
        assert_eq!(answer.header("content-type"), Some("image/png"));
        assert!(answer.header("otter-screen-changed").unwrap().ends_with('Z'));
        matches_guest(&lab).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_whole_however_the_host_answers() {
    for first_update in [FirstUpdate::Part, FirstUpdate::OnePixel, FirstUpdate::SizeAlone] {
        let lab = Lab::start().await;
        lab.control().show_screen(RUNNING, ScreenStage::Login);
        let quirks = ConsoleQuirks {
            first_update,
            rectangles: 1,
            message_bytes: 1_000,
            ..ConsoleQuirks::default()
        };
        lab.control().apply(HostChange::ConsoleQuirks(quirks));
        matches_guest(&lab).await;
        assert_eq!(lab.control().calls("AcquireTicket"), 1, "{first_update:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pixels_have_the_same_tag() {
    let lab = Lab::start().await;
    lab.control().show_screen(RUNNING, ScreenStage::Login);
    matches_guest(&lab).await;
    let corner = "?region=0,0,40,30";
    let answer = picture(&lab, corner).await;
    let tag = answer.header("etag").unwrap().to_owned();
    assert!(!tag.starts_with("W/"), "{tag}");
    let again = lab.get_with(&format!("{PICTURE}{corner}"), &[("if-none-match", &tag)]).await;
    assert_eq!((again.status, again.bytes.len()), (304, 0));
    lab.control().show_screen(RUNNING, ScreenStage::Desktop);
    eventually("another tag", async || {
        picture(&lab, corner).await.header("etag") != Some(tag.as_str())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_can_be_a_part_and_smaller() {
    let lab = Lab::start().await;
    lab.control().show_screen(RUNNING, ScreenStage::Login);
    matches_guest(&lab).await;
    let (width, height, _) = decode(&picture(&lab, "").await.bytes);
    let (part_width, part_height, part) =
        decode(&picture(&lab, "?region=10,20,100,50").await.bytes);
    assert_eq!((part_width, part_height), (100, 50));
    let (_, _, whole) = guest_picture(&lab, RUNNING);
    assert_eq!(part[0], whole[20 * width as usize + 10]);
    let small = decode(&picture(&lab, &format!("?width={}", width / 2)).await.bytes);
    assert_eq!((small.0, small.1), (width / 2, height / 2));
    let large = decode(&picture(&lab, "?width=8192").await.bytes);
    assert_eq!((large.0, large.1), (width, height), "a picture is never enlarged");
    for (query, place, code) in [
        ("?region=1,2,3", "region", "not-a-region"),
        ("?region=0,0,0,5", "region", "not-a-region"),
        ("?region=0,0,5000,5", "region", "out-of-range"),
        ("?width=0", "width", "out-of-range"),
        ("?width=9000", "width", "out-of-range"),
        ("?max_age=old", "max_age", "not-a-duration"),
    ] {
        let answer = lab.get(&format!("{PICTURE}{query}")).await;
        answer.problem(400, "invalid-request").points_at(place, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_picture_is_enough_if_the_caller_says_so() {
    let lab = Lab::start().await;
    lab.control().show_screen(RUNNING, ScreenStage::Login);
    matches_guest(&lab).await;
    let silent = ConsoleQuirks { silent: true, ..ConsoleQuirks::default() };
    lab.control().apply(HostChange::ConsoleQuirks(silent));
    // The host answers nothing any more, so a confirmed picture would take until its limit.
    let answer = picture(&lab, "?max_age=1h").await;
    assert!(answer.bytes.starts_with(b"\x89PNG"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_not_on_has_no_picture() {
    let lab = Lab::start().await;
    let answer = lab.get("/v1/machines/16/screen.png").await;
    answer.problem(409, "invalid-power-state");
    assert_eq!(lab.control().calls("AcquireTicket"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_with_memory_has_a_picture() {
    let lab = Lab::start().await;
    let path = |snapshot: &str| format!("/v1/machines/17/snapshots/{snapshot}/screen.png");
    let answer = lab.get(&path("logged%20in")).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("image/png"));
    assert!(decode(&answer.bytes).0 > 0);
    lab.get(&path("kickstart")).await.problem(404, "not-found");
    lab.get(&path("none")).await.problem(404, "not-found");
    assert_eq!(lab.control().open_consoles(RUNNING), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_look() {
    let settings: fn(&mut otter::app::Settings) = |settings| {
        let public = Pool {
            machines: vec!["xenial-*".parse().unwrap()],
            screens: ScreenAccess::Public,
            ..Pool::default()
        };
        settings.pools.0.insert("public".to_owned(), public);
    };
    let guarded = Guarded::with(LabOptions { settings, ..LabOptions::default() }).await;
    let look = async |role: &str, path: &str, lease: &str| {
        let mut request = guarded.request(role, Method::GET, path);
        if !lease.is_empty() {
            request = request.header("otter-lease", lease);
        }
        Answer::from_request(request).await
    };
    let state = "/v1/machines/17/screen";
    for path in [PICTURE, state] {
        look("operator", path, "").await.expect(200);
        look("runner", path, "").await.problem(403, "forbidden");
        look("viewer", path, "").await.problem(403, "forbidden");
    }
    // A machine that is on is not free, so the holder powers one on.
    let ask = json!({"select": {"machine": "16"}, "ttl": "10m"});
    let taken = guarded.request("operator", Method::POST, "/v1/leases").json(&ask);
    let lease = Answer::from_request(taken).await.expect(201);
    let shown = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let on = guarded.request("operator", Method::POST, "/v1/machines/16/power?wait=30s");
    let on = on.header("otter-lease", &shown).json(&json!({"action": "on"}));
    Answer::from_request(on).await.expect(200);
    let held = "/v1/machines/16/screen.png";
    for path in [held, "/v1/machines/16/screen"] {
        look("runner", path, "").await.problem(403, "forbidden");
        look("runner", path, &shown).await.expect(200);
        look("viewer", path, &shown).await.expect(200);
        look("operator", path, "").await.expect(200);
    }
    let wrong = format!("{}.{}", lease.str("id"), "0".repeat(64));
    look("runner", held, &wrong).await.problem(423, "machine-leased");
}
