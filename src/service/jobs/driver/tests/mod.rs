//! The driver under test: each row of the judgement table, each interrupt, and random schedules in a model world.

mod cells;
mod schedules;
mod world;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::Rules;
use crate::domain::ids::{JobId, SnapshotId};
use crate::domain::job::{Job, JobRequest, JobState};
use crate::service::inventory::samples;

const RULES: Rules = Rules { settle: std::time::Duration::from_secs(30) };

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn job(request: JobRequest) -> Job {
    let machine = samples::machine("16", "qubes");
    Job {
        id: JobId::new(Uuid::from_u128(7)),
        state: JobState::Queued,
        machine: machine.identity(),
        machine_name: machine.name,
        request,
        phase: "queued".to_owned(),
        steps: Vec::new(),
        cancel_requested_at: None,
        created_at: start(),
        updated_at: start(),
        started_at: None,
        finished_at: None,
        deadline_at: start() + SignedDuration::from_mins(10),
        requested_by: "anonymous".to_owned(),
        reference: None,
        result: None,
        warnings: Vec::new(),
        error: None,
        host_task: None,
        intent: None,
    }
}

fn revert(power_on: Option<bool>) -> JobRequest {
    JobRequest::Revert { snapshot: SnapshotId::new("kickstart"), path: "kickstart".to_owned(), power_on }
}
