//! The simulator's implementation of the methods of `VirtualMachine`, `VirtualMachineSnapshot` and
//! `Task`.

use super::Call;
use crate::domain::names::unescape_vim;
use crate::simulator::soap::{self, Request};
use crate::simulator::value::Value;
use crate::simulator::vim_fault::Fault;
use crate::simulator::world::{MachineEvent, Operation};

pub fn run(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let request = call.request;
    let method = request.method.as_str();
    let target = request.target.id.as_str();
    match method {
        "ShutdownGuest" => {
            call.state.world.shut_down_guest(target)?;
            record_guest_event(call, MachineEvent::GuestShutDown)?;
        }
        "RebootGuest" => {
            call.state.world.reboot_guest(target)?;
            record_guest_event(call, MachineEvent::GuestRebooted)?;
        }
        "AnswerVM" => {
            let (question, choice) =
                (request.required("questionId")?, request.required("answerChoice")?);
            call.state.world.answer(target, question, choice)?;
        }
        "RenameSnapshot" => {
            let name = request.text("name").map(unescape_vim);
            let description = request.text("description").map(str::to_owned);
            call.state.world.rename_snapshot(target, name, description)?;
        }
        "CancelTask" => call.state.world.cancel_task(target)?,
        _ => return start_task(call),
    }
    soap::empty_answer(method).map(Some)
}

fn record_guest_event(call: &mut Call<'_>, event: MachineEvent) -> Result<(), Fault> {
    let user = call.session()?.user().to_owned();
    call.state.world.record_machine_event(&call.request.target.id, &user, event);
    Ok(())
}

fn start_task(call: &mut Call<'_>) -> Result<Option<String>, Fault> {
    let Some(operation) = operation(call.request)? else { return Ok(None) };
    let target = call.target().clone();
    let machine = match target.kind {
        "VirtualMachineSnapshot" => {
            let owner = call.state.world.machine_of_snapshot(&target.id);
            owner.ok_or_else(|| Fault::not_found(&target))?.id.clone()
        }
        _ => target.id,
    };
    let user = call.session()?.user().to_owned();
    let task = call.state.world.start_task(&machine, operation, &user)?;
    soap::answer_value(&call.request.method, &Value::Reference(task), "Task").map(Some)
}

/// The operation that the called method starts as a task. `None` if the method starts no task.
fn operation(request: &Request) -> Result<Option<Operation>, Fault> {
    let target = request.target.id.clone();
    let suppress_power_on = request.is_set("suppressPowerOn");
    Ok(Some(match request.method.as_str() {
        "PowerOnVM_Task" => Operation::PowerOn,
        "PowerOffVM_Task" => Operation::PowerOff,
        "ResetVM_Task" => Operation::Reset,
        "SuspendVM_Task" => Operation::Suspend,
        "CreateSnapshot_Task" => Operation::CreateSnapshot {
            name: unescape_vim(request.required("name")?),
            description: request.text("description").unwrap_or_default().to_owned(),
            memory: request.is_set("memory"),
            quiesce: request.is_set("quiesce"),
        },
        "RevertToSnapshot_Task" => {
            Operation::RevertToSnapshot { snapshot: target, suppress_power_on }
        }
        "RevertToCurrentSnapshot_Task" => Operation::RevertToCurrentSnapshot { suppress_power_on },
        "RemoveSnapshot_Task" => Operation::RemoveSnapshot {
            snapshot: target,
            children: request.is_set("removeChildren"),
        },
        "RemoveAllSnapshots_Task" => Operation::RemoveAllSnapshots,
        "ConsolidateVMDisks_Task" => Operation::ConsolidateDisks,
        "CreateScreenshot_Task" => Operation::CreateScreenshot,
        "ReconfigVM_Task" => super::reconfigure::operation(request)?,
        _ => return Ok(None),
    }))
}
