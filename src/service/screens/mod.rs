//! Screens of machines: one connection to the host for each machine that somebody looks at, and the
//! frame that all readers share.
//!
//! `registry` opens one upstream for each machine on demand and ends it when it is idle. `upstream`
//! is its pure state machine, `upstream_task` does its I/O. `frame` is the picture. `rights` says
//! who may look and who may drive.

mod condition_checks;
pub mod conditions;
pub mod console_tokens;
pub mod drive;
mod due_check;
pub mod encoded;
pub mod frame;
mod guest_changes;
pub mod input_call;
pub mod input_calls;
pub mod input_lane;
pub mod input_record;
mod input_run;
pub mod last_pictures;
mod no_signal;
pub mod ocr;
pub mod picture_search;
pub mod png;
mod prepare_wait;
mod registry;
pub mod rights;
mod screen_user;
mod shared_screen;
mod sight;
pub mod state;
mod stillness;
pub mod text_match;
mod upstream;
mod upstream_task;
pub mod viewer_damage;
pub mod viewer_end;
mod viewer_exchange;
mod viewer_pieces;
pub mod viewer_rights;
pub mod viewer_session;
mod viewer_writer;
pub mod viewers;
pub mod wait;
pub mod wait_memory;
mod watch_state;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

pub use self::frame::{Frame, FrameChange};
pub use self::rights::{DriveRight, RightChanges};
pub use self::screen_user::{CONFIRM_LIMIT, ScreenUser};
pub use self::shared_screen::InputLost;
pub use self::state::{ConnectionState, DriverInfo, ScreenState, ViewerInfo, ViewerMode};

use self::registry::Registry;
use self::viewers::Viewers;
use super::audit::Audit;
use super::callers::{Caller, Callers};
use super::hosts::Hosts;
use super::inventory::Inventory;
use super::jobs::authorization::Requester;
use super::leases::published::PublishedLeases;
use super::live_settings::LiveSettings;
use crate::clock::Clock;
use crate::domain::access::Role;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{MachineId, SnapshotId};
use crate::domain::machine::Machine;
use crate::domain::power::PowerState;
use crate::hypervisor::{Capability, HostErrorKind, ScreenObject};
use crate::service::host_failure::HostFailure;
use crate::supervisor::Supervisor;
use crate::telemetry::screens::ScreenMetrics;

/// `[screens]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScreenSettings {
    /// `screens.idle`: how long a connection stays open without a user.
    pub idle: Duration,
    /// `screens.max_open`: the most machines whose screens are open at the same time.
    pub max_open: usize,
    /// `screens.max_viewers`: the most viewers of one machine.
    pub max_viewers: usize,
    /// `screens.ocr_command`: the program that reads text, with its arguments.
    pub ocr_command: Vec<String>,
}

impl Default for ScreenSettings {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(1),
            max_open: 128,
            max_viewers: 32,
            ocr_command: vec!["tesseract".to_owned()],
        }
    }
}

/// What [`Screens`] is made of.
pub struct ScreensParts {
    pub hosts: Hosts,
    pub inventory: Arc<Inventory>,
    pub leases: Arc<PublishedLeases>,
    pub live: LiveSettings,
    pub callers: Arc<Callers>,
    pub audit: Arc<Audit>,
    pub supervisor: Supervisor,
    pub clock: Clock,
    pub metrics: ScreenMetrics,
    pub settings: ScreenSettings,
}

/// The screens of all machines.
pub struct Screens {
    hosts: Hosts,
    inventory: Arc<Inventory>,
    leases: Arc<PublishedLeases>,
    live: LiveSettings,
    callers: Arc<Callers>,
    settings: ScreenSettings,
    metrics: ScreenMetrics,
    registry: Registry,
    viewers: Viewers,
}

impl Screens {
    /// The screens of the machines of the inventory. None is open yet.
    #[must_use]
    pub fn new(parts: ScreensParts) -> Self {
        let ScreensParts {
            hosts,
            inventory,
            leases,
            live,
            callers,
            audit,
            supervisor,
            clock,
            metrics,
            settings,
        } = parts;
        let viewers = Viewers::new(
            supervisor.clone(),
            clock.clone(),
            audit,
            metrics.clone(),
            settings.max_viewers,
        );
        let registry = Registry::new(
            hosts.clone(),
            Arc::clone(&inventory),
            supervisor,
            clock,
            metrics.clone(),
            &settings,
        );
        Self { hosts, inventory, leases, live, callers, settings, metrics, registry, viewers }
    }

    /// The settings of screens.
    #[must_use]
    pub const fn settings(&self) -> &ScreenSettings {
        &self.settings
    }

    /// The metrics of screens.
    #[must_use]
    pub const fn metrics(&self) -> &ScreenMetrics {
        &self.metrics
    }

    /// The viewers of all screens, and the console tokens.
    #[must_use]
    pub const fn viewers(&self) -> &Viewers {
        &self.viewers
    }

    /// Whether a caller may look at the screens of all machines: an operator, and everybody if
    /// there are no tokens.
    #[must_use]
    pub fn may_look_at_all(&self, caller: &Caller) -> bool {
        caller.role >= Role::Operator || !self.callers.need_tokens()
    }

    /// Checks that a caller may look at the screen of a machine: an operator; until the end of its
    /// lease the holder, and the token that created the lease; everybody if there are no tokens;
    /// any caller if the machine is not held and is in a pool with `screens = "public"`. Only
    /// operators look at a protected machine.
    ///
    /// # Errors
    /// `forbidden`
    pub fn may_look(&self, requester: &Requester, machine: &Machine) -> Result<(), Failure> {
        rights::may_look(self, requester, machine)
    }

    /// Checks that a caller may type and click: all who may change the machine. No one may on a
    /// protected machine.
    ///
    /// # Errors
    /// As for a job that changes the machine, and `self-protection`.
    pub fn may_drive(
        &self,
        requester: &Requester,
        machine: &Machine,
    ) -> Result<DriveRight, Failure> {
        rights::may_drive(self, requester, machine)
    }

    /// Notifies of each change that may end or give a right: grants and ends of leases, tokens that
    /// were revoked or expired, and reloaded settings. Check the rights again after each.
    #[must_use]
    pub fn right_changes(&self) -> RightChanges {
        RightChanges::new(self)
    }

    /// The state of a screen. Opens nothing.
    #[must_use]
    pub fn state(&self, machine: &Machine) -> ScreenState {
        let unavailable_reason = Self::unavailable_reason(machine);
        let state = self.registry.state(&machine.id, unavailable_reason);
        ScreenState {
            viewers: self.viewers.of(&machine.id),
            driver: self.viewers.driver_of(&machine.id),
            ..state
        }
    }

    /// Opens the screen of a machine, or joins the users of its open connection. Does not wait for
    /// the connection: [`ScreenUser::confirmed`] and [`ScreenUser::opened`] do. Dropping the user
    /// ends the use.
    ///
    /// # Errors
    /// `invalid-power-state` if the machine is not on, `too-many-consoles`, `not-supported`,
    /// `shutting-down`.
    pub fn use_screen(&self, machine: &Machine) -> Result<ScreenUser, Failure> {
        if let Some(reason) = Self::unavailable_reason(machine) {
            return Err(Failure::new(FailureKind::InvalidPowerState, reason)
                .with_machine(&machine.id, &machine.name));
        }
        self.join_screen(machine)
    }

    /// As [`Screens::use_screen`], also if the machine is not on: the user gets frames that are not
    /// live until the machine is powered on. For viewers and recordings.
    ///
    /// # Errors
    /// `too-many-consoles`, `not-supported`, `shutting-down`.
    pub fn join_screen(&self, machine: &Machine) -> Result<ScreenUser, Failure> {
        self.hosts.with_capability(Capability::Screens, machine)?;
        self.registry.join(machine)
    }

    /// Whether the screen of a machine was used at or after this time, as far as this process
    /// knows.
    #[must_use]
    pub fn was_used_since(&self, machine: &MachineId, since: Timestamp) -> bool {
        self.registry.was_used_since(machine, since)
    }

    /// The picture that the host took with a memory snapshot, as PNG.
    ///
    /// # Errors
    /// `not-found` if the host has no picture of the snapshot, `console-unavailable` if it gives
    /// none, `not-supported`, and the failures of the host.
    pub async fn snapshot_picture(
        &self,
        machine: &Machine,
        snapshot: &SnapshotId,
    ) -> Result<Bytes, Failure> {
        let host = self.hosts.with_capability(Capability::ScreenPictures, machine)?;
        let picture = host.screen_picture(&ScreenObject::Snapshot(snapshot.clone())).await;
        picture.map_err(|error| {
            let failure = match error.kind {
                HostErrorKind::NotFound => Failure::new(
                    FailureKind::NotFound,
                    format!("The host has no picture of the snapshot {snapshot}."),
                ),
                HostErrorKind::Rejected => {
                    Failure::new(FailureKind::ConsoleUnavailable, error.message)
                }
                _ => HostFailure::from(&error).to_failure(),
            };
            failure.with_machine(&machine.id, &machine.name)
        })
    }

    /// Why a machine has no screen now. `None` if it has one.
    fn unavailable_reason(machine: &Machine) -> Option<String> {
        let name = &machine.name;
        match machine.power_state {
            Some(PowerState::On) => None,
            Some(PowerState::Suspended) => {
                Some(format!("{name} is suspended, so it has no screen. Resume it first."))
            }
            Some(PowerState::Off) => {
                Some(format!("{name} is off, so it has no screen. Power it on first."))
            }
            None => Some(format!("The host does not report whether {name} is on.")),
        }
    }
}
