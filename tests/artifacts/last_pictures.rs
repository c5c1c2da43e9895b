//! The last picture of a lease and its text: kept however the lease ends, and never in the way of
//! the release.

use otter::simulator::{ConsoleQuirks, HostChange, ScreenStage};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Held, MACHINE};
use crate::harness::{Answer, Lab, LabOptions};
use crate::screens::{decode, guest_picture};

/// Takes the machine, powered on, and looks at its screen.
async fn looked_at(lab: &Lab, more: Value) -> Held {
    let mut ask = json!({"prepare": {"power": "on"}});
    ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let lease = Held::take(lab, ask).await;
    lab.control().show_screen(MACHINE, ScreenStage::Login);
    lab.get(&format!("/v1/machines/{MACHINE}/screen.png")).await.expect(200);
    lease
}

/// Asserts that the lease keeps the picture of the login, and its text.
async fn assert_has_login(lab: &Lab, lease: &Held, login: &(u32, u32, Vec<[u8; 3]>)) {
    lease.wait_until_rendered(lab).await;
    assert_eq!(lease.names(lab).await, ["screen-last.png", "screen-last.txt"]);
    assert!(decode(&lease.bytes(lab, "screen-last.png").await) == *login);
    let text = String::from_utf8(lease.bytes(lab, "screen-last.txt").await).unwrap();
    assert!(text.contains("Qubes OS"), "{text}");
    let list = lease.list(lab).await;
    assert!(list.items("source").iter().all(|source| *source == "otter"), "{}", list.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_picture_is_kept_however_the_lease_ends() {
    let lab = Lab::start().await;
    let released = looked_at(&lab, json!({})).await;
    let login = guest_picture(&lab, MACHINE);
    released.end(&lab).await;
    assert_has_login(&lab, &released, &login).await;

    let revoked = looked_at(&lab, json!({})).await;
    let path = format!("{}?wait=30s", revoked.path());
    let ended = Answer::from_request(lab.request(Method::DELETE, &path)).await.expect(200);
    assert_eq!(ended.str("state"), "revoked");
    assert_has_login(&lab, &revoked, &login).await;

    let expired = looked_at(&lab, json!({"ttl": "6s"})).await;
    lab.wait_until(&expired.path(), |lease| lease["state"] == "expired").await;
    assert_has_login(&lab, &expired, &login).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_whose_screen_was_not_used_has_no_picture() {
    let lab = Lab::start().await;
    let lease = Held::take(&lab, json!({"prepare": {"power": "on"}})).await;
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    assert_eq!(lease.names(&lab).await, [""; 0]);
    assert_eq!(lab.control().calls("AcquireTicket"), 0, "otter opened the screen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_answer_holds_up_no_release() {
    let lab = Lab::start().await;
    let lease = looked_at(&lab, json!({})).await;
    let login = guest_picture(&lab, MACHINE);
    let silent = ConsoleQuirks { silent: true, ..ConsoleQuirks::default() };
    lab.control().apply(HostChange::ConsoleQuirks(silent));
    lease.end(&lab).await;
    // What the host showed before is better than nothing.
    assert_has_login(&lab, &lease, &login).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_the_picture_holds_up_no_release() {
    let state = tempfile::tempdir().unwrap();
    let lab = Lab::with_state_dir_and_options(state.path(), LabOptions::default()).await;
    lab.wait_until_ready().await;
    let lease = looked_at(&lab, json!({})).await;
    std::fs::write(state.path().join("artifacts"), "no folder").unwrap();
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    assert_eq!(lease.names(&lab).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_needs_no_program_that_reads_text() {
    let lab = Lab::with_settings(|settings| {
        settings.screens.ocr_command = vec!["no-such-program".to_owned()];
    })
    .await;
    let lease = looked_at(&lab, json!({})).await;
    lease.end(&lab).await;
    lease.wait_until_rendered(&lab).await;
    assert_eq!(lease.names(&lab).await, ["screen-last.png"]);
}
