//! What otter tells of itself to those who run it.

pub mod audit;
pub mod leases;
pub mod logs;
pub mod metrics;
