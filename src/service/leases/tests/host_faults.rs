//! Tests of faults of the host, the account and the licence, and of the recovery of machines.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    MINUTE, all, ask, at, empty, end, failed, host_failed, id, key, lease, machine, rules, state,
};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::MachineId;
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::service::leases::lease_table::{
    FollowUp, LeaseInput, LeaseRules, LeaseTable, MachineKey, RecoveryAttempt, TableChanges,
};

fn prepare_fails(table: &mut LeaseTable, number: u128, now: u64) -> TableChanges {
    table.apply(LeaseInput::PrepareFinished(id(number), Err(host_failed())), at(now)).unwrap()
}

fn attempt(machine: u32, lease: u128, number: u32) -> RecoveryAttempt {
    RecoveryAttempt { machine: key(machine), lease: id(lease), number }
}

fn recovered(table: &mut LeaseTable, machine: u32, lease: u128, now: u64) -> TableChanges {
    let attempt = attempt(machine, lease, 0);
    table.apply(LeaseInput::RecoveryFinished(attempt, Ok(())), at(now)).unwrap()
}

fn cancelled() -> Failure {
    Failure::new(FailureKind::JobCancelled, "The job was cancelled as requested.")
}

fn grant(table: &mut LeaseTable, count: u32, now: u64) -> Vec<String> {
    table.apply(LeaseInput::TimePassed, at(now)).unwrap();
    let changes = table.apply(LeaseInput::GrantQueued(&all(count)), at(now)).unwrap();
    changes.leases.values().filter_map(|lease| lease.machine_name.clone()).collect()
}

fn by_operator() -> Quarantine {
    Quarantine {
        reason: "mine".to_owned(),
        by: "boss".to_owned(),
        since: at(0).wall,
        automatic: false,
        job: None,
    }
}

#[test]
fn a_preparation_that_meets_a_fault_of_the_host_quarantines_nothing_and_keeps_its_place() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    ask(&mut table, 2, false, true, &[machine(3, false)], at(1)).unwrap();
    let changes = prepare_fails(&mut table, 1, 5);
    assert_eq!((state(&changes, 1), table.position(id(1))), (LeaseState::Queued, Some(0)));
    let ledger = table.ledger(&key(1)).unwrap();
    assert!(ledger.quarantine.is_none() && ledger.is_set_aside());
    assert_eq!(changes.follow_ups, [FollowUp::Recover(attempt(1, 1, 0), Duration::ZERO)]);
    let lease = &changes.leases[&id(1)];
    assert_eq!((lease.machine.as_ref(), lease.fence), (None, None));
    assert!(lease.history.iter().any(|entry| entry.what.contains("insufficient-resources")));
    // The lease gets another machine at once. The machine that was given back is granted only when
    // it has been released.
    let granted = table.apply(LeaseInput::GrantQueued(&all(2)), at(5)).unwrap();
    assert_eq!(granted.leases[&id(1)].machine_name.as_deref(), Some("qubes-2"));
    assert!(!granted.leases.contains_key(&id(2)));
    recovered(&mut table, 1, 1, 6);
    assert!(!table.ledger(&key(1)).unwrap().is_set_aside());
}

#[test]
fn the_pauses_grow_and_the_machine_that_failed_longest_ago_is_tried_first() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    let fail = |table: &mut LeaseTable, machine, now| {
        prepare_fails(table, 1, now);
        recovered(table, machine, 1, now);
    };
    fail(&mut table, 1, 10);
    assert_eq!(grant(&mut table, 2, 10), ["qubes-2"], "the other machine is tried at once");
    fail(&mut table, 2, 20);
    // After the second failure the lease waits 10 s, after the third 20 s, and after the fourth 40
    // s.
    assert!(grant(&mut table, 2, 29).is_empty());
    assert_eq!(grant(&mut table, 2, 30), ["qubes-1"]);
    fail(&mut table, 1, 31);
    assert!(grant(&mut table, 2, 50).is_empty());
    assert_eq!(grant(&mut table, 2, 51), ["qubes-2"]);
    fail(&mut table, 2, 52);
    assert!(grant(&mut table, 2, 91).is_empty());
    assert_eq!(grant(&mut table, 3, 92), ["qubes-3"], "it has not failed on this machine");
    // If the preparation succeeds, the faults that the lease met are forgotten.
    let active = table.apply(LeaseInput::PrepareFinished(id(1), Ok(())), at(93)).unwrap();
    assert_eq!((state(&active, 1), &active.leases[&id(1)].setback), (LeaseState::Active, &None));
}

#[test]
fn a_lease_fails_with_the_fault_if_its_queue_time_ends_or_if_it_may_not_wait() {
    let mut table = empty(rules());
    let request = lease(1, true, Some(Duration::from_secs(8)), at(0));
    table.apply(LeaseInput::Request(Box::new(request), &all(1)), at(0)).unwrap();
    prepare_fails(&mut table, 1, 1);
    let over = table.apply(LeaseInput::TimePassed, at(60)).unwrap();
    let ended = &over.leases[&id(1)];
    let (reason, error) = (ended.end.as_ref().unwrap().reason, ended.error.as_ref().unwrap());
    assert_eq!((ended.state, reason), (LeaseState::Failed, EndReason::PrepareFailed));
    assert_eq!(error.kind, FailureKind::InsufficientResources);
    assert_eq!(error.fault.as_ref().unwrap().name, "InsufficientResourcesFault");
    recovered(&mut table, 1, 1, 61);

    ask(&mut table, 2, true, false, &all(1), at(100)).unwrap();
    let failing = prepare_fails(&mut table, 2, 101);
    assert_eq!(state(&failing, 2), LeaseState::Releasing);
    assert_eq!(failing.follow_ups, [FollowUp::Release(id(2))]);
    let ended = table.apply(LeaseInput::ReleaseFinished(id(2), Ok(())), at(102)).unwrap();
    assert_eq!(state(&ended, 2), LeaseState::Failed);
    assert_eq!(
        ended.leases[&id(2)].error.as_ref().unwrap().kind,
        FailureKind::InsufficientResources
    );
    assert!(!table.ledger(&key(1)).unwrap().is_set_aside(), "the machine is free again");
}

#[test]
fn a_release_that_meets_a_fault_of_the_host_is_tried_again_until_it_succeeds() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Released, at(1));
    for (now, pause) in [(2, 5), (8, 10), (20, 20), (50, 40), (100, 60), (200, 60)] {
        let outcome = Err(host_failed());
        let again = table.apply(LeaseInput::ReleaseFinished(id(1), outcome), at(now)).unwrap();
        assert_eq!(state(&again, 1), LeaseState::Releasing);
        let pause = Duration::from_secs(pause);
        assert_eq!(again.follow_ups, [FollowUp::ReleaseAgain(id(1), pause)]);
        assert!(table.ledger(&key(1)).unwrap().quarantine.is_none());
    }
    let notes = &table.get(id(1)).unwrap().lease.history;
    let count = notes.iter().filter(|entry| entry.what.contains("tried again")).count();
    assert_eq!(count, 1, "the history does not grow with each attempt");
    let ended = table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(300)).unwrap();
    assert_eq!((state(&ended, 1), ended.leases[&id(1)].warnings.len()), (LeaseState::Released, 0));
}

#[test]
fn an_operator_ends_such_a_release_by_a_quarantine() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Expired, at(1));
    let quarantine = |table: &mut LeaseTable, now| {
        table.apply(LeaseInput::QuarantineMachine(key(1), by_operator()), at(now)).unwrap()
    };
    table.apply(LeaseInput::ReleaseFinished(id(1), Err(host_failed())), at(3)).unwrap();
    let changes = quarantine(&mut table, 4);
    let ended = &changes.leases[&id(1)];
    assert_eq!((ended.state, ended.warnings.len()), (LeaseState::Expired, 1));
    assert_eq!(table.ledger(&key(1)).unwrap().quarantine, Some(by_operator()));
    let late = table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(5)).unwrap();
    assert!(late.leases.is_empty() && late.ledgers.is_empty());
}

#[test]
fn a_quarantine_by_a_person_stops_what_otter_does_by_itself() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Released, at(1));
    let quarantine = |table: &mut LeaseTable, now| {
        table.apply(LeaseInput::QuarantineMachine(key(1), by_operator()), at(now)).unwrap()
    };
    assert!(quarantine(&mut table, 2).leases.is_empty(), "the release met no fault yet");
    let outcome = Err(host_failed());
    let ended = table.apply(LeaseInput::ReleaseFinished(id(1), outcome), at(3)).unwrap();
    assert_eq!((state(&ended, 1), ended.leases[&id(1)].warnings.len()), (LeaseState::Released, 1));
    assert_eq!(ended.follow_ups, []);

    for outcome in [host_failed(), cancelled(), failed()] {
        let mut table = empty(rules());
        ask(&mut table, 1, true, true, &all(1), at(0)).unwrap();
        quarantine(&mut table, 1);
        let finished = LeaseInput::PrepareFinished(id(1), Err(outcome));
        let queued = table.apply(finished, at(2)).unwrap();
        assert_eq!((state(&queued, 1), queued.follow_ups), (LeaseState::Queued, vec![]));
        let ledger = table.ledger(&key(1)).unwrap();
        assert_eq!((&ledger.quarantine, &ledger.recovery), (&Some(by_operator()), &None));
    }
}

#[test]
fn a_job_that_a_person_cancelled_gives_the_machine_back() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(1), at(0)).unwrap();
    let finished = LeaseInput::PrepareFinished(id(1), Err(cancelled()));
    let queued = table.apply(finished, at(1)).unwrap();
    assert_eq!((state(&queued, 1), &queued.leases[&id(1)].setback), (LeaseState::Queued, &None));
    assert_eq!(queued.follow_ups, [FollowUp::Recover(attempt(1, 1, 0), Duration::ZERO)]);
    let again = LeaseInput::RecoveryFinished(attempt(1, 1, 0), Err(cancelled()));
    let again = table.apply(again, at(2)).unwrap();
    assert_eq!(again.follow_ups, [FollowUp::Recover(attempt(1, 1, 1), Duration::from_secs(5))]);
    let ledger = table.ledger(&key(1)).unwrap();
    assert!(ledger.quarantine.is_none());
    let recovery = ledger.recovery.as_ref().unwrap();
    assert_eq!(recovery.machine.as_ref().unwrap().id, MachineId::from_backend("1"));

    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Released, at(1));
    let finished = LeaseInput::ReleaseFinished(id(1), Err(cancelled()));
    let ended = table.apply(finished, at(2)).unwrap();
    assert_eq!((state(&ended, 1), ended.leases[&id(1)].warnings.len()), (LeaseState::Released, 1));
    assert_eq!(ended.follow_ups, [FollowUp::Recover(attempt(1, 1, 0), Duration::ZERO)]);
    let ledger = table.ledger(&key(1)).unwrap();
    assert!(ledger.quarantine.is_none() && ledger.is_set_aside());
}

#[test]
fn a_success_ends_the_fault_of_its_own_pools_only() {
    let mut table = empty(rules());
    let machines = all(5);
    // Leases 1 to 4 get machines 1 to 4.
    for number in 1..=5 {
        ask(&mut table, number, true, false, &machines, at(0)).unwrap();
    }
    for number in 1..=4 {
        prepare_fails(&mut table, number, 1);
    }
    let has_fault = |table: &LeaseTable, one: u32, other: u32| {
        table.pool_fault([key(one), key(other)].iter()).is_some()
    };
    assert!(has_fault(&table, 1, 3) && has_fault(&table, 2, 4));
    table.apply(LeaseInput::PrepareFinished(id(5), Ok(())), at(2)).unwrap();
    assert!(!has_fault(&table, 1, 3), "the fifth machine is of this pool");
    assert!(has_fault(&table, 2, 4));
}

#[test]
fn all_leases_of_a_pool_wait_for_its_pause_which_grows_whoever_fails() {
    let mut table = empty(rules());
    let both = [machine(1, true), machine(3, true)];
    let fail_both = |table: &mut LeaseTable, now| {
        for number in 1..=2 {
            let held = table.get(id(number)).unwrap().lease.machine.clone().unwrap();
            prepare_fails(table, number, now);
            let attempt = RecoveryAttempt {
                machine: MachineKey::from_identity(&held),
                lease: id(number),
                number: 0,
            };
            table.apply(LeaseInput::RecoveryFinished(attempt, Ok(())), at(now)).unwrap();
        }
    };
    let grants = |table: &mut LeaseTable, now| {
        table.apply(LeaseInput::TimePassed, at(now)).unwrap();
        table.apply(LeaseInput::GrantQueued(&both), at(now)).unwrap().leases.len()
    };
    for number in 1..=2 {
        ask(&mut table, number, true, true, &both, at(0)).unwrap();
    }
    fail_both(&mut table, 1);
    assert_eq!((grants(&mut table, 5), grants(&mut table, 6)), (0, 2));
    // The first failure of a new lease in the pool gives the lease twice the last pause of the
    // pool, and not the shortest pause.
    end(&mut table, 1, EndReason::Released, at(7));
    table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(7)).unwrap();
    ask(&mut table, 3, true, true, &both, at(7)).unwrap();
    let held = table.get(id(3)).unwrap().lease.machine.is_some();
    assert!(held, "the pause of the pool is over");
    prepare_fails(&mut table, 3, 8);
    let pause = table.pool_fault([key(1), key(3)].iter()).unwrap().retry_at;
    assert_eq!(pause, at(18).wall, "10 s, twice the last pause of the pool");
}

#[test]
fn a_pool_has_the_fault_that_two_of_its_machines_met_and_its_grants_wait() {
    let mut table = empty(rules());
    let machines = || [key(1), key(3)];
    let fault = |table: &LeaseTable, keys: &[MachineKey]| table.pool_fault(keys.iter());
    ask(&mut table, 1, true, true, &[machine(1, true), machine(3, true)], at(0)).unwrap();
    prepare_fails(&mut table, 1, 10);
    recovered(&mut table, 1, 1, 10);
    assert_eq!(fault(&table, &machines()), None, "one machine met it");
    let both = [machine(1, true), machine(3, true)];
    let other = table.apply(LeaseInput::GrantQueued(&both), at(10)).unwrap();
    assert_eq!(other.leases[&id(1)].machine_name.as_deref(), Some("qubes-3"));
    prepare_fails(&mut table, 1, 20);
    recovered(&mut table, 3, 1, 20);
    let met = fault(&table, &machines()).unwrap();
    assert_eq!((met.code, met.since), (FailureKind::InsufficientResources, at(10).wall));
    assert_eq!(met.retry_at, at(30).wall);
    assert_eq!(met.detail, "the host has no memory");
    assert_eq!(fault(&table, &[key(1), key(2)]), None, "the other pool met it once");

    // During the pause of the pool, a queued lease with a preparation waits. A lease without a
    // preparation, or without queue time, does not wait.
    let queued = ask(&mut table, 2, true, true, &both, at(21)).unwrap();
    assert_eq!(state(&queued, 2), LeaseState::Queued);
    let plain = ask(&mut table, 3, false, true, &both, at(21)).unwrap();
    assert_eq!(state(&plain, 3), LeaseState::Active);
    let at_once = ask(&mut table, 4, true, false, &both, at(21)).unwrap();
    assert_eq!(state(&at_once, 4), LeaseState::Preparing);
    table.apply(LeaseInput::PrepareFinished(id(4), Ok(())), at(22)).unwrap();
    assert_eq!(fault(&table, &machines()), None, "a success shows that the host works");
}

#[test]
fn a_machine_that_otter_quarantined_is_released_again_after_growing_pauses() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    end(&mut table, 1, EndReason::Released, at(1));
    let outcome = Err(failed());
    let changes = table.apply(LeaseInput::ReleaseFinished(id(1), outcome), at(2)).unwrap();
    assert_eq!(changes.follow_ups, [FollowUp::Recover(attempt(1, 1, 0), MINUTE * 15)]);
    for (number, minutes) in [(0, 30), (1, 60), (2, 120), (3, 240), (4, 480), (5, 960), (6, 1_440)]
    {
        let finished = LeaseInput::RecoveryFinished(attempt(1, 1, number), Err(failed()));
        let again = table.apply(finished, at(100)).unwrap();
        let next = FollowUp::Recover(attempt(1, 1, number + 1), MINUTE * minutes);
        assert_eq!(again.follow_ups, [next]);
        assert!(table.ledger(&key(1)).unwrap().quarantine.is_some());
    }
    let late = LeaseInput::RecoveryFinished(attempt(1, 1, 3), Ok(()));
    assert!(table.apply(late, at(200)).unwrap().ledgers.is_empty(), "an earlier attempt");
    let last = LeaseInput::RecoveryFinished(attempt(1, 1, 7), Ok(()));
    table.apply(last, at(201)).unwrap();
    assert!(!table.ledger(&key(1)).unwrap().is_set_aside());
    ask(&mut table, 2, false, false, &all(1), at(202)).unwrap();
}

#[test]
fn without_a_retry_time_a_quarantine_stays_and_a_machine_is_given_back_all_the_same() {
    let never = LeaseRules { quarantine_retry: Duration::ZERO, ..rules() };
    let mut table = empty(never.clone());
    ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    let quarantined =
        table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(1)).unwrap();
    assert!(quarantined.follow_ups.is_empty());
    let granted = table.apply(LeaseInput::GrantQueued(&all(2)), at(1)).unwrap();
    assert_eq!(granted.leases[&id(1)].machine_name.as_deref(), Some("qubes-2"));
    let given_back = prepare_fails(&mut table, 1, 2);
    assert_eq!(given_back.follow_ups, [FollowUp::Recover(attempt(2, 1, 0), Duration::ZERO)]);
    let work = |rules| {
        let ledgers = super::ledgers(&table);
        LeaseTable::from_stored(rules, [], ledgers, None, at(3)).unfinished_work(at(3).wall)
    };
    assert_eq!(work(never), [FollowUp::Recover(attempt(2, 1, 0), Duration::ZERO)]);
    // If the setting changes from never to a pause, otter tries the recovery at the next start.
    assert_eq!(work(rules())[0], FollowUp::Recover(attempt(1, 1, 0), Duration::ZERO));
    assert_eq!(work(rules()).len(), 2);
}

#[test]
fn a_recovery_that_fails_by_the_machine_quarantines_it_and_a_fault_of_the_host_does_not() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(1), at(0)).unwrap();
    prepare_fails(&mut table, 1, 1);
    let refused = LeaseInput::RecoveryFinished(attempt(1, 1, 0), Err(host_failed()));
    let again = table.apply(refused, at(2)).unwrap();
    assert_eq!(again.follow_ups, [FollowUp::Recover(attempt(1, 1, 1), Duration::from_secs(5))]);
    assert!(table.ledger(&key(1)).unwrap().quarantine.is_none());
    let broken = LeaseInput::RecoveryFinished(attempt(1, 1, 1), Err(failed()));
    let quarantined = table.apply(broken, at(8)).unwrap();
    assert_eq!(quarantined.follow_ups, [FollowUp::Recover(attempt(1, 1, 2), MINUTE * 15)]);
    let quarantine = table.ledger(&key(1)).unwrap().quarantine.clone().unwrap();
    assert!(quarantine.automatic && quarantine.reason.contains("injected by the test"));
}

#[test]
fn operators_clear_what_otter_quarantined_and_not_what_people_did() {
    let mut table = empty(rules());
    for number in 1..=2 {
        ask(&mut table, number, false, false, &all(2), at(0)).unwrap();
        end(&mut table, number, EndReason::Released, at(1));
        let outcome = Err(failed());
        table.apply(LeaseInput::ReleaseFinished(id(number), outcome), at(2)).unwrap();
    }
    table.apply(LeaseInput::QuarantineMachine(key(2), by_operator()), at(3)).unwrap();
    let keys = [key(1), key(2), key(3)];
    let cleared = table.apply(LeaseInput::ClearAutomaticQuarantines(&keys), at(4)).unwrap();
    assert_eq!(cleared.ledgers.keys().collect::<Vec<_>>(), [&key(1)]);
    assert!(!table.ledger(&key(1)).unwrap().is_set_aside());
    assert_eq!(table.ledger(&key(2)).unwrap().quarantine, Some(by_operator()));
    // A machine that was given back is not quarantined. So lifting its quarantine does not make it
    // free.
    ask(&mut table, 3, true, true, &[machine(1, true)], at(5)).unwrap();
    prepare_fails(&mut table, 3, 6);
    table.apply(LeaseInput::ClearQuarantine(key(1)), at(7)).unwrap();
    assert!(table.ledger(&key(1)).unwrap().is_set_aside());
}

#[test]
fn a_restart_tries_at_once_and_remembers_the_failures() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(2), at(0)).unwrap();
    prepare_fails(&mut table, 1, 1);
    table.apply(LeaseInput::GrantQueued(&all(2)), at(1)).unwrap();
    prepare_fails(&mut table, 1, 2);
    let leases: Vec<Lease> = table.open_leases().map(|open| Lease::clone(&open.lease)).collect();
    let mut stored = LeaseTable::from_stored(rules(), leases, BTreeMap::new(), None, at(3));
    let met = stored.pool_fault([key(1), key(2)].iter()).unwrap();
    assert_eq!((met.code, met.since), (FailureKind::InsufficientResources, at(1).wall));
    let granted = stored.apply(LeaseInput::GrantQueued(&all(2)), at(3)).unwrap();
    assert_eq!(granted.leases[&id(1)].machine_name.as_deref(), Some("qubes-1"));
    let again =
        stored.apply(LeaseInput::PrepareFinished(id(1), Err(host_failed())), at(4)).unwrap();
    assert_eq!(again.leases[&id(1)].setback.as_ref().unwrap().attempts, 3);
}
