//! `otter check-config --host`: reads the machines of the host once. Warns of each pattern in the
//! configuration that matches none of the machines, and of each protected machine that the
//! configuration names by its id.

use std::sync::Arc;

use super::host_session::{ConnectedHost, with_host};
use super::print;
use crate::app::Settings;
use crate::domain::terminal::printable;
use crate::service::live_settings::LiveSettings;
use crate::service::patterns::PatternWatch;

/// Reads the machines of the host, and prints a warning for each pattern and id that matches none
/// of them.
///
/// # Errors
/// Fails if the host is unreachable, refuses the account, or does not list its machines in time.
pub async fn check_host(settings: &Settings) -> anyhow::Result<()> {
    let (machines, warnings) = with_host(settings, async |host: &ConnectedHost| {
        let live = LiveSettings::new(settings.reloadable());
        let (inventory, events) = (Arc::clone(&host.inventory), host.event_stream.clone());
        let machines = inventory.contents().machines.len();
        Ok((machines, PatternWatch::new(live, inventory, events).warnings()))
    })
    .await?;
    for warning in warnings {
        print(&format!("Warning: {}\n", printable(&warning.text())));
    }
    print(&format!("The host was reached and has {machines} machines.\n"));
    Ok(())
}
