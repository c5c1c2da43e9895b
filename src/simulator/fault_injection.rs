//! What can be made to go wrong, call by call, and how often it did.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::vim_fault::Fault;
use super::world::Question;

/// What happens to a call.
#[derive(Clone, Debug)]
pub enum Disruption {
    /// It is refused with this fault, and does not run.
    Fault(Fault),
    /// The connection is closed; the method does not run.
    CloseBeforeRunning,
    /// The method runs, and the connection is closed without an answer.
    CloseAfterRunning,
    /// The method runs, and the connection is closed in the middle of the answer.
    CloseMidAnswer,
    /// No answer ever comes; whether the method runs is told.
    NeverAnswer { run: bool },
    /// The method does not run; this is answered instead.
    Answer { status: u16, content_type: &'static str, body: String },
    /// The method does not run; its answer is empty, as if nothing was found.
    EmptyAnswer,
    /// The answer comes later.
    Delay(Duration),
    /// Something happens to the host just before the method runs.
    HostChange(HostChange),
    /// A test's hand does something just before the method runs, or before what is to happen to the
    /// call instead.
    Hook(TestHook, Option<Box<Disruption>>),
    /// The method runs, or not, and its answer is held back; the connection is closed once this is
    /// cancelled.
    CloseWhen { run: bool, cancelled: CancellationToken },
}

/// What a test does to the host while a call waits. [`Control`](super::Control) makes and runs it.
#[derive(Clone)]
pub struct TestHook(pub(super) Arc<HookFunction>);

type HookFunction = dyn Fn(&Arc<Shared>) + Send + Sync;

impl fmt::Debug for TestHook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TestHook")
    }
}

/// How hostd answers while it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownMode {
    /// Connections are closed as soon as they are made, until
    /// [`Control::resume`](super::Control::resume).
    Refuse,
    /// The proxy answers 503, until [`Control::resume`](super::Control::resume).
    Unavailable,
}

/// How hostd is restarted.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostdRestart {
    /// How it is away; `None`: it is back at once.
    pub down: Option<DownMode>,
    /// Whether what runs stops where it is; else machines finish it, with no task to see.
    pub drop_running: bool,
}

/// What can happen to the host as a whole.
#[derive(Clone, Debug)]
pub enum HostChange {
    ExpireSessions,
    RestartHostd(HostdRestart),
    /// hostd is back.
    Resume,
    RebootHost,
    VanishTasks,
    RefuseLogins(bool),
    /// The free licence, or a paid one.
    ReadOnlyLicence(bool),
    /// The account may only look, or do everything.
    ReadOnlyAccount(bool),
    FailNextTask(&'static str, Fault),
    /// A machine asks: now, or at its next power-on.
    Question {
        machine: String,
        question: Box<Question>,
        pending: bool,
    },
}

impl HostChange {
    /// The word by which it is counted, as scenarios write it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ExpireSessions => "expire-sessions",
            Self::RestartHostd(_) => "restart-hostd",
            Self::Resume => "resume",
            Self::RebootHost => "reboot-host",
            Self::VanishTasks => "vanish-tasks",
            Self::RefuseLogins(_) => "refuse-logins",
            Self::ReadOnlyLicence(_) => "licence",
            Self::ReadOnlyAccount(_) => "account",
            Self::FailNextTask(..) => "fail-next-task",
            Self::Question { .. } => "question",
        }
    }
}

/// How a call without a session looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionLoss {
    /// `NotAuthenticated`, HTTP 500; a pending wait the same.
    #[default]
    Fault,
    /// Reads are answered with every property in the `missingSet`; a pending wait is
    /// `RequestCanceled`.
    MissingSet,
    /// Reads are answered with nothing at all; a pending wait is `RequestCanceled`.
    EmptyAnswer,
    /// Everything is `ManagedObjectNotFound` for the collector.
    NoCollector,
}

/// A disruption that was asked for. It tells how often it came to pass.
#[derive(Clone, Debug)]
pub struct PlannedDisruption {
    delivered: Arc<AtomicU64>,
}

impl PlannedDisruption {
    /// How many calls it has hit.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::SeqCst)
    }
}

/// What is planned, in the order in which it was asked for.
#[derive(Debug, Default)]
pub struct FaultPlan {
    entries: Vec<PlanEntry>,
    pub session_loss: SessionLoss,
    /// How many objects an answer holds at most, where the caller asks for more.
    pub page_limit: Option<usize>,
}

#[derive(Debug)]
struct PlanEntry {
    method: String,
    /// How many calls are let through first.
    skip: u64,
    /// How many calls are hit; `None`: all.
    times: Option<u64>,
    disruption: Disruption,
    delivered: Arc<AtomicU64>,
}

impl FaultPlan {
    /// Plans a disruption of `times` calls of a method after `skip` others; `*` is every method.
    pub fn add(
        &mut self,
        method: &str,
        skip: u64,
        times: Option<u64>,
        disruption: Disruption,
    ) -> PlannedDisruption {
        let delivered = Arc::new(AtomicU64::new(0));
        let plan = PlanEntry {
            method: method.to_owned(),
            skip,
            times,
            disruption,
            delivered: Arc::clone(&delivered),
        };
        self.entries.push(plan);
        PlannedDisruption { delivered }
    }

    /// Forgets what is planned.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What is to happen to this call; it counts.
    pub fn take_disruption(&mut self, method: &str) -> Option<Disruption> {
        let at = self.entries.iter_mut().position(|plan| {
            if plan.method != "*" && plan.method != method {
                return false;
            }
            let due = plan.skip == 0;
            plan.skip = plan.skip.saturating_sub(1);
            due
        })?;
        let plan = &mut self.entries[at];
        plan.delivered.fetch_add(1, Ordering::SeqCst);
        let disruption = plan.disruption.clone();
        if let Some(times) = &mut plan.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.entries.remove(at);
            }
        }
        Some(disruption)
    }
}
