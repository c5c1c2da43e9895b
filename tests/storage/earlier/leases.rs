//! The leases of the database: one in each state, with every field.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use otter::domain::failure::{Failure, FailureKind, Fault};
use otter::domain::ids::{JobId, LeaseId, MachineId, TokenId};
use otter::domain::lease::{
    EndReason, HistoryEntry, Lease, LeaseEnd, LeaseState, Prepare, Quarantine, Readiness, Release,
    Select, TimeLeft,
};
use otter::domain::machine::MachineIdentity;
use otter::domain::origin::{RequestId, RequestOrigin};
use otter::domain::power::PowerState;
use otter::domain::scope::Scope;
use otter::storage::{IdempotencyKey, StoredMachine};

use super::jobs::{id, start};

/// Every lease, in the order of their ids.
pub fn all() -> Vec<Lease> {
    vec![
        lease(1, LeaseState::Queued, None),
        lease(2, LeaseState::Preparing, None),
        lease(3, LeaseState::Active, None),
        lease(4, LeaseState::Releasing, Some(EndReason::Revoked)),
        lease(5, LeaseState::Released, Some(EndReason::Released)),
        lease(6, LeaseState::Expired, Some(EndReason::Expired)),
        lease(7, LeaseState::Revoked, Some(EndReason::Revoked)),
        lease(8, LeaseState::Failed, Some(EndReason::QueueTimeout)),
    ]
}

/// The stored state of the leases' machines, by the key of the machine.
pub fn machines() -> BTreeMap<String, StoredMachine> {
    let machine = |lease: &Lease| {
        let stored = StoredMachine {
            fence: lease.fence.unwrap(),
            last_lease_end: lease.ended_at,
            quarantine: (lease.state == LeaseState::Failed).then(|| Quarantine {
                reason: "The release failed.".to_owned(),
                by: "otter".to_owned(),
                since: start(),
                automatic: true,
                job: lease.job,
            }),
            absent_since: (lease.state == LeaseState::Expired).then(start),
            recovery: None,
        };
        Some((lease.machine.as_ref()?.key(), stored))
    };
    all().iter().filter(|lease| lease.machine.is_some()).filter_map(machine).collect()
}

/// The idempotency key of the call that requested a lease.
pub fn key(lease: &Lease) -> IdempotencyKey {
    let number = all().iter().position(|other| other.id == lease.id).unwrap() + 1;
    IdempotencyKey {
        caller: "ci".to_owned(),
        method: "POST".to_owned(),
        path: "/v1/leases".to_owned(),
        key: format!("lease {number}"),
        fingerprint: [7; 32],
        created_at: start(),
    }
}

fn later(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn lease(number: u32, state: LeaseState, reason: Option<EndReason>) -> Lease {
    let has_machine = state != LeaseState::Queued;
    let was_active = has_machine && state != LeaseState::Preparing;
    let job = has_machine.then(|| JobId::new(id(u128::from(1000 + number))));
    Lease {
        id: LeaseId::new(id(u128::from(number))),
        state,
        select: Select {
            machine: Some("name:qubes-0001".parse().unwrap()),
            name: Some("qubes".to_owned()),
            mac: Some("00:0c:29:00:00:01".parse().unwrap()),
            pool: Some("qubes".to_owned()),
            ..Select::default()
        },
        scope: Scope::Selected {
            machines: vec!["qubes-*".to_owned()],
            pools: vec!["qubes".to_owned()],
        },
        machine: has_machine.then(|| MachineIdentity {
            id: MachineId::from_backend(number.to_string()),
            instance_uuid: Some(id(u128::from(2000 + number)).to_string()),
            path: Some("[datastore1] qubes/qubes.vmx".to_owned()),
        }),
        machine_name: has_machine.then(|| "qubes-0001".to_owned()),
        pool: Some("qubes".to_owned()),
        holder: "nightly".to_owned(),
        requested_by: "ci".to_owned(),
        token: Some(TokenId::new(id(1))),
        origin: RequestOrigin {
            address: Some("192.0.2.7".parse().unwrap()),
            request_id: Some(RequestId::new(id(7))),
        },
        reference: Some("run 7".to_owned()),
        ttl: Duration::from_mins(30),
        max_total: Duration::from_hours(24),
        queue_for: Some(Duration::from_mins(10)),
        prepare: Some(Prepare {
            snapshot: Some("base/kickstart".to_owned()),
            iso: None,
            boot: None,
            power: Some(PowerState::On),
            until: Some(Readiness::Tools),
            cidr: None,
            settle: Some(Duration::from_secs(90)),
        }),
        release: Release { keep_power: true, snapshot: Some("base".to_owned()) },
        record: None,
        keep_on_failure: None,
        created_at: start(),
        active_at: was_active.then(|| later(60)),
        kept_at: None,
        fence: has_machine.then_some(u64::from(number) + 40),
        grants: u32::from(has_machine),
        media: None,
        job,
        time_left: TimeLeft {
            queue: Duration::from_mins(9),
            lease: Duration::from_secs(1_700),
            total: Duration::from_secs(86_000),
        },
        measured_at: later(100),
        warned: was_active,
        history: vec![
            HistoryEntry { at: start(), what: "queued".to_owned() },
            HistoryEntry { at: later(30), what: "granted qubes-0001".to_owned() },
        ],
        end: reason.map(|reason| LeaseEnd {
            reason,
            by: "ann".to_owned(),
            at: later(200),
            detail: Some("the lab closes".to_owned()),
        }),
        ended_at: state.is_end().then(|| later(230)),
        error: (state == LeaseState::Failed).then(|| Failure {
            fault: Some(Fault {
                name: "InvalidState".to_owned(),
                message: "The operation is not allowed in the current state.".to_owned(),
                details: [("state".to_owned(), "on".to_owned())].into(),
            }),
            machine: Some((MachineId::from_backend(number.to_string()), "qubes-0001".to_owned())),
            job,
            lease: Some(LeaseId::new(id(u128::from(number)))),
            ..Failure::new(FailureKind::HostRejected, "The host refused to power it on.")
        }),
        warnings: vec!["An operator changed the machine.".to_owned()],
        setback: None,
    }
}
