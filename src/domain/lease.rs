//! A lease: one machine for one holder, for a time.
//!
//! ```text
//! queued ──► preparing ──► active ──► releasing ──► released | expired | revoked | failed
//!   │ ▲          │ │          │           ▲
//!   │ └─ failed ─┘ └── ends ──┴───────────┘
//!   └─ ends before a grant ───────────────────────► released | revoked | failed
//! ```
//! A failed preparation queues the lease again if queue time is left. A release that meets a fault
//! of the host, the account or the licence is tried again. A lease whose machine is removed from
//! the host fails without a release.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::failure::{Failure, FailureKind};
use super::ids::{JobId, LeaseId, TokenId};
use super::mac::MacAddress;
use super::machine::MachineIdentity;
use super::machine_reference::MachineReference;
use super::network::Network;
use super::origin::RequestOrigin;
use super::power::PowerState;
use super::scope::Scope;
use super::screen_text::{InvalidScreenText, ScreenText};

/// The state of a lease. This set of states is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// The lease waits for a machine.
    Queued,
    /// The lease holds a machine, which otter prepares.
    Preparing,
    /// The holder uses the machine.
    Active,
    /// The lease is ending, and otter releases the machine.
    Releasing,
    /// The holder ended the lease.
    Released,
    /// The time of the lease was over.
    Expired,
    /// An operator ended the lease, or its token became invalid.
    Revoked,
    /// otter ended the lease. Its `error` gives the reason.
    Failed,
}

/// The machines that a lease accepts. A machine must match every field that is set. At least one
/// field other than `exclude` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Select {
    pub machine: Option<MachineReference>,
    /// Part of the name, in any case.
    pub name: Option<String>,
    pub mac: Option<MacAddress>,
    pub pool: Option<String>,
    /// A machine must be in one of these pools. If the list is empty, the pools of the machine do
    /// not matter.
    pub pools: Vec<String>,
    /// A machine must not match any of these references.
    pub exclude: Vec<MachineReference>,
    pub memory_bytes_at_least: Option<u64>,
    /// Whether the machine's configuration lets its guest run machines of its own.
    pub nested_virtualization: Option<bool>,
}

/// The preparation: the state into which otter puts a machine before its lease is active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepare {
    /// The id, exact name or path of the snapshot to revert to.
    pub snapshot: Option<String>,
    pub power: Option<PowerState>,
    pub until: Option<Readiness>,
    /// The network of the machine's address: [`Readiness::Address`] waits for an address inside it,
    /// and readers see no address of the leased machine outside it.
    pub cidr: Option<Network>,
    /// How long to wait after the other steps of the preparation.
    pub settle: Option<Duration>,
}

/// The condition that a prepared machine must meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The machine is on.
    On,
    /// The guest of the machine has an address.
    Address,
    /// VMware Tools run in the guest of the machine.
    Tools,
    /// The screen of the machine shows this text.
    Screen(ScreenText),
}

/// A [`Readiness`] without the text that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadinessKind {
    On,
    Address,
    Tools,
    Screen,
}

/// A text that is no [`Readiness`]. The text of the error is the rest of a sentence whose subject is
/// the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReadiness {
    #[error("is not one of power_state:on, ip, tools and screen:<text>")]
    Unknown,
    #[error(transparent)]
    Screen(#[from] InvalidScreenText),
}

/// The release: the state into which otter puts a machine after its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Whether its power stays unchanged. If false, otter powers it off.
    pub keep_power: bool,
    /// The id, exact name or path of the snapshot to revert to.
    pub snapshot: Option<String>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The holder ended the lease.
    Released,
    /// The time of the lease was over.
    Expired,
    /// An operator ended the lease, or its token became invalid.
    Revoked,
    /// The queue time of the lease was over.
    QueueTimeout,
    /// The lease was queued, and no client polled it.
    Abandoned,
    /// The machine could not be prepared.
    PrepareFailed,
    /// The machine was removed from the host.
    MachineGone,
}

/// How a lease ended, or why it is being released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEnd {
    pub reason: EndReason,
    /// The name of the caller who ended it, or `otter`.
    pub by: String,
    pub at: Timestamp,
    pub detail: Option<String>,
}

/// An entry of the history of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    pub at: Timestamp,
    pub what: String,
}

/// A lease. The store keeps all fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub state: LeaseState,
    pub select: Select,
    /// The scope of the caller that requested the lease. The lease never gets a machine outside
    /// this scope.
    pub scope: Scope,
    /// The machine that the lease holds or last held. `None` before a grant.
    pub machine: Option<MachineIdentity>,
    pub machine_name: Option<String>,
    /// The selected pool, or a pool of its machine.
    pub pool: Option<String>,
    /// Who or what holds the lease, for people.
    pub holder: String,
    /// The name of the caller that requested the lease.
    pub requested_by: String,
    /// The token of the caller that requested the lease. `None` if callers need no token.
    pub token: Option<TokenId>,
    /// The origin of the request.
    pub origin: RequestOrigin,
    pub reference: Option<String>,
    /// How long the lease lasts from the moment it is active, or from a renewal without a duration.
    pub ttl: Duration,
    /// The longest time that the lease can last with all renewals, from the moment it is active.
    pub max_total: Duration,
    /// How long the lease may be queued. `None` if a machine must be granted at once.
    pub queue_for: Option<Duration>,
    pub prepare: Option<Prepare>,
    pub release: Release,
    /// How long people may examine the machine after its use failed. `None` if the machine is
    /// released at once.
    pub keep_on_failure: Option<Duration>,
    pub created_at: Timestamp,
    pub active_at: Option<Timestamp>,
    /// When the use of the machine failed and the lease was kept. `None` if the lease was not kept.
    pub kept_at: Option<Timestamp>,
    /// A number that increases with every grant of the machine.
    pub fence: Option<u64>,
    /// How often a machine was granted to the lease.
    pub grants: u32,
    /// The current or last job that prepares or releases the machine.
    pub job: Option<JobId>,
    /// The remaining times at `measured_at`.
    pub time_left: TimeLeft,
    pub measured_at: Timestamp,
    /// Whether the history has the warning that the lease ends soon. A renewal resets it.
    pub warned: bool,
    pub history: Vec<HistoryEntry>,
    pub end: Option<LeaseEnd>,
    pub ended_at: Option<Timestamp>,
    /// The failure, if the lease failed.
    pub error: Option<Failure>,
    pub warnings: Vec<String>,
    /// The fault of the host, the account or the licence that made the preparation or the release
    /// fail, and after which otter tries again. `None` without such a fault, or after a later
    /// success.
    pub setback: Option<Setback>,
}

/// A fault that made a preparation or a release fail and that the machine did not cause. otter
/// tries the preparation or the release again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// The last failure.
    pub failure: Failure,
    /// When the first of these failures happened.
    pub since: Timestamp,
    /// The number of failures so far.
    pub attempts: u32,
    /// The keys of the machines on which the preparation or the release failed, each once, the
    /// latest last.
    pub machines: Vec<String>,
}

/// The release of a machine that no lease holds any more. otter tries it until it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The lease that held the machine last.
    pub lease: LeaseId,
    /// The machine that the lease held. `None` in recoveries of earlier versions.
    pub machine: Option<MachineIdentity>,
    /// The snapshot to revert to, as in the release of that lease. The machine is powered off.
    pub snapshot: Option<String>,
    /// How often the recovery has failed.
    pub attempts: u32,
    /// The pause before the next attempt.
    pub pause: Duration,
    /// When the next attempt is due.
    pub retry_at: Timestamp,
}

/// The fields of a new lease, with the meaning that they have in [`Lease`].
#[derive(Clone, Debug)]
pub struct LeaseTerms {
    pub id: LeaseId,
    pub select: Select,
    pub scope: Scope,
    pub holder: String,
    pub requested_by: String,
    pub token: Option<TokenId>,
    pub origin: RequestOrigin,
    pub reference: Option<String>,
    pub ttl: Duration,
    pub max_total: Duration,
    pub queue_for: Option<Duration>,
    pub prepare: Option<Prepare>,
    pub release: Release,
    pub keep_on_failure: Option<Duration>,
    pub created_at: Timestamp,
}

impl Lease {
    /// A new lease, which is queued.
    #[must_use]
    pub fn queued(terms: LeaseTerms) -> Self {
        let LeaseTerms {
            id,
            select,
            scope,
            holder,
            requested_by,
            token,
            origin,
            reference,
            ttl,
            max_total,
            queue_for,
            prepare,
            release,
            keep_on_failure,
            created_at,
        } = terms;
        Self {
            id,
            state: LeaseState::Queued,
            machine: None,
            machine_name: None,
            pool: select.pool.clone(),
            select,
            scope,
            holder,
            requested_by,
            token,
            origin,
            reference,
            ttl,
            max_total,
            queue_for,
            prepare,
            release,
            keep_on_failure,
            created_at,
            active_at: None,
            kept_at: None,
            fence: None,
            grants: 0,
            job: None,
            time_left: TimeLeft { queue: queue_for.unwrap_or_default(), ..TimeLeft::default() },
            measured_at: created_at,
            warned: false,
            history: Vec::new(),
            end: None,
            ended_at: None,
            error: None,
            warnings: Vec::new(),
            setback: None,
        }
    }
}

/// The remaining times of a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLeft {
    /// How long the lease may still be queued.
    pub queue: Duration,
    /// The time until the lease expires, if it is active.
    pub lease: Duration,
    /// The time until the latest expiry to which renewals can extend the lease.
    pub total: Duration,
}

/// Why a machine is quarantined. otter does not grant a quarantined machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    pub reason: String,
    pub by: String,
    pub since: Timestamp,
    /// Whether otter quarantined the machine because a preparation or a release failed.
    pub automatic: bool,
    /// The failed job, if there is one.
    pub job: Option<JobId>,
}

/// The largest number of history entries, of warnings, and of machines of a setback, of one lease.
const MAX_ENTRIES: usize = 50;

impl Setback {
    /// The setback after one more failure on a machine.
    ///
    /// # Parameters
    /// - `before`: the earlier failures. `None` if this is the first.
    /// - `machine`: the key of the machine.
    #[must_use]
    pub fn after(before: Option<&Self>, failure: Failure, machine: &str, now: Timestamp) -> Self {
        let mut machines = before.map(|before| before.machines.clone()).unwrap_or_default();
        machines.retain(|known| known != machine);
        if machines.len() >= MAX_ENTRIES {
            machines.remove(0);
        }
        machines.push(machine.to_owned());
        Self {
            failure,
            since: before.map_or(now, |before| before.since),
            attempts: before.map_or(0, |before| before.attempts).saturating_add(1),
            machines,
        }
    }
}

impl Lease {
    /// The position of a machine in the list of machines on which the setback happened, the latest
    /// last. `None` if the setback did not happen on the machine.
    #[must_use]
    pub fn failed_on(&self, machine: &str) -> Option<usize> {
        self.setback.as_ref()?.machines.iter().position(|failed| failed == machine)
    }

    /// Adds an entry to the history. If it is full, removes an entry from the middle.
    pub fn note(&mut self, at: Timestamp, what: impl Into<String>) {
        if self.history.len() >= MAX_ENTRIES {
            self.history.remove(MAX_ENTRIES / 2);
        }
        self.history.push(HistoryEntry { at, what: what.into() });
    }

    /// The network in which the address of the machine must be. `None` if any address is accepted.
    #[must_use]
    pub fn cidr(&self) -> Option<Network> {
        self.prepare.as_ref().and_then(|prepare| prepare.cidr)
    }

    /// The failure of a call that needs the lease to be active, while it is queued or being
    /// prepared.
    #[must_use]
    pub fn not_active_failure(&self) -> Failure {
        let Self { id, state, .. } = self;
        let detail = format!(
            "The lease {id} is {} and not active yet; nothing was done. Wait for it: GET \
             /v1/leases/{id}/wait",
            state.as_str()
        );
        Failure::new(FailureKind::LeaseNotActive, detail).with_lease(*id)
    }

    /// Adds a warning. If there are too many, removes one from the middle.
    pub fn warn(&mut self, what: String) {
        if self.warnings.len() >= MAX_ENTRIES {
            self.warnings.remove(MAX_ENTRIES / 2);
        }
        self.warnings.push(what);
    }
}

impl LeaseState {
    /// Every state, for filters and the OpenAPI document.
    pub const ALL: &'static [Self] = &[
        Self::Queued,
        Self::Preparing,
        Self::Active,
        Self::Releasing,
        Self::Released,
        Self::Expired,
        Self::Revoked,
        Self::Failed,
    ];

    /// The name on the wire and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Active => "active",
            Self::Releasing => "releasing",
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Failed => "failed",
        }
    }

    /// The value with this name. `None` if there is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == name)
    }

    /// Whether a lease in this state has ended.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Released | Self::Expired | Self::Revoked | Self::Failed)
    }

    /// Whether a lease in this state holds a machine.
    #[must_use]
    pub const fn holds_machine(self) -> bool {
        matches!(self, Self::Preparing | Self::Active | Self::Releasing)
    }
}

impl EndReason {
    /// Every reason, for the store and the OpenAPI document.
    pub const ALL: &'static [Self] = &[
        Self::Released,
        Self::Expired,
        Self::Revoked,
        Self::QueueTimeout,
        Self::Abandoned,
        Self::PrepareFailed,
        Self::MachineGone,
    ];

    /// The name on the wire and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::QueueTimeout => "queue-timeout",
            Self::Abandoned => "abandoned",
            Self::PrepareFailed => "prepare-failed",
            Self::MachineGone => "machine-gone",
        }
    }

    /// The value with this name. `None` if there is none.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }

    /// The end state of a lease that ends for this reason.
    #[must_use]
    pub const fn state(self) -> LeaseState {
        match self {
            Self::Released => LeaseState::Released,
            Self::Expired => LeaseState::Expired,
            Self::Revoked => LeaseState::Revoked,
            Self::QueueTimeout | Self::Abandoned | Self::PrepareFailed | Self::MachineGone => {
                LeaseState::Failed
            }
        }
    }
}

impl Readiness {
    /// The condition without its text.
    #[must_use]
    pub const fn kind(&self) -> ReadinessKind {
        match self {
            Self::On => ReadinessKind::On,
            Self::Address => ReadinessKind::Address,
            Self::Tools => ReadinessKind::Tools,
            Self::Screen(_) => ReadinessKind::Screen,
        }
    }

    /// The condition with this name, or `screen:<text>`.
    ///
    /// # Errors
    /// [`InvalidReadiness`]
    pub fn parse(name: &str) -> Result<Self, InvalidReadiness> {
        if let Some(text) = ScreenText::from_condition(name) {
            return Ok(Self::Screen(text?));
        }
        match name {
            "power_state:on" => Ok(Self::On),
            "ip" => Ok(Self::Address),
            "tools" => Ok(Self::Tools),
            _ => Err(InvalidReadiness::Unknown),
        }
    }
}

/// The name on the wire and in the store.
impl fmt::Display for Readiness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On => formatter.write_str("power_state:on"),
            Self::Address => formatter.write_str("ip"),
            Self::Tools => formatter.write_str("tools"),
            Self::Screen(text) => text.fmt(formatter),
        }
    }
}

impl Select {
    /// Whether no field is set that selects machines. `exclude` alone selects none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        let Self {
            machine,
            name,
            mac,
            pool,
            pools,
            exclude: _,
            memory_bytes_at_least,
            nested_virtualization,
        } = self;
        machine.is_none()
            && name.is_none()
            && mac.is_none()
            && pool.is_none()
            && pools.is_empty()
            && memory_bytes_at_least.is_none()
            && nested_virtualization.is_none()
    }

    /// The pools of which a machine must be in one: `pool` or `pools`.
    pub fn pool_names(&self) -> impl Iterator<Item = &String> {
        self.pool.iter().chain(&self.pools)
    }

    /// Whether machines in these pools match `pool` and `pools`.
    #[must_use]
    pub fn accepts_pools(&self, pools: &[String]) -> bool {
        self.pool_names().next().is_none() || self.pool_names().any(|name| pools.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_parsed_back() {
        for state in LeaseState::ALL {
            assert_eq!(LeaseState::parse(state.as_str()), Some(*state));
            assert!(!(state.is_end() && state.holds_machine()));
        }
        for reason in EndReason::ALL {
            assert_eq!(EndReason::parse(reason.as_str()), Some(*reason));
            assert!(reason.state().is_end());
        }
        for name in ["power_state:on", "ip", "tools", "screen:Log In, please: now"] {
            assert_eq!(Readiness::parse(name).unwrap().to_string(), name);
        }
        assert_eq!(Readiness::parse("power_state:off"), Err(InvalidReadiness::Unknown));
    }
}
