//! After a kill of the daemon otter still knows which lease created each snapshot.

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, HostProcess, eventually, otter_command};

const SNAPSHOTS: &str = "/v1/machines/1/snapshots";

/// A host and a state directory that outlive the daemon, and the token of a runner.
struct SnapshotFixture {
    host: HostProcess,
    directory: tempfile::TempDir,
    token: String,
}

impl SnapshotFixture {
    async fn start() -> Self {
        let host = HostProcess::start(&["--machines", "2", "--pace", "0.1"]).await;
        let directory = tempfile::tempdir().unwrap();
        let config = "[snapshots]\nprotected = [\"kickstart\"]\n";
        std::fs::write(directory.path().join("otter.toml"), config).unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let create = ["token", "create", "--name", "ci", "--role", "runner", "--state-dir"];
        let made =
            otter_command(&[&create[..], &[state.to_str().unwrap()]].concat()).output().unwrap();
        let token = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        Self { host, directory, token }
    }

    async fn daemon(&self) -> Daemon {
        let path = |name: &str| self.directory.path().join(name);
        let daemon = Daemon::try_start(self.host.serve(&path("otter.toml"), &path("state"))).await;
        let daemon = daemon.expect("a daemon that says where it listens");
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        daemon
    }

    async fn call(
        &self,
        daemon: &Daemon,
        lease: Option<&Value>,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let mut request = daemon.request(method, path).bearer_auth(&self.token);
        if let Some(lease) = lease {
            let (id, secret) = (lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
            request = request.header("otter-lease", format!("{id}.{secret}"));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        Answer::from_request(request).await
    }

    async fn take_lease(&self, daemon: &Daemon) -> Value {
        let body = json!({"select": {"machine": "1"}, "ttl": "30m"});
        self.call(daemon, None, Method::POST, "/v1/leases", Some(body)).await.expect(201).json
    }

    /// Creates a snapshot with a lease and returns its path.
    async fn create_snapshot(&self, daemon: &Daemon, lease: &Value, name: &str) -> String {
        let path = format!("{SNAPSHOTS}?wait=14s");
        let body = Some(json!({"name": name}));
        let made = self.call(daemon, Some(lease), Method::POST, &path, body).await.expect(200);
        format!("{SNAPSHOTS}/{}", made.json["result"]["snapshot"].as_str().unwrap())
    }
}

#[tokio::test]
async fn the_lease_of_a_snapshot_is_known_after_a_kill() {
    let fixture = SnapshotFixture::start().await;
    let daemon = fixture.daemon().await;
    let first = fixture.take_lease(&daemon).await;
    let earlier = fixture.create_snapshot(&daemon, &first, "earlier").await;
    let end = format!("/v1/leases/{}?wait=14s", first["id"].as_str().unwrap());
    fixture.call(&daemon, Some(&first), Method::DELETE, &end, None).await.expect(200);
    let lease = fixture.take_lease(&daemon).await;
    let own = fixture.create_snapshot(&daemon, &lease, "own").await;
    daemon.kill();

    let daemon = fixture.daemon().await;
    let remove = async |path: &str| {
        fixture.call(&daemon, Some(&lease), Method::DELETE, &format!("{path}?wait=14s"), None).await
    };
    let refused = remove(&earlier).await.problem(403, "forbidden");
    assert!(refused.str("detail").contains("earlier"), "{}", refused.text);
    remove(&own).await.expect(200);
    let again = fixture.create_snapshot(&daemon, &lease, "again").await;
    daemon.terminate().await;

    let daemon = fixture.daemon().await;
    let path = format!("{again}?wait=14s");
    fixture.call(&daemon, Some(&lease), Method::DELETE, &path, None).await.expect(200);
}
