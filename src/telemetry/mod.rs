//! What otter tells of itself to those who run it.

pub mod logs;
pub mod metrics;
