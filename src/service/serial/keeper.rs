//! Keeps otter connected to the ports of machines that a lease holds, from before their preparation
//! on, and of machines in pools with `serial = "always"`. Also deletes old output.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

use super::Serial;
use super::segments::delete_old;
use super::shared_port::PortUse;
use super::ways::NoWay;
use crate::domain::ids::MachineId;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::pool::SerialAccess;
use crate::domain::serial::PortAccess;

/// How often otter looks for ports that came or went, besides at each change of a lease or of the
/// settings.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How often old output is deleted.
const CLEANUP_INTERVAL: Duration = Duration::from_hours(1);

/// How long the numbers of the bytes of a port that is not used are kept. If the port is used
/// later, its offsets begin again.
const NUMBERS_KEPT: SignedDuration = SignedDuration::from_hours(365 * 24);

/// The ports that are kept open.
type Held = HashMap<(MachineId, i32), PortUse>;

impl Serial {
    /// Keeps ports open until `stop` is cancelled.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut leases = self.leases.changes();
        let mut settings = self.live.changes();
        let mut held = Held::new();
        let mut cleanup_at = self.clock.elapsed() + CLEANUP_INTERVAL;
        loop {
            self.hold(&mut held);
            if self.clock.elapsed() >= cleanup_at {
                self.clean_up().await;
                cleanup_at = self.clock.elapsed() + CLEANUP_INTERVAL;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // The senders live as long as the services.
                Ok(()) = leases.changed() => {}
                Ok(()) = settings.changed() => {}
                () = self.clock.sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Joins the ports that must be open, and leaves the others.
    fn hold(&self, held: &mut Held) {
        let mut ports = HashMap::new();
        for machine in self.kept_machines() {
            for port in &machine.serial_ports {
                let way = self.ways.to(&machine, port);
                let is_unavailable =
                    matches!(way, Err(NoWay { access: PortAccess::Unavailable, .. }));
                if !is_unavailable {
                    ports.insert((machine.id.clone(), port.key), Arc::clone(&machine));
                }
            }
        }
        held.retain(|port, usage| {
            let machine = ports.get(port).map(|machine| machine.identity());
            let port = usage.port();
            let is_same = machine.is_some_and(|now| port.machine.identity().agrees_with(&now));
            is_same && !port.stop.is_cancelled() && usage.status().end.is_none()
        });
        for (port, machine) in ports {
            if held.contains_key(&port) {
                continue;
            }
            match self.join(&machine, port.1) {
                Ok(usage) => {
                    held.insert(port, usage);
                }
                Err(failure) => {
                    let (machine, key) = port;
                    tracing::debug!(%machine, key, %failure, "a serial port is not held open");
                }
            }
        }
    }

    /// The machines whose ports must be open.
    fn kept_machines(&self) -> Vec<Arc<Machine>> {
        let contents = self.inventory.contents();
        let table = self.leases.load();
        let held = |identity: &MachineIdentity| {
            let known = contents.machine(&identity.id);
            known.filter(|known| identity.can_be(&known.identity())).cloned()
        };
        let mut kept: Vec<Arc<Machine>> =
            table.holders().filter_map(|(_, identity)| held(identity)).collect();
        let pools = &self.live.load().pools;
        let is_always =
            |name: &String| pools.get(name).is_some_and(|pool| pool.serial == SerialAccess::Always);
        if pools.0.keys().any(is_always) {
            let in_pools = contents.machines.iter().filter(|machine| {
                !machine.serial_ports.is_empty() && pools.for_machine(machine).iter().any(is_always)
            });
            kept.extend(in_pools.cloned());
        }
        kept
    }

    /// Deletes the output of ports that were not used for `serial.retention_days`.
    async fn clean_up(&self) {
        let contents = self.inventory.contents();
        let known: HashSet<String> =
            contents.machines.iter().map(|machine| machine.identity().key()).collect();
        self.registry.forget_logs(&known);
        if let Some(directory) = self.settings.directory.clone() {
            let (registry, max_age) = (self.registry.clone(), self.settings.retention);
            let deleted = tokio::task::spawn_blocking(move || {
                delete_old(&directory, max_age, |folder| registry.is_open(folder))
            });
            let deleted = deleted.await.unwrap_or_default();
            if deleted > 0 {
                tracing::info!(ports = deleted, "deleted the old output of serial ports");
            }
        }
        let before = self.clock.now() - NUMBERS_KEPT;
        if let Err(error) = self.storage.forget_serial_ports(before).await {
            tracing::debug!(%error, "the numbers of old serial ports are not forgotten");
        }
    }
}
