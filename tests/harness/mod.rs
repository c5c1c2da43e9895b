//! How to test otter through its public face.
//!
//! [`Lab::start`] runs a whole otter in this process, on free ports, in front of a host. `lab.get("/v1/machines")`
//! and its kin call it over real HTTP and give an [`Answer`] to assert on; `lab.host` is the hand on the host. Nothing
//! sleeps to be right: tests wait for events, bounded by [`PATIENCE`].

mod answer;
mod daemon;

use std::net::SocketAddr;
use std::time::Duration;

use otter::api::HttpSettings;
use otter::app::{App, Settings};
use otter::clock::Clock;
use otter::config::Listen;
use otter::esx::{EsxOptions, Verify};
use otter::service::jobs::JobSettings;
use otter::service::machines::Protection;
use otter::simulator::{Control, Pace, Scenario, Simulator, SimulatorOptions};
use otter::store::{Retention, Store};
use otter::supervisor::{Ending, Signal, Signals, Supervisor};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use answer::Answer;
pub use daemon::{Daemon, otter, said};

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A whole otter in front of a host.
pub struct Lab {
    pub address: SocketAddr,
    pub store: Store,
    pub supervisor: Supervisor,
    pub host: Simulator,
    client: reqwest::Client,
    signals: mpsc::Sender<Signal>,
    running: JoinHandle<anyhow::Result<Ending>>,
}

/// How a lab is to be.
pub struct Plan {
    pub scenario: Scenario,
    pub pace: Pace,
    pub settings: fn(&mut Settings),
}

impl Default for Plan {
    fn default() -> Self {
        Self { scenario: Scenario::lab().unwrap(), pace: Pace::Auto { scale: 0.05 }, settings: |_| {} }
    }
}

impl Lab {
    /// The lab of `config/lab.toml`, twenty times as fast as for people, its inventory loaded.
    pub async fn start() -> Self {
        Self::with(Plan::default()).await
    }

    /// A lab after a plan, its inventory loaded.
    pub async fn with(plan: Plan) -> Self {
        let lab = Self::not_ready(plan).await;
        lab.ready().await;
        lab
    }

    /// The same without waiting for the inventory.
    pub async fn not_ready(plan: Plan) -> Self {
        let clock = Clock::system();
        let options =
            SimulatorOptions { pace: plan.pace, ..SimulatorOptions::new(plan.scenario, clock.clone()) };
        let host = Simulator::start(options).await.unwrap();
        let mut settings = settings(&host.url());
        (plan.settings)(&mut settings);
        let app = App::bind(settings, clock).await.unwrap();
        let address = app.address().unwrap();
        let (store, supervisor) = (app.store(), app.supervisor());
        let (signals, received) = Signals::from_sender();
        let running = tokio::spawn(app.run(received));
        let client = client();
        Self { address, store, supervisor, host, client, signals, running }
    }

    /// Waits until reads work.
    pub async fn ready(&self) {
        eventually("the inventory to be loaded", async || self.get("/readyz").await.status == 200).await;
    }

    /// The hand on the simulated host.
    pub fn control(&self) -> &Control {
        self.host.control()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
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

    /// The machine of this name.
    pub async fn machine(&self, name: &str) -> Value {
        self.get(&format!("/v1/machines/name:{name}")).await.expect(200).json
    }

    /// Stops as SIGTERM does, and tells how it went.
    pub async fn stop(self) -> Ending {
        self.signals.send(Signal::Terminate).await.unwrap();
        let ending =
            tokio::time::timeout(PATIENCE, self.running).await.expect("the daemon to stop").unwrap().unwrap();
        self.host.stop().await;
        ending
    }
}

/// What labs share: fast, loopback, everything in memory.
pub fn settings(url: &str) -> Settings {
    let mut esx = EsxOptions::new(url, "root", SecretString::from("otter"));
    esx.verify = Verify::Off;
    Settings {
        listen: Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
        state_dir: None,
        esx,
        guest_settle: Duration::from_millis(200),
        protection: Protection { protected: vec!["golden-*".to_owned()], ..Protection::default() },
        jobs: JobSettings {
            settle: Duration::from_millis(100),
            outage_grace: Duration::from_mins(1),
            queue_per_machine: 16,
            queue_in_all: 10_000,
            power_deadline: Duration::from_mins(10),
            revert_deadline: Duration::from_hours(1),
            retention: Retention::default(),
        },
        http: HttpSettings {
            max_wait: Duration::from_mins(10),
            max_waits: 20_000,
            body_limit: 1 << 20,
            body_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            max_connections: 20_000,
            loopback_only: true,
            tls_verified: false,
        },
        grace: Duration::from_secs(10),
    }
}

/// A client of otter's, as patient as the tests are.
fn client() -> reqwest::Client {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// Asks again and again, a little apart, until it is so; fails after [`PATIENCE`].
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            pause().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain for {what}"));
}

#[expect(clippy::disallowed_methods, reason = "between two questions, never in place of one")]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}
