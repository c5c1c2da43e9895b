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

mod step;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use self::step::Step;
use super::fit::Candidate;
use crate::domain::access::TokenStanding;
use crate::domain::failure::Failure;
use crate::domain::ids::{JobId, LeaseId, TokenId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine, TimeLeft};
use crate::domain::machine::MachineIdentity;

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
    pub fn of(machine: &MachineIdentity) -> Self {
        Self(machine.key())
    }
}

/// What is kept of a machine beside its leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Of its last grant.
    pub fence: u64,
    /// When its last lease ended.
    pub last_end: Option<Timestamp>,
    pub quarantine: Option<Quarantine>,
    /// Since when the machine is absent from the host; `None` while it is there.
    pub absent_since: Option<Timestamp>,
}

/// The book. Cloning it is cheap enough to try a step and drop it.
#[derive(Clone, Debug, Default)]
pub struct Book {
    rules: LeaseRules,
    leases: BTreeMap<LeaseId, Open>,
    machines: BTreeMap<MachineKey, Kept>,
    /// Every grant gets a higher fence than this, also on a machine of which nothing is kept.
    fence_floor: u64,
    /// How many have arrived.
    arrived: u64,
}

/// A lease that has not ended, and its clocks.
#[derive(Clone, Debug)]
pub struct Open {
    pub lease: Arc<Lease>,
    /// Its place in the order of arrival. Ids do not tell: after a restart the wall clock may be
    /// behind.
    arrival: u64,
    /// When, by the clock that does not jump, its time was last noted.
    noted: Duration,
    /// When somebody last asked about it, by the same clock.
    asked: Duration,
}

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub wall: Timestamp,
    /// The clock that does not jump.
    pub elapsed: Duration,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// A new lease, queued as it is.
    Ask(Box<Lease>, &'a [Candidate]),
    /// What may be granted changed; none while the host is away.
    Look(&'a [Candidate]),
    /// Every machine that there is; others are gone.
    Machines(&'a [MachineIdentity]),
    /// The same machines: what is kept of machines that are absent for long is forgotten.
    Forget(&'a [MachineIdentity]),
    Renew(LeaseId, Option<Duration>),
    End {
        id: LeaseId,
        reason: EndReason,
        by: String,
        detail: Option<String>,
    },
    /// How the tokens of leases stand.
    Tokens(&'a BTreeMap<TokenId, TokenStanding>),
    /// A job of the lease was started for its preparation or release: for which state it is.
    Working(LeaseId, LeaseState, JobId),
    Prepared(LeaseId, Result<(), Failure>),
    Freed(LeaseId, Result<(), Failure>),
    /// An operator acted on a leased machine.
    Overridden {
        id: LeaseId,
        by: String,
        reason: String,
    },
    SetAside(MachineKey, Quarantine),
    Clear(MachineKey),
    /// Time passed.
    Tick,
    /// The wall clock jumped: the times that are shown and stored by it are computed again.
    ClockJumped,
}

/// What is to be committed, together, before anything else happens.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub leases: BTreeMap<LeaseId, Arc<Lease>>,
    pub machines: BTreeMap<MachineKey, Kept>,
    /// The machines of which nothing is kept any more.
    pub forgotten: Vec<MachineKey>,
    /// The new fence floor, if it rose.
    pub fence_floor: Option<u64>,
    /// What is to be done once that is committed.
    pub then: Vec<Then>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    Prepare(LeaseId),
    /// Once every job of the lease has ended.
    Release(LeaseId),
    /// Tell its holder that it ends soon.
    Warn(LeaseId),
}

impl Changes {
    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { leases, machines, forgotten, fence_floor: _, then: _ } = self;
        leases.is_empty() && machines.is_empty() && forgotten.is_empty()
    }
}

impl Book {
    /// The book as the store kept it. The time that passed since the store noted a lease's time
    /// counts by the wall clock. If the wall clock is behind the last run, the time of that run
    /// counts and the downtime does not.
    ///
    /// # Parameters
    /// - `leases`: those that have not ended, in order of arrival.
    /// - `last_seen`: when otter last ran, as far as that is known.
    #[must_use]
    pub fn restored(
        rules: LeaseRules,
        leases: impl IntoIterator<Item = Lease>,
        machines: BTreeMap<MachineKey, Kept>,
        last_seen: Option<Timestamp>,
        now: Now,
    ) -> Self {
        let counts_to = last_seen.map_or(now.wall, |seen| seen.max(now.wall));
        let mut book =
            Self { rules, leases: BTreeMap::new(), machines, fence_floor: 0, arrived: 0 };
        for mut lease in leases {
            let gone =
                Duration::try_from(counts_to.duration_since(lease.noted_at)).unwrap_or_default();
            let TimeLeft { queue, lease: left, total } = lease.time;
            let after = |left: Duration| left.saturating_sub(gone).max(book.rules.grace);
            lease.time = match lease.state {
                LeaseState::Queued => {
                    TimeLeft { queue: queue.saturating_sub(gone), lease: left, total }
                }
                LeaseState::Active => TimeLeft { queue, lease: after(left), total: after(total) },
                _ => lease.time,
            };
            lease.noted_at = now.wall;
            book.arrive(lease, now);
        }
        book
    }

    /// The same book, whose next grants get fences above this.
    #[must_use]
    pub fn with_fence_floor(self, fence_floor: u64) -> Self {
        Self { fence_floor, ..self }
    }

    /// Every grant gets a higher fence than this.
    #[must_use]
    pub const fn fence_floor(&self) -> u64 {
        self.fence_floor
    }

    /// What the book's shell has to take up after a restart.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Then> {
        let work = |open: &Open| match open.lease.state {
            LeaseState::Preparing => Some(Then::Prepare(open.lease.id)),
            LeaseState::Releasing => Some(Then::Release(open.lease.id)),
            _ => None,
        };
        self.leases.values().filter_map(work).collect()
    }

    /// Every lease that has not ended, in order of their ids.
    pub fn open(&self) -> impl Iterator<Item = &Open> {
        self.leases.values()
    }

    /// The lease of this id, if it has not ended.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<&Open> {
        self.leases.get(&id)
    }

    /// What is kept of a machine.
    #[must_use]
    pub fn kept(&self, machine: &MachineKey) -> Option<&Kept> {
        self.machines.get(machine)
    }

    /// Everything that is kept of machines.
    #[must_use]
    pub const fn machines(&self) -> &BTreeMap<MachineKey, Kept> {
        &self.machines
    }

    /// How many leases wait before this one.
    #[must_use]
    pub fn position(&self, id: LeaseId) -> Option<usize> {
        self.position_among(id, |_| true)
    }

    /// How many of the leases that count wait before this one, which counts itself.
    #[must_use]
    pub fn position_among(&self, id: LeaseId, counts: impl Fn(&Lease) -> bool) -> Option<usize> {
        let queued = self.queued().into_iter();
        let counting =
            |queued: &LeaseId| self.leases.get(queued).is_some_and(|open| counts(&open.lease));
        queued.filter(counting).position(|queued| queued == id)
    }

    /// Who waits, in order of arrival.
    fn queued(&self) -> Vec<LeaseId> {
        let queued = self.leases.values().filter(|open| open.lease.state == LeaseState::Queued);
        let mut queued: Vec<(u64, LeaseId)> =
            queued.map(|open| (open.arrival, open.lease.id)).collect();
        queued.sort_unstable();
        queued.into_iter().map(|(_, id)| id).collect()
    }

    fn arrive(&mut self, lease: Lease, now: Now) {
        self.arrived += 1;
        let open = Open {
            arrival: self.arrived,
            noted: now.elapsed,
            asked: now.elapsed,
            lease: Arc::new(lease),
        };
        self.leases.insert(open.lease.id, open);
    }

    /// When the next [`Input::Tick`] has something to do, by the clock that does not jump.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.leases.values().filter_map(|open| self.due_of(open)).min()
    }

    /// Takes what happened. Where it fails nothing changed.
    ///
    /// # Errors
    /// What the caller is told.
    pub fn step(&mut self, input: Input<'_>, now: Now) -> Result<Changes, Failure> {
        Step::of(self, now).take(input)
    }

    /// Somebody asked about a lease: kept in memory alone.
    pub fn asked(&mut self, id: LeaseId, now: Now) {
        if let Some(open) = self.leases.get_mut(&id) {
            open.asked = now.elapsed;
        }
    }

    /// The leases that wait for a machine, in order of their ids.
    pub fn waiting(&self) -> impl Iterator<Item = &Lease> {
        self.leases
            .values()
            .map(|open| &*open.lease)
            .filter(|lease| lease.state == LeaseState::Queued)
    }

    /// Whether a lease is queued.
    #[must_use]
    pub fn anyone_waits(&self) -> bool {
        self.waiting().next().is_some()
    }

    /// Whether a lease has time that runs: a queued or an active one.
    #[must_use]
    pub fn has_running_time(&self) -> bool {
        self.leases.values().any(Open::has_running_time)
    }

    fn due_of(&self, open: &Open) -> Option<Duration> {
        let Open { lease, noted, asked, arrival: _ } = open;
        match lease.state {
            LeaseState::Queued => {
                let abandoned = *asked + self.rules.abandon_after;
                Some(abandoned.min(*noted + lease.time.queue))
            }
            LeaseState::Active => {
                let left = if lease.warned {
                    lease.time.lease
                } else {
                    lease.time.lease.saturating_sub(lease.ttl / 5)
                };
                Some(*noted + left)
            }
            _ => None,
        }
    }
}

impl Open {
    /// Whether its time runs: the time to queue, or the time of the lease.
    fn has_running_time(&self) -> bool {
        matches!(self.lease.state, LeaseState::Queued | LeaseState::Active)
    }

    /// When its time is over, and when all renewals are, to the second: readers see the same until
    /// it is renewed.
    #[must_use]
    pub fn ends(&self) -> Option<(Timestamp, Timestamp)> {
        if self.lease.state != LeaseState::Active {
            return None;
        }
        let at = |left: Duration| {
            let at = self.lease.noted_at.saturating_add(left).ok()?;
            Timestamp::from_second(at.as_second()).ok()
        };
        Some((at(self.lease.time.lease)?, at(self.lease.time.total)?))
    }

    /// How much is left of its times now.
    #[must_use]
    pub fn left(&self, elapsed: Duration) -> TimeLeft {
        let gone = elapsed.saturating_sub(self.noted);
        let TimeLeft { queue, lease, total } = self.lease.time;
        match self.lease.state {
            LeaseState::Queued => TimeLeft { queue: queue.saturating_sub(gone), lease, total },
            LeaseState::Active => TimeLeft {
                queue,
                lease: lease.saturating_sub(gone),
                total: total.saturating_sub(gone),
            },
            _ => self.lease.time,
        }
    }
}
