//! Doing what a driver asks for, one effect at a time, on stepped time: what `runner` does with futures is done here with
//! events and conditions.
//!
//! ```text
//! effect ──► planned event(s) ─────────────────────► input ──► driver.step ──► next effect
//!      └───► condition, looked at after every event ──┘
//! ```

use std::time::Duration;

use super::asking::unreachable;
use super::disk::Write;
use super::host::Look;
use super::{Event, Simulation, Tag, Waits};
use crate::domain::call::HostCall;
use crate::domain::ids::{JobId, MachineId, QuestionId, TaskId};
use crate::domain::job::{Job, TargetId};
use crate::domain::power::PowerState;
use crate::hypervisor::TaskStatus;
use crate::sabotage::Mistake;
use crate::service::jobs::driver::{
    Called, Effect, Glimpse, Glimpsed, Input, Interrupt, Others, Reaction, TaskEnd,
};
use crate::service::jobs::runner::{GRACE, is_forgotten, taken_back};
use crate::service::jobs::sight;
use crate::service::trouble::Trouble;

/// Where the effect of a running job is.
#[derive(Debug)]
pub enum Work {
    /// An event will tell.
    Planned,
    AwaitingHost(Then),
    /// `asked`: the host was asked to cancel it, or need not be.
    Following {
        task: TaskId,
        asked: bool,
    },
    AwaitingTask(TaskId),
    Watching {
        known: Option<Glimpse>,
    },
    AwaitingAnswer {
        question: QuestionId,
        seen: bool,
    },
}

/// What is waited for once the host is there and the picture is whole.
#[derive(Clone, Debug)]
pub enum Then {
    Nothing,
    Watch(Option<Glimpse>),
    Answer(QuestionId),
}

/// One step of an effect that is under way.
pub enum Step {
    Tell(Box<Input>),
    /// A direct read of the machine: the first, or the one that confirms what was read with its tasks.
    Look(Option<Box<Look>>, Others),
    /// The same of the tasks that it named.
    LookAtTasks(Box<Look>, Others),
    /// The call reaches the host.
    Arrive(MachineId, Box<HostCall>),
    /// Its answer reaches otter.
    Answer(Box<Called>),
    /// The host was asked to cancel the task that is followed.
    Asked,
    /// A commit that the store refused.
    SaveAgain(Box<Job>),
    /// A rest is over.
    Rested(Then),
    /// A barrier that was begun in this session.
    Passed(u64, Option<Then>),
    TimeUp,
}

impl Simulation {
    /// Takes the job up from its first effect.
    pub fn take_up(&mut self, id: JobId, first: Effect, in_queue: bool) {
        let Some(otter) = &mut self.otter else { return };
        let Some(entry) = otter.entries.get_mut(&id) else { return };
        let Some(driver) = entry.waiting.take() else { return };
        let machine = driver.job().machine_id().unwrap().clone();
        let tools_stops = sight::tools_stops(&otter.picture, &machine);
        let deadline = driver.job().deadline_at;
        entry.run = Some(super::otter::Run {
            driver,
            effect: Effect::Save,
            work: Work::Planned,
            serial: 0,
            tools_stops,
            in_queue,
            wish_unsaved: false,
        });
        let life = otter.life;
        let left = Duration::try_from(deadline.duration_since(self.wall())).unwrap_or_default();
        self.agenda.plan(self.now + left, Event::Alarm { life, job: id, grace: false });
        self.agenda.plan(self.now + left + GRACE, Event::Alarm { life, job: id, grace: true });
        self.begin(id, first);
        let interrupts = self
            .otter
            .as_mut()
            .and_then(|otter| otter.entries.get_mut(&id))
            .map(|entry| std::mem::take(&mut entry.interrupts));
        for interrupt in interrupts.unwrap_or_default() {
            self.interrupt(id, interrupt);
        }
    }

    /// Interrupts a job; one that is not driven yet takes it later.
    pub fn interrupt(&mut self, id: JobId, interrupt: Interrupt) {
        let now = self.wall();
        let Some(entry) = self.otter.as_mut().and_then(|otter| otter.entries.get_mut(&id)) else { return };
        let Some(run) = &mut entry.run else {
            entry.interrupts.push(interrupt);
            return;
        };
        if run.effect == Effect::Finish {
            return;
        }
        let saves = run.effect == Effect::Save;
        let held = saves || matches!(run.effect, Effect::Call(_));
        let wished = run.driver.job().cancel_requested_at.is_some();
        let Reaction { cancel_task, instead } = run.driver.interrupt(interrupt.clone(), now);
        let job = run.driver.job().clone();
        run.wish_unsaved |= !wished && job.cancel_requested_at.is_some();
        let wish_unsaved = run.wish_unsaved;
        self.trace.note(self.now, || format!("{id} is told {interrupt:?}"));
        if matches!(interrupt, Interrupt::Deadline { .. }) {
            self.promises.deadline_told(id);
        }
        if let Some(task) = cancel_task {
            let at = self.now + self.random.latency();
            self.agenda.plan(at, Event::Cancel { task, tell: None });
        }
        if let Some(effect) = instead {
            if held {
                self.promises.break_promise(format!("{id}: a commit or call under way was dropped"));
            }
            return self.begin(id, effect);
        }
        // Beside a commit that is under way, the older of the two could come last.
        if wish_unsaved && !saves {
            self.write(Write::Update { job: Box::new(job), waits: Waits::Wish(self.lives, id) });
        }
        self.publish(id);
    }

    /// What was asked of a job is on disk, and is shown.
    pub fn wish_saved(&mut self, life: u32, id: JobId) {
        let saved = self.disk.job(id).is_some_and(|job| job.cancel_requested_at.is_some());
        let run = self.otter.as_mut().filter(|otter| otter.life == life).and_then(|otter| otter.run_mut(id));
        if let Some(run) = run.filter(|run| run.wish_unsaved && saved) {
            run.wish_unsaved = false;
            self.publish(id);
        }
    }

    /// The job is on disk as it was when that was asked for. What was wished meanwhile is written before it goes on.
    pub fn saved(&mut self, tag: Tag) {
        let run = self.otter.as_ref().filter(|otter| otter.life == tag.life);
        let run = run.and_then(|otter| otter.run(tag.job)).filter(|run| run.serial == tag.serial);
        match run {
            Some(run) if run.wish_unsaved => {
                let job = Box::new(run.driver.job().clone());
                self.write(Write::Update { job, waits: Waits::WishAfterSave(tag) });
            }
            _ => self.work(tag, Step::Tell(Box::new(Input::Saved))),
        }
    }

    /// Looks at the conditions of all that wait, until nothing moves any more.
    pub fn poll(&mut self) {
        for _ in 0..50 {
            let mut moved = false;
            for id in self.otter.as_ref().map(super::otter::Otter::running).unwrap_or_default() {
                moved |= self.poll_job(id);
            }
            if !moved {
                return;
            }
        }
        self.promises.break_promise("the jobs spin without time going on");
    }

    pub fn work(&mut self, tag: Tag, step: Step) {
        let alive = self
            .otter
            .as_ref()
            .filter(|otter| otter.life == tag.life)
            .and_then(|otter| otter.run(tag.job))
            .is_some_and(|run| run.serial == tag.serial);
        match step {
            // What was sent arrives, whoever lives.
            Step::Arrive(machine, call) => self.arrive(tag, &machine, &call, alive),
            _ if !alive => {}
            Step::Tell(input) => self.tell(tag.job, *input),
            Step::Look(before, others) => self.look(tag, before, others),
            Step::LookAtTasks(mut look, others) => {
                if !self.can_talk() {
                    return self.tell(tag.job, Input::Examined(Err(unreachable("cut"))));
                }
                self.host.look_at_tasks(&mut look);
                let soon = self.random.latency();
                self.after(soon, tag, Step::Look(Some(look), others));
            }
            Step::Answer(called) => {
                match &*called {
                    Called::Refused(trouble) => self.promises.refused(tag.job, trouble.kind),
                    Called::Lost(_) => self.promises.lost(tag.job),
                    Called::Accepted(_) => {}
                }
                self.tell(tag.job, Input::Called(*called));
            }
            Step::Asked => self.with_work(tag.job, |work| {
                if let Work::Following { asked, .. } = work {
                    *asked = true;
                }
            }),
            Step::SaveAgain(job) => self.write(Write::Update { job, waits: Waits::Save(tag) }),
            Step::Rested(then) => self.with_work(tag.job, |work| *work = Work::AwaitingHost(then)),
            Step::Passed(session, then) => self.passed(tag, session, then),
            Step::TimeUp => {
                let watching = self.otter.as_ref().and_then(|otter| otter.run(tag.job));
                if watching.is_some_and(|run| matches!(run.effect, Effect::Watch { .. })) {
                    self.tell(tag.job, Input::Glimpsed(Glimpsed::TimeUp));
                }
            }
        }
    }

    /// Begins an effect: the former one is over, or dropped.
    fn begin(&mut self, id: JobId, effect: Effect) {
        self.trace.note(self.now, || format!("{id} wants {}", brief(&effect)));
        if effect == Effect::Finish {
            return self.finish(id);
        }
        self.publish(id);
        let Some(otter) = &mut self.otter else { return };
        let (life, session, connected) = (otter.life, otter.session, otter.connected);
        let Some(run) = otter.entries.get_mut(&id).and_then(|entry| entry.run.as_mut()) else { return };
        run.serial += 1;
        run.effect = effect.clone();
        run.work = Work::Planned;
        let tag = Tag { life, job: id, serial: run.serial };
        let job = run.driver.job().clone();
        let machine = job.machine_id().unwrap().clone();
        let soon = self.random.latency();
        match effect {
            Effect::Save if is_forgotten(&job, self.sabotage) => {
                self.after(soon, tag, Step::Tell(Box::new(Input::Saved)));
            }
            Effect::Save => self.write(Write::Update { job: Box::new(job), waits: Waits::Save(tag) }),
            Effect::Examine => {
                let others = otter.others(&machine, id);
                self.after(soon, tag, Step::Look(None, others));
            }
            Effect::Call(call) => self.send(tag, machine, call),
            Effect::Follow(task) => self.follow(id, task, true),
            Effect::CancelAndFollow(task) => {
                self.follow(id, task.clone(), false);
                self.agenda.plan(self.now + soon, Event::Cancel { task, tell: Some(tag) });
            }
            Effect::Watch { known, until } => {
                if let Some(until) = until {
                    let left = until.duration_since(self.wall());
                    self.after(Duration::try_from(left).unwrap_or_default(), tag, Step::TimeUp);
                }
                let work = match known {
                    // What is older than the call says nothing of it.
                    None => Work::AwaitingHost(Then::Watch(None)),
                    known => Work::Watching { known },
                };
                self.with_work(id, |at| *at = work);
            }
            Effect::AwaitHost(pause) if pause.is_zero() => {
                self.with_work(id, |work| *work = Work::AwaitingHost(Then::Nothing));
            }
            Effect::AwaitHost(pause) => self.after(pause, tag, Step::Rested(Then::Nothing)),
            Effect::AwaitTask(task) => {
                otter.stream.follow(&task);
                self.with_work(id, |work| *work = Work::AwaitingTask(task));
            }
            Effect::AwaitAnswer(question) => {
                self.with_work(id, |work| *work = Work::AwaitingHost(Then::Answer(question)));
            }
            Effect::AwaitReady(_) => {
                let on = sight::shown(&otter.picture, &machine).power_state == Some(PowerState::On);
                self.after(soon, tag, Step::Tell(Box::new(Input::Readied(on))));
            }
            Effect::Pause(pause) => self.after(pause, tag, Step::Tell(Box::new(Input::Waited))),
            Effect::Barrier if self.sabotage.makes(Mistake::EndBeforeBarrier) => {
                let shown = sight::shown(&otter.picture, &machine);
                self.after(soon, tag, Step::Tell(Box::new(Input::Synced(Some(shown)))));
            }
            Effect::Barrier if connected => self.after(soon, tag, Step::Passed(session, None)),
            Effect::Barrier => self.after(soon, tag, Step::Tell(Box::new(Input::Synced(None)))),
            Effect::Finish => {}
        }
    }

    /// Gives the driver what became of its effect.
    pub fn tell(&mut self, id: JobId, input: Input) {
        self.trace.note(self.now, || format!("{id} is told {}", brief_input(&input)));
        let now = self.wall();
        let Some(run) = self.otter.as_mut().and_then(|otter| otter.run_mut(id)) else { return };
        let effect = run.driver.step(input, now);
        self.begin(id, effect);
    }

    /// The end is committed: the job leaves its queue, and then everybody hears of it.
    fn finish(&mut self, id: JobId) {
        let Some(otter) = &mut self.otter else { return };
        let life = otter.life;
        let Some(run) = otter.entries.get_mut(&id).and_then(|entry| entry.run.as_mut()) else { return };
        run.effect = Effect::Finish;
        run.wish_unsaved = false;
        run.serial += 1;
        let machine = run.driver.job().machine_id().unwrap().clone();
        if run.in_queue {
            otter.queues.finish(&TargetId::Machine(machine.clone()), id);
        }
        self.publish(id);
        if self.sabotage.makes(Mistake::EndTakenBack) {
            let taken = self.otter.as_mut().and_then(|otter| otter.entries.get_mut(&id)).map(|entry| {
                entry.live.job = std::sync::Arc::new(taken_back(&entry.live.job));
                entry.live.job.clone()
            });
            if let Some(job) = taken {
                self.show(&job);
            }
        }
        let at = self.now + self.random.latency();
        self.agenda.plan(at, Event::Left { life, job: id, machine });
    }

    fn publish(&mut self, id: JobId) {
        let Some(entry) = self.otter.as_mut().and_then(|otter| otter.entries.get_mut(&id)) else { return };
        let Some(run) = &entry.run else { return };
        if entry.live.follow(&run.driver, run.wish_unsaved) {
            let job = entry.live.job.clone();
            self.show(&job);
        }
    }

    /// Somebody sees the job as it is.
    pub fn show(&mut self, job: &Job) {
        // Before the picture is loaded nobody is shown a machine.
        let loaded = self.otter.as_ref().filter(|otter| otter.picture.loaded);
        let told = loaded.map_or(u64::MAX, |otter| otter.stream.told(job.machine_id().unwrap()));
        let power = self
            .otter
            .as_ref()
            .and_then(|otter| sight::shown(&otter.picture, job.machine_id().unwrap()).power_state);
        self.promises.shown(job, told, power, &self.disk);
    }

    fn follow(&mut self, id: JobId, task: TaskId, asked: bool) {
        if let Some(otter) = &mut self.otter {
            otter.stream.follow(&task);
        }
        self.with_work(id, |work| *work = Work::Following { task, asked });
    }

    /// A round trip is over: the picture is as the host was when it began.
    fn passed(&mut self, tag: Tag, session: u64, then: Option<Then>) {
        let there = self.otter.as_ref().is_some_and(|otter| otter.connected && otter.session == session);
        if there {
            self.deliver(true);
        }
        match (there, then) {
            (true, None) => {
                let shown = self.otter.as_ref().and_then(|otter| {
                    Some(sight::shown(&otter.picture, otter.run(tag.job)?.driver.job().machine_id().unwrap()))
                });
                self.tell(tag.job, Input::Synced(shown));
            }
            (false, None) => self.tell(tag.job, Input::Synced(None)),
            (false, Some(then)) => self.after(Duration::from_secs(1), tag, Step::Rested(then)),
            (true, Some(Then::Nothing)) => self.tell(tag.job, Input::Waited),
            (true, Some(Then::Watch(known))) => {
                self.with_work(tag.job, |work| *work = Work::Watching { known });
            }
            (true, Some(Then::Answer(question))) => {
                self.with_work(tag.job, |work| *work = Work::AwaitingAnswer { question, seen: false });
            }
        }
    }

    /// Whether what the job waits for is there; if so it goes on.
    fn poll_job(&mut self, id: JobId) -> bool {
        let Some(otter) = &mut self.otter else { return false };
        let (life, session, connected) = (otter.life, otter.session, otter.connected);
        let Some(run) = otter.entries.get(&id).and_then(|entry| entry.run.as_ref()) else { return false };
        let tag = Tag { life, job: id, serial: run.serial };
        match &run.work {
            Work::Planned => false,
            Work::AwaitingHost(then) => {
                if connected {
                    let then = then.clone();
                    let soon = self.random.latency();
                    self.with_work(id, |work| *work = Work::Planned);
                    self.after(soon, tag, Step::Passed(session, Some(then)));
                }
                connected
            }
            Work::Following { task, asked } => {
                let Some(end) = otter.stream.status(task).and_then(task_end).filter(|_| *asked) else {
                    return false;
                };
                match end {
                    TaskEnd::Failed(_) => self.promises.proven(id),
                    TaskEnd::Vanished | TaskEnd::Lost(_) => self.promises.vanished(id),
                    TaskEnd::Succeeded { .. } => {}
                }
                self.tell(id, Input::TaskEnded(end));
                true
            }
            Work::AwaitingTask(task) => {
                let ended = otter.stream.status(task).and_then(task_end);
                match ended {
                    None => return false,
                    Some(TaskEnd::Vanished) => {
                        self.with_work(id, |work| *work = Work::Planned);
                        self.after(Duration::from_secs(1), tag, Step::Tell(Box::new(Input::Waited)));
                    }
                    Some(_) => self.tell(id, Input::Waited),
                }
                true
            }
            Work::Watching { known } => {
                let glimpse = sight::glimpse(
                    &otter.picture,
                    run.driver.job().target.machine().unwrap(),
                    run.tools_stops,
                );
                let input = match glimpse {
                    None => Glimpsed::Gone,
                    Some(glimpse) if *known != Some(glimpse) => Glimpsed::Now(glimpse),
                    Some(_) => return false,
                };
                self.tell(id, Input::Glimpsed(input));
                true
            }
            Work::AwaitingAnswer { question, seen } => {
                let asks = sight::question(&otter.picture, run.driver.job().machine_id().unwrap()).as_ref()
                    == Some(question);
                match (asks, *seen) {
                    (true, true) => false,
                    (true, false) => {
                        self.with_work(id, |work| {
                            if let Work::AwaitingAnswer { seen, .. } = work {
                                *seen = true;
                            }
                        });
                        false
                    }
                    (false, true) => {
                        self.tell(id, Input::Waited);
                        true
                    }
                    (false, false) => {
                        self.with_work(id, |work| *work = Work::Planned);
                        self.after(Duration::from_secs(1), tag, Step::Tell(Box::new(Input::Waited)));
                        true
                    }
                }
            }
        }
    }

    fn with_work(&mut self, id: JobId, change: impl FnOnce(&mut Work)) {
        if let Some(run) = self.otter.as_mut().and_then(|otter| otter.run_mut(id)) {
            change(&mut run.work);
        }
    }

    pub fn after(&mut self, pause: Duration, tag: Tag, step: Step) {
        self.agenda.plan(self.now + pause, Event::Work(tag, step));
    }
}

fn task_end(status: &TaskStatus) -> Option<TaskEnd> {
    match status {
        TaskStatus::Running { .. } => None,
        TaskStatus::Succeeded { snapshot } => Some(TaskEnd::Succeeded { snapshot: snapshot.clone() }),
        TaskStatus::Failed(error) => Some(TaskEnd::Failed(Trouble::from(&**error))),
        TaskStatus::Vanished => Some(TaskEnd::Vanished),
    }
}

fn brief(effect: &Effect) -> String {
    format!("{effect:?}").chars().take(160).collect()
}

fn brief_input(input: &Input) -> String {
    format!("{input:?}").chars().take(600).collect()
}
