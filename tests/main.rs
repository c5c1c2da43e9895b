//! The one binary of integration tests. `harness` tells how to write one; the folders say what they
//! are about.
#![cfg(test)] // by which clippy knows that helpers, too, may unwrap

mod api;
mod conformance;
mod daemon;
mod esx;
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
mod simulation;
mod simulator;
mod storage;
