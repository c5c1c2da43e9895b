//! What happened in a run, line by line, where anybody wants to read it.

use std::time::Duration;

#[derive(Debug)]
pub struct Trace(Option<Vec<String>>);

impl Trace {
    pub const fn new(wanted: bool) -> Self {
        Self(if wanted { Some(Vec::new()) } else { None })
    }

    /// Notes what happened at this time; nothing is put into words that nobody reads.
    pub fn note(&mut self, now: Duration, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(format!("{:>12.3} {}", now.as_secs_f64(), what()));
        }
    }

    pub fn lines(&mut self) -> Vec<String> {
        self.0.take().unwrap_or_default()
    }
}
