//! Jobs without screens and serial ports: a preparation that waits for a text there fails.

use std::sync::Arc;

use async_trait::async_trait;
use otter::domain::failure::{Failure, FailureKind};
use otter::domain::ids::JobId;
use otter::domain::lease::Lease;
use otter::domain::machine::MachineIdentity;
use otter::domain::screen_text::ScreenText;
use otter::domain::serial::SerialText;
use otter::service::jobs::text_watch::{ScreenWatch, SerialWatch, TextSight};
use otter::service::leases::before_release::BeforeRelease;
use tokio::sync::watch;

/// No machine has a screen or a serial port.
pub struct NoScreens;

#[async_trait]
impl ScreenWatch for NoScreens {
    async fn await_text(
        &self,
        _: &MachineIdentity,
        _: &ScreenText,
        _: &watch::Sender<TextSight>,
    ) -> Result<bool, Failure> {
        Err(Failure::new(FailureKind::NotSupported, "The machines of this test have no screens."))
    }
}

#[async_trait]
impl SerialWatch for NoScreens {
    async fn mark(&self, _: &MachineIdentity, _: &SerialText, _: JobId) {}

    async fn await_text(
        &self,
        _: &MachineIdentity,
        _: &SerialText,
        _: JobId,
        _: &watch::Sender<TextSight>,
    ) -> Result<bool, Failure> {
        let detail = "The machines of this test have no serial ports.";
        Err(Failure::new(FailureKind::NotSupported, detail))
    }
}

#[async_trait]
impl BeforeRelease for NoScreens {
    async fn before_release(&self, _: &Arc<Lease>) {}
}
