//! schemathesis tests otter by its OpenAPI document: every check, every phase, every operation.
//!
//! Each run makes the same requests. `OTTER_SCHEMATHESIS_SEED=<number>` makes others.
//! `schemathesis/hooks.py` lists the findings that are not errors, each with its reason.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use otter::simulator::{Pace, Scenario};

use super::{repository, succeeds_within};
use crate::harness::{Lab, LabOptions};

/// The least number of requests for each operation that has parameters or a body.
const LEAST_EXAMPLES: u64 = 100;
/// The least number of requests for the operations on files and drives. The patterns that hooks.py
/// gives to their paths leave schemathesis few examples.
const LEAST_EXAMPLES_OF_FILES: u64 = 10;
/// The number of examples that schemathesis generates. It skips repeated ones, and some have an
/// unknown path.
const EXAMPLES_GENERATED: u64 = 150;

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let lab = Lab::with_options(LabOptions {
        scenario: Scenario::lab().unwrap(),
        pace: Pace::Auto { scale: 0.01 },
        // Generated waits would take minutes and find no more than short waits.
        settings: |settings| settings.http.max_wait = Duration::from_millis(50),
        ..LabOptions::default()
    })
    .await;
    run_schemathesis(&lab, &[]).await;
    // schemathesis makes few DELETE requests, so they have a run of their own.
    run_schemathesis(&lab, &["--include-method", "DELETE", "--phases", "fuzzing"]).await;

    let request_counts = request_counts(&lab).await;
    for (operation, parameters) in operations() {
        let requests = request_counts.get(&operation).copied().unwrap_or_default();
        println!("{requests:5} {operation}");
        let is_of_files = ["/file", "/files", "/folders", "/cdrom", "/boot"]
            .iter()
            .any(|end| operation.ends_with(end));
        let least = if !parameters {
            // An operation without parameters and body has only one possible request.
            1
        } else if is_of_files {
            LEAST_EXAMPLES_OF_FILES
        } else {
            LEAST_EXAMPLES
        };
        assert!(requests >= least, "{operation} was tried {requests} times");
    }
}

/// Runs schemathesis with additional arguments. It must find nothing.
async fn run_schemathesis(lab: &Lab, arguments: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let program = std::env::var("OTTER_SCHEMATHESIS")
        .expect("OTTER_SCHEMATHESIS does not name schemathesis. Run tests/run, which sets it up");
    let seed = std::env::var("OTTER_SCHEMATHESIS_SEED").unwrap_or_else(|_| "1".to_owned());
    let here = repository().join("tests/interop/schemathesis");
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(here.join("schemathesis.toml"))
        .args(["run", &lab.url("/openapi.json"), "--no-color", "--seed", &seed])
        .args(["--max-examples", &EXAMPLES_GENERATED.to_string()])
        .args(arguments)
        .env("SCHEMATHESIS_HOOKS", here.join("hooks.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("PYTHONIOENCODING", "utf-8")
        .current_dir(directory.path())
        .stdin(Stdio::null());
    // Other tests use the processors at the same time.
    let output = succeeds_within(command, Duration::from_mins(12)).await;
    println!("{}", String::from_utf8(output.stdout).unwrap());
}

/// The number of requests of each operation, from the metrics.
async fn request_counts(lab: &Lab) -> BTreeMap<String, u64> {
    let metrics =
        lab.request(reqwest::Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    let mut request_counts = BTreeMap::new();
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix("otter_http_request_seconds_count{operation=\"") else {
            continue;
        };
        let (operation, rest) = rest.split_once('"').unwrap();
        let count: u64 = rest.rsplit(' ').next().unwrap().parse().unwrap();
        *request_counts.entry(operation.to_owned()).or_default() += count;
    }
    request_counts
}

/// Each operation of the document with the name that schemathesis uses, and whether it has
/// parameters or a body.
fn operations() -> Vec<(String, bool)> {
    let document = otter::api::openapi();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .iter()
            .filter(|(_, operation)| operation.get("responses").is_some())
            .map(move |(method, operation)| {
                let takes =
                    operation.get("parameters").is_some() || operation.get("requestBody").is_some();
                (format!("{} {path}", method.to_uppercase()), takes)
            })
    });
    operations.collect()
}
