//! Tests with random histories of the lease table, and the invariants that must hold in each of
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::{
    MINUTE, at, empty, failed, host_failed, identity, key, lease, ledgers, machine, rules,
};
use crate::domain::failure::Failure;
use crate::domain::ids::LeaseId;
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::domain::machine::MachineIdentity;
use crate::service::jobs::deadline_clocks::Moment;
use crate::service::leases::lease_table::{
    LeaseInput, LeaseRules, LeaseTable, MachineKey, RecoveryAttempt, TableChanges,
};
use crate::service::leases::matching::{CandidateMachine, Selection};

/// One event of a random history of the lease table.
#[derive(Clone, Debug)]
enum RandomEvent {
    Request { prepare: bool, queue: bool, odd: bool },
    Busy(u32),
    Idle(u32),
    GrantQueued,
    End { which: usize, revoke: bool },
    PrepareFinished { which: usize, outcome: Outcome },
    ReleaseFinished { which: usize, outcome: Outcome },
    RecoveryFinished { machine: u32, outcome: Outcome },
    MachineRemoved(u32),
    MachineReturns(u32),
    ForgetAbsentMachines,
    QuarantineMachine(u32),
    ClearQuarantine(u32),
    Renew(usize),
    Poll(usize),
    TimePasses(u16),
    Restart(u16),
}

/// How a preparation or a release ends.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Success,
    Failure,
    HostFault,
}

impl Outcome {
    fn result(self) -> Result<(), Failure> {
        match self {
            Self::Success => Ok(()),
            Self::Failure => Err(failed()),
            Self::HostFault => Err(host_failed()),
        }
    }
}

fn random_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Success),
        1 => Just(Outcome::Failure),
        1 => Just(Outcome::HostFault),
    ]
}

fn random_event() -> impl Strategy<Value = RandomEvent> {
    let machine = 1..=4_u32;
    prop_oneof![
        4 => (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(prepare, queue, odd)| RandomEvent::Request { prepare, queue, odd }),
        1 => machine.clone().prop_map(RandomEvent::Busy),
        1 => machine.clone().prop_map(RandomEvent::Idle),
        2 => Just(RandomEvent::GrantQueued),
        2 => (0..8_usize, any::<bool>())
            .prop_map(|(which, revoke)| RandomEvent::End { which, revoke }),
        3 => (0..8_usize, random_outcome())
            .prop_map(|(which, outcome)| RandomEvent::PrepareFinished { which, outcome }),
        3 => (0..8_usize, random_outcome())
            .prop_map(|(which, outcome)| RandomEvent::ReleaseFinished { which, outcome }),
        3 => (machine.clone(), random_outcome())
            .prop_map(|(machine, outcome)| RandomEvent::RecoveryFinished { machine, outcome }),
        1 => machine.clone().prop_map(RandomEvent::MachineRemoved),
        1 => machine.clone().prop_map(RandomEvent::MachineReturns),
        1 => Just(RandomEvent::ForgetAbsentMachines),
        1 => machine.clone().prop_map(RandomEvent::QuarantineMachine),
        1 => machine.prop_map(RandomEvent::ClearQuarantine),
        1 => (0..8_usize).prop_map(RandomEvent::Renew),
        1 => (0..8_usize).prop_map(RandomEvent::Poll),
        2 => (0..2_000_u16).prop_map(RandomEvent::TimePasses),
        1 => (0..2_000_u16).prop_map(RandomEvent::Restart),
    ]
}

/// The lease table, the machines of a host, and what the invariants must know about earlier events.
struct Model {
    table: LeaseTable,
    now: Moment,
    next: u128,
    busy: BTreeSet<u32>,
    present: BTreeSet<u32>,
    fences: BTreeMap<MachineKey, u64>,
    ended: BTreeMap<LeaseId, LeaseState>,
}

impl Model {
    fn new(rules: LeaseRules) -> Self {
        Self {
            table: empty(rules),
            now: at(0),
            next: 0,
            busy: BTreeSet::new(),
            present: (1..=4).collect(),
            fences: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    fn candidates(&self) -> Vec<CandidateMachine> {
        self.present.iter().map(|number| machine(*number, !self.busy.contains(number))).collect()
    }

    fn pick(&self, which: usize) -> Option<LeaseId> {
        let open: Vec<LeaseId> = self.table.open_leases().map(|open| open.lease.id).collect();
        (!open.is_empty()).then(|| open[which % open.len()])
    }

    /// The next attempt to release a machine that no lease holds. `None` if the machine has no such
    /// release.
    fn attempt(&self, number: u32) -> Option<RecoveryAttempt> {
        let recovery = self.table.ledger(&key(number))?.recovery.as_ref()?;
        Some(RecoveryAttempt::new(key(number), recovery))
    }

    fn is_held(&self, machine: &MachineKey) -> bool {
        self.table.open_leases().any(|open| {
            let held = open.lease.machine.as_ref().map(MachineKey::from_identity);
            open.lease.state.holds_machine() && held.as_ref() == Some(machine)
        })
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each kind of event")]
    fn apply(&mut self, event: &RandomEvent) -> Result<(), String> {
        let candidates = self.candidates();
        let now = self.now;
        let apply = |table: &mut LeaseTable, input: LeaseInput<'_>| table.apply(input, now);
        let outcome = match event.clone() {
            RandomEvent::Request { prepare, queue, odd } => {
                self.next += 1;
                let mut new = lease(self.next, prepare, queue.then_some(MINUTE * 10), now);
                if odd {
                    new.select.pool = Some("odd".to_owned());
                }
                apply(&mut self.table, LeaseInput::Request(Box::new(new), &candidates))
            }
            RandomEvent::Busy(number) => {
                self.busy.insert(number);
                Ok(TableChanges::default())
            }
            RandomEvent::Idle(number) => {
                self.busy.remove(&number);
                Ok(TableChanges::default())
            }
            RandomEvent::GrantQueued => {
                apply(&mut self.table, LeaseInput::GrantQueued(&candidates))
            }
            RandomEvent::End { which, revoke } => match self.pick(which) {
                Some(id) => {
                    let reason = if revoke { EndReason::Revoked } else { EndReason::Released };
                    apply(
                        &mut self.table,
                        LeaseInput::End { id, reason, by: "ci".to_owned(), detail: None },
                    )
                }
                None => Ok(TableChanges::default()),
            },
            RandomEvent::PrepareFinished { which, outcome } => match self.pick(which) {
                Some(id) => {
                    apply(&mut self.table, LeaseInput::PrepareFinished(id, outcome.result()))
                }
                None => Ok(TableChanges::default()),
            },
            RandomEvent::ReleaseFinished { which, outcome } => match self.pick(which) {
                Some(id) => {
                    apply(&mut self.table, LeaseInput::ReleaseFinished(id, outcome.result()))
                }
                None => Ok(TableChanges::default()),
            },
            RandomEvent::RecoveryFinished { machine, outcome } => match self.attempt(machine) {
                // Skip the event while a lease holds the machine, because the job of a recovery is
                // then not authorized.
                Some(attempt) if !self.is_held(&attempt.machine) => {
                    apply(&mut self.table, LeaseInput::RecoveryFinished(attempt, outcome.result()))
                }
                _ => Ok(TableChanges::default()),
            },
            RandomEvent::MachineRemoved(number) => {
                self.present.remove(&number);
                let present: Vec<MachineIdentity> =
                    self.present.iter().map(|number| identity(*number)).collect();
                apply(&mut self.table, LeaseInput::MachinesPresent(&present))
            }
            RandomEvent::MachineReturns(number) => {
                self.present.insert(number);
                Ok(TableChanges::default())
            }
            RandomEvent::ForgetAbsentMachines => {
                let present: Vec<MachineIdentity> =
                    self.present.iter().map(|number| identity(*number)).collect();
                apply(&mut self.table, LeaseInput::ForgetAbsentMachines(&present))
            }
            RandomEvent::QuarantineMachine(number) => {
                let quarantine = Quarantine {
                    reason: "r".to_owned(),
                    by: "b".to_owned(),
                    since: now.wall,
                    automatic: false,
                    job: None,
                };
                apply(&mut self.table, LeaseInput::QuarantineMachine(key(number), quarantine))
            }
            RandomEvent::ClearQuarantine(number) => {
                apply(&mut self.table, LeaseInput::ClearQuarantine(key(number)))
            }
            RandomEvent::Renew(which) => match self.pick(which) {
                Some(id) => apply(&mut self.table, LeaseInput::Renew(id, None)),
                None => Ok(TableChanges::default()),
            },
            RandomEvent::Poll(which) => {
                if let Some(id) = self.pick(which) {
                    self.table.record_poll(id, self.now);
                }
                Ok(TableChanges::default())
            }
            RandomEvent::TimePasses(seconds) => {
                self.now.elapsed += Duration::from_secs(seconds.into());
                self.now.wall += SignedDuration::from_secs(seconds.into());
                self.table.apply(LeaseInput::TimePassed, self.now)
            }
            RandomEvent::Restart(seconds) => {
                let leases: Vec<Lease> =
                    self.table.open_leases().map(|open| Lease::clone(&open.lease)).collect();
                let machines = ledgers(&self.table);
                self.now = Moment {
                    wall: self.now.wall + SignedDuration::from_secs(seconds.into()),
                    elapsed: Duration::ZERO,
                };
                let floor = self.table.fence_floor();
                self.table = LeaseTable::from_stored(rules(), leases, machines, None, self.now)
                    .with_fence_floor(floor);
                Ok(TableChanges::default())
            }
        };
        self.check(&outcome.unwrap_or_default())
    }

    fn check(&mut self, changes: &TableChanges) -> Result<(), String> {
        let mut holders: BTreeMap<MachineKey, LeaseId> = BTreeMap::new();
        for open in self.table.open_leases() {
            let lease = &open.lease;
            if lease.state.is_end() {
                return Err(format!("{} has ended and is in the table", lease.id));
            }
            if let Some(machine) = lease.machine.as_ref().filter(|_| lease.state.holds_machine()) {
                if let Some(other) = holders.insert(MachineKey::from_identity(machine), lease.id) {
                    return Err(format!("{machine:?} is held by {} and {other}", lease.id));
                }
            } else if lease.state.holds_machine() {
                return Err(format!("{} is {:?} without a machine", lease.id, lease.state));
            }
            if lease.state.holds_machine() != lease.fence.is_some() {
                return Err(format!(
                    "{}: it must have a fence if it holds a machine, and only then",
                    lease.id
                ));
            }
        }
        for (id, lease) in &changes.leases {
            if let Some(end) = self.ended.get(id) {
                return Err(format!("{id} ended {end:?} and changed afterwards"));
            }
            if lease.state.is_end() {
                self.ended.insert(*id, lease.state);
                if lease.end.as_ref().map(|end| end.reason.state()) != Some(lease.state) {
                    return Err(format!(
                        "{id} ended {:?}, which is not the state of its reason",
                        lease.state
                    ));
                }
            }
        }
        // Look only at ledgers with a fence. A ledger has none if the machine's old ledger was
        // deleted and the machine was quarantined after that, until the next grant.
        for (machine, ledger) in self.table.ledgers().filter(|(_, ledger)| ledger.fence > 0) {
            let before = self.fences.insert(machine.clone(), ledger.fence).unwrap_or(0);
            if ledger.fence < before {
                return Err(format!(
                    "the fence of {machine:?} went from {before} to {}",
                    ledger.fence
                ));
            }
        }
        for (id, lease) in &changes.leases {
            let grants_before =
                lease.state == LeaseState::Preparing || lease.state == LeaseState::Active;
            let fence = lease.fence.unwrap_or_default();
            let ledger = lease
                .machine
                .as_ref()
                .and_then(|machine| self.table.ledger(&MachineKey::from_identity(machine)));
            if grants_before
                && changes.ledgers.len() == 1
                && lease.history.last().is_some_and(|last| last.what.starts_with("granted"))
                && ledger.is_some_and(|ledger| ledger.recovery.is_some())
            {
                return Err(format!("{id} was granted a machine that is not released yet"));
            }
            if grants_before
                && lease
                    .machine
                    .as_ref()
                    .and_then(|machine| self.table.ledger(&MachineKey::from_identity(machine)))
                    .map(|ledger| ledger.fence)
                    != Some(fence)
            {
                return Err(format!("{id} does not have the newest fence of its machine"));
            }
        }
        Ok(())
    }

    /// Whether a pool of this machine waits for the end of a fault of the host.
    fn is_pool_waiting(&self, machine: &CandidateMachine) -> bool {
        machine.pools.iter().any(|pool| {
            let others = self.candidates().into_iter().filter(|other| other.pools.contains(pool));
            let keys: Vec<MachineKey> =
                others.map(|other| MachineKey::from_identity(&other.identity)).collect();
            let fault = self.table.pool_fault(keys.iter());
            fault.is_some_and(|fault| fault.retry_at > self.now.wall)
        })
    }

    /// Grants machines. Checks that no lease got a machine that also matches an earlier lease which
    /// is still queued.
    fn check_fairness(&mut self) -> Result<(), String> {
        let candidates = self.candidates();
        let queued: Vec<LeaseId> = self
            .table
            .open_leases()
            .filter(|open| open.lease.state == LeaseState::Queued)
            .map(|open| open.lease.id)
            .collect();
        let changes =
            self.table.apply(LeaseInput::GrantQueued(&candidates), self.now).unwrap_or_default();
        for (place, id) in queued.iter().enumerate() {
            let still_queued =
                self.table.get(*id).filter(|open| open.lease.state == LeaseState::Queued);
            let Some(open) = still_queued else { continue };
            // An earlier lease that met a fault of the host may stay queued, because it waits until
            // it is tried again.
            if open.lease.setback.is_some() {
                continue;
            }
            for later in &queued[place + 1..] {
                let Some(granted) =
                    changes.leases.get(later).and_then(|lease| lease.machine.clone())
                else {
                    continue;
                };
                let taken = candidates.iter().find(|candidate| candidate.identity == granted);
                // An earlier lease with a preparation may stay queued, because it also waits for
                // the end of a pause of the machine's pool.
                let may_wait = |candidate: &CandidateMachine| {
                    open.lease.prepare.is_some() && self.is_pool_waiting(candidate)
                };
                let taken = taken.filter(|candidate| !may_wait(candidate));
                if taken.is_some_and(|candidate| {
                    Selection::new(&open.lease, std::slice::from_ref(candidate)).includes(candidate)
                }) {
                    return Err(format!(
                        "{later} was granted a machine that matches the earlier {id}"
                    ));
                }
            }
        }
        self.check(&changes)
    }

    /// Checks that every lease ends if all preparations and releases succeed and time passes.
    fn check_end(&mut self) -> Result<(), String> {
        for _ in 0..50 {
            let open: Vec<(LeaseId, LeaseState)> =
                self.table.open_leases().map(|open| (open.lease.id, open.lease.state)).collect();
            if open.is_empty() {
                return Ok(());
            }
            for (id, state) in open {
                let input = match state {
                    LeaseState::Preparing => LeaseInput::PrepareFinished(id, Ok(())),
                    LeaseState::Releasing => LeaseInput::ReleaseFinished(id, Ok(())),
                    _ => continue,
                };
                let changes =
                    self.table.apply(input, self.now).map_err(|failure| failure.detail)?;
                self.check(&changes)?;
            }
            self.apply(&RandomEvent::TimePasses(1_800))?;
        }
        Err("a lease does not end".to_owned())
    }
}

fn check_history(rules: LeaseRules, history: &[RandomEvent]) -> Result<(), String> {
    let mut model = Model::new(rules);
    for event in history {
        model.apply(event)?;
        model.check_fairness()?;
    }
    model.check_end()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn in_every_history_a_machine_has_one_holder_and_every_lease_ends(
        history in proptest::collection::vec(random_event(), 1..60)
    ) {
        prop_assert_eq!(check_history(rules(), &history), Ok(()));
    }
}
