//! What a preparation that waits for a text, on the screen or on a serial port, needs of the
//! screens and the serial ports, which are built on jobs and implement this.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::failure::Failure;
use crate::domain::ids::JobId;
use crate::domain::machine::MachineIdentity;
use crate::domain::screen_text::ScreenText;
use crate::domain::serial::SerialText;

/// Waits for texts on screens.
#[async_trait]
pub trait ScreenWatch: Send + Sync {
    /// Waits until the screen of a machine shows a text. Only frames count that the host confirmed
    /// after this call. While there is no screen, because the host refuses a console or otter has
    /// too many open, it tries again. Cancel safe.
    ///
    /// # Parameters
    /// - `sight`: gets what the screen shows meanwhile.
    ///
    /// # Returns
    /// Whether the text was seen. False if the machine is not on or is gone.
    ///
    /// # Errors
    /// `not-supported` if the host has no screens, or if no text can be read.
    async fn await_text(
        &self,
        machine: &MachineIdentity,
        text: &ScreenText,
        sight: &watch::Sender<TextSight>,
    ) -> Result<bool, Failure>;
}

/// Waits for texts on serial ports.
#[async_trait]
pub trait SerialWatch: Send + Sync {
    /// Marks the end of what the port of a text has output until now, so that only bytes after it
    /// count for [`SerialWatch::await_text`]. Called before each host call of a preparation: only
    /// what comes after its last revert or power step counts. A failure is logged, and the mark
    /// before it stays.
    ///
    /// # Parameters
    /// - `job`: the preparation. The mark of another job does not count.
    async fn mark(&self, machine: &MachineIdentity, text: &SerialText, job: JobId);

    /// Waits until a serial port outputs a text after the mark of the job. Without a mark, only
    /// what the port outputs after this call counts. While otter is not connected to the port, it
    /// goes on waiting. Cancel safe.
    ///
    /// # Parameters
    /// - `sight`: gets what the port outputs meanwhile.
    ///
    /// # Returns
    /// Whether the text was seen. False if the machine is not on or is gone.
    ///
    /// # Errors
    /// `not-found` if the machine has no such port, `not-supported` if the host gives no access to
    /// serial ports.
    async fn await_text(
        &self,
        machine: &MachineIdentity,
        text: &SerialText,
        job: JobId,
        sight: &watch::Sender<TextSight>,
    ) -> Result<bool, Failure>;
}

/// What a preparation sees while it waits for a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextSight {
    /// The last text that was read.
    pub text: Option<Arc<str>>,
    /// Why no text can be read now.
    pub trouble: Option<String>,
}
