//! What is lost while a run goes on: the lease, an answer, the daemon.

use std::sync::atomic::Ordering;

use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use super::proxy::{Fault, Proxy};
use super::{Bench, RUNS, UNTIL_GO};
use crate::harness::{Answer, eventually};

#[tokio::test]
async fn a_lease_that_an_operator_revokes_ends_the_command() {
    let bench = Bench::start().await;
    let mut run =
        bench.run("", "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.02; done");
    run.says("ready").await;
    let path =
        format!("/v1/leases/{}?reason=maintenance", bench.lease().await["id"].as_str().unwrap());
    Answer::of(bench.daemon.request(Method::DELETE, &path)).await.expect(200);
    let ended = run.ended().await;
    ended.exits(74, "the lease is lost, so the command is ended: the lease ended: revoked");
    assert!(ended.said == ["told"] && ended.complaints.contains("maintenance"), "{ended:?}");
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_lease_whose_time_is_over_ends_the_command() {
    let bench = Bench::start().await;
    let mut run = bench.run("--ttl 1s", RUNS);
    run.says("ready").await;
    run.signal(Signal::STOP);
    eventually("the time to be over", async || bench.leases("expired").await.len() == 1).await;
    run.signal(Signal::CONT);
    run.ended().await.exits(74, "the lease is lost");
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_daemon_that_stays_away_ends_the_command_when_the_time_is_over() {
    let bench = Bench::start().await;
    let mut run = bench.run("--ttl 1s --retry-for 1s", RUNS);
    run.says("ready").await;
    bench.daemon.hold().await;
    run.ended().await.exits(74, "the time of the lease is over");
    bench.daemon.signal(Signal::CONT);
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_short_lease_is_renewed_while_its_command_runs() {
    let bench = Bench::start().await;
    let mut run = bench.run("--ttl 1s", UNTIL_GO);
    run.says("ready").await;
    let lease = bench.lease().await;
    let path = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
    let time = |lease: &Value, field: &str| {
        lease[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let until = time(&lease, "active_at") + jiff::SignedDuration::from_secs(3);
    eventually("it to be held for three times its time", async || {
        time(&bench.daemon.get(&path).await.expect(200).json, "expires_at") > until
    })
    .await;
    bench.go();
    run.ended().await.exits(0, "");
    bench.is_as_before().await;
}

#[tokio::test]
async fn a_lease_goes_on_over_a_restart_of_the_daemon() {
    let state = tempfile::tempdir().unwrap();
    let with_state = ["--state-dir", state.path().to_str().unwrap()];
    let bench = Bench::with(&with_state).await;
    let mut run = bench.run("", UNTIL_GO);
    run.says("ready").await;
    let id = bench.lease().await["id"].clone();
    let Bench { daemon, files } = bench;
    let address = daemon.address().to_owned();
    daemon.kill();
    let daemon = Bench::daemon(&address, files.path(), &with_state).await;
    let bench = Bench { daemon, files };
    assert_eq!(bench.lease().await["id"], id);
    bench.go();
    run.ended().await.exits(0, "the machine is given back");
    bench.is_as_before().await;
}

#[tokio::test]
async fn an_answer_that_is_lost_leaks_nothing() {
    let bench = Bench::start().await;
    for method in ["POST /v1/leases ", "DELETE /v1/leases/"] {
        let before = all(&bench).await;
        let proxy = Proxy::start(bench.daemon.address(), method, Fault::Cut).await;
        let ended = bench.run_at(&proxy.url, "", &["echo", "mine"], &[]).ended().await;
        ended.exits(0, "the machine is given back");
        assert_eq!(proxy.faults.load(Ordering::SeqCst), 1, "the answer was lost");
        assert_eq!(all(&bench).await, before + 1, "one lease");
        bench.is_as_before().await;
    }
}

async fn all(bench: &Bench) -> usize {
    bench.daemon.get("/v1/leases").await.expect(200).json["items"].as_array().unwrap().len()
}
