//! What has happened on the host, as its event manager tells it: the newest thousand things, oldest
//! first.
//!
//! hostd keeps this in memory alone, so it is empty after a restart.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::{Machine, PowerState, Question, Task, World};
use crate::simulator::value::Moref;

/// How many events are kept.
const MAX_EVENTS: usize = 1_000;

/// One thing that has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct HostEvent {
    /// Counts events; never used again.
    pub key: i32,
    /// What the events of one operation have in common: the number of its task, else the event's
    /// own key.
    pub chain: i32,
    pub at: Timestamp,
    /// Empty where the host or a guest did it.
    pub user: String,
    pub machine: Option<EventMachine>,
    pub detail: EventDetail,
}

/// The machine that an event is about, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventMachine {
    pub id: String,
    pub name: String,
    pub template: bool,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq)]
pub enum EventDetail {
    LoggedIn {
        session: String,
        address: String,
        agent: String,
    },
    LoggedOut {
        session: String,
        address: String,
        agent: String,
        calls: i64,
        login_at: Timestamp,
    },
    LoginRefused {
        address: String,
    },
    /// The machine did something that has no more to tell.
    Machine(MachineEvent),
    QuestionAsked {
        message_id: String,
        text: String,
    },
    /// A task as it was when it began.
    Task(Box<Task>),
}

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    Starting,
    PoweredOn,
    Stopping,
    PoweredOff,
    Resetting,
    Suspending,
    Suspended,
    Resuming,
    GuestShutDown,
    GuestRebooted,
    Removed,
}

/// The events that are kept.
#[derive(Debug, Default)]
pub struct EventHistory {
    events: VecDeque<HostEvent>,
    last_key: i32,
}

impl EventHistory {
    /// The events that are kept, oldest first.
    #[must_use]
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &HostEvent> {
        self.events.iter()
    }

    /// The key of the newest event there ever was.
    #[must_use]
    pub const fn last_key(&self) -> i32 {
        self.last_key
    }
}

impl World {
    #[must_use]
    pub const fn history(&self) -> &EventHistory {
        &self.history
    }

    /// Notes what a user did about a session.
    pub fn record_session_event(&mut self, user: &str, detail: EventDetail) {
        self.record_event(user.to_owned(), None, None, detail);
    }

    /// Notes what a machine does, and that the user of its running task, or else this one, let it.
    pub fn record_machine_event(&mut self, id: &str, user: &str, event: MachineEvent) {
        self.record_event_of_machine(id, user, EventDetail::Machine(event));
    }

    pub(super) fn record_task_event(&mut self, task: &Task) {
        let machine = self.machine(&task.machine).map(EventMachine::from_machine);
        let (user, chain) = (task.user.clone(), task.number);
        self.record_event(user, Some(chain), machine, EventDetail::Task(Box::new(task.clone())));
    }

    pub(super) fn record_question_event(&mut self, id: &str, question: &Question) {
        let Question { message_id, text, .. } = question;
        let (message_id, text) = (message_id.clone(), text.clone());
        self.record_event_of_machine(id, "", EventDetail::QuestionAsked { message_id, text });
    }

    /// hostd was restarted.
    pub(super) fn forget_history(&mut self) {
        self.history.events.clear();
    }

    fn record_event_of_machine(&mut self, id: &str, user: &str, detail: EventDetail) {
        let running = self.running_task(id).map(|task| (task.user.clone(), task.number));
        let (user, chain) =
            running.map_or((user.to_owned(), None), |(user, chain)| (user, Some(chain)));
        let machine = self.machine(id).map(EventMachine::from_machine);
        self.record_event(user, chain, machine, detail);
    }

    fn record_event(
        &mut self,
        user: String,
        chain: Option<i32>,
        machine: Option<EventMachine>,
        detail: EventDetail,
    ) {
        self.history.last_key += 1;
        let key = self.history.last_key;
        let at = self.now.wall;
        let event = HostEvent { key, chain: chain.unwrap_or(key), at, user, machine, detail };
        if self.history.events.len() >= MAX_EVENTS {
            self.history.events.pop_front();
        }
        self.history.events.push_back(event);
        self.record_change(Moref::new("EventManager", "ha-eventmgr"));
    }
}

impl EventMachine {
    pub(super) fn from_machine(machine: &Machine) -> Self {
        let Machine { id, name, template, .. } = machine;
        Self { id: id.clone(), name: name.clone(), template: *template }
    }
}

impl MachineEvent {
    /// What a machine in this state begins to do for an operation, if that is told.
    pub(super) fn at_start_of(operation: &super::Operation, power: &PowerState) -> Option<Self> {
        use super::Operation;
        match operation {
            Operation::PowerOn if *power == PowerState::Suspended => Some(Self::Resuming),
            Operation::PowerOn => Some(Self::Starting),
            Operation::PowerOff => Some(Self::Stopping),
            Operation::Reset => Some(Self::Resetting),
            Operation::Suspend => Some(Self::Suspending),
            Operation::CreateSnapshot { .. }
            | Operation::RevertToSnapshot { .. }
            | Operation::RevertToCurrentSnapshot { .. }
            | Operation::RemoveSnapshot { .. }
            | Operation::RemoveAllSnapshots => None,
        }
    }
}
