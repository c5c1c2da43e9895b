//! The address of a leased machine: which one a preparation waits for, and which one readers see.

use otter::app::Settings;
use otter::domain::lease::{Prepare, Readiness};
use otter::domain::pool::{Pool, Pools};
use otter::domain::power::PowerState;
use otter::simulator::Scenario;
use reqwest::Method;
use serde_json::{Value, json};

use super::{end_lease, granted_lease, lease_header, lease_path, with_lease};
use crate::harness::{Lab, LabOptions};

/// A lab in which machine 32 has an address in each of two networks. The second one is known as
/// soon as its tools run.
async fn lab(settings: fn(&mut Settings)) -> Lab {
    let mut scenario = Scenario::lab().unwrap();
    let machine = scenario.machines.iter_mut().find(|machine| machine.id == "32").unwrap();
    machine.guest.more_addresses.push("192.168.50.32".to_owned());
    Lab::with_options(LabOptions { scenario, settings, ..LabOptions::default() }).await
}

async fn active(lab: &Lab, lease: &Value) -> Value {
    lab.get(&lease_path(lease, "/wait?wait=15s")).await.expect(200).json
}

/// The job that prepared the machine of a lease.
async fn preparation(lab: &Lab, lease: &Value) -> Value {
    lab.get(&format!("/v1/jobs/{}", lease["job"].as_str().unwrap())).await.expect(200).json
}

#[tokio::test]
async fn a_preparation_waits_for_an_address_that_counts() {
    // Until its address arrives, the tools of machine 32 report link-local ones.
    let lab = Lab::start().await;
    let prepare = json!({"power": "on", "until": "ip"});
    let body = json!({"select": {"machine": "32"}, "ttl": "5m", "prepare": prepare});
    let lease = active(&lab, &granted_lease(&lab, body).await).await;
    assert_eq!(lease["prepare"]["cidr"], Value::Null);
    let job = preparation(&lab, &lease).await;
    assert_eq!(job["result"]["ip_address"], "10.0.0.32");
}

#[tokio::test]
async fn a_lease_with_a_network_sees_only_addresses_inside_it() {
    let lab = lab(|_| {}).await;
    let prepare = json!({"power": "on", "until": "ip", "cidr": "192.168.50.0/24"});
    let body = json!({"select": {"machine": "32"}, "ttl": "5m", "prepare": prepare});
    let granted = granted_lease(&lab, body).await;
    let lease = active(&lab, &granted).await;
    assert_eq!(lease["prepare"]["cidr"], "192.168.50.0/24");
    let job = preparation(&lab, &lease).await;
    assert_eq!(
        (&job["request"]["cidr"], &job["result"]["ip_address"]),
        (&json!("192.168.50.0/24"), &json!("192.168.50.32"))
    );
    lab.wait_for_field("32", "ip_addresses", json!(["10.0.0.32", "192.168.50.32"])).await;
    assert_eq!(lab.machine("ci-runner-2").await["ip_address"], "192.168.50.32");
    let waited = lab.get("/v1/machines/32/wait?until=ip&wait=0").await.expect(200);
    assert_eq!(waited.str("ip_address"), "192.168.50.32");
    // Every job on the machine shows the same address.
    let (on, action) = ("/v1/machines/32/power?wait=15s", json!({"action": "on"}));
    let job = with_lease(&lab, Method::POST, on, &lease_header(&granted), Some(action)).await;
    let job = job.expect(200);
    assert_eq!(job.json["result"]["ip_address"], "192.168.50.32");
    // The address inside the network is removed, and the other address stays.
    lab.control().mutate(|world| {
        world.machine_mut("32").unwrap().guest.more_addresses.clear();
    });
    lab.wait_for_field("32", "ip_addresses", json!(["10.0.0.32"])).await;
    assert_eq!(lab.machine("ci-runner-2").await["ip_address"], Value::Null);
    lab.get("/v1/machines/32/wait?until=ip&wait=0").await.problem(504, "wait-timeout");
    lab.get("/v1/machines/32/wait?until=ip&cidr=10.0.0.0/8&wait=0").await.expect(200);
    let ended = end_lease(&lab, &granted).await;
    assert_eq!(ended["state"], "released");
}

#[tokio::test]
async fn a_pool_names_the_network_of_its_leases() {
    let lab = lab(|settings| {
        let prepare = Prepare {
            power: Some(PowerState::On),
            until: Some(Readiness::Address),
            cidr: Some("192.168.0.0/16".parse().unwrap()),
            ..Prepare::default()
        };
        let pool = Pool {
            machines: vec!["ci-runner-2".parse().unwrap()],
            prepare: Some(prepare),
            ..Pool::default()
        };
        settings.pools = Pools([("runners".to_owned(), pool)].into());
    })
    .await;
    let body = json!({"select": {"pool": "runners"}, "ttl": "5m"});
    let lease = active(&lab, &granted_lease(&lab, body).await).await;
    assert_eq!(lease["prepare"]["cidr"], "192.168.0.0/16");
    assert_eq!(lab.machine("ci-runner-2").await["ip_address"], "192.168.50.32");
}
