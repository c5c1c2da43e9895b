//! `otter run`: takes a lease of a machine, runs a command, and releases the lease however the
//! command ends. `otter release` (the module `release`) ends a lease that was kept.
//!
//! ```text
//! create the lease ─► wait ─► run the command ─► release ─► exit with the command's status
//!  │                   │        │ lease lost, signal: the command is ended first
//!  └───────────────────┴────────┴── failure, signal, panic ─► release (a second signal: exit)
//! ```
//! If the command fails by itself and the user has given `--keep-on-failure`, otter keeps the lease
//! instead of releasing it. `otter run` is a client of the HTTP API. It uses no service of the
//! daemon.

mod arguments;
mod artifacts;
mod client;
mod command;
mod exit;
mod lease;
mod progress;
mod proxy;
mod release;
mod renew;

use std::cell::OnceCell;
use std::fmt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;

pub use self::arguments::{RunCommand, ServerArguments, positive_duration};
pub use self::client::{ANSWER_TIMEOUT, Answer, NoAnswer, OtterClient, Pieces};
use self::command::RunningCommand;
pub use self::exit::Exit;
use self::lease::{Lease, LeaseClient, ReleaseOutcome};
pub use self::progress::Progress;
use self::proxy::proxy_for;
pub use self::release::{ReleaseCommand, release_lease};
use self::renew::LeaseExpiry;
use crate::clock::Clock;
use crate::fail_points::fail_point;
use crate::supervisor::{Signal, Signals};

/// The maximum time that `otter run` waits for the answer to its lease request after it got a
/// signal.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum time that `otter run` waits for the end of a command that it has killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the command did not run, or did not end by itself, with the exit code of `otter run` for
/// this reason.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with the exit code and the text for people.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CommandEnd {
    /// The exit code of `otter run`.
    code: u8,
    /// Whether the command ended by itself with a failure. False if a signal or otter ended the
    /// command.
    failed: bool,
}

impl CommandEnd {
    /// The end of a command that did not run, or that a signal or otter ended.
    const fn interrupted(code: u8) -> Self {
        Self { code, failed: false }
    }
}

/// Runs `otter run` on a runtime of its own. At the end, it does not wait for background tasks.
pub fn run(command: &RunCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot be started")?;
    let code = runtime.block_on(take_run_release(command));
    // A DNS lookup runs in a thread that cannot be cancelled, so the runtime must not wait for its
    // threads.
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

/// Takes the lease, runs the command and releases the lease. Returns the exit code.
async fn take_run_release(command: &RunCommand) -> u8 {
    let mut progress = Progress::new(command.quiet);
    let mut signals = match Signals::install() {
        Ok(signals) => CountedSignals { signals, count: 0 },
        Err(error) => {
            return report_failure(&mut progress, Failure::new(Exit::Internal, error.to_string()));
        }
    };
    let queue_for = command.queue_for.unwrap_or_default();
    let client = lease_client(&command.server, command.retry_for, queue_for, &mut progress);
    let client = match client.await {
        Ok(client) => client,
        Err(failure) => return report_failure(&mut progress, failure),
    };
    // The cell is outside of the future that may panic, so that the lease is released after a panic
    // too.
    let lease = OnceCell::new();
    let outcome =
        AssertUnwindSafe(take_and_run(command, &client, &lease, &mut signals, &mut progress))
            .catch_unwind();
    let CommandEnd { code, failed } = match outcome.await {
        Ok(Ok(end)) => end,
        Ok(Err(failure)) => CommandEnd::interrupted(report_failure(&mut progress, failure)),
        // The message of the panic is already printed, because the panic hook does so.
        Err(_) => CommandEnd::interrupted(Exit::Internal.code()),
    };
    let keeps = failed && command.keep_on_failure.is_some();
    let Some(lease) = lease.get() else { return code };
    if let Some(interrupted) = release(&client, lease, keeps, &mut signals, &mut progress).await {
        return interrupted;
    }
    // A lease that only waited has no artifacts.
    if !lease.is_queued() {
        show_artifacts(command, &client, lease, &mut signals, &mut progress).await;
    }
    code
}

/// Stores the artifacts of a lease, and says where they are, as far as the user asked for that.
async fn show_artifacts(
    command: &RunCommand,
    client: &LeaseClient,
    lease: &Lease,
    signals: &mut CountedSignals,
    progress: &mut Progress,
) {
    if let Some(directory) = &command.artifacts {
        let shown = directory.display();
        let mut storing = Progress::new(progress.is_quiet());
        tokio::select! {
            biased;
            _ = signals.next() => progress.warn("a signal: the artifacts are not all stored"),
            stored = artifacts::store_all(client, lease, directory, &mut storing) => match stored {
                Ok(0) => progress.info("there are no artifacts"),
                Ok(count) => progress.info(&format!("{count} artifacts are in {shown}")),
                Err(failure) => progress.warn(&failure.message),
            },
        }
    }
    if command.record || command.artifacts.is_some() {
        progress.info(&format!("artifacts: {}", artifacts::address(client, lease)));
    }
}

/// Prints why a command failed, and returns its exit code.
pub fn report_failure(progress: &mut Progress, failure: Failure) -> u8 {
    let Failure { exit, message } = failure;
    progress.warn(&message);
    exit.code()
}

/// Makes the client for the lease.
///
/// # Parameters
/// - `retry_for`, `queue_for`: the limits for repeating requests, as in [`LeaseClient`].
async fn lease_client(
    server: &ServerArguments,
    retry_for: Duration,
    queue_for: Duration,
    progress: &mut Progress,
) -> Result<LeaseClient, Failure> {
    let http = otter_client(server, progress).await?;
    Ok(LeaseClient { http, clock: Clock::system(), retry_for, queue_for })
}

/// The HTTP client for the otter of a command line. Warns if a secret is sent without TLS.
///
/// # Errors
/// Fails with `Exit::Usage` if the address, a file or the token is wrong.
async fn otter_client(
    server: &ServerArguments,
    progress: &mut Progress,
) -> Result<OtterClient, Failure> {
    let url = address(server)?;
    let token = variable("OTTER_TOKEN").map(SecretString::from);
    let has_token = token.is_some() || server.token_file.is_some();
    let local = ["http://127.", "http://localhost", "http://[::1]"]
        .iter()
        .any(|local| url.starts_with(local));
    if has_token && url.starts_with("http:") && !local {
        progress.warn(&format!("{url} has no TLS: the token and the lease can be read on the way"));
    }
    let proxy = proxy_for(&url, server.proxy.as_deref(), variable)?;
    OtterClient::new(server, &url, token, proxy).await
}

/// As [`otter_client`], for other commands than `otter run`.
///
/// # Errors
/// As [`otter_client`].
pub async fn connect(server: &ServerArguments) -> Result<OtterClient, Failure> {
    otter_client(server, &mut Progress::new(false)).await
}

/// The value of an environment variable. `None` if the variable is not set or empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn address(server: &ServerArguments) -> Result<String, Failure> {
    let url = server.url.clone().or_else(|| variable("OTTER_URL"));
    url.ok_or_else(|| {
        Failure::new(Exit::Usage, "the address of otter is missing: pass --url, or set OTTER_URL")
    })
}

/// Takes the lease and runs the command. Stores the lease in `held`, so that the caller can release
/// it however this function ends.
async fn take_and_run(
    command: &RunCommand,
    client: &LeaseClient,
    held: &OnceCell<Lease>,
    signals: &mut CountedSignals,
    progress: &mut Progress,
) -> Result<CommandEnd, Failure> {
    let interrupted = |signal| Ok(CommandEnd::interrupted(128 + signal_number(signal)));
    let created = {
        let mut waiting = Progress::new(progress.is_quiet());
        let creating = client.create(command, held, &mut waiting);
        tokio::pin!(creating);
        tokio::select! {
            created = &mut creating => created?,
            signal = signals.next() => {
                // otter may already have granted the lease. `otter run` waits for the answer,
                // because only the answer contains the secret that the release needs.
                tokio::select! {
                    _ = creating => {}
                    () = client.clock.sleep(LAST_ANSWER_TIMEOUT) => progress.warn(
                        "otter did not answer: a machine that it may have granted is released when \
                         the lease expires"),
                }
                return interrupted(signal);
            }
        }
    };
    let lease = held.get().ok_or_else(|| Failure::new(Exit::Internal, "the lease is not kept"))?;
    if !created.is_active() {
        progress.show(&created.progress_text(), None);
    }
    let (remote, answer) = tokio::select! {
        active = client.wait_until_active(lease, progress) => active?,
        signal = signals.next() => return interrupted(signal),
    };
    let expiry = LeaseExpiry::from_answer(&remote, &answer, client.clock.elapsed(), command.ttl);
    let machine = remote.machine.clone().unwrap_or_default();
    let address = tokio::select! {
        address = client.machine_address(&machine) => address?.unwrap_or_default(),
        signal = signals.next() => return interrupted(signal),
    };
    let name = remote.machine_name.as_deref().unwrap_or(&machine);
    let at = if address.is_empty() { String::new() } else { format!(" at {address}") };
    progress.info(&format!("{name} ({machine}{at}) is held, lease {}", lease.id));
    let mut process = Command::new(&command.command[0]);
    process
        .args(&command.command[1..])
        .env("OTTER_URL", self::address(&command.server)?)
        .env("OTTER_MACHINE_ID", &machine)
        .env("OTTER_MACHINE_NAME", name)
        .env("OTTER_MACHINE_IP", address)
        .envs(lease.credential.as_ref().map(|lease| ("OTTER_LEASE", lease.expose_secret())));
    if command.no_token {
        process.env_remove("OTTER_TOKEN");
    }
    let running = RunningCommand::start(process).map_err(|error| {
        let exit =
            if error.kind() == io::ErrorKind::NotFound { Exit::NoCommand } else { Exit::CannotRun };
        Failure::new(exit, format!("{}: {error}", command.command[0].display()))
    })?;
    wait_for_command(command, client, lease, expiry, running, signals, progress).await
}

/// Waits until the command ends. Forwards signals to the command, and ends the command if the lease
/// is lost.
async fn wait_for_command(
    command: &RunCommand,
    client: &LeaseClient,
    lease: &Lease,
    expiry: LeaseExpiry,
    mut running: RunningCommand,
    signals: &mut CountedSignals,
    progress: &mut Progress,
) -> Result<CommandEnd, Failure> {
    let renewing =
        renew::hold_lease(client, lease, expiry, command.ttl, Progress::new(command.quiet));
    tokio::pin!(renewing);
    fail_point!("run-command");
    let mut termination = Termination::NotRequested;
    let mut lost = None;
    let status = loop {
        let now = client.clock.elapsed();
        tokio::select! {
            biased;
            status = running.wait() => break status,
            reason = &mut renewing, if lost.is_none() => {
                progress.warn(&format!("the lease is lost, so the command is ended: {reason}"));
                lost = Some(reason);
                running.signal(rustix::process::Signal::TERM);
                termination = termination.kill_at(now + command.kill_after);
            }
            signal = signals.next() => {
                if termination == Termination::NotRequested {
                    running.signal(os_signal(signal));
                    termination = termination.kill_at(now + command.kill_after);
                } else {
                    let reason = "a second signal: the command is killed";
                    termination = kill(&running, now, reason, progress);
                }
            }
            () = termination.wait_until_due(&client.clock) => {
                if let Termination::Killed(_) = termination {
                    progress.warn("the command was killed and has not ended");
                    let exit = if lost.is_some() { Exit::LeaseLost } else { Exit::Internal };
                    return Ok(CommandEnd::interrupted(exit.code()));
                }
                let reason = "the command did not end in time: it is killed";
                termination = kill(&running, now, reason, progress);
            }
        }
    };
    if termination != Termination::NotRequested {
        running.kill_group();
    }
    match (lost, status) {
        (Some(_), _) => Ok(CommandEnd::interrupted(Exit::LeaseLost.code())),
        (None, Ok(status)) => Ok(CommandEnd {
            code: command::exit_code(status),
            failed: !status.success() && termination == Termination::NotRequested,
        }),
        (None, Err(error)) => Err(Failure::new(
            Exit::Internal,
            format!("the status of the command is not known: {error}"),
        )),
    }
}

fn kill(
    running: &RunningCommand,
    now: Duration,
    reason: &str,
    progress: &mut Progress,
) -> Termination {
    progress.warn(reason);
    running.signal(rustix::process::Signal::KILL);
    Termination::Killed(now + KILL_TIMEOUT)
}

/// How far `otter run` has come with ending the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Termination {
    NotRequested,
    /// The command got a signal to end. It will be killed at this time.
    Requested(Duration),
    /// The command was killed. `otter run` exits at this time, even if the command has not ended.
    Killed(Duration),
}

impl Termination {
    /// Sets the time at which the command will be killed, unless the command already got a signal
    /// to end.
    const fn kill_at(self, time: Duration) -> Self {
        match self {
            Self::NotRequested => Self::Requested(time),
            other => other,
        }
    }

    async fn wait_until_due(self, clock: &Clock) {
        match self {
            Self::NotRequested => std::future::pending().await,
            Self::Requested(time) | Self::Killed(time) => {
                clock.sleep(time.saturating_sub(clock.elapsed())).await;
            }
        }
    }
}

/// Releases the lease and prints the outcome. If a second signal interrupts the release, returns
/// the exit code for it, otherwise `None`.
///
/// # Parameters
/// - `failed`: whether otter may keep the lease, because the command failed.
async fn release(
    client: &LeaseClient,
    lease: &Lease,
    failed: bool,
    signals: &mut CountedSignals,
    progress: &mut Progress,
) -> Option<u8> {
    let mut waiting = Progress::new(progress.is_quiet());
    let releasing = client.release(lease, failed, &mut waiting);
    tokio::pin!(releasing);
    loop {
        tokio::select! {
            biased;
            outcome = &mut releasing => {
                report_release(outcome, lease, progress);
                return None;
            }
            signal = signals.next() => {
                if signals.count > 1 {
                    progress.warn(&format!(
                        "a second signal: otter run ends at once, and the machine may be released \
                         only when the lease expires (lease {})", lease.id));
                    return Some(128 + signal_number(signal));
                }
                progress.warn("the machine is being given back; a second signal ends this at once");
            }
        }
    }
}

fn report_release(
    outcome: Result<ReleaseOutcome, Failure>,
    lease: &Lease,
    progress: &mut Progress,
) {
    let id = &lease.id;
    match outcome {
        Ok(ReleaseOutcome::Free) => progress.info("the machine is given back"),
        Ok(ReleaseOutcome::Quarantined(reason)) => progress
            .warn(&format!("the machine was taken back and is quarantined, not free: {reason}")),
        Ok(ReleaseOutcome::LeftQueue) => progress.info("the place in the queue is given up"),
        Ok(ReleaseOutcome::EndedByItself) => {}
        Ok(ReleaseOutcome::Kept(until)) => {
            let until = until.map(|until| format!(" until {until:.0}")).unwrap_or_default();
            progress.warn(&format!(
                "the command failed, and the machine is kept{until}; to give it back: otter \
                 release {id}"
            ));
        }
        Ok(ReleaseOutcome::InProgress) => progress.warn(&format!(
            "otter is still releasing the machine, and will finish the release (lease {id})"
        )),
        // If a token is no longer valid, otter itself ends the queued leases of this token. So the
        // lease needs no release.
        Err(failure) if lease.is_queued() && failure.exit == Exit::NotAllowed => {
            progress.warn("the lease ends: it was still queued and held no machine");
        }
        Err(failure) if lease.is_queued() => progress.warn(&format!(
            "the place in the queue could not be given up; it ends by itself (lease {id}): {}",
            failure.message
        )),
        Err(failure) => progress.warn(&format!(
            "the machine could not be given back; it is released when the lease expires (lease \
             {id}): {}",
            failure.message
        )),
    }
}

/// The signals that the process gets, and how many of them it has got.
struct CountedSignals {
    signals: Signals,
    count: u32,
}

impl CountedSignals {
    async fn next(&mut self) -> Signal {
        let signal = self.signals.next().await;
        self.count += 1;
        signal
    }
}

const fn os_signal(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Interrupt => rustix::process::Signal::INT,
        Signal::Hangup => rustix::process::Signal::HUP,
    }
}

fn signal_number(signal: Signal) -> u8 {
    u8::try_from(os_signal(signal).as_raw()).unwrap_or_default()
}
