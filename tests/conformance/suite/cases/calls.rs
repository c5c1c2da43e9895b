//! Calls: the effect of each kind on a machine, and refusals.

use anyhow::{Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::domain::ids::{MachineId, QuestionId};
use otter::domain::power::PowerState;
use otter::hypervisor::{CallError, GuestRestart, HostErrorKind};

use super::super::case_table;
use super::super::recording_observer::{Recording, Reported};
use super::super::test_context::TestContext;

case_table! {
    Automatic:
        power_on_ends_in_on,
        power_off_ends_in_off,
        reset_ends_in_on,
        suspend_suspends_and_power_on_resumes,
        a_guest_restart_is_reported_before_its_task_ends,
        guest_shutdown_ends_in_off,
        guest_calls_need_tools needs [Tools],
        power_calls_check_the_power_state,
        a_stopped_machine_cannot_be_suspended needs [PowerChecks],
        calls_of_an_unknown_machine_are_not_found,
        an_answer_without_a_question_is_refused needs [Questions],
        a_running_task_can_fail needs [FailTasks];
    Stepped:
        guest_reboot_is_seen_in_the_tools_status needs [StepTasks, Tools, GuestReboot],
        a_busy_machine_refuses_a_call_and_names_its_task needs [StepTasks],
        a_running_task_can_be_cancelled needs [StepTasks, CancelTasks],
        a_task_that_cannot_be_cancelled_continues needs [StepTasks, CancelTasks];
}

async fn check_power_state_after(
    test: &TestContext,
    machine: &MachineId,
    call: HostCall,
    expected: PowerState,
) -> Result<()> {
    test.run_task(machine, &call).await?;
    let seen = test.machine(machine)?.power_state;
    ensure!(seen == Some(expected), "reported after {call:?}: {seen:?}");
    Ok(())
}

async fn power_on_ends_in_on(test: &TestContext) -> Result<()> {
    check_power_state_after(test, &test.machines.stopped, HostCall::PowerOn, PowerState::On)
        .await?;
    test.check_matches_host().await.map(drop)
}

async fn power_off_ends_in_off(test: &TestContext) -> Result<()> {
    check_power_state_after(test, &test.machines.running, HostCall::PowerOff, PowerState::Off)
        .await?;
    test.check_matches_host().await.map(drop)
}

async fn reset_ends_in_on(test: &TestContext) -> Result<()> {
    check_power_state_after(test, &test.machines.running, HostCall::Reset, PowerState::On).await
}

async fn suspend_suspends_and_power_on_resumes(test: &TestContext) -> Result<()> {
    check_power_state_after(test, &test.machines.running, HostCall::Suspend, PowerState::Suspended)
        .await?;
    check_power_state_after(test, &test.machines.running, HostCall::PowerOn, PowerState::On).await
}

async fn a_guest_restart_is_reported_before_its_task_ends(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    for (round, call) in [HostCall::PowerOn, HostCall::Reset].iter().enumerate() {
        let task = test.start_task(machine, call).await?;
        test.wait_task_end(&task).await?;
        let restarts = test.observer.read(|recording| recording.restarts(machine));
        ensure!(restarts == round + 1, "{restarts} restarts reported at the end of {call:?}");
    }
    test.run_task(machine, &HostCall::PowerOff).await?;
    let snapshot = test.machine(&test.machines.with_snapshots)?.snapshots.current;
    let Some(snapshot) = snapshot else { bail!("the machine has no snapshot to revert to") };
    let revert = HostCall::RevertToSnapshot { snapshot, suppress_power_on: false };
    test.run_task(&test.machines.with_snapshots, &revert).await?;
    let recording = test.observer.recording();
    for (machine, expected) in [
        (machine, &[GuestRestart::PowerOn, GuestRestart::Reset][..]),
        (&test.machines.with_snapshots, &[GuestRestart::Revert][..]),
    ] {
        let causes = recording.restart_causes(machine);
        ensure!(causes == expected, "restarts by {causes:?} reported, expected {expected:?}");
    }
    Ok(())
}

async fn guest_shutdown_ends_in_off(test: &TestContext) -> Result<()> {
    let machine = &test.machines.with_tools;
    test.call_without_task(machine, &HostCall::ShutdownGuest).await?;
    let off = |recording: &Recording| {
        (recording.contents.machines.get(machine)?.power_state == Some(PowerState::Off))
            .then_some(())
    };
    test.wait_until("power state off", off).await?;
    test.check_matches_host().await.map(drop)
}

async fn guest_reboot_is_seen_in_the_tools_status(test: &TestContext) -> Result<()> {
    let machine = &test.machines.with_tools;
    ensure!(test.machine(machine)?.guest.tools_running, "the tools do not run at the start");
    test.call_without_task(machine, &HostCall::RebootGuest).await?;
    for running in [false, true] {
        test.control.step_guests().await?;
        test.barrier().await?;
        let seen = test.machine(machine)?.guest.tools_running;
        ensure!(seen == running, "tools running: reported {seen}, expected {running}");
    }
    ensure!(test.machine(machine)?.power_state == Some(PowerState::On), "a reboot leaves it on");
    Ok(())
}

async fn guest_calls_need_tools(test: &TestContext) -> Result<()> {
    for call in [HostCall::ShutdownGuest, HostCall::RebootGuest] {
        let error = test.call_failure(&test.machines.running, &call).await?;
        ensure!(error.kind == HostErrorKind::ToolsUnavailable, "{call:?} without tools: {error:?}");
        let error = test.call_failure(&test.machines.stopped, &call).await?;
        ensure!(error.kind == HostErrorKind::InvalidPowerState, "{call:?} while off: {error:?}");
    }
    Ok(())
}

async fn power_calls_check_the_power_state(test: &TestContext) -> Result<()> {
    let machines = &test.machines;
    for (machine, call) in [
        (&machines.running, HostCall::PowerOn),
        (&machines.stopped, HostCall::PowerOff),
        (&machines.stopped, HostCall::Reset),
    ] {
        let error = test.call_failure(machine, &call).await?;
        ensure!(error.kind == HostErrorKind::InvalidPowerState, "{call:?} of {machine}: {error:?}");
        ensure!(
            error.fault.is_some() && !error.message.is_empty(),
            "the fault or its message is missing: {error:?}"
        );
    }
    let restarts = test.observer.read(|recording| {
        recording
            .reports
            .iter()
            .filter(|reported| matches!(reported, Reported::GuestRestarted { .. }))
            .count()
    });
    ensure!(restarts == 0, "failed power calls reported {restarts} restarts");
    test.check_matches_host().await.map(drop)
}

async fn a_stopped_machine_cannot_be_suspended(test: &TestContext) -> Result<()> {
    let error = test.call_failure(&test.machines.stopped, &HostCall::Suspend).await?;
    ensure!(error.kind == HostErrorKind::InvalidPowerState, "{error:?}");
    Ok(())
}

async fn calls_of_an_unknown_machine_are_not_found(test: &TestContext) -> Result<()> {
    let unknown = MachineId::from_backend("no-such-machine");
    for call in [HostCall::PowerOn, HostCall::RemoveAllSnapshots, HostCall::ShutdownGuest] {
        match test.call(&unknown, &call).await? {
            Err(CallError::Refused(error)) if error.kind == HostErrorKind::NotFound => {}
            other => bail!("{call:?} of an unknown machine returned {other:?}"),
        }
    }
    Ok(())
}

async fn an_answer_without_a_question_is_refused(test: &TestContext) -> Result<()> {
    let answer =
        HostCall::Answer { question: QuestionId::from_backend("nothing"), choice: "0".to_owned() };
    match test.call(&test.machines.running, &answer).await? {
        Err(CallError::Refused(_)) => Ok(()),
        other => bail!("an answer without a question returned {other:?}"),
    }
}

async fn a_running_task_can_fail(test: &TestContext) -> Result<()> {
    test.control.fail_next_power_off().await?;
    let task = test.start_task(&test.machines.running, &HostCall::PowerOff).await?;
    match test.wait_task_end(&task).await? {
        otter::hypervisor::TaskStatus::Failed(error) => {
            ensure!(
                error.kind == HostErrorKind::InsufficientResources && error.fault.is_some(),
                "{error:?}"
            );
        }
        end => bail!("the task ended as {end:?}"),
    }
    test.barrier().await?;
    ensure!(
        test.machine(&test.machines.running)?.power_state == Some(PowerState::On),
        "the task failed, but the machine is not on"
    );
    Ok(())
}

async fn a_busy_machine_refuses_a_call_and_names_its_task(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    let task = test.control.start_power_on(machine).await?;
    let error = test.call_failure(machine, &HostCall::RemoveAllSnapshots).await?;
    ensure!(error.kind == HostErrorKind::Busy, "{error:?}");
    ensure!(
        error.blocking_task.as_ref() == Some(&task),
        "the running task is {task}, the error is {error:?}"
    );
    test.control.finish_tasks().await?;
    test.check_matches_host().await.map(drop)
}

async fn a_running_task_can_be_cancelled(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    let task = test.start_task(machine, &HostCall::PowerOn).await?;
    test.control.step_tasks().await?;
    let follower = test.backend.follow(&task).await;
    test.backend.cancel(&task).await?;
    match test.wait_end(follower).await? {
        otter::hypervisor::TaskStatus::Failed(error) if error.kind == HostErrorKind::Cancelled => {}
        end => bail!("a cancelled task ended as {end:?}"),
    }
    let again = test.backend.cancel(&task).await;
    ensure!(
        matches!(&again, Err(error) if error.kind == HostErrorKind::InvalidState),
        "a second cancel returned {again:?}"
    );
    let nothing =
        test.backend.cancel(&otter::domain::ids::TaskId::from_backend("no-such-task")).await;
    ensure!(
        matches!(&nothing, Err(error) if error.kind == HostErrorKind::NotFound),
        "a cancel of an unknown task returned {nothing:?}"
    );
    test.barrier().await?;
    ensure!(
        test.machine(machine)?.power_state == Some(PowerState::Off),
        "the power-on was cancelled, but the machine is not off"
    );
    Ok(())
}

async fn a_task_that_cannot_be_cancelled_continues(test: &TestContext) -> Result<()> {
    let machine = &test.machines.running;
    let task = test.start_task(machine, &HostCall::PowerOff).await?;
    test.control.step_tasks().await?;
    let refused = test.backend.cancel(&task).await;
    ensure!(
        matches!(&refused, Err(error) if error.kind == HostErrorKind::NotSupported),
        "{refused:?}"
    );
    test.control.finish_tasks().await?;
    super::super::test_context::expect_success(test.wait_task_end(&task).await?)?;
    test.barrier().await?;
    ensure!(
        test.machine(machine)?.power_state == Some(PowerState::Off),
        "the power-off succeeded, but the machine is not off"
    );
    Ok(())
}
