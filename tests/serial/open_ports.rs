//! To which ports otter connects, and to which it does not.

use std::time::Duration;

use otter::clock::Clock;
use otter::domain::pool::{Pool, Pools, SerialAccess};
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpStream;

use super::*;
use crate::harness::LabOptions;

/// Longer than otter stays connected without a user.
const LINGER: Duration = Duration::from_secs(11);

/// All connections that the ports of all machines have had.
fn connections(lab: &Lab) -> u64 {
    let machines = lab
        .control()
        .look(|world| world.machines().map(|machine| machine.id.clone()).collect::<Vec<_>>());
    let ports = machines.iter().flat_map(|machine| lab.control().serial_ports(machine));
    // Files are no connections: the host writes them whether or not otter reads.
    ports.filter(|port| port.address.is_some()).map(|port| port.connections).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_machines_that_no_one_leases_or_reads_are_left_alone() {
    let clock = Clock::stepped(Clock::system().now());
    let lab = Lab::with_options(LabOptions { clock: clock.clone(), ..LabOptions::default() }).await;
    let shown = state(&lab, RUNNING, PORT).await;
    assert_eq!(shown["access"], "closed");
    assert!(shown["access_reason"].as_str().unwrap().contains("No one uses the port"), "{shown}");
    // A lease of another machine connects only to ports of that machine.
    let ask = json!({"select": {"machine": "32"}, "ttl": "1h"});
    lab.post("/v1/leases", ask).await.expect(201);
    clock.advance(LINGER);
    state(&lab, RUNNING, PORT).await;
    assert_eq!(connections(&lab), 0);
    open(&lab).await;
    assert_eq!(connections(&lab), 1, "one port is read");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ports_of_a_leased_machine_are_open_until_the_lease_ends() {
    let clock = Clock::stepped(Clock::system().now());
    let scenario = with_running_off();
    let options = LabOptions { clock: clock.clone(), scenario, ..LabOptions::default() };
    let lab = Lab::with_options(options).await;
    let ask = json!({"select": {"machine": RUNNING}, "ttl": "1h", "prepare": {"power": "on"}});
    let lease = lab.post("/v1/leases", ask).await.expect(201);
    eventually("the machine to be on", async || {
        clock.advance(Duration::from_secs(1));
        lab.get(&format!("/v1/leases/{}", lease.str("id"))).await.str("state") == "active"
    })
    .await;
    until_access(&lab, RUNNING, PORT, "open").await;
    // A pipe to a machine in which otter does not run.
    let pipe = state(&lab, RUNNING, "ttyS0").await;
    assert_eq!(pipe["access"], "unavailable", "{pipe}");
    let reason = pipe["access_reason"].as_str().unwrap();
    assert!(reason.contains("/tmp/qubes-prod-dom0"), "{reason}");
    output(&lab, b"kept for later");
    for _ in 0..10 {
        clock.advance(LINGER);
        assert_eq!(state(&lab, RUNNING, PORT).await["access"], "open");
    }
    until_read(&lab, b"kept for later").await;
    let end = lab.request(Method::DELETE, &format!("/v1/leases/{}", lease.str("id")));
    assert!(Answer::from_request(end).await.status < 300);
    eventually("the port to be closed", async || {
        clock.advance(LINGER);
        !on_host(&lab).is_connected
    })
    .await;
    assert_eq!(state(&lab, RUNNING, PORT).await["access"], "closed");
    assert_eq!(connections(&lab), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_can_keep_the_ports_of_its_machines_open() {
    let lab = Lab::with_settings(|settings| {
        let machines = vec![RUNNING.parse().unwrap()];
        let pool = Pool { machines, serial: SerialAccess::Always, ..Pool::default() };
        settings.pools = Pools([("always".to_owned(), pool)].into());
    })
    .await;
    eventually("otter to connect", async || on_host(&lab).is_connected).await;
    until_access(&lab, RUNNING, PORT, "open").await;
    assert_eq!(connections(&lab), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_another_client_has_is_unavailable_until_it_is_free() {
    let lab = Lab::start().await;
    let address = on_host(&lab).address.unwrap();
    let other = TcpStream::connect(address).await.unwrap();
    eventually("the host to see the client", async || on_host(&lab).is_connected).await;
    let _held = stream_client::StreamClient::open(&lab, &path(RUNNING, PORT, "stream"), &[]).await;
    until_access(&lab, RUNNING, PORT, "unavailable").await;
    let shown = state(&lab, RUNNING, PORT).await;
    let reason = shown["access_reason"].as_str().unwrap();
    assert!(reason.contains("takes one client"), "{reason}");
    drop(other);
    until_access(&lab, RUNNING, PORT, "open").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otter_connects_to_no_more_ports_than_it_may() {
    let lab = Lab::with_settings(|settings| settings.serial.max_open = 1).await;
    let stream = path(RUNNING, PORT, "stream");
    let _held = stream_client::StreamClient::open(&lab, &stream, &[]).await.unwrap();
    lab.get(&path(OFF, "ttyS0", "log")).await.problem(503, "too-many-consoles");
    lab.get(&path(RUNNING, PORT, "log")).await.expect(200);
}
