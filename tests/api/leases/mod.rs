//! Leases over HTTP: requests, the queue, preparations, releases, renewals and quarantines.

mod addresses;
mod expiry;
mod fields;
mod host_faults;
mod invalid_input;
mod kept;
mod lease_required;
mod limits;
mod pools;
mod replays_and_waits;
mod roles;
mod tokens;

use std::collections::BTreeSet;
use std::time::Duration;

use otter::app::Settings;
use otter::domain::lease::{Prepare, Release};
use otter::domain::pool::{Pool, Pools};
use otter::domain::power::PowerState;
use otter::simulator::Fault;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, EventStream, Lab, eventually, machine_path};

const STAGING: &str = "qubes-4.2-sdw-staging";

async fn lab() -> Lab {
    Lab::with_settings(with_pools).await
}

fn with_pools(settings: &mut Settings) {
    let qubes = Pool {
        machines: vec!["qubes-*".parse().unwrap()],
        prepare: None,
        release: Some(Release::default()),
        max_ttl: Some(Duration::from_hours(2)),
        ..Pool::default()
    };
    let ready = Pool {
        machines: vec![STAGING.parse().unwrap()],
        prepare: Some(Prepare {
            snapshot: Some("installed/updated/kickstart".to_owned()),
            power: Some(PowerState::On),
            settle: Some(Duration::from_millis(20)),
            ..Prepare::default()
        }),
        ..qubes.clone()
    };
    settings.pools = Pools([("qubes".to_owned(), qubes), ("ready".to_owned(), ready)].into());
}

async fn request_lease(lab: &Lab, body: Value) -> Answer {
    lab.post("/v1/leases", body).await
}

async fn granted_lease(lab: &Lab, body: Value) -> Value {
    request_lease(lab, body).await.expect(201).json
}

/// The value of the `Otter-Lease` header for a lease.
fn lease_header(lease: &Value) -> String {
    format!("{}.{}", lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap())
}

fn lease_path(lease: &Value, rest: &str) -> String {
    format!("/v1/leases/{}{rest}", lease["id"].as_str().unwrap())
}

async fn with_lease(
    lab: &Lab,
    method: Method,
    path: &str,
    lease: &str,
    body: Option<Value>,
) -> Answer {
    let mut request = lab.request(method, path).header("otter-lease", lease);
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::from_request(request).await
}

async fn end_lease(lab: &Lab, lease: &Value) -> Value {
    let path = lease_path(lease, "?wait=20s");
    with_lease(lab, Method::DELETE, &path, &lease_header(lease), None).await.expect(200).json
}

/// Only on otter's simulator, which can make a datastore inaccessible.
#[tokio::test]
async fn a_lease_outlasts_an_inaccessible_datastore() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let id = lab.machine(STAGING).await["id"].as_str().unwrap().to_owned();
    let set_state = |state: &str| {
        lab.control().mutate(|world| {
            state.clone_into(&mut world.machine_mut(&id).unwrap().connection_state);
        });
    };
    set_state("inaccessible");
    lab.wait_for_field(&id, "connection_state", json!("inaccessible")).await;
    let (path, secret) = (format!("/v1/machines/{id}/power"), lease_header(&lease));
    let body = Some(json!({"action": "on"}));
    let job = with_lease(&lab, Method::POST, &path, &secret, body).await.expect(202).json;
    let job_path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    lab.wait_until(&job_path, |job| job["blocked_by"]["kind"] == "host_away").await;
    assert_eq!(lab.control().calls("PowerOnVM_Task"), 0, "the identity is not confirmed");
    let machine = lab.machine(STAGING).await;
    assert_eq!(machine["quarantine"], Value::Null, "{machine}");
    assert_eq!(lab.get(&lease_path(&lease, "")).await.expect(200).str("state"), "active");
    set_state("connected");
    assert_eq!(lab.wait_for_end(&job).await["state"], "succeeded");
    assert_eq!(end_lease(&lab, &lease).await["state"], "released");
}

#[tokio::test]
async fn a_machine_is_leased_changed_and_released_off_and_free() {
    let lab = lab().await;
    let lease = granted_lease(
        &lab,
        json!({"select": {"name": STAGING}, "ttl": "30m", "holder": "nightly 7"}),
    )
    .await;
    assert_eq!(
        (&lease["state"], &lease["machine_name"], &lease["fence"]),
        (&json!("active"), &json!(STAGING), &json!(1))
    );
    let seen = lab.machine(STAGING).await;
    assert_eq!((&seen["free"], &seen["not_free_because"]), (&json!(false), &json!(["leased"])));
    assert_eq!(seen["lease"]["holder"], "nightly 7");
    assert_eq!(seen["lease"]["expires_at"], lease["expires_at"]);
    let read = lab.get(&lease_path(&lease, "")).await.expect(200).json;
    assert_eq!(read["secret"], Value::Null, "only the response to the request has the secret");

    let on = machine_path(STAGING, "/power?wait=20s");
    let refused = lab.post(&on, json!({"action": "on"})).await.problem(423, "machine-leased");
    assert!(
        refused.str("detail").contains("nightly 7") && refused.json["lease"] == lease["id"],
        "{}",
        refused.text
    );
    let job =
        with_lease(&lab, Method::POST, &on, &lease_header(&lease), Some(json!({"action": "on"})))
            .await
            .expect(200);
    assert_eq!(job.header("otter-lease-expires"), lease["expires_at"].as_str());
    assert_eq!(job.json["lease"], lease["id"]);
    let jobs =
        lab.get(&format!("/v1/jobs?lease={}", lease["id"].as_str().unwrap())).await.expect(200);
    assert_eq!(jobs.json["items"].as_array().unwrap().len(), 1);

    let ended = end_lease(&lab, &lease).await;
    assert_eq!(
        (&ended["state"], &ended["end"]["reason"]),
        (&json!("released"), &json!("released"))
    );
    let free = lab.machine(STAGING).await;
    assert_eq!(
        (&free["power_state"], &free["free"], &free["lease"]),
        (&json!("off"), &json!(true), &Value::Null)
    );
    let again =
        with_lease(&lab, Method::DELETE, &lease_path(&lease, ""), &lease_header(&lease), None)
            .await
            .expect(200);
    assert_eq!(again.json["state"], "released", "a repeat returns the same lease");
    // A call after the end of the lease has no effect.
    let late =
        with_lease(&lab, Method::POST, &on, &lease_header(&lease), Some(json!({"action": "on"})))
            .await;
    late.problem(423, "lease-ended");
    let renew = with_lease(
        &lab,
        Method::POST,
        &lease_path(&lease, "/renew"),
        &lease_header(&lease),
        Some(json!({})),
    )
    .await;
    renew.problem(423, "lease-ended");
    assert_eq!(
        granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await["fence"],
        2
    );
}

#[tokio::test]
async fn a_machine_is_prepared_before_its_lease_is_active() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"pool": "ready"}, "ttl": "1h"})).await;
    assert_eq!((&lease["state"], &lease["pool"]), (&json!("preparing"), &json!("ready")));
    let active = lab.get(&lease_path(&lease, "/wait?wait=20s")).await.expect(200).json;
    assert_eq!(active["state"], "active");
    let job =
        lab.get(&format!("/v1/jobs/{}", active["job"].as_str().unwrap())).await.expect(200).json;
    let steps: Vec<&str> = job["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        (&job["kind"], &*steps),
        (&json!("lease.prepare"), &["revert", "power_on", "settle"][..])
    );
    let seen = lab.machine(STAGING).await;
    assert_eq!(
        (&seen["power_state"], &seen["current_snapshot"]),
        (&json!("on"), &job["result"]["snapshot"])
    );
    end_lease(&lab, &lease).await;
    assert_eq!(lab.machine(STAGING).await["power_state"], "off");
}

#[tokio::test]
async fn a_lease_that_ends_during_its_preparation_leaves_the_machine_off_and_free() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"pool": "ready"}, "ttl": "1h"})).await;
    assert_eq!(end_lease(&lab, &lease).await["state"], "released");
    assert_eq!(lab.machine(STAGING).await["free"], true);
    lab.get(&lease_path(&lease, "/wait?wait=1s")).await.problem(409, "lease-failed");
}

#[tokio::test]
async fn queued_leases_get_the_machine_in_order_of_arrival() {
    let lab = lab().await;
    let first = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    request_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"}))
        .await
        .problem(409, "no-free-machine");
    let body = json!({"select": {"name": STAGING}, "ttl": "30m", "queue_for": "10m"});
    let second = request_lease(&lab, body.clone()).await.expect(202).json;
    let third = request_lease(&lab, body).await.expect(202).json;
    assert_eq!(
        (&second["position"], &third["position"], &third["state"]),
        (&json!(0), &json!(1), &json!("queued"))
    );
    let waiting = tokio::spawn(Answer::from_request(
        lab.request(Method::GET, &lease_path(&second, "/wait?wait=20s")),
    ));
    end_lease(&lab, &first).await;
    let active = waiting.await.unwrap().expect(200).json;
    assert_eq!((&active["machine_name"], &active["fence"]), (&json!(STAGING), &json!(2)));
    // A queued lease ends at once.
    let deleted = lab
        .request(Method::DELETE, &lease_path(&third, ""))
        .header("otter-lease", lease_header(&third));
    assert_eq!(Answer::from_request(deleted).await.expect(200).json["state"], "released");
    lab.get(&lease_path(&third, "/wait?wait=1s")).await.problem(409, "lease-failed");
}

#[tokio::test]
async fn an_ended_lease_does_not_block_the_queue() {
    let lab = lab().await;
    let first = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let body = json!({"select": {"name": STAGING}, "ttl": "30m", "queue_for": "10m"});
    let deleted = request_lease(&lab, body.clone()).await.expect(202).json;
    let next = request_lease(&lab, body).await.expect(202).json;
    assert_eq!(end_lease(&lab, &deleted).await["state"], "released");
    assert_eq!(lab.get(&lease_path(&next, "")).await.json["position"], 0);
    end_lease(&lab, &first).await;
    let active = lab.get(&lease_path(&next, "/wait?wait=14s")).await.expect(200).json;
    assert_eq!((&active["machine_name"], &active["fence"]), (&json!(STAGING), &json!(2)));
}

#[tokio::test]
async fn a_queued_lease_without_a_free_match_does_not_block_later_ones() {
    let lab = lab().await;
    let holding = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let other = granted_lease(&lab, json!({"select": {"machine": "18"}, "ttl": "30m"})).await;
    let queued = async |machine: &str| {
        let body = json!({"select": {"machine": machine}, "ttl": "30m", "queue_for": "10m"});
        request_lease(&lab, body).await.expect(202).json
    };
    let head = queued("16").await;
    let behind = queued("18").await;
    end_lease(&lab, &other).await;
    let active = lab.get(&lease_path(&behind, "/wait?wait=14s")).await.expect(200).json;
    assert_eq!(active["machine"], "18");
    // A new request that a free machine matches is granted at once.
    assert_eq!(
        granted_lease(&lab, json!({"select": {"machine": "32"}, "ttl": "30m"})).await["machine"],
        "32"
    );
    let still = lab.get(&lease_path(&head, "")).await.json;
    assert_eq!((&still["state"], &still["position"]), (&json!("queued"), &json!(0)));
    end_lease(&lab, &holding).await;
    assert_eq!(
        lab.get(&lease_path(&head, "/wait?wait=14s")).await.expect(200).json["machine"],
        "16"
    );
}

#[tokio::test]
async fn a_repeat_with_the_key_returns_the_first_response() {
    let lab = lab().await;
    let body = json!({"select": {"name": STAGING}, "ttl": "30m"});
    let key = [("idempotency-key", "ci/7"), ("otter-reference", "https://ci/7")];
    let first = lab.post_with("/v1/leases", body.clone(), &key).await.expect(201);
    let again = lab.post_with("/v1/leases", body, &key).await.expect(201);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(
        (&again.json["id"], &again.json["secret"]),
        (&first.json["id"], &first.json["secret"])
    );
    let other =
        lab.post_with("/v1/leases", json!({"select": {"name": "x"}, "ttl": "1m"}), &key).await;
    other.problem(422, "idempotency-mismatch");
    let found =
        lab.get("/v1/leases?reference=https%3A%2F%2Fci%2F7&state=active").await.expect(200).json;
    assert_eq!(found["items"][0]["id"], first.json["id"]);
    for query in ["state=queued", "holder=missing", "pool=ready", "machine=16&state=queued"] {
        assert_eq!(
            lab.get(&format!("/v1/leases?{query}")).await.expect(200).json["items"],
            json!([]),
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_simultaneous_requests_no_two_get_one_machine() {
    let lab = lab().await;
    let asked = (0..40).map(|_| {
        let request = lab.request(Method::POST, "/v1/leases");
        tokio::spawn(Answer::from_request(
            request.json(&json!({"select": {"pool": "qubes"}, "ttl": "5m"})),
        ))
    });
    let mut machines = Vec::new();
    for answer in asked.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        match answer.status {
            201 => machines.push(answer.str("machine").to_owned()),
            _ => drop(answer.problem(409, "no-free-machine")),
        }
    }
    let different: BTreeSet<&String> = machines.iter().collect();
    assert!(!machines.is_empty() && different.len() == machines.len(), "{machines:?}");
    let pools = lab.get("/v1/pools").await.expect(200).json;
    let qubes =
        pools["items"].as_array().unwrap().iter().find(|pool| pool["name"] == "qubes").unwrap();
    assert_eq!((&qubes["held_count"], &qubes["free_count"]), (&json!(machines.len()), &json!(0)));
}

#[tokio::test]
async fn a_failed_preparation_quarantines_the_machine_and_fails_the_lease() {
    let lab = lab().await;
    lab.control().fail_next_task("RevertToSnapshot_Task", Fault::new("FileLocked", "Locked."));
    let lease = granted_lease(&lab, json!({"select": {"pool": "ready"}, "ttl": "1h"})).await;
    let failed = lab.get(&lease_path(&lease, "/wait?wait=20s")).await.problem(409, "lease-failed");
    assert!(failed.str("detail").contains("prepare-failed"), "{}", failed.text);
    assert_eq!(failed.json["fault"]["type"], "FileLocked");
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "failed").await;
    let seen = lab.machine(STAGING).await;
    assert_eq!(seen["not_free_because"], json!(["quarantined"]));
    assert_eq!(
        (&seen["quarantine"]["automatic"], &seen["quarantine"]["by"]),
        (&json!(true), &json!("otter"))
    );
    request_lease(&lab, json!({"select": {"pool": "ready"}, "ttl": "1h"}))
        .await
        .problem(409, "no-free-machine");
    let cleared = lab.request(Method::DELETE, &machine_path(STAGING, "/quarantine"));
    assert_eq!(Answer::from_request(cleared).await.expect(200).json["quarantine"], Value::Null);
    granted_lease(&lab, json!({"select": {"pool": "ready"}, "ttl": "1h"})).await;
}

#[tokio::test]
async fn a_failed_release_quarantines_the_machine() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let on = machine_path(STAGING, "/power?wait=20s");
    with_lease(&lab, Method::POST, &on, &lease_header(&lease), Some(json!({"action": "on"})))
        .await
        .expect(200);
    lab.control().fail_next_task("PowerOffVM_Task", Fault::new("GenericVmConfigFault", "Stuck."));
    let ended = end_lease(&lab, &lease).await;
    assert_eq!(
        (&ended["state"], ended["warnings"].as_array().unwrap().len()),
        (&json!("released"), 1)
    );
    let seen = lab.machine(STAGING).await;
    assert_eq!(seen["not_free_because"], json!(["powered_on", "quarantined"]));
    assert!(seen["quarantine"]["reason"].as_str().unwrap().contains("Stuck"), "{seen}");
}

#[tokio::test]
async fn an_operator_quarantines_overrides_and_revokes() {
    let lab = lab().await;
    let put = lab
        .request(Method::PUT, &machine_path("qubes-4.3-nightly", "/quarantine"))
        .json(&json!({"reason": "its disk"}));
    assert_eq!(
        Answer::from_request(put).await.expect(200).json["quarantine"]["reason"],
        "its disk"
    );
    request_lease(&lab, json!({"select": {"name": "qubes-4.3-nightly"}, "ttl": "5m"}))
        .await
        .problem(409, "no-free-machine");

    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let on = machine_path(STAGING, "/power?wait=20s");
    let over = [("otter-override", "the lab burns")];
    lab.post_with(&on, json!({"action": "on"}), &over).await.expect(200);
    let warned = lab.get(&lease_path(&lease, "")).await.expect(200).json;
    assert!(warned["warnings"][0].as_str().unwrap().contains("the lab burns"), "{warned}");
    let revoke = lab.request(Method::DELETE, &lease_path(&lease, "?reason=needed%20now&wait=20s"));
    let revoked = Answer::from_request(revoke).await.expect(200).json;
    assert_eq!(
        (&revoked["state"], &revoked["end"]["detail"]),
        (&json!("revoked"), &json!("needed now"))
    );
    assert_eq!(lab.machine(STAGING).await["free"], true);
}

#[tokio::test]
async fn a_release_begins_after_the_jobs_of_the_lease_have_ended() {
    let lab = Lab::stepped().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let on = machine_path(STAGING, "/power");
    let running =
        with_lease(&lab, Method::POST, &on, &lease_header(&lease), Some(json!({"action": "on"})))
            .await
            .expect(202)
            .json;
    let task = lab.wait_for_job_task(&running).await;
    let queued =
        with_lease(&lab, Method::POST, &on, &lease_header(&lease), Some(json!({"action": "off"})))
            .await
            .expect(202)
            .json;
    let waiting = format!("/v1/jobs/{}/wait?wait=20s", queued["id"].as_str().unwrap());
    let waiting = tokio::spawn(Answer::from_request(lab.request(Method::GET, &waiting)));
    Answer::from_request(lab.request(Method::DELETE, &lease_path(&lease, ""))).await.expect(200);
    waiting.await.unwrap().problem(409, "job-cancelled");
    assert_eq!(lab.get(&lease_path(&lease, "")).await.json["state"], "releasing");
    let late =
        with_lease(&lab, Method::POST, &on, &lease_header(&lease), Some(json!({"action": "on"})))
            .await;
    late.problem(423, "lease-ended");
    lab.control().finish_task(&task);
    let ended = lab.wait_for_end(&running).await;
    assert!(ended["state"] == "succeeded" || ended["state"] == "cancelled", "{ended}");
    let off = if ended["state"] == "succeeded" {
        Some(lab.wait_for_machine_task("16").await)
    } else {
        None
    };
    off.inspect(|task| lab.control().finish_task(task));
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "revoked").await;
    assert_eq!(lab.machine(STAGING).await["free"], true);
}

#[tokio::test]
async fn a_lease_expires_and_a_renewal_postpones_it() {
    let lab = lab().await;
    let mut stream = EventStream::open(&lab, "?types=lease.changed").await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "1s"})).await;
    let renewed = with_lease(
        &lab,
        Method::POST,
        &lease_path(&lease, "/renew"),
        &lease_header(&lease),
        Some(json!({"ttl": "2s"})),
    )
    .await
    .expect(200)
    .json;
    assert!(renewed["expires_at"].as_str() >= lease["expires_at"].as_str());
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "expired").await;
    assert_eq!(lab.machine(STAGING).await["free"], true);
    let id = lease["id"].as_str().unwrap();
    let events = stream.until(|event| event.json["object"]["state"] == "expired").await;
    let states: BTreeSet<&str> = events
        .iter()
        .filter(|event| event.is_about("lease.changed", id))
        .map(|event| event.json["object"]["state"].as_str().unwrap())
        .collect();
    assert!(states.contains("active") && states.contains("releasing"), "{states:?}");
    assert!(events.iter().all(|event| event.json["object"]["secret"].is_null()));
}

#[tokio::test]
async fn a_removed_machine_ends_its_lease_and_is_quarantined_when_it_returns() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let removed = lab.control().mutate(|world| {
        let removed = world.machine("16").unwrap().clone();
        world.remove_machine("16");
        removed
    });
    lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "failed").await;
    assert_eq!(lab.get(&lease_path(&lease, "")).await.json["end"]["reason"], "machine-gone");
    // The machine returns under another id with the same identity.
    lab.control().mutate(|world| {
        let mut returned = removed;
        returned.id = "99".to_owned();
        returned.snapshots.clear();
        returned.current_snapshot = None;
        world.add_machine(returned);
    });
    lab.wait_until("/v1/machines/99", |machine| {
        machine["not_free_because"] == json!(["quarantined"])
    })
    .await;
    let seen = lab.get("/v1/machines/99").await.json;
    assert!(
        seen["quarantine"]["reason"].as_str().unwrap().contains("removed from the host"),
        "{seen}"
    );
    request_lease(&lab, json!({"select": {"machine": "99"}, "ttl": "1m"}))
        .await
        .problem(409, "no-free-machine");
}

#[tokio::test]
async fn an_invalid_request_is_rejected_with_the_field() {
    let lab = lab().await;
    let refused = async |body: Value, pointer: &str, code: &str| {
        request_lease(&lab, body).await.problem(400, "invalid-request").points_at(pointer, code);
    };
    let good = json!({"name": STAGING});
    refused(json!({"select": {}, "ttl": "1m"}), "/select", "empty").await;
    refused(json!({"select": {"name": ""}, "ttl": "1m"}), "/select/name", "empty").await;
    refused(json!({"select": {"mac": "zz"}, "ttl": "1m"}), "/select/mac", "invalid-mac").await;
    for ttl in ["0", "0s", "3h", "1000d"] {
        let body = json!({"select": {"pool": "qubes"}, "ttl": ttl});
        refused(body, "/ttl", "out-of-range").await;
    }
    refused(json!({"select": good, "ttl": "-5m"}), "/ttl", "not-a-duration").await;
    refused(json!({"select": good, "ttl": "soon"}), "/ttl", "not-a-duration").await;
    refused(json!({"select": good, "ttl": "1m", "queue_for": "x"}), "/queue_for", "not-a-duration")
        .await;
    refused(
        json!({"select": good, "ttl": "1m", "prepare": {"power": "up"}}),
        "/prepare/power",
        "not-one-of",
    )
    .await;
    refused(
        json!({"select": good, "ttl": "1m", "prepare": {"until": "soon"}}),
        "/prepare/until",
        "not-one-of",
    )
    .await;
    refused(
        json!({"select": good, "ttl": "1m", "release": {"power": "on"}}),
        "/release/power",
        "not-one-of",
    )
    .await;
    refused(json!({"select": good, "ttl": "1m", "priority": 1}), "/priority", "unknown-field")
        .await;
    request_lease(&lab, json!({"select": {"nam": "x"}, "ttl": "1m"}))
        .await
        .problem(400, "invalid-request");
    request_lease(&lab, json!({"ttl": "1m"})).await.problem(400, "invalid-request");
    for select in [
        json!({"name": "windows-95"}),
        json!({"pool": "none"}),
        json!({"machine": "999"}),
        json!({"name": "golden-debian-12"}),
    ] {
        request_lease(&lab, json!({"select": select, "ttl": "1m", "queue_for": "10m"}))
            .await
            .problem(409, "no-free-machine");
    }
    let missing = json!({"select": good, "ttl": "1m", "prepare": {"snapshot": "no such"}});
    request_lease(&lab, missing).await.problem(404, "not-found");

    let lease = granted_lease(&lab, json!({"select": good, "ttl": "1m"})).await;
    let on = machine_path(STAGING, "/power");
    let call = async |header: &str| {
        with_lease(&lab, Method::POST, &on, header, Some(json!({"action": "on"}))).await
    };
    for malformed in [
        "",
        "x",
        "x.y",
        lease["id"].as_str().unwrap(),
        &format!("{}.abc", lease["id"].as_str().unwrap()),
    ] {
        call(malformed)
            .await
            .problem(400, "invalid-request")
            .points_at("otter-lease", "not-a-lease");
    }
    let wrong = format!("{}.{}", lease["id"].as_str().unwrap(), "0".repeat(64));
    call(&wrong).await.problem(423, "machine-leased");
    let twice = lab
        .request(Method::POST, &on)
        .header("otter-lease", lease_header(&lease))
        .header("otter-lease", lease_header(&lease));
    Answer::from_request(twice.json(&json!({"action": "on"})))
        .await
        .problem(400, "invalid-request");
    let foreign = granted_lease(&lab, json!({"select": {"pool": "qubes"}, "ttl": "1m"})).await;
    call(&lease_header(&foreign)).await.problem(423, "machine-leased");
    lab.get("/v1/leases/nonsense").await.problem(404, "not-found");
    lab.get("/v1/leases?cursor=x").await.problem(400, "invalid-cursor");
    let keep = json!({"select": good, "ttl": "1m", "release": {"power": "keep"}});
    request_lease(&lab, keep).await.problem(409, "no-free-machine");
    eventually("the lease to be active", async || {
        lab.get(&lease_path(&lease, "")).await.json["state"] == "active"
    })
    .await;
}
