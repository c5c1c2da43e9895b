//! The composition root: settings → a bound application → its run. The only file that names every room.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::api::serve::{Listener, serve};
use crate::api::{Api, HttpSettings};
use crate::clock::Clock;
use crate::esx::{EsxHypervisor, EsxOptions, Verify};
use crate::hypervisor::{Hypervisor, Observer};
use crate::service::Services;
use crate::service::feed::Feed;
use crate::service::inventory::Inventory;
use crate::service::jobs::{JobSettings, Jobs, JobsParts};
use crate::service::machines::{Machines, Protection};
use crate::store::Store;
use crate::supervisor::{Ending, Signals, Supervisor};

/// All that an application is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: Listen,
    /// None: the state is kept in memory and gone with the process.
    pub state_dir: Option<PathBuf>,
    pub esx: EsxOptions,
    /// How long after a start or revert a guest's address is confirmed by a direct read.
    pub guest_settle: Duration,
    pub protection: Protection,
    pub jobs: JobSettings,
    pub http: HttpSettings,
    /// How long a shutdown may take before what still runs is dropped.
    pub grace: Duration,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// An application that is bound and not yet running.
pub struct App {
    clock: Clock,
    supervisor: Supervisor,
    store: Store,
    hypervisor: Arc<dyn Hypervisor>,
    services: Services,
    listener: Listener,
    http: HttpSettings,
}

impl App {
    /// Opens the store, takes up nothing yet, and binds the address: what can fail at a start fails here.
    ///
    /// # Errors
    /// Told for people: what could not be had, and why.
    pub async fn bind(settings: Settings, clock: Clock) -> anyhow::Result<Self> {
        let Settings { listen, state_dir, esx, guest_settle, protection, jobs, http, grace } = settings;
        if let Listen::Tcp(address) = &listen
            && !address.ip().is_loopback()
        {
            bail!(
                "otter has no tokens to tell callers apart, so it listens on loopback or a Unix socket alone; \
                 {address} is neither. Put a reverse proxy that asks for a password in front of 127.0.0.1"
            );
        }
        let hypervisor = EsxHypervisor::new(&esx, clock.clone()).context("the host's settings are wrong")?;
        if esx.verify == Verify::Off {
            tracing::warn!(
                "the host's certificate is not checked (esx.verify = false): anybody on the way can read the password"
            );
        }
        let hypervisor: Arc<dyn Hypervisor> = Arc::new(hypervisor);
        let store = match &state_dir {
            Some(directory) => Store::open(directory).await?,
            None => Store::in_memory().await?,
        };
        let listener = match &listen {
            Listen::Tcp(address) => {
                Listener::tcp(*address).await.with_context(|| format!("cannot listen on {address}"))?
            }
            Listen::Unix(path) => Listener::unix(path)
                .await
                .with_context(|| format!("cannot listen on unix:{}", path.display()))?,
        };
        let supervisor = Supervisor::new(clock.clone(), grace);
        let feed = Feed::new(&clock);
        let inventory = Arc::new(Inventory::new(clock.clone(), feed.clone(), guest_settle));
        let jobs = Jobs::new(JobsParts {
            store: store.clone(),
            hypervisor: Arc::clone(&hypervisor),
            inventory: Arc::clone(&inventory),
            clock: clock.clone(),
            feed: feed.clone(),
            supervisor: supervisor.clone(),
            settings: jobs,
        });
        let machines = Arc::new(Machines::new(Arc::clone(&inventory), jobs.clone(), protection));
        let services = Services { feed, inventory, machines, jobs, hypervisor: Arc::clone(&hypervisor) };
        Ok(Self { clock, supervisor, store, hypervisor, services, listener, http })
    }

    /// Where it listens, for people.
    ///
    /// # Errors
    /// The system's.
    pub fn bound_to(&self) -> std::io::Result<String> {
        self.listener.describe()
    }

    /// The TCP address that it listens on.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.address()
    }

    /// The store, for those who count what it does.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// The supervisor, for those who stop it.
    #[must_use]
    pub fn supervisor(&self) -> Supervisor {
        self.supervisor.clone()
    }

    /// All that it serves, for those who call it without a socket.
    pub fn router(&self) -> axum::Router {
        let Self { clock, supervisor, services, http, .. } = self;
        Api::new(services.clone(), clock.clone(), supervisor.stopping(), http.clone()).router()
    }

    /// Takes up the jobs that had not ended, serves, and sees the daemon through to its end.
    ///
    /// # Errors
    /// Where the jobs cannot be read back.
    pub async fn run(self, signals: Signals) -> anyhow::Result<Ending> {
        let router = self.router();
        let Self { clock, supervisor, store, hypervisor, services, listener, http } = self;
        // The store goes last: the others commit to it until their end.
        supervisor.spawn_last("store", |stop| async move { store.run(stop).await });
        let taken_up =
            services.jobs.recover().await.context("the jobs of the last run cannot be read back")?;
        if taken_up > 0 {
            tracing::info!(jobs = taken_up, "took up the jobs that had not ended");
        }
        let observer: Arc<dyn Observer> = Arc::clone(&services.inventory) as _;
        let host = Arc::clone(&hypervisor);
        supervisor.spawn("host", |stop| async move { host.run(observer, stop).await });
        let (inventory, host) = (Arc::clone(&services.inventory), hypervisor);
        supervisor.spawn("guest addresses", |stop| async move { inventory.confirm_guests(host, stop).await });
        supervisor.spawn("deadlines", |stop| services.jobs.clone().expire(stop));
        supervisor.spawn("retention", |stop| services.jobs.clone().purge(stop));
        let own = supervisor.clone();
        supervisor.spawn("http", |stop| serve(listener, router, http, clock, own, stop));
        supervisor.ready();
        Ok(supervisor.run(signals).await)
    }
}
