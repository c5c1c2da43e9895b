//! The reload of the configuration on SIGHUP: reads the configuration and the files that it names
//! again, and replaces the settings that can change while otter runs. If anything is wrong, nothing
//! changes.
//!
//! A setting that a reload can replace is part of [`ReloadableSettings`], and `Replacement::of`
//! knows the key of the setting.
//!
//! [`ReloadableSettings`]: crate::service::live_settings::ReloadableSettings

use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};

use super::{Settings, wrong_host_settings};
use crate::api::tls::{Certificate, Tls};
use crate::config::{ConfigError, ConfigValues};
use crate::domain::audit::{AuditAction, AuditOutcome};
use crate::hypervisor::Hypervisor;
use crate::service::Services;
use crate::service::audit::Audit;
use crate::service::inventory::Inventory;
use crate::service::live_settings::LiveSettings;
use crate::service::protection::Protection;
use crate::supervisor::Supervisor;
use crate::telemetry::logs::LogLevel;

/// The configuration that a reload has read.
pub struct RenewedSettings {
    pub settings: Settings,
    pub values: ConfigValues,
    /// The value of the key `log.level`.
    pub log_level: String,
}

/// What a reload needs from the command that started otter.
pub struct Reload {
    /// A function that reads the configuration from the same sources as at the start.
    pub read: Box<dyn Fn() -> anyhow::Result<RenewedSettings> + Send + Sync>,
    /// The values of the configuration at the start.
    pub values: ConfigValues,
    /// The host's password at the start. `None` if the host is simulated.
    pub password: Option<SecretString>,
    pub log_level: LogLevel,
}

/// How a changed setting takes effect: at once, in some other way, or at the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replacement {
    /// The setting takes effect at once, through [`LiveSettings`].
    Live,
    LogLevel,
    Certificate,
    /// The setting takes effect only at the next start.
    Restart,
}

/// The error of a reload that found problems and changed nothing. The log contains each problem.
#[derive(Debug, thiserror::Error)]
#[error("nothing was changed, because of {problems} problem(s)")]
struct NotReloaded {
    problems: usize,
}

struct Reloader {
    reload: Reload,
    /// The values that apply now. They come from the start or from the last successful reload.
    current: Mutex<Current>,
    live: LiveSettings,
    tls: Option<Tls>,
    host: Arc<dyn Hypervisor>,
    inventory: Arc<Inventory>,
    audit: Arc<Audit>,
}

struct Current {
    values: ConfigValues,
    password: Option<SecretString>,
}

/// A configuration that was read again and checked, with its certificate.
struct Checked {
    renewed: RenewedSettings,
    certificate: Option<Certificate>,
}

impl Reload {
    pub(super) fn register(
        self,
        supervisor: &Supervisor,
        services: &Services,
        live: LiveSettings,
        tls: Option<Tls>,
    ) {
        let current = Current { values: self.values.clone(), password: self.password.clone() };
        let reloader = Reloader {
            reload: self,
            current: Mutex::new(current),
            live,
            tls,
            host: Arc::clone(services.hosts.only()),
            inventory: Arc::clone(&services.inventory),
            audit: Arc::clone(&services.audit),
        };
        supervisor.on_reload("the configuration", move || reloader.reload());
    }
}

impl Replacement {
    /// How a change of the setting with this key takes effect.
    ///
    /// # Parameters
    /// - `has_tls`: whether otter serves TLS.
    fn of(key: &str, has_tls: bool) -> Self {
        match key {
            "machines.protected" | "snapshots.protected" | "snapshots.runners_may_remove" => {
                Self::Live
            }
            _ if key.starts_with("pools.") || key.starts_with("answers.") => Self::Live,
            "log.level" => Self::LogLevel,
            "http.tls_certificate" | "http.tls_key" if has_tls => Self::Certificate,
            _ => Self::Restart,
        }
    }
}

impl Reloader {
    fn reload(&self) -> Result<(), NotReloaded> {
        let checked = self.read();
        if self.reload.password.is_some() {
            self.audit.reloaded(AuditAction::PasswordReloaded, checked.is_ok());
        }
        if self.tls.is_some() {
            self.audit.reloaded(AuditAction::CertificateReloaded, checked.is_ok());
        }
        match checked {
            Ok(checked) => {
                self.apply(checked);
                Ok(())
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!("cannot reload the configuration: {problem}");
                }
                let detail = problems.join("; ");
                self.record(AuditOutcome::Failed, detail);
                Err(NotReloaded { problems: problems.len() })
            }
        }
    }

    /// Reads and checks the configuration and its files. Changes nothing.
    ///
    /// # Errors
    /// All problems that were found.
    fn read(&self) -> Result<Checked, Vec<String>> {
        let renewed =
            (self.reload.read)().map_err(|error| match error.downcast::<ConfigError>() {
                Ok(wrong) => wrong.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
                Err(other) => vec![format!("{other:#}")],
            })?;
        let Settings { esx, tls, .. } = &renewed.settings;
        let mut problems = Vec::new();
        if let Err(error) = esx.check() {
            problems.extend(wrong_host_settings(error).problems.iter().map(ToString::to_string));
        }
        let certificate = tls.as_ref().map(Certificate::read).transpose().unwrap_or_else(|error| {
            problems.push(format!("{:#}", anyhow::Error::from(error)));
            None
        });
        if problems.is_empty() { Ok(Checked { renewed, certificate }) } else { Err(problems) }
    }

    fn apply(&self, Checked { renewed, certificate }: Checked) {
        let RenewedSettings { settings, values, log_level } = renewed;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = current.values.changed_keys(&values);
        let replacement = |key: &String| Replacement::of(key, self.tls.is_some());
        let (later, mut now): (Vec<String>, Vec<String>) =
            changed.into_iter().partition(|key| replacement(key) == Replacement::Restart);
        current.values.take_over(&now, &values);
        if now.iter().any(|key| replacement(key) == Replacement::Live) {
            self.replace_live(&settings);
        }
        if now.iter().any(|key| replacement(key) == Replacement::LogLevel)
            && let Err(error) = self.reload.log_level.set(&log_level)
        {
            tracing::error!(error = &error as &dyn std::error::Error, "the log level stays");
        }
        if let (Some(tls), Some(certificate)) = (&self.tls, certificate)
            && tls.replace(certificate)
        {
            now.push("the certificate".to_owned());
        }
        if let Some(password) = &current.password {
            let renewed = settings.esx.password.clone();
            if password.expose_secret() != renewed.expose_secret() {
                now.push("the password of the host".to_owned());
            }
            // The password is set even if it is unchanged, because otter then tries a refused login
            // again.
            self.host.set_password(renewed.clone());
            current.password = Some(renewed);
        }
        drop(current);
        let changed = if now.is_empty() { "nothing".to_owned() } else { now.join(", ") };
        tracing::info!("SIGHUP changed: {changed}");
        let mut detail = changed;
        if !later.is_empty() {
            let later = later.join(", ");
            tracing::warn!("these settings changed too, but need a restart of otter: {later}");
            detail = format!("{detail}; needs a restart: {later}");
        }
        self.record(AuditOutcome::Done, detail);
    }

    /// Replaces the live settings, and then makes every reader of the inventory start over.
    fn replace_live(&self, settings: &Settings) {
        let mut renewed = settings.reloadable();
        // A change of `esx.machine_name` takes effect only at a restart, so otter's own machine
        // stays as it is.
        let Protection { protected, built_in, .. } = renewed.protection;
        let own = self.live.load().protection.clone();
        renewed.protection = Protection { protected, built_in, ..own };
        self.live.replace(renewed);
        self.inventory.start_over();
    }

    fn record(&self, outcome: AuditOutcome, detail: String) {
        self.audit.configuration_reloaded(outcome, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_takes_effect_now_or_at_a_restart() {
        for (key, has_tls, expected) in [
            ("pools.qubes.machines", false, Replacement::Live),
            ("pools.qubes.prepare.snapshot", false, Replacement::Live),
            ("answers.msg.uuid.altered", false, Replacement::Live),
            ("machines.protected", false, Replacement::Live),
            ("snapshots.protected", false, Replacement::Live),
            ("snapshots.runners_may_remove", false, Replacement::Live),
            ("log.level", false, Replacement::LogLevel),
            ("log.format", false, Replacement::Restart),
            ("http.tls_certificate", true, Replacement::Certificate),
            ("http.tls_key", true, Replacement::Certificate),
            ("http.tls_key", false, Replacement::Restart),
            ("http.listen", true, Replacement::Restart),
            ("esx.url", true, Replacement::Restart),
        ] {
            assert_eq!(Replacement::of(key, has_tls), expected, "{key}");
        }
    }
}
