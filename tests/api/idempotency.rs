//! `Idempotency-Key`

use serde_json::json;

use crate::harness::{Lab, machine_path, on_every_host};

on_every_host! {
    async fn a_repeat_returns_the_first_job(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/power");
        let key = [("idempotency-key", "run-1")];
        let first = lab.post_with(&path, json!({"action": "off"}), &key).await.expect(202);
        assert_eq!(first.header("idempotent-replayed"), None);
        let ended = lab.wait_for_end(&first.json).await;
        let again = lab.post_with(&path, json!({"action": "off"}), &key).await.expect(202);
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        assert_eq!(again.json, ended, "the current state of the job");
        // The wait time does not make it another request.
        let waited = lab.post_with(&format!("{path}?wait=30s"), json!({"action": "off"}), &key).await.expect(200);
        assert_eq!((waited.json.clone(), waited.header("idempotent-replayed")), (ended, Some("true")));
        assert_eq!(lab.get("/v1/jobs").await.expect(200).items("id").len(), 1);
    }

    async fn another_request_under_the_key_is_a_mismatch(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/power?wait=30s");
        let key = [("idempotency-key", "run-1")];
        lab.post_with(&path, json!({"action": "off"}), &key).await.expect(200);
        lab.post_with(&path, json!({"action": "on"}), &key).await.problem(422, "idempotency-mismatch");
        let path = machine_path(lab.machines.running, "/power?wait=30s&deadline=5m");
        lab.post_with(&path, json!({"action": "off"}), &key).await.problem(422, "idempotency-mismatch");
        assert_eq!(lab.machine(lab.machines.running).await["power_state"], "off");
    }

    async fn a_key_is_valid_for_one_path(lab: &Lab) {
        let id = lab.machine(lab.machines.running).await["id"].as_str().unwrap().to_owned();
        let key = [("idempotency-key", "run-1")];
        let by_id = lab.post_with(&format!("/v1/machines/{id}/power?wait=30s"), json!({"action": "off"}), &key).await;
        let by_name = lab.post_with(&machine_path(lab.machines.running, "/power?wait=30s"), json!({"action": "off"}), &key).await;
        let killed = lab.post_with("/v1/machines/kill?wait=30s", json!({"name": lab.machines.running}), &key).await;
        let (one, two, three) = (by_id.expect(200), by_name.expect(200), killed.expect(200));
        assert_ne!(one.str("id"), two.str("id"));
        assert_ne!(two.str("id"), three.str("id"));
        assert_eq!(two.json["result"]["changed"], false);
    }

    async fn a_failure_is_replayed(lab: &Lab) {
        lab.power_and_wait(lab.machines.running, "off").await;
        let path = machine_path(lab.machines.running, "/power?wait=30s");
        let key = [("idempotency-key", "reset-1")];
        let first = lab.post_with(&path, json!({"action": "reset"}), &key).await.problem(409, "invalid-power-state");
        let again = lab.post_with(&path, json!({"action": "reset"}), &key).await.problem(409, "invalid-power-state");
        assert_eq!(first.str("job"), again.str("job"));
        assert_eq!((first.header("idempotent-replayed"), again.header("idempotent-replayed")), (None, Some("true")));
    }

    async fn refused_requests_do_not_use_the_key(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/power?wait=30s");
        let key = [("idempotency-key", "run-1")];
        lab.post_with(&path, json!({"action": "of"}), &key).await.problem(400, "invalid-request");
        lab.post_with(&path, json!({"action": "off"}), &key).await.expect(200);
        let kill = "/v1/machines/kill?wait=30s";
        lab.post_with(kill, json!({"name": "none-such"}), &key).await.problem(404, "not-found");
        lab.post_with(kill, json!({"name": lab.machines.running}), &key).await.expect(200);
    }

    async fn concurrent_requests_with_one_key_start_one_job(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/power?wait=30s");
        let calls = (0..20).map(|_| lab.post_with(&path, json!({"action": "off"}), &[("idempotency-key", "k")]));
        let answers = futures_util::future::join_all(calls).await;
        let first = answers[0].str("id");
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.str("id") == first));
        let fresh = answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).count();
        assert_eq!(fresh, 1);
        assert_eq!(lab.get("/v1/jobs").await.expect(200).items("id"), [first]);
    }
}

#[tokio::test]
async fn a_key_is_valid_after_its_machine_is_removed() {
    let lab = Lab::start().await;
    let key = [("idempotency-key", "k")];
    let first = lab
        .post_with("/v1/machines/31/power?wait=30s", json!({"action": "off"}), &key)
        .await
        .expect(200);
    lab.control().mutate(|world| world.remove_machine("31"));
    lab.wait_until_gone("31").await;
    let again = lab
        .post_with("/v1/machines/31/power?wait=30s", json!({"action": "off"}), &key)
        .await
        .expect(200);
    assert_eq!(again.json, first.json);
}

#[tokio::test]
async fn keys_and_references_have_a_maximum_length() {
    let lab = Lab::start().await;
    let path = "/v1/machines/31/power";
    for (name, value, code) in [
        ("idempotency-key", "k".repeat(256), "out-of-range"),
        ("idempotency-key", String::new(), "out-of-range"),
        ("otter-reference", "r".repeat(513), "out-of-range"),
    ] {
        let problem = lab.post_with(path, json!({"action": "off"}), &[(name, &value)]).await;
        problem.problem(400, "invalid-request").points_at(name, code);
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let problem = lab.post_with(path, json!({"action": "off"}), &twice).await;
    problem.problem(400, "invalid-request").points_at("idempotency-key", "repeated");
    let longest = [("idempotency-key", "k".repeat(255)), ("otter-reference", "ü".repeat(512))];
    let headers: Vec<(&str, &str)> =
        longest.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let job = lab.post_with(path, json!({"action": "off"}), &headers).await.expect(202);
    assert_eq!(job.str("reference"), "ü".repeat(512));
}
