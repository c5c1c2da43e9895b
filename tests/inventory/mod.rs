//! The inventory over the in-process backend: the reads of guests that it starts by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use otter::clock::Clock;
use otter::domain::ids::MachineId;
use otter::hypervisor::{Fact, Facts, GuestRestart, Hypervisor, Observer};
use otter::service::event_stream::EventStream;
use otter::service::hosts::Hosts;
use otter::service::inventory::Inventory;
use otter::simulator::world::{Guest, PowerState};
use otter::simulator::{Fault, Pace, Scenario};
use tokio_util::sync::CancellationToken;

use crate::in_process::{Hooks, InProcess, Interruption, Request, SimulatedHost};

const SETTLE: Duration = Duration::from_secs(30);

/// Counts the direct reads of guests, and refuses those of the first machine.
#[derive(Default)]
struct GuestReads(AtomicUsize);

#[async_trait]
impl Hooks for GuestReads {
    async fn before_request(&self, request: Request<'_>) -> Result<(), Interruption> {
        let Request::ConfirmGuest(machine) = request else { return Ok(()) };
        self.0.fetch_add(1, Ordering::Relaxed);
        match machine.backend_text() {
            "1" => Err(Interruption::Fault(Fault::new("NoPermission", "Permission was denied."))),
            _ => Ok(()),
        }
    }
}

/// Three machines that are on, each with an address.
fn scenario() -> Scenario {
    let mut scenario = Scenario::generated(3);
    for machine in &mut scenario.machines {
        machine.power = PowerState::On;
        machine.guest = Guest {
            tools_installed: true,
            address: Some("10.0.0.5".to_owned()),
            ..Guest::without_tools()
        };
    }
    scenario
}

#[tokio::test]
async fn a_guest_that_cannot_be_read_delays_no_other_guest_and_is_not_read_in_a_loop() {
    let clock = Clock::stepped("2026-03-01T12:00:00Z".parse().unwrap());
    let inventory = Arc::new(Inventory::new(clock.clone(), EventStream::new(&clock), SETTLE));
    let reads = Arc::new(GuestReads::default());
    let host = SimulatedHost::new(&scenario(), Pace::Stepped, clock.clone());
    let backend = Arc::new(InProcess::new(host).with_hooks(Arc::clone(&reads) as _));
    let stop = CancellationToken::new();
    let running = (Arc::clone(&backend), Arc::clone(&inventory), stop.clone());
    tokio::spawn(async move { running.0.run(running.1, running.2).await });
    inventory.connected().await;
    let restarted = ["1", "2", "3"].map(|id| Fact::GuestRestarted {
        machine: MachineId::from_backend(id),
        by: GuestRestart::Reset,
    });
    inventory.observe(Facts { complete: false, changes: restarted.to_vec() });
    let task = tokio::spawn({
        let (inventory, backend, stop) =
            (Arc::clone(&inventory), Arc::clone(&backend), stop.clone());
        async move { inventory.confirm_guests(Hosts::from_host(backend), stop).await }
    });
    let mut changes = inventory.watch(&MachineId::from_backend("3"));
    let trusted_address = |id: &str| {
        let address = inventory.contents().ip_address(&MachineId::from_backend(id), None);
        address.map(|address| address.to_string())
    };
    assert_eq!(trusted_address("3"), None);
    clock.advance(SETTLE);
    while trusted_address("3").is_none() {
        changes.changed().await.unwrap();
    }
    assert_eq!((trusted_address("1"), trusted_address("2").as_deref()), (None, Some("10.0.0.5")));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        reads.0.load(Ordering::Relaxed),
        3,
        "each guest was read once while the time stood still"
    );
    stop.cancel();
    task.await.unwrap();
}
