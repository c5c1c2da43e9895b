//! The output of `otter run` on a terminal: one line that is redrawn, unless `NO_COLOR` forbids
//! escape sequences.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::RunFixture;
use crate::harness::{TIMEOUT, otter_command};

/// Runs `otter run` with a terminal as the standard error, and returns the text written to it.
async fn at_terminal(fixture: &RunFixture, variables: &[(&str, &str)]) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let end =
        OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.to_bytes())).unwrap();
    let mut run = otter_command(&[
        "run",
        "--url",
        &fixture.url(),
        "--pool",
        "one",
        "--power",
        "on",
        "--",
        "true",
    ]);
    run.stdout(Stdio::null()).stderr(end).env_remove("NO_COLOR").envs(variables.iter().copied());
    let mut child = run.spawn().unwrap();
    // Reading ends when no process has the terminal open.
    drop(run);
    let mut terminal = File::from(terminal);
    let read = tokio::task::spawn_blocking(move || {
        let (mut shown, mut part) = (Vec::new(), [0; 4_096]);
        while let Ok(length @ 1..) = terminal.read(&mut part) {
            shown.extend_from_slice(&part[..length]);
        }
        assert!(child.wait().unwrap().success());
        String::from_utf8(shown).unwrap()
    });
    let shown = tokio::time::timeout(TIMEOUT, read).await.expect("the end of the process").unwrap();
    fixture.assert_all_released().await;
    shown
}

#[tokio::test]
async fn no_color_forbids_escape_sequences_on_a_terminal() {
    let fixture = RunFixture::start().await;
    for drawing in [&[][..], &[("NO_COLOR", "")]] {
        let shown = at_terminal(&fixture, drawing).await;
        assert!(
            shown.contains("\r\u{1b}[Kotter: ") && shown.contains("is being prepared"),
            "{shown:?}"
        );
    }
    for forbidding in [&[("NO_COLOR", "1")][..], &[("NO_COLOR", "0"), ("TERM", "xterm-256color")]] {
        let shown = at_terminal(&fixture, forbidding).await;
        assert!(!shown.contains('\u{1b}') && shown.contains("is being prepared"), "{shown:?}");
        let lines = shown.lines().all(|line| line.starts_with("otter: ") && !line.contains('\r'));
        assert!(lines, "a line for each change: {shown:?}");
    }
}
