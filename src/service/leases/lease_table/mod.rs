//! Every lease that has not ended, and what is kept of each machine: pure, `step(input, now) →
//! changes and what to do`.
//!
//! | event | queued | preparing | active | releasing |
//! | --- | --- | --- | --- | --- |
//! | a machine that fits is free | granted: preparing, or active where there is nothing to prepare | – | – | – |
//! | prepared | – | active | – | – |
//! | prepare failed, or cannot be known, the machine there still | – | machine set aside; queued again while its queue time lasts, else releasing (prepare-failed) | – | – |
//! | release (its holder) | released | releasing | releasing | the same answer |
//! | revoke (an operator) | revoked | releasing | releasing | the same answer |
//! | its token was revoked or has expired | revoked | – | – | – |
//! | its time is over | – | – | releasing (expired) | – |
//! | queue time over | failed (queue-timeout) | – | – | – |
//! | nobody asked about it for long | failed (abandoned) | – | – | – |
//! | machine vanished, or back under another moid | – | failed (machine-gone), set aside | failed (machine-gone), set aside | ended as it was ending, set aside |
//! | machine renamed, power changed by hand | stays | stays | stays | stays |
//! | snapshot gone | stays | its job fails: prepare failed | stays | its job fails: release failed |
//! | released (proven) | – | – | – | ended as it was ending; the machine is free |
//! | release failed, or cannot be known | – | – | – | ended as it was ending, with a warning; machine set aside |
//! | host away | no grant | its job waits | its time goes on | its job waits |
//! | restart | time goes on by the wall clock | its job is taken up | never over before the grace | its job is taken up |
//! | storage full | nothing happened: the shell drops the step and says so, or tries it again | | | |
//!
//! A machine is kept by who it is (instance UUID, else path), never by its reusable moid. Ends are
//! never taken back.

mod transition;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::transition::Transition;
use super::matching::CandidateMachine;
use crate::domain::access::TokenStatus;
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, TokenId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine, TimeLeft};
use crate::domain::machine::MachineIdentity;
use crate::service::jobs::clocks::Moment;

/// What the configuration says of leases.
#[derive(Clone, Debug)]
pub struct LeaseRules {
    /// The longest time of one lease, and of one renewal.
    pub max_ttl: Duration,
    /// The longest time of a lease with all its renewals.
    pub max_total: Duration,
    /// A queued lease that nobody asked about for this long is dropped.
    pub abandon_after: Duration,
    /// After a restart no lease ends sooner than this.
    pub grace: Duration,
    /// How many leases may wait.
    pub max_queued: usize,
    /// Nothing is kept of a machine that is absent from the host for longer, unless it is
    /// quarantined.
    pub ledger_retention: Duration,
}

impl Default for LeaseRules {
    fn default() -> Self {
        Self {
            max_ttl: Duration::from_hours(24),
            max_total: Duration::from_hours(7 * 24),
            abandon_after: Duration::from_mins(2),
            grace: Duration::from_mins(1),
            max_queued: 10_000,
            ledger_retention: Duration::from_hours(30 * 24),
        }
    }
}

/// Who a machine is beyond its moid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineKey(pub String);

impl MachineKey {
    /// The key of a machine.
    #[must_use]
    pub fn from_identity(machine: &MachineIdentity) -> Self {
        Self(machine.key())
    }
}

/// What is kept of a machine beside its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineLedger {
    /// Of its last grant.
    pub fence: u64,
    /// When its last lease ended.
    pub last_lease_end: Option<Timestamp>,
    pub quarantine: Option<Quarantine>,
    /// Since when the machine is absent from the host; `None` while it is there.
    pub absent_since: Option<Timestamp>,
}

/// The table. Cloning it is cheap enough to try a step and drop it.
#[derive(Clone, Debug, Default)]
pub struct LeaseTable {
    rules: LeaseRules,
    leases: BTreeMap<LeaseId, OpenLease>,
    ledgers: BTreeMap<MachineKey, MachineLedger>,
    /// Every grant gets a higher fence than this, also on a machine of which nothing is kept.
    fence_floor: u64,
    /// How many have arrived.
    appended: u64,
}

/// A lease that has not ended, and its clocks.
#[derive(Clone, Debug)]
pub struct OpenLease {
    pub lease: Arc<Lease>,
    /// Its place in the order of arrival. Ids do not tell: after a restart the wall clock may be
    /// behind.
    arrival: u64,
    /// When, by the clock that does not jump, its time was last noted.
    measured_elapsed: Duration,
    /// When somebody last asked about it, by the same clock.
    last_polled: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum LeaseInput<'a> {
    /// A new lease, queued as it is.
    Request(Box<Lease>, &'a [CandidateMachine]),
    /// What may be granted changed; none while the host is away.
    GrantQueued(&'a [CandidateMachine]),
    /// Every machine that there is; others are gone.
    MachinesPresent(&'a [MachineIdentity]),
    /// The same machines: what is kept of machines that are absent for long is forgotten.
    ForgetAbsentMachines(&'a [MachineIdentity]),
    Renew(LeaseId, Option<Duration>),
    End {
        id: LeaseId,
        reason: EndReason,
        by: String,
        detail: Option<String>,
    },
    /// How the tokens of leases stand.
    TokenStandings(&'a BTreeMap<TokenId, TokenStatus>),
    /// A job of the lease was started for its preparation or release: for which state it is.
    JobStarted(LeaseId, LeaseState, JobId),
    PrepareFinished(LeaseId, Result<(), Failure>),
    ReleaseFinished(LeaseId, Result<(), Failure>),
    /// An operator acted on a leased machine.
    RecordOverride {
        id: LeaseId,
        by: String,
        reason: String,
    },
    QuarantineMachine(MachineKey, Quarantine),
    ClearQuarantine(MachineKey),
    /// Time passed.
    TimePassed,
    /// The wall clock jumped: the times that are shown and stored by it are computed again.
    ClockJumped,
}

/// What is to be committed, together, before anything else happens.
#[derive(Clone, Debug, Default)]
pub struct TableChanges {
    pub leases: BTreeMap<LeaseId, Arc<Lease>>,
    pub ledgers: BTreeMap<MachineKey, MachineLedger>,
    /// The machines of which nothing is kept any more.
    pub forgotten: Vec<MachineKey>,
    /// The new fence floor, if it rose.
    pub fence_floor: Option<u64>,
    /// What is to be done once that is committed.
    pub follow_ups: Vec<FollowUp>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowUp {
    Prepare(LeaseId),
    /// Once every job of the lease has ended.
    Release(LeaseId),
    /// Tell its holder that it ends soon.
    Warn(LeaseId),
}

impl TableChanges {
    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { leases, ledgers, forgotten, fence_floor: _, follow_ups: _ } = self;
        leases.is_empty() && ledgers.is_empty() && forgotten.is_empty()
    }
}

impl LeaseTable {
    /// The table as the store kept it. The time that passed since the store noted a lease's time
    /// counts by the wall clock. If the wall clock is behind the last run, the time of that run
    /// counts and the downtime does not.
    ///
    /// # Parameters
    /// - `leases`: those that have not ended, in order of arrival.
    /// - `last_seen`: when otter last ran, as far as that is known.
    #[must_use]
    pub fn from_stored(
        rules: LeaseRules,
        leases: impl IntoIterator<Item = Lease>,
        ledgers: BTreeMap<MachineKey, MachineLedger>,
        last_seen: Option<Timestamp>,
        now: Moment,
    ) -> Self {
        let counts_to = last_seen.map_or(now.wall, |seen| seen.max(now.wall));
        let mut table =
            Self { rules, leases: BTreeMap::new(), ledgers, fence_floor: 0, appended: 0 };
        for mut lease in leases {
            let passed =
                Duration::try_from(counts_to.duration_since(lease.measured_at)).unwrap_or_default();
            let TimeLeft { queue, lease: left, total } = lease.time_left;
            let after = |left: Duration| left.saturating_sub(passed).max(table.rules.grace);
            lease.time_left = match lease.state {
                LeaseState::Queued => {
                    TimeLeft { queue: queue.saturating_sub(passed), lease: left, total }
                }
                LeaseState::Active => TimeLeft { queue, lease: after(left), total: after(total) },
                _ => lease.time_left,
            };
            lease.measured_at = now.wall;
            table.append(lease, now);
        }
        table
    }

    /// The same table, whose next grants get fences above this.
    #[must_use]
    pub fn with_fence_floor(self, fence_floor: u64) -> Self {
        Self { fence_floor, ..self }
    }

    /// Every grant gets a higher fence than this.
    #[must_use]
    pub const fn fence_floor(&self) -> u64 {
        self.fence_floor
    }

    /// What the table's shell has to take up after a restart.
    #[must_use]
    pub fn unfinished_work(&self) -> Vec<FollowUp> {
        let work = |open: &OpenLease| match open.lease.state {
            LeaseState::Preparing => Some(FollowUp::Prepare(open.lease.id)),
            LeaseState::Releasing => Some(FollowUp::Release(open.lease.id)),
            _ => None,
        };
        self.leases.values().filter_map(work).collect()
    }

    /// Every lease that has not ended, in order of their ids.
    pub fn open_leases(&self) -> impl Iterator<Item = &OpenLease> {
        self.leases.values()
    }

    /// The lease of this id, if it has not ended.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<&OpenLease> {
        self.leases.get(&id)
    }

    /// What is kept of a machine.
    #[must_use]
    pub fn ledger(&self, machine: &MachineKey) -> Option<&MachineLedger> {
        self.ledgers.get(machine)
    }

    /// Everything that is kept of machines.
    #[must_use]
    pub const fn ledgers(&self) -> &BTreeMap<MachineKey, MachineLedger> {
        &self.ledgers
    }

    /// How many leases wait before this one.
    #[must_use]
    pub fn position(&self, id: LeaseId) -> Option<usize> {
        self.position_among(id, |_| true)
    }

    /// How many of the leases that count wait before this one, which counts itself.
    #[must_use]
    pub fn position_among(&self, id: LeaseId, counts: impl Fn(&Lease) -> bool) -> Option<usize> {
        let queued = self.queued_ids().into_iter();
        let counting =
            |queued: &LeaseId| self.leases.get(queued).is_some_and(|open| counts(&open.lease));
        queued.filter(counting).position(|queued| queued == id)
    }

    /// Who waits, in order of arrival.
    fn queued_ids(&self) -> Vec<LeaseId> {
        let queued = self.leases.values().filter(|open| open.lease.state == LeaseState::Queued);
        let mut queued: Vec<(u64, LeaseId)> =
            queued.map(|open| (open.arrival, open.lease.id)).collect();
        queued.sort_unstable();
        queued.into_iter().map(|(_, id)| id).collect()
    }

    fn append(&mut self, lease: Lease, now: Moment) {
        self.appended += 1;
        let open = OpenLease {
            arrival: self.appended,
            measured_elapsed: now.elapsed,
            last_polled: now.elapsed,
            lease: Arc::new(lease),
        };
        self.leases.insert(open.lease.id, open);
    }

    /// When the next [`LeaseInput::TimePassed`] has something to do, by the clock that does not jump.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.leases.values().filter_map(|open| self.due_at(open)).min()
    }

    /// Takes what happened. Where it fails nothing changed.
    ///
    /// # Errors
    /// What the caller is told.
    pub fn apply(&mut self, input: LeaseInput<'_>, now: Moment) -> Result<TableChanges, Failure> {
        Transition::new(self, now).apply(input)
    }

    /// Somebody asked about a lease: kept in memory alone.
    pub fn record_poll(&mut self, id: LeaseId, now: Moment) {
        if let Some(open) = self.leases.get_mut(&id) {
            open.last_polled = now.elapsed;
        }
    }

    /// The leases that wait for a machine, in order of their ids.
    pub fn queued_leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases
            .values()
            .map(|open| &*open.lease)
            .filter(|lease| lease.state == LeaseState::Queued)
    }

    /// Whether a lease is queued.
    #[must_use]
    pub fn has_queued_leases(&self) -> bool {
        self.queued_leases().next().is_some()
    }

    /// Whether a lease has time that runs: a queued or an active one.
    #[must_use]
    pub fn has_running_time(&self) -> bool {
        self.leases.values().any(OpenLease::has_running_time)
    }

    fn due_at(&self, open: &OpenLease) -> Option<Duration> {
        let OpenLease { lease, measured_elapsed, last_polled, arrival: _ } = open;
        match lease.state {
            LeaseState::Queued => {
                let abandoned = *last_polled + self.rules.abandon_after;
                Some(abandoned.min(*measured_elapsed + lease.time_left.queue))
            }
            LeaseState::Active => {
                let left = if lease.warned {
                    lease.time_left.lease
                } else {
                    lease.time_left.lease.saturating_sub(lease.ttl / 5)
                };
                Some(*measured_elapsed + left)
            }
            _ => None,
        }
    }
}

impl OpenLease {
    /// Whether its time runs: the time to queue, or the time of the lease.
    fn has_running_time(&self) -> bool {
        matches!(self.lease.state, LeaseState::Queued | LeaseState::Active)
    }

    /// When its time is over, and when all renewals are, to the second: readers see the same until
    /// it is renewed.
    #[must_use]
    pub fn expiry(&self) -> Option<(Timestamp, Timestamp)> {
        if self.lease.state != LeaseState::Active {
            return None;
        }
        let at = |left: Duration| {
            let at = self.lease.measured_at.saturating_add(left).ok()?;
            Timestamp::from_second(at.as_second()).ok()
        };
        Some((at(self.lease.time_left.lease)?, at(self.lease.time_left.total)?))
    }

    /// How much is left of its times now.
    #[must_use]
    pub fn time_left_at(&self, elapsed: Duration) -> TimeLeft {
        let passed = elapsed.saturating_sub(self.measured_elapsed);
        let TimeLeft { queue, lease, total } = self.lease.time_left;
        match self.lease.state {
            LeaseState::Queued => TimeLeft { queue: queue.saturating_sub(passed), lease, total },
            LeaseState::Active => TimeLeft {
                queue,
                lease: lease.saturating_sub(passed),
                total: total.saturating_sub(passed),
            },
            _ => self.lease.time_left,
        }
    }
}
