//! Following tasks: at any time, to the one end, also over a lost session.

use anyhow::{Result, bail, ensure};
use futures_util::future::try_join_all;
use otter::domain::call::HostCall;
use otter::domain::ids::TaskId;
use otter::domain::power::PowerState;
use otter::hypervisor::TaskStatus;

use super::super::case_table;
use super::super::test_context::{TestContext, expect_success};

case_table! {
    Automatic:
        a_task_can_be_followed_after_its_end,
        an_unknown_task_has_vanished,
        a_task_end_is_final,
        many_tasks_can_be_followed_at_once,
        every_follower_receives_the_end;
    Stepped:
        progress_is_reported_and_never_decreases needs [StepTasks],
        a_running_task_can_be_followed needs [StepTasks],
        a_dropped_follower_does_not_affect_another needs [StepTasks],
        a_task_of_another_client_can_be_followed needs [StepTasks],
        a_forgotten_task_has_vanished needs [StepTasks, ForgetTasks],
        following_continues_after_a_lost_session needs [StepTasks, ExpireSessions];
}

async fn a_task_can_be_followed_after_its_end(test: &TestContext) -> Result<()> {
    let task = test.start_task(&test.machines.stopped, &HostCall::PowerOn).await?;
    for _ in 0..3 {
        expect_success(test.wait_task_end(&task).await?)?;
        test.barrier().await?;
    }
    let task = test.start_task(&test.machines.stopped, &HostCall::PowerOn).await?;
    for _ in 0..2 {
        let end = test.wait_task_end(&task).await?;
        ensure!(matches!(end, TaskStatus::Failed(_)), "a failed task ended as {end:?}");
    }
    Ok(())
}

async fn an_unknown_task_has_vanished(test: &TestContext) -> Result<()> {
    for name in ["no-such-task", "task-99999", "haTask-16-vim.VirtualMachine.powerOn-1"] {
        let end = test.wait_task_end(&TaskId::from_backend(name)).await?;
        ensure!(matches!(end, TaskStatus::Vanished), "an unknown task ended as {end:?}");
    }
    // Other tasks can still be followed.
    expect_success(
        test.wait_task_end(&test.start_task(&test.machines.stopped, &HostCall::PowerOn).await?)
            .await?,
    )
    .map(drop)
}

async fn a_task_end_is_final(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    let task = test.start_task(machine, &HostCall::PowerOn).await?;
    let mut follower = test.backend.follow(&task).await;
    expect_success(test.wait_end(follower.clone()).await?)?;
    for call in [HostCall::PowerOff, HostCall::PowerOn] {
        test.run_task(machine, &call).await?;
        test.barrier().await?;
        let now = follower.borrow_and_update().clone();
        ensure!(matches!(now, TaskStatus::Succeeded { .. }), "after its end it became {now:?}");
    }
    expect_success(test.wait_task_end(&task).await?).map(drop)
}

async fn many_tasks_can_be_followed_at_once(test: &TestContext) -> Result<()> {
    let ids: Vec<_> =
        test.observer.read(|recording| recording.contents.machines.keys().cloned().collect());
    let started = ids.iter().map(|id| async move {
        let create = HostCall::CreateSnapshot {
            name: "all at once".to_owned(),
            description: String::new(),
            memory: false,
            quiesce: false,
        };
        let task = test.start_task(id, &create).await?;
        let (first, second) = tokio::join!(test.wait_task_end(&task), test.wait_task_end(&task));
        anyhow::Ok((id, first?, second?))
    });
    let ended = try_join_all(started).await?;
    test.barrier().await?;
    for (id, first, second) in ended {
        for end in [first, second] {
            let TaskStatus::Succeeded { snapshot: Some(snapshot) } = expect_success(end)? else {
                bail!("the task does not name the created snapshot")
            };
            let current = test.machine(id)?.snapshots.current;
            ensure!(
                current.as_ref() == Some(&snapshot),
                "the task of {id} created {snapshot}, the current snapshot is {current:?}"
            );
        }
    }
    test.check_matches_host().await.map(drop)
}

async fn every_follower_receives_the_end(test: &TestContext) -> Result<()> {
    let task = test.start_task(&test.machines.running, &HostCall::PowerOff).await?;
    let ends = try_join_all((0..20).map(|_| test.wait_task_end(&task))).await?;
    ends.into_iter().try_for_each(|end| expect_success(end).map(drop))
}

async fn progress_is_reported_and_never_decreases(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    let task = test.start_task(machine, &HostCall::PowerOn).await?;
    let mut follower = test.backend.follow(&task).await;
    let mut highest = None;
    for _ in 0..2 {
        test.control.step_tasks().await?;
        test.control.step_tasks().await?;
        let further = follower.wait_for(
            |status| matches!(status, TaskStatus::Running { progress } if *progress > highest),
        );
        let TaskStatus::Running { progress } = test.in_time("progress", further).await??.clone()
        else {
            bail!("the task ended early")
        };
        highest = progress;
    }
    test.barrier().await?;
    ensure!(
        test.machine(machine)?.power_state == Some(PowerState::Off),
        "the task has not ended, but the machine is not off"
    );
    test.control.finish_tasks().await?;
    expect_success(test.wait_end(follower).await?).map(drop)
}

async fn a_running_task_can_be_followed(test: &TestContext) -> Result<()> {
    let task = test.start_task(&test.machines.stopped, &HostCall::PowerOn).await?;
    for _ in 0..2 {
        test.control.step_tasks().await?;
        test.barrier().await?;
    }
    let follower = test.backend.follow(&task).await;
    test.barrier().await?;
    ensure!(
        matches!(*follower.borrow(), TaskStatus::Running { .. }),
        "a running task is {:?}",
        *follower.borrow()
    );
    test.control.finish_tasks().await?;
    expect_success(test.wait_end(follower).await?).map(drop)
}

async fn a_dropped_follower_does_not_affect_another(test: &TestContext) -> Result<()> {
    let task = test.start_task(&test.machines.stopped, &HostCall::PowerOn).await?;
    let stays = test.backend.follow(&task).await;
    drop(test.backend.follow(&task).await);
    test.barrier().await?;
    test.control.finish_tasks().await?;
    expect_success(test.wait_end(stays).await?)?;
    let task = test.start_task(&test.machines.running, &HostCall::PowerOff).await?;
    drop(test.backend.follow(&task).await);
    test.barrier().await?;
    test.control.finish_tasks().await?;
    expect_success(test.wait_task_end(&task).await?).map(drop)
}

async fn a_task_of_another_client_can_be_followed(test: &TestContext) -> Result<()> {
    let machine = &test.machines.stopped;
    let task = test.control.start_power_on(machine).await?;
    let follower = test.backend.follow(&task).await;
    test.barrier().await?;
    test.control.finish_tasks().await?;
    expect_success(test.wait_end(follower).await?)?;
    let restarts = test.observer.read(|recording| recording.restarts(machine));
    ensure!(restarts == 1, "the task powered the machine on, reported restarts: {restarts}");
    test.check_matches_host().await.map(drop)
}

async fn a_forgotten_task_has_vanished(test: &TestContext) -> Result<()> {
    let task = test.start_task(&test.machines.stopped, &HostCall::PowerOn).await?;
    let follower = test.backend.follow(&task).await;
    test.control.step_tasks().await?;
    test.barrier().await?;
    test.control.forget_tasks().await?;
    for end in [test.wait_end(follower).await?, test.wait_task_end(&task).await?] {
        ensure!(matches!(end, TaskStatus::Vanished), "a forgotten task ended as {end:?}");
    }
    Ok(())
}

async fn following_continues_after_a_lost_session(test: &TestContext) -> Result<()> {
    let task = test.start_task(&test.machines.stopped, &HostCall::PowerOn).await?;
    let follower = test.backend.follow(&task).await;
    test.control.step_tasks().await?;
    test.barrier().await?;
    let sets = test.complete_sets();
    test.control.expire_sessions().await?;
    test.wait_resynced(sets).await?;
    test.control.finish_tasks().await?;
    expect_success(test.wait_end(follower).await?)?;
    test.check_matches_host().await.map(drop)
}
