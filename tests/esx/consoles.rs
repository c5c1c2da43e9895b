//! Consoles on the wire: tickets, the WebSocket, the certificate and the proxy, and `/screen`.

use std::time::Duration;

use otter::domain::ids::{MachineId, SnapshotId};
use otter::domain::verify::Verify;
use otter::hypervisor::{HostErrorKind, Hypervisor, ScreenConnection, ScreenObject};
use otter::simulator::{
    ConsoleEnd, ConsoleQuirks, Disruption, HostChange, Pace, Scenario, Simulator,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::support::{RunningBackend, in_time, options, start_simulator};
use crate::harness::{ConnectProxy, eventually};

/// A machine of the scenario that is on.
const RUNNING: &str = "17";

const GREETING: &[u8] = b"RFB 003.008\n";

fn running() -> MachineId {
    MachineId::from_backend(RUNNING)
}

async fn simulator() -> Simulator {
    start_simulator(Scenario::lab().unwrap(), Pace::Auto { scale: 0.0 }).await
}

async fn connected() -> (Simulator, RunningBackend) {
    let simulator = simulator().await;
    let backend = RunningBackend::start(&options(&simulator.url()));
    backend.observer.wait_connected(1).await;
    (simulator, backend)
}

async fn read_greeting(screen: &mut ScreenConnection) {
    let mut greeting = [0; GREETING.len()];
    in_time("the greeting", screen.stream.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(greeting, GREETING);
}

fn counted(simulator: &Simulator) -> i32 {
    simulator.control().look(|world| world.machine(RUNNING).unwrap().mks_connections)
}

#[tokio::test]
async fn each_connection_takes_a_ticket_and_ends_properly() {
    let (simulator, backend) = connected().await;
    for number in 1..=3 {
        let mut screen = backend.esx.open_screen(&running()).await.unwrap();
        read_greeting(&mut screen).await;
        assert_eq!((counted(&simulator), simulator.control().calls("AcquireTicket")), (1, number));
        in_time("the end", screen.stream.shutdown()).await.unwrap();
        eventually("the end of the console", async || counted(&simulator) == 0).await;
    }
    assert_eq!(simulator.control().calls("Login"), 1);
    backend.stop().await;
}

#[tokio::test]
async fn bytes_pass_in_messages_of_any_size() {
    let (simulator, backend) = connected().await;
    let quirks = ConsoleQuirks { message_bytes: 1, ..ConsoleQuirks::default() };
    simulator.control().apply(HostChange::ConsoleQuirks(quirks));
    let mut screen = backend.esx.open_screen(&running()).await.unwrap();
    read_greeting(&mut screen).await;
    for byte in GREETING {
        screen.stream.write_all(&[*byte]).await.unwrap();
        screen.stream.flush().await.unwrap();
    }
    let mut types = [0; 2];
    in_time("the security types", screen.stream.read_exact(&mut types)).await.unwrap();
    assert_eq!(types, [1, 1]);
    backend.stop().await;
}

#[tokio::test]
async fn the_end_of_a_console_ends_the_stream() {
    let (simulator, backend) = connected().await;
    for how in [ConsoleEnd::Close, ConsoleEnd::Cut] {
        let mut screen = backend.esx.open_screen(&running()).await.unwrap();
        read_greeting(&mut screen).await;
        simulator.control().end_consoles(RUNNING, how);
        let mut rest = Vec::new();
        let read = in_time("the end", screen.stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{how:?}: {read:?} {rest:?}");
        let _ = in_time("the shutdown", screen.stream.shutdown()).await;
    }
    backend.stop().await;
}

#[tokio::test]
async fn only_the_subprotocol_of_rfb_is_offered() {
    let (simulator, backend) = connected().await;
    let quirks = ConsoleQuirks { prefers_vvc: true, ..ConsoleQuirks::default() };
    simulator.control().apply(HostChange::ConsoleQuirks(quirks));
    let mut screen = backend.esx.open_screen(&running()).await.unwrap();
    read_greeting(&mut screen).await;
    backend.stop().await;
}

#[tokio::test]
async fn refusals_have_their_kinds() {
    let (simulator, backend) = connected().await;
    let kind = async |machine: &str| {
        let opened = backend.esx.open_screen(&MachineId::from_backend(machine)).await;
        opened.err().map(|error| (error.kind, error.message))
    };
    let (off, message) = kind("16").await.unwrap();
    assert_eq!(off, HostErrorKind::InvalidPowerState, "{message}");
    assert_eq!(kind("no-such-machine").await.unwrap().0, HostErrorKind::NotFound);
    // The host answers, so that it is no outage.
    let answer = Disruption::Answer { status: 404, content_type: "text/html", body: String::new() };
    simulator.control().disrupt_next("/ticket", answer);
    let (refused, message) = kind(RUNNING).await.unwrap();
    assert_eq!(refused, HostErrorKind::Rejected, "{message}");
    simulator.control().mutate(|world| {
        world.machine_mut(RUNNING).unwrap().max_mks_connections = 0;
    });
    let (limited, message) = kind(RUNNING).await.unwrap();
    assert_eq!(limited, HostErrorKind::ScreenLimitReached, "{message}");
    simulator.control().set_read_only_account(true);
    let (forbidden, message) = kind(RUNNING).await.unwrap();
    assert_eq!(forbidden, HostErrorKind::Forbidden);
    assert!(message.contains("VirtualMachine.Interact.ConsoleInteract"), "{message}");
    let object = ScreenObject::Machine(running());
    let refused = backend.esx.screen_picture(&object).await.unwrap_err();
    assert_eq!(refused.kind, HostErrorKind::Forbidden);
    assert_eq!(simulator.control().calls("Login"), 1, "a refusal is no lost session");
    backend.stop().await;
}

#[tokio::test]
async fn pictures_of_machines_and_snapshots() {
    let (simulator, backend) = connected().await;
    let snapshot = |name: &str| {
        simulator.control().look(|world| {
            let machine = world.machine(RUNNING).unwrap();
            let found = machine.snapshots.iter().find(|snapshot| snapshot.name == name);
            ScreenObject::Snapshot(SnapshotId::from_backend(&found.unwrap().id))
        })
    };
    for object in [ScreenObject::Machine(running()), snapshot("logged in")] {
        let picture = backend.esx.screen_picture(&object).await.unwrap();
        assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"), "{object:?}");
    }
    let missing = backend.esx.screen_picture(&snapshot("kickstart")).await.unwrap_err();
    assert_eq!(missing.kind, HostErrorKind::NotFound);
    // The session is renewed, and the picture is read again.
    simulator.control().expire_sessions();
    let object = ScreenObject::Machine(running());
    in_time("a picture", backend.esx.screen_picture(&object)).await.unwrap();
    assert_eq!(simulator.control().calls("Login"), 2);
    backend.stop().await;
}

#[tokio::test]
async fn a_console_goes_through_the_proxy_and_checks_the_certificate() {
    let simulator = simulator().await;
    let proxy = ConnectProxy::start().await;
    let address = simulator.url().strip_prefix("https://").unwrap().parse().unwrap();
    proxy.set_name("esx.invalid:443", address);
    let mut through = options("https://esx.invalid");
    through.proxy = Some(proxy.url().parse().unwrap());
    through.verify = Verify::Fingerprint(simulator.fingerprint().parse().unwrap());
    through.connect_timeout = Duration::from_secs(5);
    let backend = RunningBackend::start(&through);
    backend.observer.wait_connected(1).await;
    proxy.take_targets();
    let mut screen = backend.esx.open_screen(&running()).await.unwrap();
    read_greeting(&mut screen).await;
    let targets = proxy.take_targets();
    assert!(!targets.is_empty(), "the console did not use the proxy");
    assert!(targets.iter().all(|target| target == "esx.invalid:443"), "{targets:?}");
    backend.stop().await;
}
