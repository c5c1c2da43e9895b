//! The fail points at which the daemon is killed (`fail_point!` in `src`), in the order in which a
//! job reaches them.

macro_rules! fail_points {
    ($($(#[$doc:meta])* $point:ident = $name:literal,)*) => {
        /// A point before or after something that outlives the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FailPoint {
            $($(#[$doc])* $point,)*
        }

        impl FailPoint {
            pub const ALL: &'static [Self] = &[$(Self::$point,)*];

            /// Its name in `src`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }
        }
    };
}

fail_points! {
    /// A start: before the database is opened,
    Open = "open",
    /// before the jobs of the last run are read,
    Recover = "recover",
    /// as one of those that ran is put back,
    Resume = "resume",
    /// and once all are.
    Recovered = "recovered",
    /// A starting call with a key: the key is claimed, and not yet looked up.
    Key = "key",
    /// The key was used before; the answer has not left.
    Replay = "replay",
    /// The job has its place and is not committed.
    Accept = "accept",
    AcceptCommitted = "accept-committed",
    Start = "start",
    StartCommitted = "start-committed",
    /// Before the machine is read ahead of a call, and after that.
    Examine = "examine",
    Examined = "examined",
    Intent = "intent",
    IntentCommitted = "intent-committed",
    /// Before the host is called, and after its answer.
    Call = "call",
    Answered = "answered",
    Task = "task",
    TaskCommitted = "task-committed",
    Follow = "follow",
    Followed = "followed",
    /// A guest is watched.
    Watch = "watch",
    /// A call of several is done, or proven not to have run.
    CallDone = "step-done",
    CallDoneCommitted = "step-done-committed",
    /// Before a running job is cancelled.
    Cancel = "cancel",
    /// Before the host is asked to cancel its task.
    CancelTask = "cancel-task",
    /// Before the machine is read after a loss.
    Judge = "judge",
    /// It is given time to settle.
    Settle = "settle",
    /// The judgement was to ask again, and that is committed.
    AgainCommitted = "again-committed",
    Barrier = "barrier",
    Synced = "synced",
    End = "end",
    EndCommitted = "end-committed",
    /// Those who wait have heard of the end.
    EndPublished = "told",
}

/// Where other tests make a task panic.
const PANICS: [&str; 4] = ["request", "lease-work", "retention", "run-command"];

/// What arms a kill at this visit of a point, for the environment of a daemon.
pub fn kill_at(name: &str, visit: u32) -> (&'static str, String) {
    let before = visit.checked_sub(1).filter(|before| *before > 0);
    let skipped = before.map(|before| format!("{before}*off->")).unwrap_or_default();
    ("FAILPOINTS", format!("{name}={skipped}return"))
}

/// A misspelt name would kill nothing.
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
    let listed = FailPoint::ALL.iter().map(|step| step.name()).chain(PANICS);
    let listed: std::collections::BTreeSet<String> = listed.map(str::to_owned).collect();
    assert_eq!(points, listed);
}

fn literals(source: &str) -> impl Iterator<Item = String> {
    source.split('"').skip(1).step_by(2).map(str::to_owned)
}
