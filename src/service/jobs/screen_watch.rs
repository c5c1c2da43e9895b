//! What a preparation that waits for a text on the screen needs of the screens, which are built on
//! jobs and implement this.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::domain::failure::Failure;
use crate::domain::machine::MachineIdentity;
use crate::domain::screen_text::ScreenText;

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
        sight: &watch::Sender<ScreenSight>,
    ) -> Result<bool, Failure>;
}

/// What a preparation sees of the screen while it waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScreenSight {
    /// The last text that was read.
    pub text: Option<Arc<str>>,
    /// Why no text can be read now.
    pub trouble: Option<String>,
}
