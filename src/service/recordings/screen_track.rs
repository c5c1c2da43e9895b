//! Records a screen. The recorder is a user of the screen like a viewer: it gets the frames and
//! what changed in them, and writes the changed regions at most four times a second.
//!
//! All recorders together write one after the other, and rest after each write as long as it took.
//! So they take at most half of one processor, however many there are, and record fewer frames if
//! there are many.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::pauses::RecordingPauses;
use super::rec_file::{Entry, RecError, RecWriter, Recorded};
use super::status::RecordingState;
use super::track::{TrackEnd, TrackFile, TrackParts};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::Machine;
use crate::domain::screen::{Region, ScreenSize};
use crate::service::screens::viewer_damage::{PendingDamage, PieceLimits, split};
use crate::service::screens::{Frame, FrameChange, ScreenUser, Screens};

/// The shortest time between two writes of one screen.
const INTERVAL: Duration = Duration::from_millis(250);

/// The time before the next try to use a screen that cannot be used.
const REJOIN_AFTER: Duration = Duration::from_secs(2);

/// The largest piece of a screen that one entry has.
const PIECE: PieceLimits = PieceLimits { width: ScreenSize::MAX_SIDE, pixels: 1 << 20 };

/// Lets all recorders of screens write one after the other.
#[derive(Clone, Debug)]
pub struct Pace(Arc<Semaphore>);

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// The recorder of one screen.
pub struct ScreenTrack {
    pub screens: Arc<Screens>,
    pub machine: Arc<Machine>,
    pub pauses: RecordingPauses,
    pub pace: Pace,
    pub parts: TrackParts,
    pub file: TrackFile,
    pub stop: CancellationToken,
}

/// What the file shows last, and what it lacks.
#[derive(Default)]
struct Written {
    /// The size of the screen. `None` if the file shows no screen.
    size: Option<ScreenSize>,
    pending: PendingDamage,
    is_paused: bool,
}

/// Why a recorder stops to use a screen.
enum Leave {
    Stopped,
    /// The use of the screen ended. Another use may begin.
    Screen(Box<Failure>),
    File(RecError),
}

impl From<RecError> for Leave {
    fn from(error: RecError) -> Self {
        Self::File(error)
    }
}

impl ScreenTrack {
    /// Records until the track is stopped or cannot go on.
    ///
    /// # Returns
    /// The file, which is synced but not ended.
    pub async fn run(mut self) -> (TrackFile, TrackEnd) {
        let end = loop {
            let failure = match self.screens.join_screen(&self.machine) {
                Ok(user) => match self.follow(user).await {
                    Leave::Stopped => break TrackEnd::Stopped,
                    Leave::File(error) => break error.into(),
                    Leave::Screen(failure) => *failure,
                },
                Err(failure) => failure,
            };
            if failure.kind == FailureKind::NotSupported {
                break TrackEnd::Failed { label: "screen", detail: failure.detail };
            }
            tracing::debug!(
                lease = %self.parts.lease,
                detail = failure.detail,
                "the screen cannot be recorded at the moment"
            );
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break TrackEnd::Stopped,
                () = self.parts.clock.sleep(REJOIN_AFTER) => {}
            }
        };
        let end = match (end, self.file.sync(false).await) {
            (TrackEnd::Stopped, Err(error)) => error.into(),
            (end, _) => end,
        };
        (self.file, end)
    }

    /// Records one use of the screen.
    async fn follow(&mut self, mut user: ScreenUser) -> Leave {
        let mut written = Written::default();
        let mut frame = user.frame();
        let mut write_at = Duration::ZERO;
        loop {
            let now = self.parts.clock.elapsed();
            // The frame that is written was shown before this line. So if the line finds no pause,
            // the frame shows nothing of a secret.
            let is_paused = self.pauses.is_paused(&self.machine.id);
            if let Err(error) = self.set_paused(&mut written, is_paused).await {
                return error.into();
            }
            let is_pending = !is_paused && written.lacks(&frame);
            if is_pending && now >= write_at {
                match self.write(&mut written, &frame).await {
                    Ok(true) => {}
                    Ok(false) => return Leave::Stopped,
                    Err(error) => return error.into(),
                }
                write_at = self.parts.clock.elapsed() + INTERVAL;
                continue;
            }
            let sync_at = self.file.sync_at();
            if now >= sync_at {
                let is_newest = user.frame().version == frame.version;
                if let Err(error) = self.file.sync(is_pending || !is_newest).await {
                    return error.into();
                }
                continue;
            }
            let wake_at = if is_pending { write_at.min(sync_at) } else { sync_at };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Leave::Stopped,
                () = self.pauses.wait(&self.machine.id, !is_paused) => {}
                change = user.changed() => match change {
                    Ok(FrameChange { frame: new, damage }) => {
                        for region in &damage {
                            written.pending.add(*region, new.size);
                        }
                        frame = new;
                    }
                    Err(failure) => return Leave::Screen(Box::new(failure)),
                },
                () = self.parts.clock.sleep(wake_at.saturating_sub(now)) => {}
            }
        }
    }

    async fn set_paused(&mut self, written: &mut Written, is_paused: bool) -> Result<(), RecError> {
        if written.is_paused == is_paused {
            return Ok(());
        }
        written.is_paused = is_paused;
        if let Some(size) = written.size {
            written.pending.set_whole(size);
        }
        let (what, state) = if is_paused {
            (Recorded::Paused, RecordingState::Paused)
        } else {
            (Recorded::Resumed, RecordingState::Recording)
        };
        self.parts.statuses.update(self.parts.lease, |status| status.state = state);
        self.file.append(what).await
    }

    /// Writes what the file lacks of a frame. Returns false, and writes nothing, if the track is
    /// stopped before it is its turn.
    async fn write(&mut self, written: &mut Written, frame: &Arc<Frame>) -> Result<bool, RecError> {
        let pace = self.pace.clone();
        let turn = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(false),
            turn = pace.0.acquire() => turn,
        };
        let (started, at) = (self.parts.clock.elapsed(), self.file.at());
        if frame.live {
            let whole = frame.size.whole();
            let is_resized = written.size != Some(frame.size);
            if is_resized {
                written.pending.set_whole(frame.size);
            }
            written.size = Some(frame.size);
            let regions = written.pending.take_inside(whole);
            let frame = Arc::clone(frame);
            self.file
                .write(move |writer| write_regions(writer, at, &frame, is_resized, &regions))
                .await?;
        } else {
            written.size = None;
            self.file.append(Recorded::NoSignal).await?;
        }
        let took = self.parts.clock.elapsed().saturating_sub(started);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.parts.clock.sleep(took) => {}
        }
        drop(turn);
        Ok(true)
    }
}

impl Written {
    /// Whether the file lacks a part of a frame that it can get.
    fn lacks(&self, frame: &Frame) -> bool {
        if !frame.live {
            return self.size.is_some();
        }
        let is_shown = self.size == Some(frame.size);
        frame.complete && (!is_shown || self.pending.touches(frame.size.whole()))
    }
}

/// Writes regions of a frame.
fn write_regions(
    writer: &mut RecWriter,
    at: u64,
    frame: &Frame,
    is_resized: bool,
    regions: &[Region],
) -> Result<(), RecError> {
    if is_resized {
        writer.append(&Entry { at, what: Recorded::Size(frame.size) })?;
    }
    let (mut pixels, mut colours) = (Vec::new(), Vec::new());
    for region in split(regions, PIECE) {
        pixels.clear();
        frame.copy_region(region, &mut pixels);
        colours.clear();
        let of_pixel = |[blue, green, red, _]: &[u8; 4]| [*red, *green, *blue];
        colours.extend(pixels.as_chunks::<4>().0.iter().flat_map(of_pixel));
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(&colours)?;
        let zlib = zlib.finish()?;
        writer.append(&Entry { at, what: Recorded::Pixels { region, zlib } })?;
    }
    Ok(())
}
