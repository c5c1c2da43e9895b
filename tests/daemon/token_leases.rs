//! Queued leases of restricted and of revoked tokens after a kill of the daemon.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, HostProcess, eventually, otter_command};

/// A host and the directory of a daemon, with tokens.
struct Setup {
    host: HostProcess,
    directory: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        let host = HostProcess::start(&["--machines", "6", "--pace", "1"]).await;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("otter.toml"), "[esx]\nsettle = \"1s\"\n").unwrap();
        std::fs::create_dir(directory.path().join("state")).unwrap();
        Self { host, directory }
    }

    async fn daemon(&self) -> Daemon {
        let path = |name: &str| self.directory.path().join(name);
        let mut command = self.host.serve(&path("otter.toml"), &path("state"));
        command.stderr(std::process::Stdio::null());
        let daemon = Daemon::try_start(command).await.expect("a daemon that says where it listens");
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        daemon
    }

    /// Runs `otter token` and returns its output.
    fn token(&self, arguments: &[&str]) -> String {
        let state = self.directory.path().join("state");
        let mut command = otter_command(&[&["token"], arguments].concat());
        let output = command.arg("--state-dir").arg(state).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

async fn request_lease(daemon: &Daemon, token: &str, name: &str) -> Answer {
    let body = json!({"select": {"name": name}, "ttl": "30m", "queue_for": "10m"});
    Answer::from_request(daemon.request(Method::POST, "/v1/leases").bearer_auth(token).json(&body))
        .await
}

async fn read_lease(daemon: &Daemon, token: &str, lease: &Value) -> Value {
    let path = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
    Answer::from_request(daemon.request(Method::GET, &path).bearer_auth(token))
        .await
        .expect(200)
        .json
}

async fn end_lease(daemon: &Daemon, token: &str, lease: &Value) {
    let path = format!("/v1/leases/{}?wait=14s&reason=done", lease["id"].as_str().unwrap());
    Answer::from_request(daemon.request(Method::DELETE, &path).bearer_auth(token))
        .await
        .expect(200);
}

/// Requests a lease for each machine.
async fn lease_all(daemon: &Daemon, token: &str) -> Vec<Value> {
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(request_lease(daemon, token, "000").await.expect(201).json);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_lease_of_a_restricted_token_gets_a_machine_of_its_scope_after_a_restart() {
    let setup = Setup::new().await;
    let boss = setup.token(&["create", "--name", "boss", "--role", "operator"]);
    let daemon = setup.daemon().await;
    let held = lease_all(&daemon, &boss).await;
    let [first, own] = [0, 1].map(|index: usize| held[index]["machine_name"].as_str().unwrap());
    let ci = setup.token(&["create", "--name", "ci", "--role", "runner", "--machines", own]);
    eventually("the token to be known", async || {
        let call = daemon.request(Method::GET, "/v1/about").bearer_auth(&ci);
        call.send().await.unwrap().status().as_u16() == 200
    })
    .await;
    let queued = request_lease(&daemon, &ci, "000").await.expect(202).json;
    daemon.kill();

    let daemon = setup.daemon().await;
    end_lease(&daemon, &boss, &held[0]).await;
    // A later lease of another token gets the machine, so it was free.
    let later = request_lease(&daemon, &boss, first).await.expect(201).json;
    assert_eq!(later["machine_name"], first);
    assert_eq!(read_lease(&daemon, &ci, &queued).await["state"], "queued");
    end_lease(&daemon, &boss, &held[1]).await;
    eventually("the lease to be granted", async || {
        read_lease(&daemon, &ci, &queued).await["state"] == "active"
    })
    .await;
    assert_eq!(read_lease(&daemon, &ci, &queued).await["machine_name"], own);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_lease_ends_at_the_start_if_its_token_was_revoked_during_the_downtime() {
    let setup = Setup::new().await;
    let boss = setup.token(&["create", "--name", "boss", "--role", "operator"]);
    let ci = setup.token(&["create", "--name", "ci", "--role", "runner"]);
    let daemon = setup.daemon().await;
    let held = lease_all(&daemon, &boss).await;
    let queued = request_lease(&daemon, &ci, "000").await.expect(202).json;
    daemon.kill();
    setup.token(&["revoke", "--name", "ci"]);
    // A new token with the same name is a different token.
    let again = setup.token(&["create", "--name", "ci", "--role", "runner"]);

    let daemon = setup.daemon().await;
    let waiting = request_lease(&daemon, &again, "000").await.expect(202).json;
    end_lease(&daemon, &boss, &held[0]).await;
    eventually("the new token to get the machine", async || {
        read_lease(&daemon, &boss, &waiting).await["state"] == "active"
    })
    .await;
    let ended = read_lease(&daemon, &boss, &queued).await;
    let expected = (&json!("revoked"), &json!("The token ci was revoked."), &Value::Null);
    assert_eq!((&ended["state"], &ended["end"]["detail"], &ended["machine"]), expected, "{ended}");
    assert!(daemon.terminate().await.success());
}
