//! The guest as its screen and its serial ports show it: a pure state machine of the machine, time,
//! keys, pointer and bytes.
//!
//! ```text
//! off ──► firmware ──► boot menu ──► kernel ──► login ──► desktop
//!           720×400      720×400      720×400    800×600    1280×1024
//!           └──► installer (from a CD), 720×400
//!           └──── restart ◄──┴─ Ctrl-Alt-Delete   └◄─ Log Out ─┘
//! login, desktop: blank after ten minutes without input; a key or the pointer wakes the screen
//! serial ports: the messages of the start; after it a login and a shell for each port
//! ```
//! Nothing runs while no client looks: the state is brought up to the present when a client asks
//! for the picture or sends an input. Moments are ages of the guest, which does not age while its
//! machine is suspended, so a saved state goes on where it was.

mod bitmap;
mod desktop;
mod font;
mod keyboard;
mod login;
mod picture;
mod shell;
mod terminal;
mod text_mode;
mod tty;

use std::collections::BTreeMap;
use std::time::Duration;

pub use bitmap::Bitmap;
pub use keyboard::{Key, Layout};
pub use login::PASSWORD;
pub use picture::Picture;

use super::world::Moment;
use bitmap::Colour;
use desktop::{Desktop, DesktopOutcome};
use keyboard::{Keyboard, Stroke};
use login::Login;
use text_mode::{BootChoice, BootMenu};
use tty::{BootProgress, Tty, TtyRequest};

/// How long the firmware shows its screen, at scale 1.0.
const FIRMWARE: Duration = Duration::from_secs(1);
/// How long the boot menu waits for a key.
const MENU: Duration = Duration::from_secs(3);
/// How long the kernel takes until the login.
const KERNEL: Duration = Duration::from_millis(1_500);
/// How long the screen stays on without an input.
const BLANK_AFTER: Duration = Duration::from_mins(10);
/// How long a key is held until it repeats, and the time between two repeats.
const REPEAT_AFTER: Duration = Duration::from_millis(500);
const REPEAT_EVERY: Duration = Duration::from_millis(33);
/// The maximum number of repeats that are caught up at once.
const MAX_REPEATS: u32 = 1_000;
/// Half of the period in which the cursor blinks.
const BLINK: Duration = Duration::from_millis(500);

/// The screen, the input devices and the serial ports of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestScreen {
    time: GuestTime,
    times: BootTimes,
    stage: Stage,
    keyboard: Keyboard,
    repeat: Option<Repeat>,
    pointer: Option<(u16, u16)>,
    buttons: u8,
    /// The age at the last input.
    last_input: Duration,
    /// How often the guest has started.
    starts: u64,
    /// The serial ports that were used, by their numbers: `ttyS0` has 0.
    ttys: BTreeMap<usize, Tty>,
    /// The image from which the next start boots. `None`: it boots from the disk.
    medium: Option<String>,
    version: u64,
}

/// What a guest shows. The names are those of scenarios and of the admin endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScreenStage {
    Off,
    Firmware,
    Menu,
    Kernel,
    /// The menu of an installer, which was booted from a CD.
    Installer,
    Login,
    Desktop,
    /// The desktop with an open terminal.
    Terminal,
    /// The desktop after ten minutes without an input.
    Blank,
}

impl ScreenStage {
    /// The name in scenarios and at the admin endpoint.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Firmware => "firmware",
            Self::Menu => "menu",
            Self::Kernel => "kernel",
            Self::Installer => "installer",
            Self::Login => "login",
            Self::Desktop => "desktop",
            Self::Terminal => "terminal",
            Self::Blank => "blank",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Off,
    Firmware { since: Duration },
    Menu(Box<BootMenu>),
    Kernel { since: Duration, arguments: String },
    Installer { medium: String },
    Login(Login),
    Desktop(Box<Desktop>),
}

/// How old the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct GuestTime {
    age: Duration,
    /// The host's time at which the guest had this age. `None` while the guest does not age.
    at: Option<Duration>,
}

/// How long the parts of the start take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BootTimes {
    firmware: Duration,
    menu: Duration,
    kernel: Duration,
}

/// The key that repeats while it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Repeat {
    key: Key,
    next: Duration,
}

impl GuestScreen {
    /// The guest of a machine that is off.
    #[must_use]
    pub fn new(layout: Layout) -> Self {
        Self {
            time: GuestTime { age: Duration::ZERO, at: None },
            times: BootTimes::scaled(1.0),
            stage: Stage::Off,
            keyboard: Keyboard::new(layout),
            repeat: None,
            pointer: None,
            buttons: 0,
            last_input: Duration::ZERO,
            starts: 0,
            ttys: BTreeMap::new(),
            medium: None,
            version: 0,
        }
    }

    /// Sets the image from which the next start boots. `None`: it boots from the disk.
    pub fn insert(&mut self, medium: Option<String>) {
        self.medium = medium;
    }

    /// The machine is powered on. `scale` is the factor for the durations of the start.
    pub fn power_on(&mut self, now: Duration, scale: f64) {
        self.times = BootTimes::scaled(scale);
        self.time = GuestTime { age: Duration::ZERO, at: Some(now) };
        self.start(Duration::ZERO);
    }

    /// The machine is on at the start of the simulation: the guest goes on where it is, or shows
    /// the login.
    pub fn run(&mut self, now: Duration, scale: f64) {
        self.times = BootTimes::scaled(scale);
        if self.stage == Stage::Off {
            self.show(ScreenStage::Login, now);
        }
        self.thaw(now);
    }

    /// The machine is powered off.
    pub fn power_off(&mut self) {
        self.time.at = None;
        self.forget_input(Duration::ZERO);
        self.stage = Stage::Off;
    }

    /// The guest restarts, and its machine stays on.
    pub fn restart(&mut self, now: Duration) {
        if self.stage != Stage::Off {
            self.start(self.time.age(now));
        }
    }

    /// The machine is suspended, or its memory is saved: the guest does not age any more.
    pub fn freeze(&mut self, now: Duration) {
        self.settle(self.time.age(now));
        self.time = GuestTime { age: self.time.age(now), at: None };
        self.keyboard.release_all();
        self.repeat = None;
        self.buttons = 0;
        self.version += 1;
    }

    /// A suspended machine, or saved memory, runs again.
    pub const fn thaw(&mut self, now: Duration) {
        if !matches!(self.stage, Stage::Off) {
            self.time.at = Some(now);
        }
        self.version += 1;
    }

    /// The guest is in a saved state, which does not go on by itself.
    pub fn restore(&mut self, saved: &Self) {
        let version = self.version.max(saved.version) + 1;
        let medium = self.medium.take();
        *self = Self { medium, version, ..saved.clone() };
    }

    /// The layout of the guest's keyboard.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        self.keyboard.layout()
    }

    /// Whether there is a saved state that can go on.
    #[must_use]
    pub const fn is_frozen(&self) -> bool {
        self.time.at.is_none() && !matches!(self.stage, Stage::Off)
    }

    /// Shows this stage, as if the guest had just come to it.
    pub fn show(&mut self, stage: ScreenStage, now: Duration) {
        let age = self.time.age(now);
        match stage {
            // On the serial ports only these stages are those of a new start.
            ScreenStage::Firmware
            | ScreenStage::Menu
            | ScreenStage::Kernel
            | ScreenStage::Installer => self.start(age),
            _ => self.forget_input(age),
        }
        self.stage = match stage {
            ScreenStage::Off => Stage::Off,
            ScreenStage::Firmware => Stage::Firmware { since: age },
            ScreenStage::Menu => Stage::Menu(Box::new(BootMenu::new(age, self.times.menu))),
            ScreenStage::Kernel => Stage::Kernel { since: age, arguments: String::new() },
            ScreenStage::Installer => {
                Stage::Installer { medium: self.medium.clone().unwrap_or_default() }
            }
            ScreenStage::Login => Stage::Login(Login::default()),
            ScreenStage::Desktop | ScreenStage::Terminal | ScreenStage::Blank => {
                Stage::Desktop(Box::new(Desktop::new()))
            }
        };
        match (&mut self.stage, stage) {
            (Stage::Desktop(desktop), ScreenStage::Terminal) => desktop.open_terminal(),
            (Stage::Desktop(_), ScreenStage::Blank) => {
                self.time.age += BLANK_AFTER;
            }
            _ => {}
        }
    }

    /// Opens a terminal on the desktop, as the command `xfce4-terminal` does. Returns whether the
    /// guest has a desktop.
    pub fn open_terminal(&mut self, now: Duration) -> bool {
        self.settle(self.time.age(now));
        self.version += 1;
        match &mut self.stage {
            Stage::Desktop(desktop) => {
                desktop.open_terminal();
                true
            }
            _ => false,
        }
    }

    /// A key goes down or up.
    pub fn key(&mut self, now: Duration, key: Key, is_down: bool) {
        let Some(age) = self.wake(now) else { return };
        if !is_down {
            self.keyboard.release(key);
            self.repeat = self.repeat.filter(|repeat| repeat.key != key);
            return;
        }
        if let Some(stroke) = self.keyboard.press(key) {
            self.repeat = Some(Repeat { key, next: age + REPEAT_AFTER });
            self.act(stroke, age);
        }
    }

    /// The pointer is at this place, with these buttons down: bit 0 is the first button.
    pub fn point(&mut self, now: Duration, (x, y): (u16, u16), buttons: u8) {
        let Some(age) = self.wake(now) else { return };
        let (width, height) = self.size();
        let (x, y) = (x.min(width.saturating_sub(1)), y.min(height.saturating_sub(1)));
        let before = std::mem::replace(&mut self.buttons, buttons);
        let at = (i32::from(x), i32::from(y));
        match &mut self.stage {
            Stage::Login(login) => {
                if buttons & !before & 1 != 0 && login.click(at.0, at.1) {
                    self.stage = Stage::Desktop(Box::new(Desktop::new()));
                }
            }
            Stage::Desktop(desktop) => {
                if desktop.point(at, buttons, before, age) == DesktopOutcome::LogOut {
                    self.stage = Stage::Login(Login::default());
                }
            }
            // No driver of a mouse runs.
            Stage::Off
            | Stage::Firmware { .. }
            | Stage::Menu(_)
            | Stage::Kernel { .. }
            | Stage::Installer { .. } => return,
        }
        self.pointer = Some((x, y));
    }

    /// What the screen shows. `None` if the machine is off.
    ///
    /// # Parameters
    /// - `now`: the present. For a saved state, the moment at which it was saved.
    /// - `machine`: the name of the machine, which some screens show.
    #[must_use]
    pub fn picture(&self, now: Moment, machine: &str) -> Option<Picture> {
        let age = self.time.age(now.elapsed);
        let guest = self.at(age);
        let size = guest.size();
        let mut picture = match &guest.stage {
            Stage::Off => return None,
            _ if guest.is_blank(age) => return Some(Picture::new(size, Colour::BLACK)),
            Stage::Firmware { .. } => text_mode::firmware(machine),
            Stage::Menu(menu) => menu.picture(age),
            Stage::Kernel { since, arguments } => {
                let lines = text_mode::kernel_lines(age.saturating_sub(*since), guest.times.kernel);
                text_mode::kernel(lines, arguments)
            }
            Stage::Installer { medium } => text_mode::installer(medium),
            Stage::Login(login) => login.picture(machine),
            Stage::Desktop(desktop) => {
                let blinks = age.saturating_sub(guest.last_input).as_millis() / BLINK.as_millis();
                desktop.picture(now.wall, blinks.is_multiple_of(2))
            }
        };
        if let (Some((x, y)), Stage::Login(_) | Stage::Desktop(_)) = (guest.pointer, &guest.stage) {
            picture.pointer(x.min(size.0.saturating_sub(1)), y.min(size.1.saturating_sub(1)));
        }
        Some(picture)
    }

    /// The host's time at which the picture changes next without an input. `None` if it does not.
    #[must_use]
    pub fn next_change(&self, now: Moment) -> Option<Duration> {
        let at = self.time.at?;
        let age = self.time.age(now.elapsed);
        let guest = self.at(age);
        let blank_at = guest.last_input + BLANK_AFTER;
        let change = match &guest.stage {
            Stage::Off | Stage::Installer { .. } => None,
            Stage::Firmware { since } => Some(*since + guest.times.firmware),
            Stage::Menu(menu) => menu.next_change(age),
            Stage::Kernel { since, .. } => Some(guest.next_kernel_line(*since, age)),
            Stage::Login(_) | Stage::Desktop(_) if guest.is_blank(age) => None,
            Stage::Login(_) => Some(blank_at),
            Stage::Desktop(desktop) => {
                let into_second = u64::try_from(now.wall.subsec_nanosecond()).unwrap_or_default();
                let tick = age + Duration::from_nanos(1_000_000_000 - into_second);
                let idle = age.saturating_sub(guest.last_input);
                let blinks = idle.as_millis() / BLINK.as_millis();
                let blinks = u32::try_from(blinks).unwrap_or(u32::MAX);
                let blink = guest.last_input + BLINK.saturating_mul(blinks.saturating_add(1));
                let blink = if desktop.has_terminal() { blink } else { blank_at };
                Some(tick.min(blink).min(blank_at))
            }
        };
        let repeat = guest.repeat.map(|repeat| repeat.next);
        let next = [change, repeat].into_iter().flatten().min()?;
        Some(at + next.saturating_sub(self.time.age))
    }

    /// How long ago the last input came. Before the first one: how long ago the guest started.
    #[must_use]
    pub fn idle(&self, now: Duration) -> Duration {
        self.time.age(now).saturating_sub(self.last_input)
    }

    /// What the guest has written to its serial port `ttyS<number>` since the last call, and the
    /// host's time at which it writes next without an input. `None` if it does not.
    pub fn serial_output(&mut self, now: Duration, number: usize) -> (Vec<u8>, Option<Duration>) {
        let age = self.time.age(now);
        self.settle(age);
        let mut output = Vec::new();
        let progress = self.boot_progress(age);
        let tty = self.ttys.entry(number).or_default();
        tty.write_messages(self.starts, progress, number, &mut output);
        let change = match &self.stage {
            Stage::Firmware { since } => Some(*since + self.times.firmware),
            Stage::Menu(menu) => menu.ends(),
            Stage::Kernel { since, .. } => Some(self.next_kernel_line(*since, age)),
            Stage::Off | Stage::Installer { .. } | Stage::Login(_) | Stage::Desktop(_) => None,
        };
        let next = self.time.at.zip(change);
        (output, next.map(|(at, change)| at + change.saturating_sub(self.time.age)))
    }

    /// Somebody sends bytes to the serial port `ttyS<number>`. Returns what the guest writes. The
    /// bytes are lost while no guest runs.
    pub fn serial_input(&mut self, now: Duration, number: usize, bytes: &[u8]) -> Vec<u8> {
        if self.stage == Stage::Off || self.time.at.is_none() {
            return Vec::new();
        }
        let (mut output, _) = self.serial_output(now, number);
        let mut tty = self.ttys.remove(&number).unwrap_or_default();
        for byte in bytes {
            let wrong = match tty.receive(*byte, number, &mut output) {
                None => continue,
                Some(TtyRequest::Restart) => {
                    self.start(self.time.age(now));
                    let progress = self.boot_progress(self.time.age(now));
                    tty.write_messages(self.starts, progress, number, &mut output);
                    continue;
                }
                Some(TtyRequest::OpenTerminal) => {
                    (!self.open_terminal(now)).then_some("xfce4-terminal: cannot open display: :0")
                }
                Some(TtyRequest::Resize(width, height)) => {
                    (!self.resize((width, height))).then_some("xrandr: cannot open display: :0")
                }
            };
            Tty::answer(wrong, &mut output);
        }
        self.ttys.insert(number, tty);
        output
    }

    /// Increases with each input and each change of the power state.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The keys that are down, in the order in which they went down.
    #[must_use]
    pub fn held_keys(&self) -> &[Key] {
        self.keyboard.held()
    }

    /// The buttons of the pointer that are down: bit 0 is the first button.
    #[must_use]
    pub const fn held_buttons(&self) -> u8 {
        self.buttons
    }

    /// The stage that the guest shows now.
    #[must_use]
    pub fn stage(&self, now: Duration) -> ScreenStage {
        let age = self.time.age(now);
        let guest = self.at(age);
        match &guest.stage {
            Stage::Off => ScreenStage::Off,
            Stage::Firmware { .. } => ScreenStage::Firmware,
            Stage::Menu(_) => ScreenStage::Menu,
            Stage::Kernel { .. } => ScreenStage::Kernel,
            Stage::Installer { .. } => ScreenStage::Installer,
            _ if guest.is_blank(age) => ScreenStage::Blank,
            Stage::Login(_) => ScreenStage::Login,
            Stage::Desktop(desktop) if desktop.has_terminal() => ScreenStage::Terminal,
            Stage::Desktop(_) => ScreenStage::Desktop,
        }
    }

    /// The guest starts.
    fn start(&mut self, age: Duration) {
        self.starts += 1;
        self.stage = Stage::Firmware { since: age };
        self.forget_input(age);
    }

    /// The input devices are as they are at a start.
    fn forget_input(&mut self, age: Duration) {
        self.keyboard = Keyboard::new(self.keyboard.layout());
        self.repeat = None;
        self.pointer = None;
        self.buttons = 0;
        self.last_input = age;
        self.version += 1;
    }

    /// Brings the guest up to the present for an input. Returns the age. `None` if no guest runs.
    fn wake(&mut self, now: Duration) -> Option<Duration> {
        if self.stage == Stage::Off || self.time.at.is_none() {
            return None;
        }
        let age = self.time.age(now);
        self.settle(age);
        self.last_input = age;
        self.version += 1;
        Some(age)
    }

    /// The guest at this age.
    fn at(&self, age: Duration) -> Self {
        let mut guest = self.clone();
        guest.settle(age);
        guest
    }

    /// Does what happens by itself until this age.
    fn settle(&mut self, age: Duration) {
        self.pass_stages(age);
        let mut repeats = 0;
        while let Some(Repeat { key, next }) = self.repeat.filter(|repeat| repeat.next <= age) {
            let stroke = self.keyboard.stroke(key);
            self.repeat = Some(Repeat { key, next: next + REPEAT_EVERY });
            self.act(stroke, next);
            repeats += 1;
            if repeats >= MAX_REPEATS && self.repeat.is_some() {
                self.repeat = Some(Repeat { key, next: age + REPEAT_EVERY });
            }
        }
        self.pass_stages(age);
    }

    fn pass_stages(&mut self, age: Duration) {
        loop {
            let next = match &self.stage {
                Stage::Firmware { since } => {
                    let end = *since + self.times.firmware;
                    (age >= end).then(|| match &self.medium {
                        Some(medium) => Stage::Installer { medium: medium.clone() },
                        None => Stage::Menu(Box::new(BootMenu::new(end, self.times.menu))),
                    })
                }
                Stage::Menu(menu) => menu
                    .ends()
                    .filter(|end| age >= *end)
                    .map(|since| Stage::Kernel { since, arguments: String::new() }),
                Stage::Kernel { since, .. } => {
                    let end = *since + self.times.kernel;
                    (age >= end).then(|| {
                        self.last_input = self.last_input.max(end);
                        Stage::Login(Login::default())
                    })
                }
                Stage::Off | Stage::Installer { .. } | Stage::Login(_) | Stage::Desktop(_) => None,
            };
            match next {
                Some(next) => self.stage = next,
                None => return,
            }
        }
    }

    /// Does what a key does.
    fn act(&mut self, stroke: Stroke, age: Duration) {
        let restarts = stroke.has_control && stroke.has_alt && stroke.key == Key::DELETE;
        match &mut self.stage {
            Stage::Firmware { .. }
            | Stage::Menu(_)
            | Stage::Kernel { .. }
            | Stage::Installer { .. }
                if restarts =>
            {
                self.start(age);
            }
            Stage::Menu(menu) => match menu.press(stroke, age) {
                BootChoice::Stay => {}
                BootChoice::Boot(arguments) => {
                    self.stage = Stage::Kernel { since: age, arguments };
                }
                BootChoice::Restart => self.start(age),
            },
            Stage::Login(login) => {
                if login.press(stroke) {
                    self.stage = Stage::Desktop(Box::new(Desktop::new()));
                }
            }
            Stage::Desktop(desktop) => {
                if desktop.press(stroke) == DesktopOutcome::Restart {
                    self.start(age);
                }
            }
            Stage::Off
            | Stage::Firmware { .. }
            | Stage::Kernel { .. }
            | Stage::Installer { .. } => {}
        }
    }

    /// Sets the size of the desktop. Returns whether the guest has one.
    fn resize(&mut self, size: (u16, u16)) -> bool {
        self.version += 1;
        match &mut self.stage {
            Stage::Desktop(desktop) => {
                desktop.resize(size);
                true
            }
            _ => false,
        }
    }

    /// How far the start of the guest has come at this age, to which the guest was brought.
    fn boot_progress(&self, age: Duration) -> BootProgress {
        match &self.stage {
            Stage::Off => BootProgress::Off,
            Stage::Firmware { .. } => BootProgress::Firmware,
            Stage::Menu(_) => BootProgress::BootLoader,
            Stage::Installer { .. } => BootProgress::Installer,
            Stage::Kernel { since, .. } => {
                let since = age.saturating_sub(*since);
                BootProgress::Kernel(text_mode::kernel_lines(since, self.times.kernel))
            }
            Stage::Login(_) | Stage::Desktop(_) => BootProgress::Up,
        }
    }

    /// The age at which the kernel, which runs since `since`, writes its next line.
    fn next_kernel_line(&self, since: Duration, age: Duration) -> Duration {
        let step = self.times.kernel / 6;
        let passed = age.saturating_sub(since).as_nanos() / step.as_nanos().max(1);
        let next = u32::try_from(passed).unwrap_or(u32::MAX).saturating_add(1);
        since + step.saturating_mul(next)
    }

    fn is_blank(&self, age: Duration) -> bool {
        matches!(self.stage, Stage::Login(_) | Stage::Desktop(_))
            && age.saturating_sub(self.last_input) >= BLANK_AFTER
    }

    fn size(&self) -> (u16, u16) {
        match &self.stage {
            Stage::Login(_) => login::SIZE,
            Stage::Desktop(desktop) => desktop.size(),
            _ => text_mode::SIZE,
        }
    }
}

impl BootTimes {
    fn scaled(scale: f64) -> Self {
        let scale = scale.clamp(0.0, 1e6);
        Self {
            firmware: FIRMWARE.mul_f64(scale),
            menu: MENU.mul_f64(scale),
            kernel: KERNEL.mul_f64(scale),
        }
    }
}

impl GuestTime {
    fn age(self, now: Duration) -> Duration {
        self.at.map_or(self.age, |at| self.age + now.saturating_sub(at))
    }
}

#[cfg(test)]
mod tests;
