//! Only the holder of a leased machine can change it, and only during the lease.

use std::collections::BTreeMap;

use otter::simulator::FilesChange;
use otter::simulator::world::{Choice, FileContent, Question};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    STAGING, end_lease, granted_lease, lab, lease_header, lease_path, request_lease, with_lease,
};
use crate::harness::{Answer, Lab, eventually, machine_path};

/// Every call that changes the machine, in an order in which all of them succeed.
fn changes() -> Vec<(Method, String, Option<Value>)> {
    let on = |rest: &str| machine_path(STAGING, rest);
    let of = |name: &str, rest: &str| on(&format!("/snapshots/{name}{rest}"));
    vec![
        (Method::PUT, on("/boot?wait=20s"), Some(json!({"order": ["cdrom", "disk"]}))),
        (Method::PUT, on("/cdrom?wait=20s"), Some(json!({"iso": "[isos] iso/a.iso"}))),
        (Method::DELETE, on("/cdrom?wait=20s"), None),
        (Method::POST, on("/snapshots?wait=20s"), Some(json!({"name": "new"}))),
        (Method::PATCH, of("new", ""), Some(json!({"name": "newer"}))),
        (Method::POST, of("newer", "/revert?wait=20s"), Some(json!({}))),
        (Method::POST, on("/revert?wait=20s"), Some(json!({}))),
        (Method::DELETE, of("newer", "?wait=20s"), None),
        (Method::POST, on("/power?wait=20s"), Some(json!({"action": "on"}))),
        (Method::POST, on("/answer?wait=20s"), Some(json!({"question": "q-7", "choice": "1"}))),
        (Method::POST, "/v1/machines/kill?wait=20s".to_owned(), Some(json!({"name": STAGING}))),
        (Method::DELETE, on("/snapshots?all=true&wait=20s"), None),
        (Method::POST, on("/consolidate?wait=20s"), None),
    ]
}

/// The number of calls that change something, by method of the host.
fn host_changes(lab: &Lab) -> BTreeMap<String, u64> {
    let mut calls = lab.control().all_calls();
    calls.retain(|method, _| {
        method.ends_with("_Task")
            || ["AnswerVM", "RenameSnapshot", "ShutdownGuest"].contains(&&**method)
    });
    calls
}

async fn call(
    lab: &Lab,
    change: &(Method, String, Option<Value>),
    headers: &[(&str, &str)],
) -> Answer {
    let (method, path, body) = change;
    let mut request = lab.request(method.clone(), path);
    if let Some(body) = body {
        request = request.json(body);
    }
    Answer::from_request(
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)),
    )
    .await
}

fn question(lab: &Lab) {
    let choice = |key: &str| Choice {
        key: key.to_owned(),
        label: "button.ok".to_owned(),
        summary: "OK".to_owned(),
        fails_with: None,
    };
    let question = Question {
        id: "q-7".to_owned(),
        message_id: "msg.test".to_owned(),
        text: "Go on?".to_owned(),
        choices: vec![choice("1")],
        default_choice: Some(0),
    };
    lab.control().mutate(|world| world.ask("16", question));
}

#[tokio::test]
async fn every_change_of_a_leased_machine_needs_its_lease() {
    let lab = lab().await;
    let content = FileContent::of(b"an image");
    lab.control().change_files(FilesChange::Put { path: "[isos] iso/a.iso".to_owned(), content });
    // Otherwise there is nothing to consolidate.
    lab.control().mutate(|world| world.rules.removals_leave_disks = true);
    let body = json!({"select": {"name": STAGING}, "ttl": "30m", "holder": "nightly 7"});
    let lease = granted_lease(&lab, body).await;
    let foreign =
        lease_header(&granted_lease(&lab, json!({"select": {"pool": "qubes"}, "ttl": "5m"})).await);
    let wrong = format!("{}.{}", lease["id"].as_str().unwrap(), "0".repeat(64));
    let mine = lease_header(&lease);
    let expires = lease["expires_at"].as_str().unwrap();
    for change in changes() {
        let asks = change.1.contains("/answer");
        if asks {
            question(&lab);
            lab.wait_for_field("16", "free", json!(false)).await;
            lab.wait_until("/v1/machines/16", |machine| !machine["question"].is_null()).await;
        }
        let before = host_changes(&lab);
        let refused = call(&lab, &change, &[]).await.problem(423, "machine-leased");
        assert_eq!(
            (&refused.json["lease"], refused.str("retry")),
            (&lease["id"], "no"),
            "{}",
            refused.text
        );
        let detail = refused.str("detail");
        assert!(detail.contains("nightly 7") && detail.contains(expires), "{detail}");
        for header in [&foreign, &wrong] {
            call(&lab, &change, &[("otter-lease", header)]).await.problem(423, "machine-leased");
        }
        assert_eq!(host_changes(&lab), before, "{change:?}");
        let done = call(&lab, &change, &[("otter-lease", &mine)]).await.expect(200);
        assert_eq!(done.header("otter-lease-expires"), Some(expires));
        assert_ne!(host_changes(&lab), before, "{change:?}");
    }
    end_lease(&lab, &lease).await;
}

#[tokio::test]
async fn a_call_with_an_ended_lease_is_rejected_also_if_another_lease_holds_the_machine() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    end_lease(&lab, &lease).await;
    for other_holds in [false, true] {
        if other_holds {
            granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
        }
        let before = host_changes(&lab);
        for change in changes().into_iter().filter(|change| !change.1.contains("new")) {
            let late = [("otter-lease", &*lease_header(&lease))];
            let late = call(&lab, &change, &late).await;
            // The machine has no question, so a call that answers one may fail with 409.
            if !(change.1.contains("/answer") && late.status == 409) {
                let late = late.problem(423, "lease-ended");
                assert_eq!(late.json["lease"], lease["id"]);
                assert_eq!(late.header("otter-lease-expires"), None);
            }
        }
        assert_eq!(host_changes(&lab), before);
    }
}

#[tokio::test]
async fn an_override_is_recorded_once_and_only_if_its_job_was_accepted() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let on =
        (Method::POST, machine_path(STAGING, "/power?wait=20s"), Some(json!({"action": "on"})));
    let nonsense = (Method::POST, machine_path(STAGING, "/power"), Some(json!({"action": "fly"})));
    for (change, headers) in [
        (&nonsense, vec![("otter-override", "because")]),
        (&on, vec![("otter-override", "")]),
        (&on, vec![("otter-override", "  ")]),
        (&on, vec![("otter-override", "a"), ("otter-override", "b")]),
    ] {
        call(&lab, change, &headers).await.problem(400, "invalid-request");
    }
    let long = "x".repeat(513);
    call(&lab, &on, &[("otter-override", &long)]).await.problem(400, "invalid-request");
    assert_eq!(lab.get(&lease_path(&lease, "")).await.json["warnings"], json!([]));
    let over = [("otter-override", "the lab burns"), ("idempotency-key", "k")];
    let job = call(&lab, &on, &over).await.expect(200).json;
    assert_eq!((&job["requested_by"], &job["lease"]), (&json!("anonymous"), &Value::Null));
    assert_eq!(call(&lab, &on, &over).await.expect(200).json["id"], job["id"]);
    let warned = lab.get(&lease_path(&lease, "")).await.expect(200).json;
    assert_eq!(warned["warnings"].as_array().unwrap().len(), 1, "{warned}");
    let warning = warned["warnings"][0].as_str().unwrap();
    assert!(warning.contains("anonymous") && warning.contains("the lab burns"), "{warning}");
    let last = warned["history"].as_array().unwrap().last().unwrap();
    assert!(last["what"].as_str().unwrap().contains("the lab burns"), "{warned}");
    assert_eq!(warned["state"], "active");
    // If a call has both headers, the lease has priority over the override.
    let both = [("otter-override", "or not"), ("otter-lease", &*lease_header(&lease))];
    assert_eq!(call(&lab, &on, &both).await.expect(200).json["lease"], lease["id"]);
    assert_eq!(
        lab.get(&lease_path(&lease, "")).await.json["warnings"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn every_response_to_a_call_with_a_lease_has_its_expiry() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    let header = lease_header(&lease);
    let power = machine_path(STAGING, "/power");
    for (method, path, body, status) in [
        (Method::GET, machine_path(STAGING, ""), None, 200),
        (Method::GET, "/v1/machines".to_owned(), None, 200),
        (Method::GET, lease_path(&lease, ""), None, 200),
        (Method::GET, lease_path(&lease, "/wait?wait=1s"), None, 200),
        (Method::GET, machine_path(STAGING, "/properties?path=name"), None, 200),
        (Method::GET, "/v1/machines/none".to_owned(), None, 404),
        (Method::GET, "/v1/nowhere".to_owned(), None, 404),
        (Method::DELETE, "/v1/machines".to_owned(), None, 405),
        (Method::GET, "/metrics".to_owned(), None, 200),
        (Method::POST, power.clone(), None, 400),
        (Method::GET, "/v1/jobs?state=x".to_owned(), None, 400),
        (Method::POST, power.clone(), Some(json!({"action": "fly"})), 400),
        (Method::POST, power.clone(), Some(json!({"action": "off"})), 202),
        (
            Method::POST,
            machine_path("ci-runner-1", "/revert"),
            Some(json!({"snapshot": "none"})),
            404,
        ),
        (Method::POST, lease_path(&lease, "/renew"), Some(json!({"ttl": "0s"})), 400),
    ] {
        let answer = with_lease(&lab, method, &path, &header, body).await.expect(status);
        assert_eq!(answer.header("otter-lease-expires"), lease["expires_at"].as_str(), "{path}");
    }
    // A read with an invalid lease header succeeds.
    let read = with_lease(&lab, Method::GET, &machine_path(STAGING, ""), "nonsense", None)
        .await
        .expect(200);
    assert_eq!(read.header("otter-lease-expires"), None);
}

#[tokio::test]
async fn a_rename_and_a_power_change_on_the_host_do_not_end_the_lease() {
    let lab = lab().await;
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m"})).await;
    lab.control().mutate(|world| {
        let machine = world.machine_mut("16").unwrap();
        machine.name = "renamed".to_owned();
        machine.power = otter::simulator::world::PowerState::On;
    });
    lab.wait_until("/v1/machines/16", |machine| machine["name"] == "renamed").await;
    let seen = lab.get("/v1/machines/16").await.json;
    assert_eq!((&seen["lease"]["id"], &seen["power_state"]), (&lease["id"], &json!("on")));
    assert_eq!(lab.get(&lease_path(&lease, "")).await.json["state"], "active");
    let off = machine_path("renamed", "/power?wait=20s");
    lab.post(&off, json!({"action": "off"})).await.problem(423, "machine-leased");
    assert_eq!(end_lease(&lab, &lease).await["state"], "released");
    let free = lab.get("/v1/machines/16").await.json;
    assert_eq!((&free["power_state"], &free["free"]), (&json!("off"), &json!(true)));
}

#[tokio::test]
async fn a_revoke_ends_the_waits_for_the_lease_at_once() {
    let lab = Lab::stepped().await;
    let prepare = json!({"snapshot": "installed", "power": "on"});
    let preparing =
        granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "30m", "prepare": prepare}))
            .await;
    let queued = json!({"select": {"name": STAGING}, "ttl": "30m", "queue_for": "10m"});
    let queued = request_lease(&lab, queued).await.expect(202).json;
    // The queued lease ends first. Otherwise it would be granted the machine of the other lease.
    for lease in [&queued, &preparing] {
        let waiting = tokio::spawn(Answer::from_request(
            lab.request(Method::GET, &lease_path(lease, "/wait?wait=14s")),
        ));
        lab.get(&lease_path(lease, "/wait?wait=0s")).await.problem(504, "wait-timeout");
        let revoke = lab.request(Method::DELETE, &lease_path(lease, "?reason=mine"));
        let revoked = Answer::from_request(revoke).await.expect(200).json;
        assert_eq!(
            (&revoked["end"]["reason"], &revoked["end"]["detail"]),
            (&json!("revoked"), &json!("mine"))
        );
        // The release begins after the task of the preparation has ended.
        let stepping = async {
            eventually("the lease to end", async || {
                lab.control().step_tasks();
                lab.get(&lease_path(lease, "")).await.json["state"] == "revoked"
            })
            .await;
        };
        stepping.await;
        let problem = waiting.await.unwrap().problem(409, "lease-failed");
        assert!(problem.str("detail").contains("revoked"), "{}", problem.text);
    }
    assert_eq!(lab.machine(STAGING).await["free"], true);
    let calls = lab.control().calls("PowerOnVM_Task");
    assert_eq!(calls, 0, "a cancelled preparation makes no further call");
}
