//! A complete otter on the in-process backend: only the backend knows vim25. The scenarios of
//! `on_every_host` run on it too.

use std::time::Duration;

use otter::simulator::world::Operation;
use serde_json::json;

use super::broken_backends::without_capabilities;
use crate::harness::{Host, HostKind, Lab, Plan, machine};

#[tokio::test]
async fn machines_are_listed_powered_and_reverted() {
    let lab = Lab::on(HostKind::InProcess).await;
    let Host::InProcess(host) = &lab.host else { panic!() };
    let (reverted, off) = (lab.cast.reverted, "ci-runner-2");
    let list = lab.get("/v1/machines").await.expect(200);
    assert_eq!(list.items("id").len(), lab.cast.machines);
    let about = lab.get("/v1/about").await.expect(200);
    assert_eq!(
        about.json["host"]["product"], "a simulated ESXi 7.0.3 in this process",
        "{about:?}"
    );

    let job = lab.powered(off, "on").await;
    assert_eq!((&job["state"], &job["result"]["changed"]), (&json!("succeeded"), &json!(true)));
    assert_eq!(lab.machine(off).await["power_state"], "on");
    assert_eq!(lab.powered(off, "on").await["result"]["changed"], false);

    let made = lab
        .post(&machine(reverted, "/snapshots?wait=10s"), json!({"name": "used"}))
        .await
        .expect(200);
    let revert = json!({"snapshot": lab.cast.path, "power_on": true});
    let job = lab.post(&machine(reverted, "/revert?wait=10s"), revert).await.expect(200);
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
    lab.until_seen(&id, "power_state", json!("off")).await;
    host.set_reachable(false);
    lab.until("/v1/about", |about| about["session"]["state"] == "away").await;
    let waiting = lab.power(off, "on").await;
    host.set_reachable(true);
    assert_eq!(lab.ended(&waiting).await["state"], "succeeded");
    assert_eq!(lab.machine(off).await["power_state"], "on");
    tokio::time::timeout(Duration::from_secs(10), lab.stop()).await.unwrap();
}

#[tokio::test]
async fn a_missing_capability_is_not_supported() {
    let plan = Plan { between: without_capabilities, ..Plan::default() };
    let lab = Lab::on_with(HostKind::InProcess, plan).await;
    let running = lab.cast.running;
    let refused = lab.get(&machine(running, "/properties?path=name")).await;
    refused.problem(501, "not-supported");
    // An unknown machine and an invalid request come before it.
    lab.get(&machine("none", "/properties?path=name")).await.problem(404, "not-found");
    lab.get(&machine(running, "/properties")).await.problem(400, "invalid-request");
}
