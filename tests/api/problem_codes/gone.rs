//! Codes of removed objects: a machine during a wait, a machine that otter still shows, and the
//! host.

use otter::simulator::{Disruption, Pace};
use serde_json::json;

use super::{Pair, Verdict, id_of, outcome, plan, side_by_side, until_waiting};
use crate::harness::{Lab, LabOptions, TIMEOUT, machine_path};

/// Provokes codes during a wait: the machine is removed, or otter stops.
pub async fn while_waited_for(pairs: Vec<Pair>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for pair in pairs {
        let lab = Lab::with_options(plan(std::slice::from_ref(&pair), |_| {})).await;
        let waiting = pair.call().parameter("wait=12s").begin(&lab);
        until_waiting(&lab, 1).await;
        if pair.code == "shutting-down" {
            lab.stop().await;
        } else {
            let id = id_of(&lab, &pair.operation.id);
            lab.control().mutate(|world| world.remove_machine(&id));
        }
        verdicts.push(pair.judge(waiting.await.unwrap()));
    }
    verdicts
}

/// Provokes codes after the machines are removed and the host sends otter no update.
pub async fn unseen(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    let names: Vec<String> = pairs.iter().map(|pair| id_of(&lab, &pair.operation.id)).collect();
    // The pending wait for updates returns one last change. The next wait never returns.
    let silence =
        lab.control().disrupt("WaitForUpdatesEx", 0, None, Disruption::NeverAnswer { run: false });
    lab.annotate(&names[0], "the last word");
    let silent = lab.control().until(|_| silence.delivered() > 0);
    tokio::time::timeout(TIMEOUT, silent).await.expect("no more updates");
    lab.control().mutate(|world| {
        for id in names {
            world.remove_machine(&id);
        }
    });
    side_by_side(pairs, async |pair| match pair.operation.id.as_str() {
        "get_machine_properties" => pair.call().send(&lab).await,
        _ => outcome(&lab, pair, "").await,
    })
    .await
}

/// Provokes codes by a restart of the host while it creates a snapshot. After the restart, the
/// snapshot does not exist and no task runs.
pub async fn with_the_host(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(LabOptions { pace: Pace::Stepped, ..plan(&pairs, |_| {}) }).await;
    side_by_side(pairs, async |pair| {
        let path = machine_path(&pair.operation.id, "/snapshots");
        let job = lab.post(&path, json!({"name": "new"})).await.expect(202);
        lab.wait_for_job_task(&job.json).await;
        lab.control().reboot_host();
        pair.operation.call(job.str("id")).parameter("wait=12s").send(&lab).await
    })
    .await
}
