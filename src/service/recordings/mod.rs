//! Recordings of leases: what the screen of a machine showed while a lease was active, and what
//! came from its serial ports.
//!
//! ```text
//! lease active ─► tracks: screen.rec, ttyS0.rec ─► lease ends ─► render: screen.apng, ttyS0.log,
//!      ▲                │ a restart of otter goes on               ttyS0.cast ─► artifacts
//!      └────────────────┘ in the same files
//! ```
//! A recording that cannot go on, for example because the disk is full, ends with its reason. It
//! never disturbs the lease. The folder `recordings` of the state directory has one folder for each
//! lease that is recorded or rendered.

mod apng;
pub mod last_picture;
pub mod pauses;
mod rec_file;
mod screen_track;
mod serial_text;
mod serial_track;
pub mod status;
mod track;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use png::EncodingError;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::apng::{Outline, RenderError};
use self::pauses::RecordingPauses;
use self::rec_file::RecError;
use self::screen_track::{Pace, ScreenTrack};
use self::serial_track::SerialTrack;
use self::status::{RecordingState, RecordingStatus, RecordingStatuses};
use self::track::{TrackEnd, TrackFile, TrackParts};
use crate::clock::Clock;
use crate::domain::artifact::{ArtifactName, ContentType};
use crate::domain::audit::{AuditAction, AuditOutcome, AuditRecord};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::ids::LeaseId;
use crate::domain::lease::{Lease, LeaseState};
use crate::domain::machine::{Machine, SerialPort};
use crate::domain::origin::Actor;
use crate::domain::recording::port_file_stem;
use crate::fail_points::fail_point;
use crate::service::artifacts::{Artifacts, NewArtifact, WriteError, private_folder};
use crate::service::audit::Audit;
use crate::service::inventory::Inventory;
use crate::service::leases::Leases;
use crate::service::leases::published::PublishedLeases;
use crate::service::screens::Screens;
use crate::service::serial::Serial;
use crate::storage::{Storage, StorageError};
use crate::supervisor::Supervisor;
use crate::telemetry::artifacts::ArtifactMetrics;

/// The number of recordings that are rendered at the same time.
const RENDERS: usize = 2;

/// The time before the next try to render a recording, if the disk or the store refused the last
/// one.
const RENDER_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// How often otter tries to render a recording for whose artifacts there is no room.
const ROOM_TRIES: u32 = 60;

/// How often otter looks for the machine of a lease, after a start, until the host has reported it.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The name of the track of the screen. Its file is `screen.rec`.
const SCREEN: &str = "screen";

/// What the files of tracks end with.
const EXTENSION: &str = "rec";

/// The parts of otter that recordings use.
pub struct RecordingsParts {
    pub leases: Leases,
    pub published: Arc<PublishedLeases>,
    pub store: Arc<dyn Storage>,
    pub screens: Arc<Screens>,
    pub serial: Arc<Serial>,
    pub inventory: Arc<Inventory>,
    pub artifacts: Arc<Artifacts>,
    pub pauses: RecordingPauses,
    pub statuses: RecordingStatuses,
    pub audit: Arc<Audit>,
    pub supervisor: Supervisor,
    pub clock: Clock,
    pub metrics: ArtifactMetrics,
    /// The folder of the recordings.
    pub folder: PathBuf,
}

/// The recordings of all leases.
pub struct Recordings {
    parts: RecordingsParts,
    pace: Pace,
    renders: Semaphore,
    /// The leases that are no longer active, and whose recordings an earlier process left.
    unfinished: Mutex<Vec<Arc<Lease>>>,
}

/// A track that runs: its name, and its end.
type RunningTrack = BoxFuture<'static, (String, TrackFile, TrackEnd)>;

/// The tracks of a recording that begins.
#[derive(Default)]
struct Tracks {
    running: FuturesUnordered<RunningTrack>,
    /// Whether the recording began in an earlier process.
    is_continued: bool,
    /// The names of the tracks that could not begin, each with the reason.
    failed: Vec<(String, TrackEnd)>,
    /// The tracks that ended in an earlier process, with the reasons.
    ended: Vec<String>,
}

/// Why a recording was not rendered.
enum NotRendered {
    /// otter stops. The next process renders it.
    Stopped,
    /// The disk or the store refuses it at the moment.
    Later(String),
    /// There is no room for the artifacts.
    NoRoom(String),
    Never(String),
}

impl Recordings {
    /// Looks for recordings that an earlier process left. [`Recordings::run`] goes on with them.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    pub async fn open(parts: RecordingsParts) -> Result<Self, StorageError> {
        let folder = parts.folder.clone();
        let found = blocking(move || leases_in(&folder)).await.unwrap_or_else(|error| {
            let folder = parts.folder.display();
            tracing::error!(%error, %folder, "the folder of the recordings cannot be read");
            Vec::new()
        });
        let mut unfinished = Vec::new();
        for id in found {
            let Some(lease) = parts.store.lease(id).await? else {
                tracing::info!(lease = %id, "the recording of a lease that is gone is removed");
                remove_folder(parts.folder.join(id.to_string())).await;
                continue;
            };
            let mut status = status_of(&lease, Vec::new());
            if lease.state != LeaseState::Active {
                status.state = RecordingState::Rendering;
                unfinished.push(Arc::new(lease));
            }
            parts.statuses.set(id, status);
        }
        Ok(Self {
            parts,
            pace: Pace::default(),
            renders: Semaphore::new(RENDERS),
            unfinished: Mutex::new(unfinished),
        })
    }

    /// Records leases while they are active, until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let unfinished =
            std::mem::take(&mut *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner));
        for lease in unfinished {
            let this = Arc::clone(&self);
            self.spawn(lease.id, async move { this.render(&lease).await });
        }
        let mut changes = self.parts.published.changes();
        changes.mark_changed();
        let mut running: BTreeMap<LeaseId, CancellationToken> = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                // The sender lives as long as `self`.
                _ = changes.changed() => {}
            }
            let table = self.parts.published.load();
            let is_recorded =
                |lease: &Lease| lease.state == LeaseState::Active && lease.record.is_some();
            running.retain(|id, stop| {
                let goes_on = table.get(*id).is_some_and(|open| is_recorded(&open.lease));
                if !goes_on {
                    stop.cancel();
                }
                goes_on
            });
            for open in table.open_leases().filter(|open| is_recorded(&open.lease)) {
                let lease = &open.lease;
                running.entry(lease.id).or_insert_with(|| {
                    let lease_stop = stop.child_token();
                    let (this, lease) = (Arc::clone(&self), Arc::clone(lease));
                    let ends = lease_stop.clone();
                    self.spawn(lease.id, async move { this.record(lease, ends).await });
                    lease_stop
                });
            }
        }
    }

    /// Runs the work on the recording of a lease in a task of its own. If it panics, the recording
    /// is no longer shown.
    fn spawn(&self, lease: LeaseId, work: impl Future<Output = ()> + Send + 'static) {
        let RecordingsParts { supervisor, statuses, .. } = &self.parts;
        let work = supervisor.spawn_isolated("recording work", work);
        let statuses = statuses.clone();
        drop(supervisor.spawn_isolated("recording", async move {
            if work.join().await.is_err() {
                statuses.remove(lease);
            }
        }));
    }

    /// Records a lease until `stop` is cancelled, and then makes the artifacts.
    async fn record(self: Arc<Self>, lease: Arc<Lease>, stop: CancellationToken) {
        let Some(machine) = self.machine_of(&lease, &stop).await else {
            // The lease ended before the host reported its machine.
            self.end(&lease, &stop, Vec::new(), None).await;
            return;
        };
        let (with_screen, ports) = chosen(&lease, &machine);
        let names = names_of(with_screen, &ports);
        let shown = ports.iter().map(port_file_stem).collect();
        self.parts.statuses.set(lease.id, status_of(&lease, shown));
        let mut tracks = self.begin(&lease, &machine, with_screen, ports, &stop).await;
        self.parts.metrics.recording_started();
        if !tracks.is_continued {
            self.record_start(&lease, &names).await;
        }
        if !tracks.ended.is_empty() {
            let reason = tracks.ended.join("; ");
            self.parts.statuses.update(lease.id, |status| status.reason = Some(reason));
        }
        let mut reason = None;
        for (name, end) in std::mem::take(&mut tracks.failed) {
            reason = reason.or(self.track_failed(&lease, &name, &end).await);
        }
        let mut whole = Vec::new();
        while let Some((name, file, end)) = tracks.running.next().await {
            match &end {
                TrackEnd::Stopped => whole.push(file),
                TrackEnd::Failed { detail, .. } => {
                    file.end(detail.clone()).await;
                    reason = reason.or(self.track_failed(&lease, &name, &end).await);
                }
            }
        }
        if !stop.is_cancelled() {
            let ended = |status: &mut RecordingStatus| status.state = RecordingState::Ended;
            self.parts.statuses.update(lease.id, ended);
            stop.cancelled().await;
        }
        self.end(&lease, &stop, whole, Some(reason.unwrap_or("lease-ended"))).await;
    }

    /// Records in the audit and in the history of a lease that its recording began.
    async fn record_start(&self, lease: &Lease, names: &[String]) {
        let now = self.parts.clock.now();
        let record = AuditRecord::new(now, AuditAction::RecordingStarted, AuditOutcome::Done)
            .with_actor(&Actor::otter())
            .with_lease(lease)
            .with_detail(names.join(", "));
        self.parts.audit.record(record);
        let what = if names.is_empty() {
            let reason = "the machine has none of the serial ports".to_owned();
            let what = format!("nothing is recorded: {reason}");
            self.parts.statuses.update(lease.id, |status| status.reason = Some(reason));
            what
        } else {
            format!("recording: {}", names.join(", "))
        };
        self.parts.leases.record_recording(lease.id, what, names.is_empty()).await;
    }

    /// Ends the files of a recording, and makes the artifacts. If otter stops, the files stay as
    /// they are, and the next process goes on with them.
    ///
    /// # Parameters
    /// - `reason`: why the recording ended, for the metrics. `None` if it did not begin.
    async fn end(
        &self,
        lease: &Arc<Lease>,
        stop: &CancellationToken,
        whole: Vec<TrackFile>,
        reason: Option<&'static str>,
    ) {
        stop.cancelled().await;
        if self.parts.supervisor.shutdown_token().is_cancelled() {
            return;
        }
        for file in whole {
            file.end("the lease ended".to_owned()).await;
        }
        if let Some(reason) = reason {
            self.parts.metrics.recording_ended(reason);
            let status = self.parts.statuses.of(lease.id);
            let bytes = status.as_ref().map_or(0, |status| status.bytes);
            let why = status.and_then(|status| status.reason);
            let why = why.unwrap_or_else(|| "the lease ended".to_owned());
            let now = self.parts.clock.now();
            let record = AuditRecord::new(now, AuditAction::RecordingEnded, AuditOutcome::Done)
                .with_actor(&Actor::otter())
                .with_lease(lease)
                .with_detail(format!("{bytes} bytes; {why}"));
            self.parts.audit.record(record);
        }
        self.render(lease).await;
    }

    /// Tells the holder of a lease that a track ended too early. Returns the reason for the
    /// metrics.
    async fn track_failed(
        &self,
        lease: &Lease,
        name: &str,
        end: &TrackEnd,
    ) -> Option<&'static str> {
        let TrackEnd::Failed { label, detail } = end else { return None };
        let what = format!("the recording of {name} ended: {detail}");
        tracing::warn!(lease = %lease.id, track = name, detail, "a recording ended too early");
        self.parts.statuses.update(lease.id, |status| {
            let before = status.reason.take().map(|before| format!("{before}; "));
            status.reason = Some(format!("{}{name}: {detail}", before.unwrap_or_default()));
        });
        self.parts.leases.record_recording(lease.id, what, true).await;
        Some(*label)
    }

    /// The machine of a lease. `None` if the recording is stopped before the host has reported it.
    async fn machine_of(&self, lease: &Lease, stop: &CancellationToken) -> Option<Arc<Machine>> {
        let identity = lease.machine.as_ref()?;
        loop {
            let contents = self.parts.inventory.contents();
            let known = contents.machine(&identity.id);
            if let Some(known) = known.filter(|known| identity.agrees_with(&known.identity())) {
                return Some(Arc::clone(known));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = self.parts.clock.sleep(LOOK_AGAIN_AFTER) => {}
            }
        }
    }

    /// Begins the tracks of a recording.
    async fn begin(
        &self,
        lease: &Lease,
        machine: &Arc<Machine>,
        with_screen: bool,
        ports: Vec<SerialPort>,
        stop: &CancellationToken,
    ) -> Tracks {
        let mut tracks = Tracks::default();
        let folder = self.folder_of(lease.id);
        let made = folder.clone();
        if let Err(error) = blocking(move || private_folder(&made)).await {
            let end = TrackEnd::from(RecError::Disk(error));
            let names = names_of(with_screen, &ports);
            tracks.failed = names.into_iter().map(|name| (name, end.clone())).collect();
            return tracks;
        }
        let track_of = |name: &str| TrackParts {
            lease: lease.id,
            name: name.to_owned(),
            clock: self.parts.clock.clone(),
            statuses: self.parts.statuses.clone(),
            metrics: self.parts.metrics.clone(),
            limit: self.parts.artifacts.settings().recording_bytes,
        };
        if with_screen {
            let name = SCREEN.to_owned();
            let of_track = track_of(&name);
            if let Some((file, _)) = tracks.open(&folder, &of_track).await {
                let track = ScreenTrack {
                    screens: Arc::clone(&self.parts.screens),
                    machine: Arc::clone(machine),
                    pauses: self.parts.pauses.clone(),
                    pace: self.pace.clone(),
                    parts: of_track,
                    file,
                    stop: stop.clone(),
                };
                tracks.running.push(Box::pin(async move {
                    let (file, end) = track.run().await;
                    (name, file, end)
                }));
            }
        }
        for port in ports {
            let name = port_file_stem(&port);
            let of_track = track_of(&name);
            if let Some((file, from)) = tracks.open(&folder, &of_track).await {
                let track = SerialTrack {
                    serial: Arc::clone(&self.parts.serial),
                    machine: Arc::clone(machine),
                    port,
                    from,
                    pauses: self.parts.pauses.clone(),
                    parts: of_track,
                    file,
                    stop: stop.clone(),
                };
                tracks.running.push(Box::pin(async move {
                    let (file, end) = track.run().await;
                    (name, file, end)
                }));
            }
        }
        tracks
    }

    /// Makes the artifacts of a recording, and removes its files.
    async fn render(&self, lease: &Arc<Lease>) {
        let rendering = |status: &mut RecordingStatus| status.state = RecordingState::Rendering;
        self.parts.statuses.update(lease.id, rendering);
        let shutdown = self.parts.supervisor.shutdown_token();
        let mut tries = 0;
        loop {
            tries += 1;
            let reason = match self.try_render(lease).await {
                Ok(()) => break,
                Err(NotRendered::Stopped) => return,
                Err(NotRendered::NoRoom(reason)) if tries >= ROOM_TRIES => {
                    tracing::warn!(lease = %lease.id, reason, "a recording is given up");
                    break;
                }
                Err(NotRendered::Never(reason)) => {
                    tracing::warn!(lease = %lease.id, reason, "a recording is given up");
                    break;
                }
                Err(NotRendered::Later(reason) | NotRendered::NoRoom(reason)) => reason,
            };
            tracing::warn!(lease = %lease.id, reason, "a recording is rendered later");
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.parts.clock.sleep(RENDER_AGAIN_AFTER) => {}
            }
        }
        fail_point!("recording-stored");
        remove_folder(self.folder_of(lease.id)).await;
        self.parts.statuses.remove(lease.id);
    }

    async fn try_render(&self, lease: &Arc<Lease>) -> Result<(), NotRendered> {
        let shutdown = self.parts.supervisor.shutdown_token();
        let _turn = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Err(NotRendered::Stopped),
            turn = self.renders.acquire() => turn,
        };
        let started = self.parts.clock.elapsed();
        let folder = self.folder_of(lease.id);
        let files = blocking(move || tracks_in(&folder)).await;
        let files = files.map_err(|error| NotRendered::Later(error.to_string()))?;
        let (mut is_any, mut given_up) = (false, None);
        for (stem, path, bytes) in files {
            let rendered = if stem == SCREEN {
                self.render_screen(lease, path, bytes).await
            } else {
                self.render_port(lease, &stem, path, bytes).await
            };
            match rendered {
                Ok(()) => is_any = true,
                // The other files may be in order.
                Err(NotRendered::Never(reason)) => given_up = Some(format!("{stem}: {reason}")),
                Err(failed) => return Err(failed),
            }
        }
        if is_any {
            self.parts.metrics.rendered(self.parts.clock.elapsed().saturating_sub(started));
        }
        given_up.map_or(Ok(()), |reason| Err(NotRendered::Never(reason)))
    }

    async fn render_screen(
        &self,
        lease: &Arc<Lease>,
        path: PathBuf,
        bytes: u64,
    ) -> Result<(), NotRendered> {
        let read = path.clone();
        let outline = blocking(move || Outline::read(&read)).await;
        let outline = outline.map_err(|error| not_rendered(&RenderError::Read(error)))?;
        let Some(outline) = outline else {
            return Err(NotRendered::Never("the screen showed nothing".to_owned()));
        };
        let shutdown = self.parts.supervisor.shutdown_token();
        let name = ArtifactName::screen_recording();
        self.store(lease, name, ContentType::Apng, bytes, move |out| {
            apng::write(&path, outline, out, &|| shutdown.is_cancelled())
        })
        .await
    }

    async fn render_port(
        &self,
        lease: &Arc<Lease>,
        stem: &str,
        path: PathBuf,
        bytes: u64,
    ) -> Result<(), NotRendered> {
        let name = |extension: &str| {
            let name = ArtifactName::parse(&format!("{stem}.{extension}"));
            name.map_err(|error| NotRendered::Never(format!("{stem} {error}")))
        };
        let log = path.clone();
        self.store(lease, name("log")?, ContentType::Text, bytes, move |out| {
            Ok(serial_text::write_log(&log, out)?)
        })
        .await?;
        let title = format!("{} {stem}", lease.machine_name.as_deref().unwrap_or_default());
        self.store(lease, name("cast")?, ContentType::Asciicast, bytes, move |out| {
            Ok(serial_text::write_cast(&path, &title, out)?)
        })
        .await
    }

    /// Stores an artifact of a recording, unless the lease has it.
    async fn store(
        &self,
        lease: &Arc<Lease>,
        name: ArtifactName,
        content_type: ContentType,
        bytes: u64,
        write: impl FnOnce(&mut dyn io::Write) -> Result<(), RenderError> + Send + 'static,
    ) -> Result<(), NotRendered> {
        let artifacts = &self.parts.artifacts;
        let later = |failure: Failure| NotRendered::Later(failure.detail);
        if artifacts.named(lease.id, &name).await.map_err(later)?.is_some() {
            return Ok(());
        }
        let new = NewArtifact::of_otter(name, Arc::clone(lease), content_type);
        match artifacts.store_written(new, bytes, write).await {
            Ok(_) => Ok(()),
            Err(WriteError::Write(error)) => Err(not_rendered(&error)),
            Err(WriteError::Store(failure)) => match failure.kind {
                FailureKind::ArtifactExists => Ok(()),
                FailureKind::InsufficientResources => Err(NotRendered::NoRoom(failure.detail)),
                FailureKind::Internal | FailureKind::PayloadTooLarge => {
                    Err(NotRendered::Never(failure.detail))
                }
                _ => Err(NotRendered::Later(failure.detail)),
            },
        }
    }

    fn folder_of(&self, lease: LeaseId) -> PathBuf {
        self.parts.folder.join(lease.to_string())
    }
}

impl Tracks {
    /// Opens the file of a track. `None` if the track cannot begin, or if it ended in an earlier
    /// process.
    ///
    /// # Returns
    /// The file, and the offset of the next byte of its serial port.
    async fn open(
        &mut self,
        folder: &Path,
        parts: &TrackParts,
    ) -> Option<(TrackFile, Option<u64>)> {
        let name = &parts.name;
        let path = folder.join(format!("{name}.{EXTENSION}"));
        match TrackFile::open(path, parts.clone()).await {
            Ok((file, continued)) => {
                self.is_continued |= continued.began_at.is_some();
                let Some(reason) = continued.ended else {
                    return Some((file, continued.next_offset));
                };
                self.ended.push(format!("{name}: {reason}"));
                None
            }
            Err(error) => {
                self.failed.push((name.clone(), error.into()));
                None
            }
        }
    }
}

/// What is recorded of a machine: whether its screen is, and which of its ports.
fn chosen(lease: &Lease, machine: &Machine) -> (bool, Vec<SerialPort>) {
    let Some(record) = &lease.record else { return (false, Vec::new()) };
    let ports = machine.serial_ports.iter().filter(|port| record.includes(port));
    (record.screen, ports.cloned().collect())
}

/// The names of tracks.
fn names_of(with_screen: bool, ports: &[SerialPort]) -> Vec<String> {
    let screen = with_screen.then(|| SCREEN.to_owned());
    screen.into_iter().chain(ports.iter().map(port_file_stem)).collect()
}

fn not_rendered(error: &RenderError) -> NotRendered {
    use io::ErrorKind;
    let error = match error {
        RenderError::Stopped => return NotRendered::Stopped,
        RenderError::Read(error) | RenderError::Write(EncodingError::IoError(error)) => error,
        RenderError::Write(error) => return NotRendered::Never(error.to_string()),
    };
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::NotFound | ErrorKind::FileTooLarge => {
            NotRendered::Never(error.to_string())
        }
        _ => NotRendered::Later(error.to_string()),
    }
}

/// The status of a recording that begins.
fn status_of(lease: &Lease, ports: Vec<String>) -> RecordingStatus {
    let with_screen = lease.record.as_ref().is_some_and(|record| record.screen);
    let started_at = lease.active_at.unwrap_or(lease.created_at);
    RecordingStatus::new(started_at, with_screen, ports)
}

/// The leases that have a folder below this one.
fn leases_in(folder: &Path) -> io::Result<Vec<LeaseId>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut leases = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        leases.extend(name.to_str().and_then(|name| name.parse::<LeaseId>().ok()));
    }
    Ok(leases)
}

/// The files of tracks in the folder of a lease, with their names and sizes. The screen is first.
fn tracks_in(folder: &Path) -> io::Result<Vec<(String, PathBuf, u64)>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut tracks = Vec::new();
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(stem) = stem
            && path.extension().is_some_and(|extension| extension == EXTENSION)
        {
            tracks.push((stem.to_owned(), path.clone(), entry.metadata()?.len()));
        }
    }
    tracks.sort_by_key(|(stem, ..)| (stem != SCREEN, stem.clone()));
    Ok(tracks)
}

async fn remove_folder(folder: PathBuf) {
    let shown = folder.display().to_string();
    let removed = blocking(move || match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    if let Err(error) = removed.await {
        tracing::warn!(%error, folder = shown, "the folder of a recording cannot be removed");
    }
}

/// Runs a function on a blocking thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await?
}
