//! The actor that owns the lease table. The actor takes one command after the other, applies each
//! to a copy of the table, commits the changes, publishes the new table, and starts the work that
//! follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::audit_records::{self, Cause};
use super::candidates::{CandidateCache, Candidates};
use super::command::LeaseCommand;
use super::lease_table::{
    FollowUp, LeaseClients, LeaseInput, LeaseTable, MachineKey, MachineLedger, RecoveryAttempt,
    TableChanges,
};
use super::matching::CandidateMachine;
use super::{LeaseView, LeasesParts, metrics};
use crate::domain::access::TokenStatus;
use crate::domain::audit::AuditRecord;
use crate::domain::event::{EventFilter, EventType, Subject};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{LeaseId, MachineId, TokenId};
use crate::domain::lease::Lease;
use crate::domain::machine::MachineIdentity;
use crate::domain::origin::Actor;
use crate::fail_points::fail_point;
use crate::service::event_stream::EventReader;
use crate::service::idempotency::{IdempotencyKeys, KeyClaim};
use crate::service::jobs::deadline_clocks::{JumpDetector, Moment};
use crate::service::storage_watch::{start_failure, unconfirmed_start, write_failure};
use crate::storage::{ChangedLease, IdempotencyKey, LeaseTransaction, StorageError, StoredMachine};

/// How often otter stores the current time while a lease can expire. After a crash, otter knows to
/// this precision when it last ran.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// How often otter looks for ledgers of machines that are absent from the host, to delete old ones.
const FORGET_INTERVAL: Duration = Duration::from_hours(1);

/// The pause before a write, a read or a start that failed is tried again.
pub const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The lease actor. All clones of [`super::Leases`] share it.
pub struct LeaseActor {
    pub parts: LeasesParts,
    /// The idempotency keys of the requests for leases.
    pub keys: IdempotencyKeys,
    commands: mpsc::Sender<SubmittedCommand>,
    receiver: Mutex<Option<mpsc::Receiver<SubmittedCommand>>>,
    pub(super) candidates: CandidateCache,
    pub stop: CancellationToken,
    /// When otter last ran before this start. `None` if this is not known.
    last_seen: Option<Timestamp>,
}

/// A command in the channel to the actor, with what the actor needs to handle it.
pub struct SubmittedCommand {
    command: LeaseCommand,
    /// The claim of the idempotency key, if the command is a request with a key. The actor drops
    /// the claim once the command is committed or rejected.
    claim: Option<KeyClaim>,
    /// Who caused the command, for the audit.
    actor: Actor,
    reply: Option<oneshot::Sender<Result<(), Failure>>>,
}

impl LeaseActor {
    pub fn new(
        parts: LeasesParts,
        commands: mpsc::Sender<SubmittedCommand>,
        receiver: Mutex<Option<mpsc::Receiver<SubmittedCommand>>>,
        last_seen: Option<Timestamp>,
    ) -> Self {
        let stop = parts.supervisor.shutdown_token();
        let keys = IdempotencyKeys::new(Arc::clone(&parts.store));
        let candidates = CandidateCache::default();
        Self { parts, keys, commands, receiver, candidates, stop, last_seen }
    }

    /// Publishes the leases and ledgers that the store has.
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

    /// Submits a command that otter itself causes, and waits until the command is committed.
    ///
    /// # Errors
    /// The failure of the command, `shutting-down`, or `storage-unavailable`.
    pub async fn submit(&self, command: LeaseCommand) -> Result<(), Failure> {
        self.submit_as(Actor::otter(), command).await
    }

    /// Submits a command that `actor` caused, and waits until the command is committed, like
    /// [`LeaseActor::submit`].
    pub async fn submit_as(&self, actor: Actor, command: LeaseCommand) -> Result<(), Failure> {
        self.submit_with_claim(None, actor, command).await
    }

    /// Submits a command for which an idempotency key is claimed, and waits until the command is
    /// committed, like [`LeaseActor::submit_as`].
    pub async fn submit_with_claim(
        &self,
        claim: Option<KeyClaim>,
        actor: Actor,
        command: LeaseCommand,
    ) -> Result<(), Failure> {
        let (reply, answered) = oneshot::channel();
        let unkeyed_request = command.unkeyed_request();
        self.commands
            .send(SubmittedCommand { command, claim, actor, reply: Some(reply) })
            .await
            .map_err(|_| stopped())?;
        // If there is no answer, the actor was dropped while it handled the command. A requested
        // lease may then be stored.
        answered.await.map_err(|_| match unkeyed_request {
            Some(lease) => unconfirmed_start().with_lease(lease),
            None => stopped(),
        })?
    }

    /// Records that a client polled a lease just now.
    pub fn record_poll(&self, id: LeaseId) {
        self.parts.published.load().record_poll(id, self.now());
    }

    /// The record of the clients that poll a lease or wait for it. `None` if the lease has ended or
    /// does not exist.
    #[must_use]
    pub fn clients(&self, id: LeaseId) -> Option<Arc<LeaseClients>> {
        self.parts.published.load().get(id).map(|open| Arc::clone(&open.clients))
    }

    /// Submits a command, and submits it again until it is committed. Returns false if otter stops
    /// first. Then the next start of otter repeats the work whose result the command reports.
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

    /// Runs the actor until `stop` is cancelled.
    pub async fn run(this: &Arc<Self>, stop: CancellationToken) {
        let receiver = this.receiver.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut receiver) = receiver else { return };
        let mut table = LeaseTable::clone(&this.parts.published.load());
        Self::spawn_follow_ups(this, table.unfinished_work(this.parts.clock.now()));
        let types =
            vec![EventType::MachineChanged, EventType::MachineRemoved, EventType::SessionChanged];
        let mut changes =
            this.parts.event_stream.subscribe(EventFilter { types, ..EventFilter::default() });
        let mut tokens = this.parts.callers.changes();
        // Mark the tokens as changed, so that they are checked at the start: a token may have been
        // revoked while otter was down.
        tokens.mark_changed();
        let mut checkpoint_at = this.parts.clock.elapsed() + CHECKPOINT_INTERVAL;
        let mut forget_at = checkpoint_at;
        let mut jumps = JumpDetector::new(Moment::now(&this.parts.clock));
        if this.last_seen.is_some_and(|seen| this.parts.clock.now() < seen) {
            // The wall clock is behind the time at which otter last ran, so the stored times are
            // wrong and are computed again. If the store rejects the write, the next start computes
            // the same times again.
            this.clock_jumped(&mut table).await;
        }
        let mut handled_command = false;
        loop {
            let now = this.parts.clock.elapsed();
            let due = table.next_due().map_or(checkpoint_at, |due| due.min(checkpoint_at));
            let after_command = std::mem::take(&mut handled_command);
            if after_command {
                // Look for free machines and due leases after each command too. Otherwise a steady
                // stream of commands would delay grants and expiries.
                let follow_ups = this.catch_up(&mut table, &mut changes, &mut tokens).await;
                Self::spawn_follow_ups(this, follow_ups);
            }
            let takes_command = !(after_command && due <= now);
            let follow_ups = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    receiver.close();
                    while let Some(SubmittedCommand { reply, .. }) = receiver.recv().await {
                        // The result is ignored: the reply fails if the caller has disconnected.
                        let _ = reply.map(|reply| reply.send(Err(stopped())));
                    }
                    this.checkpoint(&mut table, &mut jumps).await;
                    return;
                }
                command = receiver.recv(), if takes_command => match command {
                    Some(command) => {
                        handled_command = true;
                        this.handle(&mut table, command).await
                    }
                    None => return,
                },
                () = changes.wait_for_more(), if takes_command => {
                    if changes.take_unread() {
                        this.reevaluate(&mut table).await
                    } else {
                        Vec::new()
                    }
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
                        // Leases expire only in the next pass of the loop, so that polls that
                        // arrived before then count.
                        this.reevaluate(&mut table).await
                    } else {
                        this.expire_due(&mut table).await
                    }
                }
            };
            Self::spawn_follow_ups(this, follow_ups);
        }
    }

    /// A lease that has not ended, as readers see it. `None` if it has ended or does not exist.
    #[must_use]
    pub fn view(&self, id: LeaseId) -> Option<LeaseView> {
        let table = self.parts.published.load();
        let open = table.get(id)?;
        let view = LeaseView::open(&table, open, self.is_inventory_current());
        Some(LeaseView { recording: self.parts.recordings.of(id), ..view })
    }

    /// A lease that has ended, as readers see it.
    #[must_use]
    pub fn ended_view(&self, lease: Lease) -> LeaseView {
        let recording = self.parts.recordings.of(lease.id);
        LeaseView { recording, ..LeaseView::ended(lease) }
    }

    /// Takes over what has changed in machines and tokens since the last pass of the loop. Returns
    /// the follow-ups.
    async fn catch_up(
        &self,
        table: &mut LeaseTable,
        changes: &mut EventReader,
        tokens: &mut watch::Receiver<()>,
    ) -> Vec<FollowUp> {
        let has_changed_tokens = tokens.has_changed().unwrap_or_default();
        tokens.mark_unchanged();
        if changes.take_unread() || has_changed_tokens {
            self.reevaluate(table).await
        } else {
            Vec::new()
        }
    }

    /// Applies a command and sends the answer to the submitter of the command. Returns the
    /// follow-ups.
    async fn handle(&self, table: &mut LeaseTable, submitted: SubmittedCommand) -> Vec<FollowUp> {
        let SubmittedCommand { command, claim, actor, reply } = submitted;
        let handled = self.apply_command(table, command, &actor).await;
        drop(claim);
        let (answer, follow_ups) = match handled {
            Ok(follow_ups) => (Ok(()), follow_ups),
            Err(failure) => (Err(failure), Vec::new()),
        };
        if let Some(reply) = reply {
            // The result is ignored: the reply fails if the caller has disconnected, and the
            // command stays applied.
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
        if matches!(command, LeaseCommand::AwaitPublication) {
            return Ok(Vec::new());
        }
        if let LeaseCommand::Request { lease, key, limits } = command {
            self.end_leases_of_invalid_tokens(table).await?;
            // Fails while the inventory is loading. It comes before the candidates: if the
            // inventory finished loading after they were read, they would lack all its machines.
            self.parts.machines.contents()?;
            let candidates = self.candidates.load(&self.parts);
            self.check_grantable(&lease, &candidates.machines)?;
            Self::check_token_limits(table, &lease, limits)?;
            let start = Some((lease.id, key));
            let request = |table: &mut LeaseTable, now: Moment, candidates: &[CandidateMachine]| {
                table.apply(LeaseInput::Request(lease.clone(), candidates), now)
            };
            let cause = Cause { actor, renews: None };
            return self.commit(table, cause, start, Some(candidates), request).await;
        }
        // Look for absent machines first. A job ends only after the inventory shows its effects, so
        // the inventory is new enough. If the machine is absent, its lease then ends as
        // `machine-gone` and not as a failed preparation.
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
        let follow_ups = self.commit(table, cause, None, None, apply).await?;
        if let Some(count) = failure_counter {
            count(self.parts.metrics.leases());
        }
        if let LeaseCommand::QuarantineMachine(_, _, machine)
        | LeaseCommand::ClearQuarantine(_, machine) = &command
        {
            self.parts.inventory.wake_watchers(machine);
        }
        if let LeaseCommand::RecoveryFinished(RecoveryAttempt { machine, .. }, _) = &command {
            self.wake_watchers_of(std::slice::from_ref(machine));
        }
        if let LeaseCommand::ClearAutomaticQuarantines(machines) = &command {
            self.wake_watchers_of(machines);
        }
        let more =
            if command.may_free_a_machine() { self.reevaluate(table).await } else { Vec::new() };
        Ok(follow_ups.into_iter().chain(more).collect())
    }

    /// Ends the queued leases of invalid tokens and the leases of absent machines, and grants free
    /// machines.
    async fn reevaluate(&self, table: &mut LeaseTable) -> Vec<FollowUp> {
        // The leases of invalid tokens must end first, because none of them may be granted.
        if self.end_leases_of_invalid_tokens(table).await.is_err() || !self.is_inventory_current() {
            return Vec::new();
        }
        let gone = self.detect_absent_machines(table).await;
        if !table.has_queued_leases() {
            return gone.unwrap_or_default();
        }
        let candidates = self.candidates.load(&self.parts);
        if candidates.version.is_some_and(|version| table.is_evaluated_for(version)) {
            return gone.unwrap_or_default();
        }
        let grant = |table: &mut LeaseTable, now: Moment, candidates: &[CandidateMachine]| {
            table.apply(LeaseInput::GrantQueued(candidates), now)
        };
        let granted = self.commit(table, caused_by_otter(), None, Some(candidates), grant).await;
        // A result is missing if the store rejected the write. The next change or checkpoint tries
        // again.
        [gone, granted].into_iter().flatten().flatten().collect()
    }

    /// Ends the queued leases whose token was revoked or has expired.
    async fn end_leases_of_invalid_tokens(&self, table: &mut LeaseTable) -> Result<(), Failure> {
        let tokens = table.queued_tokens();
        let status = |token| (token, self.parts.callers.status(token));
        let statuses: BTreeMap<TokenId, TokenStatus> = tokens.into_iter().map(status).collect();
        if statuses.values().all(|status| *status == TokenStatus::Valid) {
            return Ok(());
        }
        let end = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::TokenStatuses(&statuses), now)
        };
        self.commit(table, caused_by_otter(), None, None, end).await.map(drop)
    }

    /// Whether the inventory is loaded and the host is connected.
    pub fn is_inventory_current(&self) -> bool {
        self.parts.inventory.away_for().is_none() && self.parts.inventory.contents().loaded
    }

    /// Ends the leases whose machines are absent from the host.
    async fn detect_absent_machines(
        &self,
        table: &mut LeaseTable,
    ) -> Result<Vec<FollowUp>, Failure> {
        let contents = self.parts.inventory.contents();
        let is_present = |held: &MachineIdentity| {
            contents.machine(&held.id).is_some_and(|machine| held.can_be(&machine.identity()))
        };
        if table.holders().all(|(_, held)| is_present(held)) {
            return Ok(Vec::new());
        }
        let present = self.present_machines();
        let detect = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::MachinesPresent(&present), now)
        };
        self.commit(table, caused_by_otter(), None, None, detect).await
    }

    /// Ends the leases whose time is over, and grants free machines.
    async fn expire_due(&self, table: &mut LeaseTable) -> Vec<FollowUp> {
        let expire = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::TimePassed, now)
        };
        let Ok(mut follow_ups) = self.commit(table, caused_by_otter(), None, None, expire).await
        else {
            // The store rejected the write. The leases are still due, so the actor tries again
            // after this pause.
            self.parts.clock.sleep(RETRY_DELAY).await;
            return Vec::new();
        };
        if table.is_evaluated() {
            // No lease ended, so no machine became free. Only the times of polls were due.
            return follow_ups;
        }
        follow_ups.extend(self.reevaluate(table).await);
        follow_ups
    }

    /// Stores the present time as the time at which otter was last running. This is one statement,
    /// however many leases there are. If the wall clock jumped, first corrects the expiry times of
    /// the leases, which are stored and shown to callers. Does nothing if no lease is queued or
    /// active.
    async fn checkpoint(&self, table: &mut LeaseTable, jumps: &mut JumpDetector) {
        if !table.has_running_time() {
            return;
        }
        let now = Moment::now(&self.parts.clock);
        let mut found = jumps.clone();
        if found.detect(now).is_some() && !self.clock_jumped(table).await {
            // The store rejected the new times. `jumps` stays as it was, so that the next
            // checkpoint finds the jump again.
            return;
        }
        *jumps = found;
        // The result is ignored: the store logs a failure, whose only effect is that otter knows
        // less exactly how long it was down after a crash.
        let _ = self.parts.store.record_last_seen(now.wall).await;
    }

    /// Deletes the ledgers of machines that have been absent from the host for longer than the
    /// retention time. Returns false if the inventory is not current or the store rejects the
    /// write.
    async fn forget_absent_machines(&self, table: &mut LeaseTable) -> bool {
        if !self.is_inventory_current() {
            return false;
        }
        let present = self.present_machines();
        let forget = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::ForgetAbsentMachines(&present), now)
        };
        self.commit(table, caused_by_otter(), None, None, forget).await.is_ok()
    }

    /// Wakes the callers that watch these machines, because the ledgers of the machines may have
    /// changed.
    fn wake_watchers_of(&self, keys: &[MachineKey]) {
        let contents = self.parts.inventory.contents();
        let keys: BTreeSet<&MachineKey> = keys.iter().collect();
        for machine in &contents.machines {
            if keys.contains(&MachineKey::from_identity(&machine.identity())) {
                self.parts.inventory.wake_watchers(&machine.id);
            }
        }
    }

    fn present_machines(&self) -> Vec<MachineIdentity> {
        self.parts.inventory.contents().machines.iter().map(|machine| machine.identity()).collect()
    }

    /// Computes the stored and shown expiry times again, by the wall clock as it is now. Returns
    /// false if the store rejects the write.
    async fn clock_jumped(&self, table: &mut LeaseTable) -> bool {
        let jumped = |table: &mut LeaseTable, now: Moment, _: &[CandidateMachine]| {
            table.apply(LeaseInput::ClockJumped, now)
        };
        self.commit(table, caused_by_otter(), None, None, jumped).await.is_ok()
    }

    /// Applies the function `change` to a copy of the table, commits the changes, publishes the
    /// copy, and sends events for the changes. If one of these steps fails, the table is unchanged.
    ///
    /// # Parameters
    /// - `cause`: who caused the change, for the audit.
    /// - `start`: the lease that a caller requests, and the idempotency key of the request.
    /// - `candidates`: the machines that are passed to `change`, if it grants machines.
    async fn commit<F>(
        &self,
        table: &mut LeaseTable,
        cause: Cause<'_>,
        start: Option<(LeaseId, Option<IdempotencyKey>)>,
        candidates: Option<Candidates>,
        change: F,
    ) -> Result<Vec<FollowUp>, Failure>
    where
        F: Fn(&mut LeaseTable, Moment, &[CandidateMachine]) -> Result<TableChanges, Failure>,
    {
        let is_attempt = candidates.is_some();
        let Candidates { mut machines, mut version } = candidates.unwrap_or_default();
        loop {
            let mut next = table.clone();
            if is_attempt && !version.is_some_and(|version| next.is_evaluated_for(version)) {
                next.set_evaluated(None);
            }
            let changes = change(&mut next, self.now(), &machines)?;
            let is_shown = !changes.is_empty() || !next.has_blockers_of(table);
            let granted = granted_machines(table, &changes);
            let reservation = self.parts.published.reserve(&granted);
            let busy: BTreeSet<&MachineId> =
                granted.iter().filter(|machine| self.parts.jobs.has_any_on(machine)).collect();
            if !busy.is_empty() {
                // Jobs on these machines were accepted after the candidates were read, so the
                // machines are not free. Apply the change again without them.
                version = None;
                for candidate in Arc::make_mut(&mut machines) {
                    candidate.free &= !busy.contains(&candidate.identity.id);
                }
                continue;
            }
            if !changes.is_empty() {
                let audit = self.audit_records(table, &changes, cause);
                let is_request = start.is_some();
                let unkeyed = start.as_ref().filter(|(_, key)| key.is_none()).map(|(id, _)| *id);
                let key = start.and_then(|(id, key)| Some((key?, id)));
                self.store_changes(&changes, key, audit).await.map_err(|error| match unkeyed {
                    Some(lease) if error.may_be_committed() => {
                        start_failure(&error, false).with_lease(lease)
                    }
                    _ => write_failure(&error),
                })?;
                if is_request {
                    fail_point!("lease-committed");
                }
            }
            if is_attempt && granted.is_empty() {
                next.set_evaluated(version);
            }
            let before = std::mem::replace(table, next);
            if is_shown {
                self.parts.published.publish(table.clone());
            }
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
        let transaction = LeaseTransaction {
            leases: leases.collect(),
            machines: ledgers.collect(),
            deleted_machines: changes.forgotten.iter().map(|machine| machine.0.clone()).collect(),
            fence_floor: changes.fence_floor.unwrap_or_default(),
            key,
            audit,
        };
        self.parts.store.save_leases(transaction).await
    }

    /// The audit records of a transition of the lease table.
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

    /// Sends events for the changes, and wakes the calls that wait for a changed lease. The new
    /// table must be published before this call.
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
        for (id, lease) in &changes.leases {
            let was = before.get(*id);
            if let Some(open) = was.filter(|open| open.lease.state != lease.state) {
                open.clients.wake();
            }
        }
    }

    fn now(&self) -> Moment {
        Moment { wall: self.parts.clock.now(), elapsed: self.parts.clock.elapsed() }
    }
}

/// The failure of a command that the actor rejects because otter stops.
fn stopped() -> Failure {
    let detail = "otter is shutting down; try again once it has restarted.";
    Failure::new(FailureKind::ShuttingDown, detail)
}

/// The machines that a transition of the lease table grants.
fn granted_machines(before: &LeaseTable, changes: &TableChanges) -> Vec<MachineId> {
    let new = changes.leases.values().filter(|lease| {
        let held_before =
            before.get(lease.id).is_some_and(|open| open.lease.grants == lease.grants);
        lease.state.holds_machine() && !held_before
    });
    new.filter_map(|lease| lease.machine.as_ref().map(|machine| machine.id.clone())).collect()
}

/// The cause of a transition that no caller caused.
fn caused_by_otter() -> Cause<'static> {
    static OTTER: LazyLock<Actor> = LazyLock::new(Actor::otter);
    Cause { actor: &OTTER, renews: None }
}

impl From<StoredMachine> for MachineLedger {
    fn from(kept: StoredMachine) -> Self {
        let StoredMachine { fence, last_lease_end, quarantine, absent_since, recovery } = kept;
        Self { fence, last_lease_end, quarantine, absent_since, recovery }
    }
}

impl From<&MachineLedger> for StoredMachine {
    fn from(ledger: &MachineLedger) -> Self {
        let MachineLedger { fence, last_lease_end, quarantine, absent_since, recovery } =
            ledger.clone();
        Self { fence, last_lease_end, quarantine, absent_since, recovery }
    }
}
