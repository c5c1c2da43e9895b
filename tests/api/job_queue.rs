//! The queue of a machine: one job at a time in order of arrival, kills first, limits and
//! deadlines. Only on otter's simulator, where the tests can pause tasks.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Lab, LabOptions, eventually};
use otter::app::Settings;
use otter::simulator::{Pace, world::Operation};

async fn held(settings: fn(&mut Settings)) -> Lab {
    Lab::with_options(LabOptions { pace: Pace::Stepped, settings, ..LabOptions::default() }).await
}

async fn look(lab: &Lab, job: &Value) -> Value {
    lab.get(&format!("/v1/jobs/{}", job["id"].as_str().unwrap())).await.expect(200).json
}

#[tokio::test]
async fn jobs_of_a_machine_run_one_by_one_in_order_of_arrival() {
    let lab = Lab::stepped().await;
    let mut jobs = Vec::new();
    for action in ["off", "on", "reset"] {
        jobs.push(lab.start_power("ci-runner-1", action).await);
    }
    lab.wait_for_job_task(&jobs[0]).await;
    for (place, job) in jobs.iter().enumerate().skip(1) {
        let job = look(&lab, job).await;
        assert_eq!((&job["state"], &job["position"]), (&json!("queued"), &json!(place)));
        assert_eq!(
            (&job["blocked_by"]["kind"], &job["blocked_by"]["id"]),
            (&json!("job"), &jobs[0]["id"])
        );
        assert_eq!(job["host_task"], json!(null));
    }
    let machine = lab.machine("ci-runner-1").await;
    assert_eq!(machine["active_job"], jobs[0]["id"]);
    assert!(machine["not_free_because"].as_array().unwrap().contains(&json!("job")));
    for job in &jobs {
        let task = lab.wait_for_job_task(job).await;
        assert_eq!(lab.wait_for_machine_task("31").await, task);
        lab.control().finish_task(&task);
        assert_eq!(lab.wait_for_end(job).await["state"], "succeeded");
    }
    lab.get("/v1/machines/31/wait?until=no_job&wait=10s").await.expect(200);
}

#[tokio::test]
async fn jobs_of_different_machines_run_at_the_same_time() {
    let lab = Lab::stepped().await;
    let (one, two) =
        (lab.start_power("ci-runner-1", "off").await, lab.start_power("ci-runner-2", "on").await);
    let tasks = [lab.wait_for_job_task(&one).await, lab.wait_for_job_task(&two).await];
    for task in tasks {
        assert!(lab.control().running_tasks().contains(&task));
    }
    for task in [lab.wait_for_machine_task("31").await, lab.wait_for_machine_task("32").await] {
        lab.control().finish_task(&task);
    }
    lab.wait_for_end(&one).await;
    lab.wait_for_end(&two).await;
}

#[tokio::test]
async fn a_kill_runs_before_the_queue_and_cancels_the_running_job() {
    let lab = Lab::stepped().await;
    let starting = lab.start_power("ci-runner-2", "on").await;
    lab.wait_for_job_task(&starting).await;
    let waiting = lab.start_power("ci-runner-2", "off").await;
    let kill = lab.post("/v1/machines/kill", json!({"name": "ci-runner-2"})).await.expect(202).json;
    let cancelled = lab.wait_for_end(&starting).await;
    assert_eq!(
        (&cancelled["state"], &cancelled["error"]["code"]),
        (&json!("cancelled"), &json!("job-cancelled"))
    );
    assert!(cancelled["cancel_requested_at"].is_string());
    let problem = lab.get(&format!("/v1/jobs/{}/wait", starting["id"].as_str().unwrap())).await;
    problem.problem(409, "job-cancelled");
    assert_eq!(lab.wait_for_end(&kill).await["state"], "succeeded");
    let waited = lab.wait_for_end(&waiting).await;
    assert!(waited["started_at"].as_str() > kill["created_at"].as_str(), "after the kill");
}

#[tokio::test]
async fn a_full_queue_refuses_with_retry_after() {
    let lab = held(|settings| settings.jobs.queue_per_machine = 2).await;
    let running = lab.start_power("ci-runner-1", "off").await;
    lab.wait_for_job_task(&running).await;
    lab.start_power("ci-runner-1", "on").await;
    lab.start_power("ci-runner-1", "off").await;
    let problem =
        lab.post("/v1/machines/31/power", json!({"action": "on"})).await.problem(429, "queue-full");
    assert_eq!((problem.str("retry"), problem.str("machine")), ("after", "31"));
    problem.header("retry-after").unwrap().parse::<u64>().unwrap();
    lab.start_power("ci-runner-2", "on").await;
    lab.post("/v1/machines/kill", json!({"name": "ci-runner-1"})).await.expect(202);
}

#[tokio::test]
async fn all_queues_together_have_a_limit() {
    let lab = held(|settings| settings.jobs.queue_in_all = 1).await;
    let running = lab.start_power("ci-runner-1", "off").await;
    lab.wait_for_job_task(&running).await;
    lab.start_power("ci-runner-1", "on").await;
    lab.post("/v1/machines/32/power", json!({"action": "on"})).await.problem(429, "queue-full");
}

#[tokio::test]
async fn a_foreign_task_is_waited_for() {
    let lab = Lab::stepped().await;
    let foreign = lab
        .control()
        .mutate(|world| world.start_task("31", Operation::Reset, "colleague").unwrap().id);
    let job = lab.start_power("ci-runner-1", "off").await;
    eventually("the job to be blocked", async || {
        look(&lab, &job).await["blocked_by"]["kind"] == "host_task"
    })
    .await;
    assert_eq!(look(&lab, &job).await["blocked_by"]["id"], json!(foreign));
    lab.control().finish_task(&foreign);
    lab.control().finish_task(&lab.wait_for_job_task(&job).await);
    assert_eq!(lab.wait_for_end(&job).await["state"], "succeeded");
}

#[tokio::test]
async fn a_deadline_out_of_range_is_refused() {
    let lab = Lab::start().await;
    for (deadline, code) in [
        ("0s", "out-of-range"),
        ("8d", "out-of-range"),
        ("-5s", "not-a-duration"),
        ("soon", "not-a-duration"),
        ("", "not-a-duration"),
    ] {
        let path = format!("/v1/machines/31/power?deadline={deadline}");
        let problem = lab.post(&path, json!({"action": "off"})).await;
        problem.problem(400, "invalid-request").points_at("deadline", code);
    }
    for deadline in ["1s", "7d", "168h"] {
        lab.post(&format!("/v1/machines/31/power?deadline={deadline}"), json!({"action": "on"}))
            .await
            .expect(202);
    }
}

#[tokio::test]
async fn deadlines_are_visible_and_have_defaults() {
    let lab = Lab::start().await;
    let seconds = async |path: &str, body: Value| {
        let job = lab.post(path, body).await.expect(202).json;
        let time = |field: &str| job[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        time("deadline_at").duration_since(time("created_at")).as_secs()
    };
    assert_eq!(seconds("/v1/machines/31/power", json!({"action": "on"})).await, 600);
    assert_eq!(seconds("/v1/machines/16/revert", json!({})).await, 3_600);
    assert_eq!(seconds("/v1/machines/31/power?deadline=90", json!({"action": "on"})).await, 90);
}

#[tokio::test]
async fn a_queued_job_past_its_deadline_never_starts() {
    let lab = Lab::stepped().await;
    let running = lab.start_power("ci-runner-1", "off").await;
    let task = lab.wait_for_job_task(&running).await;
    let late =
        lab.post("/v1/machines/31/power?deadline=1s&wait=10s", json!({"action": "reset"})).await;
    let late = late.problem(504, "deadline-exceeded");
    let job = lab.get(late.json["links"]["job"].as_str().unwrap()).await.expect(200);
    assert_eq!(
        (job.str("state"), &job.json["started_at"], &job.json["steps"]),
        ("failed", &json!(null), &json!([]))
    );
    lab.control().finish_task(&task);
    lab.wait_for_end(&running).await;
    assert_eq!(lab.control().calls("ResetVM_Task"), 0);
}

#[tokio::test]
async fn a_running_job_past_its_deadline_is_cancelled_on_the_host() {
    let lab = Lab::stepped().await;
    let problem =
        lab.post("/v1/machines/32/power?deadline=1s&wait=10s", json!({"action": "on"})).await;
    let problem = problem.problem(409, "job-failed");
    assert_eq!(problem.json["errors"][0]["code"], "deadline-exceeded");
    assert_eq!(lab.control().calls("CancelTask"), 1);
    assert_eq!(lab.machine("ci-runner-2").await["power_state"], "off");
}

/// A long outage refuses new jobs; a short one queues them.
#[tokio::test]
async fn jobs_are_accepted_while_an_outage_is_short() {
    use otter::simulator::{DownMode, HostdRestart};
    let away = HostdRestart { down: Some(DownMode::Unavailable), ..HostdRestart::default() };
    let lab = Lab::start().await;
    lab.control().restart_hostd(away);
    eventually("the host to be away", async || lab.get("/readyz?host=true").await.status == 503)
        .await;
    let job = lab.start_power("ci-runner-1", "off").await;
    eventually("the job to wait", async || {
        look(&lab, &job).await["blocked_by"]["kind"] == "host_away"
    })
    .await;
    lab.control().resume();
    assert_eq!(lab.wait_for_end(&job).await["state"], "succeeded");

    let lab = Lab::with_settings(|settings| settings.jobs.outage_grace = Duration::ZERO).await;
    lab.control().restart_hostd(away);
    eventually("the host to be away", async || lab.get("/readyz?host=true").await.status == 503)
        .await;
    let problem = lab.post("/v1/machines/31/power", json!({"action": "off"})).await;
    problem.problem(503, "host-unreachable").header("retry-after").unwrap();
}
