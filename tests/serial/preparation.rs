//! Leases that wait for the output of a serial port.

use serde_json::{Value, json};

use super::*;
use crate::harness::pause;

/// A machine that is off, and listens without telnet.
const MACHINE: &str = "21";

async fn take(lab: &Lab, prepare: Value) -> String {
    let ask = json!({"select": {"machine": MACHINE}, "ttl": "1h", "prepare": prepare});
    let lease = lab.post("/v1/leases", ask).await;
    assert!(matches!(lease.status, 201 | 202), "{}", lease.text);
    lease.str("id").to_owned()
}

/// The state and the detail of the step of the preparation that waits for the port.
async fn serial_step(lab: &Lab, lease: &str) -> (String, String) {
    let jobs =
        lab.get(&format!("/v1/jobs?lease={lease}&kind=lease.prepare")).await.expect(200).json;
    let steps = jobs["items"].as_array().unwrap().iter().flat_map(|job| {
        job["steps"].as_array().unwrap().iter().filter(|step| step["name"] == "wait_serial")
    });
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let steps: Vec<_> = steps.map(|step| (text(&step["state"]), text(&step["detail"]))).collect();
    steps.into_iter().next_back().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_active_once_the_port_has_output_the_text() {
    let lab = Lab::start().await;
    let id = take(&lab, json!({"power": "on", "until": "serial:dom0 login: "})).await;
    let active = lab.get(&format!("/v1/leases/{id}/wait?wait=30s")).await.expect(200);
    assert_eq!(active.str("state"), "active");
    let log = lab.get(&path(MACHINE, "ttyS0", "log")).await.expect(200).text;
    assert!(log.contains(LOGIN), "{log}");
    let (state, detail) = serial_step(&lab, &id).await;
    assert!(state == "succeeded" && detail.contains("dom0 login: "), "{state} {detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_from_before_the_last_step_of_the_preparation_does_not_count() {
    let lab = Lab::start().await;
    let power = format!("/v1/machines/{MACHINE}/power?wait=30s");
    lab.post(&power, json!({"action": "on"})).await.expect(200);
    let stream = path(MACHINE, "ttyS0", "stream?mode=drive");
    let mut terminal = stream_client::StreamClient::open(&lab, &stream, &[]).await.unwrap();
    until_access(&lab, MACHINE, "ttyS0", "open").await;
    let write = |text: &str| {
        let change = PortChange::Write(text.as_bytes().to_vec());
        lab.control().change_serial_port(MACHINE, "ttyS0", change);
    };
    eventually("the port to be open", async || {
        write("an old marker");
        state(&lab, MACHINE, "ttyS0").await["next_offset"].as_u64().unwrap() > 0
    })
    .await;
    terminal.until("an old marker").await;
    lab.post(&power, json!({"action": "off"})).await.expect(200);
    let prepare = json!({"snapshot": "kickstart", "power": "on", "until": "serial:marker"});
    let id = take(&lab, prepare).await;
    let lease = format!("/v1/leases/{id}");
    eventually("the wait for the text", async || serial_step(&lab, &id).await.0 == "running").await;
    for _ in 0..20 {
        pause().await;
        assert_eq!(lab.get(&lease).await.expect(200).str("state"), "preparing");
    }
    let become_active = async || {
        write("a new marker");
        lab.get(&lease).await.expect(200).str("state") == "active"
    };
    eventually("the lease to be active", become_active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_preparation_names_the_condition_and_the_last_output() {
    let lab = Lab::with_settings(|settings| {
        settings.jobs.deadlines.prepare = std::time::Duration::from_secs(7);
    })
    .await;
    let id = take(&lab, json!({"power": "on", "until": "serial:Kernel panic"})).await;
    let failed = lab.get(&format!("/v1/leases/{id}/wait?wait=13s")).await;
    assert_eq!(failed.status, 409, "{}", failed.text);
    let (state, detail) = serial_step(&lab, &id).await;
    assert_eq!(state, "failed");
    assert!(detail.contains("Kernel panic") && detail.contains("login"), "{detail}");
}
