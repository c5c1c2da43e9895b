//! A machine and its host, small enough to know the truth: what every call really did, and whether
//! it was seen.

use crate::domain::call::{Evidence, HostCall, RecentTask, SnapshotEvidence};
use crate::domain::ids::{QuestionId, SnapshotId, TaskId};
use crate::domain::power::PowerState;
use crate::hypervisor::{Accepted, HostErrorKind};
use crate::service::host_failure::HostFailure;
use crate::service::inventory::samples;
use crate::service::jobs::driver::{Called, Others, TaskEnd};

/// The world. Times are steps of [`World::tick`].
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a small world")]
pub struct World {
    pub power: PowerState,
    /// What a revert to the snapshot makes of the power.
    pub snapshot_power: PowerState,
    pub current: Option<SnapshotId>,
    /// Parents before their children.
    pub snapshots: Vec<SnapshotEvidence>,
    pub tools: bool,
    /// How often the tools stopped.
    pub tools_stops: u32,
    /// What the guest was asked to do and has not done, and in how many steps it will; it hangs
    /// where there are none.
    pub asked_guest: Option<(HostCall, Option<u8>)>,
    /// Guests do not do what they are asked.
    pub guest_hangs: bool,
    pub boots: u32,
    pub away: bool,
    pub gone: bool,
    /// Another job of otter's has asked to power on, and knows of no task yet.
    pub other_calls: bool,
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
            snapshots: vec![
                snapshot("base", None),
                snapshot("kickstart", Some("base")),
                snapshot("leaf", Some("kickstart")),
            ],
            tools: power == PowerState::On,
            tools_stops: 0,
            asked_guest: None,
            guest_hangs: false,
            boots: 0,
            away: false,
            gone: false,
            other_calls: false,
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

    pub fn examine(&self) -> Result<Evidence, HostFailure> {
        if self.away {
            return Err(host_failure(HostErrorKind::Unreachable));
        }
        if self.gone {
            return Err(host_failure(HostErrorKind::NotFound));
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
            snapshots: self.snapshots.clone(),
            tools_running: self.tools,
            question: self.question.then(|| QuestionId::from_backend("q")),
            host_boot_time: Some(self.boots.to_string()),
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
            return Called::Refused(host_failure(HostErrorKind::Unreachable));
        }
        if self.gone || self.misses(call) {
            return Called::Refused(host_failure(HostErrorKind::NotFound));
        }
        match call {
            HostCall::ShutdownGuest | HostCall::RebootGuest => {
                if self.power != PowerState::On {
                    return Called::Refused(host_failure(HostErrorKind::InvalidPowerState));
                }
                if !self.tools {
                    return Called::Refused(host_failure(HostErrorKind::ToolsUnavailable));
                }
                self.asked_guest = Some((call.clone(), (!self.guest_hangs).then_some(ticks)));
                return Called::Accepted(Accepted::Done);
            }
            HostCall::Answer { .. } if !self.question => {
                return Called::Refused(host_failure(HostErrorKind::Rejected));
            }
            HostCall::Answer { .. } | HostCall::RenameSnapshot { .. } => {
                self.take_effect(call, true);
                return Called::Accepted(Accepted::Done);
            }
            _ => {}
        }
        if let Some(running) = self.tasks.iter().find(|task| task.end.is_none() && !task.forgotten)
        {
            let task = Some(running.id.clone()).filter(|_| self.cancelable);
            return Called::Refused(HostFailure {
                blocking_task: task,
                ..host_failure(HostErrorKind::Busy)
            });
        }
        if self.refuses_at_once && !self.fits(call) {
            return Called::Refused(host_failure(HostErrorKind::InvalidPowerState));
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
        self.switch(power);
        self.seen.push(power);
    }

    /// The host itself restarts: machines are off, tasks are forgotten.
    pub fn reboot(&mut self) {
        self.boots += 1;
        self.restart(false);
        self.set_power(PowerState::Off);
    }

    pub fn remove(&mut self, id: &SnapshotId) {
        let Some(at) = self.snapshots.iter().position(|seen| seen.id == *id) else { return };
        let gone = self.snapshots.remove(at);
        for seen in &mut self.snapshots {
            if seen.parent.as_ref() == Some(id) {
                seen.parent.clone_from(&gone.parent);
            }
        }
        if self.current.as_ref() == Some(id) {
            self.current = gone.parent;
        }
    }

    /// The tools run again, or at last.
    pub fn tools_start(&mut self) {
        self.tools = self.power == PowerState::On;
    }

    pub fn tick(&mut self) {
        self.guest_tick();
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
                TaskEnd::Failed(host_failure(HostErrorKind::NotFound))
            } else if self.fits(&call) {
                TaskEnd::Succeeded { snapshot: self.take_effect(&call, ours) }
            } else {
                TaskEnd::Failed(host_failure(HostErrorKind::InvalidPowerState))
            });
        }
    }

    pub fn cancel(&mut self, id: &TaskId) {
        if self.cancelable && !self.away {
            self.end(id, TaskEnd::Failed(host_failure(HostErrorKind::Cancelled)));
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
            self.end(&id, end(host_failure(HostErrorKind::Rejected)));
        }
    }

    /// The host's daemon restarts: it forgets its tasks, and what runs may or may not come to its
    /// end.
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

    /// What otter's other jobs are at.
    pub fn others(&self) -> Others {
        let theirs = self.tasks.iter().filter(|task| task.owner == Owner::OtherJob);
        Others {
            tasks: theirs.map(|task| task.id.clone()).collect(),
            may_power_on: self.other_calls,
            ..Others::default()
        }
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
        let id = TaskId::from_backend(format!("task-{}", self.next));
        self.tasks.push(Task {
            id: id.clone(),
            call,
            owner,
            left: ticks,
            end: None,
            forgotten: false,
        });
        id
    }

    fn end(&mut self, id: &TaskId, end: TaskEnd) {
        if let Some(task) = self.tasks.iter_mut().find(|task| task.id == *id) {
            task.end.get_or_insert(end);
        }
    }

    /// What the guest was asked happens in the end: off, or the tools go and come back.
    fn guest_tick(&mut self) {
        let Some((call, Some(left))) = &mut self.asked_guest else { return };
        if *left > 0 {
            *left -= 1;
            return;
        }
        let call = call.clone();
        match call {
            HostCall::RebootGuest if self.tools => self.stop_tools(),
            _ => {
                self.asked_guest = None;
                self.take_effect(&call, true);
            }
        }
    }

    fn fits(&self, call: &HostCall) -> bool {
        match call {
            HostCall::PowerOn => self.power != PowerState::On,
            HostCall::PowerOff | HostCall::Reset | HostCall::Suspend => {
                self.power == PowerState::On
            }
            _ => !self.misses(call),
        }
    }

    fn misses(&self, call: &HostCall) -> bool {
        match call {
            HostCall::RevertToSnapshot { snapshot, .. }
            | HostCall::RemoveSnapshot { snapshot, .. }
            | HostCall::RenameSnapshot { snapshot, .. } => !self.has(snapshot),
            _ => false,
        }
    }

    pub fn has(&self, id: &SnapshotId) -> bool {
        self.snapshots.iter().any(|seen| seen.id == *id)
    }

    fn stop_tools(&mut self) {
        self.tools_stops += u32::from(self.tools);
        self.tools = false;
    }

    /// Another run of the machine, or none: what its guest was asked is forgotten.
    fn switch(&mut self, power: PowerState) {
        self.asked_guest = None;
        if power != PowerState::On || self.power != PowerState::On {
            self.stop_tools();
            self.tools = power == PowerState::On;
        }
        self.power = power;
    }

    fn take_effect(&mut self, call: &HostCall, ours: bool) -> Option<SnapshotId> {
        let mut made = None;
        match call {
            HostCall::PowerOn => self.switch(PowerState::On),
            HostCall::PowerOff | HostCall::ShutdownGuest => self.switch(PowerState::Off),
            HostCall::Suspend => self.switch(PowerState::Suspended),
            HostCall::Reset | HostCall::RebootGuest => self.tools = true,
            HostCall::Answer { .. } => self.question = false,
            HostCall::CreateSnapshot { name, description, .. } => {
                self.next += 1;
                let id = SnapshotId::from_backend(format!("made-{}", self.next));
                let (parent, name, description) =
                    (self.current.clone(), name.clone(), description.clone());
                self.snapshots.push(SnapshotEvidence { id: id.clone(), parent, name, description });
                self.current = Some(id.clone());
                made = Some(id);
            }
            HostCall::RevertToSnapshot { snapshot, suppress_power_on } => {
                self.current = Some(snapshot.clone());
                self.switch(if *suppress_power_on { PowerState::Off } else { self.snapshot_power });
            }
            HostCall::RemoveSnapshot { snapshot, children } => {
                if *children {
                    while let Some(child) =
                        self.snapshots.iter().find(|seen| seen.parent.as_ref() == Some(snapshot))
                    {
                        let child = child.id.clone();
                        self.remove(&child);
                    }
                }
                self.remove(snapshot);
            }
            HostCall::RemoveAllSnapshots => {
                self.snapshots.clear();
                self.current = None;
            }
            HostCall::RenameSnapshot { snapshot, name, description } => {
                if let Some(seen) = self.snapshots.iter_mut().find(|seen| seen.id == *snapshot) {
                    seen.name = name.clone().unwrap_or_else(|| seen.name.clone());
                    seen.description =
                        description.clone().unwrap_or_else(|| seen.description.clone());
                }
            }
        }
        self.seen.push(self.power);
        if ours {
            self.effects.push(call.clone());
        }
        made
    }
}

pub fn snapshot(id: &str, parent: Option<&str>) -> SnapshotEvidence {
    SnapshotEvidence {
        id: SnapshotId::from_backend(id),
        parent: parent.map(SnapshotId::from_backend),
        name: id.to_owned(),
        description: String::new(),
    }
}

pub fn kickstart() -> SnapshotId {
    SnapshotId::from_backend("kickstart")
}

pub fn host_failure(kind: HostErrorKind) -> HostFailure {
    HostFailure {
        kind,
        message: format!("{kind:?}"),
        fault: None,
        blocking_task: None,
        outcome_uncertain: false,
    }
}
