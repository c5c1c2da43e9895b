//! Requests for leases: makes the lease that a request asks for, and checks which requests are
//! rejected.

use std::time::Duration;

use super::capacity::{ReachedLimit, never_fits};
use super::lease_actor::LeaseActor;
use super::lease_table::LeaseTable;
use super::matching::{CandidateMachine, Selection, has_needed_drive, missing_snapshot};
use super::{LeaseView, Leases};
use crate::domain::access::{Role, TokenLimits};
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind, InputError};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{Lease, LeaseTerms, Prepare, Release, Select};
use crate::domain::pool::Pool;
use crate::domain::recording::Record;
use crate::domain::scope::Scope;
use crate::service::callers::Caller;
use crate::service::limits::{queue_full, too_many};
use crate::service::machines::MATCHES_NONE;
use crate::storage::IdempotencyKey;

/// What a caller asks for in a request for a lease.
#[derive(Clone, Debug)]
pub struct NewLease {
    pub select: Select,
    pub holder: Option<String>,
    pub ttl: Duration,
    pub queue_for: Option<Duration>,
    /// How otter prepares the machine. `None` means the preparation that the pool sets.
    pub prepare: Option<Prepare>,
    /// How otter releases the machine. `None` means the release that the pool sets.
    pub release: Option<Release>,
    /// What otter records during the lease. `None` means what the pool sets.
    pub record: Option<Record>,
    pub keep_on_failure: Option<Duration>,
    pub reference: Option<String>,
    pub key: Option<IdempotencyKey>,
}

/// The result of a request for a lease.
#[derive(Clone, Debug)]
pub enum RequestedLease {
    /// A new lease.
    New(LeaseView),
    /// The lease of an earlier request with the same idempotency key.
    Existing(LeaseView),
}

impl Leases {
    /// The lease that a request asks for. What the request does not say comes from the selected
    /// pools.
    ///
    /// # Errors
    /// `invalid-request` if `ttl` is out of range, or if the request leaves something out in which
    /// the selected pools differ; `forbidden` if the caller may not keep the power on.
    pub(super) fn lease_from_request(
        &self,
        caller: &Caller,
        new: &NewLease,
    ) -> Result<Lease, Failure> {
        let parts = &self.0.parts;
        let pools = self.selected_pools(caller, &new.select);
        self.check_ttl(new.ttl, &pools)?;
        let prepare = match &new.prepare {
            Some(prepare) => Some(prepare.clone()),
            None => common_setting(&pools, "prepare", |pool| pool?.prepare.clone())?,
        };
        let release = match &new.release {
            Some(release) => release.clone(),
            None => common_setting(&pools, "release", |pool| {
                pool.and_then(|pool| pool.release.clone()).unwrap_or_default()
            })?,
        };
        let record = match &new.record {
            Some(record) => Some(record.clone()),
            None => common_setting(&pools, "record", |pool| pool?.record.clone())?,
        };
        let pools_allow =
            |pool: &Option<Pool>| pool.as_ref().is_some_and(|pool| pool.may_keep_power);
        let may_keep =
            caller.role >= Role::Operator || (!pools.is_empty() && pools.iter().all(pools_allow));
        if release.keep_power && !may_keep {
            let detail =
                "release.power may be keep only if the pool allows it, or for an operator.";
            return Err(Failure::new(FailureKind::Forbidden, detail));
        }
        // If this fails because the inventory is not loaded yet, go on: the actor rejects the
        // request.
        let unknown = parts.machines.unknown_pools(&caller.scope, &new.select.pools);
        let mut lease = Lease::queued(LeaseTerms {
            id: LeaseId::new(parts.clock.uuid()),
            select: new.select.clone(),
            scope: Scope::clone(&caller.scope),
            holder: new.holder.clone().unwrap_or_else(|| caller.name.to_string()),
            requested_by: caller.name.to_string(),
            token: caller.token,
            origin: caller.origin,
            reference: new.reference.clone(),
            ttl: new.ttl,
            max_total: parts.rules.max_total,
            queue_for: new.queue_for,
            prepare,
            release,
            record: record.filter(|record| !record.is_empty()),
            keep_on_failure: new.keep_on_failure,
            created_at: parts.clock.now(),
        });
        unknown.unwrap_or_default().into_iter().for_each(|warning| lease.warn(warning));
        Ok(lease)
    }

    /// The configuration of each selected pool. An element is `None` if its pool is not configured,
    /// or does not exist for the caller.
    pub(super) fn selected_pools(&self, caller: &Caller, select: &Select) -> Vec<Option<Pool>> {
        let LeaseActor { parts, .. } = &*self.0;
        let (visibility, settings) = (parts.machines.visibility(), parts.settings.load());
        let configured = |name: &String| {
            let pool = settings.pools.get(name);
            pool.filter(|_| visibility.has_pool(&caller.scope, name)).cloned()
        };
        select.pool_names().map(configured).collect()
    }

    /// Rejects a duration that is zero, or longer than one of the pools or the general rules allow.
    ///
    /// # Errors
    /// `invalid-request`.
    pub(super) fn check_ttl(&self, ttl: Duration, pools: &[Option<Pool>]) -> Result<(), Failure> {
        let rules = &self.0.parts.rules;
        let of_pools = pools.iter().flatten().filter_map(|pool| pool.max_ttl);
        let longest = of_pools.fold(rules.max_ttl, Duration::min);
        if !ttl.is_zero() && ttl <= longest {
            return Ok(());
        }
        let detail = format!(
            "ttl is {}; it must be from 1s to {}.",
            duration::format(ttl),
            duration::format(longest)
        );
        let error = InputError {
            pointer: Some("/ttl".to_owned()),
            parameter: None,
            code: "out-of-range".into(),
            detail: detail.clone(),
        };
        Err(Failure::new(FailureKind::InvalidRequest, detail).with_error(error))
    }
}

impl LeaseActor {
    /// Rejects a request that no machine of the host can satisfy, even if all machines were free.
    ///
    /// # Errors
    /// `no-free-machine` if no machine matches the selection, or if each matching machine is larger
    /// than a limit; `not-found` if no matching machine has the snapshots of `prepare` and
    /// `release`; `no-drive` if none has a CD drive for the ISO; `ambiguous-name` if
    /// `select.machine` names several machines.
    pub fn check_grantable(
        &self,
        lease: &Lease,
        candidates: &[CandidateMachine],
    ) -> Result<(), Failure> {
        if let Some(reference) = &lease.select.machine
            && let Err(failure) = self.parts.machines.resolve_reference(&lease.scope, reference)
            && failure.kind == FailureKind::AmbiguousName
        {
            return Err(failure);
        }
        let (mut without_snapshot, mut too_large, mut is_any_selected) = (None, None, false);
        let mut without_drive = None;
        let selection = Selection::new(lease, candidates);
        for candidate in candidates.iter().filter(|machine| selection.includes(machine)) {
            is_any_selected = true;
            if let Some(limit) = never_fits(candidate) {
                too_large = too_large.or_else(|| Some(larger_than(&limit, candidate)));
                continue;
            }
            if !has_needed_drive(lease, candidate) {
                without_drive = without_drive.or_else(|| Some(no_drive(candidate)));
                continue;
            }
            let Some(missing) = missing_snapshot(lease, candidate) else { return Ok(()) };
            let Some(view) = self.parts.machines.get(&candidate.identity.id) else { continue };
            without_snapshot =
                without_snapshot.or(self.parts.machines.snapshot(&view, missing).err());
        }
        if !is_any_selected {
            return Err(self.parts.machines.why_none_fits(&lease.scope, &lease.select)?);
        }
        without_snapshot.or(without_drive).or(too_large).map_or(Ok(()), Err)
    }

    /// Rejects a lease that exceeds the limits of the caller's token.
    pub fn check_token_limits(
        table: &LeaseTable,
        lease: &Lease,
        limits: TokenLimits,
    ) -> Result<(), Failure> {
        let (open, queued) = table.counts_of_requester(&lease.requested_by);
        if let Some(most) = limits.leases.filter(|most| open >= *most as usize) {
            return Err(too_many(&lease.requested_by, &format!("{most} open leases")));
        }
        let most_queued = limits.queued_leases.filter(|_| lease.queue_for.is_some());
        match most_queued.filter(|most| queued >= *most as usize) {
            Some(most) => Err(queue_full(&lease.requested_by, &format!("{most} queued leases"))),
            None => Ok(()),
        }
    }
}

/// The setting that all selected pools have in common. If no pool is selected, the default.
///
/// # Parameters
/// - `field`: the field of the request that replaces the setting.
/// - `setting`: returns the setting of a pool, or of a pool that is not configured (`None`).
///
/// # Errors
/// `invalid-request` if the pools have different settings.
fn common_setting<T: PartialEq>(
    pools: &[Option<Pool>],
    field: &str,
    setting: impl Fn(Option<&Pool>) -> T,
) -> Result<T, Failure> {
    let first = setting(pools.first().and_then(Option::as_ref));
    if pools.iter().all(|pool| setting(pool.as_ref()) == first) {
        return Ok(first);
    }
    let detail =
        format!("The pools of select.pools differ in {field}; set {field} in the request.");
    let error = InputError {
        pointer: Some(format!("/{field}")),
        parameter: None,
        code: "missing".into(),
        detail: detail.clone(),
    };
    Err(Failure::new(FailureKind::InvalidRequest, detail).with_error(error))
}

/// The failure of a request with an ISO whose matching machine has no CD drive.
fn no_drive(machine: &CandidateMachine) -> Failure {
    let detail = format!(
        "No matching machine has a CD drive for the ISO of the preparation; one is {}.",
        machine.name
    );
    Failure::new(FailureKind::NoDrive, detail)
        .with_machine(&machine.identity.id, &machine.name)
        .with_error(InputError {
            pointer: Some("/prepare/iso".to_owned()),
            parameter: None,
            code: "no-drive".into(),
            detail: "no matching machine has a CD drive".to_owned(),
        })
}

/// The failure of a request whose matching machine exceeds a limit by itself, even if no other
/// machine runs.
fn larger_than(limit: &ReachedLimit, machine: &CandidateMachine) -> Failure {
    let CandidateMachine { name, memory_bytes, .. } = machine;
    let detail = format!(
        "No machine matches the request, whatever becomes free: {name} has {memory_bytes} bytes of \
         memory, and {}.",
        limit.rule()
    );
    Failure::new(FailureKind::NoFreeMachine, detail.clone()).with_error(InputError {
        pointer: Some("/select".to_owned()),
        parameter: None,
        code: MATCHES_NONE.into(),
        detail,
    })
}
