//! A Markdown page whose code blocks are run as tests.
//!
//! ```text
//!  ```console  lines after `$ ` run in one shell for the whole page, and each must exit with 0;
//!              the lines below are the expected output; `# ` starts a remark
//!  ```bash     a script, which must exit with 0
//!  ```sh and ```python with /v1/events: an event reader, which runs until it is stopped
//! ```
//! Every character of the output is compared, except UUIDs, times (RFC 3339) and stream versions.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::{repository, succeeds_within};

/// The longest time for a whole page.
const TIMEOUT: Duration = Duration::from_mins(3);

/// Starts the line that the shell prints after each command. The exit code follows.
const MARK: char = '\u{1e}';

/// A Markdown page of this repository.
pub struct Page {
    text: String,
}

/// A command or a script of the page, and its expected output. `None` means any output.
struct PageCommand {
    command: String,
    expected: Option<String>,
}

impl Page {
    pub fn read(name: &str) -> Self {
        Self { text: std::fs::read_to_string(repository().join(name)).unwrap() }
    }

    /// All code blocks: the word after the fence, and the text.
    fn blocks(&self) -> impl Iterator<Item = (&str, &str)> {
        let fenced = self.text.split("\n```").skip(1).step_by(2);
        fenced.map(|block| block.split_once('\n').unwrap())
    }

    /// The only `bash` block of the page.
    pub fn script(&self) -> &str {
        let mut scripts = self.blocks().filter(|(fence, _)| *fence == "bash");
        let (_, script) = scripts.next().expect("a script");
        assert!(scripts.next().is_none(), "one script");
        script
    }

    /// The only event reader in this language.
    pub fn reader(&self, language: &str) -> &str {
        let mut readers =
            self.blocks().filter(|(fence, text)| *fence == language && is_reader(text));
        let (_, reader) = readers.next().expect("a reader");
        assert!(readers.next().is_none(), "one reader for each language");
        reader
    }

    /// The remarks in the `console` blocks.
    pub fn remarks(&self) -> Vec<&str> {
        let consoles = self.blocks().filter(|(fence, _)| *fence == "console");
        consoles
            .flat_map(|(_, text)| text.lines().filter_map(|line| line.strip_prefix("# ")))
            .collect()
    }

    /// Asserts that each curl command with an address is in a block that a test runs.
    pub fn assert_every_curl_is_run(&self) {
        let run =
            |(fence, text): &(&str, &str)| matches!(*fence, "console" | "bash") || is_reader(text);
        let all = curls(&self.text);
        let ran: usize = self.blocks().filter(run).map(|(_, text)| curls(text)).sum();
        assert!(all > 0 && all == ran, "{all} curl lines, of which {ran} are run");
    }

    /// Runs the page, with these addresses instead of its own. Panics if an exit code or an output
    /// differs.
    pub async fn run(&self, addresses: &[(&str, &str)]) {
        let with_real_addresses = |text: &str| {
            addresses.iter().fold(text.to_owned(), |text, (shown, real)| text.replace(shown, real))
        };
        let commands = self.commands();
        let script: Vec<String> = commands
            .iter()
            .map(|command| {
                format!("{}\nprintf '\\n{MARK}%s\\n' $?", with_real_addresses(&command.command))
            })
            .collect();
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(format!("exec 2>&1\n{}", script.join("\n"))).stdin(Stdio::null());
        isolate(&mut shell);
        // `otter` in a command runs this build. The files of the page go to a temporary directory.
        let files = tempfile::tempdir().unwrap();
        let otter = Path::new(env!("CARGO_BIN_EXE_otter")).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path =
            std::env::join_paths([otter].into_iter().chain(std::env::split_paths(&path))).unwrap();
        shell.env("PATH", path).current_dir(files.path());
        let output = String::from_utf8(succeeds_within(shell, TIMEOUT).await.stdout).unwrap();
        let mut output = output.split(MARK);
        let mut printed = output.next().unwrap_or_default().to_owned();
        let mut wrong = Vec::new();
        for command in &commands {
            let Some((exit, next)) = output.next().and_then(|rest| rest.split_once('\n')) else {
                panic!("the shell ended within {}", command.command);
            };
            let fits = command.expected.as_ref().is_none_or(|expected| {
                without_variable_parts(&with_real_addresses(expected))
                    == without_variable_parts(&printed)
            });
            if exit != "0" || !fits {
                wrong.push(format!("$ {}\n{}\nexit {exit}", command.command, printed.trim_end()));
            }
            next.clone_into(&mut printed);
        }
        assert!(wrong.is_empty(), "differences from the page:\n{}", wrong.join("\n"));
    }

    fn commands(&self) -> Vec<PageCommand> {
        let mut commands: Vec<PageCommand> = Vec::new();
        for (fence, text) in self.blocks() {
            match fence {
                "console" => commands.extend(commands_of_console(text)),
                "bash" => {
                    let command = format!("bash <<'SCRIPT'\n{text}\nSCRIPT");
                    commands.push(PageCommand { command, expected: None });
                }
                _ => {}
            }
        }
        commands
    }
}

/// Removes the developer's configuration of curl and otter from the environment of a command.
pub fn isolate(command: &mut Command) {
    command.env("CURL_HOME", "/nonexistent").env("HOME", "/nonexistent").env("no_proxy", "*");
    // Removes the variables that name the tools of the tests, because otter would warn that it does
    // not read them.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTTER_") {
            command.env_remove(&name);
        }
    }
}

fn commands_of_console(text: &str) -> Vec<PageCommand> {
    let mut commands: Vec<PageCommand> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        if let Some(command) = line.strip_prefix("$ ") {
            commands
                .push(PageCommand { command: command.to_owned(), expected: Some(String::new()) });
        } else if let Some(expected) =
            commands.last_mut().and_then(|command| command.expected.as_mut())
        {
            expected.push_str(line);
            expected.push('\n');
        } else {
            assert!(line.is_empty(), "{line} stands before any command");
        }
    }
    commands
}

fn is_reader(text: &str) -> bool {
    text.contains("/v1/events")
}

/// The number of lines with a curl command that a reader could copy.
fn curls(text: &str) -> usize {
    let addresses = ["127.0.0.1:8", "$OTTER/", "$otter/"];
    text.lines()
        .filter(|line| line.contains("curl ") || line.trim_start().starts_with("-H "))
        .filter(|line| addresses.iter().any(|address| line.contains(address)))
        .count()
}

/// Replaces the parts of a text that differ each time by placeholders.
fn without_variable_parts(text: &str) -> String {
    let is_of_word = |letter: char| letter.is_ascii_alphanumeric() || "-:.".contains(letter);
    let mut out = String::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|letter| !is_of_word(letter)).unwrap_or(rest.len());
        // A full stop after a word belongs to the sentence, not to the word.
        let end = if end > 1 && rest[..end].ends_with('.') { end - 1 } else { end };
        let (word, after) = rest.split_at(end);
        out.push_str(placeholder(word).unwrap_or(word));
        let is_of_next = |letter: char| letter != '.' && is_of_word(letter);
        let between = after.find(is_of_next).unwrap_or(after.len());
        out.push_str(&after[..between]);
        rest = &after[between..];
    }
    out
}

fn placeholder(word: &str) -> Option<&'static str> {
    let is_version = |(epoch, sequence): (&str, &str)| {
        epoch.len() == 12
            && epoch.bytes().all(|digit| digit.is_ascii_hexdigit())
            && !sequence.is_empty()
            && sequence.bytes().all(|digit| digit.is_ascii_digit())
    };
    if word.len() == 36 && Uuid::parse_str(word).is_ok() {
        Some("<uuid>")
    } else if word.parse::<jiff::Timestamp>().is_ok() {
        Some("<time>")
    } else {
        word.split_once('-').is_some_and(is_version).then_some("<version>")
    }
}

#[test]
fn only_uuids_times_and_versions_may_differ() {
    let text = |job: &str, at: &str, version: &str| {
        let job = format!("/v1/jobs/{job}/wait");
        json!({"job": job, "at": at, "version": version, "n": 1}).to_string()
    };
    let job = "01a21092-54b4-731f-ad9a-d9c3488c9809";
    let one = &text(job, "2026-11-25T02:39:15.5Z", "8107bea6f58e-37");
    let job = "01a21093-54b4-731f-ad9a-d9c3488c9801";
    let other = &text(job, "2027-01-01T00:00:00Z", "8107bea6f58f-1");
    assert_eq!(without_variable_parts(one), without_variable_parts(other));
    assert_ne!(
        without_variable_parts(one),
        without_variable_parts(&other.replace("\"n\":1", "\"n\":2"))
    );
    assert_eq!(without_variable_parts("made at 2026-11-25T02:39:15.5Z."), "made at <time>.");
    assert_ne!(
        without_variable_parts(one),
        without_variable_parts(&other.replace("2027-01-01T00:00:00Z", "now"))
    );
    for plain in
        ["16-snapshot-3", "5f2c7a10-0c8e1b2a-7d31-0050569c0001", "00:50:56:3f:00:31", "504", "a  b"]
    {
        assert_eq!(without_variable_parts(plain), plain);
    }
}
