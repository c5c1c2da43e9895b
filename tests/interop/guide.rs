//! The GUIDE: runs all its commands and its event readers, and checks that it covers every
//! operation.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::process::Command;

use serde_json::{Value, json};

use super::pages::{Page, isolate};
use super::program::Program;
use super::{TIMEOUT, python, repository, start_simulated};
use crate::harness::{Daemon, eventually, otter_command, run_with_timeout};

/// The paths that otter serves in addition to the operations of the OpenAPI document.
const OTHER_PATHS: [&str; 6] = [
    "GET /",
    "GET /metrics",
    "GET /openapi.json",
    "GET /openapi-3.0.json",
    "GET /docs",
    "GET /problems",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_guide_does_what_it_says_and_none_is_missing() {
    const ADMIN: &str = "  admin        http://";
    let page = Page::read("GUIDE.md");
    page.assert_every_curl_is_run();
    // The guide lists a pool.
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("otter.toml");
    std::fs::write(&config, "[pools.nightly]\nmachines = [\"nightly-*\"]\n").unwrap();
    let daemon = Daemon::start(&["--simulate", "--config", config.to_str().unwrap()], &[]).await;
    eventually("the inventory to be loaded", async || daemon.get("/readyz").await.status == 200)
        .await;
    let simulate = ["simulate", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut simulator = Program::start(otter_command(&simulate));
    let admin = simulator.wait_for_line("the admin address", |line| line.starts_with(ADMIN)).await;
    let before = successes(&daemon).await;
    page.run(&[("127.0.0.1:8080", daemon.address()), ("127.0.0.1:8444", &admin[ADMIN.len()..])])
        .await;
    let after = successes(&daemon).await;
    let called: BTreeSet<&str> = after
        .iter()
        .filter(|(operation, count)| before.get(*operation) < Some(count))
        .map(|(operation, _)| operation.as_str())
        .collect();
    let remarks = page.remarks();
    for operation in operations().iter().map(String::as_str).chain(OTHER_PATHS) {
        let named = remarks.iter().any(|remark| {
            remark
                .strip_prefix(operation)
                .is_some_and(|rest| rest.is_empty() || !rest.starts_with('/'))
        });
        assert!(
            named || OTHER_PATHS.contains(&operation),
            "the list of endpoints lacks {operation}"
        );
        assert!(
            called.contains(operation),
            "no curl line succeeds in {operation}: only {called:#?}"
        );
    }
}

/// If a step of the script fails, the script prints the reason and exits with an error, and the
/// test does not start.
#[tokio::test(flavor = "multi_thread")]
async fn the_script_of_the_guide_fails_if_a_step_fails() {
    let page = Page::read("GUIDE.md");
    let daemon = start_simulated().await;
    let there = page.script().replace("127.0.0.1:8080", daemon.address());
    let ambiguous = there.replace("installed/updated/kickstart", "kickstart");
    let gone =
        page.script().replace("127.0.0.1:8080", "127.0.0.1:1").replace("--retry 5", "--retry 0");
    for (script, reason) in [
        (
            ambiguous,
            "ambiguous-name: 2 snapshots of qubes-4.2-sdw-staging are called \"kickstart\"",
        ),
        (gone, "no answer: is otter there?"),
    ] {
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(&script);
        isolate(&mut shell);
        let output = run_with_timeout(shell, TIMEOUT).await;
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(1), &b""[..]),
            "{complaint}"
        );
        assert!(complaint.starts_with(reason), "{complaint}");
    }
}

/// The script repeats the calls of the same run without a second effect.
#[tokio::test(flavor = "multi_thread")]
async fn the_script_of_the_guide_does_nothing_twice() {
    let daemon = start_simulated().await;
    let script = Page::read("GUIDE.md").script().replace("127.0.0.1:8080", daemon.address());
    for _ in 0..2 {
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(&script).env("CI_JOB_ID", "4711");
        isolate(&mut shell);
        super::succeeds(shell).await;
    }
    let jobs = daemon.get("/v1/jobs?reference=4711").await.expect(200);
    assert_eq!(jobs.items("kind"), ["machine.power_off", "snapshot.revert"]);
    let machine = daemon.get("/v1/machines/name:qubes-4.2-sdw-staging").await.expect(200);
    assert_eq!(machine.json["power_state"], "off");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shell_reader_prints_changes_and_starts_again_after_a_break() {
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(Page::read("GUIDE.md").reader("sh"));
    follows_changes(shell).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_reader_prints_changes_and_resumes_after_a_break() {
    let mut python = python();
    python.arg("-c").arg(Page::read("GUIDE.md").reader("python"));
    follows_changes(python).await;
}

/// Runs a reader during a change, a restart of otter, and another change.
async fn follows_changes(mut reader: Command) {
    let daemon = start_simulated().await;
    let address = daemon.address().to_owned();
    isolate(&mut reader);
    reader.env("OTTER", format!("http://{address}"));
    let mut reader = Program::start(reader);
    assert_reports_a_change(&mut reader, &daemon).await;
    assert!(daemon.terminate().await.success());
    let daemon = Daemon::start_at(&address, &["--simulate"], &[]).await;
    assert_reports_a_change(&mut reader, &daemon).await;
}

async fn assert_reports_a_change(reader: &mut Program, daemon: &Daemon) {
    reader.wait_for_line("what there is", |line| line.ends_with("Z qubes-4.3-nightly off")).await;
    let started = daemon.post("/v1/machines/18/power", json!({"action": "on"})).await;
    assert_eq!(started.status, 202);
    reader.wait_for_line("what changes", |line| line.ends_with("Z qubes-4.3-nightly on")).await;
}

/// The exit codes of curl that are in the table of the GUIDE and in none of its commands.
#[tokio::test]
async fn curl_has_other_exit_codes_for_broken_and_refused_connections() {
    assert_eq!(exit_of_curl_after(None).await, Some(7));
    assert_eq!(exit_of_curl_after(Some("")).await, Some(52));
    assert_eq!(
        exit_of_curl_after(Some("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")).await,
        Some(18)
    );
}

/// The exit code of curl if a server sends this answer and closes the connection, or if nothing
/// listens (`None`).
async fn exit_of_curl_after(answer: Option<&'static str>) -> Option<i32> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answers = answer.map(|answer| {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The server reads the request first, because unread bytes turn the close into a reset.
            let _ = stream.read(&mut [0; 4_096]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        })
    });
    let mut curl = Command::new("curl");
    curl.args(["-s", "--fail-with-body", &url]);
    isolate(&mut curl);
    let exit = run_with_timeout(curl, TIMEOUT).await.status.code();
    if let Some(answers) = answers {
        answers.join().unwrap();
    }
    exit
}

/// The number of successes of each operation, from the metrics.
async fn successes(daemon: &Daemon) -> BTreeMap<String, u64> {
    let metrics = daemon
        .request(reqwest::Method::GET, "/metrics")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let counts = metrics.lines().filter_map(|line| {
        let line = line.strip_prefix("otter_http_request_seconds_count{operation=\"")?;
        // A WebSocket that is open has the status 101.
        let is_success = |status: &&str| line.contains(status);
        let status = ["\",status=\"1xx\"} ", "\",status=\"2xx\"} "].into_iter().find(is_success)?;
        let (operation, count) = line.split_once(status)?;
        Some((operation.to_owned(), count.parse().unwrap()))
    });
    counts.collect()
}

/// The operations of the document, as `GET /v1/machines`.
fn operations() -> Vec<String> {
    let text = std::fs::read_to_string(repository().join("openapi/otter.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let all: Vec<String> = paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    assert!(all.len() > 20, "{all:?}");
    all
}
