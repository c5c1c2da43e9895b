//! A full or read-only disk, and a damaged database: otter reports the cause, does nothing that is
//! not on disk, gives no wrong answer, and continues when the disk works again.
//!
//! The limit of a process for the size of files simulates the full disk, because it also applies to
//! root.

use std::path::Path;
use std::process::{Command, Stdio};

use otter::clock::Clock;
use otter::simulator::{Pace, Scenario, Simulator, SimulatorOptions};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::{Value, json};
use sqlx::SqlitePool;
use tokio::net::TcpStream;

use crate::harness::{Answer, Daemon, TIMEOUT, eventually, otter_command, run_to_exit};

/// Two Qubes machines of the lab that are off.
const MACHINE: &str = "16";
const OTHER: &str = "18";

async fn host() -> Simulator {
    let options = SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system());
    Simulator::start(SimulatorOptions { pace: Pace::Stepped, ..options }).await.unwrap()
}

/// Waits until the machine has a task, and finishes the task.
async fn finish_task(host: &Simulator) {
    let prefix = format!("haTask-{MACHINE}-");
    let mut found = None;
    let seen = host.control().until(|control| {
        found = control.running_tasks().into_iter().find(|task| task.starts_with(&prefix));
        found.is_some()
    });
    tokio::time::timeout(TIMEOUT, seen).await.expect("a task");
    host.control().finish_task(&found.unwrap());
}

/// A daemon that survives writes beyond the file size limit, and its log.
pub struct LimitedDaemon {
    pub daemon: Daemon,
    log: std::path::PathBuf,
}

impl LimitedDaemon {
    pub async fn start(host: &Simulator, state: &Path) -> Self {
        let config = state.with_extension("toml");
        std::fs::write(&config, "[esx]\nsettle = \"1s\"\n").unwrap();
        let log = state.with_extension("log");
        let mut command = ignoring_limits();
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--config"])
            .arg(&config)
            .arg("--state-dir")
            .arg(state)
            .env("OTTER_ESX_URL", host.url())
            .env("OTTER_ESX_USERNAME", "root")
            .env("OTTER_ESX_PASSWORD", "otter")
            .env("OTTER_ESX_VERIFY", format!("sha256:{}", host.fingerprint()))
            .stderr(pipe_to(&log));
        let daemon = Daemon::try_start(command).await.expect("a daemon");
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        Self { daemon, log }
    }

    /// Makes all writes of the daemon to files fail, or succeed again.
    pub fn set_disk_full(&self, full: bool) {
        let Rlimit { current, maximum } = getrlimit(Resource::Fsize);
        let current = if full { Some(0) } else { current };
        prlimit(Some(self.daemon.pid()), Resource::Fsize, Rlimit { current, maximum }).unwrap();
    }

    async fn power(&self, machine: &str, action: &str) -> Answer {
        self.daemon.post(&format!("/v1/machines/{machine}/power"), json!({"action": action})).await
    }

    async fn job(&self, job: &str) -> Value {
        self.daemon.get(&format!("/v1/jobs/{job}")).await.expect(200).json
    }

    async fn wait_for_field(&self, job: &str, field: &str, value: &str) {
        eventually(value, async || self.job(job).await[field] == value).await;
    }

    async fn metric(&self, name: &str) -> u64 {
        let text = self
            .daemon
            .request(reqwest::Method::GET, "/metrics")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }

    /// The number of log lines that contain this text.
    fn logged(&self, words: &str) -> usize {
        std::fs::read_to_string(&self.log)
            .unwrap()
            .lines()
            .filter(|line| line.contains(words))
            .count()
    }
}

/// A command that runs otter with SIGXFSZ ignored, so that a write beyond the limit is an error and
/// not a signal.
fn ignoring_limits() -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_otter")])
        .stdin(Stdio::null());
    for (name, _) in
        std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTTER_"))
    {
        command.env_remove(name);
    }
    command
}

/// A pipe into a log file. The daemon cannot write the file itself, because of the limit.
fn pipe_to(log: &Path) -> Stdio {
    let file = std::fs::File::create(log).unwrap();
    let mut copying = Command::new("cat").stdin(Stdio::piped()).stdout(file).spawn().unwrap();
    let pipe = copying.stdin.take().unwrap();
    // `cat` ends when the daemon closes the pipe.
    std::thread::spawn(move || copying.wait());
    pipe.into()
}

fn id(answer: &Answer) -> String {
    answer.str("id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_full_no_job_starts_and_none_ends() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let otter = LimitedDaemon::start(&host, &directory.path().join("state")).await;
    let running = id(&otter.power(MACHINE, "on").await.expect(202));
    let waiting = id(&otter.power(MACHINE, "off").await.expect(202));
    otter.wait_for_field(&running, "phase", "waiting for the host's task").await;
    eventually("the task to be on disk", async || {
        !otter.job(&running).await["host_task"].is_null()
    })
    .await;
    let calls = host.control().all_calls();

    otter.set_disk_full(true);
    for _ in 0..3 {
        let key =
            otter.daemon.request(reqwest::Method::POST, &format!("/v1/machines/{OTHER}/power"));
        let key = key.header("idempotency-key", "full").json(&json!({"action": "on"}));
        Answer::from_request(key).await.problem(503, "storage-unavailable");
    }
    let jobs = otter.daemon.get("/v1/jobs").await.expect(200);
    assert_eq!(jobs.json["items"].as_array().unwrap().len(), 2, "{}", jobs.text);
    otter.daemon.get(&format!("/v1/machines/{MACHINE}")).await.expect(200);
    assert!(
        otter.daemon.get(&format!("/v1/machines/{OTHER}")).await.expect(200).json["active_job"]
            .is_null()
    );

    finish_task(&host).await;
    eventually("the machine to be on", async || {
        otter.daemon.get(&format!("/v1/machines/{MACHINE}")).await.json["power_state"] == "on"
    })
    .await;
    let shown = otter.daemon.get(&format!("/v1/jobs/{running}?wait=1s")).await.expect(200);
    assert_eq!(shown.json["state"], "running", "the job does not end before its end is on disk");
    otter
        .daemon
        .get(&format!("/v1/jobs/{running}/wait?wait=1s"))
        .await
        .problem(504, "wait-timeout");
    // The cancellation is answered although it cannot be stored.
    let cancelled =
        otter.daemon.post(&format!("/v1/jobs/{waiting}/cancel"), json!({})).await.expect(202);
    assert_eq!(cancelled.json["state"], "queued", "{}", cancelled.text);
    assert_eq!(otter.metric("otter_store_failing").await, 1);
    assert!(otter.metric("otter_store_refusals_total").await >= 4);
    assert_eq!(host.control().all_calls().get("PowerOnVM_Task"), calls.get("PowerOnVM_Task"));
    assert_eq!(host.control().calls("PowerOffVM_Task"), 0);

    otter.set_disk_full(false);
    otter.wait_for_field(&running, "state", "succeeded").await;
    otter.wait_for_field(&waiting, "state", "cancelled").await;
    assert_eq!(otter.metric("otter_store_failing").await, 0);
    let keyed = otter.daemon.request(reqwest::Method::POST, &format!("/v1/machines/{OTHER}/power"));
    let keyed = keyed.header("idempotency-key", "full").json(&json!({"action": "off"}));
    Answer::from_request(keyed).await.expect(202);
    assert_eq!(otter.logged("the database refuses commits"), 1);
    assert_eq!(otter.logged("the database accepts commits again"), 1);
    assert_eq!(
        otter.logged(&format!("\"job\":\"{running}\",\"error\"")),
        1,
        "one line, and not one for each attempt"
    );
    assert!(otter.daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_write_makes_otter_not_ready_with_the_reason() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let otter = LimitedDaemon::start(&host, &directory.path().join("state")).await;
    let warned = async || {
        let about = otter.daemon.get("/v1/about").await.expect(200).json;
        about["warnings"].as_array().unwrap().iter().any(|warning| {
            let warning = warning.as_str().unwrap();
            warning.contains("refuses writes") && warning.contains("disk I/O error")
        })
    };
    assert!(!warned().await);
    otter.set_disk_full(true);
    otter.power(MACHINE, "on").await.problem(503, "storage-unavailable");
    let problem = otter.daemon.get("/readyz").await.problem(503, "storage-unavailable").json;
    assert_eq!(problem["retry"], "after");
    assert!(problem["detail"].as_str().unwrap().contains("disk I/O error"), "{problem}");
    otter.daemon.get("/healthz").await.expect(200);
    assert!(warned().await);
    // otter notices that the store works again without a write by a caller.
    otter.set_disk_full(false);
    eventually("otter to be ready", async || otter.daemon.get("/readyz").await.status == 200).await;
    assert!(!warned().await);
    assert!(otter.daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_until_its_intent_is_on_disk() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    let otter = LimitedDaemon::start(&host, &state).await;
    // The job waits for the task of another client, so it has started and has not called the host.
    host.control().mutate(|world| {
        world
            .start_task(
                MACHINE,
                otter::simulator::world::Operation::CreateSnapshot {
                    name: "a colleague's".to_owned(),
                    description: String::new(),
                    memory: false,
                    quiesce: false,
                },
                "colleague",
            )
            .unwrap();
    });
    let job = id(&otter.power(MACHINE, "on").await.expect(202));
    eventually("the job to wait", async || {
        otter.job(&job).await["blocked_by"]["kind"] == "host_task"
    })
    .await;
    otter.set_disk_full(true);
    finish_task(&host).await;
    eventually("the commit to be refused", async || otter.metric("otter_store_failing").await == 1)
        .await;
    assert_eq!(host.control().calls("PowerOnVM_Task"), 0);

    // After a kill at this point the next daemon makes the call.
    otter.daemon.kill();
    let otter = LimitedDaemon::start(&host, &state).await;
    host.control().until_called("PowerOnVM_Task", 1).await;
    finish_task(&host).await;
    otter.wait_for_field(&job, "state", "succeeded").await;
    assert_eq!(host.control().calls("PowerOnVM_Task"), 1);
    assert!(otter.daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_daemon_while_the_disk_is_full() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    let otter = LimitedDaemon::start(&host, &state).await;
    let job = id(&otter.power(MACHINE, "on").await.expect(202));
    eventually("the task to be on disk", async || !otter.job(&job).await["host_task"].is_null())
        .await;
    otter.set_disk_full(true);
    finish_task(&host).await;
    eventually("the commit to be refused", async || otter.metric("otter_store_failing").await == 1)
        .await;
    // After the first signal the daemon waits for the commit until the grace period ends.
    otter.daemon.signal(Signal::TERM);
    eventually("new connections to be refused", async || {
        TcpStream::connect(otter.daemon.address()).await.is_err()
    })
    .await;
    otter.daemon.signal(Signal::TERM);
    otter.daemon.wait_for_exit().await;

    let otter = LimitedDaemon::start(&host, &state).await;
    otter.wait_for_field(&job, "state", "succeeded").await;
    assert_eq!(host.control().calls("PowerOnVM_Task"), 1);
    assert!(otter.daemon.terminate().await.success());
}

async fn start_on(state: &Path) -> (Option<i32>, String) {
    let mut command =
        otter_command(&["serve", "--simulate", "--listen", "127.0.0.1:0", "--state-dir"]);
    command.arg(state);
    run_to_exit(command).await
}

#[tokio::test]
async fn a_start_without_a_writable_state_directory_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    // Even root cannot create files here.
    let (code, text) = start_on(Path::new("/proc/self")).await;
    assert!(code == Some(1) && text.contains("/proc/self") && text.contains("read-only"), "{text}");

    let state = directory.path().join("full");
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_otter")])
        .args(["serve", "--simulate", "--listen", "127.0.0.1:0", "--state-dir"])
        .arg(&state);
    let (code, text) = run_to_exit(command).await;
    assert!(
        code == Some(1) && text.contains(state.to_str().unwrap()) && text.contains("full"),
        "{text}"
    );
}

/// Stores one ended job in a state directory and returns the id of the job.
async fn store_ended_job(host: &Simulator, state: &Path) -> String {
    let daemon = Daemon::start_for_host(host, state).await;
    let job = daemon
        .post(&format!("/v1/machines/{MACHINE}/power"), json!({"action": "off"}))
        .await
        .expect(202);
    let job = id(&job);
    daemon.get(&format!("/v1/jobs/{job}/wait?wait=10s")).await.expect(200);
    assert!(daemon.terminate().await.success());
    job
}

/// A trigger simulates a disk that is full at the start: the first write of otter fails, and all
/// reads work.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_store_that_refuses_writes_serves_reads() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    let job = store_ended_job(&host, &state).await;
    let file = format!("sqlite://{}", state.join("otter.db").display());
    let change = async |statement: &'static str| {
        let database = SqlitePool::connect(&file).await.unwrap();
        sqlx::query(statement).execute(&database).await.unwrap();
        database.close().await;
    };
    change(
        "CREATE TRIGGER refuse BEFORE INSERT ON last_seen BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .await;
    let daemon = Daemon::start_without_waiting(&host, &state, "").await;
    let loaded = async || daemon.get("/v1/machines").await.status == 200;
    eventually("the inventory to be loaded", loaded).await;
    daemon.get(&format!("/v1/jobs/{job}")).await.expect(200);
    change("DROP TRIGGER refuse").await;
    assert!(daemon.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_refused_and_not_changed() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    store_ended_job(&host, &state).await;
    let file = state.join("otter.db");
    let whole = std::fs::read(&file).unwrap();
    let middle = whole.len() / 2 / 4_096 * 4_096;
    let mut damaged = whole.clone();
    damaged[middle..].fill(0xa5);
    for bytes in [damaged, whole[..middle].to_vec(), Vec::new()] {
        std::fs::write(&file, &bytes).unwrap();
        let (code, text) = start_on(&state).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(file.to_str().unwrap()) && text.contains("restore a copy"), "{text}");
        assert!(!text.contains("panicked"), "{text}");
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
    }
    std::fs::write(&file, &whole).unwrap();
    let daemon = Daemon::start_for_host(&host, &state).await;
    assert_eq!(daemon.get("/v1/jobs").await.expect(200).json["items"].as_array().unwrap().len(), 1);
}

/// A read of damaged pages is a 500. Every other answer is right: no answer says that an accepted
/// job does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_damaged_while_otter_runs_gives_no_wrong_answers() {
    let (host, directory) = (host().await, tempfile::tempdir().unwrap());
    let state = directory.path().join("state");
    let old = store_ended_job(&host, &state).await;
    let daemon = Daemon::start_for_host(&host, &state).await;
    let file = state.join("otter.db");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4_096..].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();

    for path in
        [format!("/v1/jobs/{old}"), "/v1/jobs".to_owned(), format!("/v1/jobs/{old}/wait?wait=1s")]
    {
        let answer = daemon.get(&path).await;
        let right = answer.status == 200 && answer.text.contains(&old);
        assert!(right || answer.status == 500, "{path}: {} {}", answer.status, answer.text);
    }
    let started =
        daemon.post(&format!("/v1/machines/{OTHER}/power"), json!({"action": "off"})).await;
    assert!(matches!(started.status, 202 | 500 | 503), "{}", started.text);
    daemon.get(&format!("/v1/machines/{OTHER}")).await.expect(200);
    daemon.get("/healthz").await.expect(200);
    daemon.kill();
    let (code, text) = start_on(&state).await;
    assert!(code == Some(1) && text.contains("otter.db"), "{text}");
}

/// otter retries the internal steps of a lease, because no caller repeats them.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_step_that_the_store_refuses_is_retried() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let host = Simulator::start(SimulatorOptions::new(Scenario::lab().unwrap(), Clock::system()))
        .await
        .unwrap();
    let daemon = Daemon::start_for_host(&host, &state).await;
    let database = SqlitePool::connect(&format!("sqlite://{}", state.join("otter.db").display()))
        .await
        .unwrap();
    let statement = async |text: &'static str| sqlx::query(text).execute(&database).await.unwrap();
    let refusals = async || daemon.metric("otter_store_refusals_total").await;

    let refuse = "CREATE TRIGGER no BEFORE UPDATE ON leases WHEN NEW.state IN ('active', \
        'released') BEGIN SELECT RAISE(ABORT, 'no'); END";
    statement(refuse).await;
    let asked = json!({"select": {"machine": MACHINE}, "ttl": "10m", "prepare": {"power": "on"}});
    let lease = daemon.post("/v1/leases", asked).await.expect(201);
    let path = format!("/v1/leases/{}", lease.str("id"));
    let secret = format!("{}.{}", lease.str("id"), lease.str("secret"));
    eventually("the job to have ended, and a step to be refused", async || {
        let jobs = daemon.get("/v1/jobs?kind=lease.prepare&state=succeeded").await.expect(200);
        jobs.json["items"].as_array().unwrap().len() == 1 && refusals().await > 1
    })
    .await;
    assert_eq!(daemon.get(&path).await.expect(200).json["state"], "preparing");
    statement("DROP TRIGGER no").await;
    daemon.get(&format!("{path}/wait?wait=20s")).await.expect(200);

    statement(refuse).await;
    let before = refusals().await;
    let give_back = daemon.request(reqwest::Method::DELETE, &path).header("otter-lease", &secret);
    Answer::from_request(give_back).await.expect(200);
    eventually("its last step to be refused", async || refusals().await > before).await;
    assert_eq!(daemon.get(&path).await.expect(200).json["state"], "releasing");
    statement("DROP TRIGGER no").await;
    eventually("the machine to be free", async || {
        daemon.get(&format!("/v1/machines/{MACHINE}")).await.expect(200).json["free"] == true
    })
    .await;
    assert_eq!(daemon.get(&path).await.expect(200).json["state"], "released");
    assert!(daemon.terminate().await.success());
}

/// otter fails between the commit of a job and its answer, so it cannot say whether the job is
/// stored. A repeat without a key would start a second job.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_key_that_is_not_confirmed_is_not_repeated() {
    let daemon = Daemon::start(&["--simulate"], &[("FAILPOINTS", "accept-committed=panic")]).await;
    eventually("the inventory", async || daemon.get("/readyz").await.status == 200).await;
    let path = format!("/v1/machines/{MACHINE}/power");
    let unknown = daemon.post(&path, json!({"action": "on"})).await.problem(409, "outcome-unknown");
    assert_eq!(unknown.str("retry"), "no");
    let job = unknown.str("job");
    assert_eq!(daemon.get(&format!("/v1/jobs/{job}")).await.expect(200).str("id"), job);
    let keyed = || daemon.request(reqwest::Method::POST, &path).header("idempotency-key", "k");
    let keyed = async || Answer::from_request(keyed().json(&json!({"action": "on"}))).await;
    keyed().await.problem(500, "internal");
    let replayed = keyed().await.expect(202);
    assert_eq!(replayed.header("idempotent-replayed"), Some("true"));
    assert_ne!(replayed.str("id"), job);
}
