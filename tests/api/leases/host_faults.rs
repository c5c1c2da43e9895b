//! Faults of the host, the account and the licence; quarantines that otter clears by itself;
//! suspended machines and questions at the end of a lease.

use std::time::Duration;

use otter::app::Settings;
use otter::domain::pool::{Pool, Pools};
use otter::simulator::world::{PowerState, Question};
use otter::simulator::{Fault, HostChange};
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    STAGING, end_lease, granted_lease, lab, lease_header, lease_path, request_lease, with_lease,
    with_pools,
};
use crate::harness::{Answer, Lab, machine_path};

const MACHINES: [&str; 3] = [STAGING, "qubes-4.3-nightly", "qubes-third"];

/// Short pauses, so that a test sees many attempts.
fn hasty(settings: &mut Settings) {
    let qubes = Pool { machines: vec!["qubes-*".parse().unwrap()], ..Pool::default() };
    settings.pools = Pools([("qubes".to_owned(), qubes)].into());
    settings.leases.fault_pause = Duration::from_millis(50);
    settings.leases.max_fault_pause = Duration::from_millis(200);
}

/// A lab with three machines in the pool `qubes`.
async fn hasty_lab() -> Lab {
    let lab = Lab::with_settings(hasty).await;
    lab.control().mutate(|world| {
        let mut third = world.machine("18").unwrap().clone();
        (third.id, third.name) = ("118".to_owned(), MACHINES[2].to_owned());
        third.instance_uuid = "52000000-0000-0000-0000-000000000118".to_owned();
        third.path = "[datastore1] qubes-third/qubes-third.vmx".to_owned();
        world.add_machine(third);
    });
    lab.wait_until("/v1/machines/118", |machine| machine["free"] == true).await;
    lab
}

fn no_memory() -> Fault {
    Fault::new("InsufficientResourcesFault", "The host has not enough memory.")
}

async fn pool(lab: &Lab) -> Value {
    let pools = lab.get("/v1/pools").await.expect(200).json;
    pools["items"].as_array().unwrap().iter().find(|pool| pool["name"] == "qubes").unwrap().clone()
}

async fn require_no_quarantine(lab: &Lab) {
    for name in MACHINES {
        assert_eq!(lab.machine(name).await["quarantine"], Value::Null, "{name}");
    }
}

fn is_held(pools: &Value) -> bool {
    pools["items"].as_array().unwrap().iter().any(|pool| !pool["held"].is_null())
}

fn on_request(queue_for: Option<&str>) -> Value {
    let mut body = json!({"select": {"pool": "qubes"}, "ttl": "5m", "prepare": {"power": "on"}});
    if let Some(queue_for) = queue_for {
        body["queue_for"] = json!(queue_for);
    }
    body
}

#[tokio::test]
async fn a_host_without_resources_holds_a_pool_and_quarantines_no_machine() {
    let lab = hasty_lab().await;
    lab.control().fail_tasks("PowerOnVM_Task", Some(no_memory()));
    let first = granted_lease(&lab, on_request(Some("10m"))).await;
    lab.wait_until("/v1/pools", is_held).await;
    let held = pool(&lab).await["held"].clone();
    assert_eq!(held["code"], "insufficient-resources");
    assert!(held["detail"].as_str().unwrap().contains("not enough memory"), "{held}");
    assert!(held["since"].as_str() < held["retry_at"].as_str(), "{held}");
    let second = request_lease(&lab, on_request(Some("10m"))).await;
    assert!(matches!(second.status, 201 | 202), "{}", second.text);
    // Every machine is tried several times.
    let called = lab.control().calls("PowerOnVM_Task");
    lab.control().until_called("PowerOnVM_Task", called + 12).await;
    require_no_quarantine(&lab).await;
    let waiting = lab.get(&lease_path(&first, "")).await.expect(200).json;
    assert!(matches!(waiting["state"].as_str().unwrap(), "queued" | "preparing"), "{waiting}");

    lab.control().fail_tasks("PowerOnVM_Task", None);
    for lease in [&first, &second.json] {
        let active = lab.get(&lease_path(lease, "/wait?wait=20s")).await.expect(200).json;
        assert_eq!(active["state"], "active");
    }
    assert_eq!(pool(&lab).await["held"], Value::Null);
    require_no_quarantine(&lab).await;
    for lease in [&first, &second.json] {
        assert_eq!(end_lease(&lab, lease).await["state"], "released");
    }
    for name in MACHINES {
        lab.wait_until(&machine_path(name, ""), |machine| machine["free"] == true).await;
    }
}

#[tokio::test]
async fn a_lease_that_may_not_wait_fails_with_the_fault_and_frees_its_machine() {
    for (fault, code) in [
        (no_memory(), "insufficient-resources"),
        (Fault::new("NoDiskSpace", "Full."), "host-rejected"),
        (
            Fault::new("CannotAccessFile", "The swap file cannot be opened.")
                .caused_by(&Fault::new("NoDiskSpace", "Full.")),
            "host-rejected",
        ),
        (Fault::new("NotEnoughLicenses", "None left."), "host-rejected"),
        (Fault::new("InvalidHostState", "Maintenance."), "host-rejected"),
    ] {
        let lab = hasty_lab().await;
        lab.control().fail_tasks("PowerOnVM_Task", Some(fault.clone()));
        let lease = granted_lease(&lab, on_request(None)).await;
        let failed =
            lab.get(&lease_path(&lease, "/wait?wait=20s")).await.problem(409, "lease-failed");
        assert_eq!(failed.json["fault"]["type"], fault.type_name);
        assert_eq!(failed.json["errors"][0]["code"], code, "{}", failed.text);
        lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "failed").await;
        let ended = lab.get(&lease_path(&lease, "")).await.expect(200).json;
        assert_eq!(ended["end"]["reason"], "prepare-failed");
        lab.wait_until(&machine_path(STAGING, ""), |machine| machine["free"] == true).await;
        require_no_quarantine(&lab).await;
    }
}

#[tokio::test]
async fn a_lease_whose_queue_time_ends_meanwhile_fails_with_the_fault() {
    let lab = hasty_lab().await;
    lab.control().fail_tasks("PowerOnVM_Task", Some(no_memory()));
    let lease = granted_lease(&lab, on_request(Some("1s"))).await;
    let failed = lab.get(&lease_path(&lease, "/wait?wait=20s")).await.problem(409, "lease-failed");
    assert!(failed.str("detail").contains("not enough memory"), "{}", failed.text);
    assert_eq!(failed.json["fault"]["type"], "InsufficientResourcesFault");
    let ended = lab.get(&lease_path(&lease, "")).await.expect(200).json;
    assert_eq!(ended["end"]["reason"], "prepare-failed");
    require_no_quarantine(&lab).await;
}

#[tokio::test]
async fn releases_wait_for_the_end_of_a_fault_of_the_host_the_account_or_the_licence() {
    let lab = hasty_lab().await;
    let full = || HostChange::FailTasks("PowerOffVM_Task", Some(no_memory()));
    for (fault, end_of_fault) in [
        (full(), HostChange::FailTasks("PowerOffVM_Task", None)),
        (HostChange::ReadOnlyLicence(true), HostChange::ReadOnlyLicence(false)),
        (HostChange::ReadOnlyAccount(true), HostChange::ReadOnlyAccount(false)),
    ] {
        let select = json!({"machine": format!("name:{STAGING}")});
        let body = json!({"select": select, "ttl": "5m", "prepare": {"power": "on"}});
        let lease = granted_lease(&lab, body).await;
        lab.get(&lease_path(&lease, "/wait?wait=20s")).await.expect(200);
        lab.control().apply(fault);
        let called = lab.control().calls("PowerOffVM_Task");
        let path = lease_path(&lease, "");
        with_lease(&lab, Method::DELETE, &path, &lease_header(&lease), None).await.expect(200);
        lab.control().until_called("PowerOffVM_Task", called + 4).await;
        let releasing = lab.get(&path).await.expect(200).json;
        assert_eq!(releasing["state"], "releasing");
        assert_eq!(lab.machine(STAGING).await["quarantine"], Value::Null);
        lab.control().apply(end_of_fault);
        lab.wait_until(&path, |lease| lease["state"] == "released").await;
        assert_eq!(lab.machine(STAGING).await["free"], true);
    }
}

#[tokio::test]
async fn an_operator_ends_such_a_release_by_a_quarantine() {
    let lab = hasty_lab().await;
    let lease = granted_lease(&lab, on_request(None)).await;
    lab.get(&lease_path(&lease, "/wait?wait=20s")).await.expect(200);
    lab.control().fail_tasks("PowerOffVM_Task", Some(no_memory()));
    let path = lease_path(&lease, "");
    with_lease(&lab, Method::DELETE, &path, &lease_header(&lease), None).await.expect(200);
    lab.wait_until(&path, |lease| lease["history"].to_string().contains("tried again")).await;
    let machine = lab.get(&path).await.json["machine_name"].as_str().unwrap().to_owned();
    let put = lab.request(Method::PUT, &machine_path(&machine, "/quarantine"));
    Answer::from_request(put.json(&json!({"reason": "mine"}))).await.expect(200);
    lab.wait_until(&path, |lease| lease["state"] == "released").await;
    let ended = lab.get(&path).await.json;
    assert!(ended["warnings"].to_string().contains("An operator quarantined"), "{ended}");
    let seen = lab.machine(&machine).await;
    assert_eq!(seen["quarantine"]["automatic"], false);
}

#[tokio::test]
async fn a_host_in_maintenance_mode_quarantines_no_machine() {
    let lab = hasty_lab().await;
    lab.control().set_maintenance_mode(true);
    let lease = granted_lease(&lab, on_request(Some("10m"))).await;
    lab.wait_until("/v1/pools", is_held).await;
    require_no_quarantine(&lab).await;
    lab.control().set_maintenance_mode(false);
    lab.get(&lease_path(&lease, "/wait?wait=20s")).await.expect(200);
}

#[tokio::test]
async fn a_machine_that_otter_quarantined_is_released_again_and_is_free() {
    let lab = Lab::with_settings(|settings: &mut Settings| {
        with_pools(settings);
        settings.leases.quarantine_retry = Duration::from_millis(300);
    })
    .await;
    lab.control().fail_tasks("PowerOnVM_Task", Some(Fault::new("FileLocked", "Locked.")));
    let body = json!({"select": {"name": STAGING}, "ttl": "5m", "prepare": {"power": "on"}});
    let lease = granted_lease(&lab, body).await;
    lab.get(&lease_path(&lease, "/wait?wait=20s")).await.problem(409, "lease-failed");
    lab.wait_until(&machine_path(STAGING, ""), |machine| machine["free"] == true).await;
    let audit = lab.get("/v1/audit?action=machine.quarantine_cleared").await.expect(200).json;
    assert_eq!(audit["items"][0]["actor"], "otter", "{audit}");
    // A quarantine that a person set stays.
    let put = lab.request(Method::PUT, &machine_path(STAGING, "/quarantine"));
    Answer::from_request(put.json(&json!({"reason": "mine"}))).await.expect(200);
    let other = json!({"select": {"name": "qubes-4.3"}, "ttl": "5m", "prepare": {"power": "on"}});
    let lease = granted_lease(&lab, other).await;
    lab.get(&lease_path(&lease, "/wait?wait=20s")).await.problem(409, "lease-failed");
    lab.wait_until(&machine_path(MACHINES[1], ""), |machine| machine["free"] == true).await;
    assert_eq!(lab.machine(STAGING).await["not_free_because"], json!(["quarantined"]));
}

#[tokio::test]
async fn the_quarantines_that_otter_set_in_a_pool_are_cleared_together() {
    let lab = hasty_lab().await;
    lab.control().fail_tasks("PowerOnVM_Task", Some(Fault::new("FileLocked", "Locked.")));
    for name in &MACHINES[..2] {
        let select = json!({"machine": format!("name:{name}")});
        let body = json!({"select": select, "ttl": "5m", "prepare": {"power": "on"}});
        let lease = granted_lease(&lab, body).await;
        lab.wait_until(&lease_path(&lease, ""), |lease| lease["state"] == "failed").await;
    }
    let put = lab.request(Method::PUT, &machine_path(MACHINES[2], "/quarantine"));
    Answer::from_request(put.json(&json!({"reason": "mine"}))).await.expect(200);
    assert_eq!(pool(&lab).await["quarantined_count"], 3);
    let delete = async |pool: &str| {
        let path = format!("/v1/pools/{pool}/quarantine");
        Answer::from_request(lab.request(Method::DELETE, &path)).await
    };
    let unknown = delete("qube").await.problem(404, "not-found");
    assert!(unknown.str("detail").contains("did you mean qubes?"), "{}", unknown.text);
    let cleared = delete("qubes").await.expect(200);
    assert_eq!(cleared.items("name"), [MACHINES[0], MACHINES[1]]);
    assert!(cleared.json["items"][0]["quarantine"].is_null(), "{}", cleared.text);
    assert_eq!(pool(&lab).await["quarantined_count"], 1);
    assert_eq!(delete("qubes").await.expect(200).json["items"], json!([]));
    lab.annotate("22", "otter.pool: lab/one");
    lab.wait_until("/v1/machines/22", |machine| machine["pools"] == json!(["lab/one", "qubes"]))
        .await;
    for (path, status) in [("lab%2Fone", 200), ("lab%252Fone", 200), ("lab%25252Fone", 404)] {
        assert_eq!(delete(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_suspended_machine_is_released_and_killed_by_a_power_cycle() {
    let lab = lab().await;
    let suspend = || {
        lab.control().mutate(|world| {
            world.machine_mut("16").unwrap().power = PowerState::Suspended;
        });
    };
    let lease = granted_lease(&lab, json!({"select": {"name": STAGING}, "ttl": "5m"})).await;
    suspend();
    lab.wait_for_field("16", "power_state", json!("suspended")).await;
    let ended = end_lease(&lab, &lease).await;
    assert_eq!((&ended["state"], &ended["warnings"]), (&json!("released"), &json!([])));
    assert_eq!(lab.machine(STAGING).await["free"], true);

    suspend();
    lab.wait_for_field("16", "power_state", json!("suspended")).await;
    let kill = lab.post("/v1/machines/kill?wait=20s", json!({"name": STAGING})).await.expect(200);
    let steps: Vec<&str> = kill.json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["power_on", "power_off"]);
    assert_eq!(lab.machine(STAGING).await["power_state"], "off");

    // If the release names a snapshot, the revert sets the power state.
    let release = json!({"snapshot": "installed/updated/kickstart"});
    let body = json!({"select": {"name": STAGING}, "ttl": "5m", "release": release});
    let lease = granted_lease(&lab, body).await;
    suspend();
    lab.wait_for_field("16", "power_state", json!("suspended")).await;
    let powered_on = lab.control().calls("PowerOnVM_Task");
    end_lease(&lab, &lease).await;
    assert_eq!(lab.machine(STAGING).await["free"], true);
    assert_eq!(lab.control().calls("PowerOnVM_Task"), powered_on);
}

#[tokio::test]
async fn a_release_does_not_wait_for_an_answer() {
    let lab = lab().await;
    for release in [json!({}), json!({"snapshot": "installed/updated/kickstart"})] {
        let body = json!({"select": {"name": STAGING}, "ttl": "5m", "release": release});
        let lease = granted_lease(&lab, body).await;
        let on = machine_path(STAGING, "/power?wait=20s");
        let action = Some(json!({"action": "on"}));
        with_lease(&lab, Method::POST, &on, &lease_header(&lease), action).await.expect(200);
        let question = Question {
            id: "7".to_owned(),
            message_id: "msg.hbacommon.outofspace".to_owned(),
            text: "There is no more space for virtual disk.".to_owned(),
            choices: Vec::new(),
            default_choice: None,
        };
        lab.control().mutate(|world| world.ask("16", question));
        lab.wait_until("/v1/machines/16", |machine| !machine["question"].is_null()).await;
        let ended = end_lease(&lab, &lease).await;
        assert_eq!((&ended["state"], &ended["warnings"]), (&json!("released"), &json!([])));
        assert_eq!(lab.machine(STAGING).await["free"], true);
    }
}
