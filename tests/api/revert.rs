//! Reverts to snapshots.

use serde_json::{Value, json};

use crate::harness::{Lab, encode, machine_path, on_every_host};

async fn revert(lab: &Lab, id: &str, body: Value) -> Value {
    lab.post(&format!("/v1/machines/{id}/revert?wait=30s"), body).await.expect(200).json
}

on_every_host! {
    async fn a_machine_is_reverted_by_path_id_name_and_to_the_current_snapshot(lab: &Lab) {
        let name = lab.machines.with_snapshots;
        let list = lab.get(&machine_path(name, "/snapshots")).await.expect(200);
        let id_of = |path: &str| {
            let items = list.json["items"].as_array().unwrap();
            items.iter().find(|item| item["path"] == path).unwrap()["id"].as_str().unwrap().to_owned()
        };
        let parent = lab.machines.snapshot_path.rsplit_once('/').unwrap().0;
        let (expected, above) = (id_of(lab.machines.snapshot_path), id_of(parent));
        for (body, current) in [
            (json!({"snapshot": parent}), &above),
            (json!({"snapshot": expected}), &expected),
            (json!({"snapshot": "updated"}), &above),
            (json!({}), &above),
            (json!({"snapshot": lab.machines.snapshot_path}), &expected),
        ] {
            let job = lab.post(&machine_path(name, "/revert?wait=30s"), body.clone()).await.expect(200);
            assert_eq!((job.str("kind"), &job.json["result"]["changed"]), ("snapshot.revert", &json!(true)));
            assert_eq!(job.json["result"]["snapshot"], **current, "{body}");
            assert_eq!(lab.machine(name).await["current_snapshot"], **current, "{body}");
        }
        let by_path = machine_path(name, &format!("/snapshots/{}/revert?wait=30s", encode(parent)));
        let job = lab.post(&by_path, json!({})).await.expect(200);
        assert_eq!(job.json["request"]["snapshot_path"], parent);
        assert_eq!(lab.machine(name).await["current_snapshot"], above);
    }

    async fn no_body_is_needed(lab: &Lab) {
        let path = machine_path(lab.machines.with_snapshots, "/revert?wait=30s");
        let job = crate::harness::Answer::from_request(lab.request(reqwest::Method::POST, &path)).await.expect(200);
        assert_eq!(job.json["request"]["snapshot_path"], lab.machines.snapshot_path);
    }

    async fn an_unknown_snapshot_is_refused_at_once(lab: &Lab) {
        let path = machine_path(lab.machines.with_snapshots, "/revert");
        lab.post(&path, json!({"snapshot": "none-such"})).await.problem(404, "not-found");
        lab.post(&path, json!({"snapshot": ""})).await.problem(400, "invalid-request").points_at("/snapshot", "empty");
        lab.post(&machine_path(lab.machines.with_snapshots, "/snapshots/none-such/revert"), json!({})).await.problem(404, "not-found");
        lab.post(&machine_path(lab.machines.running, "/revert"), json!({})).await.problem(404, "not-found");
        assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
    }

    async fn power_on_determines_the_power_state_after_a_revert(lab: &Lab) {
        let path = machine_path(lab.machines.with_snapshots, "/revert?wait=30s");
        for (power_on, state) in [(true, "on"), (false, "off"), (true, "on")] {
            let body = json!({"snapshot": lab.machines.snapshot_path, "power_on": power_on});
            let job = lab.post(&path, body).await.expect(200);
            assert_eq!((&job.json["result"]["power_state"], &job.json["request"]["power_on"]), (&json!(state), &json!(power_on)));
            assert_eq!(lab.machine(lab.machines.with_snapshots).await["power_state"], state);
        }
    }
}

/// This and the next test are only for otter's simulator: govmomi's reverts do not change the power
/// state.
#[tokio::test]
async fn a_snapshot_with_memory_leaves_the_machine_running() {
    let lab = Lab::start().await;
    lab.power_and_wait("qubes-4.2-sdw-prod", "off").await;
    let job = revert(&lab, "17", json!({"snapshot": "logged in"})).await;
    assert_eq!(job["result"]["power_state"], "on");
    assert_eq!(job["steps"].as_array().unwrap().len(), 1);
    let job = revert(&lab, "17", json!({"snapshot": "logged in", "power_on": false})).await;
    assert_eq!(job["result"]["power_state"], "off");
    assert_eq!(lab.machine("qubes-4.2-sdw-prod").await["power_state"], "off");
    let job = revert(&lab, "17", json!({"snapshot": "logged in", "power_on": true})).await;
    assert_eq!(
        (&job["result"]["power_state"], job["steps"].as_array().unwrap().len()),
        (&json!("on"), 1)
    );
}

#[tokio::test]
async fn a_snapshot_without_memory_leaves_the_machine_off() {
    let lab = Lab::start().await;
    let job = revert(&lab, "17", json!({"snapshot": "kickstart"})).await;
    assert_eq!(job["result"]["power_state"], "off");
    let job = revert(&lab, "17", json!({"snapshot": "kickstart", "power_on": true})).await;
    assert_eq!(job["result"]["power_state"], "on");
    let steps: Vec<&Value> =
        job["steps"].as_array().unwrap().iter().map(|step| &step["name"]).collect();
    assert_eq!(steps, ["revert", "power_on"]);
    let job = revert(&lab, "17", json!({"snapshot": "kickstart", "power_on": false})).await;
    assert_eq!(job["result"]["power_state"], "off");
}

/// Only on otter's simulator: govmomi's snapshots have unique names.
#[tokio::test]
async fn an_ambiguous_snapshot_is_refused_with_the_paths() {
    let lab = Lab::start().await;
    let problem = lab.post("/v1/machines/16/revert", json!({"snapshot": "kickstart"})).await;
    let problem = problem.problem(409, "ambiguous-name");
    assert_eq!(problem.json["candidates"][1]["name"], "installed/updated-rc/kickstart");
    let job = revert(&lab, "16", json!({"snapshot": "installed/updated-rc/kickstart"})).await;
    assert_eq!(job["result"]["snapshot"], problem.json["candidates"][1]["id"]);
    let path =
        format!("/v1/machines/18/snapshots/{}/revert?wait=30s", encode("clean%2Fempty/kickstart"));
    let job = lab.post(&path, json!({"power_on": false})).await.expect(200);
    assert_eq!(job.json["request"]["snapshot_path"], "clean%2Fempty/kickstart");
    let job = revert(&lab, "18", json!({"snapshot": "clean/empty"})).await;
    assert_eq!(
        job["request"]["snapshot_path"], "clean%2Fempty",
        "an exact name goes before a path"
    );
}
