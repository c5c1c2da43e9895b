//! The fault matrix of leases as a table: what is right for each call and each wait of a
//! preparation and of a release.
//!
//! ```text
//! kind × step × fault ── the row of the like job (`super::super::table`), or a row here ──► end of the job, sendings
//!                                                                                      └──► what comes of the lease
//! ```
//! A preparation is made of the calls of a revert and a power job, and of waits; so is a release.
//! What can be known of such a call is what can be known of it in a job of its own; what follows
//! from it is not.

#![expect(clippy::match_same_arms, reason = "a table: a row stands where it is looked for")]

use super::super::table::{
    CallOutcome, Cell, Expected, Fault, HostEffect, InjectionPoint, Kind, named_enum,
};

named_enum! {
    /// A preparation or a release, by the call or the wait that the fault strikes.
    LeaseKind {
        /// Revert, on, until tools, settle.
        PrepareRevert = "prepare: the revert",
        PrepareOn = "prepare: the power-on",
        AwaitTools = "prepare: until tools",
        Settle = "prepare: the settling",
        /// The last look at the machine.
        PrepareCheck = "prepare: the check",
        /// The picture catches up.
        PrepareEnd = "prepare: the end",
        /// The same, until an address.
        AwaitAddress = "prepare: until an address",
        /// Revert to a snapshot with memory, off.
        PrepareOff = "prepare: the power-off",
        /// Of a machine that its holder left on.
        ReleaseOff = "release: the power-off",
        /// Revert to a snapshot with memory, off.
        ReleaseRevert = "release: the revert",
        ReleaseRevertOff = "release: the power-off after the revert",
        /// The last look at that.
        ReleaseCheck = "release: the check",
    }
}

named_enum! {
    /// What other hands do to the machine.
    ManualChange {
        PowersOn = "powered on by hand",
        PowersOff = "powered off by hand",
        RemovesSnapshot = "the snapshot removed by hand",
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseFault {
    Injected(Fault),
    Manual(ManualChange),
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseCell {
    pub kind: LeaseKind,
    pub point: InjectionPoint,
    pub fault: LeaseFault,
    /// Whether there is another machine that fits, and time to wait for it.
    pub spare: bool,
}

/// What must come of it.
#[derive(Clone, Debug)]
pub struct LeaseExpected {
    /// Of the struck job.
    pub job: Expected,
    pub lease_outcome: LeaseOutcome,
}

/// What becomes of the lease and its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// Active on the machine, and given back in the end.
    Active,
    /// Failed with the step's problem, and the machine is set aside; or active on another, where
    /// there is one.
    Quarantined,
    /// Failed, the machine is gone; it comes back set aside.
    Gone,
    /// Released, and the machine is free.
    Free,
    /// Released; another hand took the machine right after that was proven.
    FreeAndTaken,
    /// Released with a warning, and the machine is set aside.
    NotReleased,
    /// Released with a warning, and the machine comes back set aside.
    NotReleasedGone,
}

impl LeaseKind {
    /// The job whose calls are the same ones, and which of them is struck.
    pub const fn matching_job(self) -> Kind {
        match self {
            Self::PrepareRevert => Kind::RevertOn,
            Self::PrepareOn
            | Self::AwaitTools
            | Self::AwaitAddress
            | Self::Settle
            | Self::PrepareCheck
            | Self::PrepareEnd => Kind::RevertOnPower,
            Self::ReleaseOff => Kind::PowerOff,
            Self::ReleaseRevert => Kind::RevertOff,
            Self::PrepareOff | Self::ReleaseRevertOff | Self::ReleaseCheck => Kind::RevertOffPower,
        }
    }

    pub const fn prepares(self) -> bool {
        !matches!(
            self,
            Self::ReleaseOff | Self::ReleaseRevert | Self::ReleaseRevertOff | Self::ReleaseCheck
        )
    }

    /// Whether the fault strikes between and after the calls.
    pub const fn is_between(self) -> bool {
        matches!(
            self,
            Self::AwaitTools
                | Self::AwaitAddress
                | Self::Settle
                | Self::PrepareCheck
                | Self::PrepareEnd
                | Self::ReleaseCheck
        )
    }

    /// The snapshot that it reverts to.
    pub const fn snapshot(self) -> Option<&'static str> {
        match self {
            Self::ReleaseOff => None,
            Self::PrepareOff
            | Self::ReleaseRevert
            | Self::ReleaseRevertOff
            | Self::ReleaseCheck => Some("awake"),
            _ => Some("middle"),
        }
    }
}

impl LeaseFault {
    /// What it is to the play of the job: what other hands do, no disruption brings about.
    pub const fn as_fault(self) -> Fault {
        match self {
            Self::Injected(fault) => fault,
            Self::Manual(_) => Fault::Licence,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Injected(fault) => fault.name(),
            Self::Manual(change) => change.name(),
        }
    }

    const fn removes_the_machine(self) -> bool {
        matches!(
            self,
            Self::Injected(
                Fault::GoneInOutage | Fault::Deleted | Fault::Reregistered | Fault::MoidReused
            )
        )
    }
}

impl LeaseCell {
    /// Every cell, whether it can be or not.
    pub fn all() -> impl Iterator<Item = Self> {
        let faults = Fault::ALL.iter().map(|fault| LeaseFault::Injected(*fault));
        let faults: Vec<_> = faults
            .chain(ManualChange::ALL.iter().map(|change| LeaseFault::Manual(*change)))
            .collect();
        LeaseKind::ALL.iter().flat_map(move |kind| {
            let faults = faults.clone();
            InjectionPoint::ALL.iter().flat_map(move |point| {
                let cell = |fault, spare| Self { kind: *kind, point: *point, fault, spare };
                let both = move |fault: &LeaseFault| [cell(*fault, false), cell(*fault, true)];
                faults.iter().flat_map(both).collect::<Vec<_>>()
            })
        })
    }

    pub fn name(self) -> String {
        let spare = if self.spare { " | another machine fits" } else { "" };
        format!("{} | {} | {}{spare}", self.kind.name(), self.point.name(), self.fault.name())
    }

    /// The cell of the like job.
    pub const fn as_job(self) -> Cell {
        Cell { kind: self.kind.matching_job(), point: self.point, fault: self.fault.as_fault() }
    }

    /// What must come of it, or why it cannot be.
    pub fn expected(self) -> Result<LeaseExpected, &'static str> {
        let job = match self.fault {
            LeaseFault::Manual(change) => self.manual_change(change)?,
            LeaseFault::Injected(_) if self.kind.is_between() => self.between()?,
            LeaseFault::Injected(_) => self.at_a_call()?,
        };
        let has_succeeded = job.ends.iter().all(|(state, _)| *state == "succeeded");
        let lease_outcome = match (self.kind.prepares(), self.fault.removes_the_machine()) {
            (true, true) => LeaseOutcome::Gone,
            (true, false) if has_succeeded => LeaseOutcome::Active,
            (true, false) => LeaseOutcome::Quarantined,
            (false, true) => LeaseOutcome::NotReleasedGone,
            (false, false) if has_succeeded && self.taken_after_the_proof() => {
                LeaseOutcome::FreeAndTaken
            }
            (false, false) if has_succeeded => LeaseOutcome::Free,
            (false, false) => LeaseOutcome::NotReleased,
        };
        if self.spare && !matches!(lease_outcome, LeaseOutcome::Quarantined | LeaseOutcome::Gone) {
            return Err("no other machine is wanted where the first will do, nor for a release");
        }
        if self.spare
            && lease_outcome == LeaseOutcome::Gone
            && self.fault != LeaseFault::Injected(Fault::Deleted)
        {
            return Err("with another machine it is as without: once for each step will do");
        }
        if self.spare && self.fault == LeaseFault::Injected(Fault::Licence) {
            return Err("it is the whole host's: no other machine would do");
        }
        Ok(LeaseExpected { job, lease_outcome })
    }

    fn taken_after_the_proof(self) -> bool {
        (self.point, self.fault)
            == (InjectionPoint::ResultRead, LeaseFault::Manual(ManualChange::PowersOn))
            && self.kind != LeaseKind::ReleaseCheck
    }

    /// As in a job of its own, but that more follows.
    fn at_a_call(self) -> Result<Expected, &'static str> {
        if self.kind == LeaseKind::PrepareOn && self.point == InjectionPoint::ResultRead {
            return Err("the picture is caught up once, at the end: a kind of its own");
        }
        let cell = self.as_job();
        let expected = cell.expected()?;
        Ok(match (self.point, cell.call_outcome()?) {
            // It is looked for once more, and not there.
            (InjectionPoint::Unreported, CallOutcome::GoneAfter) => machine_gone(1),
            // What is to come waits for the answer.
            (InjectionPoint::Unreported, CallOutcome::Asks { .. })
                if self.kind == LeaseKind::PrepareOn =>
            {
                question_pending(1)
            }
            _ => expected,
        })
    }

    /// While nothing is under way on the host, or while it is looked at.
    fn between(self) -> Result<Expected, &'static str> {
        let waits = matches!(
            self.kind,
            LeaseKind::AwaitTools | LeaseKind::AwaitAddress | LeaseKind::Settle
        );
        match self.point {
            InjectionPoint::Progress if waits => {}
            InjectionPoint::ResultRead if !waits => {}
            _ if waits => return Err("it is one wait, in which no call is made"),
            _ => return Err("it is one read, in which no call is made"),
        }
        let LeaseFault::Injected(fault) = self.fault else { return Err("by hand") };
        Ok(match fault {
            Fault::SessionExpired
            | Fault::AccountRefused
            | Fault::CutBefore
            | Fault::CutMid
            | Fault::CutAfter
            | Fault::HostRestarted
            | Fault::SlowDone
            | Fault::Garbage
            | Fault::Unavailable
            | Fault::QuestionAnswered
            | Fault::Licence => succeeded(1),
            // It is on no more: that is made good, and what was ready before is waited for anew.
            Fault::HostRebooted => match self.kind {
                LeaseKind::PrepareEnd => succeeded_then_undone(1),
                LeaseKind::ReleaseCheck => succeeded(1),
                _ => succeeded(2),
            },
            Fault::GoneInOutage | Fault::Deleted | Fault::Reregistered | Fault::MoidReused => {
                match self.kind {
                    LeaseKind::PrepareEnd => succeeded_then_undone(1),
                    _ => machine_gone(1),
                }
            }
            // All is done and seen.
            Fault::QuestionLeft if !waits || self.kind == LeaseKind::Settle => succeeded(1),
            Fault::QuestionLeft => question_pending(1),
            Fault::HostRestartedIdle
            | Fault::TaskFailed
            | Fault::TaskVanished
            | Fault::PowerStateInTask => {
                return Err("there is no task now");
            }
            Fault::SlowUndone => return Err("a read does nothing: late is late"),
            Fault::PowerStateInCall => return Err("no call is made"),
        })
    }

    fn manual_change(self, change: ManualChange) -> Result<Expected, &'static str> {
        use InjectionPoint as S;
        use LeaseKind as K;
        let impossible = Err("it would change nothing there, or the host would not let anybody");
        let snapshot_lost = |sends| fails("host-rejected", sends);
        Ok(match (self.kind, self.point, change) {
            // Whatever the power was, the revert makes it what the snapshot says.
            (K::PrepareRevert, S::Before, ManualChange::PowersOn) => succeeded(1),
            (K::PrepareRevert, S::Unreported, ManualChange::PowersOn) => succeeded(1),
            (K::PrepareRevert | K::ReleaseRevert, S::Before, ManualChange::RemovesSnapshot) => {
                fails("not-found", 0)
            }
            (K::PrepareRevert | K::ReleaseRevert, S::AtCall, ManualChange::RemovesSnapshot) => {
                fails("not-found", 1)
            }
            // What it was reverted to cannot be proven any more.
            (K::PrepareRevert | K::ReleaseRevert, S::Unreported, ManualChange::RemovesSnapshot) => {
                snapshot_lost(1)
            }
            (
                K::PrepareOn | K::PrepareOff | K::ReleaseRevertOff,
                S::Before,
                ManualChange::RemovesSnapshot,
            ) => snapshot_lost(1),
            (
                K::AwaitTools | K::AwaitAddress | K::Settle,
                S::Progress,
                ManualChange::RemovesSnapshot,
            ) => snapshot_lost(1),
            (K::PrepareCheck | K::ReleaseCheck, S::ResultRead, ManualChange::RemovesSnapshot) => {
                snapshot_lost(1)
            }
            (
                K::PrepareEnd,
                S::ResultRead,
                ManualChange::RemovesSnapshot | ManualChange::PowersOff,
            ) => succeeded_then_undone(1),
            (K::PrepareOff | K::ReleaseRevertOff, S::ResultRead, ManualChange::RemovesSnapshot) => {
                succeeded_then_undone(1)
            }
            // Undone, it is done once more.
            (K::PrepareOn, S::Unreported, ManualChange::PowersOff) => succeeded(2),
            (K::AwaitTools | K::AwaitAddress | K::Settle, S::Progress, ManualChange::PowersOff) => {
                succeeded(2)
            }
            (K::PrepareCheck, S::ResultRead, ManualChange::PowersOff) => succeeded(2),
            (
                K::PrepareOff | K::ReleaseOff | K::ReleaseRevertOff,
                S::Unreported,
                ManualChange::PowersOn,
            ) => succeeded(2),
            (K::ReleaseCheck, S::ResultRead, ManualChange::PowersOn) => succeeded(2),
            (
                K::PrepareOff | K::ReleaseOff | K::ReleaseRevertOff,
                S::ResultRead,
                ManualChange::PowersOn,
            ) => succeeded_then_undone(1),
            // It is as wanted already.
            (K::PrepareOn, S::Before, ManualChange::PowersOn) => succeeded(0),
            (K::PrepareOn, S::AtCall, ManualChange::PowersOn) => succeeded(1),
            (
                K::PrepareOff | K::ReleaseOff | K::ReleaseRevertOff,
                S::Before,
                ManualChange::PowersOff,
            ) => succeeded(0),
            (
                K::PrepareOff | K::ReleaseOff | K::ReleaseRevertOff,
                S::AtCall,
                ManualChange::PowersOff,
            ) => succeeded(1),
            (K::ReleaseRevert, S::Before | S::Unreported, ManualChange::PowersOff) => succeeded(1),
            _ => return impossible,
        })
    }
}

fn end(state: &'static str, code: Option<&'static str>, sends: usize) -> Expected {
    Expected {
        ends: vec![(state, code)],
        sends: (sends, sends),
        by_deadline: false,
        left: HostEffect::AsReported,
    }
}

fn succeeded(sends: usize) -> Expected {
    end("succeeded", None, sends)
}

/// It succeeded, and what was done is undone since.
fn succeeded_then_undone(sends: usize) -> Expected {
    Expected { left: HostEffect::Any, ..succeeded(sends) }
}

fn fails(code: &'static str, sends: usize) -> Expected {
    Expected { left: HostEffect::Any, ..end("failed", Some(code), sends) }
}

fn machine_gone(sends: usize) -> Expected {
    fails("machine-gone", sends)
}

fn question_pending(sends: usize) -> Expected {
    Expected { by_deadline: true, ..fails("question-pending", sends) }
}
