//! Clients in four languages, generated from the committed OpenAPI document: the round trip of each
//! with an otter on a simulated host, and the lines of them in `openapi/README.md`.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{repository, succeeds};
use crate::harness::{Daemon, eventually};

#[tokio::test]
async fn python_makes_a_round_trip() {
    round_trip("python").await;
}

#[tokio::test]
async fn typescript_makes_a_round_trip() {
    round_trip("typescript").await;
}

#[tokio::test]
async fn go_makes_a_round_trip() {
    round_trip("go").await;
}

#[tokio::test]
async fn rust_makes_a_round_trip() {
    round_trip("rust").await;
}

/// Runs the program that `clients/generate` built. The program itself asserts on the answers.
async fn round_trip(language: &str) {
    let clients = std::env::var("OTTER_CLIENTS").expect(
        "OTTER_CLIENTS does not name the folder of generated clients. Run tests/run, which makes \
         them",
    );
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("otter.toml");
    std::fs::write(&config, "[files]\nroots = [\"[isos]\"]\n").unwrap();
    let config = config.to_str().unwrap();
    let arguments = ["--simulate", "--log-level", "error", "--config", config];
    let daemon = Daemon::start(&arguments, &[]).await;
    eventually("the inventory to be loaded", async || daemon.get("/readyz").await.status == 200)
        .await;
    let mut command = Command::new(Path::new(&clients).join(language).join("round-trip"));
    command.arg(format!("http://{}", daemon.address())).stdin(Stdio::null());
    succeeds(command).await;
}

#[test]
fn the_page_shows_lines_of_the_round_trips() {
    let page = std::fs::read_to_string(repository().join("openapi/README.md")).unwrap();
    for (language, program) in [
        ("python", "round_trip.py"),
        ("typescript", "round-trip.ts"),
        ("go", "main.go"),
        ("rust", "src/main.rs"),
    ] {
        let path = repository().join("tests/interop/clients").join(language).join(program);
        let program = std::fs::read_to_string(path).unwrap();
        let known: Vec<&str> = program.lines().map(str::trim).collect();
        let shown = page
            .split(&format!("\n```{language}\n"))
            .nth(1)
            .and_then(|rest| rest.split("\n```").next());
        let shown = shown.unwrap_or_else(|| panic!("the page shows nothing of {language}"));
        let unknown: Vec<&str> =
            shown.lines().filter(|line| !known.contains(&line.trim())).collect();
        assert!(
            unknown.is_empty(),
            "no lines of the round trip in {language}:\n{}",
            unknown.join("\n")
        );
    }
}
