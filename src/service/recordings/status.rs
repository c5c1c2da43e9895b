//! What otter shows of the recordings that run, or whose artifacts are not made yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::domain::ids::LeaseId;

/// The recording of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingStatus {
    pub state: RecordingState,
    /// Whether the screen is recorded.
    pub screen: bool,
    /// The names of the recorded serial ports.
    pub serial: Vec<String>,
    pub started_at: Timestamp,
    /// Until when each track that runs is certainly on the disk. `None` before its first write.
    pub synced: BTreeMap<String, Option<Timestamp>>,
    /// The number of bytes that the recording has on the disk.
    pub bytes: u64,
    /// Why the recording, or a part of it, ended before its lease. `None` if it did not.
    pub reason: Option<String>,
}

/// What happens with a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingState {
    Recording,
    /// The recording leaves out what happens, because a secret is being typed.
    Paused,
    /// The recording ended before its lease.
    Ended,
    /// otter makes artifacts of the recording, or of the last picture.
    Rendering,
}

impl RecordingStatus {
    /// A recording that begins.
    #[must_use]
    pub const fn new(started_at: Timestamp, screen: bool, serial: Vec<String>) -> Self {
        let (state, bytes, reason) = (RecordingState::Recording, 0, None);
        Self { state, screen, serial, started_at, synced: BTreeMap::new(), bytes, reason }
    }

    /// Until when all tracks that run are certainly on the disk. `None` if one of them has written
    /// nothing, or if none runs.
    #[must_use]
    pub fn synced_at(&self) -> Option<Timestamp> {
        // `None` is less than every time.
        self.synced.values().min().copied().flatten()
    }
}

impl RecordingState {
    /// Every state, for the OpenAPI document.
    pub const ALL: [Self; 4] = [Self::Recording, Self::Paused, Self::Ended, Self::Rendering];

    /// The word of the state in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Paused => "paused",
            Self::Ended => "ended",
            Self::Rendering => "rendering",
        }
    }
}

/// The status of each recording. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct RecordingStatuses(Arc<Mutex<BTreeMap<LeaseId, Shown>>>);

/// What is shown of a lease.
#[derive(Debug, Default)]
struct Shown {
    recording: Option<RecordingStatus>,
    /// The last picture of the lease, whose artifacts are being made, and since when.
    picture: Option<Timestamp>,
}

/// The work on the last picture of a lease. It ends when this value is dropped.
#[must_use]
#[derive(Debug)]
pub struct PictureWork {
    statuses: RecordingStatuses,
    lease: LeaseId,
}

impl RecordingStatuses {
    /// The recording of a lease. `None` if there is none, or if all its artifacts are there.
    #[must_use]
    pub fn of(&self, lease: LeaseId) -> Option<RecordingStatus> {
        let all = self.lock();
        let Shown { recording, picture } = all.get(&lease)?;
        recording.clone().or_else(|| {
            let state = RecordingState::Rendering;
            picture.map(|since| RecordingStatus {
                state,
                ..RecordingStatus::new(since, true, Vec::new())
            })
        })
    }

    /// Whether a lease is being recorded now.
    #[must_use]
    pub fn is_recording(&self, lease: LeaseId) -> bool {
        let state = self.of(lease).map(|status| status.state);
        matches!(state, Some(RecordingState::Recording | RecordingState::Paused))
    }

    /// Whether the screen of a lease is or was recorded.
    #[must_use]
    pub fn has_screen(&self, lease: LeaseId) -> bool {
        self.of(lease).is_some_and(|status| status.screen)
    }

    /// Sets the status of a recording.
    pub fn set(&self, lease: LeaseId, status: RecordingStatus) {
        self.lock().entry(lease).or_default().recording = Some(status);
    }

    /// Changes the status of a recording, if there is one.
    pub fn update(&self, lease: LeaseId, change: impl FnOnce(&mut RecordingStatus)) {
        let mut all = self.lock();
        if let Some(status) = all.get_mut(&lease).and_then(|shown| shown.recording.as_mut()) {
            change(status);
        }
    }

    /// Forgets a recording.
    pub fn remove(&self, lease: LeaseId) {
        self.change(lease, |shown| shown.recording = None);
    }

    /// Shows that artifacts are made of the last picture of a lease.
    pub fn begin_picture(&self, lease: LeaseId, now: Timestamp) -> PictureWork {
        self.change(lease, |shown| shown.picture = Some(now));
        PictureWork { statuses: self.clone(), lease }
    }

    fn change(&self, lease: LeaseId, change: impl FnOnce(&mut Shown)) {
        let mut all = self.lock();
        let shown = all.entry(lease).or_default();
        change(shown);
        if shown.recording.is_none() && shown.picture.is_none() {
            all.remove(&lease);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseId, Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PictureWork {
    fn drop(&mut self) {
        self.statuses.change(self.lease, |shown| shown.picture = None);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_lease_shows_its_recording_until_the_last_work_is_done() {
        let statuses = RecordingStatuses::default();
        let (lease, now) = (LeaseId::new(Uuid::from_u128(1)), Timestamp::UNIX_EPOCH);
        statuses.update(lease, |status| status.bytes = 1);
        assert_eq!(statuses.of(lease), None);
        statuses.set(lease, RecordingStatus::new(now, true, vec!["ttyS0".to_owned()]));
        statuses.update(lease, |status| status.bytes = 7);
        assert!(statuses.is_recording(lease) && statuses.has_screen(lease));
        let work = statuses.begin_picture(lease, now);
        assert_eq!(statuses.of(lease).unwrap().bytes, 7);
        statuses.remove(lease);
        assert_eq!(statuses.of(lease).unwrap().state, RecordingState::Rendering);
        drop(work);
        assert_eq!(statuses.of(lease), None);
        assert!(statuses.lock().is_empty());
    }
}
