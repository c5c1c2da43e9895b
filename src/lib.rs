//! otter: a REST daemon in front of a VMware ESX host. The binary calls this library.

// Unit tests include the sample records of the integration tests, whose code refers to this crate
// by the name `otter`.
#[cfg(test)]
extern crate self as otter;

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
mod connection_stream;
pub mod domain;
pub mod esx;
pub mod fail_points;
pub mod hypervisor;
pub mod rfb;
pub mod service;
pub mod simulator;
pub mod storage;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod telnet;
