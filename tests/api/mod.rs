//! The HTTP contract, subject by subject.

mod answers;
mod bad_headers;
mod counted;
mod datastores;
mod event_streams;
mod events;
mod find;
mod idempotency;
mod identity;
mod input;
mod jobs;
mod kinds;
mod lease_answers;
mod leases;
mod limits;
mod machine_wait;
mod machines;
mod metrics;
mod outcome;
mod pages;
mod pairs;
mod queue;
mod revert;
mod snapshot_rules;
mod snapshots;
mod tokens;
