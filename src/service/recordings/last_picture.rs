//! The last picture of a lease, and the text on it: taken when the lease ends, before its machine
//! is released. They show what happened without a recording.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::pauses::RecordingPauses;
use super::status::{PictureWork, RecordingStatuses};
use crate::clock::Clock;
use crate::domain::artifact::{ArtifactName, ContentType};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::lease::Lease;
use crate::domain::machine::Machine;
use crate::domain::screen::Picture;
use crate::service::artifacts::{Artifacts, NewArtifact};
use crate::service::inventory::Inventory;
use crate::service::leases::before_release::BeforeRelease;
use crate::service::screens::wait::ScreenWaits;
use crate::service::screens::{Screens, png};
use crate::supervisor::Supervisor;

/// How long the release of a machine waits for its last picture.
const LIMIT: Duration = Duration::from_secs(5);

/// How long the picture may take. The rest of the limit is for the disk.
const TAKE_LIMIT: Duration = Duration::from_secs(4);

/// How long the host may take to confirm the picture. After that, an older one serves.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);

/// What the last pictures of leases are made of.
pub struct LastPictureParts {
    pub screens: Arc<Screens>,
    pub waits: Arc<ScreenWaits>,
    pub inventory: Arc<Inventory>,
    pub artifacts: Arc<Artifacts>,
    pub pauses: RecordingPauses,
    pub statuses: RecordingStatuses,
    pub supervisor: Supervisor,
    pub clock: Clock,
}

/// Takes the last pictures of leases.
pub struct LastPictureTaker(Arc<LastPictureParts>);

impl LastPictureTaker {
    #[must_use]
    pub fn new(parts: LastPictureParts) -> Self {
        Self(Arc::new(parts))
    }
}

#[async_trait]
impl BeforeRelease for LastPictureTaker {
    async fn before_release(&self, lease: &Arc<Lease>) {
        let Some(machine) = self.0.machine_to_show(lease) else { return };
        let (parts, lease) = (Arc::clone(&self.0), Arc::clone(lease));
        let id = lease.id;
        let taking = self.0.supervisor.spawn_isolated("last picture", async move {
            let work = parts.statuses.begin_picture(lease.id, parts.clock.now());
            if let Err(failure) = take(&parts, &lease, &machine, work).await {
                tracing::info!(lease = %id, detail = failure.detail, "there is no last picture");
            }
        });
        tokio::select! {
            biased;
            // A panic is logged, and the release goes on.
            _ = taking.join() => {}
            () = self.0.clock.sleep(LIMIT) => {
                tracing::warn!(lease = %id, "the last picture takes too long");
            }
        }
    }
}

impl LastPictureParts {
    /// The machine of a lease, if its screen was used or recorded.
    fn machine_to_show(&self, lease: &Lease) -> Option<Arc<Machine>> {
        let identity = lease.machine.as_ref()?;
        let is_shown = self.screens.was_used_since(&identity.id, lease.created_at)
            || self.statuses.has_screen(lease.id);
        let contents = self.inventory.contents();
        let machine = contents.machine(&identity.id).filter(|_| is_shown)?;
        identity.agrees_with(&machine.identity()).then(|| Arc::clone(machine))
    }

    /// The picture that the screen of a machine shows.
    async fn picture(&self, machine: &Machine) -> Result<Picture, Failure> {
        // A secret that was typed last may still be on the screen.
        self.pauses.wait(&machine.id, false).await;
        let user = self.screens.join_screen(machine)?;
        let before = user.frame();
        let (picture, failure) = match user.confirmed(CONFIRM_LIMIT).await {
            Ok(frame) => (frame.picture(), None),
            // A console that ended has no picture any more.
            Err(failure) => (user.frame().picture().or_else(|| before.picture()), Some(failure)),
        };
        picture.ok_or_else(|| {
            failure.unwrap_or_else(|| {
                Failure::new(FailureKind::ConsoleUnavailable, "The screen shows nothing yet.")
            })
        })
    }

    async fn limited_picture(&self, machine: &Machine) -> Result<Picture, Failure> {
        tokio::select! {
            biased;
            picture = self.picture(machine) => picture,
            () = self.clock.sleep(TAKE_LIMIT) => {
                let detail = "The screen did not show a picture in time.";
                Err(Failure::new(FailureKind::ConsoleUnavailable, detail))
            }
        }
    }
}

/// Stores the last picture of a lease, and lets its text be read. Does nothing if the lease has a
/// last picture.
async fn take(
    parts: &Arc<LastPictureParts>,
    lease: &Arc<Lease>,
    machine: &Machine,
    work: PictureWork,
) -> Result<(), Failure> {
    let name = ArtifactName::last_picture();
    if parts.artifacts.named(lease.id, &name).await?.is_some() {
        return Ok(());
    }
    let picture = parts.limited_picture(machine).await?;
    let file = encode(picture.clone()).await?;
    let new = NewArtifact::of_otter(name, Arc::clone(lease), ContentType::Png);
    parts.artifacts.store(new, &file).await?;
    let (reader, lease) = (Arc::clone(parts), Arc::clone(lease));
    // The release does not wait for the text.
    drop(parts.supervisor.spawn_isolated("last text", async move {
        let id = lease.id;
        if let Err(reason) = store_text(&reader, lease, picture).await {
            tracing::info!(lease = %id, reason, "the last picture has no text");
        }
        drop(work);
    }));
    Ok(())
}

async fn encode(picture: Picture) -> Result<Bytes, Failure> {
    let encoded = tokio::task::spawn_blocking(move || png::encode(&picture)).await;
    encoded.ok().and_then(Result::ok).ok_or_else(|| {
        Failure::new(FailureKind::Internal, "the last picture of a lease could not be encoded")
    })
}

/// Stores the text of a picture.
///
/// # Errors
/// Why there is none, as a text for the log.
async fn store_text(
    parts: &LastPictureParts,
    lease: Arc<Lease>,
    picture: Picture,
) -> Result<(), String> {
    let ocr = parts.waits.ocr();
    ocr.check_installed().map_err(|failure| failure.detail)?;
    let read = ocr.read(picture).await.map_err(|error| error.to_string())?;
    let new = NewArtifact::of_otter(ArtifactName::last_text(), lease, ContentType::Text);
    let stored = parts.artifacts.store(new, read.text().as_bytes()).await;
    stored.map(drop).map_err(|failure| failure.detail)
}
