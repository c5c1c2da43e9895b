//! The fail points at which the daemon is killed (`fail_point!` in `src`), in the order in which a
//! job reaches them.

macro_rules! fail_points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A fail point of the daemon, before or after a change that outlives the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FailPoint {
            $($(#[$doc])* $point,)*
        }

        impl FailPoint {
            pub const ALL: &'static [Self] = &[$(Self::$point,)*];

            /// The name of the fail point in `src`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

fail_points! {
    /// At the start, before the database is opened.
    Open = "open",
    /// At the start, before the unfinished jobs are read.
    Recover = "recover",
    /// At the start, before a job that was running is resumed.
    Resume = "resume",
    /// At the start, after all jobs are resumed.
    Recovered = "recovered",
    /// After the key of a request is claimed, before it is looked up.
    Key = "key",
    /// Before the answer to a request whose key was used before.
    Replay = "replay",
    /// After a job has its place in the queue, before it is committed.
    Accept = "accept",
    /// After a new job is committed.
    AcceptCommitted = "accept-committed",
    /// Before the machine is read ahead of a call.
    Examine = "examine",
    /// After the machine is read ahead of a call.
    Examined = "examined",
    /// Before the intent of a call is committed, the first one together with the start of the job.
    Intent = "intent",
    /// After the intent of a call is committed.
    IntentCommitted = "intent-committed",
    /// Before the host is called.
    Call = "call",
    /// After the host has answered the call.
    Answered = "answered",
    /// Before the task of a call is committed.
    Task = "task",
    /// After the task of a call is committed.
    TaskCommitted = "task-committed",
    /// Before otter waits for the task.
    Follow = "follow",
    /// After the task has ended.
    Followed = "followed",
    /// While otter waits for a guest.
    Watch = "watch",
    /// Before the end of one of several calls is committed.
    CallDone = "step-done",
    /// After the end of one of several calls is committed.
    CallDoneCommitted = "step-done-committed",
    /// Before the cancellation of a running job is committed.
    Cancel = "cancel",
    /// Before the host is asked to cancel a task.
    CancelTask = "cancel-task",
    /// Before the machine is read after a lost call.
    Judge = "judge",
    /// After a lost call, while otter waits until the state of the machine is stable.
    Settle = "settle",
    /// After the decision to repeat a lost call is committed.
    AgainCommitted = "again-committed",
    /// Before otter waits until the inventory has the effect of the job.
    Barrier = "barrier",
    /// After the inventory has the effect of the job.
    Synced = "synced",
    /// Before the end of a job is committed.
    End = "end",
    /// After the end of a job is committed.
    EndCommitted = "end-committed",
    /// After the end of a job is published to waiting clients.
    EndPublished = "told",
}

/// The fail points of a call that sends input, in the order in which the call reaches them: before
/// and after its key is committed, and before and after its answer is committed. `input_keys` kills
/// the daemon at each of them.
pub const INPUT: [&str; 4] =
    ["input-key", "input-key-committed", "input-answer", "input-answer-committed"];

/// The fail points at which other tests make a task panic.
const PANICS: [&str; 6] =
    ["request", "lease-committed", "lease-work", "recovery-work", "retention", "run-command"];

/// The fail points at which tests of artifacts kill the daemon.
const OF_ARTIFACTS: [&str; 3] = ["artifact-file", "artifact-row", "recording-stored"];

/// The fail points of jobs on files, in the order in which a job reaches them. `daemon::files` kills
/// the daemon at each of them.
pub const OF_FILES: [&str; 14] = [
    "file-look",
    "file-transfer",
    "file-transfer-committed",
    "file-receive",
    "upload-part",
    "upload-written",
    "file-received",
    "file-intent",
    "file-intent-committed",
    "file-call",
    "file-called",
    "file-record",
    "file-end",
    "file-end-committed",
];

/// The environment variable, and its value, that kill a daemon when it reaches a fail point for the
/// nth time.
pub fn kill_at(name: &str, visit: u32) -> (&'static str, String) {
    let before = visit.checked_sub(1).filter(|before| *before > 0);
    let skipped = before.map(|before| format!("{before}*off->")).unwrap_or_default();
    ("FAILPOINTS", format!("{name}={skipped}return"))
}

/// A misspelt name would have no effect.
#[test]
fn the_list_has_exactly_the_fail_points_of_the_source() {
    let mut points = std::collections::BTreeSet::new();
    for (_, source) in crate::house::sources() {
        for call in source.split("fail_point!(").skip(1) {
            let arguments = call.split(';').next().unwrap();
            points.extend(literals(arguments));
        }
        if let Some(table) = source.split("fn fail_points_of_save").nth(1) {
            points.extend(literals(table.split("\n}\n").next().unwrap()));
        }
    }
    let listed = FailPoint::ALL.iter().map(|step| step.name());
    let listed = listed.chain(INPUT).chain(PANICS).chain(OF_ARTIFACTS).chain(OF_FILES);
    let listed: std::collections::BTreeSet<String> = listed.map(str::to_owned).collect();
    assert_eq!(points, listed);
}

fn literals(source: &str) -> impl Iterator<Item = String> {
    source.split('"').skip(1).step_by(2).map(str::to_owned)
}
