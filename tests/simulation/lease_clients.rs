//! Clients that request, poll, renew and end leases, and operators that quarantine machines.

use std::sync::atomic::Ordering;
use std::time::Duration;

use otter::domain::access::{Role, TokenLimits};
use otter::domain::ids::{LeaseId, MachineId};
use otter::domain::lease::{EndReason, LeaseState, Prepare, Readiness, Release, Select};
use otter::domain::machine_reference::MachineReference;
use otter::domain::power::PowerState;
use otter::service::callers::Caller;
use otter::service::leases::{NewLease, RequestedLease};
use otter::storage::IdempotencyKey;

use super::clients::Client;
use super::committed::scope;
use super::random::Random;

/// A request with an idempotency key that has no response yet.
pub type PendingRequest = NewLease;

/// The caller whose token limits its leases.
pub const LIMITED_CALLER: &str = "client-1";
pub const MAX_LEASES: u32 = 2;

/// The caller of this name, with its limits.
pub fn caller(name: &str) -> Caller {
    let leases = Some(MAX_LEASES).filter(|_| name == LIMITED_CALLER);
    let limits = TokenLimits { leases, queued_leases: leases, ..TokenLimits::default() };
    Caller { limits, ..Caller::new(name, Role::Admin) }
}

impl Client {
    /// Makes one random call about leases.
    pub async fn use_leases(&mut self) {
        if let Some(mut pending) = self.pending_request.clone()
            && self.random(|random| random.percent(50))
        {
            // Sometimes the repeat has another body.
            if let Some(key) =
                pending.key.as_mut().filter(|_| self.random(|random| random.percent(5)))
            {
                key.fingerprint[0] ^= 1;
            }
            return self.request_lease(pending).await;
        }
        // A client that stops polling abandons its queued leases.
        if self.random(|random| random.percent(70)) {
            self.poll_own_leases().await;
        }
        let (lease, choice) =
            self.random(|random| (random.pick(&self.leases).copied(), random.below(12)));
        match (choice, lease) {
            (0..=4, _) | (5..=9, None) => {
                let new = self.some_request();
                self.request_lease(new).await;
            }
            (5 | 6, Some(id)) => self.renew(id).await,
            (7..=9, Some(id)) => self.end(id, EndReason::Released).await,
            (10, _) => {
                let all: Vec<LeaseId> =
                    self.run.checker.state().disk.leases.keys().copied().collect();
                if let Some(id) = self.random(|random| random.pick(&all).copied()) {
                    self.end(id, EndReason::Revoked).await;
                }
            }
            _ => self.change_some_quarantine().await,
        }
    }

    async fn request_lease(&mut self, new: NewLease) {
        self.run.checker.trace(|| {
            let key = new.key.as_ref().map_or("no key", |key| key.key.as_str());
            format!("{} requests a lease ({key}): {:?}", self.caller.name, new.select)
        });
        self.pending_request = Some(new.clone()).filter(|new| new.key.is_some());
        let (caller, key) = (self.caller.clone(), new.key.clone());
        let requested = self
            .run
            .ask(move |services| async move { services.leases.request(&caller, new).await });
        let Some(requested) = requested.await else { return };
        self.pending_request = None;
        let lease = match requested {
            Ok(RequestedLease::New(view)) => view.lease.id,
            Ok(RequestedLease::Existing(view)) => {
                self.run.repeated.fetch_add(1, Ordering::Relaxed);
                view.lease.id
            }
            Err(failure) => {
                return self
                    .run
                    .checker
                    .trace(|| format!("{} gets {:?}", self.caller.name, failure.kind));
            }
        };
        self.run.checker.trace(|| format!("{} gets {lease}", self.caller.name));
        if !self.leases.contains(&lease) {
            self.leases.push(lease);
        }
        let mut seen = self.run.checker.state();
        let super::invariant_checker::CheckerState { lease_invariants, disk, .. } = &mut *seen;
        lease_invariants.answered(key.as_ref().map(scope), lease, disk);
    }

    /// Polls the leases of this client, or waits for them.
    async fn poll_own_leases(&mut self) {
        let (own, caller) = (self.leases.clone(), self.caller.clone());
        let waits = self.random(|random| random.percent(20));
        let ended = self.run.ask(move |services| async move {
            let mut ended = Vec::new();
            for id in own {
                let view = if waits {
                    services.leases.wait_until(&caller, id, LeaseState::holds_machine).await
                } else {
                    services.leases.get_for(&caller, id).await
                };
                ended.extend(
                    view.ok().flatten().filter(|view| view.lease.state.is_end()).map(|_| id),
                );
            }
            ended
        });
        let ended = ended.await.unwrap_or_default();
        // Some ended leases stay in the list, so that later calls use them.
        let forgets = self.random(|random| random.percent(50));
        self.leases.retain(|id| !(forgets && ended.contains(id)));
    }

    async fn renew(&self, id: LeaseId) {
        let ttl = self.random(|random| {
            random.percent(50).then(|| Duration::from_secs(1 + random.below(200)))
        });
        let caller = self.caller.clone();
        let renewed = self
            .run
            .ask(move |services| async move { services.leases.renew(&caller, id, ttl).await });
        let renewed = renewed.await.is_some_and(|renewed| renewed.is_ok());
        self.run
            .checker
            .trace(|| format!("{} renews {id} by {ttl:?}: {renewed}", self.caller.name));
    }

    async fn end(&self, id: LeaseId, reason: EndReason) {
        self.run.checker.trace(|| format!("{} ends {id}: {reason:?}", self.caller.name));
        let caller = self.caller.clone();
        let ended = self.run.ask(move |services| async move {
            services.leases.end(&caller, id, reason, false, None).await.is_ok()
        });
        ended.await;
    }

    async fn change_some_quarantine(&self) {
        let Some(services) = self.run.services() else { return };
        let contents = services.inventory.contents();
        let machine = self.random(|random| random.pick(&contents.machines.to_vec()).cloned());
        let (Some(machine), caller) = (machine, self.caller.clone()) else { return };
        let choice = self.random(|random| random.below(5));
        if choice == 4 {
            self.run.checker.trace(|| "the quarantines of the pool are cleared".to_owned());
            let cleared = self.run.ask(move |services| async move {
                services.leases.clear_automatic_quarantines(&caller, "ci").await.is_ok()
            });
            cleared.await;
            return;
        }
        let is_quarantine = choice == 0;
        self.run.checker.trace(|| format!("{} is quarantined: {is_quarantine}", machine.name));
        let done = self.run.ask(move |services| async move {
            let done = if is_quarantine {
                services.leases.quarantine(&machine, "broken".to_owned(), &caller).await
            } else {
                services.leases.clear_quarantine(&machine, &caller).await
            };
            done.is_ok()
        });
        done.await;
    }

    fn some_request(&self) -> NewLease {
        let new = self.random(some_request);
        let key = self.random(|random| random.percent(60).then(|| random.below(1_000_000_000)));
        let key = key.map(|number| IdempotencyKey {
            caller: self.caller.name.to_string(),
            method: "POST".to_owned(),
            path: "/v1/leases".to_owned(),
            key: format!("lease-{number}"),
            fingerprint: [0; 32],
            created_at: self.run.clock.now(),
        });
        NewLease { key, ..new }
    }
}

fn some_request(random: &mut Random) -> NewLease {
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
    let prepare = random.percent(60).then(|| {
        let power = random.percent(60).then_some(PowerState::On);
        let until = power.filter(|_| random.percent(5)).map(|_| Readiness::Tools);
        Prepare { snapshot: snapshot(random), power, until, ..Prepare::default() }
    });
    NewLease {
        select,
        holder: None,
        ttl: Duration::from_secs(1 + random.below(90)),
        queue_for: random.percent(70).then(|| Duration::from_secs(1 + random.below(300))),
        prepare,
        release: Some(Release { keep_power: random.percent(15), snapshot: snapshot(random) }),
        record: None,
        keep_on_failure: None,
        reference: None,
        key: None,
    }
}
