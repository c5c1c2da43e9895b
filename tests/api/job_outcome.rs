//! Waits for the outcome of a job: `?wait`, `Prefer`, GET of the job, and `…/wait`.

use serde_json::json;

use crate::harness::{Answer, Lab, LabOptions, eventually, machine_path, on_every_host};
use otter::app::Settings;
use otter::simulator::{Disruption, Fault, Pace};

on_every_host! {
    async fn a_get_with_wait_is_200_for_any_outcome(lab: &Lab) {
        lab.power_and_wait(lab.machines.running, "off").await;
        let failing = lab.start_power(lab.machines.running, "reset").await;
        let job = lab.get(&format!("/v1/jobs/{}?wait=30s", failing["id"].as_str().unwrap())).await.expect(200);
        assert_eq!((job.str("state"), job.header("otter-wait")), ("failed", Some("30s")));
    }

    async fn wait_returns_the_status_of_the_outcome(lab: &Lab) {
        let off = lab.start_power(lab.machines.running, "off").await;
        let done = lab.get(&format!("/v1/jobs/{}/wait?wait=30s", off["id"].as_str().unwrap())).await.expect(200);
        assert_eq!((done.str("state"), done.header("otter-wait")), ("succeeded", Some("30s")));
        let reset = lab.start_power(lab.machines.running, "reset").await;
        let path = format!("/v1/jobs/{}/wait?wait=30s", reset["id"].as_str().unwrap());
        let problem = lab.get(&path).await.problem(409, "invalid-power-state");
        assert_eq!((problem.json["job"].clone(), problem.header("otter-wait")), (reset["id"].clone(), Some("30s")));
    }

    async fn a_preference_that_is_met_is_200(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/power");
        let done = lab.post_with(&path, json!({"action": "off"}), &[("prefer", "wait=30")]).await.expect(200);
        assert_eq!(done.header("preference-applied"), Some("wait=30"));
        assert_eq!(done.header("otter-wait"), Some("30s"));
        let failed = lab.post_with(&path, json!({"action": "reset"}), &[("prefer", "wait=30")]).await;
        let failed = failed.problem(409, "invalid-power-state");
        assert_eq!(failed.header("preference-applied"), Some("wait=30"));
    }
}

/// The following tests are only for otter's simulator, where they can pause the host's tasks.
#[tokio::test]
async fn without_a_key_a_running_job_is_409_without_retry() {
    let lab = Lab::stepped().await;
    let problem = lab.post("/v1/machines/31/power?wait=0s", json!({"action": "off"})).await;
    let problem = problem.problem(409, "job-still-running");
    assert_eq!((problem.str("retry"), problem.header("otter-wait")), ("no", Some("0s")));
    assert_eq!(problem.json["links"]["wait"], format!("/v1/jobs/{}/wait", problem.str("job")));
    assert_eq!(problem.str("machine"), "31");
    let job = lab.get(problem.json["links"]["job"].as_str().unwrap()).await.expect(200).json;
    lab.control().finish_task(&lab.wait_for_job_task(&job).await);
    assert_eq!(lab.wait_for_end(&job).await["state"], "succeeded");
}

#[tokio::test]
async fn with_a_key_a_running_job_is_504_with_retry() {
    let lab = Lab::stepped().await;
    let path = "/v1/machines/31/power?wait=0";
    let problem = lab.post_with(path, json!({"action": "off"}), &[("idempotency-key", "k")]).await;
    let problem = problem.problem(504, "wait-timeout");
    assert_eq!((problem.str("retry"), problem.header("idempotent-replayed")), ("same-key", None));
    let again = lab.post_with(path, json!({"action": "off"}), &[("idempotency-key", "k")]).await;
    let again = again.problem(504, "wait-timeout");
    assert_eq!(
        (again.json["job"].clone(), again.header("idempotent-replayed")),
        (problem.json["job"].clone(), Some("true"))
    );
    lab.control().finish_task(&lab.wait_for_machine_task("31").await);
    let path = "/v1/machines/31/power?wait=30s";
    let done = lab
        .post_with(path, json!({"action": "off"}), &[("idempotency-key", "k")])
        .await
        .expect(200);
    assert_eq!(
        (done.str("id"), done.header("idempotent-replayed")),
        (problem.str("job"), Some("true"))
    );
}

#[tokio::test]
async fn the_wait_for_a_running_job_is_504_with_links() {
    let lab = Lab::stepped().await;
    let job = lab.start_power("ci-runner-1", "off").await;
    let path = format!("/v1/jobs/{}/wait?wait=0s", job["id"].as_str().unwrap());
    let problem = lab.get(&path).await.problem(504, "wait-timeout");
    assert_eq!(problem.str("retry"), "same-key");
    assert_eq!(problem.json["job"], job["id"]);
    let looked =
        lab.get(&format!("/v1/jobs/{}?wait=0s", job["id"].as_str().unwrap())).await.expect(200);
    assert!(looked.json["finished_at"].is_null());
}

#[tokio::test]
async fn a_preference_that_is_not_met_is_202() {
    let lab = Lab::stepped().await;
    let accepted = lab
        .post_with("/v1/machines/31/power", json!({"action": "off"}), &[("prefer", "wait=0")])
        .await;
    let accepted = accepted.expect(202);
    assert_eq!(accepted.header("preference-applied"), Some("wait=0"));
    assert!(accepted.header("location").is_some());
    let ignored = lab
        .post_with("/v1/machines/32/power", json!({"action": "off"}), &[("prefer", "wait=soon")])
        .await;
    assert_eq!(ignored.expect(202).header("preference-applied"), None);
}

#[tokio::test]
async fn the_parameter_overrides_the_preference() {
    let lab = Lab::stepped().await;
    let headers = [("prefer", "wait=30")];
    let problem =
        lab.post_with("/v1/machines/31/power?wait=0", json!({"action": "off"}), &headers).await;
    assert_eq!(problem.problem(409, "job-still-running").header("preference-applied"), None);
}

#[tokio::test]
async fn a_long_wait_is_limited_and_reported() {
    let lab =
        Lab::with_settings(|settings| settings.http.max_wait = std::time::Duration::from_secs(20))
            .await;
    let done = lab.post("/v1/machines/31/power?wait=1h", json!({"action": "on"})).await.expect(200);
    assert_eq!(done.header("otter-wait"), Some("20s"));
    let id = done.str("id");
    for path in [
        format!("/v1/jobs/{id}?wait=7d"),
        format!("/v1/jobs/{id}/wait"),
        "/v1/machines/31/wait?until=power_state:on".to_owned(),
    ] {
        assert_eq!(lab.get(&path).await.expect(200).header("otter-wait"), Some("20s"), "{path}");
    }
}

#[tokio::test]
async fn a_failed_task_has_the_fault_of_the_host() {
    let lab = Lab::start().await;
    for (fault, status, code) in [
        (
            Fault::new("InsufficientMemoryResourcesFault", "No memory is left."),
            507,
            "insufficient-resources",
        ),
        (
            Fault::new("FileLocked", "Unable to access file since it is locked."),
            422,
            "host-rejected",
        ),
        (Fault::restricted_version(), 422, "license-restricted"),
        (
            Fault::new("NoPermission", "Permission to perform this operation was denied."),
            422,
            "forbidden-by-host",
        ),
        (Fault::not_supported(), 501, "not-supported"),
    ] {
        let (name, message) = (fault.type_name, fault.message.clone());
        lab.control().fail_next_task("PowerOffVM_Task", fault);
        let problem = lab.post("/v1/machines/31/power?wait=30s", json!({"action": "off"})).await;
        let problem = problem.problem(status, code);
        assert_eq!(problem.json["fault"]["type"], name);
        assert_eq!(problem.json["fault"]["message"], message);
        assert_eq!(
            lab.get(&format!("/v1/jobs/{}", problem.str("job"))).await.expect(200).str("state"),
            "failed"
        );
    }
}

/// A fault in the answer of a host means that the call did not run. Only a vCenter that loses its
/// host can answer with a fault after the call ran.
#[tokio::test]
async fn a_fault_of_the_host_itself_in_the_answer_to_a_call_is_a_refusal() {
    let lab = Lab::start().await;
    let fault = Fault::new("SystemError", "A general system error occurred.");
    lab.control().disrupt_next("PowerOffVM_Task", Disruption::Fault(fault));
    let problem = lab.post("/v1/machines/31/power?wait=30s", json!({"action": "off"})).await;
    let problem = problem.problem(422, "host-rejected");
    assert_eq!(problem.json["fault"]["type"], "SystemError");
    assert_eq!(lab.control().calls("PowerOffVM_Task"), 1);
}

/// The host reboots while it creates a snapshot, so the job fails with a status that
/// `curl --retry` repeats.
#[tokio::test]
async fn without_a_key_a_job_that_called_the_host_never_invites_a_repeat() {
    let lab = Lab::stepped().await;
    for (machine, headers) in [
        ("16", vec![]),
        ("18", vec![("prefer", "wait=30")]),
        ("21", vec![("idempotency-key", "k")]),
    ] {
        let wait = if headers.iter().any(|(name, _)| *name == "prefer") { "" } else { "?wait=30s" };
        let path = format!("/v1/machines/{machine}/snapshots{wait}");
        let (answer, ()) =
            tokio::join!(lab.post_with(&path, json!({"name": "new"}), &headers), async {
                lab.wait_for_machine_task(machine).await;
                lab.control().reboot_host();
            });
        let has_key = headers.iter().any(|(name, _)| *name == "idempotency-key");
        let problem = if has_key {
            answer.problem(503, "host-unreachable")
        } else {
            answer.problem(409, "job-failed")
        };
        let id = problem.str("job").to_owned();
        if !has_key {
            let error = &problem.json["errors"][0];
            assert_eq!((problem.str("retry"), &error["code"]), ("no", &json!("host-unreachable")));
            assert_eq!(error["pointer"], json!(null));
            assert_eq!(problem.header("retry-after"), None);
            assert_eq!(problem.json["links"]["job"], format!("/v1/jobs/{id}"));
            assert_eq!(problem.str("machine"), machine);
        }
        lab.get(&format!("/v1/jobs/{id}/wait")).await.problem(503, "host-unreachable");
        let job = lab.get(&format!("/v1/jobs/{id}")).await.expect(200);
        assert_eq!(job.json["error"]["code"], "host-unreachable");
    }
}

/// The revert of the job succeeds, and the deadline passes during the power-on after it.
#[tokio::test]
async fn a_job_with_several_calls_fails_without_inviting_a_repeat() {
    let lab = Lab::stepped().await;
    let path = "/v1/machines/16/revert?deadline=3s&wait=14s";
    let body = json!({"snapshot": "installed", "power_on": true});
    let (answer, ()) = tokio::join!(lab.post(path, body), async {
        let revert = lab.wait_for_machine_task("16").await;
        lab.control().finish_task(&revert);
    });
    let problem = answer.problem(409, "job-failed");
    assert_eq!(problem.json["errors"][0]["code"], "deadline-exceeded");
    let job = lab.get(problem.json["links"]["job"].as_str().unwrap()).await.expect(200).json;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("deadline-exceeded"))
    );
    assert_eq!(job["steps"][0]["state"], "succeeded", "{job}");
}

#[tokio::test]
async fn a_caller_that_hangs_up_cancels_nothing() {
    let lab = Lab::stepped().await;
    let body = r#"{"action":"off"}"#;
    let request = format!(
        "POST /v1/machines/31/power?wait=60s HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut wire = crate::harness::RawConnection::open(lab.address).await;
    wire.send(request.as_bytes()).await;
    let task = lab.wait_for_machine_task("31").await;
    drop(wire);
    lab.control().finish_task(&task);
    lab.wait_for_field("31", "power_state", json!("off")).await;
    let id = lab.get("/v1/jobs").await.expect(200).json["items"][0].clone();
    assert_eq!(lab.wait_for_end(&id).await["state"], "succeeded");
}

#[tokio::test]
async fn a_shutdown_answers_waiting_calls() {
    let one = |settings: &mut Settings| settings.http.max_waits = 1;
    let lab = Lab::with_options(LabOptions {
        pace: Pace::Stepped,
        settings: one,
        ..LabOptions::default()
    })
    .await;
    let job = lab.start_power("ci-runner-1", "off").await;
    lab.wait_for_job_task(&job).await;
    let path = format!("/v1/jobs/{}/wait?wait=60s", job["id"].as_str().unwrap());
    let probe = "/v1/machines/31/wait?until=question&wait=0";
    let wait = || tokio::spawn(Answer::from_request(lab.request(reqwest::Method::GET, &path)));
    let mut waiting = wait();
    // Only one call may wait. If the probe waits when the caller arrives, otter refuses the caller,
    // which then tries again.
    eventually("the caller to wait", async || {
        if waiting.is_finished() {
            waiting = wait();
            return false;
        }
        lab.get(probe).await.status == 503
    })
    .await;
    let refused = lab.get(probe).await.problem(503, "too-many-waits");
    refused.header("retry-after").unwrap();
    assert_eq!(lab.stop().await.exit_code(), 0);
    let problem = waiting.await.unwrap().problem(503, "shutting-down");
    assert_eq!(
        (problem.str("retry"), problem.json["job"].clone()),
        ("same-key", job["id"].clone())
    );
}
