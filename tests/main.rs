//! The one binary of integration tests. `harness` says how to write a test. Each folder says in its
//! header what it tests.
#![cfg(test)] // by which clippy knows that helpers, too, may unwrap

mod api;
mod artifacts;
#[cfg(feature = "interop")]
mod bench;
mod conformance;
mod daemon;
mod esx;
mod files;
mod fuzz;
mod harness;
mod house;
mod in_process;
#[cfg(feature = "interop")]
mod interop;
mod inventory;
mod jobs;
mod matrix;
mod mistakes;
mod openapi;
mod screens;
mod serial;
mod simulation;
mod simulator;
mod storage;
