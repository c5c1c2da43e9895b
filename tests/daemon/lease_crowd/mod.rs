//! Two hundred client processes use twenty machines while clients and the daemon are killed at
//! random. No two leases hold one machine, fences increase, every lease ends, and every machine is
//! free or quarantined in the end.
//!
//! ```text
//! 200 × client ─► daemon (killed and restarted) ─► host, a process that is never killed
//!      └─ killed and replaced
//! ```
//! `OTTER_CROWD_LAPS` is the number of rounds of each client, `OTTER_CROWD_SEED` the seed.
//! `tests/soak` runs it for any time.

mod client;
mod final_check;
mod http;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use otter::clock::Clock;
use otter::store::Store;
use serde_json::json;

use self::final_check::FinalCheck;
use super::crash::env_number;
use super::crash::random::SeededRandom;
use crate::harness::{Daemon, HostProcess, TIMEOUT, pause};

/// The `ttl` of the leases.
const TTL: &str = "8s";

/// The `otter.toml` of the daemon.
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

/// With `otter simulate --machines`, every tenth machine is on from the start, so it is never free.
const ON_FROM_THE_START: [&str; 2] = ["10", "20"];

/// The parameters of a run.
#[derive(Clone, Copy)]
struct Plan {
    seed: u64,
    machines: u32,
    clients: usize,
    rounds: u64,
    /// How many clients are killed.
    client_kills: u64,
    /// How often the daemon is killed.
    daemon_kills: u64,
}

/// The result of a run.
#[derive(Debug)]
struct Report {
    errors: Vec<String>,
    summary: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_on_twenty_machines() {
    let rounds = env_number("OTTER_CROWD_LAPS", 2);
    let seed = env_number("OTTER_CROWD_SEED", 1);
    let plan = Plan {
        seed,
        machines: 22,
        clients: 200,
        rounds,
        client_kills: 20 * rounds,
        daemon_kills: 5 * rounds,
    };
    let report = crowd(plan).await;
    println!("seed {seed}, {rounds} rounds: {}", report.summary);
    assert!(report.errors.is_empty(), "seed {seed}:\n{}", report.errors.join("\n"));
}

struct Crowd {
    plan: Plan,
    directory: tempfile::TempDir,
    host: HostProcess,
    clients: Vec<Client>,
    random: SeededRandom,
    killed: u64,
    errors: Vec<String>,
}

/// A client process. Dropping it kills the process.
struct Client {
    child: Child,
    ended: Option<ExitStatus>,
}

impl Drop for Client {
    fn drop(&mut self) {
        // Most clients have ended by themselves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn crowd(plan: Plan) -> Report {
    let started = Clock::system().elapsed();
    let clock = Clock::system();
    let mut crowd = Crowd::start(plan).await;
    let mut daemon_kills = 0;
    let daemon = loop {
        let daemon = crowd.daemon().await;
        let is_last = daemon_kills == plan.daemon_kills;
        // Some daemons are killed before they have read the host.
        let life = if crowd.random.chance(25) {
            crowd.random.below(400)
        } else {
            500 + crowd.random.below(3_000)
        };
        let until = clock.elapsed() + Duration::from_millis(life);
        while !crowd.have_clients_ended() && (is_last || clock.elapsed() < until) {
            crowd.maybe_kill_client();
            pause_between_kills().await;
        }
        if crowd.have_clients_ended() {
            break daemon;
        }
        daemon_kills += 1;
        std::fs::remove_file(crowd.path("address")).unwrap();
        daemon.kill();
    };
    let ended_at = clock.elapsed();
    // The final check reports the leases that have not ended in time.
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
    let mut check = FinalCheck::for_leases(&Store::open(&crowd.path("state")).await.unwrap()).await;
    check.check_machines(&machines, &ON_FROM_THE_START);
    let pool = &pools["items"][0];
    if (&pool["waiting_count"], &pool["held_count"]) != (&json!(0), &json!(0)) {
        check.add_error(format!("a lease is open: {pools}"));
    }
    for (id, machine) in world["machines"].as_object().unwrap() {
        let shown =
            machines["items"].as_array().unwrap().iter().find(|shown| shown["id"] == **id).unwrap();
        let is_quarantined = !shown["quarantine"].is_null();
        if machine["power"] != "poweredOff"
            && !is_quarantined
            && !ON_FROM_THE_START.contains(&id.as_str())
        {
            check.add_error(format!("machine {id} is {} on the host", machine["power"]));
        }
    }
    let lines = |file: &str| std::fs::read_to_string(crowd.path(file)).unwrap_or_default();
    check.errors.extend(crowd.errors.iter().cloned());
    check.errors.extend(lines("errors").lines().map(str::to_owned));
    let done = lines("done").lines().count();
    if done != plan.clients {
        check.add_error(format!("{done} of {} clients are done", plan.clients));
    }
    let log = lines("log");
    let error_lines =
        log.lines().filter(|line| line.contains("panicked") || line.contains("\"ERROR\""));
    check.errors.extend(error_lines.map(|line| format!("the log says {line}")));
    let summary = format!(
        "{done} clients done, {} killed, {} leases lost; the daemon killed {daemon_kills} times; \
         leases ended {:?}; {} machines quarantined; {:.1?}, of them {:.1?} until the last client \
         had ended",
        crowd.killed,
        lines("lost").lines().count(),
        check.ends,
        check.quarantined,
        clock.elapsed().saturating_sub(started),
        ended_at.saturating_sub(started),
    );
    Report { errors: check.errors, summary }
}

impl Crowd {
    async fn start(plan: Plan) -> Self {
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
            errors: Vec::new(),
        };
        for index in 0..plan.clients {
            let client = crowd.client(index);
            crowd.clients.push(client);
            pause().await;
        }
        crowd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn client(&self, index: usize) -> Client {
        let name = format!("client-{index}-{}", self.killed);
        let seed = self.plan.seed.wrapping_mul(1_000_003) + index as u64 + (self.killed << 32);
        let child = client::start(self.directory.path(), &name, seed, self.plan.rounds);
        Client { child, ended: None }
    }

    /// Starts a daemon and publishes its address once it listens.
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

    /// Whether every client has ended. Records the failed ones.
    fn have_clients_ended(&mut self) -> bool {
        for client in &mut self.clients {
            if client.ended.is_none() {
                client.ended = client.child.try_wait().unwrap();
                if client.ended.is_some_and(|status| !status.success()) {
                    let log = std::fs::read_to_string(self.directory.path().join("clients.log"));
                    self.errors.push(format!("a client failed:\n{}", log.unwrap_or_default()));
                }
            }
        }
        self.clients.iter().all(|client| client.ended.is_some())
    }

    /// Sometimes kills a client, half the time one that holds a machine, and starts another one.
    fn maybe_kill_client(&mut self) {
        if self.killed == self.plan.client_kills || !self.random.chance(15) {
            return;
        }
        let holder = self.random.chance(50).then(|| self.random_holder()).flatten();
        let index = holder.unwrap_or_else(|| self.random.index(self.clients.len()));
        let client = &mut self.clients[index];
        if client.ended.is_some() {
            return;
        }
        client.child.kill().unwrap();
        // The client may have ended by itself before the kill.
        if client.child.wait().unwrap().signal().is_some() {
            self.killed += 1;
            self.clients[index] = self.client(index);
        }
    }

    /// The index of a client that has a lock file.
    fn random_holder(&mut self) -> Option<usize> {
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

/// The pause between two attempts to kill a client.
async fn pause_between_kills() {
    for _ in 0..5 {
        pause().await;
    }
}
