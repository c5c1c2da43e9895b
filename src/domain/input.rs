//! Input to a machine: keys, text, the pointer, pauses and conditions, as a call sends them in one
//! list, with the limits of a list and its expansion into strokes.
//!
//! ```text
//! event ──strokes──► stroke: key and button messages that are sent in one write, then a pause
//! ```

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::keyboard::{Keysym, Layout, Stroke};
use super::screen::ScreenSize;

/// The most events of one call.
pub const MAX_EVENTS: usize = 1_000;
/// The most bytes of the texts of one call.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;
/// The shortest and the longest time between two strokes that a caller may choose.
pub const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(5)..=Duration::from_secs(2);
/// The most clicks of one event, and the most steps of a wheel.
pub const MAX_CLICKS: u8 = 5;
pub const MAX_SCROLL: i16 = 100;

/// The time between two strokes. ESX misses keys that come much faster.
const INTERVAL: Duration = Duration::from_millis(40);
/// The same on a text screen: boot loaders drop keys that come fast.
const TEXT_SCREEN_INTERVAL: Duration = Duration::from_millis(100);
/// The size of a text screen.
const TEXT_SCREEN: ScreenSize = ScreenSize { width: 720, height: 400 };

/// The steps of the pointer on the way of a drag. Guests start to drag only when it moves.
const DRAG_STEPS: i32 = 8;

/// The bits of the wheel.
const WHEEL_UP: u8 = 1 << 3;
const WHEEL_DOWN: u8 = 1 << 4;

/// What a call of input sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentInput {
    /// The number of events that were done completely, from the first one on. The input of a call
    /// for a serial port is one event.
    pub events: u32,
    /// The number of characters of texts that were typed completely, or of bytes that a serial port
    /// got.
    pub characters: u32,
}

/// The input of one call, checked.
#[derive(Debug)]
pub struct InputList<U> {
    pub events: Vec<InputEvent<U>>,
    /// The time between two strokes. `None` follows the screen.
    pub interval: Option<Duration>,
    pub layout: Layout,
    /// Whether otter writes nothing of the texts anywhere, not even of a mistake in them.
    pub secret: bool,
}

/// One event of a call.
///
/// # Parameters
/// - `U`: the condition of `until`.
#[derive(Debug)]
pub enum InputEvent<U> {
    /// Types a text. Each character has a key in the layout.
    Text(SecretString),
    /// Presses and releases combinations, one after the other.
    Keys(Vec<Stroke>),
    /// Presses a key and keeps it down until a `Release` or the end of the call.
    Hold(Keysym),
    Release(Keysym),
    Pause(Duration),
    Move(Point),
    Click(Click),
    Drag {
        from: Point,
        to: Point,
    },
    /// Turns the wheel: down, or up if the amount is negative.
    Scroll {
        at: Point,
        amount: i16,
    },
    /// Waits until a condition holds.
    Until(U),
}

/// A point of the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    pub x: u16,
    pub y: u16,
}

/// Clicks with one button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Click {
    pub at: ClickTarget,
    pub button: Button,
    /// How often: 2 is a double click.
    pub count: u8,
}

/// Where to click.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClickTarget {
    Point(Point),
    /// The centre of what the last `Until` of this call found, moved by `dx` and `dy`.
    LastMatch {
        dx: i32,
        dy: i32,
    },
}

/// A button of the pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    Left,
    Middle,
    Right,
}

impl Button {
    /// Every button.
    pub const ALL: [Self; 3] = [Self::Left, Self::Middle, Self::Right];

    /// The word in the HTTP API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Middle => "middle",
            Self::Right => "right",
        }
    }

    /// The bit of the button in a pointer message (RFC 6143, section 7.5.5).
    #[must_use]
    pub const fn bit(self) -> u8 {
        match self {
            Self::Left => 1,
            Self::Middle => 1 << 1,
            Self::Right => 1 << 2,
        }
    }
}

/// One message of input to the screen of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScreenInput {
    Key {
        keysym: Keysym,
        down: bool,
    },
    /// `buttons`: bit 0 is the left button, 1 the middle, 2 the right, 3 and 4 the wheel.
    Pointer {
        buttons: u8,
        at: Point,
    },
}

impl ScreenInput {
    /// Whether it presses a key or a button.
    #[must_use]
    pub const fn presses(self) -> bool {
        match self {
            Self::Key { down, .. } => down,
            Self::Pointer { buttons, .. } => buttons != 0,
        }
    }
}

/// Messages that are sent in one write, so that a key that a slow network delays is not repeated
/// by the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputStroke {
    pub messages: Vec<ScreenInput>,
    /// The characters of a text that are typed completely with this stroke.
    pub characters: u32,
}

impl InputStroke {
    const fn new(messages: Vec<ScreenInput>) -> Self {
        Self { messages, characters: 0 }
    }
}

/// The time between two strokes if the caller chooses none.
#[must_use]
pub fn default_interval(screen: ScreenSize) -> Duration {
    if screen == TEXT_SCREEN { TEXT_SCREEN_INTERVAL } else { INTERVAL }
}

/// The strokes that type a character. Empty if no key of the layout types it; the check of a call
/// refuses such characters.
#[must_use]
pub fn character_strokes(layout: Layout, character: char, held: &HeldKeys) -> Vec<InputStroke> {
    let strokes = layout.strokes(character).unwrap_or_default();
    let mut strokes: Vec<InputStroke> =
        strokes.iter().map(|stroke| key_stroke(stroke, held)).collect();
    if let Some(last) = strokes.last_mut() {
        last.characters = 1;
    }
    strokes
}

/// The stroke of a combination. A key that is held already is neither pressed nor released.
#[must_use]
pub fn key_stroke(stroke: &Stroke, held: &HeldKeys) -> InputStroke {
    let events = stroke.events().into_iter().filter(|(keysym, _)| !held.has_key(*keysym));
    InputStroke::new(events.map(|(keysym, down)| ScreenInput::Key { keysym, down }).collect())
}

/// The strokes of a movement, a click, a drag or a turn of the wheel.
///
/// # Parameters
/// - `last_match`: the centre of what the last condition found. Empty if a click needs it and there
///   is none.
#[must_use]
pub fn pointer_strokes<U>(event: &InputEvent<U>, last_match: Option<Point>) -> Vec<InputStroke> {
    match event {
        InputEvent::Move(at) => vec![InputStroke::new(vec![pointer(0, *at)])],
        InputEvent::Click(Click { at, button, count }) => {
            let Some(at) = at.point(last_match) else { return Vec::new() };
            // The pointer arrives before the button, because some guests look where it was.
            let arrive = InputStroke::new(vec![pointer(0, at)]);
            let press = InputStroke::new(vec![pointer(button.bit(), at), pointer(0, at)]);
            let presses = std::iter::repeat_n(press, usize::from(*count));
            std::iter::once(arrive).chain(presses).collect()
        }
        InputEvent::Drag { from, to } => drag_strokes(*from, *to),
        InputEvent::Scroll { at, amount } => {
            let wheel = if *amount < 0 { WHEEL_UP } else { WHEEL_DOWN };
            let arrive = InputStroke::new(vec![pointer(0, *at)]);
            let step = InputStroke::new(vec![pointer(wheel, *at), pointer(0, *at)]);
            let steps = std::iter::repeat_n(step, usize::from(amount.unsigned_abs()));
            std::iter::once(arrive).chain(steps).collect()
        }
        InputEvent::Text(_)
        | InputEvent::Keys(_)
        | InputEvent::Hold(_)
        | InputEvent::Release(_)
        | InputEvent::Pause(_)
        | InputEvent::Until(_) => Vec::new(),
    }
}

fn drag_strokes(from: Point, to: Point) -> Vec<InputStroke> {
    let left = Button::Left.bit();
    let between = |from: u16, to: u16, step: i32| {
        let (from, to) = (i32::from(from), i32::from(to));
        // The value lies between two values of 16 bits.
        u16::try_from(from + (to - from) * step / DRAG_STEPS).unwrap_or_default()
    };
    let way = (1..=DRAG_STEPS).map(|step| {
        let at = Point { x: between(from.x, to.x, step), y: between(from.y, to.y, step) };
        InputStroke::new(vec![pointer(left, at)])
    });
    let arrive = InputStroke::new(vec![pointer(0, from)]);
    let press = InputStroke::new(vec![pointer(left, from)]);
    let release = InputStroke::new(vec![pointer(0, to)]);
    [arrive, press].into_iter().chain(way).chain([release]).collect()
}

const fn pointer(buttons: u8, at: Point) -> ScreenInput {
    ScreenInput::Pointer { buttons, at }
}

impl ClickTarget {
    /// The point to click. `None` if it depends on a match and there is none. A point that is left
    /// of or above every screen is on no screen, as those on the other side are.
    #[must_use]
    pub fn point(self, last_match: Option<Point>) -> Option<Point> {
        match self {
            Self::Point(point) => Some(point),
            Self::LastMatch { dx, dy } => {
                let Point { x, y } = last_match?;
                let moved = |from: u16, by: i32| {
                    u16::try_from(i32::from(from).saturating_add(by)).unwrap_or(u16::MAX)
                };
                Some(Point { x: moved(x, dx), y: moved(y, dy) })
            }
        }
    }
}

impl Point {
    /// Whether the point is on a screen.
    #[must_use]
    pub const fn is_on(self, screen: ScreenSize) -> bool {
        self.x < screen.width && self.y < screen.height
    }
}

impl<U> InputEvent<U> {
    /// The points that the event uses, with the names of their fields. A click on a match has none.
    #[must_use]
    pub fn points(&self) -> Vec<(&'static str, Point)> {
        match self {
            Self::Move(at) => vec![("move", *at)],
            Self::Click(Click { at: ClickTarget::Point(at), .. }) => vec![("click", *at)],
            Self::Drag { from, to } => vec![("drag", *from), ("drag", *to)],
            Self::Scroll { at, .. } => vec![("scroll", *at)],
            Self::Click(_)
            | Self::Text(_)
            | Self::Keys(_)
            | Self::Hold(_)
            | Self::Release(_)
            | Self::Pause(_)
            | Self::Until(_) => Vec::new(),
        }
    }

    /// Whether the event clicks on what a condition found.
    #[must_use]
    pub const fn needs_match(&self) -> bool {
        matches!(self, Self::Click(Click { at: ClickTarget::LastMatch { .. }, .. }))
    }

    /// The number of strokes of the event, and the time that it takes besides. `None` for
    /// `Until`, whose time is not known before.
    #[must_use]
    pub fn cost(&self, layout: Layout) -> Option<(usize, Duration)> {
        let strokes = match self {
            Self::Text(text) => {
                let strokes = |character| layout.strokes(character).map_or(0, |all| all.len());
                text.expose_secret().chars().map(strokes).sum()
            }
            Self::Keys(keys) => keys.len(),
            Self::Hold(_) | Self::Release(_) => 1,
            Self::Pause(pause) => return Some((0, *pause)),
            Self::Move(_) | Self::Click(_) | Self::Drag { .. } | Self::Scroll { .. } => {
                pointer_strokes(self, Some(Point::default())).len()
            }
            Self::Until(_) => return None,
        };
        Some((strokes, Duration::ZERO))
    }
}

/// The keys and buttons that a call holds down, in the order in which they were pressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldKeys {
    keys: Vec<Keysym>,
    buttons: u8,
    at: Point,
}

impl HeldKeys {
    /// Whether a key is held.
    #[must_use]
    pub fn has_key(&self, keysym: Keysym) -> bool {
        self.keys.contains(&keysym)
    }

    /// Records messages that the machine may have got.
    pub fn record(&mut self, messages: &[ScreenInput]) {
        for message in messages {
            match *message {
                ScreenInput::Key { keysym, down } => {
                    self.keys.retain(|held| *held != keysym);
                    if down {
                        self.keys.push(keysym);
                    }
                }
                ScreenInput::Pointer { buttons, at } => (self.buttons, self.at) = (buttons, at),
            }
        }
    }

    /// The messages that release everything, the last key first.
    #[must_use]
    pub fn releases(&self) -> Vec<ScreenInput> {
        let keys = self.keys.iter().rev();
        let keys = keys.map(|keysym| ScreenInput::Key { keysym: *keysym, down: false });
        let buttons = (self.buttons != 0).then(|| pointer(0, self.at));
        keys.chain(buttons).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Event = InputEvent<()>;

    fn keys(messages: &[ScreenInput]) -> Vec<(Keysym, bool)> {
        let key = |message: &ScreenInput| match message {
            ScreenInput::Key { keysym, down } => Some((*keysym, *down)),
            ScreenInput::Pointer { .. } => None,
        };
        messages.iter().filter_map(key).collect()
    }

    fn pointers(strokes: &[InputStroke]) -> Vec<(u8, u16, u16)> {
        let of = |message: &ScreenInput| match *message {
            ScreenInput::Pointer { buttons, at } => Some((buttons, at.x, at.y)),
            ScreenInput::Key { .. } => None,
        };
        strokes.iter().flat_map(|stroke| &stroke.messages).filter_map(of).collect()
    }

    #[test]
    fn each_character_is_one_write_with_its_down_and_its_up() {
        let held = HeldKeys::default();
        let strokes: Vec<_> =
            "aB".chars().flat_map(|one| character_strokes(Layout::Us, one, &held)).collect();
        assert_eq!(strokes.len(), 2);
        assert_eq!(strokes.iter().map(|stroke| stroke.characters).sum::<u32>(), 2);
        let a = Keysym(u32::from('a'));
        assert_eq!(keys(&strokes[0].messages), [(a, true), (a, false)]);
        let capital = keys(&strokes[1].messages);
        assert_eq!(capital.len(), 4, "Shift goes around a capital: {capital:?}");
        let order: Vec<bool> = capital.iter().map(|(_, down)| *down).collect();
        assert_eq!(order, [true, true, false, false]);
        assert_eq!(capital.first().map(|key| key.0), capital.last().map(|key| key.0));
    }

    #[test]
    fn a_held_key_is_neither_pressed_again_nor_released() {
        let mut held = HeldKeys::default();
        let combination: Stroke = "shift-f10".parse().unwrap();
        let shift = combination.modifiers[0];
        let down = ScreenInput::Key { keysym: shift, down: true };
        assert_eq!(key_stroke(&combination, &held).messages.len(), 4);
        held.record(&[down]);
        let with_held = key_stroke(&combination, &held);
        assert_eq!(keys(&with_held.messages), [(combination.key, true), (combination.key, false)]);
        held.record(&with_held.messages);
        assert_eq!(keys(&held.releases()), [(shift, false)]);
        held.record(&held.releases());
        assert_eq!(held.releases(), []);
    }

    #[test]
    fn everything_that_is_held_is_released_in_reverse_order() {
        let mut held = HeldKeys::default();
        let at = Point { x: 3, y: 4 };
        for keysym in [Keysym(1), Keysym(2)] {
            held.record(&[ScreenInput::Key { keysym, down: true }]);
        }
        held.record(&[pointer(1, at)]);
        let key = |number| ScreenInput::Key { keysym: Keysym(number), down: false };
        assert_eq!(held.releases(), [key(2), key(1), pointer(0, at)]);
    }

    #[test]
    fn a_double_click_presses_twice_where_the_match_was() {
        let at = ClickTarget::LastMatch { dx: -5, dy: 10 };
        let click = Event::Click(Click { at, button: Button::Right, count: 2 });
        let found = Point { x: 100, y: 50 };
        let expected = [(0, 95, 60), (4, 95, 60), (0, 95, 60), (4, 95, 60), (0, 95, 60)];
        assert_eq!(pointers(&pointer_strokes(&click, Some(found))), expected);
        assert_eq!(pointer_strokes(&click, None), []);
        let outside = ClickTarget::LastMatch { dx: -500, dy: i32::MAX };
        assert_eq!(outside.point(Some(found)), Some(Point { x: u16::MAX, y: u16::MAX }));
    }

    #[test]
    fn a_drag_holds_the_button_on_its_way() {
        let (from, to) = (Point { x: 10, y: 500 }, Point { x: 90, y: 100 });
        let drag = pointers(&pointer_strokes(&Event::Drag { from, to }, None));
        assert_eq!(drag.first(), Some(&(0, 10, 500)));
        assert_eq!(drag.last(), Some(&(0, 90, 100)));
        let held = &drag[1..drag.len() - 1];
        assert!(held.iter().all(|(buttons, ..)| *buttons == 1), "{drag:?}");
        assert_eq!(held.last(), Some(&(1, 90, 100)));
    }

    #[test]
    fn the_wheel_turns_by_its_amount() {
        let turn = |amount| {
            let at = Point { x: 1, y: 2 };
            pointers(&pointer_strokes(&Event::Scroll { at, amount }, None))
        };
        assert_eq!(turn(1), [(0, 1, 2), (16, 1, 2), (0, 1, 2)]);
        assert_eq!(turn(-2).iter().filter(|(buttons, ..)| *buttons == 8).count(), 2);
    }

    #[test]
    fn the_screen_sets_the_pace() {
        let ms = Duration::from_millis;
        assert_eq!(default_interval(ScreenSize { width: 720, height: 400 }), ms(100));
        assert_eq!(default_interval(ScreenSize { width: 1280, height: 1024 }), ms(40));
    }

    #[test]
    fn nothing_shows_a_text() {
        let event = Event::Text(SecretString::from("hunter2"));
        assert!(!format!("{event:?}").contains("hunter2"));
        assert_eq!(event.cost(Layout::Us), Some((7, Duration::ZERO)));
    }
}
