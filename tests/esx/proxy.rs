//! A host that is reached only through an HTTP proxy. Only the proxy knows its name.

use std::time::Duration;

use otter::domain::call::HostCall;
use otter::esx::{EsxHypervisor, EsxOptions, OptionsError, presented_fingerprint};
use otter::hypervisor::{Hypervisor, SessionState};
use otter::simulator::{Pace, Scenario, Simulator};

use super::support::{RunningBackend, machine_id, options, start_simulator};
use crate::harness::ConnectProxy;

/// `lab:secret` of RFC 7617.
const AUTHORIZATION: &str = "Basic bGFiOnNlY3JldA==";
const TARGET: &str = "esx.invalid:443";

async fn host_behind_proxy() -> (Simulator, ConnectProxy, EsxOptions) {
    let simulator = start_simulator(Scenario::generated(3), Pace::Auto { scale: 0.0 }).await;
    let proxy = ConnectProxy::start().await;
    let address = simulator.url().strip_prefix("https://").unwrap().parse().unwrap();
    proxy.set_name(TARGET, address);
    proxy.require_authorization(AUTHORIZATION);
    let mut options = options("https://esx.invalid");
    let url = format!("http://lab:secret@{}", proxy.address());
    options.proxy = Some(url.parse().unwrap());
    options.connect_timeout = Duration::from_secs(5);
    (simulator, proxy, options)
}

#[tokio::test]
async fn every_connection_to_the_host_goes_through_the_proxy() {
    let (simulator, proxy, options) = host_behind_proxy().await;
    let seen = presented_fingerprint(&options).await.unwrap();
    assert_eq!(seen.to_string(), simulator.fingerprint());
    let running = RunningBackend::start(&options);
    running.observer.wait_connected(1).await;
    let machine = machine_id(&Scenario::generated(3), 0);
    running.esx.call(&machine, &HostCall::PowerOn, running.job()).await.unwrap();
    running.esx.barrier().await.unwrap();
    assert_eq!(running.observer.recording().machines.len(), 3);
    running.stop().await;
    let targets = proxy.targets();
    assert!(targets.len() > 1 && targets.iter().all(|target| target == TARGET), "{targets:?}");
}

#[tokio::test]
async fn a_refusal_of_the_proxy_is_reported_with_its_status_and_ends_by_itself() {
    let (_simulator, proxy, options) = host_behind_proxy().await;
    proxy.refuse(Some("403 Forbidden by the lab"));
    let running = RunningBackend::start(&options);
    let reason = running
        .observer
        .wait_until("the host to be away", |recording| {
            recording.statuses.iter().find_map(|status| match &status.state {
                SessionState::Away { reason } => Some(reason.clone()),
                _ => None,
            })
        })
        .await;
    for part in ["esx.invalid", &proxy.url(), "403 Forbidden by the lab"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert!(!reason.contains("secret"), "{reason}");
    proxy.refuse(None);
    running.observer.wait_connected(1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_proxy_for_a_host_without_tls_is_refused() {
    let mut options = options("http://127.0.0.1:8989");
    options.proxy = Some("http://proxy:3128".parse().unwrap());
    let refused = EsxHypervisor::new(&options, otter::clock::Clock::system()).unwrap_err();
    assert!(matches!(refused, OptionsError::ProxyWithoutTls), "{refused}");
}
