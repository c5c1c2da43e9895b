//! Tests of the authorization of jobs by leases.

use super::{ask, at, empty, end, id, rules};
use crate::domain::access::Role;
use crate::domain::failure::FailureKind;
use crate::domain::ids::{LeaseId, QuestionId};
use crate::domain::job::{Job, JobRequest};
use crate::domain::lease::{EndReason, LeaseState};
use crate::domain::machine::Machine;
use crate::service::callers::Caller;
use crate::service::inventory::samples;
use crate::service::jobs::authorization::{
    Authorization, JobAuthorizer, LeaseCredential, Requester,
};
use crate::service::jobs::samples::job;
use crate::service::leases::lease_table::{LeaseInput, LeaseTable, MachineKey, RecoveryAttempt};
use crate::service::leases::matching::CandidateMachine;
use crate::service::leases::published::PublishedLeases;

/// The candidate for a machine of the host. The candidate is free.
fn candidate_of(machine: &Machine) -> CandidateMachine {
    let identity = machine.identity();
    let key = MachineKey::from_identity(&identity);
    CandidateMachine { identity, key, ..super::machine(1, true) }
}

/// A table in which the first lease holds the first machine.
///
/// # Parameters
/// - `prepare`: whether the lease has a preparation, which has not ended yet.
fn held(prepare: bool) -> (LeaseTable, Machine) {
    let machine = samples::machine("16", "qubes-1");
    let candidate = candidate_of(&machine);
    let mut table = empty(rules());
    ask(&mut table, 1, prepare, false, &[candidate], at(0)).unwrap();
    (table, machine)
}

fn admits(
    table: &LeaseTable,
    machine: &Machine,
    credential: LeaseCredential,
) -> Result<Option<LeaseId>, FailureKind> {
    let published = PublishedLeases::default();
    published.publish(table.clone());
    let caller = Caller::new("ci", Role::Operator);
    let admitted =
        published.authorize(machine, &Requester { caller, credential, override_reason: None });
    admitted.map(Authorization::lease).map_err(|failure| failure.kind)
}

#[test]
fn a_preparation_after_the_end_of_its_lease_is_rejected() {
    let (mut table, machine) = held(true);
    let own = |state| LeaseCredential::Internal(id(1), state);
    assert_eq!(admits(&table, &machine, own(LeaseState::Preparing)), Ok(Some(id(1))));
    end(&mut table, 1, EndReason::Released, at(1));
    assert!(admits(&table, &machine, own(LeaseState::Preparing)).is_err());
    assert_eq!(admits(&table, &machine, own(LeaseState::Releasing)), Ok(Some(id(1))));
    table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(2)).unwrap();
    assert_eq!(admits(&table, &machine, own(LeaseState::Releasing)), Err(FailureKind::LeaseEnded));
}

#[test]
fn the_answer_of_a_rule_belongs_to_the_lease_of_the_machine_in_each_of_its_states() {
    let (mut table, machine) = held(true);
    assert_eq!(admits(&table, &machine, LeaseCredential::Rule), Ok(Some(id(1))));
    table.apply(LeaseInput::PrepareFinished(id(1), Ok(())), at(1)).unwrap();
    assert_eq!(admits(&table, &machine, LeaseCredential::Rule), Ok(Some(id(1))));
    end(&mut table, 1, EndReason::Released, at(2));
    assert_eq!(admits(&table, &machine, LeaseCredential::Rule), Ok(Some(id(1))));
    table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(3)).unwrap();
    assert_eq!(admits(&table, &machine, LeaseCredential::Rule), Ok(None));
}

#[test]
fn a_machine_with_a_reused_id_is_not_the_holders() {
    let (table, machine) = held(false);
    assert_eq!(admits(&table, &machine, LeaseCredential::Lease(id(1))), Ok(Some(id(1))));
    assert_eq!(admits(&table, &machine, LeaseCredential::Absent), Err(FailureKind::MachineLeased));
    let other = Machine { instance_uuid: Some("another".to_owned()), ..machine };
    assert_eq!(
        admits(&table, &other, LeaseCredential::Lease(id(1))),
        Err(FailureKind::MachineLeased)
    );
    assert!(admits(&table, &other, LeaseCredential::Internal(id(1), LeaseState::Active)).is_err());
    assert_eq!(admits(&table, &other, LeaseCredential::Absent), Ok(None));
}

#[test]
fn of_two_machines_with_one_id_each_has_its_own_holder() {
    // It makes no difference which of the two leases has the smaller id.
    for (older, newer) in [(1, 2), (2, 1)] {
        let machine = samples::machine("16", "qubes-1");
        let other = Machine { instance_uuid: Some("another".to_owned()), ..machine.clone() };
        let mut table = empty(rules());
        for (number, machine) in [(older, &machine), (newer, &other)] {
            let candidate = candidate_of(machine);
            ask(&mut table, number, false, false, &[candidate], at(0)).unwrap();
        }
        for (number, machine) in [(older, &machine), (newer, &other)] {
            assert_eq!(
                admits(&table, machine, LeaseCredential::Absent),
                Err(FailureKind::MachineLeased)
            );
            assert_eq!(
                admits(&table, machine, LeaseCredential::Lease(id(number))),
                Ok(Some(id(number)))
            );
        }
    }
}

#[test]
fn a_job_of_an_ended_lease_is_rejected_as_lease_ended() {
    let (table, machine) = held(false);
    assert_eq!(
        admits(&table, &machine, LeaseCredential::Lease(id(9))),
        Err(FailureKind::LeaseEnded)
    );
    assert_eq!(
        admits(&empty(rules()), &machine, LeaseCredential::Lease(id(9))),
        Err(FailureKind::LeaseEnded)
    );
}

#[test]
fn a_job_of_a_lease_that_is_not_active_yet_is_rejected_as_lease_not_active() {
    let (mut preparing, machine) = held(true);
    let credential = |number| LeaseCredential::Lease(id(number));
    assert_eq!(admits(&preparing, &machine, credential(1)), Err(FailureKind::LeaseNotActive));
    // The second lease is queued, and the first lease still holds the machine.
    ask(&mut preparing, 2, false, true, &[super::machine(1, false)], at(1)).unwrap();
    assert_eq!(admits(&preparing, &machine, credential(2)), Err(FailureKind::MachineLeased));
    let mut queued = empty(rules());
    ask(&mut queued, 1, false, true, &[super::machine(1, false)], at(0)).unwrap();
    assert_eq!(admits(&queued, &machine, credential(1)), Err(FailureKind::LeaseNotActive));
    end(&mut preparing, 1, EndReason::Released, at(2));
    assert_eq!(admits(&preparing, &machine, credential(1)), Err(FailureKind::LeaseEnded));
}

#[test]
fn a_job_starts_only_while_its_lease_is_in_the_state_of_the_job() {
    let prepare = || JobRequest::Prepare {
        snapshot: None,
        iso: None,
        boot: None,
        power: None,
        until: None,
        cidr: None,
        settle: None,
    };
    let release = || JobRequest::Release { keep_power: false, snapshot: None, media: None };
    let answer =
        || JobRequest::Answer { question: QuestionId::from_backend("q"), choice: "1".to_owned() };
    let may_start = |table: &LeaseTable, lease: Option<LeaseId>, request: JobRequest| {
        let published = PublishedLeases::default();
        published.publish(table.clone());
        let started = published.may_start(&Job { lease, ..job(request) });
        started.map_err(|failure| (failure.kind, failure.lease))
    };
    let refused = Err((FailureKind::JobCancelled, Some(id(1))));
    let (mut table, _) = held(true);
    assert_eq!(may_start(&table, Some(id(1)), prepare()), Ok(()));
    assert_eq!(may_start(&table, Some(id(1)), JobRequest::PowerOn), refused);
    assert_eq!(may_start(&table, Some(id(1)), answer()), Ok(()), "a rule helps a preparation");
    table.apply(LeaseInput::PrepareFinished(id(1), Ok(())), at(1)).unwrap();
    assert_eq!(may_start(&table, Some(id(1)), JobRequest::PowerOn), Ok(()));
    end(&mut table, 1, EndReason::Released, at(2));
    assert_eq!(may_start(&table, Some(id(1)), JobRequest::PowerOn), refused);
    assert_eq!(may_start(&table, Some(id(1)), answer()), refused);
    assert_eq!(may_start(&table, Some(id(1)), prepare()), refused);
    assert_eq!(may_start(&table, Some(id(1)), release()), Ok(()));
    assert_eq!(may_start(&table, None, JobRequest::PowerOn), Ok(()), "it has no lease");
    table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(3)).unwrap();
    assert_eq!(may_start(&table, Some(id(1)), JobRequest::Kill), refused);
    assert_eq!(may_start(&table, Some(id(1)), release()), Ok(()), "the recovery of a machine");
}

#[test]
fn a_recovery_is_authorized_while_it_is_recorded_and_no_lease_holds_the_machine() {
    let machine = samples::machine("16", "qubes-1");
    let candidate = candidate_of(&machine);
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, std::slice::from_ref(&candidate), at(0)).unwrap();
    let recovery = |number| LeaseCredential::Recovery(id(number));
    assert_eq!(admits(&table, &machine, recovery(1)), Err(FailureKind::MachineLeased));
    let failure = Err(super::host_failed());
    table.apply(LeaseInput::PrepareFinished(id(1), failure), at(1)).unwrap();
    assert_eq!(admits(&table, &machine, recovery(1)), Ok(Some(id(1))));
    assert_eq!(admits(&table, &machine, recovery(2)), Err(FailureKind::LeaseEnded));
    let key = MachineKey::from_identity(&machine.identity());
    let attempt = RecoveryAttempt { machine: key, lease: id(1), number: 0 };
    table.apply(LeaseInput::RecoveryFinished(attempt, Ok(())), at(2)).unwrap();
    assert_eq!(admits(&table, &machine, recovery(1)), Err(FailureKind::LeaseEnded));
}
