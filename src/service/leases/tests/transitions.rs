//! The table of the table, cell by cell, and what was wrong with it once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use uuid::Uuid;

use super::{
    MINUTE, all, ask, at, empty, end, failed, id, identity, key, lease, machine, rules, state,
};
use crate::domain::access::{Role, TokenStatus};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{JobId, LeaseId, MachineId, TokenId};
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::pool::{Pool, Pools};
use crate::service::callers::Caller;
use crate::service::inventory::samples;
use crate::service::jobs::clocks::Moment;
use crate::service::jobs::gate::{Admission, Gate, Pass, Right};
use crate::service::leases::lease_table::{
    FollowUp, LeaseInput, LeaseRules, LeaseTable, MachineLedger, TableChanges,
};
use crate::service::leases::matching::CandidateMachine;
use crate::service::leases::published::PublishedLeases;

#[test]
fn a_free_machine_is_granted_at_once_and_never_twice() {
    let mut table = empty(rules());
    let first = ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    assert_eq!(state(&first, 1), LeaseState::Active);
    assert_eq!(first.leases[&id(1)].fence, Some(1));
    let refused = ask(&mut table, 2, false, false, &all(1), at(1)).unwrap_err();
    assert_eq!(refused.kind, FailureKind::NoFreeMachine);
    assert!(table.get(id(2)).is_none(), "and nothing is left of it");
    let queued = ask(&mut table, 3, false, true, &all(1), at(2)).unwrap();
    assert_eq!((state(&queued, 3), table.position(id(3))), (LeaseState::Queued, Some(0)));
}

#[test]
fn what_no_machine_could_ever_fit_is_refused_even_with_time_to_queue() {
    let mut table = empty(rules());
    let mut wanted = lease(1, false, Some(MINUTE), at(0));
    wanted.select.name = Some("windows".to_owned());
    let refused = table.apply(LeaseInput::Request(Box::new(wanted), &all(3)), at(0)).unwrap_err();
    assert_eq!(refused.kind, FailureKind::NoFreeMachine);
    let excluded: Vec<CandidateMachine> =
        all(3).into_iter().map(|machine| CandidateMachine { excluded: true, ..machine }).collect();
    assert!(ask(&mut table, 2, false, true, &excluded, at(0)).is_err());
}

#[test]
fn the_machine_whose_last_lease_ended_longest_ago_comes_first() {
    let mut table = empty(rules());
    let mut order = Vec::new();
    for (number, now) in (1..=6).zip(1_u64..) {
        let granted = ask(&mut table, number, false, false, &all(3), at(now * 10)).unwrap();
        order.push(granted.leases[&id(number)].machine_name.clone().unwrap());
        end(&mut table, number, EndReason::Released, at(now * 10 + 1));
        table.apply(LeaseInput::ReleaseFinished(id(number), Ok(())), at(now * 10 + 2)).unwrap();
    }
    assert_eq!(order, ["qubes-1", "qubes-2", "qubes-3", "qubes-1", "qubes-2", "qubes-3"]);
}

#[test]
fn a_head_that_fits_nothing_now_does_not_block_the_others() {
    let mut table = empty(rules());
    let busy = [machine(1, false), machine(2, false)];
    let mut odd = lease(1, false, Some(MINUTE * 10), at(0));
    odd.select.pool = Some("odd".to_owned());
    table.apply(LeaseInput::Request(Box::new(odd), &busy), at(0)).unwrap();
    ask(&mut table, 2, false, true, &busy, at(1)).unwrap();
    let changes = table
        .apply(LeaseInput::GrantQueued(&[machine(1, false), machine(2, true)]), at(2))
        .unwrap();
    assert_eq!(state(&changes, 2), LeaseState::Active);
    assert_eq!(table.get(id(1)).unwrap().lease.state, LeaseState::Queued);
}

#[test]
fn a_deleted_waiter_does_not_block_the_queue_and_an_abandoned_one_drops() {
    let mut table = empty(rules());
    let busy = [machine(1, false)];
    for number in 1..=3 {
        ask(&mut table, number, false, true, &busy, at(0)).unwrap();
    }
    assert_eq!(state(&end(&mut table, 1, EndReason::Released, at(1)), 1), LeaseState::Released);
    table.record_poll(id(3), at(100));
    let due = table.next_due().unwrap();
    assert_eq!(due, MINUTE * 2);
    let changes = table.apply(LeaseInput::TimePassed, at(121)).unwrap();
    assert_eq!(changes.leases[&id(2)].end.as_ref().unwrap().reason, EndReason::Abandoned);
    assert_eq!(state(&changes, 2), LeaseState::Failed);
    let granted = table.apply(LeaseInput::GrantQueued(&all(1)), at(122)).unwrap();
    assert_eq!(state(&granted, 3), LeaseState::Active);
}

#[test]
fn the_queued_leases_of_a_token_that_admits_nobody_end_and_no_others() {
    let token = |number| TokenId::new(Uuid::from_u128(number));
    let standings = BTreeMap::from([
        (token(1), TokenStatus::Revoked),
        (token(2), TokenStatus::Expired),
        (token(3), TokenStatus::Valid),
    ]);
    let mut table = empty(rules());
    let mut ask = |number, token, prepare, candidates: &[CandidateMachine]| {
        let wanted = Lease { token, ..lease(number, prepare, Some(MINUTE * 10), at(0)) };
        table.apply(LeaseInput::Request(Box::new(wanted), candidates), at(0)).unwrap();
    };
    ask(1, Some(token(1)), false, &[machine(1, true)]);
    ask(2, Some(token(2)), true, &[machine(2, true)]);
    for (number, token) in
        [(3, Some(token(1))), (4, Some(token(2))), (5, Some(token(3))), (6, None)]
    {
        ask(number, token, false, &[machine(1, false)]);
    }
    let changes = table.apply(LeaseInput::TokenStandings(&standings), at(1)).unwrap();
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
fn a_queue_time_that_is_over_fails_the_lease() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, true, &[machine(1, false)], at(0)).unwrap();
    for asked in [100, 200, 300, 400, 500, 599] {
        table.record_poll(id(1), at(asked));
    }
    let changes = table.apply(LeaseInput::TimePassed, at(600)).unwrap();
    let ended = &changes.leases[&id(1)];
    assert_eq!(
        (ended.state, ended.error.as_ref().unwrap().kind),
        (LeaseState::Failed, FailureKind::NoFreeMachine)
    );
    assert_eq!(ended.end.as_ref().unwrap().reason, EndReason::QueueTimeout);
}

#[test]
fn the_time_of_a_lease_runs_from_when_it_is_active_and_its_end_is_warned_of() {
    let mut table = empty(rules());
    let asked = ask(&mut table, 1, true, false, &all(1), at(0)).unwrap();
    assert_eq!(
        (state(&asked, 1), asked.follow_ups),
        (LeaseState::Preparing, vec![FollowUp::Prepare(id(1))])
    );
    let active = table.apply(LeaseInput::PrepareFinished(id(1), Ok(())), at(600)).unwrap();
    assert_eq!(state(&active, 1), LeaseState::Active);
    assert_eq!(table.next_due(), Some(MINUTE * 34));
    let warned = table.apply(LeaseInput::TimePassed, at(600 + 24 * 60)).unwrap();
    assert_eq!(warned.follow_ups, [FollowUp::Warn(id(1))]);
    table.apply(LeaseInput::Renew(id(1), None), at(600 + 29 * 60)).unwrap();
    assert!(
        table.apply(LeaseInput::TimePassed, at(600 + 30 * 60)).unwrap().leases.is_empty(),
        "it was renewed"
    );
    let over = 600 + 59 * 60;
    table.apply(LeaseInput::TimePassed, at(over - 60)).unwrap();
    let expired = table.apply(LeaseInput::TimePassed, at(over)).unwrap();
    assert_eq!(
        (state(&expired, 1), expired.follow_ups),
        (LeaseState::Releasing, vec![FollowUp::Release(id(1))])
    );
    let freed = table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(over + 5)).unwrap();
    assert_eq!(state(&freed, 1), LeaseState::Expired);
    assert!(table.apply(LeaseInput::Renew(id(1), None), at(over + 6)).is_err());
}

#[test]
fn renewals_end_with_the_total() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    for minute in [25, 50, 75, 100, 115] {
        table.apply(LeaseInput::Renew(id(1), None), at(minute * 60)).unwrap();
    }
    let left = table.get(id(1)).unwrap().time_left_at(Duration::from_mins(115));
    assert_eq!((left.lease, left.total), (MINUTE * 5, MINUTE * 5));
    assert_eq!(
        state(&table.apply(LeaseInput::TimePassed, at(120 * 60)).unwrap(), 1),
        LeaseState::Releasing
    );
}

#[test]
fn a_renewal_takes_no_time_away_and_says_what_is_left() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    for (ttl, left) in [(MINUTE, "25m"), (MINUTE * 40, "40m")] {
        let renewed = table.apply(LeaseInput::Renew(id(1), Some(ttl)), at(5 * 60)).unwrap();
        assert_eq!(
            renewed.leases[&id(1)].history.last().unwrap().what,
            format!("renewed: {left} left")
        );
    }
    assert_eq!(table.get(id(1)).unwrap().time_left_at(Duration::from_mins(5)).lease, MINUTE * 40);
}

#[test]
fn a_failed_preparation_sets_the_machine_aside_and_tries_another_while_there_is_time() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    let failure = table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(5)).unwrap();
    assert_eq!(state(&failure, 1), LeaseState::Queued);
    let quarantine = table.ledger(&key(1)).unwrap().quarantine.clone().unwrap();
    assert!(
        quarantine.automatic && quarantine.reason.contains("as a test wanted"),
        "{quarantine:?}"
    );
    let again = table.apply(LeaseInput::GrantQueued(&all(2)), at(6)).unwrap();
    assert_eq!(again.leases[&id(1)].machine_name.as_deref(), Some("qubes-2"));
    table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(7)).unwrap();
    assert!(
        table.apply(LeaseInput::GrantQueued(&all(2)), at(8)).unwrap().leases.is_empty(),
        "both are set aside"
    );

    let mut table = empty(rules());
    ask(&mut table, 1, true, false, &all(2), at(0)).unwrap();
    let failure = table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(5)).unwrap();
    assert_eq!(
        (state(&failure, 1), &*failure.follow_ups),
        (LeaseState::Releasing, &[FollowUp::Release(id(1))][..])
    );
    let freed = table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(6)).unwrap();
    let ended = &freed.leases[&id(1)];
    assert_eq!(
        (ended.state, ended.error.as_ref().unwrap().kind),
        (LeaseState::Failed, FailureKind::HostRejected)
    );
}

#[test]
fn a_failed_release_sets_the_machine_aside_until_an_operator_clears_it() {
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
fn what_an_operator_said_of_a_machine_stays() {
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
fn a_machine_that_vanishes_fails_its_lease_and_comes_back_set_aside() {
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
                "it is there"
            );
            let changes = table.apply(LeaseInput::MachinesPresent(&gone), at(2)).unwrap();
            let ended = &changes.leases[&id(1)];
            assert_eq!(
                (ended.state, ended.end.as_ref().unwrap().reason),
                (LeaseState::Failed, EndReason::MachineGone)
            );
            assert!(
                changes.follow_ups.is_empty()
                    && table.ledger(&key(1)).unwrap().quarantine.is_some()
            );
        }
    }
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Released, at(1));
    let changes = table.apply(LeaseInput::MachinesPresent(&[]), at(2)).unwrap();
    assert_eq!(state(&changes, 1), LeaseState::Released, "it ends as it was ending");
    assert!(changes.leases[&id(1)].warnings[0].starts_with("qubes-1 is set aside: it vanished"));
}

#[test]
fn only_so_many_wait_and_who_does_not_wait_is_not_counted() {
    let mut table = empty(LeaseRules { max_queued: 1, ..rules() });
    let busy = [machine(1, false)];
    ask(&mut table, 1, false, true, &busy, at(0)).unwrap();
    assert_eq!(
        ask(&mut table, 2, false, true, &busy, at(1)).unwrap_err().kind,
        FailureKind::QueueFull
    );
    assert_eq!(
        ask(&mut table, 3, false, false, &busy, at(2)).unwrap_err().kind,
        FailureKind::NoFreeMachine
    );
    // Those who hold a machine wait no more.
    table.apply(LeaseInput::GrantQueued(&all(1)), at(3)).unwrap();
    ask(&mut table, 4, false, true, &busy, at(4)).unwrap();
}

#[test]
fn a_lease_that_failed_says_why() {
    let error = |changes: &TableChanges| {
        let failure = changes.leases[&id(1)].error.clone().unwrap();
        (failure.kind, failure.detail)
    };
    let mut table = empty(rules());
    ask(&mut table, 1, false, true, &[machine(1, false)], at(0)).unwrap();
    let (kind, detail) = error(&table.apply(LeaseInput::TimePassed, at(120)).unwrap());
    assert!(kind == FailureKind::LeaseFailed && detail.starts_with("Nobody asked"), "{detail}");

    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    let (kind, detail) = error(&table.apply(LeaseInput::MachinesPresent(&[]), at(1)).unwrap());
    assert!(kind == FailureKind::MachineGone && detail.starts_with("qubes-1 vanished"), "{detail}");

    // The step's own problem stays.
    let mut table = empty(rules());
    ask(&mut table, 1, true, false, &all(1), at(0)).unwrap();
    table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(1)).unwrap();
    let freed = table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(2)).unwrap();
    assert_eq!(error(&freed).1, "as a test wanted");
    // One that was given back did not fail.
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
fn a_jump_of_the_clock_notes_the_times_of_those_whose_time_runs() {
    let mut table = empty(rules());
    for (number, prepare, queue) in [(1, false, false), (2, true, false), (3, false, true)] {
        ask(&mut table, number, prepare, queue, &all(2), at(0)).unwrap();
    }
    let noted = table.apply(LeaseInput::ClockJumped, at(60)).unwrap();
    assert_eq!(noted.leases.keys().copied().collect::<Vec<_>>(), [id(1), id(3)]);
    let time = |number| noted.leases[&id(number)].time_left;
    assert_eq!(
        (time(1).lease, time(1).total, time(3).queue),
        (MINUTE * 29, MINUTE * 119, MINUTE * 9)
    );
    assert_eq!(noted.leases[&id(1)].measured_at, at(60).wall);
    assert!(
        table.apply(LeaseInput::TimePassed, at(61)).unwrap().leases.is_empty(),
        "a jump ends no lease"
    );
}

#[test]
fn what_changes_nothing_is_no_change() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, false, &all(1), at(0)).unwrap();
    let job = JobId::new(Uuid::from_u128(9));
    let working = || LeaseInput::JobStarted(id(1), LeaseState::Preparing, job);
    assert_eq!(table.apply(working(), at(1)).unwrap().leases.len(), 1);
    assert!(table.apply(working(), at(60)).unwrap().leases.is_empty(), "it is the job already");
    assert!(
        table.apply(LeaseInput::ClearQuarantine(key(1)), at(61)).unwrap().ledgers.is_empty(),
        "it is not set aside"
    );
    assert!(table.apply(LeaseInput::ClearQuarantine(key(9)), at(62)).unwrap().ledgers.is_empty());
    assert_eq!(table.ledger(&key(9)), None);
}

#[test]
fn the_job_of_a_lease_and_what_an_operator_did_to_it_are_told() {
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
fn the_job_of_a_preparation_that_the_release_overtook_is_not_the_job_of_the_release() {
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
fn a_release_that_nobody_asked_for_or_that_comes_twice_ends_nothing() {
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
    assert_eq!(renewed.kind, FailureKind::LeaseEnded);
}

#[test]
fn every_end_of_a_lease_is_the_same_when_it_is_asked_for_again() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, false, &all(1), at(0)).unwrap();
    let first = end(&mut table, 1, EndReason::Released, at(1));
    assert_eq!(first.follow_ups, [FollowUp::Release(id(1))]);
    let again = end(&mut table, 1, EndReason::Revoked, at(2));
    assert!(again.leases.is_empty() && again.follow_ups.is_empty());
    // A preparation that succeeds too late changes nothing.
    assert!(
        table.apply(LeaseInput::PrepareFinished(id(1), Ok(())), at(3)).unwrap().leases.is_empty()
    );
    assert_eq!(
        state(&table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(4)).unwrap(), 1),
        LeaseState::Released
    );
}

#[test]
fn a_jump_of_the_wall_clock_ends_no_lease_and_moves_the_end_that_is_shown() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    ask(&mut table, 2, false, true, &[machine(1, false)], at(0)).unwrap();
    let ends = |table: &LeaseTable| table.get(id(1)).unwrap().expiry().unwrap().0;
    for (seconds, hours) in [(10, 5), (20, -9)] {
        let jumped =
            Moment { wall: at(seconds).wall + SignedDuration::from_hours(hours), ..at(seconds) };
        let changes = table.apply(LeaseInput::TimePassed, jumped).unwrap();
        assert!(changes.leases.is_empty(), "{hours} hours end nothing");
        table.apply(LeaseInput::ClockJumped, jumped).unwrap();
        let left = SignedDuration::from_mins(30) - SignedDuration::from_secs(seconds.cast_signed());
        assert_eq!(ends(&table), jumped.wall + left);
        assert_eq!(table.get(id(2)).unwrap().lease.state, LeaseState::Queued);
    }
}

#[test]
fn downtime_counts_by_the_wall_clock_never_negative_and_leaves_a_grace() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    let kept = Lease::clone(&table.get(id(1)).unwrap().lease);
    let restored = |wall: u64| {
        let now = Moment { wall: at(wall).wall, elapsed: Duration::from_secs(7) };
        LeaseTable::from_stored(rules(), [kept.clone()], BTreeMap::new(), None, now)
            .get(id(1))
            .unwrap()
            .time_left_at(Duration::from_secs(7))
            .lease
    };
    assert_eq!(restored(600), MINUTE * 20);
    assert_eq!(restored(29 * 60 + 50), MINUTE, "the grace");
    assert_eq!(restored(86_400), MINUTE);
    let earlier =
        Moment { wall: at(0).wall - SignedDuration::from_hours(1), elapsed: Duration::ZERO };
    for (last_seen, left) in [(None, MINUTE * 30), (Some(at(600).wall), MINUTE * 20)] {
        let table =
            LeaseTable::from_stored(rules(), [kept.clone()], BTreeMap::new(), last_seen, earlier);
        let lease = table.get(id(1)).unwrap();
        assert_eq!(
            lease.time_left_at(Duration::ZERO).lease,
            left,
            "the last run counts: {last_seen:?}"
        );
    }
}

#[test]
fn after_a_restart_what_was_under_way_is_taken_up() {
    let mut table = empty(rules());
    for (number, prepare) in [(1, false), (2, true), (3, false)] {
        ask(&mut table, number, prepare, false, &all(3), at(0)).unwrap();
    }
    end(&mut table, 3, EndReason::Released, at(1));
    let leases: Vec<Lease> = table.open_leases().map(|open| Lease::clone(&open.lease)).collect();
    let restored = LeaseTable::from_stored(rules(), leases, table.ledgers().clone(), None, at(2));
    assert_eq!(restored.unfinished_work(), [FollowUp::Prepare(id(2)), FollowUp::Release(id(3))]);
}

#[test]
fn a_grant_gets_a_fence_above_the_floor_and_above_the_last_one_of_its_machine() {
    let known = |fence| (key(1), MachineLedger { fence, ..MachineLedger::default() });
    for (machines, floor, expected) in [
        (BTreeMap::new(), 0, 1),
        (BTreeMap::new(), 100, 101),
        (BTreeMap::from([known(7)]), 100, 101),
        (BTreeMap::from([known(200)]), 100, 201),
    ] {
        let mut table =
            LeaseTable::from_stored(rules(), [], machines, None, at(0)).with_fence_floor(floor);
        let changes = ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
        assert_eq!(changes.leases[&id(1)].fence, Some(expected));
        end(&mut table, 1, EndReason::Released, at(1));
        table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(1)).unwrap();
        let changes = ask(&mut table, 2, false, false, &all(1), at(2)).unwrap();
        assert_eq!(changes.leases[&id(2)].fence, Some(expected + 1));
    }
}

#[test]
fn a_machine_that_is_absent_for_long_is_forgotten_and_its_fence_never_comes_again() {
    let mut table = empty(rules());
    for number in 1..=3 {
        ask(&mut table, number, false, false, &all(3), at(0)).unwrap();
    }
    for number in 1..=3 {
        end(&mut table, number, EndReason::Released, at(1));
        table.apply(LeaseInput::ReleaseFinished(id(number), Ok(())), at(1)).unwrap();
    }
    let aside = Quarantine {
        reason: "its disk".to_owned(),
        by: "boss".to_owned(),
        since: at(2).wall,
        automatic: false,
        job: None,
    };
    table.apply(LeaseInput::QuarantineMachine(key(2), aside), at(2)).unwrap();
    let noted = table.apply(LeaseInput::ForgetAbsentMachines(&[identity(3)]), at(60)).unwrap();
    assert_eq!(noted.ledgers.keys().cloned().collect::<Vec<_>>(), [key(1), key(2)]);
    assert_eq!(noted.ledgers[&key(1)].absent_since, Some(at(60).wall));
    assert!(
        table.apply(LeaseInput::ForgetAbsentMachines(&[identity(3)]), at(120)).unwrap().is_empty(),
        "it is noted once"
    );
    // The third machine comes and goes: its absence begins again.
    table.apply(LeaseInput::ForgetAbsentMachines(&[]), at(180)).unwrap();
    table.apply(LeaseInput::ForgetAbsentMachines(&[identity(3)]), at(240)).unwrap();
    table.apply(LeaseInput::ForgetAbsentMachines(&[]), at(300)).unwrap();
    let over = table.apply(LeaseInput::ForgetAbsentMachines(&[]), at(60 + 60 * 60)).unwrap();
    assert_eq!((over.forgotten, over.fence_floor), (vec![key(1)], Some(1)));
    assert!(table.ledger(&key(2)).is_some(), "a quarantine is never forgotten");
    assert!(table.ledger(&key(3)).is_some(), "it has been absent for less than an hour");
    let back = ask(&mut table, 9, false, false, &[machine(1, true)], at(4_000)).unwrap();
    assert_eq!(back.leases[&id(9)].fence, Some(2));
}

#[test]
fn what_a_lease_holds_is_not_forgotten() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    for seconds in [1, 7_199] {
        assert_eq!(
            table.apply(LeaseInput::ForgetAbsentMachines(&[]), at(seconds)).unwrap().forgotten,
            []
        );
    }
}

#[test]
fn a_machine_is_in_the_pools_that_name_it_or_that_it_names() {
    let pool = |patterns: &[&str]| Pool {
        machines: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
        ..Pool::default()
    };
    let pools = Pools(BTreeMap::from([
        ("qubes".to_owned(), pool(&["qubes-*"])),
        ("seven".to_owned(), pool(&["7"])),
        ("none".to_owned(), pool(&[])),
    ]));
    let mut machine = samples::machine("7", "qubes-4.2");
    assert_eq!(pools.for_machine(&machine), ["qubes", "seven"]);
    machine.annotation =
        Some("made by hand\n  otter.pool:  nightly \notter.pool:\notter.pool: qubes".to_owned());
    assert_eq!(pools.for_machine(&machine), ["nightly", "qubes", "seven"]);
    assert_eq!(pools.for_machine(&samples::machine("8", "windows")), Vec::<String>::new());
}

/// A table in which the first machine is held by the first lease.
fn held(prepare: bool) -> (LeaseTable, Machine) {
    let machine = samples::machine("16", "qubes-1");
    let candidate = CandidateMachine { identity: machine.identity(), ..super::machine(1, true) };
    let mut table = empty(rules());
    ask(&mut table, 1, prepare, false, &[candidate], at(0)).unwrap();
    (table, machine)
}

fn admits(
    table: &LeaseTable,
    machine: &Machine,
    pass: Pass,
) -> Result<Option<LeaseId>, FailureKind> {
    let published = PublishedLeases::default();
    published.publish(table.clone());
    let caller = Caller::new("ci", Role::Operator);
    let admitted = published.admit(machine, &Right { caller, pass, override_reason: None });
    admitted.map(Admission::lease).map_err(|failure| failure.kind)
}

#[test]
fn a_preparation_that_comes_after_the_end_is_not_taken() {
    let (mut table, machine) = held(true);
    let own = |state| Pass::Own(id(1), state);
    assert_eq!(admits(&table, &machine, own(LeaseState::Preparing)), Ok(Some(id(1))));
    end(&mut table, 1, EndReason::Released, at(1));
    assert!(admits(&table, &machine, own(LeaseState::Preparing)).is_err());
    assert_eq!(admits(&table, &machine, own(LeaseState::Releasing)), Ok(Some(id(1))));
    table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(2)).unwrap();
    assert_eq!(admits(&table, &machine, own(LeaseState::Releasing)), Err(FailureKind::LeaseEnded));
}

#[test]
fn a_machine_that_came_to_the_id_of_another_is_not_its_holders() {
    let (table, machine) = held(false);
    assert_eq!(admits(&table, &machine, Pass::Lease(id(1))), Ok(Some(id(1))));
    assert_eq!(admits(&table, &machine, Pass::Nothing), Err(FailureKind::MachineLeased));
    let other = Machine { instance_uuid: Some("another".to_owned()), ..machine };
    assert_eq!(admits(&table, &other, Pass::Lease(id(1))), Err(FailureKind::MachineLeased));
    assert!(admits(&table, &other, Pass::Own(id(1), LeaseState::Active)).is_err());
    assert_eq!(admits(&table, &other, Pass::Nothing), Ok(None));
}

#[test]
fn a_machine_is_its_holders_also_while_another_lease_is_still_of_the_one_that_had_its_id() {
    // Whichever of the two the table has last.
    for (older, newer) in [(1, 2), (2, 1)] {
        let machine = samples::machine("16", "qubes-1");
        let other = Machine { instance_uuid: Some("another".to_owned()), ..machine.clone() };
        let mut table = empty(rules());
        for (number, machine) in [(older, &machine), (newer, &other)] {
            let candidate =
                CandidateMachine { identity: machine.identity(), ..super::machine(1, true) };
            ask(&mut table, number, false, false, &[candidate], at(0)).unwrap();
        }
        for (number, machine) in [(older, &machine), (newer, &other)] {
            assert_eq!(admits(&table, machine, Pass::Nothing), Err(FailureKind::MachineLeased));
            assert_eq!(admits(&table, machine, Pass::Lease(id(number))), Ok(Some(id(number))));
        }
    }
}

#[test]
fn an_ended_lease_is_told_so_whoever_holds_the_machine_now() {
    let (table, machine) = held(false);
    assert_eq!(admits(&table, &machine, Pass::Lease(id(9))), Err(FailureKind::LeaseEnded));
    assert_eq!(admits(&empty(rules()), &machine, Pass::Lease(id(9))), Err(FailureKind::LeaseEnded));
}

#[test]
fn a_machine_without_the_snapshot_is_passed_over() {
    let mut table = empty(rules());
    let mut wanted = lease(1, true, Some(MINUTE), at(0));
    wanted.release.snapshot = Some("kickstart".to_owned());
    let bare = CandidateMachine {
        missing_snapshots: BTreeSet::from(["kickstart".to_owned()]),
        ..machine(1, true)
    };
    let granted = table
        .apply(LeaseInput::Request(Box::new(wanted), &[bare, machine(2, true)]), at(0))
        .unwrap();
    assert_eq!(granted.leases[&id(1)].machine_name.as_deref(), Some("qubes-2"));
}

#[test]
fn who_did_not_ask_while_its_machine_was_prepared_is_not_dropped_at_once() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(1), at(0)).unwrap();
    table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(1_000)).unwrap();
    assert!(table.apply(LeaseInput::TimePassed, at(1_001)).unwrap().leases.is_empty());
    assert_eq!(table.get(id(1)).unwrap().lease.state, LeaseState::Queued);
}

#[test]
fn a_preparation_that_missed_its_machine_is_no_reason_to_try_another() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    let gone = Failure::new(FailureKind::MachineGone, "gone");
    let changes = table.apply(LeaseInput::PrepareFinished(id(1), Err(gone)), at(5)).unwrap();
    let ended = &changes.leases[&id(1)];
    assert_eq!(
        (ended.state, ended.end.as_ref().unwrap().reason),
        (LeaseState::Failed, EndReason::MachineGone)
    );
    assert!(changes.follow_ups.is_empty() && table.ledger(&key(1)).unwrap().quarantine.is_some());
}

#[test]
fn who_came_first_is_first_although_the_clock_went_back_at_a_restart() {
    let waiting = [9, 3].map(|number| lease(number, false, Some(MINUTE), at(0)));
    let mut table = LeaseTable::from_stored(rules(), waiting, BTreeMap::new(), None, at(0));
    assert_eq!((table.position(id(9)), table.position(id(3))), (Some(0), Some(1)));
    let changes = table.apply(LeaseInput::GrantQueued(&all(1)), at(1)).unwrap();
    assert_eq!(changes.leases.keys().collect::<Vec<_>>(), [&id(9)]);
}

#[test]
fn two_machines_of_one_identity_are_not_granted_side_by_side() {
    let waiting = [1, 2].map(|number| lease(number, false, Some(MINUTE), at(0)));
    let mut table = LeaseTable::from_stored(rules(), waiting, BTreeMap::new(), None, at(0));
    let mut copy = machine(1, true);
    copy.identity.id = MachineId::from_backend("99");
    let changes = table.apply(LeaseInput::GrantQueued(&[machine(1, true), copy]), at(1)).unwrap();
    assert_eq!(changes.leases.len(), 1);
}
