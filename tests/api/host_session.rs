//! The session with the host, as callers of the API see it.

use otter::simulator::{Disruption, Fault};

use crate::harness::{Lab, eventually};

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
