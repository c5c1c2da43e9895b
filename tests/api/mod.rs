//! The HTTP contract, subject by subject.

mod answers;
mod counted;
mod datastores;
mod find;
mod idempotency;
mod identity;
mod input;
mod jobs;
mod kinds;
mod limits;
mod machine_wait;
mod machines;
mod outcome;
mod pages;
mod queue;
mod revert;
mod snapshots;
