//! Losses during a run: the lease, an answer, or the daemon.

use std::sync::atomic::Ordering;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use super::faulty_proxy::{Fault, FaultyProxy};
use super::{RUN_UNTIL_GO_FILE, RUN_UNTIL_SIGNAL, RunFixture};
use crate::harness::{Answer, eventually};

#[tokio::test]
async fn a_lease_that_an_operator_revokes_ends_the_command() {
    let fixture = RunFixture::start().await;
    let mut run =
        fixture.run("", "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.02; done");
    run.expect_line("ready").await;
    let path = format!(
        "/v1/leases/{}?reason=maintenance",
        fixture.open_lease().await["id"].as_str().unwrap()
    );
    Answer::from_request(fixture.daemon.request(Method::DELETE, &path)).await.expect(200);
    let ended = run.wait().await;
    ended.assert_exit(74, "the lease is lost, so the command is ended: the lease ended: revoked");
    assert!(ended.stdout == ["told"] && ended.stderr.contains("maintenance"), "{ended:?}");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn an_expired_lease_ends_the_command() {
    let fixture = RunFixture::start().await;
    let mut run = fixture.run("--ttl 1s", RUN_UNTIL_SIGNAL);
    run.expect_line("ready").await;
    run.signal(Signal::STOP);
    eventually("the lease to expire", async || fixture.leases("expired").await.len() == 1).await;
    run.signal(Signal::CONT);
    run.wait().await.assert_exit(74, "the lease is lost");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_daemon_that_stays_away_ends_the_command_when_the_lease_expires() {
    let fixture = RunFixture::start().await;
    let mut run = fixture.run("--ttl 1s --retry-for 1s", RUN_UNTIL_SIGNAL);
    run.expect_line("ready").await;
    fixture.daemon.suspend().await;
    run.wait().await.assert_exit(74, "the lease has expired");
    fixture.daemon.signal(Signal::CONT);
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_short_lease_is_renewed_while_its_command_runs() {
    let fixture = RunFixture::start().await;
    let mut run = fixture.run("--ttl 1s", RUN_UNTIL_GO_FILE);
    run.expect_line("ready").await;
    let lease = fixture.open_lease().await;
    let path = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
    let time = |lease: &Value, field: &str| {
        lease[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let until = time(&lease, "active_at") + jiff::SignedDuration::from_secs(3);
    eventually("the lease to be renewed beyond three times its duration", async || {
        time(&fixture.daemon.get(&path).await.expect(200).json, "expires_at") > until
    })
    .await;
    fixture.create_go_file();
    run.wait().await.assert_exit(0, "");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_lease_survives_a_restart_of_the_daemon() {
    let state = tempfile::tempdir().unwrap();
    let with_state = ["--state-dir", state.path().to_str().unwrap()];
    let fixture = RunFixture::with_arguments(&with_state).await;
    let mut run = fixture.run("", RUN_UNTIL_GO_FILE);
    run.expect_line("ready").await;
    let id = fixture.open_lease().await["id"].clone();
    let RunFixture { daemon, files } = fixture;
    let address = daemon.address().to_owned();
    daemon.kill();
    let daemon = RunFixture::start_daemon(&address, files.path(), &with_state).await;
    let fixture = RunFixture { daemon, files };
    assert_eq!(fixture.open_lease().await["id"], id);
    fixture.create_go_file();
    run.wait().await.assert_exit(0, "the machine is given back");
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn a_lost_answer_leaks_no_machine() {
    let fixture = RunFixture::start().await;
    for method in ["POST /v1/leases ", "DELETE /v1/leases/"] {
        let before = lease_count(&fixture).await;
        let proxy = FaultyProxy::start(fixture.daemon.address(), method, Fault::Cut).await;
        let ended = fixture.run_at(&proxy.url, "", &["echo", "mine"], &[]).wait().await;
        ended.assert_exit(0, "the machine is given back");
        assert_eq!(proxy.faults.load(Ordering::SeqCst), 1, "the answer was lost");
        assert_eq!(lease_count(&fixture).await, before + 1, "one lease");
        fixture.assert_all_released().await;
    }
}

async fn lease_count(fixture: &RunFixture) -> usize {
    fixture.daemon.get("/v1/leases").await.expect(200).json["items"].as_array().unwrap().len()
}
