//! Accepts a job: reserves a place in the queue, authorizes the job and commits it. A refused job
//! leaves no trace.

use std::sync::Arc;

use super::admission::{admit, has_question, queue_full, require_host_available};
use super::authorization::{Authorization, Requester};
use super::deadline_clocks::Moment;
use super::queue::Lane;
use super::state_machine::JobStateMachine;
use super::{Jobs, NewJob};
use crate::domain::audit::AuditRecord;
use crate::domain::event::Subject;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;
use crate::domain::job::Job;
use crate::domain::machine::Machine;
use crate::domain::snapshot_rules::SnapshotTree;
use crate::fail_points::fail_point;
use crate::service::idempotency::{Claimed, KeyClaim};
use crate::service::limits::queue_full as queue_full_for_caller;
use crate::service::snapshots;
use crate::service::storage_watch::{start_failure, store_failure, unconfirmed_start};
use crate::storage::{IdempotencyKey, KeyOwner};

impl Jobs {
    /// Claims an idempotency key for a call that starts a job. Waits until no other call has
    /// claimed the key, and looks up the job that an earlier call with this key started.
    ///
    /// # Errors
    /// `idempotency-mismatch` if the key was used for another request; the errors of the store.
    pub async fn claim(&self, key: IdempotencyKey) -> Result<Claimed<JobId>, Failure> {
        self.0.keys.claim(key, KeyOwner::job).await
    }

    /// Accepts a job. When this method returns a job id, the job is on disk, and the job will have
    /// exactly one end. The job is accepted even if the caller disconnects meanwhile.
    ///
    /// # Errors
    /// `shutting-down`, `host-unreachable` after a long outage, `question-pending`, `queue-full`;
    /// `storage-unavailable`, or `outcome-unknown` if the job has no key and may be stored;
    /// `forbidden` for a change of a protected snapshot, or of a snapshot that the runner may not
    /// change; the errors of
    /// [`JobAuthorizer::authorize`](super::authorization::JobAuthorizer::authorize).
    pub async fn start(&self, new: NewJob) -> Result<JobId, Failure> {
        let (id, has_key) = (self.new_id(), new.key.is_some());
        // The job is accepted in a task of its own, so that a client that disconnects cannot stop
        // the acceptance halfway.
        let accepted =
            self.0.parts.supervisor.spawn_isolated("accept", self.clone().accept(id, new)).join();
        accepted.await.unwrap_or_else(|_| {
            // The task panicked, perhaps after it committed the job. So a call without an
            // idempotency key must not be repeated.
            Err(if has_key {
                Failure::new(FailureKind::Internal, "accepting the job panicked")
            } else {
                unconfirmed_start().with_job(id)
            })
        })
    }

    async fn accept(self, id: JobId, new: NewJob) -> Result<JobId, Failure> {
        // A job that otter itself starts is always accepted, even during an outage, and then waits
        // for the host.
        if !new.requester.is_internal() {
            self.require_accepting()?;
        }
        // `claim` keeps the idempotency key claimed until the job is committed or refused.
        let (machine, claim, requester) =
            (Arc::clone(&new.machine), new.key.clone(), new.requester.clone());
        let clock = &self.0.parts.clock;
        let now = Moment::now(clock);
        let job = admit(new, id, now.wall, &self.0.parts.settings.deadlines)?;
        let (kind, target) = (job.kind(), job.target.id());
        let reserved = self.0.table.reserve(&target, id, Lane::for_kind(kind));
        reserved.map_err(|full| {
            queue_full(full, &machine.name).with_machine(&machine.id, &machine.name)
        })?;
        let key = claim.as_ref().map(KeyClaim::key);
        let committed = self.commit(job, now, &machine, &requester, key).await;
        match &committed {
            Ok(job) => {
                fail_point!("accept-committed");
                self.0.parts.metrics.job_accepted(kind.as_str());
                self.0.table.commit(&target, id);
                self.0.parts.event_stream.publish([Subject::from_job(job)]);
            }
            Err(_) => self.0.table.remove(&target, id),
        }
        self.dispatch(&target);
        if committed.is_ok() && Lane::for_kind(kind) == Lane::Ordinary {
            // The new job is the last of its queue, so no other job of the queue has a new
            // position.
            self.0.parts.inventory.wake_watchers(&machine.id);
        } else {
            self.queue_moved(&target);
        }
        committed.map(|_| id)
    }

    /// Authorizes a job that has its place in the queue, adds it to the table and commits it to
    /// disk.
    async fn commit(
        &self,
        mut job: Job,
        now: Moment,
        machine: &Machine,
        requester: &Requester,
        key: Option<&IdempotencyKey>,
    ) -> Result<Arc<Job>, Failure> {
        // The job is already in the queue. So a lease that is granted after this line finds the
        // job.
        let authorization = self.0.parts.authorizer.authorize(machine, requester)?;
        // This check comes after the authorization: a caller without access to the machine must not
        // learn about its question.
        has_question(machine, &job.request)?;
        job.lease = authorization.lease();
        let overrides_protection = self.check_snapshot_rules(&mut job, machine, requester).await?;
        let state_machine = JobStateMachine::from_queued(job.clone(), self.rules());
        self.0.table.show(state_machine, now.due(job.deadline_at));
        // The job is already in the queue, so two concurrent calls count each other's jobs.
        if let Some(most) = requester.caller.limits.queued_jobs
            && self.0.table.exceeds_caller_limit(job.id, most as usize)
        {
            let refused =
                queue_full_for_caller(&requester.caller.name, &format!("{most} queued jobs"));
            return Err(refused.with_machine(&machine.id, &machine.name));
        }
        fail_point!("accept");
        let overridden = override_record(&job, authorization, overrides_protection, requester);
        let inserted = self.0.parts.store.insert_job(&job, key, overridden).await;
        inserted.map_err(|error| {
            let failure = start_failure(&error, key.is_some());
            let is_unknown = failure.kind == FailureKind::OutcomeUnknown;
            if is_unknown { failure.with_job(job.id) } else { failure }
        })?;
        Ok(Arc::new(job))
    }

    /// Checks whether the job may change the machine's snapshots. Returns whether only an override
    /// allows the change. If so, adds a warning to the job.
    async fn check_snapshot_rules(
        &self,
        job: &mut Job,
        machine: &Machine,
        requester: &Requester,
    ) -> Result<bool, Failure> {
        let rules = self.0.parts.snapshots.rules(job, Some(machine)).await;
        let rules = rules.map_err(|error| store_failure(&error))?;
        let tree = SnapshotTree::from_inventory(&machine.snapshots);
        snapshots::check(job, &rules, &tree)?;
        let reason = requester.override_reason.as_deref().unwrap_or_default();
        let warning = snapshots::override_warning(job, &rules, &tree, reason);
        let overrides_protection = warning.is_some();
        job.warnings.extend(warning);
        Ok(overrides_protection)
    }

    /// Refuses a job while otter stops, or after a long outage.
    ///
    /// # Errors
    /// `shutting-down`, `host-login-refused`, `host-unreachable`
    pub(super) fn require_accepting(&self) -> Result<(), Failure> {
        if self.0.stop.is_cancelled() {
            let detail = "otter is shutting down and takes no new jobs; try again once it is back.";
            return Err(Failure::new(FailureKind::ShuttingDown, detail));
        }
        let Some(away) = self.0.parts.inventory.away_for() else { return Ok(()) };
        require_host_available(
            self.0.parts.inventory.session().state,
            away,
            self.0.parts.settings.outage_grace,
        )
    }
}

/// The audit record of an override, if the job needed it.
fn override_record(
    job: &Job,
    authorization: Authorization,
    overrides_protection: bool,
    requester: &Requester,
) -> Option<AuditRecord> {
    let reason = requester.override_reason.as_deref()?;
    let is_needed = overrides_protection || matches!(authorization, Authorization::Override(_));
    is_needed.then(|| AuditRecord::machine_overridden(job, authorization.holder(), reason))
}
