//! Tests of attempts to grant machines. An attempt decides by classes of leases, and a request
//! looks only at what it can change. Both must have the same results as looking at each lease. The
//! tests also show that the number of entries that a change copies does not depend on the number of
//! leases.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{MINUTE, ask, at, empty, id, lease, machine, rules};
use crate::domain::lease::{EndReason, Lease};
use crate::domain::pool::{LimitScope, RunningLimits, ScopedLimits};
use crate::service::leases::capacity::Capacity;
use crate::service::leases::lease_table::{
    LeaseBlocker, LeaseInput, LeaseRules, LeaseTable, MachineKey, TableChanges,
};
use crate::service::leases::matching::{CandidateMachine, Selection, missing_snapshot};

/// A machine of a random host: whether it is free, whether it runs, its memory in GiB, and whether
/// the limits of the host and of its pool apply to it.
type RandomMachine = (bool, bool, u64, bool, bool);

fn random_machine() -> impl Strategy<Value = RandomMachine> {
    (any::<bool>(), any::<bool>(), 1..4_u64, any::<bool>(), any::<bool>())
}

fn random_limits() -> impl Strategy<Value = RunningLimits> {
    let limits = (proptest::option::of(1..5_u32), proptest::option::of(2..9_u64));
    limits.prop_map(|(max_running, gibibytes)| RunningLimits {
        max_running,
        max_memory_bytes: gibibytes.map(|gibibytes| gibibytes << 30),
    })
}

fn candidates(
    machines: &[RandomMachine],
    host: RunningLimits,
    pool: RunningLimits,
) -> Vec<CandidateMachine> {
    let candidate = |(number, random): (u32, &RandomMachine)| {
        let (free, running, gibibytes, has_host_limit, has_pool_limit) = *random;
        let plain = machine(number, free);
        let of_pool =
            ScopedLimits { scope: LimitScope::Pool(plain.pools[0].clone()), limits: pool };
        let of_host = ScopedLimits { scope: LimitScope::Host, limits: host };
        let limits = [(has_host_limit, of_host), (has_pool_limit, of_pool)];
        CandidateMachine {
            // A machine that is on is never free. So a random machine that is free is never on.
            running: running && !free,
            memory_bytes: gibibytes << 30,
            limits: limits.into_iter().filter_map(|(has, limits)| has.then_some(limits)).collect(),
            ..plain
        }
    };
    (1..).zip(machines).map(candidate).collect()
}

/// A queued lease with one of several selections.
fn random_lease(number: u128, selection: u32) -> Lease {
    let mut lease = lease(number, false, Some(MINUTE * 10), at(0));
    match selection {
        0 => {}
        1 => lease.select.pool = Some("odd".to_owned()),
        2 => lease.select.pool = Some("even".to_owned()),
        3 => lease.select.memory_bytes_at_least = Some(2 << 30),
        4 => lease.release.snapshot = Some("none has it".to_owned()),
        5 => lease.select.exclude = vec!["1".parse().unwrap(), "name:qubes-2".parse().unwrap()],
        other => lease.select.machine = Some((other - 5).to_string().parse().unwrap()),
    }
    lease
}

/// The expected result for each lease: the machine that it gets, or why it gets none. Decides the
/// leases one by one in order of arrival, without classes.
fn one_by_one(
    leases: &[Lease],
    candidates: &[CandidateMachine],
) -> Vec<Result<MachineKey, LeaseBlocker>> {
    let mut free: Vec<&CandidateMachine> =
        candidates.iter().filter(|machine| machine.free).collect();
    let mut capacity = Capacity::new(candidates, |_| false);
    let mut decide = |lease: &Lease| {
        let selection = Selection::new(lease, candidates);
        let matches = |machine: &&&CandidateMachine| {
            selection.includes(machine) && missing_snapshot(lease, machine).is_none()
        };
        let matching: Vec<&CandidateMachine> = free.iter().filter(matches).copied().collect();
        let granted = matching.iter().find(|machine| capacity.obstacle(machine).is_none());
        if let Some(granted) = granted {
            capacity.take(granted);
            free.retain(|machine| machine.key != granted.key);
            return Ok(granted.key.clone());
        }
        let limit = matching.iter().find_map(|machine| capacity.obstacle(machine));
        for machine in matching {
            capacity.reserve(machine);
        }
        Err(limit.map_or(LeaseBlocker::NoFreeMachine, LeaseBlocker::Limit))
    };
    leases.iter().map(&mut decide).collect()
}

/// The result for each lease in the table: the machine that it got, or why it got none.
fn results(table: &LeaseTable, leases: &[Lease]) -> Vec<Result<MachineKey, LeaseBlocker>> {
    let result = |lease: &Lease| match &table.get(lease.id).unwrap().lease.machine {
        Some(machine) => Ok(MachineKey::from_identity(machine)),
        None => Err(table.blocked_by(lease.id).unwrap()),
    };
    leases.iter().map(result).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_attempt_by_classes_has_the_results_of_looking_at_each_lease(
        machines in proptest::collection::vec(random_machine(), 1..9),
        (host, pool) in (random_limits(), random_limits()),
        selections in proptest::collection::vec(0..12_u32, 1..16),
        request in 0..12_u32,
    ) {
        let candidates = candidates(&machines, host, pool);
        let leases: Vec<Lease> =
            (1..).zip(&selections).map(|(number, of)| random_lease(number, *of)).collect();
        let mut table = LeaseTable::from_stored(rules(), leases.clone(), [], None, at(0));
        table.apply(LeaseInput::GrantQueued(&candidates), at(1)).unwrap();
        prop_assert_eq!(results(&table, &leases), one_by_one(&leases, &candidates));

        // A second attempt grants no machine. After it, a request for a lease looks only at what
        // the request can change.
        let again = table.apply(LeaseInput::GrantQueued(&candidates), at(2)).unwrap();
        prop_assert!(again.is_empty());
        let mut complete = table.clone();
        table.set_evaluated(Some(1));
        complete.set_evaluated(None);
        let new = random_lease(1_000, request);
        let ask = |table: &mut LeaseTable| {
            let input = LeaseInput::Request(Box::new(new.clone()), &candidates);
            let changes = table.apply(input, at(3));
            changes.map(|changes: TableChanges| changes.leases).map_err(|failure| failure.kind)
        };
        prop_assert_eq!(ask(&mut table), ask(&mut complete));
        let open_leases = complete.open_leases();
        let all: Vec<Lease> = open_leases.map(|open| Lease::clone(&open.lease)).collect();
        prop_assert_eq!(results(&table, &all), results(&complete, &all));
    }
}

/// The number of entries that each kind of change copies, in a table with `count` queued leases.
fn copied(count: u128) -> BTreeMap<&'static str, usize> {
    let mut table = empty(LeaseRules { max_queued: 100_000, ..rules() });
    let machines = [machine(1, true), machine(2, false)];
    ask(&mut table, count + 1, false, false, &machines, at(0)).unwrap();
    for number in 1..=count {
        ask(&mut table, number, false, true, &machines, at(0)).unwrap();
    }
    let middle = id(count / 2);
    let inputs = [
        ("nothing", LeaseInput::GrantQueued(&machines)),
        ("time without an end", LeaseInput::TimePassed),
        (
            "request",
            LeaseInput::Request(Box::new(lease(count + 2, false, Some(MINUTE), at(1))), &machines),
        ),
        ("renewal", LeaseInput::Renew(id(count + 1), Some(MINUTE * 40))),
        ("end", {
            let (reason, by) = (EndReason::Released, "ci".to_owned());
            LeaseInput::End { id: middle, reason, by, detail: None }
        }),
    ];
    let copied = inputs.into_iter().map(|(name, input)| {
        let mut changed = table.clone();
        changed.apply(input, at(1)).unwrap();
        (name, changed.copied_since(&table))
    });
    copied.collect()
}

#[test]
fn a_change_copies_as_many_entries_with_few_leases_as_with_ten_thousand() {
    let (few, many) = (copied(1_000), copied(10_000));
    for (name, count) in &many {
        let at_most = match *name {
            "nothing" | "time without an end" => 0,
            // The bound is one full chunk, which has 128 entries, for the table and for each of its
            // six indexes.
            _ => 7 * 128,
        };
        assert!(*count <= at_most && few[name] <= at_most, "{name}: {count}, {}", few[name]);
    }
}
