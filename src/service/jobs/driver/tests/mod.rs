//! The driver under test: each row of the judgement table, each interrupt, and random schedules in
//! a model world.

mod cells;
mod schedules;
mod world;

use std::time::Duration;

use super::{Driver, Rules};
use crate::domain::call::HostCall;
use crate::domain::ids::{QuestionId, SnapshotId};
use crate::domain::job::JobRequest;
use crate::domain::lease::Readiness;
use crate::domain::origin::Actor;
use crate::domain::power::PowerState;
use crate::service::jobs::samples::{job, start};

const RULES: Rules = Rules { settle: Duration::from_secs(30) };

fn revert(power_on: Option<bool>) -> JobRequest {
    JobRequest::Revert {
        snapshot: SnapshotId::from_backend("kickstart"),
        path: "kickstart".to_owned(),
        power_on,
    }
}

/// Every request but those of power and reverts.
fn others() -> Vec<JobRequest> {
    let snapshot = || SnapshotId::from_backend("kickstart");
    let path = || "base/kickstart".to_owned();
    vec![
        JobRequest::Suspend,
        JobRequest::Shutdown { force_after: None },
        JobRequest::Shutdown { force_after: Some(Duration::from_mins(1)) },
        JobRequest::Reboot,
        JobRequest::Answer { question: QuestionId::from_backend("q"), choice: "4".to_owned() },
        create_request(),
        remove(false),
        remove(true),
        JobRequest::RemoveAllSnapshots,
        JobRequest::Prepare {
            snapshot: Some((SnapshotId::from_backend("kickstart"), "kickstart".to_owned())),
            power: Some(PowerState::On),
            until: Some(Readiness::Tools),
            settle: Some(Duration::from_mins(1)),
        },
        JobRequest::Prepare {
            snapshot: None,
            power: Some(PowerState::Off),
            until: None,
            settle: None,
        },
        JobRequest::Release { keep_power: false, snapshot: None },
        JobRequest::Release {
            keep_power: false,
            snapshot: Some((SnapshotId::from_backend("kickstart"), "kickstart".to_owned())),
        },
        JobRequest::RenameSnapshot {
            snapshot: snapshot(),
            path: path(),
            name: Some("renamed".to_owned()),
            description: None,
        },
    ]
}

fn remove(children: bool) -> JobRequest {
    let (snapshot, path) = (SnapshotId::from_backend("kickstart"), "base/kickstart".to_owned());
    JobRequest::RemoveSnapshot { snapshot, path, children }
}

fn create_request() -> JobRequest {
    let (name, description) = ("new".to_owned(), String::new());
    JobRequest::CreateSnapshot { name, description, memory: false, quiesce: false }
}

fn create(name: &str) -> HostCall {
    let (name, description) = (name.to_owned(), String::new());
    HostCall::CreateSnapshot { name, description, memory: false, quiesce: false }
}

#[test]
fn a_jump_of_the_wall_clock_does_not_change_an_end() {
    let mut driver = Driver::queued(job(JobRequest::PowerOn), RULES);
    driver.cancel_queued(Actor::otter(), start());
    let ended = driver.job().clone();
    driver.shift_deadline(jiff::SignedDuration::from_hours(1), start());
    assert_eq!(*driver.job(), ended);
}
