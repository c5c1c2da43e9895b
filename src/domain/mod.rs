//! Pure values and rules: ids, machines, snapshots, datastores, jobs, events, the audit, how a host
//! is reached. No I/O, no clock, no wire format.
//!
//! Nothing here is serialised: the API and the store have types of their own and convert field by
//! field, so that a new field breaks the build in each place that must know of it.

pub mod access;
pub mod audit;
pub mod call;
pub mod datastore;
pub mod duration;
pub mod event;
pub mod failure;
pub mod host_limits;
pub mod host_url;
pub mod ids;
pub mod job;
pub mod lease;
pub mod mac;
pub mod machine;
pub mod machine_reference;
pub mod names;
pub mod network;
pub mod origin;
pub mod pool;
pub mod power;
pub mod restore;
pub mod scope;
pub mod snapshot;
pub mod snapshot_rules;
pub mod terminal;
pub mod verify;
pub mod web_origin;
