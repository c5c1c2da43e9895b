//! Those who ask for leases, renew them and give them back, and operators: with and without a key, and again where no
//! answer came.

use std::time::Duration;

use super::Simulation;
use super::disk::scope;
use super::random::Random;
use crate::domain::access::TokenLimits;
use crate::domain::ids::{LeaseId, MachineId};
use crate::domain::lease::{EndReason, Lease, Prepare, Quarantine, Release, Select, Wanted};
use crate::domain::machine_reference::MachineReference;
use crate::domain::origin::RequestOrigin;
use crate::domain::power::PowerState;
use crate::domain::scope::Scope;
use crate::service::jobs::gate::Pass;
use crate::service::leases::book::MachineKey;
use crate::service::leases::stepped::Stepped;
use crate::storage::IdempotencyKey;

/// A lease that is asked for with a key, and no answer heard of yet.
pub type Asking = (Box<Lease>, IdempotencyKey);

impl Simulation {
    /// A client, or an operator, does something with leases.
    pub fn lease_acts(&mut self, client: usize) {
        if self.clients[client].asking.is_some() && self.random.percent(50) {
            return self.ask_again(client);
        }
        let own = self.clients[client].leases.clone();
        // One that does not ask any more is a waiter that vanished.
        if self.random.percent(70) {
            for id in &own {
                self.order(Stepped::Asked(*id), None);
            }
        }
        let mine = self.random.pick(&own).copied();
        let end =
            |id, reason: EndReason| Stepped::End { id, reason, by: "somebody".to_owned(), detail: None };
        match (self.random.below(12), mine) {
            (0..=4, _) | (5..=9, None) => self.ask_for_lease(client),
            (5 | 6, Some(id)) => {
                let ttl = self.random.percent(50).then(|| Duration::from_secs(1 + self.random.below(200)));
                self.order(Stepped::Renew(id, ttl), None);
            }
            (7..=9, Some(id)) => self.order(end(id, EndReason::Released), None),
            (10, _) => {
                let open: Vec<LeaseId> = self.disk.leases.keys().copied().collect();
                if let Some(id) = self.random.pick(&open).copied() {
                    self.order(end(id, EndReason::Revoked), None);
                }
            }
            _ => {
                let Some(otter) = &self.otter else { return };
                let Some(record) = self.random.pick(&otter.picture.machines).cloned() else { return };
                let (key, id) = (MachineKey::of(&record.machine.identity()), record.machine.id.clone());
                let (reason, by, since) = ("broken".to_owned(), "operator".to_owned(), self.wall());
                let quarantine = Quarantine { reason, by, since, automatic: false, job: None };
                let step = match self.random.below(4) {
                    0 => Stepped::SetAside(key, quarantine, id),
                    _ => Stepped::Clear(key, id),
                };
                self.order(step, None);
            }
        }
    }

    /// What came of asking for this lease: which one the caller has; none where it was refused.
    pub fn hears(
        &mut self,
        client: usize,
        asked: LeaseId,
        key: Option<&IdempotencyKey>,
        lease: Option<LeaseId>,
    ) {
        if self.random.percent(self.temper.lost_answer) {
            return;
        }
        self.trace.note(self.now, || format!("client {client} asked for {asked} and hears {lease:?}"));
        let asking = &mut self.clients[client].asking;
        if asking.as_ref().is_some_and(|(_, mine)| Some(mine) == key) {
            *asking = None;
        }
        if let Some(lease) = lease {
            self.tenancy.answered(key.map(scope), lease, &self.disk);
            self.clients[client].leases.push(lease);
        }
    }

    /// Asks once more with the key of what no answer was heard of, now and then by mistake for something else.
    fn ask_again(&mut self, client: usize) {
        let Some((lease, mut key)) = self.clients[client].asking.clone() else { return };
        let lease = Box::new(Lease { id: self.next_lease(), ..*lease });
        if self.random.percent(5) {
            key.fingerprint[0] ^= 1;
        }
        self.order(Stepped::Ask { lease, key: Some(key), limits: TokenLimits::default() }, Some(client));
    }

    fn next_lease(&mut self) -> LeaseId {
        let wall = self.wall();
        // As a UUID of version 7 that never goes back in one life.
        let milliseconds = u64::try_from(wall.as_millisecond()).unwrap_or_default();
        let (life, last) = self.last_lease;
        let at = if life == u64::from(self.lives) { milliseconds.max(last + 1) } else { milliseconds };
        self.last_lease = (u64::from(self.lives), at);
        let number = self.disk.lease_arrivals.len() as u64 + self.random.next() % 1_000_000;
        LeaseId::new(uuid::Uuid::from_u64_pair(at, number))
    }

    fn ask_for_lease(&mut self, client: usize) {
        let wall = self.wall();
        let id = self.next_lease();
        let random = &mut self.random;
        let select = match random.below(4) {
            0 => Select {
                machine: Some(MachineReference::Id(MachineId::from_backend(
                    (16 + random.below(4)).to_string(),
                ))),
                ..Select::default()
            },
            1 => Select { name: Some("machine-1".to_owned()), ..Select::default() },
            _ => Select { pool: Some("ci".to_owned()), ..Select::default() },
        };
        let snapshot = |random: &mut Random| {
            random.percent(40).then(|| if random.percent(50) { "base" } else { "kickstart" }.to_owned())
        };
        let prepare = random.percent(60).then(|| Prepare {
            snapshot: snapshot(random),
            power: random.percent(60).then_some(PowerState::On),
            ..Prepare::default()
        });
        let release = Release { keep_power: random.percent(15), snapshot: snapshot(random) };
        let queue_for = random.percent(70).then(|| Duration::from_secs(1 + random.below(300)));
        let ttl = Duration::from_secs(1 + random.below(90));
        let lease = Lease::queued(Wanted {
            id,
            select,
            scope: Scope::All,
            holder: format!("client {client}"),
            requested_by: "anonymous".to_owned(),
            token: None,
            origin: RequestOrigin::default(),
            reference: None,
            ttl,
            max_total: Duration::from_mins(20),
            queue_for,
            prepare,
            release,
            created_at: wall,
        });
        let key = random.percent(60).then(|| IdempotencyKey {
            caller: "anonymous".to_owned(),
            method: "POST".to_owned(),
            path: "/v1/leases".to_owned(),
            key: format!("lease-{}", random.next() % 1_000_000),
            fingerprint: [0; 32],
            created_at: wall,
        });
        let lease = Box::new(lease);
        self.clients[client].asking = key.clone().map(|key| (lease.clone(), key));
        self.order(Stepped::Ask { lease, key, limits: TokenLimits::default() }, Some(client));
    }

    /// By what right a client calls, and on which machine.
    pub fn some_pass(&mut self, client: usize, machine: MachineId) -> (Pass, Option<String>, MachineId) {
        let own = self.clients[client].leases.clone();
        match self.random.pick(&own).copied().filter(|_| self.random.percent(60)) {
            Some(id) => {
                let held = self.disk.leases.get(&id).and_then(|lease| lease.machine.as_ref());
                (Pass::Lease(id), None, held.map_or(machine, |held| held.id.clone()))
            }
            None if self.random.percent(5) => (Pass::Nothing, Some("must be".to_owned()), machine),
            None => (Pass::Nothing, None, machine),
        }
    }
}
