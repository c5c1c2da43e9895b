//! The table of the fault matrix: for each kind of job, injection point and fault, the expected end
//! and how often the host may be called. It follows the documented rules for jobs and the
//! documentation of vim25, and shares no code with the rules in otter.
//!
//! ```text
//! kind × point × fault
//!  └─ call_outcome() ──► CallOutcome ── expected_for() ──► end, calls, effect on the host
//!           └──► or the reason why the cell is impossible
//! ```

#![expect(
    clippy::match_same_arms,
    clippy::too_many_lines,
    reason = "a table: rows are in the order in which a reader searches"
)]

/// Declares an enum with a list of its variants and a name for each.
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
    /// A kind of job. A job with two calls has two kinds, one for each call that the fault
    /// disrupts.
    Kind {
        PowerOn = "power_on",
        PowerOff = "power_off",
        Reset = "reset",
        Suspend = "suspend",
        Kill = "kill",
        Shutdown = "shutdown",
        /// With `force_after`: the request to the guest.
        ForcedShutdown = "shutdown, forced: the request",
        /// With `force_after`: the power-off after a guest that does not react.
        ForcedPowerOff = "shutdown, forced: the power-off",
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
        Consolidate = "consolidate",
        Rename = "snapshot rename",
        Insert = "media: insert",
        Boot = "boot",
    }
}

named_enum! {
    /// The point of a job at which the fault is injected.
    InjectionPoint {
        /// otter reads the machine for the last time before the call.
        Before = "before the call",
        /// The call arrives at the host.
        AtCall = "as the call arrives",
        /// The host has the call, and its answer never arrives.
        Unanswered = "sent, no answer",
        /// The host has accepted the call. Its task is queued, or the guest was asked.
        Accepted = "taken, task queued",
        /// The task reports progress, or the tools of the guest have stopped.
        Progress = "in progress",
        /// The operation is done on the host, and otter does not know it yet.
        Unreported = "done, not reported",
        /// otter knows the end of the call and waits until the inventory is current.
        ResultRead = "reading the result",
    }
}

named_enum! {
    /// A fault.
    Fault {
        SessionExpired = "session expired",
        /// The session expires, and the account is refused for a while.
        AccountRefused = "account refused for a while",
        CutBefore = "cut before the answer",
        CutMid = "cut in the middle of the answer",
        CutAfter = "cut after it was done",
        /// hostd restarts and forgets its tasks. Running operations go on.
        HostRestarted = "hostd restarted, work goes on unseen",
        /// hostd restarts and forgets its tasks. Running operations stop.
        HostRestartedIdle = "hostd restarted, work stops",
        /// The whole host reboots: every machine is off.
        HostRebooted = "host rebooted",
        /// hostd restarts, and then the machine is gone.
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

/// A cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    pub kind: Kind,
    pub point: InjectionPoint,
    pub fault: Fault,
}

/// The expected result of a cell.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The allowed ends: the state, and the code of the problem if there is one.
    pub ends: Vec<(&'static str, Option<&'static str>)>,
    /// How often the disrupted method is sent at least and at most, including refused calls.
    pub sends: (usize, usize),
    /// Whether the job ends by its deadline.
    pub by_deadline: bool,
    pub left: HostEffect,
}

/// The effect of a job on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostEffect {
    /// The full effect after a success, none after a failure, and one of both after `unknown`.
    AsReported,
    /// The first call took effect, the second did not.
    FirstCallOnly,
    /// Any effect: something has undone it, or the machine is gone.
    Any,
}

/// The outcome of the disrupted call, as far as otter can know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The call works. Nothing prevents the end of the job.
    Succeeds,
    /// The host refused the call because of the session. This proves that the call did not run, so
    /// otter sends it again.
    Resent,
    /// The answer of the call was lost. The call ran, and its task or its effect is visible.
    Ran,
    /// The answer or the task of the call was lost. The operation is done, and no task is visible.
    RanUnseen,
    /// The answer or the task of the call was lost, and the call had no effect.
    NoEffect,
    /// The host rebooted before the operation was done.
    Rebooted,
    /// The host rebooted after the operation was done and before otter knew the result.
    RebootedAfter,
    /// The machine was off before the call.
    OffBefore,
    /// The host finally refused the call, with this code, after this number of sends.
    Refused(&'static str, usize),
    /// Another client has brought the machine into the requested power state, or into one in which
    /// the host refuses the call.
    PowerStateChanged,
    /// The machine was gone. The call was sent this number of times and never ran.
    Gone(usize),
    /// The answer of the call was lost, and the machine is gone.
    GoneUnknown,
    /// The operation was done, and then the machine was removed.
    GoneAfter,
    /// The machine asks a question that is not answered. `sent`: the question comes after the call
    /// was sent. `holds`: the task of the call waits for the answer.
    Asks { sent: bool, holds: bool },
    /// The operation was done, and then the host refuses every change.
    LicenceAfter,
}

impl Kind {
    /// The disrupted method.
    pub const fn method(self) -> &'static str {
        match self {
            Self::PowerOn | Self::RevertOnPower => "PowerOnVM_Task",
            Self::PowerOff | Self::Kill | Self::ForcedPowerOff | Self::RevertOffPower => {
                "PowerOffVM_Task"
            }
            Self::Reset => "ResetVM_Task",
            Self::Suspend => "SuspendVM_Task",
            Self::Shutdown | Self::ForcedShutdown => "ShutdownGuest",
            Self::Reboot => "RebootGuest",
            Self::Answer => "AnswerVM",
            Self::Create => "CreateSnapshot_Task",
            Self::Revert | Self::RevertOn | Self::RevertOff => "RevertToSnapshot_Task",
            Self::Remove | Self::RemoveChildren => "RemoveSnapshot_Task",
            Self::RemoveAll => "RemoveAllSnapshots_Task",
            Self::Consolidate => "ConsolidateVMDisks_Task",
            Self::Rename => "RenameSnapshot",
            Self::Insert | Self::Boot => "ReconfigVM_Task",
        }
    }

    /// The method of the call before the disrupted one. `None` if there is none.
    pub const fn first(self) -> Option<&'static str> {
        match self {
            Self::RevertOnPower | Self::RevertOffPower => Some("RevertToSnapshot_Task"),
            Self::ForcedPowerOff => Some("ShutdownGuest"),
            _ => None,
        }
    }

    /// Whether another call follows the disrupted one.
    const fn has_second_call(self) -> bool {
        matches!(self, Self::RevertOn | Self::RevertOff)
    }

    /// Whether the call is a request to the guest.
    pub const fn is_guest_call(self) -> bool {
        matches!(self, Self::Shutdown | Self::ForcedShutdown | Self::Reboot)
    }

    /// Whether the operation is done when the host answers the call.
    pub const fn is_immediate(self) -> bool {
        matches!(self, Self::Answer | Self::Rename)
    }

    /// Whether the call starts a task.
    pub const fn has_task(self) -> bool {
        !self.is_guest_call() && !self.is_immediate()
    }

    /// Whether the target of the call is a snapshot.
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

    /// Whether the host refuses the call in some power states.
    pub const fn depends_on_power(self) -> bool {
        matches!(
            self,
            Self::PowerOn
                | Self::PowerOff
                | Self::Reset
                | Self::Suspend
                | Self::Kill
                | Self::ForcedPowerOff
                | Self::RevertOnPower
                | Self::RevertOffPower
        )
    }

    /// Whether a question of the machine holds the task of the call.
    pub const fn powers_on(self) -> bool {
        matches!(self, Self::PowerOn | Self::RevertOnPower)
    }

    const fn waits_for_questions(self) -> bool {
        !matches!(self, Self::Kill | Self::Answer)
    }
}

impl Cell {
    /// All cells, including impossible ones.
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

    /// The expected result, or the reason why the cell is impossible.
    pub fn expected(self) -> Result<Expected, &'static str> {
        self.call_outcome().map(|call_outcome| self.expected_for(call_outcome))
    }

    pub fn name(self) -> String {
        format!("{} | {} | {}", self.kind.name(), self.point.name(), self.fault.name())
    }

    /// The outcome of the disrupted call, or the reason why the cell is impossible.
    pub fn call_outcome(self) -> Result<CallOutcome, &'static str> {
        if self.kind.is_immediate()
            && matches!(
                self.point,
                InjectionPoint::Accepted | InjectionPoint::Progress | InjectionPoint::Unreported
            )
        {
            return Err("the call is done with its answer");
        }
        if self.kind.has_second_call() && self.point == InjectionPoint::ResultRead {
            return Err("only the last call has a barrier after it");
        }
        if matches!(self.kind, Kind::Shutdown | Kind::ForcedShutdown)
            && self.point == InjectionPoint::Progress
        {
            return Err("a guest that shuts down reports no progress");
        }
        let no_task =
            matches!(self.fault, Fault::TaskFailed | Fault::TaskVanished | Fault::PowerStateInTask);
        if no_task && !self.kind.has_task() {
            return Err("the call has no task");
        }
        if self.kind == Kind::Answer
            && matches!(self.fault, Fault::QuestionAnswered | Fault::QuestionLeft)
        {
            return Err("the job answers a question itself");
        }
        if self.fault == Fault::HostRestartedIdle && !self.kind.has_task() {
            return Err("the call has no task that could stop");
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
            | Fault::QuestionAnswered => CallOutcome::Succeeds,
            Fault::HostRebooted => CallOutcome::OffBefore,
            Fault::GoneInOutage | Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                CallOutcome::Gone(0)
            }
            Fault::QuestionLeft if self.kind.waits_for_questions() => {
                CallOutcome::Asks { sent: false, holds: false }
            }
            Fault::QuestionLeft => CallOutcome::Succeeds,
            Fault::Licence => CallOutcome::Refused("license-restricted", 1),
            Fault::HostRestartedIdle
            | Fault::TaskFailed
            | Fault::TaskVanished
            | Fault::PowerStateInTask => {
                return Err("the call has no task yet");
            }
            Fault::SlowUndone => {
                return Err("a read has no effect, so done and not done are the same");
            }
            Fault::PowerStateInCall => {
                return Err("otter reads the state before the call, and the host refuses nothing");
            }
        })
    }

    fn at_call(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::SessionExpired | Fault::AccountRefused => CallOutcome::Resent,
            Fault::HostRestarted => CallOutcome::NoEffect,
            Fault::HostRebooted => CallOutcome::Rebooted,
            Fault::GoneInOutage => CallOutcome::GoneUnknown,
            Fault::Deleted | Fault::Reregistered => CallOutcome::Gone(1),
            Fault::MoidReused if self.kind.names_snapshot() => CallOutcome::Gone(1),
            Fault::MoidReused => {
                return Err(
                    "vim25 identifies a machine only by its moid, so a call that was sent hits the \
                     new machine",
                );
            }
            Fault::Licence => CallOutcome::Refused("license-restricted", 1),
            Fault::PowerStateInCall => CallOutcome::PowerStateChanged,
            Fault::CutBefore
            | Fault::CutMid
            | Fault::CutAfter
            | Fault::SlowDone
            | Fault::SlowUndone
            | Fault::Garbage
            | Fault::Unavailable => return Err("a call without an answer is the next point"),
            Fault::HostRestartedIdle
            | Fault::TaskFailed
            | Fault::TaskVanished
            | Fault::PowerStateInTask => {
                return Err("the call has no task yet");
            }
            Fault::QuestionAnswered | Fault::QuestionLeft => {
                return Err("a question holds a job or a task, but no call");
            }
        })
    }

    fn unanswered(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::CutBefore | Fault::SlowUndone | Fault::Garbage | Fault::Unavailable => {
                CallOutcome::NoEffect
            }
            Fault::SessionExpired
            | Fault::AccountRefused
            | Fault::CutMid
            | Fault::CutAfter
            | Fault::SlowDone
            | Fault::QuestionAnswered => CallOutcome::Ran,
            Fault::HostRestarted | Fault::TaskVanished => CallOutcome::RanUnseen,
            Fault::HostRestartedIdle => CallOutcome::NoEffect,
            Fault::HostRebooted if self.kind == Kind::Rename => CallOutcome::Ran,
            Fault::HostRebooted => CallOutcome::Rebooted,
            Fault::GoneInOutage | Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                CallOutcome::GoneUnknown
            }
            Fault::TaskFailed => CallOutcome::Refused("host-rejected", 1),
            // After a revert to a snapshot without memory the machine is off and asks nothing.
            Fault::QuestionLeft if self.kind == Kind::RevertOn => CallOutcome::Succeeds,
            Fault::QuestionLeft => CallOutcome::Asks { sent: true, holds: self.kind.powers_on() },
            Fault::Licence => CallOutcome::LicenceAfter,
            Fault::PowerStateInTask => CallOutcome::PowerStateChanged,
            Fault::PowerStateInCall => return Err("there is no answer that could contain it"),
        })
    }

    /// The outcome if the fault happens while the task of the call is queued or running.
    fn at_work(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::HostRestarted | Fault::TaskVanished => CallOutcome::RanUnseen,
            Fault::HostRestartedIdle => CallOutcome::NoEffect,
            Fault::HostRebooted => CallOutcome::Rebooted,
            Fault::GoneInOutage => CallOutcome::GoneUnknown,
            Fault::TaskFailed => CallOutcome::Refused("host-rejected", 1),
            Fault::Deleted | Fault::Reregistered | Fault::MoidReused => CallOutcome::Gone(1),
            Fault::PowerStateInTask => CallOutcome::PowerStateChanged,
            // After a revert to a snapshot without memory the machine is off and asks nothing.
            Fault::QuestionLeft if self.kind == Kind::RevertOn => CallOutcome::Succeeds,
            Fault::QuestionLeft => CallOutcome::Asks { sent: true, holds: self.kind.powers_on() },
            Fault::Licence => CallOutcome::LicenceAfter,
            _ => return self.on_the_stream(),
        })
    }

    /// The outcome if the fault happens after the operation is done on the host, before otter knows
    /// it.
    fn unreported(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::HostRestarted | Fault::TaskVanished => CallOutcome::RanUnseen,
            Fault::HostRebooted => CallOutcome::RebootedAfter,
            Fault::GoneInOutage => CallOutcome::GoneUnknown,
            Fault::Deleted | Fault::Reregistered | Fault::MoidReused => CallOutcome::GoneAfter,
            Fault::QuestionLeft => CallOutcome::Asks { sent: true, holds: false },
            Fault::Licence => CallOutcome::LicenceAfter,
            _ => return self.ended_well(),
        })
    }

    /// The outcome if the fault happens when otter knows the end of the call.
    fn result_read(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::HostRebooted
            | Fault::GoneInOutage
            | Fault::Deleted
            | Fault::Reregistered
            | Fault::MoidReused => CallOutcome::GoneAfter,
            Fault::HostRestarted | Fault::TaskVanished | Fault::QuestionLeft | Fault::Licence => {
                CallOutcome::Succeeds
            }
            _ => return self.ended_well(),
        })
    }

    /// The outcome if the fault happens after the guest was asked. The guest may have reacted.
    fn asked(self) -> Result<CallOutcome, &'static str> {
        Ok(match self.fault {
            Fault::HostRestarted | Fault::QuestionLeft | Fault::Licence => CallOutcome::Succeeds,
            Fault::HostRebooted => CallOutcome::Rebooted,
            Fault::GoneInOutage | Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                CallOutcome::GoneUnknown
            }
            _ => return self.on_the_stream(),
        })
    }

    fn ended_well(self) -> Result<CallOutcome, &'static str> {
        match self.fault {
            Fault::TaskFailed | Fault::PowerStateInTask => {
                Err("a task that has succeeded cannot fail")
            }
            Fault::HostRestartedIdle => Err("no operation is running"),
            _ => self.on_the_stream(),
        }
    }

    /// The outcome if the fault disrupts the stream of updates, and not the call.
    fn on_the_stream(self) -> Result<CallOutcome, &'static str> {
        match self.fault {
            Fault::SlowUndone => Err("a wait has no effect, so done and not done are the same"),
            Fault::PowerStateInCall => Err("the call was answered before"),
            _ => Ok(CallOutcome::Succeeds),
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
        // A guest that was asked may still react, so a failed power-off proves nothing.
        let failed = |code, sends| match kind {
            Kind::ForcedPowerOff => unknown(sends),
            _ => Expected {
                left: match kind {
                    Kind::RevertOnPower | Kind::RevertOffPower => HostEffect::FirstCallOnly,
                    _ => HostEffect::AsReported,
                },
                ..end("failed", Some(code), sends)
            },
        };
        // The revert took effect, the power operation after it did not.
        let half = |code, sends| Expected {
            left: HostEffect::FirstCallOnly,
            ..end("failed", Some(code), sends)
        };
        let whatever = |expected| Expected { left: HostEffect::Any, ..expected };
        // The call is sent again, up to three times.
        let again = || Expected { sends: (2, 4), ..succeeded(2) };
        match call_outcome {
            CallOutcome::Succeeds => succeeded(1),
            CallOutcome::Resent => succeeded(2),
            CallOutcome::Ran | CallOutcome::RanUnseen if kind == Kind::Answer => unknown(1),
            CallOutcome::Ran => succeeded(1),
            CallOutcome::RanUnseen => match kind {
                Kind::Reset => unknown(1),
                // The state of the machine does not prove a revert.
                Kind::Revert | Kind::RevertOn | Kind::RevertOff => again(),
                _ => succeeded(1),
            },
            CallOutcome::NoEffect => match kind {
                Kind::Reset | Kind::Create => unknown(1),
                Kind::Shutdown | Kind::Reboot => Expected { by_deadline: true, ..unknown(1) },
                // The machine is powered off in the end.
                Kind::ForcedShutdown => succeeded(1),
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
                | Kind::Consolidate
                | Kind::Insert
                | Kind::Boot
                | Kind::Rename => again(),
                // The reboot of the host has the same effect as the call.
                Kind::PowerOff
                | Kind::Kill
                | Kind::RevertOffPower
                | Kind::ForcedPowerOff
                | Kind::Shutdown
                | Kind::ForcedShutdown => succeeded(1),
                Kind::Suspend | Kind::Reset | Kind::Reboot | Kind::Answer => unknown(1),
                // A snapshot is not created again after a reboot.
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
                | Kind::ForcedShutdown
                | Kind::ForcedPowerOff
                | Kind::RevertOffPower => succeeded(0),
                Kind::Reset | Kind::Suspend | Kind::Reboot => {
                    end("failed", Some("invalid-power-state"), 0)
                }
                // The question is gone with the run that raised it.
                Kind::Answer => whatever(end("failed", Some("host-rejected"), 1)),
                _ => succeeded(1),
            },
            CallOutcome::Refused(code, sends) => failed(code, sends),
            CallOutcome::PowerStateChanged => match kind {
                Kind::PowerOn
                | Kind::PowerOff
                | Kind::Kill
                | Kind::Suspend
                | Kind::Shutdown
                | Kind::ForcedShutdown
                | Kind::ForcedPowerOff
                | Kind::RevertOnPower
                | Kind::RevertOffPower => succeeded(1),
                _ => failed("invalid-power-state", 1),
            },
            CallOutcome::Gone(sends) => whatever(failed("machine-gone", sends)),
            CallOutcome::GoneUnknown => whatever(unknown(1)),
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
