//! Lost answers and refusals: what is proven and what is not, and that no call is made twice.

use anyhow::{Result, bail, ensure};
use otter::domain::call::HostCall;
use otter::hypervisor::{Accepted, CallError, HostErrorKind};

use super::super::case_table;
use super::super::stage::Cut;
use super::super::trial::{Trial, told};

case_table! {
    Brisk:
        a_call_whose_answer_is_lost_is_lost_and_ran_once needs [Cut],
        a_call_that_is_cut_before_it_ran_is_not_made_again needs [Cut],
        a_refusal_has_its_kind_and_did_not_run needs [RefuseCalls],
        a_call_on_a_lost_session_runs_once_after_the_login needs [LoseSession];
}

fn take(name: &str) -> HostCall {
    HostCall::CreateSnapshot {
        name: name.to_owned(),
        description: String::new(),
        memory: false,
        quiesce: false,
    }
}

/// How many snapshots of this name the machine of these cases has, in truth.
async fn made(trial: &Trial, name: &str) -> Result<usize> {
    trial.barrier_at_last().await?;
    let truth = trial.stage.truth().await?;
    let Some(machine) = truth.machines.get(&trial.cast.running) else {
        bail!("the machine is gone")
    };
    Ok(machine.snapshots.items.iter().filter(|snapshot| snapshot.name == name).count())
}

async fn a_call_whose_answer_is_lost_is_lost_and_ran_once(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.running;
    for name in ["lost once", "lost again"] {
        // A connection that is up already, so that it is the call that is cut.
        trial.backend.examine(machine).await?;
        trial.stage.cut_next_snapshot(Cut::AfterItRan).await?;
        match trial.call(machine, &take(name)).await? {
            Err(CallError::Lost(error)) if error.kind == HostErrorKind::Unreachable => {}
            other => bail!("its answer was lost, and it gave {other:?}"),
        }
        let known = |picture: &super::super::watching::Picture| {
            let items = &picture.all.machines.get(machine)?.snapshots.items;
            items.iter().any(|snapshot| snapshot.name == name).then_some(())
        };
        trial.seen("what the lost call did", known).await?;
        let times = made(trial, name).await?;
        ensure!(times == 1, "it ran {times} times");
    }
    trial.agrees().await.map(drop)
}

async fn a_call_that_is_cut_before_it_ran_is_not_made_again(trial: &Trial) -> Result<()> {
    let machine = &trial.cast.running;
    trial.backend.examine(machine).await?;
    trial.stage.cut_next_snapshot(Cut::BeforeItRuns).await?;
    match trial.call(machine, &take("never")).await? {
        Err(CallError::Lost(error) | CallError::Refused(error)) => {
            ensure!(error.kind == HostErrorKind::Unreachable, "{error:?}");
        }
        Ok(accepted) => bail!("it never ran, and gave {accepted:?}"),
    }
    let times = made(trial, "never").await?;
    ensure!(times == 0, "it ran {times} times");
    trial.done(machine, &take("afterwards")).await?;
    trial.agrees().await.map(drop)
}

async fn a_refusal_has_its_kind_and_did_not_run(trial: &Trial) -> Result<()> {
    for kind in [
        HostErrorKind::Busy,
        HostErrorKind::InvalidPowerState,
        HostErrorKind::InsufficientResources,
        HostErrorKind::Forbidden,
        HostErrorKind::LicenseRestricted,
        HostErrorKind::NotSupported,
        HostErrorKind::NotFound,
        HostErrorKind::Rejected,
    ] {
        trial.stage.refuse_next_snapshot(kind).await?;
        match trial.call(&trial.cast.running, &take("refused")).await? {
            Err(CallError::Refused(error)) => {
                ensure!(error.kind == kind, "refused for {kind:?}, and it says {error:?}");
                ensure!(
                    error.fault.is_some() && !error.message.is_empty(),
                    "without the host's words: {error:?}"
                );
            }
            other => bail!("refused for {kind:?}, and it gave {other:?}"),
        }
    }
    let times = made(trial, "refused").await?;
    ensure!(times == 0, "it ran {times} times");
    Ok(())
}

async fn a_call_on_a_lost_session_runs_once_after_the_login(trial: &Trial) -> Result<()> {
    for name in ["one", "two", "three"] {
        let sets = trial.whole_sets();
        trial.stage.lose_session().await?;
        match trial.call(&trial.cast.running, &take(name)).await?.map_err(told)? {
            Accepted::Task(task) => {
                drop(super::super::trial::succeeded(trial.end_of(&task).await?)?);
            }
            Accepted::Done => bail!("a snapshot has a task"),
        }
        trial.connected_after(sets).await?;
        let times = made(trial, name).await?;
        ensure!(times == 1, "it ran {times} times");
    }
    trial.agrees().await.map(drop)
}
