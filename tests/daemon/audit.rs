//! The audit trail and the log. After a crash the database has both a change and its audit entry,
//! or neither. The log has the same entries as JSON. Neither holds a secret.

use std::path::{Path, PathBuf};
use std::process::Command;

use otter::clock::Clock;
use otter::simulator::{Pace, Scenario, Simulator, SimulatorOptions};
use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::SqlitePool;

use super::crash::fail_points::kill_at;
use crate::harness::{Answer, Daemon, eventually, otter_command};
use crate::screens::viewer_client::ViewerClient;

/// A Qubes machine of the lab that is off.
const MACHINE: &str = "16";

/// The password of the account on the host.
const PASSWORD: &str = "otter";

/// What is typed on the screen of the machine.
const TYPED: &str = "typed-in-secret";

async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    let pace = Pace::Auto { scale: 0.01 };
    Simulator::start(SimulatorOptions { pace, ..options }).await.unwrap()
}

/// A command that starts the daemon for this host, with the log and the password in files.
fn serve(host: &Simulator, state: &Path, log: &Path) -> Command {
    let password = state.with_extension("password");
    std::fs::write(&password, PASSWORD).unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let config = state.with_extension("toml");
    std::fs::write(&config, "[esx]\nsettle = \"1s\"\n").unwrap();
    let mut command = otter_command(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    command
        .arg("--config")
        .arg(&config)
        .arg("--state-dir")
        .arg(state)
        .env("OTTER_ESX_URL", host.url())
        .env("OTTER_ESX_USERNAME", "root")
        .env("OTTER_ESX_PASSWORD_FILE", password)
        .env("OTTER_ESX_VERIFY", format!("sha256:{}", host.fingerprint()))
        .stderr(std::fs::File::create(log).unwrap());
    command
}

async fn ready(daemon: &Daemon) {
    eventually("the inventory to be loaded", async || daemon.get("/readyz").await.status == 200)
        .await;
}

/// The audit entries in a log, in order.
fn logged(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    lines.filter(|line| line["target"] == "otter::audit").collect()
}

async fn count(state: &Path, query: &'static str) -> i64 {
    let url = format!("sqlite://{}", state.join("otter.db").display());
    let database = SqlitePool::connect(&url).await.unwrap();
    let count = sqlx::query_scalar(query).fetch_one(&database).await.unwrap();
    database.close().await;
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_a_change_and_its_audit_entry_or_neither() {
    for (step, jobs, started, ended) in [
        ("accept", 0, 0, 0),
        ("accept-committed", 1, 0, 0),
        ("intent", 1, 0, 0),
        ("intent-committed", 1, 1, 0),
        ("end", 1, 1, 0),
        ("end-committed", 1, 1, 1),
    ] {
        let (host, directory) = (host().await, tempfile::tempdir().unwrap());
        let state = directory.path().join("state");
        let mut command = serve(&host, &state, &directory.path().join("log"));
        let (variable, armed) = kill_at(step, 1);
        command.env(variable, armed);
        let daemon = Daemon::try_start(command).await.expect("a daemon");
        ready(&daemon).await;
        let path = format!("/v1/machines/{MACHINE}/power");
        // The daemon may be killed before it answers.
        drop(
            daemon
                .request(reqwest::Method::POST, &path)
                .json(&json!({"action": "on"}))
                .send()
                .await,
        );
        assert!(!daemon.wait_for_exit().await.success(), "{step}");
        for (kept, query) in [
            (jobs, "SELECT COUNT(*) FROM jobs"),
            (jobs, "SELECT COUNT(*) FROM audit WHERE action = 'job.accepted'"),
            (started, "SELECT COUNT(*) FROM audit WHERE action = 'job.started'"),
            (
                i64::from(started == 1 && ended == 0),
                "SELECT COUNT(*) FROM jobs WHERE state = 'running'",
            ),
            (ended, "SELECT COUNT(*) FROM jobs WHERE ended_at IS NOT NULL"),
            (ended, "SELECT COUNT(*) FROM audit WHERE action = 'job.ended'"),
        ] {
            assert_eq!(count(&state, query).await, kept, "{step}: {query}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_caller_and_the_end_of_a_job() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let (state, log) = (directory.path().join("state"), directory.path().join("log"));
    let daemon = Daemon::try_start(serve(&host, &state, &log)).await.expect("a daemon");
    ready(&daemon).await;
    let path = format!("/v1/machines/{MACHINE}/power?wait=15s");
    let asked = daemon.request(reqwest::Method::POST, &path).header("otter-reference", "run \"7\"");
    let done = Answer::from_request(asked.json(&json!({"action": "on"}))).await.expect(200);
    assert!(daemon.terminate().await.success());
    let lines = logged(&log);
    let actions: Vec<&str> = lines.iter().map(|line| line["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["job.accepted", "job.started", "job.ended"]);
    for line in &lines {
        assert_eq!((&line["level"], &line["actor"]), (&json!("INFO"), &json!("anonymous")));
        assert_eq!(
            (&line["address"], &line["reference"]),
            (&json!("127.0.0.1"), &json!("run \"7\""))
        );
        assert_eq!(line["request_id"].as_str(), done.header("x-request-id"));
        assert_eq!((&line["job"], &line["machine"]), (&done.json["id"], &json!(MACHINE)));
        assert_eq!(line["machine_name"], done.json["machine_name"]);
        assert!(line.get("code").is_none() && line.get("lease").is_none(), "{line}");
    }
    assert_eq!(lines[2]["outcome"], "succeeded");
    assert!(lines[2]["duration_ms"].is_u64(), "{}", lines[2]);
    // SQL statements are logged only at the level `trace`.
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("SELECT") && !text.contains("INSERT"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_is_logged_only_at_trace() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    for (level, is_logged) in [("debug", false), ("trace", true)] {
        let state: PathBuf = directory.path().join(level);
        let log = directory.path().join(format!("{level}.log"));
        let mut command = serve(&host, &state, &log);
        command.args(["--log-level", level]);
        let daemon = Daemon::try_start(command).await.expect("a daemon");
        ready(&daemon).await;
        assert!(daemon.terminate().await.success());
        let text = std::fs::read_to_string(&log).unwrap();
        assert_eq!(text.contains("SELECT"), is_logged, "{level}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_audit_nor_the_log_holds_a_secret() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let (state, log) = (directory.path().join("state"), directory.path().join("log"));
    std::fs::create_dir(&state).unwrap();
    let make = |name: &str, role: &str| {
        let mut command =
            otter_command(&["token", "create", "--name", name, "--role", role, "--state-dir"]);
        let made = command.arg(&state).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let (admin, runner) = (make("boss", "admin"), make("ci", "runner"));
    let mut command = serve(&host, &state, &log);
    command.args(["--log-level", "debug"]);
    let daemon = Daemon::try_start(command).await.expect("a daemon");
    ready(&daemon).await;
    let call = |method: &str, path: &str, token: &str| {
        daemon
            .request(method.parse().unwrap(), path)
            .header("authorization", format!("Bearer {token}"))
    };
    let body = json!({"select": {"machine": MACHINE}, "ttl": "10m"});
    let lease =
        Answer::from_request(call("POST", "/v1/leases", &runner).json(&body)).await.expect(201);
    let shown = format!("{}.{}", lease.str("id"), lease.str("secret"));
    let power = format!("/v1/machines/{MACHINE}/power?wait=15s");
    let on =
        call("POST", &power, &runner).header("otter-lease", &shown).json(&json!({"action": "on"}));
    Answer::from_request(on).await.expect(200);
    let screen = format!("/v1/machines/{MACHINE}/screen/input");
    let typed = json!({"events": [{"text": TYPED}], "secret": true, "interval": "5ms"});
    let typing = call("POST", &screen, &runner).header("otter-lease", &shown).json(&typed);
    Answer::from_request(typing.header("idempotency-key", "k")).await.expect(200);
    let tokens = format!("/v1/machines/{MACHINE}/console-tokens");
    let console = call("POST", &tokens, &runner).header("otter-lease", &shown);
    let console = console.json(&json!({"kind": "screen", "mode": "drive"}));
    let console = Answer::from_request(console).await.expect(201);
    let offered = format!("binary, otter.token.{}", console.str("token"));
    let headers = [("sec-websocket-protocol", offered.as_str())];
    let address = daemon.address().parse().unwrap();
    let viewer = ViewerClient::open_at(address, console.str("url"), &headers).await.unwrap();
    viewer.leave().await;
    // Three refused requests: a misspelt token, a wrong lease secret, and an insufficient role.
    let last = if runner.ends_with('0') { "1" } else { "0" };
    let misspelt = format!("{}{last}", &runner[..runner.len() - 1]);
    call("GET", "/v1/jobs", &misspelt).send().await.unwrap();
    let wrong = format!("{}.{}", lease.str("id"), "ab".repeat(32));
    call("POST", &power, &runner)
        .header("otter-lease", &wrong)
        .json(&json!({"action": "off"}))
        .send()
        .await
        .unwrap();
    Answer::from_request(call("GET", "/v1/audit", &runner)).await.problem(403, "forbidden");
    let path = format!("/v1/leases/{}?wait=15s", lease.str("id"));
    Answer::from_request(call("DELETE", &path, &runner).header("otter-lease", &shown))
        .await
        .expect(200);
    daemon.signal(Signal::HUP);
    eventually("the password to be read again", async || {
        let audit = Answer::from_request(call("GET", "/v1/audit?action=password.reloaded", &admin))
            .await
            .expect(200);
        !audit.items("id").is_empty()
    })
    .await;
    // The daemon writes the counts of refused requests when it stops.
    assert!(daemon.terminate().await.success());
    let daemon =
        Daemon::try_start(serve(&host, &state, &directory.path().join("log.2"))).await.unwrap();
    let again = daemon.request(reqwest::Method::GET, "/v1/audit?limit=1000");
    let audit = Answer::from_request(again.header("authorization", format!("Bearer {admin}")))
        .await
        .expect(200);
    let actions = audit.items("action");
    for expected in
        ["token.created", "lease.ended", "job.ended", "request.refused", "password.reloaded"]
    {
        assert!(actions.contains(&expected), "{expected} in {actions:?}");
    }
    assert_eq!(
        actions.iter().filter(|action| **action == "request.refused").count(),
        3,
        "{}",
        audit.text
    );
    let log = std::fs::read_to_string(&log).unwrap();
    let digest = |token: &str| token["otter_".len()..][..64].to_owned();
    let secrets = [
        digest(&admin),
        digest(&runner),
        lease.str("secret").to_owned(),
        "ab".repeat(32),
        TYPED.to_owned(),
        console.str("token").to_owned(),
        // What the path of a console has before its ticket.
        "/ticket/".to_owned(),
    ];
    for secret in secrets {
        assert!(!audit.text.contains(&secret) && !log.contains(&secret), "{secret}");
    }
    assert!(!audit.text.contains("Bearer") && !log.contains("Bearer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn token_changes_are_audited_with_the_rights_of_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().to_str().unwrap();
    let token = |arguments: &[&str]| {
        let done = otter_command(&[&["token"], arguments, &["--state-dir", state]].concat())
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    // The first token is created while no daemon runs.
    let admin = token(&["create", "--name", "boss", "--role", "admin"]);
    let daemon = Daemon::start(&["--simulate", "--state-dir", state], &[]).await;
    let created =
        ["create", "--name", "ci", "--role", "runner", "--machines", "sd-*", "--pool", "nightly"];
    let limited = ["--max-leases", "4", "--max-requests-per-second", "50", "--expires", "90d"];
    token(&[&created[..], &limited].concat());
    token(&["rotate", "ci", "--expires", "180d"]);
    token(&["revoke", "--name", "ci"]);
    let read =
        daemon.request(reqwest::Method::GET, "/v1/audit?actor=otter+token").bearer_auth(&admin);
    let audit = Answer::from_request(read).await.expect(200);
    assert_eq!(
        audit.items("action"),
        ["token.revoked", "token.rotated", "token.created", "token.created"]
    );
    let details = audit.items("detail");
    assert_eq!(details[3], "boss, admin");
    let expiries = details[..3].iter().map(|detail| {
        let rest = detail
            .strip_prefix("ci, runner, at most 4 leases, at most 50 requests per second, until ")
            .and_then(|rest| rest.strip_suffix(", only machines sd-*, pool nightly"));
        rest.unwrap_or_else(|| panic!("{detail}")).parse::<jiff::Timestamp>().unwrap()
    });
    let expiries: Vec<_> = expiries.collect();
    assert_eq!(expiries[0], expiries[1]);
    assert!(expiries[1] > expiries[2], "{details:?}");
    assert!(daemon.terminate().await.success());
}
