//! The limits of machines that run at the same time: a grant waits for them.

use otter::app::Settings;
use otter::domain::pool::RunningLimits;
use reqwest::Method;
use serde_json::{Value, json};

use super::{end_lease, granted_lease, lease_path, request_lease, with_pools};
use crate::harness::{Answer, Lab, machine_path};

const GIB: u64 = 1 << 30;

/// `qubes-4.2-sdw-prod`, which runs, counts: one more machine may run.
fn two_in_the_pool(settings: &mut Settings) {
    with_pools(settings);
    let limits = RunningLimits { max_running: Some(2), max_memory_bytes: None };
    settings.pools.0.get_mut("qubes").unwrap().limits = limits;
}

/// `qubes-4.2-sdw-prod` and `ci-runner-1` run, with 40 GiB in all.
fn small_host(settings: &mut Settings) {
    let limits = RunningLimits { max_running: None, max_memory_bytes: Some(64 * GIB) };
    settings.leases.host_limits = limits;
}

async fn pool(lab: &Lab) -> Value {
    let pools = lab.get("/v1/pools").await.expect(200).json;
    pools["items"].as_array().unwrap().iter().find(|pool| pool["name"] == "qubes").unwrap().clone()
}

fn of_pool(queue_for: &str) -> Value {
    json!({"select": {"pool": "qubes"}, "ttl": "30m", "queue_for": queue_for})
}

fn of_memory(machine: &str, queue_for: Option<&str>) -> Value {
    let mut body = json!({"select": {"machine": machine}, "ttl": "30m"});
    if let Some(queue_for) = queue_for {
        body["queue_for"] = json!(queue_for);
    }
    body
}

#[tokio::test]
async fn a_lease_waits_while_the_pool_runs_as_many_machines_as_it_may() {
    let lab = Lab::with_settings(two_in_the_pool).await;
    let before = pool(&lab).await;
    assert_eq!((&before["max_running"], &before["running_count"]), (&json!(2), &json!(1)));
    assert_eq!(before["running_memory_bytes"], 32 * GIB);
    let first = granted_lease(&lab, of_pool("5m")).await;
    // The leased machine is off, and counts.
    let used = pool(&lab).await;
    assert_eq!((&used["running_count"], &used["max_memory_bytes"]), (&json!(2), &Value::Null));
    assert!(used["free_count"].as_u64().unwrap() > 0, "{used}");

    let mut now = of_pool("5m");
    now.as_object_mut().unwrap().remove("queue_for");
    let refused = request_lease(&lab, now).await.problem(409, "no-free-machine");
    assert!(refused.str("detail").contains("max_running"), "{}", refused.text);
    let waiting = request_lease(&lab, of_pool("5m")).await.expect(202).json;
    assert_eq!(waiting["blocked_by"]["kind"], "max_running", "{waiting}");
    assert_eq!(waiting["blocked_by"]["pool"], "qubes");
    // A machine outside the pool is not limited.
    granted_lease(&lab, json!({"select": {"name": "ci-runner-2"}, "ttl": "30m"})).await;

    end_lease(&lab, &first).await;
    lab.wait_until(&lease_path(&waiting, ""), |lease| lease["state"] == "active").await;
    let granted = lab.get(&lease_path(&waiting, "")).await.expect(200).json;
    assert_eq!(granted["blocked_by"], Value::Null);
    end_lease(&lab, &waiting).await;
    // A machine that another client powers off makes room, too.
    let first = granted_lease(&lab, of_pool("5m")).await;
    let waiting = request_lease(&lab, of_pool("5m")).await.expect(202).json;
    let off = machine_path("qubes-4.2-sdw-prod", "/power?wait=20s");
    lab.post(&off, json!({"action": "off"})).await.expect(200);
    lab.wait_until(&lease_path(&waiting, ""), |lease| lease["state"] == "active").await;
    end_lease(&lab, &first).await;
}

#[tokio::test]
async fn memory_is_granted_in_order_of_arrival() {
    let lab = Lab::with_settings(small_host).await;
    let about = lab.get("/v1/about").await.expect(200).json;
    assert_eq!(about["host"]["max_memory_bytes"], 64 * GIB);
    assert_eq!(
        (&about["host"]["running_count"], &about["host"]["running_memory_bytes"]),
        (&json!(2), &json!(40 * GIB))
    );
    // 24 GiB remain: 16 for a scratch machine, 8 for a runner.
    let scratch = granted_lease(&lab, of_memory("21", None)).await;
    let nightly = request_lease(&lab, of_memory("18", Some("5m"))).await.expect(202).json;
    assert_eq!(nightly["blocked_by"]["kind"], "max_memory_bytes", "{nightly}");
    assert_eq!(nightly["blocked_by"]["pool"], Value::Null);
    // The runner would fit, but the earlier lease waits for the same memory.
    let runner = request_lease(&lab, of_memory("32", Some("5m"))).await.expect(202).json;
    assert_eq!(runner["blocked_by"]["kind"], "max_memory_bytes", "{runner}");
    end_lease(&lab, &scratch).await;
    lab.wait_until(&lease_path(&nightly, ""), |lease| lease["state"] == "active").await;
    assert_eq!(lab.get(&lease_path(&runner, "")).await.json["state"], "queued");
    end_lease(&lab, &nightly).await;
    lab.wait_until(&lease_path(&runner, ""), |lease| lease["state"] == "active").await;
    end_lease(&lab, &runner).await;

    // Machine 16 does not fit while machines run that no lease holds. Later leases do not wait for it.
    let staging = request_lease(&lab, of_memory("16", Some("5m"))).await.expect(202).json;
    assert_eq!(staging["blocked_by"]["kind"], "max_memory_bytes", "{staging}");
    granted_lease(&lab, of_memory("32", None)).await;
    let drop = lab.request(Method::DELETE, &lease_path(&staging, ""));
    Answer::from_request(drop).await.expect(200);
}

#[tokio::test]
async fn a_machine_that_is_larger_than_a_limit_is_refused_at_once() {
    let lab = Lab::with_settings(|settings| {
        let limits = RunningLimits { max_running: None, max_memory_bytes: Some(20 * GIB) };
        settings.leases.host_limits = limits;
    })
    .await;
    let refused = request_lease(&lab, of_memory("18", Some("5m"))).await;
    let refused = refused.problem(409, "no-free-machine").points_at("/select", "matches-none");
    assert!(refused.str("detail").contains("max_memory_bytes"), "{}", refused.text);
    assert_eq!(lab.get("/v1/leases").await.expect(200).json["items"], json!([]));
    // A smaller machine would fit, but the machines that run now exceed the limit.
    let waits = request_lease(&lab, of_memory("32", Some("5m"))).await.expect(202).json;
    assert_eq!(waits["blocked_by"]["kind"], "max_memory_bytes", "{waits}");
}
