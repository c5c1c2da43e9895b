//! Random schedules in the model world: whatever is lost, cut, cancelled, restarted or done by
//! others, what a job says of itself is true.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::world::{Owner, World, host_failure, kickstart};
use super::{RULES, create, job, others, revert, start};
use crate::domain::call::{CallKind, HostCall};
use crate::domain::ids::TaskId;
use crate::domain::job::{Job, JobKind, JobRequest, JobState, JobStepState};
use crate::domain::lease::Readiness;
use crate::domain::origin::Actor;
use crate::domain::power::PowerState;
use crate::hypervisor::HostErrorKind;
use crate::service::jobs::driver::{
    Called, Driver, Effect, Glimpse, Glimpsed, Input, Interrupt, Shown, TaskEnd,
};

#[derive(Clone, Debug)]
pub enum Event {
    /// The effect that is under way comes to its end, if the world lets it; time goes on.
    Go {
        ticks: u8,
    },
    Tick,
    /// As `Go`, but the answer of a call is lost.
    Lose {
        ran: bool,
    },
    /// As `Go`, but a call is refused.
    Refuse(HostErrorKind),
    /// As `Go`, but the machine cannot be read.
    Unreadable(HostErrorKind),
    Away(bool),
    Restart {
        finish: bool,
    },
    Foreign(HostCall, Owner),
    Question(bool),
    /// Without effect; `seen` is false where a vCenter had lost sight of it.
    FailTask {
        seen: bool,
    },
    /// The daemon dies and comes back; a call that was under way may have run.
    Crash {
        ran: bool,
    },
    Cancel,
    Deadline,
    Grace,
    Delete,
    Renumber,
    RemoveSnapshot,
    /// Somebody else makes one of this name.
    MakeSnapshot(&'static str),
    /// The host itself restarts.
    Reboot,
    GuestHangs(bool),
    ToolsStart,
    /// The time comes at which the plug is pulled.
    ForceTime,
}

#[derive(Clone, Debug)]
struct Scenario {
    request: JobRequest,
    world: World,
    events: Vec<Event>,
    /// Whether the host is there in the end; the job ends by its deadline if it is not.
    comes_back: bool,
}

/// A job in the world, and what a bystander knows of both.
#[expect(clippy::struct_excessive_bools, reason = "what has happened so far, each by itself")]
pub struct Run {
    pub world: World,
    pub driver: Driver,
    pub effect: Effect,
    pub disk: Job,
    /// Every sending of a call.
    pub calls: Vec<HostCall>,
    /// Calls of each kind that may have run as far as the job can know.
    unproven: Vec<CallKind>,
    last_call: Option<CallKind>,
    cancel_asked: bool,
    deadline: bool,
    /// Something happened after which an outcome may be unknown.
    disturbed: bool,
    foreign: bool,
    /// A foreign change was forgotten by the host: nobody can see that it was.
    blind: bool,
    ended: bool,
    stops_at_call: u32,
    steps: i64,
}

impl Run {
    pub fn begin(request: JobRequest, world: World) -> Self {
        let disk = job(request);
        let mut driver = Driver::queued(disk.clone(), RULES);
        let effect = driver.start(start());
        Self {
            world,
            driver,
            effect,
            disk,
            calls: Vec::new(),
            unproven: Vec::new(),
            last_call: None,
            cancel_asked: false,
            deadline: false,
            disturbed: false,
            foreign: false,
            blind: false,
            ended: false,
            stops_at_call: 0,
            steps: 0,
        }
    }

    pub fn happen(&mut self, event: Event) {
        match event {
            Event::Go { ticks } => self.go(ticks, None),
            Event::Tick => self.world.tick(),
            Event::Lose { ran } => match self.effect.clone() {
                Effect::Call(call) => {
                    self.sent(&call);
                    if ran {
                        self.world.call(&call, 1);
                    }
                    self.disturbed = true;
                    self.tell(Input::Called(Called::Lost(host_failure(
                        HostErrorKind::Unreachable,
                    ))));
                }
                _ => self.go(1, None),
            },
            Event::Refuse(kind) => self.go(1, Some(kind)),
            Event::Unreadable(kind) => match self.effect {
                Effect::Examine => self.tell(Input::Examined(Err(host_failure(kind)))),
                _ => self.go(1, None),
            },
            Event::Away(away) => self.world.away = away,
            Event::Restart { finish } => {
                self.blind |= self.foreign;
                self.disturbed = true;
                self.world.restart(finish);
            }
            Event::Foreign(call, owner) => {
                self.foreign = true;
                self.world.foreign(call, owner, 1);
            }
            Event::Question(asked) => self.world.question = asked,
            Event::FailTask { seen } => {
                self.disturbed |= !seen;
                self.world.fail_own(seen);
            }
            Event::Crash { ran } => self.crash(ran),
            Event::Cancel => {
                self.cancel_asked = true;
                // Nobody can call a guest back.
                self.disturbed |= self.driver.job().kind() == JobKind::MachineShutdown;
                self.interrupt(Interrupt::Cancel(Actor::otter()));
                // The wish is committed by itself, the job as it is then with it.
                if !matches!(self.effect, Effect::Save) && !self.disk.state.is_end() {
                    self.disk = self.driver.job().clone();
                }
            }
            Event::Deadline if !self.deadline => {
                self.deadline = true;
                self.disturbed = true;
                self.interrupt(Interrupt::Deadline { question: self.world.question });
            }
            Event::Grace if self.deadline => self.interrupt(Interrupt::GraceOver),
            Event::Deadline | Event::Grace => {}
            Event::Delete => self.world.gone = true,
            Event::Renumber => self.world.renumbered = true,
            Event::RemoveSnapshot => {
                self.foreign = true;
                self.world.remove(&kickstart());
            }
            Event::MakeSnapshot(name) => {
                self.foreign = true;
                self.world.foreign(create(name), Owner::Stranger, 0);
                self.world.tick();
            }
            Event::Reboot => {
                self.foreign = true;
                self.blind = true;
                self.disturbed = true;
                self.world.reboot();
            }
            Event::GuestHangs(hangs) => self.world.guest_hangs = hangs,
            Event::ToolsStart => self.world.tools_start(),
            Event::ForceTime => {
                if matches!(self.effect, Effect::Watch { until: Some(_), .. }) {
                    // From here on the guest may obey whatever becomes of the plug.
                    self.disturbed = true;
                    self.tell(Input::Glimpsed(Glimpsed::TimeUp));
                }
            }
        }
    }

    fn crash(&mut self, ran: bool) {
        if self.ended {
            return;
        }
        match self.effect.clone() {
            Effect::Call(call) => {
                self.sent(&call);
                if ran {
                    self.world.call(&call, 1);
                }
            }
            // The commit may have come through.
            Effect::Save if ran => {
                self.disk = self.driver.job().clone();
            }
            _ => {}
        }
        self.disturbed = true;
        self.stops_at_call = self.world.tools_stops;
        if self.disk.state.is_end() {
            // It is not taken up: its end is on the disk.
            self.ended = true;
            return;
        }
        if self.disk.state == JobState::Queued {
            self.driver = Driver::queued(self.disk.clone(), RULES);
            self.effect = self.driver.start(start());
        } else {
            let (driver, effect) = Driver::resume(self.disk.clone(), RULES);
            self.driver = driver;
            self.effect = effect;
        }
        if self.deadline {
            self.interrupt(Interrupt::Deadline { question: self.world.question });
        }
    }

    fn interrupt(&mut self, interrupt: Interrupt) {
        if self.ended {
            return;
        }
        let held = matches!(self.effect, Effect::Save | Effect::Call(_));
        let reaction = self.driver.interrupt(interrupt, start());
        if let Some(task) = reaction.cancel_task {
            self.world.cancel(&task);
        }
        if let Some(effect) = reaction.instead {
            assert!(!held, "a commit or a call under way is never dropped");
            self.next(effect);
        }
    }

    pub fn go(&mut self, ticks: u8, refuse: Option<HostErrorKind>) {
        if self.ended {
            return;
        }
        match self.effect.clone() {
            Effect::Save => {
                assert!(!self.disk.state.is_end(), "an end was taken back");
                self.disk = self.driver.job().clone();
                self.tell(Input::Saved);
            }
            Effect::Examine => {
                let seen = self.world.examine().map(|evidence| (evidence, self.world.others()));
                self.tell(Input::Examined(seen));
            }
            Effect::Call(call) => {
                self.sent(&call);
                let called = match refuse {
                    Some(kind) => Called::Refused(host_failure(kind)),
                    None => self.world.call(&call, ticks),
                };
                if matches!(called, Called::Refused(_)) {
                    self.proven(call.kind());
                }
                self.tell(Input::Called(called));
            }
            Effect::Follow(task) => self.follow(&task),
            Effect::Watch { known, .. } => self.glimpse(known),
            Effect::CancelAndFollow(task) => {
                self.world.cancel(&task);
                self.follow(&task);
            }
            Effect::AwaitHost(_) => {
                if !self.world.away {
                    self.tell(Input::Waited);
                }
            }
            Effect::AwaitTask(task) => {
                if self.world.followed(&task).is_some() {
                    self.tell(Input::Waited);
                }
            }
            Effect::AwaitAnswer(_) => {
                if !self.world.question && !self.world.away {
                    self.tell(Input::Waited);
                }
            }
            Effect::Pause(_) => {
                self.world.tick();
                self.tell(Input::Waited);
            }
            Effect::AwaitReady(readiness) => {
                let on = self.world.power == PowerState::On;
                let gone = self.world.gone || self.world.renumbered;
                if !self.world.away && (gone || !on) {
                    self.disturbed = true;
                    self.tell(Input::Readied(false));
                } else if !self.world.away && (readiness != Readiness::Tools || self.world.tools) {
                    self.tell(Input::Readied(true));
                }
            }
            Effect::Barrier => {
                let shown = Shown { power_state: Some(self.world.power), ip_address: None };
                self.tell(Input::Synced((!self.world.away).then_some(shown)));
            }
            Effect::Finish => self.ended = true,
        }
        self.world.tick();
    }

    fn glimpse(&mut self, known: Option<Glimpse>) {
        if self.world.away {
            return;
        }
        if self.world.gone || self.world.renumbered {
            self.disturbed = true;
            return self.tell(Input::Glimpsed(Glimpsed::Gone));
        }
        let glimpse = Glimpse {
            power_state: Some(self.world.power),
            tools_running: self.world.tools,
            tools_went: self.world.tools_stops > self.stops_at_call,
        };
        if known != Some(glimpse) {
            self.disturbed |= glimpse.power_state != Some(PowerState::On);
            self.tell(Input::Glimpsed(Glimpsed::Now(glimpse)));
        }
    }

    fn follow(&mut self, task: &TaskId) {
        let Some(end) = self.world.followed(task) else { return };
        if matches!(end, TaskEnd::Failed(_))
            && let Some(call) = self.last_call
        {
            self.proven(call);
        }
        self.tell(Input::TaskEnded(end));
    }

    fn tell(&mut self, input: Input) {
        if self.ended {
            return;
        }
        self.steps += 1;
        let effect = self.driver.step(input, start() + SignedDuration::from_secs(self.steps));
        self.next(effect);
    }

    fn next(&mut self, effect: Effect) {
        if effect == Effect::Finish {
            assert!(self.disk.state.is_end(), "the end is committed before anybody hears of it");
            assert_eq!(&self.disk, self.driver.job(), "what is told is what is on the disk");
            self.ended = true;
        }
        self.effect = effect;
    }

    fn sent(&mut self, call: &HostCall) {
        let intent = self.disk.intent.as_ref().expect("a call is made by a committed intent");
        assert_eq!(intent.call, *call);
        assert_eq!(self.disk.state, JobState::Running);
        let before = self.unproven.iter().filter(|kind| **kind == call.kind()).count();
        let once = matches!(
            call.kind(),
            CallKind::Reset
                | CallKind::ShutdownGuest
                | CallKind::RebootGuest
                | CallKind::CreateSnapshot
        );
        let most = if once { 0 } else { 3 };
        assert!(
            before <= most,
            "{call:?} was sent {before} times before without proof that it did not run"
        );
        self.calls.push(call.clone());
        self.unproven.push(call.kind());
        self.last_call = Some(call.kind());
        self.stops_at_call = self.world.tools_stops;
    }

    fn proven(&mut self, call: CallKind) {
        if let Some(at) = self.unproven.iter().rposition(|kind| *kind == call) {
            self.unproven.remove(at);
        }
    }

    /// Lets everything come to its end. A job that does not end by then never would.
    pub fn settle(&mut self, comes_back: bool) {
        self.world.away = !comes_back;
        self.world.question = false;
        for round in 0..200 {
            if self.ended {
                break;
            }
            if round == 60 {
                self.happen(Event::Deadline);
            }
            if round == 90 {
                self.happen(Event::Grace);
            }
            self.go(1, None);
        }
        assert!(self.ended, "it hangs in {:?}", self.driver);
        // What still runs on the host runs to its end, unseen.
        for _ in 0..8 {
            self.world.tick();
        }
    }

    pub fn check(&self) {
        let job = &self.disk;
        assert!(job.state.is_end() && job.intent.is_none() && job.finished_at.is_some());
        assert!(job.steps.iter().all(|step| step.state != JobStepState::Running));
        assert_eq!(job.error.is_none(), job.state == JobState::Succeeded);
        let done = |kind: CallKind| {
            job.steps
                .iter()
                .any(|step| step.name == kind.as_str() && step.state == JobStepState::Succeeded)
        };
        // What the steps do not say was done.
        let untold = self.world.effects.iter().filter(|call| !done(call.kind())).count();
        match job.state {
            JobState::Succeeded => {
                let seen = |state| self.world.seen.contains(&state);
                let reverted = || {
                    self.world.effects.iter().any(|call| call.kind() == CallKind::RevertToSnapshot)
                };
                let took_effect = |kind: CallKind| {
                    self.world.effects.iter().any(|call| call.kind() == kind) || self.foreign
                };
                assert!(match &job.request {
                    JobRequest::PowerOn => seen(PowerState::On),
                    JobRequest::PowerOff | JobRequest::Kill | JobRequest::Shutdown { .. } => {
                        seen(PowerState::Off)
                    }
                    JobRequest::Suspend => seen(PowerState::Suspended),
                    JobRequest::Reboot => self.world.tools_stops > 0,
                    JobRequest::Answer { .. } => took_effect(CallKind::Answer),
                    JobRequest::CreateSnapshot { .. } => {
                        let made = job.result.as_ref().and_then(|result| result.snapshot.as_ref());
                        made.is_some() && took_effect(CallKind::CreateSnapshot)
                    }
                    JobRequest::RemoveSnapshot { snapshot, .. } => !self.world.has(snapshot),
                    JobRequest::RemoveAllSnapshots => !self.world.has(&kickstart()),
                    JobRequest::RenameSnapshot { .. } => took_effect(CallKind::RenameSnapshot),
                    JobRequest::Reset => self.world.effects == [HostCall::Reset],
                    JobRequest::Prepare { snapshot, power, .. } => {
                        (snapshot.is_none() || reverted()) && power.is_none_or(seen)
                    }
                    JobRequest::Release { snapshot, .. } => {
                        (snapshot.is_none() || reverted()) && seen(PowerState::Off)
                    }
                    JobRequest::Revert { power_on, .. } => {
                        reverted()
                            && power_on.is_none_or(|on| {
                                seen(if on { PowerState::On } else { PowerState::Off })
                            })
                    }
                });
            }
            JobState::Failed => {
                assert!(untold == 0 || self.blind, "it took effect: {:?}", self.world.effects);
            }
            JobState::Cancelled => {
                assert!(self.cancel_asked);
                assert!(untold == 0 || self.blind, "it took effect: {:?}", self.world.effects);
            }
            JobState::Unknown => assert!(self.disturbed),
            JobState::Queued | JobState::Running => unreachable!(),
        }
    }
}

fn any_call() -> impl Strategy<Value = HostCall> {
    prop_oneof![
        Just(HostCall::PowerOn),
        Just(HostCall::PowerOff),
        Just(HostCall::RevertToSnapshot { snapshot: kickstart(), suppress_power_on: false }),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let refusal = prop::sample::select(vec![
        HostErrorKind::Busy,
        HostErrorKind::Forbidden,
        HostErrorKind::Unreachable,
        HostErrorKind::NotAuthenticated,
        HostErrorKind::InvalidPowerState,
        HostErrorKind::NotFound,
    ]);
    let unreadable =
        prop::sample::select(vec![HostErrorKind::Unreachable, HostErrorKind::Forbidden]);
    let owner = prop::sample::select(vec![Owner::Stranger, Owner::OtherJob]);
    prop_oneof![
        40 => (0..3u8).prop_map(|ticks| Event::Go { ticks }),
        4 => Just(Event::Tick),
        8 => any::<bool>().prop_map(|ran| Event::Lose { ran }),
        3 => refusal.prop_map(Event::Refuse),
        2 => unreadable.prop_map(Event::Unreadable),
        3 => any::<bool>().prop_map(Event::Away),
        2 => any::<bool>().prop_map(|finish| Event::Restart { finish }),
        3 => (any_call(), owner).prop_map(|(call, owner)| Event::Foreign(call, owner)),
        2 => any::<bool>().prop_map(Event::Question),
        2 => any::<bool>().prop_map(|seen| Event::FailTask { seen }),
        5 => any::<bool>().prop_map(|ran| Event::Crash { ran }),
        2 => Just(Event::Cancel),
        1 => Just(Event::Deadline),
        1 => Just(Event::Grace),
        1 => Just(Event::Delete),
        1 => Just(Event::Renumber),
        1 => Just(Event::RemoveSnapshot),
        1 => prop::sample::select(vec!["new", "other"]).prop_map(Event::MakeSnapshot),
        1 => Just(Event::Reboot),
        2 => any::<bool>().prop_map(Event::GuestHangs),
        2 => Just(Event::ToolsStart),
        2 => Just(Event::ForceTime),
    ]
}

fn any_scenario() -> impl Strategy<Value = Scenario> {
    let request = prop_oneof![
        Just(JobRequest::PowerOn),
        Just(JobRequest::PowerOff),
        Just(JobRequest::Reset),
        Just(JobRequest::Kill),
        any::<Option<bool>>().prop_map(revert),
        prop::sample::select(others()),
    ];
    let state =
        || prop::sample::select(vec![PowerState::On, PowerState::Off, PowerState::Suspended]);
    let world = (state(), state(), any::<bool>(), any::<bool>()).prop_map(
        |(power, snapshot_power, cancelable, refuses_at_once)| World {
            snapshot_power,
            cancelable,
            refuses_at_once,
            ..World::new(power)
        },
    );
    let events = prop::collection::vec(any_event(), 0..40);
    (request, world, events, prop::bool::weighted(0.8)).prop_map(
        |(request, world, events, comes_back)| Scenario { request, world, events, comes_back },
    )
}

proptest! {
    /// One end, committed before it is told; each call by a committed intent, none too often;
    /// success, failure and cancellation are true; unknown only where something was lost.
    #[test]
    fn what_a_job_says_of_itself_is_true(scenario in any_scenario()) {
        let Scenario { request, world, events, comes_back } = scenario;
        let mut run = Run::begin(request, world);
        for event in events {
            if run.ended {
                break;
            }
            run.happen(event);
        }
        run.settle(comes_back);
        run.check();
    }
}
