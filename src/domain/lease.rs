//! A lease: one machine for one holder, for a limited time.
//!
//! ```text
//! queued ──► preparing ──► active ──► releasing ──► released | expired | revoked | failed
//!   │ ▲          │ │          │           ▲
//!   │ └─ failed ─┘ └── ends ──┴───────────┘
//!   └─ ends before a grant ───────────────────────► released | revoked | failed
//! ```
//! If a preparation fails, the lease is queued again as long as it has queue time left. If a
//! release fails because of the host, the account or the licence, otter tries the release again. If
//! the machine of a lease is removed from the host, the lease fails without a release.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::condition_text::InvalidConditionText;
use super::failure::{Failure, FailureKind};
use super::ids::{JobId, LeaseId, TokenId};
use super::mac::MacAddress;
use super::machine::MachineIdentity;
use super::machine_reference::MachineReference;
use super::media::{BootRequest, MediaRecord};
use super::network::Network;
use super::origin::RequestOrigin;
use super::power::PowerState;
use super::recording::Record;
use super::scope::Scope;
use super::screen_text::ScreenText;
use super::serial::SerialText;

/// The state of a lease. No state will be added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    /// The lease waits for a machine.
    Queued,
    /// The lease holds a machine, which otter prepares.
    Preparing,
    /// The lease holds a machine, and the holder may use it.
    Active,
    /// The lease is ending: otter releases its machine.
    Releasing,
    /// The lease has ended because its holder ended it.
    Released,
    /// The lease has ended because its time was over.
    Expired,
    /// The lease has ended because an operator ended it, or because its token became invalid.
    Revoked,
    /// otter ended the lease. The field `error` of the lease gives the reason.
    Failed,
}

/// Selects the machines that a lease accepts. A machine must match every field that is set. At
/// least one field other than `exclude` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Select {
    pub machine: Option<MachineReference>,
    /// A text that the name of the machine must contain. Upper and lower case do not matter.
    pub name: Option<String>,
    pub mac: Option<MacAddress>,
    pub pool: Option<String>,
    /// The names of pools, of which the machine must be in at least one. If the list is empty, this
    /// field selects nothing.
    pub pools: Vec<String>,
    /// References that the machine must not match.
    pub exclude: Vec<MachineReference>,
    pub memory_bytes_at_least: Option<u64>,
    /// Whether the configuration of the machine must let the guest run virtual machines of its own
    /// (`true`) or must not (`false`).
    pub nested_virtualization: Option<bool>,
}

/// The preparation: the state into which otter puts a machine before its lease is active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepare {
    /// The id, the exact name or the path of the snapshot to which the machine is reverted.
    pub snapshot: Option<String>,
    /// The ISO that is put into the first CD drive of the machine: `[isos] qubes.iso`. The release
    /// takes it out again, and restores the boot options.
    pub iso: Option<String>,
    pub boot: Option<BootRequest>,
    pub power: Option<PowerState>,
    pub until: Option<Readiness>,
    /// The network in which the machine's address must be. [`Readiness::Address`] waits for an
    /// address in this network, and readers of the leased machine see no address outside it.
    pub cidr: Option<Network>,
    /// How long otter waits after the other steps of the preparation.
    pub settle: Option<Duration>,
}

/// The condition that a prepared machine must meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The machine is powered on.
    On,
    /// The guest of the machine has an address.
    Address,
    /// VMware Tools run in the guest of the machine.
    Tools,
    /// The screen of the machine shows this text.
    Screen(ScreenText),
    /// A serial port of the machine outputs this text.
    Serial(SerialText),
}

/// A [`Readiness`] without the text that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadinessKind {
    On,
    Address,
    Tools,
    Screen,
    Serial,
}

/// A text that is no [`Readiness`]. The text of the error is the rest of a sentence whose subject
/// is the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReadiness {
    #[error("is not one of power_state:on, ip, tools, screen:<text> and serial:<text>")]
    Unknown,
    #[error(transparent)]
    Text(#[from] InvalidConditionText),
}

/// The release: the state into which otter puts a machine after its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Whether the power state of the machine stays unchanged. If false, otter powers the machine
    /// off.
    pub keep_power: bool,
    /// The id, the exact name or the path of the snapshot to which the machine is reverted.
    pub snapshot: Option<String>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The holder of the lease ended it.
    Released,
    /// The time of the lease was over.
    Expired,
    /// An operator ended the lease, or the token of the lease became invalid.
    Revoked,
    /// The lease was queued until its queue time was over.
    QueueTimeout,
    /// The lease was queued, and for too long no client asked for its state.
    Abandoned,
    /// otter could not prepare the machine.
    PrepareFailed,
    /// The machine was removed from the host.
    MachineGone,
}

/// How and by whom a lease ended. While a lease is being released, this says how it will end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEnd {
    pub reason: EndReason,
    /// The name of the caller who ended the lease, or `otter`.
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

/// A lease with all its fields, which the store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub state: LeaseState,
    pub select: Select,
    /// The scope of the caller that requested the lease. otter never grants the lease a machine
    /// outside this scope.
    pub scope: Scope,
    /// The machine that the lease holds or held last. `None` before the first grant.
    pub machine: Option<MachineIdentity>,
    pub machine_name: Option<String>,
    /// The pool that the lease selects, or, if it selects none, a pool of its machine.
    pub pool: Option<String>,
    /// Who or what holds the lease, as a text for people.
    pub holder: String,
    /// The name of the caller that requested the lease.
    pub requested_by: String,
    /// The token of the caller that requested the lease. `None` if otter has no tokens.
    pub token: Option<TokenId>,
    /// The client's address and the id of the request with which the lease was requested.
    pub origin: RequestOrigin,
    pub reference: Option<String>,
    /// How long the lease lasts after it has become active, and after a renewal that gives no
    /// duration.
    pub ttl: Duration,
    /// The maximum time that the lease can last with all renewals, from the moment it becomes
    /// active.
    pub max_total: Duration,
    /// How long the lease may be queued. `None` means that otter must grant a machine at once.
    pub queue_for: Option<Duration>,
    pub prepare: Option<Prepare>,
    pub release: Release,
    /// What otter records while the lease is active. `None` if it records nothing.
    pub record: Option<Record>,
    /// How long people may examine the machine after its use failed. `None` means that otter
    /// releases the machine at once.
    pub keep_on_failure: Option<Duration>,
    pub created_at: Timestamp,
    pub active_at: Option<Timestamp>,
    /// The time at which the use of the machine failed, if the lease was then kept. `None`
    /// otherwise.
    pub kept_at: Option<Timestamp>,
    /// The fence of the grant: a number that grows with every grant of the machine.
    pub fence: Option<u64>,
    /// How often a machine was granted to the lease.
    pub grants: u32,
    /// What the CD drive and the boot options of the machine were when it was granted. The release
    /// restores them. `None` before the first grant, and in leases that an earlier version of otter
    /// stored.
    pub media: Option<MediaRecord>,
    /// The current or the last job that prepares or releases the machine for this lease.
    pub job: Option<JobId>,
    /// The remaining times of the lease, as they were at `measured_at`.
    pub time_left: TimeLeft,
    pub measured_at: Timestamp,
    /// Whether the history already warns that the lease ends soon. A renewal resets this mark.
    pub warned: bool,
    pub history: Vec<HistoryEntry>,
    pub end: Option<LeaseEnd>,
    pub ended_at: Option<Timestamp>,
    /// The failure that ended the lease, if the lease failed.
    pub error: Option<Failure>,
    pub warnings: Vec<String>,
    /// The fault of the host, the account or the licence that made the preparation or the release
    /// fail, so that otter tries again. `None` without such a fault, or after a later success.
    pub setback: Option<Setback>,
}

/// A fault that made a preparation or a release fail although the machine was not at fault. otter
/// tries the preparation or the release again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// The failure of the last try.
    pub failure: Failure,
    /// When the first try failed.
    pub since: Timestamp,
    /// How many tries have failed so far.
    pub attempts: u32,
    /// The keys of the machines on which the preparation or the release failed. Each key occurs
    /// once, and the last key is that of the latest failure.
    pub machines: Vec<String>,
}

/// The release of a machine that no lease holds any more. otter tries this release until it
/// succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The lease that held the machine last.
    pub lease: LeaseId,
    /// The identity of the machine. `None` in recoveries that an earlier version of otter stored.
    pub machine: Option<MachineIdentity>,
    /// The snapshot to which the machine is reverted, as the release of its last lease asked. The
    /// recovery powers the machine off in any case.
    pub snapshot: Option<String>,
    /// What the CD drive and the boot options were before the lease. `None` if the recovery leaves
    /// them as they are.
    pub media: Option<MediaRecord>,
    /// How many tries of the recovery have failed.
    pub attempts: u32,
    /// The pause before the next try.
    pub pause: Duration,
    /// When the next try is due.
    pub retry_at: Timestamp,
}

/// The terms of a new lease. Each field has the meaning that it has in [`Lease`].
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
    pub record: Option<Record>,
    pub keep_on_failure: Option<Duration>,
    pub created_at: Timestamp,
}

impl Lease {
    /// Makes a new lease in the state `queued`.
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
            record,
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
            record,
            keep_on_failure,
            created_at,
            active_at: None,
            kept_at: None,
            fence: None,
            grants: 0,
            media: None,
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

/// The times that a lease has left at one moment, for example at [`Lease::measured_at`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLeft {
    /// The time that is left until the lease must leave the queue.
    pub queue: Duration,
    /// The time that is left until the lease expires, if the lease is active.
    pub lease: Duration,
    /// The time that is left until the latest expiry to which renewals can extend the lease.
    pub total: Duration,
}

/// Why a machine is quarantined. otter does not grant a quarantined machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    pub reason: String,
    pub by: String,
    pub since: Timestamp,
    /// Whether otter itself quarantined the machine, because a preparation or a release failed.
    pub automatic: bool,
    /// The job whose failure led to the quarantine, if there is one.
    pub job: Option<JobId>,
}

/// The maximum number of entries in the history of one lease. The same number limits its warnings,
/// and the machines in its setback.
const MAX_ENTRIES: usize = 50;

impl Setback {
    /// The setback after one more failed try on a machine.
    ///
    /// # Parameters
    /// - `before`: the setback of the earlier tries. `None` if this is the first failed try.
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
    /// The position of a machine in the list of machines on which tries failed. The latest failure
    /// has the highest position. `None` if no try failed on the machine.
    #[must_use]
    pub fn failed_on(&self, machine: &str) -> Option<usize> {
        self.setback.as_ref()?.machines.iter().position(|failed| failed == machine)
    }

    /// Adds an entry to the history. If the history is full, an entry from its middle is removed.
    pub fn note(&mut self, at: Timestamp, what: impl Into<String>) {
        if self.history.len() >= MAX_ENTRIES {
            self.history.remove(MAX_ENTRIES / 2);
        }
        self.history.push(HistoryEntry { at, what: what.into() });
    }

    /// What the release restores of the drive and the boot options. `None` if it leaves them as
    /// they are, because it reverts to a snapshot, which restores them.
    #[must_use]
    pub fn recorded_media(&self) -> Option<&MediaRecord> {
        self.media.as_ref().filter(|_| self.release.snapshot.is_none())
    }

    /// The network in which the address of the machine must be. `None` means that every address is
    /// accepted.
    #[must_use]
    pub fn cidr(&self) -> Option<Network> {
        self.prepare.as_ref().and_then(|prepare| prepare.cidr)
    }

    /// The failure for a call that needs an active lease, if this lease is queued or being
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

    /// Whether this token created the lease. A later token with the same name did not.
    #[must_use]
    pub fn is_created_by(&self, token: Option<TokenId>) -> bool {
        token.is_some() && self.token == token
    }

    /// Adds a warning to the lease. If there are too many warnings, one from the middle is removed.
    pub fn warn(&mut self, what: String) {
        if self.warnings.len() >= MAX_ENTRIES {
            self.warnings.remove(MAX_ENTRIES / 2);
        }
        self.warnings.push(what);
    }
}

impl LeaseState {
    /// Every state, for filters of the HTTP API and for the OpenAPI document.
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

    /// The word for this state in the HTTP API and in the store.
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

    /// Parses the word of a lease state. `None` if the word names no state.
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
    /// Every reason, for the store and for the OpenAPI document.
    pub const ALL: &'static [Self] = &[
        Self::Released,
        Self::Expired,
        Self::Revoked,
        Self::QueueTimeout,
        Self::Abandoned,
        Self::PrepareFailed,
        Self::MachineGone,
    ];

    /// The word for this reason in the HTTP API and in the store.
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

    /// Parses the word of an end reason. `None` if the word names no reason.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
    }

    /// The state of a lease that has ended for this reason.
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
            Self::Serial(_) => ReadinessKind::Serial,
        }
    }

    /// The condition with this name, `screen:<text>`, or `serial:<text>`.
    ///
    /// # Errors
    /// [`InvalidReadiness`]
    pub fn parse(name: &str) -> Result<Self, InvalidReadiness> {
        if let Some(text) = ScreenText::from_condition(name) {
            return Ok(Self::Screen(text?));
        }
        if let Some(text) = SerialText::from_condition(name) {
            return Ok(Self::Serial(text?));
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
            Self::Serial(text) => text.fmt(formatter),
        }
    }
}

impl Select {
    /// Whether no field is set that selects machines. The field `exclude` alone does not select
    /// machines.
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

    /// The names of pools, of which a machine must be in at least one: those in the field `pool` or
    /// `pools`.
    pub fn pool_names(&self) -> impl Iterator<Item = &String> {
        self.pool.iter().chain(&self.pools)
    }

    /// Whether a machine in these pools matches the fields `pool` and `pools`.
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
        for name in [
            "power_state:on",
            "ip",
            "tools",
            "screen:Log In, please: now",
            "serial:dom0 login:",
            "serial@9001:a, b",
        ] {
            assert_eq!(Readiness::parse(name).unwrap().to_string(), name);
        }
        assert_eq!(Readiness::parse("power_state:off"), Err(InvalidReadiness::Unknown));
    }
}
