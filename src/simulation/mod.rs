//! The whole of otter below its API in one thread on stepped time: the real drivers, queues, picture and recovery, over
//! the simulator's world and a modelled store, for one seed.
//!
//! ```text
//! seed ─► random ─► agenda: clients ─► otter (drivers, queues, picture) ─► host (world)
//!                     │  faults, crashes ─┘   │ commits: disk        deeds │
//!                     └─ trace                └──────► promises ◄──────────┘
//! ```
//! Every choice comes from the seed, so that a seed that breaks a promise breaks it again. `tests` says how many seeds run.

mod agenda;
mod asking;
mod clients;
mod disk;
mod faults;
mod history;
mod holders;
mod host;
mod leasing;
mod life;
mod looking;
mod otter;
mod promises;
mod random;
mod stream;
mod tenancy;
mod tests;
mod trace;
mod translation;
mod wire;
mod work;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::agenda::Agenda;
use self::clients::{Client, Post};
use self::disk::Disk;
use self::faults::Temper;
use self::host::Host;
use self::leasing::Stage;
use self::otter::Otter;
use self::promises::Promises;
use self::random::Random;
use self::tenancy::Tenancy;
use self::trace::Trace;
use self::work::Step;
use crate::domain::ids::{JobId, LeaseId, MachineId, TaskId};
use crate::domain::lease::LeaseState;
use crate::hypervisor::{Fact, Facts};
use crate::sabotage::Sabotage;
use crate::service::jobs::driver::{Interrupt, Rules};
use crate::service::jobs::runner::GRACE;
use crate::service::jobs::sight;

/// `esx.guest_settle`
const GUEST_SETTLE: Duration = Duration::from_secs(30);
/// How many events a run has before it quietens down, and how many it may take to come to its end.
const EVENTS: u32 = 250;
/// The same of a run with leases, in which each takes many.
const LEASE_EVENTS: u32 = 500;
/// Who waits for a job looks twice a second, and the clock may have gone back by hours.
const LAST_EVENTS: u32 = 100_000;

/// Which job waits for something, in which life, and for which of its effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    life: u32,
    job: JobId,
    serial: u64,
}

/// Who waits for a commit.
#[derive(Clone, Debug)]
pub enum Waits {
    Accept(Box<Post>),
    Save(Tag),
    /// The wish to cancel a job, in which life.
    Wish(u32, JobId),
    /// The same of one that came while the job was being saved, which goes on then.
    WishAfterSave(Tag),
    Desk,
    Nobody,
}

pub enum Event {
    Client(usize),
    Fault,
    Work(Tag, Step),
    /// The oldest write is committed.
    Commit(u32),
    Alarm {
        life: u32,
        job: JobId,
        grace: bool,
    },
    /// The deadline of a job that waits.
    Expire {
        life: u32,
        job: JobId,
        machine: MachineId,
    },
    /// A job that ended is taken off the board.
    Left {
        life: u32,
        job: JobId,
        machine: MachineId,
    },
    /// The host is asked to cancel a task.
    Cancel {
        task: TaskId,
        tell: Option<Tag>,
    },
    /// The stream brings news.
    Deliver(u32),
    List(u32),
    Connect(u32),
    /// Guests whose address is doubted are read.
    Confirm(u32),
    Confirmed(u32, Box<Fact>),
    Restart,
    /// At the moment of a write.
    Crash(u32),
    Reachable,
    /// There is space on the disk again.
    Space,
    /// The time of some lease is over, or is to be noted.
    Desk(u32),
    Lease(u32, LeaseId, LeaseState, Stage),
}

pub struct Simulation {
    random: Random,
    now: Duration,
    agenda: Agenda<Event>,
    host: Host,
    disk: Disk<Waits>,
    /// None while it is down.
    otter: Option<Otter>,
    lives: u32,
    last_commit: Duration,
    clients: Vec<Client>,
    temper: Temper,
    sabotage: Sabotage,
    rules: Rules,
    promises: Promises,
    tenancy: Tenancy,
    /// By how much the wall clock is ahead.
    skew: SignedDuration,
    last_lease: (u64, u64),
    trace: Trace,
    next_job: u128,
    /// Faults and clients have stopped.
    quiet: bool,
    events: u32,
    /// The world as it was last looked at: power, run of the guest, whether tools run.
    seen: BTreeMap<String, (Option<crate::domain::power::PowerState>, u64, bool)>,
}

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
    /// Calls for a lease that were answered with the one of an earlier call.
    pub repeated: usize,
    pub events: u32,
}

/// Runs a seed to its end, or to the first broken promise.
pub fn run(seed: u64, sabotage: Sabotage, traced: bool) -> Outcome {
    let mut simulation = Simulation::new(seed, sabotage, traced);
    while simulation.promises.broken.is_none() && simulation.step() {}
    if simulation.promises.broken.is_none() {
        simulation.check_end();
    }
    Outcome {
        broken: simulation.promises.broken.take(),
        trace: simulation.trace.lines(),
        jobs: simulation.disk.jobs.len(),
        unknowns: simulation.promises.unknowns,
        leases: simulation.disk.leases.len(),
        grants: simulation.tenancy.grants,
        refused: simulation.disk.refused,
        repeated: simulation.tenancy.repeated,
        events: simulation.events,
    }
}

impl Simulation {
    fn new(seed: u64, sabotage: Sabotage, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let temper = Temper::new(&mut random);
        let machines = 1 + random.below(3);
        let host = Host::new(&mut random, machines);
        let mut simulation = Self {
            now: Duration::ZERO,
            agenda: Agenda::new(),
            host,
            disk: Disk::new(),
            otter: None,
            lives: 0,
            last_commit: Duration::ZERO,
            clients: Vec::new(),
            temper,
            sabotage,
            rules: Rules { settle: Duration::from_secs(30), sabotage },
            promises: Promises::default(),
            tenancy: Tenancy::default(),
            skew: SignedDuration::ZERO,
            last_lease: (0, 0),
            trace: Trace::new(traced),
            next_job: 1,
            quiet: false,
            events: 0,
            seen: BTreeMap::new(),
            random,
        };
        let temper = format!("{:?}", simulation.temper);
        simulation.trace.note(Duration::ZERO, || temper);
        for client in 0..=usize::try_from(simulation.random.below(4)).unwrap_or_default() {
            simulation.clients.push(Client::default());
            simulation.agenda.plan(Duration::from_secs(1), Event::Client(client));
        }
        simulation.agenda.plan(Duration::from_secs(2), Event::Fault);
        if simulation.temper.leases {
            simulation.host.power_down();
        }
        simulation.look_around();
        simulation.start();
        simulation
    }

    /// The next thing happens. False where nothing will, or it has been enough.
    fn step(&mut self) -> bool {
        self.events += 1;
        let enough = if self.temper.leases { LEASE_EVENTS } else { EVENTS };
        if self.events == enough {
            self.calm_down();
        }
        if self.events > enough {
            let over = self
                .otter
                .as_ref()
                .is_some_and(|otter| otter.entries.is_empty() && otter.connected && otter.desk.is_idle());
            if over && self.agenda_is_idle() {
                return false;
            }
            if self.events > enough + LAST_EVENTS {
                self.promises.break_promise(format!("it comes to no end: {}", self.left_over()));
                return false;
            }
        }
        let world = self.host.world.next_due();
        let ours = self.agenda.next_at();
        match (world, ours) {
            (Some(world), ours) if ours.is_none_or(|ours| world <= ours) => {
                self.now = self.now.max(world);
                self.host.advance(self.now);
            }
            (_, Some(ours)) => {
                self.now = self.now.max(ours);
                self.host.advance(self.now);
                self.look_around();
                if let Some(event) = self.agenda.take() {
                    self.happens(event);
                }
            }
            (_, None) => return false,
        }
        self.look_around();
        self.poll();
        self.desk_turns();
        self.plan_ahead();
        self.tenancy.touched(std::mem::take(&mut self.promises.touched));
        self.tenancy.check_made(&self.host.world);
        if let Some(broken) = self.tenancy.broken.take() {
            self.promises.break_promise(broken);
        }
        true
    }

    fn happens(&mut self, event: Event) {
        let life = self.otter.as_ref().map(|otter| otter.life);
        match event {
            Event::Client(client) => self.client_acts(client),
            Event::Fault => self.fault_strikes(),
            Event::Work(tag, step) => self.work(tag, step),
            Event::Commit(of) if life == Some(of) => {
                if let Some(written) = self.disk.commit() {
                    self.written(written);
                }
            }
            Event::Alarm { life: of, job, grace } if life == Some(of) => {
                if let Some(left) = self.left_of(job, grace) {
                    self.agenda.plan(self.now + left, Event::Alarm { life: of, job, grace });
                    return;
                }
                let otter = self.otter.as_ref();
                if let Some(run) = otter.and_then(|otter| otter.run(job)) {
                    let machine = run.driver.job().machine_id().unwrap();
                    let question =
                        otter.is_some_and(|otter| sight::question(&otter.picture, machine).is_some());
                    let interrupt =
                        if grace { Interrupt::GraceOver } else { Interrupt::Deadline { question } };
                    self.interrupt(job, interrupt);
                }
            }
            Event::Expire { life: of, job, machine } if life == Some(of) => match self.left_of(job, false) {
                Some(left) => {
                    self.agenda.plan(self.now + left, Event::Expire { life: of, job, machine });
                }
                None => self.expire(job, &machine),
            },
            Event::Left { life: of, job, machine } if life == Some(of) => {
                if let Some(otter) = &mut self.otter {
                    otter.entries.remove(&job);
                }
                self.dispatch(&machine);
                self.changed();
            }
            Event::Cancel { task, tell } => {
                if self.host.reachable {
                    let cancelled = self.host.world.cancel_task(task.backend_text()).is_ok();
                    self.trace.note(self.now, || format!("the host is asked to cancel {task}: {cancelled}"));
                }
                if let Some(tag) = tell {
                    self.work(tag, Step::Asked);
                }
            }
            Event::Deliver(of) if life == Some(of) => {
                if let Some(otter) = &mut self.otter {
                    otter.planned.delivery = false;
                    if otter.connected {
                        self.deliver(false);
                    }
                }
            }
            Event::List(of) if life == Some(of) => self.list(),
            Event::Connect(of) if life == Some(of) => self.connect(),
            Event::Confirm(of) if life == Some(of) => self.confirm(),
            Event::Confirmed(of, fact) if life == Some(of) => {
                self.observe(Facts { complete: false, changes: vec![*fact] }, Vec::new());
            }
            Event::Desk(of) if life == Some(of) => self.time_passed(),
            Event::Lease(of, id, state, next) if life == Some(of) => self.lease_goes_on(id, state, next),
            Event::Crash(of) if life == Some(of) => self.crash(),
            Event::Restart if self.otter.is_none() => self.start(),
            Event::Reachable => self.host.reachable = true,
            Event::Space => self.disk.full = false,
            // They were of another life.
            _ => {}
        }
    }

    /// Plans what comes by itself, wherever it is not planned.
    fn plan_ahead(&mut self) {
        let now = self.now;
        let Some(otter) = &mut self.otter else { return };
        if let Some(at) = otter.desk.next_at().filter(|_| !otter.planned.desk) {
            otter.planned.desk = true;
            self.agenda.plan(at.max(now), Event::Desk(otter.life));
        }
        let life = otter.life;
        if !otter.connected {
            if self.host.reachable && !otter.planned.connection {
                otter.planned.connection = true;
                let at = now + self.random.between(Duration::from_millis(50), Duration::from_secs(6));
                self.agenda.plan(at, Event::Connect(life));
            }
            return;
        }
        otter.stream.notice(&self.host);
        if otter.stream.has_news() && !otter.planned.delivery {
            otter.planned.delivery = true;
            let at = now + self.random.between(Duration::from_millis(1), Duration::from_millis(400));
            self.agenda.plan(at, Event::Deliver(life));
        }
        if otter.stream.has_unlisted() && !otter.planned.listing {
            otter.planned.listing = true;
            self.agenda.plan(now + self.random.latency(), Event::List(life));
        }
        if let Some(at) = otter.confirm_at().filter(|_| !otter.planned.confirmation) {
            otter.planned.confirmation = true;
            self.agenda.plan(at.max(now) + self.random.latency(), Event::Confirm(life));
        }
    }

    /// Faults and clients stop; time goes on.
    fn calm_down(&mut self) {
        self.trace.note(self.now, || "*** all is quiet from now on".to_owned());
        self.quiet = true;
        self.host.reachable = true;
        self.disk.full = false;
        self.temper.lost_before = 0;
        self.temper.lost_after = 0;
        self.temper.unreadable = 0;
        if self.otter.is_none() {
            self.agenda.plan(self.now, Event::Restart);
        }
    }

    /// Whether only what does not matter any more is still to come.
    fn agenda_is_idle(&self) -> bool {
        self.otter.as_ref().is_some_and(|otter| !otter.stream.has_news())
    }

    fn left_over(&self) -> String {
        let entries = self.otter.iter().flat_map(|otter| otter.entries.iter());
        let jobs = entries.map(|(id, entry)| {
            let run = entry.run.as_ref();
            format!("{id} {} {:?}", entry.live.job.kind().as_str(), run.map(|run| (&run.driver, &run.work)))
        });
        let jobs = jobs.collect::<Vec<_>>().join("; ");
        let otter = self.otter.as_ref();
        let planned =
            otter.map(|otter| (otter.connected, &otter.planned, otter.stream.has_news(), otter.confirm_at()));
        format!("{jobs}, connected, planned, news, confirmation: {planned:?}, at {:?}", self.now)
    }

    /// What the wall clock says.
    fn wall(&self) -> Timestamp {
        host::wall(self.now).saturating_add(self.skew).unwrap_or(Timestamp::MAX)
    }

    /// How long it is until the deadline of a job, as those who sleep until then find out; none where it is over.
    fn left_of(&self, job: JobId, grace: bool) -> Option<Duration> {
        let deadline = self.otter.as_ref()?.entries.get(&job)?.live.job.deadline_at;
        let grace = if grace { GRACE } else { Duration::ZERO };
        let left = Duration::try_from(deadline.duration_since(self.wall())).ok()? + grace;
        (left > grace).then_some(left)
    }

    /// At the end every job has ended, every machine is free of jobs, and the picture is the world.
    fn check_end(&mut self) {
        self.deliver(true);
        self.promises.sweep(&self.disk);
        if let Some(job) = self.disk.jobs.values().find(|job| !job.state.is_end()) {
            let what = format!("{} never ended; it is {} ({})", job.id, job.state.as_str(), job.phase);
            self.promises.break_promise(what);
        }
        if let Some(lease) = self.disk.leases.values().find(|lease| !lease.state.is_end()) {
            let what = format!("the lease {} never ended; it is {}", lease.id, lease.state.as_str());
            self.promises.break_promise(what);
        }
        self.check_machines();
        let counts = self.otter.as_ref().map(|otter| otter.queues.counts());
        if counts != Some((0, 0)) {
            self.promises.break_promise(format!("jobs are left in the queues: {counts:?}"));
        }
    }
}
