//! `SIGKILL` during a job, case by case: the next daemon follows the task, or determines the
//! outcome of the lost call. `crash` does the same at random.

use otter::clock::Clock;
use otter::simulator::{Disruption, Pace, Scenario, Simulator, SimulatorOptions};
use serde_json::json;

use crate::harness::{Answer, Daemon, eventually};

/// A Qubes machine of the lab that is off.
const MACHINE: &str = "16";

async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    Simulator::start(SimulatorOptions { pace: Pace::Stepped, ..options }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_otter_follows_the_task_that_still_runs() {
    let (host, state) = (host().await, tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let revert = format!("/v1/machines/{MACHINE}/revert");
    let job = daemon.post(&revert, json!({"power_on": true})).await.expect(202);
    let waiting = daemon
        .post(&format!("/v1/machines/{MACHINE}/power"), json!({"action": "off"}))
        .await
        .expect(202);
    let (job, waiting) = (
        job.json["id"].as_str().unwrap().to_owned(),
        waiting.json["id"].as_str().unwrap().to_owned(),
    );
    eventually("the task to be on disk", async || {
        daemon.get(&format!("/v1/jobs/{job}")).await.json["host_task"].is_string()
    })
    .await;
    daemon.kill();

    let task =
        tokio::time::timeout(crate::harness::TIMEOUT, host.control().until_task()).await.unwrap();
    host.control().finish_task(&task);
    let daemon = Daemon::start_for_host(&host, &state).await;
    // The power-on after the revert, and the power-off of the job that waited, are new tasks.
    let stepping = tokio::spawn(step_all(host.control().clone()));
    let ended = daemon.get(&format!("/v1/jobs/{waiting}/wait?wait=20s")).await.expect(200);
    assert_eq!(ended.json["result"]["power_state"], "off");
    let reverted = daemon.get(&format!("/v1/jobs/{job}")).await.expect(200);
    assert_eq!(reverted.json["state"], "succeeded", "{}", reverted.text);
    assert_eq!(
        host.control()
            .calls_of_operation(&job)
            .iter()
            .filter(|call| *call == "RevertToSnapshot_Task")
            .count(),
        1
    );
    stepping.abort();
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_a_call_without_an_answer_is_determined() {
    let (host, state) = (host().await, tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let lost = host.control().disrupt_next("ResetVM_Task", Disruption::NeverAnswer { run: false });
    let daemon = Daemon::start_for_host(&host, &state).await;
    let machine = daemon.get("/v1/machines/find?power_state=on").await.expect(200).json["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let job = daemon
        .post(&format!("/v1/machines/{machine}/power"), json!({"action": "reset"}))
        .await
        .expect(202);
    let job = job.json["id"].as_str().unwrap().to_owned();
    eventually("the call to be made", async || lost.delivered() == 1).await;
    daemon.kill();

    let daemon = Daemon::start_for_host(&host, &state).await;
    let ended =
        daemon.get(&format!("/v1/jobs/{job}/wait?wait=20s")).await.problem(409, "outcome-unknown");
    assert_eq!(ended.json["job"], job.as_str());
    assert_eq!(host.control().calls("ResetVM_Task"), 1, "a reset is never sent again");
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_cancellation_survives_a_kill() {
    let (host, state) = (host().await, tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let lost =
        host.control().disrupt_next("PowerOnVM_Task", Disruption::NeverAnswer { run: false });
    let daemon = Daemon::start_for_host(&host, &state).await;
    let job = daemon
        .post(&format!("/v1/machines/{MACHINE}/power"), json!({"action": "on"}))
        .await
        .expect(202);
    let job = job.str("id").to_owned();
    eventually("the call to be made", async || lost.delivered() == 1).await;
    // While the host does not answer the call, there is no task to cancel.
    let taken = daemon.post(&format!("/v1/jobs/{job}/cancel"), json!({})).await.expect(202);
    assert!(taken.json["cancel_requested_at"].is_string(), "{}", taken.text);
    daemon.kill();

    let daemon = Daemon::start_for_host(&host, &state).await;
    let shown = daemon.get(&format!("/v1/jobs/{job}")).await.expect(200);
    assert_eq!(shown.json["cancel_requested_at"], taken.json["cancel_requested_at"]);
    daemon.get(&format!("/v1/jobs/{job}/wait?wait=10s")).await.problem(409, "job-cancelled");
    assert_eq!(host.control().calls("PowerOnVM_Task"), 1);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_machine_that_became_protected_is_quarantined_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let host = Simulator::start(options).await.unwrap();
    let daemon = Daemon::start_for_host(&host, &state).await;
    let asked = json!({"select": {"machine": MACHINE}, "ttl": "10m", "prepare": {"power": "on"}});
    let lease = daemon.post("/v1/leases", asked).await.expect(201);
    let path = format!("/v1/leases/{}", lease.str("id"));
    daemon.get(&format!("{path}/wait?wait=20s")).await.expect(200);
    assert!(daemon.terminate().await.success());

    let protected = format!("[machines]\nprotected = [\"{MACHINE}\"]\n");
    let daemon = Daemon::start_with_config(&host, &state, &protected).await;
    let secret = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let give_back = daemon.request(reqwest::Method::DELETE, &format!("{path}?wait=20s"));
    let ended = Answer::from_request(give_back.header("otter-lease", secret)).await.expect(200);
    assert_eq!(ended.json["state"], "released", "{}", ended.text);
    assert!(ended.json["warnings"][0].as_str().unwrap().contains("protected"), "{}", ended.text);
    let machine = daemon.get(&format!("/v1/machines/{MACHINE}")).await.expect(200);
    assert_eq!(machine.json["power_state"], "on", "otter does not change a protected machine");
    assert_eq!(machine.json["quarantine"]["automatic"], true, "{}", machine.text);
    assert_eq!(host.control().calls("PowerOffVM_Task"), 0);
    assert!(daemon.terminate().await.success());
}

async fn step_all(control: otter::simulator::Control) {
    loop {
        control.until_task().await;
        control.step_tasks();
        tokio::task::yield_now().await;
    }
}
