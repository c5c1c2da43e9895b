//! Mistakes made on purpose, and deaths at named steps, so that tests can show that they would notice.
//!
//! They exist with the cargo feature `sabotage` alone, which only tests turn on. Without it [`Sabotage::makes`] is
//! always false and [`reached`] does nothing, so that neither can happen in what people run. The mistake is one of
//! the settings; the binary takes both from its environment:
//!
//! ```text
//! OTTER_SABOTAGE=reset-sent-again    one of the names below
//! OTTER_KILL_AT=intent-committed:3   SIGKILL to itself when the step is reached for the third time
//! ```
//! A name that is none ends the process at once, so that no test passes by a slip of the pen.

/// Which mistake is made, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sabotage {
    #[cfg(feature = "sabotage")]
    mistake: Option<Mistake>,
}

/// What can be done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// The host is called although the intent never reached the disk.
    CallBeforeCommit,
    /// A lost reset is sent again.
    ResetSentAgain,
    /// A job's end is published before the picture shows what it did.
    EndBeforeBarrier,
    /// A read of the whole host leaves what is gone in the picture.
    ResyncForgetsRemoval,
    /// A restart forgets the idempotency keys.
    KeysForgotten,
    /// A job that was told to have ended runs again for a moment.
    EndTakenBack,
    /// An address is shown whatever happened to the guest since.
    StaleAddress,
    /// A refused account is tried again and again.
    LoginLoop,
    /// A grant of a machine does not count on from the one before.
    FenceForgotten,
    /// A preparation is called done without a last look at its machine.
    PrepareUnchecked,
    /// A grant is shown before it is committed.
    GrantOutsideTransaction,
    /// A machine is free once its release was started.
    FreeBeforeProven,
    /// The time of a lease goes on by the clock that jumps.
    ExpiryByWallClock,
    /// Every request panics.
    PanickingRequests,
    /// Whoever prepares or releases a machine panics.
    PanickingLeases,
    /// A task of a room panics.
    DyingRoom,
    /// `otter run` panics while its command runs.
    PanickingRun,
}

impl Sabotage {
    /// No mistake.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            #[cfg(feature = "sabotage")]
            mistake: None,
        }
    }
}

impl Mistake {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::CallBeforeCommit,
        Self::ResetSentAgain,
        Self::EndBeforeBarrier,
        Self::ResyncForgetsRemoval,
        Self::KeysForgotten,
        Self::EndTakenBack,
        Self::StaleAddress,
        Self::LoginLoop,
        Self::FenceForgotten,
        Self::PrepareUnchecked,
        Self::GrantOutsideTransaction,
        Self::FreeBeforeProven,
        Self::ExpiryByWallClock,
        Self::PanickingRequests,
        Self::PanickingLeases,
        Self::DyingRoom,
        Self::PanickingRun,
    ];

    /// Its name in the environment.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CallBeforeCommit => "call-before-commit",
            Self::ResetSentAgain => "reset-sent-again",
            Self::EndBeforeBarrier => "end-before-barrier",
            Self::ResyncForgetsRemoval => "resync-forgets-removal",
            Self::KeysForgotten => "keys-forgotten",
            Self::EndTakenBack => "end-taken-back",
            Self::StaleAddress => "stale-address",
            Self::LoginLoop => "login-loop",
            Self::FenceForgotten => "fence-forgotten",
            Self::PrepareUnchecked => "prepare-unchecked",
            Self::GrantOutsideTransaction => "grant-outside-transaction",
            Self::FreeBeforeProven => "free-before-proven",
            Self::ExpiryByWallClock => "expiry-by-wall-clock",
            Self::PanickingRequests => "panicking-requests",
            Self::PanickingLeases => "panicking-leases",
            Self::DyingRoom => "dying-room",
            Self::PanickingRun => "panicking-run",
        }
    }
}

/// Declares the steps together with their names in the environment.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $name:literal,)*) => {
        /// A point at which the process can be made to die: each lies before or behind something that outlives it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        impl Step {
            /// All of them, in the order in which a job comes by.
            pub const ALL: &'static [Self] = &[$(Self::$step,)*];

            /// Its name in the environment.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)*
                }
            }
        }
    };
}

steps! {
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
    /// The machine is to be read before a call; it was read.
    Examine = "examine",
    Examined = "examined",
    Intent = "intent",
    IntentCommitted = "intent-committed",
    /// The host is to be called; it answered.
    Call = "call",
    Answered = "answered",
    Task = "task",
    TaskCommitted = "task-committed",
    Follow = "follow",
    Followed = "followed",
    /// A guest is watched.
    Watch = "watch",
    /// A call of several is done, or proven not to have run.
    StepDone = "step-done",
    StepDoneCommitted = "step-done-committed",
    /// A running job is to be cancelled.
    Cancel = "cancel",
    /// The host is to be asked to cancel its task.
    CancelTask = "cancel-task",
    /// The machine is to be read after a loss.
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
    Told = "told",
}

#[cfg(feature = "sabotage")]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Mistake, Sabotage, Step};

    impl From<Mistake> for Sabotage {
        fn from(mistake: Mistake) -> Self {
            Self { mistake: Some(mistake) }
        }
    }

    impl Sabotage {
        /// The mistake that the environment names.
        #[must_use]
        pub fn of_the_environment() -> Self {
            death();
            let Ok(name) = std::env::var("OTTER_SABOTAGE") else { return Self::default() };
            let mistake = Mistake::ALL.into_iter().find(|mistake| mistake.name() == name);
            if mistake.is_none() {
                no_such("mistake", &name);
            }
            Self { mistake }
        }

        /// Whether this mistake is to be made.
        #[must_use]
        pub fn makes(self, mistake: Mistake) -> bool {
            self.mistake == Some(mistake)
        }
    }

    struct Death {
        step: Step,
        visits_left: AtomicU32,
    }

    /// Ends the process as `kill -9` does if the environment says so for this step.
    pub fn reached(step: Step) {
        if let Some(death) = death()
            && death.step == step
            && death.visits_left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // The signal may take a moment; nothing is to be done after it.
            loop {
                std::thread::park();
            }
        }
    }

    fn death() -> Option<&'static Death> {
        static DEATH: OnceLock<Option<Death>> = OnceLock::new();
        let read = || {
            let told = std::env::var("OTTER_KILL_AT").ok()?;
            let (name, visits) = told.split_once(':').unwrap_or((&told, "1"));
            let step = Step::ALL.iter().copied().find(|step| step.name() == name);
            match (step, visits.parse()) {
                (Some(step), Ok(visits)) => Some(Death { step, visits_left: AtomicU32::new(visits) }),
                _ => no_such("step", &told),
            }
        };
        DEATH.get_or_init(read).as_ref()
    }

    fn no_such(what: &str, name: &str) -> ! {
        eprintln!("otter: there is no such {what}: {name}");
        std::process::exit(2)
    }
}

#[cfg(feature = "sabotage")]
pub use enabled::reached;

#[cfg(not(feature = "sabotage"))]
mod disabled {
    use super::{Mistake, Sabotage, Step};

    impl Sabotage {
        /// None: this build makes no mistakes on purpose.
        #[must_use]
        pub const fn of_the_environment() -> Self {
            Self {}
        }

        /// False in this build.
        #[must_use]
        pub const fn makes(self, _: Mistake) -> bool {
            false
        }
    }

    /// Nothing happens in this build.
    pub const fn reached(_: Step) {}
}

#[cfg(not(feature = "sabotage"))]
pub use disabled::reached;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mistake_that_was_asked_for_is_made() {
        for mistake in Mistake::ALL {
            let made = Mistake::ALL.into_iter().filter(|other| Sabotage::from(mistake).makes(*other));
            assert_eq!(made.collect::<Vec<_>>(), [mistake], "{}", mistake.name());
            assert!(!Sabotage::new().makes(mistake));
        }
    }
}
