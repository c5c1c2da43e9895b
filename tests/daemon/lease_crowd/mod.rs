//! Two hundred clients on twenty machines, each a process of its own, while clients and the daemon
//! are killed at random: never two hold one machine, fences grow, every lease ends, and no machine
//! is leaked.
//!
//! ```text
//! 200 × client ─► daemon (killed and started anew) ─► host, a process that outlives them
//!      └─ killed, and another in its place
//! ```
//! `OTTER_CROWD_LAPS` makes it longer, `OTTER_CROWD_SEED` another; `tests/soak` has it for as long
//! as one likes.

mod audit;
mod call;
mod client;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use otter::clock::Clock;
use otter::store::Store;
use serde_json::json;

use self::audit::Audit;
use super::crash::env_number;
use super::crash::random::SeededRandom;
use crate::harness::{Daemon, HostProcess, TIMEOUT, pause};

/// How long a lease lasts that its holder does not renew.
const TTL: &str = "8s";

/// What an `otter.toml` says for it.
const CONFIG: &str = r#"
[esx]
settle = "1s"
read_timeout = "10s"
[leases]
abandon_after = "2s"
grace = "3s"
[pools.lab]
machines = ["*"]
"#;

/// Of `otter simulate --machines`, every tenth is on from the start, and so never free.
const ON_FROM_THE_START: [&str; 2] = ["10", "20"];

/// A crowd.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    machines: u32,
    clients: usize,
    laps: u64,
    /// How many clients are killed, and how often the daemon is.
    kills: u64,
    deaths: u64,
}

/// What came of it.
#[derive(Debug)]
struct Report {
    wrongs: Vec<String>,
    told: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_on_twenty_machines() {
    let laps = env_number("OTTER_CROWD_LAPS", 2);
    let seed = env_number("OTTER_CROWD_SEED", 1);
    let plan = Plan { seed, machines: 22, clients: 200, laps, kills: 20 * laps, deaths: 5 * laps };
    let report = crowd(plan).await;
    println!("seed {seed}, {laps} laps: {}", report.told);
    assert!(report.wrongs.is_empty(), "seed {seed}:\n{}", report.wrongs.join("\n"));
}

struct Crowd {
    plan: Plan,
    directory: tempfile::TempDir,
    host: HostProcess,
    clients: Vec<Client>,
    random: SeededRandom,
    killed: u64,
    wrongs: Vec<String>,
}

/// A process of the crowd; dropped, it is killed.
struct Client {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // Most have ended by themselves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn crowd(plan: Plan) -> Report {
    let started = Clock::system().elapsed();
    let clock = Clock::system();
    let mut crowd = Crowd::gathered(plan).await;
    let mut deaths = 0;
    let daemon = loop {
        let daemon = crowd.daemon().await;
        let alone = deaths == plan.deaths;
        // Some die before they have read the host.
        let life = if crowd.random.chance(25) {
            crowd.random.below(400)
        } else {
            500 + crowd.random.below(3_000)
        };
        let until = clock.elapsed() + Duration::from_millis(life);
        while !crowd.has_gone() && (alone || clock.elapsed() < until) {
            crowd.kill_somebody();
            pause_a_little().await;
        }
        if crowd.has_gone() {
            break daemon;
        }
        deaths += 1;
        std::fs::remove_file(crowd.path("address")).unwrap();
        daemon.kill();
    };
    let gone = clock.elapsed();
    // Those that do not end in time are told by the audit.
    let ended = tokio::time::timeout(TIMEOUT, async {
        let open = "/v1/leases?state=queued,preparing,active,releasing";
        while daemon.get(open).await.expect(200).json["items"] != json!([]) {
            pause().await;
        }
    });
    drop(ended.await);
    let machines = daemon.get("/v1/machines").await.expect(200).json;
    let pools = daemon.get("/v1/pools").await.expect(200).json;
    let world = crowd.host.world().await;
    assert!(daemon.terminate().await.success());
    let mut audit = Audit::of(&Store::open(&crowd.path("state")).await.unwrap()).await;
    audit.machines(&machines, &ON_FROM_THE_START);
    let pool = &pools["items"][0];
    if (&pool["waiting_count"], &pool["held_count"]) != (&json!(0), &json!(0)) {
        audit.wrong(format!("somebody waits still: {pools}"));
    }
    for (id, machine) in world["machines"].as_object().unwrap() {
        let shown =
            machines["items"].as_array().unwrap().iter().find(|shown| shown["id"] == **id).unwrap();
        let aside = !shown["quarantine"].is_null();
        if machine["power"] != "poweredOff" && !aside && !ON_FROM_THE_START.contains(&id.as_str()) {
            audit.wrong(format!("machine {id} is {} on the host", machine["power"]));
        }
    }
    let lines = |file: &str| std::fs::read_to_string(crowd.path(file)).unwrap_or_default();
    audit.wrongs.extend(crowd.wrongs.iter().cloned());
    audit.wrongs.extend(lines("wrong").lines().map(str::to_owned));
    let done = lines("done").lines().count();
    if done != plan.clients {
        audit.wrong(format!("{done} of {} clients are done", plan.clients));
    }
    let log = lines("log");
    let bad = log.lines().filter(|line| line.contains("panicked") || line.contains("\"ERROR\""));
    audit.wrongs.extend(bad.map(|line| format!("the log says {line}")));
    let told = format!(
        "{done} clients done, {} killed, {} leases lost; the daemon killed {deaths} times; leases ended {:?}; {} machines \
         set aside; {:.1?}, of them {:.1?} until the last client had gone",
        crowd.killed,
        lines("lost").lines().count(),
        audit.ends,
        audit.quarantined,
        clock.elapsed().saturating_sub(started),
        gone.saturating_sub(started),
    );
    Report { wrongs: audit.wrongs, told }
}

impl Crowd {
    async fn gathered(plan: Plan) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host =
            HostProcess::start(&["--machines", &plan.machines.to_string(), "--pace", "0.05"]).await;
        std::fs::write(directory.path().join("otter.toml"), CONFIG).unwrap();
        std::fs::create_dir(directory.path().join("locks")).unwrap();
        let mut crowd = Self {
            plan,
            directory,
            host,
            clients: Vec::new(),
            random: SeededRandom::from_seed(plan.seed, &[]),
            killed: 0,
            wrongs: Vec::new(),
        };
        for place in 0..plan.clients {
            let client = crowd.client(place);
            crowd.clients.push(client);
            pause().await;
        }
        crowd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self, place: usize) -> Client {
        let name = format!("client-{place}-{}", self.killed);
        let seed = self.plan.seed.wrapping_mul(1_000_003) + place as u64 + (self.killed << 32);
        let child = client::start(self.directory.path(), &name, seed, self.plan.laps);
        Client { child, ended: None }
    }

    /// The next daemon, told to all once it listens.
    async fn daemon(&self) -> Daemon {
        let mut command = self.host.serve(&self.path("otter.toml"), &self.path("state"));
        let log =
            std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stderr(log);
        let daemon = Daemon::try_start(command).await.expect("a daemon that says where it listens");
        std::fs::write(self.path("address.new"), daemon.address()).unwrap();
        std::fs::rename(self.path("address.new"), self.path("address")).unwrap();
        daemon
    }

    /// Whether every client has ended. One that failed is noted.
    fn has_gone(&mut self) -> bool {
        for client in &mut self.clients {
            if client.ended.is_none() {
                client.ended = client.child.try_wait().unwrap();
                if client.ended.is_some_and(|status| !status.success()) {
                    let log = std::fs::read_to_string(self.directory.path().join("clients.log"));
                    self.wrongs.push(format!("a client failed:\n{}", log.unwrap_or_default()));
                }
            }
        }
        self.clients.iter().all(|client| client.ended.is_some())
    }

    /// Kills a client, half the time one that holds a machine, and has another come in its place.
    fn kill_somebody(&mut self) {
        if self.killed == self.plan.kills || !self.random.chance(15) {
            return;
        }
        let holder = self.random.chance(50).then(|| self.some_holder()).flatten();
        let place = holder.unwrap_or_else(|| self.random.index(self.clients.len()));
        let victim = &mut self.clients[place];
        if victim.ended.is_some() {
            return;
        }
        victim.child.kill().unwrap();
        // It may have ended by itself at this very moment.
        if victim.child.wait().unwrap().signal().is_some() {
            self.killed += 1;
            self.clients[place] = self.client(place);
        }
    }

    /// The place of a client that has a lock file.
    fn some_holder(&mut self) -> Option<usize> {
        let mut locks: Vec<PathBuf> = std::fs::read_dir(self.path("locks"))
            .unwrap()
            .map(|lock| lock.unwrap().path())
            .collect();
        locks.sort();
        let lock = locks.get(self.random.index(locks.len().max(1)))?;
        let process: u32 = std::fs::read_to_string(lock).ok()?.split(' ').nth(2)?.parse().ok()?;
        self.clients
            .iter()
            .position(|client| client.ended.is_none() && client.child.id() == process)
    }
}

/// The rhythm of the kills.
async fn pause_a_little() {
    for _ in 0..5 {
        pause().await;
    }
}
