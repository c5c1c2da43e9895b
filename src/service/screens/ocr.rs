//! Reads text from pictures of screens. Each picture is read once, whatever the number of its
//! readers: a result is found again by the hash of the pixels, and readers of the same pixels share
//! one run of the program.
//!
//! ```text
//! read ─► known by its hash ─────────────────────────────────────────► text
//!   ├──► being read: wait for the same run ────────────────────────┐
//!   └──► 64 wait: too busy, else wait for a processor ─► program ──┴─► text | error
//! ```
//! A run whose readers are all gone is dropped, which kills the program.

mod picture;
mod process;
mod tsv;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::Semaphore;

use super::text_match::ReadText;
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::screen::Picture;
use crate::telemetry::screens::ScreenMetrics;

/// The largest number of pictures that wait for a processor.
const MAX_WAITING: usize = 64;

/// The number of results that are kept.
const MAX_KEPT: usize = 128;

/// Why a picture was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OcrError {
    /// The program is not installed.
    #[error("the program of screens.ocr_command is not installed")]
    Missing,
    /// The program was killed after its time limit.
    #[error("the program of screens.ocr_command was killed after 10 s")]
    TooSlow,
    /// Too many pictures wait.
    #[error("too many pictures wait to be read")]
    TooBusy,
    /// The program failed, with its reason.
    #[error("the program of screens.ocr_command failed: {0}")]
    Failed(String),
}

/// Reads text from pictures.
pub struct Ocr {
    clock: Clock,
    command: Arc<[String]>,
    metrics: ScreenMetrics,
    hashes: RandomState,
    /// Permits to run the program: one for two processors.
    processors: Arc<Semaphore>,
    /// Permits to wait for a processor, or to use it.
    places: Arc<Semaphore>,
    results: Arc<Mutex<Results>>,
}

/// The key of a picture: the hash of its size and pixels, with a key that is secret and random, so
/// that no guest can make two pictures of the same hash.
type PictureHash = u64;

type Reading = Result<Arc<ReadText>, OcrError>;
type Run = BoxFuture<'static, Reading>;

/// The results that are known, and the runs that go on.
#[derive(Default)]
struct Results {
    texts: HashMap<PictureHash, Arc<ReadText>>,
    /// The hashes of `texts`, the oldest first.
    order: VecDeque<PictureHash>,
    runs: HashMap<PictureHash, WeakShared<Run>>,
}

impl Ocr {
    /// Reads by a program.
    ///
    /// # Parameters
    /// - `command`: the program and its first arguments, `screens.ocr_command`.
    /// - `processors`: the number of processors of this machine.
    #[must_use]
    pub fn new(
        clock: Clock,
        command: &[String],
        processors: usize,
        metrics: ScreenMetrics,
    ) -> Self {
        let at_once = (processors / 2).max(1);
        Self {
            clock,
            command: Arc::from(command),
            metrics,
            hashes: RandomState::new(),
            processors: Arc::new(Semaphore::new(at_once)),
            places: Arc::new(Semaphore::new(at_once + MAX_WAITING)),
            results: Arc::default(),
        }
    }

    /// Checks that the program is installed.
    ///
    /// # Errors
    /// `not-supported`, which names the Debian packages.
    pub fn check_installed(&self) -> Result<(), Failure> {
        let program = self.command.first().map(Path::new).ok_or_else(not_installed)?;
        let is_found = if program.components().count() > 1 {
            program.is_file()
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        };
        if is_found { Ok(()) } else { Err(not_installed()) }
    }

    /// Reads the text of a picture. The places of its words are in pixels of this picture.
    ///
    /// # Errors
    /// [`OcrError`]
    pub async fn read(&self, picture: Picture) -> Result<Arc<ReadText>, OcrError> {
        let hash = self.hash(&picture);
        let run = {
            let mut results = lock(&self.results);
            if let Some(text) = results.texts.get(&hash) {
                return Ok(Arc::clone(text));
            }
            if let Some(run) = results.runs.get(&hash).and_then(WeakShared::upgrade) {
                run
            } else {
                let run: Shared<Run> = self.start(hash, picture).boxed().shared();
                results.runs.retain(|_, run| run.upgrade().is_some());
                results.runs.extend(run.downgrade().map(|weak| (hash, weak)));
                run
            }
        };
        run.await
    }

    /// The future that reads a picture and keeps the result. It does nothing until it is polled.
    fn start(
        &self,
        hash: PictureHash,
        picture: Picture,
    ) -> impl Future<Output = Reading> + Send + 'static {
        let (clock, command) = (self.clock.clone(), Arc::clone(&self.command));
        let (processors, places) = (Arc::clone(&self.processors), Arc::clone(&self.places));
        let (results, metrics) = (Arc::clone(&self.results), self.metrics.clone());
        async move {
            let _place = places.try_acquire_owned().map_err(|_| OcrError::TooBusy)?;
            let _processor = processors.acquire_owned().await.map_err(|_| OcrError::TooBusy)?;
            let started = clock.elapsed();
            let size = picture.size;
            let prepared = tokio::task::spawn_blocking(move || picture::prepare(&picture))
                .await
                .map_err(|error| OcrError::Failed(error.to_string()))??;
            let output = process::run(&clock, &command, &prepared.png, size.height).await;
            metrics.record_read(clock.elapsed().saturating_sub(started));
            let text = tsv::parse(&output?, prepared.scale, prepared.margin, size);
            let text = Arc::new(text);
            lock(&results).keep(hash, Arc::clone(&text));
            Ok(text)
        }
    }

    fn hash(&self, picture: &Picture) -> PictureHash {
        let mut hasher = self.hashes.build_hasher();
        hasher.write_u16(picture.size.width);
        hasher.write_u16(picture.size.height);
        hasher.write(&picture.pixels);
        hasher.finish()
    }
}

impl Results {
    fn keep(&mut self, hash: PictureHash, text: Arc<ReadText>) {
        self.runs.remove(&hash);
        if self.texts.insert(hash, text).is_none() {
            self.order.push_back(hash);
        }
        while self.order.len() > MAX_KEPT {
            if let Some(oldest) = self.order.pop_front() {
                self.texts.remove(&oldest);
            }
        }
    }
}

impl OcrError {
    /// The failure of the call that needed the text.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        match self {
            Self::Missing => not_installed(),
            Self::TooBusy => {
                let detail = format!(
                    "{MAX_WAITING} pictures of screens wait to be read as text; try again in a \
                     moment."
                );
                Failure::new(FailureKind::TooManyWaits, detail)
            }
            Self::TooSlow | Self::Failed(_) => {
                tracing::warn!(error = %self, "the text of a screen could not be read");
                let detail = format!("The text of the screen could not be read: {self}.");
                Failure::new(FailureKind::ConsoleUnavailable, detail)
            }
        }
    }
}

fn not_installed() -> Failure {
    let detail = "otter reads text from screens with tesseract, which is not installed where otter \
                  runs. Install the Debian packages tesseract-ocr and tesseract-ocr-eng there, or \
                  set screens.ocr_command.";
    Failure::new(FailureKind::NotSupported, detail)
}

fn lock(results: &Mutex<Results>) -> MutexGuard<'_, Results> {
    results.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::Duration;

    use bytes::Bytes;
    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::*;
    use crate::domain::screen::ScreenSize;
    use crate::telemetry::metrics::Metrics;

    const SIZE: ScreenSize = ScreenSize { width: 100, height: 50 };

    fn picture(value: u8) -> Picture {
        Picture { size: SIZE, pixels: Bytes::from(vec![value; 100 * 50 * 4]) }
    }

    /// OCR by a shell script, which counts its runs in the file `runs`.
    fn scripted(folder: &TempDir, script: &str) -> Ocr {
        scripted_by(Clock::system(), folder, script)
    }

    fn scripted_by(clock: Clock, folder: &TempDir, script: &str) -> Ocr {
        let file = folder.path().join("ocr");
        let runs = folder.path().join("runs");
        let text = format!("#!/bin/sh\necho run >>{}\ncat >/dev/null\n{script}", runs.display());
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        Ocr::new(clock, &[file.display().to_string()], 4, metrics())
    }

    fn metrics() -> ScreenMetrics {
        Metrics::default().screens().clone()
    }

    fn runs(folder: &TempDir) -> usize {
        std::fs::read_to_string(folder.path().join("runs")).unwrap_or_default().lines().count()
    }

    const SAYS_HELLO: &str = "printf '5\\t1\\t1\\t1\\t1\\t1\\t20\\t40\\t60\\t30\\t96\\tHello\\n'";

    #[tokio::test]
    async fn the_same_pixels_are_read_once() {
        let folder = TempDir::new().unwrap();
        let ocr = scripted(&folder, SAYS_HELLO);
        let readers = (0..50).map(|_| ocr.read(picture(200)));
        for text in futures_util::future::join_all(readers).await {
            assert_eq!(text.unwrap().text(), "Hello");
        }
        assert_eq!(ocr.read(picture(200)).await.unwrap().text(), "Hello");
        assert_eq!(runs(&folder), 1);
        ocr.read(picture(100)).await.unwrap();
        assert_eq!(runs(&folder), 2, "other pixels are read again");
    }

    /// OCR by a program that does not end, and the file to which it writes its process id.
    fn endless(clock: Clock, folder: &TempDir) -> (Ocr, PathBuf) {
        let file = folder.path().join("pid");
        let script = format!("echo $$ >{}\nexec sleep 1000", file.display());
        (scripted_by(clock, folder, &script), file)
    }

    /// Waits until the program runs. Returns its process id.
    async fn started(file: &Path) -> String {
        loop {
            let id = std::fs::read_to_string(file).unwrap_or_default();
            if id.ends_with('\n') {
                return id.trim().to_owned();
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until a process has ended.
    async fn ended(id: &str) {
        let status = format!("/proc/{id}/stat");
        // A process that has ended is a zombie until it is waited for.
        let runs = || std::fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") Z "));
        while runs() {
            tokio::task::yield_now().await;
        }
    }

    /// The longest time of a test that waits for a process.
    const TEST_LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_program_without_readers_is_killed() {
        let folder = TempDir::new().unwrap();
        let (ocr, file) = endless(Clock::system(), &folder);
        let killed = async {
            let id = tokio::select! {
                read = ocr.read(picture(200)) => panic!("the program ended: {read:?}"),
                id = started(&file) => id,
            };
            assert_eq!(ocr.processors.available_permits(), 2, "the permit is free again");
            ended(&id).await;
        };
        tokio::time::timeout(TEST_LIMIT, killed).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_too_slow_is_killed() {
        let folder = TempDir::new().unwrap();
        let clock = Clock::stepped(Timestamp::UNIX_EPOCH);
        let (ocr, file) = endless(clock.clone(), &folder);
        let killed = async {
            let slow = async {
                // The program runs, so its time has begun.
                let id = started(&file).await;
                clock.advance(process::TIME_LIMIT);
                id
            };
            let (read, id) = tokio::join!(ocr.read(picture(1)), slow);
            assert_eq!(read, Err(OcrError::TooSlow));
            ended(&id).await;
        };
        tokio::time::timeout(TEST_LIMIT, killed).await.unwrap();
    }

    #[tokio::test]
    async fn the_65th_waiting_picture_is_refused() {
        let folder = TempDir::new().unwrap();
        let ocr = scripted(&folder, SAYS_HELLO);
        let _all = ocr.places.clone().try_acquire_many_owned(2 + 64).unwrap();
        assert_eq!(ocr.read(picture(1)).await, Err(OcrError::TooBusy));
    }

    #[tokio::test]
    async fn a_missing_program_names_the_packages() {
        let ocr =
            Ocr::new(Clock::system(), &["otter-has-no-such-program".to_owned()], 1, metrics());
        let failure = ocr.check_installed().unwrap_err();
        assert_eq!(failure.kind, FailureKind::NotSupported);
        assert!(failure.detail.contains("tesseract-ocr-eng"), "{failure}");
        assert_eq!(ocr.read(picture(1)).await, Err(OcrError::Missing));
    }

    #[tokio::test]
    async fn a_failing_program_says_why() {
        let folder = TempDir::new().unwrap();
        let ocr = scripted(&folder, "echo 'no language' >&2; exit 3");
        let error = ocr.read(picture(1)).await.unwrap_err();
        assert!(error.to_string().contains("no language"), "{error}");
        // A failure is not kept: the next reader tries again.
        assert!(ocr.read(picture(1)).await.is_err());
        assert_eq!(runs(&folder), 2);
    }
}
