//! Fault injection: how often calls and answers are lost in a run, and the faults of the host, of
//! the connection to it, and of the daemon.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use otter::simulator::Fault;
use otter::simulator::world::World;

use super::Run;
use super::host;
use super::random::Random;

/// The faults of a run. The numbers are percentages.
#[derive(Clone, Debug)]
pub struct FaultProfile {
    /// A call does not reach the host, and otter cannot know that.
    pub lost_before: u64,
    /// A call ran, and otter cannot know that.
    pub lost_after: u64,
    /// The answer to a client is lost.
    pub lost_answer: u64,
    /// A direct read fails.
    pub unreadable: u64,
    /// A client requests a short deadline.
    pub short_deadline: u64,
    pub client_pause: Duration,
    pub fault_pause: Duration,
    /// Whether clients use leases.
    pub leases: bool,
    /// The faults that are injected.
    pub faults: Vec<InjectedFault>,
}

/// A fault that can be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    /// The daemon is killed and started again.
    Crash,
    /// The daemon gets the signal to stop, and is started again.
    Stop,
    /// hostd restarts and forgets its tasks. Running operations go on or stop.
    HostdRestarts,
    HostReboots,
    /// The host is unreachable for a while.
    Outage,
    /// All sessions end, or only the connections break. The host stays reachable.
    SessionLost,
    TasksForgotten,
    TaskFails,
    /// For a while the whole host lacks resources or disk space or is in maintenance mode, or the
    /// licence or the account allows no change.
    HostWideFault,
    /// Another client starts an operation on a machine.
    ForeignOperation,
    Question,
    Deleted,
    /// A machine is unregistered and registered again, with a new moid.
    Reregistered,
    /// A machine is replaced by another machine with the same moid.
    MoidReused,
    Renamed,
    /// The wall clock of the machine of otter jumps.
    ClockJumps,
    /// No commit succeeds for a while.
    DiskFull,
}

impl InjectedFault {
    const ALL: [Self; 17] = [
        Self::Crash,
        Self::Stop,
        Self::HostdRestarts,
        Self::HostReboots,
        Self::Outage,
        Self::SessionLost,
        Self::TasksForgotten,
        Self::TaskFails,
        Self::HostWideFault,
        Self::ForeignOperation,
        Self::Question,
        Self::Deleted,
        Self::Reregistered,
        Self::MoidReused,
        Self::Renamed,
        Self::ClockJumps,
        Self::DiskFull,
    ];
}

impl FaultProfile {
    /// A random profile. Some runs have no faults, some have one kind, and some have many kinds.
    pub fn new(random: &mut Random) -> Self {
        let some = |random: &mut Random, max: u64| {
            if random.percent(50) { random.below(max) } else { 0 }
        };
        let faults = match random.below(5) {
            0 => Vec::new(),
            1 => random.pick(&InjectedFault::ALL).copied().into_iter().collect(),
            2 => vec![InjectedFault::Crash],
            3 => vec![InjectedFault::HostWideFault, InjectedFault::Crash],
            _ => InjectedFault::ALL.into_iter().filter(|_| random.percent(60)).collect(),
        };
        let leases = random.percent(75);
        // If faults happen every few seconds, hardly any lease is granted.
        let pause_factor = if leases && random.percent(85) { 10 } else { 1 };
        Self {
            lost_before: some(random, 20),
            lost_after: some(random, 20),
            lost_answer: some(random, 30),
            unreadable: some(random, 10),
            short_deadline: some(random, 60),
            client_pause: Duration::from_millis(500 + random.below(20_000)),
            fault_pause: Duration::from_millis(500 + pause_factor * random.below(30_000)),
            leases,
            faults,
        }
    }

    /// Switches all faults off.
    pub fn disable_faults(&mut self) {
        self.lost_before = 0;
        self.lost_after = 0;
        self.lost_answer = 0;
        self.unreadable = 0;
        self.faults.clear();
    }
}

/// Injects faults until the active phase of the run ends.
pub async fn inject_faults(run: Arc<Run>) {
    loop {
        let pause = run.profile().fault_pause;
        run.pause_between(Duration::from_millis(50), pause).await;
        if run.is_quiet() {
            return;
        }
        let faults = run.profile().faults;
        let Some(fault) = run.random().pick(&faults).copied() else { return };
        run.checker.trace(|| format!("*** {fault:?}"));
        inject(&run, fault);
    }
}

fn inject(run: &Arc<Run>, fault: InjectedFault) {
    let outage = run.random().between(Duration::from_millis(100), Duration::from_secs(90));
    match fault {
        InjectedFault::Crash => run.crash(),
        InjectedFault::Stop => run.stop(),
        InjectedFault::SessionLost => {
            let is_session_lost = run.random().percent(50);
            if is_session_lost { run.host.drop_sessions() } else { run.host.cut_connections() }
        }
        InjectedFault::Outage => start_outage(run, outage),
        InjectedFault::HostdRestarts => {
            forget_tasks(run);
            run.host.drop_sessions();
            start_outage(run, outage);
        }
        InjectedFault::HostReboots => {
            run.checker.state().job_invariants.tasks_forgotten();
            record_changes(run, &run.host.look(machine_ids));
            run.host.reboot();
            start_outage(run, outage);
        }
        InjectedFault::TasksForgotten => forget_tasks(run),
        InjectedFault::TaskFails => {
            let methods = [
                "PowerOnVM_Task",
                "PowerOffVM_Task",
                "RevertToSnapshot_Task",
                "CreateSnapshot_Task",
            ];
            let method = *run.random().pick(&methods).unwrap();
            let fault = Fault::new("FileLocked", "Unable to access file.");
            run.host.mutate(|world| world.fail_next_task(method, fault));
        }
        InjectedFault::HostWideFault => start_host_wide_fault(run, outage * 3),
        InjectedFault::ForeignOperation => on_some_machine(run, host::start_foreign_operation),
        InjectedFault::Question => on_some_machine(run, |world, random, id| {
            host::ask(world, random, id);
            true
        }),
        InjectedFault::Renamed => on_some_machine(run, |world, random, id| {
            let name = format!("renamed-{}", random.below(100));
            world.machine_mut(id).unwrap().name = name;
            false
        }),
        InjectedFault::ClockJumps => {
            // The clock jumps by up to two hours in either direction.
            let seconds = i64::try_from(run.random().below(14_400)).unwrap() - 7_200;
            run.handle.set_skew(SignedDuration::from_secs(seconds));
        }
        InjectedFault::DiskFull => {
            run.disk.set_full(true);
            run.checker.state().lease_invariants.storage_failed_for(outage);
            let later = Arc::clone(run);
            run.spawn(async move {
                later.handle.pause(outage).await;
                later.disk.set_full(false);
            });
        }
        InjectedFault::Deleted | InjectedFault::Reregistered | InjectedFault::MoidReused => {
            on_some_machine(run, |world, random, id| {
                let removed = world.remove_machine(id).unwrap();
                match fault {
                    InjectedFault::Reregistered => host::register_again(world, removed),
                    InjectedFault::MoidReused => {
                        let number = 100 + random.below(1_000_000_000);
                        host::add_machine(world, random, id, number);
                    }
                    _ => {}
                }
                true
            });
        }
    }
    run.observe_host();
}

/// Runs `act` on a random machine. `act` returns whether it changed the machine or its guest.
fn on_some_machine(run: &Run, act: impl FnOnce(&mut World, &mut Random, &str) -> bool) {
    let ids = run.host.look(machine_ids);
    let mut random = run.random();
    let Some(id) = random.pick(&ids).cloned() else { return };
    let is_changed = run.host.mutate(|world| act(world, &mut random, &id));
    if is_changed {
        record_changes(run, &[id]);
    }
}

fn record_changes(run: &Run, machines: &[String]) {
    let mut state = run.checker.state();
    for id in machines {
        state.job_invariants.changed_by(id, None);
    }
}

fn forget_tasks(run: &Run) {
    run.checker.state().job_invariants.tasks_forgotten();
    let keep_running = run.random().percent(50);
    run.host.mutate(|world| world.forget_tasks(keep_running));
}

/// Makes the whole host, its licence or its account fail for this long.
fn start_host_wide_fault(run: &Arc<Run>, duration: Duration) {
    let kind = run.random().below(5);
    set_host_wide_fault(run, kind, true);
    let later = Arc::clone(run);
    run.spawn(async move {
        later.handle.pause(duration).await;
        set_host_wide_fault(&later, kind, false);
        later.observe_host();
    });
}

fn set_host_wide_fault(run: &Run, kind: u64, begins: bool) {
    run.checker.trace(|| format!("the host-wide fault {kind} begins: {begins}"));
    run.host.mutate(|world| {
        let failing: &[(&'static str, &'static str)] = match kind {
            0 => &[
                ("PowerOnVM_Task", "InsufficientResourcesFault"),
                ("RevertToSnapshot_Task", "InsufficientHostCapacityFault"),
            ],
            1 => &[
                ("PowerOnVM_Task", "NoDiskSpace"),
                ("PowerOffVM_Task", "NoDiskSpace"),
                ("RevertToSnapshot_Task", "NoDiskSpace"),
                ("CreateSnapshot_Task", "NoDiskSpace"),
            ],
            2 => return world.set_maintenance_mode(begins),
            3 => return world.rules.read_only_licence = begins,
            _ => return world.rules.read_only_account = begins,
        };
        for (method, fault) in failing {
            if begins {
                let fault = Fault::new(fault, "The whole host fails.");
                world.rules.failing_tasks.insert(method, fault);
            } else {
                world.rules.failing_tasks.remove(method);
            }
        }
    });
}

/// Makes the host unreachable for this long.
fn start_outage(run: &Arc<Run>, outage: Duration) {
    run.host.set_reachable(false);
    let later = Arc::clone(run);
    run.spawn(async move {
        later.handle.pause(outage).await;
        later.host.set_reachable(true);
    });
}

fn machine_ids(world: &World) -> Vec<String> {
    world.machines().map(|machine| machine.id.clone()).collect()
}
