//! What otter keeps of the output of one serial port: the newest bytes in memory, more of them in
//! files, and the gaps. Every byte has an offset that no other byte ever gets.
//!
//! ```text
//! a byte ─► below the reservation? ──no──► commit a larger one
//!               │ yes                            │
//!               ▼                                ▼
//!          file ─► memory ─► readers
//! ```
//! The offsets up to the end of the reservation are committed before a byte gets one of them. If
//! otter dies, it goes on at that end, because it does not know which of them it gave out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch};

use super::gap_list::GapList;
use super::ring::{MEMORY_BYTES, Ring, length};
use super::segments::{LogFolder, Segment, SegmentWriter, Segments};
use crate::clock::Clock;
use crate::domain::ids::JobId;
use crate::domain::serial::{Gap, GapReason};
use crate::storage::{SerialStorage, StorageError, StoredSerialPort};

/// How many offsets one commit reserves.
const RESERVATION: u64 = 1024 * 1024;

/// How long otter writes to no file after the disk refused bytes.
const DISK_PAUSE: Duration = Duration::from_secs(10);

/// A port, as the storage names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortId {
    /// The [`MachineIdentity::key`](crate::domain::machine::MachineIdentity::key) of the machine.
    pub machine: String,
    /// The key of the port.
    pub port: i32,
}

/// The output of one port.
pub struct PortLog {
    id: PortId,
    storage: Arc<dyn SerialStorage>,
    clock: Clock,
    /// `None` without a state directory: the bytes are in memory alone.
    folder: Option<LogFolder>,
    loaded: OnceCell<()>,
    /// The right to add bytes. The task of the port has it from its start to its end.
    turn: Arc<Semaphore>,
    files: Mutex<FileState>,
    state: Mutex<LogState>,
    /// The number of changes: bytes and gaps.
    changes: watch::Sender<u64>,
}

/// What the writer of the files knows.
#[derive(Debug, Default)]
struct FileState {
    writer: SegmentWriter,
    /// No file is written before this time, by the monotonic clock.
    not_before: Duration,
}

#[derive(Debug)]
struct LogState {
    ring: Ring,
    segments: Segments,
    gaps: GapList,
    /// Bytes may have the offsets below this one.
    reserved: u64,
    /// Why bytes may be missing once otter is connected again. `None` if it was never connected.
    pending: Option<GapReason>,
    mark: Option<(JobId, u64)>,
}

/// Where the next bytes for a reader are.
#[derive(Debug)]
pub enum Found {
    Bytes(Bytes),
    InFile(FilePart),
    /// A gap that the reader has not passed, with its number.
    Gap(u64, Gap),
    /// The bytes before this offset are not kept any more.
    Dropped(u64),
    /// There are none yet.
    Nothing,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePart {
    /// The offset by which the file is named.
    pub file: u64,
    /// Where the part begins in the file.
    pub position: u64,
    /// The number of bytes.
    pub length: usize,
}

/// Which offsets a port has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The offset of the first byte that is kept.
    pub first: u64,
    /// The offset of the next byte.
    pub next: u64,
}

/// The right to add bytes to a log.
pub struct LogTurn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl PortLog {
    /// The output of a port. [`PortLog::load`] reads what is kept of it.
    #[must_use]
    pub fn new(
        id: PortId,
        storage: Arc<dyn SerialStorage>,
        clock: Clock,
        folder: Option<LogFolder>,
    ) -> Self {
        let state = LogState {
            ring: Ring::new(0, MEMORY_BYTES),
            segments: Segments::default(),
            gaps: GapList::default(),
            reserved: 0,
            pending: None,
            mark: None,
        };
        Self {
            id,
            storage,
            clock,
            folder,
            loaded: OnceCell::new(),
            turn: Arc::new(Semaphore::new(1)),
            files: Mutex::default(),
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
        }
    }

    /// Reads what is kept of the port, at the first call.
    ///
    /// # Errors
    /// The storage cannot be read.
    pub async fn load(&self) -> Result<(), StorageError> {
        self.loaded.get_or_try_init(|| self.load_once()).await.copied()
    }

    /// Waits for the right to add bytes.
    pub async fn turn(&self) -> LogTurn {
        // The semaphore is never closed.
        LogTurn { _permit: Arc::clone(&self.turn).acquire_owned().await.ok() }
    }

    /// Which offsets there are.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.state().bounds()
    }

    /// The gaps in what is kept, the oldest first.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let state = self.state();
        state.gaps.since(state.bounds().first).collect()
    }

    /// Notifies of each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The number of the last gap that a reader has behind it which begins at this offset.
    #[must_use]
    pub fn passed_at(&self, offset: u64) -> u64 {
        self.state().gaps.passed_at(offset)
    }

    /// Finds the next bytes for a reader, at most `limit` of them, and none from behind a gap.
    ///
    /// # Parameters
    /// - `passed`: the number of the last gap that the reader passed.
    #[must_use]
    pub fn find(&self, from: u64, passed: u64, limit: usize) -> Found {
        self.state().find(from, passed, limit)
    }

    /// The end of the bytes that follow an offset without a hole in their numbers.
    #[must_use]
    pub fn run_end(&self, from: u64) -> u64 {
        self.state().run_end(from)
    }

    /// The path of a file, and whether its part is still kept.
    #[must_use]
    pub fn file(&self, start: u64) -> Option<std::path::PathBuf> {
        self.folder.as_ref().map(|folder| folder.file(start))
    }

    /// Forgets a file that is not there any more.
    pub fn forget_file(&self, start: u64) {
        self.state().segments.forget(start);
    }

    /// Adds bytes, and passes them on to the readers. If the future is dropped, either all or none
    /// of them are added.
    ///
    /// # Errors
    /// The storage does not commit the reservation. Nothing is added.
    pub async fn append(self: &Arc<Self>, bytes: Bytes) -> Result<(), StorageError> {
        let needed = {
            let state = self.state();
            let end = state.ring.end().saturating_add(length(bytes.len()));
            (end > state.reserved).then_some(end)
        };
        if let Some(end) = needed {
            self.reserve(end.saturating_add(RESERVATION)).await?;
        }
        if self.folder.is_none() {
            self.add(&bytes);
            return Ok(());
        }
        let log = Arc::clone(self);
        // It runs to its end also if this future is dropped. The panic hook logs a panic.
        let _ = tokio::task::spawn_blocking(move || log.add(&bytes)).await;
        Ok(())
    }

    /// otter is connected to the port. Records a gap if bytes may have been lost before.
    ///
    /// # Returns
    /// The reason of the gap.
    pub async fn connected(&self) -> Option<GapReason> {
        let reason = {
            let mut state = self.state();
            let reason = state.pending.take();
            // Without a byte before it, nothing is missing that someone could expect.
            let reason = reason.filter(|_| state.ring.end() > 0);
            if let Some(reason) = reason {
                let (offset, at) = (state.ring.end(), self.clock.now());
                state.gaps.push(Gap { offset, skipped: 0, at, reason });
            }
            reason
        };
        if reason.is_some() {
            self.notify();
            // Without this commit, a restart does not know the gap. The next reservation has it.
            let row = self.row(None);
            if let Err(error) = self.storage.save_serial_port(row).await {
                tracing::debug!(port = ?self.id, %error, "a gap of a serial port is not stored");
            }
        }
        reason
    }

    /// otter is not connected any more. What the port outputs from now on may be lost.
    pub fn disconnected(&self, reason: GapReason) {
        self.state().pending = Some(reason);
    }

    /// Ends the use of the port: stores the exact end, and frees the memory if the bytes are in
    /// files.
    pub async fn close(&self) {
        self.files().writer.close();
        let next = {
            let mut state = self.state();
            if state.pending.is_some() {
                state.pending = Some(GapReason::Closed);
            }
            let next = state.ring.end();
            let is_in_files = state.segments.end() == Some(next);
            if is_in_files {
                state.ring.clear();
            }
            next
        };
        if next == 0 {
            return;
        }
        match self.storage.save_serial_port(self.row(Some(next))).await {
            // The next bytes need a new reservation.
            Ok(()) => self.state().reserved = next,
            Err(error) => {
                tracing::debug!(port = ?self.id, %error, "the end of a serial port is not stored");
            }
        }
    }

    /// Drops the bytes that are in memory alone.
    pub fn drop_memory(&self) {
        self.state().ring.clear();
    }

    /// Whether bytes are in memory alone.
    #[must_use]
    pub fn is_in_memory_alone(&self) -> bool {
        let state = self.state();
        state.ring.start() < state.ring.end() && state.segments.end() != Some(state.ring.end())
    }

    /// Marks the present end for a preparation.
    ///
    /// # Errors
    /// The storage does not commit it. The mark counts until otter ends.
    pub async fn set_mark(&self, job: JobId) -> Result<(), StorageError> {
        let next = {
            let mut state = self.state();
            let next = state.ring.end();
            state.mark = Some((job, next));
            // An open port has no exact end in the storage.
            (state.reserved == next).then_some(next)
        };
        self.storage.save_serial_port(self.row(next)).await
    }

    /// The end of the output when the last host call of a preparation began. `None` if it made no
    /// call.
    #[must_use]
    pub fn mark_of(&self, job: JobId) -> Option<u64> {
        self.state().mark.filter(|(marked_by, _)| *marked_by == job).map(|(_, offset)| offset)
    }

    async fn load_once(&self) -> Result<(), StorageError> {
        let stored = self.storage.serial_port(&self.id.machine, self.id.port).await?;
        let segments = match self.folder.clone() {
            None => Segments::default(),
            Some(folder) => {
                let scanned = tokio::task::spawn_blocking(move || folder.scan()).await;
                scanned.unwrap_or_else(|error| Err(std::io::Error::other(error))).unwrap_or_else(
                    |error| {
                        tracing::warn!(port = ?self.id, %error, "the log of a port is unreadable");
                        Segments::default()
                    },
                )
            }
        };
        let mut state = self.state();
        let end = segments.end().unwrap_or_default();
        let Some(stored) = stored else {
            // The row may be lost, but no offset of a byte that is kept is given out again.
            state.ring = Ring::new(end, MEMORY_BYTES);
            state.pending = (end > 0).then_some(GapReason::Restart);
            state.reserved = end;
            state.segments = segments;
            return Ok(());
        };
        let StoredSerialPort { reserved, next, gaps, mark, machine: _, port: _, updated_at: _ } =
            stored;
        state.gaps = GapList::new(gaps);
        state.mark = mark;
        let start = next.unwrap_or(reserved).max(end);
        if next.is_none() {
            let skipped = if end > 0 { start - end } else { 0 };
            let at = self.clock.now();
            state.gaps.push(Gap { offset: start, skipped, at, reason: GapReason::Crash });
        }
        // After a crash, the gap is there already.
        state.pending = (next.is_some() && start > 0).then_some(GapReason::Restart);
        state.ring = Ring::new(start, MEMORY_BYTES);
        state.reserved = start;
        state.segments = segments;
        Ok(())
    }

    async fn reserve(&self, end: u64) -> Result<(), StorageError> {
        let row = StoredSerialPort { reserved: end, ..self.row(None) };
        self.storage.save_serial_port(row).await?;
        let mut state = self.state();
        state.reserved = state.reserved.max(end);
        Ok(())
    }

    /// The state of the port for the storage.
    fn row(&self, next: Option<u64>) -> StoredSerialPort {
        let state = self.state();
        StoredSerialPort {
            machine: self.id.machine.clone(),
            port: self.id.port,
            reserved: state.reserved,
            next,
            gaps: state.gaps.since(state.bounds().first).collect(),
            mark: state.mark,
            updated_at: self.clock.now(),
        }
    }

    /// Writes bytes to the file, and then passes them on, so that a reader never got a byte that a
    /// crash loses.
    fn add(&self, bytes: &[u8]) {
        let mut files = self.files();
        let offset = self.state().ring.end();
        let written = self.write(&mut files, offset, bytes);
        let mut removed = Vec::new();
        {
            let mut state = self.state();
            match written {
                Some(Ok(segment)) => {
                    state.segments.record(segment);
                    let max = self.folder.as_ref().map_or(u64::MAX, LogFolder::max_bytes);
                    removed = state.segments.trim(max);
                }
                Some(Err(())) => {
                    let (at, reason) = (self.clock.now(), GapReason::Overflow);
                    state.gaps.push(Gap { offset, skipped: 0, at, reason });
                }
                None => {}
            }
            state.ring.push(bytes);
        }
        self.notify();
        if let Some(folder) = &self.folder {
            for start in removed {
                folder.delete(start);
            }
        }
    }

    /// Writes bytes to the file.
    ///
    /// # Returns
    /// `None` if no file is written now. An error if the disk begins to refuse bytes.
    fn write(
        &self,
        files: &mut FileState,
        offset: u64,
        bytes: &[u8],
    ) -> Option<Result<Segment, ()>> {
        let folder = self.folder.as_ref()?;
        let now = self.clock.elapsed();
        if now < files.not_before {
            return None;
        }
        let is_first = files.not_before.is_zero();
        match files.writer.append(folder, offset, bytes) {
            Ok(segment) => {
                files.not_before = Duration::ZERO;
                Some(Ok(segment))
            }
            Err(error) => {
                files.not_before = now + DISK_PAUSE;
                if !is_first {
                    return None;
                }
                tracing::warn!(
                    port = ?self.id,
                    %error,
                    "the disk refuses the output of a serial port, which is kept in memory alone"
                );
                Some(Err(()))
            }
        }
    }

    fn notify(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> MutexGuard<'_, FileState> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogState {
    fn bounds(&self) -> Bounds {
        let start = self.ring.start();
        let first = self.segments.start().map_or(start, |kept| kept.min(start));
        Bounds { first, next: self.ring.end() }
    }

    fn run_end(&self, from: u64) -> u64 {
        let mut end = from;
        while end < self.ring.start() {
            match self.segments.at(end) {
                Some(segment) => end = segment.end(),
                None => break,
            }
        }
        if end >= self.ring.start() {
            end = self.ring.end().max(from);
        }
        let holes = self.gaps.since(from).filter(|gap| gap.skipped > 0);
        let first = holes.map(|gap| gap.start()).find(|start| *start >= from);
        first.map_or(end, |start| end.min(start))
    }

    fn find(&self, from: u64, passed: u64, limit: usize) -> Found {
        let gap = self.gaps.after(passed);
        if let Some((number, gap)) = gap.filter(|(_, gap)| gap.start() <= from) {
            return Found::Gap(number, gap);
        }
        if from >= self.ring.end() {
            return Found::Nothing;
        }
        let to_gap = gap.map_or(u64::MAX, |(_, gap)| gap.start() - from);
        let limit = limit.min(usize::try_from(to_gap).unwrap_or(usize::MAX));
        if from >= self.ring.start() {
            return Found::Bytes(self.ring.read(from, limit));
        }
        let Some(segment) = self.segments.at(from) else {
            let in_files = self.segments.next_start(from).unwrap_or(u64::MAX);
            return Found::Dropped(in_files.min(self.ring.start()));
        };
        let rest = usize::try_from(segment.end() - from).unwrap_or(usize::MAX);
        Found::InFile(FilePart {
            file: segment.start,
            position: from - segment.start,
            length: rest.min(limit),
        })
    }
}
