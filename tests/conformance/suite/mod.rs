//! What any backend must do: the written contract of `otter::hypervisor::Hypervisor` as cases to
//! try on a real backend in front of a host.
//!
//! ```text
//! Bench ──► a fresh host: Stage (what happens on it from outside) + backend ──► Trial ──► each Case ──► Report
//! ```
//! A host says what cannot be made to happen on it ([`HostControl::unsupported`]); a case that needs that is
//! counted as not applicable, with the host's reason, and never passed over in silence. Whatever a
//! case is about, the whole of what it was told is held to the rules of [`recording_observer`] in the end.

mod cases;
mod host_control;
pub mod recording_observer;
mod report;
mod test_context;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

pub use host_control::{
    Ability, ConnectionCut, HostContents, HostControl, HostFactory, TaskPacing, TestHost,
    TestMachines,
};
pub use report::{CaseOutcome, SuiteReport};
pub use test_context::TestContext;

/// One thing that a backend must do.
pub struct Case {
    /// The thing, as a sentence.
    pub name: &'static str,
    /// What it needs of the host.
    needs: &'static [Ability],
    pacing: TaskPacing,
    function: for<'t> fn(&'t TestContext) -> BoxFuture<'t, anyhow::Result<()>>,
}

/// How the cases are run.
#[derive(Clone, Copy, Debug)]
pub struct Conformance {
    /// How long something that must happen may take.
    pub timeout: Duration,
    /// How many cases run at a time, each on a host of its own.
    pub concurrency: usize,
}

impl Conformance {
    /// Runs every case on a host of its own.
    pub async fn run_all(&self, factory: &dyn HostFactory) -> SuiteReport {
        self.run_matching(factory, |_| true).await
    }

    /// Runs those cases only.
    pub async fn run_matching(
        &self,
        factory: &dyn HostFactory,
        is_selected: impl Fn(&Case) -> bool,
    ) -> SuiteReport {
        let cases = Case::all().filter(|case| is_selected(case)).enumerate();
        let run = |(index, case): (usize, &'static Case)| async move {
            (index, (case.name, self.run_case(case, factory).await))
        };
        let mut outcomes: Vec<_> =
            stream::iter(cases).map(run).buffer_unordered(self.concurrency.max(1)).collect().await;
        outcomes.sort_by_key(|(index, _)| *index);
        SuiteReport(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    async fn run_case(&self, case: &Case, factory: &dyn HostFactory) -> CaseOutcome {
        let host = match factory.create(case.pacing).await {
            Ok(host) => host,
            Err(error) => return CaseOutcome::Failed(format!("there is no host: {error:#}")),
        };
        if let Some(reason) =
            case.needs.iter().find_map(|ability| host.control.unsupported(*ability))
        {
            return CaseOutcome::NotApplicable(reason);
        }
        let ended = AssertUnwindSafe(async {
            let test = TestContext::start(host, self.timeout).await?;
            (case.function)(&test).await?;
            test.finish().await
        });
        match ended.catch_unwind().await {
            Ok(Ok(())) => CaseOutcome::Passed,
            Ok(Err(error)) => CaseOutcome::Failed(format!("{error:#}")),
            Err(_) => CaseOutcome::Failed("the backend, or its stage, panicked".to_owned()),
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
    ($($pacing:ident: $($name:ident $(needs [$($ability:ident),*])?),* $(,)?);* $(;)?) => {
        pub const CASES: &[$crate::conformance::suite::Case] = &[$($(
            $crate::conformance::suite::Case {
                name: stringify!($name),
                needs: &[$($($crate::conformance::suite::Ability::$ability),*)?],
                pacing: $crate::conformance::suite::TaskPacing::$pacing,
                function: |test| Box::pin($name(test)),
            },
        )*)*];
    };
}
use case_table;
