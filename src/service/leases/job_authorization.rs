//! Authorization of a job by the leases: whether the lease or the role of the caller allows the job
//! on its machine.

use std::sync::Arc;

use super::lease_table::OpenLease;
use super::published::PublishedLeases;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::job::{Job, JobKind};
use crate::domain::lease::{Lease, LeaseState};
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::network::Network;
use crate::service::jobs::authorization::{
    Authorization, JobAuthorizer, LeaseCredential, Requester,
};

impl JobAuthorizer for PublishedLeases {
    fn authorize(
        &self,
        machine: &Machine,
        requester: &Requester,
    ) -> Result<Authorization, Failure> {
        let state = self.load();
        // If the lease of the call has ended, report this first, whether or not another lease now
        // holds the machine.
        if let LeaseCredential::Lease(given) = &requester.credential
            && state.get(*given).is_none()
        {
            let detail = format!("The lease {given} has ended; nothing was done.");
            return Err(failure_with_lease(FailureKind::LeaseEnded, detail, machine, *given));
        }
        let Some(open) = state.holder_of(&machine.identity()) else {
            return self.authorize_on_unleased(machine, requester);
        };
        let lease = open.lease.id;
        match &requester.credential {
            LeaseCredential::Internal(own, state)
                if *own == lease && open.lease.state == *state =>
            {
                Ok(Authorization::Lease(lease))
            }
            LeaseCredential::Lease(given)
                if *given == lease && open.lease.state == LeaseState::Active =>
            {
                Ok(Authorization::Lease(lease))
            }
            // The lease that holds the machine is not in the right state. For example, a
            // preparation that starts after its lease has ended must not run after the release.
            LeaseCredential::Internal(given, _) | LeaseCredential::Lease(given)
                if *given == lease =>
            {
                Err(not_active(machine, &open.lease))
            }
            LeaseCredential::Rule => Ok(Authorization::Lease(lease)),
            LeaseCredential::Absent if requester.is_override() => {
                Ok(Authorization::Override(lease))
            }
            _ => Err(leased_by_another(machine, requester, open)),
        }
    }

    fn cidr(&self, machine: &MachineIdentity) -> Option<Network> {
        self.load().holder_of(machine).and_then(|open| open.lease.cidr())
    }

    fn may_start(&self, job: &Job) -> Result<(), Failure> {
        let may_run_in = |state| match job.kind() {
            JobKind::LeasePrepare => state == LeaseState::Preparing,
            // A job that answers a question may also run during the preparation, because the
            // preparation may wait for the answer.
            JobKind::MachineAnswer => matches!(state, LeaseState::Preparing | LeaseState::Active),
            _ => state == LeaseState::Active,
        };
        let Some(lease) = job.lease.filter(|_| job.kind() != JobKind::LeaseRelease) else {
            return Ok(());
        };
        if self.load().get(lease).is_some_and(|open| may_run_in(open.lease.state)) {
            return Ok(());
        }
        let detail = format!(
            "The lease {lease} ended before the turn of the job came, so the job was withdrawn; \
             nothing was done."
        );
        Err(Failure::new(FailureKind::JobCancelled, detail).with_lease(lease))
    }
}

impl PublishedLeases {
    fn authorize_on_unleased(
        &self,
        machine: &Machine,
        requester: &Requester,
    ) -> Result<Authorization, Failure> {
        match &requester.credential {
            LeaseCredential::Internal(lease, _) => {
                let detail = format!("The lease {lease} does not hold {}.", machine.name);
                return Err(failure_with_lease(FailureKind::LeaseEnded, detail, machine, *lease));
            }
            LeaseCredential::Lease(lease) => {
                let open = self.load().get(*lease).map(|open| Arc::clone(&open.lease));
                if let Some(queued) = open.filter(|open| open.state == LeaseState::Queued) {
                    return Err(not_active(machine, &queued));
                }
                let detail = format!("The lease {lease} does not hold {}.", machine.name);
                return Err(failure_with_lease(
                    FailureKind::MachineLeased,
                    detail,
                    machine,
                    *lease,
                ));
            }
            LeaseCredential::Recovery(lease) => {
                let state = self.load();
                let recovery = state.ledger_of(machine).and_then(|ledger| ledger.recovery.as_ref());
                if recovery.is_some_and(|recovery| recovery.lease == *lease) {
                    return Ok(Authorization::Lease(*lease));
                }
                let detail = format!("{} no longer has to be released.", machine.name);
                return Err(failure_with_lease(FailureKind::LeaseEnded, detail, machine, *lease));
            }
            LeaseCredential::Absent | LeaseCredential::Rule => {}
        }
        if self.is_reserved(&machine.id) {
            let detail = format!("{} is being leased now.", machine.name);
            return Err(Failure::new(FailureKind::MachineLeased, detail)
                .with_machine(&machine.id, &machine.name));
        }
        requester.caller.may_change(machine)?;
        Ok(Authorization::Unleased)
    }
}

fn leased_by_another(machine: &Machine, requester: &Requester, open: &OpenLease) -> Failure {
    let until = match (open.lease.state, open.expiry()) {
        (_, Some((at, _))) => format!(" until {at:.0}"),
        (LeaseState::Releasing, None) => ", and is being released".to_owned(),
        (_, None) => ", and is being prepared".to_owned(),
    };
    let advice = if requester.caller.role >= Role::Operator {
        " An operator may also override the lease: Otter-Override: <reason>, without Otter-Lease."
    } else {
        ""
    };
    let detail = format!(
        "{} is leased by {}{until}. To change it, send that lease: Otter-Lease: \
         <id>.<secret>.{advice}",
        machine.name, open.lease.holder
    );
    failure_with_lease(FailureKind::MachineLeased, detail, machine, open.lease.id)
}

/// The failure of a call whose lease holds the machine but is not in the state `active`.
fn not_active(machine: &Machine, lease: &Lease) -> Failure {
    let Some(end) = &lease.end else {
        return lease.not_active_failure().with_machine(&machine.id, &machine.name);
    };
    let detail = format!(
        "The lease {} ended ({}, by {}) and its machine is being released; nothing was done.",
        lease.id,
        end.reason.as_str(),
        end.by
    );
    failure_with_lease(FailureKind::LeaseEnded, detail, machine, lease.id)
}

fn failure_with_lease(
    kind: FailureKind,
    detail: String,
    machine: &Machine,
    lease: LeaseId,
) -> Failure {
    Failure::new(kind, detail).with_machine(&machine.id, &machine.name).with_lease(lease)
}
