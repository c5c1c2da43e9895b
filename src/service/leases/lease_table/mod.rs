//! The state machine of all leases that have not ended, and the ledger of each machine. Pure:
//! [`LeaseTable::apply`] takes an input and the time, and returns the changes to store and the
//! follow-ups to start.
//!
//! The states of a lease that has not ended:
//! - queued: the lease waits for a machine.
//! - preparing: the lease holds a machine that otter prepares for it.
//! - active: the lease holds a machine that its holder uses.
//! - releasing: the lease ends. It holds the machine until otter has released the machine.
//!
//! | event | queued | preparing | active | releasing |
//! | --- | --- | --- | --- | --- |
//! | a matching machine is free | preparing or active | – | – | – |
//! | the preparation succeeds | – | active | – | – |
//! | the preparation fails | – | queued or releasing | – | – |
//! | the preparation meets a fault of the host | – | queued or releasing | – | – |
//! | the holder ends the lease | released | releasing | releasing | – |
//! | the use of the machine failed, and the lease is kept | – | – | active | – |
//! | an operator revokes the lease | revoked | releasing | releasing | – |
//! | the token of the lease is revoked or expires | revoked | – | – | – |
//! | the queue time is over | failed | – | – | – |
//! | no client polls the lease for `abandon_after` | failed | – | – | – |
//! | the time of the lease is over | – | – | releasing | – |
//! | the machine is absent from the host | – | failed | failed | ended |
//! | the release succeeds | – | – | – | ended |
//! | the release fails | – | – | – | ended |
//! | the release meets a fault of the host | – | – | – | tried again |
//! | an operator quarantines the machine | – | – | – | ended after a fault of the host |
//!
//! - "–": the state does not change. "ended": the end state of the reason for the release. "tried
//!   again": the state stays, and the release is tried again.
//! - A granted lease without a `prepare` is active at once.
//! - A preparation or a release also counts as failed if its outcome is unknown. After a failure
//!   the machine is quarantined. After a failed preparation, the lease is queued again if queue
//!   time is left. After a failed release, the lease has a warning.
//! - "A fault of the host" is every fault that is not the machine's
//!   ([`FaultOrigin`](crate::domain::fault_origin::FaultOrigin)). Such a fault never quarantines a
//!   machine.
//!   - A preparation that meets a fault of the host gives its machine back, and the lease returns
//!     to its place in the queue if queue time is left. After the first such fault, the lease gets
//!     another machine at once. After further ones, the lease is tried again after a pause that
//!     grows, first on machines on which it has not failed. If the queue time ends before a
//!     preparation succeeds, the lease fails with the last fault.
//!   - Once two machines of a pool met the same fault, all queued leases with a preparation wait
//!     until the pause of the pool is over. The pause grows with each further fault in the pool,
//!     whichever lease meets it.
//!   - A release that meets a fault of the host is tried again after a pause that grows.
//! - A machine that was given back, and a machine that otter quarantined by itself, has a recovery:
//!   a release without a lease, which is tried until it succeeds. A recovery that succeeds clears
//!   the quarantine. Until then the machine is not granted. A recovery that fails because of the
//!   machine quarantines the machine.
//!   - A recovery begins once no lease holds the machine. After a failed preparation, the release
//!     at the end of the lease does not replace the recovery: a machine that cannot be prepared can
//!     often be powered off, and without the pause of its quarantine, the machine would fail the
//!     next lease at once.
//! - A preparation or a release that a person cancelled says nothing about its machine, so the
//!   machine is given back. If it was a release, the lease ends.
//! - A quarantine by a person ends what otter does with the machine by itself: the machine gets no
//!   recovery, and if the release of its lease meets a fault of the host, the lease ends.
//! - The machine of a lease also counts as absent if its identity is present under another id. An
//!   absent machine of a lease is quarantined.
//! - A new name or power state of the machine changes nothing. A removed snapshot makes the
//!   preparation or the release fail.
//! - While the host is unreachable, no lease is granted, and preparations and releases wait. The
//!   times of leases run on.
//! - A lease whose machine's use failed is kept only if its request has `keep_on_failure`. The
//!   lease then expires after that time. A second failed use changes nothing.
//! - A matching machine is granted only within the limits of its host and its pools (`capacity`).
//! - After a restart, the times of leases run on by the wall clock, but no active lease ends before
//!   `grace` is over. Preparations and releases continue.
//! - If the storage fails, nothing changes: the actor drops the command and reports the failure, or
//!   tries again.
//!
//! A ledger belongs to a machine's identity (its instance UUID, else its path), because the host
//! reuses machine ids. The end of a lease is final.

mod clients;
mod grant_class;
mod host_faults;
mod index;
mod protocol;
mod transition;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use self::clients::{LeaseClients, WaitingClient};
use self::grant_class::{Blockers, GrantClass};
use self::host_faults::{HostFaults, LeaseStep};
pub use self::host_faults::{PoolFault, pause_after};
use self::index::LeaseIndex;
pub use self::protocol::{
    FollowUp, LeaseBlocker, LeaseInput, LeaseRules, MAX_QUARANTINE_RETRY, MachineLedger,
    RecoveryAttempt, TableChanges,
};
use self::transition::Transition;
pub use super::machine_key::MachineKey;
use super::persistent_map::PersistentMap;
use crate::domain::failure::Failure;
use crate::domain::ids::{LeaseId, TokenId};
use crate::domain::lease::{Lease, LeaseState, TimeLeft};
use crate::domain::machine::{Machine, MachineIdentity};
use crate::service::jobs::deadline_clocks::Moment;

/// All leases that have not ended, and the ledgers of the machines. Each transition is applied to a
/// clone of the table first. A clone is cheap, because it shares all entries with the original.
#[derive(Clone, Debug, Default)]
pub struct LeaseTable {
    rules: LeaseRules,
    leases: PersistentMap<LeaseId, OpenLease>,
    index: LeaseIndex,
    ledgers: PersistentMap<MachineKey, Arc<MachineLedger>>,
    /// The fence floor: every grant gets a higher fence than this, even the first grant of a
    /// machine that has no ledger.
    fence_floor: u64,
    /// The number of leases that were ever added to the table. It gives a new lease its place in
    /// the order of arrival.
    appended: u64,
    /// The faults that leases met and that no machine caused. The store does not keep them.
    host_faults: HostFaults,
    /// Why the queued leases got no machine at the last attempt to grant machines. The store does
    /// not keep this.
    blockers: Arc<Blockers>,
    /// The version of the machines that the last attempt to grant machines used, if the attempt
    /// granted none. `None` if the table has changed since then, so that another attempt may grant
    /// a machine.
    evaluated: Option<u64>,
}

/// A lease that has not ended, and its times by the clock that never jumps.
#[derive(Clone, Debug)]
pub struct OpenLease {
    pub lease: Arc<Lease>,
    /// The place of the lease in the order of arrival. Ids do not give this order, because the wall
    /// clock may go back.
    arrival: u64,
    /// When `lease.time_left` was computed, by the clock that never jumps.
    measured_elapsed: Duration,
    /// The name of the caller that requested the lease.
    requester: Arc<str>,
    pub clients: Arc<LeaseClients>,
    /// The time before which a queued lease gets no machine, because it met a fault of the host.
    /// The store does not keep this time: after a restart, otter tries to grant a machine at once.
    retry_at: Option<Duration>,
    /// The class of a queued lease. `None` if the lease is not queued.
    class: Option<Arc<GrantClass>>,
    /// When [`LeaseInput::TimePassed`] is due for the lease. This time can be too early, because a
    /// poll of the lease does not change it. `None` if no time of the lease runs.
    due: Option<Duration>,
}

impl LeaseTable {
    /// Builds the table from the store. From the time that each lease has left, subtracts the time
    /// that has passed since the lease was stored, by the wall clock. If the wall clock is behind
    /// `last_seen`, subtracts only the time until `last_seen`, and no downtime.
    ///
    /// # Parameters
    /// - `leases`: the leases that have not ended, in order of arrival.
    /// - `last_seen`: when otter last ran; `None` if this is not known.
    #[must_use]
    pub fn from_stored(
        rules: LeaseRules,
        leases: impl IntoIterator<Item = Lease>,
        ledgers: impl IntoIterator<Item = (MachineKey, MachineLedger)>,
        last_seen: Option<Timestamp>,
        now: Moment,
    ) -> Self {
        let counts_to = last_seen.map_or(now.wall, |seen| seen.max(now.wall));
        let mut table = Self { rules, ..Self::default() };
        for (machine, ledger) in ledgers {
            table.ledgers.insert(machine, Arc::new(ledger));
        }
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
            table.record_setback(&lease, now);
            table.append(lease, now);
        }
        table
    }

    /// The table with this fence floor: every grant gets a higher fence.
    #[must_use]
    pub fn with_fence_floor(self, fence_floor: u64) -> Self {
        Self { fence_floor, ..self }
    }

    /// The fence floor: every grant gets a higher fence than this.
    #[must_use]
    pub const fn fence_floor(&self) -> u64 {
        self.fence_floor
    }

    /// The preparations, releases and recoveries that a restart interrupted, and that must
    /// continue.
    #[must_use]
    pub fn unfinished_work(&self, now: Timestamp) -> Vec<FollowUp> {
        let work = |open: &OpenLease| match open.lease.state {
            LeaseState::Preparing => Some(FollowUp::Prepare(open.lease.id)),
            LeaseState::Releasing => Some(FollowUp::Release(open.lease.id)),
            _ => None,
        };
        let leases = self.leases.values().filter_map(work);
        let recoveries = self.ledgers.iter().filter_map(|(machine, ledger)| {
            let recovery = ledger.recovery.as_ref()?;
            // A recovery begins only when the lease that held the machine has left it.
            let holder = self.leases.get(&recovery.lease).map(|open| &open.lease);
            let held = holder.and_then(|lease| lease.machine.as_ref());
            if held.is_some_and(|held| MachineKey::from_identity(held) == *machine) {
                return None;
            }
            // The wall clock may have jumped since the recovery was stored. So the rest of the
            // pause is never taken as longer than the whole pause.
            let left = Duration::try_from(recovery.retry_at.duration_since(now));
            let left = left.unwrap_or_default().min(recovery.pause);
            self.recover(machine, ledger, left)
        });
        leases.chain(recoveries).collect()
    }

    /// The next attempt to release a machine that no lease holds, after the pause `after`. `None`
    /// if no such release is necessary, or if otter does not try to release the machines that it
    /// quarantined.
    fn recover(
        &self,
        machine: &MachineKey,
        ledger: &MachineLedger,
        after: Duration,
    ) -> Option<FollowUp> {
        let recovery = ledger.recovery.as_ref()?;
        let is_allowed = ledger.quarantine.is_none() || !self.rules.quarantine_retry.is_zero();
        let attempt = RecoveryAttempt::new(machine.clone(), recovery);
        is_allowed.then_some(FollowUp::Recover(attempt, after))
    }

    /// Whether this is still the next attempt to release the machine.
    #[must_use]
    pub fn is_next(&self, attempt: &RecoveryAttempt) -> bool {
        let recovery = self.ledger(&attempt.machine).and_then(|ledger| ledger.recovery.as_ref());
        recovery.is_some_and(|recovery| {
            recovery.lease == attempt.lease && recovery.attempts == attempt.number
        })
    }

    /// The fault that at least two of these machines met and that no machine caused. `None` if
    /// there is no such fault.
    #[must_use]
    pub fn pool_fault<'m>(
        &self,
        machines: impl Iterator<Item = &'m MachineKey>,
    ) -> Option<PoolFault> {
        self.host_faults.of_pool(machines)
    }

    /// Records the fault that a lease met before otter restarted.
    fn record_setback(&mut self, lease: &Lease, now: Moment) {
        let Some(setback) = &lease.setback else { return };
        let step = match lease.state {
            LeaseState::Releasing => LeaseStep::Release,
            _ => LeaseStep::Preparation,
        };
        for machine in &setback.machines {
            let machine = MachineKey(machine.clone());
            let times = (setback.since, Duration::ZERO);
            self.host_faults.record(machine, step, &setback.failure, times, now);
        }
    }

    /// Every lease that has not ended, in order of their ids.
    pub fn open_leases(&self) -> impl Iterator<Item = &OpenLease> {
        self.leases.values()
    }

    /// The lease with this id. `None` if it has ended or does not exist.
    #[must_use]
    pub fn get(&self, id: LeaseId) -> Option<&OpenLease> {
        self.leases.get(&id)
    }

    /// The ledger of a machine. `None` if otter stores nothing about it.
    #[must_use]
    pub fn ledger(&self, machine: &MachineKey) -> Option<&MachineLedger> {
        self.ledgers.get(machine).map(Arc::as_ref)
    }

    /// The ledger of a machine of the host. `None` if otter stores nothing about it.
    #[must_use]
    pub fn ledger_of(&self, machine: &Machine) -> Option<&MachineLedger> {
        self.ledger(&MachineKey::from_identity(&machine.identity()))
    }

    /// The ledgers of all machines.
    pub fn ledgers(&self) -> impl Iterator<Item = (&MachineKey, &MachineLedger)> {
        self.ledgers.iter().map(|(machine, ledger)| (machine, &**ledger))
    }

    /// The lease that holds a machine. The identities of machines are compared, because the host
    /// reuses machine ids. If the host cannot read the machine, its id decides.
    #[must_use]
    pub fn holder_of(&self, machine: &MachineIdentity) -> Option<&OpenLease> {
        let mut holders = self.index.holders_of(&machine.id).filter_map(|id| self.get(id));
        holders.find(|open| open.lease.machine.as_ref().is_some_and(|held| held.can_be(machine)))
    }

    /// The leases that hold a machine, each with its machine.
    pub fn holders(&self) -> impl Iterator<Item = (LeaseId, &MachineIdentity)> {
        self.index.holders().filter_map(|(id, _)| Some((id, self.get(id)?.lease.machine.as_ref()?)))
    }

    /// The number of leases that are queued before this one. `None` if this lease is not queued.
    #[must_use]
    pub fn position(&self, id: LeaseId) -> Option<usize> {
        let open = self.get(id).filter(|open| open.lease.state == LeaseState::Queued)?;
        Some(self.index.rank(open.arrival))
    }

    /// The number of leases of the same requester that are queued before this one. `None` if this
    /// lease is not queued.
    #[must_use]
    pub fn position_of_requester(&self, id: LeaseId) -> Option<usize> {
        let open = self.get(id).filter(|open| open.lease.state == LeaseState::Queued)?;
        Some(self.index.rank_of_requester(&open.requester, open.arrival))
    }

    /// Why this lease got no machine at the last attempt to grant machines. `None` if the lease is
    /// not queued.
    #[must_use]
    pub fn blocked_by(&self, id: LeaseId) -> Option<LeaseBlocker> {
        let open = self.get(id)?;
        Some(self.blockers.get(open.class.as_ref()?, open.arrival))
    }

    /// Whether the reasons why queued leases got no machine are the same in both versions of the
    /// table.
    #[must_use]
    pub fn has_blockers_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.blockers, &other.blockers)
    }

    /// The number of all leases of a requester, and the number of its queued leases.
    #[must_use]
    pub fn counts_of_requester(&self, requester: &str) -> (usize, usize) {
        self.index.counts_of_requester(requester)
    }

    fn append(&mut self, lease: Lease, now: Moment) {
        self.appended += 1;
        let open = OpenLease {
            arrival: self.appended,
            measured_elapsed: now.elapsed,
            requester: Arc::from(lease.requested_by.as_str()),
            clients: Arc::new(LeaseClients::new(now.elapsed)),
            retry_at: None,
            class: None,
            due: None,
            lease: Arc::new(lease),
        };
        self.put(open, now);
    }

    /// Adds a lease to the table, or replaces the lease with the same id.
    fn put(&mut self, mut open: OpenLease, now: Moment) {
        open.class = self.class_of(&open);
        self.evaluated = None;
        self.replace(OpenLease { due: self.due_at(&open, now), ..open });
    }

    /// Computes again when [`LeaseInput::TimePassed`] is due for a lease.
    fn reschedule(&mut self, id: LeaseId, now: Moment) {
        let Some(open) = self.get(id) else { return };
        let due = self.due_at(open, now);
        if due != open.due {
            self.replace(OpenLease { due, ..open.clone() });
        }
    }

    fn replace(&mut self, open: OpenLease) {
        let id = open.lease.id;
        self.index.update(self.leases.get(&id), Some(&open));
        self.leases.insert(id, open);
    }

    /// Removes a lease from the table.
    fn take(&mut self, id: LeaseId) {
        let open = self.leases.remove(&id);
        self.index.update(open.as_ref(), None);
        self.evaluated = None;
    }

    /// The class of a lease. `None` if the lease is not queued.
    fn class_of(&self, open: &OpenLease) -> Option<Arc<GrantClass>> {
        if open.lease.state != LeaseState::Queued {
            return None;
        }
        match &open.class {
            Some(class) if class.has(&open.lease) => Some(Arc::clone(class)),
            _ => Some(self.index.shared_class(GrantClass::of_lease(&open.lease))),
        }
    }

    /// When the next [`LeaseInput::TimePassed`] is due, by the clock that never jumps. The input
    /// may then have no effect, because polls of leases do not move this time. `None` if no time of
    /// any lease runs.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.index.next_due().into_iter().chain(self.host_faults.next_retry()).min()
    }

    /// Whether nothing has changed since the last attempt to grant machines, and this attempt
    /// granted none.
    #[must_use]
    pub const fn is_evaluated(&self) -> bool {
        self.evaluated.is_some()
    }

    /// Whether nothing has changed since the last attempt to grant machines, this attempt granted
    /// none, and it used this version of the machines.
    #[must_use]
    pub fn is_evaluated_for(&self, machines: u64) -> bool {
        self.evaluated == Some(machines)
    }

    /// Records that an attempt to grant the machines of this version granted none of them. `None`
    /// means that the version is not known.
    pub const fn set_evaluated(&mut self, machines: Option<u64>) {
        self.evaluated = machines;
    }

    /// Applies an event to the table, and returns the changes. The caller applies it to a copy of
    /// the table, because a failure can leave the table partly changed.
    ///
    /// # Errors
    /// The failure for the caller: `no-free-machine` or `queue-full` for a request, `lease-ended`
    /// or `lease-not-active` for a renewal.
    pub fn apply(&mut self, input: LeaseInput<'_>, now: Moment) -> Result<TableChanges, Failure> {
        Transition::new(self, now).apply(input)
    }

    /// Records that a client polled a lease. The store does not keep polls.
    pub fn record_poll(&self, id: LeaseId, now: Moment) {
        if let Some(open) = self.get(id) {
            open.clients.record_poll(now.elapsed);
        }
    }

    /// The queued leases, in order of arrival.
    pub fn queued_leases(&self) -> impl Iterator<Item = &Lease> {
        self.index.queued().filter_map(|id| self.get(id)).map(|open| &*open.lease)
    }

    /// The tokens that requested the queued leases, each token once.
    #[must_use]
    pub fn queued_tokens(&self) -> Vec<TokenId> {
        self.index.tokens()
    }

    /// Whether any lease is queued.
    #[must_use]
    pub const fn has_queued_leases(&self) -> bool {
        self.index.queued_count() > 0
    }

    /// Whether the time of any lease runs: the queue time of a queued lease, or the lease time of
    /// an active one.
    #[must_use]
    pub const fn has_running_time(&self) -> bool {
        self.index.has_running_time()
    }

    fn due_at(&self, open: &OpenLease, now: Moment) -> Option<Duration> {
        let OpenLease { lease, measured_elapsed, clients, retry_at, .. } = open;
        match lease.state {
            LeaseState::Queued => {
                let abandoned = clients.last_polled(now.elapsed) + self.rules.abandon_after;
                let due = abandoned.min(*measured_elapsed + lease.time_left.queue);
                Some(retry_at.map_or(due, |retry_at| retry_at.min(due)))
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
    /// Whether a time of this lease runs: the queue time if it is queued, the lease time if it is
    /// active.
    fn has_running_time(&self) -> bool {
        matches!(self.lease.state, LeaseState::Queued | LeaseState::Active)
    }

    /// When the lease expires, and the latest time to which it can be renewed. `None` if the lease
    /// is not active. Both times are whole seconds, so that readers see the same values until a
    /// renewal.
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

    /// The times that the lease has left when the clock that never jumps reads `elapsed`.
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

#[cfg(test)]
impl LeaseTable {
    /// The number of entries of the table and its indexes that were copied since the version
    /// `before`, and are thus not shared with it.
    #[must_use]
    pub fn copied_since(&self, before: &Self) -> usize {
        self.leases.copied_since(&before.leases)
            + self.ledgers.copied_since(&before.ledgers)
            + self.index.copied_since(&before.index)
    }
}
