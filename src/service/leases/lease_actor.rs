//! The lease actor: takes orders one after the other, tries each step of the table on a copy, commits what
//! it changed, and only then shows it and sets to work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::audit_records::{self, Cause};
use super::command::LeaseCommand;
use super::lease_table::{
    FollowUp, LeaseInput, LeaseTable, MachineKey, MachineLedger, OpenLease, TableChanges,
};
use super::matching::{CandidateMachine, Selection, required_snapshots};
use super::{LeaseView, LeasesParts, PoolView, metrics};
use crate::domain::access::{TokenLimits, TokenStatus};
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
use crate::service::idempotency::{IdempotencyKeys, KeyClaim};
use crate::service::jobs::clocks::{Jumps, Moment};
use crate::service::limits::{queue_full, too_many};
use crate::service::machines::{MachineFilter, NotFreeReason};
use crate::service::storage_watch::write_failure;
use crate::storage::{ChangedLease, IdempotencyKey, LeaseTransaction, StorageError, StoredMachine};

/// While leases have time that runs, the store notes this often that otter runs. After a crash at
/// most this much of the time that passed is unknown.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// How often otter looks for machines that are absent from the host.
const FORGET_INTERVAL: Duration = Duration::from_hours(1);

/// How long to wait before what could not be done is tried again.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What all clones of [`super::Leases`] share.
pub struct LeaseActor {
    pub parts: LeasesParts,
    /// The keys of the calls that ask for leases.
    pub keys: IdempotencyKeys,
    commands: mpsc::Sender<SubmittedCommand>,
    receiver: Mutex<Option<mpsc::Receiver<SubmittedCommand>>>,
    /// Wakes those who wait for a lease.
    pub changed: watch::Sender<()>,
    pub stop: CancellationToken,
    /// When otter last ran, as far as that is known.
    last_seen: Option<Timestamp>,
}

/// One step to be taken, and who hears of it.
pub struct SubmittedCommand {
    command: LeaseCommand,
    /// Of the key that the step is taken with. It ends once the step is committed or refused.
    claim: Option<KeyClaim>,
    actor: Actor,
    reply: Option<oneshot::Sender<Result<(), Failure>>>,
}

impl LeaseActor {
    pub fn new(
        parts: LeasesParts,
        commands: mpsc::Sender<SubmittedCommand>,
        receiver: Mutex<Option<mpsc::Receiver<SubmittedCommand>>>,
        changed: watch::Sender<()>,
        last_seen: Option<Timestamp>,
    ) -> Self {
        let stop = parts.supervisor.shutdown_token();
        let keys = IdempotencyKeys::new(Arc::clone(&parts.store));
        Self { parts, keys, commands, receiver, changed, stop, last_seen }
    }

    /// Shows what the store has kept.
    pub fn restore(
        &self,
        leases: Vec<Lease>,
        ledgers: BTreeMap<MachineKey, MachineLedger>,
        fence_floor: u64,
    ) {
        let rules = self.parts.rules.clone();
        let table = LeaseTable::from_stored(rules, leases, ledgers, self.last_seen, self.now());
        self.parts.published.publish(table.with_fence_floor(fence_floor));
    }

    /// Takes a step that otter itself orders; see [`LeaseActor::submit_as`].
    pub async fn submit(&self, command: LeaseCommand) -> Result<(), Failure> {
        self.submit_as(Actor::otter(), command).await
    }

    /// Takes a step that `actor` orders.
    pub async fn submit_as(&self, actor: Actor, command: LeaseCommand) -> Result<(), Failure> {
        self.submit_with_claim(None, actor, command).await
    }

    /// Takes a step that `actor` orders with a key that is claimed.
    pub async fn submit_with_claim(
        &self,
        claim: Option<KeyClaim>,
        actor: Actor,
        command: LeaseCommand,
    ) -> Result<(), Failure> {
        let (reply, answered) = oneshot::channel();
        let stopped = || {
            Failure::new(
                FailureKind::ShuttingDown,
                "otter is shutting down; try again once it is back.",
            )
        };
        self.commands
            .send(SubmittedCommand { command, claim, actor, reply: Some(reply) })
            .await
            .map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())?
    }

    /// Notes that somebody asked about a lease. Where the actor is too busy, whoever asks again is
    /// noted then.
    pub fn record_poll(&self, id: LeaseId) {
        let command = SubmittedCommand {
            command: LeaseCommand::RecordPoll(id),
            claim: None,
            actor: Actor::otter(),
            reply: None,
        };
        let _ = self.commands.try_send(command);
    }

    /// Has a step taken that must not be lost: where the store refuses it, it is tried again. False
    /// where otter stops first; the next start takes up what the step was about.
    pub async fn submit_with_retry(&self, command: LeaseCommand) -> bool {
        loop {
            match self.submit(command.clone()).await {
                Ok(()) => return true,
                Err(failure) if failure.kind == FailureKind::ShuttingDown => return false,
                Err(_) => tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return false,
                    () = self.parts.clock.sleep(RETRY_DELAY) => {}
                },
            }
        }
    }

    pub async fn run(this: &Arc<Self>, stop: CancellationToken) {
        let receiver = this.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut receiver) = receiver else { return };
        let mut table = this.parts.published.load().table.clone();
        Self::spawn_follow_ups(this, table.unfinished_work());
        let types =
            vec![EventType::MachineChanged, EventType::MachineRemoved, EventType::SessionChanged];
        let mut changes =
            this.parts.event_stream.subscribe(EventFilter { types, ..EventFilter::default() });
        let mut tokens = this.parts.callers.changes();
        // A token may have been revoked while otter was down.
        tokens.mark_changed();
        let mut checkpoint_at = this.parts.clock.elapsed() + CHECKPOINT_INTERVAL;
        let mut forget_at = checkpoint_at;
        let mut jumps = Jumps::since(Moment::now(&this.parts.clock));
        if this.last_seen.is_some_and(|seen| this.parts.clock.now() < seen) {
            // The stored times lie in the future. If the store refuses, the next start counts the
            // same once more.
            this.clock_jumped(&mut table).await;
        }
        loop {
            let now = this.parts.clock.elapsed();
            let due = table.next_due().map_or(checkpoint_at, |due| due.min(checkpoint_at));
            let follow_ups = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    this.checkpoint(&mut table, &mut jumps).await;
                    return;
                }
                command = receiver.recv() => match command {
                    Some(command) => this.handle(&mut table, command).await,
                    None => return,
                },
                () = changes.wait_for_more() => {
                    changes.skip_unread();
                    this.reevaluate(&mut table).await
                }
                Ok(()) = tokens.changed() => this.reevaluate(&mut table).await,
                () = this.parts.clock.sleep(due.saturating_sub(now)) => {
                    if this.parts.clock.elapsed() >= checkpoint_at {
                        let reached = this.parts.clock.elapsed();
                        checkpoint_at = reached + CHECKPOINT_INTERVAL;
                        this.checkpoint(&mut table, &mut jumps).await;
                        if reached >= forget_at && this.forget_absent_machines(&mut table).await {
                            forget_at = reached + FORGET_INTERVAL;
                        }
                        // What was asked while that took its time counts before anybody is dropped.
                        this.reevaluate(&mut table).await
                    } else {
                        this.expire_due(&mut table).await
                    }
                }
            };
            Self::spawn_follow_ups(this, follow_ups);
        }
    }

    /// A lease that has not ended, as readers see it.
    #[must_use]
    pub fn view(&self, id: LeaseId) -> Option<LeaseView> {
        let state = self.parts.published.load();
        let open = state.table.get(id)?;
        let (expires_at, max_expires_at) = open.expiry().unzip();
        let position = state.table.position(id);
        Some(LeaseView { lease: Arc::clone(&open.lease), position, expires_at, max_expires_at })
    }

    /// Refuses a lease that no machine can ever fit, and one for whose preparation and release no
    /// machine that fits has the snapshots.
    ///
    /// # Errors
    /// `no-free-machine` and `not-found`, each with what is missing; `ambiguous-name` if
    /// `select.machine` names several machines.
    fn check_grantable(
        &self,
        lease: &Lease,
        candidates: &[CandidateMachine],
    ) -> Result<(), Failure> {
        self.parts.machines.contents()?;
        if let Some(reference) = &lease.select.machine
            && let Err(failure) = self.parts.machines.resolve_reference(&lease.scope, reference)
            && failure.kind == FailureKind::AmbiguousName
        {
            return Err(failure);
        }
        let (mut missing_snapshot, mut is_any_selected) = (None, false);
        let selection = Selection::new(lease, candidates);
        for candidate in candidates.iter().filter(|machine| selection.includes(machine)) {
            is_any_selected = true;
            let Some(missing) = candidate.missing_snapshots.iter().next() else { return Ok(()) };
            let Some(view) = self.parts.machines.get(&candidate.identity.id) else { continue };
            missing_snapshot =
                missing_snapshot.or(self.parts.machines.snapshot(&view, missing).err());
        }
        if !is_any_selected {
            return Err(self.parts.machines.why_none_fits(&lease.scope, &lease.select)?);
        }
        missing_snapshot.map_or(Ok(()), Err)
    }

    /// Every pool that exists for a caller, by name: with a restricted scope those with a machine
    /// in it.
    pub fn pools(&self, caller: &Caller) -> Result<Vec<PoolView>, Failure> {
        self.parts.machines.contents()?;
        let state = self.parts.published.load();
        let configured = self.parts.pools.0.keys().filter(|_| !caller.scope.is_restricted());
        let mut pools: BTreeMap<String, PoolView> =
            configured.map(|name| (name.clone(), PoolView::empty(name))).collect();
        let in_scope =
            |candidate: &CandidateMachine| caller.scope.contains(&candidate.name, &candidate.pools);
        for candidate in self.candidates([]).into_iter().filter(in_scope) {
            let held = state.holder_of(&candidate.identity).is_some();
            let quarantined = state
                .table
                .ledger(&MachineKey::from_identity(&candidate.identity))
                .is_some_and(|ledger| ledger.quarantine.is_some());
            for name in &candidate.pools {
                let pool = pools.entry(name.clone()).or_insert_with(|| PoolView::empty(name));
                pool.machines += 1;
                pool.held += usize::from(held);
                pool.quarantined += usize::from(quarantined);
                pool.free +=
                    usize::from(candidate.free && !candidate.excluded && !held && !quarantined);
            }
        }
        let visibility = self.parts.machines.visibility();
        let waits = |open: &&OpenLease| {
            open.lease.state == LeaseState::Queued && visibility.shows_lease(caller, &open.lease)
        };
        for open in state.table.open_leases().filter(waits) {
            if let Some(pool) = open.lease.select.pool.as_ref().and_then(|pool| pools.get_mut(pool))
            {
                pool.waiting += 1;
            }
        }
        Ok(pools.into_values().collect())
    }

    /// Takes one order, and tells whoever gave it.
    async fn handle(&self, table: &mut LeaseTable, submitted: SubmittedCommand) -> Vec<FollowUp> {
        let SubmittedCommand { command, claim, actor, reply } = submitted;
        let handled = self.apply_command(table, command, &actor).await;
        drop(claim);
        let (answer, follow_ups) = match handled {
            Ok(follow_ups) => (Ok(()), follow_ups),
            Err(failure) => (Err(failure), Vec::new()),
        };
        if let Some(reply) = reply {
            // A caller that went away needs no answer; what it asked for stands.
            drop(reply.send(answer));
        }
        follow_ups
    }

    async fn apply_command(
        &self,
        table: &mut LeaseTable,
        command: LeaseCommand,
        actor: &Actor,
    ) -> Result<Vec<FollowUp>, Failure> {
        if let LeaseCommand::RecordPoll(id) = command {
            // Nothing to be kept or shown: those who poll cost no more than this.
            table.record_poll(id, self.now());
            return Ok(Vec::new());
        }
        if let LeaseCommand::Request { lease, key, limits } = command {
            self.end_leases_of_invalid_tokens(table).await?;
            let candidates = self.candidates(table.queued_leases().chain([&*lease]));
            self.check_grantable(&lease, &candidates)?;
            check_token_limits(table, &lease, limits)?;
            let key = key.map(|key| (key, lease.id));
            let request = |table: &mut LeaseTable, now: Moment, candidates: &[CandidateMachine]| {
                table.apply(LeaseInput::Request(lease.clone(), candidates), now)
            };
            let cause = Cause { actor, renews: None };
            return self.commit(table, cause, key, candidates, request).await;
        }
        // How a job ended was told once the inventory had caught up: a machine that is gone by then
        // fails no preparation.
        if matches!(command, LeaseCommand::PrepareFinished(..) | LeaseCommand::ReleaseFinished(..))
            && self.is_inventory_current()
        {
            self.detect_absent_machines(table).await?;
        }
        let failure_counter = metrics::failure_counter(table, &command);
        let renews = if let LeaseCommand::Renew(id, _) = &command { Some(*id) } else { None };
        let cause = Cause { actor, renews };
        let apply = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(command.input(), now)
        };
        let follow_ups = self.commit(table, cause, None, Vec::new(), apply).await?;
        if let Some(count) = failure_counter {
            count(self.parts.metrics.leases());
        }
        if let LeaseCommand::QuarantineMachine(_, _, machine)
        | LeaseCommand::ClearQuarantine(_, machine) = &command
        {
            self.parts.inventory.wake_watchers(machine);
        }
        let more =
            if command.may_free_a_machine() { self.reevaluate(table).await } else { Vec::new() };
        Ok(follow_ups.into_iter().chain(more).collect())
    }

    /// Ends what no caller is admitted for, grants what may be granted, and finds out which
    /// machines are gone.
    async fn reevaluate(&self, table: &mut LeaseTable) -> Vec<FollowUp> {
        // If a lease cannot be ended, it must not be granted either.
        if self.end_leases_of_invalid_tokens(table).await.is_err() || !self.is_inventory_current() {
            return Vec::new();
        }
        let gone = self.detect_absent_machines(table).await;
        if !table.has_queued_leases() {
            return gone.unwrap_or_default();
        }
        let candidates = self.candidates(table.queued_leases());
        let grant = |table: &mut LeaseTable, now: Moment, candidates: &[CandidateMachine]| {
            table.apply(LeaseInput::GrantQueued(candidates), now)
        };
        let granted = self.commit(table, caused_by_otter(), None, candidates, grant).await;
        // If the store refused it, nothing happened; the next change or checkpoint tries again.
        [gone, granted].into_iter().flatten().flatten().collect()
    }

    /// Ends the queued leases whose token was revoked or has expired.
    async fn end_leases_of_invalid_tokens(&self, table: &mut LeaseTable) -> Result<(), Failure> {
        let tokens: BTreeSet<TokenId> =
            table.queued_leases().filter_map(|lease| lease.token).collect();
        let standing = |token| (token, self.parts.callers.standing(token));
        let standings: BTreeMap<TokenId, TokenStatus> = tokens.into_iter().map(standing).collect();
        if standings.values().all(|standing| *standing == TokenStatus::Valid) {
            return Ok(());
        }
        let end = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::TokenStandings(&standings), now)
        };
        self.commit(table, caused_by_otter(), None, Vec::new(), end).await.map(drop)
    }

    /// Whether the inventory is the host as it is.
    fn is_inventory_current(&self) -> bool {
        self.parts.inventory.session().state == SessionState::Connected
            && self.parts.inventory.contents().loaded
    }

    /// Finds out which machines are gone.
    async fn detect_absent_machines(
        &self,
        table: &mut LeaseTable,
    ) -> Result<Vec<FollowUp>, Failure> {
        let present = self.present_machines();
        let detect = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::MachinesPresent(&present), now)
        };
        self.commit(table, caused_by_otter(), None, Vec::new(), detect).await
    }

    async fn expire_due(&self, table: &mut LeaseTable) -> Vec<FollowUp> {
        let expire = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::TimePassed, now)
        };
        let Ok(mut follow_ups) =
            self.commit(table, caused_by_otter(), None, Vec::new(), expire).await
        else {
            // The storage failed: nothing happened, and it is tried again.
            self.parts.clock.sleep(RETRY_DELAY).await;
            return Vec::new();
        };
        follow_ups.extend(self.reevaluate(table).await);
        follow_ups
    }

    /// Notes that otter runs, for a start after a crash: one statement, however many leases there
    /// are. After a jump of the wall clock first computes the stored and shown times again.
    async fn checkpoint(&self, table: &mut LeaseTable, jumps: &mut Jumps) {
        if !table.has_running_time() {
            return;
        }
        let now = Moment::now(&self.parts.clock);
        let mut found = jumps.clone();
        if found.find(now).is_some() && !self.clock_jumped(table).await {
            // The next checkpoint finds the jump again.
            return;
        }
        *jumps = found;
        // The store logged the refusal, which costs some time of the leases after a crash.
        let _ = self.parts.store.record_last_seen(now.wall).await;
    }

    /// Forgets machines that are absent from the host for long. Returns whether that was done.
    async fn forget_absent_machines(&self, table: &mut LeaseTable) -> bool {
        if !self.is_inventory_current() {
            return false;
        }
        let present = self.present_machines();
        let forget = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::ForgetAbsentMachines(&present), now)
        };
        self.commit(table, caused_by_otter(), None, Vec::new(), forget).await.is_ok()
    }

    fn present_machines(&self) -> Vec<MachineIdentity> {
        self.parts.inventory.contents().machines.iter().map(|machine| machine.identity()).collect()
    }

    /// Stores and shows the times of the leases by the wall clock as it is now. Returns whether
    /// the store took them.
    async fn clock_jumped(&self, table: &mut LeaseTable) -> bool {
        let jumped = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::ClockJumped, now)
        };
        self.commit(table, caused_by_otter(), None, Vec::new(), jumped).await.is_ok()
    }

    /// One step: tried on a copy, committed, shown, told. Where it fails nothing happened.
    async fn commit(
        &self,
        table: &mut LeaseTable,
        cause: Cause<'_>,
        key: Option<(IdempotencyKey, LeaseId)>,
        mut candidates: Vec<CandidateMachine>,
        change: impl Fn(&mut LeaseTable, Moment, &[CandidateMachine]) -> Result<TableChanges, Failure>,
    ) -> Result<Vec<FollowUp>, Failure> {
        loop {
            let mut next = table.clone();
            let changes = change(&mut next, self.now(), &candidates)?;
            let granted = granted_machines(table, &changes);
            let reservation = self.parts.published.reserve(&granted);
            let busy: BTreeSet<&MachineId> =
                granted.iter().filter(|machine| self.parts.jobs.has_any_on(machine)).collect();
            if !busy.is_empty() {
                // A job came in at this very moment: the machine is not free after all.
                for candidate in &mut candidates {
                    candidate.free &= !busy.contains(&candidate.identity.id);
                }
                continue;
            }
            if !changes.is_empty() {
                let audit = self.audit_records(table, &changes, cause);
                self.store_changes(&changes, key, audit)
                    .await
                    .map_err(|error| write_failure(&error))?;
            }
            let before = std::mem::replace(table, next);
            self.parts.published.publish(table.clone());
            drop(reservation);
            metrics::record_transition(&self.parts.metrics, &before, &changes);
            self.publish_changes(&before, &changes);
            return Ok(changes.follow_ups);
        }
    }

    async fn store_changes(
        &self,
        changes: &TableChanges,
        key: Option<(IdempotencyKey, LeaseId)>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        let leases = changes.leases.values().map(|lease| {
            let machine = lease.machine.as_ref().map(MachineKey::from_identity);
            ChangedLease::new(lease.clone(), machine.map(|machine| machine.0))
        });
        let ledgers = changes
            .ledgers
            .iter()
            .map(|(machine, ledger)| (machine.0.clone(), StoredMachine::from(ledger)));
        let step = LeaseTransaction {
            leases: leases.collect(),
            machines: ledgers.collect(),
            deleted_machines: changes.forgotten.iter().map(|machine| machine.0.clone()).collect(),
            fence_floor: changes.fence_floor.unwrap_or_default(),
            key,
            audit,
        };
        self.parts.store.save_leases(step).await
    }

    /// The audit facts of a step.
    fn audit_records(
        &self,
        before: &LeaseTable,
        changes: &TableChanges,
        cause: Cause<'_>,
    ) -> Vec<AuditRecord> {
        let contents = self.parts.inventory.contents();
        let machine_of = |key: &MachineKey| {
            let found = contents
                .machines
                .iter()
                .find(|machine| MachineKey::from_identity(&machine.identity()) == *key);
            found.map(|machine| (machine.id.clone(), machine.name.clone()))
        };
        audit_records::for_transition(before, changes, cause, self.parts.clock.now(), machine_of)
    }

    /// Tells readers what changed, once it can be read.
    fn publish_changes(&self, before: &LeaseTable, changes: &TableChanges) {
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
        self.parts.event_stream.publish(changes.leases.values().map(Subject::from_lease));
        for machine in machines {
            self.parts.inventory.wake_watchers(&machine);
        }
        self.changed.send_replace(());
    }

    /// Every machine, whether it may be granted now, and what it lacks for these leases: none may
    /// while the host is away.
    fn candidates<'l>(&self, leases: impl IntoIterator<Item = &'l Lease>) -> Vec<CandidateMachine> {
        let snapshots: BTreeSet<&String> =
            leases.into_iter().flat_map(required_snapshots).collect();
        let connected = self.parts.inventory.session().state == SessionState::Connected;
        let views =
            self.parts.machines.list(&Scope::All, &MachineFilter::default()).unwrap_or_default();
        let candidates = views.into_iter().map(|view| {
            let machine = &view.machine;
            // Of leases and quarantines the table knows itself, and before all others.
            let free = connected
                && view.not_free_because.iter().all(|reason| {
                    matches!(reason, NotFreeReason::Leased | NotFreeReason::Quarantined)
                });
            CandidateMachine::new(
                machine,
                view.pools.clone(),
                free,
                view.protected || machine.template,
                &snapshots,
            )
        });
        candidates.collect()
    }

    fn now(&self) -> Moment {
        Moment { wall: self.parts.clock.now(), elapsed: self.parts.clock.elapsed() }
    }
}

/// Refuses a lease that exceeds the limits of the caller's token.
fn check_token_limits(
    table: &LeaseTable,
    lease: &Lease,
    limits: TokenLimits,
) -> Result<(), Failure> {
    let reached = |counts: &dyn Fn(&Lease) -> bool, most: Option<u32>| {
        most.filter(|most| {
            let own =
                table.open_leases().filter(|open| open.lease.requested_by == lease.requested_by);
            own.filter(|open| counts(&open.lease)).count() >= *most as usize
        })
    };
    if let Some(most) = reached(&|_| true, limits.leases) {
        return Err(too_many(&lease.requested_by, &format!("{most} open leases")));
    }
    let waits = |lease: &Lease| lease.state == LeaseState::Queued;
    match reached(&waits, limits.queued_leases.filter(|_| lease.queue_for.is_some())) {
        Some(most) => Err(queue_full(&lease.requested_by, &format!("{most} queued leases"))),
        None => Ok(()),
    }
}

/// The machines that a step would give to somebody.
fn granted_machines(before: &LeaseTable, changes: &TableChanges) -> Vec<MachineId> {
    let new = changes.leases.values().filter(|lease| {
        let held_before =
            before.get(lease.id).is_some_and(|open| open.lease.grants == lease.grants);
        lease.state.holds_machine() && !held_before
    });
    new.filter_map(|lease| lease.machine.as_ref().map(|machine| machine.id.clone())).collect()
}

/// The cause of a step that time or the host brings about.
fn caused_by_otter() -> Cause<'static> {
    static OTTER: LazyLock<Actor> = LazyLock::new(Actor::otter);
    Cause { actor: &OTTER, renews: None }
}

impl PoolView {
    fn empty(name: &str) -> Self {
        Self { name: name.to_owned(), machines: 0, free: 0, held: 0, quarantined: 0, waiting: 0 }
    }
}

impl From<StoredMachine> for MachineLedger {
    fn from(kept: StoredMachine) -> Self {
        let StoredMachine { fence, last_lease_end, quarantine, absent_since } = kept;
        Self { fence, last_lease_end, quarantine, absent_since }
    }
}

impl From<&MachineLedger> for StoredMachine {
    fn from(ledger: &MachineLedger) -> Self {
        let MachineLedger { fence, last_lease_end, quarantine, absent_since } = ledger.clone();
        Self { fence, last_lease_end, quarantine, absent_since }
    }
}
