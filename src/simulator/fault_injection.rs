//! Fault injection: the disruptions that tests plan for calls, and the changes that they make to
//! the host as a whole.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::console::{ConsoleEnd, ConsoleQuirks};
use super::guest_screen::ScreenStage;
use super::serial::SerialChange;
use super::vim_fault::Fault;
use super::world::{FileContent, Question};

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Disruption {
    /// The host answers the call with this fault. The method does not run.
    Fault(Fault),
    /// The connection is closed. The method does not run.
    CloseBeforeRunning,
    /// The method runs. The connection is closed without an answer.
    CloseAfterRunning,
    /// The method runs. The connection is closed in the middle of the answer.
    CloseMidAnswer,
    /// The host never answers. The method runs if `run` is set.
    NeverAnswer { run: bool },
    /// The method does not run. The host sends this HTTP answer instead.
    Answer { status: u16, content_type: &'static str, body: String },
    /// The method does not run. Its answer is empty, as if the host found nothing.
    EmptyAnswer,
    /// The method runs after this delay.
    Delay(Duration),
    /// The transfer of a file is slow, or ends early. Other calls run undisturbed.
    Transfer(TransferMishap),
    /// The host changes just before the method runs.
    HostChange(HostChange),
    /// The hook of a test runs first. Then the method runs undisturbed, or with the given
    /// disruption.
    Hook(TestHook, Option<Box<Disruption>>),
    /// The method runs if `run` is set, but its answer is not sent. The connection is closed when
    /// `cancelled` is cancelled.
    CloseWhen { run: bool, cancelled: CancellationToken },
}

/// What happens to the body of a transfer of a file, in either direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransferMishap {
    /// How the transfer ends after so many bytes. `None`: it ends as usual.
    pub end: Option<(u64, TransferEnd)>,
    /// How fast the host sends or takes the bytes. `None`: as fast as it can.
    pub bytes_per_second: Option<u64>,
}

/// How a transfer of a file ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEnd {
    /// The connection is closed.
    Cut,
    /// Nothing happens any more, and the connection stays open.
    Stall,
    /// The host answers while the client still sends. A client that reads is cut.
    Answer(StatusCode),
}

/// A function of a test that runs while a call waits. [`Control`](super::Control) makes such hooks
/// and is passed to the function.
#[derive(Clone)]
pub struct TestHook(pub(super) Arc<HookFunction>);

type HookFunction = dyn Fn(&Arc<Shared>) + Send + Sync;

impl fmt::Debug for TestHook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TestHook")
    }
}

/// How the host answers while hostd is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DownMode {
    /// The host closes each connection as soon as it is made.
    Refuse,
    /// The proxy in front of hostd answers 503.
    Unavailable,
}

/// How the management service of the host (hostd) restarts.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostdRestart {
    /// How the host answers until [`Control::resume`](super::Control::resume) is called. `None`
    /// means that hostd answers again at once.
    pub down: Option<DownMode>,
    /// Whether the operations of running tasks stop where they are. If not, the machines finish the
    /// operations, but hostd shows no task for them.
    pub drop_running: bool,
}

/// A change of the host as a whole.
#[derive(Clone, Debug)]
pub enum HostChange {
    ExpireSessions,
    RestartHostd(HostdRestart),
    /// hostd, which was down after a restart, answers again.
    Resume,
    RebootHost,
    VanishTasks,
    RefuseLogins(bool),
    /// Whether the host has the free licence, with which it refuses every change.
    ReadOnlyLicence(bool),
    /// Whether the role of the account is `ReadOnly` instead of `Admin`.
    ReadOnlyAccount(bool),
    /// Whether a removal of a snapshot leaves disks behind, so that the machine needs a
    /// consolidation.
    RemovalsLeaveDisks(bool),
    /// The next task of this method ends with this fault, without doing its work.
    FailNextTask(&'static str, Fault),
    /// From now on every task of this method ends with this fault. `None` lets later tasks succeed
    /// again.
    FailTasks(&'static str, Option<Fault>),
    /// Whether the host is in maintenance mode, in which it powers on no machine.
    MaintenanceMode(bool),
    /// A machine asks a question: at once if `pending` is set, otherwise at its next power-on. If
    /// `repeats` is set, the machine asks the question at each later power-on too.
    Question {
        machine: String,
        question: Box<Question>,
        pending: bool,
        repeats: bool,
    },
    /// How consoles behave from now on. Apart from `silent`, consoles that are open do not change.
    ConsoleQuirks(ConsoleQuirks),
    /// The open consoles of a machine, or of all machines, end.
    EndConsoles {
        machine: Option<String>,
        how: ConsoleEnd,
    },
    /// A machine counts this many more consoles, as if clients had left them without a close.
    AbandonConsoles {
        machine: String,
        count: i32,
    },
    /// Machines count only the consoles that are open.
    ForgetAbandonedConsoles,
    /// A guest shows this stage. Consoles stay open.
    ShowScreen {
        machine: String,
        stage: ScreenStage,
    },
    /// The serial ports change.
    Serial(SerialChange),
    /// The files and datastores change.
    Files(FilesChange),
}

/// A change of files and datastores. Places are datastore paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesChange {
    /// A file appears, or is replaced, with its folders.
    Put {
        path: String,
        content: FileContent,
    },
    MakeFolder {
        path: String,
    },
    /// A file, or a folder with its content, is gone.
    Remove {
        path: String,
    },
    /// Whether a file is locked and in use, whatever uses it.
    Lock {
        path: String,
        locked: bool,
    },
    /// Whether the guests of a machine lock the media in its drives.
    LockDrives {
        machine: String,
        locked: bool,
    },
    /// A datastore by its name: the space that is free, which the host reports at once, and whether
    /// it is accessible.
    Datastore {
        name: String,
        free_bytes: Option<i64>,
        accessible: Option<bool>,
    },
}

/// The kind of a [`HostChange`], without the fields of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostChangeKind {
    ExpireSessions,
    RestartHostd,
    Resume,
    RebootHost,
    VanishTasks,
    RefuseLogins,
    Licence,
    Account,
    RemovalsLeaveDisks,
    FailNextTask,
    FailTasks,
    MaintenanceMode,
    Question,
    ConsoleQuirks,
    EndConsoles,
    AbandonConsoles,
    ForgetAbandonedConsoles,
    ShowScreen,
    Serial,
    Files,
}

impl HostChange {
    /// The kind of this change. [`Control::occurrences`](super::Control::occurrences) counts
    /// changes by their kind.
    #[must_use]
    pub const fn kind(&self) -> HostChangeKind {
        match self {
            Self::ExpireSessions => HostChangeKind::ExpireSessions,
            Self::RestartHostd(_) => HostChangeKind::RestartHostd,
            Self::Resume => HostChangeKind::Resume,
            Self::RebootHost => HostChangeKind::RebootHost,
            Self::VanishTasks => HostChangeKind::VanishTasks,
            Self::RefuseLogins(_) => HostChangeKind::RefuseLogins,
            Self::ReadOnlyLicence(_) => HostChangeKind::Licence,
            Self::ReadOnlyAccount(_) => HostChangeKind::Account,
            Self::RemovalsLeaveDisks(_) => HostChangeKind::RemovalsLeaveDisks,
            Self::FailNextTask(..) => HostChangeKind::FailNextTask,
            Self::FailTasks(..) => HostChangeKind::FailTasks,
            Self::MaintenanceMode(_) => HostChangeKind::MaintenanceMode,
            Self::Question { .. } => HostChangeKind::Question,
            Self::ConsoleQuirks(_) => HostChangeKind::ConsoleQuirks,
            Self::EndConsoles { .. } => HostChangeKind::EndConsoles,
            Self::AbandonConsoles { .. } => HostChangeKind::AbandonConsoles,
            Self::ForgetAbandonedConsoles => HostChangeKind::ForgetAbandonedConsoles,
            Self::ShowScreen { .. } => HostChangeKind::ShowScreen,
            Self::Serial(_) => HostChangeKind::Serial,
            Self::Files(_) => HostChangeKind::Files,
        }
    }
}

/// How the host answers a call whose session has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionLoss {
    /// Every call fails with `NotAuthenticated` (HTTP 500). A pending wait for updates fails too.
    #[default]
    Fault,
    /// The answer to a read lists every property in its `missingSet`. A pending wait for updates
    /// fails with `RequestCanceled`.
    MissingSet,
    /// The answer to a read is empty. A pending wait for updates fails with `RequestCanceled`.
    EmptyAnswer,
    /// Every call fails with a `ManagedObjectNotFound` that names the target of the call.
    NoCollector,
}

/// A handle to a planned disruption, which tells how many calls were disrupted.
#[derive(Clone, Debug)]
pub struct PlannedDisruption {
    delivered: Arc<AtomicU64>,
}

impl PlannedDisruption {
    /// How many calls this plan has disrupted so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::SeqCst)
    }
}

/// The disruptions of single calls, in the order in which tests planned them, and the settings that
/// change every answer until they are reset.
#[derive(Debug, Default)]
pub struct FaultPlan {
    entries: Vec<PlanEntry>,
    /// How the host answers a call whose session has ended.
    pub session_loss: SessionLoss,
    /// The maximum number of objects in one answer to a read or a wait for updates, even if the
    /// caller asks for more.
    pub page_limit: Option<usize>,
    /// Whether a pending wait reports an object that was added to a view only with the next change
    /// of the world.
    pub hides_additions: bool,
}

#[derive(Debug)]
struct PlanEntry {
    method: String,
    /// The number of calls that still run undisturbed before the first disrupted call.
    skip: u64,
    /// The number of calls that are still to disrupt. `None` means that every later call is
    /// disrupted.
    times: Option<u64>,
    disruption: Disruption,
    delivered: Arc<AtomicU64>,
}

impl FaultPlan {
    /// Plans a disruption of calls of a method: the next `skip` calls run undisturbed, and the
    /// `times` calls after them are disrupted. If `times` is `None`, all later calls are disrupted.
    /// The method `*` stands for every method.
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

    /// Removes every planned disruption, and resets the settings that change every answer.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the disruption that is planned for the call that arrives now and has these names, and
    /// counts the call in the plans for them. `None` if the call runs undisturbed.
    pub fn take_disruption(&mut self, names: &[&str]) -> Option<Disruption> {
        let at = self.entries.iter_mut().position(|plan| {
            if plan.method != "*" && !names.contains(&plan.method.as_str()) {
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
