//! The final audit of a worker: compares the jobs with the calls and tasks of the host, and otter's
//! inventory with the true state of the host.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::load_client::LoadClient;
use crate::harness::{HostProcess, TIMEOUT, pause};

/// Statistics of the jobs.
#[derive(Default)]
pub struct Audit {
    pub jobs: usize,
    /// The number of jobs by final state.
    pub states: BTreeMap<String, u32>,
    /// The number of jobs that ended `unknown`, by kind.
    pub unknown: BTreeMap<String, u32>,
    /// The number of `unknown` jobs that were cancelled or had a concurrent kill of their machine.
    pub cancelled_or_killed: u32,
}

/// The kinds of jobs whose host call is never repeated after a loss.
const SENT_AT_MOST_ONCE: [&str; 4] =
    ["machine.reset", "machine.reboot", "machine.shutdown", "snapshot.create"];

pub async fn audit(
    client: &LoadClient,
    host: &HostProcess,
    jobs: &[Value],
    host_is_healthy: bool,
) -> Audit {
    let (calls, world) = (host.calls().await, host.world().await);
    let mut audit = Audit { jobs: jobs.len(), ..Audit::default() };
    let add_violation = |what: String| client.call_log.add_violation(what);
    for job in jobs {
        let text = |field: &str| job[field].as_str().unwrap_or_default();
        let (id, kind, state) = (text("id"), text("kind"), text("state"));
        *audit.states.entry(state.to_owned()).or_default() += 1;
        let taken = calls["taken"][id].as_object().cloned().unwrap_or_default();
        let taken: BTreeMap<&str, u64> = taken
            .iter()
            .map(|(method, count)| (method.as_str(), count.as_u64().unwrap()))
            .collect();
        for (method, count) in &taken {
            if *count > allowed(method) {
                add_violation(format!(
                    "{method} was sent {count} times for the job {id} ({kind}, {state})"
                ));
            }
        }
        let has_calls = taken.iter().any(|(method, _)| allowed(method) < u64::MAX);
        if has_calls && job["steps"].as_array().unwrap().is_empty() {
            add_violation(format!(
                "the job {id} ({kind}, {state}) has no steps for its calls {taken:?}"
            ));
        }
        let is_done = |step: &Value| step["state"] == "succeeded";
        let steps: Vec<&Value> = job["steps"].as_array().unwrap().iter().collect();
        // A job with several calls keeps only its last task, and an earlier call may have
        // succeeded.
        if let ([_], Some(task)) = (&steps[..], job["host_task"].as_str()) {
            let ended = world["tasks"][task].as_str().unwrap_or_default();
            let fits = match state {
                "succeeded" if is_done(steps[0]) => ended != "error",
                "failed" | "cancelled" if !is_done(steps[0]) => ended != "success",
                _ => true,
            };
            if !fits {
                add_violation(format!(
                    "the job {id} ({kind}) {state}, and its task {task} is {ended}"
                ));
            }
        }
        if kind == "snapshot.create" {
            let snapshots = world["machines"][text("machine")]["snapshots"].as_array().unwrap();
            let name = &job["request"]["name"];
            let count = snapshots.iter().filter(|snapshot| snapshot["name"] == *name).count();
            if count > 1 || (count > 0 && matches!(state, "failed" | "cancelled")) {
                add_violation(format!(
                    "there are {count} snapshots {name} of the job {id}, which {state}"
                ));
            }
        }
        if state == "unknown" {
            *audit.unknown.entry(kind.to_owned()).or_default() += 1;
            let cancelled_or_killed =
                !job["cancel_requested_at"].is_null() || has_concurrent_kill(job, jobs);
            audit.cancelled_or_killed += u32::from(cancelled_or_killed);
            if host_is_healthy && !SENT_AT_MOST_ONCE.contains(&kind) && !cancelled_or_killed {
                add_violation(format!(
                    "the job {id} ({kind}) ended unknown: {}",
                    job["error"]["detail"]
                ));
            }
        }
    }
    compare_inventory(client, host).await;
    audit
}

/// The number of times that a call may be sent for one job.
fn allowed(method: &str) -> u64 {
    match method {
        "ResetVM_Task" | "CreateSnapshot_Task" | "ShutdownGuest" | "RebootGuest" => 1,
        "PowerOnVM_Task"
        | "PowerOffVM_Task"
        | "SuspendVM_Task"
        | "RevertToSnapshot_Task"
        | "RemoveSnapshot_Task"
        | "RemoveAllSnapshots_Task"
        | "ConsolidateVMDisks_Task"
        | "RenameSnapshot" => 4,
        _ => u64::MAX,
    }
}

fn has_concurrent_kill(job: &Value, jobs: &[Value]) -> bool {
    let time = |job: &Value, field: &str| {
        job[field].as_str().unwrap_or_default().parse::<jiff::Timestamp>().ok()
    };
    jobs.iter().any(|other| {
        other["kind"] == "machine.kill"
            && other["machine"] == job["machine"]
            && time(other, "created_at") <= time(job, "finished_at")
            && time(other, "finished_at") >= time(job, "started_at")
    })
}

/// Waits until the inventory is the same as the true state of the host, which no longer changes.
async fn compare_inventory(client: &LoadClient, host: &HostProcess) {
    let same = tokio::time::timeout(TIMEOUT, async {
        while differences(client, host).await.is_none_or(|found| !found.is_empty()) {
            pause().await;
        }
    });
    if same.await.is_err() {
        client.call_log.add_violation(format!(
            "the inventory differs from the host: {:?}",
            differences(client, host).await
        ));
    }
}

async fn differences(client: &LoadClient, host: &HostProcess) -> Option<Vec<String>> {
    let world = host.world().await;
    let mut found = Vec::new();
    let machines = client.read("/v1/machines").await?;
    let machines = machines["items"].as_array()?;
    if machines.len() != world["machines"].as_object()?.len() {
        found.push(format!("{} machines", machines.len()));
    }
    for machine in machines {
        let id = machine["id"].as_str()?;
        let real = &world["machines"][id];
        let power = match real["power"].as_str()? {
            "poweredOn" => "on",
            "poweredOff" => "off",
            other => other,
        };
        if machine["power_state"] != power
            || machine["current_snapshot"] != real["current_snapshot"]
        {
            found.push(format!("the machine {id}"));
        }
        let listed = client.read(&format!("/v1/machines/{id}/snapshots")).await?;
        let shape = |snapshot: &Value| {
            ["id", "parent", "name", "description"].map(|field| snapshot[field].to_string())
        };
        let listed: BTreeSet<_> = listed["items"].as_array()?.iter().map(shape).collect();
        let real: BTreeSet<_> = real["snapshots"].as_array()?.iter().map(shape).collect();
        if listed != real {
            found.push(format!("the snapshots of {id}"));
        }
    }
    Some(found)
}
