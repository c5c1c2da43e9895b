//! The rules by which a job is accepted, and the first state of an accepted job. Pure. Idempotency
//! keys and the limits of the queues are checked elsewhere.

use std::time::Duration;

use jiff::Timestamp;

use super::authorization::Requester;
use super::queue::QueueLimit;
use super::{Deadlines, NewFileJob, NewJob};
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::ids::JobId;
use crate::domain::job::{Job, JobRequest, JobState, JobTarget};
use crate::domain::machine::Machine;
use crate::hypervisor::SessionState;
use crate::service::machines::shorten;

/// Creates the requested job with this id, or refuses it.
///
/// # Errors
/// `question-pending`; `invalid-request` if `force_after` is not before the deadline.
pub fn admit(
    new: NewJob,
    id: JobId,
    now: Timestamp,
    deadlines: &Deadlines,
) -> Result<Job, Failure> {
    let NewJob { machine, request, requester, reference, deadline, key: _ } = new;
    let kind = request.kind();
    // A job that otter itself starts is not refused because of a question: it waits for the answer.
    let waits_for_answer = !kind.ignores_blockers() && !requester.is_internal();
    if let Some(question) = machine.question.as_ref().filter(|_| waits_for_answer) {
        let detail = format!(
            "{} waits for the answer to a question ({}); answer it first: {}",
            machine.name, question.id, question.text
        );
        return Err(Failure::new(FailureKind::QuestionPending, detail)
            .with_machine(&machine.id, &machine.name));
    }
    let deadline = deadline.unwrap_or(deadlines.for_kind(kind));
    if let JobRequest::Shutdown { force_after: Some(after) } = request
        && after >= deadline
    {
        let detail = format!(
            "force_after is {} and the job's deadline {}: the machine would never be powered \
             off. Give a longer deadline.",
            duration::format(after),
            duration::format(deadline)
        );
        let place = InputError {
            pointer: Some("/force_after".to_owned()),
            parameter: None,
            code: "not-reached".into(),
            detail: detail.clone(),
        };
        return Err(Failure::new(FailureKind::InvalidRequest, detail).with_error(place));
    }
    let (target, name) = (JobTarget::Machine(machine.identity()), machine.name.clone());
    Ok(queued(id, target, name, request, &requester, reference, deadline, now))
}

/// Creates a job on a file with this id.
#[must_use]
pub fn admit_file(new: NewFileJob, now: Timestamp, deadlines: &Deadlines) -> Job {
    let NewFileJob { id, target, request, requester, reference, deadline, key: _ } = new;
    let deadline = deadline.unwrap_or(deadlines.for_kind(request.kind()));
    let name = target.text();
    queued(id, JobTarget::File(target), name, request, &requester, reference, deadline, now)
}

#[expect(clippy::too_many_arguments, reason = "what an accepted job begins with")]
fn queued(
    id: JobId,
    target: JobTarget,
    target_name: String,
    request: JobRequest,
    requester: &Requester,
    reference: Option<String>,
    deadline: Duration,
    now: Timestamp,
) -> Job {
    Job {
        id,
        state: JobState::Queued,
        target,
        target_name,
        request,
        phase: "queued".to_owned(),
        steps: Vec::new(),
        cancel_requested_at: None,
        cancel_requested_by: None,
        created_at: now,
        updated_at: now,
        started_at: None,
        finished_at: None,
        deadline_at: now.saturating_add(deadline).unwrap_or(Timestamp::MAX),
        requested_by: requester.caller.name.to_string(),
        origin: requester.caller.origin,
        reference,
        lease: None,
        authority: requester.authority(),
        result: None,
        warnings: Vec::new(),
        error: None,
        host_task: None,
        intent: None,
        file_intent: None,
    }
}

/// Refuses an answer to a question that the machine does not ask.
///
/// # Errors
/// `not-found`
pub fn has_question(machine: &Machine, request: &JobRequest) -> Result<(), Failure> {
    let JobRequest::Answer { question, .. } = request else { return Ok(()) };
    let waits = match &machine.question {
        Some(pending) if pending.id == *question => return Ok(()),
        Some(other) => {
            let given = shorten(&question.to_string());
            format!("waits on the question {}, not on {given}", other.id)
        }
        None => "waits on no question, so there is nothing to answer".to_owned(),
    };
    let detail = format!("{} {waits}. Nothing was done.", machine.name);
    let failure = Failure::new(FailureKind::NotFound, detail.clone());
    Err(failure.with_machine(&machine.id, &machine.name).with_error(InputError {
        pointer: Some("/question".to_owned()),
        parameter: None,
        code: "not-pending".into(),
        detail,
    }))
}

/// Refuses a job if the host has been unreachable for too long.
///
/// # Errors
/// `host-login-refused`, or `host-unreachable` once the outage is longer than `grace`.
pub fn require_host_available(
    state: SessionState,
    away: Duration,
    grace: Duration,
) -> Result<(), Failure> {
    match state {
        SessionState::LoginRefused { reason } => Err(Failure::new(
            FailureKind::HostLoginRefused,
            format!("The host refuses otter's account, so nothing can be done on it: {reason}"),
        )),
        _ if away < grace => Ok(()),
        SessionState::Away { reason } => Err(Failure::new(
            FailureKind::HostUnreachable,
            format!(
                "The host has been away for {} s; try again later. It last said: {reason}",
                away.as_secs()
            ),
        )),
        _ => Err(Failure::new(
            FailureKind::HostUnreachable,
            "The host has not been reached yet; try again later.",
        )),
    }
}

/// The failure of a job that exceeds a limit of the queues.
///
/// # Parameters
/// - `target`: the name of the machine or file.
pub fn queue_full(full: QueueLimit, target: &str) -> Failure {
    let detail = match full {
        QueueLimit::Machine => {
            format!("Too many jobs wait for {target}; try again once some have ended.")
        }
        QueueLimit::All => "Too many jobs wait in all; try again once some have ended.".to_owned(),
    };
    Failure::new(FailureKind::QueueFull, detail)
}
