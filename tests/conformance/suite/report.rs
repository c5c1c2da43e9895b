//! The outcomes of all cases on one host.

use std::fmt;

/// The outcome of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseOutcome {
    Passed,
    /// The host does not have an ability that the case needs, for this reason.
    NotApplicable(&'static str),
    /// The rule that was broken.
    Failed(String),
}

/// The name and outcome of every case.
#[derive(Clone, Debug)]
pub struct SuiteReport(pub Vec<(&'static str, CaseOutcome)>);

impl SuiteReport {
    /// The number of passed cases.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.0.iter().filter(|(_, outcome)| *outcome == CaseOutcome::Passed).count()
    }

    /// The names of the cases that are not applicable, with the reason of the host.
    #[must_use]
    pub fn not_applicable(&self) -> Vec<(&'static str, &'static str)> {
        let reason = |(name, outcome): &(&'static str, CaseOutcome)| match outcome {
            CaseOutcome::NotApplicable(reason) => Some((*name, *reason)),
            CaseOutcome::Passed | CaseOutcome::Failed(_) => None,
        };
        self.0.iter().filter_map(reason).collect()
    }

    /// The names of the cases that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<&'static str> {
        let failed =
            |(_, outcome): &&(&'static str, CaseOutcome)| matches!(outcome, CaseOutcome::Failed(_));
        self.0.iter().filter(failed).map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not_applicable = self.not_applicable();
        write!(
            formatter,
            "{} cases: {} passed, {} not applicable, {} failed",
            self.0.len(),
            self.passed(),
            not_applicable.len(),
            self.failed().len()
        )?;
        for (name, reason) in not_applicable {
            write!(formatter, "\n  not applicable: {name}: {reason}")?;
        }
        for (name, outcome) in &self.0 {
            if let CaseOutcome::Failed(what) = outcome {
                write!(formatter, "\n  FAILED: {name}: {what}")?;
            }
        }
        Ok(())
    }
}
