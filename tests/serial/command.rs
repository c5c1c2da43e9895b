//! `otter serial`, as a process: a terminal, the log, and waits.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::process::Command;

use super::*;
use crate::harness::{TIMEOUT, otter_command, run_to_exit};

fn command(lab: &Lab, arguments: &[&str]) -> std::process::Command {
    let mut command = otter_command(&[&["serial", RUNNING, PORT], arguments].concat());
    command.env("OTTER_URL", lab.url(""));
    command
}

/// A pseudoterminal: the end of the user, and the end of the program.
fn pseudoterminal() -> (File, OwnedFd) {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap();
    let program =
        rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty());
    (File::from(user), program.unwrap())
}

/// Reads until a text has come.
async fn until(user: &File, text: &'static str) -> String {
    let mut user = user.try_clone().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        while !String::from_utf8_lossy(&all).contains(text) {
            let mut bytes = [0; 1024];
            let length = user.read(&mut bytes).unwrap();
            all.extend_from_slice(&bytes[..length]);
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    tokio::time::timeout(TIMEOUT, reading).await.expect(text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_passes_keys_on_and_ends_with_tilde_and_dot() {
    let lab = Lab::start().await;
    let (mut user, program) = pseudoterminal();
    let input = Stdio::from(program.try_clone().unwrap());
    let mut command = Command::from(command(&lab, &[]));
    let output = Stdio::from(program.try_clone().unwrap());
    command.stdin(input).stdout(output).stderr(Stdio::from(program)).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    drop(command);
    // The terminal passes keys on as they are from then on.
    until(&user, "End with ~.").await;
    until_access(&lab, RUNNING, PORT, "open").await;
    user.write_all(b"\r").unwrap();
    assert!(until(&user, LOGIN).await.contains("\r\ndom0 login: "));
    // Ctrl-C goes to the guest.
    user.write_all(b"us\x03").unwrap();
    eventually("the keys", async || on_host(&lab).received == 4).await;
    user.write_all(b"\r~.").unwrap();
    let ended: ExitStatus =
        tokio::time::timeout(TIMEOUT, child.wait()).await.expect("the end").unwrap();
    assert!(ended.success());
    assert_eq!(on_host(&lab).received, 5, "the tilde and the dot are not sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_waits_are_for_scripts() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"\x1b[1mlogin: \xff");
    until_read(&lab, b"\xff").await;
    let logged = Command::from(command(&lab, &["--log"])).output().await.unwrap();
    assert_eq!((logged.status.code(), &*logged.stdout), (Some(0), &b"\x1b[1mlogin: \xff"[..]));
    let part = Command::from(command(&lab, &["--log", "--since", "-4"])).output().await.unwrap();
    assert_eq!(part.stdout, b"n: \xff");
    let found = command(&lab, &["--wait", "login: ", "--since", "0"]);
    assert_eq!(run_to_exit(found).await.0, Some(0));
    let (code, text) = run_to_exit(command(&lab, &["--wait", "never", "--timeout", "1s"])).await;
    assert!(code == Some(1) && text.contains("wait-timeout"), "{text}");
    let (code, text) =
        run_to_exit(otter_command(&["serial", RUNNING, "ttyS9", "--log", "--url", &lab.url("")]))
            .await;
    assert!(code == Some(1) && text.contains("ttyS1 (9001)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_can_be_followed() {
    let lab = Lab::start().await;
    open(&lab).await;
    output(&lab, b"one ");
    until_read(&lab, b"one ").await;
    let mut command = Command::from(command(&lab, &["--follow"]));
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut all = Vec::new();
    let mut next = async |end: &[u8]| {
        while !all.ends_with(end) {
            let read = tokio::io::AsyncReadExt::read_buf(&mut out, &mut all);
            let read = tokio::time::timeout(TIMEOUT, read).await.expect("output").unwrap();
            assert!(read > 0, "the command ended");
        }
    };
    next(b"one ").await;
    output(&lab, b"two");
    next(b"one two").await;
}

/// Bytes from a pipe go to the port, and the answer is printed.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_a_terminal_too() {
    let lab = Lab::start().await;
    let mut command = Command::from(command(&lab, &[]));
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = piped.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    until_access(&lab, RUNNING, PORT, "open").await;
    tokio::io::AsyncWriteExt::write_all(&mut input, b"\r~.\r").await.unwrap();
    drop(input);
    let ended = tokio::time::timeout(TIMEOUT, child.wait_with_output()).await.expect("the end");
    let ended = ended.unwrap();
    assert!(ended.status.success());
    assert!(String::from_utf8_lossy(&ended.stdout).contains(LOGIN));
    assert_eq!(on_host(&lab).received, 4, "no escape in a pipe");
}
