//! `otter vnc`: a local port for VNC viewers, which it connects to the screen of a machine.
//!
//! ```text
//! viewer ──TCP──► otter vnc ──WebSocket──► otter
//! ```
//! It serves one viewer after the other. It ends when the right to look or drive ends, or at
//! Ctrl-C.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures_util::{SinkExt, StreamExt};
use http::Method;
use reqwest::Upgraded;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::print;
use super::server::{CallArguments, OtterCalls};
use crate::clock::Clock;

/// The bytes that are read from the viewer at once.
const CHUNK: usize = 16 * 1_024;

/// The largest message that otter sends, in bytes.
const MAX_MESSAGE: usize = 16 << 20;

/// How long a viewer that left may take to close its connection to otter.
const CLOSING: Duration = Duration::from_secs(2);

/// The longest time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub struct VncCommand {
    /// The machine: an id, name:<exact>, uuid:<…> or mac:<…>.
    #[arg(value_name = "MACHINE")]
    machine: String,
    /// The address for VNC viewers, which need no password; port 0 takes a free port.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:5901",
        value_parser = listen_address
    )]
    listen: SocketAddr,
    /// Allow an address of --listen that other machines can reach. Everyone who connects to it
    /// can look and type.
    #[arg(long)]
    listen_insecure: bool,
    /// Only look: keys and clicks of the viewer have no effect.
    #[arg(long)]
    view: bool,
    /// Take over if another viewer drives.
    #[arg(long, conflicts_with = "view")]
    force: bool,
    #[command(flatten)]
    call: CallArguments,
}

/// How a viewer ended.
#[derive(Debug)]
enum ViewerEnd {
    /// It closed its connection, or the connection to otter broke.
    Left,
    /// otter closed the WebSocket with this code and reason.
    Closed(u16, String),
}

/// Runs `otter vnc`.
///
/// # Errors
/// The address cannot be used, otter refuses the viewer or ends its right, or cannot be reached.
pub async fn vnc(command: VncCommand) -> anyhow::Result<ExitCode> {
    let VncCommand { machine, listen, listen_insecure, .. } = &command;
    if !listen.ip().is_loopback() && !listen_insecure {
        bail!(
            "{listen} can be reached from other machines, and a VNC viewer needs no password \
             there: use a loopback address, or add --listen-insecure"
        );
    }
    let otter = command.call.connect().await?;
    // otter makes all checks of a viewer before it gives a console token, so that a wrong machine
    // or a missing right is reported before a viewer connects. The token is not used.
    let mode = if command.view { "view" } else { "drive" };
    let check = otter.request(Method::POST, machine, "/console-tokens");
    let check = check.json(&json!({ "kind": "screen", "mode": mode, "force": command.force }));
    OtterCalls::call(check, ANSWER_TIMEOUT).await?;
    let listener =
        TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr().context("the bound address cannot be read")?;
    print(&format!("VNC viewers connect to {address}\n"));
    loop {
        // A failed accept may be the viewer's fault, and the next one may succeed.
        let Ok((viewer, _)) = listener.accept().await else { continue };
        let connection = open(&otter, &command).await?;
        if let ViewerEnd::Closed(code, reason) = bridge(viewer, connection).await {
            bail!("otter ended the viewer ({code}): {reason}");
        }
    }
}

/// Parses an address to listen on.
fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.replace("localhost:", "127.0.0.1:")
        .parse()
        .map_err(|_| "write an IP address and a port, such as 127.0.0.1:5901")
}

async fn open(otter: &OtterCalls, command: &VncCommand) -> anyhow::Result<Upgraded> {
    let query = match (command.view, command.force) {
        (true, _) => "mode=view",
        (false, false) => "mode=drive",
        (false, true) => "mode=drive&force=true",
    };
    let path = format!("/screen/rfb?{query}");
    OtterCalls::open_websocket(otter.request(Method::GET, &command.machine, &path)).await
}

/// Copies bytes in both directions until one side ends.
async fn bridge(viewer: TcpStream, connection: Upgraded) -> ViewerEnd {
    // RFB has small messages, each of which is due at once.
    let _ = viewer.set_nodelay(true);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(connection, Role::Client, Some(config)).await;
    let (mut to_otter, mut from_otter) = socket.split();
    let (mut from_viewer, mut to_viewer) = viewer.into_split();
    let upstream = async {
        let mut chunk = vec![0; CHUNK];
        while let Ok(length @ 1..) = from_viewer.read(&mut chunk).await {
            let bytes = chunk.get(..length).unwrap_or_default().to_vec();
            if to_otter.send(Message::Binary(bytes.into())).await.is_err() {
                break;
            }
        }
    };
    let downstream = async {
        while let Some(Ok(message)) = from_otter.next().await {
            match message {
                Message::Binary(bytes) if to_viewer.write_all(&bytes).await.is_err() => {
                    return ViewerEnd::Left;
                }
                Message::Close(Some(CloseFrame { code, reason })) => {
                    return ViewerEnd::Closed(code.into(), reason.to_string());
                }
                _ => {}
            }
        }
        ViewerEnd::Left
    };
    let end = tokio::select! {
        () = upstream => ViewerEnd::Left,
        end = downstream => end,
    };
    let closing = async {
        let _ = to_otter.send(Message::Close(None)).await;
        while let Some(Ok(_)) = from_otter.next().await {}
    };
    let clock = Clock::system();
    tokio::select! {
        () = closing => {}
        () = clock.sleep(CLOSING) => {}
    }
    end
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        vnc: VncCommand,
    }

    fn read(words: &str) -> Result<VncCommand, clap::Error> {
        Line::try_parse_from(["vnc"].into_iter().chain(words.split_whitespace()))
            .map(|line| line.vnc)
    }

    #[tokio::test]
    async fn an_address_that_others_can_reach_needs_a_flag() {
        let open = read("16 --listen 0.0.0.0:0 --url http://127.0.0.1:1").unwrap();
        let refused = vnc(open).await.unwrap_err().to_string();
        assert!(refused.contains("--listen-insecure"), "{refused}");
    }

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        assert!(read("16 --view --force").is_err());
        assert!(read("").is_err());
        assert_eq!(read("16").unwrap().listen.to_string(), "127.0.0.1:5901");
    }

    #[test]
    fn an_address_has_a_port() {
        let local = read("16 --listen localhost:5902").unwrap();
        assert_eq!(local.listen.to_string(), "127.0.0.1:5902");
        for wrong in ["5901", "localhost", "host.lab:5901"] {
            let error = read(&format!("16 --listen {wrong}")).unwrap_err().to_string();
            assert!(error.contains("127.0.0.1:5901"), "{error}");
        }
    }
}
