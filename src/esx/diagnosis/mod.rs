//! The checks of `otter doctor`. They test each part of the connection to the host once, in order,
//! and give findings and advice for people.
//!
//! ```text
//! name ─► connection ─► TLS ─► API ─► login ─► licence, inventory, rights, sessions ─► logout
//!   └──────────┴─────────┴──────┴───────┴─ a failure here ends the diagnosis
//! ```
//! If a proxy is configured, the proxy resolves the name and connects, so the check `proxy`
//! replaces the checks `name` and `connection`. The password is never sent to a host whose
//! certificate is rejected, and a refused login is never repeated. A warning, for example about a
//! certificate that is not checked, does not end the diagnosis.

mod account;
mod api;
mod connection;
mod tls;

use super::options::EsxOptions;
use super::session::Session;
use crate::clock::Clock;
use crate::telemetry::metrics::Metrics;
use account::AccountChecks;

pub use connection::presented_fingerprint;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the check, for example `login`.
    pub check: &'static str,
    pub outcome: Outcome,
    /// What the check found, in sentences.
    pub found: String,
    /// What a person should do. `None` if nothing is wrong.
    pub advice: Option<String>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// The checked part works, but a person should know the finding.
    Warning,
    Failed,
}

/// Runs all checks in order and passes each finding to `on_finding`. Returns whether no check
/// failed.
///
/// # Errors
/// Fails for the reasons that [`EsxOptions::check`] gives.
pub async fn diagnose(
    options: &EsxOptions,
    clock: &Clock,
    on_finding: &mut (dyn FnMut(Finding) + Send),
) -> Result<bool, super::OptionsError> {
    options.check()?;
    let session = Session::new(options, clock.clone(), Metrics::default())?;
    let mut report = CheckReport { on_finding, none_failed: true };
    if let Some((login, host)) =
        connection::connect_and_log_in(options, clock, &session, &mut report).await
    {
        let checks = AccountChecks::new(&session, &login);
        report.add("licence", checks.licence(&host).await);
        let machines = checks.machines().await;
        report.add("inventory", checks.inventory(&machines).await);
        report.add("rights", checks.rights(&machines).await);
        report.add("sessions", checks.sessions().await);
        session.logout(&login).await;
    }
    Ok(report.none_failed)
}

/// The result of a check: the text of a good finding, or the problem.
type CheckResult = Result<String, Problem>;

struct Problem {
    outcome: Outcome,
    found: String,
    advice: String,
}

fn problem(found: impl Into<String>, advice: impl Into<String>) -> Problem {
    Problem { outcome: Outcome::Failed, found: found.into(), advice: advice.into() }
}

fn warning(found: impl Into<String>, advice: impl Into<String>) -> Problem {
    Problem { outcome: Outcome::Warning, ..problem(found, advice) }
}

struct CheckReport<'a> {
    on_finding: &'a mut (dyn FnMut(Finding) + Send),
    none_failed: bool,
}

impl CheckReport<'_> {
    fn add(&mut self, check: &'static str, result: CheckResult) {
        let finding = match result {
            Ok(found) => Finding { check, outcome: Outcome::Good, found, advice: None },
            Err(Problem { outcome, found, advice }) => {
                Finding { check, outcome, found, advice: Some(advice) }
            }
        };
        self.none_failed &= finding.outcome != Outcome::Failed;
        (self.on_finding)(finding);
    }

    /// Records the finding of a check and returns the value that the next check needs. `None` if
    /// the check failed.
    fn step<T>(&mut self, check: &'static str, result: Result<(T, String), Problem>) -> Option<T> {
        let (value, text) = match result {
            Ok((value, found)) => (Some(value), Ok(found)),
            Err(wrong) => (None, Err(wrong)),
        };
        self.add(check, text);
        value
    }
}
