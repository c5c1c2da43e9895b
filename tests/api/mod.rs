//! The HTTP contract.

mod jobs;
