//! The default timeouts of calls to a host, and the default limit of an answer's size.

use std::time::Duration;

/// The limits for calls to a host: a timeout, and the size of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLimits {
    pub connect_timeout: Duration,
    /// The maximum duration of a call that is not a wait for updates.
    pub read_timeout: Duration,
    /// The maximum size of an answer, in bytes after decompression.
    pub answer_limit: usize,
}

impl Default for HostLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_mins(1),
            answer_limit: 256 << 20,
        }
    }
}
