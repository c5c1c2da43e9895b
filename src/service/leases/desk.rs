//! The desk: takes orders one after the other, tries each step of the book on a copy, commits what
//! it changed, and only then shows it and sets to work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::audited::{self, Cause};
use super::book::{Book, Changes, Input, Kept, MachineKey, Now, Open, Then};
use super::fit::{Candidate, Selection, wants};
use super::stepped::Stepped;
use super::{LeaseView, LeasesParts, PoolView, counted};
use crate::domain::access::{TokenLimits, TokenStanding};
use crate::domain::audit::AuditRecord;
use crate::domain::event::{EventFilter, EventType, Subject};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{LeaseId, MachineId, TokenId};
use crate::domain::lease::{Lease, LeaseState};
use crate::domain::machine::MachineIdentity;
use crate::domain::origin::Actor;
use crate::domain::scope::Scope;
use crate::hypervisor::SessionState;
use crate::service::callers::Caller;
use crate::service::idempotency::{KeyClaim, Keys};
use crate::service::jobs::clocks::{Jumps, Moment};
use crate::service::limits::{queue_full, too_many};
use crate::service::machines::MachineFilter;
use crate::service::storage_watch::write_failure;
use crate::storage::{IdempotencyKey, KeptMachine, LeaseChange, SaveLeases, StorageError};

/// While leases have time that runs, the store notes this often that otter runs. After a crash at
/// most this much of the time that passed is unknown.
const CHECKPOINT: Duration = Duration::from_secs(10);

/// How often otter looks for machines that are absent from the host.
const FORGET: Duration = Duration::from_hours(1);

/// How long to wait before what could not be done is tried again.
pub const AGAIN: Duration = Duration::from_secs(1);

/// What all clones of [`super::Leases`] share.
pub struct Desk {
    pub parts: LeasesParts,
    /// The keys of the calls that ask for leases.
    pub keys: Keys,
    orders: mpsc::Sender<Order>,
    inbox: Mutex<Option<mpsc::Receiver<Order>>>,
    /// Wakes those who wait for a lease.
    pub changed: watch::Sender<()>,
    pub stop: CancellationToken,
    /// When otter last ran, as far as that is known.
    last_seen: Option<Timestamp>,
}

/// One step to be taken, and who hears of it.
pub struct Order {
    step: Stepped,
    /// Of the key that the step is taken with. It ends once the step is committed or refused.
    claim: Option<KeyClaim>,
    actor: Actor,
    reply: Option<oneshot::Sender<Result<(), Failure>>>,
}

impl Desk {
    pub fn new(
        parts: LeasesParts,
        orders: mpsc::Sender<Order>,
        inbox: Mutex<Option<mpsc::Receiver<Order>>>,
        changed: watch::Sender<()>,
        last_seen: Option<Timestamp>,
    ) -> Self {
        let stop = parts.supervisor.stopping();
        let keys = Keys::new(Arc::clone(&parts.store));
        Self { parts, keys, orders, inbox, changed, stop, last_seen }
    }

    /// Shows what the store has kept.
    pub fn restore(
        &self,
        leases: Vec<Lease>,
        machines: BTreeMap<MachineKey, Kept>,
        fence_floor: u64,
    ) {
        let rules = self.parts.rules.clone();
        let book = Book::restored(rules, leases, machines, self.last_seen, self.now());
        self.parts.holds.show(book.with_fence_floor(fence_floor));
    }

    /// Takes a step that otter itself orders; see [`Desk::order_by`].
    pub async fn order(&self, step: Stepped) -> Result<(), Failure> {
        self.order_by(Actor::otter(), step).await
    }

    /// Takes a step that `actor` orders.
    pub async fn order_by(&self, actor: Actor, step: Stepped) -> Result<(), Failure> {
        self.order_with(None, actor, step).await
    }

    /// Takes a step that `actor` orders with a key that is claimed.
    pub async fn order_with(
        &self,
        claim: Option<KeyClaim>,
        actor: Actor,
        step: Stepped,
    ) -> Result<(), Failure> {
        let (reply, answered) = oneshot::channel();
        let stopped = || {
            Failure::new(
                FailureKind::ShuttingDown,
                "otter is shutting down; try again once it is back.",
            )
        };
        self.orders
            .send(Order { step, claim, actor, reply: Some(reply) })
            .await
            .map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Notes that somebody asked about a lease. Where the desk is too busy, whoever asks again is
    /// noted then.
    pub fn asked(&self, id: LeaseId) {
        let order =
            Order { step: Stepped::Asked(id), claim: None, actor: Actor::otter(), reply: None };
        let _ = self.orders.try_send(order);
    }

    /// Has a step taken that must not be lost: where the store refuses it, it is tried again. False
    /// where otter stops first; the next start takes up what the step was about.
    pub async fn insist(&self, step: Stepped) -> bool {
        loop {
            match self.order(step.clone()).await {
                Ok(()) => return true,
                Err(failure) if failure.kind == FailureKind::ShuttingDown => return false,
                Err(_) => tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return false,
                    () = self.parts.clock.sleep(AGAIN) => {}
                },
            }
        }
    }

    pub async fn run(desk: &Arc<Self>, stop: CancellationToken) {
        let inbox = desk.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = inbox else { return };
        let mut book = desk.parts.holds.shown().book.clone();
        Self::set_to_work(desk, book.unfinished());
        let types =
            vec![EventType::MachineChanged, EventType::MachineRemoved, EventType::SessionChanged];
        let mut changes = desk.parts.feed.follow(EventFilter { types, ..EventFilter::default() });
        let mut tokens = desk.parts.callers.changes();
        // A token may have been revoked while otter was down.
        tokens.mark_changed();
        let mut checkpoint_at = desk.parts.clock.elapsed() + CHECKPOINT;
        let mut forget_at = checkpoint_at;
        let mut jumps = Jumps::since(Moment::now(&desk.parts.clock));
        if desk.last_seen.is_some_and(|seen| desk.parts.clock.now() < seen) {
            // The stored times lie in the future. If the store refuses, the next start counts the
            // same once more.
            desk.clock_jumped(&mut book).await;
        }
        loop {
            let now = desk.parts.clock.elapsed();
            let due = book.due().map_or(checkpoint_at, |due| due.min(checkpoint_at));
            let then = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    desk.checkpoint(&mut book, &mut jumps).await;
                    return;
                }
                order = inbox.recv() => match order {
                    Some(order) => desk.take(&mut book, order).await,
                    None => return,
                },
                () = changes.more() => {
                    changes.skip();
                    desk.look(&mut book).await
                }
                Ok(()) = tokens.changed() => desk.look(&mut book).await,
                () = desk.parts.clock.sleep(due.saturating_sub(now)) => {
                    if desk.parts.clock.elapsed() >= checkpoint_at {
                        let reached = desk.parts.clock.elapsed();
                        checkpoint_at = reached + CHECKPOINT;
                        desk.checkpoint(&mut book, &mut jumps).await;
                        if reached >= forget_at && desk.forget(&mut book).await {
                            forget_at = reached + FORGET;
                        }
                        // What was asked while that took its time counts before anybody is dropped.
                        desk.look(&mut book).await
                    } else {
                        desk.tick(&mut book).await
                    }
                }
            };
            Self::set_to_work(desk, then);
        }
    }

    /// A lease that has not ended, as readers see it.
    #[must_use]
    pub fn view(&self, id: LeaseId) -> Option<LeaseView> {
        let shown = self.parts.holds.shown();
        let open = shown.book.get(id)?;
        let (expires_at, max_expires_at) = open.ends().unzip();
        let position = shown.book.position(id);
        Some(LeaseView { lease: Arc::clone(&open.lease), position, expires_at, max_expires_at })
    }

    /// Refuses a lease that no machine can ever fit, and one for whose preparation and release no
    /// machine that fits has the snapshots.
    ///
    /// # Errors
    /// `no-free-machine` and `not-found`, each with what is missing; `ambiguous-name` if
    /// `select.machine` names several machines.
    fn can_ever_be_granted(&self, lease: &Lease, candidates: &[Candidate]) -> Result<(), Failure> {
        self.parts.machines.picture()?;
        if let Some(reference) = &lease.select.machine
            && let Err(failure) = self.parts.machines.referenced(&lease.scope, reference)
            && failure.kind == FailureKind::AmbiguousName
        {
            return Err(failure);
        }
        let (mut why, mut fitting) = (None, false);
        let selection = Selection::new(lease, candidates);
        for candidate in candidates.iter().filter(|machine| selection.includes(machine)) {
            fitting = true;
            let Some(lacks) = candidate.lacks.iter().next() else { return Ok(()) };
            let Some(view) = self.parts.machines.get(&candidate.identity.id) else { continue };
            why = why.or(self.parts.machines.snapshot(&view, lacks).err());
        }
        if !fitting {
            return Err(self.parts.machines.why_none_fits(&lease.scope, &lease.select)?);
        }
        why.map_or(Ok(()), Err)
    }

    /// Every pool that exists for a caller, by name: with a restricted scope those with a machine
    /// in it.
    pub fn pools(&self, caller: &Caller) -> Result<Vec<PoolView>, Failure> {
        self.parts.machines.picture()?;
        let shown = self.parts.holds.shown();
        let configured = self.parts.pools.0.keys().filter(|_| !caller.scope.is_restricted());
        let mut pools: BTreeMap<String, PoolView> =
            configured.map(|name| (name.clone(), PoolView::empty(name))).collect();
        let in_scope =
            |candidate: &Candidate| caller.scope.contains(&candidate.name, &candidate.pools);
        for candidate in self.candidates([]).into_iter().filter(in_scope) {
            let held = shown.holder_of(&candidate.identity).is_some();
            let aside = shown
                .book
                .kept(&MachineKey::of(&candidate.identity))
                .is_some_and(|kept| kept.quarantine.is_some());
            for name in &candidate.pools {
                let pool = pools.entry(name.clone()).or_insert_with(|| PoolView::empty(name));
                pool.machines += 1;
                pool.held += usize::from(held);
                pool.quarantined += usize::from(aside);
                pool.free += usize::from(candidate.free && !candidate.never && !held && !aside);
            }
        }
        let visibility = self.parts.machines.visibility();
        let waits = |open: &&Open| {
            open.lease.state == LeaseState::Queued && visibility.shows_lease(caller, &open.lease)
        };
        for open in shown.book.open().filter(waits) {
            if let Some(pool) = open.lease.select.pool.as_ref().and_then(|pool| pools.get_mut(pool))
            {
                pool.waiting += 1;
            }
        }
        Ok(pools.into_values().collect())
    }

    /// Takes one order, and tells whoever gave it.
    async fn take(&self, book: &mut Book, order: Order) -> Vec<Then> {
        let Order { step, claim, actor, reply } = order;
        let taken = self.taken(book, step, &actor).await;
        drop(claim);
        let (answer, then) = match taken {
            Ok(then) => (Ok(()), then),
            Err(failure) => (Err(failure), Vec::new()),
        };
        if let Some(reply) = reply {
            // A caller that went away needs no answer; what it asked for stands.
            drop(reply.send(answer));
        }
        then
    }

    async fn taken(
        &self,
        book: &mut Book,
        step: Stepped,
        actor: &Actor,
    ) -> Result<Vec<Then>, Failure> {
        if let Stepped::Asked(id) = step {
            // Nothing to be kept or shown: those who poll cost no more than this.
            book.asked(id, self.now());
            return Ok(Vec::new());
        }
        if let Stepped::Ask { lease, key, limits } = step {
            self.end_refused(book).await?;
            let candidates = self.candidates(book.waiting().chain([&*lease]));
            self.can_ever_be_granted(&lease, &candidates)?;
            within_limits(book, &lease, limits)?;
            let key = key.map(|key| (key, lease.id));
            let asked = |book: &mut Book, now: Now, candidates: &[Candidate]| {
                book.step(Input::Ask(lease.clone(), candidates), now)
            };
            let cause = Cause { actor, renews: None };
            return self.step(book, cause, key, candidates, asked).await;
        }
        // How a job ended was told once the picture had caught up: a machine that is gone by then
        // fails no preparation.
        if matches!(step, Stepped::Prepared(..) | Stepped::Freed(..)) && self.sees() {
            self.miss(book).await?;
        }
        let failed = counted::failure(book, &step);
        let renews = if let Stepped::Renew(id, _) = &step { Some(*id) } else { None };
        let cause = Cause { actor, renews };
        let ordered = |book: &mut Book, now: Now, _: &[Candidate]| book.step(step.input(), now);
        let then = self.step(book, cause, None, Vec::new(), ordered).await?;
        if let Some(count) = failed {
            count(self.parts.metrics.leases());
        }
        if let Stepped::SetAside(_, _, machine) | Stepped::Clear(_, machine) = &step {
            self.parts.inventory.wake_watchers(machine);
        }
        let more = if step.may_free_a_machine() { self.look(book).await } else { Vec::new() };
        Ok(then.into_iter().chain(more).collect())
    }

    /// Ends what no caller is admitted for, grants what may be granted, and finds out which
    /// machines are gone.
    async fn look(&self, book: &mut Book) -> Vec<Then> {
        // If a lease cannot be ended, it must not be granted either.
        if self.end_refused(book).await.is_err() || !self.sees() {
            return Vec::new();
        }
        let gone = self.miss(book).await;
        if !book.anyone_waits() {
            return gone.unwrap_or_default();
        }
        let candidates = self.candidates(book.waiting());
        let look = |book: &mut Book, now: Now, candidates: &[Candidate]| {
            book.step(Input::Look(candidates), now)
        };
        let granted = self.step(book, by_otter(), None, candidates, look).await;
        // If the store refused it, nothing happened; the next change or checkpoint tries again.
        [gone, granted].into_iter().flatten().flatten().collect()
    }

    /// Ends the queued leases whose token was revoked or has expired.
    async fn end_refused(&self, book: &mut Book) -> Result<(), Failure> {
        let tokens: BTreeSet<TokenId> = book.waiting().filter_map(|lease| lease.token).collect();
        let standing = |token| (token, self.parts.callers.standing(token));
        let standings: BTreeMap<TokenId, TokenStanding> =
            tokens.into_iter().map(standing).collect();
        if standings.values().all(|standing| *standing == TokenStanding::InForce) {
            return Ok(());
        }
        let end =
            |book: &mut Book, now: Now, _: &[Candidate]| book.step(Input::Tokens(&standings), now);
        self.step(book, by_otter(), None, Vec::new(), end).await.map(drop)
    }

    /// Whether the picture is the host as it is.
    fn sees(&self) -> bool {
        self.parts.inventory.session().state == SessionState::Connected
            && self.parts.inventory.picture().loaded
    }

    /// Finds out which machines are gone.
    async fn miss(&self, book: &mut Book) -> Result<Vec<Then>, Failure> {
        let there = self.machines_there();
        let miss =
            |book: &mut Book, now: Now, _: &[Candidate]| book.step(Input::Machines(&there), now);
        self.step(book, by_otter(), None, Vec::new(), miss).await
    }

    async fn tick(&self, book: &mut Book) -> Vec<Then> {
        let tick = |book: &mut Book, now: Now, _: &[Candidate]| book.step(Input::Tick, now);
        let Ok(mut then) = self.step(book, by_otter(), None, Vec::new(), tick).await else {
            // The storage failed: nothing happened, and it is tried again.
            self.parts.clock.sleep(AGAIN).await;
            return Vec::new();
        };
        then.extend(self.look(book).await);
        then
    }

    /// Notes that otter runs, for a start after a crash: one statement, however many leases there
    /// are. After a jump of the wall clock first computes the stored and shown times again.
    async fn checkpoint(&self, book: &mut Book, jumps: &mut Jumps) {
        if !book.has_running_time() {
            return;
        }
        let now = Moment::now(&self.parts.clock);
        let mut found = jumps.clone();
        if found.find(now).is_some() && !self.clock_jumped(book).await {
            // The next checkpoint finds the jump again.
            return;
        }
        *jumps = found;
        // The store logged the refusal, which costs some time of the leases after a crash.
        let _ = self.parts.store.note_seen(now.wall).await;
    }

    /// Forgets machines that are absent from the host for long. Returns whether that was done.
    async fn forget(&self, book: &mut Book) -> bool {
        if !self.sees() {
            return false;
        }
        let there = self.machines_there();
        let forget =
            |book: &mut Book, now: Now, _: &[Candidate]| book.step(Input::Forget(&there), now);
        self.step(book, by_otter(), None, Vec::new(), forget).await.is_ok()
    }

    fn machines_there(&self) -> Vec<MachineIdentity> {
        self.parts
            .inventory
            .picture()
            .machines
            .iter()
            .map(|record| record.machine.identity())
            .collect()
    }

    /// Stores and shows the times of the leases by the wall clock as it is now. Returns whether
    /// the store took them.
    async fn clock_jumped(&self, book: &mut Book) -> bool {
        let jumped =
            |book: &mut Book, now: Now, _: &[Candidate]| book.step(Input::ClockJumped, now);
        self.step(book, by_otter(), None, Vec::new(), jumped).await.is_ok()
    }

    /// One step: tried on a copy, committed, shown, told. Where it fails nothing happened.
    async fn step(
        &self,
        book: &mut Book,
        cause: Cause<'_>,
        key: Option<(IdempotencyKey, LeaseId)>,
        mut candidates: Vec<Candidate>,
        change: impl Fn(&mut Book, Now, &[Candidate]) -> Result<Changes, Failure>,
    ) -> Result<Vec<Then>, Failure> {
        loop {
            let mut next = book.clone();
            let changes = change(&mut next, self.now(), &candidates)?;
            let granted = granted(book, &changes);
            let taking = self.parts.holds.take(&granted);
            let busy: BTreeSet<&MachineId> =
                granted.iter().filter(|machine| self.parts.jobs.any_on(machine)).collect();
            if !busy.is_empty() {
                // A job came in at this very moment: the machine is not free after all.
                for candidate in &mut candidates {
                    candidate.free &= !busy.contains(&candidate.identity.id);
                }
                continue;
            }
            if !changes.is_empty() {
                let audit = self.audit(book, &changes, cause);
                self.commit(&changes, key, audit).await.map_err(|error| write_failure(&error))?;
            }
            let before = std::mem::replace(book, next);
            self.parts.holds.show(book.clone());
            drop(taking);
            counted::step(&self.parts.metrics, &before, &changes);
            self.tell(&before, &changes);
            return Ok(changes.then);
        }
    }

    async fn commit(
        &self,
        changes: &Changes,
        key: Option<(IdempotencyKey, LeaseId)>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        let leases = changes.leases.values().map(|lease| {
            let machine = lease.machine.as_ref().map(MachineKey::of);
            LeaseChange::new(lease.clone(), machine.map(|machine| machine.0))
        });
        let machines = changes
            .machines
            .iter()
            .map(|(machine, kept)| (machine.0.clone(), KeptMachine::from(kept)));
        let step = SaveLeases {
            leases: leases.collect(),
            machines: machines.collect(),
            forgotten: changes.forgotten.iter().map(|machine| machine.0.clone()).collect(),
            fence_floor: changes.fence_floor.unwrap_or_default(),
            key,
            audit,
        };
        self.parts.store.save_leases(step).await
    }

    /// The audit facts of a step.
    fn audit(&self, before: &Book, changes: &Changes, cause: Cause<'_>) -> Vec<AuditRecord> {
        let picture = self.parts.inventory.picture();
        let machine_of = |key: &MachineKey| {
            let machines = picture.machines.iter().map(|record| &record.machine);
            let found =
                machines.into_iter().find(|machine| MachineKey::of(&machine.identity()) == *key);
            found.map(|machine| (machine.id.clone(), machine.name.clone()))
        };
        audited::records(before, changes, cause, self.parts.clock.now(), machine_of)
    }

    /// Tells readers what changed, once it can be read.
    fn tell(&self, before: &Book, changes: &Changes) {
        if changes.is_empty() {
            return;
        }
        let mut machines = BTreeSet::new();
        for (id, lease) in &changes.leases {
            let was = before.get(*id).and_then(|open| open.lease.machine.as_ref());
            machines.extend(
                [was, lease.machine.as_ref()]
                    .into_iter()
                    .flatten()
                    .map(|machine| machine.id.clone()),
            );
        }
        self.parts.feed.publish(changes.leases.values().map(Subject::of_lease));
        for machine in machines {
            self.parts.inventory.wake_watchers(&machine);
        }
        self.changed.send_replace(());
    }

    /// Every machine, whether it may be granted now, and what it lacks for these leases: none may
    /// while the host is away.
    fn candidates<'l>(&self, leases: impl IntoIterator<Item = &'l Lease>) -> Vec<Candidate> {
        let wanted: BTreeSet<&String> = leases.into_iter().flat_map(wants).collect();
        let connected = self.parts.inventory.session().state == SessionState::Connected;
        let views =
            self.parts.machines.list(&Scope::All, &MachineFilter::default()).unwrap_or_default();
        let candidates = views.into_iter().map(|view| {
            let machine = &view.record.machine;
            // Of leases and quarantines the book knows itself, and before all others.
            let free = connected
                && view
                    .not_free_because
                    .iter()
                    .all(|reason| matches!(*reason, "leased" | "quarantined"));
            Candidate::of(
                machine,
                view.pools.clone(),
                free,
                view.protected || machine.template,
                &wanted,
            )
        });
        candidates.collect()
    }

    fn now(&self) -> Now {
        Now { wall: self.parts.clock.now(), elapsed: self.parts.clock.elapsed() }
    }
}

/// Refuses a lease that exceeds the limits of the caller's token.
fn within_limits(book: &Book, lease: &Lease, limits: TokenLimits) -> Result<(), Failure> {
    let has = |counts: &dyn Fn(&Lease) -> bool, most: Option<u32>| {
        most.filter(|most| {
            let own = book.open().filter(|open| open.lease.requested_by == lease.requested_by);
            own.filter(|open| counts(&open.lease)).count() >= *most as usize
        })
    };
    if let Some(most) = has(&|_| true, limits.leases) {
        return Err(too_many(&lease.requested_by, &format!("{most} open leases")));
    }
    let waits = |lease: &Lease| lease.state == LeaseState::Queued;
    match has(&waits, limits.queued_leases.filter(|_| lease.queue_for.is_some())) {
        Some(most) => Err(queue_full(&lease.requested_by, &format!("{most} queued leases"))),
        None => Ok(()),
    }
}

/// The machines that a step would give to somebody.
fn granted(before: &Book, changes: &Changes) -> Vec<MachineId> {
    let new = changes.leases.values().filter(|lease| {
        let held_before =
            before.get(lease.id).is_some_and(|open| open.lease.grants == lease.grants);
        lease.state.holds() && !held_before
    });
    new.filter_map(|lease| lease.machine.as_ref().map(|machine| machine.id.clone())).collect()
}

/// The cause of a step that time or the host brings about.
fn by_otter() -> Cause<'static> {
    static OTTER: LazyLock<Actor> = LazyLock::new(Actor::otter);
    Cause { actor: &OTTER, renews: None }
}

impl PoolView {
    fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), machines: 0, free: 0, held: 0, quarantined: 0, waiting: 0 }
    }
}

impl From<KeptMachine> for Kept {
    fn from(kept: KeptMachine) -> Self {
        let KeptMachine { fence, last_lease_end, quarantine, absent_since } = kept;
        Self { fence, last_end: last_lease_end, quarantine, absent_since }
    }
}

impl From<&Kept> for KeptMachine {
    fn from(kept: &Kept) -> Self {
        let Kept { fence, last_end, quarantine, absent_since } = kept.clone();
        Self { fence, last_lease_end: last_end, quarantine, absent_since }
    }
}
