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
mod followers;
mod hooks;
mod host;
mod planned;
mod session;
mod stream;
mod tests;

mod translation;
mod watched;
mod wire;

pub use backend::InProcess;
pub use hooks::{Hooks, Interruption, Request};
pub use host::SimulatedHost;
pub use planned::{Plan, Planned};
pub use translation::{datastore, machine};
