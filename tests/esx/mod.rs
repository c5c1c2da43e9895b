//! The vim25 backend, through its seam: against the simulator, and against servers that answer
//! oddly.

mod calls;
#[cfg(feature = "interop")]
mod interop;
mod inventory;
mod lost_sessions;
mod scripted_hosts;
mod support;
mod update_stream;
mod verify;
