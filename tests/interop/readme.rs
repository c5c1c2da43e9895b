//! The README's worked example, run word for word by a shell with the real curl and jq.

use std::process::{Command, Stdio};

use super::{repository, succeeds};
use crate::harness::Daemon;

#[tokio::test(flavor = "multi_thread")]
async fn the_worked_example_does_what_it_says() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let example = readme.split("```console\n").nth(1).unwrap().split("```").next().unwrap();
    let daemon = Daemon::start(&["--simulate"], &[]).await;
    crate::harness::eventually("the inventory to be loaded", async || {
        daemon.get("/readyz").await.status == 200
    })
    .await;
    let mut commands = 0;
    for step in example.split("$ ").filter(|step| !step.trim().is_empty()) {
        let (command, expected) = step.split_once('\n').unwrap();
        let mut shell = Command::new("bash");
        shell.arg("-o").arg("pipefail").arg("-c").arg(command.replace("127.0.0.1:8080", daemon.address()));
        shell.stdin(Stdio::null());
        let said = succeeds(shell).await.stdout;
        assert_eq!(String::from_utf8(said).unwrap().trim(), expected.trim(), "{command}");
        commands += 1;
    }
    assert_eq!(commands, 6);
}
