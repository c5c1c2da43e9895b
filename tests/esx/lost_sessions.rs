//! Each form of a lost session: the facts stay complete, and all callers together cause one login.

use std::sync::Arc;
use std::time::Duration;

use otter::clock::Clock;
use otter::domain::call::HostCall;
use otter::hypervisor::{Accepted, CallError, HostErrorKind, Hypervisor, SessionState, TaskStatus};
use otter::simulator::{
    Disruption, DownMode, Fault, HostdRestart, Pace, Scenario, SessionLoss, world,
};

use super::support::{
    RunningBackend, connected_lab, connected_lab_at_pace, in_time, machine_id, options,
    start_simulator,
};

const SESSION_LOSSES: [SessionLoss; 4] = [
    SessionLoss::Fault,
    SessionLoss::MissingSet,
    SessionLoss::EmptyAnswer,
    SessionLoss::NoCollector,
];

#[tokio::test]
async fn no_form_of_a_lost_session_removes_machines() {
    for form in SESSION_LOSSES {
        let scenario = Scenario::generated(20);
        let (simulator, running) = connected_lab(scenario.clone()).await;
        simulator.control().set_session_loss(form);
        simulator.control().expire_sessions();
        running.observer.wait_connected(2).await;
        let id = machine_id(&scenario, 3);
        simulator.control().mutate(|world| {
            world.machine_mut(id.backend_text()).unwrap().annotation = "after".to_owned();
        });
        running.esx.barrier().await.unwrap();
        let recording = running.observer.recording();
        assert_eq!((recording.machines.len(), recording.smallest), (20, Some(20)), "{form:?}");
        assert_eq!(recording.machines[&id].annotation.as_deref(), Some("after"), "{form:?}");
        assert_eq!(recording.statuses.last().unwrap().logins, 2, "{form:?}");
        running.stop().await;
    }
}

#[tokio::test]
async fn direct_reads_and_calls_survive_each_form() {
    futures_util::future::join_all(SESSION_LOSSES.map(|form| async move {
        let mut scenario = Scenario::generated(3);
        scenario.machines[0].power = world::PowerState::Off;
        let (simulator, running) = connected_lab(scenario.clone()).await;
        let id = machine_id(&scenario, 0);
        simulator.control().set_session_loss(form);
        simulator.control().expire_sessions();
        let evidence = running
            .esx
            .read_evidence(&id)
            .await
            .unwrap_or_else(|error| panic!("{form:?}: {error}"));
        assert!(evidence.identity.instance_uuid.is_some(), "{form:?}");
        simulator.control().expire_sessions();
        let values = running.esx.properties(&id, &["name".to_owned()]).await.unwrap();
        assert!(values["name"].is_string(), "{form:?}");
        simulator.control().expire_sessions();
        let accepted = running.esx.call(&id, &HostCall::PowerOn, running.job()).await;
        assert!(matches!(accepted, Ok(Accepted::Task(_))), "{form:?}: {accepted:?}");
        running.stop().await;
    }))
    .await;
}

#[tokio::test]
async fn a_hundred_calls_on_a_lost_session_cause_one_login() {
    let mut scenario = Scenario::generated(100);
    for machine in &mut scenario.machines {
        machine.power = world::PowerState::Off;
    }
    let (simulator, running) = connected_lab(scenario.clone()).await;
    simulator.control().expire_sessions();
    let calls: Vec<_> = (0..100)
        .map(|index| {
            let (esx, id, job) =
                (Arc::clone(&running.esx), machine_id(&scenario, index), running.job());
            tokio::spawn(async move { esx.call(&id, &HostCall::PowerOn, job).await })
        })
        .collect();
    for call in calls {
        let accepted = in_time("the call", call).await.unwrap();
        assert!(matches!(accepted, Ok(Accepted::Task(_))), "{accepted:?}");
    }
    assert_eq!(simulator.control().calls("Login"), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_refused_login_is_not_repeated_before_the_backoff_ends() {
    let clock = Clock::stepped("2024-01-01T00:00:00Z".parse().unwrap());
    let simulator = start_simulator(Scenario::generated(2), Pace::Auto { scale: 0.0 }).await;
    simulator.control().refuse_logins(true);
    let running = RunningBackend::start_at(&options(&simulator.url()), clock.clone());
    let reason = running
        .observer
        .wait_until("the login is refused", |recording| match &recording.statuses.last()?.state {
            SessionState::LoginRefused { reason } => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert!(
        reason.contains("root") && reason.contains("15 minutes") && !reason.contains("otter\""),
        "{reason}"
    );
    let id = machine_id(&Scenario::generated(2), 0);
    for _ in 0..20 {
        let error = running.esx.call(&id, &HostCall::PowerOn, running.job()).await.unwrap_err();
        assert!(
            matches!(error, CallError::Refused(error) if error.kind == HostErrorKind::LoginRefused)
        );
        assert_eq!(
            running.esx.read_evidence(&id).await.unwrap_err().kind,
            HostErrorKind::LoginRefused
        );
        assert_eq!(running.esx.barrier().await.unwrap_err().kind, HostErrorKind::Unreachable);
    }
    clock.advance(Duration::from_mins(14));
    assert!(running.esx.barrier().await.is_err());
    assert_eq!(simulator.control().calls("Login"), 1);
    simulator.control().refuse_logins(false);
    clock.advance(Duration::from_mins(2));
    running.observer.wait_connected(1).await;
    assert_eq!(simulator.control().calls("Login"), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_login_refused_after_a_lost_session_is_tried_once() {
    let scenario = Scenario::generated(4);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    simulator.control().refuse_logins(true);
    simulator.control().expire_sessions();
    for index in 0..4 {
        let error = running
            .esx
            .call(&machine_id(&scenario, index), &HostCall::Reset, running.job())
            .await
            .unwrap_err();
        assert!(
            matches!(error, CallError::Refused(error) if error.kind == HostErrorKind::LoginRefused)
        );
    }
    let recording = running.observer.recording();
    assert!(matches!(recording.statuses.last().unwrap().state, SessionState::LoginRefused { .. }));
    assert_eq!((recording.machines.len(), recording.smallest), (4, Some(4)));
    assert_eq!(simulator.control().calls("Login"), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_restart_of_hostd_causes_one_resync() {
    for down in [None, Some(DownMode::Refuse), Some(DownMode::Unavailable)] {
        let scenario = Scenario::generated(10);
        let (simulator, running) = connected_lab(scenario.clone()).await;
        simulator.control().restart_hostd(HostdRestart { down, drop_running: false });
        if down.is_some() {
            running
                .observer
                .wait_until("away", |recording| {
                    matches!(recording.statuses.last()?.state, SessionState::Away { .. })
                        .then_some(())
                })
                .await;
            simulator.control().resume();
        }
        running.observer.wait_connected(2).await;
        let recording = running.observer.recording();
        assert_eq!(
            (recording.machines.len(), recording.smallest, recording.syncs),
            (10, Some(10), 2),
            "{down:?}"
        );
        running.stop().await;
    }
}

#[tokio::test]
async fn a_followed_task_survives_a_lost_session_and_vanishes_with_hostd() {
    let mut scenario = Scenario::generated(2);
    for machine in &mut scenario.machines {
        machine.power = world::PowerState::Off;
    }
    let (simulator, running) = connected_lab_at_pace(scenario.clone(), Pace::Stepped).await;
    let start = async |index| {
        let id = machine_id(&scenario, index);
        let Ok(Accepted::Task(task)) =
            running.esx.call(&id, &HostCall::PowerOn, running.job()).await
        else {
            panic!()
        };
        (running.esx.follow(&task).await, task)
    };
    let (mut status, task) = start(0).await;
    simulator.control().expire_sessions();
    running.observer.wait_connected(2).await;
    simulator.control().finish_task(task.backend_text());
    let end = status.wait_for(|status| matches!(status, TaskStatus::Succeeded { .. }));
    drop(in_time("the success", end).await.unwrap());
    assert_eq!(running.observer.recording().restarts.len(), 1);
    let (mut status, _) = start(1).await;
    simulator.control().restart_hostd(HostdRestart::default());
    let end = status.wait_for(|status| matches!(status, TaskStatus::Vanished));
    drop(in_time("the end of a forgotten task", end).await.unwrap());
    running.stop().await;
}

#[tokio::test]
async fn an_empty_host_is_accepted_after_a_second_read() {
    let (simulator, running) = connected_lab(Scenario::generated(12)).await;
    simulator.control().mutate(|world| {
        let ids: Vec<String> = world.machines().map(|machine| machine.id.clone()).collect();
        for id in ids {
            world.remove_machine(&id);
        }
    });
    running
        .observer
        .wait_until("no machines", |recording| recording.machines.is_empty().then_some(()))
        .await;
    assert!(simulator.control().calls("RetrievePropertiesEx") >= 2);
    assert_eq!(running.observer.recording().statuses.last().unwrap().logins, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_host_without_machines_connects() {
    let (_simulator, running) = connected_lab(Scenario::generated(0)).await;
    assert_eq!(running.observer.recording().syncs, 1);
    running.esx.barrier().await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn an_account_without_rights_is_forbidden_and_logs_in_once() {
    let scenario = Scenario::generated(2);
    let (simulator, running) = connected_lab(scenario.clone()).await;
    let id = machine_id(&scenario, 0);
    simulator.control().disrupt(
        "PowerOnVM_Task",
        0,
        None,
        Disruption::Fault(Fault::not_authenticated()),
    );
    for _ in 0..5 {
        let error = running.esx.call(&id, &HostCall::PowerOn, running.job()).await.unwrap_err();
        let CallError::Refused(error) = error else { panic!("{error:?}") };
        assert_eq!(error.kind, HostErrorKind::Forbidden);
        assert!(error.message.contains("System.View"), "{error}");
    }
    assert_eq!(simulator.control().calls("Login"), 1);
    assert_eq!(simulator.control().calls("PowerOnVM_Task"), 5);
    running.stop().await;
}

#[tokio::test]
async fn an_unexpected_cancel_of_the_wait_keeps_session_and_machines() {
    for fault in [
        Fault::request_canceled(),
        Fault::new("SecurityError", ""),
        Fault::new("SomethingToCome", ""),
    ] {
        let scenario = Scenario::generated(8);
        let (simulator, running) = connected_lab(scenario).await;
        simulator.control().disrupt_next("WaitForUpdatesEx", Disruption::Fault(fault));
        // The barrier ends the pending wait, so that the next wait gets the planned fault.
        let _ = running.esx.barrier().await;
        running.observer.wait_connected(1).await;
        in_time("a barrier again", async { while running.esx.barrier().await.is_err() {} }).await;
        let recording = running.observer.recording();
        assert_eq!((recording.machines.len(), recording.smallest), (8, Some(8)));
        assert_eq!(recording.statuses.last().unwrap().logins, 1);
        running.stop().await;
    }
}
