//! The contract of `otter::hypervisor::Hypervisor` as cases that run on any backend and a host.
//!
//! ```text
//! HostFactory ──► TestHost: backend + HostControl ──► TestContext ──► Case ──► SuiteReport
//! ```
//! - `HostFactory` creates a fresh host for each case.
//! - `TestHost` is this host's backend and its `HostControl`, which changes the host from outside.
//! - `TestContext` runs the backend and has the helpers of the cases.
//! - `SuiteReport` has the outcome of each case.
//!
//! [`HostControl::unsupported`] lists what a host cannot do. A case that needs it is reported as
//! not applicable with the reason of the host. At the end of every case, all reports of the backend
//! are checked against the rules of [`recording_observer`].

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

/// One rule of the contract, as a test.
pub struct Case {
    /// The rule, as a sentence.
    pub name: &'static str,
    /// The abilities that the case needs of the host.
    needs: &'static [Ability],
    pacing: TaskPacing,
    function: for<'t> fn(&'t TestContext) -> BoxFuture<'t, anyhow::Result<()>>,
}

/// How the cases are run.
#[derive(Clone, Copy, Debug)]
pub struct Conformance {
    /// The longest wait for an expected event.
    pub timeout: Duration,
    /// The number of cases that run at the same time, each on its own host.
    pub concurrency: usize,
}

impl Conformance {
    /// Runs every case.
    pub async fn run_all(&self, factory: &dyn HostFactory) -> SuiteReport {
        self.run_matching(factory, |_| true).await
    }

    /// Runs the selected cases.
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
            Err(error) => {
                return CaseOutcome::Failed(format!("the host was not created: {error:#}"));
            }
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
            Err(_) => CaseOutcome::Failed("the backend or its control panicked".to_owned()),
        }
    }
}

impl Case {
    /// Every case, grouped by subject.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        cases::ALL.iter().copied().flatten()
    }

    /// Whether the case needs this ability of the host.
    #[must_use]
    pub fn needs(&self, ability: Ability) -> bool {
        self.needs.contains(&ability)
    }
}

/// Declares the cases of a file by the names of their functions:
/// `case_table! { Automatic: a, b needs [Questions]; Stepped: c; }`.
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
