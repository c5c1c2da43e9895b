//! What a wait knows of its screen: which conditions have to be checked and when, whether the
//! screen is still, and whether it is blank. Pure: the caller gives frames and times.

use std::sync::Arc;
use std::time::Duration;

use super::Frame;
use super::conditions::{ABSENT_STILL, ScreenCondition, ScreenConditions};
use super::due_check::{DueCheck, SETTLE};
use super::stillness::Stillness;
use crate::domain::screen::{Picture, Region};

/// Stillness is examined at most once in this time, because each time compares a whole picture.
const EXAMINE_EVERY: Duration = Duration::from_millis(100);

/// A screen of one colour for this time is woken.
const WAKE_AFTER: Duration = Duration::from_secs(5);

/// What a wait knows of its screen.
pub struct WatchState {
    conditions: Arc<ScreenConditions>,
    /// Whether a blank screen is woken.
    wakes: bool,
    /// When the time is over in which a condition can become testable.
    first_tests_end: Duration,
    /// The version of the frame that was looked at last.
    version: u64,
    is_current: bool,
    checks: Vec<ConditionState>,
    still: Option<Stillness>,
    /// When stillness and blankness were examined last, and whether the frame changed since.
    examined: Option<Duration>,
    is_unexamined: bool,
    one_colour_since: Option<Duration>,
}

/// What a wait knows of one condition.
struct ConditionState {
    check: DueCheck,
    /// Not before this time, because the last check failed.
    not_before: Duration,
    /// Only for absent conditions.
    still: Option<Stillness>,
}

impl WatchState {
    /// A wait that begins with a frame. The first checks are due at once.
    ///
    /// # Parameters
    /// - `wakes`: whether a blank screen is woken.
    /// - `tests_until`: when the first tests end at the latest, even if the screen was not still.
    #[must_use]
    pub fn new(
        conditions: &Arc<ScreenConditions>,
        wakes: bool,
        frame: &Frame,
        now: Duration,
        tests_until: Option<Duration>,
    ) -> Self {
        let of_condition = |condition: &ScreenCondition| ConditionState {
            check: DueCheck::first(now),
            not_before: Duration::ZERO,
            still: condition.absent.then(|| Stillness::with_default_tolerance(condition.region)),
        };
        let still = conditions.still.map_or(Duration::ZERO, |still| still.time);
        let is_any_absent = conditions.any.iter().any(|condition| condition.absent);
        let absent = if is_any_absent { ABSENT_STILL } else { Duration::ZERO };
        let testable_by = now + still.max(absent) + SETTLE;
        Self {
            conditions: Arc::clone(conditions),
            wakes,
            first_tests_end: tests_until.map_or(testable_by, |until| until.min(testable_by)),
            version: frame.version,
            is_current: frame.is_current(),
            checks: conditions.any.iter().map(of_condition).collect(),
            still: conditions.still.map(|still| Stillness::new(still.region, still.tolerance)),
            examined: None,
            is_unexamined: true,
            one_colour_since: None,
        }
    }

    /// The frame changed in these regions.
    pub fn on_change(&mut self, frame: &Frame, damage: &[Region], now: Duration) {
        for (condition, state) in self.conditions.any.iter().zip(&mut self.checks) {
            // Whether an absent condition holds depends on the whole screen: it may be blank.
            let area = condition.area(frame.size).filter(|_| !condition.absent);
            let touches =
                |region: &Region| area.is_none_or(|area| area.intersect(*region).is_some());
            if damage.iter().any(touches) {
                state.check.on_change(now);
            }
        }
    }

    /// Takes the newest frame, and examines its stillness and its colours if that is due.
    ///
    /// # Parameters
    /// - `since`: when its pixels last changed, on the monotonic clock.
    pub fn look(&mut self, frame: &Frame, now: Duration, since: Duration) {
        if self.version != frame.version {
            self.version = frame.version;
            self.is_unexamined = true;
            if frame.is_current() && !self.is_current {
                self.checks.iter_mut().for_each(|state| state.check.on_change(now));
            }
            self.is_current = frame.is_current();
        }
        let is_early = self.examined.is_some_and(|examined| now < examined + EXAMINE_EVERY);
        if !self.is_unexamined || (is_early && self.is_current) {
            return;
        }
        (self.examined, self.is_unexamined) = (Some(now), false);
        let needs_picture = self.is_current && (self.wakes || self.needs_stillness());
        let picture = if needs_picture { frame.picture() } else { None };
        let picture = picture.as_ref();
        let of_checks = self.checks.iter_mut().filter_map(|state| state.still.as_mut());
        for still in of_checks.chain(&mut self.still) {
            still.observe(picture, since);
        }
        if picture.is_some_and(Picture::is_one_colour) {
            self.one_colour_since.get_or_insert(since);
        } else {
            self.one_colour_since = None;
        }
    }

    /// The conditions whose check is due, which begins now. `None` if there is none.
    pub fn begin_check(&mut self, frame: &Frame, now: Duration) -> Option<Vec<usize>> {
        if !self.is_current || self.must_examine_first() {
            return None;
        }
        let is_due = |index: &usize| self.due(*index).is_some_and(|due| due <= now);
        let due: Vec<usize> = (0..self.checks.len()).filter(is_due).collect();
        let mut begun = Vec::new();
        for index in due {
            let Some(state) = self.checks.get_mut(index) else { continue };
            state.check.begin();
            // A screen without the region of a condition does not show it.
            let area = self.conditions.any.get(index).and_then(|of| of.area(frame.size));
            begun.extend(area.map(|_| index));
        }
        (!begun.is_empty()).then_some(begun)
    }

    /// Whether the wait is only for a still screen, and the screen is still.
    #[must_use]
    pub fn is_only_still(&self, now: Duration) -> bool {
        self.checks.is_empty()
            && !self.is_unexamined
            && self.still_at().is_some_and(|still_at| still_at <= now)
    }

    /// Whether each condition had its first test, or the time in which it could become testable is
    /// over.
    #[must_use]
    pub fn is_tested(&self, now: Duration) -> bool {
        let is_pending = self.checks.iter().any(|state| state.check.is_pending());
        let has_had_tests = !self.checks.is_empty() && !is_pending;
        has_had_tests || now >= self.first_tests_end
    }

    /// Checks some conditions again after a failed check.
    pub fn check_again(&mut self, failed: &[usize], not_before: Duration) {
        for index in failed {
            if let Some(state) = self.checks.get_mut(*index) {
                state.check.on_change(not_before);
                state.not_before = not_before;
            }
        }
    }

    /// Whether the screen is blank for so long that it is woken.
    #[must_use]
    pub fn must_wake(&self, now: Duration) -> bool {
        self.wakes && self.one_colour_since.is_some_and(|since| since + WAKE_AFTER <= now)
    }

    /// A key was pressed. The next one comes after another five seconds.
    pub fn on_woken(&mut self, now: Duration) {
        self.one_colour_since = self.one_colour_since.map(|_| now);
    }

    /// When the state has to be looked at again although the frame does not change.
    ///
    /// # Parameters
    /// - `is_checking`: whether a check runs, so that no other one begins.
    #[must_use]
    pub fn next_time(&self, is_checking: bool, now: Duration) -> Option<Duration> {
        let tests_end = Some(self.first_tests_end).filter(|end| *end > now);
        let wake = self.one_colour_since.filter(|_| self.wakes).map(|since| since + WAKE_AFTER);
        if self.is_unexamined && (self.must_examine_first() || self.wakes) {
            let examine = self.examined.map(|examined| examined + EXAMINE_EVERY);
            return [examine, tests_end].into_iter().flatten().min();
        }
        let checks = (0..self.checks.len()).filter_map(|index| self.due(index));
        let check = checks.min().filter(|_| !is_checking && self.is_current);
        let still = self.still_at().filter(|_| self.checks.is_empty());
        [wake, check, still, tests_end].into_iter().flatten().min()
    }

    /// When the check of a condition is due. `None` if a change of the screen must come first.
    fn due(&self, index: usize) -> Option<Duration> {
        let state = self.checks.get(index)?;
        let mut due = state.check.due()?.max(state.not_before);
        if let Some(still) = &state.still {
            due = due.max(still.since()? + ABSENT_STILL);
        }
        if self.still.is_some() {
            due = due.max(self.still_at()?);
        }
        Some(due)
    }

    /// When the screen was or will be still for the time of the wait. `None` if the wait has no
    /// such time, or there is no picture.
    fn still_at(&self) -> Option<Duration> {
        let time = self.conditions.still?.time;
        self.still.as_ref()?.since().map(|since| since + time)
    }

    fn needs_stillness(&self) -> bool {
        self.still.is_some() || self.checks.iter().any(|state| state.still.is_some())
    }

    /// Whether the newest frame may have ended a stillness that a check needs.
    fn must_examine_first(&self) -> bool {
        self.is_unexamined && self.needs_stillness()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::conditions::{StillCondition, Subject};
    use super::super::text_match::Needle;
    use super::*;
    use crate::domain::screen::ScreenSize;
    use crate::service::screens::frame::Canvas;

    const SIZE: ScreenSize = ScreenSize { width: 100, height: 100 };
    const LEFT: Region = Region { x: 0, y: 0, width: 50, height: 100 };
    const RIGHT: Region = Region { x: 50, y: 0, width: 50, height: 100 };

    const fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn text(region: Option<Region>, absent: bool) -> ScreenCondition {
        let subject = Subject::Text(Needle::new("login").unwrap());
        ScreenCondition { name: None, subject, region, absent }
    }

    fn conditions(any: Vec<ScreenCondition>, still: Option<u64>) -> Arc<ScreenConditions> {
        let still =
            still.map(|time| StillCondition { time: at(time), tolerance: 0.0, region: None });
        Arc::new(ScreenConditions { any, still })
    }

    /// A canvas that is painted in two colours.
    struct Screen(Canvas);

    impl Screen {
        fn new() -> Self {
            let mut canvas = Canvas::new(Timestamp::UNIX_EPOCH);
            canvas.clear(SIZE);
            canvas.set_live(true);
            let mut screen = Self(canvas);
            screen.paint(LEFT, 1);
            screen.paint(RIGHT, 2);
            screen
        }

        fn paint(&mut self, region: Region, value: u8) {
            self.0.paint(region, &vec![value; region.pixels() * 4]);
        }

        fn frame(&mut self) -> Arc<Frame> {
            self.0.publish(Timestamp::UNIX_EPOCH);
            Arc::clone(self.0.frame())
        }
    }

    #[test]
    fn only_the_conditions_that_the_damage_touches_are_checked_again() {
        let conditions = conditions(vec![text(Some(LEFT), false), text(Some(RIGHT), false)], None);
        let mut screen = Screen::new();
        let frame = screen.frame();
        let mut state = WatchState::new(&conditions, false, &frame, at(0), None);
        state.look(&frame, at(0), at(0));
        assert_eq!(state.begin_check(&frame, at(0)), Some(vec![0, 1]), "the first check");
        assert_eq!(state.begin_check(&frame, at(5000)), None, "nothing changed");
        screen.paint(RIGHT, 3);
        let frame = screen.frame();
        state.on_change(&frame, &[RIGHT], at(6000));
        state.look(&frame, at(6000), at(6000));
        assert_eq!(state.begin_check(&frame, at(6299)), None, "it may change again");
        assert_eq!(state.next_time(false, at(6299)), Some(at(6300)));
        assert_eq!(state.begin_check(&frame, at(6300)), Some(vec![1]));
    }

    #[test]
    fn an_absent_condition_waits_until_the_screen_was_still_for_a_second() {
        let conditions = conditions(vec![text(None, true)], None);
        let mut screen = Screen::new();
        let frame = screen.frame();
        let mut state = WatchState::new(&conditions, false, &frame, at(0), None);
        state.look(&frame, at(0), at(0));
        assert_eq!(state.begin_check(&frame, at(999)), None);
        assert!(!state.is_tested(at(999)));
        assert_eq!(state.next_time(false, at(500)), Some(at(1000)));
        assert_eq!(state.begin_check(&frame, at(1000)), Some(vec![0]));
        assert!(state.is_tested(at(1000)));
    }

    #[test]
    fn the_time_of_a_wait_ends_the_first_tests() {
        let conditions = conditions(vec![text(None, false)], Some(30_000));
        let frame = Screen::new().frame();
        let looked = |tests_until| {
            let mut state = WatchState::new(&conditions, false, &frame, at(0), tests_until);
            state.look(&frame, at(0), at(0));
            state
        };
        let mut short = looked(Some(at(1000)));
        assert_eq!(short.begin_check(&frame, at(999)), None, "the screen is not still enough");
        assert!(!short.is_tested(at(999)));
        assert_eq!(short.next_time(false, at(999)), Some(at(1000)));
        assert!(short.is_tested(at(1000)));
        for long in [looked(None), looked(Some(at(60_000)))] {
            assert!(!long.is_tested(at(30_299)));
            assert!(long.is_tested(at(30_300)));
        }
    }

    #[test]
    fn a_wait_for_a_still_screen_ends_when_it_is_still() {
        let conditions = conditions(Vec::new(), Some(2000));
        let mut screen = Screen::new();
        let frame = screen.frame();
        let mut state = WatchState::new(&conditions, false, &frame, at(0), None);
        state.look(&frame, at(0), at(0));
        assert!(!state.is_only_still(at(1999)));
        assert_eq!(state.next_time(false, at(10)), Some(at(2000)));
        assert!(state.is_only_still(at(2000)));
        screen.paint(LEFT, 9);
        let frame = screen.frame();
        state.on_change(&frame, &[LEFT], at(1500));
        state.look(&frame, at(1500), at(1500));
        assert!(!state.is_only_still(at(3499)));
        assert!(state.is_only_still(at(3500)));
    }

    #[test]
    fn a_blank_screen_is_woken_every_five_seconds() {
        let mut screen = Screen::new();
        screen.paint(LEFT, 0);
        screen.paint(RIGHT, 0);
        let frame = screen.frame();
        let conditions = conditions(vec![text(None, false)], None);
        let mut state = WatchState::new(&conditions, true, &frame, at(0), None);
        state.look(&frame, at(0), at(0));
        assert!(!state.must_wake(at(4999)));
        assert!(state.must_wake(at(5000)));
        state.on_woken(at(5000));
        assert!(!state.must_wake(at(9999)));
        assert!(state.must_wake(at(10_000)));
        screen.paint(LEFT, 7);
        let frame = screen.frame();
        state.look(&frame, at(11_000), at(11_000));
        assert!(!state.must_wake(at(60_000)));
    }
}
