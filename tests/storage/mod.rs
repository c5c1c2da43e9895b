//! Tests of the contract of a storage, with SQLite and with the storage in memory that the
//! simulation uses.

mod conformance;
mod disk_faults;
mod earlier;
pub mod in_memory;
mod operations;
mod samples;
