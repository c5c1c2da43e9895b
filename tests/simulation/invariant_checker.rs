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
use super::job_invariants::JobInvariants;
use super::lease_invariants::LeaseInvariants;
use crate::in_process;
use crate::storage::in_memory::Committed as Committing;

pub struct InvariantChecker {
    handle: Handle,
    is_tracing: bool,
    state: Mutex<CheckerState>,
}

/// What the bystander knows.
#[derive(Default)]
pub struct CheckerState {
    pub disk: Committed,
    pub job_invariants: JobInvariants,
    pub lease_invariants: LeaseInvariants,
    pub trace: Vec<String>,
    /// How many writes were refused.
    pub refused: usize,
    /// When the last step of the leases was taken, and among which machines.
    pub step: (Duration, Vec<CandidateMachine>),
    /// The tasks of the host that did their work.
    done: BTreeSet<String>,
    machines: BTreeMap<String, GroundTruth>,
}

/// A machine as it really is.
struct GroundTruth {
    power: Option<PowerState>,
    /// Counts the runs of its guest.
    run: u64,
    tools_running: bool,
    /// The address that its guest has in this run.
    address: Option<String>,
    /// How it was since which revision of the host.
    states: Vec<(u64, Machine)>,
}

impl InvariantChecker {
    pub fn new(handle: Handle, is_tracing: bool) -> Self {
        Self { handle, is_tracing, state: Mutex::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, CheckerState> {
        self.state.lock().unwrap()
    }

    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.is_tracing {
            let line = format!("{:>12.3} {}", self.handle.true_time().as_secs_f64(), line());
            self.state().trace.push(line);
        }
    }

    pub fn report_violation(&self, what: impl Into<String>) {
        self.state().job_invariants.report_violation(what);
    }

    /// What was broken first.
    pub fn violation(&self) -> Option<String> {
        let state = self.state();
        state.job_invariants.violation.clone().or_else(|| state.lease_invariants.broken.clone())
    }

    /// Looks at what happened on the host.
    pub fn observe_host(&self, world: &World) {
        let mut state = self.state();
        let CheckerState { job_invariants, lease_invariants, done, machines, .. } = &mut *state;
        let mut by_task = BTreeSet::new();
        for task in world.all_tasks().filter(|task| task.state == TaskState::Success) {
            if done.insert(task.id.clone()) {
                job_invariants.task_done(&task.id, &task.machine, world.revision());
                by_task.insert(task.machine.clone());
            }
        }
        for machine in world.machines() {
            let machine_now = in_process::machine(machine);
            let (power, tools_running) = (machine_now.power_state, machine.guest.tools_running);
            let truth = machines.entry(machine.id.clone()).or_insert_with(|| GroundTruth {
                power,
                run: machine.run,
                tools_running,
                address: None,
                states: Vec::new(),
            });
            if truth.states.last().is_none_or(|(_, last)| *last != machine_now) {
                truth.states.push((world.revision(), machine_now));
            }
            truth.address.clone_from(&machine.guest.address);
            if truth.power != power {
                job_invariants.power(&machine.id, power);
                if !by_task.contains(&machine.id) {
                    job_invariants.changed_by(&machine.id, None);
                }
            }
            if truth.tools_running && (!tools_running || truth.run != machine.run) {
                job_invariants.guest_stopped(&machine.id);
            }
            (truth.power, truth.run, truth.tools_running) = (power, machine.run, tools_running);
        }
        lease_invariants.touched(std::mem::take(&mut job_invariants.changed_machines));
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
        let mut state = self.state();
        state.disk.insert(job);
        state.job_invariants.inserted(job);
    }

    fn updated(&self, job: &Job, world: &World) {
        self.trace(|| format!("{} is on disk as {} ({})", job.id, job.state.as_str(), job.phase));
        let mut state = self.state();
        let CheckerState { disk, job_invariants, lease_invariants, machines, .. } = &mut *state;
        let Some(before) = disk.update(job) else { return };
        let power =
            machines.get(job.machine_id().unwrap().backend_text()).and_then(|truth| truth.power);
        job_invariants.updated(&before, job, power, self.handle.true_time(), disk);
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
        let mut state = self.state();
        let CheckerState { disk, lease_invariants, step: (at, candidates), .. } = &mut *state;
        let before = disk.save_leases(step);
        lease_invariants.committed((step, *at, candidates), &before, disk);
        lease_invariants.check_made(world);
    }

    /// A call leaves otter.
    pub fn sent(&self, job: JobId, machine: &MachineId, call: &HostCall) {
        self.trace(|| format!("{job} calls {} of {machine}", call.kind().as_str()));
        let mut state = self.state();
        let CheckerState { disk, job_invariants, lease_invariants, .. } = &mut *state;
        job_invariants.sent(job, call, disk);
        lease_invariants.sent(job, disk);
    }

    /// The host took a call.
    pub fn call_accepted(&self, job: JobId, call: &HostCall, accepted: &Accepted, revision: u64) {
        self.trace(|| format!("the host takes {} of {job}: {accepted:?}", call.kind().as_str()));
        let task = match accepted {
            Accepted::Task(task) => Some(task.backend_text()),
            Accepted::Done => None,
        };
        self.state().job_invariants.call_accepted(job, call, task, revision);
    }

    /// The number by which a reader remembers when it began to read.
    pub fn read_started(&self) -> u64 {
        self.state().job_invariants.count()
    }

    /// A reader who began to read at `begun` sees this job together with this picture.
    pub fn job_reported(&self, job: &Job, read_started: u64, contents: &InventoryContents) {
        let mut state = self.state();
        let CheckerState { disk, job_invariants, machines, .. } = &mut *state;
        let id = job.machine_id().unwrap();
        let machine = contents.machine(id).filter(|_| contents.loaded);
        // Before the picture is loaded nobody is shown a machine.
        let visible_revision = machine.and_then(|machine| {
            Some(machines.get(id.backend_text())?.visible_revision(machine))
        });
        let power = machine.and_then(|machine| machine.power_state);
        job_invariants.job_reported(
            job,
            read_started,
            visible_revision.unwrap_or(u64::MAX),
            power,
            disk,
        );
    }

    /// No address is shown that the guest does not have in this run, if the picture knows all of
    /// the machine.
    pub fn check_addresses(&self, contents: &InventoryContents) {
        let mut state = self.state();
        let CheckerState { job_invariants, machines, .. } = &mut *state;
        for machine in &contents.machines {
            let id = machine.id.backend_text();
            let (Some(address), Some(truth)) = (contents.ip_address(&machine.id), machines.get(id)) else {
                continue;
            };
            if truth.visible_revision(machine) == u64::MAX
                && truth.address.as_deref() != Some(address)
            {
                job_invariants.report_violation(format!(
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
        let mut state = self.state();
        let CheckerState { disk, job_invariants, lease_invariants, .. } = &mut *state;
        job_invariants.crashed(clock_jumps, now, disk);
        lease_invariants.crashed(now);
    }
}

impl GroundTruth {
    /// Up to which revision of the host a picture is true that shows the machine so.
    fn visible_revision(&self, shown: &Machine) -> u64 {
        let is_shown = |(_, machine): &(u64, Machine)| {
            // A direct read of the guest adds its addresses.
            let mut machine = machine.clone();
            machine.guest.ip_addresses.clone_from(&shown.guest.ip_addresses);
            machine == *shown
        };
        let index = self.states.iter().rposition(is_shown);
        index.and_then(|index| self.states.get(index + 1)).map_or(u64::MAX, |(since, _)| since - 1)
    }
}

/// What the picture shows that the host does not have, or the other way.
pub fn difference(contents: &InventoryContents, world: &World) -> Option<String> {
    let (inventory_count, host_count) = (contents.machines.len(), world.machines().count());
    if inventory_count != host_count {
        return Some(format!("the picture has {inventory_count} machines, the host {host_count}"));
    }
    world.machines().map(in_process::machine).find_map(|expected| {
        let shown = contents.machine(&expected.id).map(Arc::as_ref);
        let id = &expected.id;
        (shown != Some(&expected))
            .then(|| format!("the picture has {id} as {shown:?}, the host as {expected:?}"))
    })
}
