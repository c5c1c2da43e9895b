//! The problems of a configuration. The message of each problem says what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    pub file: Option<PathBuf>,
    /// The line of the configuration file, counted from 1. `None` if the problem is not in one
    /// line.
    pub line: Option<usize>,
    /// Where the problem is: the full path of a key, for example `esx.verify`, or the name of a
    /// variable or flag. Empty if the problem concerns the whole file.
    pub at: String,
    /// What is wrong, and what to write instead. The text never contains a secret.
    pub message: String,
}

/// The problems of a configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<ConfigProblem>,
}

impl ConfigProblem {
    pub(super) fn new(at: &str, message: impl Into<String>) -> Self {
        Self { file: None, line: None, at: at.to_owned(), message: message.into() }
    }

    pub(super) fn in_file(file: &Path, message: impl Into<String>) -> Self {
        Self { file: Some(file.to_owned()), ..Self::new("", message) }
    }
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, at, message } = self;
        if let Some(file) = file {
            write!(formatter, "{}", file.display())?;
            if let Some(line) = line {
                write!(formatter, ":{line}")?;
            }
            formatter.write_str(": ")?;
        }
        if !at.is_empty() {
            write!(formatter, "{at}: ")?;
        }
        formatter.write_str(message)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the configuration cannot be used")?;
        for problem in &self.problems {
            write!(formatter, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
