//! Expiry, renewals and queue time of leases, on a stepped clock.

use std::time::Duration;

use futures_util::StreamExt;
use otter::clock::Clock;
use otter::simulator::Pace;
use otter::storage::Storage;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    STAGING, end_lease, granted_lease, lease_header, lease_path, request_lease, with_lease,
};
use crate::harness::{EventStream, Lab, LabOptions, eventually, machine_path};

const MINUTE: Duration = Duration::from_mins(1);

async fn lab() -> (Lab, Clock) {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let settings = |settings: &mut otter::app::Settings| {
        settings.leases.max_ttl = Duration::from_hours(1);
        settings.leases.max_total = Duration::from_mins(90);
    };
    let plan =
        LabOptions { pace: Pace::Stepped, clock: clock.clone(), settings, ..LabOptions::default() };
    (Lab::with_options(plan).await, clock)
}

async fn renew(lab: &Lab, lease: &Value, body: Value) -> Value {
    with_lease(lab, Method::POST, &lease_path(lease, "/renew"), &lease_header(lease), Some(body))
        .await
        .expect(200)
        .json
}

fn warnings(lease: &Value) -> usize {
    let is_warning = |line: &&Value| line["what"].as_str().unwrap().contains("ends soon");
    lease["history"].as_array().into_iter().flatten().filter(is_warning).count()
}

#[tokio::test]
async fn an_event_warns_at_a_fifth_of_the_time_and_the_lease_expires_on_time() {
    let (lab, clock) = lab().await;
    let mut stream = EventStream::open(&lab, "?types=lease.changed").await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    assert_eq!(
        (&lease["active_at"], &lease["expires_at"]),
        (&json!("2026-03-01T12:00:00Z"), &json!("2026-03-01T12:30:00Z"))
    );
    assert_eq!(lease["max_expires_at"], "2026-03-01T13:30:00Z");
    clock.advance(MINUTE * 23);
    // The event of the renewal shows that no earlier event had a warning.
    let renewed = renew(&lab, &lease, json!({})).await;
    assert_eq!(
        (renewed["expires_at"].as_str(), warnings(&renewed)),
        (Some("2026-03-01T12:53:00Z"), 0)
    );
    clock.advance(MINUTE * 24);
    let events = stream.until(|event| warnings(&event.json["object"]) == 1).await;
    let warned = &events.last().unwrap().json["object"];
    assert_eq!(
        (&warned["state"], &warned["expires_at"]),
        (&json!("active"), &renewed["expires_at"])
    );
    // After a renewal there is another warning.
    assert_eq!(
        renew(&lab, &lease, json!({"ttl": "10m"})).await["expires_at"],
        "2026-03-01T12:57:00Z"
    );
    clock.advance(MINUTE * 4 + Duration::from_secs(1));
    stream.until(|event| warnings(&event.json["object"]) == 2).await;
    clock.advance(MINUTE * 6);
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "expired").await;
    let ended = lab.get(&lease_path(&lease, "")).await.json;
    assert_eq!(
        (&ended["end"]["reason"], &ended["end"]["by"]),
        (&json!("expired"), &json!("otter"))
    );
    assert_eq!((&ended["expires_at"], &ended["max_expires_at"]), (&Value::Null, &Value::Null));
    assert_eq!(lab.machine(STAGING).await["free"], true);
}

#[tokio::test]
async fn renewals_never_shorten_a_lease_and_do_not_exceed_the_total_time() {
    let (lab, clock) = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "40m"})).await;
    let same = renew(&lab, &lease, json!({"ttl": "1m"})).await;
    assert_eq!(same["expires_at"], lease["expires_at"], "a renewal never shortens the lease");
    for body in [
        json!({"ttl": "61m"}),
        json!({"ttl": "0s"}),
        json!({"ttl": "-1m"}),
        json!({"ttl": 5}),
        json!({"tll": "5m"}),
    ] {
        let answer = with_lease(
            &lab,
            Method::POST,
            &lease_path(&lease, "/renew"),
            &lease_header(&lease),
            Some(body),
        )
        .await;
        answer.problem(400, "invalid-request");
    }
    clock.advance(MINUTE * 35);
    assert_eq!(renew(&lab, &lease, json!({})).await["expires_at"], "2026-03-01T13:15:00Z");
    clock.advance(MINUTE * 35);
    let last = renew(&lab, &lease, json!({"ttl": "1h"})).await;
    assert_eq!(
        (&last["expires_at"], &last["max_expires_at"]),
        (&json!("2026-03-01T13:30:00Z"), &lease["max_expires_at"])
    );
    clock.advance(MINUTE * 20);
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "expired").await;
}

#[tokio::test]
async fn time_begins_when_the_lease_is_active() {
    let (lab, clock) = lab().await;
    let body = json!({"select": {"name": STAGING}, "ttl": "30m", "prepare": {"settle": "5m"}});
    let lease = granted_lease(&lab, body).await;
    assert_eq!(
        (&lease["state"], &lease["active_at"], &lease["expires_at"]),
        (&json!("preparing"), &Value::Null, &Value::Null)
    );
    let early = with_lease(
        &lab,
        Method::POST,
        &lease_path(&lease, "/renew"),
        &lease_header(&lease),
        Some(json!({})),
    )
    .await;
    let early = early.problem(409, "lease-not-active");
    assert_eq!((&early.json["lease"], early.str("retry")), (&lease["id"], "no"));
    let on = (machine_path(STAGING, "/power"), Some(json!({"action": "on"})));
    with_lease(&lab, Method::POST, &on.0, &lease_header(&lease), on.1)
        .await
        .problem(409, "lease-not-active");
    lab.wait_until(&lease_path(&lease, ""), |lease| !lease["job"].is_null()).await;
    let job = lab.get(&lease_path(&lease, "")).await.json["job"].as_str().unwrap().to_owned();
    lab.wait_until(&format!("/v1/jobs/{job}"), |job| {
        job["phase"] == "letting the machine come to rest"
    })
    .await;
    clock.advance(MINUTE * 5);
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "active").await;
    let active = lab.get(&lease_path(&lease, "")).await.json;
    assert_eq!(
        (&active["active_at"], &active["expires_at"]),
        (&json!("2026-03-01T12:05:00Z"), &json!("2026-03-01T12:35:00Z"))
    );
}

#[tokio::test]
async fn a_queued_lease_fails_after_its_queue_time_or_without_polls() {
    let (lab, clock) = lab().await;
    granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "1h"})).await;
    let body = |time: &str| json!({"select": {"name": STAGING}, "ttl": "30m", "queue_for": time});
    let unmatched = request_lease(&lab, body("1m")).await.expect(202).json;
    clock.advance(Duration::from_secs(1));
    let unpolled = request_lease(&lab, body("30m")).await.expect(202).json;
    assert_eq!((&unmatched["position"], &unpolled["position"]), (&json!(0), &json!(1)));
    clock.advance(MINUTE + Duration::from_secs(1));
    lab.wait_until(&lease_path(&unmatched, ""), |lease| lease["state"] == "failed").await;
    let problem = lab.get(&lease_path(&unmatched, "/wait")).await.problem(409, "no-free-machine");
    assert!(problem.str("detail").contains("queue-timeout"), "{}", problem.text);
    // Of two queued leases only the polled one stays queued.
    let polled = request_lease(&lab, body("30m")).await.expect(202).json;
    clock.advance(Duration::from_secs(50));
    assert_eq!(lab.get(&lease_path(&polled, "")).await.json["state"], "queued");
    clock.advance(Duration::from_secs(75));
    lab.wait_until("/v1/leases?state=failed", |list| list["items"].as_array().unwrap().len() == 2)
        .await;
    let lease = lab.get(&lease_path(&unpolled, "")).await.json;
    assert_eq!((&lease["state"], &lease["end"]["reason"]), (&json!("failed"), &json!("abandoned")));
    lab.get(&lease_path(&unpolled, "/wait")).await.problem(409, "lease-failed");
    assert_eq!(lab.get(&lease_path(&polled, "")).await.json["state"], "queued");
}

/// Advances the clock and waits until the store has recorded that otter runs.
async fn checkpoint(lab: &Lab, clock: &Clock) {
    clock.advance(Duration::from_secs(10));
    let now = clock.now();
    let is_recorded = async || lab.store.last_seen().await.unwrap() == Some(now);
    eventually("the record that otter runs", is_recorded).await;
}

#[tokio::test]
async fn an_idle_otter_with_1000_leases_emits_no_event_and_a_checkpoint_is_one_statement() {
    let (lab, clock) = lab().await;
    let leases =
        [STAGING, "qubes-4.3-nightly"].map(|name| json!({"select": {"name": name}, "ttl": "1h"}));
    for lease in leases {
        granted_lease(&lab, lease).await;
    }
    let waits = json!({"select": {"name": STAGING}, "ttl": "1h", "queue_for": "1h"});
    let requests = (0..998).map(|_| async {
        request_lease(&lab, waits.clone()).await.expect(202);
    });
    futures_util::stream::iter(requests).buffer_unordered(16).collect::<()>().await;
    checkpoint(&lab, &clock).await;
    let version = async || lab.get("/v1/machines").await.expect(200).str("version").to_owned();
    let before = version().await;
    let (commits, statements) = (lab.store.transactions(), lab.store.statements());
    // Four checkpoints take less than a minute, after which otter also deletes old rows.
    for round in 1..=4 {
        clock.advance(Duration::from_secs(10));
        // A look into the store would be a statement, too.
        let is_recorded = async || lab.store.transactions() >= commits + round;
        eventually("the record that otter runs", is_recorded).await;
    }
    assert_eq!(version().await, before, "an event was emitted although nothing changed");
    assert_eq!(lab.store.transactions() - commits, 4, "a checkpoint is one commit for all leases");
    assert_eq!(lab.store.statements() - statements, 4, "a checkpoint is one statement");
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_moves_the_shown_expiry() {
    let (lab, clock) = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "1h"})).await;
    assert_eq!(lease["expires_at"], "2026-03-01T13:00:00Z");
    let mut stream = EventStream::open(&lab, "?types=lease.changed").await;
    clock.jump(jiff::SignedDuration::from_hours(5));
    clock.advance(Duration::from_secs(10));
    let event = stream.event().await;
    assert_eq!(event.json["object"]["expires_at"], "2026-03-01T18:00:00Z");
    assert_eq!(lab.get(&lease_path(&lease, "")).await.json["state"], "active");
}

#[tokio::test]
async fn the_ledger_of_an_absent_machine_is_deleted_and_its_fence_is_not_reused() {
    let (lab, clock) = lab().await;
    let take = || json!({"select": {"machine": format!("name:{STAGING}")}, "ttl": "5m"});
    let first = granted_lease(&lab, take()).await;
    end_lease(&lab, &first).await;
    let gone = lab.control().mutate(|world| world.remove_machine("16")).unwrap();
    lab.wait_until_gone("16").await;
    // otter looks for absent machines every hour, and at the first checkpoint.
    let ledger_count = async || lab.store.stored_machines().await.unwrap().len();
    clock.advance(Duration::from_secs(10));
    let absent = async || {
        let ledgers = lab.store.stored_machines().await.unwrap();
        ledgers.values().all(|ledger| ledger.absent_since.is_some())
    };
    eventually("the record of the absence", absent).await;
    clock.advance(Duration::from_hours(30 * 24 - 1));
    clock.advance(Duration::from_hours(1));
    eventually("the deletion of the ledger", async || ledger_count().await == 0).await;
    lab.control().mutate(|world| world.add_machine(gone));
    lab.wait_for_field("16", "name", json!(STAGING)).await;
    let second = granted_lease(&lab, take()).await;
    assert!(second["fence"].as_u64() > first["fence"].as_u64(), "{second}");
}
