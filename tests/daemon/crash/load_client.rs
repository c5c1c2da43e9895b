//! The clients that make the mixed load of a worker: random requests until the daemon is gone.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::call_log::{CallLog, JobRequest};
use super::random::SeededRandom;
use crate::harness::encode;

/// The number of machines of the simulated host. Every third has VMware Tools.
pub const MACHINES: u64 = 9;

/// Which requests the clients make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadMix {
    /// All kinds of requests.
    Everything,
    /// Like [`Self::Everything`], with more guest shutdowns and restarts.
    Guests,
    /// Like [`Self::Everything`], with more jobs that are cancelled while their task runs.
    Cancels,
    /// Only jobs whose host call must never be sent twice.
    SentOnce,
    /// Only power jobs with an idempotency key, which the clients wait for.
    Keyed,
}

/// A client of one run of the daemon. Each method returns `None` if the daemon is gone.
#[derive(Clone)]
pub struct LoadClient {
    client: reqwest::Client,
    base: String,
    pub call_log: CallLog,
    run: u32,
}

/// The status and the JSON body of an answer.
struct StatusAndBody {
    status: u16,
    json: Value,
}

impl LoadClient {
    pub fn new(address: &str, call_log: &CallLog, run: u32) -> Self {
        // Another test may have installed the provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            reqwest::Client::builder().no_proxy().gzip(false).timeout(Duration::from_secs(20));
        let client = client.build().unwrap();
        Self { client, base: format!("http://{address}"), call_log: call_log.clone(), run }
    }

    /// Makes random requests until the daemon is gone.
    pub async fn run(self, mut random: SeededRandom, mix: LoadMix) {
        while self.do_random_action(&mut random, mix).await.is_some() {}
    }

    /// Reads the unverified jobs and repeats the keyed requests of the last runs. The call log
    /// checks that no job is lost, that no end has changed, and that each key gives its first job.
    pub async fn verify(&self) -> Option<()> {
        for job in self.call_log.unverified_jobs(self.run) {
            self.job(&job).await?;
            self.call_log.mark_verified(&job, self.run);
        }
        for request in self.call_log.keyed_requests(self.run.saturating_sub(2)) {
            self.send(&request, None).await?;
        }
        Some(())
    }

    /// All jobs of otter.
    pub async fn all_jobs(&self) -> Option<Vec<Value>> {
        let (mut jobs, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.read(&format!("/v1/jobs?limit=1000{cursor}")).await?;
            jobs.extend(page["items"].as_array()?.iter().cloned());
            let Some(next) = page["next"].as_str() else { return Some(jobs) };
            cursor = format!("&cursor={}", encode(next));
        }
    }

    /// The body of a GET, which must succeed.
    pub async fn read(&self, path: &str) -> Option<Value> {
        let answer = self.send_request(self.client.get(format!("{}{path}", self.base))).await?;
        if answer.status != 200 {
            self.call_log.add_violation(format!("GET {path}: {} {}", answer.status, answer.json));
        }
        Some(answer.json)
    }

    /// Whether `/readyz` succeeds.
    pub async fn is_ready(&self) -> Option<bool> {
        Some(
            self.send_request(self.client.get(format!("{}/readyz", self.base))).await?.status
                == 200,
        )
    }

    /// Opens an event stream, after the event with this id.
    pub async fn events(&self, since: Option<&str>) -> Option<reqwest::Response> {
        let request =
            self.client.get(format!("{}/v1/events", self.base)).timeout(Duration::from_mins(5));
        let request =
            since.iter().fold(request, |request, id| request.header("last-event-id", *id));
        request.send().await.ok()
    }

    async fn do_random_action(&self, random: &mut SeededRandom, mix: LoadMix) -> Option<()> {
        let machine = 1 + random.below(MACHINES);
        match mix {
            LoadMix::SentOnce => {
                let request = if random.chance(50) {
                    self.power(machine, json!({"action": "reset"}), None)
                } else {
                    self.create(machine, random)
                };
                return self.start(random, request).await;
            }
            LoadMix::Keyed => {
                let action = if random.chance(50) { "on" } else { "off" };
                let request = self.power(
                    machine,
                    json!({"action": action}),
                    Some(self.call_log.unique_name("key")),
                );
                return self.send(&request, Some("5s")).await.map(drop);
            }
            LoadMix::Guests if random.chance(60) => {
                return self.stop_or_restart_guest(random).await;
            }
            LoadMix::Cancels if random.chance(60) => {
                let request = self.create(machine, random);
                let Some(job) = self.send(&request, None).await? else { return Some(()) };
                return self.cancel_once_on_host(&job).await;
            }
            LoadMix::Everything | LoadMix::Guests | LoadMix::Cancels => {}
        }
        match random.below(100) {
            0..12 => self.read_something(machine, random).await,
            12..20 => self.cancel(random).await,
            20..26 => self.repeat(random).await,
            26..30 => {
                let name = self.read(&format!("/v1/machines/{machine}")).await?["name"].clone();
                let request = self.new_request(
                    Method::POST,
                    "/v1/machines/kill",
                    Some(json!({"name": name})),
                );
                self.start(random, JobRequest { machine: machine.to_string(), ..request }).await
            }
            30..46 => {
                let snapshot = ["base", "kickstart"][random.index(2)];
                let body = match random.below(3) {
                    0 => json!({"snapshot": snapshot}),
                    1 => json!({"snapshot": snapshot, "power_on": true}),
                    _ => json!({"snapshot": snapshot, "power_on": false}),
                };
                let request = self.new_request(
                    Method::POST,
                    &format!("/v1/machines/{machine}/revert"),
                    Some(body),
                );
                self.start(random, JobRequest { machine: machine.to_string(), ..request }).await
            }
            46..54 => {
                let request = self.create(machine, random);
                self.start(random, request).await
            }
            54..64 => self.change_snapshot(machine, random).await,
            64..68 => self.stop_or_restart_guest(random).await,
            weight => {
                let action = match weight {
                    68..75 => "reset",
                    75..80 => "suspend",
                    80..90 => "off",
                    _ => "on",
                };
                self.start(random, self.power(machine, json!({"action": action}), None)).await
            }
        }
    }

    /// Sends a request, with a random choice of a key, of a concurrent repetition, of a wait, and
    /// of a cancellation.
    async fn start(&self, random: &mut SeededRandom, mut request: JobRequest) -> Option<()> {
        if request.key.is_none() && random.chance(50) {
            request.key = Some(self.call_log.unique_name("key"));
        }
        let wait = random.chance(30).then_some("3s");
        if request.key.is_some() && random.chance(10) {
            let (first, second) =
                tokio::join!(self.send(&request, wait), self.send(&request, None));
            return first.and(second).map(drop);
        }
        let job = self.send(&request, wait).await?;
        match (job, random.below(10)) {
            (Some(job), 0) => self.cancel_job(&job).await,
            (Some(job), 1) => self.cancel_once_on_host(&job).await,
            (Some(job), 2..8) => {
                let asked = self.call_log.note_request();
                let shown = self.read(&format!("/v1/jobs/{job}?wait=2s")).await?;
                self.call_log.check_job(asked, &shown);
                Some(())
            }
            _ => Some(()),
        }
    }

    async fn send(&self, request: &JobRequest, wait: Option<&str>) -> Option<Option<String>> {
        // A rename always waits.
        let wait = wait.or((request.method == Method::PATCH).then_some("3s"));
        let wait = wait.map(|wait| format!("wait={wait}")).unwrap_or_default();
        let query = [request.query.as_str(), &wait].into_iter().filter(|part| !part.is_empty());
        let query = query.collect::<Vec<_>>().join("&");
        let url = format!("{}{}?{query}", self.base, request.path);
        let mut call = self.client.request(request.method.clone(), url.trim_end_matches('?'));
        call = call.header("otter-reference", &request.reference);
        if let Some(key) = &request.key {
            call = call.header("idempotency-key", key);
        }
        if let Some(body) = &request.body {
            call = call.json(body);
        }
        self.call_log.record_sent(request, self.run);
        let asked = self.call_log.note_request();
        let StatusAndBody { status, json } = self.send_request(call).await?;
        let text = |field: &str| json[field].as_str().map(str::to_owned);
        if let (Some(job), Some(_)) = (text("id"), text("kind")) {
            self.call_log.record_accepted(request, &job);
            self.call_log.check_job(asked, &json);
            return Some(Some(job));
        }
        let code = text("code").unwrap_or_default();
        if let Some(job) = text("job") {
            self.call_log.record_accepted(request, &job);
            // The answer to a successful rename is the snapshot, which may have been removed since.
            let no_snapshot = request.method == Method::PATCH && code == "not-found";
            if !no_snapshot
                && !matches!(code.as_str(), "wait-timeout" | "job-still-running" | "shutting-down")
            {
                self.call_log.check_problem(&job, &code);
            }
            return Some(Some(job));
        }
        if request.method != Method::PATCH || status != 200 {
            self.call_log.record_refused(request, &format!("{status} {code}"));
            let usual = [
                "not-found",
                "ambiguous-name",
                "queue-full",
                "inventory-loading",
                "invalid-power-state",
                "shutting-down",
            ];
            if !usual.contains(&code.as_str()) {
                self.call_log
                    .add_violation(format!("{} {}: {status} {json}", request.method, request.path));
            }
        }
        Some(None)
    }

    async fn read_something(&self, machine: u64, random: &mut SeededRandom) -> Option<()> {
        let path = match random.below(5) {
            0 => "/v1/machines".to_owned(),
            1 => format!("/v1/machines/{machine}/snapshots"),
            2 => "/v1/jobs?state=running&limit=5".to_owned(),
            3 => "/v1/machines/find?free=false&power_state=off,on,suspended&name=0".to_owned(),
            _ => format!("/v1/machines/{machine}"),
        };
        // The object may not exist, which is a 400 or 404.
        let answer = self.send_request(self.client.get(format!("{}{path}", self.base))).await?;
        if !matches!(answer.status, 200 | 400 | 404) {
            self.call_log.add_violation(format!("GET {path}: {} {}", answer.status, answer.json));
        }
        Some(())
    }

    async fn cancel(&self, random: &mut SeededRandom) -> Option<()> {
        let unfinished = self.call_log.unfinished();
        if unfinished.is_empty() {
            return Some(());
        }
        self.cancel_job(&unfinished[random.index(unfinished.len())].0).await
    }

    async fn cancel_job(&self, job: &str) -> Option<()> {
        let asked = self.call_log.note_request();
        let answer = self
            .send_request(self.client.post(format!("{}/v1/jobs/{job}/cancel", self.base)))
            .await?;
        match answer.status {
            200 | 202 => self.call_log.check_job(asked, &answer.json),
            status => {
                self.call_log.add_violation(format!("cancelling {job}: {status} {}", answer.json));
            }
        }
        Some(())
    }

    async fn cancel_once_on_host(&self, job: &str) -> Option<()> {
        for _ in 0..20 {
            let shown = self.job(job).await?;
            if !shown["host_task"].is_null() || !shown["finished_at"].is_null() {
                break;
            }
        }
        self.cancel_job(job).await
    }

    /// Asks a guest with VMware Tools to shut down or to restart. If the guest does not react, the
    /// job ends at its deadline.
    async fn stop_or_restart_guest(&self, random: &mut SeededRandom) -> Option<()> {
        let machine = 3 * (1 + random.below(MACHINES / 3));
        self.send(&self.power(machine, json!({"action": "on"}), None), Some("1s")).await?;
        let url = format!("{}/v1/machines/{machine}/wait?until=tools&wait=1s", self.base);
        let answer = self.send_request(self.client.get(url)).await?;
        if !matches!(answer.status, 200 | 409 | 503 | 504) {
            self.call_log
                .add_violation(format!("waiting for the tools: {} {}", answer.status, answer.json));
        }
        let (body, query) = if random.chance(50) {
            (json!({"action": "shutdown", "force_after": "1s"}), "")
        } else {
            (json!({"action": "reboot"}), "deadline=4s")
        };
        let request = self.power(machine, body, None);
        self.start(random, JobRequest { query: query.to_owned(), ..request }).await
    }

    async fn job(&self, job: &str) -> Option<Value> {
        let asked = self.call_log.note_request();
        let shown = self.read(&format!("/v1/jobs/{job}")).await?;
        self.call_log.check_job(asked, &shown);
        Some(shown)
    }

    async fn repeat(&self, random: &mut SeededRandom) -> Option<()> {
        let requests = self.call_log.keyed_requests(0);
        if requests.is_empty() {
            return Some(());
        }
        let wait = random.chance(30).then_some("2s");
        self.send(&requests[random.index(requests.len())], wait).await.map(drop)
    }

    /// Removes one of the snapshots that the load created, or changes its description.
    async fn change_snapshot(&self, machine: u64, random: &mut SeededRandom) -> Option<()> {
        let path = format!("/v1/machines/{machine}/snapshots");
        let snapshots = self.read(&path).await?;
        let made = snapshots["items"].as_array()?.iter();
        let made = made.filter(|snapshot| {
            snapshot["name"].as_str().is_some_and(|name| name.starts_with("made-"))
        });
        let made: Vec<&str> = made.filter_map(|snapshot| snapshot["id"].as_str()).collect();
        if made.is_empty() {
            let request = self.create(machine, random);
            return self.start(random, request).await;
        }
        let path = format!("{path}/{}", encode(made[random.index(made.len())]));
        let request = if random.chance(50) {
            let request = self.new_request(Method::DELETE, &path, None);
            JobRequest { query: ["", "children=true"][random.index(2)].to_owned(), ..request }
        } else {
            self.new_request(
                Method::PATCH,
                &path,
                Some(json!({"description": self.call_log.unique_name("description")})),
            )
        };
        self.start(random, JobRequest { machine: machine.to_string(), ..request }).await
    }

    fn create(&self, machine: u64, random: &mut SeededRandom) -> JobRequest {
        let body = json!({"name": self.call_log.unique_name("made"), "memory": random.chance(30)});
        let request = self.new_request(
            Method::POST,
            &format!("/v1/machines/{machine}/snapshots"),
            Some(body),
        );
        JobRequest { machine: machine.to_string(), ..request }
    }

    fn power(&self, machine: u64, body: Value, key: Option<String>) -> JobRequest {
        let request =
            self.new_request(Method::POST, &format!("/v1/machines/{machine}/power"), Some(body));
        JobRequest { machine: machine.to_string(), key, ..request }
    }

    fn new_request(&self, method: Method, path: &str, body: Option<Value>) -> JobRequest {
        JobRequest {
            method,
            path: path.to_owned(),
            query: String::new(),
            body,
            key: None,
            reference: self.call_log.unique_name("order"),
            machine: String::new(),
        }
    }

    async fn send_request(&self, request: reqwest::RequestBuilder) -> Option<StatusAndBody> {
        let (client, request) = request.build_split();
        let request = request.unwrap();
        let request_line = format!("{} {}", request.method(), request.url().path());
        let response = match client.execute(request).await {
            Ok(response) => response,
            Err(error) => {
                if error.is_timeout() {
                    self.call_log.add_violation(format!("{request_line} was not answered in time"));
                }
                return None;
            }
        };
        let status = response.status().as_u16();
        let bytes = response.bytes().await.ok()?;
        Some(StatusAndBody { status, json: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }
}
