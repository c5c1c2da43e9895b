//! Tests of queue times, expiries, renewals, jumps of the wall clock, and restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::SignedDuration;

use super::{MINUTE, all, ask, at, empty, end, failed, id, ledgers, machine, rules, state};
use crate::domain::failure::FailureKind;
use crate::domain::lease::{EndReason, Lease, LeaseState};
use crate::service::jobs::deadline_clocks::Moment;
use crate::service::leases::lease_table::{FollowUp, LeaseInput, LeaseTable};

#[test]
fn the_end_of_the_queue_time_fails_the_lease() {
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
fn the_time_of_a_lease_begins_when_it_is_active_and_a_warning_precedes_its_end() {
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
        "the renewed lease has not expired"
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
fn renewals_do_not_exceed_the_total_time() {
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
fn a_renewal_never_shortens_the_lease_and_records_the_time_left() {
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
fn a_clock_jump_saves_the_times_of_queued_and_active_leases() {
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
fn a_clock_jump_ends_no_lease_and_moves_the_shown_expiry() {
    let mut table = empty(rules());
    ask(&mut table, 1, false, false, &all(1), at(0)).unwrap();
    ask(&mut table, 2, false, true, &[machine(1, false)], at(0)).unwrap();
    let ends = |table: &LeaseTable| table.get(id(1)).unwrap().expiry().unwrap().0;
    for (seconds, hours) in [(10, 5), (20, -9)] {
        let jumped =
            Moment { wall: at(seconds).wall + SignedDuration::from_hours(hours), ..at(seconds) };
        let changes = table.apply(LeaseInput::TimePassed, jumped).unwrap();
        assert!(changes.leases.is_empty(), "a jump by {hours} hours ends no lease");
        table.apply(LeaseInput::ClockJumped, jumped).unwrap();
        let left = SignedDuration::from_mins(30) - SignedDuration::from_secs(seconds.cast_signed());
        assert_eq!(ends(&table), jumped.wall + left);
        assert_eq!(table.get(id(2)).unwrap().lease.state, LeaseState::Queued);
    }
}

#[test]
fn downtime_counts_by_the_wall_clock_is_never_negative_and_leaves_the_grace() {
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
            "time counts until {last_seen:?}"
        );
    }
}

#[test]
fn after_a_restart_preparations_and_releases_continue() {
    let mut table = empty(rules());
    for (number, prepare) in [(1, false), (2, true), (3, false)] {
        ask(&mut table, number, prepare, false, &all(3), at(0)).unwrap();
    }
    end(&mut table, 3, EndReason::Released, at(1));
    let leases: Vec<Lease> = table.open_leases().map(|open| Lease::clone(&open.lease)).collect();
    let restored = LeaseTable::from_stored(rules(), leases, ledgers(&table), None, at(2));
    assert_eq!(
        restored.unfinished_work(at(2).wall),
        [FollowUp::Prepare(id(2)), FollowUp::Release(id(3))]
    );
}

#[test]
fn a_lease_queued_again_after_a_failed_preparation_is_not_abandoned_at_once() {
    let mut table = empty(rules());
    ask(&mut table, 1, true, true, &all(1), at(0)).unwrap();
    table.apply(LeaseInput::PrepareFinished(id(1), Err(failed())), at(1_000)).unwrap();
    assert!(table.apply(LeaseInput::TimePassed, at(1_001)).unwrap().leases.is_empty());
    assert_eq!(table.get(id(1)).unwrap().lease.state, LeaseState::Queued);
}
