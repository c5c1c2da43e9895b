//! Tests of requests for leases, of the queue, and of grants.

use std::collections::BTreeMap;

use super::{MINUTE, all, ask, at, empty, end, id, key, lease, machine, rules, state};
use crate::domain::failure::FailureKind;
use crate::domain::ids::MachineId;
use crate::domain::lease::{EndReason, LeaseState};
use crate::domain::pool::{LimitScope, Pool, Pools, RunningLimits, ScopedLimits};
use crate::service::inventory::samples;
use crate::service::leases::lease_table::{
    LeaseBlocker, LeaseInput, LeaseRules, LeaseTable, MachineLedger,
};
use crate::service::leases::matching::CandidateMachine;

#[test]
fn a_free_machine_is_granted_at_once_and_only_once() {
    let mut table = empty(rules());
    let first = ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    assert_eq!(state(&first, 1), LeaseState::Active);
    assert_eq!(first.leases[&id(1)].fence, Some(1));
    let refused = ask(&mut table, 2, false, false, &all(1), at(1)).unwrap_err();
    assert_eq!(refused.kind, FailureKind::NoFreeMachine);
    assert!(table.get(id(2)).is_none(), "the failed request leaves no lease");
    let queued = ask(&mut table, 3, false, true, &all(1), at(2)).unwrap();
    assert_eq!((state(&queued, 3), table.position(id(3))), (LeaseState::Queued, Some(0)));
}

#[test]
fn a_request_that_no_machine_matches_fails_even_with_queue_time() {
    let mut table = empty(rules());
    let mut request = lease(1, false, Some(MINUTE), at(0));
    request.select.name = Some("windows".to_owned());
    let refused = table.apply(LeaseInput::Request(Box::new(request), &all(3)), at(0)).unwrap_err();
    assert_eq!(refused.kind, FailureKind::NoFreeMachine);
    let excluded: Vec<CandidateMachine> =
        all(3).into_iter().map(|machine| CandidateMachine { excluded: true, ..machine }).collect();
    assert!(ask(&mut table, 2, false, true, &excluded, at(0)).is_err());
}

#[test]
fn the_machine_whose_last_lease_ended_longest_ago_is_granted_first() {
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
fn a_queued_lease_without_a_free_match_does_not_block_later_ones() {
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
fn a_released_lease_leaves_the_queue_and_an_unpolled_one_is_abandoned() {
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
fn the_queue_limit_counts_only_queued_leases() {
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
    // A lease that is granted a machine leaves the queue, so that another lease can be queued.
    table.apply(LeaseInput::GrantQueued(&all(1)), at(3)).unwrap();
    ask(&mut table, 4, false, true, &busy, at(4)).unwrap();
}

#[test]
fn a_grant_gets_a_fence_above_the_floor_and_above_the_last_fence_of_its_machine() {
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
fn a_machine_is_in_the_pools_of_the_configuration_and_of_its_annotation() {
    let pool = |patterns: &[&str]| Pool {
        machines: patterns.iter().map(|pattern| pattern.parse().unwrap()).collect(),
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

#[test]
fn a_machine_without_the_required_snapshot_is_not_granted() {
    let mut table = empty(rules());
    let mut request = lease(1, true, Some(MINUTE), at(0));
    request.release.snapshot = Some("kickstart".to_owned());
    let mut complete = machine(2, true);
    complete.snapshots.items.push(samples::snapshot("s-1", "kickstart", None));
    let granted = table
        .apply(LeaseInput::Request(Box::new(request), &[machine(1, true), complete]), at(0))
        .unwrap();
    assert_eq!(granted.leases[&id(1)].machine_name.as_deref(), Some("qubes-2"));
}

#[test]
fn the_queue_keeps_its_order_after_a_restart_with_an_earlier_clock() {
    let waiting = [9, 3].map(|number| lease(number, false, Some(MINUTE), at(0)));
    let mut table = LeaseTable::from_stored(rules(), waiting, BTreeMap::new(), None, at(0));
    assert_eq!((table.position(id(9)), table.position(id(3))), (Some(0), Some(1)));
    let changes = table.apply(LeaseInput::GrantQueued(&all(1)), at(1)).unwrap();
    assert_eq!(changes.leases.keys().collect::<Vec<_>>(), [&id(9)]);
}

#[test]
fn of_two_machines_with_one_identity_only_one_is_granted() {
    let waiting = [1, 2].map(|number| lease(number, false, Some(MINUTE), at(0)));
    let mut table = LeaseTable::from_stored(rules(), waiting, BTreeMap::new(), None, at(0));
    let mut copy = machine(1, true);
    copy.identity.id = MachineId::from_backend("99");
    let changes = table.apply(LeaseInput::GrantQueued(&[machine(1, true), copy]), at(1)).unwrap();
    assert_eq!(changes.leases.len(), 1);
}

#[test]
fn a_lease_waits_for_a_limit_and_later_ones_do_not_overtake_it() {
    let limits = RunningLimits { max_running: Some(1), max_memory_bytes: None };
    let limited = |number, free| CandidateMachine {
        limits: vec![ScopedLimits { scope: LimitScope::Pool("ci".to_owned()), limits }],
        ..machine(number, free)
    };
    let machines = [limited(1, true), limited(2, true), machine(3, false)];
    let mut table = empty(rules());
    ask(&mut table, 1, false, true, &machines, at(0)).unwrap();
    let refused = ask(&mut table, 2, false, false, &machines, at(1)).unwrap_err();
    assert!(refused.detail.contains("the pool ci runs at most 1 machine"), "{refused}");
    assert!(table.get(id(2)).is_none());
    for number in [3, 4] {
        ask(&mut table, number, false, true, &machines, at(2)).unwrap();
        let open = table.get(id(number)).unwrap();
        assert_eq!(open.lease.state, LeaseState::Queued);
        let blocked_by = table.blocked_by(id(number));
        let Some(LeaseBlocker::Limit(limit)) = blocked_by else { panic!("{blocked_by:?}") };
        assert_eq!(limit.pool(), Some("ci"));
    }
    // The first queued lease gets the machine to which no limit applies.
    let changes = table
        .apply(
            LeaseInput::GrantQueued(&[limited(1, true), limited(2, true), machine(3, true)]),
            at(3),
        )
        .unwrap();
    assert_eq!(changes.leases.keys().collect::<Vec<_>>(), [&id(3)]);
    end(&mut table, 1, EndReason::Released, at(4));
    // The machine of a lease that has ended counts towards the limit until its release is done.
    assert!(table.apply(LeaseInput::GrantQueued(&machines), at(5)).unwrap().leases.is_empty());
    table.apply(LeaseInput::ReleaseFinished(id(1), Ok(())), at(6)).unwrap();
    let changes = table.apply(LeaseInput::GrantQueued(&machines), at(7)).unwrap();
    assert_eq!(state(&changes, 4), LeaseState::Active);
    assert_eq!(changes.leases[&id(4)].machine_name.as_deref(), Some("qubes-2"));
}

#[test]
fn the_pool_of_a_lease_of_several_pools_is_that_of_its_machine() {
    let mut table = empty(rules());
    let mut request = lease(1, false, None, at(0));
    request.select.pools = ["other", "even", "odd"].map(str::to_owned).to_vec();
    let granted =
        table.apply(LeaseInput::Request(Box::new(request), &[machine(2, true)]), at(0)).unwrap();
    assert_eq!(granted.leases[&id(1)].pool.as_deref(), Some("even"));
}
