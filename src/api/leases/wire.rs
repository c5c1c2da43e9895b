//! The JSON types of leases and pools.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::extract::some_duration_text;
use crate::api::links;
use crate::domain::duration;
use crate::domain::lease::{self, EndReason, LeaseState};
use crate::service::leases::lease_table::PoolFault;
use crate::service::leases::{LeaseBlocker, LeaseView, PoolView, RunningMachines};

/// A lease: one machine for one holder, for a time.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Lease {
    /// A UUID of version 7. Ids sort by the time of the request.
    #[schema(example = "01936f5e-8c00-7000-8000-000000000002")]
    pub id: String,
    /// `released`, `expired`, `revoked` and `failed` are ends and never change.
    pub state: LeaseStateName,
    /// The id of its machine; null while it is queued.
    #[schema(required)]
    pub machine: Option<String>,
    #[schema(required)]
    pub machine_name: Option<String>,
    /// The selection of the request.
    pub select: LeaseSelect,
    /// The selected pool, or a pool of its machine.
    #[schema(required)]
    pub pool: Option<String>,
    /// Who or what holds the machine, for people.
    pub holder: String,
    /// The name of the caller that requested it.
    pub requested_by: String,
    /// The `Otter-Reference` of the request.
    #[schema(required)]
    pub reference: Option<String>,
    /// The number of leases that are queued before it; null if it is not queued.
    #[schema(required)]
    pub position: Option<u32>,
    /// Why no machine is granted to it; null if it is not queued.
    #[schema(required)]
    pub blocked_by: Option<LeaseBlockedBy>,
    /// How long it lasts from the moment it is active.
    #[schema(example = "30m")]
    pub ttl: String,
    /// How long it may be queued.
    #[schema(required, example = "10m")]
    pub queue_for: Option<String>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub active_at: Option<Timestamp>,
    /// When it expires unless it is renewed; null if it is not active.
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    /// The latest time to which it can be renewed; null if it is not active.
    #[schema(required)]
    pub max_expires_at: Option<Timestamp>,
    /// Increases with every grant of the machine. Reject writes that carry a lower value: they come
    /// from a previous holder.
    #[schema(required)]
    pub fence: Option<u64>,
    /// The state into which otter puts the machine before the lease is active.
    #[schema(required)]
    pub prepare: Option<LeasePrepare>,
    /// The state into which otter puts the machine after the lease.
    pub release: LeaseRelease,
    /// How long the machine is kept for a person if its use fails.
    #[schema(required, example = "4h")]
    pub keep_on_failure: Option<String>,
    /// When its use failed and it was kept; null if it was not.
    #[schema(required)]
    pub kept_at: Option<Timestamp>,
    /// The current or last job that prepares or releases its machine.
    #[schema(required)]
    pub job: Option<String>,
    /// Send it with each change of the machine: `Otter-Lease: <id>.<secret>`. Only the response of
    /// the POST has it, and its repeat with the same `Idempotency-Key`; otherwise null.
    #[schema(required)]
    pub secret: Option<String>,
    /// What happened to the lease, oldest first.
    pub history: Vec<LeaseHistory>,
    /// How it ended, or why it is being released.
    #[schema(required)]
    pub end: Option<LeaseEnd>,
    /// Warnings for its holder.
    pub warnings: Vec<String>,
    /// Links to `self`, `wait`, `renew`, `machine` and `job`.
    pub links: BTreeMap<String, String>,
}

/// The state of a lease. This set of states is final.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = LeaseState)]
pub enum LeaseStateName {
    Queued,
    Preparing,
    Active,
    Releasing,
    Released,
    Expired,
    Revoked,
    Failed,
}

/// Why a queued lease gets no machine.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseBlockedBy {
    /// - `no_free_machine`: each matching machine is in use, or an earlier lease gets it.
    /// - `max_running`, `max_memory_bytes`: a matching machine is free, but with it, more machines
    ///   would run at the same time than this limit of a pool or of the host allows.
    /// - `host_fault`: a matching machine is free, but a fault of the host, of otter's account or
    ///   of the licence made an attempt fail. otter tries again; `held` of a pool can say when.
    /// - `host_away`: otter has no session with the host.
    #[schema(extensions(("x-extensible-enum" = json!([
        "no_free_machine", "max_running", "max_memory_bytes", "host_fault", "host_away"
    ]))))]
    pub kind: String,
    /// The pool of the limit; null if it is a limit of the host, and for other kinds.
    #[schema(required)]
    pub pool: Option<String>,
    /// The reason in a sentence.
    pub detail: String,
}

/// The machines that the lease accepts. A machine matches every field that is not null.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseSelect {
    #[schema(required)]
    pub machine: Option<String>,
    #[schema(required)]
    pub name: Option<String>,
    #[schema(required)]
    pub mac: Option<String>,
    #[schema(required)]
    pub pool: Option<String>,
    /// Not checked if it is empty.
    pub pools: Vec<String>,
    /// The machines that the lease does not accept.
    pub exclude: Vec<String>,
    #[schema(required)]
    pub memory_bytes_at_least: Option<u64>,
    #[schema(required)]
    pub nested_virtualization: Option<bool>,
}

/// The state into which otter puts the machine before the lease is active.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeasePrepare {
    #[schema(required)]
    pub snapshot: Option<String>,
    #[schema(required)]
    pub power: Option<crate::api::machines::wire::PowerStateName>,
    #[schema(required)]
    pub until: Option<String>,
    /// The network of the machine's address. `ip_address` of the machine shows no other.
    #[schema(required, example = "10.0.0.0/8")]
    pub cidr: Option<String>,
    #[schema(required)]
    pub settle: Option<String>,
}

/// The state into which otter puts the machine after the lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseRelease {
    /// `off`, or `keep`: the power stays unchanged.
    #[schema(extensions(("x-extensible-enum" = json!(["off", "keep"]))))]
    pub power: String,
    #[schema(required)]
    pub snapshot: Option<String>,
}

/// An entry of the history of a lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseHistory {
    pub at: Timestamp,
    pub what: String,
}

/// How a lease ended, or why it is being released.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseEnd {
    #[schema(extensions(("x-extensible-enum" = json!(end_reasons()))))]
    pub reason: String,
    /// The name of the caller who ended it, or `otter`.
    pub by: String,
    pub at: Timestamp,
    #[schema(required)]
    pub detail: Option<String>,
}

/// A page of leases, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseList {
    pub items: Vec<Lease>,
    /// The cursor of the next page.
    #[schema(required)]
    pub next: Option<String>,
    /// The position in the event stream at which the list is current.
    pub version: String,
}

/// A group of machines and the state of its machines.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pool {
    pub name: String,
    pub machine_count: u32,
    pub free_count: u32,
    pub held_count: u32,
    pub quarantined_count: u32,
    /// The number of queued leases that select the pool.
    pub waiting_count: u32,
    /// The largest number of machines that run at the same time; null if it is not limited.
    #[schema(required)]
    pub max_running: Option<u32>,
    /// The number of machines that run or are leased.
    pub running_count: u32,
    /// The largest memory of the machines that run at the same time; null if it is not limited.
    #[schema(required)]
    pub max_memory_bytes: Option<u64>,
    /// The memory of the machines that run or are leased.
    pub running_memory_bytes: u64,
    /// The fault of the host, of otter's account or of the licence that two machines of the pool
    /// met. otter quarantines no machine for it, and tries again by itself. Null if there is none,
    /// or once a machine was prepared or released again.
    #[schema(required)]
    pub held: Option<PoolHeld>,
}

/// Why the machines of a pool cannot be prepared or released at the moment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PoolHeld {
    /// The code of the problem, such as `insufficient-resources`.
    #[schema(example = "insufficient-resources")]
    pub code: String,
    /// When a machine of the pool first met it.
    pub since: Timestamp,
    /// What happened last, in the words of the host.
    pub detail: String,
    /// When otter tries again. If it is in the past, with the next lease.
    pub retry_at: Timestamp,
}

/// All pools, by name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PoolList {
    pub items: Vec<Pool>,
    /// Always null: there is one page.
    #[schema(required)]
    pub next: Option<String>,
    /// The position in the event stream at which the list is current.
    pub version: String,
}

/// The machines that the lease accepts. A machine must match every field. At least one is required.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectRequest {
    /// An id, `name:<exact>`, `uuid:<…>` or `mac:<…>`.
    #[schema(nullable = false)]
    pub machine: Option<String>,
    /// Part of the name, in any case.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// The hardware address of one of its network cards.
    #[schema(nullable = false)]
    pub mac: Option<String>,
    #[schema(nullable = false)]
    pub pool: Option<String>,
    /// The machine is in one of these pools, of which there are at most 100. Not together with
    /// `pool`.
    #[schema(nullable = false, min_items = 1, max_items = 100)]
    pub pools: Option<Vec<String>>,
    /// Not these machines, of which there are at most 100: each is an id, `name:<exact>`,
    /// `uuid:<…>` or `mac:<…>`. Set another field too.
    #[schema(nullable = false, max_items = 100)]
    pub exclude: Option<Vec<String>>,
    /// The least memory of the machine, in bytes.
    #[schema(nullable = false, minimum = 1, example = 8_589_934_592_u64)]
    pub memory_bytes_at_least: Option<u64>,
    /// Whether the guest of the machine can run machines of its own.
    #[schema(nullable = false)]
    pub nested_virtualization: Option<bool>,
}

/// The state into which otter puts the machine before the lease is active. otter takes these steps
/// in this order.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrepareRequest {
    /// Revert to this snapshot: its id, name or path.
    #[schema(nullable = false)]
    pub snapshot: Option<String>,
    /// `on` or `off`.
    #[schema(nullable = false, example = "on")]
    pub power: Option<String>,
    /// Wait for `power_state:on`, `ip`, `tools`, or a text on the screen: `screen:<text>`. All after
    /// the first colon is the text, at most 256 characters.
    #[schema(nullable = false, example = "power_state:on")]
    pub until: Option<String>,
    /// Only with `"until": "ip"`: the network in which the address must be. During the lease,
    /// `ip_address` of the machine is the first address inside it.
    #[schema(nullable = false, example = "10.0.0.0/8")]
    pub cidr: Option<String>,
    /// Wait this long after the other steps.
    #[schema(nullable = false, example = "90s")]
    #[serde(default, deserialize_with = "some_duration_text")]
    pub settle: Option<String>,
}

/// The state into which otter puts the machine after the lease.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// `off`: power off. `keep`: the power stays unchanged; only if the pool allows it or the
    /// caller is an operator.
    #[schema(nullable = false, example = "off")]
    pub power: Option<String>,
    /// First revert to this snapshot: its id, name or path.
    #[schema(nullable = false)]
    pub snapshot: Option<String>,
}

impl Lease {
    /// The JSON of a lease.
    ///
    /// # Parameters
    /// - `secret`: the secret, only in the response to the request for the lease.
    #[must_use]
    pub fn from_view(view: &LeaseView, secret: Option<String>) -> Self {
        let LeaseView { lease, position, expires_at, max_expires_at, blocked_by } = view;
        let lease::Lease {
            id,
            state,
            select,
            // Not shown: the scope belongs to the token.
            scope: _,
            machine,
            machine_name,
            pool,
            holder,
            requested_by,
            token: _,
            // Shown in the audit.
            origin: _,
            reference,
            ttl,
            // Shown as `max_expires_at`.
            max_total: _,
            queue_for,
            prepare,
            release,
            keep_on_failure,
            created_at,
            active_at,
            kept_at,
            fence,
            grants: _,
            job,
            // Shown as `expires_at`.
            time_left: _,
            measured_at: _,
            warned: _,
            history,
            end,
            ended_at: _,
            // Shown as a problem by a wait, and in `end`.
            error: _,
            warnings,
            // Shown in the history and by the pool.
            setback: _,
        } = &**lease;
        Self {
            id: id.to_string(),
            state: LeaseStateName::from_domain(*state),
            machine: machine.as_ref().map(|machine| machine.id.to_string()),
            machine_name: machine_name.clone(),
            select: LeaseSelect::from_domain(select),
            pool: pool.clone(),
            holder: holder.clone(),
            requested_by: requested_by.clone(),
            reference: reference.clone(),
            position: position.map(|position| u32::try_from(position).unwrap_or(u32::MAX)),
            blocked_by: blocked_by.as_ref().map(LeaseBlockedBy::from_blocker),
            ttl: duration::format(*ttl),
            queue_for: queue_for.map(duration::format),
            created_at: *created_at,
            active_at: *active_at,
            expires_at: *expires_at,
            max_expires_at: *max_expires_at,
            fence: *fence,
            prepare: prepare.as_ref().map(LeasePrepare::from_domain),
            release: LeaseRelease::from_domain(release),
            keep_on_failure: keep_on_failure.map(duration::format),
            kept_at: *kept_at,
            job: job.map(|job| job.to_string()),
            secret,
            history: history.iter().map(LeaseHistory::from_domain).collect(),
            end: end.as_ref().map(LeaseEnd::from_domain),
            warnings: warnings.clone(),
            links: links::for_lease(*id, machine.as_ref().map(|machine| &machine.id), *job),
        }
    }
}

impl LeaseStateName {
    const fn from_domain(state: LeaseState) -> Self {
        match state {
            LeaseState::Queued => Self::Queued,
            LeaseState::Preparing => Self::Preparing,
            LeaseState::Active => Self::Active,
            LeaseState::Releasing => Self::Releasing,
            LeaseState::Released => Self::Released,
            LeaseState::Expired => Self::Expired,
            LeaseState::Revoked => Self::Revoked,
            LeaseState::Failed => Self::Failed,
        }
    }
}

impl LeaseBlockedBy {
    fn from_blocker(blocker: &LeaseBlocker) -> Self {
        let (kind, pool, detail) = match blocker {
            LeaseBlocker::NoFreeMachine => (
                "no_free_machine",
                None,
                "Each matching machine is in use, or an earlier lease gets it.".to_owned(),
            ),
            LeaseBlocker::Limit(limit) => (
                limit.kind.as_str(),
                limit.pool(),
                format!("A matching machine is free, but {}.", limit.rule()),
            ),
            LeaseBlocker::HostFault => (
                "host_fault",
                None,
                "A matching machine is free, but the last attempt met a fault that is not the \
                 machine's; otter tries again. `history` has the fault."
                    .to_owned(),
            ),
            LeaseBlocker::HostAway => (
                "host_away",
                None,
                "otter has no session with the host; GET /readyz?host=true says why.".to_owned(),
            ),
        };
        Self { kind: kind.to_owned(), pool: pool.map(str::to_owned), detail }
    }
}

impl LeaseSelect {
    fn from_domain(select: &lease::Select) -> Self {
        let lease::Select {
            machine,
            name,
            mac,
            pool,
            pools,
            exclude,
            memory_bytes_at_least,
            nested_virtualization,
        } = select;
        Self {
            machine: machine.as_ref().map(ToString::to_string),
            name: name.clone(),
            mac: mac.map(|mac| mac.to_string()),
            pool: pool.clone(),
            pools: pools.clone(),
            exclude: exclude.iter().map(ToString::to_string).collect(),
            memory_bytes_at_least: *memory_bytes_at_least,
            nested_virtualization: *nested_virtualization,
        }
    }
}

impl LeasePrepare {
    fn from_domain(prepare: &lease::Prepare) -> Self {
        let lease::Prepare { snapshot, power, until, cidr, settle } = prepare;
        Self {
            snapshot: snapshot.clone(),
            power: power.map(Into::into),
            until: until.as_ref().map(ToString::to_string),
            cidr: cidr.map(|cidr| cidr.to_string()),
            settle: settle.map(duration::format),
        }
    }
}

impl LeaseRelease {
    fn from_domain(release: &lease::Release) -> Self {
        let lease::Release { keep_power, snapshot } = release;
        Self {
            power: if *keep_power { "keep" } else { "off" }.to_owned(),
            snapshot: snapshot.clone(),
        }
    }
}

impl LeaseHistory {
    fn from_domain(entry: &lease::HistoryEntry) -> Self {
        let lease::HistoryEntry { at, what } = entry;
        Self { at: *at, what: what.clone() }
    }
}

impl LeaseEnd {
    fn from_domain(end: &lease::LeaseEnd) -> Self {
        let lease::LeaseEnd { reason, by, at, detail } = end;
        Self { reason: reason.as_str().to_owned(), by: by.clone(), at: *at, detail: detail.clone() }
    }
}

impl Pool {
    /// The JSON of a pool.
    #[must_use]
    pub fn from_view(pool: &PoolView) -> Self {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let PoolView { name, machines, free, held, quarantined, waiting, running, fault } = pool;
        let RunningMachines { limits, usage } = running;
        Self {
            name: name.clone(),
            machine_count: count(*machines),
            free_count: count(*free),
            held_count: count(*held),
            quarantined_count: count(*quarantined),
            waiting_count: count(*waiting),
            max_running: limits.max_running,
            running_count: u32::try_from(usage.machines).unwrap_or(u32::MAX),
            max_memory_bytes: limits.max_memory_bytes,
            running_memory_bytes: usage.memory_bytes,
            held: fault.as_ref().map(PoolHeld::from_domain),
        }
    }
}

impl PoolHeld {
    fn from_domain(fault: &PoolFault) -> Self {
        Self {
            code: fault.code.code().to_owned(),
            since: fault.since,
            detail: fault.detail.clone(),
            retry_at: fault.retry_at,
        }
    }
}

fn end_reasons() -> Vec<&'static str> {
    EndReason::ALL.iter().map(|reason| reason.as_str()).collect()
}
