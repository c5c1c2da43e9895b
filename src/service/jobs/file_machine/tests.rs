//! The table of the jobs on files: each kind, each result of an effect, each interrupt, and a
//! restart at each effect.

use super::*;
use crate::domain::artifact::Sha256Sum;
use crate::domain::file_job::{FileFact, UploadRequest};
use crate::domain::origin::Actor;
use crate::hypervisor::HostErrorKind;
use crate::service::jobs::lost_call::MAX_SENDS;
use crate::service::jobs::samples::{file_job, start};

const SETTLE: Duration = Duration::from_secs(30);
const BYTES: u64 = 5;

fn upload() -> JobRequest {
    JobRequest::UploadFile(UploadRequest { bytes: BYTES, replace: false, sha256: None })
}

fn received(unchanged: bool) -> FileInput {
    let sha256 = Sha256Sum([1; 32]);
    FileInput::Received(Ok(Received { bytes: BYTES, sha256, unchanged }))
}

fn host_failure(kind: HostErrorKind) -> HostFailure {
    HostFailure {
        kind,
        message: "the host said so".to_owned(),
        fault: None,
        blocking_task: None,
        outcome_uncertain: false,
    }
}

fn lost() -> FileInput {
    FileInput::Called(FileCallResult::Lost(host_failure(HostErrorKind::Unreachable)))
}

fn refused(kind: HostErrorKind) -> FileInput {
    FileInput::Called(FileCallResult::Refused(host_failure(kind)))
}

const fn called() -> FileInput {
    FileInput::Called(FileCallResult::Done)
}

#[expect(clippy::unnecessary_wraps, reason = "the callers pass what a look found, or nothing")]
fn file(bytes: u64) -> Option<FileFact> {
    Some(FileFact { bytes, modified_at: None, is_folder: false, is_empty: false })
}

#[expect(clippy::unnecessary_wraps, reason = "the callers pass what a look found, or nothing")]
fn folder(is_empty: bool) -> Option<FileFact> {
    Some(FileFact { bytes: 0, modified_at: None, is_folder: true, is_empty })
}

fn saw(target: Option<FileFact>) -> FileInput {
    FileInput::Looked(Ok(FileEvidence { target, part: None }))
}

fn saw_part(target: Option<FileFact>) -> FileInput {
    FileInput::Looked(Ok(FileEvidence { target, part: file(BYTES) }))
}

fn unreadable() -> FileInput {
    FileInput::Looked(Err(host_failure(HostErrorKind::Unreachable)))
}

/// Runs a job with these inputs. An effect that only waits, commits, discards or records is
/// answered without an input of the list. Returns the job and the calls that were made.
fn run(request: JobRequest, inputs: &[FileInput]) -> (Job, Vec<&'static str>) {
    let (machine, effect) = FileMachine::new(file_job(request), SETTLE, start());
    run_on(machine, effect, inputs)
}

fn run_on(
    mut machine: FileMachine,
    mut effect: FileEffect,
    inputs: &[FileInput],
) -> (Job, Vec<&'static str>) {
    let (mut inputs, mut made) = (inputs.iter().cloned(), Vec::new());
    loop {
        let input = match &effect {
            FileEffect::Finish => break,
            FileEffect::Receive(_) => {
                made.push("receive");
                inputs.next()
            }
            FileEffect::Call(call) => {
                made.push(call.as_str());
                inputs.next()
            }
            FileEffect::Look => inputs.next(),
            FileEffect::Discard => {
                made.push("discard");
                Some(FileInput::Done)
            }
            FileEffect::Record(_) => {
                made.push("record");
                Some(FileInput::Done)
            }
            _ => Some(FileInput::Done),
        };
        let input = input.unwrap_or_else(|| panic!("{effect:?} has no input; so far {made:?}"));
        effect = machine.step(input, start());
    }
    assert_eq!(inputs.next(), None, "an input is left; the job did {made:?}");
    assert!(machine.job().state.is_end() && machine.job().file_intent.is_none());
    let is_open = |step: &JobStep| step.state == JobStepState::Running;
    assert!(!machine.job().steps.iter().any(is_open));
    (machine.job().clone(), made)
}

fn ended(job: &Job) -> String {
    let code = job.error.as_ref().map(|failure| format!(" {}", failure.kind.code()));
    let changed = job.result.as_ref().map(|result| format!(" {}", result.changed));
    job.state.as_str().to_owned() + &code.unwrap_or_default() + &changed.unwrap_or_default()
}

/// Runs a job with these inputs, and checks its end and the calls that it made.
fn check(request: &JobRequest, inputs: &[FileInput], end: &str, made: &str) {
    let (job, calls) = run(request.clone(), inputs);
    assert_eq!((ended(&job).as_str(), calls.join(" ").as_str()), (end, made), "{inputs:?}");
}

#[test]
fn an_upload_has_the_end_of_its_inputs() {
    use HostErrorKind::{FileExists, Rejected, Unreachable};
    let request = upload();
    let full = FileInput::Received(Err(Failure::new(FailureKind::InsufficientResources, "full")));
    for (inputs, end, made) in [
        (vec![received(false), called()], "succeeded true", "receive move_part record"),
        (vec![received(true)], "succeeded false", "receive"),
        (vec![full], "failed insufficient-resources", "receive"),
        (
            vec![received(false), refused(FileExists)],
            "failed file-exists",
            "receive move_part discard",
        ),
        (
            vec![received(false), refused(Unreachable), called()],
            "succeeded true",
            "receive move_part move_part record",
        ),
    ] {
        check(&request, &inputs, end, made);
    }
    let asked_again = || vec![received(false), lost(), saw_part(None)];
    for (more, end, made) in [
        (vec![called()], "succeeded true", "record"),
        (vec![refused(Rejected), saw(file(BYTES))], "succeeded true", "record"),
        (vec![refused(Rejected), saw_part(None)], "failed host-rejected", "discard"),
        (vec![refused(Rejected), unreadable()], "unknown outcome-unknown", "discard"),
        (vec![refused(Unreachable), saw(file(BYTES))], "succeeded true", "record"),
    ] {
        let inputs: Vec<FileInput> = asked_again().into_iter().chain(more).collect();
        check(&request, &inputs, end, &format!("receive move_part move_part {made}"));
    }
    let moved = [received(false), lost(), unreadable(), saw(file(BYTES))];
    check(&request, &moved, "succeeded true", "receive move_part record");
    let gone = [received(false), lost(), saw(None)];
    check(&request, &gone, "unknown outcome-unknown", "receive move_part discard");
}

#[test]
fn a_deletion_has_the_end_of_its_inputs() {
    let request = JobRequest::DeleteFile;
    for (inputs, end, made) in [
        (vec![saw(file(3)), called()], "succeeded true", "delete_file"),
        (vec![unreadable(), saw(folder(true)), called()], "succeeded true", "delete_file"),
        (vec![saw(None)], "failed not-found", ""),
        (vec![saw(folder(false))], "failed folder-not-empty", ""),
        (
            vec![saw(file(3)), refused(HostErrorKind::FileInUse)],
            "failed file-in-use",
            "delete_file",
        ),
        // The host is away for a moment, so the job looks again before it asks again.
        (
            vec![saw(file(3)), refused(HostErrorKind::Unreachable), saw(None)],
            "failed not-found",
            "delete_file",
        ),
        (vec![saw(file(3)), lost(), saw(None)], "succeeded true", "delete_file"),
        (
            vec![saw(file(3)), lost(), saw(file(3)), called()],
            "succeeded true",
            "delete_file delete_file",
        ),
        (vec![saw(file(3)), lost(), saw(file(4))], "unknown outcome-unknown", "delete_file"),
    ] {
        check(&request, &inputs, end, made);
    }
}

#[test]
fn a_new_folder_has_the_end_of_its_inputs() {
    let request = JobRequest::CreateFolder;
    let forbidden = || host_failure(HostErrorKind::Forbidden);
    for (inputs, end, made) in [
        (vec![saw(None), called()], "succeeded true", "create_folder"),
        (vec![saw(folder(false))], "succeeded false", ""),
        (vec![saw(file(1))], "failed file-exists", ""),
        (
            vec![saw(None), refused(HostErrorKind::Forbidden)],
            "failed forbidden-by-host",
            "create_folder",
        ),
        (vec![saw(None), lost(), saw(folder(true))], "succeeded true", "create_folder"),
        (
            vec![saw(None), lost(), saw(None), lost(), saw(folder(true))],
            "succeeded true",
            "create_folder create_folder",
        ),
        (
            vec![saw(None), lost(), FileInput::Looked(Err(forbidden()))],
            "unknown outcome-unknown",
            "create_folder",
        ),
    ] {
        check(&request, &inputs, end, made);
    }
}

#[test]
fn a_call_is_not_sent_more_often_than_allowed() {
    let again = [lost(), saw(file(3))];
    let most = MAX_SENDS as usize;
    let inputs: Vec<FileInput> =
        [saw(file(3))].into_iter().chain(again.into_iter().cycle().take(2 * most)).collect();
    let (job, calls) = run(JobRequest::DeleteFile, &inputs);
    assert_eq!((job.state, calls.len()), (JobState::Unknown, most));
}

#[test]
fn the_result_of_an_upload_has_what_was_sent() {
    let (job, _) = run(upload(), &[received(false), called()]);
    let written = job.result.unwrap().file.unwrap();
    assert_eq!(written.path, "[isos] iso/qubes.iso");
    assert_eq!(written.sent, Some((BYTES, Sha256Sum([1; 32]))));
    let (job, _) = run(JobRequest::DeleteFile, &[saw(file(3)), called()]);
    assert_eq!(job.result.unwrap().file.unwrap().sent, None);
}

/// The state machine of an upload at its effect with this number, with the job as the last commit
/// stored it.
fn upload_at(number: usize) -> (FileMachine, FileEffect, Job) {
    let mut inputs = [received(false), called()].into_iter();
    let fresh = file_job(upload());
    let (mut machine, mut effect) = FileMachine::new(fresh.clone(), SETTLE, start());
    let mut stored = fresh;
    for _ in 0..number {
        let input = match &effect {
            FileEffect::Receive(_) | FileEffect::Call(_) => inputs.next().unwrap(),
            FileEffect::Save => {
                stored = machine.job().clone();
                FileInput::Done
            }
            _ => FileInput::Done,
        };
        effect = machine.step(input, start());
    }
    (machine, effect, stored)
}

#[test]
fn a_restart_at_each_effect_of_an_upload_leaves_no_part_file() {
    let mut seen = Vec::new();
    for number in 0.. {
        let (_, effect, stored) = upload_at(number);
        let inputs = match &stored {
            stored if stored.state.is_end() => Vec::new(),
            // The part file is whole, and the move did not run.
            Job { file_intent: Some(_), .. } => vec![saw_part(None), called()],
            stored if stored.steps.is_empty() => {
                let gone = Failure::new(FailureKind::ShuttingDown, "no body");
                vec![FileInput::Received(Err(gone))]
            }
            _ => Vec::new(),
        };
        if stored.state.is_end() {
            break;
        }
        let (machine, first) = FileMachine::new(stored, SETTLE, start());
        let (job, calls) = run_on(machine, first, &inputs);
        seen.push(ended(&job));
        let expected: &[&str] = match effect {
            FileEffect::Enter => &["receive"],
            FileEffect::Save if number == 1 => &["receive"],
            FileEffect::Receive(_) => &["discard"],
            FileEffect::Save if number == 3 => &["discard"],
            _ => &["move_part", "record"],
        };
        assert_eq!(calls, expected, "{effect:?}");
    }
    assert!(seen.contains(&"failed shutting-down".to_owned()), "{seen:?}");
    assert!(seen.contains(&"succeeded true".to_owned()), "{seen:?}");
}

#[test]
fn a_cancelled_upload_discards_its_part_file_until_the_move_is_sent() {
    for number in 0.. {
        let (mut machine, effect, _) = upload_at(number);
        if machine.job().state.is_end() {
            break;
        }
        let instead = machine.interrupt(&Interrupt::Cancel(Actor::otter()), start());
        let inputs = match effect {
            FileEffect::Call(_) => vec![called()],
            _ => Vec::new(),
        };
        let (job, calls) = run_on(machine, instead.unwrap_or_else(|| effect.clone()), &inputs);
        let (end, made): (&str, &[&str]) = match effect {
            FileEffect::Enter => ("cancelled job-cancelled", &[]),
            FileEffect::Call(_) => ("succeeded true", &["move_part", "record"]),
            FileEffect::Record(_) => ("succeeded true", &["record"]),
            _ => ("cancelled job-cancelled", &["discard"]),
        };
        assert_eq!((ended(&job).as_str(), calls.as_slice()), (end, made), "{effect:?}");
    }
}

#[test]
fn the_deadline_ends_a_job_that_waits_for_the_host() {
    let deadline = Interrupt::Deadline { question: false };
    let (mut machine, _) = FileMachine::new(file_job(JobRequest::DeleteFile), SETTLE, start());
    assert_eq!(machine.step(FileInput::Done, start()), FileEffect::Look);
    assert_eq!(machine.step(unreadable(), start()), FileEffect::AwaitHost(RETRY_PAUSE));
    let effect = machine.interrupt(&deadline, start()).unwrap();
    let (job, _) = run_on(machine, effect, &[]);
    assert_eq!(ended(&job), "failed deadline-exceeded");
    assert_eq!(job.error.unwrap().cause, Some(FailureKind::HostUnreachable));
}

#[test]
fn after_the_grace_a_lost_call_is_unknown() {
    let (mut machine, _) = FileMachine::new(file_job(JobRequest::CreateFolder), SETTLE, start());
    machine.step(FileInput::Done, start());
    assert_eq!(machine.step(saw(None), start()), FileEffect::Save);
    assert_eq!(machine.step(FileInput::Done, start()), FileEffect::Call(FileCall::CreateFolder));
    assert_eq!(machine.step(lost(), start()), FileEffect::AwaitHost(Duration::ZERO));
    assert!(machine.is_settling());
    let deadline = Interrupt::Deadline { question: false };
    assert_eq!(machine.interrupt(&deadline, start()), None);
    let effect = machine.interrupt(&Interrupt::GraceOver, start()).unwrap();
    let (job, _) = run_on(machine, effect, &[]);
    assert_eq!(ended(&job), "unknown outcome-unknown");
}
