//! One step of the book: what each event does to each lease, as the table in `book` says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::fit::{Candidate, Selection, has_snapshots};
use super::{Book, Changes, Input, Kept, MachineKey, Now, Open, Then};
use crate::domain::access::TokenStanding;
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, LeaseId, TokenId};
use crate::domain::lease::{EndReason, Lease, LeaseEnd, LeaseState, Quarantine, TimeLeft};
use crate::domain::machine::MachineIdentity;

/// One step under way.
pub struct Step<'b> {
    book: &'b mut Book,
    now: Now,
    changes: Changes,
}

impl<'b> Step<'b> {
    pub fn of(book: &'b mut Book, now: Now) -> Self {
        Self { book, now, changes: Changes::default() }
    }

    /// Takes what happened, and gives what it changed.
    pub fn take(mut self, input: Input<'_>) -> Result<Changes, Failure> {
        match input {
            Input::Ask(lease, candidates) => self.ask(*lease, candidates)?,
            Input::Look(candidates) => self.look(candidates),
            Input::Machines(machines) => self.machines(machines),
            Input::Forget(machines) => self.forget(machines),
            Input::Renew(id, ttl) => self.renew(id, ttl)?,
            Input::End { id, reason, by, detail } => self.end(id, reason, by, detail),
            Input::Tokens(standings) => self.tokens(standings),
            Input::Working(id, state, job) => self.working(id, state, job),
            Input::Prepared(id, outcome) => self.prepared(id, outcome),
            Input::Freed(id, outcome) => self.freed(id, outcome),
            Input::Overridden { id, by, reason } => self.change(id, |lease, now| {
                lease.warn(format!("{by} acted on the machine: {reason}"));
                lease.note(now.wall, format!("overridden by {by}: {reason}"));
            }),
            Input::SetAside(machine, quarantine) => {
                self.keep(&machine, |kept| kept.quarantine = Some(quarantine));
            }
            Input::Clear(machine) => self.keep(&machine, |kept| kept.quarantine = None),
            Input::Tick => self.tick(),
            Input::ClockJumped => self.clock_jumped(),
        }
        Ok(self.changes)
    }

    fn ask(&mut self, lease: Lease, candidates: &[Candidate]) -> Result<(), Failure> {
        let selection = Selection::new(&lease, candidates);
        if !candidates.iter().any(|candidate| selection.includes(candidate)) {
            let detail = "No machine fits what was asked, whatever becomes free. Look: GET /v1/machines, GET /v1/pools";
            return Err(Failure::new(FailureKind::NoFreeMachine, detail));
        }
        let (id, patient) = (lease.id, lease.queue_for.is_some());
        let queued =
            self.book.leases.values().filter(|open| open.lease.state == LeaseState::Queued).count();
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
            let detail = "No machine that fits is free now. Say queue_for to wait for one, or look: GET /v1/machines";
            return Err(Failure::new(FailureKind::NoFreeMachine, detail));
        }
        Ok(())
    }

    /// Grants in order of arrival, each the machine whose last lease ended longest ago.
    fn look(&mut self, candidates: &[Candidate]) {
        let taken: BTreeSet<MachineKey> = self.held().collect();
        let queued = self.book.queued();
        let aside =
            |key: &MachineKey| self.book.kept(key).is_some_and(|kept| kept.quarantine.is_some());
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
            let selection = Selection::new(&open.lease, candidates);
            let fitting = |machine: &Candidate| {
                selection.includes(machine) && has_snapshots(&open.lease, machine)
            };
            let chosen = free.iter().position(|(_, candidate)| fitting(candidate));
            if let Some(place) = chosen {
                let (key, candidate) = free.remove(place);
                // A copy that was registered with the identity of another is kept as the same
                // machine.
                free.retain(|(other, _)| *other != key);
                self.grant(id, candidate);
            }
        }
    }

    fn grant(&mut self, id: LeaseId, candidate: &Candidate) {
        let key = MachineKey::of(&candidate.identity);
        let mut fence = 0;
        let floor = self.book.fence_floor;
        self.keep(&key, |kept| {
            kept.fence = kept.fence.max(floor) + 1;
            fence = kept.fence;
            kept.absent_since = None;
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
        let nothing_to_prepare =
            self.book.leases.get(&id).is_some_and(|open| open.lease.prepare.is_none());
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
        let left =
            self.book.leases.get(&id).is_some_and(|open| {
                open.lease.queue_for.is_some() && !open.lease.time.queue.is_zero()
            });
        if left {
            self.change(id, |lease, now| {
                lease.note(
                    now.wall,
                    format!(
                        "{machine} could not be prepared ({}); waiting for another",
                        failure.kind.code()
                    ),
                );
                lease.warn(format!("{machine} could not be prepared: {}", failure.detail));
                lease.state = LeaseState::Queued;
                (lease.machine, lease.machine_name, lease.fence, lease.job) =
                    (None, None, None, None);
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
                lease.warn(format!(
                    "The release failed, and the machine is set aside: {}",
                    failure.detail
                ));
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
        if state == LeaseState::Queued || reason == EndReason::MachineGone {
            self.close(id);
        } else {
            self.changes.then.push(Then::Release(id));
        }
    }

    /// A machine that is held stays so: what its holder runs there may need no call of otter.
    fn tokens(&mut self, standings: &BTreeMap<TokenId, TokenStanding>) {
        for id in self.book.queued() {
            let Some(open) = self.book.leases.get(&id) else { continue };
            let standing = open.lease.token.and_then(|token| standings.get(&token));
            let what = match standing {
                Some(TokenStanding::Revoked) => "was revoked",
                Some(TokenStanding::Expired) => "has expired",
                Some(TokenStanding::InForce) | None => continue,
            };
            let detail = format!("The token {} {what}.", open.lease.requested_by);
            self.end(id, EndReason::Revoked, "otter".to_owned(), Some(detail));
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

    /// Notes which machines are absent, and forgets those that have been for long. A quarantine
    /// stays, and so does what a lease needs. The fence floor rises above the forgotten fences, so
    /// that a machine that comes back gets no fence again.
    fn forget(&mut self, machines: &[MachineIdentity]) {
        let there: BTreeSet<MachineKey> = machines.iter().map(MachineKey::of).collect();
        let held: BTreeSet<MachineKey> = self.held().collect();
        let (now, retention) = (self.now.wall, self.book.rules.ledger_retention);
        let is_over = |since: Timestamp| {
            Duration::try_from(now.duration_since(since)).is_ok_and(|absent| absent >= retention)
        };
        let keys: Vec<MachineKey> = self.book.machines.keys().cloned().collect();
        for key in keys {
            let Some(kept) = self.book.kept(&key) else { continue };
            if there.contains(&key) {
                self.keep(&key, |kept| kept.absent_since = None);
            } else if kept.quarantine.is_none()
                && !held.contains(&key)
                && kept.absent_since.is_some_and(is_over)
            {
                self.book.fence_floor = self.book.fence_floor.max(kept.fence);
                self.changes.fence_floor = Some(self.book.fence_floor);
                self.book.machines.remove(&key);
                self.changes.forgotten.push(key);
            } else {
                self.keep(&key, |kept| kept.absent_since = kept.absent_since.or(Some(now)));
            }
        }
    }

    /// The machines that leases hold.
    fn held(&self) -> impl Iterator<Item = MachineKey> {
        let holding = self.book.leases.values().filter(|open| open.lease.state.holds());
        holding.filter_map(|open| open.lease.machine.as_ref().map(MachineKey::of))
    }

    /// There is nothing left to release.
    fn vanished(&mut self, id: LeaseId) {
        let reason = "it vanished from the host while it was leased, so it was not released";
        self.set_aside(id, reason);
        let releasing =
            self.book.leases.get(&id).is_some_and(|open| open.lease.state == LeaseState::Releasing);
        if !releasing {
            return self.end(id, EndReason::MachineGone, "otter".to_owned(), None);
        }
        self.change(id, |lease, _| {
            let machine = lease.machine_name.as_deref().unwrap_or("the machine");
            lease.warn(format!("{machine} is set aside: {reason}."));
        });
        self.close(id);
    }

    fn renew(&mut self, id: LeaseId, ttl: Option<Duration>) -> Result<(), Failure> {
        let Some(open) =
            self.book.leases.get(&id).filter(|open| open.lease.state == LeaseState::Active)
        else {
            let detail = "Only a lease that is active can be renewed.";
            return Err(Failure::new(FailureKind::LeaseEnded, detail));
        };
        let left = open.left(self.now.elapsed);
        // A renewal never takes time away.
        let time = ttl.unwrap_or(open.lease.ttl).min(left.total).max(left.lease);
        self.change(id, |lease, now| {
            lease.time.lease = time;
            lease.warned = false;
            lease.note(now.wall, format!("renewed: {} left", duration::format(time)));
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
                let over =
                    open.lease.state == LeaseState::Active && self.left(open).lease.is_zero();
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
                LeaseState::Active if left.lease.is_zero() => {
                    self.end(id, EndReason::Expired, otter(), None);
                }
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

    fn clock_jumped(&mut self) {
        let timed = self.book.leases.values().filter(|open| open.has_running_time());
        let ids: Vec<LeaseId> = timed.map(|open| open.lease.id).collect();
        for id in ids {
            let Some(noted) = self.noted(id) else { continue };
            self.save(id, noted);
        }
    }

    fn set_aside(&mut self, id: LeaseId, reason: &str) {
        let Some(open) = self.book.leases.get(&id) else { return };
        let Some(machine) = &open.lease.machine else { return };
        let (key, job, since) = (MachineKey::of(machine), open.lease.job, self.now.wall);
        let quarantine = Quarantine {
            reason: reason.to_owned(),
            by: "otter".to_owned(),
            since,
            automatic: true,
            job,
        };
        // What an operator said of it stays.
        self.keep(&key, |kept| {
            if kept.quarantine.as_ref().is_none_or(|quarantine| quarantine.automatic) {
                kept.quarantine = Some(quarantine);
            }
        });
    }

    fn working(&mut self, id: LeaseId, state: LeaseState, job: JobId) {
        // While nothing could be stored a preparation may have been overtaken by the release.
        if self.book.leases.get(&id).is_none_or(|open| open.lease.state != state) {
            return;
        }
        self.change(id, |lease, _| lease.job = Some(job));
    }

    /// How much is left of the times of a lease now.
    fn left(&self, open: &Open) -> TimeLeft {
        open.left(self.now.elapsed)
    }

    /// Changes a lease, with its times noted as they are now. A change that changes nothing else
    /// is none.
    fn change(&mut self, id: LeaseId, change: impl FnOnce(&mut Lease, Now)) {
        let Some(noted) = self.noted(id) else { return };
        let mut lease = noted.clone();
        change(&mut lease, self.now);
        if lease != noted {
            self.save(id, lease);
        }
    }

    /// A lease with its times noted as they are now.
    fn noted(&self, id: LeaseId) -> Option<Lease> {
        let open = self.book.leases.get(&id)?;
        let (time, noted_at) = (self.left(open), self.now.wall);
        Some(Lease { time, noted_at, ..Lease::clone(&open.lease) })
    }

    fn save(&mut self, id: LeaseId, lease: Lease) {
        let Some(open) = self.book.leases.get_mut(&id) else { return };
        (open.lease, open.noted) = (Arc::new(lease), self.now.elapsed);
        self.changes.leases.insert(id, Arc::clone(&open.lease));
    }

    /// Changes what is kept of a machine. A change that changes nothing is none.
    fn keep(&mut self, machine: &MachineKey, change: impl FnOnce(&mut Kept)) {
        let before = self.book.kept(machine).cloned().unwrap_or_default();
        let mut kept = before.clone();
        change(&mut kept);
        if kept != before {
            self.book.machines.insert(machine.clone(), kept.clone());
            self.changes.machines.insert(machine.clone(), kept);
        }
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
        EndReason::MachineGone => {
            (FailureKind::MachineGone, format!("{machine} vanished from the host."))
        }
        _ => (FailureKind::LeaseFailed, "The lease failed.".to_owned()),
    };
    Failure::new(kind, detail)
}
