//! The access log has one line for each request, with the caller, the address and the status, and
//! holds no secret.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, eventually, log_lines, otter_command, run_to_exit};

const CONFIG: &str = "[log]\naccess = true\n[http]\ntrusted_proxies = ['127.0.0.0/8']\n";

#[tokio::test]
async fn each_request_has_a_line_without_secrets() {
    let directory = tempfile::tempdir().unwrap();
    let [log, config, state] =
        ["log", "otter.toml", "state"].map(|name| directory.path().join(name));
    std::fs::write(&config, CONFIG).unwrap();
    std::fs::create_dir(&state).unwrap();
    let (config, state) = (config.to_str().unwrap(), state.to_str().unwrap());
    let create = ["token", "create", "--name", "ci", "--role", "runner", "--state-dir", state];
    let (code, text) = run_to_exit(otter_command(&create)).await;
    assert_eq!(code, Some(0), "{text}");
    let token = text.split_whitespace().find(|word| word.starts_with("otter_")).unwrap().to_owned();

    let daemon = Daemon::start_with_log(
        &log,
        &["--simulate", "--config", config, "--state-dir", state],
        &[],
    )
    .await;
    eventually("the inventory to load", async || daemon.get("/readyz").await.status == 200).await;
    let as_ci = |method: Method, path: &str| daemon.request(method, path).bearer_auth(&token);
    let read =
        Answer::from_request(as_ci(Method::GET, "/v1/machines?name=hidden-text")).await.expect(200);
    let body = json!({"select": {"name": "sdw-staging"}, "ttl": "1m"});
    let proxied =
        as_ci(Method::POST, "/v1/leases").header("x-forwarded-for", "10.9.9.9, 203.0.113.9");
    let lease = Answer::from_request(proxied.json(&body)).await.expect(201);
    let (id, secret) = (lease.str("id"), lease.str("secret"));
    let path = format!("/v1/leases/{id}");
    let end = as_ci(Method::DELETE, &path).header("otter-lease", format!("{id}.{secret}"));
    let end = Answer::from_request(end).await.expect(200);
    let wrong_token = daemon.request(Method::GET, "/v1/jobs").bearer_auth("otter_hidden-text");
    let refused = Answer::from_request(wrong_token).await.problem(401, "unauthenticated");
    let forbidden = Answer::from_request(as_ci(Method::DELETE, "/v1/machines/16/quarantine")).await;
    let forbidden = forbidden.problem(403, "forbidden");
    let unknown = daemon.get("/none?hidden-text").await;

    let lines = log_lines(&log, "access");
    for (answer, caller, address, method, path, status) in [
        (&read, Some("ci"), "127.0.0.1", "GET", "/v1/machines", 200),
        (&lease, Some("ci"), "203.0.113.9", "POST", "/v1/leases", 201),
        (&end, Some("ci"), "127.0.0.1", "DELETE", &path, 200),
        (&refused, None, "127.0.0.1", "GET", "/v1/jobs", 401),
        (&forbidden, Some("ci"), "127.0.0.1", "DELETE", "/v1/machines/16/quarantine", 403),
        (&unknown, None, "127.0.0.1", "GET", "/none", 401),
    ] {
        let is_its = |line: &&Value| line["request_id"].as_str() == answer.header("x-request-id");
        let lines_of_answer: Vec<&Value> = lines.iter().filter(is_its).collect();
        let [line] = lines_of_answer[..] else {
            panic!("{path}: not exactly one line: {lines_of_answer:?}")
        };
        let seen = (line["caller"].as_str(), line["address"].as_str(), line["method"].as_str());
        assert_eq!(seen, (caller, Some(address), Some(method)), "{line}");
        assert_eq!(
            (line["path"].as_str(), line["status"].as_u64()),
            (Some(path), Some(status)),
            "{line}"
        );
        assert!(line["milliseconds"].is_u64() && line["level"] == "INFO", "{line}");
    }
    let text = std::fs::read_to_string(&log).unwrap();
    for hidden in [token.as_str(), secret, "hidden-text"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
}

#[tokio::test]
async fn the_access_log_is_off_by_default() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let daemon = Daemon::start_with_log(&log, &["--simulate"], &[]).await;
    daemon.get("/healthz").await.expect(200);
    assert_eq!(log_lines(&log, "access"), Vec::<Value>::new());
}
