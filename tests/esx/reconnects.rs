//! The pauses between connects. The clock of the backend stands still, so a connect that the tests
//! see had no pause before it.

use std::time::Duration;

use otter::clock::Clock;
use otter::domain::ids::MachineId;
use otter::hypervisor::{Hypervisor, SessionState};
use otter::simulator::{Disruption, DownMode, Fault, HostdRestart, Pace, Scenario, Simulator};

use super::support::{Recording, RunningBackend, machine_id, options, start_simulator};

/// How long each connection of these tests lasts.
const HELD: Duration = Duration::from_secs(10);

async fn connected() -> (Simulator, RunningBackend, MachineId) {
    let scenario = Scenario::generated(3);
    let machine = machine_id(&scenario, 0);
    let simulator = start_simulator(scenario, Pace::Auto { scale: 0.0 }).await;
    let clock = Clock::stepped("2024-01-01T00:00:00Z".parse().unwrap());
    let running = RunningBackend::start_at(&options(&simulator.url()), clock);
    running.observer.wait_connected(1).await;
    (simulator, running, machine)
}

fn outages(recording: &Recording) -> usize {
    let away = |state: &SessionState| matches!(state, SessionState::Away { .. });
    recording.statuses.iter().filter(|status| away(&status.state)).count()
}

#[tokio::test]
async fn a_host_that_flaps_is_tried_again_at_once() {
    let (simulator, running, _) = connected().await;
    for logins in 2..12 {
        running.clock.advance(HELD);
        simulator.control().restart_hostd(HostdRestart::default());
        running.observer.wait_connected(logins).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn single_faults_of_the_wait_are_followed_by_a_resync_at_once() {
    let (simulator, running, machine) = connected().await;
    for round in 2..12 {
        running.clock.advance(HELD);
        let fault = Fault::new("RuntimeFault", "A single fault.");
        simulator.control().disrupt_next("WaitForUpdatesEx", Disruption::Fault(fault));
        // The change ends the pending wait, so that the next wait gets the fault.
        simulator.control().mutate(|world| {
            let machine = world.machine_mut(machine.backend_text()).unwrap();
            machine.annotation = format!("round {round}");
        });
        running
            .observer
            .wait_until("a resync", |recording| (recording.syncs == round).then_some(()))
            .await;
        running.observer.wait_connected(1).await;
    }
    assert_eq!(simulator.control().calls("Login"), 1, "the session was valid all the time");
    running.stop().await;
}

#[tokio::test]
async fn a_request_to_connect_ends_the_pause() {
    let (simulator, running, _) = connected().await;
    let down = HostdRestart { down: Some(DownMode::Refuse), drop_running: false };
    simulator.control().restart_hostd(down);
    // The second failure begins a pause, which does not end on this clock.
    running
        .observer
        .wait_until("two failures", |recording| (outages(recording) >= 2).then_some(()))
        .await;
    // The host is still down: the request is followed by another failure.
    running.esx.connect_now();
    running
        .observer
        .wait_until("a third failure", |recording| (outages(recording) >= 3).then_some(()))
        .await;
    running
        .observer
        .wait_until("a fourth failure", |recording| (outages(recording) >= 4).then_some(()))
        .await;
    simulator.control().resume();
    running.esx.connect_now();
    running.observer.wait_connected(2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_request_to_connect_does_not_repeat_a_refused_login() {
    let simulator = start_simulator(Scenario::generated(1), Pace::Auto { scale: 0.0 }).await;
    simulator.control().refuse_logins(true);
    let clock = Clock::stepped("2024-01-01T00:00:00Z".parse().unwrap());
    let running = RunningBackend::start_at(&options(&simulator.url()), clock);
    let is_refused = |recording: &Recording| {
        matches!(recording.statuses.last()?.state, SessionState::LoginRefused { .. }).then_some(())
    };
    running.observer.wait_until("a refused login", is_refused).await;
    running.esx.connect_now();
    // If `connect_now` made a login, the login would come before the answer to the barrier.
    running.esx.barrier().await.unwrap_err();
    assert_eq!(simulator.control().calls("Login"), 1);
    running.esx.set_password("otter".to_owned().into());
    simulator.control().until_called("Login", 2).await;
    running.stop().await;
}
