//! `otter type`: types a text or presses keys on a machine, at most once.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use http::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::print;
use super::run::{NoAnswer, OtterClient};
use super::server::CallArguments;
use crate::clock::Clock;
use crate::domain::input::MAX_TEXT_BYTES;

/// The longest time for an answer. otter ends a call after `http.max_wait`.
const ANSWER_TIMEOUT: Duration = Duration::from_hours(2);

/// How often a call is repeated whose answer was lost, and the pause before each.
const REPEATS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("input").required(true).args(["text", "keys"])),
    override_usage = "otter type [OPTIONS] <MACHINE> <TEXT>\n       \
        otter type [OPTIONS] <MACHINE> --keys <KEYS>..."
)]
pub struct TypeCommand {
    /// The machine: an id, name:<exact>, uuid:<…> or mac:<…>.
    #[arg(value_name = "MACHINE")]
    machine: String,
    /// The text to type; `-` reads it from the standard input, so that no other user of this
    /// computer sees it. A line feed is Enter, also at the end of the standard input.
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Press these keys instead, one after the other, with spaces in between: `ctrl-alt-delete
    /// enter`. Keys with hyphens between them are pressed together. GUIDE.md lists the names.
    #[arg(long, value_name = "KEYS", num_args = 1..)]
    keys: Vec<String>,
    /// Press Enter at the end.
    #[arg(long, requires = "text")]
    enter: bool,
    /// The time between two keys: 5ms to 2s. The default is 40ms, and 100ms on a text screen.
    #[arg(long, value_name = "TIME")]
    interval: Option<String>,
    /// The keyboard layout of the guest, for TEXT: us (the default) or de.
    #[arg(long, value_name = "LAYOUT")]
    layout: Option<String>,
    /// The text is secret: no error of otter shows a part of it. What the guest shows of it is not
    /// masked.
    #[arg(long)]
    secret: bool,
    #[command(flatten)]
    call: CallArguments,
}

/// The answer of otter, with the fields that are printed.
#[derive(Deserialize)]
struct Typed {
    sent: Sent,
}

#[derive(Deserialize)]
struct Sent {
    characters: u32,
}

/// Runs `otter type`.
///
/// # Errors
/// The input was refused or interrupted, or otter cannot be reached.
pub async fn type_keys(command: TypeCommand) -> anyhow::Result<ExitCode> {
    let otter = command.call.connect().await?;
    let text = command.text.as_deref().map(read_text).transpose()?;
    let body = request(&command, text.as_ref());
    let clock = Clock::system();
    // A call whose answer was lost is repeated with its key, which types nothing twice.
    let key = clock.uuid().to_string();
    let mut repeats = 0;
    let answer = loop {
        let request = otter
            .request(Method::POST, &command.machine, "/screen/input")
            .header("idempotency-key", &key)
            .json(&body);
        match OtterClient::answer(request, ANSWER_TIMEOUT).await {
            Ok(answer) if answer.status.is_success() => break answer,
            Ok(answer) => bail!(answer.failure()),
            Err(NoAnswer { is_temporary: true, .. }) if repeats < REPEATS => {
                repeats += 1;
                clock.sleep(PAUSE).await;
            }
            Err(NoAnswer { reason, .. }) => bail!("otter gave no answer: {reason}"),
        }
    };
    let Typed { sent } = answer.read()?;
    print(&match sent.characters {
        0 => "The keys were pressed.\n".to_owned(),
        1 => "1 character was typed.\n".to_owned(),
        characters => format!("{characters} characters were typed.\n"),
    });
    Ok(ExitCode::SUCCESS)
}

/// The text of the argument, or of the standard input if it is `-`.
fn read_text(argument: &str) -> anyhow::Result<SecretString> {
    if argument != "-" {
        return Ok(SecretString::from(argument));
    }
    let mut text = String::new();
    // One byte more shows that the text is too long; otter says so.
    let limit = u64::try_from(MAX_TEXT_BYTES).unwrap_or(u64::MAX) + 1;
    let read = std::io::stdin().lock().take(limit).read_to_string(&mut text);
    read.context("the text cannot be read from the standard input")?;
    Ok(SecretString::from(text))
}

/// The body of the call.
fn request(command: &TypeCommand, text: Option<&SecretString>) -> Value {
    let TypeCommand { keys, enter, interval, layout, secret, .. } = command;
    let mut events = Vec::new();
    if let Some(text) = text {
        events.push(json!({ "text": text.expose_secret() }));
    }
    if !keys.is_empty() {
        events.push(json!({ "keys": keys }));
    }
    if *enter {
        events.push(json!({ "keys": ["enter"] }));
    }
    let mut body = json!({ "events": events });
    if let Some(interval) = interval {
        body["interval"] = json!(interval);
    }
    if let Some(layout) = layout {
        body["layout"] = json!(layout);
    }
    if *secret {
        body["secret"] = json!(true);
    }
    body
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        command: TypeCommand,
    }

    fn body(words: &[&str]) -> Option<Value> {
        let line = Line::try_parse_from(["type"].iter().chain(words)).ok()?;
        let text = line.command.text.as_deref().map(SecretString::from);
        Some(request(&line.command, text.as_ref()))
    }

    #[test]
    fn the_arguments_become_events() {
        assert_eq!(body(&["16", "user"]), Some(json!({"events": [{"text": "user"}]})));
        let all = ["16", "a b", "--enter", "--interval", "5ms", "--layout", "de", "--secret"];
        let expected = json!({
            "events": [{"text": "a b"}, {"keys": ["enter"]}],
            "interval": "5ms", "layout": "de", "secret": true,
        });
        assert_eq!(body(&all), Some(expected));
        let keys = ["16", "--keys", "ctrl-alt-delete", "enter"];
        let expected = json!({"events": [{"keys": ["ctrl-alt-delete", "enter"]}]});
        assert_eq!(body(&keys), Some(expected));
    }

    #[test]
    fn a_text_or_keys_are_required() {
        for wrong in [&["16"][..], &["16", "--enter"], &["16", "text", "--keys", "enter"]] {
            assert_eq!(body(wrong), None, "{wrong:?}");
        }
    }
}
