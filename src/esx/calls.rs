//! The calls that change something. Each is sent once; only a refusal for want of a session, which
//! proves that it did not run, is followed by a second sending after the login.

use super::reader::denied;
use super::session::{ExchangeError, Live, Session, Verdict};
use super::soap::Reference;
use super::soap::fault::VimFault;
use super::soap::request::{self, Request};
use super::soap::response::Reply;
use super::transport::Patience;
use crate::domain::call::HostCall;
use crate::domain::ids::{JobId, MachineId, SnapshotId, TaskId};
use crate::domain::names::escape_vim;
use crate::hypervisor::{Accepted, CallError, HostError, HostErrorKind};

/// Makes the call; `job` is its operation id in the host's log.
///
/// # Errors
/// [`CallError::Refused`] after a failure to connect, or a fault but those by which a vCenter says
/// that it lost sight of the host; [`CallError::Lost`] after anything else.
pub async fn call(
    session: &Session,
    machine: &MachineId,
    call: &HostCall,
    job: JobId,
) -> Result<Accepted, CallError> {
    let operation = job.to_string();
    let build = || request_of(machine, call, &operation);
    let lead = format!("The host refused {} of machine {machine}", call.kind().as_str());
    let reply = authenticated(session, build, &lead).await?;
    let taskless = matches!(
        call,
        HostCall::ShutdownGuest
            | HostCall::RebootGuest
            | HostCall::Answer { .. }
            | HostCall::RenameSnapshot { .. }
    );
    if taskless {
        return Ok(Accepted::Done);
    }
    match reply.reference() {
        Some(task) => Ok(Accepted::Task(TaskId::from_backend(task.value))),
        None => Err(CallError::Lost(HostError::new(
            HostErrorKind::Protocol,
            format!(
                "The host took {} of machine {machine} and named no task.",
                call.kind().as_str()
            ),
        ))),
    }
}

fn request_of(machine: &MachineId, call: &HostCall, operation: &str) -> Request {
    let object = Reference::new("VirtualMachine", machine.backend_text());
    let snapshot = |id: &SnapshotId| Reference::new("VirtualMachineSnapshot", id.backend_text());
    let plain = |method| request::plain(method, &object, Some(operation));
    match call {
        HostCall::PowerOn => plain("PowerOnVM_Task"),
        HostCall::PowerOff => plain("PowerOffVM_Task"),
        HostCall::Reset => plain("ResetVM_Task"),
        HostCall::Suspend => plain("SuspendVM_Task"),
        HostCall::ShutdownGuest => plain("ShutdownGuest"),
        HostCall::RebootGuest => plain("RebootGuest"),
        HostCall::RemoveAllSnapshots => plain("RemoveAllSnapshots_Task"),
        HostCall::Answer { question, choice } => {
            request::answer(&object, question.backend_text(), choice, operation)
        }
        HostCall::CreateSnapshot { name, description, memory, quiesce } => {
            request::create_snapshot(
                &object,
                (&escape_vim(name), description),
                (*memory, *quiesce),
                operation,
            )
        }
        HostCall::RevertToSnapshot { snapshot: id, suppress_power_on } => {
            request::revert_to_snapshot(&snapshot(id), *suppress_power_on, Some(operation))
        }
        HostCall::RemoveSnapshot { snapshot: id, children } => {
            request::remove_snapshot(&snapshot(id), *children, operation)
        }
        HostCall::RenameSnapshot { snapshot: id, name, description } => {
            let name = name.as_deref().map(escape_vim);
            request::rename_snapshot(
                &snapshot(id),
                name.as_deref(),
                description.as_deref(),
                operation,
            )
        }
    }
}

/// `CancelTask`
///
/// # Errors
/// As the host says.
pub async fn cancel(session: &Session, task: &TaskId) -> Result<(), HostError> {
    let object = Reference::new("Task", task.backend_text());
    let lead = format!("The host refused to cancel the task {task}");
    let build = || request::plain("CancelTask", &object, None);
    match authenticated(session, build, &lead).await {
        Ok(_) => Ok(()),
        Err(CallError::Refused(error) | CallError::Lost(error)) => Err(error),
    }
}

async fn authenticated(
    session: &Session,
    build: impl Fn() -> Request + Send,
    lead: &str,
) -> Result<Reply, CallError> {
    let live = session.ready().await.map_err(CallError::Refused)?;
    let fault = match session.send(&live, build(), Patience::Ordinary).await {
        Err(ExchangeError::Fault(fault)) if is_suspect(&fault) => fault,
        answer => return answer.map_err(|error| judged(error, lead)),
    };
    match session.suspect(&live).await.map_err(CallError::Refused)? {
        Verdict::Renewed(live) => again(session, &live, build(), lead).await,
        Verdict::StillValid if fault.is_not_authenticated() => {
            Err(CallError::Refused(denied(fault, lead)))
        }
        Verdict::StillValid => Err(judged(ExchangeError::Fault(fault), lead)),
    }
}

/// Whether the session may be at fault. A machine that is not found is a grave thing to say, so it
/// counts too.
fn is_suspect(fault: &VimFault) -> bool {
    matches!(fault.name.as_str(), "NotAuthenticated" | "SecurityError" | "ManagedObjectNotFound")
}

async fn again(
    session: &Session,
    live: &Live,
    request: Request,
    lead: &str,
) -> Result<Reply, CallError> {
    session.send(live, request, Patience::Ordinary).await.map_err(|error| judged(error, lead))
}

/// Whether it is proven that the call did not run.
fn judged(error: ExchangeError, lead: &str) -> CallError {
    let refused = match &error {
        ExchangeError::NotSent(_) => true,
        ExchangeError::Fault(fault) => !fault.may_have_run(),
        ExchangeError::Cut(_) | ExchangeError::Broken(_) => false,
    };
    let error = error.into_error(lead);
    if refused { CallError::Refused(error) } else { CallError::Lost(error) }
}
