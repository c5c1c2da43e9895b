//! `otter run`: takes a machine through a daemon, runs a command, and gives the machine back
//! however that ends.
//!
//! ```text
//! ask ─► wait ─► run the command ─► give back ─► exit with the command's status
//!  │      │        │ lease lost, a signal: it is ended first       │ a second signal: at once
//!  └──────┴────────┴──── a failure, a signal, a panic ────────────►┘
//! ```
//! A plain client of the HTTP API: it uses no room below.

mod arguments;
mod client;
mod command;
mod exit;
mod lease;
mod progress;
mod renew;

use std::cell::OnceCell;
use std::io;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::process::Command;

pub use self::arguments::RunCommand;
use self::client::OtterClient;
use self::command::RunningCommand;
pub use self::exit::Exit;
use self::lease::{Lease, LeaseClient, ReleaseOutcome};
use self::progress::Progress;
use self::renew::LeaseExpiry;
use crate::clock::Clock;
use crate::fail_points::fail_point;
use crate::supervisor::{Signal, Signals};

/// How long the answer to a request for a machine is waited for once a signal said to end.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a killed command may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the command did not run, or not to its end.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// Does it on a runtime of its own, for which nothing is waited in the end.
pub fn run(command: &RunCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the runtime cannot be started")?;
    let code = runtime.block_on(take_run_release(command));
    // The look-up of a name cannot be ended.
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

/// Takes, runs, gives back.
async fn take_run_release(command: &RunCommand) -> u8 {
    let mut progress = Progress::new(command.quiet);
    let mut signals = match Signals::install() {
        Ok(signals) => CountedSignals { signals, count: 0 },
        Err(error) => {
            return report_failure(&mut progress, Failure::new(Exit::Internal, error.to_string()));
        }
    };
    let client = match lease_client(command, &mut progress).await {
        Ok(client) => client,
        Err(failure) => return report_failure(&mut progress, failure),
    };
    // Outside of what may panic.
    let lease = OnceCell::new();
    let outcome =
        AssertUnwindSafe(take_and_run(command, &client, &lease, &mut signals, &mut progress))
            .catch_unwind();
    let code = match outcome.await {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => report_failure(&mut progress, failure),
        // The panic has told of itself.
        Err(_) => Exit::Internal.code(),
    };
    match lease.get() {
        Some(lease) => release(&client, lease, &mut signals, &mut progress).await.unwrap_or(code),
        None => code,
    }
}

fn report_failure(progress: &mut Progress, failure: Failure) -> u8 {
    let Failure { exit, message } = failure;
    progress.warn(&message);
    exit.code()
}

async fn lease_client(
    command: &RunCommand,
    progress: &mut Progress,
) -> Result<LeaseClient, Failure> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let url = address(command)?;
    let token = variable("OTTER_TOKEN").map(SecretString::from);
    let has_token = token.is_some() || command.token_file.is_some();
    let local = ["http://127.", "http://localhost", "http://[::1]"]
        .iter()
        .any(|local| url.starts_with(local));
    if has_token && url.starts_with("http:") && !local {
        progress.warn(&format!("{url} has no TLS: the token and the lease can be read on the way"));
    }
    let http = OtterClient::new(command, &url, token).await?;
    let queue_for = command.queue_for.unwrap_or_default();
    Ok(LeaseClient { http, clock: Clock::system(), retry_for: command.retry_for, queue_for })
}

fn address(command: &RunCommand) -> Result<String, Failure> {
    let variable = || std::env::var("OTTER_URL").ok().filter(|url| !url.is_empty());
    let url = command.url.clone().or_else(variable);
    url.ok_or_else(|| {
        Failure::new(Exit::Usage, "say where otter is: --url, or OTTER_URL in the environment")
    })
}

/// All but the giving back. The lease is put where it is found however this ends.
async fn take_and_run(
    command: &RunCommand,
    client: &LeaseClient,
    held: &OnceCell<Lease>,
    signals: &mut CountedSignals,
    progress: &mut Progress,
) -> Result<u8, Failure> {
    let created = {
        let mut waiting = Progress::new(progress.is_quiet());
        let creating = client.create(command, held, &mut waiting);
        tokio::pin!(creating);
        tokio::select! {
            created = &mut creating => created?,
            signal = signals.next() => {
                // It may be granted already: without the answer it could not be given back.
                tokio::select! {
                    _ = creating => {}
                    () = client.clock.sleep(LAST_ANSWER_TIMEOUT) => progress.warn(
                        "otter did not answer: a machine that it may have granted comes back when its time is over"),
                }
                return Ok(128 + signal_number(signal));
            }
        }
    };
    let lease = held.get().ok_or_else(|| Failure::new(Exit::Internal, "the lease is not kept"))?;
    if !created.is_active() {
        progress.show(&created.progress_text(), None);
    }
    let (remote, answer) = tokio::select! {
        active = client.wait_until_active(lease, progress) => active?,
        signal = signals.next() => return Ok(128 + signal_number(signal)),
    };
    let expiry = LeaseExpiry::from_answer(&remote, &answer, client.clock.elapsed(), command.ttl);
    let machine = remote.machine.clone().unwrap_or_default();
    let address = tokio::select! {
        address = client.machine_address(&machine) => address?.unwrap_or_default(),
        signal = signals.next() => return Ok(128 + signal_number(signal)),
    };
    let name = remote.machine_name.as_deref().unwrap_or(&machine);
    let at = if address.is_empty() { String::new() } else { format!(" at {address}") };
    progress.info(&format!("{name} ({machine}{at}) is held, lease {}", lease.id));
    let mut process = Command::new(&command.command[0]);
    process
        .args(&command.command[1..])
        .env("OTTER_URL", self::address(command)?)
        .env("OTTER_MACHINE_ID", &machine)
        .env("OTTER_MACHINE_NAME", name)
        .env("OTTER_MACHINE_IP", address)
        .env("OTTER_LEASE", lease.credential.expose_secret());
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

/// Sees the command to its end: its own, or the one that a signal or the loss of the lease brings.
async fn wait_for_command(
    command: &RunCommand,
    client: &LeaseClient,
    lease: &Lease,
    expiry: LeaseExpiry,
    mut running: RunningCommand,
    signals: &mut CountedSignals,
    progress: &mut Progress,
) -> Result<u8, Failure> {
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
            signal = signals.next() => match termination {
                Termination::NotRequested => {
                    running.signal(os_signal(signal));
                    termination = termination.kill_at(now + command.kill_after);
                }
                _ => termination = kill(&running, now, "a second signal: the command is killed", progress),
            },
            () = termination.wait_until_due(&client.clock) => match termination {
                Termination::Killed(_) => {
                    progress.warn("the command is killed and does not go away");
                    let exit = if lost.is_some() { Exit::LeaseLost } else { Exit::Internal };
                    return Ok(exit.code());
                }
                _ => termination = kill(&running, now, "the command did not end in time: it is killed", progress),
            },
        }
    };
    if termination != Termination::NotRequested {
        running.kill_group();
    }
    match (lost, status) {
        (Some(_), _) => Ok(Exit::LeaseLost.code()),
        (None, Ok(status)) => Ok(command::exit_code(status)),
        (None, Err(error)) => {
            Err(Failure::new(Exit::Internal, format!("the command is lost: {error}")))
        }
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

/// How far the command's end is, where it does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Termination {
    NotRequested,
    /// It was told to, and is killed then.
    Requested(Duration),
    /// It is given up then.
    Killed(Duration),
}

impl Termination {
    /// It was told to end; what was said before stays.
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
                clock.sleep(time.saturating_sub(clock.elapsed())).await
            }
        }
    }
}

/// Gives the machine back. What to exit with where a signal cut that short.
async fn release(
    client: &LeaseClient,
    lease: &Lease,
    signals: &mut CountedSignals,
    progress: &mut Progress,
) -> Option<u8> {
    let mut waiting = Progress::new(progress.is_quiet());
    let releasing = client.release(lease, &mut waiting);
    tokio::pin!(releasing);
    loop {
        tokio::select! {
            biased;
            outcome = &mut releasing => {
                match outcome {
                    Ok(ReleaseOutcome::Free) => progress.info("the machine is given back"),
                    Ok(ReleaseOutcome::Quarantined(reason)) => progress.warn(&format!(
                        "the machine was taken back and is set aside, not free: {reason}")),
                    Ok(ReleaseOutcome::LeftQueue) => progress.info("the place in the queue is given up"),
                    Ok(ReleaseOutcome::EndedByItself) => {}
                    Ok(ReleaseOutcome::InProgress) => progress.warn(&format!(
                        "otter is still bringing the machine back, and goes on with it (lease {})", lease.id)),
                    // A token that is not valid any more keeps no lease in the queue.
                    Err(failure) if lease.is_queued() && failure.exit == Exit::NotAllowed =>
                        progress.warn("the lease ends: it was still waiting, and held no machine"),
                    Err(failure) if lease.is_queued() => progress.warn(&format!(
                        "the place in the queue could not be given up, and ends by itself (lease {}): {}",
                        lease.id, failure.message)),
                    Err(failure) => progress.warn(&format!(
                        "the machine could not be given back, and comes back when its time is over (lease {}): {}",
                        lease.id, failure.message)),
                }
                return None;
            }
            signal = signals.next() => {
                if signals.count > 1 {
                    progress.warn(&format!(
                        "a second signal: this ends at once, and the machine may come back only when its time is over \
                         (lease {})", lease.id));
                    return Some(128 + signal_number(signal));
                }
                progress.warn("the machine is being given back; a second signal ends this at once");
            }
        }
    }
}

/// Signals, counted.
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
