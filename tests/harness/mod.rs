//! The test harness: runs otter and calls it through its HTTP API.
//!
//! [`Lab::start`] runs a complete otter in the test process, on free ports, with a simulated host.
//! `lab.get("/v1/machines")` and similar methods call it over HTTP and return an [`Answer`], which
//! is checked against the OpenAPI document. `lab.control()` injects faults and changes into the
//! simulated host. [`on_every_host`] runs a scenario with each kind of host. No test depends on a
//! sleep: tests wait for conditions, for at most [`TIMEOUT`].

mod allocations;
mod answer;
mod connect_proxy;
mod daemon;
mod document;
mod events;
mod host;
mod host_process;
mod raw_connection;
mod recorder;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::in_process::InProcess;
use otter::api::HttpSettings;
use otter::app::{self, App, SerialListener, Settings};
use otter::clock::Clock;
use otter::config::Listen;
use otter::domain::answers::AnswerRules;
use otter::domain::base_path::BasePath;
use otter::domain::pool::Pools;
use otter::domain::socket_access::SocketAccess;
use otter::domain::verify::Verify;
use otter::domain::web_origin::Scheme;
use otter::esx::EsxOptions;
use otter::hypervisor::Hypervisor;
use otter::service::artifacts::ArtifactSettings;
use otter::service::event_stream::EventStreamSettings;
use otter::service::files::rules::FileRules;
use otter::service::jobs::{Deadlines, JobSettings, Jobs};
use otter::service::leases::lease_table::LeaseRules;
use otter::service::machines::Protection;
use otter::service::screens::ScreenSettings;
use otter::service::serial::SerialSettings;
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

pub use allocations::{Allocations, count_allocations, count_allocations_of};
pub use answer::Answer;
pub use connect_proxy::ConnectProxy;
#[cfg(feature = "interop")]
pub use daemon::run_with_timeout;
pub use daemon::{Daemon, log_lines, otter_command, run_to_exit};
pub use events::{ACCEPT_NDJSON, EventStream, StreamedEvent};
pub(crate) use host::on_every_host;
pub use host::{Host, HostKind, KnownMachines};
pub use host_process::{HostObjects, HostProcess};
pub use raw_connection::{RawConnection, send_raw};
pub use recorder::record_answer;

/// The longest time that a test waits for a condition.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// A complete otter in the test process, and its host.
pub struct Lab {
    pub address: SocketAddr,
    /// Where otter listens for machines that dial it for their serial ports.
    pub serial_address: Option<SocketAddr>,
    pub store: Store,
    pub jobs: Jobs,
    pub host: Host,
    /// The machines of the host with known properties.
    pub machines: KnownMachines,
    /// The service of the HTTP API, for calls without a socket.
    pub service: HttpApi,
    client: reqwest::Client,
    signals: mpsc::Sender<Signal>,
    running: JoinHandle<anyhow::Result<Shutdown>>,
}

/// The service of an otter.
pub type HttpApi = tower::util::BoxCloneSyncService<
    http::Request<axum::body::Body>,
    axum::response::Response,
    std::convert::Infallible,
>;

/// The settings of a lab.
pub struct LabOptions {
    pub scenario: Scenario,
    pub pace: Pace,
    pub settings: fn(&mut Settings),
    /// The clock of otter and of the simulated host.
    pub clock: Clock,
    /// Wraps the backend of the host, for example to inject faults. The default returns the backend
    /// unchanged.
    pub wrap_backend: BackendWrapper,
}

/// A function that wraps the backend of the host.
pub type BackendWrapper = fn(Arc<dyn Hypervisor>) -> Arc<dyn Hypervisor>;

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            scenario: Scenario::lab().unwrap(),
            pace: Pace::Auto { scale: 0.05 },
            settings: |_| {},
            clock: Clock::system(),
            wrap_backend: |host| host,
        }
    }
}

impl Lab {
    /// Starts a lab with the scenario `config/lab.toml` at twenty times its usual pace, and waits
    /// until the inventory is loaded.
    pub async fn start() -> Self {
        Self::with_options(LabOptions::default()).await
    }

    /// Starts a lab like [`Lab::start`], with tasks that progress only when the test steps them.
    pub async fn stepped() -> Self {
        Self::with_options(LabOptions { pace: Pace::Stepped, ..LabOptions::default() }).await
    }

    /// Starts a lab like [`Lab::start`], with changed settings of otter.
    pub async fn with_settings(settings: fn(&mut Settings)) -> Self {
        Self::with_options(LabOptions { settings, ..LabOptions::default() }).await
    }

    /// Starts a lab with these options, and waits until the inventory is loaded.
    pub async fn with_options(options: LabOptions) -> Self {
        Self::on_host_with_options(HostKind::Simulator, options).await
    }

    /// Starts a lab like [`Lab::start`], with this kind of host.
    pub async fn on_host(kind: HostKind) -> Self {
        Self::on_host_with_options(kind, LabOptions::default()).await
    }

    /// Starts a lab with this kind of host and these options, and waits until the inventory is
    /// loaded.
    pub async fn on_host_with_options(kind: HostKind, options: LabOptions) -> Self {
        let lab = Self::start_on(kind, options).await;
        lab.wait_until_ready().await;
        lab
    }

    /// Starts a lab with these options. Does not wait for the inventory.
    pub async fn start_without_waiting(options: LabOptions) -> Self {
        Self::start_on(HostKind::Simulator, options).await
    }

    /// Starts a lab with this state directory. Does not wait for the inventory.
    pub async fn with_state_dir(state: &std::path::Path) -> Self {
        Self::build(HostKind::Simulator, LabOptions::default(), Some(state)).await
    }

    /// Starts a lab with this state directory and these options. Does not wait for the inventory.
    pub async fn with_state_dir_and_options(state: &std::path::Path, options: LabOptions) -> Self {
        Self::build(HostKind::Simulator, options, Some(state)).await
    }

    async fn start_on(kind: HostKind, options: LabOptions) -> Self {
        Self::build(kind, options, None).await
    }

    async fn build(kind: HostKind, options: LabOptions, state: Option<&std::path::Path>) -> Self {
        let clock = options.clock.clone();
        let host = Host::start(kind, &options, &clock).await;
        let mut settings = settings(&host.url());
        settings.state_dir = state.map(std::path::Path::to_owned);
        (options.settings)(&mut settings);
        let app = match &host {
            Host::InProcess(host) => {
                let backend = (options.wrap_backend)(Arc::new(InProcess::new(host.clone())));
                App::bind_with(|_, _, _| Ok(backend), settings, clock).await.unwrap()
            }
            Host::Simulator(_) | Host::Govmomi(_) => {
                let backend = |settings: &Settings, clock: &Clock, metrics: &Metrics| {
                    Ok((options.wrap_backend)(app::vim25_backend(settings, clock, metrics)?))
                };
                App::bind_with(backend, settings, clock).await.unwrap()
            }
        };
        let (address, serial_address) = (app.address().unwrap(), app.serial_address());
        let (store, jobs) = (app.store(), app.jobs());
        let service = HttpApi::new(app.service().unwrap());
        let (signals, received) = Signals::from_sender();
        let running = tokio::spawn(app.run(received));
        let client = client();
        let machines = kind.machines();
        Self {
            address,
            serial_address,
            store,
            jobs,
            host,
            machines,
            service,
            client,
            signals,
            running,
        }
    }

    /// Waits until the inventory is loaded.
    pub async fn wait_until_ready(&self) {
        let ready = poll_until(async || self.get("/readyz").await.status == 200).await;
        let reason = if ready { String::new() } else { self.get("/readyz?host=true").await.text };
        assert!(ready, "the inventory is not loaded: {reason}");
    }

    /// The test control of the simulated host.
    pub fn control(&self) -> &Control {
        self.host.control()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The status of a GET that calls the service without a socket.
    pub async fn status(&self, path: &str) -> u16 {
        let request = get_request(path, &[]);
        tower::ServiceExt::oneshot(self.service.clone(), request).await.unwrap().status().as_u16()
    }

    /// The status of a GET that calls the service without a socket, and the allocations from the
    /// parsed request to the whole response. An earlier GET has filled what is kept for all.
    ///
    /// # Panics
    /// The operation waits for something.
    pub async fn count_get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, Allocations) {
        let get = |request: http::Request<axum::body::Body>| async {
            let response = tower::ServiceExt::oneshot(self.service.clone(), request).await.unwrap();
            let (head, body) = response.into_parts();
            http_body_util::BodyExt::collect(body).await.unwrap();
            head.status.as_u16()
        };
        get(get_request(path, headers)).await;
        let request = get_request(path, headers);
        count_allocations_of(get(request))
    }

    /// Starts to build a request. [`Answer::from_request`] sends it.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub async fn get(&self, path: &str) -> Answer {
        Answer::from_request(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        Answer::from_request(self.request(Method::POST, path).json(&body)).await
    }

    /// A GET with headers.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        Answer::from_request(with_headers(self.request(Method::GET, path), headers)).await
    }

    pub async fn post_with(&self, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        Answer::from_request(with_headers(self.request(Method::POST, path).json(&body), headers))
            .await
    }

    /// The machine with this name, as JSON.
    pub async fn machine(&self, name: &str) -> Value {
        self.get(&machine_path(name, "")).await.expect(200).json
    }

    /// Waits until a GET of this path succeeds and `holds` is true for its body.
    pub async fn wait_until(&self, path: &str, holds: impl Fn(&Value) -> bool) {
        eventually(path, async || {
            let answer = self.get(path).await;
            answer.status == 200 && holds(&answer.json)
        })
        .await;
    }

    /// Waits until a field of a machine has this value.
    pub async fn wait_for_field(&self, id: &str, field: &str, value: Value) {
        self.wait_until(&format!("/v1/machines/{}", encode(id)), |machine| machine[field] == value)
            .await;
    }

    /// Waits until otter no longer knows a machine.
    pub async fn wait_until_gone(&self, id: &str) {
        let path = format!("/v1/machines/{}", encode(id));
        eventually("the machine to be gone", async || self.get(&path).await.status == 404).await;
    }

    /// Starts a power job and returns it.
    pub async fn start_power(&self, name: &str, action: &str) -> Value {
        self.post(&machine_path(name, "/power"), serde_json::json!({"action": action}))
            .await
            .expect(202)
            .json
    }

    /// Starts a power job and returns it when it has ended.
    pub async fn power_and_wait(&self, name: &str, action: &str) -> Value {
        let path = machine_path(name, "/power?wait=30s");
        self.post(&path, serde_json::json!({"action": action})).await.expect(200).json
    }

    /// Waits until a job ends and returns it.
    pub async fn wait_for_end(&self, job: &Value) -> Value {
        let path = format!("/v1/jobs/{}?wait=30s", job["id"].as_str().unwrap());
        let job = self.get(&path).await.expect(200).json;
        assert!(!job["finished_at"].is_null(), "{job}");
        job
    }

    /// Waits until a machine of otter's simulator has a running task, and returns its id.
    pub async fn wait_for_machine_task(&self, machine: &str) -> String {
        let prefix = format!("haTask-{machine}-");
        let mut found = None;
        let seen = self.control().until(|control| {
            found = control.running_tasks().into_iter().find(|task| task.starts_with(&prefix));
            found.is_some()
        });
        tokio::time::timeout(TIMEOUT, seen).await.expect("a task");
        found.unwrap()
    }

    /// Waits until a job has a task on the host, and returns the id of the task.
    pub async fn wait_for_job_task(&self, job: &Value) -> String {
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        let mut task = None;
        eventually("the job to have a task", async || {
            task = self.get(&path).await.expect(200).json["host_task"].as_str().map(str::to_owned);
            task.is_some()
        })
        .await;
        task.unwrap()
    }

    /// Sets the annotation of a machine of otter's simulator, which is one change of the host.
    pub fn annotate(&self, id: &str, text: &str) {
        self.control()
            .mutate(|world| text.clone_into(&mut world.machine_mut(id).unwrap().annotation));
    }

    /// Makes otter reload as SIGHUP does.
    pub async fn reload(&self) {
        self.signals.send(Signal::Hangup).await.unwrap();
    }

    /// Stops otter as SIGTERM does, and returns how it ended.
    pub async fn stop(self) -> Shutdown {
        self.signals.send(Signal::Terminate).await.unwrap();
        let ending = tokio::time::timeout(TIMEOUT, self.running)
            .await
            .expect("the daemon to stop")
            .unwrap()
            .unwrap();
        self.host.stop().await;
        ending
    }
}

/// The path of a machine by its name, followed by `rest`.
pub fn machine_path(name: &str, rest: &str) -> String {
    format!("/v1/machines/name:{}{rest}", encode(name))
}

/// Percent-encodes one segment of a path.
pub fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn get_request(path: &str, headers: &[(&str, &str)]) -> http::Request<axum::body::Body> {
    let request = http::Request::get(path).header("host", "localhost");
    let with = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    headers.iter().fold(request, with).body(axum::body::Body::empty()).unwrap()
}

fn with_headers(
    request: reqwest::RequestBuilder,
    headers: &[(&str, &str)],
) -> reqwest::RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

/// The default settings of a lab: short times, a loopback address, and the state in memory.
pub fn settings(url: &str) -> Settings {
    let mut esx = EsxOptions::new(url, "root", SecretString::from("otter"));
    esx.verify = Verify::Off;
    Settings {
        listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
        socket_access: SocketAccess::default(),
        passed_sockets: Vec::new(),
        tls: None,
        state_dir: None,
        esx,
        guest_settle: Duration::from_millis(200),
        snapshots: SnapshotSettings::default(),
        protection: Protection {
            protected: vec!["golden-*".parse().unwrap()],
            ..Protection::default()
        },
        jobs: JobSettings {
            settle: Duration::from_millis(100),
            outage_grace: Duration::from_mins(1),
            question_grace: Duration::from_mins(1),
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
        answers: AnswerRules::default(),
        screens: ScreenSettings::default(),
        serial: SerialSettings::default(),
        serial_listener: SerialListener::default(),
        artifacts: ArtifactSettings::default(),
        files: FileRules { roots: vec!["[isos] iso".parse().unwrap()] },
        http: HttpSettings {
            max_wait: Duration::from_mins(10),
            max_waits: 20_000,
            body_limit: 1 << 20,
            body_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            // A test that advances the clock must not close the connections of its client.
            idle_timeout: Duration::from_hours(24 * 365 * 100),
            max_connections: 20_000,
            scheme: Scheme::Http,
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            base_path: BasePath::default(),
            access_log: false,
            bookmark_interval: Duration::from_secs(15),
            tls_verified: false,
            is_unencrypted: false,
        },
        event_stream: EventStreamSettings::default(),
        grace: Duration::from_secs(10),
        warnings: Vec::new(),
    }
}

/// An HTTP client with the timeout of the tests.
fn client() -> reqwest::Client {
    // Another test may have installed the provider before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().gzip(false).timeout(TIMEOUT).build().unwrap()
}

/// Polls until `holds` returns true. Panics after [`TIMEOUT`].
///
/// # Parameters
/// - `what`: the condition, for the message of the panic.
pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(poll_until(holds).await, "not within {TIMEOUT:?}: {what}");
}

async fn poll_until(mut holds: impl AsyncFnMut() -> bool) -> bool {
    let waited = tokio::time::timeout(TIMEOUT, async {
        while !holds().await {
            pause().await;
        }
    });
    waited.await.is_ok()
}

/// Waits for a short time between two polls.
#[expect(clippy::disallowed_methods, reason = "the pause between two polls of a condition")]
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}
