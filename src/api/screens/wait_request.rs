//! The body of a wait for a screen, and its check.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::api::condition_fields;
use crate::api::extract::{failure_in_body, some_bounded_list, some_duration_text};
use crate::domain::duration;
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::screen::{Region, ScreenSize};
use crate::service::machines::shorten;
use crate::service::screens::conditions::{
    DEFAULT_TOLERANCE, MAX_IMAGES, ScreenCondition, ScreenConditions, StillCondition, Subject,
};
use crate::service::screens::picture_search::{DEFAULT_SIMILARITY, Template};
use crate::service::screens::png::{self, PngError};
use crate::service::screens::text_match::Needle;
use crate::service::screens::wait_memory::{WaitMemory, WaitSpace};
use crate::service::wait_conditions::{MAX_CONDITIONS, compile_regex};

/// The largest body of a wait, in bytes.
pub const MAX_BODY: usize = 4 * 1024 * 1024;

/// The largest margin of an image, in pixels.
const MAX_MARGIN: u16 = ScreenSize::MAX_SIDE;

/// Permits to check requests with images and regular expressions: to decode and to compile them
/// takes much time and memory.
static COSTLY_CHECKS: Semaphore = Semaphore::const_new(2);

/// What to wait for. At least one of `any` and `still` is set.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScreenWaitRequest {
    /// The wait ends when one of these conditions holds. At most 16, with at most 4 images.
    #[schema(nullable = false, max_items = 16)]
    #[serde(default, deserialize_with = "some_bounded_list::<_, _, MAX_CONDITIONS>")]
    pub any: Option<Vec<ConditionRequest>>,
    /// The screen, or `region` of it, must not change for this time. With `any`, one of the
    /// conditions must hold on the still screen.
    #[schema(nullable = false, example = "2s")]
    #[serde(default, deserialize_with = "some_duration_text")]
    pub still: Option<String>,
    /// With `still`: the share of the pixels that may change, such as a clock or a cursor, from 0
    /// to 1. Default: 0.005.
    #[schema(nullable = false, minimum = 0, maximum = 1, example = 0.005)]
    pub tolerance: Option<f64>,
    /// With `still`: the part of the screen, as `x,y,width,height`. Default: the whole screen.
    #[schema(nullable = false, example = "0,0,640,480")]
    pub region: Option<String>,
    /// Whether otter presses Shift if the screen is of one colour for five seconds. Needs the right
    /// to type.
    #[serde(default)]
    pub wake: bool,
}

/// Something that the screen shows. Exactly one of `text`, `regex` and `image` is set.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ScreenCondition)]
pub struct ConditionRequest {
    /// A name, which the answer repeats. At most 64 characters.
    #[schema(nullable = false, example = "terminal")]
    name: Option<String>,
    /// A text, at most 1,024 characters. Upper and lower case, white space, line breaks and
    /// characters that text recognition confuses do not matter.
    #[schema(nullable = false, example = "Log In")]
    text: Option<String>,
    /// A regular expression, in the syntax of the Rust crate `regex`, over the text as it was
    /// recognized: lines are joined by a line feed. At most 1 KiB.
    #[schema(nullable = false, example = "[$#] $")]
    regex: Option<String>,
    /// A picture, such as a part of a `screen.png`: a PNG in base64, at most 16 million pixels. A
    /// search that takes longer than 2 s counts as no match: name a region.
    #[schema(nullable = false)]
    image: Option<String>,
    /// Where it must be, as `x,y,width,height`. Default: anywhere. Nothing is found in a region
    /// that is not within the screen.
    #[schema(nullable = false, example = "0,0,640,480")]
    region: Option<String>,
    /// With `image`: how similar the screen must be, from 0 to 1. Default: 0.96.
    #[schema(nullable = false, minimum = 0, maximum = 1, example = 0.96)]
    similarity: Option<f64>,
    /// With `image` and `region`: how many pixels outside of the region the picture may be.
    /// Default: 0.
    #[schema(nullable = false, example = 50)]
    margin: Option<u16>,
    /// Whether the screen must not show it. Holds only on a complete screen that was still for a
    /// second and is not of one colour.
    #[serde(default)]
    absent: bool,
}

impl ConditionRequest {
    /// Whether it has an image.
    pub const fn has_image(&self) -> bool {
        self.image.is_some()
    }

    /// Whether it has a regular expression.
    pub const fn has_regex(&self) -> bool {
        self.regex.is_some()
    }

    /// Whether its check takes much time and memory.
    pub const fn is_costly(&self) -> bool {
        self.has_image() || self.has_regex()
    }
}

/// Checks a request. A costly check runs on a thread that may block.
///
/// # Errors
/// Those of the check.
pub async fn checked<T: Send + 'static>(
    is_costly: bool,
    check: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    if !is_costly {
        return check();
    }
    // The semaphore is never closed. The check keeps the permit, also if its caller hangs up.
    let permit = COSTLY_CHECKS.acquire().await.ok();
    let checking = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        check()
    });
    // The panic hook has logged the message and the place of a panic.
    let panicked = || Failure::new(FailureKind::Internal, "the check of a request panicked");
    checking.await.unwrap_or_else(|_| Err(panicked()))
}

impl ScreenWaitRequest {
    /// Whether its check takes much time and memory.
    pub fn is_costly(&self) -> bool {
        self.any.iter().flatten().any(ConditionRequest::is_costly)
    }

    /// Checks the request. `wake` is for the caller.
    ///
    /// # Parameters
    /// - `memory`: of the images and regular expressions.
    ///
    /// # Errors
    /// `invalid-request` with the JSON Pointer of the mistake; `too-many-waits` without memory.
    pub fn conditions(self, memory: &WaitMemory) -> Result<ScreenConditions, Failure> {
        let Self { any, still, tolerance, region, wake: _ } = self;
        if still.is_none() {
            let not_alone = |field: &str| {
                let detail = format!("{field} is only for still.");
                Err(failure_in_body(&format!("/{field}"), "not-with-this", detail))
            };
            if tolerance.is_some() {
                return not_alone("tolerance");
            }
            if region.is_some() {
                return not_alone("region");
            }
        }
        let mut conditions = screen_conditions("", any, still, memory)?;
        let tolerance = tolerance.map(|share| parse_share("/tolerance", share)).transpose()?;
        let region = region.map(|region| parse_region("/region", &region)).transpose()?;
        if let Some(still) = &mut conditions.still {
            still.tolerance = tolerance.unwrap_or(DEFAULT_TOLERANCE);
            still.region = region;
        }
        Ok(conditions)
    }
}

/// Checks conditions. Those of `still` are for the whole screen.
///
/// # Parameters
/// - `at`: the JSON Pointer of the object that has the fields `any` and `still`.
/// - `memory`: of the images and regular expressions.
///
/// # Errors
/// As [`ScreenWaitRequest::conditions`].
pub fn screen_conditions(
    at: &str,
    any: Option<Vec<ConditionRequest>>,
    still: Option<String>,
    memory: &WaitMemory,
) -> Result<ScreenConditions, Failure> {
    let in_any = format!("{at}/any");
    let still = still.map(|text| parse_still(&format!("{at}/still"), &text)).transpose()?;
    if any.is_none() && still.is_none() {
        let detail = "There is nothing to wait for; set any or still.".to_owned();
        return Err(failure_in_body(&in_any, "missing", detail));
    }
    if let Some(any) = &any {
        condition_fields::check_count(&in_any, any.len())?;
    }
    let any = any.unwrap_or_default();
    let images = any.iter().filter(|condition| condition.image.is_some()).count();
    if images > MAX_IMAGES {
        let detail = format!("any has {images} images; at most {MAX_IMAGES}.");
        return Err(failure_in_body(&in_any, "out-of-range", detail));
    }
    let parsed = any.into_iter().enumerate();
    let parsed = parsed
        .map(|(index, condition)| parse_condition(&format!("{in_any}/{index}"), condition, memory));
    Ok(ScreenConditions { any: parsed.collect::<Result<_, _>>()?, still })
}

/// Parses a region.
///
/// # Errors
/// `invalid-request` if it is malformed, empty, or beyond the largest screen.
fn parse_region(at: &str, text: &str) -> Result<Region, Failure> {
    let region: Region = text.parse().map_err(|error| {
        let detail = format!("The region is {}: {error}.", shorten(text));
        failure_in_body(at, "not-a-region", detail)
    })?;
    let largest = ScreenSize::new(ScreenSize::MAX_SIDE, ScreenSize::MAX_SIDE);
    if region.is_empty() || !region.is_within(largest) {
        let detail = format!(
            "The region {region} must have pixels and be within the largest screen, {largest}."
        );
        return Err(failure_in_body(at, "out-of-range", detail));
    }
    Ok(region)
}

fn parse_still(at: &str, text: &str) -> Result<StillCondition, Failure> {
    let time = duration::parse_short(text).map_err(|error| {
        failure_in_body(at, "not-a-duration", format!("still is {}: {error}.", shorten(text)))
    })?;
    if time < Duration::from_millis(1) {
        return Err(failure_in_body(at, "out-of-range", "still is zero.".to_owned()));
    }
    Ok(StillCondition { time, tolerance: DEFAULT_TOLERANCE, region: None })
}

/// Checks a share, from 0 to 1.
fn parse_share(at: &str, share: f64) -> Result<f64, Failure> {
    if (0.0..=1.0).contains(&share) {
        return Ok(share);
    }
    let name = at.rsplit('/').next().unwrap_or_default();
    let detail = format!("{name} must be a number from 0 to 1.");
    Err(failure_in_body(at, "out-of-range", detail))
}

fn parse_condition(
    at: &str,
    condition: ConditionRequest,
    memory: &WaitMemory,
) -> Result<ScreenCondition, Failure> {
    let ConditionRequest { name, text, regex, image, region, similarity, margin, absent } =
        condition;
    let wrong = |field: &str, code, detail: String| {
        Err(failure_in_body(&format!("{at}/{field}"), code, detail))
    };
    let given = [text.is_some(), regex.is_some(), image.is_some()];
    if given.into_iter().filter(|is_given| *is_given).count() != 1 {
        let detail = "Set exactly one of text, regex and image.".to_owned();
        return Err(failure_in_body(at, "not-one-of", detail));
    }
    if let Some(name) = &name {
        condition_fields::check_name(&format!("{at}/name"), name)?;
    }
    for (field, is_given) in [("similarity", similarity.is_some()), ("margin", margin.is_some())] {
        if is_given && image.is_none() {
            return wrong(field, "not-with-this", format!("{field} is only for image."));
        }
    }
    if margin.is_some() && region.is_none() {
        let detail = "margin needs a region.".to_owned();
        return wrong("margin", "not-with-this", detail);
    }
    if margin.is_some_and(|margin| margin > MAX_MARGIN) {
        return wrong("margin", "out-of-range", format!("margin is at most {MAX_MARGIN}."));
    }
    let region = region.map(|text| parse_region(&format!("{at}/region"), &text)).transpose()?;
    let subject = if let Some(text) = text {
        parse_text(&format!("{at}/text"), &text)?
    } else if let Some(regex) = regex {
        let at = format!("{at}/regex");
        let (regex, bytes) = condition_fields::parse_regex(&at, &regex, compile_regex)?;
        Subject::Regex { regex, _space: memory.reserve(bytes)? }
    } else {
        let similarity =
            similarity.map(|share| parse_share(&format!("{at}/similarity"), share)).transpose()?;
        let image = image.unwrap_or_default();
        let (template, space) = parse_image(&format!("{at}/image"), &image, memory)?;
        let (of_image, margin) = (template.size(), margin.unwrap_or(0));
        if let Some(region) = region
            && (u32::from(of_image.width) > u32::from(region.width) + 2 * u32::from(margin)
                || u32::from(of_image.height) > u32::from(region.height) + 2 * u32::from(margin))
        {
            let detail = format!(
                "The image is {of_image} and does not fit into the region {region} with a margin \
                 of {margin}."
            );
            return wrong("image", "out-of-range", detail);
        }
        let similarity = similarity.unwrap_or(DEFAULT_SIMILARITY);
        Subject::Image { template, similarity, margin, _space: space }
    };
    Ok(ScreenCondition { name, subject, region, absent })
}

fn parse_text(at: &str, text: &str) -> Result<Subject, Failure> {
    condition_fields::check_text_length(at, text)?;
    Needle::new(text).map(Subject::Text).ok_or_else(|| {
        let detail = format!("text is {}; it has no character to compare.", shorten(text));
        failure_in_body(at, "empty", detail)
    })
}

/// Decodes an image. Its memory is reserved before.
fn parse_image(
    at: &str,
    image: &str,
    memory: &WaitMemory,
) -> Result<(Template, WaitSpace), Failure> {
    let bytes = BASE64_STANDARD.decode(image).map_err(|error| {
        let detail = if image.starts_with("data:") {
            "image is a data URL; write only what follows \"base64,\" in it.".to_owned()
        } else {
            let error = error.to_string();
            format!("image is not base64 without line breaks: {}.", error.trim_end_matches('.'))
        };
        failure_in_body(at, "not-base64", detail)
    })?;
    let not_a_png = |error: PngError| {
        failure_in_body(at, "not-a-png", format!("image is no PNG that otter reads: {error}."))
    };
    let space = memory.reserve(png::size(&bytes).map_err(not_a_png)?.bytes())?;
    let picture = png::decode(&bytes).map_err(not_a_png)?;
    Ok((Template::new(picture), space))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::screen::Picture;

    fn check(body: serde_json::Value) -> Result<ScreenConditions, (String, String)> {
        let request: ScreenWaitRequest = serde_json::from_value(body).unwrap();
        request.conditions(&WaitMemory::default()).map_err(|failure| {
            let error = failure.errors.into_iter().next().unwrap();
            (error.pointer.unwrap(), error.code.into_owned())
        })
    }

    fn png_text(width: u16, height: u16) -> String {
        let picture = Picture::blank(ScreenSize::new(width, height));
        BASE64_STANDARD.encode(png::encode(&picture).unwrap())
    }

    #[test]
    fn each_mistake_has_its_pointer() {
        let many =
            |condition: serde_json::Value, count: usize| json!({"any": vec![condition; count]});
        let image = png_text(20, 10);
        for (body, pointer, code) in [
            (json!({}), "/any", "missing"),
            (json!({"any": []}), "/any", "empty"),
            (many(json!({"text": "a"}), 17), "/any", "out-of-range"),
            (many(json!({"image": image}), 5), "/any", "out-of-range"),
            (json!({"any": [{}]}), "/any/0", "not-one-of"),
            (json!({"any": [{"text": "a", "regex": "b"}]}), "/any/0", "not-one-of"),
            (json!({"any": [{"text": "a"}, {"text": " "}]}), "/any/1/text", "empty"),
            (json!({"any": [{"text": "a".repeat(1025)}]}), "/any/0/text", "out-of-range"),
            (json!({"any": [{"regex": "("}]}), "/any/0/regex", "not-a-regex"),
            (json!({"any": [{"regex": "a{999}{999}"}]}), "/any/0/regex", "not-a-regex"),
            (json!({"any": [{"regex": ""}]}), "/any/0/regex", "empty"),
            (json!({"any": [{"image": "???"}]}), "/any/0/image", "not-base64"),
            (json!({"any": [{"image": "aGVsbG8="}]}), "/any/0/image", "not-a-png"),
            (
                json!({"any": [{"text": "a", "similarity": 0.5}]}),
                "/any/0/similarity",
                "not-with-this",
            ),
            (json!({"any": [{"image": image, "margin": 5}]}), "/any/0/margin", "not-with-this"),
            (
                json!({"any": [{"image": image, "similarity": 1.5}]}),
                "/any/0/similarity",
                "out-of-range",
            ),
            (
                json!({"any": [{"image": image, "region": "0,0,19,10"}]}),
                "/any/0/image",
                "out-of-range",
            ),
            (json!({"any": [{"text": "a", "region": "1,2,3"}]}), "/any/0/region", "not-a-region"),
            (json!({"any": [{"text": "a", "region": "0,0,0,5"}]}), "/any/0/region", "not-a-region"),
            (
                json!({"any": [{"text": "a", "region": "8000,0,200,5"}]}),
                "/any/0/region",
                "out-of-range",
            ),
            (json!({"any": [{"text": "a", "name": "x\ny"}]}), "/any/0/name", "control-character"),
            (json!({"any": [{"text": "a", "name": ""}]}), "/any/0/name", "out-of-range"),
            (json!({"any": [{"text": "a"}], "tolerance": 0.1}), "/tolerance", "not-with-this"),
            (json!({"any": [{"text": "a"}], "region": "0,0,1,1"}), "/region", "not-with-this"),
            (json!({"still": "2s", "tolerance": -0.1}), "/tolerance", "out-of-range"),
            (json!({"still": "0s"}), "/still", "out-of-range"),
            (json!({"still": "soon"}), "/still", "not-a-duration"),
        ] {
            let shown = body.to_string();
            assert_eq!(check(body).unwrap_err(), (pointer.to_owned(), code.to_owned()), "{shown}");
        }
    }

    #[test]
    fn the_images_and_regular_expressions_of_all_waits_share_a_memory() {
        let memory = WaitMemory::new(3 * ScreenSize::new(20, 10).bytes());
        let wait = |images: usize| {
            let body = json!({"any": vec![json!({"image": png_text(20, 10)}); images]});
            let request: ScreenWaitRequest = serde_json::from_value(body).unwrap();
            request.conditions(&memory)
        };
        let waiting = wait(2).unwrap();
        assert_eq!(wait(2).unwrap_err().kind, FailureKind::TooManyWaits);
        wait(1).expect("a refused wait keeps nothing");
        drop(waiting);
        wait(3).expect("a wait that ended keeps nothing");
        // A short regular expression takes 16 KiB.
        let memory = WaitMemory::new(20_000);
        let wait = || {
            let body = json!({"any": [{"regex": "a"}]});
            let request: ScreenWaitRequest = serde_json::from_value(body).unwrap();
            request.conditions(&memory)
        };
        let waiting = wait().unwrap();
        assert_eq!(wait().unwrap_err().kind, FailureKind::TooManyWaits);
        drop(waiting);
        wait().expect("a wait that ended keeps nothing");
    }

    #[test]
    fn defaults_are_those_of_the_document() {
        let conditions = check(json!({
            "any": [{"image": png_text(20, 10), "region": "0,0,18,10", "margin": 1}],
            "still": "2s",
        }));
        let ScreenConditions { any, still } = conditions.unwrap();
        let expected =
            StillCondition { time: Duration::from_secs(2), tolerance: 0.005, region: None };
        assert_eq!(still, Some(expected));
        let Subject::Image { similarity, margin, .. } = &any[0].subject else { panic!() };
        assert!((similarity - 0.96).abs() < 1e-9 && *margin == 1 && !any[0].absent);
    }
}
