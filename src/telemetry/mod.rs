//! Logs, metrics, and the log lines of audit records.

pub mod artifacts;
pub mod audit;
pub mod leases;
pub mod logs;
pub mod metrics;
pub mod screens;
pub mod serial;
