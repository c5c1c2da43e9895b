//! Leases over the end of a daemon, by `SIGKILL` and by `SIGTERM`, with one in each state: what was
//! promised to their holders stands, and what was under way is brought to its end by the next
//! daemon.

use jiff::{SignedDuration, Timestamp};
use otter::clock::Clock;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, HostProcess, eventually, pause};

/// After a start no lease ends sooner than this.
const GRACE: SignedDuration = SignedDuration::from_secs(2);

/// How far times may be apart that are told to the second, of a time that is written every so
/// often.
const ABOUT: SignedDuration = SignedDuration::from_secs(2);

struct House {
    host: HostProcess,
    directory: tempfile::TempDir,
}

impl House {
    async fn built() -> Self {
        let host = HostProcess::start(&["--machines", "6", "--pace", "1"]).await;
        let directory = tempfile::tempdir().unwrap();
        let config = "[esx]\nsettle = \"1s\"\nread_timeout = \"10s\"\n[leases]\ngrace = \"2s\"\n";
        std::fs::write(directory.path().join("otter.toml"), config).unwrap();
        Self { host, directory }
    }

    /// The next daemon, once it has read the host.
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

/// A lease whose secret its holder keeps.
struct Held {
    id: String,
    shown: String,
}

impl Held {
    fn path(&self, rest: &str) -> String {
        format!("/v1/leases/{}{rest}", self.id)
    }

    async fn now(&self, daemon: &Daemon) -> Value {
        daemon.get(&self.path("")).await.expect(200).json
    }

    /// A call with it.
    async fn call(
        &self,
        daemon: &Daemon,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Answer {
        let request = daemon.request(method, path).header("otter-lease", &self.shown);
        Answer::from_request(body.iter().fold(request, reqwest::RequestBuilder::json)).await
    }

    async fn power(&self, daemon: &Daemon, machine: u32, action: &str) {
        let path = format!("/v1/machines/{machine}/power?wait=14s");
        self.call(daemon, Method::POST, &path, Some(json!({"action": action}))).await.expect(200);
    }

    async fn give_back(&self, daemon: &Daemon) {
        self.call(daemon, Method::DELETE, &self.path("?wait=14s"), None).await.expect(200);
    }
}

fn wanted(machine: u32, ttl: &str) -> Value {
    json!({"select": {"machine": machine.to_string()}, "ttl": ttl, "queue_for": "10m"})
}

fn keyed(daemon: &Daemon, body: &Value) -> reqwest::RequestBuilder {
    daemon.request(Method::POST, "/v1/leases").header("idempotency-key", "run 7").json(body)
}

fn held(lease: &Value) -> Held {
    let (id, secret) = (lease["id"].as_str().unwrap(), lease["secret"].as_str().unwrap());
    Held { id: id.to_owned(), shown: format!("{id}.{secret}") }
}

async fn asked(daemon: &Daemon, body: &Value) -> Held {
    let answer = daemon.post("/v1/leases", body.clone()).await;
    assert!(answer.status == 201 || answer.status == 202, "{}", answer.text);
    held(&answer.json)
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap_or_else(|| panic!("{value} is no time")).parse().unwrap()
}

async fn over(signal: Signal) {
    let house = House::built().await;
    let daemon = house.daemon().await;
    let holding = wanted(1, "10m");
    let active = Answer::from_request(keyed(&daemon, &holding)).await.expect(201);
    let active = held(&active.json);
    active.power(&daemon, 1, "on").await;
    let queued = [asked(&daemon, &holding).await, asked(&daemon, &holding).await];
    let releasing = asked(&daemon, &wanted(3, "10m")).await;
    releasing.power(&daemon, 3, "on").await;
    let preparing = wanted(2, "10m");
    let preparing = json!({"prepare": {"power": "on", "settle": "2s"}, "select": preparing["select"], "ttl": "10m"});
    let preparing = asked(&daemon, &preparing).await;
    let slow = json!({"method": "PowerOffVM_Task", "what": {"delay": {"ms": 1_000}}});
    house.host.post_admin("/faults", &slow).await;
    releasing.call(&daemon, Method::DELETE, &releasing.path(""), None).await.expect(200);
    let short = asked(&daemon, &wanted(4, "2s")).await;
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
    house.host.clear_faults().await;
    let started = clock.now();
    let daemon = house.daemon().await;
    let now = active.now(&daemon).await;
    assert_eq!((&now["state"], &now["fence"]), (&json!("active"), &json!(1)));
    let moved = time(&now["expires_at"]).duration_since(time(&before["expires_at"]));
    assert!(
        moved.abs() <= ABOUT,
        "it ends at {} and not at {}",
        now["expires_at"],
        before["expires_at"]
    );
    for (place, lease) in queued.iter().enumerate() {
        let now = lease.now(&daemon).await;
        assert_eq!((&now["state"], &now["position"]), (&json!("queued"), &json!(place)));
    }
    let again = Answer::from_request(keyed(&daemon, &holding)).await.expect(201);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(held(&again.json).shown, active.shown);
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
    free_again(&daemon, &releasing, 3).await;

    eventually("the time to run out", async || short.now(&daemon).await["state"] == "expired")
        .await;
    let ended = short.now(&daemon).await;
    let graced = time(&ended["end"]["at"]).duration_since(started);
    assert!(graced >= GRACE, "it ended {graced} after the start: {ended}");
    free_again(&daemon, &short, 4).await;

    active.give_back(&daemon).await;
    let first = daemon.get(&queued[0].path("/wait?wait=14s")).await.expect(200).json;
    assert_eq!((&first["machine"], &first["fence"]), (&json!("1"), &json!(2)));
    let second = queued[1].now(&daemon).await;
    assert_eq!((&second["state"], &second["position"]), (&json!("queued"), &json!(0)));
    assert!(daemon.terminate().await.success());
    let log = std::fs::read_to_string(house.directory.path().join("log")).unwrap();
    assert!(!log.contains("panicked") && !log.contains("\"ERROR\""), "{log}");
}

/// It is released without a warning, and its machine is off and free.
async fn free_again(daemon: &Daemon, lease: &Held, machine: u32) {
    assert_eq!(lease.now(daemon).await["warnings"], json!([]));
    let seen = daemon.get(&format!("/v1/machines/{machine}")).await.expect(200).json;
    assert_eq!((&seen["power_state"], &seen["free"]), (&json!("off"), &json!(true)), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_in_every_state_outlive_a_kill() {
    over(Signal::KILL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_in_every_state_outlive_a_stop() {
    over(Signal::TERM).await;
}
