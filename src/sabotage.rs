//! Mistakes made on purpose, so that tests can show that they would notice.
//!
//! They exist with the cargo feature `sabotage` alone, which only tests turn on. Without it
//! [`Sabotage::makes`] is always false. The mistake is one of the settings; the binary takes it from
//! `OTTER_SABOTAGE`, which holds one of the names below. An unknown name ends the process at once.

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
    pub const ALL: [Self; 13] = [
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
        }
    }
}

#[cfg(feature = "sabotage")]
mod enabled {
    use super::{Mistake, Sabotage};

    impl From<Mistake> for Sabotage {
        fn from(mistake: Mistake) -> Self {
            Self { mistake: Some(mistake) }
        }
    }

    impl Sabotage {
        /// The mistake that the environment names.
        #[must_use]
        pub fn of_the_environment() -> Self {
            let Ok(name) = std::env::var("OTTER_SABOTAGE") else { return Self::default() };
            let mistake = Mistake::ALL.into_iter().find(|mistake| mistake.name() == name);
            if mistake.is_none() {
                no_such(&name);
            }
            Self { mistake }
        }

        /// Whether this mistake is to be made.
        #[must_use]
        pub fn makes(self, mistake: Mistake) -> bool {
            self.mistake == Some(mistake)
        }
    }

    fn no_such(name: &str) -> ! {
        eprintln!("otter: there is no such mistake: {name}");
        std::process::exit(2)
    }
}

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
}

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
