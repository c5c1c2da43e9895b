//! What can be made to go wrong, call by call, and how often it did.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use super::fault::Fault;
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
    Event(Event),
    /// A test's hand does something just before the method runs, or before what is to happen to the
    /// call instead.
    Hand(Hand, Option<Box<Disruption>>),
    /// The method runs, or not, and its answer is held back; the connection is closed once this is
    /// cancelled.
    CloseWhen { run: bool, cancelled: CancellationToken },
}

/// What a test does to the host while a call waits. [`Control`](super::Control) makes and runs it.
#[derive(Clone)]
pub struct Hand(pub(super) Arc<Act>);

type Act = dyn Fn(&Arc<Shared>) + Send + Sync;

impl fmt::Debug for Hand {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Hand")
    }
}

/// How hostd answers while it is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comeback {
    /// Connections are closed as soon as they are made, until
    /// [`Control::resume`](super::Control::resume).
    Refuse,
    /// The proxy answers 503, until [`Control::resume`](super::Control::resume).
    Unavailable,
}

/// How hostd is restarted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Restart {
    /// How it is away; `None`: it is back at once.
    pub away: Option<Comeback>,
    /// Whether what runs stops where it is; else machines finish it, with no task to see.
    pub drop_running: bool,
}

/// What can happen to the host as a whole.
#[derive(Clone, Debug)]
pub enum Event {
    ExpireSessions,
    RestartHostd(Restart),
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

impl Event {
    /// The word by which it is counted, as scenarios write it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
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
pub struct Planned {
    delivered: Arc<AtomicU64>,
}

impl Planned {
    /// How many calls it has hit.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::SeqCst)
    }
}

/// What is planned, in the order in which it was asked for.
#[derive(Debug, Default)]
pub struct Faults {
    plans: Vec<Plan>,
    pub session_loss: SessionLoss,
    /// How many objects an answer holds at most, where the caller asks for more.
    pub page_limit: Option<usize>,
}

#[derive(Debug)]
struct Plan {
    method: String,
    /// How many calls are let through first.
    skip: u64,
    /// How many calls are hit; `None`: all.
    times: Option<u64>,
    what: Disruption,
    delivered: Arc<AtomicU64>,
}

impl Faults {
    /// Plans a disruption of `times` calls of a method after `skip` others; `*` is every method.
    pub fn plan(
        &mut self,
        method: &str,
        skip: u64,
        times: Option<u64>,
        what: Disruption,
    ) -> Planned {
        let delivered = Arc::new(AtomicU64::new(0));
        let plan = Plan {
            method: method.to_owned(),
            skip,
            times,
            what,
            delivered: Arc::clone(&delivered),
        };
        self.plans.push(plan);
        Planned { delivered }
    }

    /// Forgets what is planned.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What is to happen to this call; it counts.
    pub fn strike(&mut self, method: &str) -> Option<Disruption> {
        let at = self.plans.iter_mut().position(|plan| {
            if plan.method != "*" && plan.method != method {
                return false;
            }
            let due = plan.skip == 0;
            plan.skip = plan.skip.saturating_sub(1);
            due
        })?;
        let plan = &mut self.plans[at];
        plan.delivered.fetch_add(1, Ordering::SeqCst);
        let what = plan.what.clone();
        if let Some(times) = &mut plan.times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.plans.remove(at);
            }
        }
        Some(what)
    }
}

/// How often each method was called, and for which operations.
#[derive(Debug, Default)]
pub struct Calls {
    by_method: BTreeMap<String, u64>,
    by_operation: BTreeMap<String, Vec<String>>,
    taken: BTreeMap<String, BTreeMap<String, u64>>,
}

/// How many operation ids are remembered.
const OPERATIONS: usize = 50_000;

impl Calls {
    pub fn note(&mut self, method: &str, operation_id: Option<&str>) {
        *self.by_method.entry(method.to_owned()).or_default() += 1;
        if let Some(operation_id) = operation_id
            && (self.by_operation.len() < OPERATIONS
                || self.by_operation.contains_key(operation_id))
        {
            self.by_operation.entry(operation_id.to_owned()).or_default().push(method.to_owned());
        }
    }

    /// A call was not refused.
    pub fn note_taken(&mut self, method: &str, operation_id: &str) {
        if self.taken.len() < OPERATIONS || self.taken.contains_key(operation_id) {
            let methods = self.taken.entry(operation_id.to_owned()).or_default();
            *methods.entry(method.to_owned()).or_default() += 1;
        }
    }

    /// How many calls of each method were not refused, for each operation.
    pub fn taken(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        self.taken.clone()
    }

    pub fn of(&self, method: &str) -> u64 {
        self.by_method.get(method).copied().unwrap_or(0)
    }

    pub fn all(&self) -> BTreeMap<String, u64> {
        self.by_method.clone()
    }

    /// How often each method was called for each operation.
    pub fn operations(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let counted = |methods: &Vec<String>| {
            let mut counts = BTreeMap::new();
            for method in methods {
                *counts.entry(method.clone()).or_default() += 1;
            }
            counts
        };
        self.by_operation
            .iter()
            .map(|(operation, methods)| (operation.clone(), counted(methods)))
            .collect()
    }

    pub fn of_operation(&self, operation_id: &str) -> Vec<String> {
        self.by_operation.get(operation_id).cloned().unwrap_or_default()
    }
}
