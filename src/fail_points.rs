//! Fail points: places at which a test makes the process fail. Each is before or after a change
//! that outlives the process, or in an isolated task. They use the `fail` crate and exist only with
//! the cargo feature `fail-points`, which only test builds have. The environment arms them, with
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

/// Arms the fail points that the environment names.
#[cfg(feature = "fail-points")]
pub fn arm() {
    // Dropping the scenario would disarm the fail points.
    std::mem::forget(fail::FailScenario::setup());
}

/// Does nothing: this build has no fail points.
#[cfg(not(feature = "fail-points"))]
pub const fn arm() {}

/// Kills the process as `kill -9` does.
#[cfg(feature = "fail-points")]
pub(crate) fn kill() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal may arrive later, and no further code may run.
    loop {
        std::thread::park();
    }
}
