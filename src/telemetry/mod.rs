//! Logs, metrics and the log lines of the audit.

pub mod audit;
pub mod leases;
pub mod logs;
pub mod metrics;
pub mod screens;
