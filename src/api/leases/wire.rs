//! The JSON types of leases and pools.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::extract::some_duration_text;
use crate::api::jobs::wire::JobBootRequest;
use crate::api::links;
use crate::api::machines::boot::BootRequest;
use crate::domain::duration;
use crate::domain::lease::{self, EndReason, LeaseState};
use crate::domain::recording::Record;
use crate::service::leases::lease_table::PoolFault;
use crate::service::leases::{LeaseBlocker, LeaseView, PoolView, RunningMachines};
use crate::service::recordings::status::{RecordingState, RecordingStatus};

/// A lease: one machine for one holder, for a limited time.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Lease {
    /// The id of the lease: a UUID of version 7. A lease that is requested later has a greater id.
    #[schema(example = "01936f5e-8c00-7000-8000-000000000002")]
    pub id: String,
    /// The state of the lease. `released`, `expired`, `revoked` and `failed` are final: a lease in
    /// one of these states never changes, except `recording`.
    pub state: LeaseStateName,
    /// The id of the machine that the lease holds or held last. Null while the lease is queued, and
    /// if it ended before it got a machine.
    #[schema(required)]
    pub machine: Option<String>,
    #[schema(required)]
    pub machine_name: Option<String>,
    /// The machines that the lease accepts, as the request for the lease selected them.
    pub select: LeaseSelect,
    /// The pool that the lease selects. If the lease selects no pool, a pool of its machine.
    #[schema(required)]
    pub pool: Option<String>,
    /// Who or what uses the machine, as a text for people.
    pub holder: String,
    /// The name of the caller that requested the lease.
    pub requested_by: String,
    /// The header `Otter-Reference` of the request for the lease.
    #[schema(required)]
    pub reference: Option<String>,
    /// The number of leases that are queued before this lease. For a restricted token, only the
    /// leases of the same caller count. Null if this lease is not queued.
    #[schema(required)]
    pub position: Option<u32>,
    /// Why the lease gets no machine at the moment. Null if the lease is not queued.
    #[schema(required)]
    pub blocked_by: Option<LeaseBlockedBy>,
    /// How long the lease lasts after it becomes active, and after a renewal that gives no `ttl`.
    #[schema(example = "30m")]
    pub ttl: String,
    /// How long the lease may be queued. Null if the request did not allow a queue.
    #[schema(required, example = "10m")]
    pub queue_for: Option<String>,
    pub created_at: Timestamp,
    #[schema(required)]
    pub active_at: Option<Timestamp>,
    /// When the lease expires, unless it is renewed before. Null if the lease is not active.
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
    /// The latest time to which the lease can be renewed. Null if the lease is not active.
    #[schema(required)]
    pub max_expires_at: Option<Timestamp>,
    /// A number that grows with every grant of the machine. Reject a write with a lower number,
    /// because it comes from a previous holder. Null if the lease has no machine.
    #[schema(required)]
    pub fence: Option<u64>,
    /// The state into which otter puts the machine before the lease is active. Null if otter does
    /// not change the machine.
    #[schema(required)]
    pub prepare: Option<LeasePrepare>,
    /// The state into which otter puts the machine after the lease.
    pub release: LeaseRelease,
    /// What otter records from the moment the lease is active until it ends. Null if it records
    /// nothing.
    #[schema(required)]
    pub record: Option<LeaseRecord>,
    /// The recording that runs, or whose artifacts are not made yet. Null without one, and once all
    /// its artifacts are there.
    #[schema(required)]
    pub recording: Option<LeaseRecording>,
    /// How long people can examine the machine if its use fails, before otter releases it. Null if
    /// otter then releases the machine at once.
    #[schema(required, example = "4h")]
    pub keep_on_failure: Option<String>,
    /// When the use of the machine failed, so that otter kept the machine for people. Null if otter
    /// did not keep it.
    #[schema(required)]
    pub kept_at: Option<Timestamp>,
    /// The id of the current or last job that prepares or releases the machine for the lease.
    #[schema(required)]
    pub job: Option<String>,
    /// The secret of the lease. Send it as `Otter-Lease: <id>.<secret>` with each call that changes
    /// the machine. Only the response to the POST that requests the lease has the secret, and the
    /// response to a repeat of this POST with the same `Idempotency-Key`. In all other responses it
    /// is null.
    #[schema(required)]
    pub secret: Option<String>,
    /// What happened to the lease, oldest first.
    pub history: Vec<LeaseHistory>,
    /// How the lease ended. While the lease is `releasing`: why it ends. Null before that.
    #[schema(required)]
    pub end: Option<LeaseEnd>,
    /// Warnings for the holder of the lease, for example that an operator changed the machine.
    pub warnings: Vec<String>,
    /// The paths of related objects and operations: `self`, `wait`, `renew`, `artifacts`, `machine`
    /// and `job`.
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
    /// - `max_running`, `max_memory_bytes`: a matching machine is free, but this limit of a pool or
    ///   of the host does not allow that this machine runs too, or an earlier lease waits for the
    ///   same limit.
    /// - `host_fault`: a matching machine is free, but a fault of the host, of otter's account or
    ///   of the licence made an earlier attempt to prepare a machine fail. otter tries again; the
    ///   field `held` of the pool can say when.
    /// - `host_away`: otter has no session with the host, so it grants no machine.
    #[schema(extensions(("x-extensible-enum" = json!([
        "no_free_machine", "max_running", "max_memory_bytes", "host_fault", "host_away"
    ]))))]
    pub kind: String,
    /// The name of the pool that has the limit. Null if the limit belongs to the host, or if no
    /// limit blocks the lease.
    #[schema(required)]
    pub pool: Option<String>,
    /// The reason why the lease gets no machine, in a sentence.
    pub detail: String,
}

/// The machines that the lease accepts. A machine must fulfil every field that is neither null nor
/// empty.
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
    /// The names of pools. The machine must be in at least one of them. If the list is empty, this
    /// field accepts every machine.
    pub pools: Vec<String>,
    /// References to machines that the lease does not accept.
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
    /// The ISO that otter puts into the CD drive of the machine.
    #[schema(required, example = "[isos] iso/qubes.iso")]
    pub iso: Option<String>,
    /// What the machine boots from. Null: as before.
    #[schema(required)]
    pub boot: Option<JobBootRequest>,
    #[schema(required)]
    pub power: Option<crate::api::machines::wire::PowerStateName>,
    #[schema(required)]
    pub until: Option<String>,
    /// The network in which the address of the machine must be. During the lease, `ip_address` of
    /// the machine shows only an address in this network.
    #[schema(required, example = "10.0.0.0/8")]
    pub cidr: Option<String>,
    #[schema(required)]
    pub settle: Option<String>,
}

/// The state into which otter puts the machine after the lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseRelease {
    /// `off`: otter powers the machine off. `keep`: the power state stays unchanged.
    #[schema(extensions(("x-extensible-enum" = json!(["off", "keep"]))))]
    pub power: String,
    #[schema(required)]
    pub snapshot: Option<String>,
}

/// What otter records while the lease is active.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseRecord {
    pub screen: bool,
    /// Serial ports: names such as `ttyS0`, keys, or `*` for every port.
    pub serial: Vec<String>,
}

/// The recording of a lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseRecording {
    /// - `recording`: the recording runs.
    /// - `paused`: it leaves out what happens, because a secret is being typed.
    /// - `ended`: it ended before the lease; `reason` says why.
    /// - `rendering`: the lease has ended, and otter makes the artifacts.
    #[schema(extensions(("x-extensible-enum" = json!(recording_states()))))]
    pub state: String,
    /// Whether the screen is recorded.
    pub screen: bool,
    /// The names of the recorded serial ports.
    pub serial: Vec<String>,
    pub started_at: Timestamp,
    /// Until when the recording is certainly on the disk of otter. Null before the first write, and
    /// once the recording has ended.
    #[schema(required)]
    pub synced_at: Option<Timestamp>,
    /// The number of bytes of the recording on the disk of otter.
    pub bytes: u64,
    /// Why the recording, or a part of it, ended before the lease, in a sentence. Null if it did
    /// not.
    #[schema(required)]
    pub reason: Option<String>,
}

/// An entry of the history of a lease.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseHistory {
    pub at: Timestamp,
    pub what: String,
}

/// How a lease ended. While the lease is `releasing`: why it ends.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseEnd {
    #[schema(extensions(("x-extensible-enum" = json!(end_reasons()))))]
    pub reason: String,
    /// The name of the caller who ended the lease, or `otter` if otter ended it by itself.
    pub by: String,
    pub at: Timestamp,
    #[schema(required)]
    pub detail: Option<String>,
}

/// A page of leases, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeaseList {
    pub items: Vec<Lease>,
    /// The cursor of the next page. Null if this is the last.
    #[schema(required)]
    pub next: Option<String>,
    /// The version at which the list is valid, for `since` of `/v1/events`.
    pub version: String,
}

/// A pool, which is a named group of machines, and the state of its machines.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Pool {
    pub name: String,
    pub machine_count: u32,
    pub free_count: u32,
    pub held_count: u32,
    pub quarantined_count: u32,
    /// The number of queued leases that select the pool.
    pub waiting_count: u32,
    /// The largest number of machines of the pool that may run at the same time. Null if there is
    /// no such limit.
    #[schema(required)]
    pub max_running: Option<u32>,
    /// The number of machines of the pool that run or are leased.
    pub running_count: u32,
    /// The largest total memory of the machines of the pool that may run at the same time. Null if
    /// there is no such limit.
    #[schema(required)]
    pub max_memory_bytes: Option<u64>,
    /// The total memory of the machines of the pool that run or are leased.
    pub running_memory_bytes: u64,
    /// The fault of the host, of otter's account or of the licence that made a preparation or a
    /// release fail on at least two machines of the pool. otter quarantines no machine because of
    /// this fault, and tries again by itself. Null if there is no such fault, or once such an
    /// attempt has succeeded on a machine of the pool.
    #[schema(required)]
    pub held: Option<PoolHeld>,
}

/// The fault because of which otter cannot prepare or release the machines of a pool at the moment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PoolHeld {
    /// The problem code of the fault, such as `insufficient-resources`.
    #[schema(example = "insufficient-resources")]
    pub code: String,
    /// When a machine of the pool first met the fault.
    pub since: Timestamp,
    /// The last failure that the fault caused, in a sentence.
    pub detail: String,
    /// When otter next tries to prepare or release a machine of the pool. If this time is in the
    /// past, otter tries again with the next lease.
    pub retry_at: Timestamp,
}

/// All pools, sorted by name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PoolList {
    pub items: Vec<Pool>,
    /// Always null, because the list has all pools.
    #[schema(required)]
    pub next: Option<String>,
    /// The version at which the list is valid, for `since` of `/v1/events`.
    pub version: String,
}

/// The machines that the lease accepts. A machine must fulfil every field that is set. At least one
/// field other than `exclude` is required.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SelectRequest {
    /// A reference to the one machine that the lease accepts: an id, `name:<exact>`, `uuid:<…>` or
    /// `mac:<…>`.
    #[schema(nullable = false)]
    pub machine: Option<String>,
    /// A text that the name of the machine must contain. Upper and lower case do not matter.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// The hardware address of one of the machine's network cards.
    #[schema(nullable = false)]
    pub mac: Option<String>,
    #[schema(nullable = false)]
    pub pool: Option<String>,
    /// The names of 1 to 100 pools. The machine must be in at least one of them. Do not set this
    /// field together with `pool`.
    #[schema(nullable = false, min_items = 1, max_items = 100)]
    pub pools: Option<Vec<String>>,
    /// References to at most 100 machines that the lease does not accept: each is an id,
    /// `name:<exact>`, `uuid:<…>` or `mac:<…>`. Set at least one other field too.
    #[schema(nullable = false, max_items = 100)]
    pub exclude: Option<Vec<String>>,
    /// The least memory that the machine must have, in bytes.
    #[schema(nullable = false, minimum = 1, example = 8_589_934_592_u64)]
    pub memory_bytes_at_least: Option<u64>,
    /// Whether the guest of the machine must be able to run machines of its own (`true`), or must
    /// not be able to (`false`).
    #[schema(nullable = false)]
    pub nested_virtualization: Option<bool>,
}

/// The state into which otter puts the machine before the lease is active. otter takes these steps
/// in this order.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrepareRequest {
    /// The snapshot to which otter reverts the machine: its id, name or path.
    #[schema(nullable = false)]
    pub snapshot: Option<String>,
    /// The ISO that otter puts into the CD drive of the machine, with the name of its datastore.
    /// The release takes it out again, unless it reverts to a snapshot.
    #[schema(nullable = false, example = "[isos] iso/qubes.iso")]
    pub iso: Option<String>,
    /// What the machine boots from. The release restores what it was before, unless it reverts to
    /// a snapshot.
    #[schema(nullable = false)]
    pub boot: Option<BootRequest>,
    /// The power state into which otter puts the machine: `on` or `off`.
    #[schema(nullable = false, example = "on")]
    pub power: Option<String>,
    /// Wait for `power_state:on`, `ip`, `tools`, a text on the screen: `screen:<text>`, or a text
    /// from the first serial port: `serial:<text>`, or another one: `serial@<port>:<text>`. All
    /// after the first colon is the text, at most 256 characters. What the screen showed or the
    /// port output before the last revert or power step does not count.
    #[schema(nullable = false, example = "power_state:on")]
    pub until: Option<String>,
    /// The network in which the address of the machine must be, only with `"until": "ip"`. During
    /// the lease, `ip_address` of the machine is its first address in this network.
    #[schema(nullable = false, example = "10.0.0.0/8")]
    pub cidr: Option<String>,
    /// How long otter waits after the other steps.
    #[schema(nullable = false, example = "90s")]
    #[serde(default, deserialize_with = "some_duration_text")]
    pub settle: Option<String>,
}

/// The state into which otter puts the machine after the lease.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// `off`: otter powers the machine off. `keep`: the power state stays unchanged. `keep` is only
    /// for machines of pools that allow it, and for operators.
    #[schema(nullable = false, example = "off")]
    pub power: Option<String>,
    /// The snapshot to which otter reverts the machine before it changes the power: its id, name or
    /// path.
    #[schema(nullable = false)]
    pub snapshot: Option<String>,
}

/// What otter records from the moment the lease is active until it ends. A recording becomes
/// artifacts of the lease. Empty: nothing, also if the pool says otherwise.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordRequest {
    /// Whether the screen is recorded, as `screen.apng`. Default: false.
    #[schema(nullable = false, example = true)]
    pub screen: Option<bool>,
    /// The serial ports that are recorded, as `<port>.log` and `<port>.cast`: at most 32 names such
    /// as `ttyS0`, keys, or `*` for every port. Default: none.
    #[schema(nullable = false, max_items = 32, example = json!(["*"]))]
    pub serial: Option<Vec<String>>,
}

impl Lease {
    /// The JSON of a lease.
    ///
    /// # Parameters
    /// - `secret`: the secret, only in the response to the request for the lease.
    #[must_use]
    pub fn from_view(view: &LeaseView, secret: Option<String>) -> Self {
        let LeaseView { lease, position, expires_at, max_expires_at, blocked_by, recording } = view;
        let lease::Lease {
            id,
            state,
            select,
            // Not shown: the scope, which belongs to the token of the caller.
            scope: _,
            machine,
            machine_name,
            pool,
            holder,
            requested_by,
            token: _,
            // Not shown: the origin of the request. Only the audit shows it.
            origin: _,
            reference,
            ttl,
            // Shown as `max_expires_at`: the longest time of the lease with all its renewals.
            max_total: _,
            queue_for,
            prepare,
            release,
            record,
            keep_on_failure,
            created_at,
            active_at,
            kept_at,
            fence,
            grants: _,
            // Not shown, because only the release needs it: the drive and the boot options before.
            media: _,
            job,
            // Shown as `expires_at`: the time that the lease has left.
            time_left: _,
            measured_at: _,
            warned: _,
            history,
            end,
            ended_at: _,
            // Not shown here: the failure. `end` has its text, and a wait for the lease returns it
            // as a problem.
            error: _,
            warnings,
            // Not shown here: the fault of the host that the lease met. The history and the pool
            // show it.
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
            record: record.as_ref().map(LeaseRecord::from_domain),
            recording: recording.as_ref().map(LeaseRecording::from_status),
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
        let lease::Prepare { snapshot, iso, boot, power, until, cidr, settle } = prepare;
        Self {
            snapshot: snapshot.clone(),
            iso: iso.clone(),
            boot: boot.as_ref().map(JobBootRequest::from_domain),
            power: power.map(Into::into),
            until: until.as_ref().map(ToString::to_string),
            cidr: cidr.map(|cidr| cidr.to_string()),
            settle: settle.map(duration::format),
        }
    }
}

impl LeaseRecord {
    fn from_domain(record: &Record) -> Self {
        let Record { screen, serial } = record;
        let serial = serial.iter().map(ToString::to_string).collect();
        Self { screen: *screen, serial }
    }
}

impl LeaseRecording {
    fn from_status(status: &RecordingStatus) -> Self {
        let synced_at = status.synced_at();
        let RecordingStatus { state, screen, serial, started_at, synced: _, bytes, reason } =
            status.clone();
        let state = state.as_str().to_owned();
        Self { state, screen, serial, started_at, synced_at, bytes, reason }
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

fn recording_states() -> Vec<&'static str> {
    RecordingState::ALL.iter().map(|state| state.as_str()).collect()
}

fn end_reasons() -> Vec<&'static str> {
    EndReason::ALL.iter().map(|reason| reason.as_str()).collect()
}
