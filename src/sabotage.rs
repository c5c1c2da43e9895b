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
    /// Every request panics.
    PanickingRequests,
    /// A task of a room panics.
    DyingRoom,
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
    pub const ALL: [Self; 11] = [
        Self::CallBeforeCommit,
        Self::ResetSentAgain,
        Self::EndBeforeBarrier,
        Self::ResyncForgetsRemoval,
        Self::KeysForgotten,
        Self::EndTakenBack,
        Self::StaleAddress,
        Self::LoginLoop,
        Self::FenceForgotten,
        Self::PanickingRequests,
        Self::DyingRoom,
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
            Self::PanickingRequests => "panicking-requests",
            Self::DyingRoom => "dying-room",
        }
    }
}

#[cfg(feature = "sabotage")]
mod enabled {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Mistake, Sabotage};

    impl From<Mistake> for Sabotage {
        fn from(mistake: Mistake) -> Self {
            Self { mistake: Some(mistake) }
        }
    }

    impl Sabotage {
        /// The mistake that the environment names. One that is misspelt is told, so that no test passes by it.
        #[must_use]
        pub fn of_the_environment() -> Self {
            let Ok(name) = std::env::var("OTTER_SABOTAGE") else { return Self::default() };
            let mistake = Mistake::ALL.into_iter().find(|mistake| mistake.name() == name);
            if mistake.is_none() {
                tracing::error!(name, "there is no such mistake");
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
        step: String,
        visits_left: AtomicU32,
    }

    /// Ends the process as `kill -9` does if the environment says so for this step.
    pub fn reached(step: &str) {
        static DEATH: OnceLock<Option<Death>> = OnceLock::new();
        let death = DEATH.get_or_init(|| {
            let told = std::env::var("OTTER_KILL_AT").ok()?;
            let (step, visits) = told.split_once(':').unwrap_or((&told, "1"));
            Some(Death { step: step.to_owned(), visits_left: AtomicU32::new(visits.parse().unwrap_or(1)) })
        });
        if let Some(death) = death
            && death.step == step
            && death.visits_left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}

#[cfg(feature = "sabotage")]
pub use enabled::reached;

#[cfg(not(feature = "sabotage"))]
mod disabled {
    use super::{Mistake, Sabotage};

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
    pub const fn reached(_: &str) {}
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
