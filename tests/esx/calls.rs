//! Calls: which errors prove that a call did not run, and that no call is sent twice.

use std::time::Duration;

use otter::domain::call::{CallKind, HostCall};
use otter::domain::ids::{MachineId, SnapshotId, TaskId};
use otter::domain::power::PowerState;
use otter::hypervisor::{Accepted, CallError, HostErrorKind, Hypervisor, TaskStatus};
use otter::simulator::{Disruption, Fault, Moref, Pace, Scenario, world};

use super::support::{RunningBackend, connected_lab, connected_lab_at_pace, in_time, machine_id};

async fn start_task(running: &RunningBackend, machine: &MachineId, call: &HostCall) -> TaskId {
    match running.esx.call(machine, call, running.job()).await.unwrap() {
        Accepted::Task(task) => task,
        Accepted::Done => panic!("{call:?} has a task"),
    }
}

async fn wait_task_end(running: &RunningBackend, task: &TaskId) -> TaskStatus {
    let mut status = running.esx.follow(task).await;
    let end = status.wait_for(|status| !matches!(status, TaskStatus::Running { .. }));
    in_time("the end of a task", end).await.unwrap().clone()
}

#[tokio::test]
async fn each_call_has_its_effect_and_carries_its_operation_id() {
    let mut scenario = Scenario::generated(3);
    let at = "2024-01-01T00:00:00Z".parse().unwrap();
    scenario.machines[0].power = world::PowerState::Off;
    let snapshot = scenario.machines[0].add_snapshot(None, "kickstart", world::PowerState::Off, at);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let id = machine_id(&scenario, 0);
    let snapshot = SnapshotId::from_backend(snapshot);
    let revert = HostCall::RevertToSnapshot { snapshot: snapshot.clone(), suppress_power_on: true };
    for (call, state) in [
        (HostCall::PowerOn, PowerState::On),
        (HostCall::Reset, PowerState::On),
        (HostCall::PowerOff, PowerState::Off),
        (revert, PowerState::Off),
    ] {
        let job = running.job();
        let Accepted::Task(task) = running.esx.call(&id, &call, job).await.unwrap() else {
            panic!()
        };
        assert!(
            matches!(wait_task_end(&running, &task).await, TaskStatus::Succeeded { .. }),
            "{call:?}"
        );
        running.esx.barrier().await.unwrap();
        assert_eq!(running.observer.recording().machines[&id].power_state, Some(state), "{call:?}");
        assert_eq!(simulator.control().calls_of_operation(&job.to_string()).len(), 1, "{call:?}");
        let evidence = running.esx.read_evidence(&id).await.unwrap();
        let ours = evidence.recent_tasks.iter().find(|recent| recent.id == task);
        assert_eq!(
            ours.map(|task| (task.call, task.by_us, task.running)),
            Some((Some(call.kind()), true, false))
        );
    }
    let recording = running.observer.recording();
    assert_eq!(recording.machines[&id].snapshots.current, Some(snapshot));
    assert_eq!(recording.restarts, [id.clone(), id.clone(), id.clone()]);
    let evidence = running.esx.read_evidence(&id).await.unwrap();
    assert_eq!(evidence.recent_tasks.len(), 4);
    assert!(evidence.host_boot_time.is_some() && !evidence.has_running_task());
    assert!(evidence.recent_tasks.iter().any(|task| task.call == Some(CallKind::RevertToSnapshot)));
    running.stop().await;
}

#[tokio::test]
async fn evidence_includes_the_effect_of_each_ended_task() {
    let mut scenario = Scenario::generated(1);
    scenario.machines[0].power = world::PowerState::Off;
    let (simulator, running) = connected_lab_at_pace(scenario.clone(), Pace::Stepped).await;
    let (control, id) = (simulator.control(), machine_id(&scenario, 0));
    let task = start_task(&running, &id, &HostCall::PowerOn).await;
    // The task ends after the first read of the machine and before the read of the task.
    let read = "RetrievePropertiesEx";
    let before = control.calls(read);
    control.disrupt(read, 1, Some(1), Disruption::Delay(Duration::from_millis(300)));
    let end = async {
        control.until_called(read, before + 2).await;
        control.finish_task(task.backend_text());
    };
    let (evidence, ()) = tokio::join!(running.esx.read_evidence(&id), end);
    let evidence = evidence.unwrap();
    assert!(!evidence.has_running_task());
    assert_eq!(evidence.power_state, Some(PowerState::On));
    running.stop().await;
}

#[tokio::test]
async fn only_a_fault_or_no_connection_proves_that_a_call_did_not_run() {
    let (simulator, running) = connected_lab(Scenario::generated(2)).await;
    let id = machine_id(&Scenario::generated(2), 1);
    let html = |status| Disruption::Answer {
        status,
        content_type: "text/html",
        body: "<html>busy</html>".to_owned(),
    };
    let refused = [
        (Disruption::Fault(Fault::task_in_progress("haTask-7")), HostErrorKind::Busy),
        (Disruption::Fault(Fault::restricted_version()), HostErrorKind::LicenseRestricted),
        (
            Disruption::Fault(Fault::not_found(&Moref::new("VirtualMachine", id.backend_text()))),
            HostErrorKind::NotFound,
        ),
        (Disruption::Fault(Fault::not_supported()), HostErrorKind::NotSupported),
    ];
    let lost = [
        (Disruption::Fault(Fault::new("HostCommunication", "gone")), HostErrorKind::Unreachable),
        (Disruption::Fault(Fault::new("HostNotConnected", "gone")), HostErrorKind::Unreachable),
        (Disruption::Fault(Fault::new("SystemError", "odd")), HostErrorKind::Rejected),
        (Disruption::CloseBeforeRunning, HostErrorKind::Unreachable),
        (Disruption::CloseAfterRunning, HostErrorKind::Unreachable),
        (Disruption::CloseMidAnswer, HostErrorKind::Unreachable),
        (html(502), HostErrorKind::Unreachable),
        (html(503), HostErrorKind::Unreachable),
        (html(504), HostErrorKind::Unreachable),
        (html(302), HostErrorKind::Protocol),
        (html(200), HostErrorKind::Protocol),
        (Disruption::EmptyAnswer, HostErrorKind::Protocol),
    ];
    for (proven, cases) in [(true, refused.to_vec()), (false, lost.to_vec())] {
        for (what, kind) in cases {
            let case = format!("{what:?}");
            let before = simulator.control().calls("ResetVM_Task");
            let planned = simulator.control().disrupt_next("ResetVM_Task", what);
            let error = running.esx.call(&id, &HostCall::Reset, running.job()).await.unwrap_err();
            assert_eq!(planned.delivered(), 1);
            assert_eq!(
                simulator.control().calls("ResetVM_Task"),
                before + 1,
                "{case} was sent again"
            );
            match error {
                CallError::Refused(error) if proven => {
                    assert_eq!(error.kind, kind, "{case}");
                    let task =
                        (kind == HostErrorKind::Busy).then(|| TaskId::from_backend("haTask-7"));
                    assert_eq!(error.blocking_task, task);
                }
                CallError::Lost(error) if !proven => {
                    assert_eq!(error.kind, kind, "{case}: {error}");
                }
                other => panic!("{case}: {other:?}"),
            }
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_call_to_a_stopped_host_is_unreachable() {
    let (simulator, running) = connected_lab(Scenario::generated(1)).await;
    let id = machine_id(&Scenario::generated(1), 0);
    simulator.stop().await;
    let error = running.esx.call(&id, &HostCall::PowerOn, running.job()).await.unwrap_err();
    let (CallError::Refused(error) | CallError::Lost(error)) = error;
    assert_eq!(error.kind, HostErrorKind::Unreachable);
    running.stop().await;
}

#[tokio::test]
async fn followers_see_progress_failure_and_vanishing() {
    let mut scenario = Scenario::generated(2);
    scenario.machines[0].power = world::PowerState::Off;
    let (simulator, running) = connected_lab_at_pace(scenario.clone(), Pace::Stepped).await;
    let control = simulator.control();
    let id = machine_id(&scenario, 0);
    let task = start_task(&running, &id, &HostCall::PowerOn).await;
    let mut status = running.esx.follow(&task).await;
    let busy = running.esx.call(&id, &HostCall::PowerOff, running.job()).await;
    let evidence = running.esx.read_evidence(&id).await.unwrap();
    assert!(evidence.has_running_task() && busy.is_err(), "{busy:?}");
    control.step_tasks();
    // The task has no progress after the first step.
    control.step_tasks();
    let progress =
        status.wait_for(|status| matches!(status, TaskStatus::Running { progress: Some(_) }));
    drop(in_time("progress", progress).await.unwrap());
    control.finish_task(task.backend_text());
    assert!(matches!(wait_task_end(&running, &task).await, TaskStatus::Succeeded { .. }));

    control.fail_next_task("PowerOffVM_Task", Fault::invalid_power_state(None, "poweredOff"));
    let task = start_task(&running, &id, &HostCall::PowerOff).await;
    control.finish_task(task.backend_text());
    let TaskStatus::Failed(error) = wait_task_end(&running, &task).await else { panic!() };
    assert_eq!(error.kind, HostErrorKind::InvalidPowerState);
    assert_eq!(error.fault.as_ref().unwrap().details["existingState"], "poweredOff");

    let task = start_task(&running, &id, &HostCall::PowerOff).await;
    let mut status = running.esx.follow(&task).await;
    running.esx.barrier().await.unwrap();
    control.vanish_tasks();
    let end = status.wait_for(|status| matches!(status, TaskStatus::Vanished));
    drop(in_time("the end of a forgotten task", end).await.unwrap());
    assert!(matches!(
        wait_task_end(&running, &TaskId::from_backend("haTask-none")).await,
        TaskStatus::Vanished
    ));
    let error = running.esx.cancel(&TaskId::from_backend("haTask-none")).await.unwrap_err();
    assert_eq!(error.kind, HostErrorKind::NotFound);
    running.stop().await;
}

#[tokio::test]
async fn direct_reads_and_unknown_machines() {
    let (_simulator, running) = connected_lab(Scenario::generated(3)).await;
    let id = machine_id(&Scenario::generated(3), 0);
    let paths = ["runtime.powerState".to_owned(), "runtime.question".to_owned()];
    let values = running.esx.properties(&id, &paths).await.unwrap();
    assert!(values["runtime.powerState"].is_string() && values["runtime.question"].is_null());
    let error = running.esx.properties(&id, &["config.nonsense".to_owned()]).await.unwrap_err();
    assert_eq!(error.kind, HostErrorKind::InvalidProperty);
    running.esx.confirm_guest(&id).await.unwrap();
    assert_eq!(running.observer.recording().confirmed.len(), 1);
    let none = MachineId::from_backend("no such / machine");
    assert_eq!(running.esx.read_evidence(&none).await.unwrap_err().kind, HostErrorKind::NotFound);
    assert_eq!(running.esx.confirm_guest(&none).await.unwrap_err().kind, HostErrorKind::NotFound);
    running.stop().await;
}
