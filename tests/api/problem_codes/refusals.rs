//! Codes of faults of the host, and of calls whose answer is lost.

use otter::simulator::{Disruption, Fault};

use super::{Pair, Verdict, by_a_deadline, outcome, plan, side_by_side};
use crate::conformance::{with_lost_calls_as_refused, without_capabilities};
use crate::harness::{Lab, LabOptions};

/// The host calls that change a machine or a file.
const CHANGES: [&str; 13] = [
    "AnswerVM",
    "ConsolidateVMDisks_Task",
    "CreateSnapshot_Task",
    "DeleteDatastoreFile_Task",
    "MakeDirectory",
    "MoveDatastoreFile_Task",
    "PowerOffVM_Task",
    "PowerOnVM_Task",
    "ReconfigVM_Task",
    "RemoveAllSnapshots_Task",
    "RemoveSnapshot_Task",
    "RenameSnapshot",
    "RevertToSnapshot_Task",
];

/// Provokes one code at a time, because a fault applies to all callers. For each code, all
/// operations run at the same time, each on its own machine, which does not change.
pub async fn of_jobs(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    let mut verdicts = Vec::new();
    for (code, what) in by_code(pairs) {
        for method in CHANGES {
            lab.control().disrupt(method, 0, None, disruption(&code));
        }
        let provoke = async |pair: &Pair| match code.as_str() {
            "machine-busy" => {
                by_a_deadline(pair, async |deadline| outcome(&lab, pair, deadline).await).await
            }
            _ => outcome(&lab, pair, "").await,
        };
        verdicts.extend(side_by_side(what, provoke).await);
        lab.control().clear_disruptions();
    }
    verdicts
}

/// Provokes codes while no call of a job reaches the host until the deadline of the job.
pub async fn until_the_deadline(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(LabOptions {
        wrap_backend: with_lost_calls_as_refused,
        ..plan(&pairs, |_| {})
    })
    .await;
    for method in CHANGES {
        lab.control().disrupt(method, 0, None, Disruption::CloseBeforeRunning);
    }
    side_by_side(pairs, async |pair| {
        by_a_deadline(pair, async |deadline| outcome(&lab, pair, deadline).await).await
    })
    .await
}

/// Provokes codes with a backend that has no optional capability.
pub async fn of_the_backend(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(LabOptions {
        wrap_backend: without_capabilities,
        ..plan(&pairs, |_| {})
    })
    .await;
    side_by_side(pairs, async |pair| pair.call().send(&lab).await).await
}

/// Provokes codes by reads that call the host.
pub async fn of_reads(pairs: Vec<Pair>) -> Vec<Verdict> {
    let lab = Lab::with_options(plan(&pairs, |_| {})).await;
    let mut verdicts = Vec::new();
    for pair in pairs {
        // If the connection of a read breaks, otter repeats the read once.
        let times = if pair.code == "host-unreachable" { 2 } else { 1 };
        lab.control().disrupt("RetrievePropertiesEx", 0, Some(times), disruption(&pair.code));
        verdicts.push(pair.judge(pair.call().send(&lab).await));
        lab.control().clear_disruptions();
    }
    verdicts
}

fn disruption(code: &str) -> Disruption {
    let fault = |name| Disruption::Fault(Fault::new(name, "Said the host."));
    match code {
        "forbidden-by-host" => fault("NoPermission"),
        "host-protocol" => Disruption::Answer {
            status: 200,
            content_type: "text/html",
            body: "<html>Hello</html>".to_owned(),
        },
        "host-rejected" => fault("InvalidArgument"),
        // Each attempt gets no answer.
        "host-unreachable" | "outcome-unknown" => Disruption::CloseBeforeRunning,
        "insufficient-resources" => fault("InsufficientMemoryResourcesFault"),
        "invalid-power-state" => Disruption::Fault(Fault::invalid_power_state(None, "suspended")),
        "license-restricted" => Disruption::Fault(Fault::restricted_version()),
        "machine-busy" => fault("ConcurrentAccess"),
        "not-supported" => Disruption::Fault(Fault::not_supported()),
        "tools-unavailable" => Disruption::Fault(Fault::tools_unavailable()),
        other => panic!("no way to provoke {other}"),
    }
}

fn by_code(pairs: Vec<Pair>) -> Vec<(String, Vec<Pair>)> {
    let mut codes: std::collections::BTreeMap<String, Vec<Pair>> =
        std::collections::BTreeMap::new();
    for pair in pairs {
        codes.entry(pair.code.clone()).or_default().push(pair);
    }
    codes.into_iter().collect()
}
