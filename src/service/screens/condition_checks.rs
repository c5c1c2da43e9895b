//! Checks the conditions of a wait against one frame: reads its text, and searches for images.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use super::Frame;
use super::conditions::{Found, ScreenConditions, Subject};
use super::ocr::{Ocr, OcrError};
use super::picture_search::SEARCH_LIMIT;
use super::sight::Sight;
use crate::clock::Clock;
use crate::domain::screen::Picture;

/// Checks conditions for all waits.
pub struct ConditionChecks {
    clock: Clock,
    ocr: Ocr,
    /// Permits to search for a picture or a regular expression: one for two processors.
    searches: Arc<Semaphore>,
}

/// The result of one check.
pub struct Checked {
    pub frame: Arc<Frame>,
    pub matched: Option<Matched>,
    /// The conditions that could not be tested.
    pub failed: Vec<usize>,
    pub trouble: Option<CheckTrouble>,
}

/// Why a condition could not be tested.
#[derive(Debug, thiserror::Error)]
pub enum CheckTrouble {
    #[error("The text could not be read: {0}.")]
    Ocr(OcrError),
    #[error("The search for the image of any[{0}] took longer than 2 s; give it a smaller region.")]
    SlowSearch(usize),
}

/// The condition that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched {
    /// Its position in `any`.
    pub index: usize,
    pub name: Option<String>,
    pub found: Found,
}

/// Tells a search to stop when the wait is dropped.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl ConditionChecks {
    /// # Parameters
    /// - `processors`: the number of processors of this machine.
    #[must_use]
    pub fn new(clock: Clock, ocr: Ocr, processors: usize) -> Self {
        Self { clock, ocr, searches: Arc::new(Semaphore::new((processors / 2).max(1))) }
    }

    /// Reads text from pictures.
    #[must_use]
    pub const fn ocr(&self) -> &Ocr {
        &self.ocr
    }

    /// Checks some conditions against a frame, in their order.
    pub async fn check(
        &self,
        conditions: Arc<ScreenConditions>,
        due: Vec<usize>,
        frame: Arc<Frame>,
        sight: &Sight,
    ) -> Checked {
        let mut checked = Checked { frame, matched: None, failed: Vec::new(), trouble: None };
        let Some(picture) = checked.frame.picture() else { return checked };
        for index in due {
            let Some(condition) = conditions.any.get(index) else { continue };
            let found = match &condition.subject {
                Subject::Text(_) | Subject::Regex { .. } => {
                    self.check_text(&conditions, index, &picture, sight).await
                }
                Subject::Image { .. } => self.check_image(&conditions, index, &picture).await,
            };
            match found {
                Ok(found) if found.is_some() == condition.absent => {}
                Ok(_) if condition.absent && picture.is_one_colour() => {}
                Ok(found) => {
                    let (name, found) = (condition.name.clone(), found.unwrap_or_default());
                    checked.matched = Some(Matched { index, name, found });
                    return checked;
                }
                Err(trouble) => {
                    checked.failed.push(index);
                    checked.trouble = Some(trouble);
                }
            }
        }
        checked
    }

    async fn check_text(
        &self,
        conditions: &Arc<ScreenConditions>,
        index: usize,
        picture: &Picture,
        sight: &Sight,
    ) -> Result<Option<Found>, CheckTrouble> {
        let Some(condition) = conditions.any.get(index) else { return Ok(None) };
        let part = condition.region.map_or_else(|| picture.clone(), |region| picture.crop(region));
        let read = self.ocr.read(part).await.map_err(CheckTrouble::Ocr)?;
        sight.note(|seen| seen.text = Some(Arc::from(read.text())));
        if let Subject::Text(_) = condition.subject {
            return Ok(condition.find_text(&read));
        }
        // A large regular expression searches for longer than a task may take.
        let conditions = Arc::clone(conditions);
        // The semaphore is never closed.
        let permit = Arc::clone(&self.searches).acquire_owned().await;
        let search = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            conditions.any.get(index)?.find_text(&read)
        });
        // The panic hook has logged the message and the place of a panic.
        Ok(search.await.unwrap_or_default())
    }

    async fn check_image(
        &self,
        conditions: &Arc<ScreenConditions>,
        index: usize,
        picture: &Picture,
    ) -> Result<Option<Found>, CheckTrouble> {
        let (conditions, picture) = (Arc::clone(conditions), picture.clone());
        let clock = self.clock.clone();
        let stopped = StopOnDrop::default();
        let is_stopped = Arc::clone(&stopped.0);
        // The semaphore is never closed.
        let permit = Arc::clone(&self.searches).acquire_owned().await;
        let search = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let end = clock.elapsed() + SEARCH_LIMIT;
            let mut is_over = || is_stopped.load(Ordering::Relaxed) || clock.elapsed() >= end;
            let condition = conditions.any.get(index);
            condition.map_or(Ok(None), |condition| condition.find_image(&picture, &mut is_over))
        });
        let found = search.await;
        drop(stopped);
        found.ok().and_then(Result::ok).ok_or(CheckTrouble::SlowSearch(index))
    }
}

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
