//! Questions of machines that rules of the configuration answer, and preparations that fail at a
//! question that no caller answers.

use std::collections::BTreeMap;
use std::time::Duration;

use otter::app::Settings;
use otter::domain::answers::AnswerRules;
use otter::domain::pool::{Pool, Pools};
use otter::simulator::world::{Choice, Question};
use otter::simulator::{Fault, Scenario};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Lab, LabOptions, eventually};

const COPIED: &str = "button.uuid.copiedTheVM";
const MOVED: &str = "button.uuid.movedTheVM";

fn question(message_id: &str) -> Question {
    let choice = |key: &str, label: &str, cancels: bool| Choice {
        key: key.to_owned(),
        label: label.to_owned(),
        summary: label.to_owned(),
        fails_with: cancels.then(|| Fault::new("GenericVmConfigFault", "Cancelled.")),
    };
    Question {
        id: "7".to_owned(),
        message_id: message_id.to_owned(),
        text: "Moved or copied?".to_owned(),
        choices: vec![
            choice("0", "button.uuid.cancel", true),
            choice("1", MOVED, false),
            choice("4", COPIED, false),
        ],
        default_choice: Some(2),
    }
}

fn rules(rules: &[(&str, &str)]) -> AnswerRules {
    let rules = rules.iter().map(|(message, label)| ((*message).to_owned(), (*label).to_owned()));
    AnswerRules(rules.collect())
}

fn copied(settings: &mut Settings) {
    settings.answers = rules(&[("msg.uuid.altered", COPIED)]);
}

/// A lab in which ci-runner-2 (32) asks this question at each power-on, and no other machine asks.
async fn lab(message_id: &str, settings: fn(&mut Settings)) -> Lab {
    let mut scenario = Scenario::lab().unwrap();
    for machine in &mut scenario.machines {
        machine.question = None;
        if machine.id == "32" {
            machine.question_at_each_power_on = Some(question(message_id));
        }
    }
    Lab::with_options(LabOptions { scenario, settings, ..LabOptions::default() }).await
}

async fn lease(lab: &Lab, more: Value) -> Value {
    let mut body = json!({"select": {"machine": "32"}, "ttl": "5m", "prepare": {"power": "on"}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    lab.post_with("/v1/leases", body, &[("otter-reference", "run-7")]).await.expect(201).json
}

fn lease_path(lease: &Value, rest: &str) -> String {
    format!("/v1/leases/{}{rest}", lease["id"].as_str().unwrap())
}

async fn end(lab: &Lab, lease: &Value) {
    let secret = format!("{}.{}", lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
    let delete = lab.request(Method::DELETE, &lease_path(lease, "?wait=15s"));
    Answer::from_request(delete.header("otter-lease", secret)).await.expect(200);
}

/// The jobs of this kind, newest first, once all of them have ended.
async fn ended_jobs(lab: &Lab, kind: &str) -> Vec<Value> {
    let path = format!("/v1/jobs?kind={kind}");
    let mut jobs = Vec::new();
    eventually("the jobs to end", async || {
        jobs = lab.get(&path).await.expect(200).json["items"].as_array().unwrap().clone();
        jobs.iter().all(|job| !job["finished_at"].is_null())
    })
    .await;
    jobs
}

fn history(lease: &Value) -> Vec<&str> {
    let lines = lease["history"].as_array().unwrap().iter();
    lines.map(|line| line["what"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_rule_answers_the_question_of_a_leased_machine_at_each_power_on() {
    let lab = lab("msg.uuid.altered", copied).await;
    for round in 1..=2 {
        let granted = lease(&lab, json!({})).await;
        let active = lab.get(&lease_path(&granted, "/wait?wait=15s")).await.expect(200).json;
        assert_eq!(lab.machine("ci-runner-2").await["power_state"], "on");
        let jobs = ended_jobs(&lab, "machine.answer").await;
        assert_eq!(jobs.len(), round, "{jobs:?}");
        let job = &jobs[0];
        assert_eq!(
            (&job["state"], &job["requested_by"], &job["lease"], &job["reference"]),
            (&json!("succeeded"), &json!("otter"), &granted["id"], &json!("run-7"))
        );
        assert_eq!(
            (&job["request"]["question"], &job["request"]["choice"]),
            (&json!("7"), &json!("4"))
        );
        let line = format!(
            "msg.uuid.altered is answered with {COPIED} by rule: job {}",
            job["id"].as_str().unwrap()
        );
        let seen = lab.get(&lease_path(&active, "")).await.expect(200).json;
        assert!(history(&seen).contains(&line.as_str()), "{seen}");
        assert_eq!(lab.control().calls("AnswerVM"), u64::try_from(round).unwrap());
        end(&lab, &granted).await;
    }
}

#[tokio::test]
async fn the_rule_of_a_pool_comes_before_the_rules_for_all_machines() {
    let lab = lab("msg.uuid.altered", |settings| {
        copied(settings);
        let pool = Pool {
            machines: vec!["ci-runner-*".parse().unwrap()],
            answers: rules(&[("msg.uuid.altered", MOVED), ("msg.other", COPIED)]),
            ..Pool::default()
        };
        settings.pools = Pools([("runners".to_owned(), pool)].into());
    })
    .await;
    // The machine needs no lease: the power-on of an operator would wait as well.
    let job = lab.power_and_wait("ci-runner-2", "on").await;
    assert_eq!(job["state"], "succeeded");
    let jobs = ended_jobs(&lab, "machine.answer").await;
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert_eq!(
        (&jobs[0]["request"]["choice"], &jobs[0]["lease"], &jobs[0]["state"]),
        (&json!("1"), &Value::Null, &json!("succeeded"))
    );
}

#[tokio::test]
async fn a_question_that_was_pending_before_the_start_is_answered() {
    // Machine 51 of the lab waits at its power-on.
    let lab = Lab::with_settings(copied).await;
    lab.get("/v1/machines/51/wait?until=power_state:on&wait=15s").await.expect(200);
    assert_eq!(lab.control().calls("AnswerVM"), 1);
}

#[tokio::test]
async fn no_rule_answers_for_a_protected_machine() {
    let lab = lab("msg.uuid.altered", |settings| {
        copied(settings);
        settings.protection.protected = vec!["qubes-4.2-sdw-prod".parse().unwrap()];
    })
    .await;
    lab.control().mutate(|world| world.ask("17", question("msg.uuid.altered")));
    lab.get("/v1/machines/17/wait?until=question&wait=15s").await.expect(200);
    // A question that comes later is answered, and that of the protected machine is still there.
    assert_eq!(lab.power_and_wait("ci-runner-2", "on").await["state"], "succeeded");
    let machine = lab.machine("qubes-4.2-sdw-prod").await;
    assert_eq!(
        (&machine["question"]["id"], &machine["question"]["message_id"]),
        (&json!("7"), &json!("msg.uuid.altered"))
    );
    assert_eq!(lab.control().calls("AnswerVM"), 1);
}

#[tokio::test]
async fn a_preparation_fails_at_a_question_that_nobody_answers() {
    fn soon(settings: &mut Settings) {
        settings.jobs.question_grace = Duration::from_millis(200);
        settings.answers = rules(&[
            ("msg.other", COPIED),
            // The question does not offer this choice.
            ("msg.uuid.altered", "button.uuid.replace"),
        ]);
    }
    for message_id in ["msg.serial.file.open", "msg.uuid.altered"] {
        let lab = lab(message_id, soon).await;
        let granted = lease(&lab, json!({})).await;
        let failed = lab.get(&lease_path(&granted, "/wait?wait=15s")).await;
        let failed = failed.problem(409, "lease-failed");
        assert!(failed.str("detail").contains(message_id), "{}", failed.text);
        let jobs = ended_jobs(&lab, "lease.prepare").await;
        assert_eq!(
            (&jobs[0]["state"], &jobs[0]["error"]["code"]),
            (&json!("failed"), &json!("question-pending"))
        );
        let detail = jobs[0]["error"]["detail"].as_str().unwrap();
        assert!(detail.contains("longer than leases.question_grace"), "{detail}");
        assert_eq!(lab.machine("ci-runner-2").await["quarantine"]["automatic"], true);
        assert_eq!(lab.control().calls("AnswerVM"), 0);
    }
}

#[tokio::test]
async fn a_question_while_a_preparation_waits_for_the_guest_counts_as_well() {
    let lab = lab("msg.uuid.altered", |settings| {
        copied(settings);
        settings.jobs.question_grace = Duration::from_millis(200);
    })
    .await;
    lab.control().mutate(|world| {
        world.machine_mut("32").unwrap().guest.tools_after = Duration::from_hours(1);
    });
    let granted = lease(&lab, json!({"prepare": {"power": "on", "until": "tools"}})).await;
    eventually("the preparation to wait for the tools", async || {
        let job = lab.get(&lease_path(&granted, "")).await.expect(200).json["job"].clone();
        let Some(job) = job.as_str() else { return false };
        lab.get(&format!("/v1/jobs/{job}")).await.expect(200).json["phase"] == "waiting for tools"
    })
    .await;
    lab.control().mutate(|world| world.ask("32", question("msg.hbacommon.outofspace")));
    let failed = lab.get(&lease_path(&granted, "/wait?wait=15s")).await;
    failed.problem(409, "lease-failed");
    let jobs = ended_jobs(&lab, "lease.prepare").await;
    assert_eq!(jobs[0]["error"]["code"], "question-pending");
}

#[tokio::test]
async fn a_caller_who_answers_in_time_saves_the_preparation() {
    let lab = lab("msg.serial.file.open", copied).await;
    let granted = lease(&lab, json!({})).await;
    lab.get("/v1/machines/32/wait?until=question&wait=15s").await.expect(200);
    let answer = lab
        .request(Method::POST, "/v1/machines/32/answer?wait=15s")
        .header("otter-override", "the lease is not active yet")
        .json(&json!({"question": "7", "choice": "4"}));
    Answer::from_request(answer).await.expect(200);
    let active = lab.get(&lease_path(&granted, "/wait?wait=15s")).await.expect(200).json;
    assert_eq!(active["state"], "active");
    let jobs: BTreeMap<String, String> = ended_jobs(&lab, "machine.answer")
        .await
        .iter()
        .map(|job| (job["requested_by"].to_string(), job["state"].to_string()))
        .collect();
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    assert!(!jobs.contains_key("\"otter\""), "{jobs:?}");
}
