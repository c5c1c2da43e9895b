//! The checks of a cell: the job has one end that never changes and that polls and events agree on,
//! no more calls were sent than the table allows, reads kept working, the end is true on the host,
//! and the inventory matches the host.

use std::collections::BTreeMap;

use otter::simulator::world::{BootDevice, CardNetwork, Machine, PowerState, World};
use serde_json::{Value, json};

use super::cell_run::{CellRun, DeliveryProof, ISO, TestBench};
use super::expected_devices;
use super::table::{Expected, HostEffect, Kind};

/// The final states of a job.
const ENDS: [&str; 4] = ["succeeded", "failed", "cancelled", "unknown"];

/// Checks a cell whose job has ended. Returns the final state of the job.
pub async fn check(mut run: CellRun<'_>, proof: DeliveryProof) -> Result<String, String> {
    let ended = run.last_poll().clone();
    if !proof.holds(run.control()) {
        return Err(format!("the fault was not delivered; the job: {ended}"));
    }
    let state = ended["state"].as_str().unwrap_or_default().to_owned();
    end_is_right(&ended, run.expected)?;
    polls_agree(&run.polls)?;
    sends_are_allowed(&run, &ended)?;
    end_matches_host(&run, &state)?;
    if state == "succeeded" {
        // The host does not change here, so the inventory must be current at the end of the job.
        end_is_visible(&run).await?;
    }
    settle_host(&mut run).await?;
    inventory_matches_host(&mut run, "after the job").await?;
    run.control().step_guests();
    run.control().step_guests();
    inventory_matches_host(&mut run, "after the guests have started").await?;
    if let Some(wrong) = run.wrong_reads.first() {
        return Err(format!("a read failed: {wrong}"));
    }
    let job = run.job.clone();
    events_agree(run.bench, &job, &ended).await?;
    run.bench.clear().await?;
    Ok(state)
}

/// Checks that the job has one of the expected ends.
pub fn end_is_right(ended: &Value, expected: &Expected) -> Result<(), String> {
    let state = ended["state"].as_str().unwrap_or_default();
    let code = ended["error"]["code"].as_str();
    let right = expected.ends.contains(&(state, code));
    if !right {
        return Err(format!(
            "it ended {state} {code:?}, but {:?} is expected: {ended}",
            expected.ends
        ));
    }
    let consistent = (state == "succeeded") == ended["error"].is_null()
        && (state == "succeeded") != ended["result"].is_null();
    if !consistent {
        return Err(format!("a job has either a result or an error: {ended}"));
    }
    Ok(())
}

/// Checks that only the last poll has an end.
pub fn polls_agree(polls: &[Value]) -> Result<(), String> {
    let ends = polls.iter().filter(|poll| is_end(poll)).count();
    let last = polls.last().is_some_and(is_end);
    if ends == 1 && last { Ok(()) } else { Err(format!("polls have {ends} ends: {polls:?}")) }
}

/// Whether the job has ended.
pub fn is_end(job: &Value) -> bool {
    job["state"].as_str().is_some_and(|state| ENDS.contains(&state))
}

/// Checks that the calls were sent as often as the table allows.
pub fn sends_are_allowed(run: &CellRun<'_>, ended: &Value) -> Result<(), String> {
    let calls = run.control().calls_of_operation(&run.job);
    let count = |method: &str| calls.iter().filter(|call| *call == method).count();
    let (min, max) = run.expected.sends;
    let sends = count(run.cell.kind.method());
    if sends < min || sends > max {
        return Err(format!(
            "it was sent {sends} times, but {min} to {max} are expected: {calls:?}, {ended}"
        ));
    }
    if let Some(first) = run.cell.kind.first()
        && count(first) != 1
    {
        return Err(format!("the first call was sent {} times: {calls:?}", count(first)));
    }
    Ok(())
}

/// Checks that the end of the job is true on the host.
pub fn end_matches_host(run: &CellRun<'_>, state: &str) -> Result<(), String> {
    if run.expected.left == HostEffect::Any {
        return Ok(());
    }
    run.control().look(|world| {
        let Some(now) = world.machine(&run.id) else {
            return Err("the machine is gone".to_owned());
        };
        let kind = run.cell.kind;
        let (done, undone) = (done(kind, &run.before, now), undone(kind, &run.before, now));
        let holds = match (state, run.expected.left) {
            ("succeeded", _) => done,
            (_, HostEffect::FirstCallOnly) => !done && first_done(kind, now),
            ("failed" | "cancelled", _) => undone,
            _ => done || undone,
        };
        if holds {
            Ok(())
        } else {
            Err(format!("it ended {state}, and the machine is {now:?}; before: {:?}", run.before))
        }
    })
}

/// Whether the operation of the job has taken effect, exactly once if that matters.
fn done(kind: Kind, before: &Machine, now: &Machine) -> bool {
    let current = |name: &str| {
        now.current_snapshot
            .as_ref()
            .and_then(|id| now.snapshot(id))
            .is_some_and(|snapshot| snapshot.name == name)
    };
    let has = |name: &str| now.snapshots.iter().filter(|snapshot| snapshot.name == name).count();
    match kind {
        Kind::PowerOn => now.power == PowerState::On,
        Kind::PowerOff
        | Kind::Kill
        | Kind::Shutdown
        | Kind::ForcedShutdown
        | Kind::ForcedPowerOff => now.power == PowerState::Off,
        Kind::Suspend => now.power == PowerState::Suspended,
        Kind::Reset | Kind::Reboot => now.power == PowerState::On && now.run == before.run + 1,
        Kind::Answer => now.question.is_none(),
        Kind::Create => {
            let made = now.snapshots.iter().find(|snapshot| snapshot.name == "made");
            has("made") == 1 && made.is_some_and(|made| made.parent == before.current_snapshot)
        }
        Kind::Revert => current("middle") && now.power == PowerState::Off,
        Kind::RevertOn | Kind::RevertOnPower => current("middle") && now.power == PowerState::On,
        Kind::RevertOff | Kind::RevertOffPower => current("awake") && now.power == PowerState::Off,
        Kind::Remove => has("middle") == 0 && now.snapshots.len() == before.snapshots.len() - 1,
        Kind::RemoveChildren => {
            (has("middle"), has("leaf")) == (0, 0)
                && now.snapshots.len() == before.snapshots.len() - 2
        }
        Kind::RemoveAll => now.snapshots.is_empty(),
        Kind::Consolidate => !now.consolidation_needed,
        Kind::Rename => (has("middle"), has("renamed")) == (0, 1),
        Kind::Insert => now.cd_drives[0].iso() == Some(ISO),
        Kind::Boot => now.boot.order == [BootDevice::Cdrom],
    }
}

/// Whether the operation of the job has had no effect.
fn undone(kind: Kind, before: &Machine, now: &Machine) -> bool {
    let ids = |machine: &Machine| {
        machine.snapshots.iter().map(|snapshot| snapshot.id.clone()).collect::<Vec<_>>()
    };
    match kind {
        Kind::Reset | Kind::Reboot => now.run == before.run || now.power != PowerState::On,
        Kind::Create | Kind::Remove | Kind::RemoveChildren | Kind::RemoveAll => {
            ids(now) == ids(before)
        }
        Kind::Revert | Kind::RevertOn | Kind::RevertOff => {
            now.current_snapshot == before.current_snapshot
        }
        _ => !done(kind, before, now),
    }
}

/// Whether the first call of the job has taken effect.
fn first_done(kind: Kind, now: &Machine) -> bool {
    let name = match kind {
        Kind::RevertOff | Kind::RevertOffPower => "awake",
        _ => "middle",
    };
    now.current_snapshot
        .as_ref()
        .and_then(|id| now.snapshot(id))
        .is_some_and(|current| current.name == name)
}

/// Removes the free licence and all disruptions, and finishes all tasks of the host.
pub async fn settle_host(run: &mut CellRun<'_>) -> Result<(), String> {
    run.control().set_read_only_licence(false);
    finish_host_tasks(run).await
}

/// Removes all disruptions and finishes all tasks of the host.
async fn finish_host_tasks(run: &mut CellRun<'_>) -> Result<(), String> {
    run.control().clear_disruptions();
    run.control().mutate(|world| {
        world.rules.refuse_in_call = false;
        for task in world.running_tasks() {
            world.finish_task(&task);
        }
    });
    let connected = run.bench.until("otter to have a session", async |bench| {
        let (_, headers, _) = bench.read("/v1/machines").await;
        !headers.contains_key("otter-stale")
    });
    connected.await
}

/// Checks that the inventory matches the host.
async fn inventory_matches_host(run: &mut CellRun<'_>, when: &str) -> Result<(), String> {
    let expected = run.control().look(expected_inventory);
    let mut reported = Value::Null;
    let same = run
        .bench
        .until("the inventory to match the host", async |bench| {
            reported = reported_inventory(bench).await;
            reported == expected
        })
        .await;
    same.map_err(|_| {
        format!("{when} otter and the host differ:{}", difference("", &expected, &reported))
    })
}

/// Checks that otter reports the effect of the job at once.
async fn end_is_visible(run: &CellRun<'_>) -> Result<(), String> {
    let expected = run.control().look(|world| {
        let machine = world.machine(&run.id)?;
        Some((expected_machine(machine), expected_snapshots(machine)))
    });
    let Some((machine, snapshots)) = expected else { return Ok(()) };
    let path = format!("/v1/machines/{}", run.id);
    let (_, _, mut reported) = run.bench.read(&path).await;
    let mut listed = run.bench.read(&format!("{path}/snapshots")).await.2["items"].take();
    without_paths(&mut listed);
    // A task of the host may end after its job, and until then the machine is not free.
    for field in ["free", "not_free_because"] {
        reported[field] = machine[field].clone();
    }
    let differences =
        difference("", &machine, &reported) + &difference("/snapshots", &snapshots, &listed);
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!("at the end of the job otter does not report what it did:{differences}"))
}

/// The machines with their snapshots, and the datastores, as otter reports them.
pub async fn reported_inventory(bench: &TestBench) -> Value {
    let (_, _, machines) = bench.read("/v1/machines").await;
    let (_, _, mut datastores) = bench.read("/v1/datastores").await;
    let mut reported = BTreeMap::new();
    for machine in machines["items"].as_array().into_iter().flatten() {
        let id = machine["id"].as_str().unwrap_or_default();
        let (_, _, mut snapshots) = bench.read(&format!("/v1/machines/{id}/snapshots")).await;
        let mut snapshots = snapshots["items"].take();
        without_paths(&mut snapshots);
        reported.insert(id.to_owned(), json!({"machine": machine, "snapshots": snapshots}));
    }
    json!({"machines": reported, "datastores": datastores["items"].take()})
}

/// Removes the paths, which otter computes from names and parents.
fn without_paths(snapshots: &mut Value) {
    for snapshot in snapshots.as_array_mut().into_iter().flatten() {
        if let Some(snapshot) = snapshot.as_object_mut() {
            snapshot.remove("path");
        }
    }
}

/// The machines with their snapshots, and the datastores, as otter should report them.
pub fn expected_inventory(world: &World) -> Value {
    let machines: BTreeMap<String, Value> = world
        .machines()
        .map(|machine| {
            let snapshots = expected_snapshots(machine);
            let entry = json!({"machine": expected_machine(machine), "snapshots": snapshots});
            (machine.id.clone(), entry)
        })
        .collect();
    let mut datastores: Vec<_> = world.datastores().collect();
    datastores.sort_by_key(|datastore| datastore.name.to_lowercase());
    let datastores: Vec<Value> = datastores
        .into_iter()
        .map(|datastore| {
            let on_it =
                world.machines().filter(|machine| machine.datastore == datastore.id).count();
            json!({
                "id": datastore.id,
                "name": datastore.name,
                "type": datastore.kind,
                "capacity_bytes": datastore.capacity_bytes,
                "free_bytes": datastore.free_bytes,
                "free_bytes_at": datastore.refreshed_at.map(|at| at.to_string()),
                "uncommitted_bytes": datastore.uncommitted_bytes,
                "accessible": datastore.accessible,
                "url": datastore.url,
                "machine_count": on_it,
            })
        })
        .collect();
    json!({"machines": machines, "datastores": datastores})
}

fn expected_machine(machine: &Machine) -> Value {
    let on = machine.power == PowerState::On;
    // otter never reports an address that the host still has of an earlier run of the guest.
    let address =
        machine.guest.reported_address.as_ref().filter(|_| on && machine.guest.tools_running);
    let addresses: Vec<&String> = address.into_iter().collect();
    let mut reasons = Vec::new();
    match machine.power {
        PowerState::On => reasons.push("powered_on"),
        PowerState::Suspended => reasons.push("suspended"),
        PowerState::Off | PowerState::Other(_) => {}
    }
    if machine.question.is_some() {
        reasons.push("question");
    }
    let question = machine.question.as_ref().map(|question| {
        let choices: Vec<Value> = (0..)
            .zip(&question.choices)
            .map(|(at, choice)| {
                json!({
                    "key": choice.key,
                    "label": choice.label,
                    "summary": choice.summary,
                    "default": Some(at) == question.default_choice,
                })
            })
            .collect();
        json!({
            "id": question.id,
            "message_id": question.message_id,
            "text": format!("{}: {}", question.message_id, question.text),
            "choices": choices,
        })
    });
    let cards: Vec<Value> = (1..)
        .zip(&machine.network_cards)
        .map(|(number, card)| {
            json!({
                "key": card.key,
                "label": format!("Network adapter {number}"),
                "type": card.kind.trim_start_matches("Virtual").to_lowercase(),
                "mac_address": card.mac_address,
                "connected": card.connected && on,
                "network": network_name(&card.network),
            })
        })
        .collect();
    json!({
        "id": machine.id,
        "name": machine.name,
        "power_state": power(&machine.power),
        "free": reasons.is_empty(),
        "not_free_because": reasons,
        "template": machine.template,
        "connection_state": machine.connection_state,
        "path": machine.path,
        "guest_os": machine.guest_full_name,
        "uuid": machine.instance_uuid,
        "bios_uuid": machine.bios_uuid,
        "annotation": machine.annotation,
        "cpu_count": machine.cpu_count,
        "memory_bytes": i64::from(machine.memory_mb) << 20,
        "storage_bytes": machine.disk_bytes,
        "nested_virtualization": machine.nested_virtualization,
        "consolidation_needed": machine.consolidation_needed,
        "ip_address": address,
        "ip_addresses": addresses,
        "tools_status": if machine.guest.tools_running { "running" } else { "not_running" },
        "network_cards": cards,
        "serial_ports": expected_devices::serial_ports(machine),
        "cdroms": expected_devices::drives(machine),
        "boot": expected_devices::boot(machine),
        "snapshot_count": machine.snapshots.len(),
        "current_snapshot": machine.current_snapshot,
        "question": question,
        "protected": false,
        "pools": [],
        "quarantine": null,
        "lease": null,
        "active_job": null,
    })
}

/// The name of a network. The benches have networks of standard switches only.
fn network_name(network: &CardNetwork) -> &str {
    let (CardNetwork::Standard(name) | CardNetwork::PortGroup(name) | CardNetwork::Opaque(name)) =
        network;
    name
}

fn expected_snapshots(machine: &Machine) -> Value {
    // Depth first, parents before children.
    let mut ordered: Vec<Value> = Vec::new();
    let mut open: Vec<Option<&str>> = vec![None];
    while let Some(parent) = open.pop() {
        let below =
            machine.snapshots.iter().filter(|snapshot| snapshot.parent.as_deref() == parent);
        let below: Vec<_> = below.collect();
        if let Some(id) = parent
            && let Some(snapshot) = machine.snapshot(id)
        {
            let children: Vec<&str> = below.iter().map(|snapshot| snapshot.id.as_str()).collect();
            ordered.push(json!({
                "id": snapshot.id,
                "machine": machine.id,
                "name": snapshot.name,
                "description": snapshot.description,
                "created_at": snapshot.created_at,
                "power_state": power(&snapshot.state),
                "quiesced": snapshot.quiesced,
                "parent": snapshot.parent,
                "children": children,
                "current": machine.current_snapshot.as_ref() == Some(&snapshot.id),
            }));
        }
        open.extend(below.iter().rev().map(|snapshot| Some(snapshot.id.as_str())));
    }
    Value::Array(ordered)
}

fn power(state: &PowerState) -> Option<&'static str> {
    match state {
        PowerState::On => Some("on"),
        PowerState::Off => Some("off"),
        PowerState::Suspended => Some("suspended"),
        PowerState::Other(_) => None,
    }
}

/// The differences of two values, a line for each path.
pub fn difference(at: &str, expected: &Value, reported: &Value) -> String {
    match (expected, reported) {
        (Value::Object(one), Value::Object(two)) => {
            let keys: std::collections::BTreeSet<&String> = one.keys().chain(two.keys()).collect();
            let each = keys.into_iter().map(|key| {
                let (one, two) =
                    (one.get(key).unwrap_or(&Value::Null), two.get(key).unwrap_or(&Value::Null));
                difference(&format!("{at}/{key}"), one, two)
            });
            each.collect()
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            let each = one.iter().zip(two).enumerate();
            each.map(|(place, (one, two))| difference(&format!("{at}/{place}"), one, two)).collect()
        }
        _ if expected == reported => String::new(),
        _ => format!("\n    {at} is {expected} on the host and {reported} in otter"),
    }
}

/// Checks that the event stream has one end of the job, the same as the polls, and nothing after
/// it.
async fn events_agree(bench: &mut TestBench, job: &str, ended: &Value) -> Result<(), String> {
    let mark = bench.nudge();
    let events =
        bench.events.until(|event| event.json["object"]["annotation"] == mark.as_str()).await;
    let states: Vec<&Value> = events
        .iter()
        .filter(|event| event.is_about("job.changed", job))
        .map(|event| &event.json["object"])
        .collect();
    let first_end = states.iter().position(|state| is_end(state));
    match first_end {
        None => Err(format!("the stream has no end of {job}")),
        Some(at) if states[at..].iter().all(|state| *state == ended) => Ok(()),
        Some(at) => Err(format!("the stream took an end back: {:?}", &states[at..])),
    }
}
