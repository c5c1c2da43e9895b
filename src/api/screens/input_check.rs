//! The check of a call that sends input: everything of it is checked before the first key, so that
//! a mistake leaves the machine untouched.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::input_request::{
    ClickRequest, DragRequest, InputEventRequest, InputRequest, PointRequest, ScrollRequest,
    UntilRequest,
};
use super::wait_request::screen_conditions;
use crate::api::extract::failure_in_body;
use crate::domain::duration;
use crate::domain::failure::Failure;
use crate::domain::input::{
    Button, Click, ClickTarget, INTERVALS, InputEvent, InputList, MAX_CLICKS, MAX_EVENTS,
    MAX_SCROLL, MAX_TEXT_BYTES, Point,
};
use crate::domain::keyboard::{self, Keysym, Layout, Stroke, type_text};
use crate::service::machines::shorten;
use crate::service::screens::conditions::{MAX_IMAGES, MAX_REGEXES};
use crate::service::screens::input_call::Until;
use crate::service::screens::wait_memory::WaitMemory;

/// The interval with which the time of a call is estimated, if it sets none.
const ESTIMATED_INTERVAL: Duration = Duration::from_millis(40);

/// The field of an event that is set.
enum EventField {
    Text(SecretString),
    Keys(Vec<String>),
    Hold(String),
    Release(String),
    Pause(String),
    Move(PointRequest),
    Click(ClickRequest),
    Drag(DragRequest),
    Scroll(ScrollRequest),
    Until(UntilRequest),
}

/// Checks a call, and converts it.
///
/// # Parameters
/// - `max_wait`: the longest time of a call.
/// - `memory`: of the images and regular expressions.
///
/// # Errors
/// `invalid-request` with the JSON Pointer of the mistake; `too-many-waits` without memory.
pub fn input_list(
    request: InputRequest,
    max_wait: Duration,
    memory: WaitMemory,
) -> Result<InputList<Until>, Failure> {
    let InputRequest { events, interval, layout, secret } = request;
    if events.is_empty() {
        return Err(failure_in_body(
            "/events",
            "empty",
            "events is empty; add an event.".to_owned(),
        ));
    }
    if events.len() > MAX_EVENTS {
        let detail = format!("events has more than {MAX_EVENTS} entries.");
        return Err(failure_in_body("/events", "out-of-range", detail));
    }
    let interval = interval.map(|text| parse_interval(&text)).transpose()?;
    let layout = match layout {
        None => Layout::default(),
        Some(layout) => layout.parse().map_err(|error| {
            let detail = format!("layout is {}: {error}.", shorten(&layout));
            failure_in_body("/layout", "not-one-of", detail)
        })?,
    };
    check_costly(&events)?;
    let held = Vec::new();
    let mut check = Check { layout, secret, max_wait, memory, bytes: 0, held, found: false };
    let events: Vec<InputEvent<Until>> = events
        .into_iter()
        .enumerate()
        .map(|(index, event)| check.event(&format!("/events/{index}"), event))
        .collect::<Result<_, _>>()?;
    check_time(&events, layout, interval, max_wait)?;
    Ok(InputList { events, interval, layout, secret })
}

/// The check of the events, one after the other.
struct Check {
    layout: Layout,
    secret: bool,
    max_wait: Duration,
    memory: WaitMemory,
    /// The bytes of the texts so far.
    bytes: usize,
    /// The keys that are held after the events so far.
    held: Vec<Keysym>,
    /// Whether an earlier `until` finds something.
    found: bool,
}

impl Check {
    /// # Parameters
    /// - `at`: the JSON Pointer of the event.
    fn event(&mut self, at: &str, event: InputEventRequest) -> Result<InputEvent<Until>, Failure> {
        Ok(match only_field(at, event)? {
            EventField::Text(text) => self.text(&format!("{at}/text"), text)?,
            EventField::Keys(keys) => self.keys(&format!("{at}/keys"), &keys)?,
            EventField::Hold(name) => self.hold(&format!("{at}/hold"), &name)?,
            EventField::Release(name) => self.release(&format!("{at}/release"), &name)?,
            EventField::Pause(text) => {
                let at = format!("{at}/pause");
                InputEvent::Pause(self.time(&at, &text, Duration::ZERO)?)
            }
            EventField::Move(point) => InputEvent::Move(point.point()),
            EventField::Click(click) => self.click(&format!("{at}/click"), &click)?,
            EventField::Drag(DragRequest { x, y, to_x, to_y }) => {
                InputEvent::Drag { from: Point { x, y }, to: Point { x: to_x, y: to_y } }
            }
            EventField::Scroll(ScrollRequest { x, y, amount }) => {
                if amount == 0 || !(-MAX_SCROLL..=MAX_SCROLL).contains(&amount) {
                    let detail = format!(
                        "amount is {amount}; write 1 to {MAX_SCROLL} to scroll down, or -1 to \
                         -{MAX_SCROLL} to scroll up."
                    );
                    return Err(failure_in_body(
                        &format!("{at}/scroll/amount"),
                        "out-of-range",
                        detail,
                    ));
                }
                InputEvent::Scroll { at: Point { x, y }, amount }
            }
            EventField::Until(until) => self.until(&format!("{at}/until"), until)?,
        })
    }

    fn text(&mut self, at: &str, text: SecretString) -> Result<InputEvent<Until>, Failure> {
        let exposed = text.expose_secret();
        if exposed.is_empty() {
            return Err(failure_in_body(at, "empty", "text is empty.".to_owned()));
        }
        self.bytes += exposed.len();
        if self.bytes > MAX_TEXT_BYTES {
            let detail = format!("The texts have more than {MAX_TEXT_BYTES} bytes together.");
            return Err(failure_in_body(at, "out-of-range", detail));
        }
        if let Err(untypable) = type_text(self.layout, exposed) {
            let detail = if self.secret {
                format!(
                    "text cannot be typed: its character {} has no key in the layout.",
                    untypable.index + 1
                )
            } else {
                format!("text cannot be typed: {untypable}.")
            };
            return Err(failure_in_body(at, "no-key", detail));
        }
        Ok(InputEvent::Text(text))
    }

    fn keys(&self, at: &str, keys: &[String]) -> Result<InputEvent<Until>, Failure> {
        if keys.is_empty() {
            return Err(failure_in_body(at, "empty", "keys is empty; name a key.".to_owned()));
        }
        let strokes = keys.iter().enumerate().map(|(index, keys)| {
            keys.parse::<Stroke>().map_err(|error| {
                let is_character = keys.chars().count() == 1;
                let hint = if is_character { " Characters are typed with text." } else { "" };
                self.wrong_key(&format!("{at}/{index}"), &error, hint)
            })
        });
        Ok(InputEvent::Keys(strokes.collect::<Result<_, _>>()?))
    }

    fn hold(&mut self, at: &str, name: &str) -> Result<InputEvent<Until>, Failure> {
        let key = self.one_key(at, name)?;
        if self.held.contains(&key) {
            let detail = "The key is held already.".to_owned();
            return Err(failure_in_body(at, "not-with-this", detail));
        }
        self.held.push(key);
        Ok(InputEvent::Hold(key))
    }

    fn release(&mut self, at: &str, name: &str) -> Result<InputEvent<Until>, Failure> {
        let key = self.one_key(at, name)?;
        let known = self.held.len();
        self.held.retain(|held| *held != key);
        if self.held.len() == known {
            let detail = "No earlier event of this call holds the key.".to_owned();
            return Err(failure_in_body(at, "not-with-this", detail));
        }
        Ok(InputEvent::Release(key))
    }

    /// The key of `hold` and `release`.
    fn one_key(&self, at: &str, name: &str) -> Result<Keysym, Failure> {
        keyboard::key(name).map_err(|error| {
            let is_stroke = name.contains('-');
            let hint = if is_stroke { " Write an event for each key." } else { "" };
            self.wrong_key(at, &error, hint)
        })
    }

    /// # Parameters
    /// - `error`: the mistake, which quotes what the caller wrote.
    /// - `hint`: a sentence that says more, after a space. May be empty.
    fn wrong_key(&self, at: &str, error: &impl std::fmt::Display, hint: &str) -> Failure {
        let detail = if self.secret {
            "A name of a key is not known. It is not shown, because secret is true.".to_owned()
        } else {
            let error = error.to_string();
            let end = if error.ends_with('?') { "" } else { "." };
            format!("The keys are wrong: {error}{end}{hint}")
        };
        failure_in_body(at, "not-one-of", detail)
    }

    fn click(&self, at: &str, click: &ClickRequest) -> Result<InputEvent<Until>, Failure> {
        let ClickRequest { x, y, button, count, last_match, dx, dy } = click;
        let wrong = |field: &str, code, detail: &str| {
            Err(failure_in_body(&format!("{at}/{field}"), code, detail.to_owned()))
        };
        let target = match (*last_match, *x, *y) {
            (true, None, None) if !self.found => {
                let detail = "No earlier event of this call is an until with any, so that there is \
                              no match to click on.";
                return wrong("last_match", "not-with-this", detail);
            }
            (true, None, None) => {
                ClickTarget::LastMatch { dx: dx.unwrap_or_default(), dy: dy.unwrap_or_default() }
            }
            (true, ..) => {
                let detail = "last_match and a point are both set; set one of them.";
                return wrong("last_match", "not-with-this", detail);
            }
            (false, ..) if dx.is_some() || dy.is_some() => {
                let field = if dx.is_some() { "dx" } else { "dy" };
                return wrong(field, "not-with-this", "dx and dy are only for last_match.");
            }
            (false, Some(x), Some(y)) => ClickTarget::Point(Point { x, y }),
            (false, None, _) => return wrong("x", "missing", "Set x and y, or last_match."),
            (false, _, None) => return wrong("y", "missing", "Set x and y, or last_match."),
        };
        let button = match button {
            None => Button::Left,
            Some(word) => {
                let known = Button::ALL.into_iter().find(|button| button.as_str() == word);
                let detail =
                    || format!("button is {}; write left, middle or right.", shorten(word));
                known.ok_or_else(|| {
                    failure_in_body(&format!("{at}/button"), "not-one-of", detail())
                })?
            }
        };
        let count = count.unwrap_or(1);
        if !(1..=MAX_CLICKS).contains(&count) {
            let detail = format!("count is {count}; write 1 to {MAX_CLICKS}.");
            return wrong("count", "out-of-range", &detail);
        }
        Ok(InputEvent::Click(Click { at: target, button, count }))
    }

    fn until(&mut self, at: &str, until: UntilRequest) -> Result<InputEvent<Until>, Failure> {
        let UntilRequest { any, still, wait } = until;
        let wait = self.time(&format!("{at}/wait"), &wait, Duration::from_millis(1))?;
        self.found |= any.as_ref().is_some_and(|any| !any.is_empty());
        let conditions = screen_conditions(at, any, still, &self.memory)?;
        Ok(InputEvent::Until(Until { conditions: Arc::new(conditions), wait }))
    }

    /// A time of the call, which cannot be longer than the call.
    fn time(&self, at: &str, text: &str, least: Duration) -> Result<Duration, Failure> {
        let time = parse_time(at, text)?;
        if time >= least && time <= self.max_wait {
            return Ok(time);
        }
        let longest = duration::format(self.max_wait);
        let name = at.rsplit('/').next().unwrap_or_default();
        let detail = format!(
            "{name} is {}, which is out of range: at most {longest}, as long as a call can take.",
            shorten(text)
        );
        Err(failure_in_body(at, "out-of-range", detail))
    }
}

/// Checks the numbers of images and regular expressions of all conditions, before one of them is
/// decoded or compiled: a small PNG can be a large picture.
fn check_costly(events: &[InputEventRequest]) -> Result<(), Failure> {
    let untils = events.iter().filter_map(|event| event.until.as_ref());
    let conditions = untils.filter_map(|until| until.any.as_ref()).flatten();
    let (mut images, mut regexes) = (0, 0);
    for condition in conditions {
        images += usize::from(condition.has_image());
        regexes += usize::from(condition.has_regex());
    }
    for (count, most, what) in
        [(images, MAX_IMAGES, "images"), (regexes, MAX_REGEXES, "regular expressions")]
    {
        if count > most {
            let detail =
                format!("The conditions of all events have {count} {what}; at most {most}.");
            return Err(failure_in_body("/events", "out-of-range", detail));
        }
    }
    Ok(())
}

/// The field of an event that is set.
///
/// # Errors
/// `invalid-request` if none is set, or several are.
fn only_field(at: &str, event: InputEventRequest) -> Result<EventField, Failure> {
    let InputEventRequest { text, keys, hold, release, pause, .. } = event;
    let InputEventRequest { move_to, click, drag, scroll, until, .. } = event;
    let fields = [
        text.map(|text| ("text", EventField::Text(text))),
        keys.map(|keys| ("keys", EventField::Keys(keys))),
        hold.map(|hold| ("hold", EventField::Hold(hold))),
        release.map(|release| ("release", EventField::Release(release))),
        pause.map(|pause| ("pause", EventField::Pause(pause))),
        move_to.map(|point| ("move", EventField::Move(point))),
        click.map(|click| ("click", EventField::Click(click))),
        drag.map(|drag| ("drag", EventField::Drag(drag))),
        scroll.map(|scroll| ("scroll", EventField::Scroll(scroll))),
        until.map(|until| ("until", EventField::Until(until))),
    ];
    let mut set = fields.into_iter().flatten();
    let Some((first, field)) = set.next() else {
        let detail = "The event is empty; set one of text, keys, hold, release, pause, move, \
                      click, drag, scroll and until.";
        return Err(failure_in_body(at, "missing", detail.to_owned()));
    };
    match set.next() {
        None => Ok(field),
        Some((second, _)) => {
            let detail = format!(
                "{first} and {second} are both set; an event has exactly one field. Write two \
                 events."
            );
            Err(failure_in_body(at, "not-with-this", detail))
        }
    }
}

/// Checks that a call is not longer than a call can be, as far as its time is known.
fn check_time(
    events: &[InputEvent<Until>],
    layout: Layout,
    interval: Option<Duration>,
    max_wait: Duration,
) -> Result<(), Failure> {
    let interval = interval.unwrap_or(ESTIMATED_INTERVAL);
    let costs = events.iter().filter_map(|event| event.cost(layout));
    let time: Duration = costs
        .map(|(strokes, time)| {
            let strokes = u32::try_from(strokes).unwrap_or(u32::MAX);
            interval.saturating_mul(strokes).saturating_add(time)
        })
        .fold(Duration::ZERO, Duration::saturating_add);
    if time <= max_wait {
        return Ok(());
    }
    let (time, longest) = (duration::format(time), duration::format(max_wait));
    let detail = format!(
        "The events take at least {time}, and a call can take {longest} (http.max_wait). Send \
         several calls, or set a shorter interval."
    );
    Err(failure_in_body("/events", "out-of-range", detail))
}

fn parse_interval(text: &str) -> Result<Duration, Failure> {
    let interval = parse_time("/interval", text)?;
    if INTERVALS.contains(&interval) {
        return Ok(interval);
    }
    let detail = format!("interval is {}; write 5ms to 2s.", shorten(text));
    Err(failure_in_body("/interval", "out-of-range", detail))
}

fn parse_time(at: &str, text: &str) -> Result<Duration, Failure> {
    duration::parse_short(text).map_err(|error| {
        let name = at.rsplit('/').next().unwrap_or_default();
        let detail = format!("{name} is {}: {error}.", shorten(text));
        failure_in_body(at, "not-a-duration", detail)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MAX_WAIT: Duration = Duration::from_mins(10);

    fn check(body: Value) -> Result<InputList<Until>, Failure> {
        input_list(serde_json::from_value(body).unwrap(), MAX_WAIT, WaitMemory::default())
    }

    fn event(event: &Value) -> Result<InputList<Until>, Failure> {
        check(json!({ "events": [event] }))
    }

    /// The pointer and the code of the mistake.
    fn mistake(body: &Value) -> (String, String) {
        let failure = check(body.clone()).expect_err(&body.to_string());
        let error = &failure.errors[0];
        (error.pointer.clone().unwrap(), error.code.to_string())
    }

    #[test]
    fn every_kind_of_event_is_accepted() {
        let body = json!({
            "events": [
                {"text": "user\n"},
                {"keys": ["ctrl-alt-delete", "enter"]},
                {"hold": "shift"},
                {"release": "shift"},
                {"pause": "250ms"},
                {"move": {"x": 1, "y": 2}},
                {"click": {"x": 1, "y": 2}},
                {"until": {"any": [{"text": "Terminal"}], "wait": "30s"}},
                {"click": {"last_match": true, "dx": -5, "count": 2, "button": "right"}},
                {"drag": {"x": 1, "y": 2, "to_x": 3, "to_y": 4}},
                {"scroll": {"x": 1, "y": 2, "amount": -3}},
                {"until": {"still": "2s", "wait": "1m"}},
            ],
            "interval": "5ms",
            "layout": "de",
            "secret": true,
        });
        let list = check(body).unwrap();
        assert_eq!(list.events.len(), 12);
        assert_eq!((list.interval, list.layout), (Some(Duration::from_millis(5)), Layout::De));
    }

    #[test]
    fn an_event_has_exactly_one_field() {
        assert_eq!(mistake(&json!({"events": [{"text": "a"}, {}]})).0, "/events/1");
        let both = json!({"events": [{"text": "a", "pause": "1s"}]});
        assert_eq!(mistake(&both), ("/events/0".to_owned(), "not-with-this".to_owned()));
    }

    #[test]
    fn a_mistake_has_its_pointer() {
        for (wrong, pointer, code) in [
            (json!({"text": ""}), "/text", "empty"),
            (json!({"text": "日本"}), "/text", "no-key"),
            (json!({"keys": []}), "/keys", "empty"),
            (json!({"keys": ["enter", "entr"]}), "/keys/1", "not-one-of"),
            (json!({"hold": "shft"}), "/hold", "not-one-of"),
            (json!({"release": "shift"}), "/release", "not-with-this"),
            (json!({"pause": "soon"}), "/pause", "not-a-duration"),
            (json!({"pause": "11m"}), "/pause", "out-of-range"),
            (json!({"click": {}}), "/click/x", "missing"),
            (json!({"click": {"x": 1}}), "/click/y", "missing"),
            (json!({"click": {"x": 1, "y": 1, "dx": 1}}), "/click/dx", "not-with-this"),
            (json!({"click": {"last_match": true}}), "/click/last_match", "not-with-this"),
            (json!({"click": {"x": 1, "y": 1, "count": 6}}), "/click/count", "out-of-range"),
            (json!({"click": {"x": 1, "y": 1, "button": "4"}}), "/click/button", "not-one-of"),
            (json!({"scroll": {"x": 1, "y": 1, "amount": 0}}), "/scroll/amount", "out-of-range"),
            (json!({"until": {"still": "1s", "wait": "0s"}}), "/until/wait", "out-of-range"),
        ] {
            let failure = event(&wrong).expect_err(&wrong.to_string());
            let error = &failure.errors[0];
            let found = (error.pointer.as_deref().unwrap(), &*error.code);
            assert_eq!(found, (format!("/events/0{pointer}").as_str(), code), "{wrong}");
        }
        let image = json!({"until": {"any": [{"image": ""}], "wait": "1s"}});
        let regexes =
            |count| json!({"until": {"any": vec![json!({"regex": "a"}); count], "wait": "1s"}});
        assert!(check(json!({"events": vec![regexes(16); 4]})).is_ok());
        for (wrong, pointer) in [
            (json!({"events": []}), "/events"),
            (json!({"events": [{"pause": "1s"}], "interval": "4ms"}), "/interval"),
            (json!({"events": [{"pause": "1s"}], "interval": "3s"}), "/interval"),
            (json!({"events": [{"pause": "1s"}], "layout": "fr"}), "/layout"),
            (json!({"events": vec![json!({"pause": "0s"}); 1001]}), "/events"),
            (json!({"events": [{"hold": "a"}, {"hold": "A"}]}), "/events/1/hold"),
            (json!({"events": vec![image; 5]}), "/events"),
            (json!({"events": vec![regexes(13); 5]}), "/events"),
        ] {
            assert_eq!(mistake(&wrong).0, pointer);
        }
    }

    #[test]
    fn texts_are_bounded_together() {
        let half = "a".repeat(MAX_TEXT_BYTES / 2);
        let body = |third: &str| {
            let texts = [half.as_str(), half.as_str(), third].map(|text| json!({"text": text}));
            json!({"events": &texts[..if third.is_empty() { 2 } else { 3 }], "interval": "5ms"})
        };
        assert!(check(body("")).is_ok());
        assert_eq!(mistake(&body("a")).0, "/events/2/text");
    }

    #[test]
    fn a_call_that_cannot_end_in_time_is_refused_before_it_types() {
        let pauses = vec![json!({"pause": "4m"}); 3];
        assert_eq!(mistake(&json!({"events": pauses})).0, "/events");
        let text = json!({"events": [{"text": "a".repeat(301)}], "interval": "2s"});
        assert_eq!(mistake(&text).0, "/events");
    }

    #[test]
    fn no_error_shows_a_secret() {
        for body in [
            json!({"events": [{"text": "hunter日"}], "secret": true}),
            json!({"events": [{"keys": ["hunter日"]}], "secret": true}),
            json!({"events": [{"hold": "hunter日"}], "secret": true}),
        ] {
            let failure = check(body.clone()).expect_err(&body.to_string());
            let shown = format!("{failure:?}");
            assert!(!shown.contains("hunter") && !shown.contains('日'), "{shown}");
        }
        let request: InputRequest =
            serde_json::from_value(json!({"events": [{"text": "hunter2"}]})).unwrap();
        assert!(!format!("{request:?}").contains("hunter2"));
        let named = check(json!({"events": [{"text": "ab日"}]})).unwrap_err();
        assert!(named.detail.contains('日'), "{}", named.detail);
    }
}
