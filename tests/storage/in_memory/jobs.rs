//! The tables of jobs, of the keys of the calls that start them, and of the snapshots that they
//! created under leases.

use std::collections::BTreeSet;

use otter::domain::audit::AuditRecord;
use otter::domain::ids::{JobId, LeaseId, SnapshotId};
use otter::domain::job::{Job, JobRequest, JobState};
use otter::domain::machine::MachineIdentity;
use otter::storage::{
    IdempotencyKey, JobCursor, JobFilter, JobPage, KeyOwner, StorageError, StoredKey,
};
use otter::store::document;

use super::tables::{Key, Row, Tables, by_arrival, call, conflict, next_arrival};

/// The end of a job, in microseconds. `None` if it has not ended.
pub fn ended_at(job: &Job) -> Option<i64> {
    job.state.is_end().then(|| job.finished_at.unwrap_or(job.updated_at).as_microsecond())
}

/// The job that a read returns: the document of a job does not contain every value.
fn read(job: &Job) -> Job {
    document::decode(document::VERSION, &document::encode(job).unwrap()).unwrap()
}

impl Tables {
    pub fn insert_job(
        &mut self,
        job: Job,
        key: Option<&IdempotencyKey>,
        audit: Vec<AuditRecord>,
    ) -> Result<(), StorageError> {
        if self.jobs.contains_key(&job.id) {
            return Err(conflict("a job with this id exists"));
        }
        if key.is_some_and(|key| self.keys.contains_key(&call(key))) {
            return Err(conflict("the key exists"));
        }
        if let Some(key) = key {
            self.keys.insert(call(key), Key::new(key, job.id));
        }
        let arrival = next_arrival(&self.jobs);
        self.jobs.insert(job.id, Row { arrival, record: job });
        self.append_audit(audit);
        Ok(())
    }

    pub fn update_job(&mut self, job: &Job) -> Result<Vec<AuditRecord>, StorageError> {
        let stored = self.jobs.get_mut(&job.id).ok_or(StorageError::NoSuchJob(job.id))?;
        if stored.record.state.is_end() {
            return Err(StorageError::AlreadyEnded(job.id));
        }
        let mut records = Vec::new();
        if stored.record.state == JobState::Queued {
            records.extend(AuditRecord::job_started(job));
        }
        if stored.record.cancel_requested_at.is_none() {
            records.extend(AuditRecord::job_cancel_requested(job));
        }
        if job.state.is_end() {
            records.push(AuditRecord::job_ended(job));
        }
        stored.record = job.clone();
        self.record_snapshots(job);
        self.append_audit(records.clone());
        Ok(records)
    }

    fn record_snapshots(&mut self, job: &Job) {
        let Some(machine) = job.target.machine().filter(|_| job.state == JobState::Succeeded)
        else {
            return;
        };
        let machine = machine.key();
        match &job.request {
            JobRequest::CreateSnapshot { .. } => {
                let made = job.result.as_ref().and_then(|result| result.snapshot.clone());
                let Some(snapshot) = made else { return };
                self.created_snapshots.remove(&(machine.clone(), snapshot.clone()));
                if let Some(lease) = job.lease {
                    self.created_snapshots.insert((machine, snapshot), lease);
                }
            }
            JobRequest::RemoveSnapshot { snapshot, .. } => {
                self.created_snapshots.remove(&(machine, snapshot.clone()));
            }
            JobRequest::RemoveAllSnapshots => {
                self.created_snapshots.retain(|(of, _), _| *of != machine);
            }
            _ => {}
        }
    }

    pub fn job(&self, id: JobId) -> Option<Job> {
        self.jobs.get(&id).map(|row| read(&row.record))
    }

    pub fn list_jobs(&self, filter: &JobFilter, after: Option<JobCursor>, limit: usize) -> JobPage {
        let place = |job: &Job| (job.created_at.as_microsecond(), job.id);
        let mut jobs: Vec<&Job> = self.jobs.values().map(|row| &row.record).collect();
        jobs.retain(|job| passes(filter, job));
        jobs.retain(|job| after.is_none_or(|after| place(job) < (after.created_at, after.id)));
        jobs.sort_by_key(|job| std::cmp::Reverse(place(job)));
        let more = jobs.len() > limit;
        jobs.truncate(limit);
        let next = if more { jobs.last().map(|job| JobCursor::after(job)) } else { None };
        JobPage { items: jobs.into_iter().map(read).collect(), next }
    }

    pub fn unfinished_jobs(&self) -> Vec<Job> {
        by_arrival(self.jobs.values().filter(|row| !row.record.state.is_end())).map(read).collect()
    }

    pub fn find_key(&self, key: &IdempotencyKey) -> Option<StoredKey> {
        let job = self
            .keys
            .get(&call(key))
            .map(|stored| (KeyOwner::Job(stored.owner), stored.fingerprint));
        let lease = self
            .lease_keys
            .get(&call(key))
            .map(|stored| (KeyOwner::Lease(stored.owner), stored.fingerprint));
        let (owner, fingerprint) = job.or(lease)?;
        Some(StoredKey { owner, fingerprint_matches: fingerprint == key.fingerprint })
    }

    pub fn snapshots_made_under(
        &self,
        machine: &MachineIdentity,
        lease: LeaseId,
    ) -> BTreeSet<SnapshotId> {
        let machine = machine.key();
        let made = self
            .created_snapshots
            .iter()
            .filter(|((of, _), under)| *of == machine && **under == lease);
        made.map(|((_, snapshot), _)| snapshot.clone()).collect()
    }
}

fn passes(filter: &JobFilter, job: &Job) -> bool {
    let JobFilter { states, machine, kinds, requested_by, reference, lease } = filter;
    (states.is_empty() || states.contains(&job.state))
        && machine.as_ref().is_none_or(|machine| job.machine_id() == Some(machine))
        && (kinds.is_empty() || kinds.contains(&job.kind()))
        && requested_by.as_ref().is_none_or(|requested_by| *requested_by == job.requested_by)
        && reference.as_ref().is_none_or(|reference| Some(reference) == job.reference.as_ref())
        && lease.is_none_or(|lease| Some(lease) == job.lease)
}
