//! A job acts only on the machine for which it was accepted, even if another machine gets the same
//! id. Only on otter's simulator, which can remove and add machines.

use serde_json::json;

use crate::harness::Lab;

/// Starts a job that does not end and queues a reset behind it. Returns both jobs and the task of
/// the first.
async fn queued(lab: &Lab) -> (serde_json::Value, serde_json::Value, String) {
    let running = lab.start_power("ci-runner-1", "off").await;
    let task = lab.wait_for_job_task(&running).await;
    let queued = lab.post("/v1/machines/31/power", json!({"action": "on"})).await.expect(202).json;
    (running, queued, task)
}

#[tokio::test]
async fn a_machine_deleted_before_its_turn_is_gone() {
    let lab = Lab::stepped().await;
    let (running, queued, task) = queued(&lab).await;
    lab.control().mutate(|world| {
        world.finish_task(&task);
        world.remove_machine("31");
    });
    lab.wait_for_end(&running).await;
    let path = format!("/v1/jobs/{}/wait?wait=10s", queued["id"].as_str().unwrap());
    lab.get(&path).await.problem(409, "machine-gone");
    assert_eq!(lab.control().calls("PowerOnVM_Task"), 0);
    lab.get("/v1/machines/31").await.problem(404, "not-found");
}

#[tokio::test]
async fn another_machine_with_the_same_id_is_not_changed() {
    let lab = Lab::stepped().await;
    let (_, queued, task) = queued(&lab).await;
    lab.control().mutate(|world| {
        world.finish_task(&task);
        let mut other = world.remove_machine("31").unwrap();
        other.instance_uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".to_owned();
        other.name = "a colleague's".to_owned();
        world.add_machine(other);
    });
    let path = format!("/v1/jobs/{}/wait?wait=10s", queued["id"].as_str().unwrap());
    lab.get(&path).await.problem(409, "machine-gone");
    assert_eq!(lab.control().calls("PowerOnVM_Task"), 0);
    assert_eq!(lab.get("/v1/machines/31").await.expect(200).str("name"), "a colleague's");
}

#[tokio::test]
async fn a_renamed_machine_is_the_same_machine() {
    let lab = Lab::stepped().await;
    let (running, queued, task) = queued(&lab).await;
    lab.control().mutate(|world| world.machine_mut("31").unwrap().name = "renamed".to_owned());
    lab.control().finish_task(&task);
    lab.wait_for_end(&running).await;
    lab.control().finish_task(&lab.wait_for_job_task(&queued).await);
    let done = lab.wait_for_end(&queued).await;
    assert_eq!(
        (&done["state"], &done["machine_name"]),
        (&json!("succeeded"), &json!("ci-runner-1"))
    );
}

#[tokio::test]
async fn a_snapshot_is_resolved_when_the_job_is_accepted() {
    let lab = Lab::stepped().await;
    let holding = lab.start_power("qubes-4.2-sdw-prod", "off").await;
    let task = lab.wait_for_job_task(&holding).await;
    let revert =
        lab.post("/v1/machines/17/revert", json!({"snapshot": "kickstart"})).await.expect(202).json;
    let bound = revert["request"]["snapshot"].clone();
    assert_eq!(revert["request"]["snapshot_path"], "installed/kickstart");
    lab.control().mutate(|world| {
        let machine = world.machine_mut("17").unwrap();
        let names: Vec<String> =
            machine.snapshots.iter().map(|snapshot| snapshot.name.clone()).collect();
        for (snapshot, name) in machine.snapshots.iter_mut().zip(names.iter().rev()) {
            snapshot.name.clone_from(name);
        }
        world.finish_task(&task);
    });
    lab.control().finish_task(&lab.wait_for_job_task(&revert).await);
    assert_eq!(lab.wait_for_end(&revert).await["result"]["snapshot"], bound);
    assert_eq!(lab.get("/v1/machines/17").await.expect(200).json["current_snapshot"], bound);
}

#[tokio::test]
async fn a_snapshot_removed_before_the_turn_fails_the_job() {
    let lab = Lab::stepped().await;
    let holding = lab.start_power("qubes-4.2-sdw-prod", "off").await;
    let task = lab.wait_for_job_task(&holding).await;
    let revert =
        lab.post("/v1/machines/17/revert", json!({"snapshot": "logged in"})).await.expect(202).json;
    let id = revert["request"]["snapshot"].as_str().unwrap().to_owned();
    lab.control().mutate(|world| {
        world.machine_mut("17").unwrap().remove_snapshot(&id, false);
        world.finish_task(&task);
    });
    let ended = lab.wait_for_end(&revert).await;
    assert_eq!((&ended["state"], &ended["error"]["code"]), (&json!("failed"), &json!("not-found")));
    assert_eq!(lab.control().calls("RevertToSnapshot_Task"), 0);
}
