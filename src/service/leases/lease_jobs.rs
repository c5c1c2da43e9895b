//! The preparation and the release of a machine. Each is a job that otter starts once for each
//! grant, also if otter crashes in between.

use std::sync::Arc;

use jiff::Timestamp;

use super::command::LeaseCommand;
use super::lease_actor::{LeaseActor, RETRY_DELAY};
use super::lease_table::FollowUp;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, LeaseId, SnapshotId};
use crate::domain::job::{Job, JobRequest, JobState};
use crate::domain::lease::{Lease, LeaseState};
use crate::domain::machine::Machine;
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
                // The event of this transition has the warning in the history of the lease.
                FollowUp::Warn(id) => tracing::info!(lease = %id, "the lease ends soon"),
            }
        }
    }

    /// Runs a preparation or a release. If it panics, reports the outcome as unknown, because the
    /// lease would otherwise keep its state until the next start.
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
            let detail = "otter had an internal error, so the state of the machine is unknown.";
            let unknown = Err(Failure::new(FailureKind::OutcomeUnknown, detail));
            this.submit_with_retry(match state {
                LeaseState::Preparing => LeaseCommand::PrepareFinished(id, unknown),
                _ => LeaseCommand::ReleaseFinished(id, unknown),
            })
            .await;
        }));
    }

    async fn prepare(&self, id: LeaseId) {
        let Some(outcome) = self.run_job(id, LeaseState::Preparing).await else { return };
        self.submit_with_retry(LeaseCommand::PrepareFinished(id, outcome)).await;
    }

    async fn release(&self, id: LeaseId) {
        if !self.cancel_jobs(id).await {
            return;
        }
        let Some(outcome) = self.run_job(id, LeaseState::Releasing).await else { return };
        self.submit_with_retry(LeaseCommand::ReleaseFinished(id, outcome)).await;
    }

    /// Cancels the jobs of a lease and waits until they have ended. Returns false if otter stops
    /// first.
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

    /// Starts the job of a preparation or a release and waits until it has ended. Returns the
    /// outcome of the job. `None` if the lease leaves `state` first, or if otter stops.
    async fn run_job(&self, id: LeaseId, state: LeaseState) -> Option<Result<(), Failure>> {
        let job = loop {
            let lease = self.view(id)?.lease;
            if lease.state != state {
                return None;
            }
            // The host may have given the id to another machine.
            let machine = lease.machine.as_ref().and_then(|machine| {
                let view = self.parts.machines.get(&machine.id)?;
                machine.agrees_with(&view.machine.identity()).then_some(view)
            });
            let started = match machine {
                // The inventory is not loaded yet, or the machine is absent. In the second case the
                // actor ends the lease.
                None => Err(Failure::new(
                    FailureKind::InventoryLoading,
                    "the machine is not in the inventory",
                )),
                Some(machine) => {
                    // The machine may have become protected since its grant.
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
        loop {
            let Ok(ended) = self.parts.jobs.ended(job).await else {
                self.parts.clock.sleep(RETRY_DELAY).await;
                continue;
            };
            let ended = ended?.job;
            return job_outcome(&ended);
        }
    }

    /// Starts the job of a preparation or a release. Returns the existing job if it was started
    /// before.
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

/// The idempotency key by which each grant has at most one preparation and one release.
#[must_use]
fn idempotency_key(lease: &Lease, state: LeaseState, now: Timestamp) -> IdempotencyKey {
    let action = if state == LeaseState::Preparing { "prepare" } else { "release" };
    IdempotencyKey {
        caller: "otter".to_owned(),
        method: "LEASE".to_owned(),
        path: format!("/v1/leases/{}", lease.id),
        key: format!("{action}-{}", lease.grants),
        fingerprint: [0; 32],
        created_at: now,
    }
}

/// The outcome of a job. `None` if it has not ended.
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

/// The request of a preparation or a release, with the ids of its snapshots.
///
/// # Errors
/// `not-found` if the machine does not have the snapshot; `ambiguous-name` if it has several.
fn job_request(lease: &Lease, machine: &Machine, state: LeaseState) -> Result<JobRequest, Failure> {
    let resolve = |name: &Option<String>| -> Result<Option<(SnapshotId, String)>, Failure> {
        let Some(name) = name else { return Ok(None) };
        let snapshot = machines::snapshot(machine, name)?;
        let snapshots = &machine.snapshots;
        let index = snapshots.items.iter().position(|other| other.id == snapshot.id);
        let path =
            index.and_then(|index| snapshots.paths().get(index).cloned()).unwrap_or_default();
        Ok(Some((snapshot.id.clone(), path)))
    };
    Ok(match (state, &lease.prepare) {
        (LeaseState::Preparing, Some(prepare)) => JobRequest::Prepare {
            snapshot: resolve(&prepare.snapshot)?,
            power: prepare.power,
            until: prepare.until,
            cidr: prepare.cidr,
            settle: prepare.settle,
        },
        (LeaseState::Preparing, None) => JobRequest::Prepare {
            snapshot: None,
            power: None,
            until: None,
            cidr: None,
            settle: None,
        },
        _ => JobRequest::Release {
            keep_power: lease.release.keep_power,
            snapshot: resolve(&lease.release.snapshot)?,
        },
    })
}
