//! Tests of the deletion of ledgers.

use super::{all, ask, at, empty, end, id, identity, key, machine, rules};
use crate::domain::lease::{EndReason, Quarantine};
use crate::service::leases::lease_table::LeaseInput;

#[test]
fn the_ledger_of_an_absent_machine_is_deleted_and_its_fence_is_not_reused() {
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
        "the absence is recorded once"
    );
    // The third machine returns and leaves again, so the time of its absence begins again.
    table.apply(LeaseInput::ForgetAbsentMachines(&[]), at(180)).unwrap();
    table.apply(LeaseInput::ForgetAbsentMachines(&[identity(3)]), at(240)).unwrap();
    table.apply(LeaseInput::ForgetAbsentMachines(&[]), at(300)).unwrap();
    let over = table.apply(LeaseInput::ForgetAbsentMachines(&[]), at(60 + 60 * 60)).unwrap();
    assert_eq!((over.forgotten, over.fence_floor), (vec![key(1)], Some(1)));
    assert!(table.ledger(&key(2)).is_some(), "a quarantined machine keeps its ledger");
    assert!(table.ledger(&key(3)).is_some(), "it has been absent for less than an hour");
    let back = ask(&mut table, 9, false, false, &[machine(1, true)], at(4_000)).unwrap();
    assert_eq!(back.leases[&id(9)].fence, Some(2));
}

#[test]
fn the_ledger_of_a_leased_machine_is_not_deleted() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    for seconds in [1, 7_199] {
        assert_eq!(
            table.apply(LeaseInput::ForgetAbsentMachines(&[]), at(seconds)).unwrap().forgotten,
            []
        );
    }
}
