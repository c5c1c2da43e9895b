//! Machines as callers see them: lists, waits, and the view of a machine. The view adds otter's own
//! data to the machine that the host reports: lease, quarantine, job, protection, and whether the
//! machine is free.

mod lookup;
mod not_free;
mod unknown_names;
mod view_sources;

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;

use super::inventory::{Inventory, InventoryContents};
use super::jobs::Jobs;
use super::leases::published::PublishedLeases;
use super::live_settings::LiveSettings;
use super::visibility::Visibility;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, LeaseId, MachineId};
use crate::domain::lease::Quarantine;
use crate::domain::mac::MacAddress;
use crate::domain::machine::Machine;
use crate::domain::network::Network;
use crate::domain::power::PowerState;
use crate::domain::scope::Scope;
use crate::hypervisor::SessionState;

pub use super::protection::Protection;
pub use lookup::{ambiguous, empty_name, invalid_mac, snapshot};
pub use not_free::NotFreeReason;
pub use unknown_names::MATCHES_NONE;
pub use view_sources::{SourcesKey, ViewSources};

/// Lists, finds and views machines, and waits for them.
pub struct Machines {
    inventory: Arc<Inventory>,
    jobs: Jobs,
    leases: Arc<PublishedLeases>,
    settings: LiveSettings,
    visibility: Visibility,
}

/// A machine with everything that callers see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineView {
    /// The machine as the host reports it.
    pub machine: Arc<Machine>,
    /// Whether the addresses of the machine's guest are trusted. If not, callers see no address.
    pub addresses_trusted: bool,
    pub protected: bool,
    pub active_job: Option<JobId>,
    /// The pools of the machine, in the order of their names.
    pub pools: Vec<String>,
    pub lease: Option<HoldingLease>,
    pub quarantine: Option<Quarantine>,
    /// Why the machine is not free. The machine is free if the list is empty.
    pub not_free_because: Vec<NotFreeReason>,
}

/// The lease that holds a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldingLease {
    pub lease: LeaseId,
    pub holder: String,
    /// When the lease expires. `None` before the lease is active, and during its release.
    pub expires_at: Option<Timestamp>,
    /// The network in which the address of the machine must be. `None` if any address is
    /// acceptable.
    pub cidr: Option<Network>,
}

/// Selects machines. A machine matches if every field that is set matches.
#[derive(Clone, Debug, Default)]
pub struct MachineFilter {
    /// A part of the name. Upper and lower case are equal.
    pub name: Option<String>,
    pub mac: Option<MacAddress>,
    pub power_state: Option<PowerState>,
    pub free: Option<bool>,
    pub template: Option<bool>,
    pub pool: Option<String>,
}

/// The condition that ends a wait for a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitCondition {
    PowerState(PowerState),
    /// The guest has a trusted address. If a network is given, the address must be inside this
    /// network. Otherwise it must be the address that readers see.
    Address(Option<Network>),
    Tools,
    Question,
    NoQuestion,
    Free,
    NoJob,
}

impl Machines {
    #[must_use]
    pub fn new(
        inventory: Arc<Inventory>,
        jobs: Jobs,
        leases: Arc<PublishedLeases>,
        settings: LiveSettings,
    ) -> Self {
        let visibility = Visibility::new(Arc::clone(&inventory), settings.clone());
        Self { inventory, jobs, leases, settings, visibility }
    }

    /// Compares scopes with machines, jobs and leases.
    #[must_use]
    pub const fn visibility(&self) -> &Visibility {
        &self.visibility
    }

    /// The contents of the inventory.
    ///
    /// # Errors
    /// `inventory-loading` until the host has been read completely once.
    pub fn contents(&self) -> Result<Arc<InventoryContents>, Failure> {
        let contents = self.inventory.contents();
        if contents.loaded {
            return Ok(contents);
        }
        let detail = match self.inventory.session().state {
            SessionState::Away { reason } | SessionState::LoginRefused { reason } => {
                format!(
                    "There is nothing to show: \
                     the host has not been read since otter started. {reason}"
                )
            }
            SessionState::Connecting | SessionState::Connected => {
                "The host has not been read yet, so there is nothing to show; \
                 try again in a moment."
                    .to_owned()
            }
        };
        Err(Failure::new(FailureKind::InventoryLoading, detail))
    }

    /// The state that views of machines show now. A caller uses it to view several machines at one
    /// moment, or to compare it with a later state.
    ///
    /// # Errors
    /// The errors of [`Machines::contents`].
    pub fn sources(&self) -> Result<ViewSources, Failure> {
        self.contents().map(|contents| self.sources_with(contents))
    }

    /// The machines of a scope that match the filter, in the order of their names.
    ///
    /// # Errors
    /// The errors of [`Machines::contents`].
    pub fn list(&self, scope: &Scope, filter: &MachineFilter) -> Result<Vec<MachineView>, Failure> {
        let sources = self.sources()?;
        let machines = self.search(&sources, scope, filter);
        let views = self.views(&sources, machines);
        Ok(views.into_iter().filter(|view| filter.matches_freedom(view)).collect())
    }

    /// The machines of a scope that match the filter, in the order of their names. Ignores the
    /// filter's field `free`; see [`MachineFilter::matches_freedom`].
    #[must_use]
    pub fn search<'s>(
        &self,
        sources: &'s ViewSources,
        scope: &Scope,
        filter: &MachineFilter,
    ) -> Vec<&'s Arc<Machine>> {
        let is_match = |machine: &&Arc<Machine>| {
            filter.matches_machine(machine)
                && self.visibility.has_machine(scope, machine)
                && filter.pool.as_ref().is_none_or(|pool| sources.is_in_pool(machine, pool))
        };
        let machines = sources.contents().search(filter.name.as_deref(), filter.mac);
        machines.filter(is_match).collect()
    }

    /// The views of some machines, in the given order.
    #[must_use]
    pub fn views<'m>(
        &self,
        sources: &ViewSources,
        machines: impl IntoIterator<Item = &'m Arc<Machine>>,
    ) -> Vec<MachineView> {
        let activities = self.jobs.activities();
        let activity = |machine: &Machine| activities.get(&machine.id).copied().unwrap_or_default();
        machines.into_iter().map(|machine| sources.view(machine, activity(machine))).collect()
    }

    /// The view of a machine.
    #[must_use]
    pub fn view(&self, sources: &ViewSources, machine: &Arc<Machine>) -> MachineView {
        sources.view(machine, self.jobs.activity(&machine.id))
    }

    /// The machine with this id, whatever scope it is in.
    #[must_use]
    pub fn get(&self, id: &MachineId) -> Option<MachineView> {
        let sources = self.sources_with(self.inventory.contents());
        sources.contents().machine(id).map(|machine| self.view(&sources, machine))
    }

    /// Checks that a machine is not protected.
    ///
    /// # Errors
    /// `self-protection` if the machine is protected.
    pub fn may_change(&self, view: &MachineView) -> Result<(), Failure> {
        if !view.protected {
            return Ok(());
        }
        let machine = &view.machine;
        let why = if self.settings.load().protection.is_self(machine) {
            "otter itself runs in it"
        } else {
            "machines.protected of otter's configuration names it"
        };
        let detail = format!("{} is protected: {why}. Nothing was done.", machine.name);
        Err(Failure::new(FailureKind::SelfProtection, detail)
            .with_machine(&machine.id, &machine.name))
    }

    /// The machine with this id, if it is in the scope.
    #[must_use]
    pub fn get_in(&self, scope: &Scope, id: &MachineId) -> Option<MachineView> {
        self.get(id).filter(|view| self.visibility.has_machine(scope, &view.machine))
    }

    /// The machine that otter itself runs in, if it is on this host and in the scope.
    #[must_use]
    pub fn self_machine(&self, scope: &Scope) -> Option<MachineId> {
        let visible = self.visibility.machines(scope);
        let protection = &self.settings.load().protection;
        let mut own = visible.iter().filter(|machine| protection.is_self(machine));
        // A machine with a hardware address of otter's machine comes first, because a copy of
        // otter's machine can have the same UUID, but has other addresses.
        let by_address = own.clone().find(|machine| protection.has_own_address(machine));
        by_address.or_else(|| own.next()).map(|machine| machine.id.clone())
    }

    /// Waits until the machine fulfils the condition. Returns the machine.
    ///
    /// # Errors
    /// - `machine-gone` if the machine is removed from the host or leaves the scope.
    /// - `invalid-power-state` if the wait is for an address, the machine is off, and no job works
    ///   on it.
    pub async fn wait_until(
        &self,
        scope: &Scope,
        id: &MachineId,
        condition: &WaitCondition,
    ) -> Result<MachineView, Failure> {
        let mut changes = self.inventory.watch(id);
        let mut name = String::new();
        loop {
            let Some(view) = self.get_in(scope, id) else {
                let detail = "The machine was removed from the host while it was waited for.";
                return Err(Failure::new(FailureKind::MachineGone, detail).with_machine(id, &name));
            };
            name.clone_from(&view.machine.name);
            if condition.is_fulfilled_by(&view) {
                return Ok(view);
            }
            let off = view.machine.power_state == Some(PowerState::Off);
            if matches!(condition, WaitCondition::Address(_)) && off && view.active_job.is_none() {
                let detail = format!(
                    "{name} is off and no job is about to change that, so no address will come."
                );
                return Err(
                    Failure::new(FailureKind::InvalidPowerState, detail).with_machine(id, &name)
                );
            }
            if changes.changed().await.is_err() {
                // The inventory dropped the watcher of the machine between two changes. Watch the
                // machine again.
                changes = self.inventory.watch(id);
            }
        }
    }

    fn sources_with(&self, contents: Arc<InventoryContents>) -> ViewSources {
        // Read the version before the activities, which are read last. So the activities are at
        // least as new as this version.
        let activity_version = self.jobs.activity_version();
        ViewSources::new(contents, self.leases.load(), self.settings.load(), activity_version)
    }
}

impl MachineView {
    /// The first address of the guest that counts, if its addresses are trusted. If the lease of
    /// the machine names a network, the first address inside this network.
    #[must_use]
    pub fn ip_address(&self) -> Option<IpAddr> {
        let cidr = self.lease.as_ref().and_then(|lease| lease.cidr);
        self.machine.address_within(cidr).filter(|_| self.addresses_trusted)
    }

    /// The addresses of the guest that count, if they are trusted.
    #[must_use]
    pub fn ip_addresses(&self) -> Vec<IpAddr> {
        if self.addresses_trusted { self.machine.addresses() } else { Vec::new() }
    }
}

impl MachineFilter {
    /// Whether a machine has the power state that the filter asks for, and is or is not a template
    /// as the filter asks.
    fn matches_machine(&self, machine: &Machine) -> bool {
        self.power_state.is_none_or(|state| machine.power_state == Some(state))
            && self.template.is_none_or(|template| machine.template == template)
    }

    /// Whether a machine is free or not free as the filter's field `free` asks. Every machine
    /// matches if the field is not set.
    #[must_use]
    pub fn matches_freedom(&self, view: &MachineView) -> bool {
        self.free.is_none_or(|free| view.not_free_because.is_empty() == free)
    }
}

impl WaitCondition {
    fn is_fulfilled_by(&self, view: &MachineView) -> bool {
        let machine = &view.machine;
        match self {
            Self::PowerState(state) => machine.power_state == Some(*state),
            Self::Address(None) => view.ip_address().is_some(),
            Self::Address(Some(network)) => {
                view.ip_addresses().into_iter().any(|address| network.contains(address))
            }
            Self::Tools => {
                machine.guest.tools_running && machine.power_state == Some(PowerState::On)
            }
            Self::Question => machine.question.is_some(),
            Self::NoQuestion => machine.question.is_none(),
            Self::Free => view.not_free_because.is_empty(),
            Self::NoJob => view.active_job.is_none(),
        }
    }
}

/// A text of the caller in quotes, for an error message. The text is cut after 80 characters.
#[must_use]
pub fn shorten(text: &str) -> String {
    const MAX_CHARACTERS: usize = 80;
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_in_errors() {
        assert_eq!(shorten("short"), "\"short\"");
        assert!(shorten(&"🦦".repeat(100_000)).chars().count() < 100);
    }
}
