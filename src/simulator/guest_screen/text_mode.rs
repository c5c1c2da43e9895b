//! The screens in text mode, 720 × 400: the firmware, the boot loader and the start of the kernel.
//!
//! ```text
//! boot loader: menu (counts down until the first key) ──► an entry boots | the machine restarts
//!                └─ e ──► editor of the kernel's arguments ──► Ctrl-x, F10: boots
//!                              └─ Escape ──► menu
//! ```

use std::time::Duration;

use super::bitmap::{Area, Colour};
use super::font::Font;
use super::keyboard::{Key, Stroke};
use super::picture::Picture;

/// The size of all text modes.
pub const SIZE: (u16, u16) = (720, 400);
/// The size of a character cell.
const CELL: (i32, i32) = (9, 16);
/// The boot loader loses a key that comes sooner than this after the one before.
const KEY_PAUSE: Duration = Duration::from_millis(30);

const GREY: Colour = Colour::rgb(0xaa, 0xaa, 0xaa);
const KERNEL: &str = "/vmlinuz-6.6.48-1.qubes.fc37.x86_64";
const ARGUMENTS: &str = "placeholder root=/dev/mapper/qubes_dom0-root ro quiet";

/// The entries of the menu.
const ENTRIES: [&str; 3] =
    ["Qubes, with Xen hypervisor", "Advanced options for Qubes", "Restart the machine"];
const RESTART: usize = 2;

/// The lines that the kernel writes, evenly spread over its start.
const KERNEL_LINES: [&str; 6] = [
    "Loading Xen 4.17.5 ...",
    "Loading Linux 6.6.48-1.qubes.fc37.x86_64 ...",
    "Loading initial ramdisk ...",
    "[    0.512044] Run /init as init process",
    "[  OK  ] Started Qubes memory information reporter",
    "[  OK  ] Reached target Graphical Interface",
];

/// The boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootMenu {
    entered: Duration,
    countdown: Duration,
    is_counting: bool,
    selected: usize,
    /// The text that is added to the kernel's arguments, while the editor is open.
    edited: Option<String>,
    last_key: Option<Duration>,
}

/// What a key in the boot loader does.
pub enum BootChoice {
    Stay,
    /// Boots the kernel with these further arguments.
    Boot(String),
    Restart,
}

impl BootMenu {
    pub const fn new(entered: Duration, countdown: Duration) -> Self {
        Self { entered, countdown, is_counting: true, selected: 0, edited: None, last_key: None }
    }

    /// When the first entry boots by itself. `None` if a key has stopped the countdown.
    pub fn ends(&self) -> Option<Duration> {
        self.is_counting.then(|| self.entered + self.countdown)
    }

    /// The next moment after `age` at which the countdown shows another number.
    pub fn next_change(&self, age: Duration) -> Option<Duration> {
        let left = self.ends()?.saturating_sub(age);
        Some(age + left.saturating_sub(Duration::from_secs(whole_seconds(left).saturating_sub(1))))
    }

    pub fn press(&mut self, stroke: Stroke, age: Duration) -> BootChoice {
        let is_too_fast = self.last_key.is_some_and(|last| age.saturating_sub(last) < KEY_PAUSE);
        self.last_key = Some(age);
        if is_too_fast {
            return BootChoice::Stay;
        }
        self.is_counting = false;
        let is_boot_key =
            stroke.key == Key::F10 || (stroke.has_control && stroke.key == Key::letter(b'x'));
        match &mut self.edited {
            Some(arguments) if is_boot_key => return BootChoice::Boot(std::mem::take(arguments)),
            Some(arguments) => match (stroke.key, stroke.character) {
                (Key::ESCAPE, _) => self.edited = None,
                (Key::BACKSPACE, _) => drop(arguments.pop()),
                (_, Some(character)) if arguments.len() < 256 => arguments.push(character),
                _ => {}
            },
            None => match (stroke.key, stroke.character) {
                (Key::UP, _) => self.selected = self.selected.saturating_sub(1),
                (Key::DOWN, _) => self.selected = (self.selected + 1).min(ENTRIES.len() - 1),
                (Key::ENTER | Key::KEYPAD_ENTER, _) if self.selected == RESTART => {
                    return BootChoice::Restart;
                }
                (Key::ENTER | Key::KEYPAD_ENTER, _) => return BootChoice::Boot(String::new()),
                (_, Some('e')) if self.selected != RESTART => self.edited = Some(String::new()),
                _ => {}
            },
        }
        BootChoice::Stay
    }

    pub fn picture(&self, age: Duration) -> Picture {
        let mut screen = Screen::new();
        screen.line(25, 1, GREY, "GNU GRUB  version 2.06");
        if let Some(arguments) = &self.edited {
            screen.line(3, 4, GREY, "setparams 'Qubes, with Xen hypervisor'");
            screen.line(3, 6, GREY, "multiboot2 /xen-4.17.5.gz placeholder console=none");
            screen.line(3, 7, GREY, &format!("module2 {KERNEL}"));
            let line = format!("{ARGUMENTS} {arguments}");
            screen.wrapped(3, 8, &line);
            screen.line(
                1,
                22,
                GREY,
                "Press Ctrl-x or F10 to boot, or Escape to go back to the menu.",
            );
            return screen.0;
        }
        for (row, (at, entry)) in (4..).zip(ENTRIES.iter().enumerate()) {
            if at == self.selected {
                screen.inverse_line(3, row, entry);
            } else {
                screen.line(3, row, GREY, entry);
            }
        }
        screen.line(
            1,
            20,
            GREY,
            "Use the up and down keys to select an entry. Press enter to boot,",
        );
        screen.line(1, 21, GREY, "or 'e' to edit the commands before booting.");
        if let Some(ends) = self.ends() {
            let seconds = whole_seconds(ends.saturating_sub(age));
            let text = format!("The highlighted entry starts automatically in {seconds}s.");
            screen.line(1, 23, GREY, &text);
        }
        screen.0
    }
}

/// The screen of the firmware.
pub fn firmware(machine: &str) -> Picture {
    let mut screen = Screen::new();
    screen.line(0, 0, Colour::WHITE, "PhoenixBIOS 4.0 Release 6.0");
    screen.line(0, 1, GREY, "VMware BIOS build 314, simulated");
    screen.line(0, 4, GREY, "CPU = 8 processors detected");
    screen.line(0, 5, GREY, "Initializing memory ... passed");
    screen.line(0, 6, GREY, &format!("Machine: {machine}"));
    screen.line(0, 23, GREY, "Press F2 to enter SETUP, F12 for Network Boot");
    screen.0
}

/// The menu of the installer on this image, a datastore path.
pub fn installer(medium: &str) -> Picture {
    let name = medium.rsplit(['/', ' ']).next().unwrap_or_default();
    let mut screen = Screen::new();
    screen.line(3, 1, Colour::WHITE, "Booting from the CD-ROM");
    screen.line(3, 2, GREY, name);
    screen.line(3, 4, Colour::WHITE, "Qubes installer");
    screen.inverse_line(3, 6, "Install Qubes OS");
    screen.line(3, 7, GREY, "Test this medium and install Qubes OS");
    screen.wrapped(3, 20, medium);
    screen.0
}

/// How many lines the kernel has written after this part (0.0 to 1.0) of its start.
pub fn kernel_lines(since: Duration, whole: Duration) -> usize {
    let steps = u32::try_from(KERNEL_LINES.len()).unwrap_or(1);
    let step = (whole / steps).max(Duration::from_nanos(1));
    let passed = since.as_nanos() / step.as_nanos();
    usize::try_from(passed).unwrap_or(usize::MAX).saturating_add(1).min(KERNEL_LINES.len())
}

/// The first `lines` lines that the kernel writes.
pub fn kernel_text(lines: usize) -> &'static [&'static str] {
    &KERNEL_LINES[..lines.min(KERNEL_LINES.len())]
}

/// The screen of the starting kernel with its first `lines` lines.
pub fn kernel(lines: usize, arguments: &str) -> Picture {
    let mut screen = Screen::new();
    for (row, line) in (0..).zip(KERNEL_LINES.iter().take(lines)) {
        screen.line(0, row, GREY, line);
    }
    if !arguments.is_empty() {
        screen.line(0, 10, GREY, &format!("Command line: {}", arguments.trim()));
    }
    screen.0
}

/// A picture that is written by cells.
struct Screen(Picture);

impl Screen {
    const fn new() -> Self {
        Self(Picture::new(SIZE, Colour::BLACK))
    }

    fn line(&mut self, column: i32, row: i32, ink: Colour, text: &str) {
        let at = (column * CELL.0, row * CELL.1);
        self.0.spaced_text(at, Font::Small, CELL.0, ink, text);
    }

    fn inverse_line(&mut self, column: i32, row: i32, text: &str) {
        self.0.fill(Area::new((column - 1) * CELL.0, row * CELL.1, 75 * CELL.0, CELL.1), GREY);
        self.line(column, row, Colour::BLACK, text);
    }

    fn wrapped(&mut self, column: i32, row: i32, text: &str) {
        let characters: Vec<char> = text.chars().collect();
        for (row, part) in (row..).zip(characters.chunks(74)) {
            self.line(column, row, GREY, &part.iter().collect::<String>());
        }
    }
}

/// The number of seconds, rounded up.
const fn whole_seconds(time: Duration) -> u64 {
    if time.subsec_nanos() > 0 { time.as_secs() + 1 } else { time.as_secs() }
}
