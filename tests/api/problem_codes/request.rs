//! Codes that the request alone provokes, in a lab without faults.

use serde_json::json;

use super::{Call, Pair, Verdict, by_a_deadline, id_of, plan, question, side_by_side};
use crate::harness::{Answer, Lab};

/// An id that no job has.
const NO_JOB: &str = "01936f5e-8c00-7000-8000-000000000001";

pub async fn plain(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    side_by_side(pairs, async |pair| provoke(&lab, pair).await).await
}

/// Provokes codes with machines that have no CD drive.
pub async fn without_a_drive(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    side_by_side(pairs, async |pair| {
        let call = pair.call();
        let call = if pair.is_of("create_lease") {
            let prepare = json!({"iso": "[isos] iso/boot.iso"});
            let select = json!({"name": pair.operation.id});
            call.body(json!({"select": select, "ttl": "1m", "prepare": prepare}))
        } else {
            call
        };
        call.send(&lab).await
    })
    .await
}

async fn provoke(lab: &Lab, pair: &Pair) -> Answer {
    let call = match pair.code.as_str() {
        "ambiguous-name" => pair.operation.call("twin"),
        "forbidden" => pair.call().header("host", "evil.example"),
        "headers-too-large" => pair.call().header("x-long", "x".repeat(40_000)),
        "idempotency-mismatch" => {
            let call = pair.call().header("idempotency-key", "k").parameter("wait=0s");
            call.clone().send(lab).await;
            call.parameter("deadline=5m")
        }
        "invalid-cursor" => pair.call().parameter("cursor=x"),
        "invalid-power-state" => pair.call().parameter("until=ip"),
        "invalid-request" => pair.call().parameter("wait=%FF"),
        "not-found" if pair.is_of("get_kept_picture") => pair.operation.call(NO_JOB),
        "not-found" if pair.operation.call("").target().contains("/jobs/") => {
            pair.operation.call(NO_JOB)
        }
        "not-found" => pair.operation.call("none"),
        "payload-too-large" if pair.is_of("send_screen_input") || pair.is_of("wait_for_screen") => {
            pair.call().body(json!("x".repeat(5 << 20)))
        }
        "payload-too-large" => pair.call().body(json!("x".repeat(1 << 20))),
        "question-pending" if pair.is_of("wait_for_job") => {
            return asked_meanwhile(lab, pair).await;
        }
        "question-pending" => pair.operation.call("asking"),
        "self-protection" => pair.operation.call("golden-image"),
        "unknown-parameter" => pair.call().parameter("nonsense=1"),
        // Artifacts and files may have any type.
        "unsupported-media-type"
            if pair.call().method == reqwest::Method::GET
                || pair.is_of("put_artifact")
                || pair.is_of("put_file") =>
        {
            pair.call().header("content-encoding", "gzip")
        }
        "unsupported-media-type" => {
            pair.call().header("content-type", "text/plain").body(json!({}))
        }
        "upgrade-required" => pair.call(),
        "uri-too-long" => pair.call().parameter(&format!("x={}", "x".repeat(17_000))),
        "wait-timeout" => pair.call().parameter("wait=0s"),
        other => panic!("no way to provoke {other}"),
    };
    call.send(lab).await
}

/// A question blocks the power-on until its deadline.
async fn asked_meanwhile(lab: &Lab, pair: &Pair) -> Answer {
    let id = id_of(lab, "asked-later");
    by_a_deadline(pair, async |deadline| {
        lab.control().mutate(|world| {
            world.machine_mut(&id).unwrap().question_at_power_on = Some(question());
        });
        let job = Call::power("asked-later").parameter(deadline).send(lab).await.expect(202);
        pair.operation.call(job.str("id")).parameter("wait=12s").send(lab).await
    })
    .await
}
