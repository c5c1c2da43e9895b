//! A session with the host for one command: it ends with a logout, however the command ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;

use crate::app::Settings;
use crate::clock::Clock;
use crate::domain::event::{EventFilter, EventType};
use crate::esx::EsxHypervisor;
use crate::hypervisor::{Hypervisor, Observer, SessionState};
use crate::service::event_stream::EventStream;
use crate::service::inventory::Inventory;
use crate::telemetry::metrics::Metrics;

/// The longest wait until the machines of the host are read.
const READ_TIMEOUT: Duration = Duration::from_mins(2);

/// The longest wait for the logout.
const LOGOUT_TIMEOUT: Duration = Duration::from_secs(5);

/// A host whose machines are read.
pub struct ConnectedHost {
    pub hypervisor: Arc<EsxHypervisor>,
    pub inventory: Arc<Inventory>,
    pub event_stream: EventStream,
    pub clock: Clock,
}

/// Connects to the host, reads its machines, does `work`, and logs out.
///
/// # Errors
/// The host is unreachable, refuses the account, or does not list its machines in time; and the
/// errors of `work`.
pub async fn with_host<T>(
    settings: &Settings,
    work: impl AsyncFnOnce(&ConnectedHost) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let clock = Clock::system();
    let hypervisor = EsxHypervisor::with_metrics(&settings.esx, clock.clone(), Metrics::default())
        .context("the host's settings are wrong")?;
    let event_stream = EventStream::new(&clock);
    let inventory =
        Arc::new(Inventory::new(clock.clone(), event_stream.clone(), settings.guest_settle));
    let host = ConnectedHost { hypervisor: Arc::new(hypervisor), inventory, event_stream, clock };
    let stop = CancellationToken::new();
    let observer = Arc::clone(&host.inventory) as Arc<dyn Observer>;
    let session = host.hypervisor.run(observer, stop.clone());
    tokio::pin!(session);
    let done = async {
        tokio::select! {
            read = wait_for_machines(&host) => read?,
            () = host.clock.sleep(READ_TIMEOUT) => {
                let seconds = READ_TIMEOUT.as_secs();
                bail!("the machines of the host were not read within {seconds} s");
            }
        }
        work(&host).await
    };
    let done = tokio::select! {
        done = done => done,
        _ = &mut session => bail!("the session with the host ended by itself"),
    };
    stop.cancel();
    tokio::select! {
        _ = session => {}
        () = host.clock.sleep(LOGOUT_TIMEOUT) => {}
    }
    done
}

async fn wait_for_machines(host: &ConnectedHost) -> anyhow::Result<()> {
    let ConnectedHost { hypervisor, inventory, event_stream, .. } = host;
    let types = vec![EventType::SessionChanged];
    let mut changes = event_stream.subscribe(EventFilter { types, ..EventFilter::default() });
    loop {
        changes.skip_unread();
        match inventory.session().state {
            SessionState::Connecting => {}
            SessionState::Connected => {
                // After the barrier the inventory has every machine of the host.
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
