//! Codes of a host that is away: never reached, away for long or for a moment, or refusing otter's
//! account.

use std::time::Duration;

use futures_util::future::join_all;
use otter::simulator::{DownMode, HostdRestart};
use serde_json::json;

use super::{Call, Pair, Verdict, outcome, plan, side_by_side, until_waiting};
use crate::harness::{Answer, Lab, encode, eventually};

const AWAY: HostdRestart = HostdRestart { down: Some(DownMode::Unavailable), drop_running: false };

/// Provokes codes while the inventory was never loaded.
pub async fn never_reached(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::start_without_waiting(plan(&pairs, |settings| {
        settings.esx.password = "wrong".to_owned().into();
    }))
    .await;
    let provoke = async |pair: &Pair| {
        // With `host=false`, readiness does not depend on the session with the host.
        pair.call()
            .parameter(if pair.is_of("get_readiness") { "host=false" } else { "" })
            .send(&lab)
            .await
    };
    side_by_side(pairs, provoke).await
}

/// Provokes codes while the host is away for longer than otter accepts jobs.
pub async fn for_long(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab =
        Lab::with_options(plan(&pairs, |settings| settings.jobs.outage_grace = Duration::ZERO))
            .await;
    lab.control().restart_hostd(AWAY);
    until_host_is(&lab, "host-unreachable").await;
    side_by_side(pairs, async |pair| pair.call().send(&lab).await).await
}

/// Provokes codes while the host refuses otter's account.
pub async fn refused(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    lab.control().refuse_logins(true);
    lab.control().expire_sessions();
    until_host_is(&lab, "host-login-refused").await;
    side_by_side(pairs, async |pair| pair.call().send(&lab).await).await
}

/// Provokes codes while the host is away for a short time. Accepted jobs do not end: the first job
/// of each operation waits for the host, and the others wait for the first. Finally otter stops.
pub async fn for_a_moment(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    lab.control().restart_hostd(AWAY);
    until_host_is(&lab, "host-unreachable").await;
    let mut operations = pairs.clone();
    operations.dedup_by(|one, other| one.operation.id == other.operation.id);
    join_all(operations.iter().map(|pair| hold(&lab, pair))).await;
    let (last, first): (Vec<Pair>, Vec<Pair>) =
        pairs.into_iter().partition(|pair| pair.code == "shutting-down");
    let mut verdicts = side_by_side(first, async |pair| provoke(&lab, pair).await).await;
    let mut waiting = Vec::new();
    for pair in &last {
        let call =
            if pair.is_of("wait_for_job") { wait_of_jobs(&lab, pair).await } else { keyed(pair) };
        waiting.push(call.parameter("wait=12s").begin(&lab));
    }
    until_waiting(&lab, waiting.len()).await;
    lab.stop().await;
    for (pair, answer) in last.iter().zip(waiting) {
        verdicts.push(pair.judge(answer.await.unwrap()));
    }
    verdicts
}

async fn provoke(lab: &Lab, pair: &Pair) -> Answer {
    match pair.code.as_str() {
        "deadline-exceeded" => outcome(lab, pair, "deadline=1s").await,
        "job-cancelled" => cancelled(lab, pair).await,
        "job-still-running" => pair.call().parameter("wait=0s").send(lab).await,
        "wait-timeout" if pair.is_of("wait_for_job") => {
            wait_of_jobs(lab, pair).await.parameter("wait=0s").send(lab).await
        }
        "wait-timeout" => keyed(pair).parameter("wait=0s").send(lab).await,
        other => panic!("no way to provoke {other}"),
    }
}

/// Waits for a job that another caller cancels.
async fn cancelled(lab: &Lab, pair: &Pair) -> Answer {
    if pair.is_of("wait_for_job") {
        let job = Call::power(&pair.operation.id).send(lab).await.expect(202);
        cancel(lab, job.str("id")).await;
        return pair.operation.call(job.str("id")).parameter("wait=12s").send(lab).await;
    }
    let waiting =
        pair.call().header("otter-reference", pair.name()).parameter("wait=12s").begin(lab);
    let path = format!("/v1/jobs?reference={}", encode(&pair.name()));
    let mut found = None;
    eventually("the job to be accepted", async || {
        let jobs = lab.get(&path).await.expect(200);
        found = jobs.items("id").first().map(|id| (*id).to_owned());
        found.is_some()
    })
    .await;
    cancel(lab, &found.unwrap()).await;
    waiting.await.unwrap()
}

async fn cancel(lab: &Lab, job: &str) {
    lab.post(&format!("/v1/jobs/{job}/cancel"), json!({})).await.expect(202);
}

/// Starts the first job of the operation. The later jobs of the operation wait for it.
async fn hold(lab: &Lab, pair: &Pair) {
    let call =
        if pair.is_of("wait_for_job") { Call::power(&pair.operation.id) } else { pair.call() };
    call.parameter("wait=0s").send(lab).await.problem(409, "job-still-running");
}

async fn wait_of_jobs(lab: &Lab, pair: &Pair) -> Call {
    let job = Call::power(&pair.operation.id).send(lab).await.expect(202);
    pair.operation.call(job.str("id"))
}

fn keyed(pair: &Pair) -> Call {
    pair.call().header("idempotency-key", pair.name())
}

async fn until_host_is(lab: &Lab, code: &str) {
    eventually("the host to be away", async || {
        lab.get("/readyz?host=true").await.json["code"] == code
    })
    .await;
}
