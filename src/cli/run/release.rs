//! `otter release`: ends a lease, for example one that `otter run` kept after a failure, and waits
//! until the machine of the lease is given back.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use secrecy::SecretString;

use super::arguments::{ServerArguments, positive_duration};
use super::exit::Exit;
use super::lease::{Lease, ReleaseOutcome};
use super::progress::Progress;
use super::{Failure, lease_client, report_failure, report_release, variable};

#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 if the lease has ended, 75 if the machine is still being \
    released. 64, 69 and 77 mean the same as for `otter run`.")]
pub struct ReleaseCommand {
    /// The lease: its id, or `<id>.<secret>`. The default is `OTTER_LEASE`. Without the secret, the
    /// token must be that of an operator.
    #[arg(value_name = "LEASE")]
    lease: Option<String>,
    #[command(flatten)]
    server: ServerArguments,
    /// The longest time for retries if otter does not answer.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = positive_duration)]
    retry_for: Duration,
    /// Print only errors and warnings.
    #[arg(long, short)]
    quiet: bool,
}

/// Runs `otter release` on a runtime of its own.
pub fn release_lease(command: &ReleaseCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot be started")?;
    let mut progress = Progress::new(command.quiet);
    let code = runtime.block_on(async {
        match release(command, &mut progress).await {
            Ok(code) => code,
            Err(failure) => report_failure(&mut progress, failure),
        }
    });
    // A DNS lookup runs in a thread that cannot be cancelled, so the runtime must not wait for its
    // threads.
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

/// Ends the lease that the command line names. Returns the exit code.
async fn release(command: &ReleaseCommand, progress: &mut Progress) -> Result<u8, Failure> {
    let lease = named_lease(command.lease.as_deref(), variable("OTTER_LEASE").as_deref())?;
    let client = lease_client(&command.server, command.retry_for, Duration::ZERO, progress).await?;
    if client.get(&lease).await?.is_none() {
        return Err(Failure::new(Exit::Usage, format!("there is no lease {}", lease.id)));
    }
    let mut waiting = Progress::new(progress.is_quiet());
    let outcome = client.release(&lease, false, &mut waiting).await?;
    let code = if outcome == ReleaseOutcome::InProgress { Exit::Temporary.code() } else { 0 };
    report_release(Ok(outcome), &lease, progress);
    Ok(code)
}

/// The lease that the command line or the environment names.
///
/// # Parameters
/// - `given`: the argument of the command line.
/// - `held`: the value of `OTTER_LEASE`. If the argument names the same lease without a secret, the
///   secret is taken from here.
///
/// # Errors
/// Fails if neither names a lease.
fn named_lease(given: Option<&str>, held: Option<&str>) -> Result<Lease, Failure> {
    let id_of = |text: &str| text.split('.').next().unwrap_or_default().to_owned();
    let Some(named) = given.or(held) else {
        let reason = "the lease is missing: name it, or set OTTER_LEASE";
        return Err(Failure::new(Exit::Usage, reason));
    };
    let id = id_of(named);
    let held = held.filter(|held| id_of(held) == id);
    let secret = [Some(named), held].into_iter().flatten().find(|text| text.contains('.'));
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') {
        // The text may contain a secret, so the message does not repeat it.
        let reason = "the lease is not the id of a lease, nor <id>.<secret>";
        return Err(Failure::new(Exit::Usage, reason));
    }
    Ok(Lease::new(id, secret.map(SecretString::from)))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn named(given: Option<&str>, held: Option<&str>) -> Option<(String, Option<String>)> {
        let lease = named_lease(given, held).ok()?;
        let credential = lease.credential.map(|lease| lease.expose_secret().to_owned());
        Some((lease.id, credential))
    }

    #[test]
    fn the_secret_is_that_of_the_named_lease() {
        let with_secret = Some(("01-a".to_owned(), Some("01-a.5e".to_owned())));
        assert_eq!(named(Some("01-a.5e"), None), with_secret);
        assert_eq!(named(Some("01-a"), Some("01-a.5e")), with_secret);
        assert_eq!(named(None, Some("01-a.5e")), with_secret);
        assert_eq!(named(Some("01-a"), Some("01-b.5e")), Some(("01-a".to_owned(), None)));
        for wrong in [None, Some(""), Some(".5e"), Some("01-a/renew"), Some("01-a?wait=1s")] {
            assert_eq!(named(wrong, None), None, "{wrong:?}");
        }
    }
}
