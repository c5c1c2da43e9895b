//! The vim25 backend through the `Hypervisor` trait: with otter's simulator, with govmomi's
//! simulator, and with a scripted server.

mod calls;
mod consoles;
#[cfg(feature = "interop")]
mod interop;
mod inventory;
mod login_faults;
mod lost_sessions;
mod proxy;
mod reconnects;
mod scripted_hosts;
mod support;
mod update_stream;
mod verify;
