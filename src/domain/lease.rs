//! A lease: one machine for one holder, for a time. What was asked, what came of it, and how it
//! ended.
//!
//! ```text
//! queued ──► preparing ──► active ──► releasing ──► released | expired | revoked | failed
//!    └────────────┴── an end ──┴───────────▲
//!    └── an end before any grant ─────────────────► released | revoked | failed
//! ```

use std::time::Duration;

use jiff::Timestamp;

use super::failure::Failure;
use super::ids::{JobId, LeaseId, TokenId};
use super::mac::MacAddress;
use super::machine::MachineIdentity;
use super::machine_reference::MachineReference;
use super::origin::RequestOrigin;
use super::power::PowerState;
use super::scope::Scope;

/// Where a lease is. Closed for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseState {
    Queued,
    Preparing,
    Active,
    Releasing,
    Released,
    Expired,
    Revoked,
    Failed,
}

/// Which machines would do: all that is said must fit, and something is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    pub machine: Option<MachineReference>,
    /// Loose.
    pub name: Option<String>,
    pub mac: Option<MacAddress>,
    pub pool: Option<String>,
}

/// What a machine is made to be before its lease is active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepare {
    /// A snapshot's id, exact name or path.
    pub snapshot: Option<String>,
    pub power: Option<PowerState>,
    pub until: Option<Readiness>,
    /// How long to wait after all that.
    pub settle: Option<Duration>,
}

/// What is waited for before a machine is given over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    On,
    Address,
    Tools,
}

/// What a machine is made to be after its lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Left as it is; else it is powered off, hard.
    pub keep_power: bool,
    pub snapshot: Option<String>,
}

/// Why a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    Released,
    Expired,
    Revoked,
    QueueTimeout,
    Abandoned,
    PrepareFailed,
    MachineGone,
}

/// How a lease ended, or is ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEnd {
    pub reason: EndReason,
    /// Who ended it: a caller's name, or `otter`.
    pub by: String,
    pub at: Timestamp,
    pub detail: Option<String>,
}

/// One line of what happened to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    pub at: Timestamp,
    pub what: String,
}

/// A lease. All of this is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub state: LeaseState,
    pub select: Select,
    /// The scope of the caller that asked. The lease never gets a machine outside of it.
    pub scope: Scope,
    /// The machine that was granted, last where there were several.
    pub machine: Option<MachineIdentity>,
    pub machine_name: Option<String>,
    pub pool: Option<String>,
    /// For people: who or what holds it.
    pub holder: String,
    pub requested_by: String,
    /// The token of the caller that asked; `None` if callers needed none.
    pub token: Option<TokenId>,
    /// The request that asked for it.
    pub origin: RequestOrigin,
    pub reference: Option<String>,
    pub ttl: Duration,
    /// How far it may be renewed in all, counted from when it became active.
    pub max_total: Duration,
    pub queue_for: Option<Duration>,
    pub prepare: Option<Prepare>,
    pub release: Release,
    pub created_at: Timestamp,
    pub active_at: Option<Timestamp>,
    /// Grows with each grant of the machine, for ever.
    pub fence: Option<u64>,
    /// How many grants there were for it.
    pub grants: u32,
    /// What prepares or releases its machine, now or last.
    pub job: Option<JobId>,
    /// How much was left of the time to queue, and of the lease, at `measured_at`.
    pub time_left: TimeLeft,
    pub measured_at: Timestamp,
    /// Whether its holder was told that it ends soon.
    pub warned: bool,
    pub history: Vec<HistoryEntry>,
    pub end: Option<LeaseEnd>,
    pub ended_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<Failure>,
    pub warnings: Vec<String>,
}

/// What is asked for with a lease; the fields are those of [`Lease`].
#[derive(Clone, Debug)]
pub struct LeaseTerms {
    pub id: LeaseId,
    pub select: Select,
    pub scope: Scope,
    pub holder: String,
    pub requested_by: String,
    pub token: Option<TokenId>,
    /// The request that asked for it.
    pub origin: RequestOrigin,
    pub reference: Option<String>,
    pub ttl: Duration,
    pub max_total: Duration,
    pub queue_for: Option<Duration>,
    pub prepare: Option<Prepare>,
    pub release: Release,
    pub created_at: Timestamp,
}

impl Lease {
    /// A lease that has just been asked for: it waits, and nothing was granted yet.
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
            created_at,
            active_at: None,
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
        }
    }
}

/// The times of a lease that run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeLeft {
    /// To wait for a machine.
    pub queue: Duration,
    /// Of the lease, once it is active.
    pub lease: Duration,
    /// For all renewals together.
    pub total: Duration,
}

/// A machine set aside: it is never granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    pub reason: String,
    pub by: String,
    pub since: Timestamp,
    /// Set by otter itself.
    pub automatic: bool,
    /// The job that failed.
    pub job: Option<JobId>,
}

/// So much is kept of what happened to one lease, and as many warnings.
const MAX_ENTRIES: usize = 50;

impl Lease {
    /// Notes what happened. The first lines and the last are kept.
    pub fn note(&mut self, at: Timestamp, what: impl Into<String>) {
        if self.history.len() >= MAX_ENTRIES {
            self.history.remove(MAX_ENTRIES / 2);
        }
        self.history.push(HistoryEntry { at, what: what.into() });
    }

    /// Adds a warning. The first ones and the last are kept.
    pub fn warn(&mut self, what: String) {
        if self.warnings.len() >= MAX_ENTRIES {
            self.warnings.remove(MAX_ENTRIES / 2);
        }
        self.warnings.push(what);
    }
}

impl LeaseState {
    /// Every state, for filters and documents.
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

    /// The word that callers see.
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

    /// Reads the word back; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|state| state.as_str() == word)
    }

    /// Whether nothing more happens to it.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::Released | Self::Expired | Self::Revoked | Self::Failed)
    }

    /// Whether it has its machine, so that nobody else may.
    #[must_use]
    pub const fn holds_machine(self) -> bool {
        matches!(self, Self::Preparing | Self::Active | Self::Releasing)
    }
}

impl EndReason {
    /// Every reason, for the store and documents.
    pub const ALL: &'static [Self] = &[
        Self::Released,
        Self::Expired,
        Self::Revoked,
        Self::QueueTimeout,
        Self::Abandoned,
        Self::PrepareFailed,
        Self::MachineGone,
    ];

    /// The word that callers see.
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

    /// Reads the word back; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }

    /// The state that a lease which ended so comes to.
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
    /// Every word, for documents.
    pub const ALL: &'static [Self] = &[Self::On, Self::Address, Self::Tools];

    /// The word that callers use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "power_state:on",
            Self::Address => "ip",
            Self::Tools => "tools",
        }
    }

    /// Reads the word; `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|readiness| readiness.as_str() == word)
    }
}

impl Select {
    /// Whether nothing is said.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        let Self { machine, name, mac, pool } = self;
        machine.is_none() && name.is_none() && mac.is_none() && pool.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for state in LeaseState::ALL {
            assert_eq!(LeaseState::parse(state.as_str()), Some(*state));
            assert!(!(state.is_end() && state.holds_machine()));
        }
        for reason in EndReason::ALL {
            assert_eq!(EndReason::parse(reason.as_str()), Some(*reason));
            assert!(reason.state().is_end());
        }
        for readiness in Readiness::ALL {
            assert_eq!(Readiness::parse(readiness.as_str()), Some(*readiness));
        }
    }
}
