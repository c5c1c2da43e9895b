//! What any storage must do, tried on SQLite and on the storage in memory that the simulation uses.

mod conformance;
mod disk_faults;
pub mod in_memory;
mod operations;
mod samples;
