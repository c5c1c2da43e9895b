//! Waits of preparations for a text on a serial port. Faults of the port are faults of the host:
//! the preparation goes on waiting, and its machine is never quarantined for them.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::conditions::{SerialConditions, SerialSearch};
use super::plain_text::last_text;
use super::{ReadFrom, Serial, SerialReader, find_port};
use crate::domain::failure::{Failure, FailureKind, SeenScreen};
use crate::domain::ids::JobId;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::power::PowerState;
use crate::domain::serial::SerialText;
use crate::service::jobs::text_watch::{SerialWatch, TextSight};
use crate::service::storage_watch::write_failure;

/// The pause before a preparation tries again to read a port.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

#[async_trait]
impl SerialWatch for Serial {
    async fn mark(&self, machine: &MachineIdentity, text: &SerialText, job: JobId) {
        if let Err(failure) = self.set_mark(machine, text, job).await {
            tracing::warn!(
                machine = %machine.id,
                %job,
                %failure,
                "output of a serial port from before a step of a preparation may count for it"
            );
        }
    }

    async fn await_text(
        &self,
        machine: &MachineIdentity,
        text: &SerialText,
        job: JobId,
        sight: &watch::Sender<TextSight>,
    ) -> Result<bool, Failure> {
        let conditions = SerialConditions::of_text(text);
        let mut position = None;
        loop {
            let seen = self.search(machine, text, job, &mut position, &conditions, sight);
            let failure = tokio::select! {
                biased;
                found = seen => match found {
                    Ok(()) => return Ok(true),
                    Err(failure) => failure,
                },
                () = self.not_on(machine) => return Ok(false),
            };
            match failure.kind {
                FailureKind::MachineGone => return Ok(false),
                // The machine is as it is configured, and no fault of it.
                FailureKind::NotSupported | FailureKind::NotFound => {
                    return Err(failure.caused_by(FailureKind::ConsoleUnavailable));
                }
                _ => {
                    sight.send_modify(|sight| sight.trouble = Some(failure.detail));
                    self.clock.sleep(RETRY_PAUSE).await;
                }
            }
        }
    }
}

impl Serial {
    async fn set_mark(
        &self,
        machine: &MachineIdentity,
        text: &SerialText,
        job: JobId,
    ) -> Result<(), Failure> {
        let machine = self.known(machine)?;
        let port = find_port(&machine, &text.port().to_string())?;
        // Opens the port, so that the first byte after the step is caught.
        let usage = self.join(&machine, port.key)?;
        usage.loaded().await?;
        let marked = usage.port().log.set_mark(job).await;
        marked.map_err(|error| write_failure(&error))
    }

    /// Searches the output of a port until the text is found.
    ///
    /// # Parameters
    /// - `position`: where an earlier search ended. It is moved on, so that a search that failed
    ///   goes on there.
    async fn search(
        &self,
        machine: &MachineIdentity,
        text: &SerialText,
        job: JobId,
        position: &mut Option<u64>,
        conditions: &SerialConditions,
        sight: &watch::Sender<TextSight>,
    ) -> Result<(), Failure> {
        let known = self.known(machine)?;
        let port = find_port(&known, &text.port().to_string())?;
        let mut reader = self.reader_after_mark(&known, port.key, job, *position).await?;
        *position = Some(reader.position());
        let mut search = SerialSearch::new(reader.position());
        let mut status = reader.usage().port().status.subscribe();
        loop {
            let trouble = status.borrow_and_update().reason.clone();
            note(sight, None, trouble);
            let piece = tokio::select! {
                biased;
                piece = reader.next() => piece?,
                // The sender lives as long as the reader.
                _ = status.changed() => continue,
            };
            if search.take(conditions, &piece).is_some() {
                return Ok(());
            }
            *position = Some(reader.position());
            let seen = last_text(search.tail(), SeenScreen::MAX_CHARACTERS);
            note(sight, Some(seen), None);
        }
    }

    /// A reader that begins at the mark of a preparation, or at the end if it made none.
    async fn reader_after_mark(
        &self,
        machine: &Machine,
        port: i32,
        job: JobId,
        position: Option<u64>,
    ) -> Result<SerialReader, Failure> {
        let usage = self.join(machine, port)?;
        usage.loaded().await?;
        let log = &usage.port().log;
        let from = position.or_else(|| log.mark_of(job));
        let from = from.map_or(ReadFrom::BeforeEnd(0), |from| {
            // The oldest output may have made room meanwhile.
            let bounds = log.bounds();
            ReadFrom::Offset(from.clamp(bounds.first, bounds.next))
        });
        self.subscribe(machine, port, from).await
    }

    /// Waits until a machine is not on, or is gone.
    async fn not_on(&self, machine: &MachineIdentity) {
        let mut machines = self.inventory.watch(&machine.id);
        loop {
            let known = self.known(machine);
            if !known.is_ok_and(|known| known.power_state == Some(PowerState::On)) {
                return;
            }
            if machines.changed().await.is_err() {
                // The inventory dropped the watcher between two changes.
                machines = self.inventory.watch(&machine.id);
            }
        }
    }
}

/// Passes on what a wait sees. What it saw before stays if there is no new text.
fn note(sight: &watch::Sender<TextSight>, text: Option<String>, trouble: Option<String>) {
    sight.send_if_modified(|sight| {
        let text = text.map(Into::into).or_else(|| sight.text.clone());
        let next = TextSight { text, trouble };
        let is_new = *sight != next;
        *sight = next;
        is_new
    });
}
