//! The shell of dom0, in the terminal on the screen and on serial ports: a line goes in, and what
//! it prints or does comes out.

/// The text before each line.
pub const PROMPT: &str = "[user@dom0 ~]$ ";
/// The name of the guest.
const HOST: &str = "dom0";
/// The maximum number of lines that `seq` prints.
const MAX_LINES: usize = 10_000;
/// The qubes that `qvm-run` knows.
const QUBES: [&str; 12] = [
    "personal",
    "work",
    "untrusted",
    "vault",
    "sys-net",
    "sys-firewall",
    "sys-usb",
    "sys-whonix",
    "sd-app",
    "sd-proxy",
    "sd-log",
    "sd-viewer",
];

/// What a line does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShellOutcome {
    /// The lines that it prints.
    Printed(Vec<String>),
    Clear,
    /// The shell ends.
    Exit,
    /// Sets the size of the desktop.
    Resize(u16, u16),
    /// Opens the terminal on the desktop.
    OpenTerminal,
    /// Restarts the guest.
    Restart,
}

/// Runs a line.
#[must_use]
pub fn run(line: &str) -> ShellOutcome {
    let words: Vec<String> =
        line.split_whitespace().map(|word| word.replace(['"', '\''], "")).collect();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    // A command in the background does the same here.
    if let Some(last) = words.pop() {
        let last = last.trim_end_matches('&');
        words.extend((!last.is_empty()).then_some(last));
    }
    let command = words.iter().position(|word| !is_assignment(word)).unwrap_or(words.len());
    run_words(HOST, words.get(command..).unwrap_or_default())
}

/// Runs the words of a command on a host: dom0 or a qube.
fn run_words(host: &str, words: &[&str]) -> ShellOutcome {
    let print = |text: String| ShellOutcome::Printed(vec![text]);
    match words {
        [] => ShellOutcome::Printed(Vec::new()),
        ["sudo", rest @ ..] => run_words(host, rest),
        ["echo", rest @ ..] => print(rest.join(" ")),
        ["clear"] => ShellOutcome::Clear,
        ["exit" | "logout"] => ShellOutcome::Exit,
        ["hostname"] => print(host.to_owned()),
        ["whoami"] => print("user".to_owned()),
        ["seq", last] => {
            let last = last.parse::<usize>().unwrap_or(0).min(MAX_LINES);
            ShellOutcome::Printed((1..=last).map(|number| number.to_string()).collect())
        }
        ["xrandr", "-s", size] => match screen_size(size) {
            Some((width, height)) => ShellOutcome::Resize(width, height),
            None => print(format!("xrandr: size {size} not found")),
        },
        ["xfce4-terminal", ..] if host == HOST => ShellOutcome::OpenTerminal,
        ["reboot"] if host == HOST => ShellOutcome::Restart,
        ["qvm-run", rest @ ..] if host == HOST => ShellOutcome::Printed(run_in_qube(rest)),
        [unknown, ..] => print(format!("bash: {unknown}: command not found")),
    }
}

/// `qvm-run`: runs a command in a qube. With `--pass-io` the output of the command is printed.
fn run_in_qube(words: &[&str]) -> Vec<String> {
    let options = words.iter().take_while(|word| word.starts_with('-')).count();
    let (options, rest) = words.split_at(options);
    let [qube, command @ ..] = rest else {
        return vec!["qvm-run: error: the following arguments are required: VMNAME".to_owned()];
    };
    if !QUBES.contains(qube) {
        return vec![format!("qvm-run: error: no such domain: '{qube}'")];
    }
    if command.is_empty() {
        return vec!["qvm-run: error: no command given".to_owned()];
    }
    if !options.iter().any(|option| matches!(*option, "--pass-io" | "-p")) {
        return vec![format!("Running '{}' on {qube}", command.join(" "))];
    }
    match run_words(qube, command) {
        ShellOutcome::Printed(lines) => lines,
        _ => Vec::new(),
    }
}

/// Whether a word sets a variable of the environment, such as `DISPLAY=:0`.
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    })
}

/// A size such as `1024x768`. `None` if no screen has it.
fn screen_size(text: &str) -> Option<(u16, u16)> {
    let (width, height) = text.split_once('x')?;
    let (width, height) = (width.parse().ok()?, height.parse().ok()?);
    ((640..=4_096).contains(&width) && (480..=4_096).contains(&height)).then_some((width, height))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(line: &str) -> Vec<String> {
        match run(line) {
            ShellOutcome::Printed(lines) => lines,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_command_in_a_qube_prints_what_it_prints_there() {
        assert_eq!(printed("hostname"), ["dom0"]);
        assert_eq!(printed("qvm-run --pass-io sd-app hostname"), ["sd-app"]);
        assert_eq!(printed("qvm-run -p --no-gui work 'echo a b'"), ["a b"]);
        assert_eq!(printed("qvm-run --pass-io vault reboot"), ["bash: reboot: command not found"]);
        assert_eq!(printed("qvm-run vault xterm"), ["Running 'xterm' on vault"]);
        assert_eq!(
            printed("qvm-run --pass-io nowhere id"),
            ["qvm-run: error: no such domain: 'nowhere'"]
        );
        assert!(printed("qvm-run --pass-io")[0].contains("VMNAME"));
        assert!(printed("qvm-run -p work")[0].contains("no command"));
    }

    #[test]
    fn a_line_can_set_variables_and_run_in_the_background() {
        for line in ["xfce4-terminal", "DISPLAY=:0 xfce4-terminal &", "A=1 B= xfce4-terminal&"] {
            assert_eq!(run(line), ShellOutcome::OpenTerminal, "{line}");
        }
        assert_eq!(run("sudo reboot"), ShellOutcome::Restart);
        for empty in ["", "   ", "A=1", "&"] {
            assert_eq!(printed(empty), [""; 0], "{empty:?}");
        }
        assert_eq!(printed("a=b=c echo =x"), ["=x"]);
        assert_eq!(printed("seq 3"), ["1", "2", "3"]);
        assert_eq!(run("xrandr -s 800x600"), ShellOutcome::Resize(800, 600));
        assert_eq!(printed("xrandr -s 8x6"), ["xrandr: size 8x6 not found"]);
    }
}
