//! What goes wrong: how badly a run is treated, and each thing that can happen to the host, to the
//! way there, or to otter.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use otter::simulator::Fault;
use otter::simulator::world::World;

use super::Run;
use super::host;
use super::random::Random;

/// How a run is treated. The numbers are percentages.
#[derive(Clone, Debug)]
pub struct FaultProfile {
    /// The call never reaches the host, and otter cannot know.
    pub lost_before: u64,
    /// The call ran, and otter cannot know.
    pub lost_after: u64,
    /// The answer to a client is lost.
    pub lost_answer: u64,
    /// A direct read fails.
    pub unreadable: u64,
    /// A client gives a short deadline.
    pub short_deadline: u64,
    pub client_pause: Duration,
    pub fault_pause: Duration,
    /// Whether anybody asks for leases.
    pub leases: bool,
    /// Which of the faults happen at all.
    pub faults: Vec<InjectedFault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedFault {
    Crash,
    /// The daemon gets a signal to stop, and starts again.
    Stop,
    /// hostd restarts: its tasks are forgotten, and what runs goes on or not.
    HostdRestarts,
    HostReboots,
    /// The network is cut.
    Outage,
    /// The session, or only the connection, is gone; the host is there.
    SessionLost,
    TasksForgotten,
    TaskFails,
    /// Somebody else does something to a machine.
    ForeignOperation,
    Question,
    Deleted,
    /// Unregistered and registered again: a new moid.
    Reregistered,
    /// Its moid is given to another machine.
    MoidReused,
    Renamed,
    /// The wall clock of otter's own machine.
    ClockJumps,
    /// No commit succeeds for a while.
    DiskFull,
}

impl InjectedFault {
    const ALL: [Self; 16] = [
        Self::Crash,
        Self::Stop,
        Self::HostdRestarts,
        Self::HostReboots,
        Self::Outage,
        Self::SessionLost,
        Self::TasksForgotten,
        Self::TaskFails,
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
    /// Some runs are calm, some have one kind of trouble, some have all.
    pub fn new(random: &mut Random) -> Self {
        let some = |random: &mut Random, max: u64| {
            if random.percent(50) { random.below(max) } else { 0 }
        };
        let faults = match random.below(4) {
            0 => Vec::new(),
            1 => random.pick(&InjectedFault::ALL).copied().into_iter().collect(),
            2 => vec![InjectedFault::Crash],
            _ => InjectedFault::ALL.into_iter().filter(|_| random.percent(60)).collect(),
        };
        let leases = random.percent(75);
        // If trouble comes every few seconds, hardly a lease is ever granted.
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

    /// Nothing gets lost any more.
    pub fn disable_faults(&mut self) {
        self.lost_before = 0;
        self.lost_after = 0;
        self.lost_answer = 0;
        self.unreadable = 0;
        self.faults.clear();
    }
}

/// Faults strike until all is quiet.
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
            // To some time within hours of the right one.
            let seconds = i64::try_from(run.random().below(14_400)).unwrap() - 7_200;
            run.handle.set_skew(SignedDuration::from_secs(seconds));
        }
        InjectedFault::DiskFull => {
            run.disk.set_full(true);
            run.checker.state().lease_invariants.nothing_is_kept_for(outage);
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

/// Does something to some machine. It says whether that changed what the machine does.
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
    let mut seen = run.checker.state();
    for id in machines {
        seen.job_invariants.changed_by(id, None);
    }
}

fn forget_tasks(run: &Run) {
    run.checker.state().job_invariants.tasks_forgotten();
    let keep_running = run.random().percent(50);
    run.host.mutate(|world| world.forget_tasks(keep_running));
}

/// Nothing answers for this long.
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
