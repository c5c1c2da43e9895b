//! Waits for the output of serial ports.
//!
//! ```text
//! what is kept from `since` on ─► what comes ─► a condition holds: its match
//!                                      │ machine off and no job: invalid-power-state
//!                                      └ right ended, machine gone: the failure
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::conditions::{SerialConditions, SerialMatch, SerialSearch};
use super::plain_text::last_text;
use super::ways::NoWay;
use super::{ReadFrom, Serial, SerialPiece, SerialReader};
use crate::domain::failure::{Failure, FailureKind, SeenScreen};
use crate::domain::machine::{Machine, MachineIdentity, SerialPort};
use crate::domain::power::PowerState;
use crate::domain::serial::PortAccess;
use crate::hypervisor::Capability;
use crate::service::screens::wait::RightCheck;

/// How often otter checks whether a machine that is not on still has a job.
const JOB_PAUSE: Duration = Duration::from_secs(1);

/// The bytes at the end of the output that a wait shows if its time is up.
const TAIL: u64 = 8 * 1024;

/// The terms of one wait.
pub struct SerialWaitTerms<'a> {
    pub conditions: &'a SerialConditions,
    /// Where the search begins.
    pub since: ReadFrom,
    /// How long the wait goes on after it has searched what is kept. `None`: not at all.
    pub limit: Option<Duration>,
    /// Checks again that the caller may look, after each change of rights.
    pub may_look: &'a RightCheck<'a>,
    /// Whether a job works on the machine, so that it may output something although it is not on.
    pub has_job: &'a (dyn Fn(&Machine) -> bool + Send + Sync),
}

impl Serial {
    /// Waits until one of the conditions holds. If the future is dropped, the wait ends.
    ///
    /// # Errors
    /// - `offset-out-of-range` if the port does not have the offset `since`.
    /// - `invalid-power-state` if what is kept does not match, the machine is not on and no job
    ///   works on it.
    /// - `not-supported` if otter cannot reach the port, whatever the machine does.
    /// - `machine-gone` if the machine is removed from the host.
    /// - The failure of `may_look` if the right of the caller ended.
    /// - `wait-timeout` without what was seen, if no condition came true.
    /// - `too-many-consoles`, `shutting-down`.
    pub async fn wait(
        &self,
        machine: &Machine,
        port: &SerialPort,
        terms: &SerialWaitTerms<'_>,
    ) -> Result<SerialMatch, Failure> {
        let with_machine = |failure: Failure| failure.with_machine(&machine.id, &machine.name);
        let mut reader = self.subscribe(machine, port.key, terms.since).await?;
        let mut search = SerialSearch::new(reader.position());
        let known = search_known(&mut reader, &mut search, terms.conditions).await;
        if let Some(found) = known.map_err(with_machine)? {
            return Ok(found);
        }
        let time_up = || {
            let detail = format!("The serial port of {} did not output it.", machine.name);
            Failure::new(FailureKind::WaitTimeout, detail)
        };
        let Some(limit) = terms.limit else { return Err(with_machine(time_up())) };
        let following = follow(&mut reader, &mut search, terms.conditions);
        let identity = machine.identity();
        let refused = self.until_refused(&identity, |machine| {
            (terms.may_look)(machine)?;
            self.check_can_come(machine, port.key, (terms.has_job)(machine))
        });
        tokio::select! {
            biased;
            found = following => found.map_err(with_machine),
            failure = refused => Err(with_machine(failure)),
            () = self.clock.sleep(limit) => Err(with_machine(time_up())),
        }
    }

    /// The failure of a wait whose time is up, with the last output.
    ///
    /// # Parameters
    /// - `detail`: what did not come true in which time.
    pub async fn timed_out(&self, machine: &Machine, port: &SerialPort, detail: &str) -> Failure {
        let tail = self.tail(machine, port.key).await;
        let text = last_text(&tail, SeenScreen::MAX_CHARACTERS);
        let text = Some(text.as_str()).filter(|text| !text.is_empty());
        let detail = match self.access(machine, port).1 {
            Some(trouble) => format!("{detail} {trouble}"),
            None => detail.to_owned(),
        };
        Failure::new(FailureKind::WaitTimeout, detail)
            .with_machine(&machine.id, &machine.name)
            .with_seen(SeenScreen::new(text, None))
    }

    /// The last bytes that are kept of a port.
    async fn tail(&self, machine: &Machine, port: i32) -> Vec<u8> {
        let mut tail = Vec::new();
        let from = ReadFrom::BeforeEnd(TAIL);
        let Ok(mut reader) = self.subscribe(machine, port, from).await else { return tail };
        let end = reader.bounds().next;
        while reader.position() < end {
            match reader.available(super::reader::MAX_PIECE).await {
                Some(SerialPiece::Bytes { bytes, .. }) => tail.extend_from_slice(&bytes),
                Some(SerialPiece::Gap { .. }) => {}
                None => break,
            }
        }
        tail
    }

    /// The machine of a wait or a call, as it is now.
    ///
    /// # Errors
    /// `machine-gone`.
    pub(super) fn known(&self, machine: &MachineIdentity) -> Result<Arc<Machine>, Failure> {
        let contents = self.inventory.contents();
        let known = contents.machine(&machine.id).filter(|known| machine.can_be(&known.identity()));
        known.cloned().ok_or_else(|| {
            let detail = "The machine was removed from the host, and its serial ports with it.";
            Failure::new(FailureKind::MachineGone, detail)
        })
    }

    /// Checks that a port can output something, or take input.
    ///
    /// # Parameters
    /// - `has_job`: whether a job works on the machine, which may turn it on.
    ///
    /// # Errors
    /// `invalid-power-state` if the machine is not on, `not-supported` if otter cannot reach the
    /// port, or the host gives no access to serial ports.
    pub(super) fn check_can_come(
        &self,
        machine: &Machine,
        port: i32,
        has_job: bool,
    ) -> Result<(), Failure> {
        self.hosts.with_capability(Capability::Serial, machine)?;
        let with_machine = |failure: Failure| failure.with_machine(&machine.id, &machine.name);
        let port = machine.serial_ports.iter().find(|known| known.key == port);
        let Some(port) = port else {
            let detail = format!("{} does not have this port any more.", machine.name);
            return Err(with_machine(Failure::new(FailureKind::NotSupported, detail)));
        };
        if let Err(NoWay { access: PortAccess::Unavailable, reason }) = self.ways.to(machine, port)
        {
            return Err(with_machine(Failure::new(FailureKind::NotSupported, reason)));
        }
        let state = match machine.power_state {
            Some(PowerState::On) => return Ok(()),
            _ if has_job => return Ok(()),
            Some(PowerState::Off) => "is off",
            Some(PowerState::Suspended) => "is suspended",
            None => "is in a power state that the host does not report",
        };
        let detail = format!("{} {state}, so its serial ports do nothing.", machine.name);
        Err(with_machine(Failure::new(FailureKind::InvalidPowerState, detail)))
    }

    /// Waits until a check of a machine fails, or the machine is gone. It is checked after each
    /// change of the machine and of a right.
    ///
    /// # Returns
    /// The failure.
    pub async fn until_refused(
        &self,
        machine: &MachineIdentity,
        check: impl Fn(&Machine) -> Result<(), Failure>,
    ) -> Failure {
        let mut machines = self.inventory.watch(&machine.id);
        let mut rights = self.screens.right_changes();
        loop {
            let checked = self.known(machine).and_then(|known| {
                check(&known)?;
                Ok(known.power_state == Some(PowerState::On))
            });
            let is_on = match checked {
                Ok(is_on) => is_on,
                Err(failure) => return failure,
            };
            tokio::select! {
                changed = machines.changed() => {
                    if changed.is_err() {
                        // The inventory dropped the watcher between two changes.
                        machines = self.inventory.watch(&machine.id);
                    }
                }
                () = rights.changed() => {}
                // The end of a job is no change of the machine.
                () = self.clock.sleep(JOB_PAUSE), if !is_on => {}
            }
        }
    }
}

/// Searches what is kept already.
async fn search_known(
    reader: &mut SerialReader,
    search: &mut SerialSearch,
    conditions: &SerialConditions,
) -> Result<Option<SerialMatch>, Failure> {
    let end = reader.bounds().next;
    while reader.position() < end {
        let piece = reader.next().await?;
        if let Some(found) = search.take(conditions, &piece) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Searches what comes.
///
/// # Errors
/// The end of the port.
pub(super) async fn follow(
    reader: &mut SerialReader,
    search: &mut SerialSearch,
    conditions: &SerialConditions,
) -> Result<SerialMatch, Failure> {
    loop {
        let piece = reader.next().await?;
        if let Some(found) = search.take(conditions, &piece) {
            return Ok(found);
        }
    }
}
