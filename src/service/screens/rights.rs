//! Who may look at a screen and serial ports, and who may send input.

use tokio::sync::watch;

use super::Screens;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::lease::Lease;
use crate::domain::machine::Machine;
use crate::domain::pool::ScreenAccess;
use crate::service::jobs::authorization::{
    Authorization, JobAuthorizer, LeaseCredential, Requester,
};

/// The right to type and click, as it was when it was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriveRight {
    /// Why the caller may change the machine.
    pub authorization: Authorization,
    /// The fence of the grant that holds the machine. A later grant has a higher one. `None` if no
    /// lease holds it.
    pub fence: Option<u64>,
}

impl DriveRight {
    /// The lease by which the caller drives. `None` for an operator without a lease, and with an
    /// override.
    #[must_use]
    pub const fn lease(self) -> Option<LeaseId> {
        self.authorization.lease()
    }
}

/// Notifies of changes that may end or give a right.
pub struct RightChanges {
    leases: watch::Receiver<()>,
    tokens: watch::Receiver<()>,
    settings: watch::Receiver<()>,
}

impl RightChanges {
    pub(super) fn new(screens: &Screens) -> Self {
        Self {
            leases: screens.leases.changes(),
            tokens: screens.callers.changes(),
            settings: screens.live.changes(),
        }
    }

    /// Waits for the next change since the last call. Cancel safe.
    pub async fn changed(&mut self) {
        // The senders live as long as the services. If one were gone, its branch would be skipped.
        tokio::select! {
            Ok(()) = self.leases.changed() => {}
            Ok(()) = self.tokens.changed() => {}
            Ok(()) = self.settings.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Waits until a caller has no longer the right to drive a machine.
    pub async fn drive_right_ended(
        &mut self,
        screens: &Screens,
        requester: &Requester,
        machine: &Machine,
    ) -> Failure {
        loop {
            if let Err(failure) = screens.may_drive(requester, machine) {
                return failure;
            }
            self.changed().await;
        }
    }
}

/// As [`Screens::may_look`].
pub(super) fn may_look(
    screens: &Screens,
    requester: &Requester,
    machine: &Machine,
) -> Result<(), Failure> {
    let caller = &requester.caller;
    if screens.may_look_at_all(caller) {
        return Ok(());
    }
    let settings = screens.live.load();
    let protection = &settings.protection;
    if protection.covers(machine) || protection.is_self(machine) {
        let detail = format!(
            "{} is protected, so only operators may look at its screen and serial ports; {} is {}.",
            machine.name,
            caller.name,
            caller.role.with_article()
        );
        return Err(
            Failure::new(FailureKind::Forbidden, detail).with_machine(&machine.id, &machine.name)
        );
    }
    let table = screens.leases.load();
    if let Some(open) = table.holder_of(&machine.identity()) {
        return may_look_as_holder(requester, machine, &open.lease);
    }
    let pools = settings.pools.for_machine(machine);
    let is_public = |name: &String| {
        settings.pools.get(name).is_some_and(|pool| pool.screens == ScreenAccess::Public)
    };
    if pools.iter().any(is_public) {
        return Ok(());
    }
    // A viewer cannot take a lease.
    let advice = if caller.role == Role::Viewer {
        "A viewer may look at machines in pools with screens = \"public\", and at a leased machine \
         whose lease it sends."
    } else {
        "To look at its screen or serial ports, lease the machine: POST /v1/leases."
    };
    let detail = format!(
        "{} is {} and does not hold {}. {advice}",
        caller.name,
        caller.role.with_article(),
        machine.name
    );
    Err(Failure::new(FailureKind::Forbidden, detail).with_machine(&machine.id, &machine.name))
}

/// Checks that a caller may look at a leased machine because the lease is its own. The right ends
/// when the lease ends, which is before the machine is released.
fn may_look_as_holder(
    requester: &Requester,
    machine: &Machine,
    lease: &Lease,
) -> Result<(), Failure> {
    let shows_lease =
        matches!(requester.credential, LeaseCredential::Lease(given) if given == lease.id);
    let is_own = shows_lease || lease.is_created_by(requester.caller.token);
    let detail = match &lease.end {
        None if is_own => return Ok(()),
        Some(end) if is_own => format!(
            "The lease {} ended ({}, by {}) and {} is being released, so only operators may look \
             at its screen and serial ports.",
            lease.id,
            end.reason.as_str(),
            end.by,
            machine.name
        ),
        _ => format!(
            "{} is leased by {}. Only the holder of the lease and operators may look at its \
             screen and serial ports: send Otter-Lease: <id>.<secret>.",
            machine.name, lease.holder
        ),
    };
    Err(Failure::new(FailureKind::Forbidden, detail)
        .with_machine(&machine.id, &machine.name)
        .with_lease(lease.id))
}

/// As [`Screens::may_drive`].
pub(super) fn may_drive(
    screens: &Screens,
    requester: &Requester,
    machine: &Machine,
) -> Result<DriveRight, Failure> {
    let caller = &requester.caller;
    // A lease alone is not enough: a viewer changes nothing, whatever it shows.
    if caller.role < Role::Runner {
        let detail = format!(
            "{} is {}, and only runners and operators send input. Nothing was sent.",
            caller.name,
            caller.role.with_article()
        );
        return Err(
            Failure::new(FailureKind::Forbidden, detail).with_machine(&machine.id, &machine.name)
        );
    }
    let settings = screens.live.load();
    let protection = &settings.protection;
    let is_self = protection.is_self(machine);
    if is_self || protection.covers(machine) {
        let why = if is_self {
            "otter itself runs in it"
        } else {
            "machines.protected of otter's configuration names it"
        };
        let detail = format!("{} is protected: {why}. Nothing was sent.", machine.name);
        return Err(Failure::new(FailureKind::SelfProtection, detail)
            .with_machine(&machine.id, &machine.name));
    }
    let authorization = screens.leases.authorize(machine, requester)?;
    let table = screens.leases.load();
    let fence = table.holder_of(&machine.identity()).and_then(|open| open.lease.fence);
    Ok(DriveRight { authorization, fence })
}
