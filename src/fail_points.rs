//! Fail points: places in the code at which a test can make the process fail. Each is before or
//! after a change that outlives the process, or in an isolated task. Fail points use the crate
//! `fail`. They exist only with the cargo feature `fail-points`, which only test builds have. The
//! environment variable `FAILPOINTS` arms them, with the actions of that crate:
//!
//! ```text
//! FAILPOINTS='intent-committed=2*off->return'    SIGKILL at the third visit
//! FAILPOINTS='request=panic'                     a panic at each visit
//! ```

/// Marks a fail point. In a build without the cargo feature `fail-points`, the macro does nothing.
macro_rules! fail_point {
    ($name:expr) => {{
        #[cfg(feature = "fail-points")]
        ::fail::fail_point!($name, |_| $crate::fail_points::kill());
        #[cfg(not(feature = "fail-points"))]
        let _: &str = $name;
    }};
}

pub(crate) use fail_point;

/// Arms the fail points that the environment variable `FAILPOINTS` names.
#[cfg(feature = "fail-points")]
pub fn arm() {
    // The scenario is never dropped, because dropping it would disarm the fail points.
    std::mem::forget(fail::FailScenario::setup());
}

/// Does nothing, because this build has no fail points.
#[cfg(not(feature = "fail-points"))]
pub const fn arm() {}

/// Kills the process in the way that `kill -9` does.
#[cfg(feature = "fail-points")]
pub(crate) fn kill() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal may arrive a little later. Until then, no further code may run.
    loop {
        std::thread::park();
    }
}
