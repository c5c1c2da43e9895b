//! Waits for what a screen shows.
//!
//! ```text
//! join the screen ─► a confirmed frame ─► watch ─► a condition holds: its match
//!                          ▲                │ │ machine off and no job: invalid-power-state
//!                          └─ no console ───┘ └ right ended, machine gone: the failure
//! ```
//! Watching is driven by damage. Each change of the frame marks the conditions whose part of the
//! screen it touches; `watch_state` says when they are checked; one check at a time runs, and
//! changes that come meanwhile cause the next one. Nothing is polled.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, OptionFuture};
use jiff::SignedDuration;

pub use super::condition_checks::Matched;
pub use super::sight::{Seen, Sight};

use super::condition_checks::{CheckTrouble, Checked, ConditionChecks};
use super::conditions::ScreenConditions;
use super::encoded::{EncodedPicture, PictureRequest};
use super::last_pictures::LastPictures;
use super::ocr::{Ocr, OcrError};
use super::text_match::ReadText;
use super::wait_memory::WaitMemory;
use super::watch_state::WatchState;
use super::{CONFIRM_LIMIT, Frame, FrameChange, ScreenUser, Screens};
use crate::clock::Clock;
use crate::domain::failure::{Failure, FailureKind, InputError, SeenScreen};
use crate::domain::input::ScreenInput;
use crate::domain::keyboard;
use crate::domain::machine::{Machine, MachineIdentity};
use crate::domain::power::PowerState;
use crate::domain::screen::Region;
use crate::service::callers::Caller;
use crate::service::inventory::Inventory;

/// How long one try to get a confirmed frame takes in a wait that tries again.
const TRY_LIMIT: Duration = Duration::from_secs(10);

/// The pause before otter tries again to get a frame, or to read a text that could not be read.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A shorter wait may take this long, until each condition was tested once: it takes time to read a
/// text.
pub const FIRST_TEST_LIMIT: Duration = Duration::from_secs(10);

/// Waits for screens, and keeps what they saw last.
pub struct ScreenWaits {
    screens: Arc<Screens>,
    inventory: Arc<Inventory>,
    clock: Clock,
    checks: ConditionChecks,
    pictures: LastPictures,
    memory: WaitMemory,
}

/// What [`ScreenWaits`] are made of.
pub struct ScreenWaitsParts {
    pub screens: Arc<Screens>,
    pub inventory: Arc<Inventory>,
    pub clock: Clock,
    pub ocr: Ocr,
    pub pictures: LastPictures,
    /// The number of processors of this machine.
    pub processors: usize,
}

/// Checks a right of the caller on a machine.
pub type RightCheck<'a> = dyn Fn(&Machine) -> Result<(), Failure> + Send + Sync + 'a;

/// The terms of one wait.
pub struct WaitTerms<'a> {
    pub conditions: Arc<ScreenConditions>,
    /// Whether each condition is tested only once.
    pub once: bool,
    /// When the first tests end at the latest, by the monotonic clock: a condition that was not
    /// testable by then, because the screen was not still, counts as tested.
    pub tests_until: Option<Duration>,
    /// Checks again that the caller may look, after each change of rights.
    pub may_look: &'a RightCheck<'a>,
    /// Set if a blank screen is woken. Checks that the caller may type, before each key.
    pub wake: Option<&'a RightCheck<'a>>,
    /// Whether a job works on the machine, so that it may get a screen although it is not on.
    pub has_job: &'a (dyn Fn(&Machine) -> bool + Send + Sync),
}

/// The end of a wait whose conditions came true.
#[derive(Clone, Debug)]
pub struct ScreenMatch {
    /// `None` if the wait was only for a still screen.
    pub matched: Option<Matched>,
    /// The frame that matched.
    pub frame: Arc<Frame>,
}

impl ScreenWaits {
    #[must_use]
    pub fn new(parts: ScreenWaitsParts) -> Self {
        let ScreenWaitsParts { screens, inventory, clock, ocr, pictures, processors } = parts;
        let checks = ConditionChecks::new(clock.clone(), ocr, processors);
        Self { screens, inventory, clock, checks, pictures, memory: WaitMemory::default() }
    }

    pub(super) const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Reads text from pictures.
    #[must_use]
    pub const fn ocr(&self) -> &Ocr {
        self.checks.ocr()
    }

    /// The pictures that waits saw last.
    #[must_use]
    pub const fn pictures(&self) -> &LastPictures {
        &self.pictures
    }

    /// The memory of what waits search for.
    #[must_use]
    pub const fn memory(&self) -> &WaitMemory {
        &self.memory
    }

    /// Reads the text of a confirmed frame.
    ///
    /// # Parameters
    /// - `region`: the part to read. `None` for the whole screen.
    ///
    /// # Returns
    /// The frame, and its text with places in pixels of the region.
    ///
    /// # Errors
    /// `not-supported` without OCR, `invalid-request` if the region is not within the screen,
    /// `too-many-consoles`, `too-many-waits`, and as [`ScreenUser::confirmed`].
    pub async fn read_text(
        &self,
        machine: &Machine,
        region: Option<Region>,
    ) -> Result<(Arc<Frame>, Arc<ReadText>), Failure> {
        let with_machine = |failure: Failure| failure.with_machine(&machine.id, &machine.name);
        self.ocr().check_installed().map_err(with_machine)?;
        let user = self.screens.use_screen(machine)?;
        let frame = user.confirmed(CONFIRM_LIMIT).await?;
        let picture = frame.picture().ok_or_else(|| with_machine(no_picture()))?;
        let region = region.unwrap_or_else(|| picture.size.whole());
        if !region.is_within(picture.size) {
            return Err(with_machine(outside(region, &frame)));
        }
        let read = self.ocr().read(picture.crop(region)).await;
        Ok((frame, read.map_err(|error| with_machine(error.to_failure()))?))
    }

    /// Waits until one of the conditions holds.
    ///
    /// # Parameters
    /// - `sight`: gets what the wait sees.
    ///
    /// # Errors
    /// - `invalid-power-state` if the machine is not on and no job works on it.
    /// - `machine-gone` if it is removed from the host.
    /// - `not-supported` without OCR, if a condition needs it.
    /// - The failure of `may_look` or `wake` if the right of the caller ended.
    /// - `wait-timeout` if the conditions are tested once and none holds.
    /// - `too-many-consoles`, `shutting-down`; the other failures of [`ScreenUser::confirmed`] only
    ///   if the conditions are tested once.
    pub async fn wait(
        &self,
        machine: &MachineIdentity,
        terms: &WaitTerms<'_>,
        sight: &Sight,
    ) -> Result<ScreenMatch, Failure> {
        let known = self.known(machine)?;
        if terms.conditions.need_text() {
            let with_machine = |failure: Failure| failure.with_machine(&known.id, &known.name);
            self.ocr().check_installed().map_err(with_machine)?;
        }
        self.check_can_come(&known, terms)?;
        let user = if known.power_state == Some(PowerState::On) {
            self.screens.use_screen(&known)?
        } else {
            self.screens.join_screen(&known)?
        };
        let watch = self.watch(user, machine, terms, sight);
        let guard = self.guard(machine, terms);
        tokio::select! {
            biased;
            found = watch => found,
            failure = guard => Err(failure),
        }
    }

    /// The failure of a wait whose time is up, with the last text and the last picture.
    ///
    /// # Parameters
    /// - `caller`: who waited.
    /// - `detail`: what did not come true in which time.
    pub async fn timed_out(
        &self,
        machine: &Machine,
        caller: &Caller,
        sight: &Sight,
        detail: &str,
    ) -> Failure {
        let Seen { text, frame, trouble, .. } = sight.seen();
        let encoded = match &frame {
            Some(frame) => frame.png(PictureRequest::default()).await.ok().flatten(),
            None => None,
        };
        let keep =
            |picture: EncodedPicture| self.pictures.keep(&machine.identity(), caller, picture.png);
        let kept = encoded.and_then(keep);
        let detail = match trouble {
            Some(trouble) => format!("{detail} {trouble}"),
            None => detail.to_owned(),
        };
        Failure::new(FailureKind::WaitTimeout, detail)
            .with_machine(&machine.id, &machine.name)
            .with_seen(SeenScreen::new(text.as_deref(), kept))
    }

    /// Ends with the failure that makes the wait pointless: the machine is gone or off, or the
    /// caller may not look any more.
    async fn guard(&self, machine: &MachineIdentity, terms: &WaitTerms<'_>) -> Failure {
        let mut machines = self.inventory.watch(&machine.id);
        let mut rights = self.screens.right_changes();
        loop {
            let checked = self.known(machine).and_then(|known| {
                (terms.may_look)(&known)?;
                self.check_can_come(&known, terms)
            });
            if let Err(failure) = checked {
                return failure;
            }
            tokio::select! {
                changed = machines.changed() => {
                    if changed.is_err() {
                        // The inventory dropped the watcher between two changes.
                        machines = self.inventory.watch(&machine.id);
                    }
                }
                () = rights.changed() => {}
                // The end of a job is no change of the machine.
                () = self.clock.sleep(RETRY_PAUSE), if !self.is_on(machine) => {}
            }
        }
    }

    fn is_on(&self, machine: &MachineIdentity) -> bool {
        self.known(machine).is_ok_and(|known| known.power_state == Some(PowerState::On))
    }

    /// Watches a screen until one of the conditions holds.
    async fn watch(
        &self,
        mut user: ScreenUser,
        machine: &MachineIdentity,
        terms: &WaitTerms<'_>,
        sight: &Sight,
    ) -> Result<ScreenMatch, Failure> {
        self.confirm(&user, terms, sight).await?;
        let wakes = terms.wake.is_some();
        let began = self.clock.elapsed();
        let WaitTerms { conditions, tests_until, .. } = terms;
        let mut state = WatchState::new(conditions, wakes, &user.frame(), began, *tests_until);
        let mut check: Option<BoxFuture<'_, Checked>> = None;
        let mut had_outage = false;
        loop {
            let now = self.clock.elapsed();
            let frame = user.frame();
            let outage = user.outage();
            if outage.is_some() || had_outage {
                had_outage = outage.is_some();
                sight.note(|seen| seen.trouble = outage);
            }
            state.look(&frame, now, self.since(&frame, now));
            if frame.is_current() {
                sight.note(|seen| seen.frame = Some(Arc::clone(&frame)));
            }
            if check.is_none() {
                if state.is_only_still(now) {
                    return Ok(ScreenMatch { matched: None, frame });
                }
                match state.begin_check(&frame, now) {
                    Some(due) => {
                        let conditions = Arc::clone(&terms.conditions);
                        check = Some(Box::pin(self.checks.check(conditions, due, frame, sight)));
                    }
                    None if state.is_tested(now) => {
                        sight.note(|seen| seen.is_tested = true);
                        if terms.once {
                            return Err(not_now());
                        }
                    }
                    None => {}
                }
            }
            if let Some(wake) = terms.wake.filter(|_| state.must_wake(now)) {
                wake(&*self.known(machine)?)?;
                state.on_woken(now);
                press_shift(&user).await;
            }
            let next = state.next_time(check.is_some(), now);
            let timer = async {
                match next {
                    Some(next) => self.clock.sleep(next.saturating_sub(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(checked) = OptionFuture::from(check.as_mut()), if check.is_some() => {
                    check = None;
                    let Checked { frame, matched, failed, trouble } = checked;
                    if let Some(matched) = matched {
                        return Ok(ScreenMatch { matched: Some(matched), frame });
                    }
                    if let Some(CheckTrouble::Ocr(error)) = &trouble
                        && (terms.once || *error == OcrError::Missing)
                    {
                        return Err(error.to_failure());
                    }
                    sight.note(|seen| seen.trouble = trouble.map(|trouble| trouble.to_string()));
                    let now = self.clock.elapsed();
                    state.check_again(&failed, now + RETRY_PAUSE);
                    if state.is_tested(now) {
                        sight.note(|seen| seen.is_tested = true);
                        if terms.once {
                            return Err(not_now());
                        }
                    }
                }
                changed = user.changed() => {
                    let FrameChange { frame, damage } = changed?;
                    state.on_change(&frame, &damage, self.clock.elapsed());
                }
                () = timer => {}
            }
        }
    }

    /// Waits until the host confirmed a frame, so that no older picture counts.
    async fn confirm(
        &self,
        user: &ScreenUser,
        terms: &WaitTerms<'_>,
        sight: &Sight,
    ) -> Result<(), Failure> {
        let limit = if terms.once { CONFIRM_LIMIT } else { TRY_LIMIT };
        loop {
            let Err(failure) = user.confirmed(limit).await else {
                sight.note(|seen| seen.trouble = None);
                return Ok(());
            };
            let may_come = matches!(
                failure.kind,
                FailureKind::ConsoleUnavailable
                    | FailureKind::HostUnreachable
                    | FailureKind::HostLoginRefused
                    | FailureKind::InvalidPowerState
            );
            if terms.once || !may_come {
                return Err(failure);
            }
            sight.note(|seen| seen.trouble = Some(failure.detail));
            self.clock.sleep(RETRY_PAUSE).await;
        }
    }

    /// The machine of a wait, as it is now.
    fn known(&self, machine: &MachineIdentity) -> Result<Arc<Machine>, Failure> {
        let contents = self.inventory.contents();
        let known = contents.machine(&machine.id).filter(|known| machine.can_be(&known.identity()));
        known.cloned().ok_or_else(|| {
            let detail = "The machine was removed from the host while its screen was waited for.";
            Failure::new(FailureKind::MachineGone, detail)
        })
    }

    /// Checks that the machine has a screen, or that a job may give it one.
    fn check_can_come(&self, machine: &Machine, terms: &WaitTerms<'_>) -> Result<(), Failure> {
        let Some(reason) = self.screens.state(machine).unavailable_reason else { return Ok(()) };
        if (terms.has_job)(machine) && !terms.once {
            return Ok(());
        }
        Err(Failure::new(FailureKind::InvalidPowerState, reason)
            .with_machine(&machine.id, &machine.name))
    }

    /// When the pixels of a frame last changed, on the monotonic clock.
    fn since(&self, frame: &Frame, now: Duration) -> Duration {
        let age = self.clock.now().duration_since(frame.changed_at);
        let age = Duration::try_from(age.max(SignedDuration::ZERO)).unwrap_or_default();
        now.saturating_sub(age)
    }
}

/// Presses and releases Shift, which types nothing. A screen that lost its console is woken by the
/// next try.
async fn press_shift(user: &ScreenUser) {
    let key = |down| ScreenInput::Key { keysym: keyboard::SHIFT, down };
    if user.send(&[key(true), key(false)]).await.is_err() {
        tracing::debug!("a blank screen could not be woken: it has no console");
    }
}

/// The end of a wait that tests once. The caller replaces it by [`ScreenWaits::timed_out`].
fn not_now() -> Failure {
    Failure::new(FailureKind::WaitTimeout, "The screen does not show it now.")
}

fn no_picture() -> Failure {
    Failure::new(FailureKind::ConsoleUnavailable, "The screen has no complete picture yet.")
}

fn outside(region: Region, frame: &Frame) -> Failure {
    let size = frame.size;
    let detail =
        format!("The region {region} does not fit on the screen, which has {size} pixels.");
    Failure::new(FailureKind::InvalidRequest, detail.clone()).with_error(InputError {
        pointer: None,
        parameter: Some("region".to_owned()),
        code: "out-of-range".into(),
        detail,
    })
}
