//! A worker of the crash test: one simulated host, one state directory, and one daemon after
//! another that is killed under load.
//!
//! ```text
//! each run: start ─► verify the jobs of earlier runs ─► load ─► kill, at random or at a fail point
//! last run: start ─► verify ─► wait until all jobs have ended ─► audit
//! ```

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use otter::domain::job::{Job, JobState};
use otter::storage::Storage;
use otter::store::Store;
use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::audit::{Audit, audit};
use super::call_log::CallLog;
use super::event_reader::EventReader;
use super::fail_points::{FailPoint, kill_at};
use super::load_client::{LoadClient, LoadMix, MACHINES};
use super::random::SeededRandom;
use crate::harness::{Daemon, HostProcess, TIMEOUT, pause};

/// The number of clients that make the load.
const CLIENTS: u64 = 6;

/// The paces of the simulated hosts, of which a worker chooses one.
const PACES: [&str; 4] = ["0.05", "0.2", "0.01", "0.1"];

/// The longest time from the start of the daemon until it reaches the fail point.
const FAIL_POINT_TIMEOUT: Duration = Duration::from_secs(6);

/// How a run of the daemon ends.
#[derive(Clone, Copy, Debug)]
pub enum DaemonEnd {
    /// Killed this long after the daemon is ready.
    AfterReady(Duration),
    /// Killed this long after the start.
    AfterStart(Duration),
    /// Ended by SIGTERM, this long after the daemon is ready.
    Terminated(Duration),
    /// Killed when it reaches a fail point for the nth time.
    AtFailPoint(FailPoint, u32),
}

/// The result of a worker.
#[derive(Default)]
pub struct WorkerResult {
    pub runs: u32,
    pub reached: BTreeMap<FailPoint, u32>,
    /// The stages on disk of the unfinished jobs at all random kills.
    pub unfinished_at_kill: BTreeMap<&'static str, u32>,
    pub violations: Vec<String>,
    pub audit: Audit,
}

/// The options of a worker.
#[derive(Clone, Copy, Default)]
pub struct WorkerOptions {
    /// Whether the host also loses sessions and tasks, restarts, and closes connections.
    pub host_faults: bool,
}

pub struct Worker {
    host: HostProcess,
    directory: tempfile::TempDir,
    call_log: CallLog,
    seed: u64,
    options: WorkerOptions,
    last_event: Option<String>,
    result: WorkerResult,
}

impl Worker {
    pub async fn start(seed: u64, options: WorkerOptions) -> Self {
        let pace = PACES[SeededRandom::from_seed(seed, &[]).index(PACES.len())];
        let host = HostProcess::start(&["--machines", &MACHINES.to_string(), "--pace", pace]).await;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("otter.toml"),
            "[esx]\nsettle = \"1s\"\nread_timeout = \"10s\"\n",
        )
        .unwrap();
        Self {
            host,
            directory,
            call_log: CallLog::default(),
            seed,
            options,
            last_event: None,
            result: WorkerResult::default(),
        }
    }

    /// Runs a round: a kill at a random moment, then a kill at this fail point. Repeats the second
    /// part until the daemon reaches the fail point.
    pub async fn round(&mut self, step: FailPoint) {
        let mut random = SeededRandom::from_seed(self.seed, &[u64::from(self.result.runs)]);
        let end = if random.chance(25) {
            DaemonEnd::AfterStart(Duration::from_millis(random.below(250)))
        } else {
            DaemonEnd::AfterReady(Duration::from_millis(random.below(600)))
        };
        self.run_daemon(end).await;
        if self.options.host_faults {
            self.run_daemon(DaemonEnd::Terminated(Duration::from_millis(random.below(600)))).await;
        }
        for attempt in 0..6 {
            // The daemon reaches these fail points only at a start after a lost call.
            let preceding = match step {
                FailPoint::Settle | FailPoint::AgainCommitted => Some(FailPoint::Call),
                FailPoint::Judge => Some(FailPoint::Answered),
                _ => None,
            };
            let rare = preceding.is_some()
                || matches!(
                    step,
                    FailPoint::Open
                        | FailPoint::Recover
                        | FailPoint::Resume
                        | FailPoint::Recovered
                        | FailPoint::CancelTask
                        | FailPoint::Watch
                );
            if let Some(preceding) = preceding {
                self.run_daemon(DaemonEnd::AtFailPoint(preceding, 1)).await;
            }
            let visits =
                if rare || attempt > 0 { 1 } else { 1 + u32::try_from(random.below(4)).unwrap() };
            if self.run_daemon(DaemonEnd::AtFailPoint(step, visits)).await {
                return;
            }
        }
    }

    /// Runs the daemon once. Returns whether it ended by itself, as it does at a fail point.
    pub async fn run_daemon(&mut self, end: DaemonEnd) -> bool {
        self.result.runs += 1;
        let started = Instant::now();
        let Some(mut daemon) = self.daemon(end).await else {
            let expected = matches!(end, DaemonEnd::AtFailPoint(FailPoint::Open, _));
            if expected {
                *self.result.reached.entry(FailPoint::Open).or_default() += 1;
            } else {
                self.call_log
                    .add_violation(format!("the daemon did not start in a run that ends {end:?}"));
            }
            return expected;
        };
        if self.options.host_faults {
            self.inject_host_faults().await;
        }
        let mix = match end {
            DaemonEnd::AtFailPoint(FailPoint::Watch, _) => LoadMix::Guests,
            DaemonEnd::AtFailPoint(FailPoint::Cancel | FailPoint::CancelTask, _) => {
                LoadMix::Cancels
            }
            DaemonEnd::AtFailPoint(FailPoint::Answered, _) => LoadMix::SentOnce,
            DaemonEnd::AtFailPoint(FailPoint::Key, _) => LoadMix::Keyed,
            _ => LoadMix::Everything,
        };
        let client = LoadClient::new(daemon.address(), &self.call_log, self.result.runs);
        let reader = EventReader::open(client.clone(), self.last_event.take());
        let reader = tokio::spawn(async move { reader.await.run().await });
        let mut clients = JoinSet::new();
        let mut preparing = Some(Box::pin(wait_and_verify(client.clone())));
        let mut until = match end {
            DaemonEnd::AfterReady(_) | DaemonEnd::Terminated(_) => started + TIMEOUT,
            DaemonEnd::AfterStart(after) => started + after,
            DaemonEnd::AtFailPoint(..) => started + FAIL_POINT_TIMEOUT,
        };
        loop {
            tokio::select! {
                biased;
                () = async { while daemon.is_running() { pause().await } } => break,
                () = sleep_until(until) => break,
                ready = async { preparing.as_mut().unwrap().await }, if preparing.is_some() => {
                    preparing = None;
                    if ready.is_none() {
                        continue;
                    }
                    if let DaemonEnd::AfterReady(after) | DaemonEnd::Terminated(after) = end {
                        until = Instant::now() + after;
                    }
                    for number in 0..CLIENTS {
                        let random = SeededRandom::from_seed(self.seed, &[u64::from(self.result.runs), number]);
                        clients.spawn(client.clone().run(random, mix));
                    }
                }
            }
        }
        let ended_by_itself = !daemon.is_running();
        let stopped = matches!(end, DaemonEnd::Terminated(_)) && !ended_by_itself;
        let status = if stopped {
            daemon.signal(Signal::TERM);
            daemon.wait_for_exit().await
        } else {
            daemon.kill()
        };
        let clients_ended =
            timeout(TIMEOUT, async { while clients.join_next().await.is_some() {} }).await;
        clients_ended.expect("the clients to end");
        self.last_event = timeout(TIMEOUT, reader).await.expect("the stream to end").unwrap().last;
        let as_planned =
            if stopped { status.success() } else { status.signal() == Some(Signal::KILL.as_raw()) };
        match end {
            _ if !as_planned => {
                self.call_log
                    .add_violation(format!("the run should end {end:?} and ended: {status}"));
            }
            DaemonEnd::AtFailPoint(step, _) if ended_by_itself => {
                *self.result.reached.entry(step).or_default() += 1;
            }
            _ if ended_by_itself => {
                self.call_log.add_violation(format!("the run should end {end:?} and ended before"));
            }
            _ if stopped => {}
            _ => self.count_unfinished_jobs().await,
        }
        ended_by_itself
    }

    /// Waits until all jobs have ended, and audits them against the host.
    pub async fn finish(mut self) -> WorkerResult {
        self.result.runs += 1;
        let daemon = self.daemon(DaemonEnd::AfterReady(TIMEOUT)).await.expect("a daemon");
        let client = LoadClient::new(daemon.address(), &self.call_log, self.result.runs);
        self.host.clear_faults().await;
        let all_ended = async {
            wait_and_verify(client.clone()).await?;
            let reader = EventReader::open(client.clone(), self.last_event.take()).await;
            let unfinished = client.read("/v1/jobs?state=queued,running&limit=1000").await?;
            let reader = tokio::spawn(reader.run());
            while !client.read("/v1/jobs?state=queued,running&limit=1").await?["items"]
                .as_array()?
                .is_empty()
            {
                pause().await;
            }
            Some((reader, unfinished["items"].as_array()?.clone()))
        };
        let all_ended = timeout(TIMEOUT * 4, all_ended).await.expect("all jobs to end");
        let (reader, unfinished) = all_ended.expect("a daemon that lives");
        let jobs = client.all_jobs().await.expect("all jobs");
        self.call_log.check_all_jobs(&jobs);
        self.result.audit = audit(&client, &self.host, &jobs, !self.options.host_faults).await;
        assert!(daemon.terminate().await.success());
        let ended_jobs = timeout(TIMEOUT, reader).await.expect("the stream to end").unwrap().ended;
        for job in unfinished
            .iter()
            .filter_map(|job| job["id"].as_str())
            .filter(|job| !ended_jobs.contains(*job))
        {
            self.call_log
                .add_violation(format!("the stream did not report the end of the job {job}"));
        }
        let log = std::fs::read_to_string(self.log()).unwrap();
        for line in
            log.lines().filter(|line| line.contains("panicked") || line.contains("\"ERROR\""))
        {
            self.call_log.add_violation(format!("the log says {line}"));
        }
        self.result.violations = self.call_log.violations();
        self.result
    }

    async fn daemon(&self, end: DaemonEnd) -> Option<Daemon> {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.host.serve(&self.directory.path().join("otter.toml"), &self.state());
        command.stderr(Stdio::from(log));
        if let DaemonEnd::AtFailPoint(step, visits) = end {
            let (variable, armed) = kill_at(step.name(), visits);
            command.env(variable, armed);
        }
        Daemon::try_start(command).await
    }

    /// Injects one fault that acts at once, and two faults for later calls.
    async fn inject_host_faults(&self) {
        let mut random = SeededRandom::from_seed(self.seed, &[u64::from(self.result.runs), 99]);
        let immediate_faults = [
            ("expire-sessions", json!({})),
            ("vanish-tasks", json!({})),
            ("restart-hostd", json!({"drop_running": false})),
            ("restart-hostd", json!({"drop_running": true})),
        ];
        let (what, body) = &immediate_faults[random.index(immediate_faults.len())];
        self.host.post_admin(&format!("/{what}"), body).await;
        for _ in 0..2 {
            let what = [
                json!("close-before"),
                json!("close-after"),
                json!("close-mid-answer"),
                json!("expire-sessions"),
            ];
            let what = &what[random.index(what.len())];
            let method = [
                "PowerOnVM_Task",
                "PowerOffVM_Task",
                "ResetVM_Task",
                "CreateSnapshot_Task",
                "RevertToSnapshot_Task",
                "RemoveSnapshot_Task",
                "RebootGuest",
                "WaitForUpdatesEx",
                "RetrievePropertiesEx",
            ];
            let fault = json!({"method": method[random.index(method.len())], "skip": random.below(3), "what": what});
            self.host.post_admin("/faults", &fault).await;
        }
    }

    /// Counts the stages of the unfinished jobs. Reads a copy of the database, because the next
    /// daemon must find the files unchanged.
    async fn count_unfinished_jobs(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        for file in ["otter.db", "otter.db-wal"] {
            // The daemon may be killed before it creates the files.
            let _ = std::fs::copy(self.state().join(file), copy.path().join(file));
        }
        let store = Store::open(copy.path()).await.expect("a database that opens");
        for job in store.unfinished_jobs().await.expect("jobs that can be read") {
            *self.result.unfinished_at_kill.entry(job_stage(&job)).or_default() += 1;
        }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

/// The stage of a job on disk.
fn job_stage(job: &Job) -> &'static str {
    match &job.intent {
        _ if job.state == JobState::Queued => "queued",
        Some(_) if job.host_task.is_some() => "task known",
        Some(intent) if intent.asked > 1 => "call to repeat",
        Some(_) => "call committed",
        None if job.steps.is_empty() => "started",
        None => "between two calls",
    }
}

/// Waits until the inventory is loaded, then verifies the jobs of earlier runs. `None` if the
/// daemon is gone.
async fn wait_and_verify(client: LoadClient) -> Option<()> {
    while !client.is_ready().await? {
        pause().await;
    }
    client.verify().await
}
