//! The checks of a cell of the lease matrix: the checks of the job; one end of the lease, which
//! polls and events agree on; and each machine is either free in the requested state or
//! quarantined.

use otter::simulator::world::{Machine, PowerState};
use serde_json::{Value, json};

use super::super::cell_run::{CellRun, DeliveryProof, ManualChangeRun};
use super::super::check::{
    difference, end_is_right, end_matches_host, expected_inventory, is_end, polls_agree,
    reported_inventory, sends_are_allowed, settle_host,
};
use super::table::{LeaseCell, LeaseExpected, LeaseOutcome};

/// The final states of a lease.
const ENDS: [&str; 4] = ["released", "expired", "revoked", "failed"];

/// Checks a cell whose job has ended, and lets its lease end. Returns the outcome.
pub async fn check(
    mut run: CellRun<'_>,
    proof: DeliveryProof,
    cell: LeaseCell,
    expected: &LeaseExpected,
) -> Result<String, String> {
    let ended = run.last_poll().clone();
    let manual_change = run.lease().manual_change.as_ref().is_none_or(ManualChangeRun::has_acted);
    if !proof.holds(run.control()) || !manual_change {
        return Err(format!("the fault was not delivered; the job: {ended}"));
    }
    end_is_right(&ended, &expected.job)?;
    polls_agree(&run.polls)?;
    sends_are_allowed(&run, &ended)?;
    end_matches_host(&run, ended["state"].as_str().unwrap_or_default())?;
    readiness_is_newest(&ended)?;
    settle_host(&mut run).await?;
    answer_questions(&run);
    let active = run.lease_to_the_end().await?;
    let lease = run.lease().polls.last().cloned().unwrap_or_default();
    let with_lease = |wrong: String| format!("{wrong}: {lease}");
    one_end(&run.lease().polls)?;
    lease_ended_as_expected(&run, expected.lease_outcome, active.as_ref(), &lease, &ended)
        .map_err(with_lease)?;
    settle_host(&mut run).await?;
    inventory_matches_host(&mut run).await?;
    if run.control().step_guests() > 0 {
        inventory_matches_host(&mut run).await?;
    }
    each_machine_is_free_or_quarantined(&run, cell, expected.lease_outcome).await?;
    if let Some(wrong) = run.wrong_reads.first() {
        return Err(format!("a read failed: {wrong}"));
    }
    events_agree(&mut run, &lease).await?;
    run.bench.clear().await?;
    Ok(format!("{:?}", expected.lease_outcome))
}

/// Checks that the job waited for readiness after the last call that could have undone it.
fn readiness_is_newest(job: &Value) -> Result<(), String> {
    let steps: Vec<&str> = job["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|step| step["name"].as_str())
        .collect();
    let last = |names: &[&str]| steps.iter().rposition(|step| names.contains(step));
    let waits = !job["request"]["until"].is_null() && job["state"] == "succeeded";
    if !waits || last(&["wait_tools", "wait_ip"]) > last(&["revert", "power_on"]) {
        return Ok(());
    }
    Err(format!("the last wait for readiness was before the last call: {steps:?}"))
}

fn answer_questions(run: &CellRun<'_>) {
    run.control().mutate(|world| {
        let ids: Vec<String> = world.machines().map(|machine| machine.id.clone()).collect();
        for id in ids {
            if let Some(machine) =
                world.machine_mut(&id).filter(|machine| machine.power != PowerState::On)
            {
                machine.question = None;
            }
            // `answer` fails if the machine asks no question.
            let _ = world.answer(&id, "q-1", "2");
        }
    });
}

fn ends(lease: &Value) -> bool {
    lease["state"].as_str().is_some_and(|state| ENDS.contains(&state))
}

fn one_end(polls: &[Value]) -> Result<(), String> {
    let count = polls.iter().filter(|poll| ends(poll)).count();
    if count == 1 && polls.last().is_some_and(ends) {
        return Ok(());
    }
    Err(format!("polls have {count} ends of the lease: {polls:?}"))
}

/// Checks that the lease has the expected outcome.
fn lease_ended_as_expected(
    run: &CellRun<'_>,
    expected: LeaseOutcome,
    active: Option<&Value>,
    lease: &Value,
    job: &Value,
) -> Result<(), String> {
    let is = |field: &str, value: &Value| {
        let found = lease.pointer(field).unwrap_or(&Value::Null);
        if found == value {
            Ok(())
        } else {
            Err(format!("{field} is {found}, but {value} is expected"))
        }
    };
    let was_active_on =
        active.map(|active| active["machine"].as_str().unwrap_or_default().to_owned());
    let warnings = lease["warnings"].as_array().map_or(0, Vec::len);
    let (state, reason, on, warned) = match (expected, &run.lease().spare) {
        (LeaseOutcome::Active, _) => ("released", "released", Some(run.id.clone()), 0),
        (LeaseOutcome::Quarantined, Some(spare)) => {
            ("released", "released", Some(spare.clone()), 1)
        }
        (LeaseOutcome::Quarantined, None) | (LeaseOutcome::Failed, _) => {
            ("failed", "prepare-failed", None, 0)
        }
        (LeaseOutcome::Gone, _) => ("failed", "machine-gone", None, 0),
        (LeaseOutcome::Free | LeaseOutcome::FreeAndTaken, _) => ("released", "released", None, 0),
        (LeaseOutcome::NotReleased | LeaseOutcome::NotReleasedGone, _) => {
            ("released", "released", None, 1)
        }
    };
    is("/state", &json!(state))?;
    is("/end/reason", &json!(reason))?;
    if reason == "prepare-failed" {
        is("/end/detail", &job["error"]["detail"])?;
    }
    // After a successful preparation the lease may be active for a moment before otter notices that
    // the machine is gone.
    let gone_late = expected == LeaseOutcome::Gone && job["state"] == "succeeded";
    if was_active_on != on && !gone_late {
        return Err(format!("it was active on {was_active_on:?}, but {on:?} is expected"));
    }
    if warnings != warned {
        return Err(format!("it has {warnings} warnings, but {warned} are expected"));
    }
    Ok(())
}

/// Checks that the inventory matches the host, except for the quarantine, which only otter knows.
async fn inventory_matches_host(run: &mut CellRun<'_>) -> Result<(), String> {
    let expected = run.control().look(expected_inventory);
    let mut reported = Value::Null;
    let same = run.bench.until("the inventory to match the host", async |bench| {
        reported = reported_inventory(bench).await;
        for (_, machine) in reported["machines"].as_object_mut().into_iter().flatten() {
            let machine = &mut machine["machine"];
            machine["quarantine"] = Value::Null;
            if let Some(reasons) = machine["not_free_because"].as_array_mut() {
                reasons.retain(|reason| reason != "quarantined");
                machine["free"] = json!(machine["not_free_because"] == json!([]));
            }
        }
        reported == expected
    });
    same.await.map_err(|_| {
        format!(
            "after the lease otter and the host differ:{}",
            difference("", &expected, &reported)
        )
    })
}

/// Checks that no machine is leased, and that each is quarantined, or free, off and at the
/// requested snapshot.
async fn each_machine_is_free_or_quarantined(
    run: &CellRun<'_>,
    cell: LeaseCell,
    expected: LeaseOutcome,
) -> Result<(), String> {
    let machines: Vec<Machine> = run.control().look(|world| world.machines().cloned().collect());
    let names = |machine: &&Machine| machine.name.contains("cell");
    for machine in machines.iter().filter(names) {
        let (_, _, reported) = run.bench.read(&format!("/v1/machines/{}", machine.id)).await;
        let quarantined = !reported["quarantine"].is_null();
        let meant = machine.instance_uuid == run.before.instance_uuid;
        let right = meant
            && match expected {
                LeaseOutcome::Quarantined
                | LeaseOutcome::Gone
                | LeaseOutcome::NotReleased
                | LeaseOutcome::NotReleasedGone => true,
                LeaseOutcome::Active
                | LeaseOutcome::Failed
                | LeaseOutcome::Free
                | LeaseOutcome::FreeAndTaken => false,
            };
        if quarantined != right {
            return Err(format!(
                "it is quarantined: {quarantined}, but {right} is expected: {reported}"
            ));
        }
        if quarantined
            && (reported["quarantine"]["automatic"] != true
                || reported["quarantine"]["by"] != "otter")
        {
            return Err(format!("it is not quarantined by otter: {reported}"));
        }
        if !reported["lease"].is_null() {
            return Err(format!("it is still leased: {reported}"));
        }
        if quarantined {
            continue;
        }
        if meant && expected == LeaseOutcome::FreeAndTaken {
            if reported["not_free_because"] != json!(["powered_on"]) {
                return Err(format!(
                    "another client powered it on, which is not reported: {reported}"
                ));
            }
            continue;
        }
        if reported["free"] != true {
            return Err(format!("it is neither free nor quarantined: {reported}"));
        }
        if machine.power != PowerState::Off {
            return Err(format!("it is free and not off: {machine:?}"));
        }
        // A preparation also reverts to a snapshot, but here only the snapshot of a release must be
        // current.
        let asked = cell.kind.snapshot().filter(|_| meant && !cell.kind.prepares());
        let current = machine.current_snapshot.as_ref().and_then(|id| machine.snapshot(id));
        if let Some(asked) = asked
            && current.is_none_or(|current| current.name != asked)
            && cell.fault
                != super::table::LeaseFault::Manual(super::table::ManualChange::RemovesSnapshot)
        {
            return Err(format!("it is free and not at {asked}: {machine:?}"));
        }
    }
    let tasks: Vec<String> = run.control().running_tasks();
    if tasks.is_empty() { Ok(()) } else { Err(format!("tasks still run: {tasks:?}")) }
}

/// Checks that the event stream has one end of the lease and one of each job, the same as the
/// polls, and nothing after it.
async fn events_agree(run: &mut CellRun<'_>, lease: &Value) -> Result<(), String> {
    let id = run.lease().id.clone();
    let (_, _, jobs) = run.bench.read(&format!("/v1/jobs?lease={id}")).await;
    let mark = run.bench.nudge();
    let events =
        run.bench.events.until(|event| event.json["object"]["annotation"] == mark.as_str()).await;
    let states_of = |kind: &str, id: &str| -> Vec<Value> {
        events
            .iter()
            .filter(|event| event.is_about(kind, id))
            .map(|event| event.json["object"].clone())
            .collect()
    };
    let agrees = |states: &[Value], ended: &Value, is_end: fn(&Value) -> bool| {
        let first = states.iter().position(is_end);
        first.is_some_and(|first| states[first..].iter().all(|state| state == ended))
    };
    let states = states_of("lease.changed", &id);
    if !agrees(&states, lease, ends) {
        return Err(format!(
            "the stream has another end of the lease than {lease}: {:?}",
            states.last()
        ));
    }
    for job in jobs["items"].as_array().into_iter().flatten() {
        let states = states_of("job.changed", job["id"].as_str().unwrap_or_default());
        if !agrees(&states, job, is_end) {
            return Err(format!(
                "the stream has another end of the job than {job}: {:?}",
                states.last()
            ));
        }
    }
    Ok(())
}
