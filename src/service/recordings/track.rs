//! One track of a recording: the screen, or one serial port. It has a file, which is written and
//! synced on blocking threads, at most a second after each change. Each second the track says until
//! when it is on the disk.

use std::path::PathBuf;
use std::time::Duration;

use super::rec_file::{Continued, Entry, RecError, RecWriter, Recorded};
use super::status::RecordingStatuses;
use crate::clock::Clock;
use crate::domain::ids::LeaseId;
use crate::telemetry::artifacts::ArtifactMetrics;

/// How long after a change the file is synced, so that a crash loses at most this time.
const SYNC_AFTER: Duration = Duration::from_secs(1);

/// What a track is made of, apart from its file.
#[derive(Clone)]
pub struct TrackParts {
    pub lease: LeaseId,
    /// The name of the track.
    pub name: String,
    pub clock: Clock,
    pub statuses: RecordingStatuses,
    pub metrics: ArtifactMetrics,
    /// The largest number of bytes of the file.
    pub limit: u64,
}

/// The file of a track.
pub struct TrackFile {
    parts: TrackParts,
    /// `None` only while a blocking thread writes, and after a panic of that thread.
    writer: Option<RecWriter>,
    /// The time of an entry that is written when `opened_at` is now, in milliseconds since the
    /// recording began.
    offset: u64,
    opened_at: Duration,
    dirty_since: Option<Duration>,
    /// When the track last said that it is on the disk, as the elapsed time of the clock.
    reported_at: Duration,
    /// The number of bytes of the file that the status and the metrics have counted.
    counted: u64,
}

/// Why a track ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackEnd {
    /// The lease is no longer active, or otter stops.
    Stopped,
    /// The track cannot go on, for this reason.
    Failed {
        /// The reason in the metrics.
        label: &'static str,
        detail: String,
    },
}

impl From<RecError> for TrackEnd {
    fn from(error: RecError) -> Self {
        let label = match error {
            RecError::Size(_) => "size",
            RecError::LowDisk | RecError::Disk(_) => "disk",
        };
        Self::Failed { label, detail: error.to_string() }
    }
}

impl TrackFile {
    /// Opens the file of a track, and goes on after what it has.
    ///
    /// # Errors
    /// Fails if the disk refuses it.
    pub async fn open(path: PathBuf, parts: TrackParts) -> Result<(Self, Continued), RecError> {
        let limit = parts.limit;
        let opened = tokio::task::spawn_blocking(move || RecWriter::open(&path, limit));
        let (writer, continued) = opened.await.map_err(std::io::Error::from)??;
        let now = parts.clock.now().as_microsecond();
        let passed = continued.began_at.map_or(0, |began_at| now.saturating_sub(began_at));
        // The wall clock may have been set back.
        let offset = u64::try_from(passed / 1_000).unwrap_or_default().max(continued.last_at);
        let opened_at = parts.clock.elapsed();
        let (dirty_since, counted) = (None, writer.length());
        parts.statuses.update(parts.lease, |status| {
            status.bytes += counted;
            status.synced.insert(parts.name.clone(), None);
        });
        let (reported_at, writer) = (opened_at, Some(writer));
        let mut this = Self { parts, writer, offset, opened_at, dirty_since, reported_at, counted };
        if continued.ended.is_none() {
            this.append(Recorded::Start(now)).await?;
        }
        Ok((this, continued))
    }

    /// The time of an entry that is written now, in milliseconds since the recording began.
    #[must_use]
    pub fn at(&self) -> u64 {
        let open = self.parts.clock.elapsed().saturating_sub(self.opened_at);
        self.offset.saturating_add(u64::try_from(open.as_millis()).unwrap_or(u64::MAX))
    }

    /// Appends one entry.
    ///
    /// # Errors
    /// [`RecError`]
    pub async fn append(&mut self, what: Recorded) -> Result<(), RecError> {
        let entry = Entry { at: self.at(), what };
        self.write(move |writer| writer.append(&entry)).await
    }

    /// Runs a function that appends entries, on a blocking thread.
    ///
    /// # Errors
    /// The error of the function.
    pub async fn write(
        &mut self,
        append: impl FnOnce(&mut RecWriter) -> Result<(), RecError> + Send + 'static,
    ) -> Result<(), RecError> {
        self.run(append).await?;
        self.dirty_since.get_or_insert(self.parts.clock.elapsed());
        Ok(())
    }

    /// When [`TrackFile::sync`] is due, as the elapsed time of the clock.
    #[must_use]
    pub fn sync_at(&self) -> Duration {
        self.dirty_since.unwrap_or(self.reported_at) + SYNC_AFTER
    }

    /// Writes everything to the disk. If nothing is pending, all of the track until now is then on
    /// the disk.
    ///
    /// # Parameters
    /// - `is_pending`: whether something happened that is not written yet.
    ///
    /// # Errors
    /// [`RecError`]
    pub async fn sync(&mut self, is_pending: bool) -> Result<(), RecError> {
        let now = self.parts.clock.now();
        self.reported_at = self.parts.clock.elapsed();
        if self.dirty_since.take().is_some() {
            self.run(RecWriter::sync).await?;
        }
        if !is_pending {
            self.parts.statuses.update(self.parts.lease, |status| {
                status.synced.insert(self.parts.name.clone(), Some(now));
            });
        }
        Ok(())
    }

    /// Ends the file for a reason. A disk that refuses that is ignored, because what the file has
    /// is whole.
    pub async fn end(mut self, reason: String) {
        let _ = self.append(Recorded::End(reason)).await;
        let _ = self.sync(false).await;
        self.parts.statuses.update(self.parts.lease, |status| {
            status.synced.remove(&self.parts.name);
        });
    }

    async fn run(
        &mut self,
        work: impl FnOnce(&mut RecWriter) -> Result<(), RecError> + Send + 'static,
    ) -> Result<(), RecError> {
        let lost = || std::io::Error::other("an earlier write panicked");
        let mut writer = self.writer.take().ok_or_else(lost)?;
        let working = tokio::task::spawn_blocking(move || {
            let result = work(&mut writer);
            (writer, result)
        });
        let (writer, result) = working.await.map_err(std::io::Error::from)?;
        let length = writer.length();
        self.writer = Some(writer);
        let new = length.saturating_sub(self.counted);
        self.counted = length;
        self.parts.metrics.recorded(new);
        self.parts.statuses.update(self.parts.lease, |status| status.bytes += new);
        result
    }
}
