//! The settings of each section, with their defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::{ConfigError, ConfigProblem, Listen, LogFormat};
use crate::domain::host_limits::HostLimits;
use crate::domain::network::Network;
use crate::domain::pool::Pool;
use crate::domain::verify::Verify;
use crate::domain::web_origin::WebOrigin;

/// Where the state is, unless it is said elsewhere.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/otter";

const MIB: usize = 1024 * 1024;

/// The whole configuration, checked.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub esx: Esx,
    pub http: Http,
    pub machines: Machines,
    pub snapshots: Snapshots,
    pub jobs: Jobs,
    pub leases: Leases,
    /// `[pools.<name>]`: which machines belong together.
    pub pools: BTreeMap<String, Pool>,
    pub audit: Audit,
    pub state: State,
    pub log: Log,
    /// Warnings that do not stop a start, a sentence each.
    pub warnings: Vec<String>,
}

/// `[esx]`: the host, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Esx {
    /// With its path, `https://esx.lab/sdk`.
    pub url: Option<String>,
    pub username: Option<String>,
    pub password: Option<SecretString>,
    /// Sent along with every request, for a proxy in between.
    pub headers: Vec<(http::HeaderName, SecretString)>,
    pub verify: Verify,
    /// The name of the machine that otter runs in; else it is found by its MAC.
    pub machine_name: Option<String>,
    pub connect_timeout: Duration,
    /// How long an answer may stall.
    pub read_timeout: Duration,
    /// How long a machine must be without a task before a lost call is judged.
    pub settle: Duration,
    /// How long after a start an address that nobody announced is asked for.
    pub guest_settle: Duration,
    /// How long new jobs are taken while the host is away.
    pub outage_grace: Duration,
    /// The largest answer of the host that is read, in bytes.
    pub answer_limit: usize,
}

/// What it takes to log in to a host.
#[derive(Clone, Debug)]
pub struct Host {
    pub url: String,
    pub username: String,
    pub password: SecretString,
}

/// `[http]`: what otter serves.
#[derive(Clone, Debug)]
pub struct Http {
    pub listen: Listen,
    /// The certificate to serve TLS with, in PEM; its key is beside it.
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// The longest that a call may block.
    pub max_wait: Duration,
    /// How many calls may block at a time.
    pub max_waits: usize,
    /// The largest body that is read, in bytes.
    pub body_limit: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    /// Origins of other servers whose pages may change things.
    pub allowed_origins: Vec<WebOrigin>,
    /// The proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
}

/// `[machines]`: rules for the machines of the host.
#[derive(Clone, Debug, Default)]
pub struct Machines {
    /// Ids and patterns of names (`*`, `?`) of machines that nobody may change.
    pub protected: Vec<String>,
}

/// `[snapshots]`: which snapshots only operators change.
#[derive(Clone, Debug, Default)]
pub struct Snapshots {
    /// Patterns (`*`, `?`) of the names and of the paths of snapshots.
    pub protected: Vec<String>,
    /// Whether runners may remove and rename snapshots that were not made under their lease.
    pub runners_may_remove: bool,
}

/// `[jobs]`: how long and how many.
#[derive(Clone, Debug)]
pub struct Jobs {
    pub deadlines: Deadlines,
    /// Jobs that may wait for one machine.
    pub queue_per_machine: usize,
    /// Jobs that may wait in all.
    pub queue_total: usize,
    /// How long ended jobs are kept.
    pub retention_days: u32,
}

/// `[jobs.deadlines]`: how long a job may take, waiting included, unless the caller says.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// On, off, reset, suspend and kill; answers and renames.
    pub power: Duration,
    /// Shutdown and reboot, which the guest does.
    pub guest: Duration,
    pub create: Duration,
    pub revert: Duration,
    /// Removals of snapshots.
    pub remove: Duration,
    /// Making a machine ready for a lease, and bringing it back after one.
    pub prepare: Duration,
}

/// `[leases]`: how long machines may be held.
#[derive(Clone, Debug)]
pub struct Leases {
    /// The longest time of a lease, and of one renewal.
    pub max_ttl: Duration,
    /// The longest time of a lease with all its renewals.
    pub max_total: Duration,
    /// A lease that waits and that nobody asked about for this long is dropped.
    pub abandon_after: Duration,
    /// After a restart no lease ends sooner than this.
    pub grace: Duration,
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
            retention_days: 30,
        }
    }
}

/// `[audit]`: how much of the audit is kept.
#[derive(Clone, Debug)]
pub struct Audit {
    pub retention_days: u32,
    /// In bytes; the oldest facts give way.
    pub max_bytes: u64,
}

impl Default for Audit {
    fn default() -> Self {
        Self { retention_days: 365, max_bytes: 256 * 1024 * 1024 }
    }
}

/// `[state]`: what outlives a restart.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// `None` where nothing names one.
    pub dir: Option<PathBuf>,
}

/// `[log]`: what is written to stderr.
#[derive(Clone, Debug)]
pub struct Log {
    /// A level, or directives such as `info,otter::esx=debug`.
    pub level: String,
    pub format: LogFormat,
    /// Whether each request is written.
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
            machine_name: None,
            connect_timeout,
            read_timeout,
            settle: Duration::from_secs(30),
            guest_settle: Duration::from_secs(30),
            outage_grace: Duration::from_mins(1),
            answer_limit,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            tls_certificate: None,
            tls_key: None,
            max_wait: Duration::from_mins(10),
            max_waits: 20_000,
            body_limit: MIB,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            allowed_origins: Vec::new(),
            trusted_proxies: Vec::new(),
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
    /// The directory: what was named, else the usual one.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new(DEFAULT_STATE_DIR))
    }
}

impl Esx {
    /// What it takes to log in; without `--simulate` it must be there.
    ///
    /// # Errors
    /// Names each setting that is missing, and every way to give it.
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

/// A configuration in the making.
#[derive(Default)]
pub struct ConfigDraft {
    pub config: Config,
    pub password: Password,
}

/// Where the password comes from.
#[derive(Default)]
pub enum Password {
    #[default]
    None,
    Given(SecretString),
    InFile {
        file: PathBuf,
        /// The key or variable.
        named_by: String,
    },
}
