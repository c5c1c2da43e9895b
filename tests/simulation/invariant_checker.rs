//! The invariant checker: it gets every call, commit, event and answer, observes the true state of
//! the host, and checks both against the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use otter::domain::call::HostCall;
use otter::domain::ids::{JobId, MachineId};
use otter::domain::job::{Job, JobState};
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

/// The invariant checker.
pub struct InvariantChecker {
    handle: Handle,
    is_tracing: bool,
    state: Mutex<CheckerState>,
}

/// What the checker has observed so far.
#[derive(Default)]
pub struct CheckerState {
    pub disk: Committed,
    pub job_invariants: JobInvariants,
    pub lease_invariants: LeaseInvariants,
    pub trace: Vec<String>,
    /// The number of refused writes.
    pub refused: usize,
    /// When otter asked for the last commit of leases, and the candidate machines at that time.
    pub step: (Duration, Vec<CandidateMachine>),
    /// The tasks of the host that have succeeded.
    done: BTreeSet<String>,
    machines: BTreeMap<String, GroundTruth>,
}

/// The true state of a machine.
struct GroundTruth {
    power: Option<PowerState>,
    /// The number of the run of its guest.
    run: u64,
    tools_running: bool,
    /// The address of the guest of the machine in this run.
    address: Option<String>,
    /// The states of the machine, each with the first revision of the host that has it.
    states: Vec<(u64, Machine)>,
}

impl InvariantChecker {
    pub fn new(handle: Handle, is_tracing: bool) -> Self {
        Self { handle, is_tracing, state: Mutex::default() }
    }

    /// Locks the knowledge of the checker.
    pub fn state(&self) -> MutexGuard<'_, CheckerState> {
        self.state.lock().unwrap()
    }

    /// Adds a line to the trace, if the run is traced.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if self.is_tracing {
            let line = format!("{:>12.3} {}", self.handle.true_time().as_secs_f64(), line());
            self.state().trace.push(line);
        }
    }

    /// Reports a violation. Only the first one counts.
    pub fn report_violation(&self, what: impl Into<String>) {
        self.state().job_invariants.report_violation(what);
    }

    /// The first violation.
    pub fn violation(&self) -> Option<String> {
        let state = self.state();
        state.job_invariants.violation.clone().or_else(|| state.lease_invariants.broken.clone())
    }

    /// Observes the changes of the host.
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
            let machine_now = in_process::machine(world, machine);
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
        lease_invariants.check_released(world);
    }

    /// Called when a commit has reached the disk.
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
        let now = self.handle.true_time();
        let CheckerState { disk, job_invariants, machines, .. } = &mut *state;
        disk.insert(job);
        let power =
            machines.get(job.machine_id().unwrap().backend_text()).and_then(|truth| truth.power);
        job_invariants.inserted(job, power, now, disk);
    }

    fn updated(&self, job: &Job, world: &World) {
        self.trace(|| format!("{} is on disk as {} ({})", job.id, job.state.as_str(), job.phase));
        let mut state = self.state();
        let CheckerState { disk, job_invariants, lease_invariants, machines, .. } = &mut *state;
        let Some(before) = disk.update(job) else { return };
        let power =
            machines.get(job.machine_id().unwrap().backend_text()).and_then(|truth| truth.power);
        job_invariants.updated(&before, job, power, self.handle.true_time(), disk);
        if job.state == JobState::Succeeded {
            let machines = world.machines().map(|machine| in_process::machine(world, machine));
            for machine in machines.filter(|machine| job.target.is_machine(&machine.identity())) {
                job_invariants.succeeded(job, &machine.snapshots);
            }
        }
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
        lease_invariants.check_released(world);
    }

    /// Called when otter sends a call.
    pub fn sent(&self, job: JobId, machine: &MachineId, call: &HostCall) {
        self.trace(|| format!("{job} calls {} of {machine}", call.kind().as_str()));
        let mut state = self.state();
        let CheckerState { disk, job_invariants, lease_invariants, .. } = &mut *state;
        job_invariants.sent(job, call, disk);
        lease_invariants.sent(job, disk);
    }

    /// Called when the host has accepted a call.
    pub fn call_accepted(&self, job: JobId, call: &HostCall, accepted: &Accepted, revision: u64) {
        self.trace(|| format!("the host accepts {} of {job}: {accepted:?}", call.kind().as_str()));
        let task = match accepted {
            Accepted::Task(task) => Some(task.backend_text()),
            Accepted::Done => None,
        };
        self.state().job_invariants.call_accepted(job, call, task, revision);
    }

    /// A number that stands for the start of a read.
    pub fn read_started(&self) -> u64 {
        self.state().job_invariants.count()
    }

    /// Called when a reader gets this job. The read started at `read_started`. `contents` is the
    /// inventory that the reader can read after it.
    pub fn job_reported(&self, job: &Job, read_started: u64, contents: &InventoryContents) {
        let mut state = self.state();
        let CheckerState { disk, job_invariants, machines, .. } = &mut *state;
        let id = job.machine_id().unwrap();
        let machine = contents.machine(id).filter(|_| contents.loaded);
        // Before the inventory is loaded, readers get no machines.
        let visible_revision = machine
            .and_then(|machine| Some(machines.get(id.backend_text())?.visible_revision(machine)));
        let power = machine.and_then(|machine| machine.power_state);
        job_invariants.job_reported(
            job,
            read_started,
            visible_revision.unwrap_or(u64::MAX),
            power,
            disk,
        );
    }

    /// Checks that otter reports no address of an earlier run of a guest, if the inventory is up to
    /// date with the machine.
    pub fn check_addresses(&self, contents: &InventoryContents) {
        let mut state = self.state();
        let CheckerState { job_invariants, machines, .. } = &mut *state;
        for machine in &contents.machines {
            let id = machine.id.backend_text();
            let address = contents.ip_address(&machine.id, None);
            let (Some(address), Some(truth)) = (address, machines.get(id)) else { continue };
            let address = address.to_string();
            if truth.visible_revision(machine) == u64::MAX
                && truth.address.as_ref() != Some(&address)
            {
                job_invariants.report_violation(format!(
                    "{id} is reported with {address}, and its guest has {:?}",
                    truth.address
                ));
            }
        }
    }

    /// Called when the daemon was killed.
    pub fn crashed(&self, clock_jumps: bool) {
        self.trace(|| "otter is killed".to_owned());
        let now = self.handle.true_time();
        let mut state = self.state();
        let CheckerState { disk, job_invariants, lease_invariants, .. } = &mut *state;
        job_invariants.crashed(clock_jumps, now, disk);
        lease_invariants.crashed(now);
    }
}

impl GroundTruth {
    /// The last revision of the host at which the machine was in this state. `u64::MAX` if the
    /// machine is still in this state, or never was.
    fn visible_revision(&self, shown: &Machine) -> u64 {
        let is_shown = |(_, machine): &(u64, Machine)| {
            // A direct read of the guest may have added addresses.
            let mut machine = machine.clone();
            machine.guest.interfaces.clone_from(&shown.guest.interfaces);
            machine == *shown
        };
        let index = self.states.iter().rposition(is_shown);
        index.and_then(|index| self.states.get(index + 1)).map_or(u64::MAX, |(since, _)| since - 1)
    }
}

/// The first difference between the inventory and the host. `None` if there is none.
pub fn difference(contents: &InventoryContents, world: &World) -> Option<String> {
    let (inventory_count, host_count) = (contents.machines.len(), world.machines().count());
    if inventory_count != host_count {
        return Some(format!(
            "the inventory has {inventory_count} machines, the host {host_count}"
        ));
    }
    world.machines().map(|machine| in_process::machine(world, machine)).find_map(|expected| {
        let shown = contents.machine(&expected.id).map(Arc::as_ref);
        let id = &expected.id;
        (shown != Some(&expected))
            .then(|| format!("the inventory has {id} as {shown:?}, the host as {expected:?}"))
    })
}
