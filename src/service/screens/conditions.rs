//! The conditions of a wait for a screen, and the check of one condition against one picture. Pure:
//! the caller supplies the picture and, for a text, what OCR read in it.

use std::time::Duration;

use regex::Regex;

use super::picture_search::{self, SearchArea, SearchTooLong, Template};
use super::text_match::{Needle, ReadText};
use super::wait_memory::WaitSpace;
use crate::domain::screen::{Picture, Region, ScreenSize};
use crate::domain::screen_text::ScreenText;

/// The largest number of conditions of one wait that search for an image.
pub const MAX_IMAGES: usize = 4;

/// The largest number of regular expressions of one call of input. All are compiled before its
/// first key.
pub const MAX_REGEXES: usize = 64;

/// The share of the pixels that may change while a region counts as still.
pub const DEFAULT_TOLERANCE: f64 = 0.005;

/// An absent condition holds only on a screen that was still for this time.
pub const ABSENT_STILL: Duration = Duration::from_secs(1);

/// What a wait waits for: one of `any`, on a screen that is still if `still` is set. At least one
/// of the two is set.
#[derive(Debug)]
pub struct ScreenConditions {
    pub any: Vec<ScreenCondition>,
    pub still: Option<StillCondition>,
}

/// A region that does not change for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StillCondition {
    /// How long it must not change.
    pub time: Duration,
    /// The share of its pixels that may change, 0 to 1: a clock, a cursor that blinks.
    pub tolerance: f64,
    /// `None` for the whole screen.
    pub region: Option<Region>,
}

/// Something that a screen shows, or does not show.
#[derive(Debug)]
pub struct ScreenCondition {
    /// The caller's name for it.
    pub name: Option<String>,
    pub subject: Subject,
    /// Where it must be. `None` for the whole screen.
    pub region: Option<Region>,
    /// Whether the screen must not show it.
    pub absent: bool,
}

/// What a condition looks for.
#[derive(Debug)]
pub enum Subject {
    /// A text, compared after both sides were folded.
    Text(Needle),
    /// A regular expression over the text as OCR read it.
    Regex {
        regex: Regex,
        /// Its memory.
        _space: WaitSpace,
    },
    /// A picture.
    Image {
        template: Template,
        /// The least similarity, 0 to 1.
        similarity: f64,
        /// How far outside `region` it may be, in pixels.
        margin: u16,
        /// The memory of the picture.
        _space: WaitSpace,
    },
}

/// What a condition found. All `None` for an absent condition that holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The text, as OCR read it.
    pub text: Option<String>,
    /// Where it is on the screen.
    pub region: Option<Region>,
    /// How similar the picture is, 0 to 1.
    pub similarity: Option<f64>,
}

impl ScreenConditions {
    /// The condition that a text is anywhere on the screen. `None` if nothing of the text is left
    /// after folding.
    #[must_use]
    pub fn of_text(text: &ScreenText) -> Option<Self> {
        let condition = ScreenCondition {
            name: None,
            subject: Subject::Text(Needle::new(text.as_str())?),
            region: None,
            absent: false,
        };
        Some(Self { any: vec![condition], still: None })
    }

    /// Whether a check needs OCR.
    #[must_use]
    pub fn need_text(&self) -> bool {
        self.any.iter().any(ScreenCondition::needs_text)
    }

    /// The first region that is not within a screen of this size, after its JSON Pointer in the
    /// request.
    #[must_use]
    pub fn region_outside(&self, size: ScreenSize) -> Option<(String, Region)> {
        let of_conditions = self.any.iter().enumerate().filter_map(|(index, condition)| {
            Some((format!("/any/{index}/region"), condition.region?))
        });
        let of_still = self.still.and_then(|still| Some(("/region".to_owned(), still.region?)));
        of_conditions.chain(of_still).find(|(_, region)| !region.is_within(size))
    }
}

impl ScreenCondition {
    /// Whether a check needs OCR.
    #[must_use]
    pub const fn needs_text(&self) -> bool {
        matches!(self.subject, Subject::Text(_) | Subject::Regex { .. })
    }

    /// The part of the screen that the condition depends on. `None` if the screen does not have the
    /// whole region of the condition.
    #[must_use]
    pub fn area(&self, size: ScreenSize) -> Option<Region> {
        let region = self.region.unwrap_or_else(|| size.whole());
        if region.is_empty() || !region.is_within(size) {
            return None;
        }
        match self.subject {
            Subject::Image { margin, .. } => Some(region.grow(margin, size)),
            Subject::Text(_) | Subject::Regex { .. } => Some(region),
        }
    }

    /// Checks the text of the region. Returns what was found, with places on the screen.
    ///
    /// # Parameters
    /// - `read`: the text of the region, with places in pixels of the region.
    #[must_use]
    pub fn find_text(&self, read: &ReadText) -> Option<Found> {
        let found = match &self.subject {
            Subject::Text(needle) => read.find(needle)?,
            Subject::Regex { regex, .. } => read.find_regex(regex)?,
            Subject::Image { .. } => return None,
        };
        let (left, top) = self.region.map_or((0, 0), |region| (region.x, region.y));
        let region = Region {
            x: found.region.x.saturating_add(left),
            y: found.region.y.saturating_add(top),
            ..found.region
        };
        Some(Found { text: Some(found.text), region: Some(region), similarity: None })
    }

    /// Searches for the image of the condition. Takes up to two seconds of a processor.
    ///
    /// # Parameters
    /// - `is_over`: asked again and again; the search ends if it returns true.
    ///
    /// # Errors
    /// [`SearchTooLong`] if `is_over` ended the search.
    pub fn find_image(
        &self,
        screen: &Picture,
        is_over: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Found>, SearchTooLong> {
        let Subject::Image { template, similarity, margin, .. } = &self.subject else {
            return Ok(None);
        };
        let area = SearchArea { region: self.region, margin: *margin };
        let found = picture_search::find(screen, template, area, *similarity, is_over)?;
        Ok(found.map(|found| Found {
            text: None,
            region: Some(found.region),
            similarity: Some(found.similarity),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::text_match::Word;
    use super::super::wait_memory::WaitMemory;
    use super::*;
    use crate::service::wait_conditions::compile_regex;

    const SIZE: ScreenSize = ScreenSize { width: 800, height: 600 };

    fn condition(subject: Subject, region: Option<Region>) -> ScreenCondition {
        ScreenCondition { name: None, subject, region, absent: false }
    }

    fn read() -> ReadText {
        let word = |text: &str, x, y, line| Word {
            text: text.to_owned(),
            confidence: 90,
            region: Region { x, y, width: 50, height: 20 },
            line,
        };
        ReadText::new(vec![word("L0g", 10, 20, 0), word("In", 70, 20, 0), word("user", 10, 50, 1)])
    }

    #[test]
    fn a_text_is_found_at_its_place_on_the_screen() {
        let region = Region { x: 100, y: 200, width: 300, height: 100 };
        let condition = condition(Subject::Text(Needle::new("log in").unwrap()), Some(region));
        let found = condition.find_text(&read()).unwrap();
        assert_eq!(found.region, Some(Region { x: 110, y: 220, width: 110, height: 20 }));
    }

    #[test]
    fn a_regular_expression_sees_the_text_as_it_was_read() {
        let find = |pattern: &str| {
            let (regex, bytes) = compile_regex(pattern).unwrap();
            let space = WaitMemory::default().reserve(bytes).unwrap();
            condition(Subject::Regex { regex, _space: space }, None).find_text(&read())
        };
        assert_eq!(find("(?i)log in"), None, "nothing is folded");
        assert_eq!(find(r"L\dg In\nus").unwrap().text.as_deref(), Some("L0g In\nus"));
    }

    #[test]
    fn the_area_of_an_image_has_its_margin() {
        let size = ScreenSize { width: 10, height: 10 };
        let template = Template::new(Picture::blank(size));
        let space = WaitMemory::default().reserve(size.bytes()).unwrap();
        let subject = Subject::Image { template, similarity: 0.96, margin: 50, _space: space };
        let region = Region { x: 20, y: 100, width: 10, height: 10 };
        let condition = condition(subject, Some(region));
        assert_eq!(condition.area(SIZE), Some(Region { x: 0, y: 50, width: 80, height: 110 }));
        let small = ScreenSize { width: 25, height: 25 };
        assert_eq!(condition.area(small), None, "the screen does not have the region");
    }
}
