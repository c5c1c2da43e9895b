//! otter below its API, for one seed: the real services in one thread on simulated time, over the
//! simulated host and a disk in memory.
//!
//! ```text
//! seed ─► executor ─► clients ─► life: jobs, leases, inventory … ─► remote ─► host
//!            │  faults, deaths ─┘        └─► disk (commits) ─┐                  │
//!            └─ time                    └─► events, answers ─┴► witness ◄───────┘
//! ```
//! Every choice comes from the seed, so that a seed that breaks a promise breaks it again. For that
//! the services may not choose by anything else: their selects are biased, their maps are ordered,
//! and time, randomness and tasks come from outside. `tests` says which seeds run.

mod clients;
mod committed;
mod executor;
mod faults;
mod history;
mod host;
mod lease_clients;
mod lease_invariants;
mod life;
mod mistakes;
mod promises;
mod random;
mod remote;
mod storage;
mod tests;
mod witness;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use otter::clock::Clock;
use otter::service::machines::NotFreeReason;
use otter::simulator::world::World;

use self::executor::{Executor, Handle, Owner, Stepped};
use self::faults::{Mishap, Temper};
use self::life::Services;
use self::mistakes::Mistake;
use self::random::Random;
use self::witness::{Witness, difference};
use crate::in_process::SimulatedHost;
use crate::storage::in_memory::{Disk, Moment};

/// How long clients and faults go on.
const ACTIVE: Duration = Duration::from_mins(10);
/// How long everything may take to come to its end after that. The wall clock may have gone back by
/// hours, and a removal may take a day.
const END: Duration = Duration::from_hours(30);

/// How many tasks may go on in turn while the time stands still.
const STANDSTILL: u32 = 100_000;

/// What a run came to.
pub struct Outcome {
    pub broken: Option<String>,
    pub trace: Vec<String>,
    pub jobs: usize,
    pub unknowns: usize,
    pub leases: usize,
    pub grants: usize,
    /// Writes that a full disk refused.
    pub refused: usize,
    /// Calls with a key that were answered with what an earlier call began.
    pub repeated: usize,
    pub lives: u32,
}

/// What all parts of a run share.
pub struct Run {
    pub handle: Handle,
    pub clock: Clock,
    pub witness: Arc<Witness>,
    pub host: SimulatedHost,
    pub disk: Disk,
    pub mistake: Option<Mistake>,
    pub repeated: AtomicUsize,
    random: Mutex<Random>,
    temper: Mutex<Temper>,
    is_quiet: AtomicBool,
    /// The life that the daemon has now, or had last.
    life: AtomicU32,
    is_alive: AtomicBool,
    is_to_die: AtomicBool,
    /// While it serves.
    services: Mutex<Option<Services>>,
    /// The revision of the host that the bystander has seen.
    looked_at: AtomicU64,
    /// The run of each guest that was given its address, by the instance UUID of its machine.
    guests: Mutex<BTreeMap<String, u64>>,
}

/// Runs a seed to its end, or to the first broken promise.
pub fn run(seed: u64, mistake: Option<Mistake>, is_tracing: bool) -> Outcome {
    let mut random = Random::new(seed);
    let mut executor = Executor::new(&mut random);
    let run = Run::new(random, executor.handle(), mistake, is_tracing);
    Run::begin(&run);
    let mut phase = Phase::Active;
    let mut since = 0;
    while run.witness.broken().is_none() {
        if run.is_to_die.swap(false, Ordering::Relaxed) {
            run.die(&mut executor);
        }
        let stepped = executor.step();
        run.look_around();
        if stepped == Stepped::Stuck {
            run.witness.break_promise("everybody waits for somebody else");
        }
        since = if stepped == Stepped::Time { 0 } else { since + 1 };
        if since > STANDSTILL {
            run.witness.break_promise("somebody spins without time going on");
        }
        if stepped == Stepped::Time {
            phase = run.go_on(phase);
            if phase == Phase::Over {
                break;
            }
        }
    }
    let broken = run.witness.broken();
    *run.services.lock().unwrap() = None;
    executor.kill(Owner::World);
    executor.kill(Owner::Life(run.life()));
    run.outcome(broken)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Active,
    /// Clients and faults have stopped.
    Quiet,
    /// Everything has ended; the inventory catches up until then.
    Ending(Duration),
    Over,
}

impl Run {
    fn new(
        mut random: Random,
        handle: Handle,
        mistake: Option<Mistake>,
        is_tracing: bool,
    ) -> Arc<Self> {
        let temper = Temper::new(&mut random);
        let clock = Clock::from_time(handle.clone());
        let witness = Arc::new(Witness::new(handle.clone(), is_tracing));
        witness.trace(|| format!("{temper:?}"));
        Arc::new(Self {
            host: host::new(&mut random, clock.clone(), temper.leases),
            disk: disk(&mut random),
            handle,
            clock,
            witness,
            mistake,
            repeated: AtomicUsize::new(0),
            random: Mutex::new(random),
            temper: Mutex::new(temper),
            is_quiet: AtomicBool::new(false),
            life: AtomicU32::new(0),
            is_alive: AtomicBool::new(false),
            is_to_die: AtomicBool::new(false),
            services: Mutex::new(None),
            looked_at: AtomicU64::new(0),
            guests: Mutex::default(),
        })
    }

    fn begin(run: &Arc<Self>) {
        run.look_around();
        let (host, witness) = (run.host.clone(), Arc::clone(&run.witness));
        run.disk.watch(move |committed| host.look(|world| witness.committed(committed, world)));
        let host = run.host.clone();
        run.spawn(async move { match host.drive().await {} });
        life::start(run);
        run.spawn(faults::strike(Arc::clone(run)));
        for number in 0..=run.random().below(4) {
            run.spawn(clients::act(Arc::clone(run), number));
        }
    }

    /// What follows as time goes by.
    fn go_on(self: &Arc<Self>, phase: Phase) -> Phase {
        let now = self.handle.true_time();
        match phase {
            Phase::Active if now >= ACTIVE => {
                self.witness.trace(|| "*** all is quiet from now on".to_owned());
                self.is_quiet.store(true, Ordering::Relaxed);
                self.temper.lock().unwrap().calm_down();
                Phase::Quiet
            }
            Phase::Quiet if now >= ACTIVE + END => {
                self.witness.break_promise(format!("it comes to no end: {}", self.left_over()));
                Phase::Over
            }
            Phase::Quiet if self.has_ended() => Phase::Ending(now + Duration::from_mins(1)),
            // A call that was on its way may have begun something new.
            Phase::Ending(until) if now >= until && !self.has_ended() => Phase::Quiet,
            Phase::Ending(until) if now >= until => {
                self.check_end();
                Phase::Over
            }
            phase => phase,
        }
    }

    fn has_ended(&self) -> bool {
        let Some(services) = self.services() else { return false };
        let seen = self.witness.seen();
        seen.disk.jobs.values().all(|job| job.state.is_end())
            && seen.disk.leases.values().all(|lease| lease.state.is_end())
            && services.jobs.counts() == (0, 0)
            && services.inventory.away_for().is_none()
    }

    fn left_over(&self) -> String {
        let seen = self.witness.seen();
        let jobs = seen.disk.jobs.values().filter(|job| !job.state.is_end());
        let jobs = jobs.map(|job| format!("{} ({}) {}", job.id, job.kind().as_str(), job.phase));
        let leases = seen.disk.leases.values().filter(|lease| !lease.state.is_end());
        let leases = leases.map(|lease| format!("lease {} {}", lease.id, lease.state.as_str()));
        let left: Vec<String> = jobs.chain(leases).collect();
        let counts = self.services().map(|services| services.jobs.counts());
        format!("{}; in the queues {counts:?}", left.join(", "))
    }

    /// In the end every machine is free of jobs and leases, and the picture is the world.
    fn check_end(&self) {
        let Some(services) = self.services() else { return };
        {
            let mut seen = self.witness.seen();
            let witness::Seen { promises, disk, .. } = &mut *seen;
            promises.sweep(disk);
        }
        let contents = services.inventory.contents();
        if let Some(difference) = self.host.look(|world| difference(&contents, world)) {
            self.witness.break_promise(difference);
        }
        for machine in &contents.machines {
            let view = services.machines.get(&machine.id);
            let is_kept = |reason: &NotFreeReason| {
                matches!(reason, NotFreeReason::Leased | NotFreeReason::Job)
            };
            if let Some(reason) =
                view.and_then(|view| view.not_free_because.into_iter().find(is_kept))
            {
                self.witness.break_promise(format!("{} is not free: {reason:?}", machine.name));
            }
        }
    }

    fn outcome(&self, broken: Option<String>) -> Outcome {
        let mut seen = self.witness.seen();
        Outcome {
            broken,
            trace: std::mem::take(&mut seen.trace),
            jobs: seen.disk.jobs.len(),
            unknowns: seen.promises.unknowns,
            leases: seen.disk.leases.len(),
            grants: seen.lease_invariants.grants,
            refused: seen.refused,
            repeated: self.repeated.load(Ordering::Relaxed),
            lives: self.life(),
        }
    }

    /// Looks at what happened on the host, and gives each run of a guest its address.
    pub fn look_around(&self) {
        if self.looked_at.load(Ordering::Relaxed) == self.host.look(World::revision) {
            return;
        }
        let new: Vec<String> = self.host.look(|world| {
            let mut guests = self.guests.lock().unwrap();
            let is_new = |machine: &&otter::simulator::world::Machine| {
                let known = guests.insert(machine.instance_uuid.clone(), machine.run);
                known.is_some_and(|known| known != machine.run) && machine.guest.tools_installed
            };
            world.machines().filter(is_new).map(|machine| machine.id.clone()).collect()
        });
        for id in new {
            let mut random = self.random();
            self.host.mutate(|world| host::give_address(world, &mut random, &id));
        }
        self.host.look(|world| self.witness.look(world));
        self.looked_at.store(self.host.look(World::revision), Ordering::Relaxed);
    }

    /// The daemon dies now.
    fn die(self: &Arc<Self>, executor: &mut Executor) {
        *self.services.lock().unwrap() = None;
        executor.kill(Owner::Life(self.life()));
        self.is_alive.store(false, Ordering::Relaxed);
        let waiting = self.disk.waiting() as u64;
        let survivors = self.random().below(waiting + 1);
        self.disk.crash(usize::try_from(survivors).unwrap());
        self.witness.crashed(self.temper().faults.contains(&Mishap::ClockJumps));
        let most = if self.random().percent(60) { 5 } else { 100 };
        let run = Arc::clone(self);
        self.spawn(async move {
            run.pause_between(Duration::from_millis(50), Duration::from_secs(most)).await;
            life::start(&run);
        });
    }

    /// Has the daemon die before anything else happens, if it lives.
    pub fn crash(&self) {
        if self.is_alive.load(Ordering::Relaxed) {
            self.is_to_die.store(true, Ordering::Relaxed);
        }
    }

    /// The daemon may die here, if it dies at all in this run.
    pub fn crash_with(&self, chance: u64) {
        if self.temper().faults.contains(&Mishap::Crash) && self.random().percent(chance) {
            self.crash();
        }
    }

    /// The daemon gets a signal to stop, and is killed if it takes too long.
    pub fn stop(self: &Arc<Self>) {
        let Some(services) = self.services() else { return };
        services.supervisor.stop();
        let (run, life) = (Arc::clone(self), self.life());
        self.spawn(async move {
            run.pause_between(Duration::ZERO, Duration::from_secs(20)).await;
            if run.lives(life) {
                run.crash();
            }
        });
    }

    pub fn lives(&self, life: u32) -> bool {
        self.is_alive.load(Ordering::Relaxed) && self.life() == life
    }

    fn life(&self) -> u32 {
        self.life.load(Ordering::Relaxed)
    }

    /// None while otter does not serve.
    pub fn services(&self) -> Option<Services> {
        self.services.lock().unwrap().clone()
    }

    pub fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Relaxed)
    }

    pub fn temper(&self) -> Temper {
        self.temper.lock().unwrap().clone()
    }

    pub fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(Owner::World, task);
    }

    /// Waits as long as something takes that is mostly quick.
    pub async fn pause(&self) {
        let latency = self.random().latency();
        self.handle.pause(latency).await;
    }

    pub async fn pause_between(&self, least: Duration, most: Duration) {
        let pause = self.random().between(least, most);
        self.handle.pause(pause).await;
    }
}

/// An empty disk, of which everything takes its time.
fn disk(random: &mut Random) -> Disk {
    let mut random = Random::new(random.next());
    Disk::new(move |moment| match moment {
        Moment::Read | Moment::Answer => random.between(Duration::ZERO, Duration::from_millis(5)),
        Moment::Commit => random.latency(),
    })
}
