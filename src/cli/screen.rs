//! `otter screen`: the picture or the text of a machine's screen, and waits for a text on it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::print;
use super::run::{Exit, positive_duration};
use super::server::{CallArguments, OtterCalls};
use crate::domain::duration;
use crate::domain::screen::Region;
use crate::domain::terminal::{printable, printable_lines};

/// The longest time for an answer that waits for nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// The code of the problem that says that the text did not appear in time.
const NOT_IN_TIME: &str = "wait-timeout";

#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("shown").multiple(true).args(["output", "text", "wait_text"])),
    after_help = "Exit status: 0 if all went well, 75 if the screen did not show the text of \
        --wait-text in time, 1 if otter refuses or cannot be reached, 2 if the command line is \
        wrong."
)]
pub struct ScreenCommand {
    /// The machine: an id, name:<exact>, uuid:<…> or mac:<…>.
    #[arg(value_name = "MACHINE")]
    machine: String,
    /// Write the picture as PNG to this file, also if the text of --wait-text did not appear; `-`
    /// is the standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the text of the screen, as it is recognized.
    #[arg(long)]
    text: bool,
    /// First wait until the screen shows this text. Upper and lower case, white space and the usual
    /// mistakes of text recognition do not matter. If it does not appear, the error shows the text
    /// that the screen showed last.
    #[arg(long, value_name = "TEXT")]
    wait_text: Option<String>,
    /// The longest wait for the text; at most `http.max_wait` of otter, 10 minutes by default.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5m",
        value_parser = positive_duration,
        requires = "wait_text"
    )]
    timeout: Duration,
    /// Only this part of the screen, in pixels: for the picture, the text and the wait.
    #[arg(long, value_name = "X,Y,WIDTH,HEIGHT", value_parser = region, requires = "shown")]
    region: Option<Region>,
    #[command(flatten)]
    call: CallArguments,
}

/// `GET …/screen`, with the fields that are printed.
#[derive(Deserialize)]
struct State {
    unavailable_reason: Option<String>,
    width: Option<u16>,
    height: Option<u16>,
    changed_at: Option<String>,
    connection: String,
}

/// `GET …/screen/text`, with the fields that are printed.
#[derive(Deserialize)]
struct Text {
    text: String,
}

/// The problem of a wait that timed out, with the fields that are printed.
#[derive(Deserialize)]
struct NotShown {
    detail: String,
    seen: Option<String>,
}

/// Runs `otter screen`. Prints why, if the text did not appear in time.
///
/// # Errors
/// The request is wrong, or otter cannot be reached.
pub async fn screen(command: ScreenCommand) -> anyhow::Result<ExitCode> {
    let to_standard_output = command.output.as_ref().is_some_and(|file| file.as_os_str() == "-");
    if to_standard_output && command.text {
        bail!("--text and --output - both write to the standard output: name a file for --output");
    }
    let otter = command.call.connect().await?;
    let not_shown = match &command.wait_text {
        Some(text) => wait_for(&otter, &command, text).await?,
        None => None,
    };
    if let Some(problem) = &not_shown {
        eprintln!("otter: {}", printable_lines(&not_shown_text(problem)));
    }
    if let Some(file) = &command.output {
        let png = picture(&otter, &command).await?;
        if to_standard_output {
            let mut out = std::io::stdout().lock();
            out.write_all(&png)
                .and_then(|()| out.flush())
                .context("the picture was not written")?;
        } else {
            let written = tokio::fs::write(file, &png).await;
            written.with_context(|| format!("{} was not written", file.display()))?;
        }
    }
    if command.text {
        let read = otter.request(
            Method::GET,
            &command.machine,
            &with_region("/screen/text", command.region),
        );
        let Text { text } = OtterCalls::call(read, ANSWER_TIMEOUT).await?.read()?;
        print(&shown(&text, std::io::stdout().is_terminal()));
    }
    if command.output.is_none() && !command.text && command.wait_text.is_none() {
        let read = otter.request(Method::GET, &command.machine, "/screen");
        let state: State = OtterCalls::call(read, ANSWER_TIMEOUT).await?.read()?;
        print(&describe(&state));
    }
    Ok(not_shown.map_or(ExitCode::SUCCESS, |_| ExitCode::from(Exit::Temporary.code())))
}

/// Waits for the text. Returns the problem if the screen did not show it in time.
async fn wait_for(
    otter: &OtterCalls,
    command: &ScreenCommand,
    text: &str,
) -> anyhow::Result<Option<NotShown>> {
    let mut condition = json!({ "text": text });
    if let Some(region) = command.region {
        condition["region"] = json!(region.to_string());
    }
    let path = format!("/screen/wait?wait={}", duration::format(command.timeout));
    let wait =
        otter.request(Method::POST, &command.machine, &path).json(&json!({ "any": [condition] }));
    let answer = OtterCalls::answer(wait, command.timeout + ANSWER_TIMEOUT).await?;
    if answer.status.is_success() {
        return Ok(None);
    }
    if answer.code() != NOT_IN_TIME {
        bail!(answer.failure());
    }
    Ok(Some(answer.read()?))
}

/// What the error says about a text that did not appear.
fn not_shown_text(NotShown { detail, seen }: &NotShown) -> String {
    let seen = seen.as_deref().unwrap_or_default().trim_end_matches('\n');
    let end = if seen.is_empty() { String::new() } else { format!(" It showed:\n{seen}") };
    format!("{NOT_IN_TIME}: {detail}{end}")
}

async fn picture(otter: &OtterCalls, command: &ScreenCommand) -> anyhow::Result<Vec<u8>> {
    let read =
        otter.request(Method::GET, &command.machine, &with_region("/screen.png", command.region));
    Ok(OtterCalls::call(read, ANSWER_TIMEOUT).await?.bytes().to_vec())
}

fn with_region(path: &str, region: Option<Region>) -> String {
    region.map_or_else(|| path.to_owned(), |region| format!("{path}?region={region}"))
}

/// The text of a screen as it is printed. On a terminal, characters that control it are escaped,
/// because the guest decides what its screen shows.
fn shown(text: &str, terminal: bool) -> String {
    let text = text.trim_end_matches('\n');
    let text = if terminal { printable_lines(text).into_owned() } else { text.to_owned() };
    format!("{text}\n")
}

fn describe(state: &State) -> String {
    let State { unavailable_reason, width, height, changed_at, connection } = state;
    let size = match (width, height) {
        (Some(width), Some(height)) => format!("{width}×{height}"),
        _ => "not known yet".to_owned(),
    };
    let line = |name: &str, text: &str| format!("{name:<12} {text}\n");
    let size = line("size", &size);
    let changed = changed_at.as_ref().map(|at| line("changed", at)).unwrap_or_default();
    let connection = line("connection", connection);
    let reason = unavailable_reason.as_ref().map(|reason| line("unavailable", reason));
    let reason = reason.unwrap_or_default();
    printable_lines(&format!("{size}{changed}{connection}{reason}")).into_owned()
}

fn region(text: &str) -> Result<Region, String> {
    text.parse().map_err(|error| printable(&format!("{error}")).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_guest_cannot_control_a_terminal() {
        assert_eq!(shown("a\u{1b}[2J\nb\n", true), "a\\u{1b}[2J\nb\n");
        assert_eq!(shown("a\u{1b}[2J\nb", false), "a\u{1b}[2J\nb\n");
    }

    #[test]
    fn the_state_of_a_screen_is_a_few_lines() {
        let state = State {
            unavailable_reason: Some("qubes is off.".to_owned()),
            width: None,
            height: None,
            changed_at: None,
            connection: "closed".to_owned(),
        };
        assert_eq!(
            describe(&state),
            "size         not known yet\nconnection   closed\nunavailable  qubes is off.\n"
        );
    }

    #[test]
    fn a_text_that_did_not_appear_is_reported_with_what_the_screen_showed() {
        let problem = |seen: Option<&str>| NotShown {
            detail: "The screen of qubes did not show it.".to_owned(),
            seen: seen.map(str::to_owned),
        };
        let text = not_shown_text(&problem(Some("Qubes OS\nLog In\n")));
        assert_eq!(
            text,
            "wait-timeout: The screen of qubes did not show it. It showed:\nQubes OS\nLog In"
        );
        for nothing in [None, Some("")] {
            let text = not_shown_text(&problem(nothing));
            assert_eq!(text, "wait-timeout: The screen of qubes did not show it.");
        }
    }

    #[test]
    fn options_without_an_effect_are_refused() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            screen: ScreenCommand,
        }
        let read = |words: &str| {
            let words = ["screen"].into_iter().chain(words.split_whitespace());
            <Line as clap::Parser>::try_parse_from(words).map(|line| line.screen)
        };
        for wrong in ["16 --region 0,0,1,1", "16 --timeout 1s", "16 --text --timeout 1s", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let all = "16 --wait-text a --timeout 1s --region 0,0,1,1 --text --output a.png";
        for right in ["16", "16 --text --region 0,0,1,1", "16 -o - --region 0,0,1,1", all] {
            assert!(read(right).is_ok(), "{right}");
        }
    }
}
