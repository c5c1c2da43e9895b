//! Pure values and rules: ids, machines, snapshots, datastores, jobs, leases, events, the audit,
//! and the address of a host. The code here does no I/O, and has no clock and no wire format.
//!
//! No type of this module is serialised. The API and the store have types of their own and convert
//! them field by field. Therefore a new field breaks the build at each place that must handle it.

pub mod access;
pub mod answers;
pub mod artifact;
pub mod audit;
pub mod base_path;
pub mod byte_range;
pub mod call;
pub mod condition_text;
pub mod datastore;
pub mod datastore_reference;
pub mod duration;
pub mod event;
pub mod failure;
pub mod fault_origin;
pub mod file_entry;
pub mod file_job;
pub mod file_path;
pub mod host_limits;
pub mod host_url;
pub mod ids;
pub mod input;
pub mod job;
pub mod keyboard;
pub mod lease;
pub mod mac;
pub mod machine;
pub mod machine_pattern;
pub mod machine_reference;
pub mod machine_uuid;
pub mod media;
pub mod names;
pub mod network;
pub mod origin;
pub mod pool;
pub mod power;
pub mod proxy_url;
pub mod recording;
pub mod restore;
pub mod scope;
pub mod screen;
pub mod screen_text;
pub mod serial;
pub mod snapshot;
pub mod snapshot_rules;
pub mod socket_access;
pub mod terminal;
pub mod trusted_proxy;
pub mod verify;
pub mod web_origin;
