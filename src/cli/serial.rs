//! `otter serial`: a terminal on a serial port, its output, and waits for a text in it.
//!
//! ```text
//! keyboard ──raw──► escape filter (~.) ──WebSocket──► otter ──► port
//! screen ◄──────────────────────────────────────────────┘
//! ```

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Upgraded;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::run::{NoAnswer, positive_duration};
use super::server::{CallArguments, OtterCalls};
use crate::clock::Clock;
use crate::domain::duration;
use crate::domain::terminal::{printable, printable_lines};
use crate::service::serial::plain_text::{PlainText, plain_text};

/// The bytes that are read from the keyboard at once.
const CHUNK: usize = 4 * 1_024;

/// The largest message that otter sends, in bytes.
const MAX_MESSAGE: usize = 1 << 20;

/// How long the output may be silent after the end of the input, before the command ends.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// How long the WebSocket may take to close.
const CLOSING: Duration = Duration::from_secs(2);

/// The longest time for an answer that waits for nothing.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Before `--follow` reads on, after an answer ended.
const REOPEN_AFTER: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option")]
pub struct SerialCommand {
    /// The machine: an id, name:<exact>, uuid:<…> or mac:<…>.
    #[arg(value_name = "MACHINE")]
    machine: String,
    /// The serial port: its key, or its name in Linux.
    #[arg(value_name = "PORT", default_value = "ttyS0")]
    port: String,
    /// Print what otter keeps of the output, instead of a terminal.
    #[arg(long)]
    log: bool,
    /// Print also what comes then, until Ctrl-C.
    #[arg(long)]
    follow: bool,
    /// Wait until the port outputs this text, and end.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["log", "follow"])]
    wait: Option<String>,
    /// The longest wait for the text.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = positive_duration)]
    timeout: Duration,
    /// Begin with the byte at this offset; negative: with so many bytes before the end.
    #[arg(long, value_name = "OFFSET", allow_negative_numbers = true)]
    since: Option<i64>,
    /// Only look: the keyboard has no effect.
    #[arg(long, conflicts_with_all = ["log", "follow", "wait"])]
    view: bool,
    /// Take over if another client writes.
    #[arg(long, conflicts_with_all = ["log", "follow", "wait", "view"])]
    force: bool,
    #[command(flatten)]
    call: CallArguments,
}

/// A text message of a stream.
#[derive(Deserialize)]
struct Note {
    gap: Option<Gap>,
}

#[derive(Deserialize)]
struct Gap {
    reason: String,
}

/// How a terminal ended.
#[derive(Debug)]
enum TerminalEnd {
    /// By `~.`, the end of the input, or a broken connection.
    Left,
    /// otter closed the WebSocket with this code and reason.
    Closed(u16, String),
}

/// Runs `otter serial`.
///
/// # Errors
/// otter refuses the port or ends the right, the text did not come in time, or otter cannot be
/// reached.
pub async fn serial(command: SerialCommand) -> anyhow::Result<ExitCode> {
    let otter = command.call.connect().await?;
    if let Some(text) = &command.wait {
        wait_for(&otter, &command, text).await?;
    } else if command.follow {
        follow(&otter, &command).await?;
    } else if command.log {
        print_log(&otter, &command).await?;
    } else {
        let connection = open(&otter, &command).await?;
        if let TerminalEnd::Closed(code, reason) = terminal(connection, &command).await? {
            bail!("otter ended the terminal ({code}): {reason}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl SerialCommand {
    /// The path of the port below the machine.
    fn path(&self) -> String {
        format!("/serial/{}", utf8_percent_encode(&self.port, NON_ALPHANUMERIC))
    }
}

async fn wait_for(otter: &OtterCalls, command: &SerialCommand, text: &str) -> anyhow::Result<()> {
    let mut body = json!({ "any": [{ "text": text }] });
    if let Some(since) = command.since {
        body["since"] = json!(since);
    }
    let path = format!("{}/wait?wait={}", command.path(), duration::format(command.timeout));
    let wait = otter.request(Method::POST, &command.machine, &path).json(&body);
    OtterCalls::call(wait, command.timeout + ANSWER_TIMEOUT).await.map(drop)
}

/// Prints what is kept. Where offsets are missing, an answer ends, and the next one goes on.
async fn print_log(otter: &OtterCalls, command: &SerialCommand) -> anyhow::Result<()> {
    let mut printer = Printer::new();
    let mut since = command.since.map(|since| since.to_string());
    loop {
        let query = since.map(|since| format!("?since={since}")).unwrap_or_default();
        let path = format!("{}/log{query}", command.path());
        let mut pieces =
            OtterCalls::open(otter.request(Method::GET, &command.machine, &path)).await?;
        let next = pieces.header("otter-serial-next").context("otter names no next offset")?;
        let next = next.to_owned();
        let mut is_empty = true;
        let broken = |NoAnswer { reason, .. }: NoAnswer| anyhow!("the answer broke off: {reason}");
        while let Some(piece) = pieces.next().await.map_err(broken)? {
            is_empty = is_empty && piece.is_empty();
            printer.print(&piece)?;
        }
        if is_empty {
            return printer.end();
        }
        since = Some(next);
    }
}

/// Prints what is kept and what comes. Goes on after an answer has ended, until otter refuses that.
async fn follow(otter: &OtterCalls, command: &SerialCommand) -> anyhow::Result<()> {
    let clock = Clock::system();
    let mut printer = Printer::new();
    let mut since = command.since.map(|since| since.to_string());
    loop {
        let query = since.map(|since| format!("&since={since}")).unwrap_or_default();
        let path = format!("{}/log?follow=true{query}", command.path());
        let mut pieces =
            OtterCalls::open(otter.request(Method::GET, &command.machine, &path)).await?;
        let first = pieces.header("otter-serial-first").and_then(|first| first.parse().ok());
        let mut position: u64 = first.context("otter names no first offset")?;
        // A body that breaks off is read on from where it ended.
        while let Ok(Some(piece)) = pieces.next_in_any_time().await {
            position += u64::try_from(piece.len()).unwrap_or_default();
            printer.print(&piece)?;
        }
        since = Some(position.to_string());
        clock.sleep(REOPEN_AFTER).await;
    }
}

/// Prints output: as it is, or without what controls a terminal if it goes to one.
struct Printer {
    is_terminal: bool,
    /// The beginning of a character or of a sequence.
    begun: Vec<u8>,
}

impl Printer {
    fn new() -> Self {
        Self { is_terminal: std::io::stdout().is_terminal(), begun: Vec::new() }
    }

    fn print(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.is_terminal { write_out(self.shown(bytes).as_bytes()) } else { write_out(bytes) }
    }

    /// The output as a terminal shows it.
    fn shown(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.begun);
        all.extend_from_slice(bytes);
        let PlainText { text, taken } = plain_text(&all);
        self.begun = all.split_off(taken);
        printable_lines(&text.replace('\t', "    ")).into_owned()
    }

    fn end(self) -> anyhow::Result<()> {
        if self.is_terminal { write_out(b"\n") } else { Ok(()) }
    }
}

fn write_out(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("the output was not written")
}

async fn open(otter: &OtterCalls, command: &SerialCommand) -> anyhow::Result<Upgraded> {
    let mode = match (command.view, command.force) {
        (true, _) => "mode=view",
        (false, false) => "mode=drive",
        (false, true) => "mode=drive&force=true",
    };
    let since = command.since.map(|since| format!("&since={since}")).unwrap_or_default();
    let path = format!("{}/stream?{mode}{since}", command.path());
    OtterCalls::open_websocket(otter.request(Method::GET, &command.machine, &path)).await
}

/// Passes bytes on in both directions until one side ends.
async fn terminal(connection: Upgraded, command: &SerialCommand) -> anyhow::Result<TerminalEnd> {
    let is_terminal = std::io::stdin().is_terminal();
    let _raw = RawTerminal::new(is_terminal)?;
    if is_terminal {
        let (port, machine) = (printable(&command.port), printable(&command.machine));
        eprint!("Connected to {port} of {machine}. End with ~. at the beginning of a line.\r\n");
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(connection, Role::Client, Some(config)).await;
    let (mut to_otter, mut from_otter) = socket.split();
    let mut keyboard = read_keyboard();
    let clock = Clock::system();
    let upstream = async {
        let mut filter = EscapeFilter::default();
        while let Some(bytes) = keyboard.recv().await {
            let (bytes, is_end) = if is_terminal { filter.take(&bytes) } else { (bytes, false) };
            let is_ignored = bytes.is_empty() || command.view;
            if !is_ignored && to_otter.send(Message::Binary(bytes.into())).await.is_err() {
                return;
            }
            if is_end {
                return;
            }
        }
        // The answer to the last input may still come.
        clock.sleep(LAST_OUTPUT).await;
    };
    let downstream = async {
        while let Some(Ok(message)) = from_otter.next().await {
            match message {
                Message::Binary(bytes) => write_out(&bytes)?,
                Message::Text(text) => {
                    let note: Option<Note> = serde_json::from_str(&text).ok();
                    if let Some(Gap { reason }) = note.and_then(|note| note.gap) {
                        let reason = printable(&reason);
                        eprint!("\r\n[otter: bytes may be missing here: {reason}]\r\n");
                    }
                }
                Message::Close(Some(CloseFrame { code, reason })) => {
                    return Ok(TerminalEnd::Closed(code.into(), reason.to_string()));
                }
                _ => {}
            }
        }
        anyhow::Ok(TerminalEnd::Left)
    };
    let end = tokio::select! {
        () = upstream => Ok(TerminalEnd::Left),
        end = downstream => end,
    };
    let closing = async {
        let _ = to_otter.send(Message::Close(None)).await;
        while let Some(Ok(_)) = from_otter.next().await {}
    };
    tokio::select! {
        () = closing => {}
        () = clock.sleep(CLOSING) => {}
    }
    end
}

/// Reads the standard input in a thread of its own, because such a read cannot be cancelled. The
/// thread ends with the process.
fn read_keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = std::io::stdin().lock().read(&mut chunk) {
            let bytes = chunk.get(..length).unwrap_or_default().to_vec();
            if sender.blocking_send(bytes).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Finds `~.` at the beginning of a line, which ends the terminal, and `~~`, which is one `~`.
#[derive(Debug)]
struct EscapeFilter {
    is_line_start: bool,
    /// Whether a `~` at the beginning of a line waits for what follows.
    has_tilde: bool,
}

impl Default for EscapeFilter {
    fn default() -> Self {
        Self { is_line_start: true, has_tilde: false }
    }
}

impl EscapeFilter {
    /// What of the input goes to the port, and whether the terminal ends then.
    fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            if std::mem::take(&mut self.has_tilde) {
                match byte {
                    b'.' => return (passed, true),
                    b'~' => {}
                    _ => passed.push(b'~'),
                }
            } else if *byte == b'~' && self.is_line_start {
                self.has_tilde = true;
                continue;
            }
            passed.push(*byte);
            self.is_line_start = matches!(byte, b'\r' | b'\n');
        }
        (passed, false)
    }
}

/// The terminal passes each key on as it is, until this value is dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn new(is_terminal: bool) -> anyhow::Result<Self> {
        if !is_terminal {
            return Ok(Self(None));
        }
        let original = tcgetattr(std::io::stdin()).context("the terminal cannot be set up")?;
        let mut raw = original.clone();
        raw.make_raw();
        let set = tcsetattr(std::io::stdin(), OptionalActions::Now, &raw);
        set.context("the terminal cannot be set up")?;
        Ok(Self(Some(original)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(original) = &self.0 {
            // Nothing can be done if the terminal is gone.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, original);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        serial: SerialCommand,
    }

    fn read(words: &str) -> Result<SerialCommand, clap::Error> {
        let words = ["serial"].into_iter().chain(words.split_whitespace());
        Line::try_parse_from(words).map(|line| line.serial)
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        assert_eq!(read("16").unwrap().path(), "/serial/ttyS0");
        assert_eq!(read("16 9001 --log --since -4096").unwrap().since, Some(-4096));
        assert_eq!(read("16 a/b").unwrap().path(), "/serial/a%2Fb");
        for wrong in ["", "16 --view --force", "16 --log --wait x", "16 --follow --force"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_tilde_and_a_dot_at_the_beginning_of_a_line_end_the_terminal() {
        let pass = |pieces: &[&str]| {
            let mut filter = EscapeFilter::default();
            let mut all = Vec::new();
            for piece in pieces {
                let (passed, is_end) = filter.take(piece.as_bytes());
                all.extend(passed);
                if is_end {
                    return (String::from_utf8(all).unwrap(), true);
                }
            }
            (String::from_utf8(all).unwrap(), false)
        };
        assert_eq!(pass(&["~."]), (String::new(), true));
        assert_eq!(pass(&["ls\r~", ".x"]), ("ls\r".to_owned(), true));
        assert_eq!(pass(&["a~.", "\r~~.", "\r~x"]), ("a~.\r~.\r~x".to_owned(), false));
        assert_eq!(pass(&["~", "~", "."]), ("~.".to_owned(), false));
    }

    #[test]
    fn what_a_guest_outputs_cannot_control_a_terminal_that_shows_its_log() {
        let mut printer = Printer { is_terminal: true, begun: Vec::new() };
        assert_eq!(printer.shown(b"\x1b[2Jlogin: \xc3"), "login: ");
        assert_eq!(printer.shown(b"\xa4\r\n\xc2\x9b2J"), "ä\n\\u{9b}2J");
    }
}
