//! Following tasks: from any moment to the one end, over whatever happens to the session.

use anyhow::{Result, bail, ensure};
use futures_util::future::try_join_all;
use otter::domain::call::HostCall;
use otter::domain::ids::TaskId;
use otter::domain::power::PowerState;
use otter::hypervisor::TaskStatus;

use super::super::case_table;
use super::super::trial::{Trial, succeeded};

case_table! {
    Brisk:
        a_task_is_followed_after_its_end,
        a_task_that_nobody_knows_has_vanished,
        an_end_is_final,
        many_tasks_are_followed_at_a_time,
        every_follower_is_told_the_end;
    Held:
        progress_is_told_and_never_falls needs [Hold],
        a_task_is_followed_from_its_middle needs [Hold],
        a_follower_that_leaves_does_not_disturb_another needs [Hold],
        a_task_of_somebody_else_can_be_followed needs [Hold],
        a_task_that_is_forgotten_has_vanished needs [Hold, ForgetTasks],
        following_goes_on_over_a_lost_session needs [Hold, LoseSession];
}

async fn a_task_is_followed_after_its_end(trial: &Trial) -> Result<()> {
    let task = trial.task(&trial.cast.stopped, &HostCall::PowerOn).await?;
    for _ in 0..3 {
        succeeded(trial.end_of(&task).await?)?;
        trial.barrier().await?;
    }
    let task = trial.task(&trial.cast.stopped, &HostCall::PowerOn).await?;
    for _ in 0..2 {
        let end = trial.end_of(&task).await?;
        ensure!(matches!(end, TaskStatus::Failed(_)), "it failed, and ends as {end:?}");
    }
    Ok(())
}

async fn a_task_that_nobody_knows_has_vanished(trial: &Trial) -> Result<()> {
    for name in ["no-such-task", "task-99999", "haTask-16-vim.VirtualMachine.powerOn-1"] {
        let end = trial.end_of(&TaskId::from_backend(name)).await?;
        ensure!(matches!(end, TaskStatus::Vanished), "a task that was never there ends as {end:?}");
    }
    // It stands in nobody's way.
    succeeded(trial.end_of(&trial.task(&trial.cast.stopped, &HostCall::PowerOn).await?).await?)
        .map(drop)
}

async fn an_end_is_final(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    let task = trial.task(machine, &HostCall::PowerOn).await?;
    let mut follower = trial.backend.follow(&task).await;
    succeeded(trial.end_at(follower.clone()).await?)?;
    for call in [HostCall::PowerOff, HostCall::PowerOn] {
        trial.done(machine, &call).await?;
        trial.barrier().await?;
        let now = follower.borrow_and_update().clone();
        ensure!(matches!(now, TaskStatus::Succeeded { .. }), "it had ended, and now it is {now:?}");
    }
    succeeded(trial.end_of(&task).await?).map(drop)
}

async fn many_tasks_are_followed_at_a_time(trial: &Trial) -> Result<()> {
    let ids: Vec<_> = trial.watching.look(|picture| picture.all.machines.keys().cloned().collect());
    let started = ids.iter().map(|id| async move {
        let create = HostCall::CreateSnapshot {
            name: "all at once".to_owned(),
            description: String::new(),
            memory: false,
            quiesce: false,
        };
        let task = trial.task(id, &create).await?;
        let (first, second) = tokio::join!(trial.end_of(&task), trial.end_of(&task));
        anyhow::Ok((id, first?, second?))
    });
    let ended = try_join_all(started).await?;
    trial.barrier().await?;
    for (id, first, second) in ended {
        for end in [first, second] {
            let TaskStatus::Succeeded { snapshot: Some(snapshot) } = succeeded(end)? else {
                bail!("a snapshot was made, and its task does not say which")
            };
            let current = trial.machine(id)?.snapshots.current;
            ensure!(
                current.as_ref() == Some(&snapshot),
                "{id} got {snapshot}, and has {current:?}"
            );
        }
    }
    trial.agrees().await.map(drop)
}

async fn every_follower_is_told_the_end(trial: &Trial) -> Result<()> {
    let task = trial.task(&trial.cast.running, &HostCall::PowerOff).await?;
    let ends = try_join_all((0..20).map(|_| trial.end_of(&task))).await?;
    ends.into_iter().try_for_each(|end| succeeded(end).map(drop))
}

async fn progress_is_told_and_never_falls(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    let task = trial.task(machine, &HostCall::PowerOn).await?;
    let mut follower = trial.backend.follow(&task).await;
    let mut highest = None;
    for _ in 0..2 {
        trial.stage.step_tasks().await?;
        trial.stage.step_tasks().await?;
        let further = follower.wait_for(|status| {
            matches!(status, TaskStatus::Running { progress: Some(percent) } if Some(*percent) > highest)
        });
        let TaskStatus::Running { progress } = trial.soon("progress", further).await??.clone()
        else {
            bail!("it ended before its time")
        };
        highest = progress;
    }
    trial.barrier().await?;
    ensure!(
        trial.machine(machine)?.power_state == Some(PowerState::Off),
        "it is not at its end yet"
    );
    trial.stage.finish_tasks().await?;
    succeeded(trial.end_at(follower).await?).map(drop)
}

async fn a_task_is_followed_from_its_middle(trial: &Trial) -> Result<()> {
    let task = trial.task(&trial.cast.stopped, &HostCall::PowerOn).await?;
    for _ in 0..2 {
        trial.stage.step_tasks().await?;
        trial.barrier().await?;
    }
    let follower = trial.backend.follow(&task).await;
    trial.barrier().await?;
    ensure!(
        matches!(*follower.borrow(), TaskStatus::Running { .. }),
        "it runs: {:?}",
        *follower.borrow()
    );
    trial.stage.finish_tasks().await?;
    succeeded(trial.end_at(follower).await?).map(drop)
}

async fn a_follower_that_leaves_does_not_disturb_another(trial: &Trial) -> Result<()> {
    let task = trial.task(&trial.cast.stopped, &HostCall::PowerOn).await?;
    let stays = trial.backend.follow(&task).await;
    drop(trial.backend.follow(&task).await);
    trial.barrier().await?;
    trial.stage.finish_tasks().await?;
    succeeded(trial.end_at(stays).await?)?;
    let task = trial.task(&trial.cast.running, &HostCall::PowerOff).await?;
    drop(trial.backend.follow(&task).await);
    trial.barrier().await?;
    trial.stage.finish_tasks().await?;
    succeeded(trial.end_of(&task).await?).map(drop)
}

async fn a_task_of_somebody_else_can_be_followed(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.stopped;
    let task = trial.stage.start_task(machine).await?;
    let follower = trial.backend.follow(&task).await;
    trial.barrier().await?;
    trial.stage.finish_tasks().await?;
    succeeded(trial.end_at(follower).await?)?;
    let restarts = trial.watching.look(|picture| picture.restarts(machine));
    ensure!(restarts == 1, "it turned the machine on, and {restarts} restarts were told");
    trial.agrees().await.map(drop)
}

async fn a_task_that_is_forgotten_has_vanished(trial: &Trial) -> Result<()> {
    let task = trial.task(&trial.cast.stopped, &HostCall::PowerOn).await?;
    let follower = trial.backend.follow(&task).await;
    trial.stage.step_tasks().await?;
    trial.barrier().await?;
    trial.stage.forget_tasks().await?;
    for end in [trial.end_at(follower).await?, trial.end_of(&task).await?] {
        ensure!(matches!(end, TaskStatus::Vanished), "the host forgot it, and it ends as {end:?}");
    }
    Ok(())
}

async fn following_goes_on_over_a_lost_session(trial: &Trial) -> Result<()> {
    let task = trial.task(&trial.cast.stopped, &HostCall::PowerOn).await?;
    let follower = trial.backend.follow(&task).await;
    trial.stage.step_tasks().await?;
    trial.barrier().await?;
    let sets = trial.whole_sets();
    trial.stage.lose_session().await?;
    trial.connected_after(sets).await?;
    trial.stage.finish_tasks().await?;
    succeeded(trial.end_at(follower).await?)?;
    trial.agrees().await.map(drop)
}
