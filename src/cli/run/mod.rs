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
mod keep;
mod lease;
mod progress;

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
use self::client::Client;
use self::command::Running;
pub use self::exit::Exit;
use self::keep::Term;
use self::lease::{Desk, GivenBack, Lease};
use self::progress::Progress;
use crate::clock::Clock;
use crate::fail_points::fail_point;
use crate::supervisor::{Signal, Signals};

/// How long the answer to a request for a machine is waited for once a signal said to end.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// How long a killed command may take to be gone.
const GONE: Duration = Duration::from_secs(5);

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
    let code = runtime.block_on(whole(command));
    // The look-up of a name cannot be ended.
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

/// Takes, runs, gives back.
async fn whole(command: &RunCommand) -> u8 {
    let mut progress = Progress::new(command.quiet);
    let mut signals = match Signals::install() {
        Ok(signals) => Heard { signals, count: 0 },
        Err(error) => return fails(&mut progress, Failure::new(Exit::Internal, error.to_string())),
    };
    let desk = match desk(command, &mut progress).await {
        Ok(desk) => desk,
        Err(failure) => return fails(&mut progress, failure),
    };
    // Outside of what may panic.
    let lease = OnceCell::new();
    let worked =
        AssertUnwindSafe(work(command, &desk, &lease, &mut signals, &mut progress)).catch_unwind();
    let code = match worked.await {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => fails(&mut progress, failure),
        // The panic has told of itself.
        Err(_) => Exit::Internal.code(),
    };
    match lease.get() {
        Some(lease) => give_back(&desk, lease, &mut signals, &mut progress).await.unwrap_or(code),
        None => code,
    }
}

fn fails(progress: &mut Progress, failure: Failure) -> u8 {
    let Failure { exit, message } = failure;
    progress.warn(&message);
    exit.code()
}

async fn desk(command: &RunCommand, progress: &mut Progress) -> Result<Desk, Failure> {
    let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let url = address(command)?;
    let token = told("OTTER_TOKEN").map(SecretString::from);
    let has_token = token.is_some() || command.token_file.is_some();
    let local = ["http://127.", "http://localhost", "http://[::1]"]
        .iter()
        .any(|local| url.starts_with(local));
    if has_token && url.starts_with("http:") && !local {
        progress.warn(&format!("{url} has no TLS: the token and the lease can be read on the way"));
    }
    let client = Client::new(command, &url, token).await?;
    let queue_for = command.queue_for.unwrap_or_default();
    Ok(Desk { client, clock: Clock::system(), retry_for: command.retry_for, queue_for })
}

fn address(command: &RunCommand) -> Result<String, Failure> {
    let told = || std::env::var("OTTER_URL").ok().filter(|url| !url.is_empty());
    let url = command.url.clone().or_else(told);
    url.ok_or_else(|| {
        Failure::new(Exit::Usage, "say where otter is: --url, or OTTER_URL in the environment")
    })
}

/// All but the giving back. The lease is put where it is found however this ends.
async fn work(
    command: &RunCommand,
    desk: &Desk,
    held: &OnceCell<Lease>,
    signals: &mut Heard,
    progress: &mut Progress,
) -> Result<u8, Failure> {
    let asked = {
        let mut waiting = Progress::new(progress.is_quiet());
        let asking = desk.ask(command, held, &mut waiting);
        tokio::pin!(asking);
        tokio::select! {
            asked = &mut asking => asked?,
            signal = signals.next() => {
                // It may be granted already: without the answer it could not be given back.
                tokio::select! {
                    _ = asking => {}
                    () = desk.clock.sleep(LAST_ANSWER) => progress.warn(
                        "otter did not answer: a machine that it may have granted comes back when its time is over"),
                }
                return Ok(128 + number(signal));
            }
        }
    };
    let lease = held.get().ok_or_else(|| Failure::new(Exit::Internal, "the lease is not kept"))?;
    if !asked.is_active() {
        progress.show(&asked.going_on(), None);
    }
    let (view, answer) = tokio::select! {
        active = desk.until_active(lease, progress) => active?,
        signal = signals.next() => return Ok(128 + number(signal)),
    };
    let term = Term::of(&view, &answer, desk.clock.elapsed(), command.ttl);
    let machine = view.machine.clone().unwrap_or_default();
    let address = tokio::select! {
        address = desk.address(&machine) => address?.unwrap_or_default(),
        signal = signals.next() => return Ok(128 + number(signal)),
    };
    let name = view.machine_name.as_deref().unwrap_or(&machine);
    let at = if address.is_empty() { String::new() } else { format!(" at {address}") };
    progress.note(&format!("{name} ({machine}{at}) is held, lease {}", lease.id));
    let mut to_run = Command::new(&command.command[0]);
    to_run
        .args(&command.command[1..])
        .env("OTTER_URL", self::address(command)?)
        .env("OTTER_MACHINE_ID", &machine)
        .env("OTTER_MACHINE_NAME", name)
        .env("OTTER_MACHINE_IP", address)
        .env("OTTER_LEASE", lease.shown.expose_secret());
    if command.no_token {
        to_run.env_remove("OTTER_TOKEN");
    }
    let running = Running::start(to_run).map_err(|error| {
        let exit =
            if error.kind() == io::ErrorKind::NotFound { Exit::NoCommand } else { Exit::CannotRun };
        Failure::new(exit, format!("{}: {error}", command.command[0].display()))
    })?;
    see_through(command, desk, lease, term, running, signals, progress).await
}

/// Sees the command to its end: its own, or the one that a signal or the loss of the lease brings.
async fn see_through(
    command: &RunCommand,
    desk: &Desk,
    lease: &Lease,
    term: Term,
    mut running: Running,
    signals: &mut Heard,
    progress: &mut Progress,
) -> Result<u8, Failure> {
    let keeping = keep::keep(desk, lease, term, command.ttl, Progress::new(command.quiet));
    tokio::pin!(keeping);
    fail_point!("run-command");
    let mut ending = Ending::Not;
    let mut lost = None;
    let status = loop {
        let now = desk.clock.elapsed();
        tokio::select! {
            biased;
            status = running.ended() => break status,
            why = &mut keeping, if lost.is_none() => {
                progress.warn(&format!("the lease is lost, so the command is ended: {why}"));
                lost = Some(why);
                running.signal(rustix::process::Signal::TERM);
                ending = ending.by(now + command.kill_after);
            }
            signal = signals.next() => match ending {
                Ending::Not => {
                    running.signal(passed_on(signal));
                    ending = ending.by(now + command.kill_after);
                }
                _ => ending = kill(&running, now, "a second signal: the command is killed", progress),
            },
            () = ending.due(&desk.clock) => match ending {
                Ending::Killed(_) => {
                    progress.warn("the command is killed and does not go away");
                    let exit = if lost.is_some() { Exit::LeaseLost } else { Exit::Internal };
                    return Ok(exit.code());
                }
                _ => ending = kill(&running, now, "the command did not end in time: it is killed", progress),
            },
        }
    };
    if ending != Ending::Not {
        running.sweep();
    }
    match (lost, status) {
        (Some(_), _) => Ok(Exit::LeaseLost.code()),
        (None, Ok(status)) => Ok(command::code(status)),
        (None, Err(error)) => {
            Err(Failure::new(Exit::Internal, format!("the command is lost: {error}")))
        }
    }
}

fn kill(running: &Running, now: Duration, why: &str, progress: &mut Progress) -> Ending {
    progress.warn(why);
    running.signal(rustix::process::Signal::KILL);
    Ending::Killed(now + GONE)
}

/// How far the command's end is, where it does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Not,
    /// It was told to, and is killed then.
    Told(Duration),
    /// It is given up then.
    Killed(Duration),
}

impl Ending {
    /// It was told to end; what was said before stays.
    const fn by(self, time: Duration) -> Self {
        match self {
            Self::Not => Self::Told(time),
            other => other,
        }
    }

    async fn due(self, clock: &Clock) {
        match self {
            Self::Not => std::future::pending().await,
            Self::Told(time) | Self::Killed(time) => {
                clock.sleep(time.saturating_sub(clock.elapsed())).await;
            }
        }
    }
}

/// Gives the machine back. What to exit with where a signal cut that short.
async fn give_back(
    desk: &Desk,
    lease: &Lease,
    signals: &mut Heard,
    progress: &mut Progress,
) -> Option<u8> {
    let mut waiting = Progress::new(progress.is_quiet());
    let giving = desk.give_back(lease, &mut waiting);
    tokio::pin!(giving);
    loop {
        tokio::select! {
            biased;
            given = &mut giving => {
                match given {
                    Ok(GivenBack::Free) => progress.note("the machine is given back"),
                    Ok(GivenBack::SetAside(reason)) => progress.warn(&format!(
                        "the machine was taken back and is set aside, not free: {reason}")),
                    Ok(GivenBack::LeftQueue) => progress.note("the place in the queue is given up"),
                    Ok(GivenBack::Nothing) => {}
                    Ok(GivenBack::UnderWay) => progress.warn(&format!(
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
                    return Some(128 + number(signal));
                }
                progress.warn("the machine is being given back; a second signal ends this at once");
            }
        }
    }
}

/// Signals, counted.
struct Heard {
    signals: Signals,
    count: u32,
}

impl Heard {
    async fn next(&mut self) -> Signal {
        let signal = self.signals.next().await;
        self.count += 1;
        signal
    }
}

const fn passed_on(signal: Signal) -> rustix::process::Signal {
    match signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Interrupt => rustix::process::Signal::INT,
        Signal::Hangup => rustix::process::Signal::HUP,
    }
}

fn number(signal: Signal) -> u8 {
    u8::try_from(passed_on(signal).as_raw()).unwrap_or_default()
}
