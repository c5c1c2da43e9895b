//! A machine and its host, small enough to know the truth: what every call really did, and whether it was seen.

use crate::domain::call::{Evidence, HostCall, RecentTask};
use crate::domain::ids::{QuestionId, SnapshotId, TaskId};
use crate::domain::machine::PowerState;
use crate::hypervisor::{Accepted, HostErrorKind};
use crate::service::inventory::samples;
use crate::service::jobs::driver::{Called, TaskEnd};
use crate::service::trouble::Trouble;

/// The world. Times are steps of [`World::tick`].
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a small world")]
pub struct World {
    pub power: PowerState,
    /// What a revert to the snapshot makes of the power.
    pub snapshot_power: PowerState,
    pub current: Option<SnapshotId>,
    pub snapshot_exists: bool,
    pub away: bool,
    pub gone: bool,
    /// The moid was given to another machine.
    pub renumbered: bool,
    pub question: bool,
    /// Tasks can be cancelled on this host.
    pub cancelable: bool,
    /// A wrong power state is refused by the call, not by its task.
    pub refuses_at_once: bool,
    pub tasks: Vec<Task>,
    /// Every power state since the job began.
    pub seen: Vec<PowerState>,
    /// How often the job's own calls took effect, in order.
    pub effects: Vec<HostCall>,
    pub next: u32,
}

/// Who had a task begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Job,
    /// Another job of otter's, such as a kill.
    OtherJob,
    Stranger,
}

#[derive(Clone, Debug)]
pub struct Task {
    pub id: TaskId,
    pub call: HostCall,
    pub owner: Owner,
    pub left: u8,
    pub end: Option<TaskEnd>,
    /// The host no longer knows it.
    pub forgotten: bool,
}

impl World {
    pub fn new(power: PowerState) -> Self {
        Self {
            power,
            snapshot_power: PowerState::Off,
            current: Some(kickstart()),
            snapshot_exists: true,
            away: false,
            gone: false,
            renumbered: false,
            question: false,
            cancelable: true,
            refuses_at_once: true,
            tasks: Vec::new(),
            seen: vec![power],
            effects: Vec::new(),
            next: 0,
        }
    }

    pub fn examine(&self) -> Result<Evidence, Trouble> {
        if self.away {
            return Err(trouble(HostErrorKind::Unreachable));
        }
        if self.gone {
            return Err(trouble(HostErrorKind::NotFound));
        }
        let mut identity = samples::machine("16", "qubes").identity();
        if self.renumbered {
            identity.instance_uuid = Some("another".to_owned());
        }
        let known = self.tasks.iter().filter(|task| !task.forgotten);
        Ok(Evidence {
            identity,
            power_state: Some(self.power),
            current_snapshot: self.current.clone(),
            snapshots: self.snapshot_exists.then(kickstart).into_iter().collect(),
            question: self.question.then(|| QuestionId::new("q")),
            host_boot_time: None,
            recent_tasks: known
                .map(|task| RecentTask {
                    id: task.id.clone(),
                    call: Some(task.call.kind()),
                    by_us: task.owner != Owner::Stranger,
                    running: task.end.is_none(),
                })
                .collect(),
        })
    }

    /// What the host answers to the job's call, were the answer to arrive.
    pub fn call(&mut self, call: &HostCall, ticks: u8) -> Called {
        if self.away {
            return Called::Refused(trouble(HostErrorKind::Unreachable));
        }
        let missing = matches!(call, HostCall::RevertToSnapshot { .. }) && !self.snapshot_exists;
        if self.gone || missing {
            return Called::Refused(trouble(HostErrorKind::NotFound));
        }
        if let Some(running) = self.tasks.iter().find(|task| task.end.is_none() && !task.forgotten) {
            let task = Some(running.id.clone()).filter(|_| self.cancelable);
            return Called::Refused(Trouble { blocking_task: task, ..trouble(HostErrorKind::Busy) });
        }
        if self.refuses_at_once && !self.fits(call) {
            return Called::Refused(trouble(HostErrorKind::InvalidPowerState));
        }
        Called::Accepted(Accepted::Task(self.begin(call.clone(), Owner::Job, ticks)))
    }

    /// Somebody else does this.
    pub fn foreign(&mut self, call: HostCall, owner: Owner, ticks: u8) {
        let busy = self.tasks.iter().any(|task| task.end.is_none() && !task.forgotten);
        if !busy && !self.gone && self.fits(&call) {
            self.begin(call, owner, ticks);
        }
    }

    /// The guest, or somebody at the console, changes the power with no task to see.
    pub fn set_power(&mut self, power: PowerState) {
        self.power = power;
        self.seen.push(power);
    }

    pub fn tick(&mut self) {
        if self.question {
            return;
        }
        for at in 0..self.tasks.len() {
            if self.tasks[at].end.is_some() {
                continue;
            }
            if self.tasks[at].left > 0 {
                self.tasks[at].left -= 1;
                continue;
            }
            let (call, ours) = (self.tasks[at].call.clone(), self.tasks[at].owner == Owner::Job);
            self.tasks[at].end = Some(if self.gone {
                TaskEnd::Failed(trouble(HostErrorKind::NotFound))
            } else if self.fits(&call) {
                self.take_effect(&call, ours);
                TaskEnd::Succeeded
            } else {
                TaskEnd::Failed(trouble(HostErrorKind::InvalidPowerState))
            });
        }
    }

    pub fn cancel(&mut self, id: &TaskId) {
        if self.cancelable && !self.away {
            self.end(id, TaskEnd::Failed(trouble(HostErrorKind::Cancelled)));
        }
    }

    /// The running task of the job fails without effect.
    pub fn fail_own(&mut self, seen: bool) {
        let own = self
            .tasks
            .iter()
            .find(|task| task.owner == Owner::Job && task.end.is_none())
            .map(|task| task.id.clone());
        let end = if seen { TaskEnd::Failed } else { TaskEnd::Lost };
        if let Some(id) = own {
            self.end(&id, end(trouble(HostErrorKind::Rejected)));
        }
    }

    /// The host's daemon restarts: it forgets its tasks, and what runs may or may not come to its end.
    pub fn restart(&mut self, finish: bool) {
        if finish {
            for _ in 0..8 {
                self.tick();
            }
        }
        for task in &mut self.tasks {
            task.forgotten = true;
            task.end.get_or_insert(TaskEnd::Vanished);
        }
    }

    /// The tasks of otter's other jobs.
    pub fn of_others(&self) -> Vec<TaskId> {
        let others = self.tasks.iter().filter(|task| task.owner == Owner::OtherJob);
        others.map(|task| task.id.clone()).collect()
    }

    /// How the task ended as a follower is told; none while it runs or the host is away.
    pub fn followed(&self, id: &TaskId) -> Option<TaskEnd> {
        if self.away {
            return None;
        }
        match self.tasks.iter().find(|task| task.id == *id) {
            Some(task) if !task.forgotten => task.end.clone(),
            _ => Some(TaskEnd::Vanished),
        }
    }

    fn begin(&mut self, call: HostCall, owner: Owner, ticks: u8) -> TaskId {
        self.next += 1;
        let id = TaskId::new(format!("task-{}", self.next));
        self.tasks.push(Task { id: id.clone(), call, owner, left: ticks, end: None, forgotten: false });
        id
    }

    fn end(&mut self, id: &TaskId, end: TaskEnd) {
        if let Some(task) = self.tasks.iter_mut().find(|task| task.id == *id) {
            task.end.get_or_insert(end);
        }
    }

    fn fits(&self, call: &HostCall) -> bool {
        match call {
            HostCall::PowerOn => self.power != PowerState::On,
            HostCall::PowerOff | HostCall::Reset => self.power == PowerState::On,
            HostCall::RevertToSnapshot { .. } => self.snapshot_exists,
        }
    }

    fn take_effect(&mut self, call: &HostCall, ours: bool) {
        match call {
            HostCall::PowerOn => self.power = PowerState::On,
            HostCall::PowerOff => self.power = PowerState::Off,
            HostCall::Reset => {}
            HostCall::RevertToSnapshot { snapshot, suppress_power_on } => {
                self.current = Some(snapshot.clone());
                self.power = if *suppress_power_on { PowerState::Off } else { self.snapshot_power };
            }
        }
        self.seen.push(self.power);
        if ours {
            self.effects.push(call.clone());
        }
    }
}

pub fn kickstart() -> SnapshotId {
    SnapshotId::new("kickstart")
}

pub fn trouble(kind: HostErrorKind) -> Trouble {
    Trouble { kind, message: format!("{kind:?}"), fault: None, blocking_task: None }
}
