//! The viewers of all screens: opens them within the limits, lists them, and makes the tokens with
//! which browsers open them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Sink, Stream};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Screens;
use super::console_tokens::{Console, ConsoleGrant, ConsoleKind, ConsoleTokens, IssuedToken};
use super::drive::{DriverInput, Drivers, InputCounts};
use super::state::{DriverInfo, ViewerInfo, ViewerMode};
use super::viewer_end::ViewerEnd;
use super::viewer_pieces::SharedPieces;
use super::viewer_rights::{self, ViewerRights};
use super::viewer_session::{FromViewer, SessionParts, ToViewer, serve_viewer};
use crate::clock::Clock;
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord, between};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::{LeaseId, MachineId, ViewerId};
use crate::domain::machine::Machine;
use crate::hypervisor::Capability;
use crate::service::audit::Audit;
use crate::service::callers::Credential;
use crate::service::jobs::authorization::Requester;
use crate::service::overrides::Overrides;
use crate::supervisor::Supervisor;
use crate::telemetry::screens::ScreenMetrics;

/// The most viewers of all machines together.
const MAX_VIEWERS: usize = 256;

/// The most viewers of one token, so that no token takes the places of all others.
const MAX_OF_TOKEN: usize = 64;

/// What a caller asks for when it opens a viewer.
#[derive(Clone, Debug)]
pub struct ViewerRequest {
    /// The caller, with its lease or its override.
    pub requester: Requester,
    /// What identified the caller.
    pub credential: Credential,
    pub mode: ViewerMode,
    /// Whether it takes over from another driver.
    pub force: bool,
}

/// What the viewers of all screens share.
pub struct Viewers {
    open: Arc<OpenViewers>,
    drivers: Arc<Drivers>,
    tokens: ConsoleTokens,
    supervisor: Supervisor,
    clock: Clock,
    audit: Arc<Audit>,
    metrics: ScreenMetrics,
    /// `screens.max_viewers`
    max_per_machine: usize,
}

impl Viewers {
    #[must_use]
    pub fn new(
        supervisor: Supervisor,
        clock: Clock,
        audit: Arc<Audit>,
        metrics: ScreenMetrics,
        max_per_machine: usize,
    ) -> Self {
        let tokens = ConsoleTokens::new(clock.clone());
        let (open, drivers) = Default::default();
        Self { open, drivers, tokens, supervisor, clock, audit, metrics, max_per_machine }
    }

    /// The viewers of a machine, the longest open first.
    #[must_use]
    pub fn of(&self, machine: &MachineId) -> Vec<ViewerInfo> {
        self.open.machines().get(machine).map(|open| open.viewers.clone()).unwrap_or_default()
    }

    /// The driver of a machine.
    #[must_use]
    pub fn driver_of(&self, machine: &MachineId) -> Option<DriverInfo> {
        self.drivers.of(machine)
    }

    /// The console tokens.
    #[must_use]
    pub const fn tokens(&self) -> &ConsoleTokens {
        &self.tokens
    }

    /// Runs a viewer until it ends. A shutdown waits for it.
    pub fn spawn(&self, viewer: impl Future<Output = ()> + Send + 'static) {
        drop(self.supervisor.spawn_isolated("screen viewer", viewer));
    }
}

impl Screens {
    /// Checks that a viewer could be opened now. Opens nothing.
    ///
    /// # Errors
    /// As for [`Screens::open_viewer`].
    pub fn check_viewer(&self, request: &ViewerRequest, machine: &Machine) -> Result<(), Failure> {
        let ViewerRequest { requester, credential, mode, force } = request;
        viewer_rights::check(self, requester, *mode, machine)?;
        let viewers = self.viewers();
        if viewers.supervisor.shutdown_token().is_cancelled() {
            let detail = "otter is shutting down; open the screen when it is back.";
            return Err(Failure::new(FailureKind::ShuttingDown, detail)
                .with_machine(&machine.id, &machine.name));
        }
        self.hosts.with_capability(Capability::Screens, machine)?;
        let token = (!credential.is_none()).then_some(&*requester.caller.name);
        viewers.open.check(machine, token, viewers.max_per_machine)?;
        match mode {
            ViewerMode::View => Ok(()),
            ViewerMode::Drive => viewers.drivers.check(machine, *force),
        }
    }

    /// Opens a viewer of the screen of a machine. It counts as open until it is dropped. If the
    /// machine is off, the viewer sees “no signal” until it is on.
    ///
    /// # Parameters
    /// - `overrides`: records that the viewer drives a machine that another caller leases.
    ///
    /// # Errors
    /// `forbidden`, `machine-leased`, `lease-ended`, `lease-not-active`, `self-protection` if the
    /// caller may not look or drive; `console-busy`; `too-many-consoles` if the machine, the
    /// token or otter has as many viewers as it may, or as many screens are open; `not-supported`,
    /// `shutting-down`.
    pub fn open_viewer(
        self: &Arc<Self>,
        request: ViewerRequest,
        machine: &Machine,
        overrides: &Arc<Overrides>,
    ) -> Result<Viewer, Failure> {
        let ViewerRequest { requester, credential, mode, force } = request;
        viewer_rights::check(self, &requester, mode, machine)?;
        let viewers = self.viewers();
        let Viewers { clock, audit, .. } = viewers;
        let now = clock.now();
        let info = ViewerInfo {
            id: ViewerId::new(clock.uuid()),
            caller: requester.caller.name.to_string(),
            mode,
            since: now,
            address: requester.caller.origin.address,
        };
        let has_token = !credential.is_none();
        let place = viewers.open.enter(machine, info.clone(), has_token, viewers)?;
        let user = self.join_screen(machine)?;
        let mut driver = None;
        let mut drive_record = None;
        if mode == ViewerMode::Drive {
            let right = self.may_drive(&requester, machine)?;
            let driver_info =
                DriverInfo { caller: info.caller.clone(), lease: right.lease(), since: now };
            // Opened before the seat is taken, so that a failure takes over from no driver.
            let input_user = self.join_screen(machine)?;
            let seat = viewers.drivers.take(machine, info.id, driver_info, force)?;
            let record = driver_record(now, &requester, machine, right.lease());
            audit.record(started(record.clone(), &requester, force));
            drive_record = Some(record);
            driver = Some(DriverInput::new(seat, input_user, viewers.supervisor.clone()));
        }
        let pieces = Arc::clone(&place.pieces);
        let rights = ViewerRights::new(
            Arc::clone(self),
            Arc::clone(overrides),
            clock.clone(),
            requester,
            credential,
            mode,
            machine,
        );
        Ok(Viewer {
            parts: SessionParts {
                user,
                driver,
                rights,
                pieces,
                name: machine.name.clone(),
                clock: clock.clone(),
            },
            drive: drive_record.map(|record| DriveRecord {
                record,
                audit: Arc::clone(audit),
                clock: clock.clone(),
                end: None,
                counts: InputCounts::default(),
            }),
            _place: place,
        })
    }

    /// Makes a token with which a browser opens a viewer. All checks are made now, because a
    /// browser does not show its page why a WebSocket was refused.
    ///
    /// # Errors
    /// As for [`Screens::open_viewer`], and `too-many-requests` if the caller has too many tokens.
    pub fn issue_console_token(
        &self,
        request: ViewerRequest,
        machine: &Machine,
    ) -> Result<IssuedToken, Failure> {
        self.check_viewer(&request, machine)?;
        let ViewerRequest { requester, credential, mode, force } = request;
        self.viewers().tokens.issue(ConsoleGrant {
            requester,
            credential,
            machine: machine.identity(),
            console: Console { kind: ConsoleKind::Screen, mode, force },
            fence: self.fence_of(machine),
        })
    }

    /// The fence of the machine's last grant. Zero if there was none.
    #[must_use]
    pub fn fence_of(&self, machine: &Machine) -> u64 {
        self.leases.load().ledger_of(machine).map_or(0, |ledger| ledger.fence)
    }
}

/// An open viewer.
pub struct Viewer {
    // Dropped in this order: the keys of a driver are released, then its end is audited.
    parts: SessionParts,
    drive: Option<DriveRecord>,
    _place: ViewerPlace,
}

impl Viewer {
    /// Serves the viewer until it ends.
    ///
    /// # Parameters
    /// - `incoming`: what the connection received. It ends with the connection.
    /// - `outgoing`: what the connection has to send.
    /// - `stop`: is cancelled when otter stops.
    pub async fn serve<I, O>(
        mut self,
        incoming: &mut I,
        outgoing: &mut O,
        stop: &CancellationToken,
    ) -> ViewerEnd
    where
        I: Stream<Item = FromViewer> + Unpin,
        O: Sink<ToViewer> + Unpin,
    {
        let end = serve_viewer(&mut self.parts, incoming, outgoing, stop).await;
        if let (Some(drive), Some(driver)) = (&mut self.drive, &self.parts.driver) {
            drive.end = Some(end.clone());
            drive.counts = driver.counts();
        }
        end
    }
}

/// The viewers that are open.
#[derive(Default)]
struct OpenViewers {
    machines: Mutex<HashMap<MachineId, MachineViewers>>,
}

/// The viewers of one machine; at least one.
#[derive(Default)]
struct MachineViewers {
    viewers: Vec<ViewerInfo>,
    pieces: Arc<SharedPieces>,
}

/// The place of an open viewer in the list. It leaves the list when this value is dropped.
struct ViewerPlace {
    open: Arc<OpenViewers>,
    metrics: ScreenMetrics,
    machine: MachineId,
    viewer: ViewerId,
    mode: ViewerMode,
    pieces: Arc<SharedPieces>,
}

impl OpenViewers {
    /// Checks that a machine can have one more viewer.
    ///
    /// # Parameters
    /// - `token`: the name of the token that opens it. `None` if otter has no tokens.
    fn check(
        &self,
        machine: &Machine,
        token: Option<&str>,
        max_per_machine: usize,
    ) -> Result<(), Failure> {
        check_room(&self.machines(), machine, token, max_per_machine)
    }

    /// Adds a viewer to the list.
    ///
    /// # Parameters
    /// - `has_token`: whether the caller of the viewer is the name of a token.
    fn enter(
        self: &Arc<Self>,
        machine: &Machine,
        info: ViewerInfo,
        has_token: bool,
        viewers: &Viewers,
    ) -> Result<ViewerPlace, Failure> {
        let mut machines = self.machines();
        let token = has_token.then_some(info.caller.as_str());
        check_room(&machines, machine, token, viewers.max_per_machine)?;
        let (viewer, mode) = (info.id, info.mode);
        let of_machine = machines.entry(machine.id.clone()).or_default();
        of_machine.viewers.push(info);
        viewers.metrics.viewer(mode.as_str(), true);
        Ok(ViewerPlace {
            open: Arc::clone(self),
            metrics: viewers.metrics.clone(),
            machine: machine.id.clone(),
            viewer,
            mode,
            pieces: Arc::clone(&of_machine.pieces),
        })
    }

    fn machines(&self) -> MutexGuard<'_, HashMap<MachineId, MachineViewers>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ViewerPlace {
    fn drop(&mut self) {
        self.metrics.viewer(self.mode.as_str(), false);
        let mut machines = self.open.machines();
        if let Some(of_machine) = machines.get_mut(&self.machine) {
            of_machine.viewers.retain(|info| info.id != self.viewer);
            if of_machine.viewers.is_empty() {
                machines.remove(&self.machine);
            }
        }
    }
}

fn check_room(
    machines: &HashMap<MachineId, MachineViewers>,
    machine: &Machine,
    token: Option<&str>,
    max_per_machine: usize,
) -> Result<(), Failure> {
    let count = |open: &MachineViewers| open.viewers.len();
    let of_token = |token: &str| {
        let all = machines.values().flat_map(|open| &open.viewers);
        all.filter(|viewer| viewer.caller == token).count()
    };
    let (own, all) =
        (machines.get(&machine.id).map_or(0, count), machines.values().map(count).sum::<usize>());
    let detail = if own >= max_per_machine {
        format!(
            "{} has {own} viewers, which is the most that screens.max_viewers allows. Close one of \
             them, or use one of the pictures: GET /v1/machines/{{machine}}/screen.png.",
            machine.name
        )
    } else if let Some(token) = token.filter(|token| of_token(token) >= MAX_OF_TOKEN) {
        format!(
            "The token {token} has {MAX_OF_TOKEN} viewers of screens, which is the most. Close one \
             of them."
        )
    } else if all >= MAX_VIEWERS {
        format!("otter serves {all} viewers of screens, which is the most. Close one of them.")
    } else {
        return Ok(());
    };
    Err(Failure::new(FailureKind::TooManyConsoles, detail).with_machine(&machine.id, &machine.name))
}

/// The record of the end of a driver, without its end.
///
/// # Parameters
/// - `at`: when it began to drive.
fn driver_record(
    at: Timestamp,
    requester: &Requester,
    machine: &Machine,
    lease: Option<LeaseId>,
) -> AuditRecord {
    let record = AuditRecord::new(at, AuditAction::DriverEnded, AuditOutcome::Done);
    AuditRecord {
        machine: Some((machine.id.clone(), machine.name.clone())),
        lease,
        ..record.with_actor(&requester.caller.actor())
    }
}

/// The record that a driver began.
fn started(record: AuditRecord, requester: &Requester, force: bool) -> AuditRecord {
    let record = AuditRecord { action: AuditAction::DriverStarted, ..record };
    match (&requester.override_reason, force) {
        (Some(reason), _) => record.with_detail(format!("override: {reason}")),
        (None, true) => record.with_detail("with force"),
        (None, false) => record,
    }
}

/// Audits the end of a driver when it is dropped.
struct DriveRecord {
    record: AuditRecord,
    audit: Arc<Audit>,
    clock: Clock,
    /// `None` if the viewer was never served, or panicked.
    end: Option<ViewerEnd>,
    counts: InputCounts,
}

impl Drop for DriveRecord {
    fn drop(&mut self) {
        let InputCounts { keys, pointer_events, lost } = self.counts;
        let reason = self.end.as_ref().map_or("interrupted", ViewerEnd::as_str);
        let lost = if lost > 0 { format!(", {lost} of them lost") } else { String::new() };
        let detail = format!("{reason}; {keys} key events, {pointer_events} pointer events{lost}");
        let at = self.clock.now();
        let duration = Some(between(self.record.at, at));
        self.audit.record(AuditRecord { at, duration, ..self.record.clone() }.with_detail(detail));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(caller: &str) -> ViewerInfo {
        ViewerInfo {
            id: ViewerId::new(uuid::Uuid::nil()),
            caller: caller.to_owned(),
            mode: ViewerMode::View,
            since: Timestamp::UNIX_EPOCH,
            address: None,
        }
    }

    #[test]
    fn otter_serves_at_most_256_viewers_of_all_machines() {
        let mut machines: HashMap<MachineId, MachineViewers> = HashMap::new();
        for number in 0..8 {
            let viewers = vec![viewer("ci"); 32];
            let of_machine = MachineViewers { viewers, ..MachineViewers::default() };
            machines.insert(MachineId::from_backend(number.to_string()), of_machine);
        }
        let other = Machine::new(MachineId::from_backend("other"));
        let refused = check_room(&machines, &other, None, 32).unwrap_err();
        assert_eq!(refused.kind, FailureKind::TooManyConsoles);
        assert!(refused.detail.contains("256 viewers"), "{refused}");
        machines.values_mut().next().unwrap().viewers.pop();
        assert!(check_room(&machines, &other, None, 32).is_ok());
        let full = machines.iter().find(|(_, open)| open.viewers.len() == 32).unwrap().0;
        let refused = check_room(&machines, &Machine::new(full.clone()), None, 32).unwrap_err();
        assert!(refused.detail.contains("screens.max_viewers"), "{refused}");
    }

    #[test]
    fn a_token_has_at_most_64_viewers_of_all_machines() {
        let mut machines: HashMap<MachineId, MachineViewers> = HashMap::new();
        for number in 0..2 {
            let viewers = vec![viewer("ci"); 32];
            let of_machine = MachineViewers { viewers, ..MachineViewers::default() };
            machines.insert(MachineId::from_backend(number.to_string()), of_machine);
        }
        let other = Machine::new(MachineId::from_backend("other"));
        let refused = check_room(&machines, &other, Some("ci"), 32).unwrap_err();
        assert_eq!(refused.kind, FailureKind::TooManyConsoles);
        assert!(refused.detail.contains("The token ci has 64 viewers"), "{refused}");
        for token in [Some("ann"), None] {
            assert!(check_room(&machines, &other, token, 32).is_ok(), "{token:?}");
        }
        machines.values_mut().next().unwrap().viewers.pop();
        assert!(check_room(&machines, &other, Some("ci"), 32).is_ok());
    }
}
