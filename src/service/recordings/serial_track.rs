//! Records a serial port: its bytes with their offsets and times, and where bytes are missing.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pauses::RecordingPauses;
use super::rec_file::{Entry, RecError, Recorded};
use super::status::RecordingState;
use super::track::{TrackEnd, TrackFile, TrackParts};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::machine::{Machine, SerialPort};
use crate::domain::serial::GapReason;
use crate::service::serial::{ReadFrom, Serial, SerialPiece, SerialReader};

/// How long bytes are collected in memory before they are written.
const COLLECT_FOR: Duration = Duration::from_millis(100);

/// The number of bytes that are collected before they are written at once.
const COLLECT_BYTES: usize = 64 * 1024;

/// The most pieces that are read when the lease ends.
const LAST_PIECES: usize = 32;

/// The time before the next try to read a port that cannot be read.
const REOPEN_AFTER: Duration = Duration::from_secs(2);

/// The recorder of one serial port.
pub struct SerialTrack {
    pub serial: Arc<Serial>,
    pub machine: Arc<Machine>,
    pub port: SerialPort,
    /// The offset of the first byte. `None`: the next byte that comes.
    pub from: Option<u64>,
    pub pauses: RecordingPauses,
    pub parts: TrackParts,
    pub file: TrackFile,
    pub stop: CancellationToken,
}

/// What came and is not written yet.
#[derive(Default)]
struct Collected {
    entries: Vec<Entry>,
    bytes: usize,
    write_at: Option<Duration>,
}

/// Whether the recorder leaves bytes out.
#[derive(Default)]
struct Omission {
    is_paused: bool,
    /// Whether bytes came during the pause.
    has_bytes: bool,
}

impl SerialTrack {
    /// Records until the track is stopped or cannot go on.
    ///
    /// # Returns
    /// The file, which is synced but not ended.
    pub async fn run(mut self) -> (TrackFile, TrackEnd) {
        let end = loop {
            let reading = self.read();
            let opened = tokio::select! {
                biased;
                () = self.stop.cancelled() => break TrackEnd::Stopped,
                opened = reading => opened,
            };
            let followed = match opened {
                Ok(reader) => self.follow(reader).await,
                Err(failure) => Ok(Some(failure)),
            };
            let failure = match followed {
                Ok(None) => break TrackEnd::Stopped,
                Ok(Some(failure)) => failure,
                Err(error) => break error.into(),
            };
            if failure.kind == FailureKind::NotSupported {
                break TrackEnd::Failed { label: "serial", detail: failure.detail };
            }
            tracing::debug!(
                lease = %self.parts.lease,
                detail = failure.detail,
                "a serial port cannot be recorded at the moment"
            );
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break TrackEnd::Stopped,
                () = self.parts.clock.sleep(REOPEN_AFTER) => {}
            }
        };
        let end = match (end, self.file.sync(false).await) {
            (TrackEnd::Stopped, Err(error)) => error.into(),
            (end, _) => end,
        };
        (self.file, end)
    }

    /// Begins to read where the file ends.
    async fn read(&self) -> Result<SerialReader, Failure> {
        let (machine, key) = (&*self.machine, self.port.key);
        let from = self.from.map_or(ReadFrom::BeforeEnd(0), ReadFrom::Offset);
        match self.serial.subscribe(machine, key, from).await {
            // The bytes that follow the file are gone.
            Err(failure) if failure.kind == FailureKind::OffsetOutOfRange => {
                self.serial.subscribe(machine, key, ReadFrom::First).await
            }
            opened => opened,
        }
    }

    /// Records what one reader reads. Returns why the reader ended. `None` if the track is stopped.
    async fn follow(&mut self, mut reader: SerialReader) -> Result<Option<Failure>, RecError> {
        let mut collected = Collected::default();
        let mut omission = Omission::default();
        if self.from.is_some_and(|from| from != reader.position()) {
            let (offset, reason) = (reader.position(), GapReason::Overflow);
            self.take(&mut omission, &mut collected, SerialPiece::Gap { offset, reason });
        }
        self.from = Some(reader.position());
        let ended = loop {
            let now = self.parts.clock.elapsed();
            let is_paused = self.pauses.is_paused(&self.machine.id);
            self.set_paused(&mut omission, &mut collected, is_paused).await?;
            if collected.is_due(now) {
                self.write(&mut collected).await?;
                continue;
            }
            let sync_at = self.file.sync_at();
            if now >= sync_at {
                let is_pending =
                    !collected.entries.is_empty() || reader.bounds().next != reader.position();
                self.file.sync(is_pending).await?;
                continue;
            }
            let wake_at = collected.write_at.map_or(sync_at, |write_at| write_at.min(sync_at));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break None,
                () = self.pauses.wait(&self.machine.id, !is_paused) => {}
                () = self.parts.clock.sleep(wake_at.saturating_sub(now)) => {}
                piece = reader.next() => match piece {
                    Ok(piece) => self.take(&mut omission, &mut collected, piece),
                    Err(failure) => break Some(failure),
                },
            }
        };
        if ended.is_none() {
            // What came before the end of the lease belongs to it.
            for _ in 0..LAST_PIECES {
                let Some(piece) = reader.available(COLLECT_BYTES).await else { break };
                self.take(&mut omission, &mut collected, piece);
            }
        }
        self.write(&mut collected).await?;
        Ok(ended)
    }

    /// Collects a piece, unless the recording pauses.
    fn take(&mut self, omission: &mut Omission, collected: &mut Collected, piece: SerialPiece) {
        let (offset, end) = match &piece {
            SerialPiece::Bytes { offset, bytes } => {
                (*offset, offset.saturating_add(bytes.len() as u64))
            }
            SerialPiece::Gap { offset, .. } => (*offset, *offset),
        };
        self.from = Some(end);
        // A secret may have begun since the loop looked.
        if omission.is_paused || self.pauses.is_paused(&self.machine.id) {
            omission.has_bytes = true;
            return;
        }
        let at = self.file.at();
        let now = self.parts.clock.elapsed();
        match piece {
            SerialPiece::Bytes { bytes, .. } => collected.add_bytes(at, offset, &bytes),
            SerialPiece::Gap { reason, .. } => {
                let reason = text_of(reason).to_owned();
                collected.entries.push(Entry { at, what: Recorded::Gap { offset, reason } });
            }
        }
        collected.write_at.get_or_insert(now + COLLECT_FOR);
    }

    async fn set_paused(
        &mut self,
        omission: &mut Omission,
        collected: &mut Collected,
        is_paused: bool,
    ) -> Result<(), RecError> {
        if omission.is_paused == is_paused {
            return Ok(());
        }
        omission.is_paused = is_paused;
        // What came before the pause is older than the secret.
        self.write(collected).await?;
        if is_paused {
            return self.mark(Recorded::Paused, RecordingState::Paused).await;
        }
        self.mark(Recorded::Resumed, RecordingState::Recording).await?;
        if std::mem::take(&mut omission.has_bytes)
            && let Some(offset) = self.from
        {
            let reason = "a secret was being typed".to_owned();
            self.file.append(Recorded::Gap { offset, reason }).await?;
        }
        Ok(())
    }

    async fn mark(&mut self, what: Recorded, state: RecordingState) -> Result<(), RecError> {
        self.parts.statuses.update(self.parts.lease, |status| status.state = state);
        self.file.append(what).await
    }

    async fn write(&mut self, collected: &mut Collected) -> Result<(), RecError> {
        let Collected { entries, .. } = std::mem::take(collected);
        if entries.is_empty() {
            return Ok(());
        }
        self.file
            .write(move |writer| entries.iter().try_for_each(|entry| writer.append(entry)))
            .await
    }
}

/// A reason as the end of a sentence.
const fn text_of(reason: GapReason) -> &'static str {
    match reason {
        GapReason::Reconnect => "the connection to the port was lost and made again",
        GapReason::Closed => "otter was not connected to the port",
        GapReason::Restart => "otter was restarted",
        GapReason::Crash => "otter died",
        GapReason::Overflow => "there were too many bytes",
    }
}

impl Collected {
    fn is_due(&self, now: Duration) -> bool {
        self.bytes >= COLLECT_BYTES || self.write_at.is_some_and(|write_at| now >= write_at)
    }

    /// Adds bytes. They join the bytes before them if no byte is missing in between.
    fn add_bytes(&mut self, at: u64, offset: u64, new: &[u8]) {
        self.bytes += new.len();
        if let Some(Entry { what: Recorded::Serial { offset: first, bytes }, .. }) =
            self.entries.last_mut()
            && *first + bytes.len() as u64 == offset
        {
            bytes.extend_from_slice(new);
            return;
        }
        let what = Recorded::Serial { offset, bytes: new.to_vec() };
        self.entries.push(Entry { at, what });
    }
}
