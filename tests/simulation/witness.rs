//! The bystander: hears of every call, commit, event and answer, sees what really happens on the
//! host, and holds both against the promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use otter::domain::call::HostCall;
use otter::domain::ids::{JobId, MachineId};
use otter::domain::job::Job;
use otter::domain::machine::Machine;
use otter::domain::power::PowerState;
use otter::hypervisor::Accepted;
use otter::service::inventory::InventoryContents;
use otter::service::leases::matching::CandidateMachine;
use otter::simulator::world::{TaskState, World};
use otter::storage::LeaseTransaction;

use super::committed::Committed;
use super::executor::Handle;
use super::lease_invariants::LeaseInvariants;
use super::promises::Promises;
use crate::in_process;
use crate::storage::in_memory::Committed as Committing;

pub struct Witness {
    handle: Handle,
    is_tracing: bool,
    seen: Mutex<Seen>,
}

/// What the bystander knows.
#[derive(Default)]
pub struct Seen {
    pub disk: Committed,
    pub promises: Promises,
    pub lease_invariants: LeaseInvariants,
    pub trace: Vec<String>,
    /// How many writes were refused.
    pub refused: usize,
    /// When the last step of the leases was taken, and among which machines.
    pub step: (Duration, Vec<CandidateMachine>),
    /// The tasks of the host that did their work.
    done: BTreeSet<String>,
    machines: BTreeMap<String, Truth>,
}

/// A machine as it really is.
struct Truth {
    power: Option<PowerState>,
    /// Counts the runs of its guest.
    run: u64,
    tools_running: bool,
    /// The address that its guest has in this run.
    address: Option<String>,
    /// How it was since which revision of the host.
    states: Vec<(u64, Machine)>,
}

impl Witness {
    pub fn new(handle: Handle, is_tracing: bool) -> Self {
        Self { handle, is_tracing, seen: Mutex::default() }
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.is_tracing {
            let line = format!("{:>12.3} {}", self.handle.true_time().as_secs_f64(), line());
            self.seen().trace.push(line);
        }
    }

    pub fn break_promise(&self, what: impl Into<String>) {
        self.seen().promises.break_promise(what);
    }

    /// What was broken first.
    pub fn broken(&self) -> Option<String> {
        let seen = self.seen();
        seen.promises.broken.clone().or_else(|| seen.lease_invariants.broken.clone())
    }

    /// Looks at what happened on the host.
    pub fn look(&self, world: &World) {
        let mut seen = self.seen();
        let Seen { promises, lease_invariants, done, machines, .. } = &mut *seen;
        let mut by_task = BTreeSet::new();
        for task in world.all_tasks().filter(|task| task.state == TaskState::Success) {
            if done.insert(task.id.clone()) {
                promises.task_done(&task.id, &task.machine, world.revision());
                by_task.insert(task.machine.clone());
            }
        }
        for machine in world.machines() {
            let is = in_process::machine(machine);
            let (power, tools_running) = (is.power_state, machine.guest.tools_running);
            let truth = machines.entry(machine.id.clone()).or_insert_with(|| Truth {
                power,
                run: machine.run,
                tools_running,
                address: None,
                states: Vec::new(),
            });
            if truth.states.last().is_none_or(|(_, last)| *last != is) {
                truth.states.push((world.revision(), is));
            }
            truth.address.clone_from(&machine.guest.address);
            if truth.power != power {
                promises.power(&machine.id, power);
                if !by_task.contains(&machine.id) {
                    promises.changed_by(&machine.id, None);
                }
            }
            if truth.tools_running && (!tools_running || truth.run != machine.run) {
                promises.guest_stopped(&machine.id);
            }
            (truth.power, truth.run, truth.tools_running) = (power, machine.run, tools_running);
        }
        lease_invariants.touched(std::mem::take(&mut promises.touched));
        lease_invariants.check_made(world);
    }

    /// Something is on disk.
    pub fn committed(&self, committed: Committing<'_>, world: &World) {
        match committed {
            Committing::NewJob(job) => self.inserted(job),
            Committing::Job(job) => self.updated(job, world),
            Committing::Leases(step) => self.leases(step, world),
        }
    }

    fn inserted(&self, job: &Job) {
        self.trace(|| format!("{} ({}) is on disk", job.id, job.kind().as_str()));
        let mut seen = self.seen();
        seen.disk.insert(job);
        seen.promises.inserted(job);
    }

    fn updated(&self, job: &Job, world: &World) {
        self.trace(|| format!("{} is on disk as {} ({})", job.id, job.state.as_str(), job.phase));
        let mut seen = self.seen();
        let Seen { disk, promises, lease_invariants, machines, .. } = &mut *seen;
        let Some(before) = disk.update(job) else { return };
        let power =
            machines.get(job.machine_id().unwrap().backend_text()).and_then(|truth| truth.power);
        promises.updated(&before, job, power, self.handle.true_time(), disk);
        lease_invariants.job_written(&before, job, world, disk);
    }

    fn leases(&self, step: &LeaseTransaction, world: &World) {
        for change in &step.leases {
            let lease = &change.lease;
            self.trace(|| {
                let machine = lease.machine.as_ref().map(|machine| machine.id.backend_text());
                let (state, fence) = (lease.state.as_str(), lease.fence);
                format!(
                    "the lease {} is on disk as {state} ({machine:?}, fence {fence:?})",
                    lease.id
                )
            });
        }
        let mut seen = self.seen();
        let Seen { disk, lease_invariants, step: (at, candidates), .. } = &mut *seen;
        let before = disk.save_leases(step);
        lease_invariants.committed((step, *at, candidates), &before, disk);
        lease_invariants.check_made(world);
    }

    /// A call leaves otter.
    pub fn sent(&self, job: JobId, machine: &MachineId, call: &HostCall) {
        self.trace(|| format!("{job} calls {} of {machine}", call.kind().as_str()));
        let mut seen = self.seen();
        let Seen { disk, promises, lease_invariants, .. } = &mut *seen;
        promises.sent(job, call, disk);
        lease_invariants.sent(job, disk);
    }

    /// The host took a call.
    pub fn took(&self, job: JobId, call: &HostCall, accepted: &Accepted, revision: u64) {
        self.trace(|| format!("the host takes {} of {job}: {accepted:?}", call.kind().as_str()));
        let task = match accepted {
            Accepted::Task(task) => Some(task.backend_text()),
            Accepted::Done => None,
        };
        self.seen().promises.took(job, call, task, revision);
    }

    /// The number by which a reader remembers when it began to read.
    pub fn begins_to_read(&self) -> u64 {
        self.seen().promises.count()
    }

    /// A reader who began to read at `begun` sees this job together with this contents.
    pub fn shown(&self, job: &Job, begun: u64, contents: &InventoryContents) {
        let mut seen = self.seen();
        let Seen { disk, promises, machines, .. } = &mut *seen;
        let id = job.machine_id().unwrap();
        // Before the contents are loaded, no reader sees a machine.
        let machine = contents.machine(id).filter(|_| contents.loaded);
        let told = machine.and_then(|machine| Some(machines.get(id.backend_text())?.told(machine)));
        let power = machine.and_then(|machine| machine.power_state);
        promises.shown(job, begun, told.unwrap_or(u64::MAX), power, disk);
    }

    /// No address is shown that the guest does not have in this run, if the picture knows all of
    /// the machine.
    pub fn check_addresses(&self, contents: &InventoryContents) {
        let mut seen = self.seen();
        let Seen { promises, machines, .. } = &mut *seen;
        for machine in &contents.machines {
            let id = machine.id.backend_text();
            let address = contents.ip_address(&machine.id);
            let (Some(address), Some(truth)) = (address, machines.get(id)) else { continue };
            if truth.told(machine) == u64::MAX && truth.address.as_deref() != Some(address) {
                promises.break_promise(format!(
                    "{id} is shown with {address}, and its guest has {:?}",
                    truth.address
                ));
            }
        }
    }

    /// The daemon died.
    pub fn crashed(&self, clock_jumps: bool) {
        self.trace(|| "otter dies".to_owned());
        let now = self.handle.true_time();
        let mut seen = self.seen();
        let Seen { disk, promises, lease_invariants, .. } = &mut *seen;
        promises.crashed(clock_jumps, now, disk);
        lease_invariants.crashed(now);
    }
}

impl Truth {
    /// Up to which revision of the host a picture is true that shows the machine so.
    fn told(&self, shown: &Machine) -> u64 {
        let is_shown = |(_, machine): &(u64, Machine)| {
            // A direct read of the guest adds its addresses.
            let mut machine = machine.clone();
            machine.guest.ip_addresses.clone_from(&shown.guest.ip_addresses);
            machine == *shown
        };
        let place = self.states.iter().rposition(is_shown);
        place.and_then(|place| self.states.get(place + 1)).map_or(u64::MAX, |(since, _)| since - 1)
    }
}

/// What the picture shows that the host does not have, or the other way.
pub fn difference(contents: &InventoryContents, world: &World) -> Option<String> {
    let (shown, there) = (contents.machines.len(), world.machines().count());
    if shown != there {
        return Some(format!("the picture has {shown} machines, the host {there}"));
    }
    world.machines().map(in_process::machine).find_map(|is| {
        let shown = contents.machine(&is.id).map(Arc::as_ref);
        let id = &is.id;
        (shown != Some(&is))
            .then(|| format!("the picture has {id} as {shown:?}, the host as {is:?}"))
    })
}
