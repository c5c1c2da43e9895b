//! Leases and pools on the wire.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::extract::some_duration_text;
use crate::api::links;
use crate::domain::duration;
use crate::domain::lease::{self, EndReason, LeaseState};
use crate::service::leases::{LeaseView, PoolView};

/// One machine for one holder, for a time.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Lease {
    /// A UUID of version 7: ids sort by arrival.
    #[schema(example = "01936f5e-8c00-7000-8000-000000000002")]
    pub id: String,
    /// Where it is. The last four are ends and never change.
    pub state: LeaseStateName,
    /// The id of its machine; null while it waits.
    #[schema(required)]
    pub machine: Option<String>,
    #[schema(required)]
    pub machine_name: Option<String>,
    /// What was asked for.
    pub select: LeaseSelect,
    /// The pool that its machine is from.
    #[schema(required)]
    pub pool: Option<String>,
    /// Who or what holds it, for people.
    pub holder: String,
    /// Who asked.
    pub requested_by: String,
    /// What the caller sent as `Otter-Reference`.
    #[schema(required)]
    pub reference: Option<String>,
    /// How many wait before it, while it waits.
    #[schema(required)]
    pub position: Option<u32>,
    /// How long it holds, from when it is active.
    #[schema(example = "30m")]
    pub ttl: String,
    /// How long it may wait for a machine.
    #[schema(required, example = "10m")]
    pub queue_for: Option<String>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub active_at: Option<Timestamp>,
    /// When it ends unless it is renewed; null while it is not active.
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    /// How far it can be renewed.
    #[schema(required)]
    pub max_expires_at: Option<Timestamp>,
    /// Grows with each grant of the machine: what is written with an older one is of an earlier
    /// holder.
    #[schema(required)]
    pub fence: Option<u64>,
    /// What is done to the machine before it is active.
    #[schema(required)]
    pub prepare: Option<LeasePrepare>,
    /// What is done to the machine after it.
    pub release: LeaseRelease,
    /// The job that prepares or releases its machine, now or last.
    #[schema(required)]
    pub job: Option<String>,
    /// What changes of the machine are made with: `Otter-Lease: <id>.<secret>`. In the answer of
    /// the POST alone, and of its repeat with the same `Idempotency-Key`.
    #[schema(required)]
    pub secret: Option<String>,
    /// What happened, in short.
    pub history: Vec<LeaseHistory>,
    /// How it ended, or is ending.
    #[schema(required)]
    pub end: Option<LeaseEnd>,
    /// What its holder should know.
    pub warnings: Vec<String>,
    /// Where to go on: `self`, `wait`, `renew`, `machine`, `job`.
    pub links: BTreeMap<String, String>,
}

/// Where a lease is. Closed for ever.
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

/// Which machines would do: all that is said must fit.
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
}

/// What a machine is made to be before its lease is active.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeasePrepare {
    #[schema(required)]
    pub snapshot: Option<String>,
    #[schema(required)]
    pub power: Option<crate::api::machines::wire::PowerStateName>,
    #[schema(required)]
    pub until: Option<String>,
    #[schema(required)]
    pub settle: Option<String>,
}

/// What a machine is made to be after its lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseRelease {
    /// `off`, or `keep`: left as it is.
    #[schema(extensions(("x-extensible-enum" = json!(["off", "keep"]))))]
    pub power: String,
    #[schema(required)]
    pub snapshot: Option<String>,
}

/// One thing that happened to a lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseHistory {
    pub at: Timestamp,
    pub what: String,
}

/// How a lease ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseEnd {
    #[schema(extensions(("x-extensible-enum" = json!(end_reasons()))))]
    pub reason: String,
    /// Who ended it.
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
    /// The point in the stream of changes that the list is true at.
    pub version: String,
}

/// Machines that belong together, and how they stand.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pool {
    pub name: String,
    pub machine_count: u32,
    pub free_count: u32,
    pub held_count: u32,
    pub quarantined_count: u32,
    /// How many leases wait for one of them.
    pub waiting_count: u32,
}

/// Every pool, by name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PoolList {
    pub items: Vec<Pool>,
    /// Always null: pools come whole.
    #[schema(required)]
    pub next: Option<String>,
    /// The point in the stream of changes that the list is true at.
    pub version: String,
}

/// Which machines would do: all that is said must fit, and something must be said.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectRequest {
    /// An id, `name:<exact>`, `uuid:<…>` or `mac:<…>`.
    #[schema(nullable = false)]
    pub machine: Option<String>,
    /// Contained in the name, whatever the case.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// A hardware address of one of its cards.
    #[schema(nullable = false)]
    pub mac: Option<String>,
    #[schema(nullable = false)]
    pub pool: Option<String>,
}

/// What a machine is to be before its lease is active, in this order.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrepareRequest {
    /// Revert to it: an id, exact name or path.
    #[schema(nullable = false)]
    pub snapshot: Option<String>,
    /// `on` or `off`.
    #[schema(nullable = false, example = "on")]
    pub power: Option<String>,
    /// Wait for `power_state:on`, `ip` or `tools`.
    #[schema(nullable = false, example = "power_state:on")]
    pub until: Option<String>,
    /// Then wait this long.
    #[schema(nullable = false, example = "90s")]
    #[serde(default, deserialize_with = "some_duration_text")]
    pub settle: Option<String>,
}

/// What a machine is to be after its lease.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// `off`, hard; or `keep`, by leave of the pool or for an operator.
    #[schema(nullable = false, example = "off")]
    pub power: Option<String>,
    /// Revert to it first: an id, exact name or path.
    #[schema(nullable = false)]
    pub snapshot: Option<String>,
}

impl Lease {
    /// A lease as callers see it; with its secret where it is the answer to who asked for it.
    #[must_use]
    pub fn from_view(view: &LeaseView, secret: Option<String>) -> Self {
        let LeaseView { lease, position, expires_at, max_expires_at } = view;
        let lease::Lease {
            id,
            state,
            select,
            // Of the token, whose holder knows it.
            scope: _,
            machine,
            machine_name,
            pool,
            holder,
            requested_by,
            token: _,
            // In the audit, for admins.
            origin: _,
            reference,
            ttl,
            // Shown as `max_expires_at`.
            max_total: _,
            queue_for,
            prepare,
            release,
            created_at,
            active_at,
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
            // Told by whoever waits for it, and in `end`.
            error: _,
            warnings,
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
            ttl: duration::format(*ttl),
            queue_for: queue_for.map(duration::format),
            created_at: *created_at,
            active_at: *active_at,
            expires_at: *expires_at,
            max_expires_at: *max_expires_at,
            fence: *fence,
            prepare: prepare.as_ref().map(LeasePrepare::from_domain),
            release: LeaseRelease::from_domain(release),
            job: job.map(|job| job.to_string()),
            secret,
            history: history.iter().map(LeaseHistory::from_domain).collect(),
            end: end.as_ref().map(LeaseEnd::from_domain),
            warnings: warnings.clone(),
            links: links::of_lease(*id, machine.as_ref().map(|machine| &machine.id), *job),
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

impl LeaseSelect {
    fn from_domain(select: &lease::Select) -> Self {
        let lease::Select { machine, name, mac, pool } = select;
        Self {
            machine: machine.as_ref().map(ToString::to_string),
            name: name.clone(),
            mac: mac.map(|mac| mac.to_string()),
            pool: pool.clone(),
        }
    }
}

impl LeasePrepare {
    fn from_domain(prepare: &lease::Prepare) -> Self {
        let lease::Prepare { snapshot, power, until, settle } = prepare;
        Self {
            snapshot: snapshot.clone(),
            power: power.map(Into::into),
            until: until.map(|until| until.as_str().to_owned()),
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
    /// A pool as callers see it.
    #[must_use]
    pub fn from_view(pool: &PoolView) -> Self {
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let PoolView { name, machines, free, held, quarantined, waiting } = pool;
        Self {
            name: name.clone(),
            machine_count: count(*machines),
            free_count: count(*free),
            held_count: count(*held),
            quarantined_count: count(*quarantined),
            waiting_count: count(*waiting),
        }
    }
}

fn end_reasons() -> Vec<&'static str> {
    EndReason::ALL.iter().map(|reason| reason.as_str()).collect()
}
