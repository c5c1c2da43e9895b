//! What any backend must do: the written contract of `otter::hypervisor::Hypervisor` as cases to
//! try on a real backend in front of a host.
//!
//! ```text
//! Bench ──► a fresh host: Stage (what happens on it from outside) + backend ──► Trial ──► each Case ──► Report
//! ```
//! A host says what cannot be made to happen on it ([`Stage::lacks`]); a case that needs that is
//! counted as not applicable, with the host's reason, and never passed over in silence. Whatever a
//! case is about, the whole of what it was told is held to the rules of [`watching`] in the end.

mod cases;
mod report;
mod stage;
mod trial;
pub mod watching;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

pub use report::{Outcome, Report};
pub use stage::{Ability, Bench, Cast, Cut, Pace, Set, Stage, Truth};
pub use trial::Trial;

/// One thing that a backend must do.
pub struct Case {
    /// The thing, as a sentence.
    pub name: &'static str,
    /// What it needs of the host.
    needs: &'static [Ability],
    pace: Pace,
    play: for<'t> fn(&'t Trial) -> BoxFuture<'t, anyhow::Result<()>>,
}

/// How the cases are run.
#[derive(Clone, Copy, Debug)]
pub struct Conformance {
    /// How long something that must happen may take.
    pub patience: Duration,
    /// How many cases run at a time, each on a host of its own.
    pub at_once: usize,
}

impl Conformance {
    /// Runs every case on a host of its own.
    pub async fn of(&self, bench: &dyn Bench) -> Report {
        self.of_those(bench, |_| true).await
    }

    /// Runs those cases only.
    pub async fn of_those(&self, bench: &dyn Bench, wanted: impl Fn(&Case) -> bool) -> Report {
        let cases = Case::all().filter(|case| wanted(case)).enumerate();
        let run = |(place, case): (usize, &'static Case)| async move {
            (place, (case.name, self.run(case, bench).await))
        };
        let mut outcomes: Vec<_> =
            stream::iter(cases).map(run).buffer_unordered(self.at_once.max(1)).collect().await;
        outcomes.sort_by_key(|(place, _)| *place);
        Report(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    async fn run(&self, case: &Case, bench: &dyn Bench) -> Outcome {
        let set = match bench.set(case.pace).await {
            Ok(set) => set,
            Err(error) => return Outcome::Failed(format!("there is no host: {error:#}")),
        };
        if let Some(reason) = case.needs.iter().find_map(|ability| set.stage.lacks(*ability)) {
            return Outcome::NotApplicable(reason);
        }
        let played = AssertUnwindSafe(async {
            let trial = Trial::begin(set, self.patience).await?;
            (case.play)(&trial).await?;
            trial.end().await
        });
        match played.catch_unwind().await {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(error)) => Outcome::Failed(format!("{error:#}")),
            Err(_) => Outcome::Failed("the backend, or its stage, panicked".to_owned()),
        }
    }
}

impl Case {
    /// Every case, by what it is about.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        cases::ALL.iter().copied().flatten()
    }

    /// Whether it needs this of the host.
    #[must_use]
    pub fn needs(&self, ability: Ability) -> bool {
        self.needs.contains(&ability)
    }
}

/// A table of cases: `case_table! { Brisk: a, b needs [Questions]; Held: c; }`, each the name of a
/// function.
macro_rules! case_table {
    ($($pace:ident: $($name:ident $(needs [$($ability:ident),*])?),* $(,)?);* $(;)?) => {
        pub const CASES: &[$crate::conformance::suite::Case] = &[$($(
            $crate::conformance::suite::Case {
                name: stringify!($name),
                needs: &[$($($crate::conformance::suite::Ability::$ability),*)?],
                pace: $crate::conformance::suite::Pace::$pace,
                play: |trial| Box::pin($name(trial)),
            },
        )*)*];
    };
}
use case_table;
