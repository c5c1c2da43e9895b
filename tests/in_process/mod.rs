//! A backend in the process of the tests: [`InProcess`] implements `otter::hypervisor` over the
//! world of the simulator, without TLS and SOAP.
//!
//! ```text
//! test ──► SimulatedHost ─ World ◄── hooks ── InProcess ◄── otter
//!                            └─────► update_stream ─ session ──► observer, task followers
//! ```
//! All time comes from the clock of the host. There are no threads, no random numbers and no hash
//! tables, so the same clock, hooks and calls give the same run.

mod backend;
mod hooks;
mod host;
mod memory_files;
mod no_screens;
mod planned_faults;
mod screens;
mod session;
mod task_followers;
mod tests;
mod update_stream;

mod ordered_watch;
mod translation;
mod wire_comparison;

pub use backend::InProcess;
pub use hooks::{Hooks, Interruption, Request};
pub use host::SimulatedHost;
pub use memory_files::{FileCallBehavior, MemoryFiles};
pub use no_screens::NoScreens;
pub use planned_faults::{CallFault, PlannedFaults};
pub use translation::{datastore, machine};
