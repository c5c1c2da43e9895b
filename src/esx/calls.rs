//! The calls that change a machine. otter sends each call once. It sends a call a second time only
//! if the host refused the call because the session had ended, which proves that the call did not
//! run.

use super::connections::Lane;
use super::property_reader::permission_denied;
use super::session::{ExchangeError, Login, Recheck, Session, Terms};
use super::soap::Reference;
use super::soap::fault::VimFault;
use super::soap::request::{self, Request};
use super::soap::response::Reply;
use crate::domain::call::HostCall;
use crate::domain::ids::{JobId, MachineId, SnapshotId, TaskId};
use crate::domain::names::escape_vim;
use crate::hypervisor::{Accepted, CallError, CallTerms, HostError, HostErrorKind};

/// Makes one call to the host. `job` becomes the operation id of the call, which the host writes
/// into its log.
///
/// # Errors
/// [`CallError::Refused`] if the call was not sent or the host answered with a fault.
/// [`CallError::Lost`] after any other failure. `Lost` also after a fault with which a vCenter says
/// that it lost its connection to the host ([`HostError::outcome_uncertain`]). If a standalone host
/// answers with the same fault, the call is refused.
pub async fn call(
    session: &Session,
    machine: &MachineId,
    call: &HostCall,
    job: JobId,
    terms: CallTerms,
) -> Result<Accepted, CallError> {
    let CallTerms { urgent, not_after } = terms;
    let lane = if urgent { Lane::Reserved } else { Lane::Ordinary };
    let operation = job.to_string();
    let build = || request_for(machine, call, &operation);
    let prefix = format!("The host refused {} of machine {machine}", call.kind().as_str());
    let reply = send_authenticated(session, build, &prefix, Terms { lane, not_after }).await?;
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
                "The host accepted {} of machine {machine} and named no task.",
                call.kind().as_str()
            ),
        ))),
    }
}

fn request_for(machine: &MachineId, call: &HostCall, operation: &str) -> Request {
    let object = Reference::new("VirtualMachine", machine.backend_text());
    let snapshot = |id: &SnapshotId| Reference::new("VirtualMachineSnapshot", id.backend_text());
    let plain = |method| request::without_parameters(method, &object, Some(operation));
    match call {
        HostCall::PowerOn => plain("PowerOnVM_Task"),
        HostCall::PowerOff => plain("PowerOffVM_Task"),
        HostCall::Reset => plain("ResetVM_Task"),
        HostCall::Suspend => plain("SuspendVM_Task"),
        HostCall::ShutdownGuest => plain("ShutdownGuest"),
        HostCall::RebootGuest => plain("RebootGuest"),
        HostCall::RemoveAllSnapshots => plain("RemoveAllSnapshots_Task"),
        HostCall::ConsolidateDisks => plain("ConsolidateVMDisks_Task"),
        HostCall::Answer { question, choice } => {
            request::answer_question(&object, question.backend_text(), choice, operation)
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
        HostCall::SetMedia { drive } => request::set_media(&object, drive, operation),
        HostCall::SetBoot { boot } => request::set_boot(&object, boot, operation),
    }
}

/// Calls `CancelTask`.
///
/// # Errors
/// The fault of the host: `NotSupported`, `InvalidState`, or `NotFound` if the host does not know
/// the task. Or a failure of the connection.
pub async fn cancel(session: &Session, task: &TaskId) -> Result<(), HostError> {
    let object = Reference::new("Task", task.backend_text());
    let prefix = format!("The host refused to cancel the task {task}");
    let build = || request::without_parameters("CancelTask", &object, None);
    match send_authenticated(session, build, &prefix, Lane::Reserved.into()).await {
        Ok(_) => Ok(()),
        Err(CallError::Refused(error) | CallError::Lost(error)) => Err(error),
    }
}

/// Makes one call over the session. If the host refuses it because the session has ended, the call
/// is sent once more over the next session.
///
/// # Errors
/// As [`call`]. `prefix` begins the message of a fault.
pub(super) async fn send_authenticated(
    session: &Session,
    build: impl Fn() -> Request + Send,
    prefix: &str,
    terms: Terms,
) -> Result<Reply, CallError> {
    let login = session.current_login().await.map_err(CallError::Refused)?;
    let fault = match session.send(&login, build(), terms).await {
        Err(ExchangeError::Fault(fault)) if may_mean_lost_session(&fault) => fault,
        answer => return answer.map_err(|error| call_error(error, prefix)),
    };
    match session.recheck(&login).await.map_err(CallError::Refused)? {
        Recheck::NewLogin(login) => send_again(session, &login, build(), prefix, terms).await,
        Recheck::StillValid if fault.is_not_authenticated() => {
            Err(CallError::Refused(permission_denied(fault, prefix)))
        }
        Recheck::StillValid => Err(call_error(ExchangeError::Fault(fault), prefix)),
    }
}

/// Whether the host may answer a call with this fault because the session was lost. This includes
/// `ManagedObjectNotFound`, because it would do harm to report wrongly that a machine is gone.
fn may_mean_lost_session(fault: &VimFault) -> bool {
    matches!(fault.name.as_str(), "NotAuthenticated" | "SecurityError" | "ManagedObjectNotFound")
}

async fn send_again(
    session: &Session,
    login: &Login,
    request: Request,
    prefix: &str,
    terms: Terms,
) -> Result<Reply, CallError> {
    session.send(login, request, terms).await.map_err(|error| call_error(error, prefix))
}

/// Turns the error of an exchange into the error of a call: refused if it is proven that the call
/// did not run, otherwise lost. `prefix` begins the message.
fn call_error(error: ExchangeError, prefix: &str) -> CallError {
    let refused = match &error {
        ExchangeError::NotSent(_) => true,
        ExchangeError::Fault(fault) => !fault.may_have_run(),
        ExchangeError::Disconnected(_) | ExchangeError::NoAnswer(_) => false,
    };
    let error = error.into_error(prefix);
    if refused { CallError::Refused(error) } else { CallError::Lost(error) }
}
