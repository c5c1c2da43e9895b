//! A soak test for leaks: the otter binary with a simulated host in its own process.
//!
//! In each round sessions expire, hostd restarts, machines change, jobs run, and clients abandon
//! waits and streams. At the end, when nothing is in progress, the memory, the open files and
//! otter's objects on the host are as they were after the first rounds. `OTTER_SOAK_SECONDS` sets
//! the duration; `tests/leaks` runs the test for ten minutes.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::harness::{Answer, Daemon, HostObjects, HostProcess, eventually};

const MACHINES: usize = 20;
const ARGUMENTS: [&str; 2] = ["--machines", "20"];
/// The default duration. It is enough to find a leak that happens in every round.
const SECONDS: u64 = 12;
/// The share of the duration for the warm-up, in which pools fill and buffers grow.
const WARM_UP_SHARE: f64 = 0.3;
/// The number of waits, and of streams, that clients abandon in a round.
const ABANDONED_PER_ROUND: usize = 25;
/// The number of additional files that may be open at the end, for connections to the host.
const MORE_FILES: usize = 6;
/// The additional memory in bytes that may be in use at the end: for the events that are kept for
/// readers who resume, whose number is bounded, and for the allocator.
const MORE_MEMORY: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn sessions_jobs_waits_and_streams_leak_nothing() {
    let seconds =
        std::env::var("OTTER_SOAK_SECONDS").map_or(SECONDS, |given| given.parse().unwrap());
    let soak = Duration::from_secs(seconds);
    let fixture = LeakFixture::start().await;
    let (started, mut session_losses, mut rounds) = (now(), SessionLosses::default(), 0);
    while rounds < 2 || started.elapsed() < soak.mul_f64(WARM_UP_SHARE) {
        fixture.round(rounds, session_losses.next(started.elapsed())).await;
        rounds += 1;
    }
    let warm = fixture.measure_when_idle().await;
    println!("warm after {rounds} rounds and {} s: {warm}", started.elapsed().as_secs());
    let warmed = rounds;
    while rounds < 2 * warmed.min(2) || started.elapsed() < soak {
        fixture.round(rounds, session_losses.next(started.elapsed())).await;
        rounds += 1;
    }
    let end = fixture.measure_when_idle().await;
    println!("at the end, after {rounds} rounds and {} s: {end}", started.elapsed().as_secs());
    println!("meanwhile: {} jobs, {} logins", fixture.jobs().await, fixture.logins().await);
    assert_eq!(
        (end.host_objects, end.waits, end.streams),
        (warm.host_objects, 0, 0),
        "objects on the host, open waits, open streams"
    );
    assert_eq!(end.host_objects.sessions, 1);
    assert!(
        end.files <= warm.files + MORE_FILES,
        "{} open files, and {} before",
        end.files,
        warm.files
    );
    assert!(
        end.memory <= warm.memory + MORE_MEMORY,
        "{} bytes, and {} before",
        end.memory,
        warm.memory
    );
}

/// A daemon, its host, and an HTTP client that keeps no idle connections.
struct LeakFixture {
    host: HostProcess,
    daemon: Daemon,
    client: Client,
    _state: tempfile::TempDir,
}

/// The schedule of session losses: a few in a row, then a pause of a minute. After the pause otter
/// logs in without delay again, because otter waits longer with each loss in a row.
#[derive(Default)]
struct SessionLosses {
    losses_in_a_row: usize,
    last: Duration,
}

impl SessionLosses {
    const LOSSES_IN_A_ROW: usize = 4;
    const PAUSE: Duration = Duration::from_secs(65);

    /// The admin path that causes the loss in this round. `None` if the session is not lost.
    fn next(&mut self, elapsed: Duration) -> Option<&'static str> {
        if elapsed.saturating_sub(self.last) > Self::PAUSE {
            self.losses_in_a_row = 0;
        }
        if self.losses_in_a_row == Self::LOSSES_IN_A_ROW {
            return None;
        }
        self.losses_in_a_row += 1;
        self.last = elapsed;
        Some(["/expire-sessions", "/restart-hostd"][self.losses_in_a_row % 2])
    }
}

/// The amounts of everything that can leak.
#[derive(Debug)]
struct Measure {
    memory: u64,
    files: usize,
    host_objects: HostObjects,
    waits: u64,
    streams: u64,
}

impl std::fmt::Display for Measure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            memory,
            files,
            host_objects: HostObjects { sessions, views, filters },
            waits,
            streams,
        } = self;
        write!(
            formatter,
            "{:.1} MiB, {files} open files, {waits} waits, {streams} streams; on the host \
             {sessions} sessions, {views} views, {filters} filters",
            f64::from(u32::try_from(memory >> 10).unwrap()) / 1024.0
        )
    }
}

impl LeakFixture {
    async fn start() -> Self {
        let host = HostProcess::start(&ARGUMENTS).await;
        let state = tempfile::tempdir().unwrap();
        let config = state.path().join("otter.toml");
        std::fs::write(&config, "[esx]\nsettle = \"1s\"\nguest_settle = \"1s\"\n").unwrap();
        let (config, directory) = (config.to_str().unwrap(), state.path().join("state"));
        let daemon = Daemon::start(
            &[
                "--config",
                config,
                "--state-dir",
                directory.to_str().unwrap(),
                "--log-level",
                "error",
            ],
            &[
                ("OTTER_ESX_URL", host.url.as_str()),
                ("OTTER_ESX_USERNAME", "root"),
                ("OTTER_ESX_PASSWORD", "otter"),
                ("OTTER_ESX_VERIFY", host.verify.as_str()),
            ],
        )
        .await;
        eventually("the inventory to be loaded", async || {
            daemon.get("/readyz").await.status == 200
        })
        .await;
        let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        Self { host, daemon, client, _state: state }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.daemon.address()))
    }

    async fn get(&self, path: &str) -> Answer {
        Answer::from_request(self.request(Method::GET, path)).await
    }

    /// Runs one round, with a session loss of this kind.
    async fn round(&self, number: usize, loss: Option<&str>) {
        let (abandoned, ()) = tokio::join!(self.open_and_abandon(), self.change(number));
        drop(abandoned);
        let Some(loss) = loss else { return };
        let logins = self.logins().await;
        self.host.post_admin(loss, &json!({})).await;
        eventually("another login", async || self.logins().await > logins).await;
        eventually("the session to be back", async || {
            self.get("/readyz?host=true").await.status == 200
        })
        .await;
    }

    /// Opens and abandons waits, and opens streams. The streams close when the result is dropped.
    async fn open_and_abandon(&self) -> Vec<reqwest::Response> {
        let mut streams = Vec::new();
        for number in 0..ABANDONED_PER_ROUND {
            let wait = self.request(Method::GET, "/v1/machines/3/wait?until=question&wait=5m");
            // The wait blocks in otter, and the client drops it without an answer.
            let _ = tokio::time::timeout(Duration::from_millis(5), wait.send()).await;
            let query = ["", "?initial=true"][number % 2];
            let stream =
                self.request(Method::GET, &format!("/v1/events{query}")).send().await.unwrap();
            assert_eq!(stream.status().as_u16(), 200);
            streams.push(stream);
        }
        for stream in streams.iter_mut().skip(1).step_by(4) {
            stream.chunk().await.unwrap().unwrap();
        }
        streams
    }

    /// Runs jobs on two machines, and reads some lists.
    async fn change(&self, number: usize) {
        let machine = 1 + number % MACHINES;
        let other = 1 + (number + 7) % MACHINES;
        tokio::join!(self.snapshot_jobs(machine), self.power_on_and_off(other));
        for path in ["/v1/machines", "/v1/datastores", "/v1/jobs?limit=50", "/v1/about"] {
            self.get(path).await.expect(200);
        }
    }

    async fn snapshot_jobs(&self, machine: usize) {
        let snapshots = format!("/v1/machines/{machine}/snapshots");
        let made = self.run_job(Method::POST, &snapshots, json!({"name": "soaked"})).await;
        let path = format!("{snapshots}/{}", made["result"]["snapshot"].as_str().unwrap());
        self.run_job(Method::POST, &format!("{path}/revert"), json!({})).await;
        self.run_job(Method::DELETE, &path, Value::Null).await;
    }

    async fn power_on_and_off(&self, machine: usize) {
        for action in ["on", "off"] {
            self.run_job(
                Method::POST,
                &format!("/v1/machines/{machine}/power"),
                json!({"action": action}),
            )
            .await;
        }
    }

    /// Runs a job to its end and returns it.
    async fn run_job(&self, method: Method, path: &str, body: Value) -> Value {
        let request = self.request(method, &format!("{path}?wait=1m"));
        let request = if body.is_null() { request } else { request.json(&body) };
        Answer::from_request(request).await.expect(200).json
    }

    async fn logins(&self) -> u64 {
        self.get("/v1/about").await.expect(200).json["session"]["logins"].as_u64().unwrap()
    }

    async fn jobs(&self) -> u64 {
        let mut count = 0;
        let mut path = "/v1/jobs?limit=1000".to_owned();
        loop {
            let page = self.get(&path).await.expect(200).json;
            count += u64::try_from(page["items"].as_array().unwrap().len()).unwrap();
            let Some(next) = page["next"].as_str() else { return count };
            path = format!("/v1/jobs?limit=1000&cursor={next}");
        }
    }

    /// Waits until nothing is in progress, then measures.
    async fn measure_when_idle(&self) -> Measure {
        eventually("no open wait or stream", async || {
            self.daemon.metric("otter_waits_open").await == 0
                && self.daemon.metric("otter_event_streams_open").await == 0
        })
        .await;
        let running = "/v1/jobs?state=queued,running";
        eventually("no unfinished job", async || {
            self.get(running).await.expect(200).items("id").is_empty()
        })
        .await;
        Measure {
            memory: self.daemon.resident_memory(),
            files: self.daemon.open_files(),
            host_objects: self.host.objects().await,
            waits: self.daemon.metric("otter_waits_open").await,
            streams: self.daemon.metric("otter_event_streams_open").await,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the duration of the soak test")]
fn now() -> Instant {
    Instant::now()
}
