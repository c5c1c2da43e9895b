//! Leases after a kill of the daemon: preparations and releases continue, and leases, secrets,
//! quarantines and fences stay.

use otter::clock::Clock;
use otter::simulator::world::{Choice, PowerState, Question};
use otter::simulator::{Disruption, Pace, Scenario, Simulator, SimulatorOptions};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, TIMEOUT, eventually};

/// A Qubes machine of the lab that is off.
const MACHINE: &str = "16";

async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    Simulator::start(SimulatorOptions { pace: Pace::Stepped, ..options }).await.unwrap()
}

async fn granted_lease(daemon: &Daemon, more: Value) -> Value {
    let mut body = json!({"select": {"machine": MACHINE}, "ttl": "30m"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    daemon.post("/v1/leases", body).await.expect(201).json
}

fn lease_header(lease: &Value) -> String {
    format!("{}.{}", lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap())
}

fn lease_path(lease: &Value, rest: &str) -> String {
    format!("/v1/leases/{}{rest}", lease["id"].as_str().unwrap())
}

async fn with_lease(daemon: &Daemon, method: Method, path: &str, lease: &Value) -> Answer {
    let request = daemon.request(method, path).header("otter-lease", lease_header(lease));
    Answer::from_request(request.json(&json!({}))).await
}

/// Waits for a running task of the machine.
async fn running_task(host: &Simulator) -> String {
    let mine = format!("haTask-{MACHINE}-");
    let mut found = None;
    let seen = host.control().until(|control| {
        found = control.running_tasks().into_iter().find(|task| task.starts_with(&mine));
        found.is_some()
    });
    tokio::time::timeout(TIMEOUT, seen).await.expect("a task");
    found.unwrap()
}

async fn machine(daemon: &Daemon) -> Value {
    daemon.get(&format!("/v1/machines/{MACHINE}")).await.expect(200).json
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_secrets_quarantines_and_fences_survive_a_kill() {
    let (host, state) = (host().await, tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let first = granted_lease(&daemon, json!({})).await;
    with_lease(&daemon, Method::DELETE, &lease_path(&first, "?wait=10s"), &first).await.expect(200);
    let lease = granted_lease(&daemon, json!({"holder": "nightly"})).await;
    assert_eq!(lease["fence"], 2);
    let quarantine = daemon
        .request(Method::PUT, "/v1/machines/18/quarantine")
        .json(&json!({"reason": "its disk"}));
    Answer::from_request(quarantine).await.expect(200);
    let queued = json!({"select": {"machine": MACHINE}, "ttl": "30m", "queue_for": "10m"});
    let queued = daemon.post("/v1/leases", queued).await.expect(202).json;
    daemon.kill();

    let daemon = Daemon::start_for_host(&host, &state).await;
    let seen = machine(&daemon).await;
    assert_eq!((&seen["lease"]["id"], &seen["lease"]["holder"]), (&lease["id"], &json!("nightly")));
    assert_eq!(daemon.get("/v1/machines/18").await.json["quarantine"]["reason"], "its disk");
    assert_eq!(daemon.get(&lease_path(&queued, "")).await.json["position"], 0);
    let request = json!({"select": {"machine": MACHINE}, "ttl": "1m"});
    daemon.post("/v1/leases", request).await.problem(409, "no-free-machine");
    with_lease(&daemon, Method::POST, &lease_path(&lease, "/renew"), &lease).await.expect(200);
    with_lease(&daemon, Method::DELETE, &lease_path(&lease, "?wait=10s"), &lease).await.expect(200);
    let active = daemon.get(&lease_path(&queued, "/wait?wait=10s")).await.expect(200).json;
    assert_eq!((&active["fence"], &active["machine"]), (&json!(3), &json!(MACHINE)));
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_release_continues_and_succeeds() {
    let (host, state) = (host().await, tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let lease = granted_lease(&daemon, json!({})).await;
    host.control().mutate(|world| world.machine_mut(MACHINE).unwrap().power = PowerState::On);
    eventually("the machine to be on", async || machine(&daemon).await["power_state"] == "on")
        .await;
    with_lease(&daemon, Method::DELETE, &lease_path(&lease, ""), &lease).await.expect(200);
    let task = running_task(&host).await;
    eventually("the task to be on disk", async || {
        let job = daemon.get(&lease_path(&lease, "")).await.json["job"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        daemon.get(&format!("/v1/jobs/{job}")).await.json["host_task"].is_string()
    })
    .await;
    daemon.kill();

    let daemon = Daemon::start_for_host(&host, &state).await;
    let seen = machine(&daemon).await;
    assert_eq!(
        (&seen["lease"]["id"], &seen["free"]),
        (&lease["id"], &json!(false)),
        "the machine is free before the release has succeeded"
    );
    host.control().finish_task(&task);
    eventually("the release to end", async || {
        daemon.get(&lease_path(&lease, "")).await.json["state"] == "released"
    })
    .await;
    let ended = daemon.get(&lease_path(&lease, "")).await.json;
    assert_eq!((&ended["warnings"], &ended["end"]["by"]), (&json!([]), &json!("anonymous")));
    let seen = machine(&daemon).await;
    assert_eq!((&seen["power_state"], &seen["free"]), (&json!("off"), &json!(true)), "{seen}");
    assert_eq!(host.control().calls("PowerOffVM_Task"), 1);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_powers_off_in_spite_of_a_question_continues_after_a_restart() {
    let (host, state) = (host().await, tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let lease = granted_lease(&daemon, json!({})).await;
    let choice = Choice {
        key: "1".to_owned(),
        label: "button.ok".to_owned(),
        summary: "OK".to_owned(),
        fails_with: None,
    };
    let question = Question {
        id: "q-7".to_owned(),
        message_id: "msg.test".to_owned(),
        text: "Go on?".to_owned(),
        choices: vec![choice],
        default_choice: Some(0),
    };
    host.control().mutate(|world| {
        world.machine_mut(MACHINE).unwrap().power = PowerState::On;
        world.ask(MACHINE, question);
    });
    eventually("the question", async || !machine(&daemon).await["question"].is_null()).await;
    with_lease(&daemon, Method::DELETE, &lease_path(&lease, ""), &lease).await.expect(200);
    let task = running_task(&host).await;
    eventually("the task to be on disk", async || {
        let job = daemon.get(&lease_path(&lease, "")).await.json["job"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        daemon.get(&format!("/v1/jobs/{job}")).await.json["host_task"].is_string()
    })
    .await;
    daemon.kill();

    let daemon = Daemon::start_for_host(&host, &state).await;
    host.control().finish_task(&task);
    eventually("the release to end", async || {
        daemon.get(&lease_path(&lease, "")).await.json["state"] == "released"
    })
    .await;
    assert_eq!(daemon.get(&lease_path(&lease, "")).await.json["warnings"], json!([]));
    let seen = machine(&daemon).await;
    assert_eq!((&seen["free"], &seen["question"]), (&json!(true), &Value::Null), "{seen}");
    assert_eq!(host.control().calls("PowerOffVM_Task"), 1);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_preparation_continues_and_makes_each_call_once() {
    let (host, state) = (host().await, tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let prepare = json!({"snapshot": "installed", "power": "on"});
    let lease = granted_lease(&daemon, json!({"prepare": prepare})).await;
    let task = running_task(&host).await;
    eventually("the task to be on disk", async || {
        let jobs =
            daemon.get(&format!("/v1/jobs?lease={}", lease["id"].as_str().unwrap())).await.json;
        jobs["items"][0]["host_task"].is_string()
    })
    .await;
    daemon.kill();

    let daemon = Daemon::start_for_host(&host, &state).await;
    assert_eq!(daemon.get(&lease_path(&lease, "")).await.json["state"], "preparing");
    host.control().finish_task(&task);
    let task = running_task(&host).await;
    host.control().finish_task(&task);
    let active = daemon.get(&lease_path(&lease, "/wait?wait=10s")).await.expect(200).json;
    assert_eq!((&active["machine"], &active["fence"]), (&json!(MACHINE), &json!(1)));
    assert_eq!(machine(&daemon).await["power_state"], "on");
    let jobs = daemon.get(&format!("/v1/jobs?lease={}", lease["id"].as_str().unwrap())).await.json;
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1, "{jobs}");
    let calls =
        ["RevertToSnapshot_Task", "PowerOnVM_Task"].map(|method| host.control().calls(method));
    assert_eq!(calls, [1, 1]);
    assert!(daemon.terminate().await.success());
}

/// The host executes the answer of a rule, and the daemon is killed before the host's response
/// arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_a_rule_answers_is_answered_once_although_the_daemon_is_killed() {
    let (host, state) = (host().await, tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let rule = "[answers]\n\"msg.test\" = \"button.ok\"\n";
    let choice = Choice {
        key: "1".to_owned(),
        label: "button.ok".to_owned(),
        summary: "OK".to_owned(),
        fails_with: None,
    };
    let question = Question {
        id: "q-7".to_owned(),
        message_id: "msg.test".to_owned(),
        text: "Go on?".to_owned(),
        choices: vec![choice],
        default_choice: Some(0),
    };
    let daemon = Daemon::start_with_config(&host, &state, rule).await;
    host.control().disrupt_next("AnswerVM", Disruption::NeverAnswer { run: true });
    host.control().mutate(|world| world.ask(MACHINE, question));
    let called = host.control().until_called("AnswerVM", 1);
    tokio::time::timeout(TIMEOUT, called).await.expect("the answer");
    daemon.kill();

    let daemon = Daemon::start_with_config(&host, &state, rule).await;
    let mut jobs = Vec::new();
    eventually("the job to end", async || {
        let list = daemon.get("/v1/jobs?kind=machine.answer").await.expect(200).json;
        jobs = list["items"].as_array().unwrap().clone();
        jobs.iter().all(|job| !job["finished_at"].is_null())
    })
    .await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    // The question is gone, but nothing proves that this answer closed it.
    assert_eq!((&jobs[0]["state"], &jobs[0]["requested_by"]), (&json!("unknown"), &json!("otter")));
    assert_eq!(host.control().calls("AnswerVM"), 1);
    assert_eq!(machine(&daemon).await["question"], Value::Null);
    assert!(daemon.terminate().await.success());
}

/// No other task finishes the preparation, so without the report of the panic the lease would stay
/// `preparing`.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_preparation_fails_the_lease_and_quarantines_the_machine() {
    let daemon = Daemon::start(&["--simulate"], &[("FAILPOINTS", "lease-work=panic")]).await;
    eventually("the inventory", async || daemon.get("/readyz").await.status == 200).await;
    let lease = granted_lease(&daemon, json!({"prepare": {"power": "on"}})).await;
    eventually("the lease to fail", async || {
        daemon.get(&lease_path(&lease, "")).await.expect(200).json["state"] == "failed"
    })
    .await;
    let failed =
        daemon.get(&lease_path(&lease, "/wait?wait=20s")).await.problem(409, "lease-failed");
    assert!(failed.str("detail").contains("internal error"), "{}", failed.text);
    let seen = machine(&daemon).await;
    assert_eq!(seen["quarantine"]["automatic"], true, "{seen}");
    let open = "/v1/leases?state=queued,preparing,active,releasing";
    assert_eq!(daemon.get(open).await.expect(200).items("id").len(), 0);
}

/// Without the report of the panic, no other attempt would release the machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_recovery_is_followed_by_another_attempt() {
    let state = tempfile::tempdir().unwrap();
    let config = state.path().join("otter.toml");
    std::fs::write(&config, "[leases]\nquarantine_retry = \"1s\"\n").unwrap();
    let arguments = ["--simulate", "--config", config.to_str().unwrap()];
    let panics = [("FAILPOINTS", "lease-work=1*panic;recovery-work=1*panic")];
    let daemon = Daemon::start(&arguments, &panics).await;
    eventually("the inventory", async || daemon.get("/readyz").await.status == 200).await;
    let lease = granted_lease(&daemon, json!({})).await;
    let ended = with_lease(&daemon, Method::DELETE, &lease_path(&lease, "?wait=20s"), &lease).await;
    assert_eq!(ended.expect(200).json["state"], "released");
    eventually("a recovery to succeed", async || {
        let seen = machine(&daemon).await;
        seen["quarantine"].is_null() && seen["free"] == true
    })
    .await;
    let releases = daemon.get("/v1/jobs?kind=lease.release").await.expect(200).items("id").len();
    assert_eq!(releases, 3, "the release, the recovery that panicked, and the one after it");
    assert!(daemon.terminate().await.success());
}

/// Versions of otter without recoveries stored a quarantine with a failed job. A restore stores a
/// quarantine without a job.
#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_without_a_recovery_gets_one_if_it_has_a_failed_job() {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let host = Simulator::start(SimulatorOptions { pace: Pace::Auto { scale: 0.0 }, ..options });
    let (host, directory) = (host.await.unwrap(), tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let (mut job, mut keys) = (String::new(), Vec::new());
    for id in [MACHINE, "18"] {
        let lease = granted_lease(&daemon, json!({"select": {"machine": id}})).await;
        let path = lease_path(&lease, "?wait=10s");
        let ended = with_lease(&daemon, Method::DELETE, &path, &lease).await.expect(200).json;
        if id == MACHINE {
            ended["job"].as_str().unwrap().clone_into(&mut job);
        }
        let shown = daemon.get(&format!("/v1/machines/{id}")).await.expect(200).json;
        let uuid = shown["uuid"].as_str().unwrap().to_lowercase();
        keys.push(format!("uuid:{uuid}"));
    }
    daemon.kill();
    let file = format!("sqlite://{}", state.join("otter.db").display());
    let database = sqlx::SqlitePool::connect(&file).await.unwrap();
    for (key, job) in keys.iter().zip([json!(job), Value::Null]) {
        let quarantine = json!({
            "reason": "its release failed", "by": "otter", "since": "2026-01-01T00:00:00Z",
            "automatic": true, "job": job,
        });
        let update = "UPDATE kept_machines SET quarantine = $2, recovery = NULL WHERE machine = $1";
        let done = sqlx::query(update).bind(key).bind(quarantine.to_string());
        assert_eq!(done.execute(&database).await.unwrap().rows_affected(), 1, "{key}");
    }
    database.close().await;

    let daemon = Daemon::start_for_host(&host, &state).await;
    eventually("the recovery to succeed", async || machine(&daemon).await["free"] == true).await;
    assert_eq!(machine(&daemon).await["quarantine"], Value::Null);
    let restored = daemon.get("/v1/machines/18").await.expect(200).json;
    assert_eq!(restored["quarantine"]["automatic"], true, "{restored}");
    assert!(daemon.terminate().await.success());
}

/// With a licence that allows no change, neither a preparation nor a release works.
#[tokio::test(flavor = "multi_thread")]
async fn a_preparation_and_a_release_that_met_a_fault_of_the_host_continue_after_a_kill() {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let host = Simulator::start(SimulatorOptions { pace: Pace::Auto { scale: 0.0 }, ..options });
    let (host, state) = (host.await.unwrap(), tempfile::tempdir().unwrap());
    let state = state.path().join("state");
    let daemon = Daemon::start_for_host(&host, &state).await;
    let held = json!({"select": {"machine": "18"}, "ttl": "30m", "prepare": {"power": "on"}});
    let held = daemon.post("/v1/leases", held).await.expect(201).json;
    daemon.get(&lease_path(&held, "/wait?wait=10s")).await.expect(200);
    host.control().set_read_only_licence(true);
    with_lease(&daemon, Method::DELETE, &lease_path(&held, ""), &held).await.expect(200);
    let waiting =
        granted_lease(&daemon, json!({"queue_for": "10m", "prepare": {"power": "on"}})).await;
    for (lease, note) in [(&held, "tried again"), (&waiting, "license-restricted")] {
        eventually("the fault to be met", async || {
            let shown = daemon.get(&lease_path(lease, "")).await.json;
            shown["history"].to_string().contains(note)
        })
        .await;
    }
    daemon.kill();
    host.control().set_read_only_licence(false);

    // After a start otter tries at once.
    let daemon = Daemon::start_for_host(&host, &state).await;
    daemon.get(&lease_path(&waiting, "/wait?wait=20s")).await.expect(200);
    eventually("the release to end", async || {
        daemon.get(&lease_path(&held, "")).await.json["state"] == "released"
    })
    .await;
    for id in ["16", "18"] {
        let path = format!("/v1/machines/{id}");
        assert_eq!(daemon.get(&path).await.json["quarantine"], Value::Null, "{id}");
    }
    assert!(daemon.terminate().await.success());
}
