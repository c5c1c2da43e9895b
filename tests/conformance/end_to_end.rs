//! A complete otter on the in-process backend: only the backend knows vim25. The scenarios of
//! `on_every_host` run on it too.

use std::time::Duration;

use otter::simulator::world::Operation;
use serde_json::json;

use super::broken_backends::without_capabilities;
use crate::harness::{Host, HostKind, Lab, LabOptions, machine_path};

#[tokio::test]
async fn machines_are_listed_powered_and_reverted() {
    let lab = Lab::on_host(HostKind::InProcess).await;
    let Host::InProcess(host) = &lab.host else { panic!() };
    let (reverted, off) = (lab.machines.with_snapshots, "ci-runner-2");
    let list = lab.get("/v1/machines").await.expect(200);
    assert_eq!(list.items("id").len(), lab.machines.count);
    let about = lab.get("/v1/about").await.expect(200);
    assert_eq!(
        about.json["host"]["product"], "a simulated ESXi 7.0.3 in this process",
        "{about:?}"
    );

    let job = lab.power_and_wait(off, "on").await;
    assert_eq!((&job["state"], &job["result"]["changed"]), (&json!("succeeded"), &json!(true)));
    assert_eq!(lab.machine(off).await["power_state"], "on");
    assert_eq!(lab.power_and_wait(off, "on").await["result"]["changed"], false);

    let made = lab
        .post(&machine_path(reverted, "/snapshots?wait=10s"), json!({"name": "used"}))
        .await
        .expect(200);
    let revert = json!({"snapshot": lab.machines.snapshot_path, "power_on": true});
    let job = lab.post(&machine_path(reverted, "/revert?wait=10s"), revert).await.expect(200);
    let seen = lab.machine(reverted).await;
    assert_eq!(
        (&seen["power_state"], &seen["current_snapshot"]),
        (&json!("on"), &job.json["result"]["snapshot"])
    );
    assert_ne!(seen["current_snapshot"], made.json["result"]["snapshot"]);

    // A change by another client is seen, and a job waits for the end of an outage.
    let id = lab.machine(off).await["id"].as_str().unwrap().to_owned();
    host.mutate(|world| {
        let task = world.start_task(&id, Operation::PowerOff, "other-client").unwrap();
        world.finish_task(&task.id);
    });
    lab.wait_for_field(&id, "power_state", json!("off")).await;
    host.set_reachable(false);
    lab.wait_until("/v1/about", |about| about["session"]["state"] == "away").await;
    let waiting = lab.start_power(off, "on").await;
    host.set_reachable(true);
    assert_eq!(lab.wait_for_end(&waiting).await["state"], "succeeded");
    assert_eq!(lab.machine(off).await["power_state"], "on");
    tokio::time::timeout(Duration::from_secs(10), lab.stop()).await.unwrap();
}

#[tokio::test]
async fn a_missing_capability_is_not_supported() {
    let plan = LabOptions { wrap_backend: without_capabilities, ..LabOptions::default() };
    let lab = Lab::on_host_with_options(HostKind::InProcess, plan).await;
    let running = lab.machines.running;
    let refused = lab.get(&machine_path(running, "/properties?path=name")).await;
    refused.problem(501, "not-supported");
    // An unknown machine and an invalid request have priority over the missing capability.
    lab.get(&machine_path("none", "/properties?path=name")).await.problem(404, "not-found");
    lab.get(&machine_path(running, "/properties")).await.problem(400, "invalid-request");
}
