//! The settings of each section, with their defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::{ConfigError, ConfigProblem, Listen, LogFormat};
use crate::domain::answers::AnswerRules;
use crate::domain::base_path::BasePath;
use crate::domain::host_limits::HostLimits;
use crate::domain::machine_pattern::MachinePattern;
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
    /// `[answers]`: the answers to questions of machines.
    pub answers: AnswerRules,
    /// `[pools.<name>]`: the pools of machines.
    pub pools: BTreeMap<String, Pool>,
    pub screens: Screens,
    pub audit: Audit,
    pub state: State,
    pub log: Log,
    /// Warnings that do not prevent a start, one sentence each.
    pub warnings: Vec<String>,
}

/// `[esx]`: the host, and the settings of calls to it.
#[derive(Clone, Debug)]
pub struct Esx {
    /// The complete URL, such as `https://esx.lab/sdk`.
    pub url: Option<String>,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    /// Headers of every request to the host, for a proxy in between.
    pub headers: Vec<(http::HeaderName, SecretString)>,
    pub verify: Verify,
    /// The HTTP proxy through which otter reaches the host. Proxies of the environment are not
    /// used.
    pub proxy: Option<ProxyUrl>,
    /// The name of the machine that otter runs in. otter also finds it by its MAC or its BIOS
    /// UUID.
    pub machine_name: Option<String>,
    pub connect_timeout: Duration,
    /// The maximum duration of an ordinary call.
    pub read_timeout: Duration,
    /// How long a machine must have no task before otter decides what a lost call did.
    pub settle: Duration,
    /// How long after a start otter reads the guest's address, if no update reported it.
    pub guest_settle: Duration,
    /// How long otter accepts new jobs while the host is unreachable.
    pub outage_grace: Duration,
    /// The maximum size of an answer of the host, in bytes.
    pub answer_limit: usize,
    /// The limits of the machines that run at the same time. A lease waits for them.
    pub limits: RunningLimits,
}

/// The address and the account of the host.
#[derive(Clone, Debug)]
pub struct Host {
    pub url: String,
    pub username: String,
    pub password: SecretString,
}

/// `[http]`: the HTTP server.
#[derive(Clone, Debug)]
pub struct Http {
    pub listen: Listen,
    /// The permissions of the file of a Unix socket.
    pub socket_mode: SocketMode,
    /// The group of the file of a Unix socket.
    pub socket_group: Option<SocketGroup>,
    /// The certificate for TLS, in PEM.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// The maximum time that a call can block.
    pub max_wait: Duration,
    /// The maximum number of calls that block at the same time.
    pub max_waits: usize,
    /// The maximum size of a request's body, in bytes.
    pub body_limit: usize,
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    pub body_timeout: Duration,
    /// The origins of other servers whose pages may send changes.
    pub allowed_origins: Vec<WebOrigin>,
    /// The proxies whose headers `X-Forwarded-For` and `X-Forwarded-Prefix` otter trusts.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// The path under which clients reach otter behind a proxy.
    pub base_path: BasePath,
}

/// `[machines]`: rules for the machines of the host.
#[derive(Clone, Debug, Default)]
pub struct Machines {
    /// The machines that no caller may change.
    pub protected: Vec<MachinePattern>,
}

/// `[snapshots]`: the protection of snapshots.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    /// Patterns (`*`, `?`) of names and of paths of snapshots.
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
    /// How long ended jobs are kept.
    pub retention_days: u32,
}

/// `[jobs.deadlines]`: the default deadlines of jobs. A deadline includes the time in the queue.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// Power on, power off, reset, suspend, kill, answer and rename.
    pub power: Duration,
    /// Shutdown and reboot by the guest.
    pub guest: Duration,
    pub create: Duration,
    pub revert: Duration,
    /// Removals of snapshots, and consolidations of disks.
    pub remove: Duration,
    /// The preparation of a machine for a lease, and its release afterwards.
    pub prepare: Duration,
}

/// `[leases]`: the limits of leases.
#[derive(Clone, Debug)]
pub struct Leases {
    /// The maximum TTL of a lease, and of one renewal.
    pub max_ttl: Duration,
    /// The maximum time of a lease with all its renewals.
    pub max_total: Duration,
    /// A queued lease ends if no caller asks about it for this time.
    pub abandon_after: Duration,
    /// No lease expires earlier than this time after a restart.
    pub grace: Duration,
    /// The first pause before otter tries to release a machine that it quarantined by itself. Zero:
    /// never.
    pub quarantine_retry: Duration,
    /// How long a preparation waits at a question that no caller answers.
    pub question_grace: Duration,
    /// How long ended leases are kept.
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

/// `[audit]`: the retention of the audit.
#[derive(Clone, Debug)]
pub struct Audit {
    pub retention_days: u32,
    /// The maximum size in bytes. The oldest records are deleted.
    pub max_bytes: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { retention_days: 365, max_bytes: 256 * 1024 * 1024 }
    }
}

/// `[state]`: the state that outlives a restart.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The state directory. `None` if it is not configured.
    pub dir: Option<PathBuf>,
}

/// `[log]`: the log, which is written to stderr.
#[derive(Clone, Debug)]
pub struct Log {
    /// A level, or directives such as `info,otter::esx=debug`.
    pub level: String,
    pub format: LogFormat,
    /// Whether each request is logged.
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
    /// The configured state directory, otherwise the default one.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new(DEFAULT_STATE_DIR))
    }
}

impl Esx {
    /// The address and the account of the host. They are required without `--simulate`.
    ///
    /// # Errors
    /// The settings that are missing, and every way to set them.
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

/// A configuration that is not complete yet.
#[derive(Default)]
pub struct ConfigDraft {
    pub config: Config,
    pub password: Password,
}

/// The source of the password.
#[derive(Default)]
pub enum Password {
    #[default]
    None,
    Given(SecretString),
    InFile {
        file: PathBuf,
        /// The key or the variable that names the file.
        named_by: String,
    },
}
