//! Every lease that has not ended, and what is kept of each machine: pure, `step(input, now) → changes and what to do`.
//!
//! | event | queued | preparing | active | releasing |
//! | --- | --- | --- | --- | --- |
//! | a machine that fits is free | granted: preparing, or active where there is nothing to prepare | – | – | – |
//! | prepared | – | active | – | – |
//! | prepare failed, or cannot be known, the machine there still | – | machine set aside; queued again while its queue time lasts, else releasing (prepare-failed) | – | – |
//! | release (its holder) | released | releasing | releasing | the same answer |
//! | revoke (an operator) | revoked | releasing | releasing | the same answer |
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
//! A machine is kept by who it is (instance UUID, else path), never by its reusable moid. Ends are never taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::fit::{Candidate, could_ever, fits, has_snapshots};
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;
use crate::domain::lease::{EndReason, Lease, LeaseEnd, LeaseId, LeaseState, Quarantine, TimeLeft};
use crate::domain::machine::MachineIdentity;
use crate::sabotage::{Mistake, Sabotage};

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
    pub sabotage: Sabotage,
}

impl Default for LeaseRules {
    fn default() -> Self {
        Self {
            max_ttl: Duration::from_hours(24),
            max_total: Duration::from_hours(7 * 24),
            abandon_after: Duration::from_mins(2),
            grace: Duration::from_mins(1),
            max_queued: 10_000,
            sabotage: Sabotage::new(),
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
        let MachineIdentity { id, instance_uuid, path } = machine;
        Self(match (instance_uuid, path) {
            (Some(uuid), _) => format!("uuid:{}", uuid.to_ascii_lowercase()),
            (None, Some(path)) => format!("path:{path}"),
            (None, None) => format!("id:{id}"),
        })
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
}

/// The book. Cloning it is cheap enough to try a step and drop it.
#[derive(Clone, Debug, Default)]
pub struct Book {
    rules: LeaseRules,
    leases: BTreeMap<LeaseId, Open>,
    machines: BTreeMap<MachineKey, Kept>,
    /// How many have arrived.
    arrived: u64,
}

/// A lease that has not ended, and its clocks.
#[derive(Clone, Debug)]
pub struct Open {
    pub lease: Arc<Lease>,
    /// Its place in the order of arrival. Ids do not tell: after a restart the wall clock may be behind.
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
    Renew(LeaseId, Option<Duration>),
    End {
        id: LeaseId,
        reason: EndReason,
        by: String,
        detail: Option<String>,
    },
    /// A job of the lease was started for its preparation or release.
    Working(LeaseId, JobId),
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
    /// Write how much time is left.
    Note,
}

/// What is to be committed, together, before anything else happens.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub leases: BTreeMap<LeaseId, Arc<Lease>>,
    pub machines: BTreeMap<MachineKey, Kept>,
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

impl Book {
    /// The book as the store kept it, the leases in order of arrival. Time that passed since it was noted counts, by the wall clock, never negative.
    #[must_use]
    pub fn restored(
        rules: LeaseRules,
        leases: impl IntoIterator<Item = Lease>,
        machines: BTreeMap<MachineKey, Kept>,
        now: Now,
    ) -> Self {
        let mut book = Self { rules, leases: BTreeMap::new(), machines, arrived: 0 };
        for mut lease in leases {
            let down = Duration::try_from(now.wall.duration_since(lease.noted_at)).unwrap_or_default();
            let TimeLeft { queue, lease: left, total } = lease.time;
            let after = |left: Duration| left.saturating_sub(down).max(book.rules.grace);
            lease.time = match lease.state {
                LeaseState::Queued => TimeLeft { queue: queue.saturating_sub(down), lease: left, total },
                LeaseState::Active => TimeLeft { queue, lease: after(left), total: after(total) },
                _ => lease.time,
            };
            lease.noted_at = now.wall;
            book.arrive(lease, now);
        }
        book
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
        self.queued().iter().position(|queued| *queued == id)
    }

    /// Who waits, in order of arrival.
    fn queued(&self) -> Vec<LeaseId> {
        let queued = self.leases.values().filter(|open| open.lease.state == LeaseState::Queued);
        let mut queued: Vec<(u64, LeaseId)> = queued.map(|open| (open.arrival, open.lease.id)).collect();
        queued.sort_unstable();
        queued.into_iter().map(|(_, id)| id).collect()
    }

    fn arrive(&mut self, lease: Lease, now: Now) {
        self.arrived += 1;
        let open =
            Open { arrival: self.arrived, noted: now.elapsed, asked: now.elapsed, lease: Arc::new(lease) };
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
        let mut step = Step { book: self, now, changes: Changes::default() };
        match input {
            Input::Ask(lease, candidates) => step.ask(*lease, candidates)?,
            Input::Look(candidates) => step.look(candidates),
            Input::Machines(machines) => step.machines(machines),
            Input::Renew(id, ttl) => step.renew(id, ttl)?,
            Input::End { id, reason, by, detail } => step.end(id, reason, by, detail),
            Input::Working(id, job) => step.working(id, job),
            Input::Prepared(id, outcome) => step.prepared(id, outcome),
            Input::Freed(id, outcome) => step.freed(id, outcome),
            Input::Overridden { id, by, reason } => step.change(id, |lease, now| {
                lease.warn(format!("{by} acted on the machine: {reason}"));
                lease.note(now.wall, format!("overridden by {by}: {reason}"));
            }),
            Input::SetAside(machine, quarantine) => {
                step.keep(&machine, |kept| kept.quarantine = Some(quarantine));
            }
            Input::Clear(machine) => step.keep(&machine, |kept| kept.quarantine = None),
            Input::Tick => step.tick(),
            Input::Note => step.note(),
        }
        Ok(step.changes)
    }

    /// Somebody asked about a lease: kept in memory alone.
    pub fn asked(&mut self, id: LeaseId, now: Now) {
        if let Some(open) = self.leases.get_mut(&id) {
            open.asked = now.elapsed;
        }
    }

    /// Whether a lease is queued.
    #[must_use]
    pub fn anyone_waits(&self) -> bool {
        self.leases.values().any(|open| open.lease.state == LeaseState::Queued)
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
    /// When its time is over, and when all renewals are, to the second: readers see the same until it is renewed.
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
            LeaseState::Active => {
                TimeLeft { queue, lease: lease.saturating_sub(gone), total: total.saturating_sub(gone) }
            }
            _ => self.lease.time,
        }
    }
}

/// One step under way.
struct Step<'b> {
    book: &'b mut Book,
    now: Now,
    changes: Changes,
}

impl Step<'_> {
    fn ask(&mut self, lease: Lease, candidates: &[Candidate]) -> Result<(), Failure> {
        if !candidates.iter().any(|candidate| could_ever(&lease.select, candidate)) {
            let detail = "No machine fits what was asked, whatever becomes free. Look: GET /v1/machines, GET /v1/pools";
            return Err(Failure::new(FailureKind::NoFreeMachine, detail));
        }
        let (id, patient) = (lease.id, lease.queue_for.is_some());
        let queued = self.book.leases.values().filter(|open| open.lease.state == LeaseState::Queued).count();
        if patient && queued >= self.book.rules.max_queued {
            let detail = "Too many leases wait already; try again once some were granted.";
            return Err(Failure::new(FailureKind::QueueFull, detail));
        }
        self.book.arrive(lease, self.now);
        self.change(id, |lease, now| lease.note(now.wall, "asked for"));
        self.look(candidates);
        let state = self.book.leases.get(&id).map(|open| open.lease.state);
        if state == Some(LeaseState::Queued) && !patient {
            self.book.leases.remove(&id);
            self.changes.leases.remove(&id);
            let detail =
                "No machine that fits is free now. Say queue_for to wait for one, or look: GET /v1/machines";
            return Err(Failure::new(FailureKind::NoFreeMachine, detail));
        }
        Ok(())
    }

    /// Grants in order of arrival, each the machine whose last lease ended longest ago.
    fn look(&mut self, candidates: &[Candidate]) {
        let taken: BTreeSet<MachineKey> = self
            .book
            .leases
            .values()
            .filter(|open| open.lease.state.holds())
            .filter_map(|open| open.lease.machine.as_ref().map(MachineKey::of))
            .collect();
        let queued = self.book.queued();
        let aside = |key: &MachineKey| self.book.kept(key).is_some_and(|kept| kept.quarantine.is_some());
        let last_end = |key: &MachineKey| self.book.kept(key).and_then(|kept| kept.last_end);
        let mut free: Vec<(MachineKey, &Candidate)> = candidates
            .iter()
            .filter(|candidate| candidate.free)
            .map(|candidate| (MachineKey::of(&candidate.identity), candidate))
            .filter(|(key, _)| !aside(key) && !taken.contains(key))
            .collect();
        free.sort_by_key(|(key, _)| last_end(key));
        for id in queued {
            if free.is_empty() {
                return;
            }
            let Some(open) = self.book.leases.get(&id) else { continue };
            let fitting = |machine: &Candidate| {
                fits(&open.lease.select, machine) && has_snapshots(&open.lease, machine)
            };
            let chosen = free.iter().position(|(_, candidate)| fitting(candidate));
            if let Some(place) = chosen {
                let (key, candidate) = free.remove(place);
                // A copy that was registered with the identity of another is kept as the same machine.
                free.retain(|(other, _)| *other != key);
                self.grant(id, candidate);
            }
        }
    }

    fn grant(&mut self, id: LeaseId, candidate: &Candidate) {
        let key = MachineKey::of(&candidate.identity);
        let mut fence = 0;
        let forget = self.book.rules.sabotage.makes(Mistake::FenceForgotten);
        self.keep(&key, |kept| {
            kept.fence = if forget { 1 } else { kept.fence + 1 };
            fence = kept.fence;
        });
        self.change(id, |lease, now| {
            lease.machine = Some(candidate.identity.clone());
            lease.machine_name = Some(candidate.name.clone());
            lease.pool = lease.select.pool.clone().or_else(|| candidate.pools.first().cloned());
            lease.fence = Some(fence);
            lease.grants += 1;
            lease.job = None;
            lease.note(now.wall, format!("granted {} (fence {fence})", candidate.name));
            lease.state = LeaseState::Preparing;
        });
        let nothing_to_prepare = self.book.leases.get(&id).is_some_and(|open| open.lease.prepare.is_none());
        if nothing_to_prepare {
            self.activate(id);
        } else {
            self.changes.then.push(Then::Prepare(id));
        }
    }

    fn activate(&mut self, id: LeaseId) {
        self.change(id, |lease, now| {
            lease.state = LeaseState::Active;
            lease.active_at = Some(now.wall);
            lease.time.lease = lease.ttl;
            lease.time.total = lease.max_total;
            lease.warned = false;
            lease.note(now.wall, "active");
        });
    }

    fn prepared(&mut self, id: LeaseId, outcome: Result<(), Failure>) {
        let Some(open) = self.book.leases.get(&id) else { return };
        if open.lease.state != LeaseState::Preparing {
            return;
        }
        let Err(failure) = outcome else { return self.activate(id) };
        if failure.kind == FailureKind::MachineGone {
            return self.vanished(id);
        }
        let machine = open.lease.machine_name.clone().unwrap_or_default();
        self.set_aside(id, &format!("its preparation failed: {}", failure.detail));
        let left = self
            .book
            .leases
            .get(&id)
            .is_some_and(|open| open.lease.queue_for.is_some() && !open.lease.time.queue.is_zero());
        if left {
            self.change(id, |lease, now| {
                lease.note(
                    now.wall,
                    format!("{machine} could not be prepared ({}); waiting for another", failure.kind.code()),
                );
                lease.warn(format!("{machine} could not be prepared: {}", failure.detail));
                lease.state = LeaseState::Queued;
                (lease.machine, lease.machine_name, lease.fence, lease.job) = (None, None, None, None);
            });
            // Nobody had to ask while it was being prepared.
            let now = self.now;
            self.book.asked(id, now);
            return;
        }
        self.change(id, |lease, _| lease.error = Some(failure.clone()));
        self.end(id, EndReason::PrepareFailed, "otter".to_owned(), Some(failure.detail));
    }

    fn freed(&mut self, id: LeaseId, outcome: Result<(), Failure>) {
        let Some(open) = self.book.leases.get(&id) else { return };
        if open.lease.state != LeaseState::Releasing {
            return;
        }
        if let Err(failure) = outcome {
            self.set_aside(id, &format!("its release failed: {}", failure.detail));
            self.change(id, |lease, now| {
                lease.warn(format!("The release failed, and the machine is set aside: {}", failure.detail));
                lease.note(now.wall, "release failed; the machine is set aside");
            });
        }
        self.close(id);
    }

    fn end(&mut self, id: LeaseId, reason: EndReason, by: String, detail: Option<String>) {
        let Some(open) = self.book.leases.get(&id) else { return };
        let state = open.lease.state;
        if matches!(state, LeaseState::Releasing) || state.is_end() {
            return;
        }
        self.change(id, |lease, now| {
            lease.note(now.wall, format!("{} by {by}", reason.as_str()));
            lease.end = Some(LeaseEnd { reason, by, at: now.wall, detail });
            lease.state = LeaseState::Releasing;
        });
        if state == LeaseState::Queued {
            self.close(id);
        } else {
            self.changes.then.push(Then::Release(id));
        }
    }

    /// The lease comes to its end state.
    fn close(&mut self, id: LeaseId) {
        let Some(open) = self.book.leases.get(&id) else { return };
        let machine = open.lease.machine.as_ref().map(MachineKey::of);
        let reason = open.lease.end.as_ref().map_or(EndReason::Released, |end| end.reason);
        self.change(id, |lease, now| {
            lease.state = reason.state();
            lease.ended_at = Some(now.wall);
            lease.note(now.wall, lease.state.as_str());
            if lease.error.is_none() && lease.state == LeaseState::Failed {
                lease.error = Some(why(reason, lease));
            }
        });
        let now = self.now.wall;
        if let Some(machine) = machine {
            self.keep(&machine, |kept| kept.last_end = Some(now));
        }
        self.book.leases.remove(&id);
    }

    fn machines(&mut self, machines: &[MachineIdentity]) {
        let holding: Vec<(LeaseId, MachineIdentity)> = self
            .book
            .leases
            .values()
            .filter(|open| open.lease.state.holds())
            .filter_map(|open| Some((open.lease.id, open.lease.machine.clone()?)))
            .collect();
        for (id, machine) in holding {
            if machines.iter().any(|there| machine.agrees_with(there)) {
                continue;
            }
            self.vanished(id);
        }
    }

    /// There is nothing left to release.
    fn vanished(&mut self, id: LeaseId) {
        let reason = "it vanished from the host while it was leased, so it was not released";
        self.set_aside(id, reason);
        self.change(id, |lease, _| {
            if lease.state == LeaseState::Releasing {
                let machine = lease.machine_name.as_deref().unwrap_or("the machine");
                lease.warn(format!("{machine} is set aside: {reason}."));
            }
        });
        self.end(id, EndReason::MachineGone, "otter".to_owned(), None);
        self.changes
            .then
            .retain(|then| !matches!(then, Then::Release(other) | Then::Prepare(other) if *other == id));
        self.close(id);
    }

    fn renew(&mut self, id: LeaseId, ttl: Option<Duration>) -> Result<(), Failure> {
        let Some(open) = self.book.leases.get(&id).filter(|open| open.lease.state == LeaseState::Active)
        else {
            let detail = "Only a lease that is active can be renewed.";
            return Err(Failure::new(FailureKind::LeaseEnded, detail));
        };
        let left = open.left(self.now.elapsed);
        let wanted = ttl.unwrap_or(open.lease.ttl);
        self.change(id, |lease, now| {
            lease.time.lease = wanted.min(left.total).max(left.lease);
            lease.warned = false;
            lease.note(now.wall, format!("renewed for {}", duration::format(wanted.min(left.total))));
        });
        Ok(())
    }

    fn tick(&mut self) {
        let elapsed = self.now.elapsed;
        let due: Vec<LeaseId> = self
            .book
            .leases
            .values()
            .filter(|open| {
                let over = open.lease.state == LeaseState::Active && self.left(open).lease.is_zero();
                over || self.book.due_of(open).is_some_and(|due| due <= elapsed)
            })
            .map(|open| open.lease.id)
            .collect();
        for id in due {
            let Some(open) = self.book.leases.get(&id) else { continue };
            let (left, state) = (self.left(open), open.lease.state);
            let otter = || "otter".to_owned();
            match state {
                LeaseState::Queued if left.queue.is_zero() => {
                    self.end(id, EndReason::QueueTimeout, otter(), None);
                }
                LeaseState::Queued => self.end(id, EndReason::Abandoned, otter(), None),
                LeaseState::Active if left.lease.is_zero() => self.end(id, EndReason::Expired, otter(), None),
                LeaseState::Active => {
                    self.change(id, |lease, now| {
                        lease.warned = true;
                        lease.note(now.wall, "ends soon: a fifth of its time is left");
                    });
                    self.changes.then.push(Then::Warn(id));
                }
                _ => {}
            }
        }
    }

    fn note(&mut self) {
        let timed = |open: &&Open| matches!(open.lease.state, LeaseState::Queued | LeaseState::Active);
        let ids: Vec<LeaseId> = self.book.leases.values().filter(timed).map(|open| open.lease.id).collect();
        for id in ids {
            self.change(id, |_, _| {});
        }
    }

    fn set_aside(&mut self, id: LeaseId, reason: &str) {
        let Some(open) = self.book.leases.get(&id) else { return };
        let Some(machine) = &open.lease.machine else { return };
        let (key, job, since) = (MachineKey::of(machine), open.lease.job, self.now.wall);
        let quarantine =
            Quarantine { reason: reason.to_owned(), by: "otter".to_owned(), since, automatic: true, job };
        // What an operator said of it stays.
        self.keep(&key, |kept| {
            if kept.quarantine.as_ref().is_none_or(|quarantine| quarantine.automatic) {
                kept.quarantine = Some(quarantine);
            }
        });
    }

    fn working(&mut self, id: LeaseId, job: JobId) {
        self.change(id, |lease, _| lease.job = Some(job));
        let releasing =
            self.book.leases.get(&id).is_some_and(|open| open.lease.state == LeaseState::Releasing);
        if releasing && self.book.rules.sabotage.makes(Mistake::FreeBeforeProven) {
            self.close(id);
        }
    }

    /// How much is left of the times of a lease now.
    fn left(&self, open: &Open) -> TimeLeft {
        if self.book.rules.sabotage.makes(Mistake::ExpiryByWallClock) {
            let gone = self.now.wall.duration_since(open.lease.noted_at);
            return open.left(open.noted + Duration::try_from(gone).unwrap_or_default());
        }
        open.left(self.now.elapsed)
    }

    /// Changes a lease, its times noted as they are now.
    fn change(&mut self, id: LeaseId, change: impl FnOnce(&mut Lease, Now)) {
        let Some(left) = self.book.leases.get(&id).map(|open| self.left(open)) else { return };
        let Some(open) = self.book.leases.get_mut(&id) else { return };
        let lease = Arc::make_mut(&mut open.lease);
        lease.time = left;
        lease.noted_at = self.now.wall;
        open.noted = self.now.elapsed;
        change(lease, self.now);
        self.changes.leases.insert(id, Arc::clone(&open.lease));
    }

    fn keep(&mut self, machine: &MachineKey, change: impl FnOnce(&mut Kept)) {
        let kept = self.book.machines.entry(machine.clone()).or_default();
        change(kept);
        self.changes.machines.insert(machine.clone(), kept.clone());
    }
}

fn why(reason: EndReason, lease: &Lease) -> Failure {
    let machine = lease.machine_name.as_deref().unwrap_or("the machine");
    let (kind, detail) = match reason {
        EndReason::QueueTimeout => {
            (FailureKind::NoFreeMachine, "No machine that fits became free in time.".to_owned())
        }
        EndReason::Abandoned => (
            FailureKind::LeaseFailed,
            "Nobody asked about the lease while it waited, so it was dropped.".to_owned(),
        ),
        EndReason::MachineGone => (FailureKind::MachineGone, format!("{machine} vanished from the host.")),
        _ => (FailureKind::LeaseFailed, "The lease failed.".to_owned()),
    };
    Failure::new(kind, detail)
}
