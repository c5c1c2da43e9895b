//! The fault matrix as a table: which end is right for each kind of job, step of it and fault, and
//! how often the host may be asked. Written from the contract (design, section 4) and from what
//! vim25 says of itself, never from the code that judges.
//!
//! ```text
//! kind × step × fault ── plight() ──► what can be known of the call ── verdict() ──► end, sendings, what is left
//!                            └──────► or why there is no such cell
//! ```

#![expect(
    clippy::match_same_arms,
    clippy::too_many_lines,
    reason = "a table: a row stands where it is looked for"
)]

/// Declares an enum with all of its members and their words.
macro_rules! named_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$member_doc:meta])* $member:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$member_doc])* $member,)* }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$member,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$member => $text,)* }
            }
        }
    };
}

pub(crate) use named_enum;

named_enum! {
    /// A kind of job; one of two calls stands here twice, by the call that the fault strikes.
    Kind {
        PowerOn = "power_on",
        PowerOff = "power_off",
        Reset = "reset",
        Suspend = "suspend",
        Kill = "kill",
        Shutdown = "shutdown",
        /// With `force_after`: the asking.
        ForcedAsk = "shutdown, forced: the asking",
        /// With `force_after`: the plug, after a guest that does not obey.
        ForcedPlug = "shutdown, forced: the plug",
        Reboot = "reboot",
        Answer = "answer",
        Create = "snapshot create",
        Revert = "revert",
        /// `power_on: true`, to a snapshot without memory.
        RevertOn = "revert and on: the revert",
        RevertOnPower = "revert and on: the power",
        /// `power_on: false`, to a snapshot with memory.
        RevertOff = "revert and off: the revert",
        RevertOffPower = "revert and off: the power",
        Remove = "snapshot remove",
        RemoveChildren = "snapshot remove with children",
        RemoveAll = "snapshot remove_all",
        Rename = "snapshot rename",
    }
}

named_enum! {
    /// Where the job is when the fault strikes.
    InjectionPoint {
        /// The machine is read for the last time before the call.
        Before = "before the call",
        /// The call arrives.
        AtCall = "as the call arrives",
        /// The call is with the host, and its answer never comes.
        Unanswered = "sent, no answer",
        /// The call was taken; its task is queued, or the guest was asked.
        Accepted = "taken, task queued",
        /// The task tells progress, or the guest's tools are gone.
        Progress = "in progress",
        /// It is done on the host, and otter was not told yet.
        Unreported = "done, not reported",
        /// otter knows of the end and lets the picture catch up.
        ResultRead = "reading the result",
    }
}

named_enum! {
    /// What goes wrong.
    Fault {
        SessionExpired = "session expired",
        /// The session expires, and for a while the account is refused.
        AccountRefused = "account refused for a while",
        CutBefore = "cut before the answer",
        CutMid = "cut in the middle of the answer",
        CutAfter = "cut after it was done",
        /// hostd restarts, its tasks are forgotten, and machines finish what they were at.
        HostRestarted = "hostd restarted, work goes on unseen",
        /// The same, and what was at work stops where it is.
        HostRestartedIdle = "hostd restarted, work stops",
        /// The whole host restarts: every machine is off.
        HostRebooted = "host rebooted",
        /// hostd restarts, and when it is back the machine is gone.
        GoneInOutage = "hostd restarted, machine gone",
        SlowDone = "slow past the time-out, done",
        SlowUndone = "slow past the time-out, not done",
        Garbage = "garbage",
        Unavailable = "503 from the proxy",
        TaskFailed = "task failed",
        TaskVanished = "task vanished",
        Deleted = "machine deleted",
        Reregistered = "unregistered, back under a new moid",
        MoidReused = "moid given to another machine",
        QuestionAnswered = "question raised and answered",
        QuestionLeft = "question raised and left",
        Licence = "licence fault",
        PowerStateInCall = "InvalidPowerState from the call",
        PowerStateInTask = "InvalidPowerState from the task",
    }
}

/// One cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    pub kind: Kind,
    pub point: InjectionPoint,
    pub fault: Fault,
}

/// What must come of a cell.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The right ends: the state, and the problem's code where there is one.
    pub ends: Vec<(&'static str, Option<&'static str>)>,
    /// How often the struck method is sent at least and at most, refused sendings included.
    pub sends: (usize, usize),
    /// The end comes with the deadline.
    pub by_deadline: bool,
    pub left: HostEffect,
}

/// What is left on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEffect {
    /// After a success all of it, after a failure nothing of it, after `unknown` one of the two.
    AsReported,
    /// The job's first call was done, its second was not.
    FirstCallOnly,
    /// Something undid it, or the machine is gone.
    Any,
}

/// What can be known of the struck call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// Nothing stands between the job and its end.
    Well,
    /// It was refused for want of a session, which proves that it did not run, and is sent again.
    Resent,
    /// Its answer was lost; it ran, and its task, or what it did, is there to see.
    Ran,
    /// Its answer or its task was lost; it was done, with no task to see.
    RanUnseen,
    /// Its answer or its task was lost, and nothing was done.
    Nothing,
    /// The whole host restarted before it was done.
    Rebooted,
    /// The whole host restarted after it was done, and before otter was told.
    RebootedAfter,
    /// The machine was off before the call.
    OffBefore,
    /// The host refused it for good, with this code; so often it was sent.
    Refused(&'static str, usize),
    /// The machine came into the wanted state by another hand, or into one where the call is wrong.
    PowerTold,
    /// The machine that was meant was gone, with this many sendings, none of which ran.
    Gone(usize),
    /// It was lost, and so was the machine.
    GoneUnjudged,
    /// It was done; afterwards the machine went.
    GoneAfter,
    /// The machine asks, and nobody answers. `holds`: the call's own task hangs on it.
    Asks { sent: bool, holds: bool },
    /// It was done; from then on the host refuses every change.
    LicenceAfter,
}

impl Kind {
    /// The method that the fault strikes.
    pub const fn method(self) -> &'static str {
        match self {
            Self::PowerOn | Self::RevertOnPower => "PowerOnVM_Task",
            Self::PowerOff | Self::Kill | Self::ForcedPlug | Self::RevertOffPower => {
                "PowerOffVM_Task"
            }
            Self::Reset => "ResetVM_Task",
            Self::Suspend => "SuspendVM_Task",
            Self::Shutdown | Self::ForcedAsk => "ShutdownGuest",
            Self::Reboot => "RebootGuest",
            Self::Answer => "AnswerVM",
            Self::Create => "CreateSnapshot_Task",
            Self::Revert | Self::RevertOn | Self::RevertOff => "RevertToSnapshot_Task",
            Self::Remove | Self::RemoveChildren => "RemoveSnapshot_Task",
            Self::RemoveAll => "RemoveAllSnapshots_Task",
            Self::Rename => "RenameSnapshot",
        }
    }

    /// The method of the call before the struck one.
    pub const fn first(self) -> Option<&'static str> {
        match self {
            Self::RevertOnPower | Self::RevertOffPower => Some("RevertToSnapshot_Task"),
            Self::ForcedPlug => Some("ShutdownGuest"),
            _ => None,
        }
    }

    /// Whether another call follows the struck one whatever comes of it.
    const fn has_second_call(self) -> bool {
        matches!(self, Self::RevertOn | Self::RevertOff)
    }

    /// Whether the guest does it after it was asked.
    pub const fn is_guest_call(self) -> bool {
        matches!(self, Self::Shutdown | Self::ForcedAsk | Self::Reboot)
    }

    /// Whether the answer of the call is its end.
    pub const fn is_immediate(self) -> bool {
        matches!(self, Self::Answer | Self::Rename)
    }

    pub const fn has_task(self) -> bool {
        !self.is_guest_call() && !self.is_immediate()
    }

    /// Whether the call names a snapshot and not the machine.
    const fn names_snapshot(self) -> bool {
        matches!(
            self,
            Self::Revert
                | Self::RevertOn
                | Self::RevertOff
                | Self::Remove
                | Self::RemoveChildren
                | Self::Rename
        )
    }

    /// Whether it minds the power that the machine has.
    pub const fn depends_on_power(self) -> bool {
        matches!(
            self,
            Self::PowerOn
                | Self::PowerOff
                | Self::Reset
                | Self::Suspend
                | Self::Kill
                | Self::ForcedPlug
                | Self::RevertOnPower
                | Self::RevertOffPower
        )
    }

    /// Whether a question holds its task.
    pub const fn powers_on(self) -> bool {
        matches!(self, Self::PowerOn | Self::RevertOnPower)
    }

    const fn waits_for_questions(self) -> bool {
        !matches!(self, Self::Kill | Self::Answer)
    }
}

impl Cell {
    /// Every cell, whether it can be or not.
    pub fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.iter().flat_map(|kind| {
            InjectionPoint::ALL.iter().flat_map(move |point| {
                Fault::ALL.iter().map(move |fault| Self {
                    kind: *kind,
                    point: *point,
                    fault: *fault,
                })
            })
        })
    }

    /// What must come of it, or why it cannot be.
    pub fn expected(self) -> Result<Expected, &'static str> {
        self.call_outcome().map(|call_outcome| self.expected_for(call_outcome))
    }

    pub fn name(self) -> String {
        format!("{} | {} | {}", self.kind.name(), self.point.name(), self.fault.name())
    }

    /// What can be known of its call, or why it cannot be.
    pub fn call_outcome(self) -> Result<CallOutcome, &'static str> {
        if self.kind.is_immediate()
            && matches!(
                self.point,
                InjectionPoint::Accepted | InjectionPoint::Progress | InjectionPoint::Unreported
            )
        {
            return Err("the answer of the call is its end");
        }
        if self.kind.has_second_call() && self.point == InjectionPoint::ResultRead {
            return Err("the picture is caught up once, at the end: the second call has it");
        }
        if matches!(self.kind, Kind::Shutdown | Kind::ForcedAsk)
            && self.point == InjectionPoint::Progress
        {
            return Err("a guest that shuts down tells no progress");
        }
        let no_task =
            matches!(self.fault, Fault::TaskFailed | Fault::TaskVanished | Fault::PowerStateInTask);
        if no_task && !self.kind.has_task() {
            return Err("it has no task");
        }
        if self.kind == Kind::Answer
            && matches!(self.fault, Fault::QuestionAnswered | Fault::QuestionLeft)
        {
            return Err("it is the answer to one");
        }
        if self.fault == Fault::HostRestartedIdle && !self.kind.has_task() {
            return Err("it has no task whose work could stop");
        }
        match self.point {
            InjectionPoint::Before => self.before(),
            InjectionPoint::AtCall => self.at_call(),
            InjectionPoint::Unanswered => self.unanswered(),
            InjectionPoint::Accepted | InjectionPoint::Progress if self.kind.is_guest_call() => {
                self.asked()
            }
            InjectionPoint::Accepted | InjectionPoint::Progress => self.at_work(),
            InjectionPoint::Unreported if self.kind.is_guest_call() => self.asked(),
            InjectionPoint::Unreported => self.unreported(),
            InjectionPoint::ResultRead => self.result_read(),
        }
    }

    fn before(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::SessionExpired
            | Fault::AccountRefused
            | Fault::CutBefore
            | Fault::CutMid
            | Fault::CutAfter
            | Fault::HostRestarted
            | Fault::SlowDone
            | Fault::Garbage
            | Fault::Unavailable
            | Fault::QuestionAnswered => CallOutcome::Well,
            Fault::HostRebooted => CallOutcome::OffBefore,
            Fault::GoneInOutage | Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                CallOutcome::Gone(0)
            }
            Fault::QuestionLeft if self.kind.waits_for_questions() => {
                CallOutcome::Asks { sent: false, holds: false }
            }
            Fault::QuestionLeft => CallOutcome::Well,
            Fault::Licence => CallOutcome::Refused("license-restricted", 1),
            Fault::HostRestartedIdle
            | Fault::TaskFailed
            | Fault::TaskVanished
            | Fault::PowerStateInTask => {
                return Err("there is no task yet");
            }
            Fault::SlowUndone => return Err("a read does nothing: late is late"),
            Fault::PowerStateInCall => {
                return Err("before the call the state is read, not refused");
            }
        })
    }

    fn at_call(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::SessionExpired | Fault::AccountRefused => CallOutcome::Resent,
            Fault::HostRestarted => CallOutcome::Nothing,
            Fault::HostRebooted => CallOutcome::Rebooted,
            Fault::GoneInOutage => CallOutcome::GoneUnjudged,
            Fault::Deleted | Fault::Reregistered => CallOutcome::Gone(1),
            Fault::MoidReused if self.kind.names_snapshot() => CallOutcome::Gone(1),
            Fault::MoidReused => {
                return Err(
                    "vim25 names a machine by its moid alone: a call on its way cannot tell",
                );
            }
            Fault::Licence => CallOutcome::Refused("license-restricted", 1),
            Fault::PowerStateInCall => CallOutcome::PowerTold,
            Fault::CutBefore
            | Fault::CutMid
            | Fault::CutAfter
            | Fault::SlowDone
            | Fault::SlowUndone
            | Fault::Garbage
            | Fault::Unavailable => return Err("a call without an answer is the next step"),
            Fault::HostRestartedIdle
            | Fault::TaskFailed
            | Fault::TaskVanished
            | Fault::PowerStateInTask => {
                return Err("there is no task yet");
            }
            Fault::QuestionAnswered | Fault::QuestionLeft => {
                return Err("a question holds a job or a task, not a call");
            }
        })
    }

    fn unanswered(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::CutBefore | Fault::SlowUndone | Fault::Garbage | Fault::Unavailable => {
                CallOutcome::Nothing
            }
            Fault::SessionExpired
            | Fault::AccountRefused
            | Fault::CutMid
            | Fault::CutAfter
            | Fault::SlowDone
            | Fault::QuestionAnswered => CallOutcome::Ran,
            Fault::HostRestarted | Fault::TaskVanished => CallOutcome::RanUnseen,
            Fault::HostRestartedIdle => CallOutcome::Nothing,
            Fault::HostRebooted if self.kind == Kind::Rename => CallOutcome::Ran,
            Fault::HostRebooted => CallOutcome::Rebooted,
            Fault::GoneInOutage | Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                CallOutcome::GoneUnjudged
            }
            Fault::TaskFailed => CallOutcome::Refused("host-rejected", 1),
            // Reverted to a snapshot without memory the machine is off, and asks nothing any more.
            Fault::QuestionLeft if self.kind == Kind::RevertOn => CallOutcome::Well,
            Fault::QuestionLeft => CallOutcome::Asks { sent: true, holds: self.kind.powers_on() },
            Fault::Licence => CallOutcome::LicenceAfter,
            Fault::PowerStateInTask => CallOutcome::PowerTold,
            Fault::PowerStateInCall => return Err("there is no answer that could say so"),
        })
    }

    /// A task of the job is queued or at work.
    fn at_work(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::HostRestarted | Fault::TaskVanished => CallOutcome::RanUnseen,
            Fault::HostRestartedIdle => CallOutcome::Nothing,
            Fault::HostRebooted => CallOutcome::Rebooted,
            Fault::GoneInOutage => CallOutcome::GoneUnjudged,
            Fault::TaskFailed => CallOutcome::Refused("host-rejected", 1),
            Fault::Deleted | Fault::Reregistered | Fault::MoidReused => CallOutcome::Gone(1),
            Fault::PowerStateInTask => CallOutcome::PowerTold,
            // Reverted to a snapshot without memory the machine is off, and asks nothing any more.
            Fault::QuestionLeft if self.kind == Kind::RevertOn => CallOutcome::Well,
            Fault::QuestionLeft => CallOutcome::Asks { sent: true, holds: self.kind.powers_on() },
            Fault::Licence => CallOutcome::LicenceAfter,
            _ => return self.on_the_stream(),
        })
    }

    /// It is done on the host.
    fn unreported(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::HostRestarted | Fault::TaskVanished => CallOutcome::RanUnseen,
            Fault::HostRebooted => CallOutcome::RebootedAfter,
            Fault::GoneInOutage => CallOutcome::GoneUnjudged,
            Fault::Deleted | Fault::Reregistered | Fault::MoidReused => CallOutcome::GoneAfter,
            Fault::QuestionLeft => CallOutcome::Asks { sent: true, holds: false },
            Fault::Licence => CallOutcome::LicenceAfter,
            _ => return self.ended_well(),
        })
    }

    /// otter knows of the end.
    fn result_read(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::HostRebooted
            | Fault::GoneInOutage
            | Fault::Deleted
            | Fault::Reregistered
            | Fault::MoidReused => CallOutcome::GoneAfter,
            Fault::HostRestarted | Fault::TaskVanished | Fault::QuestionLeft | Fault::Licence => {
                CallOutcome::Well
            }
            _ => return self.ended_well(),
        })
    }

    /// The guest was asked; on the way to the end, or at it.
    fn asked(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::HostRestarted | Fault::QuestionLeft | Fault::Licence => CallOutcome::Well,
            Fault::HostRebooted => CallOutcome::Rebooted,
            Fault::GoneInOutage | Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                CallOutcome::GoneUnjudged
            }
            _ => return self.on_the_stream(),
        })
    }

    fn ended_well(self) -> Result<CallOutcome, &'static str> {
        match self.fault {
            Fault::TaskFailed | Fault::PowerStateInTask => {
                Err("a task that ended well fails no more")
            }
            Fault::HostRestartedIdle => Err("nothing is left to stop"),
            _ => self.on_the_stream(),
        }
    }

    /// What strikes the stream of updates, and not the call.
    fn on_the_stream(self) -> Result<CallOutcome, &'static str> {
        match self.fault {
            Fault::SlowUndone => Err("a wait does nothing: late is late"),
            Fault::PowerStateInCall => Err("the call was answered"),
            _ => Ok(CallOutcome::Well),
        }
    }

    fn expected_for(self, call_outcome: CallOutcome) -> Expected {
        let kind = self.kind;
        let end = |state, code, sends| Expected {
            ends: vec![(state, code)],
            sends: (sends, sends),
            by_deadline: false,
            left: HostEffect::AsReported,
        };
        let succeeded = |sends| end("succeeded", None, sends);
        let unknown = |sends| end("unknown", Some("outcome-unknown"), sends);
        // A guest that was asked may still obey, so that no failure of the plug proves that nothing
        // was done.
        let failed = |code, sends| match kind {
            Kind::ForcedPlug => unknown(sends),
            _ => Expected {
                left: match kind {
                    Kind::RevertOnPower | Kind::RevertOffPower => HostEffect::FirstCallOnly,
                    _ => HostEffect::AsReported,
                },
                ..end("failed", Some(code), sends)
            },
        };
        // The revert was done; the power after it could not be.
        let half = |code, sends| Expected {
            left: HostEffect::FirstCallOnly,
            ..end("failed", Some(code), sends)
        };
        let whatever = |expected| Expected { left: HostEffect::Any, ..expected };
        // Asked again, within the limit of three times more.
        let again = || Expected { sends: (2, 4), ..succeeded(2) };
        match call_outcome {
            CallOutcome::Well => succeeded(1),
            CallOutcome::Resent => succeeded(2),
            CallOutcome::Ran | CallOutcome::RanUnseen if kind == Kind::Answer => unknown(1),
            CallOutcome::Ran => succeeded(1),
            CallOutcome::RanUnseen => match kind {
                Kind::Reset => unknown(1),
                // Looking at the machine proves nothing of a revert.
                Kind::Revert | Kind::RevertOn | Kind::RevertOff => again(),
                _ => succeeded(1),
            },
            CallOutcome::Nothing => match kind {
                Kind::Reset | Kind::Create => unknown(1),
                Kind::Shutdown | Kind::Reboot => Expected { by_deadline: true, ..unknown(1) },
                // The plug is pulled in the end.
                Kind::ForcedAsk => succeeded(1),
                _ => again(),
            },
            CallOutcome::Rebooted => match kind {
                Kind::PowerOn
                | Kind::RevertOnPower
                | Kind::Revert
                | Kind::RevertOn
                | Kind::RevertOff
                | Kind::Remove
                | Kind::RemoveChildren
                | Kind::RemoveAll
                | Kind::Rename => again(),
                // The reboot did it.
                Kind::PowerOff
                | Kind::Kill
                | Kind::RevertOffPower
                | Kind::ForcedPlug
                | Kind::Shutdown
                | Kind::ForcedAsk => succeeded(1),
                Kind::Suspend | Kind::Reset | Kind::Reboot | Kind::Answer => unknown(1),
                // `retry: after`, whatever its code: see `check`.
                Kind::Create => end("failed", Some("host-unreachable"), 1),
            },
            CallOutcome::RebootedAfter => match kind {
                Kind::PowerOn
                | Kind::RevertOnPower
                | Kind::Revert
                | Kind::RevertOn
                | Kind::RevertOff => again(),
                Kind::Reset => unknown(1),
                _ => succeeded(1),
            },
            CallOutcome::OffBefore => match kind {
                Kind::PowerOff
                | Kind::Kill
                | Kind::Shutdown
                | Kind::ForcedAsk
                | Kind::ForcedPlug
                | Kind::RevertOffPower => succeeded(0),
                Kind::Reset | Kind::Suspend | Kind::Reboot => {
                    end("failed", Some("invalid-power-state"), 0)
                }
                // The question went with the run that asked it.
                Kind::Answer => whatever(end("failed", Some("host-rejected"), 1)),
                _ => succeeded(1),
            },
            CallOutcome::Refused(code, sends) => failed(code, sends),
            CallOutcome::PowerTold => match kind {
                Kind::PowerOn
                | Kind::PowerOff
                | Kind::Kill
                | Kind::Suspend
                | Kind::Shutdown
                | Kind::ForcedAsk
                | Kind::ForcedPlug
                | Kind::RevertOnPower
                | Kind::RevertOffPower => succeeded(1),
                _ => failed("invalid-power-state", 1),
            },
            CallOutcome::Gone(sends) => whatever(failed("machine-gone", sends)),
            CallOutcome::GoneUnjudged => whatever(unknown(1)),
            CallOutcome::GoneAfter if kind.has_second_call() => {
                whatever(end("failed", Some("machine-gone"), 1))
            }
            CallOutcome::GoneAfter => whatever(succeeded(1)),
            CallOutcome::Asks { sent: false, .. } => {
                Expected { by_deadline: true, ..failed("question-pending", 0) }
            }
            CallOutcome::Asks { holds: true, .. } => {
                Expected { by_deadline: true, ..failed("question-pending", 1) }
            }
            CallOutcome::Asks { .. } if kind.has_second_call() => {
                Expected { by_deadline: true, ..half("question-pending", 1) }
            }
            CallOutcome::LicenceAfter if kind.has_second_call() => half("license-restricted", 1),
            CallOutcome::LicenceAfter if kind == Kind::Answer => unknown(1),
            CallOutcome::Asks { .. } | CallOutcome::LicenceAfter => succeeded(1),
        }
    }
}
