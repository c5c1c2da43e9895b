//! Deterministic simulation of otter below its API: one seed runs the real services in one thread
//! on simulated time, over the simulated host and a disk in memory.
//!
//! ```text
//! seed ─► executor ─► clients ─► lifecycle: jobs, leases, inventory … ─► unreliable_host ─► host
//!            │  faults, crashes ─┘        └─► disk (commits) ──┐                             │
//!            └─ time                      └─► events, answers ─┴► invariant_checker ◄────────┘
//! ```
//! Every choice comes from the seed, so a seed that violates an invariant violates it again. The
//! services must therefore not choose by anything else: their selects are biased, their maps are
//! ordered, and time, random numbers and tasks come from outside. `tests.rs` says which seeds run.

mod checked_storage;
mod clients;
mod committed;
mod executor;
mod faults;
mod host;
mod invariant_checker;
mod job_history;
mod job_invariants;
mod lease_clients;
mod lease_invariants;
mod lifecycle;
mod mistakes;
mod random;
mod tests;
mod unreliable_host;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use otter::clock::Clock;
use otter::service::machines::{MachineView, NotFreeReason, SourcesKey};
use otter::simulator::world::World;

use self::executor::{Executor, Handle, Owner, Progress};
use self::faults::{FaultProfile, InjectedFault};
use self::invariant_checker::{InvariantChecker, difference};
use self::lifecycle::Services;
use self::mistakes::Mistake;
use self::random::Random;
use crate::in_process::SimulatedHost;
use crate::storage::in_memory::{Disk, Moment};

/// How long clients act and faults are injected.
const ACTIVE_TIME: Duration = Duration::from_mins(10);
/// The maximum time from the end of the active time until all jobs and leases have ended. The wall
/// clock may have gone back by hours, and a removal may take a day.
const MAX_END_TIME: Duration = Duration::from_hours(30);

/// The maximum number of executor steps while the time stands still.
const MAX_STEPS_WITHOUT_TIME: u32 = 100_000;

/// The result of a run.
pub struct RunOutcome {
    /// The first violated invariant. `None` if all invariants held.
    pub violation: Option<String>,
    pub trace: Vec<String>,
    pub jobs: usize,
    pub unknowns: usize,
    pub leases: usize,
    pub grants: usize,
    /// How often a lease met a fault of the whole host.
    pub host_faults: usize,
    /// The number of writes that a full disk refused.
    pub refused: usize,
    /// The number of calls with a key that were answered with the job or lease of an earlier call.
    pub repeated: usize,
    /// How often the daemon was started.
    pub starts: u32,
}

/// The state that all parts of a run share.
pub struct Run {
    pub handle: Handle,
    pub clock: Clock,
    pub checker: Arc<InvariantChecker>,
    pub host: SimulatedHost,
    pub disk: Disk,
    pub mistake: Option<Mistake>,
    pub repeated: AtomicUsize,
    random: Mutex<Random>,
    profile: Mutex<FaultProfile>,
    is_quiet: AtomicBool,
    /// The number of the current process of the daemon, or of the last one.
    incarnation: AtomicU32,
    is_alive: AtomicBool,
    kill_requested: AtomicBool,
    /// The services while the daemon serves.
    services: Mutex<Option<Services>>,
    /// The revision of the host that the checker has observed.
    observed_revision: AtomicU64,
    /// The views of all machines after the last step, and what they were made of.
    kept_views: Mutex<Option<(SourcesKey, Vec<MachineView>)>>,
    /// The last run of each guest that got its own address, by the instance UUID of the machine.
    guests: Mutex<BTreeMap<String, u64>>,
}

/// Runs a seed to its end, or to the first violation.
pub fn run(seed: u64, mistake: Option<Mistake>, is_tracing: bool) -> RunOutcome {
    let mut random = Random::new(seed);
    let mut executor = Executor::new(&mut random);
    let run = Run::new(random, executor.handle(), mistake, is_tracing);
    Run::start(&run);
    let mut phase = RunPhase::Active;
    let mut steps = 0;
    while run.checker.violation().is_none() {
        if run.kill_requested.swap(false, Ordering::Relaxed) {
            run.kill_daemon(&mut executor);
        }
        let stepped = executor.step();
        run.observe_host();
        run.check_kept_views();
        if stepped == Progress::Stuck {
            run.checker.report_violation("every task waits for another task");
        }
        steps = if stepped == Progress::Time { 0 } else { steps + 1 };
        if steps > MAX_STEPS_WITHOUT_TIME {
            run.checker.report_violation("a task runs again and again while the time stands still");
        }
        if stepped == Progress::Time {
            phase = run.next_phase(phase);
            if phase == RunPhase::Over {
                break;
            }
        }
    }
    let violation = run.checker.violation();
    *run.services.lock().unwrap() = None;
    executor.kill(Owner::Environment);
    executor.kill(Owner::Daemon(run.incarnation()));
    run.outcome(violation)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunPhase {
    Active,
    /// Clients and faults have stopped; jobs and leases go on.
    Quiet,
    /// All jobs and leases have ended. The inventory catches up until this time.
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
        let profile = FaultProfile::new(&mut random);
        let clock = Clock::from_time(handle.clone());
        let checker = Arc::new(InvariantChecker::new(handle.clone(), is_tracing));
        checker.trace(|| format!("{profile:?}"));
        Arc::new(Self {
            host: host::new(&mut random, clock.clone(), profile.leases),
            disk: disk(&mut random),
            handle,
            clock,
            checker,
            mistake,
            repeated: AtomicUsize::new(0),
            random: Mutex::new(random),
            profile: Mutex::new(profile),
            is_quiet: AtomicBool::new(false),
            incarnation: AtomicU32::new(0),
            is_alive: AtomicBool::new(false),
            kill_requested: AtomicBool::new(false),
            services: Mutex::new(None),
            observed_revision: AtomicU64::new(0),
            kept_views: Mutex::default(),
            guests: Mutex::default(),
        })
    }

    fn start(run: &Arc<Self>) {
        run.observe_host();
        let (host, checker) = (run.host.clone(), Arc::clone(&run.checker));
        run.disk.watch(move |committed| host.look(|world| checker.committed(committed, world)));
        let host = run.host.clone();
        run.spawn(async move { match host.drive().await {} });
        lifecycle::start(run);
        run.spawn(faults::inject_faults(Arc::clone(run)));
        for number in 0..=run.random().below(4) {
            run.spawn(clients::run_client(Arc::clone(run), number));
        }
    }

    /// The next phase at the current time.
    fn next_phase(self: &Arc<Self>, phase: RunPhase) -> RunPhase {
        let now = self.handle.true_time();
        match phase {
            RunPhase::Active if now >= ACTIVE_TIME => {
                self.checker.trace(|| "*** clients and faults stop".to_owned());
                self.is_quiet.store(true, Ordering::Relaxed);
                self.profile.lock().unwrap().disable_faults();
                RunPhase::Quiet
            }
            RunPhase::Quiet if now >= ACTIVE_TIME + MAX_END_TIME => {
                self.checker
                    .report_violation(format!("the run does not end: {}", self.unfinished_work()));
                RunPhase::Over
            }
            RunPhase::Quiet if self.has_ended() => RunPhase::Ending(now + Duration::from_mins(1)),
            // A call that was on its way may have started a job or a lease.
            RunPhase::Ending(until) if now >= until && !self.has_ended() => RunPhase::Quiet,
            RunPhase::Ending(until) if now >= until => {
                self.check_end();
                RunPhase::Over
            }
            phase => phase,
        }
    }

    fn has_ended(&self) -> bool {
        let Some(services) = self.services() else { return false };
        let state = self.checker.state();
        state.disk.jobs.values().all(|job| job.state.is_end())
            && state.disk.leases.values().all(|lease| lease.state.is_end())
            // A machine that is not quarantined is released as soon as the host works.
            && state
                .disk
                .machines
                .values()
                .all(|stored| stored.recovery.is_none() || stored.quarantine.is_some())
            && services.jobs.counts() == (0, 0)
            && services.inventory.away_for().is_none()
    }

    fn unfinished_work(&self) -> String {
        let state = self.checker.state();
        let jobs = state.disk.jobs.values().filter(|job| !job.state.is_end());
        let jobs = jobs.map(|job| format!("{} ({}) {}", job.id, job.kind().as_str(), job.phase));
        let leases = state.disk.leases.values().filter(|lease| !lease.state.is_end());
        let leases = leases.map(|lease| format!("lease {} {}", lease.id, lease.state.as_str()));
        let left: Vec<String> = jobs.chain(leases).collect();
        let counts = self.services().map(|services| services.jobs.counts());
        format!("{}; in the queues {counts:?}", left.join(", "))
    }

    /// Checks that no view of a machine has changed while the state that views show counts as the
    /// same: what was made of it is kept for so long.
    fn check_kept_views(&self) {
        let sources = self.services().and_then(|services| {
            let sources = services.machines.sources().ok()?;
            let views = services.machines.views(&sources, &sources.contents().machines);
            Some((sources, views))
        });
        let mut kept = self.kept_views.lock().unwrap();
        if let (Some((key, before)), Some((sources, now))) = (&*kept, &sources)
            && key.is_of(sources)
            && before != now
        {
            self.checker.report_violation("a view has changed, and its sources count as the same");
        }
        *kept = sources.map(|(sources, views)| (sources.key(), views));
    }

    /// Checks that no machine has a job or a lease, and that the inventory matches the host.
    fn check_end(&self) {
        let Some(services) = self.services() else { return };
        {
            let mut state = self.checker.state();
            let invariant_checker::CheckerState { job_invariants, disk, .. } = &mut *state;
            job_invariants.sweep(disk);
        }
        let contents = services.inventory.contents();
        if let Some(difference) = self.host.look(|world| difference(&contents, world)) {
            self.checker.report_violation(difference);
        }
        for machine in &contents.machines {
            let view = services.machines.get(&machine.id);
            let is_occupied = |reason: &NotFreeReason| {
                matches!(
                    reason,
                    NotFreeReason::Leased | NotFreeReason::Job | NotFreeReason::Releasing
                )
            };
            if let Some(reason) =
                view.and_then(|view| view.not_free_because.into_iter().find(is_occupied))
            {
                self.checker.report_violation(format!("{} is not free: {reason:?}", machine.name));
            }
        }
    }

    fn outcome(&self, violation: Option<String>) -> RunOutcome {
        let mut state = self.checker.state();
        RunOutcome {
            violation,
            trace: std::mem::take(&mut state.trace),
            jobs: state.disk.jobs.len(),
            unknowns: state.job_invariants.unknowns,
            leases: state.disk.leases.len(),
            grants: state.lease_invariants.grants,
            host_faults: state.lease_invariants.host_faults,
            refused: state.refused,
            repeated: self.repeated.load(Ordering::Relaxed),
            starts: self.incarnation(),
        }
    }

    /// Lets the checker observe the host, and gives each run of a guest its own address.
    pub fn observe_host(&self) {
        if self.observed_revision.load(Ordering::Relaxed) == self.host.look(World::revision) {
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
        self.host.look(|world| self.checker.observe_host(world));
        self.observed_revision.store(self.host.look(World::revision), Ordering::Relaxed);
    }

    /// Kills the daemon. A random number of commits that it has handed over still reach the disk.
    fn kill_daemon(self: &Arc<Self>, executor: &mut Executor) {
        *self.services.lock().unwrap() = None;
        executor.kill(Owner::Daemon(self.incarnation()));
        self.is_alive.store(false, Ordering::Relaxed);
        let waiting = self.disk.waiting() as u64;
        let survivors = self.random().below(waiting + 1);
        self.disk.crash(usize::try_from(survivors).unwrap());
        self.checker.crashed(self.profile().faults.contains(&InjectedFault::ClockJumps));
        let max_pause = if self.random().percent(60) { 5 } else { 100 };
        let run = Arc::clone(self);
        self.spawn(async move {
            run.pause_between(Duration::from_millis(50), Duration::from_secs(max_pause)).await;
            lifecycle::start(&run);
        });
    }

    /// Kills the daemon before the next step, if it runs.
    pub fn crash(&self) {
        if self.is_alive.load(Ordering::Relaxed) {
            self.kill_requested.store(true, Ordering::Relaxed);
        }
    }

    /// Kills the daemon with this chance in percent, if the run has crashes.
    pub fn crash_with(&self, chance: u64) {
        if self.profile().faults.contains(&InjectedFault::Crash) && self.random().percent(chance) {
            self.crash();
        }
    }

    /// Sends the daemon the signal to stop, and kills it if it takes too long.
    pub fn stop(self: &Arc<Self>) {
        let Some(services) = self.services() else { return };
        services.supervisor.stop();
        let (run, incarnation) = (Arc::clone(self), self.incarnation());
        self.spawn(async move {
            run.pause_between(Duration::ZERO, Duration::from_secs(20)).await;
            if run.is_running(incarnation) {
                run.crash();
            }
        });
    }

    /// Whether this process of the daemon runs.
    pub fn is_running(&self, incarnation: u32) -> bool {
        self.is_alive.load(Ordering::Relaxed) && self.incarnation() == incarnation
    }

    fn incarnation(&self) -> u32 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// The services. `None` while otter does not serve.
    pub fn services(&self) -> Option<Services> {
        self.services.lock().unwrap().clone()
    }

    pub fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Relaxed)
    }

    pub fn profile(&self) -> FaultProfile {
        self.profile.lock().unwrap().clone()
    }

    pub fn random(&self) -> MutexGuard<'_, Random> {
        self.random.lock().unwrap()
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(Owner::Environment, task);
    }

    /// Waits for a random latency.
    pub async fn pause(&self) {
        let latency = self.random().latency();
        self.handle.pause(latency).await;
    }

    pub async fn pause_between(&self, min: Duration, max: Duration) {
        let pause = self.random().between(min, max);
        self.handle.pause(pause).await;
    }
}

/// An empty disk with random latencies.
fn disk(random: &mut Random) -> Disk {
    let mut random = Random::new(random.next());
    Disk::new(move |moment| match moment {
        Moment::Read | Moment::Answer => random.between(Duration::ZERO, Duration::from_millis(5)),
        Moment::Commit => random.latency(),
    })
}
