//! A backend in the process of the tests: [`InProcess`] keeps the contract of `otter::hypervisor`
//! over the simulator's world, without TLS and SOAP.
//!
//! ```text
//! test ──► SimulatedHost ─ World ◄── hooks ── InProcess ◄── otter
//!                            └─────► stream ─ session ────► observer, followers
//! ```
//! All time comes from the clock of the host. There is no thread, no randomness and no order of a
//! hash table, so the same clock, hooks and calls give the same run.

mod backend;
mod hooks;
mod host;
mod planned_faults;
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
pub use planned_faults::{CallFault, PlannedFaults};
pub use translation::{datastore, machine};
