//! Faults of a login: those of the account block further logins, and all others are an outage.

use std::time::Duration;

use otter::clock::Clock;
use otter::hypervisor::{Hypervisor, SessionState};
use otter::simulator::{Disruption, Fault, Pace, Scenario, Simulator};

use super::support::{Recording, RunningBackend, options, start_simulator};

/// A host whose first login ends with `fault`, and a backend whose clock stands still.
async fn with_login_fault(fault: Fault) -> (Simulator, RunningBackend) {
    let simulator = start_simulator(Scenario::generated(1), Pace::Auto { scale: 0.0 }).await;
    simulator.control().disrupt_next("Login", Disruption::Fault(fault));
    let clock = Clock::stepped("2024-01-01T00:00:00Z".parse().unwrap());
    let running = RunningBackend::start_at(&options(&simulator.url()), clock);
    (simulator, running)
}

fn reasons(recording: &Recording) -> Vec<String> {
    let away = recording.statuses.iter().filter_map(|status| match &status.state {
        SessionState::Away { reason } => Some(reason.clone()),
        _ => None,
    });
    away.collect()
}

#[tokio::test]
async fn a_login_that_fails_for_another_reason_than_the_account_is_an_outage() {
    let faults = [
        Fault::new("RuntimeFault", "The service is starting."),
        Fault::new("InvalidState", "The operation is not allowed in the current state."),
        Fault::new("ResourceInUse", "The resource is in use."),
        Fault::new("InvalidLocale", ""),
        Fault::new("SecurityError", ""),
        Fault::not_authenticated(),
        Fault::not_supported(),
        Fault::restricted_version(),
        Fault::new("SystemError", "A general system error occurred.").with("reason", "full"),
        Fault::new("HostCommunication", ""),
        Fault::new("InsufficientResourcesFault", ""),
        Fault::unreadable("Something went wrong."),
    ];
    for fault in faults {
        let name = fault.type_name;
        let (simulator, running) = with_login_fault(fault).await;
        running.observer.wait_connected(1).await;
        let recording = running.observer.recording();
        let [reason] = &reasons(&recording)[..] else { panic!("{name}: {:?}", recording.statuses) };
        assert!(reason.contains("accepts no login now") && reason.contains(name), "{reason}");
        assert!(!reason.contains("Correct"), "the account is not the reason: {reason}");
        let refused = |state: &SessionState| matches!(state, SessionState::LoginRefused { .. });
        assert!(!recording.statuses.iter().any(|status| refused(&status.state)), "{name}");
        assert_eq!(simulator.control().calls("Login"), 2, "{name}");
        running.stop().await;
    }
}

#[tokio::test]
async fn a_fault_of_the_account_blocks_further_logins_and_says_what_to_do() {
    let table = [
        (Fault::invalid_login(), "Correct esx.username or the password"),
        (Fault::new("InvalidLogin", "The account is locked."), "Unlock the account"),
        (Fault::new("SystemError", "User account is locked.").with("reason", ""), "Unlock"),
        (Fault::new("PasswordExpired", "The password has expired."), "a new password"),
        (Fault::new("NoPermission", "Permission was denied."), "a role on the host"),
    ];
    for (fault, advice) in table {
        let (simulator, running) = with_login_fault(fault).await;
        let reason = running
            .observer
            .wait_until("refused", |recording| match &recording.statuses.last()?.state {
                SessionState::LoginRefused { reason } => Some(reason.clone()),
                _ => None,
            })
            .await;
        assert!(reason.contains(advice) && reason.contains("15 minutes"), "{reason}");
        running.clock.advance(Duration::from_mins(14));
        assert!(running.esx.barrier().await.is_err());
        assert_eq!(simulator.control().calls("Login"), 1, "{advice}");
        running.clock.advance(Duration::from_mins(1));
        running.observer.wait_connected(1).await;
        running.stop().await;
    }
}
