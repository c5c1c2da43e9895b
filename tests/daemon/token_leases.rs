//! Queued leases of restricted and of revoked tokens over the end of a daemon.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, HostProcess, eventually, otter_command};

/// A host of which each daemon reads the same machines, and a state directory with tokens.
struct House {
    host: HostProcess,
    directory: tempfile::TempDir,
}

impl House {
    async fn built() -> Self {
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

    /// Runs `otter token`, and gives what it printed.
    fn token(&self, arguments: &[&str]) -> String {
        let state = self.directory.path().join("state");
        let mut command = otter_command(&[&["token"], arguments].concat());
        let output = command.arg("--state-dir").arg(state).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

async fn ask(daemon: &Daemon, token: &str, name: &str) -> Answer {
    let body = json!({"select": {"name": name}, "ttl": "30m", "queue_for": "10m"});
    Answer::from_request(daemon.request(Method::POST, "/v1/leases").bearer_auth(token).json(&body))
        .await
}

async fn read(daemon: &Daemon, token: &str, lease: &Value) -> Value {
    let path = format!("/v1/leases/{}", lease["id"].as_str().unwrap());
    Answer::from_request(daemon.request(Method::GET, &path).bearer_auth(token))
        .await
        .expect(200)
        .json
}

async fn give_back(daemon: &Daemon, token: &str, lease: &Value) {
    let path = format!("/v1/leases/{}?wait=14s&reason=done", lease["id"].as_str().unwrap());
    Answer::from_request(daemon.request(Method::DELETE, &path).bearer_auth(token))
        .await
        .expect(200);
}

/// Leases of every machine.
async fn all_held(daemon: &Daemon, token: &str) -> Vec<Value> {
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(ask(daemon, token, "000").await.expect(201).json);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_lease_of_a_restricted_token_gets_a_machine_of_its_scope_after_a_restart() {
    let house = House::built().await;
    let boss = house.token(&["create", "--name", "boss", "--role", "operator"]);
    let daemon = house.daemon().await;
    let held = all_held(&daemon, &boss).await;
    let [first, own] = [0, 1].map(|place: usize| held[place]["machine_name"].as_str().unwrap());
    let ci = house.token(&["create", "--name", "ci", "--role", "runner", "--machines", own]);
    eventually("the token to be known", async || {
        let call = daemon.request(Method::GET, "/v1/about").bearer_auth(&ci);
        call.send().await.unwrap().status().as_u16() == 200
    })
    .await;
    let queued = ask(&daemon, &ci, "000").await.expect(202).json;
    daemon.kill();

    let daemon = house.daemon().await;
    give_back(&daemon, &boss, &held[0]).await;
    // The machine goes to a lease that is asked for later, so it was there to be granted.
    let later = ask(&daemon, &boss, first).await.expect(201).json;
    assert_eq!(later["machine_name"], first);
    assert_eq!(read(&daemon, &ci, &queued).await["state"], "queued");
    give_back(&daemon, &boss, &held[1]).await;
    eventually("the lease to be granted", async || {
        read(&daemon, &ci, &queued).await["state"] == "active"
    })
    .await;
    assert_eq!(read(&daemon, &ci, &queued).await["machine_name"], own);
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_lease_ends_at_the_start_if_its_token_was_revoked_while_otter_was_down() {
    let house = House::built().await;
    let boss = house.token(&["create", "--name", "boss", "--role", "operator"]);
    let ci = house.token(&["create", "--name", "ci", "--role", "runner"]);
    let daemon = house.daemon().await;
    let held = all_held(&daemon, &boss).await;
    let queued = ask(&daemon, &ci, "000").await.expect(202).json;
    daemon.kill();
    house.token(&["revoke", "--name", "ci"]);
    // A token of the same name is another token.
    let again = house.token(&["create", "--name", "ci", "--role", "runner"]);

    let daemon = house.daemon().await;
    let waiting = ask(&daemon, &again, "000").await.expect(202).json;
    give_back(&daemon, &boss, &held[0]).await;
    eventually("the new token to get the machine", async || {
        read(&daemon, &boss, &waiting).await["state"] == "active"
    })
    .await;
    let ended = read(&daemon, &boss, &queued).await;
    let expected = (&json!("revoked"), &json!("The token ci was revoked."), &Value::Null);
    assert_eq!((&ended["state"], &ended["end"]["detail"], &ended["machine"]), expected, "{ended}");
    assert!(daemon.terminate().await.success());
}
