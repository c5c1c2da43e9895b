//! One lane: a simulated host, a state directory, and daemon after daemon that dies before the one
//! and on the other.
//!
//! ```text
//! life: start ─► verify what the last lives left open ─► load ─► death, at random or at a named step
//! last: start ─► verify ─► until no job is left ─► audit
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
use super::dice::Dice;
use super::ledger::Ledger;
use super::load::{Caller, MACHINES, Mix};
use super::steps::{Step, kill_at};
use super::stream::Reader;
use crate::harness::{Daemon, HostProcess, PATIENCE, pause};

/// How many callers there are.
const CALLERS: u64 = 6;

/// How fast the hosts of the lanes are, one after the other.
const PACES: [&str; 4] = ["0.05", "0.2", "0.01", "0.1"];

/// How long a named step may take to be reached, from the start of the daemon on.
const REACHED_WITHIN: Duration = Duration::from_secs(6);

/// How a life ends.
#[derive(Clone, Copy, Debug)]
pub enum Death {
    /// So long after the daemon is ready.
    Ready(Duration),
    /// So long after its start.
    Started(Duration),
    /// By a SIGTERM, so long after the daemon is ready.
    Stopped(Duration),
    /// When a step is reached for this time.
    At(Step, u32),
}

/// What a lane saw.
#[derive(Default)]
pub struct Seen {
    pub lives: u32,
    pub reached: BTreeMap<Step, u32>,
    /// Where the unfinished jobs were on disk, at each kill that came at random.
    pub at_random: BTreeMap<&'static str, u32>,
    pub wrongs: Vec<String>,
    pub audit: Audit,
}

/// What a lane does.
#[derive(Clone, Copy, Default)]
pub struct Plan {
    /// The host forgets sessions and tasks, restarts, and hangs up on calls, too.
    pub trouble: bool,
}

pub struct Lane {
    host: HostProcess,
    directory: tempfile::TempDir,
    ledger: Ledger,
    seed: u64,
    plan: Plan,
    last_event: Option<String>,
    seen: Seen,
}

impl Lane {
    pub async fn start(seed: u64, plan: Plan) -> Self {
        let pace = PACES[Dice::of(seed, &[]).at(PACES.len())];
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
            ledger: Ledger::default(),
            seed,
            plan,
            last_event: None,
            seen: Seen::default(),
        }
    }

    /// A round: a kill at random, then one at this step, which is tried for until it is reached.
    pub async fn round(&mut self, step: Step) {
        let mut dice = Dice::of(self.seed, &[u64::from(self.seen.lives)]);
        let death = if dice.chance(25) {
            Death::Started(Duration::from_millis(dice.below(250)))
        } else {
            Death::Ready(Duration::from_millis(dice.below(600)))
        };
        self.live(death).await;
        if self.plan.trouble {
            self.live(Death::Stopped(Duration::from_millis(dice.below(600)))).await;
        }
        for attempt in 0..6 {
            // What only a start after a loss comes by.
            let lost = match step {
                Step::Settle | Step::AgainCommitted => Some(Step::Call),
                Step::Judge => Some(Step::Answered),
                _ => None,
            };
            let rare = lost.is_some()
                || matches!(
                    step,
                    Step::Open
                        | Step::Recover
                        | Step::Resume
                        | Step::Recovered
                        | Step::CancelTask
                        | Step::Watch
                );
            if let Some(lost) = lost {
                self.live(Death::At(lost, 1)).await;
            }
            let visits =
                if rare || attempt > 0 { 1 } else { 1 + u32::try_from(dice.below(4)).unwrap() };
            if self.live(Death::At(step, visits)).await {
                return;
            }
        }
    }

    /// One life. Whether it ended as it was to.
    pub async fn live(&mut self, death: Death) -> bool {
        self.seen.lives += 1;
        let started = Instant::now();
        let Some(mut daemon) = self.daemon(death).await else {
            let expected = matches!(death, Death::At(Step::Open, _));
            if expected {
                *self.seen.reached.entry(Step::Open).or_default() += 1;
            } else {
                self.ledger.wrong(format!("the daemon does not start, and was to die {death:?}"));
            }
            return expected;
        };
        if self.plan.trouble {
            self.make_trouble().await;
        }
        let mix = match death {
            Death::At(Step::Watch, _) => Mix::Guests,
            Death::At(Step::Cancel | Step::CancelTask, _) => Mix::Cancels,
            Death::At(Step::Answered, _) => Mix::SentOnce,
            Death::At(Step::Key, _) => Mix::Keyed,
            _ => Mix::Everything,
        };
        let caller = Caller::new(daemon.address(), &self.ledger, self.seen.lives);
        let reader = Reader::open(caller.clone(), self.last_event.take());
        let reader = tokio::spawn(async move { reader.await.run().await });
        let mut callers = JoinSet::new();
        let mut begun = Some(Box::pin(begin(caller.clone())));
        let mut until = match death {
            Death::Ready(_) | Death::Stopped(_) => started + PATIENCE,
            Death::Started(after) => started + after,
            Death::At(..) => started + REACHED_WITHIN,
        };
        loop {
            tokio::select! {
                biased;
                () = async { while daemon.is_running() { pause().await } } => break,
                () = sleep_until(until) => break,
                ready = async { begun.as_mut().unwrap().await }, if begun.is_some() => {
                    begun = None;
                    if ready.is_none() {
                        continue;
                    }
                    if let Death::Ready(after) | Death::Stopped(after) = death {
                        until = Instant::now() + after;
                    }
                    for number in 0..CALLERS {
                        let dice = Dice::of(self.seed, &[u64::from(self.seen.lives), number]);
                        callers.spawn(caller.clone().work(dice, mix));
                    }
                }
            }
        }
        let by_itself = !daemon.is_running();
        let stopped = matches!(death, Death::Stopped(_)) && !by_itself;
        let status = if stopped {
            daemon.signal(Signal::TERM);
            daemon.ended().await
        } else {
            daemon.kill()
        };
        let ended = timeout(PATIENCE, async { while callers.join_next().await.is_some() {} }).await;
        ended.expect("the callers to notice");
        self.last_event = timeout(PATIENCE, reader).await.expect("the stream to end").unwrap().last;
        let as_planned =
            if stopped { status.success() } else { status.signal() == Some(Signal::KILL.as_raw()) };
        match death {
            _ if !as_planned => {
                self.ledger.wrong(format!("the daemon was to die {death:?} and ended: {status}"));
            }
            Death::At(step, _) if by_itself => *self.seen.reached.entry(step).or_default() += 1,
            _ if by_itself => {
                self.ledger.wrong(format!("the daemon was to die {death:?} and was killed before"));
            }
            _ if stopped => {}
            _ => self.note_jobs().await,
        }
        by_itself
    }

    /// Lets everything end, and holds it all against the world.
    pub async fn finish(mut self) -> Seen {
        self.seen.lives += 1;
        let daemon = self.daemon(Death::Ready(PATIENCE)).await.expect("a daemon");
        let caller = Caller::new(daemon.address(), &self.ledger, self.seen.lives);
        self.host.forget_faults().await;
        let quiet = async {
            begin(caller.clone()).await?;
            let reader = Reader::open(caller.clone(), self.last_event.take()).await;
            let unfinished = caller.read("/v1/jobs?state=queued,running&limit=1000").await?;
            let reader = tokio::spawn(reader.run());
            while !caller.read("/v1/jobs?state=queued,running&limit=1").await?["items"]
                .as_array()?
                .is_empty()
            {
                pause().await;
            }
            Some((reader, unfinished["items"].as_array()?.clone()))
        };
        let quiet = timeout(PATIENCE * 4, quiet).await.expect("all jobs to end");
        let (reader, unfinished) = quiet.expect("a daemon that lives");
        let jobs = caller.all_jobs().await.expect("all jobs");
        self.ledger.settle(&jobs);
        self.seen.audit = audit(&caller, &self.host, &jobs, !self.plan.trouble).await;
        assert!(daemon.terminate().await.success());
        let told = timeout(PATIENCE, reader).await.expect("the stream to end").unwrap().ended;
        for job in unfinished
            .iter()
            .filter_map(|job| job["id"].as_str())
            .filter(|job| !told.contains(*job))
        {
            self.ledger.wrong(format!("the stream kept the end of the job {job} to itself"));
        }
        let log = std::fs::read_to_string(self.log()).unwrap();
        for line in
            log.lines().filter(|line| line.contains("panicked") || line.contains("\"ERROR\""))
        {
            self.ledger.wrong(format!("the log says {line}"));
        }
        self.seen.wrongs = self.ledger.wrongs();
        self.seen
    }

    async fn daemon(&self, death: Death) -> Option<Daemon> {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.host.serve(&self.directory.path().join("otter.toml"), &self.state());
        command.stderr(Stdio::from(log));
        if let Death::At(step, visits) = death {
            let (variable, armed) = kill_at(step.name(), visits);
            command.env(variable, armed);
        }
        Daemon::attempt(command).await
    }

    /// One thing at once, and two calls that are hit later.
    async fn make_trouble(&self) {
        let mut dice = Dice::of(self.seed, &[u64::from(self.seen.lives), 99]);
        let at_once = [
            ("expire-sessions", json!({})),
            ("vanish-tasks", json!({})),
            ("restart-hostd", json!({"drop_running": false})),
            ("restart-hostd", json!({"drop_running": true})),
        ];
        let (what, how) = &at_once[dice.at(at_once.len())];
        self.host.order(&format!("/{what}"), how).await;
        for _ in 0..2 {
            let what = [
                json!("close-before"),
                json!("close-after"),
                json!("close-mid-answer"),
                json!("expire-sessions"),
            ];
            let what = &what[dice.at(what.len())];
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
            let fault = json!({"method": method[dice.at(method.len())], "skip": dice.below(3), "what": what});
            self.host.order("/faults", &fault).await;
        }
    }

    /// Reads where the jobs are that have no end, from a copy: the next daemon is to find what the
    /// last one left.
    async fn note_jobs(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        for file in ["otter.db", "otter.db-wal"] {
            // Killed before it made them.
            let _ = std::fs::copy(self.state().join(file), copy.path().join(file));
        }
        let store = Store::open(copy.path()).await.expect("a database that opens");
        for job in store.unfinished_jobs().await.expect("jobs that can be read") {
            *self.seen.at_random.entry(stage(&job)).or_default() += 1;
        }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

/// Where a job is by what is on disk.
fn stage(job: &Job) -> &'static str {
    match &job.intent {
        _ if job.state == JobState::Queued => "queued",
        Some(_) if job.host_task.is_some() => "its task known",
        Some(intent) if intent.asked > 1 => "to be asked again",
        Some(_) => "its call committed",
        None if job.steps.is_empty() => "started",
        None => "between two calls",
    }
}

/// Waits for the picture, then looks at what earlier lives left open.
async fn begin(caller: Caller) -> Option<()> {
    while !caller.is_ready().await? {
        pause().await;
    }
    caller.verify().await
}
