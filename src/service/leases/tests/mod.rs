//! Tests of the lease table: each cell of its table of events and states, and random histories.
//! This file has the helpers that the tests in the other files use.

mod attempts;
mod ends;
mod grants;
mod host_faults;
mod job_authorization;
mod ledgers;
mod random_histories;
mod times;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::lease_table::{
    LeaseInput, LeaseRules, LeaseTable, MachineKey, MachineLedger, TableChanges,
};
use super::matching::CandidateMachine;
use crate::domain::failure::{Failure, FailureKind, Fault};
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{EndReason, Lease, LeaseState, LeaseTerms, Prepare, Release, Select};
use crate::domain::machine::MachineIdentity;
use crate::domain::media::MediaRecord;
use crate::domain::origin::RequestOrigin;
use crate::domain::pool::RunningLimits;
use crate::domain::scope::Scope;
use crate::domain::snapshot::Snapshots;
use crate::service::jobs::deadline_clocks::Moment;

const MINUTE: Duration = Duration::from_mins(1);

fn rules() -> LeaseRules {
    LeaseRules {
        max_ttl: MINUTE * 60,
        max_total: MINUTE * 120,
        abandon_after: MINUTE * 2,
        grace: MINUTE,
        max_queued: 100,
        ledger_retention: MINUTE * 60,
        fault_pause: Duration::from_secs(5),
        max_fault_pause: MINUTE,
        quarantine_retry: MINUTE * 15,
        host_limits: RunningLimits::default(),
    }
}

pub fn at(seconds: u64) -> Moment {
    let start: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    Moment {
        wall: start + SignedDuration::from_secs(i64::try_from(seconds).unwrap()),
        elapsed: Duration::from_secs(seconds),
    }
}

fn identity(number: u32) -> MachineIdentity {
    MachineIdentity {
        id: MachineId::from_backend(number.to_string()),
        instance_uuid: Some(format!("uuid-{number}")),
        path: None,
    }
}

fn key(number: u32) -> MachineKey {
    MachineKey::from_identity(&identity(number))
}

pub fn machine(number: u32, free: bool) -> CandidateMachine {
    CandidateMachine {
        identity: identity(number),
        key: key(number),
        name: format!("qubes-{number}"),
        bios_uuid: None,
        macs: Vec::new(),
        pools: vec![if number.is_multiple_of(2) { "even" } else { "odd" }.to_owned()],
        free,
        excluded: false,
        running: false,
        memory_bytes: 1 << 30,
        nested_virtualization: None,
        limits: Vec::new(),
        snapshots: Snapshots::default(),
        media: MediaRecord::default(),
    }
}

fn all(count: u32) -> Vec<CandidateMachine> {
    (1..=count).map(|number| machine(number, true)).collect()
}

fn id(number: u128) -> LeaseId {
    LeaseId::new(Uuid::from_u128(number))
}

pub fn lease(number: u128, prepare: bool, queue_for: Option<Duration>, now: Moment) -> Lease {
    Lease::queued(LeaseTerms {
        id: id(number),
        select: Select { name: Some("qubes".to_owned()), ..Select::default() },
        scope: Scope::All,
        holder: "ci".to_owned(),
        requested_by: "ci".to_owned(),
        token: None,
        origin: RequestOrigin::default(),
        reference: None,
        ttl: MINUTE * 30,
        max_total: MINUTE * 120,
        queue_for,
        prepare: prepare.then(Prepare::default),
        release: Release::default(),
        record: None,
        keep_on_failure: None,
        created_at: now.wall,
    })
}

fn empty(rules: LeaseRules) -> LeaseTable {
    LeaseTable::from_stored(rules, [], BTreeMap::new(), None, at(0))
}

/// The ledgers of a table, in the form in which the store has them.
fn ledgers(table: &LeaseTable) -> BTreeMap<MachineKey, MachineLedger> {
    table.ledgers().map(|(machine, ledger)| (machine.clone(), ledger.clone())).collect()
}

fn failed() -> Failure {
    Failure::new(FailureKind::HostRejected, "injected by the test")
}

/// A failure of the whole host.
fn host_failed() -> Failure {
    let fault = Fault {
        name: "InsufficientResourcesFault".to_owned(),
        message: "No memory.".to_owned(),
        details: BTreeMap::new(),
    };
    Failure::new(FailureKind::InsufficientResources, "the host has no memory")
        .with_fault(Some(fault))
}

/// The state of a lease after a transition with these changes. The lease may have ended.
fn state(changes: &TableChanges, number: u128) -> LeaseState {
    changes.leases[&id(number)].state
}

fn ask(
    table: &mut LeaseTable,
    number: u128,
    prepare: bool,
    queue: bool,
    candidates: &[CandidateMachine],
    now: Moment,
) -> Result<TableChanges, Failure> {
    table.apply(
        LeaseInput::Request(
            Box::new(lease(number, prepare, queue.then_some(MINUTE * 10), now)),
            candidates,
        ),
        now,
    )
}

fn end(table: &mut LeaseTable, number: u128, reason: EndReason, now: Moment) -> TableChanges {
    table
        .apply(LeaseInput::End { id: id(number), reason, by: "ci".to_owned(), detail: None }, now)
        .unwrap()
}
