//! Jobs without screens: a preparation that waits for a text on the screen fails.

use async_trait::async_trait;
use otter::domain::failure::{Failure, FailureKind};
use otter::domain::machine::MachineIdentity;
use otter::domain::screen_text::ScreenText;
use otter::service::jobs::screen_watch::{ScreenSight, ScreenWatch};
use tokio::sync::watch;

/// No machine has a screen.
pub struct NoScreens;

#[async_trait]
impl ScreenWatch for NoScreens {
    async fn await_text(
        &self,
        _: &MachineIdentity,
        _: &ScreenText,
        _: &watch::Sender<ScreenSight>,
    ) -> Result<bool, Failure> {
        Err(Failure::new(FailureKind::NotSupported, "The machines of this test have no screens."))
    }
}
