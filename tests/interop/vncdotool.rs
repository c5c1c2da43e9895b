//! vncdotool through `otter vnc`: it captures the pictures that otter has, also after a change of
//! the size, and what it types reaches the guest.

use std::process::{Command, Stdio};

use serde_json::json;

use super::program::Program;
use super::{program_in, start_simulated, succeeds};
use crate::harness::{Daemon, otter_command};
use crate::screens::decode;

/// A machine that is on and shows the login.
const MACHINE: &str = "/v1/machines/17";

#[tokio::test(flavor = "multi_thread")]
async fn vncdotool_captures_and_types_through_otter_vnc() {
    let daemon = start_simulated().await;
    let url = format!("http://{}", daemon.address());
    let mut vnc =
        Program::start(otter_command(&["vnc", "17", "--listen", "127.0.0.1:0", "--url", &url]));
    let said = "VNC viewers connect to ";
    let line = vnc.wait_for_line("the address", |line| line.starts_with(said)).await;
    let server = line[said.len()..].replace(':', "::");
    let captures = tempfile::tempdir().unwrap();
    let file = |name: &str| captures.path().join(name).to_str().unwrap().to_owned();

    vncdo(&server, &["capture", &file("login.png")]).await;
    equals(&daemon, &file("login.png"), "").await;
    vncdo(&server, &["type", "otter", "key", "enter"]).await;
    shows(&daemon, "Applications").await;
    vncdo(&server, &["key", "ctrl-alt-t"]).await;
    shows(&daemon, "Terminal").await;
    vncdo(&server, &["type", "echo Hello-otter_42", "key", "enter"]).await;
    // The line that was typed, and its output below it.
    shows(&daemon, "Hello-otter_42 Hello-otter_42").await;
    // The title of the terminal, and the lines above its cursor.
    let region = ["8", "48", "900", "88"];
    let terminal = file("terminal.png");
    let capture = [&["rcapture", terminal.as_str()][..], &region].concat();
    vncdo(&server, &capture).await;
    equals(&daemon, &terminal, &format!("?region={}", region.join(","))).await;
}

/// Runs `vncdo` for one connection. It presses Shift for capitals, because the host expects the
/// keys of a US keyboard.
async fn vncdo(server: &str, commands: &[&str]) {
    let mut vncdo = Command::new(program_in("OTTER_VNCDO"));
    vncdo.args(["--server", server, "--force-caps"]).args(commands).stdin(Stdio::null());
    succeeds(vncdo).await;
}

/// Waits until otter reads a text on the screen.
async fn shows(daemon: &Daemon, text: &str) {
    let path = format!("{MACHINE}/screen/wait?wait=12s");
    daemon.post(&path, json!({"any": [{"text": text}]})).await.expect(200);
}

/// Asserts that a capture has the pixels of otter's picture.
async fn equals(daemon: &Daemon, capture: &str, query: &str) {
    let picture = daemon.get(&format!("{MACHINE}/screen.png{query}")).await.expect(200);
    let captured = std::fs::read(capture).unwrap();
    assert!(decode(&captured) == decode(&picture.bytes), "{capture} has other pixels");
}
