//! The composition root: builds the application from its settings, binds the address, and runs the
//! services. Only this file uses every top-level module.

mod checks;
pub mod lease_key;
mod own_machine;
mod reload;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, getrlimit};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::listener::Listener;
use crate::api::serve::{HttpService, serve};
use crate::api::tls::{Tls, TlsFiles};
use crate::api::{ApiState, HttpSettings, connections};
use crate::clock::Clock;
use crate::config::{self, Config, Host, Listen};
use crate::domain::answers::AnswerRules;
use crate::domain::file_path::DatastorePath;
use crate::domain::host_url;
use crate::domain::machine_pattern::MachinePattern;
use crate::domain::network::Network;
use crate::domain::pool::Pools;
use crate::domain::socket_access::SocketAccess;
use crate::domain::verify::Verify;
use crate::domain::web_origin::Scheme;
use crate::esx::{EsxHypervisor, EsxOptions};
use crate::fail_points::fail_point;
use crate::hypervisor::{Hypervisor, Observer};
use crate::service::Services;
use crate::service::artifacts::{ArtifactFolder, ArtifactSettings, Artifacts, ArtifactsParts};
use crate::service::audit::Audit;
use crate::service::callers::Callers;
use crate::service::event_stream::{EventStream, EventStreamSettings};
use crate::service::files::rules::FileRules;
use crate::service::files::{Files, FilesParts};
use crate::service::hosts::Hosts;
use crate::service::inventory::Inventory;
use crate::service::jobs::{Deadlines, JobSettings, Jobs, JobsParts};
use crate::service::leases::lease_table::LeaseRules;
use crate::service::leases::published::PublishedLeases;
use crate::service::leases::{Leases, LeasesParts};
use crate::service::live_settings::{LiveSettings, ReloadableSettings};
use crate::service::machines::{Machines, Protection};
use crate::service::overrides::Overrides;
use crate::service::patterns::PatternWatch;
use crate::service::questions::QuestionWatch;
use crate::service::recordings::last_picture::{LastPictureParts, LastPictureTaker};
use crate::service::recordings::pauses::RecordingPauses;
use crate::service::recordings::status::RecordingStatuses;
use crate::service::recordings::{Recordings, RecordingsParts};
use crate::service::retention;
use crate::service::screens::input_call::InputCallsParts;
use crate::service::screens::input_calls::InputCalls;
use crate::service::screens::input_lane::InputLanes;
use crate::service::screens::input_record::InputRecords;
use crate::service::screens::last_pictures::LastPictures;
use crate::service::screens::ocr::Ocr;
use crate::service::screens::wait::{ScreenWaits, ScreenWaitsParts};
use crate::service::screens::{ScreenSettings, Screens, ScreensParts};
use crate::service::serial::input_call::SerialInputsParts;
use crate::service::serial::input_calls::SerialInputs;
use crate::service::serial::{Serial, SerialParts, SerialSettings};
use crate::service::snapshots::{SnapshotProtection, SnapshotSettings};
use crate::service::storage_watch::StorageWatch;
use crate::service::visibility::Visibility;
use crate::storage::{AuditRetention, RecordRetention, Retention, Storage};
use crate::store::Store;
use crate::supervisor::{PassedSocket, Shutdown, Signals, Supervisor};
use crate::telemetry::metrics::{Metrics, SampledMetrics};

pub use checks::{CheckedSettings, check, check_with_state, wrong_host_settings};
pub use reload::{Reload, RenewedSettings};

use own_machine::OwnMachine;

/// How long tasks have time to finish in a shutdown, before they are dropped.
const GRACE: Duration = Duration::from_secs(30);

/// The settings from which an application is built.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: Listen,
    /// Who may connect to otter, if `listen` is a Unix socket.
    pub socket_access: SocketAccess,
    /// The sockets that the service manager passed. If there are any, otter serves on them instead
    /// of on `listen`.
    pub passed_sockets: Vec<PassedSocket>,
    /// The certificate and the key for TLS on TCP sockets. `None` means plain HTTP.
    pub tls: Option<TlsFiles>,
    /// The state directory. `None` means that the state is kept in memory and is lost when the
    /// process ends.
    pub state_dir: Option<PathBuf>,
    pub esx: EsxOptions,
    /// How long after a start or a revert of a machine otter confirms the guest's address by a
    /// direct read.
    pub guest_settle: Duration,
    pub protection: Protection,
    pub snapshots: SnapshotSettings,
    pub jobs: JobSettings,
    pub leases: LeaseRules,
    pub retention: Retention,
    pub pools: Pools,
    /// The rules that answer the questions of all machines. The rules of pools take precedence.
    pub answers: AnswerRules,
    pub screens: ScreenSettings,
    /// [`App::bind`] sets the folder, and what follows from the other settings.
    pub serial: SerialSettings,
    pub serial_listener: SerialListener,
    pub artifacts: ArtifactSettings,
    pub files: FileRules,
    pub http: HttpSettings,
    pub event_stream: EventStreamSettings,
    /// How long tasks have time to finish in a shutdown, before they are dropped.
    pub grace: Duration,
    /// Warnings about the configuration. Each is one sentence.
    pub warnings: Vec<String>,
}

/// Where otter listens for machines that dial it for their serial ports, and from where.
#[derive(Clone, Debug, Default)]
pub struct SerialListener {
    /// `None`: it does not listen.
    pub listen: Option<SocketAddr>,
    /// Empty: the addresses of the host's API.
    pub allowed_peers: Vec<Network>,
}

impl Settings {
    /// The part of the settings that a reload of the configuration replaces.
    #[must_use]
    pub fn reloadable(&self) -> ReloadableSettings {
        ReloadableSettings {
            pools: self.pools.clone(),
            answers: self.answers.clone(),
            protection: self.protection.clone(),
            snapshots: self.snapshots.clone(),
        }
    }
}

/// The simulated host within this process, which replaces the real host.
#[derive(Clone, Debug)]
pub struct SimulatedHost {
    pub url: String,
    pub fingerprint: String,
}

/// Builds the settings from a configuration.
///
/// # Parameters
/// - `simulated`: the simulated host that replaces the section `[esx]`. If it is given, the state
///   is kept in memory, unless a state directory is configured.
///
/// # Errors
/// Names the settings that are missing or invalid.
pub fn settings(config: Config, simulated: Option<SimulatedHost>) -> anyhow::Result<Settings> {
    let Config {
        // All sections are named, so that the compiler demands code here for each new section.
        esx,
        http,
        machines,
        snapshots,
        jobs,
        leases,
        answers,
        pools,
        screens,
        serial,
        artifacts,
        files,
        audit,
        state,
        log,
        warnings,
    } = config;
    let state_dir = match &simulated {
        Some(_) => state.dir.clone(),
        None => Some(state.directory().to_owned()),
    };
    let (own, is_simulated) = (OwnMachine::read(Path::new("/sys")), simulated.is_some());
    let protected = machines.protected;
    let mut built_in = Vec::new();
    let mut options = if let Some(SimulatedHost { url, fingerprint }) = simulated {
        if protected.is_empty() {
            built_in.push(MachinePattern::NameOrId("golden*".to_owned()));
        }
        let mut options = EsxOptions::new(url, "root", SecretString::from("otter"));
        options.verify =
            Verify::Fingerprint(fingerprint.parse().context("the simulator's fingerprint")?);
        options
    } else {
        let Host { url, username, password } = esx.host()?;
        let mut options = EsxOptions::new(url, username, password);
        options.verify = esx.verify;
        options.proxy = esx.proxy;
        options.headers =
            esx.headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        options
    };
    options.connect_timeout = esx.connect_timeout;
    options.read_timeout = esx.read_timeout;
    options.answer_limit = esx.answer_limit;
    options.tty.clone_from(&serial.tty);
    let config::Deadlines { power, guest, create, revert, remove, prepare } = jobs.deadlines;
    Ok(Settings {
        state_dir,
        guest_settle: esx.guest_settle,
        protection: Protection {
            protected,
            built_in,
            own_name: esx.machine_name,
            own_addresses: own.addresses,
            own_uuids: own.uuids,
            runs_in_vmware: own.is_vmware && !is_simulated,
        },
        snapshots: SnapshotSettings {
            protected: snapshots.protected,
            runners_may_remove: snapshots.runners_may_remove,
        },
        jobs: JobSettings {
            settle: esx.settle,
            outage_grace: esx.outage_grace,
            question_grace: leases.question_grace,
            queue_per_machine: jobs.queue_per_machine,
            queue_in_all: jobs.queue_total,
            deadlines: Deadlines { power, guest, create, revert, remove, prepare },
        },
        retention: Retention {
            jobs: record_retention(jobs.retention_days),
            leases: record_retention(leases.retention_days),
            audit: AuditRetention { time: days(audit.retention_days), max_bytes: audit.max_bytes },
            ..Retention::default()
        },
        leases: LeaseRules { host_limits: esx.limits, ..lease_rules(&leases) },
        pools: Pools(pools),
        answers,
        screens: screen_settings(screens),
        serial: serial_settings(&serial),
        serial_listener: SerialListener {
            listen: serial.listen,
            allowed_peers: serial.allowed_peers,
        },
        artifacts: artifact_settings(&artifacts),
        files: FileRules { roots: file_roots(files, is_simulated) },
        listen: http.listen.clone(),
        socket_access: SocketAccess { mode: http.socket_mode, group: http.socket_group.clone() },
        passed_sockets: Vec::new(),
        tls: tls_files(&http),
        http: http_settings(http, log.access, options.verify != Verify::Off),
        event_stream: EventStreamSettings::default(),
        esx: options,
        grace: GRACE,
        warnings,
    })
}

fn tls_files(http: &config::Http) -> Option<TlsFiles> {
    let certificate = http.tls_certificate.clone()?;
    http.tls_key.clone().map(|key| TlsFiles { certificate, key })
}

/// The folders below which otter writes files. A simulated host has a datastore for that.
fn file_roots(files: config::Files, is_simulated: bool) -> Vec<DatastorePath> {
    let config::Files { mut roots } = files;
    if is_simulated && roots.is_empty() {
        roots.push(DatastorePath { datastore: "isos".to_owned(), path: None });
    }
    roots
}

fn http_settings(http: config::Http, access_log: bool, tls_verified: bool) -> HttpSettings {
    HttpSettings {
        max_wait: http.max_wait,
        max_waits: http.max_waits,
        body_limit: http.body_limit,
        body_timeout: http.body_timeout,
        header_timeout: http.header_timeout,
        idle_timeout: http.idle_timeout,
        // Each waiting call holds a connection. 1,000 more connections are left for other calls.
        max_connections: connection_limit(http.max_waits + 1_000),
        scheme: Scheme::Http,
        allowed_origins: http.allowed_origins,
        trusted_proxies: http.trusted_proxies,
        base_path: http.base_path,
        access_log,
        bookmark_interval: Duration::from_secs(15),
        tls_verified,
        is_unencrypted: false,
    }
}

fn screen_settings(screens: config::Screens) -> ScreenSettings {
    let config::Screens { idle, max_open, max_viewers, ocr_command } = screens;
    ScreenSettings { idle, max_open, max_viewers, ocr_command }
}

fn serial_settings(serial: &config::Serial) -> SerialSettings {
    SerialSettings {
        log_bytes: serial.log_bytes,
        retention: days(serial.retention_days),
        max_open: serial.max_open,
        ..SerialSettings::default()
    }
}

/// The port of the host's API. The URL was checked before.
fn api_port(url: &str) -> u16 {
    let url = host_url::normalize(url).ok().and_then(|url| reqwest::Url::parse(&url).ok());
    url.and_then(|url| url.port_or_known_default()).unwrap_or(443)
}

fn artifact_settings(artifacts: &config::Artifacts) -> ArtifactSettings {
    let config::Artifacts { max_bytes, max_total, retention_days, recording_bytes } = *artifacts;
    ArtifactSettings { max_bytes, max_total, retention: days(retention_days), recording_bytes }
}

/// The waits for screens.
fn screen_waits(
    screens: &Arc<Screens>,
    inventory: &Arc<Inventory>,
    leases: &Arc<PublishedLeases>,
    clock: &Clock,
) -> ScreenWaits {
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (command, metrics) = (&screens.settings().ocr_command, screens.metrics().clone());
    ScreenWaits::new(ScreenWaitsParts {
        screens: Arc::clone(screens),
        inventory: Arc::clone(inventory),
        clock: clock.clone(),
        ocr: Ocr::new(clock.clone(), command, processors, metrics),
        pictures: LastPictures::new(clock.clone(), Arc::clone(leases)),
        processors,
    })
}

/// The maximum number of connections: the configured one, or less if the limit of open files allows
/// fewer.
fn connection_limit(configured: usize) -> usize {
    let Some(files) = getrlimit(Resource::Nofile).current else { return configured };
    let allowed = connections::limit_for_open_files(files);
    if allowed < configured {
        tracing::info!(
            open_files = files,
            connections = allowed,
            "the limit of open files allows fewer connections than http.max_waits needs"
        );
    }
    configured.min(allowed)
}

fn record_retention(days: u32) -> RecordRetention {
    RecordRetention { time: self::days(days), ..RecordRetention::default() }
}

fn lease_rules(leases: &config::Leases) -> LeaseRules {
    let config::Leases {
        max_ttl,
        max_total,
        abandon_after,
        grace,
        quarantine_retry,
        retention_days,
        // The jobs use this setting, and the leases do not.
        question_grace: _,
    } = *leases;
    LeaseRules {
        ledger_retention: days(retention_days),
        max_ttl,
        max_total,
        abandon_after,
        grace,
        quarantine_retry,
        ..LeaseRules::default()
    }
}

fn days(days: u32) -> Duration {
    Duration::from_hours(24) * days
}

/// An application that is bound to its address but does not run yet.
pub struct App {
    clock: Clock,
    supervisor: Supervisor,
    store: Store,
    services: Services,
    recordings: Arc<Recordings>,
    folder: ArtifactFolder,
    listeners: Vec<Listener>,
    /// Accepts machines that dial otter for their serial ports, from these networks.
    serial_listener: Option<TcpListener>,
    serial_peers: Vec<Network>,
    live: LiveSettings,
    tls: Option<Tls>,
    http: HttpSettings,
    metrics: Metrics,
    retention: Retention,
}

impl App {
    /// Checks the settings, opens the store, and binds the address. Logs the warnings. Does not
    /// resume jobs yet. Every error that can prevent a start occurs in this function.
    ///
    /// # Errors
    /// Why otter cannot start, as a text for the operator.
    pub async fn bind(settings: Settings, clock: Clock) -> anyhow::Result<Self> {
        Self::bind_with(vim25_backend, settings, clock).await
    }

    /// Does the same as [`App::bind`], with `backend` in place of the vim25 backend.
    ///
    /// # Errors
    /// The errors of [`App::bind`], and the errors of making the backend.
    #[expect(clippy::too_many_lines, reason = "it puts all parts together, one after the other")]
    pub async fn bind_with(
        backend: impl Backend,
        settings: Settings,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let checked = check(&settings).await?;
        checked.log(settings.state_dir.as_deref());
        let CheckedSettings { tls, is_unencrypted, warnings: _, state: _ } = checked;
        let metrics = Metrics::default();
        let hosts = Hosts::from_host(backend(&settings, &clock, &metrics)?);
        let live = LiveSettings::new(settings.reloadable());
        let Settings {
            listen,
            socket_access,
            passed_sockets,
            state_dir,
            guest_settle,
            jobs,
            leases,
            retention,
            screens,
            serial,
            serial_listener: SerialListener { listen: serial_listen, allowed_peers: serial_peers },
            artifacts,
            files,
            esx,
            mut http,
            event_stream,
            grace,
            ..
        } = settings;
        http.is_unencrypted = is_unencrypted;
        fail_point!("open");
        let store = match &state_dir {
            Some(directory) => Store::open(directory).await?,
            None => Store::in_memory().await?,
        };
        let storage: Arc<dyn Storage> = Arc::new(store.clone());
        let audit = Arc::new(Audit::new(Arc::clone(&storage), clock.clone()));
        let callers = Arc::new(Callers::load(Arc::clone(&storage), clock.clone()).await?);
        let supervisor = Supervisor::new(clock.clone(), grace);
        let listeners = bind_listeners(&listen, &socket_access, &passed_sockets).await?;
        let listeners = with_tls(listeners, tls.as_ref());
        http.scheme = scheme_of(&listeners);
        let serial_listener = match serial_listen {
            Some(address) => Some(bind_serial(address).await?),
            None => None,
        };
        let event_stream = EventStream::with_settings(&clock, &event_stream);
        let inventory = Arc::new(Inventory::new(clock.clone(), event_stream.clone(), guest_settle));
        let published_leases = Arc::new(PublishedLeases::default());
        let screens = Arc::new(Screens::new(ScreensParts {
            hosts: hosts.clone(),
            inventory: Arc::clone(&inventory),
            leases: Arc::clone(&published_leases),
            live: live.clone(),
            callers: Arc::clone(&callers),
            audit: Arc::clone(&audit),
            supervisor: supervisor.clone(),
            clock: clock.clone(),
            metrics: metrics.screens().clone(),
            settings: screens,
        }));
        let screen_waits = Arc::new(screen_waits(&screens, &inventory, &published_leases, &clock));
        let serial = Arc::new(Serial::new(SerialParts {
            hosts: hosts.clone(),
            inventory: Arc::clone(&inventory),
            leases: Arc::clone(&published_leases),
            live: live.clone(),
            screens: Arc::clone(&screens),
            storage: Arc::new(store.clone()),
            audit: Arc::clone(&audit),
            supervisor: supervisor.clone(),
            clock: clock.clone(),
            metrics: metrics.serial().clone(),
            settings: SerialSettings {
                directory: state_dir.as_ref().map(|directory| directory.join("serial")),
                listens: serial_listener.is_some(),
                api_port: api_port(&esx.url),
                ..serial
            },
        }));
        let folder = ArtifactFolder::new(state_dir.as_deref(), &clock);
        let artifacts = Artifacts::open(ArtifactsParts {
            store: Arc::new(store.clone()),
            leases: Arc::clone(&published_leases),
            visibility: Visibility::new(Arc::clone(&inventory), live.clone()),
            clock: clock.clone(),
            metrics: metrics.artifacts().clone(),
            settings: artifacts,
            folder: folder.clone(),
        });
        let artifacts = Arc::new(artifacts.await?);
        let files = Files::open(FilesParts {
            hosts: hosts.clone(),
            inventory: Arc::clone(&inventory),
            store: Arc::new(store.clone()),
            clock: clock.clone(),
            rules: files,
        });
        let files = Arc::new(files.await?);
        let pauses = RecordingPauses::new(clock.clone());
        let recording_statuses = RecordingStatuses::default();
        let last_pictures = LastPictureTaker::new(LastPictureParts {
            screens: Arc::clone(&screens),
            waits: Arc::clone(&screen_waits),
            inventory: Arc::clone(&inventory),
            artifacts: Arc::clone(&artifacts),
            pauses: pauses.clone(),
            statuses: recording_statuses.clone(),
            supervisor: supervisor.clone(),
            clock: clock.clone(),
        });
        let jobs = Jobs::new(JobsParts {
            store: Arc::clone(&storage),
            hosts: hosts.clone(),
            inventory: Arc::clone(&inventory),
            clock: clock.clone(),
            event_stream: event_stream.clone(),
            supervisor: supervisor.clone(),
            settings: jobs,
            metrics: metrics.clone(),
            authorizer: Arc::clone(&published_leases) as _,
            snapshots: Arc::new(SnapshotProtection::new(live.clone(), Arc::clone(&storage))),
            screens: Arc::clone(&screen_waits) as _,
            serial: Arc::clone(&serial) as _,
            files: Arc::clone(&files) as _,
        });
        let patterns =
            PatternWatch::new(live.clone(), Arc::clone(&inventory), event_stream.clone());
        let machines = Arc::new(Machines::new(
            Arc::clone(&inventory),
            jobs.clone(),
            Arc::clone(&published_leases),
            live.clone(),
        ));
        let secrets = lease_key::open(state_dir.as_deref(), store.has_leases().await?, &clock)?;
        let input_key = secrets.derive("input");
        let leases = Leases::load(LeasesParts {
            store: Arc::clone(&storage),
            clock: clock.clone(),
            callers: Arc::clone(&callers),
            event_stream: event_stream.clone(),
            inventory: Arc::clone(&inventory),
            jobs: jobs.clone(),
            machines: Arc::clone(&machines),
            published: Arc::clone(&published_leases),
            settings: live.clone(),
            rules: leases,
            secrets,
            supervisor: supervisor.clone(),
            metrics: metrics.clone(),
            recordings: recording_statuses.clone(),
            before_release: Arc::new(last_pictures),
        })
        .await?;
        let input_records = Arc::new(InputRecords::new(Arc::clone(&storage), input_key));
        let overrides = Arc::new(Overrides::new(
            leases.clone(),
            Arc::clone(&audit),
            supervisor.clone(),
            clock.clone(),
        ));
        let inputs = Arc::new(InputCalls::new(InputCallsParts {
            screens: Arc::clone(&screens),
            waits: Arc::clone(&screen_waits),
            inventory: Arc::clone(&inventory),
            callers: Arc::clone(&callers),
            overrides: Arc::clone(&overrides),
            records: Arc::clone(&input_records),
            lanes: InputLanes::default(),
            pauses: pauses.clone(),
            supervisor: supervisor.clone(),
            clock: clock.clone(),
        }));
        let serial_inputs = Arc::new(SerialInputs::new(SerialInputsParts {
            serial: Arc::clone(&serial),
            callers: Arc::clone(&callers),
            overrides: Arc::clone(&overrides),
            records: input_records,
            pauses: pauses.clone(),
        }));
        let recordings = Recordings::open(RecordingsParts {
            leases: leases.clone(),
            published: published_leases,
            store: Arc::clone(&storage),
            screens: Arc::clone(&screens),
            serial: Arc::clone(&serial),
            inventory: Arc::clone(&inventory),
            artifacts: Arc::clone(&artifacts),
            pauses,
            statuses: recording_statuses,
            audit: Arc::clone(&audit),
            supervisor: supervisor.clone(),
            clock: clock.clone(),
            metrics: metrics.artifacts().clone(),
            folder: folder.recordings(),
        });
        let recordings = Arc::new(recordings.await?);
        let services = Services {
            callers,
            event_stream,
            inventory,
            machines,
            patterns: Arc::new(patterns),
            jobs,
            leases,
            storage: StorageWatch::new(storage, clock.clone()),
            audit,
            artifacts,
            files,
            screens,
            screen_waits,
            overrides,
            inputs,
            serial,
            serial_inputs,
            hosts,
        };
        sample_metrics(&metrics, &services, &store, &clock);
        Ok(Self {
            clock,
            supervisor,
            store,
            services,
            recordings,
            folder,
            listeners,
            serial_listener,
            serial_peers,
            live,
            tls,
            http,
            metrics,
            retention,
        })
    }

    /// The addresses on which otter listens, as texts. There is at least one.
    ///
    /// # Errors
    /// Fails if the operating system does not report an address.
    pub fn listen_addresses(&self) -> std::io::Result<Vec<String>> {
        self.listeners.iter().map(Listener::describe).collect()
    }

    /// The first TCP address on which otter listens. `None` if otter listens only on Unix sockets.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listeners.iter().find_map(Listener::address)
    }

    /// The address on which otter listens for machines that dial it for their serial ports. `None`
    /// if it does not.
    #[must_use]
    pub fn serial_address(&self) -> Option<SocketAddr> {
        self.serial_listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// The store. Tests use it to count SQL statements.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// The jobs. Tests use them to delete old jobs without waiting for an hour.
    #[must_use]
    pub fn jobs(&self) -> Jobs {
        self.services.jobs.clone()
    }

    /// The supervisor, with which the caller can stop the daemon.
    #[must_use]
    pub fn supervisor(&self) -> Supervisor {
        self.supervisor.clone()
    }

    /// Makes SIGHUP read the configuration again.
    pub fn reload_with(&self, reload: Reload) {
        let Self { supervisor, services, live, tls, .. } = self;
        reload.register(supervisor, services, live.clone(), tls.clone());
    }

    /// The HTTP API as a service. Tests call it without a socket.
    ///
    /// # Errors
    /// Fails if two routes match the same paths.
    pub fn service(&self) -> anyhow::Result<impl HttpService + use<>> {
        let Self { clock, supervisor, services, http, metrics, .. } = self;
        let stop = supervisor.shutdown_token();
        let (services, clock, http) = (services.clone(), clock.clone(), http.clone());
        Ok(ApiState::new(services, clock, stop, http, metrics.clone()).service()?)
    }

    /// Resumes the unfinished jobs, serves the HTTP API, and returns after the shutdown. On SIGHUP,
    /// it also tries at once to connect to a host that is away.
    ///
    /// # Errors
    /// Fails if the unfinished jobs cannot be read from the store.
    pub async fn run(self, signals: Signals) -> anyhow::Result<Shutdown> {
        let service = self.service()?;
        let Self {
            clock,
            supervisor,
            store,
            services,
            recordings,
            folder,
            listeners,
            serial_listener,
            serial_peers,
            live,
            http,
            metrics,
            retention,
            ..
        } = self;
        let (purged, purge_clock): (Arc<dyn Storage>, _) = (Arc::new(store.clone()), clock.clone());
        // The store stops last, because the other services commit to it until they end. The audit
        // stops just before the store, because it counts refused calls until then.
        let audit = Arc::clone(&services.audit);
        let is_shared = store.is_shared();
        supervisor.spawn_stopping_last("store", |stop| async move {
            let audit_ended = CancellationToken::new();
            let mut writer = std::pin::pin!(store.run(audit_ended.clone()));
            tokio::select! {
                ended = &mut writer => return ended,
                () = audit.run(stop) => audit_ended.cancel(),
            }
            writer.await
        });
        let resumed = services
            .jobs
            .recover()
            .await
            .context("the unfinished jobs cannot be read from the store")?;
        if resumed > 0 {
            tracing::info!(jobs = resumed, "resumed the unfinished jobs");
        }
        let observer: Arc<dyn Observer> = Arc::clone(&services.inventory) as _;
        let host = Arc::clone(services.hosts.only());
        // SIGHUP also makes otter connect at once to a host that is away. The handlers of SIGHUP
        // run in the order of their registration. This one comes after the reload of the
        // configuration, so that the connection uses the new password.
        let away = Arc::clone(&host);
        supervisor.on_reload("the connection to the host", move || {
            away.connect_now();
            Ok::<(), Infallible>(())
        });
        supervisor.spawn("host", |stop| async move { host.run(observer, stop).await });
        let (inventory, hosts) = (Arc::clone(&services.inventory), services.hosts.clone());
        supervisor.spawn("guest addresses", |stop| async move {
            inventory.confirm_guests(hosts, stop).await;
        });
        let callers = Arc::clone(&services.callers);
        if is_shared {
            supervisor.spawn("tokens", |stop| callers.follow(stop));
        }
        let patterns = Arc::clone(&services.patterns);
        supervisor.spawn("patterns", |stop| patterns.follow(stop));
        let questions = QuestionWatch::new(live, &services, clock.clone());
        supervisor.spawn("questions", |stop| questions.run(stop));
        supervisor.spawn("leases", |stop| services.leases.clone().run(stop));
        let artifacts = Arc::clone(&services.artifacts);
        supervisor.spawn("artifacts", |stop| artifacts.run(stop));
        let (files, jobs) = (Arc::clone(&services.files), services.jobs.clone());
        supervisor.spawn("files", |stop| files.run(jobs, stop));
        supervisor.spawn("recordings", |stop| recordings.run(stop));
        let serial = Arc::clone(&services.serial);
        if let Some(listener) = serial_listener {
            let (host, directory) = (Arc::clone(services.hosts.only()), Arc::clone(&serial));
            supervisor.spawn("serial listener", |stop| async move {
                host.accept_serial(listener, serial_peers, directory, stop).await;
            });
        }
        supervisor.spawn("serial ports", |stop| serial.keep(stop));
        supervisor.spawn("deadlines", |stop| services.jobs.clone().expire(stop));
        supervisor.spawn("wall clock", |stop| services.jobs.clone().follow_wall_clock(stop));
        supervisor.spawn("storage", |stop| services.storage.clone().watch(stop));
        let jobs = services.jobs.clone();
        supervisor
            .spawn("retention", |stop| retention::run(purged, purge_clock, retention, jobs, stop));
        let own = supervisor.clone();
        supervisor.spawn("http", |stop| serve(listeners, service, http, clock, own, stop));
        supervisor.ready();
        let shutdown = supervisor.run(signals).await;
        metrics.forget_sample();
        folder.remove_if_temporary();
        Ok(shutdown)
    }
}

/// Binds the configured address, or takes over the sockets that the service manager passed.
async fn bind_listeners(
    listen: &Listen,
    access: &SocketAccess,
    passed: &[PassedSocket],
) -> anyhow::Result<Vec<Listener>> {
    if passed.is_empty() {
        let listener = match listen {
            Listen::Tcp(address) => Listener::tcp(*address).await,
            Listen::Unix(path) => Listener::unix(path, access).await,
        };
        return Ok(vec![listener.with_context(|| format!("cannot listen on {listen}"))?]);
    }
    let mut listeners = Vec::new();
    for PassedSocket { name, listener } in passed {
        tracing::info!(socket = name, "systemd passed a socket, which replaces http.listen");
        let taken = Listener::passed(listener);
        let context = || format!("cannot listen on the socket {name} of systemd");
        listeners.push(taken.with_context(context)?);
    }
    Ok(listeners)
}

async fn bind_serial(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("cannot listen on {address} (serial.listen)"))
}

/// Adds TLS to the listeners on TCP, if a certificate is configured.
fn with_tls(listeners: Vec<Listener>, tls: Option<&Tls>) -> Vec<Listener> {
    let Some(tls) = tls else { return listeners };
    listeners.into_iter().map(|listener| listener.with_tls(tls.clone())).collect()
}

/// The scheme of the URLs at which clients reach otter, unless a reverse proxy is in between.
fn scheme_of(listeners: &[Listener]) -> Scheme {
    let has_tls = listeners.iter().any(|listener| matches!(listener, Listener::Tls(..)));
    if has_tls { Scheme::Https } else { Scheme::Http }
}

/// A function that makes the backend for the settings. Another hypervisor needs another such
/// function.
pub trait Backend:
    FnOnce(&Settings, &Clock, &Metrics) -> anyhow::Result<Arc<dyn Hypervisor>>
{
}

impl<F: FnOnce(&Settings, &Clock, &Metrics) -> anyhow::Result<Arc<dyn Hypervisor>>> Backend for F {}

/// Makes the vim25 backend.
///
/// # Errors
/// Fails if the settings of the host are invalid.
pub fn vim25_backend(
    settings: &Settings,
    clock: &Clock,
    metrics: &Metrics,
) -> anyhow::Result<Arc<dyn Hypervisor>> {
    let hypervisor = EsxHypervisor::with_metrics(&settings.esx, clock.clone(), metrics.clone())
        .context("the host's settings are wrong")?;
    Ok(Arc::new(hypervisor))
}

/// Registers the function that sets the sampled metrics just before each scrape.
fn sample_metrics(metrics: &Metrics, services: &Services, store: &Store, clock: &Clock) {
    let (services, store, clock) = (services.clone(), store.clone(), clock.clone());
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.before_scrape(move |metrics| {
        let sampled = metrics.sampled();
        let (waiting, running) = services.jobs.counts();
        sampled.jobs_waiting.set(number(waiting));
        sampled.jobs_running.set(number(running));
        services.leases.update_gauges();
        metrics.clear_unmatched_patterns();
        for (setting, count) in services.patterns.counts() {
            metrics.unmatched_patterns(&setting, number(count));
        }
        let contents = services.inventory.contents();
        sampled.machines.set(number(contents.machines.len()));
        sampled.datastores.set(number(contents.datastores.len()));
        let age = contents.updated_at.map(|at| clock.now().duration_since(at).as_secs_f64());
        sampled.inventory_age.set(age.unwrap_or(f64::NAN));
        SampledMetrics::count(&sampled.events, services.event_stream.published());
        SampledMetrics::count(&sampled.store_transactions, store.transactions());
        SampledMetrics::count(&sampled.store_statements, store.statements());
        SampledMetrics::count(&sampled.store_refusals, store.refused_writes());
        sampled.store_failing.set(i64::from(store.is_failing()));
        metrics.count_outage_until(clock.elapsed());
    });
}
