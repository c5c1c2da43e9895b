//! Leases in every state at a `SIGKILL` and at a `SIGTERM`: states, secrets, positions, fences and
//! expiries stay, and the next daemon finishes preparations and releases.

use jiff::{SignedDuration, Timestamp};
use otter::clock::Clock;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, HostProcess, eventually, pause};

/// `leases.grace`: after a start no lease expires sooner than this.
const GRACE: SignedDuration = SignedDuration::from_secs(2);

/// How much an expiry may move over a restart. It is rounded to a second, and the stored time is as
/// old as the last checkpoint.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);

/// A host and the directory of a daemon.
struct Setup {
    host: HostProcess,
    directory: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        let host = HostProcess::start(&["--machines", "6", "--pace", "1"]).await;
        let directory = tempfile::tempdir().unwrap();
        let config = "[esx]\nsettle = \"1s\"\nread_timeout = \"10s\"\n[leases]\ngrace = \"2s\"\n";
        std::fs::write(directory.path().join("otter.toml"), config).unwrap();
        Self { host, directory }
    }

    /// Starts a daemon and waits until it has read the host.
    async fn daemon(&self) -> Daemon {
        let path = |name: &str| self.directory.path().join(name);
        let log = std::fs::File::options().create(true).append(true).open(path("log")).unwrap();
        let mut command = self.host.serve(&path("otter.toml"), &path("state"));
        command.stderr(log);
        let daemon = Daemon::try_start(command).await.expect("a daemon that says where it listens");
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        daemon
    }
}

/// A lease and its `Otter-Lease` header.
struct HeldLease {
    id: String,
    header: String,
}

impl HeldLease {
    fn path(&self, rest: &str) -> String {
        format!("/v1/leases/{}{rest}", self.id)
    }

    async fn now(&self, daemon: &Daemon) -> Value {
        daemon.get(&self.path("")).await.expect(200).json
    }

    /// Makes a call with the lease.
    async fn call(
        &self,
        daemon: &Daemon,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let request = daemon.request(method, path).header("otter-lease", &self.header);
        Answer::from_request(body.iter().fold(request, reqwest::RequestBuilder::json)).await
    }

    async fn power(&self, daemon: &Daemon, machine: u32, action: &str) {
        let path = format!("/v1/machines/{machine}/power?wait=14s");
        self.call(daemon, Method::POST, &path, Some(json!({"action": action}))).await.expect(200);
    }

    async fn end(&self, daemon: &Daemon) {
        self.call(daemon, Method::DELETE, &self.path("?wait=14s"), None).await.expect(200);
    }
}

fn request(machine: u32, ttl: &str) -> Value {
    json!({"select": {"machine": machine.to_string()}, "ttl": ttl, "queue_for": "10m"})
}

fn keyed_request(daemon: &Daemon, body: &Value) -> reqwest::RequestBuilder {
    daemon.request(Method::POST, "/v1/leases").header("idempotency-key", "run 7").json(body)
}

fn held_lease(lease: &Value) -> HeldLease {
    let (id, secret) = (lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
    HeldLease { id: id.to_owned(), header: format!("{id}.{secret}") }
}

async fn request_lease(daemon: &Daemon, body: &Value) -> HeldLease {
    let answer = daemon.post("/v1/leases", body.clone()).await;
    assert!(answer.status == 201 || answer.status == 202, "{}", answer.text);
    held_lease(&answer.json)
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

async fn check_restart(signal: Signal) {
    let setup = Setup::new().await;
    let daemon = setup.daemon().await;
    let first_machine = request(1, "10m");
    let active = Answer::from_request(keyed_request(&daemon, &first_machine)).await.expect(201);
    let active = held_lease(&active.json);
    active.power(&daemon, 1, "on").await;
    let queued = [
        request_lease(&daemon, &first_machine).await,
        request_lease(&daemon, &first_machine).await,
    ];
    let releasing = request_lease(&daemon, &request(3, "10m")).await;
    releasing.power(&daemon, 3, "on").await;
    let preparing = request(2, "10m");
    let preparing = json!({
        "prepare": {"power": "on", "settle": "2s"},
        "select": preparing["select"],
        "ttl": "10m",
    });
    let preparing = request_lease(&daemon, &preparing).await;
    let slow = json!({"method": "PowerOffVM_Task", "what": {"delay": {"ms": 1_000}}});
    setup.host.post_admin("/faults", &slow).await;
    releasing.call(&daemon, Method::DELETE, &releasing.path(""), None).await.expect(200);
    let short = request_lease(&daemon, &request(4, "2s")).await;
    let before = active.now(&daemon).await;
    for (lease, state) in [(&preparing, "preparing"), (&releasing, "releasing"), (&short, "active")]
    {
        assert_eq!(lease.now(&daemon).await["state"], state);
    }
    let runs_out = time(&short.now(&daemon).await["expires_at"]);
    if signal == Signal::KILL {
        daemon.kill();
    } else {
        daemon.signal(signal);
        assert!(daemon.wait_for_exit().await.success());
    }

    let clock = Clock::system();
    while clock.now() < runs_out + SignedDuration::from_secs(1) {
        pause().await;
    }
    setup.host.clear_faults().await;
    let started = clock.now();
    let daemon = setup.daemon().await;
    let now = active.now(&daemon).await;
    assert_eq!((&now["state"], &now["fence"]), (&json!("active"), &json!(1)));
    let moved = time(&now["expires_at"]).duration_since(time(&before["expires_at"]));
    assert!(
        moved.abs() <= TOLERANCE,
        "it expires at {} and not at {}",
        now["expires_at"],
        before["expires_at"]
    );
    for (position, lease) in queued.iter().enumerate() {
        let now = lease.now(&daemon).await;
        assert_eq!((&now["state"], &now["position"]), (&json!("queued"), &json!(position)));
    }
    let again = Answer::from_request(keyed_request(&daemon, &first_machine)).await.expect(201);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(held_lease(&again.json).header, active.header);
    active.power(&daemon, 1, "off").await;

    let prepared = daemon.get(&preparing.path("/wait?wait=14s")).await.expect(200).json;
    assert_eq!(
        (&prepared["state"], &prepared["fence"]),
        (&json!("active"), &json!(1)),
        "{prepared}"
    );
    assert_eq!(daemon.get("/v1/machines/2").await.json["power_state"], "on");
    preparing.power(&daemon, 2, "off").await;
    eventually("the release to end", async || releasing.now(&daemon).await["state"] == "released")
        .await;
    check_released(&daemon, &releasing, 3).await;

    eventually("the time to run out", async || short.now(&daemon).await["state"] == "expired")
        .await;
    let ended = short.now(&daemon).await;
    let since_start = time(&ended["end"]["at"]).duration_since(started);
    assert!(since_start >= GRACE, "it ended {since_start} after the start: {ended}");
    check_released(&daemon, &short, 4).await;

    active.end(&daemon).await;
    let first = daemon.get(&queued[0].path("/wait?wait=14s")).await.expect(200).json;
    assert_eq!((&first["machine"], &first["fence"]), (&json!("1"), &json!(2)));
    let second = queued[1].now(&daemon).await;
    assert_eq!((&second["state"], &second["position"]), (&json!("queued"), &json!(0)));
    assert!(daemon.terminate().await.success());
    let log = std::fs::read_to_string(setup.directory.path().join("log")).unwrap();
    assert!(!log.contains("panicked") && !log.contains("\"ERROR\""), "{log}");
}

/// Asserts that the lease has no warning, and that its machine is off and free.
async fn check_released(daemon: &Daemon, lease: &HeldLease, machine: u32) {
    assert_eq!(lease.now(daemon).await["warnings"], json!([]));
    let seen = daemon.get(&format!("/v1/machines/{machine}")).await.expect(200).json;
    assert_eq!((&seen["power_state"], &seen["free"]), (&json!("off"), &json!(true)), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_in_every_state_survive_a_kill() {
    check_restart(Signal::KILL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_in_every_state_survive_a_stop() {
    check_restart(Signal::TERM).await;
}
