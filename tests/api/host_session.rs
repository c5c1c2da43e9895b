//! The session with the host, as callers of the API see it.

use otter::clock::Clock;
use otter::simulator::{Disruption, DownMode, Fault, HostdRestart};
use reqwest::Method;

use crate::harness::{Lab, LabOptions, eventually};

#[tokio::test]
async fn a_host_that_accepts_no_login_for_a_moment_is_unreachable_and_not_refusing() {
    let lab = Lab::start().await;
    let fault = Fault::new("ResourceInUse", "The resource is in use.");
    let planned = lab.control().disrupt("Login", 0, Some(4), Disruption::Fault(fault));
    lab.control().expire_sessions();
    eventually("the outage to be reported", async || {
        let readiness = lab.get("/readyz?host=true").await;
        assert_ne!(readiness.json["code"], "host-login-refused", "{}", readiness.text);
        readiness.text.contains("ResourceInUse")
    })
    .await;
    eventually("the host to be back", async || {
        let readiness = lab.get("/readyz?host=true").await;
        assert_ne!(readiness.json["code"], "host-login-refused", "{}", readiness.text);
        readiness.status == 200
    })
    .await;
    assert_eq!(planned.delivered(), 4);
    assert!(lab.stop().await.failures.is_empty());
}

/// The clock stands still, so the pause after the second failed connect does not end by itself.
#[tokio::test]
async fn sighup_tries_a_host_that_is_away_at_once() {
    let clock = Clock::stepped("2024-01-01T00:00:00Z".parse().unwrap());
    let lab = Lab::with_options(LabOptions { clock, ..LabOptions::default() }).await;
    let down = HostdRestart { down: Some(DownMode::Refuse), drop_running: false };
    lab.control().restart_hostd(down);
    // The collector and the connect after it each ask whether the session is valid.
    let failed =
        "otter_soap_call_seconds_count{method=\"RetrievePropertiesEx\",result=\"not_sent\"} ";
    eventually("two failed connects", async || {
        let metrics = lab.request(Method::GET, "/metrics").send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let count = metrics.lines().find_map(|line| line.strip_prefix(failed)?.parse().ok());
        count.is_some_and(|count: u64| count >= 2)
    })
    .await;
    lab.control().resume();
    lab.reload().await;
    eventually("the host to be back", async || lab.get("/readyz?host=true").await.status == 200)
        .await;
    assert!(lab.stop().await.failures.is_empty());
}
