//! How to test otter through its public face.
//!
//! [`Lab::start`] runs a whole otter in this process, on free ports, in front of a host.
//! `lab.get("/v1/machines")` and its kin call it over real HTTP and give an [`Answer`] to assert
//! on, which was held to the served document already; `lab.control()` is the hand on the simulated
//! host. [`on_every_host`] runs a scenario against each host. Nothing sleeps to be right: tests
//! wait for events, bounded by [`PATIENCE`].

mod answer;
mod daemon;
mod document;
mod events;
mod host;
mod recorder;
mod simulated;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::in_process::InProcess;
use otter::api::HttpSettings;
use otter::app::{self, App, Settings};
use otter::clock::Clock;
use otter::config::Listen;
use otter::domain::pool::Pools;
use otter::domain::verify::Verify;
use otter::domain::web_origin::Scheme;
use otter::esx::EsxOptions;
use otter::hypervisor::Hypervisor;
use otter::service::feed::FeedSettings;
use otter::service::jobs::{Deadlines, JobSettings};
use otter::service::leases::lease_table::LeaseRules;
use otter::service::machines::Protection;
use otter::service::snapshots::SnapshotSettings;
use otter::simulator::{Control, Pace, Scenario};
use otter::storage::Retention;
use otter::store::Store;
use otter::supervisor::{Shutdown, Signal, Signals};
use otter::telemetry::metrics::Metrics;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use answer::Answer;
#[cfg(feature = "interop")]
pub use daemon::output;
pub use daemon::{Daemon, lines_of, otter, said};
pub use events::{Events, NDJSON, Told};
pub(crate) use host::on_every_host;
pub use host::{Cast, Host, HostKind};
pub use recorder::record;
pub use simulated::{Held, HostProcess};
pub use wire::{Wire, raw};

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A whole otter in front of a host.
pub struct Lab {
    pub address: SocketAddr,
    pub store: Store,
    pub host: Host,
    /// Machines of known properties.
    pub cast: Cast,
    /// What is served, without a socket between.
    pub router: axum::Router,
    client: reqwest::Client,
    signals: mpsc::Sender<Signal>,
    running: JoinHandle<anyhow::Result<Shutdown>>,
}

/// How a lab is to be.
pub struct Plan {
    pub scenario: Scenario,
    pub pace: Pace,
    pub settings: fn(&mut Settings),
    /// otter's time and the simulated host's.
    pub clock: Clock,
    /// What stands between otter and its host: nothing, by default.
    pub between: Between,
}

/// Puts something between otter and its host.
pub type Between = fn(Arc<dyn Hypervisor>) -> Arc<dyn Hypervisor>;

impl Default for Plan {
    fn default() -> Self {
        Self {
            scenario: Scenario::lab().unwrap(),
            pace: Pace::Auto { scale: 0.05 },
            settings: |_| {},
            clock: Clock::system(),
            between: |host| host,
        }
    }
}

impl Lab {
    /// The lab of `config/lab.toml`, twenty times as fast as for people, its inventory loaded.
    pub async fn start() -> Self {
        Self::with(Plan::default()).await
    }

    /// The lab, whose tasks take a step only when told.
    pub async fn stepped() -> Self {
        Self::with(Plan { pace: Pace::Stepped, ..Plan::default() }).await
    }

    /// The lab with other settings.
    pub async fn tuned(settings: fn(&mut Settings)) -> Self {
        Self::with(Plan { settings, ..Plan::default() }).await
    }

    /// A lab after a plan, its inventory loaded.
    pub async fn with(plan: Plan) -> Self {
        Self::on_with(HostKind::Ours, plan).await
    }

    /// A lab in front of this host, its inventory loaded.
    pub async fn on(kind: HostKind) -> Self {
        Self::on_with(kind, Plan::default()).await
    }

    /// The same after a plan.
    pub async fn on_with(kind: HostKind, plan: Plan) -> Self {
        let lab = Self::in_front_of(kind, plan).await;
        lab.ready().await;
        lab
    }

    /// A lab after a plan, without waiting for the inventory.
    pub async fn not_ready(plan: Plan) -> Self {
        Self::in_front_of(HostKind::Ours, plan).await
    }

    /// A lab that keeps its state in this directory, without waiting for the inventory.
    pub async fn kept_in(state: &std::path::Path) -> Self {
        Self::wired(HostKind::Ours, Plan::default(), Some(state)).await
    }

    /// The same after a plan.
    pub async fn kept(state: &std::path::Path, plan: Plan) -> Self {
        Self::wired(HostKind::Ours, plan, Some(state)).await
    }

    async fn in_front_of(kind: HostKind, plan: Plan) -> Self {
        Self::wired(kind, plan, None).await
    }

    async fn wired(kind: HostKind, plan: Plan, state: Option<&std::path::Path>) -> Self {
        let clock = plan.clock.clone();
        let host = Host::start(kind, &plan, &clock).await;
        let mut settings = settings(&host.url());
        settings.state_dir = state.map(std::path::Path::to_owned);
        (plan.settings)(&mut settings);
        let app = match &host {
            Host::InProcess(host) => {
                let backend = (plan.between)(Arc::new(InProcess::new(host.clone())));
                App::bind_with(|_, _, _| Ok(backend), settings, clock).await.unwrap()
            }
            Host::Ours(_) | Host::Peer(_) => {
                let backend = |settings: &Settings, clock: &Clock, metrics: &Metrics| {
                    Ok((plan.between)(app::vim25_backend(settings, clock, metrics)?))
                };
                App::bind_with(backend, settings, clock).await.unwrap()
            }
        };
        let address = app.address().unwrap();
        let (store, router) = (app.store(), app.router());
        let (signals, received) = Signals::from_sender();
        let running = tokio::spawn(app.run(received));
        let client = client();
        Self { address, store, host, cast: kind.cast(), router, client, signals, running }
    }

    /// Waits until reads work.
    pub async fn ready(&self) {
        let ready = eventually_so(async || self.get("/readyz").await.status == 200).await;
        let reason = if ready { String::new() } else { self.get("/readyz?host=true").await.text };
        assert!(ready, "the inventory does not load: {reason}");
    }

    /// The hand on the simulated host.
    pub fn control(&self) -> &Control {
        self.host.control()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The status of a GET that goes past the socket, where sockets are not what is counted.
    pub async fn status(&self, path: &str) -> u16 {
        let request = http::Request::get(path)
            .header("host", "localhost")
            .body(axum::body::Body::empty())
            .unwrap();
        tower::ServiceExt::oneshot(self.router.clone(), request).await.unwrap().status().as_u16()
    }

    /// A request to shape further; send it with [`Answer::of`].
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::of(self.request(Method::POST, path).json(&body)).await
    }

    /// A call with headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        Answer::of(with(self.request(Method::GET, path), headers)).await
    }

    pub async fn post_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        Answer::of(with(self.request(Method::POST, path).json(&body), headers)).await
    }

    /// The machine of this name.
    pub async fn machine(&self, name: &str) -> Value {
        self.get(&machine(name, "")).await.expect(200).json
    }

    /// Waits until what is at this path is so.
    pub async fn until(&self, path: &str, so: impl Fn(&Value) -> bool) {
        eventually(path, async || {
            let answer = self.get(path).await;
            answer.status == 200 && so(&answer.json)
        })
        .await;
    }

    /// Waits until a field of a machine is shown so.
    pub async fn until_seen(&self, id: &str, field: &str, value: Value) {
        self.until(&format!("/v1/machines/{}", encode(id)), |machine| machine[field] == value)
            .await;
    }

    /// Waits until a machine is no longer shown.
    pub async fn until_gone(&self, id: &str) {
        let path = format!("/v1/machines/{}", encode(id));
        eventually("the machine to go", async || self.get(&path).await.status == 404).await;
    }

    /// Starts a power job and gives it as it was accepted.
    pub async fn power(&self, name: &str, action: &str) -> Value {
        self.post(&machine(name, "/power"), serde_json::json!({"action": action}))
            .await
            .expect(202)
            .json
    }

    /// Powers a machine, and waits until it is done.
    pub async fn powered(&self, name: &str, action: &str) -> Value {
        let path = machine(name, "/power?wait=30s");
        self.post(&path, serde_json::json!({"action": action})).await.expect(200).json
    }

    /// The job at its end.
    pub async fn ended(&self, job: &Value) -> Value {
        let path = format!("/v1/jobs/{}?wait=30s", job["id"].as_str().unwrap());
        let job = self.get(&path).await.expect(200).json;
        assert!(!job["finished_at"].is_null(), "{job}");
        job
    }

    /// The running task of a machine of our simulator, once there is one.
    pub async fn task_of(&self, machine: &str) -> String {
        let mine = format!("haTask-{machine}-");
        let mut found = None;
        let seen = self.control().until(|control| {
            found = control.running_tasks().into_iter().find(|task| task.starts_with(&mine));
            found.is_some()
        });
        tokio::time::timeout(PATIENCE, seen).await.expect("a task");
        found.unwrap()
    }

    /// The job once it has a task on the host, which is given too.
    pub async fn on_the_host(&self, job: &Value) -> String {
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        let mut task = None;
        eventually("the job to have a task", async || {
            task = self.get(&path).await.expect(200).json["host_task"].as_str().map(str::to_owned);
            task.is_some()
        })
        .await;
        task.unwrap()
    }

    /// Sets the annotation of a machine of our simulator: one change.
    pub fn annotate(&self, id: &str, text: &str) {
        self.control()
            .mutate(|world| text.clone_into(&mut world.machine_mut(id).unwrap().annotation));
    }

    /// Stops as SIGTERM does, and tells how it went.
    pub async fn stop(self) -> Shutdown {
        self.signals.send(Signal::Terminate).await.unwrap();
        let ending = tokio::time::timeout(PATIENCE, self.running)
            .await
            .expect("the daemon to stop")
            .unwrap()
            .unwrap();
        self.host.stop().await;
        ending
    }
}

/// The path of a machine by its name, with what follows.
pub fn machine(name: &str, rest: &str) -> String {
    format!("/v1/machines/name:{}{rest}", encode(name))
}

/// One segment of a path, percent-encoded.
pub fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn with(request: reqwest::RequestBuilder, headers: &[(&str, &str)]) -> reqwest::RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// What labs share: fast, loopback, everything in memory.
pub fn settings(url: &str) -> Settings {
    let mut esx = EsxOptions::new(url, "root", SecretString::from("otter"));
    esx.verify = Verify::Off;
    Settings {
        listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
        tls: None,
        state_dir: None,
        esx,
        guest_settle: Duration::from_millis(200),
        snapshots: SnapshotSettings::default(),
        protection: Protection { protected: vec!["golden-*".to_owned()], ..Protection::default() },
        jobs: JobSettings {
            settle: Duration::from_millis(100),
            outage_grace: Duration::from_mins(1),
            queue_per_machine: 16,
            queue_in_all: 10_000,
            deadlines: Deadlines {
                power: Duration::from_mins(10),
                guest: Duration::from_mins(15),
                create: Duration::from_hours(1),
                revert: Duration::from_hours(1),
                remove: Duration::from_hours(24),
                prepare: Duration::from_mins(30),
            },
        },
        leases: LeaseRules::default(),
        retention: Retention::default(),
        pools: Pools::default(),
        http: HttpSettings {
            max_wait: Duration::from_mins(10),
            max_waits: 20_000,
            body_limit: 1 << 20,
            body_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            max_connections: 20_000,
            scheme: Scheme::Http,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            access_log: false,
            bookmark: Duration::from_secs(15),
            tls_verified: false,
            in_the_clear: false,
        },
        feed: FeedSettings::default(),
        grace: Duration::from_secs(10),
        warnings: Vec::new(),
    }
}

/// A client of otter's, as patient as the tests are.
fn client() -> reqwest::Client {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().gzip(false).timeout(PATIENCE).build().unwrap()
}

/// Asks again and again, a little apart, until it is so; fails after [`PATIENCE`].
pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(eventually_so(holds).await, "waited {PATIENCE:?} in vain for {what}");
}

async fn eventually_so(mut holds: impl AsyncFnMut() -> bool) -> bool {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            pause().await;
        }
    });
    waited.await.is_ok()
}

/// Lets a little time pass.
#[expect(clippy::disallowed_methods, reason = "between two questions, never in place of one")]
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}
