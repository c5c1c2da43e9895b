//! The upstream step by step: what it asks for, when it gives up, and when it falls back.

use jiff::Timestamp;

use super::super::console::{ANSWER_LIMIT, HANDSHAKE_LIMIT, REPEAT_REQUEST, SILENCE};
use super::super::*;
use crate::domain::input::Point;
use crate::domain::keyboard::Keysym;
use crate::domain::screen::{Region, ScreenSize};
use crate::rfb::client_messages::update_request;

const SIZE: ScreenSize = ScreenSize::new(40, 20);

const PROBE: Region = Region::new(0, 0, 16, 16);

struct Fixture {
    upstream: Upstream,
    now: Duration,
}

impl Fixture {
    /// The upstream of a machine that is on, which tries to connect.
    fn opening(has_pictures: bool, started_at: Option<Duration>) -> Self {
        let now = Duration::from_secs(100);
        let upstream = Upstream::new(has_pictures, started_at, moment(now));
        let mut fixture = Self { upstream, now };
        assert_eq!(fixture.handle(Event::Power { on: true }), [Effect::Connect]);
        fixture
    }

    /// An upstream whose console is ready and painted.
    fn painted() -> Self {
        let mut fixture = Self::opening(false, None);
        fixture.connect();
        fixture.update(&[(SIZE.whole(), 1)]);
        assert!(fixture.upstream.canvas.frame().is_current());
        fixture
    }

    fn connect(&mut self) -> Vec<Effect> {
        self.handle(Event::Connected);
        let mut bytes = b"RFB 003.008\n\x01\x01\0\0\0\0".to_vec();
        bytes.extend(SIZE.width.to_be_bytes());
        bytes.extend(SIZE.height.to_be_bytes());
        bytes.extend([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        self.handle(Event::Bytes(&bytes))
    }

    fn handle(&mut self, event: Event<'_>) -> Vec<Effect> {
        let effects = self.upstream.handle(event, moment(self.now));
        let _ = self.upstream.publish(moment(self.now));
        effects
    }

    /// An update with rectangles of one colour.
    fn update(&mut self, rectangles: &[(Region, u8)]) -> Vec<Effect> {
        self.handle(Event::Bytes(&update_bytes(rectangles)))
    }

    fn wait(&mut self, by: Duration) -> Vec<Effect> {
        self.now += by;
        self.handle(Event::TimePassed)
    }

    fn refuse(&mut self, kind: HostErrorKind) -> Vec<Effect> {
        let refusal = Refusal { kind: Some(kind), message: "Said so.".to_owned() };
        self.handle(Event::ConnectFailed(&refusal))
    }

    fn is_complete(&self) -> bool {
        self.upstream.canvas.frame().complete
    }
}

fn moment(elapsed: Duration) -> Moment {
    Moment { elapsed, wall: Timestamp::UNIX_EPOCH + elapsed }
}

fn update_bytes(rectangles: &[(Region, u8)]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(u16::try_from(rectangles.len()).unwrap().to_be_bytes());
    for (region, colour) in rectangles {
        for number in [region.x, region.y, region.width, region.height] {
            bytes.extend(number.to_be_bytes());
        }
        bytes.extend([0; 4]);
        bytes.resize(bytes.len() + region.pixels() * 4, *colour);
    }
    bytes
}

fn sent(effects: &[Effect]) -> Vec<u8> {
    let bytes = |effect: &Effect| match effect {
        Effect::Send(bytes) => bytes.clone(),
        other => panic!("{other:?}"),
    };
    effects.iter().flat_map(bytes).collect()
}

#[test]
fn the_first_request_is_for_the_whole_screen_and_comes_after_the_settings() {
    let mut fixture = Fixture::opening(false, None);
    let bytes = sent(&fixture.connect());
    assert!(bytes.ends_with(&update_request(false, SIZE.whole())), "{bytes:?}");
    assert!(bytes.len() > 40, "the settings are missing: {bytes:?}");
    assert_eq!(fixture.upstream.connection(), ConnectionState::Open);
}

#[test]
fn only_the_missing_part_is_requested_again() {
    let mut fixture = Fixture::opening(false, None);
    fixture.connect();
    let rest = Region::new(0, 10, 40, 10);
    let request = sent(&fixture.update(&[(Region::new(0, 0, 40, 10), 1)]));
    assert_eq!(request, update_request(false, rest));
    assert!(!fixture.is_complete());
    // No answer: the request is repeated.
    assert_eq!(sent(&fixture.wait(REPEAT_REQUEST)), request);
    let request = sent(&fixture.update(&[(rest, 1)]));
    assert_eq!(request, update_request(true, SIZE.whole()));
    assert!(fixture.is_complete());
}

#[test]
fn an_update_without_pixels_is_no_frame_and_no_loop() {
    let mut fixture = Fixture::opening(false, None);
    fixture.connect();
    let requests: usize = (0..100).map(|_| fixture.update(&[]).len()).sum();
    assert_eq!(requests, 8);
    assert!(!fixture.is_complete());
    assert_eq!(fixture.wait(REPEAT_REQUEST).len(), 1, "it asks again later");
}

#[test]
fn half_an_update_is_not_published() {
    let mut fixture = Fixture::painted();
    let version = fixture.upstream.canvas.frame().version;
    let mut bytes = vec![0, 0, 0, 2];
    bytes.extend([0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 9, 9, 9, 9]);
    fixture.handle(Event::Bytes(&bytes));
    assert_eq!(fixture.upstream.canvas.frame().version, version);
    fixture.handle(Event::Bytes(&[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 9, 9, 9, 9]));
    assert_eq!(fixture.upstream.canvas.frame().version, version + 1);
}

#[test]
fn a_silent_host_gets_a_probe_and_then_a_new_connection() {
    let mut fixture = Fixture::painted();
    assert_eq!(fixture.upstream.due(), Some(fixture.now + SILENCE));
    let probe = sent(&fixture.wait(SILENCE));
    assert_eq!(probe, update_request(false, PROBE));
    fixture.update(&[(PROBE, 1)]);
    assert_eq!(fixture.upstream.status().failures, 0);
    fixture.wait(SILENCE);
    let effects = fixture.wait(ANSWER_LIMIT);
    assert_eq!(effects, [Effect::Disconnect, Effect::Connect]);
    assert_eq!(fixture.upstream.status().failures, 1);
    let frame = fixture.upstream.canvas.frame();
    assert!(!frame.live && !frame.complete);
}

#[test]
fn an_unchanged_picture_is_no_change() {
    let mut fixture = Fixture::painted();
    let version = fixture.upstream.canvas.frame().version;
    fixture.update(&[(SIZE.whole(), 1)]);
    assert_eq!(fixture.upstream.canvas.frame().version, version);
}

#[test]
fn a_frame_is_confirmed_by_the_answer_to_a_probe_that_was_sent_later() {
    let mut fixture = Fixture::painted();
    let probe = sent(&fixture.handle(Event::Ask(1)));
    assert_eq!(probe, update_request(false, PROBE));
    // This update may have been under way before.
    let next = sent(&fixture.update(&[(SIZE.whole(), 2)]));
    assert_eq!(fixture.upstream.status().confirmed, 0);
    assert!(next.ends_with(&update_request(false, PROBE)), "the probe is sent again");
    fixture.update(&[(PROBE, 2)]);
    assert_eq!(fixture.upstream.status().confirmed, 1);
}

#[test]
fn an_answer_counts_together_with_the_frame_that_has_it() {
    let mut fixture = Fixture::painted();
    let version = fixture.upstream.canvas.frame().version;
    fixture.handle(Event::Ask(1));
    // The answer arrives together with the first half of the next update.
    let next = update_bytes(&[(PROBE, 3), (SIZE.whole(), 3)]);
    let (begin, end) = next.split_at(4 + 12 + PROBE.pixels() * 4);
    fixture.handle(Event::Bytes(&[&update_bytes(&[(PROBE, 2)])[..], begin].concat()));
    assert_eq!(fixture.upstream.canvas.frame().version, version);
    assert_eq!(fixture.upstream.status().confirmed, 0, "the old frame is not confirmed");
    fixture.handle(Event::Bytes(end));
    assert_eq!(fixture.upstream.canvas.frame().version, version + 1);
    assert_eq!(fixture.upstream.status().confirmed, 1);
}

#[test]
fn a_new_connection_confirms_what_was_asked_before_it() {
    let mut fixture = Fixture::opening(false, None);
    fixture.handle(Event::Ask(1));
    fixture.connect();
    // The connection was requested before the question, so that its picture is no answer yet.
    let next = sent(&fixture.update(&[(SIZE.whole(), 1)]));
    assert_eq!(fixture.upstream.status().confirmed, 0);
    assert!(next.ends_with(&update_request(false, PROBE)));
    fixture.now += STABLE;
    let effects = fixture.handle(Event::Lost("cut".to_owned()));
    assert_eq!(effects, [Effect::Disconnect, Effect::Connect]);
    fixture.connect();
    fixture.update(&[(SIZE.whole(), 1)]);
    assert_eq!(fixture.upstream.status().confirmed, 1);
}

#[test]
fn a_resize_throws_the_picture_away() {
    let mut fixture = Fixture::painted();
    let mut bytes = vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 10, 0, 10];
    bytes.extend((-223i32).to_be_bytes());
    let request = sent(&fixture.handle(Event::Bytes(&bytes)));
    assert_eq!(request, update_request(false, Region::new(0, 0, 10, 10)));
    let frame = fixture.upstream.canvas.frame();
    assert_eq!((frame.size, frame.complete), (ScreenSize::new(10, 10), false));
    assert!(frame.picture().is_none());
}

#[test]
fn a_restart_demands_a_new_picture() {
    let mut fixture = Fixture::painted();
    let request = sent(&fixture.handle(Event::Restarted));
    assert_eq!(request, update_request(false, SIZE.whole()));
    assert!(!fixture.is_complete());
    fixture.update(&[(SIZE.whole(), 1)]);
    assert!(fixture.is_complete());
}

#[test]
fn a_machine_that_was_just_powered_on_has_eleven_tries() {
    let mut fixture = Fixture::opening(false, Some(Duration::from_secs(100)));
    for _ in 1..START_TRIES {
        assert_eq!(fixture.refuse(HostErrorKind::InvalidState), []);
        assert_eq!(fixture.upstream.status().failures, 0);
        assert_eq!(fixture.wait(START_PAUSE.saturating_sub(Duration::from_millis(1))), []);
        assert_eq!(fixture.wait(Duration::from_millis(1)), [Effect::Connect]);
    }
    fixture.refuse(HostErrorKind::InvalidState);
    assert_eq!(fixture.upstream.status().failures, 1);
    assert_eq!(fixture.upstream.connection(), ConnectionState::Retrying);
}

#[test]
fn pauses_between_tries_grow_and_a_question_ends_one() {
    let mut fixture = Fixture::opening(false, None);
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        fixture.refuse(HostErrorKind::Unreachable);
        let pause = Duration::from_secs(seconds);
        assert_eq!(fixture.upstream.due(), Some(fixture.now + pause));
        assert_eq!(fixture.wait(pause), [Effect::Connect]);
    }
    fixture.refuse(HostErrorKind::Unreachable);
    fixture.now += Duration::from_secs(3);
    fixture.handle(Event::Ask(1));
    assert_eq!(fixture.handle(Event::TimePassed), [Effect::Connect]);
}

#[test]
fn a_console_that_ends_at_once_again_and_again_is_not_opened_in_a_loop() {
    let mut fixture = Fixture::opening(false, None);
    for _ in 0..3 {
        fixture.connect();
        fixture.update(&[(SIZE.whole(), 1)]);
        let effects = fixture.handle(Event::Lost("cut".to_owned()));
        assert_eq!(effects, [Effect::Disconnect]);
        let due = fixture.upstream.due().unwrap();
        assert!(due >= fixture.now + FIRST_PAUSE);
        fixture.now = due;
        assert_eq!(fixture.handle(Event::TimePassed), [Effect::Connect]);
    }
}

#[test]
fn a_host_that_refuses_consoles_gives_pictures() {
    let mut fixture = Fixture::opening(true, None);
    assert_eq!(fixture.refuse(HostErrorKind::ScreenLimitReached), [Effect::ReadPicture]);
    assert_eq!(fixture.upstream.connection(), ConnectionState::Fallback);
    fixture.handle(Event::Ask(1));
    let picture = Picture { size: SIZE, pixels: vec![5; SIZE.bytes()].into() };
    fixture.handle(Event::PictureRead(&picture));
    assert!(fixture.upstream.canvas.frame().is_current());
    assert_eq!(fixture.upstream.status().confirmed, 0, "the read began before the question");
    assert_eq!(fixture.wait(Duration::from_secs(1)), []);
    assert_eq!(fixture.wait(Duration::from_secs(1)), [Effect::ReadPicture]);
    fixture.handle(Event::PictureRead(&picture));
    assert_eq!(fixture.upstream.status().confirmed, 1);
    assert!(fixture.upstream.encode(&[]).is_none(), "a picture takes no input");
    fixture.handle(Event::InUse(false));
    assert_eq!(fixture.wait(PICTURE_PAUSE), [], "no one looks");
    assert_eq!(fixture.wait(FALLBACK_TRY), [Effect::Connect]);
    assert_eq!(fixture.upstream.connection(), ConnectionState::Fallback);
    fixture.connect();
    assert_eq!(fixture.upstream.connection(), ConnectionState::Open);
}

#[test]
fn a_picture_that_was_requested_before_a_restart_is_not_shown() {
    let mut fixture = Fixture::opening(true, None);
    fixture.handle(Event::Ask(1));
    assert_eq!(fixture.refuse(HostErrorKind::ScreenLimitReached), [Effect::ReadPicture]);
    let picture = Picture { size: SIZE, pixels: vec![5; SIZE.bytes()].into() };
    assert_eq!(fixture.handle(Event::Restarted), [], "one read in two seconds");
    fixture.handle(Event::PictureRead(&picture));
    assert!(!fixture.upstream.canvas.frame().is_current());
    assert_eq!(fixture.upstream.status().confirmed, 0);
    assert_eq!(fixture.wait(PICTURE_PAUSE), [Effect::ReadPicture]);
    fixture.handle(Event::PictureRead(&picture));
    assert!(fixture.upstream.canvas.frame().is_current());
    assert_eq!(fixture.upstream.status().confirmed, 1);
    // A slow read is replaced by a new one, and its failure does not count.
    assert_eq!(fixture.wait(PICTURE_PAUSE), [Effect::ReadPicture]);
    fixture.now += PICTURE_PAUSE;
    assert_eq!(fixture.handle(Event::Restarted), [Effect::ReadPicture]);
    assert_eq!(fixture.handle(Event::Restarted), []);
    let late = Refusal { kind: Some(HostErrorKind::NotFound), message: "Late.".to_owned() };
    fixture.handle(Event::PictureFailed(&late));
    assert_eq!(fixture.upstream.status().failures, 0);
    // So is one that was begun before the machine was off.
    assert_eq!(fixture.wait(PICTURE_PAUSE), [Effect::ReadPicture]);
    fixture.handle(Event::Power { on: false });
    fixture.handle(Event::InUse(false));
    assert_eq!(fixture.handle(Event::Power { on: true }), [Effect::Connect]);
    assert_eq!(fixture.refuse(HostErrorKind::ScreenLimitReached), []);
    fixture.handle(Event::PictureRead(&picture));
    assert!(!fixture.upstream.canvas.frame().is_current());
}

#[test]
fn a_console_that_is_ready_ends_the_reason_why_there_was_none() {
    let mut fixture = Fixture::opening(false, None);
    fixture.refuse(HostErrorKind::Unreachable);
    let kind = |fixture: &Fixture| fixture.upstream.status().refusal.clone().map(|it| it.kind);
    assert_eq!(kind(&fixture), Some(Some(HostErrorKind::Unreachable)));
    fixture.wait(FIRST_PAUSE);
    fixture.connect();
    assert_eq!(kind(&fixture), None);
    fixture.handle(Event::Lost("cut".to_owned()));
    assert_eq!(kind(&fixture), Some(None), "only the console failed");
}

#[test]
fn without_pictures_a_refused_console_is_a_failure() {
    let mut fixture = Fixture::opening(false, None);
    assert_eq!(fixture.refuse(HostErrorKind::ScreenLimitReached), []);
    assert_eq!(fixture.upstream.status().failures, 1);
}

#[test]
fn a_machine_that_is_off_has_no_connection() {
    let mut fixture = Fixture::painted();
    let epoch = fixture.upstream.status().epoch;
    assert_eq!(fixture.handle(Event::Power { on: false }), [Effect::Disconnect]);
    assert_eq!(fixture.upstream.connection(), ConnectionState::Closed);
    assert!(!fixture.upstream.canvas.frame().live);
    assert_eq!(fixture.upstream.due(), None);
    assert_eq!(fixture.upstream.status().epoch, epoch + 1);
    fixture.handle(Event::Restarted);
    assert_eq!(fixture.handle(Event::Power { on: true }), [Effect::Connect]);
}

#[test]
fn input_needs_a_console_that_is_ready() {
    let key = ScreenInput::Key { keysym: Keysym(0x61), down: true };
    let mut fixture = Fixture::opening(false, None);
    assert_eq!(fixture.upstream.encode(&[key]), None);
    fixture.connect();
    let click = ScreenInput::Pointer { buttons: 1, at: Point { x: 3, y: 4 } };
    let bytes = fixture.upstream.encode(&[key, click]).unwrap();
    assert_eq!(bytes, [4, 1, 0, 0, 0, 0, 0, 0x61, 5, 1, 0, 3, 0, 4]);
}

#[test]
fn an_unknown_message_ends_the_connection_and_is_named() {
    let mut fixture = Fixture::painted();
    fixture.now += STABLE;
    let effects = fixture.handle(Event::Bytes(&[77]));
    assert_eq!(effects, [Effect::Disconnect, Effect::Connect]);
    let refusal = fixture.upstream.status().refusal.clone().unwrap();
    assert!(refusal.message.contains("77"), "{}", refusal.message);
}

#[test]
fn a_try_and_a_handshake_have_limits() {
    let mut fixture = Fixture::opening(false, None);
    assert_eq!(fixture.wait(CONNECT_LIMIT), [Effect::Disconnect]);
    assert_eq!(fixture.upstream.status().failures, 1);
    fixture.wait(FIRST_PAUSE);
    fixture.handle(Event::Connected);
    assert_eq!(fixture.wait(HANDSHAKE_LIMIT), [Effect::Disconnect]);
    assert_eq!(fixture.upstream.status().failures, 2);
}
