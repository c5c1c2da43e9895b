//! Leases that are kept for a person after a failure: `keep_on_failure` and `outcome=failed`.

use std::time::Duration;

use otter::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    STAGING, end_lease, granted_lease, lease_header, lease_path, request_lease, with_lease,
};
use crate::harness::{Answer, Lab, LabOptions, machine_path};

/// A lab whose time stands still, and its clock.
async fn lab() -> (Lab, Clock) {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let lab = Lab::with_options(LabOptions { clock: clock.clone(), ..LabOptions::default() }).await;
    (lab, clock)
}

/// Ends the lease with its secret.
async fn end_with(lab: &Lab, lease: &Value, query: &str) -> Value {
    let path = lease_path(lease, query);
    with_lease(lab, Method::DELETE, &path, &lease_header(lease), None).await.expect(200).json
}

fn kept_entries(lease: &Value) -> usize {
    let history = lease["history"].as_array().unwrap();
    history.iter().filter(|entry| entry["what"] == "kept").count()
}

#[tokio::test]
async fn a_lease_whose_use_failed_stays_active_for_a_person() {
    let (lab, clock) = lab().await;
    let body = json!({"select": {"name": STAGING}, "ttl": "30m", "keep_on_failure": "4h"});
    let lease = granted_lease(&lab, body).await;
    assert_eq!((&lease["keep_on_failure"], &lease["kept_at"]), (&json!("4h"), &Value::Null));
    clock.advance(Duration::from_mins(10));
    // A lease that is kept does not end in the time of the wait.
    let kept = end_with(&lab, &lease, "?outcome=failed&wait=10m").await;
    assert_eq!(
        (&kept["state"], &kept["expires_at"], &kept["kept_at"]),
        (&json!("active"), &json!("2026-03-01T16:10:00Z"), &json!("2026-03-01T12:10:00Z"))
    );
    assert_eq!((kept_entries(&kept), &kept["end"]), (1, &Value::Null));
    // The secret is valid, and the machine is not changed.
    let power = machine_path(STAGING, "/power");
    let off = Some(json!({"action": "off"}));
    let done = with_lease(&lab, Method::POST, &power, &lease_header(&lease), off).await.expect(202);
    assert_eq!(done.header("otter-lease-expires"), Some("2026-03-01T16:10:00Z"));
    lab.post(&power, json!({"action": "off"})).await.problem(423, "machine-leased");

    // A repeat changes nothing.
    clock.advance(Duration::from_hours(1));
    let again = end_with(&lab, &lease, "?outcome=failed").await;
    assert_eq!((&again["expires_at"], kept_entries(&again)), (&kept["expires_at"], 1));
    let audit = lab.get("/v1/audit?action=lease.kept").await.expect(200).json;
    assert_eq!(audit["items"].as_array().unwrap().len(), 1, "{audit}");
    assert_eq!(
        (&audit["items"][0]["lease"], &audit["items"][0]["detail"]),
        (&lease["id"], &json!("4h left"))
    );

    let ended = end_lease(&lab, &lease).await;
    assert_eq!(ended["state"], "released");
    let free = lab.machine(STAGING).await;
    assert_eq!((&free["free"], &free["power_state"]), (&json!(true), &json!("off")));
    assert_eq!(end_with(&lab, &lease, "?outcome=failed").await["state"], "released");
}

#[tokio::test]
async fn a_kept_lease_expires_after_its_time_but_not_after_its_longest_time() {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let lab = Lab::with_options(LabOptions {
        clock: clock.clone(),
        settings: |settings| settings.leases.max_total = Duration::from_hours(1),
        ..LabOptions::default()
    })
    .await;
    let body =
        |time: &str| json!({"select": {"name": STAGING}, "ttl": "30m", "keep_on_failure": time});
    let lease = granted_lease(&lab, body("4h")).await;
    let kept = end_with(&lab, &lease, "?outcome=failed").await;
    assert_eq!(
        (&kept["expires_at"], &kept["max_expires_at"]),
        (&json!("2026-03-01T13:00:00Z"), &json!("2026-03-01T13:00:00Z"))
    );
    clock.advance(Duration::from_hours(1));
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "expired").await;
    lab.wait_for_field("16", "free", json!(true)).await;
    // The time for which a lease is kept can be shorter than its remaining time.
    let short = granted_lease(&lab, body("5m")).await;
    let kept = end_with(&lab, &short, "?outcome=failed").await;
    assert_eq!(kept["expires_at"], "2026-03-01T13:05:00Z");
}

#[tokio::test]
async fn only_an_active_lease_that_asks_for_it_is_kept() {
    let (lab, _) = lab().await;
    let plain = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    assert_eq!(end_with(&lab, &plain, "?outcome=failed&wait=20s").await["state"], "released");
    let keeps = |more: Value| {
        let mut body = json!({"select": {"name": STAGING}, "ttl": "30m", "keep_on_failure": "4h"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let lease = granted_lease(&lab, keeps(json!({}))).await;
    let queued = request_lease(&lab, keeps(json!({"queue_for": "5m"}))).await.expect(202).json;
    assert_eq!(end_with(&lab, &queued, "?outcome=failed").await["state"], "released");
    assert_eq!(end_with(&lab, &lease, "?outcome=succeeded&wait=20s").await["state"], "released");
    let preparing = granted_lease(&lab, keeps(json!({"prepare": {"settle": "10m"}}))).await;
    assert_eq!(end_with(&lab, &preparing, "?outcome=failed&wait=20s").await["state"], "released");
    // An operator ends a kept lease without its secret.
    let lease = granted_lease(&lab, keeps(json!({}))).await;
    end_with(&lab, &lease, "?outcome=failed").await;
    let revoke = lab.request(Method::DELETE, &lease_path(&lease, "?wait=20s"));
    assert_eq!(Answer::from_request(revoke).await.expect(200).json["state"], "revoked");
}
