//! Whatever happens in whatever order: what must always hold of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::SignedDuration;
use proptest::prelude::*;

use super::{MINUTE, at, empty, failed, identity, key, lease, machine, rules};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{EndReason, Lease, LeaseState, Quarantine};
use crate::domain::machine::MachineIdentity;
use crate::service::jobs::clocks::Moment;
use crate::service::leases::lease_table::{
    LeaseInput, LeaseRules, LeaseTable, MachineKey, MachineLedger, TableChanges,
};
use crate::service::leases::matching::{CandidateMachine, Selection};

/// One thing that happens in a random history.
#[derive(Clone, Debug)]
enum Happening {
    Ask { prepare: bool, queue: bool, odd: bool },
    Busy(u32),
    Idle(u32),
    Look,
    End { which: usize, revoke: bool },
    Prepared { which: usize, well: bool },
    Freed { which: usize, well: bool },
    Vanish(u32),
    Appear(u32),
    Forget,
    SetAside(u32),
    Clear(u32),
    Renew(usize),
    Asked(usize),
    Pass(u16),
    Restart(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    let machine = 1..=4_u32;
    prop_oneof![
        4 => (any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(prepare, queue, odd)| Happening::Ask { prepare, queue, odd }),
        1 => machine.clone().prop_map(Happening::Busy),
        1 => machine.clone().prop_map(Happening::Idle),
        2 => Just(Happening::Look),
        2 => (0..8_usize, any::<bool>())
            .prop_map(|(which, revoke)| Happening::End { which, revoke }),
        3 => (0..8_usize, any::<bool>())
            .prop_map(|(which, well)| Happening::Prepared { which, well }),
        3 => (0..8_usize, any::<bool>())
            .prop_map(|(which, well)| Happening::Freed { which, well }),
        1 => machine.clone().prop_map(Happening::Vanish),
        1 => machine.clone().prop_map(Happening::Appear),
        1 => Just(Happening::Forget),
        1 => machine.clone().prop_map(Happening::SetAside),
        1 => machine.prop_map(Happening::Clear),
        1 => (0..8_usize).prop_map(Happening::Renew),
        1 => (0..8_usize).prop_map(Happening::Asked),
        2 => (0..2_000_u16).prop_map(Happening::Pass),
        1 => (0..2_000_u16).prop_map(Happening::Restart),
    ]
}

/// A small world around the table, and what must hold of it.
struct Model {
    table: LeaseTable,
    now: Moment,
    next: u128,
    busy: BTreeSet<u32>,
    there: BTreeSet<u32>,
    fences: BTreeMap<MachineKey, u64>,
    ended: BTreeMap<LeaseId, LeaseState>,
    /// In order of arrival: who waits, and for which machines.
    asked: Vec<LeaseId>,
}

impl Model {
    fn new(rules: LeaseRules) -> Self {
        Self {
            table: empty(rules),
            now: at(0),
            next: 0,
            busy: BTreeSet::new(),
            there: (1..=4).collect(),
            fences: BTreeMap::new(),
            ended: BTreeMap::new(),
            asked: Vec::new(),
        }
    }

    fn candidates(&self) -> Vec<CandidateMachine> {
        self.there.iter().map(|number| machine(*number, !self.busy.contains(number))).collect()
    }

    fn pick(&self, which: usize) -> Option<LeaseId> {
        let open: Vec<LeaseId> = self.table.open_leases().map(|open| open.lease.id).collect();
        (!open.is_empty()).then(|| open[which % open.len()])
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each kind of event")]
    fn happen(&mut self, happening: &Happening) -> Result<(), String> {
        let candidates = self.candidates();
        let now = self.now;
        let step = |table: &mut LeaseTable, input: LeaseInput<'_>| table.apply(input, now);
        let outcome = match happening.clone() {
            Happening::Ask { prepare, queue, odd } => {
                self.next += 1;
                let mut wanted = lease(self.next, prepare, queue.then_some(MINUTE * 10), now);
                if odd {
                    wanted.select.pool = Some("odd".to_owned());
                }
                let asked = wanted.id;
                let outcome =
                    step(&mut self.table, LeaseInput::Request(Box::new(wanted), &candidates));
                if outcome.is_ok() {
                    self.asked.push(asked);
                }
                outcome
            }
            Happening::Busy(number) => {
                self.busy.insert(number);
                Ok(TableChanges::default())
            }
            Happening::Idle(number) => {
                self.busy.remove(&number);
                Ok(TableChanges::default())
            }
            Happening::Look => step(&mut self.table, LeaseInput::GrantQueued(&candidates)),
            Happening::End { which, revoke } => match self.pick(which) {
                Some(id) => {
                    let reason = if revoke { EndReason::Revoked } else { EndReason::Released };
                    step(
                        &mut self.table,
                        LeaseInput::End { id, reason, by: "ci".to_owned(), detail: None },
                    )
                }
                None => Ok(TableChanges::default()),
            },
            Happening::Prepared { which, well } => match self.pick(which) {
                Some(id) => step(
                    &mut self.table,
                    LeaseInput::PrepareFinished(id, if well { Ok(()) } else { Err(failed()) }),
                ),
                None => Ok(TableChanges::default()),
            },
            Happening::Freed { which, well } => match self.pick(which) {
                Some(id) => step(
                    &mut self.table,
                    LeaseInput::ReleaseFinished(id, if well { Ok(()) } else { Err(failed()) }),
                ),
                None => Ok(TableChanges::default()),
            },
            Happening::Vanish(number) => {
                self.there.remove(&number);
                let there: Vec<MachineIdentity> =
                    self.there.iter().map(|number| identity(*number)).collect();
                step(&mut self.table, LeaseInput::MachinesPresent(&there))
            }
            Happening::Appear(number) => {
                self.there.insert(number);
                Ok(TableChanges::default())
            }
            Happening::Forget => {
                let there: Vec<MachineIdentity> =
                    self.there.iter().map(|number| identity(*number)).collect();
                step(&mut self.table, LeaseInput::ForgetAbsentMachines(&there))
            }
            Happening::SetAside(number) => {
                let quarantine = Quarantine {
                    reason: "r".to_owned(),
                    by: "b".to_owned(),
                    since: now.wall,
                    automatic: false,
                    job: None,
                };
                step(&mut self.table, LeaseInput::QuarantineMachine(key(number), quarantine))
            }
            Happening::Clear(number) => {
                step(&mut self.table, LeaseInput::ClearQuarantine(key(number)))
            }
            Happening::Renew(which) => match self.pick(which) {
                Some(id) => step(&mut self.table, LeaseInput::Renew(id, None)),
                None => Ok(TableChanges::default()),
            },
            Happening::Asked(which) => {
                if let Some(id) = self.pick(which) {
                    self.table.record_poll(id, self.now);
                }
                Ok(TableChanges::default())
            }
            Happening::Pass(seconds) => {
                self.now.elapsed += Duration::from_secs(seconds.into());
                self.now.wall += SignedDuration::from_secs(seconds.into());
                self.table.apply(LeaseInput::TimePassed, self.now)
            }
            Happening::Restart(seconds) => {
                let leases: Vec<Lease> =
                    self.table.open_leases().map(|open| Lease::clone(&open.lease)).collect();
                let machines: BTreeMap<MachineKey, MachineLedger> = self.table.ledgers().clone();
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
                return Err(format!("{} has ended and is still open", lease.id));
            }
            if let Some(machine) = lease.machine.as_ref().filter(|_| lease.state.holds_machine()) {
                if let Some(other) = holders.insert(MachineKey::from_identity(machine), lease.id) {
                    return Err(format!("{machine:?} is held by {} and {other}", lease.id));
                }
            } else if lease.state.holds_machine() {
                return Err(format!("{} published nothing", lease.id));
            }
            if lease.state.holds_machine() != lease.fence.is_some() {
                return Err(format!("{} has no fence, or a fence and no machine", lease.id));
            }
        }
        for (id, lease) in &changes.leases {
            if let Some(end) = self.ended.get(id) {
                return Err(format!("{id} ended {end:?} and changed after it"));
            }
            if lease.state.is_end() {
                self.ended.insert(*id, lease.state);
                if lease.end.as_ref().map(|end| end.reason.state()) != Some(lease.state) {
                    return Err(format!("{id} ended {:?} for another reason", lease.state));
                }
            }
        }
        // A machine that was forgotten and is quarantined again has no fence until its next grant.
        for (machine, kept) in self.table.ledgers().iter().filter(|(_, kept)| kept.fence > 0) {
            let before = self.fences.insert(machine.clone(), kept.fence).unwrap_or(0);
            if kept.fence < before {
                return Err(format!(
                    "the fence of {machine:?} went from {before} to {}",
                    kept.fence
                ));
            }
        }
        for (id, lease) in &changes.leases {
            let grants_before =
                lease.state == LeaseState::Preparing || lease.state == LeaseState::Active;
            let fence = lease.fence.unwrap_or_default();
            if grants_before
                && lease
                    .machine
                    .as_ref()
                    .and_then(|machine| self.table.ledger(&MachineKey::from_identity(machine)))
                    .map(|kept| kept.fence)
                    != Some(fence)
            {
                return Err(format!("{id} has not its machine's newest fence"));
            }
        }
        Ok(())
    }

    /// Nothing that waits was passed over while a machine that it could have had went to one who
    /// came later.
    fn fair(&mut self) -> Result<(), String> {
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
            let passed_over =
                self.table.get(*id).filter(|open| open.lease.state == LeaseState::Queued);
            let Some(open) = passed_over else { continue };
            for later in &queued[place + 1..] {
                let Some(granted) =
                    changes.leases.get(later).and_then(|lease| lease.machine.clone())
                else {
                    continue;
                };
                let taken = candidates.iter().find(|candidate| candidate.identity == granted);
                if taken.is_some_and(|candidate| {
                    Selection::new(&open.lease, std::slice::from_ref(candidate)).includes(candidate)
                }) {
                    return Err(format!("{later} was given what {id} waited for"));
                }
            }
        }
        self.check(&changes)
    }

    /// With time and luck every lease ends, and no machine is left neither free nor set aside.
    fn comes_to_an_end(&mut self) -> Result<(), String> {
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
            self.happen(&Happening::Pass(1_800))?;
        }
        Err("some lease never ends".to_owned())
    }
}

fn run(rules: LeaseRules, history: &[Happening]) -> Result<(), String> {
    let mut model = Model::new(rules);
    for happening in history {
        model.happen(happening)?;
        model.fair()?;
    }
    model.comes_to_an_end()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_no_machine_has_two_holders_and_every_lease_ends(
        history in proptest::collection::vec(happening(), 1..60)
    ) {
        prop_assert_eq!(run(rules(), &history), Ok(()));
    }
}
