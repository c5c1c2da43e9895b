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
pub struct Temper {
    /// The call never reaches the host, and otter cannot know.
    pub lost_before: u64,
    /// The call ran, and otter cannot know.
    pub lost_after: u64,
    /// The answer to a client is lost.
    pub lost_answer: u64,
    /// A direct read fails.
    pub unreadable: u64,
    /// A client gives a short deadline.
    pub hasty: u64,
    pub client_pause: Duration,
    pub fault_pause: Duration,
    /// Whether anybody asks for leases.
    pub leases: bool,
    /// Which of the faults happen at all.
    pub faults: Vec<Mishap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
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
    Meddling,
    Question,
    Deleted,
    /// Unregistered and registered again: a new moid.
    Registered,
    /// Its moid is given to another machine.
    MoidReused,
    Renamed,
    /// The wall clock of otter's own machine.
    ClockJumps,
    /// No commit succeeds for a while.
    DiskFull,
}

impl Mishap {
    const ALL: [Self; 16] = [
        Self::Crash,
        Self::Stop,
        Self::HostdRestarts,
        Self::HostReboots,
        Self::Outage,
        Self::SessionLost,
        Self::TasksForgotten,
        Self::TaskFails,
        Self::Meddling,
        Self::Question,
        Self::Deleted,
        Self::Registered,
        Self::MoidReused,
        Self::Renamed,
        Self::ClockJumps,
        Self::DiskFull,
    ];
}

impl Temper {
    /// Some runs are calm, some have one kind of trouble, some have all.
    pub fn new(random: &mut Random) -> Self {
        let some = |random: &mut Random, most: u64| {
            if random.percent(50) { random.below(most) } else { 0 }
        };
        let faults = match random.below(4) {
            0 => Vec::new(),
            1 => random.pick(&Mishap::ALL).copied().into_iter().collect(),
            2 => vec![Mishap::Crash],
            _ => Mishap::ALL.into_iter().filter(|_| random.percent(60)).collect(),
        };
        let leases = random.percent(75);
        // If trouble comes every few seconds, hardly a lease is ever granted.
        let rarely = if leases && random.percent(85) { 10 } else { 1 };
        Self {
            lost_before: some(random, 20),
            lost_after: some(random, 20),
            lost_answer: some(random, 30),
            unreadable: some(random, 10),
            hasty: some(random, 60),
            client_pause: Duration::from_millis(500 + random.below(20_000)),
            fault_pause: Duration::from_millis(500 + rarely * random.below(30_000)),
            leases,
            faults,
        }
    }

    /// Nothing gets lost any more.
    pub fn calm_down(&mut self) {
        self.lost_before = 0;
        self.lost_after = 0;
        self.lost_answer = 0;
        self.unreadable = 0;
        self.faults.clear();
    }
}

/// Faults strike until all is quiet.
pub async fn strike(run: Arc<Run>) {
    loop {
        let pause = run.temper().fault_pause;
        run.pause_between(Duration::from_millis(50), pause).await;
        if run.is_quiet() {
            return;
        }
        let faults = run.temper().faults;
        let Some(mishap) = run.random().pick(&faults).copied() else { return };
        run.witness.trace(|| format!("*** {mishap:?}"));
        happen(&run, mishap);
    }
}

fn happen(run: &Arc<Run>, mishap: Mishap) {
    let away = run.random().between(Duration::from_millis(100), Duration::from_secs(90));
    match mishap {
        Mishap::Crash => run.crash(),
        Mishap::Stop => run.stop(),
        Mishap::SessionLost => {
            let is_whole = run.random().percent(50);
            if is_whole { run.host.drop_sessions() } else { run.host.cut_connections() }
        }
        Mishap::Outage => cut(run, away),
        Mishap::HostdRestarts => {
            forget_tasks(run);
            run.host.drop_sessions();
            cut(run, away);
        }
        Mishap::HostReboots => {
            run.witness.seen().promises.tasks_forgotten();
            changed(run, &run.host.look(machine_ids));
            run.host.reboot();
            cut(run, away);
        }
        Mishap::TasksForgotten => forget_tasks(run),
        Mishap::TaskFails => {
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
        Mishap::Meddling => on_some_machine(run, host::meddle),
        Mishap::Question => on_some_machine(run, |world, random, id| {
            host::ask(world, random, id);
            true
        }),
        Mishap::Renamed => on_some_machine(run, |world, random, id| {
            let name = format!("renamed-{}", random.below(100));
            world.machine_mut(id).unwrap().name = name;
            false
        }),
        Mishap::ClockJumps => {
            // To some time within hours of the right one.
            let seconds = i64::try_from(run.random().below(14_400)).unwrap() - 7_200;
            run.handle.jump(SignedDuration::from_secs(seconds));
        }
        Mishap::DiskFull => {
            run.disk.set_full(true);
            run.witness.seen().lease_invariants.nothing_is_kept_for(away);
            let later = Arc::clone(run);
            run.spawn(async move {
                later.handle.pause(away).await;
                later.disk.set_full(false);
            });
        }
        Mishap::Deleted | Mishap::Registered | Mishap::MoidReused => {
            on_some_machine(run, |world, random, id| {
                let removed = world.remove_machine(id).unwrap();
                match mishap {
                    Mishap::Registered => host::register_anew(world, removed),
                    Mishap::MoidReused => {
                        let number = 100 + random.below(1_000_000_000);
                        host::add_machine(world, random, id, number);
                    }
                    _ => {}
                }
                true
            });
        }
    }
    run.look_around();
}

/// Does something to some machine. It says whether that changed what the machine does.
fn on_some_machine(run: &Run, act: impl FnOnce(&mut World, &mut Random, &str) -> bool) {
    let ids = run.host.look(machine_ids);
    let mut random = run.random();
    let Some(id) = random.pick(&ids).cloned() else { return };
    let is_changed = run.host.mutate(|world| act(world, &mut random, &id));
    if is_changed {
        changed(run, &[id]);
    }
}

fn changed(run: &Run, machines: &[String]) {
    let mut seen = run.witness.seen();
    for id in machines {
        seen.promises.changed_by(id, None);
    }
}

fn forget_tasks(run: &Run) {
    run.witness.seen().promises.tasks_forgotten();
    let go_on = run.random().percent(50);
    run.host.mutate(|world| world.forget_tasks(go_on));
}

/// Nothing answers for this long.
fn cut(run: &Arc<Run>, away: Duration) {
    run.host.set_reachable(false);
    let later = Arc::clone(run);
    run.spawn(async move {
        later.handle.pause(away).await;
        later.host.set_reachable(true);
    });
}

fn machine_ids(world: &World) -> Vec<String> {
    world.machines().map(|machine| machine.id.clone()).collect()
}
