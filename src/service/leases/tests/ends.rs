//! Tests of preparations, of releases, and of the ends of leases.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    MINUTE, all, ask, at, empty, end, failed, id, identity, key, lease, machine, rules, state,
};
use crate::domain::access::TokenStatus;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, MachineId, TokenId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::domain::machine::MachineIdentity;
use crate::service::leases::lease_table::{FollowUp, LeaseInput, LeaseTable, TableChanges};
use crate::service::leases::matching::CandidateMachine;

#[test]
fn only_the_queued_leases_of_invalid_tokens_end() {
    let token = |number| TokenId::new(Uuid::from_u128(number));
    let statuses = BTreeMap::from([
        (token(1), TokenStatus::Revoked),
        (token(2), TokenStatus::Expired),
        (token(3), TokenStatus::Valid),
    ]);
    let mut table = empty(rules());
    let mut ask = |number, token, prepare, candidates: &[CandidateMachine]| {
        let request = Lease { token, ..lease(number, prepare, Some(MINUTE * 10), at(0)) };
        table.apply(LeaseInput::Request(Box::new(request), candidates), at(0)).unwrap();
    };
    ask(1, Some(token(1)), false, &[machine(1, true)]);
    ask(2, Some(token(2)), true, &[machine(2, true)]);
    for (number, token) in
        [(3, Some(token(1))), (4, Some(token(2))), (5, Some(token(3))), (6, None)]
    {
        ask(number, token, false, &[machine(1, false)]);
    }
    let changes = table.apply(LeaseInput::TokenStatuses(&statuses), at(1)).unwrap();
    assert_eq!(changes.leases.keys().collect::<Vec<_>>(), [&id(3), &id(4)]);
    for (number, detail) in [(3, "The token ci was revoked."), (4, "The token ci has expired.")] {
        let end = changes.leases[&id(number)].end.clone().unwrap();
        assert_eq!(state(&changes, number), LeaseState::Revoked);
        assert_eq!(
            (end.reason, &*end.by, end.detail.as_deref()),
            (EndReason::Revoked, "otter", Some(detail))
        );
    }
    assert_eq!((table.position(id(5)), table.position(id(6))), (Some(0), Some(1)));
}

#[test]
fn a_failed_preparation_quarantines_the_machine_and_queues_the_lease_again_if_time_is_left() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    let failure = table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(5)).unwrap();
    assert_eq!(state(&failure, 1), LeaseState::Queued);
    let quarantine = table.ledger(&key(1)).unwrap().quarantine.clone().unwrap();
    assert!(
        quarantine.automatic && quarantine.reason.contains("injected by the test"),
        "{quarantine:?}"
    );
    let again = table.apply(LeaseInput::GrantQueued(&all(2)), at(6)).unwrap();
    assert_eq!(again.leases[&id(1)].machine_name.as_deref(), Some("qubes-2"));
    table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(7)).unwrap();
    assert!(
        table.apply(LeaseInput::GrantQueued(&all(2)), at(8)).unwrap().leases.is_empty(),
        "both machines are quarantined"
    );

    let mut table = empty(rules());
    ask(&mut table, 1, true, false, &all(2), at(0)).unwrap();
    let failure = table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(5)).unwrap();
    assert_eq!(state(&failure, 1), LeaseState::Releasing);
    assert_eq!(failure.follow_ups, [FollowUp::Release(id(1))], "the lease holds the machine");
    let leases: Vec<Lease> = table.open_leases().map(|open| Lease::clone(&open.lease)).collect();
    let ledgers = super::ledgers(&table);
    let stored = LeaseTable::from_stored(rules(), leases, ledgers, None, at(6));
    assert_eq!(stored.unfinished_work(at(6).wall), [FollowUp::Release(id(1))]);
    let freed = table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(6)).unwrap();
    let again = &freed.follow_ups[..];
    assert!(matches!(again, [FollowUp::Recover(_, pause)] if *pause == MINUTE * 15), "{again:?}");
    let ledger = table.ledger(&key(1)).unwrap();
    assert!(ledger.quarantine.is_some(), "a release does not show that it can be prepared");
    assert_eq!(ledger.recovery.as_ref().unwrap().retry_at, at(6 + 15 * 60).wall);
    let ended = &freed.leases[&id(1)];
    assert_eq!(
        (ended.state, ended.error.as_ref().unwrap().kind),
        (LeaseState::Failed, FailureKind::HostRejected)
    );
}

#[test]
fn a_failed_release_quarantines_the_machine_until_an_operator_clears_it() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Released, at(1));
    let freed = table.apply(LeaseInput::ReleaseFinished(id(1), Err(failed())), at(2)).unwrap();
    let ended = &freed.leases[&id(1)];
    assert_eq!((ended.state, ended.warnings.len()), (LeaseState::Released, 1));
    assert!(ask(&mut table, 2, false, false, &all(1), at(3)).is_err());
    table.apply(LeaseInput::ClearQuarantine(key(1)), at(4)).unwrap();
    let granted = ask(&mut table, 3, false, false, &all(1), at(5)).unwrap();
    assert_eq!(granted.leases[&id(3)].fence, Some(2));
}

#[test]
fn a_quarantine_by_an_operator_stays() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    let mine = Quarantine {
        reason: "mine".to_owned(),
        by: "boss".to_owned(),
        since: at(1).wall,
        automatic: false,
        job: None,
    };
    table.apply(LeaseInput::QuarantineMachine(key(1), mine.clone()), at(1)).unwrap();
    end(&mut table, 1, EndReason::Revoked, at(2));
    table.apply(LeaseInput::ReleaseFinished(id(1), Err(failed())), at(3)).unwrap();
    assert_eq!(table.ledger(&key(1)).unwrap().quarantine, Some(mine));
}

#[test]
fn an_absent_machine_fails_its_lease_and_is_quarantined() {
    for gone in [vec![], vec![MachineIdentity { id: MachineId::from_backend("99"), ..identity(1) }]]
    {
        for prepare in [false, true] {
            let mut table = empty(rules());
            ask(&mut table, 1, prepare, true, &all(1), at(0)).unwrap();
            assert!(
                table
                    .apply(LeaseInput::MachinesPresent(&[identity(1)]), at(1))
                    .unwrap()
                    .leases
                    .is_empty(),
                "the machine is present"
            );
            let changes = table.apply(LeaseInput::MachinesPresent(&gone), at(2)).unwrap();
            let ended = &changes.leases[&id(1)];
            assert_eq!(
                (ended.state, ended.end.as_ref().unwrap().reason),
                (LeaseState::Failed, EndReason::MachineGone)
            );
            assert!(table.ledger(&key(1)).unwrap().quarantine.is_some());
            assert!(matches!(&*changes.follow_ups, [FollowUp::Recover(..)]), "no release");
        }
    }
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Released, at(1));
    let changes = table.apply(LeaseInput::MachinesPresent(&[]), at(2)).unwrap();
    assert_eq!(state(&changes, 1), LeaseState::Released, "it ends with its first reason");
    assert!(
        changes.leases[&id(1)].warnings[0]
            .starts_with("qubes-1 is quarantined: the machine was removed")
    );
}

#[test]
fn a_machine_that_the_host_cannot_read_keeps_its_lease() {
    let unreadable = MachineIdentity { instance_uuid: None, path: None, ..identity(1) };
    let mut table = empty(rules());
    ask(&mut table, 1, false, true, &all(1), at(0)).unwrap();
    let changes = table.apply(LeaseInput::MachinesPresent(&[unreadable]), at(1)).unwrap();
    assert!(changes.leases.is_empty() && table.get(id(1)).is_some());
    assert!(table.ledger(&key(1)).unwrap().quarantine.is_none());
}

#[test]
fn a_failed_lease_has_the_cause() {
    let error = |changes: &TableChanges| {
        let failure = changes.leases[&id(1)].error.clone().unwrap();
        (failure.kind, failure.detail)
    };
    let mut table = empty(rules());
    ask(&mut table, 1, false, true, &[machine(1, false)], at(0)).unwrap();
    let (kind, detail) = error(&table.apply(LeaseInput::TimePassed, at(120)).unwrap());
    assert!(kind == FailureKind::LeaseFailed && detail.starts_with("No client polled"), "{detail}");

    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    let (kind, detail) = error(&table.apply(LeaseInput::MachinesPresent(&[]), at(1)).unwrap());
    assert!(
        kind == FailureKind::MachineGone && detail.starts_with("qubes-1 was removed"),
        "{detail}"
    );

    // A lease that is released because its preparation failed ends with the failure of the
    // preparation.
    let mut table = empty(rules());
    ask(&mut table, 1, true, false, &all(1), at(0)).unwrap();
    table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(1)).unwrap();
    let freed = table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(2)).unwrap();
    assert_eq!(error(&freed).1, "injected by the test");
    // A lease that its holder gave back ends without a failure.
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Released, at(1));
    assert_eq!(
        table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(2)).unwrap().leases[&id(1)]
            .error,
        None
    );
}

#[test]
fn an_input_without_effect_yields_no_change() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, false, &all(1), at(0)).unwrap();
    let job = JobId::new(Uuid::from_u128(9));
    let working = || LeaseInput::JobStarted(id(1), LeaseState::Preparing, job);
    assert_eq!(table.apply(working(), at(1)).unwrap().leases.len(), 1);
    assert!(table.apply(working(), at(60)).unwrap().leases.is_empty(), "it has this job already");
    assert!(
        table.apply(LeaseInput::ClearQuarantine(key(1)), at(61)).unwrap().ledgers.is_empty(),
        "it is not quarantined"
    );
    assert!(table.apply(LeaseInput::ClearQuarantine(key(9)), at(62)).unwrap().ledgers.is_empty());
    assert_eq!(table.ledger(&key(9)), None);
}

#[test]
fn a_lease_records_its_job_and_an_override() {
    let mut table = empty(rules());
    let asked = ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    let job = JobId::new(Uuid::from_u128(9));
    let working =
        table.apply(LeaseInput::JobStarted(id(1), LeaseState::Preparing, job), at(1)).unwrap();
    assert_eq!(
        (working.leases[&id(1)].job, state(&working, 1)),
        (Some(job), LeaseState::Preparing)
    );
    let (by, reason) = ("boss".to_owned(), "must be".to_owned());
    let acted = table.apply(LeaseInput::RecordOverride { id: id(1), by, reason }, at(2)).unwrap();
    assert_eq!(acted.leases[&id(1)].warnings, ["boss acted on the machine: must be"]);
    let failure = table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(3)).unwrap();
    assert_eq!(table.ledger(&key(1)).unwrap().quarantine.as_ref().unwrap().job, Some(job));
    let again = table.apply(LeaseInput::GrantQueued(&all(2)), at(4)).unwrap();
    let grants = [&asked, &failure, &again].map(|changes| {
        let lease = &changes.leases[&id(1)];
        (lease.grants, lease.fence, lease.job)
    });
    assert_eq!(grants, [(1, Some(1), None), (1, None, None), (2, Some(1), None)]);
}

#[test]
fn a_late_start_of_a_preparation_does_not_replace_the_job_of_the_release() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(1), at(0)).unwrap();
    let job = |number| JobId::new(Uuid::from_u128(number));
    end(&mut table, 1, EndReason::Released, at(1));
    let working =
        table.apply(LeaseInput::JobStarted(id(1), LeaseState::Releasing, job(2)), at(2)).unwrap();
    assert_eq!(working.leases[&id(1)].job, Some(job(2)));
    let late =
        table.apply(LeaseInput::JobStarted(id(1), LeaseState::Preparing, job(1)), at(3)).unwrap();
    assert!(late.leases.is_empty());
    table.apply(LeaseInput::ReleaseFinished(id(1), Err(failed())), at(4)).unwrap();
    assert_eq!(table.ledger(&key(1)).unwrap().quarantine.as_ref().unwrap().job, Some(job(2)));
}

#[test]
fn an_unexpected_end_of_a_preparation_or_a_release_changes_nothing() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    for outcome in [Ok(()), Err(failed())] {
        assert!(
            table
                .apply(LeaseInput::ReleaseFinished(id(1), outcome), at(1))
                .unwrap()
                .leases
                .is_empty()
        );
    }
    let (mut active, mut queued) = (table, empty(rules()));
    ask(&mut queued, 1, false, true, &[machine(1, false)], at(0)).unwrap();
    for table in [&mut active, &mut queued] {
        for outcome in [Ok(()), Err(failed())] {
            assert!(
                table
                    .apply(LeaseInput::PrepareFinished(id(1), outcome), at(2))
                    .unwrap()
                    .leases
                    .is_empty()
            );
        }
    }
    let renewed = queued.apply(LeaseInput::Renew(id(1), None), at(3)).unwrap_err();
    assert_eq!(renewed.kind, FailureKind::LeaseNotActive);
    end(&mut active, 1, EndReason::Released, at(4));
    let renewed = active.apply(LeaseInput::Renew(id(1), None), at(5)).unwrap_err();
    assert_eq!(renewed.kind, FailureKind::LeaseEnded);
}

#[test]
fn ending_a_lease_twice_changes_nothing() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, false, &all(1), at(0)).unwrap();
    let first = end(&mut table, 1, EndReason::Released, at(1));
    assert_eq!(first.follow_ups, [FollowUp::Release(id(1))]);
    let again = end(&mut table, 1, EndReason::Revoked, at(2));
    assert!(again.leases.is_empty() && again.follow_ups.is_empty());
    // A preparation that succeeds after its lease has ended changes nothing.
    assert!(
        table.apply(LeaseInput::PrepareFinished(id(1), Ok(())), at(3)).unwrap().leases.is_empty()
    );
    assert_eq!(
        state(&table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(4)).unwrap(), 1),
        LeaseState::Released
    );
}

#[test]
fn a_preparation_whose_machine_is_gone_fails_the_lease() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    let gone = Failure::new(FailureKind::MachineGone, "gone");
    let changes = table.apply(LeaseInput::PrepareFinished(id(1), Err(gone)), at(5)).unwrap();
    let ended = &changes.leases[&id(1)];
    assert_eq!(
        (ended.state, ended.end.as_ref().unwrap().reason),
        (LeaseState::Failed, EndReason::MachineGone)
    );
    assert!(table.ledger(&key(1)).unwrap().quarantine.is_some());
    assert!(matches!(&*changes.follow_ups, [FollowUp::Recover(..)]), "no release");
}

#[test]
fn a_failed_use_keeps_an_active_lease_once() {
    let fail = |table: &mut LeaseTable, now| {
        let by = "ci".to_owned();
        let reason = EndReason::Released;
        table.apply(LeaseInput::EndFailed { id: id(1), reason, by, detail: None }, now).unwrap()
    };
    let asking = |prepare| {
        let mut table = empty(rules());
        let lease =
            Lease { keep_on_failure: Some(MINUTE * 240), ..lease(1, prepare, Some(MINUTE), at(0)) };
        table.apply(LeaseInput::Request(Box::new(lease), &all(1)), at(0)).unwrap();
        table
    };
    let mut table = asking(false);
    let kept = fail(&mut table, at(60));
    let lease = &kept.leases[&id(1)];
    assert_eq!((lease.state, lease.kept_at), (LeaseState::Active, Some(at(60).wall)));
    // The lease may last 120 minutes with all its renewals, and one minute of them is over.
    assert_eq!(lease.time_left.lease, MINUTE * 119);
    assert!(kept.follow_ups.is_empty());
    assert!(fail(&mut table, at(120)).leases.is_empty(), "a second failure changes nothing");
    let ended = end(&mut table, 1, EndReason::Released, at(180));
    assert_eq!((state(&ended, 1), ended.follow_ups.len()), (LeaseState::Releasing, 1));
    assert!(fail(&mut table, at(181)).leases.is_empty());

    let mut preparing = asking(true);
    assert_eq!(state(&fail(&mut preparing, at(1)), 1), LeaseState::Releasing);
    let mut plain = empty(rules());
    ask(&mut plain, 1, false, false, &all(1), at(0)).unwrap();
    assert_eq!(state(&fail(&mut plain, at(1)), 1), LeaseState::Releasing);
}
