//! How long otter waits for a host, and how much of an answer it reads, unless the configuration
//! says otherwise.

use std::time::Duration;

/// The limits of calls to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLimits {
    pub connect_timeout: Duration,
    /// How long an ordinary call may take in all.
    pub read_timeout: Duration,
    /// The longest answer, in bytes after decompression.
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
