//! `otter screen`: the picture or the text of a machine's screen, and waits for a text on it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::print;
use super::run::positive_duration;
use super::server::{CallArguments, OtterCalls};
use crate::domain::duration;
use crate::domain::screen::Region;
use crate::domain::terminal::{printable, printable_lines};

/// The longest time for an answer that waits for nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Debug, Args)]
pub struct ScreenCommand {
    /// The machine: an id, name:<exact>, uuid:<…> or mac:<…>.
    #[arg(value_name = "MACHINE")]
    machine: String,
    /// Write the picture as PNG to this file; `-` is the standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the text of the screen, as it is recognized.
    #[arg(long)]
    text: bool,
    /// First wait until the screen shows this text. Upper and lower case, white space and the usual
    /// mistakes of text recognition do not matter.
    #[arg(long, value_name = "TEXT")]
    wait_text: Option<String>,
    /// The longest wait for the text; at most `http.max_wait` of otter, 10 minutes by default.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = positive_duration)]
    timeout: Duration,
    /// Only this part of the screen, in pixels: for the picture, the text and the wait.
    #[arg(long, value_name = "X,Y,WIDTH,HEIGHT", value_parser = region)]
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

/// Runs `otter screen`.
///
/// # Errors
/// The request is wrong, the text did not appear in time, or otter cannot be reached.
pub async fn screen(command: ScreenCommand) -> anyhow::Result<ExitCode> {
    let otter = command.call.connect().await?;
    if let Some(text) = &command.wait_text {
        wait_for(&otter, &command, text).await?;
    }
    if let Some(file) = &command.output {
        let png = picture(&otter, &command).await?;
        if file.as_os_str() == "-" {
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
    Ok(ExitCode::SUCCESS)
}

async fn wait_for(otter: &OtterCalls, command: &ScreenCommand, text: &str) -> anyhow::Result<()> {
    let mut condition = json!({ "text": text });
    if let Some(region) = command.region {
        condition["region"] = json!(region.to_string());
    }
    let path = format!("/screen/wait?wait={}", duration::format(command.timeout));
    let wait =
        otter.request(Method::POST, &command.machine, &path).json(&json!({ "any": [condition] }));
    OtterCalls::call(wait, command.timeout + ANSWER_TIMEOUT).await.map(drop)
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
        _ => "not seen yet".to_owned(),
    };
    let changed = changed_at.as_ref().map(|at| format!("changed     {at}\n")).unwrap_or_default();
    let reason = unavailable_reason.as_ref().map(|reason| format!("unavailable {reason}\n"));
    let text = format!("size        {size}\n{changed}connection  {connection}\n");
    printable_lines(&(text + &reason.unwrap_or_default())).into_owned()
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
            "size        not seen yet\nconnection  closed\nunavailable qubes is off.\n"
        );
    }
}
