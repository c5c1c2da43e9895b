//! The right of one viewer, which is judged again after each change that may end it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Screens;
use super::state::ViewerMode;
use super::viewer_end::ViewerEnd;
use crate::clock::Clock;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::service::callers::Credential;
use crate::service::jobs::authorization::Requester;

/// A right is judged at least this often, whether or not anything changed.
const JUDGE_INTERVAL: Duration = Duration::from_secs(20);

/// What a viewer's right rests on.
pub struct ViewerRights {
    screens: Arc<Screens>,
    clock: Clock,
    requester: Requester,
    credential: Credential,
    mode: ViewerMode,
    machine: MachineIdentity,
    /// The lease that held the machine when the viewer was opened.
    lease: Option<LeaseId>,
}

impl ViewerRights {
    /// The right of a viewer of this machine, which was just checked.
    #[must_use]
    pub fn new(
        screens: Arc<Screens>,
        clock: Clock,
        requester: Requester,
        credential: Credential,
        mode: ViewerMode,
        machine: &Machine,
    ) -> Self {
        let table = screens.leases.load();
        let lease = table.holder_of(&machine.identity()).map(|open| open.lease.id);
        let machine = machine.identity();
        Self { screens, clock, requester, credential, mode, machine, lease }
    }

    /// Whether the right still exists.
    ///
    /// # Errors
    /// How the viewer ends.
    pub fn judge(&self) -> Result<(), ViewerEnd> {
        let contents = self.screens.inventory.contents();
        let machine = contents.machine(&self.machine.id);
        let machine = machine.filter(|machine| self.machine.can_be(&machine.identity()));
        let Some(machine) = machine else { return Err(ViewerEnd::MachineGone) };
        check(&self.screens, &self.requester, self.mode, machine).map_err(|failure| {
            let table = self.screens.leases.load();
            let holder = table.holder_of(&self.machine).map(|open| open.lease.id);
            let has_ended = self.lease.is_some() && holder != self.lease;
            if failure.kind == FailureKind::LeaseEnded || has_ended {
                ViewerEnd::LeaseEnded(failure.detail)
            } else {
                ViewerEnd::RightEnded(failure.detail)
            }
        })
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
/// # Errors
/// `not-found` if the machine is outside of the scope of the caller; `forbidden`, `machine-leased`,
/// `lease-ended`, `lease-not-active`, `self-protection`.
pub fn check(
    screens: &Screens,
    requester: &Requester,
    mode: ViewerMode,
    machine: &Machine,
) -> Result<(), Failure> {
    let caller = &requester.caller;
    let pools = || screens.live.load().pools.for_machine(machine);
    if caller.scope.is_restricted() && !caller.scope.contains(&machine.name, &pools()) {
        let detail = format!("{} does not see this machine any more.", caller.name);
        return Err(Failure::new(FailureKind::NotFound, detail));
    }
    if mode == ViewerMode::View {
        return screens.may_look(requester, machine);
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
    screens.may_drive(requester, machine).map(drop)
}
