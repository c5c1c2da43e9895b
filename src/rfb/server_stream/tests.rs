//! The stream of a server: the handshake, what real servers send, what no server may send, and any
//! updates in any pieces against a model of the screen.

use proptest::prelude::*;

use super::*;

/// Everything that a stream gave: its events, what it sent, and its error.
#[derive(Debug, PartialEq, Eq)]
struct Reading {
    events: Vec<ServerEvent>,
    sent: Vec<u8>,
    error: Option<RfbError>,
}

fn read<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Reading {
    let mut stream = ServerStream::new();
    let mut reading = Reading { events: Vec::new(), sent: Vec::new(), error: None };
    for part in parts {
        stream.feed(part);
        loop {
            match stream.next_event() {
                Ok(Some(event)) => reading.events.push(event),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(stream.next_event(), Err(error.clone()), "an error stays");
                    reading.error = Some(error);
                    break;
                }
            }
        }
        assert!(stream.buffered_bytes() <= BAND_BYTES + part.len());
        reading.sent.extend(stream.to_send());
    }
    reading
}

/// The bytes in parts with these lengths, again and again.
fn split<'a>(mut bytes: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    for length in lengths.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        let (part, rest) = bytes.split_at((*length).min(bytes.len()));
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// The handshake of a server with this screen.
fn handshake(size: ScreenSize) -> Vec<u8> {
    let mut bytes = b"RFB 003.008\n\x01\x01\0\0\0\0".to_vec();
    bytes.extend(size.width.to_be_bytes());
    bytes.extend(size.height.to_be_bytes());
    bytes.extend(PixelFormat::BGR0.to_bytes());
    bytes.extend(b"\0\0\0\x07machine");
    bytes
}

fn update(count: u16) -> Vec<u8> {
    [[0, 0], count.to_be_bytes()].concat()
}

fn rectangle(region: Region, encoding: i32, data: &[u8]) -> Vec<u8> {
    let Region { x, y, width, height } = region;
    let mut bytes = [x, y, width, height].map(u16::to_be_bytes).concat();
    bytes.extend(encoding.to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The error of a server that sends these bytes after its handshake.
fn error_after_handshake(bytes: &[u8]) -> RfbError {
    let reading = read([&handshake(SIZE)[..], bytes]);
    assert_eq!(reading.events[..1], [ready()]);
    reading.error.unwrap()
}

const SIZE: ScreenSize = ScreenSize { width: 720, height: 400 };

fn ready() -> ServerEvent {
    ServerEvent::Ready { size: SIZE, name: "machine".to_owned() }
}

#[test]
fn the_handshake_asks_for_the_own_format_and_offers_three_encodings() {
    let reading = read([&handshake(SIZE)[..]]);
    assert_eq!(reading.events, [ready()]);
    let mut expected = b"RFB 003.008\n\x01\x01".to_vec();
    expected.extend(set_pixel_format(&PixelFormat::BGR0));
    expected.extend(set_encodings(&[0, -223, -224]));
    assert_eq!(reading.sent, expected);
}

#[test]
fn nothing_is_sent_before_the_server_began() {
    let mut stream = ServerStream::new();
    assert_eq!(stream.next_event(), Ok(None));
    assert!(stream.to_send().is_empty());
    assert!(!stream.is_ready());
}

#[test]
fn a_later_version_is_answered_with_3_8() {
    let reading = read([&b"RFB 005.000\n"[..]]);
    assert_eq!((reading.sent, reading.error), (VERSION_3_8.to_vec(), None));
    let reading = read([&b"RFB 003.003\n"[..]]);
    assert_eq!(reading.error, Some(RfbError::UnsupportedVersion { major: 3, minor: 3 }));
}

#[test]
fn a_refusal_has_its_reason() {
    let no_types = b"RFB 003.008\n\x00\0\0\0\x0etoo many\nusers";
    let failed = b"RFB 003.008\n\x02\x02\x01\0\0\0\x01\0\0\0\x0etoo many\nusers";
    for bytes in [&no_types[..], failed] {
        let error = read(split(bytes, &[1])).error.unwrap();
        assert!(error.is_refusal());
        assert_eq!(error.to_string(), r"the server refused the connection: too many\nusers");
    }
    let error = read([&b"RFB 003.008\n\x01\x02"[..]]).error.unwrap();
    assert_eq!(error, RfbError::NoSecurityNone { offered: vec![2] });
}

#[test]
fn what_real_servers_send_is_read() {
    let whole = |size: ScreenSize| Region { x: 0, y: 0, width: size.width, height: size.height };
    let mut bytes = handshake(SIZE);
    // A first rectangle with one pixel, and a rectangle without any.
    bytes.extend(update(2));
    bytes.extend(rectangle(Region::new(0, 0, 1, 1), ENCODING_RAW, &[1, 2, 3, 4]));
    bytes.extend(rectangle(Region::new(0, 0, 0, 0), ENCODING_RAW, &[]));
    // A new size alone in its update.
    let new = ScreenSize::new(800, 600);
    bytes.extend(update(1));
    bytes.extend(rectangle(whole(new), ENCODING_DESKTOP_SIZE, &[]));
    // An update whose last rectangle says so, between messages that mean nothing to otter.
    bytes.extend([1, 0, 0, 0, 0, 2]);
    bytes.extend([0; 12]);
    bytes.extend(b"\x7f\x04\x00\x08beat");
    bytes.extend(update(u16::MAX));
    bytes.extend(rectangle(Region::new(799, 599, 1, 1), ENCODING_RAW, &[5, 6, 7, 8]));
    bytes.extend(rectangle(Region::new(0, 0, 2, 2), ENCODING_COPY_RECT, &[0, 9, 0, 8]));
    bytes.extend(rectangle(Region::new(0, 0, 0, 0), ENCODING_LAST_RECT, &[]));
    bytes.push(2);
    bytes.extend(b"\x03\0\0\0\0\0\0\x04text");
    bytes.extend(update(0));
    let pixel = |x, y, pixels: &'static [u8]| ServerEvent::Rectangle {
        region: Region::new(x, y, 1, 1),
        pixels: Bytes::from_static(pixels),
    };
    let expected = Reading {
        events: vec![
            ready(),
            pixel(0, 0, &[1, 2, 3, 0]),
            ServerEvent::UpdateEnd,
            ServerEvent::Resize(new),
            ServerEvent::UpdateEnd,
            pixel(799, 599, &[5, 6, 7, 0]),
            ServerEvent::Copy { region: Region::new(0, 0, 2, 2), from_x: 9, from_y: 8 },
            ServerEvent::UpdateEnd,
            ServerEvent::Bell,
            ServerEvent::CutText,
            ServerEvent::UpdateEnd,
        ],
        sent: read([&handshake(SIZE)[..]]).sent,
        error: None,
    };
    assert_eq!(read([&bytes[..]]), expected);
    assert_eq!(read(split(&bytes, &[1])), expected);
}

#[test]
fn a_large_rectangle_comes_in_bands() {
    let size = ScreenSize::new(8192, 100);
    let mut bytes = handshake(size);
    bytes.extend(update(1));
    bytes.extend(rectangle(size.whole(), ENCODING_RAW, &vec![7; size.bytes()]));
    let reading = read(split(&bytes, &[100_000]));
    let mut row = 0;
    for event in &reading.events[1..reading.events.len() - 1] {
        let ServerEvent::Rectangle { region, pixels } = event else { panic!("{event:?}") };
        assert_eq!((region.x, region.y, region.width), (0, row, 8192));
        assert_eq!(pixels.len(), region.size().bytes());
        assert!(pixels.len() <= BAND_BYTES);
        row += region.height;
    }
    assert_eq!((row, reading.error), (100, None));
}

#[test]
fn what_no_server_may_send_is_named() {
    let one = |region, encoding| [update(1), rectangle(region, encoding, &[])].concat();
    for (bytes, message) in [
        (one(Region::new(0, 0, 9, 9), 5), "encoding 5, which otter did not offer"),
        (one(Region::new(0, 0, 9, 9), 0x574d_5664), "encoding 1464686180"),
        (one(Region::new(700, 0, 21, 9), ENCODING_RAW), "700,0,21,9, which is beyond its screen"),
        (one(Region::new(65_535, 0, 65_535, 9), ENCODING_RAW), "beyond its screen of 720×400"),
        (one(Region::new(0, 399, 1, 2), ENCODING_COPY_RECT), "beyond its screen"),
        (one(Region::new(0, 0, 8193, 9), ENCODING_DESKTOP_SIZE), "8193×9"),
        (one(Region::new(0, 0, 0, 9), ENCODING_DESKTOP_SIZE), "0×9"),
        (vec![0xfa], "unknown type 250"),
        (b"\x03\0\0\0\xff\xff\xff\xff".to_vec(), "4294967295 bytes of a clipboard"),
        (b"\x7f\0\0\x03".to_vec(), "broken"),
    ] {
        let error = error_after_handshake(&bytes).to_string();
        assert!(error.contains(message), "{error}");
    }
    let mut copy = one(Region::new(0, 0, 10, 10), ENCODING_COPY_RECT);
    copy.extend([2, 199, 0, 0]);
    assert!(matches!(error_after_handshake(&copy), RfbError::OutsideScreen { .. }));
    let mut long_name = handshake(SIZE);
    long_name.truncate(long_name.len() - 11);
    long_name.extend([0, 1, 0, 1]);
    assert!(matches!(read([&long_name[..]]).error, Some(RfbError::TooLong { .. })));
}

#[test]
fn pieces_of_one_byte_cost_as_much_as_one_piece() {
    let size = ScreenSize::new(1024, 1024);
    let mut bytes = handshake(size);
    bytes.extend(update(1));
    bytes.extend(rectangle(size.whole(), ENCODING_RAW, &vec![7; size.bytes()]));
    // Four million pieces: a cost that grows with the square would not end.
    let reading = read(split(&bytes, &[1]));
    assert_eq!((reading.events.len(), reading.error), (6, None));
}

/// What a server sends in an update.
#[derive(Clone, Debug)]
enum Part {
    Raw { region: Region, colour: u8 },
    Copy { region: Region, from: (u16, u16) },
    Resize(ScreenSize),
}

fn parts() -> impl Strategy<Value = Vec<Vec<Part>>> {
    let region = || {
        (0..20u16, 0..20u16, 0..20u16, 0..20u16).prop_map(|(x, y, width, height)| Region {
            x,
            y,
            width,
            height,
        })
    };
    let part = prop_oneof![
        4 => (region(), any::<u8>()).prop_map(|(region, colour)| Part::Raw { region, colour }),
        1 => (region(), (0..20u16, 0..20u16))
            .prop_map(|(region, from)| Part::Copy { region, from }),
        1 => (1..20u16, 1..20u16)
            .prop_map(|(width, height)| Part::Resize(ScreenSize { width, height })),
    ];
    prop::collection::vec(prop::collection::vec(part, 0..6), 0..12)
}

/// A screen as a plain list of pixels.
#[derive(Debug, PartialEq, Eq)]
struct Screen {
    size: ScreenSize,
    pixels: Vec<[u8; 4]>,
}

impl Screen {
    fn new(size: ScreenSize) -> Self {
        Self { size, pixels: vec![[0; 4]; size.pixels()] }
    }

    fn at(&mut self, x: u16, y: u16) -> &mut [u8; 4] {
        &mut self.pixels[usize::from(y) * usize::from(self.size.width) + usize::from(x)]
    }

    fn paint(&mut self, region: Region, pixels: &[[u8; 4]]) {
        let mut pixels = pixels.iter();
        for y in region.y..region.y + region.height {
            for x in region.x..region.x + region.width {
                *self.at(x, y) = *pixels.next().unwrap();
            }
        }
    }

    fn copy(&mut self, region: Region, (from_x, from_y): (u16, u16)) {
        let mut pixels = Vec::new();
        for y in from_y..from_y + region.height {
            for x in from_x..from_x + region.width {
                pixels.push(*self.at(x, y));
            }
        }
        self.paint(region, &pixels);
    }
}

proptest! {
    #[test]
    fn the_events_give_the_screen_of_the_server(
        updates in parts(),
        lengths in prop::collection::vec(1..40usize, 1..60),
    ) {
        let size = ScreenSize::new(20, 20);
        let mut servers = Screen::new(size);
        let mut bytes = handshake(size);
        for parts in &updates {
            let mut rectangles = Vec::new();
            for part in parts {
                let whole = servers.size.whole();
                match part {
                    Part::Raw { region, colour } => {
                        let Some(region) = region.intersect(whole) else { continue };
                        let pixels: Vec<[u8; 4]> = (0..region.pixels())
                            .map(|at| [*colour, at.to_le_bytes()[0], 9, 0])
                            .collect();
                        servers.paint(region, &pixels);
                        // The host sends anything in the fourth byte.
                        let sent: Vec<u8> =
                            pixels.iter().flat_map(|[b, g, r, _]| [*b, *g, *r, *colour]).collect();
                        rectangles.push(rectangle(region, ENCODING_RAW, &sent));
                    }
                    Part::Copy { region, from } => {
                        let origin = Region { x: from.0, y: from.1, ..*region };
                        if !region.is_within(servers.size) || !origin.is_within(servers.size) {
                            continue;
                        }
                        servers.copy(*region, *from);
                        let origin = [from.0, from.1].map(u16::to_be_bytes).concat();
                        rectangles.push(rectangle(*region, ENCODING_COPY_RECT, &origin));
                    }
                    Part::Resize(size) => {
                        servers = Screen::new(*size);
                        rectangles.push(rectangle(size.whole(), ENCODING_DESKTOP_SIZE, &[]));
                    }
                }
            }
            bytes.extend(update(u16::try_from(rectangles.len()).unwrap()));
            bytes.extend(rectangles.concat());
        }
        let reading = read(split(&bytes, &lengths));
        prop_assert_eq!(reading.error, None);
        let mut screen = None;
        let mut ends = 0;
        for event in reading.events {
            match event {
                ServerEvent::Ready { size, .. } | ServerEvent::Resize(size) => {
                    screen = Some(Screen::new(size));
                }
                ServerEvent::Rectangle { region, pixels } => {
                    screen.as_mut().unwrap().paint(region, pixels.as_chunks().0);
                }
                ServerEvent::Copy { region, from_x, from_y } => {
                    screen.as_mut().unwrap().copy(region, (from_x, from_y));
                }
                ServerEvent::UpdateEnd => ends += 1,
                ServerEvent::Bell | ServerEvent::CutText => {}
            }
        }
        prop_assert_eq!(screen, Some(servers));
        prop_assert_eq!(ends, updates.len());
    }

    #[test]
    fn no_bytes_make_it_panic_or_depend_on_their_pieces(
        bytes: Vec<u8>,
        after_handshake: bool,
        lengths in prop::collection::vec(1..9usize, 1..30),
    ) {
        let begin = if after_handshake { handshake(ScreenSize::new(9, 9)) } else { Vec::new() };
        let bytes = [begin, bytes].concat();
        prop_assert_eq!(read([&bytes[..]]), read(split(&bytes, &lengths)));
    }
}
