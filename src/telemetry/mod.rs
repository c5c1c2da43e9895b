//! What otter tells of itself to those who run it.

pub mod leases;
pub mod logs;
pub mod metrics;
