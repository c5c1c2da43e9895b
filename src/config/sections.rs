//! The settings of each section of the configuration, with their defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::{ConfigError, ConfigProblem, Listen, LogFormat};
use crate::domain::answers::AnswerRules;
use crate::domain::base_path::BasePath;
use crate::domain::file_path::DatastorePath;
use crate::domain::host_limits::HostLimits;
use crate::domain::machine_pattern::MachinePattern;
use crate::domain::network::Network;
use crate::domain::pool::{Pool, RunningLimits};
use crate::domain::proxy_url::ProxyUrl;
use crate::domain::socket_access::{SocketGroup, SocketMode};
use crate::domain::trusted_proxy::TrustedProxy;
use crate::domain::verify::Verify;
use crate::domain::web_origin::WebOrigin;

/// The default state directory.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/otter";

const MIB: usize = 1024 * 1024;

/// The checked configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub esx: Esx,
    pub http: Http,
    pub machines: Machines,
    pub snapshots: Snapshots,
    pub jobs: Jobs,
    pub leases: Leases,
    /// `[answers]`: the rules that answer the questions of machines.
    pub answers: AnswerRules,
    /// `[pools.<name>]`: the pools of machines.
    pub pools: BTreeMap<String, Pool>,
    pub screens: Screens,
    pub serial: Serial,
    pub artifacts: Artifacts,
    pub files: Files,
    pub audit: Audit,
    pub state: State,
    pub log: Log,
    /// Warnings about the configuration that do not prevent a start. Each is one sentence.
    pub warnings: Vec<String>,
}

/// `[esx]`: the host, its account, and the settings for calls to the host.
#[derive(Clone, Debug)]
pub struct Esx {
    /// The complete URL of the host's API, for example `https://esx.lab/sdk`.
    pub url: Option<String>,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    /// HTTP headers of every request to the host, for a reverse proxy in front of the host.
    pub headers: Vec<(http::HeaderName, SecretString)>,
    pub verify: Verify,
    /// The HTTP proxy through which otter reaches the host. otter does not use proxies that the
    /// environment names.
    pub proxy: Option<ProxyUrl>,
    /// The name of the virtual machine in which otter itself runs. otter also recognises this
    /// machine by its hardware address or its BIOS UUID.
    pub machine_name: Option<String>,
    pub connect_timeout: Duration,
    /// The maximum duration of a call that is not a wait for updates.
    pub read_timeout: Duration,
    /// How long a machine must be without a running task before otter decides what a lost call did.
    pub settle: Duration,
    /// How long after the start of a machine otter waits for an update with the guest's address,
    /// before it reads the address directly.
    pub guest_settle: Duration,
    /// How long otter still accepts new jobs after the host has become unreachable.
    pub outage_grace: Duration,
    /// The maximum size of an answer from the host, in bytes.
    pub answer_limit: usize,
    /// The limits for machines of the host that run at the same time. A lease waits until the
    /// limits allow its machine to run.
    pub limits: RunningLimits,
}

/// The address and the account of the host.
#[derive(Clone, Debug)]
pub struct Host {
    pub url: String,
    pub username: String,
    pub password: SecretString,
}

/// `[http]`: the settings of otter's HTTP server.
#[derive(Clone, Debug)]
pub struct Http {
    pub listen: Listen,
    /// The permissions of the socket's file, if otter listens on a Unix socket.
    pub socket_mode: SocketMode,
    /// The group of the socket's file, if otter listens on a Unix socket.
    pub socket_group: Option<SocketGroup>,
    /// The file with the certificate for TLS, in PEM.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// The maximum time that a waiting call (`?wait=`) can ask for.
    pub max_wait: Duration,
    /// The maximum number of calls that wait at the same time.
    pub max_waits: usize,
    /// The maximum size of the body of a request, in bytes.
    pub body_limit: usize,
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    pub body_timeout: Duration,
    /// Web origins of other servers whose pages may send changes to otter.
    pub allowed_origins: Vec<WebOrigin>,
    /// The reverse proxies whose headers `X-Forwarded-For` and `X-Forwarded-Prefix` otter trusts.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// The path under which clients reach otter behind a reverse proxy.
    pub base_path: BasePath,
}

/// `[machines]`: rules for the machines of the host.
#[derive(Clone, Debug, Default)]
pub struct Machines {
    /// The entries that name the machines which no caller may change.
    pub protected: Vec<MachinePattern>,
}

/// `[snapshots]`: the protection of snapshots.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    /// Patterns (with `*` and `?`) that protect snapshots by their names or paths.
    pub protected: Vec<String>,
    /// Whether runners may remove and rename snapshots that were not created under their lease.
    pub runners_may_remove: bool,
}

/// `[jobs]`: the deadlines, the queues and the retention of jobs.
#[derive(Clone, Debug)]
pub struct Jobs {
    pub deadlines: Deadlines,
    /// The maximum number of queued jobs of one machine.
    pub queue_per_machine: usize,
    /// The maximum number of queued jobs of all machines.
    pub queue_total: usize,
    /// How many days ended jobs are kept.
    pub retention_days: u32,
}

/// `[jobs.deadlines]`: the default deadlines of jobs. The time of a job in the queue counts too.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// The deadline of jobs that power on, power off, reset, suspend, kill, answer or rename.
    pub power: Duration,
    /// The deadline of shutdowns and reboots that the guest carries out.
    pub guest: Duration,
    pub create: Duration,
    pub revert: Duration,
    /// The deadline of removals of snapshots and of consolidations of disks.
    pub remove: Duration,
    /// The deadline of a preparation of a machine for a lease, and of its release after the lease.
    pub prepare: Duration,
}

/// `[leases]`: the limits of leases.
#[derive(Clone, Debug)]
pub struct Leases {
    /// The maximum duration that a lease may ask for, and by which one renewal may extend it.
    pub max_ttl: Duration,
    /// The maximum time that a lease may last with all its renewals.
    pub max_total: Duration,
    /// How long a queued lease lasts if no caller asks for its state.
    pub abandon_after: Duration,
    /// The minimum time that every open lease has left after a restart of otter.
    pub grace: Duration,
    /// The pause before otter first tries again to release a machine that it quarantined by itself.
    /// Zero means that otter does not try.
    pub quarantine_retry: Duration,
    /// How long a preparation waits if the machine asks a question that no caller answers.
    pub question_grace: Duration,
    /// How many days ended leases are kept.
    pub retention_days: u32,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            max_ttl: Duration::from_hours(24),
            max_total: Duration::from_hours(7 * 24),
            abandon_after: Duration::from_mins(2),
            grace: Duration::from_mins(1),
            quarantine_retry: Duration::from_mins(15),
            question_grace: Duration::from_mins(1),
            retention_days: 30,
        }
    }
}

/// `[screens]`: the connections to screens of machines, and how text is read from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screens {
    /// How long the connection to a screen stays open without a user.
    pub idle: Duration,
    /// The maximum number of machines whose screens are open at the same time.
    pub max_open: usize,
    /// The maximum number of viewers of one machine.
    pub max_viewers: usize,
    /// The program that reads text from a picture, and its first arguments.
    pub ocr_command: Vec<String>,
}

impl Default for Screens {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(1),
            max_open: 128,
            max_viewers: 32,
            ocr_command: vec!["tesseract".to_owned()],
        }
    }
}

/// `[serial]`: the connections to serial ports, and what is kept of their output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serial {
    /// Where otter listens for machines that dial it for their serial ports. `None`: it does not.
    pub listen: Option<SocketAddr>,
    /// The networks from which machines may dial. Empty: the addresses of `esx.url`.
    pub allowed_peers: Vec<Network>,
    /// The maximum size of the output of one port in files, in bytes.
    pub log_bytes: u64,
    /// How long the output of a port that is not used is kept in files.
    pub retention_days: u32,
    /// The maximum number of ports that otter is connected to at the same time.
    pub max_open: usize,
    /// The beginning of the names of the serial devices of the machine that otter runs in.
    pub tty: String,
}

impl Default for Serial {
    fn default() -> Self {
        Self {
            listen: None,
            allowed_peers: Vec::new(),
            log_bytes: 16 * 1024 * 1024,
            retention_days: 14,
            max_open: 512,
            tty: "/dev/ttyS".to_owned(),
        }
    }
}

/// `[artifacts]`: the files that belong to leases, and the recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifacts {
    /// The maximum size of one artifact in bytes.
    pub max_bytes: u64,
    /// The maximum size of all artifacts together in bytes. If it is reached, the oldest artifacts
    /// of ended leases are deleted.
    pub max_total: u64,
    pub retention_days: u32,
    /// The maximum size of one recording in bytes: of the screen, or of one serial port.
    pub recording_bytes: u64,
}

impl Default for Artifacts {
    fn default() -> Self {
        Self {
            max_bytes: 1024 * 1024 * 1024,
            max_total: 20 * 1024 * 1024 * 1024,
            retention_days: 14,
            recording_bytes: 256 * 1024 * 1024,
        }
    }
}

/// `[files]`: the files on datastores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The folders below which otter writes files, and below which runners read them.
    pub roots: Vec<DatastorePath>,
}

/// `[audit]`: the retention of the audit.
#[derive(Clone, Debug)]
pub struct Audit {
    pub retention_days: u32,
    /// The maximum size of the audit in bytes. If the audit is larger, the oldest records are
    /// deleted.
    pub max_bytes: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { retention_days: 365, max_bytes: 256 * 1024 * 1024 }
    }
}

/// `[state]`: where otter keeps the state that outlives a restart.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The state directory. `None` if the configuration names none.
    pub dir: Option<PathBuf>,
}

/// `[log]`: the log, which is written to stderr.
#[derive(Clone, Debug)]
pub struct Log {
    /// The level: one word, or directives such as `info,otter::esx=debug`.
    pub level: String,
    pub format: LogFormat,
    /// Whether otter logs each request.
    pub access: bool,
}

impl Default for Esx {
    fn default() -> Self {
        let HostLimits { connect_timeout, read_timeout, answer_limit } = HostLimits::default();
        Self {
            url: None,
            username: None,
            password: None,
            headers: Vec::new(),
            verify: Verify::default(),
            proxy: None,
            machine_name: None,
            connect_timeout,
            read_timeout,
            settle: Duration::from_secs(30),
            guest_settle: Duration::from_secs(30),
            outage_grace: Duration::from_mins(1),
            answer_limit,
            limits: RunningLimits::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            socket_mode: SocketMode::default(),
            socket_group: None,
            tls_certificate: None,
            tls_key: None,
            max_wait: Duration::from_mins(10),
            max_waits: 20_000,
            body_limit: MIB,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            base_path: BasePath::default(),
        }
    }
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            deadlines: Deadlines::default(),
            queue_per_machine: 16,
            queue_total: 10_000,
            retention_days: 30,
        }
    }
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            power: Duration::from_mins(10),
            guest: Duration::from_mins(15),
            create: Duration::from_hours(1),
            revert: Duration::from_hours(1),
            remove: Duration::from_hours(24),
            prepare: Duration::from_mins(30),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto, access: false }
    }
}

impl State {
    /// The configured state directory, or the default one if none is configured.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new(DEFAULT_STATE_DIR))
    }
}

impl Esx {
    /// The address and the account of the host, which are required unless `--simulate` is given.
    ///
    /// # Errors
    /// The settings that are missing, with every way to set them.
    pub fn host(&self) -> Result<Host, ConfigError> {
        if let (Some(url), Some(username), Some(password)) =
            (&self.url, &self.username, &self.password)
        {
            return Ok(Host {
                url: url.clone(),
                username: username.clone(),
                password: password.clone(),
            });
        }
        let missing =
            |at: &str, absent: bool, how: &str| absent.then(|| ConfigProblem::new(at, how));
        let problems = [
            missing(
                "esx.url",
                self.url.is_none(),
                "is missing: set it, or OTTER_ESX_URL, to https://<host>",
            ),
            missing(
                "esx.username",
                self.username.is_none(),
                "is missing: set it, or OTTER_ESX_USERNAME",
            ),
            missing(
                "esx.password",
                self.password.is_none(),
                "is missing: set esx.password_file or esx.password, or OTTER_ESX_PASSWORD_FILE or \
                 OTTER_ESX_PASSWORD",
            ),
        ];
        Err(ConfigError { problems: problems.into_iter().flatten().collect() })
    }
}

/// A configuration that does not contain the settings of all sources yet.
#[derive(Default)]
pub struct ConfigDraft {
    pub config: Config,
    pub password: Password,
}

/// Where the password of the host comes from.
#[derive(Default)]
pub enum Password {
    #[default]
    None,
    Given(SecretString),
    InFile {
        file: PathBuf,
        /// The key or the variable in which the name of the file was given.
        named_by: String,
    },
}
