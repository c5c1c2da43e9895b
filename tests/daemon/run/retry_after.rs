//! Answers with `Retry-After`: a limit of the token, and a failure of otter.

use std::sync::atomic::Ordering;

use reqwest::Method;
use serde_json::Value;

use super::faulty_proxy::{Fault, FaultyProxy};
use super::{NAME, RUN_UNTIL_GO_FILE, RunFixture};
use crate::harness::{Answer, eventually, otter_command};

/// An error answer in the form of otter's.
fn refusal(status: &str, code: &str, retry_after: Option<u32>) -> String {
    let body = format!(r#"{{"code": "{code}", "detail": "Not now.", "retry": "after"}}"#);
    let retry_after =
        retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {status}\r\n{retry_after}content-type: \
         application/problem+json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_run_waits_at_a_limit_of_its_token_as_for_a_machine() {
    let files = tempfile::tempdir().unwrap();
    let state = files.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let state = state.to_str().unwrap();
    let token = |arguments: &[&str]| {
        let mut make = otter_command(&["token", "create", "--state-dir", state]);
        let output = make.args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let runner = token(&["--name", "ci", "--role", "runner", "--max-leases", "1"]);
    let admin = token(&["--name", "root", "--role", "admin"]);
    let config = format!("[pools.one]\nmachines = [\"{NAME}\"]\n");
    std::fs::write(files.path().join("otter.toml"), config).unwrap();
    let daemon =
        RunFixture::start_daemon("127.0.0.1:0", files.path(), &["--state-dir", state]).await;
    let fixture = RunFixture { daemon, files };
    let url = fixture.url();
    let run = |options: &str, script: &str| {
        fixture.run_at(&url, options, &["sh", "-c", script], &[("OTTER_TOKEN", &runner)])
    };
    let mut holder = run("", RUN_UNTIL_GO_FILE);
    holder.expect_line("ready").await;
    let late = run("--name 4.3-nightly --retry-for 1s", "echo never").wait().await;
    late.assert_exit(75, "too-many-requests");
    assert!(late.stdout.is_empty(), "{late:?}");

    let refusals = async || {
        let metrics = fixture.daemon.request(Method::GET, "/metrics").bearer_auth(&admin);
        let metrics = metrics.send().await.unwrap().text().await.unwrap();
        let row = "operation=\"POST /v1/leases\",status=\"4xx\"";
        let counted = metrics.lines().find(|line| line.contains(row) && line.contains("count"));
        counted.and_then(|line| line.rsplit_once(' ')?.1.parse::<u32>().ok()).unwrap_or(0)
    };
    let before = refusals().await;
    assert!(before > 0);
    let next = run("--name 4.3-nightly --retry-for 1s --queue-for 10m", "echo mine");
    eventually("the request to be refused", async || refusals().await > before).await;
    fixture.create_go_file();
    holder.wait().await.assert_exit(0, "");
    let ended = next.wait().await;
    ended.assert_exit(0, "otter asks to try again later: too-many-requests: ");
    assert_eq!(ended.stdout, ["mine"]);
    let leases = fixture.daemon.request(Method::GET, "/v1/leases?state=queued,preparing,active");
    let leases = Answer::from_request(leases.bearer_auth(&admin)).await.expect(200);
    assert_eq!(leases.json["items"].as_array(), Some(&Vec::new()));
}

#[tokio::test]
async fn a_run_waits_at_a_limit_while_it_takes_or_releases_a_machine() {
    let fixture = RunFixture::start().await;
    let answer = refusal("429 Too Many Requests", "too-many-requests", Some(1));
    for kind in ["POST /v1/leases ", "GET /v1/leases/", "GET /v1/machines/", "DELETE /v1/leases/"] {
        let fault = Fault::Refuse { times: 4, answer: answer.clone() };
        let proxy = FaultyProxy::start(fixture.daemon.address(), kind, fault).await;
        let options = "--retry-for 1s --queue-for 10m";
        let ended = fixture.run_at(&proxy.url, options, &["echo", "mine"], &[]).wait().await;
        ended.assert_exit(0, "the machine is given back");
        assert_eq!(ended.stdout, ["mine"], "{kind}");
        assert_eq!(proxy.faults.load(Ordering::SeqCst), 4, "{kind}");
        fixture.assert_all_released().await;
    }
}

#[tokio::test]
async fn a_limit_does_not_lose_a_lease_that_is_renewed() {
    let fixture = RunFixture::start().await;
    let answer = refusal("429 Too Many Requests", "too-many-requests", Some(3600));
    let fault = Fault::Refuse { times: 1, answer };
    let proxy = FaultyProxy::start(fixture.daemon.address(), "POST /v1/leases/", fault).await;
    let mut run = fixture.run_at(&proxy.url, "--ttl 4s", &["sh", "-c", RUN_UNTIL_GO_FILE], &[]);
    run.expect_line("ready").await;
    let lease = fixture.open_lease().await;
    let path = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
    let time = |lease: &Value, field: &str| {
        lease[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
    };
    let until = time(&lease, "active_at") + jiff::SignedDuration::from_secs(5);
    eventually("the lease to be renewed", async || {
        time(&fixture.daemon.get(&path).await.expect(200).json, "expires_at") > until
    })
    .await;
    fixture.create_go_file();
    run.wait().await.assert_exit(0, "renewing the lease works again");
    assert_eq!(proxy.faults.load(Ordering::SeqCst), 1);
    fixture.assert_all_released().await;
}

#[tokio::test]
async fn run_exits_with_75_after_its_retries_if_otter_sends_retry_after() {
    let fixture = RunFixture::start().await;
    for (retry_after, code) in [(Some(1), 75), (Some(3600), 75), (None, 69)] {
        let answer = refusal("503 Service Unavailable", "host-unreachable", retry_after);
        let fault = Fault::Refuse { times: usize::MAX, answer };
        let proxy = FaultyProxy::start(fixture.daemon.address(), "POST /v1/leases ", fault).await;
        let run = fixture.run_at(&proxy.url, "--retry-for 2s", &["echo", "never"], &[]);
        let ended = run.wait().await;
        ended.assert_exit(code, "host-unreachable: Not now.");
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
    fixture.assert_all_released().await;
}
