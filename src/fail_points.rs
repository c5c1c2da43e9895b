//! Points at which a test makes the process fail: each lies before or after something that outlives
//! it, or in a task that must be contained. They go through the `fail` crate and exist with the
//! cargo feature `fail-points` alone, which only test builds have. The environment arms one, with
//! the actions of that crate:
//!
//! ```text
//! FAILPOINTS='intent-committed=2*off->return'    SIGKILL at the third visit
//! FAILPOINTS='request=panic'                     a panic at each visit
//! ```

/// Does nothing in a build without the feature.
macro_rules! fail_point {
    ($name:expr) => {{
        #[cfg(feature = "fail-points")]
        ::fail::fail_point!($name, |_| $crate::fail_points::kill());
        #[cfg(not(feature = "fail-points"))]
        let _: &str = $name;
    }};
}

pub(crate) use fail_point;

/// Reads from the environment which points are armed.
#[cfg(feature = "fail-points")]
pub fn arm() {
    // Dropping it would disarm them.
    std::mem::forget(fail::FailScenario::setup());
}

/// There is nothing to arm in this build.
#[cfg(not(feature = "fail-points"))]
pub const fn arm() {}

/// Kills the process as `kill -9` does.
#[cfg(feature = "fail-points")]
pub(crate) fn kill() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal may take a moment, and nothing may happen after it.
    loop {
        std::thread::park();
    }
}
