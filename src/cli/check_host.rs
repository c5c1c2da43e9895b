//! `otter check-config --host`: reads the machines of the host once. Warns of each pattern in the
//! configuration that matches none of the machines, and of each protected machine that the
//! configuration names by its id.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use super::print;
use crate::app::Settings;
use crate::clock::Clock;
use crate::domain::event::{EventFilter, EventType};
use crate::domain::terminal::printable;
use crate::esx::EsxHypervisor;
use crate::hypervisor::{Hypervisor, Observer, SessionState};
use crate::service::event_stream::EventStream;
use crate::service::inventory::Inventory;
use crate::service::live_settings::LiveSettings;
use crate::service::patterns::PatternWatch;
use crate::telemetry::metrics::Metrics;

/// The maximum time that the command waits until it has read the machines of the host.
const READ_TIMEOUT: Duration = Duration::from_mins(2);

/// The maximum time that the command waits for the logout.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the machines of the host, and prints a warning for each pattern and id that matches none
/// of them.
///
/// # Errors
/// Fails if the host is unreachable, refuses the account, or does not list its machines in time.
pub async fn check_host(settings: &Settings) -> anyhow::Result<()> {
    let clock = Clock::system();
    let hypervisor = EsxHypervisor::with_metrics(&settings.esx, clock.clone(), Metrics::default())
        .context("the host's settings are wrong")?;
    let event_stream = EventStream::new(&clock);
    let inventory =
        Arc::new(Inventory::new(clock.clone(), event_stream.clone(), settings.guest_settle));
    let stop = CancellationToken::new();
    let session = hypervisor.run(Arc::clone(&inventory) as Arc<dyn Observer>, stop.clone());
    tokio::pin!(session);
    let read = tokio::select! {
        read = wait_for_machines(&hypervisor, &inventory, &event_stream) => read,
        _ = &mut session => Err(anyhow::anyhow!("the session with the host ended by itself")),
        () = clock.sleep(READ_TIMEOUT) => {
            let seconds = READ_TIMEOUT.as_secs();
            Err(anyhow::anyhow!("the machines of the host were not read within {seconds} s"))
        }
    };
    stop.cancel();
    tokio::select! {
        _ = session => {}
        () = clock.sleep(LOGOUT_TIMEOUT) => {}
    }
    read?;
    let machines = inventory.contents().machines.len();
    let live = LiveSettings::new(settings.reloadable());
    for warning in PatternWatch::new(live, inventory, event_stream).warnings() {
        print(&format!(
            "Warning: {}
",
            printable(&warning.text())
        ));
    }
    print(&format!("The host was reached and has {machines} machines.\n"));
    Ok(())
}

async fn wait_for_machines(
    hypervisor: &EsxHypervisor,
    inventory: &Inventory,
    event_stream: &EventStream,
) -> anyhow::Result<()> {
    let types = vec![EventType::SessionChanged];
    let mut changes = event_stream.subscribe(EventFilter { types, ..EventFilter::default() });
    loop {
        changes.skip_unread();
        match inventory.session().state {
            SessionState::Connecting => {}
            SessionState::Connected => {
                // The barrier guarantees that the inventory has every machine of the host.
                if hypervisor.barrier().await.is_ok() && inventory.contents().loaded {
                    return Ok(());
                }
            }
            SessionState::Away { reason } => bail!("the host cannot be reached: {reason}"),
            SessionState::LoginRefused { reason } => {
                bail!("the host refuses the account: {reason}")
            }
        }
        changes.wait_for_more().await;
    }
}
