//! Calls: what each kind does to a machine, and how the host says no.

use anyhow::{Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::domain::ids::{MachineId, QuestionId};
use otter::domain::power::PowerState;
use otter::hypervisor::{CallError, HostErrorKind};

use super::super::case_table;
use super::super::trial::Trial;
use super::super::watching::{Picture, Told};

case_table! {
    Brisk:
        power_on_turns_it_on,
        power_off_turns_it_off,
        reset_leaves_it_on,
        suspend_suspends_and_power_on_resumes,
        a_restart_of_the_guest_is_told_before_the_end_of_its_task,
        shutdown_of_a_guest_ends_in_off,
        a_guest_without_tools_cannot_be_asked needs [Tools],
        what_is_so_already_is_an_invalid_power_state,
        what_is_off_cannot_be_suspended needs [PowerChecks],
        a_machine_that_is_not_there_is_not_found,
        an_answer_to_no_question_is_refused needs [Questions],
        a_task_can_fail_in_its_course needs [FailTasks];
    Held:
        reboot_of_a_guest_shows_in_its_tools needs [Hold, Tools, GuestReboot],
        a_busy_machine_refuses_and_names_its_task needs [Hold],
        a_running_task_can_be_cancelled needs [Hold, Cancel],
        what_cannot_be_cancelled_goes_on needs [Hold, Cancel];
}

async fn becomes(
    trial: &Trial,
    machine: &MachineId,
    call: HostCall,
    wanted: PowerState,
) -> Result<()> {
    trial.done(machine, &call).await?;
    let seen = trial.machine(machine)?.power_state;
    ensure!(seen == Some(wanted), "after {call:?} it is told as {seen:?}");
    Ok(())
}

async fn power_on_turns_it_on(trial: &Trial) -> Result<()> {
    becomes(trial, &trial.cast.stopped, HostCall::PowerOn, PowerState::On).await?;
    trial.agrees().await.map(drop)
}

async fn power_off_turns_it_off(trial: &Trial) -> Result<()> {
    becomes(trial, &trial.cast.running, HostCall::PowerOff, PowerState::Off).await?;
    trial.agrees().await.map(drop)
}

async fn reset_leaves_it_on(trial: &Trial) -> Result<()> {
    becomes(trial, &trial.cast.running, HostCall::Reset, PowerState::On).await
}

async fn suspend_suspends_and_power_on_resumes(trial: &Trial) -> Result<()> {
    becomes(trial, &trial.cast.running, HostCall::Suspend, PowerState::Suspended).await?;
    becomes(trial, &trial.cast.running, HostCall::PowerOn, PowerState::On).await
}

async fn a_restart_of_the_guest_is_told_before_the_end_of_its_task(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    for (round, call) in [HostCall::PowerOn, HostCall::Reset].iter().enumerate() {
        let task = trial.task(machine, call).await?;
        trial.end_of(&task).await?;
        let restarts = trial.watching.look(|picture| picture.restarts(machine));
        ensure!(restarts == round + 1, "{restarts} restarts were told by the end of {call:?}");
    }
    trial.done(machine, &HostCall::PowerOff).await?;
    let snapshot = trial.machine(&trial.cast.reverted)?.snapshots.current;
    let Some(snapshot) = snapshot else { bail!("the cast has no snapshot to revert to") };
    let revert = HostCall::RevertToSnapshot { snapshot, suppress_power_on: false };
    trial.done(&trial.cast.reverted, &revert).await?;
    let told = trial.watching.picture();
    let restarts = |id| told.restarts(id);
    ensure!(
        (restarts(machine), restarts(&trial.cast.reverted)) == (2, 1),
        "a power-off told a restart, or a revert none"
    );
    Ok(())
}

async fn shutdown_of_a_guest_ends_in_off(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.with_tools;
    trial.at_once(machine, &HostCall::ShutdownGuest).await?;
    let off = |picture: &Picture| {
        (picture.all.machines.get(machine)?.power_state == Some(PowerState::Off)).then_some(())
    };
    trial.seen("the end of the guest", off).await?;
    trial.agrees().await.map(drop)
}

async fn reboot_of_a_guest_shows_in_its_tools(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.with_tools;
    ensure!(trial.machine(machine)?.guest.tools_running, "the cast says that its tools run");
    trial.at_once(machine, &HostCall::RebootGuest).await?;
    for running in [false, true] {
        trial.stage.step_guests().await?;
        trial.barrier().await?;
        let seen = trial.machine(machine)?.guest.tools_running;
        ensure!(seen == running, "its tools are told to run: {seen}, and it is {running}");
    }
    ensure!(trial.machine(machine)?.power_state == Some(PowerState::On), "a reboot leaves it on");
    Ok(())
}

async fn a_guest_without_tools_cannot_be_asked(trial: &Trial) -> Result<()> {
    for call in [HostCall::ShutdownGuest, HostCall::RebootGuest] {
        let error = trial.failure(&trial.cast.running, &call).await?;
        ensure!(error.kind == HostErrorKind::ToolsUnavailable, "{call:?} without tools: {error:?}");
        let error = trial.failure(&trial.cast.stopped, &call).await?;
        ensure!(error.kind == HostErrorKind::InvalidPowerState, "{call:?} while off: {error:?}");
    }
    Ok(())
}

async fn what_is_so_already_is_an_invalid_power_state(trial: &Trial) -> Result<()> {
    let cast = &trial.cast;
    for (machine, call) in [
        (&cast.running, HostCall::PowerOn),
        (&cast.stopped, HostCall::PowerOff),
        (&cast.stopped, HostCall::Reset),
    ] {
        let error = trial.failure(machine, &call).await?;
        ensure!(error.kind == HostErrorKind::InvalidPowerState, "{call:?} of {machine}: {error:?}");
        ensure!(
            error.fault.is_some() && !error.message.is_empty(),
            "the host's own words are missing: {error:?}"
        );
    }
    let restarts = trial.watching.look(|picture| {
        picture.told.iter().filter(|told| matches!(told, Told::Restarted(_))).count()
    });
    ensure!(restarts == 0, "a power-on that failed told {restarts} restarts");
    trial.agrees().await.map(drop)
}

async fn what_is_off_cannot_be_suspended(trial: &Trial) -> Result<()> {
    let error = trial.failure(&trial.cast.stopped, &HostCall::Suspend).await?;
    ensure!(error.kind == HostErrorKind::InvalidPowerState, "{error:?}");
    Ok(())
}

async fn a_machine_that_is_not_there_is_not_found(trial: &Trial) -> Result<()> {
    let nobody = MachineId::from_backend("no-such-machine");
    for call in [HostCall::PowerOn, HostCall::RemoveAllSnapshots, HostCall::ShutdownGuest] {
        match trial.call(&nobody, &call).await? {
            Err(CallError::Refused(error)) if error.kind == HostErrorKind::NotFound => {}
            other => bail!("{call:?} of no machine gave {other:?}"),
        }
    }
    Ok(())
}

async fn an_answer_to_no_question_is_refused(trial: &Trial) -> Result<()> {
    let answer =
        HostCall::Answer { question: QuestionId::from_backend("nothing"), choice: "0".to_owned() };
    match trial.call(&trial.cast.running, &answer).await? {
        Err(CallError::Refused(_)) => Ok(()),
        other => bail!("an answer to no question gave {other:?}"),
    }
}

async fn a_task_can_fail_in_its_course(trial: &Trial) -> Result<()> {
    trial.stage.fail_next_power_off().await?;
    let task = trial.task(&trial.cast.running, &HostCall::PowerOff).await?;
    match trial.end_of(&task).await? {
        otter::hypervisor::TaskStatus::Failed(error) => {
            ensure!(
                error.kind == HostErrorKind::InsufficientResources && error.fault.is_some(),
                "{error:?}"
            );
        }
        end => bail!("it ends as {end:?}"),
    }
    trial.barrier().await?;
    ensure!(
        trial.machine(&trial.cast.running)?.power_state == Some(PowerState::On),
        "it failed, and did it"
    );
    Ok(())
}

async fn a_busy_machine_refuses_and_names_its_task(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    let task = trial.stage.start_task(machine).await?;
    let error = trial.failure(machine, &HostCall::RemoveAllSnapshots).await?;
    ensure!(error.kind == HostErrorKind::Busy, "{error:?}");
    ensure!(
        error.blocking_task.as_ref() == Some(&task),
        "in the way is {task}, and it says {error:?}"
    );
    trial.stage.finish_tasks().await?;
    trial.agrees().await.map(drop)
}

async fn a_running_task_can_be_cancelled(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    let task = trial.task(machine, &HostCall::PowerOn).await?;
    trial.stage.step_tasks().await?;
    let follower = trial.backend.follow(&task).await;
    trial.backend.cancel(&task).await?;
    match trial.end_at(follower).await? {
        otter::hypervisor::TaskStatus::Failed(error) if error.kind == HostErrorKind::Cancelled => {}
        end => bail!("a cancelled task ends as {end:?}"),
    }
    let again = trial.backend.cancel(&task).await;
    ensure!(
        matches!(&again, Err(error) if error.kind == HostErrorKind::InvalidState),
        "again: {again:?}"
    );
    let nothing =
        trial.backend.cancel(&otter::domain::ids::TaskId::from_backend("no-such-task")).await;
    ensure!(
        matches!(&nothing, Err(error) if error.kind == HostErrorKind::NotFound),
        "no task: {nothing:?}"
    );
    trial.barrier().await?;
    ensure!(
        trial.machine(machine)?.power_state == Some(PowerState::Off),
        "it was cancelled, and is on"
    );
    Ok(())
}

async fn what_cannot_be_cancelled_goes_on(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.running;
    let task = trial.task(machine, &HostCall::PowerOff).await?;
    trial.stage.step_tasks().await?;
    let refused = trial.backend.cancel(&task).await;
    ensure!(
        matches!(&refused, Err(error) if error.kind == HostErrorKind::NotSupported),
        "{refused:?}"
    );
    trial.stage.finish_tasks().await?;
    super::super::trial::succeeded(trial.end_of(&task).await?)?;
    trial.barrier().await?;
    ensure!(
        trial.machine(machine)?.power_state == Some(PowerState::Off),
        "it ended well, and is not off"
    );
    Ok(())
}
