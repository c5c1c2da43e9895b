//! Jobs on a machine and on a file, and the evidence of a machine, for the tests of jobs.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::domain::access::Authority;
use crate::domain::call::{Evidence, SnapshotEvidence};
use crate::domain::file_job::FileTarget;
use crate::domain::file_path::FilePath;
use crate::domain::ids::{DatastoreId, JobId, SnapshotId};
use crate::domain::job::{Job, JobRequest, JobState, JobTarget};
use crate::domain::media::{BootMedia, CdDrive};
use crate::domain::origin::RequestOrigin;
use crate::domain::power::PowerState;
use crate::service::inventory::samples;

#[must_use]
pub fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// A job that was accepted at [`start`] and whose deadline is ten minutes later.
#[must_use]
pub fn job(request: JobRequest) -> Job {
    let machine = samples::machine("16", "qubes");
    Job {
        id: JobId::new(Uuid::from_u128(7)),
        state: JobState::Queued,
        target: JobTarget::Machine(machine.identity()),
        target_name: machine.name,
        request,
        phase: "queued".to_owned(),
        steps: Vec::new(),
        cancel_requested_at: None,
        cancel_requested_by: None,
        created_at: start(),
        updated_at: start(),
        started_at: None,
        finished_at: None,
        deadline_at: start() + SignedDuration::from_mins(10),
        requested_by: "anonymous".to_owned(),
        origin: RequestOrigin::default(),
        reference: None,
        lease: None,
        authority: Authority::Operator,
        result: None,
        warnings: Vec::new(),
        error: None,
        host_task: None,
        intent: None,
        file_intent: None,
    }
}

/// A job that runs on the file `iso/qubes.iso`, with the times of [`job`].
#[must_use]
pub fn file_job(request: JobRequest) -> Job {
    let target = FileTarget {
        datastore: DatastoreId::from_backend("ds-1"),
        datastore_name: "isos".to_owned(),
        path: FilePath::parse("iso/qubes.iso").unwrap(),
    };
    Job {
        state: JobState::Running,
        started_at: Some(start()),
        target_name: target.text(),
        target: JobTarget::File(target),
        ..job(request)
    }
}

/// The evidence of a machine with one snapshot, `base`, which is current.
#[must_use]
pub fn evidence(power_state: PowerState) -> Evidence {
    Evidence {
        identity: samples::machine("16", "qubes").identity(),
        power_state: Some(power_state),
        current_snapshot: Some(SnapshotId::from_backend("16-snapshot-1")),
        snapshots: vec![snapshot_evidence("16-snapshot-1", None, "base")],
        tools_running: true,
        question: None,
        consolidation_needed: Some(true),
        host_boot_time: None,
        recent_tasks: Vec::new(),
        media: BootMedia::default(),
    }
}

/// The first CD drive of a machine with this ISO in it, or without one.
#[must_use]
pub fn drive(iso: Option<&str>) -> CdDrive {
    let empty = CdDrive {
        key: 3000,
        label: "CD/DVD drive 1".to_owned(),
        controller: Some(200),
        unit: Some(0),
        iso: None,
        connected: false,
        connects_at_power_on: false,
    };
    empty.with(iso)
}

#[must_use]
pub fn snapshot_evidence(id: &str, parent: Option<&str>, name: &str) -> SnapshotEvidence {
    SnapshotEvidence {
        id: SnapshotId::from_backend(id),
        parent: parent.map(SnapshotId::from_backend),
        name: name.to_owned(),
        description: String::new(),
    }
}
