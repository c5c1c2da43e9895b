//! The vim25 backend, through its seam: against the simulator, and against servers that answer
//! oddly.

mod calls;
mod following;
#[cfg(feature = "interop")]
mod interop;
mod inventory;
mod losses;
mod odd_hosts;
mod support;
mod verify;
