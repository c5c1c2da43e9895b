//! Tests of the guest as a state machine, without a host.

use jiff::Timestamp;

use super::*;

/// A guest with its own time.
struct Lab {
    guest: GuestScreen,
    now: Moment,
}

impl Lab {
    fn started() -> Self {
        let mut lab = Self::off(Layout::Us);
        lab.guest.power_on(lab.now.elapsed, 1.0);
        lab
    }

    fn at(stage: ScreenStage) -> Self {
        let mut lab = Self::started();
        lab.guest.show(stage, lab.now.elapsed);
        lab
    }

    fn off(layout: Layout) -> Self {
        let now = Moment {
            wall: Timestamp::constant(1_780_000_000, 0),
            elapsed: Duration::from_secs(5_000),
        };
        Self { guest: GuestScreen::new(layout), now }
    }

    fn pass(&mut self, milliseconds: u64) {
        let time = Duration::from_millis(milliseconds);
        self.now.elapsed += time;
        self.now.wall += time;
    }

    fn stroke(&mut self, key: Key) {
        self.guest.key(self.now.elapsed, key, true);
        self.guest.key(self.now.elapsed, key, false);
    }

    fn with(&mut self, modifiers: &[Key], key: Key) {
        for modifier in modifiers {
            self.guest.key(self.now.elapsed, *modifier, true);
        }
        self.stroke(key);
        for modifier in modifiers {
            self.guest.key(self.now.elapsed, *modifier, false);
        }
    }

    /// Types a text as a careful client does: with Shift, and slowly enough for a boot loader.
    fn type_text(&mut self, text: &str) {
        for character in text.chars() {
            let key = Key::of_keysym(u32::from(character)).unwrap();
            let needs_shift =
                character.is_ascii_uppercase() || "!@#$%^&*()_+{}|:\"<>?~".contains(character);
            self.with(if needs_shift { &[Key::SHIFT] } else { &[] }, key);
            self.pass(40);
        }
    }

    fn click(&mut self, x: u16, y: u16) {
        for buttons in [0, 1, 0] {
            self.guest.point(self.now.elapsed, (x, y), buttons);
        }
    }

    fn picture(&self) -> Picture {
        self.guest.picture(self.now, "qubes").unwrap()
    }

    fn stage(&self) -> ScreenStage {
        self.guest.stage(self.now.elapsed)
    }

    fn shows(&self, text: &str) -> bool {
        self.picture().lines().iter().any(|line| line.contains(text))
    }

    fn size(&self) -> (u16, u16) {
        (self.picture().width, self.picture().height)
    }
}

#[test]
fn a_guest_starts_by_itself_up_to_the_login() {
    let mut lab = Lab::started();
    assert_eq!((lab.stage(), lab.size()), (ScreenStage::Firmware, (720, 400)));
    assert!(lab.shows("Machine: qubes"));
    lab.pass(1_000);
    assert_eq!((lab.stage(), lab.size()), (ScreenStage::Menu, (720, 400)));
    assert!(lab.shows("starts automatically in 3s."));
    lab.pass(1_500);
    assert!(lab.shows("starts automatically in 2s."));
    lab.pass(1_500);
    assert_eq!(lab.stage(), ScreenStage::Kernel);
    lab.pass(1_500);
    assert_eq!((lab.stage(), lab.size()), (ScreenStage::Login, (800, 600)));
    assert!(lab.shows("Qubes OS") && lab.shows("user") && lab.shows("Log In"));
}

#[test]
fn the_next_change_is_when_the_picture_changes_and_not_before() {
    let mut lab = Lab::started();
    let mut changes = 0;
    while let Some(due) = lab.guest.next_change(lab.now) {
        assert!(due > lab.now.elapsed, "{:?} {due:?}", lab.now);
        let before = lab.picture();
        let wait = u64::try_from(due.saturating_sub(lab.now.elapsed).as_millis()).unwrap();
        lab.pass(wait.saturating_sub(2));
        assert_eq!(lab.picture(), before, "{:?}", lab.stage());
        lab.pass(4);
        changes += 1;
        assert!(changes < 50);
    }
    assert_eq!(lab.stage(), ScreenStage::Blank);
}

#[test]
fn a_key_stops_the_countdown_and_fast_keys_are_lost() {
    let mut lab = Lab::started();
    lab.pass(1_000);
    lab.stroke(Key::DOWN);
    lab.pass(29);
    lab.stroke(Key::DOWN);
    lab.pass(60_000);
    assert_eq!(lab.stage(), ScreenStage::Menu);
    assert!(!lab.shows("automatically"));
    lab.stroke(Key::UP);
    lab.pass(40);
    lab.type_text("e single");
    assert!(lab.shows("quiet  single"));
    lab.stroke(Key::F10);
    assert_eq!(lab.stage(), ScreenStage::Kernel);
    assert!(lab.shows("Command line: single"));
}

#[test]
fn the_last_entry_and_control_alt_delete_restart() {
    let mut lab = Lab::started();
    lab.pass(1_000);
    for key in [Key::DOWN, Key::DOWN, Key::ENTER] {
        lab.stroke(key);
        lab.pass(50);
    }
    assert_eq!(lab.stage(), ScreenStage::Firmware);
    lab.pass(1_000);
    lab.with(&[Key::CONTROL, Key::ALT], Key::DELETE);
    assert_eq!(lab.stage(), ScreenStage::Firmware);
}

#[test]
fn only_the_right_password_logs_in() {
    let mut lab = Lab::at(ScreenStage::Login);
    lab.type_text("Otter");
    lab.stroke(Key::ENTER);
    assert!(lab.shows("Wrong password"));
    let empty = lab.picture();
    lab.type_text(PASSWORD);
    assert_ne!(lab.picture(), empty, "dots");
    assert!(!lab.shows(PASSWORD));
    lab.click(400, 350);
    assert_eq!((lab.stage(), lab.size()), (ScreenStage::Desktop, (1280, 1024)));
    assert!(lab.shows("Applications") && lab.shows("user"));
}

#[test]
fn a_terminal_echoes_runs_commands_and_closes() {
    let mut lab = Lab::at(ScreenStage::Desktop);
    assert!(!lab.shows("Terminal"));
    lab.with(&[Key::CONTROL, Key::ALT], Key::letter(b't'));
    assert_eq!(lab.stage(), ScreenStage::Terminal);
    lab.type_text("echo Hello-otter_42");
    assert!(lab.shows("[user@dom0 ~]$ echo Hello-otter_42"));
    lab.stroke(Key::ENTER);
    assert!(lab.picture().lines().iter().any(|line| line == "Hello-otter_42"));
    lab.type_text("seq 40");
    lab.stroke(Key::ENTER);
    assert!(!lab.shows("Hello-otter_42"));
    for _ in 0..20 {
        for buttons in [8, 0] {
            lab.guest.point(lab.now.elapsed, (300, 300), buttons);
        }
    }
    assert!(lab.shows("Hello-otter_42"), "the wheel scrolls back");
    lab.type_text("xrandr -s 1024x768");
    lab.stroke(Key::ENTER);
    assert_eq!(lab.size(), (1024, 768));
    lab.type_text("exit");
    lab.stroke(Key::ENTER);
    assert_eq!(lab.stage(), ScreenStage::Desktop);
}

#[test]
fn the_pointer_opens_menus_drags_windows_and_draws_itself() {
    let mut lab = Lab::at(ScreenStage::Desktop);
    let without = lab.picture();
    lab.guest.point(lab.now.elapsed, (700, 700), 0);
    assert_ne!(lab.picture(), without);
    lab.click(50, 10);
    assert!(lab.shows("Log Out"));
    lab.click(50, 40);
    assert_eq!(lab.stage(), ScreenStage::Terminal);
    let text = "Terminal - user@dom0:~";
    assert!(lab.picture().lines()[1].starts_with(text), "{:?}", lab.picture().lines());
    for ((x, y), buttons) in [((100, 60), 1), ((300, 350), 1), ((300, 350), 0), ((9, 9), 0)] {
        lab.guest.point(lab.now.elapsed, (x, y), buttons);
    }
    let before = lab.picture();
    lab.click(1170, 350);
    assert_eq!(lab.stage(), ScreenStage::Desktop, "{:?}", before.lines());
    lab.click(60, 940);
    lab.pass(100);
    lab.click(62, 941);
    assert_eq!(lab.stage(), ScreenStage::Terminal, "two clicks on the icon");
}

#[test]
fn the_screen_blanks_and_any_input_wakes_it() {
    let mut lab = Lab::at(ScreenStage::Terminal);
    lab.pass(599_000);
    assert_eq!(lab.stage(), ScreenStage::Terminal);
    lab.pass(1_000);
    assert_eq!((lab.stage(), lab.size()), (ScreenStage::Blank, (1280, 1024)));
    assert_eq!(lab.picture(), Picture::new((1280, 1024), Colour::BLACK));
    assert_eq!(lab.guest.next_change(lab.now), None);
    lab.stroke(Key::SHIFT);
    assert_eq!(lab.stage(), ScreenStage::Terminal);
}

#[test]
fn a_held_key_repeats_until_it_is_released() {
    let mut lab = Lab::at(ScreenStage::Terminal);
    lab.guest.key(lab.now.elapsed, Key::letter(b'a'), true);
    lab.pass(499);
    assert!(!lab.shows("aa"));
    lab.pass(70);
    assert!(lab.shows("$ aaaa") && !lab.shows("aaaaa"));
    lab.guest.key(lab.now.elapsed, Key::letter(b'a'), false);
    lab.pass(5_000);
    assert!(!lab.shows("aaaaa"));
    assert_eq!(lab.guest.held_keys(), []);
}

#[test]
fn a_saved_screen_goes_on_where_it_was() {
    let mut lab = Lab::at(ScreenStage::Terminal);
    lab.type_text("before");
    let mut saved = lab.guest.clone();
    saved.freeze(lab.now.elapsed);
    lab.type_text(" after");
    lab.pass(3_600_000);
    assert!(lab.guest.is_blank(lab.guest.time.age(lab.now.elapsed)));
    lab.guest.restore(&saved);
    lab.stroke(Key::letter(b'x'));
    assert!(lab.shows("$ before") && !lab.shows("after"), "a saved guest takes no input");
    lab.guest.thaw(lab.now.elapsed);
    lab.stroke(Key::letter(b'x'));
    assert!(lab.shows("$ beforex"));
    lab.guest.power_off();
    assert_eq!(lab.guest.picture(lab.now, "qubes"), None);
    assert_eq!(lab.guest.next_change(lab.now), None);
}

#[test]
fn a_german_guest_types_by_its_own_layout() {
    let mut lab = Lab::off(Layout::De);
    lab.guest.power_on(lab.now.elapsed, 0.0);
    assert_eq!(lab.stage(), ScreenStage::Login, "at scale 0 the start takes no time");
    lab.guest.show(ScreenStage::Terminal, lab.now.elapsed);
    lab.type_text("yz-[");
    assert!(lab.shows("$ zyßü"));
}

/// The text that the guest has written to `ttyS0` since the last call.
fn written(lab: &mut Lab) -> String {
    String::from_utf8(lab.guest.serial_output(lab.now.elapsed, 0).0).unwrap()
}

/// What the guest answers if somebody sends this to `ttyS0`.
fn answer(lab: &mut Lab, text: &str) -> String {
    String::from_utf8(lab.guest.serial_input(lab.now.elapsed, 0, text.as_bytes())).unwrap()
}

#[test]
fn a_serial_port_writes_the_whole_start_from_its_first_byte() {
    let mut lab = Lab::started();
    let mut text = written(&mut lab);
    assert!(text.starts_with("\r\nPhoenixBIOS 4.0"), "{text}");
    assert_eq!(answer(&mut lab, "user\r"), "", "the guest does not read yet");
    // Each step is the one that the guest announces.
    let mut steps = 0;
    loop {
        let (more, next) = lab.guest.serial_output(lab.now.elapsed, 0);
        text += &String::from_utf8(more).unwrap();
        let Some(next) = next else { break };
        assert!(next > lab.now.elapsed, "step {steps}");
        lab.now.elapsed = next;
        steps += 1;
    }
    assert_eq!(steps, 8, "{text}");
    assert_eq!(lab.stage(), ScreenStage::Login);
    for part in ["GNU GRUB", "Run /init as init process", "(ttyS0)"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.ends_with("dom0 login: "), "{text}");
    assert_eq!(written(&mut lab), "");

    // A port that was not looked at has everything to write, also after the start.
    let (late, _) = lab.guest.serial_output(lab.now.elapsed, 1);
    assert_eq!(String::from_utf8(late).unwrap(), text.replace("ttyS0", "ttyS1"));
    lab.guest.restart(lab.now.elapsed);
    assert!(written(&mut lab).starts_with("\r\nPhoenixBIOS"));
}

#[test]
fn a_serial_port_has_a_login_and_a_shell_with_an_echo() {
    let mut lab = Lab::at(ScreenStage::Login);
    written(&mut lab);
    assert_eq!(answer(&mut lab, "\r"), "\r\ndom0 login: ");
    assert_eq!(answer(&mut lab, "usr\x7fer\r"), "usr\x08 \x08er\r\nPassword: ");
    let wrong = answer(&mut lab, "Otter\n");
    assert_eq!(wrong, "\r\n\r\nLogin incorrect\r\ndom0 login: ", "no echo of a password");
    answer(&mut lab, "user\r");
    assert_eq!(answer(&mut lab, "otter\r\n"), "\r\n[user@dom0 ~]$ ");
    assert_eq!(
        answer(&mut lab, "qvm-run --pass-io sd-app hostname\r"),
        "qvm-run --pass-io sd-app hostname\r\nsd-app\r\n[user@dom0 ~]$ "
    );
    assert_eq!(answer(&mut lab, "echo ä\x08\x08\x1b[A-\x15"), {
        let erased = "\x08 \x08";
        format!("echo ä{}-{}", erased.repeat(2), erased.repeat(5))
    });
    assert_eq!(answer(&mut lab, "x\x03"), "x^C\r\n[user@dom0 ~]$ ");
    assert!(answer(&mut lab, "\x04").ends_with("(ttyS0)\r\n\r\ndom0 login: "));
}

#[test]
fn a_command_on_a_serial_port_opens_the_terminal_on_the_desktop() {
    let mut lab = Lab::at(ScreenStage::Login);
    written(&mut lab);
    answer(&mut lab, "user\rotter\r");
    let refused = answer(&mut lab, "xfce4-terminal\r");
    assert!(refused.contains("cannot open display"), "{refused}");
    lab.guest.show(ScreenStage::Desktop, lab.now.elapsed);
    assert_eq!(written(&mut lab), "", "the desktop is no new start");
    assert_eq!(
        answer(&mut lab, "DISPLAY=:0 xfce4-terminal &\r"),
        "DISPLAY=:0 xfce4-terminal &\r\n[user@dom0 ~]$ "
    );
    assert!(lab.shows("Terminal"));
    answer(&mut lab, "xrandr -s 1024x768\r");
    assert_eq!(lab.size(), (1024, 768));
    let restart = answer(&mut lab, "sudo reboot\rlost");
    assert!(restart.contains("Restarting system\r\n\r\nPhoenixBIOS"), "{restart}");
    assert!(!restart.contains("lost"), "{restart}");
    assert_eq!(lab.stage(), ScreenStage::Firmware);
}

#[test]
fn a_saved_guest_keeps_the_session_of_its_serial_port() {
    let mut lab = Lab::at(ScreenStage::Desktop);
    written(&mut lab);
    answer(&mut lab, "user\rotter\recho one; ");
    let mut saved = lab.guest.clone();
    saved.freeze(lab.now.elapsed);
    lab.guest.power_off();
    assert_eq!(answer(&mut lab, "\r"), "", "the machine is off");
    lab.guest.power_on(lab.now.elapsed, 1.0);
    assert!(written(&mut lab).starts_with("\r\nPhoenixBIOS"));
    lab.guest.restore(&saved);
    lab.guest.thaw(lab.now.elapsed);
    assert_eq!(written(&mut lab), "");
    assert_eq!(answer(&mut lab, "two\r"), "two\r\none; two\r\n[user@dom0 ~]$ ");
}
