//! `otter doctor --console`: checks the way to the screen of one machine, step by step.
//!
//! ```text
//! machine ─► limit ─► ticket ─► frame ─► picture ─► with --restart: reset, revert
//!    └── off, not found: the checks end
//! ```
//! All but `--restart` only look. otter itself resets and reverts the machine, with the lease of
//! the command line, because doctor knows nothing of leases.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::host_session::{ConnectedHost, with_host};
use super::server::OtterCalls;
use crate::app::Settings;
use crate::domain::machine::Machine;
use crate::domain::machine_reference::MachineReference;
use crate::domain::power::PowerState;
use crate::esx::{Finding, Outcome};
use crate::hypervisor::{HostError, HostErrorKind, Hypervisor, ScreenObject};
use crate::service::audit::Audit;
use crate::service::callers::Callers;
use crate::service::hosts::Hosts;
use crate::service::leases::published::PublishedLeases;
use crate::service::live_settings::LiveSettings;
use crate::service::screens::{Screens, ScreensParts, png};
use crate::storage::Storage;
use crate::store::Store;
use crate::supervisor::{Signals, Supervisor};
use crate::telemetry::metrics::Metrics;

/// The properties that say how many consoles a machine can have, and has.
const LIMIT: &str = "config.maxMksConnections";
const IN_USE: &str = "runtime.numMksConnections";

/// How long the first picture may take.
const FRAME_LIMIT: Duration = Duration::from_secs(30);

/// After a restart of a machine, a host needs several attempts.
const ATTEMPTS: u32 = 11;
const ATTEMPT_PAUSE: Duration = Duration::from_secs(5);

/// How long otter may take to reset or revert the machine.
const RESTART_TIMEOUT: Duration = Duration::from_mins(5);

/// What the command line asks for.
pub struct ConsoleChecks {
    /// A machine as the API accepts it.
    pub machine: String,
    /// The otter that resets and reverts the machine. `None`: doctor only looks.
    pub restart: Option<OtterCalls>,
}

/// The checks of one machine.
struct Checks<'a> {
    host: &'a ConnectedHost,
    settings: &'a Settings,
    on_finding: &'a mut (dyn FnMut(Finding) + Send),
    none_failed: bool,
}

/// Checks the way to the screen of a machine, and passes each finding to `on_finding`. Returns
/// whether no check failed.
///
/// # Errors
/// The host cannot be reached.
pub async fn check_console(
    settings: &Settings,
    checks: &ConsoleChecks,
    on_finding: &mut (dyn FnMut(Finding) + Send),
) -> anyhow::Result<bool> {
    with_host(settings, async |host: &ConnectedHost| {
        let mut run = Checks { host, settings, on_finding, none_failed: true };
        let Some(machine) = run.machine(&checks.machine) else { return Ok(false) };
        run.limit(&machine).await;
        if run.ticket(&machine, "ticket").await {
            run.frame(&machine).await?;
        }
        run.picture(&machine).await;
        match &checks.restart {
            None => run.skip_restarts(),
            Some(otter) => {
                run.restart(otter, &machine, "reset", "/power", json!({"action": "reset"})).await;
                run.restart(otter, &machine, "revert", "/revert", json!({"power_on": true})).await;
            }
        }
        Ok(run.none_failed)
    })
    .await
}

impl Checks<'_> {
    fn add(
        &mut self,
        check: &'static str,
        outcome: Outcome,
        found: impl Into<String>,
        advice: Option<&str>,
    ) {
        self.none_failed &= outcome != Outcome::Failed;
        let advice = advice.map(str::to_owned);
        (self.on_finding)(Finding { check, outcome, found: found.into(), advice });
    }

    /// Finds the machine. `None` if there is none, or it has no screen.
    fn machine(&mut self, reference: &str) -> Option<Arc<Machine>> {
        const CHECK: &str = "machine";
        let found = self.find(reference);
        let [machine] = found.as_slice() else {
            let found = match found.len() {
                0 => format!("No machine of the host goes by {reference:?}."),
                several => format!("{several} machines of the host go by {reference:?}."),
            };
            let advice = "Write its id, name:<exact>, uuid:<…> or mac:<…>.";
            self.add(CHECK, Outcome::Failed, found, Some(advice));
            return None;
        };
        let Machine { id, name, power_state, .. } = &**machine;
        if *power_state == Some(PowerState::On) {
            self.add(CHECK, Outcome::Good, format!("{name} ({id}) is on."), None);
            return Some(Arc::clone(machine));
        }
        let found = format!("{name} ({id}) is not on, so it has no screen.");
        self.add(CHECK, Outcome::Failed, found, Some("Power it on, and try again."));
        None
    }

    fn find(&self, reference: &str) -> Vec<Arc<Machine>> {
        let Ok(reference) = reference.parse::<MachineReference>() else { return Vec::new() };
        let contents = self.host.inventory.contents();
        let near = contents.near_reference(&reference);
        let matching = reference.matching(near.iter().map(|machine| &***machine));
        let ids = matching.into_iter().map(|machine| machine.id.clone());
        ids.filter_map(|id| contents.machine(&id).cloned()).collect()
    }

    /// How many consoles the machine can have.
    async fn limit(&mut self, machine: &Machine) {
        const CHECK: &str = "limit";
        let paths = [LIMIT, IN_USE].map(str::to_owned);
        let read = match self.host.hypervisor.properties(&machine.id, &paths).await {
            Ok(read) => read,
            Err(error) => {
                let found = format!("The number of consoles is not known. {}", error.message);
                self.add(CHECK, Outcome::Warning, found, None);
                return;
            }
        };
        let number = |name: &str| read.get(name).and_then(Value::as_u64);
        let in_use = number(IN_USE).unwrap_or_default();
        match number(LIMIT) {
            None => {
                let found = format!("{in_use} consoles are open. The host reports no limit.");
                self.add(CHECK, Outcome::Good, found, None);
            }
            Some(limit) if in_use >= limit => {
                let found = format!("All {limit} consoles of the machine are in use.");
                let advice = "Close the consoles of other programs. Connections that were cut stay \
                              counted until the machine is powered off or moves to another host. \
                              The vmx key RemoteDisplay.maxConnections sets the limit.";
                self.add(CHECK, Outcome::Failed, found, Some(advice));
            }
            Some(1) => {
                let found = "The machine allows a single console, which otter takes.";
                let advice = "A person who opens it in the host's web client locks otter out, and \
                              the other way round: raise RemoteDisplay.maxConnections in the vmx \
                              file if people use it.";
                self.add(CHECK, Outcome::Warning, found, Some(advice));
            }
            Some(limit) => {
                let found = format!("{in_use} of {limit} consoles are in use.");
                self.add(CHECK, Outcome::Good, found, None);
            }
        }
    }

    /// Takes a ticket, opens its WebSocket, and closes it. Returns whether that worked.
    async fn ticket(&mut self, machine: &Machine, check: &'static str) -> bool {
        let clock = self.host.clock.clone();
        let began = clock.elapsed();
        match self.open_and_close(machine).await {
            Ok(()) => {
                let took = clock.elapsed().saturating_sub(began).as_millis();
                let found = format!(
                    "The host gave a ticket, and its WebSocket speaks the subprotocol binary \
                     ({took} ms)."
                );
                self.add(check, Outcome::Good, found, None);
                true
            }
            Err(error) => {
                self.add(check, Outcome::Failed, error.message.clone(), advice(error.kind));
                false
            }
        }
    }

    async fn open_and_close(&self, machine: &Machine) -> Result<(), HostError> {
        let mut connection = self.host.hypervisor.open_screen(&machine.id).await?;
        // A host counts connections that are only cut as open. This one may be broken already.
        let _ = connection.stream.shutdown().await;
        Ok(())
    }

    /// Reads a whole picture over a console, as otter does.
    async fn frame(&mut self, machine: &Arc<Machine>) -> anyhow::Result<()> {
        const CHECK: &str = "frame";
        let clock = self.host.clock.clone();
        let supervisor = Supervisor::new(clock.clone(), Duration::from_secs(5));
        let screens = self.screens(&supervisor).await?;
        let began = clock.elapsed();
        let confirmed = match screens.use_screen(machine) {
            Ok(user) => match user.opened(FRAME_LIMIT).await {
                Ok(()) => user.confirmed(FRAME_LIMIT).await,
                Err(failure) => Err(failure),
            },
            Err(failure) => Err(failure),
        };
        match confirmed {
            Ok(frame) => {
                let took = clock.elapsed().saturating_sub(began).as_millis();
                let one_colour = frame.picture().is_some_and(|picture| picture.is_one_colour());
                let blank =
                    if one_colour { " It is of one colour: the screen may be off." } else { "" };
                let found = format!(
                    "The first whole picture has {} pixels and came after {took} ms.{blank}",
                    frame.size
                );
                self.add(CHECK, Outcome::Good, found, None);
            }
            Err(failure) => {
                let advice = "The ticket was good, but the console does not send the whole screen. \
                              A proxy between otter and the host may not pass WebSockets.";
                self.add(CHECK, Outcome::Failed, failure.detail, Some(advice));
            }
        }
        drop(screens);
        supervisor.stop();
        let (_, signals) = Signals::from_sender();
        supervisor.run(signals).await;
        Ok(())
    }

    async fn screens(&self, supervisor: &Supervisor) -> anyhow::Result<Screens> {
        let store: Arc<dyn Storage> = Arc::new(Store::in_memory().await?);
        let clock = self.host.clock.clone();
        let callers = Callers::load(Arc::clone(&store), clock.clone()).await;
        Ok(Screens::new(ScreensParts {
            hosts: Hosts::from_host(Arc::clone(&self.host.hypervisor) as _),
            inventory: Arc::clone(&self.host.inventory),
            leases: Arc::new(PublishedLeases::default()),
            live: LiveSettings::new(self.settings.reloadable()),
            callers: Arc::new(callers.context("the tokens cannot be read")?),
            audit: Arc::new(Audit::new(store, clock.clone())),
            supervisor: supervisor.clone(),
            clock,
            metrics: Metrics::default().screens().clone(),
            settings: self.settings.screens.clone(),
        }))
    }

    /// Reads a picture without a console, which otter does if the host refuses one.
    async fn picture(&mut self, machine: &Machine) {
        const CHECK: &str = "picture";
        let object = ScreenObject::Machine(machine.id.clone());
        let read = self.host.hypervisor.screen_picture(&object).await;
        match read.map(|bytes| png::decode(&bytes)) {
            Ok(Ok(picture)) => {
                let found = format!(
                    "GET /screen gives a picture of {} pixels, which otter shows if the host \
                     refuses a console.",
                    picture.size
                );
                self.add(CHECK, Outcome::Good, found, None);
            }
            Ok(Err(error)) => {
                let found = format!("The answer to GET /screen is no picture: {error}.");
                let advice = "otter shows no screen if the host refuses a console.";
                self.add(CHECK, Outcome::Warning, found, Some(advice));
            }
            Err(error) => {
                let found = format!("GET /screen gives no picture. {}", error.message);
                self.add(CHECK, Outcome::Warning, found, advice(error.kind));
            }
        }
    }

    fn skip_restarts(&mut self) {
        let found = "Whether a console can be opened after a reset and a revert was not checked.";
        let advice = "Pass --restart, --url and --lease: otter then resets the machine, and \
                      reverts it to its current snapshot.";
        self.add("restart", Outcome::Warning, found, Some(advice));
    }

    /// Lets otter restart the machine, and checks how soon it has a console again.
    ///
    /// # Parameters
    /// - `below`, `body`: the request.
    async fn restart(
        &mut self,
        otter: &OtterCalls,
        machine: &Machine,
        check: &'static str,
        below: &str,
        body: Value,
    ) {
        let clock = self.host.clock.clone();
        let below = format!("{below}?wait={}s", RESTART_TIMEOUT.as_secs());
        let request = otter.request(Method::POST, &machine.id.to_string(), &below).json(&body);
        if let Err(error) = OtterCalls::call(request, RESTART_TIMEOUT * 2).await {
            let advice = "otter did not restart the machine, so nothing was checked.";
            self.add(check, Outcome::Failed, format!("{error:#}."), Some(advice));
            return;
        }
        let began = clock.elapsed();
        let mut last = None;
        for attempt in 1..=ATTEMPTS {
            match self.open_and_close(machine).await {
                Ok(()) => {
                    let took = clock.elapsed().saturating_sub(began).as_millis();
                    let found = format!(
                        "A console could be opened {took} ms after the {check}, at attempt \
                         {attempt}."
                    );
                    self.add(check, Outcome::Good, found, None);
                    return;
                }
                Err(error) => last = Some(error),
            }
            clock.sleep(ATTEMPT_PAUSE).await;
        }
        let (message, advice) = last.map_or_else(
            || (String::new(), None),
            |error| (error.message.clone(), advice(error.kind)),
        );
        let found = format!("No console could be opened after the {check}. {message}");
        self.add(check, Outcome::Failed, found, advice);
    }
}

/// What to do if the host refuses a console.
const fn advice(kind: HostErrorKind) -> Option<&'static str> {
    match kind {
        HostErrorKind::Forbidden => Some(
            "Give the role of otter's account the privilege \
             VirtualMachine.Interact.ConsoleInteract.",
        ),
        HostErrorKind::ScreenLimitReached => Some(
            "Close the consoles of other programs, or raise RemoteDisplay.maxConnections in the \
             vmx file of the machine.",
        ),
        HostErrorKind::NotSupported => {
            Some("This host has no webmks consoles: it is older than ESX 6.0, or no ESX.")
        }
        HostErrorKind::Unreachable | HostErrorKind::Protocol | HostErrorKind::Rejected => Some(
            "Consoles use the same address, port, proxy and certificate as the API. A proxy in \
             between must pass WebSockets.",
        ),
        _ => None,
    }
}
