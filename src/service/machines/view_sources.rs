//! The sources of views of machines, which decide what the views show: the inventory, the leases,
//! the settings and the activities of machines, each at one moment. As long as the sources are the
//! same, everything that was made from them is still true.

use std::sync::{Arc, Weak};

use super::{HoldingLease, MachineView, NotFreeReason};
use crate::domain::machine::Machine;
use crate::service::inventory::InventoryContents;
use crate::service::jobs::MachineActivity;
use crate::service::leases::lease_table::{LeaseTable, MachineLedger};
use crate::service::live_settings::ReloadableSettings;

/// The state that views of machines show. All parts but the activities are immutable values.
#[derive(Clone)]
pub struct ViewSources {
    contents: Arc<InventoryContents>,
    leases: Arc<LeaseTable>,
    settings: Arc<ReloadableSettings>,
    /// The version of the activities of machines. It is read before any activity.
    activity_version: u64,
}

/// A key by which the same sources of views are recognised later. The key keeps no part of the
/// sources in memory.
#[derive(Clone, Debug)]
pub struct SourcesKey {
    // A weak pointer identifies its value by the address: while the pointer exists, no other value
    // can have this address.
    contents: Weak<InventoryContents>,
    leases: Weak<LeaseTable>,
    settings: Weak<ReloadableSettings>,
    activity_version: u64,
}

impl ViewSources {
    pub(super) const fn new(
        contents: Arc<InventoryContents>,
        leases: Arc<LeaseTable>,
        settings: Arc<ReloadableSettings>,
        activity_version: u64,
    ) -> Self {
        Self { contents, leases, settings, activity_version }
    }

    /// The contents of the inventory.
    #[must_use]
    pub const fn contents(&self) -> &Arc<InventoryContents> {
        &self.contents
    }

    /// The key by which the same sources are recognised.
    #[must_use]
    pub fn key(&self) -> SourcesKey {
        SourcesKey {
            contents: Arc::downgrade(&self.contents),
            leases: Arc::downgrade(&self.leases),
            settings: Arc::downgrade(&self.settings),
            activity_version: self.activity_version,
        }
    }

    pub(super) fn is_in_pool(&self, machine: &Machine, pool: &str) -> bool {
        self.settings.pools.for_machine(machine).iter().any(|name| name == pool)
    }

    pub(super) fn view(&self, machine: &Arc<Machine>, activity: MachineActivity) -> MachineView {
        let Self { contents, leases, settings, .. } = self;
        let is_self = settings.protection.is_self(machine);
        let protected = is_self || settings.protection.covers(machine);
        let lease = leases.holder_of(&machine.identity()).map(|open| HoldingLease {
            lease: open.lease.id,
            holder: open.lease.holder.clone(),
            expires_at: open.expiry().map(|(at, _)| at),
            cidr: open.lease.cidr(),
        });
        let ledger = leases.ledger_of(machine);
        let quarantine = ledger.and_then(|ledger| ledger.quarantine.clone());
        let releasing = quarantine.is_none() && ledger.is_some_and(MachineLedger::is_set_aside);
        let MachineActivity { active_job, is_host_busy } = activity;
        let by_otter = [
            (NotFreeReason::Leased, lease.is_some()),
            (NotFreeReason::Quarantined, quarantine.is_some()),
            (NotFreeReason::Releasing, releasing),
            (NotFreeReason::Job, active_job.is_some()),
            (NotFreeReason::HostTask, is_host_busy),
            (NotFreeReason::OtterItself, is_self),
            (NotFreeReason::Protected, protected),
        ];
        let reasons = NotFreeReason::from_state(machine).into_iter().chain(by_otter);
        let not_free_because =
            reasons.filter_map(|(reason, holds)| holds.then_some(reason)).collect();
        MachineView {
            machine: Arc::clone(machine),
            addresses_trusted: contents.has_trusted_addresses(&machine.id),
            protected,
            active_job,
            pools: settings.pools.for_machine(machine),
            lease,
            quarantine,
            not_free_because,
        }
    }
}

impl SourcesKey {
    /// Whether this is the key of these sources.
    #[must_use]
    pub fn is_of(&self, sources: &ViewSources) -> bool {
        let ViewSources { contents, leases, settings, activity_version } = sources;
        self.activity_version == *activity_version
            && self.contents.as_ptr() == Arc::as_ptr(contents)
            && self.leases.as_ptr() == Arc::as_ptr(leases)
            && self.settings.as_ptr() == Arc::as_ptr(settings)
    }
}
