//! The records of operators who type or drive on a machine that another caller leases.

use std::sync::Arc;

use crate::clock::Clock;
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::machine::Machine;
use crate::service::audit::Audit;
use crate::service::jobs::authorization::{Authorization, Requester};
use crate::service::leases::Leases;
use crate::supervisor::Supervisor;

/// Records overrides in the audit, and in the lease of the machine.
pub struct Overrides {
    leases: Leases,
    audit: Arc<Audit>,
    supervisor: Supervisor,
    clock: Clock,
}

impl Overrides {
    #[must_use]
    pub const fn new(
        leases: Leases,
        audit: Arc<Audit>,
        supervisor: Supervisor,
        clock: Clock,
    ) -> Self {
        Self { leases, audit, supervisor, clock }
    }

    /// Records that an operator acts on a machine. Does nothing if the operator overrides no lease.
    /// The audit has its record before this function returns, the lease a moment later.
    ///
    /// # Parameters
    /// - `authorization`: why the operator may act on the machine.
    /// - `action`: what the operator does.
    pub fn record(
        &self,
        machine: &Machine,
        requester: &Requester,
        authorization: Authorization,
        action: AuditAction,
    ) {
        let (Authorization::Override(holder), Some(reason)) =
            (authorization, &requester.override_reason)
        else {
            return;
        };
        let overridden = AuditAction::MachineOverridden;
        let record = AuditRecord::new(self.clock.now(), overridden, AuditOutcome::Done)
            .with_actor(&requester.caller.actor())
            .with_detail(format!("{}: {reason}", action.as_str()));
        self.audit.record(AuditRecord {
            machine: Some((machine.id.clone(), machine.name.clone())),
            lease: Some(holder),
            ..record
        });
        let (leases, machine) = (self.leases.clone(), machine.clone());
        let (by, reason) = (Arc::clone(&requester.caller.name), reason.clone());
        let recording = async move { leases.record_override(&machine, &by, &reason).await };
        drop(self.supervisor.spawn_isolated("record of an override", recording));
    }
}
