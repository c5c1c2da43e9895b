//! One call of input: what it sends, what it needs for it, and what ends it before its last event.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Screens;
use super::conditions::ScreenConditions;
use super::input_lane::InputLanes;
use super::input_record::InputRecords;
use super::wait::ScreenWaits;
use crate::clock::Clock;
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::input::{InputList, SentInput};
use crate::domain::machine::Machine;
use crate::service::audit::Audit;
use crate::service::inventory::Inventory;
use crate::service::jobs::authorization::{Authorization, Requester};
use crate::service::leases::Leases;
use crate::service::recordings::pauses::RecordingPauses;
use crate::storage::IdempotencyKey;
use crate::supervisor::Supervisor;

/// What calls of input need.
pub struct InputCallsParts {
    pub screens: Arc<Screens>,
    pub waits: Arc<ScreenWaits>,
    pub inventory: Arc<Inventory>,
    pub leases: Leases,
    pub records: InputRecords,
    pub lanes: InputLanes,
    /// Pauses the recordings of a machine while a secret is typed into it.
    pub pauses: RecordingPauses,
    pub audit: Arc<Audit>,
    pub supervisor: Supervisor,
    pub clock: Clock,
}

/// One call.
pub struct InputCall {
    pub machine: Arc<Machine>,
    pub requester: Requester,
    /// The value of `Otter-Reference`.
    pub reference: Option<String>,
    pub list: InputList<Until>,
    pub key: Option<IdempotencyKey>,
    /// The longest time of the whole call.
    pub limit: Duration,
}

/// The condition of an `until`.
#[derive(Debug)]
pub struct Until {
    pub conditions: Arc<ScreenConditions>,
    /// The longest wait.
    pub wait: Duration,
}

/// The end of a call that sent all its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputDone {
    pub sent: SentInput,
    pub finished_at: Timestamp,
    /// Whether an earlier call with the same key sent it.
    pub replayed: bool,
}

/// What ends a call before its last event.
pub(super) struct CallEnds {
    hung_up: CancellationToken,
    shutdown: CancellationToken,
    /// The latest end, by the monotonic clock.
    deadline: Duration,
    clock: Clock,
}

impl InputCallsParts {
    /// Records that an operator types on a machine that another caller leases.
    pub(super) async fn record_override(
        &self,
        machine: &Machine,
        requester: &Requester,
        authorization: Authorization,
    ) {
        let (Authorization::Override(holder), Some(reason)) =
            (authorization, &requester.override_reason)
        else {
            return;
        };
        let action = AuditAction::MachineOverridden;
        let record = AuditRecord::new(self.clock.now(), action, AuditOutcome::Done)
            .with_actor(&requester.caller.actor())
            .with_detail(format!("{}: {reason}", AuditAction::ScreenInput.as_str()));
        self.audit.record(AuditRecord {
            machine: Some((machine.id.clone(), machine.name.clone())),
            lease: Some(holder),
            ..record
        });
        self.leases.record_override(machine, &requester.caller.name, reason).await;
    }
}

impl CallEnds {
    /// # Parameters
    /// - `hung_up`: cancelled when the client hangs up.
    /// - `shutdown`: cancelled when otter stops.
    /// - `limit`: the longest time of the call, from now on.
    pub(super) fn new(
        hung_up: CancellationToken,
        shutdown: CancellationToken,
        limit: Duration,
        clock: &Clock,
    ) -> Self {
        Self { hung_up, shutdown, deadline: clock.elapsed() + limit, clock: clock.clone() }
    }

    /// Waits for `work`, unless the call must end before.
    ///
    /// # Errors
    /// As [`CallEnds::ended`].
    pub(super) async fn or<T>(
        &self,
        machine: &Machine,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            failure = self.ended(machine) => Err(failure),
            done = work => Ok(done),
        }
    }

    /// Waits until the call must end.
    ///
    /// # Returns
    /// `shutting-down`, or `wait-timeout` if the time of the call is up. A client that hung up does
    /// not read the failure.
    pub(super) async fn ended(&self, machine: &Machine) -> Failure {
        tokio::select! {
            biased;
            () = self.hung_up.cancelled() => {}
            () = self.shutdown.cancelled() => {}
            () = self.clock.sleep(self.left()) => {}
        }
        self.failure().unwrap_or_else(Self::time_up).with_machine(&machine.id, &machine.name)
    }

    /// The failure if the call must end now.
    pub(super) fn failure(&self) -> Option<Failure> {
        if self.hung_up.is_cancelled() {
            let detail = "The client hung up.";
            return Some(Failure::new(FailureKind::ShuttingDown, detail));
        }
        if self.shutdown.is_cancelled() {
            let detail = "otter is shutting down; try again when it is back.";
            return Some(Failure::new(FailureKind::ShuttingDown, detail));
        }
        self.left().is_zero().then(Self::time_up)
    }

    /// The time that is left for the call.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.clock.elapsed())
    }

    fn time_up() -> Failure {
        let detail = "The time of the call was up before all its input was sent.";
        Failure::new(FailureKind::WaitTimeout, detail)
    }
}
