//! The history of the event manager: the newest 1,000 events of the host, oldest first. hostd keeps
//! them in memory only, so a restart of hostd loses them.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::{Machine, PowerState, Question, Task, World};
use crate::simulator::value::Moref;

/// The maximum number of events that hostd keeps.
const MAX_EVENTS: usize = 1_000;

/// An event in the history of the host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostEvent {
    /// The number of the event. The host never uses a number again.
    pub key: i32,
    /// A number that all events of one operation have in common: the number of the operation's
    /// task. An event without a task has its own key here.
    pub chain: i32,
    pub at: Timestamp,
    /// The user who caused the event. Empty if the host or a guest caused it.
    pub user: String,
    pub machine: Option<EventMachine>,
    pub detail: EventDetail,
}

/// The machine that an event is about, as the machine was at the time of the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventMachine {
    pub id: String,
    pub name: String,
    pub template: bool,
}

/// The type of an event, with the fields that only events of this type have.
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
    /// A machine did something. The event needs no fields of its own.
    Machine(MachineEvent),
    QuestionAsked {
        message_id: String,
        text: String,
    },
    /// A task was started. The field holds the task as it was when it started.
    Task(Box<Task>),
}

/// Something that a machine does.
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

/// The events that hostd keeps, oldest first.
#[derive(Debug, Default)]
pub struct EventHistory {
    events: VecDeque<HostEvent>,
    last_key: i32,
}

impl EventHistory {
    /// The events, oldest first.
    #[must_use]
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &HostEvent> {
        self.events.iter()
    }

    /// The key of the last event that was recorded, even if hostd has forgotten that event.
    #[must_use]
    pub const fn last_key(&self) -> i32 {
        self.last_key
    }
}

impl World {
    /// The events of the host.
    #[must_use]
    pub const fn history(&self) -> &EventHistory {
        &self.history
    }

    /// Records an event of a session, such as a login.
    pub fn record_session_event(&mut self, user: &str, detail: EventDetail) {
        self.record_event(user.to_owned(), None, None, detail);
    }

    /// Records an event of a machine. The user of the event is the user of the machine's running
    /// task, or `user` if no task runs.
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

    /// Forgets all events, as a restart of hostd does.
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
    /// The event that a host records when an operation starts on a machine in this power state.
    /// `None` if the host records no event for the start of this operation.
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
            | Operation::RemoveAllSnapshots
            | Operation::ConsolidateDisks
            | Operation::CreateScreenshot
            | Operation::Reconfigure(_)
            | Operation::SearchFiles(_)
            | Operation::DeleteFile(_)
            | Operation::MoveFile { .. }
            | Operation::CopyFile { .. } => None,
        }
    }
}
