//! The checks of `otter doctor`: each part of the connection to the host once, in order, with
//! findings and advice for people.
//!
//! ```text
//! name ─► connection ─► TLS ─► API ─► login ─► licence, inventory, rights, sessions ─► logout
//!   └──────────┴─────────┴──────┴───────┴─ a failure here ends the diagnosis
//! ```
//! With a proxy, which resolves the name and connects, the check `proxy` replaces the first two.
//! The password is never sent to a host whose certificate is rejected, and a refused login is never
//! repeated.

mod account;
mod connection;

use super::options::EsxOptions;
use super::session::Session;
use crate::clock::Clock;
use crate::telemetry::metrics::Metrics;
use account::AccountChecks;

pub use connection::presented_fingerprint;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the check, such as `login`.
    pub check: &'static str,
    pub good: bool,
    /// The finding, in sentences.
    pub found: String,
    /// What to do if something is wrong.
    pub advice: Option<String>,
}

/// Runs all checks, passes each finding to `on_finding`, and returns whether all are good.
///
/// # Errors
/// As [`EsxOptions::check`].
pub async fn diagnose(
    options: &EsxOptions,
    clock: &Clock,
    on_finding: &mut (dyn FnMut(Finding) + Send),
) -> Result<bool, super::OptionsError> {
    options.check()?;
    let session = Session::new(options, clock.clone(), Metrics::default())?;
    let mut report = CheckReport { on_finding, all_good: true };
    if let Some((login, host)) =
        connection::connect_and_log_in(options, &session, &mut report).await
    {
        let checks = AccountChecks::new(&session, &login);
        report.add("licence", checks.licence(&host).await);
        let machines = checks.machines().await;
        report.add("inventory", checks.inventory(&machines).await);
        report.add("rights", checks.rights(&machines).await);
        report.add("sessions", checks.sessions().await);
        session.logout(&login).await;
    }
    Ok(report.all_good)
}

/// The finding of a good check, or the problem.
type CheckResult = Result<String, Problem>;

struct Problem {
    found: String,
    advice: String,
}

fn problem(found: impl Into<String>, advice: impl Into<String>) -> Problem {
    Problem { found: found.into(), advice: advice.into() }
}

struct CheckReport<'a> {
    on_finding: &'a mut (dyn FnMut(Finding) + Send),
    all_good: bool,
}

impl CheckReport<'_> {
    fn add(&mut self, check: &'static str, result: CheckResult) {
        let finding = match result {
            Ok(found) => Finding { check, good: true, found, advice: None },
            Err(Problem { found, advice }) => {
                Finding { check, good: false, found, advice: Some(advice) }
            }
        };
        self.all_good &= finding.good;
        (self.on_finding)(finding);
    }

    /// Adds a check whose value the next check needs. `None` if the check failed.
    fn step<T>(&mut self, check: &'static str, result: Result<(T, String), Problem>) -> Option<T> {
        let (value, text) = match result {
            Ok((value, found)) => (Some(value), Ok(found)),
            Err(wrong) => (None, Err(wrong)),
        };
        self.add(check, text);
        value
    }
}
