//! Accepts a job: it takes its place, is checked and is committed; otherwise nothing of it is left.

use std::sync::Arc;

use super::admission::{admit, bear_outage, has_question, queue_full};
use super::clocks::Moment;
use super::driver::Driver;
use super::gate::{Admission, Right};
use super::queue::lane;
use super::{Jobs, NewJob};
use crate::domain::audit::AuditRecord;
use crate::domain::event::Subject;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::JobId;
use crate::domain::job::{Job, TargetId};
use crate::domain::machine::Machine;
use crate::domain::snapshot_rules::SnapshotTree;
use crate::fail_points::fail_point;
use crate::service::callers::Caller;
use crate::service::idempotency::{Claimed, KeyClaim};
use crate::service::limits::queue_full as queue_full_of_token;
use crate::service::snapshots;
use crate::service::storage_watch::{store_failure, write_failure};
use crate::storage::{IdempotencyKey, KeyOwner};

impl Jobs {
    /// Claims a key for a call that is to start a job: once no other call has it, looks up which
    /// job it started.
    ///
    /// # Errors
    /// `idempotency-mismatch` if it was used for another request; the store's.
    pub async fn claim(&self, key: IdempotencyKey) -> Result<Claimed<JobId>, Failure> {
        self.0.keys.claim(key, KeyOwner::job).await
    }

    /// Accepts a job: when this returns it is on disk and has exactly one end. A caller that goes
    /// away meanwhile changes nothing.
    ///
    /// # Errors
    /// `shutting-down`, `host-unreachable` after a long outage, `question-pending`, `queue-full`;
    /// `forbidden` for a change of a protected snapshot, or of one that is not the runner's.
    pub async fn start(&self, new: NewJob) -> Result<JobId, Failure> {
        // Contained and not awaited in place: a caller that hangs up must not leave a place half
        // taken.
        let accepted =
            self.0.parts.supervisor.spawn_isolated("accept", self.clone().accept(new)).join();
        accepted.await.unwrap_or_else(|_| {
            Err(Failure::new(FailureKind::Internal, "accepting the job panicked"))
        })
    }

    async fn accept(self, new: NewJob) -> Result<JobId, Failure> {
        // What otter starts by itself waits for both.
        if !new.right.is_own() {
            self.refuse_if_away()?;
        }
        // The key stays claimed until the job is committed or refused.
        let (machine, claim, right) =
            (Arc::clone(&new.machine), new.key.clone(), new.right.clone());
        let clock = &self.0.parts.clock;
        let now = Moment::now(clock);
        let mut job =
            admit(new, JobId::new(clock.uuid()), now.wall, &self.0.parts.settings.deadlines)?;
        let (id, kind, target) = (job.id, job.kind(), job.target.id());
        self.queues()
            .reserve(&target, id, lane(kind))
            .map_err(|full| queue_full(full, &machine))?;
        // The job has its place, so a lease of the machine that is granted from now on sees it.
        let admitted = self.0.parts.gate.admit(&machine, &right);
        // A caller without a right to the machine gets that refusal first.
        let answered = |admission| has_question(&machine, &job.request).map(|()| admission);
        let admission = match admitted.and_then(answered) {
            Ok(admission) => admission,
            Err(failure) => {
                self.refuse(&target, id);
                return Err(failure);
            }
        };
        job.lease = admission.lease();
        let overrides_protection = match self.admit_snapshots(&mut job, &machine, &right).await {
            Ok(overrides_protection) => overrides_protection,
            Err(failure) => {
                self.refuse(&target, id);
                return Err(failure);
            }
        };
        let due = now.due(job.deadline_at);
        // Shown before it is committed: a reader who learns its id from the disk finds it here.
        self.0.board.add(Driver::queued(job.clone(), self.rules()), due);
        // The job has its place already: two calls at the same moment count each other.
        if let Some(most) = right.caller.limits.queued_jobs
            && !self.is_next(&target, id)
            && self.waiting_of(&right.caller) > most as usize
        {
            self.refuse(&target, id);
            let refused = queue_full_of_token(&right.caller.name, &format!("{most} queued jobs"));
            return Err(refused.with_machine(&machine.id, &machine.name));
        }
        fail_point!("accept");
        let overridden = overridden(&job, admission, overrides_protection, &right);
        let key = claim.as_ref().map(KeyClaim::key);
        if let Err(error) = self.0.parts.store.insert_job(&job, key, overridden).await {
            self.refuse(&target, id);
            return Err(write_failure(&error));
        }
        fail_point!("accept-committed");
        self.0.parts.metrics.job_accepted(kind.as_str());
        self.expire_at(due, id, &target);
        self.queues().ready(&target, id);
        self.0.parts.event_stream.publish([Subject::from_job(&Arc::new(job))]);
        self.dispatch(&target);
        self.queue_moved(&target);
        Ok(id)
    }

    /// Refuses a job whose change of the machine's snapshots is not allowed. Returns whether the
    /// job needs its override; then its warnings record the override.
    async fn admit_snapshots(
        &self,
        job: &mut Job,
        machine: &Machine,
        right: &Right,
    ) -> Result<bool, Failure> {
        let rules = self.0.parts.snapshots.rules(job, Some(machine)).await;
        let rules = rules.map_err(|error| store_failure(&error))?;
        let tree = SnapshotTree::from_inventory(&machine.snapshots);
        snapshots::check(job, &rules, &tree)?;
        let reason = right.override_reason.as_deref().unwrap_or_default();
        let warning = snapshots::override_warning(job, &rules, &tree, reason);
        let overrides_protection = warning.is_some();
        job.warnings.extend(warning);
        Ok(overrides_protection)
    }

    /// Whether a job waits for no other job of its target.
    fn is_next(&self, target: &TargetId, job: JobId) -> bool {
        self.queues().position(target, job).is_none_or(|ahead| ahead == 0)
    }

    /// How many jobs of a caller wait behind another job of their target.
    fn waiting_of(&self, caller: &Caller) -> usize {
        let queued = self.0.board.queued_of(&caller.name);
        queued.iter().filter(|(job, target)| !self.is_next(target, *job)).count()
    }

    /// Takes back the place of a job that was not committed.
    fn refuse(&self, target: &TargetId, id: JobId) {
        self.0.board.remove(id);
        self.queues().withdraw(target, id);
        self.dispatch(target);
        self.queue_moved(target);
    }

    fn refuse_if_away(&self) -> Result<(), Failure> {
        if self.0.stop.is_cancelled() {
            let detail = "otter is shutting down and takes no new jobs; try again once it is back.";
            return Err(Failure::new(FailureKind::ShuttingDown, detail));
        }
        let Some(away) = self.0.parts.inventory.away_for() else { return Ok(()) };
        bear_outage(
            self.0.parts.inventory.session().state,
            away,
            self.0.parts.settings.outage_grace,
        )
    }
}

/// The fact of an override, if the job would have been refused without it.
fn overridden(
    job: &Job,
    admission: Admission,
    overrides_protection: bool,
    right: &Right,
) -> Option<AuditRecord> {
    let reason = right.override_reason.as_deref()?;
    let is_needed = overrides_protection || matches!(admission, Admission::Overriding(_));
    is_needed.then(|| AuditRecord::machine_overridden(job, admission.holder(), reason))
}
