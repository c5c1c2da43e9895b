//! `deploy/otter.service` and `deploy/otter.socket`: systemd accepts them, the service is restricted,
//! and it has the settings that the documentation promises.

use std::process::Command;

use super::{repository, succeeds};

/// Writes the unit with the path of the binary of this build, and returns its path.
fn unit(directory: &std::path::Path) -> std::path::PathBuf {
    let text = std::fs::read_to_string(repository().join("deploy/otter.service")).unwrap();
    let file = directory.join("otter.service");
    std::fs::write(
        &file,
        text.replace("/usr/bin/otter ", concat!(env!("CARGO_BIN_EXE_otter"), " ")),
    )
    .unwrap();
    file
}

#[tokio::test]
async fn systemd_accepts_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("otter.socket");
    std::fs::copy(repository().join("deploy/otter.socket"), &socket).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(unit(directory.path())).arg(socket);
    let output = succeeds(verify).await;
    // systemd prints a line for each unknown setting and ignores it.
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(!text.contains("otter.service") && !text.contains("otter.socket"), "{text}");
}

#[tokio::test]
async fn the_exposure_of_the_unit_is_at_most_two() {
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager"]);
    security.arg(repository().join("deploy/otter.service"));
    let text = String::from_utf8(succeeds(security).await.stdout).unwrap();
    let level =
        text.lines().find_map(|line| line.split_once("Overall exposure level for otter.service: "));
    let level = level.and_then(|(_, rest)| rest.split_whitespace().next()).expect("a level");
    assert!(level.parse::<f64>().unwrap() <= 2.0, "{text}");
}

#[test]
fn the_unit_reloads_keeps_secrets_in_credentials_and_does_not_repeat_a_wrong_configuration() {
    let text = std::fs::read_to_string(repository().join("deploy/otter.service")).unwrap();
    for line in [
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "RuntimeDirectory=otter",
        "LoadCredential=esx-password:/etc/otter/esx-password",
        "LoadCredential=tls-certificate:/etc/otter/tls-certificate.pem",
        "LoadCredential=tls-key:/etc/otter/tls-key.pem",
        "RestartPreventExitStatus=2 78",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    for part in ["cargo build --release", "install -m 0755", "a new password or a new TLS key"] {
        assert!(text.contains(part), "{part}");
    }
}
