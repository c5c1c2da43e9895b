//! The right of one viewer, which is judged again after each change that may end it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::state::ViewerMode;
use super::viewer_end::ViewerEnd;
use super::{DriveRight, Screens};
use crate::clock::Clock;
use crate::domain::access::Role;
use crate::domain::audit::AuditAction;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::service::callers::Credential;
use crate::service::jobs::authorization::{Authorization, Requester};
use crate::service::overrides::Overrides;

/// A right is judged at least this often, whether or not anything changed.
const JUDGE_INTERVAL: Duration = Duration::from_secs(20);

/// What a viewer's right rests on.
pub struct ViewerRights {
    screens: Arc<Screens>,
    overrides: Arc<Overrides>,
    /// What a driver does, for the record of an override.
    action: AuditAction,
    clock: Clock,
    requester: Requester,
    credential: Credential,
    mode: ViewerMode,
    machine: MachineIdentity,
    /// The lease that held the machine when the viewer was opened.
    lease: Option<LeaseId>,
    /// Why the viewer was allowed to drive when its right was last judged.
    allowed_by: Mutex<Option<Authorization>>,
}

impl ViewerRights {
    /// The right of a viewer of this machine, which was just checked.
    #[must_use]
    pub fn new(
        screens: Arc<Screens>,
        overrides: Arc<Overrides>,
        clock: Clock,
        requester: Requester,
        credential: Credential,
        mode: ViewerMode,
        machine: &Machine,
    ) -> Self {
        let table = screens.leases.load();
        let lease = table.holder_of(&machine.identity()).map(|open| open.lease.id);
        let (machine, allowed_by) = (machine.identity(), Mutex::default());
        let action = AuditAction::DriverStarted;
        Self {
            screens,
            overrides,
            action,
            clock,
            requester,
            credential,
            mode,
            machine,
            lease,
            allowed_by,
        }
    }

    /// The same right, of a driver that does something else than to drive a screen.
    #[must_use]
    pub const fn with_action(mut self, action: AuditAction) -> Self {
        self.action = action;
        self
    }

    /// Whether the right still exists. Records the override of a driver that has its right against
    /// a lease, once for each lease: the machine can be leased after the viewer was opened.
    ///
    /// # Errors
    /// How the viewer ends.
    pub fn judge(&self) -> Result<(), ViewerEnd> {
        let contents = self.screens.inventory.contents();
        let machine = contents.machine(&self.machine.id);
        let machine = machine.filter(|machine| self.machine.can_be(&machine.identity()));
        let Some(machine) = machine else { return Err(ViewerEnd::MachineGone) };
        let right = check(&self.screens, &self.requester, self.mode, machine);
        let right = right.map_err(|failure| {
            let table = self.screens.leases.load();
            // A lease that has ended holds its machine until the machine is released.
            let holder = table.holder_of(&self.machine).filter(|open| open.lease.end.is_none());
            let has_ended = self.lease.is_some() && holder.map(|open| open.lease.id) != self.lease;
            if failure.kind == FailureKind::LeaseEnded || has_ended {
                ViewerEnd::LeaseEnded(failure.detail)
            } else {
                ViewerEnd::RightEnded(failure.detail)
            }
        })?;
        if let Some(DriveRight { authorization, .. }) = right {
            let mut allowed_by = self.allowed_by.lock().unwrap_or_else(PoisonError::into_inner);
            let before = allowed_by.replace(authorization);
            drop(allowed_by);
            if before != Some(authorization) {
                self.overrides.record(machine, &self.requester, authorization, self.action);
            }
        }
        Ok(())
    }

    /// Waits until the viewer has to end: its right or its token ended, another viewer took over,
    /// its machine is gone, or otter stops.
    ///
    /// # Parameters
    /// - `taken_over`: only of a driver.
    pub async fn until_ended(
        &self,
        taken_over: Option<CancellationToken>,
        stop: &CancellationToken,
    ) -> ViewerEnd {
        let inventory = &self.screens.inventory;
        let mut changes = self.screens.right_changes();
        let mut machine = inventory.watch(&self.machine.id);
        let mut refused = std::pin::pin!(self.screens.callers.until_refused(self.credential));
        let mut taken_over = std::pin::pin!(async {
            match &taken_over {
                Some(taken_over) => taken_over.cancelled().await,
                None => std::future::pending().await,
            }
        });
        loop {
            if let Err(end) = self.judge() {
                return end;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return ViewerEnd::ShuttingDown,
                () = &mut refused => return ViewerEnd::TokenRefused,
                () = &mut taken_over => return ViewerEnd::TakenOver,
                () = changes.changed() => {}
                next = machine.changed() => {
                    if next.is_err() {
                        // The inventory dropped the watcher between two changes.
                        machine = inventory.watch(&self.machine.id);
                    }
                }
                () = self.clock.sleep(JUDGE_INTERVAL) => {}
            }
        }
    }
}

/// Checks that a caller may look at a machine or drive it in this mode.
///
/// # Returns
/// The right to drive. `None` if the viewer only looks.
///
/// # Errors
/// `not-found` if the machine is outside of the scope of the caller; `forbidden`, `machine-leased`,
/// `lease-ended`, `lease-not-active`, `self-protection`.
pub fn check(
    screens: &Screens,
    requester: &Requester,
    mode: ViewerMode,
    machine: &Machine,
) -> Result<Option<DriveRight>, Failure> {
    let caller = &requester.caller;
    let pools = || screens.live.load().pools.for_machine(machine);
    if caller.scope.is_restricted() && !caller.scope.contains(&machine.name, &pools()) {
        let detail = format!("{} does not see this machine any more.", caller.name);
        return Err(Failure::new(FailureKind::NotFound, detail));
    }
    if mode == ViewerMode::View {
        return screens.may_look(requester, machine).map(|()| None);
    }
    if caller.role < Role::Runner {
        let detail = format!(
            "{} is {}, and only runners and operators send input. Open it with mode=view.",
            caller.name,
            caller.role.with_article()
        );
        return Err(
            Failure::new(FailureKind::Forbidden, detail).with_machine(&machine.id, &machine.name)
        );
    }
    screens.may_drive(requester, machine).map(Some)
}
