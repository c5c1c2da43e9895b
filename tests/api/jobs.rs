//! Starts, reads and lists of jobs.

use serde_json::json;

use crate::harness::{Lab, machine_path, on_every_host};

on_every_host! {
    async fn a_machine_is_powered_off_and_on_and_reads_show_it(lab: &Lab) {
        for (action, state) in [("off", "off"), ("on", "on")] {
            let job = lab.power_and_wait(lab.machines.running, action).await;
            assert_eq!((&job["state"], &job["result"]["changed"]), (&json!("succeeded"), &json!(true)));
            assert_eq!(job["result"]["power_state"], state);
            assert_eq!(job["kind"], format!("machine.power_{action}"));
            assert_eq!(job["steps"][0]["name"], format!("power_{action}"));
            assert_eq!(job["steps"][0]["state"], "succeeded");
            let read = lab.machine(lab.machines.running).await;
            assert_eq!((&read["power_state"], &read["active_job"]), (&json!(state), &json!(null)));
        }
    }

    async fn a_job_without_effect_succeeds_without_a_change(lab: &Lab) {
        let job = lab.power_and_wait(lab.machines.running, "on").await;
        assert_eq!((&job["state"], &job["result"]["changed"]), (&json!("succeeded"), &json!(false)));
        assert_eq!((&job["steps"], &job["host_task"]), (&json!([]), &json!(null)));
    }

    async fn a_running_machine_is_reset(lab: &Lab) {
        let job = lab.power_and_wait(lab.machines.running, "reset").await;
        assert_eq!(job["kind"], "machine.reset");
        assert_eq!(job["result"]["changed"], true);
        assert_eq!(lab.machine(lab.machines.running).await["power_state"], "on");
    }

    async fn a_reset_of_a_machine_that_is_off_fails_when_the_job_starts(lab: &Lab) {
        lab.power_and_wait(lab.machines.running, "off").await;
        let path = machine_path(lab.machines.running, "/power?wait=30s");
        let problem = lab.post(&path, json!({"action": "reset"})).await.problem(409, "invalid-power-state");
        assert_eq!((problem.str("retry"), problem.str("machine_name")), ("no", lab.machines.running));
        let job = lab.get(problem.json["links"]["job"].as_str().unwrap()).await.expect(200);
        assert_eq!(job.str("state"), "failed");
        assert_eq!(job.json["error"]["code"], "invalid-power-state");
        assert_eq!(job.json["error"]["request_id"], json!(null));
    }

    async fn an_accepted_job_is_202_with_its_location(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/power");
        let accepted = lab.post_with(&path, json!({"action": "off"}), &[("otter-reference", "https://ci/7")]).await;
        let accepted = accepted.expect(202);
        assert_eq!(accepted.header("location"), Some(format!("/v1/jobs/{}", accepted.str("id")).as_str()));
        accepted.header("retry-after").unwrap().parse::<u64>().unwrap();
        assert_eq!(accepted.str("reference"), "https://ci/7");
        assert_eq!(accepted.str("requested_by"), "anonymous");
        let ended = lab.wait_for_end(&accepted.json).await;
        assert_eq!(ended["state"], "succeeded");
        assert_eq!(lab.get(accepted.header("location").unwrap()).await.expect(200).json, ended);
    }

    async fn a_kill_powers_off_by_exact_name(lab: &Lab) {
        let job = lab.post("/v1/machines/kill?wait=30s", json!({"name": lab.machines.running})).await.expect(200);
        assert_eq!((job.str("kind"), &job.json["result"]["changed"]), ("machine.kill", &json!(true)));
        assert_eq!(lab.machine(lab.machines.running).await["power_state"], "off");
        let part = &lab.machines.running[1..];
        lab.post("/v1/machines/kill", json!({"name": part})).await.problem(404, "not-found");
    }

    async fn jobs_are_listed_newest_first_by_pages(lab: &Lab) {
        let mut made = Vec::new();
        for action in ["off", "on", "off", "on", "on"] {
            made.push(lab.power_and_wait(lab.machines.running, action).await["id"].as_str().unwrap().to_owned());
        }
        made.reverse();
        assert_eq!(lab.get("/v1/jobs").await.expect(200).items("id"), made);
        let first = lab.get("/v1/jobs?limit=2").await.expect(200);
        assert_eq!(first.items("id"), made[..2]);
        // A job that is created between two pages is not on the later page.
        lab.power_and_wait(lab.machines.running, "on").await;
        let second = lab.get(&format!("/v1/jobs?limit=3&cursor={}", first.str("next"))).await.expect(200);
        assert_eq!(second.items("id"), made[2..]);
        assert!(second.json["next"].is_null());
    }

    async fn jobs_are_filtered(lab: &Lab) {
        let path = machine_path(lab.machines.running, "/power?wait=30s");
        let off = lab.post_with(&path, json!({"action": "off"}), &[("otter-reference", "run & 1")]).await.expect(200);
        lab.post(&path, json!({"action": "reset"})).await.problem(409, "invalid-power-state");
        lab.power_and_wait(lab.machines.with_snapshots, "off").await;
        let owner = off.str("machine");
        for (query, count) in [
            ("reference=run+%26+1".to_owned(), 1),
            ("reference=run".to_owned(), 0),
            ("state=failed".to_owned(), 1),
            ("state=succeeded,failed".to_owned(), 3),
            ("state=queued,running,unknown,cancelled".to_owned(), 0),
            ("kind=machine.power_off".to_owned(), 2),
            ("kind=machine.power_off,machine.reset".to_owned(), 3),
            (format!("machine={owner}"), 2),
            (format!("machine={owner}&kind=machine.power_off"), 1),
            (format!("machine=mac:{}", lab.machines.running_mac), 2),
            (format!("machine=name:{}", lab.machines.with_snapshots), 1),
            ("requested_by=anonymous".to_owned(), 3),
            ("requested_by=somebody".to_owned(), 0),
        ] {
            let list = lab.get(&format!("/v1/jobs?{query}")).await.expect(200);
            assert_eq!(list.items("id").len(), count, "{query}");
        }
        lab.get("/v1/jobs?machine=name:none").await.problem(404, "not-found");
        // An id can have a colon.
        for path in ["/v1/jobs", "/v1/leases", "/v1/events"] {
            for none in ["vm-none", "gone:1"] {
                lab.get(&format!("{path}?machine={none}")).await.problem(404, "not-found");
            }
            let named = lab.get(&format!("{path}?machine={}", lab.machines.with_snapshots)).await;
            let hint = named.problem(404, "not-found").str("detail").to_owned();
            assert!(hint.contains(&format!("write \"name:{}\"", lab.machines.with_snapshots)), "{hint}");
        }
        lab.get("/v1/jobs?state=done").await.problem(400, "invalid-request").points_at("state", "not-one-of");
        lab.get("/v1/jobs?kind=machine.poweron").await.problem(400, "invalid-request").points_at("kind", "not-one-of");
    }
}

/// Only on otter's simulator: govmomi's machines have unique names.
#[tokio::test]
async fn a_kill_by_an_ambiguous_name_lists_the_machines_and_kills_none() {
    let lab = Lab::start().await;
    let problem = lab.post("/v1/machines/kill", json!({"name": "qubes-scratch"})).await;
    let problem = problem.problem(409, "ambiguous-name");
    assert_eq!(problem.json["candidates"].as_array().unwrap().len(), 2);
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
}

#[tokio::test]
async fn a_protected_machine_is_not_changed() {
    let lab = Lab::start().await;
    for (path, body) in [
        ("/v1/machines/42/power", json!({"action": "on"})),
        ("/v1/machines/kill", json!({"name": "golden-debian-12"})),
        ("/v1/machines/name:golden-debian-12/power?wait=5s", json!({"action": "off"})),
    ] {
        let problem = lab.post(path, body).await.problem(409, "self-protection");
        assert_eq!((problem.str("retry"), problem.str("machine")), ("no", "42"));
    }
    assert!(lab.get("/v1/jobs").await.expect(200).items("id").is_empty());
}

/// Only on otter's simulator: govmomi has no questions.
#[tokio::test]
async fn a_machine_with_a_question_accepts_only_a_kill() {
    let lab = Lab::start().await;
    let problem = lab.post("/v1/machines/51/power", json!({"action": "on"})).await;
    let problem = problem.problem(409, "question-pending");
    assert!(problem.str("detail").contains("moved or copied"));
    let kill =
        lab.post("/v1/machines/kill?wait=10s", json!({"name": "qubes-copied"})).await.expect(200);
    assert_eq!(
        (kill.str("state"), &kill.json["result"]["power_state"]),
        ("succeeded", &json!("off"))
    );
}
