//! The checks before a start. `serve` and `check-config` make the same checks, so `check-config`
//! accepts only a configuration that `serve` accepts too. The checks create and change nothing.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, anyhow};

use super::Settings;
use crate::api::listener::Listener;
use crate::api::tls::Tls;
use crate::config::{ConfigError, ConfigProblem, Listen, readable_by_all_warning};
use crate::domain::access::is_reserved_name;
use crate::domain::socket_access::SocketAccess;
use crate::domain::verify::Verify;
use crate::esx::OptionsError;
use crate::store::{Existing, FoundState, Store, key, reachable_by_others};
use crate::supervisor::{PassedListener, PassedSocket};

/// What the checks have found, if otter can start.
pub struct CheckedSettings {
    /// The loaded certificate and key. `None` if TLS is not configured.
    pub tls: Option<Tls>,
    /// Whether clients send their tokens over a network without TLS.
    pub is_unencrypted: bool,
    /// Warnings about the settings. Each is one sentence. `serve` logs them, and `check-config`
    /// prints them.
    pub warnings: Vec<String>,
    /// What the state directory contains. `None` if the state is kept in memory.
    pub state: Option<FoundState>,
}

impl CheckedSettings {
    /// Logs the warnings and where the state is kept. Warns if the directory or its database is
    /// new.
    pub fn log(&self, state_dir: Option<&Path>) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        let directory = state_dir.map_or("memory".into(), |directory| directory.to_string_lossy());
        let directory = &*directory;
        tracing::info!(directory, "the state is kept here");
        match self.state.map(|found| found.existing) {
            Some(Existing::Nothing) => tracing::warn!(
                directory,
                "the state directory is new and contains no earlier job, lease or token: if there \
                 should be any, check the name of the directory"
            ),
            Some(Existing::Directory) => tracing::warn!(
                directory,
                "the state directory has no database and contains no earlier job, lease or token: \
                 if there should be any, check the name of the directory"
            ),
            Some(Existing::Database) | None => {}
        }
    }
}

/// Checks everything that can be checked without a start. This is: the settings of the host, the
/// TLS files, the state directory with its database and its key, the address to listen on, and
/// whether there is a token if other machines can reach the address.
///
/// # Errors
/// Every reason why otter cannot start, each with what the operator can do. The error is a
/// [`ConfigError`] if one of the reasons is a wrong setting of the host.
pub async fn check(settings: &Settings) -> anyhow::Result<CheckedSettings> {
    let Settings {
        listen,
        socket_access,
        passed_sockets,
        serial_listener,
        tls,
        state_dir,
        esx,
        warnings,
        ..
    } = settings;
    let (mut warnings, mut problems) = (warnings.clone(), Vec::new());
    let wrong_settings = esx.check().err().map(wrong_host_settings);
    let mut require = |checked: anyhow::Result<()>| problems.extend(checked.err());
    if esx.verify == Verify::Off {
        warnings.push(
            "the host's certificate is not verified (esx.verify = false): an attacker in the \
             network can read the password"
                .to_owned(),
        );
    }
    let loaded = tls.as_ref().map(Tls::load).transpose().unwrap_or_else(|error| {
        require(Err(error.into()));
        None
    });
    warnings
        .extend(tls.as_ref().and_then(|files| readable_by_all_warning(&files.key, "the TLS key")));
    let state = match state_dir {
        Some(directory) => match Store::examine(directory).await {
            Ok(found) => {
                require(key::require(directory, found.has_leases).map(drop).map_err(Into::into));
                Some(found)
            }
            Err(error) => {
                require(Err(error.into()));
                // The directory cannot be read, so it is not known whether there are tokens. It
                // counts as having tokens, because the error about the directory is enough.
                Some(FoundState { has_tokens_in_force: true, ..FoundState::default() })
            }
        },
        None => None,
    };
    let addresses = match listen {
        _ if !passed_sockets.is_empty() => tcp_addresses(passed_sockets)?,
        Listen::Tcp(address) => {
            require(require_bindable(*address));
            vec![*address]
        }
        Listen::Unix(path) => {
            require(
                Listener::check_unix(path, socket_access)
                    .with_context(|| format!("cannot listen on {listen}")),
            );
            Vec::new()
        }
    };
    if let Some(address) = serial_listener.listen {
        require(require_bindable(address));
    }
    let makes_socket = passed_sockets.is_empty() && matches!(listen, Listen::Unix(_));
    if !makes_socket && *socket_access != SocketAccess::default() {
        let why = if passed_sockets.is_empty() {
            "http.listen is no Unix socket"
        } else {
            "systemd makes the sockets of otter: set SocketMode= and SocketGroup= in their unit"
        };
        warnings.push(format!("http.socket_mode and http.socket_group have no effect: {why}"));
    }
    let has_tokens = state.as_ref().is_some_and(|state| state.has_tokens_in_force);
    let reachable = addresses.into_iter().filter(|address| !address.ip().is_loopback());
    let mut is_unencrypted = false;
    for address in reachable {
        if !has_tokens {
            require(Err(missing_token_error(address, state_dir.as_deref())));
        }
        if tls.is_none() {
            is_unencrypted = true;
            warnings.push(format!(
                "tokens reach {address} in the clear: set http.tls_certificate and http.tls_key"
            ));
        }
    }
    if let Some(ConfigError { problems: mut all }) = wrong_settings {
        all.extend(problems.iter().map(|problem| ConfigProblem {
            file: None,
            line: None,
            at: String::new(),
            message: format!("{problem:#}"),
        }));
        return Err(ConfigError { problems: all }.into());
    }
    match problems.len() {
        0 => Ok(CheckedSettings { tls: loaded, is_unencrypted, warnings, state }),
        1 => Err(problems.remove(0)),
        count => {
            let lines: Vec<String> =
                problems.iter().map(|problem| format!("\n  {problem:#}")).collect();
            Err(anyhow!("{count} problems prevent a start of otter:{}", lines.concat()))
        }
    }
}

/// The configuration error for an option of the host that cannot work. It names the key that sets
/// the option.
#[must_use]
pub fn wrong_host_settings(error: OptionsError) -> ConfigError {
    let at = error.setting().to_owned();
    let message = format!("{:#}", anyhow::Error::from(error));
    ConfigError { problems: vec![ConfigProblem { file: None, line: None, at, message }] }
}

/// Makes the checks of [`check`], and also those that `serve` makes when it opens the state. These
/// read the whole database to detect damage, and warn of files that other users can access and of
/// tokens with reserved names.
///
/// # Errors
/// The errors of [`check`], and an error if the database is damaged.
pub async fn check_with_state(settings: &Settings) -> anyhow::Result<CheckedSettings> {
    let mut checked = check(settings).await?;
    let existing = checked.state.map(|state| state.existing);
    let Some(directory) = settings.state_dir.as_deref() else { return Ok(checked) };
    if matches!(existing, Some(Existing::Directory | Existing::Database)) {
        let open = reachable_by_others(directory).with_context(|| {
            format!("the state directory {} cannot be read", directory.display())
        })?;
        checked.warnings.extend(open.into_iter().map(|(path, mode)| {
            format!(
                "other users can access {} (mode {mode:04o}): serve removes their permissions",
                path.display()
            )
        }));
    }
    if existing == Some(Existing::Database) {
        let names = Store::read_through(directory).await?;
        let reserved = names.iter().filter(|name| is_reserved_name(name));
        checked.warnings.extend(reserved.map(|name| {
            format!(
                "otter uses the name of the token {name} for itself: create a token with another \
                 name, and revoke this one"
            )
        }));
    }
    Ok(checked)
}

/// The addresses of those TCP sockets that the service manager passed.
fn tcp_addresses(passed: &[PassedSocket]) -> io::Result<Vec<SocketAddr>> {
    let addresses = passed.iter().filter_map(|socket| match &*socket.listener {
        PassedListener::Tcp(listener) => Some(listener.local_addr()),
        PassedListener::Unix(_) => None,
    });
    addresses.collect()
}

/// Refuses an address on which otter cannot listen. A port that is in use is accepted, because a
/// running otter usually uses it while its new configuration is checked.
fn require_bindable(address: SocketAddr) -> anyhow::Result<()> {
    match TcpListener::bind(address) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            Err(error).with_context(|| format!("cannot listen on {address}"))
        }
        _ => Ok(()),
    }
}

/// The error for an address that other machines can reach while there is no token.
fn missing_token_error(address: SocketAddr, state_dir: Option<&Path>) -> anyhow::Error {
    match state_dir {
        None => anyhow!(
            "other machines can reach {address}, and there is no token to identify callers: tokens \
             are kept in a state directory. Name one with --state-dir, and create a token in it: \
             otter token create --name NAME --role operator --state-dir DIR"
        ),
        Some(directory) => {
            let path = directory.display();
            let make_directory = if directory.exists() {
                String::new()
            } else {
                format!("install -d -m 700 {path} && ")
            };
            anyhow!(
                "other machines can reach {address}, and there is no token to identify callers. \
                 Create one: {make_directory}otter token create --name NAME --role operator \
                 --state-dir {path}"
            )
        }
    }
}
