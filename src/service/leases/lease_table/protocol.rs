//! The rules of the state machine of leases, its inputs, and what a transition returns.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::access::TokenStatus;
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, TokenId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine, Recovery};
use crate::domain::machine::MachineIdentity;
use crate::domain::pool::RunningLimits;
use crate::service::leases::capacity::ReachedLimit;
use crate::service::leases::machine_key::MachineKey;
use crate::service::leases::matching::CandidateMachine;

/// The limits and times that apply to leases, from the configuration.
#[derive(Clone, Debug)]
pub struct LeaseRules {
    /// The longest time of one lease or one renewal.
    pub max_ttl: Duration,
    /// The longest time of a lease with all its renewals.
    pub max_total: Duration,
    /// How long a queued lease stays in the queue although no client polls it. After this time it
    /// fails.
    pub abandon_after: Duration,
    /// The least time after a restart of otter before an active lease expires.
    pub grace: Duration,
    /// The largest number of leases that may be queued at the same time.
    pub max_queued: usize,
    /// How long otter keeps the ledger of a machine that is absent from the host. The ledger of a
    /// quarantined or leased machine is kept longer.
    pub ledger_retention: Duration,
    /// The pause before a step is tried again after its first fault that the machine did not cause.
    /// The pause doubles with each such fault.
    pub fault_pause: Duration,
    /// The longest pause before a step is tried again after a fault that the machine did not cause.
    pub max_fault_pause: Duration,
    /// The pause before otter first tries to release a machine that it quarantined by itself. The
    /// pause doubles with each failure, up to [`MAX_QUARANTINE_RETRY`]. Zero: otter never tries to
    /// release such a machine.
    pub quarantine_retry: Duration,
    /// How many machines of the host may run at the same time, and how much memory they may have.
    pub host_limits: RunningLimits,
}

/// The longest pause before otter tries again to release a machine that it quarantined by itself.
pub const MAX_QUARANTINE_RETRY: Duration = Duration::from_hours(24);

impl Default for LeaseRules {
    fn default() -> Self {
        Self {
            max_ttl: Duration::from_hours(24),
            max_total: Duration::from_hours(7 * 24),
            abandon_after: Duration::from_mins(2),
            grace: Duration::from_mins(1),
            max_queued: 10_000,
            ledger_retention: Duration::from_hours(30 * 24),
            fault_pause: Duration::from_secs(5),
            max_fault_pause: Duration::from_mins(1),
            quarantine_retry: Duration::from_mins(15),
            host_limits: RunningLimits::default(),
        }
    }
}

/// The data that otter stores about a machine in addition to its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineLedger {
    /// The fence of the machine's last grant.
    pub fence: u64,
    /// When the machine's last lease ended.
    pub last_lease_end: Option<Timestamp>,
    pub quarantine: Option<Quarantine>,
    /// When otter first found the machine absent from the host; `None` if it is present.
    pub absent_since: Option<Timestamp>,
    /// The release of the machine that is still necessary although no lease holds the machine.
    /// `None` if there is no such release.
    pub recovery: Option<Recovery>,
}

/// Why a queued lease gets no machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseBlocker {
    /// Each matching machine is in use, or an earlier lease gets it.
    NoFreeMachine,
    /// A matching machine is free, but a grant would exceed this limit.
    Limit(ReachedLimit),
    /// A matching machine is free, but an attempt failed because of a fault of the host, the
    /// account or the licence, and the lease waits for the next attempt.
    HostFault,
    /// otter has no session with the host, and therefore grants nothing.
    HostAway,
}

/// An event that may change the table.
#[derive(Clone, Debug)]
pub enum LeaseInput<'a> {
    /// A caller requests this lease, which is queued first. The slice has every machine of the
    /// host.
    Request(Box<Lease>, &'a [CandidateMachine]),
    /// Grant machines to queued leases, because machines may have become free. The slice has every
    /// machine of the host.
    GrantQueued(&'a [CandidateMachine]),
    /// The host has these machines and no others. The leases of absent machines end.
    MachinesPresent(&'a [MachineIdentity]),
    /// The host has these machines and no others. Ledgers of machines that have been absent for
    /// longer than [`LeaseRules::ledger_retention`] are deleted.
    ForgetAbsentMachines(&'a [MachineIdentity]),
    /// The holder or an operator renews a lease, for this duration. `None` means the original
    /// duration of the lease.
    Renew(LeaseId, Option<Duration>),
    /// A lease ends for this reason.
    End { id: LeaseId, reason: EndReason, by: String, detail: Option<String> },
    /// The use of a machine failed. Its lease is kept if its request says so, and ends otherwise.
    EndFailed { id: LeaseId, reason: EndReason, by: String, detail: Option<String> },
    /// Whether the tokens of queued leases are in force.
    TokenStatuses(&'a BTreeMap<TokenId, TokenStatus>),
    /// A job was started that prepares or releases the machine of this lease. The state says which
    /// of the two it does.
    JobStarted(LeaseId, LeaseState, JobId),
    /// The preparation of this lease's machine has ended.
    PrepareFinished(LeaseId, Result<(), Failure>),
    /// The release of this lease's machine has ended.
    ReleaseFinished(LeaseId, Result<(), Failure>),
    /// The release of a machine that no lease holds has ended.
    RecoveryFinished(RecoveryAttempt, Result<(), Failure>),
    /// An operator changed the machine of this lease.
    RecordOverride { id: LeaseId, by: String, reason: String },
    /// A rule of the configuration answers a question of the machine of this lease.
    RecordAnswer { id: LeaseId, what: String },
    /// Something happened with the recording of this lease.
    RecordRecording { id: LeaseId, what: String, is_warning: bool },
    /// An operator quarantines a machine, or changes the reason of its quarantine.
    QuarantineMachine(MachineKey, Quarantine),
    /// An operator lifts the quarantine of a machine.
    ClearQuarantine(MachineKey),
    /// An operator lifts the quarantines of these machines, but only those that otter set by
    /// itself.
    ClearAutomaticQuarantines(&'a [MachineKey]),
    /// Time has passed, so a lease may have run out of its time.
    TimePassed,
    /// The wall clock jumped, so the stored and shown times must be computed again.
    ClockJumped,
}

/// What a transition changed. All the changes are committed together, and the follow-ups start
/// after that.
#[derive(Clone, Debug, Default)]
pub struct TableChanges {
    pub leases: BTreeMap<LeaseId, Arc<Lease>>,
    pub ledgers: BTreeMap<MachineKey, MachineLedger>,
    /// The machines whose ledgers are deleted.
    pub forgotten: Vec<MachineKey>,
    /// The new fence floor, if the transition raised it.
    pub fence_floor: Option<u64>,
    /// Work to start once the changes are committed.
    pub follow_ups: Vec<FollowUp>,
}

/// Work that must start after a transition is committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowUp {
    /// Start the preparation of this lease's machine.
    Prepare(LeaseId),
    /// Start the release of this lease's machine once every job of the lease has ended.
    Release(LeaseId),
    /// Start the release of this lease's machine again after this pause, because the previous
    /// attempt met a fault of the host.
    ReleaseAgain(LeaseId, Duration),
    /// Start this attempt to release a machine that no lease holds, after this pause.
    Recover(RecoveryAttempt, Duration),
    /// Log that the lease ends soon.
    Warn(LeaseId),
}

/// One attempt to release a machine that no lease holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryAttempt {
    pub machine: MachineKey,
    /// The lease that was the last to hold the machine.
    pub lease: LeaseId,
    /// The number of attempts before this one.
    pub number: u32,
}

impl RecoveryAttempt {
    /// The next attempt of a recovery.
    #[must_use]
    pub fn new(machine: MachineKey, recovery: &Recovery) -> Self {
        Self { machine, lease: recovery.lease, number: recovery.attempts }
    }
}

impl TableChanges {
    /// Whether the transition changed nothing, so that there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { leases, ledgers, forgotten, fence_floor: _, follow_ups: _ } = self;
        leases.is_empty() && ledgers.is_empty() && forgotten.is_empty()
    }
}
