//! What must hold in every cell of a lease: the job's one end, as in the matrix of jobs; one end of
//! the lease, told alike by polls and events; and of each machine that it is free and as it was to
//! be, or set aside, and never neither.

use otter::simulator::world::{Machine, PowerState};
use serde_json::{Value, json};

use super::super::check::{
    difference, end_is_right, host, is_end, picture, polls_agree, quiet, rest, sends_are_few, truth,
};
use super::super::stage::{ByHand, Leased, Play, Proof};
use super::super::table::Fault;
use super::table::{LeaseCell, LeaseExpected, LeaseKind, Outcome};

/// The words of a lease's ends.
const ENDS: [&str; 4] = ["released", "expired", "revoked", "failed"];

/// Checks a cell whose job was played to its end, sees its lease to its own, and gives what came of
/// it.
pub async fn check(
    mut play: Play<'_>,
    proof: Proof,
    cell: LeaseCell,
    expected: &LeaseExpected,
) -> Result<String, String> {
    let ended = play.seen().clone();
    let by_hand = play.lease().by_hand.as_ref().is_none_or(ByHand::acted);
    if !proof.holds(play.control()) || !by_hand {
        return Err(format!("the fault was not delivered; the job: {ended}"));
    }
    end_is_right(&ended, &expected.job)?;
    polls_agree(&play.polls)?;
    sends_are_few(&play, &ended)?;
    truth(&play, ended["state"].as_str().unwrap_or_default())?;
    readiness_is_newest(&ended)?;
    if keeps_it_on(&play) {
        rest(&mut play).await?;
    } else {
        quiet(&mut play).await?;
    }
    answer_questions(&play);
    let active = play.lease_to_the_end().await?;
    let lease = play.lease().polls.last().cloned().unwrap_or_default();
    let told = |wrong: String| format!("{wrong}: {lease}");
    one_end(&play.lease().polls)?;
    came_to(&play, expected.comes_to, active.as_ref(), &lease, &ended).map_err(told)?;
    quiet(&mut play).await?;
    picture_is_the_host(&mut play).await?;
    if play.control().step_guests() > 0 {
        picture_is_the_host(&mut play).await?;
    }
    each_machine_has_its_place(&play, cell, expected.comes_to).await?;
    if let Some(wrong) = play.wrong_reads.first() {
        return Err(format!("a read failed: {wrong}"));
    }
    events_agree(&mut play, &lease).await?;
    play.bench.clear().await?;
    Ok(format!("{:?}", expected.comes_to))
}

/// What was waited for was waited for after the last call that could have undone it.
fn readiness_is_newest(job: &Value) -> Result<(), String> {
    let steps: Vec<&str> = job["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|step| step["name"].as_str())
        .collect();
    let last = |of: &[&str]| steps.iter().rposition(|step| of.contains(step));
    let waits = !job["request"]["until"].is_null() && job["state"] == "succeeded";
    if !waits || last(&["wait_tools", "wait_ip"]) > last(&["revert", "power_on"]) {
        return Ok(());
    }
    Err(format!("it was called ready by what was before its last call: {steps:?}"))
}

fn answer_questions(play: &Play<'_>) {
    play.control().mutate(|world| {
        let ids: Vec<String> = world.machines().map(|machine| machine.id.clone()).collect();
        for id in ids {
            if let Some(machine) =
                world.machine_mut(&id).filter(|machine| machine.power != PowerState::On)
            {
                machine.question = None;
            }
            // It may ask nothing.
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
    Err(format!("polls showed {count} ends of the lease: {polls:?}"))
}

/// What the licence kept from being powered off by the preparation, it keeps from being powered off
/// by the release.
fn keeps_it_on(play: &Play<'_>) -> bool {
    let Leased { kind, by_hand, spare, .. } = play.lease();
    play.cell.fault == Fault::Licence
        && by_hand.is_none()
        && spare.is_none()
        && *kind == LeaseKind::PrepareOff
}

/// What came of the lease is what the table says.
fn came_to(
    play: &Play<'_>,
    wanted: Outcome,
    active: Option<&Value>,
    lease: &Value,
    job: &Value,
) -> Result<(), String> {
    let is = |field: &str, value: &Value| {
        let found = lease.pointer(field).unwrap_or(&Value::Null);
        if found == value {
            Ok(())
        } else {
            Err(format!("{field} is {found}, where {value} is right"))
        }
    };
    let was_active_on =
        active.map(|active| active["machine"].as_str().unwrap_or_default().to_owned());
    let warnings = lease["warnings"].as_array().map_or(0, Vec::len);
    let (state, reason, on, warned) = match (wanted, &play.lease().spare) {
        (Outcome::Active, _) => ("released", "released", Some(play.id.clone()), 0),
        (Outcome::SetAside, Some(spare)) => ("released", "released", Some(spare.clone()), 1),
        (Outcome::SetAside, None) => {
            ("failed", "prepare-failed", None, usize::from(keeps_it_on(play)))
        }
        (Outcome::Gone, _) => ("failed", "machine-gone", None, 0),
        (Outcome::Free | Outcome::FreeAndTaken, _) => ("released", "released", None, 0),
        (Outcome::NotReleased | Outcome::NotReleasedGone, _) => ("released", "released", None, 1),
    };
    is("/state", &json!(state))?;
    is("/end/reason", &json!(reason))?;
    if reason == "prepare-failed" {
        is("/end/detail", &job["error"]["detail"])?;
    }
    // After the job of a preparation may have come one that was active for a moment before its
    // machine was missed.
    let gone_late = wanted == Outcome::Gone && job["state"] == "succeeded";
    if was_active_on != on && !gone_late {
        return Err(format!("it was active on {was_active_on:?}, where {on:?} is right"));
    }
    if warnings != warned {
        return Err(format!("it has {warnings} warnings, where {warned} are right"));
    }
    Ok(())
}

/// The picture is the host's, whole, but for what is set aside, which otter alone knows.
async fn picture_is_the_host(play: &mut Play<'_>) -> Result<(), String> {
    let wanted = play.control().look(host);
    let mut shown = Value::Null;
    let same = play.bench.until("the picture to be the host's", async |bench| {
        shown = picture(bench).await;
        for (_, machine) in shown["machines"].as_object_mut().into_iter().flatten() {
            let machine = &mut machine["machine"];
            machine["quarantine"] = Value::Null;
            if let Some(reasons) = machine["not_free_because"].as_array_mut() {
                reasons.retain(|reason| reason != "quarantined");
                machine["free"] = json!(machine["not_free_because"] == json!([]));
            }
        }
        shown == wanted
    });
    same.await.map_err(|_| {
        format!(
            "after the lease otter shows otherwise than the host is:{}",
            difference("", &wanted, &shown)
        )
    })
}

/// No lease holds a machine any more: each is free, and off and at the asked snapshot then, or set
/// aside.
async fn each_machine_has_its_place(
    play: &Play<'_>,
    cell: LeaseCell,
    wanted: Outcome,
) -> Result<(), String> {
    let machines: Vec<Machine> = play.control().look(|world| world.machines().cloned().collect());
    let names = |machine: &&Machine| machine.name.contains("cell");
    for machine in machines.iter().filter(names) {
        let (_, _, shown) = play.bench.read(&format!("/v1/machines/{}", machine.id)).await;
        let aside = !shown["quarantine"].is_null();
        let meant = machine.instance_uuid == play.before.instance_uuid;
        let right = meant
            && match wanted {
                Outcome::SetAside
                | Outcome::Gone
                | Outcome::NotReleased
                | Outcome::NotReleasedGone => true,
                Outcome::Active | Outcome::Free | Outcome::FreeAndTaken => false,
            };
        if aside != right {
            return Err(format!("it is set aside: {aside}, where {right} is right: {shown}"));
        }
        if aside
            && (shown["quarantine"]["automatic"] != true || shown["quarantine"]["by"] != "otter")
        {
            return Err(format!("it is not set aside by otter: {shown}"));
        }
        if !shown["lease"].is_null() {
            return Err(format!("it is still leased: {shown}"));
        }
        if aside {
            continue;
        }
        if meant && wanted == Outcome::FreeAndTaken {
            if shown["not_free_because"] != json!(["powered_on"]) {
                return Err(format!("another hand took it, which is not shown: {shown}"));
            }
            continue;
        }
        if shown["free"] != true {
            return Err(format!("it is neither free nor set aside: {shown}"));
        }
        if machine.power != PowerState::Off {
            return Err(format!("it is free and not off: {machine:?}"));
        }
        // Only a release goes back to one here.
        let asked = cell.kind.snapshot().filter(|_| meant && !cell.kind.prepares());
        let current = machine.current_snapshot.as_ref().and_then(|id| machine.snapshot(id));
        if let Some(asked) = asked
            && current.is_none_or(|current| current.name != asked)
            && cell.trouble != super::table::Trouble::ByHand(super::table::Hand::RemovesSnapshot)
        {
            return Err(format!("it is free and not at {asked}: {machine:?}"));
        }
    }
    let tasks: Vec<String> = play.control().running_tasks();
    if tasks.is_empty() { Ok(()) } else { Err(format!("tasks still run: {tasks:?}")) }
}

/// What the stream told of the lease and of its jobs: one end of each, the same that polls showed,
/// and nothing after it.
async fn events_agree(play: &mut Play<'_>, lease: &Value) -> Result<(), String> {
    let id = play.lease().id.clone();
    let (_, _, jobs) = play.bench.read(&format!("/v1/jobs?lease={id}")).await;
    let mark = play.bench.nudge();
    let told =
        play.bench.events.until(|told| told.json["object"]["annotation"] == mark.as_str()).await;
    let of = |kind: &str, id: &str| -> Vec<Value> {
        told.iter()
            .filter(|told| told.is(kind, id))
            .map(|told| told.json["object"].clone())
            .collect()
    };
    let agrees = |states: &[Value], ended: &Value, is_end: fn(&Value) -> bool| {
        let first = states.iter().position(is_end);
        first.is_some_and(|first| states[first..].iter().all(|state| state == ended))
    };
    let states = of("lease.changed", &id);
    if !agrees(&states, lease, ends) {
        return Err(format!(
            "the stream told another end of the lease than {lease}: {:?}",
            states.last()
        ));
    }
    for job in jobs["items"].as_array().into_iter().flatten() {
        let states = of("job.changed", job["id"].as_str().unwrap_or_default());
        if !agrees(&states, job, is_end) {
            return Err(format!(
                "the stream told another end of the job than {job}: {:?}",
                states.last()
            ));
        }
    }
    Ok(())
}
