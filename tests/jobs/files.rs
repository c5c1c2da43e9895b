//! Jobs on files: their queue, their exclusions, their ends, and restarts.

use otter::domain::artifact::Sha256Sum;
use otter::domain::failure::FailureKind;
use otter::domain::file_job::UploadRequest;
use otter::domain::ids::JobId;
use otter::domain::job::{Job, JobKind, JobRequest, JobState, JobStepState, StepName};
use otter::domain::origin::Actor;
use otter::service::jobs::BlockedByKind;
use otter::storage::{JobFilter, Storage as _};

use super::fixture::JobsFixture;
use crate::in_process::FileCallBehavior::{Hang, Lose, Refuse, RunAndLose};

const PATH: &str = "iso/qubes.iso";

fn upload(replace: bool) -> JobRequest {
    JobRequest::UploadFile(UploadRequest { bytes: 5, replace, sha256: None })
}

/// Waits until the upload has a part file.
async fn receiving(fixture: &JobsFixture, job: JobId) {
    let part = format!("{PATH}.{job}.otter-part");
    fixture.files.until(|files| files.paths().contains(&part)).await;
}

async fn stored(fixture: &JobsFixture, id: JobId) -> Job {
    fixture.store.job(id).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_upload_has_its_name_only_when_it_is_whole() {
    let fixture = JobsFixture::new(1).await;
    let id = fixture.start_on_file(PATH, upload(false)).await;
    receiving(&fixture, id).await;
    let running = stored(&fixture, id).await;
    assert_eq!((running.state, running.steps[0].name), (JobState::Running, StepName::Transfer));
    let kinds = vec![JobKind::FileUpload];
    let states = vec![JobState::Running];
    let filter = JobFilter { kinds, states, ..JobFilter::default() };
    let listed = fixture.jobs.list(&filter, None, 10, None).await.unwrap();
    assert_eq!(listed.items.iter().map(|view| view.job.id).collect::<Vec<_>>(), [id]);
    fixture.files.send_body(id);
    let job = fixture.end(id).await.job;
    assert_eq!((job.state, job.machine_id()), (JobState::Succeeded, None));
    let result = job.result.clone().unwrap();
    let file = result.file.unwrap();
    assert!(result.changed);
    assert_eq!(
        (file.path.as_str(), file.sent),
        ("[isos] iso/qubes.iso", Some((5, Sha256Sum([7; 32]))))
    );
    assert_eq!(fixture.files.paths(), [PATH]);
    assert_eq!(fixture.files.recorded(), [id]);
}

#[tokio::test]
async fn an_upload_that_fails_or_is_cancelled_leaves_nothing() {
    let fixture = JobsFixture::new(1).await;
    let wrong = UploadRequest { bytes: 5, replace: false, sha256: Some(Sha256Sum([1; 32])) };
    let id = fixture.start_on_file(PATH, JobRequest::UploadFile(wrong)).await;
    fixture.files.send_body(id);
    let job = fixture.end(id).await.job;
    assert_eq!(job.error.as_ref().unwrap().kind, FailureKind::InvalidRequest);
    assert_eq!(job.state, JobState::Failed);

    let id = fixture.start_on_file(PATH, upload(false)).await;
    receiving(&fixture, id).await;
    fixture.jobs.cancel(id, Actor::otter()).await.unwrap();
    assert_eq!(fixture.end(id).await.job.state, JobState::Cancelled);

    fixture.files.set_behavior(&[Refuse]);
    let id = fixture.start_on_file(PATH, upload(false)).await;
    fixture.files.send_body(id);
    let job = fixture.end(id).await.job;
    assert_eq!(job.error.as_ref().unwrap().kind, FailureKind::HostRejected);
    assert_eq!(fixture.files.paths(), Vec::<String>::new());
    assert_eq!(fixture.files.recorded(), []);
}

#[tokio::test]
async fn one_job_at_a_time_works_on_a_path() {
    let fixture = JobsFixture::new(1).await;
    let first = fixture.start_on_file(PATH, upload(false)).await;
    let second = fixture.start_on_file(PATH, upload(false)).await;
    let elsewhere = fixture.start_on_file("iso/other.iso", upload(false)).await;
    receiving(&fixture, first).await;
    let waiting = fixture.jobs.get(second).await.unwrap().unwrap();
    assert_eq!((waiting.job.state, waiting.position), (JobState::Queued, Some(1)));
    assert_eq!(waiting.blocked_by.unwrap().kind, BlockedByKind::Job);
    fixture.files.send_body(elsewhere);
    assert_eq!(fixture.end(elsewhere).await.job.state, JobState::Succeeded);
    fixture.files.send_body(first);
    assert_eq!(fixture.end(first).await.job.state, JobState::Succeeded);
    fixture.files.send_body(second);
    let refused = fixture.end(second).await.job;
    assert_eq!(refused.error.as_ref().unwrap().kind, FailureKind::FileExists);
    let replacing = fixture.start_on_file(PATH, upload(true)).await;
    fixture.files.send_body(replacing);
    assert_eq!(fixture.end(replacing).await.job.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_folder_is_deleted_only_if_it_stays_empty() {
    let fixture = JobsFixture::new(1).await;
    fixture.files.add_folder("iso");
    let uploading = fixture.start_on_file(PATH, upload(false)).await;
    receiving(&fixture, uploading).await;
    let deleting = fixture.start_on_file("iso", JobRequest::DeleteFile).await;
    fixture.files.send_body(uploading);
    assert_eq!(fixture.end(uploading).await.job.state, JobState::Succeeded);
    let refused = fixture.end(deleting).await.job;
    assert_eq!(refused.error.as_ref().unwrap().kind, FailureKind::FolderNotEmpty);
    for path in [PATH, "iso"] {
        let deleting = fixture.start_on_file(path, JobRequest::DeleteFile).await;
        assert_eq!(fixture.end(deleting).await.job.state, JobState::Succeeded, "{path}");
    }
    let gone = fixture.start_on_file("iso", JobRequest::DeleteFile).await;
    let gone = fixture.end(gone).await.job;
    assert_eq!(gone.error.as_ref().unwrap().kind, FailureKind::NotFound);
    for changed in [true, false] {
        let creating = fixture.start_on_file("iso", JobRequest::CreateFolder).await;
        let created = fixture.end(creating).await.job;
        assert_eq!(created.result.as_ref().unwrap().changed, changed);
    }
}

#[tokio::test]
async fn a_lost_answer_is_resolved_from_the_files() {
    let fixture = JobsFixture::new(1).await;
    for (behaviors, calls) in [(vec![RunAndLose], 1), (vec![Lose], 2), (vec![Lose, RunAndLose], 2)]
    {
        fixture.files.set_behavior(&behaviors);
        let before = fixture.files.calls().len();
        let id = fixture.start_on_file(PATH, upload(true)).await;
        fixture.files.send_body(id);
        let job = fixture.end_as_time_passes(id).await.job;
        assert_eq!(job.state, JobState::Succeeded, "{behaviors:?}");
        assert_eq!(fixture.files.calls().len() - before, calls, "{behaviors:?}");
        assert_eq!(fixture.files.paths(), [PATH]);
    }
    fixture.files.set_behavior(&[Lose; 4]);
    let id = fixture.start_on_file(PATH, JobRequest::DeleteFile).await;
    assert_eq!(fixture.end_as_time_passes(id).await.job.state, JobState::Unknown);
}

#[tokio::test]
async fn a_restart_ends_an_upload_and_finishes_its_move() {
    let mut fixture = JobsFixture::new(1).await;
    let id = fixture.start_on_file(PATH, upload(false)).await;
    receiving(&fixture, id).await;
    fixture.stop().await;
    assert_eq!(fixture.restart().await, 1);
    let job = fixture.end(id).await.job;
    assert_eq!(job.error.as_ref().unwrap().kind, FailureKind::ShuttingDown);
    assert_eq!(job.steps[0].state, JobStepState::Failed);
    assert_eq!(fixture.files.paths(), Vec::<String>::new());

    // The daemon dies while the host moves the part file.
    fixture.files.set_behavior(&[Hang]);
    let id = fixture.start_on_file(PATH, upload(false)).await;
    fixture.files.send_body(id);
    fixture.files.until(|files| !files.calls().is_empty()).await;
    let intent = stored(&fixture, id).await.file_intent.unwrap();
    assert_eq!((intent.asked, intent.received.unwrap().bytes), (1, 5));
    fixture.restart().await;
    let job = fixture.end_as_time_passes(id).await.job;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(fixture.files.paths(), [PATH]);
}

#[tokio::test]
async fn a_queued_upload_is_cancelled_before_its_turn() {
    let fixture = JobsFixture::new(1).await;
    let first = fixture.start_on_file(PATH, upload(false)).await;
    let second = fixture.start_on_file(PATH, upload(false)).await;
    receiving(&fixture, first).await;
    let cancelled = fixture.jobs.cancel(second, Actor::otter()).await.unwrap().unwrap();
    assert_eq!(cancelled.job.state, JobState::Cancelled);
    assert!(cancelled.job.steps.is_empty());
    fixture.files.send_body(first);
    let job = fixture.end(first).await.job;
    assert_eq!(job.state, JobState::Succeeded);
    let limit = job.deadline_at.duration_since(job.created_at);
    assert!(limit.as_hours() > 8_000, "no total time ends an upload");
}
