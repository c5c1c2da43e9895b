//! All kinds of jobs except power and revert, from start to end, and their cancellation.

use serde_json::{Value, json};

use crate::harness::{Answer, Lab, LabOptions, encode, machine_path, on_every_host};
use otter::simulator::world::{Choice, Question};
use otter::simulator::{Disruption, Scenario};
use reqwest::Method;

async fn delete(lab: &Lab, path: &str) -> Answer {
    Answer::from_request(lab.request(Method::DELETE, path)).await
}

async fn patch(lab: &Lab, path: &str, body: Value) -> Answer {
    Answer::from_request(lab.request(Method::PATCH, path).json(&body)).await
}

async fn cancel(lab: &Lab, job: &Value) -> Answer {
    lab.post(&format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap()), json!({})).await
}

async fn act(lab: &Lab, name: &str, body: Value) -> Answer {
    lab.post(&machine_path(name, "/power?wait=10s"), body).await
}

/// Waits until VMware Tools run. Guests of govmomi have none and shut down anyway.
async fn tools(lab: &Lab, name: &str) {
    if lab.host.has_tools() {
        lab.wait_until(&machine_path(name, ""), |machine| machine["tools_status"] == "running")
            .await;
    }
}

on_every_host! {
    async fn a_snapshot_is_created_and_removed(lab: &Lab) {
        let name = lab.machines.with_snapshots;
        let before = lab.machine(name).await;
        let body = json!({"name": "a/b 100%", "description": "why"});
        let job = lab.post(&machine_path(name, "/snapshots?wait=10s"), body).await.expect(200);
        assert_eq!((job.str("kind"), &job.json["result"]["changed"]), ("snapshot.create", &json!(true)));
        assert_eq!(job.json["request"]["name"], "a/b 100%");
        let id = job.json["result"]["snapshot"].as_str().unwrap();
        let path = machine_path(name, &format!("/snapshots/{}", encode(id)));
        let made = lab.get(&path).await.expect(200);
        assert_eq!((made.str("name"), made.str("description")), ("a/b 100%", "why"));
        assert_eq!((&made.json["parent"], &made.json["current"]), (&before["current_snapshot"], &json!(true)));
        let removed = delete(lab, &format!("{path}?wait=10s")).await.expect(200);
        assert_eq!((removed.str("kind"), &removed.json["request"]["children"]), ("snapshot.remove", &json!(false)));
        lab.get(&path).await.problem(404, "not-found");
        assert_eq!(lab.machine(name).await["snapshot_count"], before["snapshot_count"]);
    }

    async fn a_branch_and_then_all_snapshots_are_removed(lab: &Lab) {
        let name = lab.machines.with_snapshots;
        let top = lab.get(&machine_path(name, "/snapshots")).await.expect(200).items("id")[0].to_owned();
        lab.post(&machine_path(name, "/snapshots?wait=10s"), json!({"name": "one more"})).await.expect(200);
        delete(lab, &machine_path(name, "/snapshots")).await.problem(400, "invalid-request").points_at("all", "missing");
        delete(lab, &machine_path(name, "/snapshots?all=false")).await.problem(400, "invalid-request");
        let path = machine_path(name, &format!("/snapshots/{}?children=true&wait=10s", encode(&top)));
        delete(lab, &path).await.expect(200);
        assert_eq!(lab.machine(name).await["snapshot_count"], 0);
        lab.post(&machine_path(name, "/snapshots?wait=10s"), json!({"name": "new"})).await.expect(200);
        let all = machine_path(name, "/snapshots?all=true&wait=10s");
        let job = delete(lab, &all).await.expect(200);
        assert_eq!((job.str("kind"), &job.json["result"]["changed"]), ("snapshot.remove_all", &json!(true)));
        assert_eq!(delete(lab, &all).await.expect(200).json["result"]["changed"], false);
        assert_eq!(lab.machine(name).await["current_snapshot"], json!(null));
    }

    async fn a_machine_is_suspended(lab: &Lab) {
        let name = lab.machines.running;
        let job = act(lab, name, json!({"action": "suspend"})).await.expect(200);
        assert_eq!((job.str("kind"), &job.json["result"]["power_state"]), ("machine.suspend", &json!("suspended")));
        assert_eq!(act(lab, name, json!({"action": "suspend"})).await.expect(200).json["result"]["changed"], false);
        let problem = act(lab, name, json!({"action": "reboot"})).await.problem(409, "invalid-power-state");
        assert_eq!(problem.str("machine_name"), name);
    }

    async fn a_guest_shuts_down(lab: &Lab) {
        let name = lab.machines.running;
        tools(lab, name).await;
        let job = act(lab, name, json!({"action": "shutdown"})).await.expect(200);
        assert_eq!((job.str("kind"), &job.json["steps"][0]["name"]), ("machine.shutdown", &json!("shutdown")));
        assert_eq!(job.json["result"]["power_state"], "off");
        assert_eq!(lab.machine(name).await["power_state"], "off");
        assert_eq!(act(lab, name, json!({"action": "shutdown"})).await.expect(200).json["result"]["changed"], false);
    }

    async fn an_ended_job_is_not_cancelled(lab: &Lab) {
        let job = lab.power_and_wait(lab.machines.running, "on").await;
        assert_eq!(cancel(lab, &job).await.expect(200).json, job);
        lab.post("/v1/jobs/01936f5e-8c00-7000-8000-000000000001/cancel", json!({})).await.problem(404, "not-found");
        lab.post("/v1/jobs/nonsense/cancel", json!({})).await.problem(404, "not-found");
    }
}

/// Only on otter's simulator: govmomi has no `RenameSnapshot`.
#[tokio::test]
async fn a_snapshot_is_renamed_and_described() {
    let lab = Lab::start().await;
    let path = "/v1/machines/16/snapshots/installed";
    let renamed = patch(&lab, path, json!({"name": "50% a/b"})).await.expect(200);
    assert_eq!((renamed.str("name"), renamed.str("path")), ("50% a/b", "50%25 a%2Fb"));
    assert!(renamed.header("otter-wait").is_some());
    let by_id = format!("/v1/machines/16/snapshots/{}", renamed.str("id"));
    assert_eq!(lab.get(&by_id).await.expect(200).json, renamed.json);
    let described = patch(&lab, &by_id, json!({"description": "why"})).await.expect(200);
    assert_eq!((described.str("name"), described.str("description")), ("50% a/b", "why"));
    let calls = lab.control().calls("RenameSnapshot");
    patch(&lab, &by_id, json!({"name": "50% a/b"})).await.expect(200);
    assert_eq!(lab.control().calls("RenameSnapshot"), calls, "it already has this name");
    patch(&lab, &by_id, json!({})).await.problem(400, "invalid-request");
    patch(&lab, "/v1/machines/16/snapshots/none", json!({"name": "x"}))
        .await
        .problem(404, "not-found");
    let jobs = lab.get("/v1/jobs?kind=snapshot.rename").await.expect(200);
    assert_eq!(jobs.json["items"].as_array().unwrap().len(), 3);
    lab.control().set_read_only_licence(true);
    let problem =
        patch(&lab, &by_id, json!({"name": "x"})).await.problem(422, "license-restricted");
    assert!(problem.json["job"].is_string());
}

/// Only on otter's simulator: govmomi has no `ConsolidateVMDisks_Task`.
#[tokio::test]
async fn disks_that_a_removal_left_are_shown_and_consolidated() {
    let lab = Lab::start().await;
    let path = machine_path(lab.machines.with_snapshots, "");
    let shown = async || lab.get(&path).await.expect(200).json["consolidation_needed"].clone();
    let consolidate =
        async || lab.post(&format!("{path}/consolidate?wait=10s"), json!({})).await.expect(200);
    assert_eq!(shown().await, json!(false));
    let nothing = consolidate().await;
    assert_eq!(nothing.str("kind"), "machine.consolidate");
    assert_eq!(nothing.json["result"]["changed"], false);
    assert_eq!(lab.control().calls("ConsolidateVMDisks_Task"), 0);
    let leaf = lab.get(&format!("{path}/snapshots")).await.expect(200);
    let leaf = leaf.json["items"].as_array().unwrap().last().unwrap()["id"].clone();
    let remove = format!("{path}/snapshots/{}?wait=10s", encode(leaf.as_str().unwrap()));
    let remove_all = format!("{path}/snapshots?all=true&wait=10s");
    for (leaves_disks, removal) in [(false, &remove), (true, &remove_all)] {
        lab.control().mutate(|world| world.rules.removals_leave_disks = leaves_disks);
        let removal = delete(&lab, removal).await.expect(200);
        let warnings = removal.json["warnings"].to_string();
        assert_eq!(warnings.contains("consolidation"), leaves_disks, "{warnings}");
        assert!(!warnings.contains("{machine}"), "{warnings}");
        assert_eq!(shown().await, json!(leaves_disks));
    }
    let done = consolidate().await;
    assert_eq!(done.json["result"]["changed"], true);
    assert_eq!(done.json["steps"][0]["name"], "consolidate_disks");
    assert_eq!(shown().await, json!(false));
    // The default deadline is that of a removal.
    let queued = lab.post(&format!("{path}/consolidate"), json!({})).await.expect(202);
    let time = |field: &str| queued.str(field).parse::<jiff::Timestamp>().unwrap();
    assert_eq!(time("deadline_at").duration_since(time("created_at")).as_hours(), 24);
    lab.post(&format!("{path}/consolidate"), json!({"all": true}))
        .await
        .problem(400, "invalid-request");
}

#[tokio::test]
async fn names_and_descriptions_out_of_bounds_are_refused() {
    let lab = Lab::start().await;
    let at = "/v1/machines/16/snapshots";
    for (body, place, code) in [
        (json!({"name": ""}), "/name", "empty"),
        (json!({"name": "n".repeat(81)}), "/name", "too-long"),
        (json!({"name": "a\u{1}b"}), "/name", "control-character"),
        (json!({"name": "n", "description": "d".repeat(8_193)}), "/description", "too-long"),
        (json!({"name": "n", "description": "\u{7}"}), "/description", "control-character"),
        (json!({"description": "n"}), "/name", "missing"),
        (json!({"name": "n", "memroy": true}), "/memroy", "unknown-field"),
    ] {
        lab.post(at, body).await.problem(400, "invalid-request").points_at(place, code);
    }
    lab.post(at, json!({"name": "n", "description": "d".repeat(1 << 20)}))
        .await
        .problem(413, "payload-too-large");
    assert_eq!(lab.get("/v1/jobs").await.expect(200).json["items"], json!([]));
    let longest = "ü".repeat(80);
    let job = lab.post(&format!("{at}?wait=10s"), json!({"name": longest})).await.expect(200);
    let made = lab
        .get(&format!("{at}/{}", job.json["result"]["snapshot"].as_str().unwrap()))
        .await
        .expect(200);
    assert_eq!(made.str("name"), longest);
}

/// A name must not look like another one, such as that of a protected snapshot.
#[tokio::test]
async fn names_that_look_like_others_are_refused() {
    let lab = Lab::start().await;
    let at = "/v1/machines/16/snapshots";
    let obeyed = "\u{1b}\u{85}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}";
    let invisible = "\u{ad}\u{200b}\u{200c}\u{200d}\u{2060}\u{2064}\u{feff}\u{34f}\u{115f}\u{3164}\u{fe0f}\u{e0041}";
    let hidden = obeyed.chars().map(|character| (character, "control-character"));
    for (hidden, wrong) in
        hidden.chain(invisible.chars().map(|character| (character, "invisible-character")))
    {
        let code = format!("U+{:04X}", u32::from(hidden));
        for name in [
            format!("kick{hidden}start"),
            format!("{hidden}kickstart"),
            format!("kickstart{hidden}"),
        ] {
            for answer in [
                lab.post(at, json!({"name": name})).await,
                patch(&lab, &format!("{at}/installed"), json!({"name": name})).await,
            ] {
                let refused = answer.problem(400, "invalid-request");
                assert!(refused.str("detail").contains(&code), "{}", refused.text);
                refused.points_at("/name", wrong);
            }
        }
    }
    for space in [" ", "\u{a0}", "\u{2003}", "\u{3000}"] {
        let code = format!("U+{:04X}", u32::from(space.chars().next().unwrap()));
        for name in [format!("{space}kickstart"), format!("kickstart{space}"), space.to_owned()] {
            for answer in [
                lab.post(at, json!({"name": name})).await,
                patch(&lab, &format!("{at}/installed"), json!({"name": name})).await,
            ] {
                let refused = answer.problem(400, "invalid-request");
                assert!(refused.str("detail").contains(&code), "{}", refused.text);
                refused.points_at("/name", "surrounding-space");
            }
        }
    }
    assert_eq!(lab.get("/v1/jobs").await.expect(200).json["items"], json!([]));
    for plain in ["nächtlich 7 🦦", "50% a/b", "日本 語"] {
        lab.post(&format!("{at}?wait=10s"), json!({"name": plain})).await.expect(200);
    }
}

/// A snapshot of the host can have a confusing name. It can be read, described and renamed.
#[tokio::test]
async fn a_confusing_name_of_the_host_is_usable() {
    let scenario = include_str!("../../config/lab.toml");
    let scenario = scenario.replacen("name = \"installed\"", "name = \" in\\u200bstalled\"", 1);
    let scenario = Scenario::from_toml(&scenario).unwrap();
    let lab = Lab::with_options(LabOptions { scenario, ..LabOptions::default() }).await;
    let list = lab.get("/v1/machines/16/snapshots").await.expect(200);
    let renamed_outside = &list.json["items"][0];
    assert_eq!(renamed_outside["name"], " in\u{200b}stalled");
    let by_name = format!("/v1/machines/16/snapshots/{}", encode(" in\u{200b}stalled"));
    assert_eq!(lab.get(&by_name).await.expect(200).json["id"], renamed_outside["id"]);
    let described = patch(&lab, &by_name, json!({"description": "why"})).await.expect(200);
    assert_eq!(described.str("name"), " in\u{200b}stalled");
    assert_eq!(
        patch(&lab, &by_name, json!({"name": "installed"})).await.expect(200).str("name"),
        "installed"
    );
}

#[tokio::test]
async fn a_snapshot_is_found_after_the_answer_was_lost() {
    let lab = Lab::start().await;
    lab.control().disrupt_next("CreateSnapshot_Task", Disruption::CloseAfterRunning);
    let job =
        lab.post("/v1/machines/16/snapshots?wait=10s", json!({"name": "new"})).await.expect(200);
    let id = job.json["result"]["snapshot"].as_str().unwrap();
    lab.get(&format!("/v1/machines/16/snapshots/{id}")).await.expect(200);
    assert_eq!(lab.control().calls("CreateSnapshot_Task"), 1);
    lab.control().disrupt_next("CreateSnapshot_Task", Disruption::CloseBeforeRunning);
    lab.post("/v1/machines/16/snapshots?wait=10s", json!({"name": "other"}))
        .await
        .problem(409, "outcome-unknown");
    assert_eq!(lab.control().calls("CreateSnapshot_Task"), 2);
}

#[tokio::test]
async fn a_guest_that_hangs_is_powered_off() {
    let lab = Lab::stepped().await;
    let name = "ci-runner-1";
    lab.control().mutate(|world| world.machine_mut("31").unwrap().guest.tools_running = true);
    lab.wait_for_field("31", "tools_status", json!("running")).await;
    let job = lab
        .post(&machine_path(name, "/power"), json!({"action": "shutdown", "force_after": "1s"}))
        .await;
    let job = job.expect(202).json;
    assert_eq!(job["request"]["force_after"], "1s");
    let task = lab.wait_for_machine_task("31").await;
    lab.control().finish_task(&task);
    let ended = lab.wait_for_end(&job).await;
    let steps: Vec<_> = ended["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (&step["name"], &step["state"]))
        .collect();
    let expected = [json!("shutdown"), json!("failed"), json!("power_off"), json!("succeeded")];
    assert_eq!(steps, [(&expected[0], &expected[1]), (&expected[2], &expected[3])]);
    assert_eq!(
        (&ended["state"], &ended["result"]["power_state"]),
        (&json!("succeeded"), &json!("off"))
    );
    assert_eq!(lab.control().calls("ShutdownGuest"), 1);
}

#[tokio::test]
async fn without_tools_the_machine_is_powered_off_at_once_or_unchanged() {
    let lab = Lab::start().await;
    // A Qubes machine has no VMware Tools.
    let name = "qubes-4.2-sdw-prod";
    let problem =
        act(&lab, name, json!({"action": "shutdown"})).await.problem(409, "tools-unavailable");
    assert_eq!(problem.json["fault"]["type"], "ToolsUnavailable");
    act(&lab, name, json!({"action": "reboot"})).await.problem(409, "tools-unavailable");
    let job = act(&lab, name, json!({"action": "shutdown", "force_after": "5m"})).await.expect(200);
    assert_eq!(job.json["steps"][0]["state"], "skipped");
    assert_eq!(job.json["result"]["power_state"], "off");
}

#[tokio::test]
async fn force_after_is_limited_to_its_action_and_the_deadline() {
    let lab = Lab::start().await;
    let path = machine_path("ci-runner-1", "/power");
    for (body, code) in [
        (json!({"action": "off", "force_after": "5s"}), "not-applicable"),
        (json!({"action": "shutdown", "force_after": "soon"}), "not-a-duration"),
    ] {
        lab.post(&path, body).await.problem(400, "invalid-request").points_at("/force_after", code);
    }
    let body = json!({"action": "shutdown", "force_after": "2m"});
    let refused =
        lab.post(&format!("{path}?deadline=1m"), body).await.problem(400, "invalid-request");
    refused.points_at("/force_after", "not-reached");
    assert_eq!(lab.control().calls("ShutdownGuest"), 0);
}

#[tokio::test]
async fn a_reboot_ends_when_the_tools_are_back() {
    let lab = Lab::start().await;
    tools(&lab, "ci-runner-1").await;
    let job = act(&lab, "ci-runner-1", json!({"action": "reboot"})).await.expect(200);
    assert_eq!((job.str("kind"), &job.json["result"]["changed"]), ("machine.reboot", &json!(true)));
    assert_eq!(lab.machine("ci-runner-1").await["tools_status"], "running");
    let path = machine_path("ci-runner-1", "/power?deadline=1s");
    lab.control().mutate(|world| {
        world.machine_mut("31").unwrap().guest.tools_after = std::time::Duration::from_hours(1);
    });
    let job = lab.post(&path, json!({"action": "reboot"})).await.expect(202).json;
    assert_eq!(lab.wait_for_end(&job).await["state"], "unknown");
    assert_eq!(lab.control().calls("RebootGuest"), 2);
}

fn question() -> Question {
    let choice = |key: &str, cancels: bool| Choice {
        key: key.to_owned(),
        label: format!("button.{key}"),
        summary: format!("Choice {key}"),
        fails_with: cancels.then(|| otter::simulator::Fault::new("VmConfigFault", "Cancelled.")),
    };
    Question {
        id: "19".to_owned(),
        message_id: "msg.uuid.altered".to_owned(),
        text: "Moved or copied?".to_owned(),
        choices: vec![choice("0", true), choice("4", false)],
        default_choice: Some(1),
    }
}

#[tokio::test]
async fn an_answer_runs_before_the_job_that_it_unblocks() {
    let lab = Lab::start().await;
    lab.control()
        .mutate(|world| world.machine_mut("32").unwrap().question_at_power_on = Some(question()));
    let starting = lab.start_power("ci-runner-2", "on").await;
    lab.get("/v1/machines/32/wait?until=question&wait=10s").await.expect(200);
    let path = "/v1/machines/32/answer?wait=10s";
    let wrong = lab
        .post(path, json!({"question": "19", "choice": "1"}))
        .await
        .problem(400, "invalid-request");
    wrong.points_at("/choice", "not-one-of");
    lab.post(path, json!({"question": "", "choice": "1"})).await.problem(400, "invalid-request");
    lab.post(path, json!({"question": "18", "choice": "4"})).await.problem(404, "not-found");
    let answer = lab.post(path, json!({"question": "19", "choice": "4"})).await.expect(200);
    assert_eq!(
        (answer.str("kind"), &answer.json["request"]["choice"]),
        ("machine.answer", &json!("4"))
    );
    assert_eq!(lab.machine("ci-runner-2").await["question"], json!(null));
    assert_eq!(lab.wait_for_end(&starting).await["state"], "succeeded");
    lab.post(path, json!({"question": "19", "choice": "4"})).await.problem(404, "not-found");
}

#[tokio::test]
async fn a_queued_job_is_cancelled_at_once_and_a_running_one_by_its_task() {
    let lab = Lab::stepped().await;
    let running = lab.start_power("ci-runner-2", "on").await;
    let queued = lab.start_power("ci-runner-2", "off").await;
    lab.wait_for_job_task(&running).await;
    let answer = cancel(&lab, &queued).await.expect(202);
    assert_eq!(
        (answer.str("state"), &answer.json["error"]["code"]),
        ("cancelled", &json!("job-cancelled"))
    );
    assert_eq!(cancel(&lab, &queued).await.expect(200).json, answer.json);
    let answer = cancel(&lab, &running).await.expect(202);
    assert!(answer.json["cancel_requested_at"].is_string());
    assert_eq!(lab.wait_for_end(&running).await["state"], "cancelled");
    assert_eq!(lab.machine("ci-runner-2").await["power_state"], "off");
    lab.post(&format!("/v1/jobs/{}/cancel", running["id"].as_str().unwrap()), json!({"why": 1}))
        .await
        .problem(400, "invalid-request");
}

#[tokio::test]
async fn a_task_that_outlives_its_job_blocks_the_machine() {
    let lab = Lab::stepped().await;
    let path = machine_path("qubes-4.2-sdw-staging", "/snapshots/installed?deadline=1s");
    let job = delete(&lab, &path).await.expect(202).json;
    let task = lab.wait_for_machine_task("16").await;
    let look = format!("/v1/jobs/{}/wait?wait=14s", job["id"].as_str().unwrap());
    lab.get(&look).await.problem(409, "outcome-unknown");
    let kept = lab.machine("qubes-4.2-sdw-staging").await;
    assert_eq!(kept["not_free_because"], json!(["host_task"]));
    lab.control().finish_task(&task);
    lab.get("/v1/machines/16/wait?until=free&wait=10s").await.expect(200);
}

/// govmomi's simulator has neither `RenameSnapshot` nor `AnswerVM`.
#[cfg(feature = "interop")]
#[tokio::test]
async fn an_operation_that_the_host_lacks_is_not_supported() {
    use crate::harness::HostKind;
    for kind in [HostKind::GovmomiEsx, HostKind::GovmomiVcenter] {
        let lab = Lab::on_host(kind).await;
        let name = lab.machines.with_snapshots;
        let path =
            machine_path(name, &format!("/snapshots/{}", encode(lab.machines.snapshot_path)));
        patch(&lab, &path, json!({"name": "other"})).await.problem(501, "not-supported");
    }
}
