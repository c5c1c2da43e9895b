//! The stream of updates: barriers and tasks share it, and it has at most one pending wait.

use std::sync::Arc;

use futures_util::future::join_all;
use otter::domain::call::HostCall;
use otter::domain::ids::MachineId;
use otter::domain::power::PowerState;
use otter::hypervisor::{Accepted, Hypervisor, TaskStatus};
use otter::simulator::{Disruption, Fault, Pace, Scenario, world};

use super::support::{connected_lab, connected_lab_at_pace, in_time, machine_id};

#[tokio::test]
async fn waiting_barriers_share_a_round_trip() {
    let (simulator, running) = connected_lab(Scenario::generated(3)).await;
    let before = simulator.control().calls("WaitForUpdatesEx");
    let waiting: Vec<_> = (0..500)
        .map(|_| {
            let esx = Arc::clone(&running.esx);
            tokio::spawn(async move { esx.barrier().await })
        })
        .collect();
    for waiter in waiting {
        in_time("the barrier", waiter).await.unwrap().unwrap();
    }
    let rounds = simulator.control().calls("WaitForUpdatesEx") - before;
    assert!(rounds < 50, "{rounds} round trips for 500 waiters");
    assert!(simulator.control().pending_waits() <= 1);
    running.stop().await;
}

#[tokio::test]
async fn a_barrier_shows_earlier_changes() {
    let scenario = Scenario::generated(3);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let id = machine_id(&scenario, 2);
    for round in 0..50 {
        let text = format!("round {round}");
        simulator.control().mutate(|world| {
            world.machine_mut(id.backend_text()).unwrap().annotation.clone_from(&text);
        });
        running.esx.barrier().await.unwrap();
        assert_eq!(
            running.observer.recording().machines[&id].annotation.as_deref(),
            Some(text.as_str())
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn many_tasks_are_followed_on_one_stream_without_polling() {
    let mut scenario = Scenario::generated(60);
    for machine in &mut scenario.machines {
        machine.power = world::PowerState::Off;
    }
    let (simulator, running) = connected_lab_at_pace(scenario.clone(), Pace::Stepped).await;
    let mut followed = Vec::new();
    for index in 0..60 {
        let accepted = running
            .esx
            .call(&machine_id(&scenario, index), &HostCall::PowerOn, running.job())
            .await
            .unwrap();
        let Accepted::Task(task) = accepted else { panic!() };
        followed.push((task.clone(), running.esx.follow(&task).await));
    }
    for (task, _) in &followed {
        simulator.control().finish_task(task.backend_text());
    }
    for (task, status) in &mut followed {
        let end = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. }));
        let end = in_time("the end", end).await.unwrap().clone();
        assert!(matches!(end, TaskStatus::Succeeded { .. }), "{task}: {end:?}");
    }
    let recording = running.observer.recording();
    assert_eq!(recording.restarts.len(), 60);
    assert_eq!(recording.statuses.last().unwrap().logins, 1);
    // Each task is read only once, when it is added to the ListView.
    assert!(simulator.control().calls("RetrievePropertiesEx") <= 60);
    running.stop().await;
}

#[tokio::test]
async fn the_wait_after_the_end_of_a_task_is_its_barrier() {
    let mut scenario = Scenario::generated(2);
    scenario.machines[0].power = world::PowerState::Off;
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let (control, id) = (simulator.control(), machine_id(&scenario, 0));
    for (call, state) in
        [(HostCall::PowerOn, PowerState::On), (HostCall::PowerOff, PowerState::Off)]
            .into_iter()
            .cycle()
            .take(20)
    {
        let accepted = running.esx.call(&id, &call, running.job()).await.unwrap();
        let Accepted::Task(task) = accepted else { panic!() };
        let mut status = running.esx.follow(&task).await;
        let end = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. }));
        drop(in_time("the end", end).await.unwrap());
        in_time("the barrier", running.esx.barrier_after_task()).await.unwrap();
        assert_eq!(running.observer.recording().machines[&id].power_state, Some(state));
        // The stream has already passed this point, so this barrier returns without a further wait.
        let waits = control.calls("WaitForUpdatesEx");
        running.esx.barrier_after_task().await.unwrap();
        assert!(control.calls("WaitForUpdatesEx") <= waits + 1);
    }
    assert_eq!(control.calls("CancelWaitForUpdates"), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_host_that_reports_no_additions_is_read() {
    let mut scenario = Scenario::generated(1);
    scenario.machines[0].power = world::PowerState::Off;
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let (control, id) = (simulator.control(), machine_id(&scenario, 0));
    control.set_additions_reported(false);
    for call in [HostCall::PowerOn, HostCall::PowerOff].into_iter().cycle().take(6) {
        let accepted = running.esx.call(&id, &call, running.job()).await.unwrap();
        let Accepted::Task(task) = accepted else { panic!() };
        // The change of the machine is reported before the task is added.
        running.esx.barrier().await.unwrap();
        let mut status = running.esx.follow(&task).await;
        let end = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. }));
        drop(in_time("the end", end).await.unwrap());
    }
    running.stop().await;
}

#[tokio::test]
async fn evidence_reads_a_machine_once_if_its_tasks_are_known() {
    let (simulator, running) = connected_lab(Scenario::generated(2)).await;
    let (control, id) = (simulator.control(), machine_id(&Scenario::generated(2), 0));
    control.mutate(|world| {
        for operation in
            [world::Operation::PowerOff, world::Operation::PowerOn].into_iter().cycle().take(40)
        {
            // One of the first two is refused in its task, which ends as well.
            let task = world.start_task(id.backend_text(), operation, "somebody").unwrap();
            world.finish_task(&task.id);
        }
    });
    let reads = || control.calls("RetrievePropertiesEx");
    let before = reads();
    let evidence = running.esx.read_evidence(&id).await.unwrap();
    assert_eq!((evidence.recent_tasks.len(), evidence.has_running_task()), (40, false));
    assert!(
        evidence.recent_tasks.iter().all(|task| !task.by_us) && evidence.host_boot_time.is_some()
    );
    assert_eq!(reads() - before, 3, "the machine, all its tasks, and the machine once more");
    assert_eq!(running.esx.read_evidence(&id).await.unwrap(), evidence);
    assert_eq!(reads() - before, 4, "the tasks are known");
    // A task that runs is read each time.
    control.mutate(|world| {
        world.start_task(id.backend_text(), world::Operation::Reset, "root").unwrap();
    });
    let again = running.esx.read_evidence(&id).await.unwrap();
    assert_eq!(again.recent_tasks.len(), 41);
    assert!(again.recent_tasks.iter().filter(|task| task.by_us).count() == 1);
    running.stop().await;
}

#[tokio::test]
async fn evidence_of_many_machines_is_read_together() {
    let scenario = Scenario::generated(300);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let before = simulator.control().calls("RetrievePropertiesEx");
    let reads = (0..300).map(|index| {
        let (esx, id) = (Arc::clone(&running.esx), machine_id(&scenario, index));
        async move { (esx.read_evidence(&id).await.unwrap().identity.id, id) }
    });
    for (read, asked) in in_time("the reads", join_all(reads)).await {
        assert_eq!(read, asked);
    }
    let reads = simulator.control().calls("RetrievePropertiesEx") - before;
    assert!(reads < 20, "{reads} reads for 300 machines");
    // One machine that is gone does not fail the others.
    let none = MachineId::from_backend("none");
    let ids = (0..20).map(|index| machine_id(&scenario, index)).chain([none.clone()]);
    let reads = ids.map(|id| {
        let esx = Arc::clone(&running.esx);
        async move { (esx.read_evidence(&id).await, id) }
    });
    for (read, id) in join_all(reads).await {
        assert_eq!(read.is_err(), id == none, "{id}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_refused_version_restarts_the_stream_on_the_same_session() {
    let scenario = Scenario::generated(5);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let fault = Fault::new("InvalidCollectorVersion", "");
    simulator.control().disrupt_next("WaitForUpdatesEx", Disruption::Fault(fault));
    running.esx.barrier().await.unwrap();
    running
        .observer
        .wait_until("a second complete set", |recording| (recording.syncs == 2).then_some(()))
        .await;
    let recording = running.observer.recording();
    assert_eq!((recording.machines.len(), recording.statuses.last().unwrap().logins), (5, 1));
    running.stop().await;
}

#[tokio::test]
async fn an_interrupted_wait_resumes_without_a_resync() {
    let scenario = Scenario::generated(5);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let id = machine_id(&scenario, 0);
    for what in
        [Disruption::CloseBeforeRunning, Disruption::CloseAfterRunning, Disruption::CloseMidAnswer]
    {
        let case = format!("{what:?}");
        let planned = simulator.control().disrupt_next("WaitForUpdatesEx", what);
        simulator.control().mutate(|world| {
            world.machine_mut(id.backend_text()).unwrap().annotation.clone_from(&case);
        });
        running.esx.barrier().await.unwrap();
        running.esx.barrier().await.unwrap();
        let recording = running.observer.recording();
        assert_eq!(planned.delivered(), 1);
        assert_eq!(recording.machines[&id].annotation.as_deref(), Some(case.as_str()));
        assert_eq!((recording.syncs, recording.statuses.last().unwrap().logins), (1, 1), "{case}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_read_with_a_broken_connection_is_repeated_once() {
    let mut scenario = Scenario::generated(2);
    scenario.machines[0].power = world::PowerState::Off;
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let id = machine_id(&scenario, 0);
    for method in ["RetrievePropertiesEx", "ModifyListView"] {
        simulator.control().disrupt_next(method, Disruption::CloseBeforeRunning);
        running.esx.read_evidence(&id).await.unwrap();
        let accepted = running.esx.call(&id, &HostCall::PowerOn, running.job()).await.unwrap();
        let Accepted::Task(task) = accepted else { panic!() };
        let mut status = running.esx.follow(&task).await;
        let end = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. }));
        drop(in_time("the end", end).await.unwrap());
        running.esx.call(&id, &HostCall::PowerOff, running.job()).await.unwrap();
        running.esx.barrier().await.unwrap();
    }
    assert_eq!(running.observer.recording().syncs, 1);
    running.stop().await;
}
