//! Plays one cell of the table before a whole otter: starts the job, lets the fault strike at the step, mends the host,
//! and sees the job to its end. Time stands still for otter and the host but for the ticks given here, and no task or
//! guest moves by itself.

use std::time::Duration;

use http::{HeaderMap, Request, StatusCode};
use otter::app::Settings;
use otter::clock::Clock;
use otter::simulator::world::{Choice, Machine, PowerState, Question, World};
use otter::simulator::{
    Comeback, Control, Disruption, Event, Fault as HostFault, Hand, Pace, Planned, Restart, Scenario,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::table::{Cell, Expected, Fault, Kind, Step};
use crate::harness::{Answer, Events, Lab, NDJSON, PATIENCE, Plan, encode};

/// How far a tick moves the time of otter and of the host.
const TICK: Duration = Duration::from_millis(100);

/// How long that takes.
const MOMENT: Duration = Duration::from_millis(4);

/// The deadline of every job here.
const DEADLINE: Duration = Duration::from_mins(10);

/// The machine whose changes are nudges and marks; nothing else happens to it.
const MARKER: &str = "31";

/// A whole otter and its host, on which cells are played one after the other.
pub struct Bench {
    pub lab: Lab,
    pub control: Control,
    pub clock: Clock,
    pub events: Events,
    template: Machine,
    cells: u32,
    nudges: u32,
}

/// One cell as it is played.
pub struct Play<'b> {
    pub bench: &'b mut Bench,
    pub cell: Cell,
    pub expected: &'b Expected,
    /// The moid of the machine that is meant.
    pub id: String,
    /// The machine as it was before the job.
    pub before: Machine,
    pub job: String,
    /// Every different state of the job that a poll showed.
    pub polls: Vec<Value>,
    /// What was wrong with a read.
    pub wrong_reads: Vec<String>,
    /// Whether reads say how old they are.
    stale: bool,
    /// Whether the machine is shown with running tools.
    tools_shown: bool,
    looks: u32,
    /// The struck task.
    task: Option<String>,
    logins: u64,
}

/// Whether the fault came to pass.
pub struct Proof(Box<dyn Fn(&Control) -> bool + Send>);

impl Proof {
    fn planned(planned: Planned) -> Self {
        Self(Box::new(move |_| planned.delivered() > 0))
    }

    fn all(proofs: Vec<Self>) -> Self {
        Self(Box::new(move |control| proofs.iter().all(|proof| proof.holds(control))))
    }

    pub fn holds(&self, control: &Control) -> bool {
        (self.0)(control)
    }
}

impl Bench {
    pub async fn start(settings: fn(&mut Settings)) -> Self {
        let clock = Clock::stepped("2026-11-25T00:00:00Z".parse().unwrap());
        let mut scenario = Scenario::lab().unwrap();
        scenario.host.session_timeout_minutes = 0;
        scenario.machines.retain(|machine| machine.id == MARKER);
        scenario.machines[0].annotation = "mark 0".to_owned();
        let plan = Plan { scenario, pace: Pace::Stepped, settings, clock: clock.clone() };
        let lab = Lab::with(plan).await;
        let events = Events::open_with(&lab, "?types=job.changed,machine.changed", &[NDJSON]).await;
        let control = lab.control().clone();
        // On, its tools at work and its address told.
        let template = control.look(|world| world.machine(MARKER).unwrap().clone());
        Self { lab, control, clock, events, template, cells: 0, nudges: 0 }
    }

    /// A GET without a socket between.
    pub async fn read(&self, path: &str) -> (StatusCode, HeaderMap, Value) {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = tower::ServiceExt::oneshot(self.lab.router.clone(), request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// One change of the marker, which ends a wait for updates that is pending. Gives the mark.
    pub fn nudge(&mut self) -> String {
        self.nudges += 1;
        let mark = format!("mark {}", self.nudges);
        self.lab.annotate(MARKER, &mark);
        mark
    }

    /// Puts the machine of a cell on the host, and waits until it is shown.
    async fn place(&mut self, kind: Kind) -> Result<Machine, String> {
        self.cells += 1;
        let number = self.cells;
        let mut machine = self.template.clone();
        machine.id = format!("{}", 1_000 + number);
        machine.name = format!("cell {number}");
        machine.path = format!("[datastore1] cell-{number}/cell-{number}.vmx");
        machine.instance_uuid = format!("52000000-0000-4000-8000-{number:012}");
        machine.bios_uuid = format!("56000000-0000-4000-8000-{number:012}");
        machine.network_cards[0].mac_address =
            format!("00:50:56:10:{:02x}:{:02x}", number >> 8, number & 0xff);
        let at = self.clock.now();
        let base = machine.add_snapshot(None, "base", PowerState::Off, at);
        let middle = machine.add_snapshot(Some(&base), "middle", PowerState::Off, at);
        let leaf = machine.add_snapshot(Some(&middle), "leaf", PowerState::Off, at);
        machine.add_snapshot(Some(&base), "awake", PowerState::On, at);
        machine.current_snapshot = Some(leaf);
        if kind == Kind::PowerOn {
            stop(&mut machine);
        }
        if kind == Kind::Answer {
            machine.question = Some(question());
        }
        self.control.mutate(|world| world.add_machine(machine.clone()));
        let path = format!("/v1/machines/{}", machine.id);
        self.until("the machine to be shown", async |bench| bench.read(&path).await.0 == StatusCode::OK)
            .await?;
        Ok(machine)
    }

    /// Takes the machines of a cell away and leaves the host as it was.
    pub async fn clear(&mut self) -> Result<(), String> {
        self.control.clear_disruptions();
        self.control.mutate(|world| {
            let ids: Vec<String> = world.machines().map(|machine| machine.id.clone()).collect();
            for id in ids.iter().filter(|id| *id != MARKER) {
                world.remove_machine(id);
            }
        });
        self.until("the machines to go", async |bench| {
            bench.read("/v1/machines").await.2["items"].as_array().is_some_and(|items| items.len() == 1)
        })
        .await?;
        // What comes next is a new trouble, and not the same one again.
        self.clock.advance(Duration::from_secs(61));
        Ok(())
    }

    /// Lets time pass until it is so.
    pub async fn until(
        &mut self,
        what: &str,
        mut so: impl AsyncFnMut(&mut Self) -> bool,
    ) -> Result<(), String> {
        let patience = Clock::system();
        while !so(self).await {
            if patience.elapsed() > PATIENCE {
                return Err(format!("waited in vain for {what}"));
            }
            self.tick().await;
        }
        Ok(())
    }

    /// Moves time on, and gives otter and the host a moment to do what is due.
    pub async fn tick(&self) {
        self.clock.advance(TICK);
        Clock::system().sleep(MOMENT).await;
    }
}

impl<'b> Play<'b> {
    /// Plays the cell to the end of its job, and gives the proof that the fault struck.
    pub async fn run(
        bench: &'b mut Bench,
        cell: Cell,
        expected: &'b Expected,
    ) -> Result<(Self, Proof), String> {
        let before = bench.place(cell.kind).await?;
        let logins = bench.control.calls("Login");
        let mut play = Self {
            bench,
            cell,
            expected,
            id: before.id.clone(),
            before,
            job: String::new(),
            polls: Vec::new(),
            wrong_reads: Vec::new(),
            stale: false,
            tools_shown: false,
            looks: 0,
            task: None,
            logins,
        };
        let proof = play.strike().await?;
        play.mend().await?;
        play.drive().await?;
        Ok((play, proof))
    }

    /// The job as last seen.
    pub fn seen(&self) -> &Value {
        self.polls.last().unwrap_or(&Value::Null)
    }

    pub fn ended(&self) -> bool {
        !self.seen()["finished_at"].is_null()
    }

    /// How often a login was tried since the cell began.
    pub fn logins(&self) -> u64 {
        self.control().calls("Login") - self.logins
    }

    pub const fn control(&self) -> &Control {
        &self.bench.control
    }

    /// Lets time pass, and looks at everything.
    pub async fn tick(&mut self) {
        self.bench.tick().await;
        self.look().await;
    }

    /// Reads what callers read, and notes what is wrong with it.
    pub async fn look(&mut self) {
        let machine = format!("/v1/machines/{}", self.id);
        self.looks += 1;
        let list = if self.looks.is_multiple_of(2) { "/v1/machines" } else { "/v1/datastores" };
        for path in [list, machine.as_str()] {
            let (status, headers, body) = self.bench.read(path).await;
            if path == machine {
                self.tools_shown = body["tools_status"] == "running";
            }
            let gone = status == StatusCode::NOT_FOUND && path == machine && self.is_gone();
            if status != StatusCode::OK && !gone {
                self.wrong_reads.push(format!("{path} answered {status}"));
            }
            self.stale = headers.contains_key("otter-stale");
        }
        if self.job.is_empty() {
            return;
        }
        let path = format!("/v1/jobs/{}", self.job);
        let (status, _, job) = self.bench.read(&path).await;
        if status != StatusCode::OK {
            self.wrong_reads.push(format!("{path} answered {status}"));
        } else if self.polls.last() != Some(&job) {
            self.polls.push(job);
        }
    }

    /// Lets time pass until it is so.
    async fn until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let patience = Clock::system();
        while !so(self) {
            if patience.elapsed() > PATIENCE {
                return Err(format!("waited in vain for {what}; the job: {}", self.seen()));
            }
            if self.ended() && !so(self) {
                return Err(format!("the job ended before {what}: {}", self.seen()));
            }
            self.tick().await;
        }
        Ok(())
    }

    async fn ticks(&mut self, count: u32) {
        for _ in 0..count {
            self.tick().await;
        }
    }

    /// Whether the machine that is meant is no longer under its moid.
    fn is_gone(&self) -> bool {
        self.control().look(|world| {
            world.machine(&self.id).is_none_or(|now| now.instance_uuid != self.before.instance_uuid)
        })
    }

    async fn strike(&mut self) -> Result<Proof, String> {
        let kind = self.cell.kind;
        match self.cell.step {
            Step::Before if kind.first().is_none() => {
                let planned = self.control().disrupt_next("RetrievePropertiesEx", self.at_read());
                self.start().await?;
                self.until("the read to be struck", |_| planned.delivered() > 0).await?;
                Ok(Proof::planned(planned))
            }
            Step::Before => {
                self.start().await?;
                self.first_call().await?;
                let planned = self.control().disrupt_next("RetrievePropertiesEx", self.at_read());
                self.first_done();
                self.until("the read to be struck", |_| planned.delivered() > 0).await?;
                Ok(Proof::planned(planned))
            }
            Step::AtCall => {
                let planned = self.control().disrupt_next(kind.method(), self.at_call());
                self.reach_the_call().await?;
                self.until("the call to be struck", |_| planned.delivered() > 0).await?;
                Ok(Proof::planned(planned))
            }
            Step::Unanswered => self.unanswered().await,
            Step::Accepted | Step::Progress | Step::Unreported => {
                self.reach_the_call().await?;
                self.reach_the_step().await?;
                self.at_work().await
            }
            Step::ResultRead => self.result_read().await,
        }
    }

    /// What is done to the read before the call.
    fn at_read(&self) -> Disruption {
        match self.cell.fault {
            Fault::CutBefore => Disruption::CloseBeforeRunning,
            Fault::CutMid => Disruption::CloseMidAnswer,
            Fault::CutAfter => Disruption::CloseAfterRunning,
            Fault::SlowDone => Disruption::NeverAnswer { run: true },
            Fault::Garbage => garbage(),
            Fault::Unavailable => unavailable(),
            _ => Disruption::Hand(self.hand(false), None),
        }
    }

    /// What is done as the call arrives.
    fn at_call(&self) -> Disruption {
        match self.cell.fault {
            Fault::PowerStateInCall if !minds_power(self.cell.kind) => {
                Disruption::Fault(HostFault::invalid_power_state(Some("poweredOn"), "poweredOff"))
            }
            Fault::HostRestarted | Fault::HostRebooted | Fault::GoneInOutage => {
                // What refuses it for want of a session would be an answer.
                Disruption::Hand(self.hand(false), Some(Box::new(Disruption::CloseBeforeRunning)))
            }
            _ => Disruption::Hand(self.hand(false), None),
        }
    }

    /// The call is with the host, and its answer does not come.
    async fn unanswered(&mut self) -> Result<Proof, String> {
        let method = self.cell.kind.method();
        let released = CancellationToken::new();
        let simple = match self.cell.fault {
            Fault::CutBefore => Some(Disruption::CloseBeforeRunning),
            Fault::CutMid => Some(Disruption::CloseMidAnswer),
            Fault::CutAfter => Some(Disruption::CloseAfterRunning),
            Fault::SlowDone => Some(Disruption::NeverAnswer { run: true }),
            Fault::SlowUndone => Some(Disruption::NeverAnswer { run: false }),
            Fault::Garbage => Some(garbage()),
            Fault::Unavailable => Some(unavailable()),
            _ => None,
        };
        let held = simple.is_none();
        let what = simple.unwrap_or(Disruption::CloseWhen { run: true, cancelled: released.clone() });
        let planned = self.control().disrupt_next(method, what);
        self.reach_the_call().await?;
        self.until("the call to be struck", |_| planned.delivered() > 0).await?;
        if !held {
            return Ok(Proof::planned(planned));
        }
        if self.cell.kind.has_task() {
            self.until("the task", |play| play.running_task().is_some()).await?;
            self.task = self.running_task();
        } else {
            // It runs as soon as it is there.
            self.ticks(2).await;
        }
        let proof = self.at_work().await?;
        released.cancel();
        Ok(Proof::all(vec![Proof::planned(planned), proof]))
    }

    /// Starts the job and brings it to where the struck call is made.
    async fn reach_the_call(&mut self) -> Result<(), String> {
        self.start().await?;
        if self.cell.kind.first().is_some() {
            self.first_call().await?;
            self.first_done();
        }
        Ok(())
    }

    /// The job's first call is taken.
    async fn first_call(&mut self) -> Result<(), String> {
        if self.cell.kind == Kind::ForcedPlug {
            self.until("the guest to be asked", |play| play.seen()["phase"] == "waiting for the guest")
                .await?;
            self.ticks(3).await;
            return Ok(());
        }
        self.until("the first task", |play| play.running_task().is_some()).await?;
        self.control().step_tasks();
        self.control().step_tasks();
        self.until("its progress", |play| play.seen()["progress"] == 25).await
    }

    fn first_done(&self) {
        if let Some(task) = self.running_task() {
            self.control().finish_task(&task);
        }
    }

    /// Brings the struck call to the step.
    async fn reach_the_step(&mut self) -> Result<(), String> {
        let kind = self.cell.kind;
        if kind.of_guest() {
            self.until("the guest to be watched", |play| play.seen()["phase"] == "waiting for the guest")
                .await?;
            self.ticks(3).await;
            if kind == Kind::Reboot && self.cell.step != Step::Accepted {
                self.control().step_guests();
                let gone = |play: &Self| {
                    play.control()
                        .look(|world| world.machine(&play.id).is_some_and(|m| !m.guest.tools_running))
                };
                self.until("the tools to go", gone).await?;
                self.ticks(3).await;
            }
            return Ok(());
        }
        let method = kind.method();
        let mine = move |play: &Self| {
            play.control().look(|world| {
                world.tasks().any(|task| {
                    task.machine == play.id && !task.state.is_end() && task.operation.method() == method
                })
            })
        };
        self.until("the struck task", mine).await?;
        self.task = self.running_task();
        let task = self.task.clone();
        self.until("the task to be shown", |play| play.seen()["host_task"].as_str() == task.as_deref())
            .await?;
        if self.cell.step != Step::Accepted {
            self.control().step_tasks();
            self.control().step_tasks();
            self.until("its progress", |play| play.seen()["progress"] == 25).await?;
        }
        Ok(())
    }

    /// The fault strikes while the call is at work, or at the moment at which it is done.
    async fn at_work(&mut self) -> Result<Proof, String> {
        let finish = self.cell.step == Step::Unreported;
        let stream = match self.cell.fault {
            Fault::CutBefore => Some(Disruption::CloseBeforeRunning),
            Fault::CutMid => Some(Disruption::CloseMidAnswer),
            Fault::CutAfter => Some(Disruption::CloseAfterRunning),
            Fault::SlowDone => Some(Disruption::NeverAnswer { run: true }),
            Fault::Garbage => Some(garbage()),
            Fault::Unavailable => Some(unavailable()),
            _ => None,
        };
        if let Some(disruption) = stream {
            let planned = if finish {
                let hand = self.hand(true);
                self.control()
                    .disrupt_next("WaitForUpdatesEx", Disruption::Hand(hand, Some(Box::new(disruption))))
            } else {
                self.control().disrupt_next("WaitForUpdatesEx", disruption)
            };
            self.bench.nudge();
            self.until("the stream to be struck", |_| planned.delivered() > 0).await?;
            return Ok(Proof::planned(planned));
        }
        let proof = self.proof_of_events();
        self.hand(finish).act(self.control());
        Ok(proof)
    }

    /// The fault strikes the read that lets the picture catch up.
    async fn result_read(&mut self) -> Result<Proof, String> {
        let kind = self.cell.kind;
        let disruption = match self.cell.fault {
            Fault::CutBefore => Some(Disruption::CloseBeforeRunning),
            Fault::CutMid => Some(Disruption::CloseMidAnswer),
            Fault::CutAfter => Some(Disruption::CloseAfterRunning),
            Fault::SlowDone => Some(Disruption::NeverAnswer { run: true }),
            Fault::Garbage => Some(garbage()),
            Fault::Unavailable => Some(unavailable()),
            _ => None,
        };
        if kind.at_once() && self.cell.fault == Fault::SlowDone {
            // Nothing is told any more from before the call on.
            let planned =
                self.control().disrupt_next("WaitForUpdatesEx", Disruption::NeverAnswer { run: true });
            self.bench.nudge();
            self.until("the stream to be struck", |_| planned.delivered() > 0).await?;
            self.start().await?;
            return Ok(Proof::planned(planned));
        }
        let hand = match disruption {
            Some(disruption) => Hand::new(move |control| {
                control.disrupt_next("WaitForUpdatesEx", disruption.clone());
            }),
            None => self.hand(false),
        };
        let catch_up = Disruption::Hand(hand, None);
        let planned = if kind.at_once() {
            let planned = self.control().disrupt_next("CancelWaitForUpdates", catch_up);
            self.start().await?;
            planned
        } else {
            self.reach_the_call().await?;
            self.reach_the_step().await?;
            let planned = self.control().disrupt_next("CancelWaitForUpdates", catch_up);
            let (id, task) = (self.id.clone(), self.task.clone());
            self.control().mutate(|world| finish(world, &id, task.as_deref(), kind));
            planned
        };
        self.until("the barrier to be struck", |_| planned.delivered() > 0).await?;
        Ok(Proof::planned(planned))
    }

    /// What the simulator counts of a fault that is no disruption of a call.
    fn proof_of_events(&self) -> Proof {
        let id = self.id.clone();
        let method = self.cell.kind.method();
        let counted = |word: &'static str| {
            let before = self.control().happened(word);
            Proof(Box::new(move |control| control.happened(word) > before))
        };
        match self.cell.fault {
            Fault::SessionExpired | Fault::AccountRefused => counted("expire-sessions"),
            Fault::HostRestarted | Fault::HostRestartedIdle | Fault::HostRebooted | Fault::GoneInOutage => {
                counted("restart-hostd")
            }
            Fault::TaskVanished => counted("vanish-tasks"),
            Fault::Licence => counted("licence"),
            Fault::QuestionAnswered | Fault::QuestionLeft => counted("question"),
            Fault::TaskFailed | Fault::PowerStateInTask => Proof(Box::new(move |control| {
                control.look(|world| {
                    world.tasks().any(|task| {
                        task.machine == id && task.operation.method() == method && task.error.is_some()
                    })
                })
            })),
            Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                let uuid = self.before.instance_uuid.clone();
                Proof(Box::new(move |control| {
                    control
                        .look(|world| world.machine(&id).is_none_or(|machine| machine.instance_uuid != uuid))
                }))
            }
            _ => Proof(Box::new(|_| false)),
        }
    }

    /// What happens to the host; `done`: the struck call is done first, at the same moment.
    fn hand(&self, done: bool) -> Hand {
        let (cell, id, task) = (self.cell, self.id.clone(), self.task.clone());
        let before = self.before.clone();
        Hand::new(move |control| {
            let task = task.as_deref();
            let finish = |world: &mut World| {
                if done {
                    finish(world, &id, task, cell.kind);
                }
            };
            let away = Some(Comeback::Refuse);
            let restart = |drop_running| Some(Event::RestartHostd(Restart { away, drop_running }));
            let unseen = |world: &mut World| {
                if let Some(task) = task {
                    world.finish_task(task);
                }
            };
            match cell.fault {
                Fault::SessionExpired => control.at_once(finish, Some(Event::ExpireSessions)),
                Fault::AccountRefused => {
                    control.refuse_logins(true);
                    control.at_once(finish, Some(Event::ExpireSessions));
                }
                Fault::HostRestarted => {
                    control.at_once(finish, restart(false));
                    control.mutate(unseen);
                }
                Fault::HostRestartedIdle => control.at_once(finish, restart(true)),
                Fault::HostRebooted => control.at_once(
                    |world| {
                        finish(world);
                        world.reboot_host();
                    },
                    restart(true),
                ),
                Fault::GoneInOutage => {
                    control.at_once(finish, restart(true));
                    control.mutate(|world| drop(world.remove_machine(&id)));
                }
                Fault::TaskVanished => {
                    control.at_once(finish, Some(Event::VanishTasks));
                    control.mutate(unseen);
                }
                Fault::Deleted => control.mutate(|world| {
                    finish(world);
                    world.remove_machine(&id);
                    unseen(world);
                }),
                Fault::Reregistered => control.mutate(|world| {
                    finish(world);
                    let machine = world.remove_machine(&id);
                    unseen(world);
                    world.add_machine(renamed(machine.unwrap(), &format!("{id}9")));
                }),
                Fault::MoidReused => control.mutate(|world| {
                    finish(world);
                    world.remove_machine(&id);
                    unseen(world);
                    world.add_machine(other(before.clone()));
                }),
                Fault::QuestionAnswered | Fault::QuestionLeft => {
                    // A power-on that has not come half way hangs on it.
                    let holds = cell.kind.powers_on()
                        && matches!(cell.step, Step::Unanswered | Step::Accepted | Step::Progress);
                    let question = Event::Question {
                        machine: id.clone(),
                        question: Box::new(question()),
                        pending: !holds,
                    };
                    control.at_once(finish, Some(question));
                }
                Fault::Licence => control.at_once(finish, Some(Event::ReadOnlyLicence(true))),
                Fault::TaskFailed => {
                    let fault = HostFault::new("SnapshotFault", "An error occurred while it was at work.");
                    control.happen(Event::FailNextTask(cell.kind.method(), fault));
                }
                Fault::PowerStateInCall | Fault::PowerStateInTask if minds_power(cell.kind) => control
                    .mutate(|world| {
                        world.rules.refuse_in_call = cell.fault == Fault::PowerStateInCall;
                        bring(world, &id, cell.kind);
                    }),
                Fault::PowerStateInTask => {
                    let fault = HostFault::invalid_power_state(Some("poweredOn"), "poweredOff");
                    control.happen(Event::FailNextTask(cell.kind.method(), fault));
                }
                _ => control.mutate(finish),
            }
        })
    }

    /// Brings the host back where it is away.
    async fn mend(&mut self) -> Result<(), String> {
        match self.cell.fault {
            Fault::HostRestarted | Fault::HostRestartedIdle | Fault::HostRebooted | Fault::GoneInOutage => {
                self.until("reads to say how old they are", |play| play.stale).await?;
                self.ticks(2).await;
                self.control().resume();
            }
            Fault::AccountRefused => {
                self.until("reads to say how old they are", |play| play.stale).await?;
                // Long enough for many tries, and too short for the next one that is right.
                self.ticks(20).await;
                let logins = self.logins();
                if logins != 1 {
                    return Err(format!("a refused account was tried {logins} times"));
                }
                self.control().refuse_logins(false);
                self.bench.clock.advance(Duration::from_secs(31));
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets the host do what it does until the job has ended.
    async fn drive(&mut self) -> Result<(), String> {
        let patience = Clock::system();
        let mut ticks = 0;
        while !self.ended() {
            if patience.elapsed() > PATIENCE {
                return Err(format!("no end: {}", self.seen()));
            }
            if self.expected.by_deadline && ticks == 40 {
                self.bench.clock.advance(DEADLINE);
            }
            self.control().step_tasks();
            if self.cell.kind.of_guest() && self.sees_the_guest() {
                self.control().step_guests();
            }
            if self.cell.fault == Fault::QuestionAnswered && self.seen()["blocked_by"]["kind"] == "question" {
                let id = self.id.clone();
                // It may be answered already.
                let _ = self.control().mutate(|world| world.answer(&id, "q-1", "2"));
            }
            self.tick().await;
            ticks += 1;
        }
        // An end is an end: a while later it is the same.
        self.ticks(3).await;
        Ok(())
    }

    /// Whether otter shows the guest's tools as they are and waits for news: what a guest does unseen proves nothing.
    fn sees_the_guest(&self) -> bool {
        let runs =
            self.control().look(|world| world.machine(&self.id).map(|machine| machine.guest.tools_running));
        self.control().pending_waits() > 0 && runs == Some(self.tools_shown)
    }

    /// Asks for the job.
    async fn start(&mut self) -> Result<(), String> {
        let id = self.id.clone();
        let on = |rest: &str| format!("/v1/machines/{id}{rest}");
        let snapshot = |name: &str| {
            let found = self.before.snapshots.iter().find(|snapshot| snapshot.name == name).unwrap();
            on(&format!("/snapshots/{}", encode(&found.id)))
        };
        let power = |body: Value| (Method::POST, on("/power"), Some(body));
        let revert = |to: &str, power_on: Option<bool>| {
            let mut body = json!({"snapshot": to});
            if let Some(power_on) = power_on {
                body["power_on"] = json!(power_on);
            }
            (Method::POST, on("/revert"), Some(body))
        };
        let (method, path, body) = match self.cell.kind {
            Kind::PowerOn => power(json!({"action": "on"})),
            Kind::PowerOff => power(json!({"action": "off"})),
            Kind::Reset => power(json!({"action": "reset"})),
            Kind::Suspend => power(json!({"action": "suspend"})),
            Kind::Shutdown => power(json!({"action": "shutdown"})),
            Kind::ForcedAsk | Kind::ForcedPlug => power(json!({"action": "shutdown", "force_after": "5s"})),
            Kind::Reboot => power(json!({"action": "reboot"})),
            Kind::Kill => {
                (Method::POST, "/v1/machines/kill".to_owned(), Some(json!({"name": self.before.name})))
            }
            Kind::Answer => (Method::POST, on("/answer"), Some(json!({"question": "q-1", "choice": "2"}))),
            Kind::Create => (Method::POST, on("/snapshots"), Some(json!({"name": "made"}))),
            Kind::Revert => revert("middle", None),
            Kind::RevertOn | Kind::RevertOnPower => revert("middle", Some(true)),
            Kind::RevertOff | Kind::RevertOffPower => revert("awake", Some(false)),
            Kind::Remove => (Method::DELETE, snapshot("middle"), None),
            Kind::RemoveChildren => (Method::DELETE, snapshot("middle") + "?children=true", None),
            Kind::RemoveAll => (Method::DELETE, on("/snapshots?all=true"), None),
            Kind::Rename => (Method::PATCH, snapshot("middle"), Some(json!({"name": "renamed"}))),
        };
        let mut request = self.bench.lab.request(method, &path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        if self.cell.kind == Kind::Rename {
            // It answers once it is done; the job shows before.
            tokio::spawn(async move { Answer::of(request).await });
            let jobs = format!("/v1/jobs?machine={id}");
            let mut found = String::new();
            self.bench
                .until("the rename's job", async |bench| {
                    let (_, _, jobs) = bench.read(&jobs).await;
                    jobs["items"][0]["id"].as_str().unwrap_or_default().clone_into(&mut found);
                    !found.is_empty()
                })
                .await?;
            self.job = found;
        } else {
            let answer = Answer::of(request).await;
            if answer.status != 202 {
                return Err(format!("the job was not accepted: {}", answer.text));
            }
            self.job = answer.str("id").to_owned();
        }
        self.look().await;
        Ok(())
    }

    fn running_task(&self) -> Option<String> {
        self.control().look(|world| {
            let mut mine = world.tasks().filter(|task| task.machine == self.id && !task.state.is_end());
            mine.next().map(|task| task.id.clone())
        })
    }
}

/// Does what the call was for.
fn finish(world: &mut World, _machine: &str, task: Option<&str>, kind: Kind) {
    match task {
        Some(task) => world.finish_task(task),
        None if kind.of_guest() => {
            world.step_guests();
        }
        None => {}
    }
}

/// Whether the host itself refuses the call in some state of the machine's power.
const fn minds_power(kind: Kind) -> bool {
    kind.of_power() || kind.of_guest()
}

/// Another hand brings the machine into the state that the call is to make, or into one in which it is wrong.
fn bring(world: &mut World, id: &str, kind: Kind) {
    let Some(machine) = world.machine_mut(id) else { return };
    match kind {
        Kind::PowerOn | Kind::RevertOnPower => machine.power = PowerState::On,
        Kind::Suspend => {
            stop(machine);
            machine.power = PowerState::Suspended;
        }
        _ => stop(machine),
    }
}

/// The machine as it is when it is off.
fn stop(machine: &mut Machine) {
    machine.power = PowerState::Off;
    machine.guest.tools_running = false;
    machine.guest.told_address = None;
    machine.booted_at = None;
    machine.question = None;
}

/// The same machine under another moid.
fn renamed(mut machine: Machine, id: &str) -> Machine {
    let old = std::mem::replace(&mut machine.id, id.to_owned());
    let new = |snapshot: &String| snapshot.replacen(&old, id, 1);
    for snapshot in &mut machine.snapshots {
        snapshot.id = new(&snapshot.id);
        snapshot.parent = snapshot.parent.as_ref().map(new);
    }
    machine.current_snapshot = machine.current_snapshot.as_ref().map(new);
    stop(&mut machine);
    machine
}

/// Another machine of the same moid, without snapshots.
fn other(mut machine: Machine) -> Machine {
    stop(&mut machine);
    machine.name = format!("other than {}", machine.name);
    machine.instance_uuid = machine.instance_uuid.replace("52", "53");
    machine.bios_uuid = machine.bios_uuid.replace("56", "57");
    machine.path = machine.path.replace("cell", "other");
    machine.snapshots.clear();
    machine.current_snapshot = None;
    machine
}

pub fn question() -> Question {
    let choice = |key: &str, summary: &str| Choice {
        key: key.to_owned(),
        label: format!("button.{summary}"),
        summary: summary.to_owned(),
        fails_with: None,
    };
    Question {
        id: "q-1".to_owned(),
        message_id: "msg.uuid.altered".to_owned(),
        text: "Moved or copied?".to_owned(),
        choices: vec![choice("1", "moved"), choice("2", "copied")],
        default_choice: Some(1),
    }
}

fn garbage() -> Disruption {
    Disruption::Answer { status: 200, content_type: "text/html", body: "<html><p>\u{fffd}</html".to_owned() }
}

fn unavailable() -> Disruption {
    let body = "503 Service Unavailable (Failed to connect to endpoint: /sdk)".to_owned();
    Disruption::Answer { status: 503, content_type: "text/plain", body }
}

/// What all benches share: time that is given by the tick.
pub fn settings(settings: &mut Settings) {
    settings.jobs.settle = Duration::from_secs(1);
    settings.jobs.outage_grace = Duration::from_hours(100);
    settings.jobs.deadlines.power = DEADLINE;
    settings.jobs.deadlines.guest = DEADLINE;
    settings.jobs.deadlines.create = DEADLINE;
    settings.jobs.deadlines.revert = DEADLINE;
    settings.jobs.deadlines.remove = DEADLINE;
    settings.esx.read_timeout = Duration::from_secs(10);
    settings.esx.login_backoff = Duration::from_secs(30);
    // No read but those of the jobs.
    settings.guest_settle = Duration::from_hours(10_000);
}

/// For faults that wait for a time-out.
pub fn hasty(to: &mut Settings) {
    settings(to);
    to.esx.read_timeout = Duration::from_millis(700);
    to.esx.max_wait = Duration::from_secs(1);
}
