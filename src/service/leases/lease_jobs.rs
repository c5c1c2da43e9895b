//! The preparation and the release of a machine. Each of them is a job that otter starts once for
//! each grant, even if otter crashes in between. A release that met a fault of the host is started
//! once for each attempt. So is a recovery: the release of a machine that no lease holds.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::command::LeaseCommand;
use super::lease_actor::{LeaseActor, RETRY_DELAY};
use super::lease_table::{FollowUp, MachineKey, RecoveryAttempt};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, LeaseId, SnapshotId};
use crate::domain::job::{Job, JobRequest, JobState};
use crate::domain::lease::{Lease, LeaseState, Recovery};
use crate::domain::machine::Machine;
use crate::domain::media::MediaRecord;
use crate::domain::origin::Actor;
use crate::fail_points::fail_point;
use crate::service::idempotency::Claimed;
use crate::service::jobs::NewJob;
use crate::service::jobs::authorization::Requester;
use crate::service::machines::{self, MachineView};
use crate::storage::IdempotencyKey;

impl LeaseActor {
    /// Starts the follow-ups of a transition, each in its own task.
    pub fn spawn_follow_ups(this: &Arc<Self>, follow_ups: Vec<FollowUp>) {
        for follow_up in follow_ups {
            match follow_up {
                FollowUp::Prepare(id) => Self::spawn_lease_job(this, id, LeaseState::Preparing),
                FollowUp::Release(id) => Self::spawn_lease_job(this, id, LeaseState::Releasing),
                FollowUp::ReleaseAgain(id, pause) => {
                    let later = Arc::clone(this);
                    drop(this.parts.supervisor.spawn_isolated("lease retry", async move {
                        if later.sleep(pause).await {
                            Self::spawn_lease_job(&later, id, LeaseState::Releasing);
                        }
                    }));
                }
                FollowUp::Recover(attempt, pause) => Self::spawn_recovery(this, attempt, pause),
                // Only log the warning here: the transition has already added it to the history of
                // the lease.
                FollowUp::Warn(id) => tracing::info!(lease = %id, "the lease ends soon"),
            }
        }
    }

    /// Runs the preparation or the release of a lease's machine. If this work panics, reports its
    /// outcome as unknown. Otherwise the lease would keep its state until the next start of otter.
    fn spawn_lease_job(this: &Arc<Self>, id: LeaseId, state: LeaseState) {
        let (worker, this) = (Arc::clone(this), Arc::clone(this));
        let supervisor = this.parts.supervisor.clone();
        let work = supervisor.spawn_isolated("lease work", async move {
            match state {
                LeaseState::Preparing => worker.prepare(id).await,
                _ => worker.release(id).await,
            }
        });
        drop(supervisor.spawn_isolated("lease", async move {
            if work.join().await.is_ok() || this.stop.is_cancelled() {
                return;
            }
            let unknown = Err(internal_error());
            this.submit_with_retry(match state {
                LeaseState::Preparing => LeaseCommand::PrepareFinished(id, unknown),
                _ => LeaseCommand::ReleaseFinished(id, unknown),
            })
            .await;
        }));
    }

    /// Runs an attempt to release a machine that no lease holds, after a pause. If this work
    /// panics, reports its outcome as unknown.
    fn spawn_recovery(this: &Arc<Self>, attempt: RecoveryAttempt, pause: Duration) {
        let (worker, this) = (Arc::clone(this), Arc::clone(this));
        let supervisor = this.parts.supervisor.clone();
        let work_attempt = attempt.clone();
        let work = supervisor.spawn_isolated("recovery work", async move {
            if worker.sleep(pause).await {
                worker.recover(work_attempt).await;
            }
        });
        drop(supervisor.spawn_isolated("recovery", async move {
            if work.join().await.is_err() && !this.stop.is_cancelled() {
                let unknown = Err(internal_error());
                this.submit_with_retry(LeaseCommand::RecoveryFinished(attempt, unknown)).await;
            }
        }));
    }

    /// Waits until the time `pause` is over. Returns false if otter stops first.
    async fn sleep(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = self.parts.clock.sleep(pause) => true,
        }
    }

    async fn prepare(&self, id: LeaseId) {
        let Some(outcome) = self.run_job(id, LeaseState::Preparing).await else { return };
        self.submit_with_retry(LeaseCommand::PrepareFinished(id, outcome)).await;
    }

    async fn release(&self, id: LeaseId) {
        // A later attempt finds another machine than the lease left.
        let first = self
            .view(id)
            .map(|view| view.lease)
            .filter(|lease| lease.state == LeaseState::Releasing && lease.setback.is_none());
        if let Some(lease) = first {
            self.parts.before_release.before_release(&lease).await;
        }
        if !self.cancel_jobs(id).await {
            return;
        }
        let Some(outcome) = self.run_job(id, LeaseState::Releasing).await else { return };
        self.submit_with_retry(LeaseCommand::ReleaseFinished(id, outcome)).await;
    }

    /// Cancels the jobs of a lease and waits until all of them have ended. Returns false if otter
    /// stops first.
    async fn cancel_jobs(&self, id: LeaseId) -> bool {
        loop {
            let jobs = self.parts.jobs.jobs_of_lease(id);
            if jobs.is_empty() {
                return true;
            }
            for job in jobs {
                let cancelled = self.parts.jobs.cancel(job, Actor::otter()).await;
                let ended = match cancelled {
                    Ok(_) => self.parts.jobs.ended(job).await,
                    Err(failure) => Err(failure),
                };
                if self.stop.is_cancelled() {
                    return false;
                }
                if ended.is_err() {
                    self.parts.clock.sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Starts the job that prepares or releases the machine of a lease, and waits until the job has
    /// ended. Returns the outcome of the job. `None` if the lease leaves the state `state` first,
    /// or if otter stops.
    async fn run_job(&self, id: LeaseId, state: LeaseState) -> Option<Result<(), Failure>> {
        let job = loop {
            let lease = self.view(id)?.lease;
            if lease.state != state {
                return None;
            }
            // Compare the identities, because the host may have given the id of the machine to
            // another machine.
            let machine = lease.machine.as_ref().and_then(|machine| {
                let view = self.parts.machines.get(&machine.id)?;
                machine.agrees_with(&view.machine.identity()).then_some(view)
            });
            let started = match machine {
                // The machine is not there, because the inventory is not loaded yet, or because the
                // machine is absent from the host. If it is absent, the actor ends the lease.
                None => Err(Failure::new(
                    FailureKind::InventoryLoading,
                    "the machine is not in the inventory",
                )),
                Some(machine) => {
                    // Check the protection again, because the machine may have become protected
                    // since its grant.
                    let allowed = self.parts.machines.may_change(&machine);
                    match allowed.and_then(|()| job_request(&lease, &machine.machine, state)) {
                        Ok(request) => self.start_job(&lease, &machine, request, state).await,
                        Err(failure) => return Some(Err(failure)),
                    }
                }
            };
            match started {
                Ok(job) => break job,
                Err(failure) => {
                    tracing::debug!(
                        lease = %id,
                        detail = failure.detail,
                        "the job of the lease cannot be started yet",
                    );
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = self.parts.clock.sleep(RETRY_DELAY) => {}
            }
        };
        if !self.submit_with_retry(LeaseCommand::JobStarted(id, state, job)).await {
            return None;
        }
        fail_point!("lease-work");
        self.outcome_of(job).await
    }

    /// The outcome of a job, once it has ended. `None` if otter stops first.
    async fn outcome_of(&self, job: JobId) -> Option<Result<(), Failure>> {
        loop {
            let Ok(ended) = self.parts.jobs.ended(job).await else {
                self.parts.clock.sleep(RETRY_DELAY).await;
                continue;
            };
            return job_outcome(&ended?.job);
        }
    }

    /// Makes this attempt to release a machine that no lease holds. Does nothing if another attempt
    /// for the machine has taken its place.
    async fn recover(&self, attempt: RecoveryAttempt) {
        let outcome = loop {
            match self.start_recovery_job(&attempt).await {
                Ok(Some(job)) => {
                    fail_point!("recovery-work");
                    match self.outcome_of(job).await {
                        Some(outcome) => break outcome,
                        None => return,
                    }
                }
                Ok(None) => return,
                Err(failure) if is_final(&failure) => break Err(failure),
                Err(failure) => {
                    let (machine, detail) = (&attempt.machine.0, failure.detail);
                    tracing::debug!(machine, detail, "the recovery cannot be started yet");
                }
            }
            if !self.sleep(RETRY_DELAY).await {
                return;
            }
        };
        self.submit_with_retry(LeaseCommand::RecoveryFinished(attempt, outcome)).await;
    }

    /// Starts the job of a recovery. If the job was started before, returns the existing job.
    /// `None` if another attempt for the machine has taken the place of this one.
    ///
    /// # Errors
    /// `machine-gone` if the machine is absent from the host; the failure to find the snapshot of
    /// the release; the failure of the start.
    async fn start_recovery_job(
        &self,
        attempt: &RecoveryAttempt,
    ) -> Result<Option<JobId>, Failure> {
        let state = self.parts.published.load();
        if !state.is_next(attempt) {
            return Ok(None);
        }
        let ledger = state.ledger(&attempt.machine);
        let Some((fence, recovery)) =
            ledger.and_then(|ledger| Some((ledger.fence, ledger.recovery.as_ref()?)))
        else {
            return Ok(None);
        };
        let is_current = self.is_inventory_current();
        let contents = self.parts.inventory.contents();
        let Some(machine) = machine_of(attempt, recovery, contents.machines.iter())? else {
            let kind =
                if is_current { FailureKind::MachineGone } else { FailureKind::InventoryLoading };
            return Err(Failure::new(kind, "The machine is not on the host."));
        };
        if let Some(view) = self.parts.machines.get(&machine.id) {
            // Check the protection again, because the machine may have become protected since its
            // last lease.
            self.parts.machines.may_change(&view)?;
        }
        let request = JobRequest::Release {
            keep_power: false,
            snapshot: resolve(machine, recovery.snapshot.as_ref())?,
            media: recovery.media.clone(),
        };
        let key = IdempotencyKey {
            key: format!("recover-{fence}-{}", attempt.number),
            ..key_of_otter(attempt.lease, self.parts.clock.now())
        };
        let key = match self.parts.jobs.claim(key).await? {
            Claimed::New(key) => key,
            Claimed::Used(job) => return Ok(Some(job)),
        };
        let new = NewJob {
            machine: Arc::clone(machine),
            request,
            requester: Requester::for_recovery(attempt.lease),
            reference: None,
            deadline: None,
            key: Some(key),
        };
        self.parts.jobs.start(new).await.map(Some)
    }

    /// Starts the job that prepares or releases the machine of a lease. If the job was started
    /// before, returns the existing job.
    ///
    /// # Errors
    /// The failure of the start.
    async fn start_job(
        &self,
        lease: &Lease,
        machine: &MachineView,
        request: JobRequest,
        state: LeaseState,
    ) -> Result<JobId, Failure> {
        let key = match self
            .parts
            .jobs
            .claim(idempotency_key(lease, state, self.parts.clock.now()))
            .await?
        {
            Claimed::New(key) => key,
            Claimed::Used(job) => return Ok(job),
        };
        let new = NewJob {
            machine: Arc::clone(&machine.machine),
            request,
            requester: Requester::from_otter(lease.id, state),
            reference: lease.reference.clone(),
            deadline: None,
            key: Some(key),
        };
        self.parts.jobs.start(new).await
    }
}

/// The idempotency key of a job that prepares or releases the machine of a lease. Because of this
/// key, each grant has at most one preparation, and at most one release for each attempt.
#[must_use]
fn idempotency_key(lease: &Lease, state: LeaseState, now: Timestamp) -> IdempotencyKey {
    let grants = lease.grants;
    let failed = lease.setback.as_ref().map_or(0, |setback| setback.attempts);
    let key = match (state, failed) {
        (LeaseState::Preparing, _) => format!("prepare-{grants}"),
        (_, 0) => format!("release-{grants}"),
        (_, failed) => format!("release-{grants}-{failed}"),
    };
    IdempotencyKey { key, ..key_of_otter(lease.id, now) }
}

/// An idempotency key for a job that otter itself starts for a lease. The field `key` is empty, and
/// the caller sets it.
#[must_use]
fn key_of_otter(lease: LeaseId, now: Timestamp) -> IdempotencyKey {
    IdempotencyKey {
        caller: "otter".to_owned(),
        method: "LEASE".to_owned(),
        path: format!("/v1/leases/{lease}"),
        key: String::new(),
        fingerprint: [0; 32],
        created_at: now,
    }
}

/// The outcome that is reported for work that panicked.
fn internal_error() -> Failure {
    let detail = "otter had an internal error, so the state of the machine is unknown.";
    Failure::new(FailureKind::OutcomeUnknown, detail)
}

/// The machine that a recovery releases. `None` if it is not among `machines`. The key of the
/// machine is not enough to find it, because copies of a machine have the same key.
///
/// # Errors
/// - `inventory-loading`: the host cannot read the machine
/// - `ambiguous-name`: an earlier version of otter stored the recovery, and several machines have
///   its key
fn machine_of<'m>(
    attempt: &RecoveryAttempt,
    recovery: &Recovery,
    mut machines: impl Iterator<Item = &'m Arc<Machine>> + Clone,
) -> Result<Option<&'m Arc<Machine>>, Failure> {
    if let Some(known) = &recovery.machine {
        let same = machines.clone().find(|machine| known.agrees_with(&machine.identity()));
        if same.is_none() && machines.any(|machine| known.can_be(&machine.identity())) {
            let detail = "The host cannot read the configuration of the machine.";
            return Err(Failure::new(FailureKind::InventoryLoading, detail));
        }
        return Ok(same);
    }
    let mut with_key = machines
        .filter(|machine| MachineKey::from_identity(&machine.identity()) == attempt.machine);
    let first = with_key.next();
    if with_key.next().is_some() {
        let detail = "Several machines of the host have the same instance UUID, so it is not \
                      known which of them the lease held.";
        return Err(Failure::new(FailureKind::AmbiguousName, detail));
    }
    Ok(first)
}

/// Whether a recovery's attempt ends if its job cannot be started because of this failure. After
/// any other failure, otter tries to start the job again.
const fn is_final(failure: &Failure) -> bool {
    matches!(
        failure.kind,
        FailureKind::MachineGone
            | FailureKind::SelfProtection
            | FailureKind::NotFound
            | FailureKind::AmbiguousName
    )
}

/// The outcome of a job. `None` if the job has not ended.
#[must_use]
fn job_outcome(job: &Job) -> Option<Result<(), Failure>> {
    match (job.state, &job.error) {
        (JobState::Succeeded, _) => Some(Ok(())),
        (state, Some(failure)) if state.is_end() => Some(Err(failure.clone().with_job(job.id))),
        (state, None) if state.is_end() => {
            let detail = "The job ended without a reason.";
            Some(Err(Failure::new(FailureKind::OutcomeUnknown, detail).with_job(job.id)))
        }
        _ => None,
    }
}

/// The request for the job that prepares or releases the machine of a lease. It has the ids of the
/// snapshots that the lease names.
///
/// # Errors
/// `not-found` if the machine does not have such a snapshot; `ambiguous-name` if the machine has
/// several.
fn job_request(lease: &Lease, machine: &Machine, state: LeaseState) -> Result<JobRequest, Failure> {
    Ok(match (state, &lease.prepare) {
        (LeaseState::Preparing, Some(prepare)) => JobRequest::Prepare {
            snapshot: resolve(machine, prepare.snapshot.as_ref())?,
            iso: prepare.iso.clone(),
            boot: prepare.boot.clone(),
            power: prepare.power,
            until: prepare.until.clone(),
            cidr: prepare.cidr,
            settle: prepare.settle,
        },
        (LeaseState::Preparing, None) => JobRequest::Prepare {
            snapshot: None,
            iso: None,
            boot: None,
            power: None,
            until: None,
            cidr: None,
            settle: None,
        },
        _ => JobRequest::Release {
            keep_power: lease.release.keep_power,
            snapshot: resolve(machine, lease.release.snapshot.as_ref())?,
            media: media_to_restore(lease, machine),
        },
    })
}

/// What the release of a lease restores of the drive and the boot options. `None` if nothing
/// changed them: the preparation did not, and they are as they were before. All jobs of the lease
/// have ended, so the inventory has what they changed.
fn media_to_restore(lease: &Lease, machine: &Machine) -> Option<MediaRecord> {
    let prepares =
        lease.prepare.as_ref().is_some_and(|with| with.iso.is_some() || with.boot.is_some());
    let is_changed = |before: &&MediaRecord| prepares || !before.is_like(&machine.media().record());
    lease.recorded_media().filter(is_changed).cloned()
}

/// The id and the path of the snapshot that has this name on the machine.
///
/// # Errors
/// `not-found`, `ambiguous-name`.
fn resolve(
    machine: &Machine,
    name: Option<&String>,
) -> Result<Option<(SnapshotId, String)>, Failure> {
    let Some(name) = name else { return Ok(None) };
    let snapshot = machines::snapshot(machine, name)?;
    let snapshots = &machine.snapshots;
    let index = snapshots.items.iter().position(|other| other.id == snapshot.id);
    let path = index.and_then(|index| snapshots.paths().get(index).cloned()).unwrap_or_default();
    Ok(Some((snapshot.id.clone(), path)))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::domain::lease::{Prepare, Release};
    use crate::domain::machine::MachineIdentity;
    use crate::service::inventory::samples;

    #[test]
    fn a_release_restores_what_the_lease_changed_unless_it_reverts() {
        let iso = "[isos] qubes.iso";
        let drive = |iso| Some(crate::service::jobs::samples::drive(iso));
        let before = MediaRecord { drive: drive(None), ..MediaRecord::default() };
        let mut machine = samples::machine("1", "qubes");
        machine.cdroms.extend(drive(None));
        let plain = crate::service::leases::tests::lease(
            1,
            true,
            None,
            crate::service::leases::tests::at(0),
        );
        let lease = Lease { media: Some(before.clone()), ..plain };
        assert_eq!(media_to_restore(&lease, &machine), None, "nothing changed it");
        let prepare = Prepare { iso: Some(iso.to_owned()), ..Prepare::default() };
        let prepared = Lease { prepare: Some(prepare), ..lease.clone() };
        assert_eq!(media_to_restore(&prepared, &machine), Some(before.clone()));
        machine.cdroms = drive(Some(iso)).into_iter().collect();
        assert_eq!(media_to_restore(&lease, &machine), Some(before));
        let release = Release { snapshot: Some("base".to_owned()), ..Release::default() };
        assert_eq!(media_to_restore(&Lease { release, ..prepared }, &machine), None);
        assert_eq!(media_to_restore(&Lease { media: None, ..lease }, &machine), None);
    }

    #[test]
    fn a_recovery_finds_the_copy_that_its_lease_held() {
        let copy = |id: &str| {
            let machine = samples::machine(id, "copy");
            Arc::new(Machine { instance_uuid: Some("one-for-both".to_owned()), ..machine })
        };
        let machines = [copy("1"), copy("2")];
        let recovery = |machine: Option<MachineIdentity>| Recovery {
            lease: LeaseId::new(Uuid::from_u128(1)),
            machine,
            snapshot: None,
            media: None,
            attempts: 0,
            pause: Duration::ZERO,
            retry_at: Timestamp::UNIX_EPOCH,
        };
        let held = recovery(Some(machines[1].identity()));
        let attempt =
            RecoveryAttempt::new(MachineKey::from_identity(&machines[1].identity()), &held);
        let found = |recovery: &Recovery, machines: &[Arc<Machine>]| {
            let found = machine_of(&attempt, recovery, machines.iter());
            found.map(|found| found.map(|machine| machine.id.clone()))
        };
        assert_eq!(found(&held, &machines).unwrap(), Some(machines[1].id.clone()));
        assert_eq!(found(&held, &machines[..1]).unwrap(), None, "the other copy is not it");
        let earlier = recovery(None);
        assert_eq!(found(&earlier, &machines[..1]).unwrap(), Some(machines[0].id.clone()));
        let ambiguous = found(&earlier, &machines).unwrap_err();
        assert_eq!(ambiguous.kind, FailureKind::AmbiguousName);
        let unreadable =
            Machine { instance_uuid: None, path: None, ..Machine::clone(&machines[1]) };
        let unreadable = found(&held, &[Arc::new(unreadable)]).unwrap_err();
        assert_eq!(unreadable.kind, FailureKind::InventoryLoading);
    }
}
