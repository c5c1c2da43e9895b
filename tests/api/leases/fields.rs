//! The fields of leases, pools and quarantines in every state, and the secrecy of the secret.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    STAGING, granted_lease, lease_header, lease_path, request_lease, with_lease, with_pools,
};
use crate::harness::{Answer, EventStream, Lab, LabOptions, eventually, machine_path};

/// The fields of a lease.
const FIELDS: &str = "id state machine machine_name select pool holder requested_by reference \
                      position blocked_by ttl queue_for created_at active_at kept_at expires_at \
                      max_expires_at fence prepare release keep_on_failure record recording job \
                      secret history end warnings links";

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[track_caller]
fn has(value: &Value, fields: &str) {
    assert_eq!(keys(value), fields.split_whitespace().collect(), "{value}");
}

/// Asserts that a lease has exactly its fields, and that exactly the fields in `null` are null,
/// besides `kept_at`, `keep_on_failure` and the recording, and besides `blocked_by` if the lease is not queued.
#[track_caller]
fn is_lease(lease: &Value, state: &str, null: &str) {
    has(lease, FIELDS);
    assert_eq!(lease["state"], state, "{lease}");
    let nulls: BTreeSet<&str> = lease
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, value)| value.is_null())
        .map(|(key, _)| &**key)
        .collect();
    let always = if state == "queued" { "" } else { "blocked_by" };
    let null = format!("{null} {always} kept_at keep_on_failure record recording");
    assert_eq!(nulls, null.split_whitespace().collect(), "{lease}");
    has(
        &lease["select"],
        "machine name mac pool pools exclude memory_bytes_at_least nested_virtualization",
    );
    if state == "queued" {
        has(&lease["blocked_by"], "kind pool detail");
    }
    has(&lease["release"], "power snapshot");
    for line in lease["history"].as_array().unwrap() {
        has(line, "at what");
    }
    if !lease["prepare"].is_null() {
        has(&lease["prepare"], "snapshot iso boot power until cidr settle");
    }
    if !lease["end"].is_null() {
        has(&lease["end"], "reason by at detail");
    }
}

#[tokio::test]
async fn a_lease_has_every_field_in_every_state() {
    let lab = Lab::with_options(LabOptions {
        settings: with_pools,
        pace: otter::simulator::Pace::Stepped,
        ..LabOptions::default()
    })
    .await;
    let mut stream = EventStream::open(&lab, "?types=lease.changed").await;
    let body = json!({"select": {"name": STAGING}, "ttl": "30m", "prepare": {"power": "on"}});
    let preparing = granted_lease(&lab, body).await;
    is_lease(
        &preparing,
        "preparing",
        "reference position queue_for active_at expires_at max_expires_at job end",
    );
    assert_eq!(preparing["release"], json!({"power": "off", "snapshot": null}));
    assert_eq!(
        (&preparing["holder"], &preparing["requested_by"]),
        (&json!("anonymous"), &json!("anonymous"))
    );
    let body =
        json!({"select": {"name": STAGING, "pool": "qubes"}, "ttl": "45", "queue_for": "10m"});
    let queued = request_lease(&lab, body).await.expect(202);
    assert_eq!(queued.header("location"), Some(&*lease_path(&queued.json, "")));
    is_lease(
        &queued.json,
        "queued",
        "machine machine_name reference active_at expires_at max_expires_at fence prepare job end",
    );
    assert_eq!((&queued.json["ttl"], &queued.json["pool"]), (&json!("45s"), &json!("qubes")));
    eventually("the lease to be active", async || {
        lab.control().step_tasks();
        lab.get(&lease_path(&preparing, "")).await.json["state"] == "active"
    })
    .await;
    let active = lab.get(&lease_path(&preparing, "")).await.json;
    is_lease(&active, "active", "reference position queue_for secret end");
    has(&active["links"], "self wait renew machine job artifacts");
    let seen = lab.machine(STAGING).await;
    has(&seen["lease"], "id holder expires_at");
    assert_eq!(seen["pools"], json!(["qubes", "ready"]));
    let releasing =
        with_lease(&lab, Method::DELETE, &lease_path(&active, ""), &lease_header(&preparing), None)
            .await
            .expect(200)
            .json;
    is_lease(
        &releasing,
        "releasing",
        "reference position queue_for expires_at max_expires_at secret",
    );
    let list = lab.get("/v1/leases").await.expect(200).json;
    has(&list, "items next version");
    assert_eq!(list["items"][0]["id"], queued.json["id"], "newest first");
    let dropped = Answer::from_request(lab.request(Method::DELETE, &lease_path(&queued.json, "")))
        .await
        .expect(200)
        .json;
    is_lease(
        &dropped,
        "revoked",
        "machine machine_name reference position active_at expires_at max_expires_at fence \
         prepare job secret",
    );
    eventually("the lease to end", async || {
        lab.control().step_tasks();
        lab.get(&lease_path(&preparing, "")).await.json["state"] == "released"
    })
    .await;
    let released = lab.get(&lease_path(&preparing, "")).await.json;
    is_lease(
        &released,
        "released",
        "reference position queue_for expires_at max_expires_at secret",
    );
    let id = preparing["id"].as_str().unwrap();
    let events = stream
        .until(|event| {
            event.is_about("lease.changed", id) && event.json["object"]["state"] == "released"
        })
        .await;
    for event in &events {
        has(&event.json["object"], FIELDS);
    }
    assert_eq!(events.last().unwrap().json["object"], released);
    let pools = lab.get("/v1/pools").await.expect(200).json;
    has(&pools, "items next version");
    has(
        &pools["items"][0],
        "name machine_count free_count held_count quarantined_count waiting_count max_running \
         running_count max_memory_bytes running_memory_bytes held",
    );
    let put = lab
        .request(Method::PUT, &machine_path(STAGING, "/quarantine"))
        .json(&json!({"reason": "mine"}));
    let quarantine = Answer::from_request(put).await.expect(200).json["quarantine"].take();
    has(&quarantine, "reason by since automatic job");
    assert_eq!(
        (&quarantine["by"], &quarantine["automatic"], &quarantine["job"]),
        (&json!("anonymous"), &json!(false), &Value::Null)
    );
}

#[tokio::test]
async fn only_the_response_to_the_request_has_the_secret_and_no_file_has_it() {
    let state = tempfile::tempdir().unwrap();
    let lab = Lab::with_state_dir_and_options(state.path(), LabOptions::default()).await;
    lab.wait_until_ready().await;
    let mut stream = EventStream::open(&lab, "?initial=true").await;
    let key = [("idempotency-key", "k")];
    let body = json!({"select": {"name": STAGING}, "ttl": "30m"});
    let lease = lab.post_with("/v1/leases", body.clone(), &key).await.expect(201).json;
    let secret = lease["secret"].as_str().unwrap().to_owned();
    let on = machine_path(STAGING, "/power?wait=20s");
    let wrong = format!("{}.{}", lease["id"].as_str().unwrap(), "0".repeat(64));
    let refused = with_lease(&lab, Method::POST, &on, &wrong, Some(json!({"action": "on"}))).await;
    let job =
        with_lease(&lab, Method::POST, &on, &lease_header(&lease), Some(json!({"action": "on"})))
            .await
            .expect(200);
    let renewed = with_lease(
        &lab,
        Method::POST,
        &lease_path(&lease, "/renew"),
        &lease_header(&lease),
        Some(json!({})),
    )
    .await;
    let mut texts = vec![refused.text, job.text, renewed.text];
    for read in [&*lease_path(&lease, ""), "/v1/leases", "/v1/jobs", "/v1/machines", "/metrics"] {
        let answer = lab.request(Method::GET, read).send().await.unwrap();
        texts.push(format!("{:?}", answer.headers()));
        texts.push(answer.text().await.unwrap());
    }
    let ended = with_lease(
        &lab,
        Method::DELETE,
        &lease_path(&lease, "?wait=20s"),
        &lease_header(&lease),
        None,
    )
    .await
    .expect(200);
    texts.push(ended.text);
    let id = lease["id"].as_str().unwrap();
    let events = stream
        .until(|event| {
            event.is_about("lease.changed", id) && event.json["object"]["state"] == "released"
        })
        .await;
    texts.extend(events.iter().map(|event| event.json.to_string()));
    assert!(texts.iter().all(|text| !text.contains(&secret)));
    // A repeat with the key returns the secret after the end of the lease, too.
    let again = lab.post_with("/v1/leases", body, &key).await.expect(201).json;
    assert_eq!((&again["secret"], &again["state"]), (&json!(secret), &json!("released")));
    lab.stop().await;
    let mut files = 0;
    let entries = std::fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().path());
    // The folders have the bytes of artifacts and serial ports, of which the lease has none.
    for file in entries.filter(|path| path.is_file()) {
        let bytes = std::fs::read(file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        files += 1;
    }
    assert!(files >= 2, "the directory has the database and the key");
}
