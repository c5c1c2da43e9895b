//! The table of the fault matrix of leases: the expected result of each call and each wait of a
//! preparation and of a release.
//!
//! ```text
//! kind × point × fault
//!  └─ row of the matching job (`super::super::table`), or a row here ──► end of the job, calls
//!                                                                   └──► outcome of the lease
//! ```
//! A preparation and a release consist of waits and of the calls of a revert and a power job. A
//! call has the same outcome as in a separate job, but another effect on the lease.

#![expect(
    clippy::match_same_arms,
    reason = "a table: rows are in the order in which a reader searches"
)]

use super::super::table::{
    CallOutcome, Cell, Expected, Fault, HostEffect, InjectionPoint, Kind, named_enum,
};

named_enum! {
    /// A preparation or a release, by the call or the wait that the fault disrupts.
    LeaseKind {
        /// A preparation: revert, power on, wait for tools, settle.
        PrepareRevert = "prepare: the revert",
        PrepareOn = "prepare: the power-on",
        AwaitTools = "prepare: until tools",
        Settle = "prepare: the settling",
        /// The last read of the machine.
        PrepareCheck = "prepare: the check",
        /// The barrier at the end.
        PrepareEnd = "prepare: the end",
        /// A preparation that waits for an address instead of only for tools.
        AwaitAddress = "prepare: until an address",
        /// A preparation: revert to a snapshot with memory, power off.
        PrepareOff = "prepare: the power-off",
        /// A release of a machine that its holder left on.
        ReleaseOff = "release: the power-off",
        /// A release: revert to a snapshot with memory, power off.
        ReleaseRevert = "release: the revert",
        ReleaseRevertOff = "release: the power-off after the revert",
        /// The last read of the machine.
        ReleaseCheck = "release: the check",
    }
}

named_enum! {
    /// A change of the machine by another client.
    ManualChange {
        PowersOn = "powered on by hand",
        PowersOff = "powered off by hand",
        RemovesSnapshot = "the snapshot removed by hand",
    }
}

/// The fault of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseFault {
    /// A fault of the matrix of jobs.
    Injected(Fault),
    /// A change by another client.
    Manual(ManualChange),
}

/// A cell of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseCell {
    pub kind: LeaseKind,
    pub point: InjectionPoint,
    pub fault: LeaseFault,
    /// Whether another machine matches the lease, and the lease may wait for it.
    pub spare: bool,
}

/// The expected result of a cell.
#[derive(Clone, Debug)]
pub struct LeaseExpected {
    /// The expected end of the disrupted job.
    pub job: Expected,
    pub lease_outcome: LeaseOutcome,
}

/// The outcome of the lease and of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// The lease is active on the machine, and then released.
    Active,
    /// The machine is quarantined. The lease fails with the problem of the step, or is active on
    /// another machine if there is one.
    Quarantined,
    /// The lease fails with the problem of the step, because the fault affects the whole host. The
    /// machine is free once the host recovers.
    Failed,
    /// The lease fails because the machine is gone. If the machine comes back, it is quarantined.
    Gone,
    /// The lease is released, and the machine is free.
    Free,
    /// The lease is released, and another client powered the machine on right after the last check.
    FreeAndTaken,
    /// The lease is released with a warning, and the machine is quarantined.
    NotReleased,
    /// The lease is released with a warning. If the machine comes back, it is quarantined.
    NotReleasedGone,
}

impl LeaseKind {
    /// The kind of job with the same calls and the same disrupted call.
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

    /// Whether the job is a preparation and not a release.
    pub const fn prepares(self) -> bool {
        !matches!(
            self,
            Self::ReleaseOff | Self::ReleaseRevert | Self::ReleaseRevertOff | Self::ReleaseCheck
        )
    }

    /// Whether the fault is injected between the calls or after them.
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

    /// The name of the snapshot to which the job reverts. `None` if it does not revert.
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
    /// The fault of the job. A manual change is not a disruption, so it has a placeholder.
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
    /// All cells, including impossible ones.
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

    /// The cell of the matching job.
    pub const fn as_job(self) -> Cell {
        Cell { kind: self.kind.matching_job(), point: self.point, fault: self.fault.as_fault() }
    }

    /// The expected result, or the reason why the cell is impossible.
    pub fn expected(self) -> Result<LeaseExpected, &'static str> {
        let job = match self.fault {
            LeaseFault::Manual(change) => self.manual_change(change)?,
            LeaseFault::Injected(_) if self.kind.is_between() => self.between()?,
            LeaseFault::Injected(_) => self.at_a_call()?,
        };
        let has_succeeded = job.ends.iter().all(|(state, _)| *state == "succeeded");
        let is_of_the_host = job.ends.iter().all(|(_, code)| *code == Some("license-restricted"));
        let lease_outcome = match (self.kind.prepares(), self.fault.removes_the_machine()) {
            (true, true) => LeaseOutcome::Gone,
            (true, false) if has_succeeded => LeaseOutcome::Active,
            (true, false) if is_of_the_host => LeaseOutcome::Failed,
            (true, false) => LeaseOutcome::Quarantined,
            (false, true) => LeaseOutcome::NotReleasedGone,
            (false, false) if has_succeeded && self.taken_after_the_proof() => {
                LeaseOutcome::FreeAndTaken
            }
            // The release is tried again once the host recovers.
            (false, false) if has_succeeded || is_of_the_host => LeaseOutcome::Free,
            (false, false) => LeaseOutcome::NotReleased,
        };
        if self.spare && !matches!(lease_outcome, LeaseOutcome::Quarantined | LeaseOutcome::Gone) {
            return Err(
                "a lease takes another machine only if the preparation on the first one has failed",
            );
        }
        if self.spare
            && lease_outcome == LeaseOutcome::Gone
            && self.fault != LeaseFault::Injected(Fault::Deleted)
        {
            return Err("the same as without another machine: one fault for each point is enough");
        }
        if self.spare && self.fault == LeaseFault::Injected(Fault::Licence) {
            return Err("the licence is that of the whole host, so another machine would fail too");
        }
        Ok(LeaseExpected { job, lease_outcome })
    }

    fn taken_after_the_proof(self) -> bool {
        (self.point, self.fault)
            == (InjectionPoint::ResultRead, LeaseFault::Manual(ManualChange::PowersOn))
            && self.kind != LeaseKind::ReleaseCheck
    }

    /// The expected result if the fault disrupts a call. It is the result of a separate job with
    /// this call, unless the calls that follow change it.
    fn at_a_call(self) -> Result<Expected, &'static str> {
        if self.kind == LeaseKind::PrepareOn && self.point == InjectionPoint::ResultRead {
            return Err("the only barrier is at the end, which is another kind");
        }
        let cell = self.as_job();
        let expected = cell.expected()?;
        let pulls_the_plug = matches!(
            self.kind,
            LeaseKind::ReleaseOff | LeaseKind::ReleaseRevert | LeaseKind::ReleaseRevertOff
        );
        Ok(match (self.point, cell.call_outcome()?) {
            // The release of a machine that is on does not wait for the answer.
            (_, CallOutcome::Asks { .. }) if pulls_the_plug => succeeded(1),
            // The machine is read again, and is gone.
            (InjectionPoint::Unreported, CallOutcome::GoneAfter) => machine_gone(1),
            // The next step waits for the answer.
            (InjectionPoint::Unreported, CallOutcome::Asks { .. })
                if self.kind == LeaseKind::PrepareOn =>
            {
                question_pending(1)
            }
            _ => expected,
        })
    }

    /// The expected result if the fault happens while no operation runs, or during a read.
    fn between(self) -> Result<Expected, &'static str> {
        let waits = matches!(
            self.kind,
            LeaseKind::AwaitTools | LeaseKind::AwaitAddress | LeaseKind::Settle
        );
        match self.point {
            InjectionPoint::Progress if waits => {}
            InjectionPoint::ResultRead if !waits => {}
            _ if waits => return Err("a wait makes no call"),
            _ => return Err("a read makes no call"),
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
            // The machine is off. It is powered on again, and the readiness is waited for again.
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
            // Every condition was met before.
            Fault::QuestionLeft if !waits || self.kind == LeaseKind::Settle => succeeded(1),
            Fault::QuestionLeft => question_pending(1),
            Fault::HostRestartedIdle
            | Fault::TaskFailed
            | Fault::TaskVanished
            | Fault::PowerStateInTask => {
                return Err("no task is running");
            }
            Fault::SlowUndone => {
                return Err("a read has no effect, so done and not done are the same");
            }
            Fault::PowerStateInCall => return Err("no call is made"),
        })
    }

    fn manual_change(self, change: ManualChange) -> Result<Expected, &'static str> {
        use InjectionPoint as S;
        use LeaseKind as K;
        let impossible = Err("it would change nothing, or the host would refuse it");
        let snapshot_lost = |sends| fails("host-rejected", sends);
        Ok(match (self.kind, self.point, change) {
            // The revert sets the power state, whatever it was.
            (K::PrepareRevert, S::Before, ManualChange::PowersOn) => succeeded(1),
            (K::PrepareRevert, S::Unreported, ManualChange::PowersOn) => succeeded(1),
            (K::PrepareRevert | K::ReleaseRevert, S::Before, ManualChange::RemovesSnapshot) => {
                fails("not-found", 0)
            }
            (K::PrepareRevert | K::ReleaseRevert, S::AtCall, ManualChange::RemovesSnapshot) => {
                fails("not-found", 1)
            }
            // The revert can no longer be proven.
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
            // The power-on is repeated.
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
            // The machine is in the requested state already.
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

/// The job succeeded, and its effect was undone afterwards.
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
