//! A property: whatever the server sends, and however its bytes are cut, a complete frame has the
//! pixels of the server. The server here is a model without any code of otter's codec.

use std::collections::VecDeque;

use jiff::Timestamp;
use proptest::prelude::*;

use super::super::*;
use crate::domain::screen::{Region, ScreenSize};
use crate::service::screens::frame::Frame;

/// The sides of the screens, so small that the test is fast.
const SIDES: std::ops::Range<u16> = 1..70;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The guest paints a rectangle between two points.
    Draw {
        from: (u16, u16),
        to: (u16, u16),
        colour: u8,
    },
    /// The guest switches to another mode.
    Resize {
        width: u16,
        height: u16,
        colour: u8,
    },
    /// The server answers an outstanding request with this share of what it has to send.
    Answer {
        percent: u8,
    },
    /// This many bytes arrive.
    Deliver {
        bytes: usize,
    },
    Wait {
        millis: u64,
    },
    /// Somebody asks for a confirmed frame.
    Ask,
    /// The guest restarts, and the connection stands.
    Restart,
    /// The connection breaks.
    Cut,
}

/// The server's side of one connection.
struct Server {
    size: ScreenSize,
    /// One colour for each pixel.
    pixels: Vec<u8>,
    /// The pixels that have to be sent.
    dirty: Vec<bool>,
    /// Whether the next update announces the size.
    announces_size: bool,
    is_requested: bool,
    /// What the client sent and the server has not read.
    inbox: VecDeque<u8>,
    handshake: usize,
    /// The bytes on their way to the client.
    wire: VecDeque<u8>,
    /// The pixels that were sent since the last announcement of a size.
    sent: Vec<bool>,
}

impl Server {
    fn new(size: ScreenSize, pixels: Vec<u8>) -> Self {
        let count = pixels.len();
        Self {
            size,
            pixels,
            dirty: vec![false; count],
            announces_size: false,
            is_requested: false,
            inbox: VecDeque::new(),
            handshake: 0,
            wire: b"RFB 003.008\n".iter().copied().collect(),
            sent: vec![false; count],
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.inbox.extend(bytes);
        loop {
            let needed = match (self.handshake, self.inbox.front()) {
                (_, None) => return,
                (0, _) => 12,
                (1 | 2, _) => 1,
                (_, Some(0)) => 20,
                (_, Some(2)) if self.inbox.len() < 4 => return,
                (_, Some(2)) => 4 + 4 * usize::from(self.inbox[3]),
                (_, Some(3)) => 10,
                (_, Some(other)) => panic!("the client sent a message of type {other}"),
            };
            if self.inbox.len() < needed {
                return;
            }
            let message: Vec<u8> = self.inbox.drain(..needed).collect();
            match self.handshake {
                0 => self.wire.extend([1, 1]),
                1 => self.wire.extend([0; 4]),
                2 => {
                    self.wire.extend(self.size.width.to_be_bytes());
                    self.wire.extend(self.size.height.to_be_bytes());
                    self.wire.extend([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]);
                    self.wire.extend([0, 0, 0, 1, b'm']);
                }
                _ if message[0] == 3 => self.request(&message),
                _ => {}
            }
            self.handshake += usize::from(self.handshake < 3);
        }
    }

    fn request(&mut self, message: &[u8]) {
        let number = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
        self.is_requested = true;
        let region = Region::new(number(2), number(4), number(6), number(8));
        if message[1] == 0
            && let Some(region) = region.intersect(self.size.whole())
        {
            for index in self.indices(region) {
                self.dirty[index] = true;
            }
        }
    }

    fn indices(&self, region: Region) -> Vec<usize> {
        let width = usize::from(self.size.width);
        let columns = || (region.x..region.x + region.width).map(usize::from);
        let rows = (region.y..region.y + region.height).map(usize::from);
        rows.flat_map(|y| columns().map(move |x| y * width + x)).collect()
    }

    fn draw(&mut self, region: Region, colour: u8) {
        for index in self.indices(region) {
            self.pixels[index] = colour;
            self.dirty[index] = true;
        }
    }

    /// As ESX does: the client has to ask for the pixels of the new screen.
    fn resize(&mut self, size: ScreenSize, colour: u8) {
        self.size = size;
        self.pixels = vec![colour; size.pixels()];
        self.dirty = vec![false; size.pixels()];
        self.sent = vec![false; size.pixels()];
        self.announces_size = true;
    }

    /// Answers an outstanding request with a part of what is dirty. The size is announced alone.
    fn answer(&mut self, percent: u8) {
        if !self.is_requested || self.handshake < 3 {
            return;
        }
        if self.announces_size {
            self.announces_size = false;
            self.is_requested = false;
            self.wire.extend([0, 0, 0, 1, 0, 0, 0, 0]);
            self.wire.extend(self.size.width.to_be_bytes());
            self.wire.extend(self.size.height.to_be_bytes());
            self.wire.extend((-223i32).to_be_bytes());
            return;
        }
        let runs = self.dirty_runs();
        if runs.is_empty() {
            // Silence while nothing changes.
            return;
        }
        self.is_requested = false;
        let count = runs.len() * usize::from(percent) / 100;
        self.wire.extend([0, 0]);
        self.wire.extend(u16::try_from(count).unwrap().to_be_bytes());
        for run in runs.into_iter().take(count) {
            for number in [run.x, run.y, run.width, run.height] {
                self.wire.extend(number.to_be_bytes());
            }
            self.wire.extend([0; 4]);
            for index in self.indices(run) {
                let colour = self.pixels[index];
                self.wire.extend([colour, colour / 2, 255 - colour, 0]);
                self.dirty[index] = false;
                self.sent[index] = true;
            }
        }
    }

    /// The dirty pixels as rectangles of one row, in an order that is not that of the screen.
    fn dirty_runs(&self) -> Vec<Region> {
        let mut runs = Vec::new();
        for y in 0..self.size.height {
            let row = usize::from(y) * usize::from(self.size.width);
            let is_dirty = |x: u16| x < self.size.width && self.dirty[row + usize::from(x)];
            let mut x = 0;
            while x < self.size.width {
                let start = x;
                while is_dirty(x) {
                    x += 1;
                }
                if x > start {
                    runs.push(Region::new(start, y, x - start, 1));
                }
                x += 1;
            }
        }
        let middle = runs.len() / 3;
        runs.rotate_left(middle);
        runs
    }

    fn picture(&self) -> Vec<u8> {
        self.pixels.iter().flat_map(|&colour| [colour, colour / 2, 255 - colour]).collect()
    }
}

/// The upstream and its server.
struct Pair {
    upstream: Upstream,
    server: Server,
    is_connected: bool,
    now: Duration,
    asks: u64,
}

impl Pair {
    fn new(size: ScreenSize) -> Self {
        let start = Moment { elapsed: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
        let mut pair = Self {
            upstream: Upstream::new(false, None, start),
            server: Server::new(size, vec![7; size.pixels()]),
            is_connected: false,
            now: Duration::ZERO,
            asks: 0,
        };
        pair.handle(Event::Power { on: true });
        pair
    }

    fn moment(&self) -> Moment {
        Moment { elapsed: self.now, wall: Timestamp::UNIX_EPOCH + self.now }
    }

    fn handle(&mut self, event: Event<'_>) {
        for effect in self.upstream.handle(event, self.moment()) {
            match effect {
                Effect::Connect => {
                    self.server = Server::new(self.server.size, self.server.pixels.clone());
                    self.is_connected = true;
                    self.handle(Event::Connected);
                }
                Effect::Send(bytes) if self.is_connected => self.server.receive(&bytes),
                Effect::Send(_) => {}
                Effect::Disconnect => self.is_connected = false,
                Effect::ReadPicture => panic!("the host gives no pictures"),
            }
        }
        let _ = self.upstream.publish(self.moment());
        self.check();
    }

    fn deliver(&mut self, count: usize) {
        let count = count.min(self.server.wire.len());
        let bytes: Vec<u8> = self.server.wire.drain(..count).collect();
        if self.is_connected && !bytes.is_empty() {
            self.handle(Event::Bytes(&bytes));
        }
    }

    fn wait(&mut self, by: Duration) {
        self.now += by;
        if self.upstream.due().is_some_and(|due| due <= self.now) {
            self.handle(Event::TimePassed);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Draw { from, to, colour } => {
                let ScreenSize { width, height } = self.server.size;
                let (x, y) = (from.0 % width, from.1 % height);
                let (right, below) = (to.0 % (width - x), to.1 % (height - y));
                self.server.draw(Region::new(x, y, right + 1, below + 1), colour);
            }
            Step::Resize { width, height, colour } => {
                self.server.resize(ScreenSize::new(width, height), colour);
            }
            Step::Answer { percent } => self.server.answer(percent),
            Step::Deliver { bytes } => self.deliver(bytes),
            Step::Wait { millis } => self.wait(Duration::from_millis(millis)),
            Step::Ask => {
                self.asks += 1;
                self.handle(Event::Ask(self.asks));
            }
            Step::Restart => self.handle(Event::Restarted),
            Step::Cut => {
                self.is_connected = false;
                self.handle(Event::Lost("cut".to_owned()));
            }
        }
    }

    fn frame(&self) -> &Frame {
        self.upstream.canvas.frame()
    }

    /// What holds at each moment.
    fn check(&self) {
        let frame = self.frame();
        assert!(frame.live || !frame.complete, "complete without a connection");
        assert!(self.upstream.status().confirmed <= self.asks);
        let has_all = self.is_connected && self.server.wire.is_empty();
        if has_all && frame.complete && !self.server.announces_size {
            assert_eq!(frame.size, self.server.size);
            assert!(self.server.sent.iter().all(|sent| *sent), "complete without all pixels");
            if self.server.dirty.iter().all(|dirty| !dirty) {
                assert_eq!(pixels(frame), self.server.picture(), "another picture");
            }
        }
    }

    /// Lets everything arrive. The frame is then complete, confirmed, and that of the server.
    fn settle(&mut self) {
        self.asks += 1;
        self.handle(Event::Ask(self.asks));
        for _ in 0..200 {
            self.deliver(usize::MAX);
            self.server.answer(100);
            self.deliver(usize::MAX);
            if self.server.wire.is_empty() {
                self.wait(Duration::from_millis(500));
            }
        }
        let frame = self.frame();
        assert!(frame.is_current(), "not complete: {:?}", self.upstream.connection());
        assert_eq!(frame.size, self.server.size);
        assert_eq!(pixels(frame), self.server.picture());
        assert_eq!(self.upstream.status().confirmed, self.asks, "not confirmed");
    }
}

/// The colours of a complete frame, without the byte that has no meaning.
fn pixels(frame: &Frame) -> Vec<u8> {
    let picture = frame.picture().unwrap();
    picture.pixels.chunks_exact(4).flat_map(|pixel| pixel[..3].to_vec()).collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<(u16, u16)>(), any::<(u16, u16)>(), any::<u8>())
            .prop_map(|(from, to, colour)| Step::Draw { from, to, colour }),
        1 => (SIDES, SIDES, any::<u8>())
            .prop_map(|(width, height, colour)| Step::Resize { width, height, colour }),
        6 => (0..=100u8).prop_map(|percent| Step::Answer { percent }),
        8 => prop_oneof![1..40usize, Just(usize::MAX), 1..30_000usize]
            .prop_map(|bytes| Step::Deliver { bytes }),
        2 => prop_oneof![1..2_000u64, 1..30_000u64].prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Ask),
        1 => Just(Step::Restart),
        1 => Just(Step::Cut),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_frame_is_that_of_the_server(width in SIDES, height in SIDES, steps in steps()) {
        let mut pair = Pair::new(ScreenSize::new(width, height));
        for step in &steps {
            pair.step(step);
        }
        pair.settle();
    }
}
